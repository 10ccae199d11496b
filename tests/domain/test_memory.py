"""What a site remembers: over a restart of the process as it was, of the machine counted anew."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from gateway.clock import TimeTrust
from gateway.control.memory import SiteMemory
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
    Spent,
    TagCounter,
    Uses,
    Usual,
    restore,
    store,
)
from gateway.domain.memory_lost import Moment, lost
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
    assert restore("k", store("k", value, "b1", s(100)), "b1", s(5000)) == ("k", value)


@pytest.mark.parametrize("value", VALUES)
def test_after_a_reboot_what_was_left_is_left_and_no_more(value: Remembered) -> None:
    found = restore("k", store("k", value, "b1", s(100)), "b2", s(7)).value
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


# --- A value that can't be read any more ---------------------------------------------------------


class Still:
    def now(self) -> datetime:
        return datetime(2026, 5, 4, 9, 0, tzinfo=UTC)

    def monotonic(self) -> timedelta:
        return s(100)

    def trust(self) -> TimeTrust:
        return TimeTrust.T2


KEPT: dict[str, Remembered] = {
    "pin/door/front": PinRow(lockouts=2, until=s(160)),
    "pin/holder/h-sam": PinRow(failures=3),
    "uses/c-once": Uses(count=1),
    "sun/c-tag": TagCounter(seen=61),
    "grant/0a0b": Spent(count=1, expires=Still().now()),
    "command/0c0d": Spent(count=1, expires=Still().now()),
    "place/h-sam": Place(zone="lobby", door="front", at=Still().now(), since=s(7)),
    "count/lobby": Count(people=3),
    "hand/door/front": Ordered(mode="blocked", by="uid 0", why="x", at=Still().now()),
    "lockdown/site/": Ordered(mode="lockdown", by="uid 0", why="x", at=Still().now()),
    "evacuation/site/": Ordered(mode="evacuation", by="uid 0", why="x", at=Still().now()),
    "break_glass/fire/1": BreakGlassCounter(next=4),
    "break_glass/fire/window": BreakGlassWindow(until=s(500)),
}


def loaded(stored: dict[str, bytes]) -> SiteMemory:
    return SiteMemory(lambda: stored, boot="b1", clock=Still())


@pytest.mark.parametrize("key", KEPT)
def test_whatever_byte_of_a_row_has_changed_it_means_the_same_or_the_safest(key: str) -> None:
    raw = store(key, KEPT[key], "b1", s(100))
    safest = lost(key, Moment(Still().now(), s(100))).value
    for offset in range(len(raw)):
        for bit in range(8):
            bad = raw[:offset] + bytes([raw[offset] ^ 1 << bit]) + raw[offset + 1 :]
            memory = loaded({key: bad})
            found = memory.get(key)
            assert found in (KEPT[key], safest), (offset, bit, bad)
            said = memory.take_lost()
            if found != KEPT[key]:
                assert [each.what for each in said] == [key.partition("/")[0]]
                assert said[0].instead
                assert memory.take_lost() == [], "it is said once"
                # And so the next start finds it.
                kept = memory.take_unwritten()
                again = loaded({k: v for k, v in kept.items() if v is not None})
                assert again.get(key) == safest
                assert again.take_lost() == []


@pytest.mark.parametrize("key", KEPT)
def test_a_row_whose_key_has_changed_is_known_by_its_own(key: str) -> None:
    raw = store(key, KEPT[key], "b1", s(100))
    for offset in range(len(key)):
        bad = key[:offset] + chr(ord(key[offset]) ^ 1) + key[offset + 1 :]
        memory = loaded({bad: raw})
        assert memory.get(key) == KEPT[key]
        assert memory.get(bad) is None
        assert memory.take_unwritten() == {bad: None, key: raw}


@pytest.mark.parametrize("raw", [b"", b"[" * 100_000, bytes(300), b"\xff" * 9, None, 7, "text"])
def test_a_row_of_anything_else_has_the_safest_meaning(raw: Any) -> None:
    memory = loaded(dict.fromkeys(KEPT, raw))
    for key in KEPT:
        assert memory.get(key) == lost(key, Moment(Still().now(), s(100))).value
    assert len(memory.take_lost()) == len(KEPT)


def test_what_the_release_before_wrote_without_a_checksum_is_read() -> None:
    raw = b'{"boot":"b1","mono":"PT100S","value":{"type":"uses","count":1}}'
    assert restore("uses/c-once", raw, "b1", s(100)) == ("uses/c-once", Uses(count=1))
