"""The limit on PIN guessing at a door over hours: for whoever guesses, and for honest typos."""

import random
from collections.abc import Callable
from datetime import timedelta

import pytest

from gateway.domain.memory import PinRow, Remembered
from gateway.domain.pin_lockout import door_key, is_door_locked, missed, standing
from gateway.domain.records import Policy

POLICY = Policy(id="policy")
DOOR = "front"


class Kept:
    """A memory of the one door."""

    def __init__(self) -> None:
        self.rows: dict[str, Remembered | None] = {}

    def get(self, key: str) -> Remembered | None:
        return self.rows.get(key)

    def is_locked(self, now_s: float) -> bool:
        return is_door_locked(self, DOOR, timedelta(seconds=now_s))

    def miss(self, now_s: float) -> None:
        self.rows.update(missed(POLICY, self, DOOR, timedelta(seconds=now_s)))

    def row(self, now_s: float) -> PinRow:
        row = self.get(door_key(DOOR)) or PinRow()
        assert isinstance(row, PinRow)
        return standing(row, POLICY, timedelta(seconds=now_s))


def at_once(kept: Kept, now_s: float) -> bool:
    return True


def never_the_last(kept: Kept, now_s: float) -> bool:
    """Guess as long as no lockout comes of it."""
    return kept.row(now_s).failures < POLICY.pin_max_attempts - 1


def a_lockout_an_hour(kept: Kept, now_s: float) -> bool:
    """Let the doubling fall to nothing before the next lockout."""
    return kept.row(now_s).lockouts == 0 or never_the_last(kept, now_s)


@pytest.mark.parametrize("goes_on", [at_once, never_the_last, a_lockout_an_hour])
def test_nobody_guesses_more_than_26_pins_an_hour_in_the_long_run(
    goes_on: Callable[[Kept, float], bool],
) -> None:
    kept, guesses, days = Kept(), 0, 3
    for now_s in range(days * 24 * 3600):
        if not kept.is_locked(now_s) and goes_on(kept, now_s):
            kept.miss(now_s)
            guesses += 1
    assert 19 <= guesses / (days * 24) <= 26


@pytest.mark.parametrize(
    ("entries_per_hour", "wrong", "lockouts_a_year_max"), [(120, 0.02, 1), (240, 0.02, 20)]
)
def test_honest_typos_hardly_ever_lock_a_busy_door(
    entries_per_hour: int, wrong: float, lockouts_a_year_max: int
) -> None:
    """A year of days of ten hours; each person tries until it is right."""
    rng, lockouts = random.Random(1), 0
    for _ in range(365):
        kept, now_s = Kept(), 0.0
        while (now_s := now_s + rng.expovariate(entries_per_hour / 3600)) < 10 * 3600:
            while not kept.is_locked(now_s) and rng.random() < wrong:
                kept.miss(now_s)
                lockouts += kept.is_locked(now_s)
                now_s += 4
    assert lockouts <= lockouts_a_year_max


def test_time_alone_makes_a_door_forget() -> None:
    kept = Kept()
    for now_s in (0, 10, 20):
        kept.miss(now_s)
    assert [kept.row(now_s).failures for now_s in (179, 180, 359, 360, 540)] == [3, 2, 2, 1, 0]
    for now_s in (600, 601, 602, 603, 604):
        kept.miss(now_s)
    assert kept.is_locked(633)
    assert not kept.is_locked(634)
    assert [kept.row(now_s).lockouts for now_s in (634, 634 + 3599, 634 + 3600)] == [1, 1, 0]
    assert kept.row(634 + 3600) == PinRow()


def test_a_wrong_pin_forgets_no_lockout_twice() -> None:
    kept = Kept()
    for now_s in (*range(5), *range(40, 45), *range(110, 115)):
        kept.miss(now_s)
    assert kept.row(234).lockouts == 3
    kept.miss(234 + 3600)
    assert [kept.row(234 + hours * 3600).lockouts for hours in (1, 1.9, 2, 3)] == [2, 2, 1, 0]


def test_a_clock_that_runs_backwards_gives_nothing_back() -> None:
    kept = Kept()
    kept.miss(1000)
    assert kept.row(0).failures == 1
