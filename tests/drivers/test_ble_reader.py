"""Phones that connect to a door with PKOC, against an emulated BlueZ."""

import asyncio
import os
import signal
import time
import tomllib
from collections.abc import Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.clock import Clock
from gateway.config.site import check
from gateway.domain.facts import CredentialPresented, CredentialRefused, Fact
from gateway.domain.signal import Signal
from gateway.drivers import REGISTRY, ble_sessions
from gateway.drivers.ble_link import (
    Alive,
    BleLines,
    Connected,
    Ended,
    Gone,
    Heard,
    Online,
    Received,
)
from gateway.drivers.ble_reader import BleReaderSettings
from gateway.errors import ConfigError, DeviceMisconfigured, DeviceUnavailable
from hwsim.bluez.site import address_named, key_named
from hwsim.phones import PkocPhone, Tricks
from hwsim.site import Site
from tests.drivers.ble import (
    FAULTS,
    RECOVERY_S_MAX,
    Supervised,
    built,
    credentials,
    open_files,
    resident_kib,
    supervised,
)
from tests.drivers.contract import (
    CONFIG,
    DriverContract,
    Running,
    any_split,
    children,
    eventually,
    running,
)
from tests.timing import allowed

SITE = CONFIG.with_name("ble.toml")
READER = "street-phones"
OTHER_DOOR = "7f3a2c52-0c61-4d0b-a52d-1c4b5d1f0a12"


class TestContract(DriverContract):
    device: ClassVar[str] = READER

    async def prove(self, site: Site, run: Running) -> None:
        before = len(run.values)
        driver: Any = run.driver
        tap = asyncio.create_task(site.tap_phone(READER, "alice"))
        await run.until(lambda _facts: len(run.values) > before)
        await driver.indicate(Signal.GRANTED)
        assert await tap == "granted"
        assert run.values[-1] == await site.phone_key("alice")
        assert isinstance(run.facts[-1], CredentialPresented)
        assert run.facts[-1].kind == "pkoc"
        assert run.facts[-1].began is not None
        assert run.facts[-1].began < run.facts[-1].at


async def tap(site: Site, run: Supervised, driver: Any, name: str = "alice") -> str:
    """A tap that the door answers as soon as it hears of it."""
    before = len(credentials(run.facts))
    tapping = asyncio.create_task(site.tap_phone(READER, name))
    told = asyncio.create_task(run.until(lambda: len(credentials(run.facts)) > before, 5))
    await asyncio.wait({tapping, told}, return_when=asyncio.FIRST_COMPLETED)
    if told.done():
        await driver.indicate(Signal.GRANTED)
    told.cancel()
    return await tapping


def more(run: Running, than: int, _facts: Sequence[Fact]) -> bool:
    return len(run.values) > than


@pytest.mark.parametrize("fault", FAULTS)
async def test_after_a_fault_of_bluez_phones_open_again_within_15_s(
    site: Site, clock: Clock, fault: str
) -> None:
    befall, why = FAULTS[fault]
    driver = built(site, READER, clock)
    async with supervised(driver, clock) as run:
        began = time.monotonic()
        task = asyncio.create_task(befall(site.bluetooth))
        await run.until(lambda: run.whys, RECOVERY_S_MAX)
        assert why in run.whys[0]
        await task
        await run.until(run.up, RECOVERY_S_MAX)
        assert time.monotonic() - began < allowed(RECOVERY_S_MAX)
        assert await tap(site, run, driver) == "granted"


async def test_a_missing_adapter_is_told_with_those_that_are_there(
    site: Site, clock: Clock
) -> None:
    driver = built(site, READER, clock, adapter="00:00:00:00:00:01")
    with pytest.raises(DeviceUnavailable, match="00:00:00:00:00:01 is not there; there are: B8:27"):
        await driver.run(lambda _fact: None)


async def test_without_a_bus_it_says_so(site: Site, clock: Clock, tmp_path: Path) -> None:
    driver = built(site, READER, clock, bus=str(tmp_path / "nowhere"))
    with pytest.raises(DeviceUnavailable, match="no D-Bus"):
        await driver.run(lambda _fact: None)


async def test_a_worker_that_hangs_is_killed_and_started_again(site: Site, clock: Clock) -> None:
    driver = built(site, READER, clock)
    before = children()
    async with supervised(driver, clock) as run:
        (worker,) = children() - before
        os.kill(worker, signal.SIGSTOP)
        stalled_s = 0.0
        while not run.whys:  # all the while, the doors' own loop runs on
            began = time.monotonic()
            await asyncio.sleep(0.01)
            stalled_s = max(stalled_s, time.monotonic() - began)
        assert stalled_s < allowed(0.15)
        assert "silent" in run.whys[0]
        await run.until(run.up, 5)


async def test_every_signal_has_its_answer(site: Site, clock: Clock) -> None:
    driver = built(site, READER, clock)
    async with running(driver) as run:
        for signal_, told in (
            (Signal.DENIED, "denied"),
            (Signal.FAULT, "denied"),
            (Signal.PIN_WANTED, "completed"),
        ):
            before = len(run.values)
            tapping = asyncio.create_task(site.tap_phone(READER, "alice"))
            await run.until(partial(more, run, before))
            await driver.indicate(Signal.HELD_OPEN)
            await driver.indicate(signal_)
            assert await tapping == told


async def test_a_wrong_signature_is_told_to_the_phone_and_to_nobody_else(
    site: Site, clock: Clock
) -> None:
    device = site._ble(READER)
    async with running(built(site, READER, clock)) as run:
        phone = PkocPhone(site.bluetooth.bluez, address_named("mallory"), key=key_named("alice"))
        tricks = Tricks(sign_with=key_named("mallory"))
        for _ in range(3):
            assert await phone.tap(device.adapter, tricks=tricks) == "signature_invalid"
        assert await phone.tap(device.adapter) == "hung_up"  # shut out
        assert run.values == []
        refused = [fact for fact in run.facts if isinstance(fact, CredentialRefused)]
        assert [(fact.kind, fact.why) for fact in refused] == [("pkoc", "signature_invalid")] * 3


async def test_a_replayed_proof_opens_nothing(site: Site, clock: Clock) -> None:
    device = site._ble(READER)
    driver = built(site, READER, clock)
    async with supervised(driver, clock) as run:
        assert await tap(site, run, driver) == "granted"
        phone = PkocPhone(site.bluetooth.bluez, address_named("alice"), key=key_named("alice"))
        honest = asyncio.create_task(phone.tap(device.adapter))
        await run.until(lambda: len(credentials(run.facts)) == 2, 5)
        await driver.indicate(Signal.GRANTED)
        await honest
        eve = PkocPhone(site.bluetooth.bluez, address_named("eve"))
        told = await eve.tap(device.adapter, tricks=Tricks(proof=phone.said[-1]))
        assert told == "signature_invalid"
        assert len(credentials(run.facts)) == 2


async def test_a_phone_that_says_nothing_is_hung_up_on_after_the_nonces_time(
    site: Site, clock: Clock
) -> None:
    device = site._ble(READER)
    async with running(built(site, READER, clock)):
        phone = PkocPhone(site.bluetooth.bluez, address_named("alice"))
        began = time.monotonic()
        told = await phone.tap(device.adapter, tricks=Tricks(stop_after_hello=True))
        assert told == "hung_up"
        assert 4.9 < time.monotonic() - began < allowed(6.5)
        assert not site.bluetooth.bluez.in_links


async def test_a_refused_phone_takes_no_others_answer(site: Site, clock: Clock) -> None:
    device = site._ble(READER)
    driver = built(site, READER, clock)
    async with running(driver) as run:
        mallory = PkocPhone(site.bluetooth.bluez, address_named("mallory"))
        tricks = Tricks(sign_with=key_named("mallory"))
        assert await mallory.tap(device.adapter, tricks=tricks) == "signature_invalid"
        tapping = asyncio.create_task(site.tap_phone(READER, "alice"))
        await run.until(lambda _facts: run.values)
        await driver.indicate(Signal.DENIED)  # the door's word on mallory, who has left
        await driver.indicate(Signal.GRANTED)
        assert await tapping == "granted"


async def test_two_phones_at_once_are_each_told_their_own(site: Site, clock: Clock) -> None:
    driver = built(site, READER, clock)
    async with running(driver) as run:
        taps = [asyncio.create_task(site.tap_phone(READER, name)) for name in ("alice", "bob")]
        await run.until(lambda _facts: len(run.values) == 2)
        keys = {await site.phone_key(name): i for i, name in enumerate(("alice", "bob"))}
        for signal_ in (Signal.GRANTED, Signal.DENIED):
            await driver.indicate(signal_)
        told = [await each for each in taps]
        first = keys[run.values[0]]
        assert (told[first], told[1 - first]) == ("granted", "denied")


async def test_more_phones_than_have_room_are_hung_up_on(site: Site, clock: Clock) -> None:
    device = site._ble(READER)
    async with running(built(site, READER, clock)):
        phones = [PkocPhone(site.bluetooth.bluez, address_named(f"p{n}")) for n in range(5)]
        silent = Tricks(stop_after_hello=True)
        taps = [
            asyncio.create_task(phone.tap(device.adapter, tricks=silent)) for phone in phones[:4]
        ]
        await eventually(lambda: all(phone.reader for phone in phones[:4]))
        assert await phones[4].tap(device.adapter) == "hung_up"
        for each in taps:
            each.cancel()
        await asyncio.wait(taps)


async def test_ecdhe_opens_and_names_this_reader(site: Site, clock: Clock, tmp_path: Path) -> None:
    pem = tmp_path / "site.pem"
    site_key = key_named("site")
    pem.touch(0o600)
    pem.write_bytes(site_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    driver = built(site, READER, clock, flows="ecdhe", site_key=str(pem))
    device = site._ble(READER)
    async with running(driver) as run:
        phone = PkocPhone(
            site.bluetooth.bluez,
            address_named("alice"),
            key=key_named("alice"),
            site_public=site_key.public_key(),
        )
        tapping = asyncio.create_task(phone.tap(device.adapter))
        await run.until(lambda _facts: run.values)
        await driver.indicate(Signal.GRANTED)
        assert await tapping == "granted"
        assert phone.reader.hex() == device.table["reader_identifier"].replace("-", "")
        wrong = Tricks(sign_for_reader=bytes(16))
        assert await phone.tap(device.adapter, tricks=wrong) == "signature_invalid"
        assert await site.tap_phone(READER, "alice") == "invalid_security_status"


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (None, "No such file"),
        (b"nonsense", "is no private key in PEM"),
        (
            ec.generate_private_key(ec.SECP384R1()).private_bytes(
                Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
            ),
            "is no P-256 key",
        ),
    ],
)
async def test_a_site_key_that_cannot_be_used_is_the_installers(
    site: Site, clock: Clock, tmp_path: Path, content: bytes | None, why: str
) -> None:
    if content is not None:
        (tmp_path / "key").touch(0o600)
        (tmp_path / "key").write_bytes(content)
    driver = built(site, READER, clock, site_key=str(tmp_path / "key"))
    with pytest.raises(DeviceMisconfigured, match=why):
        await driver.run(lambda _fact: None)


@pytest.mark.parametrize("mode", [0o604, 0o602, 0o620])
async def test_a_site_key_that_others_may_read_or_change_is_refused(
    site: Site, clock: Clock, tmp_path: Path, mode: int
) -> None:
    key = tmp_path / "key"
    key.write_bytes(
        key_named("site").private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )
    key.chmod(mode)
    driver = built(site, READER, clock, site_key=str(key))
    with pytest.raises(DeviceMisconfigured, match=f"{key}: others may read or change it"):
        await driver.run(lambda _fact: None)


async def test_two_doors_on_one_adapter_are_told_apart_by_their_services(
    site: Site, clock: Clock
) -> None:
    table = site._ble(READER).table
    other = {**table, "reader_identifier": "7f3a2c52-0c61-4d0b-a52d-1c4b5d1f0a12"}
    identifiers = [table["reader_identifier"], other["reader_identifier"]]
    adapter = site._ble(READER).adapter
    drivers = [
        built(site, READER, clock, shared_adapter=True, reader_identifier=each)
        for each in identifiers
    ]
    async with running(drivers[0]) as first, running(drivers[1]) as second:
        assert site.bluetooth.bluez.heard(adapter) == set(identifiers)
        phone = PkocPhone(site.bluetooth.bluez, address_named("alice"))
        with pytest.raises(ConnectionError, match="no service"):
            await phone.tap(adapter)  # a phone that knows only FFF0 finds no door
        tapping = asyncio.create_task(phone.tap(adapter, identifiers[1]))
        await second.until(lambda _facts: second.values)
        await drivers[1].indicate(Signal.GRANTED)
        assert await tapping == "granted"
        assert first.values == []


async def test_a_thousand_connects_leave_nothing_behind(
    site: Site, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ble_sessions, "ATTEMPTS_MAX", 2_000)
    driver = built(site, READER, clock)
    before = children()
    async with supervised(driver, clock) as run:
        (worker,) = children() - before
        assert await tap(site, run, driver) == "granted"
        files, resident = open_files(worker), resident_kib(worker)
        for n in range(1_000):
            assert await tap(site, run, driver, f"phone {n}") == "granted"
        await eventually(lambda: open_files(worker) <= files)
        assert resident_kib(worker) - resident < 4_096
        assert run.up()
        assert not run.whys
        await eventually(lambda: not driver._phones)


def test_settings_without_a_key_for_ecdhe_are_refused() -> None:
    table = tomllib.loads(SITE.read_text())["devices"][READER]
    table = {**table, "flows": "ecdhe"}
    del table["driver"]
    with pytest.raises(msgspec.ValidationError, match="site_key"):
        msgspec.convert(table, BleReaderSettings)


@given(st.binary(max_size=200), st.lists(st.integers(0, 200), max_size=4))
@settings(max_examples=60)
def test_the_workers_lines_are_read_in_any_split_and_junk_is_an_error(
    junk: bytes, cuts: list[int]
) -> None:
    said = b"O 1000\nH\nS C00000000001 2000\nR C00000000001 00ff 3000\n"
    said += b"A C00000000001 -60 0102 4000\nG C00000000001 left\nE gone\n"
    lines = BleLines("x")
    heard = [each for piece in any_split(said, cuts) for each in lines.receive(piece)]
    assert heard == [
        Online(timedelta(microseconds=1)),
        Alive(),
        Connected("C00000000001", timedelta(microseconds=2)),
        Received("C00000000001", b"\x00\xff", timedelta(microseconds=3)),
        Heard("C00000000001", -60, b"\x01\x02", timedelta(microseconds=4)),
        Gone("C00000000001", "left"),
        Ended("gone"),
    ]
    with pytest.raises(DeviceUnavailable, match="means nothing"):
        BleLines("x").receive(b"?" + junk + b"\n")
    with pytest.raises(DeviceUnavailable, match="means nothing"):
        BleLines("x").receive(b"R" * 3_000)


@pytest.mark.parametrize(
    ("first", "second", "faults"),
    [
        ({}, {"reader_identifier": OTHER_DOOR}, ["devices.second"]),
        ({}, {"reader_identifier": OTHER_DOOR, "shared_adapter": True}, ["shared_adapter"]),
        (
            {"shared_adapter": True},
            {"reader_identifier": OTHER_DOOR, "shared_adapter": True},
            [],
        ),
        ({"shared_adapter": True}, {"shared_adapter": True}, ["devices.second"]),
        ({}, {"adapter": "00:1A:7D:DA:71:02"}, []),
    ],
)
def test_doors_that_phones_could_mistake_for_each_other_are_refused_by_the_config(
    first: dict[str, object], second: dict[str, object], faults: list[str]
) -> None:
    raw = tomllib.loads(SITE.read_text())
    table = raw["devices"][READER]
    raw["devices"][READER] = {**table, **first}
    raw["devices"]["second"] = {**table, **second}
    raw["doors"]["yard"]["readers"].append({"device": "second", "side": "out"})
    try:
        check(raw, REGISTRY, "site.toml")
        told = []
    except ConfigError as error:
        told = [fault.where for fault in error.faults]
    assert len(told) == len(faults)
    assert all(part in where for part, where in zip(faults, told, strict=True))
