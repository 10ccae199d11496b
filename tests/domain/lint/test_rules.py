"""Each rule of lint: a site that has just its finding, and one that has none at all."""

from datetime import UTC, datetime
from typing import Any

import pytest

from gateway.domain.lint.finding import WHO_MAX, Finding
from gateway.domain.lint.rules import RULES, lint
from gateway.domain.record_faults import parse_records
from tests.domain.sites import SITE_NAMES, JsonObject, conformance_lines, lines

AT = datetime(2026, 6, 1, 9, tzinfo=UTC)  # a Monday; 10:00 in London
WEEK = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


def daily(start: str, end: str, days: tuple[str, ...] = WEEK) -> dict[str, list[list[str]]]:
    return {day: [[start, end]] for day in days}


MEMBERS = "LON | MEMBERS | AMENITIES | BH"
BOOKINGS = "LON | BOOKINGS | BOOKABLE | TIMEBOUND"
STAFF = "LON | STAFF | RESTRICTED | 24x7"
TENANTS = "LON | TENANTS | SUITE 1 | 24x7"
CLEANERS = "LON | CONTRACTORS | RESTRICTED | NIGHT"

CLEAN: tuple[JsonObject, ...] = (
    {"type": "site", "id": "LON", "timezone": "Europe/London"},
    {"type": "policy", "id": "policy"},
    {"type": "zone", "id": "street", "category": "public"},
    {"type": "zone", "id": "lobby", "category": "public"},
    {"type": "zone", "id": "club", "category": "member"},
    {"type": "zone", "id": "room", "category": "bookable"},
    {"type": "zone", "id": "suite", "category": "tenant"},
    {"type": "zone", "id": "store", "category": "restricted"},
    {"type": "schedule", "id": "BH", "weekly": daily("08:00", "19:00", WEEK[:5])},
    {"type": "schedule", "id": "NIGHT", "weekly": daily("21:00", "05:00")},
    {"type": "door", "id": "front", "from_zone": "street", "to_zone": "lobby"},
    {"type": "door", "id": "club-door", "from_zone": "lobby", "to_zone": "club"},
    {"type": "door", "id": "room-door", "from_zone": "lobby", "to_zone": "room"},
    {"type": "door", "id": "suite-door", "from_zone": "club", "to_zone": "suite"},
    {"type": "door", "id": "store-door", "from_zone": "lobby", "to_zone": "store"},
    {"type": "group", "id": MEMBERS, "zones": ["lobby", "club"], "doors": [], "schedule": "BH"},
    {"type": "group", "id": BOOKINGS, "zones": ["lobby", "room"], "doors": [],
     "schedule": "timebound"},
    {"type": "group", "id": TENANTS, "zones": ["lobby", "club", "suite"], "doors": [],
     "schedule": "24x7"},
    {"type": "group", "id": STAFF, "zones": ["lobby", "club", "room", "suite", "store"],
     "doors": [], "schedule": "24x7"},
    {"type": "group", "id": CLEANERS, "zones": ["lobby", "store"], "doors": [],
     "schedule": "NIGHT"},
    {"type": "holder", "id": "ann", "persona": "member", "status": "active", "groups": [MEMBERS]},
    {"type": "holder", "id": "ben", "persona": "booker", "status": "active", "groups": [BOOKINGS]},
    {"type": "holder", "id": "sam", "persona": "staff", "status": "active", "groups": [STAFF]},
    {"type": "holder", "id": "tia", "persona": "office", "status": "active", "groups": [TENANTS]},
    {"type": "holder", "id": "cas", "persona": "contractor", "status": "active",
     "groups": [CLEANERS]},
    {"type": "holder", "id": "vic", "persona": "visitor", "status": "active", "groups": []},
    {"type": "credential", "id": "c-ann", "holder": "ann", "kind": "uid",
     "value": "04A1B2C3D4E5F6"},
    {"type": "credential", "id": "p-ann", "holder": "ann", "kind": "pin", "value": "4711"},
    {"type": "booking", "id": "b", "holders": ["ben"], "zones": ["room"], "doors": [],
     "start": "2026-06-02T12:00:00Z", "end": "2026-06-02T13:00:00Z"},
    {"type": "exception", "id": "e", "holder": "vic", "effect": "allow", "zones": ["lobby"],
     "doors": [], "from": "2026-06-02T12:00:00Z", "until": "2026-06-02T14:00:00Z",
     "reason": "interview", "issued_by": "desk"},
)  # fmt: skip


def findings(*changes: JsonObject) -> list[Finding]:
    """`CLEAN` with members added to its records, and with more records."""
    records = {(record["type"], record["id"]): dict(record) for record in CLEAN}
    for change in changes:
        records.setdefault((change["type"], change["id"]), {}).update(change)
    parsed = parse_records(lines(records.values()))
    return lint(parsed.records, AT, parsed.warnings)


def person(holder_id: str, persona: str, *groups: str, **more: Any) -> JsonObject:
    return {"type": "holder", "id": holder_id, "persona": persona, "status": "active",
            "groups": list(groups)} | more  # fmt: skip


def exception(**members: Any) -> JsonObject:
    return {"type": "exception", "id": "x", "holder": "ann", "effect": "allow", "zones": ["store"],
            "doors": [], "from": "2026-06-02T12:00:00Z", "until": "2026-06-02T14:00:00Z",
            "reason": "r", "issued_by": "desk"} | members  # fmt: skip


def group(name: str, zones: list[str], schedule: str) -> JsonObject:
    return {"type": "group", "id": name, "zones": zones, "doors": [], "schedule": schedule}


def card(number: int, holder: str, kind: str, value: str) -> JsonObject:
    return {"type": "credential", "id": f"n{number}", "holder": holder, "kind": kind,
            "value": value}  # fmt: skip


def door(door_id: str, **members: Any) -> JsonObject:
    return {"type": "door", "id": door_id, **members}


def test_a_tidy_site_has_no_finding() -> None:
    assert findings() == []


FULL = "LON | MEMBERS | FULL | 24x7"
WIDE = "LON | TENANTS | SUITE 2 | 24x7"

CASES: tuple[tuple[str, str, list[str], tuple[JsonObject, ...]], ...] = (
    # rule, severity, who, what is changed
    ("unreachable", "warning", ["ann"], (  # the front door opens at eight, the club at seven
        {"type": "schedule", "id": "EARLY", "weekly": daily("07:00", "09:00")},
        group("LON | MEMBERS | FULL | EARLY", ["club"], "EARLY"),
        person("ann", "member", MEMBERS, "LON | MEMBERS | FULL | EARLY"))),
    ("unreachable", "warning", ["vic"], (
        exception(holder="vic", until="2026-06-02T15:00:00Z"),)),
    ("unreachable", "warning", ["tia"], (exception(holder="tia", effect="deny", zones=["club"]),)),
    ("unreachable", "warning", ["ben"], (
        group(BOOKINGS, ["room"], "timebound"),)),
    ("locked_in", "alarm", ["ann"], (  # in by the club, whose way out is for staff
        door("club-door", egress=False), group(MEMBERS, ["club"], "BH") | {"doors": ["front"]})),
    ("locked_in_later", "warning", ["cas"], (door("store-door", egress=False),)),
    ("zone_without_gatekeeper", "warning", ["attic"], (
        {"type": "zone", "id": "attic", "category": "restricted"},)),
    ("door_without_group", "warning", ["roof-door"], (
        {"type": "zone", "id": "roof", "category": "restricted"},
        door("roof-door", from_zone="club", to_zone="roof"))),
    ("restricted_unlocked", "warning", ["store-door"], (
        door("store-door", unlock_schedule="BH"),)),
    ("more_than_minimum", "warning", ["ann"], (
        group(MEMBERS, ["lobby", "club", "store"], "BH"),)),
    ("more_than_minimum", "warning", ["ben"], (
        group("LON | BOOKINGS | ROOMS | BH", ["lobby"], "BH"),
        person("ben", "booker", BOOKINGS, "LON | BOOKINGS | ROOMS | BH"))),
    ("more_than_minimum", "warning", ["cas"], (group(CLEANERS, ["lobby", "store"], "24x7"),
        {"type": "group", "id": "LON | CONTRACTORS | RESTRICTED | 24x7", "zones": ["lobby"],
         "doors": [], "schedule": "24x7"})),
    ("booking_beyond_persona", "warning", ["y"], (
        {"type": "booking", "id": "y", "holders": ["ann", "sam", "cas"],
         "zones": ["lobby", "store"], "doors": [],
         "start": "2026-06-02T12:00:00Z", "end": "2026-06-02T13:00:00Z"},)),
    ("several_suites", "notice", ["tia"], (
        {"type": "zone", "id": "suite 2", "category": "tenant"},
        door("suite 2-door", from_zone="club", to_zone="suite 2"),
        group(WIDE, ["suite 2"], "24x7"), person("tia", "office", TENANTS, WIDE))),
    ("pins_too_dense", "warning", ["ann"], tuple(
        card(n, "ann", "pin", f"{n:04}") | {"max_uses": 1} for n in range(50))),
    ("pins_too_dense", "alarm", ["ann"], tuple(
        card(n, "ann", "pin", f"{n:04}") | {"max_uses": 1} for n in range(120))),
    ("no_pin", "warning", ["cas"], (
        door("store-door", second_factor_schedule="NIGHT"), card(1, "sam", "pin", "8246"))),
    ("no_pin", "warning", ["cas", "sam"], (
        door("store-door", second_factor_schedule="24x7"),
        card(1, "sam", "pin", "8246") | {"valid_until": "2026-05-01T00:00:00Z"})),
    ("credential_shared", "warning", ["c-ann", "n1"], (card(1, "sam", "sun", "04A1B2C3D4E5F6"),)),
    ("credential_shared", "warning", ["n1", "n2"], (
        card(1, "sam", "wiegand", "H10301:12:345"), card(2, "tia", "wiegand", "ind26:12:345"))),
    ("many_of_a_kind", "warning", ["sam"], tuple(
        card(n, "sam", "uid", f"{n:08X}") for n in range(4))),
    ("group_name", "warning", ["night owls"], (
        group("night owls", ["club"], "NIGHT"), person("a", "member", "night owls", MEMBERS),
        group(MEMBERS, ["lobby", "club"], "24x7"))),
    ("group_name_schedule", "warning", [MEMBERS], (
        group(MEMBERS, ["lobby", "club"], "24x7"),)),
    ("group_name_persona", "notice", ["tia"], (person("tia", "office", MEMBERS, TENANTS),)),
    ("one_off_group", "warning", ["LON | MEMBERS | ANN | BH"], (
        group("LON | MEMBERS | ANN | BH", ["club"], "BH"),
        person("ann", "member", MEMBERS, "LON | MEMBERS | ANN | BH"))),
    ("unused_group", "notice", [FULL], (group(FULL, ["lobby", "club"], "24x7"),)),
    ("unused_group", "notice", [CLEANERS], (
        person("cas", "contractor", CLEANERS, status="ended"),)),
    ("unused_group", "notice", [CLEANERS], (
        person("cas", "contractor", CLEANERS, valid_until="2026-05-01T00:00:00Z"),)),
    ("same_groups", "notice", [MEMBERS, "LON | MEMBERS | FULL | BH"], (
        group("LON | MEMBERS | FULL | BH", ["lobby", "club"], "BH"),
        person("zoe", "member", "LON | MEMBERS | FULL | BH"))),
    ("exception_past", "notice", ["x"], (
        exception(**{"from": "2026-05-01T00:00:00Z", "until": "2026-06-01T09:00:00Z"}),)),
    ("exception_long", "warning", ["x"], (
        exception(zones=["lobby"], until="2026-06-17T12:00:00Z"),)),
    ("exception_needless", "notice", ["x"], (exception(holder="sam"),)),
    ("exception_needless", "notice", ["x"], (exception(effect="deny"),)),
    ("unknown_member", "warning", ["ann"], (person("ann", "member", MEMBERS, nickname="Annie"),)),
)  # fmt: skip

ALSO = {
    # A change that makes one thing wrong can't always leave the group's name right.
    "group_name": {"one_off_group", "group_name_schedule"},
    "more_than_minimum": {"group_name_schedule", "unused_group"},
}


@pytest.mark.parametrize(("rule", "severity", "who", "changes"), CASES)
def test_a_site_with_one_thing_wrong_has_just_that_finding(
    rule: str, severity: str, who: list[str], changes: tuple[JsonObject, ...]
) -> None:
    found = findings(*changes)
    mine = [each for each in found if each.rule == rule]
    assert [(each.severity, list(each.who)) for each in mine] == [(severity, sorted(who))]
    assert {each.rule for each in found} - {rule} <= ALSO.get(rule, set())
    assert all(each.what and each.why and each.todo for each in found)


def test_every_rule_has_a_site() -> None:
    tried = {rule for rule, *_ in CASES}
    assert {rule.__name__ for rule in RULES} - {"reachability"} <= tried


def test_an_exception_into_a_door_before_needs_no_more_and_the_lobby_is_unlocked() -> None:
    unlocked = door("front", unlock_schedule="24x7")
    assert findings(unlocked, group(BOOKINGS, ["room"], "timebound")) == []
    first = door("front", unlock_schedule="24x7", unlock_after_first=True)
    assert {each.rule for each in findings(first, group(BOOKINGS, ["room"], "timebound"))} == {
        "unreachable"
    }


def test_the_way_to_a_room_through_the_club_is_no_excess_while_there_is_no_other() -> None:
    through = group(BOOKINGS, ["lobby", "club", "room"], "timebound")
    assert [each.rule for each in findings(through)] == ["more_than_minimum"]
    assert findings(through, door("room-door", from_zone="club")) == []


def test_a_site_without_a_public_zone_is_told_so_once() -> None:
    found = findings(
        {"type": "zone", "id": "street", "category": "member"},
        {"type": "zone", "id": "lobby", "category": "member"},
    )
    (mine,) = (each for each in found if each.rule == "unreachable")
    assert mine.count == 6


def test_whoever_was_kept_out_all_the_while_is_not_locked_in_later() -> None:
    once: tuple[JsonObject, ...] = (
        {"type": "calendar", "id": "xmas", "dates": {"2026-12-25": "Christmas Day"}},
        {"type": "schedule", "id": "XMAS", "weekly": {},
         "holidays": [{"calendar": "xmas", "intervals": [["09:00", "17:00"]]}]},
        group(CLEANERS, ["lobby", "store"], "XMAS"),
        door("store-door", egress=False),
    )  # fmt: skip
    kept_out = exception(holder="cas", effect="deny") | {
        "from": "2026-12-20T00:00:00Z", "until": "2026-12-30T00:00:00Z"}  # fmt: skip
    assert "locked_in_later" in {each.rule for each in findings(*once)}
    assert "locked_in_later" not in {each.rule for each in findings(*once, kept_out)}


def test_a_crowd_is_counted_and_only_some_are_named() -> None:
    crowd = [person(f"h{number:03}", "visitor", MEMBERS) for number in range(100)]
    (found,) = (each for each in findings(*crowd) if each.rule == "more_than_minimum")
    assert (found.count, len(found.who)) == (100, WHO_MAX)


def test_what_is_wrong_on_a_holiday_only_is_found() -> None:
    found = findings(
        {"type": "calendar", "id": "uk", "dates": {"2026-12-25": "Christmas Day"}},
        {"type": "schedule", "id": "EVERY DAY", "weekly": daily("00:00", "24:00"),
         "holidays": [{"calendar": "uk", "intervals": []}]},
        group("LON | TENANTS | LOBBY | EVERY DAY", ["lobby"], "EVERY DAY"),
        group(TENANTS, ["club", "suite"], "24x7"),
        person("tia", "office", TENANTS, "LON | TENANTS | LOBBY | EVERY DAY"),
    )  # fmt: skip
    assert [each.rule for each in found] == ["unreachable", "unreachable"]
    assert found[0].what.endswith("as on Fri 2026-12-25 00:00")


@pytest.mark.parametrize("name", SITE_NAMES)
def test_the_conformance_sites_run_through(name: str) -> None:
    parsed = parse_records(conformance_lines(name, "records"))
    assert lint(parsed.records, datetime(2026, 1, 9, tzinfo=UTC), parsed.warnings)
