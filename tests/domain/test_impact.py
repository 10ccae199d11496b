"""Each thing that the guard before an apply looks at, and what it lets pass."""

from datetime import UTC, datetime
from typing import Any

import pytest

from gateway.domain.decision import PresentedCredential, Request, decide
from gateway.domain.entitlements import RecordSet, ValidRecords
from gateway.domain.impact import LIMITS, Impact, impact
from gateway.domain.record_faults import parse_records
from gateway.domain.records import Door, Group, Policy, Schedule, Site, Zone
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


def test_who_stays_a_year_beyond_the_end_of_the_month_has_been_given_nothing() -> None:
    ending = records(*holders(100, valid_until="2026-06-05T00:00:00Z"))
    found = of(*holders(100, valid_until="2027-06-05T00:00:00Z"), was=ending)
    assert (found.grants_before, found.taken, found.given) == (200, 0, 0)
    for longer in ({"valid_until": FOR_EVER}, {}):
        assert of(*holders(100, **longer), was=ending).given == 200


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
    _, why = found.needs_second_signature()
    assert why.startswith("gives 0 grants to 200 and 2000% more hours")
    back = impact(records({"type": "group", "id": MEMBERS, "schedule": "24x7"}), records(), AT)
    assert (back.taken, back.narrowed) == (0, 200)
    assert len(back.needs_second_signature()) == 2


def test_a_schedule_that_never_opens_takes_the_grants_themselves() -> None:
    assert of({"type": "group", "id": MEMBERS, "schedule": "NEVER"}).emptied


def test_a_restricted_zone_opened_to_more_than_a_few_needs_two_signatures() -> None:
    few = of(*holders(LIMITS.restricted_holders_max, groups=[MEMBERS, STAFF]))
    assert few.restricted_holders == ("h0", "h1", "h2")
    assert few.needs_second_signature() == ()
    more = of(*holders(LIMITS.restricted_holders_max + 1, groups=[MEMBERS, STAFF]))
    (why,) = more.needs_second_signature()
    assert why.startswith("opens restricted zones, or doors under lockdown, to 4 more holders")


def test_a_zone_that_is_no_longer_restricted_still_counts_as_one() -> None:
    renamed: JsonObject = {"type": "zone", "id": "store", "category": "member"}
    found = of(renamed, *holders(5, groups=[MEMBERS, STAFF]))
    assert len(found.restricted_holders) == 5
    assert len(found.needs_second_signature()) == 2


# --- Records that are about nobody ----------------------------------------------------------------

AHEAD = {"2026-06-10": "in nine days", "2030-01-01": "in years"}
SITE_CHANGES: list[tuple[str, Any]] = [
    ("site: timezone", [{"type": "site", "id": "LON", "timezone": "Asia/Tokyo"}]),
    *(
        (f"policy: {field}", [{"type": "policy", "id": "policy", member: value}])
        for field, member, value in (
            ("booking_before", "booking_before_min", 1440),
            ("booking_after", "booking_after_min", 1440),
            ("grace", "grace_hours", 720),
            ("lockdown_exempt_personas", "lockdown_exempt_personas", ["staff", "member"]),
            ("untrusted_clock", "untrusted_clock", "allow"),
            ("max_age", "max_age_h", {"member": 8760}),
            ("max_age_exempt_personas", "max_age_exempt_personas", ["visitor"]),
            ("pin_max_attempts", "pin_max_attempts", 10),
            ("pin_lockout", "pin_lockout_s", 10),
            ("journal_retention", "journal_retention_days", 1),
        )
    ),
    *(
        (f"door cage: {field}", [{"type": "door", "id": "cage", member: value}])
        for field, member, value in (
            ("from_zone", "from_zone", "street"),
            ("to_zone", "to_zone", "street"),
            ("criticality", "criticality", "low"),
            ("egress", "egress", True),
            ("unlock", "unlock_s", 60),
            ("extended_unlock", "extended_unlock_s", 180),
            ("held_open", "held_open_s", 3600),
            ("unlock_schedule", "unlock_schedule", "24x7"),
            ("unlock_after_first", "unlock_after_first", True),
            ("second_factor_schedule", "second_factor_schedule", "BH"),
            ("pin_alone", "pin_alone", True),
            ("antipassback", "antipassback", "hard"),
            ("two_person", "two_person", True),
            ("interlock", "interlock", "a"),
            ("max_occupancy", "max_occupancy", 1),
        )
    ),
    ("zone store: category", [{"type": "zone", "id": "store", "category": "public"}]),
    ("schedule BH: weekly", [{"type": "schedule", "id": "BH", "weekly": {}}]),
    ("schedule BH: timezone", [{"type": "schedule", "id": "BH", "timezone": "Asia/Tokyo"}]),
    (
        "calendar ahead is added; schedule BH: holidays",
        [
            {"type": "calendar", "id": "ahead", "dates": AHEAD},
            {"type": "schedule", "id": "BH", "holidays": [{"calendar": "ahead", "intervals": []}]},
        ],
    ),
    (f"group {MEMBERS}: zones", [{"type": "group", "id": MEMBERS, "zones": ["club", "room"]}]),
    (f"group {MEMBERS}: doors", [{"type": "group", "id": MEMBERS, "doors": ["room-door"]}]),
    (f"group {MEMBERS}: schedule", [{"type": "group", "id": MEMBERS, "schedule": "24x7"}]),
    ("zone new is added", [{"type": "zone", "id": "new", "category": "public"}]),
]


@pytest.mark.parametrize(("what", "changes"), SITE_CHANGES, ids=[what for what, _ in SITE_CHANGES])
@pytest.mark.parametrize("people", [4, 20, 100])
def test_whatever_holds_for_the_site_needs_two(
    what: str, changes: list[JsonObject], people: int
) -> None:
    there, changed = records(people=people), records(*changes, people=people)
    for was, new in ((there, changed), (changed, there)):
        (why, *_) = impact(was, new, AT).needs_second_signature()
        assert why == f"changes the site: {what if new is changed else why[18:]}"


def test_each_member_of_a_record_about_nobody_is_looked_at() -> None:
    """A member that is added to a record later asks for two as well, without a line here."""
    looked_at = {what.rpartition(": ")[2] for what, _ in SITE_CHANGES}
    decides = {
        field
        for struct in (Site, Policy, Zone, Door, Schedule, Group)
        for field in struct.__struct_fields__
    } - {"id", "name"}
    assert decides == looked_at & decides


def test_a_name_is_only_shown() -> None:
    named: JsonObject = {"type": "door", "id": "cage", "name": "The cage"}
    zone: JsonObject = {"type": "zone", "id": "club", "name": "The club"}
    assert of(named, zone).needs_second_signature() == ()


def test_many_changes_of_a_site_are_counted() -> None:
    zones: list[JsonObject] = [
        {"type": "zone", "id": f"z{n:02}", "category": "member"} for n in range(30)
    ]
    (why,) = of(*zones).needs_second_signature()
    assert why.endswith("zone z19 is added; 10 more records")


# --- At any date, by any member of a person's records, and at small sites -------------------------

IN_NINE_DAYS = "2026-06-10T09:00:00Z"
FOR_EVER = "9999-01-01T00:00:00Z"


def each(count: int, record_type: str, prefix: str, **members: Any) -> list[JsonObject]:
    return [
        {
            "type": record_type,
            "id": f"{prefix}{n}",
            **{name: of_holder(value, n) for name, value in members.items()},
        }
        for n in range(count)
    ]


def of_holder(value: Any, number: int) -> Any:
    return value.replace("#", f"{number:04X}") if isinstance(value, str) else value


def everybody(kind: str, count: int, **members: Any) -> list[JsonObject]:
    exception = {
        "holder": "h#", "zones": ["club"], "doors": [], "from": PAST, "until": LATER,
        "reason": "a reason", "issued_by": "desk",
    }  # fmt: skip
    booking = {"holders": ["h0"], "zones": ["club"], "doors": [], "start": PAST, "end": LATER}
    match kind:
        case "holder":
            return holders(count, **members)
        case "credential":
            return each(count, "credential", "c", **members)
        case "exception":
            return [
                {**row, "holder": f"h{n}"}
                for n, row in enumerate(each(count, "exception", "e", **exception | members))
            ]
        case _:
            return [
                {**row, "holders": [f"h{n}"]}
                for n, row in enumerate(each(count, "booking", "b", **booking | members))
            ]


TIGHTER: list[tuple[str, list[tuple[str, dict[str, Any]]], list[tuple[str, dict[str, Any]]]]] = [
    ("a holder's end in nine days", [], [("holder", {"valid_until": IN_NINE_DAYS})]),
    ("a holder's beginning", [], [("holder", {"valid_from": IN_NINE_DAYS})]),
    ("an overdue payment", [], [("holder", {"delinquent_since": "2026-05-31T09:00:00Z"})]),
    ("the groups", [], [("holder", {"groups": []})]),
    ("a privilege", [("holder", {"extended_unlock": True})], [("holder", {})]),
    ("an exempt persona", [("holder", {"persona": "staff"})], [("holder", {})]),
    ("a card's end in nine days", [], [("credential", {"valid_until": IN_NINE_DAYS})]),
    ("a card's beginning", [], [("credential", {"valid_from": IN_NINE_DAYS})]),
    ("a card's uses", [], [("credential", {"max_uses": 1})]),
    ("a card's value", [], [("credential", {"value": "AAAA#"})]),
    ("a lost card", [], [("credential", {"status": "lost"})]),
    (
        "a card beside a PIN",
        [("pin", {})],
        [("pin", {}), ("credential", {"status": "suspended"})],
    ),
    ("a ban in nine days", [], [("exception", {"effect": "deny", "from": IN_NINE_DAYS})]),
    (
        "a longer ban",
        [("exception", {"effect": "deny", "from": IN_NINE_DAYS})],
        [("exception", {"effect": "deny", "from": IN_NINE_DAYS, "until": FOR_EVER})],
    ),
    (
        "a shorter exception",
        [("exception", {"effect": "allow", "until": FOR_EVER})],
        [("exception", {"effect": "allow", "until": IN_NINE_DAYS})],
    ),
    (
        "a shorter booking",
        [("booking", {"end": FOR_EVER})],
        [("booking", {"end": IN_NINE_DAYS})],
    ),
    (
        "a later booking",
        [("booking", {"end": "2026-07-01T00:00:00Z"})],
        [("booking", {"start": IN_NINE_DAYS, "end": "2026-07-01T00:00:00Z"})],
    ),
]


def with_everybody(
    changes: list[tuple[str, dict[str, Any]]], count: int, people: int
) -> ValidRecords:
    rows = [
        row
        for kind, members in changes
        for row in (
            each(count, "credential", "pin", holder="-", kind="pin", value="1#", status="active")
            if kind == "pin"
            else everybody(kind, count, **members)
        )
    ]
    for row in rows:
        if str(row["id"]).startswith("pin"):
            number = int(str(row["id"])[3:])
            row |= {"holder": f"h{number}", "value": f"{100_000 + number}"}
    return records(*rows, people=people)


@pytest.mark.parametrize(("what", "was", "new"), TIGHTER, ids=[what for what, *_ in TIGHTER])
@pytest.mark.parametrize("people", [20, 100])
def test_what_is_tighter_for_many_is_taken_whenever_it_begins(
    what: str, was: Any, new: Any, people: int
) -> None:
    del what
    found = impact(with_everybody(was, people, people), with_everybody(new, people, people), AT)
    assert any(
        why.startswith(("takes ", "the site is emptied")) for why in found.needs_second_signature()
    )
    one = impact(with_everybody(was, 1, people), with_everybody(new, 1, people), AT)
    assert one.needs_second_signature() == ()


@pytest.mark.parametrize(
    ("what", "new", "was"),
    [each_ for each_ in TIGHTER if each_[0] != "an overdue payment"],
    ids=[what for what, *_ in TIGHTER if what != "an overdue payment"],
)
@pytest.mark.parametrize("people", [20, 100])
def test_what_is_looser_for_many_is_given_whenever_it_begins(
    what: str, new: Any, was: Any, people: int
) -> None:
    del what
    found = impact(with_everybody(was, people, people), with_everybody(new, people, people), AT)
    assert any(
        why.startswith(("gives ", "opens restricted")) for why in found.needs_second_signature()
    )


def test_who_moves_to_a_group_that_closes_on_a_date_to_come_has_lost_it() -> None:
    there: list[JsonObject] = [
        {"type": "calendar", "id": "ahead", "dates": {"2026-06-15": "a Monday"}},
        {"type": "schedule", "id": "LESS", "weekly": {"mon": [["09:00", "17:00"]]},
         "holidays": [{"calendar": "ahead", "intervals": []}]},
        {"type": "group", "id": "LESS", "zones": ["club"], "doors": [], "schedule": "LESS"},
    ]  # fmt: skip
    was = records(*there)
    new = records(*there, *holders(100, groups=["LESS"]))
    found = impact(was, new, AT)
    assert (found.narrowed, found.hours_taken) == (0, 0)
    assert [why.split()[0] for why in found.needs_second_signature()] == ["takes"]
    back = impact(new, was, AT)
    assert [why.split()[0] for why in back.needs_second_signature()] == ["gives"]


def test_another_value_in_a_credential_into_a_restricted_zone_needs_two() -> None:
    staff = holders(1, groups=[MEMBERS, STAFF])
    was = records(*staff)
    (why,) = of(
        *staff, {"type": "credential", "id": "c0", "value": "DEADBEEF"}, was=was
    ).needs_second_signature()
    assert why == "another card into a restricted zone: credential c0"
    moved = of(*staff, {"type": "credential", "id": "c1", "holder": "h0"}, was=was)
    assert len(moved.needs_second_signature()) == 1


def test_a_further_card_into_a_restricted_zone_counts_as_a_holder_more() -> None:
    staff = holders(5, groups=[MEMBERS, STAFF])
    cards: list[JsonObject] = [
        {"type": "credential", "id": f"new-{n}", "holder": f"h{n}", "kind": "uid",
         "value": f"AA{n:06X}"}
        for n in range(5)
    ]  # fmt: skip
    lost: JsonObject = {"type": "credential", "id": "c0", "status": "lost"}
    was = records(*staff)
    assert of(*staff, lost, cards[0], was=was).needs_second_signature() == ()
    (why,) = of(*staff, *cards, was=was).needs_second_signature()
    assert why.startswith("opens restricted zones, or doors under lockdown, to 5 more holders")


def test_what_a_small_site_does_in_a_day_needs_one_signature() -> None:
    was = records(people=20)
    for change in (
        holders(3, status="ended"),
        [{"type": "credential", "id": "c1", "status": "lost"}],
        [ROOM | {"zones": ["club"]}],
        [
            row
            for n in range(10)
            for row in (
                {"type": "holder", "id": f"new{n}", "persona": "member", "status": "active",
                 "groups": [MEMBERS]},
                {"type": "credential", "id": f"cnew{n}", "holder": f"new{n}", "kind": "uid",
                 "value": f"AA{n:06X}"},
            )
        ],
    ):  # fmt: skip
        assert impact(was, records(*change, people=20), AT).needs_second_signature() == ()


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
    assert of(BAN | {"from": LATER, "until": "2026-08-01T00:00:00Z"}).taken == 2
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
