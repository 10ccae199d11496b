"""What Home Assistant itself makes of the announcements: run by a Python that has it installed.

    python -m venv ha && ha/bin/pip install homeassistant==2024.3.3 paho-mqtt==1.6.1 msgspec
    ha/bin/python tests/home_assistant.py

Its own discovery schemas must accept every announcement, and its own template engine must make
the right states of messages as they are in docs/asyncapi.yaml. Not part of `make test`: it brings
over a hundred packages, and a paho of another major version.
"""

import asyncio
import importlib
import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from gateway.link.home_assistant import Announcements
from gateway.link.settings import HomeAssistantSettings
from gateway.link.topics import Topics

STATE = {"v": 1, "door": "street", "mode": "controlled", "locked": True, "contact": "closed",
         "trust": 2, "at": "2026-03-02T09:00:00Z", "alarms": []}  # fmt: skip
HEALTH = {"v": 1, "problems": [], "backlog": 3, "box": {"temperature_c": 48.5}}
LIVE = {"v": 1, "event_type": "granted", "reason": "group", "at": "2026-03-02T09:00:00Z"}
STATUS = {"v": 1, "online": True, "core": True}

WANTED = [
    ("lock", "lock", STATE, "LOCKED"),
    ("lock", "lock", STATE | {"locked": False}, "UNLOCKED"),
    ("lock", "lock", STATE | {"locked": None}, "None"),
    ("binary_sensor", "Door", STATE, "OFF"),
    ("binary_sensor", "Door", STATE | {"contact": "open"}, "ON"),
    ("binary_sensor", "Door", STATE | {"contact": "unknown"}, "None"),
    ("binary_sensor", "Lock", STATE, "OFF"),
    ("binary_sensor", "Lock", STATE | {"locked": False}, "ON"),
    ("binary_sensor", "Alarm", STATE | {"alarms": ["forced_open"]}, "ON"),
    ("sensor", "Mode", STATE, "controlled"),
    ("binary_sensor", "Problem", HEALTH, "OFF"),
    ("sensor", "Temperature", HEALTH, "48.5"),
    ("sensor", "Events waiting", HEALTH, "3"),
]


async def main() -> int:
    """0 if Home Assistant takes all of it as it is meant."""
    core = importlib.import_module("homeassistant.core")
    template = importlib.import_module("homeassistant.helpers.template")
    with TemporaryDirectory() as directory:
        hass = core.HomeAssistant(directory)
        checked = 0
        for locks in (False, True):
            made = Announcements(
                Topics("LON", "lon-1"),
                HomeAssistantSettings(discovery_prefix="homeassistant", locks=locks),
                site="LON", gateway="lon-1",
            )  # fmt: skip
            found: list[tuple[str, dict[str, Any]]] = []
            for topic, payload in (*made.of_gateway(), *made.of_door("street")):
                component = topic.split("/")[1]
                platform = importlib.import_module(f"homeassistant.components.mqtt.{component}")
                platform.DISCOVERY_SCHEMA(json.loads(payload))
                found.append((component, json.loads(payload)))
                checked += 1

            def rendered(text: str, message: Any) -> str:
                value = template.Template(text, hass)
                return str(value.async_render_with_possible_json_value(json.dumps(message)))

            for component, name, message, wanted in WANTED:
                for each in found:
                    if (each[0], each[1]["name"] or "lock") == (component, name):
                        told = rendered(each[1]["value_template"], message)
                        if told != wanted:
                            print(f"{component} {name}: {told!r}, not {wanted!r}")
                            return 1
                        checked += 1
            (event,) = (each for kind, each in found if kind == "event")
            if "value_template" in event or LIVE["event_type"] not in event["event_types"]:
                return 1  # an event entity takes such a message as it is
            available = found[0][1]["availability"][0]["value_template"]
            if rendered(available, STATUS) != "online":
                return 1
            if rendered(available, STATUS | {"online": False}) != "offline":
                return 1
        await hass.async_stop(force=True)
    print(f"Home Assistant takes all {checked} as they are meant")
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
