"""How much what was presented proves, and doors and zones that ask for more (docs/security.md)."""

from collections.abc import Iterable, Mapping
from typing import Final

from gateway.domain.after_decision import Assurance, Case
from gateway.domain.carried_grant import PROVEN
from gateway.domain.decision import is_usable, taken_at

TOO_LOW = "assurance_too_low"

ORDER: Final[tuple[Assurance, ...]] = ("low", "medium", "high", "highest")

OF_KIND: Final[Mapping[str, Assurance]] = {
    "sun": "medium",
    "desfire": "high",
    "pkoc": "high",
    PROVEN: "high",
}
"""Every other kind can be copied by whoever once saw it, or guessed: `low`."""


def least(*asked: Assurance) -> Assurance:
    """The most that is asked, where a door and the zone behind it both ask."""
    return max(asked, key=ORDER.index)


def reached(kinds: Iterable[str], *, with_pin: bool) -> Assurance:
    """The most that one of `kinds` proves; with a PIN after it, one more."""
    level = max((ORDER.index(OF_KIND.get(kind, "low")) for kind in kinds), default=0)
    return ORDER[min(level + with_pin, len(ORDER) - 1)]


def given(case: Case) -> Assurance:
    """What was presented proves so much; a PIN of the holder's after something else adds one."""
    first, *second = case.request.credentials
    # Only a PIN that was, or would have been, judged right: the decision ignores one unasked for.
    pins = (case.records.find(each.kind, each.value) for each in second)
    at = taken_at(case.request)
    right = any(pin and pin.holder == case.decision.holder and is_usable(pin, at) for pin in pins)
    return reached([first.kind], with_pin=right)


def why_not(case: Case) -> str | None:
    """It proves less than is asked for here."""
    asked = case.around.least_assurance
    return TOO_LOW if ORDER.index(given(case)) < ORDER.index(asked) else None
