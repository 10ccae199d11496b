"""Records in canonical form, their digest, and bundles of them (docs/spec/trust.md)."""

import hashlib
import hmac
import json
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from hwsim.cloud.signing import document

BUNDLE = "door-gateway/bundle/v1"
TYPES = (
    *("site", "policy", "calendar", "zone", "schedule", "door", "group"),
    *("holder", "credential", "booking", "exception"),
)
BUCKETS = 256
CHUNK_RAW_BYTES = 500_000
"""Well below 4 MiB, and below 256 KiB when it is packed."""

Key = tuple[str, str]
Record = dict[str, Any]


class Bundle(NamedTuple):
    """What travels: the document, and the chunks by their SHA-256."""

    document: bytes
    chunks: dict[bytes, bytes]

    def file(self) -> bytes:
        """As a `.bundle` file."""
        parts = [self.document, *self.chunks.values()]
        return b"DGBNDL1\n" + b"".join(len(part).to_bytes(4, "big") + part for part in parts)


def canonical(record: Record) -> bytes:
    """One JSON object, members in order, no white space, nothing that is null, no holder's name."""
    kept = {name: value for name, value in record.items() if value is not None}
    if record["type"] == "holder":
        kept.pop("name", None)
    text = json.dumps(kept, ensure_ascii=False, separators=(",", ":"), sort_keys=True)
    return text.encode()


def bucket(key: Key) -> int:
    """The number of a record's bucket."""
    return hashlib.sha256(f"{key[0]}\x1f{key[1]}".encode()).digest()[0]


class Revision(NamedTuple):
    """One set, as it was sold at one moment."""

    number: int
    records: dict[Key, bytes]
    digest_key: bytes

    def bucket_hashes(self) -> list[bytes]:
        """SHA-256 over each bucket's leaves."""
        hashes = [hashlib.sha256() for _ in range(BUCKETS)]
        for key in sorted(self.records):
            leaf = hmac.digest(self.digest_key, self.records[key], "sha256")
            hashes[bucket(key)].update(leaf)
        return [each.digest() for each in hashes]

    def digest(self) -> bytes:
        """Of the whole set."""
        return hashlib.sha256(b"".join(self.bucket_hashes())).digest()


class RecordBook:
    """What a site sells, record by record, and every revision of it that was published."""

    def __init__(self, site: str, digest_key: bytes, records: Iterable[Record] = ()) -> None:
        self.site = site
        self.digest_key = digest_key
        self._now: dict[Key, Record] = {(each["type"], each["id"]): each for each in records}
        self.revisions: dict[int, Revision] = {}
        self.last = 0

    def put(self, *records: Record) -> None:
        """Add or change records; nothing is published by that."""
        self._now |= {(each["type"], each["id"]): each for each in records}

    def drop(self, kind: str, name: str) -> None:
        """Delete a record; of a holder, everything that is theirs (entitlements.md)."""
        self._now.pop((kind, name), None)
        if kind != "holder":
            return
        for key, record in list(self._now.items()):
            if record.get("holder") == name:
                del self._now[key]
            elif name in record.get("holders", ()):
                left = [each for each in record["holders"] if each != name]
                self._now[key] = {**record, "holders": left}

    def publish(self, number: int | None = None) -> Revision:
        """Make what is sold now the next revision."""
        self.last = self.last + 1 if number is None else number
        records = {key: canonical(record) for key, record in self._now.items()}
        self.revisions[self.last] = Revision(self.last, records, self.digest_key)
        return self.revisions[self.last]

    @property
    def current(self) -> Revision | None:
        """The last that was published."""
        return self.revisions.get(self.last)


class About(NamedTuple):
    """For whom and for how long, and who signs."""

    site: str
    gateways: Sequence[str]
    made: int
    expires: int
    keys: Sequence[Ed25519PrivateKey]


def snapshot(revision: Revision, about: About) -> Bundle:
    """All of a set."""
    lines = [b"+" + revision.records[key] for key in _in_order(revision.records)]
    return _bundle(revision, about, {"kind": "snapshot"}, lines)


def delta(revision: Revision, base: Revision, about: About) -> Bundle:
    """What makes of the set `base` the other."""
    gone = [key for key in base.records if key not in revision.records]
    changed = [key for key, text in revision.records.items() if base.records.get(key) != text]
    lines = [b"-" + _json(list(key)) for key in _in_order(gone)]
    lines += [b"+" + revision.records[key] for key in _in_order(changed)]
    return _bundle(revision, about, {"kind": "delta", "base": [base.number, base.digest()]}, lines)


def repair(revision: Revision, buckets: Iterable[int], about: About) -> Bundle:
    """All records of some buckets."""
    wanted = sorted(set(buckets))
    keys = [key for key in revision.records if bucket(key) in wanted]
    lines = [b"+" + revision.records[key] for key in _in_order(keys)]
    return _bundle(revision, about, {"kind": "repair", "buckets": wanted}, lines)


def _bundle(
    revision: Revision, about: About, kind: Mapping[str, object], lines: list[bytes]
) -> Bundle:
    chunks: dict[bytes, bytes] = {}
    named = []
    for raw in _cut(lines):
        data = zlib.compress(raw, 9)
        sha256 = hashlib.sha256(data).digest()
        chunks[sha256] = data
        named.append([sha256, len(data), len(raw)])
    payload = {
        "site": about.site,
        "gateways": list(about.gateways),
        "revision": revision.number,
        "made": about.made,
        "expires": about.expires,
        "digest_key": revision.digest_key,
        "digest": revision.digest(),
        "records": len(revision.records),
        "chunks": named,
        **kind,
    }
    return Bundle(document(payload, about.keys, BUNDLE), chunks)


def _cut(lines: list[bytes]) -> Iterable[bytes]:
    part: list[bytes] = []
    size = 0
    for line in lines:
        if part and size + len(line) >= CHUNK_RAW_BYTES:
            yield b"".join(part)
            part, size = [], 0
        part.append(line + b"\n")
        size += len(line) + 1
    yield b"".join(part)


def _in_order(keys: Iterable[Key]) -> list[Key]:
    return sorted(keys, key=lambda key: (TYPES.index(key[0]), key[1]))


def _json(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
