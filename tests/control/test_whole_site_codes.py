"""What is entered at the keypads of a whole site against plain models: PINs before and after cards,
duress, lockouts of doors and holders, break-glass codes, limited uses; over clock steps, restarts
and power cuts.
"""

import copy
from collections.abc import Mapping
from datetime import timedelta
from functools import cache
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import invariant, precondition, rule

from gateway.control.door import CardTapped, InForce
from gateway.domain import events
from gateway.domain.break_glass import Role, code
from gateway.domain.entitlements import NO_RECORDS
from gateway.domain.memory import PinRow, Remembered
from gateway.domain.pin_lockout import standing
from gateway.domain.signal import Signal
from tests.control.played import PlayedSite
from tests.control.site import MAYA, SAM, records
from tests.control.test_door import Paper, Ticket

DOORS = ("front", "inner")
HOUR_S, DAY_S = 3600, 24 * 3600


class Card(NamedTuple):
    holder: str
    uses: int | None = None


class Pin(NamedTuple):
    holder: str
    duress: bool = False
    uses: int | None = None


THRICE, NOBODYS, NO_CODE = "04DD0001", "0000", "00000000"
CARDS = {SAM: Card("sam"), MAYA: Card("maya"), THRICE: Card("maya", uses=3)}
PINS = {
    "2468": Pin("sam"),
    "8642": Pin("sam", duress=True),
    "1357": Pin("maya"),
    "7531": Pin("maya", duress=True),
    "5555": Pin("maya", uses=2),
}
SECRETS = {
    "warden": (b"12345678901234567890",),
    "pair": (b"the one person's key", b"the other person's.."),
}
ROLE_DOORS = {"warden": {"front"}, "pair": {"front", "inner"}}
ROLE_HOURS = {"warden": 2, "pair": 8}
LOOK_AHEAD = 20
HOLDER_ROW, HOLDER_LOCKOUT_S = 10, DAY_S
DOOR_ROW, DOOR_LOCKOUT_S, DOOR_LOCKOUT_S_MAX = 5, 30, 900
FORGETS_S = DOOR_LOCKOUT_S_MAX / DOOR_ROW
PIN_WAIT_S = 20
SPEND_WAIT_S = 0.9

SHOWN = {
    "group": Signal.GRANTED,
    "opened": Signal.GRANTED,
    "pin_required": Signal.PIN_WANTED,
    "held": Signal.PIN_WANTED,
    "second_required": Signal.PIN_WANTED,
}
"""Anything else is a plain denial."""


@cache
def site_records() -> Any:
    more: list[dict[str, Any]] = [
        {"type": "credential", "id": "c-thrice", "holder": "maya", "kind": "uid", "value": THRICE,
         "max_uses": 3},
        {"type": "credential", "id": "p-maya-duress", "holder": "maya", "kind": "pin",
         "value": "7531", "duress": True},
        {"type": "credential", "id": "p-twice", "holder": "maya", "kind": "pin", "value": "5555",
         "max_uses": 2},
    ]  # fmt: skip
    doors: dict[str, dict[str, Any]] = {
        "front": {"pin_alone": True},
        "inner": {"second_factor_schedule": "24x7"},
    }
    return records(doors, more)


class Model:
    """What the documents say of all that is entered; `now` is monotonic, in seconds."""

    def __init__(self) -> None:
        self.until: dict[str, float] = {}
        """When each lockout and each role's hours end."""
        self.written: dict[str, float] = {}
        """What of it was left when it was last written down."""
        self.wrong: dict[str, int] = {}
        """In a row after each holder's card."""
        self.forgotten: dict[str, list[float]] = {door: [] for door in DOORS}
        """When a door forgets each of its wrong PINs."""
        self.written_at: dict[str, float] = {}
        """When what is remembered of a door was last written down."""
        self.rewritten: set[str] = set()
        """Doors of which it is to be written again: their lockout ran when it last was, or the site
        has started.
        """
        self.lockouts: dict[str, int] = {}
        self.used: dict[str, int] = {}
        self.next_code: dict[tuple[str, int], int] = {}
        self.first: dict[tuple[str, str], tuple[int, float]] = {}
        """Who of a quorum entered a code at a door, and until when the other is waited for."""
        self.waiting: tuple[str, float] | None = None
        """The card at `inner` that waits for its PIN, or"""
        self.held: tuple[str, float] | None = None
        """the PIN that waits for its card."""
        self.duress: list[str] = []
        self.lost = False
        """There are no records."""

    def runs(self, key: str, now: float) -> bool:
        return now < self.until.get(key, now)

    def begin(self, key: str, seconds: float, now: float) -> None:
        self.until[key], self.written[key] = now + seconds, seconds

    # --- Cards and PINs ---------------------------------------------------------------------------

    def card(self, door: str, value: str, now: float) -> list[str]:
        if self.lost:
            told = self.nobody_came(now) if door == "inner" else []
            self.waiting = None if door == "inner" else self.waiting
            return [*told, "unknown_door"]
        if door == "front":
            return [self.grant(value)]
        held, self.held = self.held, None
        if held is not None and now < held[1]:
            return [self.both(value, held[0], now)]
        self.waiting = value, now + PIN_WAIT_S
        return ["pin_required"]

    def pin(self, door: str, value: str, now: float) -> list[str]:
        if door == "front":
            return [self.alone(door, value, now)]
        if self.waiting is not None and now < self.waiting[1]:
            card, self.waiting = self.waiting[0], None
            return [self.both(card, value, now)]
        told = self.nobody_came(now)
        if self.lost or self.runs(door, now):
            return [*told, self.alone(door, value, now)]
        self.held = value, now + PIN_WAIT_S
        return [*told, "held"]

    def nobody_came(self, now: float) -> list[str]:
        """The PIN that waits is decided by itself."""
        if self.held is None:
            return []
        value, self.held = self.held[0], None
        return [self.alone("inner", value, now)]

    def alone(self, door: str, value: str, now: float) -> str:
        if self.lost:
            if len(value) == 8 and not self.runs(door, now):
                self.missed(door, now)  # it may have been meant for a code
            return "unknown_door"
        pin = PINS.get(value)
        holder = None if pin is None else pin.holder
        return self.judged(door, holder, pin, value, now)

    def both(self, card: str, value: str, now: float) -> str:
        if self.lost:
            return "unknown_door"
        holder, pin = CARDS[card].holder, PINS.get(value)
        mine = pin if pin is not None and pin.holder == holder else None
        return self.judged("inner", holder, mine, value, now, card)

    def judged(
        self, door: str, holder: str | None, pin: Pin | None, value: str, now: float, card: str = ""
    ) -> str:
        refused = door == "inner" and not card
        reason = "pin_locked_out"
        if not self.runs(door, now) and not self.runs(holder or "", now):
            if pin is None:
                reason = "wrong_pin" if card else "unknown_credential"
                self.missed(door, now)
                if card and holder is not None:
                    self.row(holder, HOLDER_ROW, HOLDER_LOCKOUT_S, now)
            elif refused:
                reason = "pin_not_accepted"
            else:
                for kept in (self.wrong, self.lockouts, self.until):
                    kept.pop(pin.holder, None)
                if not self.doublings(door, now) and now >= max(self.forgotten[door], default=now):
                    self.forgotten[door] = []  # for good: no reboot counts it again
                    self.lockouts.pop(door, None)
                    self.until.pop(door, None)
                reason = self.grant(card, value)
        if pin is not None and pin.duress:
            self.duress.append("grant" if reason == "group" else "deny")
        return reason

    def grant(self, *values: str) -> str:
        found = [(each, (CARDS.get(each) or PINS[each]).uses) for each in values if each]
        limited = {value: uses for value, uses in found if uses is not None}
        if any(self.used.get(value, 0) >= uses for value, uses in limited.items()):
            return "uses_exhausted"
        for value in limited:
            self.used[value] = self.used.get(value, 0) + 1
        return "group"

    def missed(self, door: str, now: float) -> None:
        # One after the other: each is forgotten so long after it came, or after the one before it.
        remembered = [then for then in self.forgotten[door] if then > now]
        remembered.append(max(now, *remembered, now) + FORGETS_S)
        self.forgotten[door] = remembered
        self.rewritten.discard(door)
        self.is_written(door, now)
        if len(remembered) == DOOR_ROW:
            doublings = self.doublings(door, now)
            self.forgotten[door] = []
            self.lockouts[door] = doublings + 1
            self.begin(door, min(DOOR_LOCKOUT_S * 2**doublings, DOOR_LOCKOUT_S_MAX), now)
            self.rewritten.add(door)

    def is_written(self, door: str, now: float) -> None:
        self.written_at[door] = now
        if door in self.until:
            self.written[door] = self.until[door] - now

    def doublings(self, door: str, now: float) -> int:
        """One less for each hour since the last lockout."""
        quiet_hours = max(0.0, now - self.until.get(door, now)) // HOUR_S
        return max(0, self.lockouts.get(door, 0) - int(quiet_hours))

    def row(self, key: str, at_most: int, lockout_s: float, now: float) -> None:
        self.until.pop(key, None)
        self.wrong[key] = self.wrong.get(key, 0) + 1
        if self.wrong[key] == at_most:
            self.wrong[key] = 0
            self.lockouts[key] = self.lockouts.get(key, 0) + 1
            self.begin(key, lockout_s, now)

    # --- Break-glass ------------------------------------------------------------------------------

    def glass(self, door: str, role: str, person: int, number: int, now: float) -> list[str]:
        """The `number`-th code of one person's secret is entered."""
        expected = self.next_code.get((role, person), 0)
        good = expected <= number < expected + LOOK_AHEAD
        if self.runs(door, now) or door not in ROLE_DOORS[role] or not good:
            return self.pin(door, code(SECRETS[role][person], number), now)
        self.next_code[role, person] = number + 1
        if role in self.until and not self.runs(role, now):
            return ["over"]
        if role == "pair":
            other, until = self.first.get((role, door), (person, 0.0))
            if other == person or now >= until:
                self.first[role, door] = person, now + 60
                return ["second_required"]
            del self.first[role, door]
        if role not in self.until:
            self.begin(role, ROLE_HOURS[role] * HOUR_S, now)
        return ["opened"]

    # --- Time -------------------------------------------------------------------------------------

    def timers_are_kept(self, now: float) -> None:
        for door in self.rewritten:
            self.is_written(door, now)
        self.rewritten = {door for door in DOORS if self.runs(door, now)}
        for key in self.until.keys() - set(DOORS):
            self.written[key] = self.until[key] - now

    def restarted(self) -> None:
        self.waiting = self.held = None
        self.rewritten.update(door for door in DOORS if door in self.written_at)

    def rebooted(self) -> None:
        """The new boot's clock begins at nought."""
        for door, then in self.forgotten.items():
            self.forgotten[door] = [each - self.written_at[door] for each in then]
        self.written_at = dict.fromkeys(self.written_at, 0.0)
        self.until = {key: self.written[key] for key in self.until}
        self.first.clear()


class Disk(Paper):
    """Paper that a power cut takes the last lines from."""

    def __init__(self) -> None:
        super().__init__()
        self.safe: dict[str, bytes] = {}
        self.coming: list[Ticket] = []

    def append(
        self, event: events.Event, state: Mapping[str, bytes | None] = MappingProxyType({}), /
    ) -> Ticket:
        safe, coming = self.safe, self.coming
        ticket = super().append(event, state)
        self.safe, self.coming, then = safe, [*coming, ticket], dict(self.state)

        def is_there(_: Any) -> None:
            if ticket in self.coming:
                self.coming.remove(ticket)
                self.safe = then

        ticket.committed.add_done_callback(is_there)
        return ticket

    def keep(self, state: Mapping[str, bytes | None]) -> None:
        super().keep(state)
        self.safe, self.coming = dict(self.state), []

    def is_cut(self) -> None:
        self.state, self.coming = dict(self.safe), []


class Codes(PlayedSite):
    """`front` takes a PIN alone, `inner` a card and a PIN in either order."""

    options: ClassVar[dict[str, Any]] = {
        "break_glass": tuple(
            Role(name, frozenset(ROLE_DOORS[name]), SECRETS[name],
                 timedelta(hours=ROLE_HOURS[name]), len(SECRETS[name]))
            for name in SECRETS
        )
    }  # fmt: skip

    def __init__(self) -> None:
        super().__init__()
        self.paper: Disk = Disk()
        self.model = Model()
        self.began = 0
        self.begin(site_records())

    def enters(self, door: str, value: str, expected: list[str]) -> None:
        """Present something, and see that all that comes of it is what was expected."""
        front, before = self.club.fronts[door], len(self.paper.events)
        pulses, shown = len(front.pulses), len(front.shown)
        self.presents(door, value)
        self.passes(0.06)
        here = [e for e in self.paper.events[before:] if getattr(e, "door", "") == door]
        told = list(map(came_of, here))
        assert [each for each in told if each] == [each for each in expected if each != "held"]
        opened = [each for each in expected if SHOWN.get(each) is Signal.GRANTED]
        assert front.pulses[pulses:] == [5.0] * len(opened)
        assert front.shown[shown:] == [SHOWN.get(each, Signal.DENIED) for each in expected]

    def presents(self, door: str, value: str) -> None:
        kind = "uid" if value in CARDS else "pin"
        tap = CardTapped("keypad", "in", kind, value, timedelta(seconds=self.now()))
        self.seen(lambda: self.club.doors[door].tap(tap))

    def passes(self, seconds: float) -> None:
        """A PIN that no card came for is decided when its time is over."""
        held = self.model.held
        if held is not None and self.now() + seconds >= held[1]:
            self.model.nobody_came(held[1])
        self.wait(seconds)

    # --- What happens -----------------------------------------------------------------------------

    @rule(door=st.sampled_from(DOORS), card=st.sampled_from(sorted(CARDS)))
    def a_card_is_tapped(self, door: str, card: str) -> None:
        self.enters(door, card, self.model.card(door, card, self.now()))

    @rule(door=st.sampled_from(DOORS), pin=st.sampled_from([*PINS, NOBODYS, NO_CODE]))
    def a_pin_is_entered(self, door: str, pin: str) -> None:
        self.enters(door, pin, self.model.pin(door, pin, self.now()))

    @rule(card=st.sampled_from(sorted(CARDS)), pin=st.sampled_from(sorted(PINS)))
    def a_card_and_a_pin(self, card: str, pin: str) -> None:
        self.a_card_is_tapped("inner", card)
        self.a_pin_is_entered("inner", pin)

    @rule(times=st.sampled_from([1, 4, 5, 10, 35]), card=st.sampled_from(["", SAM, MAYA]))
    def somebody_keeps_guessing(self, times: int, card: str) -> None:
        """Whatever the door says, and as soon as it may be of use."""
        door, pin = ("inner", NOBODYS) if card else ("front", NO_CODE)
        for _ in range(times):
            if self.model.runs(door, self.now()):
                self.passes(self.model.until[door] - self.now() + 0.1)
            if card and self.model.held is None:
                self.a_card_is_tapped(door, card)
            self.a_pin_is_entered(door, pin)
        if not card:
            self.a_pin_is_entered(door, pin)

    @rule(
        door=st.sampled_from(DOORS),
        who=st.sampled_from([("warden", 0), ("pair", 0), ("pair", 1)]),
        ahead=st.sampled_from([-1, 0, 0, 0, 2, LOOK_AHEAD - 1, LOOK_AHEAD]),
    )
    def the_glass_is_broken(self, door: str, who: tuple[str, int], ahead: int) -> None:
        number = max(0, self.model.next_code.get(who, 0) + ahead)
        expected = self.model.glass(door, *who, number, self.now())
        self.enters(door, code(SECRETS[who[0]][who[1]], number), expected)

    @rule(doors=st.sampled_from([DOORS, ("front", "front")]), people=st.permutations([0, 1]))
    def two_break_the_glass(self, doors: tuple[str, str], people: list[int]) -> None:
        for door, person in zip(doors, people, strict=True):
            self.the_glass_is_broken(door, ("pair", person), 0)

    @rule(seconds=st.sampled_from([1, 19, 31, 61, 1000, HOUR_S, 8 * HOUR_S, DAY_S]))
    def time_passes(self, seconds: int) -> None:
        self.passes(seconds)

    @rule(key=st.sampled_from([*DOORS, "sam", "maya", *SECRETS]))
    def time_is_nearly_over_and_then_over(self, key: str) -> None:
        """Of a lockout, or of a role's hours."""
        if not self.model.runs(key, self.now()):
            return
        self.passes(self.model.until[key] - self.now() - 1)
        for _ in range(2):
            if key in SECRETS:
                self.the_glass_is_broken("front", (key, 0), 0)
            else:
                door, card = ("front", MAYA) if key == "front" else ("inner", MAYA)
                self.a_card_is_tapped(door, SAM if key == "sam" else card)
                self.a_pin_is_entered(door, "2468" if key == "sam" else "1357")
            self.passes(1)

    @rule(days=st.sampled_from([-400, 0, 3650]))
    def the_clock_is_set(self, days: int) -> None:
        self.clock.shift = timedelta(days=days)

    @rule(lost=st.booleans())
    def there_are_no_records(self, lost: bool) -> None:
        self.force = InForce(NO_RECORDS if lost else site_records(), None, None)
        self.club.force = self.force
        self.model.lost = lost

    @precondition(lambda self: not self.model.lost)
    @rule(who=st.sampled_from(["sam", "maya"]))
    def somebody_is_forgiven(self, who: str) -> None:
        self.play(self.club.orders.forgive(who, by="uid 0", why="test"))
        for each in (self.model.until, self.model.wrong, self.model.lockouts):
            each.pop(who, None)

    @rule(role=st.sampled_from(sorted(SECRETS)))
    def a_roles_hours_are_renewed(self, role: str) -> None:
        self.play(self.club.orders.forgive(None, None, role, by="uid 0", why="test"))
        self.model.until.pop(role, None)

    @rule(reboot=st.booleans(), kept=st.booleans(), off_s=st.sampled_from([0, 50, 9 * HOUR_S]))
    def restarts(self, reboot: bool, kept: bool, off_s: int) -> None:
        if kept:
            self.keep_timers()
            self.model.timers_are_kept(self.now())
        self.restarts_now(reboot, off_s)

    def restarts_now(self, reboot: bool, off_s: float = 0) -> None:
        self.restart(reboot=reboot, off_s=off_s)
        self.model.restarted()
        if reboot:
            self.model.rebooted()
        self.model.timers_are_kept(self.now())

    @rule(
        what=st.sampled_from([THRICE, "5555", "warden", "pair"]),
        disk_s=st.sampled_from([0.02, 0.4, 1.5]),
        after_s=st.sampled_from([0.1, 2.0, 0.6]),
        reboot=st.booleans(),
    )
    def the_power_is_cut(self, what: str, disk_s: float, after_s: float, reboot: bool) -> None:
        """Just after something was presented that is spent, before or after it is on disk."""
        if self.model.held is not None:
            self.passes(PIN_WAIT_S)
        before, told = copy.deepcopy(self.model), len(self.paper.events)
        front = self.club.fronts["front"]
        pulses = len(front.pulses)
        value, now = what, self.now()
        if what in SECRETS:
            number = self.model.next_code.get((what, 0), 0)
            value = code(SECRETS[what][0], number)
            expected = self.model.glass("front", what, 0, number, now)
        elif what in CARDS:
            expected = self.model.card("front", what, now)
        else:
            expected = self.model.pin("front", what, now)
        self.paper.disk_s = disk_s
        self.presents("front", value)
        self.passes(after_s)
        assert [each for each in map(came_of, self.paper.events[told:]) if each] == expected
        spends = SHOWN.get(expected[0]) is Signal.GRANTED
        opens = spends and disk_s <= SPEND_WAIT_S and disk_s < after_s
        assert len(front.pulses) - pulses == opens
        self.paper.disk_s = 0.0
        self.paper.is_cut()
        if after_s < disk_s:
            assert not opens
            self.model = before
        self.restarts_now(reboot)

    # --- What always holds ------------------------------------------------------------------------

    @invariant()
    def every_duress_is_told_and_comes_first(self) -> None:
        told = [e for e in self.paper.events if isinstance(e, events.Duress)]
        assert [e.outcome for e in told] == self.model.duress
        assert all(e.priority == events.Priority.EMERGENCY for e in told)

    @invariant()
    def what_is_remembered_is_what_the_model_says(self) -> None:
        recalled, model = self.club.memory.get, self.model
        for key in (*DOORS, "sam", "maya"):
            row = recalled(f"pin/{'door' if key in DOORS else 'holder'}/{key}") or PinRow()
            assert isinstance(row, PinRow)
            if key in DOORS:
                now = self.now()
                row = standing(row, self.club.force.records.tables.policy, timedelta(seconds=now))
                remembered = [then for then in model.forgotten[key] if then > now]
                assert row.failures == len(remembered), (key, now, row, remembered)
                assert row.lockouts == model.doublings(key, now)
            else:
                assert row.failures == model.wrong.get(key, 0)
                assert row.lockouts == model.lockouts.get(key, 0)
            self.ends_as_the_model_says(key, row)
        for role, secrets in SECRETS.items():
            self.ends_as_the_model_says(role, recalled(f"break_glass/{role}/window"))
            for person in range(len(secrets)):
                counter = recalled(f"break_glass/{role}/{person + 1}")
                assert getattr(counter, "next", 0) == model.next_code.get((role, person), 0)

    def ends_as_the_model_says(self, key: str, value: Remembered | None) -> None:
        until = getattr(value, "until", None) or timedelta()
        left, expected = (
            until.total_seconds() - self.now(),
            self.model.until.get(key, 0) - self.now(),
        )
        assert abs(max(0, left) - max(0, expected)) < 0.01


def came_of(event: events.Event) -> str | None:
    if isinstance(event, events.AccessDecided):
        return event.reason
    return event.outcome if isinstance(event, events.BreakGlass) else None


Codes.TestCase.settings = settings(
    max_examples=100,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
TestCodes = Codes.TestCase
