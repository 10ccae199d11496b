"""What Wiegand readers send, whatever brings it here: bits to cards, bursts to keys."""

from collections.abc import Iterable, Iterator, Sequence
from datetime import timedelta
from typing import Final, Literal, NamedTuple

import structlog

from gateway.domain.card_format import (
    BITS_MAX,
    FORMATS,
    RAW_BITS_MIN,
    CardFormat,
    decode,
    raw_value,
)
from gateway.domain.facts import CredentialPresented
from gateway.drivers.pin_entry import PinEntry

log = structlog.get_logger()

Keypad = Literal["none", "4bit", "8bit"]

KEYS: Final = b"0123456789*#"
"""The key of each code 0 to 11 (Camden CV-550SPK manual, 4.1.28.5; CDVI Galeo manual, 11)."""

REFUSALS_TOLD: Final = timedelta(minutes=1)
"""How often the log says how many frames were refused: a flood must not fill it."""


def format_faults(formats: Sequence[str]) -> Iterator[str]:
    """What is wrong with a list of enabled formats, as `refuse` takes it."""
    if not formats:
        yield "`formats` must name the formats of your cards, such as H10301"
    for name in formats:
        if name not in FORMATS:
            yield (
                f"`formats` names {name!r}, which is not one of {', '.join(FORMATS)} "
                "(door-gateway card formats)"
            )


def key_of(bits: str, keypad: Keypad) -> int | None:
    """The key that a burst stands for, as ASCII; None if it is none.

    A burst of 8 bits is the code's complement and the code, so noise is seen.
    """
    if keypad == "none" or len(bits) != int(keypad[0]):
        return None
    code = int(bits[-4:], 2)
    if keypad == "8bit" and int(bits[:4], 2) != code ^ 0xF:
        return None
    return KEYS[code] if code < len(KEYS) else None


class WiegandReader:
    """Whole frames in, credentials out: cards of the enabled formats, and PINs.

    A frame that several enabled formats fit is a card of the first. One whose length is that of no
    enabled format is a card too, of format RAW and its length, with all its bits as the number: it
    is denied like any unknown card, and an installer sees which length a site's cards have. One of
    an enabled length that no format fits was garbled on the wire, and is nothing.
    """

    def __init__(
        self,
        device_id: str,
        formats: Sequence[str],
        keypad: Keypad,
        inter_digit_timeout: timedelta,
    ) -> None:
        self.device_id = device_id
        self._formats: tuple[CardFormat, ...] = tuple(FORMATS[name] for name in formats)
        self._keypad = keypad
        self.pin = PinEntry(device_id, inter_digit_timeout)
        self.refused = 0
        """Frames that were no credential, since they were last told."""
        self._told_at: timedelta | None = None

    @property
    def lengths(self) -> frozenset[int]:
        """The lengths of the enabled formats."""
        return frozenset(each.length for each in self._formats)

    def frame(
        self, bits: str, at: timedelta, began: timedelta | None = None
    ) -> list[CredentialPresented]:
        """Take a whole frame, from its first bit to its last; return what was presented with it."""
        key = key_of(bits, self._keypad)
        if key is not None:
            return self.pin.receive([key], at)
        if len(bits) in self.lengths:
            cards = decode(bits, self._formats)
            if cards:
                return [self._card(cards[0].value, at, began)]
        elif RAW_BITS_MIN <= len(bits) <= BITS_MAX:
            log.info("card of no enabled format", device=self.device_id, bits=len(bits))
            return [self._card(raw_value(bits), at, began)]
        self.refused += 1
        return []

    def _card(self, value: str, at: timedelta, began: timedelta | None) -> CredentialPresented:
        return CredentialPresented(self.device_id, "wiegand", value, at, began=began)

    def spoilt(self, frames: int = 1) -> None:
        """Frames were lost or garbled on the way here."""
        self.refused += frames

    def tell_refusals(self, now: timedelta) -> None:
        """Say in the log how many frames were refused; a line a minute at most."""
        due = self._told_at is None or now - self._told_at >= REFUSALS_TOLD
        if self.refused and due:
            log.warning("frames refused", device=self.device_id, count=self.refused)
            self.refused, self._told_at = 0, now


class Edge:
    """A falling edge of a data line: the bit, when, and its number among all edges."""

    __slots__ = ("at_ns", "bit", "number")

    def __init__(self, bit: int, at_ns: int, number: int) -> None:
        self.bit = bit
        self.at_ns = at_ns
        self.number = number


GAP_NS: Final = 25_000_000
"""Bits of one frame are at most 20 ms apart; a silence of 25 ms ends it."""

EDGE_NS_MIN: Final = 100_000
"""Two bits are at least 200 us apart: nearer edges are noise or both lines at once."""

SETTLE_SHARE: Final = 2
SETTLE_NS_MIN: Final = 500_000
"""A frame of an enabled length is whole when twice its longest pause has passed without a bit."""


class Frame(NamedTuple):
    """The bits between two silences, and when the first and the last of them came."""

    bits: str
    began_ns: int
    at_ns: int


class EdgeProtocol:
    """Edges in, whole frames out. Time is that of the edges; `expire` is told the clock's."""

    def __init__(self, lengths: Iterable[int], *, at_once: bool = False) -> None:
        self._lengths = frozenset(lengths)
        self._longest = max(self._lengths)
        self._at_once = at_once
        self._bits: list[str] = []
        self._began_ns = 0
        self._last: Edge | None = None
        self._number: int | None = None
        self._pause_ns = 0
        self._spoilt = False
        self.lost = 0
        """Frames that were thrown away."""

    @property
    def due_ns(self) -> int | None:
        """When `expire` has something to do, on the edges' clock; None if nothing is pending."""
        if self._last is None or not (self._bits or self._spoilt):
            return None
        return self._last.at_ns + self._silence_ns()

    def edge(self, edge: Edge) -> list[Frame]:
        """Take one edge; return the frames that it ends."""
        frames = self.expire(edge.at_ns)
        missing = self._number is not None and edge.number != self._number + 1
        self._number = edge.number
        last, self._last = self._last, edge
        if missing:
            # Edges were lost between these two, and nobody knows of which frame.
            self._spoilt = True
        if self._bits and last is not None:
            pause_ns = edge.at_ns - last.at_ns
            self._spoilt |= pause_ns < EDGE_NS_MIN
            self._pause_ns = max(self._pause_ns, pause_ns)
        if not self._bits:
            self._began_ns = edge.at_ns
        self._bits.append(str(edge.bit))
        if len(self._bits) > BITS_MAX:
            self._spoilt = True
            self._bits[:] = ["0"]
        if self._at_once and not self._spoilt and len(self._bits) == self._longest:
            frames.append(self._end())
        return frames

    def expire(self, now_ns: int) -> list[Frame]:
        """Return the frame that silence has ended by `now_ns`, if any."""
        due_ns = self.due_ns
        if due_ns is None or now_ns < due_ns:
            return []
        if self._spoilt:
            self.lost += 1
            self.forget()
            return []
        return [self._end()]

    def forget(self) -> None:
        """Throw away what has come of a frame."""
        self._bits.clear()
        self._pause_ns = 0
        self._spoilt = False

    def _silence_ns(self) -> int:
        if self._spoilt or len(self._bits) not in self._lengths:
            return GAP_NS
        return min(GAP_NS, max(SETTLE_NS_MIN, SETTLE_SHARE * self._pause_ns))

    def _end(self) -> Frame:
        last_ns = self._began_ns if self._last is None else self._last.at_ns
        frame = Frame("".join(self._bits), self._began_ns, last_ns)
        self.forget()
        return frame
