"""Who would gain or lose which door, and when, if other records were in force."""

from collections import defaultdict
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from datetime import datetime
from functools import cache
from itertools import pairwise
from typing import NamedTuple

import msgspec

from gateway.domain.decision import PresentedCredential, Request, Tap, look_up, verdicts
from gateway.domain.entitlements import RecordSet, ValidRecords
from gateway.domain.explanation import edges
from gateway.domain.schedule import OpeningHours


class Change(NamedTuple):
    """One holder's span at one door that only one of two sets of records grants."""

    holder: str
    door: str
    gains: bool
    start: datetime
    end: datetime


class _Remembered:
    """Opening hours that are asked the same again and again: for each holder at each door."""

    def __init__(self, hours: OpeningHours) -> None:
        self.is_open = cache(hours.is_open)
        self._edges = cache(lambda since, until: tuple(hours.edges(since, until)))

    def edges(self, since: datetime, until: datetime) -> Iterator[datetime]:
        """See `OpeningHours.edges`."""
        return iter(self._edges(since, until))


class _Side:
    """One of the two sets."""

    def __init__(self, records: ValidRecords) -> None:
        self.entitlements = RecordSet(records)
        hours = self.entitlements.hours.items()
        self.entitlements.hours = {name: _Remembered(each) for name, each in hours}
        self.holders = frozenset(records.holders)
        self.doors = frozenset(records.tables.doors)
        self._presented: defaultdict[str, list[PresentedCredential]] = defaultdict(list)
        for credential in records.credentials.values():
            shown = PresentedCredential(credential.kind, credential.value)
            self._presented[credential.holder].append(shown)

    def taps(self, holder: str, door: str, at: datetime) -> list[Tap]:
        """What the holder can present at the door, each as the steps look at it."""
        found = []
        for presented in self._presented.get(holder, ()):
            tap = look_up(self.entitlements, Request(door=door, credentials=(presented,), at=at))
            if isinstance(tap, Tap) and tap.primary.holder == holder:
                found.append(tap)
        return found


def changes(
    was: ValidRecords,
    new: ValidRecords,
    since: datetime,
    until: datetime,
    only: AbstractSet[str] | None = None,
) -> Iterator[Change]:
    """Every span in [`since`, `until`) in which one set lets a holder in and the other doesn't.

    A challenge for a PIN counts as letting in. What needs memory isn't looked at. `only`: the
    holders to look at; None is all of them.
    """
    sides = (_Side(was), _Side(new))
    everybody = sides[0].holders | sides[1].holders
    doors = sorted(sides[0].doors | sides[1].doors)
    alike: dict[object, list[Change]] = {}
    for holder in sorted(everybody if only is None else everybody & only):
        for door in doors:
            taps = tuple(side.taps(holder, door, since) for side in sides)
            kind = _kind(taps)
            if kind is None:
                yield from _spans(taps, holder, door, since, until)
                continue
            if (kind, door) not in alike:
                alike[kind, door] = list(_spans(taps, holder, door, since, until))
            for each in alike[kind, door]:
                yield each._replace(holder=holder)


_Taps = tuple[list[Tap], ...]
"""What a holder can present at a door, in each of the two sets."""


def _kind(taps: _Taps) -> object:
    """The same for holders for whom the answer at a door is the same: all that the steps look at.

    None where nobody else's will be: bookings and exceptions are one holder's or a few's.
    """
    blank = msgspec.structs.replace
    found = []
    for each in taps:
        if any(tap.holding.bookings or tap.holding.exceptions for tap in each):
            return None
        cards = frozenset(blank(tap.primary, id="", holder="", value="") for tap in each)
        pins = frozenset(
            blank(pin, id="", holder="", value="") for tap in each for pin in tap.holding.pins
        )
        found.append((cards, pins, blank(each[0].holding.holder, id="", name=None) if each else 0))
    return tuple(found)


def _spans(
    taps: _Taps, holder: str, door: str, since: datetime, until: datetime
) -> Iterator[Change]:
    points = {since}
    for each in (*taps[0], *taps[1]):
        points.update(edge for edge in edges(each, until) if since < edge < until)
    ordered = [*sorted(points), until]
    open_: Change | None = None
    for start, end in pairwise(ordered):
        before, after = (any(_passes(tap, start) for tap in each) for each in taps)
        if open_ is not None and before != after and open_.gains == after:
            open_ = open_._replace(end=end)
            continue
        if open_ is not None:
            yield open_
        open_ = Change(holder, door, after, start, end) if before != after else None
    if open_ is not None:
        yield open_


def _passes(tap: Tap, at: datetime) -> bool:
    return next(verdicts(msgspec.structs.replace(tap, at=at))).outcome != "deny"
