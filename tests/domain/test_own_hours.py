"""Which of a controller's profiles stand for which week."""

from collections import Counter
from datetime import date

import msgspec
import pytest

from gateway.domain.own_hours import LAST, Profile, Week, numbered, profiles

DATES = date(2026, 6, 15), date(2026, 7, 14)


def week(start: int) -> Week:
    """Two profiles: the weekend begins an hour later."""
    return Week(*DATES, (((start, 1020),),) * 5 + (((start + 60, 1020),),) * 2)


def on_board(each: Week, head: int, tail: int) -> dict[int, Profile]:
    first, second = profiles(each)
    return {head: msgspec.structs.replace(first, linked=tail), tail: second}


def test_a_week_keeps_its_profiles_and_changed_hours_keep_the_number_that_cards_have() -> None:
    there = on_board(week(480), 9, 4)
    assert numbered([week(480)], {}, there).profiles == there
    assert numbered([week(540)], {week(540): Counter({9: 5, 7: 1})}, there) == (
        {week(540): 9},
        on_board(week(540), 9, 4),
    )
    # Both: who has it already goes before who has it by number only.
    both = numbered([week(540), week(480)], {week(540): Counter({9: 5})}, there)
    assert both.of[week(480)] == 9
    assert not {9, 4} & {both.of[week(540)], both.profiles[both.of[week(540)]].linked}


def test_weeks_with_the_same_hours_that_end_on_different_days_never_share_a_number() -> None:
    long, short = week(480), msgspec.structs.replace(week(480), last=date(2026, 6, 25))
    was = numbered([long, short], {}, {})
    there = {each: was.profiles[each] for each in sorted(was.profiles)}
    for used in (
        {each: Counter({number: 2}) for each, number in was.of.items()},
        {each: Counter({was.of[long]: 2}) for each in (long, short)},  # alike until yesterday
    ):
        for weeks in ([long, short], [short, long]):
            found = numbered(weeks, used, there)
            assert len(set(found.of.values())) == 2
            assert {each: found.profiles[number].last for each, number in found.of.items()} == {
                long: long.last,
                short: short.last,
            }
        assert {found.of[each] for each in (long, short)} == set(was.of.values())


@pytest.mark.parametrize("linked", [6, 5, 77])
def test_profiles_that_others_have_linked_together_are_told_apart(linked: int) -> None:
    there = {
        number: msgspec.structs.replace(profiles(week(60))[0], linked=to)
        for number, to in ((8, 6), (5, 6), (6, linked))
    }
    weeks = [week(480), week(540), week(600)]
    used = {weeks[0]: Counter({8: 1}), weeks[1]: Counter({5: 1}), weeks[2]: Counter({8: 1})}
    found = numbered(weeks, used, there)
    assert len(found.profiles) == 6
    for each in weeks:
        head = found.of[each]
        tail = found.profiles[head].linked
        told = {head: found.profiles[head], tail: found.profiles[tail]}
        assert told == on_board(each, head, tail)
        assert list(found.profiles).index(tail) < list(found.profiles).index(head)


def test_who_comes_too_late_has_no_number() -> None:
    weeks = [week(each) for each in range(200)]
    found = numbered(weeks, {}, {})
    assert list(found.of) == weeks[: (LAST - 1) // 2]
