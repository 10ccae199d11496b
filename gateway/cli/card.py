"""`door-gateway card`: what the bits of a card mean, and which bits a card has."""

import argparse
import sys

from gateway.cli import EXIT_COULD_NOT, EXIT_NO, EXIT_OK, Command
from gateway.cli.common import add_json, print_json
from gateway.domain.card_format import BITS_MAX, FORMATS, bare_value, decode, encode

_DESCRIPTION = """\
Show an installer what a Wiegand or OSDP reader sent (`decode`), or what it would send (`encode`).
Formats are named as Proxmark3 names them; `formats` lists them. Nothing is asked of the gateway."""

_EXAMPLE = """\
example:
  door-gateway card decode 10111101100010001110101110
  door-gateway card encode H10301 --facility 123 --number 4567
  door-gateway card formats"""

_DECODE = """\
Print every format that fits the bits by length and parity: its facility code, its number, and the
value of the `wiegand` credential record that would match. Exits 1 when none fits, 2 when BITS are
no bits. Several may fit: enable in site.toml only those that your cards have."""

_DECODE_EXAMPLE = """\
example:
  door-gateway card decode --json 10111101100010001110101110
    [{"format":"H10301","facility":123,"number":4567,"value":"H10301:123:4567"},
     {"format":"ind26","facility":1969,"number":471,"value":"ind26:1969:471"}]"""

_ENCODE = "Print the bits that a reader sends for a card. Exits 2 when the format can't hold it."

_ENCODE_EXAMPLE = """\
example:
  door-gateway card encode H10302 --number 34567
  door-gateway card encode H10301 --facility 123 --number 4567 --json"""


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.description, parser.epilog = _DESCRIPTION, _EXAMPLE
    actions = parser.add_subparsers(title="actions", metavar="ACTION", dest="action", required=True)
    form = argparse.RawDescriptionHelpFormatter
    shown = actions.add_parser(
        "decode",
        help="which formats fit some bits, and the record value of each",
        description=_DECODE,
        epilog=_DECODE_EXAMPLE,
        formatter_class=form,
    )
    shown.add_argument("bits", metavar="BITS", help="a string of 0 and 1, first sent first")
    add_json(shown)
    made = actions.add_parser(
        "encode",
        help="the bits of a card",
        description=_ENCODE,
        epilog=_ENCODE_EXAMPLE,
        formatter_class=form,
    )
    made.add_argument("format", metavar="FORMAT", help="its name, such as H10301")
    made.add_argument("--facility", type=int, metavar="N", help="facility code, where it has one")
    made.add_argument("--number", type=int, required=True, metavar="N", help="card number")
    made.add_argument("--issue", type=int, default=0, metavar="N", help="issue level (0)")
    made.add_argument("--oem", type=int, metavar="N", help="OEM code (the format's usual one)")
    add_json(made)
    listed = actions.add_parser(
        "formats",
        help="every format: length, largest facility code and number, source",
        epilog="example:\n  door-gateway card formats --json",
        formatter_class=form,
    )
    add_json(listed)


def _run(options: argparse.Namespace) -> int:
    try:
        match options.action:
            case "decode":
                return _decode(options)
            case "encode":
                return _encode(options)
        return _formats(options)
    except ValueError as error:
        print(error, file=sys.stderr)
        return EXIT_COULD_NOT


def _decode(options: argparse.Namespace) -> int:
    cards = decode(options.bits)
    if options.json:
        print_json(
            [
                {
                    "format": card.format,
                    "facility": card.facility,
                    "number": card.number,
                    "value": card.value,
                }
                for card in cards
            ]
        )
    else:
        for card in cards:
            facility = "-" if card.facility is None else card.facility
            print(f"{card.format}\tfacility {facility}\tnumber {card.number}\t{card.value}")
        if not cards:
            length = len(options.bits)
            why = (
                f"longer than any card ({BITS_MAX})" if length > BITS_MAX else "in no known format"
            )
            print(f"{length} bits, {why}", file=sys.stderr)
    return EXIT_OK if cards else EXIT_NO


def _encode(options: argparse.Namespace) -> int:
    bits = encode(
        options.format, options.facility, options.number, issue=options.issue, oem=options.oem
    )
    if options.json:
        print_json(
            {
                "format": options.format,
                "facility": options.facility,
                "number": options.number,
                "value": bare_value(options.format, options.facility, options.number),
                "bits": bits,
            }
        )
    else:
        print(bits)
    return EXIT_OK


def _formats(options: argparse.Namespace) -> int:
    if options.json:
        print_json(
            [
                {
                    "format": each.name,
                    "title": each.title,
                    "bits": each.length,
                    "facility_max": each.facility_max,
                    "number_max": each.number_max,
                    "parity": bool(each.checks),
                    "source": each.source,
                    "note": each.note,
                }
                for each in FORMATS.values()
            ]
        )
        return EXIT_OK
    for each in FORMATS.values():
        facility = "-" if each.facility_max is None else each.facility_max
        parity = "parity" if each.checks else "no parity"
        numbers = f"facility to {facility}\tnumber to {each.number_max}"
        print(f"{each.name}\t{each.length} bits\t{numbers}\t{parity}\t{each.title}")
    return EXIT_OK


COMMAND = Command(_configure, _run)
