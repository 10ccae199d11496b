"""Keys in, entered PINs out: what every keypad has in common."""

from collections.abc import Iterable, Iterator
from datetime import timedelta
from typing import Final

from gateway.domain.facts import CredentialPresented

ENTER: Final = ord("#")
CLEAR: Final = ord("*")
DIGITS: Final = frozenset(b"0123456789")

PIN_DIGITS_MIN: Final = 4
PIN_DIGITS_MAX: Final = 8
"""What a PIN may be (docs/spec/entitlements.md); other entries are thrown away whole."""

INTER_DIGIT_TIMEOUT_S_MIN: Final = 1.0
INTER_DIGIT_TIMEOUT_S_MAX: Final = 30.0
"""Below, slow fingers lose their entry; above, the next person continues the last one's."""


def inter_digit_timeout_faults(seconds: float) -> Iterator[str]:
    """What is wrong with an inter-digit timeout, as `refuse` takes it."""
    if not INTER_DIGIT_TIMEOUT_S_MIN <= seconds <= INTER_DIGIT_TIMEOUT_S_MAX:
        yield (
            f"`inter_digit_timeout_s` must be {INTER_DIGIT_TIMEOUT_S_MIN:g} to "
            f"{INTER_DIGIT_TIMEOUT_S_MAX:g}"
        )


class PinEntry:
    """Keys in, as ASCII bytes; PINs out. An entry is everything from one `#` or `*` to the next."""

    def __init__(self, device_id: str, inter_digit_timeout: timedelta) -> None:
        self.device_id = device_id
        self._timeout = inter_digit_timeout
        self._digits = bytearray()
        self._spoilt = False
        self._last = timedelta()
        self._refused = False

    @property
    def pending(self) -> bool:
        """Whether an entry has been begun and not ended."""
        return bool(self._digits) or self._spoilt

    def receive(self, data: Iterable[int], now: timedelta) -> list[CredentialPresented]:
        """Take the keys that came at `now` (monotonic); return the PINs that they completed."""
        facts = []
        for byte in data:
            self.expire(now)
            self._last = now
            if byte == ENTER:
                if not self._spoilt and len(self._digits) >= PIN_DIGITS_MIN:
                    facts.append(
                        CredentialPresented(self.device_id, "pin", self._digits.decode(), now)
                    )
                elif self.pending:
                    self._refused = True
                self.forget()
            elif byte == CLEAR:
                self.forget()
            elif byte in DIGITS and len(self._digits) < PIN_DIGITS_MAX and not self._spoilt:
                self._digits.append(byte)
            else:
                self.forget()
                self._spoilt = True
        return facts

    def take_refused(self) -> bool:
        """Whether an entry that can't be a PIN was entered since this was last asked."""
        refused, self._refused = self._refused, False
        return refused

    def expire(self, now: timedelta) -> None:
        """Throw an entry away that was left for longer than the inter-digit timeout."""
        if self.pending and now - self._last >= self._timeout:
            self.forget()

    def forget(self) -> None:
        """Throw the entry away, its digits out of memory as well."""
        self._digits[:] = bytes(len(self._digits))
        self._digits.clear()
        self._spoilt = False
