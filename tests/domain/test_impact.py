"""Each thing that the guard before an apply looks at, and what it lets pass."""

from datetime import UTC, datetime
from typing import Any

import pytest

from gateway.domain.decision import PresentedCredential, Request, decide
from gateway.domain.entitlements import RecordSet, ValidRecords
from gateway.domain.impact import LIMITS, Impact, impact
from gateway.domain.record_faults import parse_records
from tests.domain.sites import SITE_NAMES, JsonObject, conformance_lines, lines

AT = datetime(2026, 6, 1, 9, tzinfo=UTC)  # a Monday
LATER, PAST = "2026-07-01T00:00:00Z", "2026-05-01T00:00:00Z"

MEMBERS, STAFF, BOOKED = (
    "LON | MEMBERS | AMENITIES | BH",
    "LON | STAFF | RESTRICTED | 24x7",
    "LON | BOOKINGS | BOOKABLE | TIMEBOUND",
)

ROOM: JsonObject = {
    "type": "booking", "id": "b", "holders": ["h0"], "zones": ["room"], "doors": [],
    "start": "2026-06-09T09:00:00Z", "end": "2026-06-09T10:00:00Z",
}  # fmt: skip
BAN: JsonObject = {
    "type": "exception", "id": "e", "holder": "h0", "effect": "deny", "zones": ["club"],
    "doors": [], "from": PAST, "until": LATER, "reason": "noise", "issued_by": "desk",
}  # fmt: skip


def rows(people: int = 100) -> dict[tuple[str, str], JsonObject]:
    """`people` members; the first also in the group for bookings."""
    found: list[JsonObject] = [
        {"type": "site", "id": "LON", "timezone": "Europe/London"},
        {"type": "policy", "id": "policy", "grace_hours": 72},
        {"type": "zone", "id": "street", "category": "public"},
        {"type": "zone", "id": "club", "category": "member"},
        {"type": "zone", "id": "room", "category": "bookable"},
        {"type": "zone", "id": "store", "category": "restricted"},
        {"type": "schedule", "id": "BH", "weekly": {"mon": [["09:00", "17:00"]]}},
        {"type": "schedule", "id": "NEVER", "weekly": {}},
        {"type": "door", "id": "front", "from_zone": "street", "to_zone": "club"},
        {"type": "door", "id": "room-door", "from_zone": "club", "to_zone": "room"},
        {"type": "door", "id": "cage", "from_zone": "club", "to_zone": "store", "egress": False},
        {"type": "group", "id": MEMBERS, "zones": ["club"], "doors": [], "schedule": "BH"},
        {"type": "group", "id": STAFF, "zones": ["store"], "doors": ["cage"], "schedule": "24x7"},
        {"type": "group", "id": BOOKED, "zones": ["room"], "doors": ["front"],
         "schedule": "timebound"},
    ]  # fmt: skip
    for number in range(people):
        found += [
            {"type": "holder", "id": f"h{number}", "persona": "member", "status": "active",
             "groups": [MEMBERS, BOOKED] if number == 0 else [MEMBERS]},
            {"type": "credential", "id": f"c{number}", "holder": f"h{number}", "kind": "uid",
             "value": f"{number:08X}"},
        ]  # fmt: skip
    return {(str(row["type"]), str(row["id"])): row for row in found}


def records(*changes: JsonObject, people: int = 100) -> ValidRecords:
    found = rows(people)
    for change in changes:
        key = (str(change["type"]), str(change["id"]))
        found[key] = found.get(key, {}) | change
    return parse_records(lines(found.values())).records


def holders(count: int, **members: Any) -> list[JsonObject]:
    return [{"type": "holder", "id": f"h{number}", **members} for number in range(count)]


def of(*changes: JsonObject, was: ValidRecords | None = None) -> Impact:
    return impact(was or records(), records(*changes), AT)


def test_the_same_records_change_nothing() -> None:
    found = of()
    # A member has the front door and, as it isn't free to leave by, the way out of the cage.
    assert (found.grants_before, found.grants_after, found.taken, found.given) == (200, 200, 0, 0)
    assert found.hours_before == 200 * 8
    assert found.needs_second_signature() == ()


@pytest.mark.parametrize(
    "members",
    [
        {"status": "suspended"},
        {"groups": []},
        {"valid_until": "2026-06-01T09:00:00Z"},
        {"delinquent_since": "2026-05-29T09:00:00Z"},
    ],
)
def test_whoever_may_not_pass_any_more_has_lost_their_grants(members: Any) -> None:
    found = of(*holders(30, **members))
    assert (found.taken, found.given) == (60, 0)
    assert found.taken_share == 0.3
    (why,) = found.needs_second_signature()
    assert why.startswith("takes 60 of 200 grants")


SOON, BANNED = (
    "2026-06-01T09:01:00Z",
    {**BAN, "from": "2026-06-01T09:01:00Z", "until": "2026-06-05T00:00:00Z"},
)


@pytest.mark.parametrize(
    "changes",
    [
        holders(30, valid_until=SOON),
        holders(30, delinquent_since="2026-05-29T09:01:00Z"),
        [{"type": "credential", "id": f"c{n}", "valid_until": SOON} for n in range(30)],
        [{**BANNED, "id": f"e{n}", "holder": f"h{n}"} for n in range(30)],
    ],
)
def test_what_is_made_to_end_within_a_week_is_taken_already(changes: list[JsonObject]) -> None:
    found = of(*changes)
    assert found.taken >= 30
    assert found.given == 0
    assert of(*changes, was=records(*changes)).taken == 0


def test_who_stays_beyond_the_end_of_the_month_has_been_given_nothing() -> None:
    ending = records(*holders(100, valid_until="2026-06-05T00:00:00Z"))
    found = of(was=ending)
    assert (found.grants_before, found.taken, found.given) == (200, 0, 0)


def test_a_lost_card_takes_grants_and_one_that_expired_as_well() -> None:
    lost: JsonObject = {"type": "credential", "id": "c1", "status": "lost"}
    expired: JsonObject = {"type": "credential", "id": "c2", "valid_until": PAST}
    assert of(lost, expired).taken == 4


def test_few_changes_are_let_pass_however_large_their_share() -> None:
    found = impact(records(people=4), records(*holders(3, status="ended"), people=4), AT)
    assert found.taken_share == 0.75
    assert found.needs_second_signature() == ()


def test_an_emptied_site_needs_two_however_small_it_is() -> None:
    found = impact(records(people=2), records(*holders(2, status="ended"), people=2), AT)
    assert found.emptied
    assert found.needs_second_signature() == (
        "the site is emptied: none of 4 grants is left",
    )  # four are fewer than count as a share


def test_the_first_records_of_all_need_no_second_signature() -> None:
    nothing = [row for key, row in rows(0).items() if key[0] in ("site", "policy")]
    found = impact(parse_records(lines(nothing)).records, records(), AT)
    assert found.first
    assert found.given == 200
    assert found.needs_second_signature() == ()


def test_longer_hours_for_everybody_are_given_though_no_door_is_new() -> None:
    found = of({"type": "group", "id": MEMBERS, "schedule": "24x7"})
    assert (found.given, found.widened, found.hours_given) == (0, 200, 200 * 160)
    (why,) = found.needs_second_signature()
    assert why.startswith("gives 0 grants to 200 and 2000% more hours")
    back = impact(records({"type": "group", "id": MEMBERS, "schedule": "24x7"}), records(), AT)
    assert (back.taken, back.narrowed) == (0, 200)
    assert len(back.needs_second_signature()) == 1


def test_a_schedule_that_never_opens_takes_the_grants_themselves() -> None:
    assert of({"type": "group", "id": MEMBERS, "schedule": "NEVER"}).emptied


def test_a_restricted_zone_opened_to_more_than_a_few_needs_two_signatures() -> None:
    few = of(*holders(LIMITS.restricted_holders_max, groups=[MEMBERS, STAFF]))
    assert few.restricted_holders == ("h0", "h1", "h2")
    assert few.needs_second_signature() == ()
    more = of(*holders(LIMITS.restricted_holders_max + 1, groups=[MEMBERS, STAFF]))
    (why,) = more.needs_second_signature()
    assert why.startswith("opens restricted zones to 4 more holders")


def test_a_zone_that_is_no_longer_restricted_still_counts_as_one() -> None:
    renamed: JsonObject = {"type": "zone", "id": "store", "category": "member"}
    found = of(renamed, *holders(5, groups=[MEMBERS, STAFF]))
    assert found.unrestricted_zones == ("store",)
    assert len(found.restricted_holders) == 5
    assert len(found.needs_second_signature()) == 2


def test_a_door_that_would_stand_unlocked_needs_two_unless_it_was_so_before() -> None:
    unlocked: JsonObject = {"type": "door", "id": "cage", "unlock_schedule": "24x7"}
    found = of(unlocked)
    assert found.standing_open == ("cage",)
    assert found.needs_second_signature() == ("stands unlocked in more hours: door cage",)
    assert impact(records(unlocked), records(unlocked), AT).needs_second_signature() == ()
    shorter: JsonObject = {"type": "door", "id": "cage", "unlock_schedule": "BH"}
    assert impact(records(unlocked), records(shorter), AT).standing_open == ()


def test_no_way_round_by_making_a_zone_public_or_deleting_it_first() -> None:
    unlocked: JsonObject = {"type": "door", "id": "front", "unlock_schedule": "24x7"}
    public: JsonObject = {"type": "zone", "id": "club", "category": "public"}
    assert of(public, unlocked).needs_second_signature() == ()
    again = of(unlocked, was=records(public, unlocked))
    assert again.standing_open == ("front",)
    gone = rows()
    del gone["zone", "store"], gone["door", "cage"], gone["group", STAFF]
    without = parse_records(lines(gone.values())).records
    assert impact(records(), without, AT).unrestricted_zones == ("store",)


def test_a_booking_gives_its_room_and_the_way_there_until_it_is_over() -> None:
    alone = holders(1, groups=[BOOKED])
    without = records(*alone)
    found = of(ROOM, *alone, was=without)
    assert (found.given, found.hours_given) == (2, 0)
    past = ROOM | {"start": "2026-05-31T09:00:00Z", "end": "2026-05-31T10:00:00Z"}
    cancelled = ROOM | {"status": "cancelled"}
    assert of(past, *alone, was=without).given == of(cancelled, *alone, was=without).given == 0


def test_exceptions_give_and_take_while_they_last() -> None:
    assert (of(BAN).taken, of(BAN).given) == (2, 0)
    assert of(BAN | {"from": LATER, "until": "2026-08-01T00:00:00Z"}).taken == 0
    assert of(BAN | {"until": "2026-06-01T09:00:00Z"}).taken == 0
    let_in = BAN | {"effect": "allow", "zones": ["store"], "from": LATER,
                    "until": "2026-08-01T00:00:00Z"}  # fmt: skip
    assert of(let_in).restricted_holders == ("h0",)


@pytest.mark.parametrize("name", SITE_NAMES)
def test_whom_the_decision_lets_in_now_has_a_grant(name: str) -> None:
    valid = parse_records(conformance_lines(name, "records")).records
    at = datetime(2026, 1, 9, 12, tzinfo=UTC)
    decided = RecordSet(valid)
    passing = {
        (credential.holder, door)
        for credential in valid.credentials.values()
        for door in valid.tables.doors
        if (
            answer := decide(
                decided,
                Request(
                    door=door,
                    credentials=(PresentedCredential(credential.kind, credential.value),),
                    at=at,
                ),
            )
        ).outcome
        == "grant"
        and answer.holder == credential.holder
    }
    found = impact(valid, valid, at)
    assert len(passing) <= found.grants_before
    assert (found.taken, found.given, found.narrowed, found.widened) == (0, 0, 0, 0)
