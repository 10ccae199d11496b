"""`door-gateway journal`: what happened, from the running core."""

import argparse
import asyncio
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec

from gateway.cli import EXIT_OK, Command, journal_proof
from gateway.cli.common import add_config, add_json, load_config, socket_of
from gateway.domain import events
from gateway.ipc.client import CoreClient, connect

_DESCRIPTION = "Show what the running gateway has recorded."

_EXAMPLE = """\
example:
  door-gateway journal tail --follow
  door-gateway journal tail -n 1000 --json | jq 'select(.event.code == "access")'"""

_WAIT_S = 30.0
_BATCH = 500


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.description, parser.epilog = _DESCRIPTION, _EXAMPLE
    actions = parser.add_subparsers(title="actions", metavar="ACTION", dest="action", required=True)
    tail = actions.add_parser(
        "tail",
        help="the last events, a line each",
        epilog=_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    tail.add_argument("-n", "--lines", type=int, default=20, metavar="N", help="how many (20)")
    tail.add_argument("-f", "--follow", action="store_true", help="go on as events come")
    add_config(tail)
    add_json(tail)
    tail.set_defaults(act=_tail_events)
    _configure_proof(actions)


def _configure_proof(actions: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    export = actions.add_parser("export", help="all events with their proofs, into a file")
    export.add_argument("file", type=Path, metavar="FILE", help="JSON Lines; must not be there")
    export.add_argument("--holder", metavar="ID", help="only what names this holder, plain")
    add_config(export)
    export.set_defaults(act=journal_proof.export)
    verify = actions.add_parser(
        "verify", help="check an exported journal: exits 1 where it's wrong"
    )
    verify.add_argument("file", type=Path, metavar="FILE")
    verify.add_argument(
        "--key", type=Path, required=True, metavar="FILE", help="what `journal key` printed"
    )
    verify.add_argument(
        "--checkpoints", type=Path, metavar="FILE", help="checkpoint events that the cloud kept"
    )
    add_json(verify)
    verify.set_defaults(act=journal_proof.check)
    key = actions.add_parser("key", help="the gateway's public key, in PEM")
    add_config(key)
    key.set_defaults(act=journal_proof.public_key)
    erase = actions.add_parser("erase", help="delete what the journal tells of a holder")
    erase.add_argument("--holder", required=True, metavar="ID")
    erase.add_argument("--reason", required=True, help="journaled as it is: name nobody in it")
    add_config(erase)
    add_json(erase)
    erase.set_defaults(act=journal_proof.erase)


def _run(options: argparse.Namespace) -> int:
    act: Callable[[argparse.Namespace], int] = options.act
    return act(options)


def _tail_events(options: argparse.Namespace) -> int:
    asyncio.run(_tail(socket_of(load_config(options)), options))
    return EXIT_OK


async def _tail(socket: Path, options: argparse.Namespace) -> None:
    async with connect(socket, role="journal") as core:
        status = await core.status()
        after = max(0, status.last_seq - max(0, options.lines))
        while True:
            waited = options.follow and after >= status.last_seq
            after, count = await _print_batch(
                core, after, as_json=options.json, wait_s=_WAIT_S if waited else 0.0
            )
            if not count and not options.follow:
                return
            status = await core.status() if not count else status


async def _print_batch(
    core: CoreClient, after: int, *, as_json: bool, wait_s: float
) -> tuple[int, int]:
    batch = await core.fetch(after, limit=_BATCH, wait_s=wait_s)
    for seq, body in enumerate(batch.bodies, start=batch.first_seq):
        if as_json:
            line = msgspec.json.encode(
                {"stream": batch.stream, "seq": seq, "event": msgspec.Raw(body)}
            ).decode()
        else:
            line = _line(seq, body)
        sys.stdout.write(line + "\n")
        after = seq
    sys.stdout.flush()
    return after, len(batch.bodies)


def _line(seq: int, body: bytes) -> str:
    members = msgspec.json.decode(body, type=dict[str, object])
    at, code = str(members.pop("at"))[:19].replace("T", " "), members.pop("code")
    event = events.decode(body)
    if isinstance(event, events.AccessDecided):
        who = event.holder or "-"
        via = f" via {event.via}" if event.via else ""
        return (
            f"{seq:>7} {at} {event.outcome:<9} {event.door:<14} {who:<14} "
            f"{'+'.join(event.kinds)}: {event.reason}{via}"
        )
    members.pop("trust", None)
    door = str(members.pop("door", None) or members.pop("device", "-"))
    rest = " ".join(f"{name}={value}" for name, value in members.items() if value is not None)
    return f"{seq:>7} {at} {code:<9} {door:<14} {rest}"


COMMAND = Command(_configure, _run)
