"""`door-gateway drivers`: what can be connected, and how well each driver has been tried."""

import argparse

from gateway.cli import EXIT_OK, Command
from gateway.cli.common import add_json, print_json
from gateway.config.devices import DriverSpec
from gateway.drivers import REGISTRY

_DESCRIPTION = """\
List every driver: what it drives, by which line, what it can do for a door, and how it was tried.
From the most telling on: real hardware, a capture from real hardware, vectors printed in a
specification, a peer (somebody else's implementation), and last only our own simulator."""

_EXAMPLE = """\
example:
  door-gateway drivers
  door-gateway drivers --json"""


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.description, parser.epilog = _DESCRIPTION, _EXAMPLE
    add_json(parser)


def _run(options: argparse.Namespace) -> int:
    specs = sorted(REGISTRY.values(), key=lambda spec: spec.name)
    if options.json:
        print_json([_row(spec) for spec in specs])
        return EXIT_OK
    for spec in specs:
        print(f"{spec.name}: {spec.title}")
        print(f"  line   {spec.transport}")
        print(f"  can    {', '.join(_can(spec))}")
        for trial in spec.tried:
            print(f"  tried  {trial.means}: {trial.what}")
    return EXIT_OK


def _row(spec: DriverSpec) -> dict[str, object]:
    return {
        "driver": spec.name,
        "title": spec.title,
        "transport": spec.transport,
        "can": _can(spec),
        "tried": [{"means": trial.means, "what": trial.what} for trial in spec.tried],
    }


def _can(spec: DriverSpec) -> list[str]:
    return sorted(spec.capabilities)


COMMAND = Command(_configure, _run)
