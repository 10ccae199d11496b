"""Under `door-gateway run` the link has the core's uid: it is known by its descent."""

import asyncio
import os
import socket
import sys
from pathlib import Path

import pytest

from gateway.ipc.ancestry import descends_from, is_own
from gateway.ipc.client import connect
from gateway.ipc.messages import Order
from gateway.ipc.rights import Peer, Rights, has_ended, rights_of
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


ESCAPES = """
import os, sys
if "double" in sys.argv:
    if os.fork(): os._exit(0)
    os.setsid()
    if os.fork(): os._exit(0)
elif "chain" in sys.argv:
    if pid := os.fork():
        os.waitpid(pid, 0)
        os._exit(0)
"""

SERVES = """
import asyncio, os, sys
from pathlib import Path
from gateway.ipc.server import CoreServer
from gateway.lifeline import keep_descendants
from tests.ipc.memory import MemoryCore
async def main():
    keep_descendants()
    core = MemoryCore()
    server = CoreServer(Path(sys.argv[1]), core, shuts_out_own=True)
    task = asyncio.create_task(server.run())
    await server.listening.wait()
    reading, writing = os.pipe()
    worker = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", sys.argv[2], sys.argv[1], sys.argv[3]), stdout=writing
    )
    os.close(writing)
    said = await asyncio.to_thread(open(reading).read)
    print("worker:", repr(said), core.orders, flush=True)
    await asyncio.to_thread(sys.stdin.readline)
asyncio.run(main())
"""


@pytest.mark.parametrize("way", ["straight", "double", "chain"])
async def test_what_the_core_has_started_may_not_use_its_socket(tmp_path: Path, way: str) -> None:
    path = tmp_path / "run" / "core.sock"
    asks = ASKS.replace("        await core.status()\n", "")
    asks = asks.replace("asyncio.run(main())", "")
    asks += "try: asyncio.run(main())\nexcept IpcError as refused: print(refused)\n"
    core = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", SERVES, str(path), ESCAPES + asks, way),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert core.stdout is not None
    assert core.stdin is not None
    said = b""
    while not said.startswith(b"worker:"):  # logs come before it
        said = await core.stdout.readline()
        assert said
    assert b"is a worker of the core" in said
    assert said.endswith(b" []\n"), "no order of the worker was taken"
    async with connect(path, role="cli") as operator:
        await operator.order(Order(scope="site", id="", mode="lockdown", why="drill"))
    core.stdin.close()
    await core.wait()


async def test_a_worker_that_ends_at_once_is_refused_too(tmp_path: Path) -> None:
    child = await asyncio.create_subprocess_exec("true")
    assert is_own(child.pid)
    await child.wait()
    assert is_own(child.pid), "whoever is gone may have been one"
    assert not is_own(os.getpid())
    assert not is_own(os.getppid())
    assert not is_own(1)
    assert not is_own(0)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        connects = "import socket, sys; s = socket.socket(1); s.connect(sys.argv[1]); "
        short = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", connects, str(tmp_path / "s"))
        )
        await short.wait()
        accepted, _ = listener.accept()
        with accepted:
            if _has_peer_pidfd():
                assert has_ended(accepted)
        with socket.socket(socket.AF_UNIX) as own:
            own.connect(str(tmp_path / "s"))
            accepted, _ = listener.accept()
            with accepted:
                assert not has_ended(accepted)


def _has_peer_pidfd() -> bool:
    here, there = socket.socketpair()
    with here, there:
        try:
            os.close(here.getsockopt(socket.SOL_SOCKET, 77))
        except OSError:
            return False
        return True
