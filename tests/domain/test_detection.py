"""What operations are told of: once each, once that it is over, and nothing that is usual."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.domain import events
from gateway.domain.detection import (
    CALM,
    FLAPS_IN_AN_HOUR,
    OFFLINE_AFTER,
    QUIET,
    SUBJECTS_MAX,
    UNKNOWN_CARDS,
    Detector,
    DoorNow,
    SiteNow,
)
from gateway.domain.memory import Remembered, Usual

MONDAY = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)
WELL = SiteNow(
    {"reader": True}, {"front": DoorNow(works=True, held_open=False)}, clock_trusted=True
)


class Site:
    """A detector that is looked after as the core does, in a time that only the test moves."""

    def __init__(self, remembered: dict[str, Remembered] | None = None) -> None:
        self.now = timedelta(hours=5)
        self.memory: dict[str, Remembered] = remembered or {}
        self.detector = Detector(self.memory, lambda one, other: {one, other} == {"front", "lift"})
        self.told: list[events.Event] = []

    def after(self, **passed: float) -> "Site":
        self.now += timedelta(**passed)
        return self

    def access(self, outcome: str = "grant", count: int = 1, **members: Any) -> "Site":
        event = events.AccessDecided(
            at=MONDAY, trust=2, side="in", kinds=("uid",), outcome=outcome,
            **({"door": "front", "device": f"{members.get('door')}-reader", "reason": "group"}
               | members),
        )  # fmt: skip
        for _ in range(count):
            self.told += self.detector.take(event, self.now)
        return self

    def look(self, site: SiteNow = WELL) -> "Site":
        at = MONDAY + self.now
        self.told += self.detector.look(site, at, at, 2, self.now)
        for key, value in self.detector.learned().items():
            assert value is not None
            self.memory[key] = value
        return self

    @property
    def found(self) -> list[tuple[str, str, str]]:
        """What was told since the last time."""
        told, self.told = self.told, []
        return [
            (
                "raised" if isinstance(each, events.FindingRaised) else "over",
                each.what,
                each.holder or each.subject,
            )
            for each in told
            if isinstance(each, events.FindingRaised | events.FindingCleared)
        ]


@pytest.mark.parametrize(
    ("bad", "what", "subject"),
    [
        (WELL._replace(devices={"reader": False}), "device_offline", "reader"),
        (WELL._replace(doors={"front": DoorNow(works=False, held_open=False)}), "door_offline",
         "front"),
        (WELL._replace(doors={"front": DoorNow(works=True, held_open=True)}), "door_propped",
         "front"),
        (WELL._replace(clock_trusted=False), "clock_lost", ""),
        (WELL._replace(disk_free=0.05), "disk_filling", ""),
        (WELL._replace(storage_life_used=0.9), "storage_wear", ""),
    ],
)  # fmt: skip
def test_what_stays_bad_is_told_once_and_once_that_it_is_over(
    bad: SiteNow, what: str, subject: str
) -> None:
    site = Site().look()
    for _ in range(20):
        site.after(minutes=1).look(bad)
    assert site.found == [("raised", what, subject)]
    well = bad._replace(
        devices=WELL.devices, doors=WELL.doors, clock_trusted=True,
        disk_free=bad.disk_free and 0.5, storage_life_used=bad.storage_life_used and 0.1,
    )  # fmt: skip
    site.after(minutes=1).look(well)
    assert not site.found, "it may come back any moment"
    for _ in range(20):
        site.after(minutes=1).look(well)
    assert site.found == [("over", what, subject)]


def test_a_device_that_is_started_again_is_no_finding() -> None:
    lost = WELL._replace(devices={"reader": False})
    site = Site().look().after(seconds=30).look(lost)
    site.after(seconds=OFFLINE_AFTER.total_seconds() - 1).look(lost).after(seconds=2).look()
    assert not site.found


def test_what_is_away_at_two_looks_and_was_back_between_them_is_no_finding() -> None:
    site = Site()
    door = DoorNow(works=False, held_open=False, devices=frozenset({"reader"}))
    away = WELL._replace(devices={"reader": False}, doors={"front": door})
    site.look(away).after(seconds=50)
    site.told += site.detector.take(events.DeviceUp(at=MONDAY, trust=2, device="reader"), site.now)
    site.after(seconds=10).look(away)
    assert site.found == []
    site.after(minutes=1).look(away)
    assert {what for _, what, _ in site.found} == {"device_offline", "door_offline"}


def test_a_device_that_comes_and_goes_is_one_finding() -> None:
    site = Site()
    for _ in range(FLAPS_IN_AN_HOUR + 5):
        down = events.DeviceDown(at=MONDAY, trust=2, device="reader", why="unplugged")
        site.told += site.after(minutes=2).detector.take(down, site.now)
    assert site.found == [("raised", "bus_failing", "reader")]
    site.after(seconds=CALM.total_seconds()).look()
    assert site.found == [("over", "bus_failing", "reader")]


def test_unknown_cards_one_after_the_other_are_told_with_their_number() -> None:
    site = Site().access("deny", UNKNOWN_CARDS - 1, reason="unknown_credential")
    assert not site.found
    site.access("deny", 1, reason="unknown_credential")
    raised = site.told[-1]
    assert isinstance(raised, events.FindingRaised)
    assert raised.text.startswith("5 unknown credentials at front within 10 minutes")
    site.access("deny", 3, reason="unknown_credential")
    assert site.found == [("raised", "unknown_cards", "front")]


@pytest.mark.parametrize(
    ("count", "holder", "found"),
    [
        (4, "h", []),
        (5, "h", ["denied_spike_holder"]),
        (9, None, []),
        (10, None, ["denied_spike_door"]),
        (20, None, ["denied_spike_door", "denied_spike_site"]),
    ],
)
def test_a_spike_is_more_than_a_site_without_denials_ever_has(
    count: int, holder: str | None, found: list[str]
) -> None:
    site = Site().access("deny", count, reason="no_entitlement", holder=holder)
    assert [what for _, what, _ in site.found] == found


def test_a_door_where_denials_are_usual_needs_more_of_them() -> None:
    site = Site({"usual/denied/door/front": Usual(count=16.0)})
    site.access("deny", 10 + 16 + 20 - 1, reason="no_entitlement")
    assert ("raised", "denied_spike_door", "front") not in site.found
    site.access("deny", reason="no_entitlement")
    assert ("raised", "denied_spike_door", "front") in site.found


def test_what_is_usual_is_learned_over_a_week_and_kept() -> None:
    site = Site().look()
    for _ in range(7 * 24 * 6):
        site.after(minutes=5).access("deny", 4, reason="no_entitlement").after(minutes=5).look()
    usual = site.memory["usual/denied/door/front"]
    assert isinstance(usual, Usual)
    assert 2.0 < usual.count < 4.0, "63 % of the way after one time constant"
    assert not any(key.startswith("usual/denied/holder") for key in site.memory)


@pytest.mark.parametrize(
    ("door", "seconds", "found"),
    [
        ("vault", 1.0, [("raised", "impossible_travel", "h")]),
        ("vault", 2.5, []),
        ("lift", 1.0, []),
        ("front", 1.0, []),
    ],
)
def test_nobody_is_at_two_distant_doors_at_once(
    door: str, seconds: float, found: list[tuple[str, str, str]]
) -> None:
    site = Site().access(holder="h").after(seconds=seconds).access(holder="h", door=door)
    assert site.found == found


def test_one_reader_of_several_doors_is_one_place_and_one_entry() -> None:
    site = (
        Site().access(holder="h", device="cabin").access(holder="h", door="vault", device="cabin")
    )
    assert site.found == []
    assert len(site.detector._entries) == 1


def test_who_leaves_by_a_free_exit_travels_nowhere() -> None:
    site = Site().access(holder="h").access(holder="h", door="vault", reason="egress")
    assert not site.found


def test_a_busy_hour_with_nobody_is_told_and_a_quiet_night_is_not() -> None:
    site = Site()
    for minute in range((15 * 24 + 5) * 60):
        local = MONDAY + site.now
        if 8 <= local.hour < 18 and local.weekday() < 5 and minute % 5 == 0:
            site.access(holder=None)
        if minute % 10 == 0:
            site.look()
        site.after(minutes=1)
    assert not site.found
    while (MONDAY + site.now).hour != 8:
        site.after(minutes=10).look()
    assert not site.found
    for _ in range(3 * 6):
        site.after(minutes=10).look()
    assert site.found == [("raised", "site_quiet", "")]
    site.access().after(minutes=1).look()
    site.access().after(seconds=CALM.total_seconds()).look()
    assert site.found == [("over", "site_quiet", "")]


def test_a_core_that_has_just_started_doesnt_call_its_site_quiet() -> None:
    hours = {f"usual/hour/{hour}": Usual(count=40.0) for hour in range(168)}
    site = Site(dict(hours)).look()
    site.after(seconds=QUIET.total_seconds() - 60).look()
    assert not site.found
    site.after(minutes=2).look()
    assert site.found == [("raised", "site_quiet", "")]


def test_a_certificate_is_told_at_30_at_7_and_at_1_day_and_a_new_one_ends_it() -> None:
    site, steps = Site(), []
    for left in (40.0, 29.0, 20.0, 6.5, 0.5, -1.0):
        site.after(minutes=1).look(WELL._replace(certificates={"gw.pem": timedelta(days=left)}))
        steps.append([what for _, what, _ in site.found])
    assert steps == [[], ["certificate_30d"], [], ["certificate_7d"], ["certificate_1d"], []]
    site.look(WELL._replace(certificates={"gw.pem": timedelta(days=365)}))
    assert len(site.found) == 3


denials = st.builds(
    lambda door, holder, reason: {"door": door, "holder": holder, "reason": reason},
    st.sampled_from("ab"), st.sampled_from([None, "h", "k"]),
    st.sampled_from(["unknown_credential", "no_entitlement"]),
)  # fmt: skip


@given(st.lists(st.tuples(st.integers(0, 900), denials), max_size=60))
def test_after_any_history_raised_and_over_take_turns(
    history: Iterable[tuple[int, dict[str, Any]]],
) -> None:
    site = Site()
    for seconds, members in history:
        site.after(seconds=seconds).access("deny", 3, **members).look()
    site.after(hours=1).look()
    turns: dict[tuple[str, str], list[str]] = {}
    for kind, what, subject in site.found:
        turns.setdefault((what, subject), []).append(kind)
    for kinds in turns.values():
        assert kinds[0] == "raised"
        assert kinds[-1] == "over", "an hour of calm ends all"
        assert all(one != other for one, other in pairwise(kinds))


def test_a_flood_of_holders_takes_no_more_memory_than_the_limit() -> None:
    site = Site()
    for number in range(SUBJECTS_MAX + 500):
        site.access("deny", holder=f"h{number}", reason="no_entitlement")
    assert len(site.detector._denied) == SUBJECTS_MAX
