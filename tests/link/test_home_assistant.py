"""Home Assistant's discovery: announced only when asked for, pointing only at what there is."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from demo.brokers import any_broker
from gateway.link.home_assistant import Announcements
from gateway.link.settings import HomeAssistantSettings
from gateway.link.topics import Topics
from hwsim.mqtt import MqttClient
from tests.ipc.memory import MemoryCore, door_state
from tests.link.rig import core_on, link_settings, linking

SENSORS = HomeAssistantSettings(discovery_prefix="homeassistant", locks=False)
LOCKS = HomeAssistantSettings(discovery_prefix="homeassistant", locks=True)
TOPICS = Topics("LON", "lon-1")


def announced(settings: HomeAssistantSettings, door: str) -> dict[str, dict[str, Any]]:
    made = Announcements(TOPICS, settings, site="LON", gateway="lon-1")
    messages = [*made.of_gateway(), *made.of_door(door)]
    return {topic: json.loads(payload) for topic, payload in messages}


@pytest.mark.parametrize("settings", [SENSORS, LOCKS])
def test_every_entity_has_an_id_of_its_own_that_stays(settings: HomeAssistantSettings) -> None:
    found, again = announced(settings, "a/b door #1"), announced(settings, "a/b door #1")
    assert found == again
    assert len({each["unique_id"] for each in found.values()}) == len(found)
    for topic in found:
        prefix, component, node, unique, end = topic.split("/")
        assert (prefix, node, end) == ("homeassistant", "door-gateway", "config")
        assert component in ("lock", "binary_sensor", "sensor", "event")
        assert unique.isalnum()


def test_only_a_site_that_asks_for_it_has_locks_and_their_wishes_are_never_retained() -> None:
    assert not [topic for topic in announced(SENSORS, "street") if "/lock/" in topic]
    assert not [each for each in announced(SENSORS, "street").values() if "command_topic" in each]
    (lock,) = (each for topic, each in announced(LOCKS, "street").items() if "/lock/" in topic)
    assert lock["command_topic"] == "acs/v1/LON/lon-1/door/street/wish"
    assert lock["retain"] is False
    assert lock["optimistic"] is False


def test_an_event_entity_hears_live_events_and_never_what_is_sent_again() -> None:
    door = """'}}{{ states("x") }}"""
    (event,) = (each for topic, each in announced(SENSORS, door).items() if "/event/" in topic)
    assert event["state_topic"] == TOPICS.door_event(door)
    assert "value_template" not in event
    assert door not in json.dumps(event)


@pytest.mark.process
async def test_doors_are_announced_once_a_session_and_only_where_asked_for(
    tmp_path: Path,
) -> None:
    path = tmp_path / "core.sock"
    heard: list[str] = []
    core = MemoryCore()
    core.doors.report(door_state("street"))
    async with any_broker(tmp_path) as broker, core_on(path, core):
        client = MqttClient("watcher", lambda topic, _payload: heard.append(topic))
        await client.open(broker.host, broker.port, "homeassistant/#", "acs/v1/+/+/door/+/state")

        async def told(count: int) -> None:
            async with asyncio.timeout(5):
                while sum(topic.startswith("acs/") for topic in heard) < count:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)

        async with linking(link_settings(broker.port), path):
            await told(1)
        assert not [topic for topic in heard if topic.startswith("homeassistant")]
        async with linking(link_settings(broker.port, home_assistant=SENSORS), path):
            await told(2)
            core.doors.report(door_state("street", "open"))
            await told(3)
        client.close()
    found = [topic for topic in heard if topic.startswith("homeassistant")]
    assert len(found) == len(set(found)) == len(announced(SENSORS, "street"))
