"""The Modbus relay board's driver."""

import asyncio
import random
import time
import tomllib
from collections.abc import Callable
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pymodbus.framer import FramerRTU
from pymodbus.pdu import DecodePDU

from gateway.clock import Clock
from gateway.config.devices import RelayClass
from gateway.domain.facts import (
    DeviceOnline,
    InputChanged,
    InputGlimpsed,
    OutputReported,
    UnexpectedOutput,
)
from gateway.drivers.modbus_relay import (
    COIL_OFF,
    COIL_ON,
    DRIVER,
    FLASH_ON,
    Function,
    ModbusRelayProtocol,
    ModbusRelaySettings,
    Reply,
    Request,
    pdu_of,
)
from gateway.errors import (
    DeviceError,
    DeviceMisconfigured,
    DeviceProtocolError,
    DeviceUnavailable,
)
from hwsim.observations import Output
from hwsim.relay_board import RelayBoard
from hwsim.site import Site
from tests.drivers.contract import DriverContract, Running, eventually, running
from tests.timing import allowed

GOLDEN = tomllib.loads((Path(__file__).parents[1] / "golden" / "modbus_relay.toml").read_text())
MS = timedelta(milliseconds=1)
SECOND = timedelta(seconds=1)


def settings(**changed: Any) -> ModbusRelaySettings:
    table = {"host": "192.0.2.1", "outputs": 8, "inputs": 8, "timed_pulse": True, **changed}
    return msgspec.convert(table, ModbusRelaySettings)


def relays(**changed: Any) -> ModbusRelayProtocol:
    return ModbusRelayProtocol("relays", settings(**changed))


def rtu(request: Request) -> str:
    return FramerRTU(DecodePDU(False)).buildFrame(pdu_of(request, 1)).hex()


@pytest.mark.parametrize("golden", GOLDEN["pulse"], ids=lambda golden: golden["source"])
def test_golden_bytes_of_a_timed_pulse(golden: dict[str, Any]) -> None:
    duration = timedelta(milliseconds=golden["milliseconds"])
    assert rtu(relays().pulse(golden["output"], duration, SECOND)) == golden["rtu"]


@pytest.mark.parametrize("golden", GOLDEN["rest"], ids=lambda golden: golden["source"])
def test_golden_bytes_of_a_release(golden: dict[str, Any]) -> None:
    assert rtu(relays().rest(golden["output"])) == golden["rtu"]


@pytest.mark.parametrize("golden", GOLDEN["on"], ids=lambda golden: golden["source"])
def test_golden_bytes_of_a_plain_coil(golden: dict[str, Any]) -> None:
    assert rtu(relays(timed_pulse=False).pulse(golden["output"], SECOND, SECOND)) == golden["rtu"]


@pytest.mark.parametrize("golden", GOLDEN["read"], ids=lambda golden: golden["source"])
def test_golden_bytes_of_the_readings(golden: dict[str, Any]) -> None:
    protocol = relays(outputs=golden["count"], inputs=golden["count"])
    asked = {1: protocol.read_outputs, 2: protocol.read_inputs}[golden["function"]]
    assert rtu(asked) == golden["rtu"]


@given(st.timedeltas(min_value=100 * MS, max_value=timedelta(hours=2)), st.integers(1, 8))
def test_a_timed_pulse_is_never_longer_than_granted_and_less_than_a_unit_shorter(
    duration: timedelta, output: int
) -> None:
    request = relays().pulse(output, duration, SECOND)
    granted = min(duration, 0x7FFF * 100 * MS)
    assert request.address == FLASH_ON + output - 1
    assert timedelta() <= granted - request.value * 100 * MS < 100 * MS


def test_a_pulse_below_the_boards_unit_is_one_unit() -> None:
    assert relays().pulse(1, 10 * MS, SECOND).value == 1


@pytest.mark.parametrize("output", [0, -1, 9])
def test_an_output_that_is_not_there_is_refused(output: int) -> None:
    with pytest.raises(DeviceMisconfigured):
        relays().pulse(output, SECOND, SECOND)
    with pytest.raises(DeviceMisconfigured):
        relays().rest(output)


PULSE = Request(Function.WRITE_SINGLE_COIL, 0x0203, 30)


@pytest.mark.parametrize(
    "reply",
    [
        Reply(5, 0x0204, 30),
        Reply(5, 0x0003, 30),
        Reply(5, 0x0203, 31),
        Reply(5, 0x0203, COIL_ON),
        Reply(6, 0x0203, 30),
        Reply(1, bits=(True,) * 8),
    ],
)
def test_an_echo_of_something_else_is_no_answer(reply: Reply) -> None:
    with pytest.raises(DeviceProtocolError):
        relays().check(PULSE, reply)


def test_the_echo_of_the_request_is_its_answer() -> None:
    relays().check(PULSE, Reply(5, 0x0203, 30))


@pytest.mark.parametrize(("outputs", "right"), [(1, 8), (8, 8), (9, 16), (32, 32)])
def test_a_reading_has_as_many_bits_as_were_asked_for(outputs: int, right: int) -> None:
    protocol = relays(outputs=outputs)
    protocol.check(protocol.read_outputs, Reply(1, bits=(False,) * right))
    for wrong in (0, right - 8, right + 8):
        with pytest.raises(DeviceProtocolError):
            protocol.check(protocol.read_outputs, Reply(1, bits=(False,) * wrong))
    with pytest.raises(DeviceProtocolError):
        protocol.check(protocol.read_outputs, Reply(2, bits=(False,) * right))


def test_the_first_reading_tells_every_input_and_later_ones_what_changed() -> None:
    protocol = relays(inputs=3)
    bits = [True, False, True] + [False] * 5
    first = protocol.inputs_read(bits, SECOND)
    assert first == [
        InputChanged("relays", 1, True, SECOND),
        InputChanged("relays", 2, False, SECOND),
        InputChanged("relays", 3, True, SECOND),
    ]
    assert protocol.inputs_read(bits, 2 * SECOND) == []


# What a reading takes: on TCP, on RTU at 115200 and at 9600 baud, two boards at 9600 on one line.
LINES_MS = {"tcp": 1.0, "115200": 6.0, "9600": 26.0, "9600 shared": 52.0}


def looking(
    wire: Callable[[float], bool], reading_ms: float, phase_ms: float, until_ms: float
) -> list[tuple[float, InputChanged | InputGlimpsed]]:
    """What the protocol says of one input, in virtual time; the wire has been open before 0."""
    protocol = relays(inputs=1)
    now, told = phase_ms - 100, []
    while now < until_ms:
        seen = wire(now + reading_ms / 2)
        now += reading_ms
        for fact in protocol.inputs_read([seen] + [False] * 7, now * MS):
            assert isinstance(fact, InputChanged | InputGlimpsed)
            told.append((now, fact))
        now += protocol.pause_s(reading_ms / 1000, now * MS) * 1000
    return told[1:]


@pytest.mark.parametrize(
    ("line", "change_ms", "glimpse_ms"),
    [("tcp", 55, 25), ("115200", 105, 35), ("9600", 360, 85), ("9600 shared", 420, 160)],
)
def test_what_lasts_is_told_once_and_glimpsed_soon(
    line: str, change_ms: int, glimpse_ms: int
) -> None:
    for phase in range(0, 60, 3):
        told = looking(lambda at: at >= 0, LINES_MS[line], phase, 1000)
        (first_at, first), (at, change) = told
        assert isinstance(first, InputGlimpsed)
        assert isinstance(change, InputChanged)
        assert change.active
        assert first_at <= glimpse_ms
        assert 30 <= at <= change_ms


@pytest.mark.parametrize("line", ["tcp", "115200", "9600"])
def test_an_opening_of_400_ms_is_never_missed_bouncing_or_not(line: str) -> None:
    for phase in range(0, 60, 3):
        for bounce in (0, 5, 30, 90):

            def wire(at: float, bounce: int = bounce) -> bool:
                return 0 <= at < 400 + bounce and (at >= bounce or int(at / 2.5) % 2 == 0)

            changes = [
                fact.active
                for _, fact in looking(wire, LINES_MS[line], phase, 1500)
                if isinstance(fact, InputChanged)
            ]
            assert changes == [True, False]


@pytest.mark.parametrize(
    ("line", "runs_wrong_max"), [("tcp", 0), ("115200", 0), ("9600", 2), ("9600 shared", 4)]
)
def test_chatter_looks_like_an_opening_by_chance_only_and_seldom(
    line: str, runs_wrong_max: int
) -> None:
    """60 edges, 2 ms apart and more, whatever the phase; a level shorter than the debounce."""
    wrong = runs = 0
    for gap in (1.0, 2.0, 2.3, 3.7, 5.0, 10.0, 20.0):
        for phase in range(40):

            def wire(at: float, gap: float = gap) -> bool:
                return 0 <= at < 60 * gap and int(at / gap) % 2 == 0

            told = looking(wire, LINES_MS[line], phase / 2, 60 * gap + 500)
            runs += 1
            wrong += any(isinstance(fact, InputChanged) for _, fact in told)
    assert wrong <= runs_wrong_max, f"{wrong} of {runs}"


def test_a_contact_that_never_comes_to_rest_is_read_more_slowly_and_glimpsed_seldom() -> None:
    def wire(at: float) -> bool:
        return at >= 0 and int(at / 3.0) % 2 == 0

    told = looking(wire, 1.0, 0, 3000)
    assert not [fact for _, fact in told if isinstance(fact, InputChanged)]
    at = [at for at, _ in told]
    assert all(later - before >= 30 for before, later in pairwise(at))
    assert len(at) > 10, "an exit button with a loose wire still lets people out"


def test_an_output_that_nobody_pulsed_is_unexpected_and_alarmed_once() -> None:
    protocol = relays(outputs=2)
    protocol.outputs_read([False] * 8, SECOND)
    assert protocol.outputs_read([False, True] + [False] * 6, 2 * SECOND) == [
        OutputReported("relays", 2, True, 2 * SECOND)
    ]
    assert protocol.unexpected(2 * SECOND) == [2]
    assert protocol.forced_off([2], 2 * SECOND) == [UnexpectedOutput("relays", 2, 2 * SECOND)]
    assert protocol.forced_off([2], 3 * SECOND) == []
    protocol.outputs_read([False] * 8, 4 * SECOND)
    protocol.outputs_read([False, True] + [False] * 6, 5 * SECOND)
    assert protocol.forced_off([2], 5 * SECOND) == [UnexpectedOutput("relays", 2, 5 * SECOND)]


def test_a_pulse_is_expected_until_half_a_second_after_its_end() -> None:
    protocol = relays()
    on = [True] + [False] * 7
    protocol.pulse(1, 3 * SECOND, SECOND)
    protocol.pulse_confirmed(1, 3 * SECOND, SECOND)
    protocol.outputs_read(on, SECOND)
    assert protocol.unexpected(SECOND + 3500 * MS) == []
    assert protocol.unexpected(SECOND + 3501 * MS) == [1]


def test_a_released_output_is_not_expected_any_more() -> None:
    protocol = relays()
    protocol.pulse(1, 60 * SECOND, SECOND)
    protocol.outputs_read([True] + [False] * 7, SECOND)
    assert protocol.rest(1) == Request(Function.WRITE_SINGLE_COIL, 0, COIL_OFF)
    assert protocol.unexpected(2 * SECOND) == []
    protocol.rest_confirmed(1)
    assert protocol.unexpected(2 * SECOND) == [1]


def test_the_host_ends_only_the_pulses_that_the_board_does_not() -> None:
    timed, plain = relays(), relays(timed_pulse=False)
    for protocol in (timed, plain):
        protocol.pulse(1, 3 * SECOND, SECOND)
    assert timed.next_release() is None
    assert timed.to_release(100 * SECOND) == []
    due = plain.next_release()
    assert due is not None
    assert 3900 * MS < due < 4 * SECOND
    assert plain.to_release(due - MS) == []
    assert plain.to_release(due) == [1]
    plain.pulse(1, 3 * SECOND, 2 * SECOND)
    assert plain.to_release(due) == []


@pytest.mark.parametrize(
    ("timed", "watchdog", "best"),
    [
        (True, True, RelayClass.R3),
        (True, False, RelayClass.R2),
        (False, True, RelayClass.R1),
        (False, False, RelayClass.R0),
    ],
)
def test_what_a_strike_on_the_board_can_claim(
    timed: bool, watchdog: bool, best: RelayClass
) -> None:
    assert DRIVER.relay_class is not None
    assert DRIVER.relay_class(settings(timed_pulse=timed, watchdog=watchdog)) is best


@pytest.mark.parametrize(
    "wrong",
    [
        {"host": ""},
        {"host": "a b"},
        {"port": 0},
        {"unit": 256},
        {"outputs": 0, "inputs": 0},
        {"outputs": None},
        {"timed_pulse": None},
        {"profile": "waveshare_rtu_relay"},
        {"profile": "toaster", "outputs": None, "inputs": None, "timed_pulse": None},
        {"host": None},
        {"parity": "even"},
        {"port": "/dev/ttyUSB0"},
        {"transport": "rtu"},
        {"transport": "rtu", "host": None, "port": 502},
        {"transport": "rtu", "host": None, "port": "/dev/ttyUSB0", "baud_rate": 9601},
        {"transport": "rtu", "host": None, "port": "/dev/ttyUSB0", "unit": 248},
        {"transport": "rtu_over_tcp", "stop_bits": 2},
        {"outputs": 65},
        {"inputs": -1},
        {"debounce_ms": 19},
        {"debounce_ms": 51},
        {"timed_pulse": "yes"},
        {"baud_rate": 9600},
    ],
)
def test_impossible_settings_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(msgspec.ValidationError):
        settings(**wrong)


def test_whether_the_board_times_pulses_has_no_default() -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"host": "a", "outputs": 8, "inputs": 8}, ModbusRelaySettings)


def edges(site: Site, output: int) -> list[tuple[int, bool]]:
    return [(seen.at_ns, seen.on) for seen in site.seen.of(Output) if seen.output == output]


def on_times(site: Site, output: int) -> list[timedelta]:
    """How long the relay was energised each time, by the board's own clock."""
    switched = edges(site, output)
    assert [on for _, on in switched] == [True, False] * (len(switched) // 2)
    return [
        timedelta(microseconds=(off - on) // 1000)
        for (on, _), (off, _) in zip(switched[::2], switched[1::2], strict=True)
    ]


class TestAModbusRelay(DriverContract):
    device: ClassVar[str] = "relays-b"

    async def prove(self, site: Site, run: Running) -> None:
        before = len(edges(site, 3))
        await run.driver.pulse(3, 100 * MS)  # type: ignore[attr-defined]
        assert len(edges(site, 3)) > before
        await eventually(lambda: len(edges(site, 3)) == before + 2)

    def board(self, site: Site) -> RelayBoard:
        board = site.devices[self.device]
        assert isinstance(board, RelayBoard)
        return board

    async def test_every_output_is_at_rest_before_it_is_online(
        self, site: Site, clock: Clock
    ) -> None:
        board = self.board(site)
        board.board.coils[1] = board.board.coils[7] = True
        async with running(self.build(site, clock)) as run:
            assert board.board.coils == [False] * 8
            await run.until(lambda facts: len(facts) >= 17)
            told = [fact for fact in run.facts if isinstance(fact, OutputReported)]
            assert [(fact.output, fact.energised) for fact in told] == [
                (output, False) for output in range(1, 9)
            ]
            assert isinstance(run.facts[0], DeviceOnline)
            assert sum(isinstance(fact, InputChanged) for fact in run.facts) == 8

    async def test_a_pulse_returns_when_it_is_on_and_ends_by_itself(
        self, site: Site, clock: Clock
    ) -> None:
        async with running(self.build(site, clock)) as run:
            await run.driver.pulse(2, 300 * MS)  # type: ignore[attr-defined]
            assert self.board(site).board.coils[1]
            assert OutputReported(self.device, 2, True, run.facts[-1].at) == run.facts[-1]
            await run.until(
                lambda facts: isinstance(facts[-1], OutputReported) and not facts[-1].energised
            )
            (lasted,) = on_times(site, 2)
            assert 250 * MS < lasted <= 310 * MS
            assert not [fact for fact in run.facts if isinstance(fact, UnexpectedOutput)]

    async def test_a_pulse_during_a_pulse_restarts_it(self, site: Site, clock: Clock) -> None:
        async with running(self.build(site, clock)) as run:
            await run.driver.pulse(1, 300 * MS)  # type: ignore[attr-defined]
            await asyncio.sleep(0.2)
            await run.driver.pulse(1, 300 * MS)  # type: ignore[attr-defined]
            await eventually(lambda: len(edges(site, 1)) == 2)
            (lasted,) = on_times(site, 1)
            assert 450 * MS < lasted < 600 * MS

    async def test_rest_ends_a_pulse_at_once(self, site: Site, clock: Clock) -> None:
        async with running(self.build(site, clock)) as run:
            await run.driver.pulse(1, 10 * SECOND)  # type: ignore[attr-defined]
            await run.driver.rest(1)  # type: ignore[attr-defined]
            (lasted,) = on_times(site, 1)
            assert lasted < 200 * MS
            assert not [fact for fact in run.facts if isinstance(fact, UnexpectedOutput)]

    async def test_a_pulse_is_quick_while_inputs_are_polled(self, site: Site, clock: Clock) -> None:
        async with running(self.build(site, clock)) as run:
            took, rng = [], random.Random(6)
            for _ in range(30):
                started = time.monotonic()
                await run.driver.pulse(1, 100 * MS)  # type: ignore[attr-defined]
                took.append(time.monotonic() - started)
                await asyncio.sleep(rng.random() * 0.03)
            assert sorted(took)[15] < allowed(0.02)

    async def test_many_pulses_at_once_all_come_through(self, site: Site, clock: Clock) -> None:
        async with running(self.build(site, clock)) as run:
            await asyncio.gather(
                *(run.driver.pulse(output, SECOND) for output in range(1, 9))  # type: ignore[attr-defined]
            )
            assert self.board(site).board.coils == [True] * 8

    async def test_a_coil_that_somebody_else_energised_is_put_to_rest_and_told(
        self, site: Site, clock: Clock
    ) -> None:
        async with running(self.build(site, clock)) as run:
            board = self.board(site)
            board.board.request(bytes.fromhex("050004ff00"), time.monotonic_ns())
            board.settle()
            await run.until(
                lambda facts: any(isinstance(fact, UnexpectedOutput) for fact in facts), 1.0
            )
            assert not board.board.coils[4]
            await asyncio.sleep(0.6)
            (told,) = (fact for fact in run.facts if isinstance(fact, UnexpectedOutput))
            assert told.output == 5

    async def test_an_input_change_is_told_within_a_tenth_of_a_second(
        self, site: Site, clock: Clock
    ) -> None:
        async with running(self.build(site, clock)) as run:
            board = self.board(site)
            took, glimpsed, rng = list[int](), list[int](), random.Random(6)
            for turn in range(12):
                await asyncio.sleep(0.05 + rng.random() * 0.02)
                active, before = turn % 2 == 0, len(run.facts)
                started = time.monotonic_ns()
                board.set_input(6, active=active)
                await run.until(lambda facts: len(facts) > before + 1)  # noqa: B023
                took.append(run.told_ns[-1] - started)
                glimpsed.append(run.told_ns[-2] - started)
                first, fact = run.facts[-2:]
                assert first == InputGlimpsed(self.device, 6, active, first.at)
                assert fact == InputChanged(self.device, 6, active, fact.at)
            assert sorted(glimpsed)[len(glimpsed) // 2] < 35_000_000
            assert sorted(took)[len(took) // 2] < allowed(70_000_000)
            assert max(took) < allowed(100_000_000)

    async def test_a_chattering_contact_is_told_as_one_change(
        self, site: Site, clock: Clock
    ) -> None:
        async with running(self.build(site, clock)) as run:
            board, before = self.board(site), len(run.facts)
            for turn in range(9):
                board.set_input(7, active=turn % 2 == 0)
                await asyncio.sleep(0.002)
            await asyncio.sleep(0.2)
            told = [fact for fact in run.facts[before:] if isinstance(fact, InputChanged)]
            assert len(told) == 1

    async def test_an_input_pulse_of_400_ms_is_never_missed(self, site: Site, clock: Clock) -> None:
        async with running(self.build(site, clock)) as run:
            board, before = self.board(site), len(run.facts)
            for active in [True, False] * 2:
                board.set_input(7, active=active)
                await asyncio.sleep(0.4)
            told = [fact for fact in run.facts[before:] if isinstance(fact, InputChanged)]
            assert [fact.active for fact in told] == [True, False] * 2

    @pytest.mark.parametrize(
        "faults",
        [
            {"delay_s": 0.8},
            {"wrong_transaction": True},
            {"wrong_unit": True},
            {"foreign": True},
            {"silent": True},
            {"cut_after": 5},
        ],
        ids=lambda faults: next(iter(faults)),
    )
    async def test_a_wrong_answer_confirms_no_pulse_and_ends_the_connection(
        self, site: Site, clock: Clock, faults: dict[str, Any]
    ) -> None:
        driver = self.build(site, clock)
        async with running(driver) as run:
            await site.fault(self.device, **faults)
            started = time.monotonic()
            with pytest.raises(DeviceError):
                await run.driver.pulse(1, SECOND)  # type: ignore[attr-defined]
            with pytest.raises((DeviceUnavailable, DeviceProtocolError)):
                async with asyncio.timeout(allowed(1.0)):
                    await run.task
            assert time.monotonic() - started < allowed(1.0)
        await site.resume(self.device)
        async with running(driver) as run:
            await self.prove(site, run)

    async def test_answers_that_come_twice_are_taken_once(self, site: Site, clock: Clock) -> None:
        async with running(self.build(site, clock)) as run:
            await site.fault(self.device, twice=True)
            for output in range(1, 9):
                await run.driver.pulse(output, SECOND)  # type: ignore[attr-defined]
                assert self.board(site).board.coils[output - 1]
            assert not run.task.done()

    async def test_pulses_that_wait_on_a_dying_link_fail_at_once(
        self, site: Site, clock: Clock
    ) -> None:
        async with running(self.build(site, clock)) as run:
            await site.hang(self.device)
            pulses = [
                asyncio.create_task(run.driver.pulse(output, SECOND))  # type: ignore[attr-defined]
                for output in range(1, 9)
            ]
            await asyncio.sleep(0.05)
            started = time.monotonic()
            await site.unplug(self.device)
            results = await asyncio.gather(*pulses, return_exceptions=True)
            assert time.monotonic() - started < allowed(0.2)
            assert all(isinstance(result, DeviceUnavailable) for result in results)

    async def test_a_board_that_hangs_is_given_up(self, site: Site, clock: Clock) -> None:
        async with running(self.build(site, clock)) as run:
            await site.hang(self.device)
            with pytest.raises(DeviceUnavailable):
                async with asyncio.timeout(allowed(1.0)):
                    await run.task

    async def test_without_a_connection_a_pulse_is_an_error(self, site: Site, clock: Clock) -> None:
        driver = self.build(site, clock)
        with pytest.raises(DeviceUnavailable):
            await driver.pulse(1, SECOND)
        with pytest.raises(DeviceUnavailable):
            await driver.rest(1)

    async def test_a_cancelled_pulse_leaves_the_line_in_order(
        self, site: Site, clock: Clock
    ) -> None:
        rng = random.Random(5)
        async with running(self.build(site, clock)) as run:
            for _ in range(40):
                pulse = asyncio.create_task(run.driver.pulse(1, 100 * MS))  # type: ignore[attr-defined]
                await asyncio.sleep(rng.random() * 0.002)
                pulse.cancel()
                await asyncio.wait({pulse})
            await self.prove(site, run)

    async def test_a_board_with_fewer_outputs_than_configured_is_misconfigured(
        self, site: Site, clock: Clock
    ) -> None:
        with pytest.raises(DeviceMisconfigured):
            await self.build(site, clock, outputs=16).run(lambda _fact: None)

    async def test_random_bytes_from_the_board_are_no_fact(self, site: Site, clock: Clock) -> None:
        driver = self.build(site, clock)
        for seed in range(20):
            async with running(driver) as run:
                before = len(run.facts)
                for part in range(10):
                    await site.noise(self.device, 1000, seed * 100 + part)
                    await asyncio.sleep(0)
                await asyncio.sleep(0.02)
                assert len(run.facts) == before


class TestAPlainModbusRelay(TestAModbusRelay):
    """The same board, its timers unused: this software ends each pulse."""

    changed: ClassVar[dict[str, object]] = {"timed_pulse": False}

    async def test_stopped_in_mid_pulse_it_releases_the_output(
        self, site: Site, clock: Clock
    ) -> None:
        async with running(self.build(site, clock)) as run:
            await run.driver.pulse(1, 60 * SECOND)  # type: ignore[attr-defined]
            assert self.board(site).board.coils[0]
        assert not self.board(site).board.coils[0]

    async def test_a_pulse_is_never_longer_than_granted(self, site: Site, clock: Clock) -> None:
        async with running(self.build(site, clock)) as run:
            for _ in range(5):
                await run.driver.pulse(4, 150 * MS)  # type: ignore[attr-defined]
                await asyncio.sleep(0.2)
            lasted = on_times(site, 4)
            assert len(lasted) == 5
            assert all(100 * MS < each <= 150 * MS for each in lasted)
