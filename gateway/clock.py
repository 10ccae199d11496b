"""The time as this gateway may believe it: wall time, monotonic time and a trust level."""

import ctypes
import ctypes.util
import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from enum import IntEnum
from pathlib import Path
from typing import Protocol


class TimeTrust(IntEnum):
    """How far wall time may be believed. Decisions at T0 and T1 carry `clock: untrusted`."""

    T0 = 0  # nothing known
    T1 = 1  # at least the persisted high-water mark
    T2 = 2  # vouched for by a source that the site's config accepts
    T3 = 3  # a battery clock, and T2 within a day

    @property
    def decides_as_trusted(self) -> bool:
        """Whether a decision made now carries `clock: trusted` (spec/decision.md, Request)."""
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


def boot_id() -> str:
    """Names this boot of the machine: moments of another one's monotonic clock mean nothing."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return uuid.uuid4().hex  # as if the machine had just booted


class SystemClock:
    """The machine's clock above a floor.

    `vouched` says whether the source of time that the config accepts vouches for it right now:
    without that, or while wall time is below the floor, trust is at most T1.
    """

    def __init__(self, *, floor: datetime | None, vouched: Callable[[], bool]) -> None:
        self._floor = floor
        self._vouched = vouched

    def now(self) -> datetime:
        """See `Clock.now`."""
        wall = datetime.fromtimestamp(time.time_ns() // 1_000 / 1_000_000, UTC)
        return wall if self._floor is None or wall >= self._floor else self._floor

    def monotonic(self) -> timedelta:
        """See `Clock.monotonic`."""
        return monotonic()

    def trust(self) -> TimeTrust:
        """See `Clock.trust`."""
        below = self._floor is not None and self.now() <= self._floor
        if self._vouched() and not below:
            return TimeTrust.T2
        return TimeTrust.T0 if self._floor is None else TimeTrust.T1

    def raise_floor(self, to: datetime) -> None:
        """Lift the high-water mark; it never falls."""
        if self._floor is None or to > self._floor:
            self._floor = to


class _Timex(ctypes.Structure):
    """struct timex of adjtimex(2): only `modes` is set, only the return value is read."""

    _fields_ = (("modes", ctypes.c_uint), ("rest", ctypes.c_byte * 512))


_TIME_ERROR = 5  # adjtimex(2): the clock is not synchronised


def kernel_says_synchronised() -> bool:
    """Whether the kernel's clock is disciplined by a time daemon right now (adjtimex(2))."""
    libc = ctypes.CDLL(ctypes.util.find_library("c"), use_errno=True)
    state = libc.adjtimex(ctypes.byref(_Timex(modes=0)))
    return state not in (-1, _TIME_ERROR)
