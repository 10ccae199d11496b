"""Battery locks on Bluetooth Low Energy, against an emulated BlueZ and a simulated lock."""

import asyncio
import hashlib
import hmac
import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.clock import Clock
from gateway.domain.facts import (
    BatteryReported,
    DeviceOffline,
    Fact,
    OutputReported,
    PowerChanged,
    TamperChanged,
)
from gateway.drivers import ble_lock
from gateway.drivers.ble_lock import (
    RELEASED,
    Answered,
    BleLockProtocol,
    Greeted,
    Operation,
    Reported,
)
from gateway.errors import DeviceMisconfigured, DeviceUnavailable
from hwsim.ble_lock import BatteryLock
from hwsim.bluez.site import LockDevice
from hwsim.site import Site
from tests.drivers.ble import FAULTS, RECOVERY_S_MAX, built, supervised
from tests.drivers.contract import CONFIG, DriverContract, Running, eventually, running
from tests.timing import allowed

SITE = CONFIG.with_name("ble.toml")
LOCK = "archive-lock"
SHORT = timedelta(milliseconds=150)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ble_lock, "HEARD_S_MAX", 1.5)


def the_lock(site: Site) -> BatteryLock:
    return cast("LockDevice", site.devices[LOCK]).lock


class TestContract(DriverContract):
    device: ClassVar[str] = LOCK

    async def prove(self, site: Site, run: Running) -> None:
        driver: Any = run.driver
        before = len(outputs(run.facts))
        await driver.pulse(1, SHORT)
        await run.until(lambda facts: len(outputs(facts)) == before + 2)
        assert outputs(run.facts)[-2:] == [True, False]


def outputs(facts: Sequence[Fact]) -> list[bool]:
    """What it said of its output after the first time."""
    return [fact.energised for fact in facts if isinstance(fact, OutputReported)][1:]


# --- The protocol ---------------------------------------------------------------------------------

KEY = bytes(range(32))
CONTEXT = b"door-gateway/ble-lock/v1\x00"


def tagged(direction: bytes, before: bytes, body: bytes, key: bytes = KEY) -> bytes:
    return body + hmac.new(key, CONTEXT + direction + before + body, hashlib.sha256).digest()[:16]


def hello(counter: int = 7, key: bytes = KEY) -> bytes:
    return tagged(b"h", b"", b"\x01\x01" + b"n" * 16 + counter.to_bytes(4, "big"), key)


def greeted(counter: int = 7) -> BleLockProtocol:
    protocol = BleLockProtocol("lock", KEY)
    assert protocol.receive(hello(counter)) == Greeted()
    return protocol


def answer(command: bytes, *, result: int = 0, operation: int | None = None) -> bytes:
    body = b"\x01\x03" + (command[2:3] if operation is None else bytes([operation]))
    body += command[3:7] + bytes([result, RELEASED, 80]) + (4_000).to_bytes(4, "big")
    return tagged(b"a", command[-16:], body)


def report(number: int) -> bytes:
    body = b"\x01\x04" + number.to_bytes(4, "big") + bytes([0, 80]) + bytes(4)
    return tagged(b"r", b"n" * 16, body)


def test_a_command_is_tagged_over_session_counter_and_time() -> None:
    counter, command = greeted().command(Operation.RELEASE, timedelta(seconds=5))
    assert counter == 8
    assert command[:11] == bytes.fromhex("01020100000008") + (5_000).to_bytes(4, "big")
    assert command == tagged(b"c", b"n" * 16, command[:-16])


def test_counters_rise_and_no_two_commands_are_alike() -> None:
    protocol = greeted()
    commands = [protocol.command(Operation.READ) for _ in range(5)]
    assert [counter for counter, _ in commands] == [8, 9, 10, 11, 12]
    assert len({command[11:19] for _, command in commands}) == 5


def test_an_answer_is_believed_once() -> None:
    protocol = greeted()
    _, command = protocol.command(Operation.RELEASE, timedelta(seconds=5))
    said = protocol.receive(answer(command))
    assert isinstance(said, Answered)
    assert (said.counter, said.result, said.state.battery) == (8, 0, 80)
    with pytest.raises(DeviceUnavailable):
        protocol.receive(answer(command))


def test_an_answer_recorded_from_the_same_counter_and_session_is_not_believed() -> None:
    # Somebody plays a whole recorded session back to a gateway that has restarted.
    _, recorded = greeted().command(Operation.READ)
    protocol = greeted()
    protocol.command(Operation.READ)
    with pytest.raises(DeviceUnavailable, match="not the lock's"):
        protocol.receive(answer(recorded))


def test_an_answer_to_another_operation_is_not_believed() -> None:
    protocol = greeted()
    _, command = protocol.command(Operation.READ)
    with pytest.raises(DeviceUnavailable):
        protocol.receive(answer(command, operation=Operation.RELEASE))


def test_a_lock_with_another_key_is_not_believed() -> None:
    with pytest.raises(DeviceUnavailable, match="wrong key"):
        BleLockProtocol("lock", KEY).receive(hello(key=bytes(32)))


def test_reports_must_rise() -> None:
    protocol = greeted()
    assert isinstance(protocol.receive(report(1)), Reported)
    assert isinstance(protocol.receive(report(3)), Reported)
    for number in (3, 2):
        with pytest.raises(DeviceUnavailable):
            protocol.receive(report(number))


def test_without_a_session_there_is_no_command_and_no_report() -> None:
    protocol = BleLockProtocol("lock", KEY)
    with pytest.raises(DeviceUnavailable, match="no session"):
        protocol.command(Operation.READ)
    with pytest.raises(DeviceUnavailable):
        protocol.receive(report(1))
    exhausted = greeted(0xFFFF_FFFF)
    with pytest.raises(DeviceUnavailable, match="no session"):
        exhausted.command(Operation.READ)


@given(st.binary(max_size=60))
@settings(max_examples=60)
def test_no_bytes_of_a_stranger_are_believed(data: bytes) -> None:
    protocol = greeted()
    protocol.command(Operation.READ)
    with pytest.raises(DeviceUnavailable):
        protocol.receive(data)


# --- The driver -----------------------------------------------------------------------------------


async def test_the_lock_times_its_own_release(site: Site, clock: Clock) -> None:
    lock = the_lock(site)
    async with running(built(site, LOCK, clock)) as run:
        await run.driver.pulse(1, timedelta(milliseconds=300))  # type: ignore[attr-defined]
        assert lock.released
        released = time.monotonic()
    # The driver is gone, with its worker; the lock locks all the same.
    assert lock.released
    await eventually(lambda: not lock.released)
    assert 0.15 < time.monotonic() - released < allowed(0.6)


async def test_it_can_be_locked_before_its_time(site: Site, clock: Clock) -> None:
    driver = built(site, LOCK, clock)
    async with running(driver):
        await driver.pulse(1, timedelta(seconds=30))
        await driver.rest(1)
        assert not the_lock(site).released


async def test_state_battery_and_tamper_are_told_when_they_change(site: Site, clock: Clock) -> None:
    lock = the_lock(site)
    async with running(built(site, LOCK, clock)) as run:
        await run.until(lambda facts: any(isinstance(fact, BatteryReported) for fact in facts))
        lock.battery, lock.tampered = 14, True
        lock.report()
        await run.until(lambda facts: PowerChanged(LOCK, True, facts[-1].at) in facts)
        said = [fact for fact in run.facts if isinstance(fact, BatteryReported)]
        assert [fact.percent for fact in said] == [90, 14]
        assert [fact.active for fact in run.facts if isinstance(fact, TamperChanged)] == [
            False,
            True,
        ]


async def test_a_jammed_lock_is_not_said_to_be_released(site: Site, clock: Clock) -> None:
    the_lock(site).jammed = True
    driver = built(site, LOCK, clock)
    async with running(driver):
        with pytest.raises(DeviceUnavailable, match="release: jammed"):
            await driver.pulse(1, SHORT)


async def test_a_pulse_that_no_lock_can_time_is_refused(site: Site, clock: Clock) -> None:
    driver = built(site, LOCK, clock)
    async with running(driver):
        with pytest.raises(DeviceUnavailable, match="longer than"):
            await driver.pulse(1, timedelta(seconds=61))


async def test_a_lock_that_does_not_answer_is_no_release(
    site: Site, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ble_lock, "CALL_S_MAX", 0.1)
    driver = built(site, LOCK, clock)
    async with running(driver):
        the_lock(site).deaf = True
        with pytest.raises(DeviceUnavailable, match="no answer to release"):
            await driver.pulse(1, SHORT)


async def test_a_lock_that_has_lost_its_voice_is_offline_after_the_next_look(
    site: Site, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ble_lock, "CALL_S_MAX", 0.1)
    monkeypatch.setattr(ble_lock, "READ_EVERY_S", 0.1)
    async with running(built(site, LOCK, clock)) as run:
        the_lock(site).deaf = True
        with pytest.raises(DeviceUnavailable, match="no answer to read"):
            await run.task


async def test_a_recorded_command_opens_nothing(site: Site, clock: Clock) -> None:
    lock = the_lock(site)
    driver = built(site, LOCK, clock)
    async with running(driver):
        await driver.pulse(1, SHORT)
        recorded = lock.commands[-1]
        await eventually(lambda: not lock.released)
        (link,) = site.bluetooth.bluez.out_links
        lock.written(link, ble_lock.COMMAND, recorded)  # in the same session
        assert lock.refused == ["result 1"]
        assert not lock.released


async def test_a_wrong_key_is_offline_with_its_reason(
    site: Site, clock: Clock, tmp_path: Path
) -> None:
    key = tmp_path / "wrong.key"
    key.touch(0o600)
    key.write_text("00" * 32)
    with pytest.raises(DeviceUnavailable, match="wrong key"):
        await built(site, LOCK, clock, key=str(key)).run(lambda _fact: None)


@pytest.mark.parametrize(
    ("content", "why"),
    [(None, "No such file"), ("00" * 31, "is not 64 hex"), ("zz", "is not 64 hex")],
)
async def test_a_key_that_cannot_be_one_is_the_installers(
    site: Site, clock: Clock, tmp_path: Path, content: str | None, why: str
) -> None:
    key = tmp_path / "bad.key"
    if content is not None:
        key.touch(0o600)
        key.write_text(content)
    with pytest.raises(DeviceMisconfigured, match=why):
        await built(site, LOCK, clock, key=str(key)).run(lambda _fact: None)


@pytest.mark.parametrize("mode", [0o604, 0o602, 0o620])
async def test_a_key_that_others_may_read_or_change_is_refused(
    site: Site, clock: Clock, tmp_path: Path, mode: int
) -> None:
    key = tmp_path / "lock.key"
    key.write_text("00" * 32)
    key.chmod(mode)
    with pytest.raises(DeviceMisconfigured, match=f"{key}: others may read or change it"):
        await built(site, LOCK, clock, key=str(key)).run(lambda _fact: None)


async def test_a_lock_that_is_not_there_is_told(
    site: Site, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ble_lock, "HEARD_S_MAX", 0.4)
    site.bluetooth.bluez.leave(the_lock(site))
    driver = built(site, LOCK, clock)
    with pytest.raises(DeviceUnavailable, match="is not heard"):
        await driver.run(lambda _fact: None)
    with pytest.raises(DeviceUnavailable, match="not connected"):
        await driver.pulse(1, SHORT)


async def test_a_lock_that_greets_nobody_is_told(
    site: Site, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ble_lock, "HELLO_S_MAX", 0.2)
    monkeypatch.setattr(BatteryLock, "subscribed", lambda _self, _link, _uuid: None)
    with pytest.raises(DeviceUnavailable, match="says nothing"):
        await built(site, LOCK, clock).run(lambda _fact: None)


@pytest.mark.parametrize("fault", ["bluetoothd is restarted", "the adapter comes back as hci1"])
async def test_after_a_fault_of_bluez_the_lock_is_back_within_15_s(
    site: Site, clock: Clock, fault: str
) -> None:
    befall, why = FAULTS[fault]
    driver = built(site, LOCK, clock)
    async with supervised(driver, clock) as run:
        began = time.monotonic()
        task = asyncio.create_task(befall(site.bluetooth))
        await run.until(lambda: run.whys, RECOVERY_S_MAX)
        assert why in run.whys[0] or "the lock is gone" in run.whys[0]
        await task
        await run.until(run.up, RECOVERY_S_MAX)
        assert time.monotonic() - began < allowed(RECOVERY_S_MAX)
        await driver.pulse(1, SHORT)
        assert any(isinstance(fact, DeviceOffline) for fact in run.facts)
