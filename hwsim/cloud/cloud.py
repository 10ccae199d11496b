"""The cloud on a broker: sells, publishes, vouches, acknowledges, repairs and commands."""

import json
import secrets
import time
from dataclasses import KW_ONLY, dataclass, field
from typing import Any
from urllib.parse import quote, unquote

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from hwsim.cloud import events, records
from hwsim.cloud.events import EventCloud
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

UP = (*events.UP, "parity", "sync/need", "cmd/result")


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
class Cloud(EventCloud):
    """One site's source of truth.

    `acknowledges`, `vouches` and `answers` may be set to False: then it says nothing of that kind.
    """

    keyring: Keyring
    book: RecordBook
    _: KW_ONLY
    vouches: bool = True
    answers: bool = True
    gateways: dict[str, GatewayState] = field(default_factory=dict)
    sent_bytes: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._chunks: dict[str, bytes] = {}
        self._roots: dict[int, bytes] = {}
        self._signatures: dict[int, int] = {}

    # --- What it sells ----------------------------------------------------------------------------

    def register(self, gateway: str, key: Ed25519PublicKey | None = None) -> GatewayState:
        """A gateway of this site."""
        return self.gateways.setdefault(gateway, GatewayState(key))

    def sell(self, *, number: int | None = None, signatures: int = 1) -> Revision:
        """Publish what the book has now, to every gateway: a delta where there was one before."""
        with self._lock:
            before = self.book.current
            revision = self.book.publish(number)
            self._signatures[revision.number] = signatures
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
            self.tell(each, "sync/manifest", bundle.document)

    def rotate(self, keyring: Keyring) -> None:
        """Replace the key set."""
        document = keyring.root(also=self.keyring)
        self.keyring = keyring
        self._roots[keyring.version] = document
        for gateway in self.gateways:
            self.tell(gateway, "sync/manifest", document)

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
        self.tell(gateway, "cmd", message(claims, self.keyring.keys["command"][0], COMMAND))
        return cti

    def tell(self, gateway: str, name: str, payload: bytes, *, retain: bool = False) -> None:
        """Say something to a gateway, right or wrong."""
        self.sent_bytes += len(payload)
        self.publish(f"{self._site}/{quote(gateway, safe='')}/{name}", payload, retain=retain)

    @property
    def _site(self) -> str:
        return f"acs/v1/{quote(self.book.site, safe='')}"

    # --- What it hears ----------------------------------------------------------------------------

    def topics(self) -> list[str]:
        """What it subscribes to."""
        return [f"{self._site}/+/{name}" for name in UP]

    def hear(self, prefix: str, name: str, payload: bytes) -> None:
        """Take a message of the gateway whose topics begin with `prefix`."""
        gateway = unquote(prefix.rpartition("/")[2])
        state = self.register(gateway)
        match name:
            case "sync/need":
                self._take_need(gateway, state, json.loads(payload))
            case "parity":
                self._take_parity(gateway, state, self._read(state, payload, PARITY))
            case "cmd/result":
                result = self._read(state, payload, RESULT)
                if result is not None:
                    state.results[result["cti"]] = result
            case _:
                super().hear(prefix, name, payload)

    def acknowledge(self, prefix: str, stream: str, seq: int) -> None:
        """Say, signed, that it has everything of a stream up to `seq`."""
        gateway = unquote(prefix.rpartition("/")[2])
        ack = {
            "site": self.book.site,
            "gateway": gateway,
            "stream": stream,
            "seq": seq,
            "at": time.time_ns() // 1_000_000_000,
        }
        self.tell(gateway, "ack", message(ack, self.keyring.keys["freshness"][0], ACK))

    def _read(self, state: GatewayState, sealed: bytes, context: str) -> dict[str, Any] | None:
        if state.key is None:
            return None
        try:
            return opened(sealed, state.key, context)
        except ValueError:
            state.forged += 1
            return None

    def _take_need(self, gateway: str, state: GatewayState, need: dict[str, Any]) -> None:
        state.needs.append(need)
        if not self.answers:
            return
        for sha256 in need["chunks"]:
            if sha256 in self._chunks:
                self.tell(gateway, "sync/chunk", self._chunks[sha256])
        if need["root"] < self.keyring.version:
            # It asks again under that one; nothing else is taken before.
            if (successor := self._roots.get(need["root"] + 1)) is not None:
                self.tell(gateway, "sync/manifest", successor)
            return
        current = self.book.current
        if need["chunks"] or current is None or need["revision"] == current.number:
            return
        # What two have signed for is a step of its own: what came after it is not theirs.
        twice = [n for n, count in self._signatures.items() if count > 1]
        there = need["revision"] or 0
        step = max((n for n in twice if there < n <= current.number), default=current.number)
        revision, about = self.book.revisions[step], self.about(self._signatures[step])
        base = self.book.revisions.get(there)
        if base is not None and base.digest().hex() == need["digest"]:
            self.send(records.delta(revision, base, about), gateway)
        else:
            self.send(records.snapshot(revision, about), gateway)

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
        self.tell(gateway, "beacon", message(beacon, self.keyring.keys["freshness"][0], BEACON))
