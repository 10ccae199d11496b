"""What a door has done and how quick it was, from its events alone."""

from datetime import UTC, datetime
from typing import Any

from gateway.control.figures import TAPS_KEPT, Figures
from gateway.domain import events

AT: dict[str, Any] = {"at": datetime(2026, 3, 2, 9, 0, tzinfo=UTC), "trust": 2, "door": "front"}


def access(outcome: str, reason: str, ms: float, read_ms: float | None = None) -> events.Event:
    return events.AccessDecided(
        **AT, side="in", device="reader", kinds=("uid",), outcome=outcome, reason=reason,
        decide_ms=ms, read_ms=read_ms,
    )  # fmt: skip


def test_a_door_counts_its_answers_and_says_how_long_each_stage_took() -> None:
    figures = Figures()
    for number in range(1, 101):
        figures.heard(access("grant", "group", number, read_ms=30.0))
        figures.heard(events.Unlocked(**AT, cause="grant", confirm_ms=2.0, record_ms=0.5))
    figures.heard(events.Unlocked(**AT, cause="rex", confirm_ms=900.0))
    figures.heard(events.DoorOpened(**AT, cause="grant", after_ms=1200))
    figures.heard(access("deny", "no_entitlement", 0.1))
    door = figures.doors()["front"]
    assert door.outcomes == {"grant": 100, "deny": 1}
    assert door.denials == {"no_entitlement": 1}
    decide = door.latency_ms["decide"]
    assert (decide.taps, decide.p50, decide.p99, decide.worst) == (101, 50, 99, 100)
    assert door.latency_ms["release"].worst == 2.0
    assert door.latency_ms["record"].p50 == 0.5
    assert door.latency_ms["open"].p50 == 1200
    assert door.latency_ms["read"].taps == 100
    assert figures.codes == {"access": 101, "unlocked": 101, "opened": 1}


def test_only_the_last_taps_count_so_memory_stays_flat() -> None:
    figures = Figures()
    for _ in range(TAPS_KEPT):
        figures.heard(access("grant", "group", 1000))
    for _ in range(TAPS_KEPT):
        figures.heard(access("grant", "group", 1))
    assert figures.doors()["front"].latency_ms["decide"].worst == 1
