"""The schedule rule against a naive reading of it, at every clock change there is."""

import struct
import zoneinfo
from datetime import UTC, date, datetime, timedelta
from functools import cache
from importlib import resources
from itertools import pairwise
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.domain.instants import FOREVER, format_instant, later, parse_instant
from gateway.domain.records import WEEKDAYS, Calendar, Holiday, Interval, Schedule
from gateway.domain.schedule import (
    OpeningHours,
    all_opening_hours,
    next_change,
    opening_hours,
)

ZONES = sorted(resources.files("tzdata").joinpath("zones").read_text().split())
MILLISECOND = timedelta(milliseconds=1)
MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)

Intervals = list[tuple[str, str]]


def _wall(text: str) -> timedelta:
    return timedelta(hours=int(text[:2]), minutes=int(text[3:]))


def _intervals(intervals: Intervals) -> tuple[Interval, ...]:
    return tuple(Interval(_wall(start), _wall(end)) for start, end in intervals)


class Naive:
    """A schedule as docs/spec/decision.md words it: dates and texts, nothing prepared."""

    def __init__(
        self,
        zone: str,
        weekly: dict[str, Intervals],
        holidays: list[tuple[set[date], Intervals]] | None = None,
    ) -> None:
        self.zone = zone
        self.weekly = weekly
        self.holidays = holidays or []

    def compiled(self) -> OpeningHours:
        schedule = Schedule(
            id="s",
            weekly=tuple(_intervals(self.weekly.get(day, [])) for day in WEEKDAYS),
            holidays=tuple(
                Holiday(str(number), _intervals(intervals))
                for number, (_, intervals) in enumerate(self.holidays)
            ),
            timezone=self.zone,
        )
        calendars = {
            str(number): Calendar(id=str(number), dates=dict.fromkeys(dates, "x"))
            for number, (dates, _) in enumerate(self.holidays)
        }
        return opening_hours(schedule, calendars, "UTC")

    def intervals(self, on: date) -> Intervals:
        for dates, intervals in self.holidays:
            if on in dates:
                return intervals
        return self.weekly.get(WEEKDAYS[on.weekday()], [])

    def is_open(self, at: datetime) -> bool:
        local = at.astimezone(ZoneInfo(self.zone))
        wall = f"{local:%H:%M}"
        for start, end in self.intervals(local.date()):
            if (start <= wall < end) if end > start else start <= wall:
                return True
        yesterday = self.intervals(local.date() - timedelta(days=1))
        return any(end < start and wall < end for start, end in yesterday)


@cache
def clock_changes(zone: str) -> tuple[datetime, ...]:
    """The changes of offset in a TZif file (RFC 8536), 1970 to 2037, read by hand."""
    for directory in zoneinfo.TZPATH:
        if Path(directory, zone).is_file():
            data = Path(directory, zone).read_bytes()
            break
    else:
        data = resources.files("tzdata").joinpath("zoneinfo", zone).read_bytes()

    def counts(at: int) -> tuple[int, ...]:
        return struct.unpack(">6l", data[at + 20 : at + 44])

    isut, isstd, leap, times, types, chars = counts(0)
    second = 44 + times * 5 + types * 6 + chars + leap * 8 + isstd + isut
    _, _, _, times, types, _ = counts(second)
    at = second + 44
    instants = struct.unpack(f">{times}q", data[at : at + 8 * times])
    indices = data[at + 8 * times : at + 9 * times]
    at += 9 * times
    offsets = [struct.unpack(">l", data[at + 6 * i : at + 6 * i + 4])[0] for i in range(types)]
    first = datetime(1970, 1, 1, tzinfo=UTC)
    after = [(instant, offsets[index]) for instant, index in zip(instants, indices, strict=True)]
    return tuple(
        first + timedelta(seconds=instant)
        for (_, before), (instant, offset) in pairwise(after)
        if before != offset and 0 <= instant < 2_145_916_800
    )


# Opens and closes at odd minutes around the hours at which clocks change, and past midnight.
NIGHTLY = [("22:30", "00:15"), ("00:30", "01:15"), ("01:45", "02:10"), ("02:30", "03:05")]


@pytest.mark.parametrize("part", range(8))
def test_it_agrees_with_the_naive_reading_at_every_clock_change_from_2020_to_2037(
    part: int,
) -> None:
    for zone in ZONES[part::8]:
        naive = Naive(zone, dict.fromkeys(WEEKDAYS, NIGHTLY))
        hours = naive.compiled()
        for change in clock_changes(zone):
            if change.year < 2020:
                continue
            for minutes in (-75, -45, -30, -15, 0, 15, 30, 45, 60, 75):
                at = change + minutes * MINUTE
                assert hours.is_open(at) == naive.is_open(at), (zone, at)
            assert hours.is_open(change - MILLISECOND) == naive.is_open(change - MILLISECOND)


def test_no_time_zone_changes_its_clock_twice_within_a_day() -> None:
    for zone in ZONES:
        changes = clock_changes(zone)
        assert all(other - one > timedelta(days=1) for one, other in pairwise(changes)), zone


# One of each kind: half an hour, negative, at midnight, a whole day, offsets with seconds.
SPECIAL = [
    "Australia/Lord_Howe",
    "Europe/Dublin",
    "Africa/Casablanca",
    "America/Havana",
    "America/Santiago",
    "Asia/Beirut",
    "Pacific/Apia",
    "Pacific/Chatham",
    "Asia/Gaza",
    "America/Nuuk",
    "Africa/Monrovia",
    "Antarctica/Troll",
]


@pytest.mark.parametrize("zone", SPECIAL)
def test_every_change_is_at_an_edge_and_every_minute_agrees(zone: str) -> None:
    naive = Naive(zone, dict.fromkeys(WEEKDAYS, NIGHTLY))
    hours = naive.compiled()
    changes = clock_changes(zone)
    for change in {changes[0], *changes[-2:]}:
        since = change - 30 * HOUR
        until = change + 30 * HOUR
        edges = [since, *hours.edges(since, until), until]
        assert edges == sorted(edges)
        assert change in edges
        up_to_it = list(hours.edges(since, change))
        assert all(since < edge < change for edge in up_to_it)
        for begin, end in pairwise(edges):
            for at in (begin, begin + (end - begin) // 2, end - MILLISECOND):
                if begin <= at < end:
                    assert hours.is_open(at) == hours.is_open(begin) == naive.is_open(at)
        minute = since
        while minute < until:
            assert hours.is_open(minute) == naive.is_open(minute), minute
            minute += MINUTE


wall_times = st.builds("{:02}:{:02}".format, st.integers(0, 23), st.integers(0, 59))
intervals = st.lists(
    st.tuples(wall_times, wall_times | st.just("24:00")).filter(lambda ends: ends[0] != ends[1]),
    max_size=3,
)
days = st.dates(date(2026, 1, 1), date(2026, 12, 31))
schedules = st.builds(
    Naive,
    st.sampled_from(ZONES) | st.sampled_from(SPECIAL),
    st.dictionaries(st.sampled_from(WEEKDAYS), intervals),
    st.lists(st.tuples(st.sets(days, max_size=20), intervals), max_size=2),
)
_YEAR = datetime(2026, 1, 1, tzinfo=UTC)
instants = st.datetimes(
    _YEAR.replace(tzinfo=None),
    (_YEAR + timedelta(days=363)).replace(tzinfo=None),
    timezones=st.just(UTC),
).map(lambda at: at.replace(microsecond=at.microsecond // 1000 * 1000))


@given(schedules, instants)
def test_it_agrees_with_the_naive_reading_of_any_schedule(naive: Naive, at: datetime) -> None:
    hours = naive.compiled()
    until = at + 30 * HOUR
    edges = [at, *hours.edges(at, until), until]

    assert edges == sorted(edges)
    for begin, end in pairwise(edges):
        for inside in (begin, end - MILLISECOND):
            if begin <= inside < end:
                assert hours.is_open(inside) == naive.is_open(inside) == hours.is_open(begin)
    change = next_change(hours, at, until)
    if change is None:
        assert hours.is_open(until - MILLISECOND) == hours.is_open(at)
    else:
        assert hours.is_open(change) != hours.is_open(at)
        assert hours.is_open(change - MILLISECOND) == hours.is_open(at)


def _at(text: str) -> datetime:
    return parse_instant(text)


def test_a_repeated_hour_counts_both_times() -> None:
    hours = Naive("Europe/London", {"sun": [("01:30", "01:45")]}).compiled()
    for hour in ("00", "01"):  # the clock goes back at 01:00 UTC
        assert not hours.is_open(_at(f"2026-10-25T{hour}:29:59.999Z"))
        assert hours.is_open(_at(f"2026-10-25T{hour}:30:00Z"))
        assert hours.is_open(_at(f"2026-10-25T{hour}:44:59.999Z"))
        assert not hours.is_open(_at(f"2026-10-25T{hour}:45:00Z"))


def test_an_interval_within_a_skipped_hour_does_not_occur() -> None:
    hours = Naive("Europe/London", {"sun": [("01:30", "01:45")]}).compiled()
    since = _at("2026-03-28T12:00:00Z")
    assert next_change(hours, since, since + timedelta(days=5)) is None


def test_past_midnight_it_stays_open_whatever_the_next_dates_intervals_say() -> None:
    hours = Naive(
        "UTC", {"fri": [("22:00", "02:00")]}, [({date(2026, 6, 6)}, [])]
    ).compiled()  # Saturday is a holiday without intervals
    assert hours.is_open(_at("2026-06-06T01:59:59.999Z"))
    assert not hours.is_open(_at("2026-06-06T02:00:00Z"))
    # The Friday is the holiday: nothing is left of it on Saturday.
    hours = Naive("UTC", {"fri": [("22:00", "02:00")]}, [({date(2026, 6, 5)}, [])]).compiled()
    assert not hours.is_open(_at("2026-06-06T01:00:00Z"))


def test_the_first_entry_whose_calendar_has_the_date_counts() -> None:
    day = date(2026, 6, 5)
    hours = Naive("UTC", {}, [({day}, [("10:00", "11:00")]), ({day}, [("12:00", "13:00")])])
    assert hours.compiled().is_open(_at("2026-06-05T10:00:00Z"))
    assert not hours.compiled().is_open(_at("2026-06-05T12:00:00Z"))


def test_from_midnight_to_24_00_is_the_whole_day() -> None:
    hours = Naive("UTC", {"fri": [("00:00", "24:00")]}).compiled()
    assert hours.is_open(_at("2026-06-05T00:00:00Z"))
    assert hours.is_open(_at("2026-06-05T23:59:59.999Z"))
    assert not hours.is_open(_at("2026-06-06T00:00:00Z"))


def test_the_last_hours_of_the_calendar_and_the_first_are_like_all_others() -> None:
    # 9999-12-31 is a Friday; in Auckland the last instants are of a Saturday, 10000-01-01.
    hours = Naive("Pacific/Auckland", {"sat": [("12:30", "24:00")]}).compiled()
    assert not hours.is_open(_at("9999-12-31T23:29:59.999Z"))
    assert hours.is_open(_at("9999-12-31T23:30:00Z"))
    assert next_change(hours, _at("9999-12-31T20:00:00Z"), FOREVER) == _at("9999-12-31T23:30:00Z")
    # 1970-01-01 is a Thursday; in Honolulu the first instants are of a Wednesday.
    hours = Naive("Pacific/Honolulu", {"wed": [("14:00", "24:00")]}).compiled()
    assert hours.is_open(_at("1970-01-01T00:00:00Z"))


def test_24x7_is_always_open_and_built_in() -> None:
    always = all_opening_hours({}, {}, "UTC")["24x7"]
    assert always.is_open(_at("9999-12-31T23:59:59.999Z"))
    assert next_change(always, _at(OPEN), FOREVER) is None


OPEN = "2026-06-01T09:00:00Z"


def test_instants_are_printed_with_milliseconds_only_where_there_are_some() -> None:
    for text in (OPEN, "2026-06-01T09:00:00.001Z", "2026-06-01T09:00:00.500Z"):
        assert format_instant(parse_instant(text)) == text


def test_a_sum_beyond_the_calendar_is_later_than_every_instant() -> None:
    last = parse_instant("9999-12-31T23:59:59.999Z")
    assert later(last, HOUR) > last
    assert later(last - HOUR, HOUR) == last
