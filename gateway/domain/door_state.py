"""One door as a machine: `step(rules, state, fact, now) -> (state, effects)`, pure and total.

The facts are about this door (no devices, no channel numbers); the effects are carried out in
order by `control`. Effects that record come first: what is not written down does not open.
"""

from datetime import datetime, timedelta
from enum import StrEnum
from typing import Literal, TypeVar

import msgspec

from gateway.domain import events
from gateway.domain.events import Event
from gateway.domain.signal import Signal

UNLOCK_DEFAULT = timedelta(seconds=5)
"""The strike's time at a door that is in no record yet (`unlock_s`'s own default): for REX only."""
HELD_OPEN_DEFAULT = timedelta(seconds=30)
"""`held_open_s`'s own default, likewise."""
PIN_WAIT = timedelta(seconds=20)
"""How long a card waits for its PIN; longer, and the next person would finish it."""
OPENING_SLACK = timedelta(seconds=1)
"""A leaf pulled in the last instant of a release reports open after its contact's debounce."""

RELEASE_LEAD = timedelta(seconds=1)
"""The longest from a decision to the relay's confirmation: commit wait and device time limit."""


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
Cause = Literal["grant", "rex"]


class DoorRules(msgspec.Struct, frozen=True):
    """What the door's record and its wiring say."""

    door: str
    unlock: timedelta = UNLOCK_DEFAULT
    held_open: timedelta = HELD_OPEN_DEFAULT
    unreleased_opening_is_forced: bool = True
    """False where people leave through it by a handle that no switch reports."""


class PinWanted(msgspec.Struct, frozen=True):
    """A first credential that the decision challenged for a PIN."""

    side: Side
    kind: str
    value: str
    until: timedelta

    def __repr__(self) -> str:
        """Without the value: a credential is never printed."""
        return f"PinWanted(side={self.side!r}, kind={self.kind!r}, until={self.until})"


class Release(msgspec.Struct, frozen=True):
    """The strike was told to release the door, by what right, and until when it may be opened."""

    cause: Cause
    seq: int | None
    until: timedelta


class DoorState(msgspec.Struct, frozen=True):
    """All that a door remembers. A new one knows nothing: its devices have not spoken yet."""

    contact: Contact = Contact.UNKNOWN
    strike: Strike = Strike.UNKNOWN
    release: Release | None = None
    held_open_at: timedelta | None = None
    alarms: frozenset[Alarm] = frozenset()
    pin_wanted: PinWanted | None = None


# --- Facts ---------------------------------------------------------------------------------------


class Decided(msgspec.Struct, frozen=True):
    """A credential was decided; `event` is the record of it, complete but for nothing."""

    event: events.AccessDecided
    presented_at: timedelta
    challenged: tuple[str, str] | None = None
    """(kind, value) of the first credential, where the outcome is `challenge`."""
    unlock: timedelta = UNLOCK_DEFAULT
    """The strike's time for this holder (`unlock_s`, or `extended_unlock_s`)."""


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


class ReleaseFailed(msgspec.Struct, frozen=True):
    """The relay did not confirm the pulse."""

    cause: Cause
    seq: int | None
    why: str
    side: Side | None = None


class TimeReached(msgspec.Struct, frozen=True):
    """A moment that was asked for with `WakeAt` has come."""


DoorFact = Decided | RexPressed | ContactSaid | StrikeSaid | Released | ReleaseFailed | TimeReached


# --- Effects -------------------------------------------------------------------------------------


class Record(msgspec.Struct, frozen=True):
    """Append `event` to the journal."""

    event: Event


class PulseStrike(msgspec.Struct, frozen=True):
    """Release the door by the strike's own timer, by the right of the `Record` before it.

    Answered with `Released` or `ReleaseFailed`; after a failure the effects behind it are void.
    """

    duration: timedelta
    cause: Cause
    side: Side | None = None
    wait_for_commit: bool = True
    """REX never waits: nobody is kept in by a slow disk."""


class Indicate(msgspec.Struct, frozen=True):
    """Show `signal` on the readers of `side`."""

    side: Side
    signal: Signal


class WakeAt(msgspec.Struct, frozen=True):
    """Send `TimeReached` when the monotonic clock reaches `at`."""

    at: timedelta


Effect = Record | PulseStrike | Indicate | WakeAt


class Moment(msgspec.Struct, frozen=True):
    """Now, by both clocks."""

    mono: timedelta
    wall: datetime
    trust: int


def credentials_to_decide(
    state: DoorState, side: Side, kind: str, value: str, at: timedelta
) -> tuple[tuple[str, str], ...]:
    """What is to be decided when (kind, value) is presented: a PIN may complete a waiting card."""
    wanted = state.pin_wanted
    if kind == "pin" and wanted is not None and wanted.side == side and at < wanted.until:
        return ((wanted.kind, wanted.value), (kind, value))
    return ((kind, value),)


def step(
    rules: DoorRules, state: DoorState, fact: DoorFact, now: Moment
) -> tuple[DoorState, list[Effect]]:
    """The door after `fact`, and what to do about it, in order. Total: never raises."""
    match fact:
        case Decided():
            return _decided(state, fact, now)
        case RexPressed():
            event = events.RexPressed(at=now.wall, trust=now.trust, door=rules.door)
            return _releasing(state, "rex", rules.unlock, now), [
                Record(event),
                PulseStrike(rules.unlock, "rex", wait_for_commit=False),
            ]
        case ContactSaid(contact=Contact.OPEN):
            return _opened(rules, state, now)
        case ContactSaid(contact=Contact.CLOSED):
            return _closed(rules, state, now)
        case ContactSaid():
            # The contact is lost: whether the door stands open is unknown, so no time runs.
            return _replace(state, contact=Contact.UNKNOWN, held_open_at=None), []
        case StrikeSaid():
            return _replace(state, strike=fact.strike), []
        case Released():
            release = Release(fact.cause, fact.seq, now.mono + fact.pulse + OPENING_SLACK)
            event_ = events.Unlocked(
                at=now.wall,
                trust=now.trust,
                door=rules.door,
                cause=fact.cause,
                seq=fact.seq,
                pulse_ms=round(fact.pulse / _MS),
                confirm_ms=round(fact.took / _MS, 3),
            )
            return _replace(state, release=release), [Record(event_)]
        case ReleaseFailed():
            failed = events.UnlockFailed(
                at=now.wall,
                trust=now.trust,
                door=rules.door,
                cause=fact.cause,
                why=fact.why,
                seq=fact.seq,
            )
            effects: list[Effect] = [Record(failed)]
            if fact.side is not None:
                effects.append(Indicate(fact.side, Signal.FAULT))
            return _replace(state, release=None), effects
        case TimeReached():
            return _time_reached(rules, state, now)


_MS = timedelta(milliseconds=1)
S = TypeVar("S", bound=msgspec.Struct)


def _replace(struct: S, **changes: object) -> S:
    return msgspec.structs.replace(struct, **changes)


def _decided(state: DoorState, fact: Decided, now: Moment) -> tuple[DoorState, list[Effect]]:
    event = fact.event
    side: Side = "out" if event.side == "out" else "in"
    record = Record(event)
    after = _replace(state, pin_wanted=None)
    if event.outcome == "grant":
        return _releasing(after, "grant", fact.unlock, now), [
            record,
            PulseStrike(fact.unlock, "grant", side),
            Indicate(side, Signal.GRANTED),
        ]
    if event.outcome == "challenge" and fact.challenged is not None:
        kind, value = fact.challenged
        wanted = PinWanted(side, kind, value, now.mono + PIN_WAIT)
        return _replace(after, pin_wanted=wanted), [
            record,
            Indicate(side, Signal.PIN_WANTED),
            WakeAt(wanted.until),
        ]
    return after, [record, Indicate(side, Signal.DENIED)]


def _releasing(state: DoorState, cause: Cause, unlock: timedelta, now: Moment) -> DoorState:
    # Already before the relay has confirmed: the leaf can be quicker than the confirmation.
    until = now.mono + RELEASE_LEAD + unlock + OPENING_SLACK
    return _replace(state, release=Release(cause, None, until))


def _opened(rules: DoorRules, state: DoorState, now: Moment) -> tuple[DoorState, list[Effect]]:
    if state.contact is Contact.OPEN:
        return state, []
    held_open_at = now.mono + rules.held_open
    after = _replace(state, contact=Contact.OPEN, held_open_at=held_open_at)
    wake = WakeAt(held_open_at)
    if state.contact is Contact.UNKNOWN:
        # First seen, or back from a loss: nobody can say when or by what right it was opened.
        return after, [wake]
    release = state.release
    if release is not None and now.mono < release.until:
        event: Event = events.DoorOpened(
            at=now.wall, trust=now.trust, door=rules.door, cause=release.cause, seq=release.seq
        )
    elif rules.unreleased_opening_is_forced:
        after = _replace(after, alarms=after.alarms | {Alarm.FORCED_OPEN})
        event = events.ForcedOpen(at=now.wall, trust=now.trust, door=rules.door)
    else:
        event = events.DoorOpened(at=now.wall, trust=now.trust, door=rules.door, cause="egress")
    return after, [Record(event), wake]


def _closed(rules: DoorRules, state: DoorState, now: Moment) -> tuple[DoorState, list[Effect]]:
    if state.contact is Contact.CLOSED:
        return state, []
    after = _replace(state, contact=Contact.CLOSED, held_open_at=None, alarms=frozenset[Alarm]())
    effects: list[Effect] = []
    if state.contact is Contact.OPEN:
        closed = events.DoorClosed(at=now.wall, trust=now.trust, door=rules.door)
        effects.append(Record(closed))
    for alarm in sorted(state.alarms):
        restored = events.AlarmRestored(
            at=now.wall, trust=now.trust, door=rules.door, alarm=alarm.value
        )
        effects.append(Record(restored))
    return after, effects


def _time_reached(
    rules: DoorRules, state: DoorState, now: Moment
) -> tuple[DoorState, list[Effect]]:
    effects: list[Effect] = []
    if state.pin_wanted is not None and now.mono >= state.pin_wanted.until:
        state = _replace(state, pin_wanted=None)
    if state.held_open_at is not None and now.mono >= state.held_open_at:
        state = _replace(state, held_open_at=None, alarms=state.alarms | {Alarm.HELD_OPEN})
        effects.append(Record(events.HeldOpen(at=now.wall, trust=now.trust, door=rules.door)))
    return state, effects
