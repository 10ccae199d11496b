"""Unlock schedules at their wall-clock instants, through APScheduler, in virtual time."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path
from typing import Any

import apscheduler.schedulers.base
import pytest
import tomli_w
from apscheduler.schedulers.asyncio import AsyncIOScheduler

from gateway.config.site import load
from gateway.control.door import InForce
from gateway.control.memory import SiteMemory
from gateway.control.site import SiteController
from gateway.control.wake_ups import WakeUps
from gateway.domain import events
from gateway.domain.entitlements import Entitlements
from gateway.drivers import REGISTRY
from gateway.jobs import Jobs
from tests.control.site import records
from tests.control.test_door import Paper
from tests.process.rig import site_config
from tests.virtual import START, VirtualClock, run

HOST_AHEAD = timedelta(hours=2, minutes=7)
"""The host's own clock, which the scheduler goes by, is wrong by this much; ours isn't."""


@pytest.fixture(autouse=True)
def _scheduler_goes_by_the_hosts_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    class HostTime(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
            virtual = timedelta(seconds=asyncio.get_running_loop().time())
            return (START + virtual + _SHIFT[0] + HOST_AHEAD).astimezone(tz)

    monkeypatch.setattr(apscheduler.schedulers.base, "datetime", HostTime)


_SHIFT = [timedelta()]


def nightly() -> Entitlements:
    """`front` is open from 01:30 to 02:30, as the wall clock of London says, every night."""
    days = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
    schedule = {
        "type": "schedule",
        "id": "night",
        "weekly": {day: [["01:30", "02:30"]] for day in days},
    }
    return records({"front": {"unlock_schedule": "night"}}, [schedule])


class Site:
    """The real doors and the real scheduler; nobody polls."""

    def __init__(self, directory: Path, paper: Paper, shift: timedelta) -> None:
        file = directory / "site.toml"
        config: dict[str, Any] = site_config(directory)
        file.write_text(tomli_w.dumps(config))
        self.clock, self.paper = VirtualClock(), paper
        self.clock.shift = _SHIFT[0] = shift
        force = InForce(nightly(), "r1", None)
        stored = dict(paper.state)
        self.site = SiteController(
            load(file, REGISTRY),
            journal=paper,
            memory=SiteMemory(lambda: stored, boot="b", clock=self.clock),
            in_force=lambda: force,
            clock=self.clock,
            rng=random.Random(0),
        )
        self.jobs = Jobs(AsyncIOScheduler(timezone=UTC))
        self.wake_ups = WakeUps(self.jobs, self.site, self.clock, lambda at: at + HOST_AHEAD)

    async def until(self, at: str) -> None:
        wait = datetime.fromisoformat(at) - self.clock.now()
        await asyncio.sleep(wait.total_seconds())


@asynccontextmanager
async def site(directory: Path, paper: Paper, begins: str) -> AsyncIterator[Site]:
    now = timedelta(seconds=asyncio.get_running_loop().time())
    made = Site(directory, paper, datetime.fromisoformat(begins) - START - now)
    tasks = [asyncio.create_task(door.run()) for door in made.site.doors.values()]
    made.jobs.start()
    made.wake_ups.look()
    try:
        yield made
    finally:
        made.jobs.stop()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def told(paper: Paper) -> list[tuple[str, str, bool]]:
    """Each change of the mode: when, to what, and whether it came within a hundredth second."""
    found = []
    for event in paper.events:
        if isinstance(event, events.ModeChanged):
            at = event.at.replace(microsecond=0)
            exact = event.at - at < timedelta(milliseconds=10)
            found.append((f"{at:%m-%d %H:%M:%S}", event.mode, exact))
    return found


def opened(*spans: tuple[str, str]) -> list[tuple[str, str, bool]]:
    return [
        each
        for start, end in spans
        for each in ((f"{start}:00", "unlocked", True), (f"{end}:00", "controlled", True))
    ]


@pytest.mark.parametrize(
    ("begins", "ends", "spans"),
    [
        # 01:00 becomes 02:00 on the 29th: 01:30 does not occur, and at 02:00 it is open already.
        (
            "2026-03-27T20:00Z",
            "2026-03-30T20:00Z",
            [("03-28 01:30", "03-28 02:30"), ("03-29 01:00", "03-29 01:30"),
             ("03-30 00:30", "03-30 01:30")],
        ),
        # 02:00 becomes 01:00 on the 25th: the hour comes twice, and so does the opening.
        (
            "2026-10-24T20:00Z",
            "2026-10-26T20:00Z",
            [("10-25 00:30", "10-25 01:00"), ("10-25 01:30", "10-25 02:30"),
             ("10-26 01:30", "10-26 02:30")],
        ),
    ],
)  # fmt: skip
def test_a_door_opens_and_closes_at_the_very_instants_also_over_a_clock_change(
    begins: str, ends: str, spans: list[tuple[str, str]], tmp_path: Path
) -> None:
    async def journey() -> None:
        paper = Paper()
        async with site(tmp_path, paper, begins) as s:
            await s.until(ends)
        assert told(paper) == opened(*spans)

    run(journey())


def test_a_restart_in_the_middle_opens_at_once_and_closes_in_time(tmp_path: Path) -> None:
    async def journey() -> None:
        paper = Paper()
        async with site(tmp_path, paper, "2026-10-24T20:00Z") as s:
            await s.until("2026-10-25T00:40Z")
        async with site(tmp_path, paper, "2026-10-25T00:45Z") as s:
            await s.until("2026-10-25T01:40Z")
        async with site(tmp_path, paper, "2026-10-25T03:00Z") as s:
            await s.until("2026-10-25T20:00Z")
        assert told(paper) == [
            ("10-25 00:30:00", "unlocked", True),
            ("10-25 00:45:00", "unlocked", True),
            ("10-25 01:00:00", "controlled", True),
            ("10-25 01:30:00", "unlocked", True),
        ], "and a core that starts after the end has nothing to close"

    run(journey())


def test_a_wake_up_decides_nothing_by_itself(tmp_path: Path) -> None:
    """However often doors are woken, and whenever: only the schedule opens and closes them."""

    async def journey() -> None:
        paper, chance = Paper(), random.Random(4)
        async with site(tmp_path, paper, "2026-10-24T20:00Z") as s:
            while s.clock.now() < datetime(2026, 10, 26, 20, tzinfo=UTC):
                await asyncio.sleep(chance.random() * 900)
                s.wake_ups.look()
            assert len(s.jobs.scheduler.get_jobs()) == 1
        assert told(paper) == opened(
            ("10-25 00:30", "10-25 01:00"),
            ("10-25 01:30", "10-25 02:30"),
            ("10-26 01:30", "10-26 02:30"),
        )

    run(journey())


def test_an_untrusted_clock_and_its_return_are_seen_by_whoever_looks(tmp_path: Path) -> None:
    async def journey() -> None:
        paper = Paper()
        async with site(tmp_path, paper, "2026-10-25T01:35Z") as s:
            await s.until("2026-10-25T01:40Z")
            s.clock.trusted = False
            s.wake_ups.look()
            await s.until("2026-10-25T01:50Z")
            s.clock.trusted = True
            s.wake_ups.look()
            await s.until("2026-10-25T03:00Z")
        assert [mode for _, mode, _ in told(paper)] == [
            "unlocked", "controlled", "unlocked", "controlled",
        ]  # fmt: skip

    run(journey())
