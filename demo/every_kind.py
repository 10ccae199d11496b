"""Goes once through every door of a site with one of each kind: tap, strike, event, walk through.

`python -m demo.every_kind` writes the records to standard output; `make demo ARGS="--site
every-kind"` plays it.
"""

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from demo.processes import REPOSITORY, process
from gateway.domain import events
from gateway.domain.card_format import encode
from gateway.errors import IpcError
from gateway.ipc.client import CoreClient, connect
from hwsim import observations as seen
from hwsim.client import Simulator
from hwsim.client import connect as connect_simulator

GATEWAY = (sys.executable, "-m", "gateway")
SITE = REPOSITORY / "config" / "every-kind.toml"

UID, PIN, QR = "04E1A000000001", "73519", "SAMS-CODE-0001"
FACILITY, NUMBER = 12, 34567
BITS = encode("H10301", FACILITY, NUMBER)

START_S_MAX = 30.0
ANSWER_S_MAX = 5.0

DOORS = ("nfc", "osdp", "wiegand-gpio", "wiegand-serial", "keypad", "scanner", "uhppote")


@dataclass(frozen=True)
class Tap:
    """What Sam does at a door."""

    door: str
    what: str
    do: Callable[[Simulator], Awaitable[object]]


TAPS = (
    Tap("nfc", "card, UID", lambda site: site.present("nfc-reader", UID, hold=0.15)),
    Tap("osdp", "26-bit card", lambda site: site.card("osdp-reader", BITS)),
    Tap("wiegand-gpio", "26-bit card", lambda site: site.card("wiegand-gpio-reader", BITS)),
    Tap("wiegand-serial", "26-bit card", lambda site: site.card("wiegand-serial-reader", BITS)),
    Tap("keypad", "PIN", lambda site: site.press("keypad-keypad", f"{PIN}#", gap=0.02)),
    Tap("scanner", "QR code", lambda site: site.scan("scanner-scanner", QR)),
    Tap("uhppote", "26-bit card", lambda site: site.swipe("uhppote-board", 1_234_567)),
)


class WentWrong(Exception):
    """A door did not do what it should."""


def records() -> list[dict[str, Any]]:
    """Sam may everywhere, with a card, a number, a PIN and a code."""
    sam = {"holder": "h-sam", "type": "credential"}
    return [
        {"type": "site", "id": "LON", "timezone": "Europe/London"},
        {"type": "policy", "id": "policy"},
        {"type": "zone", "id": "outside", "category": "public"},
        {"type": "zone", "id": "inside", "category": "member"},
        *(
            {"type": "door", "id": door, "from_zone": "outside", "to_zone": "inside",
             "unlock_s": 1, "pin_alone": door == "keypad"}
            for door in DOORS
        ),
        {"type": "group", "id": "staff", "zones": ["inside"], "doors": [], "schedule": "24x7"},
        {"type": "holder", "id": "h-sam", "persona": "staff", "status": "active",
         "groups": ["staff"]},
        {**sam, "id": "c-uid", "kind": "uid", "value": UID},
        {**sam, "id": "c-card", "kind": "wiegand", "value": f"H10301:{FACILITY}:{NUMBER}"},
        {**sam, "id": "c-pin", "kind": "pin", "value": PIN},
        {**sam, "id": "c-qr", "kind": "qr", "value": QR},
    ]  # fmt: skip


@contextlib.asynccontextmanager
async def standing(run_dir: Path) -> AsyncIterator[tuple[Simulator, CoreClient]]:
    """Simulator and gateway below `run_dir`, everything online, for the length of the block."""
    config, control, rows = run_dir / "site.toml", run_dir / "hw.sock", run_dir / "records.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in records()), encoding="utf-8")
    async with contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(
            process(
                *(sys.executable, "-m", "hwsim", str(SITE), "--run-dir", str(run_dir)),
                *("--write-config", str(config), "--control", str(control)),
                log=run_dir / "hardware.log",
            )
        )
        site = await stack.enter_async_context(connect_simulator(control))
        environment = await _environment(run_dir / "gateway.env")
        log = run_dir / "gateway.log"
        await stack.enter_async_context(
            process(
                *("env", *environment, *GATEWAY, "run", "--config", str(config)),
                log=log,
            )
        )
        core = await stack.enter_async_context(await _core(run_dir / "core.sock"))
        await core.import_records(rows.read_bytes())
        await _live(core)
        yield site, core


async def play(run_dir: Path) -> int:
    """Go through every door; the exit status."""
    async with standing(run_dir) as (site, core):
        print(f"{len(TAPS)} doors, one of each kind; logs and state are in {run_dir}\n")
        walking = []
        try:
            for tap in TAPS:
                ms, codes = await let_in(site, core, tap)
                print(f"  {tap.door:<16} {tap.what:<13} strike after {ms:>6.1f} ms   {codes}")
                walking.append(asyncio.create_task(_go_in(site, tap)))
            await asyncio.gather(*walking)
        finally:
            for task in walking:
                task.cancel()
    print("\nAll as it should be.")
    return 0


async def _environment(file: Path) -> list[str]:
    async with asyncio.timeout(START_S_MAX):
        while True:
            if file.exists():
                return file.read_text(encoding="utf-8").split()
            await asyncio.sleep(0.02)


async def _core(socket: Path) -> contextlib.AbstractAsyncContextManager[CoreClient]:
    async with asyncio.timeout(START_S_MAX):
        while True:
            try:
                async with connect(socket, role="demo"):
                    return connect(socket, role="demo")
            except IpcError:
                await asyncio.sleep(0.05)


async def _live(core: CoreClient) -> None:
    async with asyncio.timeout(START_S_MAX):
        while True:
            if all(device.online for device in (await core.status()).devices.values()):
                return
            await asyncio.sleep(0.05)


async def let_in(site: Simulator, core: CoreClient, tap: Tap) -> tuple[float, str]:
    """One door: the milliseconds from the tap to the strike's edge, and what the journal says.

    Raises:
        WentWrong: it was not released.
    """
    after = (await core.status()).last_seq
    async with site.watching() as watched:
        await tap.do(site)
        said = asyncio.create_task(_released(watched, tap.door))
        try:
            async with asyncio.timeout(ANSWER_S_MAX):
                took_ms = await said
                codes = await _told(core, after, tap.door)
        except TimeoutError:
            raise WentWrong(f"{tap.door}: not released by {tap.what}") from None
        finally:
            said.cancel()
    return took_ms, ", ".join(codes)


async def _go_in(site: Simulator, tap: Tap) -> None:
    if not await site.push(tap.door):
        raise WentWrong(f"{tap.door}: released, and didn't open")


async def _released(watched: Any, door: str) -> float:
    sent_ns = 0
    async for what in watched:
        if isinstance(what, seen.CardSent | seen.CardBitsSent | seen.KeysSent | seen.CodeSent):
            sent_ns = what.at_ns
        if isinstance(what, seen.Strike) and what.door == door and what.on:
            return (what.at_ns - sent_ns) / 1e6
    raise WentWrong("the simulator is gone")


async def _told(core: CoreClient, after: int, door: str) -> list[str]:
    """The codes that the journal has of the door, from the decision to the release."""
    codes: list[str] = []
    while True:
        batch = await core.fetch(after, wait_s=1)
        for body in batch.bodies:
            event = events.decode(body)
            if getattr(event, "door", None) != door:
                continue
            if isinstance(event, events.AccessDecided) and event.outcome != "grant":
                raise WentWrong(f"{door}: {event.outcome} {event.reason}")
            codes.append(str(type(event).__struct_config__.tag))
        if "access" in codes and "unlocked" in codes:
            return codes
        after += len(batch.bodies)


def main() -> None:
    for record in records():
        print(json.dumps(record))


if __name__ == "__main__":
    main()
