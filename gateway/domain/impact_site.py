"""The changes that hold for a whole site: in any record that is not about one person."""

from collections.abc import Iterator, Mapping

import msgspec

from gateway.domain.records import Record, SiteTables

NAMED_MAX = 20
"""Changes that are named; more are counted."""

_ONLY_SHOWN = frozenset({"name"})
"""Members that decide nothing."""


def site_changes(was: SiteTables, new: SiteTables) -> tuple[str, ...]:
    """Name the records of a site that differ, with their members, other than by a shown name."""
    found = list(_changes(was, new))
    more = len(found) - NAMED_MAX
    return tuple(found if more <= 0 else [*found[:NAMED_MAX], f"{more} more records"])


def _changes(was: SiteTables, new: SiteTables) -> Iterator[str]:
    yield from _of_type("site", {"": was.site}, {"": new.site})
    yield from _of_type("policy", {"": was.policy}, {"": new.policy})
    yield from _of_type("zone", was.zones, new.zones)
    yield from _of_type("door", was.doors, new.doors)
    yield from _of_type("calendar", was.calendars, new.calendars)
    yield from _of_type("schedule", was.schedules, new.schedules)
    yield from _of_type("group", was.groups, new.groups)


def _of_type(kind: str, was: Mapping[str, Record], new: Mapping[str, Record]) -> Iterator[str]:
    for name in sorted(was.keys() | new.keys()):
        before, after = was.get(name), new.get(name)
        if before is None or after is None:
            yield f"{kind} {name} is {'added' if before is None else 'deleted'}"
        elif before != after and (members := _differing(before, after)):
            yield f"{kind} {name}".rstrip() + f": {', '.join(members)}"


def _differing(before: Record, after: Record) -> list[str]:
    return [
        field.name.rstrip("_")
        for field in msgspec.structs.fields(before)
        if field.name not in _ONLY_SHOWN
        and getattr(before, field.name) != getattr(after, field.name)
    ]
