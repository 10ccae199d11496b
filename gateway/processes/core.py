"""The core process: devices, entitlements, decisions and the journal; the only one with locks."""

import asyncio
import pwd
import random
import signal
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path

import structlog
from apscheduler.schedulers.asyncio import AsyncIOScheduler

import gateway
from gateway.cache import Cache
from gateway.clock import SystemClock, TimeTrust, kernel_says_synchronised
from gateway.config.devices import RelayClass
from gateway.config.site import SiteConfig
from gateway.control.door import InForce
from gateway.control.site import SiteController
from gateway.domain import events
from gateway.domain.door_state import Strike
from gateway.domain.entitlements import NO_RECORDS
from gateway.errors import ConfigError, Fault, RecordsRefused
from gateway.ipc.doors import DoorStates
from gateway.ipc.messages import (
    DeviceStatus,
    DoorStateReport,
    Events,
    ImportDone,
    JournalStatus,
    Status,
)
from gateway.ipc.server import serve
from gateway.journal import Journal
from gateway.notify import notify, watchdog_interval
from gateway.statedir import StateDir
from gateway.trust import admit_local_file

log = structlog.get_logger()

FLOOR_EVERY = timedelta(minutes=1)
"""How often the high-water mark of time is written: at most this much is lost with the power."""
SELF_TEST_LIMIT = timedelta(seconds=5)
"""A decision path that doesn't answer within this is dead, however alive the loop is."""
SELF_TEST_EVERY = timedelta(seconds=10)
"""Where no service manager asks for it: a core that can't decide must not look alive."""
RETENTION_AT_HOUR = 3
"""Local hour of the box at which acknowledged events past their retention are deleted."""


class Core:
    """One site's core. `run` works until it is stopped or broken."""

    def __init__(self, config: SiteConfig, *, rng: random.Random) -> None:
        self._config = config
        self._rng = rng
        self._doors = DoorStates()
        self._started: timedelta

    async def run(self) -> None:
        """Open everything, decide until SIGTERM or SIGINT, close in order.

        Raises:
            StateDirInUse: another core owns the state directory.
            GatewayError: something that it can't start without can't be used.
        """
        config = self._config
        async with AsyncExitStack() as stack:
            self._state = stack.enter_context(StateDir(Path(config.state.dir)))
            self._clock = self._make_clock()
            self._started = self._clock.monotonic()
            self._journal = await stack.enter_async_context(
                Journal(self._state.journal, self._clock)
            )
            self._cache = Cache(self._state.path, Path(config.state.credential_key))
            await self._open_cache()
            stack.push_async_callback(self._cache.close)
            self._site = SiteController(
                config,
                journal=self._journal,
                in_force=self._in_force,
                clock=self._clock,
                rng=self._rng,
                on_change=self._report,
            )
            await stack.enter_async_context(
                serve(Path(config.state.socket), self, link_uid=_uid_of(config))
            )
            self._record_start()
            try:
                await self._work()
            except* _Stop:
                log.info("stopping")
            self._journal.append(
                events.GatewayStopped(at=self._clock.now(), trust=int(self._clock.trust()))
            )
            self._keep_floor()
            notify("STOPPING=1")

    async def _work(self) -> None:
        async with asyncio.TaskGroup() as group:
            loop = asyncio.get_running_loop()
            stop = asyncio.Event()
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(number, stop.set)
            group.create_task(self._site.run(), name="site")
            group.create_task(self._watch_itself(), name="self-test")
            scheduler = self._schedule()
            try:
                notify("READY=1", f"STATUS=deciding on revision {self._in_force().revision}")
                log.info(
                    "deciding",
                    doors=len(self._config.doors),
                    revision=self._in_force().revision,
                )
                await stop.wait()
            finally:
                scheduler.shutdown(wait=False)
            raise _Stop

    # --- What is in force ------------------------------------------------------------------------

    def _in_force(self) -> InForce:
        current = self._cache.current
        if current is None:
            return InForce(NO_RECORDS, None, None)
        return InForce(current, current.revision, current.as_of)

    async def _open_cache(self) -> None:
        await self._cache.open()
        if self._cache.rebuilt_because is not None:
            self._journal.append(
                events.CacheRebuilt(
                    at=self._clock.now(),
                    trust=int(self._clock.trust()),
                    revision=self._in_force().revision,
                    why=self._cache.rebuilt_because,
                )
            )

    def _record_start(self) -> None:
        force = self._in_force()
        self._journal.append(
            events.GatewayStarted(
                at=self._clock.now(),
                trust=int(self._clock.trust()),
                version=gateway.__version__,
                revision=force.revision,
                host_timed={
                    door_id: door.strike.accept_host_timed or ""
                    for door_id, door in self._config.doors.items()
                    if door.strike.relay_class in (RelayClass.R0, RelayClass.R1)
                },
            )
        )
        if force.revision is None:
            log.warning("no entitlements yet: every credential is denied until an import")
            return
        for door_id in self._config.doors:
            if door_id not in force.records.tables.doors:
                log.warning("door is in no record: nobody is let in", door=door_id)

    # --- Time ------------------------------------------------------------------------------------

    def _make_clock(self) -> SystemClock:
        vouched = kernel_says_synchronised if self._config.clock.trust == "kernel" else _always
        return SystemClock(floor=self._state.read_floor(), vouched=vouched)

    def _keep_floor(self) -> None:
        # Only a time that somebody vouches for may become a floor: it never falls again.
        if self._clock.trust() >= TimeTrust.T2:
            now = self._clock.now()
            self._clock.raise_floor(now)
            self._state.write_floor(now)

    def _schedule(self) -> AsyncIOScheduler:
        scheduler = AsyncIOScheduler()
        scheduler.add_job(
            self._keep_floor, "interval", seconds=FLOOR_EVERY.total_seconds(), coalesce=True
        )
        scheduler.add_job(
            self._retire, "cron", hour=RETENTION_AT_HOUR, coalesce=True, misfire_grace_time=3600
        )
        scheduler.start()
        return scheduler

    async def _retire(self) -> None:
        """Delete what is acknowledged and past the policy's retention."""
        if self._clock.trust() < TimeTrust.T2:
            return  # a wrong date must not delete anything
        retention = self._in_force().records.tables.policy.journal_retention
        removed = await self._journal.purge(self._clock.now() - retention)
        log.info("retention", removed=removed)

    async def _watch_itself(self) -> None:
        interval = min(watchdog_interval() or SELF_TEST_EVERY, SELF_TEST_EVERY)
        while True:
            await asyncio.sleep(interval.total_seconds())
            async with asyncio.timeout(SELF_TEST_LIMIT.total_seconds()):
                await self._site.self_test()
            notify("WATCHDOG=1")

    # --- What the socket's clients may ask: gateway.ipc.api.CoreApi ------------------------------

    async def events_after(self, after: int, limit: int) -> Events:
        """See `CoreApi.events_after`."""
        raw = await self._journal.raw_after(after, limit)
        return Events(
            stream=self._journal.stream,
            first_seq=raw[0].seq if raw else after + 1,
            bodies=[event.body for event in raw],
        )

    async def wait_beyond(self, after: int) -> None:
        """See `CoreApi.wait_beyond`."""
        await self._journal.wait_for_new(after)

    async def acknowledge(self, stream: str, seq: int) -> int:
        """See `CoreApi.acknowledge`."""
        await self._journal.acknowledge(stream, seq)
        return self._journal.acknowledged

    def watch_doors(self) -> AsyncGenerator[DoorStateReport, None]:
        """See `CoreApi.watch_doors`."""
        return self._doors.watch()

    async def status(self) -> Status:
        """See `CoreApi.status`."""
        force = self._in_force()
        backlog = self._journal.backlog
        health = self._journal.health
        return Status(
            version=gateway.__version__,
            site=self._config.site.id,
            gateway=self._config.site.gateway,
            revision=force.revision,
            as_of=force.as_of,
            at=self._clock.now(),
            trust=int(self._clock.trust()),
            uptime_s=(self._clock.monotonic() - self._started).total_seconds(),
            stream=self._journal.stream,
            last_seq=self._journal.last_committed,
            acknowledged_seq=self._journal.acknowledged,
            backlog=backlog.committed + backlog.waiting,
            devices={
                name: DeviceStatus(online=bool(device.online), why=device.why)
                for name, device in self._site.devices.items()
            },
            doors=self._doors.latest(),
            journal=JournalStatus(healthy=health.ok, why=health.why or None),
        )

    async def import_records(self, records: bytes) -> ImportDone:
        """See `CoreApi.import_records`."""
        now, trust = self._clock.now(), int(self._clock.trust())
        try:
            applied = await self._cache.apply(admit_local_file(records), as_of=now)
        except RecordsRefused as refused:
            self._journal.append(
                events.EntitlementsRefused(
                    at=now,
                    trust=trust,
                    faults=len(refused.faults),
                    first=" ".join(refused.faults[0][:3]),
                )
            )
            raise
        self._journal.append(
            events.EntitlementsApplied(
                at=now,
                trust=trust,
                revision=applied.revision,
                as_of=now,
                counts=applied.counts,
            )
        )
        for door_id in self._config.doors:
            self._report(door_id)
        return ImportDone(
            revision=applied.revision, counts=applied.counts, warnings=list(applied.warnings)
        )

    def _report(self, door_id: str) -> None:
        state = self._site.doors[door_id].state
        locked = None if state.strike is Strike.UNKNOWN else state.strike is Strike.AT_REST
        self._doors.report(
            DoorStateReport(
                door=door_id,
                mode="controlled",
                locked=locked,
                contact=state.contact.value,
                alarms=sorted(alarm.value for alarm in state.alarms),
                readers_online=self._site.readers_online(door_id),
                trust=int(self._clock.trust()),
                at=self._clock.now(),
            )
        )


class _Stop(Exception):
    """Asked to stop; ends the task group in good order."""


def _always() -> bool:
    return True


def _uid_of(config: SiteConfig) -> int | None:
    name = config.state.link_user
    if name is None:
        return None
    try:
        return pwd.getpwnam(name).pw_uid
    except KeyError:
        raise ConfigError(
            "site.toml", [Fault("state.link_user", f"no user {name!r} on this machine")]
        ) from None


__all__ = ["Core"]
