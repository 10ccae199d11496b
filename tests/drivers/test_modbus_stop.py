"""A relay board's driver ends whenever it is told to, also in the instant an answer comes."""

import asyncio
import random
from contextlib import suppress
from pathlib import Path

from gateway.clock import SystemClock
from gateway.domain.facts import DeviceOnline, Fact
from gateway.drivers.modbus_relay import ModbusRelay, ModbusRelaySettings
from gateway.supervise import keep_running
from hwsim.site import running_site

STOPS = 150
STOP_S_MAX = 3.0


async def test_a_cancellation_is_never_lost_in_an_answer(tmp_path: Path) -> None:
    table = {"driver": "modbus_relay", "outputs": 8, "inputs": 8}
    dice = random.Random(5)
    clock = SystemClock(floor=None, vouched=lambda: True)
    async with running_site({"devices": {"relays": table}}, tmp_path) as site:
        address = site.rewritten_config()["devices"]["relays"]
        settings = ModbusRelaySettings(
            host=address["host"], port=address["port"], outputs=8, inputs=8, timed_pulse=True
        )
        for stop in range(STOPS):
            online = asyncio.Event()

            def take(fact: Fact, online: asyncio.Event = online) -> None:
                if isinstance(fact, DeviceOnline):
                    online.set()

            driver = ModbusRelay("relays", settings, clock)
            running = asyncio.create_task(
                keep_running(
                    "relays",
                    lambda driver=driver, take=take: driver.run(take),  # type: ignore[misc]
                    clock=clock,
                    rng=dice,
                    on_down=lambda _: None,
                )
            )
            async with asyncio.timeout(5):
                await online.wait()
            await asyncio.sleep(dice.uniform(0.0, 0.025))
            for _ in range(dice.randrange(20)):  # somewhere within one exchange
                await asyncio.sleep(0)
            running.cancel()
            with suppress(asyncio.CancelledError):
                async with asyncio.timeout(STOP_S_MAX):
                    await asyncio.wait({running})
            assert running.cancelled(), f"stop {stop} was lost"
