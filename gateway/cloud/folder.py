"""A folder of CSV files and the door/zones matrix, made into entitlement records (docs/cloud.md).

Source of the matrix and of the lifecycle: the door-access model, "Door/Zones Matrix" and "Define
lifecycle automation rules".
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, date, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import NamedTuple, get_args
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from gateway.cloud.sheets import (
    FolderFault,
    FolderRefused,
    Place,
    Row,
    Sheet,
    day_after,
    read_sheet,
    start_of,
)
from gateway.domain.canonical import TYPES, canonical
from gateway.domain.record_faults import parse_records
from gateway.domain.records import (
    ALWAYS,
    TIMEBOUND,
    WEEKDAYS,
    Antipassback,
    BookingStatus,
    Category,
    CredentialKind,
    CredentialStatus,
    Effect,
    Persona,
)
from gateway.domain.schedule import all_opening_hours
from gateway.errors import RecordFault, RecordsRefused

ENFORCED_HERE = "door-gateway"
"""What a door's `enforcement` must say; a door of another system is none of the gateway's."""

BOOKING_BASED = "booking-based"
"""The matrix's word for the schedule `timebound`."""

BOOKINGS_AHEAD_DAYS = 30
"""How far ahead a repeating event becomes bookings, where settings.csv doesn't say."""

SETTINGS = Sheet("settings.csv", ("setting", "value"))
ZONES = Sheet("zones.csv", ("zone", "category"), ("name",))
DOORS = Sheet(
    "doors.csv",
    (
        "door",
        "from_zone",
        "zone",
        "criticality",
        "entitlement",
        "enforcement",
        "schedule_rule",
        "access_groups",
        "booking_based",
    ),
    (
        "name",
        "egress",
        "unlock_s",
        "extended_unlock_s",
        "held_open_s",
        "unlock_schedule",
        "unlock_after_first",
        "second_factor_schedule",
        "pin_alone",
        "antipassback",
        "two_person",
        "interlock",
        "max_occupancy",
    ),
)
GROUPS = Sheet("groups.csv", ("group", "schedule"))
SCHEDULES = Sheet("schedules.csv", ("schedule", "days"), ("opens", "closes", "timezone"), False)
HOLIDAYS = Sheet("holidays.csv", ("calendar", "date", "name"), (), False)
MEMBERS = Sheet(
    "members.csv",
    ("member", "persona", "membership"),
    (
        "paid",
        "first_day",
        "last_day",
        "delinquent_since",
        "groups",
        "extended_unlock",
        "name",
        "email",
    ),
)
CREDENTIALS = Sheet(
    "credentials.csv",
    ("credential", "member", "kind", "value"),
    ("status", "first_day", "last_day", "duress", "max_uses"),
)
BOOKINGS = Sheet(
    "bookings.csv",
    ("booking", "members", "start", "end"),
    ("zones", "doors", "before_min", "after_min", "status"),
    False,
)
DAYPASSES = Sheet("daypasses.csv", ("pass", "member", "day"), ("zones", "schedule"), False)
SHIFTS = Sheet("shifts.csv", ("shift", "member", "start", "end"), ("zones", "doors"), False)
EXCEPTIONS = Sheet(
    "exceptions.csv",
    ("exception", "member", "effect", "from", "until", "reason", "issued_by"),
    ("zones", "doors"),
    False,
)
CALENDARS = Sheet("calendars.csv", ("file",), ("zones", "doors"), False)

SHEETS = (
    SETTINGS,
    ZONES,
    DOORS,
    GROUPS,
    SCHEDULES,
    HOLIDAYS,
    MEMBERS,
    CREDENTIALS,
    BOOKINGS,
    DAYPASSES,
    SHIFTS,
    EXCEPTIONS,
    CALENDARS,
)

_POLICY_NUMBERS = (
    "booking_before_min",
    "booking_after_min",
    "grace_hours",
    "pin_max_attempts",
    "pin_lockout_s",
    "journal_retention_days",
)
_POLICY_LISTS = ("lockdown_exempt_personas", "max_age_exempt_personas")
_MAX_AGE = "max_age_h."
_OWN_SETTINGS = ("location", "timezone", "access_from", "bookings_ahead_days")

_WHAT_TO_DO = {
    "zone": "add it to zones.csv, or correct it here",
    "door": "add it to doors.csv, or correct it here",
    "group": "add it to groups.csv, or correct it here",
    "schedule": "add it to schedules.csv, or correct it here",
    "calendar": "add it to holidays.csv, or correct it here",
    "holder": "add it to members.csv, or correct it here",
}

_COLUMNS = {
    ("site", "id"): "location",
    ("door", "to_zone"): "zone",
    ("schedule", "holidays"): "days",
    ("schedule", "weekly"): "opens",
    ("holder", "valid_from"): "first_day",
    ("holder", "valid_until"): "last_day",
    ("credential", "holder"): "member",
    ("booking", "holders"): "members",
    ("exception", "holder"): "member",
}
"""Where a record's member has another name in its file."""

Record = dict[str, object]


class Event(NamedTuple):
    """One occurrence in an iCalendar file."""

    uid: str
    start: datetime | date
    end: datetime | date
    cancelled: bool
    people: tuple[str, ...]
    """E-mail addresses, in lower case, of the organizer and of those who didn't decline."""


ReadCalendar = Callable[[Path, date, date], Iterable[Event]]
"""The events of a file that overlap the days from one to another. Raises ValueError."""


class Built(NamedTuple):
    """What became of a folder."""

    lines: list[bytes]
    """The records, canonical, in the order of a bundle."""
    elsewhere: tuple[str, ...]
    """Doors of another enforcement system, which are in no record."""


def build(folder: Path, at: datetime, read_calendar: ReadCalendar) -> Built:
    """The records of a folder. Only repeating events depend on `at`: they are taken from then on.

    Raises:
        FolderRefused: it has faults: every one, with file, line and column.
    """
    building = _Building(folder, at, read_calendar)
    building.read()
    return building.finish()


class _Building:
    """A folder while it is read."""

    def __init__(self, folder: Path, at: datetime, read_calendar: ReadCalendar) -> None:
        self._folder = folder
        self._at = at
        self._read_calendar = read_calendar
        self._faults: list[FolderFault] = []
        self._records: list[Record] = []
        self._places: dict[tuple[str, str], tuple[Row, Mapping[str, str]]] = {}
        """Of each record: where it stands, and the columns of members."""
        self._settings: dict[str, tuple[str, Row]] = {}
        self._zone = ZoneInfo("UTC")
        self._schedule_of: dict[str, str] = {}
        """Of each group."""
        self._emails: dict[str, str] = {}
        self._elsewhere: list[str] = []

    def read(self) -> None:
        """Read every file; faults are kept for `finish`."""
        if not self._folder.is_dir():
            raise FolderRefused([FolderFault(Place(str(self._folder)), "is no folder")])
        self._strangers()
        self._read_settings()
        for row in self._rows(ZONES):
            category = row.word("category", _words(Category) | {"tenant-only": "tenant"})
            self._add(row, "zone", "zone", {"category": category, "name": row.text("name")})
        self._read_schedules()
        for row in self._rows(GROUPS):
            self._read_group(row)
        self._read_doors()
        for row in self._rows(MEMBERS):
            self._read_member(row)
        for row in self._rows(CREDENTIALS):
            self._read_credential(row)
        for row in self._rows(BOOKINGS):
            self._read_booking(row)
        for row in self._rows(SHIFTS):
            self._read_shift(row)
        for row in self._rows(EXCEPTIONS):
            self._read_exception(row)
        self._read_calendars()
        self._read_daypasses()

    def finish(self) -> Built:
        """The records, once everything is read.

        Raises:
            FolderRefused: something is wrong.
        """
        lines = _lines(self._records)
        if not self._faults:
            try:
                parse_records(lines)
            except RecordsRefused as refused:
                self._faults += [self._placed(fault) for fault in refused.faults]
        if self._faults:
            raise FolderRefused(self._faults)
        return Built(lines, tuple(sorted(self._elsewhere)))

    def _rows(self, sheet: Sheet) -> Iterable[Row]:
        return read_sheet(self._folder, sheet, self._faults)

    def _wrong(self, place: Place, what: str) -> None:
        self._faults.append(FolderFault(place, what))

    def _strangers(self) -> None:
        known = {sheet.file for sheet in SHEETS}
        for path in sorted(self._folder.glob("*.csv")):
            if path.name not in known:
                self._wrong(
                    Place(path.name), f"unknown file; known are: {', '.join(sorted(known))}"
                )

    def _add(
        self, row: Row, record_type: str, column: str, members: Record, record_id: str = ""
    ) -> None:
        """Keep a record whose id stands in `column`, unless that has been given before."""
        name = record_id or row.text(column) or ""
        key = (record_type, name)
        if key in self._places:
            first = self._places[key][0].place()
            row.wrong(column, f"{name!r} is already in {first.file}, line {first.line}")
            return
        self._places[key] = (row, {"id": column})
        self._records.append({"type": record_type, "id": name} | members)

    def _placed(self, fault: RecordFault) -> FolderFault:
        """A fault of a record, where it stands in the folder."""
        what = fault.what
        wanted = what.split(" ")[1] if what.startswith("no ") else ""
        if wanted in _WHAT_TO_DO:
            what = f"{what}: {_WHAT_TO_DO[wanted]}"
        found = self._places.get((fault.type, fault.id))
        if found is None:
            return FolderFault(Place(SETTINGS.file), f"{fault.member}: {what}")
        row, columns = found
        column = columns.get(fault.member) or _COLUMNS.get((fault.type, fault.member))
        if fault.type in ("site", "policy"):
            setting = column or fault.member
            rows = [said for name, (_, said) in self._settings.items() if name.startswith(setting)]
            return FolderFault((rows or [row])[0].place("value"), what)
        return FolderFault(row.place(column or fault.member), what)

    # --- The site ---------------------------------------------------------------------------

    def _read_settings(self) -> None:
        known = {*_OWN_SETTINGS, *_POLICY_NUMBERS, *_POLICY_LISTS, "untrusted_clock"} | {
            f"{_MAX_AGE}{category}" for category in get_args(Category)
        }
        first = None
        for row in self._rows(SETTINGS):
            first = first or row
            name, value = row.text("setting") or "", row.text("value") or ""
            if name not in known:
                row.wrong("setting", f"unknown; known here are: {', '.join(sorted(known))}")
            elif name in self._settings:
                row.wrong("setting", f"{name} is given twice")
            else:
                self._settings[name] = (value, row)
        if first is None:
            return
        for name in ("location", "timezone", "access_from"):
            if name not in self._settings:
                self._wrong(Place(SETTINGS.file), f"has no row for {name}, which has no default")
        if "access_from" in self._settings:
            self._settings["access_from"][1].word("value", {"active": "active", "paid": "paid"})
        location, row = self._settings.get("location", ("", first))
        timezone = self._settings.get("timezone", ("", first))[0]
        try:
            self._zone = ZoneInfo(timezone or "UTC")
        except (ZoneInfoNotFoundError, ValueError, OSError):
            said = self._settings["timezone"][1]
            said.wrong("value", f"is no IANA time zone, such as Europe/London{said.there('value')}")
        self._add(row, "site", "setting", {"timezone": timezone}, location or "-")
        self._add(first, "policy", "setting", self._policy(), "policy")

    def _policy(self) -> Record:
        policy: Record = {}
        max_age: dict[str, int | None] = {}
        for name, (value, row) in self._settings.items():
            if name in _POLICY_NUMBERS:
                policy[name] = row.number("value")
            elif name in _POLICY_LISTS:
                policy[name] = row.names("value")
            elif name == "untrusted_clock":
                policy[name] = value
            elif name.startswith(_MAX_AGE):
                max_age[name.removeprefix(_MAX_AGE)] = row.number("value")
        return policy | ({"max_age_h": max_age} if max_age else {})

    # --- The door/zones matrix --------------------------------------------------------------

    def _read_group(self, row: Row) -> None:
        schedule = _schedule(row.text("schedule"))
        if schedule not in (ALWAYS, TIMEBOUND) and ("schedule", schedule) not in self._places:
            row.wrong("schedule", f"no schedule {schedule!r}: {_WHAT_TO_DO['schedule']}")
        name = row.text("group") or ""
        self._schedule_of.setdefault(name, schedule or "")
        self._add(row, "group", "group", {"zones": [], "doors": [], "schedule": schedule})

    def _read_doors(self) -> None:
        doors_of: defaultdict[str, list[str]] = defaultdict(list)
        for row in self._rows(DOORS):
            door = row.text("door") or ""
            if row.text("enforcement") != ENFORCED_HERE:
                self._elsewhere.append(door)
                continue
            for group in row.names("access_groups"):
                if group in self._schedule_of:
                    doors_of[group].append(door)
                else:
                    row.wrong("access_groups", f"no group {group!r}: {_WHAT_TO_DO['group']}")
            self._check_rule(row)
            criticality = row.word("criticality", _CRITICALITY)
            members: Record = {
                "from_zone": row.text("from_zone"),
                "to_zone": row.text("zone"),
                "criticality": criticality,
                "name": row.text("name"),
                "unlock_schedule": _schedule(row.text("unlock_schedule")),
                "second_factor_schedule": _schedule(row.text("second_factor_schedule")),
                "antipassback": row.word("antipassback", _words(Antipassback)),
                "interlock": row.text("interlock"),
            }
            members |= {name: row.flag(name) for name in _DOOR_FLAGS}
            members |= {name: row.number(name) for name in _DOOR_NUMBERS}
            self._add(row, "door", "door", members)
        for record in self._records:
            if record["type"] == "group":
                record["doors"] = sorted(doors_of[str(record["id"])])

    def _check_rule(self, row: Row) -> None:
        """The row says twice when it opens, in words and by its groups: both must say the same."""
        groups = [name for name in row.names("access_groups") if name in self._schedule_of]
        by_groups = {self._schedule_of[name] for name in groups}
        by_words = {_schedule(word) or "" for word in row.names("schedule_rule")}
        if by_groups != by_words:
            said = "; ".join(sorted(_rule(each) for each in by_groups))
            row.wrong("schedule_rule", f"is not what its access groups open it by: {said}")
        booking_based = row.flag("booking_based")
        if booking_based is not None and booking_based != (TIMEBOUND in by_groups):
            which = "one of its groups is" if TIMEBOUND in by_groups else "none of its groups is"
            row.wrong("booking_based", f"{which} on the schedule timebound: correct one of them")

    def _read_schedules(self) -> None:
        calendars: dict[str, dict[str, str]] = {}
        for row in self._rows(HOLIDAYS):
            name, day = row.text("calendar") or "", row.day("date")
            if name not in calendars:
                calendars[name] = {}
                self._add(row, "calendar", "calendar", {"dates": calendars[name]})
            if day is not None:
                if day.isoformat() in calendars[name]:
                    row.wrong("date", f"is in calendar {name!r} twice")
                calendars[name][day.isoformat()] = row.text("name") or ""
        schedules: dict[str, _Week] = {}
        for row in self._rows(SCHEDULES):
            name = row.text("schedule") or ""
            if name not in schedules:
                schedules[name] = _Week(row.text("timezone"), calendars)
                self._add(row, "schedule", "schedule", {})
            schedules[name].take(row)
        for record in self._records:
            if record["type"] == "schedule":
                record.update(schedules[str(record["id"])].members())

    # --- People -----------------------------------------------------------------------------

    def _read_member(self, row: Row) -> None:
        status = self._status(row)
        email = (row.text("email") or "").casefold()
        member = row.text("member") or ""
        if email and self._emails.setdefault(email, member) != member:
            row.wrong("email", "is another member's as well: bookings by it would be ambiguous")
        members: Record = {
            "persona": row.word("persona", _words(Persona)),
            "status": status,
            "groups": sorted(row.names("groups")),
            "delinquent_since": self._delinquent_since(row),
            "extended_unlock": row.flag("extended_unlock"),
        }
        self._add(row, "holder", "member", members | self._days(row))

    def _status(self, row: Row) -> str | None:
        """The lifecycle: what the membership is, and whether it is paid where that counts."""
        said = row.word("membership", _MEMBERSHIPS)
        if said is None:
            return None
        if said == "cancelled" and row.text("last_day") is None:
            row.wrong("last_day", "is empty: a cancelled membership has a last day")
        if said == "delinquent" and row.text("delinquent_since") is None:
            row.wrong("delinquent_since", "is empty: the days of grace are counted from it")
        if said not in ("delinquent", "cancelled") and row.text("delinquent_since") is not None:
            row.wrong("delinquent_since", f"doesn't go with membership {said}: say delinquent")
        if self._settings.get("access_from", ("", row))[0].casefold() == "paid" and said in (
            "active",
            "cancelled",
        ):
            paid = row.flag("paid")
            if row.text("paid") is None:
                row.wrong("paid", "is empty, and settings.csv gives access from paid on")
            elif paid is False:
                return "pending"
        return _MEMBERSHIP_STATUS[said]

    def _delinquent_since(self, row: Row) -> str | None:
        text = row.text("delinquent_since")
        if text is None:
            return None
        if len(text) == len("2026-03-29"):
            day = row.day("delinquent_since")
            return None if day is None else start_of(day, self._zone)
        return row.instant("delinquent_since", self._zone)

    def _days(self, row: Row) -> Record:
        """`first_day` and `last_day`, both of which count, as instants."""
        first, last = row.day("first_day"), row.day("last_day")
        if first is not None and last is not None and last < first:
            row.wrong("last_day", "is before the first")
        return {
            "valid_from": None if first is None else start_of(first, self._zone),
            "valid_until": None if last is None else start_of(day_after(last), self._zone),
        }

    def _read_credential(self, row: Row) -> None:
        members: Record = {
            "holder": row.text("member"),
            "kind": row.word("kind", _words(CredentialKind)),
            "value": row.text("value"),
            "status": row.word("status", _words(CredentialStatus)),
            "duress": row.flag("duress"),
            "max_uses": row.number("max_uses"),
        }
        self._add(row, "credential", "credential", members | self._days(row))

    # --- What lasts a while -----------------------------------------------------------------

    def _read_booking(self, row: Row) -> None:
        members: Record = {
            "holders": sorted(row.names("members")),
            "before_min": row.number("before_min"),
            "after_min": row.number("after_min"),
            "status": row.word("status", _words(BookingStatus)),
        }
        self._add(row, "booking", "booking", members | self._what_and_when(row))

    def _read_shift(self, row: Row) -> None:
        # A shift is paid work: it has its own beginning, and no visitors' buffers.
        members: Record = {"holders": [row.text("member")], "before_min": 0, "after_min": 0}
        self._add(row, "booking", "shift", members | self._what_and_when(row))

    def _what_and_when(self, row: Row) -> Record:
        return self._what(row) | {
            "start": row.instant("start", self._zone),
            "end": row.instant("end", self._zone),
        }

    def _what(self, row: Row) -> Record:
        if row.text("zones") is None and row.text("doors") is None:
            row.wrong("zones", "is empty, and so is doors: say what it is about")
        return {"zones": row.names("zones"), "doors": row.names("doors")}

    def _read_exception(self, row: Row) -> None:
        members: Record = self._what(row) | {
            "holder": row.text("member"),
            "effect": row.word("effect", _words(Effect)),
            "from": row.instant("from", self._zone),
            "until": row.instant("until", self._zone),
            "reason": row.text("reason"),
            "issued_by": row.text("issued_by"),
        }
        self._add(row, "exception", "exception", members)

    def _read_daypasses(self) -> None:
        rows = list(self._rows(DAYPASSES))
        # The hours of a day are the schedule's own to say, so it must be right first.
        opening = None if self._faults or not rows else self._opening_hours()
        for row in rows:
            day, schedule = row.day("day"), _schedule(row.text("schedule"))
            if day is None or opening is None:
                continue
            if schedule is None:
                start, end = start_of(day, self._zone), start_of(day_after(day), self._zone)
            else:
                found = opening(row, day, schedule)
                if found is None:
                    continue
                start, end = found
            members: Record = {
                "holders": [row.text("member")],
                "zones": row.names("zones"),
                "doors": [],
                "start": start,
                "end": end,
                "before_min": 0,
                "after_min": 0,
            }
            self._add(row, "booking", "pass", members)

    def _opening_hours(self) -> Callable[[Row, date, str], tuple[str, str] | None] | None:
        lines = _lines(
            record
            for record in self._records
            if record["type"] in ("site", "policy", "calendar", "schedule")
        )
        try:
            tables = parse_records(lines).records.tables
        except RecordsRefused:
            return None  # `finish` says why
        hours = all_opening_hours(tables.schedules, tables.calendars, tables.site.timezone)

        def opening(row: Row, day: date, schedule: str) -> tuple[str, str] | None:
            """From when to when, first and last, a schedule is open on a day."""
            if schedule not in hours:
                row.wrong("schedule", f"no schedule {schedule!r}: {_WHAT_TO_DO['schedule']}")
                return None
            first, last = (
                datetime.fromisoformat(start_of(each, self._zone)) for each in (day, day_after(day))
            )
            edges = [first, *hours[schedule].edges(first, last), last]
            open_ = [each for each in edges[:-1] if hours[schedule].is_open(each)]
            if not open_:
                row.wrong("day", f"schedule {schedule!r} is closed then: sell another day")
                return None
            end = edges[edges.index(open_[-1]) + 1]
            return _utc(open_[0]), _utc(end)

        return opening

    # --- iCalendar --------------------------------------------------------------------------

    def _read_calendars(self) -> None:
        named = set()
        for row in self._rows(CALENDARS):
            file = row.text("file") or ""
            named.add(file)
            if Path(file).name != file or not file.endswith(".ics"):
                row.wrong("file", "is no name of an .ics file in this folder")
                continue
            self._read_events(row, file)
        for path in sorted(self._folder.glob("*.ics")):
            if path.name not in named:
                self._wrong(Place(path.name), "is in no row of calendars.csv: add it, or remove it")

    def _read_events(self, row: Row, file: str) -> None:
        ahead = BOOKINGS_AHEAD_DAYS
        if "bookings_ahead_days" in self._settings:
            ahead = self._settings["bookings_ahead_days"][1].number("value") or ahead
        first = self._at.astimezone(self._zone).date()
        try:
            events = list(
                self._read_calendar(self._folder / file, first, first + timedelta(days=ahead))
            )
        except OSError as error:
            row.wrong("file", f"can't be read: {error.strerror}")
            return
        except ValueError as error:
            self._wrong(Place(file), f"is no calendar that can be read: {error}")
            return
        what = self._what(row)
        for event in events:
            start, end = self._utc(event.start), self._utc(event.end)
            holders = sorted({self._emails[each] for each in event.people if each in self._emails})
            where = partial(self._wrong, Place(file, 0, f"event {event.uid} of {start}"))
            if not holders:
                where("names no member's e-mail address: add it to members.csv")
            if end <= start:
                where("ends no later than it starts")
            members = what | {
                "holders": holders,
                "start": start,
                "end": end,
                "status": "cancelled" if event.cancelled else None,
            }
            record_id = f"{file.removesuffix('.ics')}/{event.uid}/{start}"
            self._add(row, "booking", "file", members, record_id)

    def _utc(self, at: datetime | date) -> str:
        """All-day events, and times without a zone, are by the site's wall clock."""
        if not isinstance(at, datetime):
            return start_of(at, self._zone)
        return _utc(at if at.tzinfo is not None else at.replace(tzinfo=self._zone))


_CRITICALITY = {"high": "high", "medium": "medium", "med": "medium", "low": "low"}
_DOOR_FLAGS = ("egress", "unlock_after_first", "pin_alone", "two_person")
_DOOR_NUMBERS = ("unlock_s", "extended_unlock_s", "held_open_s", "max_occupancy")

_MEMBERSHIP_STATUS = {
    "pending": "pending",
    "active": "active",
    "cancelled": "active",  # until its last day
    "delinquent": "active",  # until its grace is over
    "suspended": "suspended",
    "ended": "ended",
}
_MEMBERSHIPS = {word: word for word in _MEMBERSHIP_STATUS}


class _Week:
    """One schedule while its rows are read."""

    def __init__(self, timezone: str | None, calendars: Mapping[str, Mapping[str, str]]) -> None:
        self._timezone = timezone
        self._calendars = calendars
        """The dates of each."""
        self._days: dict[str, list[list[str]]] = {}
        """By weekday, or by the name of a calendar after `holiday:`; none where it is closed."""
        self._closed: set[str] = set()

    def take(self, row: Row) -> None:
        """Take one row."""
        if row.text("timezone") != self._timezone:
            row.wrong("timezone", "is not that of the schedule's first row")
        opens, closes = row.text("opens"), row.text("closes")
        if (opens is None) != (closes is None):
            row.wrong("closes" if closes is None else "opens", "is empty: give both, or neither")
            return
        for day in _days(row):
            if day not in self._days and day.startswith(_HOLIDAY):
                self._check_dates(row, day.removeprefix(_HOLIDAY))
            there = self._days.setdefault(day, [])
            if opens is None or closes is None:
                if there:
                    row.wrong("days", f"{day} is closed here, and has hours above")
                self._closed.add(day)
            elif day in self._closed:
                row.wrong("days", f"{day} has hours here, and is closed above")
            else:
                there.append([opens, closes])

    def _check_dates(self, row: Row, calendar: str) -> None:
        """Where two calendars have a date, the first would count: which that is, nobody can say."""
        for other in self._days:
            there = self._calendars.get(other.removeprefix(_HOLIDAY), {})
            both = sorted(there.keys() & self._calendars.get(calendar, {}).keys())
            if other.startswith(_HOLIDAY) and both:
                row.wrong("days", f"{both[0]} is in {other} as well: keep it in one calendar")

    def members(self) -> Record:
        """The members of the record, in an order that the rows' order doesn't change."""
        weekly = {day: sorted(self._days[day]) for day in WEEKDAYS if self._days.get(day)}
        holidays = [
            {"calendar": day.removeprefix(_HOLIDAY), "intervals": sorted(intervals)}
            for day, intervals in sorted(self._days.items())
            if day.startswith(_HOLIDAY)
        ]
        return {"weekly": weekly, "holidays": holidays or None, "timezone": self._timezone}


_HOLIDAY = "holiday:"


def _days(row: Row) -> list[str]:
    """`mon-fri`, `sat`, `holiday:CALENDAR`, with `;` between them."""
    found: list[str] = []
    for word in row.names("days"):
        if word.startswith(_HOLIDAY):
            found.append(word)
            continue
        first, dash, last = word.casefold().partition("-")
        ends = (first, last if dash else first)
        if not all(end in WEEKDAYS for end in ends):
            row.wrong("days", f"{word!r} is none of mon … sun, mon-fri, holiday:CALENDAR")
            continue
        begin, end = (WEEKDAYS.index(each) for each in ends)
        if end < begin:
            row.wrong("days", f"{word!r} runs backwards: write both parts, as in sat-sun;mon")
        found += WEEKDAYS[begin : end + 1]
    return found


def _lines(records: Iterable[Record]) -> list[bytes]:
    """A line a record, so that the same records are the same bytes (docs/spec/trust.md)."""

    def rank(record: Record) -> tuple[int, str]:
        return TYPES.index(str(record["type"])), str(record["id"])

    return [canonical(record) for record in sorted(records, key=rank)]


def _schedule(text: str | None) -> str | None:
    """A schedule's id, by the matrix's words."""
    if text is None:
        return None
    plain = text.casefold()
    if plain in ("24x7", "24/7"):
        return ALWAYS
    return TIMEBOUND if plain in (BOOKING_BASED, TIMEBOUND) else text


def _rule(schedule: str) -> str:
    return BOOKING_BASED if schedule == TIMEBOUND else schedule


def _words(literal: object) -> dict[str, str]:
    return {word: word for word in get_args(literal)}


def _utc(at: datetime) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"
