"""One controlled door, through a night that passes in milliseconds."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Any

import msgspec
import pytest

from gateway.control.door import (
    COMMIT_WAIT,
    TAP_AGE_MAX,
    TAPS_A_SECOND_MAX,
    TAPS_WAITING_MAX,
    CardTapped,
    DoorController,
    InForce,
    PointChanged,
    Wiring,
)
from gateway.control.memory import SiteMemory
from gateway.domain import events
from gateway.domain.decision import PresentedCredential, Request
from gateway.domain.door_state import Contact, ContactSaid, RexPressed
from gateway.domain.entitlements import NO_RECORDS, Entitlements, RecordSet
from gateway.domain.record_faults import parse_records
from gateway.domain.signal import Signal
from gateway.errors import DeviceUnavailable, StorageError
from tests.timing import allowed
from tests.virtual import VirtualClock, run

CARD, PIN = "04A1B2C3D4E5F6", "2468"


def records(*more: dict[str, Any], persona: str = "staff", **door: Any) -> Entitlements:
    """A site of one door, `front`, and one member of staff with a card and a PIN."""
    rows: list[dict[str, Any]] = [
        {"type": "site", "id": "LON", "timezone": "Europe/London"},
        {"type": "policy", "id": "policy"},
        {"type": "zone", "id": "out", "category": "public"},
        {"type": "zone", "id": "club", "category": "member"},
        {"type": "door", "id": "front", "from_zone": "out", "to_zone": "club", **door},
        {"type": "group", "id": "g", "zones": ["club"], "doors": [], "schedule": "24x7"},
        {"type": "holder", "id": "sam", "persona": persona, "status": "active", "groups": ["g"]},
        {"type": "holder", "id": "slow", "persona": "member", "status": "active", "groups": ["g"],
         "extended_unlock": True},
        {"type": "credential", "id": "c1", "holder": "sam", "kind": "uid", "value": CARD},
        {"type": "credential", "id": "c2", "holder": "sam", "kind": "pin", "value": PIN},
        {"type": "credential", "id": "c3", "holder": "slow", "kind": "uid", "value": "04000001"},
        {"type": "credential", "id": "c4", "holder": "sam", "kind": "uid", "value": "04000002",
         "max_uses": 3},
    ]  # fmt: skip
    by_id = {(row["type"], row["id"]): row for row in (*rows, *more)}
    return RecordSet(parse_records(json.dumps(row).encode() for row in by_id.values()).records)


class Ticket:
    """A receipt whose commit comes when the disk is ready."""

    def __init__(self, seq: int) -> None:
        self.seq = seq
        self.committed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def committed_within(self, limit: timedelta) -> bool:
        await asyncio.wait((self.committed,), timeout=limit.total_seconds())
        return self.committed.done()


class Paper:
    """A journal on paper, whose disk takes `disk_s` seconds a commit, or for ever (None)."""

    def __init__(self) -> None:
        self.events: list[events.Event] = []
        self.disk_s: float | None = 0.0
        self.state: dict[str, bytes] = {}
        self.full = False

    def append(
        self, event: events.Event, state: Mapping[str, bytes | None] = MappingProxyType({}), /
    ) -> Ticket:
        if self.full:
            raise StorageError("no room")
        self.events.append(event)
        self.keep(state)
        ticket = Ticket(len(self.events))
        if self.disk_s is not None:
            loop = asyncio.get_running_loop()
            loop.call_later(self.disk_s, ticket.committed.set_result, None)
        return ticket

    def keep(self, state: Mapping[str, bytes | None]) -> None:
        """State that no event brings along."""
        for key, value in state.items():
            if value is None:
                self.state.pop(key, None)
            else:
                self.state[key] = value

    def codes(self) -> list[str]:
        return [str(event.__struct_config__.tag) for event in self.events]


class Rig:
    """The door under test, and what its devices were told."""

    def __init__(self, in_force: Entitlements) -> None:
        self.clock = VirtualClock()
        self.paper = Paper()
        self.pulses: list[tuple[float, float]] = []
        """When, and for how many seconds."""
        self.shown: list[Signal] = []
        self.relay_s = 0.001
        self.relay_fails = ""
        self.force = InForce(in_force, "r1", None)
        indicators: dict[Any, tuple[Callable[[Signal], Awaitable[None]], ...]] = {
            "in": (self.show,)
        }
        self.door = DoorController(
            "front",
            Wiring(pulse=self.pulse, rest=self.rest, indicators=indicators, has_contact=False),
            journal=self.paper,
            memory=SiteMemory(lambda: dict(self.paper.state), boot="b", clock=self.clock),
            in_force=lambda: self.force,
            clock=self.clock,
            on_change=lambda _door: None,
        )

    async def pulse(self, duration: timedelta) -> None:
        await asyncio.sleep(self.relay_s)
        if self.relay_fails:
            raise DeviceUnavailable(self.relay_fails)
        at = asyncio.get_running_loop().time()
        self.pulses.append((round(at, 3), duration.total_seconds()))

    async def rest(self) -> None:
        at = asyncio.get_running_loop().time()
        self.pulses.append((round(at, 3), 0.0))

    async def show(self, signal: Signal) -> None:
        self.shown.append(signal)

    def tap(
        self,
        value: str = CARD,
        kind: str = "uid",
        side: Any = "in",
        age_s: float = 0,
        device: str = "reader",
    ) -> None:
        at = self.clock.monotonic() - timedelta(seconds=age_s)
        self.door.tap(CardTapped(device, side, kind, value, at))

    def say(self, fact: ContactSaid | RexPressed) -> None:
        self.door.point(PointChanged(fact, self.clock.monotonic()))


@asynccontextmanager
async def rig(in_force: Entitlements | None = None) -> AsyncIterator[Rig]:
    made = Rig(records() if in_force is None else in_force)
    running = asyncio.create_task(made.door.run())
    await asyncio.sleep(0)
    try:
        yield made
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def soon(seconds: float = 0.5) -> None:
    await asyncio.sleep(seconds)


def test_a_card_opens_the_door_after_its_record_is_on_disk() -> None:
    async def journey() -> None:
        async with rig() as r:
            r.paper.disk_s = 0.1
            r.tap()
            await soon()
            assert r.pulses == [(0.101, 5.0)]
            assert r.paper.codes() == ["access", "unlocked"]
            assert r.shown == [Signal.GRANTED]

    run(journey())


def test_a_slow_disk_delays_a_grant_by_a_quarter_of_a_second_and_no_more() -> None:
    async def journey() -> None:
        async with rig() as r:
            r.paper.disk_s = 2
            r.tap()
            await soon()
            assert r.pulses == [(COMMIT_WAIT.total_seconds() + 0.001, 5.0)]
            assert r.paper.codes() == ["access", "late_commit", "unlocked"]

    run(journey())


def test_while_the_disk_hangs_only_the_first_grant_waits() -> None:
    async def journey() -> None:
        async with rig() as r:
            r.paper.disk_s = None
            for _ in range(5):
                r.tap()
            await soon()
            first = COMMIT_WAIT.total_seconds() + 0.001
            assert [at for at, _ in r.pulses] == pytest.approx([first + n / 1000 for n in range(5)])

    run(journey())


def test_a_grant_that_can_not_be_recorded_opens_nothing_and_shows_a_fault() -> None:
    async def journey() -> None:
        async with rig() as r:
            r.paper.full = True
            r.tap()
            await soon()
            assert not r.pulses
            assert r.shown == [Signal.FAULT]

    run(journey())


def test_who_leaves_by_card_gets_out_though_nothing_can_be_recorded() -> None:
    async def journey() -> None:
        async with rig() as r:
            r.paper.full = True
            r.tap("04FFFFFF", side="out")
            await soon()
            assert [seconds for _, seconds in r.pulses] == [5.0]

    run(journey())


def test_rex_opens_though_nothing_can_be_recorded() -> None:
    async def journey() -> None:
        async with rig() as r:
            r.paper.full = True
            r.say(RexPressed())
            await soon(0.1)
            assert r.pulses == [(0.001, 5.0)]

    run(journey())


def test_rex_passes_a_grant_that_waits_for_the_disk() -> None:
    async def journey() -> None:
        async with rig() as r:
            r.paper.disk_s = None
            r.tap()
            await soon(0.05)
            r.say(RexPressed())
            await soon(0.02)
            assert r.pulses == [(0.051, 5.0)]

    run(journey())


def test_rex_opens_before_the_first_records_have_come() -> None:
    async def journey() -> None:
        async with rig(NO_RECORDS) as r:
            r.say(RexPressed())
            r.tap()
            await soon(0.1)
            assert len(r.pulses) == 1
            assert "unlocked" in r.paper.codes()
            assert r.shown == [Signal.DENIED]

    run(journey())


def test_a_relay_that_does_not_confirm_is_reported_and_shown_as_a_fault() -> None:
    async def journey() -> None:
        async with rig() as r:
            r.relay_fails = "relays-a: no answer"
            r.tap()
            await soon()
            assert r.paper.codes() == ["access", "unlock_failed"]
            assert r.shown == [Signal.FAULT]

    run(journey())


def test_a_denial_is_recorded_and_shown_at_once() -> None:
    async def journey() -> None:
        async with rig() as r:
            r.paper.disk_s = None
            r.tap("04FFFFFF")
            await soon(0.01)
            assert r.paper.codes() == ["access"]
            assert r.shown == [Signal.DENIED]
            assert not r.pulses

    run(journey())


EARLY = {
    "type": "booking", "id": "b", "holders": ["sam"], "zones": ["club"], "doors": [],
    "before_min": 0, "start": "2026-06-01T08:00:00Z", "end": "2026-06-01T18:00:00Z",
}  # fmt: skip


def early(**door: Any) -> Entitlements:
    """Sam has a day pass that starts later."""
    return records(
        *(EARLY, {"type": "group", "id": "g", "zones": ["club"], "doors": [],
                  "schedule": "timebound"}),
        persona="daypass", **door,
    )  # fmt: skip


def denial(r: Rig) -> events.AccessDecided:
    (event,) = r.paper.events
    assert isinstance(event, events.AccessDecided)
    return event


def test_a_denial_says_in_its_event_when_it_would_be_none_and_is_shown_before_that() -> None:
    async def journey() -> None:
        async with rig(early()) as r:
            r.clock.shift = datetime(2026, 6, 1, 7, 48, tzinfo=UTC) - r.clock.now()
            shown_first: list[bool] = []
            append = r.paper.append

            def watched(*what: Any) -> Ticket:
                shown_first.append(r.shown == [Signal.DENIED])
                return append(*what)

            r.paper.append = watched  # type: ignore[method-assign]
            r.tap()
            await soon(0.01)
            assert shown_first == [True]
            found = denial(r)
            assert found.reason == "booking_not_started"
            assert msgspec.json.encode(found.member) == (
                b'{"key":"day_pass_starts","at":"2026-06-01T09:00:00+01:00","early_min":12}'
            )

    run(journey())


def test_when_a_door_would_open_does_not_tell_whether_the_pin_was_right() -> None:
    async def told_after(pin: str) -> events.Told | None:
        async with rig(early(second_factor_schedule="24x7")) as r:
            r.clock.shift = datetime(2026, 6, 1, 7, 48, tzinfo=UTC) - r.clock.now()
            request = Request(
                door="front",
                credentials=(PresentedCredential("uid", CARD), PresentedCredential("pin", pin)),
                at=r.clock.now(),
            )
            r.tap()
            await soon(0.01)
            return r.door._explained(denial(r), request).member

    async def journey() -> None:
        right, wrong = await told_after(PIN), await told_after("9999")
        assert right == wrong
        assert right is not None
        assert right.early_min == 12

    run(journey())


def test_a_denial_by_records_that_are_replaced_is_recorded_without_a_time() -> None:
    async def journey() -> None:
        async with rig(early()) as r:
            r.clock.shift = datetime(2026, 6, 1, 7, 48, tzinfo=UTC) - r.clock.now()
            r.tap()
            await soon(0.01)
            r.force = InForce(NO_RECORDS, "r2", None)
            request = Request(door="front", credentials=(), at=r.clock.now())
            assert r.door._explained(denial(r), request) is denial(r)

    run(journey())


def test_a_card_and_its_pin_open_a_door_with_a_second_factor() -> None:
    async def journey() -> None:
        async with rig(records(second_factor_schedule="24x7")) as r:
            r.tap()
            await soon()
            assert not r.pulses
            r.tap(PIN, "pin")
            await soon()
            assert len(r.pulses) == 1
            outcomes = [e.outcome for e in r.paper.events if isinstance(e, events.AccessDecided)]
            assert outcomes == ["challenge", "grant"]
            assert r.shown == [Signal.PIN_WANTED, Signal.GRANTED]

    run(journey())


def test_a_pin_that_comes_after_the_wait_is_a_pin_alone() -> None:
    async def journey() -> None:
        async with rig(records(second_factor_schedule="24x7")) as r:
            r.tap()
            await soon(25)
            r.tap(PIN, "pin")
            await soon(21)
            assert not r.pulses
            assert isinstance(r.paper.events[-1], events.AccessDecided)
            assert r.paper.events[-1].reason == "pin_not_accepted"

    run(journey())


def test_a_pin_before_its_card_opens_with_it() -> None:
    async def journey() -> None:
        async with rig(records(second_factor_schedule="24x7")) as r:
            r.tap(PIN, "pin", device="keypad")
            await soon(19)
            assert (r.shown, r.paper.codes()) == ([Signal.PIN_WANTED], [])
            r.tap()
            await soon()
            (event,) = [e for e in r.paper.events if isinstance(e, events.AccessDecided)]
            assert (event.outcome, event.kinds) == ("grant", ("uid", "pin"))
            assert r.shown == [Signal.PIN_WANTED, Signal.GRANTED]
            await soon(25)
            assert r.paper.codes() == ["access", "unlocked"]

    run(journey())


def test_a_pin_that_no_card_comes_for_is_a_pin_alone() -> None:
    async def journey() -> None:
        async with rig(records(second_factor_schedule="24x7")) as r:
            r.tap(PIN, "pin")
            await soon(20.1)
            (event,) = [e for e in r.paper.events if isinstance(e, events.AccessDecided)]
            assert (event.reason, event.kinds) == ("pin_not_accepted", ("pin",))
            assert event.decide_ms < 10
            assert r.shown == [Signal.PIN_WANTED, Signal.DENIED]
            r.tap()
            await soon()
            assert r.shown[2:] == [Signal.PIN_WANTED], "the card waits for its own"

    run(journey())


def test_a_holder_who_needs_longer_gets_longer() -> None:
    async def journey() -> None:
        async with rig() as r:
            r.tap("04000001")
            await soon()
            assert [seconds for _, seconds in r.pulses] == [15.0]

    run(journey())


def test_a_tap_that_waited_too_long_opens_nothing_and_is_counted() -> None:
    async def journey() -> None:
        async with rig() as r:
            r.tap(age_s=TAP_AGE_MAX.total_seconds() + 0.1)
            await soon(1.5)
            assert not r.pulses
            assert r.shown == [Signal.FAULT]
            assert r.paper.codes() == ["input_ignored"]

    run(journey())


def test_who_leaves_is_let_out_however_long_the_tap_has_waited() -> None:
    async def journey() -> None:
        async with rig() as r:
            r.tap(age_s=TAP_AGE_MAX.total_seconds() + 0.1, side="out")
            await soon(1.5)
            assert len(r.pulses) == 1
            assert r.paper.codes() == ["access", "unlocked"]

    run(journey())


def test_a_flood_of_taps_is_bounded_and_counted() -> None:
    async def journey() -> None:
        async with rig() as r:
            r.relay_s = 0.4
            for _ in range(1000):
                r.tap("0000", kind="pin")  # an unknown card would make the reader pause
            await soon(1.5)
            ignored = [e.count for e in r.paper.events if isinstance(e, events.InputIgnored)]
            assert ignored == [1000 - TAPS_WAITING_MAX]

    run(journey())


def test_a_door_decides_so_many_taps_a_second_and_tells_once_a_second_how_many_it_did_not() -> None:
    async def journey() -> None:
        async with rig() as r:
            for _ in range(500):  # for five seconds
                r.tap("04FFFFFF")
                await asyncio.sleep(0.01)
            await soon(1.5)
            decided = [e for e in r.paper.events if isinstance(e, events.AccessDecided)]
            ignored = [e.count for e in r.paper.events if isinstance(e, events.InputIgnored)]
            assert len(decided) <= 5 * TAPS_A_SECOND_MAX
            assert len(ignored) <= 6
            assert len(decided) + sum(ignored) == 500

    run(journey())


def test_a_flooded_reader_keeps_nobody_out_or_in_who_is_at_the_other_one() -> None:
    async def journey() -> None:
        async with rig() as r:
            for tenth in range(40):  # for four seconds
                for _ in range(10):
                    r.tap("04FFFFFF")
                if tenth % 10 == 5:
                    r.tap("04000009", side="out", device="way out")
                await asyncio.sleep(0.1)
            decided = [e for e in r.paper.events if isinstance(e, events.AccessDecided)]
            assert [e.reason for e in decided if e.side == "out"] == ["egress"] * 4

    run(journey())


def test_a_reader_that_is_flooded_leaves_room_for_the_other_one_behind_a_slow_board() -> None:
    async def journey() -> None:
        async with rig() as r:
            r.relay_s = 1
            r.tap()
            for _ in range(100):
                r.tap("04FFFFFF")
            r.tap("04000009", side="out", device="way out")
            await soon(1.5)
            decided = [e for e in r.paper.events if isinstance(e, events.AccessDecided)]
            assert decided[-1].reason == "egress"

    run(journey())


def test_a_door_that_stands_open_is_an_alarm_until_it_is_closed() -> None:
    async def journey() -> None:
        async with rig(records(held_open_s=30)) as r:
            r.say(ContactSaid(Contact.CLOSED))
            r.tap()
            await soon(1)
            r.say(ContactSaid(Contact.OPEN))
            await soon(29.9)
            assert "held_open" not in r.paper.codes()
            await soon(0.2)
            assert r.paper.codes()[-1] == "held_open"
            r.say(ContactSaid(Contact.CLOSED))
            await soon()
            assert r.paper.codes()[-2:] == ["closed", "alarm_restored"]

    run(journey())


def test_an_untrusted_clock_leaves_only_what_is_always_open() -> None:
    async def journey() -> None:
        async with rig() as r:
            r.clock.trusted = False
            r.tap()
            await soon()
            event = r.paper.events[0]
            assert isinstance(event, events.AccessDecided)
            assert (event.reason, event.trust) == ("group", 1)

    run(journey())


def test_new_records_count_from_the_next_tap_on() -> None:
    async def journey() -> None:
        async with rig(NO_RECORDS) as r:
            r.tap()
            await soon()
            r.force = InForce(records(), "r2", None)
            r.tap()
            await soon()
            decided = [e for e in r.paper.events if isinstance(e, events.AccessDecided)]
            assert [(e.reason, e.revision) for e in decided] == [
                ("unknown_door", "r1"),
                ("group", "r2"),
            ]

    run(journey())


def test_the_self_test_passes_beside_a_slow_board_and_people_who_wait() -> None:
    async def journey() -> None:
        async with rig() as r:
            await r.door.self_test()
            assert not r.paper.events
            r.relay_s = 2
            for _ in range(TAPS_WAITING_MAX):
                r.tap()
                r.say(RexPressed())
            async with asyncio.timeout(5):
                await r.door.self_test()

    run(journey())


def test_the_self_test_never_passes_where_a_tap_gets_no_answer() -> None:
    async def journey() -> None:
        async with rig() as r:
            r.relay_s = 3600
            r.tap()
            await soon(0.01)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(30):
                    await r.door.self_test()

    run(journey())


def test_the_exit_button_is_not_queued_behind_a_slow_board() -> None:
    async def journey() -> None:
        async with rig() as r:
            r.relay_s = 0.4
            for _ in range(24):
                r.say(RexPressed())
                await soon(0.1)
            await soon(1)
            assert r.paper.codes().count("rex") == 24
            took = [e.confirm_ms for e in r.paper.events if isinstance(e, events.Unlocked)]
            assert len(took) >= 6
            assert max(took) < allowed(500)

    run(journey())


def test_no_event_holds_what_was_presented() -> None:
    async def journey() -> None:
        async with rig(records(second_factor_schedule="24x7")) as r:
            r.tap()
            await soon()
            r.tap(PIN, "pin")
            await soon()
            written = b"".join(events.encode(event) for event in r.paper.events).decode()
            assert CARD not in written
            assert PIN not in written.replace("2026", "")

    run(journey())
