"""From the last byte of a credential to the strike's edge, on the real processes."""

import asyncio
import contextlib
import random
import statistics
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import NamedTuple

from bench.floors import wire_floors
from bench.results import Figure, Result, Spread, figure, spread
from bench.stage import (
    DOORS,
    Stage,
    children,
    core,
    cpu_s,
    door,
    fill_journal,
    gateway,
    hardware,
    records,
    rss_mb,
    run_dir,
    tapper_card,
    tapper_pin,
    wall_offset_us,
    write_config,
)
from demo.brokers import mosquitto
from demo.processes import process
from gateway.domain import events
from hwsim import observations as seen
from hwsim.cloud import EventCloud

EDGE_S_MAX = 5.0
BLOCKS = 4
HOLD_S = 0.08
FLOOD_KEYS = "1234#" * 20
FLOOD_EVERY_S = 0.02
"""1,000 PINs a second, none of them anybody's."""
FLOOD_FRAMES_PER_S = 10_000
"""Whole entries of five characters, which is 52 times what a line of 9600 baud can carry."""


class Tap(NamedTuple):
    """One tap, in monotonic nanoseconds."""

    door: str
    sent: int
    edge: int

    @property
    def ms(self) -> float:
        return (self.edge - self.sent) / 1e6


Going = Callable[[], bool]


class Parts(NamedTuple):
    """The parts of one tap's way, in milliseconds."""

    read: float
    decided: float
    released: float
    confirmed: float


class Plan(NamedTuple):
    """How much is done."""

    holders: int
    backlog: int
    taps: int
    pins: int
    rex: int
    loaded: int
    floors: int


FULL = Plan(50_000, 1_000_000, 320, 48, 48, 100, 80)
QUICK = Plan(5_000, 50_000, 64, 16, 16, 40, 28)


async def measure(*, quick: bool, full: bool) -> Result:
    """The whole measurement."""
    del full  # it has no larger size
    plan = QUICK if quick else FULL
    with run_dir() as directory:
        async with contextlib.AsyncExitStack() as stack:
            broker = await stack.enter_async_context(mosquitto(directory / "broker"))
            config = write_config(directory, broker_port=broker.port)
            await fill_journal(directory, plan.backlog)
            sets = [records(plan.holders, booking_after_min=each) for each in (5, 6)]
            (directory / "records.jsonl").write_bytes(sets[0])
            await gateway("import", str(directory / "records.jsonl"), "--config", str(config))
            stage = await stack.enter_async_context(hardware(directory))
            await stack.enter_async_context(core(stage))
            return await _run(stage, plan, sets, broker.port)


async def _run(stage: Stage, plan: Plan, sets: list[bytes], broker_port: int) -> Result:
    rng = random.Random(1)
    spreads: list[Spread] = []
    figures: list[Figure] = []
    figures += await _cpu(stage, "no taps", asyncio.sleep(3.0))
    await take_taps(stage, 2 * DOORS, rng)  # warm-up
    floors: dict[str, list[float]] = {}
    parts: list[Parts] = []
    idle: list[Tap] = []
    for _ in range(BLOCKS):  # by turns: on a shared machine the weather changes
        for what, values in (await wire_floors(stage, plan.floors // BLOCKS)).items():
            floors.setdefault(what, []).extend(values)
        async with stage.client() as client:
            before = (await client.status()).last_seq
        block: list[Tap] = []
        offset_us = wall_offset_us()  # anew: a wall clock that is being corrected drifts
        work = take_taps(stage, plan.taps // BLOCKS, rng, into=block)
        used = await _cpu(stage, "one tap every 0.15 s", work)
        offset_us = (offset_us + wall_offset_us()) // 2
        idle += block
        parts += parts_of(block, await events_after(stage, before), offset_us)
    figures += used
    floor = {what: statistics.median(values) for what, values in floors.items()}
    spreads += [spread(f"floor: {what}", "ms", values) for what, values in floors.items()]
    idle_ms = [tap.ms for tap in idle]
    whole = spread("card to strike", "ms", idle_ms, floor=floor["all in one thread"])
    spreads.append(whole)
    spreads += _stages(parts, floor)
    figures.append(figure("taps without an edge", plan.taps - len(idle), "taps"))

    pins = await _pins(stage, plan.pins, rng)
    spreads.append(spread("PIN's last key to strike", "ms", pins, floor=floor["all in one thread"]))
    exits = await _exits(stage, plan.rex, rng)
    by_design = 30 + 10 + floor["relay write to edge"]
    spreads.append(spread("exit button to strike", "ms", exits, floor=by_design))

    loads: dict[str, Callable[[], AbstractAsyncContextManager[Going]]] = {
        f"{2 * plan.holders:,} credentials imported over and over": lambda: _importing(stage, sets),
        "another door flooded, 1,000 PINs/s": lambda: _flooding(stage),
        "another door's line flooded, 10,000 frames/s": lambda: _line_flooded(stage),
        f"{plan.backlog:,} events drain": lambda: _draining(stage, broker_port, plan.backlog),
    }
    for what, load in loads.items():
        taps: list[Tap] = []
        async with stage.client() as client, load() as going:
            before = (await client.status()).last_seq
            work = take_taps(stage, plan.loaded, rng, into=taps, doors=DOORS - 1, going=going)
            figures += await _cpu(stage, what, work)
            written = (await client.status()).last_seq - before
        figures.append(figure(f"events written, {what}", written, "events"))
        values = [tap.ms for tap in taps]
        spreads.append(spread(f"card to strike: {what}", "ms", values, idle_p99=whole.p99))
    figures.append(figure("core: memory", rss_mb(stage.core_pid), "MB"))
    workers = [rss_mb(child) for child in children(stage.core_pid)]
    figures.append(figure("a reader's worker: memory", statistics.median(workers), "MB"))
    return Result("tap", _WHAT, spreads, figures, _NOTES)


_WHAT = (
    "From the last byte of a credential to the edge of the strike's relay, both at the simulated "
    "hardware, which is a process of its own: pty, nfcpy in its worker, pipe, core, decision, "
    "journal commit on a real disk, Modbus TCP, relay."
)
_NOTES = [
    (
        f"{DOORS} doors with a PN532, a keypad, a contact and an exit button each, on one board; "
        "100,000 credentials, a journal of 1,000,000 events (quick runs: far less); "
        f"{2 * DOORS} taps of warm-up."
    ),
    (
        "`all in one thread` is the floor: one blocking thread reads the UID from the pty, commits "
        "one row with fdatasync and writes the coil. It decides nothing."
    ),
    (
        "`card's last byte to worker` is short by the decision itself (0.1 to 0.3 ms rested): the "
        "event's time is read before it, `decide_ms` after it. Its sum with the next row is right."
    ),
    "The exit button's floor is by design: 30 ms of debounce, half a 20 ms poll, one write.",
    (
        "Simulator, benchmark, broker and cloud share the cores with the gateway, which a real "
        "site's box would have for itself."
    ),
]


# --- Doing ----------------------------------------------------------------------------------------


async def take_taps(
    stage: Stage,
    count: int,
    rng: random.Random,
    *,
    into: list[Tap] | None = None,
    doors: int = DOORS,
    going: Going = lambda: True,
) -> None:
    """Cards at one door after the other, as long as what they are to meet is going on."""
    for number in range(count):
        if not going():
            return
        at = number % doors
        await stage.until_at_rest(door(at))
        start = len(stage.seen)
        showing = asyncio.create_task(
            stage.simulator.present(f"reader{at}", tapper_card(number), hold=HOLD_S)
        )
        with suppress(TimeoutError):
            edge = await _edge(stage, start, at)
            sent = await stage.until_seen(start, _card_sent(f"reader{at}"))
            if into is not None:
                into.append(Tap(door(at), sent.at_ns, edge))
        await showing
        await asyncio.sleep(rng.uniform(0.04, 0.08))  # out of step with every poll


async def _pins(stage: Stage, count: int, rng: random.Random) -> list[float]:
    values = []
    for number in range(count):
        at = number % DOORS
        await stage.until_at_rest(door(at))
        start = len(stage.seen)
        await stage.simulator.press(f"keypad{at}", tapper_pin(number) + "#", gap=0.002)
        edge = await _edge(stage, start, at)
        keys = [what for what in stage.seen[start:] if isinstance(what, seen.KeysSent)]
        values.append((edge - keys[-1].at_ns) / 1e6)
        await asyncio.sleep(rng.uniform(0.1, 0.14))
    return values


async def _exits(stage: Stage, count: int, rng: random.Random) -> list[float]:
    values = []
    for number in range(count):
        at = number % DOORS
        await stage.until_at_rest(door(at))
        start = len(stage.seen)
        pressing = asyncio.create_task(stage.simulator.rex(door(at), hold=0.1))
        edge = await _edge(stage, start, at)
        values.append((edge - await pressing) / 1e6)
        await asyncio.sleep(rng.uniform(0.04, 0.08))
    return values


async def _edge(stage: Stage, start: int, at: int) -> int:
    def released(what: seen.Seen) -> bool:
        return isinstance(what, seen.Strike) and what.on and what.door == door(at)

    return int((await stage.until_seen(start, released, EDGE_S_MAX)).at_ns)


def _card_sent(reader: str) -> Callable[[seen.Seen], bool]:
    return lambda what: isinstance(what, seen.CardSent) and what.reader == reader


async def _cpu(stage: Stage, what: str, work: Awaitable[None]) -> list[Figure]:
    """Do it, and say what of one core it took."""
    pids = {"core": stage.core_pid, "simulator": stage.hardware_pid}
    before = {name: cpu_s(pid) for name, pid in pids.items()}
    begun = asyncio.get_running_loop().time()
    await work
    spent = asyncio.get_running_loop().time() - begun
    return [
        figure(f"CPU of {name}, {what}", 100 * (cpu_s(pid) - before[name]) / spent, "% of a core")
        for name, pid in pids.items()
    ]


# --- Stages ---------------------------------------------------------------------------------------


async def events_after(stage: Stage, after: int) -> list[events.Event]:
    found: list[events.Event] = []
    await asyncio.sleep(1.2)  # the last strike's end is an event too
    async with stage.client() as client:
        while (batch := await client.fetch(after)).bodies:
            found += [events.decode(body) for body in batch.bodies]
            after = batch.first_seq + len(batch.bodies) - 1
    return found


def parts_of(taps: list[Tap], journal: list[events.Event], offset_us: int) -> list[Parts]:
    """The same taps, part by part, from what the journal says of them."""
    parts = []
    for tap in taps:
        for place, event in enumerate(journal):
            if not isinstance(event, events.AccessDecided) or event.door != tap.door:
                continue
            decided = (int(event.at.timestamp() * 1e6) - offset_us) / 1000
            if not -1 <= decided - tap.sent / 1e6 <= EDGE_S_MAX * 1000:
                continue
            released = tap.edge / 1e6 - decided
            confirmed = next(
                later.confirm_ms - event.decide_ms - released
                for later in journal[place:]
                if isinstance(later, events.Unlocked) and later.door == tap.door
            )
            read = decided - event.decide_ms - tap.sent / 1e6
            parts.append(Parts(read, event.decide_ms, released, confirmed))
            break
    return parts


def _stages(parts: list[Parts], floor: dict[str, float]) -> list[Spread]:
    rest = floor["commit"] + floor["relay write to edge"]
    read, decided, released, confirmed = map(list, zip(*parts, strict=True))
    return [
        spread("… card's last byte to worker", "ms", read, floor=floor["card to host"]),
        spread("… worker to core, decided", "ms", decided),
        spread("… decided to edge: commit, relay write", "ms", released, floor=rest),
        spread("… edge to confirmed (read back; after the door)", "ms", confirmed),
    ]


# --- Loads ----------------------------------------------------------------------------------------


@asynccontextmanager
async def _during(work: "asyncio.Task[None]") -> AsyncIterator[None]:
    try:
        yield
    finally:
        work.cancel()
        with suppress(asyncio.CancelledError):
            await work


@asynccontextmanager
async def _importing(stage: Stage, sets: list[bytes]) -> AsyncIterator[Going]:
    async def load() -> None:
        async with stage.client() as client:
            while True:
                for each in reversed(sets):
                    await client.import_records(each)

    work = asyncio.create_task(load())
    async with _during(work):
        yield lambda: not work.done()


@asynccontextmanager
async def _flooding(stage: Stage) -> AsyncIterator[Going]:
    async def load() -> None:
        while True:
            await stage.simulator.press(f"keypad{DOORS - 1}", FLOOD_KEYS, gap=0)
            await asyncio.sleep(FLOOD_EVERY_S)

    work = asyncio.create_task(load())
    async with _during(work):
        yield lambda: not work.done()


@asynccontextmanager
async def _line_flooded(stage: Stage) -> AsyncIterator[Going]:
    async def load() -> None:
        while True:
            await stage.simulator.flood(f"keypad{DOORS - 1}", FLOOD_FRAMES_PER_S, 1.0, "0000#")

    work = asyncio.create_task(load())
    async with _during(work):
        yield lambda: not work.done()


@asynccontextmanager
async def _draining(stage: Stage, broker_port: int, count: int) -> AsyncIterator[Going]:
    config = str(stage.directory / "site.toml")
    link = (sys.executable, "-m", "gateway", "link", "--config", config)
    async with (
        EventCloud("127.0.0.1", broker_port) as cloud,
        process(*link, log=stage.directory / "link.log"),
    ):
        await cloud.until(lambda: cloud.messages)
        yield lambda: len(cloud.events) < count
