"""One door as a machine: `step(rules, state, fact, now) -> (state, effects)`, pure and total.

The facts are about this door (no devices, no channel numbers); the effects are carried out in
order by `control`. Effects that record come first: what is not written down does not open.
"""

from datetime import datetime, timedelta
from enum import StrEnum
from typing import Literal, TypeVar

import msgspec

from gateway.domain import events
from gateway.domain.decision import Request
from gateway.domain.events import Event
from gateway.domain.restrictions import Passage
from gateway.domain.signal import Signal

UNLOCK_DEFAULT = timedelta(seconds=5)
"""The strike's time at a door that is in no record yet (`unlock_s`'s own default): for REX only."""
HELD_OPEN_DEFAULT = timedelta(seconds=30)
"""`held_open_s`'s own default, likewise."""
PIN_WAIT = timedelta(seconds=20)
"""How long a card waits for its PIN, or a PIN for its card; longer, and the next person would
finish it."""
OPENING_SLACK = timedelta(seconds=1)
"""A leaf pulled in the last instant of a release reports open after its contact's debounce."""

RELEASE_LEAD = timedelta(seconds=3)
"""The longest from a decision to the relay's confirmation: 0.9 s for a commit that must be waited
for (control.door.SPEND_WAIT) and 2 s for the board (drivers.modbus_relay.CALL_S_MAX)."""

HOLD_PULSE = timedelta(seconds=6)
"""A door is held open by pulses of this length: a dead gateway has it locked again by then."""
HOLD_RENEW = timedelta(seconds=2)
"""How soon a hold's pulse is renewed: in less than half its time, so one may fail."""
BUZZ_EVERY = timedelta(seconds=2)
"""How often the reader's buzzer asks for a door to be closed, until the alarm is raised."""
PASSAGES_MAX = 16
"""People let through before the leaf has moved once; the oldest are taken to have passed."""


class Contact(StrEnum):
    """What the door contact last said."""

    OPEN = "open"
    CLOSED = "closed"
    UNKNOWN = "unknown"


class Strike(StrEnum):
    """What the strike's relay last said."""

    ENERGISED = "energised"
    AT_REST = "at_rest"
    UNKNOWN = "unknown"


class Alarm(StrEnum):
    """What is wrong with the door now."""

    FORCED_OPEN = "forced_open"
    HELD_OPEN = "held_open"


Side = Literal["in", "out"]
Cause = Literal["grant", "rex", "mode", "break_glass", "command"]
Relock = Literal["on_open", "at_end"]
Mode = Literal["controlled", "unlocked", "blocked", "lockdown", "evacuation"]
OPEN_MODES: frozenset[Mode] = frozenset({"unlocked", "evacuation"})
"""Modes in which the door stands unlocked."""


class DoorRules(msgspec.Struct, frozen=True):
    """What the door's record and its wiring say."""

    door: str
    unlock: timedelta = UNLOCK_DEFAULT
    held_open: timedelta = HELD_OPEN_DEFAULT
    unreleased_opening_is_forced: bool = True
    """False where people leave through it by a handle that no switch reports."""
    relock: Relock = "at_end"
    pre_alarm: timedelta = timedelta(seconds=10)
    """How long before `held_open` the reader's buzzer begins; at most half of it."""
    has_contact: bool = True


class PinWanted(msgspec.Struct, frozen=True):
    """A first credential that the decision challenged for a PIN."""

    side: Side
    kind: str
    value: str
    until: timedelta
    counter: int | None = None

    def __repr__(self) -> str:
        """Without the value: a credential is never printed."""
        return f"PinWanted(side={self.side!r}, kind={self.kind!r}, until={self.until})"


class PinHeld(msgspec.Struct, frozen=True):
    """A PIN that was entered before its card."""

    side: Side
    device: str
    value: str
    until: timedelta

    def __repr__(self) -> str:
        """Without the value: a credential is never printed."""
        return f"PinHeld(side={self.side!r}, device={self.device!r}, until={self.until})"


class Release(msgspec.Struct, frozen=True):
    """The strike was told to release the door, by what right, and until when it may be opened."""

    cause: Cause
    seq: int | None
    """None until the relay has confirmed it."""
    until: timedelta
    ends: timedelta
    """When the pulse that was asked for ends: a shorter one that follows must not cut it."""
    before: "Release | None" = None
    """What was confirmed already, for when this one fails."""
    begun: timedelta | None = None
    """When it was confirmed, or else asked for."""


class Pending(msgspec.Struct, frozen=True):
    """Somebody was let through, and the leaf has not moved yet."""

    grant: int
    passage: Passage
    until: timedelta
    at_open_door: bool = False
    """The door stood open already: nothing can show whether they went through."""
    seq: int | None = None


class DoorState(msgspec.Struct, frozen=True):
    """All that a door remembers. A new one knows nothing: its devices have not spoken yet."""

    contact: Contact = Contact.UNKNOWN
    was_closed: bool = False
    """Whether the contact said closed before it was lost."""
    strike: Strike = Strike.UNKNOWN
    release: Release | None = None
    held_open_at: timedelta | None = None
    alarms: frozenset[Alarm] = frozenset()
    pins_wanted: tuple[PinWanted, ...] = ()
    """At most one a side: whoever leaves doesn't end what somebody outside has begun."""
    pins_held: tuple[PinHeld, ...] = ()
    """At most one a side, likewise."""
    mode: Mode = "controlled"
    warn_at: timedelta | None = None
    renew_at: timedelta | None = None
    """When a hold's pulse is to be renewed; None where the door isn't held open."""
    hold_seq: int | None = None
    """The mode's own event, once the first pulse of a hold was confirmed."""
    hold_failed: bool = False
    grants: int = 0
    pending: tuple[Pending, ...] = ()


# --- Facts ---------------------------------------------------------------------------------------


class Decided(msgspec.Struct, frozen=True):
    """A credential was decided; `event` is the record of it, complete but for nothing."""

    event: events.AccessDecided
    presented_at: timedelta
    challenged: tuple[str, str] | None = None
    """(kind, value) of the first credential, where the outcome is `challenge`."""
    counter: int | None = None
    """What that credential proved itself with, where each proof counts one on."""
    unlock: timedelta = UNLOCK_DEFAULT
    """The strike's time for this holder (`unlock_s`, or `extended_unlock_s`)."""
    passage: Passage | None = None
    """Who passes, where it is a grant."""
    spends: bool = False
    also: tuple[Event, ...] = ()
    """Events to be written down with it, before it."""
    asked: Request | None = None
    """What was denied, where the member is told from when on it would not be."""
    until: timedelta | None = None
    """When a request from afar ends; None where something was presented at a reader."""


class PinFirst(msgspec.Struct, frozen=True):
    """A PIN was entered where a card may follow that asks for it."""

    side: Side
    device: str
    value: str

    def __repr__(self) -> str:
        """Without the value: a credential is never printed."""
        return f"PinFirst(side={self.side!r}, device={self.device!r})"


class GlassBroken(msgspec.Struct, frozen=True):
    """A break-glass code was entered; `event` says what came of it."""

    event: events.BreakGlass


class UnlockOrdered(msgspec.Struct, frozen=True):
    """A signed command releases the door once; `event` is the record of it."""

    event: events.RemoteUnlock
    until: timedelta
    """When the command ends: from then on nothing is released by it."""


class ModeChanged(msgspec.Struct, frozen=True):
    """Another mode is in force at the door; `event` says which, by whom and why."""

    mode: Mode
    event: events.ModeChanged


class RexPressed(msgspec.Struct, frozen=True):
    """The request-to-exit input became active."""


class ContactSaid(msgspec.Struct, frozen=True):
    """The door contact reported, or was lost (`UNKNOWN`)."""

    contact: Contact


class StrikeSaid(msgspec.Struct, frozen=True):
    """The strike's relay was read back, or was lost (`UNKNOWN`)."""

    strike: Strike


class Released(msgspec.Struct, frozen=True):
    """The relay confirmed the pulse that `seq` gave the right to."""

    cause: Cause
    seq: int | None
    pulse: timedelta
    took: timedelta
    """From the fact's arrival to the confirmation."""
    grant: int = 0
    recorded: timedelta = timedelta()
    """Of that, how long it waited for the record to be on disk."""


class ReleaseFailed(msgspec.Struct, frozen=True):
    """The relay did not confirm the pulse."""

    cause: Cause
    seq: int | None
    why: str
    side: Side | None = None
    grant: int = 0
    recorded: bool = True
    """False where nothing may be released because its right could not be written down."""
    passage: Passage | None = None
    """See `PulseStrike`."""


class RelockFailed(msgspec.Struct, frozen=True):
    """The strike did not confirm that it went to rest early; its own timer ends the pulse."""

    why: str


class TimeReached(msgspec.Struct, frozen=True):
    """A moment that was asked for with `WakeAt` has come."""


DoorFact = (
    Decided
    | PinFirst
    | RexPressed
    | ContactSaid
    | StrikeSaid
    | GlassBroken
    | UnlockOrdered
    | ModeChanged
    | Released
    | ReleaseFailed
    | RelockFailed
    | TimeReached
)


# --- Effects -------------------------------------------------------------------------------------


class Record(msgspec.Struct, frozen=True):
    """Append `event` to the journal."""

    event: Event
    asked: Request | None = None
    """Of a denial: when it would open is added, once the answer is shown."""


class PulseStrike(msgspec.Struct, frozen=True):
    """Release the door by the strike's own timer, by the right of the `Record` before it.

    Answered with `Released` or `ReleaseFailed`; after a failure the effects behind it are void.
    """

    duration: timedelta
    cause: Cause
    side: Side | None = None
    wait_for_commit: bool = True
    """REX never waits: nobody is kept in by a slow disk."""
    spends: bool = False
    """What opens is spent: without its record on disk the strike isn't released at all."""
    leaves: bool = False
    """Somebody leaves: released also where its record can't be kept, as REX is."""
    grant: int = 0
    until: timedelta | None = None
    """What gives the right to it ends then, though it may have waited for the disk or the board."""
    passage: Passage | None = None
    """Who can't have passed if it fails, at a door without a contact (else: `Pending`)."""
    again: bool = False
    """The rest of a pulse that was recorded before: its confirmation is no news."""


class RestStrike(msgspec.Struct, frozen=True):
    """Lock now: end whatever pulse runs. Answered with `RelockFailed` where it isn't confirmed."""


class Settle(msgspec.Struct, frozen=True):
    """Remember whether who was let through went through, as far as the contact shows."""

    passage: Passage
    entered: bool
    seen: bool = False
    """By the contact, and alone."""
    just_now: bool = False
    """The leaf has just opened for them; else they may have gone at any time since the grant."""


class LeftUnseen(msgspec.Struct, frozen=True):
    """The door was opened from inside by REX: somebody left, nobody knows who."""


class Indicate(msgspec.Struct, frozen=True):
    """Show `signal` on the readers of `side`."""

    side: Side
    signal: Signal


class DecidePin(msgspec.Struct, frozen=True):
    """Decide a PIN that no card has come for."""

    held: PinHeld


class WakeAt(msgspec.Struct, frozen=True):
    """Send `TimeReached` when the monotonic clock reaches `at`."""

    at: timedelta


Effect = Record | PulseStrike | RestStrike | Indicate | DecidePin | WakeAt | Settle | LeftUnseen


class Moment(msgspec.Struct, frozen=True):
    """Now, by both clocks."""

    mono: timedelta
    wall: datetime
    trust: int


def credentials_to_decide(
    state: DoorState, side: Side, kind: str, value: str, at: timedelta
) -> tuple[tuple[str, str], ...]:
    """What is to be decided when (kind, value) is presented: a PIN may complete a waiting card."""
    wanted = _pin_wanted(state, side)
    if kind == "pin" and wanted is not None and at < wanted.until:
        return ((wanted.kind, wanted.value), (kind, value))
    return ((kind, value),)


def _pin_wanted(state: DoorState, side: Side) -> PinWanted | None:
    return next((each for each in state.pins_wanted if each.side == side), None)


def pin_held(state: DoorState, side: Side) -> PinHeld | None:
    """The PIN that waits for a card on that side."""
    return next((each for each in state.pins_held if each.side == side), None)


def counter_to_decide(
    state: DoorState, side: Side, credentials: tuple[tuple[str, str], ...], counter: int | None
) -> int | None:
    """The counter of the first of `credentials`; a card that waited for its PIN brought its own."""
    wanted = _pin_wanted(state, side)
    return counter if len(credentials) == 1 or wanted is None else wanted.counter


def step(
    rules: DoorRules, state: DoorState, fact: DoorFact, now: Moment
) -> tuple[DoorState, list[Effect]]:
    """The door after `fact`, and what to do about it, in order. Total: never raises."""
    match fact:
        case Decided():
            return _decided(rules, state, fact, now)
        case PinFirst():
            held = PinHeld(fact.side, fact.device, fact.value, now.mono + PIN_WAIT)
            pins = (*_elsewhere(state, fact.side), held)
            return _replace(state, pins_held=pins), [
                Indicate(fact.side, Signal.PIN_WANTED),
                WakeAt(held.until),
            ]
        case RexPressed():
            event = events.RexPressed(at=now.wall, trust=now.trust, door=rules.door)
            duration = _pulse(state, rules.unlock, now)
            return _releasing(state, "rex", duration, now), [
                Record(event),
                PulseStrike(duration, "rex", wait_for_commit=False),
            ]
        case ContactSaid(contact=Contact.OPEN):
            return _opened(rules, state, now)
        case ContactSaid(contact=Contact.CLOSED):
            return _closed(rules, state, now)
        case ContactSaid():
            # The contact is lost: whether the door stands open is unknown, so no time runs.
            was_closed = state.contact is Contact.CLOSED or state.was_closed
            lost = _replace(
                state,
                contact=Contact.UNKNOWN,
                was_closed=was_closed,
                held_open_at=None,
                warn_at=None,
            )
            return lost, []
        case StrikeSaid():
            return _replace(state, strike=fact.strike), []
        case GlassBroken():
            return _glass_broken(rules, state, fact, now)
        case UnlockOrdered():
            duration = _pulse(state, rules.unlock, now)
            return _releasing(state, "command", duration, now), [
                Record(fact.event),
                PulseStrike(duration, "command", "in", spends=True, until=fact.until),
                Indicate("in", Signal.GRANTED),
            ]
        case ModeChanged():
            return _mode_changed(rules, state, fact, now)
        case Released():
            return _released(rules, state, fact, now)
        case ReleaseFailed():
            return _release_failed(rules, state, fact, now)
        case RelockFailed():
            failed = events.RelockFailed(
                at=now.wall, trust=now.trust, door=rules.door, why=fact.why
            )
            return state, [Record(failed)]
        case TimeReached():
            return _time_reached(rules, state, now)


_MS = timedelta(milliseconds=1)
S = TypeVar("S", bound=msgspec.Struct)


def _replace(struct: S, **changes: object) -> S:
    return msgspec.structs.replace(struct, **changes)


def _elsewhere(state: DoorState, side: Side) -> tuple[PinHeld, ...]:
    return tuple(each for each in state.pins_held if each.side != side)


def _decided(
    rules: DoorRules, state: DoorState, fact: Decided, now: Moment
) -> tuple[DoorState, list[Effect]]:
    event = fact.event
    side: Side = "out" if event.side == "out" else "in"
    records: list[Effect] = [*map(Record, fact.also), Record(event, fact.asked)]
    others = tuple(each for each in state.pins_wanted if each.side != side)
    after = _replace(state, pins_wanted=others, pins_held=_elsewhere(state, side))
    if fact.until is not None:
        after = state  # whoever stands at the reader goes on with what they have begun
    if event.outcome == "grant":
        grant = state.grants + 1
        duration = _pulse(state, fact.unlock, now)
        after = _replace(_releasing(after, "grant", duration, now), grants=grant)
        effects: list[Effect] = []
        if fact.passage is not None and rules.has_contact:
            after, effects = _expected(rules, after, grant, fact.passage, now)
        elif fact.passage is not None:
            effects = [Settle(fact.passage, entered=True)]  # nothing will ever tell
        return after, [
            *records,
            PulseStrike(
                duration,
                "grant",
                side,
                spends=fact.spends,
                leaves=event.reason == "egress",
                grant=grant,
                passage=None if rules.has_contact else fact.passage,
                until=fact.until,
            ),
            Indicate(side, Signal.GRANTED),
            *effects,
        ]
    if event.outcome == "challenge" and fact.challenged is not None:
        kind, value = fact.challenged
        wanted = PinWanted(side, kind, value, now.mono + PIN_WAIT, fact.counter)
        return _replace(after, pins_wanted=(*others, wanted)), [
            *records,
            Indicate(side, Signal.PIN_WANTED),
            WakeAt(wanted.until),
        ]
    return after, [*records, Indicate(side, _denial_signal(event.reason))]


def _glass_broken(
    rules: DoorRules, state: DoorState, fact: GlassBroken, now: Moment
) -> tuple[DoorState, list[Effect]]:
    event = fact.event
    side: Side = "out" if event.side == "out" else "in"
    if event.outcome != "opened":
        shown = Signal.DENIED if event.outcome == "over" else Signal.PIN_WANTED
        return state, [Record(event), Indicate(side, shown)]
    duration = _pulse(state, rules.unlock, now)
    return _releasing(state, "break_glass", duration, now), [
        Record(event),
        PulseStrike(duration, "break_glass", side, spends=True),
        Indicate(side, Signal.GRANTED),
    ]


_OUT_OF_ORDER = frozenset({"clock_untrusted", "entitlements_stale"})
_MORE_WANTED = frozenset({"second_person_required"})


def _denial_signal(reason: str) -> Signal:
    """A person is told apart from a gateway that isn't itself: theirs is to call somebody."""
    if reason in _OUT_OF_ORDER:
        return Signal.FAULT
    return Signal.PIN_WANTED if reason in _MORE_WANTED else Signal.DENIED


def _expected(
    rules: DoorRules, state: DoorState, grant: int, passage: Passage, now: Moment
) -> tuple[DoorState, list[Effect]]:
    """Wait for whoever was let through to go through."""
    # Who taps again before the leaf has moved goes through once.
    again = [each for each in state.pending if _same(each.passage, passage)]
    others = [each for each in state.pending if each not in again]
    effects: list[Effect] = []
    while len(others) >= PASSAGES_MAX:
        effects += _passed(rules, others.pop(0), now)
    release = state.release
    until = now.mono if release is None else release.until
    waits = Pending(grant, passage, until, at_open_door=state.contact is not Contact.CLOSED)
    return _replace(state, pending=(*others, waits)), [*effects, WakeAt(until)]


def same_passage(passage: Passage, side: Side, holder: str | None) -> bool:
    """Whether `holder` is who `passage` let through on that side."""
    return passage.side == side and holder is not None and holder in passage.people


def _same(one: Passage, other: Passage) -> bool:
    return bool(other.people) and same_passage(one, other.side, other.people[-1])


def _passed(
    rules: DoorRules, each: Pending, now: Moment, *, seen: bool = False, just_now: bool = False
) -> list[Effect]:
    entered = events.Entered(
        at=now.wall,
        trust=now.trust,
        door=rules.door,
        side=each.passage.side,
        seq=each.seq,
        holders=each.passage.people,
        sure=seen,
    )
    return [Settle(each.passage, True, seen, just_now), Record(entered)]


def _releasing(state: DoorState, cause: Cause, pulse: timedelta, now: Moment) -> DoorState:
    # Already before the relay has confirmed: the leaf can be quicker than the confirmation.
    until = now.mono + RELEASE_LEAD + pulse + OPENING_SLACK
    before = state.release
    if before is not None and before.seq is None:
        before = before.before
    return _replace(state, release=Release(cause, None, until, now.mono + pulse, before, now.mono))


def _pulse(state: DoorState, asked: timedelta, now: Moment) -> timedelta:
    """How long the strike is to be pulsed: a pulse restarts its time, and must not cut short what
    somebody else was given, nor a hold.
    """
    hold = timedelta() if state.renew_at is None else HOLD_PULSE
    left = timedelta() if state.release is None else state.release.ends - now.mono
    return max(asked, hold, left)


def _released(
    rules: DoorRules, state: DoorState, fact: Released, now: Moment
) -> tuple[DoorState, list[Effect]]:
    if fact.cause == "mode":
        if state.renew_at is None:
            return state, []  # the hold has ended meanwhile
        again = state.hold_seq is not None
        state = _replace(state, hold_seq=fact.seq or state.hold_seq or 0, hold_failed=False)
        if again:
            return state, []
    else:
        until = now.mono + fact.pulse + OPENING_SLACK
        # The leaf can be quicker than the confirmation: its opening has used the release up.
        used = state.release is None and rules.relock == "on_open"
        pending = tuple(
            _replace(each, seq=fact.seq, until=until) if each.grant == fact.grant else each
            for each in state.pending
        )
        ends = now.mono + fact.pulse
        release = None if used else Release(fact.cause, fact.seq, until, ends, begun=now.mono)
        state = _replace(state, release=release, pending=pending)
    event = events.Unlocked(
        at=now.wall,
        trust=now.trust,
        door=rules.door,
        cause=fact.cause,
        seq=fact.seq,
        pulse_ms=round(fact.pulse / _MS),
        confirm_ms=round(fact.took / _MS, 3),
        record_ms=round(fact.recorded / _MS, 3),
    )
    effects: list[Effect] = [Record(event)]
    if state.pending and fact.cause == "grant":
        effects.append(WakeAt(now.mono + fact.pulse + OPENING_SLACK))
    return state, effects


def _release_failed(
    rules: DoorRules, state: DoorState, fact: ReleaseFailed, now: Moment
) -> tuple[DoorState, list[Effect]]:
    if fact.cause == "mode" and (state.hold_failed or state.renew_at is None):
        return state, []  # said already; the next renewal tries again
    failed = events.UnlockFailed(
        at=now.wall,
        trust=now.trust,
        door=rules.door,
        cause=fact.cause,
        why=fact.why,
        seq=fact.seq,
    )
    if fact.cause == "mode" and not fact.recorded:
        # Nothing is held open that isn't written down: the mode is tried anew.
        return _replace(state, mode="controlled", renew_at=None, hold_seq=None), [Record(failed)]
    if fact.cause == "mode":
        return _replace(state, hold_failed=True), [Record(failed)]
    gone = [each for each in state.pending if each.grant == fact.grant and fact.grant]
    effects: list[Effect] = [Settle(each.passage, entered=False) for each in gone]
    if fact.passage is not None:
        effects.append(Settle(fact.passage, entered=False))
    effects.append(Record(failed))
    if fact.side is not None:
        effects.append(Indicate(fact.side, Signal.FAULT))
    left = tuple(each for each in state.pending if each not in gone)
    release = state.release
    if release is not None and release.seq is None:
        release = release.before  # what somebody else was given before still holds
    return _replace(state, release=release, pending=left), effects


def is_released(state: DoorState, now: timedelta) -> bool:
    """Whether somebody has the right to open the door at this moment."""
    release = state.release
    return state.renew_at is not None or (release is not None and now < release.until)


def may_be_open(rules: DoorRules, state: DoorState, now: timedelta) -> bool:
    """Whether the door isn't known to be closed and locked (interlock)."""
    closed = state.contact is Contact.CLOSED or not rules.has_contact
    return not closed or state.strike is not Strike.AT_REST or is_released(state, now)


def _opened(rules: DoorRules, state: DoorState, now: Moment) -> tuple[DoorState, list[Effect]]:
    if state.contact is Contact.OPEN:
        return state, []
    after = _replace(state, contact=Contact.OPEN)
    after, wakes = _watch_leaf(rules, after, now)
    if state.contact is Contact.UNKNOWN:
        # First seen, or back from a loss: nobody can say when or by what right it was opened.
        unseen: list[Effect] = [_opened_by(rules, now, "unseen", None)] if state.was_closed else []
        return _replace(after, was_closed=False), [*unseen, *wakes]
    release = state.release
    effects: list[Effect] = []
    if release is not None and now.mono < release.until:
        effects.append(_opened_by(rules, now, release.cause, release.seq, release.begun))
        people = [person for each in state.pending for person in each.passage.people]
        alone = len(people) == 1 and release.cause == "grant"
        for each in state.pending:
            effects += _passed(rules, each, now, seen=alone, just_now=True)
        if release.cause == "rex":
            effects.insert(0, LeftUnseen())
        after = _replace(after, pending=())
        if rules.relock == "on_open" and state.renew_at is None:
            # Whoever comes next needs a right of their own.
            after = _replace(after, release=None)
            effects.append(RestStrike())
    elif state.renew_at is not None:
        effects.append(_opened_by(rules, now, "mode", state.hold_seq))
    elif rules.unreleased_opening_is_forced:
        after = _replace(after, alarms=after.alarms | {Alarm.FORCED_OPEN})
        effects.append(Record(events.ForcedOpen(at=now.wall, trust=now.trust, door=rules.door)))
    else:
        effects.append(_opened_by(rules, now, "egress", None))
    return after, [*effects, *wakes]


def _opened_by(
    rules: DoorRules, now: Moment, cause: str, seq: int | None, begun: timedelta | None = None
) -> Record:
    after_ms = None if begun is None else round((now.mono - begun) / _MS)
    return Record(
        events.DoorOpened(
            at=now.wall,
            trust=now.trust,
            door=rules.door,
            cause=cause,
            seq=seq,
            after_ms=after_ms,
        )
    )


def _watch_leaf(rules: DoorRules, state: DoorState, now: Moment) -> tuple[DoorState, list[Effect]]:
    """Let the time run that an open door may stand; none runs while its mode holds it open, or
    once its alarm was raised: a contact that was lost meanwhile raises no second one.
    """
    if state.renew_at is not None or Alarm.HELD_OPEN in state.alarms:
        return state, []
    held_open_at = now.mono + rules.held_open
    warn_at = held_open_at - min(rules.pre_alarm, rules.held_open / 2)
    state = _replace(state, held_open_at=held_open_at, warn_at=warn_at)
    return state, [WakeAt(warn_at), WakeAt(held_open_at)]


def _closed(rules: DoorRules, state: DoorState, now: Moment) -> tuple[DoorState, list[Effect]]:
    if state.contact is Contact.CLOSED:
        return state, []
    after = _replace(
        state,
        contact=Contact.CLOSED,
        was_closed=False,
        held_open_at=None,
        warn_at=None,
        alarms=frozenset[Alarm](),
    )
    effects: list[Effect] = []
    if state.contact is Contact.OPEN:
        closed = events.DoorClosed(at=now.wall, trust=now.trust, door=rules.door)
        effects.append(Record(closed))
    return after, [*effects, *_restored(rules, state.alarms, now)]


def _restored(rules: DoorRules, alarms: frozenset[Alarm], now: Moment) -> list[Effect]:
    return [
        Record(
            events.AlarmRestored(at=now.wall, trust=now.trust, door=rules.door, alarm=alarm.value)
        )
        for alarm in sorted(alarms)
    ]


def _mode_changed(
    rules: DoorRules, state: DoorState, fact: ModeChanged, now: Moment
) -> tuple[DoorState, list[Effect]]:
    restored = _restored(rules, state.alarms & {Alarm.HELD_OPEN}, now)
    effects: list[Effect] = [Record(fact.event)]
    held, holds = state.renew_at is not None, fact.mode in OPEN_MODES
    state = _replace(state, mode=fact.mode)
    if holds:
        effects = [*restored, *effects]
        state = _replace(
            state,
            renew_at=now.mono + HOLD_RENEW,
            hold_seq=state.hold_seq if held else None,
            hold_failed=held and state.hold_failed,
            held_open_at=None,
            warn_at=None,
            alarms=state.alarms - {Alarm.HELD_OPEN},
        )
        wait = fact.mode != "evacuation"
        effects += [
            WakeAt(now.mono + HOLD_RENEW),
            PulseStrike(HOLD_PULSE, "mode", wait_for_commit=wait),
        ]
    elif held:
        state = _replace(state, renew_at=None, hold_seq=None, hold_failed=False)
        if state.contact is Contact.OPEN:
            state, wakes = _watch_leaf(rules, state, now)
            effects += wakes
        release = state.release
        if release is None or now.mono >= release.until - OPENING_SLACK:
            effects.append(RestStrike())
        elif release.seq is not None:
            # Somebody was let through just now: their time goes on, and no longer.
            left = release.until - OPENING_SLACK - now.mono
            effects.append(PulseStrike(left, release.cause, wait_for_commit=False, again=True))
    return state, effects


def _time_reached(
    rules: DoorRules, state: DoorState, now: Moment
) -> tuple[DoorState, list[Effect]]:
    effects: list[Effect] = []
    waiting = tuple(each for each in state.pins_wanted if now.mono < each.until)
    if waiting != state.pins_wanted:
        state = _replace(state, pins_wanted=waiting)
    alone = tuple(each for each in state.pins_held if now.mono >= each.until)
    if alone:
        held = tuple(each for each in state.pins_held if each not in alone)
        state = _replace(state, pins_held=held)
        effects += map(DecidePin, alone)
    if state.renew_at is not None and now.mono >= state.renew_at:
        state = _replace(state, renew_at=now.mono + HOLD_RENEW)
        effects += [
            WakeAt(now.mono + HOLD_RENEW),
            PulseStrike(HOLD_PULSE, "mode", wait_for_commit=False),
        ]
    over = [each for each in state.pending if now.mono >= each.until]
    for each in over:
        if state.contact is Contact.CLOSED and not each.at_open_door:
            effects.append(Settle(each.passage, entered=False))
            effects.append(Record(_not_entered(rules, each, now)))
        else:
            effects += _passed(rules, each, now)
    if over:
        left = tuple(each for each in state.pending if each not in over)
        state = _replace(state, pending=left)
    if state.held_open_at is not None and now.mono >= state.held_open_at:
        state = _replace(
            state, held_open_at=None, warn_at=None, alarms=state.alarms | {Alarm.HELD_OPEN}
        )
        effects.append(Record(events.HeldOpen(at=now.wall, trust=now.trust, door=rules.door)))
        effects += _buzz()
    elif state.warn_at is not None and now.mono >= state.warn_at:
        first = state.held_open_at is not None and state.warn_at <= (
            state.held_open_at - min(rules.pre_alarm, rules.held_open / 2)
        )
        if first:
            warning = events.HeldOpenWarning(at=now.wall, trust=now.trust, door=rules.door)
            effects.append(Record(warning))
        again = now.mono + BUZZ_EVERY
        state = _replace(state, warn_at=again)
        effects += [*_buzz(), WakeAt(again)]
    return state, effects


def _buzz() -> list[Effect]:
    return [Indicate("in", Signal.HELD_OPEN), Indicate("out", Signal.HELD_OPEN)]


def _not_entered(rules: DoorRules, each: Pending, now: Moment) -> events.NotEntered:
    return events.NotEntered(
        at=now.wall,
        trust=now.trust,
        door=rules.door,
        side=each.passage.side,
        seq=each.seq,
        holders=each.passage.people,
    )
