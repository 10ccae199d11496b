import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.process.rig import Rig, standing_rig

# Where a test without a loop comes first, pytest-asyncio asks for the current loop, and on Python
# 3.11 asyncio makes one that nobody closes. Once "there is none" has been said it makes none.
asyncio.set_event_loop(None)


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    """A site with its hardware under power, records imported, and nothing running yet."""
    async with standing_rig(tmp_path) as standing:
        await standing.imported()
        yield standing
