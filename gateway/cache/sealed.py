"""A set of records in the form in which it may lie on disk: without credential values and names.

A sealed line is the record in its canonical form, a credential's `value` replaced by its keyed
hash. So it outlives any change of the program's own structures, and the one reader of records
checks it again before it is used. Beside it stand its leaf of the set's digest, which only the
value itself could make, and a mac over both, so that every line is whole or is known not to be.
"""

import hmac
import itertools
import os
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import msgspec

from gateway.cache.key import CredentialKey
from gateway.decoding import decode_json
from gateway.domain.canonical import SetDigest, canonical, leaf
from gateway.domain.entitlements import ValidRecords
from gateway.domain.json_text import decode_object
from gateway.domain.record_faults import LintWarning, parse_records
from gateway.errors import StorageError, Undecodable
from gateway.statedir import open_plain, sync_directory, write_atomically

SEALED_BYTES_MAX = 1024 * 1024 * 1024
"""A file larger than this can't come from records within their limit."""

HEADER_BYTES_MAX = 64 * 1024 * 1024
"""The first line of a delta names every record that it deletes."""

CHAIN_MAX = 32
"""Deltas kept upon one whole set. The next one is kept whole: reading stays quick, and so does
deleting what is old."""

_SEALED_PREFIX = "hmac:"
_LEAF_BYTES = 32
_MAC_BYTES = 16
"""Half of an HMAC-SHA-256: nobody tries 2^128 of them."""

Key = tuple[str, str]
"""Type and id."""


class Unsealable(StorageError):
    """What lies on disk is not a set that was sealed with this key, whole."""


class Identity(NamedTuple):
    """Which set it is."""

    number: int | None
    """The signed revision; None for a local operator's file."""
    epoch: int
    """The root that began to count revisions anew (`gateway.cache.floor`)."""
    as_of: datetime
    digest_key: bytes


class Seal(msgspec.Struct, frozen=True):
    """What stands before the lines of a set: which it is, and the proof that it is whole."""

    digest: str
    """Hex: the digest of docs/spec/trust.md, over all lines."""
    digest_key: str
    """Hex, encrypted: with it and the leaves PINs could be tried."""
    number: int | None
    epoch: int
    as_of: datetime
    key: str
    mac: str
    version: int = 2

    @property
    def revision(self) -> str:
        """The name of the set."""
        return name_of(self.number, self.digest)


def name_of(number: int | None, digest: str) -> str:
    """What a set is called in events and file names: the signed revision and what tells two sets of
    one number apart, or for an operator's file the beginning of its digest.
    """
    return digest[:16] if number is None else f"{number}-{digest[:12]}"


class Line(NamedTuple):
    """One record, sealed."""

    type: str
    id: str
    body: bytes
    leaf: bytes
    mac: bytes

    @property
    def key(self) -> Key:
        """What names it within the set."""
        return self.type, self.id


class SealedSet(NamedTuple):
    """One revision as it may lie on disk, in the order of type and id."""

    seal: Seal
    lines: list[Line]


def own_digest_key(key: CredentialKey) -> bytes:
    """The digest key for sets that nobody signed: equal sets of one box have equal digests."""
    return key.mac(b"digest key 1", b"")


def seal_line(members: Mapping[str, object], digest_key: bytes, key: CredentialKey) -> Line:
    """Seal one record of a known type."""
    form = canonical(members)
    body = form
    if members["type"] == "credential":
        hashed = f"{_SEALED_PREFIX}{key.digest(str(members['kind']), str(members['value'])).hex()}"
        if members["kind"] == "pin":  # its length says how good a guess is (pin_odds.py)
            hashed += f":{len(str(members['value']))}"
        body = canonical({**members, "value": hashed})
    at = leaf(digest_key, form)
    return Line(str(members["type"]), str(members["id"]), body, at, _line_mac(body, at, key))


def seal_records(lines: Iterable[bytes], as_of: datetime, key: CredentialKey) -> SealedSet:
    """Seal an operator's records, which have been found to be without a fault."""
    digest_key = own_digest_key(key)
    sealed = sorted(seal_line(decode_object(line).members, digest_key, key) for line in lines)
    digest = digest_of(sealed).hex()
    return SealedSet(make_seal(digest, Identity(None, 0, as_of, digest_key), key), sealed)


def make_seal(digest: str, of: Identity, key: CredentialKey) -> Seal:
    """The seal over lines with this digest."""
    encrypted = key.encrypt(b"digest key", of.digest_key).hex()
    seal = Seal(digest, encrypted, of.number, of.epoch, of.as_of, key.id, "")
    return msgspec.structs.replace(seal, mac=_seal_mac(seal, key))


def digest_of(lines: Iterable[Line]) -> bytes:
    """The digest of lines in the order of type and id."""
    digest = SetDigest()
    for line in lines:
        digest.add(line.type, line.id, line.leaf)
    return digest.digest()


def is_whole(line: Line, key: CredentialKey) -> bool:
    """Whether a line is as it was sealed."""
    return hmac.compare_digest(line.mac, _line_mac(line.body, line.leaf, key))


def check_header(seal: Seal, key: CredentialKey) -> None:
    """See that a seal was made here. Raises Unsealable."""
    if seal.version != 2:
        raise Unsealable(f"a set of version {seal.version}, which this release doesn't know")
    if seal.key != key.id:
        raise Unsealable("sealed with another credential key")
    if not hmac.compare_digest(seal.mac.encode(), _seal_mac(seal, key).encode()):
        raise Unsealable("the seal is damaged")


def check_seal(found: SealedSet, key: CredentialKey) -> None:
    """See that a set is whole and was sealed here.

    Raises:
        Unsealable: it isn't.
    """
    check_header(found.seal, key)
    if digest_of(found.lines).hex() != found.seal.digest or not all(
        is_whole(line, key) for line in found.lines
    ):
        raise Unsealable("the records are damaged")


class Unsealed(NamedTuple):
    """A sealed set, read again."""

    records: ValidRecords
    warnings: tuple[LintWarning, ...]
    digests: dict[tuple[str, str], bytes]
    """By kind and value, or the stand-in for one: its keyed hash."""

    def digest(self, kind: str, value: str) -> bytes:
        """The keyed hash of a value or a stand-in."""
        return self.digests[kind, value]


def hash_in(body: bytes) -> tuple[str, str]:
    """Kind and sealed value of a credential's body."""
    members = decode_json(body, _Value)
    return members.kind, members.value


def unseal(lines: Iterable[Line], site: str, fresh: Mapping[Key, bytes] | None = None) -> Unsealed:
    """Read lines with the one reader of records. `fresh` are canonical records that have just come,
    with their values: they are read as they are.

    The reader asks for values in canonical form, so each other keyed hash gets a stand-in of its
    kind, and of its length where that counts. `site` is the id of the site that they must be of.

    Raises:
        RecordsRefused: there are faults.
        Unsealable: a line is in no form that this release knows.
    """
    fresh = fresh or {}
    lines = list(lines)
    values: dict[tuple[str, str], str] = {}
    for line in lines:
        if line.type == "credential" and line.key in fresh:
            values[hash_in(line.body)] = decode_json(fresh[line.key], _Value).value
    digests = {(kind, value): _hash(sealed) for (kind, sealed), value in values.items()}
    counters: dict[str, itertools.count[int]] = {}

    def stand_in(kind: str, sealed: str) -> str:
        form = _STAND_INS[kind]
        if kind == "pin":
            form = f"{{:0{int(sealed.rpartition(':')[2])}}}"
        for count in counters.setdefault(form, itertools.count()):
            value = form.format(count)
            if (kind, value) not in digests:
                return value
        raise AssertionError  # the counter has no end

    def read() -> Iterator[bytes]:
        for line in lines:
            if line.type != "credential" or line.key in fresh:
                yield fresh.get(line.key, line.body)
                continue
            members = decode_json(line.body, dict[str, object])
            of = str(members["kind"]), str(members["value"])
            value = values.get(of)
            if value is None:
                value = values[of] = stand_in(*of)
                digests[of[0], value] = _hash(of[1])
            members["value"] = value
            yield msgspec.json.encode(members)

    try:
        parsed = parse_records(read(), site)
    except (Undecodable, KeyError, ValueError) as error:
        raise Unsealable(f"the records can't be used any more: {error}") from error
    return Unsealed(parsed.records, parsed.warnings, digests)


def _hash(sealed: str) -> bytes:
    return bytes.fromhex(sealed.split(":")[1])


# A canonical value of each kind for a number (docs/spec/entitlements.md, "Credential kinds").
_STAND_INS = {
    "uid": "{:014X}",
    "wiegand": "S:-:{}",
    "desfire": "000000:{:08X}",
    "sun": "{:014X}",
    "pkoc": "04{:0128X}",
    "pin": "",
    "qr": "{:08}",
}


# --- Bundles --------------------------------------------------------------------------------------


class _DeltaHeader(msgspec.Struct, frozen=True):
    seal: Seal
    base: str
    """The name of the set that it changes."""
    gone: list[Key]


def write_bundle(directory: Path, sealed: SealedSet) -> None:
    """Keep a set as a file of its own. Raises StorageError."""
    path = directory / f"{sealed.seal.revision}.jsonl"
    write_atomically(path, _file(msgspec.json.encode(sealed.seal), sealed.lines))


def write_delta(
    directory: Path, seal: Seal, base: str, gone: Iterable[Key], put: Iterable[Line]
) -> bool:
    """Keep what a set changes in the one before, which is kept; False where that chain is long
    enough, and the set should be kept whole.

    Raises:
        StorageError: it can't be written.
    """
    try:
        if len(_chain(directory, base)) > CHAIN_MAX:
            return False
    except (OSError, Undecodable, Unsealable):
        return False
    header = msgspec.json.encode(_DeltaHeader(seal, base, sorted(gone)))
    write_atomically(directory / f"{seal.revision}.delta", _file(header, put))
    return True


def read_bundle(path: Path, key: CredentialKey) -> SealedSet:
    """Read and check a set, upon those that it changes.

    Raises:
        Unsealable: it isn't whole, or not of this key.
    """
    lines: dict[Key, Line] = {}
    try:
        for part in reversed(_chain(path.parent, path.stem)):
            with open_plain(part) as file:
                size = os.fstat(file.fileno()).st_size
                if size > SEALED_BYTES_MAX:
                    raise Unsealable(f"{part.name}: too large")
                # Python makes room for as many bytes as are asked for, and the child has a limit.
                header, *bodies = file.read(size).splitlines()
            if part.suffix == ".delta":
                delta = decode_json(header, _DeltaHeader)
                seal = delta.seal
                for gone in delta.gone:
                    lines.pop(gone, None)
            else:
                seal = decode_json(header, Seal)
            lines |= {line.key: line for line in map(_line, bodies)}
    except OSError as error:
        raise Unsealable(f"{path.name}: can't be read: {error.strerror}") from error
    except (Undecodable, ValueError, KeyError) as error:
        raise Unsealable(f"{path.name}: damaged") from error
    found = SealedSet(seal, sorted(lines.values()))
    check_seal(found, key)
    return found


def bundles(directory: Path) -> list[Path]:
    """The sets kept, the one written last first."""
    found = [path for path in directory.iterdir() if path.suffix in (".jsonl", ".delta")]
    return sorted(found, key=lambda path: path.stat().st_mtime_ns, reverse=True)


def remove_old_bundles(directory: Path, keep: frozenset[str]) -> None:
    """Delete all but the revisions to keep and what those are made of. Raises OSError."""
    needed: set[Path] = set()
    for name in keep:
        try:
            needed.update(_chain(directory, name))
        except (FileNotFoundError, Undecodable, ValueError, Unsealable):
            continue  # there was none before the first, or it is damaged
    for path in bundles(directory):
        if path not in needed:
            path.unlink()
    for path in directory.glob(".*.new"):
        path.unlink()
    sync_directory(directory)


def _chain(directory: Path, name: str) -> list[Path]:
    """The files that make up a set, the whole one last. Raises OSError and Undecodable."""
    found: list[Path] = []
    while len(found) <= CHAIN_MAX + 1:
        whole = directory / f"{name}.jsonl"
        if whole.exists():
            return [*found, whole]
        delta = directory / f"{name}.delta"
        with open_plain(delta) as file:
            name = decode_json(file.readline(HEADER_BYTES_MAX), _DeltaHeader).base
        found.append(delta)
    raise Unsealable(f"{found[0].name}: its bases go round in a circle")


def _file(header: bytes, lines: Iterable[Line]) -> bytes:
    rows = (b"%b\t%b" % (line.body, (line.leaf + line.mac).hex().encode()) for line in lines)
    return b"\n".join((header, *rows)) + b"\n"


def _line(row: bytes) -> Line:
    body, _, sums = row.partition(b"\t")  # JSON has no tab in it
    members = decode_json(body, _Names)
    raw = bytes.fromhex(sums.decode("ascii"))
    return Line(members.type, members.id, body, raw[:_LEAF_BYTES], raw[_LEAF_BYTES:])


class _Names(msgspec.Struct, frozen=True):
    type: str
    id: str


class _Value(msgspec.Struct, frozen=True):
    kind: str
    value: str


def _line_mac(body: bytes, leaf_of_record: bytes, key: CredentialKey) -> bytes:
    return key.mac(b"line 1", leaf_of_record + body)[:_MAC_BYTES]


def _seal_mac(seal: Seal, key: CredentialKey) -> str:
    return key.mac(b"seal 2", msgspec.json.encode(msgspec.structs.replace(seal, mac=""))).hex()
