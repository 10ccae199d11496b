"""`door-gateway replay`: decide every recorded tap again and report every difference."""

import argparse
import sys
from pathlib import Path

from gateway.cli import EXIT_NO, EXIT_OK, Command
from gateway.cli.common import add_json, print_json
from gateway.cli.journal_file import incomplete, recorded, records_of
from gateway.cli.output import say, visible
from gateway.domain import events
from gateway.domain.replay import NOTHING, Revision, difference
from gateway.errors import GatewayError

_DESCRIPTION = """\
Decide every tap in a journal again, from its event and the records that were in force, and report
every difference: there must be none. JOURNAL is what `journal export` wrote, what `journal tail
--json` printed, or a copy of journal.db together with its journal.db-wal, without which the last
events are missing. Where the journal spans several revisions, give each its file as REVISION=FILE;
a plain FILE stands for every revision that isn't named. Exits 0 when all agree, 1 when a tap
differs or its revision is missing, 2 when something can't be read."""

_EXAMPLE = """\
example:
  door-gateway journal export journal.jsonl
  door-gateway replay journal.jsonl --records records.jsonl
  door-gateway replay journal.db --records 3f1c…=old.jsonl --records new.jsonl"""


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.description, parser.epilog = _DESCRIPTION, _EXAMPLE
    parser.add_argument("journal", type=Path, metavar="JOURNAL")
    parser.add_argument(
        "--records", action="append", required=True, metavar="[REVISION=]FILE", help="what applied"
    )
    add_json(parser)


def _run(options: argparse.Namespace) -> int:
    named, rest = _revisions(options.records)
    doubt = incomplete(options.journal)
    if doubt is not None:
        print(visible(f"warning: {doubt}"), file=sys.stderr)
    taps, unknown, erased, differences = 0, 0, 0, list[dict[str, object]]()
    for seq, event, is_erased in recorded(options.journal):
        if not isinstance(event, events.AccessDecided):
            continue
        if is_erased:
            erased += 1
            continue
        taps += 1
        revision = NOTHING if event.revision is None else named.get(event.revision, rest)
        if revision is None:
            unknown += 1
        elif (what := difference(event, revision)) is not None:
            differences.append({"seq": seq, "door": event.door, "at": event.at, "what": what})
    if options.json:
        print_json(
            {
                "taps": taps,
                "differences": differences,
                "unknown_revision": unknown,
                "erased": erased,
                "warning": doubt,
            }
        )
    else:
        for each in differences:
            say(f"{each['seq']}: {each['door']}: {each['what']}")
        if unknown:
            print(f"{unknown} taps of revisions that no --records names", file=sys.stderr)
        if erased:
            print(f"{erased} taps of erased people can't be decided again", file=sys.stderr)
        say(f"{taps} taps decided again, {len(differences)} differences")
    return EXIT_NO if differences or unknown else EXIT_OK


def _revisions(arguments: list[str]) -> tuple[dict[str, Revision], Revision | None]:
    named: dict[str, Revision] = {}
    rest: Revision | None = None
    for argument in arguments:
        name, equals, file = argument.partition("=")
        if equals and not Path(argument).exists():
            named[name] = Revision(records_of(Path(file)))
        elif rest is None:
            rest = Revision(records_of(Path(argument)))
        else:
            raise GatewayError("--records: only one FILE can stand for all other revisions")
    return named, rest


COMMAND = Command(_configure, _run)
