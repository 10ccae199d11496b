"""A disk that is slow or refuses: strace changes what the kernel answers to a running process."""

import asyncio
import shutil
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from tests.process.rig import until

STRACE = shutil.which("strace")


def may_trace() -> bool:
    """Whether this machine has strace and lets it attach to our own children."""
    scope = Path("/proc/sys/kernel/yama/ptrace_scope")
    allowed = not scope.exists() or scope.read_text().strip() in {"0", "1"}
    return STRACE is not None and allowed


@asynccontextmanager
async def injected(pid: int, calls: str, what: str, *files: Path) -> AsyncIterator[None]:
    """For the length of the block, change the process's system calls, on these files only if any.

    Args:
        pid: The process; all its threads are meant.
        calls: Their names, separated by commas.
        what: As strace's inject expression has it: `error=ENOSPC`, `delay_enter=2000000`.
        files: Only calls on these paths.
    """
    assert STRACE is not None
    only = [part for file in files for part in ("-P", str(file))]
    strace = await asyncio.create_subprocess_exec(
        *(STRACE, "-f", "-qq", "-p", str(pid), "-o", "/dev/null", *only),
        *("-e", f"trace={calls}", "-e", f"inject={calls}:{what}"),
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        await until("strace is attached", lambda: _is_traced(pid), 10.0)
        yield
    finally:
        with suppress(ProcessLookupError):
            strace.send_signal(signal.SIGINT)
        try:
            async with asyncio.timeout(10):
                await strace.wait()
        finally:
            with suppress(ProcessLookupError):
                strace.kill()


def _is_traced(pid: int) -> bool:
    """Whether every thread of the process has a tracer."""
    return all(
        "TracerPid:\t0\n" not in (thread / "status").read_text()
        for thread in Path(f"/proc/{pid}/task").iterdir()
    )
