"""Anti-passback by zone: nobody is let into a zone that they have not left."""

import msgspec

from gateway.domain.after_decision import Case
from gateway.domain.memory import UNKNOWN_ZONE, Memory, Place, recall

PASSBACK = "antipassback"
PLACES_MAX = 8
"""Doors that one holder was let in at without it being known yet whether they went through: what
is awaited ends within seconds, but for a restart. Beyond, the oldest is forgotten.
"""


def place_key(holder: str) -> str:
    """Where a holder's place is remembered."""
    return f"place/{holder}"


def places_of(memory: Memory, holder: str) -> tuple[Place, ...]:
    """Where a holder may be, the newest grant last: at most one of them isn't awaited."""
    place = recall(memory, place_key(holder), Place)
    return () if place is None else (*place.others, msgspec.structs.replace(place, others=()))


def as_place(places: tuple[Place, ...]) -> Place | None:
    """What is remembered of `places`: the last of them counts."""
    if not places:
        return None
    *others, place = places[-PLACES_MAX:]
    return msgspec.structs.replace(place, others=tuple(others))


def is_passback(case: Case) -> bool:
    """Whether the holder is let into the zone that they are known to be in."""
    if case.decision.holder is None:
        return False
    place = recall(case.memory, place_key(case.decision.holder), Place)
    if place is None or place.zone != case.entered or place.elsewhere:
        return False
    if place.tap is not None and place.tap == case.around.tap:
        return False  # the reader's other doors are asked about the same tap
    forgets = case.around.antipassback_forgets
    return forgets is None or case.now < place.since + forgets


def why_not(case: Case) -> str | None:
    """A `hard` door refuses; a `soft` one only says so (`is_passback`)."""
    if case.door.antipassback != "hard":
        return None
    return PASSBACK if is_passback(case) or _is_lost(case) else None


def _is_lost(case: Case) -> bool:
    """Return True if the holder's place was remembered and can't be read any more."""
    if case.decision.holder is None:
        return False
    place = recall(case.memory, place_key(case.decision.holder), Place)
    return place is not None and place.zone == UNKNOWN_ZONE
