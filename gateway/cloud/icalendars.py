"""Events of iCalendar files (RFC 5545), through packages that only the cloud's side needs."""

from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

from gateway.cloud.folder import Event
from gateway.errors import GatewayError

ICS_BYTES_MAX = 16 * 1024 * 1024
"""A busy room's ten years. What is larger isn't read."""

EVENTS_MAX = 100_000
"""Occurrences in a file: more than any room can have. They are refused."""


STEPS_MAX = 300_000
"""Repetitions that are worked out in a file, from the beginning of each event: some seconds. An
event that was meant to repeat each hour of thirty years is somebody's mistake, or an attack."""

_PERIOD_H = {"HOURLY": 1}
"""Hours from one repetition to the next; every other rule is worked out day by day."""


def read_calendar(path: Path, first: date, until: date) -> Iterator[Event]:
    """The occurrences in a file that overlap the days from `first` to `until`, in order.

    Raises:
        GatewayError: the packages aren't installed.
        ValueError: it isn't a calendar, or is too large.
        OSError: it can't be read.
    """
    try:
        import icalendar  # noqa: PLC0415  (an extra: the box on the wall doesn't have it)
        import recurring_ical_events  # noqa: PLC0415
    except ImportError as error:
        raise GatewayError(
            f"{path.name}: can't be read without {error.name}: install requirements-cloud.lock"
        ) from error
    with path.open("rb") as file:
        data = file.read(ICS_BYTES_MAX + 1)
    if len(data) > ICS_BYTES_MAX:
        raise ValueError(f"larger than {ICS_BYTES_MAX} bytes")
    try:
        calendar = icalendar.Calendar.from_ical(data)
        steps = 0
        for event in calendar.walk("VEVENT"):
            _check(event)
            steps += _steps(event, until)
            if steps > STEPS_MAX:
                raise ValueError(f"event {event['UID']}: repeats too often, or began too long ago")
        found = recurring_ical_events.of(calendar).between(first, until)
        events = sorted(map(_event, found), key=lambda event: (str(event.start), event.uid))
    except (LookupError, AttributeError, TypeError, ArithmeticError) as error:
        # What the packages raise on properties that no calendar should have.
        raise ValueError(f"{type(error).__name__}: {error}") from error
    if len(events) > EVENTS_MAX:
        raise ValueError(f"more than {EVENTS_MAX} events from {first} to {until}")
    yield from events


def _check(event: Any) -> None:
    """Refuse what could not be read, or not in finite time. `event` is an icalendar.Event."""
    if "UID" not in event or "DTSTART" not in event:
        raise ValueError("an event without UID or DTSTART")
    for rule in _all(event, "RRULE"):
        if any(each in ("SECONDLY", "MINUTELY") for each in rule.get("FREQ", ())):
            raise ValueError("an event that repeats more often than each hour")
        if not all(each > 0 for each in rule.get("INTERVAL", ())):
            raise ValueError("an event that repeats at an INTERVAL of nothing")


def _steps(event: Any, until: date) -> int:
    """How many repetitions are worked out for an event, at most, before its rules are followed."""
    start = event["DTSTART"].dt
    hours = max(0, (until - date(start.year, start.month, start.day)).days + 1) * 24
    steps = sum(len(each.dts) for name in ("RDATE", "EXDATE") for each in _all(event, name))
    for rule in _all(event, "RRULE"):
        period = _PERIOD_H.get(str(next(iter(rule.get("FREQ", ())), "")).upper(), 24)
        times = 1
        for name in ("BYHOUR", "BYMINUTE", "BYSECOND"):
            times *= max(1, len(rule.get(name, ())))
        steps += hours // period * times
    return steps


def _event(found: Any) -> Event:
    """An occurrence; `found` is an icalendar.Event."""
    start = found["DTSTART"].dt
    return Event(
        uid=str(found["UID"]),
        start=start,
        end=found["DTEND"].dt if "DTEND" in found else start,
        cancelled=str(found.get("STATUS", "")).upper() == "CANCELLED",
        people=tuple(sorted(_people(found))),
    )


def _people(found: Any) -> Iterator[str]:
    for each in (*_all(found, "ORGANIZER"), *_all(found, "ATTENDEE")):
        if str(each.params.get("PARTSTAT", "")).upper() == "DECLINED":
            continue
        scheme, _, address = str(each).partition(":")
        if scheme.casefold() == "mailto":
            yield address.strip().casefold()


def _all(found: Any, name: str) -> list[Any]:
    """A property that may stand there once or several times."""
    values = found.get(name, [])
    return values if isinstance(values, list) else [values]
