"""A simulated site, and drivers run against it."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.clock import SystemClock
from hwsim.site import Site, running_site
from tests.drivers.contract import CONFIG


@pytest.fixture
def clock() -> SystemClock:
    return SystemClock(floor=None, vouched=lambda: True)


@pytest.fixture
async def site(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Site]:
    """The site of the module's `SITE` file, or else of the documented example."""
    file: Path = getattr(request.module, "SITE", CONFIG)
    async with running_site(file, tmp_path) as running:
        yield running
