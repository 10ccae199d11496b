"""Reading what still reads in a damaged journal that was set aside."""

import contextlib
import os
import re
import sqlite3
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

import msgspec

from gateway.decoding import decode_json
from gateway.domain import events
from gateway.domain.memory import stored_in
from gateway.errors import Undecodable
from gateway.journal.chain import SALT_BYTES
from gateway.sqlite import SqliteErrors
from gateway.statedir import open_plain

READS_MAX = 20_000
"""Reads tried on one damaged file. Each bad page costs about 60 to narrow down, so some hundred
are got round; a file with more is left to a person, beside the new journal."""

SCANNED_BYTES_MAX = 256 * 1024 * 1024
"""Bytes looked through for state in a file whose structure is lost: a second or two."""

_STORED = re.compile(
    rb'\{"boot":"[^"]{0,64}","mono":"[^"]{1,64}","value":[^\x00]{1,4096}?'
    rb',"sum":"[0-9a-f]{16}"\}'
)

MISSING_MAX = 20
"""Ranges of missing numbers that are named: a page loses one."""

_SEQ_MAX = 2**63 - 1
STREAM = re.compile("[0-9a-f]{16}")


class SalvagedRow(NamedTuple):
    """One event that still reads. `body` may be damaged in itself."""

    seq: int
    at: int
    body: bytes


class Salvage(NamedTuple):
    """What was found in a damaged journal."""

    stream: str
    """Its stream, or "unknown" where that doesn't read."""
    acknowledged: int
    """Its watermark; 0 where that doesn't read, so that everything is sent again."""
    rows: list[SalvagedRow]
    state: dict[str, bytes]
    """The site's state, as far as it reads: a lockout or lockdown outlives a damaged page."""

    def missing(self, last_known: int | None) -> tuple[tuple[int, int], ...]:
        """Ranges of numbers above the watermark that are not among the rows, the first ones."""
        found: list[tuple[int, int]] = []
        expected = self.acknowledged + 1
        for seq in (*(row.seq for row in self.rows), (last_known or 0) + 1):
            if seq > expected:
                found.append((expected, seq - 1))
            expected = max(expected, seq + 1)
        return tuple(found[:MISSING_MAX])

    def unsent(self) -> Iterator[tuple[events.Event, bytes]]:
        """The rows above the watermark that decode, each with its event and the body to send.

        That body has a member `salvaged_from` with the identity that the event had: it may have
        arrived before, and so the cloud can tell.
        """
        for row in self.rows:
            if row.seq <= self.acknowledged:
                continue
            try:
                event = events.decode(row.body)
                members = decode_json(row.body, dict[str, msgspec.Raw])
            except Undecodable:
                continue
            # An event that is salvaged for the second time keeps its first identity.
            origin = msgspec.json.encode({"stream": self.stream, "seq": row.seq})
            members.setdefault("salvaged_from", msgspec.Raw(origin))
            yield event, msgspec.json.encode(members)


def salvage(path: Path) -> Salvage:
    """Read every event that can still be read. Never raises for damage."""
    stream, acknowledged, rows = "unknown", 0, dict[int, SalvagedRow]()
    state: dict[str, bytes] = {}
    whole = False
    try:
        if path.is_symlink():  # it may lead to the journal that is in use now
            return Salvage(stream, acknowledged, [], state)
        open_plain(path).close()  # SQLite would wait for a pipe
        # Read-only: what was set aside stays as it is, its log included.
        connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=0)
    except (sqlite3.Error, OSError):
        return Salvage(stream, acknowledged, [], state)
    # A schema that can't be parsed is then passed over, as far as it isn't the table asked for.
    with contextlib.suppress(sqlite3.Error):
        connection.execute("PRAGMA writable_schema=ON")
    connection.text_factory = lambda raw: raw.decode(errors="replace")
    try:
        found = _one(connection, "SELECT value FROM meta WHERE key = 'stream'")
        if isinstance(found, str) and STREAM.fullmatch(found):
            stream = found
        found = _one(connection, "SELECT acknowledged FROM mark")
        if isinstance(found, int) and found > 0:
            acknowledged = found
        _read(connection, rows)
        whole = _read_state(connection, state)
    finally:
        connection.close()
        path.with_name(path.name + "-shm").unlink(missing_ok=True)
    if not whole:
        _scan_state(path, state)
    return Salvage(stream, acknowledged, [rows[seq] for seq in sorted(rows)], state)


def _one(connection: sqlite3.Connection, query: str) -> object:
    try:
        row = connection.execute(query).fetchone()
    except SqliteErrors:
        return None
    return row[0] if row else None


def _read_state(connection: sqlite3.Connection, into: dict[str, bytes]) -> bool:
    """Read the site's state; False where not all of it could be read."""
    try:
        rows = connection.execute("SELECT key, value FROM state")
        into.update((k, v) for k, v in rows if isinstance(k, str) and isinstance(v, bytes))
    except SqliteErrors:
        return False  # what was read until then is kept
    return True


def _scan_state(path: Path, into: dict[str, bytes]) -> None:
    """Find the site's state in the bytes of a file whose structure is lost, and of its log.

    Each row bears its key and a checksum, so it is known wherever it stands. Of several copies
    the one written last counts. A deleted row may come back: a lockdown stays rather than ends.
    """
    last: dict[str, timedelta] = {}
    for part in (path, path.with_name(path.name + "-wal")):
        try:
            with open_plain(part) as file:
                content = file.read(min(os.fstat(file.fileno()).st_size, SCANNED_BYTES_MAX))
        except OSError:
            continue
        for found in _STORED.finditer(content):
            try:
                key, written = stored_in(found[0])
            except Undecodable:
                continue
            if written >= last.get(key, timedelta.min) and (key in last or key not in into):
                last[key], into[key] = written, found[0]


def _read(connection: sqlite3.Connection, into: dict[int, SalvagedRow]) -> None:
    """Read all rows, halving the range round whatever can't be read."""
    ranges = [(1, _SEQ_MAX)]
    for _ in range(READS_MAX):
        if not ranges:
            return
        low, high = ranges.pop()
        try:
            for seq, at, body, personal in connection.execute(
                "SELECT seq, at, body, personal FROM event WHERE seq BETWEEN ? AND ? ORDER BY seq",
                (low, high),
            ):
                low = seq + 1
                if isinstance(at, int) and isinstance(body, bytes):
                    more = personal[SALT_BYTES:] if isinstance(personal, bytes) else b""
                    into[seq] = SalvagedRow(seq, at, events.join(body, more))
        except SqliteErrors:
            if low < high:
                middle = (low + high) // 2
                ranges += [(middle + 1, high), (low, middle)]
