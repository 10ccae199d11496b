"""An RS-232 keypad in ASCII mode: a byte a key to the host, a byte a signal from it.

The control characters are those of ISO/IEC 646 (ASCII).
"""

import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from hwsim.observations import KeysSent, Lamp, Observations
from hwsim.serial_device import SerialDevice

KEYS = frozenset("0123456789*#")

SIGNALS = {
    0x06: "granted",  # ACK: green lamp, one short beep
    0x07: "held_open",  # BEL: repeated beeps
    0x15: "denied",  # NAK: red lamp, three beeps
    0x05: "pin_wanted",  # ENQ: amber lamp blinks
    0x18: "fault",  # CAN: red and amber lamps
}


@dataclass(frozen=True, slots=True)
class Shown:
    """One signal that the keypad showed."""

    at_ns: int
    signal: str


class Keypad:
    """One keypad: what its keys send, and what its lamps and beeper showed."""

    def __init__(self) -> None:
        self.shown: list[Shown] = []

    def press(self, key: str) -> bytes:
        """The byte of one key.

        Raises:
            ValueError: the keypad has no such key.
        """
        if key not in KEYS or len(key) != 1:
            raise ValueError(f"the keypad has no key {key!r}, only 0 to 9, * and #")
        return key.encode("ascii")

    def receive(self, data: bytes, now_ns: int) -> list[str]:
        """Show what the host asked for; a byte that means nothing shows nothing."""
        signals = [SIGNALS[octet] for octet in data if octet in SIGNALS]
        self.shown += [Shown(now_ns, signal) for signal in signals]
        return signals


class AsciiKeypad(SerialDevice):
    """A keypad on a serial line."""

    def __init__(self, name: str, path: Path, seen: Observations) -> None:
        """Open nothing yet; `seen` gets `KeysSent` and `Lamp`."""
        super().__init__(name, path, seen)
        self.keypad = Keypad()

    def press(self, key: str, told: str = "") -> None:
        """Press one key.

        Args:
            key: One of 0 to 9, * and #.
            told: Report these keys as sent when this one has gone out.

        Raises:
            ValueError: the keypad has no such key.
        """
        self.send(self.keypad.press(key), partial(self._sent, told) if told else None)

    def _sent(self, keys: str, at_ns: int) -> None:
        self.seen.add(KeysSent(at_ns, self.name, keys))

    def power_on(self) -> None:
        """A keypad remembers nothing that a loss of power could take."""

    def unasked(self) -> bytes:
        """A key."""
        return b"0"

    def receive(self, data: bytes) -> None:
        """Show the signals that the host sent."""
        now_ns = time.monotonic_ns()
        for signal in self.keypad.receive(data, now_ns):
            self.seen.add(Lamp(now_ns, self.name, signal))
