"""A club whose source of truth signs: commands, beacons and acknowledgements, in virtual time."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec

from gateway.clock import SystemClock
from gateway.config.site import TrustTable
from gateway.control.door import RemoteOutcome
from gateway.domain import events
from gateway.ipc.messages import Deliver
from gateway.ipc.outbox import Outbox
from gateway.processes.downlink import Downlink, Parts
from gateway.trust import cose
from gateway.trust.beacon import ACK_CONTEXT, BEACON_CONTEXT
from gateway.trust.commands import RESULT_CONTEXT, Command, Result, seal_command
from gateway.trust.root import KeySet, Roots, first_root
from tests.control.site import Club, club
from tests.control.test_door import Paper
from tests.trust.keyring import key, kid, message, root_document
from tests.virtual import START

GATEWAY_KEY = key("the gateway's own")
SECOND = timedelta(seconds=1)
DIGEST = bytes(range(32))


def keys(**changed: Any) -> KeySet:
    """The site's key set, as of `START`."""
    start = int(START.timestamp())
    how = {"made": start - 86_400, "expires": start + 365 * 86_400} | changed
    return first_root(root_document(**how), "LON")


class Signing:
    """The site's downlink, and the source of truth that it listens to."""

    def __init__(self, c: Club, paper: Paper, host_off: timedelta) -> None:
        self.club = c
        self.cloud_off = timedelta()
        self.host_off = host_off
        """How far the machine's clock is ahead of the source of truth's."""
        self.clock = SystemClock(
            floor=None,
            vouched=lambda: c.clock.trusted,
            wall=lambda: self.now() + self.host_off,
            monotonic=c.clock.monotonic,
        )
        self.vouched: list[datetime] = []
        self.acknowledged: list[tuple[str, int]] = []
        self.ahead: list[int] = []
        self.asked = 0
        self.wanted: list[int] = []
        """The revision that each beacon named."""
        self.in_force: tuple[int, bytes] | None = (7, DIGEST)
        self.roots = Roots(keys(), Path("/nowhere"))
        self.outbox = Outbox()
        self.unlocking: Any = None
        self.root_floor = 1
        self.untimed_root: int | None = None
        self.floors: list[datetime] = []
        self.retimings: list[datetime] = []
        parts: Any = SimpleNamespace(
            config=SimpleNamespace(
                site=SimpleNamespace(id="LON", gateway="gw-1"), trust=TrustTable(root="/root")
            ),
            clock=self.clock,
            journal=SimpleNamespace(
                append=paper.append, acknowledge=self._acknowledge, stream="s-1", last_committed=5
            ),
            cache=self,
            memory=c.memory,
            site=self,
            orders=c.orders,
            record=paper.append,
            report_ack=self._report_ack,
            set_floor=self._set_floor,
        )
        self.downlink = Downlink(
            Parts(*(getattr(parts, name) for name in Parts._fields)),
            self.roots,
            GATEWAY_KEY,
            self.outbox,
            in_force=lambda: self.in_force,
            refresh=self._refresh,
            wanted=lambda beacon: self.wanted.append(beacon.revision),
        )

    # --- The site ---

    @property
    def door_ids(self) -> tuple[str, ...]:
        return self.club.door_ids

    async def remote_unlock(
        self, door: str, event: events.RemoteUnlock, until: timedelta
    ) -> RemoteOutcome:
        return await self.club.doors[door].remote_unlock(event, until)

    async def remote_request(
        self, door: str, holder: str, remote: events.Remote, until: timedelta
    ) -> RemoteOutcome:
        return await self.club.doors[door].remote_request(holder, remote, until)

    def identify(self, door: str) -> None:
        self.unlocking = asyncio.get_running_loop().create_task(self.club.doors[door].identify())

    async def _acknowledge(self, stream: str, seq: int) -> None:
        self.acknowledged.append((stream, seq))

    async def _report_ack(self, _stream: str, seq: int) -> int:
        self.ahead.append(seq)
        return 0

    async def vouch(self, as_of: datetime) -> None:
        self.vouched.append(as_of)

    async def _set_floor(self, to: datetime) -> None:
        self.floors.append(to)

    async def retimed(self, now: datetime) -> None:
        self.retimings.append(now)
        self.untimed_root = None

    def _refresh(self) -> None:
        self.asked += 1

    # --- The source of truth ---

    def now(self) -> datetime:
        """True time."""
        return START + self.club.clock.monotonic()

    def command(self, act: Any = "unlock", **how: Any) -> Command:
        """A command of this moment; to unlock the front door where nothing else is said."""
        if act == "unlock":
            how = {"target": "front", "target_kind": "door"} | how
        issued = how.pop("issued", self.now().replace(microsecond=0))
        life = how.pop("life", 20)
        what: dict[str, Any] = {
            "cti": (self.club.clock.monotonic() // timedelta(microseconds=1)).to_bytes(16, "big"),
            "audience": "LON/gw-1",
            "issued": issued,
            "expires": issued + life * SECOND,
            "act": act,
            "by": "op-ivy",
            "why": "she rang",
        }
        return Command(**what | how)

    async def sends(self, sealed: bytes, topic: Any = "cmd", *, retained: bool = False) -> None:
        await self.downlink.take(Deliver(topic=topic, sealed=sealed, retained=retained))
        await asyncio.sleep(0.02)

    async def orders(self, act: Any = "unlock", *, again: bytes = b"", **how: Any) -> Result:
        """Have a command carried out; the signed result."""
        await self.sends(again or seal_command(self.command(act, **how), key("command-1")))
        return self.results()[-1]

    def results(self) -> list[Result]:
        """What was answered since this was last asked."""
        found = []
        while self.outbox._waiting:
            outgoing = self.outbox._waiting.popleft()
            assert outgoing.topic == "cmd/result"
            own = {cose.parse1(outgoing.payload).kid: GATEWAY_KEY.public_key()}
            opened = cose.verify1(outgoing.payload, own, context=RESULT_CONTEXT)
            payload: Any = cose.decode(opened.payload, bytes_max=1 << 16)
            found.append(msgspec.convert(payload, Result))
        return found

    def beacon(self, by: str = "freshness-1", **changed: Any) -> bytes:
        payload = {
            "site": "LON",
            "gateway": "gw-1",
            "revision": 7,
            "digest": DIGEST,
            "now_ms": int(self.now().timestamp() * 1000),
            "expires": int(self.now().timestamp()) + 600,
            "nonce": None,
            "root": 1,
        }
        return message(payload | changed, by, BEACON_CONTEXT)

    def ack(self, **changed: Any) -> bytes:
        payload = {"site": "LON", "gateway": "gw-1", "stream": "s-1", "seq": 5,
                   "at": int(self.now().timestamp())}  # fmt: skip
        return message(payload | changed, "freshness-1", ACK_CONTEXT)


@asynccontextmanager
async def signing(
    *, paper: Paper | None = None, host_off: timedelta = timedelta(), **how: Any
) -> AsyncIterator[Signing]:
    """The club, running, with its downlink."""
    paper = paper or Paper()
    async with club(how.pop("rows", None), paper=paper, **how) as c:
        # Doors and orders go by the time that the beacon vouches for.
        made = Signing(c, paper, host_off)
        try:
            yield made
        finally:
            await made.downlink.close()


__all__ = ["DIGEST", "GATEWAY_KEY", "Signing", "key", "keys", "kid", "signing"]
