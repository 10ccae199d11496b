"""A small site on simulated hardware, and the real processes, brokers and commands around it.

Two doors, each on a relay board of its own, so that one can lose its board and the other not:

    front   relays-a, output 1; REX on input 5; front-reader, front-keypad (a PIN alone opens)
    back    relays-b, output 2; REX on input 6; back-reader
"""

import asyncio
import json
import os
import random
import signal
import sqlite3
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import tomli_w

from gateway.domain import events
from gateway.errors import IpcError
from gateway.ipc.client import connect
from gateway.ipc.messages import Status
from gateway.journal.chain import commitment_to, genesis, link
from hwsim import observations as seen
from hwsim.site import Site, running_site
from tests.timing import allowed

REPOSITORY = Path(__file__).parents[2]
GATEWAY = (sys.executable, "-m", "gateway")

SAM, SAM_PIN = "04C0FFEE5EC7E1", "80417263"
MILO = "04C0FFEE5EC7E2"
"""Reported lost."""
STRANGER = "04C0FFEE5EC7FF"
NAMES = ("Samantha Quillfeather", "Milo Ravensbourne")

UNLOCK_S = 1
DEVICES = ("relays-a", "relays-b", "front-reader", "front-keypad", "back-reader")
START_S_MAX = 15.0
"""Not a promise: until here a machine under load may take to bring everything up."""

_NOTHING_OF_OURS = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")


def site_config(directory: Path, broker_port: int | None = None) -> dict[str, Any]:
    """The site's file. `simulated` puts the simulation's addresses into it."""

    def door(board: str, number: int, readers: Sequence[str]) -> dict[str, Any]:
        return {
            "lock": "fail_secure",
            "free_egress": "mechanical",
            "fire_release": "not_needed",
            "strike": {"device": board, "output": number, "relay_class": "R2"},
            "contact": {"device": board, "input": number, "closed_when": "active"},
            "rex": {"device": board, "input": number + 4, "pressed_when": "active"},
            "readers": [{"device": reader, "side": "in"} for reader in readers],
        }

    def board(last: int) -> dict[str, Any]:
        return {
            "driver": "modbus_relay",
            "host": f"192.168.70.{last}",
            "outputs": 8,
            "inputs": 8,
            "timed_pulse": True,
        }

    config: dict[str, Any] = {
        "version": 1,
        "site": {"id": "LON", "gateway": "lon-1"},
        "state": {
            "dir": str(directory / "state"),
            "socket": str(directory / "core.sock"),
            "credential_key": str(directory / "credential.key"),
        },
        "clock": {"trust": "host"},
        "devices": {
            "relays-a": board(10),
            "relays-b": board(11),
            "front-reader": {"driver": "pn532", "port": "/dev/serial/by-path/1"},
            "front-keypad": {"driver": "ascii_keypad", "port": "/dev/serial/by-path/2"},
            "back-reader": {"driver": "pn532", "port": "/dev/serial/by-path/3"},
        },
        "doors": {
            "front": door("relays-a", 1, ["front-reader", "front-keypad"]),
            "back": door("relays-b", 2, ["back-reader"]),
        },
    }
    if broker_port is not None:
        config["mqtt"] = {"host": "127.0.0.1", "port": broker_port}
    return config


def records() -> list[dict[str, Any]]:
    """Who may pass: Sam everywhere and always, with a card or a PIN; Milo's card is lost."""
    found: list[dict[str, Any]] = [
        {"type": "site", "id": "LON", "timezone": "Europe/London"},
        {"type": "policy", "id": "policy", "grace_hours": 72},
        {"type": "zone", "id": "outside", "category": "public"},
        {"type": "zone", "id": "lobby", "category": "public"},
        {"type": "zone", "id": "lounge", "category": "member"},
        {
            "type": "group",
            "id": "staff",
            "zones": ["lobby", "lounge"],
            "doors": [],
            "schedule": "24x7",
        },
    ]
    for door, from_zone, to_zone in (("front", "outside", "lobby"), ("back", "lobby", "lounge")):
        found.append(
            {
                "type": "door",
                "id": door,
                "from_zone": from_zone,
                "to_zone": to_zone,
                "unlock_s": UNLOCK_S,
                "pin_alone": door == "front",
            }
        )
    for holder, name, card, status in (
        ("h-sam", NAMES[0], SAM, "active"),
        ("h-milo", NAMES[1], MILO, "lost"),
    ):
        found.append(
            {
                "type": "holder",
                "id": holder,
                "name": name,
                "persona": "staff",
                "status": "active",
                "groups": ["staff"],
            }
        )
        found.append(
            {
                "type": "credential",
                "id": f"c-{holder}",
                "holder": holder,
                "kind": "uid",
                "value": card,
                "status": status,
            }
        )
    found.append(
        {"type": "credential", "id": "p-sam", "holder": "h-sam", "kind": "pin", "value": SAM_PIN}
    )
    return found


def as_lines(found: Iterable[dict[str, Any]]) -> str:
    return "".join(json.dumps(record) + "\n" for record in found)


async def until(
    what: str, true: Callable[[], object | Awaitable[object]], limit_s: float = START_S_MAX
) -> float:
    """Wait until `true()` is; how many seconds that took. Raises AssertionError naming `what`."""
    begun = time.monotonic()
    while True:
        found = true()
        if asyncio.iscoroutine(found):
            found = await found
        if found:
            return time.monotonic() - begun
        if time.monotonic() - begun > allowed(limit_s):
            raise AssertionError(f"not within {limit_s:g} s: {what}")
        await asyncio.sleep(0.01)


class Ended(NamedTuple):
    """A command that has ended."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


class Stored(NamedTuple):
    """An event as it lies in the journal's file."""

    stream: str
    seq: int
    body: bytes
    public: bytes
    personal: bytes | None
    chain: bytes

    @property
    def event(self) -> events.Event:
        return events.decode(self.body)


class Daemon:
    """One of our long-running processes."""

    def __init__(self, process: asyncio.subprocess.Process, log: Path) -> None:
        self.process = process
        self.log = log

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def alive(self) -> bool:
        return self.process.returncode is None

    async def kill(self) -> None:
        """SIGKILL."""
        with suppress(ProcessLookupError):
            self.process.kill()
        await self.process.wait()

    async def stop(self, limit_s: float = 10.0) -> int:
        """SIGTERM; the exit status."""
        with suppress(ProcessLookupError):
            self.process.terminate()
        async with asyncio.timeout(allowed(limit_s)):
            return await self.process.wait()


class Rig:
    """The hardware, the files and the commands of one site."""

    def __init__(self, directory: Path, site: Site) -> None:
        self.directory = directory
        self.site = site
        self.seen = site.seen
        self.config = directory / "site.toml"
        self.state = directory / "state"
        self.socket = directory / "core.sock"
        self.key = directory / "credential.key"
        self.records = directory / "records.jsonl"
        self._daemons: list[Daemon] = []

    # --- Processes -------------------------------------------------------------------------------

    async def start(
        self,
        part: str,
        *,
        more: Sequence[str] = (),
        env: dict[str, str] | None = None,
        measured: bool = True,
    ) -> Daemon:
        """`door-gateway PART` on this site. Not `measured` where the test times its start: without
        coverage, which takes a second of it.
        """
        log = self.directory / f"{part}-{len(self._daemons)}.log"
        command = (*GATEWAY, part, "--config", str(self.config), *more)
        process = await spawn(*command, log=log, env=env, measured=measured)
        daemon = Daemon(process, log)
        self._daemons.append(daemon)
        return daemon

    async def core(self, **how: Any) -> Daemon:
        """A running core whose devices all answer."""
        daemon = await self.start("core", **how)
        await self.ready(daemon)
        return daemon

    async def cli(self, *arguments: str, limit_s: float = 20.0) -> Ended:
        """Run a command to its end."""
        process = await asyncio.create_subprocess_exec(
            *GATEWAY,
            *arguments,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            cwd=REPOSITORY,
            env=_environment(),
        )
        try:
            async with asyncio.timeout(allowed(limit_s)):
                out, err = await process.communicate()
        finally:
            with suppress(ProcessLookupError):
                process.kill()
        return Ended(process.returncode or 0, out.decode(), err.decode())

    async def imported(self) -> None:
        """Put the rig's records in force, with or without a running core."""
        done = await self.cli("import", str(self.records), "--config", str(self.config))
        assert done.status == 0, done

    async def stop_all(self) -> None:
        """End what still runs, the youngest first, with every child."""
        for daemon in reversed(self._daemons):
            children = descendants(daemon.pid) if daemon.alive else []
            if daemon.alive:
                try:
                    await daemon.stop(8.0)
                except TimeoutError:
                    await daemon.kill()
            for pid in children:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def core_pid(self) -> int:
        """The pid of the core that owns the state directory, as its lock says."""
        return int((self.state / "lock").read_text())

    # --- What the core says ----------------------------------------------------------------------

    async def status(self) -> Status | None:
        """The core's status; None while nobody answers."""
        try:
            async with asyncio.timeout(allowed(5)), connect(self.socket, role="test") as core:
                return await core.status()
        except (IpcError, TimeoutError):
            return None

    async def online(self, *devices: str) -> bool:
        status = await self.status()
        return status is not None and all(status.devices[name].online for name in devices)

    async def ready(self, daemon: Daemon | None = None, *devices: str) -> None:
        """Wait until the core answers and these devices (default: all) do."""

        async def live() -> bool:
            if daemon is not None and not daemon.alive:
                raise AssertionError(f"ended: {daemon.log.read_text()}")
            return await self.online(*(devices or DEVICES))

        await until("all devices online", live)

    async def journal(self, after: int = 0) -> list[events.JournalledEvent]:
        """Every committed event after a number, from the running core."""
        found: list[events.JournalledEvent] = []
        async with connect(self.socket, role="test") as core:
            while True:
                batch = await core.fetch(after, limit=500)
                for seq, body in enumerate(batch.bodies, start=batch.first_seq):
                    found.append(events.JournalledEvent(batch.stream, seq, events.decode(body)))
                    after = seq
                if not batch.bodies:
                    return found

    async def last_seq(self) -> int:
        status = await self.status()
        assert status is not None
        return status.last_seq

    async def event(
        self,
        kind: type[Any],
        matches: Callable[[Any], bool] = lambda _: True,
        *,
        after: int = 0,
        limit_s: float = 5.0,
    ) -> Any:
        """The first committed event of a kind that matches, after a number."""
        found: list[Any] = []

        async def look() -> bool:
            told = [entry.event for entry in await self.journal(after)]
            found.extend(event for event in told if isinstance(event, kind) and matches(event))
            return bool(found)

        await until(f"a matching {kind.__name__} in the journal", look, limit_s)
        return found[0]

    async def event_count_at_least(self, count: int) -> None:
        """Wait until so many events are committed."""

        async def enough() -> bool:
            return await self.last_seq() >= count

        await until(f"{count} events", enough)

    def stored(self) -> list[Stored]:
        """The journal's file, read behind the gateway's back: only while no core runs."""
        return read_journal(self.state / "journal.db")

    # --- People ----------------------------------------------------------------------------------

    async def tap(self, reader: str, card: str, hold: float = 0.15) -> None:
        """Hold a card to a reader."""
        await self.site.present(reader, card, allowed(hold))

    async def enter(self, pin: str) -> None:
        """Enter a PIN at the front door."""
        await self.site.press("front-keypad", f"{pin}#", gap=0.0)

    async def entered(self, pin: str) -> seen.Lamp:
        """Enter a PIN and wait until the keypad has shown an answer."""
        shown = asyncio.ensure_future(
            self.seen.wait_for(seen.Lamp, lambda lamp: lamp.device == "front-keypad", allowed(5.0))
        )
        await asyncio.sleep(0)  # the subscription comes first
        await self.enter(pin)
        return await shown

    def released(self, door: str, since_ns: int = 0) -> list[seen.Strike]:
        """The strike's edges to released."""
        edges = self.seen.of(seen.Strike)
        return [each for each in edges if each.on and each.door == door and each.at_ns >= since_ns]

    def is_released(self, door: str) -> bool:
        edges = [each for each in self.seen.of(seen.Strike) if each.door == door]
        return bool(edges) and edges[-1].on

    async def at_rest(self, *doors: str) -> None:
        """Wait until the strikes are at rest."""
        names = doors or ("front", "back")
        await until("strikes at rest", lambda: not any(map(self.is_released, names)), 5.0)

    async def release_by(
        self, door: str, act: Awaitable[object], limit_s: float = 5.0
    ) -> seen.Strike:
        """Do something and wait for the strike's edge."""
        waiting = asyncio.ensure_future(
            self.seen.wait_for(
                seen.Strike, lambda edge: edge.on and edge.door == door, allowed(limit_s)
            )
        )
        await asyncio.sleep(0)  # the subscription comes first
        await act
        return await waiting

    async def opens(self, door: str, card: str = SAM, limit_s: float = 5.0) -> float:
        """A card opens the door: milliseconds from the card's last byte to the strike's edge."""
        await self.at_rest(door)
        begun = time.monotonic_ns()
        edge = await self.release_by(door, self.tap(f"{door}-reader", card), limit_s)
        sent = [each.at_ns for each in self.seen.of(seen.CardSent) if begun <= each.at_ns]
        return (edge.at_ns - max(at for at in sent if at <= edge.at_ns)) / 1e6

    async def stays_shut(self, door: str, card: str, after: int) -> events.AccessDecided:
        """A card is denied at the door, and the strike doesn't move; the decision."""
        edges = len(self.released(door))
        await self.tap(f"{door}-reader", card)
        decided: events.AccessDecided = await self.event(
            events.AccessDecided, lambda event: event.door == door, after=after
        )
        assert decided.outcome == "deny", decided
        assert len(self.released(door)) == edges
        return decided

    async def tap_until_open(self, door: str, limit_s: float, card: str = SAM) -> float:
        """Hold a card to the reader again and again; how many seconds until the strike moved."""
        begun = time.monotonic_ns()

        async def knock() -> None:
            while True:
                await self.tap(f"{door}-reader", card, 0.2)
                await asyncio.sleep(0.3)

        knocking = asyncio.ensure_future(knock())
        try:
            await until(
                f"{door} opens to a card", lambda: self.released(door, begun), limit_s + 10.0
            )
        finally:
            knocking.cancel()
            await asyncio.gather(knocking, return_exceptions=True)
            await self.site.remove(f"{door}-reader")
        return (self.released(door, begun)[0].at_ns - begun) / 1e9


def figure(text: str) -> None:
    """Show a measured figure, where pytest shows output (`-s`, or a failure)."""
    sys.stdout.write(f"{text}\n")


@asynccontextmanager
async def standing_rig(
    directory: Path,
    *,
    broker_port: int | None = None,
    config: dict[str, Any] | None = None,
    **options: Any,
) -> AsyncIterator[Rig]:
    """The site with its hardware under power and its files written; no process runs yet."""
    config = site_config(directory, broker_port) if config is None else config
    async with running_site(config, directory, **options) as site:
        rig = Rig(directory, site)
        rig.config.write_text(tomli_w.dumps(site.rewritten_config()), encoding="utf-8")
        rig.records.write_text(as_lines(records()), encoding="utf-8")
        rig.key.write_bytes(random.Random(7).randbytes(32))
        rig.key.chmod(0o600)
        try:
            yield rig
        finally:
            await rig.stop_all()


async def spawn(
    *command: str, log: Path, env: dict[str, str] | None = None, measured: bool = True
) -> asyncio.subprocess.Process:
    """Start a process whose output goes to `log`.

    Not `measured`: without coverage; for another user, too, who may not write its file.
    """
    base = _environment()
    if not measured:
        base = {name: value for name, value in base.items() if not name.startswith("COVERAGE")}
    with log.open("ab") as output:
        return await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=REPOSITORY,
            env={**base, **(env or {})},
        )


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name not in _NOTHING_OF_OURS}


# --- What the system says of a process -----------------------------------------------------------


def descendants(pid: int) -> list[int]:
    """All children of a process, and theirs."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with suppress(OSError, ValueError):
                stat = (entry / "stat").read_text()
                parents.setdefault(int(stat.rpartition(")")[2].split()[1]), []).append(
                    int(entry.name)
                )
    found, todo = [], [pid]
    while todo:
        children = parents.get(todo.pop(), [])
        found += children
        todo += children
    return found


def is_running(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def descriptors_of(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def threads_of(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/task").iterdir()))


# --- The journal's file --------------------------------------------------------------------------


def read_journal(path: Path) -> list[Stored]:
    """Every event in a journal's file, oldest first, as they lie there."""
    connection = sqlite3.connect(path)
    try:
        (stream,) = connection.execute("SELECT value FROM meta WHERE key = 'stream'").fetchone()
        return [
            Stored(
                stream, seq, events.join(public, (personal or b"")[16:]), public, personal, chain
            )
            for seq, public, personal, chain in connection.execute(
                "SELECT seq, body, personal, chain FROM event ORDER BY seq"
            )
        ]
    finally:
        connection.close()


def assert_sound(stored: Sequence[Stored]) -> None:
    """The numbers are dense from 1 and every hash is what its event and the one before make."""
    assert [entry.seq for entry in stored] == list(range(1, len(stored) + 1))
    chain = genesis(stored[0].stream)
    for entry in stored:
        salted = entry.personal
        commitment = commitment_to(salted[:16], salted[16:]) if salted else b""
        chain = link(chain, entry.seq, entry.public, commitment)
        assert chain == entry.chain, entry.seq


RELEASE_LEAD = timedelta(seconds=3)
"""From a decision to the strike's edge: the commit's wait, the device's limit, a slow machine."""


def unexplained(
    edges: Sequence[seen.Strike],
    recorded: Sequence[events.Event],
    wall_at: Callable[[int], datetime],
) -> list[seen.Strike]:
    """The edges to released that no grant and no REX in the journal gave the right to.

    Each event explains one edge, at its own door, that followed within `RELEASE_LEAD`.
    """
    rights = [
        event
        for event in recorded
        if isinstance(event, events.RexPressed)
        or (isinstance(event, events.AccessDecided) and event.outcome == "grant")
    ]
    found = []
    slack = timedelta(milliseconds=50)  # two clocks are compared
    for edge in edges:
        at = wall_at(edge.at_ns)
        right = next(
            (
                event
                for event in rights
                if event.door == edge.door and -slack <= at - event.at <= RELEASE_LEAD
            ),
            None,
        )
        if right is None:
            found.append(edge)
        else:
            rights.remove(right)
    return found


def wall_clock() -> Callable[[int], datetime]:
    """Turns an instant of the hardware's clock into wall time, as this machine has both now."""
    offset_ns = time.time_ns() - time.monotonic_ns()

    def wall_at(at_ns: int) -> datetime:
        epoch = datetime.fromisoformat("1970-01-01T00:00:00+00:00")
        return epoch + timedelta(microseconds=(at_ns + offset_ns) // 1000)

    return wall_at
