"""Listens to a broker while a test runs, and holds every message against docs/asyncapi.yaml."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import jsonschema
import yaml

from demo.brokers import Broker
from hwsim.mqtt import MqttClient
from tests.asyncapi import DOCUMENT, Validator

MESSAGES_MAX = 2_000
"""Held of one run; validating more takes longer than it shows."""


@asynccontextmanager
async def held_to_asyncapi(broker: Broker) -> AsyncIterator[set[str]]:
    """The names of the messages that came so far; at the end each has been validated."""
    validator = Validator(yaml.load(DOCUMENT.read_bytes(), yaml.CSafeLoader))
    heard: list[tuple[str, bytes]] = []
    names: set[str] = set()

    def hear(topic: str, payload: bytes) -> None:
        heard.append((topic, payload))
        del heard[MESSAGES_MAX:]

    client = MqttClient("asyncapi-watcher", hear)
    await client.open(broker.host, broker.port, "acs/v1/#")
    try:
        yield names
    finally:
        client.close()
    for topic, payload in heard:
        try:
            names.add(validator.check(topic, payload))
        except (jsonschema.ValidationError, ValueError, KeyError) as error:
            why = getattr(error, "message", repr(error))
            raise AssertionError(f"{topic}: {why}: {payload[:300]!r}") from error
    assert {"Status", "Event", "DoorDoorState", "Health"} <= names, names
