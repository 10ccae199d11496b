"""`door-gateway whatif`: who would gain or lose which door with other records."""

import argparse
import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from gateway.cli import EXIT_NO, EXIT_OK, Command
from gateway.cli.common import add_config, add_json, load_config, print_json, socket_of
from gateway.cli.duration import duration
from gateway.cli.journal_file import Recorded, recorded, records_of
from gateway.domain import events
from gateway.domain.entitlements import ValidRecords
from gateway.domain.replay import Revision, decided_again
from gateway.domain.whatif import changes
from gateway.ipc.client import connect

_DESCRIPTION = """\
Run the taps recorded since then, and every holder over as long a time to come, against other
records: who gains or loses which door, and when. Taps come from the running gateway or from a file;
holders are compared with --was, the records now in force. Exits 0 where nothing changes, 1 where
something does."""

_EXAMPLE = """\
example:
  door-gateway whatif --records new.jsonl --since 7d --was records.jsonl
  door-gateway whatif --records new.jsonl --since 30d --journal journal.db --json"""

_BATCH = 1000


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.description, parser.epilog = _DESCRIPTION, _EXAMPLE
    parser.add_argument("--records", type=Path, required=True, metavar="NEW")
    parser.add_argument("--since", type=duration, default=timedelta(days=7), metavar="TIME")
    parser.add_argument("--was", type=Path, metavar="OLD", help="the records now in force")
    parser.add_argument("--journal", type=Path, metavar="FILE", help="instead of the running core")
    add_config(parser)
    add_json(parser)


def _run(options: argparse.Namespace) -> int:
    new = records_of(options.records)
    told = list(_events(options))
    now = max((each.event.at for each in told), default=datetime.min.replace(tzinfo=UTC))
    span: timedelta = options.since
    taps = list(_taps(told, new, now - span))
    holders = [] if options.was is None else _holders(options.was, new, now, now + span)
    if options.json:
        print_json({"taps": taps, "holders": holders})
    else:
        for tap in taps:
            print(
                f"{tap['at']:%Y-%m-%d %H:%M} {tap['door']}: {tap['holder'] or '-'} was "
                f"{tap['was']}, would be {tap['would_be']}"
            )
        for each in holders:
            verb = "gains" if each["gains"] else "loses"
            print(
                f"{each['holder']} {verb} {each['door']} "
                f"from {each['start']:%Y-%m-%d %H:%M} to {each['end']:%Y-%m-%d %H:%M} UTC"
            )
        if not taps and not holders:
            print("nothing changes")
    return EXIT_NO if taps or holders else EXIT_OK


def _taps(told: list[Recorded], new: ValidRecords, since: datetime) -> Iterator[dict[str, object]]:
    revision = Revision(new)
    for seq, event in told:
        if not isinstance(event, events.AccessDecided) or event.at < since:
            continue
        again = decided_again(event, revision)
        if again.outcome != event.outcome:
            yield {
                "seq": seq,
                "at": event.at,
                "door": event.door,
                "holder": event.holder or again.holder,
                "was": f"{event.outcome} {event.reason}",
                "would_be": f"{again.outcome} {again.reason}",
            }


def _holders(
    was: Path, new: ValidRecords, since: datetime, until: datetime
) -> list[dict[str, object]]:
    return [each._asdict() for each in changes(records_of(was), new, since, until)]


def _events(options: argparse.Namespace) -> Iterator[Recorded]:
    if options.journal is not None:
        yield from recorded(options.journal)
    else:
        yield from asyncio.run(_fetched(options))


async def _fetched(options: argparse.Namespace) -> list[Recorded]:
    found: list[Recorded] = []
    async with connect(socket_of(load_config(options)), role="whatif") as core:
        after = 0
        while True:
            batch = await core.fetch(after, limit=_BATCH)
            for seq, body in enumerate(batch.bodies, start=batch.first_seq):
                found.append(Recorded(seq, events.decode(body)))
                after = seq
            if not batch.bodies:
                return found


COMMAND = Command(_configure, _run)
