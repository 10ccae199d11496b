"""Anti-passback by zone: nobody is let into a zone that they have not left."""

from gateway.domain.after_decision import Case
from gateway.domain.memory import Place, recall

PASSBACK = "antipassback"


def place_key(holder: str) -> str:
    """Where a holder's place is remembered."""
    return f"place/{holder}"


def is_passback(case: Case) -> bool:
    """Whether the holder is let into the zone that they are known to be in."""
    if case.decision.holder is None:
        return False
    place = recall(case.memory, place_key(case.decision.holder), Place)
    if place is None or place.zone != case.entered:
        return False
    forgets = case.around.antipassback_forgets
    return forgets is None or case.now < place.since + forgets


def why_not(case: Case) -> str | None:
    """A `hard` door refuses; a `soft` one only says so (`is_passback`)."""
    return PASSBACK if case.door.antipassback == "hard" and is_passback(case) else None
