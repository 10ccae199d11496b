"""Why a request was denied, and when it would not be (docs/spec/decision.md, "The explanation")."""

from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from itertools import islice

import msgspec

from gateway.domain.decision import (
    Decision,
    Outcome,
    Request,
    Tap,
    Verdict,
    covering_groups,
    decide_tap,
    look_up,
    taken_at,
    verdicts,
    window,
)
from gateway.domain.entitlements import Entitlements
from gateway.domain.instants import later
from gateway.domain.records import TIMEBOUND, Credential, Holder
from gateway.domain.remote_request import look_up_remote, verdict

LOOK_AHEAD = timedelta(hours=336)
"""How far ahead `opens_at` is looked for; its end is out."""

RECORDS_MAX = 500
"""Groups, bookings and exceptions of one holder that `opens_soon_at` looks through."""
SCHEDULES_MAX = 8
"""Schedules whose edges `opens_soon_at` looks at; members have one or two."""
EDGES_MAX = 60
"""The edges of one schedule that `opens_soon_at` looks at: a fortnight of opening and closing each
day, with midnight. A schedule with more is looked at for as far as they reach.
"""
LOOKS_MAX = 2_000
"""Records that `opens_soon_at` looks at, one edge after the other: 3 ms on the doors' loop."""


class Explanation(msgspec.Struct, frozen=True, gc=False):
    """The decision's members, and what would have to change."""

    outcome: Outcome
    reason: str
    holder: str | None
    via: str | None
    duress: bool
    reasons: tuple[str, ...]
    """Every reason why the request fails, in the order of the steps, none twice."""
    opens_at: datetime | None
    """When the same request would next not be denied, if within `LOOK_AHEAD`."""


def explain(records: Entitlements, request: Request) -> Explanation:
    """Explain the decision on one request. Pure, and never raises."""
    tap = look_up(records, request)
    if isinstance(tap, Decision):  # steps 1 to 3 stand alone
        if tap.outcome == "grant":
            return _explanation(tap, (), taken_at(request))
        return _explanation(tap, (tap.reason,), None)
    decision = decide_tap(tap)
    # What remains of a grant after a denial is no reason; what is said twice is one.
    reasons = dict.fromkeys(said.reason for said in verdicts(tap) if said.outcome != "grant")
    return _explanation(decision, tuple(reasons), _opens_at(tap))


def _explanation(
    decision: Decision, reasons: tuple[str, ...], opens_at: datetime | None
) -> Explanation:
    return Explanation(
        decision.outcome,
        decision.reason,
        decision.holder,
        decision.via,
        decision.duress,
        reasons,
        opens_at,
    )


def remote_opens_at(records: Entitlements, request: Request) -> datetime | None:
    """When the same request from afar would next not be denied, if within `LOOK_AHEAD`."""
    tap = look_up_remote(records, request)
    return None if isinstance(tap, Decision) else _opens_at(tap, verdict)


def _first(tap: Tap) -> Verdict:
    return next(verdicts(tap))


def _opens_at(tap: Tap, says: Callable[[Tap], Verdict] = _first) -> datetime | None:
    """The first instant at which `tap` would not be denied.

    What the steps say changes at the edges only, and each of them begins what it changes to, so
    no other instant can be the first. The age of the records stays as it is.
    """
    until = later(tap.at, LOOK_AHEAD)
    later_edges = {edge for edge in edges(tap, until) if tap.at < edge < until}
    for at in (tap.at, *sorted(later_edges)):
        if says(msgspec.structs.replace(tap, at=at)).outcome != "deny":
            return at
    return None


def opens_soon_at(
    records: Entitlements, request: Request, *, remote: bool = False
) -> datetime | None:
    """What `explain` or `remote_opens_at` says, in a few milliseconds whatever the holder has; None
    where it would take longer.
    """
    tap = look_up_remote(records, request) if remote else look_up(records, request)
    if isinstance(tap, Decision):
        return taken_at(request) if tap.outcome == "grant" and not remote else None
    says = verdict if remote else _first
    holding = tap.holding
    if len(holding.holder.groups) + len(holding.bookings) + len(holding.exceptions) > RECORDS_MAX:
        return None
    until = later(tap.at, LOOK_AHEAD)
    tap = _of_use(tap, until)
    holding = tap.holding
    looks = 1 + len(holding.holder.groups) + len(holding.bookings) + len(holding.exceptions)
    begins = _begins(tap, until)
    if begins is None:
        return None
    for at in islice(begins, LOOKS_MAX // looks):
        if says(msgspec.structs.replace(tap, at=at)).outcome != "deny":
            return at
    return None


def _of_use(tap: Tap, until: datetime) -> Tap:
    """The request, without the records of the holder that let nobody in, or keep nobody out, at
    this door before `until`.
    """
    holding, policy = tap.holding, tap.records.tables.policy
    groups = covering_groups(tap)
    of_any_door = any(group.schedule == TIMEBOUND for group in groups)
    bookings = []
    for booking in holding.bookings:
        begin, end = window(booking, policy)
        here = of_any_door or tap.door.id in booking.doors or tap.entered in booking.zones
        if here and booking.status == "confirmed" and begin < until and tap.at < end:
            bookings.append(booking)
    exceptions = [
        exception
        for exception in holding.exceptions
        if (tap.door.id in exception.doors or tap.entered in exception.zones)
        and (exception.from_ < until or tap.strict)
        and tap.at < exception.until
    ]
    holder = msgspec.structs.replace(holding.holder, groups=tuple(group.id for group in groups))
    holding = msgspec.structs.replace(
        holding, holder=holder, bookings=tuple(bookings), exceptions=tuple(exceptions)
    )
    return msgspec.structs.replace(tap, holding=holding)


def _begins(tap: Tap, until: datetime) -> Iterator[datetime] | None:
    """Every instant from the request's on at which a denial may end, in order, as far as the edges
    of schedules are looked at; None where there are too many schedules.
    """
    holding = tap.holding
    schedules = _schedules(tap)
    if len(schedules) > SCHEDULES_MAX:
        return None
    begins = {tap.at}
    for schedule in schedules:
        edges_of_it = list(islice(tap.records.hours[schedule].edges(tap.at, until), EDGES_MAX))
        begins.update(edges_of_it)
        if len(edges_of_it) == EDGES_MAX:
            until = min(until, edges_of_it[-1])
    spans: tuple[Holder | Credential, ...] = (holding.holder, tap.primary, *holding.pins)
    begins.update(valid.valid_from for valid in spans if valid.valid_from is not None)
    begins.update(window(booking, tap.records.tables.policy)[0] for booking in holding.bookings)
    for exception in holding.exceptions:
        begins.add(exception.from_ if exception.effect == "allow" else exception.until)
    return iter(sorted(at for at in begins if tap.at <= at < until))


def _schedules(tap: Tap) -> set[str]:
    groups = tap.records.tables.groups
    schedules = {groups[group].schedule for group in tap.holding.holder.groups} - {TIMEBOUND}
    if tap.door.second_factor_schedule is not None:
        schedules.add(tap.door.second_factor_schedule)
    return schedules


def edges(tap: Tap, until: datetime) -> Iterator[datetime]:
    """Every instant at which a step may begin to say something else; others may be among them."""
    records = tap.records
    tables = records.tables
    holding = tap.holding
    # Steps 4, 5 and 13.
    spans: tuple[Holder | Credential, ...] = (holding.holder, tap.primary, *holding.pins)
    for valid in spans:
        if valid.valid_from is not None:
            yield valid.valid_from
        if valid.valid_until is not None:
            yield valid.valid_until
    # Step 6.
    if holding.holder.delinquent_since is not None:
        yield later(holding.holder.delinquent_since, tables.policy.grace)
    # Steps 9 and 10.3.
    for exception in holding.exceptions:
        yield exception.from_
        yield exception.until
    # Steps 10.1, `timebound`, and 10.2.
    for booking in holding.bookings:
        yield from window(booking, tables.policy)
    # Steps 10.1, 12 and 13.
    for schedule in _schedules(tap):
        yield from records.hours[schedule].edges(tap.at, until)
