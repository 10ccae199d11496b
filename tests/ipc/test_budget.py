"""A taken-over link, and floods of clients: an operator is heard, and no door waits."""

import asyncio
import socket
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path

import msgspec
import pytest
import structlog

from gateway.errors import IpcError
from gateway.ipc import server as server_module
from gateway.ipc.budget import BYTES_A_SECOND, BYTES_AT_ONCE, LinkBudget
from gateway.ipc.client import connect
from gateway.ipc.framing import FRAME_BYTES_MAX, frame
from gateway.ipc.messages import Deliver, Delivered, Order, Request, Status, StatusWanted, encode
from gateway.ipc.rights import Peer, Rights
from gateway.ipc.server import CLIENTS_MAX, LINK_CLIENTS_MAX, REQUESTS_OPEN_MAX, ROOT_PLACES
from tests.ipc.memory import MemoryCore
from tests.ipc.test_socket import greeted, opened, serving

LOCKDOWN = Order(scope="site", id="", mode="lockdown", why="police on site")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run" / "core.sock"


@pytest.fixture
def raws() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


class Who:
    """Whom the kernel takes the next peer for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.rights: Rights | None = Rights.ALL
        self.uid = 0
        monkeypatch.setattr(server_module, "rights_of", lambda _peer, **_own: self.rights)
        monkeypatch.setattr(server_module, "peer_of", lambda _socket: Peer(self.uid, 0))

    def link(self) -> None:
        self.rights, self.uid = Rights.LINK, 12_345

    def nobody(self) -> None:
        self.rights, self.uid = None, 54_321

    def own_user(self) -> None:
        self.rights, self.uid = Rights.ALL, 999

    def root(self) -> None:
        self.rights, self.uid = Rights.ALL, 0


@pytest.fixture
def who(monkeypatch: pytest.MonkeyPatch) -> Who:
    return Who(monkeypatch)


async def lockdown_within(path: Path, seconds: float) -> None:
    async with asyncio.timeout(seconds), connect(path, role="cli") as operator:
        assert (await operator.order(LOCKDOWN)).modes == {"street": "lockdown"}


class Busy(MemoryCore):
    """Counts what is asked for at the same time."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = self.statuses = self.judged = 0

    async def deliver(self, deliver: Deliver) -> Delivered:
        self.now += 1
        self.most = max(self.most, self.now)
        await asyncio.sleep(0.001)
        self.now -= 1
        self.judged += 1
        return await super().deliver(deliver)

    async def status(self) -> Status:
        self.statuses += 1
        return await super().status()


# --- Places ---------------------------------------------------------------------------------------


async def test_links_hold_only_their_own_places(path: Path, who: Who) -> None:
    async with serving(path, MemoryCore()), AsyncExitStack() as links:
        who.link()
        for _ in range(LINK_CLIENTS_MAX):
            await links.enter_async_context(connect(path, role="link"))
        with pytest.raises(IpcError, match=f"{LINK_CLIENTS_MAX} links are connected already"):
            async with connect(path, role="link"):
                pass
        who.root()
        await lockdown_within(path, 5)


async def test_a_link_that_ends_makes_room_for_the_next(path: Path, who: Who) -> None:
    async with serving(path, MemoryCore()):
        who.link()
        for _ in range(3 * LINK_CLIENTS_MAX):
            async with connect(path, role="link") as link:
                await link.status()


async def test_the_cores_own_user_leaves_places_for_root(path: Path, who: Who) -> None:
    async with serving(path, MemoryCore()), AsyncExitStack() as others:
        who.own_user()
        for _ in range(CLIENTS_MAX - ROOT_PLACES):
            await others.enter_async_context(connect(path, role="cli"))
        with pytest.raises(IpcError, match="clients are connected already"):
            async with connect(path, role="cli"):
                pass
        who.root()
        await lockdown_within(path, 5)


@pytest.mark.parametrize("whose", ["link", "nobody", "own_user"])
async def test_a_thousand_half_open_connections_keep_no_operator_out(
    path: Path, raws: ExitStack, who: Who, whose: str
) -> None:
    async with serving(path, MemoryCore()) as server:
        getattr(who, whose)()
        clients = []
        for _ in range(1_000):
            client = raws.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            client.setblocking(False)
            while True:
                try:
                    client.connect(str(path))
                    break
                except BlockingIOError:  # the queue is full: the flood waits as an operator would
                    await asyncio.sleep(0.001)
            clients.append(client)
            assert len(server._connections) <= CLIENTS_MAX
            assert len(server._refused) <= server_module.REFUSED_MAX
        who.root()  # for the last hundred of them as well, which changes nothing: none says Hello
        await lockdown_within(path, 5)


async def test_clients_that_say_nothing_give_way(path: Path, raws: ExitStack, who: Who) -> None:
    async with serving(path, MemoryCore()) as server:
        for _ in range(CLIENTS_MAX):
            opened(path, raws)
        while len(server._connections) < CLIENTS_MAX:  # noqa: ASYNC110 - a set has no event
            await asyncio.sleep(0.001)
        await lockdown_within(path, 5)


async def test_refused_clients_are_told_of_once_in_a_while(path: Path, who: Who) -> None:
    with structlog.testing.capture_logs() as logs:
        async with serving(path, MemoryCore()):
            who.nobody()
            for _ in range(20):
                with pytest.raises(IpcError):
                    async with connect(path, role="link"):
                        pass
    assert len([log for log in logs if log["event"] == "ipc_client_refused"]) == 1


# --- Work -----------------------------------------------------------------------------------------


async def test_what_links_ask_for_is_done_one_piece_at_a_time(path: Path, who: Who) -> None:
    core = Busy()
    async with serving(path, core), AsyncExitStack() as links:
        who.link()
        clients = [
            await links.enter_async_context(connect(path, role="link"))
            for _ in range(LINK_CLIENTS_MAX)
        ]
        command = Deliver(topic="cmd", sealed=b"x" * 2_000)
        await asyncio.gather(
            *(client.deliver(command) for client in clients for _ in range(REQUESTS_OPEN_MAX))
        )
    assert core.most == 1
    assert core.judged == LINK_CLIENTS_MAX * REQUESTS_OPEN_MAX


async def test_an_operators_requests_wait_for_no_link(path: Path, who: Who) -> None:
    core = Busy()
    async with serving(path, core), AsyncExitStack() as links:
        who.link()
        link = await links.enter_async_context(connect(path, role="link"))

        async def flood() -> None:
            while True:
                await link.deliver(Deliver(topic="cmd", sealed=b"x"))

        flooding = [asyncio.create_task(flood()) for _ in range(30)]
        who.root()
        await asyncio.sleep(0.1)
        await lockdown_within(path, 5)
        for task in flooding:
            task.cancel()
        await asyncio.wait(flooding)


async def test_a_flood_of_questions_is_answered_from_one_status(path: Path, who: Who) -> None:
    core = Busy()
    async with serving(path, core):
        who.link()
        async with connect(path, role="link") as link:
            begun = time.monotonic()
            for _ in range(20):
                await asyncio.gather(*(link.status() for _ in range(10)))
            took = time.monotonic() - begun
    assert core.statuses <= 2 + took / 0.25


async def test_operators_always_get_a_new_status(path: Path, who: Who) -> None:
    core = Busy()
    async with serving(path, core), connect(path, role="cli") as operator:
        for _ in range(5):
            await operator.status()
    assert core.statuses == 5


def test_bytes_and_requests_are_paid_from_one_budget() -> None:
    budget = LinkBudget()
    assert budget.spend(BYTES_AT_ONCE, 100.0) == 0.0
    assert budget.spend(BYTES_A_SECOND, 100.0) == 1.0
    assert budget.spend(0, 101.0) == 0.0
    assert budget.spend(BYTES_AT_ONCE, 1_000.0) == 0.0, "rest adds up to what is given at once"
    assert budget.spend(1, 1_000.0) > 0.0


@pytest.mark.parametrize("size", [20, 512 * 1024])
async def test_a_link_that_never_stops_sending_is_read_as_fast_as_its_budget(
    path: Path, raws: ExitStack, who: Who, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.ipc.budget.BYTES_A_SECOND", 1024 * 1024)
    monkeypatch.setattr("gateway.ipc.budget.BYTES_AT_ONCE", 256 * 1024)
    core = Busy()
    async with serving(path, core):
        who.link()
        link = await greeted(path, raws)
        flood = frame(encode(Request(7, Deliver(topic="sync/chunk", sealed=b"x" * size))))
        sent, begun = 0, time.monotonic()
        while time.monotonic() - begun < 1.0:
            try:
                sent += link.socket.send(flood)
            except BlockingIOError:
                await asyncio.sleep(0.001)
            except (BrokenPipeError, ConnectionResetError):  # a number twice: refused, and again
                link = await greeted(path, raws)
            await asyncio.sleep(0)
        assert sent < 4 * 1024 * 1024, "what is not read stays with who sends it"
        who.root()
        await lockdown_within(path, 5)


HOSTILE = {
    "no UTF-8": frame(b"\x92\x02\x82\xa1m\xa5order\xa2id\xa2\xff\xfe"),
    "a name that is no UTF-8": frame(b"\x92\x02\x81\xa2\xff\xfe\x01"),
    "nested": frame(b"\x92\x02\x82\xa1m\xabstatus_want\xa1x" + b"\x91" * 100_000),
    "nested in an unknown member": frame(
        b"\x92\x02\x82\xa1m\xadstatus_wanted\xa1x" + b"\x91" * 100_000
    ),
    "an extension": frame(b"\x92\x02\xc7\x05\x01hello"),
    "a number beyond all": frame(b"\x92\xcf" + b"\xff" * 8 + b"\x81\xa1m\xadstatus_wanted"),
    "a huge frame announced": (FRAME_BYTES_MAX + 1).to_bytes(4, "big"),
    "nothing": (0).to_bytes(4, "big"),
}


@pytest.mark.parametrize("hostile", HOSTILE)
async def test_a_frame_that_can_not_be_read_is_refused(
    path: Path, raws: ExitStack, hostile: str, caplog: pytest.LogCaptureFixture
) -> None:
    core = MemoryCore()
    async with serving(path, core), connect(path, role="cli") as other:
        raw = await greeted(path, raws)
        await raw.say_bytes(HOSTILE[hostile])
        answer = await raw.hear()
        assert answer is not None
        assert answer.number == 0
        assert await raw.hear() is None
        assert (await other.status()).acknowledged_seq == 0
    assert not caplog.records, "the event loop has nothing to say of it"


async def test_many_small_frames_at_once_leave_the_loop_to_others(
    path: Path, raws: ExitStack, who: Who
) -> None:
    core = Busy()
    async with serving(path, core):
        who.link()
        raw = await greeted(path, raws)
        not_allowed = msgspec.msgpack.encode([9, {"m": "muster_wanted"}])
        await raw.say_bytes(frame(not_allowed) * 3_000)
        await raw.say(Request(10, StatusWanted()))
        who.root()
        async with connect(path, role="cli") as operator:
            await operator.order(LOCKDOWN)
            assert core.statuses == 0, "the flood is not through yet"
        for _ in range(3_000):
            answer = await raw.hear()
            assert answer is not None
            assert answer.number == 9
        answer = await raw.hear()
        assert answer is not None
        assert isinstance(answer.body, Status)
