"""Who would gain or lose which door, and when, if other records were in force."""

from collections import defaultdict
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from datetime import datetime
from itertools import pairwise
from typing import NamedTuple

import msgspec

from gateway.domain.decision import PresentedCredential, Request, Tap, look_up, verdicts
from gateway.domain.entitlements import RecordSet, ValidRecords
from gateway.domain.explanation import edges


class Change(NamedTuple):
    """One holder's span at one door that only one of two sets of records grants."""

    holder: str
    door: str
    gains: bool
    start: datetime
    end: datetime


class _Side:
    """One of the two sets."""

    def __init__(self, records: ValidRecords) -> None:
        self.entitlements = RecordSet(records)
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
    for holder in sorted(everybody if only is None else everybody & only):
        for door in sorted(sides[0].doors | sides[1].doors):
            yield from _spans(sides, holder, door, since, until)


def _spans(
    sides: tuple[_Side, _Side], holder: str, door: str, since: datetime, until: datetime
) -> Iterator[Change]:
    taps = [side.taps(holder, door, since) for side in sides]
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
