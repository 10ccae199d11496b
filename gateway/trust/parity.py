"""What the gateway says of the set that it enforces, signed with its own key."""

from typing import Final, NamedTuple

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from gateway.trust.bundle import Revision
from gateway.trust.cose import encode, sign1
from gateway.trust.gateway_message import open_message
from gateway.trust.keys import kid_of

PARITY_CONTEXT: Final = b"door-gateway/parity/v1"


REPORT_BYTES_MAX = 64 * 1024
"""Of a report: 8 KiB of buckets, and a number for each of a site's doors."""
_REPORT_ITEMS_MAX = 4096


class Reported(msgspec.Struct, frozen=True):
    """The set in force, as a report tells it."""

    site: str
    gateway: str
    revision: int | None
    digest: bytes | None


def open_report(message: bytes, key: Ed25519PublicKey | None) -> Reported:
    """Read a report that this gateway's key signed; unchecked where there is no key.

    Raises:
        NotSigned: it isn't one.
    """
    return open_message(
        message,
        key,
        Reported,
        what="parity report",
        context=PARITY_CONTEXT,
        bytes_max=REPORT_BYTES_MAX,
        items_max=_REPORT_ITEMS_MAX,
    )


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
