"""A serial line of a driver: opened, watched, written to and closed in one place."""

import asyncio
import re
import select
import termios
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

import serial_asyncio_fast

from gateway.errors import DeviceUnavailable

BAUD_RATES: Final = frozenset({1200, 2400, 4800, 9600, 19200, 38400, 57600, 115200})

CLOSE_S_MAX: Final = 1.0
"""The kernel may hold a close back while it waits for output to drain; then it is left to it."""

_PORT: Final = re.compile(r"(/[A-Za-z0-9._:+@-]{1,128}){1,16}")


def port_faults(port: str, baud_rate: int) -> Iterator[str]:
    """What no serial port can have in these settings, as `refuse` takes it."""
    if not _PORT.fullmatch(port):
        yield "`port` must be the absolute path of a serial port"
    if baud_rate not in BAUD_RATES:
        yield f"`baud_rate` must be one of {sorted(BAUD_RATES)}"


class SerialLine(asyncio.Protocol):
    """Hands the line's bytes up and remembers its end. `lost` has the reason as its result."""

    def __init__(self, receive: Callable[[bytes], None]) -> None:
        self._receive = receive
        self._transport: Any = None
        self.lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember what to write to."""
        self._transport = transport

    def takes_bytes(self) -> bool:
        """Whether there is room to write in.

        pyserial 3.5 spins for ever in a non-blocking write that the kernel refuses (EAGAIN), so
        the whole event loop would stand still: a byte is only written where there is room.
        """
        if self.lost.done() or self._transport.is_closing():
            return False
        _, writable, _ = select.select([], [self._transport.serial.fileno()], [], 0)
        return bool(writable)

    def write(self, data: bytes) -> None:
        """Write a few bytes, where `takes_bytes`."""
        self._transport.write(data)

    def data_received(self, data: bytes) -> None:
        """Pass bytes on, as long as the line is whole."""
        if not self.lost.done():
            self._receive(data)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Remember why."""
        if not self.lost.done():
            self.lost.set_result("closed" if exc is None else str(exc))


@asynccontextmanager
async def listening(
    device_id: str, port: str, baud_rate: int, receive: Callable[[bytes], None]
) -> AsyncIterator[SerialLine]:
    """The open line, 8 data bits, no parity, 1 stop bit, for the length of the block.

    Raises:
        DeviceUnavailable: it can't be opened, or is in use.
    """
    line = SerialLine(receive)
    try:
        transport, _ = await serial_asyncio_fast.create_serial_connection(
            asyncio.get_running_loop(), lambda: line, port, baudrate=baud_rate, exclusive=True
        )
    except (OSError, ValueError, termios.error) as error:
        raise DeviceUnavailable(f"{device_id}: {port} can't be opened: {error}") from error
    try:
        yield line
    finally:
        await _close(transport, line)


async def _close(transport: Any, line: SerialLine) -> None:
    if not transport.is_closing():
        # What a stuck line has not taken yet would delay the kernel's close by up to 30 s.
        with suppress(OSError, termios.error):
            transport.serial.reset_output_buffer()
        transport.abort()
    await asyncio.wait({line.lost}, timeout=CLOSE_S_MAX)
