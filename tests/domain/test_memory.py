"""What a site remembers: over a restart of the process as it was, of the machine counted anew."""

from datetime import UTC, datetime, timedelta

import pytest

from gateway.domain.memory import (
    Alarms,
    BreakGlassCounter,
    BreakGlassWindow,
    Count,
    FirstIn,
    FirstOfTwo,
    Ordered,
    PinRow,
    Place,
    Remembered,
    Uses,
    Usual,
    restore,
    store,
)
from gateway.domain.pin_odds import codes_per_pin, pin_warnings
from gateway.domain.record_faults import parse_records

WALL = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)


def s(seconds: float) -> timedelta:
    return timedelta(seconds=seconds)


VALUES: list[Remembered] = [
    PinRow(failures=3, lockouts=2, until=s(130)),
    PinRow(failures=1),
    Uses(count=1),
    Place(zone="club", door="front", at=WALL, since=s(90), seen=True),
    Count(people=2),
    FirstIn(at=WALL),
    Ordered(mode="blocked", by="uid 0", why="wet floor", at=WALL, until=s(160)),
    FirstOfTwo(holder="sam", until=s(120)),
    BreakGlassCounter(next=7),
    BreakGlassWindow(until=s(3600)),
    Alarms(raised=("forced_open",)),
    Usual(count=2.5),
]


@pytest.mark.parametrize("value", VALUES)
def test_in_one_boot_everything_is_remembered_as_it_was(value: Remembered) -> None:
    assert restore(store(value, "b1", s(100)), "b1", s(5000)) == value


@pytest.mark.parametrize("value", VALUES)
def test_after_a_reboot_what_was_left_is_left_and_no_more(value: Remembered) -> None:
    found = restore(store(value, "b1", s(100)), "b2", s(7))
    until, before = getattr(found, "until", None), getattr(value, "until", None)
    if isinstance(value, FirstOfTwo):
        assert until == s(0), "nobody waits at the door any more"
    elif before is not None:
        assert until is not None
        assert until - s(7) == before - s(100)


@pytest.mark.parametrize(
    ("lengths", "odds", "warned"),
    [
        ({}, None, False),
        ({4: 1}, 10_000, False),
        ({4: 10}, 1_000, False),
        ({4: 11}, 909, True),
        ({4: 101}, 99, True),
        ({6: 1_000, 4: 1}, 1_000, False),
        ({6: 11, 4: 20}, 500, True),
    ],
)
def test_guess_odds_are_those_of_the_length_that_is_easiest_to_guess(
    lengths: dict[int, int], odds: int | None, warned: bool
) -> None:
    rows = [
        '{"type":"site","id":"LON","timezone":"Europe/London"}',
        '{"type":"policy","id":"policy"}',
        '{"type":"holder","id":"h","persona":"member","status":"active","groups":[]}',
    ]
    for length, count in lengths.items():
        for number in range(count):
            value = str(number).zfill(length)
            rows.append(
                f'{{"type":"credential","id":"{length}-{number}","holder":"h","kind":"pin",'
                f'"value":"{value}"}}'
            )
    found = codes_per_pin(parse_records(row.encode() for row in rows).records)
    assert found == odds
    assert bool(list(pin_warnings(found))) == warned
