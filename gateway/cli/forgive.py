"""`door-gateway forgive`: let the site forget where a holder was, or whom a zone holds."""

import argparse
import asyncio

from gateway.cli import EXIT_NO, EXIT_OK, Command
from gateway.cli.common import add_config, add_json, add_reason, load_config, print_json, socket_of
from gateway.ipc.client import connect
from gateway.ipc.messages import Forgive, Obeyed

_DESCRIPTION = """\
Forget a holder's place (anti-passback) and PIN lockout, or everybody who is counted in a zone, or
that a break-glass role's hours are over. It is journaled with who did it and why. Exits 1 where
there was nothing to forget."""

_EXAMPLE = """\
example:
  door-gateway forgive h-maya --reason "left by the fire door"
  door-gateway forgive --zone lounge --reason "counted after the event: empty\""""


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.description, parser.epilog = _DESCRIPTION, _EXAMPLE
    parser.add_argument("holder", nargs="?", metavar="HOLDER", help="the holder's id")
    parser.add_argument("--zone", metavar="ZONE", help="a zone's id, instead of a holder's")
    parser.add_argument("--break-glass", metavar="ROLE", help="renew a role's hours, instead")
    add_reason(parser)
    add_config(parser)
    add_json(parser)


def _run(options: argparse.Namespace) -> int:
    obeyed = asyncio.run(_send(options))
    if options.json:
        print_json(obeyed)
    else:
        print("forgiven" if obeyed.forgotten else "there was nothing to forget")
    return EXIT_OK if obeyed.forgotten else EXIT_NO


async def _send(options: argparse.Namespace) -> Obeyed:
    wanted = Forgive(
        holder=options.holder, zone=options.zone, role=options.break_glass, why=options.reason
    )
    async with connect(socket_of(load_config(options)), role="forgive", claimed=options.by) as core:
        return await core.forgive(wanted)


COMMAND = Command(_configure, _run)
