r"""A QR or barcode scanner on a serial line or a USB serial port (CDC ACM).

    [devices.lobby-scanner]
    driver = "barcode_scanner"
    port = "/dev/serial/by-path/pci-0000:00:14.0-usb-0:1.5:1.0-port0"
    baud_rate = 9600
    prefix = "]Q1"      # what the scanner is set to send before each code; "" for nothing
    suffix = "\r"       # and after it: without an end a code can't be told from the next one
    no_read = ""        # the text it sends when it has read nothing, if it sends any

Every code that is 8 to 128 printable ASCII characters is a `qr` credential, or 8 to 512 where it
begins as a carried grant does (docs/spec/carried-grants.md). With [devices.NAME.sun]
(`card_settings.py`) one that begins as its `url` is an NTAG 424 DNA's message instead, checked
here, and never a `qr`. What is in another means nothing here: it is looked up and otherwise goes
nowhere, and no byte is ever written to the
scanner. Set up the scanner with its own programming codes, then disable them: a member could hold
one up. A prefix with the symbology's AIM identifier (ISO/IEC 15424; "]Q1" is a QR code) leaves only
codes of that kind. A scanner says nothing by itself, so it is online once its port is open; a
scanner in keyboard mode (HID) is not supported, since anything it reads would be typed.
"""

import asyncio
from collections.abc import Iterator
from datetime import timedelta
from typing import Final

import structlog

from gateway.clock import Clock
from gateway.config.devices import Capability, DeviceSettings, DriverSpec, refuse
from gateway.domain.carried_grant import PREFIX, TEXT_CHARACTERS_MAX
from gateway.domain.facts import CredentialPresented, CredentialRefused, DeviceOnline
from gateway.drivers.base import FactSink
from gateway.drivers.card_settings import SunTable, missing_keys, with_keys
from gateway.drivers.cards import ProofRefused
from gateway.drivers.cards.sun import Keys, Template, proven
from gateway.drivers.serial_line import listening, port_faults
from gateway.errors import DeviceUnavailable

log = structlog.get_logger()

CODE_CHARACTERS_MIN: Final = 8
CODE_CHARACTERS_MAX: Final = 128
"""What a `qr` credential may be (docs/spec/entitlements.md)."""

PRINTABLE: Final = frozenset(range(0x20, 0x7F))
"""A code with any other byte in it is thrown away whole."""

_CARRIED: Final = PREFIX.encode()

LINE_BYTES_MAX: Final = TEXT_CHARACTERS_MAX
"""What is longer than any code we will ever take is forgotten as it comes, up to its end."""

AFFIX_BYTES_MAX: Final = 16

SILENCE: Final = timedelta(milliseconds=250)
"""A scanner sends a code in one go (1 ms a byte at 9600 baud): what follows such a silence is
another code, and what came before it was cut off."""

REPEAT: Final = timedelta(seconds=1)
"""A code that stays before a scanner in continuous mode is read over and over, and is one tap."""

CODES_MAX: Final = 4
CODES_SPAN: Final = timedelta(seconds=1)
"""Nobody holds up more codes a second than this; the rest is counted and dropped."""

REFUSALS_TOLD: Final = timedelta(minutes=1)
"""How often the log says how many codes were refused: a flood must not fill it."""


class BarcodeScannerSettings(DeviceSettings, frozen=True, kw_only=True):
    """[devices.NAME] of a scanner. How its codes begin and end has no usual value."""

    port: str
    baud_rate: int = 9600
    prefix: str = ""
    suffix: str
    no_read: str = ""
    sun: SunTable | None = None

    def __post_init__(self) -> None:
        """Refuse what can't work.

        Raises:
            ValueError: msgspec turns it into a fault with its path in the file.
        """
        refuse(self._faults())

    def _faults(self) -> Iterator[str]:
        yield from port_faults(self.port, self.baud_rate)
        for name, text in (("prefix", self.prefix), ("suffix", self.suffix)):
            if len(text) > AFFIX_BYTES_MAX or not text.isascii():
                yield f"`{name}` must be at most {AFFIX_BYTES_MAX} ASCII characters"
        if not self.suffix or PRINTABLE.issuperset(self.suffix.encode()):
            yield (
                "`suffix` must have a control character in it, such as \\r: a code could "
                "otherwise hold its own end"
            )
        if not self.no_read.isascii() or len(self.no_read) > CODE_CHARACTERS_MAX:
            yield f"`no_read` must be at most {CODE_CHARACTERS_MAX} ASCII characters"

    def missing(self) -> Iterator[tuple[str, str]]:
        """See `DriverSpec.missing`."""
        yield from missing_keys("sun", self.sun)


class ScannerProtocol:
    """Bytes in, codes out. Keeps at most a line, whatever comes."""

    def __init__(
        self, device_id: str, settings: BarcodeScannerSettings, sun_keys: Keys | None = None
    ) -> None:
        self.device_id = device_id
        self._sun_keys = sun_keys
        self._template = None if settings.sun is None else Template(settings.sun.url)
        self._prefix = settings.prefix.encode()
        self._suffix = settings.suffix.encode()
        self._no_read = settings.no_read.encode()
        self._buffer = bytearray()
        self._overlong = False
        self._heard = timedelta()
        self._began = timedelta()
        self._last: tuple[str, timedelta] | None = None
        self._taken: list[timedelta] = []
        self.refused = 0
        """Codes that were no credential, since the counter was last set to 0."""

    @property
    def pending(self) -> bool:
        """Whether anything of a code is in memory."""
        return bool(self._buffer) or self._overlong or self._last is not None

    def receive(self, data: bytes, now: timedelta) -> list[CredentialPresented | CredentialRefused]:
        """Take the bytes that came at `now` (monotonic); return the codes that they completed."""
        self.expire(now)
        self._heard = now
        facts: list[CredentialPresented | CredentialRefused] = []
        # In pieces, so that a megabyte at once takes no more memory than a megabyte in bytes.
        for at in range(0, len(data), LINE_BYTES_MAX):
            if not (self._buffer or self._overlong):
                self._began = now
            self._buffer += data[at : at + LINE_BYTES_MAX]
            facts += self._ended(now)
            room = LINE_BYTES_MAX + len(self._prefix) + len(self._suffix)
            if len(self._buffer) > room:
                self._overlong = True
            if self._overlong:
                # The end may have begun to come.
                self._forget_buffer(keep=len(self._suffix) - 1)
        return facts

    def expire(self, now: timedelta) -> None:
        """Forget what was cut off, and a code that has been gone for long enough."""
        if now - self._heard >= SILENCE:
            self._forget_buffer()
            self._overlong = False
        if self._last is not None and now - self._last[1] >= REPEAT:
            self._last = None

    def forget(self) -> None:
        """Forget everything that was read."""
        self._forget_buffer()
        self._overlong = False
        self._last = None

    def _forget_buffer(self, keep: int = 0) -> None:
        gone = max(0, len(self._buffer) - keep)
        self._buffer[:gone] = bytes(gone)
        del self._buffer[:gone]

    def _ended(self, now: timedelta) -> list[CredentialPresented | CredentialRefused]:
        facts = []
        while (end := self._buffer.find(self._suffix)) >= 0:
            line = bytes(self._buffer[:end])
            self._forget_buffer(keep=len(self._buffer) - end - len(self._suffix))
            overlong, self._overlong = self._overlong, False
            if not line and not overlong:
                continue
            code = None if overlong else self._code(line)
            if code is None:
                self.refused += line != self._no_read or overlong
            elif self._is_new(code, now):
                facts.append(self._fact(code, now))
            self._began = now
        return facts

    def _fact(self, code: str, now: timedelta) -> CredentialPresented | CredentialRefused:
        if self._template is None or not code.startswith(self._template.head):
            return CredentialPresented(self.device_id, "qr", code, now, began=self._began)
        message = self._template.message(code)
        if message is None or self._sun_keys is None:
            return CredentialRefused(self.device_id, "sun", "malformed", now)
        try:
            kind, value, counter = proven(message, self._sun_keys)
        except ProofRefused as refused:
            return CredentialRefused(self.device_id, refused.kind, refused.why, now)
        return CredentialPresented(self.device_id, kind, value, now, counter, self._began)

    def _code(self, line: bytes) -> str | None:
        if line == self._no_read or not line.startswith(self._prefix):
            return None
        code = line[len(self._prefix) :]
        carried = code.startswith(_CARRIED)
        longest = TEXT_CHARACTERS_MAX if carried else CODE_CHARACTERS_MAX
        if not CODE_CHARACTERS_MIN <= len(code) <= longest:
            return None
        return code.decode("ascii") if PRINTABLE.issuperset(code) else None

    def _is_new(self, code: str, now: timedelta) -> bool:
        repeated = self._last is not None and self._last[0] == code
        self._last = code, now
        if repeated:
            return False
        self._taken = [at for at in self._taken if now - at < CODES_SPAN]
        if len(self._taken) >= CODES_MAX:
            self.refused += 1
            return False
        self._taken.append(now)
        return True


class BarcodeScanner:
    """The serial line of one scanner."""

    def __init__(self, device_id: str, settings: BarcodeScannerSettings, clock: Clock) -> None:
        self.device_id = device_id
        self._settings = settings
        self._clock = clock
        self._told_at: timedelta | None = None

    async def run(self, emit: FactSink) -> None:
        """See `Driver.run`."""
        port, baud_rate = self._settings.port, self._settings.baud_rate
        protocol = ScannerProtocol(self.device_id, self._settings, self._sun_keys())

        def receive(data: bytes) -> None:
            for fact in protocol.receive(data, self._clock.monotonic()):
                emit(fact)
            self._tell_refusals(protocol)

        try:
            async with listening(self.device_id, port, baud_rate, receive) as line:
                emit(DeviceOnline(self.device_id, self._clock.monotonic()))
                while not line.lost.done():
                    # What was read must not stay in memory until somebody shows the next code.
                    await asyncio.wait({line.lost}, timeout=REPEAT.total_seconds())
                    protocol.expire(self._clock.monotonic())
                    self._tell_refusals(protocol)
                raise DeviceUnavailable(f"{self.device_id}: {port} is gone: {line.lost.result()}")
        finally:
            protocol.forget()

    def _sun_keys(self) -> Keys | None:
        """The keys of tags' messages. Raises DeviceMisconfigured where one can't be used."""
        if self._settings.sun is None:
            return None
        told = with_keys(self._settings.sun)
        names = ("picc_key", "mac_key", "diversification")
        return Keys(*(bytes.fromhex(told[name]) for name in names))

    def _tell_refusals(self, protocol: ScannerProtocol) -> None:
        now = self._clock.monotonic()
        due = self._told_at is None or now - self._told_at >= REFUSALS_TOLD
        if protocol.refused and due:
            log.warning("codes refused", device=self.device_id, count=protocol.refused)
            protocol.refused, self._told_at = 0, now


DRIVER = DriverSpec(
    name="barcode_scanner",
    settings=BarcodeScannerSettings,
    capabilities=frozenset({Capability.READS_CREDENTIALS}),
    build=BarcodeScanner,
    proves=lambda settings: () if settings.sun is None else ("sun",),
    missing=BarcodeScannerSettings.missing,
    address=lambda settings: settings.port,
    title="QR and barcode scanners in serial mode",
    transport="RS-232, TTL serial, USB serial (CDC ACM)",
)
