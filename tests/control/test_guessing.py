"""Card numbers tried at a controlled door's reader, in virtual time."""

import asyncio

from gateway.domain import events
from gateway.domain.guessing import FREE_MAX, PAUSE_MIN
from tests.control.site import SAM, club, records
from tests.virtual import run


def unknown(number: int) -> str:
    return f"04F{number:05X}"


def test_numbers_that_are_tried_one_after_the_other_are_hardly_looked_up() -> None:
    async def journey() -> None:
        async with club(records()) as c:
            for number in range(200):
                c.present(unknown(number))
                await asyncio.sleep(0.06)
            denied = c.found(events.AccessDecided)
            assert FREE_MAX < len(denied) <= FREE_MAX + 6
            assert c.found(events.InputIgnored), "the others are counted"

    run(journey())


def test_no_pause_follows_a_known_card_and_it_gives_no_more_guesses() -> None:
    async def journey() -> None:
        async with club(records()) as c:
            for number in range(FREE_MAX):
                assert await c.says(unknown(number)) == "unknown_credential"
                assert await c.says(SAM) == "group", "no pause yet, and no pause after it"
            assert await c.says(unknown(99)) == "unknown_credential"
            before = len(c.found(events.AccessDecided))
            c.present(SAM)
            await asyncio.sleep(0.1)
            assert len(c.found(events.AccessDecided)) == before, "the reader pauses"
            await asyncio.sleep(PAUSE_MIN.total_seconds())
            assert await c.says(SAM) == "group"

    run(journey())


def test_keys_that_nobody_can_guess_make_no_reader_pause() -> None:
    async def journey() -> None:
        async with club(records()) as c:
            for number in range(2 * FREE_MAX):
                assert await c.says(unknown(number) * 16, kind="pkoc") == "unknown_credential"
            assert await c.says(SAM) == "group"

    run(journey())


def test_the_exit_and_the_way_out_know_no_pause() -> None:
    async def journey() -> None:
        async with club(records()) as c:
            for number in range(FREE_MAX + 1):
                assert await c.says(unknown(number)) == "unknown_credential"
            assert await c.says(SAM, side="out") == "egress"
            await c.rex()
            assert c.released()

    run(journey())
