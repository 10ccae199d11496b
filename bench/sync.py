"""Taps while signed bundles come over MQTT, through the link, into the core: the real processes."""

import asyncio
import json
import random
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import NamedTuple

import cbor2
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from bench.results import Result, Spread, figure, spread
from bench.stage import (
    DOORS,
    GATEWAY,
    SITE,
    Stage,
    core,
    hardware,
    records,
    rss_mb,
    run_dir,
    wall_offset_us,
    write_config,
)
from bench.tap import HOLD_S, Going, Parts, Tap, events_after, parts_of, take_taps
from demo.brokers import mosquitto
from demo.processes import process
from gateway.domain import events
from hwsim.cloud import Cloud, Keyring, RecordBook
from hwsim.cloud.records import BUNDLE, About, Bundle, Revision, delta, snapshot
from hwsim.cloud.signing import document

BLOCKS = 8
CHANGES = 1_000
IN_FORCE_S_MAX = 240.0
APART_S_MIN = 1.1
"""The core looks at one document a second, and at no more than ten ahead of that."""

_WHAT = (
    "From a card's last byte to the strike's edge, as in `tap`, at a site with [trust]: while"
    " nothing comes, while signed snapshots come one after the other, and while signed deltas of"
    f" {CHANGES:,} people do; broker, link, core, the cache's child and a real disk."
)
_NOTES = [
    (
        f"{DOORS} doors on one board. Idle and busy blocks of taps by turns, {BLOCKS} of each; in a"
        " busy one the next bundle is sent when the last is reported to be in force, and at least"
        f" {APART_S_MIN} s after it."
    ),
    (
        "A ratio says how many p99 of a quiet block fit in the p99 of a busy one. The cloud makes"
        " its bundles before anything is measured, and signs them anew with each number."
    ),
    f"Cards are shown for {HOLD_S * 1000:.0f} ms: one may be gone before a worker gets a core.",
    "Broker, link, simulator, cloud and the cache's child share the cores with the core.",
]


class Plan(NamedTuple):
    """How much is done."""

    holders: int
    taps: int
    """Of each kind."""


FULL = Plan(50_000, 320)
QUICK = Plan(5_000, 48)


async def measure(*, quick: bool, full: bool) -> Result:
    """The whole measurement."""
    del full  # it has no larger size
    plan = QUICK if quick else FULL
    keyring = Keyring(SITE, int(time.time()) - 60)
    with run_dir() as directory:
        root = directory / "1.root"
        root.write_bytes(keyring.root())
        async with AsyncExitStack() as stack:
            enter = stack.enter_async_context
            broker = await enter(mosquitto(directory / "broker"))
            config = write_config(directory, broker_port=broker.port, root=root)
            stage = await enter(hardware(directory))
            await enter(core(stage))
            sold = Sold(keyring, plan.holders)
            cloud = await enter(
                Cloud("127.0.0.1", broker.port, keyring, RecordBook(SITE, sold.digest_key))
            )
            async with stage.client() as client:
                key = (await client.status()).public_key
            assert key is not None
            public_key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(key))
            gateway = cloud.register(GATEWAY, public_key)
            link = (sys.executable, "-m", "gateway", "link", "--config", str(config))
            await enter(process(*link, log=directory / "link.log"))
            await cloud.until(lambda: gateway.needs)  # it hears us
            return await _run(stage, plan, cloud, sold)


class Sold:
    """Two sets that decide every tap alike, and the bundles that lead from one to the other."""

    def __init__(self, keyring: Keyring, holders: int) -> None:
        self.digest_key = bytes(range(32))
        self._keys = keyring.keys["bundle"][:1]
        lines = [json.loads(line) for line in records(holders).splitlines()]
        book = RecordBook(SITE, self.digest_key, lines)
        sets = [book.publish()]
        step = max(1, holders // CHANGES)
        people = [each for each in lines if each["type"] == "holder"][:holders]  # without tappers
        book.put(*({**each, "extended_unlock": True} for each in people[::step]))
        sets.append(book.publish())
        about = self._about()
        self.snapshots = [snapshot(each, about) for each in sets]
        self.deltas = [self._delta(sets, to, about) for to in (0, 1)]
        self.at = 1
        """Which of the two sets is in force."""
        self.number = 0

    def next(self, bundles: list[Bundle]) -> Bundle:
        """The bundle that leads to the other set, as the next revision."""
        self.at, self.number = 1 - self.at, self.number + 1
        made = bundles[self.at]
        about = self._about()
        payload = cbor2.loads(cbor2.loads(made.document)[0])
        payload |= {"revision": self.number, "made": about.made, "expires": about.expires}
        if payload["kind"] == "delta":
            payload["base"][0] = self.number - 1
        return Bundle(document(payload, self._keys, BUNDLE), made.chunks)

    @staticmethod
    def _delta(sets: list[Revision], to: int, about: About) -> Bundle:
        return delta(sets[to], sets[1 - to], about)

    def _about(self) -> About:
        now = int(time.time())
        return About(SITE, [GATEWAY], now, now + 86_400, self._keys)


async def _run(stage: Stage, plan: Plan, cloud: Cloud, sold: Sold) -> Result:
    rng = random.Random(1)
    what = f"{2 * plan.holders:,} credentials"
    loads = {
        "nothing else going on": None,
        f"signed snapshots of {what}": sold.snapshots,
        f"signed deltas of {CHANGES:,} people to {what}": sold.deltas,
    }
    await _send(cloud, sold, sold.snapshots)  # the first, which has nothing to compare with
    await take_taps(stage, 2 * DOORS, rng)  # warm-up
    found = {name: _Found([], [], []) for name in loads}
    decided = dict.fromkeys(loads, 0)
    peak = 0.0
    for _ in range(BLOCKS):  # by turns: on a shared machine the weather changes
        for name, bundles in loads.items():
            taps, parts, took = found[name]
            block: list[Tap] = []
            async with stage.client() as client:
                before = (await client.status()).last_seq
            offset_us = wall_offset_us()
            send = None if bundles is None else partial(_send, cloud, sold, bundles)
            async with _repeated(send, took) as going:
                await take_taps(stage, plan.taps // BLOCKS, rng, into=block, going=going)
                peak = max(peak, rss_mb(stage.core_pid))
            offset_us = (offset_us + wall_offset_us()) // 2
            taps += block
            journal = await events_after(stage, before)
            parts += parts_of(block, journal, offset_us)
            decided[name] += sum(isinstance(each, events.AccessDecided) for each in journal)
    spreads: list[Spread] = []
    figures = []
    for name, (taps, parts, took) in found.items():
        usual = spreads[0].p99 if spreads else None
        values = [tap.ms for tap in taps]
        spreads.append(spread(f"card to strike: {name}", "ms", values, idle_p99=usual))
        for part in ("read", "decided", "released"):
            values = [getattr(each, part) for each in parts]
            spreads.append(spread(f"… {_PARTS[part]}: {name}", "ms", values))
        if took:
            spreads.append(spread(f"sent to reported in force: {name}", "s", took))
        unseen, unanswered = plan.taps - decided[name], decided[name] - len(taps)
        figures.append(figure(f"cards gone before a reader saw them: {name}", unseen, "taps"))
        figures.append(figure(f"taps without an edge: {name}", unanswered, "taps"))
    figures.append(figure("core: memory, the highest seen", peak, "MB"))
    return Result("sync", _WHAT, spreads, figures, _NOTES)


class _Found(NamedTuple):
    """What was measured under one load."""

    taps: list[Tap]
    parts: list[Parts]
    took: list[float]
    """From sending a bundle to the report that it is in force, in seconds."""


_PARTS = {
    "read": "card's last byte to worker",
    "decided": "worker to core, decided",
    "released": "decided to edge: commit, relay write",
}


async def _send(cloud: Cloud, sold: Sold, bundles: list[Bundle]) -> None:
    """Send the next one, and wait until the gateway says that it is in force."""
    cloud.send(sold.next(bundles), GATEWAY)
    reports = cloud.gateways[GATEWAY].parity
    await cloud.until(lambda: reports and reports[-1]["revision"] == sold.number, IN_FORCE_S_MAX)


@asynccontextmanager
async def _repeated(
    do: Callable[[], Awaitable[None]] | None, took: list[float]
) -> AsyncIterator[Going]:
    """Again and again while the block runs, and to the end of the last; how long each took."""
    if do is None:
        yield lambda: True
        return
    loop = asyncio.get_running_loop()
    over = asyncio.Event()

    async def load() -> None:
        while not over.is_set():
            began = loop.time()
            await do()
            took.append(loop.time() - began)
            await asyncio.sleep(began + APART_S_MIN - loop.time())

    work = asyncio.create_task(load())
    try:
        yield lambda: not work.done()
    finally:
        over.set()
        await work
