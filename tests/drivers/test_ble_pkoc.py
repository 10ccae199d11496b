"""PKOC over BLE as pure values: who is believed, and every way not to be."""

from datetime import timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers.aead import AESCCM
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.drivers import ble_sessions
from gateway.drivers.ble_pkoc import (
    CCM_NONCE,
    NONCE_AGE_MAX,
    WRITES_MAX,
    Answer,
    PkocConversation,
    Proven,
    Refused,
    Send,
    answered,
)
from gateway.drivers.ble_sessions import Attempts
from gateway.drivers.cards.p256 import verifies
from hwsim.bluez.site import key_named
from hwsim.phones import parse, raw_signature, tlv, uncompressed

SITE, READER, OTHER = bytes(range(16)), bytes(range(16, 32)), bytes(range(32, 48))
SITE_KEY = key_named("site")
ALICE = key_named("alice")
START = timedelta(seconds=100)
SOON = START + timedelta(seconds=1)


def conversation(*, reader: bytes = READER, **changed: Any) -> PkocConversation:
    options: dict[str, Any] = {"site_key": SITE_KEY, "plain": True, **changed}
    return PkocConversation(SITE, reader, START, **options)


def plain_proof(hello: bytes, key: ec.EllipticCurvePrivateKey = ALICE) -> bytes:
    said = parse(hello)
    signature = tlv(0x03, raw_signature(key, said[0x02]))
    return tlv(0x01, uncompressed(ALICE)) + signature + tlv(0x09, bytes(4)) + tlv(0x0C, said[0x0C])


class EcdhePhone:
    def __init__(self, hello: bytes) -> None:
        said = parse(hello)
        self.ours = key_named("ephemeral")
        mine = uncompressed(self.ours)
        theirs = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), said[0x02])
        digest = hashes.Hash(hashes.SHA256())
        digest.update(self.ours.exchange(ec.ECDH(), theirs))
        self.secret = digest.finalize()
        self.first = tlv(0x07, mine) + tlv(0x0C, said[0x0C])
        self.tail = mine[1:33] + said[0x02][1:]
        self.transcript = said[0x0E] + said[0x0D] + self.tail

    def proof(self, signed: bytes | None = None) -> bytes:
        signature = raw_signature(ALICE, self.transcript if signed is None else signed)
        clear = tlv(0x01, uncompressed(ALICE)) + tlv(0x03, signature) + tlv(0x09, bytes(4))
        return tlv(0x40, AESCCM(self.secret, 16).encrypt(CCM_NONCE, clear, None))


def test_the_hello_says_version_ephemeral_key_reader_and_site() -> None:
    said = parse(conversation().hello())
    assert list(said) == [0x0C, 0x02, 0x0D, 0x0E]
    assert said[0x0C] == bytes.fromhex("0300000001")
    assert (said[0x0D], said[0x0E]) == (READER, SITE)
    assert len(said[0x02]) == 33


def test_every_conversation_has_a_nonce_of_its_own() -> None:
    assert len({conversation().hello() for _ in range(20)}) == 20


def test_the_ccm_nonce_is_that_of_the_reference_codes_own_tests() -> None:
    # CryptoProviderTests.java: a prefix of 00 00 00 00 00 00 00 01, the counter big-endian, from 1.
    assert bytes.fromhex("000000000000000100000001") == CCM_NONCE


def test_a_plain_proof_is_believed() -> None:
    door = conversation()
    assert door.receive(plain_proof(door.hello()), SOON) == Proven(uncompressed(ALICE))


def test_a_proof_in_two_writes_is_believed() -> None:
    door = conversation()
    proof = plain_proof(door.hello())
    assert door.receive(proof[:67], SOON) is None
    assert isinstance(door.receive(proof[67:], SOON), Proven)


def test_an_encrypted_proof_is_believed_and_the_site_has_signed_for_this_reader() -> None:
    door = conversation(plain=False)
    phone = EcdhePhone(door.hello())
    sent = door.receive(phone.first, SOON)
    assert isinstance(sent, Send)
    assert verifies(uncompressed(SITE_KEY), parse(sent.data)[0x03], phone.transcript)
    assert door.receive(phone.proof(), SOON) == Proven(uncompressed(ALICE))


def test_a_proof_is_good_once() -> None:
    door = conversation()
    proof = plain_proof(door.hello())
    assert isinstance(door.receive(proof, SOON), Proven)
    assert door.receive(proof, SOON) == Refused("nonce_spent", Answer.INVALID_SECURITY)


def test_a_proof_that_comes_too_late_is_refused() -> None:
    door = conversation()
    late = START + NONCE_AGE_MAX + timedelta(microseconds=1)
    refused = door.receive(plain_proof(door.hello()), late)
    assert refused == Refused("nonce_too_old", Answer.INVALID_SECURITY)


def test_a_proof_from_another_conversation_is_refused() -> None:
    first, second = conversation(), conversation()
    refused = second.receive(plain_proof(first.hello()), SOON)
    assert refused == Refused("signature_invalid", Answer.SIGNATURE_INVALID)


def test_an_encrypted_proof_for_another_reader_is_refused() -> None:
    door = conversation()
    phone = EcdhePhone(door.hello())
    door.receive(phone.first, SOON)
    refused = door.receive(phone.proof(SITE + OTHER + phone.tail), SOON)
    assert refused == Refused("signature_invalid", Answer.SIGNATURE_INVALID)


def test_somebody_elses_signature_is_refused() -> None:
    door = conversation()
    refused = door.receive(plain_proof(door.hello(), key_named("mallory")), SOON)
    assert refused == Refused("signature_invalid", Answer.SIGNATURE_INVALID)


def test_the_plain_flow_is_refused_where_only_ecdhe_is_taken() -> None:
    door = conversation(plain=False)
    refused = door.receive(plain_proof(door.hello()), SOON)
    assert refused == Refused("plain_not_accepted", Answer.INVALID_SECURITY)


def test_ecdhe_is_refused_without_a_site_key() -> None:
    door = conversation(site_key=None)
    refused = door.receive(EcdhePhone(door.hello()).first, SOON)
    assert refused == Refused("no_site_key", Answer.INVALID_SECURITY)


def test_a_key_in_clear_after_ecdhe_was_begun_is_refused() -> None:
    door = conversation()
    phone = EcdhePhone(door.hello())
    door.receive(phone.first, SOON)
    refused = door.receive(phone.proof() + tlv(0x01, uncompressed(ALICE)), SOON)
    assert refused == Refused("in_clear", Answer.INVALID_SECURITY)


def test_an_altered_ciphertext_is_refused() -> None:
    door = conversation()
    phone = EcdhePhone(door.hello())
    door.receive(phone.first, SOON)
    proof = bytearray(phone.proof())
    proof[-1] ^= 1
    refused = door.receive(bytes(proof), SOON)
    assert refused == Refused("not_decrypted", Answer.DECRYPTION_FAILED)


@pytest.mark.parametrize(
    "data",
    [
        b"\x01",
        tlv(0x01, uncompressed(ALICE))[:-1],
        tlv(0x0C, b"") * 2,
        tlv(0x07, bytes(65)),
        tlv(0x07, b""),
    ],
)
def test_what_is_malformed_is_refused_and_ends_the_conversation(data: bytes) -> None:
    door = conversation()
    hello = door.hello()
    assert door.receive(data, SOON) == Refused("malformed", Answer.INVALID_SECURITY)
    assert door.receive(plain_proof(hello), SOON) == Refused("nonce_spent", Answer.INVALID_SECURITY)


def test_a_ciphertext_of_nonsense_is_malformed() -> None:
    door = conversation()
    phone = EcdhePhone(door.hello())
    door.receive(phone.first, SOON)
    sealed = tlv(0x40, AESCCM(phone.secret, 16).encrypt(CCM_NONCE, b"\x01\x41", None))
    assert door.receive(sealed, SOON) == Refused("malformed", Answer.INVALID_SECURITY)


def test_endless_writes_are_refused() -> None:
    door = conversation()
    for _ in range(WRITES_MAX):
        assert door.receive(b"", SOON) is None
    assert door.receive(b"", SOON) == Refused("too_many_writes", Answer.INVALID_SECURITY)


@settings(max_examples=60)
@given(st.lists(st.binary(max_size=160), max_size=3), st.booleans())
def test_no_bytes_of_a_stranger_are_ever_believed_or_break_it(
    writes: list[bytes], ecdhe: bool
) -> None:
    door = conversation()
    if ecdhe:
        door.receive(EcdhePhone(door.hello()).first, SOON)
    assert not any(isinstance(door.receive(data, SOON), Proven) for data in writes)


@pytest.mark.parametrize(
    ("key", "signature", "why"),
    [
        (b"\x04" + bytes(64), bytes(64), "signature_invalid"),  # no point of the curve
        (uncompressed(ALICE)[:-1], bytes(64), "malformed"),
        (uncompressed(ALICE), bytes(63), "malformed"),
    ],
)
def test_a_key_or_signature_of_another_form_proves_nothing(
    key: bytes, signature: bytes, why: str
) -> None:
    refused = conversation().receive(tlv(0x01, key) + tlv(0x03, signature), SOON)
    assert isinstance(refused, Refused)
    assert refused.why == why


def test_a_proven_key_is_not_printed() -> None:
    assert uncompressed(ALICE).hex() not in repr(Proven(uncompressed(ALICE)))


def test_the_answer_is_one_field() -> None:
    assert answered(Answer.GRANTED) == bytes.fromhex("040103")


def test_an_address_is_shut_out_after_three_refusals_for_a_minute() -> None:
    attempts = Attempts()
    for _ in range(ble_sessions.FAILURES_MAX):
        assert attempts.admits("A", START)
        attempts.failed("A", START)
    assert not attempts.admits("A", START + timedelta(seconds=59))
    assert attempts.admits("B", START)
    assert attempts.admits("A", START + ble_sessions.SHUT_OUT)
    assert attempts.admits("A", START + ble_sessions.SHUT_OUT)


def test_a_proof_that_held_forgives_the_refusals_before_it() -> None:
    attempts = Attempts()
    attempts.failed("A", START)
    attempts.failed("A", START)
    attempts.succeeded("A")
    attempts.failed("A", START)
    assert attempts.admits("A", START)


def test_changing_addresses_meet_the_limit_for_all() -> None:
    attempts = Attempts()
    admitted = [attempts.admits(f"{n}", START) for n in range(ble_sessions.ATTEMPTS_MAX + 5)]
    assert sum(admitted) == ble_sessions.ATTEMPTS_MAX
    assert attempts.admits("later", START + timedelta(seconds=1))
    assert not attempts.admits("later", START + timedelta(seconds=1))


def test_no_more_addresses_are_remembered_than_there_is_room_for() -> None:
    attempts = Attempts()
    for n in range(3 * ble_sessions.ADDRESSES_MAX):
        attempts.failed(f"{n}", START)
    assert len(attempts._failures) == ble_sessions.ADDRESSES_MAX
