"""What bundles by one key alone changed lately: many small changes count as the large one."""

import hashlib
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from functools import reduce
from itertools import chain
from typing import NamedTuple

from gateway.domain.impact import HOLDERS_NAMED_MAX, LIMITS, Grant, Impact, Limits

HOLDERS_MAX = 5_000
"""The most that may be let into restricted zones within the window: they are remembered."""

GRANTS_MAX = 500
"""Of those taken, and of those given, so many are remembered one by one: what many people do on an
ordinary day. Whatever is taken beyond counts each time."""

_HOUR = timedelta(hours=1)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Hour(NamedTuple):
    """What they changed in one hour, each against what the one before it had left."""

    number: int
    """Since 1970."""
    grants_before: int
    hours_before: float
    """In force before the first of them."""
    taken: int
    """Beside those in `grants_taken`."""
    given: int
    narrowed: int
    widened: int
    hours_taken: float
    hours_given: float
    restricted_holders: tuple[str, ...]
    """What stands for their ids, 16 characters each: whoever comes again counts once."""
    grants_taken: tuple[str, ...] = ()
    """What stands for holder and door: one that is given and taken again and again counts once, so
    that nobody who books and cancels a room all day keeps a lost card in force."""
    grants_given: tuple[str, ...] = ()
    holders_taken: tuple[str, ...] = ()
    """What stands for whose they are, as many as are ever asked for."""
    holders_given: tuple[str, ...] = ()


Recent = tuple[Hour, ...]
"""The hours of the window in which something changed, the earliest first."""


def reasons(change: Impact, recent: Recent, limits: Limits = LIMITS) -> tuple[str, ...]:
    """Why a change needs a second signature, for itself or with what came before it."""
    alone = change.needs_second_signature(limits)
    if alone or not recent:
        return alone
    hours = limits.window // _HOUR
    together = _together(change, recent).needs_second_signature(limits)
    return tuple(f"with what came in the {hours} h before it {reason}" for reason in together)


def with_change(recent: Recent, change: Impact, at: datetime) -> Recent:
    """What is recent once the change is in force."""
    if change.first:
        return recent
    hour = _hour(change, at, recent)
    if not any(hour[3:]):
        return recent
    taken, given = frozenset(hour.grants_taken), frozenset(hour.grants_given)
    before = (
        each._replace(
            grants_taken=tuple(one for one in each.grants_taken if one not in taken),
            grants_given=tuple(one for one in each.grants_given if one not in given),
        )
        for each in recent
    )
    return _by_hour((*before, hour))


def still_recent(recent: Recent, at: datetime, limits: Limits = LIMITS) -> Recent:
    """What of it counts at `at`: up to an hour more than the window.

    An hour ahead, as after a clock was set back, becomes the present one: it must neither be
    forgotten nor count for years.
    """
    now = (at - _EPOCH) // _HOUR
    begins = now - limits.window // _HOUR
    return _by_hour(
        hour._replace(number=min(hour.number, now)) for hour in recent if hour.number >= begins
    )


def _together(change: Impact, recent: Recent) -> Impact:
    """All of it as one change. What one took and another gave back counts as both, so no order of
    steps makes less of more, but the same holder's same door once each. A change that takes nothing
    is not charged with what others took, nor one that gives nothing with what they gave: there is
    no harm in it.
    """
    sums = reduce(_joined, recent)
    grants_taken = {*map(_named, change.grants_taken), *sums.grants_taken}
    grants_given = {*map(_named, change.grants_given), *sums.grants_given}
    taken = change.taken - len(change.grants_taken) + sums.taken + len(grants_taken)
    given = change.given - len(change.grants_given) + sums.given + len(grants_given)
    takes = bool(change.taken or change.narrowed)
    gives = bool(change.given or change.widened)
    opened = {*map(_short, change.restricted_holders), *sums.restricted_holders}
    return change._replace(
        grants_before=sums.grants_before,
        grants_after=max(1, change.grants_after),  # who empties a site is refused for that alone
        taken=taken if takes else 0,
        given=given if gives else 0,
        narrowed=change.narrowed + sums.narrowed if takes else 0,
        widened=change.widened + sums.widened if gives else 0,
        hours_before=sums.hours_before,
        hours_taken=change.hours_taken + sums.hours_taken if takes else 0.0,
        hours_given=change.hours_given + sums.hours_given if gives else 0.0,
        restricted_holders=tuple(sorted(opened)) if change.restricted_holders else (),
        holders_taken=_some(map(_short, change.holders_taken), sums.holders_taken) if takes else (),
        holders_given=_some(map(_short, change.holders_given), sums.holders_given) if gives else (),
    )


def _hour(change: Impact, at: datetime, recent: Recent) -> Hour:
    taken = _remembered(change.grants_taken, (hour.grants_taken for hour in recent))
    given = _remembered(change.grants_given, (hour.grants_given for hour in recent))
    return Hour(
        (at - _EPOCH) // _HOUR,
        change.grants_before,
        change.hours_before,
        change.taken - len(taken),
        change.given - len(given),
        change.narrowed,
        change.widened,
        change.hours_taken,
        change.hours_given,
        tuple(map(_short, change.restricted_holders)),
        taken,
        given,
        _some(map(_short, change.holders_taken)),
        _some(map(_short, change.holders_given)),
    )


def _remembered(grants: tuple[Grant, ...], before: Iterable[tuple[str, ...]]) -> tuple[str, ...]:
    """What stands for them; nothing where there is no room for all."""
    found = tuple(map(_named, grants))
    return found if len({*found, *chain.from_iterable(before)}) <= GRANTS_MAX else ()


def _named(grant: Grant) -> str:
    return _short("\x1f".join(grant))


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _by_hour(hours: Iterable[Hour]) -> Recent:
    found: dict[int, Hour] = {}
    for hour in hours:
        before = found.get(hour.number)
        found[hour.number] = hour if before is None else _joined(before, hour)
    return tuple(found.values())


def _joined(first: Hour, then: Hour) -> Hour:
    return first._replace(
        taken=first.taken + then.taken,
        given=first.given + then.given,
        narrowed=first.narrowed + then.narrowed,
        widened=first.widened + then.widened,
        hours_taken=first.hours_taken + then.hours_taken,
        hours_given=first.hours_given + then.hours_given,
        restricted_holders=_either(first.restricted_holders, then.restricted_holders),
        grants_taken=_either(first.grants_taken, then.grants_taken),
        grants_given=_either(first.grants_given, then.grants_given),
        holders_taken=_some(first.holders_taken, then.holders_taken),
        holders_given=_some(first.holders_given, then.holders_given),
    )


def _some(*holders: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted({*chain.from_iterable(holders)})[:HOLDERS_NAMED_MAX])


def _either(some: tuple[str, ...], others: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(sorted({*some, *others}))
