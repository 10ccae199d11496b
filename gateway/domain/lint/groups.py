"""Lint of access groups: their names, who is in them, and what nobody needs any more.

Source: the door-access model, "Establish naming conventions" and "Recommended default group set".
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping

from gateway.domain.coverage import Way
from gateway.domain.lint.finding import Finding, LintedSite, finding
from gateway.domain.lint.personas import PERSONA_WORDS
from gateway.domain.records import TIMEBOUND

RECOMMENDED: Mapping[str, frozenset[str] | None] = {
    "MEMBERS": frozenset({"AMENITIES", "FULL"}),
    "BOOKINGS": frozenset({"AMENITIES", "BOOKABLE", "ROOMS"}),
    "TENANTS": None,
    "STAFF": frozenset({"RESTRICTED"}),
    "CONTRACTORS": frozenset({"RESTRICTED"}),
}
"""The zone words of the recommended groups, by persona word; None: a suite or floor of any name."""

_SEPARATOR = " | "


def group_name(site: LintedSite) -> Iterator[Finding]:
    """Rule `group_name`: outside the convention, or of another site."""
    for warning in site.warnings:
        if warning.type == "group" and warning.member == "id":
            yield finding(
                "group_name",
                "warning",
                f"group name: {warning.what}",
                [warning.id],
                why="a name says who gets in where and when; others can't be audited",
                todo=f"call it {site.tables.site.id} | PERSONA | ZONE | SCHEDULE",
            )


def unknown_member(site: LintedSite) -> Iterator[Finding]:
    """Rule `unknown_member`: what the gateway doesn't read."""
    for warning in site.warnings:
        if warning.what == "no such member":
            yield finding(
                "unknown_member",
                "warning",
                f"{warning.type} record: no such member: {warning.member}",
                [warning.id],
                why="whoever wrote it meant something that isn't enforced",
                todo="correct its spelling, or leave it out",
            )


def group_name_schedule(site: LintedSite) -> Iterator[Finding]:
    """Rule `group_name_schedule`: the name says another schedule than the group has."""
    for group in site.tables.groups.values():
        parts = group.id.split(_SEPARATOR)
        if len(parts) == 4 and _plain(parts[3]) != _plain(group.schedule):
            yield finding(
                "group_name_schedule",
                "warning",
                f"the name says {parts[3]!r}, the schedule is {group.schedule!r}",
                [group.id],
                why="whoever assigns it by its name sells other hours than it opens",
                todo="name it after its schedule, or give it the schedule of its name",
            )


def group_name_persona(site: LintedSite) -> Iterator[Finding]:
    """Rule `group_name_persona`: the name says one persona, holders of another are in it."""
    known = frozenset().union(*PERSONA_WORDS.values())
    for group_id, members in site.members.items():
        parts = group_id.split(_SEPARATOR)
        if len(parts) != 4 or parts[1] not in known:
            continue
        # Booked rooms are for whoever books them.
        others = [
            holder.id
            for holder in members
            if parts[1] not in PERSONA_WORDS[holder.persona]
            and site.tables.groups[group_id].schedule != TIMEBOUND
        ]
        if others:
            yield finding(
                "group_name_persona",
                "notice",
                f"group {group_id!r} is named for {parts[1]} and has holders of other personas",
                others,
                why="an audit by names would miss them",
                todo="put them in a group of their persona, or correct their persona",
            )


def one_off_group(site: LintedSite) -> Iterator[Finding]:
    """Rule `one_off_group`: made for one holder, and none of the recommended ones."""
    for group_id, members in site.members.items():
        if len(members) == 1 and not _is_recommended(group_id):
            yield finding(
                "one_off_group",
                "warning",
                f"only {members[0].id!r} is in it",
                [group_id],
                why="groups for one person make an audit long, and outlive their person",
                todo="put the holder in a standard group; for a while, use an exception",
            )


def unused_group(site: LintedSite) -> Iterator[Finding]:
    """Rule `unused_group`: nobody is in it."""
    unused = [group for group, members in site.members.items() if not members]
    if unused:
        yield finding(
            "unused_group",
            "notice",
            "nobody is in it",
            unused,
            why="the fewer groups there are, the more can be told at a glance",
            todo="remove it, unless it waits for its first holder",
        )


def same_groups(site: LintedSite) -> Iterator[Finding]:
    """Rule `same_groups`: several groups open the same doors at the same times."""
    alike: defaultdict[tuple[frozenset[Way], str], list[str]] = defaultdict(list)
    for group in site.tables.groups.values():
        alike[frozenset(site.coverage.covered(group)), group.schedule].append(group.id)
    for (ways, _), groups in alike.items():
        if len(groups) > 1 and ways:
            yield finding(
                "same_groups",
                "notice",
                "open the same doors at the same times",
                groups,
                why="a change to one of them will be forgotten in the other",
                todo="keep one of them, unless they are for different personas",
            )


def _plain(schedule: str) -> str:
    return schedule.upper().replace("24/7", "24X7")


def _is_recommended(group_id: str) -> bool:
    parts = group_id.split(_SEPARATOR)
    if len(parts) != 4 or parts[1] not in RECOMMENDED:
        return False
    zones = RECOMMENDED[parts[1]]
    return zones is None or parts[2] in zones
