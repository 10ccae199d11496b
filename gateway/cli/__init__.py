"""The `door-gateway` command: one module a subcommand, of which only the one asked for is loaded.

Exit codes: 0 yes or done, 1 no, 2 it could not be done.
"""

import argparse
import os
import signal
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import NamedTuple

from gateway.errors import GatewayError

EXIT_OK = 0
EXIT_NO = 1
EXIT_COULD_NOT = 2
EXIT_INTERRUPTED = 128 + signal.SIGINT


class Command(NamedTuple):
    """What a subcommand's module offers as `COMMAND`."""

    configure: Callable[[argparse.ArgumentParser], None]
    """Adds the arguments, `description` and, as `epilog`, an example."""
    run: Callable[[argparse.Namespace], int]
    """Does it, and returns the exit code. May raise GatewayError."""


class _Listed(NamedTuple):
    name: str
    module: str
    summary: str


_COMMANDS = (
    _Listed("run", "gateway.cli.run", "run core and link"),
    _Listed("core", "gateway.cli.core", "run the core alone: it decides and drives the doors"),
    _Listed("link", "gateway.cli.link", "run the link alone: it reports to the broker"),
    _Listed("config", "gateway.cli.config", "check a site's file, write systemd drop-ins"),
    _Listed("import", "gateway.cli.import_", "put a file of entitlement records in force"),
    _Listed("status", "gateway.cli.status", "how the running gateway is"),
    _Listed("door", "gateway.cli.door", "set modes by hand, lock down, evacuate, look ahead"),
    _Listed("forgive", "gateway.cli.forgive", "forget a holder's place and PIN lockout"),
    _Listed("muster", "gateway.cli.muster", "who is in which zone"),
    _Listed("journal", "gateway.cli.journal", "what happened"),
    _Listed("decide", "gateway.cli.decide", "decide requests on a set of records"),
    _Listed("replay", "gateway.cli.replay", "decide recorded taps again, report differences"),
    _Listed("whatif", "gateway.cli.whatif", "who gains or loses which door with other records"),
    _Listed("explain", "gateway.cli.explain", "say why requests are denied, and until when"),
    _Listed("drivers", "gateway.cli.drivers", "what can be connected, and how well it is tried"),
    _Listed("osdp", "gateway.cli.osdp", "find OSDP readers on a line, give one its key"),
    _Listed("card", "gateway.cli.card", "what the bits of a card mean, and which bits a card has"),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run `door-gateway` with `argv`, or with the process's own arguments.

    Returns:
        The exit code. Bad usage and `--help` raise SystemExit, as argparse does.
    """
    arguments = sys.argv[1:] if argv is None else list(argv)
    parser, run = _parser(arguments)
    options = parser.parse_args(arguments)
    try:
        code = run(options)
        sys.stdout.flush()
    except GatewayError as error:
        print(error, file=sys.stderr)
        return EXIT_COULD_NOT
    except BrokenPipeError:
        # Whoever read the output has seen enough. What is still buffered has nowhere to go, and
        # must not raise again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_COULD_NOT
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    return code


def _parser(
    arguments: Sequence[str],
) -> tuple[argparse.ArgumentParser, Callable[[argparse.Namespace], int]]:
    """The parser, with the arguments of the one command that `arguments` ask for, and its `run`."""
    parser = argparse.ArgumentParser(
        prog="door-gateway",
        description="Access-control gateway for coworking doors.",
        epilog="example: door-gateway decide --help",
    )
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    wanted = next((each for each in arguments if not each.startswith("-")), None)
    run: Callable[[argparse.Namespace], int] = _nothing
    for listed in _COMMANDS:
        subparser = subparsers.add_parser(
            listed.name,
            help=listed.summary,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        if listed.name == wanted:
            command: Command = import_module(listed.module).COMMAND
            command.configure(subparser)
            run = command.run
    return parser, run


def _nothing(options: argparse.Namespace) -> int:
    """Stands where no command was asked for; argparse has said so before it could be called."""
    del options
    return EXIT_COULD_NOT
