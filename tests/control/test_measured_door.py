"""A door whose contact and exit button have end-of-line resistors, from its wires to its events."""

import asyncio
import random
from pathlib import Path
from typing import Any

from gateway.clock import SystemClock
from gateway.config.site import check
from gateway.control.door import InForce
from gateway.control.memory import SiteMemory
from gateway.control.site import SiteController
from gateway.domain import events
from gateway.domain.door_state import Contact
from gateway.drivers import REGISTRY
from hwsim.observations import Strike
from hwsim.site import running_site
from tests.control.site import records
from tests.control.test_door import Paper
from tests.drivers.contract import eventually

RTU = {"driver": "modbus_relay", "transport": "rtu_over_tcp", "host": "127.0.0.1", "port": 4196}
CONFIG: dict[str, Any] = {
    "version": 1,
    "site": {"id": "LON", "gateway": "lon-1"},
    "state": {"dir": "/s", "socket": "/s/core.sock", "credential_key": "/s/key"},
    "clock": {"trust": "host"},
    "devices": {
        "relays": {**RTU, "baud_rate": 115200, "unit": 1, "profile": "waveshare_rtu_relay"},
        "loops": {
            **RTU,
            "baud_rate": 115200,
            "unit": 2,
            "profile": "waveshare_rtu_analog_8ch",
            "loop_supply": {"mv": 4500, "pull_up_ohms": 2200, "input": 8},
            "loops": [
                {"input": 1, "series_ohms": 1000, "parallel_ohms": 1000},
                {"input": 2, "series_ohms": 2200, "parallel_ohms": 4700},
            ],
        },
        "keypad": {"driver": "ascii_keypad", "port": "/dev/serial/by-path/usb-1"},
    },
    "doors": {
        "front": {
            "lock": "fail_secure",
            "free_egress": "mechanical",
            "fire_release": "not_needed",
            "strike": {"device": "relays", "output": 1, "relay_class": "R2"},
            "contact": {"device": "loops", "input": 1, "closed_when": "active"},
            "rex": {"device": "loops", "input": 2, "pressed_when": "inactive"},
            "readers": [{"device": "keypad", "side": "in"}],
        },
    },
}


async def test_cut_and_shorted_wires_are_alarms_that_open_nothing_and_a_press_opens(
    tmp_path: Path,
) -> None:
    async with running_site(CONFIG, tmp_path) as site:
        clock, paper = SystemClock(floor=None, vouched=lambda: True), Paper()
        controller = SiteController(
            check(site.runnable_config(), REGISTRY, "site.toml"),
            journal=paper,
            memory=SiteMemory(dict, boot="boot-1", clock=clock),
            in_force=lambda: InForce(records(), "r1", None),
            clock=clock,
            rng=random.Random(1),
        )

        def told() -> list[tuple[str, str]]:
            kinds = (events.InputFault, events.InputRestored)
            found = (event for event in paper.events if isinstance(event, kinds))
            return [(event.point, getattr(event, "what", "")) for event in found]

        def contact() -> Contact:
            return controller.doors["front"].state.contact

        core = asyncio.create_task(controller.run())
        try:
            await eventually(lambda: contact() is Contact.CLOSED, 5)
            await site.cut_wire("loops", 1)
            await site.short_wires("loops", 2)
            await eventually(lambda: set(told()) == {("contact", "cut"), ("rex", "short")})
            assert contact() is Contact.UNKNOWN
            assert controller.troubles("front") == ["input_fault"]
            await site.repair_wires("loops", 2)
            await site.cut_wire("loops", 2)
            await eventually(lambda: told()[-1] == ("rex", "cut"))
            assert not site.seen.of(Strike), "no broken wire is a press"
            for number in (1, 2):
                await site.repair_wires("loops", number)
            await eventually(lambda: set(told()[-2:]) == {("contact", ""), ("rex", "")}, 4)
            assert contact() is Contact.CLOSED
            assert controller.troubles("front") == []
            assert not site.seen.of(Strike)
            await site.rex("front")
            await eventually(lambda: site.seen.of(Strike))
            assert paper.codes().count("rex") == 1
            assert not {"forced_open", "tamper"} & set(paper.codes())
        finally:
            core.cancel()
            await asyncio.gather(core, return_exceptions=True)
