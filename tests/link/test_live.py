"""Live events for Home Assistant: now, once, and whoever acknowledges or not."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from demo.brokers import mosquitto
from gateway.domain.events import AccessDecided, DoorClosed, ForcedOpen, encode
from gateway.ipc.messages import Events
from gateway.link.live import LIVE_AGE_MAX, LiveEvents
from gateway.link.settings import HomeAssistantSettings
from gateway.link.topics import Topics
from hwsim.cloud import EventCloud
from hwsim.mqtt import MqttClient
from tests.ipc.memory import NOON, MemoryCore
from tests.link.rig import PREFIX, core_on, link_settings, linking, until

ASKED = HomeAssistantSettings(discovery_prefix="homeassistant", locks=False)
MOST = LIVE_AGE_MAX.total_seconds()
STREET = f"{PREFIX}/door/street/event"


def tap(outcome: str = "grant", at: datetime = NOON) -> AccessDecided:
    return AccessDecided(
        at=at, trust=2, door="street", side="in", device="street-reader", kinds=("uid",),
        outcome=outcome, reason="group", holder="h-sam",
    )  # fmt: skip


def answer(*events: Any, first: int = 1, at: datetime = NOON, mono_s: float = 0.0) -> Events:
    bodies = [encode(event) for event in events]
    return Events(stream="s", first_seq=first, bodies=bodies, at=at, at_mono_s=mono_s)


def live(after: int = 0) -> LiveEvents:
    made = LiveEvents(Topics("LON", "lon-1"))
    made.journal("s", after)
    return made


# --- On values ------------------------------------------------------------------------------------


def test_what_a_door_does_is_said_without_who_did_it() -> None:
    followed = live()
    found = list(followed.take(answer(
        tap(), DoorClosed(at=NOON, trust=2, door="street"), tap("deny"), tap("challenge"),
        ForcedOpen(at=NOON, trust=2, door="street"),
    ), timedelta(0)))  # fmt: skip
    assert {topic for topic, _ in found} == {STREET}
    assert [json.loads(payload) for _, payload in found] == [
        {"v": 1, "event_type": "granted", "reason": "group", "at": "2026-03-02T12:00:00Z"},
        {"v": 1, "event_type": "denied", "reason": "group", "at": "2026-03-02T12:00:00Z"},
        {"v": 1, "event_type": "forced_open", "at": "2026-03-02T12:00:00Z"},
    ]
    assert followed.after == 5


@pytest.mark.parametrize(
    ("age_s", "on_the_way_s", "comes"),
    [(0, 0, True), (MOST - 0.1, 0, True), (MOST + 0.1, 0, False), (0, MOST + 0.1, False),
     (MOST * 0.6, MOST * 0.6, False),
     (-3600, 0, True)],  # a clock that was set back meanwhile makes no event old
)  # fmt: skip
def test_an_event_that_is_not_of_now_is_skipped(
    age_s: float, on_the_way_s: float, comes: bool
) -> None:
    followed, later = live(), NOON + timedelta(seconds=age_s)
    found = list(followed.take(answer(tap(), at=later), timedelta(seconds=on_the_way_s)))
    assert bool(found) is comes
    assert followed.after == 1


def test_the_position_only_moves_on_and_a_new_stream_is_followed_from_its_end() -> None:
    followed = live(after=7)
    assert list(followed.take(answer(tap(), first=8), timedelta(0)))
    followed.journal("s", 20)  # the core was restarted: what it recorded meanwhile may be fresh
    assert followed.after == 8
    followed.journal("t", 3)
    assert followed.after == 3
    assert not list(followed.take(answer(tap(), first=9), timedelta(0)))


# --- On a broker ----------------------------------------------------------------------------------


@asynccontextmanager
async def heard(host: str, port: int) -> AsyncIterator[list[dict[str, Any]]]:
    """What Home Assistant's subscription to the door's topic hears."""
    found: list[dict[str, Any]] = []
    client = MqttClient("ha", lambda _topic, payload: found.append(json.loads(payload)))
    await client.open(host, port, STREET)
    try:
        yield found
    finally:
        client.close()


async def test_where_nobody_acknowledges_every_event_comes_at_once_and_once(tmp_path: Path) -> None:
    path, core = tmp_path / "core.sock", MemoryCore()
    async with (
        mosquitto(tmp_path) as broker,
        EventCloud(broker.host, broker.port, acknowledges=False) as cloud,
        heard(broker.host, broker.port) as found,
        core_on(path, core),
        linking(link_settings(broker.port, home_assistant=ASKED), path),
    ):
        await until(lambda: core.sessions and core.sessions[-1].there)
        for count in range(1, 61):  # three times what is sent ahead of an acknowledgement
            core.record_event(tap())
            await until(lambda count=count: len(found) == count, 2)  # type: ignore[misc]
        await until(lambda: cloud.duplicates >= 60)  # the cloud's topic: sent again and again
        assert len(found) == 60
        assert cloud.reached("s-1") < 60


async def test_the_backlog_of_an_outage_is_for_the_cloud_alone(tmp_path: Path) -> None:
    path, core = tmp_path / "core.sock", MemoryCore()
    async with (
        mosquitto(tmp_path) as broker,
        EventCloud(broker.host, broker.port) as cloud,
        core_on(path, core),
        linking(link_settings(broker.port, home_assistant=ASKED), path),
    ):
        core.record_event(tap())
        await cloud.until(lambda: core.acknowledged == 1)
        await broker.kill()
        await until(lambda: not core.sessions[-1].there)
        for _ in range(30):
            core.record_event(tap("deny"))
        core.record_duress()
        await broker.start()
        async with heard(broker.host, broker.port) as found:
            await cloud.until(lambda: core.acknowledged == 32)
            core.record_event(tap())
            await until(lambda: found)
            assert [each["event_type"] for each in found] == ["granted"]


async def test_an_urgent_event_comes_once_and_a_restarted_link_repeats_nothing(
    tmp_path: Path,
) -> None:
    path, core = tmp_path / "core.sock", MemoryCore()
    async with (
        mosquitto(tmp_path) as broker,
        heard(broker.host, broker.port) as found,
        core_on(path, core),
    ):
        settings = link_settings(broker.port, home_assistant=ASKED)
        for count in (1, 2):
            core.sessions.clear()
            async with linking(settings, path):
                await until(lambda: core.sessions and core.sessions[-1].there)
                core.record(25)
                core.urgent.append(len(core.bodies) + 1)
                core.record_event(ForcedOpen(at=NOON, trust=2, door="street"))
                await until(lambda count=count: len(found) == count)  # type: ignore[misc]
                await asyncio.sleep(0.3)  # a repetition would come with the next batch
        assert [each["event_type"] for each in found] == ["forced_open"] * 2


async def test_a_site_that_doesnt_ask_for_it_has_no_live_topic(tmp_path: Path) -> None:
    path, core = tmp_path / "core.sock", MemoryCore()
    async with (
        mosquitto(tmp_path) as broker,
        EventCloud(broker.host, broker.port) as cloud,
        heard(broker.host, broker.port) as found,
        core_on(path, core),
        linking(link_settings(broker.port), path),
    ):
        core.record_event(tap())
        await cloud.until(lambda: core.acknowledged == 1)
        assert not found


async def test_a_late_subscriber_hears_nothing_of_before(tmp_path: Path) -> None:
    path, core = tmp_path / "core.sock", MemoryCore()
    async with (
        mosquitto(tmp_path) as broker,
        core_on(path, core),
        linking(link_settings(broker.port, home_assistant=ASKED), path),
    ):
        async with heard(broker.host, broker.port) as before:
            await until(lambda: core.sessions and core.sessions[-1].there)
            core.record_event(tap())
            await until(lambda: before)
        async with heard(broker.host, broker.port) as found:
            core.record_event(tap("deny"))
            await until(lambda: found)
            assert [each["event_type"] for each in found] == ["denied"]
