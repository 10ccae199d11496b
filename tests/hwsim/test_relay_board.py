"""The relay board alone: a request and the time in, a response and edges out."""

import asyncio

import looptime
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwsim.observations import Observations, Output
from hwsim.relay_board import Board, Edge, RelayBoard

MS = 1_000_000


def test_answers_the_specifications_read_coils_example() -> None:
    # MODBUS Application Protocol V1.1b3, 6.1: coils 20 to 38.
    board = Board(outputs=64)
    for number in (20, 22, 23, 26, 27, 28, 29, 31, 33, 34, 36, 38):
        board.coils[number - 1] = True
    assert board.request(bytes.fromhex("0100130013"), 0) == bytes.fromhex("0103CD6B05")


def test_answers_the_specifications_read_discrete_inputs_example() -> None:
    # 6.2: inputs 197 to 218.
    board = Board(inputs=256)
    bits = f"{0x35DBAC:022b}"[::-1]
    for place, bit in enumerate(bits):
        board.inputs[196 + place] = bit == "1"
    assert board.request(bytes.fromhex("0200C40016"), 0) == bytes.fromhex("0203ACDB35")


def test_answers_the_specifications_write_examples() -> None:
    # 6.5: coil 173 on; 6.11: ten coils from 20.
    board = Board(outputs=256)
    assert board.request(bytes.fromhex("0500ACFF00"), 0) == bytes.fromhex("0500ACFF00")
    assert board.coils[172]
    written = board.request(bytes.fromhex("0F0013000A02CD01"), 0)
    assert written == bytes.fromhex("0F0013000A")
    on = [True, False, True, True, False, False, True, True, True, False]
    assert board.coils[19:29] == on


def test_the_makers_flash_example_closes_relay_one_for_700_ms() -> None:
    # Waveshare wiki: "01 05 02 00 00 07 8D B0", relay 0 flash on, 700 ms.
    board = Board()
    assert board.request(bytes.fromhex("0502000007"), 5) == bytes.fromhex("0502000007")
    assert board.next_ns == 5 + 700 * MS
    board.advance(5 + 700 * MS - 1)
    assert board.request(bytes.fromhex("0100000008"), 5 + 1) == bytes.fromhex("010101")
    board.advance(5 + 2_000 * MS)
    assert board.take_edges() == [Edge(5, 1, on=True), Edge(5 + 700 * MS, 1, on=False)]
    assert board.next_ns is None


def test_a_pulse_during_a_pulse_starts_the_time_anew() -> None:
    board = Board()
    board.request(bytes.fromhex("0502010005"), 0)
    board.request(bytes.fromhex("0502010005"), 300 * MS)
    board.advance(10_000 * MS)
    assert board.take_edges() == [Edge(0, 2, on=True), Edge(800 * MS, 2, on=False)]


def test_off_ends_a_pulse_and_on_makes_it_last() -> None:
    board = Board()
    board.request(bytes.fromhex("0502000005"), 0)
    board.request(bytes.fromhex("0500000000"), 100 * MS)
    board.request(bytes.fromhex("0502010005"), 200 * MS)
    board.request(bytes.fromhex("050001FF00"), 300 * MS)
    board.advance(10_000 * MS)
    edges = [Edge(0, 1, on=True), Edge(100 * MS, 1, on=False), Edge(200 * MS, 2, on=True)]
    assert board.take_edges() == edges


def test_flash_off_opens_a_relay_for_its_time() -> None:
    board = Board()
    board.request(bytes.fromhex("050000FF00"), 0)
    board.request(bytes.fromhex("0504000003"), 10 * MS)
    board.advance(10_000 * MS)
    assert [(edge.at_ns // MS, edge.on) for edge in board.take_edges()] == [
        (0, True),
        (10, False),
        (310, True),
    ]


def test_all_outputs_are_one_address_and_flip_is_a_value() -> None:
    board = Board(outputs=2)
    board.request(bytes.fromhex("0500005500"), 0)
    assert board.coils == [True, False]
    board.request(bytes.fromhex("0500FF5500"), 0)
    assert board.coils == [False, True]
    board.request(bytes.fromhex("0500FFFF00"), 0)
    assert board.coils == [True, True]


def test_power_cycling_drops_outputs_and_forgets_pulses() -> None:
    board = Board()
    board.request(bytes.fromhex("0502000064"), 0)
    board.power_cycle(50 * MS)
    assert board.next_ns is None
    assert board.take_edges() == [Edge(0, 1, on=True), Edge(50 * MS, 1, on=False)]


def test_a_welded_contact_stays_closed_and_the_coil_does_not_know() -> None:
    board = Board()
    board.request(bytes.fromhex("0502000001"), 0)
    board.weld(1, 50 * MS)
    board.advance(1_000 * MS)
    assert board.request(bytes.fromhex("0100000001"), 1_000 * MS) == bytes.fromhex("010100")
    assert board.take_edges() == [Edge(0, 1, on=True)]
    board.unweld(1, 1_000 * MS)
    assert board.take_edges() == [Edge(1_000 * MS, 1, on=False)]


def test_a_watchdog_drops_outputs_when_requests_stop() -> None:
    board = Board(watchdog_s=2.0)
    board.request(bytes.fromhex("050000FF00"), 0)
    board.request(bytes.fromhex("0100000001"), 1_500 * MS)
    board.advance(3_499 * MS)
    assert board.coils[0]
    board.advance(9_000 * MS)
    assert board.take_edges()[-1] == Edge(3_500 * MS, 1, on=False)


@pytest.mark.parametrize(
    ("request_pdu", "response"),
    [
        ("04 0000 0001", "84 01"),  # no input registers here
        ("2B 0E 01 00", "AB 01"),
        ("01 0000 0009", "81 02"),
        ("01 0008 0001", "81 02"),
        ("02 0007 0002", "82 02"),
        ("01 0000 0000", "81 03"),
        ("01 0000 07D1", "81 03"),
        ("01 0000 00", "81 03"),
        ("05 0008 FF00", "85 02"),
        ("05 0208 0005", "85 02"),
        ("05 0000 1234", "85 03"),
        ("05 0200 0000", "85 03"),
        ("05 0200 8000", "85 03"),
        ("0F 0000 0009 02 FFFF", "8F 02"),
        ("0F 0000 0008 02 FFFF", "8F 03"),
        ("0F 0000 0000 00", "8F 03"),
        ("03 0000 0001", "83 02"),
        ("03 4000 0001", "03 02 0001"),
        ("03 8000 0001", "03 02 00C8"),
        ("06 4000 0000", "86 03"),
        ("06 1234 0001", "86 02"),
        ("10 4000 0001 02 0007", "10 4000 0001"),
    ],
)
def test_what_it_refuses_and_what_its_registers_hold(request_pdu: str, response: str) -> None:
    assert Board().request(bytes.fromhex(request_pdu), 0) == bytes.fromhex(response)


def test_it_answers_to_its_own_unit_and_to_the_two_that_mean_any() -> None:
    board = Board(unit=5)
    assert [unit for unit in range(256) if board.answers_to(unit)] == [0, 5, 255]
    board.request(bytes.fromhex("0640000007"), 0)
    assert board.answers_to(7)


@given(st.binary(min_size=1, max_size=253))
def test_any_request_gets_a_response_and_none_but_a_write_switches(pdu: bytes) -> None:
    board = Board()
    response = board.request(pdu, 0)
    assert response[0] in {pdu[0], pdu[0] | 0x80}
    if response[0] & 0x80 or pdu[0] not in {0x05, 0x0F}:
        assert board.take_edges() == []


@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(1, 30), st.integers(0, 2_000)), max_size=20)
)
def test_no_output_is_on_longer_than_its_last_pulse_says(
    pulses: list[tuple[int, int, int]],
) -> None:
    board, now_ns, until_ns = Board(), 0, [0, 0, 0]
    for channel, units, wait_ms in pulses:
        now_ns += wait_ms * MS
        board.request(bytes([5, 2, channel, 0, units]), now_ns)
        until_ns[channel] = now_ns + units * 100 * MS
        assert board.coils == [now_ns < due for due in until_ns] + [False] * 5
    board.advance(now_ns + 10_000 * MS)
    edges = board.take_edges()
    assert edges == sorted(edges, key=lambda edge: edge.at_ns)
    for channel in range(3):
        assert [e.at_ns for e in edges if e.output == channel + 1][-1:] == (
            [until_ns[channel]] if until_ns[channel] else []
        )


def test_the_boards_own_timer_ends_a_pulse_on_time() -> None:
    with asyncio.Runner(loop_factory=looptime.new_event_loop) as runner:
        runner.run(_time_a_pulse())


async def _time_a_pulse() -> None:
    loop = asyncio.get_running_loop()
    seen = Observations()
    board = RelayBoard("relays", Board(), seen, now_ns=lambda: round(loop.time() * 1e9))
    start_ns = round(loop.time() * 1e9)
    board.board.request(bytes.fromhex("0502000C80"), start_ns)  # 320 s
    board.settle()
    await asyncio.sleep(319.9)
    assert [output.on for output in seen.of(Output)] == [True]
    await asyncio.sleep(0.2)
    assert [(o.at_ns - start_ns, o.on) for o in seen.of(Output)] == [
        (0, True),
        (320_000 * MS, False),
    ]
    await board.close()
