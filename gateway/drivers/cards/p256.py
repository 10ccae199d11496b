"""ECDSA with SHA-256 on NIST P-256, keys and signatures as cards send them: plain numbers."""

from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ec import (
    ECDSA,
    SECP256R1,
    EllipticCurvePrivateKey,
    EllipticCurvePublicKey,
)
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

POINT_BYTES: Final = 65
"""04, x, y."""
SIGNATURE_BYTES: Final = 64
"""r, s."""


def public_key(point: bytes) -> EllipticCurvePublicKey:
    """The key at an uncompressed point. Raises ValueError where it is none of the curve."""
    return EllipticCurvePublicKey.from_encoded_point(SECP256R1(), point)


def point_of(key: EllipticCurvePrivateKey) -> bytes:
    """The uncompressed point of a key's public half."""
    form = PublicFormat.UncompressedPoint
    return key.public_key().public_bytes(Encoding.X962, form)


def verifies(point: bytes, signature: bytes, message: bytes) -> bool:
    """Whether the key at `point` signed `message`."""
    half = SIGNATURE_BYTES // 2
    r, s = int.from_bytes(signature[:half], "big"), int.from_bytes(signature[half:], "big")
    try:
        public_key(point).verify(encode_dss_signature(r, s), message, ECDSA(SHA256()))
    except (InvalidSignature, ValueError):
        return False
    return True
