"""Relay boards on RTU lines: serial, and through a serial server."""

import asyncio
import random
import time
import tomllib
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import pytest

from gateway.clock import Clock
from gateway.config.devices import RelayClass
from gateway.config.site import check
from gateway.domain.facts import InputChanged, InputGlimpsed, OutputReported, UnexpectedOutput
from gateway.drivers import REGISTRY
from gateway.drivers.modbus_relay import (
    DRIVER,
    PROFILES,
    ModbusRelaySettings,
    relay_class,
)
from gateway.errors import (
    ConfigError,
    DeviceError,
    DeviceMisconfigured,
    DeviceProtocolError,
    DeviceUnavailable,
)
from hwsim.observations import Output
from hwsim.rtu_line import RtuRelayBoard, crc
from hwsim.site import Site
from tests.drivers import test_modbus_relay as tcp
from tests.drivers.contract import WIRED, DriverContract, Running, eventually, running
from tests.timing import allowed

SITE = WIRED
GOLDEN = tomllib.loads((Path(__file__).parents[1] / "golden" / "modbus_relay.toml").read_text())
MS, SECOND = tcp.MS, tcp.SECOND


def edges(site: Site, device: str, output: int) -> list[bool]:
    return [
        seen.on for seen in site.seen.of(Output) if (seen.device, seen.output) == (device, output)
    ]


def board(site: Site, name: str) -> RtuRelayBoard:
    found = site.devices[name]
    assert isinstance(found, RtuRelayBoard)
    return found


@pytest.mark.parametrize("name", PROFILES)
def test_a_profile_says_what_the_board_is(name: str) -> None:
    loops = {
        "loop_supply": {"mv": 5000, "pull_up_ohms": 2200},
        "loops": [{"input": 1, "series_ohms": 1000, "parallel_ohms": 1000}],
    }
    table = {"host": "192.0.2.1", "profile": name, **(loops if PROFILES[name].analogue else {})}
    settings = msgspec.convert(table, ModbusRelaySettings)
    assert DRIVER.outputs(settings) == PROFILES[name].outputs
    assert DRIVER.inputs(settings) == PROFILES[name].inputs
    timed = PROFILES[name].timed_pulse
    assert relay_class(settings) is (RelayClass.R2 if timed else RelayClass.R0)
    assert PROFILES[name].source


def test_a_watchdog_that_was_switched_on_counts_with_a_profile_too() -> None:
    table = {"host": "192.0.2.1", "profile": "moxa_e1214", "watchdog": True}
    assert relay_class(msgspec.convert(table, ModbusRelaySettings)) is RelayClass.R1


@pytest.mark.parametrize("kind", ["pulse", "rest", "on", "read"])
def test_the_golden_frames_are_whole_for_the_simulator_too(kind: str) -> None:
    for golden in GOLDEN[kind]:
        frame = bytes.fromhex(golden["rtu"])
        assert crc(frame[:-2]) == frame[-2:]


class TestARelayBoardOnRtu(tcp.TestAModbusRelay):
    """All that holds on TCP, on a serial line with two boards."""

    device: ClassVar[str] = "relays-bus-1"

    def build(self, site: Site, clock: Clock, **changed: object) -> Any:
        if "outputs" in changed:  # the board's size is its profile's
            changed = {"profile": None, "inputs": 8, "timed_pulse": True, **changed}
        return super().build(site, clock, **changed)

    # On RTU there is no transaction id, and a broken answer ends no connection.
    @pytest.mark.parametrize(
        "faults",
        [{"delay_s": 0.4}, {"wrong_unit": True}, {"foreign": True}, {"silent": True}]
        + [{"cut_after": count} for count in (1, 5, 7)],
        ids=str,
    )
    async def test_a_wrong_answer_confirms_no_pulse_and_ends_the_connection(
        self, site: Site, clock: Clock, faults: dict[str, Any]
    ) -> None:
        await super().test_a_wrong_answer_confirms_no_pulse_and_ends_the_connection(
            site, clock, faults
        )

    async def test_pulses_that_wait_on_a_dying_link_fail_at_once(
        self, site: Site, clock: Clock
    ) -> None:
        # A board that is silent costs one time-out, however much it was to be asked.
        async with running(build(site, clock, BUS[1])) as other:
            async with running(self.build(site, clock)) as run:
                await site.hang(self.device)
                started = time.monotonic()
                pulses = [
                    asyncio.create_task(run.driver.pulse(output, SECOND))  # type: ignore[attr-defined]
                    for output in range(1, 9)
                ]
                results = await asyncio.gather(*pulses, return_exceptions=True)
                assert time.monotonic() - started < allowed(0.6)
                assert all(isinstance(result, DeviceUnavailable) for result in results)
            await other.driver.pulse(1, 100 * MS)  # type: ignore[attr-defined]

    async def test_what_goes_out_is_the_manuals_frames(self, site: Site, clock: Clock) -> None:
        async with running(self.build(site, clock)) as run:
            await run.driver.pulse(1, 700 * MS)  # type: ignore[attr-defined]
            sent = {frame.hex() for frame in board(site, self.device).line.asked}
        wanted = {each["rtu"] for kind in ("rest", "read") for each in GOLDEN[kind]}
        assert wanted | {GOLDEN["pulse"][0]["rtu"]} <= sent

    async def test_on_a_noisy_line_no_pulse_is_confirmed_that_was_not_given(
        self, site: Site, clock: Clock
    ) -> None:
        driver = self.build(site, clock)
        confirmed = refused = 0
        for seed in range(16):
            async with running(driver) as run:
                before = len(edges(site, self.device, 1))
                await site.garble(self.device, 0.03, seed)
                try:
                    await run.driver.pulse(1, SECOND)  # type: ignore[attr-defined]
                except DeviceError:
                    refused += 1
                else:
                    confirmed += 1
                    assert edges(site, self.device, 1)[before:] == [True]
                await site.resume(self.device)
        assert confirmed
        assert refused

    async def test_a_late_answer_is_not_taken_for_that_to_a_later_request(
        self, site: Site, clock: Clock
    ) -> None:
        driver = self.build(site, clock)
        for _ in range(3):
            async with running(driver) as run:
                await site.fault(self.device, delay_s=0.35, times=1)
                with pytest.raises((DeviceUnavailable, DeviceProtocolError)):
                    await run.task
            # Started again at once, while the late answer is still to come.
            async with running(driver) as run:
                await run.driver.pulse(5, 100 * MS)  # type: ignore[attr-defined]
                await eventually(lambda: edges(site, self.device, 5)[-2:] == [True, False])

    async def test_another_masters_frames_on_the_line_are_nobodys_answer(
        self, site: Site, clock: Clock
    ) -> None:
        rng = random.Random(8)
        foreign = [bytes.fromhex(each["rtu"]) for each in (*GOLDEN["on"], *GOLDEN["rest"])]
        async with running(self.build(site, clock)) as run:
            for _ in range(20):
                board(site, self.device).line.write(rng.choice(foreign))
                try:
                    await run.driver.pulse(3, SECOND)  # type: ignore[attr-defined]
                except DeviceError:
                    break
                assert board(site, self.device).board.coils[2]
            await asyncio.sleep(0.02)
            assert not [fact for fact in run.facts if isinstance(fact, UnexpectedOutput)]


class TestABoardWithInputsOnly(DriverContract):
    """Behind a serial server."""

    device: ClassVar[str] = "inputs-server"

    async def prove(self, site: Site, run: Running) -> None:
        found = board(site, self.device)
        await eventually(lambda: len(run.facts) >= 9)
        before, active = len(run.facts), not found.board.inputs[2]
        found.set_input(3, active=active)
        await run.until(lambda facts: any(isinstance(e, InputChanged) for e in facts[before:]))
        assert run.facts[-1] == InputChanged(self.device, 3, active, run.facts[-1].at)

    async def test_it_says_nothing_of_outputs(self, site: Site, clock: Clock) -> None:
        async with running(self.build(site, clock)) as run:
            await self.prove(site, run)
            await asyncio.sleep(0.6)
            assert not [fact for fact in run.facts if isinstance(fact, OutputReported)]
            with pytest.raises(DeviceMisconfigured):
                await run.driver.pulse(1, SECOND)  # type: ignore[attr-defined]
        functions = {frame[1] for frame in board(site, self.device).line.asked}
        assert functions == {0x02}


# --- several boards on one line -------------------------------------------------------------------


def build(site: Site, clock: Clock, name: str, **changed: object) -> Any:
    table = {**site.rewritten_config()["devices"][name], **changed}
    spec = REGISTRY[table.pop("driver")]
    return spec.build(name, msgspec.convert(table, spec.settings), clock)


BUS = ("relays-bus-1", "relays-bus-2")


async def test_two_boards_on_a_line_are_pulsed_at_once_and_each_its_own(
    site: Site, clock: Clock
) -> None:
    async with (
        running(build(site, clock, BUS[0])) as one,
        running(build(site, clock, BUS[1])) as two,
    ):
        for output in range(1, 9):
            await asyncio.gather(
                one.driver.pulse(output, 100 * MS),  # type: ignore[attr-defined]
                two.driver.pulse(9 - output, 100 * MS),  # type: ignore[attr-defined]
            )
        await eventually(lambda: not any(board(site, BUS[1]).board.coils))
        await eventually(lambda: not any(board(site, BUS[0]).board.coils))
        for name in BUS:
            for output in range(1, 9):
                assert edges(site, name, output) == [True, False]


async def test_a_board_that_is_silent_or_restarted_leaves_its_neighbour_alone(
    site: Site, clock: Clock
) -> None:
    one, two = build(site, clock, BUS[0]), build(site, clock, BUS[1])
    async with running(one) as run:
        async with running(two) as other:
            await site.hang(BUS[1])
            with pytest.raises(DeviceUnavailable):
                await other.task
        took = []
        for _ in range(8):
            dead = Running(two)
            await asyncio.sleep(0.02)
            started = time.monotonic()
            await run.driver.pulse(1, SECOND)  # type: ignore[attr-defined]
            took.append(time.monotonic() - started)
            await dead.stop()
        assert max(took) < allowed(0.7)  # one time-out of the dead one, and its own
        assert not run.task.done()
        await site.resume(BUS[1])
        async with running(two) as other:
            await other.driver.pulse(2, 100 * MS)  # type: ignore[attr-defined]
        assert not run.task.done()


async def test_with_the_adapter_gone_all_its_boards_fail_and_come_back(
    site: Site, clock: Clock
) -> None:
    drivers = [build(site, clock, name) for name in BUS]
    line = board(site, BUS[0]).line
    async with running(drivers[0]) as one, running(drivers[1]) as two:
        started = time.monotonic()
        await line.unplug()
        for run in (one, two):
            with pytest.raises(DeviceUnavailable):
                await run.task
        assert time.monotonic() - started < allowed(0.5)
    with pytest.raises(DeviceUnavailable):
        await drivers[0].run(lambda _fact: None)
    await line.plug()
    async with running(drivers[0]), running(drivers[1]) as two:
        await two.driver.pulse(1, 100 * MS)  # type: ignore[attr-defined]


async def test_a_board_of_another_speed_on_the_line_is_misconfigured(
    site: Site, clock: Clock
) -> None:
    slow = build(site, clock, BUS[1], baud_rate=9600)
    async with running(build(site, clock, BUS[0])):
        with pytest.raises(DeviceMisconfigured, match="another speed"):
            await slow.run(lambda _fact: None)


async def test_at_9600_baud_a_pulse_takes_a_few_frames_and_its_neighbours_turn(
    site: Site, clock: Clock
) -> None:
    board(site, BUS[0]).line.baud_rate = 9600
    drivers = [build(site, clock, name, baud_rate=9600) for name in BUS]
    async with running(drivers[0]) as one, running(drivers[1]):
        took = []
        for _ in range(10):
            before = len(edges(site, BUS[0], 1))
            started = time.monotonic()
            pulse = asyncio.create_task(one.driver.pulse(1, 100 * MS))  # type: ignore[attr-defined]
            await eventually(lambda: len(edges(site, BUS[0], 1)) > before)  # noqa: B023
            took.append(time.monotonic() - started)
            await pulse
            await eventually(lambda: not board(site, BUS[0]).board.coils[0])
        assert sorted(took)[5] < allowed(0.06)


async def test_between_a_press_and_the_strike_nothing_goes_over_the_line_but_a_second_look(
    site: Site, clock: Clock
) -> None:
    found = board(site, BUS[0])
    line, unit = found.line, found.board.unit
    line.baud_rate = 9600
    drivers = [build(site, clock, name, baud_rate=9600) for name in (BUS[0], "loops-bus-3")]
    straight = 0
    async with running(drivers[0]) as one, running(drivers[1]):
        for _ in range(5):
            before = len(one.facts)
            line.asked.clear()
            found.set_input(5, active=True)
            await one.until(
                lambda facts: any(isinstance(f, InputGlimpsed) for f in facts[before:])  # noqa: B023
            )
            await one.driver.pulse(1, 100 * MS)  # type: ignore[attr-defined]
            asked = [frame[:2] for frame in line.asked]
            seen = asked.index(bytes([unit, 0x02]))
            straight += asked[seen:][:3] == [bytes([unit, code]) for code in (0x02, 0x02, 0x05)]
            found.set_input(5, active=False)
            await asyncio.sleep(0.4)
    assert straight >= 3, "a machine that stalls may let one through"


def test_the_config_takes_boards_with_their_own_units_on_one_line_and_nothing_else() -> None:
    wired = tomllib.loads(WIRED.read_text())
    check(wired, REGISTRY, "wired.toml")
    wired["devices"][BUS[1]]["unit"] = 1
    with pytest.raises(
        ConfigError, match=r"the line of device 'relays-bus-1', with the same number"
    ):
        check(wired, REGISTRY, "wired.toml")
    wired["devices"][BUS[1]]["unit"] = 2
    wired["devices"]["lobby-scanner"]["port"] = wired["devices"][BUS[0]]["port"]
    with pytest.raises(ConfigError, match="barcode_scanner and modbus_relay can't share"):
        check(wired, REGISTRY, "wired.toml")
