"""Many small changes within a day are weighed as the large one that they make together."""

from collections.abc import Iterable
from datetime import timedelta

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.domain.entitlements import ValidRecords
from gateway.domain.impact import LIMITS, Limits, impact
from gateway.domain.impact_window import (
    GRANTS_MAX,
    HOLDERS_MAX,
    Hour,
    Recent,
    reasons,
    still_recent,
    with_change,
)
from tests.domain.sites import JsonObject
from tests.domain.test_impact import (
    AT,
    BAN,
    BOOKED,
    LATER,
    MEMBERS,
    ROOM,
    STAFF,
    holders,
    records,
)

HOUR = timedelta(hours=1)
FEW = Limits(grants_min=3, restricted_holders_max=1)


def refused_at(
    sets: Iterable[ValidRecords],
    limits: Limits = LIMITS,
    *,
    apart: timedelta = timedelta(),
    one_holder: bool = True,
) -> tuple[int | None, tuple[str, ...], Recent]:
    """Which step is refused if they come one after the other, why, and what is recent then.

    With `one_holder` false, what one holder loses counts as what many lose.
    """
    was, *steps = sets
    recent: Recent = ()
    for number, new in enumerate(steps, start=1):
        at = AT + number * apart
        change = impact(was, new, at)
        change = change._replace(one_holder=one_holder and change.one_holder)
        recent = still_recent(recent, at, limits)
        if why := reasons(change, recent, limits):
            return number, why, recent
        recent = with_change(recent, change, at)
        was = new
    return None, (), recent


def cancelled(*counts: int) -> list[ValidRecords]:
    """Of a hundred members so many have lost their grants."""
    return [records(*holders(count, status="ended")) for count in counts]


def test_what_small_changes_take_together_is_refused_where_the_large_one_would_be() -> None:
    assert refused_at(cancelled(0, 30))[0] == 1
    number, (why,), _ = refused_at(cancelled(0, 5, 10, 15, 20, 25, 30))
    assert number == 5
    assert why == (
        "with what came in the 24 h before it takes 50 of 200 grants and 25% of their hours away:"
        " more than 20%"
    )


def test_what_is_given_and_the_restricted_are_counted_together_too() -> None:
    steps = [records(*holders(100 - count, groups=[])) for count in (30, 40, 50, 60)]
    assert refused_at(steps)[0] == 2
    staff = [records(*holders(count, groups=[MEMBERS, STAFF])) for count in (0, 2, 3, 4)]
    number, (why,), recent = refused_at(staff)
    assert number == 3
    assert why.endswith("to 4 more holders or cards of theirs: more than 3")
    assert "h0" not in repr(recent)


def test_the_same_people_count_once_in_a_restricted_zone() -> None:
    there, gone = records(*holders(3, groups=[MEMBERS, STAFF])), records()
    assert refused_at([gone, there, gone, there, gone, there])[0] is None


def test_the_day_after_counts_anew_and_ordinary_days_are_never_refused() -> None:
    slowly = cancelled(*range(0, 61, 10))
    assert refused_at(slowly)[0] == 3
    assert refused_at(slowly, apart=timedelta(hours=26))[0] is None
    # A month of days on which two in a hundred leave, as many come and a few move their bookings.
    days = [
        records(*holders(2 * (day % 4), status="ended"), *holders(3, groups=[MEMBERS, BOOKED]))
        for day in range(30)
    ]
    assert refused_at(days, apart=timedelta(hours=8))[0] is None


def test_whoever_only_gives_is_not_charged_with_what_others_took() -> None:
    was, taken, fewer, lost = cancelled(0, 20, 22, 21)
    _, _, recent = refused_at([was, taken])
    (hour,) = recent
    exhausted = (hour._replace(taken=80),)
    assert reasons(impact(taken, was, AT), exhausted) == ()
    assert reasons(impact(taken, taken, AT), exhausted) == ()
    assert len(reasons(impact(taken, fewer, AT), exhausted)) == 1
    # What one person loses is never refused for what others lost: a stolen card is out at once.
    assert reasons(impact(taken, lost, AT), exhausted) == ()
    assert (
        reasons(impact(taken, records(*holders(20, status="ended"), STOLEN_25), AT), exhausted)
        == ()
    )


STOLEN_25: JsonObject = {"type": "credential", "id": "c25", "status": "stolen"}


def test_a_stolen_card_is_out_even_where_nobody_else_is_left() -> None:
    was = records(people=1)
    alone = impact(was, records({"type": "credential", "id": "c0", "status": "lost"}, people=1), AT)
    assert alone.emptied
    assert alone.needs_second_signature() == ()


BOOKINGS: tuple[JsonObject, ...] = (ROOM, {**ROOM, "status": "cancelled"})
STOLEN: JsonObject = {"type": "credential", "id": "c7", "status": "stolen"}


def test_whoever_books_and_cancels_all_day_keeps_no_stolen_card_in_force() -> None:
    booked, cancelled = (records(booking) for booking in BOOKINGS)
    day = [cancelled, *[booked, cancelled] * 150]
    number, _, recent = refused_at(day, apart=HOUR / 15)
    assert number is None
    assert sum(len(hour.grants_taken) for hour in recent) == 2  # the room, and the way to it
    assert reasons(impact(cancelled, records(BOOKINGS[1], STOLEN), AT), recent) == ()


def test_what_is_taken_again_counts_from_then_on() -> None:
    booked, cancelled = (records(booking) for booking in BOOKINGS)
    taken, given = impact(booked, cancelled, AT), impact(cancelled, booked, AT)
    recent: Recent = ()
    for hour, change in enumerate((taken, given, taken)):
        recent = with_change(recent, change, AT + hour * HOUR)
    assert [len(hour.grants_taken) for hour in recent] == [0, 0, 2]
    assert still_recent(recent, AT + 26 * HOUR)[-1:] == recent[-1:]


def test_beyond_what_can_be_remembered_each_one_counts() -> None:
    booked, cancelled = (records(booking) for booking in BOOKINGS)
    change = impact(booked, cancelled, AT)
    (hour,) = with_change((), change, AT)
    full: Recent = (hour._replace(grants_taken=tuple(f"{n:016x}" for n in range(GRANTS_MAX))),)
    for times in (1, 2):
        full = with_change(full, change, AT)
        assert (full[0].taken, len(full[0].grants_taken)) == (2 * times, GRANTS_MAX)


def test_an_hour_ahead_neither_stays_for_years_nor_is_forgotten() -> None:
    _, _, recent = refused_at(cancelled(0, 5))
    ahead = (*recent, recent[0]._replace(number=recent[0].number + 90_000))
    (now,) = still_recent(ahead, AT)
    assert now.number == recent[0].number
    assert len(now.grants_taken) == 10
    assert still_recent((now,), AT + timedelta(hours=24)) == (now,)
    assert still_recent((now,), AT + timedelta(hours=25)) == ()


def test_what_is_kept_has_no_more_hours_than_the_window() -> None:
    limits = Limits(taken_share_max=1.0, window=timedelta(hours=5))
    steps = cancelled(*(number % 2 for number in range(40)))
    _, _, recent = refused_at(steps, limits, apart=HOUR / 2)
    assert len(recent) <= 7
    assert (
        HOLDERS_MAX + 2 * GRANTS_MAX
    ) * 20 < 256 * 1024 // 2  # half of what the cache's pointer may have


GROUPS = st.sampled_from(([], [MEMBERS], [STAFF], [MEMBERS, STAFF], [MEMBERS, BOOKED]))
CHANGES: st.SearchStrategy[JsonObject] = st.one_of(
    st.builds(
        lambda number, groups, status: {
            "type": "holder", "id": f"h{number}", "groups": groups, "status": status,
        },
        st.integers(0, 7), GROUPS, st.sampled_from(("active", "active", "ended")),
    ),
    st.builds(
        lambda number, until: {"type": "credential", "id": f"c{number}", "valid_until": until},
        st.integers(0, 7), st.sampled_from((None, "2026-06-03T00:00:00Z", LATER)),
    ),
    st.builds(
        lambda number, begins: {"type": "holder", "id": f"h{number}", "valid_from": begins},
        st.integers(0, 7), st.sampled_from((None, "2026-06-20T00:00:00Z")),
    ),
    st.builds(
        lambda number, until, effect: {
            **BAN, "id": f"e{number}", "holder": f"h{number}", "from": "2026-06-20T00:00:00Z",
            "effect": effect, "until": until,
        },
        st.integers(0, 7), st.sampled_from((LATER, "2026-08-01T00:00:00Z")),
        st.sampled_from(("deny", "allow")),
    ),
    st.builds(
        lambda number, status: {**ROOM, "id": f"b{number}", "holders": [f"h{number}"],
                                "status": status},
        st.integers(0, 7), st.sampled_from(("confirmed", "cancelled")),
    ),
    st.builds(
        lambda number, value: {"type": "credential", "id": f"c{number}", "value": value},
        st.integers(0, 7), st.sampled_from(("AA", "BB")),
    ).map(lambda row: {**row, "value": str(row["id"])[1:].zfill(6) + str(row["value"])}),
    st.builds(
        lambda schedule: {"type": "door", "id": "front", "unlock_schedule": schedule},
        st.sampled_from((None, "BH", "24x7")),
    ),
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(CHANGES, min_size=1, max_size=4), min_size=1, max_size=6))
def test_no_split_of_a_change_gets_further_than_the_whole(steps: list[list[JsonObject]]) -> None:
    sets = [records(people=8)]
    done: list[JsonObject] = []
    for step in steps:
        done = [*done, *step]
        sets.append(records(*done, people=8))
    number, _, _ = refused_at(sets, FEW, one_holder=False)
    reached = sets if number is None else sets[:number]
    for new in reached:
        whole = impact(sets[0], new, AT)._replace(one_holder=False)
        assert whole.needs_second_signature(FEW) == ()


def test_nothing_is_kept_of_the_first_records_or_of_what_changes_nothing() -> None:
    there = records()
    assert with_change((), impact(there, there, AT), AT) == ()
    hour = Hour(0, 1, 1.0, 1, 0, 0, 0, 0.0, 0.0, ())
    assert with_change((hour,), impact(there, there, AT)._replace(first=True), AT) == (hour,)
