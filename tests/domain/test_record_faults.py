"""Every rule of docs/spec/entitlements.md's page, broken one by one."""

import json
from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.domain.entitlements import Holding, RecordSet, compile_records
from gateway.domain.json_text import DEPTH_MAX, JsonError, decode_object
from gateway.domain.record_faults import parse_records
from gateway.domain.records import Credential, Door, Policy, SiteTables
from gateway.errors import RecordsRefused
from tests.domain.sites import (
    BASE,
    NIGHT,
    SITE_NAMES,
    JsonObject,
    changed,
    conformance_lines,
    lines,
)

Triple = tuple[str, str, str]

BOOKING: JsonObject = {
    "type": "booking",
    "id": "b",
    "holders": ["ann"],
    "zones": ["club"],
    "doors": ["front"],
    "start": "2026-06-01T09:00:00Z",
    "end": "2026-06-01T10:00:00Z",
}
EXCEPTION: JsonObject = {
    "type": "exception",
    "id": "e",
    "holder": "ann",
    "effect": "allow",
    "zones": [],
    "doors": ["front"],
    "from": "2026-06-01T09:00:00Z",
    "until": "2026-06-01T10:00:00Z",
    "reason": "move",
    "issued_by": "ops",
}
ONE_OF_EACH: dict[str, JsonObject] = {str(record["type"]): record for record in BASE} | {
    "booking": BOOKING,
    "exception": EXCEPTION,
    # The one with the fewest other records that refer to it.
    "zone": {"type": "zone", "id": "extra", "category": "member"},
    "door": {"type": "door", "id": "extra", "from_zone": "club", "to_zone": "club"},
    "credential": {
        "type": "credential",
        "id": "extra",
        "holder": "ann",
        "kind": "pin",
        "value": "0000",
    },
}
MISSING = object()


def faults(records: list[JsonObject]) -> list[Triple]:
    return faults_of_lines(lines(records))


def faults_of_lines(texts: list[str] | list[bytes]) -> list[Triple]:
    try:
        parse_records(texts)
    except RecordsRefused as refused:
        return [fault[:3] for fault in refused.faults]
    return []


def with_member(record_type: str, member: str, value: object) -> tuple[list[JsonObject], Triple]:
    """A set in which one record of a type has one member changed, and the fault of that."""
    record = dict(ONE_OF_EACH[record_type])
    triple = (record_type, str(record["id"]), member)
    if value is MISSING:
        del record[member]
    else:
        record[member] = value
    return changed(record) if value is not MISSING else _replaced(record), triple


def _replaced(record: JsonObject) -> list[JsonObject]:
    key = (record["type"], record["id"])
    return [each for each in changed() if (each["type"], each["id"]) != key] + [record]


REQUIRED = {
    "site": ["timezone"],
    "zone": ["category"],
    "door": ["from_zone", "to_zone"],
    "calendar": ["dates"],
    "schedule": ["weekly"],
    "group": ["zones", "doors", "schedule"],
    "holder": ["persona", "status", "groups"],
    "credential": ["holder", "kind", "value"],
    "booking": ["holders", "zones", "doors", "start", "end"],
    "exception": [
        "holder",
        "effect",
        "zones",
        "doors",
        "from",
        "until",
        "reason",
        "issued_by",
    ],
}
DEFAULTED = {
    "policy": [
        "booking_before_min",
        "booking_after_min",
        "grace_hours",
        "lockdown_exempt_personas",
        "untrusted_clock",
        "max_age_h",
        "max_age_exempt_personas",
        "pin_max_attempts",
        "pin_lockout_s",
        "journal_retention_days",
    ],
    "door": [
        "criticality",
        "egress",
        "unlock_s",
        "extended_unlock_s",
        "held_open_s",
        "unlock_after_first",
        "pin_alone",
        "antipassback",
        "two_person",
    ],
    "holder": ["extended_unlock"],
    "credential": ["status", "duress"],
    "booking": ["status"],
}
OPTIONAL = {
    "zone": ["name"],
    "door": ["name", "unlock_schedule", "second_factor_schedule", "interlock", "max_occupancy"],
    "schedule": ["holidays", "timezone"],
    "holder": ["valid_from", "valid_until", "delinquent_since", "name"],
    "credential": ["valid_from", "valid_until", "max_uses"],
    "booking": ["before_min", "after_min"],
}


def _each(members: dict[str, list[str]]) -> list[tuple[str, str]]:
    return [(record_type, name) for record_type, names in members.items() for name in names]


@pytest.mark.parametrize(("record_type", "member"), _each(REQUIRED))
def test_a_required_member_may_not_be_missing_nor_null(record_type: str, member: str) -> None:
    for value in (MISSING, None):
        records, triple = with_member(record_type, member, value)
        assert triple in faults(records)


@pytest.mark.parametrize(("record_type", "member"), _each(DEFAULTED))
def test_a_member_with_a_default_may_not_be_null(record_type: str, member: str) -> None:
    records, triple = with_member(record_type, member, None)
    assert faults(records) == [triple]


@pytest.mark.parametrize(("record_type", "member"), _each(OPTIONAL))
def test_an_optional_member_may_be_null(record_type: str, member: str) -> None:
    records, _ = with_member(record_type, member, None)
    assert faults(records) == []


@pytest.mark.parametrize(
    ("record_type", "member"), _each(REQUIRED) + _each(DEFAULTED) + _each(OPTIONAL)
)
def test_no_member_takes_a_value_of_another_shape(record_type: str, member: str) -> None:
    for value in (5.0, [None], {"": ""}, [["a"]]):
        records, triple = with_member(record_type, member, value)
        found = faults(records)
        assert triple in found
        assert {fault[2] for fault in found} <= {member, "zones", "doors", "schedule"}


RANGES = [
    ("policy", "booking_before_min", 0, 1440),
    ("policy", "booking_after_min", 0, 1440),
    ("policy", "grace_hours", 0, 720),
    ("policy", "pin_max_attempts", 1, 10),
    ("policy", "pin_lockout_s", 10, 900),
    ("policy", "journal_retention_days", 1, 3650),
    ("door", "unlock_s", 1, 60),
    ("door", "extended_unlock_s", 1, 180),
    ("door", "held_open_s", 5, 3600),
    ("door", "max_occupancy", 1, 100_000),
    ("credential", "max_uses", 1, 1000),
    ("booking", "before_min", 0, 1440),
    ("booking", "after_min", 0, 1440),
]


@pytest.mark.parametrize(("record_type", "member", "least", "most"), RANGES)
def test_a_number_is_an_integer_in_its_range(
    record_type: str, member: str, least: int, most: int
) -> None:
    for value in (least, most):
        records, _ = with_member(record_type, member, value)
        assert faults(records) == []
    for wrong in (least - 1, most + 1, float(most), str(most), True, 10**30):
        records, triple = with_member(record_type, member, wrong)
        assert faults(records) == [triple]


@pytest.mark.parametrize(
    "text",
    [
        "2026-06-01",
        "2026-06-01T09:00:00",
        "2026-06-01 09:00:00Z",
        "2026-06-01t09:00:00Z",
        "2026-06-01T09:00:00z",
        "2026-06-01T09:00Z",
        "2026-06-01T09:00:60Z",
        "2026-06-01T24:00:00Z",
        "2026-06-01T09:60:00Z",
        "2026-02-29T09:00:00Z",
        "2026-13-01T09:00:00Z",
        "2026-06-01T09:00:00.Z",
        "2026-06-01T09:00:00.1234Z",
        "2026-06-01T09:00:00,5Z",
        "2026-06-01T09:00:00+24:00",
        "2026-06-01T09:00:00+01:60",
        "2026-06-01T09:00:00+0100",
        "2026-06-01T09:00:00+01:00:30",
        "20260601T090000Z",
        "2026-W23-1T09:00:00Z",
        "1969-12-31T23:59:59.999Z",
        "1970-01-01T00:00:00+00:01",
        "9999-12-31T23:59:59-00:01",
        "0000-01-01T00:00:00Z",
        "0001-01-01T00:00:00+23:59",
        "٢٠٢٦-06-01T09:00:00Z",
        "2026-06-01T09:00:00Z\n",
        " 2026-06-01T09:00:00Z",
        "",
    ],
)
def test_an_instant_is_written_to_the_letter(text: str) -> None:
    records, triple = with_member("holder", "valid_from", text)
    assert faults(records) == [triple]


@pytest.mark.parametrize(
    ("text", "instant"),
    [
        ("1970-01-01T00:00:00Z", datetime(1970, 1, 1, tzinfo=UTC)),
        ("1969-12-31T23:00:00-01:00", datetime(1970, 1, 1, tzinfo=UTC)),
        ("9999-12-31T23:59:59.999Z", datetime(9999, 12, 31, 23, 59, 59, 999000, tzinfo=UTC)),
        ("2026-06-01T09:00:00.5+23:59", datetime(2026, 5, 31, 9, 1, 0, 500000, tzinfo=UTC)),
        ("2026-06-01T09:00:00-00:00", datetime(2026, 6, 1, 9, tzinfo=UTC)),
    ],
)
def test_an_instant_is_taken_in_utc(text: str, instant: datetime) -> None:
    holder = ONE_OF_EACH["holder"] | {"valid_from": text}
    records = parse_records(lines(changed(holder))).records
    assert records.holders[str(holder["id"])].valid_from == instant


CANONICAL = [
    ("uid", ["04A1B2C3", "04A1B2C3D4E5F6", "04A1B2C3D4E5F6A7B8C9"]),
    ("wiegand", ["H10301:12:34567", "C1:-:0", "a:0:1"]),
    ("desfire", ["F00001:00", "F00001:" + "AB" * 32]),
    ("sun", ["04DE5F1EACC040"]),
    ("pkoc", ["04" + "AB" * 64]),
    ("pin", ["0000", "12345678"]),
    ("qr", ["12345678", "~" * 128, "a b\"c'd:"]),
]
NOT_CANONICAL: list[tuple[str, list[str]]] = [
    (
        "uid",
        [
            "",
            "04a1b2c3",
            "04A1B2C",
            "04A1B2C3D4",
            "04A1B2CG",
            "04A1B2C3\n",
            "\N{ARABIC-INDIC DIGIT TWO}4A1B2C3",
        ],
    ),
    (
        "wiegand",
        [
            *("", "H10301:12", "H10301:012:1", "H10301:12:01", "H10301::1", "H-1:1:1", ":1:1"),
            *("H10301:1:-", "H10301:-1:1", "H10301:1:1:1", "H10301:1:\N{ARABIC-INDIC DIGIT TWO}"),
        ],
    ),
    ("desfire", ["F00001:", "F00001:0", "F0001:00", "F00001:" + "AB" * 33, "f00001:00"]),
    ("sun", ["04DE5F1E", "04DE5F1EACC04", "04de5f1eacc040"]),
    ("pkoc", ["04" + "AB" * 63, "05" + "AB" * 64, "04" + "ab" * 64]),
    ("pin", ["", "123", "123456789", "12a4", "1234 ", "١٢٣٤"]),
    ("qr", ["1234567", "x" * 129, "1234567é", "1234567\t"]),
]


@pytest.mark.parametrize(
    ("kind", "value"), [(kind, value) for kind, values in CANONICAL for value in values]
)
def test_a_value_in_canonical_form_is_taken(kind: str, value: str) -> None:
    credential = ONE_OF_EACH["credential"] | {"id": "new", "kind": kind, "value": value}
    records = [each for each in changed(credential) if each["id"] != "card"]
    assert faults(records) == []


@pytest.mark.parametrize(
    ("kind", "value"), [(kind, value) for kind, values in NOT_CANONICAL for value in values]
)
def test_a_value_in_another_form_is_a_fault_and_is_not_printed(kind: str, value: str) -> None:
    credential = ONE_OF_EACH["credential"] | {"id": "new", "kind": kind, "value": value}
    with pytest.raises(RecordsRefused) as caught:
        parse_records(lines(changed(credential)))
    assert [fault[:3] for fault in caught.value.faults] == [("credential", "new", "value")]
    assert len(value) < 4 or value not in str(caught.value)


MALFORMED: list[tuple[str, str, object]] = [
    ("site", "timezone", ""),
    ("site", "timezone", "europe/london"),
    ("site", "timezone", "Europe"),
    ("site", "timezone", "America"),
    ("site", "timezone", "../Europe/London"),
    ("site", "timezone", "Europe/../Europe/London"),
    ("site", "timezone", "/usr/share/zoneinfo/Europe/London"),
    ("site", "timezone", "localtime"),
    ("site", "timezone", "posixrules"),
    ("site", "timezone", "posix/Europe/London"),
    ("site", "timezone", "right/Europe/London"),
    ("site", "timezone", "tzdata.zi"),
    ("site", "timezone", "zone.tab"),
    ("site", "timezone", "UTC+1"),
    ("site", "timezone", "UTC\x00"),
    ("policy", "untrusted_clock", "deny"),
    ("policy", "lockdown_exempt_personas", ["Staff"]),
    ("policy", "lockdown_exempt_personas", "staff"),
    ("policy", "max_age_h", {"lobby": 1}),
    ("policy", "max_age_h", {"member": 0}),
    ("policy", "max_age_h", {"member": 8761}),
    ("policy", "max_age_h", {"member": None}),
    ("policy", "max_age_h", []),
    ("zone", "category", "Member"),
    ("door", "from_zone", "nowhere"),
    ("door", "criticality", "none"),
    ("door", "egress", 1),
    ("door", "unlock_schedule", "timebound"),
    ("door", "unlock_schedule", "nowhen"),
    ("door", "second_factor_schedule", "timebound"),
    ("door", "interlock", ""),
    ("door", "antipassback", "on"),
    ("calendar", "dates", {"2026-2-3": "x"}),
    ("calendar", "dates", {"20260203": "x"}),
    ("calendar", "dates", {"2026-W01-1": "x"}),
    ("calendar", "dates", {"2026-02-29": "x"}),
    ("calendar", "dates", {"2026-02-03": None}),
    ("calendar", "dates", {"٢٠٢٦-02-03": "x"}),
    ("calendar", "dates", ["2026-02-03"]),
    ("schedule", "weekly", {"Mon": []}),
    ("schedule", "weekly", {"mon": None}),
    ("schedule", "weekly", {"mon": ["09:00", "10:00"]}),
    ("schedule", "weekly", {"mon": [["09:00"]]}),
    ("schedule", "weekly", {"mon": [["09:00", "10:00", "11:00"]]}),
    ("schedule", "weekly", {"mon": [["9:00", "10:00"]]}),
    ("schedule", "weekly", {"mon": [["09:00", "10:00:00"]]}),
    ("schedule", "weekly", {"mon": [["09:00", "24:01"]]}),
    ("schedule", "weekly", {"mon": [["24:00", "10:00"]]}),
    ("schedule", "weekly", {"mon": [["24:00", "24:00"]]}),
    ("schedule", "weekly", {"mon": [["00:00", "00:00"]]}),
    ("schedule", "weekly", {"mon": [["09:60", "10:00"]]}),
    ("schedule", "weekly", {"mon": [["٠٩:00", "10:00"]]}),
    ("schedule", "weekly", {"mon": [[9, 10]]}),
    ("schedule", "holidays", [{"calendar": "uk"}]),
    ("schedule", "holidays", [{"intervals": []}]),
    ("schedule", "holidays", [{"calendar": "uk", "intervals": None}]),
    ("schedule", "holidays", [{"calendar": "uk", "intervals": [], "name": ""}]),
    ("schedule", "holidays", [{"calendar": "nowhere", "intervals": []}]),
    ("schedule", "holidays", {"calendar": "uk", "intervals": []}),
    ("schedule", "timezone", "Mars/Base"),
    ("group", "zones", ["nowhere"]),
    ("group", "zones", [""]),
    ("group", "doors", "front"),
    ("group", "schedule", "nowhen"),
    ("holder", "persona", "guest"),
    ("holder", "status", "Active"),
    ("holder", "groups", ["nobody"]),
    ("holder", "extended_unlock", "yes"),
    ("credential", "holder", "nobody"),
    ("credential", "holder", ""),
    ("credential", "kind", "PIN"),
    ("credential", "status", "stollen"),
    ("booking", "holders", ["nobody"]),
    ("booking", "end", "2026-06-01T09:00:00Z"),
    ("booking", "end", "2026-06-01T08:59:59.999Z"),
    ("booking", "status", "tentative"),
    ("exception", "effect", "forbid"),
    ("exception", "until", "2026-06-01T09:00:00Z"),
    ("exception", "reason", ""),
    ("exception", "issued_by", ""),
]


@pytest.mark.parametrize(("record_type", "member", "value"), MALFORMED)
def test_a_malformed_member_is_named_and_nothing_else_is(
    record_type: str, member: str, value: object
) -> None:
    records, triple = with_member(record_type, member, value)
    assert faults(records) == [triple]


WELL_FORMED: list[tuple[str, str, object]] = [
    ("site", "timezone", "Etc/GMT+5"),
    ("policy", "max_age_h", {"public": 1, "restricted": 8760}),
    ("door", "unlock_schedule", "24x7"),
    ("calendar", "dates", {}),
    ("schedule", "weekly", {}),
    ("schedule", "weekly", {"mon": [["22:00", "00:00"], ["00:00", "24:00"], ["10:00", "09:59"]]}),
    ("group", "zones", ["club", "club"]),
    ("holder", "groups", [NIGHT, NIGHT]),
    ("holder", "name", ""),
    ("booking", "holders", []),
    ("booking", "zones", []),
    ("credential", "duress", True),
]


@pytest.mark.parametrize(("record_type", "member", "value"), WELL_FORMED)
def test_what_the_page_allows_is_taken(record_type: str, member: str, value: object) -> None:
    records, _ = with_member(record_type, member, value)
    assert faults(records) == []


@pytest.mark.parametrize("schedule", ["24x7", "timebound"])
def test_a_built_in_schedule_is_in_no_record(schedule: str) -> None:
    assert faults(changed({"type": "schedule", "id": schedule, "weekly": {}})) == [
        ("schedule", schedule, "id")
    ]


def test_duress_is_for_pins() -> None:
    card: JsonObject = {"type": "credential", "id": "card", "duress": True}
    assert faults(changed(card)) == [("credential", "card", "duress")]


def _without(record_type: str) -> list[JsonObject]:
    return [each for each in changed() if each["type"] != record_type]


def test_there_is_exactly_one_site_and_one_policy() -> None:
    other_site: JsonObject = {"type": "site", "id": "NYC", "timezone": "America/New_York"}
    other_policy: JsonObject = {"type": "policy", "id": "other"}

    assert faults(_without("site")) == [("site", "-", "-")]
    assert faults(_without("policy")) == [("policy", "-", "-")]
    assert faults([]) == [("site", "-", "-"), ("policy", "-", "-")]
    assert faults([*changed(), other_site]) == [("site", "NYC", "id")]
    assert faults([*changed(), other_policy]) == [("policy", "other", "id")]
    assert faults([*_without("policy"), other_policy]) == [("policy", "other", "id")]
    broken_site: JsonObject = {"type": "site", "id": "LON", "timezone": "Mars/Base"}
    assert faults([*_without("site"), broken_site]) == [("site", "LON", "timezone")]


def test_ids_are_non_empty_strings_unique_within_their_type() -> None:
    zone: JsonObject = {"type": "zone", "category": "member"}
    for wrong in ("", None, 5, ["x"]):
        assert faults([*changed(), zone | {"id": wrong}]) == [("zone", "-", "id")]
    assert faults([*changed(), zone]) == [("zone", "-", "id")]
    assert faults([*changed(), zone | {"id": "club"}]) == [("zone", "club", "id")]
    assert faults([*changed(), zone | {"id": "front"}]) == []
    assert faults([*changed(), zone | {"id": "-"}, zone | {"id": "-"}]) == [("zone", "-", "id")]


def test_a_type_is_one_of_the_pages() -> None:
    assert faults([*changed(), {"type": "gizmo", "id": "g"}]) == [("gizmo", "g", "type")]
    assert faults([*changed(), {"id": "g"}, {"id": "g"}]) == [("-", "g", "type")] * 2
    assert faults([*changed(), {"type": ["zone"], "id": "g"}]) == [("-", "g", "type")]


def test_of_the_credentials_with_one_value_the_later_live_one_has_the_fault() -> None:
    def credential(name: str, status: str) -> JsonObject:
        return ONE_OF_EACH["credential"] | {"id": name, "status": status}

    assert faults(changed(credential("a", "returned"), credential("b", "active"))) == []
    assert faults(changed(credential("a", "lost"), credential("b", "returned"))) == []
    assert faults(
        changed(
            credential("c", "lost"),
            credential("a", "returned"),
            credential("b", "active"),
            credential("d", "stolen"),
        )
    ) == [("credential", "b", "value"), ("credential", "d", "value")]


def test_every_fault_is_named_in_the_order_of_the_lines() -> None:
    texts = lines(changed({"type": "zone", "id": "club", "category": "bar"}))
    texts.insert(0, "{")
    texts.append(json.dumps({"type": "door", "id": "x", "from_zone": "club", "unlock_s": 0}))
    texts.append(json.dumps({"type": "door", "id": "y", "from_zone": "a", "to_zone": "x"}))

    assert faults_of_lines(texts) == [
        ("-", "-", "-"),
        ("zone", "club", "category"),
        ("door", "x", "to_zone"),
        ("door", "x", "unlock_s"),
        ("door", "y", "from_zone"),
        ("door", "y", "to_zone"),
    ]


def test_a_reference_to_a_record_with_a_fault_or_on_a_later_line_does_not_dangle() -> None:
    backwards = lines(changed({"type": "holder", "id": "ann", "status": "gone"}))[::-1]
    assert faults_of_lines(backwards) == [("holder", "ann", "status")]


def test_all_that_is_missing_is_named_in_one_line() -> None:
    group = ONE_OF_EACH["group"] | {"zones": ["b", "a", "b"]}
    with pytest.raises(RecordsRefused, match="no zone 'a'") as caught:
        parse_records(lines(changed(group)))
    assert "no zone 'b'" in caught.value.faults[0].what
    assert len(caught.value.faults) == 1


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b" ",
        b"{",
        b"[]",
        b"null",
        b"5",
        b'{"type": "zone", "id": NaN}',
        b'{"type": "zone", "id": "a", "category": "member"} {}',
        b'\xef\xbb\xbf{"type": "zone", "id": "a", "category": "member"}',
        b'{"type": "zone", "id": "\xff", "category": "member"}',
        b'{"type": "zone", "id": "\\ud800", "category": "member"}',
        b'{"type": "zone", "id": "a\x01", "category": "member"}',
        b'{"type": "zone", "id": ' + b"[" * 100_000,
        b'{"type": "zone", "id": "a", "category": "member", "x": 1e999, "name": NaN}',
        b'{"type": "zone", "id": "a", "category": "member", "x": 1e999, "name": "\\ud800"}',
        b'{"type": "zone", "id": "a", "category": "member", "x": 1e999, "name": }',
        b'{"type": "zone", "id": "a", "x": ' + b"[" * 100 + b"]" * 100 + b"}",
        '{"type": "zone", "id": "a", "category": "member"}'.encode("utf-16"),
    ],
)
def test_a_line_that_is_no_record_is_named_by_its_number(line: bytes) -> None:
    texts = [text.encode() for text in lines(BASE)]
    with pytest.raises(RecordsRefused) as caught:
        parse_records([*texts[:6], line, *texts[6:]])
    assert [fault[:3] for fault in caught.value.faults] == [("-", "-", "-")]
    assert caught.value.faults[0].what.startswith("line 7: ")


@pytest.mark.parametrize(
    ("line", "members"),
    [
        ('{"type": "zone", "id": "a", "category": "member", "category": "member"}', {"category"}),
        ('{"type": "zone", "id": "a", "id": "b", "category": "member"}', {"id"}),
        (
            '{"type": "schedule", "id": "a", "weekly": {"mon": [], "mon" : []}}',
            {"weekly"},
        ),
        (
            '{"type": "zone", "id": "a", "category": "public", "x": [{"a": 1e999, "a": 1}]}',
            {"x"},
        ),
    ],
)
def test_a_key_that_is_given_twice_is_a_fault_of_its_member(line: str, members: set[str]) -> None:
    found = faults_of_lines([*lines(BASE), line])
    assert {fault[2] for fault in found} == members


def test_a_text_that_looks_like_a_key_is_none() -> None:
    text = '{"type": "zone", "id": "\\":\\" : ", "category": "member", "name": "\\":"}'
    assert faults_of_lines([*lines(BASE), text]) == []


def test_a_number_too_large_to_hold_is_a_malformed_member() -> None:
    for number in ("1e999", "9" * 5000):
        text = f'{{"type": "zone", "id": "a", "category": {number}}}'
        assert faults_of_lines([*lines(BASE), text]) == [("zone", "a", "category")]


def test_containers_within_containers_are_bounded() -> None:
    def nested(depth: int) -> str:
        return '{"a": ' + "[" * (depth - 1) + "]" * (depth - 1) + "}"

    assert decode_object(nested(DEPTH_MAX)).repeated == frozenset()
    with pytest.raises(JsonError, match="nested too deep"):
        decode_object(nested(DEPTH_MAX + 1))


def test_a_door_schedule_on_timebound_is_told_why_not() -> None:
    door = {"type": "door", "id": "front", "unlock_schedule": "timebound"}
    with pytest.raises(RecordsRefused, match="'timebound' is for groups only"):
        parse_records(lines(changed(dict(door))))
    door["unlock_schedule"] = "nowhen"
    with pytest.raises(RecordsRefused, match="no schedule 'nowhen'"):
        parse_records(lines(changed(dict(door))))


def test_an_id_cannot_break_the_line_of_its_fault() -> None:
    found = faults([*changed(), {"type": "zone", "id": "a\tb\nc\x85"}])
    assert found == [("zone", r"a\tb\nc\x85", "category")]


@given(st.binary(max_size=60) | st.text(max_size=60))
def test_no_line_surfaces_another_error(line: bytes | str) -> None:
    with pytest.raises(RecordsRefused):
        parse_records([line])


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=8,
)


@given(st.data())
def test_no_member_surfaces_another_error(data: st.DataObject) -> None:
    record_type, member = data.draw(
        st.sampled_from(_each(REQUIRED) + _each(DEFAULTED) + _each(OPTIONAL))
    )
    records, triple = with_member(record_type, member, data.draw(json_values))
    found = faults(records)
    assert all(fault == triple or fault[2] in {"zones", "doors", "schedule"} for fault in found)


@given(json_values)
def test_an_object_reads_as_the_standard_library_reads_it(value: object) -> None:
    text = json.dumps({"a": value})
    assert decode_object(text).members == json.loads(text)
    with pytest.raises(JsonError):
        decode_object(json.dumps([value]))


def test_an_unknown_member_and_a_strange_group_name_are_warnings() -> None:
    groups: list[JsonObject] = [
        {"type": "group", "id": name, "zones": [], "doors": [], "schedule": "24x7"}
        for name in ("SOF | STAFF | ALL | 24x7", "LON | staff | ALL | 24x7", "LON |  | A | X", "x")
    ]
    zone: JsonObject = {"type": "zone", "id": "club", "colour": "red"}
    warnings = parse_records(lines(changed(zone, *groups))).warnings
    assert [warning[:3] for warning in warnings] == [
        ("zone", "club", "colour"),
        *(("group", str(group["id"]), "id") for group in groups),
    ]


def test_defaults_are_the_pages() -> None:
    tables = parse_records(lines(BASE)).records.tables
    assert tables.policy == Policy(id="policy", max_age={"tenant": timedelta(hours=24)})
    assert tables.policy.booking_before == timedelta(minutes=15)
    assert tables.policy.booking_after == timedelta(minutes=5)
    assert tables.policy.grace == timedelta(hours=72)
    assert tables.policy.pin_lockout == timedelta(seconds=30)
    assert tables.policy.journal_retention == timedelta(days=90)
    assert tables.doors["front"] == Door(id="front", from_zone="street", to_zone="club")
    assert tables.doors["front"].unlock == timedelta(seconds=5)


def test_no_repr_prints_a_credential_or_a_name() -> None:
    named: JsonObject = {"type": "holder", "id": "ann", "name": "Ann Archer"}
    compiled = compile_records(parse_records(lines(changed(named, EXCEPTION))).records)
    text = repr((list(compiled.holdings), list(compiled.credentials)))
    assert "'ann'" in text
    for secret in ("Ann Archer", "1234", "04A1B2C3"):
        assert secret not in text


@pytest.mark.parametrize("name", SITE_NAMES)
def test_a_compiled_site_survives_being_stored(name: str) -> None:
    records = parse_records(conformance_lines(name, "records")).records
    tables, holdings, credentials = compile_records(records)

    assert msgspec.msgpack.decode(msgspec.msgpack.encode(tables), type=SiteTables) == tables
    memory = RecordSet(records)
    for holding in holdings:
        stored = msgspec.msgpack.encode(holding)
        assert msgspec.msgpack.decode(stored, type=Holding) == holding
        assert memory.holding(holding.holder.id) == holding
    for kind, value, credential in credentials:
        hashed = msgspec.structs.replace(credential, value="")
        stored = msgspec.msgpack.encode(hashed)
        assert msgspec.msgpack.decode(stored, type=Credential) == hashed
        assert memory.find(kind, value) == credential
