"""Soft, hard and timed anti-passback of a whole site against where people are; over forgiveness,
clock steps and restarts.
"""

from datetime import timedelta
from typing import Any, ClassVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import invariant, rule

from gateway.domain import events
from tests.control.played import PlayedSite
from tests.control.site import MAYA, SAM, records

CARDS = {"sam": SAM, "maya": MAYA}
WAYS = {
    ("front", "in"): "club",
    ("front", "out"): "out",
    ("inner", "in"): "vault",
    ("inner", "out"): "club",
}
FORGETS_S, NOT_ENTERED_S, SETTLED_S = 600, 6, 9
"""Who has not gone through by the end of the release, and a second more, didn't."""


class Passback(PlayedSite):
    """`front` is soft, `inner` hard, and both forget after ten minutes."""

    options: ClassVar[dict[str, Any]] = {"antipassback_forgets": timedelta(seconds=FORGETS_S)}

    def __init__(self) -> None:
        super().__init__()
        self.places: dict[str, tuple[str, float]] = {}
        """Where each was last let in, and when: they went through."""
        self.written_s: dict[str, float] = {}
        """How long ago that was when it was last written down."""
        self.passbacks: list[tuple[str, str]] = []
        doors = {"front": {"antipassback": "soft"}, "inner": {"antipassback": "hard"}}
        self.begin(records(doors))

    def is_in(self, who: str, zone: str) -> bool:
        place, since = self.places.get(who, ("", 0.0))
        return place == zone and self.now() < since + FORGETS_S

    @rule(
        who=st.sampled_from(sorted(CARDS)),
        way=st.sampled_from(sorted(WAYS)),
        goes=st.booleans(),
        taps=st.sampled_from([1, 1, 2]),
    )
    def somebody_taps(self, who: str, way: tuple[str, str], goes: bool, taps: int) -> None:
        """Who taps twice before the door has moved goes through once."""
        self.taps(who, way, goes=goes, taps=taps)

    def taps(self, who: str, way: tuple[str, str], *, goes: bool, taps: int) -> None:
        (door, side), zone = way, WAYS[way]
        again = side == "in" and self.is_in(who, zone)
        refused = again and door == "inner"
        expected = "antipassback" if refused else "group" if side == "in" else "egress"
        for _ in range(taps):
            since = self.now()
            assert self.play(self.club.says(CARDS[who], door=door, side=side)) == expected
            if again and not refused:
                self.passbacks.append((who, zone))
        if goes and not refused:
            self.play(self.club.walk(door))
            self.places[who] = zone, since
        if not refused and who in self.places:
            settled = since if goes else since + NOT_ENTERED_S
            self.written_s[who] = settled - self.places[who][1]
        self.wait(SETTLED_S)

    @rule(who=st.sampled_from(sorted(CARDS)), way=st.sampled_from(sorted(WAYS)))
    def comes_back_just_before_it_is_forgotten_and_just_after(
        self, who: str, way: tuple[str, str]
    ) -> None:
        self.taps(who, way, goes=True, taps=1)
        self.wait(max(0.0, self.places[who][1] + FORGETS_S - self.now() - 30))
        self.taps(who, way, goes=False, taps=1)
        self.wait(30)
        self.taps(who, way, goes=True, taps=1)

    @rule(seconds=st.sampled_from([60, 250, 590, 601]))
    def time_passes(self, seconds: int) -> None:
        self.wait(seconds)

    @rule(days=st.sampled_from([-400, 0, 3650]))
    def the_clock_is_set(self, days: int) -> None:
        self.clock.shift = timedelta(days=days)

    @rule(who=st.sampled_from(sorted(CARDS)))
    def somebody_is_forgiven(self, who: str) -> None:
        self.play(self.club.orders.forgive(who, by="uid 0", why="test"))
        self.places.pop(who, None)

    @rule(zone=st.sampled_from(["club", "vault"]))
    def whoever_is_in_a_zone_is_forgiven(self, zone: str) -> None:
        self.play(self.club.orders.forgive(None, zone, by="uid 0", why="test"))
        self.places = {who: place for who, place in self.places.items() if place[0] != zone}

    @rule(reboot=st.booleans(), off_s=st.sampled_from([0, 50, 9000]))
    def restarts(self, reboot: bool, off_s: int) -> None:
        self.restart(reboot=reboot, off_s=off_s)
        if reboot:
            # How long ago somebody came in is counted anew from when it was written.
            self.places = {
                who: (zone, -self.written_s[who]) for who, (zone, _) in self.places.items()
            }
        self.written_s = {who: self.now() - since for who, (_, since) in self.places.items()}

    @invariant()
    def soft_passbacks_are_told(self) -> None:
        told = [e for e in self.paper.events if isinstance(e, events.Passback)]
        assert [(e.holder, e.zone) for e in told] == self.passbacks


Passback.TestCase.settings = settings(
    max_examples=80,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
TestPassback = Passback.TestCase
