"""One decision: in memory, on the compiled table that the core uses, and as an SQL query."""

import asyncio
import gc
import os
import random
import statistics
import sys
import time
import tracemalloc
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from io import BytesIO
from pathlib import Path
from typing import NamedTuple, TypeVar

from bench.people import DOORS, as_lines, card, person_records, site_records
from bench.results import Figure, Result, Spread, figure, spread
from bench.sql import SqlDecider, write_database
from bench.stage import gateway, rss_mb, run_dir, write_config
from gateway.cache import CompiledEntitlements, CredentialKey
from gateway.cache.compiled import FORMAT, Meta, write_table
from gateway.domain.decision import PresentedCredential, Request, decide
from gateway.domain.entitlements import Entitlements, RecordSet, compile_records
from gateway.domain.explanation import explain
from gateway.domain.record_faults import parse_records

COLD_BYTES = 64 * 1024 * 1024
"""Walked through before each cold decision: more than a core's caches hold."""
REST_S = 0.005
AT = datetime(2026, 7, 15, 10, 17, tzinfo=UTC)


_Loaded = TypeVar("_Loaded")


class Asked(NamedTuple):
    """A request in the form of each engine."""

    request: Request
    door: str
    kind: str
    value: str
    at: datetime


async def measure(*, quick: bool, full: bool) -> Result:
    """The whole measurement."""
    sizes = [5_000] if quick else [5_000, 50_000]
    if full:
        sizes.append(500_000)
    spreads: list[Spread] = []
    figures: list[Figure] = []
    with run_dir() as directory:
        for holders in sizes:
            more_spreads, more_figures = await asyncio.to_thread(
                _of_size, directory, holders, 2_000 if quick else 20_000, 100 if quick else 400
            )
            spreads += more_spreads
            figures += more_figures
            if holders <= 50_000:  # beyond it the file is larger than the gateway accepts
                figures += await _import(directory, holders)
    return Result("decide", _WHAT, spreads, figures, _NOTES)


_WHAT = (
    "One decision, shuffled requests: `memory` is the RecordSet of the specification's own types, "
    "`table` the compiled file of keyed hashes that the core decides on, `sql` a prepared query on "
    "a normalised, indexed, memory-mapped SQLite database of the same records."
)
_NOTES = [
    (
        "The records use what the simple query can express: cards, membership status and dates, "
        f"groups of doors ({DOORS} doors), weekly hours. Every request was asked of all three, and "
        "the answers agreed on grant or not; `memory` and `table` also on reason, holder and group."
    ),
    (
        "`sql` and `table` include the keyed hash of the card number, `memory` needs none. Only "
        "`sql` gives no reason."
    ),
    "The floor is `memory`: the rules by themselves, without any look-up on disk.",
    f"Rested: {REST_S * 1000:g} ms asleep and {COLD_BYTES >> 20} MB walked through before each.",
    "1,000 unmeasured decisions of warm-up; the collector runs as in the core (frozen after load).",
]


def _of_size(
    directory: Path, holders: int, count: int, rested: int
) -> tuple[list[Spread], list[Figure]]:
    name = f"{2 * holders:,} credentials"
    figures: list[Figure] = []
    key = CredentialKey(os.urandom(32))
    lines = as_lines(site_records()) + as_lines(person_records(holders))

    begun = time.perf_counter()
    records = parse_records(BytesIO(lines)).records
    figures.append(figure(f"{name}: validate", time.perf_counter() - begun, "s"))
    begun = time.perf_counter()
    path = directory / f"{holders}.mdb"
    meta = Meta(FORMAT, "0" * 16, AT, {})
    checksum = write_table(path, compile_records(records), key.digest, meta)
    figures.append(figure(f"{name}: compile the table", time.perf_counter() - begun, "s"))
    database = directory / f"{holders}.db"
    begun = time.perf_counter()
    write_database(database, records, key.digest)
    figures.append(figure(f"{name}: fill SQLite, unsynced", time.perf_counter() - begun, "s"))

    memory, held_mb, load_s = _loaded(lambda: RecordSet(records))
    figures.append(figure(f"{name}: memory, load", load_s, "s"))
    figures.append(figure(f"{name}: memory, beside the records", held_mb, "MB"))

    table, held_mb, load_s = _loaded(lambda: CompiledEntitlements(path, checksum, key))
    figures.append(figure(f"{name}: table, check and load", load_s * 1000, "ms"))
    figures.append(figure(f"{name}: table, Python objects", held_mb, "MB"))
    figures.append(figure(f"{name}: table, file", path.stat().st_size / 1e6, "MB"))
    figures.append(figure(f"{name}: sql, file", database.stat().st_size / 1e6, "MB"))
    sql = SqlDecider(database, "Europe/London", key.digest)

    asked = _requests(holders, count)
    granted = _check(asked, memory, table, sql)
    figures.append(figure(f"{name}: of the requests granted", 100 * granted, "%"))
    engines: dict[str, Callable[[Asked], object]] = {
        "memory": lambda each: decide(memory, each.request),
        "table": lambda each: decide(table, each.request),
        "sql": lambda each: sql.grants(each.door, each.kind, each.value, each.at),
        "table, explained": lambda each: explain(table, each.request),
    }
    gc.collect()
    gc.freeze()
    hot = {what: _hot(engine, asked) for what, engine in engines.items()}
    spreads = [
        spread(f"{name}: {what}", "µs", hot[what], floor=statistics.median(hot["memory"]))
        for what in engines
    ]
    for what in ("memory", "table", "sql"):
        values = _rested(engines[what], asked[:rested])
        spreads.append(spread(f"{name}: {what}, rested and cold", "µs", values))
        blocks, peak = _allocated(engines[what], asked[:200])
        figures.append(figure(f"{name}: {what}, left behind", blocks, "blocks/decision"))
        figures.append(figure(f"{name}: {what}, peak during", peak, "B/decision"))
    gc.unfreeze()
    sql.close()
    return spreads, figures


def _loaded(load: Callable[[], _Loaded]) -> tuple[_Loaded, float, float]:
    """What was loaded, the MB of Python objects that it takes, and the seconds."""
    gc.collect()
    gc.freeze()
    tracemalloc.start()
    weighed = load()
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    del weighed  # LMDB opens a file once a process
    begun = time.perf_counter()
    loaded = load()
    spent = time.perf_counter() - begun
    gc.unfreeze()
    return loaded, held / 1e6, spent


def _requests(holders: int, count: int) -> list[Asked]:
    """Cards of everybody and some of nobody, at any door, over a week; in no order."""
    rng = random.Random(1)
    asked = []
    for _ in range(count):
        number = rng.randrange(int(holders * 1.02))
        wiegand = rng.random() < 0.3 and number % 10
        kind = "wiegand" if wiegand else "uid"
        value = f"H10306:{number >> 16}:{number & 65535}" if wiegand else card(number)
        at = AT + timedelta(minutes=rng.randrange(7 * 24 * 60))
        door = f"d{rng.randrange(DOORS)}"
        credentials = (PresentedCredential(kind, value),)
        asked.append(
            Asked(Request(door=door, credentials=credentials, at=at), door, kind, value, at)
        )
    return asked


def _check(asked: list[Asked], memory: RecordSet, table: Entitlements, sql: SqlDecider) -> float:
    """That all three agree; the share of grants. Raises AssertionError."""
    grants = 0
    for each in asked:
        decision = decide(memory, each.request)
        granted = decision.outcome == "grant"
        grants += granted
        if decide(table, each.request) != decision:
            raise AssertionError(f"memory and table differ on {each.request}")
        if sql.grants(each.door, each.kind, each.value, each.at) != granted:
            raise AssertionError(f"sql differs on {each.request}: {decision}")
    return grants / len(asked)


def _hot(engine: Callable[[Asked], object], asked: list[Asked]) -> list[float]:
    now = time.perf_counter_ns
    for each in asked[:1_000]:
        engine(each)
    values = []
    for each in asked:
        begun = now()
        engine(each)
        values.append((now() - begun) / 1000)
    return values


def _rested(engine: Callable[[Asked], object], asked: list[Asked]) -> list[float]:
    """After a rest, with the caches full of something else, as in a core that waits for people."""
    other = bytearray(COLD_BYTES)
    now = time.perf_counter_ns
    values = []
    for each in asked:
        other[::64] = other[::64]
        time.sleep(REST_S)
        begun = now()
        engine(each)
        values.append((now() - begun) / 1000)
    return values


def _allocated(engine: Callable[[Asked], object], asked: list[Asked]) -> tuple[float, float]:
    """Blocks that a decision leaves behind, and the bytes it needs at most meanwhile."""
    for each in asked:
        engine(each)
    before = sys.getallocatedblocks()
    for each in asked:
        engine(each)
    left = (sys.getallocatedblocks() - before) / len(asked)
    peaks = []
    tracemalloc.start()
    for each in asked:
        tracemalloc.reset_peak()
        base, _ = tracemalloc.get_traced_memory()
        engine(each)
        peaks.append(tracemalloc.get_traced_memory()[1] - base)
    tracemalloc.stop()
    return max(0.0, left), statistics.median(peaks)


async def _import(directory: Path, holders: int) -> list[Figure]:
    """The whole way of a set of records, by `door-gateway import`, and the child's memory."""
    name = f"{2 * holders:,} credentials"
    place = directory / f"import{holders}"
    place.mkdir()
    config = write_config(place)
    file = place / "records.jsonl"
    file.write_bytes(as_lines(site_records()) + as_lines(person_records(holders)))
    begun = time.perf_counter()
    importing = asyncio.create_task(gateway("import", str(file), "--config", str(config)))
    peak = 0.0
    while not importing.done():
        await asyncio.sleep(0.01)
        for pid in _processes("gateway.cache.apply", str(place)):
            try:
                peak = max(peak, rss_mb(pid))
            except OSError:
                continue
    await importing
    spent = time.perf_counter() - begun
    return [
        figure(f"{name}: records", file.stat().st_size / 1e6, "MB"),
        figure(f"{name}: import, command to in force", spent, "s"),
        figure(f"{name}: import, peak memory of the child", peak, "MB"),
    ]


def _processes(*words: str) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            text = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if all(word in text for word in words):
            found.append(int(path.parent.name))
    return found
