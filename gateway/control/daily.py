"""Counts each day once it is over, from the journal and in small steps."""

import asyncio
from collections.abc import Callable
from datetime import date, datetime

import structlog

from gateway.clock import Clock, TimeTrust
from gateway.control.door import InForce
from gateway.domain import events
from gateway.domain.daily_summary import Tally, day_before
from gateway.errors import StorageError
from gateway.journal import Journal

STEP_EVENTS = 200
"""Events looked at before the loop is given back: about 2 ms."""
STEP_REST_S = 0.05

log = structlog.get_logger()


class DailySummaries:
    """`look` may be called at any time: it does a day once."""

    def __init__(
        self,
        journal: Journal,
        in_force: Callable[[], InForce],
        clock: Clock,
        record: Callable[[events.Event], None],
    ) -> None:
        self._journal = journal
        self._in_force = in_force
        self._clock = clock
        self._record = record
        self._done: date | None = None

    async def look(self) -> None:
        """Record yesterday's summary, where it is not in the journal yet."""
        force = self._in_force()
        if force.revision is None or self._clock.trust() < TimeTrust.T2:
            return
        day = day_before(self._clock.now(), force.records.tables.site.timezone)
        if day.date == self._done:
            return
        tally = Tally(day, force.records.tables.doors)
        try:
            after = await self._before(day.begin)
            while batch := await self._journal.read_after(after, STEP_EVENTS):
                for entry in batch:
                    tally.take(entry.event)
                after = batch[-1].seq
                await asyncio.sleep(STEP_REST_S)
        except StorageError as error:
            log.error("no summary of the day", day=day.date.isoformat(), why=str(error))
            return
        self._done = day.date
        if not tally.told:
            self._record(tally.summary(self._clock.now(), int(self._clock.trust())))

    async def _before(self, moment: datetime) -> int:
        """A number before the first event of `moment` or later, as far as times rise."""
        low, high = 0, self._journal.last_committed
        while low < high:
            middle = (low + high) // 2
            found = await self._journal.read_after(middle, 1)
            if found and found[0].event.at < moment:
                low = found[0].seq
            else:
                high = middle
        return low
