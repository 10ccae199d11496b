"""What is known of many gateways, from their messages alone: no broker, no clock, no terminal."""

from collections import deque
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import unquote

import msgspec

from gateway.errors import GatewayError
from gateway.trust import cose

TOPICS = "acs/v1/+/+/#"
"""What a watcher subscribes to."""
PAYLOAD_BYTES_MAX = 1 << 20
"""Of a message: more is somebody's mistake, and is counted as malformed."""
GATEWAYS_MAX = 50_000
DOORS_MAX = 1_000
"""Of one gateway."""
ALARMS_KEPT = 500
"""The last ones of all sites: a screen shows forty."""
SILENT_AFTER = timedelta(minutes=3)
"""Health comes every minute."""

ALARMS = frozenset(
    {"forced_open", "held_open", "duress", "break_glass", "tamper", "unlock_failed", "pin_lockout",
     "output_forced_off", "input_fault", "entitlements_refused", "journal_gap", "journal_restarted",
     "cache_rebuilt", "finding", "ordered"}
)  # fmt: skip
"""Event codes that are shown as they come."""


class Door(msgspec.Struct):
    """A door as it last said it was: the retained state."""

    door: str
    mode: str
    locked: bool | None
    contact: str
    at: datetime
    alarms: list[str] = []
    readers_online: dict[str, bool] = {}


class _Status(msgspec.Struct):
    online: bool
    core: bool | None = None


class _Latency(msgspec.Struct):
    p50: float
    p99: float


class _Figures(msgspec.Struct):
    latency_ms: dict[str, _Latency] = {}


class _Device(msgspec.Struct):
    online: bool


class _Health(msgspec.Struct):
    version: str
    revision: str | None
    as_of: datetime | None
    at: datetime
    trust: int
    backlog: int
    problems: list[str]
    devices: dict[str, _Device] = {}
    figures: dict[str, _Figures] = {}


class _Numbered(msgspec.Struct):
    seq: int
    event: dict[str, Any]


class _Events(msgspec.Struct):
    stream: str
    events: list[_Numbered]
    urgent: bool = False
    """Ahead of the backlog: each comes again at its place in the sequence."""


class _Position(msgspec.Struct):
    stream: str
    last: int = 0
    ahead: set[int] = msgspec.field(default_factory=set)


class Alarm(msgspec.Struct, frozen=True):
    """An event that somebody should look at."""

    site: str
    gateway: str
    code: str
    about: str
    """The door, device or finding that it is about."""
    at: datetime
    seq: int


class Gateway(msgspec.Struct):
    """What is known of one gateway. Null is: it has not said."""

    site: str
    gateway: str
    online: bool | None = None
    core: bool | None = None
    version: str | None = None
    revision: str | None = None
    as_of: datetime | None = None
    trust: int | None = None
    backlog: int | None = None
    problems: list[str] = []
    devices_away: list[str] = []
    p50_ms: float | None = None
    """Last byte of a credential to the strike's confirmation, of its slowest door."""
    p99_ms: float | None = None
    heard: datetime | None = None
    """When its last message of any kind came, by the watcher's clock."""
    health: datetime | None = None
    lag_s: float | None = None
    """How old its newest event was when it came."""
    parity: str | None = None
    """`same`, `behind` or `differs`, by its own report and the beacon to it."""
    doors: dict[str, Door] = {}

    def alarms(self) -> list[str]:
        """What stands now, a word each with its door."""
        return [f"{name}: {alarm}" for name, door in self.doors.items() for alarm in door.alarms]

    def verdict(self, now: datetime) -> str:
        """The one word for it: `offline`, `silent`, `alarm`, `problem` or `well`."""
        if self.online is False:
            return "offline"
        if self.heard is None or now - self.heard > SILENT_AFTER:
            return "silent"
        if self.alarms():
            return "alarm"
        if self.core is False or self.problems or self.parity == "differs":
            return "problem"
        return "well"


_WORST_FIRST = ("alarm", "offline", "silent", "problem", "well")


class Fleet:
    """Told of each message by `take`; knows the last of each gateway, and the last alarms."""

    def __init__(self) -> None:
        self.gateways: dict[tuple[str, str], Gateway] = {}
        self.recent: deque[Alarm] = deque(maxlen=ALARMS_KEPT)
        self.malformed = 0
        self.beyond = 0
        """Messages of gateways beyond `GATEWAYS_MAX`, which are not shown."""
        self._positions: dict[tuple[str, str], _Position] = {}
        self._reports: dict[tuple[str, str], dict[str, tuple[int, bytes]]] = {}

    def take(self, topic: str, payload: bytes, now: datetime) -> None:
        """A message came. What is malformed is counted and changes nothing."""
        levels = topic.split("/")
        if len(levels) < 5 or levels[:2] != ["acs", "v1"]:
            return
        site, gateway, what = unquote(levels[2]), unquote(levels[3]), levels[4:]
        if what[0] in ("ack", "cmd", "sync"):
            return  # not the gateway's own word
        if len(payload) > PAYLOAD_BYTES_MAX:
            self.malformed += 1
            return
        known = self._known(site, gateway)
        if known is None:
            self.beyond += 1
            return
        try:
            self._told(known, what, payload, now)
        except (msgspec.DecodeError, GatewayError, ValueError, TypeError, KeyError):
            self.malformed += 1

    def sorted(self, now: datetime) -> list[Gateway]:
        """The worst first, then by name."""
        return sorted(
            self.gateways.values(),
            key=lambda each: (_WORST_FIRST.index(each.verdict(now)), each.site, each.gateway),
        )

    def _known(self, site: str, gateway: str) -> Gateway | None:
        key = (site, gateway)
        if key not in self.gateways and len(self.gateways) >= GATEWAYS_MAX:
            return None
        return self.gateways.setdefault(key, Gateway(site, gateway))

    def _told(self, known: Gateway, what: list[str], payload: bytes, now: datetime) -> None:
        match what:
            case ["status"]:
                status = _statuses.decode(payload)
                known.online, known.core = status.online, status.core
                known.heard = now if status.online else known.heard
            case ["door", door, "state"]:
                if len(known.doors) < DOORS_MAX or unquote(door) in known.doors:
                    # Retained: it may be of any age, so it is no sign of life.
                    known.doors[unquote(door)] = _doors.decode(payload)
            case ["health"]:
                self._healthy(known, _healths.decode(payload), now)
            case ["event"]:
                self._events(known, _events.decode(payload), now)
            case ["parity" | "beacon" as kind]:
                self._compare(known, kind, payload, now)
            case _:
                known.heard = now

    def _healthy(self, known: Gateway, health: _Health, now: datetime) -> None:
        known.heard = known.health = now
        known.version, known.revision, known.as_of = health.version, health.revision, health.as_of
        known.trust, known.backlog, known.problems = health.trust, health.backlog, health.problems
        known.devices_away = [name for name, each in health.devices.items() if not each.online]
        taken = [
            each.latency_ms["release"]
            for each in health.figures.values()
            if "release" in each.latency_ms
        ]
        known.p50_ms = max((each.p50 for each in taken), default=None)
        known.p99_ms = max((each.p99 for each in taken), default=None)

    def _events(self, known: Gateway, batch: _Events, now: datetime) -> None:
        known.heard = now
        key = (known.site, known.gateway)
        position = self._positions.get(key)
        if position is None or position.stream != batch.stream:
            position = self._positions[key] = _Position(batch.stream)
        for each in batch.events:
            if each.seq <= position.last or (batch.urgent and each.seq in position.ahead):
                continue  # sent again
            code, at = str(each.event["code"]), datetime.fromisoformat(each.event["at"])
            if code in ALARMS and each.seq not in position.ahead:
                self.recent.append(Alarm(*key, code, _about(each.event), at, each.seq))
            if batch.urgent:
                position.ahead.add(each.seq)
            else:
                position.last = each.seq
                position.ahead.discard(each.seq)
                known.lag_s = max(0.0, (now - at).total_seconds())
        while len(position.ahead) > ALARMS_KEPT:
            position.ahead.remove(min(position.ahead))

    def _compare(self, known: Gateway, kind: str, payload: bytes, now: datetime) -> None:
        """By what both say; the cloud, which acts on it, verifies their signatures."""
        body = cose.decode(cose.parse1(payload).payload, bytes_max=PAYLOAD_BYTES_MAX)
        if not isinstance(body, dict):
            raise TypeError("no map")
        reports = self._reports.setdefault((known.site, known.gateway), {})
        reports[kind] = (int(body["revision"] or 0), bytes(body["digest"] or b""))
        if kind == "parity":
            known.heard = now
        if len(reports) == 2:
            wanted, enforced = reports["beacon"], reports["parity"]
            known.parity = (
                "same" if wanted == enforced else "behind" if enforced[0] < wanted[0] else "differs"
            )


def _about(event: Mapping[str, Any]) -> str:
    if event["code"] == "finding":
        return str(event["text"])
    for member in ("door", "device", "scope", "why", "first"):
        if event.get(member):
            return str(event[member])
    return ""


_statuses = msgspec.json.Decoder(_Status)
_doors = msgspec.json.Decoder(Door)
_healths = msgspec.json.Decoder(_Health)
_events = msgspec.json.Decoder(_Events)
