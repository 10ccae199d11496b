"""A controller's own list with hours: without the gateway it opens when the records would, or less.

The driver's messages go to the simulated controller's own decision, with no socket between.
"""

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from functools import partial
from itertools import combinations, product, takewhile
from typing import Any, TypeVar
from zoneinfo import ZoneInfo

from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from gateway.clock import Clock
from gateway.control.card_lists import CardLists, Member
from gateway.control.door import InForce
from gateway.domain.decision import PresentedCredential, Request, decide
from gateway.domain.entitlements import Entitlements, RecordSet
from gateway.domain.own_hours import LAST
from gateway.domain.record_faults import parse_records
from gateway.domain.records import WEEKDAYS
from gateway.drivers.uhppote import Uhppote, UhppoteSettings
from gateway.errors import DeviceUnavailable
from hwsim.uhppote import ANY_TIME, PASS, Controller, ListedCard, Profile
from tests.control.site import record_rows
from tests.virtual import START, VirtualClock, run

T = TypeVar("T")
Rows = list[dict[str, Any]]

ANN, BEN, CYD = 1_200_007, 1_200_008, 1_200_009
DOORS = {1: "front", 2: "inner"}
MINUTE = timedelta(minutes=1)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
AHEAD = 35
SETTLED_S = 3.5
PAGES = (0x88, 0x50, 0x52)  # set-time-profile, put-card, delete-card
CLOCK, CARDS = 0x30, 0x58  # set-time, get-cards


class OnDesk(Uhppote):
    """The driver, whose messages reach the controller at once; every state it leaves is kept."""

    def __init__(self, door: int, controller: Controller, clock: Clock) -> None:
        settings = UhppoteSettings(host="127.0.0.1", serial=7, door=door, fallback="card_list")
        super().__init__(f"board-{door}", settings, clock)
        self.board = controller
        self.pages: tuple[int, ...] = PAGES
        self.states: list[Controller] = []
        self.asked: Counter[int] = Counter()
        self.paged: Callable[[], None] = lambda: None

    async def _ask(self, request: bytes, reader: Callable[[bytes], T]) -> T:
        self.asked[request[1]] += 1
        answer = self.board.request(bytes(request), on_board(self._clock.now()))
        if answer is None:
            raise DeviceUnavailable("the board doesn't answer")
        if request[1] in self.pages:
            cards, profiles = dict(self.board.cards), dict(self.board.profiles)
            self.states.append(replace(self.board, cards=cards, profiles=profiles))
            self.paged()
        return reader(answer)


def on_board(at: datetime) -> int:
    return (at - START) // timedelta(microseconds=1) * 1000


def compiled(rows: Rows) -> Entitlements:
    return RecordSet(parse_records(json.dumps(row).encode() for row in rows).records)


def card(number: int) -> str:
    return f"H10301:{number // 100_000}:{number % 100_000}"


def credential(number: int, holder: str, **more: Any) -> dict[str, Any]:
    return {"type": "credential", "id": f"c-{number}", "holder": holder, "kind": "wiegand",
            "value": card(number), **more}  # fmt: skip


def holder(name: str, *groups: str, **more: Any) -> dict[str, Any]:
    return {"type": "holder", "id": name, "persona": "member", "status": "active",
            "groups": list(groups), **more}  # fmt: skip


def group(schedule: str, zones: tuple[str, ...] = ("club", "vault")) -> dict[str, Any]:
    return {"type": "group", "id": schedule, "zones": list(zones), "doors": [],
            "schedule": schedule}  # fmt: skip


def week(name: str, hours: list[list[str]], days: str = " ".join(WEEKDAYS)) -> dict[str, Any]:
    return {"type": "schedule", "id": name, "weekly": dict.fromkeys(days.split(), hours)}


def written(
    controller: Controller,
    *stages: tuple[Rows, datetime],
    trusted: bool = True,
    pages: tuple[int, ...] = PAGES,
) -> list[Controller]:
    """Have the list written for one set of records after another, by a gateway that is started
    each time; return every state that the controller was in on the way.
    """

    async def journey() -> list[Controller]:
        clock = VirtualClock()
        clock.trusted = trusted
        driver = OnDesk(1, controller, clock)
        driver.pages = pages
        members = [
            Member(each, DOORS[each.controller_door], lambda: True, lambda: True)
            for each in (driver, OnDesk(2, controller, clock))
        ]
        for rows, at in stages:
            clock.shift = at - START - clock.monotonic()
            force = InForce(compiled(rows), "r", None)
            lists = CardLists(members, lambda: force, clock)  # noqa: B023 - it ends below
            await lists.imported(b"\n".join(json.dumps(row).encode() for row in rows))
            keeping = asyncio.create_task(lists.run())
            await asyncio.sleep(SETTLED_S)
            keeping.cancel()
            await asyncio.wait((keeping,))
        return driver.states

    return run(journey())


def ahead_of_utc(records: Entitlements, at: datetime) -> timedelta:
    return at.astimezone(ZoneInfo(records.tables.site.timezone)).utcoffset() or timedelta()


def opens_alone(board: Controller, ahead: timedelta, door: int, number: int, at: datetime) -> bool:
    """Whether the controller opens with nobody to ask, its clock running on as it was set."""
    return board.judged(door, number, (at + ahead).replace(tzinfo=None)) == PASS


def grants(records: Entitlements, as_of: datetime, door: int, number: int, at: datetime) -> bool:
    presented = (PresentedCredential("wiegand", card(number)),)
    request = Request(door=DOORS[door], credentials=presented, at=at, as_of=as_of)
    return decide(records, request).outcome == "grant"


def probes(
    records: Entitlements,
    since: datetime,
    days: int = AHEAD,
    steps: tuple[int, ...] = (-60, -1, 0, 1, 59),
) -> Iterator[datetime]:
    """Minutes around every edge of every schedule, by either clock, and in between."""
    until = since + days * DAY
    edges = {edge for hours in records.hours.values() for edge in hours.edges(since, until)}
    edges |= {since + number * DAY / 2 for number in range(2 * days)}
    found = {edge + step * MINUTE for edge in edges for step in steps}
    yield from sorted(at + MINUTE / 2 for at in found if since <= at < until)


# --- Any records ----------------------------------------------------------------------------------

CLOCKS = [
    ("Europe/London", date(2026, 3, 29)),
    ("Europe/London", date(2026, 10, 25)),
    ("America/New_York", date(2026, 3, 8)),
    ("Australia/Lord_Howe", date(2026, 4, 5)),
    ("Asia/Kathmandu", date(2026, 6, 1)),
]
WALLS = ["00:00", "00:01", "01:30", "07:00", "09:00", "12:00", "12:45", "17:00", "22:30", "23:59"]
SPANS = st.lists(
    st.tuples(st.sampled_from(WALLS), st.sampled_from([*WALLS, "24:00"]))
    .filter(lambda span: span[0] != span[1])
    .map(list),
    min_size=1,
    max_size=5,
)
START_DAYS = st.integers(-33, 2)


@st.composite
def moments(draw: st.DrawFn) -> tuple[str, datetime]:
    """A site's time zone, and some minute around a change of its clocks."""
    timezone, change = draw(st.sampled_from(CLOCKS))
    first = datetime(change.year, change.month, change.day, tzinfo=UTC)
    return timezone, first + draw(START_DAYS) * DAY + draw(st.integers(0, 1439)) * MINUTE


@st.composite
def records_at(draw: st.DrawFn, timezone: str, now: datetime) -> Rows:
    """Two people, and three schedules with holidays."""
    rows = record_rows({"front": {"egress": draw(st.booleans())}})
    rows[0] = {**rows[0], "timezone": timezone}
    closed = [f"{now.date() + draw(st.integers(0, 34)) * DAY}" for _ in range(3)]
    rows.append({"type": "calendar", "id": "x", "dates": dict.fromkeys(closed, "holiday")})
    names = ["a", "b", "c"]
    for name in names:
        days = draw(st.sets(st.sampled_from(WEEKDAYS), min_size=1))
        weekly = {day: draw(SPANS) for day in sorted(days)}
        row: dict[str, Any] = {"type": "schedule", "id": name, "weekly": weekly}
        if draw(st.booleans()):
            row["holidays"] = [{"calendar": "x", "intervals": draw(SPANS)}]
        if draw(st.booleans()):
            row["timezone"] = "Europe/Sofia"
        rows += [row, group(name, draw(st.sampled_from([("club",), ("club", "vault", "out")])))]
    rows += [
        holder("ann", *draw(st.sets(st.sampled_from(names), min_size=1))),
        holder("ben", *draw(st.sets(st.sampled_from([*names, "g"]), min_size=1))),
        credential(ANN, "ann"),
        credential(BEN, "ben"),
    ]
    if draw(st.booleans()):
        until = now + draw(st.integers(1, 33 * 1440)) * MINUTE
        rows[-1]["valid_until"] = until.isoformat()
    return rows


@st.composite
def sites(draw: st.DrawFn) -> tuple[Rows, datetime]:
    timezone, now = draw(moments())
    return draw(records_at(timezone, now)), now


@st.composite
def changed_sites(draw: st.DrawFn) -> tuple[Rows, Rows, datetime]:
    timezone, now = draw(moments())
    return draw(records_at(timezone, now)), draw(records_at(timezone, now)), now


def foreign(end_opens: bool) -> Controller:
    """A board as somebody else left it: profiles in a ring, a card by one that isn't there."""
    board = Controller(7, end_opens=end_opens)
    for number, linked in ((5, 6), (6, 5), (8, 6)):
        words = ANY_TIME.first + ANY_TIME.last + bytes([1] * 7) + bytes.fromhex("00002359") * 3
        board.profiles[number] = Profile.read(words + bytes([linked]))
    for number, doors in ((ANN, (8, 9, 0, 0)), (BEN, (1, 5, 5, 0)), (CYD, (200, 1, 0, 0))):
        board.cards[number] = ListedCard(ANY_TIME.first, ANY_TIME.last, bytes(doors))
    return board


def is_said(
    board: Controller, ahead: timedelta, at: datetime, would: Callable[[datetime], bool]
) -> bool:
    """Whether docs/uhppote.md says that the controller stays shut in a minute that is open: it is
    alone in its day, or it is the last and the controller doesn't count that.
    """
    day = (at + ahead).date()
    before, after = (
        (each + ahead).date() == day and would(each) for each in (at - MINUTE, at + MINUTE)
    )
    return not after and (not before or not board.end_opens)


@settings(max_examples=10, deadline=None)
@given(earlier=sites(), site=sites(), end_opens=st.booleans())
def test_a_controller_alone_opens_when_the_records_would_for_a_week_and_never_else(
    earlier: tuple[Rows, datetime], site: tuple[Rows, datetime], end_opens: bool
) -> None:
    board = foreign(end_opens)
    written(board, earlier, site)
    assert CYD not in board.cards
    rows, now = site
    records = compiled(rows)
    ahead = ahead_of_utc(records, now)
    week = [now + number * DAY for number in range(7)]
    same = [ahead_of_utc(records, at + DAY) == ahead for at in week]
    exact = sum(1 for _ in takewhile(bool, same)) - 1
    last = (now + ahead).date() + exact * DAY
    whole = "valid_until" not in rows[-1]
    egress = records.tables.doors["front"].egress
    for at in probes(records, now):
        for door, number in product(DOORS, (ANN, BEN)):
            alone = opens_alone(board, ahead, door, number, at)
            would = partial(grants, records, now, door, number)
            # A clock that is set forward or back with the site's is no wider either.
            if alone or opens_alone(board, ahead_of_utc(records, at), door, number, at):
                assert would(at), (at, door, number)
            elif (at + ahead).date() < last and whole and (egress or door != 1) and would(at):
                assert is_said(board, ahead, at, would), (at, door, number)


@settings(max_examples=10, deadline=None)
@given(changed=changed_sites())
def test_a_gateway_that_ends_halfway_leaves_no_door_wider_than_before_or_after(
    changed: tuple[Rows, Rows, datetime],
) -> None:
    before, after, now = changed
    board = Controller(7)
    written(board, (before, now))
    states = written(board, (after, now))
    ahead = ahead_of_utc(compiled(after), now)
    both = compiled(before), compiled(after)
    for at in {at for records in both for at in probes(records, now, 8, (-1, 0))}:
        for door, number in product(DOORS, (ANN, BEN)):
            if not any(grants(records, now, door, number, at) for records in both):
                for state in states:
                    assert not opens_alone(state, ahead, door, number, at), (at, door, number)


# --- Some records ---------------------------------------------------------------------------------

JUNE = datetime(2026, 6, 15, 10, tzinfo=UTC)
"""A Monday."""
OFFICE = "mon tue wed thu fri"


def office(*closed: str, hours: list[list[str]] | None = None) -> Rows:
    """Ann in a group with office hours, and days on which the office is closed."""
    schedule = week("office", hours or [["09:00", "17:00"]], OFFICE)
    return [
        *record_rows(),
        {"type": "calendar", "id": "x", "dates": dict.fromkeys(closed, "holiday")},
        {**schedule, "holidays": [{"calendar": "x", "intervals": []}]},
        group("office"),
        holder("ann", "office"),
        credential(ANN, "ann"),
    ]


def open_days(board: Controller, since: datetime) -> list[date]:
    """The days in local time, from `since` on, on which Ann can come in at noon."""
    days = [since.replace(hour=11) + number * DAY for number in range(AHEAD)]
    return [day.date() for day in days if opens_alone(board, 1 * HOUR, 1, ANN, day)]


def test_plain_office_hours_are_the_records_for_thirty_days() -> None:
    board = Controller(7)
    written(board, (office(), JUNE))
    records = compiled(office())
    for at in probes(records, JUNE, days=29):
        alone = opens_alone(board, 1 * HOUR, 1, ANN, at)
        assert alone == grants(records, JUNE, 1, ANN, at), at
    assert open_days(board, JUNE)[-1] == date(2026, 7, 14)


def test_a_closed_day_of_this_week_is_closed_every_week_and_a_later_one_ends_the_hours() -> None:
    board = Controller(7)
    written(board, (office("2026-06-17"), JUNE))
    days = open_days(board, JUNE)
    assert {day.strftime("%a") for day in days} == {"Mon", "Tue", "Thu", "Fri"}
    assert days[-1] == date(2026, 7, 14)
    written(board, (office(), JUNE))
    assert open_days(board, JUNE)[-1] == date(2026, 7, 14)
    written(board, (office("2026-06-26"), JUNE))
    assert open_days(board, JUNE)[-1] == date(2026, 6, 25)


def test_hours_end_before_the_clocks_change() -> None:
    for day in (15, 22):
        board = Controller(7)
        now = datetime(2026, 10, day, 10, tzinfo=UTC)
        written(board, (office(), now))
        assert open_days(board, now)[-1] == date(2026, 10, 23)


def test_changed_hours_cost_one_message_and_no_card() -> None:
    board = Controller(7)
    assert len(written(board, (office(), JUNE))) == 2
    assert len(written(board, (office(hours=[["08:00", "16:00"]]), JUNE))) == 1
    assert not opens_alone(board, 1 * HOUR, 1, ANN, JUNE.replace(hour=15, minute=30))
    assert written(board, (office(hours=[["08:00", "16:00"]]), JUNE + 6 * DAY)) == []


def test_a_holiday_of_one_schedule_holds_though_another_has_the_same_hours() -> None:
    other = week("other", [["09:00", "17:00"]], OFFICE)
    rows = [*office("2026-06-26"), other, group("other"), holder("ben", "other"),
            credential(BEN, "ben"), holder("cyd", "other"), credential(CYD, "cyd")]  # fmt: skip
    board = Controller(7)
    for day in range(3):
        written(board, (rows, JUNE + day * DAY))
        assert open_days(board, JUNE)[-1] == date(2026, 6, 25)
        assert opens_alone(board, 1 * HOUR, 1, BEN, JUNE + 11 * DAY)
    assert written(board, (rows, JUNE + 3 * DAY)) == []


def test_a_clock_that_may_be_wrong_takes_cards_with_hours_off() -> None:
    board = Controller(7)
    written(board, (office(), JUNE))
    assert board.cards
    written(board, (office(), JUNE), trusted=False)
    assert not board.cards


def test_a_site_whose_clocks_are_set_to_another_zone_has_its_hours_by_no_wrong_clock() -> None:
    board = Controller(7)
    here, there = (
        [{**row, "timezone": {"site": zone, "schedule": "Europe/London"}[row["type"]]}
         if row["type"] in {"site", "schedule"} else row for row in office()]
        for zone in ("Europe/London", "Asia/Tokyo")
    )  # fmt: skip
    written(board, (here, JUNE))
    records = compiled(here)
    for state in written(board, (there, JUNE), pages=(*PAGES, CLOCK)):
        for at in probes(records, JUNE, 8, (-1, 0)):
            alone = state.judged(1, ANN, state.clock(on_board(at))) == PASS
            assert not alone or grants(records, JUNE, 1, ANN, at), at
    assert opens_alone(board, 9 * HOUR, 1, ANN, JUNE + DAY)


def two_more() -> Rows:
    """Ann with office hours, Ben and Cyd at any hour."""
    more = [holder("ben", "g"), credential(BEN, "ben"), holder("cyd", "g"), credential(CYD, "cyd")]
    return [*office(), *more]


def test_a_card_that_is_refused_keeps_no_other_off_and_is_tried_less_and_less_often() -> None:
    board = Controller(7, room=2)

    async def journey() -> None:
        clock = VirtualClock()
        clock.shift = JUNE - START
        driver = OnDesk(1, board, clock)
        force = InForce(compiled(two_more()), "r1", None)
        member = Member(driver, "front", lambda: True, lambda: True)
        lists = CardLists([member], lambda: force, clock)
        await lists.imported(b"\n".join(json.dumps(row).encode() for row in two_more()))
        keeping = asyncio.create_task(lists.run())
        await asyncio.sleep(3600)
        assert len(board.cards) == 2
        assert 12 < driver.asked[0x50] < 30
        assert driver.asked[CARDS] == 1, "what is there is known"
        (out,) = {ANN, BEN, CYD} - board.cards.keys()
        gone = next(iter(board.cards))
        rows = [{**row, "status": "lost"} if row["id"] == f"c-{gone}" else row
                for row in two_more()]  # fmt: skip
        force = InForce(compiled(rows), "r2", None)
        await asyncio.sleep(2)  # a change waits for no pause
        assert gone not in board.cards
        assert out in board.cards
        keeping.cancel()
        await asyncio.wait((keeping,))

    run(journey())


def test_a_controller_that_tells_no_profiles_has_the_cards_that_need_none() -> None:
    board = Controller(7, unknown=frozenset({0x98}))
    with capture_logs() as said:
        written(board, (two_more(), JUNE))
    assert set(board.cards) == {BEN, CYD}
    assert not board.profiles
    whys = [each["why"] for each in said if each["event"] == "card list not written"]
    assert whys[-1] == (
        "the board doesn't answer (time profiles): cards with hours are not on its list"
    )


def test_a_revocation_does_not_wait_for_the_rest_of_a_long_list() -> None:
    def crowd(lost: int = -1) -> Rows:
        status = {lost: "lost"}
        cards = (credential(ANN + at, "ann", status=status.get(at, "active")) for at in range(50))
        return [*office()[:-1], *cards]

    async def journey() -> list[Controller]:
        clock = VirtualClock()
        clock.shift = JUNE - START
        driver = OnDesk(1, Controller(7), clock)
        force = InForce(compiled(crowd()), "r1", None)

        def revoke() -> None:
            nonlocal force
            if len(driver.states) == 11:
                force = InForce(compiled(crowd(lost=3)), "r2", None)

        driver.paged = revoke
        member = Member(driver, "front", lambda: True, lambda: True)
        lists = CardLists([member], lambda: force, clock)
        await lists.imported(b"\n".join(json.dumps(row).encode() for row in crowd()))
        keeping = asyncio.create_task(lists.run())
        await asyncio.sleep(SETTLED_S)
        keeping.cancel()
        await asyncio.wait((keeping,))
        return driver.states

    states = run(journey())
    assert len(states[10].cards) == 10
    assert set(states[10].cards) - set(states[11].cards) == {ANN + 3}
    assert len(states[-1].cards) == 49


def shifts(count: int) -> Rows:
    """Schedules with other hours every day: seven profiles each."""
    return [
        {"type": "schedule", "id": f"s{number:02}", "weekly": {
            day: [[f"{at + 1:02}:{number:02}", f"{at + 9:02}:{20 + number:02}"]]
            for at, day in enumerate(WEEKDAYS)}}
        for number in range(count)
    ]  # fmt: skip


def test_hours_for_which_there_is_no_room_stay_out_and_are_said() -> None:
    rows = [*record_rows(), *shifts(37)]
    for number in range(37):
        name = f"s{number:02}"
        rows += [group(name), holder(f"h{number}", name), credential(ANN + number, f"h{number}")]
    board = Controller(7)
    with capture_logs() as said:
        written(board, (rows, JUNE))
    assert len(board.profiles) == 36 * 7
    assert len(board.cards) == 36
    (left_out,) = {name for each in said for name in each.get("schedules", ())}
    missing = ANN + int(left_out[1:])
    assert missing not in board.cards


def test_where_mixed_hours_have_no_room_the_longest_of_them_stand_in() -> None:
    rows = [*record_rows(), *shifts(10), *(group(f"s{number:02}") for number in range(10))]
    pairs = list(combinations(range(10), 2))
    for number, (one, other) in enumerate(pairs):
        name = f"h{number}"
        rows += [holder(name, f"s{one:02}", f"s{other:02}"), credential(ANN + number, name)]
    board = Controller(7)
    written(board, (rows, JUNE))
    records = compiled(rows)
    assert len(board.cards) == len(pairs)
    assert len(board.profiles) <= LAST - 1
    mixed = 0
    for at in probes(records, JUNE, 2, (0,)):
        for number, pair in enumerate(pairs):
            alone = opens_alone(board, 1 * HOUR, 1, ANN + number, at)
            would = [records.hours[f"s{each:02}"].is_open(at) for each in pair]
            assert any(would) or not alone
            assert alone or not would[0]
            mixed += alone and not would[0]
    assert mixed, "some mixtures had room"
