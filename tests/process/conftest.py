from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.process.rig import Rig, standing_rig


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    """A site with its hardware under power, records imported, and nothing running yet."""
    async with standing_rig(tmp_path) as standing:
        await standing.imported()
        yield standing
