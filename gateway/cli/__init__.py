"""The `door-gateway` command: one module a subcommand, of which only the one asked for is loaded.

Exit codes: 0 yes or done, 1 no, 2 it could not be done; a command may have more of its own.
"""

import argparse
import io
import json
import os
import signal
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import NamedTuple

from gateway import __version__
from gateway.cli.output import say, visible_lines
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
    _Listed("metrics", "gateway.cli.metrics", "figures for Prometheus' node exporter"),
    _Listed("fleet", "gateway.cli.fleet", "all sites of a broker, live"),
    _Listed("door", "gateway.cli.door", "set modes by hand, lock down, evacuate, look ahead"),
    _Listed("forgive", "gateway.cli.forgive", "forget a holder's place and PIN lockout"),
    _Listed("muster", "gateway.cli.muster", "list people by zone"),
    _Listed("journal", "gateway.cli.journal", "what happened"),
    _Listed("decide", "gateway.cli.decide", "decide requests on a set of records"),
    _Listed("replay", "gateway.cli.replay", "decide recorded taps again, report differences"),
    _Listed("whatif", "gateway.cli.whatif", "who gains or loses which door with other records"),
    _Listed("explain", "gateway.cli.explain", "say why requests are denied, and until when"),
    _Listed("bundle", "gateway.cli.bundle", "make, check and compare what a site is sent"),
    _Listed("grant", "gateway.cli.grant", "make a code for a visitor, read one"),
    _Listed(
        "relay-wishes", "gateway.cli.relay_wishes", "sign what a lock in Home Assistant is told"
    ),
    _Listed("command", "gateway.cli.command", "sign a command, send it, hear what became of it"),
    _Listed("drivers", "gateway.cli.drivers", "what can be connected, and how well it is tried"),
    _Listed("osdp", "gateway.cli.osdp", "find OSDP readers on a line, give one its key"),
    _Listed("card", "gateway.cli.card", "what the bits of a card mean, and which bits a card has"),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run `door-gateway` with `argv`, or with the process's own arguments.

    Returns:
        The exit code. Bad usage and `--help` raise SystemExit, as argparse does.
    """
    _hold_standard_streams()
    try:
        try:
            return _run(sys.argv[1:] if argv is None else list(argv))
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read the output has seen enough.
        _drop_output()
        return EXIT_COULD_NOT
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except OSError as error:
        if _output_is_written():
            raise  # it was something else, which its own message should have been made for
        _drop_output()
        print(f"standard output: {error.strerror}", file=sys.stderr)
        return EXIT_COULD_NOT


def _run(arguments: list[str]) -> int:
    parser, run = _parser(arguments)
    options = parser.parse_args(arguments)
    try:
        return run(options)
    except GatewayError as error:
        if getattr(options, "json", False):
            say(json.dumps({"ok": False, "error": str(error)}, ensure_ascii=False))
        print(visible_lines(str(error)), file=sys.stderr)
        return EXIT_COULD_NOT


def _hold_standard_streams() -> None:
    """Put something where a standard stream was closed (`>&-`).

    Else the next file that is opened would become it. What is written to a closed output fails, as
    it should; what is said on a closed standard error is lost.
    """
    for number, flags in ((0, os.O_RDONLY), (1, os.O_RDONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, flags), True)
    if sys.stdin is None:
        sys.stdin = os.fdopen(0, "r", closefd=False)
    if sys.stdout is None or isinstance(getattr(sys.stdout, "buffer", None), io.RawIOBase):
        # Unbuffered (PYTHONUNBUFFERED) it would forget what it couldn't write, and say nothing.
        sys.stdout = os.fdopen(1, "w", closefd=False)
    if sys.stderr is None:
        sys.stderr = os.fdopen(2, "w", closefd=False, buffering=1)


def _output_is_written() -> bool:
    try:
        sys.stdout.flush()
    except OSError:
        return False
    return True


def _drop_output() -> None:
    """What is still buffered has nowhere to go, and must not raise again at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _parser(
    arguments: Sequence[str],
) -> tuple[argparse.ArgumentParser, Callable[[argparse.Namespace], int]]:
    """The parser, with the arguments of the one command that `arguments` ask for, and its `run`."""
    parser = argparse.ArgumentParser(
        prog="door-gateway",
        description="Access-control gateway for coworking doors.",
        epilog="example: door-gateway decide --help",
    )
    parser.add_argument("--version", action="version", version=f"door-gateway {__version__}")
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
