"""Work at a wall-clock time, on the event loop: the only place that knows APScheduler.

APScheduler runs a plain function in a thread, where no door, memory or journal may be touched. So
a job is a coroutine function, or it is refused when it is added.
"""

import inspect
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta

from apscheduler.schedulers.asyncio import AsyncIOScheduler

Job = Callable[[], Awaitable[None]]
"""A coroutine function without arguments."""

LATE_MAX = timedelta(seconds=1)
"""How late a job still runs, where nothing else is said: APScheduler's own figure."""


class Jobs:
    """The jobs of one process. Add them at any time; they run once it is started."""

    def __init__(self, scheduler: AsyncIOScheduler | None = None) -> None:
        self.scheduler = scheduler or AsyncIOScheduler()

    @property
    def running(self) -> bool:
        """True between start and stop."""
        return bool(self.scheduler.running)

    def start(self) -> None:
        """Run what is added, on the running loop."""
        self.scheduler.start()

    def stop(self) -> None:
        """Start no job any more."""
        self.scheduler.shutdown(wait=False)

    def every(self, interval: timedelta, name: str, job: Job) -> None:
        """Run a job again and again, for the first time after one interval.

        Raises:
            TypeError: `job` is not a coroutine function.
        """
        self._add(name, job, LATE_MAX, "interval", seconds=interval.total_seconds())

    def hourly(self, minute: int, name: str, job: Job, late_max: timedelta) -> None:
        """Run a job at this minute of every hour. Raises TypeError as `every` does."""
        self._add(name, job, late_max, "cron", minute=minute)

    def daily(self, hour: int, name: str, job: Job, late_max: timedelta) -> None:
        """Run a job at this hour of every day of the host. Raises TypeError as `every` does."""
        self._add(name, job, late_max, "cron", hour=hour)

    def once(self, at: datetime, name: str, job: Job) -> None:
        """Run a job at an instant however late, in place of one of the same name.

        Raises:
            TypeError: `job` is not a coroutine function.
        """
        self._add(name, job, None, "date", run_date=at)

    def _add(
        self, name: str, job: Job, late_max: timedelta | None, trigger: str, **when: object
    ) -> None:
        if not inspect.iscoroutinefunction(job):
            raise TypeError(f"job {name}: is a plain function, which would run in a thread")
        self.scheduler.add_job(
            job,
            trigger,
            id=name,
            name=name,
            replace_existing=True,
            coalesce=True,
            misfire_grace_time=None if late_max is None else int(late_max.total_seconds()),
            **when,
        )
