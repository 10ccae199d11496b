"""From nothing, or from SIGKILL, to the first decision; what imports cost; memory."""

import asyncio
import contextlib
import os
import re
import signal
import statistics
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from bench.results import Figure, Result, Spread, figure, spread
from bench.stage import (
    DOORS,
    Stage,
    children,
    core,
    door,
    gateway,
    hardware,
    records,
    rss_mb,
    run_dir,
    tapper_card,
    write_config,
)
from demo.brokers import mosquitto
from demo.processes import REPOSITORY, process
from hwsim import observations as seen

IMPORTS_TOLD = 10
FIRST_S_MAX = 20.0


async def measure(*, quick: bool, full: bool) -> Result:
    """The whole measurement."""
    del full  # it has no larger size
    holders, times = (5_000, 2) if quick else (50_000, 7)
    with run_dir() as directory:
        async with contextlib.AsyncExitStack() as stack:
            broker = await stack.enter_async_context(mosquitto(directory / "broker"))
            config = write_config(directory, broker_port=broker.port)
            file = directory / "records.jsonl"
            await asyncio.to_thread(file.write_bytes, records(holders))
            await gateway("import", str(file), "--config", str(config))
            stage = await stack.enter_async_context(hardware(directory))
            spreads = await _starts(stage, times)
            spreads.append(await _under_run(stage, times))
            figures = await _memory(stage, stack)
    figures += await _imports("gateway.processes.core", "core")
    figures += await _imports("gateway.processes.link", "link")
    size = f"{2 * holders:,} credentials are compiled and in force; {DOORS} readers, a keypad each."
    return Result("start", _WHAT, spreads, figures, [size, *_NOTES])


_WHAT = (
    "Starting: a card is held to a reader again and again, and the first decision is seen as the "
    "strike's edge."
)
_NOTES = [
    (
        "The card is held to the reader twice a second: a value is up to 0.5 s above the first "
        "moment at which it would have been read."
    ),
    (
        "Files are in the page cache. `killed` starts the core again at once, as a service manager "
        "with no delay would; `under run` is `door-gateway run` with its own back-off."
    ),
    "Import times are those of `-X importtime`, cumulative, which itself slows imports down.",
    "USS is what a process has for itself; RSS counts shared pages too.",
]


async def _starts(stage: Stage, times: int) -> list[Spread]:
    cold, killed, socket = [], [], []
    for _ in range(times):
        await stage.until_at_rest(door(0))
        start, begun = len(stage.seen), time.monotonic_ns()
        async with _tapping(stage), core(stage) as first:
            cold.append((await _edge(stage, start) - begun) / 1e6)
            await stage.until_at_rest(door(0))
            start, begun = len(stage.seen), time.monotonic_ns()
            first.send_signal(signal.SIGKILL)
            await first.wait()
            (stage.directory / "core.sock").unlink(missing_ok=True)
            async with core(stage):
                pass_at = await _edge(stage, start)
                killed.append((pass_at - begun) / 1e6)
        socket.append(await _until_socket(stage))
    return [
        spread("cold start to first strike", "ms", cold),
        spread("killed to first strike", "ms", killed),
        spread("cold start to the socket (deciding, no reader yet)", "ms", socket),
    ]


@asynccontextmanager
async def _tapping(stage: Stage) -> AsyncIterator[None]:
    """Somebody in front of the reader, who holds the card to it again and again."""

    async def tap() -> None:
        while True:
            await stage.simulator.present("reader0", tapper_card(0), hold=0.1)
            await asyncio.sleep(0.35)  # sooner, and it would be one read

    tapping = asyncio.create_task(tap())
    try:
        yield
    finally:
        tapping.cancel()
        with suppress(asyncio.CancelledError):
            await tapping
        await stage.simulator.remove("reader0")


async def _until_socket(stage: Stage) -> float:
    path = stage.directory / "core.sock"
    path.unlink(missing_ok=True)
    command = (sys.executable, "-m", "gateway", "core")
    config = ("--config", str(stage.directory / "site.toml"))
    begun = time.monotonic_ns()
    async with process(*command, *config, log=stage.directory / "core.log"):
        while not path.exists():  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        return (time.monotonic_ns() - begun) / 1e6


async def _under_run(stage: Stage, times: int) -> Spread:
    """The core's SIGKILL under the gateway's own supervisor."""
    values = []
    command = (sys.executable, "-m", "gateway", "run")
    config = ("--config", str(stage.directory / "site.toml"))
    for _ in range(times):
        await stage.until_at_rest(door(0))
        start = len(stage.seen)
        log = stage.directory / "run.log"
        async with _tapping(stage), process(*command, *config, log=log) as running:
            try:
                await _edge(stage, start)
            except TimeoutError:
                raise RuntimeError(f"no strike:\n{log.read_text()[-4000:]}") from None
            await stage.until_at_rest(door(0))
            (pid,) = [child for child in children(running.pid) if _is(child, "core")]
            start, begun = len(stage.seen), time.monotonic_ns()
            os.kill(pid, signal.SIGKILL)
            values.append((await _edge(stage, start) - begun) / 1e6)
    return spread("killed to first strike, under run", "ms", values)


def _is(pid: int, part: str) -> bool:
    return part.encode() in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")


async def _edge(stage: Stage, start: int) -> int:
    def released(what: seen.Seen) -> bool:
        return isinstance(what, seen.Strike) and what.on and what.door == door(0)

    return int((await stage.until_seen(start, released, FIRST_S_MAX)).at_ns)


async def _memory(stage: Stage, stack: contextlib.AsyncExitStack) -> list[Figure]:
    await stack.enter_async_context(core(stage))
    config = str(stage.directory / "site.toml")
    command = (sys.executable, "-m", "gateway", "link", "--config", config)
    link = await stack.enter_async_context(process(*command, log=stage.directory / "link.log"))
    await asyncio.sleep(2)
    workers = children(stage.core_pid)
    return [
        figure("core: RSS", rss_mb(stage.core_pid), "MB"),
        figure("core: USS", _uss_mb(stage.core_pid), "MB"),
        figure("link: RSS", rss_mb(link.pid), "MB"),
        figure("link: USS", _uss_mb(link.pid), "MB"),
        figure("a PN532's worker: RSS", statistics.median(map(rss_mb, workers)), "MB"),
        figure("a PN532's worker: USS", statistics.median(map(_uss_mb, workers)), "MB"),
    ]


def _uss_mb(pid: int) -> float:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) / 1024


async def _imports(module: str, name: str) -> list[Figure]:
    """What importing costs in all, and the most expensive packages below it."""
    run = await asyncio.create_subprocess_exec(
        *(sys.executable, "-X", "importtime", "-c", f"import {module}"),
        cwd=REPOSITORY,
        stderr=asyncio.subprocess.PIPE,
    )
    _, told = await run.communicate()
    cost: dict[str, int] = {}
    for line in told.decode().splitlines():
        found = re.fullmatch(r"import time:\s+(\d+) \|\s+(\d+) \|\s+(\S+)", line)
        if found:
            cost[found[3]] = int(found[2])
    figures = [figure(f"{name}: imports in all", cost[module] / 1000, "ms")]
    # Packages of others, whole; our own are only what they import.
    top = {each: us for each, us in cost.items() if "." not in each and each != "gateway"}
    for each, us in sorted(top.items(), key=lambda item: -item[1])[:IMPORTS_TOLD]:
        figures.append(figure(f"{name}: import {each}", us / 1000, "ms"))
    return figures
