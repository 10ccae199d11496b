"""Wiegand readers behind a converter on a serial line or USB serial port.

    [devices.annexe-reader]
    driver = "wiegand_serial"
    port = "/dev/serial/by-path/pci-0000:00:14.0-usb-0:1.7:1.0-port0"
    baud_rate = 9600
    converter = "wie232"    # or "s4a"
    formats = ["H10301"]
    keypad = "none"         # "4bit" or "8bit" where the converter passes keys on (s4a)
    inter_digit_timeout_s = 5.0

`wie232`, Priority 1 Design's WIE232-A and boards alike: of a 26-bit frame whose parity it has
checked, the 24 bits between as six hexadecimal digits and a carriage return. `s4a`, S4A's
bidirectional converter: the bits between as ten decimal digits, carriage return and line feed; a
key as one character. Both drop the parity bits and the length of the frame, so exactly one format
can be enabled, of 26 bits (or 34 for s4a) with one parity bit at each end. A converter that passes
whole frames on would be better, and GPIO is best (wiegand_gpio). A converter says nothing by
itself: it is online once its port is open.
"""

import asyncio
import re
from collections.abc import Iterator
from datetime import timedelta
from typing import Final, Literal

from gateway.clock import Clock
from gateway.config.devices import Capability, DeviceSettings, DriverSpec, Means, Trial, refuse
from gateway.domain.card_format import FORMATS, CardFormat
from gateway.domain.facts import CredentialPresented, DeviceOnline
from gateway.drivers.base import FactSink
from gateway.drivers.pin_entry import inter_digit_timeout_faults
from gateway.drivers.serial_line import listening, port_faults
from gateway.drivers.wiegand import Keypad, WiegandReader, format_faults
from gateway.errors import DeviceUnavailable

LINE_BYTES_MAX: Final = 16
"""The longest line is ten digits; what is longer is forgotten as it comes, up to its end."""

SILENCE: Final = timedelta(milliseconds=100)
"""A converter sends a card in one go (1 ms a byte at 9600 baud)."""

KEY_SILENCE: Final = timedelta(milliseconds=30)
"""A character alone for so long is a key: a card's digits follow each other at once."""

_HEX: Final = re.compile(rb"[0-9A-Fa-f]{6}")
_DECIMAL: Final = re.compile(rb"[0-9]{10}")
_KEYS: Final = frozenset(b"0123456789AB")
"""S4A manual, 3.2: a burst of 4 bits comes as its hexadecimal digit; A is *, B is #."""


class WiegandSerialSettings(DeviceSettings, frozen=True, kw_only=True):
    """[devices.NAME] of a converter."""

    port: str
    baud_rate: int = 9600
    converter: Literal["wie232", "s4a"]
    formats: tuple[str, ...]
    keypad: Keypad = "none"
    inter_digit_timeout_s: float = 5.0

    def __post_init__(self) -> None:
        """Refuse what can't work.

        Raises:
            ValueError: msgspec turns it into a fault with its path in the file.
        """
        refuse(self._faults())

    def _faults(self) -> Iterator[str]:
        yield from port_faults(self.port, self.baud_rate)
        yield from inter_digit_timeout_faults(self.inter_digit_timeout_s)
        if self.keypad != "none" and self.converter == "wie232":
            yield "`keypad` must be none: a wie232 passes no keys on"
        formats = list(format_faults(self.formats))
        yield from formats
        lengths = (26,) if self.converter == "wie232" else (26, 34)
        if formats:
            return
        if len(self.formats) != 1 or not _is_wrapped(FORMATS[self.formats[0]], lengths):
            yield (
                f"`formats` must be one format of {' or '.join(map(str, lengths))} bits with a "
                f"parity bit at each end: a {self.converter} says neither length nor parity"
            )


def _is_wrapped(layout: CardFormat, lengths: tuple[int, ...]) -> bool:
    ends = {check.at for check in layout.checks}
    return layout.length in lengths and ends == {0, layout.length - 1}


def whole(payload: int, layout: CardFormat) -> str:
    """The frame of `layout` around the bits between its parity bits, which the converter checked.

    Raises:
        ValueError: more bits than are between them.
    """
    inner = layout.length - 2
    if payload >> inner:
        raise ValueError(f"more than the {inner} bits of {layout.name}")
    bits = list(f"0{payload:0{inner}b}0")
    for check in layout.checks:
        ones = sum(bits[at] == "1" for at in check.over)
        bits[check.at] = str((ones + (check.kind == "odd")) % 2)
    return "".join(bits)


class ConverterProtocol:
    """Bytes in, credentials out. Keeps at most a line."""

    def __init__(self, device_id: str, settings: WiegandSerialSettings) -> None:
        timeout = timedelta(seconds=settings.inter_digit_timeout_s)
        self.reader = WiegandReader(device_id, settings.formats, settings.keypad, timeout)
        self._layout = FORMATS[settings.formats[0]]
        self._end = b"\r" if settings.converter == "wie232" else b"\r\n"
        self._pattern, self._base = (_HEX, 16) if settings.converter == "wie232" else (_DECIMAL, 10)
        self._has_keys = settings.keypad != "none"
        self._eight_bits = settings.keypad == "8bit"
        self._buffer = bytearray()
        self._overlong = False
        self._heard = timedelta()

    @property
    def pending(self) -> bool:
        """Whether anything of a card or a PIN is in memory."""
        return bool(self._buffer) or self._overlong or self.reader.pin.pending

    @property
    def wait(self) -> timedelta:
        """How long after the last byte `expire` should be called."""
        return KEY_SILENCE if self._has_keys and len(self._buffer) == 1 else SILENCE

    def receive(self, data: bytes, now: timedelta) -> list[CredentialPresented]:
        """Take the bytes that came at `now` (monotonic); return what they completed."""
        facts = self.expire(now)
        self._heard = now
        for byte in data:
            self._buffer.append(byte)
            if self._buffer.endswith(self._end):
                facts += self._line(bytes(self._buffer[: -len(self._end)]), now)
                self._forget_buffer()
            elif len(self._buffer) > LINE_BYTES_MAX:
                self._overlong = True
                self._buffer[:] = self._buffer[-1:]
        return facts

    def expire(self, now: timedelta) -> list[CredentialPresented]:
        """Take a lone character for a key, and forget what was cut off or left."""
        facts: list[CredentialPresented] = []
        if self._buffer or self._overlong:
            if now - self._heard >= self.wait and self._has_keys and len(self._buffer) == 1:
                facts = self._key(self._buffer[0], self._heard)
                self._forget_buffer()
            elif now - self._heard >= SILENCE:
                self.reader.spoilt()
                self._forget_buffer()
        self.reader.pin.expire(now)
        return facts

    def forget(self) -> None:
        """Forget everything."""
        self._forget_buffer()
        self.reader.pin.forget()

    def _forget_buffer(self) -> None:
        self._buffer[:] = bytes(len(self._buffer))
        self._buffer.clear()
        self._overlong = False

    def _line(self, line: bytes, now: timedelta) -> list[CredentialPresented]:
        if self._overlong or not self._pattern.fullmatch(line):
            self.reader.spoilt()
            return []
        try:
            bits = whole(int(line, self._base), self._layout)
        except ValueError:
            self.reader.spoilt()
            return []
        return self.reader.frame(bits, now)

    def _key(self, byte: int, at: timedelta) -> list[CredentialPresented]:
        if self._eight_bits:
            return self.reader.frame(f"{byte:08b}", at)
        if byte not in _KEYS:
            self.reader.spoilt()
            return []
        return self.reader.frame(f"{int(chr(byte), 16):04b}", at)


class WiegandSerial:
    """The serial line of one converter."""

    def __init__(self, device_id: str, settings: WiegandSerialSettings, clock: Clock) -> None:
        self.device_id = device_id
        self._settings = settings
        self._clock = clock

    async def run(self, emit: FactSink) -> None:
        """See `Driver.run`."""
        protocol = ConverterProtocol(self.device_id, self._settings)
        port, baud_rate = self._settings.port, self._settings.baud_rate
        loop = asyncio.get_running_loop()
        timer: asyncio.TimerHandle | None = None

        def tell(facts: list[CredentialPresented]) -> None:
            nonlocal timer
            for fact in facts:
                emit(fact)
            protocol.reader.tell_refusals(self._clock.monotonic())
            if timer is not None:
                timer.cancel()
            timer = None
            if protocol.pending:
                timer = loop.call_later(protocol.wait.total_seconds(), expire)

        def expire() -> None:
            tell(protocol.expire(self._clock.monotonic()))

        def receive(data: bytes) -> None:
            tell(protocol.receive(data, self._clock.monotonic()))

        try:
            async with listening(self.device_id, port, baud_rate, receive) as line:
                emit(DeviceOnline(self.device_id, self._clock.monotonic()))
                lost = await asyncio.shield(line.lost)
                raise DeviceUnavailable(f"{self.device_id}: {port} is gone: {lost}")
        finally:
            if timer is not None:
                timer.cancel()
            protocol.forget()


DRIVER = DriverSpec(
    name="wiegand_serial",
    settings=WiegandSerialSettings,
    capabilities=frozenset({Capability.READS_CREDENTIALS, Capability.READS_PINS}),
    build=WiegandSerial,
    address=lambda settings: settings.port,
    title="Wiegand readers and keypads behind a serial converter (WIE232-A, S4A)",
    transport="RS-232, USB serial",
    tried=(Trial(Means.VECTORS, "examples of the S4A manual; the WIE232-A's description"),),
)
