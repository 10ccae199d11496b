"""The door machine: a table of (state, fact), and what must hold after any history of facts."""

from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.domain import events
from gateway.domain.door_state import (
    OPENING_SLACK,
    PIN_WAIT,
    RELEASE_LEAD,
    Alarm,
    Contact,
    ContactSaid,
    Decided,
    DoorFact,
    DoorRules,
    DoorState,
    Effect,
    Indicate,
    Moment,
    PinWanted,
    PulseStrike,
    Record,
    Release,
    Released,
    ReleaseFailed,
    RexPressed,
    Strike,
    StrikeSaid,
    TimeReached,
    WakeAt,
    credentials_to_decide,
    step,
)

WALL = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)
RULES = DoorRules("front", unlock=timedelta(seconds=5), held_open=timedelta(seconds=30))
HANDLE = msgspec.structs.replace(RULES, unreleased_opening_is_forced=False)
CARD = ("uid", "04A1B2C3")


def s(seconds: float) -> timedelta:
    return timedelta(seconds=seconds)


def moment(seconds: float) -> Moment:
    return Moment(mono=s(seconds), wall=WALL + s(seconds), trust=2)


def decided(outcome: str, reason: str = "group", side: str = "in") -> Decided:
    event = events.AccessDecided(
        at=WALL,
        trust=2,
        door="front",
        side=side,
        device="reader",
        kinds=("uid",),
        outcome=outcome,
        reason=reason,
    )
    return Decided(event=event, presented_at=s(0), challenged=CARD, unlock=s(7))


def shape(effects: list[Effect]) -> list[str]:
    """Effects as short words, a record as the code of its event."""
    words = []
    for effect in effects:
        match effect:
            case Record():
                words.append(str(effect.event.__struct_config__.tag))
            case PulseStrike():
                words.append(f"pulse {effect.duration.total_seconds():g}")
            case Indicate():
                words.append(f"show {effect.signal}")
            case WakeAt():
                words.append(f"wake {effect.at.total_seconds():g}")
    return words


CLOSED = DoorState(contact=Contact.CLOSED)
RELEASED = DoorState(contact=Contact.CLOSED, release=Release("grant", 7, s(20)))
OPEN = DoorState(contact=Contact.OPEN, held_open_at=s(40))
FORCED = DoorState(contact=Contact.OPEN, alarms=frozenset({Alarm.FORCED_OPEN}))
HELD = DoorState(contact=Contact.OPEN, alarms=frozenset({Alarm.HELD_OPEN}))
WAITING = DoorState(pin_wanted=PinWanted("in", *CARD, until=s(20)))


@pytest.mark.parametrize(
    ("state", "fact", "at", "expected"),
    [
        (CLOSED, decided("grant"), 10, ["access", "pulse 7", "show granted"]),
        (CLOSED, decided("deny", "lockdown"), 10, ["access", "show denied"]),
        (CLOSED, decided("challenge"), 10, ["access", "show pin_wanted", "wake 30"]),
        (CLOSED, RexPressed(), 10, ["rex", "pulse 5"]),
        (OPEN, RexPressed(), 10, ["rex", "pulse 5"]),
        (CLOSED, ContactSaid(Contact.OPEN), 10, ["forced_open", "wake 40"]),
        (RELEASED, ContactSaid(Contact.OPEN), 10, ["opened", "wake 40"]),
        (RELEASED, ContactSaid(Contact.OPEN), 20, ["forced_open", "wake 50"]),
        (DoorState(), ContactSaid(Contact.OPEN), 10, ["wake 40"]),
        (DoorState(), ContactSaid(Contact.CLOSED), 10, []),
        (OPEN, ContactSaid(Contact.OPEN), 10, []),
        (OPEN, ContactSaid(Contact.CLOSED), 10, ["closed"]),
        (FORCED, ContactSaid(Contact.CLOSED), 10, ["closed", "alarm_restored"]),
        (HELD, ContactSaid(Contact.CLOSED), 10, ["closed", "alarm_restored"]),
        (OPEN, ContactSaid(Contact.UNKNOWN), 10, []),
        (OPEN, TimeReached(), 39.999, []),
        (OPEN, TimeReached(), 40, ["held_open"]),
        (HELD, TimeReached(), 80, []),
        (CLOSED, TimeReached(), 80, []),
        (CLOSED, StrikeSaid(Strike.ENERGISED), 10, []),
        (CLOSED, Released("grant", 7, s(5), s(0.01)), 10, ["unlocked"]),
        (CLOSED, ReleaseFailed("grant", 7, "x", "in"), 10, ["unlock_failed", "show fault"]),
        (CLOSED, ReleaseFailed("rex", 7, "x"), 10, ["unlock_failed"]),
    ],
)
def test_a_door_answers_a_fact_with_these_effects_in_this_order(
    state: DoorState, fact: DoorFact, at: float, expected: list[str]
) -> None:
    assert shape(step(RULES, state, fact, moment(at))[1]) == expected


def test_an_opening_by_the_handle_is_no_forced_door_where_no_switch_reports_the_handle() -> None:
    _, effects = step(HANDLE, CLOSED, ContactSaid(Contact.OPEN), moment(10))
    assert shape(effects) == ["opened", "wake 40"]


def test_a_leaf_that_opens_before_the_relay_has_confirmed_is_not_forced() -> None:
    state, _ = step(RULES, CLOSED, decided("grant"), moment(10))
    state, effects = step(RULES, state, ContactSaid(Contact.OPEN), moment(10.05))
    assert shape(effects)[0] == "opened"


def test_a_release_that_failed_excuses_no_opening() -> None:
    state, _ = step(RULES, CLOSED, decided("grant"), moment(10))
    state, _ = step(RULES, state, ReleaseFailed("grant", 1, "no answer", "in"), moment(10.1))
    _, effects = step(RULES, state, ContactSaid(Contact.OPEN), moment(10.2))
    assert shape(effects)[0] == "forced_open"


def test_a_rex_release_is_told_from_a_grant_when_the_door_opens() -> None:
    state, _ = step(RULES, CLOSED, RexPressed(), moment(10))
    state, _ = step(RULES, state, Released("rex", 3, s(5), s(0.01)), moment(10.1))
    _, effects = step(RULES, state, ContactSaid(Contact.OPEN), moment(11))
    assert isinstance(effects[0], Record)
    assert isinstance(effects[0].event, events.DoorOpened)
    assert (effects[0].event.cause, effects[0].event.seq) == ("rex", 3)


def test_a_release_lasts_for_its_pulse_and_no_longer() -> None:
    state, _ = step(RULES, CLOSED, Released("grant", 7, s(5), s(0.01)), moment(10))
    end = s(10) + s(5) + OPENING_SLACK
    assert state.release is not None
    assert state.release.until == end
    late = Moment(mono=end, wall=WALL, trust=2)
    assert shape(step(RULES, state, ContactSaid(Contact.OPEN), late)[1])[0] == "forced_open"


@pytest.mark.parametrize(
    ("side", "kind", "at", "count"),
    [("in", "pin", 10, 2), ("in", "pin", 20, 1), ("out", "pin", 10, 1), ("in", "uid", 10, 1)],
)
def test_only_a_pin_on_the_same_side_in_time_completes_a_waiting_card(
    side: str, kind: str, at: float, count: int
) -> None:
    found = credentials_to_decide(WAITING, side, kind, "1234", s(at))  # type: ignore[arg-type]
    assert len(found) == count
    assert found[-1] == (kind, "1234")


@pytest.mark.parametrize("outcome", ["grant", "deny"])
def test_a_decision_ends_the_waiting_for_a_pin(outcome: str) -> None:
    assert step(RULES, WAITING, decided(outcome), moment(10))[0].pin_wanted is None


def test_a_card_waits_for_its_pin_only_so_long() -> None:
    state, _ = step(RULES, CLOSED, decided("challenge"), moment(10))
    assert state.pin_wanted is not None
    just_before = Moment(mono=s(10) + PIN_WAIT - s(0.001), wall=WALL, trust=2)
    assert step(RULES, state, TimeReached(), just_before)[0].pin_wanted is not None
    then = Moment(mono=s(10) + PIN_WAIT, wall=WALL, trust=2)
    assert step(RULES, state, TimeReached(), then)[0].pin_wanted is None


def test_neither_state_nor_fact_prints_a_credential() -> None:
    assert CARD[1] not in repr(WAITING)


seqs = st.none() | st.integers(1, 9)
facts: st.SearchStrategy[DoorFact] = st.one_of(
    st.builds(decided, st.sampled_from(["grant", "deny", "challenge"])),
    st.builds(RexPressed),
    st.builds(ContactSaid, st.sampled_from(Contact)),
    st.builds(StrikeSaid, st.sampled_from(Strike)),
    st.builds(Released, st.sampled_from(["grant", "rex"]), seqs, st.just(s(5)), st.just(s(0.01))),
    st.builds(ReleaseFailed, st.sampled_from(["grant", "rex"]), seqs, st.just("why")),
    st.builds(TimeReached),
)


@given(st.lists(st.tuples(facts, st.floats(0, 60)), max_size=40))
def test_after_any_history_every_pulse_has_its_record_and_every_alarm_its_end(
    history: list[tuple[DoorFact, float]],
) -> None:
    state, now, alarms = DoorState(), 0.0, 0
    for fact, passed in history:
        now += passed
        before = state
        state, effects = step(RULES, state, fact, moment(now))
        words = shape(effects)
        pulses = [word for word in words if word.startswith("pulse")]
        assert len(pulses) == (isinstance(fact, RexPressed) or words[:2] == ["access", "pulse 7"])
        for index, effect in enumerate(effects):
            if isinstance(effect, PulseStrike):
                assert isinstance(effects[index - 1], Record)
        if isinstance(fact, Decided) and fact.event.outcome != "grant":
            assert not pulses
            assert state.release == before.release
        alarms += len({"forced_open", "held_open"}.intersection(words))
        alarms -= words.count("alarm_restored")
        assert alarms == len(state.alarms) or state.contact is Contact.UNKNOWN
        if state.contact is Contact.CLOSED:
            assert not state.alarms
        assert state.held_open_at is None or state.contact is Contact.OPEN
        assert state.release is None or state.release.until <= s(now) + RELEASE_LEAD + s(8)
