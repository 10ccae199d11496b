"""Every fault of a record set, as entitlements.md and the conformance README name them.

A fault is (type, id, member), with `-` for what does not apply.
"""

import re
from collections.abc import Callable
from datetime import date
from functools import cache
from typing import Any
from zoneinfo import available_timezones

from tests.reference.decider import instant_ms

Fault = tuple[str, str, str]
Check = Callable[[Any], bool]

CATEGORIES = ("public", "member", "bookable", "tenant", "restricted")
PERSONAS = ("staff", "member", "office", "booker", "daypass", "contractor", "visitor")
WEEKDAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
CREDENTIAL_VALUES = {
    "uid": r"[0-9A-F]{8}|[0-9A-F]{14}|[0-9A-F]{20}",
    "wiegand": r"[A-Za-z0-9]+:(?:-|0|[1-9][0-9]*):(?:0|[1-9][0-9]*)",
    "desfire": r"[0-9A-F]{6}:(?:[0-9A-F]{2}){1,32}",
    "sun": r"[0-9A-F]{14}",
    "pkoc": r"04[0-9A-F]{128}",
    "pin": r"[0-9]{4,8}",
    "qr": r"[\x20-\x7e]{8,128}",
}
BUILT_IN = ("24x7", "timebound")


def is_text(value: Any) -> bool:
    return isinstance(value, str)


def is_name(value: Any) -> bool:
    """A non-empty string."""
    return isinstance(value, str) and value != ""


def is_bool(value: Any) -> bool:
    return value is True or value is False


def is_integer(low: int, high: int) -> Check:
    """A JSON integer in a range: neither a boolean nor 5.0."""
    return lambda value: type(value) is int and low <= value <= high


def is_one_of(*words: str) -> Check:
    return lambda value: isinstance(value, str) and value in words


def is_list_of(check: Check) -> Check:
    return lambda value: isinstance(value, list) and all(check(item) for item in value)


def is_instant(value: Any) -> bool:
    try:
        instant_ms(value)
    except ValueError:
        return False
    return True


@cache
def zone_names() -> frozenset[str]:
    return frozenset(available_timezones()) - {"localtime"}


def is_zone_name(value: Any) -> bool:
    return isinstance(value, str) and value in zone_names()


def is_wall_time(value: Any, end: bool) -> bool:
    if not isinstance(value, str) or not re.fullmatch(r"[0-9]{2}:[0-9]{2}", value):
        return False
    if end and value == "24:00":
        return True
    return int(value[:2]) <= 23 and int(value[3:]) <= 59


def is_interval(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 2
        and is_wall_time(value[0], end=False)
        and is_wall_time(value[1], end=True)
        and value[0] != value[1]
    )


def is_weekly(value: Any) -> bool:
    return isinstance(value, dict) and all(
        day in WEEKDAYS and is_list_of(is_interval)(intervals) for day, intervals in value.items()
    )


def is_date(value: str) -> bool:
    if not re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", value):
        return False
    try:
        date.fromisoformat(value)
    except ValueError:
        return False
    return True


def is_dates(value: Any) -> bool:
    return isinstance(value, dict) and all(
        is_date(day) and is_text(name) for day, name in value.items()
    )


def is_max_age(value: Any) -> bool:
    return isinstance(value, dict) and all(
        category in CATEGORIES and is_integer(1, 8760)(hours) for category, hours in value.items()
    )


class Checker:
    """One pass over a set of lines; `found` are its faults."""

    def __init__(self, lines: list[Any]) -> None:
        self.found: list[Fault] = []
        self.ids: dict[str, set[str]] = {}
        for line in lines:
            if isinstance(line, dict) and is_text(line.get("type")) and is_name(line.get("id")):
                self.ids.setdefault(line["type"], set()).add(line["id"])
        self.by_type: dict[str, list[dict[str, Any]]] = {}
        for line in lines:
            self.line(line)
        self.exactly_one_site_and_policy()
        self.one_live_credential_a_value()

    def is_ref(self, kind: str, *built_in: str) -> Check:
        """The id of a record of a type that is there, faulty or not, or a built-in id."""
        known = self.ids.get(kind, set())
        return lambda value: isinstance(value, str) and (value in known or value in built_in)

    def fault(self, record: dict[str, Any], member: str) -> None:
        kind, key = record.get("type"), record.get("id")
        fault = (str(kind) if is_text(kind) else "-", str(key) if is_name(key) else "-", member)
        if fault not in self.found:
            self.found.append(fault)

    # --- what a member may be ---

    def required(self, record: dict[str, Any], member: str, check: Check) -> None:
        if member not in record or not check(record[member]):
            self.fault(record, member)

    def optional(self, record: dict[str, Any], member: str, check: Check) -> None:
        """Marked `?`: may be absent or null."""
        if record.get(member) is not None and not check(record[member]):
            self.fault(record, member)

    def default(self, record: dict[str, Any], member: str, check: Check) -> None:
        """With a default: may be absent, not null."""
        if member in record and not check(record[member]):
            self.fault(record, member)

    # --- the lines ---

    def line(self, line: Any) -> None:
        if not isinstance(line, dict):  # a line that is no record
            self.fault({}, "-")
            return
        kind = line.get("type")
        check = CHECKS.get(kind) if isinstance(kind, str) else None
        if check is None:
            self.fault(line, "type")
        self.required(line, "id", is_name)
        if not isinstance(kind, str):
            return
        before = self.by_type.setdefault(kind, [])
        if is_name(line.get("id")) and any(line["id"] == other.get("id") for other in before):
            self.fault(line, "id")
        before.append(line)
        if check is not None:
            check(self, line)

    def exactly_one_site_and_policy(self) -> None:
        for kind in ("site", "policy"):
            records = self.by_type.get(kind, [])
            if not records:
                self.found.append((kind, "-", "-"))
            for later in records[1:]:
                self.fault(later, "id")
        policies = self.by_type.get("policy", [])
        if len(policies) == 1 and policies[0].get("id") != "policy":
            self.fault(policies[0], "id")

    def one_live_credential_a_value(self) -> None:
        live = set()
        for record in self.by_type.get("credential", []):
            kind, value = record.get("kind"), record.get("value")
            if not isinstance(kind, str) or not isinstance(value, str):
                continue
            if record.get("status", "active") == "returned":
                continue
            if (kind, value) in live:
                self.fault(record, "value")
            live.add((kind, value))

    # --- the types ---

    def site(self, record: dict[str, Any]) -> None:
        self.required(record, "timezone", is_zone_name)

    def policy(self, record: dict[str, Any]) -> None:
        self.default(record, "booking_before_min", is_integer(0, 1440))
        self.default(record, "booking_after_min", is_integer(0, 1440))
        self.default(record, "grace_hours", is_integer(0, 720))
        self.default(record, "lockdown_exempt_personas", is_list_of(is_one_of(*PERSONAS)))
        self.default(record, "untrusted_clock", is_one_of("deny_timebound", "allow"))
        self.default(record, "max_age_h", is_max_age)
        self.default(record, "max_age_exempt_personas", is_list_of(is_one_of(*PERSONAS)))
        self.default(record, "pin_max_attempts", is_integer(1, 10))
        self.default(record, "pin_lockout_s", is_integer(10, 900))
        self.default(record, "journal_retention_days", is_integer(1, 3650))

    def zone(self, record: dict[str, Any]) -> None:
        self.required(record, "category", is_one_of(*CATEGORIES))
        self.optional(record, "name", is_text)

    def door(self, record: dict[str, Any]) -> None:
        self.required(record, "from_zone", self.is_ref("zone"))
        self.required(record, "to_zone", self.is_ref("zone"))
        self.default(record, "criticality", is_one_of("high", "medium", "low"))
        self.optional(record, "name", is_text)
        self.default(record, "egress", is_bool)
        self.default(record, "unlock_s", is_integer(1, 60))
        self.default(record, "extended_unlock_s", is_integer(1, 180))
        self.default(record, "held_open_s", is_integer(5, 3600))
        self.optional(record, "unlock_schedule", self.is_schedule("24x7"))
        self.default(record, "unlock_after_first", is_bool)
        self.optional(record, "second_factor_schedule", self.is_schedule("24x7"))
        self.default(record, "pin_alone", is_bool)
        self.default(record, "antipassback", is_one_of("off", "soft", "hard"))
        self.default(record, "two_person", is_bool)
        self.optional(record, "interlock", is_name)
        self.optional(record, "max_occupancy", is_integer(1, 100_000))

    def is_schedule(self, *built_in: str) -> Check:
        """A schedule in a record, or one of the built-in ids that may stand here. A record that
        takes a built-in id is a fault itself and makes no other reference good."""
        known = self.is_ref("schedule")
        return lambda value: (
            isinstance(value, str)
            and (value in built_in if value in BUILT_IN else bool(known(value)))
        )

    def calendar(self, record: dict[str, Any]) -> None:
        self.required(record, "dates", is_dates)

    def schedule(self, record: dict[str, Any]) -> None:
        is_calendar = self.is_ref("calendar")

        def is_holiday(value: Any) -> bool:
            return (
                isinstance(value, dict)
                and set(value) == {"calendar", "intervals"}
                and is_calendar(value["calendar"])
                and is_list_of(is_interval)(value["intervals"])
            )

        if record.get("id") in BUILT_IN:
            self.fault(record, "id")
        self.required(record, "weekly", is_weekly)
        self.optional(record, "holidays", is_list_of(is_holiday))
        self.optional(record, "timezone", is_zone_name)

    def group(self, record: dict[str, Any]) -> None:
        self.required(record, "zones", is_list_of(self.is_ref("zone")))
        self.required(record, "doors", is_list_of(self.is_ref("door")))
        self.required(record, "schedule", self.is_schedule("24x7", "timebound"))

    def holder(self, record: dict[str, Any]) -> None:
        self.required(record, "persona", is_one_of(*PERSONAS))
        self.required(record, "status", is_one_of("pending", "active", "suspended", "ended"))
        self.optional(record, "valid_from", is_instant)
        self.optional(record, "valid_until", is_instant)
        self.optional(record, "delinquent_since", is_instant)
        self.required(record, "groups", is_list_of(self.is_ref("group")))
        self.default(record, "extended_unlock", is_bool)
        self.optional(record, "name", is_text)

    def credential(self, record: dict[str, Any]) -> None:
        kind = record.get("kind")
        known_kind = isinstance(kind, str) and kind in CREDENTIAL_VALUES
        self.required(record, "holder", self.is_ref("holder"))
        self.required(record, "kind", is_one_of(*CREDENTIAL_VALUES))

        def is_value(value: Any) -> bool:
            # What is canonical cannot be said of an unknown kind: `kind` is the fault.
            if not isinstance(value, str) or not known_kind:
                return isinstance(value, str)
            return re.fullmatch(CREDENTIAL_VALUES[record["kind"]], value) is not None

        self.required(record, "value", is_value)
        self.default(
            record, "status", is_one_of("active", "suspended", "lost", "stolen", "returned")
        )
        self.optional(record, "valid_from", is_instant)
        self.optional(record, "valid_until", is_instant)
        self.default(record, "duress", is_bool)
        if record.get("duress") is True and known_kind and kind != "pin":
            self.fault(record, "duress")
        self.optional(record, "max_uses", is_integer(1, 1000))

    def booking(self, record: dict[str, Any]) -> None:
        self.required(record, "holders", is_list_of(self.is_ref("holder")))
        self.required(record, "zones", is_list_of(self.is_ref("zone")))
        self.required(record, "doors", is_list_of(self.is_ref("door")))
        self.span(record, "start", "end")
        self.optional(record, "before_min", is_integer(0, 1440))
        self.optional(record, "after_min", is_integer(0, 1440))
        self.default(record, "status", is_one_of("confirmed", "cancelled"))

    def exception(self, record: dict[str, Any]) -> None:
        self.required(record, "holder", self.is_ref("holder"))
        self.required(record, "effect", is_one_of("allow", "deny"))
        self.required(record, "zones", is_list_of(self.is_ref("zone")))
        self.required(record, "doors", is_list_of(self.is_ref("door")))
        self.span(record, "from", "until")
        self.required(record, "reason", is_name)
        self.required(record, "issued_by", is_name)

    def span(self, record: dict[str, Any], first: str, last: str) -> None:
        """Two instants, the first before the last; in the wrong order is the last one's fault."""
        self.required(record, first, is_instant)
        self.required(record, last, is_instant)
        both = is_instant(record.get(first)) and is_instant(record.get(last))
        if both and instant_ms(record[first]) >= instant_ms(record[last]):
            self.fault(record, last)


CHECKS: dict[str, Callable[[Checker, dict[str, Any]], None]] = {
    "site": Checker.site,
    "policy": Checker.policy,
    "zone": Checker.zone,
    "door": Checker.door,
    "calendar": Checker.calendar,
    "schedule": Checker.schedule,
    "group": Checker.group,
    "holder": Checker.holder,
    "credential": Checker.credential,
    "booking": Checker.booking,
    "exception": Checker.exception,
}


def faults(lines: list[Any]) -> list[Fault]:
    """Every fault of the set, each once; an item that is no object is a line that is no record."""
    return Checker(lines).found
