"""Bundles: entitlement records on their way here, signed as a manifest and cut into chunks.

`core` checks the manifest; the process that applies reads the chunks, and both trust nothing that
the manifest's signature does not cover.
"""

import hashlib
import zlib
from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from typing import Annotated, Final, Literal, NamedTuple

import msgspec

from gateway.decoding import decode_json
from gateway.domain.canonical import BUCKETS, TYPES, bucket_of, canonical
from gateway.domain.json_text import JsonError, decode_object
from gateway.domain.record_faults import other_site
from gateway.errors import Undecodable
from gateway.trust.root import Hash, Id, Instant, KeySet, Now, opened_document, payload_as
from gateway.trust.rules import BreaksRule, Rule

BUNDLE_CONTEXT: Final = b"door-gateway/bundle/v1"

MAGIC: Final = b"DGBNDL1\n"
"""How a `.bundle` file begins."""
_PREFIX_BYTES = 4

DOCUMENT_BYTES_MAX = 1024 * 1024
CHUNKS_MAX = 4096
_MANIFEST_ITEMS_MAX = 4 * CHUNKS_MAX + 1024
"""An array of three for each chunk; the rest has up to 256 gateways and 256 buckets."""
CHUNK_BYTES_MAX = 256 * 1024
RAW_CHUNK_BYTES_MAX = 4 * 1024 * 1024
"""A chunk grows to this at most, whatever it says of itself: memory is bounded chunk by chunk."""
RAW_BYTES_MAX = 28 * 1024 * 1024
"""Of all chunks: some 160,000 records. To apply them takes up to 31 times as much memory, of which
the process that does it has 832 MiB (`gateway.cache.apply.MEMORY_BYTES_MAX`)."""
REVISION_MAX = 2**53 - 1
AHEAD_S_MAX = 600
"""How far a bundle's `made` may lie ahead of a trusted clock: both clocks are off a little."""

_RAW_CHUNK_BYTES = 768 * 1024
"""As large as chunks are made here; records shrink to a fifth."""


class Chunk(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One chunk, as the manifest names it."""

    sha256: Hash
    size: Annotated[int, msgspec.Meta(ge=1)]
    raw_size: Annotated[int, msgspec.Meta(ge=0)]


class Base(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The revision that a delta is made for."""

    revision: Annotated[int, msgspec.Meta(ge=1, le=REVISION_MAX)]
    digest: Hash


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The payload of a bundle document."""

    site: Id
    gateways: Annotated[tuple[Id, ...], msgspec.Meta(min_length=1, max_length=256)]
    revision: Annotated[int, msgspec.Meta(ge=1, le=REVISION_MAX)]
    made: Instant
    expires: Instant
    kind: Literal["snapshot", "delta", "repair"]
    digest_key: Hash
    digest: Hash
    records: Annotated[int, msgspec.Meta(ge=0, lt=2**53)]
    chunks: Annotated[tuple[Chunk, ...], msgspec.Meta(min_length=1, max_length=CHUNKS_MAX)]
    base: Base | msgspec.UnsetType = msgspec.UNSET
    buckets: tuple[int, ...] | msgspec.UnsetType = msgspec.UNSET

    @property
    def raw_size(self) -> int:
        """Bytes of all chunks when they are unpacked."""
        return sum(chunk.raw_size for chunk in self.chunks)


class Revision(NamedTuple):
    """A signed set by its number and digest."""

    number: int
    digest: bytes


class Held(NamedTuple):
    """What the gateway has, as far as it decides which bundle may come next."""

    in_force: Revision | None
    highest: Revision | None
    """Ever taken, by the pointer or the floor file; None also where a root has reset it."""


class SignedManifest(NamedTuple):
    """A manifest that passed every rule that needs no chunk: only `check_manifest` makes them."""

    manifest: Manifest
    signers: frozenset[bytes]
    """The keys of the role `bundle` that signed it."""


def check_manifest(
    data: bytes,
    root: KeySet,
    held: Held,
    *,
    gateway: str,
    now: Now,
    disk_free: int,
) -> SignedManifest:
    """Check a bundle document by the rules of docs/spec/trust.md, in their order.

    Raises:
        BreaksRule: the first that it breaks.
    """
    document = opened_document(data, DOCUMENT_BYTES_MAX)
    signed_by = root.check_threshold(document, "bundle", BUNDLE_CONTEXT)
    manifest = manifest_in(document.payload)
    if manifest.raw_size > disk_free:
        raise BreaksRule(Rule.TOO_LARGE, f"{manifest.raw_size} bytes: the disk has {disk_free}")
    if root.is_expired(now):
        raise BreaksRule(Rule.ROOT_EXPIRED, f"root {root.version} takes nothing but its successor")
    if manifest.site != root.site:
        raise BreaksRule(Rule.WRONG_SITE, f"it is for the site {manifest.site!r}")
    if gateway not in manifest.gateways:
        raise BreaksRule(Rule.WRONG_GATEWAY, f"it is for {', '.join(manifest.gateways)}")
    if now.seconds >= manifest.expires:
        raise BreaksRule(Rule.EXPIRED, f"it expired {now.seconds - manifest.expires} s ago")
    if now.trusted and manifest.made > now.seconds + AHEAD_S_MAX:
        raise BreaksRule(Rule.NOT_YET, f"it was made {manifest.made - now.seconds} s from now")
    _check_revision(manifest, held)
    return SignedManifest(manifest, signed_by)


def manifest_in(payload: bytes) -> Manifest:
    """A manifest in its form and within its bounds; who signed it is NOT checked.

    Raises:
        BreaksRule: `malformed` or `too_large`.
    """
    manifest = payload_as(payload, Manifest, DOCUMENT_BYTES_MAX, _MANIFEST_ITEMS_MAX)
    for chunk in manifest.chunks:
        if chunk.size > CHUNK_BYTES_MAX or chunk.raw_size > RAW_CHUNK_BYTES_MAX:
            raise BreaksRule(
                Rule.TOO_LARGE, f"a chunk of {chunk.size} bytes, {chunk.raw_size} unpacked"
            )
    if manifest.raw_size > RAW_BYTES_MAX:
        raise BreaksRule(Rule.TOO_LARGE, f"{manifest.raw_size} bytes unpacked")
    if manifest.made >= manifest.expires:
        raise BreaksRule(Rule.MALFORMED, "it expires before it was made")
    if (manifest.kind == "delta") is isinstance(manifest.base, msgspec.UnsetType):
        raise BreaksRule(Rule.MALFORMED, "a delta has a `base`, and nothing else has")
    buckets = manifest.buckets
    if (manifest.kind == "repair") is isinstance(buckets, msgspec.UnsetType):
        raise BreaksRule(Rule.MALFORMED, "a repair has `buckets`, and nothing else has")
    if not isinstance(buckets, msgspec.UnsetType) and not (
        buckets
        and 0 <= buckets[0] <= buckets[-1] < BUCKETS
        and all(one < other for one, other in pairwise(buckets))
    ):
        raise BreaksRule(Rule.MALFORMED, "`buckets` must be 0 to 255, ascending")
    if len({chunk.sha256 for chunk in manifest.chunks}) != len(manifest.chunks):
        raise BreaksRule(Rule.MALFORMED, "a chunk is named twice")
    return manifest


def _check_revision(manifest: Manifest, held: Held) -> None:
    comes = Revision(manifest.revision, manifest.digest)
    if held.highest is not None and (
        comes.number < held.highest.number
        or (comes.number == held.highest.number and comes.digest != held.highest.digest)
    ):
        raise BreaksRule(
            Rule.ROLLBACK, f"revision {comes.number}: {held.highest.number} was taken already"
        )
    if manifest.kind == "repair":
        if comes != held.in_force:
            raise BreaksRule(Rule.MISSING_BASE, f"a repair of {comes.number}, not in force")
        return
    if comes == held.in_force:
        raise BreaksRule(Rule.EQUAL, f"revision {comes.number} is in force")
    base = manifest.base
    if not isinstance(base, msgspec.UnsetType) and held.in_force != (base.revision, base.digest):
        raise BreaksRule(Rule.MISSING_BASE, f"a delta for revision {base.revision}, not in force")


# --- Chunks ---------------------------------------------------------------------------------------


class Change(NamedTuple):
    """One line of a chunk."""

    type: str
    id: str
    line: bytes
    """The canonical record; empty for a deletion."""
    members: Mapping[str, object]

    def __repr__(self) -> str:
        """Without the record: it may hold a credential."""
        return f"Change({self.type!r}, {self.id!r})"


class Changes:
    """Reads the chunks of a bundle, one after the other, in the manifest's order."""

    def __init__(self, manifest: Manifest) -> None:
        self._site = manifest.site
        self._delta = manifest.kind == "delta"
        buckets = manifest.buckets
        self._buckets = None if isinstance(buckets, msgspec.UnsetType) else frozenset(buckets)
        self._last = (0, -1, "")

    def read(self, chunk: Chunk, data: bytes) -> Iterator[Change]:
        """The lines of the next chunk.

        Raises:
            BreaksRule: `chunk`: it is not the one named, or not of the form; `wrong_site`: its site
                record is of another site than the manifest.
        """
        for line in unpacked(chunk, data).splitlines(keepends=True):
            if not line.endswith(b"\n"):
                raise BreaksRule(Rule.CHUNK, "its last line has no end")
            yield self._change(line[:-1])

    def _change(self, line: bytes) -> Change:
        deletes = line[:1] == b"-"
        if deletes and self._delta:
            change = _deletion(line[1:])
        elif line[:1] == b"+":
            change = _upsert(line[1:])
        else:
            raise BreaksRule(Rule.CHUNK, "a line begins with neither + nor -")
        at = (not deletes, _RANKS[change.type], change.id)
        if at <= self._last:
            raise BreaksRule(Rule.CHUNK, "its lines are out of order, or one stands there twice")
        self._last = at
        if self._buckets is not None and bucket_of(change.type, change.id) not in self._buckets:
            raise BreaksRule(Rule.CHUNK, "a record of a bucket that it does not repair")
        if change.type == "site" and change.id != self._site:
            raise BreaksRule(Rule.WRONG_SITE, other_site(change.id, self._site))
        return change


_RANKS = {name: rank for rank, name in enumerate(TYPES)}


def _deletion(text: bytes) -> Change:
    try:
        named = decode_json(text, tuple[str, str])
    except Undecodable:
        raise BreaksRule(Rule.CHUNK, 'a deletion must be ["type","id"]') from None
    if named[0] not in _RANKS or not named[1] or msgspec.json.encode(named) != text:
        raise BreaksRule(Rule.CHUNK, "a deletion is not in its one form")
    return Change(*named, b"", {})


def _upsert(text: bytes) -> Change:
    try:
        members, repeated = decode_object(text)
    except JsonError as error:
        raise BreaksRule(Rule.CHUNK, f"a record: {error}") from None
    kind, name = members.get("type"), members.get("id")
    if not isinstance(kind, str) or kind not in _RANKS or not isinstance(name, str):
        raise BreaksRule(Rule.CHUNK, "a record has no type or id that is known")
    if repeated or canonical(members) != text:
        raise BreaksRule(Rule.CHUNK, "a record is not in its canonical form")
    return Change(kind, name, text, members)


def unpacked(chunk: Chunk, data: bytes) -> bytes:
    """A chunk's lines, as long as the manifest says. Raises BreaksRule."""
    check_chunk(chunk, data)
    unpack = zlib.decompressobj()
    try:
        # One byte more than there may be shows that it would grow past its bound.
        raw = unpack.decompress(data, min(chunk.raw_size, RAW_CHUNK_BYTES_MAX) + 1)
    except zlib.error as error:
        raise BreaksRule(Rule.CHUNK, f"it can't be unpacked: {error}") from None
    if len(raw) != chunk.raw_size or not unpack.eof or unpack.unused_data:
        raise BreaksRule(Rule.CHUNK, f"it does not unpack to {chunk.raw_size} bytes")
    return raw


def check_chunk(chunk: Chunk, data: bytes) -> None:
    """That this is the chunk which the manifest names. Raises BreaksRule."""
    if len(data) != chunk.size or hashlib.sha256(data).digest() != chunk.sha256:
        raise BreaksRule(Rule.CHUNK, "it is not the chunk that the manifest names")


def pack(
    upserts: Mapping[tuple[str, str], bytes], deletions: Iterable[tuple[str, str]] = ()
) -> Iterator[tuple[Chunk, bytes]]:
    """Canonical records and deletions, by type and id, as the chunks of a bundle."""

    def by_rank(key: tuple[str, str]) -> tuple[int, str]:
        return _RANKS[key[0]], key[1]

    lines = [b"-" + msgspec.json.encode(key) + b"\n" for key in sorted(deletions, key=by_rank)]
    lines += [b"+" + upserts[key] + b"\n" for key in sorted(upserts, key=by_rank)]
    return _packed(lines)


def _packed(lines: list[bytes]) -> Iterator[tuple[Chunk, bytes]]:
    part: list[bytes] = []
    size = 0
    for line in lines:
        if part and size + len(line) > _RAW_CHUNK_BYTES:
            yield from _chunk(part)
            part, size = [], 0
        part.append(line)
        size += len(line)
    if part or not lines:  # a repair may be of records that are no more
        yield from _chunk(part)


def _chunk(lines: list[bytes]) -> Iterator[tuple[Chunk, bytes]]:
    raw = b"".join(lines)
    data = zlib.compress(raw, 9)
    if len(data) > CHUNK_BYTES_MAX and len(lines) > 1:
        half = len(lines) // 2
        yield from _chunk(lines[:half])
        yield from _chunk(lines[half:])
    else:
        yield Chunk(hashlib.sha256(data).digest(), len(data), len(raw)), data


# --- The file -------------------------------------------------------------------------------------


def framed(parts: Iterable[bytes]) -> Iterator[bytes]:
    """A `.bundle` file's bytes: the document and the chunks, each behind its length."""
    yield MAGIC
    for part in parts:
        yield len(part).to_bytes(_PREFIX_BYTES, "big")
        yield part


def unframed(file: bytes) -> list[bytes]:
    """The document and the chunks of a `.bundle` file, none of them checked.

    Raises:
        BreaksRule: `malformed` or, before anything is read, `too_large`.
    """
    if not file.startswith(MAGIC):
        raise BreaksRule(Rule.MALFORMED, "no bundle: it does not begin with DGBNDL1")
    parts: list[bytes] = []
    at = len(MAGIC)
    while at < len(file):
        size = int.from_bytes(file[at : at + _PREFIX_BYTES], "big")
        if size > (CHUNK_BYTES_MAX if parts else DOCUMENT_BYTES_MAX) or len(parts) > CHUNKS_MAX:
            raise BreaksRule(Rule.TOO_LARGE, f"part {len(parts)} has {size} bytes")
        at += _PREFIX_BYTES
        if at + size > len(file):
            raise BreaksRule(Rule.MALFORMED, "it is cut short")
        parts.append(file[at : at + size])
        at += size
    if not parts:
        raise BreaksRule(Rule.MALFORMED, "it is cut short")
    return parts
