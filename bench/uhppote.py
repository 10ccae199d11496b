"""20,000 cards on a UHPPOTE board's own list: writing, comparing, revoking, and taps meanwhile."""

import asyncio
import contextlib
import json
import secrets
import time
from pathlib import Path
from typing import Any, NamedTuple

import tomli_w

from bench.results import Result, Spread, spread
from bench.stage import Stage, core, hardware, run_dir
from hwsim import observations as seen

CARDS = 20_000
DOORS = 4
SHIFTS = 10
TAPPERS = 8
TAP_EVERY_S = 0.3
EDGE_S_MAX = 5.0
WRITTEN_S_MAX = 600.0
WRITTEN = b"card list written"


class Plan(NamedTuple):
    """How much is done."""

    idle: int
    rounds: int
    revoked: int
    """Cards a round."""


FULL = Plan(200, 6, 2)
QUICK = Plan(20, 1, 2)


def door(number: int) -> str:
    return f"d{number % DOORS}"


def tapper(number: int) -> int:
    """A number as the board shows it: facility code, then five digits."""
    return 20_000_001 + number % TAPPERS


def value(number: int) -> str:
    return f"H10301:{number // 100_000}:{number % 100_000}"


def records(cards: int, revoked: int = 0) -> bytes:
    """People with a card each, half of them at any hour and half in shifts; the first revoked."""
    rows: list[dict[str, Any]] = [
        {"type": "site", "id": "LON", "timezone": "Europe/London"},
        {"type": "policy", "id": "policy"},
        {"type": "zone", "id": "out", "category": "public"},
        {"type": "zone", "id": "in", "category": "member"},
        {"type": "group", "id": "all", "zones": ["in"], "doors": [], "schedule": "24x7"},
    ]
    for number in range(DOORS):
        ways = {"from_zone": "out", "to_zone": "in", "unlock_s": 1}
        rows.append({"type": "door", "id": door(number), **ways})
    for number in range(SHIFTS):
        hours = [[f"07:{number:02}", "12:30"], ["13:15", f"19:{number:02}"]]
        weekly = dict.fromkeys(("mon", "tue", "wed", "thu", "fri"), hours) | {"sat": hours[:1]}
        rows.append({"type": "schedule", "id": f"s{number}", "weekly": weekly})
        group = {"zones": ["in"], "doors": [], "schedule": f"s{number}"}
        rows.append({"type": "group", "id": f"g{number}", **group})
    numbers = [100_001 + each // 50_000 * 100_000 + each % 50_000 for each in range(cards)]
    for at, number in enumerate([*(tapper(each) for each in range(TAPPERS)), *numbers]):
        group_id = "all" if at < TAPPERS or at % 2 else f"g{at // 2 % SHIFTS}"
        person = {"persona": "member", "status": "active", "groups": [group_id]}
        rows.append({"type": "holder", "id": f"h{at}", **person})
        status = "lost" if TAPPERS <= at < TAPPERS + revoked else "active"
        card = {"kind": "wiegand", "value": value(number), "status": status}
        rows.append({"type": "credential", "id": f"c{at}", "holder": f"h{at}", **card})
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def write_config(directory: Path) -> None:
    key = directory / "credential.key"
    key.write_bytes(secrets.token_bytes(32))
    key.chmod(0o600)
    board = {"driver": "uhppote", "host": "192.0.2.1", "serial": 423_187_757}
    board |= {"fallback": "card_list"}
    egress = {"lock": "fail_secure", "free_egress": "mechanical", "fire_release": "not_needed"}
    config = {
        "version": 1,
        "site": {"id": "LON", "gateway": "bench-1"},
        "state": {
            "dir": str(directory / "state"),
            "socket": str(directory / "core.sock"),
            "credential_key": str(key),
        },
        "clock": {"trust": "host"},
        "devices": {f"board-{at}": board | {"door": at + 1} for at in range(DOORS)},
        "doors": {
            door(at): {
                **egress,
                "strike": {"device": f"board-{at}", "output": 1, "relay_class": "R2"},
                "readers": [{"device": f"board-{at}", "side": "in"}],
            }
            for at in range(DOORS)
        },
    }
    for name in ("site.toml", "hardware.toml"):
        (directory / name).write_text(tomli_w.dumps(config), encoding="utf-8")


async def measure(*, quick: bool, full: bool) -> Result:
    """The whole measurement."""
    del full  # a board has room for no more
    cards = CARDS // 10 if quick else CARDS
    with run_dir() as directory:
        write_config(directory)
        async with contextlib.AsyncExitStack() as stack:
            stage = await stack.enter_async_context(hardware(directory))
            await stack.enter_async_context(core(stage))
            return await _run(stage, cards, QUICK if quick else FULL)


async def _run(stage: Stage, cards: int, plan: Plan) -> Result:
    none, every = records(0), records(cards)
    await _until_written(stage, await _imported(stage, none))
    await _taps(stage, 2 * DOORS)  # warm-up
    idle = await _taps(stage, plan.idle)
    taps: dict[str, list[float]] = {}
    took: dict[str, list[float]] = {}

    async def meanwhile(what: str, before: int) -> None:
        busy = asyncio.ensure_future(_until_written(stage, before))
        taps.setdefault(what, []).extend(await _taps(stage, 100_000, busy))
        took.setdefault(what, []).append(await busy)

    gone = []
    for _ in range(plan.rounds):
        await meanwhile("writing", await _imported(stage, every))
        await meanwhile("reading and comparing", await _unplugged(stage))
        for revoked in range(1, plan.revoked + 1):
            before = await _imported(stage, records(cards, revoked))
            gone.append(await _until_written(stage, before))
        await meanwhile("deleting", await _imported(stage, none))
    at_rest = spread("card to strike, idle", "ms", idle)
    spreads: list[Spread] = [
        at_rest,
        *(
            spread(f"card to strike while {what}", "ms", values, idle_p99=at_rest.p99)
            for what, values in taps.items()
        ),
        *(spread(f"{what} {cards:,} cards", "s", values) for what, values in took.items()),
        spread("records in force to revoked card off the list", "s", gone),
    ]
    return Result("uhppote", _WHAT, spreads, [], _NOTES)


async def _imported(stage: Stage, rows: bytes) -> int:
    """Put records in force; how often the list had been written before."""
    before = _times_written(stage)
    async with stage.client() as client:
        await client.import_records(rows)
    return before


async def _unplugged(stage: Stage) -> int:
    """Take the board away and bring it back; how often the list had been written before."""
    before = _times_written(stage)
    await stage.simulator.unplug("board-0")
    await asyncio.sleep(2)
    await stage.simulator.plug("board-0")
    async with stage.client() as client, asyncio.timeout(30):
        while not all(  # noqa: ASYNC110 - another process is waited for
            each.online for each in (await client.status()).devices.values()
        ):
            await asyncio.sleep(0.02)
    return before


def _times_written(stage: Stage) -> int:
    return (stage.directory / "core.log").read_bytes().count(WRITTEN)


async def _until_written(stage: Stage, before: int) -> float:
    start = time.monotonic()
    async with asyncio.timeout(WRITTEN_S_MAX):
        while _times_written(stage) == before:  # noqa: ASYNC110 - another process's log
            await asyncio.sleep(0.02)
    return time.monotonic() - start


async def _taps(stage: Stage, count: int, busy: asyncio.Future[float] | None = None) -> list[float]:
    """Cards at one door after the other, as long as what they are to meet goes on."""
    values = []
    for number in range(count):
        if busy is not None and busy.done():
            break
        name = door(number)
        await stage.until_at_rest(name)
        start = len(stage.seen)

        def released(what: seen.Seen, name: str = name) -> bool:
            return isinstance(what, seen.Strike) and what.on and what.door == name

        sent_ns = await stage.simulator.swipe(f"board-{number % DOORS}", tapper(number))
        with contextlib.suppress(TimeoutError):
            edge = await stage.until_seen(start, released, EDGE_S_MAX)
            values.append((edge.at_ns - sent_ns) / 1e6)
        await asyncio.sleep(TAP_EVERY_S)
    return values


_WHAT = (
    'One board with four doors and `fallback = "card_list"`, in a process of its own over '
    "loopback, and the real core. Half of the cards are good at any hour, half in ten schedules. "
    "A tap is from the board's message to the edge of its relay."
)
_NOTES = [
    (
        "The simulated board answers at once: what a real one takes for a message (not known here) "
        "comes on top, once for each card that is read, written or deleted, and a tap may have to "
        "wait for one of them."
    ),
    "Writing starts when the import has been answered; records are looked at once a second.",
]
