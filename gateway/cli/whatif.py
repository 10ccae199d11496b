"""`door-gateway whatif`: who would gain or lose which door with other records."""

import argparse
import asyncio
import os
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

from gateway.cache.in_force import records_in_force
from gateway.cache.key import key_file
from gateway.cli import EXIT_NO, EXIT_OK, Command
from gateway.cli.common import add_config, add_json, load_config, print_json, socket_of
from gateway.cli.duration import duration
from gateway.cli.journal_file import Recorded, recorded, records_of
from gateway.cli.output import say
from gateway.domain import events
from gateway.domain.entitlements import ValidRecords
from gateway.domain.replay import Revision, decided_again
from gateway.domain.whatif import changes
from gateway.errors import GatewayError
from gateway.ipc.client import connect

_DESCRIPTION = """\
Run the taps recorded since then, and every holder over as long a time to come, against other
records: who gains or loses which door, and when. Taps come from the running gateway, and holders
are compared with the records in force, as they lie in its state directory: run it as root or as the
gateway's user. With --journal taps come from a copied journal, and holders are compared with --was.
A challenge for a PIN counts as being let in; what needs memory, as anti-passback, isn't looked at.
Times are UTC. Exits 0 where nothing changes, 1 where something does, 2 where it can't be told."""

_EXAMPLE = """\
example:
  sudo -u door-gateway door-gateway whatif --records new.jsonl --since 7d
  door-gateway whatif --records new.jsonl --was old.jsonl --journal journal.db --since 30d --json"""

_BATCH = 1000


class _Known(NamedTuple):
    """What new records are compared with."""

    at: datetime
    taps: list[Recorded]
    records: ValidRecords | None
    revision: str | None


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.description, parser.epilog = _DESCRIPTION, _EXAMPLE
    parser.add_argument("--records", type=Path, required=True, metavar="NEW")
    parser.add_argument("--since", type=duration, default=timedelta(days=7), metavar="TIME")
    parser.add_argument(
        "--was", type=Path, metavar="OLD", help="compare holders with these records"
    )
    parser.add_argument("--journal", type=Path, metavar="FILE", help="instead of the running core")
    add_config(parser)
    add_json(parser)


def _run(options: argparse.Namespace) -> int:
    new = records_of(options.records)
    known = _from_files(options) if options.journal else asyncio.run(_from_core(options))
    span: timedelta = options.since
    taps = list(_taps(known.taps, new, known.at - span))
    holders = (
        None
        if known.records is None
        else [each._asdict() for each in changes(known.records, new, known.at, known.at + span)]
    )
    if options.json:
        told = {"at": known.at, "revision": known.revision, "taps": taps, "holders": holders}
        print_json(told)
    else:
        _print(taps, holders)
    return EXIT_NO if taps or holders else EXIT_OK


def _print(taps: list[dict[str, object]], holders: list[dict[str, Any]] | None) -> None:
    for tap in taps:
        say(
            f"{tap['at']:%Y-%m-%d %H:%M} {tap['door']}: {tap['holder'] or '-'} was "
            f"{tap['was']}, would be {tap['would_be']}"
        )
    for each in holders or ():
        verb = "gains" if each["gains"] else "loses"
        say(
            f"{each['holder']} {verb} {each['door']} "
            f"from {each['start']:%Y-%m-%d %H:%M} to {each['end']:%Y-%m-%d %H:%M} UTC"
        )
    if holders is None:
        say("holders are not compared: name with --was the records that were in force")
    if not taps and not holders:
        say("nothing changes")


def _taps(told: list[Recorded], new: ValidRecords, since: datetime) -> Iterator[dict[str, object]]:
    revision = Revision(new)
    for seq, event, erased in told:
        if not isinstance(event, events.AccessDecided) or event.at < since or erased:
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


def _from_files(options: argparse.Namespace) -> _Known:
    taps = list(recorded(options.journal))
    if not taps:
        raise GatewayError(f"{options.journal}: holds no events: there is no time to begin at")
    at = max(each.event.at for each in taps)
    was = None if options.was is None else records_of(options.was)
    return _Known(at, taps, was, None)


async def _from_core(options: argparse.Namespace) -> _Known:
    config = load_config(options)
    taps: list[Recorded] = []
    async with connect(socket_of(config), role="whatif") as core:
        at = (await core.status()).at
        after = 0
        while (batch := await core.fetch(after, limit=_BATCH)).bodies:
            for seq, body in enumerate(batch.bodies, start=batch.first_seq):
                event = events.decode(body)
                if isinstance(event, events.AccessDecided):
                    taps.append(Recorded(seq, event))
                after = seq
    if options.was is not None:
        return _Known(at, taps, records_of(options.was), None)
    key = key_file(Path(config.state.credential_key), os.environ)
    found = records_in_force(Path(config.state.dir), key, config.site.id)
    return _Known(at, taps, found.records, found.revision)


COMMAND = Command(_configure, _run)
