import contextlib
import tomllib
from pathlib import Path
from typing import Any

import cbor2
import pytest
from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP256R1,
    SECP384R1,
    EllipticCurvePublicNumbers,
    generate_private_key,
)
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from hypothesis import given, settings
from hypothesis import strategies as st
from pycose.algorithms import EdDSA, Es256
from pycose.headers import KID, Algorithm
from pycose.keys.curves import P256, Ed25519
from pycose.keys.ec2 import EC2Key
from pycose.keys.okp import OKPKey
from pycose.messages.sign1message import Sign1Message

from gateway.trust.cose import (
    HEADER_BYTES_MAX,
    SIGN1_TAG,
    NotSigned,
    PrivateKey,
    PublicKey,
    decode,
    encode,
    parse1,
    sign1,
    signature_holds,
    signature_input,
    verify1,
)

GOLDEN = tomllib.loads(
    (Path(__file__).parent.parent / "golden" / "cose.toml").read_text(encoding="utf-8")
)
CONTEXT = b"door-gateway/test/v1"
KID_8 = b"8 bytes."
ED = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(GOLDEN["keys"]["ed25519"]["d"]))
EC = generate_private_key(SECP256R1())
KEYS: list[PrivateKey] = [ED, EC]


def golden_key(name: str) -> PublicKey:
    key = GOLDEN["keys"][name]
    if name == "ed25519":
        return Ed25519PublicKey.from_public_bytes(bytes.fromhex(key["x"]))
    numbers = EllipticCurvePublicNumbers(int(key["x"], 16), int(key["y"], 16), SECP256R1())
    return numbers.public_key()


@pytest.mark.parametrize("message", GOLDEN["message"], ids=lambda message: message["source"])
def test_the_working_groups_examples_hold_and_fail_as_published(message: dict[str, Any]) -> None:
    protected, _, payload, signature = cbor2.loads(bytes.fromhex(message["cbor"])).value
    signed = signature_input(protected, payload, bytes.fromhex(message["external"]))
    if "to_be_signed" in message:
        assert signed.hex() == message["to_be_signed"]
    assert signature_holds(golden_key(message["key"]), signature, signed) is message["holds"]


@pytest.mark.parametrize("message", GOLDEN["message"], ids=lambda message: message["source"])
def test_a_kid_that_nobody_signed_is_refused(message: dict[str, Any]) -> None:
    with pytest.raises(NotSigned, match="unprotected header must be empty"):
        parse1(bytes.fromhex(message["cbor"]))


@pytest.mark.parametrize("key", KEYS, ids=["EdDSA", "ES256"])
def test_what_is_signed_is_verified_and_says_by_whom(key: PrivateKey) -> None:
    message = sign1(b"payload", key, KID_8, context=CONTEXT, content_type="a/b")
    found = verify1(message, {KID_8: key.public_key()}, context=CONTEXT)
    assert (found.payload, found.kid, found.content_type) == (b"payload", KID_8, "a/b")


def test_pycose_verifies_ours() -> None:
    for key in KEYS:
        # Its decode() knows no cbor2 6, which makes what is tagged immutable.
        parts = cbor2.loads(sign1(b"payload", key, KID_8, context=CONTEXT).removeprefix(SIGN1_TAG))
        theirs = Sign1Message.from_cose_obj(parts, allow_unknown_attributes=False)
        theirs._external_aad = CONTEXT
        theirs.key = pycose_key(key)
        assert theirs.verify_signature()
        assert theirs.payload == b"payload"


def test_we_verify_pycoses() -> None:
    for key, algorithm in zip(KEYS, (EdDSA, Es256), strict=True):
        theirs = Sign1Message(
            phdr={Algorithm: algorithm, KID: KID_8}, payload=b"payload", external_aad=CONTEXT
        )
        theirs.key = pycose_key(key)
        found = verify1(theirs.encode(), {KID_8: key.public_key()}, context=CONTEXT)
        assert found.payload == b"payload"


def pycose_key(key: PrivateKey) -> OKPKey | EC2Key:
    if isinstance(key, Ed25519PrivateKey):
        return OKPKey(crv=Ed25519, x=key.public_key().public_bytes_raw(), d=key.private_bytes_raw())
    numbers = key.private_numbers()
    public = numbers.public_numbers
    x, y, d = (n.to_bytes(32, "big") for n in (public.x, public.y, numbers.private_value))
    return EC2Key(crv=P256, x=x, y=y, d=d)


def test_a_signature_for_one_purpose_is_none_for_another() -> None:
    message = sign1(b"payload", ED, KID_8, context=CONTEXT)
    with pytest.raises(NotSigned, match="not that of the key"):
        verify1(message, {KID_8: ED.public_key()}, context=b"door-gateway/other/v1")


def test_an_unknown_key_and_a_key_of_the_other_algorithm_are_refused() -> None:
    message = sign1(b"payload", ED, KID_8, context=CONTEXT)
    with pytest.raises(NotSigned, match="not known here"):
        verify1(message, {b"another": ED.public_key()}, context=CONTEXT)
    with pytest.raises(NotSigned, match="is for another"):
        verify1(message, {KID_8: EC.public_key()}, context=CONTEXT)


def test_a_key_on_another_curve_signs_nothing() -> None:
    with pytest.raises(NotSigned, match="secp384r1"):
        sign1(b"payload", generate_private_key(SECP384R1()), KID_8, context=CONTEXT)


@pytest.mark.parametrize("key", KEYS, ids=["EdDSA", "ES256"])
def test_no_bit_can_be_changed(key: PrivateKey) -> None:
    message = sign1(b"pay", key, b"k", context=CONTEXT)
    keys = {b"k": key.public_key()}
    for bit in range(len(message) * 8):
        changed = bytearray(message)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(NotSigned):
            verify1(bytes(changed), keys, context=CONTEXT)


HEADER = encode({1: -8, 4: b"k"})
SIGNATURE = bytes(64)


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ([HEADER, {}, b"", SIGNATURE], "tagged 18"),
        (cbor2.CBORTag(98, [HEADER, {}, b"", SIGNATURE]), "tagged 18"),
        (cbor2.CBORTag(18, [HEADER, {}, b""]), "it is"),
        (cbor2.CBORTag(18, [HEADER, {}, None, SIGNATURE]), "it is"),
        (cbor2.CBORTag(18, [HEADER, {}, b"", bytes(63)]), "63 bytes"),
        (cbor2.CBORTag(18, [b"", {}, b"", SIGNATURE]), "not CBOR"),
        (cbor2.CBORTag(18, [encode([1]), {}, b"", SIGNATURE]), "protected header"),
        (cbor2.CBORTag(18, [encode({1: -8}), {}, b"", SIGNATURE]), "protected header"),
        (cbor2.CBORTag(18, [encode({1: -8, 4: b"k", 2: []}), {}, b"", SIGNATURE]), "header"),
        (cbor2.CBORTag(18, [encode({1: -35, 4: b"k"}), {}, b"", SIGNATURE]), "algorithm -35"),
        (cbor2.CBORTag(18, [encode({1: -8.0, 4: b"k"}), {}, b"", SIGNATURE]), "float"),
        (cbor2.CBORTag(18, [encode({1: -8, 4: b""}), {}, b"", SIGNATURE]), "kid"),
        (cbor2.CBORTag(18, [encode({1: -8, 4: "k"}), {}, b"", SIGNATURE]), "kid"),
        (cbor2.CBORTag(18, [encode({1: -8, 3: [], 4: b"k"}), {}, b"", SIGNATURE]), "content"),
        (cbor2.CBORTag(18, [bytes(HEADER_BYTES_MAX + 1), {}, b"", SIGNATURE]), "no more than"),
    ],
)
def test_another_form_is_refused(value: object, why: str) -> None:
    with pytest.raises(NotSigned, match=why):
        parse1(encode(value))


@pytest.mark.parametrize(
    "data",
    [
        "9f01ff",  # an array of indefinite length
        "5f4101ff",  # a string likewise
        "a201000100",  # a key twice
        "1801",  # 1 in two bytes
        "a202000100",  # keys out of order
        "0101",  # something behind it
        "82",  # cut
        "81" * 9 + "01",  # too deep
        "c074323032362d31332d30315430303a30303a30305a",  # a date that is none
        "62c328",  # no UTF-8
        "",
    ],
)
def test_cbor_has_one_form(data: str) -> None:
    with pytest.raises(NotSigned):
        decode(bytes.fromhex(data), bytes_max=100)


def test_what_is_too_long_is_not_parsed() -> None:
    with pytest.raises(NotSigned, match="no more than 10"):
        decode(b"\x00" * 11, bytes_max=10)


@settings(max_examples=200)
@given(st.binary(max_size=200))
def test_any_bytes_are_refused_or_round_trip(data: bytes) -> None:
    with contextlib.suppress(NotSigned):
        assert encode(decode(data, bytes_max=200)) == data
