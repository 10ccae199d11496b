"""Controls a site: runs its drivers, brings their facts to the doors, knows what is online."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterator, Mapping
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Final, Literal, cast

import structlog

from gateway.clock import Clock, TimeTrust
from gateway.config.devices import Capability
from gateway.config.site import DoorTable, SiteConfig
from gateway.control.card_lists import CardLists, Member
from gateway.control.door import (
    CardTapped,
    DoorController,
    InForce,
    Journal,
    PointChanged,
    RemoteOutcome,
    Wiring,
)
from gateway.control.memory import SiteMemory
from gateway.control.shared_reader import SharedReader
from gateway.control.shared_tap import SharedTap
from gateway.control.supervised import SETTLE, SupervisedInput
from gateway.domain import events
from gateway.domain.break_glass import Role
from gateway.domain.carried_grant import Presented
from gateway.domain.door_mode import Standing, next_wall_change
from gateway.domain.door_state import (
    Contact,
    ContactSaid,
    Moment,
    RexPressed,
    Side,
    Strike,
    StrikeSaid,
)
from gateway.domain.facts import (
    AdmittedElsewhere,
    BatteryReported,
    CredentialPresented,
    CredentialRefused,
    DeviceOffline,
    DeviceOnline,
    Fact,
    InputChanged,
    InputFaulty,
    InputGlimpsed,
    InstallWindowClosed,
    InstallWindowOpened,
    OutputReported,
    PowerChanged,
    TamperChanged,
    UnexpectedOutput,
)
from gateway.domain.memory import Alarms
from gateway.domain.signal import Signal
from gateway.drivers.base import Driver, Indicates, KeepsCards, PulsesOutput
from gateway.errors import DeviceUnavailable, StorageError
from gateway.supervise import keep_running

log = structlog.get_logger()

REST_WAIT = timedelta(seconds=2)
"""All strikes are at rest within 2 s of start, before any reader is live (docs/promises.md P2). A
relay board that is not there by then doesn't keep the other doors shut."""

SURE_WITHIN = timedelta(seconds=1)
"""For how long what was glimpsed of an exit button may become sure without being a press anew: as
long as the shortest release lasts."""

MODES_EVERY = timedelta(seconds=2)
"""How often modes are looked at where nothing else says so: a clock that was set, or has lost its
source, changes them without an event. Known edges are met exactly, by the scheduler."""


TROUBLE: Final = "trouble/"
"""What the keys of remembered troubles of wires and cases begin with."""

_When = Literal["active", "inactive"]


_POINTS = frozenset({Capability.PULSES_OUTPUTS, Capability.REPORTS_INPUTS})


class DeviceState:
    """Whether a device answers, why not, and what it last said of itself."""

    def __init__(self) -> None:
        self.online: bool | None = None
        self.why: str | None = "has not answered yet"
        self.tampered = False
        self.power_failed = False
        self.battery_percent: int | None = None

    @property
    def alarms(self) -> tuple[str, ...]:
        """What is wrong with it, as it is remembered."""
        found = (("tamper", self.tampered), ("power", self.power_failed))
        return tuple(name for name, is_wrong in found if is_wrong)


class SiteController:
    """All doors of a site. The constructor opens nothing; `run` works until cancelled."""

    def __init__(
        self,
        config: SiteConfig,
        *,
        journal: Journal,
        memory: SiteMemory,
        in_force: Callable[[], InForce],
        clock: Clock,
        rng: random.Random,
        on_change: Callable[[str], None] = lambda _door: None,
        break_glass: tuple[Role, ...] = (),
        verify_grant: Callable[[str], Presented] = lambda _text: "grant_unknown_key",
    ) -> None:
        self._config = config
        self._journal = journal
        self._in_force = in_force
        self.memory = memory
        self._clock = clock
        self._rng = rng
        self._on_change = on_change
        self._drivers: dict[str, Driver] = {
            name: device.driver.build(name, device.settings, clock)
            for name, device in config.devices.items()
        }
        self._shared: dict[str, SharedReader] = {}
        self._shared_taps: set[SharedTap] = set()
        self.devices: dict[str, DeviceState] = {name: DeviceState() for name in self._drivers}
        self.doors: dict[str, DoorController] = {
            door_id: DoorController(
                door_id,
                self._wiring(table),
                journal=journal,
                memory=memory,
                in_force=in_force,
                clock=clock,
                on_change=on_change,
                unsecured=self._unsecured,
                break_glass=tuple(role for role in break_glass if door_id in role.doors),
                verify_grant=verify_grant,
            )
            for door_id, table in config.doors.items()
        }
        self._points = _Points(config.doors)
        self._contacts: dict[str, Contact] = {}
        self._glimpsed: dict[tuple[str, bool], timedelta] = {}
        """Door and wire of each REX that was taken for pressed before that was sure, and when."""
        self._pressed: dict[str, tuple[bool, timedelta]] = {}
        """By which wire, and when, somebody last asked to leave by each door."""
        self._switches_open: set[str] = set()
        self._broken: dict[tuple[str, str], str] = {}
        """What is wrong with the measured wires of a door's `contact`, `rex` or `tamper`."""
        self._supervised = {
            (door, name): self._supervise(door, name)
            for door, name, _ in self._points.opposites.values()
        }
        self._relays_up = asyncio.Event()
        self._readers_live = False
        self._asides: set[asyncio.Task[None]] = set()
        self._trust: TimeTrust | None = None
        self.card_lists = CardLists(list(self._listing()), in_force, clock)

    async def run(self) -> None:
        """Bring every strike to rest, then make the readers live; work until cancelled."""
        self.take_up()
        # Those with points come first: somebody may want to get out. A reader with outputs of its
        # own is one of them, and what is presented at it counts no sooner than at any other.
        boards = {
            name
            for name, device in self._config.devices.items()
            if device.driver.capabilities & _POINTS
        }
        try:
            async with asyncio.TaskGroup() as group:
                for controller in self.doors.values():
                    group.create_task(controller.run(), name=f"door {controller.door}")
                for name in boards:
                    group.create_task(self._keep(name), name=f"device {name}")
                try:
                    async with asyncio.timeout(REST_WAIT.total_seconds()):
                        await self._relays_up.wait()
                except TimeoutError:
                    away = [name for name in self._points.boards if not self.devices[name].online]
                    log.warning("starting without relay boards", devices=sorted(away))
                self._readers_live = True
                group.create_task(self._look_at_modes(), name="modes")
                group.create_task(self.card_lists.run(), name="card lists")
                for name in self._drivers.keys() - boards:
                    group.create_task(self._keep(name), name=f"device {name}")
        finally:
            for tap in tuple(self._shared_taps):
                tap.settle()

    def take_up(self) -> None:
        """What was wrong with wires and cases before a restart is so until a device says it isn't:
        its next word ends it, and is told.
        """
        for key, value in self.memory.items(TROUBLE):
            kind, _, which = key.partition("/")
            raised = value.raised if isinstance(value, Alarms) else ()
            door, _, name = which.rpartition("/")
            if kind == "device" and which in self.devices:
                self.devices[which].tampered = "tamper" in raised
                self.devices[which].power_failed = "power" in raised
            elif kind == "switch" and self._has(which, "tamper"):
                self._switches_open.add(which)
            elif kind == "input" and (pair := self._supervised.get((door, name))):
                pair.faulty = True
            elif kind == "input" and raised and self._has(door, name):
                self._broken[door, name] = raised[0]

    def _has(self, door: str, name: str) -> bool:
        """Whether a door has a `contact`, `rex` or `tamper` of its own."""
        return getattr(self._config.doors.get(door), name, None) is not None

    def _remember(self, which: str, *raised: str) -> None:
        """Keep what is wrong with the event that tells it."""
        self.memory.apply({TROUBLE + which: Alarms(raised=raised) if raised else None})

    def _listing(self) -> Iterator[Member]:
        """The doors of controllers whose own list the gateway writes."""
        for door_id, table in self._config.doors.items():
            name = table.strike.device
            driver = self._drivers[name]
            if getattr(driver, "keeps_cards", False):
                yield Member(
                    cast("KeepsCards", driver),
                    door_id,
                    partial(self._is_online, name),
                    self.doors[door_id].admits_by_card_alone,
                )

    def _is_online(self, name: str) -> bool:
        return bool(self.devices[name].online)

    async def self_test(self) -> None:
        """Return when every door's lanes have answered (watchdog)."""
        for controller in self.doors.values():
            await controller.self_test()

    async def _look_at_modes(self) -> None:
        while True:
            self.look_at_modes()
            await asyncio.sleep(MODES_EVERY.total_seconds())

    def look_at_modes(self) -> None:
        """See whether another mode is in force anywhere, and act on it; and tell of a time that is
        believed more or less than before. Never waits.
        """
        trust, before = self._clock.trust(), self._trust
        self._trust = trust
        for name, controller in self.doors.items():
            controller.look_at_mode()
            if trust is not before:
                self._on_change(name)

    def next_mode_change(self) -> datetime | None:
        """The next instant at which a schedule, or the records' age, may change a mode."""
        force = self._in_force()
        moment = Moment(self._clock.monotonic(), self._clock.now(), int(self._clock.trust()))
        standing = Standing(moment, self._clock.trust().decides_as_trusted, force.as_of)
        changes = (next_wall_change(door, force.records, standing) for door in self.doors)
        return min((each for each in changes if each is not None), default=None)

    def odd_wiring(self) -> list[str]:
        """Rules in the records that the wiring here can't follow as they are meant."""
        found = []
        tables = self._in_force().records.tables
        doors = tables.doors
        found += [
            f"zone {zone}: is in no record: the assurance that it asks for is asked of nobody"
            for zone in self._config.zones
            if zone not in tables.zones
        ]
        for door_id, table in self._config.doors.items():
            door = doors.get(door_id)
            if door is None:
                continue
            sides = {reader.side for reader in table.readers}
            if door.antipassback == "hard" and "out" not in sides:
                found.append(
                    f"door {door_id}: antipassback: hard, but no reader on the way out: whoever "
                    "leaves by handle or button is kept out until forgiven"
                )
            partners = [other for other, each in doors.items() if each.interlock == door.interlock]
            elsewhere = [other for other in partners if other not in self.doors]
            if door.interlock is not None and elsewhere:
                found.append(
                    f"door {door_id}: interlock: {', '.join(elsewhere)} isn't controlled by this "
                    "box, so it is never known to be shut: nobody is let in"
                )
            if door.interlock is not None and table.contact is None:
                found.append(
                    f"door {door_id}: interlock: no contact: it counts as shut when it is locked"
                )
            shared = any(reader.shared for reader in table.readers)
            if shared and table.contact is None and door.max_occupancy is not None:
                found.append(
                    f"door {door_id}: max_occupancy: its reader has several doors and there is no "
                    "contact: one tap counts as a person at every door that it opens. Limit no "
                    "zone that a lift leads to"
                )
            if door.max_occupancy is not None and "out" not in sides and table.rex is None:
                found.append(
                    f"door {door_id}: max_occupancy: nothing here counts who leaves: neither a "
                    "reader on the way out nor a REX"
                )
        return found

    async def remote_unlock(
        self, door: str, event: events.RemoteUnlock, until: timedelta
    ) -> RemoteOutcome:
        """Release a door once by a signed command's right, before `until`."""
        return await self.doors[door].remote_unlock(event, until)

    async def remote_request(
        self, door: str, holder: str, remote: events.Remote, until: timedelta
    ) -> RemoteOutcome:
        """Decide a holder's request from afar, and carry it out before `until`."""
        return await self.doors[door].remote_request(holder, remote, until)

    def identify(self, door: str) -> None:
        """Have the readers of a door blink and beep. Never waits."""
        task = asyncio.get_running_loop().create_task(self.doors[door].identify())
        self._asides.add(task)
        task.add_done_callback(self._asides.discard)

    @property
    def door_ids(self) -> tuple[str, ...]:
        """The doors that this box controls."""
        return tuple(self.doors)

    def _unsecured(self, door_id: str) -> tuple[str, ...]:
        """The other doors of a door's interlock that aren't known to be closed and locked."""
        doors = self._in_force().records.tables.doors
        name = doors[door_id].interlock
        return tuple(
            other
            for other, door in sorted(doors.items())
            if other != door_id
            and door.interlock == name
            and (other not in self.doors or self.doors[other].may_be_open())
        )

    def readers_online(self, door_id: str) -> dict[str, bool]:
        """The readers of a door, and whether each answers."""
        readers = self._config.doors[door_id].readers
        return {reader.device: bool(self.devices[reader.device].online) for reader in readers}

    async def _keep(self, name: str) -> None:
        driver = self._drivers[name]
        await keep_running(
            name,
            lambda: driver.run(self.take),
            clock=self._clock,
            rng=self._rng,
            on_down=lambda why: self.take(DeviceOffline(name, why, self._clock.monotonic())),
        )

    # --- Facts -----------------------------------------------------------------------------------

    def take(self, fact: Fact) -> None:
        """Bring a fact to its door; never blocks and never raises."""
        match fact:
            case CredentialPresented() if self._readers_live:
                if fact.kind == "wiegand" and fact.device in self._points.boards:
                    self.card_lists.presented(fact.value)
                places = self._points.readers.get(fact.device, ())
                shared = self._shared_tap(len(places)) if len(places) > 1 else None
                for door, side in places:
                    tap = CardTapped(
                        fact.device,
                        side,
                        fact.kind,
                        fact.value,
                        fact.at,
                        fact.counter,
                        fact.began,
                        waits=len(places) == 1,
                        shared=shared,
                    )
                    self.doors[door].tap(tap)
            case CredentialPresented():
                log.debug("presented before every strike was at rest", device=fact.device)
            case CredentialRefused():
                self._refused(fact)
            case AdmittedElsewhere():
                self._admitted(fact)
            case InputChanged():
                self._input_changed(fact)
            case InputFaulty():
                self._input_faulty(fact)
            case InputGlimpsed():
                # Whoever wants to get out doesn't wait for a contact to come to rest.
                self._rex_said(fact, sure=False)
            case OutputReported():
                said = StrikeSaid(Strike.ENERGISED if fact.energised else Strike.AT_REST)
                self._to_strike(fact.device, fact.output, said, fact.at)
            case UnexpectedOutput():
                self._unexpected(fact)
            case TamperChanged():
                self._case_opened(fact)
            case PowerChanged():
                self._power(fact)
            case BatteryReported():
                self.devices[fact.device].battery_percent = fact.percent
            case InstallWindowOpened():
                self._install_window(fact)
            case InstallWindowClosed():
                self._install_window(fact)
            case DeviceOnline():
                self._online(fact.device)
            case DeviceOffline():
                self._offline(fact)

    def _shared_tap(self, doors: int) -> SharedTap:
        tap = SharedTap(doors, self.record, self._shared_taps.discard)
        self._shared_taps.add(tap)
        return tap

    def _refused(self, fact: CredentialRefused) -> None:
        log.info("refused", device=fact.device, kind=fact.kind, why=fact.why)
        places = self._points.readers.get(fact.device, ())
        if places:
            (door, side), *others = places
            self.record(
                events.CredentialRefused(
                    **self._stamp(),
                    door=door,
                    side=side,
                    device=fact.device,
                    kind=fact.kind,
                    why=fact.why,
                    others=tuple(name for name, _ in others),
                )
            )
        for door, side in places:
            self.doors[door].show_refused(side)

    def _input_faulty(self, fact: InputFaulty) -> None:
        """What an input says is unknown: a contact is neither open nor closed, a REX isn't pressed,
        a case may be open.
        """
        point = (fact.device, fact.input)
        for door, name in self._points.at(*point):
            if self._broken.get((door, name)) == fact.what:
                continue
            self._broken[door, name] = fact.what
            self._wires(door, name, fact.what)
            if name == "rex":
                self._glimpsed.pop((door, False), None)
            if name == "tamper":
                self._switch_moved(door, fact, opened=True)

    def _wires_mended(self, fact: InputChanged) -> None:
        for door, name in self._points.at(fact.device, fact.input):
            if self._broken.pop((door, name), None) is not None:
                self._wires(door, name, None)

    def _input_changed(self, fact: InputChanged) -> None:
        self._wires_mended(fact)
        point = (fact.device, fact.input)
        if point in self._points.contacts:
            door, closed_when = self._points.contacts[point]
            closed = fact.active == (closed_when == "active")
            self._contacts[door] = Contact.CLOSED if closed else Contact.OPEN
            if (pair := self._supervised.get((door, "contact"))) is None:
                said = ContactSaid(self._contacts[door])
                self.doors[door].point(PointChanged(said, fact.at))
            else:
                self._wire_said(door, "contact", pair, fact, opposite=False)
        if point in self._points.rex:
            door, _ = self._points.rex[point]
            if pair := self._supervised.get((door, "rex")):
                self._wire_said(door, "rex", pair, fact, opposite=False)
        if point in self._points.opposites:
            door, name, _ = self._points.opposites[point]
            self._wire_said(door, name, self._supervised[door, name], fact, opposite=True)
        if point in self._points.tampers:
            door, closed_when = self._points.tampers[point]
            opened = fact.active != (closed_when == "active")
            self._switch_moved(door, fact, opened=opened)
        self._rex_said(fact, sure=True)

    def _wire_said(
        self, door: str, name: str, pair: SupervisedInput, fact: InputChanged, *, opposite: bool
    ) -> None:
        """One wire of a supervised input reported. A contact is believed once both agree on it."""
        pair.said(opposite=opposite, active=fact.active)
        if name == "contact" and pair.is_sound:
            self.doors[door].point(PointChanged(ContactSaid(self._contacts[door]), fact.at))

    def _rex_said(self, fact: InputChanged | InputGlimpsed, *, sure: bool) -> None:
        """Either wire of a REX lets people out, whatever is the matter with the other."""
        point = (fact.device, fact.input)
        if point in self._points.rex:
            door, pressed_when = self._points.rex[point]
            self._rex_wire(door, fact, pressed_when, opposite=False, sure=sure)
        if point in self._points.opposites:
            door, name, when = self._points.opposites[point]
            if name == "rex":
                pressed_when = "inactive" if when == "active" else "active"
                self._rex_wire(door, fact, pressed_when, opposite=True, sure=sure)

    def _rex_wire(
        self,
        door: str,
        fact: InputChanged | InputGlimpsed,
        pressed_when: _When,
        *,
        opposite: bool,
        sure: bool,
    ) -> None:
        wire = (door, opposite)
        glimpsed = self._glimpsed.pop(wire, None)
        # Nobody tells of a press that was over before it was sure: it must not hide the next one.
        known = sure and glimpsed is not None and fact.at - glimpsed < SURE_WITHIN
        if fact.active != (pressed_when == "active"):
            return
        if not sure:
            self._glimpsed[wire] = fact.at
        by, at = self._pressed.get(door, (opposite, fact.at))
        if known or (by != opposite and fact.at - at < SETTLE):
            return  # the same press
        self._pressed[door] = opposite, fact.at
        self.doors[door].point(PointChanged(RexPressed(), fact.at))

    def _supervise(self, door: str, name: str) -> SupervisedInput:
        return SupervisedInput(partial(self._wires, door, name))

    def _wires(self, door: str, name: str, fault: str | None) -> None:
        """The wires of a supervised input were found broken, or well again."""
        self._remember(f"input/{door}/{name}", *([] if fault is None else [fault]))
        self._on_change(door)
        log.warning("supervised input", door=door, point=name, fault=fault)
        if fault is None:
            self.record(events.InputRestored(**self._stamp(), door=door, point=name))
            return
        self.record(events.InputFault(**self._stamp(), door=door, point=name, what=fault))
        if name == "contact":
            change = PointChanged(ContactSaid(Contact.UNKNOWN), self._clock.monotonic())
            self.doors[door].point(change)

    def _unexpected(self, fact: UnexpectedOutput) -> None:
        door = self._points.strikes.get((fact.device, fact.output))
        log.error("output forced off", device=fact.device, output=fact.output, door=door)
        self.record(
            events.OutputForcedOff(
                at=self._clock.now(),
                trust=int(self._clock.trust()),
                device=fact.device,
                output=fact.output,
                door=door,
            )
        )

    def _admitted(self, fact: AdmittedElsewhere) -> None:
        found = self._in_force().records.find(fact.kind, fact.value)
        log.warning("admitted by controller", device=fact.device)
        self.record(
            events.AdmittedByController(
                **self._stamp(),
                device=fact.device,
                doors=tuple(door for door, _ in self._points.readers.get(fact.device, ())),
                holder=None if found is None else found.holder,
                credential=None if found is None else found.id,
            )
        )

    def _case_opened(self, fact: TamperChanged) -> None:
        device = self.devices[fact.device]
        if device.tampered != fact.active:
            # It stands while the device is lost: whoever opened a case may cut its wire next.
            device.tampered = fact.active
            self._remember(f"device/{fact.device}", *device.alarms)
            doors = tuple(sorted(self._points.doors_of(fact.device)))
            self._tamper(fact.device, None, doors, active=fact.active)

    def _switch_moved(self, door: str, fact: InputChanged | InputFaulty, *, opened: bool) -> None:
        if (door in self._switches_open) != opened:
            (self._switches_open.add if opened else self._switches_open.discard)(door)
            self._remember(f"switch/{door}", *(["tamper"] if opened else []))
            self._tamper(fact.device, fact.input, (door,), active=opened)

    def _tamper(
        self, device: str, number: int | None, doors: tuple[str, ...], *, active: bool
    ) -> None:
        log.warning("tamper", device=device, input=number, doors=doors, active=active)
        what = events.Tamper if active else events.TamperRestored
        self.record(what(**self._stamp(), device=device, doors=doors, input=number))
        for door in doors:
            self._on_change(door)

    def _power(self, fact: PowerChanged) -> None:
        device = self.devices[fact.device]
        if device.power_failed == fact.failed:
            return
        device.power_failed = fact.failed
        self._remember(f"device/{fact.device}", *device.alarms)
        log.warning("power", device=fact.device, failed=fact.failed)
        what = events.PowerFailed if fact.failed else events.PowerRestored
        self.record(what(**self._stamp(), device=fact.device))

    def _install_window(self, fact: InstallWindowOpened | InstallWindowClosed) -> None:
        if isinstance(fact, InstallWindowClosed):
            log.warning("install window closed", device=fact.device, key_set=fact.key_set)
            closed = events.InstallWindowClosed(
                **self._stamp(), device=fact.device, key_set=fact.key_set
            )
            self.record(closed)
            return
        seconds = round(fact.lasts.total_seconds())
        log.warning("install window open", device=fact.device, seconds=seconds)
        opened = events.InstallWindowOpened(**self._stamp(), device=fact.device, seconds=seconds)
        self.record(opened)

    def _stamp(self) -> dict[str, Any]:
        return {"at": self._clock.now(), "trust": int(self._clock.trust())}

    def troubles(self, door_id: str) -> list[str]:
        """What is wrong at a door besides its leaf: `tamper`, where a case is open (a device's own,
        or one with a switch in it), and `input_fault`.
        """
        tampered = door_id in self._switches_open or any(
            device.tampered and door_id in self._points.doors_of(name)
            for name, device in self.devices.items()
        )
        faulty = any(door == door_id for door, _ in self._broken) or any(
            pair.faulty for (door, _), pair in self._supervised.items() if door == door_id
        )
        return [name for name, found in (("tamper", tampered), ("input_fault", faulty)) if found]

    def _online(self, name: str) -> None:
        device = self.devices[name]
        if device.online:
            return
        device.online, device.why = True, None
        log.info("online", device=name)
        self.record(
            events.DeviceUp(at=self._clock.now(), trust=int(self._clock.trust()), device=name)
        )
        if all(self.devices[board].online for board in self._points.boards):
            self._relays_up.set()
        self._changed(name)

    def _offline(self, fact: DeviceOffline) -> None:
        device = self.devices[fact.device]
        was, device.online, device.why = device.online, False, fact.why
        if was is False:
            return  # said already: one line down, one line back
        log.warning("offline", device=fact.device, why=fact.why)
        self.record(
            events.DeviceDown(
                at=self._clock.now(),
                trust=int(self._clock.trust()),
                device=fact.device,
                why=fact.why,
            )
        )
        for (name, _), (door, _when) in self._points.contacts.items():
            if name == fact.device:
                if pair := self._supervised.get((door, "contact")):
                    pair.forget()
                self.doors[door].point(PointChanged(ContactSaid(Contact.UNKNOWN), fact.at))
        for (name, _), (door, _when) in self._points.rex.items():
            if name == fact.device:
                if pair := self._supervised.get((door, "rex")):
                    pair.forget()
                for opposite in (False, True):
                    self._glimpsed.pop((door, opposite), None)
        for name, output in self._points.strikes:
            if name == fact.device:
                self._to_strike(name, output, StrikeSaid(Strike.UNKNOWN), fact.at)
        self._changed(fact.device)

    def _to_strike(self, device: str, output: int, said: StrikeSaid, at: timedelta) -> None:
        door = self._points.strikes.get((device, output))
        if door is not None:
            self.doors[door].point(PointChanged(said, at))

    def _changed(self, device: str) -> None:
        for door in self._points.doors_of(device):
            self._on_change(door)

    def record(self, event: events.Event) -> None:
        """Record what no door waits for, with what is to be remembered by then."""
        state = self.memory.take_unwritten()
        try:
            self._journal.append(event, state)
        except StorageError as error:
            self.memory.give_back(state)
            log.error("event not kept", why=str(error))

    # --- Effects ---------------------------------------------------------------------------------

    def _wiring(self, table: DoorTable) -> Wiring:
        indicators: dict[Side, tuple[Callable[[Signal], Awaitable[None]], ...]] = {}
        for reader in table.readers:
            driver = self._drivers[reader.device]
            if isinstance(driver, Indicates):
                indicate = driver.indicate
                if reader.shared:
                    shared = self._shared.setdefault(
                        reader.device, SharedReader(driver.indicate, self._clock)
                    )
                    indicate = shared.indicate
                indicators[reader.side] = (*indicators.get(reader.side, ()), indicate)
        return Wiring(
            pulse=self._pulse(table.strike.device, table.strike.output),
            rest=self._rest(table.strike.device, table.strike.output),
            indicators=indicators,
            has_contact=table.contact is not None,
            relock=table.relock,
            pre_alarm=timedelta(seconds=table.pre_alarm_s),
            assurance=table.assurance,
            zone_assurance={
                zone: zone_table.assurance for zone, zone_table in self._config.zones.items()
            },
            antipassback_forgets=(
                None
                if table.antipassback_forgets_min is None
                else timedelta(minutes=table.antipassback_forgets_min)
            ),
            unreleased_opening_is_forced=(
                table.contact is None or table.contact.unreleased_opening == "forced"
            ),
        )

    def _pulse(self, device: str, output: int) -> Callable[[timedelta], Awaitable[None]]:
        # The config check has made sure of the capability.
        driver = cast("PulsesOutput", self._drivers[device])

        async def pulse(duration: timedelta) -> None:
            if not self.devices[device].online:
                raise DeviceUnavailable(f"{device}: offline: {self.devices[device].why}")
            await driver.pulse(output, duration)

        return pulse

    def _rest(self, device: str, output: int) -> Callable[[], Awaitable[None]]:
        driver = cast("PulsesOutput", self._drivers[device])

        async def rest() -> None:
            if not self.devices[device].online:
                raise DeviceUnavailable(f"{device}: offline: {self.devices[device].why}")
            await driver.rest(output)

        return rest


class _Points:
    """Which door a device's points belong to."""

    def __init__(self, doors: Mapping[str, DoorTable]) -> None:
        self.readers: dict[str, tuple[tuple[str, Side], ...]] = {}
        self.contacts: dict[tuple[str, int], tuple[str, _When]] = {}
        self.rex: dict[tuple[str, int], tuple[str, _When]] = {}
        self.tampers: dict[tuple[str, int], tuple[str, _When]] = {}
        self.strikes: dict[tuple[str, int], str] = {}
        self.opposites: dict[tuple[str, int], tuple[str, str, _When]] = {}
        """Door, `contact` or `rex`, and when its main input is active by the config."""
        for door_id, door in doors.items():
            self.strikes[door.strike.device, door.strike.output] = door_id
            if door.contact is not None:
                contact = door.contact
                self.contacts[contact.device, contact.input] = (door_id, contact.closed_when)
                if contact.opposite_input is not None:
                    there = (contact.device, contact.opposite_input)
                    self.opposites[there] = (door_id, "contact", contact.closed_when)
            if door.rex is not None:
                rex = door.rex
                self.rex[rex.device, rex.input] = (door_id, rex.pressed_when)
                if rex.opposite_input is not None:
                    there = (rex.device, rex.opposite_input)
                    self.opposites[there] = (door_id, "rex", rex.pressed_when)
            if door.tamper is not None:
                switch = door.tamper
                self.tampers[switch.device, switch.input] = (door_id, switch.closed_when)
            for reader in door.readers:
                at = self.readers.get(reader.device, ())
                self.readers[reader.device] = (*at, (door_id, reader.side))
        self.boards = {device for device, _ in self.strikes}

    def at(self, device: str, number: int) -> Iterator[tuple[str, str]]:
        """The door that has an input, and as what."""
        tables = (("contact", self.contacts), ("rex", self.rex), ("tamper", self.tampers))
        for name, points in tables:
            if (found := points.get((device, number))) is not None:
                yield found[0], name

    def doors_of(self, device: str) -> set[str]:
        """The doors that have a point or a reader on the device."""
        found: set[str] = set()
        tables: tuple[Mapping[Any, Any], ...] = (
            self.contacts,
            self.rex,
            self.tampers,
            self.strikes,
        )
        for points in tables:
            for (name, _), value in points.items():
                if name == device:
                    found.add(value if isinstance(value, str) else value[0])
        found.update(door for door, _ in self.readers.get(device, ()))
        return found
