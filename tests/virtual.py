"""Virtual time for tests: an event loop whose clock jumps, and a `Clock` that follows it."""

import asyncio
from collections.abc import Coroutine
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import looptime

from gateway.clock import TimeTrust

T = TypeVar("T")
START = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)


def run(journey: Coroutine[Any, Any, T]) -> T:
    """Run `journey` to its end; whatever it waits for passes at once."""
    with asyncio.Runner(loop_factory=_loop) as runner:
        return runner.run(journey)


def _loop() -> asyncio.AbstractEventLoop:
    loop = looptime.new_event_loop()
    shut_down = loop.shutdown_default_executor
    # From Python 3.12 on a runner gives threads 300 s to end, which would pass at once here.
    setattr(loop, "shutdown_default_executor", lambda _limit_s=None: shut_down())  # noqa: B010
    return loop


class VirtualClock:
    """Follows the running loop's time. `trusted` and `shift` may be set by the test."""

    def __init__(self) -> None:
        self.trusted = True
        self.shift = timedelta()

    def now(self) -> datetime:
        return START + self.monotonic() + self.shift

    def monotonic(self) -> timedelta:
        return timedelta(seconds=asyncio.get_running_loop().time())

    def trust(self) -> TimeTrust:
        return TimeTrust.T2 if self.trusted else TimeTrust.T1
