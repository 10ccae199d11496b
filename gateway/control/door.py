"""Controls one door: facts in, decisions made, effects carried out, in order."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Protocol

import msgspec
import structlog

from gateway.clock import Clock
from gateway.domain import door_state, events
from gateway.domain.decision import PresentedCredential, Request, decide
from gateway.domain.door_state import (
    ContactSaid,
    Decided,
    DoorFact,
    DoorRules,
    DoorState,
    Effect,
    Indicate,
    Moment,
    PulseStrike,
    Record,
    Released,
    ReleaseFailed,
    RexPressed,
    Side,
    StrikeSaid,
    TimeReached,
    WakeAt,
)
from gateway.domain.entitlements import Entitlements
from gateway.domain.events import Event
from gateway.domain.restrictions import turned
from gateway.domain.signal import Signal
from gateway.errors import DeviceError, StorageError

log = structlog.get_logger()

COMMIT_WAIT = timedelta(milliseconds=250)
"""The longest a grant waits for its record to be on disk (PROMISES.md, order of a grant)."""
TAPS_WAITING_MAX = 8
"""A person taps once or twice a second: what is beyond is a flood, and is dropped and counted."""
TAP_AGE_MAX = timedelta(seconds=2)
"""Nobody stands there any more: a door must not open late for somebody else."""
POINTS_WAITING_MAX = 256
"""Debounced inputs change at most 33 times a second, and a pulse is confirmed within one."""


class Ticket(Protocol):
    """The receipt for an event: its number at once, its commit later."""

    seq: int

    @property
    def committed(self) -> "asyncio.Future[None]":
        """Done when it is on disk."""

    async def committed_within(self, limit: timedelta) -> bool:
        """Whether it is on disk before `limit` has passed."""


class Journal(Protocol):
    """Where the controllers write what happened."""

    def append(self, event: Event) -> Ticket:
        """Append at once. Raises StorageError when nothing more can be kept."""


class InForce(msgspec.Struct, frozen=True):
    """The entitlements in force, and how old they are."""

    records: Entitlements
    revision: str | None
    as_of: datetime | None


class Wiring(msgspec.Struct, frozen=True):
    """The devices of one door, as functions bound to their points."""

    pulse: Callable[[timedelta], Awaitable[None]]
    indicators: dict[Side, tuple[Callable[[Signal], Awaitable[None]], ...]]
    unreleased_opening_is_forced: bool = True


class CardTapped(msgspec.Struct, frozen=True):
    """A credential was presented at a reader of this door."""

    device: str
    side: Side
    kind: str
    value: str
    at: timedelta

    def __repr__(self) -> str:
        """Without the value: a credential is never printed."""
        return f"CardTapped(device={self.device!r}, side={self.side!r}, kind={self.kind!r})"


class PointChanged(msgspec.Struct, frozen=True):
    """The contact, REX or strike of this door reported."""

    fact: ContactSaid | RexPressed | StrikeSaid | TimeReached
    at: timedelta


class DoorController:
    """One door and its two lanes: taps, which may wait for the disk, and points, which may not.

    REX goes past a grant that waits for its commit. The state is shared and only changed in
    `step`, between two awaits, so the lanes can't tear it.
    """

    def __init__(
        self,
        door: str,
        wiring: Wiring,
        *,
        journal: Journal,
        in_force: Callable[[], InForce],
        clock: Clock,
        on_change: Callable[[str], None],
    ) -> None:
        self.door = door
        self.state = DoorState()
        self._wiring = wiring
        self._journal = journal
        self._in_force = in_force
        self._clock = clock
        self._on_change = on_change
        self._taps: asyncio.Queue[CardTapped | asyncio.Future[None]] = asyncio.Queue(
            TAPS_WAITING_MAX
        )
        self._points: asyncio.Queue[PointChanged | asyncio.Future[None]] = asyncio.Queue(
            POINTS_WAITING_MAX
        )
        self._ignored = 0
        self._last_ticket: Ticket | None = None
        self._tasks = asyncio.TaskGroup()

    async def run(self) -> None:
        """Work until cancelled."""
        async with self._tasks:
            self._tasks.create_task(self._run_taps(), name=f"{self.door} taps")
            self._tasks.create_task(self._run_points(), name=f"{self.door} points")

    def tap(self, tap: CardTapped) -> None:
        """Take a tap at once, or count it as ignored when too many wait."""
        try:
            self._taps.put_nowait(tap)
        except asyncio.QueueFull:
            self._ignored += 1

    def point(self, change: PointChanged) -> None:
        """Take a report of a point at once."""
        try:
            self._points.put_nowait(change)
        except asyncio.QueueFull:
            self._ignored += 1
            log.error("point report dropped", door=self.door, fact=type(change.fact).__name__)

    async def self_test(self) -> None:
        """Return when both lanes have answered and a decision could be made (watchdog)."""
        loop = asyncio.get_running_loop()
        for lane in (self._taps, self._points):
            answered: asyncio.Future[None] = loop.create_future()
            await lane.put(answered)
            await answered
        self._decide(CardTapped("self-test", "in", "", "", self._clock.monotonic()), (("", ""),))

    # --- The lanes -------------------------------------------------------------------------------

    async def _run_taps(self) -> None:
        while True:
            tap = await self._taps.get()
            if isinstance(tap, asyncio.Future):
                tap.set_result(None)
            elif self._clock.monotonic() - tap.at > TAP_AGE_MAX:
                self._ignored += 1
            else:
                await self._tapped(tap)
            if self._ignored and self._taps.empty():
                self._record_ignored()

    async def _run_points(self) -> None:
        while True:
            change = await self._points.get()
            if isinstance(change, asyncio.Future):
                change.set_result(None)
            else:
                await self._take(change.fact, change.at)

    async def _tapped(self, tap: CardTapped) -> None:
        credentials = door_state.credentials_to_decide(
            self.state, tap.side, tap.kind, tap.value, tap.at
        )
        decided = self._decide(tap, credentials)
        await self._take(decided, tap.at)

    async def _take(self, fact: DoorFact, at: timedelta) -> None:
        self.state, effects = door_state.step(self._rules(), self.state, fact, self._moment())
        self._on_change(self.door)
        await self._carry_out(effects, at)

    # --- Deciding --------------------------------------------------------------------------------

    def _decide(self, tap: CardTapped, credentials: tuple[tuple[str, str], ...]) -> Decided:
        force, moment = self._in_force(), self._moment()
        trusted = self._clock.trust().decides_as_trusted
        request = Request(
            door=self.door,
            side=tap.side,
            credentials=tuple(PresentedCredential(kind, value) for kind, value in credentials),
            at=moment.wall,
            clock="trusted" if trusted else "untrusted",
            lockdown=False,
            as_of=force.as_of or moment.wall,
        )
        decision = turned(force.records, request, decide(force.records, request))
        primary = force.records.find(*credentials[0])
        door = force.records.tables.doors.get(self.door)
        unlock = door_state.UNLOCK_DEFAULT
        if decision.outcome == "grant" and door is not None:
            unlock = door.unlock
            if decision.holder is not None:
                holder = force.records.holding(decision.holder).holder
                unlock = door.extended_unlock if holder.extended_unlock else door.unlock
        event = events.AccessDecided(
            at=moment.wall,
            trust=moment.trust,
            door=self.door,
            side=tap.side,
            device=tap.device,
            kinds=tuple(kind for kind, _ in credentials),
            outcome=decision.outcome,
            reason=decision.reason,
            holder=decision.holder,
            via=decision.via,
            duress=decision.duress,
            revision=force.revision,
            as_of=force.as_of,
            credential=None if primary is None else primary.id,
            decide_ms=_ms(self._clock.monotonic() - tap.at),
        )
        return Decided(
            event=event,
            presented_at=tap.at,
            challenged=credentials[0] if decision.outcome == "challenge" else None,
            unlock=unlock,
        )

    def _rules(self) -> DoorRules:
        door = self._in_force().records.tables.doors.get(self.door)
        forced = self._wiring.unreleased_opening_is_forced
        if door is None:
            return DoorRules(self.door, unreleased_opening_is_forced=forced)
        return DoorRules(
            self.door,
            unlock=door.unlock,
            held_open=door.held_open,
            unreleased_opening_is_forced=forced,
        )

    def _moment(self) -> Moment:
        return Moment(
            mono=self._clock.monotonic(), wall=self._clock.now(), trust=int(self._clock.trust())
        )

    # --- Doing -----------------------------------------------------------------------------------

    async def _carry_out(self, effects: list[Effect], at: timedelta) -> None:
        ticket: Ticket | None = None
        for effect in effects:
            match effect:
                case Record():
                    ticket = self._append(effect.event)
                case PulseStrike():
                    if not await self._release(effect, ticket, at):
                        return
                case Indicate():
                    self._show(effect)
                case WakeAt():
                    self._wake(effect.at)

    async def _release(self, effect: PulseStrike, ticket: Ticket | None, at: timedelta) -> bool:
        """Pulse the strike by the right of `ticket`; True when the relay has confirmed it."""
        seq = None if ticket is None else ticket.seq
        failed = ReleaseFailed(effect.cause, seq, "", effect.side)
        if effect.wait_for_commit and ticket is None:
            why = "its grant can't be recorded: the journal is full"
            await self._take(msgspec.structs.replace(failed, why=why), at)
            return False
        late = (
            effect.wait_for_commit
            and ticket is not None
            and not await self._committed_in_time(ticket)
        )
        try:
            await self._wiring.pulse(effect.duration)
        except DeviceError as error:
            await self._take(msgspec.structs.replace(failed, why=str(error)), at)
            return False
        took = self._clock.monotonic() - at
        if late and seq is not None:
            moment = self._moment()
            self._append(
                events.LateCommit(at=moment.wall, trust=moment.trust, door=self.door, seq=seq)
            )
        await self._take(Released(effect.cause, seq, effect.duration, took), at)
        return True

    async def _committed_in_time(self, ticket: Ticket) -> bool:
        """Wait for `ticket` to be on disk, at most COMMIT_WAIT; not at all while the disk hangs."""
        earlier, self._last_ticket = self._last_ticket, ticket
        if earlier is not None and not earlier.committed.done():
            # An earlier grant ran out of patience already: nobody waits twice for one stall.
            return ticket.committed.done()
        return await ticket.committed_within(COMMIT_WAIT)

    def _append(self, event: Event) -> Ticket | None:
        try:
            return self._journal.append(event)
        except StorageError as error:
            log.error("event not kept", door=self.door, why=str(error))
            return None

    def _record_ignored(self) -> None:
        count, self._ignored = self._ignored, 0
        moment = self._moment()
        log.warning("taps ignored", door=self.door, count=count)
        self._append(
            events.InputIgnored(at=moment.wall, trust=moment.trust, door=self.door, count=count)
        )

    def _show(self, effect: Indicate) -> None:
        for indicate in self._wiring.indicators.get(effect.side, ()):
            self._tasks.create_task(self._show_one(indicate, effect.signal))

    async def _show_one(
        self, indicate: Callable[[Signal], Awaitable[None]], signal: Signal
    ) -> None:
        try:
            await indicate(signal)
        except DeviceError as error:
            # A lamp that stays dark changes no decision; the device's own loss is an event.
            log.debug("not indicated", door=self.door, signal=signal, why=str(error))

    def _wake(self, at: timedelta) -> None:
        wait_s = max(0.0, (at - self._clock.monotonic()).total_seconds())
        change = PointChanged(TimeReached(), at)
        asyncio.get_running_loop().call_later(wait_s, self.point, change)


def _ms(duration: timedelta) -> float:
    return round(duration / timedelta(milliseconds=1), 3)
