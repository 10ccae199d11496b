"""The starting folder, and each way in which a folder can be wrong or say more."""

import csv
import json
from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest

from gateway.cloud.folder import Built, Event, build
from gateway.cloud.sheets import FILE_BYTES_MAX, FolderRefused
from gateway.cloud.template import starting_folder
from gateway.domain.decision import decide, parse_request
from gateway.domain.entitlements import RecordSet
from gateway.domain.lint.rules import lint
from gateway.domain.record_faults import parse_records
from gateway.errors import GatewayError

AT = datetime(2027, 1, 4, tzinfo=UTC)
EXAMPLE = Path(__file__).parents[2] / "config" / "example-site"

Change = tuple[str, str, str]
"""In a file, one text instead of another; in place of "" the file is made of it."""


def no_calendars(path: Path, first: date, until: date) -> list[Event]:
    raise AssertionError(f"{path} is read")


@pytest.fixture
def folder(tmp_path: Path) -> Callable[..., Path]:
    def make(*changes: Change) -> Path:
        files = starting_folder("LON", "Europe/London")
        for name, old, new in changes:
            if old:
                assert old in files[name], old
                files[name] = files[name].replace(old, new, 1)
            else:
                files[name] = new
        for name, text in files.items():
            (tmp_path / name).write_text(text)
        return tmp_path

    return make


def records(built: Built) -> dict[tuple[str, str], dict[str, Any]]:
    found = (json.loads(line) for line in built.lines)
    return {(record["type"], record["id"]): record for record in found}


def test_the_example_site_is_the_starting_folder_and_lints_clean() -> None:
    files = {path.name: path.read_text() for path in EXAMPLE.iterdir()}
    assert files == starting_folder("LON", "Europe/London")
    built = build(EXAMPLE, AT, no_calendars)
    assert built == build(EXAMPLE, datetime(2030, 1, 1, tzinfo=UTC), no_calendars)
    parsed = parse_records(built.lines)
    assert lint(parsed.records, AT, parsed.warnings) == []


@pytest.mark.parametrize("location", ["lon", "", "A | B", "TOO-LONG-A-LOCATION"])
def test_a_location_that_cant_begin_a_groups_name_is_refused(location: str) -> None:
    with pytest.raises(GatewayError, match="is no location code"):
        starting_folder(location, "UTC")


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ("x,member,active,,,,,,,", {"status": "active"}),
        ("x,member,pending,,2027-02-01,,,,,",
         {"status": "pending", "valid_from": "2027-02-01T00:00:00Z"}),
        ("x,member,cancelled,,,2027-06-30,,,,",
         {"status": "active", "valid_until": "2027-06-30T23:00:00Z"}),  # British Summer Time
        ("x,member,delinquent,,,,2027-01-04,,,",
         {"status": "active", "delinquent_since": "2027-01-04T00:00:00Z"}),
        ("x,member,delinquent,,,,2027-07-04 09:30,,,",
         {"status": "active", "delinquent_since": "2027-07-04T08:30:00Z"}),
        ("x,member,cancelled,,,2027-01-31,2027-01-04T10:00:00+01:00,,,",
         {"status": "active", "valid_until": "2027-02-01T00:00:00Z",
          "delinquent_since": "2027-01-04T09:00:00Z"}),
        ("x,member,suspended,,,,,,,", {"status": "suspended"}),
        ("x,member,ended,no,,,,,,", {"status": "ended"}),
    ],
)  # fmt: skip
def test_each_state_of_a_membership_becomes_what_the_gateway_knows(
    folder: Callable[..., Path], row: str, expected: dict[str, str]
) -> None:
    path = folder(("members.csv", "vera,", f"{row}\nvera,"))
    found = records(build(path, AT, no_calendars))["holder", "x"]
    assert found == {"type": "holder", "id": "x", "persona": "member", "groups": []} | expected


@pytest.mark.parametrize(
    ("row", "status"), [("x,member,active,yes", "active"), ("x,member,cancelled,no", "pending"),
                        ("x,member,active,No", "pending")]
)  # fmt: skip
def test_where_access_is_from_paid_on_an_unpaid_membership_is_pending(
    folder: Callable[..., Path], row: str, status: str
) -> None:
    path = folder(
        ("settings.csv", "access_from,active", "access_from,paid"),
        ("members.csv", "", "member,persona,membership,paid,last_day\n" + row + ",2027-03-31\n"),
        ("credentials.csv", "", "credential,member,kind,value\n"),
    )
    for name in ("bookings", "daypasses", "shifts", "exceptions"):
        (path / f"{name}.csv").unlink()
    found = records(build(path, AT, no_calendars))["holder", "x"]
    assert found["status"] == status
    assert found["valid_until"] == "2027-03-31T23:00:00Z"


def test_bookings_day_passes_and_shifts_are_bookings_with_their_own_buffers(
    folder: Callable[..., Path],
) -> None:
    found = records(build(folder(), AT, no_calendars))
    assert "before_min" not in found["booking", "room-1001"]  # the policy's
    assert found["booking", "room-1002"]["before_min"] == 10
    day_pass = found["booking", "day-2001"]
    assert (day_pass["start"], day_pass["end"]) == ("2027-01-11T08:00:00Z", "2027-01-11T19:00:00Z")
    shift = found["booking", "shift-3001"]
    assert (shift["before_min"], shift["after_min"]) == (0, 0)
    assert found["booking", "room-1003"]["status"] == "cancelled"


def test_a_day_pass_without_hours_is_the_whole_day_at_the_site(
    folder: Callable[..., Path],
) -> None:
    path = folder(("daypasses.csv", "2027-01-11,lobby; lounge,BH", "2027-07-05,,"))
    found = records(build(path, AT, no_calendars))["booking", "day-2001"]
    assert (found["start"], found["end"]) == ("2027-07-04T23:00:00Z", "2027-07-05T23:00:00Z")


# What the starting folder sells, asked for at its doors: who, with what, where, when, the answer.
ASKED = (
    ("uid", "04A10000000002", "lounge", "2027-01-04T09:00:00Z", "grant group"),  # Maya
    ("uid", "04A10000000002", "lounge", "2027-01-04T19:00:00Z", "deny outside_schedule"),
    ("uid", "04A10000000002", "street", "2027-01-01T09:00:00Z", "deny outside_schedule"),  # holiday
    ("uid", "04A10000000003", "lounge", "2027-01-04T09:00:00Z", "deny credential_lost"),
    ("wiegand", "H10301:12:34567", "lounge", "2027-01-04T03:00:00Z", "grant group"),  # Finn
    ("wiegand", "H10301:12:34567", "meeting-2", "2027-01-13T08:50:00Z", "grant group"),
    ("wiegand", "H10301:12:34567", "meeting-2", "2027-01-13T10:00:00Z", "deny booking_over"),
    ("uid", "04A10000000004", "lounge", "2027-03-31T17:59:00Z", "grant group"),  # Pia's last day
    ("uid", "04A10000000004", "lounge", "2027-03-31T23:00:00Z", "deny credential_expired"),
    ("uid", "04A10000000005", "lounge", "2027-01-06T12:00:00Z", "grant group"),  # Dora, in grace
    ("uid", "04A10000000005", "lounge", "2027-01-07T12:00:00Z", "deny payment_overdue"),
    ("uid", "04A10000000006", "lounge", "2027-02-02T12:00:00Z", "deny membership_pending"),  # Nils
    ("uid", "04A10000000007", "suite-a", "2027-01-04T03:00:00Z", "grant group"),  # Olga
    ("uid", "04A10000000007", "comms", "2027-01-04T03:00:00Z", "deny no_entitlement"),
    ("uid", "04A10000000008", "meeting-1", "2027-01-12T13:44:00Z", "deny booking_not_started"),
    ("uid", "04A10000000008", "meeting-1", "2027-01-12T13:45:00Z", "grant group"),  # Ben
    ("uid", "04A10000000008", "street", "2027-01-12T16:04:00Z", "grant group"),
    ("uid", "04A10000000008", "meeting-2", "2027-01-12T14:30:00Z", "deny booking_not_started"),
    ("qr", "DAYPASS-7Q2M9X4K", "lounge", "2027-01-11T08:00:00Z", "grant group"),  # Dana
    ("qr", "DAYPASS-7Q2M9X4K", "meeting-1", "2027-01-11T08:00:00Z", "deny no_entitlement"),
    ("qr", "DAYPASS-7Q2M9X4K", "lounge", "2027-01-11T19:00:00Z", "deny booking_over"),
    ("uid", "04A10000000009", "comms", "2027-01-04T21:00:00Z", "challenge pin_required"),  # Carl
    ("uid", "04A10000000009", "comms", "2027-01-16T12:00:00Z", "challenge pin_required"),  # shift
    ("uid", "04A10000000009", "comms", "2027-01-16T14:00:00Z", "deny outside_schedule"),
    ("qr", "VISITOR-3H8T5W1C", "street", "2027-01-12T09:30:00Z", "grant exception"),  # Vera
    ("qr", "VISITOR-3H8T5W1C", "street", "2027-01-12T11:00:00Z", "deny no_entitlement"),
)


def test_what_the_starting_folder_sells_is_what_its_doors_answer() -> None:
    found = RecordSet(parse_records(build(EXAMPLE, AT, no_calendars).lines).records)
    answers = []
    for kind, value, door, at, _ in ASKED:
        credentials = [{"kind": kind, "value": value}]
        request = {"door": door, "credentials": credentials, "at": at}
        decision = decide(found, parse_request(json.dumps(request)))
        answers.append((kind, value, door, at, f"{decision.outcome} {decision.reason}"))
    assert answers == list(ASKED)


def test_doors_of_another_system_are_told_and_left_out(folder: Callable[..., Path]) -> None:
    row = "roof,lounge,comms,Low,CRM,brass key,24x7,NO SUCH | GROUP,No,,,,"
    path = folder(("doors.csv", "comms,lounge", f"{row}\ncomms,lounge"))
    built = build(path, AT, no_calendars)
    assert built.elsewhere == ("roof",)
    assert ("door", "roof") not in records(built)


def test_names_and_addresses_of_people_are_in_no_record(folder: Callable[..., Path]) -> None:
    text = b"\n".join(build(folder(), AT, no_calendars).lines)
    assert b"@" not in text
    assert b"Maya" not in text


def test_the_order_of_rows_and_columns_changes_no_byte(folder: Callable[..., Path]) -> None:
    path = folder(("schedules.csv", "NIGHT,", "BH,sat,14:00,16:00,\nBH,sat,10:00,12:00,\nNIGHT,"))
    plain = build(path, AT, no_calendars)
    for sheet in path.glob("*.csv"):
        with sheet.open(newline="") as file:
            header, *rows = csv.reader(file)
        with sheet.open("w", newline="") as file:
            csv.writer(file).writerows(cells[::-1] for cells in (header, *rows[::-1]))
    assert build(path, AT, no_calendars) == plain


def test_what_a_spreadsheet_writes_is_read(folder: Callable[..., Path]) -> None:
    path = folder()
    plain = build(path, AT, no_calendars)
    for sheet in path.glob("*.csv"):
        text = sheet.read_bytes() + (b",,\n" if sheet.name == "calendars.csv" else b"")
        sheet.write_bytes(b"\xef\xbb\xbf" + text.replace(b"\n", b"\r\n"))
    assert build(path, AT, no_calendars) == plain


MAYA = "maya,member,active,,2026-11-01,,,LOC".replace("LOC", "LON")

WRONG: tuple[tuple[Change, str], ...] = (
    # The files
    (("settings.csv", "timezone,Europe/London\n", ""),
     "settings.csv: has no row for timezone, which has no default"),
    (("settings.csv", "Europe/London", "London"),
     "settings.csv, line 3, value: is no IANA time zone, such as Europe/London; there is 'London'"),
    (("settings.csv", "grace_hours", "grace"), "settings.csv, line 7, setting: unknown; known"),
    (("settings.csv", "grace_hours,72", "grace_hours,721"),
     "settings.csv, line 7, value: not an integer from 0 to 720"),
    (("settings.csv", "grace_hours,72", "grace_hours,-1"),
     "settings.csv, line 7, value: is no whole number"),
    (("settings.csv", "grace_hours,72", "booking_before_min,5"),
     "settings.csv, line 7, setting: booking_before_min is given twice"),
    (("settings.csv", "access_from,active", "access_from,always"),
     "settings.csv, line 4, value: is none of active, paid"),
    (("settings.csv", "deny_timebound", "maybe"), "settings.csv, line 9, value: not one of deny"),
    (("settings.csv", ",staff", ",owner"), "settings.csv, line 8, value: not one of staff"),
    (("settings.csv", "grace_hours,72", "max_age_h.restricted,0"),
     "settings.csv, line 7, value: not an integer from 1 to 8760"),
    (("member.csv", "", "x\n"), "member.csv: unknown file; known are: bookings.csv"),
    (("notes.ics", "", "x\n"), "notes.ics: is in no row of calendars.csv"),
    (("groups.csv", "", ""), "groups.csv, line 1, group: column missing"),
    (("groups.csv", "group,schedule\n", "group;schedule\n"),
     "groups.csv, line 1: is separated by semicolons: save it with commas"),
    (("groups.csv", "group,schedule\n", "group,schedule,zone\n"),
     "groups.csv, line 1, zone: unknown column; known here are: group, schedule"),
    (("groups.csv", "group,schedule\n", "group,schedule,group\n"),
     "groups.csv, line 1, group: column given twice"),
    (("groups.csv", "| BH,BH", "| BH"), "groups.csv, line 2: has 1 cells, the header 2: quote"),
    (("groups.csv", "| BH,BH", "| BH,"), "groups.csv, line 2, schedule: is empty"),
    (("groups.csv", "| BH,BH", '| BH,"B'), "groups.csv, line 8: is no CSV: unexpected end"),
    (("groups.csv", "| BH,BH", "| BH,B\x07H"),
     "groups.csv, line 2, schedule: has a character that can't be printed"),
    # Zones, doors and their matrix
    (("zones.csv", "suite-a,tenant-only", "suite-a,office"),
     "zones.csv, line 7, category: is none of public, member"),
    (("zones.csv", "meeting-2,book", "meeting-1,book"),
     "zones.csv, line 6, zone: 'meeting-1' is already in zones.csv, line 5"),
    (("doors.csv", "suite-a,lounge,suite-a", "suite-a,lounge,suite-b"),
     "doors.csv, line 6, zone: no zone 'suite-b': add it to zones.csv, or correct it here"),
    (("doors.csv", "comms,High", "comms,Urgent"), "doors.csv, line 7, criticality: is none of"),
    (("doors.csv", "CRM,door-gateway,24x7,LON", "CRM,door-gateway,BH,LON"),
     "doors.csv, line 6, schedule_rule: is not what its access groups open it by: 24x7"),
    (("doors.csv", "24x7,No,Suite", "24x7,Yes,Suite"),
     "doors.csv, line 6, booking_based: none of its groups is on the schedule timebound"),
    (("doors.csv", "24x7,Yes,Meeting room 1", "24x7,No,Meeting room 1"),
     "doors.csv, line 4, booking_based: one of its groups is on the schedule timebound"),
    (("doors.csv", "24x7,Yes,Meeting room 1", "24x7,perhaps,Meeting room 1"),
     "doors.csv, line 4, booking_based: is none of yes, no"),
    (("doors.csv", "LON | TENANTS | SUITE A | 24x7; LON | STAFF | RESTRICTED | 24x7,No",
      "LON | TENANTS | SUITE B | 24x7; LON | STAFF | RESTRICTED | 24x7,No"),
     "doors.csv, line 6, access_groups: no group 'LON | TENANTS | SUITE B | 24x7': add it to gr"),
    (("doors.csv", "Comms room,,,24x7", "Comms room,,,OFFICE"),
     "doors.csv, line 7, second_factor_schedule: no schedule 'OFFICE': add it to schedules.csv"),
    (("groups.csv", "| BH,BH", "| BH,OFFICE"), "groups.csv, line 2, schedule: no schedule 'OFF"),
    # Schedules
    (("schedules.csv", "mon-fri", "fri-mon"), "schedules.csv, line 2, days: 'fri-mon' runs backw"),
    (("schedules.csv", "mon-fri", "weekdays"), "schedules.csv, line 2, days: 'weekdays' is none"),
    (("schedules.csv", "08:00", "8am"), "schedules.csv, line 2, opens: a wall time that is not HH"),
    (("schedules.csv", "08:00,19:00", "08:00,"), "schedules.csv, line 2, closes: is empty: give"),
    (("schedules.csv", "08:00,19:00", ",19:00"), "schedules.csv, line 2, opens: is empty: give"),
    (("schedules.csv", "BH,holiday:public,,,", "BH,fri,,,"),
     "schedules.csv, line 3, days: fri is closed here, and has hours above"),
    (("schedules.csv", "BH,holiday:public,,,", "BH,sun,,,\nBH,sun,09:00,10:00,"),
     "schedules.csv, line 4, days: sun has hours here, and is closed above"),
    (("schedules.csv", "BH,holiday:public,,,", "BH,sun,,,Europe/Paris"),
     "schedules.csv, line 3, timezone: is not that of the schedule's first row"),
    (("schedules.csv", "holiday:public", "holiday:bank"),
     "schedules.csv, line 2, days: no calendar 'bank': add it to holidays.csv"),
    (("holidays.csv", "2027-01-01", "2026-12-25"), "holidays.csv, line 3, date: is in calendar"),
    (("holidays.csv", "2027-01-01", "1.1.2027"), "holidays.csv, line 3, date: is no date such as"),
    (("schedules.csv", "BH,holiday:public,,,", "BH,holiday:public;holiday:local,,,"),
     "schedules.csv, line 3, days: 2027-01-01 is in holiday:public as well: keep it in one calend"),
    # Members
    (("members.csv", "maya,member", "maya,vip"), "members.csv, line 3, persona: is none of staff"),
    (("members.csv", "cancelled,,,2027-03-31", "cancelled,,,"),
     "members.csv, line 5, last_day: is empty: a cancelled membership has a last day"),
    (("members.csv", "delinquent,,,,2027-01-04", "delinquent,,,,"),
     "members.csv, line 6, delinquent_since: is empty: the days of grace are counted from it"),
    (("members.csv", "delinquent,", "active,"), "members.csv, line 6, delinquent_since: doesn't"),
    (("members.csv", "delinquent,,,,2027-01-04", "delinquent,,,,2027-02-30"),
     "members.csv, line 6, delinquent_since: is no date such as"),
    (("members.csv", "2026-11-01,,", "2026-11-01,2026-10-01,"),
     "members.csv, line 3, last_day: is before the first"),
    (("members.csv", "2026-11-01,,,LON | MEMBERS", "2026-11-01,,,LON | MEMBER"),
     "members.csv, line 3, groups: no group 'LON | MEMBER | AMENITIES | BH': add it to groups.csv"),
    (("members.csv", "; LON | BOOKINGS | BOOKABLE | TIMEBOUND,Finn", "; ,Finn"),
     "members.csv, line 4, groups: has nothing between two semicolons"),
    (("members.csv", "; LON | BOOKINGS | BOOKABLE | TIMEBOUND,Finn",
      "; LON | MEMBERS | FULL | 24x7,Finn"),
     "members.csv, line 4, groups: names LON | MEMBERS | FULL | 24x7 twice"),
    (("members.csv", "maya@", "Sam@"), "members.csv, line 3, email: is another member's as well"),
    # Credentials
    (("credentials.csv", "uid,04A10000000002", "uid,04a10000000002"),
     "credentials.csv, line 5, value: not 8, 14 or 20 upper-case hex digits"),
    (("credentials.csv", "uid,04A10000000002", "uid,04A10000000001"),
     "credentials.csv, line 2, value: in use by credential 'card-maya'"),
    (("credentials.csv", "card-maya,maya", "card-maya,mia"),
     "credentials.csv, line 5, member: no holder 'mia': add it to members.csv"),
    (("credentials.csv", "pin-sam,sam,pin", "pin-sam,sam,code"),
     "credentials.csv, line 3, kind: is none of uid"),
    (("credentials.csv", "active,,,,1", "active,,,,0"),
     "credentials.csv, line 16, max_uses: not an integer from 1 to 1000"),
    # What lasts a while
    (("bookings.csv", "2027-01-12 16:00", "2027-01-12 14:00"),
     "bookings.csv, line 2, end: not after start"),
    (("bookings.csv", "2027-01-12 16:00", "noon"), "bookings.csv, line 2, end: is no instant such"),
    (("bookings.csv", "2027-01-12 14:00", "2026-03-29 01:30"),
     "bookings.csv, line 2, start: doesn't exist: the clock goes forward over it that night"),
    (("bookings.csv", "2027-01-12 14:00", "2026-10-25 01:30"),
     "bookings.csv, line 2, start: happens twice, as the clock goes back that night: write"
     " 2026-10-25T01:30:00+01:00 or 2026-10-25T01:30:00+00:00"),
    (("bookings.csv", "ben,meeting-1,", "ben,,"), "bookings.csv, line 2, zones: is empty, and so"),
    (("bookings.csv", "ben; finn", "ben; joe"), "bookings.csv, line 3, members: no holder 'joe'"),
    (("bookings.csv", "meeting-2", "meeting-3"), "bookings.csv, line 3, zones: no zone 'meeting"),
    (("shifts.csv", "shift-3001", "room-1001"),
     "shifts.csv, line 2, shift: 'room-1001' is already in bookings.csv, line 2"),
    (("daypasses.csv", "lounge,BH", "lounge,DAY"), "daypasses.csv, line 2, schedule: no schedule"),
    (("daypasses.csv", "2027-01-11", "2027-01-10"), "daypasses.csv, line 2, day: schedule 'BH' is"),
    (("exceptions.csv", ",street,", ",,"), "exceptions.csv, line 2, zones: is empty, and so is"),
    (("exceptions.csv", "job interview", ""), "exceptions.csv, line 2, reason: is empty"),
    (("calendars.csv", "doors\n", "doors\n../x.ics,comms,\n"),
     "calendars.csv, line 2, file: is no name of an .ics file in this folder"),
    (("calendars.csv", "doors\n", "doors\nx.ics,comms,\n"),
     "calendars.csv, line 2, file: can't be read: No such file or directory"),
)  # fmt: skip


@pytest.mark.parametrize(("change", "told"), WRONG, ids=[told[:50] for _, told in WRONG])
def test_what_is_wrong_is_told_with_file_line_and_column(
    folder: Callable[..., Path], change: Change, told: str
) -> None:
    def read(path: Path, first: date, until: date) -> list[Event]:
        path.read_bytes()
        return []

    local = ("holidays.csv", "public,2027-01-01", "local,2027-01-01,x\npublic,2027-01-01")
    with pytest.raises(FolderRefused) as refused:
        build(folder(*([local] if "holiday:local" in change[2] else []), change), AT, read)
    said = [str(fault) for fault in refused.value.faults]
    assert any(each.startswith(told) for each in said), said


def test_every_fault_is_told_at_once_up_to_a_limit(folder: Callable[..., Path]) -> None:
    bad = "".join(f"c{number},nobody,code,x,,,,,\n" for number in range(300))
    path = folder(("credentials.csv", "max_uses\n", f"max_uses\n{bad}"), WRONG[0][0])
    with pytest.raises(FolderRefused) as refused:
        build(path, AT, no_calendars)
    assert len(refused.value.faults) == 301
    assert str(refused.value).endswith("\nand 101 more")


def test_a_file_that_is_missing_not_text_or_too_large_is_refused(
    folder: Callable[..., Path],
) -> None:
    path = folder()
    (path / "zones.csv").unlink()
    (path / "doors.csv").write_bytes(b"\xff\xfe")
    (path / "groups.csv").unlink()
    (path / "groups.csv").mkdir()
    with (path / "members.csv").open("wb") as file:
        file.truncate(FILE_BYTES_MAX + 1)
    with pytest.raises(FolderRefused) as refused:
        build(path, AT, no_calendars)
    said = str(refused.value)
    assert "zones.csv: is missing" in said
    assert "doors.csv: is not UTF-8" in said
    assert "groups.csv: can't be read" in said
    assert "members.csv: is larger than" in said
    with pytest.raises(FolderRefused, match="is no folder"):
        build(path / "doors.csv", AT, no_calendars)
