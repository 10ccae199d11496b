"""Nobody is left without being told: link, broker and cloud, as the core's status has them."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from gateway.clock import TimeTrust
from gateway.ipc.messages import SessionSaid
from gateway.journal import Journal
from gateway.processes.delivery import Delivery
from tests.journal.conftest import EPOCH, closed


class Wound:
    """A clock that is wound by hand."""

    at_s = 100.0

    def now(self) -> datetime:
        return EPOCH + timedelta(seconds=self.at_s - 100.0)

    def monotonic(self) -> timedelta:
        return timedelta(seconds=self.at_s)

    def trust(self) -> TimeTrust:
        return TimeTrust.T2


class Way:
    """A journal, its delivery, and a link that reports every 15 s."""

    def __init__(
        self, journal: Journal, clock: Wound, address: str | None, keeper: str = "cloud"
    ) -> None:
        self.journal, self.clock = journal, clock
        self.delivery = Delivery(address, journal, clock, keeper)

    async def record(self) -> None:
        await self.journal.append(closed(1, at=self.clock.now())).committed

    async def acknowledge(self) -> None:
        await self.journal.acknowledge(self.journal.stream, self.journal.last_committed)
        self.delivery.look()

    def passes(self, seconds: float, **said: Any) -> None:
        """Let time pass with a link that reports this, or with no link."""
        end = self.clock.at_s + seconds
        while said and self.clock.at_s + 15 < end:
            self.delivery.heard(SessionSaid(**said))
            self.clock.at_s += 15
        if said:
            self.delivery.heard(SessionSaid(**said))
        self.clock.at_s = end

    async def problems(self) -> list[str]:
        return self.delivery.problems(await self.delivery.status())


@asynccontextmanager
async def way(directory: Path, address: str | None = "mq:8883") -> AsyncIterator[Way]:
    clock = Wound()
    async with Journal(directory / "journal.db", clock) as journal:
        yield Way(journal, clock, address)


WELL = {"there": True, "since_s": 101.0}


async def test_a_site_without_a_broker_has_nothing_to_tell(tmp_path: Path) -> None:
    async with way(tmp_path, None) as found:
        await found.record()
        found.passes(3600)
        assert await found.delivery.status() is None
        assert await found.problems() == []


async def test_a_link_that_never_came_or_is_dead_or_hangs_is_told_within_a_minute(
    tmp_path: Path,
) -> None:
    async with way(tmp_path) as found:
        found.passes(40)
        assert await found.problems() == []  # it is about to start
        found.passes(6)
        (line,) = await found.problems()
        assert line.startswith("link: no report since 2026-05-04 09:00 UTC: see `systemctl status")
        found.passes(30, **WELL)
        assert await found.problems() == []
        found.passes(46)
        assert (await found.problems())[0].startswith("link: no report since 2026-05-04 09:0")
        status = await found.delivery.status()
        assert status is not None
        assert (status.link, status.connected_since, status.reason) == (False, None, None)


async def test_a_broker_that_is_away_is_told_with_the_links_own_reason(tmp_path: Path) -> None:
    async with way(tmp_path) as found:
        found.passes(1, there=False, since_s=100.0)
        assert await found.problems() == []  # it is trying
        found.passes(1, there=False, since_s=100.0, reason="mq:8883: nobody listens there")
        assert await found.problems() == [
            "broker mq:8883: no session since 2026-05-04 09:00 UTC: mq:8883: nobody listens there"
        ]


async def test_a_session_that_is_lost_has_ten_seconds_to_come_back(tmp_path: Path) -> None:
    async with way(tmp_path) as found:
        found.passes(1, **WELL)
        lost = {"there": False, "since_s": 101.0, "reason": "the connection was lost", "lost": 1}
        found.passes(8, **lost)
        assert await found.problems() == []
        found.passes(3, **lost)
        assert len(await found.problems()) == 1


async def test_a_session_that_is_lost_again_and_again_is_told_while_it_is_there(
    tmp_path: Path,
) -> None:
    async with way(tmp_path) as found:
        found.passes(1, **WELL, lost=2, reason="Session taken over")
        assert await found.problems() == []
        found.passes(1, **WELL, lost=3, reason="Session taken over")
        assert await found.problems() == [
            "broker mq:8883: 3 sessions lost in 5 minutes, the last: Session taken over"
        ]


async def test_a_cloud_that_acknowledges_nothing_is_told_within_two_minutes(tmp_path: Path) -> None:
    async with way(tmp_path) as found:
        await found.record()
        found.passes(40, **WELL)
        assert await found.problems() == []
        found.passes(25, **WELL, unheard=True)
        assert await found.problems() == [
            "events: the cloud acknowledges none, the oldest waits since 2026-05-04 09:00 UTC:"
            " nobody is subscribed to them at the broker"
        ]
        await found.acknowledge()
        assert await found.problems() == []
        status = await found.delivery.status()
        assert status is not None
        assert status.acknowledged_at == EPOCH + timedelta(seconds=65)
        assert status.waiting_since is None


async def test_a_month_of_backlog_that_drains_is_no_problem(tmp_path: Path) -> None:
    async with way(tmp_path) as found:
        for _ in range(10):
            await found.record()
        for seq in range(1, 10):
            found.passes(40, **WELL)
            await found.journal.acknowledge(found.journal.stream, seq)
            assert await found.problems() == []
        found.passes(61, **WELL)
        assert len(await found.problems()) == 1


async def test_a_quiet_night_makes_the_first_event_of_the_day_no_problem(tmp_path: Path) -> None:
    async with way(tmp_path) as found:
        found.passes(8 * 3600, **WELL)
        await found.record()
        assert await found.problems() == []
        found.passes(30, **WELL)
        assert await found.problems() == []


async def test_an_outage_gives_the_cloud_its_minute_after_the_new_session(tmp_path: Path) -> None:
    async with way(tmp_path) as found:
        await found.record()
        found.passes(600, there=False, since_s=100.0, reason="down")
        found.passes(30, there=True, since_s=700.0)
        assert await found.problems() == []
        found.passes(31, there=True, since_s=700.0)
        assert len(await found.problems()) == 1


async def test_refused_events_are_the_brokers_fault_and_told_at_once(tmp_path: Path) -> None:
    async with way(tmp_path) as found:
        await found.record()
        refused = {"acs/v1/LON/lon-1/event": "Not authorized"}
        found.passes(90, **WELL, refused=refused, events_refused=4)
        assert await found.problems() == [
            "broker mq:8883: refuses acs/v1/LON/lon-1/event: Not authorized. Allow it"
            " (config/mosquitto.acl)"
        ]
        status = await found.delivery.status()
        assert status is not None
        assert (status.events_refused, status.refused) == (4, refused)


@pytest.mark.parametrize(
    ("said", "new"),
    [((False, 1.0), False), ((True, 2.0), True), ((True, 2.0), False), ((True, 3.0), True)],
)
async def test_a_new_session_is_known_by_its_beginning(
    tmp_path: Path, said: tuple[bool, float], new: bool
) -> None:
    """So the core asks anew once a session, and not with every report."""
    async with way(tmp_path) as found:
        if said == (True, 2.0) and not new:
            found.delivery.heard(SessionSaid(there=True, since_s=2.0))
        if said == (True, 3.0):
            found.delivery.heard(SessionSaid(there=True, since_s=2.0))
        assert found.delivery.heard(SessionSaid(there=said[0], since_s=said[1])) is new


async def test_a_site_that_keeps_its_events_never_speaks_of_a_cloud(tmp_path: Path) -> None:
    clock = Wound()
    async with Journal(tmp_path / "journal.db", clock, local=True) as journal:
        found = Way(journal, clock, "mq:8883", "broker")
        await found.record()
        found.passes(120, **WELL)
        (line,) = await found.problems()
        assert line.startswith("events: the broker acknowledges none, the oldest waits since")
        await found.acknowledge()
        assert await found.problems() == []
