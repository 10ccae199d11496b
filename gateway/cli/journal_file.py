"""Recorded events from a file: a journal's database, or what `journal tail --json` printed."""

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
            try:
                found = decode_json(line, _Line)
            except Undecodable as error:
                raise GatewayError(f"{path}: line {number} is no event: {error}") from error
            yield found.seq, bytes(found.event), bool(found.erased)
