"""Processes for as long as a block runs."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
STOP_S_MAX = 15.0


@asynccontextmanager
async def process(*command: str, log: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    """A process for as long as the block runs; its output goes to `log`."""
    with log.open("ab") as output:
        started = await asyncio.create_subprocess_exec(
            *command, stdout=output, stderr=output, cwd=REPOSITORY
        )
    try:
        yield started
    finally:
        if started.returncode is None:
            started.terminate()
            try:
                async with asyncio.timeout(STOP_S_MAX):
                    await started.wait()
            except TimeoutError:
                started.kill()
                await started.wait()
