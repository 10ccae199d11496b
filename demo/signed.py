"""What is sold is what opens: a cloud that signs, a broker, a site, and somebody in between.

`make demo ARGS="--site signed"` plays it.
"""

import asyncio
import contextlib
import sys
import time
import tomllib
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import cbor2
import tomli_w
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from demo.brokers import Broker, any_broker
from demo.people import morning_zone, people, records
from demo.processes import REPOSITORY, process
from gateway.domain import events
from gateway.errors import IpcError
from gateway.ipc.client import CoreClient, connect
from hwsim.client import Simulator
from hwsim.client import connect as connect_simulator
from hwsim.cloud import Cloud, Keyring, RecordBook
from hwsim.cloud.records import BUNDLE, About, Bundle, snapshot
from hwsim.cloud.signing import document

GATEWAY = (sys.executable, "-m", "gateway")
DOOR, READER = "street", "street-reader"
NAME = "Maya"

START_S_MAX = 30.0
ONLINE_S_MAX = 5.0
"""docs/promises.md P7: from the sale to the door."""


BACK_S_MAX = 30.0
"""docs/promises.md P19: the broker is back."""


class WentWrong(Exception):
    """Something was not as it should be."""


class Stage:
    """The running site."""

    def __init__(
        self, simulator: Simulator, core: CoreClient, cloud: Cloud, broker: Broker, card: str
    ) -> None:
        self.simulator = simulator
        self.core = core
        self.cloud = cloud
        self.broker = broker
        self.card = card
        self.seq = 0

    async def next(self, wanted: Callable[[events.Event], bool], limit_s: float) -> Any:
        """The next event that is wanted."""
        async with asyncio.timeout(limit_s):
            while True:
                batch = await self.core.fetch(self.seq, wait_s=limit_s)
                for body in batch.bodies:
                    self.seq += 1
                    event = events.decode(body)
                    if wanted(event):
                        return event

    async def tap(self, expect: str) -> str:
        """The card at the door; what came of it."""
        await self.simulator.present(READER, self.card, hold=0.15)
        answer = await self.next(lambda event: isinstance(event, events.AccessDecided), 5.0)
        if answer.outcome != expect:
            raise WentWrong(f"{NAME} at {DOOR}: {answer.outcome} {answer.reason}, not {expect}")
        if expect == "grant":
            await self.simulator.push(DOOR)
        return f"{answer.outcome} {answer.reason}"

    async def sell(self, what: str, status: str, expect: str) -> None:
        """Change what is sold, and see it at the door."""
        (holder,) = (
            each
            for each in records(datetime.now(UTC), morning_zone(datetime.now(UTC)))
            if each["type"] == "holder" and each.get("name") == NAME
        )
        began = time.monotonic()
        self.cloud.book.put({**holder, "status": status})
        self.cloud.sell()
        await self.next(lambda event: isinstance(event, events.EntitlementsApplied), ONLINE_S_MAX)
        said = await self.tap(expect)
        took = time.monotonic() - began
        print(f"  {what}: {said}, {took:.1f} s from the sale to the door")
        if took > ONLINE_S_MAX:
            raise WentWrong(f"that is more than {ONLINE_S_MAX:g} s")

    async def refuse(self, what: str, bundle: Bundle, rule: str) -> None:
        """Send something bad, and see it refused."""
        self.cloud.send(bundle)
        told = await self.next(lambda event: isinstance(event, events.SealedRefused), 10.0)
        print(f"  {what}: refused, {told.reason}")
        if told.reason != rule:
            raise WentWrong(f"that should be {rule}")


async def play(run_dir: Path) -> int:
    """Set the stage, play, and say how it went; the exit status."""
    now = datetime.now(UTC)
    zone = morning_zone(now)
    config, control = run_dir / "site.toml", run_dir / "hardware.sock"
    async with contextlib.AsyncExitStack() as stack:
        broker = await stack.enter_async_context(any_broker(run_dir / "broker"))
        await stack.enter_async_context(
            process(
                *(sys.executable, "-m", "hwsim", str(REPOSITORY / "config" / "site.toml")),
                *("--run-dir", str(run_dir), "--write-config", str(config)),
                *("--control", str(control)),
                log=run_dir / "hardware.log",
            )
        )
        simulator = await stack.enter_async_context(connect_simulator(control))
        site: dict[str, Any] = tomllib.loads(config.read_text(encoding="utf-8"))
        keyring = Keyring(site["site"]["id"], int(now.timestamp()) - 60)
        (run_dir / "1.root").write_bytes(keyring.root())
        site["trust"] = {"root": str(run_dir / "1.root")}
        site["mqtt"] = {"host": "127.0.0.1", "port": broker.port}
        config.write_text(tomli_w.dumps(site), encoding="utf-8")
        book = RecordBook(site["site"]["id"], Ed25519PrivateKey.generate().private_bytes_raw())
        book.put(*records(now, zone))
        cloud = await stack.enter_async_context(Cloud("127.0.0.1", broker.port, keyring, book))
        await stack.enter_async_context(
            process(*GATEWAY, "run", "--config", str(config), log=run_dir / "gateway.log")
        )
        await _ready(run_dir / "core.sock")
        core = await stack.enter_async_context(connect(run_dir / "core.sock", role="demo"))
        cloud.register(site["site"]["gateway"])
        card = next(person.card for person in people(now) if person.name == NAME)
        await _play(Stage(simulator, core, cloud, broker, card))
    print("All as it should be.")
    return 0


async def _ready(socket: Path) -> None:
    """Wait until every device answers."""
    async with asyncio.timeout(START_S_MAX):
        while True:
            with contextlib.suppress(IpcError):
                async with connect(socket, role="demo") as core:
                    devices = (await core.status()).devices
                    if devices and all(device.online for device in devices.values()):
                        return
            await asyncio.sleep(0.1)


async def _play(stage: Stage) -> None:
    cloud = stage.cloud
    print("The cloud's key set is on the box; nothing is in force, so nobody may pass")
    await stage.tap("deny")
    print("A membership is bought, and cancelled, and bought again")
    cloud.sell()
    await stage.next(lambda event: isinstance(event, events.EntitlementsApplied), 10.0)
    await stage.sell("cancelled", "suspended", "deny")
    await stage.sell("bought", "active", "grant")
    print("Somebody in between, who holds the broker")
    current, about = cloud.book.current, cloud.about()
    assert current is not None
    later = current._replace(number=current.number + 1)
    forged = about._replace(keys=[Ed25519PrivateKey.generate()])
    good = snapshot(later, about)
    await stage.refuse("forged", snapshot(later, forged), "unknown_key")
    await stage.refuse("rolled back", snapshot(cloud.book.revisions[1], about), "rollback")
    await stage.refuse("truncated", Bundle(good.document[:-20], {}), "malformed")
    await stage.refuse("oversized", _oversized(good, about), "too_large")
    await stage.refuse(
        "for another gateway", snapshot(later, about._replace(gateways=["other"])), "wrong_gateway"
    )
    cloud.send(snapshot(current, about))
    print("  replayed: what is in force already changes nothing")
    print(f"  and the card still opens: {await stage.tap('grant')}")
    print("The network goes")
    await stage.broker.stop()
    print(f"  the card still opens: {await stage.tap('grant')}")
    (gateway,) = cloud.gateways.values()
    asked = len(gateway.needs)
    await stage.broker.start()
    await cloud.until(lambda: len(gateway.needs) > asked, BACK_S_MAX)
    print("It is back")
    await stage.sell("cancelled", "suspended", "deny")


def _oversized(good: Bundle, about: About) -> Bundle:
    """Well signed, with a chunk that would unpack to more than a chunk may: nobody asks for it."""
    payload = cbor2.loads(cbor2.loads(good.document)[0])
    payload["chunks"] = [[bytes(32), 1000, 5 * 1024 * 1024]]
    return Bundle(document(payload, about.keys, BUNDLE), {})
