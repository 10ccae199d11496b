"""What commands share: where the site's file is, how to print for people and for machines."""

import argparse
import signal
from pathlib import Path

import msgspec

from gateway import logs
from gateway.cli.output import say
from gateway.config.site import SiteConfig, load
from gateway.drivers import REGISTRY
from gateway.ipc.person import NAME_CHARS_MAX, is_name
from gateway.lifeline import end_with, no_core_dump

CONFIG_DEFAULT = Path("/etc/door-gateway/site.toml")


def add_config(parser: argparse.ArgumentParser) -> None:
    """Add `--config FILE`."""
    parser.add_argument(
        "--config",
        type=Path,
        default=CONFIG_DEFAULT,
        metavar="FILE",
        help=f"the site's file (default: {CONFIG_DEFAULT})",
    )


def add_json(parser: argparse.ArgumentParser) -> None:
    """Add `--json`."""
    parser.add_argument("--json", action="store_true", help="print JSON, for machines")


def add_examples(
    actions: "argparse._SubParsersAction[argparse.ArgumentParser]", examples: str
) -> None:
    """Show a command's examples in the help of each of its actions."""
    for each in actions.choices.values():
        each.epilog, each.formatter_class = examples, argparse.RawDescriptionHelpFormatter


def add_reason(parser: argparse.ArgumentParser, about: str | None = None) -> None:
    """Add `--reason` and `--by`, which are journaled."""
    parser.add_argument(
        "--by",
        type=_name,
        metavar="NAME",
        help="your name, where several people share a login: journaled as claimed",
    )
    parser.add_argument("--reason", required=True, type=_reason, help=about)


def _name(text: str) -> str:
    if not is_name(text):
        raise argparse.ArgumentTypeError(
            f"is not a name. Give 1 to {NAME_CHARS_MAX} printable characters without quotes"
        )
    return text.strip()


def _reason(text: str) -> str:
    if not 3 <= len(text) <= 200:
        raise argparse.ArgumentTypeError(
            f"has {counted(len(text), 'character')}. Give a reason of 3 to 200 characters"
        )
    return text


def counted(number: int, noun: str) -> str:
    """A number with its noun, for people."""
    return f"{number} {noun}" if number == 1 else f"{number:,} {noun}s"


def bounded(text: str, of: str, least: int, most: int) -> int:
    """The number that `text` is. Raises argparse.ArgumentTypeError, which says the bounds."""
    number = int(text) if text.isdecimal() and len(text) <= len(str(most)) else None
    if number is None or not least <= number <= most:
        raise argparse.ArgumentTypeError(
            f"{text[:20]!r} is no number of {of} from {least} to {most}"
        )
    return number


def add_process_options(parser: argparse.ArgumentParser) -> None:
    """Add what the long-lived processes share."""
    parser.add_argument("--log-level", default="info", choices=("debug", "info", "warning"))
    parser.add_argument("--parent", type=int, help=argparse.SUPPRESS)


def begin_process(options: argparse.Namespace) -> None:
    """What a long-lived process does first: it logs, leaves no core dump, and is no orphan."""
    logs.configure(level=options.log_level)
    no_core_dump()
    if options.parent is not None:
        end_with(options.parent, signal.SIGTERM)


def load_config(options: argparse.Namespace) -> SiteConfig:
    """The site that `--config` names. Raises ConfigError."""
    config: Path = options.config
    return load(config, REGISTRY)


def socket_of(config: SiteConfig) -> Path:
    """Where the site's core is reached."""
    return Path(config.state.socket)


def print_json(value: object) -> None:
    """Print any of our values as one JSON object on one line."""
    say(msgspec.json.encode(value).decode())
