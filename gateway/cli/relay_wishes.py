"""`door-gateway relay-wishes`: turns what a lock in Home Assistant is told into signed commands."""

import argparse
import queue
import secrets
import sys
from datetime import timedelta
from pathlib import Path
from typing import NoReturn
from urllib.parse import unquote

from gateway.cli import Command
from gateway.cli.broker import add_broker, following
from gateway.cli.output import visible
from gateway.clock import SystemClock
from gateway.link.topics import level
from gateway.trust import commands
from gateway.trust.commands import CommandRefused, seal_command
from gateway.trust.keys import read_private_key

_DESCRIPTION = """\
Sign an unlock command for each UNLOCK that comes on a door's wish topic, until stopped. A gateway
whose site.toml has `[mqtt.home_assistant] locks = true` announces its doors as locks; what those
are told moves nothing unless this runs with the site's `command` key, beside the source of truth
and never on the gateway. Whoever may publish wishes on the broker then opens doors: let nobody but
Home Assistant. A retained wish is nobody's present wish and is dropped, as is LOCK: a door locks
by itself."""

_EXAMPLE = """\
example:
  door-gateway relay-wishes --gateway LON/gw-1 --key command.pem --by home-assistant \\
      --host broker.example --ca ca.pem --cert signer.pem --cert-key signer.key"""

WISHES_MAX = 20
"""Waiting to be signed: the gateway takes one every two seconds, so more would only be late."""

DOOR_CHARACTERS_SHOWN = 80
"""Of an id that no door can have: a topic may be 64 KiB long."""


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.description, parser.epilog = _DESCRIPTION, _EXAMPLE
    parser.add_argument("--gateway", required=True, metavar="SITE/GATEWAY")
    parser.add_argument("--key", type=Path, required=True, metavar="FILE")
    parser.add_argument("--by", required=True, metavar="ID", help="journaled as who ordered it")
    add_broker(parser)


def _run(options: argparse.Namespace) -> NoReturn:
    key = read_private_key(options.key)
    site, _, gateway = options.gateway.partition("/")
    prefix = f"acs/v1/{level(site)}/{level(gateway)}"
    clock = SystemClock(floor=None, vouched=lambda: True)
    wishes: queue.Queue[str] = queue.Queue(WISHES_MAX)

    def take(topic: str, payload: bytes, retained: bool) -> None:
        door = unquote(topic.split("/")[5])
        if retained or payload != b"UNLOCK":
            what = "a retained wish" if retained else repr(payload[:32])
            _say(f"{door[:DOOR_CHARACTERS_SHOWN]}: {what} is dropped")
            return
        try:
            wishes.put_nowait(door)
        except queue.Full:
            _say(f"{door[:DOOR_CHARACTERS_SHOWN]}: more wishes than can be signed in time: dropped")

    with following(options, f"{prefix}/door/+/wish", take, _say) as client:
        while True:
            door = wishes.get()
            now = clock.now().replace(microsecond=0)
            command = commands.Command(
                cti=secrets.token_bytes(commands.CTI_BYTES),
                audience=options.gateway,
                issued=now,
                expires=now + timedelta(seconds=10),
                act="unlock",
                by=options.by,
                why="Home Assistant",
                target=door,
                target_kind="door",
            )
            try:
                sealed = seal_command(command, key)
            except CommandRefused:
                _say(f"{door[:DOOR_CHARACTERS_SHOWN]}: no door can have this id: dropped")
                continue
            client.publish(f"{prefix}/cmd", sealed, qos=1)
            _say(f"{door}: signed {command.cti.hex()[:8]}")


def _say(line: str) -> None:
    sys.stderr.write(visible(line) + "\n")
    sys.stderr.flush()


COMMAND = Command(_configure, _run)
