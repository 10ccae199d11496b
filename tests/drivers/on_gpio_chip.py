"""The drivers on GPIO lines, through the real gpiod; test_gpio.py runs this with the shim loaded.

The shim must be in the process from its start, so these tests have a pytest of their own.
"""

import asyncio
import tempfile
import time
import tomllib
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar, cast

import pytest

from gateway.clock import Clock
from gateway.domain.card_format import encode
from gateway.domain.facts import CredentialPresented, InputChanged, OutputReported
from gateway.domain.signal import Signal
from gateway.errors import DeviceMisconfigured, DeviceUnavailable
from hwsim.gpio.host import ChipProcess, running_chip
from hwsim.site import Site
from tests.drivers.contract import CONFIG, DriverContract, Running, eventually, running
from tests.timing import allowed

GPIO = CONFIG.with_name("gpio.toml")
MS = timedelta(milliseconds=1)
D0, D1 = 17, 27
LAMP, BUZZER = 23, 24
CONTACT, REX, STRIKE = 5, 6, 22
CARD = encode("H10301", 123, 4567)


class ChipSite:
    """What the contract suite needs of a site: one chip, on which everything is."""

    def __init__(self, chip: ChipProcess) -> None:
        self.chip = chip
        self._config = tomllib.loads(GPIO.read_text())

    def rewritten_config(self) -> dict[str, Any]:
        for table in self._config["devices"].values():
            table["chip"] = str(self.chip.path)
        return self._config

    async def unplug(self, _device: str) -> None:
        await self.chip.do("unplug")

    async def plug(self, _device: str) -> None:
        await self.chip.do("plug")


@pytest.fixture
async def site(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Site]:
    # A short path: the chip is a Unix socket, whose names have 107 bytes.
    with tempfile.TemporaryDirectory(prefix="hwsim-") as directory:
        path = Path(directory) / "gpiochip0"
        async with running_chip(path) as chip:
            # The shim reads C's environment, which os.environ writes through to.
            monkeypatch.setenv("HWSIM_GPIO_CHIP", str(path))
            yield cast("Site", ChipSite(chip))


def chip_of(site: Site) -> ChipProcess:
    return cast("ChipSite", site).chip


async def read_card(chip: ChipProcess, run: Running, bits: str = CARD) -> int:
    """Hold up a card until it is read; when its last bit went out, in monotonic nanoseconds.

    Where the chip's process gets no core for 25 ms in mid-frame, the frame is two, and refused.
    """
    before = len(run.values)
    for _ in range(5):
        last_ns = await chip.card(D0, D1, bits)
        with suppress(TimeoutError):
            await run.until(lambda _facts: len(run.values) > before, 0.2)
            return last_ns
    raise AssertionError("not read in five times")


class TestAWiegandReaderOnGpio(DriverContract):
    device: ClassVar[str] = "yard-reader"

    async def prove(self, site: Site, run: Running) -> None:
        before = len(run.values)
        await read_card(chip_of(site), run)
        assert run.values[before:] == ["H10301:123:4567"]
        card = run.facts[-1]
        assert isinstance(card, CredentialPresented)
        assert card.began is not None
        assert card.at - card.began == 25 * 2 * MS

    async def test_a_card_is_told_two_bit_pauses_after_its_last_bit(
        self, site: Site, clock: Clock
    ) -> None:
        async with running(self.build(site, clock)) as run:
            took = []
            for _ in range(10):
                last_ns = await read_card(chip_of(site), run)
                took.append((run.told_ns[-1] - last_ns) / 1e6)
            print(f"\nlast bit to fact, ms, frame ended by silence: {sorted(took)}")
            assert 4 < sorted(took)[5] < allowed(12)

    async def test_at_once_it_is_told_with_its_last_bit(self, site: Site, clock: Clock) -> None:
        async with running(self.build(site, clock, at_once=True, formats=["H10301"])) as run:
            took = []
            for _ in range(10):
                last_ns = await read_card(chip_of(site), run)
                took.append((run.told_ns[-1] - last_ns) / 1e6)
            print(f"\nlast bit to fact, ms, at once: {sorted(took)}")
            assert sorted(took)[5] < allowed(4)

    async def test_with_the_loop_held_up_frames_are_still_right(
        self, site: Site, clock: Clock
    ) -> None:
        other = encode("H10306", 1, 2)
        async with running(self.build(site, clock)) as run:
            chip = chip_of(site)
            for _ in range(5):
                sending = asyncio.create_task(chip.card(D0, D1, CARD))
                await asyncio.sleep(0.02)
                until = time.monotonic() + 0.2
                while time.monotonic() < until:
                    pass  # nobody serves the loop in mid-frame
                await sending
                with suppress(TimeoutError):
                    await run.until(lambda _facts: run.values, 0.2)
                    break
            await read_card(chip, run, other)
            assert run.values == ["H10301:123:4567", "H10306:1:2"]

    async def test_edges_that_were_lost_drop_their_frame(self, site: Site, clock: Clock) -> None:
        async with running(self.build(site, clock)) as run:
            chip = chip_of(site)
            await self.prove(site, run)
            await chip.do("lose", count=1)
            await chip.card(D0, D1, CARD)
            await asyncio.sleep(0.06)
            assert run.values == ["H10301:123:4567"]
            await self.prove(site, run)

    async def test_keys_are_put_together_to_a_pin(self, site: Site, clock: Clock) -> None:
        async with running(self.build(site, clock)) as run:
            for key in "2468#":
                code = "0123456789*#".index(key)
                await chip_of(site).card(D0, D1, f"{(code ^ 15) << 4 | code:08b}", 1000)
                await asyncio.sleep(0.03)
            await run.until(lambda _facts: run.values)
            assert run.values == ["2468"]

    async def test_it_shows_a_grant_and_answers_a_short_entry_and_ends_dark(
        self, site: Site, clock: Clock
    ) -> None:
        driver = self.build(site, clock)
        chip = chip_of(site)
        async with running(driver):
            await driver.indicate(Signal.GRANTED)
            await eventually(lambda: chip.levels(BUZZER) == [True, False])
            assert chip.levels(LAMP) == [True]
            for key in "12#":
                code = "0123456789*#".index(key)
                await chip.card(D0, D1, f"{(code ^ 15) << 4 | code:08b}", 1000)
                await asyncio.sleep(0.03)
            await eventually(lambda: len(chip.levels(BUZZER)) == 2 + 6)
            assert chip.levels(LAMP) == [True, False]
            await driver.indicate(Signal.PIN_WANTED)
            await eventually(lambda: len(chip.levels(LAMP)) == 3)
        await eventually(lambda: chip.levels(LAMP) == [True, False] * 2)
        with pytest.raises(DeviceUnavailable):
            await driver.indicate(Signal.DENIED)

    async def test_a_line_that_the_chip_has_not_is_misconfigured_or_unavailable(
        self, site: Site, clock: Clock
    ) -> None:
        with pytest.raises((DeviceMisconfigured, DeviceUnavailable)):
            await self.build(site, clock, d1=500).run(lambda _fact: None)

    async def test_lines_that_are_in_use_are_unavailable(self, site: Site, clock: Clock) -> None:
        async with running(self.build(site, clock)):
            with pytest.raises(DeviceUnavailable):
                await self.build(site, clock).run(lambda _fact: None)


class TestGpio(DriverContract):
    device: ClassVar[str] = "yard-io"

    async def prove(self, site: Site, run: Running) -> None:
        chip, before = chip_of(site), len(chip_of(site).levels(STRIKE))
        await run.driver.pulse(1, 100 * MS)  # type: ignore[attr-defined]
        await eventually(lambda: chip.levels(STRIKE)[before:] == [True, False])

    async def test_it_begins_at_rest_and_tells_what_is_there(
        self, site: Site, clock: Clock
    ) -> None:
        await chip_of(site).do("level", line=CONTACT, high=False)
        async with running(self.build(site, clock)) as run:
            await run.until(lambda facts: len(facts) >= 5)
            told = [
                (fact.input, fact.active) for fact in run.facts if isinstance(fact, InputChanged)
            ]
            assert told == [(1, True), (2, False), (3, False)]
            assert [fact.energised for fact in run.facts if isinstance(fact, OutputReported)] == [
                False
            ]

    async def test_a_button_is_told_when_it_has_held_for_its_debounce(
        self, site: Site, clock: Clock
    ) -> None:
        async with running(self.build(site, clock)) as run:
            chip, before = chip_of(site), len(run.facts)
            for high in (False, True, False, True, False):  # it bounces
                await chip.do("level", line=REX, high=high)
            pressed = time.monotonic()
            await run.until(lambda facts: len(facts) > before)
            assert time.monotonic() - pressed < allowed(0.1)
            await asyncio.sleep(0.1)
            (told,) = run.facts[before:]
            assert told == InputChanged(self.device, 2, True, told.at)

    async def test_a_pulse_is_as_long_as_granted_and_can_be_renewed_and_ended(
        self, site: Site, clock: Clock
    ) -> None:
        async with running(self.build(site, clock)) as run:
            chip = chip_of(site)
            await run.driver.pulse(1, 300 * MS)  # type: ignore[attr-defined]
            await asyncio.sleep(0.2)
            await run.driver.pulse(1, 300 * MS)  # type: ignore[attr-defined]
            await eventually(lambda: len(chip.levels(STRIKE)) == 2)
            on, off = (each["at_ns"] for each in chip.seen if each.get("line") == STRIKE)
            assert 0.47e9 < off - on < 0.55e9
            await run.driver.pulse(1, 60_000 * MS)  # type: ignore[attr-defined]
            await run.driver.rest(1)  # type: ignore[attr-defined]
            await eventually(lambda: chip.levels(STRIKE) == [True, False] * 2)

    async def test_a_pulse_is_never_longer_than_granted(self, site: Site, clock: Clock) -> None:
        async with running(self.build(site, clock)) as run:
            chip = chip_of(site)
            for turn in range(1, 6):
                await run.driver.pulse(1, 150 * MS)  # type: ignore[attr-defined]
                await eventually(lambda: len(chip.levels(STRIKE)) == 2 * turn)  # noqa: B023
            at_ns = [each["at_ns"] for each in chip.seen if each.get("line") == STRIKE]
            lasted = [off - on for on, off in zip(at_ns[::2], at_ns[1::2], strict=True)]
            assert all(100e6 < each <= 150e6 for each in lasted)

    async def test_stopped_in_mid_pulse_it_releases_the_output(
        self, site: Site, clock: Clock
    ) -> None:
        async with running(self.build(site, clock)) as run:
            await run.driver.pulse(1, 60_000 * MS)  # type: ignore[attr-defined]
        await eventually(lambda: chip_of(site).levels(STRIKE) == [True, False])

    async def test_a_relay_that_a_low_level_energises_is_driven_low(
        self, site: Site, clock: Clock
    ) -> None:
        async with running(self.build(site, clock, outputs_active_low=True)) as run:
            await run.driver.pulse(1, 100 * MS)  # type: ignore[attr-defined]
            chip = chip_of(site)
            await eventually(lambda: chip.levels(STRIKE) == [True, False, True])

    async def test_an_output_that_is_not_there_is_refused(self, site: Site, clock: Clock) -> None:
        async with running(self.build(site, clock)) as run:
            for output in (0, 2):
                with pytest.raises(DeviceMisconfigured):
                    await run.driver.pulse(output, MS)  # type: ignore[attr-defined]
        with pytest.raises(DeviceUnavailable):
            await run.driver.pulse(1, MS)  # type: ignore[attr-defined]
