"""The core's end of the socket: answers every client, and waits for none."""

import asyncio
import hashlib
import socket
from collections import deque
from contextlib import AbstractAsyncContextManager, aclosing, nullcontext, suppress
from pathlib import Path

import structlog
from msgspec.structs import replace

from gateway.errors import GatewayError, IpcError, RecordsRefused, Undecodable
from gateway.ipc.api import CoreApi
from gateway.ipc.budget import REQUEST_BYTES, LinkBudget, Work
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
    Status,
    StatusWanted,
    WatchDoors,
    WatchOutbox,
    Welcome,
    decode_request,
    encode,
)
from gateway.ipc.person import NAME_CHARS_MAX, Person, is_name, person_of
from gateway.ipc.rights import Peer, Rights, has_ended, own_credentials, peer_of, rights_of

CLIENTS_MAX = 16
"""Link, console and a handful of command lines; the next one is told so and closed."""

LINK_CLIENTS_MAX = 3
"""Of those, with the link's rights: the link itself, and one that ends while the next begins."""

ROOT_PLACES = 4
"""Of those, for root alone: an operator's lockdown is heard, whoever holds the others."""

REFUSED_MAX = 8
"""Refused clients that may still read why; of more the connection is closed at once."""

REFUSAL_S = 0.002
"""How long to wait after a refused client before the next one is looked at: a flood of them gets a
few hundred answers a second, and who waits behind them a place within half a second."""

ACCEPT_RETRY_S = 0.1
"""How long to wait where no connection can be accepted, as without descriptors."""

TOLD_EVERY_S = 10.0
"""How often the log tells of refused clients: a flood of them must not fill the disk."""

READ_BYTES = 32 * 1024
"""Bytes taken from a client's socket at a time."""

FRAMES_AT_ONCE = 16
"""Requests of one client looked at before everything else has its turn."""

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

    def __init__(
        self,
        path: Path,
        api: CoreApi,
        *,
        supervisor: int | None = None,
        shuts_out_own: bool = False,
    ) -> None:
        """`supervisor` is the process of `door-gateway run`, where it has started the core.

        With `shuts_out_own`, no process that this one has started may use the socket.
        """
        self._path = path
        self._shuts_out_own = shuts_out_own
        self._supervisor = supervisor
        self._api = api
        self._connections: dict[_Connection, None] = {}
        """Those with a place, the longest first."""
        self._refused: set[_Connection] = set()
        self._told_count = 0
        self._told_next = 0.0
        self.budget = LinkBudget()
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
        try:
            async with asyncio.TaskGroup() as group:
                try:
                    self.listening.set()
                    await self._accept(listener, group)
                finally:
                    self.listening.clear()
                    for connection in (*self._connections, *self._refused):
                        connection.abort()
        finally:
            listener.close()
            _unlink_own(self._path, inode)

    async def _accept(self, listener: socket.socket, group: asyncio.TaskGroup) -> None:
        """Accept one client after the other, for ever."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                client, _ = await loop.sock_accept(listener)
            except OSError as failed:
                self.tell_refused(f"can't be accepted: {failed.strerror}", uid=-1, role=None)
                await asyncio.sleep(ACCEPT_RETRY_S)
                continue
            try:
                await self._receive(client, group)
            except BaseException:
                client.close()
                raise

    async def _receive(self, client: socket.socket, group: asyncio.TaskGroup) -> None:
        """Give a client its connection, or tell it why there is none."""
        peer = peer_of(client)
        connection = _Connection(self, group, peer)
        try:
            self._admit(connection, peer, client)
        except IpcError as refused:
            self.tell_refused(str(refused), uid=peer.uid, role=None)
            await asyncio.sleep(REFUSAL_S)
            if len(self._refused) >= REFUSED_MAX:
                client.close()
                return
            connection.refusal = str(refused)
            self._refused.add(connection)
        await asyncio.get_running_loop().connect_accepted_socket(lambda: connection, client)

    def _admit(self, connection: "_Connection", peer: Peer, client: socket.socket) -> None:
        """Give a new connection a place and its rights. Raises IpcError where there is none."""
        own = own_credentials()
        shuts_out_own = self._shuts_out_own
        rights = rights_of(peer, own=own, supervisor=self._supervisor, shuts_out_own=shuts_out_own)
        # Looked at last: only of a process that still runs was the pid its own until now.
        if shuts_out_own and peer.uid == own.uid and (rights is None or has_ended(client)):
            raise IpcError(
                f"pid {peer.pid} is a worker of the core, or has ended, and may not use this "
                "socket: run the command as root, from a shell"
            )
        if rights is None:
            raise IpcError(
                f"uid {peer.uid} may not use this socket: run as root or as the core's user"
            )
        alike = sum(other.rights is rights for other in self._connections)
        if rights is Rights.LINK and alike >= LINK_CLIENTS_MAX:
            raise IpcError(f"{alike} links are connected already: try again later")
        places = CLIENTS_MAX if peer.uid == 0 else max(1, CLIENTS_MAX - ROOT_PLACES)
        if len(self._connections) >= places and not self._make_room(rights):
            raise IpcError(
                f"{len(self._connections)} clients are connected already: try again later"
            )
        connection.rights = rights
        self._connections[connection] = None

    def _make_room(self, rights: Rights) -> bool:
        """Drop the client that has not said Hello for longest; True if there was one."""
        silent = (other for other in self._connections if not other.has_greeted)
        victim = next(silent, None) if rights is Rights.ALL else None
        if victim is None:
            return False
        victim.abort()
        self.leave(victim)
        return True

    def leave(self, connection: "_Connection") -> None:
        """The connection is lost."""
        self._connections.pop(connection, None)
        self._refused.discard(connection)

    def tell_refused(self, why: str, *, uid: int, role: str | None) -> None:
        """Log that a client is refused, now and then."""
        self._told_count += 1
        now = asyncio.get_running_loop().time()
        if now < self._told_next:
            return
        self._told_next = now + TOLD_EVERY_S
        _log.warning("ipc_client_refused", role=role, uid=uid, why=why, count=self._told_count)
        self._told_count = 0

    def turn(self, connection: "_Connection", work: Work) -> AbstractAsyncContextManager[None]:
        """Return the turn in which a connection's work is done."""
        return self.budget.turn(work) if connection.rights is Rights.LINK else nullcontext()

    async def answer(self, connection: "_Connection", request: Request) -> None:
        """Work on a request and send what there is to say. Raises GatewayError for a Problem."""
        match request.body:
            case Fetch() as fetch:
                await self._fetch(connection, request.number, fetch)
            case FetchUrgent() as fetch_urgent:
                await self._fetch_urgent(connection, request.number, fetch_urgent)
            case ReportAck() | Acknowledge() | Deliver() | SessionSaid() as said:
                async with self.turn(connection, "deliver"):
                    connection.send(request.number, await self._take_in(said))
            case ExportWanted():
                connection.send(request.number, await self._api.export_head())
            case ProofWanted(after=after, limit=limit):
                connection.send(request.number, await self._api.proof_after(after, limit))
            case SealWanted(after=after, seq=seq):
                connection.send(request.number, await self._api.seal(after, seq))
            case Erase(holder=holder, why=why):
                erased = await self._api.erase(holder, connection.peer, why)
                connection.send(request.number, erased)
            case WatchOutbox():
                async with aclosing(self._api.watch_outbox()) as outgoing:
                    async for message in outgoing:
                        connection.send(request.number, message)
            case WatchDoors():
                async with aclosing(self._api.watch_doors()) as states:
                    async for state in states:
                        connection.send(request.number, state)
            case StatusWanted():
                async with self.turn(connection, "status"):
                    connection.send(request.number, await self._status(connection))
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

    async def _take_in(self, said: ReportAck | Acknowledge | Deliver | SessionSaid) -> AnswerBody:
        match said:
            case ReportAck(stream=stream, seq=seq):
                return Acknowledged(stream=stream, seq=await self._api.report_ack(stream, seq))
            case Acknowledge(stream=stream, seq=seq):
                return Acknowledged(stream=stream, seq=await self._api.acknowledge(stream, seq))
            case Deliver() as deliver:
                return await self._api.deliver(deliver)
            case SessionSaid():
                return await self._api.session_said(said)

    async def _status(self, connection: "_Connection") -> Status:
        if connection.rights is Rights.LINK:
            return await self.budget.status(self._api.status, asyncio.get_running_loop().time())
        return await self._api.status()

    async def _fetch(self, connection: "_Connection", number: int, fetch: Fetch) -> None:
        async with self.turn(connection, "journal"):
            events = await self._api.events_after(fetch.after, fetch.limit)
            if events.bodies or not fetch.wait_s:
                connection.send(number, _cut(events, fetch.bytes_max))
                return
        with suppress(TimeoutError):
            async with asyncio.timeout(fetch.wait_s):
                await self._api.wait_beyond(fetch.after)
        async with self.turn(connection, "journal"):
            events = await self._api.events_after(fetch.after, fetch.limit)
            connection.send(number, _cut(events, fetch.bytes_max))

    async def _fetch_urgent(
        self, connection: "_Connection", number: int, fetch: FetchUrgent
    ) -> None:
        async with self.turn(connection, "journal"):
            urgent = await self._api.urgent_after(fetch.after, fetch.limit)
            if urgent.events or not fetch.wait_s:
                connection.send(number, urgent)
                return
        with suppress(TimeoutError):
            async with asyncio.timeout(fetch.wait_s):
                await self._api.wait_urgent(fetch.after)
        async with self.turn(connection, "journal"):
            connection.send(number, await self._api.urgent_after(fetch.after, fetch.limit))

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


class _Connection(asyncio.BufferedProtocol):
    """One client. Its requests run as tasks of the server's group."""

    def __init__(self, server: CoreServer, group: asyncio.TaskGroup, peer: Peer) -> None:
        self._server = server
        self._group = group
        self._peer = peer
        self._uid = peer.uid
        self._person: Person | None = None
        self._buffer = bytearray(READ_BYTES)
        self._framing = Framing()
        self._transport: asyncio.Transport | None = None
        self._role: str | None = None
        self._limit: asyncio.TimerHandle | None = None
        self._again: asyncio.Handle | None = None
        """Goes on with what waits, in the loop's next round or when the budget allows it."""
        self._refused = False
        self._waiting: deque[bytes] = deque()
        """Frames that were not looked at yet."""
        self._open: dict[int, asyncio.Task[None]] = {}
        self.rights: Rights | None = None
        self.refusal: str | None = None
        """Why it gets no place, where it gets none."""
        self.import_lock = asyncio.Lock()
        self.upload: _Upload | None = None

    @property
    def peer(self) -> str:
        """Who is at the other end, as journaled with what they order."""
        return f"uid {self._uid}" if self._person is None else str(self._person)

    @property
    def has_greeted(self) -> bool:
        """True once its Hello was taken."""
        return self._role is not None

    # --- asyncio.BufferedProtocol -----------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - it is a stream's
        self._transport = transport
        if self.refusal is not None:
            self._farewell(self.refusal, not_allowed=True)
            return
        self._limit = asyncio.get_running_loop().call_later(
            HELLO_S_MAX, self._refuse, f"no Hello within {HELLO_S_MAX:g} s"
        )

    def get_buffer(self, _size_wanted: int) -> bytearray:
        return self._buffer

    def buffer_updated(self, count: int) -> None:
        frames: list[bytes] = []
        if not self._refused:  # else it is read for the sake of who must read why
            try:
                frames = self._framing.feed(self._buffer[:count])
            except IpcError as malformed:
                self._refuse(f"not understood: {malformed}")
        self._waiting.extend(frames)
        if self.rights is not Rights.ALL:
            now = asyncio.get_running_loop().time()
            rest = self._server.budget.spend(count + len(frames) * REQUEST_BYTES, now)
            if rest:
                self._go_on_in(rest)
                return
        if self._again is None:
            self._work()

    def eof_received(self) -> None:
        """Close: asyncio does where this returns None."""

    def connection_lost(self, _error: Exception | None) -> None:
        self._transport = None
        self._waiting.clear()
        for timer in (self._limit, self._again):
            if timer is not None:
                timer.cancel()
        for task in self._open.values():
            task.cancel()
        if not self._open:
            self._server.abandon_import(self)
        self._server.leave(self)

    # --- Requests ---------------------------------------------------------------------------------

    def _go_on_in(self, seconds: float) -> None:
        """Read and look at nothing for a while."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()
            loop = asyncio.get_running_loop()
            if self._again is not None:
                self._again.cancel()
            self._again = (
                loop.call_later(seconds, self._work) if seconds else loop.call_soon(self._work)
            )

    def _work(self) -> None:
        """Begin what waits, as far as there is room; nothing more is read until all has begun."""
        self._again = None
        for _ in range(FRAMES_AT_ONCE):
            if self._transport is None or self._transport.is_closing():
                return
            if self._refused or not self._waiting:
                self._transport.resume_reading()
                return
            try:
                request = decode_request(self._waiting[0])
            except Undecodable as malformed:
                self._refuse(f"not understood: {malformed}")
                return
            if len(self._open) >= REQUESTS_OPEN_MAX and not isinstance(request.body, Cancel):
                self._transport.pause_reading()
                return
            self._waiting.popleft()
            self._begin(request)
        self._go_on_in(0.0)

    def _begin(self, request: Request) -> None:
        body = request.body
        if self.rights is None:
            return
        if self._role is None:
            self._greet(request)
        elif isinstance(body, Cancel):
            task = self._open.get(request.number)
            if task is not None:
                task.cancel()
        elif not self.rights.allows(body):
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
        elif any(name is not None and not is_name(name) for name in (hello.login, hello.claimed)):
            self._refuse(f"a name has 1 to {NAME_CHARS_MAX} printable characters and no quotes")
        elif self.rights is not None and self._limit is not None:
            self._limit.cancel()
            if self.rights is Rights.ALL:  # nobody else orders anything
                known = person_of(self._peer)
                self._person = known._replace(login_told=hello.login, claimed=hello.claimed)
            self._role = hello.role
            rights = self.rights.name_on_wire
            self.send(request.number, Welcome(version=PROTOCOL_VERSION, rights=rights))

    async def _answer(self, request: Request) -> None:
        try:
            await self._server.answer(self, request)
        except GatewayError as problem:
            self.send(request.number, Problem(text=str(problem)))

    def _done(self, number: int) -> None:
        del self._open[number]
        if self._transport is not None:
            if self._again is None:
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

    def _refuse(self, text: str) -> None:
        self._server.tell_refused(text, uid=self._uid, role=self._role)
        self._farewell(text)

    def _farewell(self, text: str, *, not_allowed: bool = False) -> None:
        """Say why, and close once the client has had time to read it."""
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
            return replace(events, bodies=events.bodies[:count])
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
