"""What may fail is started again, later each time, and takes nothing with it."""

import asyncio
import random
from datetime import timedelta

import pytest

from gateway.errors import DeviceMisconfigured, DeviceUnavailable
from gateway.supervise import BACKOFF_MAX, STEADY, backoff, keep_running
from tests.virtual import VirtualClock, run


class Flaky:
    """A driver that lasts as long as told, then ends as told."""

    def __init__(self, *lives: tuple[float, BaseException | None]) -> None:
        self.lives = list(lives)
        self.starts: list[float] = []
        self.whys: list[str] = []

    async def run(self) -> None:
        self.starts.append(asyncio.get_running_loop().time())
        lasts, end = self.lives.pop(0) if self.lives else (1e9, None)
        await asyncio.sleep(lasts)
        if end is not None:
            raise end

    async def keep(self, seconds: float) -> None:
        task = asyncio.create_task(
            keep_running(
                "it",
                self.run,
                clock=VirtualClock(),
                rng=random.Random(1),
                on_down=self.whys.append,
            )
        )
        await asyncio.sleep(seconds)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def test_what_fails_is_started_again_later_each_time_up_to_a_limit() -> None:
    flaky = Flaky(*[(0.0, DeviceUnavailable("gone"))] * 30)
    run(flaky.keep(200))
    waits = [b - a for a, b in zip(flaky.starts, flaky.starts[1:], strict=False)]
    assert waits[0] < 0.3
    assert max(waits) <= BACKOFF_MAX.total_seconds()
    assert min(waits[10:]) >= BACKOFF_MAX.total_seconds() / 2
    assert flaky.whys == ["gone"] * 30


def test_what_was_steady_is_started_again_soon() -> None:
    down = (0.0, DeviceUnavailable("x"))
    flaky = Flaky(*[down] * 8, (STEADY.total_seconds() + 1, DeviceUnavailable("x")), down)
    run(flaky.keep(200))
    assert flaky.starts[9] - (flaky.starts[8] + STEADY.total_seconds() + 1) < 0.3


def test_an_exception_that_nobody_thought_of_is_survived() -> None:
    flaky = Flaky((0, ZeroDivisionError("oops")), (0, None))
    run(flaky.keep(5))
    assert flaky.whys == ["ZeroDivisionError: oops", "ended by itself"]


def test_a_misconfigured_device_is_not_tried_again_at_once() -> None:
    flaky = Flaky((0, DeviceMisconfigured("no such unit")))
    run(flaky.keep(20))
    assert flaky.starts[1] >= BACKOFF_MAX.total_seconds() / 2


def test_a_run_that_fails_while_it_is_cancelled_does_not_go_on() -> None:
    async def stubborn() -> None:
        try:
            await asyncio.sleep(1e9)
        finally:
            raise RuntimeError("failed on the way out")

    async def journey() -> None:
        task = asyncio.create_task(
            keep_running(
                "it", stubborn, clock=VirtualClock(), rng=random.Random(1), on_down=lambda _: None
            )
        )
        await asyncio.sleep(1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(journey())


def test_backoff_doubles_with_jitter_below() -> None:
    for failures in range(1, 50):
        wait = backoff(failures, random.Random(failures))
        assert timedelta() < wait <= BACKOFF_MAX
