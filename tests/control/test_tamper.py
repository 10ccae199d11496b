"""What a reader says of its case, its supply and its keys becomes events; at a simulated line."""

import asyncio
import random
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from gateway.clock import SystemClock
from gateway.config.site import check
from gateway.control.door import InForce
from gateway.control.memory import SiteMemory
from gateway.control.site import SiteController
from gateway.domain import events
from gateway.drivers import REGISTRY
from gateway.drivers.osdp_keys import KeyStore
from hwsim.osdp import OsdpReader
from hwsim.site import Site, running_site
from tests.control.site import records
from tests.control.test_door import Paper
from tests.drivers.contract import eventually

CONFIG: dict[str, Any] = {
    "version": 1,
    "site": {"id": "LON", "gateway": "lon-1"},
    "state": {"dir": "/s", "socket": "/s/core.sock", "credential_key": "/s/key"},
    "clock": {"trust": "host"},
    "devices": {
        "reader": {
            "driver": "osdp",
            "port": "/dev/serial/by-path/usb-1",
            "address": 0,
            "baud_rate": 115200,
            "formats": ["H10301"],
            "inputs": 2,
            "outputs": 1,
        },
    },
    "doors": {
        "front": {
            "lock": "fail_secure",
            "free_egress": "mechanical",
            "fire_release": "not_needed",
            "strike": {"device": "reader", "output": 1, "relay_class": "R2"},
            "contact": {"device": "reader", "input": 1, "closed_when": "active"},
            "tamper": {"device": "reader", "input": 2, "closed_when": "inactive"},
            "readers": [{"device": "reader", "side": "in"}],
        },
    },
}


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with running_site(CONFIG, tmp_path) as running_one:
        yield running_one


async def test_case_supply_and_install_window_are_events_and_a_tampered_door_says_so(
    site: Site, tmp_path: Path
) -> None:
    clock, paper = SystemClock(floor=None, vouched=lambda: True), Paper()
    config = site.runnable_config()
    changes: list[str] = []
    controller = SiteController(
        check(config, REGISTRY, "site.toml"),
        journal=paper,
        memory=SiteMemory(dict, boot="boot-1", clock=clock),
        in_force=lambda: InForce(records(), "r1", None),
        clock=clock,
        rng=random.Random(1),
        on_change=changes.append,
    )
    keys = KeyStore(Path(config["devices"]["reader"]["keys"]))
    keys.open_window("reader", timedelta(minutes=1), clock.monotonic())

    def told(kind: type[Any]) -> list[Any]:
        return [event for event in paper.events if isinstance(event, kind)]

    core = asyncio.create_task(controller.run())
    try:
        # A window from before a restart is over, whatever it says.
        await eventually(lambda: told(events.InstallWindowClosed), 5)
        assert not told(events.InstallWindowClosed)[0].key_set
        keys.open_window("reader", timedelta(minutes=1), clock.monotonic())
        await eventually(lambda: told(events.DeviceUp), 10)
        assert 55 <= told(events.InstallWindowOpened)[0].seconds <= 60
        assert [event.key_set for event in told(events.InstallWindowClosed)] == [False, True]
        assert not told(events.Tamper)
        assert not told(events.PowerFailed)

        await site.tamper("reader")
        await eventually(lambda: told(events.Tamper), 5)
        assert told(events.Tamper)[0].doors == ("front",)
        assert controller.troubles("front") == ["tamper"]
        assert changes[-1] == "front"
        # Lost and found again with its case closed: only then is it over.
        await site.unplug("reader")
        await eventually(lambda: told(events.DeviceDown), 5)
        assert controller.troubles("front") == ["tamper"]
        await site.tamper("reader", active=False)
        await site.plug("reader")
        await eventually(lambda: told(events.TamperRestored), 10)
        assert not controller.troubles("front")

        reader = site.devices["reader"]
        assert isinstance(reader, OsdpReader)
        reader.set_input(2, active=True)
        await eventually(lambda: len(told(events.Tamper)) == 2, 5)
        assert (told(events.Tamper)[1].input, controller.troubles("front")) == (2, ["tamper"])
        reader.set_input(2, active=False)
        await eventually(lambda: len(told(events.TamperRestored)) == 2, 5)

        await site.power_failure("reader")
        await eventually(lambda: told(events.PowerFailed), 5)
        assert controller.devices["reader"].power_failed
        await site.power_failure("reader", failed=False)
        await eventually(lambda: told(events.PowerRestored), 5)
    finally:
        core.cancel()
        await asyncio.wait((core,))
