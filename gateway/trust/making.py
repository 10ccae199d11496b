"""Makes bundles: what a source of truth does, and `door-gateway bundle sign` in its place."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Literal, NamedTuple

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gateway.domain.canonical import SetDigest, bucket_of, canonical, leaf
from gateway.domain.delta import apply_delta
from gateway.trust.bundle import (
    BUNDLE_CONTEXT,
    DOCUMENT_BYTES_MAX,
    Base,
    Changes,
    Chunk,
    Manifest,
    pack,
)
from gateway.trust.cose import Sign1, encode, parse_document, sign_document
from gateway.trust.keys import kid_of
from gateway.trust.rules import BreaksRule, Rule

Key = tuple[str, str]
"""Type and id."""
Records = Mapping[Key, bytes]
"""Canonical records by type and id."""


class About(NamedTuple):
    """What a bundle says besides its records."""

    site: str
    gateways: tuple[str, ...]
    revision: int
    made: int
    expires: int
    digest_key: bytes


class Made(NamedTuple):
    """A bundle that nobody has signed yet."""

    payload: bytes
    chunks: list[bytes]


def canonical_records(records: Iterable[Mapping[str, object]]) -> dict[Key, bytes]:
    """Records without a fault, in their one form."""
    return {(str(each["type"]), str(each["id"])): canonical(each) for each in records}


def digest_of(records: Records, digest_key: bytes) -> SetDigest:
    """The digest of a set."""
    digest = SetDigest()
    for key in sorted(records):
        digest.add(*key, leaf(digest_key, records[key]))
    return digest


def records_of(manifest: Manifest, chunks: Sequence[bytes]) -> dict[Key, bytes]:
    """The records that chunks bring. Raises BreaksRule."""
    changes = Changes(manifest)
    return {
        (change.type, change.id): change.line
        for chunk, data in zip(manifest.chunks, chunks, strict=True)
        for change in changes.read(chunk, data)
        if change.line
    }


def amended(was: Records, manifest: Manifest, chunks: Sequence[bytes]) -> dict[Key, bytes]:
    """The set that a delta makes of `was`.

    Raises:
        BreaksRule: `chunk`, or `digest`: it doesn't lead to the one that it names.
    """
    changes = Changes(manifest)
    put: dict[Key, bytes] = {}
    gone: set[Key] = set()
    for chunk, data in zip(manifest.chunks, chunks, strict=True):
        for change in changes.read(chunk, data):
            if change.line:
                put[change.type, change.id] = change.line
            else:
                gone.add((change.type, change.id))
    found = {**_without(was, gone), **put}
    if digest_of(found, manifest.digest_key).digest() != manifest.digest:
        raise BreaksRule(Rule.DIGEST, f"revision {manifest.revision} is not made of these records")
    return found


def snapshot(records: Records, about: About) -> Made:
    """A bundle with all of a set."""
    return _made(records, about, "snapshot", list(pack(records)))


def delta(was: Records, records: Records, about: About, revision: int) -> Made:
    """A bundle that makes of the set `was`, which is that `revision`, the other."""
    gone = was.keys() - records.keys()
    left = _without(was, gone)
    put = {key: each for key, each in records.items() if left.get(key) != each}
    base = Base(revision, digest_of(was, about.digest_key).digest())
    return _made(records, about, "delta", list(pack(put, gone)), base=base)


def repair(records: Records, about: About, buckets: Iterable[int]) -> Made:
    """A bundle with all records of some buckets of a set."""
    wanted = tuple(sorted(set(buckets)))
    put = {key: each for key, each in records.items() if bucket_of(*key) in wanted}
    return _made(records, about, "repair", list(pack(put)), buckets=wanted)


def signed(made: Made, keys: Iterable[Ed25519PrivateKey]) -> bytes:
    """The document, signed by these keys."""
    document = b""
    beside: Sequence[Sign1] = ()
    for key in keys:
        document = sign_document(
            made.payload, key, kid_of(key.public_key()), context=BUNDLE_CONTEXT, beside=beside
        )
        beside = parse_document(document, bytes_max=DOCUMENT_BYTES_MAX).signatures
    return document


def _without(was: Records, gone: Collection[Key]) -> Records:
    """What deletions leave, with what they take along (docs/spec/entitlements.md)."""
    if not gone:
        return was
    members = {key: _members(each) for key, each in was.items()}
    return canonical_records(apply_delta(members, {}, gone).values())


def _members(record: bytes) -> dict[str, object]:
    return msgspec.json.decode(record, type=dict[str, object])


def _made(
    records: Records,
    about: About,
    kind: Literal["snapshot", "delta", "repair"],
    chunks: list[tuple[Chunk, bytes]],
    *,
    base: Base | msgspec.UnsetType = msgspec.UNSET,
    buckets: tuple[int, ...] | msgspec.UnsetType = msgspec.UNSET,
) -> Made:
    manifest = Manifest(
        site=about.site,
        gateways=about.gateways,
        revision=about.revision,
        made=about.made,
        expires=about.expires,
        kind=kind,
        digest_key=about.digest_key,
        digest=digest_of(records, about.digest_key).digest(),
        records=len(records),
        chunks=tuple(chunk for chunk, _ in chunks),
        base=base,
        buckets=buckets,
    )
    payload = encode(msgspec.to_builtins(manifest, builtin_types=(bytes,)))
    return Made(payload, [data for _, data in chunks])
