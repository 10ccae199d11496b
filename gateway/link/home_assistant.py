"""Makes doors appear in Home Assistant by themselves: its MQTT discovery, off unless asked for.

What is announced only points at topics that are there anyway (docs/asyncapi.yaml). A lock's wishes
go to a topic of their own that the gateway doesn't hear: nothing unsigned moves a lock, so somebody
with the site's `command` key has to turn a wish into a command (`door-gateway relay-wishes`).

Source: Home Assistant, "MQTT", section "MQTT Discovery", and the pages of its `lock`,
`binary_sensor`, `sensor` and `event` platforms.
"""

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from gateway import __version__
from gateway.link.live import EVENT_TYPES
from gateway.link.settings import HomeAssistantSettings
from gateway.link.topics import Topics

Message = tuple[str, bytes]
"""Topic and payload, to be retained."""

_AVAILABLE = (
    "{{ 'online' if value_json.online and value_json.core | default(true) else 'offline' }}"
)


class Announcements:
    """What makes a gateway and its doors appear."""

    def __init__(
        self, topics: Topics, settings: HomeAssistantSettings, *, site: str, gateway: str
    ) -> None:
        self._topics = topics
        self._settings = settings
        self._ids = (site, gateway)
        self._common: dict[str, Any] = {
            "availability": [{"topic": topics.status, "value_template": _AVAILABLE}],
            "origin": {"name": "door-gateway", "sw_version": __version__},
        }
        self._box = {
            "identifiers": [f"door-gateway {site} {gateway}"],
            "name": f"{site} {gateway}",
            "manufacturer": "door-gateway",
            "sw_version": __version__,
        }

    def of_gateway(self) -> Iterator[Message]:
        """What makes the gateway itself appear."""
        for component, key, body in _box_entities(self._topics):
            yield self._message(component, (key,), {"device": self._box, **body})

    def of_door(self, door: str) -> Iterator[Message]:
        """What makes a door appear."""
        device = {
            "identifiers": [f"{self._box['identifiers'][0]} {door}"],
            "name": f"{self._ids[0]} {door}",
            "via_device": self._box["identifiers"][0],
        }
        for component, key, body in _door_entities(self._topics, door, locks=self._settings.locks):
            yield self._message(component, (door, key), {"device": device, **body})

    def _message(self, component: str, parts: tuple[str, ...], body: Mapping[str, Any]) -> Message:
        # Ids may have any character; an object id has [a-zA-Z0-9_-] only.
        unique = hashlib.sha256("\0".join((*self._ids, *parts)).encode()).hexdigest()[:24]
        whole = {"unique_id": f"door-gateway-{unique}", **self._common, **body}
        topic = f"{self._settings.discovery_prefix}/{component}/door-gateway/{unique}/config"
        return topic, msgspec.json.encode(whole)


def _box_entities(topics: Topics) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    health = {"state_topic": topics.health, "entity_category": "diagnostic"}
    yield (
        "binary_sensor",
        "problem",
        {
            **health,
            "name": "Problem",
            "device_class": "problem",
            "value_template": "{{ 'ON' if value_json.problems else 'OFF' }}",
        },
    )
    yield (
        "sensor",
        "backlog",
        {
            **health,
            "name": "Events waiting",
            "state_class": "measurement",
            "value_template": "{{ value_json.backlog }}",
        },
    )
    yield (
        "sensor",
        "temperature",
        {
            **health,
            "name": "Temperature",
            "device_class": "temperature",
            "unit_of_measurement": "°C",
            "state_class": "measurement",
            "value_template": "{{ value_json.box.temperature_c }}",
        },
    )


def _door_entities(
    topics: Topics, door: str, *, locks: bool
) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    state = {"state_topic": topics.door_state(door)}
    if locks:
        yield (
            "lock",
            "lock",
            {
                **state,
                "name": None,
                "value_template": (
                    "{{ 'UNLOCKED' if value_json.locked == false"
                    " else 'LOCKED' if value_json.locked else None }}"
                ),
                "command_topic": topics.wish(door),
                "payload_lock": "LOCK",
                "payload_unlock": "UNLOCK",
                "optimistic": False,
                "retain": False,
                "qos": 1,
            },
        )
    else:
        yield (
            "binary_sensor",
            "lock",
            {
                **state,
                "name": "Lock",
                "device_class": "lock",
                "value_template": _on_off(
                    "value_json.locked == false", "value_json.locked is none"
                ),
            },
        )
    yield (
        "binary_sensor",
        "contact",
        {
            **state,
            "name": "Door",
            "device_class": "door",
            "value_template": _on_off(
                "value_json.contact == 'open'", "value_json.contact == 'unknown'"
            ),
        },
    )
    yield (
        "binary_sensor",
        "alarm",
        {
            **state,
            "name": "Alarm",
            "device_class": "problem",
            "value_template": "{{ 'ON' if value_json.alarms else 'OFF' }}",
        },
    )
    yield (
        "sensor",
        "mode",
        {
            **state,
            "name": "Mode",
            "icon": "mdi:door-sliding-lock",
            "value_template": "{{ value_json.mode }}",
        },
    )
    yield (
        "event",
        "event",
        {
            "state_topic": topics.door_event(door),
            "name": "Event",
            "event_types": list(EVENT_TYPES),
        },
    )


def _on_off(on: str, unknown: str) -> str:
    return f"{{{{ None if {unknown} else 'ON' if {on} else 'OFF' }}}}"
