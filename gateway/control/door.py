"""Controls one door: facts in, decisions made, effects carried out, in order."""

import asyncio
import contextlib
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime, timedelta
from functools import partial
from typing import NamedTuple, Protocol

import msgspec
import structlog

from gateway.clock import Clock, TimeTrust
from gateway.control.memory import Overlaid, SiteMemory
from gateway.control.shared_tap import SharedTap
from gateway.domain import (
    assurance,
    door_state,
    events,
    guessing,
    member_text,
    occupancy,
    pin_lockout,
)
from gateway.domain.after_decision import Assurance, Case, Surroundings
from gateway.domain.break_glass import DIGITS, Role, broken
from gateway.domain.carried_grant import (
    BEARER,
    PREFIX,
    PROVEN,
    CarriedGrant,
    Presented,
    decide_carried,
)
from gateway.domain.decision import Decision, PresentedCredential, Request, decide
from gateway.domain.door_mode import InForceMode, Standing, mode_of
from gateway.domain.door_state import (
    Alarm,
    Cause,
    ContactSaid,
    Decided,
    DecidePin,
    DoorFact,
    DoorRules,
    DoorState,
    Effect,
    GlassBroken,
    Indicate,
    LeftUnseen,
    ModeChanged,
    Moment,
    PinFirst,
    PinHeld,
    PulseStrike,
    Record,
    Released,
    ReleaseFailed,
    Relock,
    RelockFailed,
    RestStrike,
    RexPressed,
    Settle,
    Side,
    StrikeSaid,
    TimeReached,
    UnlockOrdered,
    WakeAt,
)
from gateway.domain.entitlements import Entitlements, holding_of
from gateway.domain.events import Event
from gateway.domain.explanation import opens_soon_at
from gateway.domain.memory import Alarms, Changes, Count, PinRow, Remembered, Watched, recall
from gateway.domain.remote_request import REMOTE, decide_remote
from gateway.domain.restrictions import Passage, Restricted, restrict, settled
from gateway.domain.signal import Signal
from gateway.errors import DeviceError, DeviceUnavailable, StorageError

log = structlog.get_logger()

_SECOND = timedelta(seconds=1)

COMMIT_WAIT = timedelta(milliseconds=250)
"""The longest a grant waits for its record to be on disk (docs/promises.md, order of a grant)."""
SPEND_WAIT = timedelta(milliseconds=900)
"""The longest a grant waits that spends something. It never opens without its record on disk, and
the person gets an answer within a second (docs/promises.md P3)."""
TAPS_WAITING_MAX = 8
"""At one reader. A person taps once or twice a second: what is beyond is a flood, and is dropped
and counted.
"""
TAPS_A_SECOND_MAX = 20
"""At one reader: a line that is flooded must not take the time of others, and keeps nobody out (or
in) who is at the door's other reader.
"""
TAP_AGE_MAX = timedelta(seconds=2)
"""Nobody may stand there any more: a door must not open late for somebody else. Leaving may."""
POINTS_WAITING_MAX = 256
"""Debounced inputs change at most 33 times a second, and a pulse is confirmed within one."""


IDENTIFY_BEEPS = 3
IDENTIFY_EVERY = timedelta(seconds=1)


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

    def append(self, event: Event, state: Mapping[str, bytes | None] = ..., /) -> Ticket:
        """Append at once, `state` with it. Raises StorageError when nothing more can be kept."""


class InForce(msgspec.Struct, frozen=True):
    """The entitlements in force, and how old they are."""

    records: Entitlements
    revision: str | None
    as_of: datetime | None


class RemoteOutcome(NamedTuple):
    """What came of a release: the number of its record, and why it failed, if it did."""

    seq: int | None
    failed: str | None
    """`not_recorded`, `offline`, `unconfirmed`, or the door's own reason."""
    member: events.Told | None = None
    """What a holder who asked from afar is told of a denial."""


class Wiring(msgspec.Struct, frozen=True):
    """The devices of one door, as functions bound to their points."""

    pulse: Callable[[timedelta], Awaitable[None]]
    rest: Callable[[], Awaitable[None]]
    indicators: dict[Side, tuple[Callable[[Signal], Awaitable[None]], ...]]
    unreleased_opening_is_forced: bool = True
    has_contact: bool = True
    relock: Relock = "at_end"
    pre_alarm: timedelta = timedelta(seconds=10)
    antipassback_forgets: timedelta | None = None
    assurance: Assurance = "low"
    zone_assurance: Mapping[str, Assurance] = {}


class CardTapped(msgspec.Struct, frozen=True):
    """A credential was presented at a reader of this door."""

    device: str
    side: Side
    kind: str
    value: str
    at: timedelta
    counter: int | None = None
    began: timedelta | None = None
    waits: bool = True
    """False for a PIN that has waited for a card already, or that another door decides too."""
    waited: bool = False
    """A PIN that has waited for a card."""
    shared: SharedTap | None = None
    """The same tap as the reader's other doors see it, where there are any."""
    remote: events.Remote | None = None
    """The command by which a holder asks from afar; `value` is then the holder's id."""

    def __repr__(self) -> str:
        """Without the value: a credential is never printed."""
        return f"CardTapped(device={self.device!r}, side={self.side!r}, kind={self.kind!r})"


class PointChanged(msgspec.Struct, frozen=True):
    """The contact, REX or strike of this door reported."""

    fact: ContactSaid | RexPressed | StrikeSaid | TimeReached
    at: timedelta


class _Reader:
    """How many taps of one reader wait, when the last of them came, and its unknown credentials."""

    def __init__(self) -> None:
        self.waiting = 0
        self.guesses = guessing.Guesses()
        self._came: deque[timedelta] = deque()

    def takes(self, at: timedelta) -> bool:
        """Whether a tap at `at` is not one too many; then it waits."""
        while self._came and at - self._came[0] >= _SECOND:
            self._came.popleft()
        if len(self._came) == TAPS_A_SECOND_MAX or self.waiting == TAPS_WAITING_MAX:
            return False
        self._came.append(at)
        self.waiting += 1
        return True


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
        memory: SiteMemory,
        in_force: Callable[[], InForce],
        clock: Clock,
        on_change: Callable[[str], None],
        unsecured: Callable[[str], tuple[str, ...]] = lambda _door: (),
        break_glass: tuple[Role, ...] = (),
        verify_grant: Callable[[str], Presented] = lambda _text: "grant_unknown_key",
    ) -> None:
        self.door = door
        self.state = DoorState()
        self._wiring = wiring
        self._journal = journal
        self._memory = memory
        self._unsecured = unsecured
        self._break_glass = break_glass
        self._verify_grant = verify_grant
        self._in_force = in_force
        self._clock = clock
        self._on_change = on_change
        self._taps: asyncio.Queue[CardTapped | None] = asyncio.Queue()
        self._readers: defaultdict[str, _Reader] = defaultdict(_Reader)
        self._points: asyncio.Queue[PointChanged | None] = asyncio.Queue(POINTS_WAITING_MAX)
        self._tap_done, self._point_done = asyncio.Event(), asyncio.Event()
        self._under_way: set[Cause] = set()
        self._mode_announced = InForceMode("controlled", "records")
        self._mode_news = asyncio.Event()
        self._strike = asyncio.Lock()
        self._ignored = 0
        self._stalled: Ticket | None = None
        self._tasks = asyncio.TaskGroup()

    async def run(self) -> None:
        """Work until cancelled."""
        self._recall_alarms()
        async with self._tasks:
            self._tasks.create_task(self._run_taps(), name=f"{self.door} taps")
            self._tasks.create_task(self._run_points(), name=f"{self.door} points")
            self._tasks.create_task(self._run_mode(), name=f"{self.door} mode")

    def tap(self, tap: CardTapped) -> None:
        """Take a tap at once, or count it as ignored when too many of its reader wait or have come
        just now.
        """
        if self._readers[tap.device].takes(tap.at):
            self._taps.put_nowait(tap)
        else:
            self._ignore()

    def _ignore(self) -> None:
        if not self._ignored:
            # Told once a second at most, however many there are.
            asyncio.get_running_loop().call_later(1.0, self._record_ignored)
        self._ignored += 1

    def show_refused(self, side: Side) -> None:
        """Show that something didn't prove itself. There is nothing to decide."""
        self._show(Indicate(side, Signal.DENIED))

    def point(self, change: PointChanged) -> None:
        """Take a report of a point at once."""
        try:
            self._points.put_nowait(change)
        except asyncio.QueueFull:
            self._ignore()
            log.error("point report dropped", door=self.door, fact=type(change.fact).__name__)

    def mode(self) -> InForceMode:
        """The mode that is in force at this moment."""
        force, moment = self._in_force(), self._moment()
        standing = Standing(moment, self._clock.trust().decides_as_trusted, force.as_of)
        return mode_of(self.door, force.records, self._memory, standing)

    def admits_by_card_alone(self) -> bool:
        """Whether a Wiegand card, which anybody may have copied, can let somebody in now."""
        door = self._in_force().records.tables.doors.get(self.door)
        if door is None or self.mode().mode not in ("controlled", "unlocked"):
            return False
        zones = self._wiring.zone_assurance
        asked = assurance.least(
            self._wiring.assurance,
            *(zones.get(zone, "low") for zone in (door.from_zone, door.to_zone)),
        )
        return asked == "low"

    def look_at_mode(self) -> None:
        """Act on the mode in force if it isn't the one acted on last. Never waits."""
        if self.mode() != self._mode_announced:
            self._mode_news.set()

    def may_be_open(self) -> bool:
        """Whether this door isn't known to be closed and locked (interlock)."""
        return door_state.may_be_open(self._rules(), self.state, self._clock.monotonic())

    async def self_test(self) -> None:
        """Return when both lanes have got on and a decision could be made (watchdog).

        A lane gets on when it has done with one thing, which takes 3 s at most: a slow relay board
        with people before it is not a dead decision path.
        """
        for lane, done in ((self._taps, self._tap_done), (self._points, self._point_done)):
            done.clear()
            with contextlib.suppress(asyncio.QueueFull):
                lane.put_nowait(None)
            await done.wait()
        self._decide(CardTapped("self-test", "in", "", "", self._clock.monotonic()))

    # --- The lanes -------------------------------------------------------------------------------

    async def _run_taps(self) -> None:
        while True:
            tap = await self._taps.get()
            if tap is not None:
                self._readers[tap.device].waiting -= 1
            if tap is None:
                pass  # only to see whether this lane gets on
            elif self._is_late(tap) or self._is_guess(tap):
                self._refuse(tap.side)
            else:
                await self._tapped(tap)
            self._tap_done.set()

    async def _run_points(self) -> None:
        """Takes what points report, and waits for no device: somebody may want to get out."""
        while True:
            change = await self._points.get()
            if change is not None:
                await self._take(change.fact, change.at, wait=False)
            self._point_done.set()

    async def _run_mode(self) -> None:
        """Carry out modes, in a lane of their own: the newest counts, and nobody waits for it."""
        while True:
            await self._mode_news.wait()
            self._mode_news.clear()
            mode, before = self.mode(), self._mode_announced
            if mode == before:
                continue
            self._mode_announced = mode
            moment = self._moment()
            event = events.ModeChanged(
                at=moment.wall,
                trust=moment.trust,
                door=self.door,
                mode=mode.mode,
                source=mode.source,
                by=mode.by,
                why=mode.why,
            )
            await self._take(ModeChanged(mode.mode, event), moment.mono)

    def _refuse(self, side: Side) -> None:
        """Decide nothing: whoever still waits taps again."""
        self._ignore()
        self._show(Indicate(side, Signal.FAULT))

    def _is_late(self, tap: CardTapped) -> bool:
        return self._clock.monotonic() - tap.at > TAP_AGE_MAX and not self._leaves(tap.side)

    def _is_guess(self, tap: CardTapped) -> bool:
        """Return True where a reader pauses after unknown numbers, and this is one more number.

        PINs have limits of their own, and the way out is nobody's entitlement.
        """
        if tap.kind not in guessing.GUESSABLE or self._leaves(tap.side):
            return False
        return guessing.is_paused(self._readers[tap.device].guesses, self._clock.monotonic())

    def _leaves(self, side: Side) -> bool:
        """Whether that is the way out, which is nobody's entitlement."""
        door = self._in_force().records.tables.doors.get(self.door)
        return side == "out" and door is not None and door.egress

    def _broken(self, tap: CardTapped) -> GlassBroken | None:
        """Whether a PIN is a break-glass code; if so, it is spent by this."""
        if tap.kind != "pin" or not self._break_glass:
            return None
        if tap.waited:
            return None  # it was none when it was entered, and nobody stands there any more
        moment = self._moment()
        if pin_lockout.is_door_locked(self._memory, self.door, moment.mono):
            return None  # one and the same denial, whatever the PIN
        if self._in_force().records.find(tap.kind, tap.value) is not None:
            return None
        found = broken(self._break_glass, self.door, tap.value, self._memory, moment.mono)
        if found is None:
            return None
        self._memory.apply(found.changes)
        return GlassBroken(
            events.BreakGlass(
                at=moment.wall,
                trust=moment.trust,
                door=self.door,
                side=tap.side,
                device=tap.device,
                role=found.role,
                secret=found.secret,
                outcome=found.outcome,
            )
        )

    async def _tapped(self, tap: CardTapped) -> None:
        glass = self._broken(tap)
        if glass is not None:
            await self._take(glass, tap.at)
            return
        held = door_state.pin_held(self.state, tap.side)
        if held is not None and not self._asks_for(held, tap):
            # Decided by itself, and counted, before what follows it: no guess is for nothing.
            await self._decide_and_take(self._alone(held))
            held = None
        if self._waits_for_card(tap):
            await self._take(PinFirst(tap.side, tap.device, tap.value), tap.at)
        else:
            await self._decide_and_take(tap, held)
        self.look_at_mode()

    async def _decide_and_take(self, tap: CardTapped, held: PinHeld | None = None) -> None:
        decided, changes = self._decide(tap, held)
        self._memory.apply(changes)
        if tap.kind in guessing.GUESSABLE and decided.event.reason == "unknown_credential":
            reader = self._readers[tap.device]
            reader.guesses = guessing.missed(reader.guesses, self._clock.monotonic())
        if tap.shared is not None and decided.event.outcome != "deny":
            tap.shared.admitted(decided.event)
        await self._take(decided, tap.at, shared=tap.shared)

    def _asks_for(self, held: PinHeld, tap: CardTapped) -> bool:
        """Whether `tap` is a card that the PIN entered before it completes."""
        if tap.kind == "pin" or tap.at >= held.until:
            return False
        decided, _ = self._decide(tap)
        return decided.event.outcome == "challenge"

    def _waits_for_card(self, tap: CardTapped) -> bool:
        """Whether `tap` is a PIN that can only be refused as yet, and may be a card's."""
        door = self._in_force().records.tables.doors.get(self.door)
        if tap.kind != "pin" or not tap.waits or door is None or self._leaves(tap.side):
            return False
        if door.pin_alone or door.second_factor_schedule is None:
            return False
        if len(door_state.credentials_to_decide(self.state, tap.side, "pin", "", tap.at)) > 1:
            return False  # its card waits already
        return not pin_lockout.is_door_locked(self._memory, self.door, self._moment().mono)

    def _alone(self, held: PinHeld) -> CardTapped:
        now = self._clock.monotonic()
        return CardTapped(held.device, held.side, "pin", held.value, now, waits=False, waited=True)

    async def remote_unlock(self, event: events.RemoteUnlock, until: timedelta) -> RemoteOutcome:
        """Release the door once by a signed command's right, before `until`; what came of it.

        What is to be remembered of the command goes to disk with `event`, before the lock moves.
        """
        mode, door = self.mode(), self._in_force().records.tables.doors.get(self.door)
        reasons = (
            ("blocked", mode.blocked),
            ("lockdown", mode.lockdown),
            ("interlock", door is not None and bool(door.interlock and self._unsecured(self.door))),
            ("second_person_required", door is not None and door.two_person),
        )
        for reason, holds in reasons:
            if holds:
                return RemoteOutcome(None, reason)
        return await self._take(UnlockOrdered(event, until), self._clock.monotonic())

    async def remote_request(
        self, holder: str, remote: events.Remote, until: timedelta
    ) -> RemoteOutcome:
        """Decide a holder's request from afar as one at the reader, and release the door if that
        is a grant, before `until` (monotonic).
        """
        now = self._clock.monotonic()
        decided, changes = self._decide(CardTapped("", "in", REMOTE, holder, now, remote=remote))
        self._memory.apply(changes)
        event = decided.event
        if event.outcome == "grant":
            granted = msgspec.structs.replace(decided, spends=True, until=until)
            outcome = await self._take(granted, now)
            self.look_at_mode()
            return outcome
        # No lamp answers, and nothing ends that somebody at the reader has begun.
        if decided.asked is not None:
            event = self._explained(event, decided.asked)
        ticket = self._append(event)
        if ticket is None or not await ticket.committed_within(SPEND_WAIT):
            return RemoteOutcome(None if ticket is None else ticket.seq, "not_recorded")
        return RemoteOutcome(ticket.seq, event.reason, event.member)

    async def identify(self) -> None:
        """Have the readers blink and beep, so that somebody on site can tell which door it is."""
        for _ in range(IDENTIFY_BEEPS):
            for side in self._wiring.indicators:
                self._show(Indicate(side, Signal.HELD_OPEN))
            await asyncio.sleep(IDENTIFY_EVERY.total_seconds())

    async def _take(
        self,
        fact: DoorFact,
        at: timedelta,
        *,
        wait: bool = True,
        shared: SharedTap | None = None,
    ) -> RemoteOutcome:
        alarms = self.state.alarms
        self.state, effects = door_state.step(self._rules(), self.state, fact, self._moment())
        if self.state.alarms != alarms:
            raised = tuple(sorted(each.value for each in self.state.alarms))
            self._memory.apply({alarms_key(self.door): Alarms(raised=raised) if raised else None})
        self._on_change(self.door)
        return await self._carry_out(effects, at, wait=wait, shared=shared)

    def _recall_alarms(self) -> None:
        """Take up the alarms of before a restart: they end when the contact says so, no sooner."""
        kept = recall(self._memory, alarms_key(self.door), Alarms)
        if kept is not None and self._wiring.has_contact:
            alarms = frozenset(each for each in Alarm if each.value in kept.raised)
            self.state = msgspec.structs.replace(self.state, alarms=self.state.alarms | alarms)

    # --- Deciding --------------------------------------------------------------------------------

    def _decide(self, tap: CardTapped, held: PinHeld | None = None) -> tuple[Decided, Changes]:
        """The decision on a tap, with the PIN entered before it, and what it changes of what is
        remembered. Changes nothing.
        """
        credentials = door_state.credentials_to_decide(
            self.state, tap.side, tap.kind, tap.value, tap.at
        )
        if held is not None:
            credentials = (*credentials, ("pin", held.value))
        force, moment, mode = self._in_force(), self._moment(), self.mode()
        trusted = TimeTrust(moment.trust).decides_as_trusted
        carried = self._carried(*credentials[0])
        grant = carried if isinstance(carried, CarriedGrant) else None
        kinds = [kind for kind, _ in credentials]
        if carried is not None:
            kinds[0] = BEARER if grant is None else grant.kind
        request = Request(
            door=self.door,
            side=tap.side,
            credentials=tuple(
                PresentedCredential(kind, value)
                for kind, (_, value) in zip(kinds, credentials, strict=True)
            ),
            at=moment.wall,
            clock="trusted" if trusted else "untrusted",
            lockdown=mode.lockdown,
            as_of=force.as_of or moment.wall,
        )
        if tap.remote is not None:
            before = decide_remote(force.records, request)
        elif carried is None:
            before = decide(force.records, request)
        else:
            before = decide_carried(force.records, carried, request)
        counter = door_state.counter_to_decide(self.state, tap.side, credentials, tap.counter)
        shared_at = None if tap.shared is None else tap.at
        restricted, context = self._restrict(
            request, before, mode, moment, counter, grant, shared_at
        )
        decision = restricted.decision
        # While PINs are locked out, not even the event may tell a right one from a wrong one.
        hidden = credentials[0][0] == "pin" and pin_lockout.is_door_locked(
            self._memory, self.door, moment.mono
        )
        primary = None if hidden or carried else force.records.find(*credentials[0])
        event = events.AccessDecided(
            at=moment.wall,
            trust=moment.trust,
            door=self.door,
            side=tap.side,
            device=tap.device,
            kinds=tuple(kinds),
            outcome=decision.outcome,
            reason=decision.reason,
            holder=decision.holder,
            via=decision.via,
            duress=decision.duress,
            revision=force.revision,
            as_of=force.as_of,
            lockdown=mode.lockdown,
            credential=None if primary is None else primary.id,
            decide_ms=_ms(self._clock.monotonic() - tap.at),
            read_ms=None if tap.began is None else _ms(tap.at - tap.began),
            mode=mode.mode,
            turned_from=before.reason if before.outcome == "grant" != decision.outcome else None,
            pin=self._pin_record(request, before, decision),
            grant=grant,
            refusal=carried if isinstance(carried, str) else None,
            context=context,
            remote=tap.remote,
            exception=_excepted(force, decision),
        )
        says_when = (
            decision.outcome == "deny"
            and decision == before
            and not (hidden or carried)
            and member_text.can_say_when(decision.reason)
        )
        if decision.outcome != "grant":
            event = msgspec.structs.replace(event, member=member_text.told(event))
        return Decided(
            event=event,
            asked=request if says_when else None,
            presented_at=tap.at,
            challenged=credentials[0] if decision.outcome == "challenge" else None,
            counter=counter,
            unlock=self._unlock_time(decision, restricted.passage),
            passage=restricted.passage,
            spends=restricted.spends,
            also=tuple(self._also(event, before, restricted, moment)),
        ), restricted.changes

    def _restrict(
        self,
        request: Request,
        decision: Decision,
        mode: InForceMode,
        moment: Moment,
        counter: int | None,
        grant: CarriedGrant | None,
        shared_at: timedelta | None,
    ) -> tuple[Restricted, events.Context | None]:
        records = self._in_force().records
        door = records.tables.doors.get(self.door)
        if door is None:
            return Restricted(decision, self._missed_code(request, moment)), None
        # Who taps again before the leaf has moved goes through once, and is counted once.
        undone: dict[str, Remembered | None] = {}
        for each in self.state.pending:
            if door_state.same_passage(each.passage, request.side, decision.holder):
                memory = Overlaid(self._memory, undone)
                undone.update(settled(memory, self.door, each.passage, entered=False))
        entered = door.to_zone if request.side == "in" else door.from_zone
        around = Surroundings(
            blocked=mode.blocked,
            unsecured=() if door.interlock is None else self._unsecured(self.door),
            antipassback_forgets=self._wiring.antipassback_forgets,
            least_assurance=assurance.least(
                self._wiring.assurance, self._wiring.zone_assurance.get(entered, "low")
            ),
            counter=counter,
            tap=shared_at,
        )
        watched = Watched(Overlaid(self._memory, undone))
        case = Case(records, door, request, decision, watched, moment.mono, around, grant)
        restricted = restrict(case)
        if restricted.passage is not None:
            changes = {**undone, **restricted.changes}
            restricted = msgspec.structs.replace(restricted, changes=changes)
        context = None
        if watched.asked or around != Surroundings() or restricted.decision != decision:
            context = events.Context(moment.mono, around, watched.asked)
        return restricted, context

    def _missed_code(self, request: Request, moment: Moment) -> Changes:
        """Guessing at break-glass codes is slowed also at a door that is in no record."""
        entered = request.credentials[0]
        if not self._break_glass or entered.kind != "pin" or len(entered.value) != DIGITS:
            return {}
        policy = self._in_force().records.tables.policy
        return pin_lockout.missed(policy, self._memory, self.door, moment.mono)

    def _carried(self, kind: str, value: str) -> Presented | None:
        """The carried grant in what was presented, or why it isn't believed; None if it is none."""
        is_grant = kind == PROVEN or (kind == "qr" and value.startswith(PREFIX))
        return self._verify_grant(value) if is_grant else None

    def _pin_record(self, request: Request, before: Decision, decision: Decision) -> str | None:
        """The record of a second factor, by id, where it is this holder's and was judged."""
        if len(request.credentials) == 1 or decision.reason == pin_lockout.LOCKED_OUT:
            return None
        second = request.credentials[-1]
        pin = self._in_force().records.find(second.kind, second.value)
        return pin.id if pin is not None and pin.holder == before.holder else None

    def _unlock_time(self, decision: Decision, passage: Passage | None) -> timedelta:
        """For the slowest of those who go through."""
        records = self._in_force().records
        door = records.tables.doors.get(self.door)
        if decision.outcome != "grant" or door is None:
            return door_state.UNLOCK_DEFAULT
        people = () if passage is None else passage.people
        holdings = (holding_of(records, each) for each in people)
        slow = any(found is not None and found.holder.extended_unlock for found in holdings)
        return door.extended_unlock if slow else door.unlock

    def _also(
        self, event: events.AccessDecided, before: Decision, after: Restricted, moment: Moment
    ) -> list[Event]:
        """What else is to be told of a decision."""
        also: list[Event] = []
        door, at, trust = self.door, moment.wall, moment.trust
        if before.duress and before.holder is not None:
            # Also where nothing opens: somebody is being forced.
            outcome, holder = event.outcome, before.holder
            also.append(
                events.Duress(at=at, trust=trust, door=door, holder=holder, outcome=outcome)
            )
        if after.passback and before.holder is not None and after.passage is not None:
            zone = after.passage.zone
            also.append(
                events.Passback(at=at, trust=trust, door=door, holder=before.holder, zone=zone)
            )
        for key, value in after.changes.items():
            if isinstance(value, PinRow) and value.until and moment.mono < value.until:
                whose = None if key == pin_lockout.door_key(door) else before.holder
                seconds = round((value.until - moment.mono).total_seconds())
                also.append(
                    events.PinLockout(at=at, trust=trust, door=door, holder=whose, seconds=seconds)
                )
        return also

    def _rules(self) -> DoorRules:
        wiring = self._wiring
        rules = DoorRules(
            self.door,
            unreleased_opening_is_forced=wiring.unreleased_opening_is_forced,
            relock=wiring.relock,
            pre_alarm=wiring.pre_alarm,
            has_contact=wiring.has_contact,
        )
        door = self._in_force().records.tables.doors.get(self.door)
        if door is None:
            return rules
        return msgspec.structs.replace(rules, unlock=door.unlock, held_open=door.held_open)

    def _moment(self) -> Moment:
        return Moment(
            mono=self._clock.monotonic(), wall=self._clock.now(), trust=int(self._clock.trust())
        )

    # --- Doing -----------------------------------------------------------------------------------

    async def _carry_out(
        self, effects: list[Effect], at: timedelta, *, wait: bool, shared: SharedTap | None
    ) -> RemoteOutcome:
        """Do what is to be done, in order; where not `wait`, without waiting for the strike."""
        ticket: Ticket | None = None
        to_explain: tuple[events.AccessDecided, Request] | None = None
        for effect in effects:
            match effect:
                case Record(events.AccessDecided(outcome="deny") as denied, asked) if shared:
                    shared.denied(denied, partial(self._append_denial, denied, asked))
                case Record(events.AccessDecided() as denied, Request() as asked):
                    to_explain = denied, asked
                case Record():
                    ticket = self._append(effect.event)
                case PulseStrike() if not wait:
                    self._release_aside(effect, ticket, at)
                case PulseStrike():
                    failed = await self._release(effect, ticket, at)
                    if failed is not None:
                        return RemoteOutcome(None if ticket is None else ticket.seq, failed)
                case Indicate():
                    self._show(effect)
                case DecidePin():
                    # In the taps' own lane, behind whoever waits there.
                    self._readers[effect.held.device].waiting += 1
                    self._taps.put_nowait(self._alone(effect.held))
                case WakeAt():
                    self._wake(effect.at)
                case RestStrike() if not wait:
                    self._tasks.create_task(self._relock(at))
                case RestStrike():
                    await self._relock(at)
                case Settle():
                    self._memory.apply(
                        settled(
                            self._memory,
                            self.door,
                            effect.passage,
                            entered=effect.entered,
                            seen=effect.seen,
                            just_now=effect.just_now,
                        )
                    )
                case LeftUnseen():
                    self._memory.apply(self._left_unseen())
        if to_explain is not None:
            # When it would open is looked for over days: what shows the answer goes first.
            asyncio.get_running_loop().call_soon(self._append_explained, *to_explain)
        return RemoteOutcome(None if ticket is None else ticket.seq, None)

    def _release_aside(self, effect: PulseStrike, ticket: Ticket | None, at: timedelta) -> None:
        """Pulse the strike in a task of its own, one at a time for each cause.

        While a board is slow to confirm, further presses of the exit button ask for nothing more:
        the pulse that is under way begins after them.
        """
        if effect.cause in self._under_way:
            return
        self._under_way.add(effect.cause)

        async def release() -> None:
            try:
                await self._release(effect, ticket, at)
            finally:
                self._under_way.discard(effect.cause)

        self._tasks.create_task(release(), name=f"{self.door} {effect.cause}")

    async def _release(
        self, effect: PulseStrike, ticket: Ticket | None, at: timedelta
    ) -> str | None:
        """Pulse the strike by the right of `ticket`; why not, unless the relay has confirmed it."""
        seq = None if ticket is None else ticket.seq
        failed = ReleaseFailed(
            effect.cause, seq, "", effect.side, effect.grant, passage=effect.passage
        )
        if effect.wait_for_commit and ticket is None and not effect.leaves:
            why = "its grant can't be recorded: the journal is full"
            if effect.cause == "mode":
                self._mode_announced = InForceMode("controlled", "records")
            await self._take(msgspec.structs.replace(failed, why=why, recorded=False), at)
            return "not_recorded"
        late, asked = False, self._clock.monotonic()
        if effect.wait_for_commit and ticket is not None:
            limit = SPEND_WAIT if effect.spends else COMMIT_WAIT
            late = not await self._committed_in_time(ticket, limit)
        recorded = self._clock.monotonic() - asked
        if late and effect.spends:
            why = "what opens is spent, and that isn't on disk yet"
            await self._take(msgspec.structs.replace(failed, why=why), at)
            return "not_recorded"
        if late:
            # The one trace if the power goes before the disk comes back.
            log.warning("released before its record is on disk", door=self.door, event_seq=seq)
        try:
            async with self._strike:
                if effect.cause == "mode" and self.state.renew_at is None:
                    return "over"  # the hold has ended while its pulse waited
                too_late = effect.until is not None and self._clock.monotonic() >= effect.until
                if not too_late:
                    await self._wiring.pulse(effect.duration)
        except DeviceError as error:
            await self._take(msgspec.structs.replace(failed, why=str(error)), at)
            return "offline" if isinstance(error, DeviceUnavailable) else "unconfirmed"
        if too_late:
            why = "what gave the right to it ended while it waited"
            await self._take(msgspec.structs.replace(failed, why=why), at)
            return "expired"
        if effect.again:
            return None
        took = self._clock.monotonic() - at
        if late and seq is not None:
            moment = self._moment()
            self._append(
                events.LateCommit(at=moment.wall, trust=moment.trust, door=self.door, seq=seq)
            )
        released = Released(effect.cause, seq, effect.duration, took, effect.grant, recorded)
        await self._take(released, at)
        return None

    async def _relock(self, at: timedelta) -> None:
        try:
            async with self._strike:
                if not door_state.is_released(self.state, self._clock.monotonic()):
                    await self._wiring.rest()
        except DeviceError as error:
            await self._take(RelockFailed(str(error)), at)

    def _left_unseen(self) -> Changes:
        door = self._in_force().records.tables.doors.get(self.door)
        if door is None:
            return {}
        key = unseen_key(door.to_zone)
        unseen = recall(self._memory, key, Count) or Count(people=0)
        changes: dict[str, Remembered | None] = {key: Count(people=unseen.people + 1)}
        if door.max_occupancy is not None:
            changes.update(occupancy.moved(self._memory, door.to_zone, -1))
        return changes

    async def _committed_in_time(self, ticket: Ticket, limit: timedelta) -> bool:
        """Wait for `ticket` to be on disk, at most `limit`; not at all while the disk hangs."""
        if self._stalled is not None and not self._stalled.committed.done():
            # An earlier grant ran out of patience already: nobody waits twice for one stall.
            return ticket.committed.done()
        if await ticket.committed_within(limit):
            return True
        self._stalled = ticket
        return False

    def _append(self, event: Event) -> Ticket | None:
        state = self._memory.take_unwritten()
        try:
            return self._journal.append(event, state)
        except StorageError as error:
            self._memory.give_back(state)
            log.error("event not kept", door=self.door, why=str(error))
            return None

    def _append_explained(self, event: events.AccessDecided, asked: Request) -> None:
        """Record a denial, and from when on it would be none."""
        self._append(self._explained(event, asked))

    def _append_denial(self, event: events.AccessDecided, asked: Request | None) -> None:
        """Record a denial that has waited for the reader's other doors."""
        self._append(event if asked is None else self._explained(event, asked))

    def _explained(self, event: events.AccessDecided, asked: Request) -> events.AccessDecided:
        force = self._in_force()
        if force.revision != event.revision:
            return event
        # Without the PIN: whether that was right is not to be read from the answer.
        alone = msgspec.structs.replace(asked, credentials=asked.credentials[:1])
        holding = None if event.holder is None else holding_of(force.records, event.holder)
        member = member_text.told(
            event,
            timezone=force.records.tables.site.timezone,
            opens_at=opens_soon_at(force.records, alone, remote=event.remote is not None),
            persona=None if holding is None else holding.holder.persona,
        )
        return msgspec.structs.replace(event, member=member)

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


def unseen_key(zone: str) -> str:
    """Where those are counted who left a zone by REX, unseen."""
    return f"unseen/{zone}"


def alarms_key(door: str) -> str:
    """Where the alarms of a door are remembered."""
    return f"alarms/{door}"


def _excepted(force: InForce, decision: Decision) -> events.Excepted | None:
    """Return the words of the exception that decided; None where it was none."""
    if decision.reason != "exception" or decision.holder is None:
        return None
    holding = holding_of(force.records, decision.holder)
    for exception in () if holding is None else holding.exceptions:
        if exception.id == decision.via:
            return events.Excepted.of(exception.reason, exception.issued_by)
    return None


def _ms(duration: timedelta) -> float:
    return round(duration / timedelta(milliseconds=1), 3)
