"""The one rule of when a schedule is open (docs/spec/decision.md, "When a schedule is open").

Whatever asks that question asks here: decisions, explanations, and doors that stand unlocked.
"""

from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from typing import NamedTuple, Protocol
from zoneinfo import ZoneInfo

from gateway.domain.records import ALWAYS, Calendar, Interval, Schedule

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_EPOCH_ORDINAL = date(1970, 1, 1).toordinal()
_MILLISECOND = timedelta(milliseconds=1)
_SECOND = timedelta(seconds=1)
_MINUTE = timedelta(minutes=1)
_MINUTE_MS = 60_000
_DAY_MIN = 24 * 60
_DAY_MS = _DAY_MIN * _MINUTE_MS

# The Gregorian calendar repeats after this many days, weekdays too, and so do the rules that a
# time zone ends with: the way to the wall clock where the local date is in the year 10000.
_CYCLE_DAYS = 146_097

# Clock changes are looked for at this distance: less than the week that lies between any two
# clock changes of a time zone since 1970 (tests/domain/test_schedule.py holds it to that).
_CLOCK_CHANGE_STEP_S = 3 * 86_400


class _Day(NamedTuple):
    """The intervals of one date, in minutes of the day."""

    own: tuple[tuple[int, int], ...]
    """[start, end) on the date itself."""
    next_until: int
    """The last of them that runs past midnight is open on the next date before this minute."""


class OpeningHours(Protocol):
    """When something is open."""

    def is_open(self, at: datetime) -> bool:
        """Whether it is open at `at`."""

    def edges(self, since: datetime, until: datetime) -> Iterator[datetime]:
        """The instants in (`since`, `until`) at which it may open or close, in order.

        Between two of them it does neither; at each of them it may or may not.
        """


class _Always:
    """`24x7`."""

    def is_open(self, at: datetime) -> bool:
        """Whenever it is asked."""
        del at
        return True

    def edges(self, since: datetime, until: datetime) -> Iterator[datetime]:
        """It has none."""
        del since, until
        return iter(())


class _ByWallClock:
    """A schedule record, with its calendars and its time zone looked up."""

    def __init__(
        self, schedule: Schedule, calendars: Mapping[str, Calendar], site_timezone: str
    ) -> None:
        self._zone = ZoneInfo(schedule.timezone or site_timezone)
        self._weekly = tuple(_day(intervals) for intervals in schedule.weekly)
        self._holidays: dict[int, _Day] = {}
        for holiday in schedule.holidays:
            day = _day(holiday.intervals)
            for on in calendars[holiday.calendar].dates:
                # The first entry whose calendar has the date counts.
                self._holidays.setdefault(on.toordinal(), day)

    def is_open(self, at: datetime) -> bool:
        """See `OpeningHours.is_open`."""
        try:
            local = at.astimezone(self._zone)
            ordinal = local.toordinal()
        except OverflowError:
            local = (at - timedelta(days=_CYCLE_DAYS)).astimezone(self._zone)
            ordinal = local.toordinal() + _CYCLE_DAYS
        minute = local.hour * 60 + local.minute
        for start, end in self._day(ordinal).own:
            if start <= minute < end:
                return True
        return minute < self._day(ordinal - 1).next_until

    def edges(self, since: datetime, until: datetime) -> Iterator[datetime]:
        """See `OpeningHours.edges`."""
        for begin, end in pairwise((since, *_clock_changes(self._zone, since, until), until)):
            if begin != since:
                yield begin
            # From `begin` to `end` the wall clock runs evenly, `offset` ahead of UTC.
            offset = _offset(self._zone, begin) // _MILLISECOND
            begin_ms = (begin - _EPOCH) // _MILLISECOND
            end_ms = (end - _EPOCH) // _MILLISECOND
            for day in range((begin_ms + offset) // _DAY_MS, (end_ms + offset) // _DAY_MS + 1):
                for minute in self._edge_minutes(day + _EPOCH_ORDINAL):
                    edge_ms = day * _DAY_MS + minute * _MINUTE_MS - offset
                    if begin_ms < edge_ms < end_ms:
                        yield _EPOCH + edge_ms * _MILLISECOND

    def _day(self, ordinal: int) -> _Day:
        """The intervals of a date, by its proleptic ordinal (day 1, 0001-01-01, is a Monday)."""
        return self._holidays.get(ordinal) or self._weekly[(ordinal - 1) % 7]

    def _edge_minutes(self, ordinal: int) -> list[int]:
        """The minutes of a date, in order, at which an interval begins or ends."""
        minutes = {0, self._day(ordinal - 1).next_until}
        for interval in self._day(ordinal).own:
            minutes.update(interval)
        return sorted(minutes)


def opening_hours(
    schedule: Schedule, calendars: Mapping[str, Calendar], site_timezone: str
) -> OpeningHours:
    """When `schedule` is open; its time zone is `site_timezone` unless it has one of its own."""
    return _ByWallClock(schedule, calendars, site_timezone)


def all_opening_hours(
    schedules: Mapping[str, Schedule], calendars: Mapping[str, Calendar], site_timezone: str
) -> dict[str, OpeningHours]:
    """When each of `schedules` is open, by id, and the built-in `24x7` as well."""
    hours: dict[str, OpeningHours] = {
        name: opening_hours(schedule, calendars, site_timezone)
        for name, schedule in schedules.items()
    }
    hours[ALWAYS] = _Always()
    return hours


def next_change(hours: OpeningHours, at: datetime, until: datetime) -> datetime | None:
    """The first instant in (`at`, `until`) at which `hours` opens, or closes, if it does."""
    now = hours.is_open(at)
    return next((edge for edge in hours.edges(at, until) if hours.is_open(edge) != now), None)


def _day(intervals: tuple[Interval, ...]) -> _Day:
    own: list[tuple[int, int]] = []
    next_until = 0
    for interval in intervals:
        start = interval.start // _MINUTE
        end = interval.end // _MINUTE
        if end > start:
            own.append((start, end))
        else:
            own.append((start, _DAY_MIN))
            next_until = max(next_until, end)
    return _Day(tuple(own), next_until)


def _offset(zone: ZoneInfo, at: datetime) -> timedelta:
    """How far the wall clock of `zone` is ahead of UTC at `at`."""
    try:
        local = at.astimezone(zone)
    except OverflowError:
        at -= timedelta(days=_CYCLE_DAYS)
        local = at.astimezone(zone)
    return local.replace(tzinfo=None) - at.replace(tzinfo=None)


def _clock_changes(zone: ZoneInfo, since: datetime, until: datetime) -> Iterator[datetime]:
    """The instants in (`since`, `until`) at which the offset of `zone` changes, in order."""

    def offset(second: int) -> timedelta:
        return _offset(zone, _EPOCH + second * _SECOND)

    # A clock changes between two whole seconds.
    low = (since - _EPOCH) // _SECOND
    last = (until - _EPOCH) // _SECOND
    while low < last:
        high = min(low + _CLOCK_CHANGE_STEP_S, last)
        if offset(low) != offset(high):
            before, after = low, high
            while after - before > 1:
                middle = (before + after) // 2
                if offset(middle) == offset(before):
                    before = middle
                else:
                    after = middle
            change = _EPOCH + after * _SECOND
            if change < until:
                yield change
        low = high
