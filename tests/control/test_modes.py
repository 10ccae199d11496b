"""Modes of controlled doors, in virtual time: schedules, orders, expiry, restarts, lost devices."""

import asyncio
from collections.abc import Coroutine
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from gateway.control.door import InForce
from gateway.control.muster import muster
from gateway.control.opening import open_once
from gateway.domain import events
from gateway.domain.door_state import HOLD_PULSE, HOLD_RENEW, Contact
from gateway.domain.signal import Signal
from gateway.errors import OrderRefused, StorageError
from tests.control.site import MAYA, SAM, Club, club, records
from tests.virtual import run

WEEK = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


def scheduled(*hours: str, after_first: bool = False, **policy: Any) -> Any:
    """`front` stands unlocked in these hours (London; virtual time begins at 09:00)."""
    schedule = {"type": "schedule", "id": "open", "weekly": {day: [list(hours)] for day in WEEK}}
    door = {"unlock_schedule": "open", "unlock_after_first": after_first}
    return records({"front": door}, [schedule], **policy)


def played(journey: Coroutine[Any, Any, None]) -> None:
    run(journey)


async def hours(number: float) -> None:
    await asyncio.sleep(number * 3600)


def changes(c: Club, door: str = "front") -> list[tuple[str, str]]:
    return [(e.mode, e.source) for e in c.found(events.ModeChanged) if e.door == door]


# --- Holding open --------------------------------------------------------------------------------


def test_a_held_door_is_pulsed_again_in_less_than_half_its_time_and_locked_at_the_end() -> None:
    async def journey() -> None:
        async with club(scheduled("10:00", "10:01")) as c:
            await hours(0.99)
            assert not c.released()
            await asyncio.sleep(40)
            assert c.released()
            for _ in range(55):
                await asyncio.sleep(1)
                assert c.released()
            assert HOLD_RENEW < HOLD_PULSE / 2
            assert len(c.fronts["front"].pulses) > 25
            await asyncio.sleep(8)
            assert not c.released()
            assert c.fronts["front"].rests == 1
            assert changes(c) == [("unlocked", "schedule"), ("controlled", "records")]
            assert len(c.found(events.Unlocked)) == 1, "renewals are no news"

    played(journey())


def test_a_gateway_that_dies_leaves_a_held_door_locked_after_one_pulse() -> None:
    async def journey() -> None:
        async with club(scheduled("08:00", "10:00")) as c:
            await asyncio.sleep(60)
            assert c.released()
        await asyncio.sleep(HOLD_PULSE.total_seconds())
        assert not c.released()

    played(journey())


def test_a_restart_in_the_middle_of_a_schedule_finds_it_open() -> None:
    async def journey() -> None:
        async with club(scheduled("08:00", "10:00")) as c:
            await asyncio.sleep(60)
            paper = c.paper
        async with club(scheduled("08:00", "10:00"), paper=paper, boot="boot-2") as c:
            await asyncio.sleep(3)
            assert c.released()

    played(journey())


def test_nobody_forces_a_door_that_stands_unlocked_nor_holds_it_open() -> None:
    async def journey() -> None:
        async with club(scheduled("08:00", "10:00")) as c:
            await asyncio.sleep(5)
            await c.walk(for_s=600)
            assert not c.found(events.ForcedOpen)
            assert not c.found(events.HeldOpen)
            assert [e.cause for e in c.found(events.DoorOpened)] == ["mode"]
            await c.contact(Contact.OPEN)
            await hours(0.9)
            assert len(c.found(events.HeldOpen)) == 1, "once the mode has ended"

    played(journey())


def test_while_the_relay_is_away_one_failure_is_told_and_the_hold_comes_back_with_it() -> None:
    async def journey() -> None:
        async with club(scheduled("08:00", "10:00")) as c:
            await asyncio.sleep(5)
            c.fronts["front"].offline = "relays: gone"
            await asyncio.sleep(60)
            assert not c.released()
            assert len(c.found(events.UnlockFailed)) == 1
            c.fronts["front"].offline = ""
            await asyncio.sleep(HOLD_RENEW.total_seconds() + 0.1)
            assert c.released()

    played(journey())


# --- Unlock schedules ----------------------------------------------------------------------------


def test_a_door_that_waits_for_the_first_person_is_unlocked_by_a_grant_and_by_nothing_else() -> (
    None
):
    async def journey() -> None:
        async with club(scheduled("09:30", "10:10", after_first=True)) as c:
            assert await c.says(SAM) == "group"
            await hours(1)
            assert c.mode() == "controlled", "that was before it opened"
            await c.rex()
            assert await c.says(SAM, side="out") == "egress"
            assert await c.says("04FFFFFF") == "unknown_credential"
            await asyncio.sleep(10)
            assert c.mode() == "controlled"
            assert await c.says(MAYA) == "group"
            assert c.mode() == "unlocked"
            paper = c.paper
        async with club(
            scheduled("09:30", "10:10", after_first=True), paper=paper, boot="boot-2"
        ) as c:
            await asyncio.sleep(3)
            assert c.released(), "the first person has come before the restart"
            c.clock.shift = timedelta(days=1)
            await asyncio.sleep(3)
            assert c.mode() == "controlled", "another day, another first person"

    played(journey())


def test_a_schedule_does_not_hold_with_an_untrusted_clock_unless_the_policy_says_so() -> None:
    async def journey(policy: str, holds: bool) -> None:
        async with club(scheduled("08:00", "10:00", untrusted_clock=policy)) as c:
            await asyncio.sleep(3)
            assert c.released()
            c.clock.trusted = False
            await asyncio.sleep(10)
            assert c.released() == holds

    played(journey("deny_timebound", False))
    played(journey("allow", True))


def test_a_schedule_does_not_hold_once_the_records_are_too_old_for_its_zone() -> None:
    async def journey() -> None:
        async with club(scheduled("08:00", "10:00", max_age_h={"member": 1})) as c:
            c.force = InForce(c.force.records, "r1", c.now())
            await hours(0.5)
            assert c.released()
            c.force = InForce(c.force.records, "r1", c.now() - timedelta(minutes=59))
            await hours(0.03)
            assert c.mode() == "controlled"

    played(journey())


# --- Orders --------------------------------------------------------------------------------------


def test_lockdown_ends_a_schedule_lets_exempt_people_in_and_everybody_out() -> None:
    async def journey() -> None:
        async with club(scheduled("08:00", "10:00")) as c:
            await asyncio.sleep(3)
            await c.order("lockdown")
            await asyncio.sleep(0.1)
            assert not c.released()
            assert await c.says(MAYA) == "lockdown"
            assert await c.says(MAYA, side="out") == "egress"
            await asyncio.sleep(10)
            await c.rex()
            assert c.released()
            assert (await c.tap(SAM)).outcome == "grant"
            (event,) = c.found(events.Ordered)
            assert (event.by, event.why, event.mode) == ("uid 0", "drill", "lockdown")

    played(journey())


@pytest.mark.parametrize("boot", ["boot-1", "boot-2"])
@pytest.mark.parametrize(
    ("mode", "scope", "name", "front", "inner"),
    [
        ("lockdown", "site", "", "lockdown", "lockdown"),
        ("lockdown", "zone", "club", "lockdown", "lockdown"),
        ("lockdown", "zone", "vault", "controlled", "lockdown"),
        ("lockdown", "door", "front", "lockdown", "controlled"),
        ("evacuation", "site", "", "evacuation", "evacuation"),
        ("evacuation", "zone", "out", "evacuation", "controlled"),
    ],
)
def test_lockdown_and_evacuation_stand_over_a_restart_until_they_are_released(
    mode: str, scope: str, name: str, front: str, inner: str, boot: str
) -> None:
    async def journey() -> None:
        async with club() as c:
            await c.order(mode, scope, name)
            assert (c.mode("front"), c.mode("inner")) == (front, inner)
            paper = c.paper
        async with club(paper=paper, boot=boot) as c:
            await hours(0.3)
            assert (c.mode("front"), c.mode("inner")) == (front, inner)
            assert c.released("front") == (front == "evacuation")
            await c.order("release", scope, name)
            assert (c.mode("front"), c.mode("inner")) == ("controlled", "controlled")
            assert not c.released("front")

    played(journey())


def test_evacuation_comes_before_lockdown_and_both_before_what_was_set_by_hand() -> None:
    async def journey() -> None:
        async with club() as c:
            await c.order("unlocked", "door", "front", 3600)
            assert c.mode() == "unlocked"
            await c.order("lockdown")
            assert c.mode() == "lockdown"
            await c.order("evacuation")
            assert c.mode() == "evacuation"
            assert await c.says(MAYA) == "lockdown", "nobody new is let in by a card"
            await c.order("release")
            assert c.mode() == "unlocked"
            await c.order("release", "door", "front")
            assert changes(c)[-1] == ("controlled", "records")

    played(journey())


def test_evacuation_waits_for_no_disk_and_is_in_force_though_nothing_can_be_recorded() -> None:
    async def journey() -> None:
        async with club() as c:
            c.paper.full = True
            with pytest.raises(StorageError, match="in force"):
                await c.order("evacuation")
            await asyncio.sleep(0.01)
            assert c.released()
            with pytest.raises(StorageError, match="nothing was changed"):
                await c.order("release")
            assert c.mode() == "evacuation"

    played(journey())


def test_a_mode_set_by_hand_expires_unless_it_is_renewed_whatever_the_clock_says() -> None:
    async def journey() -> None:
        async with club() as c:
            await c.order("blocked", "door", "front", 3600)
            c.clock.shift = timedelta(days=2)
            await hours(0.9)
            assert c.mode() == "blocked"
            await c.order("blocked", "door", "front", 3600)
            await hours(0.9)
            assert c.mode() == "blocked"
            await hours(0.2)
            assert c.mode() == "controlled"
            assert changes(c) == [("blocked", "hand"), ("controlled", "records")]

    played(journey())


def test_a_blocked_door_lets_nobody_in_and_everybody_out() -> None:
    async def journey() -> None:
        async with club() as c:
            await c.order("blocked", "door", "front", 3600)
            assert await c.says(SAM) == "door_blocked"
            assert await c.says(SAM, side="out") == "egress"
            await c.rex()
            assert c.released()

    played(journey())


@pytest.mark.parametrize("order", ["lockdown", "evacuation"])
def test_a_blocked_door_stays_blocked_under_lockdown_and_evacuation(order: str) -> None:
    async def journey() -> None:
        async with club() as c:
            await c.order("blocked", "door", "front", 3600)
            await c.order(order)
            assert await c.says(SAM) == "door_blocked"

    played(journey())


def test_controlled_by_hand_keeps_a_door_locked_that_its_schedule_would_open() -> None:
    async def journey() -> None:
        async with club(scheduled("08:00", "10:00")) as c:
            await c.order("controlled", "door", "front", 600)
            await asyncio.sleep(10)
            assert not c.released()
            await hours(0.2)
            assert c.released()

    played(journey())


@pytest.mark.parametrize(("boot", "holds"), [("boot-1", True), ("boot-2", False)])
def test_a_door_unlocked_by_hand_is_locked_again_after_a_reboot(boot: str, holds: bool) -> None:
    async def journey() -> None:
        async with club() as c:
            await c.order("unlocked", "door", "front", 7200)
            paper = c.paper
        async with club(paper=paper, boot=boot) as c:
            await asyncio.sleep(10)
            assert c.released() == holds

    played(journey())


@pytest.mark.parametrize(
    ("mode", "scope", "name", "seconds"),
    [
        ("unlocked", "door", "nowhere", 60),
        ("unlocked", "door", "front", None),
        ("unlocked", "site", "", 60),
        ("lockdown", "zone", "nowhere", None),
        ("lockdown", "site", "front", None),
        ("lockdown", "site", "", 60),
    ],
)
def test_an_order_that_makes_no_sense_changes_nothing(
    mode: str, scope: str, name: str, seconds: int | None
) -> None:
    async def journey() -> None:
        async with club() as c:
            with pytest.raises(OrderRefused):
                await c.order(mode, scope, name, seconds)
            assert not c.found(events.Ordered)

    played(journey())


# --- Forgiveness and muster ----------------------------------------------------------------------


def test_who_is_forgiven_may_come_in_again_and_enter_their_pin() -> None:
    hard = records({"front": {"antipassback": "hard", "second_factor_schedule": None}})

    async def journey() -> None:
        async with club(hard) as c:
            await c.says(SAM)
            await c.walk()
            assert await c.says(SAM) == "antipassback"
            assert await c.orders.forgive("sam", None, by="uid 0", why="left by the window") == 1
            assert await c.says(SAM) == "group"
            await c.walk()
            assert await c.orders.forgive(None, "club", by="uid 0", why="empty") == 1
            assert muster(c.memory) == []
            assert [(e.holder, e.zone) for e in c.found(events.Forgiven)] == [
                ("sam", None),
                (None, "club"),
            ]
            with pytest.raises(OrderRefused):
                await c.orders.forgive(None, None, by="uid 0", why="what?")
            with pytest.raises(OrderRefused, match="no zone 'nope'; there are: club, out, vault"):
                await c.orders.forgive(None, "nope", by="uid 0", why="mistyped")
            with pytest.raises(OrderRefused, match="no holder 'nope'"):
                await c.orders.forgive("nope", by="uid 0", why="mistyped")
            assert await c.orders.forgive("maya", by="uid 0", why="to be sure") == 0

    played(journey())


def test_the_muster_list_says_who_is_where_and_how_sure_that_is() -> None:
    async def journey() -> None:
        async with club(records({"front": {"max_occupancy": 9}})) as c:
            await c.says(SAM)
            await c.walk()
            await asyncio.sleep(10)
            await c.says(MAYA)
            await c.says(SAM, door="inner")
            await c.walk("inner")
            await c.rex()
            await c.walk()
            found = {
                zone.zone: ([(p.holder, p.seen) for p in zone.people], zone.left_unseen)
                for zone in muster(c.memory)
            }
            # Maya's grant and somebody's exit share one opening: nobody can say who it was.
            assert found == {"club": ([("maya", False)], 1), "vault": ([("sam", True)], 0)}

    played(journey())


# --- The lamp ------------------------------------------------------------------------------------


def test_the_readers_buzzer_asks_for_a_door_to_be_closed_before_it_is_an_alarm() -> None:
    async def journey() -> None:
        async with club(records({"front": {"held_open_s": 30}})) as c:
            await c.says(SAM)
            await c.contact(Contact.OPEN)
            shown = c.fronts["front"].shown
            await asyncio.sleep(19.9)
            assert Signal.HELD_OPEN not in shown
            await asyncio.sleep(1)
            assert Signal.HELD_OPEN in shown
            await asyncio.sleep(10)
            await c.contact(Contact.CLOSED)
            count = len(shown)
            codes = c.paper.codes()
            assert codes.count("held_open_warning") == 1
            assert codes[-3:] == ["held_open", "closed", "alarm_restored"]
            await asyncio.sleep(60)
            assert len(shown) == count

    played(journey())


def test_a_lost_clock_shows_a_fault_and_not_a_denial() -> None:
    bh = {"type": "schedule", "id": "bh", "weekly": {day: [["08:00", "10:00"]] for day in WEEK}}
    timed = records(more=[bh, {"type": "group", "id": "t", "zones": ["club"], "doors": [],
                               "schedule": "bh"},
                          {"type": "holder", "id": "tim", "persona": "member", "status": "active",
                           "groups": ["t"]},
                          {"type": "credential", "id": "c-tim", "holder": "tim", "kind": "uid",
                           "value": "04000009"}])  # fmt: skip

    async def journey() -> None:
        async with club(timed) as c:
            c.clock.trusted = False
            assert await c.says("04000009", kind="uid") == "clock_untrusted"
            assert c.fronts["front"].shown == [Signal.FAULT]

    played(journey())


def test_a_relay_that_goes_away_as_the_door_opens_cannot_confirm_the_relock() -> None:
    async def journey() -> None:
        async with club(relock="on_open") as c:
            await c.says(SAM)
            c.fronts["front"].offline = "relays: gone"
            await c.contact(Contact.OPEN)
            (failed,) = c.found(events.RelockFailed)
            assert failed.why == "relays: gone"

    played(journey())


def test_a_schedule_that_can_not_be_recorded_opens_nothing_until_it_can() -> None:
    async def journey() -> None:
        async with club(scheduled("09:30", "10:30")) as c:
            c.paper.full = True
            await hours(0.6)
            assert not c.fronts["front"].pulses
            c.paper.full = False
            await asyncio.sleep(3)
            assert c.released()
            assert changes(c) == [("unlocked", "schedule")]

    played(journey())


def test_where_somebody_was_is_forgotten_with_the_retention_of_events() -> None:
    async def journey() -> None:
        async with club() as c:
            await c.says(SAM)
            await c.walk()
            c.clock.shift = timedelta(days=80)
            await c.says(MAYA)
            await c.walk()
            assert c.memory.forget_places(c.now() - timedelta(days=60)) == 1
            assert [p.holder for zone in muster(c.memory) for p in zone.people] == ["maya"]

    played(journey())


# --- Opened once by an operator on the box --------------------------------------------------------


def test_an_operator_opens_a_door_once_with_who_and_why_on_disk_first() -> None:
    async def journey() -> None:
        async with club() as c:
            opener = SimpleNamespace(
                door_ids=c.door_ids,
                remote_unlock=lambda door, event, until: c.doors[door].remote_unlock(event, until),
            )

            async def opens(door: str = "front") -> int:
                return await open_once(opener, c.clock, door, by="ivy", why="parcel")

            seq = await opens()
            event = c.paper.events[seq - 1]
            assert isinstance(event, events.RemoteUnlock)
            assert (event.door, event.by, event.why, event.command) == (
                "front",
                "ivy",
                "parcel",
                "",
            )
            assert c.fronts["front"].pulses == [5.0]
            assert c.fronts["inner"].pulses == []
            await c.walk()
            assert not c.found(events.ForcedOpen)
            with pytest.raises(OrderRefused, match="no door 'roof'; there are: front, inner"):
                await opens("roof")
            for mode, word in (("lockdown", "lockdown"), ("blocked", "blocked")):
                if mode == "blocked":
                    await c.order("release")
                    await c.order("blocked", "door", "front", 60)
                else:
                    await c.order(mode)
                with pytest.raises(OrderRefused, match=word):
                    await opens()
            c.fronts["inner"].offline = "cut"
            with pytest.raises(OrderRefused, match="board does not answer"):
                await opens("inner")
            assert len(c.fronts["front"].pulses) == 1

    run(journey())
