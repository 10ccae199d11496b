"""Runs a command behind the system call filter of one of our units, as systemd would set it.

    python tests/process/jail.py systemd/door-gateway-core.service COMMAND ARGUMENT...

What the unit's `SystemCallFilter=` lines and `Protect...=` switches allow goes through, anything
else fails with EPERM.
"""

import ctypes
import ctypes.util
import errno
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

_ALLOW = 0x7FFF0000  # SCMP_ACT_ALLOW, seccomp.h
_EPERM = 0x00050000 | errno.EPERM  # SCMP_ACT_ERRNO
_PR_SET_MDWE, _REFUSE_EXEC_GAIN = 65, 1  # linux/prctl.h
_UNKNOWN_CALL = -1  # __NR_SCMP_ERROR
_SWITCHES = {  # what systemd.exec(5) says that each denies
    "ProtectClock": "@clock",
    "ProtectKernelLogs": "syslog",
    "ProtectKernelModules": "@module",
}


def why_unavailable() -> str | None:
    """The reason why no jail can be built here; None where one can."""
    if shutil.which("systemd-analyze") is None:
        return "systemd-analyze isn't installed"
    if ctypes.util.find_library("seccomp") is None:
        return "libseccomp isn't installed"
    unit = Path(__file__).parents[2] / "systemd" / "door-gateway-core.service"
    tried = subprocess.run(
        [sys.executable, __file__, str(unit), "/bin/true"], capture_output=True, check=False
    )
    return f"seccomp: {tried.stderr.decode()}" if tried.returncode else None


@cache
def expanded(name: str) -> frozenset[str]:
    """The system calls that a name in a filter stands for; `@set` is systemd's."""
    if not name.startswith("@"):
        return frozenset({name})
    listed = subprocess.run(
        ["systemd-analyze", "--no-pager", "syscall-filter", name],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()[1:]
    names = (line.strip() for line in listed)
    return frozenset().union(*(expanded(name) for name in names if name and name[0] != "#"))


def allowed(unit: str) -> frozenset[str]:
    """The system calls that a unit with this text may make (systemd.exec(5))."""
    calls = expanded("@default")
    for line in re.findall(r"^SystemCallFilter=(.*)$", unit, re.MULTILINE):
        named = frozenset().union(*(expanded(name) for name in line.lstrip("~").split()))
        calls = calls - named if line.startswith("~") else calls | named
    for switch, denied in _SWITCHES.items():
        if f"\n{switch}=yes\n" in unit:
            calls -= expanded(denied)
    # systemd itself makes this one, from behind the filter.
    return calls | {"execve"}


def confine(unit: str) -> None:
    """Put this process, and all that it will start, behind the filter. Raises OSError."""
    if "\nMemoryDenyWriteExecute=yes\n" in unit:
        # The kernel's own form of what systemd filters; kernels before 6.3 don't have it.
        ctypes.CDLL(None).prctl(_PR_SET_MDWE, _REFUSE_EXEC_GAIN, 0, 0, 0)
    library = ctypes.CDLL(ctypes.util.find_library("seccomp"))
    library.seccomp_init.restype = ctypes.c_void_p
    library.seccomp_init.argtypes = (ctypes.c_uint32,)
    library.seccomp_rule_add_array.argtypes = (
        *(ctypes.c_void_p, ctypes.c_uint32, ctypes.c_int),
        *(ctypes.c_uint, ctypes.c_void_p),
    )
    library.seccomp_load.argtypes = (ctypes.c_void_p,)
    made = library.seccomp_init(_EPERM)
    resolve: Callable[[bytes], int] = library.seccomp_syscall_resolve_name
    for name in allowed(unit):
        number = resolve(name.encode())
        # Other architectures' calls have negative numbers; libseccomp skips them.
        if number != _UNKNOWN_CALL:
            library.seccomp_rule_add_array(made, _ALLOW, number, 0, None)
    if failed := library.seccomp_load(made):
        raise OSError(-failed, os.strerror(-failed))


def main() -> None:
    try:
        confine(Path(sys.argv[1]).read_text(encoding="utf-8"))
    except OSError as error:
        sys.exit(str(error))
    os.execvp(sys.argv[2], sys.argv[2:])


if __name__ == "__main__":
    main()
