"""PIN lockout, per door and per holder (docs/promises.md P9; docs/spec/decision.md begins with it).

Wrong PINs in a row lock PINs out at a door, each time for twice as long; at any doors, wrong PINs
after one holder's card lock that holder's PINs. Cards, phones and REX are never affected.
"""

from datetime import timedelta

import msgspec

from gateway.domain.after_decision import Case
from gateway.domain.decision import Decision
from gateway.domain.memory import Changes, Memory, PinRow, recall
from gateway.domain.records import Policy

LOCKED_OUT = "pin_locked_out"
DOOR_LOCKOUT_MAX = timedelta(seconds=900)
"""What the doubling stops at (docs/spec/entitlements.md, `pin_lockout_s`)."""
HOLDER_ATTEMPTS_MAX = 10
HOLDER_LOCKOUT = timedelta(hours=24)
"""Until the cloud or an operator says otherwise, at most this long."""

_DOUBLINGS_MAX = 16


def door_key(door: str) -> str:
    """Where a door's wrong PINs are counted."""
    return f"pin/door/{door}"


def holder_key(holder: str) -> str:
    """Where a holder's wrong PINs are counted."""
    return f"pin/holder/{holder}"


def is_locked(row: PinRow | None, now: timedelta) -> bool:
    """Whether a lockout is in force."""
    return row is not None and row.until is not None and now < row.until


def why_not(case: Case) -> str | None:
    """Locked out at this door, whatever the PIN; or this holder's PINs are."""
    if not case.with_pin:
        return None
    rows = [recall(case.memory, door_key(case.door.id), PinRow)]
    if case.decision.holder is not None:
        rows.append(recall(case.memory, holder_key(case.decision.holder), PinRow))
    return LOCKED_OUT if any(is_locked(row, case.now) for row in rows) else None


def is_door_locked(memory: Memory, door: str, now: timedelta) -> bool:
    """Whether PINs are locked out at a door."""
    return is_locked(recall(memory, door_key(door), PinRow), now)


def denial(case: Case) -> Decision:
    """One and the same, whatever the PIN: who it might be is said only where a card has said so."""
    return Decision("deny", LOCKED_OUT, None if case.pin_alone else case.decision.holder)


def after(case: Case) -> Changes:
    """What a PIN that was judged changes; nothing while locked out, where none is judged."""
    if not case.with_pin:
        return {}
    door, holder = door_key(case.door.id), case.decision.holder
    if case.decision.outcome == "grant":
        # A right PIN ends the row.
        keys = [door] if holder is None else [door, holder_key(holder)]
        return {key: None for key in keys if case.memory.get(key) is not None}
    reason = case.decision.reason
    if reason != "wrong_pin" and not (reason == "unknown_credential" and case.pin_alone):
        return {}
    policy = case.records.tables.policy
    changes = {**missed(policy, case.memory, case.door.id, case.now)}
    if holder is not None:
        key = holder_key(holder)
        row = recall(case.memory, key, PinRow) or PinRow()
        tap = case.around.tap
        if tap is None or row.tap != tap:
            failed = _failed(row, HOLDER_ATTEMPTS_MAX, HOLDER_LOCKOUT, case.now)
            changes[key] = msgspec.structs.replace(failed, tap=tap)
    return changes


def missed(policy: Policy, memory: Memory, door: str, now: timedelta) -> Changes:
    """One wrong PIN more at a door; nothing while locked out."""
    row = recall(memory, door_key(door), PinRow) or PinRow()
    if is_locked(row, now):
        return {}
    doubled: timedelta = policy.pin_lockout * 2 ** min(row.lockouts, _DOUBLINGS_MAX)
    lockout = min(doubled, DOOR_LOCKOUT_MAX)
    return {door_key(door): _failed(row, policy.pin_max_attempts, lockout, now)}


def _failed(row: PinRow, attempts_max: int, lockout: timedelta, now: timedelta) -> PinRow:
    failures = row.failures + 1
    if failures < attempts_max:
        return PinRow(failures=failures, lockouts=row.lockouts)
    return PinRow(lockouts=row.lockouts + 1, until=now + lockout)
