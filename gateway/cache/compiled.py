"""The hot table: one revision compiled into a file that a decision reads with two look-ups."""

import errno
import hashlib
import os
from collections.abc import Callable, Collection, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import lmdb
import msgspec

from gateway.cache.key import CredentialKey
from gateway.decoding import decode_msgpack
from gateway.domain import records
from gateway.domain.entitlements import CompiledRecords, Holding
from gateway.domain.records import Credential, SiteTables
from gateway.domain.schedule import OpeningHours, all_opening_hours
from gateway.errors import StorageError, Undecodable
from gateway.statedir import open_plain, sync_directory


def _format() -> str:
    """Tells one shape of the stored structs from any other: their fields, in order, and types."""
    shapes = [
        (struct.__name__, [(name, str(kind)) for name, kind in struct.__annotations__.items()])
        for struct in (Holding, *vars(records).values())
        if isinstance(struct, type) and issubclass(struct, msgspec.Struct)
    ]
    return hashlib.sha256(f"table 1 {sorted(shapes)}".encode()).hexdigest()[:16]


FORMAT = _format()
"""A table of another format, as before an update, is compiled again from the records at start."""

MAP_BYTES_MAX = 2 * 1024 * 1024 * 1024
"""Address space, not memory: a table of 1,000,000 credentials takes a quarter of it. A set that
needs more is refused as a storage error."""

_CHUNK_BYTES = 1024 * 1024

_SITE, _META = b"s", b"m"


class Meta(msgspec.Struct, frozen=True):
    """What a table says of itself."""

    format: str
    revision: str
    as_of: datetime
    counts: dict[str, int]
    """Records by type."""


class CompiledEntitlements:
    """One revision in memory: implements `gateway.domain.entitlements.Entitlements`.

    It never changes; the memory goes when nobody refers to this any more.
    """

    def __init__(self, path: Path, sha256: str, key: CredentialKey) -> None:
        """Take a table into memory and map it.

        Mapping the file itself would save its size in memory (17 MB for 100,000 credentials), but
        a page that the card can't read any more would kill the process at some later tap, and one
        that was evicted would cost that tap 10 ms. What is mapped is what was checked.

        Raises:
            StorageError: it can't be read, isn't what it was, or is of another format.
        """
        self._key = key
        memory = os.memfd_create(path.name)
        try:
            if _copy(path, memory) != sha256:
                raise StorageError(f"{path.name}: damaged")
            environment = lmdb.open(
                f"/proc/self/fd/{memory}", subdir=False, readonly=True, lock=False, create=False
            )
            # One read transaction for good: nothing is ever written, so it pins nothing.
            self._table = environment.begin(buffers=True)
            meta = decode_msgpack(self._get(_META), Meta)
            if meta.format != FORMAT:
                raise StorageError(f"{path.name}: has format {meta.format}, not {FORMAT}")
            self.tables = decode_msgpack(self._get(_SITE), SiteTables)
        except OSError as error:
            raise StorageError(f"{path.name}: can't be read: {error.strerror}") from error
        except (lmdb.Error, Undecodable, KeyError) as error:
            raise StorageError(f"{path.name}: can't be used: {error}") from error
        finally:
            os.close(memory)
        self.revision = meta.revision
        self.counts = meta.counts
        self.hours: Mapping[str, OpeningHours] = all_opening_hours(
            self.tables.schedules, self.tables.calendars, self.tables.site.timezone
        )

    def find(self, kind: str, value: str) -> Credential | None:
        """See `Entitlements.find`."""
        found = self._table.get(_credential_key(self._key.digest(kind, value)))
        return None if found is None else _decode_credential(found)

    def holding(self, holder_id: str) -> Holding:
        """See `Entitlements.holding`. Raises KeyError for a holder who is in no record."""
        return _decode_holding(self._get(_holder_key(holder_id)))

    def _get(self, key: bytes) -> memoryview:
        found: memoryview | None = self._table.get(key)
        if found is None:
            raise KeyError(key)
        return found


_decode_credential = msgspec.msgpack.Decoder(Credential).decode
_decode_holding = msgspec.msgpack.Decoder(Holding).decode


def write_table(
    path: Path,
    compiled: CompiledRecords,
    digest: Callable[[str, str], bytes],
    meta: Meta,
) -> str:
    """Compile a revision into a file, whole or not at all; return the file's SHA-256.

    `digest` gives the keyed hash of a kind and value among the credentials. Neither values nor
    names of holders get into the table.

    Raises:
        StorageError: it can't be written.
    """
    entries = sorted(_entries(compiled, digest, meta))  # appended in order, the pages are full
    temporary = path.with_name(f".{path.name}.new")
    try:
        temporary.unlink(missing_ok=True)
        return _write(temporary, path, lambda table: _append(table, entries))
    except (OSError, lmdb.Error) as error:
        raise StorageError(f"{path}: can't be written: {error}") from error


class Amended(NamedTuple):
    """What of a table has to change."""

    holders: Collection[str]
    hashes: Collection[bytes]
    """Keyed hashes of credentials."""


def amend_table(
    base: tuple[Path, str],
    path: Path,
    amended: Amended,
    compiled: CompiledRecords,
    digest: Callable[[str, str], bytes],
    meta: Meta,
) -> str:
    """As `write_table`, from the table before, whose SHA-256 is known: only what is amended is
    taken from `compiled`, and what is not in it any more is deleted.

    Raises:
        StorageError: it can't be written, or the table before is damaged.
    """
    stale = {_holder_key(holder_id) for holder_id in amended.holders}
    stale |= {_credential_key(each) for each in amended.hashes}
    entries = {
        key: value
        for key, value in _entries(compiled, digest, meta)
        if key in stale or key in (_META, _SITE)
    }

    def change(table: lmdb.Transaction) -> None:
        for key in stale - entries.keys():
            table.delete(key)
        for key, value in sorted(entries.items()):
            table.put(key, value)

    temporary = path.with_name(f".{path.name}.new")
    try:
        descriptor = os.open(
            temporary, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600
        )
        try:
            if _copy(base[0], descriptor) != base[1]:
                raise StorageError(f"{base[0].name}: damaged")
        finally:
            os.close(descriptor)
        return _write(temporary, path, change)
    except (OSError, lmdb.Error) as error:
        raise StorageError(f"{path}: can't be written: {error}") from error


def _entries(
    compiled: CompiledRecords, digest: Callable[[str, str], bytes], meta: Meta
) -> Iterator[tuple[bytes, bytes]]:
    encode = msgspec.msgpack.encode
    replace = msgspec.structs.replace
    yield _META, encode(meta)
    yield _SITE, encode(compiled.tables)
    for kind, value, credential in compiled.credentials:
        yield _credential_key(digest(kind, value)), encode(replace(credential, value=""))
    for holding in compiled.holdings:
        kept = Holding(
            replace(holding.holder, name=None),
            tuple(replace(pin, value="") for pin in holding.pins),
            holding.bookings,
            holding.exceptions,
        )
        yield _holder_key(holding.holder.id), encode(kept)


def _append(table: lmdb.Transaction, entries: list[tuple[bytes, bytes]]) -> None:
    for key, value in entries:
        table.put(key, value, append=True)


def _write(temporary: Path, path: Path, change: Callable[[lmdb.Transaction], None]) -> str:
    """Change a table and put it in its place; its SHA-256. Raises OSError and lmdb.Error."""
    environment = lmdb.open(
        str(temporary), subdir=False, map_size=MAP_BYTES_MAX, lock=False, sync=False, mode=0o600
    )
    try:
        with environment.begin(write=True) as table:
            change(table)
        environment.sync(force=True)
    finally:
        environment.close()
    checksum = _synced_checksum(temporary)
    temporary.replace(path)
    sync_directory(path.parent)
    return checksum


def _copy(path: Path, to: int) -> str:
    """Copy a file and return the SHA-256 of what was copied. Raises OSError."""
    checksum = hashlib.sha256()
    with open_plain(path) as source, os.fdopen(os.dup(to), "wb") as target:
        if os.fstat(source.fileno()).st_size > MAP_BYTES_MAX:
            raise OSError(errno.EFBIG, "is too large", str(path))
        while chunk := source.read(_CHUNK_BYTES):
            checksum.update(chunk)
            target.write(chunk)
    return checksum.hexdigest()


def _synced_checksum(path: Path) -> str:
    with path.open("rb") as file:
        os.fsync(file.fileno())
        return hashlib.file_digest(file, "sha256").hexdigest()


def _credential_key(digest: bytes) -> bytes:
    return b"c" + digest


def _holder_key(holder_id: str) -> bytes:
    # An id may be longer than a key may be.
    return b"h" + hashlib.sha256(holder_id.encode()).digest()
