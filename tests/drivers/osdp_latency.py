"""From a card at a simulated OSDP reader to its fact: `python -m tests.drivers.osdp_latency`.

The simulated reader takes the time on the wire that its speed has, and none to think. The last
rows run the line's process at a fixed tick instead of waking when something is due.
"""

import asyncio
import random
import statistics
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec

from gateway.clock import SystemClock
from gateway.drivers import osdp
from gateway.drivers.osdp import Osdp, OsdpSettings
from hwsim.osdp import OsdpReader
from hwsim.site import running_site
from tests.drivers.contract import running

KEY = bytes.fromhex("8f1d4c2b6e0a937558cd21f0b4a6e713")
POLL_MS = 50.5
COMMAND_BYTES, ACK_BYTES, CARD_BYTES = 15, 14, 30
"""A poll with its mark, its answer, and a card of 26 or 32 bits, in a secure channel."""


def floor_ms(baud_rate: int) -> float:
    """The mean that the wire and libosdp's 50 ms between polls leave."""
    byte_ms = 10_000 / baud_rate
    period_ms = POLL_MS + (COMMAND_BYTES + ACK_BYTES) * byte_ms
    return period_ms / 2 + (COMMAND_BYTES + CARD_BYTES) * byte_ms


@asynccontextmanager
async def line(directory: Path, baud_rate: int) -> AsyncIterator[tuple[Any, OsdpReader]]:
    keys = directory / "keys"
    keys.mkdir(mode=0o700, exist_ok=True)
    (keys / "reader.key").write_text(KEY.hex())
    (keys / "reader.key").chmod(0o600)
    settings = {"port": "/dev/x", "address": 0, "baud_rate": baud_rate, "formats": ["uid"]}
    config = {"devices": {"reader": {"driver": "osdp", **settings, "keys": str(keys)}}}
    async with running_site(config, directory) as site:
        reader = site.devices["reader"]
        assert isinstance(reader, OsdpReader)
        reader.peripheral.key, reader.peripheral.install_mode = KEY, False
        reader.pace = True
        table = site.rewritten_config()["devices"]["reader"]
        del table["driver"]
        clock = SystemClock(floor=None, vouched=lambda: True)
        driver = Osdp("reader", msgspec.convert(table, OsdpSettings), clock)
        async with running(driver) as run:
            yield run, reader


async def measure(baud_rate: int, cards: int) -> list[float]:
    """Milliseconds, card by card."""
    rng = random.Random(1)
    took = []
    with tempfile.TemporaryDirectory() as directory:
        async with line(Path(directory), baud_rate) as (run, reader):
            for number in range(cards):
                await asyncio.sleep(0.1 + rng.random() * 0.1)
                shown_ns = reader.card(f"{number:032b}")
                await run.until(lambda _facts: len(run.values) > number)  # noqa: B023
                took.append((run.told_ns[-1] - shown_ns) / 1e6)
    return took


def main() -> None:
    cards = int(sys.argv[1]) if len(sys.argv) > 1 else 60
    ticks: list[float | None] = [None, 0.001, 0.005, 0.02]
    shipped = osdp.WORKER
    print("baud    tick     floor  p50    p99   ms")
    for tick in ticks:
        for baud_rate in (9600, 115200) if tick else (9600, 19200, 38400, 57600, 115200):
            with tempfile.TemporaryDirectory() as directory:
                if tick:
                    osdp.WORKER = Path(directory) / "worker.py"  # type: ignore[misc]
                    marker = "def timeout_s(self) -> float:\n"
                    source = shipped.read_text()
                    osdp.WORKER.write_text(
                        source.replace(marker, f"{marker}        return {tick}\n")
                    )
                took = asyncio.run(measure(baud_rate, cards))
            p50, p99 = statistics.median(took), sorted(took)[int(len(took) * 0.99)]
            name = f"{tick * 1000:g} ms" if tick else "due"
            print(f"{baud_rate:<7} {name:<7} {floor_ms(baud_rate):6.1f} {p50:6.1f} {p99:6.1f}")
    osdp.WORKER = shipped  # type: ignore[misc]


if __name__ == "__main__":
    main()
