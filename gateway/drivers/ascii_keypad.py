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
from datetime import timedelta
from typing import Final

from gateway.clock import Clock
from gateway.config.devices import Capability, DeviceSettings, DriverSpec, refuse
from gateway.domain.facts import DeviceOnline
from gateway.drivers.base import FactSink, Signal
from gateway.drivers.pin_entry import PinEntry, inter_digit_timeout_faults
from gateway.drivers.serial_line import SerialLine, listening, port_faults
from gateway.errors import DeviceUnavailable

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


class AsciiKeypadSettings(DeviceSettings, frozen=True, kw_only=True):
    """[devices.NAME] of an ASCII keypad."""

    port: str
    baud_rate: int = 9600
    inter_digit_timeout_s: float = 5.0

    def __post_init__(self) -> None:
        """Refuse what no such keypad can be set to.

        Raises:
            ValueError: msgspec turns it into a fault with its path in the file.
        """
        refuse(
            (
                *port_faults(self.port, self.baud_rate),
                *inter_digit_timeout_faults(self.inter_digit_timeout_s),
            )
        )


class AsciiKeypad:
    """The serial line of one keypad."""

    def __init__(self, device_id: str, settings: AsciiKeypadSettings, clock: Clock) -> None:
        self.device_id = device_id
        self._settings = settings
        self._clock = clock
        self._line: SerialLine | None = None
        self._entry: PinEntry | None = None

    async def run(self, emit: FactSink) -> None:
        """See `Driver.run`."""
        port, baud_rate = self._settings.port, self._settings.baud_rate
        timeout = timedelta(seconds=self._settings.inter_digit_timeout_s)
        entry = PinEntry(self.device_id, timeout)
        try:
            async with listening(
                self.device_id, port, baud_rate, lambda data: self._receive(entry, data, emit)
            ) as line:
                self._line, self._entry = line, entry
                emit(DeviceOnline(self.device_id, self._clock.monotonic()))
                while not line.lost.done():
                    # A left entry must not stay in memory until somebody presses the next key.
                    await asyncio.wait({line.lost}, timeout=timeout.total_seconds())
                    entry.expire(self._clock.monotonic())
                raise DeviceUnavailable(f"{self.device_id}: {port} is gone: {line.lost.result()}")
        finally:
            self._line = self._entry = None
            entry.forget()

    def _receive(self, entry: PinEntry, data: bytes, emit: FactSink) -> None:
        for fact in entry.receive(data, self._clock.monotonic()):
            emit(fact)
        line = self._line
        if entry.take_refused() and line is not None and line.takes_bytes():
            # It can't be a PIN, so nobody above hears of it: the person is told from here.
            line.write(INDICATION[Signal.DENIED])

    async def indicate(self, signal: Signal) -> None:
        """See `Indicates.indicate`."""
        if signal is Signal.PIN_WANTED and self._entry is not None:
            # Digits from before the card belong to no PIN; those pressed from now on do.
            self._entry.forget()
        try:
            async with asyncio.timeout(WRITE_S_MAX):
                while not (line := self._open_line()).takes_bytes():  # noqa: ASYNC110  # rare, short
                    await asyncio.sleep(WRITE_POLL_S)
        except TimeoutError:
            raise DeviceUnavailable(
                f"{self.device_id}: {self._settings.port} takes no byte"
            ) from None
        line.write(INDICATION[signal])

    def _open_line(self) -> SerialLine:
        if self._line is None or self._line.lost.done():
            raise DeviceUnavailable(f"{self.device_id}: {self._settings.port} is not open")
        return self._line


DRIVER = DriverSpec(
    name="ascii_keypad",
    settings=AsciiKeypadSettings,
    capabilities=frozenset({Capability.READS_PINS, Capability.INDICATES}),
    build=AsciiKeypad,
    address=lambda settings: settings.port,
    title="keypads that send one ASCII character a key",
    transport="RS-232, USB serial",
)
