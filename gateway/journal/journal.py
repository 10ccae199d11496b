"""The journal of one gateway: append at once, commit in groups, delete only what has arrived."""

import asyncio
import base64
import contextlib
import functools
import itertools
import os
import re
import sqlite3
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

import aiosqlite
import msgspec
import structlog

from gateway.clock import Clock, TimeTrust
from gateway.decoding import decode_json
from gateway.domain import events
from gateway.errors import StorageError, Undecodable
from gateway.journal.chain import (
    CHAIN_BYTES,
    CHECKPOINT_EVERY,
    SALT_BYTES,
    commitment_to,
    genesis,
    link,
)
from gateway.journal.salvage import STREAM, salvage
from gateway.sqlite import (
    DatabaseCorrupt,
    DatabaseLocked,
    DatabaseTooNew,
    Migration,
    SqliteErrors,
    forget_aside,
    is_damage,
    kept_aside,
    migrations,
    open_database,
    open_database_to_read,
    set_aside,
)
from gateway.statedir import open_plain, write_atomically

QUEUE_EVENTS_MAX = 10_000
"""Events kept in memory while the disk refuses them: about 5 MB, and hours of a busy site. Beyond
it `append` raises, so that nobody is let in unrecorded, and a `JournalGap` counts what was lost."""

QUEUE_RESERVE_EVENTS = 500
"""Room in it that only alarms and emergencies may take."""

ASIDE_MAX = 5
"""Damaged journals kept, once what reads of them has been taken over: a disk that fails again and
again must not fill itself with them."""

MARK_BYTES_MAX = 256
"""The mark is one short line; whatever is longer isn't one."""

GROUP_EVENTS_MAX = 1_000
"""Events in one commit: about 10 ms of work, which is as long as the next group waits."""

ERASE_STEP_EVENTS = 500
"""Events looked through, and changed, in one transaction when a holder's are erased."""

PURGE_STEP_EVENTS = 500
"""Events deleted in one transaction: about 3 ms, which an append may have to wait."""

READ_EVENTS_MAX = 1_000
"""Events read at once: the writer shares the thread, and this keeps it busy for a few ms only."""

RETRY_S_FIRST = 0.1
RETRY_S_MAX = 5.0
"""How long to wait after a write that failed, doubling: a disk that is well again is used within
seconds, and one that isn't costs no more than a try in five seconds."""

CLOSE_S_MAX = 5.0
"""How long closing waits for what is still to be committed: a service manager kills after 10 s."""

TAIL_EVENTS = 1_000
"""Youngest events whose chain is verified at open: 2 ms."""

_NO_ERROR = (None, None, None)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_log = structlog.get_logger(__name__)


class JournalFull(StorageError):
    """The event was not kept: the disk has refused events for longer than memory can hold them."""


class Backlog(NamedTuple):
    """What the cloud has not acknowledged yet."""

    committed: int
    """Events on disk above the watermark."""
    waiting: int
    """Events still in memory, not committed."""


class Head(NamedTuple):
    """Where a stream stands: what a checkpoint is signed over."""

    stream: str
    seq: int
    chain: bytes


Sign = Callable[[Head], bytes | None]
"""Makes a checkpoint: a message signed by the gateway's key; None while it has none."""


class ProofRow(NamedTuple):
    """An event with what the chain is computed from; bytes as they lie on disk."""

    seq: int
    public: bytes
    personal: bytes | None
    """Salt and personal part."""
    erased: bytes | None
    """The commitment to what was the personal part."""
    chain: bytes


StateChanges = Mapping[str, bytes | None]
"""What an event changes of the site's state, by key; None forgets."""

_NOTHING: StateChanges = {}


class RawEvent(NamedTuple):
    """A committed event as bytes, for forwarding without decoding."""

    stream: str
    seq: int
    body: bytes
    """Its canonical JSON."""


class JournalBegunAgain(DatabaseCorrupt):
    """The file turned out damaged while in use. All is saved in a new one; start again."""


class Ticket:
    """The receipt for an event: its number at once, its commit later."""

    __slots__ = ("committed", "seq")

    def __init__(self, seq: int, committed: asyncio.Future[None]) -> None:
        self.seq = seq
        self.committed = committed
        """Done when the event is on disk; has a `StorageError` if it never got there. Wait with
        `committed_within`: awaiting it in a task that is cancelled would cancel it as well."""

    async def committed_within(self, limit: timedelta) -> bool:
        """Whether the event is on disk before `limit` has passed. The commit goes on either way."""
        if not self.committed.done():
            await asyncio.wait((self.committed,), timeout=limit.total_seconds())
        return (
            self.committed.done()
            and not self.committed.cancelled()
            and self.committed.exception() is None
        )


class _Row(NamedTuple):
    seq: int
    at: int
    trust: int
    code: str
    priority: int
    body: bytes
    personal: bytes | None
    """Salt and personal part."""
    chain: bytes

    @property
    def end(self) -> "_End":
        """The end of a chain whose last event this is."""
        return _End(self.seq, self.chain)


class _End(NamedTuple):
    """The end of a chain of events. It makes the next row, and as a value it counts nothing."""

    seq: int
    chain: bytes

    def row(self, event: events.Event, body: bytes) -> _Row:
        """Number an event and chain it to what stands before."""
        public, personal = events.split(body)
        salted = os.urandom(SALT_BYTES) + personal if personal else None
        seq = self.seq + 1
        chain = link(self.chain, seq, public, _commitment(salted, None))
        return _Row(
            seq, _ms(event.at), event.trust, _code(event), event.priority, public, salted, chain
        )

    def again(self, row: _Row) -> _Row:
        """Number a row anew, behind another chain."""
        seq = self.seq + 1
        chain = link(self.chain, seq, row.body, _commitment(row.personal, None))
        return row._replace(seq=seq, chain=chain)


class _Waiting(NamedTuple):
    row: _Row
    committed: asyncio.Future[None]
    state: "StateChanges"


class _Mark(msgspec.Struct, frozen=True):
    """What is noted beside the file."""

    stream: str
    seq: int


class _Position(NamedTuple):
    """Where a journal file stands, read at open."""

    stream: str
    last: int
    chain: bytes
    acknowledged: int
    purged: int
    urgent: int
    state: dict[str, bytes] | None


_Values = Sequence[object] | Mapping[str, object]
_Job = Callable[[aiosqlite.Connection], Awaitable[None]]


class Journal:
    """Use as `async with Journal(path, clock) as journal`; one at a time a file.

    The clock is asked only for the time of events that the journal itself adds. If the writer
    breaks in a way that it can't repair, the body of `async with` is cancelled and the error
    raised: the core falls as one, and what was in memory has been saved first.

    A damaged file is set aside as `NAME.corrupt-<n>` and a new stream begun, always: the end of a
    damaged file can't be known, and a number used twice in one stream would make the cloud drop
    an event as a duplicate. What still reads goes into the table `salvaged`, and what of it was
    not acknowledged is appended to the new stream as well, its body marked with the stream and
    seq that it had (member `salvaged_from`), so it arrives and a duplicate can be recognised.

    `sign` makes the checkpoints: without it there are none.
    """

    def __init__(
        self, path: Path, clock: Clock, sign: Sign | None = None, *, local: bool = False
    ) -> None:
        """`local`: no cloud keeps these events, so `purge` and `erase` need no acknowledgement."""
        self._path = path
        self._local = local
        self._mark_file = path.with_name(path.name + ".mark")
        self._known: _Mark | None = None
        self._clock = clock
        self._sign = sign
        self._tasks = asyncio.TaskGroup()
        self._database: aiosqlite.Connection | None = None
        self._position = _Position("", 0, b"", 0, 0, 0, None)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._end = _End(0, b"")
        """The number and chain of the last event that left the queue for the disk."""
        self._committed = 0
        self._acknowledged = 0
        self._purged = 0
        self._urgent = 0
        self._checkpoint = 0
        self._queue: deque[_Waiting] = deque()
        self._jobs: deque[tuple[_Job, asyncio.Future[None]]] = deque()
        self._work = asyncio.Event()
        self._news = asyncio.Event()
        self._writer: asyncio.Task[None] | None = None
        self._open = False
        self._suspect = False
        self._failure = ""
        self._lost = 0
        self._lost_last: tuple[datetime, int, str] | None = None
        self._state: dict[str, bytes] | None = None
        self.listener: Callable[[events.Event], None] | None = None
        """Hears of every event that is appended, at once: it must be quick and never raise."""

    async def __aenter__(self) -> Self:
        """Open the file.

        Damage is no error: see the class. Nor is a disk that can't be used: until it can, the
        journal isn't healthy. Where it can be read at least, events are numbered and wait in
        memory; else none can be, and `append` raises `JournalFull`.

        Raises:
            DatabaseTooNew: a later release wrote the file.
        """
        self._known = _read_mark(self._mark_file)
        try:
            self._stand_at(await self._open_file())
            await self.keep_mark()
        except DatabaseTooNew:
            raise
        except (*SqliteErrors, StorageError) as error:
            # The doors' other duties go on without a disk; the writer tries again for ever.
            self._note_failure(str(error))
            self._suspect = True
            if not isinstance(error, DatabaseLocked):
                await self._stand_at_what_reads()
        try:
            await self._tasks.__aenter__()
        except BaseException:
            await self._close_database()
            raise
        self._open, self._loop = True, asyncio.get_running_loop()
        self._writer = self._tasks.create_task(self._write(), name="journal writer")
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Commit what was appended, within `CLOSE_S_MAX`, and close the file."""
        self._open = False
        self._work.set()
        self._news.set()
        try:
            if self._writer is not None:
                _, unfinished = await asyncio.wait((self._writer,), timeout=CLOSE_S_MAX)
                if unfinished:
                    self._writer.cancel()
        except BaseException as interrupted:  # noqa: BLE001 - handed to the group, which raises it
            kind, error, trace = type(interrupted), interrupted, interrupted.__traceback__
        else:
            if self._writer is not None and not self._writer.cancelled():
                # An error of the body's own is nobody else's: it leaves as it came, in no group.
                kind, error, trace = (kind, error, trace) if self._writer.exception() else _NO_ERROR
        try:
            await self._tasks.__aexit__(kind, error, trace)
        finally:
            await asyncio.shield(self.keep_mark())
            await asyncio.shield(self._close_database())
            self._abandon()

    # --- Appending --------------------------------------------------------------------------------

    def append(self, event: events.Event, state: StateChanges = _NOTHING) -> Ticket:
        """Number an event and put it in line for the next commit. Returns at once.

        `state` is written in the same transaction: on disk are both, or neither. An event that is
        refused uses no number.

        Raises:
            JournalFull: the event was not kept; a `JournalGap` will count it.
            StorageError: the journal isn't open, the caller is in another thread, or the event
                can't be encoded. A `JournalGap` counts the last two.
        """
        if not self._open:
            raise StorageError(f"{self._path}: the journal is not open")
        self._refuse_other_loop(event)
        reserve = 0 if event.priority >= events.Priority.ALARM else QUEUE_RESERVE_EVENTS
        if not self.stream or len(self._queue) >= QUEUE_EVENTS_MAX - reserve:
            self._note_lost(event, self._failure)
            raise JournalFull(
                f"{self._path}: {len(self._queue)} events wait for the disk: {self._failure}"
            )
        body = self._encoded(event)
        self._note_gap()
        if self.listener is not None:
            self.listener(event)
        return self._put(event, body, state)

    def _refuse_other_loop(self, event: events.Event) -> None:
        """Raise StorageError outside of the loop on which the journal was opened.

        A number is for a row that waits in the queue, and only that loop may touch the queue.
        """
        try:
            running = asyncio.get_running_loop()
        except RuntimeError:
            running = None
        if running is self._loop:
            return
        reason = f"recorded in the thread {threading.current_thread().name}"
        _log.error("event_refused", code=_code(event), reason=reason)
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(self._count_refused, event, reason)
        raise StorageError(
            f"{self._path}: the event {_code(event)} was {reason}: only the journal's own loop may"
        )

    def _encoded(self, event: events.Event) -> bytes:
        """Return the canonical bytes of an event. Raises StorageError where it has none."""
        try:
            body = events.encode(event)
            events.split(body)
        except (Undecodable, msgspec.MsgspecError, ValueError, TypeError, RecursionError) as error:
            reason = f"the event {_code(event)} can't be encoded"
            self._count_refused(event, reason)
            _log.error("event_refused", code=_code(event), reason=reason)
            raise StorageError(f"{self._path}: {reason}") from error
        return body

    def _count_refused(self, event: events.Event, reason: str) -> None:
        """Count an event that no disk refused, in a gap that is recorded at once."""
        self._note_lost(event, reason)
        if self._open and self.stream:
            self._note_gap()

    def _note_lost(self, event: events.Event, reason: str) -> None:
        self._lost += 1
        self._lost_last = (event.at, event.trust, reason)

    async def keep(self, take: Callable[[], StateChanges]) -> None:
        """Write state that no event brings along. `take` is asked between two commits, so that
        what it gives is younger than what any event before it brought.

        Raises:
            StorageError: the journal was closed before it was on disk.
        """
        taken: list[StateChanges] = []

        async def write(database: aiosqlite.Connection) -> None:
            if not taken:
                taken.append(take())
            await _write_state(database, taken)
            await database.commit()

        await self._do(write)

    @property
    def path(self) -> Path:
        """The file."""
        return self._path

    @property
    def state(self) -> Mapping[str, bytes] | None:
        """The site's state as it lay on disk when the file was opened; None until it could be."""
        return self._state

    @property
    def stream(self) -> str:
        """The random id of this file; with its seq it is an event's identity.

        Empty until the file could be opened.
        """
        return self._position.stream

    @property
    def last_committed(self) -> int:
        """The highest number on disk; 0 before the first event."""
        return self._committed

    @property
    def healthy(self) -> bool:
        """Whether the disk takes what is written."""
        return not self._failure

    @property
    def failure(self) -> str:
        """Why it isn't healthy; empty when it is."""
        return self._failure

    def _put(self, event: events.Event, body: bytes, state: StateChanges = _NOTHING) -> Ticket:
        ticket = self._queued(event, body, state)
        if ticket.seq % CHECKPOINT_EVERY == 0:
            self.checkpoint()
        return ticket

    def _queued(self, event: events.Event, body: bytes, state: StateChanges = _NOTHING) -> Ticket:
        """Put an event in line. Its number follows from what is in line, so none can be lost."""
        committed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        row = self._last().row(event, body)
        self._queue.append(_Waiting(row, committed, state))
        self._work.set()
        return Ticket(row.seq, committed)

    def _last(self) -> "_End":
        """Return where the chain ends: with what waits, or with what is on disk."""
        if not self._queue:
            return self._end
        return self._queue[-1].row.end

    async def keep_mark(self) -> None:
        """Note beside the file which stream it has and how far: should it be lost, or an older
        copy stand in its place, that is not silent.
        """
        mark = _Mark(self.stream, self._committed)
        if not mark.stream or mark == self._known:
            return
        try:
            await asyncio.to_thread(write_atomically, self._mark_file, msgspec.json.encode(mark))
        except StorageError as error:
            _log.warning("the journal's mark is not kept", why=str(error))
        else:
            self._known = mark

    def checkpoint(self) -> None:
        """Sign the chain as it stands, as its next event; not where nothing has come since."""
        head = Head(self.stream, *self._last())
        if self._sign is None or not head.stream or head.seq == self._checkpoint:
            return
        signed = self._sign(head)
        if signed is None:
            return
        message = base64.b64encode(signed).decode("ascii")
        event = events.Checkpoint(
            at=self._clock.now(), trust=int(self._clock.trust()), message=message
        )
        self._refuse_other_loop(event)
        self._checkpoint = self._queued(event, events.encode(event)).seq

    def _note_gap(self) -> None:
        """Once there is room again, say how many events were lost."""
        if self._lost_last is None or len(self._queue) >= QUEUE_EVENTS_MAX:
            return
        at, trust, why = self._lost_last
        gap = events.JournalGap(at=at, trust=trust, lost=self._lost, why=why)
        self._put(gap, events.encode(gap))
        self._lost, self._lost_last = 0, None

    # --- Reading ----------------------------------------------------------------------------------

    async def raw_after(self, seq: int, limit: int = READ_EVENTS_MAX) -> list[RawEvent]:
        """Committed events above `seq`, in order, at most `limit` (and `READ_EVENTS_MAX`).

        An event that isn't JSON any more is replaced by a `JournalGap`, so that whoever follows
        gets round it and learns of it.
        """
        limit = min(limit, READ_EVENTS_MAX)
        rows = await self._fetch(
            "SELECT seq, at, body, personal, erased, chain FROM event WHERE seq >= ? AND seq <= ?"
            " ORDER BY seq LIMIT ?",
            (seq, self._committed, limit + 1),
        )
        found: list[RawEvent] = []
        # Only where the event before was purged is there nothing to hold the first one against.
        previous = genesis(self.stream) if seq == 0 and self._purged == 0 else None
        for number, at, public, personal, erased, chain in rows:
            if number > seq and len(found) < limit:
                body = events.join(public, (personal or b"")[SALT_BYTES:])
                commitment = _commitment(personal, erased)
                if previous is not None and link(previous, number, public, commitment) != chain:
                    body = self._changed(number, at, body)
                found.append(RawEvent(self.stream, number, body))
            previous = chain
        return found

    async def proof_after(self, seq: int, limit: int = READ_EVENTS_MAX) -> list[ProofRow]:
        """Committed events above `seq` as they are chained, in order: for an export."""
        rows = await self._fetch(
            "SELECT seq, body, personal, erased, chain FROM event WHERE seq > ? AND seq <= ?"
            " ORDER BY seq LIMIT ?",
            (seq, self._committed, min(limit, READ_EVENTS_MAX)),
        )
        return [ProofRow(*row) for row in rows]

    async def anchor(self) -> Head:
        """What the oldest event that is still here is chained to."""
        ((purged, chain),) = await self._fetch("SELECT purged, purged_chain FROM mark", ())
        return Head(self.stream, purged, chain if purged else genesis(self.stream))

    async def erase(self, holder: str) -> tuple[int, int]:
        """Delete what settled events tell of a holder; their place in the chain stays.

        Returns the number of events changed, and the number of events that still name the holder
        because the cloud has not acknowledged them.

        Raises:
            StorageError: the journal can't be read or written, or was closed.
        """
        of_holder = re.compile(
            rb'(?<=["/])' + re.escape(msgspec.json.encode(holder)[1:-1]) + rb'(?=["/])'
        )
        erased, kept, low = 0, 0, self._purged
        while low < self._committed:
            rows = await self._fetch(
                "SELECT seq, personal FROM event WHERE seq > ? AND seq <= ? ORDER BY seq",
                (low, low + ERASE_STEP_EVENTS),
            )
            found = [
                (_commitment(personal, None), seq)
                for seq, personal in rows
                if personal is not None and of_holder.search(personal, SALT_BYTES)
            ]
            due = [row for row in found if row[1] <= self._settled]
            if due:
                await self._do(functools.partial(_erase, rows=due))
            erased, kept, low = (
                erased + len(due),
                kept + len(found) - len(due),
                low + ERASE_STEP_EVENTS,
            )
        salvaged: list[int] = []
        await self._do(functools.partial(_erase_salvaged, of_holder=of_holder, count=salvaged))
        return erased + sum(salvaged[-1:]), kept

    async def read_after(
        self, seq: int, limit: int = READ_EVENTS_MAX
    ) -> list[events.JournalledEvent]:
        """`raw_after`, decoded."""
        return [
            events.JournalledEvent(raw.stream, raw.seq, self._decode(raw))
            for raw in await self.raw_after(seq, limit)
        ]

    async def wait_for_new(self, after_seq: int) -> int:
        """Wait until an event above `after_seq` is on disk; return the highest such number.

        Raises:
            StorageError: the journal was closed.
        """
        while self._committed <= after_seq:
            if not self._open:
                raise StorageError(f"{self._path}: the journal is closed")
            await self._news.wait()
        return self._committed

    async def urgent_after(self, seq: int, limit: int) -> list[RawEvent]:
        """Committed alarms and emergencies above `seq`, in order, at most `limit`."""
        rows = await self._fetch(
            "SELECT seq FROM event WHERE priority >= 2 AND seq > ? AND seq <= ? ORDER BY seq"
            " LIMIT ?",
            (seq, self._committed, min(limit, READ_EVENTS_MAX)),
        )
        found: list[RawEvent] = []
        for (number,) in rows:
            found += await self.raw_after(number - 1, 1)
        return found

    async def wait_for_urgent(self, after_seq: int) -> None:
        """Wait until an alarm or emergency above `after_seq` is on disk.

        Raises:
            StorageError: the journal was closed.
        """
        while self._urgent <= after_seq:
            if not self._open:
                raise StorageError(f"{self._path}: the journal is closed")
            await self._news.wait()

    @property
    def backlog(self) -> Backlog:
        """How much the cloud has not acknowledged."""
        return Backlog(self._committed - self._acknowledged, len(self._queue))

    def _changed(self, seq: int, at: int, body: bytes) -> bytes:
        _log.error("an event or its chain has changed on disk", file=str(self._path), seq=seq)
        try:
            decode_json(body, dict[str, msgspec.Raw])
        except Undecodable:
            why = f"event {seq} changed on disk"
            gap = events.JournalGap(at=_instant(at), trust=int(TimeTrust.T0), lost=1, why=why)
            return events.encode(gap)
        return body

    def _decode(self, raw: RawEvent) -> events.Event:
        try:
            return events.decode(raw.body)
        except Undecodable:
            # Written by a later release, with a code that this one doesn't know.
            return events.JournalGap(
                at=_EPOCH,
                trust=int(TimeTrust.T0),
                lost=1,
                why=f"event {raw.seq} is of no known kind",
            )

    async def _fetch(self, query: str, values: _Values) -> list[sqlite3.Row]:
        try:
            return list(await self._opened().execute_fetchall(query, values))
        except SqliteErrors as error:
            if is_damage(error):
                self._suspect = True
                self._work.set()
            raise StorageError(f"{self._path}: can't be read: {error}") from error
        except ValueError as error:  # aiosqlite's word for a connection that was closed meanwhile
            raise StorageError(f"{self._path}: the journal is not open") from error

    # --- Acknowledging and purging ----------------------------------------------------------------

    @property
    def acknowledged(self) -> int:
        """The watermark: every event up to it has arrived, and may be deleted in time."""
        return self._acknowledged

    @property
    def _settled(self) -> int:
        """The last event that may be deleted in time: acknowledged, or at a local journal on disk.

        The watermark itself stays where it is, so that a broker or cloud that comes later gets
        every event that is still here.
        """
        return self._committed if self._local else self._acknowledged

    async def acknowledge(self, stream: str, seq: int) -> bool:
        """Note that every event up to `seq` has arrived. The watermark never falls.

        Returns whether it counts: not for another stream, nor above what was ever committed here.
        The latter is reported: it means that this file has gone back in time.

        Raises:
            StorageError: the journal was closed before it was on disk.
        """
        if stream != self.stream:
            _log.warning("acknowledgement of another stream ignored", stream=stream, seq=seq)
            return False
        if seq > self._committed:
            _log.error(
                "acknowledgement beyond the last event refused", seq=seq, last=self._committed
            )
            return False
        if seq > self._acknowledged:
            await self._do(lambda database: self._raise_watermark(database, seq))
        return True

    async def purge(self, before: datetime) -> int:
        """Delete settled events older than `before`, oldest first; return how many.

        The order of events is what is known for sure, so an event goes when it is older than
        `before` and so are all before it, or when a later one with trusted time is older: one with
        a wrong time in the future holds nothing back. Appends go on between the steps.

        Raises:
            StorageError: the file can't be read, or the journal was closed.
        """
        limit, first = _ms(before), self._purged
        end = await self._end_of_purge(limit)
        while self._purged < end:
            upto = min(self._purged + PURGE_STEP_EVENTS, end)
            await self._do(functools.partial(self._delete, upto=upto))
        await self._do(lambda database: _delete_salvaged(database, limit))
        return self._purged - first

    async def _end_of_purge(self, limit: int) -> int:
        end, contiguous, low = self._purged, True, self._purged
        while low < self._settled:
            high = min(low + PURGE_STEP_EVENTS, self._settled)
            ((old, trusted),) = await self._fetch(
                "SELECT"
                " (SELECT min(seq) FROM event WHERE seq > :low AND seq <= :high AND at >= :limit),"
                " (SELECT max(seq) FROM event WHERE seq > :low AND seq <= :high AND at < :limit"
                " AND trust >= :trust)",
                {"low": low, "high": high, "limit": limit, "trust": int(TimeTrust.T2)},
            )
            if contiguous:
                end = high if old is None else old - 1
                contiguous = old is None
            end = max(end, trusted or 0)
            low = high
        return end

    async def _raise_watermark(self, database: aiosqlite.Connection, seq: int) -> None:
        await database.execute(
            "UPDATE mark SET acknowledged = :seq WHERE acknowledged < :seq", {"seq": seq}
        )
        await database.commit()
        self._acknowledged = max(self._acknowledged, seq)

    async def _delete(self, database: aiosqlite.Connection, upto: int) -> None:
        if self._local:
            await self._raise_watermark(database, upto)
        # The acknowledgement is asked for once more where it counts: in the statement that deletes.
        await database.execute(
            "UPDATE mark SET purged_chain = (SELECT chain FROM event WHERE seq = :upto),"
            " purged = :upto WHERE purged < :upto AND acknowledged >= :upto",
            {"upto": upto},
        )
        await database.execute("DELETE FROM event WHERE seq <= (SELECT purged FROM mark)")
        await database.commit()
        self._purged = max(self._purged, upto)

    async def _do(self, job: _Job) -> None:
        """Have the writer do something between two groups, and wait for it."""
        if not self._open:
            raise StorageError(f"{self._path}: the journal is not open")
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._jobs.append((job, done))
        self._work.set()
        await asyncio.shield(done)

    # --- The writer -------------------------------------------------------------------------------

    async def _write(self) -> None:
        """Commit group after group until the journal is closed and all is on disk."""
        wait_s = RETRY_S_FIRST
        while True:
            self._work.clear()
            if not (self._queue or self._jobs):
                if not self._open:
                    return
                if not self._suspect:
                    await self._work.wait()
                    continue
            try:
                await self._write_once()
            except JournalBegunAgain:
                raise
            except (*SqliteErrors, StorageError) as error:
                self._note_failure(str(error))
                await self._recover(error)
            else:
                wait_s = RETRY_S_FIRST
                self._note_success()
                continue
            await asyncio.sleep(wait_s)
            wait_s = min(wait_s * 2, RETRY_S_MAX)

    async def _write_once(self) -> None:
        if self._suspect or self._database is None:
            await self._reopen()
        database = self._opened()
        group = list(itertools.islice(self._queue, GROUP_EVENTS_MAX))
        if group:
            await _insert(database, [waiting.row for waiting in group])
            await _write_state(database, (waiting.state for waiting in group))
            await database.commit()
            urgent = (each.row.seq for each in group if each.row.priority >= events.Priority.ALARM)
            self._urgent = max(self._urgent, *urgent, 0)
            self._settle(group[-1].row.seq)
        self._note_gap()
        if self._jobs:
            job, done = self._jobs[0]
            await job(database)
            self._jobs.popleft()
            if not done.done():
                done.set_result(None)

    def _settle(self, last: int) -> None:
        """Everything up to `last` is on disk: say so to whoever waits."""
        while self._queue and self._queue[0].row.seq <= last:
            row, committed, _ = self._queue.popleft()
            self._end = _End(row.seq, row.chain)
            if not committed.done():
                committed.set_result(None)
        self._committed = max(self._committed, last)
        news, self._news = self._news, asyncio.Event()
        news.set()

    def _note_failure(self, why: str) -> None:
        if not self._failure:
            _log.warning("the journal can't be written", file=str(self._path), why=why)
        self._failure = why

    def _note_success(self) -> None:
        if self._failure:
            _log.info("the journal is written again", file=str(self._path))
        self._failure = ""

    async def _recover(self, error: Exception) -> None:
        """Bring the connection to a known state: rolled back, or closed and to be opened anew."""
        code = getattr(error, "sqlite_errorcode", None)
        if self._database is not None and code is not None and code & 0xFF == sqlite3.SQLITE_FULL:
            try:
                await self._database.rollback()
            except SqliteErrors:
                await self._close_database()
            return
        await self._close_database()

    async def _reopen(self) -> None:
        """Open the file again after a failure, and see what did get committed.

        If it turned out to be damaged, or has got other events meanwhile (of a file that was set
        aside), what waits is saved behind them and the core falls: what waits has been told by
        numbers that are not its own any more, so everything starts again.
        """
        await self._close_database()
        position = await self._open_file()
        self._suspect = False
        if not self.stream:
            self._stand_at(position)
        if not self._is_ours(position):
            end, saved = _End(position.last, position.chain), list[_Row]()
            for waiting in self._queue:
                saved.append(end.again(waiting.row))
                end = saved[-1].end
            await _insert(self._opened(), saved)
            await _write_state(self._opened(), (waiting.state for waiting in self._queue))
            await self._opened().commit()
            self._queue.clear()
            raise JournalBegunAgain(
                f"{self._path}: is not what it was; begun again with {len(saved)} waiting events"
            )
        # A commit that reported an error may have reached the disk all the same.
        self._acknowledged, self._purged = position.acknowledged, position.purged
        self._urgent = max(self._urgent, position.urgent)
        self._settle(position.last)

    def _is_ours(self, position: _Position) -> bool:
        """Whether the file ends where this stream was last seen to, or within what waits."""
        return position.stream == self.stream and (
            position.last == self._committed
            or any(
                (waiting.row.seq, waiting.row.chain) == (position.last, position.chain)
                for waiting in self._queue
            )
        )

    async def _stand_at_what_reads(self) -> None:
        """Go on behind the last event of a file that can't be written now, if it can be read."""
        try:
            database = await open_database_to_read(self._path)
            try:
                self._stand_at(await _read_position(database, self._path))
            finally:
                await database.close()
        except (*SqliteErrors, StorageError) as error:
            _log.error("the journal can't be read either: nobody is let in", why=str(error))

    def _stand_at(self, position: _Position) -> None:
        self._state = position.state
        self._position, self._committed = position, position.last
        self._acknowledged, self._purged = position.acknowledged, position.purged
        self._urgent = position.urgent
        self._end = _End(position.last, position.chain)

    def _opened(self) -> aiosqlite.Connection:
        if self._database is None:
            raise StorageError(f"{self._path}: the journal is not open")
        return self._database

    async def _close_database(self) -> None:
        database, self._database = self._database, None
        if database is None:
            return
        try:
            await database.close()
        except SqliteErrors as error:
            _log.warning("closing the journal failed", file=str(self._path), why=str(error))

    def _abandon(self) -> None:
        """Tell whoever still waits that it won't come."""
        gone = StorageError(f"{self._path}: closed before the event was on disk: {self._failure}")
        if lost := len(self._queue) + self._lost:
            _log.error("events lost at closing", count=lost, why=self._failure)
        waiting = [entry.committed for entry in self._queue] + [done for _, done in self._jobs]
        self._queue.clear()
        self._jobs.clear()
        for future in waiting:
            if not future.done():
                future.set_exception(gone)
                future.exception()  # nobody need be listening

    # --- Opening ----------------------------------------------------------------------------------

    async def _open_file(self) -> _Position:
        """Open the file and set `_database`; set a damaged one aside and begin a new one."""
        gone = self._known is not None and not self._path.exists()
        try:
            position = await self._try_open()
        except DatabaseCorrupt as error:
            kept = set_aside(self._path)
            _log.error(
                "the journal was damaged and is set aside", why=str(error), kept_as=kept.name
            )
            position = await self._try_open()
        try:
            # Whatever was set aside and not taken over yet: now, or before a power cut.
            aside = await _not_taken_over(self._opened(), self._path)
            for kept in aside:
                position = await self._take_over(kept, position)
            if gone and not aside:
                position = await self._tell_gone(position)
            forget_aside(self._path, ASIDE_MAX)
        except (*SqliteErrors, StorageError, OSError) as error:
            # A full disk must not keep the doors from being served; it is tried at every open.
            _log.error("salvaged events could not be taken over yet", why=str(error))
            await self._opened().rollback()
        return position

    async def _try_open(self) -> _Position:
        _refuse_emptied(self._path)
        self._database = await open_database(self._path, _schema())
        try:
            position = await _read_position(self._database, self._path)
            self._refuse_older(position)
        except SqliteErrors as error:
            await self._close_database()
            damage = is_damage(error)
            kind = DatabaseCorrupt if damage else StorageError
            raise kind(f"{self._path}: can't be read: {error}") from error
        except BaseException:
            await self._close_database()
            raise
        return position

    def _refuse_older(self, position: _Position) -> None:
        """Raise DatabaseCorrupt for an older copy: its next numbers have been used already."""
        known = self._last_known(position.stream)
        if known is not None and known > position.last:
            raise DatabaseCorrupt(
                f"{self._path}: damaged: it ends at {position.last} and has had {known}"
            )

    async def _take_over(self, kept: Path, position: _Position) -> _Position:
        """In one transaction: all that still reads, the restart, what was not acknowledged."""
        found = await asyncio.to_thread(salvage, kept)
        database = self._opened()
        await database.execute("INSERT INTO aside VALUES (?, ?)", (kept.name, found.stream))
        await database.executemany(
            "INSERT INTO salvaged VALUES (?, ?, ?, ?)",
            ((found.stream, row.seq, row.at, row.body) for row in found.rows),
        )
        await database.executemany("INSERT OR IGNORE INTO state VALUES (?, ?)", found.state.items())
        restart = events.JournalRestarted(
            at=self._clock.now(),
            trust=int(self._clock.trust()),
            kept_as=kept.name,
            salvaged=len(found.rows),
            old_stream=found.stream,
            missing=found.missing(self._last_known(found.stream)),
            last_known=self._last_known(found.stream),
        )
        made = [_End(position.last, position.chain).row(restart, events.encode(restart))]
        for event, body in found.unsent():
            made.append(made[-1].end.row(event, body))
        await _insert(database, made)
        await database.commit()
        _log.error(
            "a new stream is begun",
            kept_as=kept.name,
            old_stream=found.stream,
            salvaged=len(found.rows),
            sent_again=len(made) - 1,
        )
        urgent = max(row.seq for row in made if row.priority >= events.Priority.ALARM)
        state = {**found.state, **(position.state or {})}
        last = made[-1].end
        return position._replace(last=last.seq, chain=last.chain, urgent=urgent, state=state)

    async def _tell_gone(self, position: _Position) -> _Position:
        """There was a journal here, and nothing is left of it but its mark."""
        known = self._known
        if known is None:
            return position
        restart = events.JournalRestarted(
            at=self._clock.now(),
            trust=int(self._clock.trust()),
            kept_as="",
            salvaged=0,
            old_stream=known.stream,
            last_known=known.seq,
        )
        row = _End(position.last, position.chain).row(restart, events.encode(restart))
        await _insert(self._opened(), [row])
        await self._opened().commit()
        _log.error("the journal is gone: a new stream is begun", old_stream=known.stream)
        return position._replace(last=row.seq, chain=row.chain, urgent=row.seq)

    def _last_known(self, stream: str) -> int | None:
        known = self._known
        return known.seq if known is not None and known.stream == stream else None


@functools.cache
def _schema() -> tuple[Migration, ...]:
    return migrations("gateway.journal.schema")


def _refuse_emptied(path: Path) -> None:
    """Raise DatabaseCorrupt for a file with nothing in it: SQLite would begin it anew unsaid."""
    with contextlib.suppress(OSError):  # whatever is wrong shows when it is opened
        if path.stat().st_size == 0:
            raise DatabaseCorrupt(f"{path}: damaged: it is empty")


def _read_mark(path: Path) -> _Mark | None:
    try:
        with open_plain(path) as file:
            return decode_json(file.read(MARK_BYTES_MAX), _Mark)
    except FileNotFoundError:
        return None
    except (OSError, Undecodable) as error:
        # A help and not a condition: a start must not depend on it.
        _log.warning("journal_mark_unreadable", file=str(path), reason=str(error))
        return None


async def _insert(database: aiosqlite.Connection, rows: Iterable[_Row]) -> None:
    await database.executemany(
        "INSERT INTO event (seq, at, trust, code, priority, body, personal, chain)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        rows,
    )


async def _write_state(database: aiosqlite.Connection, changes: Iterable[StateChanges]) -> None:
    last: dict[str, bytes | None] = {}
    for each in changes:
        last.update(each)
    if not last:
        return
    await database.executemany(
        "INSERT INTO state VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
        [(key, value) for key, value in last.items() if value is not None],
    )
    await database.executemany(
        "DELETE FROM state WHERE key = ?", [(key,) for key, value in last.items() if value is None]
    )


async def _read_position(database: aiosqlite.Connection, path: Path) -> _Position:
    """Where the file stands. Raises DatabaseCorrupt where its parts don't fit together."""
    facts = list(
        await database.execute_fetchall(
            "SELECT (SELECT value FROM meta WHERE key = 'stream'), acknowledged, purged,"
            " purged_chain, (SELECT count(*) FROM event), (SELECT min(seq) FROM event),"
            " (SELECT max(seq) FROM event),"
            " (SELECT max(seq) FROM event WHERE priority >= 2) FROM mark"
        )
    )
    if len(facts) != 1:
        raise DatabaseCorrupt(f"{path}: damaged: no mark")
    stream, acknowledged, purged, purged_chain, count, first, last, urgent = facts[0]
    if not isinstance(stream, str) or not STREAM.fullmatch(stream):
        raise DatabaseCorrupt(f"{path}: damaged: no stream")
    last = purged if last is None else last
    if last - purged != count or (count and first != purged + 1):
        raise DatabaseCorrupt(f"{path}: damaged: {count} events between {purged} and {last}")
    if not 0 <= purged <= acknowledged <= last:
        raise DatabaseCorrupt(f"{path}: damaged: acknowledged {acknowledged} of {last}")
    chain = purged_chain if purged else genesis(stream)
    # The youngest events are where a medium that lies about what it has written shows it.
    tail = await database.execute_fetchall(
        "SELECT seq, body, personal, erased, chain FROM event WHERE seq > ? ORDER BY seq",
        (last - TAIL_EVENTS,),
    )
    for seq, body, personal, erased, expected in tail:
        if (seq == purged + 1 or seq > last - TAIL_EVENTS + 1) and (
            link(chain, seq, body, _commitment(personal, erased)) != expected
        ):
            raise DatabaseCorrupt(f"{path}: damaged: event {seq} has changed")
        chain = expected
    if not isinstance(chain, bytes) or len(chain) != CHAIN_BYTES:
        raise DatabaseCorrupt(f"{path}: damaged: no chain at {last}")
    stored = await database.execute_fetchall("SELECT key, value FROM state")
    state: dict[str, bytes] = {key: value for key, value in stored}  # noqa: C416 - rows, no pairs
    return _Position(stream, last, chain, acknowledged, purged, urgent or 0, state)


async def _not_taken_over(database: aiosqlite.Connection, path: Path) -> list[Path]:
    known = {row[0] for row in await database.execute_fetchall("SELECT kept_as FROM aside")}
    return [kept for kept in kept_aside(path) if kept.name not in known]


async def _erase(database: aiosqlite.Connection, rows: list[tuple[bytes, int]]) -> None:
    # What is freed in the file is overwritten, not only forgotten.
    await database.execute("PRAGMA secure_delete = ON")
    try:
        await database.executemany(
            "UPDATE event SET erased = ?, personal = NULL WHERE seq = ?", rows
        )
        await database.commit()
    finally:
        await database.execute("PRAGMA secure_delete = FAST")


async def _erase_salvaged(
    database: aiosqlite.Connection, of_holder: re.Pattern[bytes], count: list[int]
) -> None:
    """Forget them in what was salvaged too, and leave no copy in the log."""
    stored = await database.execute_fetchall("SELECT rowid, body FROM salvaged")
    found = [(rowid,) for rowid, body in stored if of_holder.search(body)]
    await database.execute("PRAGMA secure_delete = ON")
    try:
        await database.executemany("DELETE FROM salvaged WHERE rowid = ?", found)
        await database.commit()
    finally:
        await database.execute("PRAGMA secure_delete = FAST")
    await database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    count.append(len(found))


async def _delete_salvaged(database: aiosqlite.Connection, limit: int) -> None:
    await database.execute("DELETE FROM salvaged WHERE at < ?", (limit,))
    await database.commit()


def _commitment(personal: bytes | None, erased: bytes | None) -> bytes:
    if personal is not None:
        return commitment_to(personal[:SALT_BYTES], personal[SALT_BYTES:])
    return erased or b""


def _code(event: events.Event) -> str:
    return str(event.__struct_config__.tag)


def _ms(at: datetime) -> int:
    return (at - _EPOCH) // timedelta(milliseconds=1)


def _instant(ms: int) -> datetime:
    try:
        return _EPOCH + timedelta(milliseconds=ms)
    except OverflowError:
        return _EPOCH
