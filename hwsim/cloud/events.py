"""The cloud's ear on a broker: it keeps each event once and acknowledges what has no gap."""

import asyncio
import json
import ssl
import threading
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, Self

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

UP = ("event", "status", "health", "door/+/state")


@dataclass
class EventCloud:
    """A cloud with nothing but a memory, on paho's own thread: hears every gateway on a broker, and
    signs nothing.

    `acknowledges` may be set to False: then it listens and says nothing.
    """

    host: str
    port: int
    _: KW_ONLY
    context: ssl.SSLContext | None = None
    login: tuple[str, str] | None = None
    name: str = "cloud"
    acknowledges: bool = True
    begin: dict[str, int] = field(default_factory=dict)
    """Up to where it had each stream in an earlier life."""
    events: dict[tuple[str, int], dict[str, Any]] = field(default_factory=dict)
    """By (stream, seq), in the order in which they came first."""
    duplicates: int = 0
    out_of_order: int = 0
    """Events that came first when their predecessor had not come."""
    messages: int = 0
    urgent: dict[tuple[str, int], dict[str, Any]] = field(default_factory=dict)
    """What came ahead of the backlog. It comes again at its place in the sequence."""
    retained: dict[str, dict[str, Any]] = field(default_factory=dict)
    """The last status and door states, by topic."""
    health: list[dict[str, Any]] = field(default_factory=list)
    rejected: list[str] = field(default_factory=list)
    """Topics that the broker refused us."""

    def __post_init__(self) -> None:
        self._lock = threading.RLock()
        self._reached = dict(self.begin)
        self._connected = threading.Event()
        # The broker keeps the session while we are away: a gateway that is back before us is heard.
        self._client = mqtt.Client(
            CallbackAPIVersion.VERSION2, client_id=self.name, clean_session=False
        )
        if self.context is not None:
            self._client.tls_set_context(self.context)
        if self.login is not None:
            self._client.username_pw_set(*self.login)
        self._client.reconnect_delay_set(1, 1)
        self._client.on_connect = self._on_connect
        self._client.on_subscribe = self._on_subscribe
        self._client.on_disconnect = lambda *_: self._connected.clear()
        self._client.on_message = self._on_message

    async def __aenter__(self) -> Self:
        self._client.connect_async(self.host, self.port, keepalive=5)
        self._client.loop_start()
        await self.until(self._connected.is_set)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._client.disconnect()
        await asyncio.to_thread(self._client.loop_stop)

    def reached(self, stream: str) -> int:
        """Up to which sequence number it has everything of the stream."""
        with self._lock:
            return self._reached.get(stream, 0)

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        """Say something, right or wrong."""
        self._client.publish(topic, payload, qos=1, retain=retain)

    async def until(self, seen: Callable[[], object], limit_s: float = 20.0) -> None:
        """Wait until it is so. Raises TimeoutError."""
        async with asyncio.timeout(limit_s):
            while not seen():  # noqa: ASYNC110 - paho's thread fills what is looked at
                await asyncio.sleep(0.01)

    def topics(self) -> list[str]:
        """What it subscribes to."""
        return [f"acs/v1/+/+/{name}" for name in UP]

    def hear(self, prefix: str, name: str, payload: bytes) -> None:
        """Take a message of the gateway whose topics begin with `prefix`."""
        if name == "event":
            self._take(prefix, json.loads(payload))
        elif name == "health":
            self.health.append(json.loads(payload))
        else:
            self.retained[f"{prefix}/{name}"] = json.loads(payload)

    def acknowledge(self, prefix: str, stream: str, seq: int) -> None:
        """Say that it has everything of a stream up to `seq`."""
        self.publish(f"{prefix}/ack", json.dumps({"stream": stream, "seq": seq}).encode())

    def _on_connect(self, client: mqtt.Client, *_: object) -> None:
        client.subscribe([(topic, 1) for topic in self.topics()])

    def _on_subscribe(
        self, _client: mqtt.Client, _data: object, _mid: int, reasons: list[Any], *_: object
    ) -> None:
        told = zip(self.topics(), reasons, strict=False)
        self.rejected = [topic for topic, reason in told if reason.is_failure]
        self._connected.set()

    def _on_message(self, _client: mqtt.Client, _data: object, sent: mqtt.MQTTMessage) -> None:
        *prefix, name = sent.topic.split("/", 4)
        with self._lock:
            self.hear("/".join(prefix), name, bytes(sent.payload))

    def _take(self, prefix: str, batch: dict[str, Any]) -> None:
        stream = batch["stream"]
        self.messages += 1
        reached = self._reached.get(stream, 0)
        for numbered in batch["events"]:
            identity = (stream, numbered["seq"])
            if batch.get("urgent"):
                self.urgent.setdefault(identity, numbered["event"])
                continue
            if identity in self.events:
                self.duplicates += 1
                continue
            self.events[identity] = numbered["event"]
            before = numbered["seq"] - 1
            if before > self.begin.get(stream, 0) and (stream, before) not in self.events:
                self.out_of_order += 1
        while (stream, reached + 1) in self.events:
            reached += 1
        self._reached[stream] = reached
        if self.acknowledges and reached:
            self.acknowledge(prefix, stream, reached)
