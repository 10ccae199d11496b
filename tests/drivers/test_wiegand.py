"""Wiegand: edges to frames, frames to cards and PINs, and converters on serial lines."""

import random
import time
import tomllib
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.clock import Clock
from gateway.domain.card_format import FORMATS, encode
from gateway.domain.facts import CredentialPresented
from gateway.drivers.wiegand import GAP_NS, Edge, EdgeProtocol, Keypad, WiegandReader, key_of
from gateway.drivers.wiegand_serial import ConverterProtocol, WiegandSerialSettings, whole
from hwsim.site import Site
from tests.drivers.contract import WIRED, DriverContract, Running, any_split, running

SITE = WIRED
GOLDEN = tomllib.loads((Path(__file__).parents[1] / "golden" / "wiegand.toml").read_text())
MS = timedelta(milliseconds=1)
SECOND = timedelta(seconds=1)
CARD = encode("H10301", 123, 4567)


def reader(*formats: str, keypad: Keypad = "none") -> WiegandReader:
    return WiegandReader("reader", formats or ("H10301",), keypad, 5 * SECOND)


def read(of: WiegandReader, bits: str, at: timedelta = SECOND) -> list[tuple[str, str]]:
    return [(fact.kind, fact.value) for fact in of.frame(bits, at)]


# --- frames ---------------------------------------------------------------------------------------


def test_a_card_of_an_enabled_format_is_its_record_value() -> None:
    assert read(reader(), CARD) == [("wiegand", "H10301:123:4567")]
    assert read(reader("H10302"), encode("H10302", None, 99)) == [("wiegand", "H10302:-:99")]


def test_of_several_enabled_formats_that_fit_the_first_counts() -> None:
    assert read(reader("H10301", "ind26"), CARD) == [("wiegand", "H10301:123:4567")]
    assert read(reader("ind26", "H10301"), CARD) == [("wiegand", "ind26:1969:471")]


def test_a_format_that_is_not_enabled_is_not_read() -> None:
    assert read(reader("H10301"), encode("H10306", 1, 2)) == [
        ("wiegand", f"RAW34:-:{2**33 + 2**17 + 4}")
    ]


@given(st.integers(0, 25), st.integers(0, 255), st.integers(0, 65535))
def test_a_flipped_bit_is_no_card(at: int, facility: int, number: int) -> None:
    bits = encode("H10301", facility, number)
    protocol = reader()
    assert read(protocol, bits[:at] + "10"[int(bits[at])] + bits[at + 1 :]) == []
    assert protocol.refused == 1


@given(st.integers(0, 25))
def test_a_bit_that_slipped_is_no_card_of_the_format(missing: int) -> None:
    got = read(reader(), CARD[:missing] + CARD[missing + 1 :])
    assert all(value.startswith("RAW25:") for _, value in got)


@pytest.mark.parametrize("bits", ["", "1", "101", "1" * 23, "1" * 97])
def test_pieces_of_frames_are_nothing(bits: str) -> None:
    assert read(reader(), bits) == []


def test_what_was_read_is_in_no_log_and_no_repr(caplog: pytest.LogCaptureFixture) -> None:
    (fact,) = reader().frame(encode("H10306", 1, 2), SECOND)
    assert fact.value not in repr(fact)
    assert fact.value.rpartition(":")[2] not in caplog.text


@pytest.mark.parametrize("golden", GOLDEN["keys"], ids=lambda golden: golden["source"])
def test_golden_bursts_are_these_keys(golden: dict[str, Any]) -> None:
    keys = [key_of(bits, golden["keypad"]) for bits in golden["bits"]]
    assert bytes(key for key in keys if key is not None).decode() == golden["keys"]


@pytest.mark.parametrize("keypad", ["4bit", "8bit"])
def test_codes_that_are_no_key_are_none(keypad: Keypad) -> None:
    size = int(keypad[0])
    keys = [key_of(f"{code:0{size}b}", keypad) for code in range(2**size)]
    assert sorted(key for key in keys if key is not None) == sorted(b"0123456789*#")
    assert key_of("0001", "none") is None


def test_bursts_are_put_together_to_a_pin() -> None:
    protocol = reader(keypad="4bit")
    typed = [read(protocol, f"{'0123456789*#'.index(key):04b}") for key in "9*2468#"]
    assert typed == [[]] * 6 + [[("pin", "2468")]]


@pytest.mark.parametrize("order", ["card first", "PIN first"])
def test_card_and_pin_come_in_either_order_of_pressing(order: str) -> None:
    protocol = reader(keypad="8bit")

    def pin() -> list[tuple[str, str]]:
        got = []
        for key in "1357#":
            code = "0123456789*#".index(key)
            got += read(protocol, f"{(code ^ 15) << 4 | code:08b}")
        return got

    card = [("wiegand", "H10301:123:4567")]
    if order == "card first":
        assert read(protocol, CARD) + pin() == [*card, ("pin", "1357")]
    else:
        assert pin() + read(protocol, CARD) == [("pin", "1357"), *card]


# --- edges ----------------------------------------------------------------------------------------


def edges(bits: str, start_ns: int = 0, apart_ns: int = 2_000_000, first: int = 1) -> list[Edge]:
    return [
        Edge(int(bit), start_ns + place * apart_ns, first + place) for place, bit in enumerate(bits)
    ]


def frames(protocol: EdgeProtocol, train: list[Edge]) -> list[str]:
    got = [frame for edge in train for frame in protocol.edge(edge)]
    got += protocol.expire(train[-1].at_ns + GAP_NS)
    return [frame.bits for frame in got]


@given(
    st.lists(st.text("01", min_size=1, max_size=96), min_size=1, max_size=5),
    st.integers(200_000, 20_000_000),
)
def test_pulses_are_frames_at_every_speed_that_readers_have(sent: list[str], apart_ns: int) -> None:
    protocol = EdgeProtocol({26, 34})
    train: list[Edge] = []
    for bits in sent:
        start = train[-1].at_ns + max(GAP_NS, 2 * apart_ns) if train else 0
        train += edges(bits, start, apart_ns, len(train) + 1)
    assert frames(protocol, train) == sent
    assert protocol.due_ns is None


def test_a_frame_of_an_enabled_length_ends_after_two_pauses_and_another_after_25_ms() -> None:
    protocol = EdgeProtocol({26})
    for edge in edges(CARD):
        assert protocol.edge(edge) == []
    last_ns = 25 * 2_000_000
    assert protocol.due_ns == last_ns + 4_000_000
    assert protocol.expire(last_ns + 4_000_000) == [(CARD, 0, last_ns)]
    for edge in edges(CARD[:20], 10**9, first=27):
        protocol.edge(edge)
    assert protocol.due_ns == 10**9 + 19 * 2_000_000 + GAP_NS


def test_a_longer_frame_that_begins_like_a_card_is_not_taken_for_it() -> None:
    assert frames(EdgeProtocol({26}), edges(CARD + "1" * 11)) == [CARD + "1" * 11]


def test_told_so_a_frame_is_taken_with_its_last_bit() -> None:
    protocol = EdgeProtocol({26, 34}, at_once=True)
    *before, last = edges(encode("H10306", 1, 2))
    assert [protocol.edge(edge) for edge in before] == [[]] * 33
    assert protocol.edge(last) == [(encode("H10306", 1, 2), before[0].at_ns, last.at_ns)]


@given(st.integers(1, 24), st.integers(1, 5))
def test_a_gap_in_the_numbers_drops_the_frame_and_no_other(at: int, lost: int) -> None:
    train = edges(CARD)
    for edge in train[at:]:
        edge.number += lost
    later = edges(CARD, 10**9, first=train[-1].number + 1)
    protocol = EdgeProtocol({26})
    assert frames(protocol, train[:at] + train[at:] + later) == [CARD]
    assert protocol.lost == 1


def test_edges_nearer_than_any_readers_spoil_the_frame() -> None:
    train = edges(CARD)
    train[9].at_ns = train[8].at_ns + 40_000
    assert frames(EdgeProtocol({26}), train) == []


def test_a_line_that_never_stops_keeps_the_memory_small() -> None:
    protocol = EdgeProtocol({26})
    assert frames(protocol, edges("10" * 50_000)) == []
    assert frames(protocol, edges(CARD, 10**12, first=100_001)) == [CARD]


def test_half_frames_and_noise_give_no_false_card() -> None:
    # A card of another number than any that was held up, in an enabled format, is a false one.
    dice = random.Random(7)
    protocol, cards = EdgeProtocol({26}), reader()
    sent, now_ns, number, false = 0, 0, 0, 0
    for _ in range(4000):
        value = dice.randrange(256), dice.randrange(65536)
        train = edges(encode("H10301", *value))
        if dice.random() < 0.5:
            train = train[: dice.randrange(1, 26)]
        elif dice.random() < 0.3:
            flipped = dice.choice(train)
            flipped.bit ^= 1
        now_ns += 200_000_000
        for edge in train:
            number += 1
            for bits, *_ in protocol.edge(Edge(edge.bit, now_ns + edge.at_ns, number)):
                sent += 1
                false += f"H10301:{value[0]}:{value[1]}" not in [v for _, v in read(cards, bits)]
        for bits, *_ in protocol.expire(now_ns + 100_000_000):
            got = [v for _, v in read(cards, bits) if v.startswith("H10301")]
            sent += len(got)
            false += got not in ([], [f"H10301:{value[0]}:{value[1]}"])
    assert false == 0
    assert sent > 1000


def test_random_frames_are_cards_as_often_as_two_parity_bits_let_them() -> None:
    dice = random.Random(9)
    cards = reader()
    read_cards = sum(bool(read(cards, f"{dice.getrandbits(26):026b}")) for _ in range(100_000))
    assert 0.24 < read_cards / 100_000 < 0.26  # two parity bits keep three quarters out, no more


# --- converters -----------------------------------------------------------------------------------


def settings(**changed: Any) -> WiegandSerialSettings:
    table = {"port": "/dev/ttyUSB0", "converter": "wie232", "formats": ["H10301"], **changed}
    return msgspec.convert(table, WiegandSerialSettings)


def test_a_converter_that_passes_no_keys_on_has_no_keypad_and_all_faults_are_told() -> None:
    with pytest.raises(msgspec.ValidationError) as refused:
        settings(keypad="4bit", formats=["H10301", "H99999"], baud_rate=9601)
    assert [line.split()[0] for line in str(refused.value).splitlines()] == [
        "`baud_rate`",
        "`keypad`",
        "`formats`",
    ]


def told(protocol: ConverterProtocol, data: bytes, now: timedelta = SECOND) -> list[str]:
    return [fact.value for fact in protocol.receive(data, now)]


@pytest.mark.parametrize("golden", GOLDEN["converter"], ids=lambda golden: golden["source"])
@given(cuts=st.lists(st.integers(0, 20)))
def test_golden_lines_are_these_cards_however_they_are_split(
    golden: dict[str, Any], cuts: list[int]
) -> None:
    protocol = ConverterProtocol(
        "reader", settings(converter=golden["converter"], formats=[golden["format"]])
    )
    pieces = any_split(bytes.fromhex(golden["hex"]), cuts)
    assert [value for piece in pieces for value in told(protocol, piece)] == [golden["value"]]


@given(st.sampled_from(["H10301", "ind26", "H10306", "N10002", "BQT34"]), st.data())
def test_the_parity_that_a_converter_dropped_is_put_back(name: str, data: st.DataObject) -> None:
    layout = FORMATS[name]
    number = data.draw(st.integers(0, layout.number_max))
    bits = encode(name, data.draw(st.integers(0, layout.facility_max or 0)), number)
    assert whole(int(bits[1:-1], 2), layout) == bits


@pytest.mark.parametrize(
    "line", [b"7B11D\r", b"7B11D70\r", b"7B11DG\r", b"\r", b"7B 1D7\r", b"\x007B11D7\r"]
)
def test_lines_that_are_no_card_are_nothing_and_the_next_is_read(line: bytes) -> None:
    protocol = ConverterProtocol("reader", settings())
    assert told(protocol, line) == []
    assert told(protocol, b"7B11D7\r") == ["H10301:123:4567"]


def test_a_number_too_large_for_its_frame_is_no_card() -> None:
    protocol = ConverterProtocol("reader", settings(converter="s4a", formats=["H10301"]))
    assert told(protocol, b"0016777216\r\n") == []
    assert told(protocol, b"0000000001\r\n") == ["H10301:0:1"]


def test_a_megabyte_without_an_end_is_nothing_and_takes_no_memory() -> None:
    protocol = ConverterProtocol("reader", settings())
    assert told(protocol, b"A" * (1 << 20)) == []
    assert len(protocol._buffer) <= 17
    assert told(protocol, b"\r7B11D7\r") == ["H10301:123:4567"]


def test_a_lone_character_is_a_key_and_a_digit_of_a_card_is_none() -> None:
    protocol = ConverterProtocol(
        "gate", settings(converter="s4a", formats=["H10306"], keypad="4bit")
    )
    now, got = SECOND, []
    for key in b"2468B":
        assert told(protocol, bytes([key]), now) == []
        now += 40 * MS
        got += [(fact.kind, fact.value) for fact in protocol.expire(now)]
    assert got == [("pin", "2468")]
    assert told(protocol, b"0000123478\r\n", now) == ["H10306:1:57942"]
    assert not protocol.pending


def test_random_bytes_give_hardly_a_card() -> None:
    # A line has no checksum: six hexadecimal digits between two carriage returns are a card.
    noise = random.Random(3).randbytes(1 << 20)
    protocol = ConverterProtocol("reader", settings())
    cards = told(protocol, noise)
    lines = noise.split(b"\r")
    assert len(cards) <= sum(len(line) == 6 and line.isalnum() for line in lines)


@pytest.mark.parametrize(
    "wrong",
    [
        {"formats": []},
        {"formats": ["H10301", "ind26"]},
        {"formats": ["H10306"]},
        {"formats": ["H99999"]},
        {"formats": ["C1k35s"], "converter": "s4a"},
        {"keypad": "4bit"},
        {"keypad": "6bit"},
        {"converter": "toaster"},
        {"port": "ttyUSB0"},
        {"inter_digit_timeout_s": 0.1},
    ],
)
def test_impossible_settings_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(msgspec.ValidationError):
        settings(**wrong)


class TestAWie232(DriverContract):
    device: ClassVar[str] = "annexe-reader"

    async def prove(self, site: Site, run: Running) -> None:
        before = len(run.values)
        await site.card(self.device, CARD)
        await run.until(lambda _facts: len(run.values) > before)
        assert run.values[before:] == ["H10301:123:4567"]

    async def test_a_card_is_told_within_moments(self, site: Site, clock: Clock) -> None:
        async with running(self.build(site, clock)) as run:
            started = time.monotonic_ns()
            await self.prove(site, run)
            assert run.told_ns[-1] - started < 50_000_000


class TestAnS4aWithAKeypad(DriverContract):
    device: ClassVar[str] = "gate-reader"

    async def prove(self, site: Site, run: Running) -> None:
        before = len(run.values)
        await site.card(self.device, encode("H10306", 1, 57942))
        await run.until(lambda _facts: len(run.values) > before)
        await site.press(self.device, "2468#", gap=0.06)
        await run.until(lambda _facts: len(run.values) > before + 1)
        assert run.values[before:] == ["H10306:1:57942", "2468"]

    async def test_a_pin_and_then_a_card_come_as_such(self, site: Site, clock: Clock) -> None:
        async with running(self.build(site, clock)) as run:
            await site.press(self.device, "1357#", gap=0.06)
            await run.until(lambda _facts: run.values)
            await site.card(self.device, encode("H10306", 2, 3))
            await run.until(lambda _facts: len(run.values) > 1)
            told = [fact for fact in run.facts if isinstance(fact, CredentialPresented)]
            assert [(fact.kind, fact.value) for fact in told] == [
                ("pin", "1357"),
                ("wiegand", "H10306:2:3"),
            ]
