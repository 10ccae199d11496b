"""Decides a holder's request from afar: a pure function (docs/spec/decision.md)."""

from typing import Final

from gateway.domain.decision import Decision, Request, Tap, Verdict, tap_of, verdicts
from gateway.domain.entitlements import Entitlements, holding_of
from gateway.domain.records import Credential

REMOTE: Final = "remote"
"""The kind that stands for a request from afar in an event. No reader reads it, no record has it,
and `decide` knows it as little as any other: only a signed command gets here."""


def decide_remote(records: Entitlements, request: Request) -> Decision:
    """Decide one request from afar; its one credential is (REMOTE, the holder's id).

    Pure, and never raises.
    """
    tap = look_up_remote(records, request)
    if isinstance(tap, Decision):
        return tap
    outcome, reason, via = verdict(tap)
    return Decision(outcome, reason, tap.primary.holder, via)


def look_up_remote(records: Entitlements, request: Request) -> Tap | Decision:
    """What the steps look at, or the decision where door or holder is in no record."""
    holder = request.credentials[0].value
    door = records.tables.doors.get(request.door)
    if door is None:
        return Decision("deny", "unknown_door")
    holding = holding_of(records, holder)
    if holding is None:
        return Decision("deny", "holder_unknown", holder)
    # Nothing was presented, so there is nothing of it that could be suspended or expired.
    nothing = Credential(id="", holder=holder, kind=REMOTE, value="")  # type: ignore[arg-type]
    return tap_of(records, request, door, nothing, holding)


def verdict(tap: Tap) -> Verdict:
    """What the steps say first. Nobody can enter a PIN from afar, at any door."""
    said = next(verdicts(tap))
    if said.outcome == "challenge" or said.reason == "no_pin":
        return Verdict("deny", "second_factor_required")
    return said
