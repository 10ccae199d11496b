"""Loops with end-of-line resistors: every state through simulated wires, in virtual time."""

import random
import tomllib
from collections.abc import Callable, Sequence
from datetime import timedelta
from math import exp, inf
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pymodbus.framer import FramerRTU
from pymodbus.pdu import DecodePDU

from gateway.clock import Clock
from gateway.config.site import check
from gateway.domain.facts import Fact, InputChanged, InputFaulty, InputGlimpsed
from gateway.drivers import REGISTRY
from gateway.drivers.modbus_relay import (
    ModbusRelayProtocol,
    ModbusRelaySettings,
    Reply,
    answer_in,
    pdu_of,
    reply_of,
)
from gateway.errors import ConfigError, DeviceMisconfigured, DeviceProtocolError
from hwsim.loops import Feed, Loop, SupplyTap
from hwsim.relay_board import Board
from hwsim.rtu_line import RtuRelayBoard, crc
from hwsim.site import Site
from tests.drivers.contract import WIRED, DriverContract, Running, running

SITE = WIRED
GOLDEN = tomllib.loads((Path(__file__).parents[1] / "golden" / "modbus_relay.toml").read_text())
MS = timedelta(milliseconds=1)
SECOND = timedelta(seconds=1)

# Networks that fit: resistors, pull-up, and whether the supply must be measured.
NETWORKS = [(1000, 1000, 2200), (2200, 4700, 3900)]
MEASURED = [(1000, 1000, 1500), (4700, 4700, 2200), (5600, 5600, 3300), *NETWORKS]


def table(series: int = 1000, parallel: int = 1000, pull_up: int = 2200, **more: Any) -> Any:
    """A device's settings; what is None is left out."""
    given = {
        "host": "192.0.2.1",
        "profile": "waveshare_rtu_analog_8ch_b",
        "loop_supply": {"mv": 5000, "pull_up_ohms": pull_up},
        "loops": [{"input": 1, "series_ohms": series, "parallel_ohms": parallel}],
        **more,
    }
    return {name: value for name, value in given.items() if value is not None}


def protocol(**given: Any) -> ModbusRelayProtocol:
    return ModbusRelayProtocol("loops", msgspec.convert(table(**given), ModbusRelaySettings))


class Bench:
    """A board, its loop, and a gateway's protocol that reads it, in virtual time."""

    def __init__(self, network: tuple[int, int, int], *, measured: bool = False, **feed: Any):
        series, parallel, pull_up = network
        self.feed = Feed(**{"volts": 5.0, "pull_up_ohms": pull_up, **feed})
        self.loop = Loop(feed=self.feed, at_end=(series, series + parallel))
        self.board = Board(outputs=0, inputs=8)
        self.board.measured = [self.loop, SupplyTap(feed=self.feed), *[None] * 6]
        given = {"mv": 5000, "pull_up_ohms": pull_up, **({"input": 2} if measured else {})}
        self.protocol = protocol(
            series=series, parallel=parallel, pull_up=pull_up, loop_supply=given
        )
        self.now_ms = 0.0
        self.told: list[tuple[float, Fact]] = []

    def reading(self) -> Reply:
        asked = self.protocol.read_inputs
        pdu = pdu_of(asked, 1)
        answer = self.board.request(bytes([pdu.function_code]) + pdu.encode(), 0)
        decoded = DecodePDU(False).decode(answer)
        assert decoded is not None
        reply = reply_of(decoded)
        self.protocol.check(asked, reply)
        return reply

    def watch(
        self,
        for_ms: float,
        reading_ms: float = 6.0,
        meanwhile: Callable[[float], None] = lambda _ms: None,
    ) -> list[tuple[float, Fact]]:
        """Let time pass; what was told, each with the time since now."""
        began, known = self.now_ms, len(self.told)
        while self.now_ms < began + for_ms:
            meanwhile(self.now_ms - began)
            reply = self.reading()
            self.now_ms += reading_ms
            for fact in self.protocol.inputs_told(reply, self.now_ms * MS):
                self.told.append((self.now_ms - began, fact))
            pause_s = self.protocol.pause_s(reading_ms / 1000, self.now_ms * MS)
            self.now_ms += pause_s * 1000
        return self.told[known:]


def sound(told: list[tuple[float, Fact]]) -> list[bool]:
    """What was taken for closed (true) or open, be it for a glimpse."""
    return [fact.active for _, fact in told if isinstance(fact, InputChanged | InputGlimpsed)]


# --- bytes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("golden", GOLDEN["measure"], ids=lambda golden: golden["source"])
def test_golden_bytes_of_a_measurement(golden: dict[str, Any]) -> None:
    count = golden.get("count", 8)
    made = protocol(
        profile=None,
        outputs=0,
        inputs=count,
        timed_pulse=False,
        analogue={
            "function": 4,
            "register": golden.get("register", 0),
            "step_uv": 1000,
            "full_scale_mv": 5000,
        },
        loops=[{"input": count, "series_ohms": 1000, "parallel_ohms": 1000}],
    )
    asked = made.read_inputs
    framer = FramerRTU(DecodePDU(False))
    assert framer.buildFrame(pdu_of(asked, 1)).hex() == golden["rtu"]
    answer = bytes.fromhex(golden["answer"])
    assert crc(answer[:-2]) == answer[-2:]
    assert answer_in(b"\x00" + answer, (1, asked)) == answer
    decoded = DecodePDU(False).decode(answer[1:-2])
    assert decoded is not None
    reply = reply_of(decoded)
    assert list(reply.words) == golden["words"]
    made.check(asked, reply)
    with pytest.raises(DeviceProtocolError):
        made.check(asked, Reply(4, words=(*reply.words, 0)))


@pytest.mark.parametrize("golden", GOLDEN["modes"], ids=lambda golden: golden["source"])
def test_a_board_that_measures_currents_is_misconfigured(golden: dict[str, Any]) -> None:
    made = protocol(loops=[{"input": 8, "series_ohms": 1000, "parallel_ohms": 1000}])
    asked = made.read_modes
    assert asked is not None
    assert FramerRTU(DecodePDU(False)).buildFrame(pdu_of(asked, 1)).hex() == golden["rtu"]
    decoded = DecodePDU(False).decode(bytes.fromhex(golden["answer"])[1:-2])
    assert decoded is not None
    with pytest.raises(DeviceMisconfigured, match=r"input 1 .*mode 2.*write 0 to register 0x1000"):
        made.check_modes(reply_of(decoded).words)
    made.check_modes([0] * 8)


# --- states ---------------------------------------------------------------------------------------

share = st.floats(0.95, 1.05)


@settings(max_examples=80, deadline=None)
@given(
    network=st.sampled_from([(each, False) for each in NETWORKS] + [(m, True) for m in MEASURED]),
    shares=st.tuples(share, share, share),
    volts=st.floats(4.5, 5.5),
    wire=st.floats(0, 50),
    leak=st.floats(50_000, 1e7),
    seed=st.integers(0, 1000),
    wires=st.sampled_from(["closed", "open", "cut", "short"]),
)
def test_whatever_the_tolerances_the_state_is_right_and_stays(
    network: tuple[tuple[int, int, int], bool],
    shares: tuple[float, float, float],
    volts: float,
    wire: float,
    leak: float,
    seed: int,
    wires: str,
) -> None:
    nominal, measured = network
    bench = Bench(nominal, measured=measured, volts=volts, noise_volts=0.019)
    bench.feed.dice = random.Random(seed)
    loop = bench.loop
    series = nominal[0] * shares[0]
    loop.at_end = series, series + nominal[1] * shares[1]
    loop.pull_up_share, loop.wire_ohms, loop.leak_ohms = shares[2], wire, leak
    loop.closed = wires == "closed"
    if wires == "cut":
        loop.at_end = inf, inf
    elif wires == "short":
        loop.at_end = 0.0, 0.0
    told = [fact for _, fact in bench.watch(1200) if not isinstance(fact, InputGlimpsed)]
    if wires in {"closed", "open"}:
        assert [(type(fact), fact.active) for fact in told] == [  # type: ignore[union-attr]
            (InputChanged, wires == "closed")
        ]
    else:
        assert [(type(fact), fact.what) for fact in told] == [(InputFaulty, wires)]  # type: ignore[union-attr]


# What a reading takes: on TCP, of two and of eight inputs at 115200 baud, of eight at 9600.
LINES_MS = {"tcp": 1.0, "115200": 5.0, "115200 of 8": 6.5, "9600": 38.0}


@pytest.mark.parametrize("line", ["tcp", "115200", "9600"])
@pytest.mark.parametrize("closed", [False, True])
@pytest.mark.parametrize("broken", ["cut", "short", "resistance"])
def test_a_broken_wire_is_told_within_400_ms_and_never_as_a_position(
    line: str, closed: bool, broken: str
) -> None:
    bench = Bench(NETWORKS[0], noise_volts=0.019)
    bench.loop.closed = closed
    assert sound(bench.watch(700, LINES_MS[line]))[-1:] == [closed]
    if broken == "cut":
        bench.loop.cut()
    else:
        bench.loop.short(0 if broken == "short" else 400)
    ((at, fact),) = bench.watch(1000, LINES_MS[line])
    assert fact == InputFaulty("loops", 1, broken, fact.at)
    assert at <= 400
    bench.loop.repair()
    told = bench.watch(1500, LINES_MS[line])
    assert told[-1][1] == InputChanged("loops", 1, closed, told[-1][1].at)
    assert 1000 <= told[-1][0] <= 1200, "believed again once it has held"
    assert set(sound(told)) == {closed}


@pytest.mark.parametrize(
    ("line", "glimpse_ms", "change_ms"),
    [("tcp", 45, 60), ("115200", 45, 105), ("115200 of 8", 50, 120), ("9600", 120, 380)],
)
def test_a_press_is_glimpsed_and_told_soon(line: str, glimpse_ms: int, change_ms: int) -> None:
    for phase in range(6):
        bench = Bench(NETWORKS[0], noise_volts=0.019)
        bench.watch(700 + phase, LINES_MS[line])
        bench.loop.closed = True
        (first_at, first), (at, change) = bench.watch(1000, LINES_MS[line])
        assert isinstance(first, InputGlimpsed)
        assert isinstance(change, InputChanged)
        assert first.active
        assert change.active
        assert first_at <= glimpse_ms
        assert at <= change_ms


@pytest.mark.parametrize(("line", "measured"), [("tcp", False), ("115200", True)])
@settings(max_examples=8, deadline=None)
@given(st.floats(2, 200), st.sampled_from([(1000.0, inf), (2000.0, 0.0)]), st.integers(0, 99))
def test_a_voltage_on_its_way_to_a_fault_is_no_press(
    line: str, measured: bool, settles_ms: float, way: tuple[float, float], seed: int
) -> None:
    """A converter with a time constant shows every voltage between: 1k to cut by way of 2k."""
    bench = Bench(NETWORKS[0], measured=measured, noise_volts=0.01)
    bench.feed.dice = random.Random(seed)
    start, end = (5.0 if ohms == inf else 5 * ohms / (ohms + 2200) for ohms in way)
    bench.loop.at_end = way[0], way[0]
    bench.watch(700, LINES_MS[line])

    def creep(ms: float) -> None:
        volts = end + (start - end) * exp(-ms / settles_ms)
        ohms = inf if volts >= 5 else 2200 * volts / (5 - volts)
        bench.loop.at_end = ohms, ohms

    told = bench.watch(2500, LINES_MS[line], creep)
    assert sound(told) == []
    assert isinstance(told[-1][1], InputFaulty)


@settings(max_examples=25, deadline=None)
@given(
    closed=st.booleans(),
    measured=st.booleans(),
    happens=st.lists(
        st.tuples(
            st.sampled_from(["cut", "short", "partly", "repair"]),
            st.floats(0, 50),
            st.sampled_from([3.0, 15.0, 40.0, 350.0, 1100.0]),
        ),
        min_size=1,
        max_size=8,
    ),
)
def test_whatever_happens_to_the_wires_an_unmoved_contact_is_never_told_as_moved(
    closed: bool, measured: bool, happens: list[tuple[str, float, float]]
) -> None:
    bench = Bench(NETWORKS[0], measured=measured, noise_volts=0.019)
    bench.loop.closed = closed
    bench.watch(400)
    for what, ohms, lasts_ms in happens:
        match what:
            case "cut":
                bench.loop.cut()
            case "repair":
                bench.loop.repair()
            case _:  # wire to wire: not where it makes one state's resistance of the other's
                bench.loop.repair()
                bench.loop.short(ohms if what == "short" else 400 + ohms)
        bench.watch(lasts_ms)
    assert set(sound(bench.told)) == {closed}
    bench.loop.cut()
    bench.watch(400)
    last = [fact for _, fact in bench.told if not isinstance(fact, InputGlimpsed)][-1]
    assert last == InputFaulty("loops", 1, "cut", last.at)


def test_a_loose_wire_is_told_and_a_press_through_it_still_counts() -> None:
    bench = Bench(NETWORKS[0], noise_volts=0.01)
    bench.watch(700)
    dice = random.Random(4)

    def loose(_ms: float) -> None:
        bench.loop.wire_ohms = inf if dice.random() < 0.5 else 0.0

    told = bench.watch(3000, meanwhile=loose)
    assert [fact.what for _, fact in told if isinstance(fact, InputFaulty)] == ["unsteady"]
    assert True not in sound(told), "an open contact is never a press"
    bench.loop.closed = True
    assert True in sound(bench.watch(3000, meanwhile=loose))


def test_more_noise_than_the_bands_allow_for_is_a_fault_and_not_a_silence() -> None:
    bench = Bench(NETWORKS[0], noise_volts=0.01)
    bench.watch(700)
    bench.feed.noise_volts = 0.2
    ((at, fact),) = [each for each in bench.watch(4000) if not isinstance(each[1], InputGlimpsed)]
    assert isinstance(fact, InputFaulty)
    assert fact.what == "unsteady"
    assert at < 2200


def test_a_single_spike_is_neither_press_nor_fault() -> None:
    bench = Bench(NETWORKS[0], noise_volts=0.01)
    bench.watch(700)
    spikes = iter([0.0, 5.0, 1.5625, 3.0])

    def spike(ms: float) -> None:
        ohms = 2000.0
        if int(ms / 100) != int((ms - 8) / 100) and (volts := next(spikes, None)) is not None:
            ohms = inf if volts == 5 else 2200 * volts / (5 - volts)
        bench.loop.at_end = 1000.0, ohms

    assert bench.watch(1000, meanwhile=spike) == []


def test_a_measured_supply_that_fails_is_told_as_that() -> None:
    bench = Bench(NETWORKS[0], measured=True, noise_volts=0.01)
    bench.watch(700)
    bench.feed.volts = 3.0
    ((_, fact),) = bench.watch(2000)
    assert fact == InputFaulty("loops", 1, "supply", fact.at)
    bench.feed.volts = 5.4
    assert sound(bench.watch(2000))[-1] is False


def test_bands_in_millivolts_are_taken_as_they_stand() -> None:
    given = {"closed_mv": [2500, 3000], "open_mv": [800, 1500], "short_mv": 200, "cut_mv": 4000}
    made = protocol(loop_supply={"mv": 5000}, loops=[{"input": 1, **given}])
    for mv, told in [
        (2700, True),
        (1000, False),
        (100, "short"),
        (4100, "cut"),
        (2000, "resistance"),
    ]:
        for at in range(0, 2000, 6):
            facts = made.inputs_told(Reply(4, words=(mv,)), (mv * 10_000 + at) * MS)
            if facts and not isinstance(facts[-1], InputGlimpsed):
                (fact,) = facts
                assert told == (fact.active if isinstance(fact, InputChanged) else fact.what)  # type: ignore[union-attr]
                break
        else:
            pytest.fail(f"nothing told of {mv} mV")


# --- config check ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (
            {"pull_up": 1000},
            "input 1: closed (2096 to 2971 mV) and open (2840 to 3835 mV) can't be",
        ),
        ({"pull_up": 1000}, "take other resistors, or measure the supply (input)"),
        ({"series": 20_000, "parallel": 20_000}, "and cut (over 4281 mV) can't be told apart"),
        ({"series": 100, "parallel": 1000, "pull_up": 10_000}, "short (to "),
        ({"loop_supply": None}, "devices.loops.loop_supply: is missing"),
        ({"loop_supply": {"mv": 5000}}, "no `pull_up_ohms`, which the loop of input 1 needs"),
        ({"loop_supply": {"mv": 24000, "pull_up_ohms": 2200}}, "which the board can't measure"),
        (
            {"loop_supply": {"mv": 9500, "pull_up_ohms": 2200, "input": 8}},
            "9500 mV is at times 10470, more than the board measures (10000)",
        ),
        (
            {"loop_supply": {"mv": 5000, "pull_up_ohms": 2200, "input": 1}},
            "input 1 has a loop: it can't measure the supply as well",
        ),
        ({"loops": []}, "devices.loops.loops: is missing"),
        ({"loops": [{"input": 9, "series_ohms": 1000, "parallel_ohms": 1000}]}, "no input 9"),
        ({"loops": [{"input": 1, "closed_ohms": 1000, "open_ohms": 2000}] * 2}, "there twice"),
        ({"loops": [{"input": 1, "series_ohms": 1000}]}, "must say one of"),
        ({"loops": [{"input": 1, "series_ohms": 1, "parallel_ohms": 1000}]}, "100 to 100000"),
        (
            {
                "loops": [
                    {
                        "input": 1,
                        "closed_mv": [2000, 1000],
                        "open_mv": [1900, 2600],
                        "short_mv": 3000,
                        "cut_mv": 2500,
                    }
                ]
            },
            "a band from 2000 to 1000 mV is none",
        ),
        (
            {
                "loops": [
                    {
                        "input": 1,
                        "closed_mv": [4500, 5000],
                        "open_mv": [1000, 2000],
                        "short_mv": 100,
                        "cut_mv": 4000,
                    }
                ]
            },
            "cut the highest",
        ),
        ({"profile": "waveshare_rtu_relay_d"}, "for a board that measures its inputs"),
        (
            {"analogue": {"function": 4, "register": 0, "step_uv": 1, "full_scale_mv": 5000}},
            "leave",
        ),
        (
            {
                "profile": None,
                "outputs": 0,
                "inputs": 20,
                "timed_pulse": False,
                "analogue": {"function": 4, "register": 0, "step_uv": 1, "full_scale_mv": 5000},
            },
            "1 to 16 where they are measured",
        ),
        (
            {
                "profile": None,
                "outputs": 0,
                "inputs": 8,
                "timed_pulse": False,
                "analogue": {"function": 3, "register": 65530, "step_uv": 1, "full_scale_mv": 5000},
            },
            "loops.analogue: 8 inputs from register 65530 on go past 65535",
        ),
        (
            {"analogue": {"function": 2, "register": 0, "step_uv": 1, "full_scale_mv": 5000}},
            "loops.analogue.function: must be one of 3, 4; not 2",
        ),
        ({"loop_supply": {"mv": 0, "pull_up_ohms": 2200, "input": 8}}, "1000 to 60000"),
        (
            {"loops": [{"input": 1, "closed_mv": [1000]}]},
            "loops[0].closed_mv: must be a list of 2, not of 1",
        ),
    ],
)
def test_loops_that_cannot_work_are_refused_with_what_to_do(
    given: dict[str, Any], says: str
) -> None:
    raw = tomllib.loads(WIRED.read_text())
    raw["devices"]["loops"] = {"driver": "modbus_relay", **table(**given)}
    with pytest.raises(ConfigError) as refused:
        check(raw, REGISTRY, "wired.toml")
    assert says in str(refused.value)


@pytest.mark.parametrize(
    ("point", "says"),
    [
        ({"input": 5}, "input 5 of 'loops-bus-3' has no loop: see its `loops`"),
        ({"opposite_input": 2}, "sees cut and shorted wires by end-of-line resistors"),
    ],
)
def test_a_door_can_use_only_inputs_that_have_a_loop(point: dict[str, int], says: str) -> None:
    raw = tomllib.loads(WIRED.read_text())
    raw["doors"]["workshop"]["contact"] |= point
    with pytest.raises(ConfigError) as refused:
        check(raw, REGISTRY, "wired.toml")
    assert says in str(refused.value)


# --- the driver -----------------------------------------------------------------------------------


class TestABoardThatMeasures(DriverContract):
    """Beside two relay boards on their line."""

    device: ClassVar[str] = "loops-bus-3"

    def board(self, site: Site) -> RtuRelayBoard:
        found = site.devices[self.device]
        assert isinstance(found, RtuRelayBoard)
        return found

    async def prove(self, site: Site, run: Running) -> None:
        loop = self.board(site).loop(1)

        def told(facts: Sequence[Fact]) -> list[bool]:
            return [f.active for f in facts if isinstance(f, InputChanged) and f.input == 1]

        await run.until(told)
        loop.closed = not loop.closed
        await run.until(lambda facts: told(facts)[-1] == loop.closed)

    async def test_a_cut_a_short_and_their_repair_are_told(self, site: Site, clock: Clock) -> None:
        async with running(self.build(site, clock)) as run:
            await self.prove(site, run)
            await site.cut_wire(self.device, 1)
            await site.short_wires(self.device, 2)
            await run.until(lambda facts: sum(isinstance(f, InputFaulty) for f in facts) == 2)
            told = {fact.input: fact.what for fact in run.facts if isinstance(fact, InputFaulty)}
            assert told == {1: "cut", 2: "short"}
            await site.repair_wires(self.device, 1)
            before = len(run.facts)
            await run.until(lambda facts: any(isinstance(f, InputChanged) for f in facts[before:]))

    async def test_set_to_measure_currents_it_is_misconfigured(
        self, site: Site, clock: Clock
    ) -> None:
        self.board(site).board.input_modes[1] = 3
        with pytest.raises(DeviceMisconfigured, match="input 2 measures something else"):
            await self.build(site, clock).run(lambda _fact: None)
