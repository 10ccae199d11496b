"""The door machine: a table of (state, fact), and what must hold after any history of facts."""

from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.domain import events
from gateway.domain.door_state import (
    OPEN_MODES,
    OPENING_SLACK,
    PASSAGES_MAX,
    PIN_WAIT,
    RELEASE_LEAD,
    Alarm,
    Contact,
    ContactSaid,
    Decided,
    DecidePin,
    DoorFact,
    DoorRules,
    DoorState,
    Effect,
    Indicate,
    LeftUnseen,
    Mode,
    ModeChanged,
    Moment,
    Pending,
    PinFirst,
    PinHeld,
    PinWanted,
    PulseStrike,
    Record,
    Release,
    Released,
    ReleaseFailed,
    RelockFailed,
    RestStrike,
    RexPressed,
    Settle,
    Strike,
    StrikeSaid,
    TimeReached,
    WakeAt,
    credentials_to_decide,
    may_be_open,
    pin_held,
    step,
)
from gateway.domain.restrictions import Passage

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


def lets_in() -> Decided:
    return msgspec.structs.replace(decided("grant"), passage=PASSAGE)


def set_mode(mode: Mode) -> ModeChanged:
    event = events.ModeChanged(at=WALL, trust=2, door="front", mode=mode, source="hand")
    return ModeChanged(mode, event)


def shape(effects: list[Effect]) -> list[str]:
    """Effects as short words, a record as the code of its event."""
    words = []
    for effect in effects:
        match effect:
            case Record():
                words.append(str(effect.event.__struct_config__.tag))
            case PulseStrike():
                at_once = "" if effect.wait_for_commit else " at once"
                words.append(f"pulse {effect.duration.total_seconds():g}{at_once}")
            case RestStrike():
                words.append("rest")
            case DecidePin():
                words.append("decide pin")
            case LeftUnseen():
                words.append("left")
            case Settle():
                how = "seen" if effect.seen else "passed" if effect.entered else "stayed"
                words.append(how)
            case Indicate():
                words.append(f"show {effect.signal}")
            case WakeAt():
                words.append(f"wake {effect.at.total_seconds():g}")
    return words


CLOSED = DoorState(contact=Contact.CLOSED)
RELEASED = DoorState(contact=Contact.CLOSED, release=Release("grant", 7, s(20), s(19)))
OPEN = DoorState(contact=Contact.OPEN, held_open_at=s(40))
FORCED = DoorState(contact=Contact.OPEN, alarms=frozenset({Alarm.FORCED_OPEN}))
HELD = DoorState(contact=Contact.OPEN, alarms=frozenset({Alarm.HELD_OPEN}))
PASSAGE = Passage(s(0), "in", "club", ("sam",))
EXPECTED = DoorState(
    contact=Contact.CLOSED,
    release=Release("grant", 7, s(20), s(19)),
    pending=(Pending(1, PASSAGE, s(20)),),
)
AT_OPEN_DOOR = DoorState(
    contact=Contact.OPEN, pending=(Pending(1, PASSAGE, s(20), at_open_door=True),)
)
RELEASED_BY_REX = DoorState(contact=Contact.CLOSED, release=Release("rex", 7, s(20), s(19)))
WARNED = DoorState(contact=Contact.OPEN, held_open_at=s(40), warn_at=s(30))
BUZZING = DoorState(contact=Contact.OPEN, held_open_at=s(40), warn_at=s(32))
UNLOCKED = DoorState(contact=Contact.CLOSED, mode="unlocked", renew_at=s(12))
HOLDING = msgspec.structs.replace(UNLOCKED, hold_seq=3)
NOT_HOLDING = msgspec.structs.replace(UNLOCKED, hold_failed=True)
UNLOCKED_OPEN = msgspec.structs.replace(UNLOCKED, contact=Contact.OPEN)
UNLOCKED_FOR_SAM = msgspec.structs.replace(UNLOCKED, release=Release("grant", 7, s(20), s(19)))
WATCHED = ["wake 30", "wake 40"]
BUZZ = ["show held_open", "show held_open"]
PIN_HELD = DoorState(pins_held=(PinHeld("in", "keypad", "2468", s(20)),))
WAITING = DoorState(pins_wanted=(PinWanted("in", *CARD, until=s(20)),))


@pytest.mark.parametrize(
    ("state", "fact", "at", "expected"),
    [
        (CLOSED, decided("grant"), 10, ["access", "pulse 7", "show granted"]),
        (CLOSED, decided("deny", "lockdown"), 10, ["access", "show denied"]),
        (CLOSED, decided("challenge"), 10, ["access", "show pin_wanted", "wake 30"]),
        (CLOSED, RexPressed(), 10, ["rex", "pulse 5 at once"]),
        (OPEN, RexPressed(), 10, ["rex", "pulse 5 at once"]),
        (CLOSED, ContactSaid(Contact.OPEN), 10, ["forced_open", *WATCHED]),
        (RELEASED, ContactSaid(Contact.OPEN), 10, ["opened", *WATCHED]),
        (RELEASED, ContactSaid(Contact.OPEN), 20, ["forced_open", "wake 40", "wake 50"]),
        (DoorState(), ContactSaid(Contact.OPEN), 10, WATCHED),
        (DoorState(), ContactSaid(Contact.CLOSED), 10, []),
        (OPEN, ContactSaid(Contact.OPEN), 10, []),
        (OPEN, ContactSaid(Contact.CLOSED), 10, ["closed"]),
        (FORCED, ContactSaid(Contact.CLOSED), 10, ["closed", "alarm_restored"]),
        (HELD, ContactSaid(Contact.CLOSED), 10, ["closed", "alarm_restored"]),
        (OPEN, ContactSaid(Contact.UNKNOWN), 10, []),
        (OPEN, TimeReached(), 39.999, []),
        (OPEN, TimeReached(), 40, ["held_open", *BUZZ]),
        (WARNED, TimeReached(), 29.9, []),
        (WARNED, TimeReached(), 30, ["held_open_warning", *BUZZ, "wake 32"]),
        (BUZZING, TimeReached(), 32, [*BUZZ, "wake 34"]),
        (BUZZING, TimeReached(), 40, ["held_open", *BUZZ]),
        (WARNED, ContactSaid(Contact.CLOSED), 31, ["closed"]),
        (HELD, TimeReached(), 80, []),
        (CLOSED, TimeReached(), 80, []),
        (CLOSED, StrikeSaid(Strike.ENERGISED), 10, []),
        (CLOSED, lets_in(), 10, ["access", "pulse 7", "show granted", "wake 21"]),
        (EXPECTED, ContactSaid(Contact.OPEN), 10, ["opened", "seen", "entered", *WATCHED]),
        (EXPECTED, TimeReached(), 19.9, []),
        (EXPECTED, TimeReached(), 20, ["stayed", "not_entered"]),
        (AT_OPEN_DOOR, TimeReached(), 20, ["passed", "entered"]),
        (
            EXPECTED,
            ReleaseFailed("grant", 7, "x", "in", grant=1),
            10,
            ["stayed", "unlock_failed", "show fault"],
        ),
        (EXPECTED, Released("grant", 7, s(5), s(0), grant=1), 10, ["unlocked", "wake 16"]),
        (RELEASED_BY_REX, ContactSaid(Contact.OPEN), 10, ["left", "opened", *WATCHED]),
        (CLOSED, RelockFailed("x"), 10, ["relock_failed"]),
        (CLOSED, set_mode("unlocked"), 10, ["mode_changed", "wake 12", "pulse 6"]),
        (CLOSED, set_mode("evacuation"), 10, ["mode_changed", "wake 12", "pulse 6 at once"]),
        (CLOSED, set_mode("lockdown"), 10, ["mode_changed"]),
        (HELD, set_mode("unlocked"), 10, ["alarm_restored", "mode_changed", "wake 12", "pulse 6"]),
        (UNLOCKED, TimeReached(), 11.9, []),
        (UNLOCKED, TimeReached(), 12, ["wake 14", "pulse 6 at once"]),
        (UNLOCKED, ContactSaid(Contact.OPEN), 11, ["opened"]),
        (UNLOCKED, RexPressed(), 11, ["rex", "pulse 6 at once"]),
        (UNLOCKED, decided("grant"), 11, ["access", "pulse 7", "show granted"]),
        (UNLOCKED, set_mode("controlled"), 11, ["mode_changed", "rest"]),
        (UNLOCKED_OPEN, set_mode("lockdown"), 10, ["mode_changed", *WATCHED, "rest"]),
        (UNLOCKED_FOR_SAM, set_mode("controlled"), 11, ["mode_changed", "pulse 8 at once"]),
        (UNLOCKED, Released("mode", 3, s(6), s(0)), 11, ["unlocked"]),
        (HOLDING, Released("mode", None, s(6), s(0)), 11, []),
        (UNLOCKED, ReleaseFailed("mode", 3, "x"), 11, ["unlock_failed"]),
        (NOT_HOLDING, ReleaseFailed("mode", None, "x"), 11, []),
        (CLOSED, decided("deny", "clock_untrusted"), 10, ["access", "show fault"]),
        (CLOSED, decided("deny", "second_person_required"), 10, ["access", "show pin_wanted"]),
        (CLOSED, Released("grant", 7, s(5), s(0.01)), 10, ["unlocked"]),
        (CLOSED, ReleaseFailed("grant", 7, "x", "in"), 10, ["unlock_failed", "show fault"]),
        (CLOSED, ReleaseFailed("rex", 7, "x"), 10, ["unlock_failed"]),
        (CLOSED, PinFirst("in", "keypad", "2468"), 10, ["show pin_wanted", "wake 30"]),
        (PIN_HELD, TimeReached(), 19.9, []),
        (PIN_HELD, TimeReached(), 20, ["decide pin"]),
    ],
)
def test_a_door_answers_a_fact_with_these_effects_in_this_order(
    state: DoorState, fact: DoorFact, at: float, expected: list[str]
) -> None:
    assert shape(step(RULES, state, fact, moment(at))[1]) == expected


def test_a_pin_waits_on_its_own_side_until_a_decision_or_its_time_and_is_never_shown() -> None:
    state, _ = step(RULES, CLOSED, PinFirst("in", "keypad", "2468"), moment(10))
    assert pin_held(state, "in") is not None
    assert pin_held(state, "out") is None
    assert "2468" not in f"{state}{PinFirst('in', 'keypad', '2468')}"
    left, _ = step(RULES, state, decided("deny", side="out"), moment(11))
    assert pin_held(left, "in") is not None
    for over in (decided("deny"), decided("challenge")):
        assert pin_held(step(RULES, state, over, moment(11))[0], "in") is None
    assert pin_held(step(RULES, state, TimeReached(), moment(30))[0], "in") is None


def test_an_opening_by_the_handle_is_no_forced_door_where_no_switch_reports_the_handle() -> None:
    _, effects = step(HANDLE, CLOSED, ContactSaid(Contact.OPEN), moment(10))
    assert shape(effects) == ["opened", *WATCHED]


def test_a_leaf_that_opens_before_the_relay_has_confirmed_is_not_forced() -> None:
    state, _ = step(RULES, CLOSED, decided("grant"), moment(10))
    state, effects = step(RULES, state, ContactSaid(Contact.OPEN), moment(10.05))
    assert shape(effects)[0] == "opened"


def test_a_release_that_failed_excuses_no_opening() -> None:
    state, _ = step(RULES, CLOSED, decided("grant"), moment(10))
    state, _ = step(RULES, state, ReleaseFailed("grant", 1, "no answer", "in"), moment(10.1))
    _, effects = step(RULES, state, ContactSaid(Contact.OPEN), moment(10.2))
    assert shape(effects)[0] == "forced_open"


def test_a_release_that_failed_takes_nothing_from_one_that_was_confirmed_before() -> None:
    state, _ = step(RULES, CLOSED, decided("grant"), moment(10))
    state, _ = step(RULES, state, Released("grant", 1, s(7), s(0.01)), moment(10.1))
    state, _ = step(RULES, state, RexPressed(), moment(11))
    state, _ = step(RULES, state, ReleaseFailed("rex", 2, "no answer"), moment(11.5))
    _, effects = step(RULES, state, ContactSaid(Contact.OPEN), moment(12))
    assert shape(effects)[0] != "forced_open"


@pytest.mark.parametrize("fact", [RexPressed(), decided("grant")])
def test_a_shorter_pulse_does_not_cut_short_what_somebody_else_was_given(fact: DoorFact) -> None:
    state, _ = step(RULES, CLOSED, Released("grant", 1, s(15), s(0.01)), moment(10))
    state, effects = step(RULES, state, fact, moment(12))
    pulse = next(effect for effect in effects if isinstance(effect, PulseStrike))
    assert pulse.duration == s(13)
    state, _ = step(RULES, state, Released("rex", 2, pulse.duration, s(0.01)), moment(12.1))
    assert state.release is not None
    assert state.release.until >= s(25)


def test_a_door_found_open_after_its_contact_was_lost_is_told_of() -> None:
    lost, _ = step(RULES, CLOSED, ContactSaid(Contact.UNKNOWN), moment(10))
    found, effects = step(RULES, lost, ContactSaid(Contact.OPEN), moment(20))
    assert shape(effects)[0] == "opened"
    assert isinstance(effects[0], Record)
    assert isinstance(effects[0].event, events.DoorOpened)
    assert effects[0].event.cause == "unseen"
    again, _ = step(RULES, found, ContactSaid(Contact.UNKNOWN), moment(30))
    assert shape(step(RULES, again, ContactSaid(Contact.OPEN), moment(40))[1])[0] != "opened"


def test_a_rex_release_is_told_from_a_grant_when_the_door_opens() -> None:
    state, _ = step(RULES, CLOSED, RexPressed(), moment(10))
    state, _ = step(RULES, state, Released("rex", 3, s(5), s(0.01)), moment(10.1))
    _, effects = step(RULES, state, ContactSaid(Contact.OPEN), moment(11))
    assert isinstance(effects[1], Record)
    assert isinstance(effects[1].event, events.DoorOpened)
    assert (effects[1].event.cause, effects[1].event.seq) == ("rex", 3)


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
    assert step(RULES, WAITING, decided(outcome), moment(10))[0].pins_wanted == ()


@pytest.mark.parametrize("outcome", ["grant", "deny", "challenge"])
def test_whoever_is_decided_on_the_other_side_ends_nobodys_waiting_for_a_pin(outcome: str) -> None:
    state, _ = step(RULES, WAITING, decided(outcome, side="out"), moment(10))
    assert len(credentials_to_decide(state, "in", "pin", "1234", s(10))) == 2
    asked = outcome == "challenge"
    assert len(credentials_to_decide(state, "out", "pin", "1234", s(10))) == 1 + asked


def test_a_card_waits_for_its_pin_only_so_long() -> None:
    state, _ = step(RULES, CLOSED, decided("challenge"), moment(10))
    assert state.pins_wanted
    just_before = Moment(mono=s(10) + PIN_WAIT - s(0.001), wall=WALL, trust=2)
    assert step(RULES, state, TimeReached(), just_before)[0].pins_wanted
    then = Moment(mono=s(10) + PIN_WAIT, wall=WALL, trust=2)
    assert step(RULES, state, TimeReached(), then)[0].pins_wanted == ()


def test_neither_state_nor_fact_prints_a_credential() -> None:
    assert CARD[1] not in repr(WAITING)


seqs = st.none() | st.integers(1, 9)
facts: st.SearchStrategy[DoorFact] = st.one_of(
    st.builds(decided, st.sampled_from(["grant", "deny", "challenge"])),
    st.just(PinFirst("in", "keypad", "2468")),
    st.builds(RexPressed),
    st.builds(ContactSaid, st.sampled_from(Contact)),
    st.builds(StrikeSaid, st.sampled_from(Strike)),
    st.builds(Released, st.sampled_from(["grant", "rex"]), seqs, st.just(s(5)), st.just(s(0.01))),
    st.builds(ReleaseFailed, st.sampled_from(["grant", "rex"]), seqs, st.just("why")),
    st.builds(TimeReached),
    st.builds(set_mode, st.sampled_from(["controlled", "unlocked", "lockdown", "evacuation"])),
    st.builds(RelockFailed, st.just("why")),
    st.builds(lets_in),
)


def test_a_door_whose_contact_is_lost_while_it_is_held_open_raises_no_second_alarm() -> None:
    state, codes = DoorState(), []
    for fact, at in (
        (ContactSaid(Contact.OPEN), 0),
        (TimeReached(), 30),
        (ContactSaid(Contact.UNKNOWN), 31),
        (ContactSaid(Contact.OPEN), 32),
        (TimeReached(), 62),
        (ContactSaid(Contact.CLOSED), 63),
    ):
        state, effects = step(RULES, state, fact, moment(at))
        codes += [each for each in shape(effects) if each in ("held_open", "alarm_restored")]
    assert codes == ["held_open", "alarm_restored"]


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
        pulses = [each for each in effects if isinstance(each, PulseStrike)]
        for index, effect in enumerate(effects):
            if isinstance(effect, PulseStrike) and effect.cause != "mode" and not effect.again:
                assert isinstance(effects[index - 1], Record)
            if isinstance(effect, PulseStrike) and effect.cause == "mode":
                assert state.mode in OPEN_MODES
        assert (state.renew_at is not None) == (state.mode in OPEN_MODES)
        if isinstance(fact, RexPressed):
            assert len(pulses) == 1
        if isinstance(fact, Decided) and fact.event.outcome != "grant":
            assert not pulses
            assert state.release == before.release
        alarms += len({"forced_open", "held_open"}.intersection(words))
        alarms -= words.count("alarm_restored")
        assert alarms == len(state.alarms) or state.contact is Contact.UNKNOWN
        if state.contact is Contact.CLOSED:
            assert not state.alarms
        assert state.held_open_at is None or state.contact is Contact.OPEN
        assert len(state.pending) <= PASSAGES_MAX
        assert state.release is None or state.release.until <= s(now) + RELEASE_LEAD + s(8)


def test_a_door_that_relocks_on_opening_is_locked_as_soon_as_the_leaf_moves() -> None:
    rules = msgspec.structs.replace(RULES, relock="on_open")
    state, effects = step(rules, EXPECTED, ContactSaid(Contact.OPEN), moment(10))
    assert shape(effects) == ["opened", "seen", "entered", "rest", *WATCHED]
    state, _ = step(rules, state, ContactSaid(Contact.CLOSED), moment(11))
    assert shape(step(rules, state, ContactSaid(Contact.OPEN), moment(12))[1])[0] == "forced_open"


def test_a_confirmation_that_comes_after_the_opening_releases_nothing_anew() -> None:
    rules = msgspec.structs.replace(RULES, relock="on_open")
    state, _ = step(rules, CLOSED, lets_in(), moment(10))
    state, _ = step(rules, state, ContactSaid(Contact.OPEN), moment(10.1))
    state, _ = step(rules, state, Released("grant", 7, s(7), s(0), grant=1), moment(10.2))
    assert state.release is None


def test_nobody_relocks_a_door_on_opening_that_its_mode_holds_open() -> None:
    rules = msgspec.structs.replace(RULES, relock="on_open")
    assert "rest" not in shape(
        step(rules, UNLOCKED_FOR_SAM, ContactSaid(Contact.OPEN), moment(11))[1]
    )


def test_two_who_go_in_on_one_opening_have_both_entered_but_nobody_is_sure() -> None:
    other = msgspec.structs.replace(PASSAGE, people=("maya",))
    state = msgspec.structs.replace(EXPECTED, pending=(*EXPECTED.pending, Pending(2, other, s(20))))
    _, effects = step(RULES, state, ContactSaid(Contact.OPEN), moment(10))
    assert shape(effects)[1:5] == ["passed", "entered", "passed", "entered"]


def test_who_taps_twice_before_the_door_opens_goes_in_once() -> None:
    state, _ = step(RULES, CLOSED, lets_in(), moment(10))
    state, _ = step(RULES, state, lets_in(), moment(11))
    assert [each.grant for each in state.pending] == [2]


def test_a_door_may_be_open_unless_everything_says_that_it_is_shut() -> None:
    shut = DoorState(contact=Contact.CLOSED, strike=Strike.AT_REST)
    assert not may_be_open(RULES, shut, s(10))
    for change in (
        {"contact": Contact.OPEN},
        {"contact": Contact.UNKNOWN},
        {"strike": Strike.ENERGISED},
        {"strike": Strike.UNKNOWN},
        {"release": Release("rex", None, s(11), s(10))},
        {"renew_at": s(11)},
    ):
        assert may_be_open(RULES, msgspec.structs.replace(shut, **change), s(10)), change
