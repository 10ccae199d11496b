"""Carried grants as bytes and as texts: one form, verified in the specification's order."""

import random
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, get_args

import cbor2
import pytest
from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP256R1,
    derive_private_key,
    generate_private_key,
)
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from pycose import headers
from pycose.algorithms import EdDSA
from pycose.keys.curves import Ed25519
from pycose.keys.okp import OKPKey
from pycose.messages.sign1message import Sign1Message

from gateway.domain.carried_grant import CarriedGrant, Refusal
from gateway.trust import cose
from gateway.trust.grants import (
    CONTEXT,
    Claims,
    GrantUnfit,
    base45,
    from_base45,
    issue,
    point,
    to_text,
    verify,
    verify_message,
)
from gateway.trust.keys import kid_of

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)
HERE = "LON/gw-1"
KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
KID = b"grantkey"
KEYS: dict[bytes, cose.PublicKey] = {KID: KEY.public_key()}
PHONE = point(derive_private_key(7, SECP256R1()).public_key())
REFUSALS = set(get_args(Refusal))

VISIT = CarriedGrant(
    id="00112233445566778899aabbccddeeff",
    holder="v-ada",
    medium="paper",
    doors=("front",),
    zones=("club",),
    issued=NOON,
    not_before=NOON,
    expires=NOON + timedelta(hours=9),
    uses=4,
)


def claims(key: bytes | None = None, audiences: tuple[str, ...] = (HERE,), **other: Any) -> Claims:
    return Claims(replace(VISIT, **other), audiences, key)


def text(*arguments: Any, **other: Any) -> str:
    return to_text(issue(claims(*arguments, **other), KEY, KID))


def test_the_pages_example_is_what_it_says() -> None:
    page = (Path(__file__).parents[2] / "docs" / "spec" / "carried-grants.md").read_text("utf-8")
    message, code = re.findall(r"```\n(.+)\n```", page)
    key = Ed25519PrivateKey.from_private_bytes(
        bytes.fromhex(re.findall(r"`([0-9a-f]{64})`", page)[0])
    )
    keys: dict[bytes, cose.PublicKey] = {kid_of(key.public_key()): key.public_key()}
    grant = replace(VISIT, id="00112233aabbccdd", zones=(), uses=1)
    assert verify(code, keys, HERE) == verify_message(bytes.fromhex(message), keys, HERE) == grant


def test_a_peers_signature_over_the_pages_form_is_taken() -> None:
    """pycose signs, and the payload is written out by hand."""
    payload = cbor2.dumps({
        2: "v-ada", 3: [HERE], 4: 1780347600, 5: 1780315200, 6: 1780315200,
        7: bytes.fromhex(VISIT.id), -65537: [1, ["front"], ["club"], 4],
    })  # fmt: skip
    theirs = Sign1Message(
        phdr={headers.Algorithm: EdDSA, headers.KID: KID}, payload=payload, external_aad=CONTEXT
    )
    theirs.key = OKPKey(
        crv=Ed25519, x=KEY.public_key().public_bytes_raw(), d=KEY.private_bytes_raw()
    )
    assert verify_message(theirs.encode(), KEYS, HERE) == VISIT


def test_what_was_issued_is_verified_and_is_what_it_was() -> None:
    assert verify(text(), KEYS, HERE) == VISIT


@pytest.mark.parametrize(
    ("plain", "coded"), [("AB", "BB8"), ("Hello!!", "%69 VD92EX0"), ("base-45", "UJCLQE7W581")]
)
def test_base45_is_that_of_the_rfc(plain: str, coded: str) -> None:  # RFC 9285, section 4.3
    assert base45(plain.encode()) == coded
    assert from_base45(coded) == plain.encode()


@pytest.mark.parametrize("odd", [":::", "A", "BB8A", "GGW", "::", "bb8", "BB8\n", "BB!"])
def test_what_is_no_base45_is_refused(odd: str) -> None:  # 65,536 (GGW) and 256 and more don't fit
    with pytest.raises(ValueError, match="no base45"):
        from_base45(odd)
    assert verify("DG1:" + odd, KEYS, HERE) == "grant_malformed"


def test_the_first_thing_that_is_wrong_is_the_reason() -> None:
    message = issue(claims(PHONE, ("LON/gw-2",), medium="device", uses=0), KEY, KID)
    stranger = Ed25519PrivateKey.generate()
    assert verify_message(b"", KEYS, HERE) == "grant_malformed"
    assert verify_message(message, {}, HERE) == "grant_unknown_key"
    late = verify_message(message, KEYS, HERE, believed_until=NOON)
    assert late == "grant_unknown_key"
    assert verify_message(message, {KID: stranger.public_key()}, HERE) == "grant_bad_signature"
    assert verify_message(message, KEYS, HERE) == "grant_wrong_audience"
    assert verify_message(message, KEYS, "LON/gw-2") == "grant_key_unproven"
    other = point(generate_private_key(SECP256R1()).public_key())
    assert verify_message(message, KEYS, "LON/gw-2", other) == "grant_key_unproven"
    found = verify_message(message, KEYS, "LON/gw-2", PHONE)
    assert isinstance(found, CarriedGrant)
    assert found.kind == "carried_key"


def test_a_signature_for_another_purpose_is_worth_nothing() -> None:
    payload = cose.parse1(issue(claims(), KEY, KID)).payload
    command = cose.sign1(payload, KEY, KID, context=b"door-gateway/command/v1")
    assert verify_message(command, KEYS, HERE) == "grant_bad_signature"
    p256 = generate_private_key(SECP256R1())
    phones = cose.sign1(payload, p256, KID, context=CONTEXT)
    assert verify_message(phones, {KID: p256.public_key()}, HERE) == "grant_unknown_key"


MINUTE, DAY = timedelta(minutes=1), timedelta(days=1)


@pytest.mark.parametrize(
    ("what", "unfit"),
    [
        ("opens nothing", {"doors": (), "zones": ()}),
        ("not before exp", {"not_before": NOON + DAY}),
        ("not before exp", {"expires": NOON - MINUTE, "not_before": NOON - 2 * MINUTE}),
        ("too far before iat", {"not_before": NOON - MINUTE - timedelta(seconds=1)}),
        ("for one gateway", {"audiences": (HERE, "LON/gw-2")}),
        ("with a device", {"medium": "device"}),
        ("with a device", {"key": PHONE}),
        ("used once", {"medium": "screen", "expires": NOON + MINUTE}),
        ("lasts 60 s", {"medium": "screen", "uses": 1, "expires": NOON + 2 * MINUTE}),
        ("lasts 60 s", {"medium": "screen", "uses": 1, "expires": NOON + MINUTE,
                        "not_before": NOON + timedelta(seconds=1)}),
        ("lasts a day", {"uses": 0, "expires": NOON + DAY + timedelta(seconds=1)}),
        ("31 days", {"expires": NOON + 31 * DAY + timedelta(seconds=1)}),
        ("uses", {"uses": 1001}),
        ("aud", {"audiences": ()}),
        ("sub", {"holder": ""}),
        ("sub", {"holder": "h" * 129}),
        ("cti", {"id": "00" * 7}),
        ("doors", {"doors": tuple(f"d{number:02}" for number in range(17))}),
        ("doors: order", {"doors": ("a", "a")}),
        ("no point", {"key": b"\x02" + b"\xff" * 32, "medium": "device"}),
    ],
)  # fmt: skip
def test_a_grant_that_breaks_the_form_is_not_made(what: str, unfit: dict[str, Any]) -> None:
    with pytest.raises(GrantUnfit, match=what):
        issue(claims(**unfit), KEY, KID)


def test_a_code_has_no_more_characters_than_a_scanner_reads() -> None:
    with pytest.raises(GrantUnfit, match="name fewer doors"):
        text(doors=tuple(f"a door with a long name {number:02}" for number in range(16)))


def signed(payload: object) -> bytes:
    return cose.sign1(cbor2.dumps(payload, canonical=True), KEY, KID, context=CONTEXT)


def wrong_forms() -> list[dict[Any, Any]]:
    good: dict[Any, Any] = cbor2.loads(cose.parse1(issue(claims(), KEY, KID)).payload)
    found = [{k: v for k, v in good.items() if k != each} for each in good]
    odds: tuple[Any, ...] = (None, -1, 1.5, True, "", [], {}, b"")
    found += [{**good, each: odd} for each in good for odd in odds]
    found += [{**good, 9: 1}, {**good, "sub": "x"}, {**good, 4: float(good[4])}]
    found += [{(2.0 if k == 2 else k): v for k, v in good.items()}]
    odds = ([1, ["b", "a"], [], 4], [True, ["a"], [], 4], [1, ["a"], [], True], [1, ["a"], []],
            [3, ["a"], [], 1], [1, ["a"], [], 1, 1])  # fmt: skip
    found += [{**good, -65537: odd} for odd in odds]
    x = PHONE[1:]
    device = {**good, -65537: [2, ["front"], [], 4]}
    key = {1: 2, -1: 1, -2: x, -3: PHONE[0] == 3}
    assert isinstance(
        verify_message(signed({**device, 8: {1: key}}), KEYS, HERE, PHONE), CarriedGrant
    )
    odds = (key, {1: {**key, 1: 2.0}}, {True: key}, {1: {**key, 4: b"x"}}, {1: key, 2: 1},
            {1: {**key, -3: 1}}, {1: {**key, -3: x}}, {1: {**key, -2: x[1:]}})  # fmt: skip
    return [*found, *({**device, 8: odd} for odd in odds)]


@pytest.mark.parametrize("payload", wrong_forms(), ids=repr)
def test_a_signed_payload_of_another_form_is_malformed(payload: dict[Any, Any]) -> None:
    assert verify_message(signed(payload), KEYS, HERE, PHONE) == "grant_malformed"


@settings(max_examples=150)
@given(data=st.binary(max_size=300))
def test_arbitrary_bytes_are_refused(data: bytes) -> None:
    assert verify_message(data, KEYS, HERE) == "grant_malformed"
    assert verify("DG1:" + base45(data)[:500], KEYS, HERE) == "grant_malformed"


@settings(max_examples=150)
@given(characters=st.text(max_size=600))
def test_arbitrary_texts_are_refused(characters: str) -> None:
    assert verify(characters, KEYS, HERE) == "grant_malformed"
    assert verify("DG1:" + characters, KEYS, HERE) == "grant_malformed"


def test_no_mutation_and_no_piece_of_a_grant_is_taken_for_one() -> None:
    message = issue(claims(), KEY, KID)
    rng = random.Random(5)
    for bit in range(len(message) * 8):
        changed = bytearray(message)
        changed[bit // 8] ^= 1 << bit % 8
        assert verify_message(bytes(changed), KEYS, HERE) in REFUSALS
    for length in range(len(message)):
        assert verify_message(message[:length], KEYS, HERE) == "grant_malformed"
        longer = message + rng.randbytes(length + 1)
        assert verify_message(longer, KEYS, HERE) == "grant_malformed"
