"""Signed bundles put in force: time, memory, bytes on the wire, and decisions meanwhile."""

import asyncio
import os
import resource
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from bench.people import DOORS, card, person_records, site_records
from bench.results import Figure, Result, Spread, figure, spread
from gateway.cache import Cache
from gateway.domain.decision import PresentedCredential, Request, decide
from gateway.statedir import StateDir
from gateway.trust.bundle import SignedManifest, manifest_in
from gateway.trust.making import About, Made, canonical_records, delta, signed, snapshot

AT = datetime(2026, 7, 15, 10, 17, tzinfo=UTC)
CHANGES = 1_000
ASKED_EVERY_S = 0.005

_WHAT = (
    "A snapshot, and then a delta in which 1,000 people change, applied by the cache's own child"
    f" process; {DOORS} doors. Time is from the last chunk on the disk to the set in force."
    " Meanwhile the event loop decides a tap every 5 ms; how late its answer is, is measured."
)
_NOTES = [
    "Memory is the child's peak; the core maps the table besides (its size).",
    "The impact guard compares with the set in force, so not the first; `again` is the same set.",
]


async def measure(*, quick: bool, full: bool) -> Result:
    """The whole measurement."""
    sizes = (10_000,) if quick else (10_000, 100_000, *((1_000_000,) if full else ()))
    figures: list[Figure] = []
    spreads: list[Spread] = []
    for size in sizes:
        with tempfile.TemporaryDirectory(prefix="bench-") as directory:
            await _size(size, Path(directory), figures, spreads)
    return Result("apply", _WHAT, spreads, figures, _NOTES)


async def _size(
    credentials: int, directory: Path, figures: list[Figure], spreads: list[Spread]
) -> None:
    what = f"{credentials:,} credentials"
    key = directory / "credential.key"
    key.write_bytes(os.urandom(32))
    key.chmod(0o400)
    records = canonical_records((*site_records(), *person_records(credentials // 2)))
    changed = records | canonical_records(_changed(credentials // 2))
    with StateDir(directory / "state") as state:
        cache = Cache(state.path, key, "LON", signed=True)
        await cache.open()
        was = records
        for name, number, made in (
            ("first snapshot", 1, snapshot(records, _about(1))),
            ("snapshot again", 2, snapshot(records, _about(2))),
            ("delta", 3, delta(was, changed, _about(3), 2)),
        ):
            document = signed(made, [_KEY])
            wire = len(document) + sum(map(len, made.chunks))
            figures.append(figure(f"{what}: {name}, on the wire", wire / 1e6, "MB"))
            _keep(cache, document, made)
            idle = await _late(cache, asyncio.sleep(1.0)) if cache.current else []
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            began = time.monotonic()
            late = await _late(cache, _applied(cache, made))
            took = time.monotonic() - began
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            figures.append(figure(f"{what}: {name}, in force after", took, "s"))
            cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            figures.append(figure(f"{what}: {name}, CPU of the child", cpu, "s"))
            if number == 2:
                figures.append(figure(f"{what}: peak of the child", after.ru_maxrss / 1024, "MB"))
            if idle:
                usual = spread(f"{what}: a decision, nothing else going on", "ms", idle)
                spreads.append(usual)
                spreads.append(
                    spread(f"{what}: a decision, {name} going on", "ms", late, idle_p99=usual.p99)
                )


_KEY = Ed25519PrivateKey.from_private_bytes(bytes(32))


def _about(revision: int) -> About:
    made = int(AT.timestamp()) + revision
    return About("LON", ("gw-1",), revision, made, made + 86_400, bytes(range(32)))


def _changed(holders: int) -> Iterator[dict[str, Any]]:
    """Every so-and-so-many-th person changes, in what no guard minds."""
    step = max(1, holders // CHANGES)
    for row in person_records(holders):
        if row["type"] == "holder" and int(row["id"][1:]) % step == 0:
            yield {**row, "extended_unlock": True}


def _keep(cache: Cache, document: bytes, made: Made) -> None:
    chunks = [chunk.sha256 for chunk in manifest_in(made.payload).chunks]
    cache.incoming.begin(document, chunks)
    for sha256, data in zip(chunks, made.chunks, strict=True):
        cache.incoming.put(sha256, data)


async def _applied(cache: Cache, made: Made) -> None:
    manifest = SignedManifest(manifest_in(made.payload), frozenset({b"1"}))
    await cache.apply_bundle(manifest, made.payload, AT)


async def _late(cache: Cache, work: Any) -> list[float]:
    """Decide a tap now and then until the work is done: how many milliseconds each answer took."""
    task = asyncio.ensure_future(work)
    loop = asyncio.get_running_loop()
    found: list[float] = []
    number = 0
    while not task.done():
        due = loop.time() + ASKED_EVERY_S
        await asyncio.sleep(ASKED_EVERY_S)
        if cache.current is not None:
            number += 7
            _decided(cache, number)
            found.append((loop.time() - due) * 1000)
    await task
    return found


def _decided(cache: Cache, number: int) -> None:
    records = cache.current
    assert records is not None
    uid = PresentedCredential("uid", card(number % 1000))
    at = AT + timedelta(seconds=number)
    decide(records, Request(door=f"d{number % DOORS}", credentials=(uid,), at=at))
