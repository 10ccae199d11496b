"""Under `door-gateway run` the link has the core's uid: it is known by its descent."""

import asyncio
import os
import sys
from pathlib import Path

from gateway.ipc.ancestry import descends_from
from gateway.ipc.client import connect
from gateway.ipc.messages import Order
from gateway.ipc.rights import Peer, Rights, rights_of
from gateway.ipc.server import CoreServer
from tests.ipc.memory import MemoryCore

OWN = Peer(os.geteuid(), os.getegid(), os.getpid())

ASKS = """
import asyncio, sys
from pathlib import Path
from gateway.errors import IpcError
from gateway.ipc.client import connect
from gateway.ipc.messages import Order
async def main():
    async with connect(Path(sys.argv[1]), role="link") as core:
        await core.status()
        try:
            await core.order(Order(scope="site", id="", mode="evacuation", why="taken over"))
        except IpcError as refused:
            print(refused)
asyncio.run(main())
"""

SUPERVISES = """
import os, subprocess, sys, time
from gateway.lifeline import keep_descendants, reap_orphans
keep_descendants()
escape = (
    "import os, time\\n"
    "if os.fork(): os._exit(0)\\n"
    "os.setsid()\\n"
    "if os.fork(): os._exit(0)\\n"
    "print(os.getpid(), flush=True)\\n"
    "input()"
)
child = subprocess.Popen([sys.executable, "-c", escape], stdin=sys.stdin)
child.wait()
while True:
    reap_orphans(set())
    if not open(f"/proc/self/task/{os.getpid()}/children").read().split():
        break
    time.sleep(0.01)
print("all buried", flush=True)
"""


async def test_what_a_supervisor_starts_has_the_links_rights(tmp_path: Path) -> None:
    path, core = tmp_path / "run" / "core.sock", MemoryCore()
    server = CoreServer(path, core, supervisor=os.getpid())
    task = asyncio.create_task(server.run())
    await server.listening.wait()
    try:
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-c", ASKS, str(path), stdout=asyncio.subprocess.PIPE
        )
        said, _ = await child.communicate()
        assert b"may not ask for Order" in said
        assert core.orders == []
        async with connect(path, role="cli") as operator:  # no descendant: as ever
            await operator.order(Order(scope="site", id="", mode="lockdown", why="drill"))
        assert len(core.orders) == 1
    finally:
        task.cancel()
        await asyncio.wait({task})


async def test_a_descendant_stays_one_whoever_dies_in_between() -> None:
    supervisor = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", SUPERVISES),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert supervisor.stdout is not None
    escaped = int(await supervisor.stdout.readline())
    assert descends_from(escaped, supervisor.pid) is True
    peer = Peer(OWN.uid, OWN.gid, escaped)
    assert rights_of(peer, own=OWN, supervisor=supervisor.pid) is Rights.LINK
    assert rights_of(peer, own=OWN) is Rights.ALL, "without a supervisor as ever"
    said, _ = await supervisor.communicate(b"\n")
    assert said == b"all buried\n"


def test_descent_is_read_from_the_kernel(tmp_path: Path) -> None:
    assert descends_from(os.getpid(), os.getppid()) is True
    assert descends_from(os.getpid(), os.getpid()) is False
    assert descends_from(os.getppid(), os.getpid()) is False
    for pid, stat in ((7, "7 (a) b) S 5 7 7"), (5, "5 (x) S 1 5 5"), (1, "1 (init) S 0 1 1")):
        (tmp_path / str(pid)).mkdir()
        (tmp_path / str(pid) / "stat").write_text(stat)
    assert descends_from(7, 5, tmp_path) is True
    assert descends_from(7, 1, tmp_path) is True
    assert descends_from(7, 9, tmp_path) is False
    assert descends_from(8, 5, tmp_path) is None, (
        "a process that is gone has no rights but the link's"
    )
    gone = Peer(OWN.uid, OWN.gid, 2**22 + 1)
    assert rights_of(gone, own=OWN, supervisor=os.getpid()) is Rights.LINK
