"""Unlock schedules of a whole site against the words of the specification: holidays, clock changes,
the first person in, modes over them, age of the records, time that nobody vouches for, restarts.
"""

from datetime import date, datetime, timedelta
from functools import cache, partial
from typing import Any
from zoneinfo import ZoneInfo

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, rule

from gateway.control.door import InForce
from tests.control.played import PlayedSite
from tests.control.site import MAYA, SAM, records
from tests.virtual import START

DOORS = ("front", "inner")
BY_HAND = ("controlled", "unlocked", "blocked")
CARDS = {"sam": SAM, "maya": MAYA}
LONDON = ZoneInfo("Europe/London")
WEEKLY = {
    "mon": [["09:00", "12:00"], ["12:00", "17:00"]],
    "fri": [["16:00", "24:00"]],
    "sat": [["22:00", "03:00"]],
    "sun": [["01:15", "01:45"], ["02:30", "04:00"], ["23:30", "00:30"]],
}
HOLIDAYS = [("closed", []), ("short", [["11:00", "13:00"], ["21:00", "01:30"]])]
DATES = {
    "closed": ["2026-03-30", "2026-12-25"],
    "short": ["2026-03-27", "2026-03-30", "2026-10-26"],
}
BEGINS = [
    "2026-03-27T10:20Z",
    "2026-03-28T21:50Z",
    "2026-03-29T00:20Z",
    "2026-03-30T10:30Z",
    "2026-10-24T20:50Z",
    "2026-10-25T00:05Z",
    "2026-10-26T00:10Z",
]
"""Around the Sundays on which London's clocks change, and holidays."""
MAX_AGE_H = 30
FOLLOWS_S, SETTLED_S = 3, 12
"""Modes are looked at every 2 s; after `SETTLED_S` also any release for a person is over."""


# --- What the specification says (docs/spec/decision.md, "When a schedule is open") --------------


def intervals(day: date) -> list[list[str]]:
    for calendar, hours in HOLIDAYS:
        if day.isoformat() in DATES[calendar]:
            return hours
    return WEEKLY.get(f"{day:%a}".lower(), [])


@cache
def is_open_in(minute: datetime) -> bool:
    local = minute.astimezone(LONDON)
    wall, day = f"{local:%H:%M}", local.date()
    own = any(s <= wall and (wall < e or e < s) for s, e in intervals(day))
    return own or any(wall < e < s for s, e in intervals(day - timedelta(days=1)))


def is_open(at: datetime) -> bool:
    return is_open_in(at.replace(second=0, microsecond=0))


def is_open_all_the_way(since: datetime, until: datetime) -> bool:
    minutes = int((until - since) / timedelta(minutes=1))
    return is_open(until) and all(
        is_open(since + timedelta(minutes=each)) for each in range(minutes + 1)
    )


def site_records(untrusted_clock: str) -> Any:
    more: list[dict[str, Any]] = [
        {"type": "schedule", "id": "s", "weekly": WEEKLY, "holidays": [
            {"calendar": calendar, "intervals": hours} for calendar, hours in HOLIDAYS
        ]},
        *({"type": "calendar", "id": calendar, "dates": dict.fromkeys(dates, "a day off")}
          for calendar, dates in DATES.items()),
    ]  # fmt: skip
    doors: dict[str, dict[str, Any]] = {
        "front": {"unlock_schedule": "s"},
        "inner": {"unlock_schedule": "s", "unlock_after_first": True},
    }
    policy = {"max_age_h": {"member": MAX_AGE_H}, "untrusted_clock": untrusted_clock}
    return records(doors, more, **policy)


class Hours(PlayedSite):
    """`front` goes by the schedule and by the age of the records, `inner` by the first person in.
    Sam is staff, whom a lockdown exempts; Maya isn't.
    """

    tick_s = 2

    @initialize(
        begins=st.sampled_from(BEGINS), untrusted=st.sampled_from(["deny_timebound", "allow"])
    )
    def begins(self, begins: str, untrusted: str) -> None:
        self.clock.shift = datetime.fromisoformat(begins) - START
        self.strict = untrusted == "deny_timebound"
        self.first: datetime | None = None
        self.ordered: set[tuple[str, str]] = set()
        self.by_hand: dict[str, tuple[str, float]] = {}
        self.begin(site_records(untrusted))
        self.wait(SETTLED_S)

    # --- What the model says ----------------------------------------------------------------------

    def wall(self, ago_s: float = 0) -> datetime:
        return START + timedelta(seconds=self.now() - ago_s) + self.clock.shift

    def is_ordered(self, what: str, door: str) -> bool:
        return (what, "") in self.ordered or (what, door) in self.ordered

    def hand(self, door: str, ago_s: float = 0) -> str | None:
        mode, until = self.by_hand.get(door, ("", 0.0))
        return mode if self.now() - ago_s < until else None

    def is_stale(self, ago_s: float = 0) -> bool:
        assert self.force.as_of is not None
        return self.wall(ago_s) >= self.force.as_of + timedelta(hours=MAX_AGE_H)

    def holds(self, door: str, ago_s: float = 0) -> bool:
        """Whether the schedule has the door stand unlocked."""
        if not self.clock.trusted and self.strict:
            return False
        if door == "front":
            return is_open(self.wall(ago_s)) and not self.is_stale(ago_s)
        return self.first is not None and is_open_all_the_way(self.first, self.wall(ago_s))

    def mode(self, door: str, ago_s: float = 0) -> str:
        for what in ("evacuation", "lockdown"):
            if self.is_ordered(what, door):
                return what
        held = "unlocked" if self.holds(door, ago_s) else "controlled"
        return self.hand(door, ago_s) or held

    def expected(self, who: str, door: str) -> str:
        if self.is_ordered("lockdown", door) and who != "sam":
            return "lockdown"
        if door == "front" and self.is_stale():
            return "entitlements_stale"
        return "door_blocked" if self.hand(door) == "blocked" else "group"

    # --- What happens -----------------------------------------------------------------------------

    @rule(who=st.sampled_from(sorted(CARDS)), door=st.sampled_from(["inner", "front", "inner"]))
    def comes_in(self, who: str, door: str) -> None:
        expected, at = self.expected(who, door), self.wall()
        assert self.play(self.club.says(CARDS[who], door=door)) == expected
        if expected == "group" and door == "inner":
            self.first = at
        self.wait(SETTLED_S)

    @rule(door=st.sampled_from(DOORS))
    def leaves(self, door: str) -> None:
        assert self.play(self.club.says(MAYA, door=door, side="out")) == "egress"
        self.wait(SETTLED_S)

    @rule()
    def the_schedule_changes(self) -> None:
        """From ten seconds before to ten seconds after."""
        at = self.wall().replace(second=0, microsecond=0)
        now = is_open(at)
        while is_open(at) == now:
            at += timedelta(minutes=1)
        if self.wall() < at - timedelta(seconds=10):
            self.clock.shift += at - timedelta(seconds=10) - self.wall()
        for seconds in (8, 2 + FOLLOWS_S, SETTLED_S):
            self.wait(seconds)
            self.doors_stand_as_their_mode_says()

    @rule(minutes=st.sampled_from([0, 25, 55, 7 * 60, 25 * 60]))
    def time_passes(self, minutes: int) -> None:
        """With the machine asleep, but for a minute: monotonic time notices nothing else."""
        self.clock.shift += timedelta(minutes=minutes)
        self.wait(50)

    @rule(what=st.sampled_from(["nobody", "nobody", "the time", "the records"]))
    def is_vouched_for(self, what: str) -> None:
        if what == "the records":
            self.force = InForce(self.force.records, "r1", self.wall())
            self.club.force = self.force
        else:
            self.clock.trusted = what == "the time"
        self.wait(SETTLED_S)

    @rule(
        mode=st.sampled_from(["release", "lockdown", "evacuation", *BY_HAND]),
        door=st.sampled_from(["", *DOORS]),
        seconds=st.sampled_from([20, 600]),
        reboot=st.sampled_from([None, None, False, True]),
    )
    def somebody_orders(self, mode: Any, door: str, seconds: int, reboot: bool | None) -> None:
        """And then, it may be, the gateway or its machine starts again."""
        if mode in BY_HAND:
            door = door or "front"
            self.by_hand[door] = mode, self.now() + seconds
        elif mode == "release":
            self.ordered = {each for each in self.ordered if each[1] != door}
            self.by_hand.pop(door, None)
        else:
            self.ordered.add((mode, door))
        until = seconds if mode in BY_HAND else None
        self.play(self.club.order(mode, "door" if door else "site", door, until))
        self.wait(SETTLED_S)
        if reboot is not None:
            self.restarts(reboot, 0)

    @rule(reboot=st.booleans(), off_s=st.sampled_from([0, 40 * 60, 9 * 3600]))
    def restarts(self, reboot: bool, off_s: int) -> None:
        self.keep_timers()
        left = {door: until - self.now() for door, (_, until) in self.by_hand.items()}
        self.restart(reboot=reboot, off_s=off_s)
        if reboot:
            # A door unlocked by hand is locked again; what was left of anything else is left.
            self.by_hand = {
                door: (mode, left[door])
                for door, (mode, _) in self.by_hand.items()
                if mode != "unlocked"
            }
        self.wait(SETTLED_S)

    # --- What always holds ------------------------------------------------------------------------

    @invariant()
    def doors_stand_as_their_mode_says(self) -> None:
        while any(len({self.mode(door, ago) for ago in range(FOLLOWS_S)}) > 1 for door in DOORS):
            self.wait(FOLLOWS_S)
        for door in DOORS:
            mode = self.mode(door)
            assert self.seen(partial(self.club.mode, door)) == mode
            assert self.seen(partial(self.club.released, door)) == (
                mode in ("unlocked", "evacuation")
            )


Hours.TestCase.settings = settings(
    max_examples=60,
    stateful_step_count=25,
    suppress_health_check=[HealthCheck.too_slow],
)
TestHours = Hours.TestCase
