"""`door-gateway link`: the process that reports to the broker."""

import argparse
import asyncio
import random

from gateway.cli import EXIT_OK, Command
from gateway.cli.common import add_config, add_process_options, begin_process, load_config
from gateway.processes import link

_DESCRIPTION = """\
Run the link of a site in the foreground, as door-gateway-link.service does: it takes events from
the core's socket to the broker. Neither the core's death nor the broker's ends it.

Prints its logs only, to standard error: lines for people on a terminal, else a JSON object a line.
See what happens at the doors with `door-gateway journal tail --follow`."""

_EXAMPLE = """\
example:
  door-gateway link --config /etc/door-gateway/site.toml"""


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.description, parser.epilog = _DESCRIPTION, _EXAMPLE
    add_config(parser)
    add_process_options(parser)


def _run(options: argparse.Namespace) -> int:
    begin_process(options)
    asyncio.run(link.run(load_config(options), rng=random.Random()))  # noqa: S311 - jitter
    return EXIT_OK


COMMAND = Command(_configure, _run)
