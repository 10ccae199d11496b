"""What opens only so often, credentials and carried grants: spent before the lock moves."""

from gateway.domain.after_decision import Case
from gateway.domain.memory import Changes, Memory, Remembered, Spent, Uses, recall

EXHAUSTED = "uses_exhausted"


def uses_key(credential: str) -> str:
    """Where a credential's uses are counted."""
    return f"uses/{credential}"


def grant_key(grant: str) -> str:
    """Where a carried grant's uses are counted."""
    return f"grant/{grant}"


def spent(memory: Memory, grant: str) -> int:
    """How often a carried grant has been used."""
    found = recall(memory, grant_key(grant), Spent)
    return 0 if found is None else found.count


def used(memory: Memory, credential: str) -> int:
    """How often it has been used."""
    uses = recall(memory, uses_key(credential), Uses)
    return 0 if uses is None else uses.count


def why_not(case: Case) -> str | None:
    """One of the credentials presented, or the carried grant, has no use left."""
    grant = case.grant
    if grant is not None and grant.uses and spent(case.memory, grant.id) >= grant.uses:
        return EXHAUSTED
    for credential in case.presented():
        limit = credential.max_uses
        if limit is not None and used(case.memory, credential.id) >= limit:
            return EXHAUSTED
    return None


def after(case: Case) -> Changes:
    """One use less."""
    changes: dict[str, Remembered | None] = {
        uses_key(credential.id): Uses(count=used(case.memory, credential.id) + 1)
        for credential in case.presented()
        if credential.max_uses is not None
    }
    grant = case.grant
    if grant is not None and grant.uses:
        count = spent(case.memory, grant.id) + 1
        changes[grant_key(grant.id)] = Spent(count=count, expires=grant.expires)
    return changes
