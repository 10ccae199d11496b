"""Opens a door once by an operator's word on the box, the way that a signed command does."""

from datetime import timedelta
from typing import Final, Protocol

from gateway.clock import Clock
from gateway.control.door import RemoteOutcome
from gateway.domain import events
from gateway.errors import OrderRefused

OPENS_WITHIN = timedelta(seconds=10)
"""The person who asked still looks at the door; a board that answers later opens nothing."""

_WHY_NOT: Final = {
    "blocked": "its mode is `blocked`. Set another mode first (door-gateway door mode)",
    "lockdown": "it is in lockdown. Release the lockdown first (door-gateway door release)",
    "interlock": "another door of its interlock may be open. Close that one first",
    "second_person_required": "two people must identify at this door; nobody opens it alone",
    "not_recorded": "the order could not be written to disk, and nothing opens without that",
    "offline": "its relay board does not answer",
    "unconfirmed": "its relay board did not confirm the release. Look at the door: it may be open",
    "expired": f"its relay board was not free within {OPENS_WITHIN.seconds} s",
}


class OpenedDoors(Protocol):
    """The site's doors, as somebody sees them who opens one."""

    @property
    def door_ids(self) -> tuple[str, ...]:
        """The doors that this box controls."""

    async def remote_unlock(
        self, door: str, event: events.RemoteUnlock, until: timedelta
    ) -> RemoteOutcome:
        """Release a door by the right of `event`, before `until` (monotonic)."""


async def open_once(doors: OpenedDoors, clock: Clock, door: str, *, by: str, why: str) -> int:
    """Release a door for its own unlock time; the number of the event that says so.

    Raises:
        OrderRefused: there is no such door, or it or its board says no.
    """
    if door not in doors.door_ids:
        raise OrderRefused(f"no door {door!r}; there are: {', '.join(doors.door_ids)}")
    event = events.RemoteUnlock(
        at=clock.now(), trust=int(clock.trust()), door=door, by=by, why=why, command=""
    )
    outcome = await doors.remote_unlock(door, event, clock.monotonic() + OPENS_WITHIN)
    if outcome.failed is not None or outcome.seq is None:
        failed = outcome.failed or "not_recorded"
        raise OrderRefused(f"{door}: not opened: {_WHY_NOT.get(failed, failed)}")
    return outcome.seq
