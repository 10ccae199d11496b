"""Lint over the graph of zones: who is entitled gets there, and whoever is let in gets out.

A person walks in no time: what counts is which doors are open to them at one instant. Locks on the
way are all that is looked at, not PINs, lockdowns or the age of the records; a membership is taken
to last.
"""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

from gateway.domain.coverage import Slots, Way
from gateway.domain.lint.finding import Finding, LintedSite, finding
from gateway.domain.records import SiteTables

_Masks = Mapping[Way, int]
"""In which slots each way is open to somebody."""


class Trouble(NamedTuple):
    """Of one holder and one zone: the slots in which something is wrong, none of them empty."""

    unreachable: dict[str, int]
    """Entitled, but no way there."""
    locked_in: dict[str, int]
    """Let in, but at that very time no way out."""
    locked_in_later: dict[str, int]
    """Let in before, and now no way out; of zones that are not in `locked_in` only."""


def outermost(tables: SiteTables) -> frozenset[str]:
    """The zones where everybody is who is not let in: where people come from and leave to.

    Public zones that no door leads into; where a door leads into every one, all of them. So a lobby
    whose front door is locked at night is not where people come from at night.
    """
    public = {zone.id for zone in tables.zones.values() if zone.category == "public"}
    behind_doors = {door.to_zone for door in tables.doors.values()}
    return frozenset(public - behind_doors or public)


class Graph:
    """Zones and the ways between them."""

    def __init__(self, tables: SiteTables, unlocked: Mapping[str, int], every: int) -> None:
        """`unlocked`: when each door stands unlocked. `every`: a bit for each slot."""
        self._outermost = outermost(tables)
        self._zones = tuple(tables.zones)
        self._every = every
        self._ways: list[tuple[str, str, int, Way | None]] = []
        for door in tables.doors.values():
            near, far, standing = door.from_zone, door.to_zone, unlocked.get(door.id, 0)
            self._ways.append((near, far, standing, Way(door.id, "in", far)))
            if door.egress:
                self._ways.append((far, near, every, None))
            else:
                self._ways.append((far, near, standing, Way(door.id, "out", near)))

    def trouble(self, open_: _Masks) -> Trouble:
        """What is wrong for somebody to whom these ways are open."""
        ways = [
            (near, far, standing if way is None else standing | open_.get(way, 0))
            for near, far, standing, way in self._ways
        ]
        in_ = self._spread(ways)
        out = self._spread((far, near, mask) for near, far, mask in ways)
        unreachable: dict[str, int] = {}
        for way, mask in open_.items():
            missing = mask & ~in_[way.entered]
            if missing:
                unreachable[way.entered] = unreachable.get(way.entered, 0) | missing
        locked_in = {}
        later = {}
        for zone, inside in in_.items():
            stuck = inside & ~out[zone]
            if stuck:
                locked_in[zone] = stuck
            since = self._every & -(inside & -inside)  # the first slot inside, and all after it
            stuck = since & ~out[zone] if inside else 0
            if stuck and zone not in locked_in:
                later[zone] = stuck
        return Trouble(unreachable, locked_in, later)

    def _spread(self, ways: Iterable[tuple[str, str, int]]) -> dict[str, int]:
        """In which slots each zone can be reached from where everybody is."""
        found = {zone: self._every if zone in self._outermost else 0 for zone in self._zones}
        passable = [each for each in ways if each[2]]
        changed = True
        while changed:
            changed = False
            for near, far, mask in passable:
                more = found[near] & mask & ~found[far]
                if more:
                    found[far] |= more
                    changed = True
        return found


def troubles(site: LintedSite) -> Iterator[tuple[Sequence[str], Slots, Trouble]]:
    """What is wrong, for whom, and the slots in which it is."""
    coverage = site.coverage
    slots = coverage.slots
    graph = Graph(site.tables, _unlocked(site, slots.starts), slots.all)
    special = site.bookings.keys() | site.exceptions.keys()
    for groups, holders in site.by_groups.items():
        found = graph.trouble(coverage.standing(groups))
        ordinary = [holder for holder in holders if holder not in special]
        if any(found):
            yield ordinary, slots, found
        for holder in special.intersection(holders):
            spans = _spans(site, holder)
            # Who was let in when is one holder's own story: it is followed from end to end.
            whole = bool(found.locked_in_later)
            if any(found) and not whole:
                # Slots that lie in the holder's own spans as a whole are looked at below.
                outside = slots.all & ~_within(slots, _merged(spans))
                yield [holder], slots, Trouble(*(_only(each, outside) for each in found))
            own = _own_slots(site, spans, whole=whole)
            if own.starts:
                graph_then = Graph(site.tables, _unlocked(site, own.starts), own.all)
                yield [holder], own, graph_then.trouble(_own_masks(site, holder, own))


_Span = tuple[datetime, datetime]


def _spans(site: LintedSite, holder: str) -> list[_Span]:
    """The holder's windows of bookings and spans of exceptions, clipped, in order."""
    spans = [site.window(booking) for booking in site.bookings.get(holder, ())]
    spans += [(each.from_, each.until) for each in site.exceptions.get(holder, ())]
    clipped = ((max(start, site.at), min(end, site.until)) for start, end in spans)
    return sorted((start, end) for start, end in clipped if start < end)


def _merged(spans: Iterable[_Span]) -> list[_Span]:
    """Spans, in order, without what they have in common."""
    merged: list[_Span] = []
    for start, end in spans:
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], end))
        else:
            merged.append((start, end))
    return merged


def _within(slots: Slots, spans: Iterable[_Span]) -> int:
    found = 0
    for start, end in spans:
        first = bisect_left(slots.starts, start)
        last = slots.index_of(end) if end < slots.until else len(slots.starts)
        if first < last:
            found |= (1 << last) - (1 << first)
    return found


def _only(masks: dict[str, int], slots: int) -> dict[str, int]:
    return {zone: mask & slots for zone, mask in masks.items() if mask & slots}


def _own_slots(site: LintedSite, spans: Sequence[_Span], *, whole: bool) -> Slots:
    """The holder's spans, or the whole time, cut where a schedule or one of them begins or ends.

    The end of each is among them: whoever is inside then has yet to leave.
    """
    starts = site.coverage.slots.starts
    found = {edge for span in spans for edge in span if edge < site.until}
    for start, end in [(site.at, site.until)] if whole else _merged(spans):
        found.update(starts[bisect_left(starts, start) : bisect_left(starts, end)])
    return Slots(tuple(sorted(found)), site.until)


def _own_masks(site: LintedSite, holder_id: str, own: Slots) -> _Masks:
    coverage = site.coverage
    holder = site.holders[holder_id]
    at = [coverage.slots.index_of(start) for start in own.starts]
    found = {
        way: sum(1 << bit for bit, slot in enumerate(at) if mask >> slot & 1)
        for way, mask in coverage.standing(holder.groups).items()
    }
    timebound = coverage.timebound(holder.groups)
    for booking in site.bookings.get(holder_id, ()):
        then = _during(own, site.window(booking))
        for way in coverage.opened_by(booking, timebound):
            found[way] = found.get(way, 0) | then
    exceptions = site.exceptions.get(holder_id, ())
    for exception in exceptions:
        if exception.effect == "allow":
            then = _during(own, (exception.from_, exception.until))
            for way in coverage.covered(exception):
                found[way] = found.get(way, 0) | then
    for exception in exceptions:
        if exception.effect == "deny":
            then = _during(own, (exception.from_, exception.until))
            for way in coverage.covered(exception):
                found[way] = found.get(way, 0) & ~then
    return found


def _during(own: Slots, span: _Span) -> int:
    return (1 << bisect_left(own.starts, span[1])) - (1 << bisect_left(own.starts, span[0]))


def _unlocked(site: LintedSite, starts: Sequence[datetime]) -> dict[str, int]:
    """When each door stands unlocked by its schedule. `unlock_after_first` is taken as never."""
    coverage = site.coverage
    at = [coverage.slots.index_of(start) for start in starts]
    return {
        door.id: sum(1 << bit for bit, slot in enumerate(at) if mask >> slot & 1)
        for door in site.tables.doors.values()
        if door.unlock_schedule is not None and not door.unlock_after_first
        for mask in (coverage.open[door.unlock_schedule],)
    }


def reachability(site: LintedSite) -> Iterator[Finding]:
    """Rules `unreachable`, `locked_in` and `locked_in_later`."""
    if not outermost(site.tables):
        yield finding(
            "unreachable",
            "warning",
            "there is no public zone: where people come from, nobody can say",
            site.tables.zones,
            why="nobody can be shown to reach, or to leave, any zone",
            todo="add the zone outside the site's first door, with category public",
        )
        return
    found: defaultdict[tuple[str, str], list[tuple[datetime, Sequence[str]]]] = defaultdict(list)
    for holders, slots, trouble in troubles(site):
        for rule, zones in trouble._asdict().items():
            for zone, mask in zones.items():
                first = slots.starts[(mask & -mask).bit_length() - 1]
                found[rule, zone].append((first, holders))
    for (rule, zone), cases in sorted(found.items()):
        everybody = {holder for _, holders in cases for holder in holders}
        if everybody:
            since = site.local(min(first for first, holders in cases if holders))
            yield _finding(rule, zone, since, everybody)


def _finding(rule: str, zone: str, since: str, holders: set[str]) -> Finding:
    if rule == "unreachable":
        return finding(
            rule,
            "warning",
            f"may enter zone {zone!r} at times at which they can't get to it, as on {since}",
            holders,
            why="they are sold a way in that ends at a locked door before it",
            todo="give their group the doors on the way, at the same hours or longer ones",
        )
    if rule == "locked_in":
        return finding(
            rule,
            "alarm",
            f"are let into zone {zone!r} at times at which no door lets them out, as on {since}",
            holders,
            why="whoever goes in is locked in: the doors out need an entitlement that they lack",
            todo="set `egress` true on a door out, or give their group a door out",
        )
    return finding(
        rule,
        "warning",
        f"are let into zone {zone!r} and may be inside when no door lets them out, as on {since}",
        holders,
        why="whoever stays past their hours is locked in until somebody comes",
        todo="set `egress` true on a door out, or let them leave by a group on 24x7",
    )
