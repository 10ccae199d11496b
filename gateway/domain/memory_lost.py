"""The safest meaning of a remembered value that can't be read any more.

It must open nothing that the value kept shut: who was locked out stays locked out, what was used
up stays used up. It keeps nobody in: the way out asks no memory.
"""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from gateway.domain.memory import (
    UNKNOWN_ZONE,
    BreakGlassCounter,
    BreakGlassWindow,
    Count,
    Ordered,
    PinRow,
    Place,
    Remembered,
    Spent,
    TagCounter,
    Uses,
)
from gateway.domain.pin_lockout import DOOR_LOCKOUT_MAX, HOLDER_LOCKOUT

MANY = 2**53
"""More uses than any credential has, and a counter above each that a tag or a code can reach."""

_NEVER = datetime(9999, 1, 1, tzinfo=UTC)


class Moment(NamedTuple):
    """The present, by both clocks."""

    wall: datetime
    mono: timedelta


class Lost(NamedTuple):
    """A remembered value that was lost, and its replacement."""

    what: str
    """The kind of value: the first part of its key."""
    value: Remembered | None
    """None where forgetting it opens nothing."""
    instead: str
    """The meaning of that for people at the doors, and the way back."""
    holder: str | None = None
    credential: str | None = None
    grant: str | None = None
    about: str = ""
    """The door, zone, role or command, where it is about none of these."""


_Make = Callable[[Moment], Remembered | None]


def _ordered(mode: str, at: Moment) -> Ordered:
    why = "what was ordered can't be read any more"
    return Ordered(mode=mode, by="gateway", why=why, at=at.wall)  # type: ignore[arg-type]


_SAFEST: dict[str, tuple[_Make, str]] = {
    "pin/door/": (
        lambda at: PinRow(lockouts=9, until=at.mono + DOOR_LOCKOUT_MAX),
        "PINs are locked out at this door for the longest time",
    ),
    "pin/holder/": (
        lambda at: PinRow(lockouts=9, until=at.mono + HOLDER_LOCKOUT),
        "this holder's PINs are locked out until forgive --holder",
    ),
    "uses/": (
        lambda _: Uses(count=MANY),
        "this credential counts as used up: give it another id",
    ),
    "sun/": (
        lambda _: TagCounter(seen=MANY),
        "this tag is refused as a replay: give its credential another id",
    ),
    "grant/": (
        lambda _: Spent(count=MANY, expires=_NEVER),
        "this carried grant counts as used up: issue another",
    ),
    "command/": (
        lambda _: Spent(count=MANY, expires=_NEVER),
        "this command stays spent",
    ),
    "place/": (
        lambda at: Place(zone=UNKNOWN_ZONE, door="", at=at.wall, since=at.mono),
        "doors with hard anti-passback refuse this holder until forgive --holder",
    ),
    "count/": (
        lambda _: Count(people=MANY),
        "this zone counts as full until forgive --zone",
    ),
    "hand/": (
        lambda at: _ordered("blocked", at),
        "this door is blocked until release --door",
    ),
    "lockdown/": (
        lambda at: _ordered("lockdown", at),
        "the lockdown goes on until release",
    ),
    "evacuation/": (
        lambda _: None,
        "the evacuation has ended: order it again if it is needed",
    ),
}

_BREAK_GLASS_CODES = (
    lambda _: BreakGlassCounter(next=MANY),
    "codes of this secret are refused: give the role a further secret",
)
_BREAK_GLASS_WINDOW = (
    lambda at: BreakGlassWindow(until=at.mono),
    "the hours of this role are over until forgive --role",
)
_HARMLESS = (lambda _: None, "it is forgotten")


def lost(key: str, at: Moment) -> Lost:
    """Return what counts in place of the value under `key`."""
    prefix = next((each for each in _SAFEST if key.startswith(each)), "")
    make: _Make
    if prefix:
        make, instead = _SAFEST[prefix]
        rest = key.removeprefix(prefix)
    else:
        kind, _, rest = key.partition("/")
        make, instead = _break_glass(rest) if kind == "break_glass" else _HARMLESS
    member = _MEMBERS.get(prefix, "about")
    what = key.partition("/")[0][:32]
    return Lost(what, make(at), instead, **{member: rest[:200]})


def _break_glass(rest: str) -> tuple[_Make, str]:
    role, _, part = rest.partition("/")
    del role
    if part == "window":
        return _BREAK_GLASS_WINDOW
    return _BREAK_GLASS_CODES if part.isdecimal() else _HARMLESS


_MEMBERS = {
    "pin/holder/": "holder",
    "place/": "holder",
    "uses/": "credential",
    "sun/": "credential",
    "grant/": "grant",
}
