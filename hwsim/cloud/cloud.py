"""The cloud on a broker: sells, publishes, vouches, acknowledges, repairs and commands."""

import asyncio
import json
import secrets
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Self
from urllib.parse import quote, unquote

import paho.mqtt.client as mqtt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from paho.mqtt.enums import CallbackAPIVersion

from hwsim.cloud import records
from hwsim.cloud.keyring import Keyring
from hwsim.cloud.records import About, Bundle, RecordBook, Revision
from hwsim.cloud.signing import message, opened

ACK = "door-gateway/ack/v1"
BEACON = "door-gateway/beacon/v1"
COMMAND = "door-gateway/command/v1"
PARITY = "door-gateway/parity/v1"
RESULT = "door-gateway/result/v1"

BUNDLE_LIFE_S = 30 * 86_400
BEACON_LIFE_S = 3600
COMMAND_LIFE_S = {"unlock": 30, "release": 30, "evacuation": 30, "mode": 30}
COMMAND_LIFE_S_ELSE = 600
REPORT_APART_S_MAX = 60
"""How far a report's time may be from ours: clocks that both know the time, and the way here."""
TRUST_MIN = 2
"""Of a report: T2, from which on its gateway knows the time."""

UP = ("event", "status", "health", "door/+/state", "parity", "sync/need", "cmd/result")


@dataclass
class GatewayState:
    """What the cloud has heard of one gateway."""

    key: Ed25519PublicKey | None = None
    """Its own key, as the installer has registered it; None: its reports are believed unread."""
    parity: list[dict[str, Any]] = field(default_factory=list)
    """Each newer than the one before."""
    needs: list[dict[str, Any]] = field(default_factory=list)
    results: dict[bytes, dict[str, Any]] = field(default_factory=dict)
    """By `cti`."""
    repairs: int = 0
    forged: int = 0
    """Reports that its key has not signed."""
    stale: int = 0
    """Reports that may be replays, or are of a time that the gateway itself doesn't trust."""


@dataclass
class Cloud:
    """One site's source of truth, on paho's own thread.

    `acknowledges`, `vouches` and `answers` may be set to False: then it says nothing of that kind.
    """

    host: str
    port: int
    keyring: Keyring
    book: RecordBook
    context: ssl.SSLContext | None = None
    login: tuple[str, str] | None = None
    name: str = "cloud"
    acknowledges: bool = True
    vouches: bool = True
    answers: bool = True
    gateways: dict[str, GatewayState] = field(default_factory=dict)
    events: dict[tuple[str, int], dict[str, Any]] = field(default_factory=dict)
    """By (stream, seq), in the order in which they came first."""
    duplicates: int = 0
    retained: dict[str, Any] = field(default_factory=dict)
    health: list[dict[str, Any]] = field(default_factory=list)
    rejected: list[str] = field(default_factory=list)
    """Topics that the broker refused us."""
    sent_bytes: int = 0

    def __post_init__(self) -> None:
        self._lock = threading.RLock()
        self._reached: dict[str, int] = {}
        self._connected = threading.Event()
        self._chunks: dict[str, bytes] = {}
        self._roots: dict[int, bytes] = {}
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

    async def until(self, seen: Callable[[], object], limit_s: float = 20.0) -> None:
        """Wait until it is so. Raises TimeoutError."""
        async with asyncio.timeout(limit_s):
            while not seen():  # noqa: ASYNC110 - paho's thread fills what is looked at
                await asyncio.sleep(0.01)

    # --- What it sells ----------------------------------------------------------------------------

    def register(self, gateway: str, key: Ed25519PublicKey | None = None) -> GatewayState:
        """A gateway of this site."""
        return self.gateways.setdefault(gateway, GatewayState(key))

    def sell(self, *, number: int | None = None, signatures: int = 1) -> Revision:
        """Publish what the book has now, to every gateway: a delta where there was one before."""
        with self._lock:
            before = self.book.current
            revision = self.book.publish(number)
            about = self.about(signatures)
            if before is None:
                self.send(records.snapshot(revision, about))
            else:
                self.send(records.delta(revision, before, about))
            for gateway in self.gateways:
                self._beacon(gateway, None)
        return revision

    def about(self, signatures: int = 1) -> About:
        """For every gateway, from now on."""
        now = time.time_ns() // 1_000_000_000
        keys = self.keyring.keys["bundle"][:signatures]
        return About(self.book.site, list(self.gateways), now, now + BUNDLE_LIFE_S, keys)

    def send(self, bundle: Bundle, gateway: str | None = None) -> None:
        """A document to one gateway or all; its chunks when they are asked for."""
        self._chunks |= {sha256.hex(): data for sha256, data in bundle.chunks.items()}
        for each in self.gateways if gateway is None else [gateway]:
            self.publish(each, "sync/manifest", bundle.document)

    def rotate(self, keyring: Keyring) -> None:
        """Replace the key set."""
        document = keyring.root(also=self.keyring)
        self.keyring = keyring
        self._roots[keyring.version] = document
        for gateway in self.gateways:
            self.publish(gateway, "sync/manifest", document)

    def command(self, gateway: str, act: str, **more: Any) -> bytes:
        """Order something; the result will be in `results` under what this returns."""
        now = time.time_ns() // 1_000_000_000
        cti = secrets.token_bytes(16)
        claims: dict[Any, Any] = {
            3: f"{self.book.site}/{gateway}",
            4: now + COMMAND_LIFE_S.get(act, COMMAND_LIFE_S_ELSE),
            6: now,
            7: cti,
            "act": act,
            "by": "operator",
            "why": "because it was asked for",
            **more,
        }
        self.publish(gateway, "cmd", message(claims, self.keyring.keys["command"][0], COMMAND))
        return cti

    def publish(self, gateway: str, name: str, payload: bytes, *, retain: bool = False) -> None:
        """Say something to a gateway, right or wrong."""
        topic = f"acs/v1/{quote(self.book.site, safe='')}/{quote(gateway, safe='')}/{name}"
        self.sent_bytes += len(payload)
        self._client.publish(topic, payload, qos=1, retain=retain)

    def reached(self, stream: str) -> int:
        """Up to which sequence number it has everything of the stream."""
        with self._lock:
            return self._reached.get(stream, 0)

    # --- What it hears ----------------------------------------------------------------------------

    def _on_connect(self, client: mqtt.Client, *_: object) -> None:
        site = quote(self.book.site, safe="")
        client.subscribe([(f"acs/v1/{site}/+/{name}", 1) for name in UP])

    def _on_subscribe(
        self, _client: mqtt.Client, _data: object, _mid: int, reasons: list[Any], *_: object
    ) -> None:
        self.rejected = [
            name for name, reason in zip(UP, reasons, strict=True) if reason.is_failure
        ]
        self._connected.set()

    def _on_message(self, _client: mqtt.Client, _data: object, sent: mqtt.MQTTMessage) -> None:
        _, _, _, gateway, name = sent.topic.split("/", 4)
        gateway = unquote(gateway)
        with self._lock:
            state = self.register(gateway)
            match name:
                case "event":
                    self._take_events(gateway, json.loads(sent.payload))
                case "sync/need":
                    self._take_need(gateway, state, json.loads(sent.payload))
                case "parity":
                    self._take_parity(
                        gateway, state, self._read(state, bytes(sent.payload), PARITY)
                    )
                case "cmd/result":
                    result = self._read(state, bytes(sent.payload), RESULT)
                    if result is not None:
                        state.results[result["cti"]] = result
                case "health":
                    self.health.append(json.loads(sent.payload))
                case _:
                    self.retained[sent.topic] = json.loads(sent.payload)

    def _read(self, state: GatewayState, sealed: bytes, context: str) -> dict[str, Any] | None:
        if state.key is None:
            return None
        try:
            return opened(sealed, state.key, context)
        except ValueError:
            state.forged += 1
            return None

    def _take_events(self, gateway: str, batch: dict[str, Any]) -> None:
        stream = batch["stream"]
        if not batch.get("urgent"):
            for numbered in batch["events"]:
                identity = (stream, numbered["seq"])
                self.duplicates += identity in self.events
                self.events.setdefault(identity, numbered["event"])
            reached = self._reached.get(stream, 0)
            while (stream, reached + 1) in self.events:
                reached += 1
            self._reached[stream] = reached
        if self.acknowledges and self._reached.get(stream):
            ack = {
                "site": self.book.site,
                "gateway": gateway,
                "stream": stream,
                "seq": self._reached[stream],
                "at": time.time_ns() // 1_000_000_000,
            }
            self.publish(gateway, "ack", message(ack, self.keyring.keys["freshness"][0], ACK))

    def _take_need(self, gateway: str, state: GatewayState, need: dict[str, Any]) -> None:
        state.needs.append(need)
        if not self.answers:
            return
        for sha256 in need["chunks"]:
            if sha256 in self._chunks:
                self.publish(gateway, "sync/chunk", self._chunks[sha256])
        if need["root"] < self.keyring.version:
            # It asks again under that one; nothing else is taken before.
            if (successor := self._roots.get(need["root"] + 1)) is not None:
                self.publish(gateway, "sync/manifest", successor)
            return
        revision = self.book.current
        if need["chunks"] or revision is None or need["revision"] == revision.number:
            return
        base = self.book.revisions.get(need["revision"] or 0)
        if base is not None and base.digest().hex() == need["digest"]:
            self.send(records.delta(revision, base, self.about()), gateway)
        else:
            self.send(records.snapshot(revision, self.about()), gateway)

    def _take_parity(
        self, gateway: str, state: GatewayState, report: dict[str, Any] | None
    ) -> None:
        if report is None or (report["site"], report["gateway"]) != (self.book.site, gateway):
            return
        # Whatever its age: a gateway whose clock is wrong learns the time by it, and of a replay
        # the nonce is used up.
        self._beacon(gateway, report["nonce"])
        if not self._is_news(state, report):
            state.stale += 1
            return
        state.parity.append(report)
        revision = self.book.current
        theirs = report.get("buckets")
        if revision is None or theirs is None or report["revision"] != revision.number:
            return
        ours = revision.bucket_hashes()
        differ = [n for n in range(256) if theirs[32 * n : 32 * n + 32] != ours[n]]
        if differ and self.answers:
            state.repairs += 1
            self.send(records.repair(revision, differ, self.about()), gateway)

    @staticmethod
    def _is_news(state: GatewayState, report: dict[str, Any]) -> bool:
        at_ms, now_ms = report["at_ms"], time.time_ns() // 1_000_000
        return (
            report["trust"] >= TRUST_MIN
            and abs(at_ms - now_ms) <= REPORT_APART_S_MAX * 1000
            and (not state.parity or at_ms > state.parity[-1]["at_ms"])
        )

    def _beacon(self, gateway: str, nonce: bytes | None) -> None:
        revision = self.book.current
        if not self.vouches or revision is None:
            return
        now_ms = time.time_ns() // 1_000_000
        beacon = {
            "site": self.book.site,
            "gateway": gateway,
            "revision": revision.number,
            "digest": revision.digest(),
            "now_ms": now_ms,
            "expires": now_ms // 1000 + BEACON_LIFE_S,
            "nonce": nonce,
            "root": self.keyring.version,
        }
        self.publish(gateway, "beacon", message(beacon, self.keyring.keys["freshness"][0], BEACON))
