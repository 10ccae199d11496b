"""`door-gateway run`: core and link as two processes, for a laptop, a demo or a small site."""

import argparse
import asyncio
import os
import random
import signal
import socket
import sys
import tempfile
from datetime import timedelta
from typing import Self

import structlog

from gateway import logs
from gateway.cli import EXIT_OK, Command
from gateway.cli.common import add_config, load_config
from gateway.clock import monotonic
from gateway.lifeline import keep_descendants, reap_orphans
from gateway.notify import notify
from gateway.supervise import STEADY, backoff

log = structlog.get_logger()

_DESCRIPTION = """\
Run the gateway of a site: the core, which decides and drives the doors, and the link, which
reports to the broker, each as a process of its own, started again when it ends. On a site's box
systemd does this (door-gateway-core.service, door-gateway-link.service). Ends at SIGTERM.

Prints its logs only, to standard error: lines for people on a terminal, else a JSON object a line.
See what happens at the doors with `door-gateway journal tail --follow`."""

_EXAMPLE = """\
example:
  door-gateway config check site.toml && door-gateway run --config site.toml"""

_CANNOT_START = 2
"""The exit status of a child that can't start. From the first core of all it is final: the config,
the key or another owner. Later it may be a full disk, and doors must come back when it isn't."""

_CORE_WAIT_MAX = timedelta(milliseconds=500)
"""Doors decide again within 3 s of the core's death (docs/promises.md P19), however often it has
died: its own start takes most of that."""

_NOTIFY_BYTES_MAX = 4096
"""The core's messages have under 100 bytes; what is longer is cut."""

_STOP_S_MAX = 8.0
"""A part that hasn't stopped by then is killed: below the 10 s that a service manager waits."""


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.description, parser.epilog = _DESCRIPTION, _EXAMPLE
    add_config(parser)
    parser.add_argument("--log-level", default="info", choices=("debug", "info", "warning"))


def _run(options: argparse.Namespace) -> int:
    config = load_config(options)
    logs.configure(level=options.log_level)
    keep_descendants()  # so that the core knows the link and all that it may start
    parts = ["core"] if config.mqtt is None else ["core", "link"]
    return asyncio.run(_keep_all(parts, options))


async def _keep_all(parts: list[str], options: argparse.Namespace) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    with _Readiness() as deciding:
        return await _keep_parts(parts, options, stop, deciding)


async def _keep_parts(
    parts: list[str], options: argparse.Namespace, stop: asyncio.Event, deciding: "_Readiness"
) -> int:
    running: set[int] = set()
    keepers = [
        asyncio.create_task(_keep(part, options, stop, running, deciding), name=part)
        for part in parts
    ]
    done, _ = await asyncio.wait(keepers, return_when=asyncio.FIRST_COMPLETED)
    stop.set()
    await asyncio.gather(*keepers)
    return max((keeper.result() for keeper in done), default=EXIT_OK)


class _Readiness:
    """Hears the core say that it decides (sd_notify(3)).

    The link waits for that: a core that can't start, e.g. because another one owns the state
    directory, must not take the broker's session away from the gateway that runs.
    """

    def __init__(self) -> None:
        self.event = asyncio.Event()
        self._directory = tempfile.TemporaryDirectory(prefix="door-gateway-")
        self._socket = socket.socket(
            socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        )

    @property
    def path(self) -> str:
        """The socket's path, for the core's NOTIFY_SOCKET."""
        return f"{self._directory.name}/notify"

    def __enter__(self) -> Self:
        self._socket.bind(self.path)
        asyncio.get_running_loop().add_reader(self._socket, self._hear)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.get_running_loop().remove_reader(self._socket)
        self._socket.close()
        self._directory.cleanup()

    def _hear(self) -> None:
        assignments = self._socket.recv(_NOTIFY_BYTES_MAX).decode(errors="replace").split("\n")
        if "READY=1" in assignments:
            self.event.set()
        notify(*assignments)  # where `run` itself is a service


async def _first(*events: asyncio.Event) -> None:
    """Return when one of the events is set."""
    waits = [asyncio.create_task(event.wait()) for event in events]
    await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    for wait in waits:
        wait.cancel()


async def _keep(
    part: str,
    options: argparse.Namespace,
    stop: asyncio.Event,
    running: set[int],
    deciding: _Readiness,
) -> int:
    """Run one part until `stop`; its exit status where it can't start at all, else 0.

    The pids of all parts are in `running` while they run.
    """
    environment = dict(os.environ)
    if part == "core":
        environment["NOTIFY_SOCKET"] = deciding.path
    else:
        environment.pop("NOTIFY_SOCKET", None)
        await _first(deciding.event, stop)
        if stop.is_set():
            return EXIT_OK
    failures = 0
    rng = random.Random()  # noqa: S311 - jitter
    while True:
        started = monotonic()
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "gateway", part, "--config", str(options.config)),
            *("--log-level", options.log_level, "--parent", str(os.getpid())),
            start_new_session=True,
            env=environment,
        )
        running.add(child.pid)
        status = await _end_of(child, stop)
        running.discard(child.pid)
        reap_orphans(running)
        if stop.is_set():
            return EXIT_OK
        if status == _CANNOT_START and part == "core" and not failures:
            return status
        failures = 1 if monotonic() - started >= STEADY else failures + 1
        log.warning("ended", part=part, exit_status=status)
        wait = backoff(failures, rng)
        if part == "core":
            wait = min(wait, _CORE_WAIT_MAX)
        try:
            async with asyncio.timeout(wait.total_seconds()):
                await stop.wait()
        except TimeoutError:
            continue
        return EXIT_OK


async def _end_of(child: asyncio.subprocess.Process, stop: asyncio.Event) -> int:
    ended, stopped = asyncio.create_task(child.wait()), asyncio.create_task(stop.wait())
    await asyncio.wait((ended, stopped), return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    if not ended.done():
        child.terminate()
        await asyncio.wait((ended,), timeout=_STOP_S_MAX)
        if not ended.done():
            child.kill()
    return await ended


COMMAND = Command(_configure, _run)
