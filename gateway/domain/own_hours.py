"""The hours that a controller's own list may be told: a week by the controller's own clock.

Such a clock has no zone, changes with no season and knows no holidays. The week is what the
schedules say of the next seven days; it ends before the first day on which they would be open for
less, and before the site's clocks change. So it is never wider than the records.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta
from itertools import pairwise
from typing import Final, NamedTuple
from zoneinfo import ZoneInfo

import msgspec

from gateway.domain.entitlements import Entitlements
from gateway.domain.records import ALWAYS
from gateway.domain.schedule import OpeningHours, next_change

DAYS: Final = 30
"""The longest that a list goes on without the gateway (docs/promises.md P5); it is written anew
every day."""

REWRITTEN: Final = timedelta(days=7)
"""Last days move on every day; the controller's memory wears out and is spared that."""

SEGMENTS: Final = 3
"""How many openings a day a time profile of a controller has (uhppote-core, SetTimeProfile)."""
NEVER, ANY_TIME, FIRST, LAST = 0, 1, 2, 254
"""A door of a card on the list: never, at any hour, or by a profile, numbered FIRST to LAST."""
UNLINKED: Final = 0

SHORTEST_MIN: Final = 2
"""A profile has minutes, and one that begins and ends in the same may as well be none."""

_MINUTE = timedelta(minutes=1)
_DAY = timedelta(days=1)
_WEEK_DAYS = 7

Hours = frozenset[str]
"""Schedules, by id: open when any of them is."""
AT_ANY_HOUR: Final[Hours] = frozenset({ALWAYS})

Span = tuple[int, int]
"""[start, end) in minutes of a day."""
_Opens = tuple[tuple[frozenset[int], tuple[Span, ...]], ...]
"""When a chain of profiles is open, but for its first and last day."""


class Week(msgspec.Struct, frozen=True):
    """What is open from `first` to `last`, both included, by weekday, from Monday."""

    first: date
    last: date
    days: tuple[tuple[Span, ...], ...]

    @property
    def open_min(self) -> int:
        """How many minutes a week."""
        return sum(end - start for spans in self.days for start, end in spans)


class Profile(msgspec.Struct, frozen=True):
    """One of a controller's time profiles: open on its weekdays (0 is Monday) in its segments, or
    whenever the one that it is linked to is.
    """

    first: date
    last: date
    weekdays: frozenset[int]
    segments: tuple[Span, ...]
    linked: int = UNLINKED


class Weeks:
    """The weeks of the schedules of one set of records, as they are at one moment."""

    def __init__(self, records: Entitlements, now: datetime) -> None:
        self._hours = records.hours
        self._zone = ZoneInfo(records.tables.site.timezone)
        self._now = now
        self._choices: dict[Hours, tuple[Week, ...]] = {}
        self._opens: dict[Hours, datetime | None] = {}

    def choices(self, hours: Hours) -> tuple[Week, ...]:
        """What may be told, the best first: of all these schedules together, then of each alone,
        the one that is open longest first. Nothing where none opens in time.
        """
        if hours not in self._choices:
            every = [frozenset({each}) for each in sorted(hours)]
            alone = [week for each in every if (week := self._week(each)) is not None]
            alone.sort(key=lambda week: -week.open_min)
            together = self._week(hours)
            self._choices[hours] = () if together is None else (together, *alone)
        return self._choices[hours]

    def opens_at(self, hours: Hours) -> datetime | None:
        """The first instant from now on at which one of these schedules is open, if it is soon."""
        if hours not in self._opens:
            until = self._now + DAYS * _DAY
            first = [_first_open(self._hours[each], self._now, until) for each in hours]
            self._opens[hours] = min((at for at in first if at is not None), default=None)
        return self._opens[hours]

    def _week(self, hours: Hours) -> Week | None:
        every = [self._hours[each] for each in hours]
        local = self._now.astimezone(self._zone)
        today, ahead = local.date(), local.utcoffset() or timedelta()
        days: list[tuple[Span, ...]] = []
        last = today - _DAY
        for number in range(DAYS):
            day = today + number * _DAY
            begin = datetime.combine(day, time(), UTC) - ahead
            if (begin + _DAY).astimezone(self._zone).utcoffset() != ahead:
                break
            spans = tuple(_open_spans(every, begin))
            if number < _WEEK_DAYS:
                days.append(spans)
            elif not _is_within(days[number % _WEEK_DAYS], spans):
                break
            last = day
        days += [()] * (_WEEK_DAYS - len(days))
        if not any(days):
            return None
        monday = -today.weekday() % _WEEK_DAYS
        return Week(today, last, (*days[monday:], *days[:monday]))


def profiles(week: Week) -> list[Profile]:
    """The profiles that are open when `week` is, to be linked in a chain."""
    alike: dict[tuple[Span, ...], list[int]] = {}
    for weekday, spans in enumerate(week.days):
        alike.setdefault(spans, []).append(weekday)
    return [
        Profile(week.first, week.last, frozenset(weekdays), spans[at : at + SEGMENTS])
        for spans, weekdays in alike.items()
        for at in range(0, len(spans), SEGMENTS)
    ]


class Numbers(NamedTuple):
    """Which profile begins the chain of each week, and what all of them are to be."""

    of: dict[Week, int]
    profiles: dict[int, Profile]
    """A linked one comes before the one that it is linked to it by: written in this order, none is
    ever linked to what isn't there."""


def numbered(
    weeks: Sequence[Week], used: Mapping[Week, Counter[int]], there: Mapping[int, Profile]
) -> Numbers:
    """Give weeks their numbers among a controller's profiles; who comes too late has none.

    A week keeps the number under which the controller has it already, or else the one by which most
    of its cards go: a profile is changed by one message, and a card takes one each.

    Args:
        weeks: What is wanted, the most wanted first.
        used: By which numbers cards with that week go, and how many.
        there: The profiles that the controller has.
    """
    links = {profile.linked for profile in there.values()}
    as_is: dict[_Opens, list[int]] = {}
    for number in sorted(there.keys() - links):
        if set(chain := _chain(number, there)) <= there.keys():
            as_is.setdefault(tuple(_opens(there[each]) for each in chain), []).append(number)
    same = {week: as_is.get(tuple(map(_opens, profiles(week))), []) for week in weeks}
    by_cards = {
        week: [each for each, _ in used.get(week, Counter()).most_common() if FIRST <= each <= LAST]
        for week in weeks
    }
    both = {week: [each for each in by_cards[week] if each in same[week]] for week in weeks}
    heads: dict[Week, int] = {}
    for choices in (both, same, by_cards):
        # One each: weeks with the same hours may end on different days.
        taken = set(heads.values())
        for week in weeks:
            free = (each for each in choices[week] if each not in taken)
            if week not in heads and (head := next(free, None)) is not None:
                heads[week] = head
                taken.add(head)
    # What a chain is made of now stays its own until it is written anew, link by link.
    chains = {head: _chain(head, there) for head in heads.values()}
    owners = Counter(number for chain in chains.values() for number in chain)
    spare = [number for number in range(FIRST, LAST + 1) if number not in owners]
    found = Numbers({}, {})
    for week in weeks:
        parts = profiles(week)
        own = [each for each in chains.get(heads.get(week, UNLINKED), ()) if owners[each] == 1]
        more = max(0, len(parts) - len(own))
        if more > len(spare):
            continue
        own, spare = [*own, *spare[:more]], spare[more:]
        linked = UNLINKED
        for number, part in reversed(list(zip(own, parts, strict=False))):
            found.profiles[number] = msgspec.structs.replace(part, linked=linked)
            linked = number
        found.of[week] = own[0]
    return found


def reaches(there: date, wanted: date, today: date) -> bool:
    """Whether a last day may stay: no later than what is wanted, nor so early that it matters."""
    far = today + DAYS * _DAY - REWRITTEN
    return there == wanted or far <= there < wanted


def may_stay(there: Profile | None, wanted: Profile, today: date) -> bool:
    """Whether a controller's profile is good enough as it is."""
    return (
        there is not None
        and there.first <= wanted.first
        and reaches(there.last, wanted.last, today)
        and msgspec.structs.replace(there, first=wanted.first, last=wanted.last) == wanted
    )


def _opens(profile: Profile) -> tuple[frozenset[int], tuple[Span, ...]]:
    return profile.weekdays, profile.segments


def _chain(number: int, there: Mapping[int, Profile]) -> tuple[int, ...]:
    """A profile's number and those that it leads to."""
    found = [number]
    while number in there and there[number].linked not in (UNLINKED, *found):
        number = there[number].linked
        found.append(number)
    return tuple(found)


def _first_open(hours: OpeningHours, now: datetime, until: datetime) -> datetime | None:
    return now if hours.is_open(now) else next_change(hours, now, until)


def _open_spans(every: Sequence[OpeningHours], begin: datetime) -> Iterator[Span]:
    """The whole minutes of the day from `begin` on in which any of `every` is open."""
    end = begin + _DAY
    edges = {edge for hours in every for edge in hours.edges(begin, end)}
    spans: list[tuple[datetime, datetime]] = []
    for since, until in pairwise((begin, *sorted(edges), end)):
        if any(hours.is_open(since) for hours in every):
            joined = spans.pop()[0] if spans and spans[-1][1] == since else since
            spans.append((joined, until))
    for since, until in spans:
        first, last = -((begin - since) // _MINUTE), (until - begin) // _MINUTE
        if last - first >= SHORTEST_MIN:
            yield first, last


def _is_within(inner: tuple[Span, ...], outer: tuple[Span, ...]) -> bool:
    return all(any(low <= start and end <= high for low, high in outer) for start, end in inner)
