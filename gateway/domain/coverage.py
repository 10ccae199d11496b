"""Which doors the groups of a holder open, and when, worked out once for all who have the same.

Time is cut into slots at every edge of every schedule, so that within one nothing opens or closes;
what is open when is then a number with a bit for each slot.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterable, Mapping
from datetime import datetime
from functools import cache
from itertools import pairwise
from typing import NamedTuple

from gateway.domain.decision import Side
from gateway.domain.records import TIMEBOUND, AccessException, Booking, Group, SiteTables
from gateway.domain.schedule import OpeningHours


class Slots(NamedTuple):
    """A span of time in parts, within each of which every schedule is open or is closed."""

    starts: tuple[datetime, ...]
    until: datetime

    @property
    def all(self) -> int:
        """A bit for each."""
        return (1 << len(self.starts)) - 1

    def index_of(self, at: datetime) -> int:
        """The slot that `at`, which is in the span, is in."""
        return bisect_right(self.starts, at) - 1

    def end(self, index: int) -> datetime:
        """When a slot ends."""
        return self.starts[index + 1] if index + 1 < len(self.starts) else self.until

    def when_open(self, hours: OpeningHours) -> int:
        """The slots in which `hours`, one of those that were cut by, is open."""
        own = (self.starts[0], *hours.edges(self.starts[0], self.until), self.until)
        found = 0
        for start, end in pairwise(own):
            if hours.is_open(start):
                found |= (1 << bisect_left(self.starts, end)) - (1 << self.index_of(start))
        return found

    def hours_in(self, mask: int) -> float:
        """How long the slots of `mask` are together."""
        return sum(
            (self.end(index) - start).total_seconds() / 3600
            for index, start in enumerate(self.starts)
            if mask >> index & 1
        )


def cut(every: Iterable[OpeningHours], since: datetime, until: datetime) -> Slots:
    """[`since`, `until`) in slots."""
    edges = {edge for hours in every for edge in hours.edges(since, until)}
    return Slots((since, *sorted(edges)), until)


class Way(NamedTuple):
    """A door by one of its sides, as far as passing there takes an entitlement."""

    door: str
    side: Side
    entered: str
    """The zone entered."""


class Coverage:
    """The ways through the doors of one set of records, and what its groups open of them."""

    def __init__(self, tables: SiteTables, hours: Mapping[str, OpeningHours], slots: Slots) -> None:
        self.tables = tables
        self.slots = slots
        self.open = {name: slots.when_open(each) for name, each in hours.items()}
        """When each schedule is open."""
        self.ways = tuple(_ways(tables))
        self.standing = cache(self._standing)
        self.timebound = cache(self._timebound)
        self._covered = cache(self._ways_of)

    def _standing(self, groups: tuple[str, ...]) -> dict[Way, int]:
        """Ways that these groups open by a schedule, and when. Never `timebound`."""
        found: dict[Way, int] = {}
        for group_id in groups:
            group = self.tables.groups[group_id]
            if group.schedule != TIMEBOUND:
                mask = self.open[group.schedule]
                for way in self.covered(group):
                    found[way] = found.get(way, 0) | mask
        return found

    def _timebound(self, groups: tuple[str, ...]) -> frozenset[Way]:
        """Ways that these groups open while the holder has a booking."""
        return frozenset(
            way
            for group_id in groups
            if self.tables.groups[group_id].schedule == TIMEBOUND
            for way in self.covered(self.tables.groups[group_id])
        )

    def covered(self, what: Group | Booking | AccessException) -> tuple[Way, ...]:
        """What a group, booking or exception covers (docs/spec/decision.md, "Covers")."""
        return self._covered(what.zones, what.doors)

    def _ways_of(self, zones: Collection[str], doors: Collection[str]) -> tuple[Way, ...]:
        return tuple(way for way in self.ways if way.door in doors or way.entered in zones)

    def opened_by(self, booking: Booking, timebound: frozenset[Way]) -> frozenset[Way]:
        """What a confirmed booking opens for a holder whose groups have these `timebound` ways.

        What it covers and, of those ways, the ones on the way there: into no bookable zone.
        """
        zones = self.tables.zones
        on_the_way = {way for way in timebound if zones[way.entered].category != "bookable"}
        return frozenset(on_the_way.union(self.covered(booking)))


def _ways(tables: SiteTables) -> Iterable[Way]:
    for door in tables.doors.values():
        yield Way(door.id, "in", door.to_zone)
        if not door.egress:
            yield Way(door.id, "out", door.from_zone)
