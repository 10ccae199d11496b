"""Unlock schedules of a whole site against the words of the specification: holidays, clock changes,
the first person in, modes over them, age of the records, time that nobody vouches for, restarts.
"""

from datetime import date, datetime, timedelta
from functools import cache, partial
from typing import Any
from zoneinfo import ZoneInfo

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, precondition, rule

from gateway.control.door import InForce
from tests.control.played import PlayedSite
from tests.control.site import MAYA, SAM, records
from tests.virtual import START

DOORS = ("front", "inner")
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
EVENINGS = ["2026-03-27T09:00Z", "2026-03-28T20:00Z", "2026-10-23T23:10Z", "2026-10-24T20:00Z"]
"""Before the Sundays on which London's clocks change."""
MAX_AGE_H = 30
SETTLED_S = 12
"""Modes are looked at every 2 s; after that any release, and a hold's last pulse, is over."""


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
        begins=st.sampled_from(EVENINGS), untrusted=st.sampled_from(["deny_timebound", "allow"])
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

    def wall(self) -> datetime:
        return self.seen(self.clock.now)

    def is_ordered(self, what: str, door: str) -> bool:
        return (what, "") in self.ordered or (what, door) in self.ordered

    def hand(self, door: str) -> str | None:
        mode, until = self.by_hand.get(door, ("", 0.0))
        return mode if self.now() < until else None

    def is_stale(self) -> bool:
        assert self.force.as_of is not None
        return self.wall() >= self.force.as_of + timedelta(hours=MAX_AGE_H)

    def holds(self, door: str) -> bool:
        """Whether the schedule has the door stand unlocked."""
        if not self.clock.trusted and self.strict:
            return False
        if door == "front":
            return is_open(self.wall()) and not self.is_stale()
        return self.first is not None and is_open_all_the_way(self.first, self.wall())

    def mode(self, door: str) -> str:
        for what in ("evacuation", "lockdown"):
            if self.is_ordered(what, door):
                return what
        return self.hand(door) or ("unlocked" if self.holds(door) else "controlled")

    def expected(self, who: str, door: str) -> str:
        if self.is_ordered("lockdown", door) and who != "sam":
            return "lockdown"
        if door == "front" and self.is_stale():
            return "entitlements_stale"
        return "door_blocked" if self.hand(door) == "blocked" else "group"

    # --- What happens -----------------------------------------------------------------------------

    @rule(who=st.sampled_from(sorted(CARDS)), door=st.sampled_from(DOORS))
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
        self.wait(8)
        self.doors_stand_as_their_mode_says()
        self.wait(SETTLED_S)

    @rule(seconds=st.sampled_from([1, 50, 130]))
    def time_passes(self, seconds: int) -> None:
        self.wait(seconds)

    @rule(minutes=st.sampled_from([20, 55, 7 * 60, 25 * 60]))
    def the_machine_sleeps(self, minutes: int) -> None:
        """Or its clock is set right: monotonic time doesn't notice."""
        self.clock.shift += timedelta(minutes=minutes)
        self.wait(SETTLED_S)

    @rule()
    def records_are_vouched_for(self) -> None:
        self.force = InForce(self.force.records, "r1", self.wall())
        self.club.force = self.force
        self.wait(SETTLED_S)

    @rule(trusted=st.booleans())
    def somebody_vouches_for_the_time_or_nobody(self, trusted: bool) -> None:
        self.clock.trusted = trusted
        self.wait(SETTLED_S)

    @rule(what=st.sampled_from(["lockdown", "evacuation"]), door=st.sampled_from(["", *DOORS]))
    def is_ordered_by_somebody(self, what: Any, door: str) -> None:
        self.play(self.club.order(what, "door" if door else "site", door))
        self.ordered.add((what, door))
        self.wait(SETTLED_S)

    @precondition(lambda self: self.ordered or self.by_hand)
    @rule()
    def everything_is_released(self) -> None:
        for door in ("", *DOORS):
            self.play(self.club.order("release", "door" if door else "site", door))
        self.ordered.clear()
        self.by_hand.clear()
        self.wait(SETTLED_S)

    @rule(
        mode=st.sampled_from(["controlled", "unlocked", "blocked"]),
        door=st.sampled_from(DOORS),
        seconds=st.sampled_from([20, 600]),
    )
    def is_set_by_hand(self, mode: Any, door: str, seconds: int) -> None:
        self.by_hand[door] = mode, self.now() + seconds
        self.play(self.club.order(mode, "door", door, seconds))
        self.wait(SETTLED_S)

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
        if any(0 <= self.now() - until < SETTLED_S for _, until in self.by_hand.values()):
            self.wait(SETTLED_S)
        for door in DOORS:
            mode = self.mode(door)
            assert self.seen(partial(self.club.mode, door)) == mode
            assert self.seen(partial(self.club.released, door)) == (
                mode in ("unlocked", "evacuation")
            )


Hours.TestCase.settings = settings(
    max_examples=25,
    stateful_step_count=25,
    suppress_health_check=[HealthCheck.too_slow],
)
TestHours = Hours.TestCase
