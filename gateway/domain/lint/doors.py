"""Lint of doors and zones: what no door leads into, and what no group opens."""

from collections.abc import Iterator

from gateway.domain.lint.finding import Finding, LintedSite, finding


def zone_without_gatekeeper(site: LintedSite) -> Iterator[Finding]:
    """Rule `zone_without_gatekeeper`: no door leads into it."""
    behind = {door.to_zone for door in site.tables.doors.values()}
    without = [
        zone.id
        for zone in site.tables.zones.values()
        if zone.category != "public" and zone.id not in behind
    ]
    if without:
        yield finding(
            "zone_without_gatekeeper",
            "warning",
            "no door leads into it, and it isn't public",
            without,
            why="either nobody can enter what is sold, or everybody can walk in",
            todo="add its door; or give it the category of the zone that it is open to",
        )


def door_without_group(site: LintedSite) -> Iterator[Finding]:
    """Rule `door_without_group`: no group covers it, and it never stands unlocked."""
    covered = {
        way.door
        for group in site.tables.groups.values()
        for way in site.coverage.covered(group)
        if way.side == "in"
    }
    without = [
        door.id
        for door in site.tables.doors.values()
        if door.id not in covered and door.unlock_schedule is None
    ]
    if without:
        yield finding(
            "door_without_group",
            "warning",
            "no group opens it",
            without,
            why="only single bookings and exceptions do, so staff can't enter what is behind it",
            todo="add it, or the zone behind it, to the groups that need it: staff first",
        )


def restricted_unlocked(site: LintedSite) -> Iterator[Finding]:
    """Rule `restricted_unlocked`: a door into a restricted or tenants' zone stands unlocked."""
    zones = site.tables.zones
    unlocked = [
        door.id
        for door in site.tables.doors.values()
        if door.unlock_schedule is not None
        and zones[door.to_zone].category in ("restricted", "tenant")
    ]
    if unlocked:
        yield finding(
            "restricted_unlocked",
            "warning",
            "stands unlocked by a schedule into a restricted or tenants' zone",
            unlocked,
            why="everybody may walk in, and nothing records who did",
            todo="take its unlock_schedule away, and let a group open it",
        )
