"""What inputs say, brought to their doors: REX at second sight, supervised wires."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from gateway.config.site import load
from gateway.control.door import InForce
from gateway.control.memory import SiteMemory
from gateway.control.site import SiteController
from gateway.control.supervised import SETTLE
from gateway.domain import events
from gateway.domain.door_state import Contact
from gateway.domain.entitlements import NO_RECORDS
from gateway.domain.facts import (
    DeviceOffline,
    DeviceOnline,
    Fact,
    InputChanged,
    InputFaulty,
    InputGlimpsed,
    PowerChanged,
    TamperChanged,
)
from gateway.drivers import REGISTRY
from tests.control.test_door import Paper
from tests.process.rig import site_config
from tests.virtual import VirtualClock, run

BOARD = "relays-a"
CONTACT, REX, CONTACT_OPPOSITE, REX_OPPOSITE, CASE = 1, 5, 2, 6, 7


class Inputs:
    """A site whose devices are spoken for; nothing is opened."""

    def __init__(self, directory: Path, *, supervised: bool, paper: Paper | None) -> None:
        config: dict[str, Any] = site_config(directory)
        front = config["doors"]["front"]
        if supervised:
            front["contact"]["opposite_input"] = CONTACT_OPPOSITE
            front["rex"]["opposite_input"] = REX_OPPOSITE
        front["tamper"] = {"device": BOARD, "input": CASE, "closed_when": "active"}
        file = directory / "site.toml"
        file.write_text(tomli_w.dumps(config))
        self.clock, self.paper = VirtualClock(), paper or Paper()
        self.told: list[str] = []
        """The doors whose published state was looked at anew."""
        self.site = SiteController(
            load(file, REGISTRY),
            journal=self.paper,
            memory=SiteMemory(lambda: self.paper.state, boot="b", clock=self.clock),
            in_force=lambda: InForce(NO_RECORDS, None, None),
            clock=self.clock,
            rng=random.Random(0),
            on_change=self.told.append,
        )

    async def say(self, *facts: Fact, wait_s: float = 0.01) -> None:
        for fact in facts:
            self.site.take(fact)
        await asyncio.sleep(wait_s)

    def changed(self, number: int, active: bool) -> InputChanged:
        return InputChanged(BOARD, number, active, self.clock.monotonic())

    def glimpsed(self, number: int, active: bool) -> InputGlimpsed:
        return InputGlimpsed(BOARD, number, active, self.clock.monotonic())

    def faulty(self, number: int, what: str) -> InputFaulty:
        return InputFaulty(BOARD, number, what, self.clock.monotonic())

    def faults(self) -> list[tuple[str, str]]:
        """Point and what is wrong with it; "" for what is well again."""
        told = (events.InputFault, events.InputRestored)
        return [
            (event.point, getattr(event, "what", ""))
            for event in self.paper.events
            if isinstance(event, told)
        ]

    def presses(self) -> int:
        return self.paper.codes().count("rex")

    def contact(self) -> Contact:
        return self.site.doors["front"].state.contact


@asynccontextmanager
async def inputs(
    directory: Path, *, supervised: bool = False, paper: Paper | None = None
) -> AsyncIterator[Inputs]:
    made = Inputs(directory, supervised=supervised, paper=paper)
    made.site.take_up()
    running = [asyncio.create_task(door.run()) for door in made.site.doors.values()]
    await made.say(DeviceOnline(BOARD, made.clock.monotonic()))
    try:
        yield made
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


def test_an_exit_button_counts_as_soon_as_it_is_glimpsed_and_once_a_press(tmp_path: Path) -> None:
    async def journey() -> None:
        async with inputs(tmp_path) as site:
            for press in range(1, 4):
                await site.say(site.glimpsed(REX, True))
                assert site.presses() == press
                await site.say(site.changed(REX, True), wait_s=0.4)
                await site.say(site.glimpsed(REX, False), site.changed(REX, False))
                assert site.presses() == press
            # One that is told at once, as a driver does whose kernel or board debounces.
            await site.say(site.changed(REX, True), site.changed(REX, False))
            assert site.presses() == 4
            # One that never comes to rest lets people out each time it is seen pressed.
            await site.say(site.glimpsed(REX, True), wait_s=0.05)
            await site.say(site.glimpsed(REX, True))
            assert site.presses() == 6

    run(journey())


def test_a_press_too_short_to_be_sure_does_not_hide_the_next_one(tmp_path: Path) -> None:
    async def journey() -> None:
        async with inputs(tmp_path) as site:
            await site.say(site.glimpsed(REX, True), wait_s=60)
            # Told without a glimpse: a dead board on the line kept the second look waiting.
            await site.say(site.changed(REX, True))
            assert site.presses() == 2

    run(journey())


def test_a_glimpse_moves_no_contact(tmp_path: Path) -> None:
    async def journey() -> None:
        async with inputs(tmp_path) as site:
            await site.say(site.changed(CONTACT, True))
            await site.say(site.glimpsed(CONTACT, False))
            assert site.contact() is Contact.CLOSED
            await site.say(site.changed(CONTACT, False))
            assert site.contact() is Contact.OPEN

    run(journey())


def test_either_wire_of_a_supervised_exit_button_lets_people_out(tmp_path: Path) -> None:
    async def journey() -> None:
        async with inputs(tmp_path, supervised=True) as site:
            await site.say(site.changed(REX, False), site.changed(REX_OPPOSITE, True))
            await site.say(site.glimpsed(REX, True), site.glimpsed(REX_OPPOSITE, False))
            await site.say(site.changed(REX, True), site.changed(REX_OPPOSITE, False))
            assert site.presses() == 1, "both wires are one press"
            await site.say(site.changed(REX, False), site.changed(REX_OPPOSITE, True), wait_s=1)
            await site.say(site.changed(REX, True), wait_s=1)  # shorted, and stays so
            assert site.presses() == 2
            assert "short" in [e.what for e in site.paper.events if type(e) is events.InputFault]
            for presses in (3, 4):
                await site.say(site.changed(REX_OPPOSITE, False), wait_s=0.4)
                assert site.presses() == presses
                await site.say(site.changed(REX_OPPOSITE, True), wait_s=1)

    run(journey())


def test_each_cut_or_shorted_wire_of_a_supervised_contact_is_a_fault_and_no_alarm(
    tmp_path: Path,
) -> None:
    async def journey() -> None:
        settled_s = SETTLE.total_seconds() * 1.1
        async with inputs(tmp_path, supervised=True) as site:
            await site.say(site.changed(CONTACT, True))
            assert site.contact() is Contact.UNKNOWN, "one wire is half an answer"
            await site.say(site.changed(CONTACT_OPPOSITE, False))
            assert site.contact() is Contact.CLOSED
            for wire, active, what in (
                (CONTACT, False, "cut"),
                (CONTACT_OPPOSITE, True, "short"),
            ):
                await site.say(site.changed(wire, active), wait_s=settled_s)
                fault = site.paper.events[-1]
                assert isinstance(fault, events.InputFault)
                assert (fault.door, fault.point, fault.what) == ("front", "contact", what)
                assert site.contact() is Contact.UNKNOWN
                assert site.site.troubles("front") == ["input_fault"]
                assert site.site.troubles("back") == []
                await site.say(site.changed(wire, not active))
                assert isinstance(site.paper.events[-1], events.InputRestored)
                assert site.contact() is Contact.CLOSED
                assert site.site.troubles("front") == []
            await site.say(site.changed(CONTACT, False), site.changed(CONTACT_OPPOSITE, True))
            assert site.contact() is Contact.OPEN
            assert site.paper.codes().count("forced_open") == 1, "that was an opening"

    run(journey())


def test_a_measured_contact_with_broken_wires_is_neither_open_nor_closed(tmp_path: Path) -> None:
    async def journey() -> None:
        async with inputs(tmp_path) as site:
            await site.say(site.changed(CONTACT, True))
            for what in ("cut", "short", "resistance", "unsteady", "supply"):
                await site.say(site.faulty(CONTACT, what), site.faulty(CONTACT, what))
                assert site.contact() is Contact.UNKNOWN
                assert site.site.troubles("front") == ["input_fault"]
                assert site.faults()[-1] == ("contact", what)
            assert len(site.faults()) == 5, "each once"
            await site.say(site.changed(CONTACT, True))
            assert site.faults()[-1] == ("contact", "")
            assert site.contact() is Contact.CLOSED
            assert site.site.troubles("front") == []
            assert "forced_open" not in site.paper.codes()
            await site.say(site.faulty(CONTACT, "cut"), site.changed(CONTACT, False))
            assert site.contact() is Contact.OPEN
            assert "forced_open" not in site.paper.codes(), "when it was opened is not known"

    run(journey())


def test_a_measured_exit_button_with_broken_wires_opens_nothing_and_is_an_alarm(
    tmp_path: Path,
) -> None:
    async def journey() -> None:
        async with inputs(tmp_path) as site:
            await site.say(site.changed(REX, False))
            for what in ("cut", "short", "resistance", "unsteady", "supply"):
                await site.say(site.faulty(REX, what))
                assert site.presses() == 0
                assert site.faults()[-1] == ("rex", what)
                assert site.site.troubles("front") == ["input_fault"]
            await site.say(site.glimpsed(REX, True))
            assert site.presses() == 1, "one that is seen through a loose wire counts"
            await site.say(site.changed(REX, True), site.changed(REX, False), wait_s=1)
            assert site.presses() == 1
            assert site.faults()[-1] == ("rex", "")

    run(journey())


def test_a_tamper_switch_with_broken_wires_is_an_opened_case(tmp_path: Path) -> None:
    async def journey() -> None:
        async with inputs(tmp_path) as site:
            await site.say(site.changed(CASE, True))
            await site.say(site.faulty(CASE, "cut"))
            assert site.site.troubles("front") == ["tamper", "input_fault"]
            await site.say(site.changed(CASE, True))
            assert site.site.troubles("front") == []
            told = [code for code in site.paper.codes() if "tamper" in code or "input" in code]
            assert told == ["input_fault", "tamper", "input_restored", "tamper_restored"]

    run(journey())


@pytest.mark.parametrize("mended", [False, True])
def test_broken_wires_and_open_cases_are_so_over_a_restart_and_their_end_is_told(
    tmp_path: Path, mended: bool
) -> None:
    async def journey() -> None:
        async with inputs(tmp_path, supervised=True) as site:
            await site.say(site.changed(CONTACT, True), site.changed(CONTACT_OPPOSITE, True))
            await site.say(site.changed(REX, False), site.changed(REX_OPPOSITE, True), wait_s=1)
            at = site.clock.monotonic()
            await site.say(TamperChanged(BOARD, True, at), PowerChanged(BOARD, True, at))
            await site.say(site.faulty(CASE, "cut"))
            paper = site.paper
            before = len(paper.events)
        async with inputs(tmp_path, supervised=True, paper=paper) as site:
            assert site.site.troubles("front") == ["tamper", "input_fault"]
            assert site.site.devices[BOARD].power_failed
            at = site.clock.monotonic()
            await site.say(TamperChanged(BOARD, not mended, at))
            await site.say(PowerChanged(BOARD, not mended, at))
            await site.say(site.changed(CASE, True) if mended else site.faulty(CASE, "cut"))
            await site.say(site.changed(CONTACT, True))
            await site.say(site.changed(CONTACT_OPPOSITE, not mended), wait_s=1)
            told = paper.codes()[before:]
            ends = ["input_restored"] * 2 + ["power_restored"] + ["tamper_restored"] * 2
            assert sorted(code for code in told if code != "device_online") == ends * mended
        async with inputs(tmp_path, supervised=True, paper=paper) as site:
            assert site.site.troubles("front") == ["tamper", "input_fault"] * (not mended)

    run(journey())


def test_after_its_board_was_lost_a_press_is_a_press_again(tmp_path: Path) -> None:
    async def journey() -> None:
        async with inputs(tmp_path, supervised=True) as site:
            await site.say(site.glimpsed(REX, True), wait_s=1)
            await site.say(DeviceOffline(BOARD, "unplugged", site.clock.monotonic()))
            await site.say(DeviceOnline(BOARD, site.clock.monotonic()))
            await site.say(site.changed(REX, True))
            assert site.presses() == 2

    run(journey())


def test_a_change_of_the_times_trust_is_told_of_every_door_and_once(tmp_path: Path) -> None:
    async def journey() -> None:
        async with inputs(tmp_path) as site:
            site.site.look_at_modes()
            for trusted, told in (
                (True, []),
                (False, ["front", "back"]),
                (True, ["front", "back"]),
            ):
                site.told.clear()
                site.clock.trusted = trusted
                site.site.look_at_modes()
                site.site.look_at_modes()
                assert site.told == told

    run(journey())
