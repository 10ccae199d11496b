"""What looks at a whole set of records: lint, the impact of another set, and who gains or loses."""

import asyncio
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from bench.people import DOORS, as_lines, instant, person_records, site_records
from bench.results import Figure, Result, figure
from gateway.domain.entitlements import ValidRecords
from gateway.domain.impact import impact
from gateway.domain.lint.rules import lint
from gateway.domain.record_diff import concerned
from gateway.domain.record_faults import parse_records
from gateway.domain.whatif import changes

AT = datetime(2026, 7, 15, 10, 17, tzinfo=UTC)
HOLDERS = 50_000
"""Each has two credentials."""

_WHAT = (
    f"A set of {2 * HOLDERS:,} credentials, {DOORS} doors, looked at as a whole, on one thread and"
    " after it has been read: `bundle lint` a year ahead, the impact that the guard before an apply"
    " asks for, and `bundle diff` a week ahead."
)
_NOTES = ["With bookings, every tenth, or every, holder has one of their own in the next weeks."]


async def measure(*, quick: bool, full: bool) -> Result:
    """The whole measurement."""
    del full
    return await asyncio.to_thread(_measured, HOLDERS // 10 if quick else HOLDERS)


def _measured(holders: int) -> Result:
    figures = []
    for bookings in (0, holders // 10, holders):
        records = _records(holders, bookings)
        what = f"{2 * holders:,} credentials, {bookings:,} bookings"
        figures += [
            _seconds(f"{what}: lint", partial(lint, records, AT)),
            _seconds(f"{what}: impact", partial(impact, records, records, AT)),
        ]
    was = _records(holders, 0)
    for what, new in (
        ("one membership ends", _records(holders, 0, ends="h77")),
        ("the policy changes", _records(holders, 0, grace_hours=1)),
    ):
        figures.append(
            _seconds(
                f"{2 * holders:,} credentials: diff, {what}",
                partial(_diff, was, new),
            )
        )
    return Result("lint", _WHAT, [], figures, _NOTES)


def _diff(was: ValidRecords, new: ValidRecords) -> int:
    until = AT + timedelta(days=7)
    return sum(1 for _ in changes(was, new, AT, until, concerned(was, new)))


def _seconds(what: str, work: Callable[[], object]) -> Figure:
    began = time.process_time()
    work()
    return figure(what, time.process_time() - began, "s")


def _records(holders: int, bookings: int, ends: str = "", **policy: Any) -> ValidRecords:
    def rows() -> Iterator[dict[str, Any]]:
        for row in (*site_records(), *person_records(holders)):
            if row["type"] == "policy":
                row.update(policy)
            elif row["type"] == "holder" and row["id"] == ends:
                row["status"] = "ended"
            yield row
        for number in range(bookings):
            start = AT + timedelta(hours=number % 500)
            yield {
                "type": "booking",
                "id": f"b{number}",
                "holders": [f"h{number}"],
                "zones": [f"z{number % DOORS}"],
                "doors": [],
                "start": instant(start),
                "end": instant(start + timedelta(hours=1 + number % 8)),
            }

    return parse_records(as_lines(rows()).splitlines()).records
