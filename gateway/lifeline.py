"""Ties a process's life to its parent's, and keeps what it knows out of core dumps."""

import contextlib
import ctypes
import os
import resource
import signal
import sys

_PR_SET_PDEATHSIG = 1  # prctl(2)


def no_core_dump() -> None:
    """A crash must not write keys and card numbers to the disk (docs/promises.md P16).

    A sandbox that forbids this has set the limit itself (`LimitCORE=0` in the units).
    """
    with contextlib.suppress(ValueError, OSError):  # resource makes a ValueError of EPERM
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def end_with(parent: int, how: signal.Signals) -> None:
    """Get the signal `how` when the process `parent`, our parent, ends; exit if it has already."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, how)
    if os.getppid() != parent:
        sys.exit(1)
