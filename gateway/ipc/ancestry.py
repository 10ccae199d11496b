"""Descent of a process, as the kernel tells it: who was started by whom."""

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


def _parent_of(pid: int, proc: Path) -> int | None:
    try:
        text = (proc / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
        # proc_pid_stat(5): the name in parentheses may have anything in it.
        return int(text.rpartition(")")[2].split()[1])
    except (OSError, ValueError, IndexError):
        return None
