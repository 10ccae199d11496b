"""Explanations say what the decision says, and `opens_at` is where it would say otherwise."""

import time
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.domain.decision import PresentedCredential, Request, decide, taken_at
from gateway.domain.entitlements import Entitlements, RecordSet, ValidRecords
from gateway.domain.explanation import LOOK_AHEAD, Explanation, explain, opens_soon_at
from gateway.domain.instants import format_instant
from gateway.domain.record_faults import parse_records
from tests.domain.sites import (
    BOOKED,
    CARD,
    CLOSED,
    DAY_PASS,
    PIN,
    SITE_NAMES,
    JsonObject,
    conformance_lines,
    request,
    site,
)
from tests.timing import measured

ANN: JsonObject = {"type": "holder", "id": "ann"}
BY_DAY: JsonObject = ANN | {"groups": [DAY_PASS]}
NOBODY: JsonObject = ANN | {"groups": []}
FRONT: JsonObject = {"type": "door", "id": "front"}
ANNS_CARD: JsonObject = {"type": "credential", "id": "card"}
ANNS_PIN: JsonObject = {"type": "credential", "id": "pin"}
KEPT_OUT: JsonObject = {
    "type": "exception",
    "id": "e",
    "holder": "ann",
    "effect": "deny",
    "zones": [],
    "doors": ["front"],
    "from": "2026-06-01T08:00:00Z",
    "until": "2026-06-01T10:00:00.001Z",
    "reason": "move",
    "issued_by": "ops",
}
UNTRUSTED: JsonObject = {"clock": "untrusted"}

EVERY_REASON = (
    "credential_lost credential_not_yet_valid credential_expired membership_pending "
    "membership_not_started membership_ended payment_overdue lockdown entitlements_stale "
    "exception no_entitlement"
)

# What it shows; changes to the site; changes to the request; reasons; opens_at.
ROWS: list[tuple[str, list[JsonObject], JsonObject, str, str | None]] = [
    ("a grant fails for no reason and opens at once", [], {}, "", "2026-06-01T09:00:00Z"),
    ("step 1 stands alone", [], {"door": "nowhere", "lockdown": True}, "unknown_door", None),
    ("egress opens at once", [NOBODY], {"side": "out"}, "", "2026-06-01T09:00:00Z"),
    (
        "step 3 stands alone",
        [],
        {"credentials": [{"kind": "uid", "value": "FFFFFFFF"}], "lockdown": True},
        "unknown_credential",
        None,
    ),
    (
        "every check that would deny by itself, in the order of the steps",
        [
            ANNS_CARD
            | {
                "status": "lost",
                "valid_from": "2026-06-01T10:00:00Z",
                "valid_until": "2026-06-01T08:00:00Z",
            },
            ANN
            | {
                "status": "pending",
                "valid_from": "2026-06-01T10:00:00Z",
                "valid_until": "2026-06-01T08:00:00Z",
                "delinquent_since": "2026-01-01T00:00:00Z",
                "groups": [],
            },
            {"type": "policy", "id": "policy", "max_age_h": {"member": 1}},
            KEPT_OUT,
        ],
        {"lockdown": True, "as_of": "2026-06-01T08:00:00Z"},
        EVERY_REASON,
        None,
    ),
    (
        "no reason is said twice",
        [ANN | {"status": "ended", "valid_until": "2026-06-01T08:00:00Z"}],
        {},
        "membership_ended",
        None,
    ),
    (
        "a challenge is a reason, and opens at once",
        [FRONT | {"second_factor_schedule": "24x7"}],
        {},
        "pin_required",
        "2026-06-01T09:00:00Z",
    ),
    (
        "a challenge is a reason behind others as well",
        [FRONT | {"second_factor_schedule": "24x7"}],
        {"lockdown": True},
        "lockdown pin_required",
        None,
    ),
    (
        "both checks of step 12",
        [FRONT | {"second_factor_schedule": "BH"}],
        {"credentials": [PIN]},
        "pin_not_accepted second_factor_required",
        None,
    ),
    ("opening hours", [BY_DAY], {"at": CLOSED}, "outside_schedule", "2026-06-08T08:00:00Z"),
    (
        "an interval that begins with the end of the look-ahead is out",
        [BY_DAY | {"valid_from": "2026-06-08T17:00:00Z"}],
        {"at": "2026-06-01T08:00:00Z"},
        "membership_not_started",
        None,
    ),
    (
        "an interval that begins a millisecond before it is in",
        [BY_DAY | {"valid_from": "2026-06-08T17:00:00Z"}],
        {"at": "2026-06-01T08:00:00.001Z"},
        "membership_not_started",
        "2026-06-15T08:00:00Z",
    ),
    (
        "a span that begins with the end of the look-ahead is out",
        [ANN | {"valid_from": "2026-06-15T09:00:00Z"}],
        {},
        "membership_not_started",
        None,
    ),
    (
        "a span that begins a millisecond before it is in",
        [ANN | {"valid_from": "2026-06-15T08:59:59.999Z"}],
        {},
        "membership_not_started",
        "2026-06-15T08:59:59.999Z",
    ),
    ("to the millisecond", [KEPT_OUT], {}, "exception", "2026-06-01T10:00:00.001Z"),
    (
        "a booking's window, then its end",
        [
            NOBODY,
            {
                "type": "booking",
                "id": "b",
                "holders": ["ann"],
                "zones": ["club"],
                "doors": [],
                "start": "2026-06-02T09:00:00Z",
                "end": "2026-06-02T10:00:00Z",
            },
        ],
        {},
        "booking_not_started",
        "2026-06-02T08:45:00Z",
    ),
    (
        "where a PIN is no longer asked for",
        [FRONT | {"second_factor_schedule": "BH"}, ANNS_PIN | {"status": "lost"}],
        {},
        "no_pin",
        "2026-06-01T17:00:00Z",
    ),
    (
        "where a PIN begins to be valid",
        [
            FRONT | {"second_factor_schedule": "24x7"},
            ANNS_PIN | {"valid_from": "2026-06-01T12:00:00.5Z"},
        ],
        {"credentials": [CARD, PIN]},
        "no_pin",
        "2026-06-01T12:00:00.500Z",
    ),
    (
        "the age of the records stays as it is",
        [],
        {"door": "office-door", "as_of": "2026-05-31T09:00:00Z"},
        "entitlements_stale",
        None,
    ),
    (
        "and doesn't grow",
        [BY_DAY, {"type": "policy", "id": "policy", "max_age_h": {"member": 1}}],
        {"at": CLOSED, "as_of": "2026-06-01T19:00:00.001Z"},
        "outside_schedule",
        "2026-06-08T08:00:00Z",
    ),
    (
        "with an untrusted clock it starts from the at that is taken",
        [],
        {"as_of": "2026-06-03T00:00:00Z"} | UNTRUSTED,
        "",
        "2026-06-03T00:00:00Z",
    ),
    (
        "an untrusted clock stays untrusted",
        [BY_DAY],
        UNTRUSTED,
        "clock_untrusted",
        None,
    ),
    (
        "a strict denial by an exception ends with its span",
        [KEPT_OUT],
        {"at": "2026-06-01T00:00:00Z"} | UNTRUSTED,
        "exception",
        "2026-06-01T10:00:00.001Z",
    ),
    (
        "payment falls due while the door is closed",
        [BY_DAY | {"delinquent_since": "2026-06-01T00:00:00Z"}],
        {"at": CLOSED},
        "outside_schedule",
        None,
    ),
    (
        "at the end of the calendar",
        [ANN | {"groups": [BOOKED]}],
        {"at": "9999-12-31T23:59:59.999Z"},
        "no_entitlement",
        None,
    ),
]


@pytest.mark.parametrize(
    ("changes", "asked", "reasons", "opens_at"), [pytest.param(*row[1:], id=row[0]) for row in ROWS]
)
def test_each_row_is_explained(
    changes: list[JsonObject], asked: JsonObject, reasons: str, opens_at: str | None
) -> None:
    explanation = explain(site(*changes), request(**asked))

    assert " ".join(explanation.reasons) == reasons
    assert (explanation.opens_at and format_instant(explanation.opens_at)) == opens_at


@cache
def _records(name: str) -> ValidRecords:
    return parse_records(conformance_lines(name, "records")).records


@cache
def _site(name: str) -> RecordSet:
    return RecordSet(_records(name))


def _moments(name: str) -> list[datetime]:
    """Instants that the site's records name: everything happens near them."""
    records = _records(name)
    named: list[datetime | None] = []
    for booking in records.bookings.values():
        named += [booking.start, booking.end]
    for exception in records.exceptions.values():
        named += [exception.from_, exception.until]
    for credential in records.credentials.values():
        named += [credential.valid_from, credential.valid_until]
    for holder in records.holders.values():
        named += [holder.valid_from, holder.valid_until]
    return sorted({at for at in named if at is not None})


@st.composite
def requests(draw: st.DrawFn, name: str) -> Request:
    records = _records(name)
    moments = _moments(name)

    def instant() -> datetime:
        near = draw(st.sampled_from(moments))
        off = draw(st.sampled_from([0, -1, 1]) | st.integers(-(10**9), 10**9))
        return near + timedelta(milliseconds=off)

    presented = [
        PresentedCredential(credential.kind, credential.value)
        for credential in records.credentials.values()
    ]
    first = draw(st.sampled_from([*presented, PresentedCredential("?", "?")]))
    credentials = [first]
    if first.kind != "pin" and draw(st.booleans()):
        pins = [each for each in presented if each.kind == "pin"]
        holder = next(
            (each.holder for each in records.credentials.values() if each.value == first.value), ""
        )
        own = [
            PresentedCredential("pin", each.value)
            for each in records.credentials.values()
            if each.kind == "pin" and each.holder == holder
        ]
        credentials.append(
            draw(st.sampled_from([*pins, *own * 20, PresentedCredential("pin", "")]))
        )
    return Request(
        door=draw(st.sampled_from([*records.tables.doors, "nowhere"])),
        side=draw(st.sampled_from(["in", "in", "out"])),
        credentials=tuple(credentials),
        at=instant(),
        clock=draw(st.sampled_from(["trusted", "trusted", "untrusted"])),
        lockdown=draw(st.integers(0, 9)) == 0,
        as_of=instant() if draw(st.booleans()) else None,
    )


@st.composite
def sites_and_requests(draw: st.DrawFn) -> tuple[str, Request]:
    name = draw(st.sampled_from(SITE_NAMES))
    return name, draw(requests(name))


def _moved(asked: Request, by: timedelta) -> Request:
    """The same request later on, with records of the same age."""
    at = taken_at(asked)
    as_of = None if asked.as_of is None else asked.as_of + by
    return msgspec.structs.replace(asked, at=at + by, as_of=as_of)


def _is_denied(records: Entitlements, asked: Request) -> bool:
    return decide(records, asked).outcome == "deny"


def _members(struct: Any) -> dict[str, object]:
    return msgspec.structs.asdict(struct)


@given(sites_and_requests())
def test_an_explanation_has_the_decision_and_its_reasons_begin_with_the_decisions(
    given_: tuple[str, Request],
) -> None:
    name, asked = given_
    decision = decide(_site(name), asked)
    explanation = explain(_site(name), asked)

    assert _members(explanation).items() >= _members(decision).items()
    assert len(set(explanation.reasons)) == len(explanation.reasons)
    if decision.outcome == "grant":
        assert explanation.reasons == ()
    else:
        assert explanation.reasons[0] == decision.reason
    if decision.outcome != "deny":
        assert explanation.opens_at == taken_at(asked)


@given(sites_and_requests())
def test_a_doors_own_opens_at_is_the_explanations(given_: tuple[str, Request]) -> None:
    name, asked = given_
    assert opens_soon_at(_site(name), asked) == explain(_site(name), asked).opens_at


def _many(kind: str, count: int) -> list[JsonObject]:
    """So many records of Ann's, over the coming fortnight, that let her in or keep her out."""
    begin = datetime(2026, 6, 1, 10, tzinfo=UTC)
    rows: list[JsonObject] = []
    for number in range(count):
        at = begin + timedelta(minutes=1 + number * 19_000 // count)
        start, end = format_instant(at), format_instant(at + timedelta(minutes=1))
        if kind == "booking":
            rows.append(
                {"type": "booking", "id": f"b{number}", "holders": ["ann"], "doors": ["front"],
                 "zones": [], "start": start, "end": end, "status": "confirmed"}
            )  # fmt: skip
        else:
            rows.append(KEPT_OUT | {"id": f"e{number}", "from": start, "until": end})
            rows[-1]["effect"] = kind
    return rows


@pytest.mark.parametrize("kind", ["booking", "allow", "deny"])
@pytest.mark.parametrize("status", ["active", "suspended"])
@pytest.mark.parametrize("count", [20, 100, 499, 1_000, 4_000])
def test_a_doors_own_opens_at_takes_5_ms_at_most_whatever_the_holder_has(
    kind: str, status: str, count: int
) -> None:
    records = site(NOBODY | {"status": status}, *_many(kind, count))
    asked = request()
    took = []
    for _ in range(5):
        began = time.thread_time()
        opens_at = opens_soon_at(records, asked)
        took.append(time.thread_time() - began)
    assert min(took) <= measured(0.005)
    if opens_at is not None or count <= 20:
        assert opens_at == explain(records, asked).opens_at
    if count < 500 and status == "active" and kind != "deny":
        assert opens_at is not None


def test_a_schedule_with_many_edges_is_looked_at_as_far_as_they_reach() -> None:
    intervals = [[f"{n // 60:02}:{n % 60:02}", f"{n // 60:02}:{n % 60 + 1:02}"]
                 for n in range(0, 24 * 60, 6)]  # fmt: skip
    often: JsonObject = {
        "type": "schedule", "id": "often", "holidays": [],
        "weekly": {"wed": intervals[1:]},
    }  # fmt: skip
    more: JsonObject = {
        "type": "group", "id": "h", "zones": [], "doors": ["front"], "schedule": "often",
    }  # fmt: skip
    records = site(often, more, ANN | {"groups": ["h"]})
    assert opens_soon_at(records, request()) == explain(records, request()).opens_at
    assert opens_soon_at(records, request()) == datetime(2026, 6, 2, 23, 6, tzinfo=UTC)


@given(sites_and_requests())
def test_opens_at_is_the_first_instant_that_is_not_denied(given_: tuple[str, Request]) -> None:
    name, asked = given_
    records = _site(name)
    at = taken_at(asked)
    opens_at = explain(records, asked).opens_at
    if opens_at is None:
        assert _is_denied(records, asked)
        return
    assert at <= opens_at < at + LOOK_AHEAD
    assert not _is_denied(records, _moved(asked, opens_at - at))
    if opens_at > at:
        assert _is_denied(records, asked)
        assert _is_denied(records, _moved(asked, opens_at - at - timedelta(milliseconds=1)))


@settings(max_examples=40)
@given(sites_and_requests(), st.integers(0, 59_999))
def test_nothing_opens_before_opens_at(given_: tuple[str, Request], phase_ms: int) -> None:
    name, asked = given_
    records = _site(name)
    at = taken_at(asked)
    opens_at = explain(records, asked).opens_at
    by = timedelta(milliseconds=phase_ms)
    until = LOOK_AHEAD if opens_at is None else opens_at - at
    while by < until:
        assert _is_denied(records, _moved(asked, by)), by
        by += timedelta(minutes=7)


@given(sites_and_requests())
def test_lockdown_an_untrusted_clock_and_older_records_never_let_more_people_in(
    given_: tuple[str, Request],
) -> None:
    name, asked = given_
    records = _site(name)
    at = taken_at(asked)
    usual = msgspec.structs.replace(asked, at=at, clock="trusted", lockdown=False)
    if not _is_denied(records, usual):
        return
    worse = [
        msgspec.structs.replace(usual, lockdown=True),
        msgspec.structs.replace(usual, as_of=datetime(1970, 1, 1, tzinfo=UTC)),
    ]
    if usual.as_of is None or usual.as_of <= at:
        worse.append(msgspec.structs.replace(usual, clock="untrusted"))
    for request_ in worse:
        assert _is_denied(records, request_)


ends_of_time = st.sampled_from(
    [
        datetime(1970, 1, 1, tzinfo=UTC),
        datetime(9999, 12, 31, 23, 59, 59, 999000, tzinfo=UTC),
        datetime(9999, 12, 18, tzinfo=UTC),
    ]
)


@given(sites_and_requests(), ends_of_time, ends_of_time | st.none())
def test_the_ends_of_time_are_decided_and_explained_like_any_other_instant(
    given_: tuple[str, Request], at: datetime, as_of: datetime | None
) -> None:
    name, asked = given_
    extreme = msgspec.structs.replace(asked, at=at, as_of=as_of)
    explanation = explain(_site(name), extreme)
    assert explanation.reason == decide(_site(name), extreme).reason


@given(sites_and_requests())
def test_leaving_is_never_denied_where_egress_is_free(given_: tuple[str, Request]) -> None:
    name, asked = given_
    records = _site(name)
    door = records.tables.doors.get(asked.door)
    if door is not None and door.egress:
        assert decide(records, msgspec.structs.replace(asked, side="out")).reason == "egress"


def test_an_explanations_members_are_the_specifications() -> None:
    assert list(Explanation.__struct_fields__) == [
        "outcome",
        "reason",
        "holder",
        "via",
        "duress",
        "reasons",
        "opens_at",
    ]
