"""What opens only so often, credentials and carried grants: spent before the lock moves."""

from collections.abc import Iterable

from gateway.domain.after_decision import Case
from gateway.domain.memory import Changes, Limited, Memory, Remembered, Spent, Uses

EXHAUSTED = "uses_exhausted"


def uses_key(credential: str) -> str:
    """Where a credential's uses are counted."""
    return f"uses/{credential}"


def grant_key(grant: str) -> str:
    """Where a carried grant's uses are counted."""
    return f"grant/{grant}"


def limits(case: Case) -> tuple[Limited, ...]:
    """What opens only so often of the credentials presented, and the carried grant."""
    found = [
        Limited(uses_key(credential.id), credential.max_uses, tap=case.around.tap)
        for credential in case.presented()
        if credential.max_uses is not None
    ]
    grant = case.grant
    if grant is not None and grant.uses:
        found.append(Limited(grant_key(grant.id), grant.uses, grant.expires, case.around.tap))
    return tuple(found)


def exhausted(memory: Memory, limited: Iterable[Limited]) -> bool:
    """Whether one of them has no use left."""
    return any(
        _count(memory, each.key) >= each.uses for each in limited if not _is_spent_by(memory, each)
    )


def why_not(case: Case) -> str | None:
    """One of the credentials presented, or the carried grant, has no use left."""
    return EXHAUSTED if exhausted(case.memory, limits(case)) else None


def spend(memory: Memory, limited: Iterable[Limited]) -> Changes:
    """One use less of each; a tap that opens several doors of its reader is one use."""
    changes: dict[str, Remembered | None] = {}
    for each in limited:
        if _is_spent_by(memory, each):
            continue
        count = _count(memory, each.key) + 1
        changes[each.key] = (
            Uses(count=count, tap=each.tap)
            if each.expires is None
            else Spent(count=count, expires=each.expires, tap=each.tap)
        )
    return changes


def _is_spent_by(memory: Memory, limited: Limited) -> bool:
    """Whether the same tap has spent its use at another door already."""
    found = memory.get(limited.key)
    return limited.tap is not None and isinstance(found, Uses | Spent) and found.tap == limited.tap


def _count(memory: Memory, key: str) -> int:
    found = memory.get(key)
    return found.count if isinstance(found, Uses | Spent) else 0
