"""How much a set of records would change for people: what the guard before an apply looks at."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta
from functools import cache
from operator import attrgetter
from typing import NamedTuple

from gateway.domain.coverage import Coverage, Slots, Way, cut
from gateway.domain.decision import Side, window
from gateway.domain.entitlements import ValidRecords
from gateway.domain.instants import later
from gateway.domain.records import AccessException, Booking, Holder, SiteTables
from gateway.domain.schedule import OpeningHours, all_opening_hours

NAMED_MAX = 100
"""Grants that are named one by one: a change of more than so many is no churn of a few people."""

_AHEAD = timedelta(days=7)
"""The hours of schedules are compared over this long: a week has each of its weekdays."""


class Limits(NamedTuple):
    """From where on a second signature is asked for. Fixed here: no record can loosen them."""

    taken_share_max: float = 0.2
    """A month's end ends some memberships, never a fifth of what all holders have."""
    given_share_max: float = 0.5
    """A new tenant's team may come in one revision; half as much again is a mistake."""
    grants_min: int = 50
    """A share of fewer changed grants doesn't count: at a small site one person is a large one."""
    restricted_holders_max: int = 3
    """Staff rooms, storage, IT: whoever newly may there has been hired, one at a time."""
    window: timedelta = timedelta(hours=24)
    """Whole hours within which changes count together (`gateway.domain.impact_window`): in a day
    somebody notices, and no ordinary day takes a fifth away."""


LIMITS = Limits()


class Grant(NamedTuple):
    """A holder, and a door by one of its sides."""

    holder: str
    door: str
    side: Side


class Impact(NamedTuple):
    """What becomes different.

    A *grant* is a holder and a door (a door that is not free to leave by counts once a side) where
    the holder is active, `valid_until` and the grace for payment are not over, a credential of
    theirs is active and not expired, no `deny` exception in its span covers the door, and a group
    (whose schedule has any opening; `timebound` as a booking opens it), a confirmed booking or an
    `allow` exception, neither of which is over, covers it. Grants that begin later count. One that
    is made to end within a week, or denied for a part of it, is taken away already.
    """

    first: bool
    """Nothing was in force."""
    grants_before: int
    grants_after: int
    taken: int
    given: int
    narrowed: int
    """Grants that stay, with fewer hours in the week than before."""
    widened: int
    hours_before: float
    """Of the grants by groups with a schedule: hours of the coming week, summed over the grants."""
    hours_taken: float
    hours_given: float
    restricted_holders: tuple[str, ...]
    """Holders with a grant into a zone, `restricted` before or after, who had none into it."""
    unrestricted_zones: tuple[str, ...]
    """Zones that were `restricted` and are another category now, or are deleted: they could be
    made anew as another one."""
    standing_open: tuple[str, ...]
    """Doors that stand unlocked in more hours of the week than before, other than into `public`;
    one that led there before counts as locked then."""
    grants_taken: tuple["Grant", ...] = ()
    """Which ones, in order; none where they are more than `NAMED_MAX`."""
    grants_given: tuple["Grant", ...] = ()

    @property
    def taken_share(self) -> float:
        """Of the grants, or of their hours, whichever is the greater."""
        return max(_share(self.taken, self.grants_before), self._hours(self.hours_taken))

    @property
    def given_share(self) -> float:
        """Likewise; 1 is twice as much as there was."""
        return max(_share(self.given, self.grants_before), self._hours(self.hours_given))

    @property
    def emptied(self) -> bool:
        """Somebody could pass, and nobody can."""
        return self.grants_before > 0 == self.grants_after

    def needs_second_signature(self, limits: Limits = LIMITS) -> tuple[str, ...]:
        """Why it does: a sentence a reason. None where it doesn't.

        Where nothing was in force there is nothing that could be harmed: none.
        """
        return () if self.first else tuple(self._reasons(limits))

    def _reasons(self, limits: Limits) -> Iterable[str]:
        if self.emptied:
            yield f"the site is emptied: none of {self.grants_before} grants is left"
        if (
            self.taken_share > limits.taken_share_max
            and self.taken + self.narrowed >= limits.grants_min
        ):
            yield (
                f"takes {self.taken} of {self.grants_before} grants and"
                f" {self._hours(self.hours_taken):.0%} of their hours away: more than"
                f" {limits.taken_share_max:.0%}"
            )
        if (
            self.given_share > limits.given_share_max
            and self.given + self.widened >= limits.grants_min
        ):
            yield (
                f"gives {self.given} grants to {self.grants_before} and"
                f" {self._hours(self.hours_given):.0%} more hours: more than"
                f" {limits.given_share_max:.0%}"
            )
        if len(self.restricted_holders) > limits.restricted_holders_max:
            yield (
                f"opens restricted zones to {len(self.restricted_holders)} more holders: more than"
                f" {limits.restricted_holders_max}"
            )
        if self.unrestricted_zones:
            yield f"no longer restricted: zone {', '.join(self.unrestricted_zones)}"
        if self.standing_open:
            yield f"stands unlocked in more hours: door {', '.join(self.standing_open)}"

    def _hours(self, hours: float) -> float:
        return _share(hours, self.hours_before)


def impact(was: ValidRecords, new: ValidRecords, at: datetime) -> Impact:
    """What becomes different for people where `new` is put in force instead of `was` at `at`.

    Every record is read once, and each combination of groups worked out once: 0.2 s for 100,000
    credentials.
    """
    tables = (was.tables, new.tables)
    hours = tuple(
        all_opening_hours(each.schedules, each.calendars, each.site.timezone) for each in tables
    )
    slots = cut((each for side in hours for each in side.values()), at, at + _AHEAD)
    restricted = frozenset(
        zone.id for each in tables for zone in each.zones.values() if zone.category == "restricted"
    )
    (before, before_soon), (after, after_soon) = (
        (_Side(records, each, slots, at, at), _Side(records, each, slots, at, at + _AHEAD))
        for records, each in zip((was, new), hours, strict=True)
    )
    compared = _Compared(slots, restricted)
    groups_alone = cache(
        lambda old, now: compared.difference(before.by_groups(old), after.by_groups(now))
    )
    found: Counter[_Difference] = Counter()
    opened = []
    grants_taken: list[Grant] = []
    grants_given: list[Grant] = []
    for holder_id in was.holders.keys() | new.holders.keys():
        if before.is_ordinary(holder_id) and after.is_ordinary(holder_id):
            groups = after.groups(holder_id)
            differs = groups_alone(before.groups(holder_id), groups)
            if (left := after_soon.groups(holder_id)) != groups:
                differs = differs.or_soon(groups_alone(before_soon.groups(holder_id), left))
        else:
            rights = after.rights(holder_id)
            differs = compared.difference(before.rights(holder_id), rights)
            if (remain := after_soon.rights(holder_id)) != rights:
                soon = compared.difference(before_soon.rights(holder_id), remain)
                differs = differs.or_soon(soon)
        found[differs] += 1
        if differs.restricted:
            opened.append(holder_id)
        _name(grants_taken, holder_id, differs.ways_taken)
        _name(grants_given, holder_id, differs.ways_given)

    def summed(what: Callable[[_Difference], float]) -> float:
        return sum(what(differs) * holders for differs, holders in found.items())

    def count(what: Callable[[_Difference], int]) -> int:
        return sum(what(differs) * holders for differs, holders in found.items())

    grants_before = count(attrgetter("before"))
    taken = count(attrgetter("taken"))
    given = count(attrgetter("given"))
    return Impact(
        first=not was.tables.doors and not was.holders,
        grants_before=grants_before,
        grants_after=grants_before - taken + given,
        taken=taken,
        given=given,
        narrowed=count(attrgetter("narrowed")),
        widened=count(attrgetter("widened")),
        hours_before=summed(attrgetter("hours_before")),
        hours_taken=summed(attrgetter("hours_taken")),
        hours_given=summed(attrgetter("hours_given")),
        restricted_holders=tuple(sorted(opened)),
        unrestricted_zones=tuple(
            sorted(
                zone.id
                for zone in was.tables.zones.values()
                if zone.category == "restricted" and not _is_restricted(new, zone.id)
            )
        ),
        standing_open=tuple(sorted(_standing_open(before, after))),
        grants_taken=_if_few(grants_taken),
        grants_given=_if_few(grants_given),
    )


def _name(grants: list[Grant], holder: str, ways: Iterable[Way]) -> None:
    if len(grants) <= NAMED_MAX:
        grants.extend(Grant(holder, way.door, way.side) for way in ways)


def _if_few(grants: list[Grant]) -> tuple[Grant, ...]:
    return tuple(sorted(grants)) if len(grants) <= NAMED_MAX else ()


class _Difference(NamedTuple):
    """Of one holder."""

    before: int
    taken: int
    given: int
    narrowed: int
    widened: int
    hours_before: float
    hours_taken: float
    hours_given: float
    restricted: bool
    """A restricted zone becomes open to the holder."""
    ways_taken: tuple[Way, ...]
    ways_given: tuple[Way, ...]

    def or_soon(self, soon: "_Difference") -> "_Difference":
        """With what is taken within the week, where that is more."""
        more = max(self, soon, key=attrgetter("taken"))
        return self._replace(
            taken=more.taken,
            ways_taken=more.ways_taken,
            hours_taken=max(self.hours_taken, soon.hours_taken),
        )


_Rights = Mapping[Way, int]
"""The ways that a holder has a grant for, and in which slots by a schedule."""


class _Compared:
    """Two holders' worth of rights, one before and one after."""

    def __init__(self, slots: Slots, restricted: frozenset[str]) -> None:
        self._hours = cache(slots.hours_in)
        self._restricted = restricted

    def difference(self, old: _Rights, new: _Rights) -> _Difference:
        changed = [
            (old.get(way, 0), new.get(way, 0))
            for way in old.keys() & new.keys()
            if old[way] != new[way]
        ]
        ways_taken = tuple(old.keys() - new.keys())
        ways_given = tuple(new.keys() - old.keys())
        taken = [old[way] for way in ways_taken]
        given = [new[way] for way in ways_given]
        hours = self._hours
        lost = [one & ~other for one, other in changed]
        won = [other & ~one for one, other in changed]
        return _Difference(
            before=len(old),
            taken=len(taken),
            given=len(given),
            narrowed=sum(map(bool, lost)),
            widened=sum(map(bool, won)),
            hours_before=sum(map(hours, old.values())),
            hours_taken=sum(map(hours, (*taken, *lost))),
            hours_given=sum(map(hours, (*given, *won))),
            restricted=not self._into(new) <= self._into(old),
            ways_taken=ways_taken,
            ways_given=ways_given,
        )

    def _into(self, rights: _Rights) -> set[str]:
        return {way.entered for way in rights} & self._restricted


class _Side:
    """One of the two sets, and what of it lasts from `at` until `until`."""

    def __init__(
        self,
        records: ValidRecords,
        hours: Mapping[str, OpeningHours],
        slots: Slots,
        at: datetime,
        until: datetime,
    ) -> None:
        self.coverage = Coverage(records.tables, hours, slots)
        self.by_groups = cache(self._by_groups)
        self._records = records
        self._until = until
        self._policy = records.tables.policy
        self._carrying = {
            each.holder
            for each in records.credentials.values()
            if each.status == "active" and (each.valid_until is None or until < each.valid_until)
        }
        self._bookings: defaultdict[str, list[Booking]] = defaultdict(list)
        for booking in records.bookings.values():
            if booking.status == "confirmed" and at < window(booking, self._policy)[1]:
                for holder_id in booking.holders:
                    self._bookings[holder_id].append(booking)
        self._exceptions: defaultdict[str, list[AccessException]] = defaultdict(list)
        for exception in records.exceptions.values():
            if at < exception.until:
                self._exceptions[exception.holder].append(exception)

    def is_ordinary(self, holder_id: str) -> bool:
        """Whether nothing but groups says where the holder may pass."""
        return holder_id not in self._bookings and holder_id not in self._exceptions

    def groups(self, holder_id: str) -> tuple[str, ...]:
        """The holder's groups; none where nothing that they carry would open a door any more."""
        holder = self._records.holders.get(holder_id)
        return holder.groups if holder is not None and self._may_pass(holder) else ()

    def rights(self, holder_id: str) -> _Rights:
        """All that the holder has a grant for."""
        holder = self._records.holders.get(holder_id)
        if holder is None or not self._may_pass(holder):
            return {}
        coverage = self.coverage
        found = dict(self.by_groups(holder.groups))
        timebound = coverage.timebound(holder.groups)
        for booking in self._bookings.get(holder_id, ()):
            for way in coverage.opened_by(booking, timebound):
                found.setdefault(way, 0)
        exceptions = self._exceptions.get(holder_id, ())
        for exception in exceptions:
            if exception.effect == "allow":
                for way in coverage.covered(exception):
                    found.setdefault(way, 0)
        for exception in exceptions:
            if exception.effect == "deny" and exception.from_ <= self._until:
                for way in coverage.covered(exception):
                    found.pop(way, None)
        return found

    def _by_groups(self, groups: tuple[str, ...]) -> _Rights:
        tables = self._records.tables
        ever = tuple(
            group for group in groups if _ever_opens(tables, tables.groups[group].schedule)
        )
        return self.coverage.standing(ever)

    def _may_pass(self, holder: Holder) -> bool:
        overdue = holder.delinquent_since
        return (
            holder.status == "active"
            and holder.id in self._carrying
            and (holder.valid_until is None or self._until < holder.valid_until)
            and (overdue is None or self._until < later(overdue, self._policy.grace))
        )


def _ever_opens(tables: SiteTables, schedule_id: str) -> bool:
    schedule = tables.schedules.get(schedule_id)
    return (
        schedule is None  # built in
        or any(schedule.weekly)
        or any(holiday.intervals for holiday in schedule.holidays)
    )


def _is_restricted(records: ValidRecords, zone_id: str) -> bool:
    zone = records.tables.zones.get(zone_id)
    return zone is not None and zone.category == "restricted"


def _standing_open(before: _Side, after: _Side) -> Iterable[str]:
    def unlocked(side: _Side, door_id: str) -> int:
        tables = side.coverage.tables
        door = tables.doors.get(door_id)
        if door is None or tables.zones[door.to_zone].category == "public":
            return 0
        return 0 if door.unlock_schedule is None else side.coverage.open[door.unlock_schedule]

    for door_id in after.coverage.tables.doors:
        if unlocked(after, door_id) & ~unlocked(before, door_id):
            yield door_id


def _share(part: float, whole: float) -> float:
    if part == 0:
        return 0.0
    return part / whole if whole else float("inf")


class Standing(NamedTuple):
    """What a set of records gives, counted."""

    grants: int
    hours: float
    """Of the grants by groups with a schedule, in the coming week."""
    doors: dict[str, int]
    """By door: holders who have a way in at some time."""


def standing(records: ValidRecords, at: datetime) -> Standing:
    """The sums over one set; of two sets with the same site records they may be added up."""
    tables = records.tables
    hours = all_opening_hours(tables.schedules, tables.calendars, tables.site.timezone)
    slots = cut(hours.values(), at, at + _AHEAD)
    side = _Side(records, hours, slots, at, at)
    hours_in = cache(slots.hours_in)
    by_groups = Counter(
        side.groups(holder_id) for holder_id in records.holders if side.is_ordinary(holder_id)
    )
    every = [(side.by_groups(groups), holders) for groups, holders in by_groups.items()]
    every += [
        (side.rights(holder_id), 1)
        for holder_id in records.holders
        if not side.is_ordinary(holder_id)
    ]
    doors: Counter[str] = Counter(dict.fromkeys(tables.doors, 0))
    for rights, holders in every:
        for door in {way.door for way in rights}:
            doors[door] += holders
    return Standing(
        sum(len(rights) * holders for rights, holders in every),
        sum(sum(map(hours_in, rights.values())) * holders for rights, holders in every),
        dict(doors),
    )
