"""The PN532 chip alone: bytes in, frames out."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwsim.cards import Card, card
from hwsim.pn532 import ACK, ERROR_FRAME, NACK, Chip, crc_a, frame

# UM0701-02, 7.2.2 and 7.2.11: wake-up as sent on HSU, GetFirmwareVersion of a PN532 v1.6.
WAKE_UP = bytes.fromhex("5555000000000000000000000000")
GET_FIRMWARE_VERSION = bytes.fromhex("0000FF02FED4022A00")
FIRMWARE_VERSION = bytes.fromhex("0000FF06FAD50332010607E800")
# UM0701-02, 7.2.10.
SAM_CONFIGURATION = bytes.fromhex("0000FF03FDD414011700")
SAM_CONFIGURED = bytes.fromhex("0000FF02FED5151600")
# A capture of a PN532 board with a MIFARE Classic 1K card, published with the card's UID.
LIST_ONE = bytes.fromhex("0000FF04FCD44A0100E100")
LISTED_FB0EE20B = bytes.fromhex("0000FF0CF4D54B010100040804FB0EE20BD800")


def said(chip: Chip, data: bytes) -> bytes:
    return b"".join(sent.frame for sent in chip.receive(data))


def ask(chip: Chip, command: str) -> bytes:
    """The packet data of the answer to a command given without TFI, both without framing."""
    sent = chip.receive(frame(b"\xd4" + bytes.fromhex(command)))
    assert sent[0].frame == ACK
    if len(sent) == 1:
        return b""
    answer = sent[1].frame
    assert answer == frame(answer[5:-2])
    assert answer[5] == 0xD5
    return answer[6:-2]


def searching_once(*cards: Card) -> Chip:
    """A chip that gives up a search at once, as hosts set it, with cards in the field."""
    chip = Chip()
    ask(chip, "32 05 01 00 01")
    ask(chip, "12 00")
    for each in cards:
        chip.put(each)
    return chip


def test_answers_the_manuals_firmware_version_exchange() -> None:
    assert said(Chip(), WAKE_UP + GET_FIRMWARE_VERSION) == ACK + FIRMWARE_VERSION


def test_answers_the_manuals_sam_configuration_exchange() -> None:
    assert said(Chip(), WAKE_UP + SAM_CONFIGURATION) == ACK + SAM_CONFIGURED


def test_lists_a_captured_card_byte_for_byte() -> None:
    assert said(searching_once(card("FB0EE20B")), LIST_ONE) == ACK + LISTED_FB0EE20B


@pytest.mark.parametrize(
    ("uid", "listed"),
    [
        ("DEADBEEF", "4B 01 01 0004 08 04 DEADBEEF"),
        ("04A1B2C3D4E5F6", "4B 01 01 0044 00 07 04A1B2C3D4E5F6"),
        ("04A1B2C3D4E5F6A7B8C9", "4B 01 01 0084 00 0A 04A1B2C3D4E5F6A7B8C9"),
    ],
)
def test_lists_each_size_of_uid(uid: str, listed: str) -> None:
    assert ask(searching_once(card(uid)), "4A 01 00") == bytes.fromhex(listed)


def test_lists_nothing_in_an_empty_field_and_leaves_the_request_in_the_fifo() -> None:
    chip = searching_once()
    assert ask(chip, "4A 01 00") == bytes.fromhex("4B00")
    assert ask(chip, "06 6339") == bytes.fromhex("07 26")


def test_a_search_without_end_answers_when_a_card_comes() -> None:
    chip = Chip()
    assert ask(chip, "4A 01 00") == b""
    assert b"".join(sent.frame for sent in chip.put(card("FB0EE20B"))) == LISTED_FB0EE20B


def test_an_ack_from_the_host_aborts_a_search_without_end() -> None:
    chip = Chip()
    assert ask(chip, "4A 01 00") == b""
    assert said(chip, ACK) == b""
    assert chip.put(card("FB0EE20B")) == []


def test_a_nack_repeats_the_last_reply() -> None:
    chip = Chip()
    assert said(chip, NACK) == b""
    said(chip, GET_FIRMWARE_VERSION)
    assert said(chip, NACK) == FIRMWARE_VERSION


@pytest.mark.parametrize("command", ["3A", "4A", "4A 03 00", "32 05 01", "14 05", "10 09", "00 99"])
def test_an_unknown_command_or_parameter_gets_the_error_frame(command: str) -> None:
    assert said(Chip(), frame(b"\xd4" + bytes.fromhex(command))) == ACK + ERROR_FRAME


@pytest.mark.parametrize("hit", range(3, len(GET_FIRMWARE_VERSION) - 1))
def test_a_damaged_frame_gets_no_answer_and_costs_no_later_one(hit: int) -> None:
    damaged = bytearray(GET_FIRMWARE_VERSION)
    damaged[hit] ^= 0x40
    chip = Chip()
    assert said(chip, bytes(damaged)) in {b"", ACK + ERROR_FRAME}
    # A damaged length may swallow what follows it, until so many bytes have gone by.
    said(chip, bytes(300))
    assert said(chip, GET_FIRMWARE_VERSION) == ACK + FIRMWARE_VERSION


def test_an_extended_frame_comes_back_from_the_line_test() -> None:
    parameters = b"\x00" + bytes(range(256)) + bytes(6)
    whole = frame(b"\xd4\x00" + parameters)
    assert whole[3:8] == bytes.fromhex("FFFF0109F6")
    assert said(Chip(), whole) == ACK + frame(b"\xd5\x01" + parameters)


@given(st.lists(st.integers(0, 200), max_size=12))
def test_any_split_of_the_bytes_gives_the_same_frames(cuts: list[int]) -> None:
    stream = WAKE_UP + GET_FIRMWARE_VERSION + SAM_CONFIGURATION
    stream += frame(b"\xd4\x32\x05\x01\x00\x01") + LIST_ONE + frame(b"\xd4\x00\x00" + bytes(262))
    whole = searching_once(card("FB0EE20B"))
    parts = searching_once(card("FB0EE20B"))
    at, out = 0, b""
    for cut in sorted(cuts):
        out += said(parts, stream[at:cut])
        at = max(at, cut)
    assert out + said(parts, stream[at:]) == said(whole, stream)


@given(st.binary(max_size=600))
def test_noise_is_survived_and_the_next_command_answered(noise: bytes) -> None:
    chip = Chip()
    said(chip, noise)
    said(chip, bytes(300))
    assert said(chip, GET_FIRMWARE_VERSION) == ACK + FIRMWARE_VERSION


@given(st.binary(max_size=40), st.integers(0, 255))
def test_any_parameters_of_any_command_get_one_whole_answer(parameters: bytes, code: int) -> None:
    chip = searching_once(card("04A1B2C3D4E5F6"))
    sent = chip.receive(frame(b"\xd4" + bytes([code]) + parameters))
    assert sent[0].frame == ACK
    answers = [each.frame for each in sent[1:]]
    assert answers == [ERROR_FRAME] or answers[0][6] == (code + 1) & 0xFF


def test_a_chip_put_to_sleep_loses_the_first_byte_and_wakes() -> None:
    chip = Chip()
    assert ask(chip, "16 F0 00") == bytes.fromhex("1700")
    assert said(chip, GET_FIRMWARE_VERSION[1:]) == b""
    assert said(chip, GET_FIRMWARE_VERSION) == ACK + FIRMWARE_VERSION


def test_being_a_target_is_refused() -> None:
    assert ask(Chip(), "8C" + "00" * 38) == bytes.fromhex("8D 27")


# --- the speed of the line ------------------------------------------------------------------


def test_the_speed_changes_with_the_hosts_ack_and_not_before() -> None:
    chip = Chip()
    assert ask(chip, "10 07") == b"\x11"
    assert chip.baud_rate == 115_200
    assert chip.receive(ACK, 115_200) == []
    assert chip.baud_rate == 921_600
    assert chip.receive(GET_FIRMWARE_VERSION, 921_600)


def test_a_host_at_another_speed_is_not_understood_until_power_comes_back() -> None:
    chip = Chip()
    ask(chip, "10 07")
    chip.receive(ACK)
    assert chip.receive(GET_FIRMWARE_VERSION, 115_200) == []
    chip.power_on()
    assert chip.receive(GET_FIRMWARE_VERSION, 115_200)


def test_a_host_that_went_to_the_new_speed_is_understood_though_its_ack_was_lost() -> None:
    chip = Chip()
    ask(chip, "10 07")
    assert chip.receive(GET_FIRMWARE_VERSION, 921_600)


# --- cards ----------------------------------------------------------------------------------


def test_crc_a_is_that_of_the_standards_examples() -> None:
    # ISO/IEC 14443-3, annex B.
    assert crc_a(bytes.fromhex("0000")) == bytes.fromhex("A01E")
    assert crc_a(bytes.fromhex("1234")) == bytes.fromhex("26CF")


def test_one_of_two_cards_wins_the_anticollision_by_its_first_bit_set() -> None:
    # Bits go lowest first: 0x01 beats 0x02 and 0xFE.
    chip = searching_once(card("02AAAAAA"), card("01AAAAAA"), card("FEAAAAAA"))
    assert ask(chip, "4A 01 00")[-4:] == bytes.fromhex("01AAAAAA")


def test_a_deselected_card_leaves_the_search_to_the_other_until_the_field_was_off() -> None:
    chip = searching_once(card("01AAAAAA"), card("02AAAAAA"))
    assert ask(chip, "4A 01 00")[-4:] == bytes.fromhex("01AAAAAA")
    assert ask(chip, "44 01") == bytes.fromhex("4500")
    assert ask(chip, "4A 01 00")[-4:] == bytes.fromhex("02AAAAAA")
    assert ask(chip, "52 00") == bytes.fromhex("5300")
    assert ask(chip, "4A 01 00") == bytes.fromhex("4B00")
    ask(chip, "32 01 00")
    assert ask(chip, "4A 01 00")[-4:] == bytes.fromhex("01AAAAAA")


def test_a_selected_card_is_found_by_the_second_request_only() -> None:
    # ISO/IEC 14443-3, 6.3.4: an active card that hears REQA falls back without an answer.
    chip = searching_once(card("01AAAAAA"))
    ask(chip, "32 05 01 00 00")
    assert ask(chip, "4A 01 00")[1] == 1
    assert ask(chip, "4A 01 00")[1] == 0
    assert ask(chip, "4A 01 00")[1] == 1


def test_two_targets_are_listed_and_each_is_spoken_to() -> None:
    chip = searching_once(card("04111111111111"), card("04222222222222"))
    listed = ask(chip, "4A 02 00")
    assert listed[1] == 2
    first, second = listed[7:14], listed[19:26]
    assert {first, second} == {bytes.fromhex("04" + d * 6) for d in ("11", "22")}
    for number, uid in ((1, first), (2, second), (1, first)):
        answer = ask(chip, f"40 0{number} 30 00")
        assert answer[:2] == bytes.fromhex("4100")
        assert answer[2:5] + answer[6:10] == uid


def test_a_lone_card_listed_as_one_of_two_stays_selected() -> None:
    chip = searching_once(card("04111111111111"))
    assert ask(chip, "4A 02 00")[1] == 1
    assert ask(chip, "42 30 00")[1] == 0


def test_only_the_card_with_the_uid_asked_for_is_listed() -> None:
    chip = searching_once(card("04111111111111"), card("04222222222222"))
    assert ask(chip, "4A 01 00 88 04222222222222")[-7:] == bytes.fromhex("04222222222222")
    assert ask(chip, "4A 01 00 88 04333333333333") == bytes.fromhex("4B00")


def test_a_type_2_tag_reads_and_writes_pages_and_refuses_with_a_nak() -> None:
    chip = searching_once(card("04A1B2C3D4E5F6"))
    ask(chip, "4A 01 00")
    # NTAG213 data sheet, 8.5.1: UID with its check bytes in pages 0 to 2.
    pages = bytes.fromhex("4100 04A1B29F C3D4E5F6 04480000 E1101200")
    assert ask(chip, "40 01 30 00") == pages
    assert ask(chip, "40 01 A2 04 CAFEBABE") == bytes.fromhex("4100")
    assert ask(chip, "40 01 30 04")[2:6] == bytes.fromhex("CAFEBABE")
    assert ask(chip, "40 01 30 F0") == bytes.fromhex("4102")


def test_raw_frames_come_with_their_crc_once_the_check_is_off() -> None:
    chip = searching_once(card("04A1B2C3D4E5F6"))
    ask(chip, "4A 01 00")
    ask(chip, "08 6303 00")
    answer = ask(chip, "42 60")
    assert answer == bytes.fromhex("4300 0004040201000F03") + crc_a(answer[2:-2])
    assert ask(chip, "42 1A 00") == bytes.fromhex("4300 00")  # NAK, four bits


def test_a_card_pulled_away_in_mid_read_is_a_time_out_and_gone() -> None:
    chip = searching_once(card("04A1B2C3D4E5F6", frames_left=1))
    ask(chip, "4A 01 00")
    assert ask(chip, "40 01 30 00")[1] == 0x00
    assert ask(chip, "40 01 30 04") == bytes.fromhex("4101")
    assert ask(chip, "4A 01 00") == bytes.fromhex("4B00")


def test_a_card_taken_away_is_a_time_out_for_raw_frames_too() -> None:
    gone = card("04A1B2C3D4E5F6")
    chip = searching_once(gone)
    ask(chip, "4A 01 00")
    chip.take(gone)
    assert ask(chip, "42 30 00") == bytes.fromhex("4301")
    assert ask(chip, "40 01 30 00") == bytes.fromhex("4101")
    assert ask(chip, "40 02 30 00") == bytes.fromhex("4127")


def test_an_iso_dep_card_is_activated_by_the_chip_when_told_to() -> None:
    chip = searching_once(card("04A1B2C3D4E5F6", iso_dep=True))
    ask(chip, "12 10")
    assert ask(chip, "4A 01 00") == bytes.fromhex("4B 01 01 0344 20 07 04A1B2C3D4E5F6 067577810280")
    assert ask(chip, "40 01 00A4040000") == bytes.fromhex("4100 6D00")
    assert ask(chip, "40 01 00A4040000") == bytes.fromhex("4100 6D00")


def test_a_halted_target_is_selected_again_by_its_number() -> None:
    chip = searching_once(card("04A1B2C3D4E5F6"))
    ask(chip, "4A 01 00")
    assert ask(chip, "44 00") == bytes.fromhex("4500")
    assert ask(chip, "42 30 00") == bytes.fromhex("4301")
    assert ask(chip, "54 01") == bytes.fromhex("5500")
    assert ask(chip, "42 30 00")[1] == 0x00
    assert ask(chip, "54 02") == bytes.fromhex("5527")
    assert ask(chip, "52 02") == bytes.fromhex("5327")


def test_an_automatic_poll_tells_the_type_of_the_card() -> None:
    chip = searching_once()
    assert ask(chip, "60 01 01 00") == bytes.fromhex("6100")
    chip.put(card("DEADBEEF"))
    found = bytes.fromhex("61 01 10 09 01 0004 08 04 DEADBEEF")
    assert ask(chip, "60 01 01 00") == found
    assert ask(chip, "60 01 01 11") == bytes.fromhex("6100")


def test_cards_of_other_types_are_not_here() -> None:
    chip = searching_once(card("DEADBEEF"))
    for kind in ("01 00FFFF0000", "02 00FFFF0000", "03 00", "04"):
        assert ask(chip, f"4A 01 {kind}") == bytes.fromhex("4B00")
    assert ask(chip, "56 01 00 00") == bytes.fromhex("5701")


def test_registers_keep_what_was_written() -> None:
    chip = Chip()
    assert ask(chip, "08 6302 12 633D 07") == b"\x09"
    assert ask(chip, "06 633D 6302") == bytes.fromhex("07 07 12")


def test_the_general_status_lists_the_targets() -> None:
    chip = searching_once(card("DEADBEEF"))
    assert ask(chip, "04") == bytes.fromhex("05 00 00 00 00")
    ask(chip, "4A 01 00")
    assert ask(chip, "04") == bytes.fromhex("05 00 00 01 01 00 00 10 00")


def test_with_the_chips_crc_off_a_host_sends_its_own() -> None:
    chip = searching_once(card("04A1B2C3D4E5F6"))
    ask(chip, "4A 01 00")
    ask(chip, "08 6302 00")
    good = (b"\x30\x00" + crc_a(b"\x30\x00")).hex()
    assert ask(chip, f"42 {good}")[1] == 0x00
    assert ask(chip, "42 3000 0000") == bytes.fromhex("4301")


def test_an_iso_dep_card_follows_the_block_protocol() -> None:
    chip = searching_once(card("04A1B2C3D4E5F6", iso_dep=True))
    ask(chip, "4A 01 00")
    assert ask(chip, "42 E080") == bytes.fromhex("4300 067577810280")
    assert ask(chip, "42 02 00CA0000") == bytes.fromhex("4300 02 6D00")
    assert ask(chip, "42 B2") == bytes.fromhex("4300 02 6D00")  # ISO/IEC 14443-4, rule 11
    assert ask(chip, "42 B3") == bytes.fromhex("4300 A2")  # rule 12
    assert ask(chip, "42 C2") == bytes.fromhex("4300 C2")
    assert ask(chip, "42 02 00CA0000") == bytes.fromhex("4301")


def test_a_uid_of_another_size_is_no_card() -> None:
    with pytest.raises(ValueError, match="5 bytes"):
        card("0102030405")
