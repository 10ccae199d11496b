"""Which mode is in force: a truth table, and schedules at clock changes and holidays."""

import itertools
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from gateway.domain.door_mode import (
    Standing,
    evacuation_key,
    hand_key,
    lockdown_key,
    mode_of,
    next_wall_change,
    opens_by_schedule,
)
from gateway.domain.door_state import Moment
from gateway.domain.entitlements import NO_RECORDS
from gateway.domain.memory import FirstIn, Ordered, Remembered
from tests.control.site import records

NOW = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)
WEEK = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


class Fixed:
    def __init__(self, **values: Remembered) -> None:
        self.values = {key.replace("__", "/"): value for key, value in values.items()}

    def get(self, key: str) -> Remembered | None:
        return self.values.get(key)


def ordered(mode: Any, until_s: float | None = None) -> Ordered:
    until = None if until_s is None else timedelta(seconds=until_s)
    return Ordered(mode=mode, by="uid 0", why="drill", at=NOW, until=until)


def site(weekly: Any = (("08:00", "10:00"),), **door: Any) -> Any:
    schedule = {
        "type": "schedule",
        "id": "open",
        "weekly": {day: [list(each) for each in weekly] for day in WEEK},
        "holidays": [{"calendar": "cal", "intervals": []}],
    }
    calendar = {"type": "calendar", "id": "cal", "dates": {"2026-03-03": "closed"}}
    front = {"unlock_schedule": "open", **door}
    return records({"front": front}, [calendar, schedule], max_age_h={"member": 24})


def at(
    wall: datetime = NOW, mono_s: float = 100, *, trusted: bool = True, as_of: Any = None
) -> Standing:
    moment = Moment(timedelta(seconds=mono_s), wall, 2 if trusted else 1)
    return Standing(moment, trusted, as_of)


@pytest.mark.parametrize(
    ("evacuated", "locked_down", "by_hand", "open_now"),
    [
        *itertools.product(
            [False, True], [False, True], [None, "blocked", "unlocked"], [False, True]
        )
    ],
)
def test_what_people_ordered_comes_first_and_evacuation_before_all(
    evacuated: bool, locked_down: bool, by_hand: str | None, open_now: bool
) -> None:
    memory = Fixed()
    if evacuated:
        memory.values[evacuation_key("zone", "club")] = ordered("evacuation")
    if locked_down:
        memory.values[lockdown_key("site", "")] = ordered("lockdown")
    if by_hand:
        memory.values[hand_key("front")] = ordered(by_hand, 200)
    wall = NOW if open_now else NOW + timedelta(hours=5)
    found = mode_of("front", site(), memory, at(wall))
    expected = (
        "evacuation" if evacuated
        else "lockdown" if locked_down
        else by_hand or ("unlocked" if open_now
        else "controlled")
    )  # fmt: skip
    assert found.mode == expected
    assert found.lockdown == locked_down


@pytest.mark.parametrize(
    ("door", "standing", "first", "mode"),
    [
        ({}, at(), None, "unlocked"),
        ({}, at(trusted=False), None, "controlled"),
        ({}, at(as_of=NOW - timedelta(hours=23, minutes=59)), None, "unlocked"),
        ({}, at(as_of=NOW - timedelta(hours=24)), None, "controlled"),
        ({"unlock_after_first": True}, at(), None, "controlled"),
        ({"unlock_after_first": True}, at(), NOW - timedelta(minutes=30), "unlocked"),
        ({"unlock_after_first": True}, at(), NOW, "unlocked"),
        ({"unlock_after_first": True}, at(), NOW - timedelta(minutes=61), "controlled"),
        ({"unlock_after_first": True}, at(), NOW - timedelta(days=1), "controlled"),
        ({"unlock_after_first": True}, at(), NOW - timedelta(days=700), "controlled"),
        ({"unlock_after_first": True}, at(), NOW + timedelta(minutes=1), "controlled"),
        ({}, at(NOW + timedelta(days=1)), None, "controlled"),
        ({}, at(NOW + timedelta(days=2)), None, "unlocked"),
        ({"unlock_schedule": "24x7"}, at(NOW + timedelta(days=1)), None, "unlocked"),
    ],
)
def test_a_schedule_holds_under_the_conditions_of_the_records(
    door: dict[str, Any], standing: Standing, first: datetime | None, mode: str
) -> None:
    memory = Fixed()
    if first is not None:
        memory.values["first/front"] = FirstIn(at=first)
    assert mode_of("front", site(**door), memory, standing).mode == mode


def test_a_mode_set_by_hand_ends_at_its_very_moment() -> None:
    memory = Fixed(hand__door__front=ordered("blocked", 100))
    assert mode_of("front", site(), memory, at(mono_s=99.999)).mode == "blocked"
    assert mode_of("front", site(), memory, at(mono_s=100)).mode == "unlocked"


def test_before_the_first_records_orders_for_the_site_and_the_door_count() -> None:
    memory = Fixed(lockdown__site__=ordered("lockdown"))
    assert mode_of("front", NO_RECORDS, memory, at()).mode == "lockdown"
    assert next_wall_change("front", NO_RECORDS, at()) is None


@pytest.mark.parametrize(
    ("day", "opens", "closes"),
    [
        # London: GMT, the night to BST (01:00 to 02:00 is skipped), BST, the night back.
        ("2026-03-28", "00:30", "03:30"),
        ("2026-03-29", "00:30", "02:30"),
        ("2026-06-01", "23:30", "02:30"),
        ("2026-10-25", "23:30", "03:30"),
    ],
)
def test_the_next_change_is_exact_at_clock_changes(day: str, opens: str, closes: str) -> None:
    midnight = datetime.fromisoformat(f"{day}T00:00:00+00:00")
    start = midnight + _time(opens) - (timedelta(days=1) if opens > "12" else timedelta(0))
    end = midnight + _time(closes)
    door = site([("00:30", "03:30")])
    before = start - timedelta(minutes=10)
    assert list(opens_by_schedule(door.tables.doors["front"], door, before, end + HOUR)) == [
        (start, True),
        (end, False),
    ]
    assert next_wall_change("front", door, at(before)) == start
    tick = timedelta(milliseconds=1)
    modes = [mode_of("front", door, Fixed(), at(t)).mode for t in (start - tick, start, end - tick)]
    assert modes == ["controlled", "unlocked", "unlocked"]
    assert mode_of("front", door, Fixed(), at(end)).mode == "controlled"


def test_the_age_of_the_records_is_a_change_too() -> None:
    as_of = NOW - timedelta(hours=23, minutes=30)
    assert next_wall_change("front", site(), at(as_of=as_of)) == as_of + timedelta(hours=24)


HOUR = timedelta(hours=1)


def _time(text: str) -> timedelta:
    hours, minutes = text.split(":")
    return timedelta(hours=int(hours), minutes=int(minutes))
