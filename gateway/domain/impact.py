"""How much a set of records would change for people: what the guard before an apply looks at."""

from collections import Counter
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from functools import cache
from operator import attrgetter
from typing import NamedTuple

from gateway.domain.coverage import Way, cut
from gateway.domain.decision import Side as DoorSide
from gateway.domain.entitlements import ValidRecords
from gateway.domain.impact_holder import Compared, Difference, Digest, Side, dates_beyond
from gateway.domain.impact_site import site_changes
from gateway.domain.schedule import all_opening_hours

NAMED_MAX = 100
"""Grants that are named one by one: a change of more than so many is no churn of a few people."""

HOLDERS_NAMED_MAX = 20
"""Holders that are named: more than any limit of holders asks about."""

_AHEAD = timedelta(days=7)
"""The hours of schedules are compared over this long: a week has each of its weekdays."""


class Limits(NamedTuple):
    """From where on a second signature is asked for. Fixed here: no record can loosen them."""

    taken_share_max: float = 0.2
    """A month's end ends some memberships, never a fifth of what all holders have."""
    given_share_max: float = 0.5
    """A new tenant's team may come in one revision; half as much again is a mistake."""
    grants_min: int = 50
    """A share of fewer changed grants doesn't count, unless they are of more holders than a small
    site changes in a day."""
    restricted_holders_max: int = 3
    """Staff rooms, storage, IT: whoever newly may there has been hired, one at a time."""
    window: timedelta = timedelta(hours=24)
    """Whole hours within which changes count together (`gateway.domain.impact_window`): in a day
    somebody notices, and no ordinary day takes a fifth away."""
    taken_holders_max: int = 3
    """At a small site: so many may leave in a day, whatever share of it they are."""
    given_holders_max: int = 10
    """At a small site: so many may come in a day."""


LIMITS = Limits()


class Grant(NamedTuple):
    """A holder, and a door by one of its sides."""

    holder: str
    door: str
    side: DoorSide


class Impact(NamedTuple):
    """What becomes different.

    A *grant* is a holder and a door (a door that is not free to leave by counts once a side) where
    the holder is active, `valid_until` and the grace for payment are not over, a credential of
    theirs is active and not expired, no `deny` exception in its span covers the door, and a group
    (whose schedule has any opening; `timebound` as a booking opens it), a confirmed booking or an
    `allow` exception, neither of which is over, covers it. Grants that begin later count.

    One is *taken* where it goes, begins later, ends earlier, is denied at more times, loses a
    credential or a privilege, or is closed on a date of a calendar on which it was open. It is
    *given* where the contrary holds; an end that is put off by a year at most is a renewal.
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
    """Holders who newly have a grant into a zone that is `restricted` before or after, or a further
    card or more time for one, or who are newly exempt from lockdown or from the age of records."""
    new_values: tuple[str, ...]
    """Credentials into a restricted zone that are another card, or holder's, than before."""
    site_changes: tuple[str, ...]
    """Changes in records that are about nobody, a phrase each."""
    grants_taken: tuple[Grant, ...] = ()
    """Which ones, in order; none where they are more than `NAMED_MAX`."""
    grants_given: tuple[Grant, ...] = ()
    holders_taken: tuple[str, ...] = ()
    """Whose they are, hours included: as many as `HOLDERS_NAMED_MAX`, in order."""
    holders_given: tuple[str, ...] = ()
    one_holder: bool = False
    """All that is taken is one holder's, and nothing changes for the site. A lost card, or a member
    who has to go: never refused for what others lost that day."""

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
        if self.site_changes:
            yield f"changes the site: {'; '.join(self.site_changes)}"
        if not self.one_holder:
            yield from self._takes(limits)
        if self.given_share > limits.given_share_max and (
            self.given + self.widened >= limits.grants_min
            or len(self.holders_given) > limits.given_holders_max
        ):
            yield (
                f"gives {self.given} grants to {self.grants_before} and"
                f" {self._hours(self.hours_given):.0%} more hours: more than"
                f" {limits.given_share_max:.0%}"
            )
        if len(self.restricted_holders) > limits.restricted_holders_max:
            yield (
                f"opens restricted zones, or doors under lockdown, to"
                f" {len(self.restricted_holders)} more holders or cards of theirs: more than"
                f" {limits.restricted_holders_max}"
            )
        if self.new_values:
            yield f"another card into a restricted zone: credential {', '.join(self.new_values)}"

    def _takes(self, limits: Limits) -> Iterable[str]:
        if self.emptied:
            yield f"the site is emptied: none of {self.grants_before} grants is left"
        if self.taken_share > limits.taken_share_max and (
            self.taken + self.narrowed >= limits.grants_min
            or len(self.holders_taken) > limits.taken_holders_max
        ):
            yield (
                f"takes {self.taken} of {self.grants_before} grants and"
                f" {self._hours(self.hours_taken):.0%} of their hours away: more than"
                f" {limits.taken_share_max:.0%}"
            )

    def _hours(self, hours: float) -> float:
        return _share(hours, self.hours_before)


def impact(
    was: ValidRecords,
    new: ValidRecords,
    at: datetime,
    digests: tuple[Digest, Digest] = (lambda _, value: value, lambda _, value: value),
) -> Impact:
    """What becomes different for people where `new` is put in force instead of `was` at `at`.

    `digests` stand for the credentials' values in `was` and `new`, alike in both. Every record is
    read once, and each combination of groups worked out once.
    """
    tables = (was.tables, new.tables)
    hours = tuple(
        all_opening_hours(each.schedules, each.calendars, each.site.timezone) for each in tables
    )
    slots = cut((each for side in hours for each in side.values()), at, at + _AHEAD)
    before, after = (
        Side(records, each, slots, at, digest)
        for records, each, digest in zip((was, new), hours, digests, strict=True)
    )
    compared = Compared(before, after, slots, dates_beyond(tables, at + _AHEAD))
    found: Counter[Difference] = Counter()
    opened = []
    takes, gives = _Named(), _Named()
    for holder_id in was.holders.keys() | new.holders.keys():
        differs = compared.holder(holder_id)
        found[differs] += 1
        if differs.restricted:
            opened.append(holder_id)
        takes.add(holder_id, differs.ways_taken, differs.narrowed)
        gives.add(holder_id, differs.ways_given, differs.widened)

    def summed(what: Callable[[Difference], float]) -> float:
        return sum(what(differs) * holders for differs, holders in found.items())

    def count(what: Callable[[Difference], int]) -> int:
        return sum(what(differs) * holders for differs, holders in found.items())

    changes = site_changes(*tables)
    return Impact(
        first=not was.tables.doors and not was.holders,
        grants_before=count(attrgetter("before")),
        grants_after=count(attrgetter("after")),
        taken=count(attrgetter("taken")),
        given=count(attrgetter("given")),
        narrowed=count(attrgetter("narrowed")),
        widened=count(attrgetter("widened")),
        hours_before=summed(attrgetter("hours_before")),
        hours_taken=summed(attrgetter("hours_taken")),
        hours_given=summed(attrgetter("hours_given")),
        restricted_holders=tuple(sorted(opened)),
        new_values=tuple(
            sorted(filter(compared.new_value, was.credentials.keys() & new.credentials.keys()))
        )[:HOLDERS_NAMED_MAX],
        site_changes=changes,
        grants_taken=takes.few,
        grants_given=gives.few,
        holders_taken=takes.some_holders,
        holders_given=gives.some_holders,
        one_holder=len(takes.holders) == 1 and not changes,
    )


class _Named:
    """Grants and their holders, by name."""

    def __init__(self) -> None:
        self._grants: list[Grant] = []
        self.holders: list[str] = []

    def add(self, holder: str, ways: tuple[Way, ...], hours: int) -> None:
        """Add a holder's: the ways, and how many others stay with other hours."""
        if ways or hours:
            self.holders.append(holder)
        if len(self._grants) <= NAMED_MAX:
            self._grants.extend(Grant(holder, way.door, way.side) for way in ways)

    @property
    def few(self) -> tuple[Grant, ...]:
        """The grants in order, or none where they are too many to be named."""
        return tuple(sorted(self._grants)) if len(self._grants) <= NAMED_MAX else ()

    @property
    def some_holders(self) -> tuple[str, ...]:
        """The first holders, in order."""
        return tuple(sorted(self.holders)[:HOLDERS_NAMED_MAX])


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
    side = Side(records, hours, slots, at)
    hours_in = cache(slots.hours_in)
    by_groups = Counter(
        side.groups(holder_id) for holder_id in records.holders if side.is_ordinary(holder_id)
    )
    every = [(side.by_groups(groups), holders) for groups, holders in by_groups.items()]
    every += [
        (side.rights(holder_id).ways, 1)
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
