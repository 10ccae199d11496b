"""Phones and fobs that the gateway looks for and challenges, against an emulated BlueZ."""

import asyncio
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from hashlib import sha256
from typing import Any, ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.clock import Clock
from gateway.domain.facts import CredentialPresented, CredentialRefused
from gateway.domain.signal import Signal
from gateway.drivers import ble_scanner, ble_sessions
from gateway.drivers.ble_proof import (
    CONTEXT,
    NONCE_AGE_MAX,
    PROOF_BYTES,
    Advert,
    Believed,
    Challenge,
    Disbelieved,
    advert,
)
from gateway.drivers.ble_scanner import SAMPLE_AGE_MAX, Nearness
from hwsim.bluez.radio import RSSI_AT_1_M, Walk, rssi
from hwsim.bluez.site import address_named, key_named
from hwsim.phones import Fob, raw_signature, uncompressed
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
SCANNER = "yard-fobs"


class TestContract(DriverContract):
    device: ClassVar[str] = SCANNER

    async def prove(self, site: Site, run: Running) -> None:
        before = len(run.values)
        driver: Any = run.driver
        pressed = asyncio.create_task(site.press_fob(SCANNER, "alice"))
        await run.until(lambda _facts: len(run.values) > before)
        await driver.indicate(Signal.GRANTED)
        assert await pressed == "granted"
        assert run.values[-1] == await site.phone_key("alice")
        assert isinstance(run.facts[-1], CredentialPresented)
        assert run.facts[-1].kind == "pkoc"
        assert run.facts[-1].began is not None
        assert run.facts[-1].began < run.facts[-1].at


# --- The proof ------------------------------------------------------------------------------------

GATEWAY, DOOR, OTHER, NONCE = bytes(16), b"d" * 16, b"o" * 16, b"n" * 32
ALICE = key_named("alice")
START = timedelta(seconds=100)
SOON = START + timedelta(seconds=1)


def challenge() -> Challenge:
    return Challenge(GATEWAY, DOOR, START, NONCE)


def proof(
    *,
    gateway: bytes = GATEWAY,
    door: bytes = DOOR,
    nonce: bytes = NONCE,
    flags: int = 1,
    key: Any = ALICE,
    grant: bytes = b"",
) -> bytes:
    claimed = bytes([2 if grant else 1, flags]) + uncompressed(ALICE)
    digest = sha256(grant).digest() if grant else b""
    signature = raw_signature(key, CONTEXT + gateway + door + nonce + claimed + digest)
    return claimed + signature + (len(grant).to_bytes(2, "big") + grant if grant else b"")


GRANT = b"a grant's message, of any bytes"


def test_the_challenge_names_gateway_door_and_nonce() -> None:
    assert challenge().message() == b"\x01\x01" + GATEWAY + DOOR + NONCE
    assert len({Challenge(GATEWAY, DOOR, START).message() for _ in range(20)}) == 20


@given(st.lists(st.integers(0, PROOF_BYTES), max_size=6))
@settings(max_examples=20)
def test_a_proof_is_believed_in_any_pieces(cuts: list[int]) -> None:
    asked = challenge()
    outcomes = [asked.receive(piece, SOON) for piece in any_split(proof(), cuts) if piece]
    assert outcomes == [None] * (len(outcomes) - 1) + [Believed(uncompressed(ALICE))]


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (proof(door=OTHER), "signature_invalid"),
        (proof(gateway=OTHER), "signature_invalid"),
        (proof(nonce=b"m" * 32), "signature_invalid"),
        (proof(key=key_named("mallory")), "signature_invalid"),
        (proof()[:2] + b"\x04" + bytes(64) + proof()[67:], "signature_invalid"),
        (proof(flags=0), "no_intent"),
        (proof(flags=0)[:1] + b"\x01" + proof(flags=0)[2:], "signature_invalid"),
        (b"\x03" + proof()[1:], "malformed"),
        (proof() + b"\x00", "malformed"),
        (proof(grant=GRANT)[:-1] + b"?", "signature_invalid"),
        (proof(grant=GRANT, door=OTHER), "signature_invalid"),
        (proof(grant=GRANT) + b"\x00", "malformed"),
        (b"\x02" + proof()[1:] + bytes(2), "malformed"),
        (b"\x02" + proof()[1:] + b"\x04\x01", "malformed"),
        (b"\x02" + proof()[1:] + b"\x00\x01!", "signature_invalid"),
        (b"\x01" + proof(grant=GRANT)[1:PROOF_BYTES], "signature_invalid"),
    ],
)
def test_a_proof_for_anything_else_is_not_believed(said: bytes, why: str) -> None:
    assert challenge().receive(said, SOON) == Disbelieved(why)


@given(st.lists(st.integers(0, PROOF_BYTES + 40), max_size=6))
@settings(max_examples=20)
def test_a_grant_comes_with_its_proof_in_any_pieces(cuts: list[int]) -> None:
    asked = challenge()
    pieces = any_split(proof(grant=GRANT), cuts)
    outcomes = [asked.receive(piece, SOON) for piece in pieces if piece]
    assert outcomes == [None] * (len(outcomes) - 1) + [Believed(uncompressed(ALICE), GRANT)]
    assert repr(outcomes[-1]) == "Believed()"


def test_a_proof_that_comes_too_late_is_not_believed() -> None:
    late = START + NONCE_AGE_MAX + timedelta(microseconds=1)
    assert challenge().receive(proof(), late) == Disbelieved("nonce_too_old")


def test_a_nonce_is_spent_by_the_first_proof() -> None:
    asked = challenge()
    assert asked.receive(proof(), SOON) == Believed(uncompressed(ALICE))
    assert asked.receive(proof(), SOON) == Disbelieved("nonce_spent")


@given(st.lists(st.binary(max_size=150), max_size=3))
@settings(max_examples=40)
def test_no_bytes_of_a_stranger_are_believed_or_break_it(pieces: list[bytes]) -> None:
    asked = challenge()
    assert not any(isinstance(asked.receive(piece, SOON), Believed) for piece in pieces)


def test_an_advertisement_of_another_form_says_nothing() -> None:
    assert advert(bytes.fromhex("01010701020304")) == Advert(
        intent=True, press=7, door=b"\x01\x02\x03\x04"
    )
    for data in (b"", bytes(6), bytes(8), bytes.fromhex("02010701020304")):
        assert advert(data) is None


# --- Nearness -------------------------------------------------------------------------------------


def test_one_strong_echo_is_not_near() -> None:
    near = Nearness()
    assert near.heard(-40, START) is None
    for _ in range(4):
        near.heard(-90, START)
    assert near.heard(-40, START) == -90


def test_what_was_heard_too_long_ago_does_not_count() -> None:
    near = Nearness()
    near.heard(-40, START)
    assert near.heard(-40, START + SAMPLE_AGE_MAX + timedelta(microseconds=1)) is None


def test_half_a_metre_is_near_and_eight_are_far_for_nearly_everybody() -> None:
    rng = random.Random(1)

    def share_near(metres: float) -> float:
        count = 0
        for _ in range(500):
            near = Nearness()
            strengths = [rssi(metres, rng) or -99 for _ in range(5)]
            count += max(near.heard(each, START) or -99 for each in strengths) >= -70
        return count / 500

    assert share_near(0.5) > 0.99
    assert share_near(8.0) < 0.05
    assert rssi(1000, rng) is None
    assert RSSI_AT_1_M > -70


# --- The driver -----------------------------------------------------------------------------------


@asynccontextmanager
async def fob_at(site: Site, name: str = "alice", **options: Any) -> AsyncIterator[Fob]:
    table = site._ble(SCANNER).table
    options.setdefault("walk", Walk(((0.5, 0.0),)))
    options.setdefault("interval_s", 0.02)
    fob = Fob(address_named(name), table["service"], key=key_named(name), **options)
    site.bluetooth.bluez.join(fob)
    try:
        yield fob
    finally:
        site.bluetooth.bluez.leave(fob)


async def answered(driver: Any, run: Supervised, fob: Fob, within_s: float = 10) -> str:
    before = len(credentials(run.facts))
    fob.press()
    await run.until(lambda: len(credentials(run.facts)) > before, within_s)
    await driver.indicate(Signal.GRANTED)
    async with asyncio.timeout(5):
        return await fob.results.get()


@pytest.mark.parametrize("fault", [name for name in FAULTS if "hangs" not in name])
async def test_after_a_fault_of_bluez_fobs_open_again_within_15_s(
    site: Site, clock: Clock, fault: str
) -> None:
    befall, why = FAULTS[fault]
    driver = built(site, SCANNER, clock, any_door=True)
    async with supervised(driver, clock) as run, fob_at(site) as fob:
        began = time.monotonic()
        task = asyncio.create_task(befall(site.bluetooth))
        await run.until(lambda: run.whys, RECOVERY_S_MAX)
        assert why in run.whys[0] or "scan:" in run.whys[0]
        await task
        assert await answered(driver, run, fob, RECOVERY_S_MAX) == "granted"
        assert time.monotonic() - began < allowed(RECOVERY_S_MAX)


async def test_a_scan_that_has_fallen_silent_without_a_word_is_begun_anew_within_15_s(
    site: Site, clock: Clock
) -> None:
    driver = built(site, SCANNER, clock, any_door=True)
    async with supervised(driver, clock) as run, fob_at(site) as fob:
        assert await answered(driver, run, fob) == "granted"
        began = time.monotonic()
        site.bluetooth.bluez.deaf = True
        assert await answered(driver, run, fob, RECOVERY_S_MAX) == "granted"
        assert time.monotonic() - began < allowed(RECOVERY_S_MAX)
        assert not run.whys  # nothing was lost: the same worker scans


async def test_whoever_connects_to_a_fob_gets_no_proof_that_opens_here(
    site: Site, clock: Clock
) -> None:
    driver = built(site, SCANNER, clock, any_door=True)
    async with running(driver) as run, fob_at(site) as fob:
        fob.sign_for_door = OTHER
        fob.press()
        assert await fob.results.get() == "refused"
        fob.sign_for_door, fob.intent = None, False
        fob.press()
        assert await fob.results.get() == "refused"
        fob.replay, fob.intent = fob.proofs[0], True
        fob.press()
        assert await fob.results.get() == "refused"
        assert run.values == []
        whys = [fact.why for fact in run.facts if isinstance(fact, CredentialRefused)]
        assert whys == ["signature_invalid", "no_intent", "signature_invalid"]
        # Three refusals: nobody listens to it now, whatever it proves.
        fob.replay = None
        fob.press()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.4):
                await fob.results.get()


async def test_one_press_is_one_conversation(site: Site, clock: Clock) -> None:
    driver = built(site, SCANNER, clock, any_door=True)
    async with supervised(driver, clock) as run, fob_at(site) as fob:
        assert await answered(driver, run, fob) == "granted"
        connects = site.bluetooth.bluez.connects
        fob._press -= 1
        fob.press()  # it goes on saying the same
        await asyncio.sleep(0.3)
        assert site.bluetooth.bluez.connects == connects
        assert await answered(driver, run, fob) == "granted"


async def test_who_wants_another_door_or_is_far_is_not_connected_to(
    site: Site, clock: Clock
) -> None:
    driver = built(site, SCANNER, clock, any_door=True)
    async with (
        running(driver),
        fob_at(site) as elsewhere,
        fob_at(site, "far", walk=Walk(((25.0, 0.0),))) as far,
    ):
        elsewhere.press(OTHER)
        far.press()
        await asyncio.sleep(0.5)
        assert site.bluetooth.bluez.connects == 0


async def test_no_door_is_no_wish_unless_the_site_says_so(site: Site, clock: Clock) -> None:
    async with running(built(site, SCANNER, clock)), fob_at(site) as fob:
        fob.press()
        await asyncio.sleep(0.4)
        assert site.bluetooth.bluez.connects == 0


async def test_a_phone_that_cannot_advertise_data_says_in_its_proof_what_it_wants(
    site: Site, clock: Clock
) -> None:
    driver = built(site, SCANNER, clock)
    async with supervised(driver, clock) as run, fob_at(site, has_data=False, mtu=23) as phone:
        assert await answered(driver, run, phone) == "granted"
        connects = site.bluetooth.bluez.connects
        phone.press()
        await asyncio.sleep(0.3)
        assert site.bluetooth.bluez.connects == connects  # not again so soon


async def test_who_walks_up_is_let_in_when_near(site: Site, clock: Clock) -> None:
    driver = built(site, SCANNER, clock, any_door=True)
    walk = Walk(((30.0, 0.0), (0.5, 0.0)), started_s=time.monotonic(), speed=15.0)
    async with supervised(driver, clock) as run, fob_at(site, walk=walk) as fob:
        assert await answered(driver, run, fob) == "granted"
        x, _ = walk.at(time.monotonic())
        assert x < 15


async def test_a_fob_that_never_proves_is_hung_up_on(
    site: Site, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ble_scanner, "NONCE_AGE_MAX", timedelta(seconds=0.5))
    async with running(built(site, SCANNER, clock, any_door=True)), fob_at(site) as fob:
        fob.mute = True
        fob.press()
        assert await fob.results.get() == "hung_up"
        await eventually(lambda: not site.bluetooth.bluez.out_links)


async def test_three_conversations_at_once_and_no_more(site: Site, clock: Clock) -> None:
    driver = built(site, SCANNER, clock, any_door=True)
    async with (
        running(driver) as run,
        fob_at(site, "a") as a,
        fob_at(site, "b") as b,
        fob_at(site, "c") as c,
        fob_at(site, "d") as d,
    ):
        for fob in (a, b, c):
            fob.mute = True
            fob.press()
        await eventually(lambda: len(site.bluetooth.bluez.out_links) == 3)
        d.press()
        await asyncio.sleep(0.3)
        assert len(site.bluetooth.bluez.out_links) == 3
        site.bluetooth.bluez.leave(a)  # one gives up
        await run.until(lambda _facts: run.values)
        await driver.indicate(Signal.DENIED)
        assert await d.results.get() == "denied"


async def test_a_connection_left_over_from_a_killed_worker_is_ended(
    site: Site, clock: Clock
) -> None:
    driver = built(site, SCANNER, clock, any_door=True)
    async with fob_at(site) as fob:
        async with running(driver):
            fob.mute = True
            fob.press()
            await eventually(lambda: fob.proofs or site.bluetooth.bluez.out_links)
        assert site.bluetooth.bluez.out_links  # BlueZ keeps it
        fob.mute = False
        async with running(driver) as run:
            await run.until(lambda _facts: run.values)


async def test_a_hundred_connects_leave_nothing_behind(
    site: Site, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ble_sessions, "ATTEMPTS_MAX", 2_000)
    driver = built(site, SCANNER, clock, any_door=True)
    before = children()
    async with supervised(driver, clock) as run, fob_at(site, interval_s=0.004) as fob:
        (worker,) = children() - before
        for _ in range(20):
            assert await answered(driver, run, fob) == "granted"
        await eventually(lambda: not site.bluetooth.bluez.out_links)
        files, resident = open_files(worker), resident_kib(worker)
        for _ in range(CONNECTS):
            assert await answered(driver, run, fob) == "granted"
        await eventually(lambda: not site.bluetooth.bluez.out_links)
        await eventually(lambda: open_files(worker) <= files)
        assert resident_kib(worker) - resident < 4_096
        assert not run.whys


CONNECTS = 100
"""Each is a bus connection of its own in bleak."""
