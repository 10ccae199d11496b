"""What the gateway says of the set that it enforces, signed with its own key."""

from typing import Final, NamedTuple

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gateway.trust.bundle import Revision
from gateway.trust.cose import encode, sign1
from gateway.trust.keys import kid_of

PARITY_CONTEXT: Final = b"door-gateway/parity/v1"


class Parity(NamedTuple):
    """The payload of a parity report (docs/spec/trust.md, "Parity")."""

    site: str
    gateway: str
    at_ms: int
    trust: int
    enforced: Revision | None
    """The digest is worked out from what is on the disk."""
    as_of: int | None
    root: int
    records: dict[str, int]
    doors: dict[str, int]
    nonce: bytes
    buckets: bytes | None
    """The 256 hashes, where the source of truth has another digest."""

    def sealed(self, key: Ed25519PrivateKey) -> bytes:
        """The message."""
        payload: dict[str, object] = self._asdict()
        del payload["enforced"]
        payload["revision"], payload["digest"] = self.enforced or (None, None)
        if self.buckets is None:
            del payload["buckets"]
        return sign1(encode(payload), key, kid_of(key.public_key()), context=PARITY_CONTEXT)
