import asyncio
import json
import os
import random
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import textwrap
import tracemalloc
from datetime import timedelta
from pathlib import Path

import pytest

from gateway.domain import events
from gateway.errors import StorageError
from gateway.journal import Journal, JournalBegunAgain, JournalFull
from gateway.journal import journal as module
from gateway.sqlite import kept_aside
from tests.journal.conftest import EPOCH, StillClock, closed

SOON = timedelta(seconds=5)


def journal_at(directory: Path) -> Journal:
    return Journal(directory / "journal.db", StillClock())


async def filled(directory: Path, count: int, acknowledged: int = 0) -> str:
    async with journal_at(directory) as journal:
        for n in range(1, count + 1):
            journal.append(closed(n))
        await journal.wait_for_new(count - 1)
        await journal.acknowledge(journal.stream, acknowledged)
        return journal.stream


async def all_bodies(journal: Journal) -> list[dict[str, object]]:
    found: list[dict[str, object]] = []
    seq = 0
    while batch := await journal.raw_after(seq):
        assert [raw.seq for raw in batch] == list(range(seq + 1, seq + 1 + len(batch)))
        found += [json.loads(raw.body) for raw in batch]
        seq = batch[-1].seq
    return found


async def test_a_damaged_page_loses_only_its_own_events_and_the_rest_is_sent(
    tmp_path: Path,
) -> None:
    old = await filled(tmp_path, 2_000, acknowledged=500)
    file = tmp_path / "journal.db"
    content = bytearray(file.read_bytes())
    at = content.index(b'"door":"door-1500"') // 4096 * 4096
    content[at : at + 4096] = os.urandom(4096)
    file.write_bytes(content)
    async with journal_at(tmp_path) as journal:
        assert journal.stream != old
        bodies = await all_bodies(journal)
        restart = events.decode(json.dumps(bodies[0]).encode())
        assert isinstance(restart, events.JournalRestarted)
        assert restart.kept_as == "journal.db.corrupt-1"
        assert 1_900 < restart.salvaged < 2_000
        assert (restart.old_stream, restart.last_known) == (old, 2_000)
        missing = [seq for low, high in restart.missing for seq in range(low, high + 1)]
        assert 1_500 in missing
        assert len(missing) == 2_000 - restart.salvaged
        origins = [body["salvaged_from"] for body in bodies[1:]]
        seqs = [origin["seq"] for origin in origins if isinstance(origin, dict)]
        assert all(isinstance(o, dict) and o["stream"] == old for o in origins)
        assert min(seqs) == 501
        assert seqs == sorted(set(seqs))
        assert len(seqs) == restart.salvaged - 500
        assert [b["door"] for b in bodies[1:]] == [f"door-{seq}" for seq in seqs]
    assert (tmp_path / "journal.db.corrupt-1").read_bytes() == bytes(content)
    async with journal_at(tmp_path) as journal:
        assert len(await all_bodies(journal)) == len(bodies)


async def test_a_cut_before_the_salvage_is_done_only_delays_it(tmp_path: Path) -> None:
    await filled(tmp_path, 100)
    (tmp_path / "journal.db").rename(tmp_path / "journal.db.corrupt-1")
    async with journal_at(tmp_path) as journal:
        bodies = await all_bodies(journal)
        assert [b["code"] for b in bodies] == ["journal_restarted"] + ["closed"] * 100


async def test_damage_anywhere_never_keeps_the_journal_from_opening(tmp_path: Path) -> None:
    live, clean = tmp_path / "live", tmp_path / "clean"
    clean.mkdir()
    async with journal_at(clean) as journal:
        for n in range(1, 201):
            ticket = journal.append(closed(n))
            if n % 4 == 0:
                await ticket.committed
        await journal.acknowledge(journal.stream, 100)
        _copy(clean, live)
    chance = random.Random(4)
    for number in range(60):
        directory = tmp_path / str(number)
        _copy((clean, live)[number % 2], directory)
        file = chance.choice(sorted(f for f in directory.iterdir() if f.suffix != ".mark"))
        damaged = bytearray(file.read_bytes())
        at = chance.randrange(len(damaged))
        match number % 5:
            case 0:
                damaged[at] ^= 1 << chance.randrange(8)
            case 1:
                damaged[at : at + 300] = bytes(len(damaged[at : at + 300]))
            case 2:
                damaged = damaged[:at]
            case 3:
                damaged[chance.randrange(120)] = chance.randrange(256)
            case _:
                for _ in range(20):
                    damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        file.write_bytes(damaged)
        async with journal_at(directory) as journal:
            assert await journal.append(closed(1)).committed_within(SOON)
            bodies = await all_bodies(journal)
            assert bodies[-1]["door"] == "door-1"


async def test_damage_to_the_schemas_own_text_is_damage(tmp_path: Path) -> None:
    await filled(tmp_path, 3)
    file = tmp_path / "journal.db"
    file.write_bytes(file.read_bytes().replace(b"CREATE TABLE meta", b"CREATE TAB\xf0E meta"))
    async with journal_at(tmp_path) as journal:
        assert journal.healthy
        assert (tmp_path / "journal.db.corrupt-1").exists()


def _copy(source: Path, target: Path) -> None:
    target.mkdir()
    for file in source.iterdir():
        shutil.copy(file, target / file.name)


async def test_a_log_with_rot_before_its_last_commit_is_not_taken_for_a_torn_one(
    tmp_path: Path,
) -> None:
    live = tmp_path / "live"
    live.mkdir()
    async with journal_at(live) as journal:
        for n in range(1, 31):
            await journal.append(closed(n)).committed
        stream = journal.stream
        _copy(live, tmp_path / "sound")
        for name in ("torn", "rotten"):
            _copy(live, tmp_path / name)
    log = tmp_path / "torn" / "journal.db-wal"
    log.write_bytes(log.read_bytes()[:-100])
    async with journal_at(tmp_path / "sound") as journal:
        assert (journal.stream, journal.last_committed) == (stream, 30)
    async with journal_at(tmp_path / "torn") as journal:
        assert (journal.stream, journal.last_committed) == (stream, 29)
    log = tmp_path / "rotten" / "journal.db-wal"
    content = bytearray(log.read_bytes())
    content[len(content) // 2] ^= 1
    log.write_bytes(content)
    async with journal_at(tmp_path / "rotten") as journal:
        # In the old stream the numbers of what is lost would be used a second time.
        assert journal.stream != stream
        assert (await all_bodies(journal))[0]["code"] == "journal_restarted"
    assert (tmp_path / "rotten" / "journal.db.corrupt-1-wal").read_bytes() == bytes(content)


async def test_damage_found_while_running_saves_what_waits_and_falls(tmp_path: Path) -> None:
    await filled(tmp_path, 9_500)
    file = tmp_path / "journal.db"
    with pytest.raises(ExceptionGroup) as raised:  # noqa: PT012 - the context is what falls
        async with journal_at(tmp_path) as journal:
            content = bytearray(file.read_bytes())
            content[8192:] = os.urandom(len(content) - 8192)
            file.write_bytes(content)
            assert journal._database is not None
            await journal._database.execute_fetchall("PRAGMA shrink_memory")
            for n in range(10_001, 10_021):
                journal.append(closed(n))
            with pytest.raises(StorageError, match="can't be read"):
                await all_bodies(journal)
            await asyncio.sleep(30)
    assert raised.value.subgroup(JournalBegunAgain)
    async with journal_at(tmp_path) as journal:
        doors = [body.get("door") for body in await all_bodies(journal)]
        assert doors[-20:] == [f"door-{n}" for n in range(10_001, 10_021)]


WRITER = """
import asyncio, sys
from pathlib import Path
from gateway.journal import Journal
from tests.journal.conftest import StillClock, closed

async def main():
    async with Journal(Path(sys.argv[1]), StillClock()) as journal:
        n = journal.last_committed
        while True:
            tickets = []
            for _ in range(n % 7 + 1):
                n += 1
                tickets.append(journal.append(closed(n)))
            for ticket in tickets:
                await ticket.committed
                sys.stdout.write(f"{ticket.seq}\\n")
            sys.stdout.flush()
            if n % 5 == 0:
                await journal.acknowledge(journal.stream, n // 2)

asyncio.run(main())
"""


@pytest.mark.process
def test_every_ticket_that_said_committed_is_in_the_file_after_sigkill(tmp_path: Path) -> None:
    chance = random.Random(7)
    said = 0
    for _ in range(12):
        with subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(WRITER), str(tmp_path / "journal.db")],
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdout is not None
            for _ in range(chance.randrange(1, 400)):
                said = int(process.stdout.readline())
            process.send_signal(signal.SIGKILL)
            rest = process.stdout.read().splitlines(keepends=True)
            said = max([said, *(int(line) for line in rest if line.endswith("\n"))])
        with sqlite3.connect(tmp_path / "journal.db") as database:
            count, last = database.execute("SELECT count(*), max(seq) FROM event").fetchone()
            bodies = database.execute("SELECT seq, body FROM event").fetchall()
        database.close()
        assert count == last >= said
        assert all(json.loads(body)["door"] == f"door-{seq}" for seq, body in bodies)


def _run(*command: str) -> bool:
    return subprocess.run(command, check=False).returncode == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small tmpfs needs root")
async def test_a_full_disk_loses_nothing_and_is_used_again_once_there_is_room(
    tmp_path: Path,
) -> None:
    if not _run("mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(tmp_path)):
        pytest.skip("mounting a tmpfs is not permitted here")
    ballast = tmp_path / "ballast"
    try:
        async with journal_at(tmp_path) as journal:
            await journal.append(closed(1)).committed_within(SOON)
            with ballast.open("wb", buffering=0) as file:
                try:
                    while file.write(bytes(4096)):
                        pass
                except OSError:
                    pass
            tickets = [journal.append(closed(n)) for n in range(2, 402)]
            assert not await tickets[-1].committed_within(timedelta(seconds=0.5))
            assert journal.failure
            ballast.unlink()
            assert await tickets[-1].committed_within(SOON)
            assert journal.healthy
            doors = [body["door"] for body in await all_bodies(journal)]
            assert doors == [f"door-{n}" for n in range(1, 402)]
    finally:
        assert _run("umount", str(tmp_path))


async def test_opening_on_a_full_disk_still_serves(
    tmp_path: Path,
) -> None:
    await filled(tmp_path, 10)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4_100, before[1]))
    try:
        async with journal_at(tmp_path) as journal:
            ticket = journal.append(closed(11))
            assert not await ticket.committed_within(timedelta(seconds=0.3))
            assert not journal.healthy
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
            assert await ticket.committed_within(SOON)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)


async def test_memory_stays_flat_while_a_backlog_is_read(tmp_path: Path) -> None:
    await filled(tmp_path, 9_000)
    async with journal_at(tmp_path) as journal:
        tracemalloc.start()
        seq = 0
        while batch := await journal.raw_after(seq):
            seq = batch[-1].seq
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert seq == 9_000
        assert peak < 4_000_000


async def test_what_the_site_must_remember_outlives_a_damaged_journal(tmp_path: Path) -> None:
    async with journal_at(tmp_path) as journal:
        journal.append(closed(1), {"lockdown/site/": b"x"})
        for n in range(2, 200):
            journal.append(closed(n))
    file = tmp_path / "journal.db"
    content = bytearray(file.read_bytes())
    at = content.index(b'"door":"door-150"') // 4096 * 4096
    content[at : at + 4096] = os.urandom(4096)
    file.write_bytes(content)
    async with journal_at(tmp_path) as journal:
        assert journal.state == {"lockdown/site/": b"x"}
    async with journal_at(tmp_path) as journal:
        assert journal.state == {"lockdown/site/": b"x"}


async def test_a_journal_that_is_gone_is_told_of_with_what_is_known(tmp_path: Path) -> None:
    old = await filled(tmp_path, 30)
    for suffix in ("", "-wal", "-shm"):
        (tmp_path / f"journal.db{suffix}").unlink(missing_ok=True)
    async with journal_at(tmp_path) as journal:
        (entry,) = await journal.read_after(0)
        told = entry.event
        assert isinstance(told, events.JournalRestarted)
        assert (told.kept_as, told.old_stream, told.last_known) == ("", old, 30)
        assert journal.append(closed(1)).seq == 2
        assert [raw.seq for raw in await journal.urgent_after(0, 5)] == [1]


async def test_an_older_copy_in_its_place_does_not_use_numbers_twice(tmp_path: Path) -> None:
    old = await filled(tmp_path, 10)
    shutil.copy(tmp_path / "journal.db", tmp_path / "copy")
    async with journal_at(tmp_path) as journal:
        journal.append(closed(11))
        await journal.wait_for_new(10)
    shutil.copy(tmp_path / "copy", tmp_path / "journal.db")
    async with journal_at(tmp_path) as journal:
        assert journal.stream != old
        told = (await journal.read_after(0))[0].event
        assert isinstance(told, events.JournalRestarted)
        assert (told.last_known, told.missing) == (11, ((11, 11),))


@pytest.mark.parametrize("mark", [b"", b"{", b'{"stream":"x"}', b"x" * 10_000])
async def test_a_mark_that_is_none_stands_in_nobodys_way(tmp_path: Path, mark: bytes) -> None:
    (tmp_path / "journal.db.mark").write_bytes(mark)
    async with journal_at(tmp_path) as journal:
        assert journal.append(closed(1)).seq == 1


async def test_only_the_last_damaged_files_are_kept(tmp_path: Path) -> None:
    for _ in range(8):
        await filled(tmp_path, 3)
        (tmp_path / "journal.db").write_bytes(b"no database at all" * 100)
    async with journal_at(tmp_path):
        pass
    kept = [each.name for each in kept_aside(tmp_path / "journal.db")]
    assert kept == [f"journal.db.corrupt-{number}" for number in range(4, 9)]


async def test_the_last_room_is_kept_for_alarms(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "QUEUE_EVENTS_MAX", 20)
    monkeypatch.setattr(module, "QUEUE_RESERVE_EVENTS", 5)
    async with journal_at(tmp_path) as journal:
        for number in range(15):
            journal.append(closed(number))
        with pytest.raises(JournalFull):
            journal.append(closed(16))
        forced = events.ForcedOpen(at=EPOCH, trust=2, door="street")
        tickets = [journal.append(forced) for _ in range(4)]
        with pytest.raises(JournalFull):
            journal.append(forced)
        assert await tickets[-1].committed_within(SOON)
        journal.append(closed(17))
        codes = [type(each.event) for each in await journal.read_after(15)]
        assert codes.count(events.JournalGap) >= 1
