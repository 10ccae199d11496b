"""Which mode a door is in: a pure function of records, orders, clocks and the age of the records.

What people ordered comes first (evacuation, then lockdown, then a mode set by hand), then the
door's own unlock schedule. A scheduler only wakes whoever acts on a change.
"""

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Literal

import msgspec

from gateway.domain.door_state import Mode, Moment
from gateway.domain.entitlements import Entitlements
from gateway.domain.instants import later
from gateway.domain.memory import FirstIn, Memory, Ordered, recall
from gateway.domain.records import Door
from gateway.domain.restrictions import first_in_key
from gateway.domain.schedule import OpeningHours, next_change

Scope = Literal["site", "zone", "door"]
Source = Literal["evacuation", "lockdown", "hand", "schedule", "records"]

LOOK_AHEAD = timedelta(days=15)
"""How far ahead the next change of a schedule is looked for; later ones are found later."""


class InForceMode(msgspec.Struct, frozen=True):
    """A door's mode, and by whose word."""

    mode: Mode
    source: Source
    by: str | None = None
    why: str | None = None
    lockdown: bool = False
    """A lockdown is in force, also where an evacuation holds the door open."""
    blocked: bool = False
    """The door is blocked by hand, also under lockdown and evacuation: neither lets more in."""


class Standing(msgspec.Struct, frozen=True):
    """What a mode depends on besides records and orders."""

    now: Moment
    trusted: bool
    """Whether decisions now carry `clock: trusted`."""
    as_of: datetime | None


def evacuation_key(scope: Scope, name: str) -> str:
    """Where an evacuation is remembered."""
    return f"evacuation/{scope}/{name}"


def lockdown_key(scope: Scope, name: str) -> str:
    """Where a lockdown is remembered."""
    return f"lockdown/{scope}/{name}"


def hand_key(door: str) -> str:
    """Where a mode set by hand is remembered."""
    return f"hand/door/{door}"


def mode_of(door_id: str, records: Entitlements, memory: Memory, at: Standing) -> InForceMode:
    """The mode of a door at this instant."""
    door = records.tables.doors.get(door_id)
    places = list(_scopes(door_id, door))
    evacuation = _first(memory, [evacuation_key(*place) for place in places])
    lockdown = _first(memory, [lockdown_key(*place) for place in places])
    hand = recall(memory, hand_key(door_id), Ordered)
    if hand is not None and hand.until is not None and at.now.mono >= hand.until:
        hand = None
    blocked = hand is not None and hand.mode == "blocked"
    if evacuation is not None:
        by, why = evacuation.by, evacuation.why
        return InForceMode("evacuation", "evacuation", by, why, lockdown is not None, blocked)
    if lockdown is not None:
        return InForceMode("lockdown", "lockdown", lockdown.by, lockdown.why, True, blocked)
    if hand is not None:
        return InForceMode(hand.mode, "hand", hand.by, hand.why, blocked=blocked)
    if door is not None and _stands_unlocked(door, records, memory, at):
        return InForceMode("unlocked", "schedule")
    return InForceMode("controlled", "records")


def next_wall_change(
    door_id: str, records: Entitlements, at: Standing, until: timedelta = LOOK_AHEAD
) -> datetime | None:
    """The next instant at which the wall clock may change the door's mode, if it is near."""
    door = records.tables.doors.get(door_id)
    if door is None or door.unlock_schedule is None:
        return None
    now = at.now.wall
    hours = records.hours[door.unlock_schedule]
    found = [next_change(hours, now, later(now, until)), _stale_at(door, records, at)]
    return min((each for each in found if each is not None and each > now), default=None)


def opens_by_schedule(
    door: Door, records: Entitlements, since: datetime, until: datetime
) -> Iterator[tuple[datetime, bool]]:
    """A preview: each change of the door's unlock schedule in (`since`, `until`)."""
    if door.unlock_schedule is None:
        return
    hours = records.hours[door.unlock_schedule]
    at = since
    while (change := next_change(hours, at, until)) is not None:
        yield change, hours.is_open(change)
        at = change


def _scopes(door_id: str, door: Door | None) -> Iterator[tuple[Scope, str]]:
    yield "site", ""
    if door is not None:
        yield "zone", door.to_zone
        yield "zone", door.from_zone
    yield "door", door_id


def _first(memory: Memory, keys: list[str]) -> Ordered | None:
    for key in keys:
        found = recall(memory, key, Ordered)
        if found is not None:
            return found
    return None


def _stands_unlocked(door: Door, records: Entitlements, memory: Memory, at: Standing) -> bool:
    """docs/spec/entitlements.md, `unlock_schedule` and `unlock_after_first`."""
    if door.unlock_schedule is None:
        return False
    if not at.trusted and records.tables.policy.untrusted_clock == "deny_timebound":
        return False
    stale_at = _stale_at(door, records, at)
    now = at.now.wall
    if stale_at is not None and now >= stale_at:
        return False
    hours = records.hours[door.unlock_schedule]
    if not hours.is_open(now):
        return False
    if not door.unlock_after_first:
        return True
    first = recall(memory, first_in_key(door.id), FirstIn)
    return first is not None and first.at <= now and _open_since(hours, first.at, now)


_STEP = timedelta(days=2)


def _open_since(hours: OpeningHours, since: datetime, now: datetime) -> bool:
    """Whether one interval is open from `since` to `now`; looks no further than its first end."""
    at = since
    while hours.is_open(at):
        if at == now:
            return True
        end = min(at + _STEP, now)
        if next_change(hours, at, end) is not None:
            return False
        at = end
    return False


def _stale_at(door: Door, records: Entitlements, at: Standing) -> datetime | None:
    tables = records.tables
    age_max = tables.policy.max_age.get(tables.zones[door.to_zone].category)
    if age_max is None or at.as_of is None:
        return None
    return later(at.as_of, age_max)
