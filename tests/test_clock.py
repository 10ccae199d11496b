"""Who vouches for the clock, and what asking costs."""

import ctypes
import re
import timeit
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from gateway import clock
from gateway.clock import (
    ANSWER_KEPT,
    VOUCHED_FOR,
    BatteryClocks,
    SystemClock,
    TimeDaemon,
    TimeTrust,
    voucher,
)

TRUST_US_MAX = 200.0
"""Not a promise: looking for the C library at every call took 1,400 to 8,000 us."""

LONG_PAST = datetime(2020, 1, 1, tzinfo=UTC)
FAR_AHEAD = datetime(2999, 1, 1, tzinfo=UTC)


class Monotonic:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = timedelta()

    def __call__(self) -> timedelta:
        return self.now


class Kernel:
    """Says what a test has it say, and counts how often it was asked."""

    def __init__(self, says: bool | None) -> None:
        self.says = says
        self.asked = 0

    def __call__(self) -> bool | None:
        self.asked += 1
        return self.says


@pytest.mark.parametrize(
    ("kernel", "marked", "vouched"),
    [
        (True, False, True),
        (True, True, True),
        (False, False, False),
        (False, True, False),  # the kernel's word goes before a mark
        (None, False, False),
        (None, True, True),
    ],
)
def test_a_mark_counts_only_where_the_kernel_may_not_be_asked(
    kernel: bool | None, marked: bool, vouched: bool, tmp_path: Path
) -> None:
    mark = tmp_path / "synchronized"
    if marked:
        mark.touch()
    daemon = TimeDaemon(kernel=Kernel(kernel), marks=(tmp_path / "another", mark))
    assert daemon() is vouched


def test_an_answer_is_kept_for_a_second_and_no_longer() -> None:
    monotonic, kernel = Monotonic(), Kernel(says=True)
    daemon = TimeDaemon(kernel=kernel, marks=(), monotonic=monotonic)
    assert daemon()
    kernel.says = False
    monotonic.now += ANSWER_KEPT - timedelta(microseconds=1)
    assert daemon()
    assert kernel.asked == 1
    monotonic.now += timedelta(microseconds=1)
    assert not daemon()
    assert kernel.asked == 2


@pytest.mark.parametrize(
    ("state", "error", "says"),
    [
        (0, 0, True),  # TIME_OK
        (1, 0, True),  # TIME_INS: a leap second is near, the clock is right
        (5, 0, False),  # TIME_ERROR
        (-1, 1, None),  # EPERM: the sandbox
        (-1, 13, None),  # EACCES
        (-1, 38, None),  # ENOSYS
        (-1, 14, False),  # EFAULT: no answer, and no sandbox either
    ],
)
def test_a_question_that_is_not_allowed_is_no_answer(
    state: int, error: int, says: bool | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Libc:
        @staticmethod
        def adjtimex(_timex: object) -> int:
            return state

    monkeypatch.setattr(clock, "_libc", Libc)
    monkeypatch.setattr(ctypes, "get_errno", lambda: error)
    assert clock.kernel_says_synchronised() is says


def test_every_change_of_trust_is_told_once() -> None:
    told: list[TimeTrust] = []
    vouched = [False]
    system = SystemClock(floor=LONG_PAST, vouched=lambda: vouched[0], told=told.append)
    for answer in (False, False, True, True, False):
        vouched[0] = answer
        system.trust()
    assert told == [TimeTrust.T1, TimeTrust.T2, TimeTrust.T1]
    system.raise_floor(FAR_AHEAD)
    vouched[0] = True
    assert system.trust() is TimeTrust.T1
    assert len(told) == 3


NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)
SECOND = timedelta(seconds=1)


@pytest.mark.parametrize("off", [timedelta(days=3653), timedelta(days=-365), timedelta(hours=-2)])
def test_a_host_whose_clock_is_wrong_keeps_the_time_that_was_vouched_for(off: timedelta) -> None:
    monotonic = Monotonic()
    host = [NOON + off]
    system = SystemClock(
        floor=NOON - timedelta(days=900),
        vouched=lambda: False,
        wall=lambda: host[0],
        monotonic=monotonic,
    )
    assert system.trust() is TimeTrust.T1
    assert abs(system.vouch(NOON, NOON + SECOND) - off) <= SECOND
    assert abs(system.on_host(NOON + HOUR) - (host[0] + HOUR)) <= SECOND
    assert NOON <= system.now() <= NOON + SECOND
    assert system.trust() is TimeTrust.T2
    monotonic.now += timedelta(hours=2)
    host[0] += timedelta(days=30)  # and a step under way changes nothing
    assert abs(system.now() - NOON - timedelta(hours=2)) <= 5 * SECOND


def test_a_host_whose_clock_is_right_keeps_its_own_time_and_a_word_grows_old() -> None:
    monotonic = Monotonic()
    system = SystemClock(
        floor=None,
        vouched=lambda: False,
        wall=lambda: NOON + monotonic.now + SECOND / 2,
        monotonic=monotonic,
    )
    assert system.vouch(NOON, NOON + SECOND) == timedelta()
    assert system.now() == NOON + SECOND / 2
    monotonic.now += VOUCHED_FOR - SECOND
    assert system.trust() is TimeTrust.T2
    monotonic.now += SECOND
    assert not system.authenticated
    assert system.trust() is TimeTrust.T0
    assert system.now() == NOON + VOUCHED_FOR + SECOND / 2


def test_asking_for_the_trust_costs_a_decision_nothing() -> None:
    system = SystemClock(floor=LONG_PAST, vouched=voucher("kernel"))
    found = cost_us(system.trust)
    print(f"trust(): {found:.1f} us")
    assert found < TRUST_US_MAX


def test_asking_the_kernel_starts_no_process() -> None:
    found = cost_us(clock.kernel_says_synchronised)
    print(f"adjtimex: {found:.1f} us")
    assert found < TRUST_US_MAX


def test_the_boot_is_known_where_proc_sys_is_hidden(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = clock.boot_id()
    assert re.fullmatch(r"[0-9a-f]{32}", shown)
    monkeypatch.setattr(clock, "_BOOT_ID", tmp_path / "hidden")
    monkeypatch.setenv("DOOR_GATEWAY_BOOT_ID", shown)  # systemd.unit(5): %b has no dashes
    assert clock.boot_id() == shown
    monkeypatch.delenv("DOOR_GATEWAY_BOOT_ID")
    assert clock.boot_id() != clock.boot_id()


def cost_us(call: Callable[[], object]) -> float:
    return min(timeit.repeat(call, number=100, repeat=5)) / 100 * 1e6


HOUR, DAY = timedelta(hours=1), timedelta(days=1)
T0, T1, T2, T3 = TimeTrust


@pytest.mark.parametrize(
    ("floor", "wall", "battery", "vouched", "trust"),
    [
        # A reboot without a network: the battery clock has carried the time on.
        (NOON, NOON + HOUR, [NOON + HOUR], False, T3),
        (NOON, NOON + HOUR, [NOON + HOUR + 9 * SECOND], False, T3),
        (NOON, NOON + DAY, [NOON + DAY], False, T3),
        (NOON, NOON + DAY + SECOND, [NOON + DAY + SECOND], False, T1),
        (NOON, NOON + HOUR, [], False, T1),
        # Both at once; and a battery clock proves nothing where nobody ever vouched.
        (NOON, NOON + HOUR, [NOON + HOUR], True, T3),
        (NOON, NOON + HOUR, [], True, T2),
        (None, NOON, [NOON], False, T0),
        (None, NOON, [NOON], True, T2),
        # A dead battery, and wall time that was saved at the last shutdown and set again (F34).
        (NOON, NOON + HOUR, [datetime(1970, 1, 1, tzinfo=UTC)], False, T1),
        (NOON, NOON + HOUR, [datetime(2000, 1, 1, tzinfo=UTC), NOON + HOUR], False, T3),
        (NOON, NOON + SECOND, [NOON + 11 * HOUR], False, T1),
        # F32 and F33: the clock, or both clocks, set years ahead or back.
        (NOON, NOON + 3653 * DAY, [NOON + HOUR], False, T1),
        (NOON, NOON + 3653 * DAY, [NOON + 3653 * DAY], False, T1),
        (NOON, NOON - 365 * DAY, [NOON + HOUR], False, T1),
        (NOON, NOON - 365 * DAY, [NOON - 365 * DAY], False, T1),
        (NOON, NOON - 365 * DAY, [NOON - 365 * DAY], True, T1),
        (NOON, datetime(1970, 1, 1, tzinfo=UTC), [datetime(1970, 1, 1, tzinfo=UTC)], False, T1),
    ],
)
def test_a_battery_clock_carries_the_trust_on_for_a_day(
    floor: datetime | None,
    wall: datetime,
    battery: list[datetime],
    vouched: bool,
    trust: TimeTrust,
) -> None:
    system = SystemClock(
        floor=floor, vouched=lambda: vouched, battery=lambda: battery, wall=lambda: wall
    )
    assert system.trust() is trust
    below = floor is not None and wall <= floor
    assert system.vouched_for is (vouched and not below), "only then it may become the floor"
    assert floor is None or system.now() >= floor


def test_t3_ends_a_day_after_the_last_word_however_often_it_is_asked_for() -> None:
    monotonic = Monotonic()
    word = [True]

    def wall() -> datetime:
        return NOON + SECOND + monotonic.now

    system = SystemClock(
        floor=NOON,
        vouched=lambda: word[0],
        battery=lambda: [wall()],
        wall=wall,
        monotonic=monotonic,
    )
    for hour in range(60):
        if system.vouched_for:
            system.raise_floor(system.now())  # as the core does every minute
        word[0] = hour < 10
        monotonic.now = HOUR * (hour + 1)
        assert system.trust() is (T3 if hour <= 10 + 23 else T1), hour


def test_battery_clocks_are_read_where_there_are_any_and_carried_on_between(
    tmp_path: Path,
) -> None:
    monotonic = Monotonic()
    clocks = BatteryClocks(sysfs=tmp_path, monotonic=monotonic)
    clocks.look()
    assert clocks() == ()
    for name, said in (("rtc0", "0\n"), ("rtc1", f"{int(NOON.timestamp())}\n"), ("rtc2", "?")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "since_epoch").write_text(said)
    (tmp_path / "rtc3").mkdir()
    (tmp_path / "rtc3" / "since_epoch").mkdir()  # as one whose bus gives an error
    clocks.look()
    monotonic.now += HOUR
    assert clocks() == (datetime(1970, 1, 1, 1, tzinfo=UTC), NOON + HOUR)
