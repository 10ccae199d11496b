"""Doors while bytes from outside are hostile: at a scanner, from the broker, from the link."""

import asyncio
import os
import statistics
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import cbor2
import pytest

from gateway.domain.carried_grant import PREFIX
from gateway.ipc.messages import Deliver
from gateway.trust import grants
from hwsim import observations as seen
from tests.process.rig import Rig, figure
from tests.process.test_signed import as_link, rig
from tests.timing import allowed
from tests.trust.keyring import kid

__all__ = ["rig"]

pytestmark = [pytest.mark.process, pytest.mark.timeout(300)]

TAPS = 5
MODES = ("hold", "status", "session", "cmd", "ahead", "fetch", "urgent", "chunk")
ANOTHER_UID = 12_345


def pattern(size: int, turn: int) -> str:
    """A regular expression that takes CPython 4 ms a byte to compile, another one each turn."""
    found, at = "(?i:[", 0
    while len(found.encode()) < size - 12:
        found += chr(0x21 + (at * 7 + turn) % 60) + "-" + chr(0xFFFF - at - turn % 977)
        at += 1
    return found + "])"


def message(size: int, turn: int) -> bytes:
    """A COSE_Sign1 with that in it, which nobody has signed."""
    header = cbor2.dumps({1: -8, 4: kid("command-1")}, canonical=True)
    tag = b"\xd8\x23" + cbor2.dumps(pattern(size - 120, turn))
    return b"\xd2\x84" + cbor2.dumps(header) + tag + b"\x40" + cbor2.dumps(bytes(64))


async def presses(rig: Rig, count: int) -> list[float]:
    """Milliseconds from each press of the exit button to the strike's edge."""
    took = []
    for _ in range(count):
        await rig.at_rest("front")
        edge = await rig.release_by("front", rig.site.rex("front", 0.15))
        pressed = [each.at_ns for each in rig.seen.of(seen.Rex) if each.pressed]
        took.append((edge.at_ns - pressed[-1]) / 1e6)
    return took


async def test_the_exit_button_releases_while_hostile_bytes_arrive(rig: Rig) -> None:
    await rig.core()
    idle = await presses(rig, TAPS)
    sent = 0

    async def broker() -> None:
        nonlocal sent
        async with as_link(rig) as link:
            while True:
                for topic, size in (("cmd", 2_048), ("beacon", 1_024), ("ack", 1_024)):
                    sealed = message(size, sent)
                    await link.core.deliver(Deliver(topic=topic, sealed=sealed))  # type: ignore[arg-type]
                    sent += 1
                document = b"\x82" + cbor2.dumps(b"x") + b"\x81" + message(4_000, sent)
                await link.core.deliver(Deliver(topic="sync/manifest", sealed=document))
                await asyncio.sleep(0.005)

    async def scanner() -> None:
        turn = 0
        while True:
            code = (PREFIX + grants.base45(message(330, turn)))[:512]
            await rig.site.scan("back-scanner", code)
            turn += 1
            await asyncio.sleep(0.25)

    flood = [asyncio.create_task(broker()), asyncio.create_task(scanner())]
    try:
        took = await presses(rig, TAPS)
    finally:
        for task in flood:
            task.cancel()
        await asyncio.wait(flood)
    assert [task for task in flood if not task.cancelled()] == [], "the floods went on to the end"
    assert sent > 100
    figure(f"REX idle {max(idle):.0f} ms, while hostile bytes arrive {max(took):.0f} ms")
    assert statistics.median(took) <= max(allowed(100.0), 2 * statistics.median(idle))
    assert max(took) <= max(allowed(200.0), 3 * max(idle))


async def taps(rig: Rig) -> list[float]:
    """Milliseconds from a card's last byte to the strike's edge, a few times."""
    took = []
    for _ in range(TAPS):
        await rig.at_rest("front")
        begun = time.monotonic_ns()
        await rig.tap_until_open("front", 10.0)  # a busy machine's reader needs the card for longer
        edge = rig.released("front", begun)[0].at_ns
        sent = [each.at_ns for each in rig.seen.of(seen.CardSent) if begun <= each.at_ns <= edge]
        took.append((edge - max(sent)) / 1e6)
    return took


HOSTILE_LINK = """
import asyncio, concurrent.futures.thread, os, sys
from pathlib import Path
from gateway.errors import IpcError
from gateway.ipc.client import connect
from gateway.ipc.messages import Deliver, SessionSaid
path, mode, uid = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
os.setgroups([]); os.setgid(os.getgid()); os.setuid(uid)

async def hold():
    async with connect(path, role="link") as core:
        works = {
            "hold": [lambda: asyncio.sleep(3600)],
            "status": [core.status] * 15,
            "fetch": [lambda: core.fetch(0, limit=1000)] * 15,
            "urgent": [lambda: core.fetch_urgent(0, limit=1000)] * 15,
            "session": [lambda: core.session_said(SessionSaid(there=True))] * 15,
            "chunk": [lambda: core.deliver(Deliver(topic="sync/chunk", sealed=b"x" * 500_000))] * 2,
            "cmd": [lambda: core.deliver(Deliver(topic="cmd", sealed=b"\\xd2" + b"x" * 2000))] * 15,
            "ahead": [lambda: core.report_ack("x", 5)] * 15,
        }[mode]
        async def again(work):
            while True:
                try:
                    await work()
                except IpcError:
                    await asyncio.sleep(0.05)
        print("begun", flush=True)
        await asyncio.gather(*map(again, works))

async def again_and_again():
    while True:
        try:
            await hold()
        except IpcError:
            await asyncio.sleep(0.05)

async def main():
    await asyncio.gather(*(again_and_again() for _ in range(16)))

asyncio.run(main())
"""


@asynccontextmanager
async def hostile_link(rig: Rig, mode: str) -> AsyncIterator[None]:
    """A process with the rights of the link, which asks as fast as it can, 16 times over."""
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", HOSTILE_LINK, str(rig.socket), mode, str(ANOTHER_UID)),
        stdout=asyncio.subprocess.PIPE,
    )
    assert child.stdout is not None
    try:
        async with asyncio.timeout(allowed(60)):  # its start
            assert await child.stdout.readline() == b"begun\n"
        yield
        assert child.returncode is None, "it went on to the end"
    finally:
        with suppress(ProcessLookupError):
            child.kill()
        await child.wait()


@pytest.mark.skipif(os.geteuid() != 0, reason="another user is needed for the link's rights")
async def test_whatever_a_taken_over_link_asks_for_doors_open_and_an_operator_is_heard(
    rig: Rig,
) -> None:
    await rig.core()
    directory = rig.socket.parent
    while directory != directory.parent and directory.stat().st_uid == 0:
        if not directory.stat().st_mode & 0o001:
            directory.chmod(directory.stat().st_mode | 0o711)
        directory = directory.parent
    idle = await taps(rig)
    figure(f"idle: median {statistics.median(idle):.0f} ms, worst {max(idle):.0f} ms")
    for mode in MODES:
        async with hostile_link(rig, mode):
            took = await taps(rig)
            begun = time.monotonic()
            done = await rig.cli(
                *("door", "mode", "back", "controlled", "--for", "1m", "--reason", "drill"),
                *("--config", str(rig.config)),
            )
            asked = time.monotonic() - begun
        figure(
            f"{mode}: median {statistics.median(took):.0f} ms, worst {max(took):.0f} ms,"
            f" an operator {asked:.1f} s"
        )
        assert done.status == 0, done
        assert statistics.median(took) <= max(allowed(150.0), 3 * statistics.median(idle)), mode
        assert max(took) <= max(allowed(500.0), 5 * max(idle)), mode
