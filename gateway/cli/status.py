"""`door-gateway status`: how the running gateway is."""

import argparse
import asyncio
from pathlib import Path

from gateway.cli import EXIT_NO, EXIT_OK, Command
from gateway.cli.common import add_config, add_json, load_config, print_json, socket_of
from gateway.cli.output import say
from gateway.ipc.client import connect
from gateway.ipc.messages import BrokerStatus, DoorStateReport, Status

_DESCRIPTION = """\
Show the running gateway: entitlements in force, doors, devices, what waits for the cloud. Exits 0
when all is well; 1 when there is a problem, each of which is a line (no entitlements, a door in no
record, a clock nobody vouches for, a device offline, an alarm, a journal that can't write, a broker
that can't be reached or refuses, events that nobody acknowledges, beacons that don't come); 2 when
the core can't be reached."""

_EXAMPLE = """\
example:
  door-gateway status --json | jq .devices"""


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.description, parser.epilog = _DESCRIPTION, _EXAMPLE
    add_config(parser)
    add_json(parser)


def _run(options: argparse.Namespace) -> int:
    config = load_config(options)
    status = asyncio.run(_ask(socket_of(config)))
    if options.json:
        print_json(status)
    else:
        _print(status)
    return EXIT_NO if status.problems else EXIT_OK


async def _ask(socket: Path) -> Status:
    async with connect(socket, role="status") as core:
        return await core.status()


def _print(status: Status) -> None:
    force = f"{status.revision} as of {status.as_of:%Y-%m-%d %H:%M:%S} UTC" if status.as_of else "-"
    say(f"{status.site} {status.gateway}, door-gateway {status.version}")
    say(f"  entitlements  {force}")
    say(f"  time          {status.at:%Y-%m-%d %H:%M:%S} UTC, trust T{status.trust}")
    journal = "writing" if status.journal.healthy else f"NOT WRITING: {status.journal.why}"
    kept = ", kept on this box" if status.keep == "local" else ""
    waiting = "" if kept and status.broker is None else f", {status.backlog} to be delivered"
    say(f"  journal       {journal}; {status.last_seq} events{kept}{waiting}")
    say(f"  broker        {_broker(status.broker)}")
    if status.public_key is not None:
        say(f"  public key    {status.public_key}")
    for problem in status.problems:
        say(f"  PROBLEM       {problem}")
    say("doors")
    for name, door in sorted(status.doors.items()):
        say(f"  {name:<20} {described(door)}")
    say("devices")
    for name, device in sorted(status.devices.items()):
        more = "  TAMPER" if device.tampered else ""
        more += "  SUPPLY FAILED" if device.power_failed else ""
        more += (
            f"  battery {device.battery_percent} %" if device.battery_percent is not None else ""
        )
        say(f"  {name:<20} {'online' if device.online else f'OFFLINE: {device.why}'}{more}")


def _broker(broker: BrokerStatus | None) -> str:
    if broker is None:
        return "none in site.toml: events stay on this box"
    if broker.connected_since is not None:
        session = f"connected since {broker.connected_since:%Y-%m-%d %H:%M:%S} UTC"
    elif not broker.link:
        session = "NO LINK: its process doesn't report"
    else:
        session = f"NOT CONNECTED: {broker.reason or 'trying'}"
    at = broker.acknowledged_at
    acknowledged = "not yet" if at is None else f"{at:%Y-%m-%d %H:%M:%S} UTC"
    return f"{broker.address}: {session}, last acknowledged {acknowledged}"


def described(door: DoorStateReport) -> str:
    """A door in a few words."""
    locked = {True: "locked", False: "released", None: "lock unknown"}[door.locked]
    alarms = f"  ALARM {', '.join(door.alarms).replace('_', ' ')}" if door.alarms else ""
    away = [name for name, online in door.readers_online.items() if not online]
    readers = f"  readers away: {', '.join(away)}" if away else ""
    mode = "" if door.mode == "controlled" else f"  {door.mode}"
    return f"{locked}, {door.contact}{mode}{alarms}{readers}"


COMMAND = Command(_configure, _run)
