"""What can turn a grant into a denial after the decision, and never a denial into a grant."""

import msgspec

from gateway.domain.decision import Decision, Request
from gateway.domain.entitlements import Entitlements

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
    if not unenforced(records, request):
        return decision
    return msgspec.structs.replace(decision, outcome="deny", reason=NOT_ENFORCED, via=None)


def unenforced(records: Entitlements, request: Request) -> tuple[str, ...]:
    """The members of the records that restrict this grant and that nothing enforces yet."""
    found = []
    door = records.tables.doors.get(request.door)
    if door is not None:
        found += [
            member
            for member, asks in (
                ("antipassback", door.antipassback == "hard"),
                ("two_person", door.two_person),
                ("interlock", door.interlock is not None),
                ("max_occupancy", door.max_occupancy is not None),
            )
            if asks
        ]
    for presented in request.credentials:
        credential = records.find(presented.kind, presented.value)
        if credential is not None and credential.max_uses is not None:
            found.append("max_uses")
    return tuple(found)
