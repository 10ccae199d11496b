"""Calendars of meeting rooms: what repeats, lasts all day, is cancelled, or is in another zone."""

import contextlib
import json
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from gateway.cli import main
from gateway.cloud import icalendars
from gateway.cloud.folder import build
from gateway.cloud.icalendars import ICS_BYTES_MAX, read_calendar
from gateway.cloud.sheets import FolderRefused
from gateway.cloud.template import starting_folder, write_folder
from gateway.errors import GatewayError

AT = datetime(2027, 3, 22, tzinfo=UTC)  # a Monday; British Summer Time begins on the 28th

BEN = "ORGANIZER:mailto:Ben@example.com"


def event(*lines: str, uid: str = "u") -> str:
    return "\n".join(("BEGIN:VEVENT", f"UID:{uid}", "DTSTAMP:20270101T000000Z", *lines,
                      "END:VEVENT"))  # fmt: skip


def calendar(*events: str) -> str:
    lines = ("BEGIN:VCALENDAR", "VERSION:2.0", "PRODID:-//x//x//EN", *events, "END:VCALENDAR", "")
    return "\n".join(lines).replace("\n", "\r\n")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "site"
    write_folder(path, starting_folder("LON", "Europe/London"))
    (path / "calendars.csv").write_text("file,zones,doors\nroom.ics,meeting-1,\n")
    return path


def booked(folder: Path, *events: str) -> dict[str, dict[str, Any]]:
    (folder / "room.ics").write_bytes(calendar(*events).encode())
    found = (json.loads(line) for line in build(folder, AT, read_calendar).lines)
    return {each["id"]: each for each in found if each["id"].startswith("room/")}


def spans(found: dict[str, dict[str, Any]]) -> list[tuple[str, str]]:
    return sorted((each["start"], each["end"]) for each in found.values())


TIMES = ",".join(map(str, range(60)))
HOURS = ",".join(map(str, range(24)))


@pytest.mark.parametrize(
    ("start", "rule"),
    [
        ("00010101T000000Z", "FREQ=HOURLY"),
        ("19700101T000000Z", f"FREQ=DAILY;BYHOUR={HOURS};BYMINUTE={TIMES};BYSECOND={TIMES}"),
        ("20270322T000000Z", f"FREQ=DAILY;BYHOUR={HOURS};BYMINUTE={TIMES};BYSECOND={TIMES}"),
        ("19700101T000000Z", f"FREQ=YEARLY;BYHOUR={HOURS};BYMINUTE={TIMES}"),
        ("19700101T000000Z", "FREQ=HOURLY;COUNT=1000000000"),
        ("00010101T000000Z", "FREQ=HOURLY;INTERVAL=2;BYDAY=MO"),
    ],
)
def test_an_event_that_would_take_for_ever_is_named(folder: Path, start: str, rule: str) -> None:
    began = time.process_time()
    with pytest.raises(FolderRefused, match="event bomb: repeats too often"):
        booked(folder, event(f"DTSTART:{start}", "DURATION:PT1S", f"RRULE:{rule}", BEN, uid="bomb"))
    assert time.process_time() - began < 5.0


NEVER = "RRULE:FREQ=YEARLY;BYMONTH=2;BYMONTHDAY=30"


def bent_zone(rule: str) -> str:
    return "\n".join(("BEGIN:VTIMEZONE", "TZID:Bent", "BEGIN:STANDARD", "DTSTART:00010101T000000",
                      f"RRULE:{rule}", "TZOFFSETFROM:+0000", "TZOFFSETTO:+0100", "END:STANDARD",
                      "END:VTIMEZONE"))  # fmt: skip


HOSTILE = {
    "rules that never come true": (
        "event never-[0-9]+: takes more than 4 s",
        [event("DTSTART:20270101T000000Z", "DURATION:PT1H", NEVER, BEN, uid=f"never-{n}")
         for n in range(100)],
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", HOSTILE)
def test_whatever_an_event_asks_for_the_build_ends_and_names_it(
    folder: Path, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(icalendars, "WORK_S_MAX", 4.0)
    told, components = HOSTILE[what]
    began = time.monotonic()
    with pytest.raises(FolderRefused, match=f"room.ics: .*{told}"):
        booked(folder, *components)
    assert time.monotonic() - began < 15.0


@pytest.mark.parametrize("rule", ["FREQ=SECONDLY;BYMONTH=2;BYMONTHDAY=30", "FREQ=MINUTELY"])
def test_a_rule_of_a_time_zone_holds_nothing_up(folder: Path, rule: str) -> None:
    began = time.monotonic()
    with contextlib.suppress(FolderRefused):
        booked(folder, bent_zone(rule),
               event("DTSTART;TZID=Bent:20270322T100000", "DURATION:PT1H", BEN))  # fmt: skip
    assert time.monotonic() - began < 15.0


def test_a_long_line_and_many_properties_are_read_in_time(folder: Path) -> None:
    long = event("DTSTART:20270322T100000Z", "DURATION:PT1H", BEN,
                 f"DESCRIPTION:{'x' * 1_000_000}",
                 *(f"X-{n}:y" for n in range(5_000)))  # fmt: skip
    assert len(booked(folder, long)) == 1


def test_many_dates_of_an_event_are_bounded_too(folder: Path) -> None:
    dates = ",".join(["20270401T000000Z"] * 150_000)
    with pytest.raises(FolderRefused, match="event bomb: repeats too often"):
        booked(folder, event("DTSTART:20270322T000000Z", "DURATION:PT1H", f"RDATE:{dates}",
                             f"EXDATE:{dates},{dates}", BEN, uid="bomb"))  # fmt: skip


def test_a_weekly_meeting_keeps_its_wall_time_over_the_change_of_the_clock(folder: Path) -> None:
    found = booked(folder, event("DTSTART;TZID=Europe/London:20270301T090000", "DURATION:PT1H",
                                 "RRULE:FREQ=WEEKLY;COUNT=6", BEN))  # fmt: skip
    assert spans(found) == [
        ("2027-03-22T09:00:00Z", "2027-03-22T10:00:00Z"),
        ("2027-03-29T08:00:00Z", "2027-03-29T09:00:00Z"),
        ("2027-04-05T08:00:00Z", "2027-04-05T09:00:00Z"),
    ]
    assert found["room/u/2027-03-22T09:00:00Z"] == {
        "type": "booking", "id": "room/u/2027-03-22T09:00:00Z", "holders": ["ben"], "doors": [],
        "zones": ["meeting-1"], "start": "2027-03-22T09:00:00Z", "end": "2027-03-22T10:00:00Z",
    }  # fmt: skip


def test_one_of_a_series_is_moved_one_left_out_and_one_cancelled(folder: Path) -> None:
    weekly = ("DTSTART:20270322T100000Z", "DTEND:20270322T110000Z", BEN)
    found = booked(
        folder,
        event(*weekly, "RRULE:FREQ=DAILY;COUNT=4", "EXDATE:20270323T100000Z"),
        event("RECURRENCE-ID:20270324T100000Z", "DTSTART:20270324T150000Z",
              "DTEND:20270324T160000Z", BEN),
        event("RECURRENCE-ID:20270325T100000Z", "DTSTART:20270325T100000Z",
              "DTEND:20270325T110000Z", "STATUS:CANCELLED", BEN),
    )  # fmt: skip
    assert {record_id: each.get("status") for record_id, each in found.items()} == {
        "room/u/2027-03-22T10:00:00Z": None,
        "room/u/2027-03-24T15:00:00Z": None,
        "room/u/2027-03-25T10:00:00Z": "cancelled",
    }


def test_all_day_and_times_without_a_zone_are_by_the_sites_clock(folder: Path) -> None:
    found = booked(
        folder,
        event("DTSTART;VALUE=DATE:20270328", "DTEND;VALUE=DATE:20270330", BEN, uid="days"),
        event("DTSTART;VALUE=DATE:20270401", BEN, uid="day"),
        event("DTSTART:20270329T090000", "DTEND:20270329T100000", BEN, uid="floating"),
        event("DTSTART;TZID=America/New_York:20270329T090000", "DURATION:PT30M", BEN, uid="ny"),
    )
    assert spans(found) == [
        ("2027-03-28T00:00:00Z", "2027-03-29T23:00:00Z"),
        ("2027-03-29T08:00:00Z", "2027-03-29T09:00:00Z"),
        ("2027-03-29T13:00:00Z", "2027-03-29T13:30:00Z"),
        ("2027-03-31T23:00:00Z", "2027-04-01T23:00:00Z"),
    ]


def test_attendees_who_are_members_come_in_and_those_who_declined_do_not(folder: Path) -> None:
    when = ("DTSTART:20270322T100000Z", "DTEND:20270322T110000Z")
    found = booked(
        folder,
        event(*when, BEN, "ATTENDEE;PARTSTAT=ACCEPTED:mailto:finn@example.com",
              "ATTENDEE;PARTSTAT=DECLINED:mailto:sam@example.com",
              "ATTENDEE:mailto:guest@elsewhere.example", "ATTENDEE:tel:+4420"),
        event(*when, "ATTENDEE:mailto:sam@example.com", uid="no organizer"),
    )  # fmt: skip
    assert sorted(each["holders"] for each in found.values()) == [["ben", "finn"], ["sam"]]


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        (("DTSTART:20270322T100000Z", "DTEND:20270322T110000Z", "ORGANIZER:mailto:x@y.example"),
         "room.ics, event u of 2027-03-22T10:00:00Z: names no member's e-mail address: add it to"),
        (("DTSTART:20270322T100000Z", BEN),
         "room.ics, event u of 2027-03-22T10:00:00Z: ends no later than it starts"),
        ((BEN,), "room.ics: is no calendar that can be read: "),
        (("DTSTART:20270322T100000Z", "RRULE:FREQ=SECONDLY", BEN),
         "room.ics: is no calendar that can be read: an event that repeats more often"),
        (("DTSTART:20270322T100000Z", "RRULE:FREQ=DAILY;INTERVAL=0", BEN),
         "room.ics: is no calendar that can be read: an event that repeats at an INTERVAL"),
        (("DTSTART:20270322T100000Z", "RDATE;VALUE=PERIOD:20270323T100000Z/20270323T090000Z", BEN),
         "room.ics: is no calendar that can be read: "),
        (("DTSTART:tomorrow", BEN), "room.ics: is no calendar that can be read: "),
    ],
)  # fmt: skip
def test_an_event_that_cant_be_a_booking_is_told(
    folder: Path, lines: tuple[str, ...], told: str
) -> None:
    with pytest.raises(FolderRefused) as refused:
        booked(folder, event(*lines))
    assert str(refused.value).startswith(told)


def test_what_is_no_calendar_or_too_large_is_refused(folder: Path) -> None:
    for data, told in ((b"hello", "is no calendar"), (b" " * (ICS_BYTES_MAX + 1), "larger than")):
        (folder / "room.ics").write_bytes(data)
        with pytest.raises(FolderRefused, match=told):
            build(folder, AT, read_calendar)


def test_how_far_ahead_is_a_setting(folder: Path) -> None:
    settings = folder / "settings.csv"
    settings.write_text(settings.read_text().replace("ahead_days,30", "ahead_days,2"))
    daily = event("DTSTART:20270320T100000Z", "DURATION:PT1H", "RRULE:FREQ=DAILY", BEN)
    assert len(booked(folder, daily)) == 2


def test_without_the_packages_it_says_what_to_install(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "icalendar", None)
    (folder / "room.ics").write_text(calendar())
    with pytest.raises(GatewayError, match="install requirements-cloud"):
        build(folder, AT, read_calendar)
    assert main(["bundle", "build", str(folder)]) == 2
    assert "install requirements-cloud.lock" in capsys.readouterr().err
