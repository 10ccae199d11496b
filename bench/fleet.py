"""Many simulated gateways on one broker and on a cluster, a node of which is killed."""

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

from bench.results import Figure, Result, figure
from bench.stage import cpu_s, rss_mb, run_dir
from demo.brokers import Broker, mosquitto, nats_cluster
from hwsim.fleet import Fleet, Report

EVENTS_PER_S = 300.0
"""Of all gateways together: what 1,000 doors with 26,000 events a day each would make."""
FORMING_S = 3.0
"""How long a cluster gets to choose its leaders before anybody connects."""


async def measure(*, quick: bool, full: bool) -> Result:
    """The whole measurement."""
    figures = []
    sizes = (20,) if quick else (100, 1_000, 3_000) if full else (100, 1_000)
    seconds = 3.0 if quick else 10.0
    for count in sizes:
        with run_dir() as directory:
            async with mosquitto(directory) as broker:
                figures += await _one_node(broker, count, seconds)
    count, seconds = (10, 6.0) if quick else (100, 20.0)
    with run_dir() as directory:
        figures += await _cluster(directory, count, seconds)
    return Result("fleet", _WHAT, [], figures, _NOTES)


_WHAT = (
    "Gateways as `python -m hwsim fleet` plays them, and a cloud that acknowledges: mosquitto as "
    "one node, then nats-server as a cluster of three with its MQTT listener."
)
_NOTES = [
    "Gateways, cloud and brokers share the same cores: the brokers alone would carry more.",
    (
        "A storm: all connections are cut at one moment. Simulated gateways wait a quarter to half "
        "a second at random before the first attempt; real ones half a second to one."
    ),
    (
        "The cluster: the node that a third of the gateways and the cloud are on is killed at a "
        "third of the time and started again at two thirds."
    ),
]


async def _one_node(broker: Broker, count: int, seconds: float) -> list[Figure]:
    fleet = Fleet([(broker.host, broker.port)], count, rng=random.Random(1))
    before = cpu_s(broker.pid)
    calm = await fleet.run(seconds=seconds, events_per_s=EVENTS_PER_S, settle_s=60)
    spent = cpu_s(broker.pid) - before
    memory = rss_mb(broker.pid)
    fleet = Fleet([(broker.host, broker.port)], count, rng=random.Random(2))
    cut_at = [0.0]

    async def cut() -> None:
        cut_at[0] = time.monotonic()
        for gateway in fleet.gateways:
            gateway.pull_the_cable()

    async with _after(seconds / 2, cut):
        storm = await fleet.run(seconds=seconds, events_per_s=EVENTS_PER_S, settle_s=60)
    back = [gateway.connected_at - cut_at[0] for gateway in fleet.gateways]
    name = f"mosquitto, {count:,} gateways"
    return [
        *_told(name, calm),
        figure(f"{name}: broker's CPU an event", 1e6 * spent / max(1, calm.made), "µs"),
        figure(f"{name}: broker's memory", memory, "MB"),
        *_told(f"{name}, storm", storm),
        figure(f"{name}, storm: the last session back after", max(back), "s"),
    ]


async def _cluster(directory: Path, count: int, seconds: float) -> list[Figure]:
    async with nats_cluster(directory) as nodes:
        await asyncio.sleep(FORMING_S)
        fleet = Fleet([(node.host, node.port) for node in nodes], count, rng=random.Random(3))

        async def kill_and_start() -> None:
            await nodes[0].kill()
            await asyncio.sleep(seconds / 3)
            await nodes[0].start()

        async with _after(seconds / 3, kill_and_start):
            report = await fleet.run(seconds=seconds, events_per_s=EVENTS_PER_S, settle_s=120)
    return _told(f"three NATS nodes, one killed, {count:,} gateways", report)


def _told(name: str, report: Report) -> list[Figure]:
    return [
        figure(f"{name}: events made", report.made, "events"),
        figure(f"{name}: lost", report.lost, "events"),
        figure(f"{name}: not acknowledged", report.made - report.acknowledged, "events"),
        figure(f"{name}: twice and recognised", report.duplicates, "events"),
        figure(f"{name}: sessions", report.sessions, ""),
        figure(f"{name}: made to arrived, p50", report.p50_ms, "ms"),
        figure(f"{name}: made to arrived, p99", report.p99_ms, "ms"),
    ]


@contextlib.asynccontextmanager
async def _after(seconds: float, work: Callable[[], Awaitable[None]]) -> AsyncIterator[None]:
    async def later() -> None:
        await asyncio.sleep(seconds)
        await work()

    task = asyncio.create_task(later())
    try:
        yield
        await task
    finally:
        task.cancel()
