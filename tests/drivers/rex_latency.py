"""From an exit button on Modbus RTU to the strike's edge: `python -m tests.drivers.rex_latency`.

The simulated boards take the time on the wire that their speed has, and none to think. As at a
door, the strike is pulsed at the button's first glimpse. Every second press is at the worst moment
of an idle line: the inputs have just been read, and the outputs are next. The others are at any; in
the row "busy" another door on the same board is released just before. Presses during which this
process was kept waiting by the machine are not counted.
"""

import asyncio
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec

from gateway.clock import SystemClock
from gateway.domain.facts import Fact, InputGlimpsed
from gateway.drivers.modbus_relay import ModbusRelay, ModbusRelaySettings
from gateway.errors import DeviceError
from hwsim.observations import Output
from hwsim.rtu_line import RtuRelayBoard
from hwsim.site import Site, running_site

BUTTON, STRIKE, OTHER = 8, 1, 2
PULSE = timedelta(milliseconds=100)
HELD_S = 0.4
KEPT_WAITING_S = 0.005
ROWS = ((9600, 1, False), (9600, 1, True), (9600, 2, False), (19200, 3, False), (115200, 4, False))
"""Baud rate, boards on the line, and whether another door is released at the same time."""


class Presses:
    """Somebody at the first board's button."""

    def __init__(self, site: Site, *, busy: bool) -> None:
        self._busy = busy
        self._site = site
        self._pulses: set[asyncio.Task[None]] = set()
        self._waited_s = 0.0
        clock = SystemClock(floor=None, vouched=lambda: True)
        self._drivers = [
            ModbusRelay(name, msgspec.convert(_settings(table), ModbusRelaySettings), clock)
            for name, table in site.rewritten_config()["devices"].items()
        ]
        board = site.devices[self._drivers[0].device_id]
        assert isinstance(board, RtuRelayBoard)
        self._board = board

    async def made(self, count: int) -> list[float]:
        """Press and let go; how long each took that counts, in ms."""
        tasks = [asyncio.create_task(self._kept(driver)) for driver in self._drivers]
        tasks.append(asyncio.create_task(self._watch()))
        rng = random.Random(1)
        try:
            await asyncio.sleep(1.5)
            took = [await self._press(rng) for _ in range(count)]
        finally:
            for task in (*tasks, *self._pulses):
                task.cancel()
            await asyncio.gather(*tasks, *self._pulses, return_exceptions=True)
        return [each for each in took if each is not None]

    async def _press(self, rng: random.Random) -> float | None:
        await asyncio.sleep(0.5 + rng.random() * 0.5)
        before = len(self._site.seen.of(Output))
        if self._busy:
            self._pulse(OTHER)
            await asyncio.sleep(rng.random() * 0.08)
        elif before % 4:
            line, outputs_of = self._board.line, bytes([self._board.board.unit, 0x01])
            while line.asked[-1][:2] != outputs_of:  # noqa: ASYNC110  # a line has no event
                await asyncio.sleep(0.001)
        self._waited_s, pressed_ns = 0.0, time.monotonic_ns()
        self._board.set_input(BUTTON, active=True)
        await asyncio.sleep(HELD_S)
        self._board.set_input(BUTTON, active=False)
        edges = (seen for seen in self._site.seen.of(Output)[before:] if seen.output == STRIKE)
        edge = next(edges, None)
        counts = edge is not None and self._waited_s < KEPT_WAITING_S
        return (edge.at_ns - pressed_ns) / 1e6 if edge is not None and counts else None

    async def _kept(self, driver: ModbusRelay) -> None:
        while True:
            with suppress(DeviceError):
                await driver.run(self._take)

    async def _watch(self) -> None:
        while True:
            due = time.monotonic() + 0.002
            await asyncio.sleep(0.002)
            self._waited_s = max(self._waited_s, time.monotonic() - due)

    def _take(self, fact: Fact) -> None:
        if isinstance(fact, InputGlimpsed) and fact.active:
            self._pulse(STRIKE)

    def _pulse(self, output: int) -> None:
        async def pulse() -> None:
            with suppress(DeviceError):
                await self._drivers[0].pulse(output, PULSE)

        task = asyncio.create_task(pulse())
        self._pulses.add(task)
        task.add_done_callback(self._pulses.discard)


def _settings(table: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in table.items() if key != "driver"}


async def measure(baud_rate: int, boards: int, count: int, *, busy: bool) -> list[float]:
    """Milliseconds from press to edge."""
    with tempfile.TemporaryDirectory() as name:
        line = {"driver": "modbus_relay", "transport": "rtu", "port": f"{name}/line"}
        board = {**line, "baud_rate": baud_rate, "profile": "waveshare_rtu_relay_d"}
        devices = {f"board-{unit}": {**board, "unit": unit} for unit in range(1, boards + 1)}
        async with running_site({"devices": devices}, Path(name)) as site:
            first = site.devices["board-1"]
            assert isinstance(first, RtuRelayBoard)
            first.line.baud_rate = baud_rate
            return await Presses(site, busy=busy).made(count)


def row(baud_rate: int, boards: int, took: Sequence[float], *, busy: bool) -> str:
    """A line of the table."""
    late = sum(each > 100 for each in took)
    return (
        f"{baud_rate:>6} baud, {boards} boards{', busy' if busy else '':<6} "
        f"p50 {statistics.median(took):5.1f}  slowest {max(took):5.1f} ms, "
        f"over 100 ms: {late} of {len(took)}"
    )


if __name__ == "__main__":
    presses = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    for speed, number, doors in ROWS:
        measured = asyncio.run(measure(speed, number, presses, busy=doors))
        print(row(speed, number, measured, busy=doors), flush=True)
