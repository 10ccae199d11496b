"""A lift: one reader in the cabin, a relay for each floor, no contact. One ride is one tap."""

import asyncio
import json
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import tomli_w

from gateway.config.site import load
from gateway.control.door import InForce
from gateway.control.memory import SiteMemory
from gateway.control.muster import between, muster
from gateway.control.shared_tap import ANSWERS_WAIT
from gateway.control.site import SiteController
from gateway.domain import events
from gateway.domain.detection import Detector
from gateway.domain.entitlements import RecordSet
from gateway.domain.facts import CredentialPresented, CredentialRefused, DeviceOnline
from gateway.domain.memory import Place
from gateway.domain.pin_lockout import holder_key
from gateway.domain.record_faults import parse_records
from gateway.domain.replay import Revision, difference
from gateway.drivers import REGISTRY
from gateway.errors import DeviceUnavailable
from tests.control.test_door import Paper
from tests.process.rig import site_config
from tests.virtual import START, VirtualClock, run

FLOORS = 8
CABIN, BOARD = "front-reader", "relays-a"
ANN, ONCE, LATE, TAG = "04A00001", "04A00002", "04A00003", "04A00000000004"
STRANGER = "04FF0099"
PIN, WRONG = "2468", "9999"


def floor(number: int) -> str:
    return f"floor-{number}"


def lift_records(**door: Any) -> list[dict[str, Any]]:
    """Ann may to floors 1 to 3, and is one of whose membership nobody doubts; Lee has not paid."""
    numbers = range(1, FLOORS + 1)
    return [
        {"type": "site", "id": "LON", "timezone": "Europe/London"},
        {"type": "policy", "id": "policy"},
        {"type": "zone", "id": "street", "category": "public"},
        {"type": "schedule", "id": "day", "timezone": "Europe/London",
         "weekly": {"mon": [["00:00", "24:00"]]}},
        *({"type": "zone", "id": f"z{n}", "category": "member"} for n in numbers),
        *({"type": "door", "id": floor(n), "from_zone": "street", "to_zone": f"z{n}", **door}
          for n in numbers),
        {"type": "group", "id": "g", "doors": [], "zones": ["z1", "z2", "z3"], "schedule": "24x7"},
        {"type": "holder", "id": "ann", "persona": "member", "status": "active", "groups": ["g"]},
        {"type": "holder", "id": "lee", "persona": "member", "status": "suspended",
         "groups": ["g"]},
        {"type": "credential", "id": "c-ann", "holder": "ann", "kind": "uid", "value": ANN},
        {"type": "credential", "id": "c-once", "holder": "ann", "kind": "uid", "value": ONCE,
         "max_uses": 1},
        {"type": "credential", "id": "c-lee", "holder": "lee", "kind": "uid", "value": LATE},
        {"type": "credential", "id": "c-tag", "holder": "ann", "kind": "sun", "value": TAG},
        {"type": "credential", "id": "p-ann", "holder": "ann", "kind": "pin", "value": PIN},
    ]  # fmt: skip


class Lift:
    """The site's controller; what devices say is said for them, and its board takes note."""

    def __init__(self, directory: Path, **door: Any) -> None:
        config: dict[str, Any] = site_config(directory)
        config["doors"] = {
            floor(n): {
                "lock": "fail_secure",
                "free_egress": "mechanical",
                "fire_release": "not_needed",
                "strike": {"device": BOARD, "output": n, "relay_class": "R2"},
                "readers": [{"device": CABIN, "side": "in", "shared": True}],
            }
            for n in range(1, FLOORS + 1)
        }
        file = directory / "site.toml"
        file.write_text(tomli_w.dumps(config))
        self.records = parse_records(json.dumps(row).encode() for row in lift_records(**door))
        self.clock, self.paper = VirtualClock(), Paper()
        self.force = InForce(RecordSet(self.records.records), "r1", None)
        self.memory = SiteMemory(lambda: self.paper.state, boot="b", clock=self.clock)
        self.site = SiteController(
            load(file, REGISTRY),
            journal=self.paper,
            memory=self.memory,
            in_force=lambda: self.force,
            clock=self.clock,
            rng=random.Random(0),
        )
        self.released: list[int] = []
        self.broken: set[int] = set()

    async def pulse(self, output: int, _duration: timedelta) -> None:
        await asyncio.sleep(0.01)
        if output in self.broken:
            raise DeviceUnavailable("cut")
        self.released.append(output)

    async def tap(self, value: str, kind: str = "uid", counter: int | None = None) -> None:
        at = self.clock.monotonic()
        self.site.take(CredentialPresented(CABIN, kind, value, at, counter))
        await asyncio.sleep(0.5)

    def found(self, kind: type[Any]) -> list[Any]:
        return [event for event in self.paper.events if isinstance(event, kind)]

    def denials(self) -> list[events.AccessDecided]:
        return [e for e in self.found(events.AccessDecided) if e.outcome == "deny"]

    def findings(self) -> list[str]:
        """What a detector makes of the journal, all of it within a minute."""
        detector = Detector(self.memory, lambda _one, _other: False)
        return [
            found.what
            for event in self.paper.events
            for found in detector.take(event, timedelta(minutes=1))
            if isinstance(found, events.FindingRaised)
        ]

    def agrees(self) -> bool:
        """Whether every journaled decision is the same when it is decided again."""
        revision = Revision(self.records.records)
        told = [difference(event, revision) for event in self.found(events.AccessDecided)]
        return told == [None] * len(told)


@asynccontextmanager
async def lift(directory: Path, **door: Any) -> AsyncIterator[Lift]:
    made = Lift(directory, **door)
    made.site._drivers[BOARD].pulse = made.pulse  # type: ignore[attr-defined]
    made.site._readers_live = True
    running = [asyncio.create_task(door.run()) for door in made.site.doors.values()]
    made.site.take(DeviceOnline(BOARD, made.clock.monotonic()))
    await asyncio.sleep(0.01)
    try:
        yield made
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


def test_a_ride_opens_every_floor_sold_and_is_no_denial_of_the_others(tmp_path: Path) -> None:
    async def journey() -> None:
        async with lift(tmp_path) as at:
            await at.tap(ANN)
            assert sorted(at.released) == [1, 2, 3]
            assert at.denials() == []
            (others,) = at.found(events.OtherDoors)
            assert others.doors == {floor(n): "no_entitlement" for n in range(4, FLOORS + 1)}
            assert (others.outcome, others.holder, others.device) == ("grant", "ann", CABIN)
            assert at.agrees()

    run(journey())


def test_many_rides_raise_no_finding(tmp_path: Path) -> None:
    async def journey() -> None:
        async with lift(tmp_path) as at:
            for _ in range(20):
                await at.tap(ANN)
                await asyncio.sleep(10)
            assert at.findings() == []

    run(journey())


def test_whoever_may_nowhere_is_denied_once_a_tap(tmp_path: Path) -> None:
    async def journey() -> None:
        async with lift(tmp_path) as at:
            for _ in range(4):
                await at.tap(LATE)
            assert [each.reason for each in at.denials()] == ["membership_suspended"] * 4
            assert {each.door for each in at.denials()} == {floor(1)}
            assert all(each.member is not None for each in at.denials())
            assert [len(each.doors) for each in at.found(events.OtherDoors)] == [FLOORS - 1] * 4
            assert at.findings() == []
            await at.tap(LATE)
            assert at.findings() == ["denied_spike_holder"], "five taps are five denials"

    run(journey())


def test_a_stranger_and_what_proves_nothing_count_once_a_tap(tmp_path: Path) -> None:
    async def journey() -> None:
        async with lift(tmp_path) as at:
            await at.tap(STRANGER)
            assert [each.reason for each in at.denials()] == ["unknown_credential"]
            at.site.take(CredentialRefused(CABIN, "pkoc", "declined", at.clock.monotonic()))
            (refused,) = at.found(events.CredentialRefused)
            assert (refused.door, len(refused.others)) == (floor(1), FLOORS - 1)

    run(journey())


def test_the_muster_names_every_floor_that_the_rider_may_be_on(tmp_path: Path) -> None:
    async def journey() -> None:
        async with lift(tmp_path) as at:
            await at.tap(ANN)
            assert muster(at.memory) == []
            (several,) = between(at.memory)
            assert several.zones == ["z1", "z2", "z3"]
            assert [each.holder for each in several.people] == ["ann"]
            # A floor that did not open is none that they went to.
            at.broken = {1, 3}
            await asyncio.sleep(30)
            await at.tap(ANN)
            assert between(at.memory) == []
            (only,) = muster(at.memory)
            assert (only.zone, [each.holder for each in only.people]) == ("z2", ["ann"])

    run(journey())


def test_hard_antipassback_keeps_nobody_out_of_a_floor_that_they_may_not_be_on(
    tmp_path: Path,
) -> None:
    async def journey() -> None:
        async with lift(tmp_path, antipassback="hard") as at:
            for _ in range(3):
                await at.tap(ANN)
                await asyncio.sleep(20)
            assert sorted(at.released) == [1, 1, 1, 2, 2, 2, 3, 3, 3]
            assert at.agrees()

    run(journey())


def test_one_ride_is_one_use_and_the_next_is_another(tmp_path: Path) -> None:
    async def journey() -> None:
        async with lift(tmp_path) as at:
            await at.tap(ONCE)
            assert sorted(at.released) == [1, 2, 3]
            await asyncio.sleep(20)
            await at.tap(ONCE)
            assert sorted(at.released) == [1, 2, 3]
            assert [each.reason for each in at.denials()] == ["uses_exhausted"]
            assert at.agrees()

    run(journey())


def test_a_tags_message_opens_every_floor_once(tmp_path: Path) -> None:
    async def journey() -> None:
        async with lift(tmp_path) as at:
            await at.tap(TAG, "sun", counter=7)
            assert sorted(at.released) == [1, 2, 3]
            await asyncio.sleep(20)
            await at.tap(TAG, "sun", counter=7)
            assert len(at.released) == 3
            assert [each.reason for each in at.denials()] == ["sun_replayed"]
            assert at.agrees()

    run(journey())


def test_a_wrong_pin_counts_once_for_its_holder(tmp_path: Path) -> None:
    async def journey() -> None:
        async with lift(tmp_path, second_factor_schedule="day") as at:
            await at.tap(ANN)
            assert {e.outcome for e in at.found(events.AccessDecided)} == {"challenge"}
            await at.tap(WRONG, "pin")
            assert [each.reason for each in at.denials()] == ["wrong_pin"]
            row = at.memory.get(holder_key("ann"))
            assert getattr(row, "failures", None) == 1
            await at.tap(ANN)
            await at.tap(PIN, "pin")
            assert sorted(at.released) == [1, 2, 3]
            assert at.agrees()

    run(journey())


def test_a_denial_waits_a_second_at_most_for_a_door_that_does_not_answer(tmp_path: Path) -> None:
    async def journey() -> None:
        async with lift(tmp_path) as at:
            at.site.doors[floor(8)].tap = lambda _tap: None  # type: ignore[method-assign, assignment]
            await at.tap(LATE)
            assert at.denials() == []
            await asyncio.sleep(ANSWERS_WAIT.total_seconds())
            assert [each.door for each in at.denials()] == [floor(1)]

    run(journey())


def test_a_place_of_several_zones_outlives_a_restart() -> None:
    place = Place(
        zone="z1", door="d", at=START, since=timedelta(5), tap=timedelta(4),
        elsewhere=("z2",),
    )  # fmt: skip
    shifted = place.shifted(timedelta(1))
    assert isinstance(shifted, Place)
    assert (shifted.elsewhere, shifted.tap, shifted.since) == (("z2",), None, timedelta(6))
