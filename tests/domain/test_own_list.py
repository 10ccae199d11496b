"""What a controller's own list may say: what it can express, and nothing wider than the records."""

import json
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest

from gateway.domain.entitlements import Entitlements, RecordSet
from gateway.domain.own_hours import AT_ANY_HOUR, Weeks
from gateway.domain.own_list import Allowance, Moment, allowance
from gateway.domain.record_faults import parse_records
from tests.control.site import record_rows

CARD = "H10301:12:34567"
NOW = datetime(2026, 6, 15, 12, tzinfo=UTC)
TODAY = date(2026, 6, 15)
DOORS = {1: "front", 3: "inner"}
MOMENT = Moment(NOW, NOW - timedelta(hours=1), timedelta(seconds=100))


def in_force(
    door: dict[str, Any],
    holder: dict[str, Any],
    card: dict[str, Any],
    more: list[Any],
    **policy: Any,
) -> Entitlements:
    """Ann's card, and what is changed of the front door, of her, of the card and of the site."""
    rows = [
        *record_rows({"front": door}, more, **policy),
        {"type": "holder", "id": "ann", "persona": "member", "status": "active", "groups": ["g"],
         **holder},
        {"type": "credential", "id": "c-ann", "holder": "ann", "kind": "wiegand", "value": CARD,
         **card},
    ]  # fmt: skip
    return RecordSet(parse_records(json.dumps(row).encode() for row in rows).records)


def listed(records: Entitlements, doors: dict[int, str] = DOORS) -> Allowance | None:
    return allowance(records, CARD, doors, MOMENT, Weeks(records, NOW))


def test_who_may_at_any_hour_is_listed_for_thirty_days_at_most() -> None:
    records = in_force({}, {}, {}, [])
    last = TODAY + timedelta(days=29)
    assert listed(records) == Allowance(TODAY, last, {1: AT_ANY_HOUR, 3: AT_ANY_HOUR})
    assert listed(records, {}) is None
    assert allowance(records, "H10301:1:1", DOORS, MOMENT, Weeks(records, NOW)) is None


DAILY = {"type": "schedule", "id": "office", "weekly": {"mon": [["09:00", "17:00"]]}}
KEPT_OUT = {
    "type": "exception", "id": "x", "holder": "ann", "effect": "deny", "zones": ["club", "vault"],
    "doors": [], "from": "2026-06-10T00:00:00Z", "until": "2026-07-01T00:00:00Z",
    "reason": "quarrel", "issued_by": "staff",
}  # fmt: skip


@pytest.mark.parametrize(
    ("holder", "card", "more", "policy"),
    [
        ({"status": "suspended"}, {}, [], {}),
        ({"groups": []}, {}, [], {}),
        ({}, {"status": "lost"}, [], {}),
        ({}, {"max_uses": 5}, [], {}),
        ({}, {"valid_from": "2026-06-16T00:00:00Z"}, [], {}),
        ({}, {"valid_until": "2026-06-15T20:00:00Z"}, [], {}),
        ({"delinquent_since": "2026-06-12T20:00:00Z"}, {}, [], {}),
        ({}, {}, [KEPT_OUT], {}),
        ({}, {}, [], {"max_age_h": {"member": 12, "restricted": 12}}),
    ],
)
def test_who_may_not_or_not_for_a_whole_day_is_not_listed(
    holder: dict[str, Any], card: dict[str, Any], more: list[Any], policy: dict[str, Any]
) -> None:
    assert listed(in_force({}, holder, card, more, **policy)) is None


@pytest.mark.parametrize(
    "door",
    [
        {"second_factor_schedule": "24x7"},
        {"antipassback": "soft"},
        {"two_person": True},
        {"interlock": "lock"},
        {"max_occupancy": 9},
    ],
)
def test_a_door_with_a_rule_that_no_list_knows_is_left_out(door: dict[str, Any]) -> None:
    card = listed(in_force(door, {}, {}, []))
    assert card is not None
    assert set(card.doors) == {3}


@pytest.mark.parametrize(
    ("card", "last"),
    [
        # Midnight in London, and an hour later: the clock may be an hour slow.
        ({"valid_until": "2026-06-19T23:00:00Z"}, date(2026, 6, 18)),
        ({"valid_until": "2026-06-20T00:30:00Z"}, date(2026, 6, 19)),
        ({"valid_until": "2026-06-20T12:00:00Z"}, date(2026, 6, 19)),
    ],
)
def test_the_last_day_is_over_before_the_card_is(card: dict[str, Any], last: date) -> None:
    found = listed(in_force({}, {}, card, []))
    assert found is not None
    assert found.last == last


OFFICE = {"type": "group", "id": "o", "zones": ["club"], "doors": [], "schedule": "office"}
NIGHTS = {"type": "schedule", "id": "nights", "weekly": {"sat": [["20:00", "02:00"]]}}
WATCH = {"type": "group", "id": "n", "zones": [], "doors": ["front"], "schedule": "nights"}


def test_who_may_at_some_hours_is_listed_with_the_schedules_that_say_when() -> None:
    records = in_force({}, {"groups": ["n", "o"]}, {}, [DAILY, OFFICE, NIGHTS, WATCH])
    card = listed(records)
    assert card is not None
    assert card.doors == {1: {"office", "nights"}}
    always = in_force({}, {"groups": ["g", "o"]}, {}, [DAILY, OFFICE])
    card = listed(always)
    assert card is not None
    assert card.doors == {1: AT_ANY_HOUR, 3: AT_ANY_HOUR}


@pytest.mark.parametrize(
    ("holder", "policy"),
    [
        ({"status": "suspended"}, {}),
        # Over before the next Monday.
        ({"valid_until": "2026-06-20T12:00:00Z"}, {}),
        ({}, {"max_age_h": {"member": 24}}),
    ],
)
def test_who_may_not_when_it_opens_next_is_not_listed(
    holder: dict[str, Any], policy: dict[str, Any]
) -> None:
    after = Moment(NOW + timedelta(hours=6), NOW, timedelta(seconds=100))
    records = in_force({}, {"groups": ["o"], **holder}, {}, [DAILY, OFFICE], **policy)
    assert allowance(records, CARD, DOORS, after, Weeks(records, after.now)) is None


def test_a_clock_that_may_be_wrong_lists_nobody_with_hours() -> None:
    records = in_force({}, {"groups": ["o"]}, {}, [DAILY, OFFICE], untrusted_clock="allow")
    moment = Moment(NOW, NOW, timedelta(seconds=100), "untrusted")
    assert allowance(records, CARD, DOORS, moment, Weeks(records, NOW)) is None


def test_a_door_that_takes_a_card_on_both_sides_opens_by_what_counts_on_both() -> None:
    door = {"egress": False, "from_zone": "vault"}
    inside = {"type": "group", "id": "i", "zones": ["vault"], "doors": [], "schedule": "24x7"}
    groups = {"groups": ["i", "n", "o"]}
    records = in_force(door, groups, {}, [DAILY, OFFICE, NIGHTS, WATCH, inside])
    card = listed(records)
    assert card is not None
    assert card.doors == {1: {"office", "nights"}, 3: AT_ANY_HOUR}
    records = in_force(door, {"groups": ["n", "o"]}, {}, [DAILY, OFFICE, NIGHTS, WATCH])
    assert listed(records, {1: "front"}) == Allowance(
        TODAY, TODAY + timedelta(days=29), {1: frozenset({"nights"})}
    )
