"""`door-gateway journal`: what happened, from the running core."""

import argparse
import asyncio
import difflib
import os
import sys
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec

from gateway.cli import EXIT_OK, Command, journal_proof
from gateway.cli.common import (
    add_config,
    add_examples,
    add_json,
    add_reason,
    bounded,
    load_config,
    socket_of,
)
from gateway.cli.journal_file import records_of
from gateway.cli.output import say, visible, visible_lines
from gateway.decoding import decode_json
from gateway.domain import events
from gateway.domain.explanation import explain
from gateway.domain.member_text import LANGUAGES, told, worded
from gateway.domain.replay import Revision, recorded_request
from gateway.errors import GatewayError
from gateway.ipc.client import CoreClient, connect

_DESCRIPTION = "Show what the running gateway has recorded."

_EXAMPLE = """\
example:
  door-gateway journal tail --follow
  door-gateway journal tail -n 1000 --json | jq 'select(.event.code == "access")'
  door-gateway journal show 1204 --language de
  door-gateway journal key > lon-1.pem
  door-gateway journal export week-23.jsonl
  door-gateway journal verify week-23.jsonl --key lon-1.pem
  door-gateway journal erase --holder h-maya --reason 'request 7'"""

_WAIT_S = 30.0
_BATCH = 500
_SEQ_MAX = 2**63 - 1
_LINES_MAX = 100_000
"""They are kept in memory until the last is known; `journal export` is for more."""


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.description, parser.epilog = _DESCRIPTION, _EXAMPLE
    actions = parser.add_subparsers(title="actions", metavar="ACTION", dest="action", required=True)
    tail = actions.add_parser(
        "tail",
        help="the last events, a line each",
    )
    tail.add_argument(
        "-n", "--lines", type=_line_count, default=20, metavar="N", help="how many (20)"
    )
    tail.add_argument("-f", "--follow", action="store_true", help="go on as events come")
    tail.add_argument(
        "--code", action="append", type=_code, metavar="CODE", help="only these; repeatable"
    )
    for name in ("door", "holder", "outcome", "reason"):
        tail.add_argument(f"--{name}", metavar=name.upper(), help=f"only with this {name}")
    tail.add_argument("--alarms", action="store_true", help="only alarms and emergencies")
    add_config(tail)
    add_json(tail)
    show = actions.add_parser("show", help="one event in full, and a decision in plain words")
    show.add_argument("seq", type=_seq, metavar="SEQ")
    show.add_argument(
        "--records", type=Path, metavar="FILE", help="as it would be told with these records"
    )
    show.add_argument("--language", choices=LANGUAGES, default="en")
    add_config(show)
    show.set_defaults(act=_show)
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
    add_reason(erase, "journaled as it is: name nobody in it")
    add_config(erase)
    add_json(erase)
    erase.set_defaults(act=journal_proof.erase)
    add_examples(actions, _EXAMPLE)


def _seq(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text[:20]) <= _SEQ_MAX:
        raise argparse.ArgumentTypeError(f"{text[:20]!r} is no event's number")
    return int(text)


def _line_count(text: str) -> int:
    return bounded(text, "lines", 0, _LINES_MAX)


def _code(text: str) -> str:
    text = text.replace(" ", "_")  # as the lines for people have it
    if text not in events.CODES:
        near = difflib.get_close_matches(text, events.CODES, n=1)
        meant = f"; did you mean {near[0]}?" if near else ""
        raise argparse.ArgumentTypeError(f"there is no event code {text!r}{meant}")
    return text


def _run(options: argparse.Namespace) -> int:
    act: Callable[[argparse.Namespace], int] = options.act
    return act(options)


def _tail_events(options: argparse.Namespace) -> int:
    asyncio.run(_tail(socket_of(load_config(options)), options))
    return EXIT_OK


async def _tail(socket: Path, options: argparse.Namespace) -> None:
    wanted = _Wanted(options)
    async with connect(socket, role="journal") as core:
        last = (await core.status()).last_seq
        # Filtered, the last ones may lie anywhere; without filters they are where they are.
        after = 0 if wanted.filters else max(0, last - options.lines)
        kept: deque[str] = deque(maxlen=options.lines)
        while after < last:
            before = after
            after, lines = await _lines(core, after, wanted)
            kept += lines
            if after == before:
                break  # a new stream was begun meanwhile
        _print(kept)
        while options.follow:
            after, lines = await _lines(core, after, wanted, wait_s=_WAIT_S)
            _print(lines)


async def _lines(
    core: CoreClient, after: int, wanted: "_Wanted", *, wait_s: float = 0.0
) -> tuple[int, list[str]]:
    batch = await core.fetch(after, limit=_BATCH, wait_s=wait_s)
    found = []
    for seq, body in enumerate(batch.bodies, start=batch.first_seq):
        after = seq
        if not wanted.takes(body):
            continue
        if wanted.as_json:
            line = {"stream": batch.stream, "seq": seq, "event": msgspec.Raw(body)}
            found.append(visible(msgspec.json.encode(line).decode()))
        else:
            found.append(wanted.coloured(body, visible(line_of(seq, body))))
    return after, found


def _print(lines: Iterable[str]) -> None:
    sys.stdout.writelines(f"{line}\n" for line in lines)
    sys.stdout.flush()


class _Wanted:
    """Which events are shown, and how."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.as_json: bool = options.json
        self._codes = frozenset(options.code or ())
        self._equal = {
            name: value
            for name in ("door", "holder", "outcome", "reason")
            if (value := getattr(options, name)) is not None
        }
        self._alarms: bool = options.alarms
        self.filters = bool(self._codes or self._equal or self._alarms)
        self._colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ

    def takes(self, body: bytes) -> bool:
        if not self.filters:
            return True
        members = decode_json(body, dict[str, object])
        holders = {members.get("holder"), *_strings(members.get("holders"))}
        return (
            (not self._codes or members["code"] in self._codes)
            and (not self._alarms or events.decode(body).priority >= events.Priority.ALARM)
            and all(
                value in holders if name == "holder" else members.get(name) == value
                for name, value in self._equal.items()
            )
        )

    def coloured(self, body: bytes, line: str) -> str:
        if not self._colour:
            return line
        event = events.decode(body)
        shade = _SHADES.get(getattr(event, "outcome", ""), "")
        if event.priority >= events.Priority.ALARM:
            shade = _ALARM
        return f"{shade}{line}\x1b[0m" if shade else line


_SHADES = {"grant": "\x1b[32m", "deny": "\x1b[31m", "challenge": "\x1b[33m"}
_ALARM = "\x1b[1;31m"


def _strings(value: object) -> list[object]:
    return value if isinstance(value, list) else []


def _show(options: argparse.Namespace) -> int:
    body = asyncio.run(_one(socket_of(load_config(options)), options.seq))
    event = events.decode(body)
    print(visible_lines(msgspec.json.format(body, indent=2).decode()))
    if isinstance(event, events.AccessDecided):
        say(_told(event, options))
    return EXIT_OK


async def _one(socket: Path, seq: int) -> bytes:
    async with connect(socket, role="journal") as core:
        batch = await core.fetch(max(0, seq - 1), limit=1)
        if not batch.bodies or batch.first_seq != seq:
            raise GatewayError(f"event {seq} is not here: not yet, or deleted after its retention")
        return batch.bodies[0]


def _told(event: events.AccessDecided, options: argparse.Namespace) -> str:
    """What the member was told, or with other records would have been."""
    if options.records is None:
        return worded(event.member or told(event), options.language)
    records = records_of(options.records)
    revision = Revision(records)
    holder = records.holders.get(event.holder or "")
    alone = recorded_request(msgspec.structs.replace(event, kinds=event.kinds[:1]), revision)
    found = told(
        event,
        timezone=revision.entitlements.tables.site.timezone,
        opens_at=explain(revision.entitlements, alone).opens_at,
        persona=None if holder is None else holder.persona,
    )
    return worded(found, options.language)


def line_of(seq: int, body: bytes) -> str:
    """An event in one line, for people."""
    members = decode_json(body, dict[str, object])
    at, code = str(members.pop("at"))[:19].replace("T", " "), members.pop("code")
    event = events.decode(body)
    if isinstance(event, events.AccessDecided):
        who = event.holder or "-"
        via = f" via {event.via}" if event.via else ""
        if event.exception is not None:
            via += f" (by {event.exception.issued_by}: {event.exception.reason})"
        return (
            f"{seq:>7} {at} {event.outcome:<9} {event.door:<14} {who:<14} "
            f"{'+'.join(event.kinds)}: {event.reason}{via}"
        )
    if isinstance(event, events.Checkpoint):
        return f"{seq:>7} {at} {code:<9} {'-':<14} checkpoint signed"
    members.pop("trust", None)
    door = str(members.pop("door", None) or members.pop("device", "-"))
    rest = "  ".join(
        f"{name.replace('_', ' ')}: {_plain(value)}"
        for name, value in members.items()
        if value not in (None, "", [], {})
    )
    return f"{seq:>7} {at} {str(code).replace('_', ' '):<9} {door:<14} {rest}"


def _plain(value: object) -> str:
    """A JSON value, as a person reads it."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {_plain(each)}" for name, each in value.items())
    if isinstance(value, list):
        return ", ".join(map(_plain, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)


COMMAND = Command(_configure, _run)
