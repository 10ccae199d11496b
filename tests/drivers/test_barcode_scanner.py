"""The barcode scanner's driver."""

import random
import time
import tomllib
import tracemalloc
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from gateway.clock import Clock
from gateway.domain.facts import CredentialPresented, CredentialRefused
from gateway.drivers.barcode_scanner import (
    CODES_MAX,
    LINE_BYTES_MAX,
    BarcodeScannerSettings,
    ScannerProtocol,
)
from gateway.drivers.cards.sun import Keys
from gateway.errors import DeviceUnavailable
from hwsim.barcode_scanner import BarcodeScanner
from hwsim.observations import CodeSent
from hwsim.secure_cards import SunTag, an10922
from hwsim.site import Site
from tests.drivers.contract import WIRED, DriverContract, Running, any_split, running

SITE = WIRED
GOLDEN = tomllib.loads((Path(__file__).parents[1] / "golden" / "barcode_scanner.toml").read_text())
MS = timedelta(milliseconds=1)
SECOND = timedelta(seconds=1)
CODES = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), min_size=8, max_size=128)

HOSTILE = [
    b"' OR 1=1; DROP TABLE credentials; --",
    b"$(reboot)`reboot`${jndi:ldap://x/y}",
    b"../../../../etc/passwd%00%n%n%n%s",
    b"<script>alert(document.cookie)</script>",
    b'{"type": "credential", "kind": "uid", "value": "04A1B2C3"}',
    b"%%SpecCode9A",  # a scanner's own programming code (GM65-S), held up by a member
    b"@FacDef;@SETUPE1;",
    b"AT+RST=1234",
]
"""Printable, so each is a credential that nobody has: looked up, and nothing else."""

REFUSED = [
    b"\x1b]0;owned\x07\x1b[2J 12345678",
    b"12345678\x00",
    b"123\x0845678901",
    b"\x7f12345678",
    b"\xff\xfe1\x002\x003\x004\x00",
    "１２３４５６７８".encode(),
    b"1234567",
    b"1" * 129,
    b"",
    b"^]\x1d12345678",
]


def settings(**changed: Any) -> BarcodeScannerSettings:
    return msgspec.convert(
        {"port": "/dev/ttyACM0", "suffix": "\r", **changed}, BarcodeScannerSettings
    )


def scanner(**changed: Any) -> ScannerProtocol:
    return ScannerProtocol("scanner", settings(**changed))


def codes(protocol: ScannerProtocol, data: bytes, now: timedelta = SECOND) -> list[str]:
    facts = protocol.receive(data, now)
    return [fact.value for fact in facts if isinstance(fact, CredentialPresented)]


def test_only_a_carried_grant_may_be_longer_than_a_static_code() -> None:
    longest = "DG1:" + "A" * 508
    assert codes(scanner(prefix="]Q1"), f"]Q1{longest}\r".encode()) == [longest]
    for refused in (longest + "A", "DG2:" + "A" * 200, "DG1:AAA\x00"):
        assert codes(scanner(), f"{refused}\r".encode()) == []


@pytest.mark.parametrize("golden", GOLDEN["line"], ids=lambda golden: golden["source"])
def test_golden_bytes_are_these_codes(golden: dict[str, Any]) -> None:
    protocol = scanner(prefix=golden["prefix"], suffix=golden["suffix"], no_read="%%NoRead")
    assert codes(protocol, bytes.fromhex(golden["hex"])) == golden["codes"]


@given(CODES, st.sampled_from(["\r", "\r\n", "\x03", "\t"]), st.lists(st.integers(0, 200)))
def test_a_code_comes_out_as_it_was_however_the_bytes_are_split(
    code: str, suffix: str, cuts: list[int]
) -> None:
    protocol = scanner(suffix=suffix)
    data = f"{code}{suffix}".encode()
    assert [got for piece in any_split(data, cuts) for got in codes(protocol, piece)] == [code]


def test_a_code_is_a_qr_credential_at_the_time_of_its_end_and_knows_that_of_its_beginning() -> None:
    protocol = scanner()
    protocol.receive(b"12345678", SECOND)
    end = SECOND + 10 * MS
    assert protocol.receive(b"9\r23456", end) == [
        CredentialPresented("scanner", "qr", "123456789", end, began=SECOND)
    ]
    assert protocol.receive(b"789\r", end + 5 * MS) == [
        CredentialPresented("scanner", "qr", "23456789", end + 5 * MS, began=end)
    ]


@pytest.mark.parametrize("code", REFUSED)
def test_what_is_no_qr_credential_is_thrown_away_whole_and_the_next_code_is_read(
    code: bytes,
) -> None:
    protocol = scanner()
    assert codes(protocol, code + b"\r") == []
    assert codes(protocol, b"12345678\r") == ["12345678"]


@pytest.mark.parametrize("code", HOSTILE)
def test_hostile_content_is_only_a_code_that_nobody_has(code: bytes) -> None:
    (fact,) = scanner().receive(code + b"\r", SECOND)
    assert isinstance(fact, CredentialPresented)
    assert fact.value == code.decode()
    assert fact.value not in repr(fact)


def test_without_its_prefix_a_code_is_refused() -> None:
    protocol = scanner(prefix="]Q1")
    assert codes(protocol, b"12345678\r]C012345678\r]Q112345678\r") == ["12345678"]
    assert protocol.refused == 2


def test_a_megabyte_without_an_end_takes_no_memory_and_no_code_comes_of_it() -> None:
    protocol = scanner()
    megabyte = random.Random(1).randbytes(1 << 20).replace(b"\r", b"\n")
    tracemalloc.start()
    for at in range(0, len(megabyte), 1024):
        assert codes(protocol, megabyte[at : at + 1024]) == []
    assert tracemalloc.get_traced_memory()[1] < 100_000
    tracemalloc.reset_peak()
    assert codes(protocol, megabyte) == []
    assert tracemalloc.get_traced_memory()[1] < 100_000
    tracemalloc.stop()
    # Its end ends nothing, and what follows is a code again.
    assert codes(protocol, b"12345678\r") == []
    assert codes(protocol, b"12345678\r") == ["12345678"]


@pytest.mark.parametrize("size", range(LINE_BYTES_MAX - 2, LINE_BYTES_MAX + 8))
def test_around_the_limit_a_long_line_and_its_end_are_still_kept_apart_from_the_next(
    size: int,
) -> None:
    data = b"1" * size + b"\r\n" + b"12345678\r\n"
    for cut in range(size - 4, len(data)):
        protocol = scanner(suffix="\r\n")
        assert codes(protocol, data[:cut]) + codes(protocol, data[cut:]) == ["12345678"]


def test_a_code_that_was_cut_off_is_no_part_of_the_next() -> None:
    protocol = scanner()
    assert codes(protocol, b"12345", SECOND) == []
    assert codes(protocol, b"87654321\r", SECOND + 250 * MS) == ["87654321"]


def test_a_code_that_stays_before_the_scanner_is_one_tap() -> None:
    protocol = scanner()
    read = [codes(protocol, b"12345678\r", SECOND + 300 * MS * each) for each in range(10)]
    assert read == [["12345678"]] + [[]] * 9
    assert codes(protocol, b"12345678\r", 5 * SECOND) == ["12345678"]


def test_more_codes_than_anybody_holds_up_are_counted_and_dropped() -> None:
    protocol = scanner()
    flood = b"".join(b"code%06d\r" % each for each in range(10_000))
    assert len(codes(protocol, flood)) == CODES_MAX
    assert protocol.refused == 10_000 - CODES_MAX
    assert codes(protocol, b"12345678\r", 3 * SECOND) == ["12345678"]


def test_nothing_that_was_read_stays_in_memory() -> None:
    protocol = scanner()
    protocol.receive(b"12345678\r1234", SECOND)
    protocol.expire(SECOND + 250 * MS)
    assert protocol.pending
    protocol.expire(2 * SECOND)
    assert not protocol.pending


def test_ten_percent_noise_makes_no_wrong_code_but_one_that_noise_wrote() -> None:
    # A scanner's line has no checksum: a byte that became another printable one is not seen.
    dice = random.Random(2)
    protocol = scanner()
    now, read = SECOND, 0
    for _ in range(3000):
        code = f"{dice.randrange(10**12):012d}"
        noisy = bytearray(f"{code}\r".encode())
        for at in range(len(noisy)):
            if dice.random() < 0.1:
                noisy[at] = dice.choice(range(0x80, 0x100))
        now += SECOND
        got = codes(protocol, bytes(noisy), now)
        assert got in ([], [code])
        read += len(got)
    assert read > 300


def test_random_bytes_keep_the_rules() -> None:
    noise = random.Random(3).randbytes(1 << 20)
    read = codes(scanner(), noise)
    assert len(read) <= CODES_MAX
    assert all(8 <= len(code) <= 128 and code.isascii() and code.isprintable() for code in read)


@pytest.mark.parametrize(
    "wrong",
    [
        {"port": "/dev/tty;reboot"},
        {"suffix": ""},
        {"suffix": "END"},
        {"suffix": "\r" * 17},
        {"prefix": "é"},
        {"baud_rate": 9601},
        {"parity": "even"},
    ],
)
def test_impossible_settings_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(msgspec.ValidationError):
        settings(**wrong)


def test_the_suffix_has_no_default() -> None:
    with pytest.raises(msgspec.ValidationError, match="suffix"):
        msgspec.convert({"port": "/dev/ttyACM0"}, BarcodeScannerSettings)


class TestABarcodeScanner(DriverContract):
    device: ClassVar[str] = "lobby-scanner"
    shown: ClassVar[int] = 0

    async def prove(self, site: Site, run: Running) -> None:
        before = len(run.values)
        TestABarcodeScanner.shown += 1
        code = f"LON-{TestABarcodeScanner.shown:06d}"
        await site.scan(self.device, code)
        await run.until(lambda _facts: len(run.values) > before)
        assert run.values[before:] == [code]

    async def test_a_code_is_told_within_moments_of_its_last_byte(
        self,
        site: Site,
        clock: Clock,
    ) -> None:
        async with running(self.build(site, clock)) as run:
            await self.prove(site, run)
            sent_ns = site.seen.of(CodeSent)[-1].at_ns
            assert run.told_ns[-1] - sent_ns < 50_000_000

    async def test_no_byte_is_ever_written_to_it(self, site: Site, clock: Clock) -> None:
        async with running(self.build(site, clock)) as run:
            for code in HOSTILE:
                await site.scan(self.device, code.decode())
            await run.until(lambda _facts: run.values)
        found = site.devices[self.device]
        assert isinstance(found, BarcodeScanner)
        assert found.heard == b""

    async def test_a_flood_of_codes_stays_off_the_door_and_in_one_line_of_the_log(
        self,
        site: Site,
        clock: Clock,
    ) -> None:
        with structlog.testing.capture_logs() as logged:
            async with running(self.build(site, clock)) as run:
                started = time.monotonic()
                await site.flood(self.device, per_second=10_000, seconds=1.0)
                spent_s = time.monotonic() - started
                assert len(run.values) <= CODES_MAX * (spent_s + 1)
        assert len(logged) <= 1
        assert "0123456789" not in str(logged)

    async def test_a_port_that_is_in_use_is_unavailable(self, site: Site, clock: Clock) -> None:
        async with running(self.build(site, clock)):
            with pytest.raises(DeviceUnavailable):
                await self.build(site, clock).run(lambda _fact: None)


# --- A tag's message that a phone shows ----------------------------------------------------------

TAG = bytes.fromhex("04DE5F1EACC040")
ADDRESS = "https://tap.example.com/t?e={picc}&c={mac}"
SUN: dict[str, Any] = {"url": ADDRESS, "picc_key": "/k", "mac_key": "/k", "diversification": "4C"}


def tag(**changed: Any) -> SunTag:
    keys = {"picc_key": bytes(16), "mac_key": an10922(bytes(16), TAG + b"L")}
    return SunTag(TAG, ADDRESS, random=random.Random(1).randbytes, **{**keys, **changed})


def scanned(code: str) -> CredentialPresented | CredentialRefused:
    table = {"port": "/dev/ttyS0", "suffix": "\r", "sun": SUN}
    settings = msgspec.convert(table, BarcodeScannerSettings)
    protocol = ScannerProtocol("scanner", settings, Keys(bytes(16), bytes(16), b"L"))
    (fact,) = protocol.receive(code.encode() + b"\r", SECOND)
    return fact


def test_a_tags_message_is_the_tag_with_its_counter_and_never_a_code() -> None:
    fact = scanned(tag(counter=60).address())
    assert isinstance(fact, CredentialPresented)
    assert (fact.kind, fact.value, fact.counter) == ("sun", TAG.hex().upper(), 61)


@pytest.mark.parametrize(
    ("code", "why"),
    [
        (tag(picc_key=bytes(15) + b"x").address(), "wrong_key"),
        (tag(mac_key=bytes(16)).address(), "not_authentic"),
        (tag().address()[:-1], "malformed"),
        (tag().address() + "&x=1", "malformed"),
        (ADDRESS, "malformed"),
    ],
)
def test_what_looks_like_a_message_and_is_none_is_refused(code: str, why: str) -> None:
    fact = scanned(code)
    assert isinstance(fact, CredentialRefused)
    assert (fact.kind, fact.why) == ("sun", why)


def test_another_address_is_a_code_like_any_other() -> None:
    fact = scanned("https://other.example.com/t?e=1")
    assert isinstance(fact, CredentialPresented)
    assert (fact.kind, fact.counter) == ("qr", None)
