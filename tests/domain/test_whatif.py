"""What-if against the decision itself, hour by hour."""

import json
from datetime import UTC, datetime, timedelta

from gateway.domain.decision import PresentedCredential, Request, decide
from gateway.domain.entitlements import RecordSet, ValidRecords
from gateway.domain.record_faults import parse_records
from gateway.domain.whatif import changes
from tests.domain.sites import conformance_lines

AT = datetime(2026, 1, 9, tzinfo=UTC)
UNTIL = AT + timedelta(hours=30)


def lets_in(records: ValidRecords, at: datetime) -> set[tuple[str, str]]:
    found = set()
    decided = RecordSet(records)
    for credential in records.credentials.values():
        presented = (PresentedCredential(credential.kind, credential.value),)
        for door in records.tables.doors:
            answer = decide(decided, Request(door=door, credentials=presented, at=at))
            if answer.outcome != "deny" and answer.holder is not None:
                found.add((answer.holder, door))
    return found


def other_schedules(lines: list[bytes]) -> list[bytes]:
    """The same site with every group on another schedule, and no days of grace."""
    changed = []
    for line in lines:
        row = json.loads(line)
        if row["type"] == "group":
            row["schedule"] = "s1" if row["schedule"] == "24x7" else "24x7"
        if row["type"] == "policy":
            row["grace_hours"] = 0
        changed.append(json.dumps(row).encode())
    return changed


def test_every_hour_the_holders_who_gain_or_lose_are_those_decided_otherwise() -> None:
    lines = conformance_lines("london", "records")
    was = parse_records(lines).records
    new = parse_records(other_schedules(lines)).records
    found = list(changes(was, new, AT, UNTIL))
    assert len({change.holder for change in found}) > 3
    for hour in range(30):
        at = AT + timedelta(hours=hour)
        before, after = lets_in(was, at), lets_in(new, at)
        now = [change for change in found if change.start <= at < change.end]
        assert {(each.holder, each.door) for each in now if each.gains} == after - before
        assert {(each.holder, each.door) for each in now if not each.gains} == before - after
    some = found[0].holder
    only = list(changes(was, new, AT, UNTIL, frozenset({some})))
    assert only == [change for change in found if change.holder == some]
