"""A core without doors or disk: a journal in a list, behind the real `CoreApi`."""

import asyncio
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from gateway.clock import monotonic
from gateway.domain.events import DoorClosed, Duress, Event, encode
from gateway.errors import OrderRefused, RecordFault, RecordsRefused
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
    ProofRow,
    Sealed,
    SessionSaid,
    Status,
    UrgentEvents,
)
from gateway.ipc.outbox import Outbox

NOON = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)


class MemoryCore:
    """Implements `gateway.ipc.api.CoreApi`."""

    def __init__(self, stream: str = "s-1") -> None:
        self.stream = stream
        self.bodies: list[bytes] = []
        self.acknowledged = 0
        self.urgent: list[int] = []
        self.suspect_acks: list[int] = []
        self.doors = DoorStates()
        self.outbox = Outbox()
        self.delivered: list[Deliver] = []
        self.sessions: list[SessionSaid] = []
        self.orders: list[tuple[Order | OpenOnce | Forgive, str]] = []
        self.imported: list[bytes] = []
        self.erased: list[tuple[str, str, str]] = []
        self._grown: set[asyncio.Event] = set()
        self._status_gate: asyncio.Event | None = None

    def record(self, count: int = 1) -> None:
        """Journal `count` more events, each recognisable by its door."""
        for _ in range(count):
            door = f"door-{len(self.bodies) + 1}"
            self.bodies.append(encode(DoorClosed(at=NOON, trust=2, door=door)))
        for grown in self._grown:
            grown.set()

    def record_event(self, event: Event) -> None:
        """Journal this event."""
        self.bodies.append(encode(event))
        self.record(0)

    def record_duress(self) -> int:
        """Journal an emergency; its number."""
        self.bodies.append(
            encode(Duress(at=NOON, trust=2, door="street", holder="h-1", outcome="grant"))
        )
        self.urgent.append(len(self.bodies))
        self.record(0)
        return len(self.bodies)

    @contextmanager
    def hanging(self) -> Iterator[None]:
        """No status is answered in the block."""
        self._status_gate = asyncio.Event()
        try:
            yield
        finally:
            self._status_gate.set()
            self._status_gate = None

    async def events_after(self, after: int, limit: int) -> Events:
        found = self.bodies[after : after + limit]
        return Events(
            stream=self.stream,
            first_seq=after + 1,
            bodies=found,
            at=NOON,
            at_mono_s=monotonic().total_seconds(),
        )

    async def wait_beyond(self, after: int) -> None:
        grown = asyncio.Event()
        self._grown.add(grown)
        try:
            while len(self.bodies) <= after:
                grown.clear()
                await grown.wait()
        finally:
            self._grown.discard(grown)

    async def urgent_after(self, after: int, limit: int) -> UrgentEvents:
        found = [seq for seq in self.urgent if seq > after][:limit]
        events = [NumberedBody(seq, self.bodies[seq - 1]) for seq in found]
        return UrgentEvents(stream=self.stream, events=events)

    async def wait_urgent(self, after: int) -> None:
        while not self.urgent or self.urgent[-1] <= after:
            await self.wait_beyond(len(self.bodies))

    async def report_ack(self, stream: str, seq: int) -> int:
        self.suspect_acks.append(seq)
        return self.acknowledged

    async def export_head(self) -> ExportHead:
        last = len(self.bodies)
        return ExportHead(
            site="LON", gateway="lon-1", stream=self.stream, after=0, anchor=bytes(32), last=last
        )

    async def proof_after(self, after: int, limit: int) -> Proof:
        found = enumerate(self.bodies[after : after + limit], after + 1)
        return Proof(rows=[ProofRow(seq, body, None, None, bytes(32)) for seq, body in found])

    async def seal(self, after: int, seq: int) -> Sealed:
        return Sealed(message=b"sealed")

    async def erase(self, holder: str, by: str, why: str) -> Erased:
        self.erased.append((holder, by, why))
        return Erased(events=1, kept=0, set_aside=[])

    async def acknowledge(self, stream: str, seq: int) -> int:
        if stream == self.stream and seq <= len(self.bodies):
            self.acknowledged = max(self.acknowledged, seq)
        return self.acknowledged

    async def deliver(self, deliver: Deliver) -> Delivered:
        self.delivered.append(deliver)
        if deliver.topic == "ack" and deliver.sealed.isdigit():
            self.acknowledged = max(self.acknowledged, int(deliver.sealed))
        return Delivered(stream=self.stream, acknowledged=self.acknowledged)

    async def session_said(self, said: SessionSaid) -> Delivered:
        self.sessions.append(said)
        return Delivered(stream=self.stream, acknowledged=self.acknowledged)

    def watch_outbox(self) -> AsyncGenerator[Outgoing, None]:
        return self.outbox.watch()

    def watch_doors(self) -> AsyncGenerator[DoorStateReport, None]:
        return self.doors.watch()

    async def status(self) -> Status:
        if self._status_gate is not None:
            await self._status_gate.wait()
        return Status(
            version="0.1.0",
            site="LON",
            gateway="lon-1",
            revision="r-7",
            as_of=NOON,
            at=NOON,
            trust=2,
            uptime_s=12.5,
            stream=self.stream,
            last_seq=len(self.bodies),
            acknowledged_seq=self.acknowledged,
            backlog=len(self.bodies) - self.acknowledged,
            devices={"relays-a": DeviceStatus(online=False, why="silent")},
            doors=self.doors.latest(),
            journal=JournalStatus(healthy=True),
            problems=[],
        )

    async def order(self, order: Order, by: str) -> Obeyed:
        if order.id == "nowhere":
            raise OrderRefused("no door 'nowhere'")
        self.orders.append((order, by))
        return Obeyed(modes={"street": order.mode})

    async def open_once(self, wanted: OpenOnce, by: str) -> Opened:
        if wanted.door == "nowhere":
            raise OrderRefused("no door 'nowhere'")
        self.orders.append((wanted, by))
        return Opened(door=wanted.door, seq=7)

    async def forgive(self, forgive: Forgive, by: str) -> Obeyed:
        self.orders.append((forgive, by))
        return Obeyed(forgotten=1)

    async def muster(self) -> Muster:
        return Muster(at=NOON, zones=[])

    async def preview(self, door: str, days: int) -> Preview:
        return Preview(door=door, mode="controlled", changes=[], after_first=False)

    async def import_records(self, records: bytes) -> ImportDone:
        if records.startswith(b"bad"):
            raise RecordsRefused([RecordFault("grant", "g-1", "door", "no such door")])
        self.imported.append(records)
        return ImportDone(revision="r-8", counts={"grant": 1}, warnings=["no holiday set"])


def door_state(door: str = "street", contact: str = "closed") -> DoorStateReport:
    """A plausible report."""
    return DoorStateReport(
        door=door,
        mode="normal",
        locked=True,
        contact="open" if contact == "open" else "closed",
        readers_online={"street-reader": True},
        trust=2,
        at=NOON,
    )
