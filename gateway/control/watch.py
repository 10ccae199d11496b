"""Feeds the detector beside the doors' own work, and records what it finds."""

import asyncio
from collections import deque
from collections.abc import Callable
from datetime import timedelta
from zoneinfo import ZoneInfo

import structlog

from gateway.clock import Clock
from gateway.control.memory import SiteMemory
from gateway.domain import events
from gateway.domain.detection import LOOK_EVERY, Detector, SiteNow

HEARD_MAX = 10_000
"""Events waiting to be looked at. A flood drops its oldest: what it is shows all the same."""
DRAIN_EVERY = timedelta(seconds=1)
AT_ONCE_MAX = 100
"""Events looked at before the loop is given back: a tap waits for a millisecond of it at most."""

_TOLD_ELSEWHERE = frozenset({"device_offline", "door_propped", "clock_lost"})

log = structlog.get_logger()


class SiteWatch:
    """`heard` takes every recorded event at no cost; `run` looks at them a second later."""

    def __init__(
        self,
        detector: Detector,
        *,
        site_now: Callable[[], SiteNow],
        timezone: Callable[[], str],
        record: Callable[[events.Event], None],
        memory: SiteMemory,
        clock: Clock,
    ) -> None:
        self._detector = detector
        self._site_now = site_now
        self._timezone = timezone
        self._record = record
        self._memory = memory
        self._clock = clock
        self._heard: deque[tuple[events.Event, timedelta]] = deque(maxlen=HEARD_MAX)

    def heard(self, event: events.Event) -> None:
        """An event was recorded."""
        if not isinstance(event, events.FindingRaised | events.FindingCleared):
            self._heard.append((event, self._clock.monotonic()))

    @property
    def problems(self) -> list[str]:
        """A line for each finding that stands, but for what the status tells with its reason."""
        standing = self._detector.standing.items()
        return sorted(text for (what, _), text in standing if what not in _TOLD_ELSEWHERE)

    async def run(self) -> None:
        """Look at what happens, and every minute at how the site stands, until cancelled."""
        look_at = self._clock.monotonic()
        while True:
            await self._drain()
            now = self._clock.monotonic()
            if now >= look_at:
                look_at = now + LOOK_EVERY
                self._look(now)
            await asyncio.sleep(DRAIN_EVERY.total_seconds())

    async def _drain(self) -> None:
        for number in range(1, len(self._heard) + 1):
            event, when = self._heard.popleft()
            for found in self._detector.take(event, when):
                self._tell(found)
            if number % AT_ONCE_MAX == 0:
                await asyncio.sleep(0)

    def _look(self, now: timedelta) -> None:
        at = self._clock.now()
        local = at.astimezone(ZoneInfo(self._timezone()))
        trust = int(self._clock.trust())
        for found in self._detector.look(self._site_now(), at, local, trust, now):
            self._tell(found)
        self._memory.apply(self._detector.learned())

    def _tell(self, found: events.Event) -> None:
        if isinstance(found, events.FindingRaised):
            log.warning("finding", what=found.what, subject=found.subject, text=found.text)
        elif isinstance(found, events.FindingCleared):
            log.info("finding over", what=found.what, subject=found.subject)
        self._record(found)
