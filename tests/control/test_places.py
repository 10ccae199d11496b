"""Where a holder is, after any interleaving of grants that they go through or not."""

import asyncio
from datetime import timedelta
from typing import Any

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from gateway.domain import events
from gateway.domain.door_state import Contact
from gateway.domain.memory import Place, recall
from tests.control.site import MAYA, ONCE, SAM, Club, club, records
from tests.virtual import run

TWO_INTO_ONE: dict[str, dict[str, Any]] = {
    "front": {"antipassback": "hard", "egress": False},
    "inner": {"from_zone": "out", "to_zone": "club", "egress": False},
}


def place(c: Club, holder: str) -> Place | None:
    return recall(c.memory, f"place/{holder}", Place)


def test_who_taps_at_two_doors_into_one_zone_and_goes_through_neither_may_go_in() -> None:
    async def journey() -> None:
        async with club(records(TWO_INTO_ONE)) as c:
            assert await c.says(SAM, door="front") == "group"
            await asyncio.sleep(1)
            assert await c.says(SAM, door="inner") == "group"
            await asyncio.sleep(8)
            assert len(c.found(events.NotEntered)) == 2
            assert place(c, "sam") is None
            assert await c.says(SAM, door="front") == "group"

    run(journey())


def test_who_passes_an_open_door_and_then_another_is_beyond_the_second() -> None:
    async def journey() -> None:
        async with club(records()) as c:
            await c.says(SAM)
            await c.walk(for_s=0.1)
            await c.contact(Contact.OPEN)
            await c.says(SAM)
            await c.says(SAM, door="inner")
            await c.walk("inner")
            await asyncio.sleep(10)
            went = place(c, "sam")
            assert went is not None
            assert (went.zone, went.seen, went.others) == ("vault", True, ())

    run(journey())


def test_a_door_without_a_contact_takes_whom_it_lets_in_to_have_gone_in() -> None:
    async def journey() -> None:
        async with club(records(), has_contact=False) as c:
            for door in ("front", "inner", "front"):
                await c.says(SAM, door=door)
            went = place(c, "sam")
            assert went is not None
            assert (went.zone, went.awaited, went.others) == ("club", False, ())

    run(journey())


def test_over_a_restart_of_the_machine_who_was_let_in_is_taken_to_have_gone_in() -> None:
    async def journey() -> None:
        async with club(records(TWO_INTO_ONE)) as c:
            await c.says(SAM)
            await c.says(SAM, door="inner")
            await c.tap(MAYA)  # what is remembered goes to disk with the next event
            paper = c.paper
        async with club(records(TWO_INTO_ONE), paper=paper, boot="boot-2") as c:
            went = place(c, "sam")
            assert went is not None
            assert (went.door, went.awaited, went.others) == ("inner", False, ())

    run(journey())


def test_how_long_ago_somebody_came_in_is_counted_anew_by_a_reboot_and_by_no_restart() -> None:
    async def journey() -> None:
        rows, forgets = records({"inner": {"antipassback": "hard"}}), timedelta(minutes=10)
        async with club(rows, antipassback_forgets=forgets) as c:
            await c.says(SAM, door="inner")
            await c.walk("inner")
            paper = c.paper
        for _ in range(2):
            async with club(rows, paper=paper, boot="boot-2", antipassback_forgets=forgets) as c:
                c.memory.apply(c.memory.running())  # as the core does when it starts
                c.paper.keep(c.memory.take_unwritten())
                assert await c.says(SAM, door="inner") == "antipassback"
                await asyncio.sleep(301)
        async with club(rows, paper=paper, boot="boot-2", antipassback_forgets=forgets) as c:
            assert await c.says(SAM, door="inner") == "group"

    run(journey())


DOOR = st.sampled_from(["front", "inner"])
TAP = st.tuples(st.just("tap"), DOOR, st.sampled_from([SAM, MAYA, ONCE]), st.sampled_from("io"))
STEP = TAP | st.tuples(st.sampled_from(["walk", "lose the strike"]), DOOR)
WAIT = st.tuples(st.just("wait"), st.sampled_from([0.5, 2.0, 10.0]))


@given(steps=st.lists(TAP | STEP | WAIT, min_size=2, max_size=10), apart=st.booleans())
@example(
    steps=[("tap", "front", SAM, "i"), ("tap", "inner", SAM, "i"), ("walk", "front")], apart=True
)
@example(steps=[("tap", "front", SAM, "i"), ("tap", "inner", SAM, "o"), ("walk", "inner"),
          ("tap", "inner", SAM, "i"), ("walk", "front")], apart=False)  # fmt: skip
@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
def test_a_holders_place_is_where_they_last_went(steps: list[Any], apart: bool) -> None:
    async def journey() -> None:
        doors = {"front": {"antipassback": "soft"}, "inner": {}} if apart else TWO_INTO_ONE
        doors = {name: {**door, "egress": True} for name, door in doors.items()}
        async with club(records(doors)) as c:
            for step in steps:
                match step:
                    case "tap", door, value, side:
                        await c.tap(value, door=door, side={"i": "in", "o": "out"}[side])
                    case "walk", door:
                        await c.walk(door, for_s=0.2)
                    case "wait", seconds:
                        await asyncio.sleep(seconds)
                    case _, door:
                        c.fronts[door].offline = "no answer" if not c.fronts[door].offline else ""
            await asyncio.sleep(12)
            went = {}
            for entered in c.found(events.Entered):
                door = c.force.records.tables.doors[entered.door]
                for holder in entered.holders:
                    went[holder] = door.to_zone if entered.side == "in" else door.from_zone
            for holder in ("sam", "maya"):
                found = place(c, holder)
                assert (found and found.zone) == went.get(holder)
                assert found is None or not (found.awaited or found.others)

    run(journey())
