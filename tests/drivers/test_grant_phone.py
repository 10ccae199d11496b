"""Phones with a carried grant at an NFC reader: the page's bytes, and every way to be refused."""

import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.domain.carried_grant import CarriedGrant, Presented
from gateway.domain.facts import CredentialRefused
from gateway.drivers.cards import GrantProof, NotThisCard, ProofRefused, reading
from gateway.drivers.cards.grant import Grant
from gateway.drivers.grant_judge import GrantJudge
from gateway.drivers.pn532 import GrantShown, Pn532Protocol
from gateway.drivers.pn532_worker import Poller
from gateway.trust.grants import Claims, issue, point, to_text, verify
from gateway.trust.keys import kid_of
from hwsim.cards import SW_INS_NOT_SUPPORTED
from hwsim.secure_cards import GrantPhone, secure_card
from hwsim.secure_cards import point as uncompressed
from tests.drivers.test_pn532 import ChipLine, Stopped, chipset

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)
HERE = "LON/gw-1"
GATEWAY, DOOR = b"G" * 16, b"D" * 16
SIGNING = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
KEYS = {kid_of(SIGNING.public_key()): SIGNING.public_key()}
ADA, EVE = (ec.derive_private_key(secret, ec.SECP256R1()) for secret in (7, 8))
SECOND = timedelta(seconds=1)


def issued(key: ec.EllipticCurvePrivateKey | None = ADA, *, doors: int = 1, aud: str = HERE) -> Any:
    """A grant for whoever holds `key`; None: for whoever shows it."""
    grant = CarriedGrant(
        id="00112233445566ff", holder="v-ada", medium="device" if key else "paper",
        doors=tuple(f"door-{each:02}" for each in range(doors)), issued=NOON, not_before=NOON,
        expires=NOON + 3600 * SECOND, uses=1,
    )  # fmt: skip
    claims = Claims(grant, (aud,), point(key.public_key()) if key else None)
    return issue(claims, SIGNING, kid_of(SIGNING.public_key()))


def conversation(seed: int = 1, reader: bytes = GATEWAY + DOOR) -> Any:
    return Grant(reader, random.Random(seed).randbytes).read(b"")


def talk(talking: Any, card: Callable[[bytes], bytes]) -> tuple[GrantProof, int]:
    """Let both talk; what the phone showed, and in how many commands."""
    command = next(talking)
    for count in range(1, 20):
        try:
            command = talking.send(card(command))
        except StopIteration as done:
            return done.value, count
    raise AssertionError("no end")


def judged(proof: GrantProof, judge: GrantJudge | None = None, age: float = 0.3) -> str | Presented:
    """What becomes of a phone at the core: why its proof is none, or what the doors verify."""
    judge = judge or GrantJudge("reader", GATEWAY + DOOR)
    fact = judge.judge(proof, 10 * SECOND, 10.2 * SECOND, (10 + age) * SECOND)
    if isinstance(fact, CredentialRefused):
        assert fact.kind == "grant"
        return fact.why
    assert fact.kind == "carried_key"
    assert proof.grant.hex() not in repr(fact)
    return verify(fact.value, KEYS, HERE)


def test_a_grant_and_its_holders_key_are_shown_in_two_commands_and_believed() -> None:
    phone = GrantPhone(ADA, issued())
    proof, commands = talk(conversation(), phone.apdu)
    assert commands == 2
    found = judged(proof)
    assert isinstance(found, CarriedGrant)
    assert (found.holder, found.kind) == ("v-ada", "carried_key")
    assert repr(proof) == "GrantProof()"


def test_a_longer_grant_takes_a_command_more_for_each_240_bytes() -> None:
    long = issued(doors=16)
    assert 237 < len(long) <= 477
    proof, commands = talk(conversation(), GrantPhone(ADA, long).apdu)
    assert (proof.grant, commands) == (long, 3)
    assert isinstance(judged(proof), CarriedGrant)


def test_the_commands_and_the_signed_bytes_are_the_pages() -> None:
    said: list[str] = []
    phone = GrantPhone(ADA, b"any bytes")

    def heard(command: bytes) -> bytes:
        said.append(command.hex().upper())
        return phone.apdu(command)

    proof, _ = talk(conversation(), heard)
    nonce = random.Random(1).randbytes(32)
    assert said == [
        "00A404000AF0446F6F724772616E7400",
        "8010000040" + (GATEWAY + DOOR + nonce).hex().upper() + "00",
    ]
    assert proof[:2] == (nonce, uncompressed(ADA))
    assert proof.grant == b"any bytes"


OTHER = b"X" * 16


@pytest.mark.parametrize(
    ("phone", "why"),
    [
        (GrantPhone(ADA, issued(), signs_with=EVE), "not_authentic"),
        (GrantPhone(ADA, issued(), signs_for=GATEWAY + OTHER), "not_authentic"),
        (GrantPhone(ADA, issued(), signs_for=OTHER + DOOR), "not_authentic"),
        (GrantPhone(ADA, issued(), replays=bytes(129)), "not_authentic"),
        # A good proof, by a key that isn't the grant's: copied onto another phone.
        (GrantPhone(EVE, issued(ADA)), "grant_key_unproven"),
        (GrantPhone(ADA, issued(EVE)), "grant_key_unproven"),
        (GrantPhone(ADA, issued(aud="LON/gw-2")), "grant_wrong_audience"),
        (GrantPhone(ADA, issued()[:-1] + bytes([issued()[-1] ^ 1])), "grant_bad_signature"),
        (GrantPhone(ADA, b"\x80"), "grant_malformed"),
    ],
)
def test_what_is_not_its_holders_or_not_for_here_opens_nothing(phone: GrantPhone, why: str) -> None:
    proof, _ = talk(conversation(), phone.apdu)
    assert judged(proof) == why


def test_a_recorded_proof_is_good_for_no_other_question_and_for_none_twice() -> None:
    phone = GrantPhone(ADA, issued())
    judge = GrantJudge("reader", GATEWAY + DOOR)
    first, _ = talk(conversation(1), phone.apdu)
    assert isinstance(judged(first, judge), CarriedGrant)
    assert judged(first, judge) == "nonce_spent"
    eve = GrantPhone(EVE, issued(), replays=phone.proofs[0])
    again, _ = talk(conversation(2), eve.apdu)
    assert judged(again, judge) == "not_authentic"


def test_a_proof_for_another_grant_of_the_same_holder_is_none() -> None:
    proof, _ = talk(conversation(), GrantPhone(ADA, issued()).apdu)
    assert judged(proof._replace(grant=issued(doors=2))) == "not_authentic"


def test_a_nonce_older_than_five_seconds_is_refused() -> None:
    proof, _ = talk(conversation(), GrantPhone(ADA, issued()).apdu)
    assert judged(proof, age=5.1) == "nonce_too_old"
    assert isinstance(judged(proof, age=4.9), CarriedGrant)


def test_a_proof_of_another_reader_of_this_gateway_is_none_here() -> None:
    proof, _ = talk(conversation(reader=GATEWAY + OTHER), GrantPhone(ADA, issued()).apdu)
    assert judged(proof) == "not_authentic"


def test_a_code_that_is_handed_over_counts_as_one_and_a_device_grant_as_a_code_as_none() -> None:
    proof, _ = talk(conversation(), GrantPhone(ADA, issued(None)).apdu)
    found = judged(proof)
    assert isinstance(found, CarriedGrant)
    assert found.kind == "carried"
    assert verify(to_text(issued()), KEYS, HERE) == "grant_key_unproven"


@pytest.mark.parametrize("value", ["", ":", "zz:00", "02:zz", "DG2:AB", "0200"])
def test_a_value_that_no_reader_makes_is_malformed(value: str) -> None:
    assert verify(value, KEYS, HERE) == "grant_malformed"


@pytest.mark.parametrize(
    ("answers", "why"),
    [
        (["9000"], "version"),
        (["0200019000"], "version"),
        (["01049000"], "malformed"),
        (["0100009000"], "malformed"),
        (["0104019000"], "malformed"),  # 1,025 bytes
        (["010001AABB9000"], "malformed"),
        (["010002AA9000", "6A82"], "malformed"),
        (["010002AA9000", "9000"], "malformed"),
        (["010002AA9000", "BBCC9000"], "malformed"),
        (["010001AA9000", "6985"], "declined"),
        (["010001AA9000", ""], "declined"),
        (["010001AA9000", "9000"], "malformed"),
        (["010001AA9000", "00" * 128 + "9000"], "malformed"),
    ],
)
def test_a_malformed_or_missing_proof_is_refused_with_its_reason(
    answers: list[str], why: str
) -> None:
    left = [bytes.fromhex(each) for each in answers]
    with pytest.raises(ProofRefused) as refused:
        talk(conversation(), lambda _command: left.pop(0))
    assert (refused.value.kind, refused.value.why) == ("grant", why)


def test_a_phone_without_a_grant_is_asked_for_the_next_technology() -> None:
    with pytest.raises(NotThisCard):
        talk(conversation(), lambda _command: SW_INS_NOT_SUPPORTED)


@settings(max_examples=60)
@given(st.lists(st.binary(max_size=300), max_size=8))
def test_whatever_a_phone_answers_only_a_proof_is_one(answers: list[bytes]) -> None:
    left = iter(answers)
    try:
        proof, _ = talk(conversation(), lambda _command: next(left, b""))
    except (ProofRefused, NotThisCard):
        return
    assert judged(proof) == "not_authentic"


# --- The reader ----------------------------------------------------------------------------------


def polled(phone: GrantPhone, slow_ns: int = 0) -> list[str]:
    """What a reader says of a phone that takes `slow_ns` for each answer."""
    line, said = ChipLine(random.Random(1)), list[str]()
    told = {"credentials": ["grant"], "grant": {"reader_identifier": (GATEWAY + DOOR).hex()}}
    read = partial(reading.read, reading.technologies(told, random.Random(9).randbytes))
    shown = secure_card("08112233", phone)
    answer = shown.apdu

    def slowly(command: bytes) -> bytes:
        line.now_ns += slow_ns
        return answer(command)

    shown.apdu = slowly
    looks = 0

    def wait(seconds: float) -> None:
        nonlocal looks
        line.now_ns += int(seconds * 1e9)
        looks += 1
        if looks == 20:
            line.chip.put(shown)
        if looks > 40:
            raise Stopped

    poller = Poller(chipset(line), said.append, lambda: line.now_ns, read=read, takes_uids=False)
    with pytest.raises(Stopped):
        poller.run(wait)
    return [each for each in said if each[0] in "OUPGX"]


def test_through_the_chip_and_the_workers_line_a_phone_opens_once_while_it_stays() -> None:
    phone = GrantPhone(ADA, issued(doors=16))
    said = polled(phone)
    protocol = Pn532Protocol("reader")
    _online, shown = protocol.receive("".join(f"{each}\n" for each in said).encode())
    assert isinstance(shown, GrantShown)
    assert isinstance(judged(shown.proof), CarriedGrant)
    assert shown.began < shown.at


def test_a_phone_that_asks_for_more_and_more_time_is_refused_and_not_asked_again() -> None:
    _, refused = polled(GrantPhone(ADA, issued(), late=True))
    assert refused.startswith("X grant nonce_too_old ")


def test_a_phone_that_proves_too_late_is_refused_and_not_asked_again() -> None:
    phone = GrantPhone(ADA, issued())
    _, refused = polled(phone, slow_ns=800_000_000)
    assert refused.startswith("X grant nonce_too_old ")
    assert len(phone.proofs) == 1


def test_the_longest_grant_fits_on_the_workers_line() -> None:
    protocol = Pn532Protocol("reader")
    protocol.receive(b"O 1\n")
    proof = GrantProof(bytes(32), bytes(65), bytes(64), bytes(1024))
    said = f"G {' '.join(part.hex() for part in proof)} {'9' * 19} {'9' * 19}\n".encode()
    for split in (1, 1000, 2400):
        assert protocol.receive(said[:split]) == []
        (shown,) = protocol.receive(said[split:])
        assert isinstance(shown, GrantShown)
        assert shown.proof == proof
