"""Decides recorded taps again, from what their events say and the records that were in force."""

from collections.abc import Mapping

from gateway.clock import TimeTrust
from gateway.domain.after_decision import Case
from gateway.domain.carried_grant import decide_carried
from gateway.domain.decision import Decision, PresentedCredential, Request, Side, decide
from gateway.domain.entitlements import NO_RECORDS, Entitlements, RecordSet, ValidRecords
from gateway.domain.events import AccessDecided
from gateway.domain.memory import Remembered
from gateway.domain.remote_request import REMOTE, decide_remote
from gateway.domain.restrictions import restrict


class _Recorded:
    """The memory as an event has it."""

    def __init__(self, values: Mapping[str, Remembered]) -> None:
        self._values = values

    def get(self, key: str) -> Remembered | None:
        return self._values.get(key)


class Revision:
    """One set of records, with the credentials by id: an event names no value."""

    def __init__(self, records: ValidRecords | None) -> None:
        self.entitlements: Entitlements = NO_RECORDS if records is None else RecordSet(records)
        self._credentials = {} if records is None else records.credentials

    def presented(self, kind: str, credential: str | None) -> PresentedCredential:
        """What was presented: the value of a record, or one that is in none."""
        found = None if credential is None else self._credentials.get(credential)
        if found is None:
            return PresentedCredential(kind, "")
        return PresentedCredential(found.kind, found.value)


NOTHING = Revision(None)
"""What is in force before the first revision."""


def recorded_request(event: AccessDecided, revision: Revision) -> Request:
    """What was asked, as far as the records still have what was presented."""
    side: Side = "out" if event.side == "out" else "in"
    ids = (event.credential, event.pin)
    credentials = tuple(
        revision.presented(kind, ids[place]) for place, kind in enumerate(event.kinds)
    )
    if event.remote is not None:
        credentials = (PresentedCredential(REMOTE, event.holder or ""),)
    return Request(
        door=event.door,
        side=side,
        credentials=credentials,
        at=event.at,
        clock="trusted" if TimeTrust(event.trust).decides_as_trusted else "untrusted",
        lockdown=event.lockdown,
        as_of=event.as_of or event.at,
    )


def decided_again(event: AccessDecided, revision: Revision) -> Decision:
    """The decision on a recorded tap with these records, its own clock and surroundings."""
    request = recorded_request(event, revision)
    records = revision.entitlements
    presented = event.grant or event.refusal
    if event.remote is not None:
        decision = decide_remote(records, request)
    elif presented is None:
        decision = decide(records, request)
    else:
        decision = decide_carried(records, presented, request)
    door = records.tables.doors.get(event.door)
    if event.context is None or door is None:
        return decision
    context = event.context
    memory = _Recorded(context.memory)
    case = Case(records, door, request, decision, memory, context.mono, context.around, event.grant)
    return restrict(case).decision


def difference(event: AccessDecided, revision: Revision) -> str | None:
    """How the decision differs from the recorded one, or None."""
    again = decided_again(event, revision)
    recorded = Decision(event.outcome, event.reason, event.holder, event.via, event.duress)  # type: ignore[arg-type]
    if again == recorded:
        return None
    return f"recorded {_text(recorded)}, decided again {_text(again)}"


def _text(decision: Decision) -> str:
    via = f" via {decision.via}" if decision.via else ""
    duress = " under duress" if decision.duress else ""
    return f"{decision.outcome} {decision.reason} ({decision.holder or '-'}{via}{duress})"
