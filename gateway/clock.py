"""The time as this gateway may believe it: wall time, monotonic time and a trust level."""

import contextlib
import ctypes
import errno
import os
import time
import uuid
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from enum import IntEnum
from pathlib import Path
from typing import Literal, NamedTuple, Protocol


class TimeTrust(IntEnum):
    """How far wall time may be believed. Decisions at T0 and T1 carry `clock: untrusted`."""

    T0 = 0  # nothing known
    T1 = 1  # at least the persisted high-water mark
    T2 = 2  # vouched for by a source that the site's config accepts
    T3 = 3  # a battery clock that agrees, and T2 within a day

    @property
    def decides_as_trusted(self) -> bool:
        """Whether a decision made now carries `clock: trusted` (docs/spec/decision.md, Request)."""
        return self >= TimeTrust.T2


class Clock(Protocol):
    """What all code asks for the time. Nobody calls the system's clock directly."""

    def now(self) -> datetime:
        """Wall time, aware, UTC; never below the persisted high-water mark."""

    def monotonic(self) -> timedelta:
        """Time since an arbitrary start; the kernel's CLOCK_MONOTONIC, so that it can be
        compared between the processes of one machine. Every duration is measured with it.
        """

    def trust(self) -> TimeTrust:
        """How far `now()` may be believed at this moment."""


def monotonic() -> timedelta:
    """CLOCK_MONOTONIC, for code in a process that has no `Clock` (a driver's worker)."""
    return timedelta(microseconds=time.monotonic_ns() // 1000)


_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def boot_id() -> str:
    """Names this boot of the machine: moments of another one's monotonic clock mean nothing.

    Where `/proc/sys` is hidden (`ProcSubset=pid`) the core's unit tells it.
    """
    try:
        return _BOOT_ID.read_text(encoding="ascii").strip().replace("-", "")
    except OSError:
        told = os.environ.get("DOOR_GATEWAY_BOOT_ID")
        return told or uuid.uuid4().hex  # as if the machine had just booted


VOUCHED_FOR = timedelta(days=1)
"""How long the word of an authenticated source makes the time trusted."""
DRIFT_PPM_MAX = 500
"""How far CLOCK_MONOTONIC may be from true seconds: a time daemon slews it by as much
(adjtimex(2)), and a crystal is five times better. So what was once vouched for widens by 43 s
either way a day."""


BATTERY_APART_MAX = timedelta(seconds=10)
"""A battery clock that reads further from wall time than this proves nothing of it. One counts
whole seconds and is off by two in a day; a dead battery reads 1970 or 2000."""


def _no_battery() -> tuple[datetime, ...]:
    return ()


def _host_wall() -> datetime:
    return datetime.fromtimestamp(time.time_ns() // 1_000 / 1_000_000, UTC)


class _Vouched(NamedTuple):
    """An authenticated source has said that it was between these two at that moment."""

    earliest: datetime
    latest: datetime
    at: timedelta


class SystemClock:
    """The machine's clock above a floor, and within what an authenticated source has vouched for.

    `vouched` says whether the source of time that the config accepts vouches for it right now:
    without that and without an authenticated one, or while wall time is below the floor, trust is
    at most T1, unless one of the clocks that `battery` reads has carried the time on since then
    (T3): it agrees with wall time, and the floor, which only a vouched-for time raises, is no
    older than a day. `told` hears of the first trust and of every change, from within the
    `trust()` that finds it.
    """

    def __init__(
        self,
        *,
        floor: datetime | None,
        vouched: Callable[[], bool],
        told: Callable[[TimeTrust], None] | None = None,
        battery: Callable[[], Sequence[datetime]] = _no_battery,
        wall: Callable[[], datetime] = _host_wall,
        monotonic: Callable[[], timedelta] = monotonic,
    ) -> None:
        self._floor = floor
        self._host_vouched = vouched
        self._wall = wall
        self._monotonic = monotonic
        self._vouched: _Vouched | None = None
        self._told = told
        self._battery = battery
        self._last: TimeTrust | None = None

    def now(self) -> datetime:
        """See `Clock.now`."""
        wall = self._wall()
        if self._vouched is not None:
            earliest, latest = self._bounds(self._vouched)
            wall = min(max(wall, earliest), latest)
        return wall if self._floor is None or wall >= self._floor else self._floor

    def on_host(self, at: datetime) -> datetime:
        """What the machine's own clock shows at an instant that this one calls `at`."""
        return at + (self._wall() - self.now())

    def monotonic(self) -> timedelta:
        """See `Clock.monotonic`."""
        return self._monotonic()

    def vouch(self, earliest: datetime, latest: datetime) -> timedelta:
        """Take the word of an authenticated source that it is between these two now (T2).

        From here on `now()` keeps within them, as the monotonic clock carries them on, whatever
        the machine's clock says. Returns by how much that one is ahead (or, negative, behind);
        zero while it is between them.
        """
        wall = self._wall()
        self._vouched = _Vouched(earliest, latest, self._monotonic())
        return wall - min(max(wall, earliest), latest)

    def set_right(self, earliest: datetime) -> None:
        """Let the high-water mark be as early as it may be now, where it was carried ahead by a
        stolen key; a `vouch` goes with it.
        """
        self._floor = earliest

    @property
    def floor(self) -> datetime | None:
        """Before which it can't be."""
        return self._floor

    @property
    def authenticated(self) -> bool:
        """Whether an authenticated source has vouched for the time lately."""
        vouched = self._vouched
        return vouched is not None and self._monotonic() - vouched.at < VOUCHED_FOR

    def _bounds(self, vouched: _Vouched) -> tuple[datetime, datetime]:
        gone = self._monotonic() - vouched.at
        drift = gone * DRIFT_PPM_MAX / 1_000_000
        return vouched.earliest + gone - drift, vouched.latest + gone + drift

    def trust(self) -> TimeTrust:
        """See `Clock.trust`."""
        trust = self._trust()
        if trust is not self._last:
            self._last = trust
            if self._told is not None:
                self._told(trust)
        return trust

    @property
    def vouched_for(self) -> bool:
        """Whether somebody vouches for the time right now: then, and only then, it may become the
        floor. What a battery has carried on may not, or a day would never end.
        """
        return (self.authenticated or self._host_vouched()) and not self._is_below()

    def _trust(self) -> TimeTrust:
        if self._floor is not None and self._is_carried_on(self._floor):
            return TimeTrust.T3
        if self.vouched_for:
            return TimeTrust.T2
        return TimeTrust.T0 if self._floor is None else TimeTrust.T1

    def _is_below(self) -> bool:
        return self._floor is not None and self.now() <= self._floor

    def _is_carried_on(self, floor: datetime) -> bool:
        now = self.now()
        return floor < now <= floor + VOUCHED_FOR and any(
            abs(reading - now) <= BATTERY_APART_MAX for reading in self._battery()
        )

    def raise_floor(self, to: datetime) -> None:
        """Lift the high-water mark; it never falls."""
        if self._floor is None or to > self._floor:
            self._floor = to


class _Timex(ctypes.Structure):
    """struct timex of adjtimex(2): only `modes` is set, only the return value is read."""

    _fields_ = (("modes", ctypes.c_uint), ("rest", ctypes.c_byte * 512))


_TIME_ERROR = 5  # adjtimex(2): the clock is not synchronised
_MAY_NOT_ASK = (errno.EPERM, errno.EACCES, errno.ENOSYS)
# Bound once: looking for the library runs ldconfig, and trust is asked for at every decision.
_libc = ctypes.CDLL(None, use_errno=True)

MARKS = (
    Path("/run/systemd/timesync/synchronized"),  # systemd-timesyncd.service(8), Files
    Path("/run/door-gateway-clock/synchronized"),  # systemd/door-gateway-clock.service, for chrony
)
"""Files that are there once a time daemon has set the clock since the machine's start."""

ANSWER_KEPT = timedelta(seconds=1)
"""How long an answer holds: trust may be this late, and asking for it costs a decision nothing."""


def kernel_says_synchronised() -> bool | None:
    """Whether a time daemon disciplines the kernel's clock right now (adjtimex(2)).

    None: this process may not ask. A sandbox that forbids to set the clock forbids this as well.
    """
    state = _libc.adjtimex(ctypes.byref(_Timex(modes=0)))
    if state == -1:
        return None if ctypes.get_errno() in _MAY_NOT_ASK else False
    return bool(state != _TIME_ERROR)


class TimeDaemon:
    """Call it to hear whether a time daemon vouches for the clock: the kernel's word, or else a
    mark that a daemon has left.
    """

    def __init__(
        self,
        *,
        kernel: Callable[[], bool | None] = kernel_says_synchronised,
        marks: Sequence[Path] = MARKS,
        monotonic: Callable[[], timedelta] = monotonic,
    ) -> None:
        self._kernel = kernel
        self._marks = tuple(marks)
        self._monotonic = monotonic
        self._answer = False
        self._until: timedelta | None = None

    def __call__(self) -> bool:
        """The answer, at most `ANSWER_KEPT` old."""
        now = self._monotonic()
        if self._until is None or now >= self._until:
            self._answer = self._ask()
            self._until = now + ANSWER_KEPT
        return self._answer

    def _ask(self) -> bool:
        said = self._kernel()
        return any(os.access(mark, os.F_OK) for mark in self._marks) if said is None else said


RTC = Path("/sys/class/rtc")
"""Linux kernel, Documentation/ABI/testing/sysfs-class-rtc: `since_epoch` of each clock, in UTC."""


class BatteryClocks:
    """Call it for what the machine's battery clocks say, carried on from the last `look`."""

    def __init__(
        self, *, sysfs: Path = RTC, monotonic: Callable[[], timedelta] = monotonic
    ) -> None:
        self._sysfs = sysfs
        self._monotonic = monotonic
        self._readings: tuple[datetime, ...] = ()
        self._at = timedelta()

    def look(self) -> None:
        """Read them. May take as long as their bus does: in a thread, where a tap could wait."""
        readings = []
        for file in sorted(self._sysfs.glob("rtc*/since_epoch")):
            with contextlib.suppress(OSError, ValueError, OverflowError):
                readings.append(datetime.fromtimestamp(int(file.read_text(encoding="ascii")), UTC))
        self._readings, self._at = tuple(readings), self._monotonic()

    def __call__(self) -> tuple[datetime, ...]:
        """What each would say now; empty where there is none."""
        gone = self._monotonic() - self._at
        return tuple(reading + gone for reading in self._readings)


def voucher(trust: Literal["kernel", "host"]) -> Callable[[], bool]:
    """Who vouches for wall time, as `[clock] trust` says it."""
    return TimeDaemon() if trust == "kernel" else lambda: True
