"""COSE_Sign1 as docs/spec/trust.md has it: messages, documents, and nothing else of COSE."""

import hashlib
from collections.abc import Sequence
from typing import Any

import cbor2
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

EDDSA = -8
SIGN1 = 18
KID_BYTES = 8


def cbor(value: object) -> bytes:
    """Deterministic CBOR (RFC 8949, section 4.2.1)."""
    return cbor2.dumps(value, canonical=True)


def kid_of(key: Ed25519PublicKey) -> bytes:
    """The first 8 bytes of the key's thumbprint (RFC 9679): SHA-256 of {kty, crv, x}."""
    thumbprint = hashlib.sha256(cbor({1: 1, -1: 6, -2: key.public_bytes_raw()})).digest()
    return thumbprint[:KID_BYTES]


def message(payload: object, key: Ed25519PrivateKey, context: str) -> bytes:
    """One COSE_Sign1 with its payload in it."""
    body = cbor(payload)
    header, signature = _signed(body, key, context)
    return cbor(cbor2.CBORTag(SIGN1, [header, {}, body, signature]))


def document(payload: object, keys: Sequence[Ed25519PrivateKey], context: str) -> bytes:
    """`[payload, signatures]`, each signature a COSE_Sign1 with a nil payload."""
    body = cbor(payload)
    signatures = []
    for key in keys:
        header, signature = _signed(body, key, context)
        signatures.append(cbor2.CBORTag(SIGN1, [header, {}, None, signature]))
    return cbor([body, signatures])


def opened(sealed: bytes, key: Ed25519PublicKey, context: str) -> dict[str, Any]:
    """The payload of a gateway's message. Raises ValueError where it isn't signed by its key."""
    tagged = cbor2.loads(sealed)
    header, _, body, signature = tagged.value
    if tagged.tag != SIGN1 or cbor2.loads(header) != {1: EDDSA, 4: kid_of(key)}:
        raise ValueError("no message of this key")
    try:
        key.verify(signature, _to_be_signed(header, body, context))
    except InvalidSignature as error:
        raise ValueError("the signature is not this key's") from error
    found: dict[str, Any] = cbor2.loads(body)
    return found


def _signed(body: bytes, key: Ed25519PrivateKey, context: str) -> tuple[bytes, bytes]:
    header = cbor({1: EDDSA, 4: kid_of(key.public_key())})
    return header, key.sign(_to_be_signed(header, body, context))


def _to_be_signed(header: bytes, body: bytes, context: str) -> bytes:
    # Sig_structure, RFC 9052, section 4.4; external_aad is the context.
    return cbor(["Signature1", header, context.encode(), body])
