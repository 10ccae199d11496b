"""`door-gateway bundle lint`: what in a set of records is worth a look before it is in force."""

import argparse
from pathlib import Path

from gateway.cli import EXIT_NO, EXIT_OK, Command
from gateway.cli.common import add_json, print_json
from gateway.cli.output import say
from gateway.cli.records_file import add_at, asked_at, parsed_records
from gateway.domain.lint.finding import Finding
from gateway.domain.lint.rules import lint

EXIT_ALARM = 3
"""Somebody can be locked in, or a guess opens a door."""

_DESCRIPTION = f"""\
Look through a file of entitlement records for what is allowed and hardly meant: rights beyond what
a persona needs, doors that end before what was sold, zones that nobody can leave, groups and
exceptions that should not be, PINs that can be guessed. Schedules are looked at a year ahead.

Exits 0 where there is nothing or only notices, 1 where the gravest is a warning,
{EXIT_ALARM} where it is an alarm, 2 where the records have faults or can't be read."""

_EXAMPLE = """\
example:
  door-gateway bundle lint records.jsonl
  door-gateway bundle lint records.jsonl --at 2026-12-24T00:00:00Z --json"""


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.description, parser.epilog = _DESCRIPTION, _EXAMPLE
    parser.add_argument(
        "file", type=Path, metavar="FILE", help="records (JSON Lines), or a bundle with all of them"
    )
    add_at(parser)
    add_json(parser)


def _run(options: argparse.Namespace) -> int:
    parsed = parsed_records(options.file)
    findings = lint(parsed.records, asked_at(options), parsed.warnings)
    if options.json:
        print_json({"findings": findings})
    else:
        for each in findings:
            for line in _told(each):
                say(line)
        if not findings:
            say("nothing found")
    gravest = {each.severity for each in findings}
    if "alarm" in gravest:
        return EXIT_ALARM
    return EXIT_NO if "warning" in gravest else EXIT_OK


def _told(each: Finding) -> tuple[str, ...]:
    who = ", ".join(each.who)
    if each.count > len(each.who):
        who += f" and {each.count - len(each.who)} more"
    return (
        f"{each.severity}: {each.rule}: {who}: {each.what}",
        f"    why: {each.why}",
        f"    do:  {each.todo}",
    )


COMMAND = Command(_configure, _run)
