"""What a service manager sees: readiness, the watchdog, the end, and nothing that piles up."""

import asyncio
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import pytest

from gateway.control.door import TAPS_A_SECOND_MAX
from gateway.domain import events
from gateway.ipc.client import connect
from tests.process.rig import (
    SAM,
    SAM_PIN,
    Rig,
    assert_sound,
    descendants,
    descriptors_of,
    figure,
    is_running,
    spawn,
    threads_of,
    until,
)
from tests.timing import allowed

pytestmark = pytest.mark.process

END_S_MAX = 5.0
WATCHDOG_S = 1.0
SELF_TEST_S_MAX = 5.0
"""How long the core's self-test waits for an answer (gateway.processes.core)."""
TAPS, REPLUGS = 200, 20
DESCRIPTORS_SPARE = 3
"""A client that is just asking has a socket of its own."""


class Manager:
    """The service manager's end of sd_notify(3)."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self.said: list[tuple[float, str]] = []

    def read(self) -> None:
        for line in self._channel.recv(4096).decode().splitlines():
            self.said.append((time.monotonic(), line))

    def times(self, line: str) -> list[float]:
        return [at for at, told in self.said if told == line]


@contextmanager
def managing(path: Path) -> Iterator[Manager]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as channel:
        channel.bind(str(path))
        manager = Manager(channel)
        loop = asyncio.get_running_loop()
        loop.add_reader(channel, manager.read)
        try:
            yield manager
        finally:
            loop.remove_reader(channel)


@pytest.fixture
async def manager(tmp_path: Path) -> AsyncIterator[Manager]:
    with managing(tmp_path / "notify") as listening:
        yield listening


def as_service(directory: Path) -> dict[str, str]:
    return {
        "NOTIFY_SOCKET": str(directory / "notify"),
        "WATCHDOG_USEC": str(int(WATCHDOG_S * 1e6)),
    }


async def test_the_core_tells_the_service_manager_how_it_is(rig: Rig, manager: Manager) -> None:
    core = await rig.start("core", env=as_service(rig.directory))
    await until("READY=1", lambda: manager.times("READY=1"))
    assert await rig.status() is not None  # it answers from then on
    assert any(line.startswith("STATUS=") for _, line in manager.said)
    await rig.ready(core)
    await rig.opens("front")
    await until("five signs of life", lambda: len(manager.times("WATCHDOG=1")) >= 5)
    signs = [*manager.times("READY=1"), *manager.times("WATCHDOG=1")]
    gaps_s = [later - earlier for earlier, later in pairwise(signs)]
    figure(f"signs of life every {', '.join(f'{gap:.2f}' for gap in gaps_s)} s")
    assert max(gaps_s) < WATCHDOG_S
    assert not manager.times("STOPPING=1")
    assert await core.stop(END_S_MAX) == 0
    await until("STOPPING=1", lambda: manager.times("STOPPING=1"))


BLOCKED = """
import asyncio, sys
from gateway.cli import main
from gateway.control.door import DoorController

async def never(self, tap):
    await asyncio.Event().wait()

DoorController._tapped = never
sys.exit(main(["core", "--config", sys.argv[1]]))
"""
"""The real core with a bug planted in it: the first tap blocks its door's decisions for good."""


async def test_a_core_that_lives_but_decides_nothing_stops_its_watchdog_and_falls(
    rig: Rig, manager: Manager
) -> None:
    log = rig.directory / "blocked.log"
    core = await spawn(
        *(sys.executable, "-c", BLOCKED, str(rig.config)),
        log=log,
        env=as_service(rig.directory),
    )
    try:
        await rig.ready()
        await until("signs of life", lambda: len(manager.times("WATCHDOG=1")) >= 2)
        await rig.enter(SAM_PIN)
        tapped = time.monotonic()
        async with asyncio.timeout(allowed(SELF_TEST_S_MAX + 2 * WATCHDOG_S + 2.0)):
            status = await core.wait()
        figure(f"decisions blocked to the core's end: {time.monotonic() - tapped:.1f} s")
        # Not 2: a service manager, and `run`, must start it again.
        assert status not in {0, 2}
        late = [at for at in manager.times("WATCHDOG=1") if at > tapped + WATCHDOG_S]
        assert late == []
    finally:
        if core.returncode is None:
            core.kill()
            await core.wait()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_asked_to_stop_it_ends_in_good_order_and_leaves_nobody_behind(
    rig: Rig, number: signal.Signals
) -> None:
    core = await rig.core()
    children = descendants(core.pid)
    assert len(children) >= 2  # the readers' workers
    async with connect(rig.socket, role="test") as client:
        waiting = asyncio.ensure_future(client.fetch(10**6, wait_s=30))
        # In the middle of it all: a pulse runs, a card lies on a reader, a client waits.
        await rig.release_by("front", rig.tap("front-reader", SAM))
        rig_card = asyncio.ensure_future(rig.tap("back-reader", SAM, 2.0))
        begun = time.monotonic()
        core.process.send_signal(number)
        async with asyncio.timeout(allowed(END_S_MAX)):
            status = await core.process.wait()
        figure(f"{number.name} to the end: {time.monotonic() - begun:.2f} s")
        assert status == 0
        await asyncio.gather(waiting, return_exceptions=True)
        await rig_card
    await until("no child is left", lambda: not any(map(is_running, children)), 2.0)
    assert not rig.socket.exists()
    await rig.at_rest()
    stored = rig.stored()
    assert_sound(stored)
    assert isinstance(stored[-1].event, events.GatewayStopped)


async def test_run_stops_both_parts_and_their_children(rig: Rig) -> None:
    run = await rig.start("run")
    await rig.ready(run)
    children = descendants(run.pid)
    assert len(children) >= 3
    assert await run.stop(END_S_MAX + 1.0) == 0
    await until("no child is left", lambda: not any(map(is_running, children)), 2.0)


async def test_a_killed_core_leaves_no_worker_behind(rig: Rig) -> None:
    core = await rig.core()
    children = descendants(core.pid)
    assert len(children) >= 2
    await core.kill()
    took_s = await until("no child is left", lambda: not any(map(is_running, children)), 2.0)
    figure(f"killed to no worker left: {took_s:.2f} s")


async def test_descriptors_and_threads_dont_grow_with_taps_and_replugs(rig: Rig) -> None:
    core = await rig.core()

    async def enter(number: int) -> None:
        await rig.entered(str(10**7 + number))
        await asyncio.sleep(1 / TAPS_A_SECOND_MAX)  # more would be a flood, and ignored

    for number in range(20):
        await enter(number)
    await rig.opens("back")
    descriptors = descriptors_of(core.pid)
    threads = threads_of(core.pid)
    begun = time.monotonic()
    for number in range(TAPS):
        await enter(number)
    figure(f"{TAPS} taps in {time.monotonic() - begun:.1f} s")
    devices = ("front-reader", "front-keypad", "back-reader", "relays-b")
    for _ in range(REPLUGS // len(devices)):
        for device in devices:
            await rig.site.unplug(device)

        async def all_gone() -> bool:
            status = await rig.status()
            return status is not None and not any(status.devices[name].online for name in devices)

        await until("all missed", all_gone)
        for device in devices:
            await rig.site.plug(device)
        await rig.ready(core)
    await rig.opens("back")
    await rig.opens("front")
    # What a worker that has just ended leaves behind goes with the loop's next rounds.
    await until(
        "no descriptor more than before",
        lambda: descriptors_of(core.pid) <= descriptors + DESCRIPTORS_SPARE,
        5.0,
    )
    assert threads_of(core.pid) <= threads + 1
    assert len([pid for pid in descendants(core.pid) if is_running(pid)]) == 2
    decided = [
        entry.event
        for entry in await rig.journal()
        if isinstance(entry.event, events.AccessDecided)
    ]
    assert len(decided) >= TAPS
    assert await core.stop(END_S_MAX) == 0
    assert_sound(rig.stored())
