"""Which cards a controller's own list may have, so that it opens no wider without the gateway.

Such a list knows a card's number, its first and last day and, for each door, the hours at which it
opens (own_hours.py). What the records say beyond that can't be told to it, so whoever it concerns
is left out.
"""

from collections.abc import Mapping
from datetime import date, datetime, timedelta
from typing import Final
from zoneinfo import ZoneInfo

import msgspec

from gateway.domain.after_decision import Case, Surroundings
from gateway.domain.decision import (
    ClockTrust,
    Decision,
    PresentedCredential,
    Request,
    Side,
    covering_groups,
    decide,
    look_up,
)
from gateway.domain.entitlements import Entitlements, Holding
from gateway.domain.instants import later
from gateway.domain.own_hours import AT_ANY_HOUR, DAYS, Hours, Weeks
from gateway.domain.records import ALWAYS, TIMEBOUND, Credential, Door
from gateway.domain.restrictions import restrict

CLOCK_MARGIN: Final = timedelta(hours=1)
"""What the controller's clock may be slow: its last day ends so long before the entitlement."""


class ListedCard(msgspec.Struct, frozen=True):
    """A card on a controller's list: its days, both included, and for each of the controller's
    doors `ANY_TIME` or the number of a profile. No doors: it means what can't be said so.
    """

    first: date
    last: date
    doors: Mapping[int, int]


class Allowance(msgspec.Struct, frozen=True):
    """What the list may say of a card: its days, and for each of the controller's doors when."""

    first: date
    last: date
    doors: Mapping[int, Hours]


class Moment(msgspec.Struct, frozen=True):
    """When, and how old the records are."""

    now: datetime
    as_of: datetime
    mono: timedelta
    clock: ClockTrust = "trusted"


def allowance(
    records: Entitlements, value: str, doors: Mapping[int, str], moment: Moment, weeks: Weeks
) -> Allowance | None:
    """What the list may say of a Wiegand card, None if nothing.

    Args:
        records: Those in force.
        value: The card, as a record has it.
        doors: The controller's doors, by its own numbers; none whose mode keeps people out.
        moment: Now.
        weeks: Of the same records, now.
    """
    credential = records.find("wiegand", value)
    if credential is None or credential.max_uses is not None:
        return None
    records = _AtHand(records, credential)
    zone = ZoneInfo(records.tables.site.timezone)
    today = moment.now.astimezone(zone).date()
    last = today + timedelta(days=DAYS - 1)
    opened: dict[int, Hours] = {}
    for number, door_id in doors.items():
        door = records.tables.doors.get(door_id)
        if door is None or not _is_plain(door):
            continue
        hours = _hours(records, value, door, moment, weeks)
        if not hours:
            continue
        end = _end(records, credential, door, moment)
        if end is None:
            opened[number] = hours
            continue
        # The last day that is over, by a clock that may be slow, before the entitlement is.
        whole = (end - CLOCK_MARGIN).astimezone(zone).date() - timedelta(days=1)
        if whole >= today:
            last = min(last, whole)
            opened[number] = hours
    return Allowance(today, last, opened) if opened else None


class _AtHand:
    """Entitlements that are asked about one card again and again: it is looked up once."""

    def __init__(self, records: Entitlements, card: Credential) -> None:
        self.tables = records.tables
        self.hours = records.hours
        self._card = card
        self._holding = records.holding(card.holder)

    def find(self, kind: str, value: str) -> Credential | None:
        """See `Entitlements.find`. Nothing else is presented."""
        del kind, value
        return self._card

    def holding(self, holder_id: str) -> Holding:
        """See `Entitlements.holding`. Nobody else's is asked for."""
        del holder_id
        return self._holding


def _is_plain(door: Door) -> bool:
    """Whether nothing at the door needs a memory or a second factor, at any hour."""
    return (
        door.second_factor_schedule is None
        and door.antipassback == "off"
        and not door.two_person
        and door.interlock is None
        and door.max_occupancy is None
    )


def _hours(
    records: Entitlements, value: str, door: Door, moment: Moment, weeks: Weeks
) -> Hours | None:
    """By which schedules the card's groups let it pass the door, by each side that takes one."""
    sides: tuple[Side, ...] = ("in",) if door.egress else ("in", "out")
    timed: list[Hours] = []
    for side in sides:
        tap = look_up(records, _request(door, side, value, moment, moment.now))
        if isinstance(tap, Decision):
            return None
        schedules = frozenset(group.schedule for group in covering_groups(tap))
        if ALWAYS not in schedules:
            timed.append(schedules - {TIMEBOUND})
    hours = frozenset.intersection(*timed) if timed else AT_ANY_HOUR
    if timed and moment.clock == "untrusted":
        return None  # the controller's clock isn't set by one that may be wrong
    at = weeks.opens_at(hours)
    if at is None:
        return None
    requests = (_request(door, side, value, moment, at) for side in sides)
    return hours if all(_lets_in(records, door, each, moment) for each in requests) else None


def _request(door: Door, side: Side, value: str, moment: Moment, at: datetime) -> Request:
    return Request(
        door=door.id,
        side=side,
        credentials=(PresentedCredential("wiegand", value),),
        at=at,
        clock=moment.clock,
        as_of=moment.as_of,
    )


def _lets_in(records: Entitlements, door: Door, request: Request, moment: Moment) -> bool:
    """Whether the gateway would let the card in, by a group."""
    decision = decide(records, request)
    if decision.outcome != "grant" or decision.reason != "group":
        return False
    case = Case(records, door, request, decision, {}, moment.mono, Surroundings())
    return restrict(case).decision.outcome == "grant"


def _end(
    records: Entitlements, credential: Credential, door: Door, moment: Moment
) -> datetime | None:
    """When the card will no longer be let in; None if the records name no such instant."""
    holding, policy = records.holding(credential.holder), records.tables.policy
    holder = holding.holder
    ends = [credential.valid_until, holder.valid_until]
    if holder.delinquent_since is not None:
        ends.append(later(holder.delinquent_since, policy.grace))
    if holder.persona not in policy.max_age_exempt_personas:
        for zone in (door.to_zone, door.from_zone):
            age_max = policy.max_age.get(records.tables.zones[zone].category)
            if age_max is not None:
                ends.append(later(moment.as_of, age_max))
    ends += [
        each.from_
        for each in holding.exceptions
        if each.effect == "deny" and each.until > moment.now
    ]
    return min((end for end in ends if end is not None), default=None)
