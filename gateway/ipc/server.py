"""The core's end of the socket: answers every client, and waits for none."""

import asyncio
import hashlib
import socket
from collections import deque
from contextlib import aclosing, suppress
from pathlib import Path

import structlog

from gateway.errors import GatewayError, IpcError, RecordsRefused, Undecodable
from gateway.ipc.api import CoreApi
from gateway.ipc.framing import FRAME_BYTES_MAX, Framing, frame
from gateway.ipc.messages import (
    IMPORT_FAULTS_MAX,
    PROTOCOL_VERSION,
    Acknowledge,
    Acknowledged,
    Answer,
    AnswerBody,
    Cancel,
    Deliver,
    Erase,
    Events,
    ExportWanted,
    Fetch,
    FetchUrgent,
    Forgive,
    Hello,
    ImportBegin,
    ImportChunk,
    ImportEnd,
    ImportRefused,
    MusterWanted,
    OpenOnce,
    Order,
    PreviewWanted,
    Problem,
    Proceed,
    ProofWanted,
    ReportAck,
    Request,
    RequestBody,
    SealWanted,
    SessionSaid,
    StatusWanted,
    UrgentEvents,
    WatchDoors,
    WatchOutbox,
    Welcome,
    decode_request,
    encode,
)
from gateway.ipc.rights import Peer, Rights, own_credentials, peer_of, rights_of

CLIENTS_MAX = 16
"""Link, console and a handful of command lines; the next one is told so and closed."""

REQUESTS_OPEN_MAX = 16
"""Requests of one client worked on at once; beyond that its socket isn't read until one is done."""

SEND_BYTES_MAX = 4 * FRAME_BYTES_MAX
"""Answers waiting for one client to read them; a client that lets more pile up is disconnected."""

HELLO_S_MAX = 5.0
"""A client that hasn't said Hello by then is disconnected: it holds a place others may need."""

FAREWELL_S_MAX = 1.0
"""A refused client has that long to read why: closing over bytes it sent would reset the socket."""

_SOCKET_MODE = 0o660
_DIRECTORY_MODE = 0o750

_log = structlog.get_logger(__name__)


class CoreServer:
    """The Unix socket at `path`, serving `api`."""

    def __init__(self, path: Path, api: CoreApi) -> None:
        self._path = path
        self._api = api
        self._connections: set[_Connection] = set()
        self._importing: _Connection | None = None
        self.listening = asyncio.Event()
        """Set while clients can connect."""

    async def run(self) -> None:
        """Serve until cancelled; the socket file exists exactly as long.

        Raises:
            IpcError: The path can't be used, or another core serves it.
        """
        listener = _listen(self._path)
        inode = self._path.stat().st_ino
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.TaskGroup() as group:
                server = await loop.create_unix_server(
                    lambda: _Connection(self, group), sock=listener
                )
                try:
                    self.listening.set()
                    await loop.create_future()
                finally:
                    self.listening.clear()
                    server.close()
                    for connection in tuple(self._connections):
                        connection.abort()
        finally:
            listener.close()
            _unlink_own(self._path, inode)

    def admit(self, connection: "_Connection", peer: Peer) -> Rights:
        """The rights of a new connection. Raises IpcError where it can't be served."""
        rights = rights_of(peer, own=own_credentials())
        if rights is None:
            raise IpcError(
                f"uid {peer.uid} may not use this socket: run as root or as the core's user"
            )
        if len(self._connections) >= CLIENTS_MAX:
            raise IpcError(f"{CLIENTS_MAX} clients are connected already: try again later")
        self._connections.add(connection)
        return rights

    def leave(self, connection: "_Connection") -> None:
        """The connection is lost."""
        self._connections.discard(connection)

    async def answer(self, connection: "_Connection", request: Request) -> None:
        """Work on a request and send what there is to say. Raises GatewayError for a Problem."""
        match request.body:
            case Fetch() as fetch:
                connection.send(request.number, await self._fetch(fetch))
            case FetchUrgent() as fetch_urgent:
                connection.send(request.number, await self._fetch_urgent(fetch_urgent))
            case ReportAck(stream=stream, seq=seq):
                reached = await self._api.report_ack(stream, seq)
                connection.send(request.number, Acknowledged(stream=stream, seq=reached))
            case Acknowledge(stream=stream, seq=seq):
                reached = await self._api.acknowledge(stream, seq)
                connection.send(request.number, Acknowledged(stream=stream, seq=reached))
            case ExportWanted():
                connection.send(request.number, await self._api.export_head())
            case ProofWanted(after=after, limit=limit):
                connection.send(request.number, await self._api.proof_after(after, limit))
            case SealWanted(after=after, seq=seq):
                connection.send(request.number, await self._api.seal(after, seq))
            case Erase(holder=holder, why=why):
                erased = await self._api.erase(holder, connection.peer, why)
                connection.send(request.number, erased)
            case Deliver() as deliver:
                connection.send(request.number, await self._api.deliver(deliver))
            case SessionSaid(there=there):
                connection.send(request.number, await self._api.session_said(there=there))
            case WatchOutbox():
                async with aclosing(self._api.watch_outbox()) as outgoing:
                    async for message in outgoing:
                        connection.send(request.number, message)
            case WatchDoors():
                async with aclosing(self._api.watch_doors()) as states:
                    async for state in states:
                        connection.send(request.number, state)
            case StatusWanted():
                connection.send(request.number, await self._api.status())
            case Order() as order:
                connection.send(request.number, await self._api.order(order, connection.peer))
            case OpenOnce() as open_once:
                opened = await self._api.open_once(open_once, connection.peer)
                connection.send(request.number, opened)
            case Forgive() as forgive:
                connection.send(request.number, await self._api.forgive(forgive, connection.peer))
            case MusterWanted():
                connection.send(request.number, await self._api.muster())
            case PreviewWanted(door=door, days=days):
                connection.send(request.number, await self._api.preview(door, days))
            case ImportBegin() | ImportChunk() | ImportEnd() as step:
                connection.send(request.number, await self._import(connection, step))
            case Hello() | Cancel():
                raise IpcError("Hello is said once, and first")

    async def _fetch(self, fetch: Fetch) -> Events:
        events = await self._api.events_after(fetch.after, fetch.limit)
        if not events.bodies and fetch.wait_s:
            with suppress(TimeoutError):
                async with asyncio.timeout(fetch.wait_s):
                    await self._api.wait_beyond(fetch.after)
            events = await self._api.events_after(fetch.after, fetch.limit)
        return _cut(events, fetch.bytes_max)

    async def _fetch_urgent(self, fetch: FetchUrgent) -> UrgentEvents:
        urgent = await self._api.urgent_after(fetch.after, fetch.limit)
        if not urgent.events and fetch.wait_s:
            with suppress(TimeoutError):
                async with asyncio.timeout(fetch.wait_s):
                    await self._api.wait_urgent(fetch.after)
            urgent = await self._api.urgent_after(fetch.after, fetch.limit)
        return urgent

    async def _import(
        self, connection: "_Connection", step: ImportBegin | ImportChunk | ImportEnd
    ) -> AnswerBody:
        async with connection.import_lock:
            if isinstance(step, ImportBegin):
                if self._importing not in (None, connection):
                    raise IpcError("another import is running: try again when it is done")
                self._drop_import(connection)
                connection.upload = _Upload(step)
                self._importing = connection
                return Proceed(received=0)
            upload = connection.upload
            if upload is None:
                raise IpcError("no import was begun on this connection")
            if isinstance(step, ImportChunk):
                return Proceed(received=upload.take(step.data))
            try:
                return await self._api.import_records(await asyncio.to_thread(upload.complete))
            except RecordsRefused as refused:
                told = refused.faults[:IMPORT_FAULTS_MAX]
                return ImportRefused(faults=[*told], more=len(refused.faults) - len(told))
            finally:
                self._drop_import(connection)

    def _drop_import(self, connection: "_Connection") -> None:
        if connection.upload is not None:
            connection.upload = None
            self._importing = None

    def abandon_import(self, connection: "_Connection") -> None:
        """The client is gone: what it had sent of a file is of no use."""
        self._drop_import(connection)


class _Connection(asyncio.Protocol):
    """One client. Its requests run as tasks of the server's group."""

    def __init__(self, server: CoreServer, group: asyncio.TaskGroup) -> None:
        self._server = server
        self._group = group
        self._framing = Framing()
        self._transport: asyncio.Transport | None = None
        self._rights: Rights | None = None
        self._role: str | None = None
        self._limit: asyncio.TimerHandle | None = None
        self._refused = False
        self._waiting: deque[Request] = deque()
        self._open: dict[int, asyncio.Task[None]] = {}
        self._uid = -1
        self.import_lock = asyncio.Lock()
        self.upload: _Upload | None = None

    @property
    def peer(self) -> str:
        """Who is at the other end, by the kernel's word."""
        return f"uid {self._uid}"

    # --- asyncio.Protocol -------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - it is a stream's
        self._transport = transport
        peer = peer_of(transport.get_extra_info("socket"))
        self._uid = peer.uid
        try:
            self._rights = self._server.admit(self, peer)
        except IpcError as refused:
            self._refuse(str(refused), not_allowed=True)
            return
        self._limit = asyncio.get_running_loop().call_later(
            HELLO_S_MAX, self._refuse, f"no Hello within {HELLO_S_MAX:g} s"
        )

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        try:
            requests = [decode_request(body) for body in self._framing.feed(data)]
        except (IpcError, Undecodable) as malformed:
            self._refuse(f"not understood: {malformed}")
            return
        self._waiting.extend(requests)
        self._work()

    def connection_lost(self, _error: Exception | None) -> None:
        self._transport = None
        self._waiting.clear()
        if self._limit is not None:
            self._limit.cancel()
        for task in self._open.values():
            task.cancel()
        if not self._open:
            self._server.abandon_import(self)
        self._server.leave(self)

    # --- Requests ---------------------------------------------------------------------------------

    def _work(self) -> None:
        while self._waiting and self._transport is not None and not self._transport.is_closing():
            if len(self._open) >= REQUESTS_OPEN_MAX and not isinstance(
                self._waiting[0].body, Cancel
            ):
                self._transport.pause_reading()
                return
            self._begin(self._waiting.popleft())
        if self._transport is not None:
            self._transport.resume_reading()

    def _begin(self, request: Request) -> None:
        body = request.body
        if self._rights is None:
            return
        if self._role is None:
            self._greet(request)
        elif isinstance(body, Cancel):
            task = self._open.get(request.number)
            if task is not None:
                task.cancel()
        elif not self._rights.allows(body):
            self.send(request.number, _not_allowed(body, self._uid))
        elif request.number in self._open:
            self._refuse(f"request {request.number} is still open: number every request anew")
        else:
            task = self._group.create_task(self._answer(request))
            self._open[request.number] = task
            task.add_done_callback(lambda _task: self._done(request.number))

    def _greet(self, request: Request) -> None:
        hello = request.body
        if not isinstance(hello, Hello):
            self._refuse("the first request must be Hello")
        elif hello.version != PROTOCOL_VERSION:
            self._refuse(
                f"the core speaks version {PROTOCOL_VERSION} of this protocol, the client "
                f"{hello.version}: install the same release of both"
            )
        elif self._rights is not None and self._limit is not None:
            self._limit.cancel()
            self._role = hello.role
            rights = self._rights.name_on_wire
            self.send(request.number, Welcome(version=PROTOCOL_VERSION, rights=rights))

    async def _answer(self, request: Request) -> None:
        try:
            await self._server.answer(self, request)
        except GatewayError as problem:
            self.send(request.number, Problem(text=str(problem)))

    def _done(self, number: int) -> None:
        del self._open[number]
        if self._transport is not None:
            self._work()
        elif not self._open:
            self._server.abandon_import(self)

    # --- Answers ----------------------------------------------------------------------------------

    def send(self, number: int, body: AnswerBody) -> None:
        """Hand an answer to the socket: never waits. A client that doesn't read is given up."""
        if self._transport is None or self._transport.is_closing() or self._refused:
            return
        try:
            data = frame(encode(Answer(number, body)))
        except IpcError as too_large:
            data = frame(encode(Answer(number, Problem(text=str(too_large)))))
        if self._transport.get_write_buffer_size() + len(data) > SEND_BYTES_MAX:
            _log.warning(
                "ipc_client_too_slow",
                role=self._role,
                uid=self._uid,
                waiting_bytes=self._transport.get_write_buffer_size(),
            )
            self._transport.abort()
            return
        self._transport.write(data)

    def abort(self) -> None:
        """Drop the client at once."""
        if self._transport is not None:
            self._transport.abort()

    def _refuse(self, text: str, *, not_allowed: bool = False) -> None:
        _log.warning("ipc_client_refused", role=self._role, uid=self._uid, why=text)
        self.send(0, Problem(text=text, not_allowed=not_allowed))
        self._refused = True
        self._waiting.clear()
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write_eof()
            self._transport.resume_reading()
            if self._limit is not None:
                self._limit.cancel()
            self._limit = asyncio.get_running_loop().call_later(FAREWELL_S_MAX, self.abort)


class _Upload:
    """A file on its way in. It stays in memory: card numbers have no business on the disk."""

    def __init__(self, begin: ImportBegin) -> None:
        self._begin = begin
        self._data = bytearray()

    def take(self, data: bytes) -> int:
        """Keep the next bytes; how many there are now. Raises IpcError."""
        if len(self._data) + len(data) > self._begin.size:
            raise IpcError(f"more than the {self._begin.size} bytes that were announced came")
        self._data += data
        return len(self._data)

    def complete(self) -> bytes:
        """The whole file. Raises IpcError where it isn't what was announced."""
        if len(self._data) != self._begin.size:
            raise IpcError(f"{len(self._data)} of {self._begin.size} announced bytes came")
        if hashlib.sha256(self._data).hexdigest() != self._begin.sha256:
            raise IpcError("the file isn't the one announced: its SHA-256 differs")
        return bytes(self._data)


def _cut(events: Events, bytes_max: int) -> Events:
    """As many of the events as fit, but at least one: a large one must not stop the rest."""
    room = bytes_max
    for count, body in enumerate(events.bodies):
        room -= len(body)
        if room < 0 and count:
            return Events(
                stream=events.stream, first_seq=events.first_seq, bodies=events.bodies[:count]
            )
    return events


def _not_allowed(body: RequestBody, uid: int) -> Problem:
    what = type(body).__name__
    return Problem(
        text=f"uid {uid} may not ask for {what}: run as root or as the core's user",
        not_allowed=True,
    )


def _listen(path: Path) -> socket.socket:
    """A listening socket at `path`, put there whole: nobody meets one with other modes.

    Raises:
        IpcError: The path can't be used, or another core serves it.
    """
    making = path.with_name(f".{path.name}.new")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        path.parent.mkdir(mode=_DIRECTORY_MODE, parents=True, exist_ok=True)
        _check_free(path)
        making.unlink(missing_ok=True)
        listener.bind(str(making))
        making.chmod(_SOCKET_MODE)
        listener.listen()
        making.rename(path)
    except OSError as failed:
        listener.close()
        raise IpcError(f"{path}: the core's socket can't be made: {failed}") from failed
    except IpcError:
        listener.close()
        raise
    listener.setblocking(False)
    return listener


def _check_free(path: Path) -> None:
    if not path.exists():
        return
    if not path.is_socket():
        raise IpcError(f"{path}: is there and is no socket: move it away or change state.socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            return  # left behind by a core that was killed
        except BlockingIOError:
            pass  # its backlog is full, so there is somebody
    raise IpcError(f"{path}: another core is serving this socket: stop it first")


def _unlink_own(path: Path, inode: int) -> None:
    with suppress(OSError):  # a tidy-up must not hide why the core stops
        if path.stat().st_ino == inode:
            path.unlink()
