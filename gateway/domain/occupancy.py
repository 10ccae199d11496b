"""How many people a zone may hold, counted at the doors that limit it."""

from gateway.domain.after_decision import Case
from gateway.domain.memory import Changes, Count, Memory, recall

FULL = "max_occupancy"


def count_key(zone: str) -> str:
    """Where the people of a zone are counted."""
    return f"count/{zone}"


def people_in(memory: Memory, zone: str) -> int:
    """How many are counted in a zone."""
    count = recall(memory, count_key(zone), Count)
    return 0 if count is None else count.people


def why_not(case: Case, coming: int = 1) -> str | None:
    """`coming` more would be too many. Who leaves is never too many."""
    limit = case.door.max_occupancy
    if limit is None or case.request.side == "out":
        return None
    return FULL if people_in(case.memory, case.door.to_zone) + coming > limit else None


def moved(memory: Memory, zone: str, by: int) -> Changes:
    """The count after `by` people came (or left, where it is negative); never below nobody."""
    before = people_in(memory, zone)
    people = max(0, before + by)
    return {} if people == before else {count_key(zone): Count(people=people)}
