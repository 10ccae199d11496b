"""No number is used that no event has: whatever goes wrong while an event is appended."""

import asyncio
import contextlib
import os
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from gateway.domain import events
from gateway.errors import StorageError
from gateway.journal import Journal, JournalFull
from gateway.journal import journal as module
from tests.journal.conftest import EPOCH, StillClock, closed

SOON = timedelta(seconds=5)


async def dense(journal: Journal) -> list[events.Event]:
    """All events; their numbers have no hole, and the next start finds the file whole."""
    assert await journal.append(closed(99)).committed_within(SOON)
    found = await journal.read_after(0)
    assert [entry.seq for entry in found] == list(range(1, len(found) + 1))
    assert journal.last_committed == len(found)
    return [entry.event for entry in found]


async def assert_goes_on(path: Path, stream: str) -> None:
    async with Journal(path, StillClock()) as again:
        assert again.stream == stream
        assert again.append(closed(100)).seq == again.last_committed + 1


def gaps(found: list[events.Event]) -> list[tuple[int, str]]:
    return [(e.lost, e.why) for e in found if isinstance(e, events.JournalGap)]


async def test_another_thread_is_refused_and_the_loss_is_counted(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    async with Journal(path, StillClock(), lambda _head: b"signed") as journal:
        journal.append(closed(1))
        for append in (lambda: journal.append(closed(2)), journal.checkpoint):
            with pytest.raises(StorageError, match="only the journal's own loop may"):
                await asyncio.to_thread(append)
        found = await dense(journal)
        stream = journal.stream
    assert sum(lost for lost, _ in gaps(found)) == 2
    assert all("recorded in the thread" in why for _, why in gaps(found))
    assert closed(2) not in found
    await assert_goes_on(path, stream)


async def test_another_loop_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"

    async def append(journal: Journal) -> None:
        journal.append(closed(2))

    async with Journal(path, StillClock()) as journal:
        with pytest.raises(StorageError, match="own loop"):
            await asyncio.to_thread(lambda: asyncio.run(append(journal)))
        assert len(gaps(await dense(journal))) == 1


async def test_an_event_that_cant_be_encoded_is_refused_and_counted(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    async with Journal(path, StillClock()) as journal:
        journal.append(closed(1))
        with pytest.raises(StorageError, match="the event closed can't be encoded"):
            journal.append(events.DoorClosed(at=EPOCH, trust=2, door="\udc80"))
        found = await dense(journal)
        stream = journal.stream
    assert gaps(found) == [(1, "the event closed can't be encoded")]
    await assert_goes_on(path, stream)


def _broken(_name: str) -> Callable[..., object]:
    def raises(*_: object, **__: object) -> object:
        raise OSError("broken")

    return raises


@pytest.mark.parametrize("part", ["link", "commitment_to", "listener", "urandom", "create_future"])
async def test_whatever_raises_while_an_event_is_appended_uses_no_number(
    part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "journal.db"
    decided = events.PinLockout(at=EPOCH, trust=2, door="front", seconds=30, holder="h-sam")
    async with Journal(path, StillClock()) as journal:
        journal.append(closed(1))
        with monkeypatch.context() as broken:
            if part == "listener":
                broken.setattr(journal, "listener", _broken(part))
            elif part == "urandom":
                broken.setattr(os, "urandom", _broken(part))
            elif part == "create_future":
                broken.setattr(asyncio.get_running_loop(), "create_future", _broken(part))
            else:
                broken.setattr(module, part, _broken(part))
            with pytest.raises(OSError, match="broken"):
                journal.append(decided)
        found = await dense(journal)
        stream = journal.stream
    assert found == [closed(1), closed(99)]
    await assert_goes_on(path, stream)


async def test_a_full_queue_and_a_closed_journal_use_no_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "journal.db"
    async with Journal(path, StillClock()) as journal:
        first = journal.append(closed(1))
        with monkeypatch.context() as full:
            full.setattr(module, "QUEUE_EVENTS_MAX", module.QUEUE_RESERVE_EVENTS)
            with pytest.raises(JournalFull):
                journal.append(closed(2))
        assert await first.committed_within(SOON)
        found = await dense(journal)
        stream = journal.stream
    with pytest.raises(StorageError, match="not open"):
        journal.append(closed(3))
    assert [lost for lost, _ in gaps(found)] == [1]
    await assert_goes_on(path, stream)


async def test_a_caller_who_is_cancelled_leaves_no_hole(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    async with Journal(path, StillClock()) as journal:

        async def record() -> None:
            await journal.append(closed(1)).committed_within(SOON)

        for _ in range(20):
            task = asyncio.create_task(record())
            await asyncio.sleep(0)
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        await dense(journal)
