"""`bundle publish` stays until the gateway says, signed, that the bundle is in force."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from demo.brokers import Broker, any_broker
from gateway.cli import main
from gateway.domain import events
from gateway.statedir import StateDir
from gateway.trust.making import Made, delta, snapshot
from gateway.trust.parity import open_report
from tests.cache.conftest import records
from tests.cache.test_bundles import holder
from tests.trust.bundles import GATEWAY, about, canonical_set, file_of, with_records
from tests.trust.keyring import NOON, key
from tests.trust.test_sync import Box, running

PREFIX = f"acs/v1/LON/{GATEWAY}"
KEY = key("gateway").public_key().public_bytes_raw().hex()
FIRST = canonical_set(records(6))


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    path = tmp_path / "credential.key"
    path.write_bytes(bytes(32))
    path.chmod(0o400)
    return path


@pytest.fixture
def state(tmp_path: Path) -> Iterator[Path]:
    with StateDir(tmp_path / "state") as state:
        yield state.path


async def listen(client: mqtt.Client, broker: Broker, topic: str) -> None:
    """Connect and wait until the broker has taken the subscription."""
    ready = threading.Event()

    def subscribed(*_: Any) -> None:
        ready.set()

    client.on_subscribe = subscribed
    client.connect("127.0.0.1", broker.port)
    client.subscribe(topic, 1)
    client.loop_start()
    assert await asyncio.to_thread(ready.wait, 20)


@asynccontextmanager
async def on_broker(broker: Broker, box: Box) -> AsyncIterator[mqtt.Client]:
    """The gateway's half of the wire on a broker; what it says goes out at once."""
    loop = asyncio.get_running_loop()
    tasks: set[asyncio.Task[None]] = set()
    client = mqtt.Client(CallbackAPIVersion.VERSION2)

    def take(topic: str, payload: bytes) -> None:
        if topic.endswith("manifest"):
            box.sync.document(payload)
        else:
            task = loop.create_task(box.sync.chunk(payload))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

    def hear(_client: mqtt.Client, _data: object, sent: mqtt.MQTTMessage) -> None:
        loop.call_soon_threadsafe(take, sent.topic, bytes(sent.payload))

    client.on_message = hear
    await listen(client, broker, f"{PREFIX}/sync/+")
    said = asyncio.create_task(_speak(box, client))
    try:
        yield client
    finally:
        said.cancel()
        client.disconnect()
        await asyncio.to_thread(client.loop_stop)


async def _speak(box: Box, client: mqtt.Client) -> None:
    sent = len(box.said)
    while True:
        for topic, payload in box.said[sent:]:
            client.publish(f"{PREFIX}/{topic}", payload, qos=1)
        sent = len(box.said)
        await asyncio.sleep(0.01)


async def publish(broker: Broker, file: Path, made: Made, *more: str) -> int:
    await asyncio.to_thread(file.write_bytes, file_of(made))
    command = ["bundle", "publish", str(file), "--host", "127.0.0.1", "--port", str(broker.port)]
    return await asyncio.to_thread(main, [*command, *more])


async def test_each_of_twelve_snapshots_one_after_the_other_is_in_force(
    tmp_path: Path, state: Path, key_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with (
        any_broker(tmp_path / "broker") as broker,
        running(state, key_file) as box,
        on_broker(broker, box),
    ):
        for revision in range(1, 13):
            box.clock.mono += timedelta(seconds=1)
            made = snapshot(FIRST, about(revision))
            assert await publish(broker, tmp_path / f"{revision}", made, "--gateway-key", KEY) == 0
            assert box.number == revision
            assert capsys.readouterr().out == (
                f"{GATEWAY}: snapshot, revision {revision}: in force\n"
            )
        changed = with_records(FIRST, holder("h-1", "suspended"))
        made = delta(FIRST, changed, about(13), 12)
        assert await publish(broker, tmp_path / "13", made) == 0
        assert "in force (unchecked: no --gateway-key)" in capsys.readouterr().out


async def test_a_report_that_somebody_else_signed_or_of_another_set_is_not_believed(
    tmp_path: Path, state: Path, key_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with (
        any_broker(tmp_path / "broker") as broker,
        running(state, key_file) as box,
        on_broker(broker, box),
    ):
        other = key("somebody").public_key().public_bytes_raw().hex()
        made = snapshot(FIRST, about(1))
        more = ("--gateway-key", f"{GATEWAY}={other}", "--wait", "3s")
        assert await publish(broker, tmp_path / "1", made, *more) == 1
        assert "not in force yet: no answer" in capsys.readouterr().out
        assert box.number == 1
        sealed = [payload for topic, payload in box.said if topic == "parity"][-1]
        assert open_report(sealed, key("gateway").public_key()).revision == 1


@pytest.mark.parametrize(
    ("event", "why"),
    [
        (
            events.SealedRefused(at=NOON, trust=2, what="bundle", reason="impact", count=1),
            "refused: impact",
        ),
        (
            events.EntitlementsRefused(at=NOON, trust=2, faults=1, first="zone z category"),
            "refused: faults: zone z category",
        ),
    ],
)
async def test_a_refusal_ends_it_with_the_rule(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], event: Any, why: str
) -> None:
    async with any_broker(tmp_path / "broker") as broker:
        client = mqtt.Client(CallbackAPIVersion.VERSION2)

        def answer(_client: mqtt.Client, _data: object, sent: mqtt.MQTTMessage) -> None:
            del sent
            for at in (b"2026-01-01T00:00:00Z", b"2099-01-01T00:00:00Z"):
                body = events.encode(event).replace(b"2026-05-04T12:00:00Z", at)
                batch = b'{"stream":"s","events":[{"seq":1,"event":' + body + b"}]}"
                client.publish(f"{PREFIX}/event", batch, qos=1)

        client.on_message = answer
        await listen(client, broker, f"{PREFIX}/sync/manifest")
        made = snapshot(FIRST, about(1))
        assert await publish(broker, tmp_path / "1", made, "--wait", "20s") == 1
        client.disconnect()
        await asyncio.to_thread(client.loop_stop)
    assert f"{GATEWAY}: snapshot, revision 1: {why}\n" in capsys.readouterr().out
