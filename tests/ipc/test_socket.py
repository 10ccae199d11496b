# ruff: noqa: ASYNC240 - a test may touch a file on tmpfs without a thread
import asyncio
import os
import pwd
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, closing
from pathlib import Path

import msgspec
import pytest

from gateway.errors import IpcError, RecordsRefused
from gateway.ipc import client as client_module
from gateway.ipc import server as server_module
from gateway.ipc.client import connect
from gateway.ipc.framing import FRAME_BYTES_MAX, Framing, frame
from gateway.ipc.messages import (
    Acknowledge,
    Answer,
    Cancel,
    Deliver,
    Events,
    Fetch,
    Forgive,
    Hello,
    ImportBegin,
    ImportChunk,
    ImportEnd,
    MusterWanted,
    Order,
    PreviewWanted,
    Problem,
    Request,
    RequestBody,
    SessionSaid,
    StatusWanted,
    WatchDoors,
    WatchOutbox,
    Welcome,
    decode_answer,
    encode,
)
from gateway.ipc.rights import Peer, Rights, rights_of
from gateway.ipc.server import REQUESTS_OPEN_MAX, CoreServer
from tests.ipc.memory import MemoryCore, door_state


@asynccontextmanager
async def serving(path: Path, core: MemoryCore) -> AsyncIterator[CoreServer]:
    server = CoreServer(path, core)
    task = asyncio.create_task(server.run())
    try:
        listening = asyncio.create_task(server.listening.wait())
        await asyncio.wait({task, listening}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            listening.cancel()
            await task
        yield server
    finally:
        task.cancel()
        await asyncio.wait({task})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run" / "core.sock"


class RawClient:
    """Says whatever a test wants said."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.connect(str(path))
        self.socket.setblocking(False)
        self._framing = Framing()
        self._got: list[Answer] = []

    async def say(self, *requests: Request) -> None:
        data = b"".join(frame(encode(request)) for request in requests)
        await self.say_bytes(data)

    async def say_bytes(self, data: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self.socket, data)

    async def hear(self) -> Answer | None:
        """The next answer; None at the end of the connection."""
        async with asyncio.timeout(5):
            while not self._got:
                try:
                    data = await asyncio.get_running_loop().sock_recv(self.socket, 65536)
                except ConnectionResetError:
                    return None
                if not data:
                    return None
                self._got += [decode_answer(body) for body in self._framing.feed(data)]
        return self._got.pop(0)

    def close(self) -> None:
        self.socket.close()


async def greeted(path: Path, raws: ExitStack) -> RawClient:
    raw = opened(path, raws)
    await raw.say(Request(1, Hello(version=1, role="test")))
    answer = await raw.hear()
    assert answer is not None
    assert isinstance(answer.body, Welcome)
    return raw


def opened(path: Path, raws: ExitStack) -> RawClient:
    return raws.enter_context(closing(RawClient(path)))


@pytest.fixture
def raws() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


# --- Orders ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["", " ", 'Anna", claims', "a\nb", "a\x1b[2Jb", "a\u202eb", "a\x00"]
)
@pytest.mark.parametrize("member", ["login", "claimed"])
async def test_a_name_that_cant_be_journaled_is_refused(
    path: Path, raws: ExitStack, member: str, name: str
) -> None:
    async with serving(path, MemoryCore()):
        raw = opened(path, raws)
        await raw.say(Request(1, Hello(version=1, role="door", **{member: name})))
        answer = await raw.hear()
        assert answer is not None
        assert isinstance(answer.body, Problem)
        assert "a name has 1 to 64 printable characters and no quotes" in answer.body.text
        assert await raw.hear() is None


async def test_an_order_is_carried_out_in_the_name_of_the_person(path: Path) -> None:
    core = MemoryCore()
    async with serving(path, core), connect(path, role="door", claimed="Anna B.") as client:
        order = Order(scope="site", id="", mode="lockdown", why="drill")
        assert (await client.order(order)).modes == {"street": "lockdown"}
        assert (await client.forgive(Forgive(holder="h", why="lost"))).forgotten == 1
        assert len({by for _, by in core.orders}) == 1
        user = pwd.getpwuid(os.geteuid()).pw_name
        by = core.orders[0][1]
        assert user in by.partition(", claims")[0]
        assert by.endswith(', claims to be "Anna B."')
        assert (await client.muster()).zones == []
        assert (await client.preview("street")).mode == "controlled"
        with pytest.raises(IpcError, match="no door"):
            await client.order(Order(scope="door", id="nowhere", mode="lockdown", why="drill"))


@pytest.mark.parametrize(
    "body",
    [
        Order(scope="site", id="", mode="evacuation", why="drill"),
        Forgive(holder="h", why="lost"),
        MusterWanted(),
        PreviewWanted(door="street"),
    ],
)
def test_the_link_can_order_nothing(body: Order | Forgive | MusterWanted | PreviewWanted) -> None:
    assert not Rights.LINK.allows(body)
    assert Rights.ALL.allows(body)


# --- Events ---------------------------------------------------------------------------------------


async def test_events_are_read_acknowledged_and_waited_for(path: Path) -> None:
    core = MemoryCore()
    core.record(3)
    async with serving(path, core), connect(path, role="link") as client:
        events = await client.fetch(1, limit=5)
        assert (events.stream, events.first_seq, events.bodies) == ("s-1", 2, core.bodies[1:])
        assert await client.acknowledge("s-1", 2) == 2
        assert await client.acknowledge("other", 3) == 2

        waiting = asyncio.create_task(client.fetch(3, wait_s=30))
        await client.status()  # the core has seen the fetch by now
        assert not waiting.done()
        core.record()
        assert (await waiting).first_seq == 4


async def test_a_fetch_that_waited_in_vain_is_answered_empty(path: Path) -> None:
    async with serving(path, MemoryCore()), connect(path, role="link") as client:
        events = await client.fetch(0, wait_s=0.01)
        assert (events.first_seq, events.bodies) == (1, [])


async def test_an_answer_is_cut_to_the_bytes_wanted_but_never_to_nothing(path: Path) -> None:
    core = MemoryCore()
    core.record(10)
    async with serving(path, core), connect(path, role="link") as client:
        two = len(core.bodies[0]) + len(core.bodies[1])
        assert len((await client.fetch(0, bytes_max=two)).bodies) == 2
        assert len((await client.fetch(0, bytes_max=1)).bodies) == 1


async def test_an_abandoned_fetch_ends_in_the_core_too(path: Path) -> None:
    core = MemoryCore()
    async with serving(path, core), connect(path, role="link") as client:
        for _ in range(3 * REQUESTS_OPEN_MAX):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.002):
                    await client.fetch(0, wait_s=60)
        assert (await client.status()).last_seq == 0


# --- Doors, status, import ------------------------------------------------------------------------


async def test_a_watcher_sees_every_door_now_and_each_change(path: Path) -> None:
    core = MemoryCore()
    core.doors.report(door_state("street"))
    core.doors.report(door_state("lounge"))
    async with serving(path, core), connect(path, role="link") as client:
        states = client.watch_doors()
        seen = {(await anext(states)).door, (await anext(states)).door}
        assert seen == {"street", "lounge"}
        core.doors.report(door_state("street", "open"))
        assert await anext(states) == door_state("street", "open")
        await states.aclose()
        assert (await client.status()).doors["street"].contact == "open"


async def test_status_arrives_as_the_core_gave_it(path: Path) -> None:
    core = MemoryCore()
    async with serving(path, core), connect(path, role="cli") as client:
        assert await client.status() == await core.status()


async def test_a_file_of_records_arrives_whole(path: Path) -> None:
    core = MemoryCore()
    records = os.urandom(700_000)
    async with serving(path, core), connect(path, role="cli") as client:
        done = await client.import_records(records)
        assert (done.revision, done.counts, done.warnings) == (
            "r-8",
            {"grant": 1},
            ["no holiday set"],
        )
        with pytest.raises(RecordsRefused) as refused:
            await client.import_records(b"bad")
        assert refused.value.faults == (("grant", "g-1", "door", "no such door"),)
    assert core.imported == [records]
    assert [entry.name for entry in path.parent.iterdir()] == []


async def test_a_file_other_than_the_announced_one_is_refused(path: Path, raws: ExitStack) -> None:
    core = MemoryCore()
    async with serving(path, core):
        raw = await greeted(path, raws)
        begin = ImportBegin(size=4, sha256="0" * 64)
        await raw.say(Request(2, begin), Request(3, ImportChunk(data=b"abcd")))
        await raw.say(Request(4, ImportEnd()))
        answers = [await raw.hear() for _ in range(3)]
        assert "SHA-256" in problem_of(answers[2])
        await raw.say(Request(5, begin), Request(6, ImportChunk(data=b"abcde")))
        answers = [await raw.hear() for _ in range(2)]
        assert "more than the 4 bytes" in problem_of(answers[1])
    assert core.imported == []


async def test_two_imports_do_not_mix_and_a_lost_client_frees_the_way(
    path: Path, raws: ExitStack
) -> None:
    core = MemoryCore()
    async with serving(path, core):
        raw = await greeted(path, raws)
        await raw.say(Request(2, ImportBegin(size=4, sha256="0" * 64)))
        await raw.hear()
        async with connect(path, role="cli") as client:
            with pytest.raises(IpcError, match="another import is running"):
                await client.import_records(b"good")
            raw.socket.close()
            async with asyncio.timeout(5):
                while not core.imported:
                    try:
                        await client.import_records(b"good")
                    except IpcError:
                        await asyncio.sleep(0)


def problem_of(answer: Answer | None) -> str:
    assert answer is not None
    assert isinstance(answer.body, Problem)
    return answer.body.text


# --- What a client may not do ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("peer", "own", "rights"),
    [
        (Peer(0, 0), Peer(990, 990), Rights.ALL),
        (Peer(990, 990), Peer(990, 990), Rights.ALL),
        (Peer(990, 100), Peer(990, 990), Rights.ALL),
        (Peer(991, 990), Peer(990, 990), Rights.LINK),
        (Peer(992, 992), Peer(990, 990), None),
        (Peer(990 + 1, 990 + 1), Peer(0, 0), None),
        # As a user namespace that maps root and the core's own user and group shows them.
        (Peer(65534, 990), Peer(990, 990), Rights.LINK),
        (Peer(65534, 65534), Peer(990, 990), None),
        # Whoever is nobody may be anybody.
        (Peer(65534, 65534), Peer(65534, 65534), None),
    ],
)
def test_rights_go_by_the_user_and_the_group_of_the_peer(
    peer: Peer, own: Peer, rights: Rights | None
) -> None:
    assert rights_of(peer, own=own) is rights


def test_link_may_do_what_it_is_for_and_nothing_else() -> None:
    allowed: list[RequestBody] = [
        Hello(version=1, role="link"),
        Cancel(),
        Fetch(after=0),
        Acknowledge(stream="s", seq=1),
        Deliver(topic="cmd", sealed=b"x"),
        SessionSaid(there=True),
        WatchOutbox(),
        WatchDoors(),
        StatusWanted(),
    ]
    assert all(Rights.LINK.allows(request) for request in allowed)
    refused: list[RequestBody] = [
        ImportBegin(size=1, sha256="0" * 64),
        ImportChunk(data=b"x"),
        ImportEnd(),
    ]
    assert not any(Rights.LINK.allows(request) for request in refused)


_AS_ANOTHER = """
import asyncio, os, sys
from pathlib import Path
from gateway.errors import IpcError
from gateway.ipc.client import connect

uid, gid = int(sys.argv[2]), int(sys.argv[3])
os.setgroups([]); os.setresgid(gid, gid, gid); os.setresuid(uid, uid, uid)

async def main():
    try:
        async with connect(Path(sys.argv[1]), role="test") as client:
            print("status", (await client.status()).site)
            await client.import_records(b"good")
            print("imported")
    except IpcError as error:
        print(type(error).__name__, error)

asyncio.run(main())
"""

ANOTHER = 65533
"""Neither root nor anybody's of this test."""


@pytest.fixture
def common() -> Iterator[Path]:
    """A directory that others may enter; pytest's own are root's alone."""
    with tempfile.TemporaryDirectory(prefix="door-gateway-") as made:
        directory = Path(made)
        directory.chmod(0o755)
        yield directory


@pytest.mark.process
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
async def test_a_process_of_another_user_gets_what_its_group_may(common: Path) -> None:
    path = common / "run" / "core.sock"
    core = MemoryCore()
    async with serving(path, core):
        path.parent.chmod(0o755)
        path.chmod(0o666)  # the file's mode out of the way: the kernel's word on the peer is tested
        refused = f"uid {ANOTHER} may not use this socket"
        assert refused in await run_as(ANOTHER, ANOTHER, path)
        said = await run_as(ANOTHER, os.getegid(), path)
        assert "status LON" in said
        assert "NotAllowed" in said
        assert f"uid {ANOTHER} may not ask for ImportBegin" in said
    assert core.imported == []


async def run_as(uid: int, gid: int, path: Path) -> str:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        _AS_ANOTHER,
        str(path),
        str(uid),
        str(gid),
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(Path.cwd()), "PYTHONDONTWRITEBYTECODE": "1"},
    )
    async with asyncio.timeout(20):
        out, _ = await process.communicate()
    return out.decode()


_IN_A_NAMESPACE = """
import asyncio, concurrent.futures.thread, ctypes, os, sys
from pathlib import Path
from gateway.ipc.server import CoreServer
from tests.ipc.memory import MemoryCore

CLONE_NEWUSER = 0x10000000  # unshare(2)
path, own = Path(sys.argv[1]), int(sys.argv[2])
libc = ctypes.CDLL(None, use_errno=True)
if libc.unshare(CLONE_NEWUSER):
    print("no namespace:", os.strerror(ctypes.get_errno()), flush=True)
    sys.exit()
print("unshared", flush=True)
sys.stdin.readline()
os.setresgid(own, own, own); os.setresuid(own, own, own)

async def main():
    server = CoreServer(path, MemoryCore())
    task = asyncio.create_task(server.run())
    await server.listening.wait()
    path.parent.chmod(0o755)
    path.chmod(0o666)
    print("listening", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    task.cancel()
    await asyncio.wait({task})

asyncio.run(main())
"""
"""A core in a user namespace as `PrivateUsers=yes` makes it."""


@pytest.mark.process
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can write a mapping of several users")
async def test_root_the_own_user_and_the_own_group_outlive_private_users(common: Path) -> None:
    own = 64001
    os.chown(common, own, own)
    path = common / "run" / "core.sock"
    server = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        _IN_A_NAMESPACE,
        str(path),
        str(own),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(Path.cwd()), "PYTHONDONTWRITEBYTECODE": "1"},
    )
    assert server.stdin is not None
    assert server.stdout is not None
    try:
        async with asyncio.timeout(20):
            said = (await server.stdout.readline()).decode()
            if not said.startswith("unshared"):
                pytest.skip(said)
            mapping = f"0 0 1\n{own} {own} 1\n"
            try:
                Path(f"/proc/{server.pid}/uid_map").write_text(mapping)
                Path(f"/proc/{server.pid}/gid_map").write_text(mapping)
            except OSError as error:
                pytest.skip(f"no mapping: {error}")
            server.stdin.write(b"\n")
            assert await server.stdout.readline() == b"listening\n"
        assert "imported" in await run_as(0, 0, path)
        assert "imported" in await run_as(own, own, path)
        assert "may not ask for ImportBegin" in await run_as(ANOTHER, own, path)
        assert "uid 65534 may not use this socket" in await run_as(ANOTHER, ANOTHER, path)
        server.stdin.write(b"\n")
    finally:
        server.stdin.close()
        async with asyncio.timeout(5):
            await server.wait()


async def test_another_version_of_the_protocol_is_told_so(path: Path, raws: ExitStack) -> None:
    async with serving(path, MemoryCore()):
        raw = opened(path, raws)
        await raw.say(Request(1, Hello(version=2, role="cli")))
        assert "install the same release" in problem_of(await raw.hear())
        assert await raw.hear() is None


async def test_nothing_is_answered_before_hello(path: Path, raws: ExitStack) -> None:
    async with serving(path, MemoryCore()):
        raw = opened(path, raws)
        await raw.say(Request(1, StatusWanted()))
        assert "must be Hello" in problem_of(await raw.hear())
        assert await raw.hear() is None


async def test_a_silent_client_is_let_go(
    path: Path, raws: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "HELLO_S_MAX", 0.05)
    async with serving(path, MemoryCore()):
        raw = opened(path, raws)
        assert "no Hello" in problem_of(await raw.hear())
        assert await raw.hear() is None


@pytest.mark.parametrize(
    "data",
    [
        (FRAME_BYTES_MAX + 1).to_bytes(4),
        frame(b"\xc1"),
        frame(msgspec.msgpack.encode([2, {"m": "open_all_doors"}])),
        frame(msgspec.msgpack.encode([2, {"m": "fetch", "after": -1}])),
        frame(msgspec.msgpack.encode([2, {"m": "fetch", "after": 0, "limit": 10**9}])),
        frame(msgspec.msgpack.encode([2, {"m": "acknowledge", "stream": "s", "seq": 2**63}])),
        frame(encode(Request(2, Hello(version=1, role="again")))),
    ],
)
async def test_a_client_that_breaks_the_protocol_hurts_only_itself(
    path: Path, raws: ExitStack, data: bytes
) -> None:
    core = MemoryCore()
    async with serving(path, core), connect(path, role="link") as other:
        raw = await greeted(path, raws)
        await raw.say_bytes(data)
        assert problem_of(await raw.hear())
        assert (await other.status()).acknowledged_seq == 0


async def test_a_client_that_does_not_read_is_disconnected_and_blocks_nobody(
    path: Path, raws: ExitStack
) -> None:
    core = MemoryCore()
    core.bodies = [b'"' + b"x" * 100_000 + b'"'] * 100
    async with serving(path, core), connect(path, role="link") as other:
        raw = await greeted(path, raws)
        numbers = iter(range(2, 10_000))
        gone = False
        async with asyncio.timeout(20):
            while not gone:
                wanted = [Request(next(numbers), Fetch(after=0)) for _ in range(REQUESTS_OPEN_MAX)]
                try:
                    await raw.say(*wanted)
                except (BrokenPipeError, ConnectionResetError):
                    gone = True
                assert (await other.status()).last_seq == 100
        assert len((await other.fetch(0)).bodies) >= 1


async def test_a_client_with_too_many_requests_open_waits_for_its_own(
    path: Path, raws: ExitStack
) -> None:
    core = MemoryCore()
    async with serving(path, core), connect(path, role="link") as other:
        raw = await greeted(path, raws)
        many = [Request(n, Fetch(after=0, wait_s=60)) for n in range(2, 2 + 2 * REQUESTS_OPEN_MAX)]
        await raw.say(*many)
        assert (await other.status()).last_seq == 0
        core.record()
        answers = [await raw.hear() for _ in many]
        assert {answer.number for answer in answers if answer} == {r.number for r in many}
        assert all(answer and isinstance(answer.body, Events) for answer in answers)


async def test_one_client_too_many_is_told_so(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "CLIENTS_MAX", 1)
    async with serving(path, MemoryCore()), connect(path, role="link") as first:
        with pytest.raises(IpcError, match="1 clients are connected already"):
            async with connect(path, role="cli"):
                pass
        await first.status()


# --- The socket file ------------------------------------------------------------------------------


async def test_the_socket_is_made_private_and_removed_at_the_end(path: Path) -> None:
    async with serving(path, MemoryCore()):
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o750
    assert not path.exists()


async def test_the_socket_of_a_killed_core_is_replaced(path: Path) -> None:
    path.parent.mkdir()
    left = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    left.bind(str(path))
    left.close()
    async with serving(path, MemoryCore()), connect(path, role="cli") as client:
        await client.status()


async def test_the_socket_of_a_living_core_is_left_alone(path: Path) -> None:
    async with serving(path, MemoryCore()):
        with pytest.raises(IpcError, match="another core"):
            async with serving(path, MemoryCore()):
                pass
        async with connect(path, role="cli") as client:
            await client.status()


async def test_a_file_in_the_way_is_named(path: Path) -> None:
    path.parent.mkdir()
    path.write_text("precious")
    with pytest.raises(IpcError, match="is no socket"):
        async with serving(path, MemoryCore()):
            pass
    assert path.read_text() == "precious"


async def test_without_a_core_the_client_says_what_to_do(path: Path) -> None:
    with pytest.raises(IpcError, match="is `door-gateway core` running"):
        async with connect(path, role="cli"):
            pass


async def test_a_client_learns_at_once_that_the_core_is_gone(path: Path) -> None:
    core = MemoryCore()
    async with asyncio.timeout(5):
        async with serving(path, core):
            client_context = connect(path, role="link")
            client = await client_context.__aenter__()
            waiting = asyncio.create_task(client.fetch(0, wait_s=60))
            states = client.watch_doors()
            watching = asyncio.create_task(anext(states))
            await client.status()
        with pytest.raises(IpcError, match="closed the connection"):
            await waiting
        with pytest.raises(IpcError, match="closed the connection"):
            await watching
        with pytest.raises(IpcError, match="closed the connection"):
            await client.status()
        await client_context.__aexit__(None, None, None)


async def test_a_core_that_does_not_answer_is_not_waited_for(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "ANSWER_S_MAX", 0.05)
    core = MemoryCore()
    async with serving(path, core), connect(path, role="cli") as client:
        with core.hanging(), pytest.raises(IpcError, match="no answer to StatusWanted"):
            await client.status()
        assert (await client.status()).site == "LON"
