"""The UHPPOTE controller's driver, its simulator, and PyPI's client as a peer of the latter."""

import asyncio
import math
import random
import socket
import tomllib
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import date, datetime, time, timedelta
from ipaddress import IPv4Address
from pathlib import Path
from time import monotonic_ns
from typing import Any, ClassVar

import msgspec
import pytest
from uhppoted import decode, encode
from uhppoted.uhppote_async import UhppoteAsync

from gateway.clock import Clock
from gateway.domain.facts import (
    CredentialPresented,
    InputChanged,
    OutputReported,
    UnexpectedOutput,
)
from gateway.domain.own_hours import Profile
from gateway.domain.own_list import ListedCard as OwnCard
from gateway.drivers.uhppote import (
    REQUEST_S_MAX,
    Allowance,
    BoardProtocol,
    DoorProtocol,
    Swipe,
    Uhppote,
    UhppoteSettings,
    card_value,
    missed_swipe,
    profile_request,
    read_profile,
)
from gateway.errors import DeviceError, DeviceMisconfigured, DeviceUnavailable
from hwsim.observations import Output
from hwsim.site import Site, running_site
from hwsim.uhppote import (
    ANY_TIME,
    CONTROLLED,
    NO_PASS,
    NO_PRIVILEGE,
    NORMALLY_CLOSED,
    NORMALLY_OPEN,
    PASS,
    WRONG_TIME,
    Controller,
    ListedCard,
    UhppoteDoor,
)
from hwsim.uhppote import Profile as SimulatedProfile
from tests.drivers.contract import DriverContract, Running, eventually, running
from tests.timing import allowed

GOLDEN = tomllib.loads((Path(__file__).parents[1] / "golden" / "uhppote.toml").read_text())
SERIAL = 423187757
SECOND = timedelta(seconds=1)


def table(door: int = 1, **changed: object) -> dict[str, Any]:
    return {
        "driver": "uhppote",
        "host": "192.168.70.20",
        "serial": SERIAL,
        "door": door,
        "fallback": "closed",
        **changed,
    }


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    """Two doors of one board, the first with two readers."""
    devices = {"yard": table(1), "yard-out": table(1, reader="out"), "shed": table(2)}
    async with running_site({"devices": devices}, tmp_path) as running_one:
        yield running_one


def door(site: Site, name: str = "yard") -> UhppoteDoor:
    found = site.devices[name]
    assert isinstance(found, UhppoteDoor)
    return found


def build(site: Site, clock: Clock, name: str = "yard", **changed: object) -> Uhppote:
    settings = {**site.rewritten_config()["devices"][name], **changed}
    del settings["driver"]
    return Uhppote(name, msgspec.convert(settings, UhppoteSettings), clock)


# --- Published messages ---------------------------------------------------------------------------


def status_of(golden: dict[str, Any], before: int | None) -> tuple[BoardProtocol, Swipe | None]:
    protocol = BoardProtocol(SERIAL)
    packet = bytes.fromhex(golden["hex"])
    assert protocol.is_ours(packet, 0x20)
    if before is not None:
        earlier = bytearray(packet)
        earlier[8:12] = before.to_bytes(4, "little")
        protocol.status_received(bytes(earlier), SECOND)
    swipe, missed = protocol.status_received(packet, SECOND)
    assert list(missed) == []
    return protocol, swipe


def test_a_published_status_is_read() -> None:
    golden = GOLDEN["status"]
    protocol, swipe = status_of(golden, golden["index"] - 1)
    assert swipe == Swipe(57, golden["door"], golden["direction"], golden["card"], granted=False)
    status = protocol.status
    assert status is not None
    assert [getattr(status, f"door_{at}_open") for at in range(1, 5)] == golden["open"]
    assert [getattr(status, f"door_{at}_button") for at in range(1, 5)] == golden["buttons"]
    assert status.relays == golden["relays"]
    assert str(golden["card"]) not in repr(swipe)


def test_a_published_event_of_other_firmware_is_read() -> None:
    _, swipe = status_of(GOLDEN["event"], GOLDEN["event"]["index"] - 1)
    assert swipe is not None
    assert (swipe.card, swipe.granted) == (GOLDEN["event"]["card"], True)


def test_what_happened_before_the_first_contact_is_no_swipe() -> None:
    assert status_of(GOLDEN["status"], None)[1] is None
    assert status_of(GOLDEN["status"], GOLDEN["status"]["index"])[1] is None


PROFILE = (
    *(4, date(2021, 4, 1), date(2021, 12, 29), True, True, False, True, False, True, True),
    *(time(8, 30), time(9, 45), time(11, 35), time(13, 15), time(14, 1), time(17, 59), 19),
)
"""The published time profile, as PyPI's client takes it."""
HOURS = Profile(
    date(2021, 4, 1),
    date(2021, 12, 29),
    frozenset({0, 1, 3, 5, 6}),
    ((8 * 60 + 30, 9 * 60 + 46), (11 * 60 + 35, 13 * 60 + 16), (14 * 60 + 1, 18 * 60)),
    19,
)
"""The same, as the gateway has it: an end is the first minute that is out."""


@pytest.mark.parametrize("golden", GOLDEN["request"], ids=lambda golden: golden["source"])
def test_published_requests_are_what_is_sent_and_what_the_simulator_takes(
    golden: dict[str, str],
) -> None:
    arguments: dict[str, tuple[object, ...]] = {
        "open_door": (3,),
        "set_door_control": (4, 2, 5),
        "set_listener": (IPv4Address("192.168.1.100"), 40_000, 13),
        "set_pc_control": (True,),
        "record_special_events": (True,),
        "set_time_profile": PROFILE,
        "get_time_profile": (4,),
        "delete_all_time_profiles": (),
    }
    what = golden["what"]
    made = bytes(getattr(encode, f"{what}_request")(SERIAL, *arguments[what]))
    assert made == bytes.fromhex(golden["hex"]).ljust(64, b"\0")
    controller = Controller(SERIAL)
    controller.profiles[4] = SimulatedProfile.read(bytes.fromhex(GOLDEN["profile"]["hex"])[9:37])
    reply = controller.request(made, 0)
    assert reply is not None
    assert reply[8] != 0
    assert Controller(SERIAL + 1).request(made, 0) is None


def test_a_published_time_profile_is_sent_read_and_told_by_the_simulator_alike() -> None:
    sent = next(each["hex"] for each in GOLDEN["request"] if each["what"] == "set_time_profile")
    request = profile_request(SERIAL, 4, HOURS)
    assert request == bytes.fromhex(sent).ljust(64, b"\0")
    controller = Controller(SERIAL)
    stored = controller.request(request, 0)
    assert stored is not None
    assert decode.set_time_profile_response(stored).stored
    for number, golden, read in ((4, "profile", HOURS), (5, "no_profile", None)):
        answer = controller.request(bytes(encode.get_time_profile_request(SERIAL, number)), 0)
        assert answer == bytes.fromhex(GOLDEN[golden]["hex"]).ljust(64, b"\0")
        assert read_profile(number, answer) == read
    with pytest.raises(ValueError, match="is time profile 4, not 5"):
        read_profile(5, request[:1] + b"\x98" + request[2:])


JUNE = date(2026, 6, 1), date(2026, 6, 30)
DAY = Profile(*JUNE, frozenset(range(5)), ((540, 1020),))
NIGHT = Profile(*JUNE, frozenset({5}), ((0, 60), (1200, 1440)), 2)


@pytest.mark.parametrize(
    ("number", "at", "said"),
    [
        (0, "2026-06-15T12:00", NO_PRIVILEGE),
        (255, "2026-06-15T12:00", NO_PRIVILEGE),
        (1, "2026-06-14T03:00", PASS),
        (1, "2026-12-14T03:00", NO_PASS),
        (2, "2026-06-15T08:59", WRONG_TIME),
        (2, "2026-06-15T09:00", PASS),
        (2, "2026-06-15T16:59", PASS),
        (2, "2026-06-15T17:00", WRONG_TIME),
        (2, "2026-06-13T12:00", WRONG_TIME),
        (2, "2026-07-01T12:00", WRONG_TIME),
        (2, "2026-06-15T00:00", WRONG_TIME),
        (3, "2026-06-13T23:59", PASS),
        (3, "2026-06-13T00:59", PASS),
        (3, "2026-06-13T12:00", WRONG_TIME),
        (3, "2026-06-15T12:00", PASS),
        # As observed on a controller: what isn't there keeps nobody out.
        (4, "2026-06-14T03:00", PASS),
    ],
)
def test_the_simulator_opens_by_profiles_as_published(number: int, at: str, said: int) -> None:
    card = ListedCard(ANY_TIME.first, bytes.fromhex("20260731"), bytes([number, 0, 0, 0]))
    controller = Controller(SERIAL, cards={1: card})
    for each, profile in ((2, DAY), (3, NIGHT)):
        controller.request(profile_request(SERIAL, each, profile), 0)
    assert controller.judged(1, 1, datetime.fromisoformat(at)) == said
    assert controller.judged(1, 2, datetime.fromisoformat(at)) == NO_PASS


def test_the_simulators_clock_runs_on_from_what_it_was_set_to() -> None:
    controller = Controller(SERIAL)
    shown = datetime(2026, 6, 15, 23, 59, 30)  # noqa: DTZ001 - a controller's clock has no zone
    controller.request(bytes(encode.set_time_request(SERIAL, shown)), 5)
    assert controller.clock(5 + 40_000_000_000) == shown + timedelta(seconds=40)


# --- The protocol ---------------------------------------------------------------------------------


def test_a_number_on_the_boards_display_is_a_26_bit_card() -> None:
    assert card_value(10_058_400) == "H10301:100:58400"
    assert card_value(25_565_535) == "H10301:255:65535"
    assert card_value(1) == "H10301:0:1"
    assert card_value(165_536) is None
    assert card_value(25_600_000) is None


def controller_status(controller: Controller) -> bytes:
    return controller.status(0)


def test_missed_events_are_named_only_while_they_can_be_fresh() -> None:
    controller = Controller(SERIAL)
    protocol = BoardProtocol(SERIAL)
    protocol.status_received(controller_status(controller), SECOND)
    for card in (1, 2, 3):
        controller.swipe(1, card, 1, 0)
    swipe, missed = protocol.status_received(controller_status(controller), 2 * SECOND)
    assert (swipe is not None and swipe.card, list(missed)) == (3, [1, 2])
    controller.swipe(1, 4, 1, 0)
    controller.swipe(1, 5, 1, 0)
    assert protocol.status_received(controller_status(controller), 60 * SECOND) == (None, range(0))


def test_a_packet_twice_or_late_is_one_swipe() -> None:
    controller = Controller(SERIAL)
    protocol = BoardProtocol(SERIAL)
    protocol.status_received(controller_status(controller), SECOND)
    controller.swipe(1, 1, 1, 0)
    first = controller_status(controller)
    assert protocol.status_received(first, SECOND)[0] is not None
    assert protocol.status_received(first, SECOND)[0] is None


def test_another_boards_packets_and_noise_are_nobodys() -> None:
    protocol = BoardProtocol(SERIAL)
    assert not protocol.is_ours(controller_status(Controller(SERIAL + 1)), 0x20)
    rng = random.Random(1)
    for _ in range(20_000):
        assert not protocol.is_ours(rng.randbytes(rng.choice((0, 1, 63, 64, 65, 200))), 0x20)


def test_a_pulse_is_never_longer_than_asked_for() -> None:
    settings = {key: value for key, value in table().items() if key != "driver"}
    protocol = DoorProtocol("yard", msgspec.convert(settings, UhppoteSettings))
    assert protocol.pulse(timedelta(seconds=5.9), SECOND) == 5
    for wrong in (timedelta(seconds=0.9), timedelta(seconds=256)):
        with pytest.raises(DeviceMisconfigured):
            protocol.pulse(wrong, SECOND)


@pytest.mark.parametrize(
    "wrong",
    [
        {"host": "board.local"},
        {"serial": 0},
        {"door": 5},
        {"reader": "up"},
        {"fallback": "open"},
        {"port": 0},
        {"password": "x"},
    ],
)
def test_impossible_settings_are_refused(wrong: dict[str, object]) -> None:
    settings = {key: value for key, value in table().items() if key != "driver"}
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({**settings, **wrong}, UhppoteSettings)
    del settings["fallback"]
    with pytest.raises(msgspec.ValidationError, match="fallback"):
        msgspec.convert(settings, UhppoteSettings)


# --- The driver on a simulated board --------------------------------------------------------------


class TestAUhppoteDoor(DriverContract):
    device: ClassVar[str] = "yard"

    _numbers: ClassVar[Any] = iter(range(100_001, 165_535))

    async def prove(self, site: Site, run: Running) -> None:
        number = next(self._numbers)
        await site.swipe(self.device, number)
        value = f"H10301:1:{number - 100_000}"
        await run.until(lambda _facts: value in run.values)
        assert run.values.count(value) == 1

    async def test_unplugged_it_fails_within_a_moment_and_leaves_nothing_behind(
        self, site: Site, clock: Clock
    ) -> None:
        # Nobody says so on UDP but silence: three questions of 250 ms.
        driver = self.build(site, clock)
        async with running(driver) as run:
            await site.unplug(self.device)
            with pytest.raises(DeviceUnavailable, match=self.device):
                async with asyncio.timeout(allowed(2.0)):
                    await run.task

    async def test_a_swipe_is_told_within_moments(self, site: Site, clock: Clock) -> None:
        async with running(self.build(site, clock)) as run:
            for number in range(5):
                shown_ns = await site.swipe("yard", 100_000 + number + 1)
                await run.until(lambda _facts: len(run.values) > number)  # noqa: B023
                assert run.told_ns[-1] - shown_ns < 100_000_000

    async def test_the_strike_is_timed_by_the_board_and_read_back(
        self, site: Site, clock: Clock
    ) -> None:
        driver = self.build(site, clock)
        async with running(driver) as run:
            await driver.pulse(1, timedelta(seconds=1.5))
            await run.until(
                lambda facts: (
                    [f.energised for f in facts if isinstance(f, OutputReported)]
                    == [False, True, False]
                ),
                4.0,
            )
        on, off = (seen for seen in site.seen.of(Output) if seen.device == "yard")
        assert 0.95 < (off.at_ns - on.at_ns) / 1e9 < 1.1

    async def test_rest_ends_a_pulse(self, site: Site, clock: Clock) -> None:
        driver = self.build(site, clock)
        async with running(driver):
            await driver.pulse(1, timedelta(seconds=60))
            await driver.rest(1)
            assert not door(site).board.controller.doors[0].energised(monotonic_ns())

    async def test_a_door_left_open_on_the_board_is_at_rest_before_it_is_online(
        self, site: Site, clock: Clock
    ) -> None:
        door(site).board.controller.doors[0].mode = NORMALLY_OPEN
        async with running(self.build(site, clock)):
            assert not door(site).board.controller.doors[0].energised(monotonic_ns())

    async def test_a_strike_that_nobody_pulsed_is_forced_off_and_reported(
        self, site: Site, clock: Clock
    ) -> None:
        async with running(self.build(site, clock)) as run:
            door(site).board.controller.doors[0].mode = NORMALLY_OPEN
            await run.until(
                lambda facts: any(isinstance(fact, UnexpectedOutput) for fact in facts), 3.0
            )
            assert not door(site).board.controller.doors[0].energised(monotonic_ns())

    async def test_the_contact_and_the_button_are_told_and_the_button_may_open(
        self, site: Site, clock: Clock
    ) -> None:
        async with running(self.build(site, clock)) as run:
            await run.until(lambda facts: sum(isinstance(f, InputChanged) for f in facts) == 2)
            door(site).set_input(1, active=True)
            door(site).set_input(2, active=True)
            await run.until(lambda facts: sum(isinstance(f, InputChanged) for f in facts) == 4)
            told = [(f.input, f.active) for f in run.facts if isinstance(f, InputChanged)]
            assert told == [(1, False), (2, False), (1, True), (2, True)]
            door(site).set_input(2, active=False)
            await asyncio.sleep(0.6)
            assert not [fact for fact in run.facts if isinstance(fact, UnexpectedOutput)]

    async def test_a_lost_event_is_fetched_while_it_is_fresh(
        self, site: Site, clock: Clock
    ) -> None:
        async with running(self.build(site, clock)) as run:
            door(site).board.controller.listener = None
            for number in (100_001, 100_002, 100_003):
                await site.swipe("yard", number)
            await run.until(lambda _facts: len(run.values) == 3)
            assert sorted(run.values) == ["H10301:1:1", "H10301:1:2", "H10301:1:3"]

    async def test_a_board_with_cards_of_its_own_is_refused_where_it_must_stay_closed(
        self, site: Site, clock: Clock
    ) -> None:
        door(site).board.controller.cards[100_001] = ANY_TIME
        with pytest.raises(DeviceMisconfigured, match="its own list has 1 cards"):
            await self.build(site, clock).run(lambda _fact: None)
        async with running(self.build(site, clock, fallback="own_list")):
            # Under remote control its list opens nothing.
            await site.swipe("yard", 100_001)
            assert not door(site).board.controller.doors[0].energised(monotonic_ns())

    async def test_another_boards_serial_number_is_not_answered(
        self, site: Site, clock: Clock
    ) -> None:
        with pytest.raises(DeviceUnavailable, match="doesn't answer"):
            await self.build(site, clock, serial=SERIAL + 1).run(lambda _fact: None)

    async def test_a_stranger_on_the_network_is_not_heard(self, site: Site, clock: Clock) -> None:
        async with running(self.build(site, clock)) as run:
            board = door(site).board
            assert board.controller.listener is not None
            forged = Controller(SERIAL)
            forged.events = list(board.controller.events)
            for _ in range(3):
                forged.swipe(1, 100_009, 1, 0)
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
                stranger.sendto(forged.status(0), board.controller.listener)
            await self.prove(site, run)
            assert "H10301:1:9" not in run.values


async def test_a_profile_is_read_back_and_one_that_the_board_does_not_take_is_an_error(
    site: Site, clock: Clock
) -> None:
    driver = build(site, clock, fallback="card_list")
    async with running(driver):
        await driver.put_profile(2, DAY)
        await driver.put_profile(254, NIGHT)
        assert await driver.profiles() == {2: DAY, 254: NIGHT}
        with pytest.raises(DeviceError, match="yard: the board didn't take time profile 255"):
            await driver.put_profile(255, DAY)


async def test_a_lost_answer_is_no_refusal_and_a_late_one_is_nobody_elses(
    site: Site, clock: Clock
) -> None:
    board = door(site).board
    card = OwnCard(DAY.first, DAY.last, {1: 1})
    driver = build(site, clock, fallback="card_list")
    async with running(driver):
        for number in range(100_001, 100_005):
            await driver.put_card(number, card)
        mark = replace(board.controller.cards[100_001], first_card=1)
        board.controller.cards[100_001] = mark
        assert not (await driver.cards())[100_001].doors, "it could unlock the door for others"
        board.late_s = {0x52: [math.inf]}
        await driver.delete_card(100_004)
        assert not board.late_s[0x52]
        assert set(await driver.cards()) == {100_001, 100_002, 100_003}
        await driver.put_profile(2, DAY)
        board.late_s = {0x98: [REQUEST_S_MAX + 0.05, 0.1, 0.1]}
        assert await driver.profiles() == {2: DAY}


async def test_a_door_that_was_closed_for_good_halfway_is_under_control_again(
    site: Site, clock: Clock
) -> None:
    board = door(site).board
    driver = build(site, clock)
    async with running(driver):
        await driver.pulse(1, 5 * SECOND)
        board.late_s = {0x80: [0.0, -1, -1, -1]}
        with pytest.raises(DeviceUnavailable):
            await driver.rest(1)
        assert board.controller.doors[0].mode == NORMALLY_CLOSED
        await eventually(lambda: board.controller.doors[0].mode == CONTROLLED)
        await driver.pulse(1, 5 * SECOND)
        # A longer time that the board took, though nobody heard it say so, is nobody else's.
        board.late_s = {0x80: [math.inf] * 3}
        with pytest.raises(DeviceUnavailable):
            await driver.pulse(1, 15 * SECOND)
        await driver.pulse(1, 5 * SECOND)
        assert board.controller.doors[0].delay_s == 5


async def test_each_reader_of_a_board_has_its_own_swipes(site: Site, clock: Clock) -> None:
    async with (
        running(build(site, clock)) as yard,
        running(build(site, clock, "yard-out")) as out,
        running(build(site, clock, "shed")) as shed,
    ):
        for number, name in enumerate(("yard", "yard-out", "shed"), 100_001):
            await site.swipe(name, number)
        await eventually(lambda: yard.values and out.values and shed.values)
        assert (yard.values, out.values, shed.values) == (
            ["H10301:1:1"],
            ["H10301:1:2"],
            ["H10301:1:3"],
        )
        assert all(isinstance(fact, CredentialPresented) for fact in out.facts[-1:])


async def test_pypis_client_and_our_simulator_understand_each_other(site: Site) -> None:
    board = door(site).board
    client = UhppoteAsync(bind="127.0.0.1", broadcast="127.0.0.1:60000", listen="127.0.0.1:60001")
    where = (SERIAL, f"{board.host}:{board.port}", "udp")
    found = await client.get_controller(where)
    assert found is not None
    assert (found.controller, found.version) == (SERIAL, "v8.92")
    assert (await client.set_door_control(where, 2, 3, 7)).delay == 7
    assert (await client.open_door(where, 2)).opened
    board.controller.swipe(2, 6_154_410, 1, 0)
    status = await client.get_status(where)
    assert status is not None
    assert (status.relays, status.event_card, status.event_door) == (2, 6_154_410, 2)
    assert (await client.set_time_profile(where, *PROFILE)).stored
    profile = await client.get_time_profile(where, 4)
    assert profile is not None
    assert (profile.end_date, profile.segment_3_end) == (date(2021, 12, 29), time(17, 59))
    assert (await client.delete_all_time_profiles(where)).deleted
    assert not board.controller.profiles
    event = await client.get_event(where, 1)
    assert event is not None
    assert (event.card, event.door, event.access_granted) == (6_154_410, 2, False)


async def test_a_flood_of_statuses_takes_no_memory_no_journal_and_no_other_request(
    site: Site, clock: Clock
) -> None:
    """Anybody on the boards' network can send in a board's name: UDP has no secret."""
    driver = build(site, clock)
    async with running(driver) as run:
        board = driver._board
        assert board is not None
        tasks, facts = len(asyncio.all_tasks()), len(run.facts)
        packet = bytearray(controller_status(Controller(SERIAL)))
        for number in range(3_000):
            packet[8:12] = (1_000 + number * 9).to_bytes(4, "little")
            packet[28] = number % 2  # door 1 stands open, or not
            board._received(bytes(packet))
            if number % 500 == 0:
                await asyncio.sleep(0.01)
        assert len(asyncio.all_tasks()) <= tasks + 1
        assert len(run.facts) - facts <= 60
        await driver.pulse(1, timedelta(seconds=3))


async def test_an_answer_that_cannot_be_read_is_in_no_error(
    site: Site, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = build(site, clock)
    async with running(driver):
        board = driver._board
        assert board is not None
        packet = bytearray(controller_status(Controller(SERIAL)))
        packet[0], packet[1] = 0x19, 0xB0
        packet[16:20] = (1_200_123).to_bytes(4, "little")
        exchanging = board._exchange

        async def exchange(request: bytes) -> bytes:
            return bytes(packet) if request[1] == packet[1] else await exchanging(request)

        monkeypatch.setattr(board, "_exchange", exchange)
        with pytest.raises(DeviceError) as caught:
            await board.ask(encode.get_event_request(SERIAL, 5), missed_swipe)
    for secret in ("1200123", (1_200_123).to_bytes(4, "little").hex()):
        assert secret not in str(caught.value)
    assert caught.value.__cause__ is None


def test_an_allowance_is_so_many_at_once_and_then_so_many_a_second() -> None:
    allowance = Allowance(3, 2.0)
    assert [allowance.take(10.0) for _ in range(5)] == [0, 0, 0, 0.5, 1.0]
    assert allowance.take(11.5) == 0
