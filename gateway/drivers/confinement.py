"""A worker that locks itself in once its port is open, so that what takes it over stays there.

Imports nothing but the standard library: workers load it as a file beside them. What it forbids is
a list of system calls, by seccomp (seccomp(2)); a thread may be started, a process may not. An
open file stays usable, and no other is to be had.
"""

import ctypes
import errno
import os
import resource
import struct
from contextlib import suppress
from typing import Final, NamedTuple

_PR_SET_NO_NEW_PRIVS: Final = 38  # prctl(2)
_PR_GET_SECCOMP: Final = 21
_PR_SET_SECCOMP: Final = 22
_SECCOMP_MODE_FILTER: Final = 2
_SET_MODE_FILTER, _TSYNC = 1, 1  # linux/seccomp.h

_LOAD, _JUMP_EQUAL, _JUMP_SET, _JUMP_ABOVE, _RETURN = 0x20, 0x15, 0x45, 0x35, 0x06
"""linux/bpf_common.h: BPF_LD|W|ABS, BPF_JMP|JEQ|K, |JSET|K, |JGE|K, BPF_RET|K."""
_KILL: Final = 0x80000000  # SECCOMP_RET_KILL_PROCESS
_ALLOW: Final = 0x7FFF0000
_ERRNO: Final = 0x00050000
_NUMBER_AT, _ARCHITECTURE_AT, _FIRST_ARGUMENT_AT = 0, 4, 16
"""Offsets in struct seccomp_data; both machines below are little-endian."""
_X32_BIT: Final = 0x40000000
_CLONE_THREAD: Final = 0x00010000


class _Machine(NamedTuple):
    """A machine's AUDIT_ARCH_ number, and its numbers of the system calls below."""

    architecture: int
    clone: int
    seccomp: int
    calls: dict[str, int]


def _numbers(table: str) -> dict[str, int]:
    """Read a table of names and numbers."""
    pairs = (entry.split("=") for entry in table.split())
    return {name: int(number) for name, number in pairs}


_SINCE_COMMON: Final = {  # one number on all machines, from Linux 5.1 on
    "pidfd_send_signal": 424,
    "io_uring_setup": 425,
    "io_uring_enter": 426,
    "io_uring_register": 427,
    "open_tree": 428,
    "move_mount": 429,
    "fsopen": 430,
    "fsmount": 432,
    "fspick": 433,
    "pidfd_open": 434,
    "openat2": 437,
    "pidfd_getfd": 438,
    "process_madvise": 440,
    "mount_setattr": 442,
    "process_mrelease": 448,
}

MACHINES: Final = {
    "x86_64": _Machine(
        0xC000003E,
        56,
        317,
        _numbers(
            """
            open=2 shmget=29 shmat=30 socket=41 connect=42 accept=43 bind=49 listen=50
            socketpair=53 fork=57 vfork=58 execve=59 kill=62 semget=64 msgget=68 msgsnd=69
            truncate=76 rename=82 mkdir=83 rmdir=84 creat=85 link=86 unlink=87 symlink=88
            chmod=90 fchmod=91 chown=92 fchown=93 lchown=94 ptrace=101 setuid=105 setgid=106
            setreuid=113 setregid=114 setgroups=116 setresuid=117 setresgid=119 setfsuid=122
            setfsgid=123 rt_sigqueueinfo=129 utime=132 mknod=133 personality=135 setpriority=141
            pivot_root=155 chroot=161 mount=165 umount2=166 setxattr=188 lsetxattr=189
            fsetxattr=190 tkill=200 tgkill=234 utimes=235 mq_open=240 add_key=248
            request_key=249 keyctl=250 openat=257 mkdirat=258 mknodat=259 fchownat=260
            futimesat=261 unlinkat=263 renameat=264 linkat=265 symlinkat=266 fchmodat=268
            unshare=272 utimensat=280 accept4=288 inotify_init1=294 rt_tgsigqueueinfo=297
            perf_event_open=298 prlimit64=302 name_to_handle_at=303 open_by_handle_at=304
            setns=308 process_vm_readv=310 process_vm_writev=311 kcmp=312 renameat2=316
            memfd_create=319 bpf=321 execveat=322 userfaultfd=323
            """
        ),
    ),
    "aarch64": _Machine(
        0xC00000B7,
        220,
        277,
        _numbers(
            """
            setxattr=5 lsetxattr=6 fsetxattr=7 inotify_init1=26 mknodat=33 mkdirat=34
            unlinkat=35 symlinkat=36 linkat=37 renameat=38 umount2=39 mount=40 pivot_root=41
            truncate=45 chroot=51 fchmod=52 fchmodat=53 fchownat=54 fchown=55 openat=56
            utimensat=88 personality=92 unshare=97 ptrace=117 kill=129 tkill=130 tgkill=131
            rt_sigqueueinfo=138 setpriority=140 setregid=143 setgid=144 setreuid=145 setuid=146
            setresuid=147 setresgid=149 setfsuid=151 setfsgid=152 setgroups=159 mq_open=180
            msgget=186 msgsnd=189 semget=190 shmget=194 shmat=196 socket=198 socketpair=199
            bind=200 listen=201 accept=202 connect=203 add_key=217 request_key=218 keyctl=219
            execve=221 rt_tgsigqueueinfo=240 perf_event_open=241 accept4=242 prlimit64=261
            name_to_handle_at=264 open_by_handle_at=265 setns=268 process_vm_readv=270
            process_vm_writev=271 kcmp=272 renameat2=276 memfd_create=279 bpf=280 execveat=281
            userfaultfd=282
            """
        ),
    ),
}
"""By `uname -m`. Numbers: arch/x86/entry/syscalls/syscall_64.tbl, asm-generic/unistd.h."""

_CLONE3: Final = 435


def why_unavailable() -> str | None:
    """Return why no worker can lock itself in here; None where it can."""
    machine = os.uname().machine
    if machine not in MACHINES or ctypes.sizeof(ctypes.c_void_p) != 8:
        return f"there is no list of system calls for {machine}, {struct.calcsize('P') * 8} bit"
    if ctypes.CDLL(None).prctl(_PR_GET_SECCOMP, 0, 0, 0, 0) < 0:
        return "this kernel has no seccomp"
    return None


def lock_in(kept: frozenset[str] = frozenset()) -> str | None:
    """Give up, for ever, what a worker with an open port needs no more; return why if it can't.

    Calls in `kept` stay allowed.
    """
    why = why_unavailable()
    if why is not None:
        return why
    machine = MACHINES[os.uname().machine]
    program = program_of(machine, kept)
    code = ctypes.create_string_buffer(program)
    # No core dump may have a key in it; a unit that forbids this has set the limit itself.
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # struct sock_fprog: the number of instructions, and where they are.
    described = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(code))
    libc = ctypes.CDLL(None, use_errno=True)
    zero = ctypes.c_ulong(0)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, ctypes.c_ulong(1), zero, zero, zero):
        return f"no_new_privs: {os.strerror(ctypes.get_errno())}"
    fprog = ctypes.create_string_buffer(described)
    # All threads at once, where the service's own filter lets it.
    call = (ctypes.c_long(machine.seccomp), ctypes.c_ulong(_SET_MODE_FILTER))
    if libc.syscall(*call, ctypes.c_ulong(_TSYNC), fprog) == 0:
        return None
    if libc.prctl(_PR_SET_SECCOMP, ctypes.c_ulong(_SECCOMP_MODE_FILTER), fprog, zero, zero):
        return f"seccomp: {os.strerror(ctypes.get_errno())}"
    return None


def program_of(machine: _Machine, kept: frozenset[str]) -> bytes:
    """Return the filter, as the kernel takes it; `kept` are calls that stay allowed."""
    refused = sorted(
        number
        for name, number in {**machine.calls, **_SINCE_COMMON}.items()
        if name not in kept or name not in machine.calls
    )
    steps = [
        _step(_LOAD, _ARCHITECTURE_AT),
        _step(_JUMP_EQUAL, machine.architecture, 1, 0),
        _step(_RETURN, _KILL),
        _step(_LOAD, _NUMBER_AT),
        _step(_JUMP_ABOVE, _X32_BIT, 0, 1),
        _step(_RETURN, _KILL),
        # Its flags are in memory, where no filter can look: the C library then uses clone.
        _step(_JUMP_EQUAL, _CLONE3, 0, 1),
        _step(_RETURN, _ERRNO | errno.ENOSYS),
        _step(_JUMP_EQUAL, machine.clone, 0, 4),
        _step(_LOAD, _FIRST_ARGUMENT_AT),
        _step(_JUMP_SET, _CLONE_THREAD, 0, 1),
        _step(_RETURN, _ALLOW),
        _step(_RETURN, _ERRNO | errno.EPERM),
    ]
    for number in refused:
        steps += [_step(_JUMP_EQUAL, number, 0, 1), _step(_RETURN, _ERRNO | errno.EPERM)]
    steps.append(_step(_RETURN, _ALLOW))
    return b"".join(steps)


def _step(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    """Pack a struct sock_filter; the jumps count the steps that are left out."""
    return struct.pack("HBBI", code, if_true, if_false, value)
