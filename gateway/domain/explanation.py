"""Why a request was denied, and when it would not be (docs/spec/decision.md, "The explanation")."""

from collections.abc import Callable, Iterator
from datetime import datetime, timedelta

import msgspec

from gateway.domain.decision import (
    Decision,
    Outcome,
    Request,
    Tap,
    Verdict,
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
    schedules = {tables.groups[group].schedule for group in holding.holder.groups} - {TIMEBOUND}
    if tap.door.second_factor_schedule is not None:
        schedules.add(tap.door.second_factor_schedule)
    for schedule in schedules:
        yield from records.hours[schedule].edges(tap.at, until)
