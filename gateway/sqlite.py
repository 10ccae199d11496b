"""Opening an SQLite file the one way that survives a power cut, or saying why it can't be done."""

import asyncio
import contextlib
import errno
import os
import re
import sqlite3
import stat
import struct
from importlib import resources
from pathlib import Path
from typing import NamedTuple

import aiosqlite

from gateway.errors import StorageError

BUSY_TIMEOUT_S = 2.0
"""How long to wait for another process's lock. One daemon owns the state directory and its child
holds `cache.db` for less than that; a longer wait would hide a second owner."""

WAL_BYTES_MAX = 4 * 1024 * 1024
"""What a write-ahead log is cut back to after a checkpoint: the size it reaches by itself."""

LOG_BYTES_CHECKED_MAX = 4 * WAL_BYTES_MAX
"""A larger log is not looked through for rot (0.1 s for 4 MB): only a salvage makes one, and what
is in it still lies in the file that was set aside."""

_LOG_HEADER_BYTES = 32
_LOG_MAGIC = 0x377F0682  # the last bit says that checksums are over big-endian words

_ROWS_PER_HOP = 64  # aiosqlite's own default; nothing here iterates a cursor


class DatabaseCorrupt(StorageError):
    """The file is damaged: to be set aside, whatever else the disk can still do."""


class DatabaseTooNew(StorageError):
    """The file was written by a later release that says that this one must not use it."""


class DatabaseLocked(StorageError):
    """Another process has the file open, and may be writing."""


class Migration(NamedTuple):
    """One numbered step of a schema, forward only."""

    number: int
    sql: str


# What must read back exactly so at every open, in the order in which it is set. FULL comes last:
# while a new file switches to WAL its synchronous is EXTRA (a cut in between lost the file).
_SETTINGS: tuple[tuple[str, str | int, str | int], ...] = (
    ("locking_mode", "EXCLUSIVE", "exclusive"),
    ("synchronous", "EXTRA", 3),
    ("journal_mode", "WAL", "wal"),
    ("foreign_keys", "ON", 1),
    ("busy_timeout", int(BUSY_TIMEOUT_S * 1000), int(BUSY_TIMEOUT_S * 1000)),
    # Bytes of deleted events don't stay behind in pages that are written anyway.
    ("secure_delete", "FAST", 2),
    ("journal_size_limit", WAL_BYTES_MAX, WAL_BYTES_MAX),
    ("trusted_schema", "OFF", 0),
    ("cell_size_check", "ON", 1),
)

# The disk's or the moment's fault, not the content's: the same file may be well again later. Any
# other error while opening says that what lies in the file is not what this package wrote.
_CIRCUMSTANCE = frozenset(
    {
        sqlite3.SQLITE_AUTH,
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_INTERRUPT,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_NOLFS,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_PERM,
        sqlite3.SQLITE_PROTOCOL,
        sqlite3.SQLITE_READONLY,
    }
)
# A sector that can't be read stays unreadable; waiting for it would keep the gateway down for ever.
_DAMAGED_MEDIUM = frozenset({sqlite3.SQLITE_IOERR_READ, sqlite3.SQLITE_IOERR_CORRUPTFS})


SqliteErrors = (sqlite3.Error, UnicodeDecodeError)
"""What the binding raises: the latter where the damaged text of a schema stands in its message."""


def is_damage(error: sqlite3.Error | UnicodeDecodeError) -> bool:
    """Whether an error means that the file's content is damaged, and not the disk's condition."""
    code = getattr(error, "sqlite_errorcode", None)
    if code is None:  # raised by the binding itself, as for text that is no UTF-8
        return not isinstance(error, sqlite3.InterfaceError | sqlite3.ProgrammingError)
    return code in _DAMAGED_MEDIUM or code & 0xFF not in _CIRCUMSTANCE


def _is_locked(error: sqlite3.Error | UnicodeDecodeError) -> bool:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    return code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def migrations(package: str) -> tuple[Migration, ...]:
    """The schema of a package: its files `NNNN_what.sql`, numbered from 1 without a gap."""
    found = sorted(
        Migration(int(named[1]), entry.read_text(encoding="utf-8"))
        for entry in resources.files(package).iterdir()
        if (named := re.fullmatch(r"(\d{4})_\w+\.sql", entry.name))
    )
    if [step.number for step in found] != list(range(1, len(found) + 1)):
        raise StorageError(f"{package}: schema files are not numbered from 1 without a gap")
    return tuple(found)


def open_connection(path: Path, schema: tuple[Migration, ...]) -> sqlite3.Connection:
    """Open or create a database, check it, and bring it to this release's schema.

    Every setting is read back. The schema's first file must make `meta(key, value)` with a row
    `minimum_reader`: the oldest schema number whose release may use the file. A newer release
    raises it only when it must, so that the release before it can be gone back to.

    Raises:
        DatabaseCorrupt: its content is damaged.
        DatabaseTooNew: a later release wrote it, and this one must not use it.
        DatabaseLocked: another process has it open.
        StorageError: it can't be opened or written, or a setting doesn't hold.
    """
    _take_along_orphans(path)
    is_new = _create(path)
    if lost_commits(path.with_name(path.name + "-wal")):
        raise DatabaseCorrupt(f"{path}: damaged: its log is broken before its last commit")
    try:
        connection = sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, check_same_thread=False)
    except sqlite3.Error as error:
        raise StorageError(f"{path}: can't be opened: {error}") from error
    try:
        _configure(connection, path)
        _check(connection, path)
        _migrate(connection, path, schema)
        _fsync_directory(path.parent)
        _set(connection, path, "synchronous", "FULL", 2)
    except SqliteErrors as error:
        connection.close()
        if is_damage(error) and not is_new:
            raise DatabaseCorrupt(f"{path}: damaged: {error}") from error
        kind = DatabaseLocked if _is_locked(error) else StorageError
        raise kind(f"{path}: can't be used: {error}") from error
    except BaseException:
        connection.close()
        raise
    return connection


async def open_database(path: Path, schema: tuple[Migration, ...]) -> aiosqlite.Connection:
    """`open_connection` in a thread, for aiosqlite. Raises what it raises."""
    # Not by aiosqlite's own thread: where that fails to open, it leaves a thread behind.
    return await _handed_over(await asyncio.to_thread(open_connection, path, schema))


async def open_database_to_read(path: Path) -> aiosqlite.Connection:
    """`open_to_read` in a thread, for aiosqlite. Raises what it raises."""
    return await _handed_over(await asyncio.to_thread(open_to_read, path))


async def _handed_over(connection: sqlite3.Connection) -> aiosqlite.Connection:
    return await aiosqlite.Connection(lambda: connection, _ROWS_PER_HOP)


def open_to_read(path: Path) -> sqlite3.Connection:
    """Open a database on a disk that takes no writes, its log included; nothing is changed.

    Nobody else may have it open: no lock is taken, for that can't be had there.

    Raises:
        DatabaseCorrupt: its content is damaged.
        StorageError: it isn't there, or can't be read.
    """
    log = path.with_name(path.name + "-wal")
    if lost_commits(log):
        raise DatabaseCorrupt(f"{path}: damaged: its log is broken before its last commit")
    try:
        # Exclusive: the log's index is kept in memory, where other modes would make a file for it.
        # Whoever stopped in good order left no log, and SQLite would make one, unless it is told
        # that nothing changes. (SQLite documentation, "Write-Ahead Logging", sections 5, 8 and 9.)
        still = "" if log.exists() else "&immutable=1"
        connection = sqlite3.connect(
            f"{path.absolute().as_uri()}?mode=ro&vfs=unix-none{still}",
            uri=True,
            check_same_thread=False,
        )
    except sqlite3.Error as error:
        raise StorageError(f"{path}: can't be opened: {error}") from error
    try:
        connection.execute("PRAGMA locking_mode=EXCLUSIVE").fetchall()
        _check(connection, path)
    except SqliteErrors as error:
        connection.close()
        raise StorageError(f"{path}: can't be read: {error}") from error
    except BaseException:
        connection.close()
        raise
    return connection


def lost_commits(log: Path) -> bool:
    """Whether a write-ahead log is broken before a commit that is known to have been on disk.

    SQLite takes the first frame that doesn't check for the end of the log, which is right for the
    torn last commit of a power cut. But every commit is synced before the next one is written: a
    commit's frame behind the break, with more frames of the same log behind that, proves that the
    break is rot, and that SQLite would go back in time without a word. (Database File Format,
    section 4, "The Write-Ahead Log".)
    """
    try:
        if not _LOG_HEADER_BYTES < log.stat().st_size <= LOG_BYTES_CHECKED_MAX:
            return False
        content = log.read_bytes()
    except OSError:
        return False  # none there, or it can't be read: SQLite will say so
    magic, _, page_bytes = struct.unpack_from(">III", content)
    salts = content[16:24]
    order = ">" if magic & 1 else "<"
    sums = _log_sums(content[:24], order, (0, 0))
    is_sound = magic & ~1 == _LOG_MAGIC and sums == struct.unpack_from(">II", content, 24)
    if not is_sound:  # what the frames themselves say: the salts of the first one
        page_bytes, salts = 4096, content[_LOG_HEADER_BYTES + 8 : _LOG_HEADER_BYTES + 16]
    frame_bytes = 24 + page_bytes
    commit_behind_break = False
    for start in range(_LOG_HEADER_BYTES, len(content) - frame_bytes + 1, frame_bytes):
        header = content[start : start + 24]
        if is_sound:
            sums = _log_sums(header[:8], order, sums)
            sums = _log_sums(content[start + 24 : start + frame_bytes], order, sums)
            is_sound = header[8:16] == salts and sums == struct.unpack_from(">II", header, 16)
        if not is_sound and header[8:16] == salts:
            if commit_behind_break:
                return True
            commit_behind_break = header[4:8] != bytes(4)
    return False


def _log_sums(content: bytes, order: str, sums: tuple[int, int]) -> tuple[int, int]:
    first, second = sums
    words = iter(struct.unpack(f"{order}{len(content) // 4}I", content))
    for even, odd in zip(words, words, strict=True):
        first = (first + even + second) & 0xFFFFFFFF
        second = (second + odd + first) & 0xFFFFFFFF
    return first, second


def set_aside(path: Path) -> Path:
    """Rename a damaged database to `NAME.corrupt-<n>`, its log with it; nothing is deleted.

    Returns the new path. `-wal` and `-shm` go on the end of it, where SQLite looks for them.

    Raises:
        StorageError: the disk doesn't let it be renamed.
    """
    last = kept_aside(path)[-1:]
    # A number is not used twice: who has read a file knows it by its name.
    kept = aside_path(path, 1 + _aside_number(last[0]) if last else 1)
    # The database first: without its log it would look like an older, sound one. A log left over
    # by a cut between the two is taken along at the next open.
    try:
        for suffix in ("", "-wal", "-shm"):
            source = path.with_name(path.name + suffix)
            if source.exists() or source.is_symlink():
                source.rename(kept.with_name(kept.name + suffix))
    except OSError as error:
        raise StorageError(f"{path}: can't be set aside: {error.strerror}") from error
    _fsync_directory(path.parent)
    return kept


def kept_aside(path: Path) -> list[Path]:
    """The damaged files that are kept beside a database, oldest first."""
    found = (each for each in path.parent.glob(f"{path.name}.corrupt-*") if _aside_number(each))
    return sorted(found, key=_aside_number)


def forget_aside(path: Path, keep: int) -> None:
    """Delete the oldest damaged files but `keep`. Raises OSError."""
    for kept in kept_aside(path)[:-keep]:
        for suffix in ("-wal", "-shm", ""):
            kept.with_name(kept.name + suffix).unlink(missing_ok=True)


def _aside_number(kept: Path) -> int:
    number = kept.name.rpartition("-")[2]
    return int(number) if number.isdecimal() else 0


def aside_path(path: Path, number: int) -> Path:
    """Where `set_aside` keeps the damaged file number `number`, from 1."""
    return path.with_name(f"{path.name}.corrupt-{number}")


def _take_along_orphans(path: Path) -> None:
    """Finish a `set_aside` that a power cut ended after its first step."""
    log = path.with_name(path.name + "-wal")
    if path.exists() or not log.exists():
        return
    number = max(map(_aside_number, kept_aside(path)), default=1)
    try:
        log.rename(path.with_name(f"{aside_path(path, number).name}-wal"))
    except OSError as error:
        raise StorageError(f"{log}: can't be set aside: {error.strerror}") from error


def _create(path: Path) -> bool:
    """Make the file, for its owner only, if it isn't there; say whether it was new or empty."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK, 0o600)
    except OSError as error:
        if error.errno in (errno.EISDIR, errno.ELOOP, errno.ENXIO):
            raise DatabaseCorrupt(f"{path}: damaged: is not a plain file") from error
        raise StorageError(f"{path}: can't be created or read: {error.strerror}") from error
    try:
        facts = os.fstat(descriptor)
        if not stat.S_ISREG(facts.st_mode):
            raise DatabaseCorrupt(f"{path}: damaged: is not a plain file")
        if facts.st_mode & 0o077:
            with contextlib.suppress(OSError):  # a read-only file system: it is reported when used
                os.fchmod(descriptor, 0o600)
        return facts.st_size == 0
    finally:
        os.close(descriptor)


def _configure(connection: sqlite3.Connection, path: Path) -> None:
    for name, value, expected in _SETTINGS:
        _set(connection, path, name, value, expected)


def _set(
    connection: sqlite3.Connection, path: Path, name: str, value: str | int, expected: str | int
) -> None:
    connection.execute(f"PRAGMA {name}={value}").fetchall()
    row = connection.execute(f"PRAGMA {name}").fetchone()
    actual = row[0] if row else None
    if actual != expected:
        raise StorageError(f"{path}: PRAGMA {name} is {actual!r} after it was set to {value}")


def _check(connection: sqlite3.Connection, path: Path) -> None:
    found = [row[0] for row in connection.execute("PRAGMA quick_check(3)")]
    if found != ["ok"]:
        raise DatabaseCorrupt(f"{path}: damaged: {'; '.join(str(line) for line in found)}")


def _migrate(connection: sqlite3.Connection, path: Path, schema: tuple[Migration, ...]) -> None:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    newest = len(schema)
    if version > newest:
        row = connection.execute("SELECT value FROM meta WHERE key = 'minimum_reader'").fetchone()
        if row is None or not str(row[0]).isdecimal():
            raise DatabaseCorrupt(f"{path}: damaged: schema {version} without a minimum_reader")
        if int(row[0]) > newest:
            raise DatabaseTooNew(
                f"{path}: has schema {version}, which needs a release that knows schema {row[0]};"
                f" this one knows {newest}: install the newer release again"
            )
    for step in schema[version:]:
        try:
            connection.executescript(
                f"BEGIN IMMEDIATE;\n{step.sql}\nPRAGMA user_version={step.number};\nCOMMIT;"
            )
        except SqliteErrors:
            if connection.in_transaction:
                connection.rollback()
            raise


def _fsync_directory(directory: Path) -> None:
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise StorageError(f"{directory}: can't be synced: {error.strerror}") from error
