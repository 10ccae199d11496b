"""Phones, fobs and locks on Bluetooth Low Energy: what the software adds to the air; walk-ups."""

import asyncio
import tempfile
import time
import tomllib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec

from bench.results import Result, Spread, spread
from gateway.clock import SystemClock
from gateway.domain.facts import CredentialPresented, DeviceOnline, Fact
from gateway.domain.signal import Signal
from gateway.drivers import REGISTRY, ble_sessions
from hwsim.bluez.daemon import Timing
from hwsim.bluez.radio import Walk
from hwsim.bluez.site import address_named, key_named
from hwsim.phones import Fob, PkocPhone
from hwsim.site import Site, running_site

CONFIG = Path(__file__).parents[1] / "config" / "ble.toml"
READER, SCANNER, LOCK = "street-phones", "yard-fobs", "archive-lock"

AIR = Timing(connect_s=0.03, discover_s=0.09, att_s=0.0075)
"""A connection interval of 7.5 ms, connecting within a scan interval, twelve exchanges to discover
what is there: a fob or a phone that hurries."""
NO_AIR = Timing()


class Told:
    """A driver that runs, and when it told what."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver
        self.facts: list[tuple[float, Fact]] = []
        self._new = asyncio.Event()
        self.task = asyncio.create_task(driver.run(self._take))

    def _take(self, fact: Fact) -> None:
        self.facts.append((time.monotonic(), fact))
        if isinstance(fact, CredentialPresented):
            asyncio.get_running_loop().create_task(self.driver.indicate(Signal.GRANTED))
        self._new.set()

    async def when(self, kind: type[Fact], after: int, holds: Callable[[Any], bool]) -> float:
        async with asyncio.timeout(60):
            while True:
                for at, fact in self.facts[after:]:
                    if isinstance(fact, kind) and holds(fact):
                        return at
                self._new.clear()
                await self._new.wait()


@asynccontextmanager
async def told(site: Site, name: str, **changed: object) -> AsyncIterator[Told]:
    table = {**site.rewritten_config()["devices"][name], **changed}
    spec = REGISTRY[table.pop("driver")]
    clock = SystemClock(floor=None, vouched=lambda: True)
    run = Told(spec.build(name, msgspec.convert(table, spec.settings), clock))
    try:
        await run.when(DeviceOnline, 0, lambda _: True)
        yield run
    finally:
        run.task.cancel()
        await asyncio.wait({run.task})


async def measure(*, quick: bool, full: bool) -> Result:
    """The whole measurement."""
    del full  # it has no larger size
    times, walkers = (20, 10) if quick else (100, 60)
    vars(ble_sessions)["ATTEMPTS_MAX"] = 10_000
    spreads: list[Spread] = []
    with tempfile.TemporaryDirectory() as run_dir:
        config = tomllib.loads(CONFIG.read_text())
        async with running_site(config, Path(run_dir)) as site:
            for air, name, floor_s in ((NO_AIR, "no air", 0.0), (AIR, "7.5 ms air", None)):
                site.bluetooth.bluez.timing = air
                phone_floor = None if floor_s == 0 else _floor(2)
                fob_floor = None if floor_s == 0 else 0.02 + _floor(2)
                lock_floor = None if floor_s == 0 else AIR.att_s
                for what, take, floor in (
                    ("phone connects → fact, PKOC", _phone, phone_floor),
                    ("fob advertises → fact", _fob, fob_floor),
                    ("pulse → confirmed by the lock", _lock, lock_floor),
                ):
                    spreads.append(_spread(f"{what}, {name}", await take(site, times), floor))
            spreads.append(await _walk_ups(site, walkers))
    return Result(
        name="ble",
        what="Simulated BlueZ and people, the real bleak and dbus-fast in their worker. "
        "*No air* is the software alone; with air every exchange costs a connection interval of "
        "7.5 ms, connecting 30 ms, discovery 90 ms; the floor is that air alone. "
        "Walk-ups: how many metres from the door somebody with a pressed fob is at the fact, at "
        "1.4 m/s, advertising every 100 ms, `near_dbm` -70, 4 dB of shadowing.",
        spreads=spreads,
        figures=[],
        notes=[],
    )


def _floor(exchanges: int) -> float:
    return AIR.connect_s + AIR.discover_s + exchanges * AIR.att_s


def _spread(what: str, times_s: list[float], floor_s: float | None) -> Spread:
    floor = None if floor_s is None else floor_s * 1000
    return spread(what, "ms", [each * 1000 for each in times_s], floor=floor)


async def _phone(site: Site, times: int) -> list[float]:
    found = []
    async with told(site, READER) as run:
        phone = PkocPhone(site.bluetooth.bluez, address_named("alice"), key=key_named("alice"))
        adapter = site.bluetooth.adapter(site.rewritten_config()["devices"][READER]["adapter"])
        assert adapter is not None
        for _ in range(times):
            before, began = len(run.facts), time.monotonic()
            await phone.tap(adapter)
            found.append(await run.when(CredentialPresented, before, lambda _: True) - began)
    return found


async def _fob(site: Site, times: int) -> list[float]:
    found = []
    table = site.rewritten_config()["devices"][SCANNER]
    fob = Fob(
        address_named("alice"),
        table["service"],
        key=key_named("alice"),
        walk=Walk(((0.5, 0.0),)),
        interval_s=0.02,
    )
    site.bluetooth.bluez.join(fob)
    async with told(site, SCANNER) as run:
        for _ in range(times):
            before, began = len(run.facts), time.monotonic()
            fob.press(bytes.fromhex(table["door_identifier"].replace("-", "")))
            found.append(await run.when(CredentialPresented, before, lambda _: True) - began)
            await fob.results.get()
            await asyncio.sleep(0.03)
    site.bluetooth.bluez.leave(fob)
    return found


async def _lock(site: Site, times: int) -> list[float]:
    found = []
    async with told(site, LOCK) as run:
        for _ in range(times):
            began = time.monotonic()
            await run.driver.pulse(1, timedelta(milliseconds=1))
            found.append(time.monotonic() - began)
    return found


async def _walk_ups(site: Site, walkers: int) -> Spread:
    table = site.rewritten_config()["devices"][SCANNER]
    door = bytes.fromhex(table["door_identifier"].replace("-", ""))
    metres: list[float] = []
    async with told(site, SCANNER) as run:

        async def walk_up(number: int) -> None:
            await asyncio.sleep(number * 0.25)
            name = f"walker {number}"
            walk = Walk(((12.0, 0.0), (0.3, 0.0)), started_s=time.monotonic())
            fob = Fob(address_named(name), table["service"], key=key_named(name), walk=walk)
            fob.press(door)
            site.bluetooth.bluez.join(fob)
            at = await run.when(CredentialPresented, 0, lambda fact: fact.value == fob.credential)
            metres.append(walk.at(at)[0])
            await fob.results.get()
            site.bluetooth.bluez.leave(fob)

        await asyncio.gather(*(walk_up(number) for number in range(walkers)))
    return spread("walk-up: metres from the door at the fact", "m", metres)
