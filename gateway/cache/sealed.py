"""A set of records in the form in which it may lie on disk: without credential values and names.

A sealed line is the record's own JSON, members the specification knows only, a credential's `value`
replaced by its keyed hash and a holder's `name` left out. So it outlives any change of the
program's own structures, and the one reader of records checks it again before it is used.
"""

import hmac
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import msgspec

from gateway.cache.key import CredentialKey
from gateway.domain.entitlements import ValidRecords
from gateway.domain.json_text import decode_object
from gateway.domain.record_faults import parse_records
from gateway.domain.record_forms import FORMS
from gateway.errors import RecordsRefused, StorageError
from gateway.statedir import sync_directory, write_atomically

SEALED_BYTES_MAX = 256 * 1024 * 1024
"""A bundle larger than this can't come from records within their limit."""

BUNDLES_KEPT = 2
"""The set in force and the one before: whichever of the two an interrupted change leaves."""

_SEALED_PREFIX = "hmac:"


class Unsealable(StorageError):
    """What lies on disk is not a set that was sealed with this key, whole."""


class Seal(msgspec.Struct, frozen=True):
    """What stands before the lines of a set: which it is, and the proof that it is whole."""

    digest: str
    """Keyed, over all lines: equal sets have equal ones, and nobody can try PINs against it."""
    as_of: datetime
    key: str
    mac: str
    version: int = 1

    @property
    def revision(self) -> str:
        """The name of the set."""
        return self.digest[:16]


class Line(NamedTuple):
    """One record, sealed."""

    type: str
    id: str
    body: bytes


class SealedSet(NamedTuple):
    """One revision as it may lie on disk, in the order of type and id."""

    seal: Seal
    lines: list[Line]


def seal_records(lines: Iterable[bytes], as_of: datetime, key: CredentialKey) -> SealedSet:
    """Seal records that have been found to be without a fault."""
    sealed = sorted(_sealed_line(line, key) for line in lines)
    digest = _digest(sealed, key)
    return SealedSet(Seal(digest, as_of, key.id, _mac(digest, as_of, key)), sealed)


def check_seal(found: SealedSet, key: CredentialKey) -> None:
    """See that a set is whole and was sealed here.

    Raises:
        Unsealable: it isn't.
    """
    seal = found.seal
    if seal.version != 1:
        raise Unsealable(f"a set of version {seal.version}, which this release doesn't know")
    if seal.key != key.id:
        raise Unsealable("sealed with another credential key")
    if not hmac.compare_digest(seal.mac, _mac(seal.digest, seal.as_of, key)):
        raise Unsealable("the seal is damaged")
    if not hmac.compare_digest(seal.digest, _digest(found.lines, key)):
        raise Unsealable("the records are damaged")


class Unsealed(NamedTuple):
    """A sealed set, read again."""

    records: ValidRecords
    digests: dict[tuple[str, str], bytes]
    """By kind and stand-in value: the keyed hash that it stands for."""

    def digest(self, kind: str, value: str) -> bytes:
        """The keyed hash that a stand-in stands for."""
        return self.digests[kind, value]


def unseal(found: SealedSet) -> Unsealed:
    """Read a checked set with the one reader of records.

    The reader asks for values in canonical form, so each keyed hash gets a stand-in of its kind.

    Raises:
        Unsealable: the reader finds a fault.
    """
    stand_ins: dict[tuple[str, str], str] = {}
    digests: dict[tuple[str, str], bytes] = {}

    def lines() -> Iterator[bytes]:
        for line in found.lines:
            if line.type != "credential":
                yield line.body
                continue
            members = msgspec.json.decode(line.body, type=dict[str, object])
            kind, sealed = str(members["kind"]), str(members["value"])
            value = stand_ins.get((kind, sealed))
            if value is None:
                value = stand_ins[kind, sealed] = _STAND_INS[kind].format(len(stand_ins))
                digests[kind, value] = bytes.fromhex(sealed.removeprefix(_SEALED_PREFIX))
            members["value"] = value
            yield msgspec.json.encode(members)

    try:
        return Unsealed(parse_records(lines()).records, digests)
    except (RecordsRefused, msgspec.DecodeError, KeyError, ValueError) as error:
        raise Unsealable(f"the records can't be used any more: {error}") from error


# A canonical value of each kind for a number (docs/spec/entitlements.md, "Credential kinds").
_STAND_INS = {
    "uid": "{:014X}",
    "wiegand": "S:-:{}",
    "desfire": "000000:{:08X}",
    "sun": "{:014X}",
    "pkoc": "04{:0128X}",
    "pin": "{:08}",
    "qr": "{:08}",
}


# --- Bundles --------------------------------------------------------------------------------------


def write_bundle(directory: Path, sealed: SealedSet) -> None:
    """Keep a set as a file of its own. Raises StorageError."""
    path = directory / f"{sealed.seal.revision}.jsonl"
    parts = [msgspec.json.encode(sealed.seal), *(line.body for line in sealed.lines)]
    write_atomically(path, b"\n".join(parts) + b"\n")


def read_bundle(path: Path, key: CredentialKey) -> SealedSet:
    """Read and check a set.

    Raises:
        Unsealable: it isn't whole, or not of this key.
    """
    try:
        if path.stat().st_size > SEALED_BYTES_MAX:
            raise Unsealable(f"{path.name}: too large")
        header, *bodies = path.read_bytes().splitlines()
        lines = [_line(body) for body in bodies]
        found = SealedSet(msgspec.json.decode(header, type=Seal), lines)
    except OSError as error:
        raise Unsealable(f"{path.name}: can't be read: {error.strerror}") from error
    except (msgspec.DecodeError, ValueError, KeyError) as error:
        raise Unsealable(f"{path.name}: damaged") from error
    check_seal(found, key)
    return found


def bundles(directory: Path) -> list[Path]:
    """The sets kept, the one written last first."""
    return sorted(directory.glob("*.jsonl"), key=lambda path: path.stat().st_mtime_ns, reverse=True)


def remove_old_bundles(directory: Path, keep: frozenset[str]) -> None:
    """Delete the sets other than the revisions to keep and the youngest. Raises OSError."""
    for path in bundles(directory)[BUNDLES_KEPT:]:
        if path.stem not in keep:
            path.unlink()
    for path in directory.glob(".*.new"):
        path.unlink()
    sync_directory(directory)


def _sealed_line(line: bytes, key: CredentialKey) -> Line:
    raw = decode_object(line).members
    of = str(raw["type"])
    known = {member.name for member in FORMS[of].members}
    if of == "holder":
        known.discard("name")
    # An absent member and null mean the same; a member that nobody knows might hold anything.
    members = {name: raw[name] for name in known & raw.keys() if raw[name] is not None}
    if of == "credential":
        digest = key.digest(str(raw["kind"]), str(raw["value"]))
        members["value"] = f"{_SEALED_PREFIX}{digest.hex()}"
    members |= {"type": of, "id": raw["id"]}
    return Line(of, str(raw["id"]), msgspec.json.encode(members, order="sorted"))


def _line(body: bytes) -> Line:
    members = msgspec.json.decode(body, type=_Identity)
    return Line(members.type, members.id, body)


class _Identity(msgspec.Struct, frozen=True):
    type: str
    id: str


def _digest(lines: list[Line], key: CredentialKey) -> str:
    return key.mac(b"records 1", b"\n".join(line.body for line in lines)).hex()


def _mac(digest: str, as_of: datetime, key: CredentialKey) -> str:
    return key.mac(b"seal 1", f"{digest} {as_of.isoformat()}".encode()).hex()
