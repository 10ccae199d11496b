"""A controller's own list follows the records, the modes and the hour, at a simulated board."""

import asyncio
import json
import random
import time
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from gateway.clock import SystemClock
from gateway.config.site import check
from gateway.control.door import InForce
from gateway.control.memory import SiteMemory
from gateway.control.orders import Orders
from gateway.control.site import SiteController
from gateway.domain import events
from gateway.domain.entitlements import RecordSet
from gateway.domain.record_faults import parse_records
from gateway.drivers import REGISTRY
from hwsim.site import running_site
from hwsim.uhppote import ANY_TIME, UhppoteDoor
from tests.control.site import record_rows
from tests.control.test_door import Paper
from tests.control.test_tamper import CONFIG
from tests.drivers.contract import eventually

ANN, BEN, STRANGER = 1_200_007, 1_200_008, 9_900_001


def as_lines(*cards: int) -> bytes:
    rows = [
        *record_rows({"inner": {"second_factor_schedule": "24x7"}}),
        *(
            {"type": "credential", "id": f"c-{card}", "holder": "maya", "kind": "wiegand",
             "value": f"H10301:{card // 100_000}:{card % 100_000}"}
            for card in cards
        ),
    ]  # fmt: skip
    return b"\n".join(json.dumps(row).encode() for row in rows)


def in_force(lines: bytes, revision: str) -> InForce:
    return InForce(RecordSet(parse_records(lines.splitlines()).records), revision, None)


def site_config() -> dict[str, Any]:
    board = {"driver": "uhppote", "host": "192.168.70.20", "serial": 7, "fallback": "card_list"}
    door = {key: CONFIG["doors"]["front"][key] for key in ("lock", "free_egress", "fire_release")}
    return {
        **CONFIG,
        "devices": {"front-board": {**board, "door": 1}, "inner-board": {**board, "door": 3}},
        "doors": {
            name: {
                **door,
                "strike": {"device": f"{name}-board", "output": 1, "relay_class": "R2"},
                "readers": [{"device": f"{name}-board", "side": "in"}],
            }
            for name in ("front", "inner")
        },
    }


def _is_online(controller: SiteController, device: str) -> bool:
    return bool(controller.devices[device].online)


async def test_the_list_has_who_may_at_any_hour_and_nobody_under_lockdown(tmp_path: Path) -> None:
    clock, paper = SystemClock(floor=None, vouched=lambda: True), Paper()
    told: list[list[Any]] = []
    memory = SiteMemory(dict, boot="boot-1", clock=clock)
    force = in_force(as_lines(ANN), "r1")
    async with running_site(site_config(), tmp_path) as site:
        device = site.devices["front-board"]
        assert isinstance(device, UhppoteDoor)
        board = device.board.controller
        board.cards = {STRANGER: ANY_TIME, ANN: ANY_TIME}
        controller = SiteController(
            check(site.runnable_config(), REGISTRY, "site.toml"),
            journal=paper,
            memory=memory,
            in_force=lambda: force,
            clock=clock,
            rng=random.Random(1),
        )
        orders = Orders(
            controller, journal=paper, memory=memory, in_force=lambda: force, clock=clock
        )
        core = asyncio.create_task(controller.run())
        try:
            # Whom the records don't know goes; whom they do is told what they say: door 1 only.
            await eventually(lambda: set(board.cards) == {ANN}, 5)
            await eventually(lambda: board.cards[ANN].doors == bytes([1, 0, 0, 0]), 5)
            shown = board.clock(time.monotonic_ns()).replace(tzinfo=ZoneInfo("Europe/London"))
            assert abs(shown - clock.now()) < timedelta(seconds=3)
            await site.swipe("front-board", ANN)
            assert board.events[-1].granted is False, "under remote control the list opens nothing"

            lines = as_lines(ANN, BEN)
            force = in_force(lines, "r2")
            await controller.card_lists.imported(lines)
            await eventually(lambda: set(board.cards) == {ANN, BEN}, 5)
            force = in_force(as_lines(BEN), "r3")
            await eventually(lambda: set(board.cards) == {BEN}, 5)

            await orders.order("site", "", "lockdown", by="uid 0", why="drill", seconds=None)
            await eventually(lambda: not board.cards, 5)
            await orders.order("site", "", "release", by="uid 0", why="drill", seconds=None)
            await eventually(lambda: set(board.cards) == {BEN}, 5)
        finally:
            core.cancel()
            await asyncio.wait((core,))
        board.remote = False  # the gateway is gone for 30 s
        for card, granted in ((BEN, True), (ANN, False), (STRANGER, False)):
            await site.swipe("front-board", card)
            assert board.events[-1].granted == granted
        await site.swipe("inner-board", BEN)
        assert not board.events[-1].granted, "a PIN is asked for there"

        board.remote = True
        # Back again: who was let in meanwhile is in the journal, once.
        for _ in range(2):
            paper.events.clear()
            again = SiteController(
                check(site.runnable_config(), REGISTRY, "site.toml"),
                journal=paper,
                memory=memory,
                in_force=lambda: force,
                clock=clock,
                rng=random.Random(1),
            )
            core = asyncio.create_task(again.run())
            try:
                await eventually(lambda: board.event_index == board.events[-1].index, 5)
                await eventually(partial(_is_online, again, "inner-board"), 5)
            finally:
                core.cancel()
                await asyncio.wait((core,))
            found = [e for e in paper.events if isinstance(e, events.AdmittedByController)]
            told.append([(e.doors, e.holder, e.credential) for e in found])
    assert told == [[(("front",), "maya", f"c-{BEN}")], []]
