"""Recorded events from a file: a journal's database, an export, or lines of `journal tail`."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec

from gateway.decoding import decode_json
from gateway.domain import events
from gateway.domain.entitlements import ValidRecords
from gateway.domain.record_faults import parse_records
from gateway.errors import GatewayError, Undecodable
from gateway.journal.chain import SALT_BYTES
from gateway.journal.verify import Header, Seal

_SQLITE_MAGIC = b"SQLite format 3\0"


class Recorded(NamedTuple):
    """One event and its number."""

    seq: int
    event: events.Event
    erased: bool = False
    """Its personal part was erased: who it was, and what was decided on, is not known any more."""


class _Line(msgspec.Struct):
    seq: int
    event: msgspec.Raw
    erased: str = ""
    personal: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    """An export has it apart from the event."""


class _Marked(msgspec.Struct):
    """The file beside a journal that says how far it has come."""

    stream: str
    seq: int


_MARK_BYTES_MAX = 256


def incomplete(path: Path) -> str | None:
    """Return why a journal's database may lack its last events; None where it can't.

    A running gateway writes the newest events into a second file, NAME-wal, first.

    Raises:
        GatewayError: the file named NAME.mark shows that events are missing.
    """
    try:
        with path.open("rb") as file:
            if file.read(len(_SQLITE_MAGIC)) != _SQLITE_MAGIC:
                return None
        wal = path.with_name(f"{path.name}-wal")
        if wal.exists() and wal.stat().st_size > 0:
            return None
        marked = _marked(path.with_name(f"{path.name}.mark"))
        stream, last = _end_of_database(path)
    except (OSError, sqlite3.Error):
        return None  # reading the events says it
    if marked is not None and marked.stream == stream and marked.seq > last:
        raise GatewayError(
            f"{path}: ends at event {last}, and the journal has had {marked.seq}: {wal.name} is "
            f"missing. Copy both files, or use `{_COPY}`"
        )
    return (
        f"{path}: has no {wal.name} beside it, and ends at event {last}. If the gateway ran while "
        f"it was copied, the last events are missing. A whole copy: `{_COPY}`"
    )


_COPY = "door-gateway journal export FILE"


def _marked(path: Path) -> _Marked | None:
    try:
        with path.open("rb") as file:
            return decode_json(file.read(_MARK_BYTES_MAX), _Marked)
    except (OSError, Undecodable):
        return None


def _end_of_database(path: Path) -> tuple[str, int]:
    connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
    try:
        ((stream, last),) = connection.execute(
            "SELECT (SELECT value FROM meta WHERE key = 'stream'),"
            " coalesce((SELECT max(seq) FROM event), (SELECT purged FROM mark), 0)"
        )
    finally:
        connection.close()
    return str(stream), int(last)


def recorded(path: Path) -> Iterator[Recorded]:
    """The events in a file, in order; what a later release wrote is left out.

    Raises:
        GatewayError: it can't be read.
    """
    try:
        with path.open("rb") as file:
            is_database = file.read(len(_SQLITE_MAGIC)) == _SQLITE_MAGIC
        rows = _of_database(path) if is_database else _of_lines(path)
        for seq, body, erased in rows:
            try:
                yield Recorded(seq, events.decode(body), erased)
            except Undecodable:
                continue
    except sqlite3.Error as error:
        raise GatewayError(
            f"{path}: {error}: a running core has its journal alone; "
            "give a copy, or the output of `door-gateway journal tail -n 100000 --json`"
        ) from error
    except OSError as error:
        raise GatewayError(f"{path}: can't be read: {error.strerror}") from error


def records_of(path: Path) -> ValidRecords:
    """The records in a file. Raises RecordsRefused, GatewayError."""
    try:
        with path.open("rb") as file:
            return parse_records(line.removesuffix(b"\n") for line in file).records
    except OSError as error:
        raise GatewayError(f"{path}: can't be read: {error.strerror}") from error


def _of_database(path: Path) -> Iterator[tuple[int, bytes, bool]]:
    connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
    try:
        rows = connection.execute("SELECT seq, body, personal, erased FROM event ORDER BY seq")
        for seq, body, personal, erased in rows:
            yield seq, events.join(body, (personal or b"")[SALT_BYTES:]), erased is not None
    finally:
        connection.close()


def _of_lines(path: Path) -> Iterator[tuple[int, bytes, bool]]:
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            if _is_of_an_export(line):
                continue
            try:
                found = decode_json(line, _Line)
            except Undecodable as error:
                raise GatewayError(f"{path}: line {number} is not an event: {error}") from error
            personal = b"" if isinstance(found.personal, msgspec.UnsetType) else found.personal
            body = events.join(bytes(found.event), bytes(personal))
            yield found.seq, body, bool(found.erased)


def _is_of_an_export(line: bytes) -> bool:
    """Return True for the first and the last line of an export, which have no event."""
    for kind in (Header, Seal):
        try:
            decode_json(line, kind)
        except Undecodable:
            continue
        return True
    return False
