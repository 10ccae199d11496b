"""The whole chain: a source of truth, mosquitto with TLS and each gateway's own rights, a site."""

import asyncio
import random
import sqlite3
import ssl
import time
import tomllib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
import pytest
import tomli_w
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.reasoncodes import ReasonCode

from demo.brokers import Broker, Certificates, another_client, certificates, mosquitto
from gateway.domain import events
from gateway.ipc.client import CoreClient, connect
from gateway.ipc.messages import SEALED_BYTES_MAX, Deliver
from gateway.trust.keys import read_private_key
from hwsim.cloud import Cloud, Keyring, RecordBook
from hwsim.cloud.records import Bundle, snapshot
from tests.cache.test_bundles import SPOIL
from tests.process.rig import REPOSITORY, SAM, Rig, figure, records, standing_rig, until
from tests.timing import allowed

pytestmark = pytest.mark.process

GATEWAY = "lon-1"
ONLINE_S_MAX = 5.0
"""docs/promises.md P7."""
REPAIRED_S_MAX = 60.0
"""docs/promises.md P24."""


@asynccontextmanager
async def site(tmp_path: Path) -> AsyncIterator[tuple[Rig, Cloud, Broker, Certificates]]:
    """A standing site with [trust] and TLS, and its cloud on the same broker."""
    made = certificates(tmp_path / "tls", client=GATEWAY)
    clouds = another_client(made, "cloud")
    context = ssl.create_default_context(cafile=str(made.ca))
    context.load_cert_chain(clouds.certificate, clouds.key)
    keyring = Keyring("LON", int(time.time()) - 60)  # noqa: TID251 - the cloud has its own
    book = RecordBook("LON", bytes(range(32)), records())
    acl = REPOSITORY / "config" / "mosquitto.acl"
    async with (
        mosquitto(tmp_path / "broker", tls=made, acl=acl) as broker,
        standing_rig(tmp_path, broker_port=broker.port) as rig,
        Cloud("localhost", broker.port, keyring, book, context=context) as cloud,
    ):
        root = tmp_path / "1.root"
        root.write_bytes(keyring.root())
        config = tomllib.loads(rig.config.read_text())
        config["trust"] = {"root": str(root)}
        config["mqtt"]["tls"] = {
            "ca": str(made.ca),
            "certificate": str(made.certificate),
            "key": str(made.key),
        }
        rig.config.write_text(tomli_w.dumps(config))
        yield rig, cloud, broker, made


async def in_force(rig: Rig, number: int) -> float:
    async def there() -> bool:
        status = await rig.status()
        return status is not None and (status.revision or "").startswith(f"{number}-")

    return await until(f"revision {number}", there, 15.0)


def card(status: str) -> dict[str, Any]:
    (found,) = (each for each in records() if each.get("value") == SAM)
    return {**found, "status": status}


async def test_what_is_sold_is_what_opens_and_what_is_forged_changes_nothing(
    tmp_path: Path,
) -> None:
    async with site(tmp_path) as (rig, cloud, broker, made):
        cloud.book.drop("credential", card("active")["id"])
        core = await rig.core()
        await rig.start("link")
        key = read_private_key(rig.state / "gateway.key")
        gateway = cloud.register(GATEWAY, key.public_key())
        assert not cloud.rejected
        cloud.sell()
        await in_force(rig, 1)
        await rig.stays_shut("front", SAM, 0)

        # A membership is bought: the door opens; it is cancelled: it does not.
        cloud.book.put(card("active"))
        bought = time.monotonic()
        cloud.sell()
        await in_force(rig, 2)
        assert time.monotonic() - bought < allowed(ONLINE_S_MAX)
        figure(f"bought to in force: {time.monotonic() - bought:.2f} s")
        await rig.opens("front", SAM)
        await rig.at_rest("front")
        cloud.book.put(card("suspended"))
        cancelled = time.monotonic()
        cloud.sell()
        await in_force(rig, 3)
        assert time.monotonic() - cancelled < allowed(ONLINE_S_MAX)
        figure(f"cancelled to in force: {time.monotonic() - cancelled:.2f} s")
        await rig.stays_shut("front", SAM, await rig.last_seq())

        # Parity, signed; beacons make the time trusted and renew as_of.
        sold = cloud.book.current
        assert sold is not None
        await until("parity", lambda: gateway.parity and gateway.parity[-1]["revision"] == 3)
        assert gateway.parity[-1]["digest"] == sold.digest()
        assert gateway.forged == 0

        # Forged, replayed, truncated, oversized, rolled back: refused, and told.
        about = cloud.about()
        old = cloud.book.revisions[2]
        good = snapshot(sold._replace(number=9), about)
        thief = snapshot(
            sold._replace(number=9), about._replace(keys=[Ed25519PrivateKey.generate()])
        )
        for bad in (
            thief,
            snapshot(old, about),
            Bundle(good.document[:-9], good.chunks),
            Bundle(bytes(400_000), {}),
            snapshot(sold._replace(number=9), about._replace(gateways=["lon-2"])),
        ):
            cloud.send(bad, GATEWAY)
        wanted = {"unknown_key", "rollback", "malformed", "wrong_gateway"}

        def refused() -> set[str]:
            return {
                each["reason"]
                for each in list(cloud.events.values())
                if each["code"] == "sealed_refused"
            }

        await until("each is told of", lambda: refused() >= wanted, 20.0)
        await in_force(rig, 3)

        # Nobody but the cloud may speak to a gateway, or a gateway for another.
        assert not await _may_publish(broker, made, "acs/v1/LON/lon-1/cmd", GATEWAY)
        assert not await _may_publish(broker, made, "acs/v1/LON/lon-1/event", "lon-2")
        assert await _may_publish(broker, made, "acs/v1/LON/lon-2/status", "lon-2")

        # Ordered from afar, by a signer that knows only the page: once, and answered.
        await rig.at_rest("front")
        orders: list[bytes] = []

        async def ordered() -> None:
            orders.append(cloud.command(GATEWAY, "unlock", door="front"))

        await rig.release_by("front", ordered())
        orders.append(cloud.command(GATEWAY, "unlock", door="roof"))
        orders.append(cloud.command(GATEWAY, "logs", minutes=1))
        await until("answers", lambda: gateway.results.keys() >= set(orders))
        done, unknown, logged = (gateway.results[each] for each in orders)
        assert (done["outcome"], unknown["reason"]) == ("done", "unknown_door")
        assert logged["lines"]
        assert gateway.forged == 0
        figure(f"remote unlock, at the core: {done['took_ms']} ms")

        # Signed acknowledgements only.
        last = await rig.last_seq()

        async def acknowledged() -> bool:
            status = await rig.status()
            return status is not None and status.acknowledged_seq >= last

        await until("acknowledged", acknowledged, 20.0)

        # Records rot on the box's own disk: found at the start, told, repaired bucket by bucket.
        await core.stop()
        rows = sqlite3.connect(rig.state / "cache.db")
        rows.execute(SPOIL.replace("h-1", "h-sam"))
        assert rows.total_changes == 1
        rows.commit()
        rows.close()
        reports = len(gateway.parity)
        await rig.core()
        begun = time.monotonic()
        await until("a repair is sent", lambda: gateway.repairs, 30.0)

        def mended() -> bool:
            return gateway.parity[-1]["digest"] == sold.digest() and len(gateway.parity) > reports

        await until("it is mended", mended, 30.0)
        assert time.monotonic() - begun < allowed(REPAIRED_S_MAX)
        figure(f"start to repaired: {time.monotonic() - begun:.2f} s")


async def _may_publish(broker: Broker, made: Certificates, topic: str, name: str) -> bool:
    """What the broker says to a client of this name: MQTT 5 tells it in the PUBACK."""
    certificate = another_client(made, name)
    answered: asyncio.Queue[bool] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    client = mqtt.Client(
        CallbackAPIVersion.VERSION2, client_id="probe", protocol=MQTTProtocolVersion.MQTTv5
    )
    client.tls_set(str(made.ca), str(certificate.certificate), str(certificate.key))

    def said(_client: object, _data: object, _mid: int, reason: ReasonCode, _more: object) -> None:
        loop.call_soon_threadsafe(answered.put_nowait, not reason.is_failure)

    client.on_publish = said
    client.connect("localhost", broker.port)
    client.loop_start()
    client.publish(topic, b"{}", qos=1)
    try:
        async with asyncio.timeout(10):
            return await answered.get()
    finally:
        client.disconnect()
        await asyncio.to_thread(client.loop_stop)


async def test_a_stick_brings_a_bundle_without_any_network_and_nothing_unsigned_is_taken(
    tmp_path: Path,
) -> None:
    async with site(tmp_path) as (rig, cloud, _broker, _made):
        cloud.register(GATEWAY)
        first = cloud.book.publish()
        stick = tmp_path / "1.bundle"
        stick.write_bytes(snapshot(first, cloud.about()).file())
        offline = await rig.cli("import", str(stick), "--config", str(rig.config))
        assert offline.status == 0, offline
        assert offline.out.startswith("revision 1-")
        await rig.core()
        await rig.opens("front", SAM)
        unsigned = await rig.cli("import", str(rig.records), "--config", str(rig.config))
        assert unsigned.status == 2
        assert "only a signed .bundle" in unsigned.err
        again = await rig.cli("import", str(stick), "--config", str(rig.config))
        assert again.status == 2
        assert "equal" in again.err
        bent = tmp_path / "bent.bundle"
        bent.write_bytes(stick.read_bytes()[:-1])
        cut = await rig.cli("import", str(bent), "--config", str(rig.config))
        assert cut.status == 2
        assert "malformed: it is cut short" in cut.err
        told = await rig.event(events.SealedRefused)
        assert (told.what, told.reason) == ("bundle", "malformed")
        checked = await rig.cli("config", "check", str(rig.config))
        assert checked.status == 0
        (tmp_path / "1.root").write_bytes(b"junk")
        checked = await rig.cli("config", "check", str(rig.config))
        assert checked.status == 2
        assert "trust.root" in checked.err


async def test_a_hostile_link_that_floods_the_core_is_felt_at_no_door(tmp_path: Path) -> None:
    async with site(tmp_path) as (rig, cloud, _broker, _made):
        cloud.register(GATEWAY)
        first = snapshot(cloud.book.publish(), cloud.about())
        await rig.core()
        async with connect(rig.socket, role="link") as core:
            await core.deliver(Deliver(topic="sync/manifest", sealed=first.document))
            for chunk in first.chunks.values():
                await until("the chunk is wanted", lambda: _is_coming(rig), 5.0)
                await core.deliver(Deliver(topic="sync/chunk", sealed=chunk))
            await in_force(rig, 1)
            usual = [await _opens(rig) for _ in range(4)]
            flood = asyncio.create_task(_flood(core, first))
            flooded = [await _opens(rig) for _ in range(4)]
            flood.cancel()
            await asyncio.wait({flood})
        figure(f"tap to strike: {max(usual):.0f} ms, flooded {max(flooded):.0f} ms")
        assert max(flooded) < 1000  # docs/promises.md P3
        await in_force(rig, 1)
        assert "Traceback" not in _logged(tmp_path)


async def _opens(rig: Rig) -> float:
    took = await rig.opens("front", SAM)
    await rig.at_rest("front")
    return took


def _logged(directory: Path) -> str:
    return "".join(log.read_text() for log in directory.glob("core-*.log"))


def _is_coming(rig: Rig) -> bool:
    return (rig.state / "incoming" / "manifest").exists()


async def _flood(core: CoreClient, good: Bundle) -> None:
    """As fast as the core takes it: junk, replays, things bent and things as large as may be."""
    chance = random.Random(3)
    large = chance.randbytes(SEALED_BYTES_MAX)
    while True:
        bent = bytearray(good.document)
        bent[chance.randrange(len(bent))] ^= 1
        for topic, sealed in (
            ("sync/manifest", bytes(bent)),
            ("sync/manifest", good.document),
            ("sync/manifest", large),
            ("sync/manifest", b"\x9a\x00\x07\xa0\x00" + bytes(SEALED_BYTES_MAX - 5)),
            ("sync/chunk", large),
            ("sync/chunk", next(iter(good.chunks.values()))),
            ("beacon", large[:1000]),
            ("ack", b""),
        ):
            deliver: Any = {"topic": topic, "sealed": sealed, "retained": chance.random() < 0.1}
            await core.deliver(Deliver(**deliver))
