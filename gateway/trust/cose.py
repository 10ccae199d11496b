"""COSE_Sign1 (RFC 9052, section 4.2) with two algorithms and one form.

A *message* has its payload in it; a *document* is a payload with up to 16 detached signatures.
The profile is narrower than the standard. `alg` and `kid` stand in the protected header, with an
optional content type, and the unprotected one is empty, so every byte is either signed or the
signature; the whole message is in the one deterministic encoding. `context` goes in as the
`external_aad`: what was signed for one purpose is worth nothing for another.
"""

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import cbor2
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ec import (
    ECDSA,
    SECP256R1,
    EllipticCurvePrivateKey,
    EllipticCurvePublicKey,
)
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.utils import (
    decode_dss_signature,
    encode_dss_signature,
)
from cryptography.hazmat.primitives.hashes import SHA256

from gateway.errors import GatewayError
from gateway.trust import cbor
from gateway.trust.cbor import DEPTH_MAX, ITEMS_MAX, NO_TAGS, NotCbor

PrivateKey = Ed25519PrivateKey | EllipticCurvePrivateKey
PublicKey = Ed25519PublicKey | EllipticCurvePublicKey

encode: Final = cbor.encode
"""The one encoding of what is signed."""

EDDSA: Final = -8
ES256: Final = -7
"""The algorithms, as in the IANA registry "COSE Algorithms"."""

_SIGN1: Final = 18
_SIGN1_ONLY: Final = frozenset({_SIGN1})
SIGN1_TAG: Final = b"\xd2"
"""The CBOR tag 18, as it stands before every COSE_Sign1."""

_ALG, _CONTENT_TYPE, _KID = 1, 3, 4

HEADER_BYTES_MAX = 256
"""A protected header: three members, the longest a content type."""

KID_BYTES_MAX = 64
"""A key id: 8 bytes of a key's hash in general, a device's name at most."""

MESSAGE_BYTES_MAX = 64 * 1024
"""Where the caller knows no smaller bound. Nothing larger is parsed."""

_SIGNATURE_BYTES = 64
_COORDINATE_BYTES = 32


SIGNATURES_MAX = 16
"""Of one document: as many as a role may have keys."""

_MESSAGE_ITEMS_MAX = 21
"""The array and its four parts, and room for an unprotected header, which is refused by name."""
_HEADER_ITEMS_MAX = 7
"""The map and three members."""
_DOCUMENT_ITEMS_MAX = 3 + SIGNATURES_MAX * (1 + _MESSAGE_ITEMS_MAX)
"""Two arrays, the payload and the tagged signatures."""


class NotSigned(GatewayError):
    """No message that this key signed for this purpose. Nothing of it may be used."""


class UnknownKey(NotSigned):
    """It names a key that is none of those asked for."""


class BadSignature(NotSigned):
    """It names a key that did not sign it."""


class Sign1(NamedTuple):
    """A COSE_Sign1 message, taken apart. Only what `verify1` returned is to be believed."""

    alg: int
    kid: bytes
    content_type: str | int | None
    payload: bytes
    protected: bytes
    """The protected header as it stands in the message: this is what was signed."""
    signature: bytes


class Document(NamedTuple):
    """A payload and the signatures that came with it. Only what `signers` names signed it."""

    payload: bytes
    signatures: tuple[Sign1, ...]
    """Each with the document's payload."""


def sign1(
    payload: bytes,
    key: PrivateKey,
    kid: bytes,
    *,
    context: bytes,
    content_type: str | int | None = None,
) -> bytes:
    """The payload as a tagged COSE_Sign1, signed for `context` (such as `b"door-gateway/ack/v1"`).

    An Ed25519 key signs EdDSA, a P-256 key ES256.
    """
    header: dict[int, object] = {_ALG: _algorithm_of(key.public_key()), _KID: kid}
    if content_type is not None:
        header[_CONTENT_TYPE] = content_type
    protected = encode(header)
    return SIGN1_TAG + encode([protected, {}, payload, _sign(protected, payload, key, context)])


def sign_document(
    payload: bytes, key: PrivateKey, kid: bytes, *, context: bytes, beside: Sequence[Sign1] = ()
) -> bytes:
    """The payload as a document, with a signature by this key behind those it has already."""
    protected = encode({_ALG: _algorithm_of(key.public_key()), _KID: kid})
    signed = [(each.protected, each.signature) for each in beside]
    signed.append((protected, _sign(protected, payload, key, context)))
    tagged = [cbor2.CBORTag(_SIGN1, [header, {}, None, by]) for header, by in signed]
    return encode([payload, tagged])


def _sign(protected: bytes, payload: bytes, key: PrivateKey, context: bytes) -> bytes:
    to_be_signed = signature_input(protected, payload, context)
    if isinstance(key, Ed25519PrivateKey):
        return key.sign(to_be_signed)
    r, s = decode_dss_signature(key.sign(to_be_signed, ECDSA(SHA256())))
    return r.to_bytes(_COORDINATE_BYTES, "big") + s.to_bytes(_COORDINATE_BYTES, "big")


def verify1(
    message: bytes,
    keys: Mapping[bytes, PublicKey],
    *,
    context: bytes,
    bytes_max: int = MESSAGE_BYTES_MAX,
) -> Sign1:
    """The message, if the key that it names is among `keys` (by kid) and signed it for `context`.

    Raises:
        NotSigned: too long, malformed, of an unknown key, or the signature is not that key's.
    """
    found = parse1(message, bytes_max=bytes_max)
    key = keys.get(found.kid)
    if key is None:
        raise UnknownKey(f"signed by the key {found.kid.hex()}, which is not known here")
    _check(found, key, context)
    return found


def signers(
    document: Document, keys: Mapping[bytes, PublicKey], *, context: bytes
) -> frozenset[bytes]:
    """Which of the keys signed the document for this context.

    A signature by any other key counts for nothing.

    Raises:
        BadSignature: one that names one of the keys is not that key's.
    """
    found = set()
    for signed in document.signatures:
        key = keys.get(signed.kid)
        if key is not None:
            _check(signed, key, context)
            found.add(signed.kid)
    return frozenset(found)


def _check(signed: Sign1, key: PublicKey, context: bytes) -> None:
    if signed.alg != _algorithm_of(key):
        raise BadSignature(f"algorithm {signed.alg}: the key {signed.kid.hex()} is for another")
    to_be_signed = signature_input(signed.protected, signed.payload, context)
    if not signature_holds(key, signed.signature, to_be_signed):
        raise BadSignature(f"the signature is not that of the key {signed.kid.hex()}")


def parse1(message: bytes, *, bytes_max: int = MESSAGE_BYTES_MAX) -> Sign1:
    """A message taken apart, its signature NOT checked: to learn which key it names.

    Raises:
        NotSigned: it is no COSE_Sign1 of the profile above.
    """
    if not message.startswith(SIGN1_TAG):
        raise NotSigned("no COSE_Sign1: it must be tagged 18")
    untagged = message.removeprefix(SIGN1_TAG)
    match decode(untagged, bytes_max=bytes_max, items_max=_MESSAGE_ITEMS_MAX):
        case [_, _, bytes() as payload, _] as parts:
            return _parsed(parts, payload)
    raise NotSigned("no COSE_Sign1: it is [protected, unprotected, payload, signature]")


def parse_document(data: bytes, *, bytes_max: int) -> Document:
    """A document taken apart, its signatures NOT checked.

    Raises:
        NotSigned: it is no document: [payload, [COSE_Sign1 with a detached payload, …]].
    """
    match decode(data, bytes_max=bytes_max, items_max=_DOCUMENT_ITEMS_MAX, tags=_SIGN1_ONLY):
        case [bytes() as payload, list() as signatures] if 1 <= len(signatures) <= SIGNATURES_MAX:
            return Document(payload, tuple(_detached(each, payload) for each in signatures))
    raise NotSigned(f"no document: it is a payload and 1 to {SIGNATURES_MAX} signatures")


def _detached(item: object, payload: bytes) -> Sign1:
    if isinstance(item, cbor2.CBORTag) and item.tag == _SIGN1:
        match item.value:
            case [_, _, None, _] as parts:
                signed = _parsed(parts, payload)
                if signed.content_type is None:
                    return signed
    raise NotSigned("a document's signature is a COSE_Sign1 with no payload and no content type")


def _parsed(parts: Sequence[object], payload: bytes) -> Sign1:
    protected, unprotected, _, signature = parts
    if not (
        isinstance(protected, bytes)
        and isinstance(unprotected, Mapping)
        and isinstance(signature, bytes)
    ):
        raise NotSigned("no COSE_Sign1: it is [protected, unprotected, payload, signature]")
    if unprotected:
        raise NotSigned("the unprotected header must be empty: nobody has signed it")
    if len(signature) != _SIGNATURE_BYTES:
        raise NotSigned(f"a signature of {len(signature)} bytes: both algorithms have 64")
    header = decode(protected, bytes_max=HEADER_BYTES_MAX, items_max=_HEADER_ITEMS_MAX)
    if not isinstance(header, dict) or not {_ALG, _KID} <= header.keys() <= {
        _ALG,
        _CONTENT_TYPE,
        _KID,
    }:
        raise NotSigned("the protected header must have alg (1) and kid (4), and may a type (3)")
    alg, kid, content_type = header[_ALG], header[_KID], header.get(_CONTENT_TYPE)
    if not isinstance(alg, int) or alg not in {EDDSA, ES256}:
        raise NotSigned(f"algorithm {alg!r}: EdDSA (-8) and ES256 (-7) are known")
    if not isinstance(kid, bytes) or not 0 < len(kid) <= KID_BYTES_MAX:
        raise NotSigned(f"kid must be 1 to {KID_BYTES_MAX} bytes")
    if content_type is not None and not isinstance(content_type, str | int):
        raise NotSigned("the content type must be text or a number")
    return Sign1(alg, kid, content_type, payload, protected, signature)


def signature_input(protected: bytes, payload: bytes, context: bytes) -> bytes:
    """The Sig_structure of a COSE_Sign1 (RFC 9052, section 4.4)."""
    return cbor2.dumps(["Signature1", protected, context, payload])


def signature_holds(key: PublicKey, signature: bytes, to_be_signed: bytes) -> bool:
    """Whether the key's owner signed these bytes. ES256 signatures are r || s (RFC 9053, 2.1)."""
    try:
        if isinstance(key, Ed25519PublicKey):
            key.verify(signature, to_be_signed)
        else:
            r = int.from_bytes(signature[:_COORDINATE_BYTES], "big")
            s = int.from_bytes(signature[_COORDINATE_BYTES:], "big")
            key.verify(encode_dss_signature(r, s), to_be_signed, ECDSA(SHA256()))
    except InvalidSignature:
        return False
    return True


def decode(
    data: bytes,
    *,
    bytes_max: int,
    depth_max: int = DEPTH_MAX,
    items_max: int = ITEMS_MAX,
    tags: frozenset[int] = NO_TAGS,
) -> object:
    """Return the value of one CBOR item, as `cbor.decode` does.

    Raises:
        NotSigned: the data is anything else.
    """
    try:
        return cbor.decode(
            data, bytes_max=bytes_max, depth_max=depth_max, items_max=items_max, tags=tags
        )
    except NotCbor as malformed:
        raise NotSigned(str(malformed)) from malformed


def _algorithm_of(key: PublicKey) -> int:
    if isinstance(key, Ed25519PublicKey):
        return EDDSA
    if isinstance(key.curve, SECP256R1):
        return ES256
    raise NotSigned(f"a key on {key.curve.name}: elliptic curve keys must be on P-256")
