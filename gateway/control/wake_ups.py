"""Has doors look at their modes exactly when a schedule opens or closes."""

from collections.abc import Callable
from datetime import datetime
from typing import Protocol

from gateway.clock import Clock
from gateway.domain.door_mode import LOOK_AHEAD
from gateway.jobs import Jobs


class Doors(Protocol):
    """The site's doors, as a wake-up sees them."""

    def look_at_modes(self) -> None:
        """Act on modes that have changed."""

    def next_mode_change(self) -> datetime | None:
        """The next instant at which the wall clock may change a mode, if it is near."""


class WakeUps:
    """One job at a time: the next change. `arm` it when the scheduler runs.

    It only wakes doors: which mode is in force is always worked out anew (domain/door_mode, from
    domain/schedule), and they look every few seconds anyway, as the clock may be set.
    """

    def __init__(
        self,
        jobs: Jobs,
        doors: Doors,
        clock: Clock,
        on_host: Callable[[datetime], datetime] = lambda at: at,
    ) -> None:
        """`on_host` gives what the host's own clock shows at an instant: the scheduler goes by
        that, which may be wrong by hours.
        """
        self._jobs = jobs
        self._doors = doors
        self._clock = clock
        self._on_host = on_host

    def look(self) -> None:
        """Have doors look now, and again at the next change."""
        self._doors.look_at_modes()
        self.arm()

    def arm(self) -> None:
        """Wake doors at the next change, or look for it again before it could be missed."""
        change = self._doors.next_mode_change()
        if change is None:
            change = self._clock.now() + LOOK_AHEAD / 2
        self._jobs.once(self._on_host(change), "modes", self._wake)

    async def _wake(self) -> None:
        # A coroutine, though it waits for nothing: the scheduler runs anything else in a thread,
        # where no door may be touched.
        self.look()
