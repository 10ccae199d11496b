"""The hot table: one revision compiled into a file that a decision reads with two look-ups."""

import hashlib
import os
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path

import lmdb
import msgspec

from gateway.cache.key import CredentialKey
from gateway.domain import records
from gateway.domain.entitlements import CompiledRecords, Holding
from gateway.domain.records import Credential, SiteTables
from gateway.domain.schedule import OpeningHours, all_opening_hours
from gateway.errors import StorageError
from gateway.statedir import sync_directory


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

_SITE, _META = b"s", b"m"


class Meta(msgspec.Struct, frozen=True):
    """What a table says of itself."""

    format: str
    revision: str
    as_of: datetime
    counts: dict[str, int]
    """Records by type."""


class CompiledEntitlements:
    """One revision, mapped read-only: implements `gateway.domain.entitlements.Entitlements`.

    The file never changes; the memory goes when nobody refers to this any more.
    """

    def __init__(self, path: Path, key: CredentialKey) -> None:
        """Map a table whose checksum has been verified.

        Raises:
            StorageError: it isn't there, or has another format than this release's.
        """
        self._key = key
        try:
            environment = lmdb.open(
                str(path), subdir=False, readonly=True, lock=False, create=False, max_spare_txns=1
            )
            # One read transaction for good: nothing is ever written, so it pins nothing.
            self._table = environment.begin(buffers=True)
            meta = msgspec.msgpack.decode(self._get(_META), type=Meta)
            if meta.format != FORMAT:
                raise StorageError(f"{path}: has format {meta.format}, not {FORMAT}")
            self.tables: SiteTables = msgspec.msgpack.decode(self._get(_SITE), type=SiteTables)
        except (lmdb.Error, msgspec.DecodeError, KeyError) as error:
            raise StorageError(f"{path}: can't be used: {error}") from error
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
    encode = msgspec.msgpack.encode
    replace = msgspec.structs.replace
    entries = [(_META, encode(meta)), (_SITE, encode(compiled.tables))]
    entries += [
        (_credential_key(digest(kind, value)), encode(replace(credential, value="")))
        for kind, value, credential in compiled.credentials
    ]
    for holding in compiled.holdings:
        kept = Holding(
            replace(holding.holder, name=None),
            tuple(replace(pin, value="") for pin in holding.pins),
            holding.bookings,
            holding.exceptions,
        )
        entries.append((_holder_key(holding.holder.id), encode(kept)))
    entries.sort()  # appended in order, the pages are full
    temporary = path.with_name(f".{path.name}.new")
    try:
        temporary.unlink(missing_ok=True)
        environment = lmdb.open(
            str(temporary), subdir=False, map_size=MAP_BYTES_MAX, lock=False, sync=False, mode=0o600
        )
        try:
            with environment.begin(write=True) as transaction:
                for key, value in entries:
                    transaction.put(key, value, append=True)
            environment.sync(force=True)
        finally:
            environment.close()
        checksum = _synced_checksum(temporary)
        temporary.replace(path)
        sync_directory(path.parent)
    except (OSError, lmdb.Error) as error:
        raise StorageError(f"{path}: can't be written: {error}") from error
    return checksum


def checksum_of(path: Path) -> str:
    """A file's SHA-256. Reading it also brings it into memory, before it is mapped.

    Raises:
        OSError: it can't be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _synced_checksum(path: Path) -> str:
    with path.open("rb") as file:
        os.fsync(file.fileno())
        return hashlib.file_digest(file, "sha256").hexdigest()


def _credential_key(digest: bytes) -> bytes:
    return b"c" + digest


def _holder_key(holder_id: str) -> bytes:
    # An id may be longer than a key may be.
    return b"h" + hashlib.sha256(holder_id.encode()).digest()
