"""The core process: devices, entitlements, decisions and the journal; the only one with locks."""

import asyncio
import base64
import os
import pwd
import random
import signal
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import structlog

import gateway
from gateway.cache import Applied, Cache
from gateway.cache.key import key_file
from gateway.clock import BatteryClocks, SystemClock, TimeTrust, boot_id, voucher
from gateway.config.devices import RelayClass
from gateway.config.site import SiteConfig
from gateway.control.daily import DailySummaries
from gateway.control.door import InForce
from gateway.control.figures import Figures
from gateway.control.memory import SiteMemory
from gateway.control.muster import between, muster
from gateway.control.opening import open_once
from gateway.control.orders import Orders
from gateway.control.site import SiteController
from gateway.control.wake_ups import WakeUps
from gateway.control.watch import SiteWatch
from gateway.domain import events
from gateway.domain.break_glass import SECRET_BYTES_MIN, Role
from gateway.domain.detection import Detector
from gateway.domain.door_mode import opens_by_schedule
from gateway.domain.door_state import Strike
from gateway.domain.entitlements import NO_RECORDS
from gateway.domain.instants import later
from gateway.domain.pin_odds import ALARM_BELOW, WARNING_BELOW
from gateway.domain.record_faults import LintWarning
from gateway.errors import (
    ConfigError,
    Fault,
    GatewayError,
    OrderRefused,
    RecordsRefused,
    StorageError,
)
from gateway.ipc.doors import DoorStates
from gateway.ipc.messages import (
    Deliver,
    Delivered,
    DeviceStatus,
    DoorStateReport,
    Erased,
    Events,
    ExportHead,
    Forgive,
    ImportDone,
    JournalStatus,
    Muster,
    NumberedBody,
    Obeyed,
    Opened,
    OpenOnce,
    Order,
    Outgoing,
    Preview,
    Proof,
    Sealed,
    SessionSaid,
    Status,
    UrgentEvents,
)
from gateway.ipc.outbox import Outbox
from gateway.ipc.server import CoreServer
from gateway.jobs import Jobs
from gateway.journal import Journal
from gateway.notify import notify, watchdog_interval
from gateway.processes.delivery import Delivery
from gateway.processes.downlink import Downlink, Parts, grant_verifier, opened_roots
from gateway.processes.evidence import Evidence
from gateway.processes.standing import Standing
from gateway.processes.sync import Sync, Told
from gateway.statedir import StateDir, read_secret
from gateway.trust import NotAdmitted, Source, admit
from gateway.trust.beacon import Beacon
from gateway.trust.bundle import MAGIC, Revision
from gateway.trust.root import Roots
from gateway.trust.rules import BreaksRule

log = structlog.get_logger()

FLOOR_EVERY = timedelta(minutes=1)
"""How often the high-water mark of time is written: at most this much is lost with the power."""
FLOOR_STEP_MAX = timedelta(days=400)
"""A clock that is further ahead of the floor than any site was ever off is wrong, whoever vouches
for it: it may decide, but must not become a floor, which never falls again."""
TIMERS_EVERY = timedelta(minutes=1)
"""How often running lockouts are written: a reboot lengthens one by at most this much."""
SELF_TEST_LIMIT = timedelta(seconds=5)
"""A decision path that doesn't answer within this is dead, however alive the loop is."""
SELF_TEST_EVERY = timedelta(seconds=10)
"""Where no service manager asks for it: a core that can't decide must not look alive."""
WARNINGS_MAX = 200
"""Warnings told of one import; the others are only counted."""
SUMMARY_AT_MINUTE = 5
"""Minute of every hour at which it is looked whether a day is over where the site is."""
CHECKPOINT_EVERY = timedelta(minutes=5)
"""How long an event may be in the journal without a signature, where fewer than 256 come."""
BEACONS_LOOKED_AT_EVERY = timedelta(seconds=30)
ACK_REFUSED_EVERY = timedelta(minutes=10)
"""How often wrong acknowledgements are told of: whoever sends them must not fill the journal."""
SECRET_FILE_BYTES_MAX = 4096
"""Of a break-glass role: 2 kB in base32, longer than any app's; it is not meant to be one."""
RETENTION_AT_HOUR = 3
"""Local hour of the box at which acknowledged events past their retention are deleted."""


class Core:
    """One site's core. `run` works until it is stopped or broken."""

    def __init__(
        self, config: SiteConfig, *, rng: random.Random, supervisor: int | None = None
    ) -> None:
        """`supervisor` is the process of `door-gateway run`, where it has started this one."""
        self._config = config
        self._supervisor = supervisor
        self._rng = rng
        self._doors = DoorStates()
        self._jobs = Jobs()
        self._started: timedelta
        self._outbox = Outbox()
        self._downlink: Downlink | None = None
        self._sync: Sync | None = None
        self._acks_refused = 0
        self._ack_refused_next = timedelta(0)
        self._floor_turn = asyncio.Lock()

    async def run(self) -> None:
        """Open everything, decide until SIGTERM or SIGINT, close in order.

        Raises:
            StateDirInUse: another core owns the state directory.
            GatewayError: something that it can't start without can't be used.
        """
        async with self._opened(_tell_trust):
            self._record_start()
            try:
                await self._work()
            except* _Stop:
                log.info("stopping")
            self._tell(events.GatewayStopped(**self._now()))
            await self._keep_floor()

    @asynccontextmanager
    async def _opened(self, told: Callable[[TimeTrust], None] | None = None) -> AsyncIterator[None]:
        """Own the state directory, with journal and cache open."""
        config = self._config
        with StateDir(Path(config.state.dir)) as self._state:
            self._battery = BatteryClocks()
            self._battery.look()
            self._clock = SystemClock(
                floor=self._state.floor,
                vouched=voucher(config.clock.trust),
                told=told,
                battery=self._battery,
            )
            self._started = self._clock.monotonic()
            self._evidence = Evidence(
                config.site, self._state.path, os.environ, lambda: self._journal, self._clock
            )
            async with Journal(
                self._state.journal,
                self._clock,
                self._evidence.sign,
                local=config.keeps_locally,
            ) as self._journal:
                key = key_file(Path(config.state.credential_key), os.environ)
                roots = None
                if config.trust is not None:
                    directory = self._state.path / "roots"
                    roots = opened_roots(config.trust, config.site.id, directory)
                self._cache = Cache(self._state.path, key, config.site.id, signed=roots is not None)
                await self._cache.open()
                self._memory = SiteMemory(
                    lambda: self._journal.state, boot=boot_id(), clock=self._clock
                )
                self._site = SiteController(
                    config,
                    journal=self._journal,
                    memory=self._memory,
                    in_force=self._in_force,
                    clock=self._clock,
                    rng=self._rng,
                    on_change=self._report,
                    break_glass=_roles(config),
                    verify_grant=grant_verifier(config, roots, self._cache),
                )
                self._figures = Figures()
                mqtt = config.mqtt
                self._delivery = Delivery(
                    None if mqtt is None else f"{mqtt.host}:{mqtt.port}",
                    self._journal,
                    self._clock,
                    keeper="broker" if config.keeps_locally else "cloud",
                )
                self._standing = Standing(config, self._site, self._clock)
                self._watch = SiteWatch(
                    Detector(self._memory, self._share_a_zone),
                    site_now=self._standing.site,
                    timezone=lambda: self._in_force().records.tables.site.timezone,
                    record=self._site.record,
                    memory=self._memory,
                    clock=self._clock,
                )
                self._journal.listener = self._heard
                self._wake_ups = WakeUps(self._jobs, self._site, self._clock, self._clock.on_host)
                self._orders = Orders(
                    self._site,
                    journal=self._journal,
                    memory=self._memory,
                    in_force=self._in_force,
                    clock=self._clock,
                )
                if roots is not None:
                    self._downlink = self._made_downlink(roots)
                    self._sync = self._made_sync(roots, self._downlink)
                    await self._sync.open()
                yield
                if self._downlink is not None:
                    await self._downlink.close()

    def _made_downlink(self, roots: Roots) -> Downlink:
        parts = Parts(
            self._config,
            self._clock,
            self._journal,
            self._cache,
            self._memory,
            self._site,
            self._orders,
            self._site.record,
            self.report_ack,
            self._set_floor,
        )
        return Downlink(
            parts,
            roots,
            self._evidence.key,
            self._outbox,
            in_force=self._signed_in_force,
            refresh=self._refresh,
            wanted=self._wanted,
        )

    def _made_sync(self, roots: Roots, downlink: Downlink) -> Sync:
        trust = self._config.trust
        assert trust is not None  # noqa: S101 - there are roots
        lists = self._site.card_lists
        told = Told(
            publish=lambda topic, payload: self._outbox.put(Outgoing(topic=topic, payload=payload)),
            applied=self._applied,
            cards=lists.imported if lists.boards else None,
            refused=self._refused,
            nonce=downlink.nonce,
        )
        return Sync(
            self._config.site,
            cache=self._cache,
            roots=roots,
            clock=self._clock,
            key=self._evidence.key,
            state=self._state.path,
            floor=lambda: self._clock.floor,
            told=told,
            limits=trust.impact.limits,
        )

    def _signed_in_force(self) -> Revision | None:
        return None if self._sync is None else self._sync.in_force

    def _refresh(self) -> None:
        if self._sync is not None:
            self._sync.refresh()

    def _wanted(self, beacon: Beacon) -> None:
        if self._sync is not None:
            answers = beacon.nonce is not None
            self._sync.wanted(beacon.revision, beacon.digest, answers=answers)

    async def _work(self) -> None:
        """Everything at once, until asked to stop."""
        server = CoreServer(
            Path(self._config.state.socket),
            self,
            supervisor=self._supervisor,
            shuts_out_own=True,
        )
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        for door_id in self._config.doors:
            self._report(door_id)  # what was said before a restart is not known any more
        self._start_jobs()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._site.run(), name="site")
                group.create_task(server.run(), name="socket")
                group.create_task(self._watch_itself(), name="self-test")
                group.create_task(self._watch.run(), name="detection")
                if self._sync is not None:
                    group.create_task(self._sync.run(), name="sync")
                await server.listening.wait()
                # What a reboot has counted anew must not be again at the next start.
                group.create_task(self._keep_timers(), name="timers")
                revision = self._in_force().revision
                log.info("deciding", doors=len(self._config.doors), revision=revision)
                notify("READY=1", f"STATUS=deciding on revision {revision}")
                await stop.wait()
                notify("STOPPING=1")
                raise _Stop
        except BaseExceptionGroup as failed:
            # What stands in the way of a start is said in a line; what breaks later is a bug.
            errors = None if server.listening.is_set() else failed.subgroup(GatewayError)
            if errors is None:
                raise
            raise errors.exceptions[0] from None
        finally:
            self._jobs.stop()

    async def apply_alone(self, records: bytes) -> ImportDone:
        """Apply records with no door and no socket; see `import_offline`."""
        async with self._opened():
            return await self.import_records(records)

    # --- What is in force ------------------------------------------------------------------------

    def _in_force(self) -> InForce:
        current = self._cache.current
        if current is None:
            return InForce(NO_RECORDS, None, None)
        return InForce(current, self._cache.revision, self._cache.as_of)

    def _why_nobody_is_let_in(self) -> str:
        return f"{self._cache.problem}: every credential is denied until an import"

    def _heard(self, event: events.Event) -> None:
        self._figures.heard(event)
        self._watch.heard(event)

    def _share_a_zone(self, one: str, other: str) -> bool:
        doors = self._in_force().records.tables.doors
        if one not in doors or other not in doors:
            return True
        zones = [{doors[each].from_zone, doors[each].to_zone} for each in (one, other)]
        return not zones[0].isdisjoint(zones[1])

    def _doors_in_no_record(self) -> list[str]:
        doors = self._in_force().records.tables.doors
        return [
            f"door {door_id}: is in no record: nobody is let in"
            for door_id in self._config.doors
            if door_id not in doors
        ]

    def _record_start(self) -> None:
        force = self._in_force()
        if self._cache.rebuilt is not None:
            revision, why = self._cache.rebuilt
            self._tell(events.CacheRebuilt(**self._now(), revision=revision, why=why))
        if self._cache.floor_lost:
            why = "the floor of revision was lost: it is what is in force"
            self._tell(events.CacheRebuilt(**self._now(), revision=force.revision, why=why))
        self._tell_lost()
        self._tell(
            events.GatewayStarted(
                **self._now(),
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
            log.warning("no entitlements", why=self._why_nobody_is_let_in())
            return
        for odd in (*self._doors_in_no_record(), *self._site.odd_wiring()):
            log.warning(odd)

    def _tell_lost(self) -> None:
        """Record what was remembered and can't be read any more; it may load late."""
        for lost in self._memory.take_lost():
            self._site.record(
                events.MemoryDamaged(
                    **self._now(),
                    what=lost.what,
                    instead=lost.instead,
                    about=lost.about,
                    holder=lost.holder,
                    credential=lost.credential,
                    grant=lost.grant,
                )
            )

    def _tell(self, event: events.Event) -> None:
        """Record what has happened already, as far as the disk allows."""
        try:
            self._journal.append(event)
        except StorageError as error:
            log.error("event not kept", why=str(error))

    # --- Time ------------------------------------------------------------------------------------

    def _now(self) -> dict[str, Any]:
        """The members `at` and `trust` of an event."""
        return {"at": self._clock.now(), "trust": int(self._clock.trust())}

    async def _keep_timers(self) -> None:
        """Write again what has time left: a power cut makes it begin anew from there."""
        self._tell_lost()
        self._memory.apply(self._memory.running())
        try:
            await self._journal.keep(self._memory.take_unwritten)
        except StorageError as error:
            log.error("timers not kept", why=str(error))

    async def _keep_floor(self) -> None:
        await asyncio.to_thread(self._battery.look)
        if not self._clock.vouched_for:
            return
        if self._config.trust is not None and not self._clock.authenticated:
            return  # what a time daemon says can be forged, and there is better
        async with self._floor_turn:
            await self._raise_floor()

    async def _set_floor(self, to: datetime) -> None:
        async with self._floor_turn:
            await asyncio.to_thread(self._state.set_floor, to)

    async def _raise_floor(self) -> None:
        now, floor = self._clock.now(), self._state.floor
        if floor is not None and now - floor > FLOOR_STEP_MAX:
            log.error(
                "the clock is implausibly far ahead: the floor of time is not raised",
                clock=now.isoformat(),
                floor=floor.isoformat(),
            )
            return
        self._clock.raise_floor(now)
        try:
            await asyncio.to_thread(self._state.raise_floor, now)
        except StorageError as error:
            log.error("floor of time not kept", why=str(error))
        else:
            self._memory.forget_spent(now, self._downlink.sure() if self._downlink else now)

    def _start_jobs(self) -> None:
        """Run what has a wall-clock time; a decision never waits for it."""
        jobs = self._jobs
        daily = DailySummaries(self._journal, self._in_force, self._clock, self._site.record)
        jobs.every(FLOOR_EVERY, "floor", self._keep_floor)
        jobs.every(CHECKPOINT_EVERY, "checkpoint", self._checkpoint)
        jobs.every(TIMERS_EVERY, "timers", self._keep_timers)
        if self._downlink is not None:
            jobs.every(BEACONS_LOOKED_AT_EVERY, "beacons", self._look_at_beacons)
        jobs.hourly(SUMMARY_AT_MINUTE, "summary", daily.look, timedelta(minutes=10))
        jobs.daily(RETENTION_AT_HOUR, "retention", self._retire, timedelta(hours=1))
        jobs.start()
        self._wake_ups.arm()

    async def _look_at_beacons(self) -> None:
        assert self._downlink is not None  # noqa: S101 - the job was added for it
        self._downlink.look()

    async def _checkpoint(self) -> None:
        self._journal.checkpoint()
        await self._journal.keep_mark()

    async def _retire(self) -> None:
        """Delete what is settled and past the policy's retention."""
        if self._clock.trust() < TimeTrust.T2:
            return  # a wrong date must not delete anything
        retention = self._in_force().records.tables.policy.journal_retention
        try:
            removed = await self._journal.purge(self._clock.now() - retention)
            self._memory.forget_places(self._clock.now() - retention)
            await self._journal.keep(self._memory.take_unwritten)
        except StorageError as error:
            log.error("retention not kept", why=str(error))
        else:
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
            at=self._clock.now(),
            at_mono_s=self._clock.monotonic().total_seconds(),
        )

    async def wait_beyond(self, after: int) -> None:
        """See `CoreApi.wait_beyond`."""
        await self._journal.wait_for_new(after)

    async def urgent_after(self, after: int, limit: int) -> UrgentEvents:
        """See `CoreApi.urgent_after`."""
        raw = await self._journal.urgent_after(after, limit)
        return UrgentEvents(
            stream=self._journal.stream,
            events=[NumberedBody(event.seq, event.body) for event in raw],
        )

    async def wait_urgent(self, after: int) -> None:
        """See `CoreApi.wait_urgent`."""
        await self._journal.wait_for_urgent(after)

    async def report_ack(self, stream: str, seq: int) -> int:
        """See `CoreApi.report_ack`."""
        self._acks_refused += 1
        now = self._clock.monotonic()
        if now >= self._ack_refused_next:
            self._ack_refused_next = now + ACK_REFUSED_EVERY
            last, count = self._journal.last_committed, self._acks_refused
            log.error("acknowledged beyond what was sent", stream=stream, seq=seq, last=last)
            self._journal.append(events.AckRefused(**self._now(), seq=seq, last=last, count=count))
            self._acks_refused = 0
        return self._journal.acknowledged

    async def deliver(self, deliver: Deliver) -> Delivered:
        """See `CoreApi.deliver`."""
        if self._downlink is not None and self._sync is not None:
            if deliver.retained and deliver.topic in ("sync/manifest", "sync/chunk"):
                self._downlink.refuse("bundle", "retained")
            elif deliver.topic == "sync/manifest":
                self._sync.document(deliver.sealed)
            elif deliver.topic == "sync/chunk":
                await self._chunk(deliver.sealed)
            else:
                await self._downlink.take(deliver)
        self._delivery.look()
        return Delivered(stream=self._journal.stream, acknowledged=self._journal.acknowledged)

    async def _chunk(self, data: bytes) -> None:
        assert self._sync is not None  # noqa: S101 - it was asked
        try:
            await self._sync.chunk(data)
        except StorageError as error:
            log.error("a chunk is not kept", why=str(error))

    async def session_said(self, said: SessionSaid) -> Delivered:
        """See `CoreApi.session_said`."""
        begun = self._delivery.heard(said)
        if self._downlink is not None:
            self._downlink.session(there=said.there)
        if begun and self._sync is not None:
            self._sync.connected()
        return Delivered(stream=self._journal.stream, acknowledged=self._journal.acknowledged)

    def watch_outbox(self) -> AsyncGenerator[Outgoing, None]:
        """See `CoreApi.watch_outbox`."""
        return self._outbox.watch()

    async def acknowledge(self, stream: str, seq: int) -> int:
        """See `CoreApi.acknowledge`."""
        if self._downlink is not None:
            raise NotAdmitted("only a signed acknowledgement counts at a site with [trust]")
        await self._journal.acknowledge(stream, seq)
        self._delivery.look()
        return self._journal.acknowledged

    async def export_head(self) -> ExportHead:
        """See `CoreApi.export_head`."""
        return await self._evidence.export_head()

    async def proof_after(self, after: int, limit: int) -> Proof:
        """See `CoreApi.proof_after`."""
        return await self._evidence.proof_after(after, limit)

    async def seal(self, after: int, seq: int) -> Sealed:
        """See `CoreApi.seal`."""
        return await self._evidence.seal(after, seq)

    async def erase(self, holder: str, by: str, why: str) -> Erased:
        """See `CoreApi.erase`."""
        return await self._evidence.erase(holder, by, why)

    def watch_doors(self) -> AsyncGenerator[DoorStateReport, None]:
        """See `CoreApi.watch_doors`."""
        return self._doors.watch()

    async def status(self) -> Status:
        """See `CoreApi.status`."""
        force = self._in_force()
        backlog = self._journal.backlog
        failure = self._journal.failure
        broker = await self._delivery.status()
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
            backlog=backlog.waiting + (0 if self._alone else backlog.committed),
            keep="local" if self._config.keeps_locally else "cloud",
            devices={
                name: DeviceStatus(
                    online=bool(device.online),
                    why=device.why,
                    tampered=device.tampered,
                    power_failed=device.power_failed,
                    battery_percent=device.battery_percent,
                )
                for name, device in self._site.devices.items()
            },
            doors=self._doors.latest(),
            journal=JournalStatus(healthy=not failure, why=failure or None),
            problems=[*self._problems(), *self._delivery.problems(broker)],
            broker=broker,
            signed=self._downlink is not None,
            public_key=self._evidence.public_key,
            box=self._standing.box(),
            figures=self._figures.doors(),
            counters=dict(self._figures.codes),
        )

    @property
    def _alone(self) -> bool:
        """Return True where events are on their only way's end once they are on this disk."""
        return self._config.keeps_locally and self._config.mqtt is None

    def _problems(self) -> list[str]:
        """What somebody should look at, a line each."""
        force, trust = self._in_force(), self._clock.trust()
        found = []
        if force.revision is None:
            found.append(self._why_nobody_is_let_in())
        else:
            found += self._doors_in_no_record()
        if not trust.decides_as_trusted:
            floor = self._state.floor
            behind = floor is not None and self._clock.now() <= floor
            why = "is behind the floor of time" if behind else "is vouched for by nobody"
            found.append(f"the clock {why} (T{int(trust)}): schedules and bookings may not count")
        if self._journal.failure:
            found.append(f"the journal does not write: {self._journal.failure}")
        found += [
            f"device {name}: offline: {device.why}"
            for name, device in self._site.devices.items()
            if not device.online
        ]
        found += [
            f"device {name}: its supply has failed"
            for name, device in self._site.devices.items()
            if device.power_failed
        ]
        found += [
            f"door {name}: {alarm.replace('_', ' ')}"
            for name, door in self._doors.latest().items()
            for alarm in door.alarms
        ]
        found += self._sync.problems() if self._sync is not None else ()
        found += self._downlink.problems() if self._downlink is not None else ()
        return [*found, *self._watch.problems]

    async def import_records(self, records: bytes) -> ImportDone:
        """See `CoreApi.import_records`."""
        if self._sync is not None:
            if not records.startswith(MAGIC):
                raise NotAdmitted("this site has [trust]: only a signed .bundle file is taken")
            applied = await self._sync.file(records)
        else:
            applied = await self._import_unsigned(records)
        return ImportDone(
            revision=applied.revision,
            counts=applied.counts,
            warnings=[
                *self._doors_in_no_record(),
                *self._site.odd_wiring(),
                *_told(applied.warnings),
            ],
        )

    async def _import_unsigned(self, records: bytes) -> Applied:
        if records.startswith(MAGIC):
            raise NotAdmitted(
                "a signed bundle: give the site's file [trust] with the root to trust"
            )
        try:
            admitted = admit(records, Source.LOCAL_FILE, self._clock.now())
            applied = await self._cache.apply(admitted.records, admitted.as_of)
        except RecordsRefused as refused:
            self._refused(refused)
            raise
        self._applied(applied)
        await self._site.card_lists.imported(admitted.records)
        return applied

    def _applied(self, applied: Applied) -> None:
        """A set of records is in force."""
        self._tell(
            events.EntitlementsApplied(
                **self._now(),
                revision=applied.revision,
                as_of=applied.as_of,
                counts=applied.counts,
            )
        )
        self._tell_pin_odds(applied)
        if self._jobs.running:
            self._wake_ups.look()
        for door_id in self._config.doors:
            self._report(door_id)

    def _refused(self, refused: BreaksRule | RecordsRefused) -> None:
        """A set of records, or a key set, is not taken."""
        if isinstance(refused, RecordsRefused):
            first = " ".join(refused.faults[0][:3])
            faults = len(refused.faults)
            self._tell(events.EntitlementsRefused(**self._now(), faults=faults, first=first))
        elif self._downlink is not None:
            self._downlink.refuse("bundle", str(refused.rule))

    async def order(self, order: Order, by: str) -> Obeyed:
        """See `CoreApi.order`."""
        await self._orders.order(
            order.scope, order.id, order.mode, by=by, why=order.why, seconds=order.seconds
        )
        return Obeyed(modes=self._modes())

    async def open_once(self, wanted: OpenOnce, by: str) -> Opened:
        """See `CoreApi.open_once`."""
        door = wanted.door
        seq = await open_once(self._site, self._clock, door, by=by, why=wanted.why)
        return Opened(door=door, seq=seq)

    async def forgive(self, forgive: Forgive, by: str) -> Obeyed:
        """See `CoreApi.forgive`."""
        forgotten = await self._orders.forgive(
            forgive.holder, forgive.zone, forgive.role, by=by, why=forgive.why
        )
        return Obeyed(modes=self._modes(), forgotten=forgotten)

    def _modes(self) -> dict[str, str]:
        return {door_id: door.mode().mode for door_id, door in self._site.doors.items()}

    async def muster(self) -> Muster:
        """See `CoreApi.muster`."""
        return Muster(
            at=self._clock.now(), zones=muster(self._memory), between=between(self._memory)
        )

    async def preview(self, door: str, days: int) -> Preview:
        """See `CoreApi.preview`."""
        records = self._in_force().records
        record = records.tables.doors.get(door)
        if record is None or door not in self._site.doors:
            raise OrderRefused(f"no door {door!r}; there are: {', '.join(self._site.doors)}")
        now = self._clock.now()
        return Preview(
            door=door,
            mode=self._site.doors[door].mode().mode,
            changes=list(opens_by_schedule(record, records, now, later(now, timedelta(days=days)))),
            after_first=record.unlock_after_first,
        )

    def _tell_pin_odds(self, applied: Applied) -> None:
        odds = applied.codes_per_pin
        if odds is None or odds >= WARNING_BELOW:
            return
        low = events.PinOddsCritical if odds < ALARM_BELOW else events.PinOddsLow
        log.warning("PINs are easy to guess", codes_per_pin=odds)
        self._tell(low(**self._now(), revision=applied.revision, codes_per_pin=odds))

    def _report(self, door_id: str) -> None:
        state = self._site.doors[door_id].state
        mode = self._site.doors[door_id].mode()
        locked = None if state.strike is Strike.UNKNOWN else state.strike is Strike.AT_REST
        self._doors.report(
            DoorStateReport(
                door=door_id,
                mode=mode.mode,
                mode_source=mode.source,
                locked=locked,
                contact=state.contact.value,
                alarms=sorted(
                    [*(each.value for each in state.alarms), *self._site.troubles(door_id)]
                ),
                readers_online=self._site.readers_online(door_id),
                trust=int(self._clock.trust()),
                at=self._clock.now(),
            )
        )


class _Stop(Exception):
    """Asked to stop; ends the task group in good order."""


def _told(warnings: Sequence[LintWarning]) -> list[str]:
    """Warnings as lines, as many as a message holds and a person reads."""
    lines = [f"{each.type} {each.id}: {each.member}: {each.what}" for each in warnings]
    more = len(lines) - WARNINGS_MAX
    return lines if more <= 0 else [*lines[:WARNINGS_MAX], f"and {more} more"]


def _tell_trust(trust: TimeTrust) -> None:
    if trust.decides_as_trusted:
        log.info("the clock is trusted", trust=int(trust))
    else:
        log.warning("the clock is not trusted: nobody vouches for it now", trust=int(trust))


def _roles(config: SiteConfig) -> tuple[Role, ...]:
    """Who may break the glass. Raises ConfigError where a secret can't be used."""
    faults: list[Fault] = []
    roles = []
    for name, table in config.break_glass.items():
        secrets = []
        for index, file in enumerate(table.secrets):
            where = f"break_glass.{name}.secrets[{index}]"
            try:
                content = read_secret(Path(file), SECRET_FILE_BYTES_MAX).decode("ascii")
                text = "".join(content.split()).upper()
                secret = base64.b32decode(text + "=" * (-len(text) % 8))
            except (OSError, ValueError) as error:
                why = error.strerror if isinstance(error, OSError) else "is not base32"
                faults.append(Fault(where, f"{file}: {why}"))
                continue
            if len(secret) < SECRET_BYTES_MIN:
                few = f"{file}: has fewer than {SECRET_BYTES_MIN} bytes"
                faults.append(Fault(where, few))
            secrets.append(secret)
        window = timedelta(hours=table.window_h)
        roles.append(Role(name, frozenset(table.doors), tuple(secrets), window, table.quorum))
    if faults:
        raise ConfigError("site.toml", faults)
    return tuple(roles)


def _must_be_ours(directory: Path) -> None:
    try:
        owner = directory.stat().st_uid
    except OSError:
        return  # what stands in the way is said when it is opened
    if owner != os.geteuid():
        name = _name_of(owner)
        raise StorageError(
            f"{directory} belongs to {name}, and no core answers: start it, or run as that user:"
            f" sudo -u {name} door-gateway import ..."
        )


def _name_of(uid: int) -> str:
    """The user's name, or what sudo(8) takes for a uid without one."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"'#{uid}'"


async def import_offline(config: SiteConfig, records: bytes) -> ImportDone:
    """Put records in force while no core runs, for its next start.

    Raises:
        StateDirInUse: a core runs after all.
        StorageError: the state directory is another user's, who couldn't read what is written here.
        RecordsRefused: the set has faults; what was in force stays.
    """
    _must_be_ours(Path(config.state.dir))
    core = Core(config, rng=random.Random())  # noqa: S311 - jitter
    return await core.apply_alone(records)
