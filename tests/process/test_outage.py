"""The broker goes, the link dies, and every event arrives all the same."""

import asyncio
import os
import random
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest

from demo.brokers import any_broker
from gateway.clock import SystemClock
from gateway.control.door import TAPS_A_SECOND_MAX
from gateway.domain import events
from gateway.journal import Journal
from hwsim.cloud import EventCloud
from tests.process.rig import Daemon, Rig, assert_sound, figure, standing_rig, until
from tests.timing import allowed

pytestmark = pytest.mark.process

BACKLOG = 1_000
TAPS = 100
KILLS = int(os.environ.get("KILLS", "10"))
DRAINING = int(os.environ.get("DRAINING", "1000"))
"""On demand: KILLS=200 DRAINING=400000, with `--timeout 1800 -k killing`."""
BACK_S_MAX = 30.0
"""docs/promises.md P19, with jitter."""


async def fill_journal(rig: Rig, count: int) -> None:
    """As many denials as a long outage brings, through the journal's own front door."""
    async with Journal(
        rig.state / "journal.db", SystemClock(floor=None, vouched=lambda: True)
    ) as journal:
        for number in range(count):
            ticket = journal.append(
                events.AccessDecided(
                    at=datetime.now(UTC),  # noqa: TID251 - the test makes history
                    trust=2,
                    door="front",
                    side="in",
                    device="front-keypad",
                    kinds=("pin",),
                    outcome="deny",
                    reason="unknown_credential",
                    decide_ms=float(number),
                )
            )
            if number % 2_000 == 0:
                await ticket.committed


async def everything_arrived(rig: Rig, cloud: EventCloud, stream: str, limit_s: float) -> float:
    last = await rig.last_seq()
    took_s = await until("all arrived", lambda: cloud.reached(stream) >= last, limit_s)

    async def acknowledged() -> bool:
        status = await rig.status()
        return status is not None and status.acknowledged_seq >= last

    await until("all acknowledged", acknowledged)
    return took_s


def assert_complete(cloud: EventCloud, rig: Rig) -> None:
    """The cloud has what the journal has, each number once and its body as recorded."""
    stored = rig.stored()
    assert_sound(stored)
    known = {(entry.stream, entry.seq): entry.event for entry in stored}
    told = {key: _decoded(event) for key, event in cloud.events.items()}
    assert known.keys() - told.keys() <= {max(known)}  # `stopped` may come too late to be carried
    assert {key: known.get(key) for key in told} == told


def _decoded(event: dict[str, object]) -> events.Event:
    return events.decode(msgspec.json.encode(event))


async def test_a_thousand_events_of_an_outage_arrive_in_order_once_the_broker_is_back(
    tmp_path: Path,
) -> None:
    async with (
        any_broker(tmp_path / "broker") as broker,
        standing_rig(tmp_path, broker_port=broker.port) as rig,
        EventCloud("127.0.0.1", broker.port) as cloud,
    ):
        await rig.imported()
        await fill_journal(rig, BACKLOG - TAPS)
        await broker.kill()  # it has forgotten the cloud, and drops what comes before that is back
        run = await rig.start("run")
        await rig.ready(run)
        (stream,) = {entry.stream for entry in await rig.journal()}
        for number in range(TAPS):
            # The door drops what comes before an answer, or faster than people are.
            await rig.entered(str(10**7 + number))
            await asyncio.sleep(1 / TAPS_A_SECOND_MAX)
        await rig.event_count_at_least(BACKLOG)
        assert not cloud.events
        await broker.start()
        took_s = await everything_arrived(rig, cloud, stream, BACK_S_MAX + 5.0)
        figure(f"broker back to all of {len(cloud.events)} events arrived: {took_s:.1f} s")
        assert took_s <= allowed(BACK_S_MAX)
        numbers = [seq for _, seq in cloud.events]
        assert numbers == sorted(numbers)
        assert cloud.out_of_order == 0
        assert not any(
            isinstance(entry.event, events.InputIgnored) for entry in await rig.journal()
        )
        assert await run.stop() == 0
        assert_complete(cloud, rig)


async def test_killing_link_or_broker_at_random_moments_loses_nothing(tmp_path: Path) -> None:
    seed = 20260602
    dice = random.Random(seed)
    async with (
        any_broker(tmp_path / "broker") as broker,
        standing_rig(tmp_path, broker_port=broker.port) as rig,
        EventCloud("127.0.0.1", broker.port) as cloud,
    ):
        await rig.imported()
        await fill_journal(rig, DRAINING)
        core = await rig.core()
        link: Daemon = await rig.start("link")
        (stream,) = {entry.stream for entry in await rig.journal()}

        async def somebody_enters() -> None:
            while True:
                await rig.enter(str(dice.randrange(10**7, 10**8)))
                await asyncio.sleep(0.02)

        entering = asyncio.ensure_future(somebody_enters())
        try:
            for kill in range(KILLS):
                await asyncio.sleep(dice.uniform(0.2, 1.5))
                if kill % 2:
                    await broker.kill()
                    await asyncio.sleep(dice.uniform(0.0, 0.3))
                    await broker.start()
                await link.kill()
                link = await rig.start("link")
        finally:
            entering.cancel()
            with suppress(asyncio.CancelledError):
                await entering
        # A broker that keeps nothing drops what comes before the cloud has subscribed again; the
        # link would send it again after half a minute of silence, or at its next session.
        await cloud.until(cloud._connected.is_set)
        await link.kill()
        link = await rig.start("link")
        await everything_arrived(rig, cloud, stream, BACK_S_MAX + DRAINING / 2_000)
        figure(
            f"seed {seed}: {KILLS} kills, {len(cloud.events)} events, "
            f"{cloud.duplicates} duplicates recognised, {cloud.messages} messages"
        )
        assert await link.stop() == 0
        assert await core.stop() == 0
        assert_complete(cloud, rig)
