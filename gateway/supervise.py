"""Keeps a thing running that may fail: starts it again, later each time, for ever."""

import asyncio
import random
from collections.abc import Callable, Coroutine
from datetime import timedelta
from typing import Any

import structlog

from gateway.cancellation import in_own_task
from gateway.clock import Clock
from gateway.errors import DeviceMisconfigured, GatewayError

BACKOFF_FIRST = timedelta(milliseconds=250)
"""Soon enough for a cable that was only touched."""
BACKOFF_MAX = timedelta(seconds=5)
"""A device that comes back answers within 10 s (docs/promises.md P19), whenever it left."""
STEADY = timedelta(seconds=30)
"""What ran this long was healthy: the next failure starts again at the first backoff."""

log = structlog.get_logger()


async def keep_running(
    name: str,
    run: Callable[[], Coroutine[Any, Any, None]],
    *,
    clock: Clock,
    rng: random.Random,
    on_down: Callable[[str], None],
) -> None:
    """Run `run` again whenever it ends or fails, until cancelled.

    `on_down` gets the reason each time, and says so to whoever must know. This is the one place
    that catches `Exception`: a driver that breaks in a way nobody thought of must not take the
    other doors with it.
    """
    failures = 0
    while True:
        started = clock.monotonic()
        wait_longest = False
        try:
            await in_own_task(run())
            why = "ended by itself"
        except GatewayError as error:
            why = str(error)
            wait_longest = isinstance(error, DeviceMisconfigured)
        except Exception as error:
            why = f"{type(error).__name__}: {error}"
            log.exception("crashed", name=name)
        failures = 1 if clock.monotonic() - started >= STEADY else failures + 1
        on_down(why)
        wait = BACKOFF_MAX if wait_longest else backoff(failures, rng)
        await asyncio.sleep(wait.total_seconds())


def backoff(failures: int, rng: random.Random) -> timedelta:
    """The wait after the n-th failure in a row: doubling, capped, less up to half of jitter."""
    full: timedelta = min(BACKOFF_FIRST * 2 ** min(failures - 1, 16), BACKOFF_MAX)
    return full * (1 - rng.random() / 2)
