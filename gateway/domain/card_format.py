"""How card numbers stand in the bits that Wiegand and OSDP readers send: every format, as data.

Positions count from 0, in the order in which a reader sends the bits. The names and layouts are
facts from Proxmark3's format table (client/src/wiegand_formats.c at 1c8c3b78, 2026-08-23), whose
own sources are named a row; a row's `note` says where we read it otherwise. The file is not quoted.

A record's value holds facility and number only (docs/spec/entitlements.md). A format's issue level
and OEM code are read and not compared: a card and its reissue under one number are one credential.
"""

from collections.abc import Iterable, Mapping
from typing import Final, Literal

import msgspec

__all__ = [
    "BITS_MAX",
    "FORMATS",
    "RAW_BITS_MIN",
    "Card",
    "CardFormat",
    "Check",
    "bare_value",
    "decode",
    "encode",
    "raw_value",
]

BITS_MAX: Final = 96
"""Longer than any format in use; what sends more is noise, not a card."""
RAW_BITS_MIN: Final = 24
"""What is shorter, and no key, is a piece of a frame: nobody makes such cards."""

Positions = tuple[int, ...]


class Check(msgspec.Struct, frozen=True):
    """The bit at `at` makes the number of ones among it and `over` even or odd."""

    at: int
    kind: Literal["even", "odd"]
    over: Positions


class CardFormat(msgspec.Struct, frozen=True, kw_only=True):
    """One format: where its fields and checks are. A field's first position is its highest bit."""

    name: str
    title: str
    length: int
    number: Positions
    facility: Positions = ()
    issue: Positions = ()
    oem: Positions = ()
    oem_usual: int = 0
    checks: tuple[Check, ...] = ()
    fixed: Mapping[int, int] = {}
    bcd: bool = False
    """The number is decimal digits of four bits each."""
    source: str
    note: str = ""

    @property
    def guarded(self) -> frozenset[int]:
        """The positions of which no single one can flip unnoticed."""
        checked = {at for check in self.checks for at in (check.at, *check.over)}
        return frozenset(checked | self.fixed.keys())

    @property
    def number_max(self) -> int:
        """The largest card number."""
        digits = len(self.number)
        return int("9" * (digits // 4)) if self.bcd else (1 << digits) - 1

    @property
    def facility_max(self) -> int | None:
        """The largest facility code; None where the format has none."""
        return (1 << len(self.facility)) - 1 if self.facility else None


class Card(msgspec.Struct, frozen=True):
    """What a format reads in some bits."""

    format: str
    facility: int | None
    number: int
    issue: int | None = None
    oem: int | None = None

    @property
    def value(self) -> str:
        """The value of the `wiegand` credential record that matches."""
        return bare_value(self.format, self.facility, self.number)

    def __repr__(self) -> str:
        """Without the numbers: a credential is never printed."""
        return f"Card(format={self.format!r})"


def bare_value(name: str, facility: int | None, number: int) -> str:
    """`FORMAT:FACILITY:NUMBER`, as docs/spec/entitlements.md has it."""
    return f"{name}:{'-' if facility is None else facility}:{number}"


def raw_value(bits: str) -> str:
    """The value of a card that no enabled format fits: `RAW` and its length, all bits a number."""
    return bare_value(f"RAW{len(bits)}", None, int(bits, 2))


def decode(bits: str, formats: Iterable[CardFormat] | None = None) -> tuple[Card, ...]:
    """Every format that fits `bits` (0 and 1, first sent first) by length, fixed bits and checks.

    Args:
        bits: What the reader sent.
        formats: The formats to try; all of them if not given.

    Raises:
        ValueError: `bits` are not bits, without saying which they are.
    """
    if not bits or bits.strip("01"):
        raise ValueError("card bits must be a string of 0 and 1")
    every = FORMATS.values() if formats is None else formats
    cards = (_read(bits, each) for each in every if each.length == len(bits))
    return tuple(card for card in cards if card is not None)


def encode(
    name: str, facility: int | None, number: int, *, issue: int = 0, oem: int | None = None
) -> str:
    """The bits that a reader sends for a card of format `name`.

    Raises:
        ValueError: there is no such format, or it can't hold these.
    """
    if name not in FORMATS:
        raise ValueError(f"no format {name!r}; there are: {', '.join(FORMATS)}")
    layout = FORMATS[name]
    if (facility is None) != (not layout.facility):
        what = "needs a" if layout.facility else "has no"
        raise ValueError(f"{name} {what} facility code")
    if not 0 <= number <= layout.number_max:
        raise ValueError(f"{name} has card numbers 0 to {layout.number_max}")
    bits = ["0"] * layout.length
    for at, always in layout.fixed.items():
        bits[at] = str(always)
    if layout.bcd:
        number = int(str(number), 16)
    for what, field, value in (
        ("facility codes", layout.facility, facility or 0),
        ("card numbers", layout.number, number),
        ("issue levels", layout.issue, issue),
        ("OEM codes", layout.oem, layout.oem_usual if oem is None else oem),
    ):
        if not 0 <= value < 1 << len(field):
            raise ValueError(f"{name} has {what} 0 to {(1 << len(field)) - 1}")
        for at, bit in zip(field, f"{value:0{len(field)}b}", strict=bool(field)):
            bits[at] = bit
    if any(bits[at] != str(always) for at, always in layout.fixed.items()):
        raise ValueError(f"{name}: {layout.note}")
    for check in layout.checks:
        ones = sum(bits[at] == "1" for at in check.over)
        bits[check.at] = str((ones + (check.kind == "odd")) % 2)
    return "".join(bits)


def _read(bits: str, layout: CardFormat) -> Card | None:
    if any(bits[at] != str(bit) for at, bit in layout.fixed.items()):
        return None
    for check in layout.checks:
        ones = (bits[check.at] == "1") + sum(bits[at] == "1" for at in check.over)
        if ones % 2 != (check.kind == "odd"):
            return None
    number = _field(bits, layout.number)
    if number is None:
        return None
    if layout.bcd:
        digits = f"{number:x}"
        if not digits.isdecimal():
            return None
        number = int(digits)
    return Card(
        layout.name,
        _field(bits, layout.facility),
        number,
        _field(bits, layout.issue),
        _field(bits, layout.oem),
    )


def _field(bits: str, positions: Positions) -> int | None:
    return int("".join(bits[at] for at in positions), 2) if positions else None


# --- The table ------------------------------------------------------------------------------------


def _run(first: int, count: int) -> Positions:
    return tuple(range(first, first + count))


def _but_every_third(first: int, last: int, left_out: int) -> Positions:
    """From `first` to `last` without the positions that leave `left_out` when divided by 3."""
    return tuple(at for at in range(first, last + 1) if at % 3 != left_out)


def _even(at: int, over: Positions) -> Check:
    return Check(at, "even", over)


def _odd(at: int, over: Positions) -> Check:
    return Check(at, "odd", over)


def _halves(length: int, each: int) -> tuple[Check, ...]:
    """Even parity in front over the first `each` bits, odd parity behind over the last `each`."""
    return (
        _even(0, _run(1, each)),
        _odd(length - 1, _run(length - 1 - each, each)),
    )


_BARKWEB: Final = "cardinfo.barkweb.com.au, by way of Proxmark3"
_FORUM: Final = "Proxmark forums, by way of Proxmark3"
_PM3: Final = "Proxmark3"

_TABLE: Final = (
    CardFormat(
        name="H10301",
        title="HID H10301, the open 26-bit format",
        length=26,
        facility=_run(1, 8),
        number=_run(9, 16),
        checks=_halves(26, 12),
        source=_PM3 + "; HID, Understanding Card Data Formats",
    ),
    CardFormat(
        name="ind26",
        title="Indala 26 bit",
        length=26,
        facility=_run(1, 12),
        number=_run(13, 12),
        checks=_halves(26, 12),
        source=_BARKWEB,
    ),
    CardFormat(
        name="ind27",
        title="Indala 27 bit",
        length=27,
        facility=_run(0, 13),
        number=_run(13, 14),
        source=_BARKWEB,
    ),
    CardFormat(
        name="indasc27",
        title="Indala ASC 27 bit",
        length=27,
        facility=(9, 4, 6, 5, 0, 7, 19, 8, 10, 16, 24, 12, 22),
        number=(26, 1, 3, 15, 14, 17, 20, 13, 25, 2, 18, 21, 11, 23),
        source=_BARKWEB,
        note="Proxmark3 lists these 13 positions of the facility code and uses 11 of them",
    ),
    CardFormat(
        name="Tecom27",
        title="Tecom 27 bit",
        length=27,
        facility=(15, 19, 24, 23, 22, 18, 6, 10, 14, 3, 2),
        number=(0, 1, 13, 12, 9, 26, 20, 16, 17, 21, 25, 7, 8, 11, 4, 5),
        source=_BARKWEB,
    ),
    CardFormat(
        name="2804W",
        title="2804 Wiegand 28 bit",
        length=28,
        facility=_run(4, 8),
        number=_run(12, 15),
        # In this order: the first is covered by the second, both by the third.
        checks=(
            _odd(2, _but_every_third(4, 26, 0)),
            _even(0, _run(1, 13)),
            _odd(27, _run(0, 27)),
        ),
        source=_BARKWEB,
    ),
    CardFormat(
        name="ind29",
        title="Indala 29 bit",
        length=29,
        facility=_run(0, 13),
        number=_run(13, 16),
        source=_BARKWEB,
    ),
    CardFormat(
        name="ATSW30",
        title="ATS Wiegand 30 bit",
        length=30,
        facility=_run(1, 12),
        number=_run(13, 16),
        checks=(_even(0, _run(1, 12)), _odd(29, _run(13, 16))),
        source=_BARKWEB,
    ),
    CardFormat(
        name="ADT31",
        title="HID ADT 31 bit",
        length=31,
        facility=_run(1, 4),
        number=_run(5, 23),
        source=_BARKWEB,
        note="its parity is not known",
    ),
    CardFormat(
        name="HCP32",
        title="HID Check Point 32 bit",
        length=32,
        number=_run(1, 24),
        source=_BARKWEB,
    ),
    CardFormat(
        name="HPP32",
        title="HID Hewlett-Packard 32 bit",
        length=32,
        facility=_run(1, 12),
        number=_run(13, 19),
        source=_BARKWEB,
        note="Proxmark3 gives the number 29 bits, of which only 19 fit into the frame",
    ),
    CardFormat(
        name="Kastle",
        title="Kastle 32 bit",
        length=32,
        issue=_run(2, 5),
        facility=_run(7, 8),
        number=_run(15, 16),
        fixed={1: 1},
        checks=(_even(0, _run(1, 16)), _odd(31, _run(14, 17))),
        source="xilni, pull request 23 of Proxmark3",
    ),
    CardFormat(
        name="Kantech",
        title="Indala and Kantech KFS 32 bit",
        length=32,
        facility=_run(7, 8),
        number=_run(15, 16),
        source=_BARKWEB,
    ),
    CardFormat(
        name="WIE32",
        title="Wiegand 32 bit",
        length=32,
        facility=_run(4, 12),
        number=_run(16, 16),
        source=_BARKWEB,
    ),
    CardFormat(
        name="D10202",
        title="HID D10202 33 bit",
        length=33,
        facility=_run(1, 7),
        number=_run(8, 24),
        checks=_halves(33, 16),
        source=_BARKWEB,
    ),
    CardFormat(
        name="H10306",
        title="HID H10306 34 bit",
        length=34,
        facility=_run(1, 16),
        number=_run(17, 16),
        checks=_halves(34, 16),
        source=_PM3,
    ),
    CardFormat(
        name="N10002",
        title="Honeywell and Northern N10002 34 bit",
        length=34,
        facility=_run(1, 16),
        number=_run(17, 16),
        checks=_halves(34, 16),
        source="proxclone.com, by way of Proxmark3",
        note="on the wire the same as H10306",
    ),
    CardFormat(
        name="Optus34",
        title="Indala Optus 34 bit",
        length=34,
        number=_run(1, 16),
        facility=_run(22, 11),
        source=_BARKWEB,
    ),
    CardFormat(
        name="SMP34",
        title="Cardkey Smartpass 34 bit",
        length=34,
        facility=_run(1, 13),
        issue=_run(14, 3),
        number=_run(17, 16),
        source=_BARKWEB,
    ),
    CardFormat(
        name="BQT34",
        title="BQT 34 bit",
        length=34,
        facility=_run(1, 8),
        number=_run(9, 24),
        checks=_halves(34, 16),
        source=_BARKWEB,
    ),
    CardFormat(
        name="C1k35s",
        title="HID Corporate 1000, 35 bit",
        length=35,
        facility=_run(2, 12),
        number=_run(14, 20),
        # In this order: the last covers the other two.
        checks=(
            _even(1, _but_every_third(2, 33, 1)),
            _odd(34, _but_every_third(1, 32, 0)),
            _odd(0, _run(1, 34)),
        ),
        source=_PM3,
    ),
    CardFormat(
        name="C15001",
        title="HID C15001, KeyScan 36 bit",
        length=36,
        oem=_run(1, 10),
        oem_usual=900,
        facility=_run(11, 8),
        number=_run(19, 16),
        checks=_halves(36, 17),
        source=_FORUM,
    ),
    CardFormat(
        name="S12906",
        title="HID Simplex 36 bit",
        length=36,
        facility=_run(1, 8),
        issue=_run(9, 2),
        number=_run(11, 24),
        checks=(_odd(0, _run(1, 17)), _odd(35, _run(17, 18))),
        source=_BARKWEB,
    ),
    CardFormat(
        name="S12906b",
        title="HID Simplex Grinnell 36 bit",
        length=36,
        facility=_run(1, 8),
        number=_run(11, 24),
        fixed=dict(zip(_run(1, 8), (1, 1, 0, 1, 1, 0, 0, 1), strict=True)),
        checks=(
            _odd(0, (1, 2, 4, 5, 7, 8, *_but_every_third(12, 34, 2))),
            _even(9, (2, 3, 5, 6, 8, 11, *_but_every_third(13, 35, 0))),
            _even(10, (1, 3, 4, 6, 7, 11, *_but_every_third(12, 35, 1))),
        ),
        source="digitalfx, by way of Proxmark3",
        note="its facility code is always 217",
    ),
    CardFormat(
        name="Sie36",
        title="HID Siemens 36 bit",
        length=36,
        facility=_run(1, 18),
        number=_run(19, 16),
        checks=(_odd(0, _but_every_third(1, 34, 2)), _even(35, _but_every_third(1, 34, 0))),
        source=_BARKWEB,
    ),
    CardFormat(
        name="H10320",
        title="HID H10320, 37 bit, decimal digits",
        length=37,
        number=_run(0, 32),
        bcd=True,
        checks=(
            _even(32, (0, 4, 8, 12, 16, 20, 24, 28)),
            _odd(33, (1, 5, 9, 13, 17, 21, 25, 29)),
            _even(34, (2, 6, 10, 14, 18, 22, 28, 30)),
            _even(35, (3, 7, 11, 15, 19, 23, 29, 31)),
        ),
        source=_FORUM,
        note="as Proxmark3 encodes it, whose own decoder takes only numbers that begin with 8 or 9",
    ),
    CardFormat(
        name="H10302",
        title="HID H10302, 37 bit without facility code",
        length=37,
        number=_run(1, 35),
        checks=_halves(37, 18),
        source=_FORUM,
    ),
    CardFormat(
        name="H10304",
        title="HID H10304, 37 bit with facility code",
        length=37,
        facility=_run(1, 16),
        number=_run(17, 19),
        checks=_halves(37, 18),
        source=_BARKWEB + "; Open Options, 37 Bit Card Format (ooaccess.com/kb/37-bit-fc)",
    ),
    CardFormat(
        name="P10004",
        title="HID P10004, PCSC 37 bit",
        length=37,
        facility=_run(1, 13),
        number=_run(14, 18),
        source="bthedorff, pull request 1559 of Proxmark3",
        note="its parity is not known",
    ),
    CardFormat(
        name="HGen37",
        title="HID Generic 37 bit",
        length=37,
        number=_run(4, 32),
        fixed={36: 1},
        checks=(
            _even(0, (4, 8, 12, 16, 20, 24, 28, 32)),
            _odd(2, (6, 10, 14, 18, 22, 26, 30, 34)),
            _even(3, (7, 11, 15, 19, 23, 27, 31, 35)),
        ),
        source=_BARKWEB,
        note="Proxmark3's decoder has 28 for 26 in the second check; this is as it encodes",
    ),
    CardFormat(
        name="MDI37",
        title="PointGuard MDI 37 bit",
        length=37,
        facility=_run(3, 4),
        number=_run(7, 29),
        checks=_halves(37, 18),
        source=_BARKWEB,
    ),
    CardFormat(
        name="BQT38",
        title="BQT 38 bit",
        length=38,
        number=_run(1, 19),
        issue=_run(20, 4),
        facility=_run(24, 13),
        checks=_halves(38, 18),
        source=_BARKWEB,
    ),
    CardFormat(
        name="ISCS",
        title="ISCS 38 bit",
        length=38,
        oem=_run(1, 4),
        facility=_run(5, 10),
        number=_run(15, 22),
        checks=_halves(38, 18),
        source=_BARKWEB,
    ),
    CardFormat(
        name="PW39",
        title="Pyramid 39 bit",
        length=39,
        facility=_run(1, 17),
        number=_run(18, 20),
        checks=(_even(0, _run(1, 18)), _odd(38, _run(19, 19))),
        source=_BARKWEB,
    ),
    CardFormat(
        name="P10001",
        title="HID P10001, Honeywell 40 bit",
        length=40,
        facility=_run(4, 12),
        number=_run(16, 16),
        fixed={0: 1, 1: 1, 2: 1, 3: 1},
        # The last byte is the exclusive or of the four before it.
        checks=tuple(_even(32 + bit, (bit, 8 + bit, 16 + bit, 24 + bit)) for bit in range(8)),
        source=_BARKWEB,
    ),
    CardFormat(
        name="Casi40",
        title="Casi-Rusco 40 bit",
        length=40,
        number=_run(1, 38),
        source=_BARKWEB,
    ),
    CardFormat(
        name="Verkada40",
        title="Verkada 40 bit",
        length=40,
        facility=_run(1, 10),
        number=_run(11, 28),
        checks=(_even(0, _run(1, 10)), _even(39, _run(11, 28))),
        source=_PM3,
    ),
    CardFormat(
        name="BC40",
        title="Bundy TimeClock 40 bit",
        length=40,
        oem=_run(0, 7),
        facility=_run(7, 12),
        number=_run(19, 19),
        checks=(_odd(39, _run(19, 19)),),
        source=_PM3,
    ),
    CardFormat(
        name="Defcon32",
        title="DEF CON 32 contest badge, 42 bit",
        length=42,
        facility=_run(1, 16),
        issue=_run(17, 4),
        number=_run(21, 20),
        checks=(_even(0, tuple(range(2, 21, 2))), _odd(41, tuple(range(21, 40, 2)))),
        source="micsen, by way of Proxmark3",
    ),
    CardFormat(
        name="H800002",
        title="HID H800002 46 bit",
        length=46,
        facility=_run(1, 14),
        number=_run(15, 30),
        checks=(_even(0, _run(1, 44)), _odd(45, _run(1, 44))),
        source=_PM3,
    ),
    CardFormat(
        name="C1k48s",
        title="HID Corporate 1000, 48 bit",
        length=48,
        facility=_run(2, 22),
        number=_run(24, 23),
        # In this order: the last covers the other two.
        checks=(
            _even(1, _but_every_third(3, 46, 2)),
            _odd(47, _but_every_third(2, 45, 1)),
            _odd(0, _run(1, 47)),
        ),
        source=_PM3,
    ),
    CardFormat(
        name="Avig56",
        title="Avigilon 56 bit",
        length=56,
        facility=_run(1, 20),
        number=_run(21, 34),
        checks=_halves(56, 27),
        source=_PM3,
    ),
    CardFormat(
        name="IR56",
        title="Inner Range 56 bit",
        length=56,
        facility=_run(0, 24),
        number=_run(24, 32),
        source=_PM3,
    ),
)

FORMATS: Final[Mapping[str, CardFormat]] = {each.name: each for each in _TABLE}
"""Every format by its name, which is Proxmark3's."""
