"""PIN lockout, per door and per holder (docs/promises.md P9; docs/spec/decision.md begins with it).

Wrong PINs lock PINs out at a door, each time for twice as long, and only time makes a door forget
them: a right PIN, whoever enters it, gives nobody more guesses. At any doors, wrong PINs in a row
after one holder's card lock that holder's PINs. Cards, phones and REX are never affected.
"""

from datetime import timedelta

from gateway.domain.after_decision import Case
from gateway.domain.decision import Decision
from gateway.domain.memory import Changes, Memory, PinRow, Remembered, recall
from gateway.domain.records import Policy

LOCKED_OUT = "pin_locked_out"
DOOR_LOCKOUT_MAX = timedelta(seconds=900)
"""What the doubling stops at (docs/spec/entitlements.md, `pin_lockout_s`)."""
CALM = timedelta(hours=1)
"""For each of these without a lockout, the next one is half as long again."""
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


def forgets_after(policy: Policy) -> timedelta:
    """How long a door remembers one wrong PIN, one after the other.

    In the longest lockout as many are forgotten as lead to one: whoever waits between guesses gets
    no more of them than whoever sits out the lockouts.
    """
    return DOOR_LOCKOUT_MAX / policy.pin_max_attempts


def standing(row: PinRow, policy: Policy, now: timedelta) -> PinRow:
    """A door's row, with what time has made it forget left out."""
    failures, since, lockouts, until = row.failures, row.since, row.lockouts, row.until
    if failures and since is not None:
        interval = forgets_after(policy)
        forgotten = min(failures, max(0, (now - since) // interval))
        failures, since = failures - forgotten, since + forgotten * interval
    if until is not None:
        forgotten = min(lockouts, max(0, (now - until) // CALM))
        lockouts, until = lockouts - forgotten, until + forgotten * CALM
    return PinRow(
        failures=failures,
        lockouts=lockouts,
        until=until if lockouts else None,
        since=since if failures else None,
    )


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
    policy, holder = case.records.tables.policy, case.decision.holder
    if case.decision.outcome == "grant":
        return _was_right(policy, case.memory, case.door.id, holder, case.now)
    reason = case.decision.reason
    if reason != "wrong_pin" and not (reason == "unknown_credential" and case.pin_alone):
        return {}
    changes = {**missed(policy, case.memory, case.door.id, case.now)}
    if holder is not None:
        key = holder_key(holder)
        row = recall(case.memory, key, PinRow) or PinRow()
        tap = case.around.tap
        if tap is None or row.tap != tap:
            changes[key] = _missed_by_holder(row, tap, case.now)
    return changes


def _missed_by_holder(row: PinRow, tap: timedelta | None, now: timedelta) -> PinRow:
    failures = row.failures + 1
    if failures < HOLDER_ATTEMPTS_MAX:
        return PinRow(failures=failures, lockouts=row.lockouts, tap=tap)
    return PinRow(lockouts=row.lockouts + 1, until=now + HOLDER_LOCKOUT, tap=tap)


def _was_right(
    policy: Policy, memory: Memory, door: str, holder: str | None, now: timedelta
) -> Changes:
    """A right PIN ends its holder's row. Of the door's it ends only what is forgotten anyway: who
    has a PIN, or stands where others enter theirs, must not get guesses by that.
    """
    changes: dict[str, Remembered | None] = {}
    row = recall(memory, door_key(door), PinRow)
    if row is not None and standing(row, policy, now) == PinRow():
        changes[door_key(door)] = None
    if holder is not None and memory.get(holder_key(holder)) is not None:
        changes[holder_key(holder)] = None
    return changes


def missed(policy: Policy, memory: Memory, door: str, now: timedelta) -> Changes:
    """One wrong PIN more at a door; nothing while locked out."""
    row = recall(memory, door_key(door), PinRow) or PinRow()
    if is_locked(row, now):
        return {}
    row = standing(row, policy, now)
    failures = row.failures + 1
    if failures < policy.pin_max_attempts:
        since = row.since if row.failures and row.since is not None else now
        changed = PinRow(failures=failures, lockouts=row.lockouts, until=row.until, since=since)
        return {door_key(door): changed}
    doubled: timedelta = policy.pin_lockout * 2 ** min(row.lockouts, _DOUBLINGS_MAX)
    until = now + min(doubled, DOOR_LOCKOUT_MAX)
    return {door_key(door): PinRow(lockouts=row.lockouts + 1, until=until)}
