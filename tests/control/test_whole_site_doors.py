"""Doors of a whole site against simple models: modes and their precedence, two persons, interlock,
forced and held open, REX; over any history of orders, people and restarts.
"""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from gateway.domain import events
from gateway.domain.door_state import HOLD_PULSE, Alarm, Contact
from tests.control.played import new_loop
from tests.control.site import MAYA, SAM, Club, club, records
from tests.control.test_door import Paper

DOORS = ("front", "inner")
CARDS = {"sam": SAM, "maya": MAYA}
ZONES = {"front": {"out", "club"}, "inner": {"club", "vault"}}
TWO_WITHIN_S, HELD_OPEN_S, SETTLED_S = 30, 60, 12
"""After `SETTLED_S` every release, and the pulse of every hold that has ended, is over."""

SCOPES = st.sampled_from(
    [("site", ""), ("zone", "club"), ("zone", "vault"), ("door", "front"), ("door", "inner")]
)


def site_records() -> Any:
    doors: dict[str, dict[str, Any]] = {
        "front": {"two_person": True, "interlock": "lock", "held_open_s": HELD_OPEN_S},
        "inner": {"interlock": "lock", "held_open_s": HELD_OPEN_S},
    }
    return records(doors)


class Doors(RuleBasedStateMachine):
    """Sam is staff, whom a lockdown exempts; Maya isn't."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = new_loop()
        self.paper = Paper()
        self.boots = 0
        self.force = site_records()
        self.ordered: dict[str, set[tuple[str, str]]] = {"lockdown": set(), "evacuation": set()}
        self.by_hand: dict[str, tuple[str, float]] = {}
        self.waits: tuple[str, float] | None = None
        self.open_since: dict[str, float | None] = dict.fromkeys(DOORS)
        self.forced: set[str] = set()
        self.begin()

    def begin(self) -> None:
        self.around = club(self.force, paper=self.paper, boot=f"boot-{self.boots}")
        self.club: Club = self.play(self.around.__aenter__())
        # As the core does when it starts, and then each minute.
        self.seen(lambda: self.club.memory.apply(self.club.memory.running()))
        self.paper.keep(self.club.memory.take_unwritten())
        self.wait()

    def play(self, what: Any) -> Any:
        return self.loop.run_until_complete(what)

    def seen(self, look: Callable[[], Any]) -> Any:
        """What the running site says of itself."""

        async def within() -> Any:
            return look()

        return self.play(within())

    def is_open_to(self, door: str) -> bool:
        return bool(self.seen(lambda: self.club.released(door)))

    def wait(self, seconds: float = SETTLED_S) -> None:
        before = {door: self.mode(door) for door in DOORS}
        self.play(asyncio.sleep(seconds))
        for door in DOORS:
            # While its mode holds a door, no time runs for how long it stands open.
            if before[door] in ("unlocked", "evacuation") and self.open_since[door] is not None:
                if self.mode(door) == before[door]:
                    self.open_since[door] = self.loop.time()
                else:
                    self.open_since[door] = max(self.open_since[door] or 0, self.ended(door))

    def teardown(self) -> None:
        self.play(self.around.__aexit__(None, None, None))
        self.loop.close()

    # --- What the model says ----------------------------------------------------------------------

    def in_scope(self, what: str, door: str) -> bool:
        return any(
            scope == "site" or (name in ZONES[door] if scope == "zone" else name == door)
            for scope, name in self.ordered[what]
        )

    def hand(self, door: str) -> str | None:
        mode, until = self.by_hand.get(door, ("", 0.0))
        return mode if self.loop.time() < until else None

    def ended(self, door: str) -> float:
        return self.by_hand.get(door, ("", 0.0))[1]

    def mode(self, door: str) -> str:
        if self.in_scope("evacuation", door):
            return "evacuation"
        if self.in_scope("lockdown", door):
            return "lockdown"
        return self.hand(door) or "controlled"

    def stands_open(self, door: str) -> bool:
        return self.mode(door) in ("unlocked", "evacuation")

    def expected(self, who: str, door: str) -> str:
        if self.in_scope("lockdown", door) and who != "sam":
            return "lockdown"
        if self.hand(door) == "blocked":
            return "door_blocked"
        other = "inner" if door == "front" else "front"
        if self.open_since[other] is not None or self.stands_open(other):
            return "interlock"
        if door == "front":
            first, until = self.waits or ("", 0.0)
            if self.loop.time() >= until or first == who:
                return "second_person_required"
        return "group"

    # --- What happens -----------------------------------------------------------------------------

    @rule(who=st.sampled_from(sorted(CARDS)), door=st.sampled_from(DOORS), goes=st.booleans())
    def taps(self, who: str, door: str, goes: bool) -> None:
        expected = self.expected(who, door)
        assert self.play(self.club.says(CARDS[who], door=door)) == expected
        if expected == "second_person_required":
            self.waits = who, self.loop.time() + TWO_WITHIN_S
            return
        if expected == "group":
            if door == "front":
                self.waits = None
            assert self.is_open_to(door)
            if goes and self.open_since[door] is None:
                self.play(self.club.walk(door))
        elif not self.stands_open(door):
            assert not self.is_open_to(door), expected
        self.wait()

    @rule(door=st.sampled_from(DOORS))
    def leaves(self, door: str) -> None:
        assert self.play(self.club.says(MAYA, door=door, side="out")) == "egress"
        assert self.is_open_to(door)
        self.wait()

    @rule(door=st.sampled_from(DOORS))
    def presses_rex(self, door: str) -> None:
        before = len(self.club.fronts[door].pulses)
        self.play(self.club.rex(door))
        assert len(self.club.fronts[door].pulses) > before
        assert self.is_open_to(door)
        self.wait()

    @rule(door=st.sampled_from(DOORS))
    def opens_the_leaf(self, door: str) -> None:
        if self.open_since[door] is not None:
            return
        self.play(self.club.contact(Contact.OPEN, door))
        self.open_since[door] = self.loop.time()
        if not self.stands_open(door):
            self.forced.add(door)
        self.wait(1)

    @rule(door=st.sampled_from(DOORS))
    def closes_the_leaf(self, door: str) -> None:
        self.play(self.club.contact(Contact.CLOSED, door))
        self.open_since[door] = None
        self.forced.discard(door)

    @rule(what=st.sampled_from(["lockdown", "evacuation"]), where=SCOPES)
    def is_ordered(self, what: str, where: tuple[str, str]) -> None:
        self.play(self.club.order(what, *where))
        self.ordered[what].add(where)
        self.wait()

    @rule(where=SCOPES)
    def is_released(self, where: tuple[str, str]) -> None:
        held = {door for door in DOORS if self.stands_open(door)}
        self.play(self.club.order("release", *where))
        for places in self.ordered.values():
            places.discard(where)
        if where[0] == "door":
            self.by_hand.pop(where[1], None)
        for door in held:
            if not self.stands_open(door) and self.open_since[door] is not None:
                self.open_since[door] = self.loop.time()
        self.wait()

    @rule(
        mode=st.sampled_from(["controlled", "unlocked", "blocked"]),
        door=st.sampled_from(DOORS),
        seconds=st.sampled_from([20, 600]),
    )
    def is_set_by_hand(self, mode: str, door: str, seconds: int) -> None:
        held = self.stands_open(door)
        self.play(self.club.order(mode, "door", door, seconds))
        self.by_hand[door] = mode, self.loop.time() - 0.01 + seconds
        if held and not self.stands_open(door) and self.open_since[door] is not None:
            self.open_since[door] = self.loop.time()
        self.wait()

    @rule(seconds=st.sampled_from([15, 70, 400]))
    def time_passes(self, seconds: int) -> None:
        self.wait(seconds)

    @rule(reboot=st.booleans())
    def restarts(self, reboot: bool) -> None:
        for door in DOORS:
            self.closes_the_leaf(door)
        self.play(self.around.__aexit__(None, None, None))
        if reboot:
            self.boots += 1
            self.waits = None
            self.by_hand = {
                door: hand for door, hand in self.by_hand.items() if hand[0] != "unlocked"
            }
        now = self.loop.time()
        self.begin()
        if reboot:
            # Counted anew from what was left when it was written: told, and tested by itself.
            for door, (mode, until) in self.by_hand.items():
                kept = getattr(self.club.memory.get(f"hand/door/{door}"), "until", None)
                left = 0.0 if kept is None else kept.total_seconds()
                assert left >= until - 0.1 or until <= now, "a reboot shortened an order"
                self.by_hand[door] = mode, left

    # --- What always holds ------------------------------------------------------------------------

    @invariant()
    def each_door_is_in_the_mode_that_takes_precedence(self) -> None:
        for door in DOORS:
            assert self.seen(partial(self.club.mode, door)) == self.mode(door)

    @invariant()
    def a_door_is_held_where_its_mode_says_so_and_for_one_pulse_more(self) -> None:
        for door in DOORS:
            left_s = self.club.fronts[door].until.total_seconds() - self.loop.time()
            assert left_s <= HOLD_PULSE.total_seconds()
            if self.stands_open(door):
                assert self.is_open_to(door)

    @invariant()
    def alarms_are_those_of_the_leaf(self) -> None:
        now = self.loop.time()
        for door in DOORS:
            since = self.open_since[door]
            alarms = self.club.doors[door].state.alarms
            assert (Alarm.FORCED_OPEN in alarms) == (door in self.forced)
            if self.stands_open(door) or since is None:
                assert Alarm.HELD_OPEN not in alarms
            elif abs(now - since - HELD_OPEN_S) > 3:  # modes are looked at every 2 s
                assert (Alarm.HELD_OPEN in alarms) == (now - since > HELD_OPEN_S)

    @invariant()
    def every_alarm_was_raised_once_and_each_restored(self) -> None:
        raised = [e for e in self.paper.events if isinstance(e, events.ForcedOpen)]
        restored = [
            e
            for e in self.paper.events
            if isinstance(e, events.AlarmRestored) and e.alarm == "forced_open"
        ]
        assert len(raised) == len(restored) + len(self.forced)


Doors.TestCase.settings = settings(
    max_examples=25,
    stateful_step_count=25,
    suppress_health_check=[HealthCheck.too_slow],
)
TestDoors = Doors.TestCase
