"""`door-gateway link`: the process that reports to the broker."""

import argparse
import asyncio
import random

import structlog

from gateway.cli import EXIT_OK, Command
from gateway.cli.common import add_config, add_process_options, begin_process, load_config
from gateway.notify import notify
from gateway.processes import link

log = structlog.get_logger()

EXIT_NOT_NEEDED = 3
"""There is no broker to talk to. The unit takes it for a success, and starts no other link."""

_DESCRIPTION = """\
Run the link of a site in the foreground, as door-gateway-link.service does: it takes events from
the core's socket to the broker. Neither the core's death nor the broker's ends it.

At a site without [mqtt] it has nothing to do, and ends with exit status 3.

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
    config = load_config(options)
    if config.mqtt is None:
        # Ready first: systemd would take an end before it for a failure.
        notify("READY=1", "STATUS=nothing to do: site.toml has no [mqtt]")
        log.info("link_not_needed", reason="site.toml has no [mqtt]: events stay on this box")
        return EXIT_NOT_NEEDED
    asyncio.run(link.run(config, rng=random.Random()))  # noqa: S311 - jitter
    return EXIT_OK


COMMAND = Command(_configure, _run)
