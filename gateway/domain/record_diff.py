"""Which records two sets don't share, and whose doors that may change."""

from collections.abc import Iterator, Mapping
from typing import Literal

import msgspec

from gateway.domain.entitlements import ValidRecords
from gateway.domain.records import TIMEBOUND, Group, Record


class RecordChange(msgspec.Struct, frozen=True, kw_only=True):
    """One record that differs. Members are named, their values never told."""

    type: str
    id: str
    change: Literal["added", "removed", "changed"]
    members: tuple[str, ...] = ()
    """Of a changed record: those that differ."""


_SITE_WIDE = frozenset({"site", "policy"})


def record_changes(was: ValidRecords, new: ValidRecords) -> Iterator[RecordChange]:
    """Every record that differs, type by type, each by id."""
    for (record_type, old), (_, now) in zip(_by_type(was), _by_type(new), strict=True):
        for record_id in sorted(old.keys() | now.keys()):
            before, after = old.get(record_id), now.get(record_id)
            if before is None:
                yield RecordChange(type=record_type, id=record_id, change="added")
            elif after is None:
                yield RecordChange(type=record_type, id=record_id, change="removed")
            elif before != after:
                yield RecordChange(
                    type=record_type,
                    id=record_id,
                    change="changed",
                    members=tuple(
                        name.rstrip("_")
                        for name in before.__struct_fields__
                        if getattr(before, name) != getattr(after, name)
                    ),
                )


def concerned(was: ValidRecords, new: ValidRecords) -> frozenset[str]:
    """Everybody for whom a difference between the two sets may change something at a door."""
    changed = {(each.type, each.id) for each in record_changes(was, new)}
    types = {record_type for record_type, _ in changed}
    everybody = was.holders.keys() | new.holders.keys()
    if types & _SITE_WIDE:
        return frozenset(everybody)
    found: set[str] = set()
    for side in (was, new):
        tables = side.tables
        # A door or zone is everybody's who may enter it; a group stands for all that it covers.
        places = types & {"door", "zone"}
        schedules = {
            each.id
            for each in tables.schedules.values()
            if ("schedule", each.id) in changed
            or any(("calendar", holiday.calendar) in changed for holiday in each.holidays)
        }
        second_factors = {door.second_factor_schedule for door in tables.doors.values()}
        if places or schedules & second_factors:
            return frozenset(everybody)

        groups = {
            group.id for group in tables.groups.values() if _is_new(group, schedules, changed)
        }
        for holder in side.holders.values():
            if ("holder", holder.id) in changed or not groups.isdisjoint(holder.groups):
                found.add(holder.id)
        for credential in side.credentials.values():
            if ("credential", credential.id) in changed:
                found.add(credential.holder)
        for exception in side.exceptions.values():
            if ("exception", exception.id) in changed:
                found.add(exception.holder)
        for booking in side.bookings.values():
            if ("booking", booking.id) in changed:
                found.update(booking.holders)
    return frozenset(found)


def _is_new(group: Group, schedules: set[str], changed: set[tuple[str, str]]) -> bool:
    return ("group", group.id) in changed or (
        group.schedule != TIMEBOUND and group.schedule in schedules
    )


def _by_type(records: ValidRecords) -> Iterator[tuple[str, Mapping[str, Record]]]:
    tables = records.tables
    yield "site", {tables.site.id: tables.site}
    yield "policy", {tables.policy.id: tables.policy}
    yield "zone", tables.zones
    yield "door", tables.doors
    yield "calendar", tables.calendars
    yield "schedule", tables.schedules
    yield "group", tables.groups
    yield "holder", records.holders
    yield "credential", records.credentials
    yield "booking", records.bookings
    yield "exception", records.exceptions
