"""The decision as people usually write it: one prepared query on a normalised SQLite database.

It knows holders, keyed credentials, groups, the doors they open and weekly hours; no zones, no
bookings, no exceptions, no holidays, no second factor, no reason. On records that use none of
these it must agree with `decide`.
"""

import sqlite3
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

from gateway.domain.entitlements import ValidRecords
from gateway.domain.records import ALWAYS, Schedule

_SCHEMA = """
CREATE TABLE holder (
    id INTEGER PRIMARY KEY, status TEXT NOT NULL, valid_from INTEGER, valid_until INTEGER
) STRICT;
CREATE TABLE credential (
    digest BLOB PRIMARY KEY, holder INTEGER NOT NULL REFERENCES holder, status TEXT NOT NULL,
    valid_from INTEGER, valid_until INTEGER
) STRICT, WITHOUT ROWID;
CREATE TABLE membership (
    holder INTEGER NOT NULL, grp INTEGER NOT NULL, PRIMARY KEY (holder, grp)
) STRICT, WITHOUT ROWID;
CREATE TABLE door (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE) STRICT;
CREATE TABLE group_door (
    grp INTEGER NOT NULL, door INTEGER NOT NULL, schedule INTEGER, PRIMARY KEY (grp, door)
) STRICT, WITHOUT ROWID;
CREATE TABLE hours (
    schedule INTEGER NOT NULL, opens INTEGER NOT NULL, closes INTEGER NOT NULL,
    PRIMARY KEY (schedule, opens, closes)
) STRICT, WITHOUT ROWID;
"""

_QUERY = """
SELECT 1
FROM credential AS c
JOIN holder AS h ON h.id = c.holder
JOIN membership AS m ON m.holder = h.id
JOIN door AS d ON d.name = :door
JOIN group_door AS g ON g.grp = m.grp AND g.door = d.id
WHERE c.digest = :digest AND c.status = 'active' AND h.status = 'active'
  AND (c.valid_from IS NULL OR c.valid_from <= :at)
  AND (c.valid_until IS NULL OR :at < c.valid_until)
  AND (h.valid_from IS NULL OR h.valid_from <= :at)
  AND (h.valid_until IS NULL OR :at < h.valid_until)
  AND (g.schedule IS NULL OR EXISTS (
    SELECT 1 FROM hours AS o
    WHERE o.schedule = g.schedule AND o.opens <= :minute AND :minute < o.closes))
LIMIT 1
"""


class SqlDecider:
    """Grant or not, asked of a database."""

    def __init__(
        self, path: Path, timezone: str, digest: Callable[[str, str], bytes], *, mmap: int = 1 << 30
    ) -> None:
        self._zone = ZoneInfo(timezone)
        self._digest = digest
        self._database = sqlite3.connect(path)
        self._database.execute(f"PRAGMA mmap_size={mmap}").fetchall()
        self._database.execute("PRAGMA query_only=1")
        self._execute = self._database.cursor().execute

    def grants(self, door: str, kind: str, value: str, at: datetime) -> bool:
        local = at.astimezone(self._zone)
        values = {
            "door": door,
            "digest": self._digest(kind, value),
            "at": int(at.timestamp()),
            "minute": (local.weekday() * 24 + local.hour) * 60 + local.minute,
        }
        return self._execute(_QUERY, values).fetchone() is not None

    def close(self) -> None:
        self._database.close()


def write_database(path: Path, records: ValidRecords, digest: Callable[[str, str], bytes]) -> None:
    """Fill a database from records without zones in groups, holidays or lost duplicates."""
    database = sqlite3.connect(path)
    database.executescript(f"PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; {_SCHEMA}")
    tables = records.tables
    holders = {holder_id: number for number, holder_id in enumerate(records.holders, 1)}
    groups = {group_id: number for number, group_id in enumerate(tables.groups, 1)}
    doors = {door_id: number for number, door_id in enumerate(tables.doors, 1)}
    schedules = {schedule_id: number for number, schedule_id in enumerate(tables.schedules, 1)}
    with database:
        database.executemany("INSERT INTO door VALUES (?2, ?1)", doors.items())
        database.executemany(
            "INSERT INTO hours VALUES (?, ?, ?)",
            (
                (schedules[schedule_id], opens, closes)
                for schedule_id, schedule in tables.schedules.items()
                for opens, closes in _minutes(schedule)
            ),
        )
        database.executemany(
            "INSERT INTO group_door VALUES (?, ?, ?)",
            (
                (
                    groups[group.id],
                    doors[door_id],
                    None if group.schedule == ALWAYS else schedules[group.schedule],
                )
                for group in tables.groups.values()
                for door_id in group.doors
            ),
        )
        database.executemany(
            "INSERT INTO holder VALUES (?, ?, ?, ?)",
            (
                (holders[each.id], each.status, _epoch(each.valid_from), _epoch(each.valid_until))
                for each in records.holders.values()
            ),
        )
        database.executemany(
            "INSERT INTO membership VALUES (?, ?)",
            (
                (holders[each.id], groups[group_id])
                for each in records.holders.values()
                for group_id in each.groups
            ),
        )
        database.executemany(
            "INSERT INTO credential VALUES (?, ?, ?, ?, ?)",
            (
                (
                    digest(each.kind, each.value),
                    holders[each.holder],
                    each.status,
                    _epoch(each.valid_from),
                    _epoch(each.valid_until),
                )
                for each in records.credentials.values()
            ),
        )
    database.execute("ANALYZE")
    database.commit()
    database.close()


def _minutes(schedule: Schedule) -> list[tuple[int, int]]:
    minute = timedelta(minutes=1)
    return [
        (day * 1440 + interval.start // minute, day * 1440 + interval.end // minute)
        for day, intervals in enumerate(schedule.weekly)
        for interval in intervals
    ]


def _epoch(at: datetime | None) -> int | None:
    return None if at is None else int(at.timestamp())
