"""A client's end of the socket: link, the console and the command line ask the core through it."""

import asyncio
import hashlib
import itertools
import socket
import struct
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

from gateway.errors import IpcError, NotAllowed, RecordFault, RecordsRefused, Undecodable
from gateway.ipc.framing import Framing, frame
from gateway.ipc.messages import (
    FETCH_BYTES_MAX,
    IMPORT_CHUNK_BYTES,
    PROTOCOL_VERSION,
    Acknowledge,
    Acknowledged,
    AnswerBody,
    Cancel,
    Deliver,
    Delivered,
    DoorStateReport,
    Erase,
    Erased,
    Events,
    ExportHead,
    ExportWanted,
    Fetch,
    FetchUrgent,
    Forgive,
    Hello,
    ImportBegin,
    ImportChunk,
    ImportDone,
    ImportEnd,
    ImportRefused,
    Muster,
    MusterWanted,
    Obeyed,
    Opened,
    OpenOnce,
    Order,
    Outgoing,
    Preview,
    PreviewWanted,
    Problem,
    Proceed,
    Proof,
    ProofRow,
    ProofWanted,
    ReportAck,
    Request,
    RequestBody,
    Sealed,
    SealWanted,
    SessionSaid,
    Status,
    StatusWanted,
    UrgentEvents,
    WatchDoors,
    WatchOutbox,
    Welcome,
    decode_answer,
    encode,
)
from gateway.ipc.person import own_login

CONNECT_S_MAX = 5
"""Whole seconds to be let in: behind a flood of others it takes a half."""

ANSWER_S_MAX = 30.0
"""A core that takes longer than this (beyond what it was asked to wait) is not answering."""

IMPORT_S_MAX = 600.0
"""The same for putting an import in force, which on a small box compiles a large set."""

ERASE_S_MAX = 600.0
"""The same for looking through a journal of a million events on a small box."""

_Wanted = TypeVar("_Wanted", bound=AnswerBody)


@asynccontextmanager
async def connect(
    path: Path, *, role: str, claimed: str | None = None
) -> AsyncIterator["CoreClient"]:
    """A connection to the core that serves `path`, for as long as the block runs.

    `claimed` is the name that the person gives, journaled with their orders.

    Raises:
        IpcError: Nobody serves it, or the core speaks another version.
        NotAllowed: The core refuses this user.
    """
    loop = asyncio.get_running_loop()
    try:
        try:
            opened = _opened(path, blocking=False)
        except BlockingIOError:  # many others wait to be let in
            opened = await asyncio.to_thread(_opened, path, blocking=True)
        transport, wire = await loop.create_unix_connection(_Wire, sock=opened)
    except PermissionError as failed:
        raise NotAllowed(f"{path}: this user may not connect to the core: {failed}") from failed
    except OSError as failed:
        raise IpcError(
            f"{path}: can't connect to the core ({failed}): is `door-gateway core` running?"
        ) from failed
    client = CoreClient(path, wire)
    try:
        await client.greet(role, claimed)
        yield client
    finally:
        transport.abort()


def _opened(path: Path, *, blocking: bool) -> socket.socket:
    """Connect to the core's socket. Raises OSError.

    Where many others wait to be let in, connect(2) waits up to CONNECT_S_MAX, or it fails at once.
    """
    opened = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        limit = struct.pack("ll", CONNECT_S_MAX, 0)  # struct timeval of socket(7)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
        opened.setblocking(blocking)
        opened.connect(str(path))
        opened.setblocking(False)
    except BaseException:
        opened.close()
        raise
    return opened


class CoreClient:
    """What a client can ask. Every method raises IpcError once the core is gone."""

    def __init__(self, path: Path, wire: "_Wire") -> None:
        self._path = path
        self._wire = wire

    async def greet(self, role: str, claimed: str | None = None) -> None:
        """Say Hello; `connect` has done it."""
        hello = Hello(version=PROTOCOL_VERSION, role=role, login=own_login(), claimed=claimed)
        await self._ask(hello, Welcome)

    async def fetch(
        self, after: int, *, limit: int = 100, bytes_max: int = FETCH_BYTES_MAX, wait_s: float = 0.0
    ) -> Events:
        """The journal's events after `after`, waiting up to `wait_s` seconds for the first."""
        wanted = Fetch(after=after, limit=limit, bytes_max=bytes_max, wait_s=wait_s)
        return await self._ask(wanted, Events, wait_s)

    async def fetch_urgent(
        self, after: int, *, limit: int = 20, wait_s: float = 0.0
    ) -> UrgentEvents:
        """Alarms and emergencies after `after`, waiting up to `wait_s` seconds for the first."""
        wanted = FetchUrgent(after=after, limit=limit, wait_s=wait_s)
        return await self._ask(wanted, UrgentEvents, wait_s)

    async def report_ack(self, stream: str, seq: int) -> None:
        """Tell the core of an acknowledgement that can't be right."""
        await self._ask(ReportAck(stream=stream, seq=seq), Acknowledged)

    async def acknowledge(self, stream: str, seq: int) -> int:
        """Tell the journal what the cloud has; up to where it counts as acknowledged now."""
        return (await self._ask(Acknowledge(stream=stream, seq=seq), Acknowledged)).seq

    async def export_head(self) -> ExportHead:
        """Where an export of the journal begins and ends."""
        return await self._ask(ExportWanted(), ExportHead)

    async def proof(self, after: int) -> list[ProofRow]:
        """The next events after `after` as they are chained."""
        return (await self._ask(ProofWanted(after=after), Proof)).rows

    async def seal(self, after: int, seq: int) -> bytes:
        """The gateway's signature on the events after `after` up to `seq`."""
        return (await self._ask(SealWanted(after=after, seq=seq), Sealed)).message

    async def erase(self, holder: str, why: str) -> Erased:
        """Delete what the journal tells of a holder."""
        return await self._ask(Erase(holder=holder, why=why), Erased, ERASE_S_MAX)

    async def deliver(self, deliver: Deliver) -> Delivered:
        """Hand over something sealed; what the journal counts as acknowledged now."""
        return await self._ask(deliver, Delivered)

    async def session_said(self, said: SessionSaid) -> None:
        """Report on the session with the broker."""
        await self._ask(said, Delivered)

    async def watch_outbox(self) -> AsyncGenerator[Outgoing, None]:
        """What the core wants published, in order."""
        waiting: asyncio.Queue[Outgoing | IpcError] = asyncio.Queue()

        def take(answer: AnswerBody | IpcError) -> None:
            if not isinstance(answer, Outgoing):
                waiting.put_nowait(_error(self._path, answer))
                return
            waiting.put_nowait(answer)

        number = self._wire.ask(WatchOutbox(), take)
        try:
            while True:
                found = await waiting.get()
                if isinstance(found, IpcError):
                    raise found
                yield found
        finally:
            self._wire.cancel(number)

    async def status(self) -> Status:
        """How the gateway is."""
        return await self._ask(StatusWanted(), Status)

    async def order(self, order: Order) -> Obeyed:
        """Set or end a mode by hand."""
        return await self._ask(order, Obeyed)

    async def open_once(self, door: str, why: str) -> Opened:
        """Release a door once, for its own unlock time."""
        return await self._ask(OpenOnce(door=door, why=why), Opened)

    async def forgive(self, forgive: Forgive) -> Obeyed:
        """Forget a holder's place and PIN lockout, or a zone's people."""
        return await self._ask(forgive, Obeyed)

    async def muster(self) -> Muster:
        """Who is in which zone."""
        return await self._ask(MusterWanted(), Muster)

    async def preview(self, door: str, days: int = 7) -> Preview:
        """When a door's schedule unlocks it."""
        return await self._ask(PreviewWanted(door=door, days=days), Preview)

    async def watch_doors(self) -> AsyncGenerator[DoorStateReport, None]:
        """Every door's state now, then each change; a slow consumer skips to the latest."""
        latest: dict[str, DoorStateReport] = {}
        woken = asyncio.Event()
        end: list[IpcError] = []

        def take(answer: AnswerBody | IpcError) -> None:
            if isinstance(answer, DoorStateReport):
                latest[answer.door] = answer
            else:
                end.append(_error(self._path, answer))
            woken.set()

        number = self._wire.ask(WatchDoors(), take)
        try:
            while True:
                await woken.wait()
                woken.clear()
                while latest:
                    yield latest.pop(next(iter(latest)))
                if end:
                    raise end[0]
        finally:
            self._wire.cancel(number)

    async def import_records(self, records: bytes) -> ImportDone:
        """Put a file of entitlement records in force.

        Raises:
            RecordsRefused: The set has faults; what was in force stays.
        """
        digest = hashlib.sha256(records).hexdigest()
        await self._ask(ImportBegin(size=len(records), sha256=digest), Proceed)
        for at in range(0, len(records), IMPORT_CHUNK_BYTES):
            await self._ask(ImportChunk(data=records[at : at + IMPORT_CHUNK_BYTES]), Proceed)
        answer = await self._answer_to(ImportEnd(), IMPORT_S_MAX)
        if isinstance(answer, ImportRefused):
            raise RecordsRefused([RecordFault(*fault) for fault in answer.faults])
        if not isinstance(answer, ImportDone):
            raise _error(self._path, answer)
        return answer

    async def _ask(self, body: RequestBody, wanted: type[_Wanted], wait_s: float = 0.0) -> _Wanted:
        answer = await self._answer_to(body, ANSWER_S_MAX + wait_s)
        if not isinstance(answer, wanted):
            raise _error(self._path, answer)
        return answer

    async def _answer_to(self, body: RequestBody, limit_s: float) -> AnswerBody | IpcError:
        future: asyncio.Future[AnswerBody | IpcError] = asyncio.get_running_loop().create_future()

        def take(answer: AnswerBody | IpcError) -> None:
            if not future.done():
                future.set_result(answer)

        number = self._wire.ask(body, take)
        try:
            async with asyncio.timeout(limit_s):
                return await future
        except TimeoutError:
            what = type(body).__name__
            raise IpcError(f"{self._path}: no answer to {what} in {limit_s:g} s") from None
        finally:
            if not future.done() or future.cancelled():
                self._wire.cancel(number)
            self._wire.forget(number)


class _Wire(asyncio.Protocol):
    """Numbers requests and hands each answer to who waits for it."""

    def __init__(self) -> None:
        self._framing = Framing()
        self._numbers = itertools.count(1)
        self._waiting: dict[int, Callable[[AnswerBody | IpcError], None]] = {}
        self._transport: asyncio.Transport | None = None
        self._end: IpcError | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - it is a stream's
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        try:
            for body in self._framing.feed(data):
                answer = decode_answer(body)
                if answer.number == 0:
                    self._finish(_problem(answer.body))
                elif take := self._waiting.get(answer.number):
                    take(answer.body)
        except (IpcError, Undecodable) as malformed:
            self._finish(IpcError(f"the core's answer can't be read: {malformed}"))

    def connection_lost(self, _error: Exception | None) -> None:
        self._finish(IpcError("the core closed the connection"))

    def ask(self, body: RequestBody, take: Callable[[AnswerBody | IpcError], None]) -> int:
        """Send a request; `take` gets every answer to it, or the end of the connection."""
        number = next(self._numbers)
        if self._end is not None or self._transport is None:
            take(self._end or IpcError("not connected to the core"))
            return number
        data = frame(encode(Request(number, body)))
        self._waiting[number] = take
        self._transport.write(data)
        return number

    def cancel(self, number: int) -> None:
        """The request needs no more answers."""
        if self._waiting.pop(number, None) and self._end is None and self._transport is not None:
            self._transport.write(frame(encode(Request(number, Cancel()))))

    def forget(self, number: int) -> None:
        """The request has its answer."""
        self._waiting.pop(number, None)

    def _finish(self, why: IpcError) -> None:
        if self._end is not None:
            return
        self._end = why
        waiting, self._waiting = self._waiting, {}
        for take in waiting.values():
            take(why)
        if self._transport is not None:
            self._transport.abort()


def _problem(body: AnswerBody) -> IpcError:
    if isinstance(body, Problem):
        return NotAllowed(body.text) if body.not_allowed else IpcError(body.text)
    return IpcError(f"the core answered with {type(body).__name__} where that makes no sense")


def _error(path: Path, answer: AnswerBody | IpcError) -> IpcError:
    found = answer if isinstance(answer, IpcError) else _problem(answer)
    return type(found)(f"{path}: {found}")
