"""`door-gateway bundle template`: a folder to begin a new location with."""

import argparse
from pathlib import Path

from gateway.cli import EXIT_OK, Command
from gateway.cli.common import add_json, print_json
from gateway.cloud.template import starting_folder, write_folder

_DESCRIPTION = """\
Write the CSV files of a new location: the recommended groups, a door/zones matrix, and an example
of each kind of row. It builds and lints as it is; replace the examples by what is true."""

_EXAMPLE = """\
example:
  door-gateway bundle template LON site/ --timezone Europe/London"""


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.description, parser.epilog = _DESCRIPTION, _EXAMPLE
    parser.add_argument("location", metavar="LOCATION", help="its code, which begins group names")
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="not there yet, or empty")
    parser.add_argument(
        "--timezone", required=True, metavar="NAME", help="the site's, such as Europe/London or UTC"
    )
    add_json(parser)


def _run(options: argparse.Namespace) -> int:
    files = starting_folder(options.location, options.timezone)
    write_folder(options.folder, files)
    if options.json:
        print_json({"folder": str(options.folder), "files": sorted(files)})
    else:
        print(f"{options.folder}: {len(files)} files; begin with zones.csv and doors.csv")
    return EXIT_OK


COMMAND = Command(_configure, _run)
