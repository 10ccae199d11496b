"""The process that works out an iCalendar file: it may be stopped at any moment.

It gets the file on standard input, and the first and last day as arguments. It says a line of JSON
for each step, so that whoever stops it can tell at which event it was.
"""

import signal
import sys
from collections import defaultdict
from collections.abc import Iterator
from datetime import date
from typing import Any, NamedTuple

import msgspec

from gateway.domain.visible import visible
from gateway.lifeline import end_with, limit_memory, no_core_dump

EVENTS_MAX = 100_000
"""Occurrences in a file: more than any room can have. They are refused."""

PEOPLE_MAX = 1_000_000
"""Addresses of all occurrences in a file: ten for each of the most."""

STEPS_MAX = 300_000
"""Repetitions that are worked out in a file, from the beginning of each event: some seconds. An
event that was meant to repeat each hour of thirty years is somebody's mistake, or an attack."""

MEMORY_BYTES_MAX = 1024 * 1024 * 1024
"""The largest file that is read takes half of it."""

UID_CHARACTERS_SHOWN = 100

_PERIOD_H = {"HOURLY": 1}
"""Hours from one repetition to the next; every other rule is worked out day by day."""


class Occurrence(NamedTuple):
    """One occurrence: days or instants as ISO 8601 has them, without an offset where they float."""

    uid: str
    start: str
    end: str
    cancelled: bool
    people: tuple[str, ...]


class Said(msgspec.Struct, frozen=True, omit_defaults=True):
    """A line of the worker: where it is, or the outcome."""

    at: str = ""
    fault: str = ""
    occurrences: list[Occurrence] | None = None


def main() -> None:
    """Work out one file."""
    end_with(int(sys.argv[3]), signal.SIGKILL)
    no_core_dump()
    limit_memory(MEMORY_BYTES_MAX)
    first, until = map(date.fromisoformat, sys.argv[1:3])
    try:
        found = list(_occurrences(sys.stdin.buffer.read(), first, until))
        _say(Said(occurrences=found))
    except MemoryError:
        _say(Said(fault=f"takes more than {MEMORY_BYTES_MAX} bytes of memory"))
    except RecursionError:
        _say(Said(fault="is nested too deep"))
    except (LookupError, AttributeError, TypeError, ArithmeticError) as error:
        # What the packages raise on properties that no calendar should have.
        _say(Said(fault=f"{type(error).__name__}: {error}"))
    except ValueError as error:
        _say(Said(fault=str(error)))


def _occurrences(data: bytes, first: date, until: date) -> Iterator[Occurrence]:
    import icalendar  # noqa: PLC0415  (an extra: the box on the wall doesn't have it)
    import recurring_ical_events  # noqa: PLC0415

    _say(Said(at="its lines and time zones"))
    calendar = icalendar.Calendar.from_ical(data)
    steps = events = people = 0
    for event in calendar.walk("VEVENT"):
        _check(event)
        steps += _steps(event, until)
        if steps > STEPS_MAX:
            raise ValueError(f"event {event['UID']}: repeats too often, or began too long ago")
    for where, some in _series(calendar):
        _say(Said(at=where))
        part = icalendar.Calendar()
        part.update(calendar)
        part.subcomponents = some
        for found in recurring_ical_events.of(part).between(first, until):
            occurrence = _occurrence(found)
            events, people = events + 1, people + len(occurrence.people)
            if events > EVENTS_MAX or people > PEOPLE_MAX:
                raise ValueError(
                    f"more than {EVENTS_MAX} events or {PEOPLE_MAX} people from {first} to {until}"
                )
            yield occurrence


def _series(calendar: Any) -> Iterator[tuple[str, list[Any]]]:
    """What repeats, each by itself with its exceptions; then whatever doesn't, together."""
    by_uid: defaultdict[str, list[Any]] = defaultdict(list)
    for event in calendar.walk("VEVENT"):
        by_uid[str(event["UID"])].append(event)
    single = []
    for uid, some in by_uid.items():
        if any("RRULE" in event or "RDATE" in event for event in some):
            yield f"event {visible(uid)[:UID_CHARACTERS_SHOWN]}", some
        else:
            single += some
    yield "the events that happen once", single


def _say(said: Said) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(said) + b"\n")
    sys.stdout.buffer.flush()


def _check(event: Any) -> None:
    """Refuse what could not be read, or not in finite time. `event` is an icalendar.Event."""
    if "UID" not in event or "DTSTART" not in event:
        raise ValueError("an event without UID or DTSTART")
    for rule in _all(event, "RRULE"):
        if any(each in ("SECONDLY", "MINUTELY") for each in rule.get("FREQ", ())):
            raise ValueError(f"an event that repeats more often than each hour: {event['UID']}")
        if not all(each > 0 for each in rule.get("INTERVAL", ())):
            raise ValueError(f"an event that repeats at an INTERVAL of nothing: {event['UID']}")


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


def _occurrence(found: Any) -> Occurrence:
    """An occurrence; `found` is an icalendar.Event."""
    start = found["DTSTART"].dt
    return Occurrence(
        uid=str(found["UID"]),
        start=start.isoformat(),
        end=(found["DTEND"].dt if "DTEND" in found else start).isoformat(),
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


if __name__ == "__main__":
    main()
