"""Small sites to decide on, as the lines that a source of truth would send."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from gateway.domain.decision import Request, parse_request
from gateway.domain.entitlements import RecordSet
from gateway.domain.record_faults import parse_records

CONFORMANCE = Path(__file__).parents[1] / "golden" / "conformance"
SITE_NAMES = sorted(
    path.name.removesuffix(".records.jsonl") for path in CONFORMANCE.glob("*.records.jsonl")
)

JsonObject = Mapping[str, object]

DAY_PASS = "LON | MEMBERS | CLUB | BH"
NIGHT = "LON | STAFF | CLUB | 24x7"
BOOKED = "LON | BOOKINGS | ROOMS | TIMEBOUND"

# A Monday in summer: the wall clock of London is an hour ahead of UTC.
OPEN = "2026-06-01T09:00:00Z"
CLOSED = "2026-06-01T20:00:00Z"

BASE: tuple[JsonObject, ...] = (
    {"type": "site", "id": "LON", "timezone": "Europe/London"},
    {"type": "policy", "id": "policy", "max_age_h": {"tenant": 24}},
    {"type": "zone", "id": "street", "category": "public"},
    {"type": "zone", "id": "club", "category": "member"},
    {"type": "zone", "id": "room", "category": "bookable"},
    {"type": "zone", "id": "office", "category": "tenant"},
    {"type": "calendar", "id": "uk", "dates": {"2026-12-25": "Christmas Day"}},
    {
        "type": "schedule",
        "id": "BH",
        "weekly": {"mon": [["09:00", "18:00"]]},
        "holidays": [{"calendar": "uk", "intervals": []}],
    },
    {"type": "door", "id": "front", "from_zone": "street", "to_zone": "club"},
    {"type": "door", "id": "room-door", "from_zone": "club", "to_zone": "room"},
    {"type": "door", "id": "office-door", "from_zone": "club", "to_zone": "office"},
    {"type": "door", "id": "vault", "from_zone": "club", "to_zone": "club", "egress": False},
    {"type": "group", "id": DAY_PASS, "zones": ["club"], "doors": [], "schedule": "BH"},
    {
        "type": "group",
        "id": NIGHT,
        "zones": ["club", "office"],
        "doors": ["room-door"],
        "schedule": "24x7",
    },
    {
        "type": "group",
        "id": BOOKED,
        "zones": ["club", "room"],
        "doors": [],
        "schedule": "timebound",
    },
    {"type": "holder", "id": "ann", "persona": "member", "status": "active", "groups": [NIGHT]},
    {"type": "holder", "id": "bob", "persona": "staff", "status": "active", "groups": []},
    {"type": "credential", "id": "card", "holder": "ann", "kind": "uid", "value": "04A1B2C3"},
    {"type": "credential", "id": "pin", "holder": "ann", "kind": "pin", "value": "1234"},
    {"type": "credential", "id": "bobs", "holder": "bob", "kind": "uid", "value": "0B0B0B0B"},
    {"type": "credential", "id": "bobs-pin", "holder": "bob", "kind": "pin", "value": "8888"},
)

CARD = {"kind": "uid", "value": "04A1B2C3"}
PIN = {"kind": "pin", "value": "1234"}
BOBS_PIN = {"kind": "pin", "value": "8888"}


def lines(records: Iterable[JsonObject]) -> list[str]:
    return [json.dumps(record) for record in records]


def changed(*changes: JsonObject) -> list[JsonObject]:
    """`BASE` with members added to the records of the same type and id, and with more records."""
    records = {(record["type"], record["id"]): dict(record) for record in BASE}
    for change in changes:
        records.setdefault((change["type"], change["id"]), {}).update(change)
    return list(records.values())


def site(*changes: JsonObject) -> RecordSet:
    return RecordSet(parse_records(lines(changed(*changes))).records)


def request(**members: object) -> Request:
    """Ann at the front door on Monday morning, unless `members` say otherwise."""
    usual: dict[str, object] = {"door": "front", "credentials": [CARD], "at": OPEN}
    return parse_request(json.dumps(usual | members))


def conformance_lines(name: str, what: str) -> list[bytes]:
    return (CONFORMANCE / f"{name}.{what}.jsonl").read_bytes().splitlines()


def conformance_site(name: str) -> RecordSet:
    return RecordSet(parse_records(conformance_lines(name, "records")).records)
