"""What each type of record must look like: docs/spec/entitlements.md's tables, row by row.

No message repeats what a member holds: it may be a credential or a name.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import date, datetime, timedelta
from functools import cache
from importlib import resources
from typing import NamedTuple, cast, get_args

from gateway.domain.instants import parse_instant
from gateway.domain.records import (
    ALWAYS,
    TIMEBOUND,
    WEEKDAYS,
    AccessException,
    Antipassback,
    Booking,
    BookingStatus,
    Calendar,
    Category,
    Credential,
    CredentialKind,
    CredentialStatus,
    Criticality,
    Door,
    Effect,
    Group,
    Holder,
    HolderStatus,
    Holiday,
    Interval,
    Persona,
    Policy,
    Record,
    Schedule,
    Site,
    UntrustedClock,
    Zone,
)

CREDENTIAL_VALUES: Mapping[str, tuple[re.Pattern[str], str]] = {
    kind: (re.compile(pattern), form)
    for kind, pattern, form in (
        (
            "uid",
            r"(?:[0-9A-F]{8}|[0-9A-F]{14}|[0-9A-F]{20})",
            "8, 14 or 20 upper-case hex digits",
        ),
        (
            "wiegand",
            r"[A-Za-z0-9]+:(?:-|0|[1-9][0-9]*):(?:0|[1-9][0-9]*)",
            "FORMAT:FACILITY:NUMBER, decimal without leading zeros",
        ),
        (
            "desfire",
            r"[0-9A-F]{6}:(?:[0-9A-F]{2}){1,32}",
            "AID:ID, 3 bytes and 1 to 32 bytes in upper-case hex",
        ),
        ("sun", r"[0-9A-F]{14}", "14 upper-case hex digits"),
        ("pkoc", r"04[0-9A-F]{128}", "130 upper-case hex digits beginning with 04"),
        ("pin", r"[0-9]{4,8}", "4 to 8 digits"),
        ("qr", r"[ -~]{8,128}", "8 to 128 printable ASCII characters"),
    )
}
"""The canonical form of a value, kind by kind: a pattern for all of it, and in words."""


class WrongMemberError(Exception):
    """A member's value is not what it must be. The text says what it must be."""


_Reader = Callable[[object], object]


def _text(raw: object) -> str:
    if type(raw) is not str:
        raise WrongMemberError("not a string")
    return raw


def _name(raw: object) -> str:
    if type(raw) is not str or not raw:
        raise WrongMemberError("not a non-empty string")
    return raw


def _flag(raw: object) -> bool:
    if type(raw) is not bool:
        raise WrongMemberError("neither true nor false")
    return raw


def _instant(raw: object) -> datetime:
    try:
        return parse_instant(_text(raw))
    except ValueError as error:
        raise WrongMemberError(str(error)) from None


def _list(raw: object) -> list[object]:
    if type(raw) is not list:
        raise WrongMemberError("not a list")
    return raw


def _object(raw: object) -> dict[str, object]:
    if not isinstance(raw, dict):
        raise WrongMemberError("not an object")
    return raw


def _ids(raw: object) -> tuple[str, ...]:
    ids = _list(raw)
    checked = tuple(each for each in ids if isinstance(each, str) and each)
    if len(checked) < len(ids):
        raise WrongMemberError("not a list of ids")
    return checked


def _id_set(raw: object) -> frozenset[str]:
    return frozenset(_ids(raw))


def _sorted_ids(raw: object) -> tuple[str, ...]:
    return tuple(sorted(set(_ids(raw))))


def _integer(least: int, most: int) -> Callable[[object], int]:
    def read(raw: object) -> int:
        if type(raw) is not int or not least <= raw <= most:  # true is an int to Python only
            raise WrongMemberError(f"not an integer from {least} to {most}")
        return raw

    return read


def _span(unit: timedelta, least: int, most: int) -> Callable[[object], timedelta]:
    integer = _integer(least, most)
    return lambda raw: integer(raw) * unit


def _one_of(literal: object) -> Callable[[object], str]:
    words = get_args(literal)
    known = frozenset(words)
    what = f"not one of {', '.join(words)}"

    def read(raw: object) -> str:
        if type(raw) is not str or raw not in known:
            raise WrongMemberError(what)
        return raw

    return read


def _set_of(literal: object) -> Callable[[object], frozenset[str]]:
    word = _one_of(literal)
    return lambda raw: frozenset(word(each) for each in _list(raw))


@cache
def _iana_names() -> frozenset[str]:
    # The list that comes with the time zone data. ZoneInfo itself also takes names that are no
    # zone of IANA's: `localtime`, `posixrules`, `right/UTC`.
    return frozenset(resources.files("tzdata").joinpath("zones").read_text("ascii").split())


def _timezone(raw: object) -> str:
    name = _text(raw)
    if name not in _iana_names():
        raise WrongMemberError("not an IANA time zone")
    return name


_HOURS_MAX_AGE = _span(timedelta(hours=1), 1, 8760)


def _max_age(raw: object) -> dict[str, timedelta]:
    category = _one_of(Category)
    return {category(key): _HOURS_MAX_AGE(hours) for key, hours in _object(raw).items()}


_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")


def _dates(raw: object) -> dict[date, str]:
    dates = {}
    for key, name in _object(raw).items():
        try:
            # fromisoformat alone takes other forms too (20261225).
            on = date.fromisoformat(key) if _DATE.fullmatch(key) else None
        except ValueError:
            on = None
        if on is None:
            raise WrongMemberError("a key that is no date YYYY-MM-DD")
        if type(name) is not str:
            raise WrongMemberError("a name that is no string")
        dates[on] = name
    return dates


_WALL_TIME = re.compile(r"(?:[01][0-9]|2[0-3]):[0-5][0-9]")


def _wall_time(raw: object) -> timedelta:
    if type(raw) is not str or not _WALL_TIME.fullmatch(raw):
        raise WrongMemberError("a wall time that is not HH:MM")
    return timedelta(hours=int(raw[:2]), minutes=int(raw[3:]))


def _interval(raw: object) -> Interval:
    ends = _list(raw)
    if len(ends) != 2:
        raise WrongMemberError("an interval that is not [start, end]")
    start = _wall_time(ends[0])
    end = timedelta(hours=24) if ends[1] == "24:00" else _wall_time(ends[1])
    if start == end:
        raise WrongMemberError("an interval whose ends are equal")
    return Interval(start, end)


def _intervals(raw: object) -> tuple[Interval, ...]:
    return tuple(_interval(each) for each in _list(raw))


def _weekly(raw: object) -> tuple[tuple[Interval, ...], ...]:
    days = _object(raw)
    if not days.keys() <= set(WEEKDAYS):
        raise WrongMemberError(f"a key that is not one of {', '.join(WEEKDAYS)}")
    return tuple(_intervals(days[day]) if day in days else () for day in WEEKDAYS)


def _holidays(raw: object) -> tuple[Holiday, ...]:
    holidays = []
    for each in _list(raw):
        entry = _object(each)
        if entry.keys() != {"calendar", "intervals"}:
            raise WrongMemberError("an entry without exactly calendar and intervals")
        holidays.append(Holiday(_name(entry["calendar"]), _intervals(entry["intervals"])))
    return tuple(holidays)


class References(NamedTuple):
    """A member names records of one type."""

    type: str
    ids: Callable[[object], Iterable[str]]
    """The ids in the member, from what its reader returned."""
    built_in: frozenset[str] = frozenset()
    """Ids that stand in no record."""


def _one(value: object) -> Iterable[str]:
    return (str(value),)


def _all(value: object) -> Iterable[str]:
    return cast("Iterable[str]", value)


def _calendars(value: object) -> Iterable[str]:
    return [holiday.calendar for holiday in cast("tuple[Holiday, ...]", value)]


_ZONE = References("zone", _one)
_ZONES = References("zone", _all)
_DOORS = References("door", _all)
_SCHEDULE = References("schedule", _one, frozenset({ALWAYS}))
_GROUP_SCHEDULE = References("schedule", _one, frozenset({ALWAYS, TIMEBOUND}))


class Member(NamedTuple):
    """One row of docs/spec/entitlements.md's table. Defaults stand in the structs."""

    name: str
    read: _Reader
    required: bool
    nullable: bool
    field: str
    """The struct's; another than `name` where that has a unit or can't be a field's."""
    references: References | None


def _must(
    name: str, read: _Reader, references: References | None = None, *, field: str | None = None
) -> Member:
    """A member that has no default."""
    return Member(name, read, True, False, field or name, references)


def _can(name: str, read: _Reader, *, field: str | None = None) -> Member:
    """A member with a default: it may be absent, not null."""
    return Member(name, read, False, False, field or name, None)


def _may(
    name: str, read: _Reader, references: References | None = None, *, field: str | None = None
) -> Member:
    """A member marked `?`: it may be absent or null."""
    return Member(name, read, False, True, field or name, references)


_HOLDER = References("holder", _one)

Values = dict[str, object]
Faults = Iterator[tuple[str, str]]
"""Faults that lie between the members of one record: (member, what)."""


def _no_more(record_id: str, values: Values) -> Faults:
    del record_id, values
    return iter(())


def _check_policy(record_id: str, values: Values) -> Faults:
    del values
    if record_id != "policy":
        yield "id", "not 'policy'"


def _check_schedule(record_id: str, values: Values) -> Faults:
    del values
    if record_id in (ALWAYS, TIMEBOUND):
        yield "id", f"{record_id!r} is built in"


def _check_credential(record_id: str, values: Values) -> Faults:
    del record_id
    kind = values.get("kind")
    value = values.get("value")
    if isinstance(kind, str):
        pattern, form = CREDENTIAL_VALUES[kind]
        if isinstance(value, str) and not pattern.fullmatch(value):
            yield "value", f"not {form}"
        if values.get("duress") is True and kind != "pin":
            yield "duress", "true on a pin only"


def _check_ends(first: str, last: str) -> Callable[[str, Values], Faults]:
    def check(record_id: str, values: Values) -> Faults:
        del record_id
        start = values.get(first)
        end = values.get(last)
        if isinstance(start, datetime) and isinstance(end, datetime) and end <= start:
            yield last, f"not after {first.rstrip('_')}"

    return check


class Form(NamedTuple):
    """What a type of record must look like."""

    struct: Callable[..., Record]
    members: tuple[Member, ...]
    check: Callable[[str, Values], Faults] = _no_more


_SECONDS = timedelta(seconds=1)
_MINUTES = timedelta(minutes=1)
_HOURS = timedelta(hours=1)
_DAYS = timedelta(days=1)

FORMS: Mapping[str, Form] = {
    "site": Form(Site, (_must("timezone", _timezone),)),
    "policy": Form(
        Policy,
        (
            _can("booking_before_min", _span(_MINUTES, 0, 1440), field="booking_before"),
            _can("booking_after_min", _span(_MINUTES, 0, 1440), field="booking_after"),
            _can("grace_hours", _span(_HOURS, 0, 720), field="grace"),
            _can("lockdown_exempt_personas", _set_of(Persona)),
            _can("untrusted_clock", _one_of(UntrustedClock)),
            _can("max_age_h", _max_age, field="max_age"),
            _can("max_age_exempt_personas", _set_of(Persona)),
            _can("pin_max_attempts", _integer(1, 10)),
            _can("pin_lockout_s", _span(_SECONDS, 10, 900), field="pin_lockout"),
            _can("journal_retention_days", _span(_DAYS, 1, 3650), field="journal_retention"),
        ),
        _check_policy,
    ),
    "zone": Form(Zone, (_must("category", _one_of(Category)), _may("name", _text))),
    "door": Form(
        Door,
        (
            _must("from_zone", _name, _ZONE),
            _must("to_zone", _name, _ZONE),
            _can("criticality", _one_of(Criticality)),
            _may("name", _text),
            _can("egress", _flag),
            _can("unlock_s", _span(_SECONDS, 1, 60), field="unlock"),
            _can("extended_unlock_s", _span(_SECONDS, 1, 180), field="extended_unlock"),
            _can("held_open_s", _span(_SECONDS, 5, 3600), field="held_open"),
            _may("unlock_schedule", _name, _SCHEDULE),
            _can("unlock_after_first", _flag),
            _may("second_factor_schedule", _name, _SCHEDULE),
            _can("pin_alone", _flag),
            _can("antipassback", _one_of(Antipassback)),
            _can("two_person", _flag),
            _may("interlock", _name),
            _may("max_occupancy", _integer(1, 100_000)),
        ),
    ),
    "calendar": Form(Calendar, (_must("dates", _dates),)),
    "schedule": Form(
        Schedule,
        (
            _must("weekly", _weekly),
            _may("holidays", _holidays, References("calendar", _calendars)),
            _may("timezone", _timezone),
        ),
        _check_schedule,
    ),
    "group": Form(
        Group,
        (
            _must("zones", _id_set, _ZONES),
            _must("doors", _id_set, _DOORS),
            _must("schedule", _name, _GROUP_SCHEDULE),
        ),
    ),
    "holder": Form(
        Holder,
        (
            _must("persona", _one_of(Persona)),
            _must("status", _one_of(HolderStatus)),
            _may("valid_from", _instant),
            _may("valid_until", _instant),
            _may("delinquent_since", _instant),
            _must("groups", _sorted_ids, References("group", _all)),
            _can("extended_unlock", _flag),
            _may("name", _text),
        ),
    ),
    "credential": Form(
        Credential,
        (
            _must("holder", _name, _HOLDER),
            _must("kind", _one_of(CredentialKind)),
            _must("value", _text),
            _can("status", _one_of(CredentialStatus)),
            _may("valid_from", _instant),
            _may("valid_until", _instant),
            _can("duress", _flag),
            _may("max_uses", _integer(1, 1000)),
        ),
        _check_credential,
    ),
    "booking": Form(
        Booking,
        (
            _must("holders", _sorted_ids, References("holder", _all)),
            _must("zones", _ids, _ZONES),
            _must("doors", _ids, _DOORS),
            _must("start", _instant),
            _must("end", _instant),
            _may("before_min", _span(_MINUTES, 0, 1440), field="before"),
            _may("after_min", _span(_MINUTES, 0, 1440), field="after"),
            _can("status", _one_of(BookingStatus)),
        ),
        _check_ends("start", "end"),
    ),
    "exception": Form(
        AccessException,
        (
            _must("holder", _name, _HOLDER),
            _must("effect", _one_of(Effect)),
            _must("zones", _ids, _ZONES),
            _must("doors", _ids, _DOORS),
            _must("from", _instant, field="from_"),
            _must("until", _instant),
            _must("reason", _name),
            _must("issued_by", _name),
        ),
        _check_ends("from_", "until"),
    ),
}
