"""What a day was like at a site: counts, and nobody in them."""

from collections import Counter
from collections.abc import Mapping
from datetime import date, datetime, timedelta
from typing import NamedTuple
from zoneinfo import ZoneInfo

from gateway.domain import events
from gateway.domain.records import Door


class Day(NamedTuple):
    """A calendar day where the site is."""

    date: date
    begin: datetime
    end: datetime
    """The next day's begin."""


def day_before(at: datetime, timezone: str) -> Day:
    """The last day that is over."""
    zone = ZoneInfo(timezone)
    today = at.astimezone(zone).date()
    begin, end = (
        datetime(each.year, each.month, each.day, tzinfo=zone)
        for each in (today - timedelta(days=1), today)
    )
    return Day(today - timedelta(days=1), begin, end)


class Tally:
    """Takes a day's events in their order and gives its summary."""

    def __init__(self, day: Day, doors: Mapping[str, Door]) -> None:
        self._day = day
        self._doors = doors
        self._entries: dict[str, Counter[str]] = {}
        self._denials = Counter[str]()
        self._propped = Counter[str]()
        self._open_since: dict[str, datetime] = {}
        self.told = False
        """Whether the day's summary is among the events already."""

    def take(self, event: events.Event) -> None:
        """One more event, of whatever day."""
        if isinstance(event, events.DailySummary):
            self.told = self.told or event.day == self._day.date.isoformat()
        if not self._day.begin <= event.at < self._day.end:
            return
        match event:
            case events.Entered(door=door, side=side, holders=holders):
                record = self._doors.get(door)
                if record is not None:
                    zone = record.to_zone if side == "in" else record.from_zone
                    hour = f"{event.at.astimezone(self._day.begin.tzinfo):%H}"
                    self._entries.setdefault(zone, Counter())[hour] += max(1, len(holders))
            case events.AccessDecided(outcome="deny", reason=reason):
                self._denials[reason] += 1
            case events.HeldOpen(door=door):
                self._open_since.setdefault(door, event.at)
            case events.AlarmRestored(door=door, alarm="held_open"):
                # Without its beginning it has been open since the day before.
                self._closed(door, self._open_since.pop(door, self._day.begin), event.at)

    def summary(self, at: datetime, trust: int) -> events.DailySummary:
        """The day's counts, as an event of `at`."""
        for door, since in self._open_since.items():
            self._closed(door, since, self._day.end)
        self._open_since.clear()
        return events.DailySummary(
            at=at,
            trust=trust,
            day=self._day.date.isoformat(),
            entries={zone: dict(hours) for zone, hours in self._entries.items()},
            denials=dict(self._denials),
            propped_min=dict(self._propped),
        )

    def _closed(self, door: str, since: datetime, until: datetime) -> None:
        self._propped[door] += round((until - since).total_seconds() / 60)
