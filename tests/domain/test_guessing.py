"""Card numbers that are tried one after the other at a reader."""

from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from gateway.domain.guessing import (
    COUNT_MAX,
    FORGETS_AFTER,
    FREE_MAX,
    PAUSE_MAX,
    PAUSE_MIN,
    Guesses,
    is_paused,
    missed,
)

SECOND = timedelta(seconds=1)


def guesses_within(span: timedelta, *, every: timedelta = timedelta(milliseconds=50)) -> int:
    """Count the numbers looked up at a reader where somebody tries one after the other."""
    row, now, tried = Guesses(), timedelta(0), 0
    while now < span:
        if not is_paused(row, now):
            row, tried = missed(row, now), tried + 1
        now += every
    return tried


def test_a_pocket_of_unknown_cards_slows_nobody() -> None:
    row = Guesses()
    for number in range(FREE_MAX):
        row = missed(row, number * SECOND)
    assert not is_paused(row, FREE_MAX * SECOND)


def test_each_further_unknown_card_is_followed_by_a_pause() -> None:
    row = Guesses()
    for _ in range(FREE_MAX + 1):
        row = missed(row, timedelta(0))
    assert is_paused(row, PAUSE_MIN - SECOND)
    assert not is_paused(row, PAUSE_MIN)


def test_whoever_tries_numbers_gets_few_of_them() -> None:
    # Without a pause: 72,000 an hour at 20 a second.
    for every_ms in (20, 50, 700, 2_000, 2_100, 4_100):
        every = timedelta(milliseconds=every_ms)
        assert guesses_within(timedelta(hours=1), every=every) <= 920


def test_two_unknown_cards_a_minute_slow_nobody_all_day() -> None:
    row, now = Guesses(), timedelta(0)
    while now < timedelta(hours=10):
        assert not is_paused(row, now)
        row = missed(row, now)
        now += FORGETS_AFTER


def test_a_campaign_is_forgotten_within_twenty_minutes() -> None:
    row, now = Guesses(), timedelta(0)
    for _ in range(1000):
        row, now = missed(row, now), now + SECOND
    assert row.count == COUNT_MAX
    row = missed(row, now + timedelta(minutes=20))
    assert row.count == 1
    assert not is_paused(row, now + timedelta(minutes=20))


@given(st.lists(st.integers(0, 600_000), max_size=200))
def test_no_pattern_of_guesses_gets_more_than_the_free_ones_and_what_time_gives(
    gaps_ms: list[int],
) -> None:
    row, now, counts = Guesses(), timedelta(0), []
    for gap in gaps_ms:
        now += timedelta(milliseconds=gap)
        if is_paused(row, now):
            assert row.until - now <= PAUSE_MAX
            continue
        row = missed(row, now)
        counts.append(now)
        assert 1 <= row.count <= COUNT_MAX
    for start in range(len(counts) - FREE_MAX - 1):
        end = start + FREE_MAX + 1
        assert counts[end] - counts[start] >= min(PAUSE_MIN, FORGETS_AFTER)
