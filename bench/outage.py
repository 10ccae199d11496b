"""Thirty days without a broker, then back: how the backlog drains, and what taps feel of it."""

import contextlib
import random
import sys
import time

from bench.results import Figure, Result, figure, spread
from bench.stage import (
    DOORS,
    Stage,
    core,
    cpu_s,
    fill_journal,
    gateway,
    hardware,
    records,
    rss_mb,
    run_dir,
    write_config,
)
from bench.tap import Tap, take_taps
from demo.brokers import Broker, mosquitto
from demo.processes import process
from hwsim.cloud import EventCloud

DAYS = 30
EVENTS_A_DAY = 20_000
IDLE_TAPS = 300
TAPS_MAX = 10_000
"""At most, while it drains: half an hour of them."""


async def measure(*, quick: bool, full: bool) -> Result:
    """The whole measurement."""
    days = 1 if quick else DAYS if full else 5
    with run_dir() as directory:
        async with contextlib.AsyncExitStack() as stack:
            broker = await stack.enter_async_context(mosquitto(directory / "broker"))
            config = write_config(directory, broker_port=broker.port)
            await broker.stop()
            await fill_journal(directory, days * EVENTS_A_DAY)
            (directory / "records.jsonl").write_bytes(records(5_000))
            await gateway("import", str(directory / "records.jsonl"), "--config", str(config))
            stage = await stack.enter_async_context(hardware(directory))
            await stack.enter_async_context(core(stage))
            link = await stack.enter_async_context(
                process(
                    *(sys.executable, "-m", "gateway", "link", "--config", str(config)),
                    log=directory / "link.log",
                )
            )
            return await _run(stage, broker, link.pid, days, IDLE_TAPS // (6 if quick else 1))


async def _run(stage: Stage, broker: Broker, link: int, days: int, taps: int) -> Result:
    rng = random.Random(1)
    await take_taps(stage, 2 * DOORS, rng)  # warm-up
    idle: list[Tap] = []
    await take_taps(stage, taps, rng, into=idle)
    before = rss_mb(stage.core_pid)
    await broker.start()
    started = time.monotonic()
    async with (
        EventCloud("127.0.0.1", broker.port) as cloud,
        stage.client() as client,
    ):
        backlog = (await client.status()).last_seq
        stream = (await client.status()).stream
        await cloud.until(lambda: cloud.messages, 60.0)
        first = time.monotonic()
        used = {pid: cpu_s(pid) for pid in (stage.core_pid, link)}
        meanwhile: list[Tap] = []
        await take_taps(
            stage, TAPS_MAX, rng, into=meanwhile, going=lambda: cloud.reached(stream) < backlog
        )
        spent = time.monotonic() - first
        cpu = {pid: cpu_s(pid) - used[pid] for pid in used}
        await cloud.until(lambda: cloud.reached(stream) >= backlog + len(meanwhile))
        arrived = list(cloud.events)  # at once: more of them come on another thread
        missing = backlog - sum(1 for of, seq in arrived if of == stream and seq <= backlog)
        whole = spread("card to strike, broker away", "ms", [tap.ms for tap in idle])
        figures = [
            figure("broker's start to the first message", first - started, "s"),
            figure("events of the outage", backlog, "events"),
            figure("drained within", spent, "s"),
            figure("drain, taps going on", backlog / spent, "events/s"),
            figure("lost", missing, "events"),
            figure("out of order", cloud.out_of_order, "events"),
            figure("twice and recognised", cloud.duplicates, "events"),
            *_cpu(stage, link, cpu, spent),
            figure("core: memory before", before, "MB"),
            figure("core: memory after", rss_mb(stage.core_pid), "MB"),
            figure("link: memory after", rss_mb(link), "MB"),
        ]
    spreads = [
        whole,
        spread(
            "card to strike, while it drains", "ms", [tap.ms for tap in meanwhile],
            idle_p99=whole.p99,
        ),
    ]  # fmt: skip
    return Result("outage", _WHAT.format(days=days, rate=EVENTS_A_DAY), spreads, figures, _NOTES)


def _cpu(stage: Stage, link: int, cpu: dict[int, float], spent: float) -> list[Figure]:
    return [
        figure("core: CPU while it drains", 100 * cpu[stage.core_pid] / spent, "% of a core"),
        figure("link: CPU while it drains", 100 * cpu[link] / spent, "% of a core"),
    ]


_WHAT = (
    "The broker was away for {days} days at {rate:,} events a day and comes back; a card every "
    "0.15 s at eight doors before and meanwhile, its last byte to the strike's edge."
)
_NOTES = [
    "The days are simulated: their events are in the journal before the core starts.",
    "Broker, cloud (which checks every event) and simulated hardware are on the same cores.",
]
