"""Ties a process's life to its parent's, and keeps what it knows out of core dumps."""

import contextlib
import ctypes
import os
import resource
import signal
import sys
from collections.abc import Set as AbstractSet
from pathlib import Path

_PR_SET_PDEATHSIG = 1  # prctl(2)
_PR_SET_CHILD_SUBREAPER = 36


def no_core_dump() -> None:
    """A crash must not write keys and card numbers to the disk (docs/promises.md P16).

    A sandbox that forbids this has set the limit itself (`LimitCORE=0` in the units).
    """
    with contextlib.suppress(ValueError, OSError):  # resource makes a ValueError of EPERM
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def limit_memory(bytes_max: int) -> None:
    """Let what would take more raise MemoryError here, before the kernel kills for it.

    Tables that are mapped from files don't count (RLIMIT_DATA, getrlimit(2)).
    """
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_DATA, (bytes_max, bytes_max))


def end_with(parent: int, how: signal.Signals) -> None:
    """Get the signal `how` when the process `parent`, our parent, ends; exit if it has already."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, how)
    if os.getppid() != parent:
        sys.exit(1)


def keep_descendants() -> None:
    """Stay the ancestor of every process that descends from this one, whoever dies in between."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)


def reap_orphans(known: AbstractSet[int]) -> None:
    """Bury descendants that ended after they had lost their parent; `known` children are not."""
    try:
        children = Path(f"/proc/self/task/{os.getpid()}/children").read_text(encoding="ascii")
    except OSError:
        return
    for pid in map(int, children.split()):
        if pid not in known:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
