"""Two different holders, one after the other, before a door with `two_person` opens to them both:
they stand on one side of it and go the same way.
"""

from datetime import timedelta

from gateway.domain import limited_uses
from gateway.domain.after_decision import Case
from gateway.domain.decision import Side
from gateway.domain.memory import Changes, FirstOfTwo, recall
from gateway.domain.remote_request import REMOTE

SECOND_WANTED = "second_person_required"
WITHIN = timedelta(seconds=30)
"""Both stand at the door; whoever taps later than this after the first begins anew."""


def first_key(door: str, side: Side) -> str:
    """Where the first of two on that side is remembered."""
    return f"two/{door}" if side == "in" else f"two_out/{door}"


def first_of_two(case: Case) -> FirstOfTwo | None:
    """The other holder who waits on that side, if there is one, and can still be let in."""
    waiting = recall(case.memory, first_key(case.door.id, case.request.side), FirstOfTwo)
    if waiting is None or case.now >= waiting.until or waiting.holder == case.decision.holder:
        return None
    # Meanwhile they may have used up, at another door, what they presented here.
    return None if limited_uses.exhausted(case.memory, waiting.limited) else waiting


def why_not(case: Case) -> str | None:
    """There is no other holder waiting. Who asks from afar is not at the door, and can be neither
    of the two.
    """
    if not case.door.two_person:
        return None
    if case.request.credentials[0].kind == REMOTE:
        return SECOND_WANTED
    return SECOND_WANTED if first_of_two(case) is None else None


def waits(case: Case) -> Changes:
    """Remember the first."""
    holder = case.decision.holder
    if holder is None or case.request.credentials[0].kind == REMOTE:
        return {}
    waiting = FirstOfTwo(holder=holder, until=case.now + WITHIN, limited=limited_uses.limits(case))
    return {first_key(case.door.id, case.request.side): waiting}
