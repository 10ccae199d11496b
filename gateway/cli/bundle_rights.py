"""`door-gateway bundle rights`: who may open what, by which right, for an audit."""

import argparse
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from gateway.cli import EXIT_OK, Command
from gateway.cli.common import add_json, print_json
from gateway.cli.output import say
from gateway.cli.records_file import add_at, asked_at, parsed_records
from gateway.domain.decision import window
from gateway.domain.entitlements import ValidRecords
from gateway.domain.instants import format_instant, later
from gateway.domain.records import AccessException, Booking, Door, Group, Holder, Policy
from gateway.errors import GatewayError

_DESCRIPTION = """\
List who may enter by which door: a line for each door, holder and right that the records give at
--at or later, with the group and its schedule, the booking or the exception. It lists rights, not
decisions: modes, anti-passback, lockdown and the second factor come on top, and a holder without a
credential in force opens nothing (`credentials` counts them). Exceptions that deny are listed too,
as `denied by`. What ended before --at is left out."""

_EXAMPLE = """\
example:
  door-gateway bundle rights records.jsonl
  door-gateway bundle rights records.jsonl --door comms
  door-gateway bundle rights records.jsonl --holder maya --json"""


class Right(NamedTuple):
    """One right of one holder at one door."""

    door: str
    holder: str
    persona: str
    status: str
    credentials: int
    """Of the holder, active and not ended."""
    by: str
    """`group`, `booking`, `exception`; or `denial`: an exception that denies."""
    id: str
    schedule: str | None
    start: datetime | None
    until: datetime | None


def rights(records: ValidRecords, at: datetime) -> Iterator[Right]:
    """Give every right that is in force at `at` or later, by door, holder and kind."""
    cards: dict[str, int] = {}
    for credential in records.credentials.values():
        if credential.status == "active" and not _is_over(credential.valid_until, at):
            cards[credential.holder] = cards.get(credential.holder, 0) + 1
    found = []
    for holder, by, what, begins, ends in _given(records):
        start = _later(begins, holder.valid_from)
        until = _earlier(ends, _end_of(holder, records.tables.policy))
        if _is_over(until, at) or (start is not None and until is not None and start >= until):
            continue
        schedule = what.schedule if isinstance(what, Group) else None
        found += [
            Right(door.id, holder.id, holder.persona, holder.status, cards.get(holder.id, 0), by,
                  what.id, schedule, start, until)
            for door in records.tables.doors.values()
            if _covers(what, door)
        ]  # fmt: skip
    yield from sorted(found, key=lambda each: (each.door, each.holder, each.by, each.id))


_Given = tuple[Holder, str, Group | Booking | AccessException, datetime | None, datetime | None]


def _given(records: ValidRecords) -> Iterator[_Given]:
    policy = records.tables.policy
    for holder in records.holders.values():
        for name in holder.groups:
            yield holder, "group", records.tables.groups[name], None, None
    for booking in records.bookings.values():
        if booking.status == "confirmed":
            start, end = window(booking, policy)
            for name in sorted(set(booking.holders)):
                yield records.holders[name], "booking", booking, start, end
    for exception in records.exceptions.values():
        by = "exception" if exception.effect == "allow" else "denial"
        holder = records.holders[exception.holder]
        yield holder, by, exception, exception.from_, exception.until


def _end_of(holder: Holder, policy: Policy) -> datetime | None:
    since = holder.delinquent_since
    return _earlier(holder.valid_until, None if since is None else later(since, policy.grace))


def _covers(what: Group | Booking | AccessException, door: Door) -> bool:
    return door.id in what.doors or door.to_zone in what.zones


def _is_over(until: datetime | None, at: datetime) -> bool:
    return until is not None and until <= at


def _later(one: datetime | None, other: datetime | None) -> datetime | None:
    return max((each for each in (one, other) if each is not None), default=None)


def _earlier(one: datetime | None, other: datetime | None) -> datetime | None:
    return min((each for each in (one, other) if each is not None), default=None)


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.description, parser.epilog = _DESCRIPTION, _EXAMPLE
    parser.add_argument(
        "file", type=Path, metavar="RECORDS", help="JSON Lines, or a bundle with all of them"
    )
    parser.add_argument("--door", metavar="ID", help="this door alone")
    parser.add_argument("--holder", metavar="ID", help="this holder alone")
    add_at(parser)
    add_json(parser)


def _run(options: argparse.Namespace) -> int:
    records = parsed_records(options.file).records
    for name, known in (("door", records.tables.doors), ("holder", records.holders)):
        asked = getattr(options, name)
        if asked is not None and asked not in known:
            raise GatewayError(f"{options.file}: has no {name} {asked!r}")
    found = [
        each
        for each in rights(records, asked_at(options))
        if options.door in (None, each.door) and options.holder in (None, each.holder)
    ]
    if options.json:
        print_json({"rights": [each._asdict() for each in found]})
        return EXIT_OK
    for each in found:
        say(_line(each))
    if not found:
        say("nobody may open anything here")
    return EXIT_OK


def _line(right: Right) -> str:
    by = "denied by exception" if right.by == "denial" else f"by {right.by}"
    schedule = "" if right.schedule is None else f", schedule {right.schedule}"
    start = "" if right.start is None else f", from {format_instant(right.start)}"
    until = "" if right.until is None else f", until {format_instant(right.until)}"
    status = "" if right.status == "active" else f", {right.status}"
    cards = "" if right.credentials else ", no credential in force"
    return (
        f"{right.door}: {right.holder} ({right.persona}{status}{cards})"
        f" {by} {right.id}{schedule}{start}{until}"
    )


COMMAND = Command(_configure, _run)
