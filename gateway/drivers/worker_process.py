"""A driver's worker: a process of its own, so that what blocks or hangs in it stops no door."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path
from typing import Final, cast

import structlog

from gateway.drivers.confinement import why_unavailable
from gateway.errors import DeviceUnavailable

KILL_S_MAX: Final = 1.0
"""How long the kernel may take over a SIGKILL before the driver goes on without having seen it."""

PASSED_ON: Final = ("PATH", "LANG", "LC_ALL", "LC_CTYPE", "TZ")
"""What a worker gets of the environment: neither where credentials are nor systemd's socket."""

_log = structlog.get_logger(__name__)


@cache
def _say_unconfined() -> None:
    """Log once that workers can't be confined on this machine."""
    if (why := why_unavailable()) is not None:
        _log.warning("workers_not_confined", why=why)


@asynccontextmanager
async def worker_process(
    script: Path, *arguments: str
) -> AsyncIterator[asyncio.subprocess.Process]:
    """`script` with a pipe either way, given our pid last; with all its children it is killed
    where the block ends.
    """
    _say_unconfined()
    worker = await asyncio.create_subprocess_exec(
        sys.executable,
        "-I",
        str(script),
        *arguments,
        str(os.getpid()),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        env={name: os.environ[name] for name in PASSED_ON if name in os.environ},
        start_new_session=True,  # so that what it starts (nfcpy's `stty`) dies with it
    )
    try:
        yield worker
    finally:
        if worker.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(worker.pid, signal.SIGKILL)
        cast("asyncio.StreamWriter", worker.stdin).close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(KILL_S_MAX):
                await worker.wait()
                _bury_group(worker.pid)


def _bury_group(leader: int) -> None:
    """Wait for what a worker had started and has left to the core (`keep_descendants`)."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-leader, os.WNOHANG)[0]:
            pass


async def read_worker(worker: asyncio.subprocess.Process, whose: str, limit_s: float) -> bytes:
    """Read the next bytes a worker writes; empty once it has ended.

    Raises:
        DeviceUnavailable: the worker wrote nothing for `limit_s` seconds.
    """
    try:
        async with asyncio.timeout(limit_s):
            return await cast("asyncio.StreamReader", worker.stdout).read(4096)
    except TimeoutError:
        raise DeviceUnavailable(f"{whose}: its worker is silent since {limit_s:g} s") from None


class WorkerLines:
    """A worker's bytes in, its complete lines out; a line of over `bytes_max` is none of its."""

    def __init__(self, whose: str, bytes_max: int) -> None:
        self._whose = whose
        self._bytes_max = bytes_max
        self._rest = b""

    def receive(self, data: bytes) -> list[bytes]:
        """Take what it wrote. Raises DeviceUnavailable."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in (*lines, self._rest):
            if len(line) > self._bytes_max:
                raise self.junk(line)
        return lines

    def junk(self, line: bytes) -> DeviceUnavailable:
        """What to raise for a line that means nothing."""
        # Not the bytes themselves: part of them may be a credential.
        return DeviceUnavailable(
            f"{self._whose}: its worker wrote a line of {len(line)} bytes that means nothing"
        )
