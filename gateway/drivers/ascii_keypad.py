"""A keypad that sends one ASCII character a key over a serial line.

    [devices.street-keypad]
    driver = "ascii_keypad"
    port = "/dev/serial/by-path/pci-0000:00:14.0-usb-0:1.2:1.0-port0"
    baud_rate = 9600
    inter_digit_timeout_s = 5.0

Digits, then `#` to enter or `*` to clear; 8 data bits, no parity, 1 stop bit. Such a keypad says
nothing by itself, so it counts as online once its port is open: a keypad that is cut off behind a
working serial adapter is not noticed. The line has no checksum either: a byte that is no key spoils
the entry, but a digit that noise turned into another digit can't be told from a mistyped one. An
entry that can't be a PIN (too short, too long or spoilt) is answered with `denied` by the driver.
"""

import asyncio
import re
import select
import termios
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import timedelta
from typing import Any, ClassVar, Final

import serial_asyncio_fast
import structlog

from gateway.clock import Clock
from gateway.config.devices import Capability, DeviceSettings, DriverSpec, refuse
from gateway.domain.facts import DeviceOnline
from gateway.drivers.base import FactSink, Signal
from gateway.drivers.pin_entry import PinEntry, inter_digit_timeout_faults
from gateway.errors import DeviceUnavailable

log = structlog.get_logger()

# The control characters that light the keypad's lamps (ECMA-6 names).
INDICATION: Final = {
    Signal.GRANTED: b"\x06",  # ACK
    Signal.DENIED: b"\x15",  # NAK
    Signal.PIN_WANTED: b"\x05",  # ENQ
    Signal.FAULT: b"\x18",  # CAN
    Signal.HELD_OPEN: b"\x07",  # BEL
}

WRITE_S_MAX: Final = 0.5
"""A line that takes no byte for so long (flow control, a stuck adapter) is lost."""

WRITE_POLL_S: Final = 0.005
CLOSE_S_MAX: Final = 1.0
"""The kernel may hold a close back while it waits for output to drain; then it is left to it."""

_PORT: Final = re.compile(r"(/[A-Za-z0-9._:+@-]{1,128}){1,16}")


class AsciiKeypadSettings(DeviceSettings, frozen=True, kw_only=True):
    """[devices.NAME] of an ASCII keypad."""

    BAUD_RATES: ClassVar = frozenset({1200, 2400, 4800, 9600, 19200, 38400, 57600, 115200})

    port: str
    baud_rate: int = 9600
    inter_digit_timeout_s: float = 5.0

    def __post_init__(self) -> None:
        """Refuse what no such keypad can be set to.

        Raises:
            ValueError: msgspec turns it into a fault with its path in the file.
        """
        refuse(self._faults())

    def _faults(self) -> Iterator[str]:
        if not _PORT.fullmatch(self.port):
            yield "`port` must be the absolute path of a serial port"
        if self.baud_rate not in self.BAUD_RATES:
            yield f"`baud_rate` must be one of {sorted(self.BAUD_RATES)}"
        yield from inter_digit_timeout_faults(self.inter_digit_timeout_s)


class AsciiKeypad:
    """The serial line of one keypad."""

    def __init__(self, device_id: str, settings: AsciiKeypadSettings, clock: Clock) -> None:
        self.device_id = device_id
        self._settings = settings
        self._clock = clock
        self._transport: serial_asyncio_fast.SerialTransport | None = None
        self._entry: PinEntry | None = None

    async def run(self, emit: FactSink) -> None:
        """See `Driver.run`."""
        timeout = timedelta(seconds=self._settings.inter_digit_timeout_s)
        protocol = PinEntry(self.device_id, timeout)
        line = _Line(lambda data: self._receive(protocol, data, emit))
        try:
            transport, _ = await serial_asyncio_fast.create_serial_connection(
                asyncio.get_running_loop(),
                lambda: line,
                self._settings.port,
                baudrate=self._settings.baud_rate,
                exclusive=True,
            )
        except (OSError, ValueError, termios.error) as error:
            raise DeviceUnavailable(
                f"{self.device_id}: {self._settings.port} can't be opened: {error}"
            ) from error
        try:
            self._transport, self._entry = transport, protocol
            emit(DeviceOnline(self.device_id, self._clock.monotonic()))
            while not line.lost.done():
                # A left entry must not stay in memory until somebody presses the next key.
                await asyncio.wait({line.lost}, timeout=timeout.total_seconds())
                protocol.expire(self._clock.monotonic())
            raise DeviceUnavailable(
                f"{self.device_id}: {self._settings.port} is gone: {line.lost.result()}"
            )
        finally:
            self._transport = self._entry = None
            protocol.forget()
            await _close(transport, line)

    def _receive(self, protocol: PinEntry, data: bytes, emit: FactSink) -> None:
        for fact in protocol.receive(data, self._clock.monotonic()):
            emit(fact)
        transport = self._transport
        if protocol.take_refused() and transport is not None and _takes_bytes(transport):
            # It can't be a PIN, so nobody above hears of it: the person is told from here.
            transport.write(INDICATION[Signal.DENIED])

    async def indicate(self, signal: Signal) -> None:
        """See `Indicates.indicate`."""
        if signal is Signal.PIN_WANTED and self._entry is not None:
            # Digits from before the card belong to no PIN; those pressed from now on do.
            self._entry.forget()
        try:
            async with asyncio.timeout(WRITE_S_MAX):
                while not _takes_bytes(self._open_transport()):  # noqa: ASYNC110  # rare, short
                    await asyncio.sleep(WRITE_POLL_S)
        except TimeoutError:
            raise DeviceUnavailable(
                f"{self.device_id}: {self._settings.port} takes no byte"
            ) from None
        self._open_transport().write(INDICATION[signal])

    def _open_transport(self) -> serial_asyncio_fast.SerialTransport:
        if self._transport is None or self._transport.is_closing():
            raise DeviceUnavailable(f"{self.device_id}: {self._settings.port} is not open")
        return self._transport


class _Line(asyncio.Protocol):
    """Hands the line's bytes up and remembers its end. `lost` has the reason as its result."""

    def __init__(self, receive: Callable[[bytes], None]) -> None:
        self._receive = receive
        self.lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def data_received(self, data: bytes) -> None:
        if not self.lost.done():
            self._receive(data)

    def connection_lost(self, exc: BaseException | None) -> None:
        if not self.lost.done():
            self.lost.set_result("closed" if exc is None else str(exc))


def _takes_bytes(transport: Any) -> bool:
    # pyserial 3.5 spins for ever in a non-blocking write that the kernel refuses (EAGAIN), so the
    # whole event loop would stand still: a byte is only written where there is room.
    _, writable, _ = select.select([], [transport.serial.fileno()], [], 0)
    return bool(writable)


async def _close(transport: Any, line: _Line) -> None:
    if not transport.is_closing():
        # What a stuck line has not taken yet would delay the kernel's close by up to 30 s.
        with suppress(OSError, termios.error):
            transport.serial.reset_output_buffer()
        transport.abort()
    await asyncio.wait({line.lost}, timeout=CLOSE_S_MAX)


DRIVER = DriverSpec(
    name="ascii_keypad",
    settings=AsciiKeypadSettings,
    capabilities=frozenset({Capability.READS_PINS, Capability.INDICATES}),
    build=AsciiKeypad,
    address=lambda settings: settings.port,
    title="keypads that send one ASCII character a key",
    transport="RS-232, USB serial",
)
