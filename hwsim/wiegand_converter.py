"""A Wiegand to RS-232 converter with a reader at it: Priority 1 Design's WIE232-A, or S4A's.

Sources: priority1design.com.au/wiegand_to_rs232_converter.html ("checking for parity and bit
length … XXYYZZ<crn>", 9600 baud, 8 data bits, no parity, 1 stop bit); S4A "Ethernet WIEGAND
Bidirectional converter Manual", 3.2 and 3.3 (ten decimal digits, 0D 0A; 4 and 8 bits as keys; 26
and 34 bits as cards).
"""

from functools import partial
from pathlib import Path

from hwsim.observations import CardBitsSent, KeysSent, Observations
from hwsim.serial_device import SerialDevice

KEYS = "0123456789*#"


def has_parity(bits: str) -> bool:
    """Even parity in front over the first half, odd parity behind over the second."""
    half = len(bits) // 2
    return bits[:half].count("1") % 2 == 0 and bits[half:].count("1") % 2 == 1


class WiegandConverter(SerialDevice):
    """A converter on a serial line."""

    def __init__(
        self, name: str, path: Path, seen: Observations, *, kind: str, key_bits: int = 4
    ) -> None:
        """Open nothing yet; `seen` gets `CardBitsSent` and `KeysSent`."""
        super().__init__(name, path, seen)
        self._kind = kind
        self._key_bits = key_bits

    def card(self, bits: str) -> None:
        """Hold a card of these bits to the reader; one that it can't convert it drops."""
        lengths = {26} if self._kind == "wie232" else {26, 34}
        if len(bits) not in lengths or not has_parity(bits):
            return
        inner = int(bits[1:-1], 2)
        text = f"{inner:06X}\r" if self._kind == "wie232" else f"{inner:010d}\r\n"
        self.send(text.encode("ascii"), partial(self._card_sent, len(bits)))

    def press(self, key: str, told: str = "") -> None:
        """Press one key of the reader's keypad; a WIE232-A passes none on.

        Raises:
            ValueError: there is no such key.
        """
        code = KEYS.index(key)
        if self._kind == "s4a":
            sent = bytes([(code ^ 0xF) << 4 | code]) if self._key_bits == 8 else b"%X" % code
            self.send(sent, partial(self._keys_sent, told) if told else None)

    def _card_sent(self, size: int, at_ns: int) -> None:
        self.seen.add(CardBitsSent(at_ns, self.name, size))

    def _keys_sent(self, keys: str, at_ns: int) -> None:
        self.seen.add(KeysSent(at_ns, self.name, keys))

    def power_on(self) -> None:
        """It remembers nothing."""

    def unasked(self) -> bytes:
        """A card."""
        return b"ABCDEF\r" if self._kind == "wie232" else b"0123456789\r\n"

    def receive(self, data: bytes) -> None:
        """It takes no commands."""
