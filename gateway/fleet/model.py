"""What is known of many gateways, from their messages alone: no broker, no clock, no terminal."""

import heapq
from collections import Counter, deque
from datetime import datetime, timedelta
from typing import Annotated, NamedTuple
from urllib.parse import unquote

import msgspec

from gateway.decoding import decode_with
from gateway.errors import GatewayError
from gateway.trust import cose

CONNECTED = "connected to "
"""How a line about the connection begins while there is a session."""

TOPICS = "acs/v1/+/+/#"
"""What a watcher subscribes to."""
PAYLOAD_BYTES_MAX = 1 << 20
"""Of a message: more is somebody's mistake, and is counted as malformed."""
GATEWAYS_MAX = 50_000
DOORS_MAX = 1_000
"""Of one gateway."""
DOORS_OF_ALL_MAX = 200_000
"""Of all gateways: four times what a site of each would have."""
ALARMS_KEPT = 500
"""The last ones of all sites: a screen shows forty."""
ALARMS_OF_ONE_KEPT = 100
"""Of those, of one gateway: a storm at one site hides no other's."""
EVENTS_MAX = 1_000
"""Events of one message: a gateway sends up to 100 at a time."""
ID_CHARACTERS_MAX = 256
TEXT_CHARACTERS_MAX = 1_000
PROBLEMS_MAX = 1_000
REPORT_BYTES_MAX = 64 * 1024
_REPORT_ITEMS_MAX = 8_192
"""Of a parity report, which counts the records of each type and of each door."""
SILENT_AFTER = timedelta(minutes=3)
"""Health comes every minute."""

ALARMS = frozenset(
    {"forced_open", "held_open", "duress", "break_glass", "tamper", "unlock_failed", "pin_lockout",
     "output_forced_off", "input_fault", "entitlements_refused", "journal_gap", "journal_restarted",
     "cache_rebuilt", "memory_damaged", "finding", "ordered"}
)  # fmt: skip
"""Event codes that are shown as they come."""


_Id = Annotated[str, msgspec.Meta(max_length=ID_CHARACTERS_MAX)]
_Text = Annotated[str, msgspec.Meta(max_length=TEXT_CHARACTERS_MAX)]
_Count = Annotated[int, msgspec.Meta(ge=0, lt=2**53)]
_Seq = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
_Instant = Annotated[datetime, msgspec.Meta(tz=True)]


class Door(msgspec.Struct):
    """A door as it last said it was: the retained state."""

    door: _Id
    mode: _Id
    locked: bool | None
    contact: _Id
    at: _Instant
    alarms: Annotated[list[_Id], msgspec.Meta(max_length=64)] = []
    readers_online: Annotated[dict[_Id, bool], msgspec.Meta(max_length=64)] = {}


class _Status(msgspec.Struct):
    online: bool
    core: bool | None = None


_Milliseconds = Annotated[float, msgspec.Meta(ge=0, le=1e9)]


class _Latency(msgspec.Struct):
    p50: _Milliseconds
    p99: _Milliseconds


class _Figures(msgspec.Struct):
    latency_ms: Annotated[dict[_Id, _Latency], msgspec.Meta(max_length=64)] = {}


class _Device(msgspec.Struct):
    online: bool


class _Health(msgspec.Struct):
    version: _Id
    revision: _Id | None
    as_of: _Instant | None
    at: _Instant
    trust: Annotated[int, msgspec.Meta(ge=0, le=3)]
    backlog: _Count
    problems: Annotated[list[_Text], msgspec.Meta(max_length=PROBLEMS_MAX)]
    devices: Annotated[dict[_Id, _Device], msgspec.Meta(max_length=10_000)] = {}
    figures: Annotated[dict[_Id, _Figures], msgspec.Meta(max_length=DOORS_MAX)] = {}


class _Event(msgspec.Struct):
    """Members of an event that the view shows; what else it has is not decoded."""

    code: _Id
    at: _Instant
    text: _Text | None = None
    door: _Text | None = None
    device: _Text | None = None
    scope: _Text | None = None
    why: _Text | None = None
    first: _Text | int | None = None

    def about(self) -> str:
        """Return what the event is about, in its own words."""
        if self.code == "finding":
            return self.text or ""
        named = (self.door, self.device, self.scope, self.why, self.first)
        return next((str(name) for name in named if name), "")


class _Numbered(msgspec.Struct):
    seq: _Seq
    event: _Event


class _Events(msgspec.Struct):
    stream: _Id
    events: Annotated[list[_Numbered], msgspec.Meta(max_length=EVENTS_MAX)]
    urgent: bool = False
    """Ahead of the backlog: each comes again at its place in the sequence."""


class _Report(msgspec.Struct):
    """The set that a beacon wants in force, or a parity report says is."""

    revision: _Count | None
    digest: Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)] | None


class _Position(msgspec.Struct):
    stream: str
    last: int = 0
    ahead: set[int] = msgspec.field(default_factory=set)


class Alarm(NamedTuple):
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
    since: datetime | None = None
    """When its verdict last changed, by the watcher's clock."""
    last_verdict: str | None = None

    def readers_away(self) -> bool:
        """Whether a door says that one of its readers is away."""
        return not all(all(door.readers_online.values()) for door in self.doors.values())

    def alarms(self) -> list[str]:
        """What stands now, a word each with its door."""
        return [f"{name}: {alarm}" for name, door in self.doors.items() for alarm in door.alarms]

    def verdict(self, now: datetime) -> str:
        """The one word for it: `offline`, `silent`, `alarm`, `problem`, `waiting` (no health has
        come yet, so nothing is known) or `well`.
        """
        if self.online is False:
            return "offline"
        if self.heard is None or now - self.heard > SILENT_AFTER:
            return "silent"
        if self.alarms():
            return "alarm"
        if self.core is False or self.problems or self.parity == "differs" or self.readers_away():
            return "problem"
        return "waiting" if self.health is None else "well"


_WORST_FIRST = ("alarm", "offline", "silent", "problem", "waiting", "well")


class Fleet:
    """Told of each message by `take`; knows the last of each gateway, and the last alarms."""

    def __init__(self, site: str | None = None, gateway: str | None = None) -> None:
        """With `site` or `gateway` all others are left out."""
        self._only = (site, gateway)
        self.gateways: dict[tuple[str, str], Gateway] = {}
        self.recent: deque[Alarm] = deque(maxlen=ALARMS_KEPT)
        self.malformed = 0
        self.beyond = 0
        """Messages of gateways beyond `GATEWAYS_MAX`, and of doors beyond their bounds."""
        self._doors = 0
        self._recent_of = Counter[tuple[str, str]]()
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
        if any(
            only not in (None, name) for only, name in zip(self._only, (site, gateway), strict=True)
        ):
            return
        too_long = max(map(len, (site, gateway, *what))) > ID_CHARACTERS_MAX
        if len(payload) > PAYLOAD_BYTES_MAX or too_long:
            self.malformed += 1
            return
        known = self._known(site, gateway)
        if known is None:
            self.beyond += 1
            return
        try:
            self._told(known, what, payload, now)
        except (GatewayError, msgspec.ValidationError, ArithmeticError):
            self.malformed += 1

    def sorted(self, now: datetime) -> list[Gateway]:
        """The worst first, then by name."""
        for known in self.gateways.values():
            if (verdict := known.verdict(now)) != known.last_verdict:
                known.last_verdict, known.since = verdict, now
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
                status = decode_with(_statuses, payload)
                known.online, known.core = status.online, status.core
                known.heard = now if status.online else known.heard
            case ["door", door, "state"]:
                # Retained: it may be of any age, so it is no sign of life.
                self._door(known, unquote(door), payload)
            case ["health"]:
                self._healthy(known, decode_with(_healths, payload), now)
            case ["event"]:
                self._events(known, decode_with(_events, payload), now)
            case ["parity" | "beacon" as kind]:
                self._compare(known, kind, payload, now)
            case _:
                known.heard = now

    def _door(self, known: Gateway, name: str, payload: bytes) -> None:
        if not payload:  # cleared on the broker: the site has it no more
            self._doors -= known.doors.pop(name, None) is not None
            return
        is_new = name not in known.doors
        if is_new and (len(known.doors) >= DOORS_MAX or self._doors >= DOORS_OF_ALL_MAX):
            self.beyond += 1
            return
        known.doors[name] = decode_with(_doors, payload)
        self._doors += is_new

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
            code, at = each.event.code, each.event.at
            if code in ALARMS and each.seq not in position.ahead:
                self._remember(Alarm(*key, code, each.event.about(), at, each.seq))
            if batch.urgent:
                position.ahead.add(each.seq)
            else:
                position.last = each.seq
                position.ahead.discard(each.seq)
                known.lag_s = max(0.0, (now - at).total_seconds())
        if len(position.ahead) > ALARMS_KEPT:
            position.ahead = set(heapq.nlargest(ALARMS_KEPT, position.ahead))

    def _remember(self, alarm: Alarm) -> None:
        mine = (alarm.site, alarm.gateway)
        if self._recent_of[mine] >= ALARMS_OF_ONE_KEPT:
            del self.recent[next(n for n, old in enumerate(self.recent) if old[:2] == mine)]
        elif len(self.recent) == ALARMS_KEPT:
            oldest = self.recent.popleft()
            self._recent_of[oldest[:2]] -= 1
            self._recent_of[mine] += 1
        else:
            self._recent_of[mine] += 1
        self.recent.append(alarm)

    def _compare(self, known: Gateway, kind: str, payload: bytes, now: datetime) -> None:
        """By what both say; the cloud, which acts on it, verifies their signatures."""
        payload = cose.parse1(payload, bytes_max=REPORT_BYTES_MAX).payload
        body = cose.decode(payload, bytes_max=REPORT_BYTES_MAX, items_max=_REPORT_ITEMS_MAX)
        report = msgspec.convert(body, _Report)
        reports = self._reports.setdefault((known.site, known.gateway), {})
        reports[kind] = (report.revision or 0, report.digest or b"")
        if kind == "parity":
            known.heard = now
        if len(reports) == 2:
            wanted, enforced = reports["beacon"], reports["parity"]
            known.parity = (
                "same" if wanted == enforced else "behind" if enforced[0] < wanted[0] else "differs"
            )


_statuses = msgspec.json.Decoder(_Status)
_doors = msgspec.json.Decoder(Door)
_healths = msgspec.json.Decoder(_Health)
_events = msgspec.json.Decoder(_Events)
