"""Many gateways and their cloud on one broker or a cluster: `python -m hwsim fleet --help`.

Each gateway behaves at the wire as docs/asyncapi.yaml says: last will, retained states, batches of
events at QoS 1 that are kept until the cloud's cumulative acknowledgement, sent again from there
after a loss. The cloud keeps what it has seen of each stream and acknowledges what is whole.
"""

import argparse
import asyncio
import json
import random
import sys
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from hwsim.mqtt import BrokerLost, MqttClient

BATCH_EVENTS_MAX = 100
IN_FLIGHT_MAX = 20
PATIENCE_S = 15.0
"""How long the cloud's silence is borne before everything unacknowledged is sent again."""
BACKOFF_S = (0.5, 10.0)

Where = tuple[str, int]


class Report(NamedTuple):
    """What became of everything."""

    gateways: int
    made: int
    """Events."""
    arrived: int
    lost: int
    acknowledged: int
    duplicates: int
    """Events that came again, each recognised by stream and seq."""
    sessions: int
    resends: int
    seconds: float
    """From the first event made to the last acknowledged."""
    p50_ms: float
    p99_ms: float
    """From an event's making to its first arrival."""


class SimulatedGateway:
    """One gateway: makes events, and sends them until they are acknowledged."""

    def __init__(self, number: int, brokers: Sequence[Where], rng: random.Random) -> None:
        self.site, self.name = f"S{number // 10:04}", f"gw-{number}"
        self._prefix = f"acs/v1/{self.site}/{self.name}"
        self._brokers = brokers
        self._rng = rng
        self._turn = number % len(brokers)
        self._kept: deque[tuple[int, bytes]] = deque()
        self._made = 0
        self._position = 0
        self._in_flight = 0
        self._heard_at = 0.0
        self._client: MqttClient | None = None
        self._news = asyncio.Event()
        self.stream = f"{self.name}-{rng.getrandbits(64):016x}"
        self.acknowledged = 0
        self.sessions = 0
        self.connected_at = 0.0
        """Monotonic, of the last session."""
        self.resends = 0

    @property
    def made(self) -> int:
        """The number of the last event."""
        return self._made

    def happen(self) -> None:
        """Make an event."""
        self._made += 1
        event = {"code": "access", "at": _wall(), "trust": 2, "door": "front", "side": "in",
                 "device": "front-reader", "kinds": ["uid"], "outcome": "grant",
                 "reason": "group", "holder": f"h-{self._rng.randrange(10_000)}",
                 "made": time.monotonic()}  # fmt: skip
        self._kept.append((self._made, json.dumps(event).encode()))
        self._news.set()

    async def run(self) -> None:
        """Stay connected, to whichever broker answers, until cancelled."""
        backoff = BACKOFF_S[0]
        while True:
            try:
                await self._session()
                backoff = BACKOFF_S[0]
            except BrokerLost:
                backoff = min(BACKOFF_S[1], backoff * 2)
            self._turn = (self._turn + 1) % len(self._brokers)
            await asyncio.sleep(backoff * self._rng.uniform(0.5, 1.0))

    def pull_the_cable(self) -> None:
        """Lose the connection."""
        if self._client is not None:
            self._client.drop()

    async def _session(self) -> None:
        client = MqttClient(
            f"acs:{self.site}:{self.name}",
            self._on_ack,
            will=(f"{self._prefix}/status", b'{"v":1,"online":false,"why":"lost"}'),
        )
        await client.open(*self._brokers[self._turn], f"{self._prefix}/ack")
        client.ended.add_done_callback(lambda _: self._news.set())
        self._client = client
        self.sessions += 1
        self.connected_at = time.monotonic()
        self._rewind()
        client.publish(f"{self._prefix}/status", b'{"v":1,"online":true,"core":true}', retain=True)
        state = {
            "v": 1,
            "door": "front",
            "mode": "controlled",
            "locked": True,
            "contact": "closed",
            "trust": 2,
            "alarms": [],
            "at": _wall(),
        }
        client.publish(f"{self._prefix}/door/front/state", json.dumps(state).encode(), retain=True)
        try:
            while not client.ended.done():
                self._send(client)
                self._news.clear()
                with suppress(TimeoutError):
                    async with asyncio.timeout(1.0):
                        await self._news.wait()
                waits = self._position > self.acknowledged
                if waits and time.monotonic() - self._heard_at > PATIENCE_S:
                    self.resends += 1
                    self._rewind()
        finally:
            self._client = None
            client.close()

    def _rewind(self) -> None:
        self._position, self._in_flight = self.acknowledged, 0
        self._heard_at = time.monotonic()

    def _send(self, client: MqttClient) -> None:
        while self._in_flight < IN_FLIGHT_MAX and self._position < self._made:
            first = self._position - self.acknowledged
            batch = [
                self._kept[at]
                for at in range(first, min(first + BATCH_EVENTS_MAX, len(self._kept)))
            ]
            numbered = b",".join(b'{"seq":%d,"event":%b}' % each for each in batch)
            payload = b'{"v":1,"stream":"%b","events":[%b]}' % (self.stream.encode(), numbered)
            self._position = batch[-1][0]
            self._in_flight += 1
            client.publish(f"{self._prefix}/event", payload, done=self._puback)

    def _puback(self) -> None:
        self._in_flight -= 1
        self._news.set()

    def _on_ack(self, _topic: str, payload: bytes) -> None:
        ack = json.loads(payload)
        if ack["stream"] != self.stream:
            return
        self._heard_at = time.monotonic()
        while self._kept and self._kept[0][0] <= ack["seq"]:
            self.acknowledged = self._kept.popleft()[0]
        self._position = max(self._position, self.acknowledged)
        self._news.set()


class Collector:
    """The cloud: takes every gateway's events, tells new from known, acknowledges what is whole."""

    def __init__(self, brokers: Sequence[Where]) -> None:
        self._brokers = brokers
        self._turn = 0
        self._client: MqttClient | None = None
        self._whole: dict[str, int] = {}
        self._beyond: dict[str, set[int]] = {}
        self._due: dict[str, str] = {}
        self.arrived = 0
        self.duplicates = 0
        self.latencies: list[float] = []
        self.connected = asyncio.Event()

    async def run(self) -> None:
        """Listen, at whichever broker answers, until cancelled."""
        while True:
            # What waits for us survives a node that dies: the session is kept by the broker.
            client = MqttClient("acs-cloud", self._take, clean=False)
            with suppress(BrokerLost):
                await client.open(*self._brokers[self._turn], "acs/v1/+/+/event")
                self._client = client
                self.connected.set()
                try:
                    while not client.ended.done():
                        await asyncio.wait({client.ended}, timeout=0.1)
                        self._acknowledge()
                finally:
                    self._client = None
                    client.close()
            self._turn = (self._turn + 1) % len(self._brokers)
            await asyncio.sleep(0.5)

    def whole(self, stream: str) -> int:
        """Up to where every event of the stream has come."""
        return self._whole.get(stream, 0)

    def _take(self, topic: str, payload: bytes) -> None:
        message: dict[str, Any] = json.loads(payload)
        if not all("made" in each["event"] for each in message["events"]):
            return  # a real gateway's: its own cloud acknowledges it
        stream, now = message["stream"], time.monotonic()
        whole, beyond = self._whole.get(stream, 0), self._beyond.setdefault(stream, set())
        for each in message["events"]:
            seq = each["seq"]
            if seq <= whole or seq in beyond:
                self.duplicates += 1
                continue
            beyond.add(seq)
            self.arrived += 1
            self.latencies.append(now - each["event"]["made"])
        while whole + 1 in beyond:
            whole += 1
            beyond.remove(whole)
        self._whole[stream] = whole
        self._due[stream] = topic.removesuffix("event") + "ack"

    def _acknowledge(self) -> None:
        due, self._due = self._due, {}
        for stream, topic in due.items():
            if self._client is not None and self._whole[stream]:
                ack = json.dumps({"stream": stream, "seq": self._whole[stream]}).encode()
                self._client.publish(topic, ack)


class Fleet:
    """Gateways with a load, and the cloud beside them unless there is one already."""

    def __init__(
        self, brokers: Sequence[Where], count: int, *, rng: random.Random, cloud: bool = True
    ) -> None:
        self.gateways = [SimulatedGateway(number, brokers, rng) for number in range(count)]
        self.collector = Collector(brokers) if cloud else None
        self._rng = rng

    async def run(self, *, seconds: float, events_per_s: float, settle_s: float) -> Report:
        """Make events for so long, then wait at most `settle_s` for all to be acknowledged."""
        async with asyncio.TaskGroup() as group:
            tasks = []
            if self.collector is not None:
                tasks.append(group.create_task(self.collector.run()))
                await self.collector.connected.wait()
            tasks += [group.create_task(gateway.run()) for gateway in self.gateways]
            begun = time.monotonic()
            await self._load(seconds, events_per_s)
            with suppress(TimeoutError):
                async with asyncio.timeout(settle_s):
                    while any(each.acknowledged < each.made for each in self.gateways):  # noqa: ASYNC110
                        await asyncio.sleep(0.05)
            took = time.monotonic() - begun
            for task in tasks:
                task.cancel()
        return self._report(took)

    async def _load(self, seconds: float, events_per_s: float) -> None:
        begun, made = time.monotonic(), 0
        while (passed := time.monotonic() - begun) < seconds:
            while made < passed * events_per_s:
                self._rng.choice(self.gateways).happen()
                made += 1
            await asyncio.sleep(0.005)

    def _report(self, took: float) -> Report:
        cloud = self.collector
        made = sum(each.made for each in self.gateways)
        whole = sum(cloud.whole(each.stream) for each in self.gateways) if cloud else 0
        latencies = sorted(cloud.latencies) if cloud else []
        return Report(
            gateways=len(self.gateways),
            made=made,
            arrived=cloud.arrived if cloud else 0,
            lost=made - whole if cloud else 0,
            acknowledged=sum(each.acknowledged for each in self.gateways),
            duplicates=cloud.duplicates if cloud else 0,
            sessions=sum(each.sessions for each in self.gateways),
            resends=sum(each.resends for each in self.gateways),
            seconds=round(took, 2),
            p50_ms=_quantile_ms(latencies, 0.5),
            p99_ms=_quantile_ms(latencies, 0.99),
        )


def _wall() -> str:
    return datetime.fromtimestamp(time.time_ns() / 1e9, UTC).isoformat()


def _quantile_ms(ordered: list[float], share: float) -> float:
    return round(ordered[int(share * (len(ordered) - 1))] * 1000, 1) if ordered else 0.0


def main(arguments: list[str] | None = None) -> int:
    """Run a fleet and print its report as JSON; 1 if an event was lost, 2 if nothing ran."""
    parser = argparse.ArgumentParser(
        prog="python -m hwsim fleet",
        description="Play many gateways at once against a broker or a cluster, and count.",
        epilog="example: python -m hwsim fleet --broker mqtt://127.0.0.1:1883 --gateways 200",
    )
    parser.add_argument("--broker", action="append", required=True, metavar="URL",
                        help="mqtt://ADDRESS:PORT; again for each node of a cluster")  # fmt: skip
    parser.add_argument("--gateways", type=int, default=100)
    parser.add_argument("--events-per-s", type=float, default=100.0, help="of all together")
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--settle", type=float, default=60.0, metavar="SECONDS",
                        help="how long the rest may take at the end")  # fmt: skip
    parser.add_argument("--no-cloud", action="store_true", help="there is a cloud already")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    brokers = [(each.hostname or "", each.port or 1883) for each in map(urlsplit, options.broker)]
    if not all(host for host, _ in brokers):
        parser.error("--broker: must be like mqtt://127.0.0.1:1883")

    async def run() -> Report:
        fleet = Fleet(
            brokers, options.gateways, rng=random.Random(options.seed), cloud=not options.no_cloud
        )
        return await fleet.run(
            seconds=options.seconds, events_per_s=options.events_per_s, settle_s=options.settle
        )

    report = asyncio.run(run())
    sys.stdout.write(json.dumps(report._asdict()) + "\n")
    return 1 if report.lost or report.acknowledged < report.made else 0


if __name__ == "__main__":
    sys.exit(main())
