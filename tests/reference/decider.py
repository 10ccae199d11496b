"""The access decision and its explanation, transcribed step by step from decision.md, version 1.

Instants are whole milliseconds since 1970-01-01T00:00:00Z, in plain integers: no sum of them can
overflow, so that one beyond the year 9999 is later than every instant without a word about it.
"""

import re
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from typing import Any
from zoneinfo import ZoneInfo

MINUTE_MS = 60_000
HOUR_MS = 60 * MINUTE_MS
DAY_MS = 24 * HOUR_MS
LAST_MS = 253_402_300_799_999  # 9999-12-31T23:59:59.999Z
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# 400 Gregorian years are a whole number of weeks, and the zones' last rules repeat in them.
CYCLE_MS = 146_097 * DAY_MS
SEARCH_MS = 336 * HOUR_MS
WEEKDAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")

INSTANT = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})T([0-9]{2}):([0-9]{2}):([0-9]{2})"
    r"(?:\.([0-9]{1,3}))?(?:Z|([+-])([0-9]{2}):([0-9]{2}))"
)


class AnotherForm(ValueError):
    """The request is of another form than decision.md's: an error, never a decision."""


def instant_ms(text: object) -> int:
    """Milliseconds since 1970 of an RFC 3339 instant; ValueError for anything else."""
    match = INSTANT.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        raise ValueError(f"no instant: {text!r}")
    year, month, day, hour, minute, second = (int(part) for part in match.groups()[:6])
    if hour > 23 or minute > 59 or second > 59:
        raise ValueError(f"no time of day: {text!r}")
    days = date(year, month, day).toordinal() - date(1970, 1, 1).toordinal()
    ms = days * DAY_MS + hour * HOUR_MS + minute * MINUTE_MS + second * 1000
    ms += int((match[7] or "0").ljust(3, "0"))
    if match[8]:
        offset_h, offset_min = int(match[9]), int(match[10])
        if offset_h > 23 or offset_min > 59:
            raise ValueError(f"no offset: {text!r}")
        offset_ms = offset_h * HOUR_MS + offset_min * MINUTE_MS
        ms += offset_ms if match[8] == "-" else -offset_ms
    if not 0 <= ms <= LAST_MS:
        raise ValueError(f"outside the UTC years 1970 to 9999: {text!r}")
    return ms


def instant_text(ms: int) -> str:
    """In UTC, with Z, and with milliseconds only where they are not zero."""
    moment = EPOCH + timedelta(milliseconds=ms)
    fraction = f".{ms % 1000:03d}" if ms % 1000 else ""
    return f"{moment.strftime('%Y-%m-%dT%H:%M:%S')}{fraction}Z"


# --- the wall clock ---------------------------------------------------------------------------


def offset_ms(zone: str, at: int) -> int:
    """How far the zone's wall clock is ahead of UTC at an instant."""
    if at > LAST_MS - 400 * DAY_MS:  # the local date may lie in the year 10000: look a cycle back
        at -= CYCLE_MS
    local = (EPOCH + timedelta(milliseconds=at)).astimezone(ZoneInfo(zone))
    offset = local.utcoffset()
    assert offset is not None
    return offset // timedelta(milliseconds=1)


def wall_clock(zone: str, at: int) -> tuple[int, int]:
    """The local date (in days since 1970-01-01) and wall time (in ms since its midnight)."""
    return divmod(at + offset_ms(zone, at), DAY_MS)


def date_text(day: int) -> str:
    """`YYYY-MM-DD`; a date that has no such form is in no calendar and gives the empty string."""
    try:
        return date.fromordinal(day + date(1970, 1, 1).toordinal()).isoformat()
    except (ValueError, OverflowError):
        return ""


def weekday(day: int) -> str:
    return WEEKDAYS[(day + 3) % 7]  # 1970-01-01 was a Thursday


def wall_ms(text: str) -> int:
    """A wall time, `24:00` included, in ms since midnight."""
    return int(text[:2]) * HOUR_MS + int(text[3:]) * MINUTE_MS


@lru_cache(maxsize=2000)
def wall_minutes(zone: str, utc_day: int) -> tuple[tuple[int, int, int], ...]:
    """Every instant of a UTC day at which a wall clock minute begins or the offset changes.

    Found by walking the day minute by minute, and second by second where the offset changes.
    Each is (instant, local date, wall time).
    """
    found: dict[int, int] = {}  # instant to offset
    offset = offset_ms(zone, utc_day * DAY_MS)
    for minute in range(utc_day * DAY_MS, (utc_day + 1) * DAY_MS, MINUTE_MS):
        following = offset_ms(zone, minute + MINUTE_MS)
        if offset == following:
            found[minute + -offset % MINUTE_MS] = offset
        else:
            for second in range(minute, minute + MINUTE_MS + 1, 1000):
                before, after = offset_ms(zone, second - 1000), offset_ms(zone, second)
                if before != after or (second + after) % MINUTE_MS == 0:
                    found[second] = after
        offset = following
    return tuple((at, *divmod(at + found[at], DAY_MS)) for at in sorted(found))


# --- the request ------------------------------------------------------------------------------


def read_request(request: object) -> dict[str, Any]:
    """The request with its defaults in place and its instants as numbers; or AnotherForm."""

    def need(condition: bool, what: str) -> None:
        if not condition:
            raise AnotherForm(what)

    need(isinstance(request, dict), "a request is an object")
    assert isinstance(request, dict)
    known = {"door", "side", "credentials", "at", "clock", "lockdown", "as_of"}
    need(set(request) <= known, "a member that no request has")
    need({"door", "credentials", "at"} <= set(request), "a member is missing")
    need(isinstance(request["door"], str), "door")
    side = request.get("side", "in")
    need(isinstance(side, str) and side in ("in", "out"), "side")
    clock = request.get("clock", "trusted")
    need(isinstance(clock, str) and clock in ("trusted", "untrusted"), "clock")
    lockdown = request.get("lockdown", False)
    need(isinstance(lockdown, bool), "lockdown")
    credentials = request["credentials"]
    need(isinstance(credentials, list) and len(credentials) in (1, 2), "credentials")
    for credential in credentials:
        need(isinstance(credential, dict) and set(credential) == {"kind", "value"}, "credential")
        need(isinstance(credential["kind"], str), "kind")
        need(isinstance(credential["value"], str), "value")
    if len(credentials) == 2:
        need(credentials[0]["kind"] != "pin", "the first of two is a pin")
        need(credentials[1]["kind"] == "pin", "the second of two is no pin")
    try:
        at = instant_ms(request["at"])
        as_of = instant_ms(request["as_of"]) if "as_of" in request else at
    except ValueError as problem:
        raise AnotherForm(str(problem)) from problem
    if clock == "untrusted" and at < as_of:
        at = as_of
    return {
        "door": request["door"],
        "side": side,
        "credentials": credentials,
        "at": at,
        "clock": clock,
        "lockdown": lockdown,
        "as_of": as_of,
    }


# --- the records ------------------------------------------------------------------------------


class Site:
    """The records of one revision, which must be without a fault, ready to be asked."""

    def __init__(self, records: list[dict[str, Any]]) -> None:
        self.of: dict[str, dict[str, dict[str, Any]]] = {}
        for record in records:
            self.of.setdefault(record["type"], {})[record["id"]] = record
        (self.site,) = self.of["site"].values()
        self.policy = self.of["policy"]["policy"]
        self._ms: dict[str, int] = {}
        self._changes: dict[tuple[str, int], list[int]] = {}
        self._intervals: dict[tuple[str, int], list[tuple[int, int]]] = {}
        self.instants = sorted(set(self._every_instant()))

    def all(self, kind: str) -> Iterator[dict[str, Any]]:
        """The records of a type, the smallest id first. Python compares by code point."""
        records = self.of.get(kind, {})
        for key in sorted(records):
            yield records[key]

    def ms(self, text: str) -> int:
        if text not in self._ms:
            self._ms[text] = instant_ms(text)
        return self._ms[text]

    def _every_instant(self) -> Iterator[int]:
        """Every instant at which a record, rather than a schedule, can change a decision."""
        for kind in ("holder", "credential"):
            for record in self.all(kind):
                for member in ("valid_from", "valid_until", "delinquent_since"):
                    if record.get(member) is not None:
                        yield self.ms(record[member])
                        yield self.ms(record[member]) + self.grace_ms()
        for booking in self.all("booking"):
            yield from self.window(booking)
            yield self.ms(booking["start"])
            yield self.ms(booking["end"])
        for exception in self.all("exception"):
            yield self.ms(exception["from"])
            yield self.ms(exception["until"])

    def grace_ms(self) -> int:
        return int(self.policy.get("grace_hours", 72)) * HOUR_MS

    def window(self, booking: dict[str, Any]) -> tuple[int, int]:
        """[`start` - `before_min`, `end` + `after_min`), its own or else the policy's."""
        before_min, after_min = booking.get("before_min"), booking.get("after_min")
        if before_min is None:
            before_min = self.policy.get("booking_before_min", 15)
        if after_min is None:
            after_min = self.policy.get("booking_after_min", 5)
        start, end = self.ms(booking["start"]), self.ms(booking["end"])
        return start - before_min * MINUTE_MS, end + after_min * MINUTE_MS

    def meant(self, kind: str, value: str) -> dict[str, Any] | None:
        """Of the credentials with this kind and value the one that is not returned, or else the
        one with the smallest id."""
        same = [c for c in self.all("credential") if (c["kind"], c["value"]) == (kind, value)]
        for credential in same:
            if credential.get("status", "active") != "returned":
                return credential
        return same[0] if same else None

    # --- when a schedule is open ---

    def intervals(self, schedule: dict[str, Any], day: int) -> list[tuple[int, int]]:
        """Those of the first holiday entry whose calendar has the date, else the weekday's."""
        key = (schedule["id"], day)
        if key not in self._intervals:
            found = schedule["weekly"].get(weekday(day), [])
            for entry in schedule.get("holidays") or []:
                if date_text(day) in self.of["calendar"][entry["calendar"]]["dates"]:
                    found = entry["intervals"]
                    break
            self._intervals[key] = [(wall_ms(start), wall_ms(end)) for start, end in found]
        return self._intervals[key]

    def zone_of(self, schedule: dict[str, Any]) -> str:
        own = schedule.get("timezone")
        return str(self.site["timezone"] if own is None else own)

    def open_on(self, schedule: dict[str, Any], day: int, wall: int) -> bool:
        """Whether the schedule is open when the wall clock shows this date and time."""
        for start, end in self.intervals(schedule, day):
            if end > start and start <= wall < end:
                return True
            if end < start and wall >= start:
                return True
        # Past midnight, whatever this date's own intervals say.
        return any(end < start and wall < end for start, end in self.intervals(schedule, day - 1))

    def schedule_open(self, schedule_id: str, at: int) -> bool:
        """Whether a schedule other than `timebound` is open at an instant."""
        if schedule_id == "24x7":
            return True
        schedule = self.of["schedule"][schedule_id]
        return self.open_on(schedule, *wall_clock(self.zone_of(schedule), at))

    def changes(self, schedule_id: str, utc_day: int) -> list[int]:
        """The instants of a UTC day at which a schedule may be otherwise than just before: of all
        wall clock minutes and offset changes, walked one by one, those where it is, and the
        first of the day."""
        key = (schedule_id, utc_day)
        if key not in self._changes:
            schedule = self.of["schedule"][schedule_id]
            found, last = [], None
            for at, day, wall in wall_minutes(self.zone_of(schedule), utc_day):
                is_open = self.open_on(schedule, day, wall)
                if is_open != last:
                    found.append(at)
                last = is_open
            self._changes[key] = found
        return self._changes[key]


class Asked:
    """One request put to a site: the checks of the steps, each by itself."""

    def __init__(self, site: Site, request: dict[str, Any]) -> None:
        self.site = site
        self.at: int = request["at"]
        self.as_of: int = request["as_of"]
        self.lockdown: bool = request["lockdown"]
        self.side: str = request["side"]
        self.credentials: list[dict[str, str]] = request["credentials"]
        policy = site.policy
        # Strict means an untrusted clock and the policy `deny_timebound`.
        self.strict = (
            request["clock"] == "untrusted"
            and policy.get("untrusted_clock", "deny_timebound") == "deny_timebound"
        )
        self.door = site.of.get("door", {}).get(request["door"])
        self.primary = site.meant(self.credentials[0]["kind"], self.credentials[0]["value"])
        self.holder = None
        if self.primary is not None:
            self.holder = site.of["holder"][self.primary["holder"]]
        self.zone = None
        if self.door is not None:
            self.zone = self.door["to_zone"] if self.side == "in" else self.door["from_zone"]

    # --- words of the specification ---

    def covers(self, record: dict[str, Any]) -> bool:
        assert self.door is not None
        return self.door["id"] in record["doors"] or self.zone in record["zones"]

    def category(self) -> str:
        assert self.zone is not None
        return str(self.site.of["zone"][self.zone]["category"])

    def bookings(self) -> list[dict[str, Any]]:
        """The confirmed bookings that name the holder, the smallest id first."""
        assert self.holder is not None
        return [
            booking
            for booking in self.site.all("booking")
            if booking.get("status", "confirmed") == "confirmed"
            and self.holder["id"] in booking["holders"]
        ]

    def groups(self) -> list[dict[str, Any]]:
        """The holder's groups that cover the door, the smallest id first."""
        assert self.holder is not None
        return [
            group
            for group in self.site.all("group")
            if group["id"] in self.holder["groups"] and self.covers(group)
        ]

    def exceptions(self, effect: str) -> list[dict[str, Any]]:
        """The holder's exceptions of an effect that cover the door, the smallest id first."""
        assert self.holder is not None
        return [
            exception
            for exception in self.site.all("exception")
            if exception["holder"] == self.holder["id"]
            and exception["effect"] == effect
            and self.covers(exception)
        ]

    def in_window(self, booking: dict[str, Any]) -> bool:
        start, end = self.site.window(booking)
        return start <= self.at < end

    def in_span(self, exception: dict[str, Any]) -> bool:
        start, end = self.site.ms(exception["from"]), self.site.ms(exception["until"])
        return start <= self.at < end

    def group_open(self, group: dict[str, Any]) -> bool:
        """`timebound` is open while `at` is in the window of any confirmed booking that names the
        holder; at a door into a bookable zone only a booking that covers the door counts."""
        if group["schedule"] != "timebound":
            return self.site.schedule_open(group["schedule"], self.at)
        return any(
            self.in_window(booking)
            for booking in self.bookings()
            if self.category() != "bookable" or self.covers(booking)
        )

    def before(self, record: dict[str, Any], member: str) -> bool:
        """`at` is before a member that is set."""
        return record.get(member) is not None and self.at < self.site.ms(record[member])

    def not_before(self, record: dict[str, Any], member: str) -> bool:
        """`at` is not before a member that is set."""
        return record.get(member) is not None and self.at >= self.site.ms(record[member])

    # --- the steps ---

    def step_4(self, credential: dict[str, Any]) -> list[str]:
        """Every check of step 4 that would deny, in order."""
        found = []
        if credential.get("status", "active") != "active":
            found.append("credential_" + credential["status"])
        if self.before(credential, "valid_from"):
            found.append("credential_not_yet_valid")
        if self.not_before(credential, "valid_until"):
            found.append("credential_expired")
        return found

    def step_5(self) -> list[str]:
        assert self.holder is not None
        found = []
        if self.holder["status"] != "active":
            found.append("membership_" + self.holder["status"])
        if self.before(self.holder, "valid_from"):
            found.append("membership_not_started")
        if self.not_before(self.holder, "valid_until"):
            found.append("membership_ended")
        return found

    def step_6(self) -> list[str]:
        assert self.holder is not None
        since = self.holder.get("delinquent_since")
        if since is not None and self.at >= self.site.ms(since) + self.site.grace_ms():
            return ["payment_overdue"]
        return []

    def step_7(self) -> list[str]:
        assert self.holder is not None
        exempt = self.site.policy.get("lockdown_exempt_personas", ["staff"])
        if self.lockdown and self.holder["persona"] not in exempt:
            return ["lockdown"]
        return []

    def step_8(self) -> list[str]:
        assert self.holder is not None
        hours = self.site.policy.get("max_age_h", {}).get(self.category())
        exempt = self.site.policy.get("max_age_exempt_personas", [])
        if hours is None or self.at < self.as_of + hours * HOUR_MS:
            return []
        return [] if self.holder["persona"] in exempt else ["entitlements_stale"]

    def step_9(self) -> list[tuple[str, str]]:
        for exception in self.exceptions("deny"):
            until = self.site.ms(exception["until"])
            if self.in_span(exception) or (self.strict and self.at < until):
                return [("exception", exception["id"])]
        return []

    def step_10(self, strict: bool) -> tuple[str, str] | None:
        for group in self.groups():
            if strict and group["schedule"] != "24x7":
                continue
            if self.group_open(group):
                return "group", group["id"]
        if strict:  # only groups on `24x7` count
            return None
        for booking in self.bookings():
            if self.covers(booking) and self.in_window(booking):
                return "booking", booking["id"]
        for exception in self.exceptions("allow"):
            if self.in_span(exception):
                return "exception", exception["id"]
        return None

    def step_10_or_11(self) -> tuple[str, str | None]:
        """The one denial where step 10 finds no grant."""
        if self.strict and self.step_10(strict=False) is not None:
            return "clock_untrusted", None
        groups = self.groups()
        for group in groups:
            if group["schedule"] != "timebound":
                return "outside_schedule", group["id"]
        bookings = self.bookings()
        any_way_there = any(group["schedule"] == "timebound" for group in groups)
        if not (any_way_there and self.category() != "bookable"):
            bookings = [booking for booking in bookings if self.covers(booking)]
        to_begin = [b for b in bookings if self.site.window(b)[0] > self.at]
        if to_begin:
            first = min(to_begin, key=lambda b: (self.site.window(b)[0], b["id"]))
            return "booking_not_started", first["id"]
        if bookings:
            last = min(bookings, key=lambda b: (-self.site.window(b)[1], b["id"]))
            return "booking_over", last["id"]
        return "no_entitlement", None

    def second_factor(self) -> bool:
        """The door's `second_factor_schedule` is open, or set and it is strict."""
        assert self.door is not None
        schedule_id = self.door.get("second_factor_schedule")
        if schedule_id is None:
            return False
        return self.strict or self.site.schedule_open(schedule_id, self.at)

    def step_12(self) -> list[str]:
        assert self.door is not None
        found = []
        if self.credentials[0]["kind"] == "pin":
            if not self.door.get("pin_alone", False):
                found.append("pin_not_accepted")
            if self.second_factor():
                found.append("second_factor_required")
        return found

    def holders_pins(self) -> list[dict[str, Any]]:
        """The holder's `pin` credentials that step 4 would let pass."""
        if self.holder is None:
            return []
        return [
            credential
            for credential in self.site.all("credential")
            if credential["holder"] == self.holder["id"]
            and credential["kind"] == "pin"
            and not self.step_4(credential)
        ]

    def step_13(self) -> list[str]:
        if self.credentials[0]["kind"] == "pin" or not self.second_factor():
            return []
        pins = self.holders_pins()
        if not pins:
            return ["no_pin"]
        if len(self.credentials) == 1:
            return ["pin_required"]
        if self.credentials[1]["value"] not in [pin["value"] for pin in pins]:
            return ["wrong_pin"]
        return []

    def duress(self) -> bool:
        presented = [c["value"] for c in self.credentials if c["kind"] == "pin"]
        return any(
            pin.get("duress", False) and pin["value"] in presented for pin in self.holders_pins()
        )

    def decide(self) -> dict[str, Any]:
        """The steps, in order; the first that ends it ends it."""
        if self.door is None:  # 1
            return answer("deny", "unknown_door", None, None, False)
        holder = None if self.holder is None else self.holder["id"]
        duress = self.duress()
        if self.side == "out" and self.door.get("egress", True):  # 2
            return answer("grant", "egress", holder, None, duress)
        if self.primary is None:  # 3
            return answer("deny", "unknown_credential", None, None, False)
        for reason in self.step_4(self.primary):
            return answer("deny", reason, holder, None, duress)
        for reason in self.step_5() + self.step_6() + self.step_7() + self.step_8():
            return answer("deny", reason, holder, None, duress)
        for reason, via in self.step_9():
            return answer("deny", reason, holder, via, duress)
        grant = self.step_10(self.strict)
        if grant is None:
            reason, lacking = self.step_10_or_11()
            return answer("deny", reason, holder, lacking, duress)
        for reason in self.step_12():
            return answer("deny", reason, holder, None, duress)
        for reason in self.step_13():
            if reason == "pin_required":
                return answer("challenge", reason, holder, grant[1], duress)
            return answer("deny", reason, holder, None, duress)
        return answer("grant", grant[0], holder, grant[1], duress)  # 14

    def reasons(self) -> list[str]:
        """Every reason why this request fails, in the order of the steps, none twice."""
        decision = self.decide()
        if decision["outcome"] == "grant":
            return []
        if self.door is None or self.primary is None:  # steps 1 and 3 stand alone
            return [decision["reason"]]
        found = self.step_4(self.primary) + self.step_5() + self.step_6()
        found += self.step_7() + self.step_8() + [reason for reason, _ in self.step_9()]
        if self.step_10(self.strict) is None:
            found.append(self.step_10_or_11()[0])
        else:
            found += self.step_12() + self.step_13()
        return list(dict.fromkeys(found))

    def schedules_asked(self) -> set[str]:
        """The schedules in records that this door and holder can ever ask."""
        if self.door is None or self.holder is None:
            return set()
        asked = {group["schedule"] for group in self.groups()}
        asked.add(self.door.get("second_factor_schedule"))
        return asked - {None, "24x7", "timebound"}


def answer(
    outcome: str, reason: str, holder: str | None, via: str | None, duress: bool
) -> dict[str, Any]:
    return {
        "outcome": outcome,
        "reason": reason,
        "holder": holder,
        "via": via,
        "duress": duress,
    }


def opens_at(site: Site, request: dict[str, Any]) -> str | None:
    """The earliest instant in [at, at + 336 h) at which the same request is not denied.

    Tries every instant at which anything can change, one after the other: those in the records,
    and those at which a schedule that is asked changes.
    """
    start: int = request["at"]
    end = min(start + SEARCH_MS, LAST_MS + 1)  # there is no instant after 9999
    candidates = {start, *(at for at in site.instants if start <= at < end)}
    for schedule_id in Asked(site, request).schedules_asked():
        for utc_day in range(start // DAY_MS, (end - 1) // DAY_MS + 1):
            candidates.update(at for at in site.changes(schedule_id, utc_day) if start <= at < end)
    for at in sorted(candidates):
        # The age of the records stays as it is: `as_of` moves with the instant.
        moved = {**request, "at": at, "as_of": request["as_of"] + at - start}
        if Asked(site, moved).decide()["outcome"] != "deny":
            return instant_text(at)
    return None


def decide(site: Site, request: dict[str, Any]) -> dict[str, Any]:
    """The decision on one request; AnotherForm (a ValueError) for a request of another form."""
    return Asked(site, read_request(request)).decide()


def explain(site: Site, request: dict[str, Any]) -> dict[str, Any]:
    """The decision with `reasons` and `opens_at`; AnotherForm as in `decide`."""
    read = read_request(request)
    asked = Asked(site, read)
    return {**asked.decide(), "reasons": asked.reasons(), "opens_at": opens_at(site, read)}
