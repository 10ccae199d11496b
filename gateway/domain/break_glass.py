"""Break-glass: single-use codes at a keypad (HOTP, RFC 4226), good without network and records.

A role has one secret a person, shared with the cloud; its codes open the role's doors only, for
some hours from the first that is used. With a quorum of two, codes of two different secrets are
needed within a minute. A code is spent before the lock moves, whatever it led to.
"""

import hmac
from collections.abc import Iterable
from datetime import timedelta
from typing import Literal, NamedTuple

import msgspec
from cryptography.hazmat.primitives.hashes import SHA1
from cryptography.hazmat.primitives.twofactor.hotp import HOTP

from gateway.domain.memory import (
    BreakGlassCounter,
    BreakGlassWindow,
    Changes,
    FirstOfTwo,
    Memory,
    Remembered,
    recall,
)

DIGITS = 8
"""The longest entry that a keypad hands up: 10^8 codes."""
LOOK_AHEAD = 20
"""How many codes may have been read out and not used (RFC 4226, 7.4)."""
SECRET_BYTES_MIN = 16
"""RFC 4226, section 4, R6."""
QUORUM_WITHIN = timedelta(seconds=60)

Outcome = Literal["opened", "second_required", "over"]


class Role(msgspec.Struct, frozen=True):
    """Who may break the glass where."""

    name: str
    doors: frozenset[str]
    secrets: tuple[bytes, ...]
    window: timedelta
    quorum: int

    def __repr__(self) -> str:
        """Without the secrets."""
        return f"Role(name={self.name!r}, doors={sorted(self.doors)!r})"


class Broken(NamedTuple):
    """A code was one of a role's, and what comes of it."""

    role: str
    secret: int
    """Which of the role's secrets, from 1."""
    outcome: Outcome
    changes: Changes


def counter_key(role: str, secret: int) -> str:
    """Where the next counter of a secret is remembered."""
    return f"break_glass/{role}/{secret}"


def window_key(role: str) -> str:
    """Where a role's hours are remembered."""
    return f"break_glass/{role}/window"


def first_key(role: str, door: str) -> str:
    """Where the first of two codes is remembered."""
    return f"break_glass/{role}/first/{door}"


def code(secret: bytes, counter: int) -> str:
    """The code of a counter. RFC 4226 fixes SHA-1, whose weakness doesn't touch HMAC."""
    return HOTP(secret, DIGITS, SHA1()).generate(counter).decode()  # noqa: S303


def broken(
    roles: Iterable[Role], door: str, entered: str, memory: Memory, now: timedelta
) -> Broken | None:
    """What `entered` comes to at `door`; None where it is no code that is good there."""
    if len(entered) != DIGITS:
        return None
    for role in roles:
        if door not in role.doors:
            continue
        for number, secret in enumerate(role.secrets, 1):
            found = _counter(role, number, secret, entered, memory)
            if found is not None:
                return _spent(role, number, found, door, memory, now)
    return None


def _counter(role: Role, number: int, secret: bytes, entered: str, memory: Memory) -> int | None:
    kept = recall(memory, counter_key(role.name, number), BreakGlassCounter)
    first = 0 if kept is None else kept.next
    found = None
    for counter in range(first, first + LOOK_AHEAD):
        # All are compared, whichever it is: how long it takes says nothing.
        if hmac.compare_digest(code(secret, counter), entered) and found is None:
            found = counter
    return found


def _spent(
    role: Role, number: int, counter: int, door: str, memory: Memory, now: timedelta
) -> Broken:
    changes: dict[str, Remembered | None] = {
        counter_key(role.name, number): BreakGlassCounter(next=counter + 1)
    }
    window = recall(memory, window_key(role.name), BreakGlassWindow)
    if window is not None and now >= window.until:
        return Broken(role.name, number, "over", changes)
    key = first_key(role.name, door)
    if role.quorum > 1:
        first = recall(memory, key, FirstOfTwo)
        if first is None or now >= first.until or first.holder == str(number):
            changes[key] = FirstOfTwo(holder=str(number), until=now + QUORUM_WITHIN)
            return Broken(role.name, number, "second_required", changes)
        changes[key] = None
    if window is None:
        changes[window_key(role.name)] = BreakGlassWindow(until=now + role.window)
    return Broken(role.name, number, "opened", changes)
