"""What a core has started may order nothing: a worker that was taken over stays a worker."""

import sys
from pathlib import Path

import pytest

from gateway.ipc.client import connect
from gateway.ipc.messages import Order
from tests.process.rig import Daemon, spawn, standing_rig, until

pytestmark = pytest.mark.process

# The core as `door-gateway core` runs it, and one more child of it beside its workers.
CORE_WITH_A_STRANGER = """
import subprocess, sys, threading, time
from pathlib import Path
from gateway.cli import main
def start():
    while not Path(sys.argv[3]).exists(): time.sleep(0.01)  # its workers start no sooner
    subprocess.Popen([sys.executable, "-c", sys.argv[2], sys.argv[3], sys.argv[4]])
threading.Thread(target=start, daemon=True).start()
sys.exit(main(["core", "--config", sys.argv[1]]))
"""

TAKEN_OVER = """
import asyncio, os, sys
from pathlib import Path
from gateway.errors import IpcError
from gateway.ipc.client import connect
from gateway.ipc.messages import Order
if os.fork(): os._exit(0)
os.setsid()
if os.fork(): os._exit(0)
async def main():
    async with connect(Path(sys.argv[1]), role="cli") as core:
        order = Order(scope="door", id="front", mode="unlocked", why="taken over", seconds=60)
        return f"modes {(await core.order(order)).modes}"
try: said = asyncio.run(main())
except IpcError as refused: said = str(refused)
Path(sys.argv[2]).with_suffix(".part").write_text(said)
Path(sys.argv[2]).with_suffix(".part").rename(sys.argv[2])
"""


async def test_a_taken_over_worker_can_order_no_door_open(tmp_path: Path) -> None:
    async with standing_rig(tmp_path) as rig:
        await rig.imported()
        log, said = tmp_path / "core.log", tmp_path / "said"
        process = await spawn(
            *(sys.executable, "-c", CORE_WITH_A_STRANGER, str(rig.config)),
            *(TAKEN_OVER, str(rig.socket), str(said)),
            log=log,
        )
        core = Daemon(process, log)
        rig._daemons.append(core)
        await rig.ready(core)
        await until("the worker was answered", said.exists)
        assert "is a worker of the core" in said.read_text()
        assert not rig.is_released("front")
        assert "worker of the core" in log.read_text()
        async with connect(rig.socket, role="cli") as operator:
            drill = Order(scope="door", id="front", mode="unlocked", why="drill", seconds=60)
            assert (await operator.order(drill)).modes["front"] == "unlocked"
        assert await core.stop() == 0
