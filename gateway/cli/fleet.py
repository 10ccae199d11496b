"""`door-gateway fleet`: what central operations see of many sites, from MQTT alone."""

import argparse
import sys
import threading

import msgspec

from gateway.cli import EXIT_COULD_NOT, EXIT_NO, EXIT_OK, Command
from gateway.cli.broker import add_broker, following
from gateway.cli.common import add_json, print_json
from gateway.cli.output import visible
from gateway.clock import SystemClock
from gateway.fleet.inbox import Inbox
from gateway.fleet.model import CONNECTED, TOPICS, Fleet

_DESCRIPTION = """\
Show all sites of a broker live: doors, alarms, parity, lag, latencies; the worst first. With --json
listen for a while (--seconds; health comes once a minute) and print one object a gateway; exits 1
where one of them is not well or has sent no health yet, 2 where none is heard. Needs the `fleet`
extra for the live view, and on the broker the right to read acs/v1/+/+/#. It looks only: nothing is
ever sent."""

_EXAMPLE = """\
example:
  door-gateway fleet --host broker.example --ca ca.pem --cert ops.pem --cert-key ops.key"""


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.description, parser.epilog = _DESCRIPTION, _EXAMPLE
    add_broker(parser)
    add_json(parser)
    parser.add_argument("--site", metavar="ID", help="only the gateways of this site")
    parser.add_argument("--gateway", metavar="ID", help="only gateways of this id")
    parser.add_argument("--seconds", type=float, default=65.0, help="how long --json listens (65)")


def _run(options: argparse.Namespace) -> int:
    clock = SystemClock(floor=None, vouched=lambda: True)
    return _print(options, clock) if options.json else _show(options, clock)


def _print(options: argparse.Namespace, clock: SystemClock) -> int:
    fleet, said = Fleet(options.site, options.gateway), list[str]()

    def take(topic: str, payload: bytes, _retained: bool) -> None:
        fleet.take(topic, payload, clock.now())

    with following(options, TOPICS, take, said.append):
        threading.Event().wait(options.seconds)
    if not any(line.startswith(CONNECTED) for line in said):
        print(visible(said[-1] if said else f"{options.host}: no answer"), file=sys.stderr)
        return EXIT_COULD_NOT
    now = clock.now()
    rows = fleet.sorted(now)
    if not rows:
        print(
            f"{options.host}: no gateway was heard in {options.seconds:g} s: is it their broker,"
            f" and may we read {TOPICS} on it?",
            file=sys.stderr,
        )
        return EXIT_COULD_NOT
    for each in rows:
        row = {"verdict": each.verdict(now), **msgspec.to_builtins(each)}
        print_json(row)
    return EXIT_OK if all(each.verdict(now) == "well" for each in rows) else EXIT_NO


def _show(options: argparse.Namespace, clock: SystemClock) -> int:
    try:
        from gateway.fleet.view import FleetView  # noqa: PLC0415 - an extra that the box has not
    except ImportError:
        print(
            "the live view needs Textual: install requirements-cloud.lock"
            " (docs/dependencies.md), or use --json",
            file=sys.stderr,
        )
        return EXIT_COULD_NOT
    inbox = Inbox()
    view = FleetView(Fleet(options.site, options.gateway), inbox, clock.now)

    def take(topic: str, payload: bytes, _retained: bool) -> None:
        inbox.put(topic, payload, clock.now())

    def said(line: str) -> None:
        view.connection = line

    with following(options, TOPICS, take, said):
        view.run()
    return EXIT_OK


COMMAND = Command(_configure, _run)
