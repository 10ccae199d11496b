"""Reachability against a search that walks: random sites, one tap after another."""

from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.domain.decision import PresentedCredential, Request, decide
from gateway.domain.entitlements import RecordSet, ValidRecords
from gateway.domain.lint.finding import LintedSite
from gateway.domain.lint.reachability import Trouble, outermost, troubles
from gateway.domain.record_faults import parse_records
from tests.domain.sites import JsonObject, lines

AT = datetime(2026, 3, 28, 9, 30, tzinfo=UTC)  # a Saturday: the clock goes forward that night
UNTIL = AT + timedelta(days=2)
HOLDERS = ("ann", "ben")
CARDS = {"ann": "04000001", "ben": "04000002"}

hours = st.sampled_from((0, 2, 3, 9, 12, 20, 23)).map(lambda hour: f"{hour:02}:00")
intervals = st.lists(
    st.tuples(hours, hours).filter(lambda ends: ends[0] != ends[1]), max_size=2
).map(lambda found: [list(each) for each in found])
spans = st.tuples(st.integers(-10, 60), st.integers(1, 30)).map(
    lambda span: (AT + timedelta(hours=span[0]), timedelta(hours=span[1]))
)


@st.composite
def sites(draw: st.DrawFn) -> list[JsonObject]:
    zones = [f"z{number}" for number in range(draw(st.integers(2, 4)))]
    zone = st.sampled_from(zones)
    categories = st.sampled_from(("public", "member", "bookable", "restricted"))
    found: list[JsonObject] = [
        {"type": "site", "id": "LON", "timezone": "Europe/London"},
        {"type": "policy", "id": "policy", "booking_before_min": 15, "booking_after_min": 5},
        {"type": "zone", "id": "z0", "category": "public"},
    ]
    found.extend({"type": "zone", "id": each, "category": draw(categories)} for each in zones[1:])
    schedules = ["24x7", "s0", "s1"]
    for name in schedules[1:]:
        week: dict[str, Any] = {day: draw(intervals) for day in ("fri", "sat", "sun", "mon")}
        found.append({"type": "schedule", "id": name, "weekly": week})
    doors = [f"d{number}" for number in range(draw(st.integers(1, 5)))]
    for each in doors:
        unlocked = draw(st.sampled_from((None, None, None, *schedules)))
        found.append({"type": "door", "id": each, "from_zone": draw(zone), "to_zone": draw(zone),
                      "egress": draw(st.booleans()), "unlock_schedule": unlocked})  # fmt: skip
    covers = st.fixed_dictionaries(
        {
            "zones": st.lists(zone, max_size=2),
            "doors": st.lists(st.sampled_from(doors), max_size=2),
        }
    )
    groups = ["g0", "g1", "g2"]
    for each in groups:
        schedule = draw(st.sampled_from((*schedules, "timebound")))
        found.append({"type": "group", "id": each, "schedule": schedule, **draw(covers)})
    for holder in HOLDERS:
        chosen = draw(st.lists(st.sampled_from(groups), unique=True))
        found += [
            {"type": "holder", "id": holder, "persona": "member", "status": "active",
             "groups": chosen},
            {"type": "credential", "id": holder, "holder": holder, "kind": "uid",
             "value": CARDS[holder]},
        ]  # fmt: skip
    for number, (start, length) in enumerate(draw(st.lists(spans, max_size=2))):
        found.append({"type": "booking", "id": f"b{number}", "holders": ["ann"], **draw(covers),
                      "start": start.isoformat(), "end": (start + length).isoformat()})  # fmt: skip
    for number, (start, length) in enumerate(draw(st.lists(spans, max_size=2))):
        found.append({"type": "exception", "id": f"e{number}", "holder": "ann", **draw(covers),
                      "effect": draw(st.sampled_from(("allow", "deny"))), "reason": "r",
                      "issued_by": "i", "from": start.isoformat(),
                      "until": (start + length).isoformat()})  # fmt: skip
    return found


class Walker:
    """Somebody with a card, who tries every door at one instant."""

    def __init__(self, records: ValidRecords, holder: str, at: datetime) -> None:
        self._records, self._holder, self._at = RecordSet(records), holder, at
        self._doors = records.tables.doors.values()

    def may(self, door: str, side: Any) -> bool:
        card = PresentedCredential("uid", CARDS[self._holder])
        request = Request(door=door, side=side, credentials=(card,), at=self._at)
        return decide(self._records, request).outcome == "grant"

    def passes(self, door: Any, side: Any) -> bool:
        unlocked = door.unlock_schedule
        stands = unlocked is not None and self._records.hours[unlocked].is_open(self._at)
        return stands or self.may(door.id, side)

    def entitled(self) -> set[str]:
        """Zones that a door lets them into on their entitlement, were they in front of it."""
        return {each.to_zone for each in self._doors if self.may(each.id, "in")} | {
            each.from_zone for each in self._doors if not each.egress and self.may(each.id, "out")
        }

    def from_(self, zones: frozenset[str]) -> set[str]:
        seen, todo = set(zones), list(zones)
        while todo:
            here = todo.pop()
            for door in self._doors:
                for near, far, side in (
                    (door.from_zone, door.to_zone, "in"),
                    (door.to_zone, door.from_zone, "out"),
                ):
                    if near == here and far not in seen and self.passes(door, side):
                        seen.add(far)
                        todo.append(far)
        return seen


def instants(records: ValidRecords) -> list[datetime]:
    """Every instant from AT on at which something begins or ends."""
    site = LintedSite(records, AT, UNTIL)
    found = set(site.coverage.slots.starts)
    for booking in records.bookings.values():
        found.update(site.window(booking))
    for exception in records.exceptions.values():
        found.update((exception.from_, exception.until))
    return sorted(each for each in found if AT <= each < UNTIL)


@given(sites())
@settings(max_examples=80)
def test_lint_finds_what_walking_every_door_at_every_edge_finds(rows: list[JsonObject]) -> None:
    records = parse_records(lines(rows)).records
    outside = outermost(records.tables)
    walked: dict[str, set[tuple[str, str]]] = {rule: set() for rule in Trouble._fields}
    for holder in HOLDERS:
        been: set[str] = set()
        for at in instants(records):
            walker = Walker(records, holder, at)
            inside = walker.from_(outside)
            no_way_out = {
                zone
                for zone in records.tables.zones
                if not walker.from_(frozenset({zone})) & outside
            }
            been |= inside
            walked["unreachable"] |= {(holder, zone) for zone in walker.entitled() - inside}
            walked["locked_in"] |= {(holder, zone) for zone in inside & no_way_out}
            walked["locked_in_later"] |= {(holder, zone) for zone in been & no_way_out}
    walked["locked_in_later"] -= walked["locked_in"]
    found: dict[str, set[tuple[str, str]]] = {rule: set() for rule in Trouble._fields}
    for holders, _, trouble in troubles(LintedSite(records, AT, UNTIL)):
        for rule, zones in trouble._asdict().items():
            found[rule] |= {(holder, zone) for holder in holders for zone in zones}
    # Ann's bookings and exceptions are looked at with the time between them left out.
    assert found["locked_in_later"] <= walked["locked_in_later"] | walked["locked_in"]
    for rule, cases in found.items():
        if rule == "locked_in_later":
            assert {case for case in cases if case[0] == "ben"} == {
                case for case in walked[rule] if case[0] == "ben"
            }
        else:
            assert cases == walked[rule]
