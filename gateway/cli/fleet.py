"""`door-gateway fleet`: what central operations see of many sites, from MQTT alone."""

import argparse
import sys
import threading
from collections import deque
from datetime import datetime
from pathlib import Path

import msgspec

from gateway.cli import EXIT_COULD_NOT, EXIT_NO, EXIT_OK, Command
from gateway.clock import SystemClock
from gateway.fleet.model import Fleet
from gateway.fleet.watch import Broker, Watcher

_DESCRIPTION = """\
Show all sites of a broker live: doors, alarms, parity, lag, latencies; the worst first. With --json
listen for a while (--seconds; health comes once a minute) and print one object a gateway; exits 1
where one of them is not well. Needs the `fleet` extra for the live view, and on the broker the
right to read acs/v1/+/+/#. It looks only: nothing is ever sent."""

_EXAMPLE = """\
example:
  door-gateway fleet --broker mqtts://broker.example:8883 --ca ca.pem --certificate ops.pem \\
      --key ops.key"""


INBOX_MAX = 100_000
"""Messages between two looks, a second apart; of more the oldest are not shown."""


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.description, parser.epilog = _DESCRIPTION, _EXAMPLE
    parser.add_argument("--broker", required=True, metavar="URL", help="mqtts://HOST:PORT")
    parser.add_argument("--ca", type=Path, metavar="FILE", help="PEM; else the system's")
    parser.add_argument("--certificate", type=Path, metavar="FILE", help="our own, PEM")
    parser.add_argument("--key", type=Path, metavar="FILE", help="its key, PEM")
    parser.add_argument("--user", metavar="NAME")
    parser.add_argument("--password-file", type=Path, metavar="FILE")
    parser.add_argument("--json", action="store_true", help="print JSON, for machines")
    parser.add_argument("--seconds", type=float, default=65.0, help="how long --json listens")


def _run(options: argparse.Namespace) -> int:
    broker = Broker(
        options.broker,
        options.ca,
        options.certificate,
        options.key,
        options.user,
        options.password_file,
    )
    clock = SystemClock(floor=None, vouched=lambda: True)
    return _print(broker, clock, options.seconds) if options.json else _show(broker, clock)


def _print(broker: Broker, clock: SystemClock, seconds: float) -> int:
    fleet, said = Fleet(), list[str]()
    with Watcher(
        broker, lambda topic, payload: fleet.take(topic, payload, clock.now()), said.append
    ):
        threading.Event().wait(seconds)
    now = clock.now()
    if not any(line.startswith("connected") for line in said):
        print(said[-1] if said else f"{broker.url}: no answer", file=sys.stderr)
        return EXIT_COULD_NOT
    rows = fleet.sorted(now)
    for each in rows:
        row = {"verdict": each.verdict(now), **msgspec.to_builtins(each)}
        sys.stdout.write(msgspec.json.encode(row).decode() + "\n")
    return EXIT_OK if all(each.verdict(now) == "well" for each in rows) else EXIT_NO


def _show(broker: Broker, clock: SystemClock) -> int:
    try:
        from gateway.fleet.view import FleetView  # noqa: PLC0415 - an extra that the box has not
    except ImportError:
        print(
            "the live view needs Textual: pip install 'door-gateway[fleet]', or use --json",
            file=sys.stderr,
        )
        return EXIT_COULD_NOT
    inbox: deque[tuple[str, bytes, datetime]] = deque(maxlen=INBOX_MAX)
    view = FleetView(Fleet(), inbox, clock.now)

    def take(topic: str, payload: bytes) -> None:
        inbox.append((topic, payload, clock.now()))

    def said(line: str) -> None:
        view.connection = line

    with Watcher(broker, take, said):
        view.run()
    return EXIT_OK


COMMAND = Command(_configure, _run)
