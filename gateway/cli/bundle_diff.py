"""`door-gateway bundle diff`: what other records change for people."""

import argparse
from collections import defaultdict
from datetime import timedelta
from pathlib import Path

from gateway.cli import EXIT_NO, EXIT_OK, Command
from gateway.cli.common import add_json, print_json
from gateway.cli.duration import duration
from gateway.cli.output import say
from gateway.cli.records_file import add_at, asked_at, parsed_records
from gateway.domain.impact import impact
from gateway.domain.record_diff import concerned, record_changes
from gateway.domain.whatif import Change, changes

_DESCRIPTION = """\
Compare two files of entitlement records: which records were added, removed or changed (members by
name, no values), which doors each holder gains or loses within --for, and whether the gateway would
ask for a second signature on the new ones. Exits 0 where the records are the same, 1 where they are
not, 2 where one of them has faults."""

_EXAMPLE = """\
example:
  door-gateway bundle diff in-force.jsonl new.jsonl
  door-gateway bundle diff in-force.jsonl new.jsonl --for 30d --json"""


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.description, parser.epilog = _DESCRIPTION, _EXAMPLE
    parser.add_argument(
        "old", type=Path, metavar="A", help="records (JSON Lines), or a bundle with all of them"
    )
    parser.add_argument("new", type=Path, metavar="B", help="those instead")
    parser.add_argument(
        "--for",
        dest="ahead",
        type=duration,
        default=timedelta(days=7),
        metavar="TIME",
        help="how far ahead doors are compared (default: 7d)",
    )
    add_at(parser)
    add_json(parser)


def _run(options: argparse.Namespace) -> int:
    was, new = parsed_records(options.old).records, parsed_records(options.new).records
    at = asked_at(options)
    changed = list(record_changes(was, new))
    found = list(changes(was, new, at, at + options.ahead, concerned(was, new)))
    told = impact(was, new, at)
    reasons = told.needs_second_signature()
    if options.json:
        print_json(
            {
                "records": changed,
                "doors": [each._asdict() for each in found],
                "impact": told._asdict(),
                "second_signature": reasons,
            }
        )
        return EXIT_NO if changed else EXIT_OK
    for each in changed:
        members = f": {', '.join(each.members)}" if each.members else ""
        say(f"{each.change} {each.type} {each.id}{members}")
    for line in _of_people(found):
        say(line)
    for reason in reasons:
        say(f"needs a second signature: {reason}")
    if not changed:
        say("nothing changes")
    return EXIT_NO if changed else EXIT_OK


def _of_people(found: list[Change]) -> list[str]:
    """A line for each holder and door: gained or lost, and when for the first time."""
    spans: defaultdict[tuple[str, str, bool], list[Change]] = defaultdict(list)
    for each in found:
        spans[each.holder, each.door, each.gains].append(each)
    lines = []
    for (holder, door, gains), (first, *others) in sorted(spans.items()):
        more = f" and {len(others)} times more" if others else ""
        lines.append(
            f"{holder} {'gains' if gains else 'loses'} {door} from"
            f" {first.start:%Y-%m-%d %H:%M} to {first.end:%Y-%m-%d %H:%M} UTC{more}"
        )
    return lines


COMMAND = Command(_configure, _run)
