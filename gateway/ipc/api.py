"""What the core does for its clients: the server calls this and knows nothing else of the core."""

from collections.abc import AsyncGenerator
from typing import Protocol

from gateway.ipc.messages import (
    Deliver,
    Delivered,
    DoorStateReport,
    Erased,
    Events,
    ExportHead,
    Forgive,
    ImportDone,
    Muster,
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


class CoreApi(Protocol):
    """The core, as its socket sees it.

    A GatewayError becomes a `Problem` for the client that asked. Any other exception is a defect of
    the core and ends it. A call is cancelled when its client is gone.
    """

    async def events_after(self, after: int, limit: int) -> Events:
        """At most `limit` events of the journal with `seq` above `after`, oldest first, at once.

        `stream` is the current stream also where there are none; `first_seq` is then `after + 1`.
        """

    async def wait_beyond(self, after: int) -> None:
        """Return as soon as the journal has an event with `seq` above `after`."""

    async def urgent_after(self, after: int, limit: int) -> UrgentEvents:
        """At most `limit` alarms and emergencies above `after`, oldest first, at once."""

    async def wait_urgent(self, after: int) -> None:
        """Return as soon as the journal has an alarm or emergency with `seq` above `after`."""

    async def report_ack(self, stream: str, seq: int) -> int:
        """Somebody acknowledged what was never sent: remember that. Returns as `acknowledge`."""

    async def acknowledge(self, stream: str, seq: int) -> int:
        """The cloud has everything of `stream` up to `seq`: remember it, durably.

        Returns up to where the stream is acknowledged now. That never falls: a lower `seq` than
        before, another stream's or one that the journal hasn't reached changes nothing.
        """

    async def export_head(self) -> ExportHead:
        """Where an export of the journal begins and ends."""

    async def proof_after(self, after: int, limit: int) -> Proof:
        """At most `limit` events with `seq` above `after` as they are chained; fewer where they
        are large.
        """

    async def seal(self, after: int, seq: int) -> Sealed:
        """The gateway's signature on the events after `after` up to `seq`.

        Raises:
            StorageError: they aren't there, or the gateway has no key.
        """

    async def erase(self, holder: str, by: str, why: str) -> Erased:
        """Delete what acknowledged events tell of a holder, by the order of `by`."""

    async def deliver(self, deliver: Deliver) -> Delivered:
        """Take in something sealed, and judge it; what is thought of it is told elsewhere."""

    async def session_said(self, said: SessionSaid) -> Delivered:
        """Take in the link's report on its session with the broker."""

    def watch_outbox(self) -> AsyncGenerator[Outgoing, None]:
        """What is to be published, as it comes, for ever (`gateway.ipc.outbox.Outbox`)."""

    def watch_doors(self) -> AsyncGenerator[DoorStateReport, None]:
        """Every door's state now, then each change, for ever (`gateway.ipc.doors.DoorStates`)."""

    async def status(self) -> Status:
        """How the gateway is, at this moment."""

    async def order(self, order: Order, by: str) -> Obeyed:
        """Set or end a mode by the order of `by`.

        Raises:
            OrderRefused: there is no such door or zone, or a time is missing.
            StorageError: it can't be recorded.
        """

    async def open_once(self, wanted: OpenOnce, by: str) -> Opened:
        """Release a door once by the order of `by`; raises as `order`, also where the door or its
        device says no.
        """

    async def forgive(self, forgive: Forgive, by: str) -> Obeyed:
        """Forget a holder's place and PIN lockout, or a zone's people; raises as `order`."""

    async def muster(self) -> Muster:
        """Who is in which zone."""

    async def preview(self, door: str, days: int) -> Preview:
        """When a door's schedule unlocks it. Raises OrderRefused."""

    async def import_records(self, records: bytes) -> ImportDone:
        """Put entitlement records (JSON Lines) in force.

        Raises:
            RecordsRefused: The set has faults; what was in force stays.
        """
