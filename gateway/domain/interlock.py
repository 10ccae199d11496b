"""Doors of one interlock: only one may be open, or be about to open, at a time."""

from gateway.domain.after_decision import Case

INTERLOCKED = "interlock"


def why_not(case: Case) -> str | None:
    """Another door of the interlock isn't known to be closed and locked."""
    return INTERLOCKED if case.door.interlock is not None and case.around.unsecured else None
