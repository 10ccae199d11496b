"""The relay board's driver and simulator against Modbus implementations that are not ours.

libmodbus (C) stands in for a board, mbpoll (on libmodbus) for a gateway.
"""

import asyncio
import os
import shutil
import socket
import subprocess
import tty
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gateway.clock import Clock
from gateway.domain.facts import InputChanged, OutputReported
from gateway.drivers.modbus_relay import DRIVER, ModbusRelaySettings
from hwsim.relay_board import RelayBoard
from hwsim.rtu_line import RtuRelayBoard
from hwsim.site import Site
from tests.drivers.contract import WIRED, running

SITE = WIRED
MS = timedelta(milliseconds=1)
SOURCE = Path(__file__).parent / "peers" / "libmodbus_board.c"
COMPILER = shutil.which("cc")
MBPOLL = shutil.which("mbpoll")

needs_libmodbus = pytest.mark.skipif(
    COMPILER is None or not Path("/usr/include/modbus/modbus.h").exists(),
    reason="needs a C compiler and Debian's libmodbus-dev",
)
needs_mbpoll = pytest.mark.skipif(MBPOLL is None, reason="needs Debian's mbpoll")


@pytest.fixture(scope="module")
def board_program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("peer") / "libmodbus_board"
    subprocess.run([str(COMPILER), "-o", str(made), str(SOURCE), "-lmodbus"], check=True)
    return made


@asynccontextmanager
async def board(program: Path, *arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        str(program), *arguments, stdout=asyncio.subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        assert await process.stdout.readline() == b"ready\n"
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        process._transport.close()  # type: ignore[attr-defined]


@pytest.fixture
async def null_modem() -> AsyncIterator[tuple[str, str]]:
    """Two serial ports whose far ends are joined."""
    ends = [os.openpty() for _ in range(2)]
    loop = asyncio.get_running_loop()
    masters = [master for master, _ in ends]
    for master, slave in ends:
        tty.setraw(slave)
        os.set_blocking(master, False)

    def copy(source: int, sink: int) -> None:
        os.write(sink, os.read(source, 4096))

    loop.add_reader(masters[0], copy, masters[0], masters[1])
    loop.add_reader(masters[1], copy, masters[1], masters[0])
    yield os.ttyname(ends[0][1]), os.ttyname(ends[1][1])
    for master, slave in ends:
        loop.remove_reader(master)
        os.close(master)
        os.close(slave)


def driver(clock: Clock, **table: object) -> Any:
    table = {"outputs": 8, "inputs": 8, "timed_pulse": False, **table}
    return DRIVER.build("peer", msgspec.convert(table, ModbusRelaySettings), clock)


async def pulses_and_is_seen(relays: Any, inputs: int = 8) -> None:
    async with running(relays) as run:
        await run.until(lambda facts: sum(isinstance(f, InputChanged) for f in facts) == inputs)
        known = len(run.facts)
        for output in (1, 5, 8):
            await relays.pulse(output, 450 * MS)
            for active in (True, False):
                await run.until(
                    lambda facts: any(
                        isinstance(fact, OutputReported)
                        and (fact.output, fact.energised) == (output, active)  # noqa: B023
                        for fact in facts[known:]
                    )
                )
                await run.until(
                    lambda facts: any(
                        isinstance(fact, InputChanged)
                        and (fact.input, fact.active) == (output, active)  # noqa: B023
                        for fact in facts[known:]
                    )
                )


@needs_libmodbus
async def test_the_driver_pulses_coils_of_libmodbus_on_rtu(
    board_program: Path, null_modem: tuple[str, str], clock: Clock
) -> None:
    host, device = null_modem
    async with board(board_program, "rtu", device, "115200", "7"):
        await pulses_and_is_seen(
            driver(clock, transport="rtu", port=host, baud_rate=115200, unit=7)
        )


@needs_libmodbus
async def test_the_driver_pulses_coils_of_libmodbus_on_tcp(
    board_program: Path, clock: Clock
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    async with board(board_program, "tcp", str(port)):
        await pulses_and_is_seen(driver(clock, host="127.0.0.1", port=port))


LOOPS = [{"input": each, "series_ohms": 1000, "parallel_ohms": 1000} for each in (1, 5, 8)]


@needs_libmodbus
async def test_the_driver_measures_input_registers_of_libmodbus_on_rtu(
    board_program: Path, null_modem: tuple[str, str], clock: Clock
) -> None:
    host, device = null_modem
    measures = {
        "analogue": {"function": 4, "register": 0, "step_uv": 1000, "full_scale_mv": 10_000},
        "loop_supply": {"mv": 5000, "pull_up_ohms": 2200},
        "loops": LOOPS,
    }
    where = {"transport": "rtu", "port": host, "baud_rate": 115200, "unit": 7}
    async with board(board_program, "rtu", device, "115200", "7"):
        await pulses_and_is_seen(driver(clock, **where, **measures), inputs=len(LOOPS))


def mbpoll(*arguments: str) -> str:
    done = subprocess.run(
        [str(MBPOLL), *arguments], check=True, capture_output=True, text=True, timeout=10
    )
    return done.stdout


@needs_mbpoll
@pytest.mark.parametrize("name", ["relays-a", "relays-bus-1"])
async def test_mbpoll_writes_and_reads_the_simulated_boards(site: Site, name: str) -> None:
    found = site.devices[name]
    assert isinstance(found, RelayBoard)
    table = site.rewritten_config()["devices"][name]
    if isinstance(found, RtuRelayBoard):
        where = ["-m", "rtu", "-b", "115200", "-P", "none", table["port"]]
    else:
        where = ["-m", "tcp", "-p", str(table["port"]), table["host"]]
    common = ["-0", "-1", "-a", "1"]
    await asyncio.to_thread(mbpoll, *common, "-t", "0", "-r", "2", *where, "1")
    assert found.board.coils == [False, False, True] + [False] * 5
    found.set_input(4, active=True)
    told = await asyncio.to_thread(mbpoll, *common, "-t", "1", "-r", "0", "-c", "8", *where)
    inputs = [line.split()[-1] for line in told.splitlines() if line.startswith("[")]
    assert inputs == [str(int(active)) for active in found.board.inputs]


@needs_mbpoll
async def test_mbpoll_reads_the_loops_of_a_simulated_board(site: Site) -> None:
    found = site.devices["loops-bus-3"]
    assert isinstance(found, RtuRelayBoard)
    port = site.rewritten_config()["devices"]["loops-bus-3"]["port"]
    found.loop(1).closed, found.loop(2).closed = False, True
    found.loop(2).cut()
    line = ["-m", "rtu", "-b", "115200", "-P", "none", port]
    asked = ["-0", "-1", "-a", "3", "-t", "3", "-r", "0", "-c", "8"]
    told = await asyncio.to_thread(mbpoll, *asked, *line)
    values = [line.split()[-1] for line in told.splitlines() if line.startswith("[")]
    assert values == ["2381", "5000", "0", "0", "0", "0", "0", "5000"]
