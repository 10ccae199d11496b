"""A delta changes what it names, and what depends on a holder that it deletes."""

from gateway.domain.delta import Key, apply_delta
from gateway.domain.record_faults import parse_records
from tests.domain.sites import BASE, JsonObject, lines

BOOKING: JsonObject = {
    "type": "booking",
    "id": "b",
    "holders": ["ann", "bob", "ann"],
    "zones": [],
    "doors": [],
    "start": "2026-06-01T09:00:00Z",
    "end": "2026-06-01T10:00:00Z",
}
EXCEPTION: JsonObject = {
    "type": "exception",
    "id": "e",
    "holder": "ann",
    "effect": "allow",
    "zones": [],
    "doors": [],
    "from": "2026-06-01T09:00:00Z",
    "until": "2026-06-01T10:00:00Z",
    "reason": "move",
    "issued_by": "ops",
}
RECORDS: dict[Key, JsonObject] = {
    (str(record["type"]), str(record["id"])): record for record in (*BASE, BOOKING, EXCEPTION)
}


def test_deleting_a_holder_deletes_what_is_theirs_and_leaves_a_valid_set() -> None:
    after = apply_delta(RECORDS, {}, [("holder", "ann")])

    assert RECORDS.keys() - after.keys() == {
        ("holder", "ann"),
        ("credential", "card"),
        ("credential", "pin"),
        ("exception", "e"),
    }
    assert after["booking", "b"]["holders"] == ["bob"]
    assert parse_records(lines(dict(record) for record in after.values()))
    assert BOOKING["holders"] == ["ann", "bob", "ann"]


def test_an_upsert_replaces_or_adds_and_stays_where_it_is_deleted_too() -> None:
    club = {"type": "zone", "id": "club", "category": "tenant"}
    bar = {"type": "zone", "id": "bar", "category": "public"}
    upserts = {("zone", "club"): club, ("zone", "bar"): bar}

    after = apply_delta(RECORDS, upserts, [("zone", "club"), ("zone", "nowhere")])

    assert after == RECORDS | upserts
