"""One tap at a reader of several doors: one attempt, however many doors decide it."""

import asyncio
from collections.abc import Callable
from datetime import timedelta

from gateway.domain import events

ANSWERS_WAIT = timedelta(seconds=1)
"""How long a denial waits for what the reader's other doors decide: milliseconds, unless a door's
lane still waits for its relay board. A later denial is recorded by itself."""


class SharedTap:
    """Collects what the doors of one reader decide on one tap, and records the denials once.

    A lift has one reader in its cabin and one door for each floor: whoever may go to two floors of
    eight has not been denied six times.
    """

    def __init__(
        self,
        doors: int,
        record: Callable[[events.Event], None],
        over: "Callable[[SharedTap], None]",
    ) -> None:
        """`over` hears once when nothing is waited for any more."""
        self._missing = doors
        self._record = record
        self._over = over
        self._denied: list[tuple[events.AccessDecided, Callable[[], None]]] = []
        self._better: events.AccessDecided | None = None
        self._settled = False
        self._timer = asyncio.get_running_loop().call_later(
            ANSWERS_WAIT.total_seconds(), self.settle
        )

    def denied(self, event: events.AccessDecided, record: Callable[[], None]) -> None:
        """A door decided to stay locked. `record` appends that denial by itself."""
        if self._settled:
            record()
            return
        self._denied.append((event, record))
        self._answered()

    def admitted(self, event: events.AccessDecided) -> None:
        """A door granted, or asks for a PIN, and records that by itself."""
        self._better = event
        self._answered()

    def settle(self) -> None:
        """Record the denials collected so far: after a grant none, else the most telling one; the
        other doors in one event.
        """
        if self._settled:
            return
        self._settled = True
        self._timer.cancel()
        self._over(self)
        denied = list(self._denied)
        if not denied:
            return
        told = self._better
        if told is None:
            # The one that knows the holder tells most; else the first door of the site's file.
            main = max(denied, key=lambda each: each[0].holder is not None)
            denied.remove(main)
            told, record = main
            record()
        if denied:
            self._record(
                events.OtherDoors(
                    at=told.at,
                    trust=told.trust,
                    device=told.device,
                    outcome=told.outcome,
                    doors={event.door: event.reason for event, _ in denied},
                    holder=told.holder,
                    credential=told.credential,
                )
            )

    def _answered(self) -> None:
        self._missing -= 1
        if self._missing <= 0:
            # When it would open is looked for over days: what shows the answer goes first.
            asyncio.get_running_loop().call_soon(self.settle)
