"""A simulated site, and drivers run against it."""

import tomllib
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
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with running_site(tomllib.loads(CONFIG.read_text()), tmp_path) as running:
        yield running
