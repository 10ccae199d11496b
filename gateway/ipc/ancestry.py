"""Descent of a process, as the kernel tells it: who was started by whom."""

import os
from pathlib import Path

_STEPS_MAX = 64
"""Generations looked at: more than a shell within a shell ever has."""

PROC = Path("/proc")


def descends_from(pid: int, ancestor: int, proc: Path = PROC) -> bool | None:
    """Return True if the process is a descendant of `ancestor`; None where that can't be read."""
    for _ in range(_STEPS_MAX):
        parent = _parent_of(pid, proc)
        if parent is None:
            return None
        if parent == ancestor:
            return True
        if parent == 0:
            return False
        pid = parent
    return None


def is_own(pid: int) -> bool:
    """Return True if this process has started the process, directly or not, or it is gone.

    The kernel answers for children without /proc, which the units hide in part (`ProtectProc=`).
    With `lifeline.keep_descendants` an orphan of a child is a child too.
    """
    if pid <= 0:  # of another pid namespace, so not from here
        return False
    try:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return descends_from(pid, os.getpid()) is True or _is_gone(pid)
    return True


def _is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False


def _parent_of(pid: int, proc: Path) -> int | None:
    try:
        text = (proc / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
        # proc_pid_stat(5): the name in parentheses may have anything in it.
        return int(text.rpartition(")")[2].split()[1])
    except (OSError, ValueError, IndexError):
        return None
