"""The OSDP peripheral alone: a frame and the time in, the reply out."""

import itertools
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwsim.osdp import (
    CRC_USED,
    DEFAULT_KEY,
    SECURITY_BLOCK,
    SOM,
    Abilities,
    Command,
    Deframer,
    Nak,
    Peripheral,
    Reply,
    SecureSession,
    Timed,
    check_holds,
    sealed,
)

GOLDEN = tomllib.loads((Path(__file__).parents[1] / "golden" / "osdp.toml").read_text())
KEY = bytes(range(16))
MS = 1_000_000


def command(code: int, data: bytes = b"", *, sequence: int = 0, address: int = 0) -> bytes:
    return sealed(bytes([SOM, address, 0, 0, CRC_USED | sequence, code]) + data)


def said(reply: bytes) -> tuple[int, bytes]:
    """Code and data of a reply in clear."""
    assert check_holds(reply)
    return reply[5], reply[6:-2]


class Panel:
    """The other end of a secure channel, by the same annex."""

    def __init__(self, reader: Peripheral, key: bytes, *, default: bool = False) -> None:
        self.reader = reader
        self.sequence = 0
        kind = 0 if default else 1
        rnd_a = bytes.fromhex(GOLDEN["session"]["rnd_a"])
        reply = self._handshake(bytes([3, 0x11, kind]), Command.CHLNG, rnd_a)
        self.refused = reply[5] == Reply.NAK
        if self.refused:
            return
        uid_end = 5 + 3 + 1 + 8
        self.session = SecureSession(key, rnd_a, reply[uid_end : uid_end + 8])
        assert reply[uid_end + 8 : uid_end + 24] == self.session.client_cryptogram
        self._handshake(bytes([3, 0x13, kind]), Command.SCRYPT, self.session.server_cryptogram)

    def _handshake(self, block: bytes, code: int, data: bytes) -> bytes:
        head = bytes([SOM, self.reader.address, 0, 0, CRC_USED | SECURITY_BLOCK | self.sequence])
        self.sequence = self.sequence % 3 + 1
        return self.reader.receive(sealed(head + block + bytes([code]) + data), 0)[0]

    def ask(self, code: int, data: bytes = b"", now_ns: int = 0) -> tuple[int, bytes]:
        session = self.session
        head = bytes([SOM, self.reader.address, 0, 0, CRC_USED | SECURITY_BLOCK | self.sequence])
        whole = head + bytes([2, 0x17 if data else 0x15, code])
        whole += session.encrypt(data, session.r_mac) if data else b""
        whole = whole[:2] + (len(whole) + 6).to_bytes(2, "little") + whole[4:]
        session.c_mac = session.mac(whole, session.r_mac)
        self.sent = sealed(whole + session.c_mac[:4])
        self.sequence = self.sequence % 3 + 1
        reply, _ = self.reader.receive(self.sent, now_ns)
        assert check_holds(reply)
        if not reply[4] & SECURITY_BLOCK:
            return said(reply)
        session.r_mac = session.mac(reply[:-6], session.c_mac)
        assert reply[-6:-2] == session.r_mac[:4]
        plain = reply[8:-6]
        if reply[6] == 0x18:
            decrypted = session.decrypt(plain, session.c_mac)
            assert decrypted is not None
            plain = decrypted
        return reply[7], plain


@pytest.mark.parametrize("golden", GOLDEN["frame"], ids=lambda golden: golden["source"])
def test_published_frames_are_whole_and_sealed_as_ours_are(golden: dict[str, object]) -> None:
    frame = bytes.fromhex(str(golden["hex"]))
    assert list(Deframer().feed(b"\xff" + frame)) == [frame]
    assert check_holds(frame)
    assert sealed(frame[: -2 if frame[4] & CRC_USED else -1]) == frame
    assert (frame[1], frame[4] & 3, frame[5]) == (
        golden["address"],
        golden["sequence"],
        golden["command"],
    )


def test_the_published_session_has_our_keys_and_cryptograms() -> None:
    golden = {key: value for key, value in GOLDEN["session"].items() if key != "source"}
    given_ = {key: bytes.fromhex(value) for key, value in golden.items()}
    session = SecureSession(given_["scbk"], given_["rnd_a"], given_["rnd_b"])
    assert given_["scbk"] == DEFAULT_KEY
    for name in ("s_enc", "s_mac1", "s_mac2", "server_cryptogram", "client_cryptogram", "r_mac"):
        assert getattr(session, name) == given_[name], name


@given(st.binary(max_size=200), st.binary(min_size=16, max_size=16))
def test_what_is_encrypted_is_decrypted(data: bytes, chained: bytes) -> None:
    session = SecureSession(KEY, bytes(8), bytes(8))
    assert session.decrypt(session.encrypt(data, chained), chained) == data


@given(st.lists(st.binary(min_size=1, max_size=40)), st.lists(st.integers(0, 999)))
def test_frames_come_out_whole_however_they_are_split(bodies: list[bytes], cuts: list[int]) -> None:
    frames = [sealed(bytes([SOM, 1, 0, 0, CRC_USED]) + body) for body in bodies]
    data = b"".join(frames)
    places = sorted({cut % (len(data) + 1) for cut in cuts} | {0, len(data)})
    deframer = Deframer()
    pieces = [data[a:b] for a, b in itertools.pairwise(places)]
    assert [frame for piece in pieces for frame in deframer.feed(piece)] == frames


def test_a_reader_says_who_it_is_and_what_it_has() -> None:
    reader = Peripheral(5, abilities=Abilities(inputs=1, outputs=0))
    assert said(reader.receive(command(Command.ID, b"\0", address=5), 0)[0]) == (
        Reply.PDID,
        reader.identity,
    )
    code, data = said(reader.receive(command(Command.CAP, b"\0", sequence=1, address=5), 0)[0])
    records = {data[at]: (data[at + 1], data[at + 2]) for at in range(0, len(data), 3)}
    assert code == Reply.PDCAP
    assert records[1] == (2, 1)
    assert records[2] == (0, 0)
    assert records[9] == (1, 1)


def test_another_address_and_a_wrong_check_are_not_answered() -> None:
    reader = Peripheral(5)
    assert reader.receive(command(Command.ID, b"\0", address=6), 0)[0] == b""
    spoilt = bytearray(command(Command.ID, b"\0", address=5))
    spoilt[-1] ^= 1
    assert reader.receive(bytes(spoilt), 0)[0] == b""


def test_the_same_sequence_number_gets_the_very_same_reply() -> None:
    reader = Peripheral(0, key=KEY)
    panel = Panel(reader, KEY)
    reader.card("1" * 26)
    code, _ = panel.ask(Command.POLL)
    again, _ = reader.receive(panel.sent, 0)
    assert code == Reply.RAW
    assert again == reader._last_reply
    assert panel.ask(Command.POLL) == (Reply.ACK, b"")


def test_a_sequence_number_that_is_not_next_is_refused() -> None:
    reader = Peripheral(0)
    reader.receive(command(Command.POLL), 0)
    reply, _ = reader.receive(command(Command.POLL, sequence=3), 0)
    assert said(reply) == (Reply.NAK, bytes([Nak.SEQUENCE]))


def test_cards_keys_inputs_and_tamper_come_in_a_session_one_a_poll() -> None:
    reader = Peripheral(0, key=KEY)
    panel = Panel(reader, KEY)
    reader.card("10100000000000000000000001")
    reader.keys("12*#")
    reader.set_input(2, active=True)
    reader.tamper(active=True)
    assert panel.ask(Command.POLL) == (Reply.RAW, bytes.fromhex("00001a00a0000040"))
    assert panel.ask(Command.POLL) == (Reply.KEYPAD, bytes.fromhex("000431327f0d"))
    assert panel.ask(Command.POLL) == (Reply.ISTATR, b"\x00\x01")
    assert panel.ask(Command.POLL) == (Reply.LSTATR, b"\x01\x00")
    assert panel.ask(Command.POLL) == (Reply.ACK, b"")
    assert panel.ask(Command.ISTAT) == (Reply.ISTATR, b"\x00\x01")


def test_an_output_is_timed_by_the_reader() -> None:
    reader = Peripheral(0, key=KEY)
    panel = Panel(reader, KEY)
    assert panel.ask(Command.OUT, bytes([1, 5, 5, 0])) == (Reply.OSTATR, b"\x00\x01")
    assert panel.ask(Command.OSTAT, now_ns=499 * MS) == (Reply.OSTATR, b"\x00\x01")
    assert panel.ask(Command.OSTAT, now_ns=501 * MS) == (Reply.OSTATR, b"\x00\x00")


def test_a_timer_of_zero_is_for_ever_and_off_ends_it() -> None:
    output = Timed()
    output.control(5, 0, 0)
    assert output.on(10**15)
    output.control(1, 0, 0)
    assert not output.on(0)


@pytest.mark.parametrize("wrong", [bytes(16), DEFAULT_KEY])
def test_a_wrong_key_opens_no_session(wrong: bytes) -> None:
    reader = Peripheral(0, key=KEY)
    with pytest.raises(AssertionError):
        Panel(reader, wrong)
    assert not reader.secure


def test_the_default_key_opens_a_session_in_install_mode_only_and_a_key_set_ends_it() -> None:
    assert Panel(Peripheral(0), DEFAULT_KEY, default=True).refused
    with pytest.raises(AssertionError):
        Panel(Peripheral(0, key=KEY), DEFAULT_KEY, default=True)
    reader = Peripheral(0, install_mode=True)
    panel = Panel(reader, DEFAULT_KEY, default=True)
    assert panel.ask(Command.KEYSET, bytes([1, 16]) + KEY) == (Reply.ACK, b"")
    assert not reader.install_mode
    assert Panel(reader, KEY, default=True).reader.secure
    assert Panel(reader, KEY).reader.secure


def test_a_key_is_set_in_no_other_way_than_inside_a_session() -> None:
    reader = Peripheral(0, key=KEY)
    reply, _ = reader.receive(command(Command.KEYSET, bytes([1, 16]) + bytes(16)), 0)
    assert said(reply) == (Reply.NAK, bytes([Nak.SECURITY_NEEDED]))
    assert reader.key == KEY


def test_a_reader_that_lost_power_refuses_the_old_session() -> None:
    reader = Peripheral(0, key=KEY)
    panel = Panel(reader, KEY)
    reader.power_on()
    assert panel.ask(Command.POLL)[0] == Reply.NAK
