"""The physics of a door on a given time."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwsim.door import Door, DoorTimes, Leaf, Moved

MS = 1_000_000
TIMES = DoorTimes(opening_s=0.3, passing_s=0.5, closing_s=0.7, bounce_s=())


def contact(door: Door) -> list[tuple[int, bool]]:
    """Milliseconds and whether closed, of each edge of the contact."""
    return [
        (moved.at_ns // MS, bool(moved.value))
        for moved in door.take_moved()
        if moved.what == "contact"
    ]


def test_a_push_at_a_locked_door_opens_nothing() -> None:
    door = Door(times=TIMES)
    door.push(0)
    door.advance(10_000 * MS)
    assert door.leaf is Leaf.CLOSED
    assert door.take_moved() == []


def test_a_released_door_opens_lets_somebody_through_and_closes() -> None:
    door = Door(times=TIMES)
    door.energise(0, on=True)
    door.push(100 * MS)
    door.energise(200 * MS, on=False)
    door.advance(10_000 * MS)
    assert contact(door) == [(100, False), (1_600, True)]


def test_patience_meets_a_release_that_comes_later() -> None:
    door = Door(times=TIMES)
    door.push(0, patience_s=1.0)
    door.energise(900 * MS, on=True)
    assert door.leaf is Leaf.OPENING


def test_patience_ends() -> None:
    door = Door(times=TIMES)
    door.push(0, patience_s=1.0)
    door.energise(1_001 * MS, on=True)
    assert door.leaf is Leaf.CLOSED


@pytest.mark.parametrize(("fail_safe", "leaf"), [(True, Leaf.OPENING), (False, Leaf.CLOSED)])
def test_without_power_a_fail_safe_lock_lets_go_and_a_fail_secure_one_does_not(
    fail_safe: bool, leaf: Leaf
) -> None:
    door = Door(fail_safe=fail_safe, times=TIMES)
    door.power(0, on=False)
    door.push(0)
    assert door.leaf is leaf


def test_a_forced_door_opens_while_locked() -> None:
    door = Door(times=TIMES)
    door.force(0)
    door.advance(10_000 * MS)
    assert contact(door) == [(0, False), (1_500, True)]


def test_a_propped_door_stays_open_until_the_wedge_is_taken_away() -> None:
    door = Door(times=TIMES)
    door.prop(0)
    door.force(0)
    door.advance(60_000 * MS)
    assert door.leaf is Leaf.OPEN
    door.close(60_000 * MS)
    door.advance(70_000 * MS)
    assert contact(door) == [(0, False), (60_700, True)]


def test_the_contact_bounces_and_ends_where_the_leaf_is() -> None:
    door = Door(times=DoorTimes(bounce_s=(0.001, 0.002)))
    door.force(0)
    door.advance(100 * MS)
    assert contact(door) == [(0, False), (1, True), (2, False)]


def test_a_welded_contact_says_nothing_and_tells_the_truth_once_repaired() -> None:
    door = Door(times=TIMES)
    door.jam_contact(0, closed=True)
    door.force(0)
    door.advance(400 * MS)
    assert contact(door) == []
    door.jam_contact(400 * MS, closed=None)
    assert contact(door) == [(400, False)]


def test_the_rex_button_moves_once_each_way() -> None:
    door = Door()
    door.press_rex(0, pressed=True)
    door.press_rex(1, pressed=True)
    door.press_rex(2, pressed=False)
    assert door.take_moved() == [Moved(0, "rex", True), Moved(2, "rex", False)]


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["on", "off", "push", "force", "prop", "close"]),
            st.integers(0, 2_000),
        ),
        max_size=40,
    )
)
def test_whatever_happens_the_contact_alternates_and_agrees_with_the_leaf_at_rest(
    acts: list[tuple[str, int]],
) -> None:
    door, now_ns = Door(), 0
    for act, wait_ms in acts:
        now_ns += wait_ms * MS
        match act:
            case "on" | "off":
                door.energise(now_ns, on=act == "on")
            case "push":
                door.push(now_ns, 0.5)
            case "force":
                door.force(now_ns)
            case "prop":
                door.prop(now_ns)
            case "close":
                door.close(now_ns)
    door.close(now_ns)
    door.advance(now_ns + 60_000 * MS)
    moved = door.take_moved()
    edges = [each.value for each in moved if each.what == "contact"]
    assert edges == [bool(place % 2) for place in range(len(edges))]
    assert [each.at_ns for each in moved] == sorted(each.at_ns for each in moved)
    assert door.leaf is Leaf.CLOSED
    assert door.closed
    assert door.next_ns is None
