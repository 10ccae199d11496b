"""`door-gateway muster`: people by zone."""

import argparse
import asyncio

from gateway.cli import EXIT_OK, Command
from gateway.cli.common import add_config, add_json, load_config, print_json, socket_of
from gateway.cli.output import say
from gateway.ipc.client import connect
from gateway.ipc.messages import Muster, Whereabouts

_DESCRIPTION = """\
List the people last let into each zone: for an evacuation, or to find somebody. A `?` marks whoever
the door contact did not see go through alone. Who came through an open door, or left by a handle,
is in no list; the number of exit-button presses is shown. Whoever took a lift is listed once, with
every floor that the lift could go to. Each gateway knows only the doors that it controls."""

_EXAMPLE = """\
example:
  door-gateway muster --json | jq '.zones[] | {zone, people: (.people | length)}'"""


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.description, parser.epilog = _DESCRIPTION, _EXAMPLE
    add_config(parser)
    add_json(parser)


def _run(options: argparse.Namespace) -> int:
    muster = asyncio.run(_ask(options))
    if options.json:
        print_json(muster)
        return EXIT_OK
    for zone in muster.zones:
        counted = "" if zone.counted is None else f", {zone.counted} counted"
        unseen = f", {zone.left_unseen} left unseen" if zone.left_unseen else ""
        say(f"{zone.zone}: {len(zone.people)} known{counted}{unseen}")
        _say_people(zone.people)
    for several in muster.between:
        say(f"in one of {', '.join(several.zones)}: {len(several.people)} known")
        _say_people(several.people)
    if not any(zone.people for zone in muster.zones) and not muster.between:
        say("nobody is known to be inside")
    return EXIT_OK


def _say_people(people: list[Whereabouts]) -> None:
    for person in people:
        sure = " " if person.seen else "?"
        say(f"  {sure} {person.holder:<24} {person.at:%Y-%m-%d %H:%M} UTC  by {person.door}")


async def _ask(options: argparse.Namespace) -> Muster:
    async with connect(socket_of(load_config(options)), role="muster") as core:
        return await core.muster()


COMMAND = Command(_configure, _run)
