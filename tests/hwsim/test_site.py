"""A whole site: wiring, keys, people, faults, with the real pymodbus and pyserial as hosts."""

import asyncio
import contextlib
import socket
import struct
import time
import tomllib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import serial
from pymodbus.client import AsyncModbusTcpClient
from pymodbus.exceptions import ModbusException
from pymodbus.pdu.bit_message import WriteSingleCoilRequest

from hwsim import observations
from hwsim.observations import (
    Contact,
    HostClosed,
    HostOpened,
    KeysSent,
    Lamp,
    Observations,
    Output,
    Rex,
    Strike,
    from_dict,
)
from hwsim.pty_line import BACKLOG_BYTES_MAX
from hwsim.relay_board import CONNECTIONS_MAX
from hwsim.site import Site, SiteError, running_site
from tests.hwsim.conftest import CONFIG


class Flash(WriteSingleCoilRequest):
    """Function 05 with a time in it, as no standard client sends it."""

    units = 0

    def encode(self) -> bytes:
        return struct.pack(">HH", self.address, self.units)


@contextlib.asynccontextmanager
async def host(site: Site) -> AsyncIterator[AsyncModbusTcpClient]:
    table = site.rewritten_config()["devices"]["relays"]
    client = AsyncModbusTcpClient(table["host"], port=table["port"], timeout=0.3, retries=0)
    await client.connect()
    try:
        yield client
    finally:
        client.close()


async def inputs(client: AsyncModbusTcpClient) -> list[bool]:
    return list((await client.read_discrete_inputs(0, count=8, device_id=1)).bits)


async def pulse(client: AsyncModbusTcpClient, output: int, units: int = 2) -> None:
    request = Flash(address=0x0200 + output - 1, dev_id=1, bits=[True])
    request.units = units
    assert not (await client.execute(False, request)).isError()


async def coils(client: AsyncModbusTcpClient) -> list[bool]:
    return list((await client.read_coils(0, count=8, device_id=1)).bits)


# --- relay board and doors ------------------------------------------------------------------


async def test_pymodbus_pulses_a_strike_and_reads_it_back(site: Site) -> None:
    async with host(site) as client:
        await pulse(client, 2)
        assert await coils(client) == [False, True] + [False] * 6
        released = await site.seen.wait_for(Strike, lambda strike: not strike.on)
        assert await coils(client) == [False] * 8
    strikes = site.seen.of(Strike)
    assert [(strike.door, strike.on) for strike in strikes] == [("front", True), ("front", False)]
    assert released.at_ns - strikes[0].at_ns == 200_000_000
    assert time.monotonic_ns() - released.at_ns < 1_000_000_000
    assert [output.output for output in site.seen.of(Output)] == [2, 2]


async def test_inputs_follow_contact_and_rex_as_each_is_wired(site: Site) -> None:
    async with host(site) as client:
        # front is closed (active), back is closed (inactive), front's rex is not pressed (active)
        assert await inputs(client) == [True, False, False, False, True, False, False, False]
        await site.prop("front")
        await site.force("front")
        await site.prop("back")
        await site.force("back")
        pressing = asyncio.create_task(site.rex("front", hold=0.5))
        await site.seen.wait_for(Rex)
        assert await inputs(client) == [False, True] + [False] * 6
        await pressing
        await site.close("front")
        await site.seen.wait_for(Contact, lambda contact: contact.closed)
        assert await inputs(client) == [True, True, False, False, True, False, False, False]


async def test_somebody_walks_through_once_the_strike_releases(site: Site) -> None:
    assert not await site.push("front", patience=0.02)
    async with host(site) as client:
        walking = asyncio.create_task(site.push("front", patience=2.0))
        await asyncio.sleep(0.01)
        await pulse(client, 2)
        assert await walking
    assert [contact.closed for contact in site.seen.of(Contact)] == [False, True]


async def test_without_its_supply_the_fail_safe_door_opens(site: Site) -> None:
    for door in ("front", "back"):
        await site.power_lock(door, False)
    assert not await site.push("front", patience=0.0)
    assert await site.push("back", patience=0.0)


async def test_leaving_by_the_handle_presses_rex_and_opens(site: Site) -> None:
    await site.leave("front")
    assert [rex.pressed for rex in site.seen.of(Rex)] == [True, False]
    assert [contact.closed for contact in site.seen.of(Contact)] == [False, True]


async def test_chatter_ends_where_it_began(site: Site) -> None:
    await site.chatter("front", "contact", edges=11, gap=0.001)
    await site.chatter("front", "rex", edges=10, gap=0.001)
    assert len(site.seen.of(Contact)) == 12
    assert site.seen.of(Contact)[-1].closed
    assert not site.seen.of(Rex)[-1].pressed


async def test_two_hosts_share_a_board(site: Site) -> None:
    async with host(site) as one, host(site) as two:
        await pulse(one, 1)
        assert (await coils(two))[0]


@pytest.mark.parametrize(
    "fault",
    [
        {"wrong_transaction": True},
        {"delay_s": 1.0},
        {"cut_after": 5},
        {"silent": True},
        {"wrong_unit": True},
    ],
)
async def test_a_faulty_reply_fails_and_the_next_is_right(
    site: Site, fault: dict[str, Any]
) -> None:
    async with host(site) as client:
        await site.fault("relays", **fault, times=1)
        with pytest.raises(ModbusException):
            await coils(client)
    async with host(site) as client:
        assert len(await coils(client)) == 8


async def test_replies_come_twice_or_are_anothers(site: Site) -> None:
    table = site.rewritten_config()["devices"]["relays"]
    reader, writer = await asyncio.open_connection(table["host"], table["port"])
    read = bytes.fromhex("0001 0000 0006 01 01 0000 0008")
    reply = bytes.fromhex("0001 0000 0004 01 01 01 00")
    await site.fault("relays", twice=True, times=1)
    writer.write(read)
    assert await reader.readexactly(20) == reply * 2
    await site.fault("relays", foreign=True, times=1)
    writer.write(read)
    assert await reader.readexactly(12) == bytes.fromhex("0001 0000 0006 01 05 0001 FF00")
    writer.write(read[:3])
    await asyncio.sleep(0.01)
    writer.write(read[3:] + read)
    assert await reader.readexactly(20) == reply * 2
    writer.close()


@pytest.mark.parametrize(
    "header", ["0001 0001 0006 01", "0001 0000 0001 01", "0001 0000 00FF 01", "0001 0000 FFFF 01"]
)
async def test_what_is_no_modbus_ends_the_connection(site: Site, header: str) -> None:
    table = site.rewritten_config()["devices"]["relays"]
    reader, writer = await asyncio.open_connection(table["host"], table["port"])
    writer.write(bytes.fromhex(header))
    assert await reader.read() == b""
    writer.close()


async def test_more_connections_than_the_board_takes_are_broken(site: Site) -> None:
    table = site.rewritten_config()["devices"]["relays"]
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(CONNECTIONS_MAX):
            client = await stack.enter_async_context(host(site))
            await coils(client)
        reader, writer = await asyncio.open_connection(table["host"], table["port"])
        with contextlib.suppress(ConnectionError):
            assert await reader.read() == b""
        writer.close()
        assert len(await coils(client)) == 8


async def test_another_units_request_gets_no_answer(site: Site) -> None:
    async with host(site) as client:
        with pytest.raises(ModbusException):
            await client.read_coils(0, count=8, device_id=9)


async def test_a_hung_board_accepts_and_never_answers(site: Site) -> None:
    await site.hang("relays")
    async with host(site) as client:
        with pytest.raises(ModbusException):
            await coils(client)
    await site.resume("relays")
    async with host(site) as client:
        assert len(await coils(client)) == 8


async def test_an_unplugged_board_refuses_and_its_pulse_still_ends(site: Site) -> None:
    table = site.rewritten_config()["devices"]["relays"]
    async with host(site) as client:
        await pulse(client, 2, units=5)
        await site.unplug("relays")
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(table["host"], table["port"])
    await site.seen.wait_for(Strike, lambda strike: not strike.on)
    await site.plug("relays")
    async with host(site) as client:
        assert await coils(client) == [False] * 8


async def test_a_power_cycled_board_drops_its_outputs_at_once(site: Site) -> None:
    async with host(site) as client:
        await pulse(client, 2, units=50)
        await site.power_cycle("relays", off=0.05)
    on, off = site.seen.of(Strike)
    assert off.at_ns - on.at_ns < 5_000_000_000
    async with host(site) as client:
        assert await coils(client) == [False] * 8
    if len(site.seen.of(HostClosed)) < 2:
        await site.seen.wait_for(HostClosed)
    assert len(site.seen.of(HostOpened)) == 2


async def test_a_welded_output_keeps_the_strike_released(site: Site) -> None:
    await site.weld("relays", 2)
    assert await site.push("front", patience=0.0)
    async with host(site) as client:
        assert await coils(client) == [False] * 8
    await site.unweld("relays", 2)
    assert [strike.on for strike in site.seen.of(Strike)] == [True, False]


async def test_a_watchdog_drops_a_held_output(tmp_path: Path) -> None:
    async with running_site(CONFIG, tmp_path, watchdogs={"relays": 0.1}) as site, host(site) as c:
        await c.write_coil(1, True, device_id=1)
        held = site.seen.of(Strike)[0]
        off = await site.seen.wait_for(Strike, lambda strike: not strike.on)
        assert off.at_ns - held.at_ns == 100_000_000


# --- keypad ---------------------------------------------------------------------------------


def read_all(port: serial.Serial, size: int) -> bytes:
    return bytes(port.read(size))


async def test_pyserial_reads_keys_and_signals_back(site: Site) -> None:
    path = site.rewritten_config()["devices"]["keypad"]["port"]
    with serial.Serial(path, 9600, timeout=2, exclusive=True) as port:
        await site.press("keypad", "0123456789*#", gap=0)
        assert await asyncio.to_thread(read_all, port, 12) == b"0123456789*#"
        port.write(b"\x05\x06x\x15\x18")
        await site.seen.wait_for(Lamp, lambda lamp: lamp.signal == "fault")
    assert [keys.keys for keys in site.seen.of(KeysSent)] == ["0123456789*#"]
    signals = [lamp.signal for lamp in site.seen.of(Lamp)]
    assert signals == ["pin_wanted", "granted", "denied", "fault"]


async def test_every_byte_arrives_raw(site: Site) -> None:
    path = site.rewritten_config()["devices"]["keypad"]["port"]
    with serial.Serial(path, 9600, timeout=5) as port:
        await site.noise("keypad", 20_000, seed=3)
        first = await asyncio.to_thread(read_all, port, 20_000)
        await site.noise("keypad", 20_000, seed=3)
        assert await asyncio.to_thread(read_all, port, 20_000) == first
    assert len(set(first)) == 256


async def test_what_nobody_reads_is_dropped_beyond_a_limit(site: Site) -> None:
    path = site.rewritten_config()["devices"]["keypad"]["port"]
    with serial.Serial(path, 9600, timeout=0.2) as port:
        for seed in range(4):
            await site.noise("keypad", BACKLOG_BYTES_MAX // 2, seed)
        await site.press("keypad", "1")
        read = await asyncio.to_thread(read_all, port, 4 * BACKLOG_BYTES_MAX)
        # What the kernel had taken before the backlog filled comes on top of it.
        assert BACKLOG_BYTES_MAX // 2 <= len(read) <= 2 * BACKLOG_BYTES_MAX
        await site.press("keypad", "2")
        assert await asyncio.to_thread(read_all, port, 1) == b"2"


async def test_a_flood_of_keys_is_as_long_as_told(site: Site) -> None:
    path = site.rewritten_config()["devices"]["keypad"]["port"]
    with serial.Serial(path, 9600, timeout=2) as port:
        await site.flood("keypad", per_second=10_000, seconds=0.05)
        assert await asyncio.to_thread(read_all, port, 500) == b"0" * 500
        assert port.in_waiting == 0


async def test_a_garbled_line_hits_some_bytes_until_it_is_resumed(site: Site) -> None:
    path = site.rewritten_config()["devices"]["keypad"]["port"]
    with serial.Serial(path, 9600, timeout=2) as port:
        await site.garble("keypad", 0.1, seed=1)
        await site.press("keypad", "0" * 1_000, gap=0)
        garbled = await asyncio.to_thread(read_all, port, 1_000)
        assert 50 < sum(octet != ord("0") for octet in garbled) < 200
        await site.resume("keypad")
        await site.press("keypad", "0" * 100, gap=0)
        assert await asyncio.to_thread(read_all, port, 100) == b"0" * 100


async def test_an_unplugged_keypad_hangs_up_and_comes_back_at_the_same_path(site: Site) -> None:
    path = site.rewritten_config()["devices"]["keypad"]["port"]
    with serial.Serial(path, 9600, timeout=2) as port:
        reading = asyncio.create_task(asyncio.to_thread(read_all, port, 1))
        await asyncio.sleep(0.05)
        await site.unplug("keypad")
        with pytest.raises(serial.SerialException):
            await reading
    await site.press("keypad", "1")
    assert site.seen.of(KeysSent) == []
    await site.plug("keypad")
    with serial.Serial(path, 9600, timeout=2) as port:
        await site.press("keypad", "2")
        assert await asyncio.to_thread(read_all, port, 1) == b"2"


async def test_a_hung_keypad_sends_nothing_until_it_is_plugged_in_anew(site: Site) -> None:
    await site.hang("keypad")
    await site.press("keypad", "1")
    await site.power_cycle("keypad", off=0.01)
    path = site.rewritten_config()["devices"]["keypad"]["port"]
    with serial.Serial(path, 9600, timeout=2) as port:
        await site.press("keypad", "2")
        assert await asyncio.to_thread(read_all, port, 1) == b"2"
    assert [keys.keys for keys in site.seen.of(KeysSent)] == ["2"]


async def test_a_key_that_does_not_exist_is_refused(site: Site) -> None:
    with pytest.raises(ValueError, match="no key 'A'"):
        await site.press("keypad", "A")


# --- config ---------------------------------------------------------------------------------


async def test_the_documented_site_is_simulated(tmp_path: Path) -> None:
    async with running_site(Path("config/site.toml"), tmp_path) as site:
        assert set(site.doors) == {"street", "lounge", "meeting", "suite", "comms"}
        rewritten = site.rewritten_config()["devices"]
        assert rewritten["street-reader"]["port"] == str(tmp_path / "dev" / "street-reader")
        assert rewritten["relays-a"]["host"] == "127.0.0.1"
        assert rewritten["relays-a"]["port"] != rewritten["relays-b"]["port"]
    assert list((tmp_path / "dev").iterdir()) == []


async def test_ports_below_the_run_directory_and_loopback_addresses_are_kept(
    tmp_path: Path,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        number = free.getsockname()[1]
    config = {
        "devices": {
            "r": {"driver": "pn532", "port": str(tmp_path / "a" / "tty")},
            "b": {"driver": "modbus_relay", "host": "127.0.0.1", "port": number},
        }
    }
    async with running_site(config, tmp_path) as site:
        assert site.rewritten_config() == config
        assert (tmp_path / "a" / "tty").is_symlink()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"devices": {"x": {"driver": "wiegand"}}}, "devices.x: no simulation"),
        ({"devices": {"../x": {"driver": "pn532"}}}, "not a name for a file"),
        ({"devices": {"s": {"driver": "barcode_scanner"}}}, "devices.s.suffix: is missing"),
        ({"doors": {"d": {"contact": {"input": 1}}}}, "doors.d: device: is missing"),
        ({"doors": {"d": {"strike": {"device": "x", "output": 1}}}}, "no device 'x'"),
        (
            {
                "devices": {"b": {"driver": "modbus_relay"}},
                "doors": {"d": {"contact": {"device": "b", "input": 9}}},
            },
            "doors.d.contact.input: the board has 1 to 8, not 9",
        ),
    ],
)
def test_a_config_that_cannot_be_simulated_says_where(
    tmp_path: Path, config: dict[str, Any], message: str
) -> None:
    with pytest.raises(SiteError, match=message):
        Site(config, tmp_path)


async def test_requests_to_the_wrong_thing_are_refused(site: Site) -> None:
    for wrong in (
        site.present("keypad", "DEADBEEF"),
        site.press("reader", "1"),
        site.push("nowhere"),
        site.hang("nothing"),
        site.weld("reader", 1),
        site.garble("relays", 0.1),
        site.fault("relays", what=1),
    ):
        with pytest.raises(SiteError):
            await wrong


# --- observations ---------------------------------------------------------------------------


def test_observations_survive_json() -> None:
    seen = Strike(5, "front", on=True)
    assert seen.to_dict() == {"seen": "strike", "at_ns": 5, "door": "front", "on": True}
    assert from_dict(seen.to_dict()) == seen


def test_the_older_half_goes_when_the_record_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(observations, "OBSERVATIONS_MAX", 10)
    seen = Observations()
    for at_ns in range(11):
        seen.add(Strike(at_ns, "front", on=True))
    assert [strike.at_ns for strike in seen.all] == [5, 6, 7, 8, 9, 10]


async def test_a_watcher_gets_what_comes_after_it_began() -> None:
    seen = Observations()
    seen.add(Strike(1, "front", on=True))
    with seen.watching() as stream:
        seen.add(Strike(2, "front", on=False))
        assert await anext(stream) == Strike(2, "front", on=False)
    assert len(seen.all) == 2


async def test_a_broker_of_this_machine_and_a_key_that_is_there_are_kept(tmp_path: Path) -> None:
    config = {**CONFIG, "mqtt": {"host": "localhost", "port": 1883}, "break_glass": {"fire": {}}}
    async with running_site(config, tmp_path) as site:
        site.write_config(tmp_path / "a.toml")
        key = (tmp_path / "credential.key").read_bytes()
        site.write_config(tmp_path / "b.toml")
    assert (tmp_path / "credential.key").read_bytes() == key
    assert tomllib.loads((tmp_path / "a.toml").read_text())["mqtt"] == config["mqtt"]
    assert "break_glass" not in site.runnable_config()


def test_a_run_directory_too_long_for_a_socket_is_said(tmp_path: Path) -> None:
    site = Site(CONFIG, tmp_path / ("x" * 100))
    with pytest.raises(SiteError, match="shorter --run-dir"):
        site.runnable_config()
