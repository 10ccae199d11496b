"""At a site whose source of truth signs the link carries what it can't read, both ways."""

import asyncio
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
from msgspec.structs import replace

from demo.brokers import mosquitto
from gateway.ipc.messages import SEALED_BYTES_MAX, Deliver, Outgoing
from gateway.link.settings import LinkSettings
from hwsim.cloud import EventCloud
from tests.ipc.memory import MemoryCore
from tests.link.rig import PREFIX, core_on, link_settings, linking


class SigningCloud(EventCloud):
    """Hears the core's own messages as well."""

    def _on_connect(self, client: mqtt.Client, *more: object) -> None:
        self.told: list[tuple[str, bytes, bool]] = []
        client.subscribe([(f"{PREFIX}/{what}", 1) for what in ("cmd/result", "parity")])
        super()._on_connect(client, *more)

    def _on_message(self, client: mqtt.Client, data: object, message: mqtt.MQTTMessage) -> None:
        if message.topic.endswith(("/cmd/result", "/parity")):
            self.told.append((message.topic, bytes(message.payload), message.retain))
        else:
            super()._on_message(client, data, message)


def settings(port: int, **how: Any) -> LinkSettings:
    return replace(link_settings(port, **how), sealed=True)


async def test_what_is_sealed_reaches_the_core_unread_and_its_answers_the_cloud(
    tmp_path: Path,
) -> None:
    path, core = tmp_path / "core.sock", MemoryCore()
    core.record(5)
    core.outbox.put(Outgoing(topic="parity", payload=b"before the session"))
    async with (
        mosquitto(tmp_path) as broker,
        SigningCloud(broker.host, broker.port, acknowledges=False) as cloud,
    ):
        cloud.publish(f"{PREFIX}/cmd", b"retained", retain=True)
        await asyncio.sleep(0.2)
        async with core_on(path, core), linking(settings(broker.port), path):
            await cloud.until(lambda: core.sessions and core.sessions[-1].there and core.delivered)
            # The core is told that it was retained; with what was retained it has to deal itself.
            assert core.delivered == [Deliver(topic="cmd", sealed=b"retained", retained=True)]
            sent = [("cmd", b"\xd2one"), ("beacon", b"\x00two"), ("sync/manifest", b"three"),
                    ("sync/chunk", b"4" * 250_000), ("cmd", b"five")]  # fmt: skip
            for topic, payload in sent:
                cloud.publish(f"{PREFIX}/{topic}", payload)
            cloud.publish(f"{PREFIX}/cmd", b"6" * (SEALED_BYTES_MAX + 1))
            cloud.publish(f"{PREFIX}/elsewhere", b"not for us")
            await cloud.until(lambda: len(core.delivered) == 6)
            assert [(each.topic, each.sealed) for each in core.delivered[1:]] == sent
            # Only what the core says of an acknowledgement counts, and an unsigned one is nothing.
            await cloud.until(lambda: cloud.reached("s-1") == 5)
            cloud.publish(f"{PREFIX}/ack", b'{"stream":"s-1","seq":5}')
            core.record()
            cloud.publish(f"{PREFIX}/ack", b"4")
            await cloud.until(lambda: core.acknowledged == 4)
            core.outbox.put(Outgoing(topic="cmd/result", payload=b"\xd2done"))
            await cloud.until(lambda: len(cloud.told) == 2)
            assert cloud.told == [
                (f"{PREFIX}/parity", b"before the session", False),
                (f"{PREFIX}/cmd/result", b"\xd2done", False),
            ]
            await broker.kill()
            await cloud.until(lambda: not core.sessions[-1].there)


async def test_a_site_without_keys_hears_no_commands(tmp_path: Path) -> None:
    path, core = tmp_path / "core.sock", MemoryCore()
    core.record(5)
    async with (
        mosquitto(tmp_path) as broker,
        EventCloud(broker.host, broker.port) as cloud,
        core_on(path, core),
        linking(link_settings(broker.port), path),
    ):
        cloud.publish(f"{PREFIX}/cmd", b"\xd2one")
        await cloud.until(lambda: core.acknowledged == 5)
        assert core.delivered == []


async def test_a_flood_of_commands_is_dropped_where_the_core_does_not_take_them(
    tmp_path: Path,
) -> None:
    path, core = tmp_path / "core.sock", MemoryCore()
    async with (
        mosquitto(tmp_path) as broker,
        EventCloud(broker.host, broker.port) as cloud,
        linking(settings(broker.port), path),
    ):
        await cloud.until(lambda: cloud.retained)
        for number in range(300):
            cloud.publish(f"{PREFIX}/cmd", b"%d" % number)
        await asyncio.sleep(0.3)
        async with core_on(path, core):
            core.record()
            await cloud.until(lambda: core.delivered and cloud.health)
            await cloud.until(lambda: sum(cloud.health[-1]["link"]["dropped"].values()) >= 200)
            assert len(core.delivered) < 100
