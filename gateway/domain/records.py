"""The entitlement records, one frozen struct a type, as docs/spec/entitlements.md describes them.

Instants are aware and in UTC; spans of time and wall times (since midnight) are timedeltas.
A struct is only ever made from a record without a fault (record_faults.py).
"""

from datetime import date, datetime, timedelta
from typing import ClassVar, Literal

import msgspec

ALWAYS = "24x7"
"""The built-in schedule that is always open."""
TIMEBOUND = "timebound"
"""The built-in schedule, for groups only, that is open while a booking of the holder is."""

Category = Literal["public", "member", "bookable", "tenant", "restricted"]
Persona = Literal["staff", "member", "office", "booker", "daypass", "contractor", "visitor"]
Criticality = Literal["high", "medium", "low"]
Antipassback = Literal["off", "soft", "hard"]
HolderStatus = Literal["pending", "active", "suspended", "ended"]
CredentialStatus = Literal["active", "suspended", "lost", "stolen", "returned"]
CredentialKind = Literal["uid", "wiegand", "desfire", "sun", "pkoc", "pin", "qr"]
BookingStatus = Literal["confirmed", "cancelled"]
Effect = Literal["allow", "deny"]
UntrustedClock = Literal["deny_timebound", "allow"]

WEEKDAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


class Record(msgspec.Struct, frozen=True, kw_only=True, gc=False, array_like=True):
    """What every record has. Array-like, so that a compiled table of them is small and quick."""

    masked: ClassVar[frozenset[str]] = frozenset()
    """Members that are never printed: credential values and what names a person."""

    id: str

    def __repr__(self) -> str:
        """The members that may be printed."""
        shown = (
            f"{name}={'***' if name in self.masked else repr(getattr(self, name))}"
            for name in self.__struct_fields__
        )
        return f"{type(self).__name__}({', '.join(shown)})"


class Site(Record, frozen=True, kw_only=True):
    """The site; its id is the location code."""

    timezone: str


class Policy(Record, frozen=True, kw_only=True):
    """What holds for the whole site."""

    booking_before: timedelta = timedelta(minutes=15)
    booking_after: timedelta = timedelta(minutes=5)
    grace: timedelta = timedelta(hours=72)
    lockdown_exempt_personas: frozenset[Persona] = frozenset({"staff"})
    untrusted_clock: UntrustedClock = "deny_timebound"
    max_age: dict[Category, timedelta] = {}
    """How long a revision is good for; a category that is absent has no limit."""
    max_age_exempt_personas: frozenset[Persona] = frozenset()
    pin_max_attempts: int = 5
    pin_lockout: timedelta = timedelta(seconds=30)
    journal_retention: timedelta = timedelta(days=90)


class Zone(Record, frozen=True, kw_only=True):
    """A part of the site that doors lead to and from."""

    category: Category
    name: str | None = None


class Door(Record, frozen=True, kw_only=True):
    """A door between two zones."""

    from_zone: str
    to_zone: str
    criticality: Criticality = "medium"
    name: str | None = None
    egress: bool = True
    unlock: timedelta = timedelta(seconds=5)
    extended_unlock: timedelta = timedelta(seconds=15)
    held_open: timedelta = timedelta(seconds=30)
    unlock_schedule: str | None = None
    unlock_after_first: bool = False
    second_factor_schedule: str | None = None
    pin_alone: bool = False
    antipassback: Antipassback = "off"
    two_person: bool = False
    interlock: str | None = None
    max_occupancy: int | None = None


class Calendar(Record, frozen=True, kw_only=True):
    """Named dates, on which schedules may differ from the week."""

    dates: dict[date, str]


class Interval(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """Two wall times, as time since midnight; `end` may be 24 hours, or before `start`."""

    start: timedelta
    end: timedelta


class Holiday(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """The intervals of the dates in one calendar, instead of those of their weekday."""

    calendar: str
    intervals: tuple[Interval, ...]


class Schedule(Record, frozen=True, kw_only=True):
    """When something is open, by the wall clock of a time zone (schedule.py has the rule)."""

    weekly: tuple[tuple[Interval, ...], ...]
    """Seven, from Monday."""
    holidays: tuple[Holiday, ...] = ()
    timezone: str | None = None
    """The site's where it is None."""


class Group(Record, frozen=True, kw_only=True):
    """An access group: doors and zones, at the times of a schedule."""

    zones: frozenset[str]
    doors: frozenset[str]
    schedule: str


class Holder(Record, frozen=True, kw_only=True):
    """A cardholder."""

    masked: ClassVar[frozenset[str]] = frozenset({"name"})

    persona: Persona
    status: HolderStatus
    valid_from: datetime | None = None
    valid_until: datetime | None = None
    delinquent_since: datetime | None = None
    groups: tuple[str, ...]
    """Without repetition, the smallest id first: the order in which step 10.1 looks."""
    extended_unlock: bool = False
    name: str | None = None


class Credential(Record, frozen=True, kw_only=True):
    """Something that a holder presents. `value` is empty where it is known by a keyed hash only."""

    masked: ClassVar[frozenset[str]] = frozenset({"value"})

    holder: str
    kind: CredentialKind
    value: str
    status: CredentialStatus = "active"
    valid_from: datetime | None = None
    valid_until: datetime | None = None
    duress: bool = False
    max_uses: int | None = None


class Booking(Record, frozen=True, kw_only=True):
    """Doors and zones for some holders over one span of time."""

    holders: tuple[str, ...]
    zones: tuple[str, ...]
    doors: tuple[str, ...]
    start: datetime
    end: datetime
    before: timedelta | None = None
    """Instead of the policy's `booking_before`."""
    after: timedelta | None = None
    """Instead of the policy's `booking_after`."""
    status: BookingStatus = "confirmed"


class AccessException(Record, frozen=True, kw_only=True):
    """One holder is let in, or kept out, over one span of time."""

    masked: ClassVar[frozenset[str]] = frozenset({"reason", "issued_by"})

    holder: str
    effect: Effect
    zones: tuple[str, ...]
    doors: tuple[str, ...]
    from_: datetime
    until: datetime
    reason: str
    issued_by: str


class SiteTables(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Everything of a set of records that isn't about one person: small, kept in memory."""

    site: Site
    policy: Policy
    zones: dict[str, Zone]
    doors: dict[str, Door]
    calendars: dict[str, Calendar]
    schedules: dict[str, Schedule]
    groups: dict[str, Group]
