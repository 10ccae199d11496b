"""What the rules after the decision look at: one decided request and what the site knows besides.

Each rule is a module of its own: `why_not(case)` gives its reason to make a denial of a grant, or
None; where it counts something, `after(case)` says what to remember once the grant stands.
"""

from datetime import timedelta
from typing import Literal

import msgspec

from gateway.domain.carried_grant import CarriedGrant
from gateway.domain.decision import Decision, Request
from gateway.domain.entitlements import Entitlements
from gateway.domain.memory import Memory
from gateway.domain.records import Credential, Door

Assurance = Literal["low", "medium", "high", "highest"]
"""How much a credential proves, or is asked to prove."""


class Surroundings(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the rules look at that is neither in the records nor remembered."""

    blocked: bool = False
    """The door's mode lets nobody in."""
    unsecured: tuple[str, ...] = ()
    """Doors of the same interlock that may be open, or be opened, at this moment."""
    antipassback_forgets: timedelta | None = None
    """How long a place counts (timed anti-passback); None: until the holder leaves it."""
    least_assurance: Assurance = "low"
    """What the door and the zone entered ask of a credential, the higher of the two."""
    counter: int | None = None
    """The counter that the first credential presented proved itself with, where it has one."""
    tap: timedelta | None = None
    """The monotonic moment of the tap, where its reader has several doors: the same at all of them,
    so that one tap counts once. None at a reader of one door."""


class Case(msgspec.Struct, frozen=True):
    """One decided request at one door."""

    records: Entitlements
    door: Door
    request: Request
    decision: Decision
    memory: Memory
    now: timedelta
    """Monotonic."""
    around: Surroundings
    grant: CarriedGrant | None = None
    """What was decided by, where it was carried and no record."""

    @property
    def entered(self) -> str:
        """The zone that whoever passes is in then."""
        return self.door.to_zone if self.request.side == "in" else self.door.from_zone

    @property
    def with_pin(self) -> bool:
        """Whether a PIN was presented, alone or after something else."""
        return self.request.credentials[-1].kind == "pin"

    @property
    def pin_alone(self) -> bool:
        """Whether a PIN is all that was presented."""
        return self.request.credentials[0].kind == "pin"

    def presented(self) -> tuple[Credential, ...]:
        """The records of what was presented, where they are in one and of this holder."""
        found = (self.records.find(each.kind, each.value) for each in self.request.credentials)
        return tuple(each for each in found if each and each.holder == self.decision.holder)
