"""What PKOC is over any air: fields of type, length and value, and a P-256 key that proves itself.

The field types are those of PSIA's PKOC specifications as its public reference code has them
(github.com/psialliance-org/com-psia-pkoc, `TLVProvider`, `CryptoProvider`).
"""

from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

KEY_BYTES: Final = 65
"""An uncompressed point: 04, x, y (SEC 1, 2.3.3)."""
SIGNATURE_BYTES: Final = 64
"""r and s, 32 bytes each, big-endian: no ASN.1 on the air."""


def field(kind: int, value: bytes) -> bytes:
    """One field: its type, its length in one byte, its value."""
    return bytes((kind, len(value))) + value


def fields(data: bytes) -> list[tuple[int, bytes]]:
    """Take fields apart, in order.

    Raises:
        ValueError: the last one is cut off.
    """
    found = []
    at = 0
    while at < len(data):
        if at + 2 > len(data) or at + 2 + data[at + 1] > len(data):
            raise ValueError(f"a field at byte {at} is cut off")
        end = at + 2 + data[at + 1]
        found.append((data[at], data[at + 2 : end]))
        at = end
    return found


def value_of(key: bytes) -> str:
    """The credential's canonical value (docs/spec/entitlements.md, `pkoc`)."""
    return key.hex().upper()


def proves(key: bytes, message: bytes, signature: bytes) -> bool:
    """Whether `signature` (r, s) over SHA-256 of `message` is that of the uncompressed `key`."""
    if len(key) != KEY_BYTES or key[0] != 0x04 or len(signature) != SIGNATURE_BYTES:
        return False
    r, s = (int.from_bytes(part, "big") for part in (signature[:32], signature[32:]))
    try:
        public = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), key)
        public.verify(encode_dss_signature(r, s), message, ec.ECDSA(hashes.SHA256()))
    except (ValueError, InvalidSignature):  # no point of the curve, or not its signature
        return False
    return True
