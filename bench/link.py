"""From the journal through link and a real mosquitto to the cloud, and its acknowledgement back."""

import asyncio
import contextlib
import random
import sys
import time

from bench.results import Figure, Result, figure, spread
from bench.stage import (
    Stage,
    core,
    cpu_s,
    fill_journal,
    hardware,
    rss_mb,
    run_dir,
    write_config,
)
from demo.brokers import mosquitto
from demo.processes import process
from gateway.ipc.client import CoreClient
from hwsim.cloud import EventCloud

DRAIN_S_MAX = 300.0


async def measure(*, quick: bool, full: bool) -> Result:
    """The whole measurement."""
    del full  # it has no larger size
    backlog, singles = (10_000, 20) if quick else (100_000, 200)
    with run_dir() as directory:
        async with contextlib.AsyncExitStack() as stack:
            broker = await stack.enter_async_context(mosquitto(directory / "broker"))
            write_config(directory, broker_port=broker.port, doors=1)
            await fill_journal(directory, backlog)
            stage = await stack.enter_async_context(hardware(directory))
            await stack.enter_async_context(core(stage))
            client = await stack.enter_async_context(stage.client())
            cloud = await stack.enter_async_context(EventCloud("127.0.0.1", broker.port))
            begun = time.monotonic()
            config = str(directory / "site.toml")
            link = await stack.enter_async_context(
                process(
                    *(sys.executable, "-m", "gateway", "link", "--config", config),
                    log=directory / "link.log",
                )
            )
            figures = await _drain(stage, client, cloud, link.pid, begun)
            latencies = await _singles(stage, client, cloud, singles)
            figures.append(figure("link: memory after", rss_mb(link.pid), "MB"))
            figures.append(figure("twice and recognised", cloud.duplicates, "events"))
            figures.append(figure("out of order", cloud.out_of_order, "events"))
    what = spread("a key's last byte to its event at the cloud", "ms", latencies)
    return Result("link", _WHAT, [what], figures, _NOTES)


_WHAT = "A backlog drains from the journal through core, link and mosquitto to a cloud on paho."
_NOTES = [
    "Everything is on the same cores; the cloud is Python as well and checks every event.",
    (
        "The rate counts from the first message at the cloud to the last acknowledgement that core "
        "has kept. The latency is of single denied PINs, polled every millisecond."
    ),
]


async def _drain(
    stage: Stage, client: CoreClient, cloud: EventCloud, link: int, begun: float
) -> list[Figure]:
    await cloud.until(lambda: cloud.messages)
    first = time.monotonic()
    before = {pid: cpu_s(pid) for pid in (stage.core_pid, link)}
    own = time.process_time()
    count = (await client.status()).last_seq
    async with asyncio.timeout(DRAIN_S_MAX):
        while (await client.status()).acknowledged_seq < count:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    spent = time.monotonic() - first
    return [
        figure("link's start to the first message", 1000 * (first - begun), "ms"),
        figure("events drained", count, "events"),
        figure("drain", count / spent, "events/s"),
        figure(
            "core: CPU", 1e6 * (cpu_s(stage.core_pid) - before[stage.core_pid]) / count, "µs/event"
        ),
        figure("link: CPU", 1e6 * (cpu_s(link) - before[link]) / count, "µs/event"),
        figure("the test's cloud: CPU", 1e6 * (time.process_time() - own) / count, "µs/event"),
    ]


async def _singles(stage: Stage, client: CoreClient, cloud: EventCloud, count: int) -> list[float]:
    rng = random.Random(1)
    values = []
    for _ in range(count):
        status = await client.status()
        reached = cloud.reached(status.stream)
        pressed = await stage.simulator.press("keypad0", "00000000#", gap=0)
        async with asyncio.timeout(5):
            while cloud.reached(status.stream) == reached:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
        values.append((time.monotonic_ns() - pressed) / 1e6)
        await asyncio.sleep(rng.uniform(0.06, 0.09))  # a door takes 20 entries a second
    return values
