"""What can turn a grant into a denial after the decision, and never a denial into a grant."""

from collections.abc import Callable
from datetime import timedelta

import msgspec

from gateway.domain import (
    antipassback,
    assurance,
    interlock,
    limited_uses,
    occupancy,
    pin_lockout,
    sun_counter,
    two_person,
)
from gateway.domain.after_decision import Case
from gateway.domain.antipassback import as_place, place_key, places_of
from gateway.domain.decision import Decision, Side
from gateway.domain.memory import Changes, FirstIn, Memory, Place, Remembered

BLOCKED = "door_blocked"


class Passage(msgspec.Struct, frozen=True):
    """Who was let through a door, and what was remembered of it before anybody saw them pass."""

    since: timedelta

    side: Side
    zone: str
    """The zone entered."""
    people: tuple[str, ...] = ()
    """Holders; nobody where who leaves isn't known."""
    counted: tuple[str, int] | None = None
    """The zone whose people were counted, and by how many they changed."""
    tap: timedelta | None = None
    """See `Surroundings.tap`."""


class Restricted(msgspec.Struct, frozen=True):
    """The decision after the door's own rules, and what is to be remembered with it."""

    decision: Decision
    changes: Changes
    passage: Passage | None = None
    spends: bool = False
    """What opens is spent: the lock waits for the disk, however long it takes."""
    passback: bool = False
    """A `soft` door let somebody into a zone that they had not left."""


def blocked(case: Case) -> str | None:
    """The door's mode lets nobody in."""
    return BLOCKED if case.around.blocked else None


RULES: tuple[Callable[[Case], str | None], ...] = (
    blocked,
    assurance.why_not,
    sun_counter.why_not,
    interlock.why_not,
    antipassback.why_not,
    limited_uses.why_not,
    occupancy.why_not,
    two_person.why_not,
)
"""The first that gives a reason turns the grant. Two-person is last: who waits may pass alone."""


def restrict(case: Case) -> Restricted:
    """Apply the rules to a decided request. Pure; a grant `egress` is never turned."""
    decision = case.decision
    if decision.reason == "egress" and decision.outcome == "grant":
        return _stands(case, {})
    if pin_lockout.why_not(case) is not None:
        return Restricted(pin_lockout.denial(case), {})
    changes = {**pin_lockout.after(case), **sun_counter.after(case)}
    if decision.outcome != "grant":
        return Restricted(decision, changes)
    for why_not in RULES:
        reason = why_not(case)
        if reason is not None:
            if reason == two_person.SECOND_WANTED:
                changes.update(two_person.waits(case))
            return Restricted(_denied(decision, reason), changes)
    return _stands(case, changes)


def _denied(decision: Decision, reason: str) -> Decision:
    return msgspec.structs.replace(decision, outcome="deny", reason=reason, via=None)


def _stands(case: Case, changes: dict[str, Remembered | None]) -> Restricted:
    holder = case.decision.holder
    people = () if holder is None else (holder,)
    spends = False
    if case.decision.reason != "egress":
        limited = limited_uses.limits(case)
        if case.door.two_person and (first := two_person.first_of_two(case)) is not None:
            if reason := occupancy.why_not(case, 2):
                return Restricted(_denied(case.decision, reason), changes)
            people = (first.holder, *people)
            limited += first.limited
            changes[two_person.first_key(case.door.id, case.request.side)] = None
        changes.update(limited_uses.spend(case.memory, limited))
        spends = bool(limited) or case.around.counter is not None
        if case.door.unlock_after_first:
            changes[first_in_key(case.door.id)] = FirstIn(at=case.request.at)
    counted = _counts(case, max(1, len(people)))
    passage = Passage(case.now, case.request.side, case.entered, people, counted, case.around.tap)
    passback = (
        case.door.antipassback == "soft"
        and case.decision.reason != "egress"
        and antipassback.is_passback(case)
    )
    changes.update(_passed(case, passage))
    return Restricted(case.decision, changes, passage, spends, passback)


def first_in_key(door: str) -> str:
    """Where the first person in is remembered."""
    return f"first/{door}"


def _counts(case: Case, people: int) -> tuple[str, int] | None:
    if case.door.max_occupancy is None:
        return None
    zone = case.door.to_zone
    if case.request.side == "in":
        return zone, people
    return zone, -min(people, occupancy.people_in(case.memory, zone))


def _passed(case: Case, passage: Passage) -> dict[str, Remembered | None]:
    place = Place(
        zone=passage.zone,
        door=case.door.id,
        at=case.request.at,
        since=case.now,
        awaited=True,
        tap=passage.tap,
    )
    changes: dict[str, Remembered | None] = {
        place_key(holder): as_place((*places_of(case.memory, holder), place))
        for holder in passage.people
    }
    if passage.counted is not None:
        changes.update(occupancy.moved(case.memory, *passage.counted))
    return changes


def settled(
    memory: Memory,
    door: str,
    passage: Passage,
    *,
    entered: bool,
    seen: bool = False,
    just_now: bool = False,
) -> Changes:
    """What is remembered once it is known whether somebody went through the door; where that isn't
    `just_now`, at some time since they were let in.
    """
    changes: dict[str, Remembered | None] = {}
    entrance = (door, passage.zone, passage.since)
    for holder in passage.people:
        places = places_of(memory, holder)
        found = (n for n, p in enumerate(places) if p.awaited and _entrance(p) == entrance)
        at = next(found, None)
        if at is None:
            continue  # forgiven since
        mine = places[at]
        known = next((p for p in places if not p.awaited), None)
        if entered and not just_now and known is not None and _is_same_tap(mine, known):
            # No contact watched, and the same tap opened other doors: one of them was taken.
            left = [_or_in(known, mine) if p is known else p for p in places if p is not mine]
        elif entered and (known is None or just_now or places.index(known) < at):
            went = msgspec.structs.replace(mine, awaited=False, seen=seen)
            left = [went if p is mine else p for p in places if p is not known]
        else:
            left = [p for p in places if p is not mine]
        changes[place_key(holder)] = as_place(tuple(left))
    if passage.counted is not None and not entered:
        zone, by = passage.counted
        changes.update(occupancy.moved(memory, zone, -by))
    return changes


def _is_same_tap(place: Place, other: Place) -> bool:
    return place.tap is not None and place.tap == other.tap


def _or_in(known: Place, other: Place) -> Place:
    if known.seen or other.zone in (known.zone, *known.elsewhere):
        return known
    return msgspec.structs.replace(known, elsewhere=(*known.elsewhere, other.zone))


def _entrance(place: Place) -> tuple[str, str, timedelta]:
    return place.door, place.zone, place.since
