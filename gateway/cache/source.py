"""The records in force as rows of `cache.db`. Only the short-lived child process opens it."""

import sqlite3
from pathlib import Path

import msgspec

from gateway.cache.key import CredentialKey
from gateway.cache.sealed import Line, Seal, SealedSet, Unsealable, check_seal
from gateway.errors import StorageError
from gateway.sqlite import (
    DatabaseCorrupt,
    SqliteErrors,
    is_damage,
    migrations,
    open_connection,
    set_aside,
)


def write_source(path: Path, sealed: SealedSet) -> None:
    """Make the rows those of a set, in one transaction; only what differs is written.

    A damaged file is set aside first: what it held is in the bundles.

    Raises:
        StorageError: it can't be written; the rows are as they were.
    """
    try:
        _write(path, sealed)
    except DatabaseCorrupt:
        set_aside(path)
        _write(path, sealed)


def read_source(path: Path, key: CredentialKey) -> SealedSet:
    """Read and check the set.

    Raises:
        Unsealable: there is none, or it isn't whole, or not of this key.
        DatabaseCorrupt: the file is damaged.
        StorageError: it can't be opened.
    """
    connection = open_connection(path, migrations("gateway.cache.schema"))
    try:
        row = connection.execute("SELECT header FROM seal").fetchone()
        lines = [
            Line(*row)
            for row in connection.execute("SELECT type, id, line FROM record ORDER BY type, id")
        ]
    except SqliteErrors as error:
        raise _as_storage_error(path, error) from error
    finally:
        connection.close()
    if row is None:
        raise Unsealable(f"{path.name}: holds no records yet")
    try:
        found = SealedSet(msgspec.json.decode(row[0], type=Seal), lines)
    except msgspec.DecodeError as error:
        raise DatabaseCorrupt(f"{path}: damaged: its seal") from error
    check_seal(found, key)
    return found


def _write(path: Path, sealed: SealedSet) -> None:
    connection = open_connection(path, migrations("gateway.cache.schema"))
    try:
        wanted = {(line.type, line.id) for line in sealed.lines}
        there = {
            (kind, name): body
            for kind, name, body in connection.execute("SELECT type, id, line FROM record")
        }
        with connection:
            connection.executemany(
                "DELETE FROM record WHERE type = ? AND id = ?", there.keys() - wanted
            )
            connection.executemany(
                "INSERT OR REPLACE INTO record VALUES (?, ?, ?)",
                (line for line in sealed.lines if there.get((line.type, line.id)) != line.body),
            )
            connection.execute(
                "INSERT OR REPLACE INTO seal VALUES (1, ?)", (msgspec.json.encode(sealed.seal),)
            )
    except SqliteErrors as error:
        raise _as_storage_error(path, error) from error
    finally:
        connection.close()


def _as_storage_error(path: Path, error: sqlite3.Error | UnicodeDecodeError) -> StorageError:
    kind = DatabaseCorrupt if is_damage(error) else StorageError
    return kind(f"{path}: can't be used: {error}")
