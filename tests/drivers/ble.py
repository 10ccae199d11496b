"""What the tests of BLE drivers share: a driver under its supervisor, and what can befall BlueZ."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec

from gateway.clock import Clock
from gateway.domain.facts import CredentialPresented, DeviceOffline, DeviceOnline, Fact
from gateway.drivers import REGISTRY
from gateway.drivers.base import Driver
from gateway.supervise import keep_running
from hwsim.bluez.site import Bluetooth
from hwsim.site import Site
from tests.timing import allowed

RECOVERY_S_MAX = 15.0
"""docs/promises.md P19, BlueZ."""


def built(site: Site, name: str, clock: Clock, **changed: object) -> Any:
    """The driver of a device on the simulated site."""
    table = {**site.rewritten_config()["devices"][name], **changed}
    spec = REGISTRY[table.pop("driver")]
    return spec.build(name, msgspec.convert(table, spec.settings), clock)


def credentials(facts: Sequence[Fact]) -> list[str]:
    return [fact.value for fact in facts if isinstance(fact, CredentialPresented)]


def open_files(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def resident_kib(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0])


class Supervised:
    """A driver that is kept running, as the core does it."""

    def __init__(self) -> None:
        self.facts: list[Fact] = []
        self._told = asyncio.Event()

    def take(self, fact: Fact) -> None:
        self.facts.append(fact)
        self._told.set()

    def up(self) -> bool:
        ups = [fact for fact in self.facts if isinstance(fact, DeviceOnline | DeviceOffline)]
        return bool(ups) and isinstance(ups[-1], DeviceOnline)

    @property
    def whys(self) -> list[str]:
        return [fact.why for fact in self.facts if isinstance(fact, DeviceOffline)]

    async def until(self, holds: Callable[[], object], within_s: float) -> None:
        async with asyncio.timeout(allowed(within_s)):
            while not holds():
                self._told.clear()
                await self._told.wait()


@asynccontextmanager
async def supervised(driver: Driver, clock: Clock) -> AsyncIterator[Supervised]:
    run = Supervised()

    def down(why: str) -> None:
        run.take(DeviceOffline(driver.device_id, why, timedelta()))

    task = asyncio.create_task(
        keep_running(
            driver.device_id,
            lambda: driver.run(run.take),
            clock=clock,
            rng=random.Random(0),
            on_down=down,
        )
    )
    try:
        await run.until(run.up, 10)
        yield run
    finally:
        task.cancel()
        await asyncio.wait({task})


async def restart_bluetoothd(air: Bluetooth) -> None:
    await air.bluez.restart(away_s=0.5)


async def reindex_adapter(air: Bluetooth) -> None:
    (adapter,) = air.bluez.adapters.values()
    air.unplug(adapter.address)
    await asyncio.sleep(0.5)
    air.plug(adapter.address)
    (again,) = air.bluez.adapters.values()
    assert again.name != adapter.name


async def block_and_unblock(air: Bluetooth) -> None:
    (name,) = air.bluez.adapters
    air.bluez.power(name, on=False, blocked=True)
    await asyncio.sleep(0.5)
    air.bluez.adapters[name].blocked = False  # off, until somebody switches it on


async def restart_the_bus(air: Bluetooth) -> None:
    await air.bus.kill()
    await air.bluez.stop()
    await asyncio.sleep(0.5)
    await air.bus.start()
    await air.bluez.start()


async def hang_bluetoothd(air: Bluetooth) -> None:
    air.bluez.hung = True
    await asyncio.sleep(8)
    await air.bluez.restart()


async def hang_the_bus(air: Bluetooth) -> None:
    air.bus.hang()
    await asyncio.sleep(8)
    air.bus.resume()


FAULTS: dict[str, tuple[Callable[[Bluetooth], Coroutine[Any, Any, None]], str]] = {
    "bluetoothd is restarted": (restart_bluetoothd, "bluetoothd was restarted or is gone"),
    "the adapter comes back as hci1": (reindex_adapter, "is gone"),
    "rfkill blocks the adapter": (block_and_unblock, "switched off or blocked"),
    "the D-Bus dies": (restart_the_bus, "the D-Bus is gone"),
    "bluetoothd hangs": (hang_bluetoothd, "no answer within"),
    "the D-Bus hangs": (hang_the_bus, "no answer within"),
}
"""What befalls BlueZ and heals after a while, and the reason that is told meanwhile."""
