"""The watch beside the doors: it looks a second later, and records what it finds."""

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from gateway.control.memory import SiteMemory
from gateway.control.watch import HEARD_MAX, SiteWatch
from gateway.domain import events
from gateway.domain.detection import CALM, Detector, DoorNow, SiteNow
from gateway.processes.standing import storage_life_used, temperature_c
from tests.virtual import VirtualClock, run

DENIED = events.AccessDecided(
    at=datetime(2026, 3, 2, 9, 0, tzinfo=UTC), trust=2, door="front", side="in", device="reader",
    kinds=("uid",), outcome="deny", reason="unknown_credential",
)  # fmt: skip


class Box:
    """A watch with a reader that can be lost."""

    def __init__(self) -> None:
        clock = VirtualClock()
        self.recorded: list[events.Event] = []
        self.answers = True
        self.memory = SiteMemory(dict, boot="b", clock=clock)
        self.watch = SiteWatch(
            Detector(self.memory, lambda _one, _other: True),
            site_now=self._site_now,
            timezone=lambda: "Europe/London",
            record=self._record,
            memory=self.memory,
            clock=clock,
        )

    def _site_now(self) -> SiteNow:
        door = DoorNow(works=self.answers, held_open=False)
        return SiteNow({"reader": self.answers}, {"front": door}, clock_trusted=True)

    def _record(self, event: events.Event) -> None:
        self.recorded.append(event)
        self.watch.heard(event)  # as the journal does

    def whats(self, kind: type[events.FindingRaised | events.FindingCleared]) -> list[str]:
        return [each.what for each in self.recorded if isinstance(each, kind)]


def test_what_was_heard_is_found_a_second_later_and_over_after_calm() -> None:
    async def journey() -> None:
        box = Box()
        async with asyncio.TaskGroup() as group:
            watching = group.create_task(box.watch.run())
            await asyncio.sleep(0.5)
            for _ in range(5):
                box.watch.heard(DENIED)
            assert not box.recorded, "nobody waits for it"
            await asyncio.sleep(1)
            assert box.whats(events.FindingRaised) == ["unknown_cards"]
            assert box.watch.problems[0].startswith("5 unknown credentials at front")
            await asyncio.sleep(CALM.total_seconds() + 61)
            assert box.whats(events.FindingCleared) == ["unknown_cards"]
            assert not box.watch.problems
            watching.cancel()

    run(journey())


def test_a_lost_reader_is_told_with_its_door_and_both_are_cleared() -> None:
    async def journey() -> None:
        box = Box()
        async with asyncio.TaskGroup() as group:
            watching = group.create_task(box.watch.run())
            await asyncio.sleep(30)
            box.answers = False
            await asyncio.sleep(180)
            assert box.whats(events.FindingRaised) == ["device_offline", "door_offline"]
            box.answers = True
            await asyncio.sleep(CALM.total_seconds() + 121)
            assert box.whats(events.FindingCleared) == ["device_offline", "door_offline"]
            watching.cancel()

    run(journey())


def test_a_flood_keeps_no_more_than_the_limit_and_gives_the_loop_back() -> None:
    async def journey() -> None:
        box = Box()
        for _ in range(HEARD_MAX + 100):
            box.watch.heard(DENIED)
        async with asyncio.TaskGroup() as group:
            watching = group.create_task(box.watch.run())
            turns = 0
            while not box.watch._detector.standing or box.watch._heard:
                await asyncio.sleep(0)
                turns += 1
            assert turns > 50
            watching.cancel()

    run(journey())


def test_what_is_usual_goes_to_the_sites_memory() -> None:
    async def journey() -> None:
        box = Box()
        async with asyncio.TaskGroup() as group:
            watching = group.create_task(box.watch.run())
            box.watch.heard(DENIED)
            await asyncio.sleep(timedelta(minutes=21).total_seconds())
            watching.cancel()
        assert box.memory.get("usual/denied/door/front") is not None
        assert "usual/denied/site/" in box.memory.take_unwritten()

    run(journey())


@pytest.mark.parametrize(
    ("said", "used"),
    [("0x01 0x02\n", 0.2), ("0x0b 0x01\n", 1.0), ("0x00 0x00\n", None), ("nonsense", None)],
)
def test_the_storage_tells_how_much_of_its_life_is_used(
    tmp_path: Path, said: str, used: float | None
) -> None:
    file = tmp_path / "block" / "mmcblk0" / "device" / "life_time"
    file.parent.mkdir(parents=True)
    file.write_text(said)
    assert storage_life_used(tmp_path) == used
    assert storage_life_used(tmp_path / "block") is None


def test_the_hottest_place_of_the_box_counts(tmp_path: Path) -> None:
    assert temperature_c(tmp_path) is None
    for number, said in enumerate(("48312", "71000", "?")):
        file = tmp_path / "class" / "thermal" / f"thermal_zone{number}" / "temp"
        file.parent.mkdir(parents=True)
        file.write_text(said + "\n")
    assert temperature_c(tmp_path) == 71.0
