"""The link ends whenever it is told to, also in the instant in which its core goes."""

import asyncio
import random
from pathlib import Path

from gateway.ipc.messages import Status
from gateway.link.run import run_link
from tests.ipc.memory import MemoryCore
from tests.link.rig import TrustedClock, core_on, link_settings, until

ENDS_S_MAX = 2.0


async def test_the_core_that_goes_in_the_same_instant_doesnt_keep_the_link_alive(
    tmp_path: Path,
) -> None:
    path = tmp_path / "core.sock"
    for turns in range(25):
        asked = 0

        class Core(MemoryCore):
            async def wait_beyond(self, after: int) -> None:
                nonlocal asked
                asked += 1
                await super().wait_beyond(after)

            async def status(self) -> Status:
                nonlocal asked
                asked += 1
                return await super().status()

        async with core_on(path, Core()):
            link = asyncio.create_task(
                run_link(link_settings(1), path, TrustedClock(), random.Random(turns))
            )
            await until(lambda: asked >= 2, 5.0)  # noqa: B023 - looked at in this turn only
        for _ in range(turns % 8):
            await asyncio.sleep(0)
        link.cancel()
        await asyncio.wait({link}, timeout=ENDS_S_MAX)
        assert link.cancelled(), f"after {turns} turns"
