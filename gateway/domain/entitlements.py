"""What the decision works on: any store of the records in force that can answer these questions."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import NamedTuple, Protocol

import msgspec

from gateway.domain.records import (
    AccessException,
    Booking,
    Credential,
    Holder,
    Policy,
    Site,
    SiteTables,
)
from gateway.domain.schedule import OpeningHours, all_opening_hours


class Holding(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """Everything of one holder that a rule may look at, each by id, the smallest first."""

    holder: Holder
    pins: tuple[Credential, ...]
    """The credentials of kind `pin`, whatever their status."""
    bookings: tuple[Booking, ...]
    """The bookings that name the holder, whatever their status."""
    exceptions: tuple[AccessException, ...]


class Entitlements(Protocol):
    """One revision. A value is looked up, never compared: the store may know keyed hashes only."""

    @property
    def tables(self) -> SiteTables:
        """The site-level records."""

    @property
    def hours(self) -> Mapping[str, OpeningHours]:
        """When each schedule is open, `24x7` included (schedule.all_opening_hours)."""

    def find(self, kind: str, value: str) -> Credential | None:
        """The credential that is meant when `value` is presented as a `kind`, if there is one."""

    def holding(self, holder_id: str) -> Holding:
        """All of a holder. Raises KeyError where they are in no record."""


def holding_of(records: Entitlements, holder_id: str) -> Holding | None:
    """All of a holder, or None where they are in no record."""
    try:
        return records.holding(holder_id)
    except KeyError:
        return None


class ValidRecords(NamedTuple):
    """One revision that has no fault, record by record."""

    tables: SiteTables
    holders: dict[str, Holder]
    credentials: dict[str, Credential]
    bookings: dict[str, Booking]
    exceptions: dict[str, AccessException]


class MeantCredential(NamedTuple):
    """The credential that is meant when `value` is presented as a `kind`."""

    kind: str
    value: str
    credential: Credential

    def __repr__(self) -> str:
        """Without the value: a credential is never printed."""
        return f"MeantCredential(kind={self.kind!r}, credential={self.credential!r})"


class CompiledRecords(NamedTuple):
    """One revision as a store keeps it: what `Entitlements` asks for, by what it asks with."""

    tables: SiteTables
    holdings: Iterator[Holding]
    """One a holder, to be found by `holding.holder.id`."""
    credentials: Iterator[MeantCredential]
    """One a kind and value, to be found by these two."""


def compile_records(records: ValidRecords) -> CompiledRecords:
    """The revision, sorted out by the questions of `Entitlements`; a store needs no other rule."""
    return CompiledRecords(records.tables, _holdings(records), _meant(records))


def _holdings(records: ValidRecords) -> Iterator[Holding]:
    pins: defaultdict[str, list[Credential]] = defaultdict(list)
    bookings: defaultdict[str, list[Booking]] = defaultdict(list)
    exceptions: defaultdict[str, list[AccessException]] = defaultdict(list)
    for _, credential in sorted(records.credentials.items()):
        if credential.kind == "pin":
            pins[credential.holder].append(credential)
    for _, booking in sorted(records.bookings.items()):
        for holder_id in set(booking.holders):
            bookings[holder_id].append(booking)
    for _, exception in sorted(records.exceptions.items()):
        exceptions[exception.holder].append(exception)
    for holder_id, holder in records.holders.items():
        yield Holding(
            holder,
            tuple(pins.get(holder_id, ())),
            tuple(bookings.get(holder_id, ())),
            tuple(exceptions.get(holder_id, ())),
        )


def _meant(records: ValidRecords) -> Iterator[MeantCredential]:
    # At most one with a kind and value is other than `returned`: it is meant, or else the one with
    # the smallest id.
    meant: dict[tuple[str, str], Credential] = {}
    for credential in records.credentials.values():
        key = (credential.kind, credential.value)
        other = meant.get(key)
        if other is None or _rank(credential) < _rank(other):
            meant[key] = credential
    for (kind, value), credential in meant.items():
        yield MeantCredential(kind, value, credential)


def _rank(credential: Credential) -> tuple[bool, str]:
    return credential.status == "returned", credential.id


class RecordSet:
    """One revision in memory."""

    def __init__(self, records: ValidRecords) -> None:
        compiled = compile_records(records)
        self.tables = compiled.tables
        self.hours: Mapping[str, OpeningHours] = all_opening_hours(
            self.tables.schedules, self.tables.calendars, self.tables.site.timezone
        )
        self._holdings = {holding.holder.id: holding for holding in compiled.holdings}
        self._credentials = {(kind, value): meant for kind, value, meant in compiled.credentials}

    def find(self, kind: str, value: str) -> Credential | None:
        """See `Entitlements.find`."""
        return self._credentials.get((kind, value))

    def holding(self, holder_id: str) -> Holding:
        """See `Entitlements.holding`."""
        return self._holdings[holder_id]


NO_RECORDS: Entitlements = RecordSet(
    ValidRecords(
        tables=SiteTables(
            site=Site(id="", timezone="UTC"),
            policy=Policy(id="policy"),
            zones={},
            doors={},
            calendars={},
            schedules={},
            groups={},
        ),
        holders={},
        credentials={},
        bookings={},
        exceptions={},
    )
)
"""What is in force before the first revision: every door is unknown."""
