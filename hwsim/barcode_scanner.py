"""A 2D barcode scanner on a serial line, as Hangzhou Grow's GM60-S and GM65-S.

Sources: GM65-S and GM60-S user manuals, "series output" (9600 baud, 8 data bits, no parity, 1 stop
bit), "data editing" (prefix, AIM identifier and tail around each code); ISO/IEC 15424 for the AIM
identifiers: `]Q1` is a QR code, model 2. The manuals let a host set the scanner up over the same
line; whatever the host writes is kept in `heard`, since a gateway should write nothing.
"""

from functools import partial
from pathlib import Path

from hwsim.observations import CodeSent, Observations
from hwsim.serial_device import SerialDevice

CODE_BYTES_MAX = 7089
"""The largest QR code (version 40-L, digits: ISO/IEC 18004)."""


class BarcodeScanner(SerialDevice):
    """A scanner on a serial line."""

    def __init__(
        self, name: str, path: Path, seen: Observations, *, prefix: bytes = b"", suffix: bytes
    ) -> None:
        """Open nothing yet; `seen` gets `CodeSent`."""
        super().__init__(name, path, seen)
        self._prefix = prefix
        self._suffix = suffix
        self.heard = bytearray()

    def scan(self, code: bytes) -> None:
        """Hold a code before the scanner.

        Raises:
            ValueError: no code can hold so much.
        """
        if len(code) > CODE_BYTES_MAX:
            raise ValueError(f"a code holds at most {CODE_BYTES_MAX} bytes, not {len(code)}")
        self.send(self._prefix + code + self._suffix, partial(self._sent, len(code)))

    def _sent(self, size: int, at_ns: int) -> None:
        self.seen.add(CodeSent(at_ns, self.name, size))

    def power_on(self) -> None:
        """Its settings are in flash: nothing is lost."""

    def unasked(self) -> bytes:
        """A code."""
        return self._prefix + b"0123456789" + self._suffix

    def receive(self, data: bytes) -> None:
        """Remember what the host wrote."""
        self.heard += data
