"""Seeded random sites, requests and broken record sets that press on the specification's edges."""

import copy
import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any

from tests.reference.decider import (
    DAY_MS,
    EPOCH,
    HOUR_MS,
    LAST_MS,
    MINUTE_MS,
    SEARCH_MS,
    WEEKDAYS,
    date_text,
    instant_ms,
    instant_text,
    offset_ms,
    wall_clock,
    wall_ms,
    weekday,
)
from tests.reference.faults import CATEGORIES, CREDENTIAL_VALUES, PERSONAS, is_name

Record = dict[str, Any]

ZONES = (
    "Europe/London",
    "Europe/Dublin",  # summer time is its standard time
    "Europe/Sofia",
    "Africa/Casablanca",  # clock changes around Ramadan
    "Africa/Cairo",  # changes at midnight
    "America/New_York",
    "America/St_Johns",  # half-hour offset
    "America/Havana",
    "America/Santiago",  # changes at midnight, southern
    "Asia/Beirut",
    "Asia/Kathmandu",  # 5:45
    "Asia/Kolkata",
    "Asia/Tokyo",
    "Australia/Lord_Howe",  # half-hour summer time
    "Pacific/Chatham",  # 12:45 and 13:45
    "Pacific/Apia",
    "Pacific/Kiritimati",  # 14:00
    "Pacific/Marquesas",
    "Antarctica/Troll",  # two-hour summer time
    "UTC",
    "Etc/GMT+12",
)
# Odd moments: a zone and a year in which it changed its clock in a way that no rule foretells.
ODD_CHANGES = (
    ("Africa/Monrovia", 1972),  # from an offset with odd seconds
    ("Pacific/Apia", 2011),  # a date that was skipped
    ("Asia/Pyongyang", 2018),
    ("America/Caracas", 2016),
    ("Europe/Volgograd", 2018),
    ("Europe/Dublin", 1971),
)
OFFSETS = ("+00:00", "-00:00", "+01:00", "+05:30", "+12:45", "-03:30", "-11:00", "+14:00", "-23:59")
ALL_STEMS = ("a", "A", "b", "B", "é", "É", "ß", "z", "Z", "_", "9", "10", "～", "🚪", "ı", "I")
UTF_16_STEMS = ("～", "🚪", "ﬁ", "𐐀")  # whose order is another in UTF-16
COMPOSED_STEMS = ("é", "e\u0301", "f", "e")  # whose order is another once composed
KINDS = tuple(CREDENTIAL_VALUES)


@lru_cache(maxsize=500)
def clock_changes(zone: str, year: int) -> tuple[int, ...]:
    """The instants of a year at which a zone's offset changes, to the second."""
    start = (datetime(year, 1, 1, tzinfo=UTC) - EPOCH) // timedelta(milliseconds=1)
    found = []
    for at in range(start, start + 366 * DAY_MS, DAY_MS // 2):
        low, high = at, at + DAY_MS // 2
        if high > LAST_MS or offset_ms(zone, low) == offset_ms(zone, high):
            continue
        while high - low > 1000:
            middle = low + (high - low) // 2000 * 1000
            if offset_ms(zone, middle) == offset_ms(zone, low):
                low = middle
            else:
                high = middle
        found.append(high)
    return tuple(found)


class Maker:
    """What one seed makes: the parts of a site, all near one moment."""

    def __init__(self, seed: int) -> None:
        self.edges_of: dict[str, list[int]] = {}
        self.rng = rng = random.Random(seed)
        self.zone = rng.choice(ZONES)
        era = rng.random()
        if era < 0.7:
            moments = clock_changes(self.zone, rng.randint(2020, 2037))
        elif era < 0.8:
            self.zone, year = rng.choice(ODD_CHANGES)
            moments = clock_changes(self.zone, year)
        elif era < 0.88:
            moments = (LAST_MS - rng.randint(0, 3 * DAY_MS),)
        elif era < 0.92:
            self.zone = rng.choice(("Africa/Monrovia", *ZONES))
            moments = (rng.randint(0, 3 * DAY_MS),)
        else:
            moments = ()
        year_2100 = instant_ms("2100-01-01T00:00:00Z")
        self.changes = moments
        self.base = rng.choice(moments) if moments else rng.randrange(0, year_2100, HOUR_MS)
        self.records: list[Record] = []
        self.stems = rng.choice((ALL_STEMS, ALL_STEMS, ALL_STEMS, UTF_16_STEMS, COMPOSED_STEMS))
        self.taken: list[int] = []  # instants that a record already has

    # --- instants ---

    def chance(self, likely: float) -> bool:
        return self.rng.random() < likely

    def near(self, days: float = 9) -> int:
        """An instant near the site's moment, often where something else already is."""
        rng = self.rng
        kind = rng.random()
        if kind < 0.25 and self.taken:
            at = rng.choice(self.taken)
        elif kind < 0.4:
            at = self.base
        else:
            at = self.base + round(rng.gauss(0, days / 2) * DAY_MS)
            at -= at % rng.choice((1, 1000, MINUTE_MS, 15 * MINUTE_MS, HOUR_MS, HOUR_MS))
        at += rng.choice((0, 0, 0, 0, 0, 0, 1, -1, 500, HOUR_MS, -HOUR_MS))
        at = min(max(at, 0), LAST_MS)
        self.taken.append(at)
        return at

    def spell(self, at: int) -> str:
        """One of the many ways to write an instant."""
        rng = self.rng
        if rng.random() < 0.5:
            return instant_text(at)
        offset = rng.choice(OFFSETS)
        sign = -1 if offset[0] == "-" else 1
        local = at + sign * wall_ms(offset[1:])
        if local > LAST_MS:
            return instant_text(at)
        text = (EPOCH + timedelta(milliseconds=local)).strftime("%Y-%m-%dT%H:%M:%S")
        fraction = f".{local % 1000:03d}"
        if fraction == ".000" and rng.random() < 0.8:
            fraction = ""
        elif rng.random() < 0.5:
            fraction = fraction.rstrip("0") if fraction != ".000" else ".0"
        return f"{text}{fraction}{offset}"

    def instant(self, days: float = 9) -> str:
        return self.spell(self.near(days))

    # --- small values ---

    def ids(self, letter: str, count: int) -> list[str]:
        """Ids of one type; other types may have the same ones, and many are equal but for case."""
        made: list[str] = []
        while len(made) < count:
            form = self.rng.random()
            if form < (0.45 if self.stems is ALL_STEMS else 0.1):
                new = f"{self.rng.choice((letter, letter.upper()))}{self.rng.randint(0, count)}"
            elif form < 0.9:
                new = self.rng.choice(self.stems) + self.rng.choice(("", "", "1", " | X", "\u2028"))
            else:
                new = self.rng.choice(self.stems) + self.rng.choice(self.stems)
            if new not in made:
                made.append(new)
        return made

    def some(self, items: list[str], most: int, none: float = 0.2) -> list[str]:
        """Some of the items, perhaps none, perhaps one twice."""
        if not items or self.chance(none):
            return []
        return [self.rng.choice(items) for _ in range(self.rng.randint(1, most))]

    def maybe(self, record: Record, member: str, make: Callable[[], Any], likely: float) -> None:
        if self.chance(likely):
            record[member] = make()

    def optional(
        self, record: Record, member: str, make: Callable[[], Any], likely: float = 0.15
    ) -> None:
        """A member marked `?`: absent, null or there."""
        if self.chance(likely):
            record[member] = make()
        elif self.chance(0.1):
            record[member] = None

    def add(self, type_: str, key: str, **members: Any) -> Record:
        record = {"type": type_, "id": key, **members}
        self.records.append(record)
        return record

    def interval(self) -> list[str]:
        rng = self.rng

        def wall() -> str:
            if self.chance(0.45):  # where the clock changes
                minutes = wall_clock(self.zone, self.base)[1] // MINUTE_MS
                minutes = (minutes + rng.choice((-90, -60, -30, -1, 0, 1, 29, 30, 31, 60))) % 1440
            else:
                minutes = rng.randrange(0, 1440, rng.choice((1, 15, 60)))
            return f"{minutes // 60:02d}:{minutes % 60:02d}"

        form = rng.random()
        if form < 0.1:
            return ["00:00", "24:00"]
        start, end = wall(), wall()
        if form < 0.3:
            start, end = max(start, end), min(start, end)  # past midnight
        elif form < 0.4:
            end = "24:00"
        elif form < 0.45:
            end = "00:00"
        elif form < 0.5:
            start = "00:00"
        return [start, end] if start != end else ["09:00", "18:00"]

    def intervals(self) -> list[list[str]]:
        return [self.interval() for _ in range(self.rng.choice((0, 1, 1, 1, 2, 3)))]

    def value(self, kind: str) -> str:
        rng = self.rng

        def upper_hex(digits: int) -> str:
            return "".join(rng.choice("0123456789ABCDEF") for _ in range(digits))

        if kind == "uid":
            return upper_hex(rng.choice((8, 14, 20)))
        if kind == "wiegand":
            facility = rng.choice(("-", "0", str(rng.randint(1, 255))))
            return f"{rng.choice(('H10301', 'h10301', '26'))}:{facility}:{rng.randint(0, 65535)}"
        if kind == "desfire":
            return f"{upper_hex(6)}:{upper_hex(2 * rng.choice((1, 4, 32)))}"
        if kind == "sun":
            return "04" + upper_hex(12)
        if kind == "pkoc":
            return "04" + upper_hex(128)
        if kind == "pin":
            return "".join(rng.choice("0123456789") for _ in range(rng.randint(4, 8)))
        return "Q~" + "".join(rng.choice('!#%09AZaz\\"{}') for _ in range(rng.choice((6, 20, 126))))

    # --- the records ---

    def make_policy(self) -> None:
        rng = self.rng
        policy = self.add("policy", "policy")

        def personas() -> list[str]:
            return self.some(list(PERSONAS), 3)

        self.maybe(policy, "booking_before_min", lambda: rng.choice((0, 1, 15, 60, 1440)), 0.5)
        self.maybe(policy, "booking_after_min", lambda: rng.choice((0, 1, 5, 60, 1440)), 0.5)
        self.maybe(policy, "grace_hours", lambda: rng.choice((0, 1, 24, 72, 720)), 0.5)
        self.maybe(policy, "lockdown_exempt_personas", personas, 0.5)
        self.maybe(
            policy,
            "untrusted_clock",
            lambda: rng.choice(("deny_timebound", "deny_timebound", "allow")),
            0.6,
        )
        self.maybe(
            policy,
            "max_age_h",
            lambda: {
                category: rng.choice((1, 4, 24, 336, 337, 8760))
                for category in CATEGORIES
                if self.chance(0.4)
            },
            0.8,
        )
        self.maybe(policy, "max_age_exempt_personas", personas, 0.4)
        self.maybe(policy, "pin_max_attempts", lambda: rng.randint(1, 10), 0.2)
        self.maybe(policy, "pin_lockout_s", lambda: rng.randint(10, 900), 0.2)
        self.maybe(policy, "journal_retention_days", lambda: rng.randint(1, 3650), 0.2)

    def make_calendars(self) -> None:
        today = wall_clock(self.zone, self.base)[0]
        for key in self.calendars:
            days = {today + self.rng.randint(-12, 12) for _ in range(self.rng.randint(0, 6))}
            days |= {today + self.rng.randint(-1, 1)} if self.chance(0.5) else set()
            dates = {date_text(day): self.rng.choice(("Holiday", "", "Día")) for day in days}
            dates.pop("", None)  # a date after 9999 has no name
            self.add("calendar", key, dates=dates)

    def make_schedules(self) -> None:
        rng = self.rng
        for key in self.schedules:
            likely = rng.choice((0.4, 0.7, 1))
            weekly = {day: self.intervals() for day in WEEKDAYS if self.chance(likely)}
            schedule = self.add("schedule", key, weekly=weekly)

            def holidays() -> list[Record]:
                return [
                    {"calendar": calendar, "intervals": self.intervals()}
                    for calendar in self.some(self.calendars, 4, none=0.1)
                ]

            self.optional(schedule, "holidays", holidays, 0.6)
            self.optional(schedule, "timezone", lambda: rng.choice((*ZONES, self.zone)), 0.35)

    def make_doors(self) -> None:
        rng = self.rng
        schedules = [*self.schedules, "24x7"]
        for key in self.doors:
            door = self.add(
                "door", key, from_zone=rng.choice(self.zones), to_zone=rng.choice(self.zones)
            )
            self.maybe(door, "egress", lambda: self.chance(0.4), 0.5)
            self.maybe(door, "pin_alone", lambda: self.chance(0.8), 0.6)
            self.optional(door, "second_factor_schedule", lambda: rng.choice(schedules), 0.55)
            self.optional(door, "unlock_schedule", lambda: rng.choice(schedules))
            self.maybe(door, "unlock_after_first", lambda: self.chance(0.5), 0.1)
            self.maybe(door, "criticality", lambda: rng.choice(("high", "medium", "low")), 0.2)
            self.optional(door, "name", lambda: rng.choice(("Front", "", "Türe")))
            self.maybe(door, "unlock_s", lambda: rng.choice((1, 5, 60)), 0.1)
            self.maybe(door, "extended_unlock_s", lambda: rng.choice((1, 15, 180)), 0.1)
            self.maybe(door, "held_open_s", lambda: rng.choice((5, 30, 3600)), 0.1)
            self.maybe(door, "antipassback", lambda: rng.choice(("off", "soft", "hard")), 0.1)
            self.maybe(door, "two_person", lambda: self.chance(0.5), 0.1)
            self.optional(door, "interlock", lambda: rng.choice(("lock", "Lock")), 0.1)
            self.optional(door, "max_occupancy", lambda: rng.choice((1, 100_000)), 0.1)

    def make_groups(self) -> None:
        rng = self.rng
        kinds = ["24x7", "timebound", "timebound", *self.schedules * 3]
        for key in self.groups:
            self.add(
                "group",
                key,
                zones=self.some(self.zones, 2, none=0.5),
                doors=self.some(self.doors, 3),
                schedule=rng.choice(kinds),
            )

    def make_holders(self) -> None:
        rng = self.rng
        grace_h = next(r for r in self.records if r["type"] == "policy").get("grace_hours", 72)

        def delinquent() -> str:
            back = rng.choice((grace_h, grace_h, 0)) * HOUR_MS
            return self.spell(max(0, self.near() - back))

        for key in self.holders:
            status = "active"
            if self.chance(0.12):
                status = rng.choice(("pending", "suspended", "ended"))
            holder = self.add(
                "holder",
                key,
                persona=rng.choice(PERSONAS),
                status=status,
                groups=self.some(self.groups, 5),
            )
            self.optional(holder, "valid_from", self.instant, 0.1)
            self.optional(holder, "valid_until", self.instant, 0.1)
            if holder.get("valid_until") is not None and self.chance(0.3):
                holder["status"] = "ended"
            self.optional(holder, "delinquent_since", delinquent)
            self.maybe(holder, "extended_unlock", lambda: self.chance(0.5), 0.1)
            self.optional(holder, "name", lambda: rng.choice(("", "Ann", "Zoë")))

    def make_credentials(self) -> None:
        rng = self.rng
        wanted = []
        for holder in self.holders:
            kinds = [rng.choice(KINDS) for _ in range(rng.randint(0, 3))]
            kinds += ["pin"] * rng.choice((0, 1, 1, 2, 3))
            wanted += [(holder, kind, self.value(kind)) for kind in kinds]
        live = set()
        made: list[tuple[str, str, str, str | None]] = []
        for holder, kind, value in wanted:
            if (kind, value) in live:
                continue
            live.add((kind, value))
            made.append((holder, kind, value, None))
            # The same card, returned by one holder or more; now and then by all of them.
            while self.chance(0.15):
                former = rng.choice((*self.holders, holder))
                made.append((former, kind, value, "returned"))
        keys = self.ids("c", len(made))
        for key, (holder, kind, value, given) in zip(keys, made, strict=True):
            credential = self.add("credential", key, holder=holder, kind=kind, value=value)
            status = given
            if given is None and self.chance(0.12):
                status = rng.choice(("suspended", "lost", "stolen", "returned"))
            if status is not None:
                credential["status"] = status
            elif self.chance(0.1):
                credential["status"] = "active"
            self.optional(credential, "valid_from", self.instant, 0.07)
            self.optional(credential, "valid_until", self.instant, 0.07)
            if kind == "pin":
                self.maybe(credential, "duress", lambda: self.chance(0.7), 0.5)
            else:
                self.maybe(credential, "duress", lambda: False, 0.05)
            self.optional(credential, "max_uses", lambda: rng.choice((1, 1000)), 0.1)

    def make_bookings(self) -> None:
        rng = self.rng
        margins = (0, 1, 15, 90, 1440)
        spans: list[tuple[int, int]] = []
        for key in self.bookings:
            long = rng.choice((1, 1000, 15 * MINUTE_MS, HOUR_MS, 8 * HOUR_MS, 3 * DAY_MS))
            start = min(self.near(), LAST_MS - long)
            if spans and self.chance(0.4):  # begins with another one, or ends with it, or both
                other_start, other_long = rng.choice(spans)
                start, long = rng.choice(
                    (
                        (other_start, other_long),
                        (other_start, min(long, LAST_MS - other_start)),
                        (max(0, other_start + other_long - long), long),
                    )
                )
                long = max(1, min(long, LAST_MS - start))
            spans.append((start, long))
            self.taken += [start, start + long]
            booking = self.add(
                "booking",
                key,
                holders=self.some(self.holders, 4, none=0.05),
                zones=self.some(self.zones, 2, none=0.5),
                doors=self.some(self.doors, 2, none=0.5),
                start=self.spell(start),
                end=self.spell(start + long),
            )
            self.optional(booking, "before_min", lambda: rng.choice(margins), 0.2)
            self.optional(booking, "after_min", lambda: rng.choice(margins), 0.2)
            self.maybe(
                booking, "status", lambda: rng.choice(("confirmed", "confirmed", "cancelled")), 0.4
            )

    def make_exceptions(self) -> None:
        rng = self.rng
        for key in self.exceptions:
            long = rng.choice((1, HOUR_MS, DAY_MS, 3 * DAY_MS))
            start = min(self.near(), LAST_MS - long)
            exception = self.add(
                "exception",
                key,
                holder=rng.choice(self.holders),
                effect=rng.choice(("allow", "allow", "deny")),
                zones=self.some(self.zones, 2, none=0.5),
                doors=self.some(self.doors, 2, none=0.4),
                until=self.spell(start + long),
                reason=rng.choice(("move", "contract")),
                issued_by=rng.choice(("ops", "é")),
            )
            exception["from"] = self.spell(start)

    def make(self) -> list[Record]:
        rng = self.rng
        self.add("site", rng.choice(("LON", "lon", "policy")), timezone=self.zone)
        self.make_policy()
        self.zones = self.ids("z", rng.randint(2, 6))
        for key in self.zones:
            zone = self.add("zone", key, category=rng.choice((*CATEGORIES, "bookable")))
            self.optional(zone, "name", lambda: rng.choice(("Lobby", "")))
        self.calendars = self.ids("k", rng.randint(0, 3))
        self.schedules = self.ids("s", rng.randint(1, 5))
        self.doors = self.ids("d", rng.randint(2, 8))
        self.groups = self.ids("g", rng.randint(2, 10))
        self.holders = self.ids("h", rng.randint(3, 12))
        self.bookings = self.ids("b", rng.randint(0, 12))
        self.exceptions = self.ids("e", rng.randint(0, 12))
        self.make_calendars()
        self.make_schedules()
        self.make_doors()
        self.make_groups()
        self.make_holders()
        self.make_credentials()
        self.make_bookings()
        self.make_exceptions()
        rng.shuffle(self.records)
        for record in self.records:
            if self.chance(0.02):
                record["x_colour"] = rng.choice((None, 5, "red", {"a": []}))  # lint, no fault
        return self.records


class Asker(Maker):
    """A site's requests, biased toward the instants at which its records change."""

    def prepare(self) -> None:
        self.of: dict[str, dict[str, Record]] = {}
        for record in self.records:
            self.of.setdefault(record["type"], {})[record["id"]] = record
        self.policy = self.of["policy"]["policy"]
        self.held: dict[str, list[Record]] = {}
        for credential in self.of.get("credential", {}).values():
            self.held.setdefault(credential["holder"], []).append(credential)
        # (holder, door, side) with some tie, and the record that ties them
        self.targets: list[tuple[str, str, str, Record]] = []
        for door in self.of["door"].values():
            for side, zone in (("in", door["to_zone"]), ("out", door["from_zone"])):
                if side == "out" and door.get("egress", True):
                    continue
                self.targets += self.ties(door["id"], zone, side)

    def ties(self, door: str, zone: str, side: str) -> list[tuple[str, str, str, Record]]:
        def covers(record: Record) -> bool:
            return door in record["doors"] or zone in record["zones"]

        found = []
        for holder in self.of["holder"].values():
            groups = [self.of["group"][group] for group in holder["groups"]]
            found += [(holder["id"], door, side, group) for group in groups if covers(group)]
        for booking in self.of.get("booking", {}).values():
            if covers(booking):
                found += [(holder, door, side, booking) for holder in booking["holders"]]
        for exception in self.of.get("exception", {}).values():
            if covers(exception):
                found.append((exception["holder"], door, side, exception))
        return [target for target in found if target[0] in self.held]

    def schedule_edges(self, schedule_id: str | None) -> list[int]:
        if schedule_id is None or schedule_id in ("24x7", "timebound"):
            return []
        if schedule_id not in self.edges_of:
            self.edges_of[schedule_id] = self._schedule_edges(schedule_id)
        return self.edges_of[schedule_id]

    def _schedule_edges(self, schedule_id: str) -> list[int]:
        schedule = self.of["schedule"][schedule_id]
        zone = schedule.get("timezone") or self.zone
        found = []
        today = wall_clock(zone, self.base)[0]
        for day in range(today - 8, today + 9):
            intervals = list(schedule["weekly"].get(weekday(day), []))
            for entry in schedule.get("holidays") or []:
                if date_text(day) in self.of["calendar"][entry["calendar"]]["dates"]:
                    intervals += entry["intervals"]
            for wall in (wall for interval in intervals for wall in (*interval, "00:00")):
                local = day * DAY_MS + wall_ms(wall)
                found += [
                    local - offset_ms(zone, min(max(guess, 0), LAST_MS))
                    for guess in (local - DAY_MS, local + DAY_MS)
                ]
        return found

    def edges(self, holder_id: str, door_id: str) -> list[int]:
        """Instants at which this holder's chances at this door may change."""
        holder, door = self.of["holder"][holder_id], self.of["door"][door_id]
        found = list(self.changes)
        for record in (holder, *self.held.get(holder_id, [])):
            for member in ("valid_from", "valid_until"):
                if record.get(member) is not None:
                    found += [instant_ms(record[member])] * 3
        if holder.get("delinquent_since") is not None:
            since = instant_ms(holder["delinquent_since"])
            found += [since, since + self.policy.get("grace_hours", 72) * HOUR_MS] * 2
        for booking in self.of.get("booking", {}).values():
            if holder_id in booking["holders"]:
                found += self.window(booking) * 2
        for exception in self.of.get("exception", {}).values():
            if exception["holder"] == holder_id:
                found += [instant_ms(exception["from"]), instant_ms(exception["until"])] * 3
        schedules = [self.of["group"][group]["schedule"] for group in holder["groups"]]
        for schedule_id in (*schedules, door.get("second_factor_schedule")):
            edges = self.schedule_edges(schedule_id)
            found += self.rng.sample(edges, min(6, len(edges)))
        return found

    def window(self, booking: Record) -> list[int]:
        before, after = booking.get("before_min"), booking.get("after_min")
        before = self.policy.get("booking_before_min", 15) if before is None else before
        after = self.policy.get("booking_after_min", 5) if after is None else after
        start, end = instant_ms(booking["start"]), instant_ms(booking["end"])
        return [start - before * MINUTE_MS, end + after * MINUTE_MS]

    def span(self, tie: Record | None) -> list[int]:
        if tie is None or tie["type"] == "group":
            return []
        if tie["type"] == "booking":
            return self.window(tie)
        return [instant_ms(tie["from"]), instant_ms(tie["until"])]

    def presented(self, holder_id: str) -> list[Record]:
        rng = self.rng
        held = self.held.get(holder_id, [])
        everyone = list(self.of.get("credential", {}).values())
        if self.chance(0.05) or not everyone:
            kind = rng.choice((*KINDS, "face", ""))
            value = self.value(kind) if kind in KINDS else rng.choice(("", "x", "1234"))
            first = {"kind": kind, "value": value}
        else:
            found = rng.choice(held or everyone)
            first = {"kind": found["kind"], "value": found["value"]}
            if self.chance(0.02):
                first["value"] = first["value"].lower()
            if self.chance(0.02):
                first["kind"] = rng.choice(KINDS)
        if first["kind"] == "pin" or self.chance(0.4):
            return [first]
        pins = [c["value"] for c in held if c["kind"] == "pin"]
        if self.chance(0.3):
            pins = [c["value"] for c in everyone if c["kind"] == "pin"]
        value = rng.choice(pins) if pins and self.chance(0.9) else rng.choice(("0000", "", "x"))
        return [first, {"kind": "pin", "value": value}]

    def request(self) -> Record:
        rng = self.rng
        around_change = bool(self.changes) and self.chance(0.2)
        if self.targets and (around_change or self.chance(0.75)):
            kind = rng.choice(("group", "booking", "exception"))
            ties = [target for target in self.targets if target[3]["type"] == kind]
            if around_change:
                ties = [t for t in self.targets if t[3].get("schedule") in self.schedules]
            holder_id, door_id, side, tie = rng.choice(ties or self.targets)
        else:
            holder_id, door_id = rng.choice(self.holders), rng.choice(self.doors)
            side, tie = rng.choice(("in", "in", "out")), None
        edges = self.edges(holder_id, door_id)
        span = self.span(tie)
        if span and self.chance(0.5):  # within, or at either end
            at = rng.choice((*span, span[1] - 1, rng.randrange(*span), rng.randrange(*span)))
        elif edges and self.chance(0.75):
            at = rng.choice(edges)
            at += rng.choice(
                (0, 0, 0, 0, -1, -1, 1, -1000, MINUTE_MS, -MINUTE_MS, HOUR_MS, -DAY_MS)
            )
        else:
            at = self.base + round(rng.gauss(0, 5) * DAY_MS)
        if around_change:  # around a change of the clock
            at = (
                rng.choice(self.changes)
                + rng.choice((-4, -3, -2, -1, 0, 1, 2, 3, 4)) * HOUR_MS // 2
            )
            at += rng.choice((0, 0, -1, 1, rng.randrange(HOUR_MS)))
        elif self.chance(0.07):  # so that it opens just within the search, or just not
            at = (span[0] if span else at) - SEARCH_MS + rng.choice((0, 0, -1, 1))
        at = min(max(at, 0), LAST_MS)
        request: Record = {
            "door": door_id,
            "credentials": self.presented(holder_id),
            "at": self.spell(at),
        }
        if side == "out" or self.chance(0.2):
            request["side"] = side
        if self.chance(0.02):
            request["door"] = rng.choice((door_id.swapcase() + "?", "nowhere", self.zones[0]))
        if self.chance(0.35):
            request["clock"] = rng.choice(("untrusted", "untrusted", "trusted"))
        if self.chance(0.12):
            request["lockdown"] = rng.choice((True, True, False))
        if self.chance(0.5):
            request["as_of"] = self.spell(min(max(self.as_of(at, door_id, side), 0), LAST_MS))
        items = list(request.items())
        rng.shuffle(items)
        return dict(items)

    def as_of(self, at: int, door_id: str, side: str) -> int:
        rng = self.rng
        door = self.of["door"][door_id]
        zone = door["to_zone"] if side == "in" else door["from_zone"]
        hours = self.policy.get("max_age_h", {}).get(self.of["zone"][zone]["category"])
        form = rng.random()
        if hours is not None and form < 0.4:
            return int(at - hours * HOUR_MS) + rng.choice((0, 1, -1, 1, 1, HOUR_MS))
        if form < 0.6:  # later than `at`
            return at + rng.choice((1, 1000, HOUR_MS, 3 * DAY_MS))
        return at - rng.choice((0, 1, HOUR_MS, 30 * DAY_MS))


def site(seed: int, requests: int = 200) -> tuple[list[Record], list[Record]]:
    """The valid records of a random site and requests to it; equal seeds give equal sites."""
    asker = Asker(seed)
    records = asker.make()
    asker.prepare()
    return records, [asker.request() for _ in range(requests)]


# --- broken sets ------------------------------------------------------------------------------

MEMBERS = {
    "site": "timezone",
    "policy": "booking_before_min booking_after_min grace_hours lockdown_exempt_personas"
    " untrusted_clock max_age_h max_age_exempt_personas pin_max_attempts pin_lockout_s"
    " journal_retention_days",
    "zone": "category name",
    "door": "from_zone to_zone criticality name egress unlock_s extended_unlock_s held_open_s"
    " unlock_schedule unlock_after_first second_factor_schedule pin_alone antipassback two_person"
    " interlock max_occupancy",
    "calendar": "dates",
    "schedule": "weekly holidays timezone",
    "group": "zones doors schedule",
    "holder": "persona status valid_from valid_until delinquent_since groups extended_unlock name",
    "credential": "holder kind value status valid_from valid_until duress max_uses",
    "booking": "holders zones doors start end before_min after_min status",
    "exception": "holder effect zones doors from until reason issued_by",
}
NUMBERS = {
    "policy": {
        "booking_before_min": (0, 1440),
        "booking_after_min": (0, 1440),
        "grace_hours": (0, 720),
        "pin_max_attempts": (1, 10),
        "pin_lockout_s": (10, 900),
        "journal_retention_days": (1, 3650),
    },
    "door": {
        "unlock_s": (1, 60),
        "extended_unlock_s": (1, 180),
        "held_open_s": (5, 3600),
        "max_occupancy": (1, 100_000),
    },
    "credential": {"max_uses": (1, 1000)},
    "booking": {"before_min": (0, 1440), "after_min": (0, 1440)},
}
INSTANT_MEMBERS = {
    "holder": ("valid_from", "valid_until", "delinquent_since"),
    "credential": ("valid_from", "valid_until"),
    "booking": ("start", "end"),
    "exception": ("from", "until"),
}
REFERENCES = {
    "door": ("from_zone", "to_zone", "unlock_schedule", "second_factor_schedule"),
    "group": ("zones", "doors", "schedule"),
    "holder": ("groups",),
    "credential": ("holder",),
    "booking": ("holders", "zones", "doors"),
    "exception": ("holder", "zones", "doors"),
}
JUNK: tuple[Any, ...] = (
    *(
        None,
        True,
        False,
        0,
        1,
        5,
        -1,
        5.0,
        0.5,
        10**30,
        "",
        " ",
        "x",
        "5",
        "true",
        "\ud800",
        "a\0b",
    ),
    *([], {}, [None], [[]], [True], [1.0], ["x"], [["09:00", "18:00"]], {"a": 1}, {"": None}),
    *("Active", "active ", "STAFF", "24x7", "timebound", "TIMEBOUND", "policy", "member", "pin"),
)
INSTANTS_OUT = (
    *("2026-03-29", "2026-03-29T00:30:00", "2026-03-29t00:30:00Z", "2026-03-29T00:30:00z"),
    *("2026-03-29 00:30:00Z", "2026-03-29T00:30Z", "2026-03-29T00:30:00.Z", "2026-03-29T0:30:00Z"),
    *("2026-03-29T00:30:00.1234Z", "2026-03-29T00:30:00,5Z", "2026-03-29T23:59:60Z"),
    *("2026-03-29T24:00:00Z", "2026-02-29T00:30:00Z", "2026-13-01T00:30:00Z"),
    *("2026-00-01T00:30:00Z", "2026-03-00T00:30:00Z", "2026-03-29T00:60:00Z"),
    *("2026-03-29T00:30:00+24:00", "2026-03-29T00:30:00+0530", "2026-03-29T00:30:00+05"),
    *("2026-03-29T00:30:00+05:60", "2026-03-29T00:30:00−05:00", "2026-03-29T00:30:00+05:30:00"),
    *("1969-12-31T23:59:59.999Z", "1970-01-01T00:59:59+01:00", "9999-12-31T23:59:59-00:01"),
    *("0000-01-01T00:00:00Z", "10000-01-01T00:00:00Z", "+2026-03-29T00:30:00Z"),
    *("-2026-03-29T00:30:00Z", "20260329T003000Z", "2026-W13-7T00:30:00Z", "2026-088T00:30:00Z"),
    *("2026-03-29T00:30:00Z\n", " 2026-03-29T00:30:00Z", "2026-03-29T00:30:00Z ", "", "now"),
    *(
        "٢٠٢٦-03-29T00:30:00Z",
        "2026-03-29T00:30:0٠Z",
        "２026-03-29T00:30:00Z",
        "2026-3-29T00:30:00Z",
    ),
    *("2026-03-29T00:30:00 Z", "2026-03-29T00:30:00ZZ", "2026-03-29T00:30:00UTC", "1e9"),
    *("2026-03-29T00:30:00.5\u0660Z", "2026-03-29T00:30:00+0٥:30", "2026_03_29T00:30:00Z"),
)
INSTANTS_IN = (
    *("1970-01-01T00:00:00Z", "1969-12-31T23:00:00-01:00", "9999-12-31T23:59:59.999Z"),
    *("2026-03-29T00:30:00-00:00", "2026-03-29T00:30:00.0Z", "2026-03-29T00:30:00+23:59"),
    *("2024-02-29T00:30:00.12Z", "2000-02-29T00:00:00Z", "9999-12-31T22:59:59-01:00"),
)
INTERVALS_OUT: tuple[Any, ...] = (
    *(
        ["24:00", "09:00"],
        ["24:00", "24:00"],
        ["09:00", "24:01"],
        ["09:00", "09:00"],
        ["9:00", "18:00"],
    ),
    *(["09:60", "18:00"], ["25:00", "26:00"], ["09:00:00", "18:00"], ["0900", "1800"], ["09:00"]),
    *(
        ["09:00", "18:00\n"],
        ["٠٩:00", "18:00"],
        ["09:00", "18:00", "19:00"],
        [],
        None,
        "09:00-18:00",
    ),
    *({"start": "09:00", "end": "18:00"}, ["09:00", None], [9, 18], ["-1:00", "18:00"], ["", ""]),
    *(["09:00", "24:00 "], ["09：00", "18:00"], ["00:00", "00:00"], ["+9:00", "18:00"]),
)
VALUES_OUT = {
    "uid": (
        "04a1b2c3",
        "04A1B2C",
        "04A1B2C3D4",
        "04A1B2C3\n",
        "04A1B2CG",
        "",
        "04 A1 B2",
        "٠4A1B2C3",
    ),
    "wiegand": (
        *("H10301:012:1", "H10301:1:01", "H10301:1", "H10301::1", ":1:1", "H-1:1:1", "H1:1:1:1"),
        *("H10301:1:-", "H10301:--:1", "H10301:+1:1", "H10301:1:1\n", "H1:1:", "É:1:1", "H1:٣:1"),
        *("H1:00:1", "H10301:-1:5", "H_1:1:1"),
    ),
    "desfire": (
        *("F4800:00", "F48001:", "F48001:0", "F48001:000", "f48001:00", "F48001" + ":00" * 2),
        *("F48001:" + "00" * 33, "F4800100", "F48001:0g", "F480010:00", "F48001:00\n"),
    ),
    "sun": ("04A1B2C3", "04a1b2c3d4e5f6", "04A1B2C3D4E5F60", "04A1B2C3D4E5FG", "04A1B2C3D4E5F6\n"),
    "pkoc": ("04" + "A" * 127, "02" + "A" * 128, "04" + "a" * 128, "04" + "A" * 129, "04"),
    "pin": (
        "123",
        "123456789",
        "12a4",
        "",
        "1234\n",
        " 1234",
        "١٢٣٤",
        "１２３４",
        "-123",
        "+1234",
        "12.4",
    ),
    "qr": (
        "1234567",
        "x" * 129,
        "naïve-code",
        "tab\tcode",
        "x" * 8 + "\n",
        "x" * 8 + "\x7f",
        "x" * 8 + "\ud800",
    ),
}
VALUES_IN = {
    "uid": ("04A1B2C3", "00000000000000", "F" * 20),
    "wiegand": ("H10301:0:0", "a:-:1", "0:1:99999999999999999999"),
    "desfire": ("F48001:" + "0" * 64, "000000:00"),
    "sun": ("00000000000000",),
    "pkoc": ("04" + "0" * 128,),
    "pin": ("0000", "00000000"),
    "qr": ("!" * 8, "~" * 128, "12345678"),
}
NOT_RECORDS: tuple[Any, ...] = (None, 5, True, "x", [], [{"type": "zone"}], "", 0.5)


class Breaker:
    """Breaks one thing of a set at a time; `what` says which."""

    def __init__(self, rng: random.Random, records: list[Any]) -> None:
        self.rng = rng
        self.records = records

    def pick(self, *kinds: str) -> Record | None:
        """A record, each type as likely as another."""
        found: dict[str, list[Record]] = {}
        for record in self.records:
            if isinstance(record, dict) and str(record.get("type")) in MEMBERS:
                found.setdefault(record["type"], []).append(record)
        types = sorted(kind for kind in found if not kinds or kind in kinds)
        return self.rng.choice(found[self.rng.choice(types)]) if types else None

    def pick_member(self) -> tuple[Record | None, str]:
        """A record and one of the members of its type, each member as likely as another."""
        pairs = [(kind, member) for kind in MEMBERS for member in MEMBERS[kind].split()]
        kind, member = self.rng.choice(pairs)
        return self.pick(kind), member

    def insert(self, record: Any) -> None:
        self.records.insert(self.rng.randint(0, len(self.records)), record)

    def junk(self) -> str:
        record, member = self.pick_member()
        if record is None:
            return "nothing"
        record[member] = copy.deepcopy(self.rng.choice(JUNK))
        return f"{record['type']}.{member} is {record[member]!r}"

    def missing(self) -> str:
        record = self.pick()
        if record is None:
            return "nothing"
        member = self.rng.choice(sorted(set(record) - {"type"}))
        del record[member]
        return f"{record['type']} without {member}"

    def null(self) -> str:
        record, member = self.pick_member()
        if record is None:
            return "nothing"
        record[member] = None
        return f"{record['type']}.{member} is null"

    def instant(self) -> str:
        record = self.pick(*INSTANT_MEMBERS)
        if record is None:
            return "nothing"
        member = self.rng.choice(INSTANT_MEMBERS[record["type"]])
        record[member] = self.rng.choice(INSTANTS_OUT + INSTANTS_IN)
        return f"{record['type']}.{member} is {record[member]!r}"

    def order(self) -> str:
        record = self.pick("booking", "exception", "holder", "credential")
        if record is None:
            return "nothing"
        first, last = {"booking": ("start", "end"), "exception": ("from", "until")}.get(
            record["type"], ("valid_from", "valid_until")
        )
        if self.rng.random() < 0.5:
            record[first], record[last] = record.get(last), record.get(first)
        else:
            record[first], record[last] = "2026-06-01T09:00:00Z", "2026-06-01T10:00:00+01:00"
        return f"{record['type']} with its ends in the wrong order"

    def number(self) -> str:
        record = self.pick(*NUMBERS)
        if record is None:
            return "nothing"
        member, (low, high) = self.rng.choice(sorted(NUMBERS[record["type"]].items()))
        bad = (low - 1, high + 1, low, high, float(low), low + 0.5, str(low), True, None, [low])
        record[member] = self.rng.choice(bad)
        return f"{record['type']}.{member} is {record[member]!r}"

    def reference(self) -> str:
        """Gone, of another type, no string, or in another case."""
        record = self.pick(*REFERENCES)
        if record is None:
            return "nothing"
        member = self.rng.choice(REFERENCES[record["type"]])
        others = [r["id"] for r in self.records if isinstance(r, dict) and is_name(r.get("id"))]
        bad: Any = self.rng.choice(("nowhere", "", None, 5, True, ["x"], {}, "policy", "24x7"))
        if self.rng.random() < 0.5:
            bad = self.rng.choice(others) + self.rng.choice(("", "", " "))
        now = record.get(member)
        if isinstance(now, list):
            now.insert(self.rng.randint(0, len(now)), bad)
        else:
            record[member] = bad
        return f"{record['type']}.{member} refers to {bad!r}"

    def remove(self) -> str:
        """A record that others may refer to."""
        record = self.pick()
        if record is None:
            return "nothing"
        self.records[:] = [r for r in self.records if r is not record]
        return f"no {record['type']} {record.get('id')!r}"

    def twice(self) -> str:
        record = self.pick()
        if record is None:
            return "nothing"
        again = copy.deepcopy(record)
        if self.rng.random() < 0.3 and is_name(again.get("id")):
            again["id"] += "'"  # another id: no fault but for a site, a policy, a live value
        elif again["type"] == "credential" and self.rng.random() < 0.5:
            again["kind"], again["value"], again["duress"] = "qr", "another-code", False
        self.insert(again)
        return f"{record['type']} twice"

    def live(self) -> str:
        """A second credential with the same kind and value, whatever the status of the first."""
        record = self.pick("credential")
        if record is None or not is_name(record.get("id")):
            return "nothing"
        again = {**record, "id": record["id"] + "+"}
        again["status"] = self.rng.choice(("active", "suspended", "lost", "stolen", "returned"))
        self.insert(again)
        return f"credential value twice, {again['status']}"

    def identity(self) -> str:
        record = self.pick()
        if record is None:
            return "nothing"
        member = self.rng.choice(("type", "id"))
        record[member] = self.rng.choice((None, 5, "", "gizmo", "Zone", ["x"], "24x7", "timebound"))
        return f"{member} is {record[member]!r}"

    def policy_name(self) -> str:
        record = self.pick("policy", "site")
        if record is None:
            return "nothing"
        record["id"] = self.rng.choice(("Policy", "policy ", "polícy", "LON"))
        return f"{record['type']} is called {record['id']!r}"

    def schedule(self) -> str:
        record = self.pick("schedule")
        if record is None:
            return "nothing"
        bad = copy.deepcopy(self.rng.choice(INTERVALS_OUT))
        good = ["09:00", "24:00"]
        form = self.rng.randrange(6)
        if form == 0 and isinstance(record.get("weekly"), dict):
            record["weekly"][self.rng.choice(WEEKDAYS)] = [good, bad]
        elif form == 1 and isinstance(record.get("weekly"), dict):
            record["weekly"][self.rng.choice(("Mon", "monday", "", "sun ", "holiday"))] = []
        elif form == 2 and isinstance(record.get("weekly"), dict):
            record["weekly"]["tue"] = self.rng.choice((None, {}, "", 0, [good, good], good))
        else:
            calendars = [
                r for r in self.records if isinstance(r, dict) and r.get("type") == "calendar"
            ]
            known = calendars[0].get("id") if calendars else "nowhere"
            entry: Any = {"calendar": known, "intervals": [good]}
            change = self.rng.randrange(7)
            if change == 0:
                entry["intervals"].append(bad)
            elif change == 1:
                del entry[self.rng.choice(("calendar", "intervals"))]
            elif change == 2:
                entry[self.rng.choice(("name", "Calendar", ""))] = None
            elif change == 3:
                entry["calendar"] = self.rng.choice(("nowhere", None, 5, [], "policy"))
            elif change == 4:
                entry["intervals"] = self.rng.choice((None, {}, "", good))
            elif change == 5:
                entry = self.rng.choice((None, known, [], [known, [good]]))
            record["holidays"] = [entry]
        return f"schedule {record}"

    def timezone(self) -> str:
        record = self.pick("site", "schedule")
        if record is None:
            return "nothing"
        bad: tuple[str, ...] = (
            "Mars/Base",
            "europe/london",
            "Europe/London ",
            "../etc/passwd",
            "/etc/passwd",
            "",
        )
        bad += (
            "Europe",
            "Europe/",
            "+01:00",
            "UTC+1",
            "Europe\\London",
            "zone.tab",
            "Europe/Lond\0n",
        )
        record["timezone"] = self.rng.choice((*bad, "Etc/UTC", "GMT", "Asia/Calcutta"))
        return f"{record['type']}.timezone is {record['timezone']!r}"

    def max_age(self) -> str:
        record = self.pick("policy")
        if record is None:
            return "nothing"
        key = self.rng.choice(("member", "member", "Member", "", "lobby", "zone"))
        value: Any = self.rng.choice((1, 8760, 0, 8761, None, True, 24.0, "24", []))
        record["max_age_h"] = {"public": 4, key: value}
        return f"max_age_h has {key!r}: {value!r}"

    def personas(self) -> str:
        record = self.pick("policy")
        if record is None:
            return "nothing"
        member = self.rng.choice(("lockdown_exempt_personas", "max_age_exempt_personas"))
        bad: Any = self.rng.choice(("Staff", "", None, 5, [], "staff", "guest"))
        record[member] = ["staff", bad]
        return f"{member} has {bad!r}"

    def dates(self) -> str:
        record = self.pick("calendar")
        if record is None or not isinstance(record.get("dates"), dict):
            return "nothing"
        keys: tuple[str, ...] = (
            "2026-02-29",
            "2026-2-9",
            "20260209",
            "2026-W06-1",
            "2026-12-25 ",
            "",
            "25-12-2026",
        )
        keys += ("2026-13-01", "٢٠٢٦-12-25", "2026-12-25T00:00:00Z", "2024-02-29", "2026-12-25")
        key, name = self.rng.choice(keys), self.rng.choice(("x", "x", "", None, 5, ["x"]))
        record["dates"][key] = name
        return f"dates has {key!r}: {name!r}"

    def value(self) -> str:
        record = self.pick("credential")
        if record is None:
            return "nothing"
        kind = self.rng.choice(KINDS)
        record["kind"] = kind
        record["value"] = self.rng.choice(VALUES_OUT[kind] + VALUES_IN[kind])
        if kind != "pin" and self.rng.random() < 0.9:
            record.pop("duress", None)
        return f"{kind} value {record['value']!r}"

    def duress(self) -> str:
        record = self.pick("credential")
        if record is None:
            return "nothing"
        record["duress"] = self.rng.choice((True, True, False, None, 1, 0, "true"))
        return f"duress {record['duress']!r} on {record.get('kind')!r}"

    def no_record(self) -> str:
        self.insert(copy.deepcopy(self.rng.choice(NOT_RECORDS)))
        return "a line that is no record"

    def unknown_member(self) -> str:
        record = self.pick()
        if record is None:
            return "nothing"
        member = self.rng.choice(("colour", "Type", "ID", "", "status ", "name", "zones", "value"))
        if member in MEMBERS[record["type"]].split():
            return "nothing"
        record[member] = self.rng.choice((None, 5, "x", [], {}))
        return f"{record['type']} with an unknown member {member!r}"

    def any_one(self) -> str:
        ways: tuple[Callable[[], str], ...] = (
            self.junk,
            self.junk,
            self.junk,
            self.missing,
            self.missing,
            self.null,
            self.instant,
        )
        ways += (self.instant, self.order, self.number, self.number, self.reference, self.reference)
        ways += (self.remove, self.twice, self.twice, self.live, self.identity, self.policy_name)
        ways += (self.schedule, self.schedule, self.timezone, self.max_age, self.personas)
        ways += (self.dates, self.value, self.value, self.duress, self.no_record)
        ways += (self.unknown_member,)
        return self.rng.choice(ways)()


def unsettled(lines: list[Any]) -> list[str]:
    """Why the specification leaves open which faults this set has; empty where it does not.

    NOTES.md has the reading that `faults` takes of each.
    """
    found = []
    records = [line for line in lines if isinstance(line, dict)]
    for record in records:
        kind, key = record.get("type"), record.get("id")
        if not isinstance(kind, str) or kind == "":
            found.append("a type that is no name")
        elif kind not in MEMBERS and (
            not is_name(key)
            or sum((r.get("type"), r.get("id")) == (kind, key) for r in records) > 1
        ):
            found.append("an unknown type with a second fault")
        if key is not None and not is_name(key):
            found.append("an id that is there but no name")
        if any("\ud800" in str(name) for name in (kind, key)):
            found.append("a lone surrogate in a name")
        if kind == "credential":
            found += unsettled_credential(record, records)
        if kind == "schedule" and key == "timebound":
            found.append("a schedule that takes the name timebound")
    policies = [record for record in records if record.get("type") == "policy"]
    if len(policies) > 1 and policies[0].get("id") != "policy":
        found.append("two policies, the first under another id")
    return found


def unsettled_credential(record: Record, records: list[Record]) -> list[str]:
    same = [
        other
        for other in records
        if other.get("type") == "credential"
        and (other.get("kind"), other.get("value")) == (record.get("kind"), record.get("value"))
    ]
    if record.get("kind") not in KINDS and (len(same) > 1 or record.get("duress") is True):
        return ["a credential of an unknown kind with a second fault"]
    statuses = ("active", "suspended", "lost", "stolen", "returned")
    if record.get("status", "active") not in statuses and len(same) > 1:
        return ["a value twice, of a status that is none"]
    if record.get("kind") == "qr" and " " in str(record.get("value")):
        return ["a space in a QR code"]
    return []


def mutations(seed: int) -> tuple[list[Any], list[str], bool]:
    """A valid set with one or two things changed: the lines, what was changed, and whether the
    specification settles its faults (see `unsettled`). Some changes leave the set valid."""
    rng = random.Random(f"mutations {seed}")
    records = copy.deepcopy(site(seed, requests=0)[0])
    breaker = Breaker(rng, records)
    what = [breaker.any_one() for _ in range(rng.choice((1, 1, 2)))]
    return records, what, not unsettled(records)


def odd_requests(seed: int, count: int = 50) -> tuple[list[Record], list[Any]]:
    """A valid site and requests with one thing changed each: most are of another form, which
    `reference.decider.read_request` tells. None has an empty `door` (left open)."""
    rng = random.Random(f"requests {seed}")
    records, requests = site(seed, requests=count)
    odd: list[Any] = []
    for request in requests:
        way = rng.randrange(8)
        presented = request["credentials"]
        pin, card = {"kind": "pin", "value": "1234"}, {"kind": "uid", "value": "04A1B2C3"}
        if way == 0:
            junk = [value for value in JUNK if value not in ("", "\ud800")]
            request[rng.choice(REQUEST_MEMBERS)] = copy.deepcopy(rng.choice(junk))
        elif way == 1:
            request.pop(rng.choice(REQUEST_MEMBERS), None)
        elif way == 2:
            request[rng.choice(("at", "as_of"))] = rng.choice(INSTANTS_OUT + INSTANTS_IN)
        elif way == 3:
            request[rng.choice(("holder", "Door", "", "sides", "name"))] = rng.choice((None, "x"))
        elif way == 4:
            request["credentials"] = rng.choice(
                ([], [pin, pin], [pin, card], [card, card], [card, pin, pin], [card, pin], card)
            )
        elif way == 5:
            presented[0][rng.choice(("kind", "value", "format"))] = rng.choice((None, 5, [], "pin"))
        elif way == 6:
            del presented[-1][rng.choice(("kind", "value"))]
        odd.append(request if way < 7 else rng.choice(NO_REQUESTS))
    return records, odd


NO_REQUESTS: tuple[Any, ...] = (None, [], [{}], "x", 5, {})
REQUEST_MEMBERS = ("door", "side", "credentials", "at", "clock", "lockdown", "as_of")
