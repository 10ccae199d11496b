"""Break-glass codes at a controlled door: single-use, limited, durable before the lock moves."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from gateway.control.door import CardTapped
from gateway.domain import events
from gateway.domain.break_glass import LOOK_AHEAD, Role, code
from gateway.domain.entitlements import NO_RECORDS
from gateway.domain.signal import Signal
from tests.control.site import SAM_PIN, Club, club, records
from tests.virtual import run

ONE, OTHER = b"12345678901234567890", b"another person's key"
WARDEN = Role("warden", frozenset({"front"}), (ONE, OTHER), timedelta(hours=8), 1)
PAIR = Role("pair", frozenset({"front"}), (ONE, OTHER), timedelta(hours=1), 2)
PIN_DOOR: dict[str, Any] = {"front": {"pin_alone": True}, "inner": {"pin_alone": True}}


async def enter(c: Club, digits: str, door: str = "front") -> str | None:
    """Enter a code; what came of it, or None where it was a PIN like any other."""
    before = len(c.paper.events)
    c.doors[door].tap(CardTapped("keypad", "in", "pin", digits, c.clock.monotonic()))
    await asyncio.sleep(0.02)
    told = [e for e in c.paper.events[before:] if isinstance(e, events.BreakGlass)]
    return told[0].outcome if told else None


def test_codes_are_those_of_rfc_4226() -> None:
    # Appendix D gives the truncated values; eight digits are their last eight.
    assert [code(ONE, counter) for counter in range(3)] == ["84755224", "94287082", "37359152"]


@pytest.mark.parametrize("boot", ["boot-1", "boot-2"])
def test_a_code_opens_once_also_over_a_restart_and_with_no_records_at_all(boot: str) -> None:
    async def journey() -> None:
        async with club(NO_RECORDS, break_glass=(WARDEN,)) as c:
            assert await enter(c, code(ONE, 0)) == "opened"
            assert c.fronts["front"].pulses == [5.0]
            assert await enter(c, code(ONE, 0)) is None
            assert await enter(c, code(ONE, 3)) == "opened", "some were read out and not used"
            assert await enter(c, code(ONE, 2)) is None
            assert c.found(events.BreakGlass)[0].priority == 3
            paper = c.paper
        async with club(NO_RECORDS, paper=paper, boot=boot, break_glass=(WARDEN,)) as c:
            assert await enter(c, code(ONE, 3)) is None
            assert await enter(c, code(ONE, 4 + LOOK_AHEAD)) is None
            assert not c.fronts["front"].pulses
            assert await enter(c, code(ONE, 4)) == "opened"

    run(journey())


def test_a_code_opens_its_roles_doors_only_and_also_under_lockdown_and_blocked() -> None:
    async def journey() -> None:
        async with club(records(PIN_DOOR), break_glass=(WARDEN,)) as c:
            await c.order("lockdown")
            await c.order("blocked", "door", "front", 600)
            assert await enter(c, code(ONE, 0), "inner") is None
            assert await enter(c, code(ONE, 0)) == "opened"

    run(journey())


def test_a_code_is_spent_on_disk_before_the_lock_moves() -> None:
    async def journey() -> None:
        async with club(break_glass=(WARDEN,)) as c:
            c.paper.disk_s = None
            assert await enter(c, code(ONE, 0)) == "opened"
            await asyncio.sleep(2)
            assert not c.fronts["front"].pulses
            assert c.fronts["front"].shown == [Signal.FAULT]
            assert "break_glass/warden/1" in c.paper.state

    run(journey())


def test_two_different_peoples_codes_are_needed_where_the_role_says_so() -> None:
    async def journey() -> None:
        async with club(break_glass=(PAIR,)) as c:
            assert await enter(c, code(ONE, 0)) == "second_required"
            assert await enter(c, code(ONE, 1)) == "second_required"
            await asyncio.sleep(61)
            assert await enter(c, code(OTHER, 0)) == "second_required", "too late for the first"
            assert not c.fronts["front"].pulses
            assert await enter(c, code(ONE, 2)) == "opened"

    run(journey())


def test_a_roles_hours_end_and_an_operator_renews_them() -> None:
    async def journey() -> None:
        async with club(break_glass=(PAIR,)) as c:
            await enter(c, code(ONE, 0))
            assert await enter(c, code(OTHER, 0)) == "opened"
            c.clock.shift = timedelta(days=-300)
            await asyncio.sleep(3590)
            assert await enter(c, code(ONE, 1)) == "second_required"
            await asyncio.sleep(10)
            assert await enter(c, code(OTHER, 1)) == "over"
            await c.orders.forgive(None, None, "pair", by="uid 0", why="next incident")
            await enter(c, code(ONE, 2))
            assert await enter(c, code(OTHER, 2)) == "opened"

    run(journey())


def test_a_code_too_far_ahead_does_not_open_later_when_another_has_been_used_meanwhile() -> None:
    async def journey() -> None:
        rows = records({"front": {"second_factor_schedule": "24x7"}})
        async with club(rows, break_glass=(WARDEN,)) as c:
            assert await enter(c, code(ONE, LOOK_AHEAD)) is None, "it may be a card's PIN"
            assert await enter(c, code(ONE, 0)) == "opened"
            await asyncio.sleep(30)
            assert [e.reason for e in c.found(events.AccessDecided)] == ["unknown_credential"]
            assert len(c.fronts["front"].pulses) == 1
            assert await enter(c, code(ONE, LOOK_AHEAD)) == "opened"

    run(journey())


@pytest.mark.parametrize("after_s", [3540, 3610])
def test_a_roles_hours_that_are_over_do_not_begin_again_with_a_reboot(after_s: int) -> None:
    async def journey() -> None:
        async with club(break_glass=(PAIR,)) as c:
            await enter(c, code(ONE, 0))
            assert await enter(c, code(OTHER, 0)) == "opened"
            for wait_s in (after_s, 60, 60):
                await asyncio.sleep(wait_s)
                c.memory.apply(c.memory.running())  # as the core does each minute
                c.paper.keep(c.memory.take_unwritten())
            assert not c.memory.running()
            paper = c.paper
        async with club(break_glass=(PAIR,), paper=paper, boot="boot-2") as c:
            assert await enter(c, code(ONE, 1)) == "over"

    run(journey())


def test_guessing_at_codes_is_locked_out_like_guessing_at_pins() -> None:
    async def journey() -> None:
        async with club(records(PIN_DOOR), break_glass=(WARDEN,)) as c:
            for guess in range(5):
                assert await enter(c, f"0000000{guess}") is None
            assert await enter(c, code(ONE, 0)) is None, "one and the same denial"
            await asyncio.sleep(30)
            assert await enter(c, code(ONE, 0)) == "opened", "and it was not spent by that"
            assert await c.says(SAM_PIN) == "group"

    run(journey())


def test_guessing_at_codes_is_slowed_without_records_too() -> None:
    async def journey() -> None:
        async with club(NO_RECORDS, break_glass=(WARDEN,)) as c:
            for _ in range(10):
                await enter(c, "2468")
            for guess in range(5):
                assert await enter(c, f"0000000{guess}") is None
            assert [e.seconds for e in c.found(events.PinLockout)] == [30]
            assert await enter(c, code(ONE, 0)) is None
            await asyncio.sleep(30)
            assert await enter(c, code(ONE, 0)) == "opened"

    run(journey())


def test_no_secret_and_no_code_is_in_what_is_written_or_printed() -> None:
    async def journey() -> None:
        async with club(break_glass=(WARDEN,)) as c:
            await enter(c, code(ONE, 0))
            written = b"".join(map(events.encode, c.paper.events)) + repr(WARDEN).encode()
            assert code(ONE, 0).encode() not in written
            assert ONE not in written

    run(journey())
