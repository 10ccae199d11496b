"""The records in force as rows of `cache.db`. Only the short-lived child process opens it."""

import contextlib
import sqlite3
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

import msgspec

from gateway.cache.key import CredentialKey
from gateway.cache.sealed import (
    Key,
    Line,
    Seal,
    SealedSet,
    Unsealable,
    check_header,
    check_seal,
    hash_in,
)
from gateway.decoding import decode_json
from gateway.domain.canonical import PERSONAL, TYPES, SetDigest
from gateway.errors import StorageError, Undecodable
from gateway.sqlite import (
    DatabaseCorrupt,
    SqliteErrors,
    forget_aside,
    is_damage,
    migrations,
    open_connection,
    set_aside,
)

ASIDE_MAX = 2
"""Damaged files kept: what they held is in the bundles, so they are for whoever looks for why."""


class Sums(msgspec.Struct, frozen=True):
    """What is counted over a whole set, and changed by what a delta changes."""

    counts: dict[str, int]
    """Records by type."""
    pins: dict[int, int]
    """Active PINs by length."""
    grants: int
    """Holders times doors, as `gateway.domain.impact` counts them, when the set came."""
    hours: float
    doors: dict[str, int]
    """By door: holders who have a way in."""


class Source:
    """The open file: use with `opened`. What it raises of SQLite's becomes a StorageError there."""

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self._connection = connection
        self._path = path

    def seal(self, key: CredentialKey) -> tuple[Seal, Sums]:
        """Which set is in it.

        Raises:
            Unsealable: none, or it is not of this key.
            DatabaseCorrupt: the row is damaged.
        """
        row = self._connection.execute("SELECT header, sums FROM seal").fetchone()
        if row is None:
            raise Unsealable(f"{self._path.name}: holds no records yet")
        try:
            seal = decode_json(row[0], Seal)
            sums = decode_json(row[1], Sums)
        except Undecodable as error:
            raise DatabaseCorrupt(f"{self._path}: damaged: its seal") from error
        check_header(seal, key)
        return seal, sums

    def lines(self) -> Iterator[Line]:
        """Every line, whole or not, in the order of type and id."""
        return self._lines("SELECT type, id, line, leaf, mac FROM record ORDER BY type, id")

    def site_lines(self) -> list[Line]:
        """The lines that are about nobody."""
        statement = "SELECT type, id, line, leaf, mac FROM record WHERE type = ?"
        return [
            line for name in TYPES if name not in PERSONAL for line in self._lines(statement, name)
        ]

    def named(self, keys: Iterable[Key]) -> Iterator[Line]:
        """The lines of these names that there are."""
        for key in keys:
            yield from self._lines(
                "SELECT type, id, line, leaf, mac FROM record WHERE type = ? AND id = ?", *key
            )

    def of_holders(self, holders: Iterable[str]) -> Iterator[Line]:
        """The holders, and every credential, booking and exception of theirs; some twice."""
        for holder in holders:
            yield from self.named([("holder", holder)])
            yield from self._lines(
                "SELECT type, id, line, leaf, mac FROM part JOIN record USING (type, id)"
                " WHERE holder = ?",
                holder,
            )

    def with_values(self, values: Iterable[str]) -> Iterator[Line]:
        """The credentials that have one of these (`value_of`)."""
        for value in values:
            yield from self._lines(
                "SELECT type, id, line, leaf, mac FROM record WHERE value = ?", value
            )

    def digest(self) -> tuple[SetDigest, int]:
        """The digest over all leaves, and how many there are."""
        digest, count = SetDigest(), 0
        for kind, name, leaf in self._connection.execute(
            "SELECT type, id, leaf FROM record ORDER BY type, id"
        ):
            digest.add(kind, name, leaf)
            count += 1
        return digest, count

    def change(self, gone: Collection[Key], put: Collection[Line]) -> None:
        """Delete and write lines, within the transaction."""
        changed = [*gone, *(line.key for line in put)]
        for kind, name in changed:
            self._forget_parts(kind, name)
        self._connection.executemany("DELETE FROM record WHERE type = ? AND id = ?", gone)
        self._write(put)

    def replace(self, lines: Collection[Line]) -> None:
        """Make the rows these lines; only what differs is written."""
        wanted = {line.key for line in lines}
        there = {(line.type, line.id): line for line in self.lines()}
        self.change(there.keys() - wanted, [line for line in lines if there.get(line.key) != line])

    def put_seal(self, seal: Seal, sums: Sums) -> None:
        """Say which set it is now."""
        self._connection.execute(
            "INSERT OR REPLACE INTO seal VALUES (1, ?, ?)",
            (msgspec.json.encode(seal), msgspec.json.encode(sums)),
        )

    def commit(self) -> None:
        """End the transaction, durably."""
        self._connection.commit()

    def _forget_parts(self, kind: str, name: str) -> None:
        old = self._connection.execute(
            "SELECT line FROM record WHERE type = ? AND id = ?", (kind, name)
        ).fetchone()
        if old is not None and kind in PERSONAL:
            self._connection.executemany(
                "DELETE FROM part WHERE holder = ? AND type = ? AND id = ?",
                [(holder, kind, name) for holder in holders_in(kind, old[0])],
            )

    def _write(self, put: Collection[Line]) -> None:
        self._connection.executemany(
            "INSERT OR REPLACE INTO record VALUES (?, ?, ?, ?, ?, ?)",
            ((*line, value_of(line)) for line in put),
        )
        self._connection.executemany(
            "INSERT OR IGNORE INTO part VALUES (?, ?, ?)",
            (
                (holder, line.type, line.id)
                for line in put
                if line.type in PERSONAL
                for holder in holders_in(line.type, line.body)
            ),
        )

    def _lines(self, statement: str, *values: str) -> Iterator[Line]:
        return map(Line._make, self._connection.execute(statement, values))


class _Parts(msgspec.Struct, frozen=True):
    holder: str | None = None
    holders: list[str] = []


def holders_in(kind: str, body: bytes) -> list[str]:
    """The holders that a credential, booking or exception names."""
    if kind == "holder":
        return []
    try:
        parts = decode_json(body, _Parts)
    except Undecodable:
        return []  # a damaged line; what points to it leads nowhere
    return parts.holders if parts.holder is None else [parts.holder]


def value_of(line: Line) -> str | None:
    """By what a credential is found among those of the same value; None for other records."""
    return ":".join(hash_in(line.body)) if line.type == "credential" else None


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Source]:
    """Open the file for one transaction, which is undone unless it is committed.

    Raises:
        DatabaseCorrupt: the file is damaged.
        StorageError: it can't be opened, read or written.
    """
    connection = open_connection(path, migrations("gateway.cache.schema"))
    try:
        yield Source(connection, path)
    except SqliteErrors as error:
        raise _as_storage_error(path, error) from error
    finally:
        connection.close()


def write_source(path: Path, sealed: SealedSet, sums: Sums) -> None:
    """Make the rows those of a set, in one transaction; only what differs is written.

    A damaged file is set aside first: what it held is in the bundles.

    Raises:
        StorageError: it can't be written; the rows are as they were.
    """
    try:
        _write(path, sealed, sums)
    except DatabaseCorrupt:
        put_aside(path)
        _write(path, sealed, sums)


def put_aside(path: Path) -> None:
    """Set a damaged file aside, and keep the last `ASIDE_MAX` of them.

    Raises:
        StorageError: the disk doesn't let it be renamed.
    """
    set_aside(path)
    with contextlib.suppress(OSError):  # a full disk must not keep the set from being built again
        forget_aside(path, ASIDE_MAX)


def read_source(path: Path, key: CredentialKey) -> SealedSet:
    """Read and check the set.

    Raises:
        Unsealable: there is none, or it isn't whole, or not of this key.
        DatabaseCorrupt: the file is damaged.
        StorageError: it can't be opened.
    """
    with opened(path) as source:
        seal, _ = source.seal(key)
        found = SealedSet(seal, list(source.lines()))
    check_seal(found, key)
    return found


def _write(path: Path, sealed: SealedSet, sums: Sums) -> None:
    with opened(path) as source:
        source.replace(sealed.lines)
        source.put_seal(sealed.seal, sums)
        source.commit()


def _as_storage_error(path: Path, error: sqlite3.Error | UnicodeDecodeError) -> StorageError:
    kind = DatabaseCorrupt if is_damage(error) else StorageError
    return kind(f"{path}: can't be used: {error}")
