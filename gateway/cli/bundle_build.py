"""`door-gateway bundle build`: from a folder of CSV files to a file of entitlement records."""

import argparse
import sys
from pathlib import Path

from gateway.cli import EXIT_COULD_NOT, EXIT_OK, Command
from gateway.cli.common import add_json, print_json
from gateway.cli.output import visible, visible_lines
from gateway.cli.records_file import add_at, asked_at
from gateway.cloud.folder import build
from gateway.cloud.icalendars import read_calendar
from gateway.cloud.sheets import FolderRefused
from gateway.errors import GatewayError
from gateway.statedir import write_output

_DESCRIPTION = """\
Make entitlement records (JSON Lines) of a folder of CSV files: members, credentials, bookings, and
the door/zones matrix that says which groups open which door. docs/cloud.md has every column. The
whole folder is made, or nothing: every fault is a line on standard error with file, line and
column, and the exit status is 2. The same folder makes the same bytes; only events that repeat, in
.ics files, are taken from --at on."""

_EXAMPLE = """\
example:
  door-gateway bundle build site/ -o records.jsonl
  door-gateway bundle build site/ --at 2027-01-04T00:00:00Z | door-gateway bundle lint /dev/stdin"""


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.description, parser.epilog = _DESCRIPTION, _EXAMPLE
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    parser.add_argument(
        "-o", "--output", type=Path, metavar="FILE", help="instead of standard output"
    )
    add_at(parser)
    add_json(parser)


def _run(options: argparse.Namespace) -> int:
    if options.json and options.output is None:
        raise GatewayError("--json needs -o FILE: else the records are printed, which are JSON")
    try:
        built = build(options.folder, asked_at(options), read_calendar)
    except FolderRefused as refused:
        if options.json:
            faults = [fault.place._asdict() | {"what": fault.what} for fault in refused.faults]
            print_json({"ok": False, "faults": faults})
        print(visible_lines(str(refused)), file=sys.stderr)
        return EXIT_COULD_NOT
    data = b"".join(line + b"\n" for line in built.lines)
    if options.output is None:
        sys.stdout.write(data.decode())
    else:
        write_output(options.output, data)
    for door in built.elsewhere:
        print(visible(f"door {door} is of another enforcement system: left out"), file=sys.stderr)
    if options.json:
        print_json({"ok": True, "records": len(built.lines), "left_out": built.elsewhere})
    elif options.output is not None:
        print(f"{options.output}: {len(built.lines)} records")
    return EXIT_OK


COMMAND = Command(_configure, _run)
