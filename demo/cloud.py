"""A cloud with nothing but a memory: it keeps each event once and acknowledges what has no gap."""

import asyncio
import json
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Self

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

Retained = dict[str, dict[str, Any]]


@dataclass
class Cloud:
    """Subscribes to every gateway's topics on a broker, on paho's own thread.

    `acknowledges` may be set to False: then it listens and says nothing.
    """

    host: str
    port: int
    context: ssl.SSLContext | None = None
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
    retained: Retained = field(default_factory=dict)
    """The last status and door states, by topic."""
    health: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._reached = dict(self.begin)
        self._connected = threading.Event()
        # The broker keeps the session while we are away: a gateway that is back before us is heard.
        self._client = mqtt.Client(
            CallbackAPIVersion.VERSION2, client_id="cloud", clean_session=False
        )
        if self.context is not None:
            self._client.tls_set_context(self.context)
        self._client.reconnect_delay_set(1, 1)
        self._client.on_connect = self._on_connect
        self._client.on_subscribe = lambda *_: self._connected.set()
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

    def _on_connect(self, client: mqtt.Client, *_: object) -> None:
        client.subscribe(
            [(f"acs/v1/+/+/{what}", 1) for what in ("event", "status", "health", "door/+/state")]
        )

    def _on_message(self, _client: mqtt.Client, _data: object, message: mqtt.MQTTMessage) -> None:
        prefix, _, what = message.topic.rpartition("/")
        if what == "event":
            self._take(prefix, json.loads(message.payload))
        elif what == "health":
            self.health.append(json.loads(message.payload))
        else:
            self.retained[message.topic] = json.loads(message.payload)

    def _take(self, prefix: str, batch: dict[str, Any]) -> None:
        stream = batch["stream"]
        with self._lock:
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
            ack = json.dumps({"stream": stream, "seq": reached}).encode()
            self._client.publish(f"{prefix}/ack", ack, qos=1)
