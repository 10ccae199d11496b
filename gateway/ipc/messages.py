"""What is said on the socket: requests of a client, answers of the core, both numbered.

A client numbers its requests; every answer carries the number of its request. `WatchDoors` is
answered by a report now and at every change until `Cancel` with the same number. Everything else
gets one answer, which may be a `Problem`. The first request is `Hello`.
"""

from datetime import datetime
from typing import Annotated, Literal, NamedTuple

import msgspec

from gateway.decoding import decode_with

PROTOCOL_VERSION = 1

FETCH_EVENTS_MAX = 1_000
"""The most events of one `Fetch`: what one read of the journal should cost at most."""

FETCH_BYTES_MAX = 256 * 1024
"""The most bytes of event bodies in one answer; the first event is always in it."""

FETCH_WAIT_S_MAX = 60.0
"""The longest a `Fetch` waits for events: after that an empty answer shows that all is well."""

IMPORT_CHUNK_BYTES = 256 * 1024
"""The most bytes of one `ImportChunk`."""

IMPORT_BYTES_MAX = 64 * 1024 * 1024
"""The largest file of entitlement records: some three times a site of 100,000 credentials."""

IMPORT_FAULTS_MAX = 1_000
"""The most faults told of one refused import: more than anybody reads, less than a frame holds."""

STREAM_CHARS_MAX = 64
"""The longest id of a journal's stream."""

Number = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
"""The number of a request: from 1, each used once a connection."""

Seq = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
"""A sequence number of the journal, dense from 1; 0 stands before the first event."""

Stream = Annotated[str, msgspec.Meta(min_length=1, max_length=STREAM_CHARS_MAX)]


class _Message(msgspec.Struct, frozen=True, kw_only=True, tag_field="m", omit_defaults=True):
    pass


# --- Requests -------------------------------------------------------------------------------------


class Hello(_Message, frozen=True, tag="hello"):
    """Who is there. `role` (link, cli, console) is for the log: rights go by the peer's uid."""

    version: int
    role: Annotated[str, msgspec.Meta(max_length=32)]
    login: Annotated[str, msgspec.Meta(max_length=64)] | None = None
    """Who logged in to start this process, by its own word: used where the kernel doesn't tell."""
    claimed: Annotated[str, msgspec.Meta(max_length=64)] | None = None
    """The name that a person at a shared login gives."""


class Cancel(_Message, frozen=True, tag="cancel"):
    """The request of this number is no longer wanted; it gets no more answers."""


class Fetch(_Message, frozen=True, tag="fetch"):
    """The journal's events after `after`, oldest first; answered by `Events`."""

    after: Seq
    limit: Annotated[int, msgspec.Meta(ge=1, le=FETCH_EVENTS_MAX)] = 100
    bytes_max: Annotated[int, msgspec.Meta(ge=1, le=FETCH_BYTES_MAX)] = FETCH_BYTES_MAX
    wait_s: Annotated[float, msgspec.Meta(ge=0, le=FETCH_WAIT_S_MAX)] = 0.0
    """How long to wait for the first event where there is none yet."""


class FetchUrgent(_Message, frozen=True, tag="fetch_urgent"):
    """The journal's alarms and emergencies after `after`, oldest first; answered by
    `UrgentEvents`.
    """

    after: Seq
    limit: Annotated[int, msgspec.Meta(ge=1, le=FETCH_EVENTS_MAX)] = 20
    wait_s: Annotated[float, msgspec.Meta(ge=0, le=FETCH_WAIT_S_MAX)] = 0.0
    """How long to wait for the first where there is none yet."""


class ReportAck(_Message, frozen=True, tag="report_ack"):
    """Somebody acknowledged events that were never sent; answered by `Acknowledged`."""

    stream: Stream
    seq: Seq


class Acknowledge(_Message, frozen=True, tag="acknowledge"):
    """The cloud has every event of `stream` up to `seq`; answered by `Acknowledged`."""

    stream: Stream
    seq: Seq


SEALED_BYTES_MAX = 512 * 1024
"""The largest sealed envelope: a chunk of a bundle has half of it."""

Envelope = Annotated[bytes, msgspec.Meta(max_length=SEALED_BYTES_MAX)]


class Deliver(_Message, frozen=True, tag="deliver"):
    """Something sealed came from the broker. The core alone judges it: answered by `Delivered`
    once it is taken in, whatever is thought of it.
    """

    topic: Literal["ack", "beacon", "cmd", "sync/manifest", "sync/chunk"]
    sealed: Envelope
    retained: bool = False


REASON_CHARS_MAX = 500
"""The longest reason in a report of the link: two lines of a terminal."""

REFUSED_TOPICS_MAX = 8
"""Topics in one report: more of them have the same cause."""

Reason = Annotated[str, msgspec.Meta(max_length=REASON_CHARS_MAX)]

_RefusedTopics = Annotated[
    dict[Annotated[str, msgspec.Meta(max_length=1_024)], Reason],
    msgspec.Meta(max_length=REFUSED_TOPICS_MAX),
]


class SessionSaid(_Message, frozen=True, tag="session"):
    """The link's session with the broker, at each change and a few times a minute; answered by
    `Delivered`.
    """

    there: bool
    since_s: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    """When the session began or, without one, ended: CLOCK_MONOTONIC, which both processes read."""
    reason: Reason | None = None
    """The last failure: of connecting, or of the session before this one."""
    lost: Annotated[int, msgspec.Meta(ge=0)] = 0
    """Sessions that were lost in the last minutes."""
    refused: _RefusedTopics = {}
    """Topics that the broker doesn't let this gateway write to, with its reason."""
    events_refused: Annotated[int, msgspec.Meta(ge=0)] = 0
    """Batches of events that the broker refused, since the link's start."""
    unheard: bool = False
    """The broker says that nobody is subscribed to the events."""


class WatchOutbox(_Message, frozen=True, tag="watch_outbox"):
    """What the core wants published, as it comes: `Outgoing`s until `Cancel`."""


class WatchDoors(_Message, frozen=True, tag="watch_doors"):
    """Every door's state now and whenever it changes: `DoorStateReport`s until `Cancel`."""


class StatusWanted(_Message, frozen=True, tag="status_wanted"):
    """How the gateway is; answered by `Status`."""


Why = Annotated[str, msgspec.Meta(min_length=3, max_length=200)]
"""A reason, as the person gives it who orders something: journaled as it is."""

Id = Annotated[str, msgspec.Meta(max_length=256)]
"""The id of a record; empty where the whole site is meant."""

HAND_S_MAX = 24 * 3600
"""The longest that a mode set by hand lasts: whoever wants more says so again tomorrow."""

PREVIEW_DAYS_MAX = 366
"""A year: the core looks through it while taps wait."""


class Order(_Message, frozen=True, tag="order"):
    """Set or end a mode by hand; answered by `Obeyed`.

    `controlled`, `unlocked` and `blocked` are for one door and for `seconds`; `lockdown` and
    `evacuation` stand until `release` of the same scope, also over restarts.
    """

    scope: Literal["site", "zone", "door"]
    id: Id
    mode: Literal["controlled", "unlocked", "blocked", "lockdown", "evacuation", "release"]
    why: Why
    seconds: Annotated[int, msgspec.Meta(ge=1, le=HAND_S_MAX)] | None = None


class OpenOnce(_Message, frozen=True, tag="open_once"):
    """Release a door for its own unlock time, once; answered by `Opened`, or by a `Problem` that
    says why not.
    """

    door: Id
    why: Why


class Forgive(_Message, frozen=True, tag="forgive"):
    """Forget a holder's place and PIN lockout, or who is counted in a zone, or renew the hours of
    a break-glass role; answered by `Obeyed`.
    """

    why: Why
    holder: Id | None = None
    zone: Id | None = None
    role: Id | None = None


class ExportWanted(_Message, frozen=True, tag="export_wanted"):
    """The journal is to be exported; answered by `ExportHead`."""


class ProofWanted(_Message, frozen=True, tag="proof_wanted"):
    """Events after `after` with what they are chained by; answered by `Proof`."""

    after: Seq
    limit: Annotated[int, msgspec.Meta(ge=1, le=FETCH_EVENTS_MAX)] = 200


class SealWanted(_Message, frozen=True, tag="seal_wanted"):
    """The gateway's signature on the events after `after` up to `seq`; answered by `Sealed`."""

    after: Seq
    seq: Seq


class Erase(_Message, frozen=True, tag="erase"):
    """Delete what the journal tells of a holder; answered by `Erased`."""

    holder: Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
    why: Why


class MusterWanted(_Message, frozen=True, tag="muster_wanted"):
    """Who is in which zone; answered by `Muster`."""


class PreviewWanted(_Message, frozen=True, tag="preview_wanted"):
    """When a door's schedule unlocks and locks it, from now on; answered by `Preview`."""

    door: Id
    days: Annotated[int, msgspec.Meta(ge=1, le=PREVIEW_DAYS_MAX)] = 7


class ImportBegin(_Message, frozen=True, tag="import_begin"):
    """A set of entitlement records of `size` bytes follows; answered by `Proceed`."""

    size: Annotated[int, msgspec.Meta(ge=1, le=IMPORT_BYTES_MAX)]
    sha256: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
    """Lower-case hex digest of the whole file."""


class ImportChunk(_Message, frozen=True, tag="import_chunk"):
    """The next bytes of the file, at most IMPORT_CHUNK_BYTES; answered by `Proceed`."""

    data: Annotated[bytes, msgspec.Meta(min_length=1, max_length=IMPORT_CHUNK_BYTES)]


class ImportEnd(_Message, frozen=True, tag="import_end"):
    """That was all of it: apply it. Answered by `ImportDone` or `ImportRefused`."""


RequestBody = (
    Hello
    | Cancel
    | Fetch
    | FetchUrgent
    | ReportAck
    | Acknowledge
    | ExportWanted
    | ProofWanted
    | SealWanted
    | Erase
    | Deliver
    | SessionSaid
    | WatchOutbox
    | WatchDoors
    | StatusWanted
    | Order
    | OpenOnce
    | Forgive
    | MusterWanted
    | PreviewWanted
    | ImportBegin
    | ImportChunk
    | ImportEnd
)


class Request(msgspec.Struct, frozen=True, array_like=True):
    """A frame from a client."""

    number: Number
    body: RequestBody


# --- Answers --------------------------------------------------------------------------------------


class Welcome(_Message, frozen=True, tag="welcome"):
    """The core speaks the same protocol, and the client may do what `rights` says."""

    version: int
    rights: Literal["all", "link"]


class Problem(_Message, frozen=True, tag="problem"):
    """The request was not carried out. `text` says what, where and what to do."""

    text: str
    not_allowed: bool = False
    """The peer's credentials don't give it that right."""


class Events(_Message, frozen=True, tag="events"):
    """Events of the journal, dense from `first_seq`; none where `wait_s` went by without any."""

    stream: str
    first_seq: int
    bodies: list[bytes]
    """Each the canonical bytes of an event (`gateway.domain.events.encode`)."""
    at: datetime | None = None
    """The core's time at this answer: the age of an event is counted from here."""
    at_mono_s: float = 0.0
    """The same instant by CLOCK_MONOTONIC: the time that the answer was on its way."""


class NumberedBody(NamedTuple):
    """An event and its number."""

    seq: int
    body: bytes


class UrgentEvents(_Message, frozen=True, tag="urgent_events"):
    """Alarms and emergencies, with gaps between them."""

    stream: str
    events: list[NumberedBody]


class ExportHead(_Message, frozen=True, tag="export_head"):
    """Where an export begins: `after` is the last event deleted here, `anchor` its hash."""

    site: str
    gateway: str
    stream: str
    after: int
    anchor: bytes
    last: int
    """The highest number on disk."""


class ProofRow(NamedTuple):
    """An event as it is chained (gateway/journal/chain.py)."""

    seq: int
    public: bytes
    personal: bytes | None
    erased: bytes | None
    chain: bytes


class Proof(_Message, frozen=True, tag="proof"):
    """Events as they are chained, dense."""

    rows: list[ProofRow]


class Sealed(_Message, frozen=True, tag="sealed"):
    """A COSE_Sign1 by the gateway's key."""

    message: bytes


class Erased(_Message, frozen=True, tag="erased"):
    """What was deleted of a holder."""

    events: int
    kept: int
    """Events that have not arrived yet: erase again once they have."""
    set_aside: list[str]
    """Damaged journals kept beside this one, which may tell of anybody."""


class Acknowledged(_Message, frozen=True, tag="acknowledged"):
    """Up to where the journal now counts as acknowledged: it never falls."""

    stream: str
    seq: int


class Delivered(_Message, frozen=True, tag="delivered"):
    """It was taken in. Up to here the journal counts as acknowledged now."""

    stream: str
    acknowledged: int


class Outgoing(_Message, frozen=True, tag="outgoing"):
    """A message of the core's, to be published as it is, with QoS 1 and not retained."""

    topic: Literal["cmd/result", "parity", "checkpoint", "sync/need"]
    payload: Envelope


class DoorStateReport(_Message, frozen=True, tag="door_state"):
    """What is known of a door at this moment."""

    door: str
    mode: str
    """`controlled`, `unlocked`, `blocked`, `lockdown` or `evacuation`."""
    locked: bool | None
    """Whether the strike is at rest; null where its device does not answer."""
    contact: Literal["open", "closed", "unknown"]
    trust: int
    """The `TimeTrust` of `at`, 0 to 3."""
    at: datetime
    alarms: list[str] = []
    """`forced_open`, `held_open`, `input_fault`, `tamper`: those that are not restored yet."""
    readers_online: dict[str, bool] = {}
    mode_source: str = "records"
    """By whose word: `evacuation`, `lockdown`, `hand`, `schedule` or `records`."""


class DeviceStatus(msgspec.Struct, frozen=True, kw_only=True):
    """Whether a device answers, why not, and what it last said of its case and its supply."""

    online: bool
    why: str | None = None
    tampered: bool = False
    power_failed: bool = False
    battery_percent: int | None = None


class Latency(msgspec.Struct, frozen=True, kw_only=True):
    """How long something took at a door, in milliseconds, over its last taps."""

    taps: int
    p50: float
    p99: float
    worst: float


class DoorFigures(msgspec.Struct, frozen=True, kw_only=True):
    """What happened at a door since the core's start."""

    outcomes: dict[str, int]
    """`grant`, `deny`, `challenge`."""
    denials: dict[str, int]
    """By reason."""
    latency_ms: dict[str, Latency]
    """`read` (first sign of a credential to its last byte), `decide` (to the decision), `record`
    (waiting for the disk), `release` (last byte to the strike's confirmation), `open` (release to
    the leaf's opening)."""


class BoxStatus(msgspec.Struct, frozen=True, kw_only=True):
    """How the box is; null where it doesn't tell."""

    temperature_c: float | None = None
    disk_free: float | None = None
    """Share of the disk with the state directory, 0 to 1."""
    disk_free_bytes: int | None = None
    storage_life_used: float | None = None
    """Share, as the storage itself says it."""
    memory_bytes: int | None = None
    """Of the core."""
    certificates: dict[str, datetime] = {}
    """When each ends."""


class BrokerStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The way of events to the cloud: the link, its session with the broker, acknowledgements."""

    address: str
    """Host and port of the broker, from site.toml."""
    link: bool
    """The link process reports to the core."""
    connected_since: datetime | None = None
    away_since: datetime | None = None
    """Since when there is no session; null with one, and before the link's first report."""
    reason: str | None = None
    """The last failure in plain words."""
    refused: dict[str, str] = {}
    """Topics that the broker doesn't let this gateway write to, with its reason."""
    events_refused: int = 0
    """Batches of events that the broker refused, since the link's start."""
    acknowledged_at: datetime | None = None
    """When the cloud last acknowledged events; null where not since the core's start."""
    waiting_since: datetime | None = None
    """When the oldest event happened that the cloud has not acknowledged."""


class JournalStatus(msgspec.Struct, frozen=True, kw_only=True):
    """Whether events can be kept: `why` says what is wrong where not."""

    healthy: bool
    why: str | None = None
    file_bytes: int | None = None


class Status(_Message, frozen=True, tag="status"):
    """How the gateway is."""

    version: str
    site: str
    gateway: str
    revision: str | None
    """The entitlement revision in force; null before the first one."""
    as_of: datetime | None
    at: datetime
    trust: int
    """The `TimeTrust` of `at`, 0 to 3."""
    uptime_s: float
    stream: str
    last_seq: int
    acknowledged_seq: int
    backlog: int
    """Events that the cloud has not acknowledged; the broker, where `keep` is `local`."""
    devices: dict[str, DeviceStatus]
    doors: dict[str, DoorStateReport]
    journal: JournalStatus
    problems: list[str]
    """What somebody should look at, a line each; none where all is well."""
    broker: BrokerStatus | None = None
    """Null at a site without [mqtt]."""
    keep: Literal["cloud", "local"] = "cloud"
    """Who keeps the events for good: `local` is this box alone."""
    signed: bool = False
    """[trust] is in site.toml: beacons vouch for the records again and again."""
    box: BoxStatus = BoxStatus()
    figures: dict[str, DoorFigures] = {}
    """By door."""
    counters: dict[str, int] = {}
    """Events by code since the core's start."""
    public_key: str | None = None
    """The gateway's own Ed25519 key, 64 hex digits: with it anybody can verify the journal."""


class Obeyed(_Message, frozen=True, tag="obeyed"):
    """It is in force and on disk."""

    modes: dict[str, str] = {}
    """The mode of every door now."""
    forgotten: int = 0


class Opened(_Message, frozen=True, tag="opened"):
    """The strike's device has confirmed the release."""

    door: str
    seq: int
    """Of the event that says who opened it, and why."""


class Whereabouts(msgspec.Struct, frozen=True, kw_only=True):
    """Where one holder was last let in."""

    holder: str
    door: str
    at: datetime
    seen: bool
    """Whether the door contact saw them, and nobody else, go through."""


class ZoneMuster(msgspec.Struct, frozen=True, kw_only=True):
    """Who was let into a zone and has not been let out of it since."""

    zone: str
    people: list[Whereabouts]
    left_unseen: int
    """How often somebody left by REX, who may be any of them."""
    counted: int | None = None
    """How many a door with an occupancy limit counts inside."""


class ZonesMuster(msgspec.Struct, frozen=True, kw_only=True):
    """People who are in one of several zones, e.g. the floors that a lift took them to."""

    zones: list[str]
    people: list[Whereabouts]


class Muster(_Message, frozen=True, tag="muster"):
    """Everybody who is known to be somewhere; who came by an open door is in no list."""

    at: datetime
    zones: list[ZoneMuster]
    between: list[ZonesMuster] = []
    """Nobody of these is in a list of `zones`."""


class Preview(_Message, frozen=True, tag="preview"):
    """When a door's unlock schedule opens (true) and closes it."""

    door: str
    mode: str
    changes: list[tuple[datetime, bool]]
    after_first: bool
    """Each time only after the first person was let in."""


class Proceed(_Message, frozen=True, tag="proceed"):
    """The import so far is well received."""

    received: int


class ImportDone(_Message, frozen=True, tag="import_done"):
    """The records are in force."""

    revision: str
    counts: dict[str, int]
    """Records by type."""
    warnings: list[str] = []


class ImportRefused(_Message, frozen=True, tag="import_refused"):
    """The records have faults and are refused whole; what was in force stays."""

    faults: list[tuple[str, str, str, str]]
    """Each type, id, member, what is wrong (`gateway.errors.RecordFault`)."""
    more: int = 0
    """Faults beyond IMPORT_FAULTS_MAX, which are not listed."""


AnswerBody = (
    Welcome
    | Problem
    | Events
    | UrgentEvents
    | Acknowledged
    | ExportHead
    | Proof
    | Sealed
    | Erased
    | Delivered
    | Outgoing
    | DoorStateReport
    | Status
    | Obeyed
    | Opened
    | Muster
    | Preview
    | Proceed
    | ImportDone
    | ImportRefused
)


class Answer(msgspec.Struct, frozen=True, array_like=True):
    """A frame from the core. Number 0 answers no request: the connection is about to be closed."""

    number: Number
    body: AnswerBody


_encoder = msgspec.msgpack.Encoder()
_requests = msgspec.msgpack.Decoder(Request)
_answers = msgspec.msgpack.Decoder(Answer)


def encode(message: Request | Answer) -> bytes:
    """The body of the message's frame."""
    return _encoder.encode(message)


def decode_request(body: bytes) -> Request:
    """Return the request in a frame. Raises Undecodable."""
    return decode_with(_requests, body)


def decode_answer(body: bytes) -> Answer:
    """Return the answer in a frame. Raises Undecodable."""
    return decode_with(_answers, body)
