"""`door-gateway door`: set modes by hand, lock down, evacuate, release, look ahead."""

import argparse
import asyncio
from datetime import timedelta
from typing import Literal

from gateway.cli import EXIT_OK, Command
from gateway.cli.common import (
    add_config,
    add_json,
    add_reason,
    bounded,
    load_config,
    print_json,
    socket_of,
)
from gateway.cli.duration import duration
from gateway.cli.output import say
from gateway.errors import OrderRefused
from gateway.ipc.client import connect
from gateway.ipc.messages import HAND_S_MAX, PREVIEW_DAYS_MAX, Obeyed, Opened, Order, Preview

_DESCRIPTION = """\
Order something by hand, at a door, a zone or the whole site. Every order is journaled with who gave
it and why. A mode set by hand expires; lockdown and evacuation stand until they are released, also
over restarts. Evacuation comes before lockdown, both before a mode set by hand."""

_EXAMPLE = """\
example:
  door-gateway door open lounge --reason "parcel, badge forgotten"
  door-gateway door mode lounge unlocked --for 2h --reason "members' evening"
  door-gateway door lockdown --zone lounge --reason "police on site"
  door-gateway door release --zone lounge --reason "all clear"
  door-gateway door preview lounge --days 14"""

_MODES = ("controlled", "unlocked", "blocked")


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.description, parser.epilog = _DESCRIPTION, _EXAMPLE
    actions = parser.add_subparsers(title="actions", metavar="ACTION", dest="action", required=True)

    def action(name: str, summary: str, example: str) -> argparse.ArgumentParser:
        made = actions.add_parser(
            name,
            help=summary,
            epilog=f"example:\n  door-gateway door {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        add_config(made)
        add_json(made)
        return made

    opens = action("open", "open a door once, for its unlock time", "open lounge --reason parcel")
    opens.add_argument("door", metavar="DOOR")
    add_reason(opens)
    mode = action("mode", "set a door's mode for some time", "mode lounge unlocked --for 2h …")
    mode.add_argument("door", metavar="DOOR")
    mode.add_argument("mode", choices=_MODES)
    mode.add_argument("--for", dest="span", type=duration, required=True, metavar="TIME")
    add_reason(mode)
    for name, summary in (
        ("lockdown", "let in only whom the policy exempts; everybody may leave"),
        ("evacuation", "release the doors until they are released from it"),
        ("release", "end lockdown, evacuation and a door's mode set by hand"),
    ):
        ordered = action(name, summary, f"{name} --site --reason drill")
        where = ordered.add_mutually_exclusive_group(required=True)
        where.add_argument("--site", action="store_true", help="the whole site")
        where.add_argument("--zone", metavar="ZONE", help="every door into or out of a zone")
        where.add_argument("--door", metavar="DOOR")
        add_reason(ordered)
    preview = action("preview", "when its schedule unlocks a door", "preview lounge --days 14")
    preview.add_argument("door", metavar="DOOR")
    preview.add_argument("--days", type=_days, default=7, metavar="N", help="1 to 366 (7)")


def _days(text: str) -> int:
    return bounded(text, "days", 1, PREVIEW_DAYS_MAX)


def _run(options: argparse.Namespace) -> int:
    if options.action == "preview":
        return _preview(options)
    if options.action == "open":
        return _open(options)
    obeyed = asyncio.run(_send(options, _order(options)))
    if options.json:
        print_json(obeyed)
    else:
        for door, mode in sorted(obeyed.modes.items()):
            say(f"{door:<20} {mode}")
    return EXIT_OK


def _order(options: argparse.Namespace) -> Order:
    if options.action == "mode":
        span: timedelta = options.span
        if span > timedelta(seconds=HAND_S_MAX):
            raise OrderRefused(f"a mode is set by hand for at most {HAND_S_MAX // 3600} h")
        seconds = int(span.total_seconds())
        return Order(
            scope="door",
            id=options.door,
            mode=options.mode,
            why=_reason(options),
            seconds=seconds,
        )
    scope: Literal["site", "zone", "door"] = "site"
    if options.zone is not None:
        scope = "zone"
    elif options.door is not None:
        scope = "door"
    name = options.zone or options.door or ""
    return Order(scope=scope, id=name, mode=options.action, why=_reason(options))


def _reason(options: argparse.Namespace) -> str:
    why: str = options.reason.strip()
    if not 3 <= len(why) <= 200:
        raise OrderRefused("--reason: a reason has 3 to 200 characters")
    return why


async def _send(options: argparse.Namespace, order: Order) -> Obeyed:
    async with connect(socket_of(load_config(options)), role="door", claimed=options.by) as core:
        return await core.order(order)


def _open(options: argparse.Namespace) -> int:
    opened = asyncio.run(_send_open(options))
    if options.json:
        print_json(opened)
    else:
        say(f"{opened.door}: opened once (event {opened.seq})")
    return EXIT_OK


async def _send_open(options: argparse.Namespace) -> Opened:
    async with connect(socket_of(load_config(options)), role="door", claimed=options.by) as core:
        return await core.open_once(options.door, _reason(options))


def _preview(options: argparse.Namespace) -> int:
    preview = asyncio.run(_ask(options))
    if options.json:
        print_json(preview)
        return EXIT_OK
    say(f"{preview.door}: {preview.mode} now")
    first = " once somebody was let in" if preview.after_first else ""
    for at, opens in preview.changes:
        say(f"  {at:%Y-%m-%d %H:%M} UTC  {'unlocks' + first if opens else 'locks'}")
    return EXIT_OK


async def _ask(options: argparse.Namespace) -> Preview:
    async with connect(socket_of(load_config(options)), role="door") as core:
        return await core.preview(options.door, options.days)


COMMAND = Command(_configure, _run)
