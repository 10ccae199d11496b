"""A few controlled doors that share a memory, over restarts, in virtual time."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Any

from gateway.control.door import CardTapped, DoorController, InForce, PointChanged, Wiring
from gateway.control.memory import SiteMemory
from gateway.control.orders import Orders
from gateway.control.site import MODES_EVERY
from gateway.domain import events
from gateway.domain.break_glass import Role
from gateway.domain.carried_grant import Presented
from gateway.domain.door_state import (
    Contact,
    ContactSaid,
    RexPressed,
    Strike,
    StrikeSaid,
)
from gateway.domain.entitlements import Entitlements, RecordSet
from gateway.domain.record_faults import parse_records
from gateway.domain.signal import Signal
from gateway.errors import DeviceUnavailable
from tests.control.test_door import Paper
from tests.virtual import VirtualClock

SAM, MAYA, ONCE = "04A1B2C3D4E5F6", "04A1B2C3D4E5F7", "04A1B2C3D4E5F8"
SAM_PIN, MAYA_PIN, DURESS_PIN = "2468", "1357", "8642"


def record_rows(
    doors: dict[str, dict[str, Any]] | None = None,
    more: list[dict[str, Any]] | None = None,
    **policy: Any,
) -> list[dict[str, Any]]:
    """`front` leads from `out` to `club`, `inner` on to `vault`; Sam and Maya may everywhere."""
    doors = doors or {}
    return [
        {"type": "site", "id": "LON", "timezone": "Europe/London"},
        {"type": "policy", "id": "policy", **policy},
        {"type": "zone", "id": "out", "category": "public"},
        {"type": "zone", "id": "club", "category": "member"},
        {"type": "zone", "id": "vault", "category": "restricted"},
        {"type": "door", "id": "front", "from_zone": "out", "to_zone": "club",
         **doors.get("front", {})},
        {"type": "door", "id": "inner", "from_zone": "club", "to_zone": "vault",
         **doors.get("inner", {})},
        {"type": "group", "id": "g", "zones": ["club", "vault"], "doors": [], "schedule": "24x7"},
        {"type": "holder", "id": "sam", "persona": "staff", "status": "active", "groups": ["g"]},
        {"type": "holder", "id": "maya", "persona": "member", "status": "active",
         "groups": ["g"]},
        {"type": "credential", "id": "c-sam", "holder": "sam", "kind": "uid", "value": SAM},
        {"type": "credential", "id": "c-maya", "holder": "maya", "kind": "uid", "value": MAYA},
        {"type": "credential", "id": "c-once", "holder": "maya", "kind": "uid", "value": ONCE,
         "max_uses": 1},
        {"type": "credential", "id": "p-sam", "holder": "sam", "kind": "pin", "value": SAM_PIN},
        {"type": "credential", "id": "p-duress", "holder": "sam", "kind": "pin",
         "value": DURESS_PIN, "duress": True},
        {"type": "credential", "id": "p-maya", "holder": "maya", "kind": "pin",
         "value": MAYA_PIN},
        *(more or []),
    ]  # fmt: skip


def records(
    doors: dict[str, dict[str, Any]] | None = None,
    more: list[dict[str, Any]] | None = None,
    **policy: Any,
) -> Entitlements:
    """`record_rows`, in force."""
    rows = record_rows(doors, more, **policy)
    return RecordSet(parse_records(json.dumps(row).encode() for row in rows).records)


class Front:
    """One door's devices: a strike that releases itself, a contact, a reader's lamp."""

    def __init__(self) -> None:
        self.until = timedelta()
        self.pulses: list[float] = []
        self.rests = 0
        self.shown: list[Signal] = []
        self.offline = ""


class Club:
    """The site under test."""

    def __init__(
        self,
        paper: Paper,
        boot: str,
        in_force: Entitlements,
        wiring: dict[str, Any],
        break_glass: tuple[Role, ...],
        verify_grant: Callable[[str], Presented],
        clock: VirtualClock | None,
    ) -> None:
        self.clock = clock or VirtualClock()
        self.paper = paper
        self.tick_s = MODES_EVERY.total_seconds()
        self.force = InForce(in_force, "r1", None)
        stored = dict(paper.state)
        self.memory = SiteMemory(lambda: stored, boot=boot, clock=self.clock)
        self.fronts = {name: Front() for name in ("front", "inner")}
        self.doors = {
            name: DoorController(
                name,
                self._wiring(front, wiring),
                journal=paper,
                memory=self.memory,
                in_force=lambda: self.force,
                clock=self.clock,
                on_change=lambda _door: None,
                unsecured=self._unsecured,
                break_glass=break_glass,
                verify_grant=verify_grant,
            )
            for name, front in self.fronts.items()
        }
        self.orders = Orders(
            self,
            journal=paper,
            memory=self.memory,
            in_force=lambda: self.force,
            clock=self.clock,
        )

    @property
    def door_ids(self) -> tuple[str, ...]:
        return tuple(self.doors)

    def look_at_modes(self) -> None:
        for door in self.doors.values():
            door.look_at_mode()

    async def order(
        self, mode: Any, scope: Any = "site", name: str = "", seconds: int | None = None
    ) -> None:
        await self.orders.order(scope, name, mode, by="uid 0", why="drill", seconds=seconds)
        await asyncio.sleep(0.01)

    def _unsecured(self, door_id: str) -> tuple[str, ...]:
        return tuple(
            name for name, door in self.doors.items() if name != door_id and door.may_be_open()
        )

    def _wiring(self, front: Front, more: dict[str, Any]) -> Wiring:
        async def pulse(duration: timedelta) -> None:
            await asyncio.sleep(0.001)
            if front.offline:
                raise DeviceUnavailable(front.offline)
            front.pulses.append(duration.total_seconds())
            front.until = self.clock.monotonic() + duration

        async def rest() -> None:
            if front.offline:
                raise DeviceUnavailable(front.offline)
            front.rests += 1
            front.until = timedelta()

        async def show(signal: Signal) -> None:
            front.shown.append(signal)

        indicators: dict[Any, tuple[Callable[[Signal], Awaitable[None]], ...]] = {
            "in": (show,),
            "out": (show,),
        }
        return Wiring(pulse=pulse, rest=rest, indicators=indicators, **more)

    async def tap(self, *what: Any, **options: Any) -> events.AccessDecided:
        """Present something; what was decided."""
        before = len(self.paper.events)
        self.present(*what, **options)
        await asyncio.sleep(0.06)  # nobody taps more often than a door listens
        return next(e for e in self.paper.events[before:] if isinstance(e, events.AccessDecided))

    def present(
        self,
        value: str,
        door: str = "front",
        side: Any = "in",
        kind: str = "",
        counter: int | None = None,
    ) -> None:
        """Present something, whatever comes of it."""
        kind = kind or ("pin" if len(value) <= 8 and value.isdigit() else "uid")
        tap = CardTapped("reader", side, kind, value, self.clock.monotonic(), counter)
        self.doors[door].tap(tap)

    async def says(self, tap: str, **options: Any) -> str:
        return (await self.tap(tap, **options)).reason

    async def contact(self, contact: Contact, door: str = "front") -> None:
        self._point(door, ContactSaid(contact))
        await asyncio.sleep(0.01)

    async def rex(self, door: str = "front") -> None:
        self._point(door, RexPressed())
        await asyncio.sleep(0.01)

    async def walk(self, door: str = "front", for_s: float = 1) -> None:
        """Open the door and let it close."""
        await self.contact(Contact.OPEN, door)
        await asyncio.sleep(for_s)
        await self.contact(Contact.CLOSED, door)

    def _point(self, door: str, fact: Any) -> None:
        self.doors[door].point(PointChanged(fact, self.clock.monotonic()))

    def mode(self, door: str = "front") -> str:
        return self.doors[door].mode().mode

    async def ticking(self) -> None:
        while True:
            self.look_at_modes()
            await asyncio.sleep(self.tick_s)

    def released(self, door: str = "front") -> bool:
        return self.clock.monotonic() < self.fronts[door].until

    def now(self) -> datetime:
        return self.clock.now()

    def found(self, kind: type[Any]) -> list[Any]:
        return [event for event in self.paper.events if isinstance(event, kind)]


@asynccontextmanager
async def club(
    in_force: Entitlements | None = None,
    *,
    paper: Paper | None = None,
    boot: str = "boot-1",
    break_glass: tuple[Role, ...] = (),
    verify_grant: Callable[[str], Presented] = lambda _text: "grant_unknown_key",
    clock: VirtualClock | None = None,
    **wiring: Any,
) -> AsyncIterator[Club]:
    """The site, running; give it an earlier one's `paper` to begin where that one ended."""
    rows = in_force or records()
    made = Club(paper or Paper(), boot, rows, wiring, break_glass, verify_grant, clock)
    tasks = [asyncio.create_task(door.run()) for door in made.doors.values()]
    tasks.append(asyncio.create_task(made.ticking()))
    await asyncio.sleep(0)
    for door in made.doors:
        made._point(door, StrikeSaid(Strike.AT_REST))
        if wiring.get("has_contact", True):
            await made.contact(Contact.CLOSED, door)
    try:
        yield made
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
