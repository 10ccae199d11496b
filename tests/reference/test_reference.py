"""The reference agrees to the letter with the conformance cases and presses on every reason."""

import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.reference.decider import (
    LAST_MS,
    MINUTE_MS,
    SEARCH_MS,
    AnotherForm,
    Site,
    decide,
    explain,
    instant_ms,
    instant_text,
    read_request,
    wall_clock,
    wall_minutes,
)
from tests.reference.faults import faults
from tests.reference.sites import ODD_CHANGES, clock_changes, mutations, odd_requests, site

CASES = Path(__file__).parents[1] / "golden" / "conformance"
SITES = sorted(path.name.split(".")[0] for path in CASES.glob("*.records.jsonl"))


def lines(name: str) -> list[Any]:
    text = (CASES / name).read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def test_all_eight_sites_are_there() -> None:
    assert len(SITES) == 8


@pytest.mark.parametrize("site", SITES)
def test_every_decision_is_the_one_recorded(site: str) -> None:
    records, requests = Site(lines(f"{site}.records.jsonl")), lines(f"{site}.requests.jsonl")
    expected = lines(f"{site}.decisions.jsonl")
    assert [decide(records, request) for request in requests] == expected


@pytest.mark.parametrize("site", SITES)
def test_every_explanation_is_the_one_recorded(site: str) -> None:
    records, requests = Site(lines(f"{site}.records.jsonl")), lines(f"{site}.requests.jsonl")
    expected = lines(f"{site}.explanations.jsonl")
    assert [explain(records, request) for request in requests[: len(expected)]] == expected


@pytest.mark.parametrize("site", SITES)
def test_a_conformance_site_has_no_fault(site: str) -> None:
    assert faults(lines(f"{site}.records.jsonl")) == []


@pytest.mark.parametrize("case", lines("invalid.jsonl"), ids=lambda case: case["name"])
def test_an_invalid_set_has_exactly_the_faults_named(case: dict[str, Any]) -> None:
    assert sorted(faults(case["records"])) == sorted(tuple(f) for f in case["faults"])


REASONS = [
    "unknown_door",
    "egress",
    "unknown_credential",
    "credential_suspended",
    "credential_lost",
    "credential_stolen",
    "credential_returned",
    "credential_not_yet_valid",
    "credential_expired",
    "membership_pending",
    "membership_suspended",
    "membership_ended",
    "membership_not_started",
    "payment_overdue",
    "lockdown",
    "entitlements_stale",
    "exception",
    "group",
    "booking",
    "clock_untrusted",
    "outside_schedule",
    "booking_not_started",
    "booking_over",
    "no_entitlement",
    "pin_not_accepted",
    "second_factor_required",
    "no_pin",
    "pin_required",
    "wrong_pin",
]


def test_thirty_seeds_hit_every_reason() -> None:
    seen: Counter[tuple[str, str]] = Counter()
    for seed in range(30):
        records, requests = site(seed)
        assert faults(records) == []
        reference = Site(records)
        for request in requests:
            decision = decide(reference, request)
            seen[decision["outcome"], decision["reason"]] += 1
    assert {reason for _, reason in seen} == set(REASONS)
    assert seen["deny", "exception"]
    assert seen["grant", "exception"]
    assert min(seen.values()) >= 20, seen


@pytest.mark.parametrize("seed", range(30))
def test_nothing_opens_before_opens_at(seed: int) -> None:
    """Against a walk over far more instants, none of which comes from the search itself."""
    rng = random.Random(seed)
    made, requests = site(seed, requests=8)
    records = Site(made)
    for request in requests:
        found = explain(records, request)
        taken = read_request(request)
        start = taken["at"]
        opens = None if found["opens_at"] is None else instant_ms(found["opens_at"])
        end = min(start + SEARCH_MS, LAST_MS + 1) if opens is None else opens
        if end == start:
            continue
        walk = [rng.randrange(start, end) for _ in range(30)]
        walk += [min(start + k * 30 * MINUTE_MS, end - 1) for k in range(0, 336 * 2, 5)]
        for at in (*walk, end - 1):
            assert outcome(records, request, taken, at) == "deny"
        if opens is not None:
            assert outcome(records, request, taken, opens) != "deny"


def outcome(records: Site, request: Any, taken: dict[str, Any], at: int) -> str:
    as_of = taken["as_of"] + at - taken["at"]
    moved = {**request, "at": instant_text(at), "as_of": instant_text(min(as_of, LAST_MS))}
    return str(decide(records, moved)["outcome"])


@pytest.mark.parametrize(("zone", "year"), ODD_CHANGES)
def test_every_change_of_a_clock_is_among_the_minutes_walked(zone: str, year: int) -> None:
    for change in clock_changes(zone, year):
        day = change // 86_400_000
        walked = wall_minutes(zone, day)
        assert change in [at for at, _, _ in walked]
        for at, date, wall in walked:
            assert wall_clock(zone, at) == (date, wall)
            assert wall % MINUTE_MS == 0 or at == change


GOOD = {
    "door": "d1",
    "side": "out",
    "credentials": [{"kind": "uid", "value": "x"}, {"kind": "pin", "value": ""}],
    "at": "2026-03-29T00:30:00+01:00",
    "clock": "untrusted",
    "lockdown": False,
    "as_of": "2026-03-29T00:30:00.5Z",
}


def test_an_untrusted_clock_is_taken_to_be_no_earlier_than_the_records() -> None:
    assert read_request(GOOD)["at"] == instant_ms("2026-03-29T00:30:00.500Z")
    trusted = read_request({**GOOD, "clock": "trusted"})
    assert trusted["at"] == instant_ms("2026-03-28T23:30:00Z")


@pytest.mark.parametrize("member", ["door", "credentials", "at"])
def test_a_request_without_a_member_is_of_another_form(member: str) -> None:
    with pytest.raises(AnotherForm):
        read_request({key: value for key, value in GOOD.items() if key != member})


UID, PIN = {"kind": "uid", "value": "x"}, {"kind": "pin", "value": "1234"}


@pytest.mark.parametrize(
    "change",
    [
        *({member: None} for member in GOOD),
        *({"holder": "ann"}, {"side": "IN"}, {"clock": True}, {"lockdown": 0}, {"door": 5}),
        *({"at": 0}, {"at": "2026-03-29T00:30:00"}, {"as_of": "1969-12-31T23:59:59Z"}),
        *({"credentials": []}, {"credentials": UID}, {"credentials": [UID, UID]}),
        *({"credentials": [PIN, PIN]}, {"credentials": [PIN, UID]}),
        *({"credentials": [UID, PIN, PIN]}, {"credentials": [None]}),
        *({"credentials": [{"kind": "uid"}]}, {"credentials": [{**UID, "format": "x"}]}),
        *({"credentials": [{**UID, "value": 5}]}, {"credentials": [{**UID, "kind": None}]}),
    ],
    ids=str,
)
def test_a_request_with_a_member_of_another_form_is_an_error(change: dict[str, Any]) -> None:
    with pytest.raises(AnotherForm):
        read_request({**GOOD, **change})


def test_equal_seeds_make_equal_sites_and_equal_mutations() -> None:
    assert site(7) == site(7)
    assert mutations(7) == mutations(7)


def test_mutations_break_most_members_and_the_specification_settles_most_of_them() -> None:
    members, broken, settled = set(), 0, 0
    for seed in range(500):
        lines_made, _, is_settled = mutations(seed)
        found = faults(lines_made)
        members |= {(kind, member) for kind, _, member in found}
        broken += bool(found)
        settled += is_settled
    assert broken >= 350
    assert settled >= 450
    assert len(members) >= 65


def opening(zone: str, weekly: dict[str, Any], at: str) -> tuple[str, str | None]:
    """The outcome at a door on one schedule, and `opens_at`."""
    records: list[dict[str, Any]] = [
        {"type": "site", "id": "X", "timezone": zone},
        {"type": "policy", "id": "policy"},
        {"type": "zone", "id": "z", "category": "member"},
        {"type": "door", "id": "d", "from_zone": "z", "to_zone": "z"},
        {"type": "schedule", "id": "s", "weekly": weekly},
        {"type": "group", "id": "g", "zones": ["z"], "doors": [], "schedule": "s"},
        {"type": "holder", "id": "h", "persona": "member", "status": "active", "groups": ["g"]},
        {"type": "credential", "id": "c", "holder": "h", "kind": "uid", "value": "04A1B2C3"},
    ]
    assert faults(records) == []
    presented = [{"kind": "uid", "value": "04A1B2C3"}]
    found = explain(Site(records), {"door": "d", "credentials": presented, "at": at})
    return found["outcome"], found["opens_at"]


EVERY_DAY_1_TO_2 = {
    day: [["01:00", "02:00"]] for day in ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
}


@pytest.mark.parametrize(
    ("zone", "weekly", "at", "expected"),
    [
        # The hour that is skipped does not occur: the next chance is a day later.
        (
            "Europe/London",
            EVERY_DAY_1_TO_2,
            "2026-03-29T00:59:59.999Z",
            ("deny", "2026-03-30T00:00:00Z"),
        ),
        # The hour that is repeated counts both times.
        (
            "Europe/London",
            EVERY_DAY_1_TO_2,
            "2026-10-25T00:00:00Z",
            ("grant", "2026-10-25T00:00:00Z"),
        ),
        (
            "Europe/London",
            EVERY_DAY_1_TO_2,
            "2026-10-25T01:59:59.999Z",
            ("grant", "2026-10-25T01:59:59.999Z"),
        ),
        (
            "Europe/London",
            {"sun": [["01:00", "02:00"]]},
            "2026-10-25T02:00:00Z",
            ("deny", "2026-11-01T01:00:00Z"),
        ),
        # Half an hour is repeated at Lord Howe: 01:30 to 02:00 comes twice.
        (
            "Australia/Lord_Howe",
            {"sun": [["01:45", "01:50"]]},
            "2026-04-04T14:50:00Z",
            ("deny", "2026-04-04T15:15:00Z"),
        ),
        # Past midnight, into a date whose own intervals say nothing.
        (
            "Asia/Kathmandu",
            {"mon": [["22:00", "02:00"]]},
            "2026-06-01T20:14:59.999Z",
            ("grant", "2026-06-01T20:14:59.999Z"),
        ),
        (
            "Asia/Kathmandu",
            {"mon": [["22:00", "02:00"]]},
            "2026-06-01T20:15:00Z",
            ("deny", "2026-06-08T16:15:00Z"),
        ),
        # The end of time: 10000-01-01, a Saturday, on the wall in Kiritimati.
        (
            "Pacific/Kiritimati",
            {"sat": [["00:00", "24:00"]]},
            "9999-12-31T09:00:00Z",
            ("deny", "9999-12-31T10:00:00Z"),
        ),
        # No instant after 9999.
        ("UTC", {"sat": [["00:00", "24:00"]]}, "9999-12-31T09:00:00Z", ("deny", None)),
        # 336 hours later is too late.
        ("UTC", {}, "2026-06-01T00:00:00Z", ("deny", None)),
        # Monrovia was 0:44:30 behind until 1972.
        (
            "Africa/Monrovia",
            EVERY_DAY_1_TO_2,
            "1971-06-01T00:00:00Z",
            ("deny", "1971-06-01T01:44:30Z"),
        ),
    ],
)
def test_a_schedule_opens_when_the_wall_clock_says_so(
    zone: str, weekly: dict[str, Any], at: str, expected: tuple[str, str | None]
) -> None:
    assert opening(zone, weekly, at) == expected


def test_odd_requests_are_mostly_of_another_form_and_otherwise_decided() -> None:
    refused = 0
    for seed in range(20):
        records, requests = odd_requests(seed)
        for request in requests:
            try:
                explain(Site(records), request)
            except AnotherForm:
                refused += 1
    assert 600 <= refused < 1000
