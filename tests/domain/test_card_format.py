"""Card formats: the table against other people's encoders and documents."""

import json
import random
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.cli import main
from gateway.domain.card_format import BITS_MAX, FORMATS, CardFormat, decode, encode
from gateway.domain.record_forms import CREDENTIAL_VALUES

GOLDEN = tomllib.loads((Path(__file__).parents[1] / "golden" / "card_format.toml").read_text())
CHECKED = [each for each in FORMATS.values() if each.checks]


def values(bits: str) -> list[str]:
    return [card.value for card in decode(bits)]


@pytest.mark.parametrize("vector", GOLDEN["published"], ids=lambda vector: vector["source"])
def test_published_examples_are_read_as_they_say(vector: dict[str, object]) -> None:
    length = int(str(vector["length"]))
    bits = f"{int(str(vector['hex']), 16):064b}"[-length:]
    assert vector["value"] in values(bits)


@pytest.mark.parametrize(
    "card", GOLDEN["card"], ids=lambda card: f"{card['format']}-{card['number']}"
)
def test_cards_are_the_bits_that_proxmark3_makes_of_them(card: dict[str, object]) -> None:
    name, facility = str(card["format"]), card.get("facility")
    facility = None if facility is None else int(str(facility))
    number, bits = int(str(card["number"])), str(card["bits"])
    assert encode(name, facility, number) == bits
    assert f"{name}:{'-' if facility is None else facility}:{number}" in values(bits)


def test_there_are_at_least_thirty_and_each_has_a_source() -> None:
    assert len(FORMATS) >= 30
    assert all(each.source for each in FORMATS.values())
    assert {"H10301", "H10302", "H10304", "H10306", "C1k35s", "C1k48s"} <= FORMATS.keys()


@pytest.mark.parametrize("layout", FORMATS.values(), ids=lambda layout: layout.name)
def test_fields_and_check_bits_have_their_places_to_themselves(layout: CardFormat) -> None:
    fields = [*layout.facility, *layout.number, *layout.issue, *layout.oem]
    taken = fields + [check.at for check in layout.checks]
    assert len(taken) == len(set(taken))
    everywhere = set(taken) | layout.guarded
    assert everywhere <= set(range(layout.length))
    assert layout.length <= BITS_MAX
    for check in layout.checks:
        assert len(check.over) == len(set(check.over))
        assert check.at not in check.over


@given(st.sampled_from(list(FORMATS.values())), st.data())
def test_what_is_encoded_is_decoded(layout: CardFormat, data: st.DataObject) -> None:
    facility = None
    if layout.facility_max is not None:
        facility = data.draw(st.integers(0, layout.facility_max))
    if layout.name == "S12906b":
        facility = 217
    number = data.draw(st.integers(0, layout.number_max))
    issue = data.draw(st.integers(0, 2 ** len(layout.issue) - 1))
    oem = data.draw(st.integers(0, 2 ** len(layout.oem) - 1))
    bits = encode(layout.name, facility, number, issue=issue, oem=oem)
    (card,) = decode(bits, [layout])
    assert (card.facility, card.number) == (facility, number)
    assert (card.issue or 0, card.oem or 0) == (issue, oem)
    assert card in decode(bits)


@given(st.sampled_from(CHECKED), st.data())
def test_in_a_format_with_parity_one_flipped_bit_is_never_the_same_card(
    layout: CardFormat, data: st.DataObject
) -> None:
    facility = layout.facility_max
    if facility is not None:
        facility = 217 if layout.name == "S12906b" else data.draw(st.integers(0, facility))
    bits = encode(layout.name, facility, data.draw(st.integers(0, layout.number_max)))
    (card,) = decode(bits, [layout])
    for at in range(layout.length):
        slipped = bits[:at] + "10"[int(bits[at])] + bits[at + 1 :]
        read = decode(slipped, [layout])
        if at in layout.guarded:
            assert read == ()
        elif at in (*layout.facility, *layout.number):
            assert read == () or (read[0].facility, read[0].number) != (
                card.facility,
                card.number,
            )


def test_of_the_formats_with_parity_these_leave_bits_that_a_flip_gets_past() -> None:
    # What an installer should know: in these some flips make another card, or go unnoticed.
    loose = {each.name for each in CHECKED if len(each.guarded) < each.length}
    assert loose == {"HGen37", "H10320", "BC40", "Defcon32"}


def test_of_the_same_length_several_may_fit() -> None:
    assert values("10111101100010001110101110") == ["H10301:123:4567", "ind26:1969:471"]
    both = encode("H10306", 12, 34567)
    assert {"H10306:12:34567", "N10002:12:34567"} <= set(values(both))


def test_only_the_formats_that_are_asked_for_are_tried() -> None:
    bits = encode("H10301", 123, 4567)
    assert [card.format for card in decode(bits, [FORMATS["ind26"]])] == ["ind26"]
    assert decode(bits, []) == ()


@pytest.mark.parametrize("length", [1, 4, 8, 25, 61, BITS_MAX, 10_000])
def test_lengths_of_no_format_fit_nothing(length: int) -> None:
    assert decode("1" * length) == ()


def test_random_frames_of_a_checked_format_mostly_fit_nothing() -> None:
    dice = random.Random(4)
    fits = sum(bool(decode(f"{dice.getrandbits(35):035b}")) for _ in range(4000))
    assert 0.08 < fits / 4000 < 0.17  # three parity bits: one in eight


@pytest.mark.parametrize("bits", ["", "012", "1 0", "0b1", "１０", "-1"])
def test_what_is_no_string_of_bits_is_refused_without_being_repeated(bits: str) -> None:
    with pytest.raises(ValueError, match="string of 0 and 1"):
        decode(bits)


@pytest.mark.parametrize(
    ("name", "facility", "number"),
    [
        ("H10301", 256, 1),
        ("H10301", -1, 1),
        ("H10301", 1, 65536),
        ("H10301", 1, -1),
        ("H10301", None, 1),
        ("H10302", 0, 1),
        ("H10302", None, 2**35),
        ("H10320", None, 10**8),
        ("S12906b", 216, 1),
        ("h10301", 1, 1),
        ("H99999", 1, 1),
    ],
)
def test_what_a_format_cannot_hold_is_refused(name: str, facility: int | None, number: int) -> None:
    with pytest.raises(ValueError, match=name):
        encode(name, facility, number)


def test_a_card_is_in_no_repr() -> None:
    (card, *_) = decode(encode("H10301", 123, 4567))
    assert "4567" not in repr(card)
    assert "123" not in repr(card)


def test_every_value_has_the_form_of_the_records() -> None:
    for layout in FORMATS.values():
        facility = 217 if layout.name == "S12906b" else layout.facility_max
        for card in decode(encode(layout.name, facility, layout.number_max)):
            assert CREDENTIAL_VALUES["wiegand"][0].fullmatch(card.value)


# --- the command ----------------------------------------------------------------------------------


def test_card_decode_prints_what_fits(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["card", "decode", "--json", "10111101100010001110101110"]) == 0
    assert json.loads(capsys.readouterr().out) == [
        {"format": "H10301", "facility": 123, "number": 4567, "value": "H10301:123:4567"},
        {"format": "ind26", "facility": 1969, "number": 471, "value": "ind26:1969:471"},
    ]
    assert main(["card", "decode", "10111101100010001110101110"]) == 0
    assert capsys.readouterr().out.splitlines()[0] == (
        "H10301\tfacility 123\tnumber 4567\tH10301:123:4567"
    )


def test_card_decode_says_null_where_there_is_no_facility(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["card", "decode", "--json", encode("H10302", None, 34567)]) == 0
    (first, *_) = json.loads(capsys.readouterr().out)
    assert first == {
        "format": "H10302",
        "facility": None,
        "number": 34567,
        "value": "H10302:-:34567",
    }


def test_card_decode_exits_1_when_nothing_fits(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["card", "decode", "--json", "1010"]) == 1
    assert json.loads(capsys.readouterr().out) == []
    assert main(["card", "decode", "1" * 500]) == 1
    assert "500 bits" in capsys.readouterr().err


@pytest.mark.parametrize("bits", ["", "10x", "2006f623ae"])
def test_card_decode_exits_2_for_what_is_no_bits(bits: str) -> None:
    assert main(["card", "decode", bits]) == 2


def test_card_encode_is_the_reverse(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["card", "encode", "H10301", "--facility", "123", "--number", "4567"]) == 0
    assert capsys.readouterr().out == "10111101100010001110101110\n"
    arguments = ["card", "encode", "H10302", "--number", "34567", "--json"]
    assert main(arguments) == 0
    made = json.loads(capsys.readouterr().out)
    assert made["value"] == "H10302:-:34567"
    assert made["value"] in values(made["bits"])


@pytest.mark.parametrize(
    "arguments",
    [
        ["H10301", "--facility", "256", "--number", "1"],
        ["H10301", "--number", "1"],
        ["H99999", "--number", "1"],
    ],
)
def test_card_encode_exits_2_for_what_cannot_be(arguments: list[str]) -> None:
    assert main(["card", "encode", *arguments]) == 2


def test_card_formats_lists_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["card", "formats", "--json"]) == 0
    assert [each["format"] for each in json.loads(capsys.readouterr().out)] == list(FORMATS)
    assert main(["card", "formats"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == len(FORMATS)


@pytest.mark.process
def test_the_help_has_an_example() -> None:
    told = subprocess.run(
        [sys.executable, "-m", "gateway", "card", "decode", "--help"],
        check=True,
        capture_output=True,
        text=True,
    )
    assert "door-gateway card decode" in told.stdout
