"""The core as it is composed: each of its jobs is fired by the real scheduler."""

import ast
import asyncio
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

import gateway
from gateway.domain import events
from gateway.ipc.messages import SessionSaid
from gateway.jobs import Jobs
from gateway.journal import Journal
from gateway.processes.core import Core
from tests.journal.conftest import StillClock
from tests.processes.composed import Shifted, composed, fire_all, site_file

JOBS = {"floor", "checkpoint", "timers", "summary", "retention", "modes"}
SOON = timedelta(seconds=10)


async def kept(core: Core) -> list[events.Event]:
    """All events, once what was appended is on disk."""
    journal = core._journal
    last = journal.append(events.GatewayStopped(**core._now()))
    assert await last.committed_within(SOON)
    assert journal.last_committed == last.seq, "a number was used that no row has"
    found = await journal.read_after(0)
    assert [entry.seq for entry in found] == list(range(1, last.seq + 1))
    return [entry.event for entry in found]


async def assert_whole(directory: Path, stream: str) -> None:
    """The next start finds the journal as it was left."""
    async with Journal(directory / "state" / "journal.db", StillClock()) as again:
        assert again.stream == stream, "the next start calls the journal damaged"


async def test_every_job_of_the_core_does_its_work_when_the_scheduler_fires_it(
    tmp_path: Path,
) -> None:
    async with composed(site_file(tmp_path), imported=True) as core:
        assert await fire_all(core._jobs.scheduler) == dict.fromkeys(JOBS)
        found = await kept(core)
        stream = core._journal.stream
    codes = [type(event) for event in found]
    assert events.DailySummary in codes
    assert events.Checkpoint in codes
    assert core._state.floor is not None
    await assert_whole(tmp_path, stream)


async def test_a_quiet_cloud_is_recorded_and_the_journal_stays_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Shifted(monkeypatch)
    async with composed(site_file(tmp_path, signed=True)) as core:
        await core.session_said(SessionSaid(there=True, since_s=1.0))
        clock.by += timedelta(minutes=14)
        assert await fire_all(core._jobs.scheduler) == dict.fromkeys(JOBS | {"beacons"})
        assert not [e for e in await kept(core) if isinstance(e, events.BeaconsMissing)]
        clock.by += timedelta(minutes=2)
        for _ in range(2):  # once a freeze
            assert await fire_all(core._jobs.scheduler) == dict.fromkeys(JOBS | {"beacons"})
        missing = [e for e in await kept(core) if isinstance(e, events.BeaconsMissing)]
        stream = core._journal.stream
    assert [event.minutes for event in missing] == [15]
    await assert_whole(tmp_path, stream)


@pytest.mark.parametrize("add", ["every", "once", "daily", "hourly"])
def test_a_plain_function_is_refused_as_a_job(add: str) -> None:
    def plain() -> None:
        """Not a coroutine function: the scheduler would run it in a thread."""

    jobs = Jobs()
    when: dict[str, tuple[object, ...]] = {
        "every": (SOON, "name", plain),
        "once": (StillClock().now(), "name", plain),
        "daily": (3, "name", plain, SOON),
        "hourly": (5, "name", plain, SOON),
    }
    with pytest.raises(TypeError, match="name: is a plain function"):
        getattr(jobs, add)(*when[add])
    assert not jobs.scheduler.get_jobs()


async def test_a_job_that_was_added_runs_on_the_loop_that_started_it() -> None:
    jobs, ran = Jobs(), asyncio.Event()
    loops = []

    async def job() -> None:
        loops.append(asyncio.get_running_loop())
        ran.set()

    jobs.start()
    jobs.every(timedelta(seconds=0.01), "name", job)
    async with asyncio.timeout(5):
        await ran.wait()
    jobs.stop()
    assert loops[0] is asyncio.get_running_loop()


def test_only_one_module_knows_the_scheduler() -> None:
    """So that no job anywhere gets round its guard."""
    package = Path(gateway.__path__[0])
    importing = {
        str(path.relative_to(package))
        for path in package.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Import | ast.ImportFrom) and "apscheduler" in ast.unparse(node)
    }
    assert importing == {"jobs.py"}


MQTT = {"mqtt": {"host": "127.0.0.1", "port": 1883}}
LOCAL = {"journal": {"keep": "local"}}


@pytest.mark.parametrize(
    ("more", "signed", "local", "waiting"),
    [
        ({}, False, True, False),
        (MQTT, False, False, True),
        (MQTT | LOCAL, False, True, True),
        (MQTT, True, False, True),
        ({}, True, False, True),
        ({"journal": {"keep": "cloud"}}, False, False, True),
    ],
)
async def test_retention_and_erasure_wait_for_a_cloud_only_where_there_is_one(
    tmp_path: Path, more: dict[str, Any], signed: bool, local: bool, waiting: bool
) -> None:
    config = site_file(tmp_path, signed=signed, more=more)
    async with composed(config) as core:
        tap = events.AccessDecided(
            **core._now(), door="front", side="in", device="front-reader", kinds=("uid",),
            outcome="grant", reason="group", holder="h-sam",
        )  # fmt: skip
        await core._journal.append(tap).committed
        status = await core.status()
        assert (status.keep == "local", status.backlog > 0) == (local, waiting)
        erased = await core.erase("h-sam", "root", "request 7")
        assert (erased.events, erased.kept) == ((1, 0) if local else (0, 1))
        removed = await core._journal.purge(core._clock.now() + timedelta(days=1))
        assert (removed > 0) == local
