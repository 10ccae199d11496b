"""One form for each record and one digest for each set of them (docs/spec/trust.md, "Records")."""

import hashlib
import hmac
from collections.abc import Mapping

import msgspec

from gateway.domain.record_forms import FORMS

TYPES = (
    "site",
    "policy",
    "calendar",
    "zone",
    "schedule",
    "door",
    "group",
    "holder",
    "credential",
    "booking",
    "exception",
)
"""In the order in which a bundle has them: what a record refers to stands before it."""

PERSONAL = frozenset({"holder", "credential", "booking", "exception"})
"""The types of which a site has many; every record of them is about holders."""

BUCKETS = 256

_KNOWN = {
    name: frozenset({"type", "id", *(member.name for member in form.members)})
    - ({"name"} if name == "holder" else set())
    for name, form in FORMS.items()
}


def canonical(members: Mapping[str, object]) -> bytes:
    """A record of a known type in its one form. An absent member and null mean the same."""
    known = _KNOWN[str(members["type"])]
    kept = {name: each for name, each in members.items() if each is not None and name in known}
    return msgspec.json.encode(kept, order="sorted")


def leaf(digest_key: bytes, canonical_bytes: bytes) -> bytes:
    """What stands for a record in the digest; without the key it tells nothing of the record."""
    return hmac.digest(digest_key, canonical_bytes, "sha256")


def bucket_of(record_type: str, record_id: str) -> int:
    """In which of the 256 parts of the digest a record is."""
    return hashlib.sha256(f"{record_type}\x1f{record_id}".encode()).digest()[0]


class SetDigest:
    """The digest of a set, from its leaves in the order of type and id by code point."""

    def __init__(self) -> None:
        self._buckets = [hashlib.sha256() for _ in range(BUCKETS)]

    def add(self, record_type: str, record_id: str, leaf_of_record: bytes) -> None:
        """The next record."""
        self._buckets[bucket_of(record_type, record_id)].update(leaf_of_record)

    def buckets(self) -> list[bytes]:
        """The hash of each bucket."""
        return [bucket.digest() for bucket in self._buckets]

    def digest(self) -> bytes:
        """The digest of the whole set."""
        return hashlib.sha256(b"".join(self.buckets())).digest()
