"""The ASCII keypad's driver."""

import asyncio
import os
import random
import select
import time
import tomllib
import tty
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import ClassVar

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.clock import Clock
from gateway.domain.facts import CredentialPresented
from gateway.drivers.ascii_keypad import AsciiKeypad, AsciiKeypadSettings
from gateway.drivers.base import Signal
from gateway.drivers.pin_entry import PinEntry
from gateway.errors import DeviceUnavailable
from hwsim.observations import KeysSent, Lamp
from hwsim.site import Site
from tests.drivers.contract import DriverContract, Running, any_split, eventually, running
from tests.timing import allowed

GOLDEN = tomllib.loads((Path(__file__).parents[1] / "golden" / "ascii_keypad.toml").read_text())
SECOND = timedelta(seconds=1)
PINS = st.text("0123456789", min_size=4, max_size=8)
NOT_KEYS = bytes(sorted(set(range(256)) - set(b"0123456789*#")))


def keypad() -> PinEntry:
    return PinEntry("keypad", 5 * SECOND)


def pins(protocol: PinEntry, data: bytes, now: timedelta = SECOND) -> list[str]:
    return [fact.value for fact in protocol.receive(data, now)]


@pytest.mark.parametrize("entry", GOLDEN["entry"], ids=lambda entry: entry["source"])
def test_golden_bytes_are_these_pins(entry: dict[str, object]) -> None:
    assert pins(keypad(), bytes.fromhex(str(entry["hex"]))) == entry["pins"]


@given(st.lists(PINS), st.lists(st.integers(0, 1000)))
def test_pins_come_out_as_they_were_typed_however_the_bytes_are_split(
    typed: list[str], cuts: list[int]
) -> None:
    protocol = keypad()
    data = "".join(f"{pin}#" for pin in typed).encode()
    assert [pin for piece in any_split(data, cuts) for pin in pins(protocol, piece)] == typed
    assert not protocol.pending


def test_a_pin_has_the_time_of_its_enter_key() -> None:
    protocol = keypad()
    protocol.receive(b"123", SECOND)
    protocol.receive(b"4", 2 * SECOND)
    assert protocol.receive(b"#", 3 * SECOND) == [
        CredentialPresented("keypad", "pin", "1234", 3 * SECOND)
    ]


@pytest.mark.parametrize("entry", [b"#", b"1#", b"123#", b"123456789#", b"1234567890123456#"])
def test_entries_that_are_too_short_or_too_long_are_no_pins(entry: bytes) -> None:
    protocol = keypad()
    assert pins(protocol, entry) == []
    assert pins(protocol, b"1234#") == ["1234"]


def test_digits_after_an_overflow_are_no_new_entry() -> None:
    assert pins(keypad(), b"123456789" + b"5678#") == []


def test_clear_forgets_the_digits_before_it() -> None:
    assert pins(keypad(), b"99*1234#") == ["1234"]
    assert pins(keypad(), b"123456789*1234#") == ["1234"]


def test_a_slow_finger_begins_a_new_entry() -> None:
    protocol = keypad()
    protocol.receive(b"99", SECOND)
    assert pins(protocol, b"1234#", 6 * SECOND) == ["1234"]


def test_an_entry_that_is_left_is_out_of_memory_after_the_timeout() -> None:
    protocol = keypad()
    protocol.receive(b"1234", SECOND)
    protocol.expire(6 * SECOND - timedelta.resolution)
    assert protocol.pending
    protocol.expire(6 * SECOND)
    assert pins(protocol, b"#", 6 * SECOND) == []


@given(PINS, st.integers(0, 8), st.sampled_from(NOT_KEYS))
def test_an_entry_with_a_foreign_byte_in_it_is_thrown_away(pin: str, at: int, foreign: int) -> None:
    typed = pin.encode()
    protocol = keypad()
    assert pins(protocol, typed[:at] + bytes([foreign]) + typed[at:] + b"#") == []
    assert pins(protocol, b"1234#") == ["1234"]


def test_ten_percent_noise_makes_no_wrong_pin() -> None:
    rng = random.Random(1)
    protocol = keypad()
    typed, read = 0, 0
    for _ in range(20_000):
        pin = str(rng.randrange(10_000, 10**8))
        noisy = bytearray(b"*")
        for byte in f"{pin}#".encode():
            if rng.random() < 0.1:
                noisy.append(rng.choice(NOT_KEYS))
                if rng.random() < 0.5:
                    continue
            noisy.append(byte)
        got = pins(protocol, bytes(noisy))
        assert got in ([], [pin])
        typed, read = typed + 1, read + len(got)
    assert 0.3 < read / typed < 0.9


def test_random_bytes_keep_the_rules_and_the_memory_small() -> None:
    rng = random.Random(2)
    protocol = keypad()
    noise = rng.randbytes(200_000)
    facts = protocol.receive(noise, SECOND)
    # Only what is between two ends of entries, and nothing but digits, may be a PIN.
    entries = noise.replace(b"*", b"#").split(b"#")[:-1]
    assert len(facts) <= sum(4 <= len(each) <= 8 and each.isdigit() for each in entries)
    assert pins(protocol, b"*" + NOT_KEYS * 1000 + b"#") == []


def test_a_pin_is_in_no_repr() -> None:
    (fact,) = keypad().receive(b"87654321#", SECOND)
    assert "87654321" not in repr(fact)


@pytest.mark.parametrize(
    "wrong",
    [
        {"port": "/dev/tty;reboot"},
        {"port": "ttyUSB0"},
        {"port": "/dev/ttyUSB0", "baud_rate": 9601},
        {"port": "/dev/ttyUSB0", "inter_digit_timeout_s": 0.1},
        {"port": "/dev/ttyUSB0", "parity": "even"},
    ],
)
def test_impossible_settings_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(wrong, AsciiKeypadSettings)


class TestAnAsciiKeypad(DriverContract):
    device: ClassVar[str] = "street-keypad"

    async def prove(self, site: Site, run: Running) -> None:
        before = len(run.values)
        await site.press(self.device, "2468#", gap=0.001)
        await run.until(lambda _facts: len(run.values) > before)
        assert run.values[before:] == ["2468"]

    async def test_a_pin_is_told_within_moments_of_its_enter_key(
        self, site: Site, clock: Clock
    ) -> None:
        async with running(self.build(site, clock)) as run:
            await self.prove(site, run)
            sent_ns = site.seen.of(KeysSent)[-1].at_ns
            assert run.told_ns[-1] - sent_ns < 50_000_000

    @pytest.mark.parametrize("signal", list(Signal))
    async def test_it_shows_each_signal(self, site: Site, clock: Clock, signal: Signal) -> None:
        async with running(self.build(site, clock)) as run:
            await run.driver.indicate(signal)  # type: ignore[attr-defined]
            shown = self.device, signal.value
            await eventually(
                lambda: shown in [(seen.device, seen.signal) for seen in site.seen.of(Lamp)]
            )

    @pytest.mark.parametrize("keys", ["24#", "2468246824#", "24682468246#"])
    async def test_an_entry_that_can_be_no_pin_is_denied_and_the_next_is_read(
        self, site: Site, clock: Clock, keys: str
    ) -> None:
        async with running(self.build(site, clock)) as run:
            await site.press(self.device, keys, gap=0.001)
            await eventually(lambda: [lamp.signal for lamp in site.seen.of(Lamp)] == ["denied"])
            await self.prove(site, run)
            assert [lamp.signal for lamp in site.seen.of(Lamp)] == ["denied"]

    async def test_an_entry_spoilt_by_noise_is_denied_once(self, site: Site, clock: Clock) -> None:
        async with running(self.build(site, clock)) as run:
            await site.press(self.device, "24", gap=0.001)
            site.devices[self.device].send(b"\x80\xff")  # type: ignore[union-attr]
            await site.press(self.device, "68#", gap=0.001)
            await eventually(lambda: [lamp.signal for lamp in site.seen.of(Lamp)] == ["denied"])
            assert run.values == []

    async def test_enter_and_clear_alone_are_no_entry(self, site: Site, clock: Clock) -> None:
        async with running(self.build(site, clock)) as run:
            await site.press(self.device, "#*#12*#", gap=0.001)
            await self.prove(site, run)
            assert site.seen.of(Lamp) == []

    async def test_a_stray_digit_before_the_pin_is_asked_for_does_not_spoil_it(
        self, site: Site, clock: Clock
    ) -> None:
        async with running(self.build(site, clock)) as run:
            await site.press(self.device, "7")
            await asyncio.sleep(0.05)
            await run.driver.indicate(Signal.PIN_WANTED)  # type: ignore[attr-defined]
            await self.prove(site, run)

    async def test_another_signal_leaves_a_begun_entry_alone(
        self, site: Site, clock: Clock
    ) -> None:
        async with running(self.build(site, clock)) as run:
            await site.press(self.device, "24", gap=0.001)
            await asyncio.sleep(0.05)
            await run.driver.indicate(Signal.HELD_OPEN)  # type: ignore[attr-defined]
            await site.press(self.device, "68#", gap=0.001)
            await run.until(lambda _facts: bool(run.values))
            assert run.values == ["2468"]

    async def test_without_its_line_a_signal_is_an_error(self, site: Site, clock: Clock) -> None:
        driver = self.build(site, clock)
        with pytest.raises(DeviceUnavailable):
            await driver.indicate(Signal.GRANTED)
        async with running(driver):
            pass
        with pytest.raises(DeviceUnavailable):
            await driver.indicate(Signal.GRANTED)

    async def test_bytes_of_before_it_was_online_are_no_pin(self, site: Site, clock: Clock) -> None:
        async with running(self.build(site, clock)) as run:
            await site.press(self.device, "12", gap=0.001)
            await asyncio.sleep(0.05)
            await run.stop()
        async with running(self.build(site, clock)) as run:
            await site.press(self.device, "34#", gap=0.001)
            await self.prove(site, run)

    async def test_a_port_that_is_in_use_is_unavailable(self, site: Site, clock: Clock) -> None:
        async with running(self.build(site, clock)):
            with pytest.raises(DeviceUnavailable):
                await self.build(site, clock).run(lambda _fact: None)


async def test_a_line_that_takes_no_byte_is_given_up_and_the_loop_goes_on(clock: Clock) -> None:
    master, slave = os.openpty()
    tty.setraw(slave)
    try:
        driver = AsciiKeypad("keypad", AsciiKeypadSettings(port=os.ttyname(slave)), clock)
        async with running(driver):
            os.set_blocking(slave, False)
            # The kernel moves what was written on by and by: full is what stays full.
            while select.select([], [slave], [], 0.2)[1]:
                with suppress(BlockingIOError):
                    os.write(slave, bytes(4096))
            started = time.monotonic()
            with pytest.raises(DeviceUnavailable, match="takes no byte"):
                await driver.indicate(Signal.GRANTED)
            assert 0.4 < time.monotonic() - started < allowed(2.0)
    finally:
        os.close(slave)
        os.close(master)
