"""What every driver keeps, whatever it drives: subclass `DriverContract` and name the device."""

import asyncio
import itertools
import os
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import pytest

from gateway.clock import Clock
from gateway.domain.facts import CredentialPresented, DeviceOnline, Fact
from gateway.drivers import REGISTRY
from gateway.drivers.base import Driver
from gateway.errors import DeviceError, DeviceUnavailable
from hwsim.site import Site
from tests.timing import allowed

CONFIG = Path(__file__).parents[2] / "config" / "site.toml"
WIRED = CONFIG.with_name("wired.toml")

ONLINE_S_MAX = 5.0
"""On a busy machine; a reader is online in a tenth of a second."""


class Running:
    """A driver that runs, and what it has told so far."""

    def __init__(self, driver: Driver) -> None:
        self.driver = driver
        self.facts: list[Fact] = []
        self.told_ns: list[int] = []
        self._told = asyncio.Event()
        self.task = asyncio.create_task(driver.run(self._emit))

    def _emit(self, fact: Fact) -> None:
        self.facts.append(fact)
        self.told_ns.append(time.monotonic_ns())
        self._told.set()

    async def until(self, seen: Callable[[Sequence[Fact]], object], within_s: float = 2.0) -> None:
        """Wait until `seen` holds for the facts so far; a driver's error is this call's."""
        async with asyncio.timeout(allowed(within_s)):
            while not seen(self.facts):
                self._told.clear()
                told = asyncio.create_task(self._told.wait())
                try:
                    await asyncio.wait({told, self.task}, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    told.cancel()
                if self.task.done() and not seen(self.facts):
                    self.task.result()

    async def online(self) -> None:
        await self.until(is_online, ONLINE_S_MAX)

    @property
    def values(self) -> list[str]:
        return [fact.value for fact in self.facts if isinstance(fact, CredentialPresented)]

    async def stop(self) -> None:
        self.task.cancel()
        with suppress(asyncio.CancelledError, DeviceError):
            await self.task


def is_online(facts: Sequence[Fact]) -> bool:
    return any(isinstance(fact, DeviceOnline) for fact in facts)


@asynccontextmanager
async def running(driver: Driver) -> AsyncIterator[Running]:
    """`driver`, run and online for the length of the block."""
    run = Running(driver)
    try:
        await run.online()
        yield run
    finally:
        await run.stop()


async def eventually(holds: Callable[[], object], within_s: float = 2.0) -> None:
    async with asyncio.timeout(allowed(within_s)):
        while not holds():  # noqa: ASYNC110  # what is waited for is the kernel's and has no event
            await asyncio.sleep(0.005)


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def children(parent: int | None = None) -> set[int]:
    """The processes whose parent is `parent`, this one if not given."""
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            if int(stat.read_text().rpartition(")")[2].split()[1]) == (parent or os.getpid()):
                found.add(int(stat.parent.name))
    return found


def threads() -> set[str]:
    # The loop keeps its default executor's threads for the next call.
    names = {thread.name for thread in threading.enumerate()}
    return {name for name in names if not name.startswith("asyncio_")}


class DriverContract:
    """The shared suite; `prove` makes the device say something and waits for the fact of it."""

    device: ClassVar[str]
    changed: ClassVar[dict[str, object]] = {}
    """Settings that differ from the site's."""

    def build(self, site: Site, clock: Clock, **changed: object) -> Any:
        """The driver of `device` on the simulated site."""
        table = {**site.rewritten_config()["devices"][self.device], **self.changed, **changed}
        spec = REGISTRY[table.pop("driver")]
        return spec.build(self.device, msgspec.convert(table, spec.settings), clock)

    async def prove(self, site: Site, run: Running) -> None:
        raise NotImplementedError

    async def test_its_constructor_opens_nothing(self, site: Site, clock: Clock) -> None:
        before = open_files(), children(), threads()
        self.build(site, clock)
        assert (open_files(), children(), threads()) == before

    async def test_it_is_online_exactly_once_and_before_anything_else(
        self, site: Site, clock: Clock
    ) -> None:
        async with running(self.build(site, clock)) as run:
            await self.prove(site, run)
            assert isinstance(run.facts[0], DeviceOnline)
            assert sum(isinstance(fact, DeviceOnline) for fact in run.facts) == 1
            assert all(fact.device == self.device for fact in run.facts)

    async def test_its_times_are_the_clocks(self, site: Site, clock: Clock) -> None:
        before = clock.monotonic()
        async with running(self.build(site, clock)) as run:
            await self.prove(site, run)
            assert all(before <= fact.at <= clock.monotonic() for fact in run.facts)

    async def test_unplugged_it_fails_within_a_moment_and_leaves_nothing_behind(
        self, site: Site, clock: Clock
    ) -> None:
        driver = self.build(site, clock)
        await site.unplug(self.device)
        before = open_files(), children(), threads()
        await site.plug(self.device)
        async with running(driver) as run:
            unplugged = time.monotonic()
            await site.unplug(self.device)
            with pytest.raises(DeviceUnavailable, match=self.device):
                async with asyncio.timeout(allowed(2.0)):
                    await run.task
            assert time.monotonic() - unplugged < allowed(0.5)
        await eventually(lambda: (open_files(), children(), threads()) == before)

    async def test_replugged_it_works_again(self, site: Site, clock: Clock) -> None:
        driver = self.build(site, clock)
        async with running(driver) as run:
            await site.unplug(self.device)
            with pytest.raises(DeviceUnavailable):
                await run.task
        with pytest.raises(DeviceUnavailable):
            await driver.run(lambda _fact: None)
        await site.plug(self.device)
        async with running(driver) as run:
            await self.prove(site, run)

    async def test_cancelled_it_closes_its_line_and_leaves_nothing_behind(
        self, site: Site, clock: Clock
    ) -> None:
        before = open_files(), children(), threads(), len(asyncio.all_tasks())
        async with running(self.build(site, clock)) as run:
            await self.prove(site, run)
        assert run.task.cancelled()
        await eventually(
            lambda: (open_files(), children(), threads(), len(asyncio.all_tasks())) == before
        )

    @pytest.mark.parametrize("after_s", [0.0, 0.001, 0.01, 0.05, 0.1])
    async def test_cancelled_while_it_starts_it_leaves_nothing_behind(
        self, site: Site, clock: Clock, after_s: float
    ) -> None:
        before = open_files(), children(), threads()
        run = Running(self.build(site, clock))
        await asyncio.sleep(after_s)
        await run.stop()
        await eventually(lambda: (open_files(), children(), threads()) == before)

    async def test_it_works_again_after_it_was_cancelled(self, site: Site, clock: Clock) -> None:
        driver = self.build(site, clock)
        for _ in range(3):
            async with running(driver) as run:
                await self.prove(site, run)


def any_split(data: bytes, cuts: Sequence[int]) -> list[bytes]:
    """`data` in pieces, cut at `cuts` (modulo its length)."""
    places = sorted({cut % (len(data) + 1) for cut in cuts} | {0, len(data)})
    return [data[a:b] for a, b in itertools.pairwise(places)]
