"""`door-gateway core`: the process that decides and drives the doors."""

import argparse
import asyncio
import gc
import random

from gateway.cli import EXIT_OK, Command
from gateway.cli.common import add_config, add_process_options, begin_process, load_config
from gateway.lifeline import keep_descendants
from gateway.processes.core import Core

_DESCRIPTION = """\
Run the core of a site in the foreground, as door-gateway-core.service does. It owns the state
directory: a second one on the same directory exits at once and says so.

Prints its logs only, to standard error: lines for people on a terminal, else a JSON object a line.
See what happens at the doors with `door-gateway journal tail --follow`."""

_EXAMPLE = """\
example:
  door-gateway core --config /etc/door-gateway/site.toml"""


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.description, parser.epilog = _DESCRIPTION, _EXAMPLE
    add_config(parser)
    add_process_options(parser)


def _run(options: argparse.Namespace) -> int:
    begin_process(options)
    keep_descendants()  # so that the socket knows what its workers may have started
    rng = random.Random()  # noqa: S311 - jitter
    core = Core(load_config(options), rng=rng, supervisor=options.parent)
    # What is loaded by now stays: the collector need not walk it again during a tap.
    gc.freeze()
    asyncio.run(core.run())
    return EXIT_OK


COMMAND = Command(_configure, _run)
