"""Devices come and go, hang and shout, and only their own door notices."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from gateway.domain import events
from hwsim import observations as seen
from hwsim.relay_board import RelayBoard
from tests.process.rig import (
    SAM,
    SAM_PIN,
    UNLOCK_S,
    Rig,
    descendants,
    figure,
    is_running,
    standing_rig,
    until,
)
from tests.timing import allowed

pytestmark = [pytest.mark.process, pytest.mark.asyncio(loop_scope="module")]

REPLUGGED_S_MAX = 10.0
"""docs/promises.md P19."""
ANSWER_MS_MAX = 150.0
"""docs/promises.md P3: p99 of an answer, whatever goes on at another door."""
WORST_MS_MAX = 1_000.0


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def live(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Rig]:
    """A rig with a running core."""
    async with standing_rig(tmp_path_factory.mktemp("devices")) as rig:
        await rig.imported()
        await rig.core()
        yield rig


@pytest_asyncio.fixture(loop_scope="module")
async def rig(live: Rig) -> AsyncIterator[Rig]:
    """The running rig, whole and at rest before and after each test."""
    await live.ready()
    await live.at_rest()
    yield live
    for device in live.site.devices:
        await live.site.plug(device)
        await live.site.resume(device)
    await live.ready()


def workers(rig: Rig, reader: str) -> list[int]:
    """The processes that drive a reader."""
    found = []
    for pid in descendants(rig.core_pid()):
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            continue
        if b"pn532_worker" in command and reader.encode() in command and is_running(pid):
            found.append(pid)
    return found


async def answers_at_back(rig: Rig, taps: int) -> list[float]:
    """Milliseconds from the card's last byte to the strike's edge, tap after tap."""
    return [await rig.opens("back") for _ in range(taps)]


async def test_an_unplugged_reader_is_back_in_10_s_and_the_other_door_doesnt_notice(
    rig: Rig,
) -> None:
    await rig.site.unplug("front-reader")
    took_ms = await answers_at_back(rig, 3)
    assert not await rig.online("front-reader")
    await rig.event(events.DeviceDown, lambda event: event.device == "front-reader")
    await rig.site.plug("front-reader")
    replugged_ns = time.monotonic_ns()
    other = asyncio.ensure_future(answers_at_back(rig, 2))
    await rig.tap_until_open("front", REPLUGGED_S_MAX)
    back_s = (rig.released("front", replugged_ns)[0].at_ns - replugged_ns) / 1e9
    took_ms += await other
    figure(f"reader replugged to first strike: {back_s:.2f} s; other door {max(took_ms):.0f} ms")
    assert back_s <= allowed(REPLUGGED_S_MAX)
    assert max(took_ms) <= allowed(ANSWER_MS_MAX)


async def test_a_reader_cut_in_mid_frame_says_nothing_wrong_and_comes_back(rig: Rig) -> None:
    before = await rig.last_seq()
    for after_bytes in (3, 17):
        await rig.site.unplug("front-reader", after_bytes)
        await rig.tap("front-reader", SAM)

        async def gone() -> bool:
            return not await rig.online("front-reader")

        await until("the reader is missed", gone, 5.0)
        await rig.site.plug("front-reader")
        await rig.ready()
    decided = [
        entry.event
        for entry in await rig.journal(before)
        if isinstance(entry.event, events.AccessDecided)
    ]
    assert all(event.outcome == "grant" for event in decided)  # whole, or not at all
    await rig.at_rest()
    await rig.opens("front")


async def test_a_hung_worker_is_killed_and_replaced_within_10_s(rig: Rig) -> None:
    (hung,) = workers(rig, "front-reader")
    os.kill(hung, signal.SIGSTOP)
    stopped_ns = time.monotonic_ns()
    other = asyncio.ensure_future(answers_at_back(rig, 4))
    await rig.tap_until_open("front", REPLUGGED_S_MAX)
    back_s = (rig.released("front", stopped_ns)[0].at_ns - stopped_ns) / 1e9
    figure(f"worker hung to first strike: {back_s:.2f} s")
    assert back_s <= allowed(REPLUGGED_S_MAX)
    assert not is_running(hung)
    assert len(workers(rig, "front-reader")) == 1
    assert max(await other) <= allowed(ANSWER_MS_MAX)


async def test_a_reader_that_hangs_is_found_and_works_again_when_it_does(rig: Rig) -> None:
    await rig.site.hang("front-reader")

    async def gone() -> bool:
        return not await rig.online("front-reader")

    await until("the reader is missed", gone, REPLUGGED_S_MAX)
    await rig.site.resume("front-reader")
    resumed_ns = time.monotonic_ns()
    await rig.tap_until_open("front", REPLUGGED_S_MAX)
    back_s = (rig.released("front", resumed_ns)[0].at_ns - resumed_ns) / 1e9
    assert back_s <= allowed(REPLUGGED_S_MAX)


async def test_without_its_relay_board_a_door_says_fault_and_the_other_works(rig: Rig) -> None:
    before = await rig.last_seq()
    await rig.site.unplug("relays-a")

    async def gone() -> bool:
        return not await rig.online("relays-a")

    await until("the board is missed", gone, 5.0)
    shown = asyncio.ensure_future(
        rig.seen.wait_for(
            seen.Lamp, lambda lamp: (lamp.device, lamp.signal) == ("front-keypad", "fault")
        )
    )
    await asyncio.sleep(0)
    await rig.enter(SAM_PIN)
    await shown
    failed = await rig.event(events.UnlockFailed, after=before)
    assert (failed.door, failed.cause) == ("front", "grant")
    granted = await rig.event(events.AccessDecided, after=before)
    assert granted.outcome == "grant"
    assert not rig.is_released("front")
    assert max(await answers_at_back(rig, 2)) <= allowed(ANSWER_MS_MAX)
    await rig.site.plug("relays-a")
    plugged_ns = time.monotonic_ns()
    await rig.ready()
    # What nobody got in the outage is not made up for afterwards.
    assert rig.released("front", plugged_ns) == []
    await rig.opens("front")


async def test_a_board_that_hangs_keeps_no_tap_waiting_for_long(rig: Rig) -> None:
    before = await rig.last_seq()
    await rig.site.hang("relays-a")
    begun = time.monotonic()
    await rig.enter(SAM_PIN)
    await rig.seen.wait_for(
        seen.Lamp, lambda lamp: (lamp.device, lamp.signal) == ("front-keypad", "fault")
    )
    took_s = time.monotonic() - begun
    figure(f"tap at a door whose board hangs: fault shown after {took_s:.2f} s")
    assert took_s <= allowed(1.0)
    await rig.event(events.UnlockFailed, after=before)
    assert max(await answers_at_back(rig, 2)) <= allowed(ANSWER_MS_MAX)


async def test_a_board_that_loses_power_in_mid_pulse_locks_and_works_again(rig: Rig) -> None:
    edge = await rig.release_by("front", rig.enter(SAM_PIN))
    await rig.site.power_cycle("relays-a", 0.5)
    assert not rig.is_released("front")
    off = [each for each in rig.seen.of(seen.Strike) if each.door == "front"][-1]
    assert (off.at_ns - edge.at_ns) / 1e9 < UNLOCK_S
    on_again_ns = time.monotonic_ns()
    await rig.ready()
    await rig.tap_until_open("front", REPLUGGED_S_MAX)
    figure(f"board back to strike: {(time.monotonic_ns() - on_again_ns) / 1e9:.2f} s")


async def test_an_output_that_somebody_else_energised_is_put_to_rest_and_told(rig: Rig) -> None:
    before = await rig.last_seq()
    board = rig.site.devices["relays-a"]
    assert isinstance(board, RelayBoard)
    board.board.request(bytes.fromhex("050000ff00"), time.monotonic_ns())  # write coil 0: on
    board.settle()
    on = rig.released("front")[-1]
    await rig.at_rest("front")
    off = [each for each in rig.seen.of(seen.Strike) if each.door == "front"][-1]
    assert (off.at_ns - on.at_ns) / 1e9 <= 1.0  # read back twice a second
    forced = await rig.event(events.OutputForcedOff, after=before)
    assert forced.door == "front"


async def test_noise_on_every_line_opens_nothing_and_leaves_a_gateway_that_works(
    rig: Rig,
) -> None:
    before, edges = await rig.last_seq(), len(rig.released("front") + rig.released("back"))
    for round_ in range(15):
        for seed, device in enumerate(rig.site.devices):
            if not device.startswith("relays"):
                await rig.site.garble(device, 0.1, seed + round_)
            await rig.site.noise(device, 200, seed * 100 + round_)
        await asyncio.sleep(0.2)
    for reader in ("front-reader", "back-reader"):
        await rig.site.flood(reader, 500, 0.5)
    for device in rig.site.devices:
        await rig.site.resume(device)
    decided = [
        entry.event
        for entry in await rig.journal(before)
        if isinstance(entry.event, events.AccessDecided)
    ]
    assert [event for event in decided if event.outcome != "deny"] == []
    assert len(rig.released("front") + rig.released("back")) == edges
    quiet_ns = time.monotonic_ns()
    for door in ("front", "back"):
        await rig.tap_until_open(door, REPLUGGED_S_MAX)
    figure(f"noise over to both doors opened: {(time.monotonic_ns() - quiet_ns) / 1e9:.2f} s")
    await rig.ready()
    await rig.at_rest()
    await rig.site.press("front-keypad", "*", 0)  # whatever noise had begun to type
    await rig.release_by("front", rig.enter(SAM_PIN))


async def test_a_flooded_keypad_doesnt_slow_the_other_door(rig: Rig) -> None:
    taps = 10
    flood = asyncio.ensure_future(rig.site.flood("front-keypad", 10_000, 60.0))
    try:
        await asyncio.sleep(0.2)
        took_ms = await answers_at_back(rig, taps)
        assert not flood.done()
    finally:
        flood.cancel()
        await asyncio.gather(flood, return_exceptions=True)
    took_ms.sort()
    figure(f"{taps} taps beside a flood: {', '.join(f'{ms:.1f}' for ms in took_ms)} ms")
    # The promise is on p99; of ten taps that is the worst but for one stall of the machine.
    assert took_ms[-2] <= allowed(ANSWER_MS_MAX)
    assert took_ms[-1] <= allowed(WORST_MS_MAX)
    await rig.site.press("front-keypad", "*", 0)
    await rig.at_rest()
    await rig.release_by("front", rig.enter(SAM_PIN))
