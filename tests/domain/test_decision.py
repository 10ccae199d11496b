"""The truth table of the decision: a row a rule, in the order of the specification's steps."""

from itertools import pairwise

import pytest

from gateway.domain.decision import Request, decide, parse_request
from gateway.domain.entitlements import NO_RECORDS
from gateway.domain.instants import format_instant
from gateway.errors import RequestError
from tests.domain.sites import (
    BOBS_PIN,
    BOOKED,
    CARD,
    CLOSED,
    DAY_PASS,
    NIGHT,
    OPEN,
    PIN,
    JsonObject,
    request,
    site,
)

ANN: JsonObject = {"type": "holder", "id": "ann"}
ANNS_CARD: JsonObject = {"type": "credential", "id": "card"}
ANNS_PIN: JsonObject = {"type": "credential", "id": "pin"}
FRONT: JsonObject = {"type": "door", "id": "front"}
POLICY: JsonObject = {"type": "policy", "id": "policy"}
BY_DAY: JsonObject = ANN | {"groups": [DAY_PASS]}
BY_BOOKING: JsonObject = ANN | {"groups": [BOOKED]}
NOBODY: JsonObject = ANN | {"groups": []}
SECOND_FACTOR: JsonObject = FRONT | {"second_factor_schedule": "24x7"}
NO_EGRESS: JsonObject = FRONT | {"egress": False}
UNTRUSTED: JsonObject = {"clock": "untrusted"}


def booking(booking_id: str = "b", **members: object) -> JsonObject:
    """Of the club for Ann, from 09:00 to 10:00 UTC."""
    usual: JsonObject = {
        "type": "booking",
        "id": booking_id,
        "holders": ["ann"],
        "zones": ["club"],
        "doors": [],
        "start": "2026-06-01T09:00:00Z",
        "end": "2026-06-01T10:00:00Z",
    }
    return usual | members


def exception(effect: str, exception_id: str = "e", **members: object) -> JsonObject:
    """Of the front door for Ann, from 08:00 to 10:00 UTC."""
    usual: JsonObject = {
        "type": "exception",
        "id": exception_id,
        "holder": "ann",
        "effect": effect,
        "zones": [],
        "doors": ["front"],
        "from": "2026-06-01T08:00:00Z",
        "until": "2026-06-01T10:00:00Z",
        "reason": "move",
        "issued_by": "ops",
    }
    return usual | members


def to_the_front(group_id: str) -> JsonObject:
    """A group of the front door at all times."""
    return {"type": "group", "id": group_id, "zones": [], "doors": ["front"], "schedule": "24x7"}


Row = tuple[str, list[JsonObject], JsonObject, str]

# What it shows; changes to the site; changes to the request; outcome, reason, via.
ROWS: list[Row] = [
    # 1
    ("1: a door in no record", [], {"door": "nowhere"}, "deny unknown_door -"),
    ("1: before 2", [], {"door": "nowhere", "side": "out"}, "deny unknown_door -"),
    # 2
    ("2: leaving needs nothing", [NOBODY], {"side": "out"}, "grant egress -"),
    (
        "2: leaving with a card nobody knows",
        [],
        {"side": "out", "credentials": [{"kind": "?", "value": ""}]},
        "grant egress -",
    ),
    ("2: leaving under lockdown", [], {"side": "out", "lockdown": True}, "grant egress -"),
    ("2: no egress there", [NO_EGRESS, NOBODY], {"side": "out"}, "deny no_entitlement -"),
    # 3
    (
        "3: a card in no record",
        [],
        {"credentials": [{"kind": "uid", "value": "FFFFFFFF"}]},
        "deny unknown_credential -",
    ),
    (
        "3: a value of another kind",
        [],
        {"credentials": [{"kind": "sun", "value": "04A1B2C3"}]},
        "deny unknown_credential -",
    ),
    # 4
    ("4: suspended", [ANNS_CARD | {"status": "suspended"}], {}, "deny credential_suspended -"),
    ("4: lost", [ANNS_CARD | {"status": "lost"}], {}, "deny credential_lost -"),
    ("4: stolen", [ANNS_CARD | {"status": "stolen"}], {}, "deny credential_stolen -"),
    ("4: returned", [ANNS_CARD | {"status": "returned"}], {}, "deny credential_returned -"),
    (
        "4: before valid_from",
        [ANNS_CARD | {"valid_from": "2026-06-01T09:00:00.001Z"}],
        {},
        "deny credential_not_yet_valid -",
    ),
    ("4: at valid_from", [ANNS_CARD | {"valid_from": OPEN}], {}, f"grant group {NIGHT}"),
    ("4: at valid_until", [ANNS_CARD | {"valid_until": OPEN}], {}, "deny credential_expired -"),
    (
        "4: before valid_until",
        [ANNS_CARD | {"valid_until": "2026-06-01T09:00:00.001Z"}],
        {},
        f"grant group {NIGHT}",
    ),
    (
        "4: before 5",
        [ANNS_CARD | {"status": "lost"}, ANN | {"status": "ended"}],
        {},
        "deny credential_lost -",
    ),
    # 5
    ("5: pending", [ANN | {"status": "pending"}], {}, "deny membership_pending -"),
    ("5: suspended", [ANN | {"status": "suspended"}], {}, "deny membership_suspended -"),
    ("5: ended", [ANN | {"status": "ended"}], {}, "deny membership_ended -"),
    (
        "5: before valid_from",
        [ANN | {"valid_from": "2026-06-01T09:00:00.001Z"}],
        {},
        "deny membership_not_started -",
    ),
    ("5: at valid_until", [ANN | {"valid_until": OPEN}], {}, "deny membership_ended -"),
    # 6
    (
        "6: the grace has run out",
        [ANN | {"delinquent_since": "2026-05-29T09:00:00Z"}],
        {},
        "deny payment_overdue -",
    ),
    (
        "6: the last of the grace",
        [ANN | {"delinquent_since": "2026-05-29T09:00:00.001Z"}],
        {},
        f"grant group {NIGHT}",
    ),
    (
        "6: no grace",
        [ANN | {"delinquent_since": OPEN}, POLICY | {"grace_hours": 0}],
        {},
        "deny payment_overdue -",
    ),
    (
        "6: the grace ends after all instants",
        [ANN | {"delinquent_since": "9999-12-31T00:00:00Z"}],
        {"at": "9999-12-31T23:59:59.999Z"},
        f"grant group {NIGHT}",
    ),
    # 7
    ("7: lockdown", [], {"lockdown": True}, "deny lockdown -"),
    ("7: staff pass", [ANN | {"persona": "staff"}], {"lockdown": True}, f"grant group {NIGHT}"),
    (
        "7: unless the policy says otherwise",
        [ANN | {"persona": "staff"}, POLICY | {"lockdown_exempt_personas": []}],
        {"lockdown": True},
        "deny lockdown -",
    ),
    # 8
    (
        "8: the records are too old for the zone entered",
        [],
        {"door": "office-door", "as_of": "2026-05-31T09:00:00Z"},
        "deny entitlements_stale -",
    ),
    (
        "8: they are as old as may be",
        [],
        {"door": "office-door", "as_of": "2026-05-31T09:00:00.001Z"},
        f"grant group {NIGHT}",
    ),
    (
        "8: no limit for the zone entered",
        [],
        {"as_of": "2020-01-01T00:00:00Z"},
        f"grant group {NIGHT}",
    ),
    (
        "8: an exempt persona",
        [POLICY | {"max_age_h": {"tenant": 24}, "max_age_exempt_personas": ["member"]}],
        {"door": "office-door", "as_of": "2020-01-01T00:00:00Z"},
        f"grant group {NIGHT}",
    ),
    (
        "8: with a trusted clock they may be from later on",
        [],
        {"door": "office-door", "as_of": "2026-06-02T09:00:00Z"},
        f"grant group {NIGHT}",
    ),
    (
        "8: by side out the zone entered is from_zone",
        [
            {"type": "door", "id": "office-door", "egress": False},
            POLICY | {"max_age_h": {"member": 24}},
        ],
        {"door": "office-door", "side": "out", "as_of": "2026-05-31T09:00:00Z"},
        "deny entitlements_stale -",
    ),
    # 9
    ("9: kept out", [exception("deny")], {}, "deny exception e"),
    ("9: smallest id", [exception("deny", "b"), exception("deny", "B")], {}, "deny exception B"),
    (
        "9: by the zone entered",
        [exception("deny", doors=[], zones=["club"])],
        {},
        "deny exception e",
    ),
    ("9: from is in", [exception("deny", **{"from": OPEN})], {}, "deny exception e"),
    ("9: until is out", [exception("deny", until=OPEN)], {}, f"grant group {NIGHT}"),
    (
        "9: not yet, with a trusted clock",
        [exception("deny")],
        {"at": "2026-06-01T07:00:00Z"},
        f"grant group {NIGHT}",
    ),
    (
        "9: strict, its begin doesn't count",
        [exception("deny")],
        {"at": "2026-06-01T07:00:00Z"} | UNTRUSTED,
        "deny exception e",
    ),
    ("9: another door", [exception("deny", doors=["vault"])], {}, f"grant group {NIGHT}"),
    # 10.1
    ("10.1: in hours", [BY_DAY], {}, f"grant group {DAY_PASS}"),
    (
        "10.1: smallest id by code point",
        [
            ANN | {"groups": ["b", "É", "B", "B"]},
            to_the_front("É"),
            to_the_front("b"),
            to_the_front("B"),
        ],
        {},
        "grant group B",
    ),
    (
        "10.1: a smaller one that is closed doesn't count",
        [ANN | {"groups": [DAY_PASS, NIGHT]}],
        {"at": CLOSED},
        f"grant group {NIGHT}",
    ),
    ("10.1: timebound", [BY_BOOKING, booking(zones=[])], {}, f"grant group {BOOKED}"),
    (
        "10.1: timebound opens no bookable zone that wasn't booked",
        [BY_BOOKING, booking()],
        {"door": "room-door"},
        "deny no_entitlement -",
    ),
    (
        "10.1: timebound opens the bookable zone that was booked",
        [BY_BOOKING, booking(zones=["room"])],
        {"door": "room-door"},
        f"grant group {BOOKED}",
    ),
    # 10.2
    ("10.2: booked", [NOBODY, booking()], {}, "grant booking b"),
    ("10.2: before 10.3", [NOBODY, booking(), exception("allow")], {}, "grant booking b"),
    ("10.2: smallest id", [NOBODY, booking("b"), booking("B")], {}, "grant booking B"),
    (
        "10.2: the policy's minutes before",
        [NOBODY, booking()],
        {"at": "2026-06-01T08:45:00Z"},
        "grant booking b",
    ),
    (
        "10.2: and none earlier",
        [NOBODY, booking()],
        {"at": "2026-06-01T08:44:59.999Z"},
        "deny booking_not_started b",
    ),
    (
        "10.2: its own minutes before, even none",
        [NOBODY, booking(before_min=0)],
        {"at": "2026-06-01T08:59:59.999Z"},
        "deny booking_not_started b",
    ),
    (
        "10.2: the policy's minutes after",
        [NOBODY, booking()],
        {"at": "2026-06-01T10:04:59.999Z"},
        "grant booking b",
    ),
    (
        "10.2: and none later",
        [NOBODY, booking()],
        {"at": "2026-06-01T10:05:00Z"},
        "deny booking_over b",
    ),
    ("10.2: cancelled", [NOBODY, booking(status="cancelled")], {}, "deny no_entitlement -"),
    ("10.2: somebody else's", [NOBODY, booking(holders=["bob"])], {}, "deny no_entitlement -"),
    (
        "10.2: a window that ends after all instants",
        [NOBODY, booking(start="9999-12-31T00:00:00Z", end="9999-12-31T23:59:59.999Z")],
        {"at": "9999-12-31T23:59:59.999Z"},
        "grant booking b",
    ),
    # 10.3
    ("10.3: let in", [NOBODY, exception("allow")], {}, "grant exception e"),
    (
        "10.3: from is in",
        [NOBODY, exception("allow", **{"from": OPEN})],
        {},
        "grant exception e",
    ),
    ("10.3: until is out", [NOBODY, exception("allow", until=OPEN)], {}, "deny no_entitlement -"),
    (
        "10.3: smallest id",
        [NOBODY, exception("allow", "b"), exception("allow", "a")],
        {},
        "grant exception a",
    ),
    # 10, strict
    ("10: strict, 24x7 counts", [], UNTRUSTED, f"grant group {NIGHT}"),
    ("10: strict, hours don't", [BY_DAY], UNTRUSTED, "deny clock_untrusted -"),
    ("10: strict, bookings don't", [NOBODY, booking()], UNTRUSTED, "deny clock_untrusted -"),
    (
        "10: strict, timebound doesn't",
        [BY_BOOKING, booking(zones=[])],
        UNTRUSTED,
        "deny clock_untrusted -",
    ),
    (
        "10: strict, exceptions don't",
        [NOBODY, exception("allow")],
        UNTRUSTED,
        "deny clock_untrusted -",
    ),
    (
        "10: strict, but there is no grant with a trusted clock either",
        [BY_DAY],
        {"at": CLOSED} | UNTRUSTED,
        f"deny outside_schedule {DAY_PASS}",
    ),
    (
        "10: the policy allows an untrusted clock",
        [BY_DAY, POLICY | {"untrusted_clock": "allow"}],
        UNTRUSTED,
        f"grant group {DAY_PASS}",
    ),
    (
        "10: an untrusted at before as_of is taken to be as_of",
        [BY_DAY, POLICY | {"untrusted_clock": "allow"}],
        {"at": CLOSED, "as_of": "2026-06-08T09:00:00Z"} | UNTRUSTED,
        f"grant group {DAY_PASS}",
    ),
    # 11
    ("11: out of hours", [BY_DAY], {"at": CLOSED}, f"deny outside_schedule {DAY_PASS}"),
    (
        "11: out of hours comes before a booking to come",
        [BY_DAY, booking(start="2026-06-01T21:00:00Z", end="2026-06-01T22:00:00Z")],
        {"at": CLOSED},
        f"deny outside_schedule {DAY_PASS}",
    ),
    (
        "11: the booking that begins first of those to come",
        [
            NOBODY,
            booking("over", start="2026-06-01T07:00:00Z", end="2026-06-01T07:30:00Z"),
            booking("c", start="2026-06-01T22:00:00Z", end="2026-06-01T23:00:00Z"),
            booking("b", start="2026-06-01T21:00:00Z", end="2026-06-01T22:00:00Z"),
            booking("a", start="2026-06-01T21:00:00Z", end="2026-06-01T22:00:00Z", before_min=14),
        ],
        {"at": CLOSED},
        "deny booking_not_started b",
    ),
    (
        "11: the smallest of bookings that begin together",
        [
            NOBODY,
            booking("b", start="2026-06-01T21:00:00Z", end="2026-06-01T22:00:00Z"),
            booking("B", start="2026-06-01T21:00:00Z", end="2026-06-01T23:00:00Z"),
        ],
        {"at": CLOSED},
        "deny booking_not_started B",
    ),
    (
        "11: the booking that ended last, the smallest of equals",
        [
            NOBODY,
            booking("a", end="2026-06-01T09:59:00Z"),
            booking("c"),
            booking("b", end="2026-06-01T09:59:00Z", after_min=6),
        ],
        {"at": CLOSED},
        "deny booking_over b",
    ),
    (
        "11: by a timebound way every booking counts",
        [BY_BOOKING, booking(zones=[], doors=["vault"])],
        {"at": CLOSED},
        "deny booking_over b",
    ),
    (
        "11: but not into a bookable zone",
        [BY_BOOKING, booking(zones=[], doors=["vault"])],
        {"at": CLOSED, "door": "room-door"},
        "deny no_entitlement -",
    ),
    (
        "11: and not without a timebound way",
        [NOBODY, booking(zones=[], doors=["vault"])],
        {"at": CLOSED},
        "deny no_entitlement -",
    ),
    # 12
    ("12: no PIN alone here", [], {"credentials": [PIN]}, "deny pin_not_accepted -"),
    (
        "12: a PIN alone",
        [FRONT | {"pin_alone": True}],
        {"credentials": [PIN]},
        f"grant group {NIGHT}",
    ),
    (
        "12: not while a second factor is asked for",
        [SECOND_FACTOR | {"pin_alone": True}],
        {"credentials": [PIN]},
        "deny second_factor_required -",
    ),
    (
        "12: nor where it is strict and one may be",
        [FRONT | {"pin_alone": True, "second_factor_schedule": "BH"}],
        {"credentials": [PIN], "at": CLOSED} | UNTRUSTED,
        "deny second_factor_required -",
    ),
    (
        "12: out of those hours",
        [FRONT | {"pin_alone": True, "second_factor_schedule": "BH"}],
        {"credentials": [PIN], "at": CLOSED},
        f"grant group {NIGHT}",
    ),
    (
        "12: only after a grant",
        [NOBODY],
        {"credentials": [PIN]},
        "deny no_entitlement -",
    ),
    # 13
    ("13: a PIN is asked for", [SECOND_FACTOR], {}, f"challenge pin_required {NIGHT}"),
    ("13: card and PIN", [SECOND_FACTOR], {"credentials": [CARD, PIN]}, f"grant group {NIGHT}"),
    (
        "13: a PIN that nobody has",
        [SECOND_FACTOR],
        {"credentials": [CARD, {"kind": "pin", "value": "9999"}]},
        "deny wrong_pin -",
    ),
    (
        "13: somebody else's PIN",
        [SECOND_FACTOR],
        {"credentials": [CARD, BOBS_PIN]},
        "deny wrong_pin -",
    ),
    ("13: no PIN to ask for", [SECOND_FACTOR, ANNS_PIN | {"status": "lost"}], {}, "deny no_pin -"),
    (
        "13: no PIN to ask for, whatever is presented",
        [SECOND_FACTOR, ANNS_PIN | {"valid_until": OPEN}],
        {"credentials": [CARD, PIN]},
        "deny no_pin -",
    ),
    (
        "13: one PIN is good, the one presented is not",
        [
            SECOND_FACTOR,
            ANNS_PIN | {"status": "suspended"},
            {"type": "credential", "id": "pin2", "holder": "ann", "kind": "pin", "value": "5678"},
        ],
        {"credentials": [CARD, PIN]},
        "deny wrong_pin -",
    ),
    (
        "13: a PIN that came back and was given to the holder again",
        [
            SECOND_FACTOR,
            {
                "type": "credential",
                "id": "a",
                "holder": "bob",
                "kind": "pin",
                "value": "1234",
                "status": "returned",
            },
        ],
        {"credentials": [CARD, PIN]},
        f"grant group {NIGHT}",
    ),
    (
        "13: out of those hours",
        [FRONT | {"second_factor_schedule": "BH"}],
        {"at": CLOSED},
        f"grant group {NIGHT}",
    ),
    (
        "13: strict, out of those hours",
        [FRONT | {"second_factor_schedule": "BH"}],
        {"at": CLOSED} | UNTRUSTED,
        f"challenge pin_required {NIGHT}",
    ),
    (
        "13: by side out of a door without egress as well",
        [
            SECOND_FACTOR | {"egress": False},
            ANN | {"groups": ["street"]},
            {"type": "group", "id": "street", "zones": ["street"], "doors": [], "schedule": "24x7"},
        ],
        {"side": "out"},
        "challenge pin_required street",
    ),
    # 14
    (
        "14: a PIN that isn't asked for is ignored",
        [],
        {"credentials": [CARD, {"kind": "pin", "value": "9999"}]},
        f"grant group {NIGHT}",
    ),
]


@pytest.mark.parametrize(
    ("changes", "asked", "answer"), [pytest.param(*row[1:], id=row[0]) for row in ROWS]
)
def test_each_rule_decides_as_the_specification_says(
    changes: list[JsonObject], asked: JsonObject, answer: str
) -> None:
    decision = decide(site(*changes), request(**asked))

    assert f"{decision.outcome} {decision.reason} {decision.via or '-'}" == answer


def test_the_rows_are_in_the_order_of_the_steps() -> None:
    steps = [float(row[0].split(":")[0]) for row in ROWS]
    assert all(one <= other or other == 10 for one, other in pairwise(steps))


@pytest.mark.parametrize(
    ("members", "holder"),
    [
        ({}, "ann"),
        ({"side": "out"}, "ann"),
        ({"door": "nowhere"}, None),
        ({"credentials": [{"kind": "uid", "value": "FFFFFFFF"}]}, None),
        ({"credentials": [{"kind": "uid", "value": "FFFFFFFF"}], "side": "out"}, None),
        ({"credentials": [CARD, BOBS_PIN]}, "ann"),
    ],
)
def test_the_holder_is_the_one_of_the_primary_credential(
    members: JsonObject, holder: str | None
) -> None:
    assert decide(site(), request(**members)).holder == holder


DURESS: JsonObject = ANNS_PIN | {"duress": True}


@pytest.mark.parametrize(
    ("changes", "members", "duress"),
    [
        ([DURESS], {"credentials": [CARD, PIN]}, True),
        ([DURESS], {"credentials": [PIN]}, True),
        ([DURESS], {"credentials": [CARD, PIN], "side": "out"}, True),
        ([DURESS, NOBODY], {"credentials": [CARD, PIN]}, True),
        ([DURESS, ANNS_CARD | {"status": "lost"}], {"credentials": [CARD, PIN]}, True),
        ([DURESS], {"credentials": [CARD]}, False),
        ([], {"credentials": [CARD, PIN]}, False),
        ([DURESS | {"status": "suspended"}], {"credentials": [CARD, PIN]}, False),
        ([DURESS | {"valid_until": OPEN}], {"credentials": [CARD, PIN]}, False),
        ([DURESS], {"credentials": [CARD, PIN], "door": "nowhere"}, False),
        (
            [{"type": "credential", "id": "bobs-pin", "duress": True}],
            {"credentials": [CARD, BOBS_PIN]},
            False,
        ),
        ([DURESS], {"credentials": [{"kind": "uid", "value": "FFFFFFFF"}, PIN]}, False),
    ],
)
def test_duress_is_a_usable_duress_pin_of_this_holder_whatever_the_outcome(
    changes: list[JsonObject], members: JsonObject, duress: bool
) -> None:
    assert decide(site(*changes), request(**members)).duress is duress


def test_every_door_is_unknown_before_the_first_revision() -> None:
    assert decide(NO_RECORDS, request(side="out")).reason == "unknown_door"


def test_the_live_credential_is_meant_or_else_the_returned_one_with_the_smallest_id() -> None:
    def others(status: str) -> list[JsonObject]:
        return [
            {
                "type": "credential",
                "id": name,
                "holder": "bob",
                "kind": "uid",
                "value": "04A1B2C3",
                "status": status,
            }
            for name in ("a", "z")
        ]

    live = site(*others("returned"))
    found = live.find("uid", "04A1B2C3")
    assert found is not None
    assert found.id == "card"
    back = site(ANNS_CARD | {"status": "returned"}, *others("returned"))
    found = back.find("uid", "04A1B2C3")
    assert found is not None
    assert found.id == "a"


def test_a_request_has_the_specifications_defaults() -> None:
    asked = parse_request(_line())
    assert asked == Request(door="d", credentials=asked.credentials, at=asked.at)
    assert (asked.side, asked.clock, asked.lockdown, asked.as_of) == ("in", "trusted", False, None)


def test_a_request_keeps_what_it_says_and_its_credentials_are_not_printed() -> None:
    asked = request(
        side="out",
        clock="untrusted",
        lockdown=True,
        credentials=[CARD, PIN],
        at="2026-06-01T10:00:00.5+01:00",
        as_of="2026-06-01T00:00:00-00:00",
    )

    assert (asked.side, asked.clock, asked.lockdown) == ("out", "untrusted", True)
    assert format_instant(asked.at) == "2026-06-01T09:00:00.500Z"
    assert asked.as_of is not None
    assert "1234" not in repr(asked)
    assert "04A1B2C3" not in repr(asked)


NOT_A_PIN = '{"kind": "uid", "value": ""}'
A_PIN = '{"kind": "pin", "value": "1"}'


def _line(rest: str = "", credentials: str = f"[{NOT_A_PIN}]", at: str = f'"{OPEN}"') -> str:
    return f'{{"door": "d", "credentials": {credentials}, "at": {at}{rest}}}'


@pytest.mark.parametrize(
    "line",
    [
        "",
        "null",
        "[]",
        "{}",
        "{",
        _line() + "x",
        "\ufeff" + _line(),
        _line(', "colour": 1'),
        _line(', "side": "up"'),
        _line(', "side": null'),
        _line(', "clock": "T2"'),
        _line(', "clock": null'),
        _line(', "lockdown": null'),
        _line(', "lockdown": 0'),
        _line(', "lockdown": "true"'),
        _line(', "as_of": null'),
        _line(', "as_of": 0'),
        _line(', "as_of": "2026-06-01"'),
        _line(', "at": "2026-06-01T09:00:00Z"'),
        _line(', "side": "in", "side": "out"'),
        _line(at="null"),
        _line(at="1780304400"),
        _line(at='"2026-06-01T09:00:00"'),
        _line(credentials="null"),
        _line(credentials="[]"),
        _line(credentials=NOT_A_PIN),
        _line(credentials='["uid"]'),
        _line(credentials='[{"kind": "uid"}]'),
        _line(credentials='[{"kind": "uid", "value": null}]'),
        _line(credentials='[{"kind": "uid", "value": 1}]'),
        _line(credentials='[{"kind": "uid", "value": "", "id": ""}]'),
        _line(credentials='[{"kind": "uid", "kind": "pin", "value": ""}]'),
        _line(credentials=f"[{NOT_A_PIN}, {NOT_A_PIN}]"),
        _line(credentials=f"[{A_PIN}, {A_PIN}]"),
        _line(credentials=f"[{A_PIN}, {NOT_A_PIN}]"),
        _line(credentials=f"[{NOT_A_PIN}, {A_PIN}, {A_PIN}]"),
        _line().replace('"door": "d"', '"door": null'),
        _line().replace('"door": "d"', '"door": 1'),
        _line().replace('"door": "d", ', ""),
        _line().replace('"d"', "[" * 100_000),
        _line().replace('"d"', '"\\ud800"'),
    ],
)
def test_a_request_of_another_form_is_an_error(line: str) -> None:
    with pytest.raises(RequestError):
        parse_request(line)


@pytest.mark.parametrize(
    "line",
    [
        _line(),
        _line(credentials=f"[{A_PIN}]"),
        _line(credentials=f"[{NOT_A_PIN}, {A_PIN}]"),
        _line(credentials='[{"kind": "", "value": "\\" : \\u0000"}]'),
        _line(', "side": "in", "clock": "trusted", "lockdown": false').encode(),
        _line() + "\r",
    ],
)
def test_a_request_of_this_form_is_none(line: str | bytes) -> None:
    assert parse_request(line).door == "d"


def test_a_malformed_request_does_not_print_its_credentials() -> None:
    with pytest.raises(RequestError) as caught:
        parse_request(_line(credentials='[{"kind": "pin", "value": "73519", "x": 1}]'))
    assert "73519" not in str(caught.value)
