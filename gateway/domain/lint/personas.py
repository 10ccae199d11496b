"""The least that each kind of person needs, as data, and the rule that looks for more.

Source: the door-access model, "Define personas and minimum required access".
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Literal

from gateway.domain.lint.finding import Finding, LintedSite, finding
from gateway.domain.lint.reachability import outermost
from gateway.domain.records import TIMEBOUND, Category, Group, Persona

Reach = Literal["never", "timebound", "hours", "always"]
"""Not at all; while they have a booking; by a schedule; around the clock."""

_ORDER: tuple[Reach, ...] = ("never", "timebound", "hours", "always")

# Whoever books a room is a booker for that time, whatever else they are: `timebound` on bookable
# zones is nobody's excess but a visitor's. A public zone is on everybody's way in.
MINIMUM: Mapping[Persona, Mapping[Category, Reach]] = {
    # "24/7 access to all zones, including Restricted areas."
    "staff": {
        "public": "always",
        "member": "always",
        "bookable": "always",
        "tenant": "always",
        "restricted": "always",
    },
    # "Access to the Member zone based on their plan": business hours or 24/7.
    "member": {"public": "always", "member": "always", "bookable": "timebound"},
    # "24/7 access to their specific Tenant-only suite and shared Member amenities."
    "office": {
        "public": "always",
        "member": "always",
        "bookable": "timebound",
        "tenant": "always",
    },
    # "Time-bound access to Public and Bookable zones."
    "booker": {"public": "timebound", "bookable": "timebound"},
    # "Time-bound access to Public and Member zones."
    "daypass": {"public": "timebound", "member": "timebound", "bookable": "timebound"},
    # "Limited access to specific zones during scheduled shifts."
    "contractor": {
        "public": "hours",
        "member": "hours",
        "bookable": "hours",
        "tenant": "hours",
        "restricted": "hours",
    },
    # "Generally, no door access; they should be greeted at the Public zone."
    "visitor": {},
}
"""A category that is absent is `never`."""

PERSONA_WORDS: Mapping[Persona, frozenset[str]] = {
    "staff": frozenset({"STAFF"}),
    "member": frozenset({"MEMBERS"}),
    "office": frozenset({"TENANTS"}),
    "booker": frozenset({"BOOKINGS"}),
    "daypass": frozenset({"BOOKINGS"}),
    "contractor": frozenset({"CONTRACTORS"}),
    "visitor": frozenset({"VISITORS"}),
}
"""What group names call each of them."""


def more_than_minimum(site: LintedSite) -> Iterator[Finding]:
    """Rule `more_than_minimum`: a group gives a persona more than it needs."""
    on_the_way = _on_the_way_to_rooms(site)

    def needs(persona: Persona, category: Category) -> Reach:
        least = MINIMUM[persona].get(category, "never")
        return "timebound" if persona == "booker" and category in on_the_way else least

    for group_id, members in sorted(site.members.items()):
        personas: defaultdict[Persona, list[str]] = defaultdict(list)
        for holder in members:
            personas[holder.persona].append(holder.id)
        if not personas:
            continue
        given = _given(site, site.tables.groups[group_id])
        for persona, holders in sorted(personas.items()):
            excess = sorted(
                category
                for category, reach in given.items()
                if _ORDER.index(reach) > _ORDER.index(needs(persona, category))
            )
            if excess:
                told = ", ".join(
                    f"{category} zones {_WORDS[given[category]]} (needs:"
                    f" {_WORDS[needs(persona, category)]})"
                    for category in excess
                )
                yield finding(
                    "more_than_minimum",
                    "warning",
                    f"group {group_id!r} gives the persona {persona}: {told}",
                    holders,
                    why="least privilege: a door that nobody needs is one more to be misused",
                    todo=f"put them in a group for {persona}, or correct their persona",
                )


_WORDS: Mapping[Reach, str] = {
    "never": "never",
    "timebound": "while they have a booking",
    "hours": "by a schedule",
    "always": "24x7",
}


def _on_the_way_to_rooms(site: LintedSite) -> frozenset[Category]:
    """`member`, where a meeting room can be reached through a member zone only."""
    zones = site.tables.zones
    reached = set(outermost(site.tables))
    passable = {zone for zone in zones if zones[zone].category in ("public", "bookable")}
    doors = [(door.from_zone, door.to_zone) for door in site.tables.doors.values()]
    while more := {far for near, far in doors if near in reached} & passable - reached:
        reached |= more
    rooms = {zone.id for zone in zones.values() if zone.category == "bookable"}
    return frozenset() if rooms <= reached else frozenset({"member"})


def booking_beyond_persona(site: LintedSite) -> Iterator[Finding]:
    """Rule `booking_beyond_persona`: a booking of a suite, or of a restricted zone."""
    zones = site.tables.zones
    beyond: defaultdict[str, list[str]] = defaultdict(list)
    for holder_id, bookings in site.bookings.items():
        least = MINIMUM[site.holders[holder_id].persona]
        for booking in bookings:
            for zone in {way.entered for way in site.coverage.covered(booking)}:
                category = zones[zone].category
                if category in ("tenant", "restricted") and category not in least:
                    beyond[zone].append(booking.id)
    for zone, bookings_of in sorted(beyond.items()):
        yield finding(
            "booking_beyond_persona",
            "warning",
            f"books zone {zone!r}, which is {zones[zone].category}, for holders whose persona"
            " never needs it",
            bookings_of,
            why="a booking is sold without a second look at who it lets in where",
            todo="book another zone, or give the holder the persona that they are",
        )


def several_suites(site: LintedSite) -> Iterator[Finding]:
    """Rule `several_suites`: an office team is let into more than its own suite."""
    zones = site.tables.zones
    for groups, holders in sorted(site.by_groups.items()):
        suites = {
            way.entered
            for way in site.coverage.standing(groups)
            if zones[way.entered].category == "tenant"
        }
        office = [each for each in holders if site.holders[each].persona == "office"]
        if len(suites) > 1 and office:
            yield finding(
                "several_suites",
                "notice",
                f"may enter several tenants' suites: {', '.join(sorted(suites))}",
                office,
                why="an office team needs its own suite only",
                todo="check their groups; ignore this where they rent all of them",
            )


def _given(site: LintedSite, group: Group) -> dict[Category, Reach]:
    coverage = site.coverage
    reach: Reach
    if group.schedule == TIMEBOUND:
        reach = "timebound"
    else:
        reach = "always" if coverage.open[group.schedule] == coverage.slots.all else "hours"
    return {
        site.tables.zones[way.entered].category: reach
        for way in coverage.covered(group)
        # Leaving by a door that asks for it is part of having been let in.
        if way.side == "in"
    }
