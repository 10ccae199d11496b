"""What can turn a grant into a denial after the decision, and never a denial into a grant."""

from collections.abc import Iterator

import msgspec

from gateway.domain.decision import Decision, Request
from gateway.domain.entitlements import Entitlements, ValidRecords
from gateway.domain.record_faults import LintWarning
from gateway.domain.records import Credential, Door

NOT_ENFORCED = "rule_not_enforced"
"""The records ask for a rule with memory that this release doesn't have: nobody passes on trust."""


def turned(records: Entitlements, request: Request, decision: Decision) -> Decision:
    """The decision after the door's own rules (spec/decision.md, first paragraph).

    Anti-passback `hard`, occupancy, two-person, interlock and `max_uses` need memory that this
    release does not keep. A grant that one of them might turn is refused rather than given
    unchecked; a grant `egress` never is.
    """
    if decision.outcome != "grant" or decision.reason == "egress":
        return decision
    door = records.tables.doors[request.door]
    presented = (records.find(each.kind, each.value) for each in request.credentials)
    if not _of_door(door) and not any(map(_of_credential, presented)):
        return decision
    return msgspec.structs.replace(decision, outcome="deny", reason=NOT_ENFORCED, via=None)


def not_enforced(records: ValidRecords) -> Iterator[LintWarning]:
    """Every member of a set that makes `turned` deny, for whoever puts the set in force."""
    what = "is not enforced by this release: grants are refused (rule_not_enforced)"
    for door in records.tables.doors.values():
        for member in _of_door(door):
            yield LintWarning("door", door.id, member, what)
    for credential in records.credentials.values():
        if _of_credential(credential):
            yield LintWarning("credential", credential.id, "max_uses", what)


def _of_door(door: Door) -> tuple[str, ...]:
    asks = (
        ("antipassback", door.antipassback == "hard"),
        ("two_person", door.two_person),
        ("interlock", door.interlock is not None),
        ("max_occupancy", door.max_occupancy is not None),
    )
    return tuple(member for member, asked in asks if asked)


def _of_credential(credential: Credential | None) -> bool:
    return credential is not None and credential.max_uses is not None
