"""A simulated site with the real gateway on it, as processes: for `tap`, `start` and `link`."""

import asyncio
import contextlib
import os
import secrets
import sys
import tempfile
import time
import tomllib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import tomli_w

from bench.people import as_lines, card, person_records, pin, site_records
from demo.processes import REPOSITORY, process
from gateway.clock import SystemClock
from gateway.domain import events
from gateway.ipc.client import CoreClient, connect
from gateway.journal import Journal
from hwsim import observations as seen
from hwsim.client import Simulator
from hwsim.client import connect as connect_simulator

SITE, GATEWAY = "LON", "bench-1"
DOORS = 8
READY_S_MAX = 60.0
TAPPERS = 40
"""People who may pass any of the doors at any time, by card and by PIN; more than the doors, so
that the same card isn't shown to one reader twice within its moment of rest."""
_FIRST_TAPPER = 9_000_000


def door(number: int) -> str:
    return f"d{number}"


def tapper_card(number: int) -> str:
    return card(_FIRST_TAPPER + number % TAPPERS)


def tapper_pin(number: int) -> str:
    return pin(_FIRST_TAPPER + number % TAPPERS)


def records(holders: int, *, booking_after_min: int = 5) -> bytes:
    """`holders` people with two credentials each, and the tappers.

    A set with another `booking_after_min` is another revision that decides the taps alike.
    """
    lines = [as_lines(site_records(unlock_s=1, pin_alone=True)), as_lines(person_records(holders))]
    lines[0] = lines[0].replace(
        b'"id": "policy"', f'"id": "policy", "booking_after_min": {booking_after_min}'.encode()
    )
    everywhere = {
        "type": "group",
        "id": "all",
        "zones": [],
        "doors": [door(number) for number in range(DOORS)],
        "schedule": "24x7",
    }
    lines.append(as_lines(iter([everywhere])))
    for number in range(TAPPERS):
        holder = {"persona": "staff", "status": "active", "groups": ["all"]}
        of = {"type": "credential", "holder": f"t{number}"}
        tapper: list[dict[str, Any]] = [
            {"type": "holder", "id": f"t{number}", **holder},
            {**of, "id": f"tc{number}", "kind": "uid", "value": tapper_card(number)},
            {**of, "id": f"tp{number}", "kind": "pin", "value": tapper_pin(number)},
        ]
        lines.append(as_lines(iter(tapper)))
    return b"".join(lines)


@contextlib.contextmanager
def run_dir() -> Iterator[Path]:
    """A directory for one run, on a real disk."""
    memory = {
        fields[1]
        for line in Path("/proc/mounts").read_text(encoding="utf-8").splitlines()
        if (fields := line.split())[2] == "tmpfs"
    }
    places = [tempfile.gettempdir(), "/var/tmp", str(Path.cwd())]
    place = next(each for each in places if each not in memory)
    with tempfile.TemporaryDirectory(prefix="bench-", dir=place) as made:
        yield Path(made)


def write_config(
    directory: Path,
    *,
    broker_port: int | None = None,
    doors: int = DOORS,
    root: Path | None = None,
) -> Path:
    """The site's file, and beside it `hardware.toml` with a spare reader and board for floors.

    With `root`, a key set, it takes signed records only.
    """
    key = directory / "credential.key"
    if not key.exists():
        key.write_bytes(secrets.token_bytes(32))
        key.chmod(0o600)
    board = {"driver": "modbus_relay", "host": "192.0.2.1", "port": 502, "unit": 1}
    board |= {"outputs": 8, "timed_pulse": True}
    devices: dict[str, Any] = {"relays": board | {"inputs": 16}}
    for number in range(doors):
        for kind, driver in (("reader", "pn532"), ("keypad", "ascii_keypad")):
            port = str(directory / "dev" / f"{kind}{number}")
            devices[f"{kind}{number}"] = {"driver": driver, "port": port}
    config: dict[str, Any] = {
        "version": 1,
        "site": {"id": SITE, "gateway": GATEWAY},
        "state": {
            "dir": str(directory / "state"),
            "socket": str(directory / "core.sock"),
            "credential_key": str(key),
        },
        "clock": {"trust": "host"},
        "devices": devices,
        "doors": {door(number): _door(number) for number in range(doors)},
    }
    if broker_port is not None:
        config["mqtt"] = {"host": "127.0.0.1", "port": broker_port}
    if root is not None:
        config["trust"] = {"root": str(root)}
    spare = {
        "spare-reader": {"driver": "pn532", "port": str(directory / "dev" / "spare-reader")},
        "spare-relays": board | {"inputs": 1},
    }
    hardware = {**config, "devices": {**devices, **spare}}
    (directory / "hardware.toml").write_text(tomli_w.dumps(hardware), encoding="utf-8")
    path = directory / "site.toml"
    path.write_text(tomli_w.dumps(config), encoding="utf-8")
    return path


def _door(number: int) -> dict[str, Any]:
    return {
        "lock": "fail_secure",
        "free_egress": "mechanical",
        "fire_release": "not_needed",
        "strike": {"device": "relays", "output": number + 1, "relay_class": "R2"},
        "contact": {"device": "relays", "input": number + 1, "closed_when": "active"},
        "rex": {"device": "relays", "input": DOORS + number + 1, "pressed_when": "active"},
        "readers": [
            {"device": f"reader{number}", "side": "in"},
            {"device": f"keypad{number}", "side": "in"},
        ],
    }


async def gateway(*arguments: str) -> None:
    """Run a command of the gateway's to its end."""
    run = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gateway", *arguments),
        cwd=REPOSITORY,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    _, err = await run.communicate()
    if run.returncode:
        raise RuntimeError(f"door-gateway {arguments[0]}: exit {run.returncode}\n{err.decode()}")


async def fill_journal(directory: Path, count: int) -> None:
    """Leave a journal of `count` taps behind, as after days without a network."""
    state = directory / "state"
    state.mkdir(mode=0o700, parents=True, exist_ok=True)
    clock = SystemClock(floor=None, vouched=lambda: True)
    async with Journal(state / "journal.db", clock) as journal:
        ticket = None
        for number in range(count):
            ticket = journal.append(sample_event(clock, number))
            if number % 5_000 == 0:
                await ticket.committed
        if ticket is not None:
            await ticket.committed


def sample_event(clock: SystemClock, number: int) -> events.Event:
    """A tap as it is usually written."""
    now = clock.now()
    return events.AccessDecided(
        at=now,
        trust=2,
        door=door(number % DOORS),
        side="in",
        device=f"reader{number % DOORS}",
        kinds=("uid",),
        outcome="grant",
        reason="group",
        holder=f"h{number % 50_000}",
        via="g05",
        revision="0123456789abcdef",
        as_of=now,
        credential=f"c{number % 50_000}",
        decide_ms=0.512,
    )


class Stage:
    """A running site and the eyes on it."""

    def __init__(self, directory: Path, simulator: Simulator) -> None:
        self.directory = directory
        self.simulator = simulator
        self.core_pid = 0
        self.hardware_pid = 0
        self.seen: list[seen.Seen] = []
        self.energised: set[str] = set()
        self._moved = asyncio.Event()

    async def follow(self) -> None:
        """Keep everything that the hardware sees."""
        async with self.simulator.watching() as stream:
            async for what in stream:
                self.seen.append(what)
                if isinstance(what, seen.Strike):
                    (self.energised.add if what.on else self.energised.discard)(what.door)
                self._moved.set()

    async def until_seen(self, start: int, matches: Any, limit_s: float = 5.0) -> Any:
        """The first observation from number `start` on that matches. Raises TimeoutError."""
        async with asyncio.timeout(limit_s):
            while True:
                for what in self.seen[start:]:
                    if matches(what):
                        return what
                self._moved.clear()
                await self._moved.wait()

    async def until_at_rest(self, name: str) -> None:
        async with asyncio.timeout(10):
            while name in self.energised:
                self._moved.clear()
                await self._moved.wait()

    def client(self) -> contextlib.AbstractAsyncContextManager[CoreClient]:
        return connect(self.directory / "core.sock", role="bench")


@contextlib.asynccontextmanager
async def hardware(directory: Path) -> AsyncIterator[Stage]:
    """The simulated hardware in a process of its own; the site's file then points to it."""
    control, config = directory / "hardware.sock", directory / "hardware.toml"
    simulator_command = (
        *(sys.executable, "-m", "hwsim", str(config), "--run-dir", str(directory)),
        *("--control", str(control), "--write-config", str(config)),
    )
    async with (
        process(*simulator_command, log=directory / "hardware.log") as running,
        connect_simulator(control, wait_s=30) as simulator,
    ):
        _point_to(directory / "site.toml", await simulator.devices())
        stage = Stage(directory, simulator)
        stage.hardware_pid = running.pid
        follower = asyncio.create_task(stage.follow())
        try:
            yield stage
        finally:
            follower.cancel()
            await asyncio.gather(follower, return_exceptions=True)


def _point_to(path: Path, devices: dict[str, Any]) -> None:
    config = tomllib.loads(path.read_text(encoding="utf-8"))
    config["devices"] = {name: devices[name] for name in config["devices"]}
    path.write_text(tomli_w.dumps(config), encoding="utf-8")


@contextlib.asynccontextmanager
async def core(stage: Stage) -> AsyncIterator[asyncio.subprocess.Process]:
    """The real core on that hardware, all devices online; its taps are decided by its records."""
    command = (sys.executable, "-m", "gateway", "core")
    config = ("--config", str(stage.directory / "site.toml"))
    async with process(*command, *config, log=stage.directory / "core.log") as running:
        stage.core_pid = running.pid
        await _online(stage, running)
        yield running


async def _online(stage: Stage, running: asyncio.subprocess.Process) -> None:
    async with asyncio.timeout(READY_S_MAX):
        while not (stage.directory / "core.sock").exists():
            if running.returncode is not None:
                raise RuntimeError((stage.directory / "core.log").read_text())
            await asyncio.sleep(0.01)
        async with stage.client() as client:
            while not all(  # noqa: ASYNC110 - another process is waited for
                each.online for each in (await client.status()).devices.values()
            ):
                await asyncio.sleep(0.02)


def cpu_s(pid: int) -> float:
    """CPU seconds of a process and its living children."""
    spent = 0.0
    for each in [pid, *children(pid)]:
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()
            spent += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return spent


def children(pid: int) -> list[int]:
    with contextlib.suppress(OSError):
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
        return [int(child) for child in text.split()]
    return []


def rss_mb(pid: int) -> float:
    """Resident memory, and of it what belongs to this process alone is not told apart."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return 0.0


def wall_offset_us() -> int:
    """Wall time minus monotonic time, in microseconds, now."""
    readings = []
    for _ in range(50):
        before, wall, after = time.monotonic_ns(), time.time_ns(), time.monotonic_ns()
        readings.append((after - before, wall - (before + after) // 2))
    return min(readings)[1] // 1000
