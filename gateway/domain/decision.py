"""Who may pass: a pure function of entitlement records and one request (docs/spec/decision.md)."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Literal, NamedTuple

import msgspec

from gateway.domain.entitlements import Entitlements, Holding
from gateway.domain.instants import later, parse_instant
from gateway.domain.json_text import JsonError, decode_object
from gateway.domain.records import (
    ALWAYS,
    TIMEBOUND,
    AccessException,
    Booking,
    Credential,
    Door,
    Group,
    Holder,
    Policy,
)
from gateway.errors import RequestError

Side = Literal["in", "out"]
ClockTrust = Literal["trusted", "untrusted"]
Outcome = Literal["grant", "deny", "challenge"]

_NO_AGE = timedelta(0)


class PresentedCredential(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """What a reader read; `kind` and `value` may be any strings."""

    kind: str
    value: str

    def __repr__(self) -> str:
        """Without the value: a credential is never printed."""
        return f"PresentedCredential(kind={self.kind!r})"


class Request(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One question to `decide`. Its instants are aware and in UTC."""

    door: str
    side: Side = "in"
    credentials: tuple[PresentedCredential, ...]
    """One, or one that is not a `pin` followed by one `pin`."""
    at: datetime
    clock: ClockTrust = "trusted"
    lockdown: bool = False
    as_of: datetime | None = None
    """When the source of truth last vouched for the records; `at` itself where it is None."""


class Decision(msgspec.Struct, frozen=True, gc=False):
    """The answer: `outcome`, why, and who and what it is about."""

    outcome: Outcome
    reason: str
    holder: str | None = None
    via: str | None = None
    duress: bool = False


class Tap(msgspec.Struct, frozen=True, gc=False):
    """A request that steps 1 to 3 let pass, with everything that the other steps look at."""

    records: Entitlements
    door: Door
    entered: str
    """The zone entered."""
    at: datetime
    """The `at` that is taken."""
    age: timedelta
    """How long before `at` the records were vouched for. An instant later it is the same."""
    strict: bool
    lockdown: bool
    primary: Credential
    """The record of the first credential presented."""
    pin_presented: bool
    pin: Credential | None
    """The record of the PIN presented, if there is one and it is this holder's."""
    holding: Holding


class Verdict(NamedTuple):
    """What one step says."""

    outcome: Outcome
    reason: str
    via: str | None = None


def decide(records: Entitlements, request: Request) -> Decision:
    """Decide one request on the records in force. Pure, and never raises."""
    tap = look_up(records, request)
    return tap if isinstance(tap, Decision) else decide_tap(tap)


def decide_tap(tap: Tap) -> Decision:
    """Decide what steps 1 to 3 let pass."""
    outcome, reason, via = next(verdicts(tap))
    return Decision(outcome, reason, tap.primary.holder, via, _is_duress(tap.pin, tap.at))


def taken_at(request: Request) -> datetime:
    """The `at` that is taken: an untrusted clock can't be before `as_of`."""
    if request.clock == "untrusted" and request.as_of is not None and request.at < request.as_of:
        return request.as_of
    return request.at


def look_up(records: Entitlements, request: Request) -> Tap | Decision:
    """Steps 1 to 3, which stand alone; what they let pass, with its records looked up."""
    tables = records.tables
    # 1. The door.
    door = tables.doors.get(request.door)
    if door is None:
        return Decision("deny", "unknown_door")

    at = taken_at(request)
    first = request.credentials[0]
    last = request.credentials[-1]
    primary = records.find(first.kind, first.value)
    pin = None
    if primary is not None and last.kind == "pin":
        # Of all credentials with a value only the one that is meant can be other than `returned`,
        # so it is the only one that step 4 could let pass.
        pin = primary if last is first else records.find(last.kind, last.value)
        if pin is not None and pin.holder != primary.holder:
            pin = None

    # 2. Leaving is nobody's entitlement.
    if request.side == "out" and door.egress:
        holder = None if primary is None else primary.holder
        return Decision("grant", "egress", holder, None, _is_duress(pin, at))
    # 3. The credential.
    if primary is None:
        return Decision("deny", "unknown_credential")

    tap = tap_of(records, request, door, primary, records.holding(primary.holder))
    return msgspec.structs.replace(tap, pin_presented=last.kind == "pin", pin=pin)


def tap_of(
    records: Entitlements, request: Request, door: Door, primary: Credential, holding: Holding
) -> Tap:
    """What the steps after the third look at, where no PIN was presented."""
    at = taken_at(request)
    deny_timebound = records.tables.policy.untrusted_clock == "deny_timebound"
    return Tap(
        records,
        door,
        door.to_zone if request.side == "in" else door.from_zone,
        at,
        _NO_AGE if request.as_of is None else at - request.as_of,
        request.clock == "untrusted" and deny_timebound,
        request.lockdown,
        primary,
        False,
        None,
        holding,
    )


def verdicts(tap: Tap) -> Iterator[Verdict]:
    """What steps 4 to 14 say, in their order: every denial and challenge, last a grant that stands.

    The first is the decision. The others are for the explanation, and are not worked out before
    they are asked for.
    """
    at = tap.at
    credential = tap.primary
    holder = tap.holding.holder
    tables = tap.records.tables
    policy = tables.policy

    # 4. The credential's status, then its span.
    yield from credential_denials(credential, at)
    # 5 and 6. The membership, then payment.
    yield from holder_denials(holder, policy, at)
    # 7. Lockdown.
    if tap.lockdown and holder.persona not in policy.lockdown_exempt_personas:
        yield Verdict("deny", "lockdown")
    # 8. The age of the records.
    if policy.max_age:
        age_max = policy.max_age.get(tables.zones[tap.entered].category)
        if (
            age_max is not None
            and tap.age >= age_max
            and holder.persona not in policy.max_age_exempt_personas
        ):
            yield Verdict("deny", "entitlements_stale")
    # 9. A `deny` exception.
    forbidden = deny_exception(tap.holding, tap.door, tap.entered, at, strict=tap.strict)
    if forbidden is not None:
        yield forbidden

    # 10. A grant.
    grant = _find_grant(tap, strict=tap.strict)
    if grant is None:
        if tap.strict and _find_grant(tap, strict=False) is not None:
            yield Verdict("deny", "clock_untrusted")
            return
        # 11. No grant.
        yield _no_grant(tap)
        return

    second_factor = tap.door.second_factor_schedule
    asks_second_factor = second_factor is not None and (
        tap.strict or tap.records.hours[second_factor].is_open(at)
    )
    if credential.kind == "pin":
        # 12. A PIN alone.
        if not tap.door.pin_alone:
            yield Verdict("deny", "pin_not_accepted")
        if asks_second_factor:
            yield Verdict("deny", "second_factor_required")
    elif asks_second_factor:
        # 13. A PIN as well.
        if not any(is_usable(pin, at) for pin in tap.holding.pins):
            yield Verdict("deny", "no_pin")
        elif not tap.pin_presented:
            yield Verdict("challenge", "pin_required", grant.via)
        elif tap.pin is None or not is_usable(tap.pin, at):
            yield Verdict("deny", "wrong_pin")
    # 14. The grant stands, where nothing above was said.
    yield grant


def credential_denials(credential: Credential, at: datetime) -> Iterator[Verdict]:
    """What step 4 says against a credential: its status, then its span."""
    if credential.status != "active":
        yield Verdict("deny", f"credential_{credential.status}")
    if _is_before(at, credential.valid_from):
        yield Verdict("deny", "credential_not_yet_valid")
    if _is_past(at, credential.valid_until):
        yield Verdict("deny", "credential_expired")


def holder_denials(holder: Holder, policy: Policy, at: datetime) -> Iterator[Verdict]:
    """What steps 5 and 6 say against a holder: the membership's status, its span, payment."""
    if holder.status != "active":
        yield Verdict("deny", f"membership_{holder.status}")
    if _is_before(at, holder.valid_from):
        yield Verdict("deny", "membership_not_started")
    if _is_past(at, holder.valid_until):
        yield Verdict("deny", "membership_ended")
    if holder.delinquent_since is not None and at >= later(holder.delinquent_since, policy.grace):
        yield Verdict("deny", "payment_overdue")


def deny_exception(
    holding: Holding, door: Door, entered: str, at: datetime, *, strict: bool
) -> Verdict | None:
    """Step 9. A clock that may be slow can't say that an exception's span hasn't begun."""
    for exception in holding.exceptions:
        if (
            exception.effect == "deny"
            and (door.id in exception.doors or entered in exception.zones)
            and at < exception.until
            and (strict or at >= exception.from_)
        ):
            return Verdict("deny", "exception", exception.id)
    return None


def covering_groups(tap: Tap) -> list[Group]:
    """The holder's groups that cover the door, whenever their schedules are open."""
    groups = tap.records.tables.groups
    return [
        groups[group_id] for group_id in tap.holding.holder.groups if _covers(groups[group_id], tap)
    ]


def is_usable(credential: Credential, at: datetime) -> bool:
    """Whether step 4 would let `credential` pass at `at`."""
    return (
        credential.status == "active"
        and not _is_before(at, credential.valid_from)
        and not _is_past(at, credential.valid_until)
    )


def window(booking: Booking, policy: Policy) -> tuple[datetime, datetime]:
    """[from, until) in which `booking` counts."""
    before = policy.booking_before if booking.before is None else booking.before
    after = policy.booking_after if booking.after is None else booking.after
    return booking.start - before, later(booking.end, after)


def _find_grant(tap: Tap, *, strict: bool) -> Verdict | None:
    """Step 10: the first grant there is."""
    tables = tap.records.tables
    # 10.1 Groups. The holder's are in order, so the first is the smallest.
    for group_id in tap.holding.holder.groups:
        group = tables.groups[group_id]
        if _covers(group, tap) and (
            group.schedule == ALWAYS if strict else _is_group_open(group, tap)
        ):
            return Verdict("grant", "group", group_id)
    if strict:
        return None
    # 10.2 Bookings, in order as well.
    for booking in tap.holding.bookings:
        if booking.status == "confirmed" and _covers(booking, tap) and _is_in_window(booking, tap):
            return Verdict("grant", "booking", booking.id)
    # 10.3 Exceptions, in order as well.
    for exception in tap.holding.exceptions:
        if (
            exception.effect == "allow"
            and _covers(exception, tap)
            and exception.from_ <= tap.at < exception.until
        ):
            return Verdict("grant", "exception", exception.id)
    return None


def _is_group_open(group: Group, tap: Tap) -> bool:
    """Whether the schedule of `group`, which covers the door, is open for the holder."""
    if group.schedule != TIMEBOUND:
        return tap.records.hours[group.schedule].is_open(tap.at)
    bookable = _enters_bookable(tap)
    return any(
        booking.status == "confirmed"
        and (not bookable or _covers(booking, tap))
        and _is_in_window(booking, tap)
        for booking in tap.holding.bookings
    )


def _no_grant(tap: Tap) -> Verdict:
    """Step 11: why there is no grant."""
    groups = tap.records.tables.groups
    way_to_bookings = False
    for group_id in tap.holding.holder.groups:
        group = groups[group_id]
        if _covers(group, tap):
            if group.schedule != TIMEBOUND:
                return Verdict("deny", "outside_schedule", group_id)
            way_to_bookings = True
    any_door = way_to_bookings and not _enters_bookable(tap)
    windows = [
        (window(booking, tap.records.tables.policy), booking.id)
        for booking in tap.holding.bookings
        if booking.status == "confirmed" and (any_door or _covers(booking, tap))
    ]
    # Bookings are in the order of their ids, so the first of equals is the smallest.
    to_come = [(begin, booking_id) for (begin, _), booking_id in windows if tap.at < begin]
    if to_come:
        return Verdict("deny", "booking_not_started", min(to_come)[1])
    if windows:
        _, booking_id = max(windows, key=lambda each: each[0][1])
        return Verdict("deny", "booking_over", booking_id)
    return Verdict("deny", "no_entitlement")


def _covers(what: Group | Booking | AccessException, tap: Tap) -> bool:
    return tap.door.id in what.doors or tap.entered in what.zones


def _enters_bookable(tap: Tap) -> bool:
    return tap.records.tables.zones[tap.entered].category == "bookable"


def _is_in_window(booking: Booking, tap: Tap) -> bool:
    begin, end = window(booking, tap.records.tables.policy)
    return begin <= tap.at < end


def _is_before(at: datetime, valid_from: datetime | None) -> bool:
    return valid_from is not None and at < valid_from


def _is_past(at: datetime, valid_until: datetime | None) -> bool:
    return valid_until is not None and at >= valid_until


def _is_duress(pin: Credential | None, at: datetime) -> bool:
    return pin is not None and pin.duress and is_usable(pin, at)


class _RequestForm(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The members of a request in JSON. None has a null."""

    door: str
    side: Side = "in"
    credentials: tuple[PresentedCredential, ...]
    at: str
    clock: ClockTrust = "trusted"
    lockdown: bool = False
    as_of: str | msgspec.UnsetType = msgspec.UNSET


def parse_request(line: bytes | str) -> Request:
    """The request that stands on `line`, one JSON object.

    Raises:
        RequestError: It has another form than docs/spec/decision.md's; the text has no credential.
    """
    try:
        members, repeated = decode_object(line)
        if repeated:
            raise RequestError(f"{min(repeated)}: given twice")
        form = msgspec.convert(members, _RequestForm)
    except (JsonError, msgspec.ValidationError) as error:
        raise RequestError(str(error)) from None
    kinds = [credential.kind for credential in form.credentials]
    if len(kinds) != 1 and (len(kinds) != 2 or kinds[0] == "pin" or kinds[1] != "pin"):
        raise RequestError("credentials: neither one, nor one that is not a pin and then one pin")
    return Request(
        door=form.door,
        side=form.side,
        credentials=form.credentials,
        at=_instant("at", form.at),
        clock=form.clock,
        lockdown=form.lockdown,
        as_of=None if form.as_of is msgspec.UNSET else _instant("as_of", form.as_of),
    )


def _instant(member: str, text: str) -> datetime:
    try:
        return parse_instant(text)
    except ValueError as error:
        raise RequestError(f"{member}: {error}") from None
