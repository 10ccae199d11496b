"""Credentials that open something only so often; spent before the lock moves."""

from gateway.domain.after_decision import Case
from gateway.domain.memory import Changes, Memory, Uses, recall

EXHAUSTED = "uses_exhausted"


def uses_key(credential: str) -> str:
    """Where a credential's uses are counted."""
    return f"uses/{credential}"


def used(memory: Memory, credential: str) -> int:
    """How often it has been used."""
    uses = recall(memory, uses_key(credential), Uses)
    return 0 if uses is None else uses.count


def why_not(case: Case) -> str | None:
    """One of the credentials presented has no use left."""
    for credential in case.presented():
        limit = credential.max_uses
        if limit is not None and used(case.memory, credential.id) >= limit:
            return EXHAUSTED
    return None


def after(case: Case) -> Changes:
    """One use less."""
    return {
        uses_key(credential.id): Uses(count=used(case.memory, credential.id) + 1)
        for credential in case.presented()
        if credential.max_uses is not None
    }
