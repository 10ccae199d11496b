"""Who may pass by a grant that they carry: a pure function (docs/spec/carried-grants.md)."""

from collections.abc import Iterator
from datetime import datetime
from typing import Final, Literal

import msgspec

from gateway.domain.decision import (
    Decision,
    Request,
    Verdict,
    credential_denials,
    deny_exception,
    holder_denials,
    is_usable,
    taken_at,
)
from gateway.domain.entitlements import Entitlements, Holding, holding_of
from gateway.domain.instants import later
from gateway.domain.records import Credential, Door

PREFIX: Final = "DG1:"
"""What the text of every carried grant begins with, on a screen or on paper."""
TEXT_CHARACTERS_MAX: Final = 512

BEARER: Final = "carried"
"""The kind of a grant that is good for whoever shows it."""
PROVEN: Final = "carried_key"
"""The kind of a grant whose holder key was proved at this reader; see `proven_value`."""

Medium = Literal["screen", "paper", "device"]
Refusal = Literal[
    "grant_malformed",
    "grant_unknown_key",
    "grant_bad_signature",
    "grant_wrong_audience",
    "grant_key_unproven",
]
"""Why a grant is not believed, in the order in which that is found."""


def proven_value(key: bytes, message: bytes) -> str:
    """How a reader that had a P-256 key proved says so of the grant shown with it: `KEY:MESSAGE`,
    hex digits, the key as a compressed point (SEC 1, section 2.3.3).

    `key` is the uncompressed one, a point of the curve.
    """
    compressed = bytes((2 + key[-1] % 2,)) + key[1:33]
    return f"{compressed.hex()}:{message.hex()}"


def of_proven_value(value: str) -> tuple[bytes, bytes]:
    """The key and the message. Raises ValueError."""
    key, _, message = value.partition(":")
    return bytes.fromhex(key), bytes.fromhex(message)


class CarriedGrant(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """A grant whose signature, gateway and holder key have been verified."""

    id: str
    """The `cti`, in lower-case hex."""
    holder: str
    medium: Medium
    doors: tuple[str, ...] = ()
    zones: tuple[str, ...] = ()
    issued: datetime
    not_before: datetime
    expires: datetime
    uses: int = 0
    """How many grants it is good for; 0: as often as wanted."""

    @property
    def kind(self) -> str:
        """What was presented, as an event tells it."""
        return PROVEN if self.medium == "device" else BEARER

    @property
    def record(self) -> str:
        """The value of the `qr` credential that stands for it in records, where one does."""
        return PREFIX + self.id.upper()


Presented = CarriedGrant | Refusal
"""A carried grant, or why it is not believed."""


def decide_carried(records: Entitlements, presented: Presented, request: Request) -> Decision:
    """Decide one request by a carried grant on the records in force. Pure, and never raises."""
    grant = None if isinstance(presented, str) else presented
    holder = None if grant is None else grant.holder
    # 1. The door.
    door = records.tables.doors.get(request.door)
    if door is None:
        return Decision("deny", "unknown_door")

    at = taken_at(request)
    holding = None if grant is None else holding_of(records, grant.holder)
    pin = _pin(records, request, holding)
    duress = pin is not None and pin.duress and is_usable(pin, at)
    # 2. Leaving is nobody's entitlement.
    if request.side == "out" and door.egress:
        return Decision("grant", "egress", holder, None, duress)
    # 3. What verification said.
    if isinstance(presented, str):
        return Decision("deny", presented)
    verdicts = _verdicts(records, presented, holding, door, request, at, pin)
    outcome, reason, via = next(verdicts)
    return Decision(outcome, reason, holder, via, duress)


def _verdicts(
    records: Entitlements,
    grant: CarriedGrant,
    holding: Holding | None,
    door: Door,
    request: Request,
    at: datetime,
    pin: Credential | None,
) -> Iterator[Verdict]:
    """What steps 4 to 13 say, in their order."""
    tables = records.tables
    policy = tables.policy
    as_of = at if request.as_of is None else request.as_of
    newer = grant.issued > as_of
    entered = door.to_zone if request.side == "in" else door.from_zone
    strict = request.clock == "untrusted" and policy.untrusted_clock == "deny_timebound"
    persona = None if holding is None else holding.holder.persona

    # 4. The grant's own record, if there is one, and its window.
    record = records.find("qr", grant.record)
    if record is not None:
        yield from credential_denials(record, at)
    if at < grant.not_before:
        yield Verdict("deny", "credential_not_yet_valid")
    if at >= grant.expires:
        yield Verdict("deny", "credential_expired")
    # 5 and 6. The holder, where the records know more of them than the grant does.
    if not newer:
        if holding is None:
            yield Verdict("deny", "holder_unknown")
        else:
            yield from holder_denials(holding.holder, policy, at)
    # 7. Lockdown.
    if request.lockdown and persona not in policy.lockdown_exempt_personas:
        yield Verdict("deny", "lockdown")
    # 8. The age of the records.
    age_max = policy.max_age.get(tables.zones[entered].category)
    stale = age_max is not None and at >= later(as_of, age_max)
    if stale and persona not in policy.max_age_exempt_personas:
        yield Verdict("deny", "entitlements_stale")
    # 9. A `deny` exception.
    if not newer and holding is not None:
        forbidden = deny_exception(holding, door, entered, at, strict=strict)
        if forbidden is not None:
            yield forbidden
    # 10. The door.
    if door.id not in grant.doors and entered not in grant.zones:
        yield Verdict("deny", "no_entitlement")
    # 11. A window needs a clock.
    if strict:
        yield Verdict("deny", "clock_untrusted")
    # 12. A PIN as well.
    second_factor = door.second_factor_schedule
    if second_factor is not None and records.hours[second_factor].is_open(at):
        if holding is None or not any(is_usable(each, at) for each in holding.pins):
            yield Verdict("deny", "no_pin")
        elif request.credentials[-1].kind != "pin":
            yield Verdict("challenge", "pin_required", grant.id)
        elif pin is None or not is_usable(pin, at):
            yield Verdict("deny", "wrong_pin")
    # 13. The grant stands.
    yield Verdict("grant", "carried", grant.id)


def _pin(records: Entitlements, request: Request, holding: Holding | None) -> Credential | None:
    """The record of the PIN presented, if there is one and it is this holder's."""
    last = request.credentials[-1]
    if last.kind != "pin" or holding is None:
        return None
    found = records.find("pin", last.value)
    return found if found is not None and found.holder == holding.holder.id else None
