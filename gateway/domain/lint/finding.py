"""What lint says about a set of records, and the records as its rules look at them."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from functools import cached_property
from typing import Literal
from zoneinfo import ZoneInfo

import msgspec

from gateway.domain.coverage import Coverage, cut
from gateway.domain.decision import window
from gateway.domain.entitlements import ValidRecords
from gateway.domain.record_faults import LintWarning
from gateway.domain.records import AccessException, Booking, Holder
from gateway.domain.schedule import all_opening_hours

LOOK_AHEAD = timedelta(days=366)
"""How far ahead schedules are looked at: every holiday of a year and both clock changes."""

WHO_MAX = 20
"""A finding names this many at most, and says how many there are."""

Severity = Literal["notice", "warning", "alarm"]
"""A `notice` is untidy; a `warning` lets somebody pass too far, or not far enough; an `alarm` can
lock people in, or lets a guess open a door."""


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One thing to look at."""

    rule: str
    severity: Severity
    what: str
    who: tuple[str, ...]
    """The ids it is about, the smallest first, `WHO_MAX` at most."""
    count: int
    """How many it is about."""
    why: str
    """Why it matters."""
    todo: str
    """What to do."""


def finding(
    rule: str, severity: Severity, what: str, who: Iterable[str], *, why: str, todo: str
) -> Finding:
    """A finding about `who`."""
    named = sorted(set(who))
    return Finding(
        rule=rule,
        severity=severity,
        what=what,
        who=tuple(named[:WHO_MAX]),
        count=len(named),
        why=why,
        todo=todo,
    )


class LintedSite:
    """One set of records without a fault, over a span of time."""

    def __init__(
        self,
        records: ValidRecords,
        at: datetime,
        until: datetime | None = None,
        warnings: Sequence[LintWarning] = (),
    ) -> None:
        """`warnings` are those of parse_records; `until` is `LOOK_AHEAD` later where it is None."""
        self.records = records
        self.tables = records.tables
        self.at = at
        self.until = at + LOOK_AHEAD if until is None else until
        self.warnings = warnings

    @cached_property
    def coverage(self) -> Coverage:
        """What each group opens, and when."""
        tables = self.tables
        hours = all_opening_hours(tables.schedules, tables.calendars, tables.site.timezone)
        return Coverage(tables, hours, cut(hours.values(), self.at, self.until))

    @cached_property
    def holders(self) -> dict[str, Holder]:
        """Those who may pass, or may come to."""
        return {
            holder.id: holder
            for holder in self.records.holders.values()
            if holder.status != "ended"
            and (holder.valid_until is None or self.at < holder.valid_until)
        }

    @cached_property
    def by_groups(self) -> dict[tuple[str, ...], list[str]]:
        """The ids of holders by all the groups they have."""
        found: defaultdict[tuple[str, ...], list[str]] = defaultdict(list)
        for holder in self.holders.values():
            found[holder.groups].append(holder.id)
        return dict(found)

    @cached_property
    def members(self) -> dict[str, list[Holder]]:
        """The holders of each group."""
        found: dict[str, list[Holder]] = {group: [] for group in self.tables.groups}
        for holder in self.holders.values():
            for group in holder.groups:
                found[group].append(holder)
        return found

    @cached_property
    def bookings(self) -> dict[str, list[Booking]]:
        """The confirmed bookings of each holder that are not over."""
        found: defaultdict[str, list[Booking]] = defaultdict(list)
        for booking in self.records.bookings.values():
            if booking.status == "confirmed" and self.at < self.window(booking)[1]:
                for holder in booking.holders:
                    if holder in self.holders:
                        found[holder].append(booking)
        return dict(found)

    @cached_property
    def exceptions(self) -> dict[str, list[AccessException]]:
        """The exceptions of each holder that are not over."""
        found: defaultdict[str, list[AccessException]] = defaultdict(list)
        for exception in self.records.exceptions.values():
            if self.at < exception.until and exception.holder in self.holders:
                found[exception.holder].append(exception)
        return dict(found)

    def window(self, booking: Booking) -> tuple[datetime, datetime]:
        """[from, until) in which a booking counts."""
        return window(booking, self.tables.policy)

    def local(self, at: datetime) -> str:
        """An instant as people at the site would say it."""
        return f"{at.astimezone(ZoneInfo(self.tables.site.timezone)):%a %Y-%m-%d %H:%M}"
