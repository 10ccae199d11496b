"""The journal by itself, on a real disk: appends, commits, reading, acknowledging, purging."""

import asyncio
import os
import statistics
import time
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from bench.floors import bare_journal
from bench.results import Figure, Result, Spread, figure, spread
from bench.stage import rss_mb, run_dir, sample_event
from gateway.clock import SystemClock
from gateway.domain import events
from gateway.journal import Head, Journal
from gateway.journal.verify import Header, event_line, header_line, seal_line, verify
from gateway.trust.claims import CHECKPOINT, EXPORT, Claim, open_claim, sign_claim
from gateway.trust.cose import PublicKey
from gateway.trust.keys import kid_of

GROUPS = (10, 100, 1_000)
SPACED_S = 0.02
BLOCK = 25


async def measure(*, quick: bool, full: bool) -> Result:
    """The whole measurement."""
    single = 100 if quick else 500
    many = 10_000 if quick else 100_000
    spreads: list[Spread] = []
    figures: list[Figure] = []
    clock = SystemClock(floor=None, vouched=lambda: True)
    with run_dir() as directory:
        floor: list[float] = []
        spaced: list[float] = []
        with bare_journal(directory) as bare:
            async with Journal(directory / "single.db", clock) as journal:
                for _ in range(single // BLOCK):  # by turns: the disk's mood changes
                    for _ in range(BLOCK):
                        await asyncio.sleep(SPACED_S)
                        floor.append(await asyncio.to_thread(bare.commit_us) / 1000)
                    spaced += await _single(journal, clock, BLOCK, SPACED_S)
                at_once = await _single(journal, clock, single, 0)
        middle = statistics.median(floor)
        spreads.append(spread("floor: one row, fdatasync, one thread", "ms", floor))
        spreads.append(spread("append to committed, rested 20 ms", "ms", spaced, floor=middle))
        spreads.append(spread("append to committed, one after the other", "ms", at_once))
        figures.append(figure("one after the other", 1000 / statistics.mean(at_once), "events/s"))
        for group in GROUPS:
            async with Journal(directory / f"group{group}.db", clock) as journal:
                rate = await _grouped(journal, clock, min(many, group * 200), group)
            figures.append(figure(f"{group:,} waiting at a time", rate, "events/s"))
        for count in (many, 1_000_000) if full else (many,):
            more_spreads, more_figures = await _life(directory, clock, count)
            spreads += more_spreads
            figures += more_figures
    return Result("journal", _WHAT, spreads, figures, _NOTES)


_WHAT = "Appending, committing, reading, acknowledging and deleting events; SQLite, WAL, FULL."
_NOTES = [
    "`rested`: as far apart as taps; a disk and a thread that rest answer later than busy ones.",
    "With a signed checkpoint every 256 events; the export holds every event and what proves it.",
    "Bytes written are the process's own write_bytes (/proc/self/io): WAL and checkpoints.",
]


async def _single(journal: Journal, clock: SystemClock, count: int, rest_s: float) -> list[float]:
    values = []
    for number in range(count):
        await asyncio.sleep(rest_s)
        begun = time.perf_counter_ns()
        await journal.append(sample_event(clock, number)).committed
        values.append((time.perf_counter_ns() - begun) / 1e6)
    return values


async def _grouped(journal: Journal, clock: SystemClock, count: int, group: int) -> float:
    begun = time.perf_counter()
    for first in range(0, count, group):
        tickets = [journal.append(sample_event(clock, first + n)) for n in range(group)]
        await tickets[-1].committed
    return count / (time.perf_counter() - begun)


async def _life(
    directory: Path, clock: SystemClock, count: int
) -> tuple[list[Spread], list[Figure]]:
    """All that happens to `count` events, from append to purge."""
    path = directory / f"life{count}.db"
    figures: list[Figure] = []
    name = f"{count:,} events"
    async with Journal(path, clock, _sign) as journal:
        written = _write_bytes()
        rate = await _grouped(journal, clock, count, 100)
        figures.append(figure(f"{name}: append, 100 at a time", rate, "events/s"))
        size = path.stat().st_size + path.with_name(path.name + "-wal").stat().st_size
        figures.append(figure(f"{name}: written", (_write_bytes() - written) / count, "B/event"))
        figures.append(figure(f"{name}: files", size / count, "B/event"))
        body = len(events.encode(sample_event(clock, 1)))
        figures.append(figure(f"{name}: body of an event", body, "B"))

        begun, seq = time.perf_counter(), 0
        steps = []
        while seq < count:
            step = time.perf_counter_ns()
            seq = (await journal.raw_after(seq, 100))[-1].seq
            steps.append((time.perf_counter_ns() - step) / 1e6)
        rate = count / (time.perf_counter() - begun)
        figures.append(figure(f"{name}: read, 100 at a time", rate, "events/s"))

        figures += await _proved(journal, path.with_suffix(".jsonl"), count, name)

        begun = time.perf_counter()
        await journal.acknowledge(journal.stream, count)
        spent_ms = 1000 * (time.perf_counter() - begun)
        figures.append(figure(f"{name}: acknowledge all", spent_ms, "ms"))

        waits, purging = [], asyncio.create_task(journal.purge(clock.now() + timedelta(days=1)))
        begun = time.perf_counter()
        while not purging.done():
            at = time.perf_counter_ns()
            await journal.append(sample_event(clock, 1)).committed
            waits.append((time.perf_counter_ns() - at) / 1e6)
        await purging
        rate = count / (time.perf_counter() - begun)
        figures.append(figure(f"{name}: purge, appends going on", rate, "events/s"))
    begun = time.perf_counter()
    async with Journal(path, clock):
        spent_ms = 1000 * (time.perf_counter() - begun)
    figures.append(figure(f"{name}: open after that", spent_ms, "ms"))
    spreads = [
        spread(f"{name}: one read of 100", "ms", steps),
        spread(f"{name}: append to committed while they are purged", "ms", waits),
    ]
    return spreads, figures


async def _proved(journal: Journal, path: Path, count: int, name: str) -> list[Figure]:
    figures = []
    rss = rss_mb(os.getpid())
    begun = time.perf_counter()
    export = await _exported(journal, path)
    rate = count / (time.perf_counter() - begun)
    figures.append(figure(f"{name}: export", rate, "events/s"))
    begun = time.perf_counter()
    with export.open("rb") as lines:
        assert verify(lines, _Believes()).last == journal.last_committed
    rate = count / (time.perf_counter() - begun)
    figures.append(figure(f"{name}: verify the export", rate, "events/s"))
    grown = rss_mb(os.getpid()) - rss
    figures.append(figure(f"{name}: memory grown by export and verify", grown, "MB"))
    export.unlink()
    return figures


async def _exported(journal: Journal, path: Path) -> Path:
    anchor = await journal.anchor()
    head = Head(anchor.stream, anchor.seq, anchor.chain)
    with path.open("wb") as file:
        header = Header(2, "LON", "lon-1", head.stream, head.seq, head.chain.hex())
        file.write(header_line(header))
        while rows := await journal.proof_after(head.seq, 500):
            file.writelines(event_line(*row) for row in rows)
            head = Head(head.stream, rows[-1].seq, rows[-1].chain)
        file.write(seal_line(sign_claim(_claim(anchor, head), _KEY, EXPORT)))
    return path


_KEY = Ed25519PrivateKey.generate()


def _sign(head: Head) -> bytes:
    return sign_claim(_claim(Head(head.stream, 0, bytes(32)), head), _KEY, CHECKPOINT)


def _claim(anchor: Head, head: Head) -> Claim:
    return Claim("LON", "lon-1", head.stream, anchor.seq, anchor.chain, head.seq, head.chain, 0, 2)


class _Believes:
    _keys: Mapping[bytes, PublicKey] = {kid_of(_KEY.public_key()): _KEY.public_key()}

    def checkpoint(self, message: bytes) -> Claim:
        return open_claim(message, self._keys, CHECKPOINT)

    def seal(self, message: bytes) -> Claim:
        return open_claim(message, self._keys, EXPORT)


def _write_bytes() -> int:
    for line in Path("/proc/self/io").read_text().splitlines():
        if line.startswith("write_bytes:"):
            return int(line.split()[1])
    return 0
