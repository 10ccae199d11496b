"""The rules after the decision at controlled doors: what they turn, what outlives a restart."""

import asyncio
from collections.abc import Coroutine
from datetime import timedelta
from typing import Any

import pytest

from gateway.control.door import CardTapped
from gateway.domain import events
from gateway.domain.door_state import Contact
from gateway.domain.memory import PinRow
from gateway.domain.signal import Signal
from tests.control.site import (
    DURESS_PIN,
    MAYA,
    MAYA_PIN,
    ONCE,
    SAM,
    SAM_PIN,
    Club,
    club,
    record_rows,
    records,
)
from tests.virtual import run

PIN_DOOR: dict[str, Any] = {"front": {"pin_alone": True}, "inner": {"pin_alone": True}}
CARD_AND_PIN: dict[str, Any] = {
    "front": {"second_factor_schedule": "24x7"},
    "inner": {"second_factor_schedule": "24x7"},
}


def played(journey: Coroutine[Any, Any, None]) -> None:
    run(journey)


async def guess(c: Club, times: int, **options: Any) -> list[str]:
    return [await c.says("0000", **options) for _ in range(times)]


# --- PIN lockout ---------------------------------------------------------------------------------


def test_five_wrong_pins_lock_pins_out_and_each_lockout_is_twice_as_long() -> None:
    async def journey() -> None:
        async with club(records(PIN_DOOR)) as c:
            for seconds in (30, 60, 120, 240, 480, 900, 900):
                assert await guess(c, 5) == ["unknown_credential"] * 5
                assert c.found(events.PinLockout)[-1].seconds == seconds
                assert await c.says(SAM_PIN) == "pin_locked_out"
                await asyncio.sleep(seconds - 1)
                assert await c.says(SAM_PIN) == "pin_locked_out"
                await asyncio.sleep(1)
            assert await c.says(SAM_PIN) == "group"
            c.tick_s = 3600
            await asyncio.sleep(7 * 3600)
            await guess(c, 5)
            assert c.found(events.PinLockout)[-1].seconds == 30, "after as many quiet hours"

    played(journey())


def test_while_locked_out_every_pin_gets_one_and_the_same_denial() -> None:
    async def journey() -> None:
        async with club(records(PIN_DOOR)) as c:
            await guess(c, 5)
            answers = [await c.tap(pin) for pin in (SAM_PIN, MAYA_PIN, DURESS_PIN, "9999")]
            told = {
                (a.outcome, a.reason, a.holder, a.via, a.duress, a.credential, a.pin, a.turned_from)
                for a in answers
            }
            assert len({each[:7] for each in told}) == 1
            assert told.pop()[:3] == ("deny", "pin_locked_out", None)
            assert c.fronts["front"].shown[-4:] == [Signal.DENIED] * 4

    played(journey())


def test_a_lockout_touches_no_card_no_rex_no_way_out_and_no_other_door() -> None:
    async def journey() -> None:
        async with club(records(PIN_DOOR)) as c:
            await guess(c, 5)
            assert await c.says(SAM) == "group"
            assert await c.says(SAM_PIN, side="out") == "egress"
            assert await c.says(SAM_PIN, door="inner") == "group"
            await asyncio.sleep(10)
            await c.rex()
            assert c.released()

    played(journey())


@pytest.mark.parametrize("pin", [SAM_PIN, MAYA_PIN, DURESS_PIN])
@pytest.mark.parametrize("wrong", [1, 2, 4])
def test_a_right_pin_between_guesses_gives_no_more_of_them(pin: str, wrong: int) -> None:
    async def journey() -> None:
        async with club(records(PIN_DOOR)) as c:
            said = []
            while not c.found(events.PinLockout):
                said += await guess(c, wrong)
                said.append(await c.says(pin))
            assert said.count("unknown_credential") == 5
            assert said[-1] == "pin_locked_out"

    played(journey())


def test_a_right_pin_leaves_the_doubling_as_it_is() -> None:
    async def journey() -> None:
        async with club(records(PIN_DOOR)) as c:
            for seconds in (30, 60, 120):
                await guess(c, 5)
                assert c.found(events.PinLockout)[-1].seconds == seconds
                await asyncio.sleep(seconds)
                assert await c.says(SAM_PIN) == "group"

    played(journey())


def test_neither_a_card_with_its_pin_nor_the_way_out_nor_an_operator_ends_a_doors_row() -> None:
    async def journey() -> None:
        async with club(records(CARD_AND_PIN)) as c:
            for _ in range(4):
                assert await c.says(MAYA) == "pin_required"
                assert await c.says("0000") == "wrong_pin"
            assert await c.says(SAM) == "pin_required"
            assert await c.says(SAM_PIN) == "group"
            assert await c.says(SAM_PIN, side="out") == "egress"
            await c.orders.forgive("maya", by="uid 0", why="test")
            assert await c.says(MAYA) == "pin_required"
            assert await c.says("0000") == "wrong_pin"
            assert [e.seconds for e in c.found(events.PinLockout)] == [30]

    played(journey())


def test_a_right_pin_ends_its_holders_row() -> None:
    async def journey() -> None:
        async with club(records(CARD_AND_PIN, pin_max_attempts=10)) as c:
            for _ in range(3):
                for number in range(4):
                    door = ("front", "inner")[number % 2]
                    assert await c.says(SAM, door=door) == "pin_required"
                    assert await c.says("0000", door=door) == "wrong_pin"
                assert await c.says(SAM) == "pin_required"
                assert await c.says(SAM_PIN) == "group"
            assert not c.found(events.PinLockout)

    played(journey())


def test_ten_wrong_pins_after_a_card_lock_the_holders_pins_for_a_day_at_every_door() -> None:
    async def journey() -> None:
        async with club(records(CARD_AND_PIN, pin_max_attempts=10)) as c:
            for number in range(10):
                door = ("front", "inner")[number % 2]
                assert await c.says(SAM, door=door) == "pin_required"
                assert await c.says("0000", door=door) == "wrong_pin"
            (lockout,) = c.found(events.PinLockout)
            assert (lockout.holder, lockout.seconds) == ("sam", 24 * 3600)
            c.tick_s = 3600
            await c.says(SAM)
            assert await c.says(SAM_PIN) == "pin_locked_out"
            await c.says(MAYA)
            assert await c.says(MAYA_PIN) == "group"
            await asyncio.sleep(24 * 3600)
            await c.says(SAM)
            assert await c.says(SAM_PIN) == "group"

    played(journey())


def test_a_wrong_pin_during_a_lockout_neither_counts_nor_ends_it() -> None:
    async def journey() -> None:
        async with club(records(PIN_DOOR)) as c:
            await guess(c, 25)
            assert len(c.found(events.PinLockout)) == 1
            row = c.memory.get("pin/door/front")
            assert isinstance(row, PinRow)
            assert (row.failures, row.lockouts) == (0, 1)

    played(journey())


@pytest.mark.parametrize("boot", ["boot-1", "boot-2"])
@pytest.mark.parametrize("step", [timedelta(days=3650), timedelta(days=-365)])
def test_a_lockout_outlives_a_restart_and_no_clock_step_shortens_it(
    boot: str, step: timedelta
) -> None:
    async def journey() -> None:
        async with club(records(PIN_DOOR)) as c:
            await guess(c, 5)
            await asyncio.sleep(10)
            c.clock.shift = step
            assert await c.says(SAM_PIN) == "pin_locked_out"
            paper = c.paper
        async with club(records(PIN_DOOR), paper=paper, boot=boot) as c:
            c.clock.shift = step
            assert await c.says(SAM_PIN) == "pin_locked_out"
            await asyncio.sleep(18)
            assert await c.says(SAM_PIN) == "pin_locked_out"
            await asyncio.sleep(13)
            assert await c.says(SAM_PIN) == "group"

    played(journey())


async def enter(c: Club, pin: str, side: Any = "in", wait_s: float = 0.06) -> list[str]:
    """Enter a PIN; the reasons that are told within `wait_s`."""
    before = len(c.paper.events)
    c.doors["front"].tap(CardTapped("keypad", side, "pin", pin, c.clock.monotonic()))
    await asyncio.sleep(wait_s)
    return [e.reason for e in c.paper.events[before:] if isinstance(e, events.AccessDecided)]


def test_every_pin_before_its_card_is_counted_and_none_waits_during_a_lockout() -> None:
    async def journey() -> None:
        async with club(records(CARD_AND_PIN)) as c:
            assert await enter(c, "0000") == []
            for _ in range(4):
                assert await enter(c, "0000") == ["unknown_credential"], "the one before"
            assert await c.says(SAM) == "wrong_pin", "the fifth"
            assert [e.holder for e in c.found(events.PinLockout)] == [None]
            assert await enter(c, SAM_PIN) == ["pin_locked_out"]

    played(journey())


def test_a_pin_before_a_card_that_asks_for_none_is_decided_by_itself() -> None:
    async def journey() -> None:
        async with club(records(CARD_AND_PIN)) as c:
            assert await enter(c, "0000") == []
            assert await c.says("04FFFFFF") == "unknown_credential"
            reasons = [(e.kinds, e.reason) for e in c.found(events.AccessDecided)]
            assert reasons == [
                (("pin",), "unknown_credential"),
                (("uid",), "unknown_credential"),
            ]
            row = c.memory.get("pin/door/front")
            assert isinstance(row, PinRow)
            assert row.failures == 1

    played(journey())


def test_a_duress_pin_before_its_card_opens_and_is_told() -> None:
    async def journey() -> None:
        async with club(records(CARD_AND_PIN)) as c:
            await enter(c, DURESS_PIN)
            assert await c.says(SAM) == "group"
            assert [e.outcome for e in c.found(events.Duress)] == ["grant"]
            await enter(c, DURESS_PIN, wait_s=21)
            assert [e.outcome for e in c.found(events.Duress)] == ["grant", "deny"]

    played(journey())


def test_no_pin_waits_on_the_way_out_nor_on_the_other_side_nor_where_none_is_asked_for() -> None:
    async def journey() -> None:
        async with club(records(CARD_AND_PIN)) as c:
            assert await enter(c, SAM_PIN, "out") == ["egress"]
            await enter(c, SAM_PIN)
            assert await c.says(SAM, side="out") == "egress"
            assert await c.says(SAM) == "group"
        async with club() as c:
            assert await enter(c, SAM_PIN) == ["pin_not_accepted"]

    played(journey())


# --- Anti-passback -------------------------------------------------------------------------------


def hard(**more: Any) -> Any:
    return records({"front": {"antipassback": "hard", "egress": False, **more}}, [
        {"type": "group", "id": "way-out", "zones": ["out"], "doors": [], "schedule": "24x7"},
        {"type": "holder", "id": "ann", "persona": "member", "status": "active",
         "groups": ["g", "way-out"]},
        {"type": "credential", "id": "c-ann", "holder": "ann", "kind": "uid", "value": "04AA0001"},
    ])  # fmt: skip


ANN = "04AA0001"


@pytest.mark.parametrize("boot", ["boot-1", "boot-2"])
def test_an_alarm_stands_over_restarts_until_the_door_is_closed(boot: str) -> None:
    async def journey() -> None:
        async with club() as c:
            await c.contact(Contact.OPEN)
            await asyncio.sleep(120)
            paper = c.paper
        assert [code for code in paper.codes() if code in ("forced_open", "held_open")] == [
            "forced_open",
            "held_open",
        ]
        for _ in range(2):
            # The site says of its doors that they are closed when it begins.
            async with club(paper=paper, boot=boot) as c:
                restored = [event.alarm for event in c.found(events.AlarmRestored)]
                assert sorted(restored) == ["forced_open", "held_open"]

    played(journey())


@pytest.mark.parametrize("restart", [False, True])
def test_a_card_that_went_in_lets_nobody_in_again_before_it_has_gone_out(restart: bool) -> None:
    async def journey() -> None:
        async with club(hard()) as c:
            assert await c.says(ANN) == "group"
            await c.walk()
            if not restart:
                assert (await c.tap(ANN)).turned_from == "group"
                assert await c.says(ANN) == "antipassback"
                assert await c.says(ANN, side="out") == "group"
                await c.walk()
                assert await c.says(ANN) == "group"
            paper = c.paper
        if restart:
            async with club(hard(), paper=paper, boot="boot-2") as c:
                assert await c.says(ANN) == "antipassback"

    played(journey())


def test_who_taps_and_does_not_go_in_may_tap_again() -> None:
    async def journey() -> None:
        async with club(hard()) as c:
            assert await c.says(ANN) == "group"
            assert await c.says(ANN) == "group"
            await asyncio.sleep(10)
            assert [e.holders for e in c.found(events.NotEntered)] == [("ann",)]
            assert await c.says(ANN) == "group"
            await c.walk()
            (entered,) = c.found(events.Entered)
            assert (entered.holders, entered.sure) == (("ann",), True)
            assert await c.says(ANN) == "antipassback"

    played(journey())


def test_soft_antipassback_lets_in_and_says_so() -> None:
    async def journey() -> None:
        async with club(records({"front": {"antipassback": "soft"}})) as c:
            for _ in range(2):
                assert await c.says(SAM) == "group"
                await c.walk()
            (passback,) = c.found(events.Passback)
            assert (passback.holder, passback.zone) == ("sam", "club")

    played(journey())


def test_timed_antipassback_forgets() -> None:
    async def journey() -> None:
        async with club(hard(), antipassback_forgets=timedelta(minutes=10)) as c:
            await c.says(ANN)
            await c.walk()
            c.clock.shift = timedelta(days=1)
            await asyncio.sleep(590)
            assert await c.says(ANN) == "antipassback"
            await asyncio.sleep(10)
            assert await c.says(ANN) == "group"

    played(journey())


def test_leaving_is_never_refused_for_passback() -> None:
    async def journey() -> None:
        async with club(records({"front": {"antipassback": "hard"}})) as c:
            for _ in range(2):
                assert await c.says(SAM, side="out") == "egress"
                await c.walk()

    played(journey())


# --- Occupancy -----------------------------------------------------------------------------------


@pytest.mark.parametrize("restart", [False, True])
def test_a_full_zone_lets_nobody_in_until_somebody_leaves(restart: bool) -> None:
    limited = records({"front": {"max_occupancy": 2}})

    async def journey() -> None:
        async with club(limited) as c:
            for card in (SAM, MAYA):
                assert await c.says(card) == "group"
                await c.walk()
            paper = c.paper
            assert await c.says(SAM) == "max_occupancy"
            if not restart:
                assert await c.says(SAM, side="out") == "egress"
                await c.walk()
                assert await c.says(SAM) == "group"
                await asyncio.sleep(10)
                assert await c.says(SAM) == "group", "who did not go in isn't counted"
        if restart:
            async with club(limited, paper=paper, boot="boot-2") as c:
                assert await c.says(SAM) == "max_occupancy"

    played(journey())


def test_who_leaves_by_rex_makes_room_and_two_at_once_count_as_two() -> None:
    async def journey() -> None:
        async with club(records({"front": {"max_occupancy": 2}})) as c:
            assert await c.says(SAM) == "group"
            assert await c.says(MAYA) == "group"
            assert await c.says(ONCE, kind="uid") == "group", "Maya again, before she went in"
            await c.walk()
            assert await c.says(MAYA) == "max_occupancy"
            await asyncio.sleep(10)
            await c.rex()
            await c.walk()
            assert await c.says(MAYA) == "group"

    played(journey())


# --- Two persons, interlock, uses ----------------------------------------------------------------


def test_two_different_holders_in_time_open_a_two_person_door() -> None:
    async def journey() -> None:
        async with club(records({"front": {"two_person": True}})) as c:
            assert await c.says(SAM) == "second_person_required"
            assert await c.says(SAM) == "second_person_required"
            assert c.fronts["front"].shown == [Signal.PIN_WANTED] * 2
            await asyncio.sleep(29)
            assert await c.says(MAYA) == "group"
            await c.walk()
            (entered,) = c.found(events.Entered)
            assert set(entered.holders) == {"sam", "maya"}
            assert await c.says(MAYA) == "second_person_required", "each opening needs two"
            await asyncio.sleep(31)
            assert await c.says(SAM) == "second_person_required"
            assert await c.says(SAM, side="out") == "egress"

    played(journey())


@pytest.mark.parametrize("once_first", [True, False])
def test_each_of_two_persons_spends_a_use_with_the_grant_that_opens(once_first: bool) -> None:
    first, second = (ONCE, SAM) if once_first else (SAM, ONCE)

    async def journey() -> None:
        async with club(records({"front": {"two_person": True}})) as c:
            assert await c.says(first) == "second_person_required"
            assert c.memory.get("uses/c-once") is None, "nothing has opened yet"
            c.paper.disk_s = 0.5
            assert await c.says(second) == "group"
            assert not c.released(), "what is spent is on disk first"
            await asyncio.sleep(0.6)
            assert c.released()
            c.paper.disk_s = 0
            await c.walk()
            await c.says(first)
            assert (await c.says(second) == "group") is False
            assert await c.says(ONCE) == "uses_exhausted"

    played(journey())


def test_the_first_of_two_who_spends_the_last_use_elsewhere_does_not_count_any_more() -> None:
    async def journey() -> None:
        async with club(records({"front": {"two_person": True}})) as c:
            assert await c.says(ONCE) == "second_person_required"
            assert await c.says(ONCE, door="inner") == "group"
            assert await c.says(SAM) == "second_person_required"
            assert await c.says(MAYA) == "group"

    played(journey())


def test_of_two_persons_the_slower_one_has_the_door_longer() -> None:
    slow: list[dict[str, Any]] = [
            {"type": "holder", "id": "slow", "persona": "member", "status": "active",
             "groups": ["g"], "extended_unlock": True},
            {"type": "credential", "id": "c-slow", "holder": "slow", "kind": "uid",
             "value": "04A1B2C3D4E5F0"}]  # fmt: skip

    async def journey() -> None:
        async with club(records({"front": {"two_person": True}}, slow)) as c:
            assert await c.says("04A1B2C3D4E5F0") == "second_person_required"
            assert await c.says(SAM) == "group"
            assert c.fronts["front"].pulses == [15.0]

    played(journey())


def test_two_on_two_sides_of_a_two_person_door_are_not_two_who_go_through_together() -> None:
    async def journey() -> None:
        async with club(records({"inner": {"two_person": True, "egress": False}})) as c:
            assert await c.says(SAM, door="inner") == "second_person_required"
            assert await c.says(MAYA, door="inner", side="out") == "second_person_required"
            assert not c.fronts["inner"].pulses
            assert await c.says(MAYA, door="inner") == "group", "whoever waited outside still does"
            await c.walk("inner")
            (entered,) = c.found(events.Entered)
            assert (entered.side, set(entered.holders)) == ("in", {"sam", "maya"})

    played(journey())


def test_a_denied_second_person_opens_nothing() -> None:
    async def journey() -> None:
        async with club(records({"front": {"two_person": True}})) as c:
            await c.says(SAM)
            assert await c.says("04FFFFFF") == "unknown_credential"
            assert not c.fronts["front"].pulses

    played(journey())


def test_of_two_interlocked_doors_only_one_opens_at_a_time_but_people_get_out() -> None:
    both = {"front": {"interlock": "lock"}, "inner": {"interlock": "lock"}}

    async def journey() -> None:
        async with club(records(both)) as c:
            assert await c.says(SAM) == "group"
            assert await c.says(MAYA, door="inner") == "interlock"
            await c.contact(Contact.OPEN)
            await asyncio.sleep(10)
            assert await c.says(MAYA, door="inner") == "interlock"
            assert await c.says(MAYA, door="inner", side="out") == "egress"
            await c.rex("inner")
            assert len(c.fronts["inner"].pulses) == 2
            await c.contact(Contact.CLOSED)
            await asyncio.sleep(10)
            assert await c.says(MAYA, door="inner") == "group"
            await asyncio.sleep(10)
            await c.contact(Contact.UNKNOWN)
            assert await c.says(MAYA, door="inner") == "interlock", "nobody knows that it is shut"

    played(journey())


@pytest.mark.parametrize("boot", ["boot-1", "boot-2"])
def test_a_credential_for_one_use_opens_once_over_a_restart(boot: str) -> None:
    async def journey() -> None:
        async with club() as c:
            assert await c.says(ONCE) == "group"
            assert await c.says(ONCE, side="out") == "egress"
            assert await c.says(ONCE) == "uses_exhausted"
            paper = c.paper
        async with club(paper=paper, boot=boot) as c:
            assert await c.says(ONCE) == "uses_exhausted"
            assert await c.says(MAYA) == "group"

    played(journey())


@pytest.mark.parametrize(("disk_s", "opens"), [(0.5, True), (2.0, False), (None, False)])
def test_what_is_spent_waits_for_the_disk_and_never_opens_before(
    disk_s: float | None, opens: bool
) -> None:
    async def journey() -> None:
        async with club() as c:
            c.paper.disk_s = disk_s
            assert await c.says(ONCE) == "group"
            await asyncio.sleep(0.4)
            assert not c.fronts["front"].pulses
            await asyncio.sleep(3)
            assert bool(c.fronts["front"].pulses) == opens
            assert not c.found(events.LateCommit)
            assert c.fronts["front"].shown == [Signal.GRANTED if opens else Signal.FAULT]
            assert await c.says(ONCE) == "uses_exhausted"

    played(journey())


# --- Duress --------------------------------------------------------------------------------------


def test_a_duress_pin_opens_and_nothing_at_the_door_tells_it_from_another() -> None:
    async def journey() -> None:
        seen = []
        for pin in (SAM_PIN, DURESS_PIN):
            async with club(records(PIN_DOOR)) as c:
                assert await c.says(pin) == "group"
                await asyncio.sleep(5)
                seen.append((c.fronts["front"].pulses, c.fronts["front"].shown))
                duress = c.found(events.Duress)
        assert seen[0] == seen[1]
        (event,) = duress
        assert (event.holder, event.outcome, event.priority) == ("sam", "grant", 3)

    played(journey())


def test_a_duress_pin_raises_its_alarm_also_where_the_door_stays_shut() -> None:
    async def journey() -> None:
        async with club(records(PIN_DOOR)) as c:
            await guess(c, 5)
            assert await c.says(DURESS_PIN) == "pin_locked_out"
            assert [e.outcome for e in c.found(events.Duress)] == ["deny"]

    played(journey())


def test_a_grant_that_a_rule_turned_says_what_it_depended_on_and_no_secret() -> None:
    async def journey() -> None:
        async with club(records({"front": {"max_occupancy": 1}})) as c:
            await c.says(SAM)
            await c.walk()
            turned = await c.tap(MAYA)
            assert turned.context is not None
            assert set(turned.context.memory) == {"count/club"}
            written = b"".join(events.encode(event) for event in c.paper.events)
            assert SAM.encode() not in written

    played(journey())


def test_what_is_spent_waits_for_its_own_commit_whatever_else_is_on_its_way_to_the_disk() -> None:
    async def journey() -> None:
        async with club() as c:
            c.paper.disk_s = 0.2
            ordering = asyncio.create_task(c.order("unlocked", "door", "inner", 60))
            await asyncio.sleep(0.05)
            assert await c.says(ONCE) == "group"
            await asyncio.sleep(0.3)
            assert c.fronts["front"].pulses == [5.0]
            await ordering

    played(journey())


# --- Exceptions in the audit trail ----------------------------------------------------------------

LONG = "x" * 1_000


def excepted(effect: str, holder: str, **members: str) -> dict[str, Any]:
    usual = {
        "type": "exception", "id": f"e-{holder}", "holder": holder, "effect": effect, "zones": [],
        "doors": ["front"], "from": "2020-01-01T00:00:00Z", "until": "2099-01-01T00:00:00Z",
        "reason": "boiler engineer for Anna", "issued_by": "maya@ops",
    }  # fmt: skip
    return usual | members


@pytest.mark.parametrize(
    ("effect", "members", "expected"),
    [
        ("allow", {}, events.Excepted("boiler engineer for Anna", "maya@ops")),
        ("deny", {}, events.Excepted("boiler engineer for Anna", "maya@ops")),
        (
            "deny",
            {"reason": LONG, "issued_by": LONG},
            events.Excepted("x" * 255 + "…", "x" * 255 + "…"),
        ),
    ],
)
def test_an_exceptions_words_are_in_the_event_that_it_decided(
    effect: str, members: dict[str, str], expected: events.Excepted
) -> None:
    holders = [row["id"] for row in record_rows() if row["type"] == "holder"]
    more = [excepted(effect, "sam", **members)]
    if effect == "allow":
        more = [
            {"type": "holder", "id": "vera", "persona": "visitor", "status": "active",
             "groups": []},
            {"type": "credential", "id": "c-vera", "holder": "vera", "kind": "uid",
             "value": "04C0FFEE"},
            excepted("allow", "vera", **members),
        ]  # fmt: skip
    who = "04C0FFEE" if effect == "allow" else SAM
    assert "vera" not in holders

    async def journey() -> None:
        async with club(records(more=more)) as c:
            assert await c.says(who) == "exception"
            (event,) = c.found(events.AccessDecided)
            assert event.exception == expected
            assert await c.says(MAYA, door="inner") == "group"
            assert c.found(events.AccessDecided)[-1].exception is None
            body = events.encode(event)
            parts = events.split(body)
            for word in (expected.reason, expected.issued_by):
                assert word.encode() not in parts.public, "it is erased with the holder"
                assert word.encode() in parts.personal
            assert events.decode(events.join(*parts)) == event

    played(journey())
