"""A small site on simulated hardware, for the tests of its wire."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from hwsim.door import DoorTimes
from hwsim.site import Site, running_site

CONFIG: dict[str, Any] = {
    "devices": {
        "relays": {
            "driver": "modbus_relay",
            "host": "192.168.70.10",
            "port": 502,
            "unit": 1,
            "outputs": 8,
            "inputs": 8,
        },
        "reader": {"driver": "pn532", "port": "/dev/serial/by-path/usb-1"},
        "keypad": {"driver": "ascii_keypad", "port": "/dev/serial/by-path/usb-2"},
    },
    "doors": {
        "front": {
            "lock": "fail_secure",
            "strike": {"device": "relays", "output": 2},
            "contact": {"device": "relays", "input": 1, "closed_when": "active"},
            "rex": {"device": "relays", "input": 5, "pressed_when": "inactive"},
        },
        "back": {
            "lock": "fail_safe",
            "strike": {"device": "relays", "output": 3},
            "contact": {"device": "relays", "input": 2, "closed_when": "inactive"},
        },
    },
}

FAST = DoorTimes(opening_s=0.02, passing_s=0.02, closing_s=0.02, bounce_s=())


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with running_site(CONFIG, tmp_path, door_times=FAST) as running:
        yield running
