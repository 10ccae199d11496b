"""P26: the slowest answer to hostile input of the greatest length, for each parser on the loops.

`ON_THE_LOOP` names every parser that meets bytes from outside on the doors' loop (or the link's).
`ELSEWHERE` says of every other module with a decoder in it why no hostile byte costs a door time.
A module with a decoder in neither fails the test: whoever adds one says which it is.
"""

import re
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import cbor2
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

import gateway
from gateway.domain.carried_grant import PREFIX, proven_value
from gateway.drivers.barcode_scanner import BarcodeScannerSettings, ScannerProtocol
from gateway.drivers.ble_link import BleLines
from gateway.drivers.ble_pkoc import ENCRYPTED, PHONE_EPHEMERAL_KEY, PkocConversation, field
from gateway.drivers.ble_proof import Challenge
from gateway.drivers.cards import tlv
from gateway.drivers.osdp import WorkerProtocol
from gateway.drivers.pin_entry import PinEntry
from gateway.drivers.pn532 import Pn532Protocol
from gateway.drivers.uhppote import MESSAGE_BYTES, BoardProtocol, missed_swipe
from gateway.drivers.wiegand_serial import ConverterProtocol, WiegandSerialSettings
from gateway.errors import GatewayError
from gateway.ipc.framing import Framing
from gateway.ipc.messages import SEALED_BYTES_MAX, decode_request
from gateway.link.acks import ACK_BYTES_MAX
from gateway.link.acks import open_ack as open_link_ack
from gateway.trust import beacon, commands, grants
from gateway.trust.beacon import Freshness, Whose
from gateway.trust.bundle import DOCUMENT_BYTES_MAX
from gateway.trust.cose import SIGN1_TAG
from gateway.trust.root import first_root, opened_document
from tests.timing import measured
from tests.trust.keyring import NOW, key, kid, message, root_document

LIMIT_S = 0.005
"""P26, in CPU time: a busy machine makes nothing slower here."""

SERIAL_READ_BYTES = 1024
"""What pyserial-asyncio-fast reads at a time."""

KEYS = first_root(root_document(), "LON")
WHOSE = Whose("LON", "gw-1")
GRANT_KEYS = KEYS.keys_of("grant")
HERE = "LON/gw-1"
SCANNER = BarcodeScannerSettings(port="/dev/null", suffix="\r")
CONVERTER = WiegandSerialSettings(port="/dev/null", converter="wie232", formats=("H10301",))


def take_beacon(data: bytes) -> None:
    freshness = Freshness(WHOSE, timedelta(minutes=15), timedelta())
    freshness.take(data, KEYS, (7, bytes(32)), NOW, timedelta())


def take_command(data: bytes) -> None:
    commands.open_command(data, KEYS, HERE, NOW, is_spent=lambda _cti: False, retained=False)


def take_code(data: bytes) -> None:
    grants.verify(data.decode("latin-1"), GRANT_KEYS, HERE)


def take_proven(data: bytes) -> None:
    grants.verify(proven_value(b"\x02" + bytes(32), data), GRANT_KEYS, HERE)


def take_proof(data: bytes) -> None:
    Challenge(b"g" * 16, b"d" * 16, timedelta(), b"n" * 32).receive(data, timedelta())


def take_frame(data: bytes) -> None:
    for body in Framing().feed(len(data).to_bytes(4, "big") + data):
        decode_request(body)


def take_ack(data: bytes) -> None:
    beacon.open_ack(data, KEYS, WHOSE)


def take_scan(data: bytes) -> None:
    ScannerProtocol("s", SCANNER).receive(data, timedelta())


def take_converted(data: bytes) -> None:
    ConverterProtocol("w", CONVERTER).receive(data, timedelta())


def take_nfc(data: bytes) -> None:
    Pn532Protocol("n").receive(data + b"\n")


PHONE = ec.derive_private_key(7, ec.SECP256R1()).public_key()
PHONE_POINT = PHONE.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
SITE_KEY = ec.derive_private_key(9, ec.SECP256R1())
BOARD = 405419896
GATT_BYTES_MAX = 512
"""A value of an attribute, by the Bluetooth Core Specification."""


def take_keys(data: bytes) -> None:
    list(PinEntry("k", timedelta(seconds=5)).receive(data, timedelta()))


def take_reply(data: bytes) -> None:
    """Any packet, and one with the head of this board's."""
    rest = data.ljust(MESSAGE_BYTES, b"\0")[8:MESSAGE_BYTES]
    for packet in (data, b"\x17\x20\0\0" + BOARD.to_bytes(4, "little") + rest):
        with suppress(GatewayError):
            BoardProtocol(BOARD).status_received(packet, timedelta())
        with suppress(ValueError):
            missed_swipe(packet)


def pkoc() -> PkocConversation:
    return PkocConversation(b"s" * 16, b"r" * 16, timedelta(), site_key=SITE_KEY, plain=True)


def take_pkoc(data: bytes) -> None:
    """Bytes that are none of the protocol's, and a whole key agreement with such after it."""
    pkoc().receive(data, timedelta())
    agreed = pkoc()
    agreed.receive(field(PHONE_EPHEMERAL_KEY, PHONE_POINT), timedelta())
    agreed.receive(field(ENCRYPTED, data[:200]), timedelta())


ON_THE_LOOP: dict[str, tuple[Callable[[bytes], object], int]] = {
    "a command": (take_command, commands.COMMAND_BYTES_MAX),
    "a beacon": (take_beacon, beacon.MESSAGE_BYTES_MAX),
    "an acknowledgement": (take_ack, beacon.MESSAGE_BYTES_MAX),
    "a code on paper": (take_code, 512),
    "a grant that a phone carries": (take_proven, grants.MESSAGE_BYTES_MAX),
    "a proof over BLE": (take_proof, 4096),
    "a document": (lambda data: opened_document(data, DOCUMENT_BYTES_MAX), DOCUMENT_BYTES_MAX),
    "a frame on the socket": (take_frame, SEALED_BYTES_MAX),
    "an acknowledgement at the link": (open_link_ack, ACK_BYTES_MAX),
    "a scanner's bytes": (take_scan, SERIAL_READ_BYTES),
    "a converter's bytes": (take_converted, SERIAL_READ_BYTES),
    "a line of an NFC reader's process": (take_nfc, 4096),
    "a line of a radio's process": (lambda data: BleLines("b").receive(data + b"\n"), 4096),
    "a line of an OSDP line's process": (
        lambda data: list(WorkerProtocol("o").receive(data + b"\n")), 4096
    ),
    "objects of a card": (tlv.values, 4096),
    "a keypad's keys": (take_keys, SERIAL_READ_BYTES),
    "a UHPPOTE board's reply": (take_reply, MESSAGE_BYTES),
    "a phone with PKOC over BLE": (take_pkoc, GATT_BYTES_MAX),
}  # fmt: skip

ELSEWHERE = {
    "cache": "our own files, read at the start or by the process that compiles",
    "journal": "our own files, in the journal's thread",
    "cli": "a command's own process",
    "cloud": "the signer's machine",
    "config": "the installer's file, at the start",
    "fleet": "central operations' own process; bounded in tests/fleet",
    "hub": "a process of its own",
    "control/card_lists.py": "records that were verified, in a thread",
    "decoding.py": "called by those named here",
    "domain/card_format.py": "at most 512 bits that a driver has counted",
    "domain/events.py": "our own journal",
    "domain/instants.py": "a member of records, in the process that compiles",
    "domain/json_text.py": "records, in the process that compiles",
    "domain/memory.py": "our own journal's state, at the start",
    "domain/record_faults.py": "records, in the process that compiles",
    "domain/record_forms.py": "records, in the process that compiles",
    "drivers/ble_worker.py": "a worker's own process",
    "drivers/cards/desfire.py": "a worker's own process",
    "drivers/cards/sun.py": "the scanner's line, 512 characters at most, above",
    "drivers/modbus_relay.py": "256 bytes of a board's answer, by pymodbus",
    "drivers/osdp_keys.py": "our own files",
    "drivers/osdp_worker.py": "a worker's own process",
    "drivers/pn532_worker.py": "a worker's own process",
    "drivers/serial_line.py": "the names of ports",
    "drivers/wiegand.py": "at most 128 bits that the reader has counted",
    "drivers/ble_reader.py": "the installer's settings",
    "link/announced.py": "the link's own file, at its start",
    "link/live.py": "our own events, from the core",
    "link/topics.py": "names that we send",
    "link/tls.py": "the installer's files",
    "logs.py": "our own lines",
    "processes/core.py": "the installer's files",
    "processes/delivery.py": "our own journal",
    "processes/standing.py": "the installer's files",
    "processes/sync.py": "in threads; a document above",
    "trust/claims.py": "our own signatures",
    "trust/keys.py": "the installer's files",
    "trust/making.py": "the signer's machine",
    "trust/gateway_message.py": "a gateway's reports and results, where bundles are published",
}
MEASURED = {
    "drivers/ble_link.py", "drivers/osdp.py", "drivers/pn532.py", "drivers/wiegand_serial.py",
    "ipc/messages.py", "link/acks.py", "trust/beacon.py", "trust/bundle.py", "trust/cbor.py",
    "trust/commands.py", "trust/cose.py", "trust/grants.py", "trust/root.py",
}  # fmt: skip
"""Modules whose parsers are in `ON_THE_LOOP`."""

_DECODES = re.compile(
    r"\b(?:decode_json|decode_msgpack|decode_with|parse1|parse_document|verify1|payload_as"
    r"|opened_document)\(|\bcbor2?\.(?:decode|loads?)\(|(?<!\.)\bdecode\(|\bjson\.loads?\("
    r"|\bzlib\.|\bbase64\.|\bre\.compile\(|\btomllib\.loads\(|\bx509\.load|\bload_pem"
    r"|\bunicodedata\.|\bDecimal\("
)


def padded(data: bytes, size: int) -> bytes:
    return (data * (size // len(data) + 1))[:size]


def tagged(tag: int, content: bytes) -> bytes:
    return cbor2.dumps(cbor2.CBORTag(tag, 0))[:-1] + content


def string(content: bytes, kind: int = 3) -> bytes:
    head = bytearray(cbor2.dumps(content))
    head[0] = head[0] & 31 | kind << 5
    return bytes(head)


def a_pattern(size: int) -> bytes:
    """A regular expression that takes CPython 4 ms a byte to compile."""
    parts, at = "(?i:[", 0
    while len(parts.encode()) < size - 12:
        parts += chr(0x21 + at * 7 % 60) + "-" + chr(0xFFFF - at % 50_000)
        at += 1
    return (parts + "])").encode()


def cbor_of(size: int) -> Iterator[bytes]:
    """Hostile CBOR of about this size, each family once."""
    yield padded(b"\x81", size)
    yield padded(b"\xa1\x01", size)
    yield padded(b"\x9f", size)
    yield padded(b"\xd2", size)
    yield b"\x9a" + size.to_bytes(4, "big") + padded(b"\xa0", size)
    yield b"\x9b" + b"\xff" * 8
    yield b"\xbb" + b"\xff" * 8
    yield b"\x5b" + b"\xff" * 8
    yield cbor2.dumps([[]] * (size // 2))
    yield cbor2.dumps([0] * min(size, 1_000))
    yield cbor2.dumps(dict.fromkeys(range(min(size // 4, 500)), 0), canonical=True)
    yield cbor2.dumps({n * (2**61 - 1): 0 for n in range(8)}, canonical=True)
    yield b"\xba" + (size // 2).to_bytes(4, "big") + padded(b"\x00\x00", size)
    yield string(padded(b"x", size - 5))
    yield string(padded(b"\xff", size - 5))
    yield string(padded(b"\xcc\x81", size - 5))
    for tag in (2, 3):
        yield tagged(tag, string(padded(b"\xff", size - 10), kind=2))
    for tag in (4, 5):
        yield tagged(tag, cbor2.dumps([20_000_000, 1]))
        yield tagged(tag, cbor2.dumps([1, 2 ** (8 * min(size, 2_000))]))
    for tag in (0, 1, 24, 28, 29, 30, 32, 36, 37, 100, 258, 260, 261, 1004, 43000):
        yield tagged(tag, string(padded(b"a@", size - 10)))
        yield tagged(tag, cbor2.dumps([1] * min(size - 10, 1_000)))
    yield tagged(35, string(a_pattern(min(size, 2_000))))
    yield tagged(35, string(padded(b"(a|b)*", size - 10)))


def signed(payload: bytes, size: int, name: str, protected: bytes | None = None) -> Iterator[bytes]:
    """A payload where a message has it, and in each other place; no key has signed them."""
    header = cbor2.dumps({1: -8, 4: kid(name)}, canonical=True) if protected is None else protected
    whole = cbor2.dumps([header, {}, payload, bytes(64)])
    yield (SIGN1_TAG + whole)[:size]
    before = b"\x84" + cbor2.dumps(header)
    yield (SIGN1_TAG + before + payload + b"\x40" + cbor2.dumps(bytes(64)))[:size]
    yield (SIGN1_TAG + before + b"\xa0" + payload + cbor2.dumps(bytes(64)))[:size]
    yield (b"\x82" + cbor2.dumps(payload) + b"\x81" + SIGN1_TAG + payload)[:size]
    yield (b"\x82" + payload + b"\x80")[:size]


def hostile(size: int) -> Iterator[bytes]:
    """Bytes of this size at most, of every family."""
    inner = max(64, size - 120)
    for payload in cbor_of(inner):
        yield payload[:size]
        yield from signed(payload, size, "command-1")
        text = (PREFIX + grants.base45(payload[:300])).encode()
        yield text[:size]
    for payload in cbor_of(min(inner, 900)):  # and with a true signature of each role
        for name, context in (
            ("command-1", commands.CONTEXT),
            ("freshness-1", beacon.BEACON_CONTEXT),
            ("freshness-1", beacon.ACK_CONTEXT),
            ("grant-1", grants.CONTEXT),
        ):
            yield sealed(payload, name, context)[:size]
    for unit in (
        b"\x00", b"\xff", b"9", b"-", b" ", b"\n", b"\r\n", b"\\u0000", b"[", b'{"a":', b'"',
        b"DG1:", b"\x91", b"\x81\xa1x", b"\x01\x00", b"\x7f\x81", b"a" * 31 + b"\n",
        b"0123456789ABCDEF",
    ):  # fmt: skip
        yield padded(unit, size)
    for start in (
        b'{"stream":"s","seq":',
        b'{"stream":"',
        b"U ",
        b"P uid ",
        b"H ",
        b"E ",
        b'{"m":',
    ):
        for unit in (b"9", b"\\", b"[", b"\xff", b"a ", b"0 "):
            yield (start + padded(unit, size))[:size]
    request = b"\x92\x02\x82\xa1m\xadstatus_wanted"
    yield request + b"\xa1x" + padded(b"\x91", size - 40)
    yield request + b"\xa1x\xdd" + (size - 60).to_bytes(4, "big") + padded(b"\x01", size - 60)
    many = (size - 60) // 3
    yield b"\x92\x02\xdf" + many.to_bytes(4, "big") + b"\xa1x\x01" * many
    yield request + b"\xa1x\xdb" + (size - 60).to_bytes(4, "big") + padded(b"\xcc\x81", size - 60)


def sealed(payload: bytes, name: str, context: bytes) -> bytes:
    header = cbor2.dumps({1: -8, 4: kid(name)}, canonical=True)
    signature = key(name).sign(cbor2.dumps(["Signature1", header, context, payload]))
    return SIGN1_TAG + cbor2.dumps([header, {}, payload, signature])


def cpu_s(work: Callable[[bytes], object], data: bytes, tries: int = 5) -> float:
    """The best of a few: what it costs, not what the machine was doing besides."""
    best = float("inf")
    for _ in range(tries):
        begun = time.thread_time()
        with suppress(GatewayError, tlv.MalformedTlvError):  # and nothing else
            work(data)
        best = min(best, time.thread_time() - begun)
        if best <= LIMIT_S / 2:
            break
    return best


@pytest.mark.parametrize("parser", ON_THE_LOOP)
def test_the_slowest_answer_to_hostile_input_is_within_five_milliseconds(parser: str) -> None:
    work, size = ON_THE_LOOP[parser]
    slowest, worst = 0.0, b""
    for data in hostile(size):
        assert len(data) <= size
        took = cpu_s(work, data)
        if took > slowest:
            slowest, worst = took, data
    print(f"{parser}: {slowest * 1000:.2f} ms for {len(worst)} bytes that begin {worst[:24]!r}")
    assert slowest <= measured(LIMIT_S), worst[:60]


def test_a_true_message_is_still_taken() -> None:
    """Else everything above would be fast for being refused at once."""
    good = {"site": "LON", "gateway": "gw-1", "stream": "s", "seq": 5, "at": NOW.seconds}
    assert beacon.open_ack(message(good, "freshness-1", beacon.ACK_CONTEXT), KEYS, WHOSE).seq == 5


def test_every_module_with_a_decoder_is_measured_or_says_why_not() -> None:
    root = Path(gateway.__file__).parent
    unnamed = []
    for file in sorted(root.rglob("*.py")):
        name = file.relative_to(root).as_posix()
        named = name in MEASURED or name in ELSEWHERE or name.split("/")[0] in ELSEWHERE
        if not named and _DECODES.search(file.read_text(encoding="utf-8")):
            unnamed.append(name)
    assert unnamed == [], "add its parser to ON_THE_LOOP, or say in ELSEWHERE why it costs no door"
    gone = [
        name for name in {*MEASURED, *ELSEWHERE} if not (root / name).exists() and name != "hub"
    ]
    assert gone == []
