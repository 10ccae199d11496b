import asyncio
import os
import sqlite3
import stat
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import aiosqlite
import pytest

from gateway.domain import events
from gateway.errors import StorageError
from gateway.journal import Journal, JournalFull
from gateway.journal import journal as module
from gateway.journal.chain import genesis, link
from gateway.journal.journal import JournalBegunAgain
from gateway.sqlite import DatabaseTooNew, open_database
from tests.journal.conftest import EPOCH, StillClock, closed

SOON = timedelta(seconds=5)


def journal_at(directory: Path) -> Journal:
    return Journal(directory / "journal.db", StillClock())


async def test_an_event_has_its_number_at_once_and_is_on_disk_soon_after(tmp_path: Path) -> None:
    async with journal_at(tmp_path) as journal:
        tickets = [journal.append(closed(n)) for n in range(1, 4)]
        assert [ticket.seq for ticket in tickets] == [1, 2, 3]
        assert journal.last_committed == 0
        assert await tickets[-1].committed_within(SOON)
        assert [ticket.committed.done() for ticket in tickets] == [True] * 3
        found = await journal.read_after(0)
        assert [(e.stream, e.seq, e.event) for e in found] == [
            (journal.stream, n, closed(n)) for n in range(1, 4)
        ]
        assert [raw.body for raw in await journal.raw_after(1, 1)] == [events.encode(closed(2))]


async def test_closing_commits_everything_and_opening_goes_on_where_it_stood(
    tmp_path: Path,
) -> None:
    async with journal_at(tmp_path) as journal:
        for n in range(1, 2_501):
            journal.append(closed(n))
        stream = journal.stream
    async with journal_at(tmp_path) as journal:
        assert (journal.stream, journal.last_committed) == (stream, 2_500)
        assert journal.append(closed(2_501)).seq == 2_501


async def test_a_wait_that_ends_early_or_is_cancelled_leaves_the_commit_going_on(
    tmp_path: Path,
) -> None:
    async with journal_at(tmp_path) as journal:
        ticket = journal.append(closed(1))
        assert not await ticket.committed_within(timedelta(0))
        waiter = asyncio.create_task(ticket.committed_within(SOON))
        await asyncio.sleep(0)
        waiter.cancel()
        await asyncio.wait((waiter,))
        assert await ticket.committed_within(SOON)
        direct = asyncio.ensure_future(journal.append(closed(2)).committed)
        direct.cancel()
        assert await journal.append(closed(3)).committed_within(SOON)
        assert [e.seq for e in await journal.read_after(0)] == [1, 2, 3]


async def test_a_follower_sees_committed_events_only_and_wakes_for_new_ones(
    tmp_path: Path,
) -> None:
    async with journal_at(tmp_path) as journal:
        follower = asyncio.create_task(journal.wait_for_new(0))
        await asyncio.sleep(0)
        journal.append(closed(1))
        assert await journal.read_after(0) == [] or journal.last_committed == 1
        assert await follower == 1
        waiting = asyncio.create_task(journal.wait_for_new(1))
        await asyncio.sleep(0)
    with pytest.raises(StorageError, match="closed"):
        await waiting
    with pytest.raises(StorageError, match="not open"):
        journal.append(closed(2))


async def test_the_watermark_never_falls_nor_passes_the_last_event(tmp_path: Path) -> None:
    async with journal_at(tmp_path) as journal:
        for n in range(1, 11):
            journal.append(closed(n))
        await journal.wait_for_new(9)
        assert await journal.acknowledge(journal.stream, 7)
        assert await journal.acknowledge(journal.stream, 3)
        assert not await journal.acknowledge("0" * 16, 9)
        assert not await journal.acknowledge(journal.stream, 11)
        assert (journal.acknowledged, journal.backlog.committed) == (7, 3)
    async with journal_at(tmp_path) as journal:
        assert journal.acknowledged == 7


async def test_only_acknowledged_events_older_than_the_retention_are_purged(
    tmp_path: Path,
) -> None:
    async with journal_at(tmp_path) as journal:
        for n in range(1, 2_001):
            journal.append(closed(n))
        await journal.wait_for_new(1_999)
        await journal.acknowledge(journal.stream, 1_500)
        assert await journal.purge(EPOCH + timedelta(seconds=1_200)) == 1_199
        assert await journal.purge(EPOCH + timedelta(days=9)) == 301
        assert [e.seq for e in await journal.read_after(0, 2)] == [1_501, 1_502]
        await journal.acknowledge(journal.stream, 2_000)
        assert await journal.purge(EPOCH + timedelta(days=9)) == 500
    async with journal_at(tmp_path) as journal:
        assert journal.append(closed(2_001)).seq == 2_001


async def test_a_local_journal_purges_and_erases_what_is_on_disk(tmp_path: Path) -> None:
    file = tmp_path / "journal.db"
    async with Journal(file, StillClock(), local=True) as journal:
        for number in range(1, 1_001):
            ticket = journal.append(closed(number))
        tap = events.AccessDecided(
            at=EPOCH + timedelta(seconds=1_001), trust=2, door="street", side="in", device="r",
            kinds=("uid",), outcome="grant", reason="group", holder="h-sam",
        )  # fmt: skip
        await ticket.committed
        await journal.append(tap).committed
        assert await journal.purge(EPOCH + timedelta(seconds=601)) == 600
        assert journal.acknowledged == 600, "nothing is sent that is gone"
        assert journal.backlog.committed == 401
        assert await journal.erase("h-sam") == (1, 0)
    assert b"h-sam" not in file.read_bytes()
    async with Journal(file, StillClock()) as journal:
        assert journal.acknowledged == 600
        assert [raw.seq for raw in await journal.raw_after(600)] == list(range(601, 1_002))
        assert await journal.purge(EPOCH + timedelta(days=9)) == 0, "a cloud is waited for again"


async def test_an_event_with_a_wrong_time_ahead_holds_no_purge_back(tmp_path: Path) -> None:
    async with journal_at(tmp_path) as journal:
        journal.append(closed(1))
        for n in range(2, 1_002):
            journal.append(closed(n, at=EPOCH + timedelta(days=3_650), trust=1))
        journal.append(closed(1_002))
        journal.append(closed(1_003, at=EPOCH + timedelta(days=30)))
        await journal.wait_for_new(1_002)
        await journal.acknowledge(journal.stream, 1_003)
        assert await journal.purge(EPOCH + timedelta(days=1)) == 1_002
        assert [e.seq for e in await journal.read_after(0)] == [1_003]


async def test_the_chain_reaches_from_the_first_event_to_the_last(tmp_path: Path) -> None:
    async with journal_at(tmp_path) as journal:
        for n in range(1, 51):
            journal.append(closed(n))
        chain = genesis(journal.stream)
    database = sqlite3.connect(tmp_path / "journal.db")
    for seq, body, stored in database.execute("SELECT seq, body, chain FROM event ORDER BY seq"):
        chain = link(chain, seq, body)
        assert chain == stored
    database.close()


async def test_the_files_are_for_their_owner_only(tmp_path: Path) -> None:
    os.umask(0)
    try:
        async with journal_at(tmp_path) as journal:
            await journal.append(closed(1)).committed_within(SOON)
            for file in sorted(tmp_path.iterdir()):  # noqa: ASYNC240 - a local directory
                assert stat.S_IMODE(file.stat().st_mode) == 0o600, file
    finally:
        os.umask(0o022)


async def test_every_setting_is_read_back(tmp_path: Path) -> None:
    async with journal_at(tmp_path) as journal:
        assert journal._database is not None
        for name, value in (
            ("journal_mode", "wal"),
            ("synchronous", 2),
            ("locking_mode", "exclusive"),
            ("foreign_keys", 1),
        ):
            rows = await journal._database.execute_fetchall(f"PRAGMA {name}")
            assert [row[0] for row in rows] == [value], name


async def test_while_the_file_cant_be_opened_nothing_is_promised_and_it_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.sqlite.BUSY_TIMEOUT_S", 0.05)
    async with journal_at(tmp_path) as owner, journal_at(tmp_path) as second:
        assert (second.healthy, second.stream, second.last_committed) == (False, "", 0)
        assert "locked" in second.failure
        for n in (1, 2):
            with pytest.raises(JournalFull, match="locked"):
                second.append(closed(n))
        assert owner._database is not None
        await owner._close_database()
        assert await asyncio.wait_for(second.wait_for_new(0), 10) == 1
        (gap,) = await second.read_after(0)
        assert isinstance(gap.event, events.JournalGap)
        assert (gap.event.lost, gap.event.at) == (2, closed(2).at)
        assert second.append(closed(3)).seq == 2
        assert second.stream == owner.stream


async def test_a_newer_file_is_used_if_it_says_so_and_refused_if_not(tmp_path: Path) -> None:
    async with journal_at(tmp_path) as journal:
        journal.append(closed(1))
    database = sqlite3.connect(tmp_path / "journal.db")
    database.execute("ALTER TABLE event ADD COLUMN later TEXT")
    database.execute("PRAGMA user_version=7")
    database.commit()
    database.close()
    async with journal_at(tmp_path) as journal:
        assert journal.append(closed(2)).seq == 2
    database = sqlite3.connect(tmp_path / "journal.db")
    database.execute("UPDATE meta SET value='3' WHERE key='minimum_reader'")
    database.commit()
    database.close()
    with pytest.raises(DatabaseTooNew, match="install the newer release"):
        async with journal_at(tmp_path):
            pass


async def test_events_that_the_disk_refuses_wait_and_what_exceeds_memory_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "QUEUE_EVENTS_MAX", 20)
    monkeypatch.setattr(module, "QUEUE_RESERVE_EVENTS", 0)
    async with journal_at(tmp_path) as journal:
        await journal.append(closed(1)).committed_within(SOON)
        database = journal._database
        assert database is not None
        # SQLite's own way of a full disk: no page may be added.
        (pages,) = next(iter(await database.execute_fetchall("PRAGMA page_count")))
        await database.execute_fetchall(f"PRAGMA max_page_count={pages}")
        big = events.DeviceDown(at=EPOCH, trust=2, device="d", why="x" * 9_000)
        stuck = [journal.append(big) for _ in range(20)]
        for _ in range(3):
            with pytest.raises(JournalFull):
                journal.append(big)
        assert not await stuck[0].committed_within(timedelta(seconds=0.3))
        assert "full" in journal.failure
        assert journal.backlog.waiting == 20
        await database.execute_fetchall("PRAGMA max_page_count=1000000")
        assert await stuck[-1].committed_within(SOON)
        assert await journal.append(closed(2)).committed_within(SOON)
        assert journal.healthy
        tail = [e.event for e in await journal.read_after(21)]
        assert isinstance(tail[0], events.JournalGap)
        assert (tail[0].lost, tail[0].at) == (3, EPOCH)
        assert tail[1:] == [closed(2)]


async def test_state_is_on_disk_with_its_event_and_only_with_it(tmp_path: Path) -> None:
    async with journal_at(tmp_path) as journal:
        assert journal.state == {}
        journal.append(closed(1), {"a": b"1", "b": b"1"})
        journal.append(closed(2), {"a": b"2"})
        assert await journal.append(closed(3), {"b": None}).committed_within(SOON)
    async with journal_at(tmp_path) as journal:
        assert journal.state == {"a": b"2"}


@pytest.mark.parametrize("wait", [True, False])
async def test_a_kill_leaves_the_event_and_its_state_or_neither(tmp_path: Path, wait: bool) -> None:
    program = f"""
import asyncio, os
from datetime import timedelta
from pathlib import Path
from gateway.journal import Journal
from tests.journal.conftest import StillClock, closed
async def main():
    async with Journal(Path({str(tmp_path / "journal.db")!r}), StillClock()) as journal:
        ticket = journal.append(closed(1), {{"uses/c": b"1"}})
        if {wait}:
            await ticket.committed_within(timedelta(seconds=5))
        else:
            await asyncio.sleep(0)
        os.kill(os.getpid(), 9)
asyncio.run(main())
"""
    killed = await asyncio.create_subprocess_exec(sys.executable, "-c", program)
    assert await killed.wait() == -9
    async with journal_at(tmp_path) as journal:
        there = journal.last_committed == 1
        assert there or not wait
        assert journal.state == ({"uses/c": b"1"} if there else {})


async def test_state_without_an_event_is_taken_between_two_commits(tmp_path: Path) -> None:
    unwritten = {"a": b"old"}
    async with journal_at(tmp_path) as journal:
        keeping = asyncio.create_task(journal.keep(lambda: unwritten))
        await asyncio.sleep(0)
        journal.append(closed(1), {"b": b"1"})
        unwritten["a"] = b"new"
        await keeping
    async with journal_at(tmp_path) as journal:
        assert journal.state == {"a": b"new", "b": b"1"}


class ReadOnly:
    """A disk that takes no writes until it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.writable = False
        self._open = open_database
        monkeypatch.setattr(module, "open_database", self)
        monkeypatch.setattr(module, "RETRY_S_FIRST", 0.01)
        monkeypatch.setattr(module, "RETRY_S_MAX", 0.01)

    async def __call__(self, *arguments: Any) -> aiosqlite.Connection:
        if not self.writable:
            raise StorageError("read-only")
        return await self._open(*arguments)


async def crashed_journal(directory: Path) -> tuple[bytes, bytes]:
    """Three events, the last two in the log only, as after a power cut; database and log."""
    file, log = directory / "journal.db", directory / "journal.db-wal"
    async with journal_at(directory) as journal:
        await journal.append(closed(1)).committed_within(SOON)
    async with journal_at(directory) as journal:
        journal.append(closed(2))
        await journal.append(closed(3), {"lockdown": b"x"}).committed_within(SOON)
        content = file.read_bytes(), log.read_bytes()
    file.write_bytes(content[0])
    log.write_bytes(content[1])
    return content


async def test_a_journal_that_can_only_be_read_is_gone_on_with_and_written_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = await crashed_journal(tmp_path)
    disk = ReadOnly(monkeypatch)
    async with journal_at(tmp_path) as journal:
        assert journal.last_committed == 3
        assert journal.state == {"lockdown": b"x"}
        assert not journal.healthy
        ticket = journal.append(closed(4))
        assert ticket.seq == 4
        assert not await ticket.committed_within(timedelta(milliseconds=20))
        files = ("journal.db", "journal.db-wal")
        assert tuple((tmp_path / name).read_bytes() for name in files) == content
        disk.writable = True
        assert await ticket.committed_within(SOON)
        assert [e.event for e in await journal.read_after(0)] == [closed(n) for n in range(1, 5)]


async def test_what_waits_is_put_behind_events_that_a_salvage_has_added_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await crashed_journal(tmp_path)
    (tmp_path / "journal.db.corrupt-1").write_bytes(b"not a database")
    disk = ReadOnly(monkeypatch)

    async def until_it_falls() -> None:
        async with journal_at(tmp_path) as journal:
            journal.append(closed(4))
            disk.writable = True
            await asyncio.sleep(SOON.total_seconds())

    with pytest.raises(ExceptionGroup) as fallen:
        await until_it_falls()
    assert fallen.group_contains(JournalBegunAgain)
    async with journal_at(tmp_path) as journal:
        told = [entry.event for entry in await journal.read_after(0)]
        assert told[:3] == [closed(1), closed(2), closed(3)]
        assert isinstance(told[3], events.JournalRestarted)
        assert told[4:] == [closed(4)]


async def test_erasing_a_holder_erases_the_words_of_their_exception(tmp_path: Path) -> None:
    file = tmp_path / "journal.db"
    tap = events.AccessDecided(
        at=EPOCH, trust=2, door="street", side="in", device="r", kinds=("uid",), outcome="grant",
        reason="exception", holder="h-vera", via="e-1",
        exception=events.Excepted.of("engineer for Anna Smith", "maya@ops"),
    )  # fmt: skip
    async with Journal(file, StillClock(), local=True) as journal:
        await journal.append(tap).committed
        assert b"Anna Smith" in (await journal.raw_after(0))[0].body
        assert await journal.erase("h-vera") == (1, 0)
        body = (await journal.raw_after(0))[0].body
        assert b"Anna" not in body
        assert b"maya@ops" not in body
    for kept in (file, *tmp_path.iterdir()):  # noqa: ASYNC240 - nothing runs beside it
        assert b"Anna Smith" not in kept.read_bytes()
