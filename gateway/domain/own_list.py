"""Which cards a controller's own list may have, so that it opens no wider without the gateway.

Such a list knows a card's number, its first and last day and the doors that it opens at any hour.
What the records say beyond that can't be told to it, so whoever it concerns is left out.
"""

from collections.abc import Mapping
from datetime import date, datetime, timedelta
from typing import Final
from zoneinfo import ZoneInfo

import msgspec

from gateway.domain.after_decision import Case, Surroundings
from gateway.domain.decision import ClockTrust, PresentedCredential, Request, Side, decide
from gateway.domain.entitlements import Entitlements
from gateway.domain.instants import later
from gateway.domain.records import ALWAYS, Credential, Door
from gateway.domain.restrictions import restrict

DAYS: Final = 30
"""The longest that a list goes on without the gateway (docs/promises.md P5); it is written anew
every day."""

CLOCK_MARGIN: Final = timedelta(hours=1)
"""What the controller's clock may be slow: its last day ends so long before the entitlement."""


class ListedCard(msgspec.Struct, frozen=True):
    """What a controller is told of a card: the days, both included, and its own doors' numbers."""

    first: date
    last: date
    doors: frozenset[int]


class Moment(msgspec.Struct, frozen=True):
    """When, and how old the records are."""

    now: datetime
    as_of: datetime
    mono: timedelta
    clock: ClockTrust = "trusted"


def listed(
    records: Entitlements, value: str, doors: Mapping[int, str], moment: Moment
) -> ListedCard | None:
    """What the list may say of a Wiegand card, None if nothing.

    Args:
        records: Those in force.
        value: The card, as a record has it.
        doors: The controller's doors, by its own numbers; none whose mode keeps people out.
        moment: Now.
    """
    credential = records.find("wiegand", value)
    if credential is None or credential.max_uses is not None:
        return None
    zone = ZoneInfo(records.tables.site.timezone)
    today = moment.now.astimezone(zone).date()
    last, opened = today + timedelta(days=DAYS - 1), set()
    for number, door_id in doors.items():
        door = records.tables.doors.get(door_id)
        if door is None or not _is_plain(door) or not _lets_in(records, value, door, moment):
            continue
        end = _end(records, credential, door, moment)
        if end is None:
            opened.add(number)
            continue
        # The last day that is over, by a clock that may be slow, before the entitlement is.
        whole = (end - CLOCK_MARGIN).astimezone(zone).date() - timedelta(days=1)
        if whole >= today:
            last = min(last, whole)
            opened.add(number)
    return ListedCard(today, last, frozenset(opened)) if opened else None


def _is_plain(door: Door) -> bool:
    """Whether nothing at the door needs a memory or a second factor, at any hour."""
    return (
        door.second_factor_schedule is None
        and door.antipassback == "off"
        and not door.two_person
        and door.interlock is None
        and door.max_occupancy is None
    )


def _lets_in(records: Entitlements, value: str, door: Door, moment: Moment) -> bool:
    """Whether the gateway would let the card in now by a group that always counts."""
    sides: tuple[Side, ...] = ("in",) if door.egress else ("in", "out")
    for side in sides:
        request = Request(
            door=door.id,
            side=side,
            credentials=(PresentedCredential("wiegand", value),),
            at=moment.now,
            clock=moment.clock,
            as_of=moment.as_of,
        )
        decision = decide(records, request)
        if decision.outcome != "grant" or decision.reason != "group" or decision.via is None:
            return False
        if records.tables.groups[decision.via].schedule != ALWAYS:
            return False
        case = Case(records, door, request, decision, {}, moment.mono, Surroundings())
        if restrict(case).decision.outcome != "grant":
            return False
    return True


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
