"""Shared readers and supervised inputs, in virtual time."""

import asyncio

import pytest

from gateway.control.shared_reader import SharedReader
from gateway.control.supervised import SETTLE, SupervisedInput
from gateway.domain.signal import Signal
from tests.virtual import VirtualClock, run

G, D, P = Signal.GRANTED, Signal.DENIED, Signal.PIN_WANTED


@pytest.mark.parametrize(
    ("answers", "shown"),
    [
        ([(0.0, G), (0.0, D)], [G]),
        ([(0.0, D), (0.01, G)], [G]),
        ([(0.0, D), (0.26, G)], [G]),
        ([(0.0, D), (0.01, D)], [D]),
        ([(0.0, D)], [D]),
        ([(0.0, G), (5.0, D)], [G, D]),
        ([(0.0, D), (0.01, P)], [P]),
        ([(0.0, P), (0.01, P)], [P]),
        ([(0.0, P), (0.01, G)], [P, G]),
        ([(0.0, P), (3.0, D)], [P, D]),
        ([(0.0, D), (2.0, D)], [D, D]),
    ],
)
def test_a_shared_reader_shows_the_best_answer_of_its_doors_once(
    answers: list[tuple[float, Signal]], shown: list[Signal]
) -> None:
    async def journey() -> None:
        seen: list[Signal] = []

        async def indicate(signal: Signal) -> None:
            seen.append(signal)

        reader = SharedReader(indicate, VirtualClock())

        async def answer(at: float, signal: Signal) -> None:
            await asyncio.sleep(at)
            await reader.indicate(signal)

        await asyncio.gather(*(answer(at, signal) for at, signal in answers))
        assert seen == shown

    run(journey())


def test_inputs_that_agree_for_a_moment_only_are_no_fault_and_those_that_stay_are_one() -> None:
    async def journey() -> None:
        told: list[str | None] = []
        pair = SupervisedInput(told.append)
        pair.said(opposite=False, active=True)
        pair.said(opposite=True, active=False)
        settle_s = SETTLE.total_seconds()
        pair.said(opposite=False, active=False)
        await asyncio.sleep(settle_s / 2)
        pair.said(opposite=True, active=True)
        await asyncio.sleep(settle_s * 2)
        assert told == []
        pair.said(opposite=True, active=False)
        await asyncio.sleep(settle_s * 1.1)
        assert told == ["cut"]
        pair.said(opposite=True, active=True)
        assert told == ["cut", None]
        pair.said(opposite=False, active=True)
        await asyncio.sleep(settle_s * 1.1)
        assert told == ["cut", None, "short"]
        pair.said(opposite=False, active=False)
        pair.said(opposite=True, active=False)
        pair.forget()
        await asyncio.sleep(settle_s * 2)
        assert told == ["cut", None, "short", None], (
            "a board that is lost says nothing of its wires"
        )

    run(journey())
