"""Random bytes at every serial protocol: `python -m tests.drivers.noise --bytes 1e8 --seed 1`.

Two kinds of line: `random`, nothing but random bytes, and `hit`, a device's own messages of which
each byte is replaced by a random one with a chance of 10 % (a tenth as many bytes). They come in
pieces of 1 to 64 bytes, some a byte at a time, with pauses; now and then the line dies in mid-frame
and is opened anew. A line of JSON a run goes to standard output, or is added to `--ledger FILE`:

    told       what the driver believed: credentials; for `osdp` frames that libosdp was shown with
               a card or keys in them, which it checks a MAC of 32 bits of; for `modbus` readings
    false      of these, what was not sent
    admitted   of the false ones, those that are one of 1,000 credentials enrolled at random (PINs:
               10 of 10,000): these would have let in
"""

import argparse
import json
import random
import struct
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Protocol

import msgspec
import nfc.clf.pn532
import nfc.clf.transport
from pymodbus.framer import FramerRTU

from gateway.domain.facts import CredentialPresented
from gateway.drivers.ascii_keypad import AsciiKeypadSettings
from gateway.drivers.barcode_scanner import BarcodeScannerSettings, ScannerProtocol
from gateway.drivers.modbus_relay import Function, Request, answer_in
from gateway.drivers.osdp_worker import KEYPAD, RAW, Gate, code_of, sealed
from gateway.drivers.pin_entry import PinEntry
from gateway.drivers.pn532_worker import GarbledReplyError, targets_of, uid_of
from gateway.drivers.wiegand_serial import ConverterProtocol, WiegandSerialSettings

HIT = 0.1
PIECE_MAX = 64
DIES_ONE_IN = 1000
PAUSES_S = (0.0, 0.0, 0.0, 0.05, 0.3)
BYTE_S = 10 / 9600
BLOCK = 1 << 20
RECENT = 64
"""A message may be believed when later bytes have completed what held it up."""


class Listener(Protocol):
    """One protocol: what is believed of the bytes that come."""

    name: str

    def sent(self, dice: random.Random) -> tuple[bytes, str]:
        """A message of the device, and what it means."""

    def feed(self, data: bytes, now: timedelta) -> list[str]:
        """What is told of the bytes that came at `now`."""

    def reopened(self) -> None:
        """The line was lost and is there again."""

    def enrolled(self, dice: random.Random) -> frozenset[str]:
        """The credentials of a site."""


class Keypad:
    """ASCII digits and `#`: no check of any kind."""

    name = "ascii_keypad"

    def __init__(self) -> None:
        settings = msgspec.convert({"port": "/dev/x"}, AsciiKeypadSettings)
        self._timeout = timedelta(seconds=settings.inter_digit_timeout_s)
        self.reopened()

    def reopened(self) -> None:
        self._entry = PinEntry("keypad", self._timeout)

    def sent(self, dice: random.Random) -> tuple[bytes, str]:
        pin = f"{dice.randrange(10_000):04}"
        return f"{pin}#".encode(), pin

    def feed(self, data: bytes, now: timedelta) -> list[str]:
        return [fact.value for fact in self._entry.receive(data, now)]

    def enrolled(self, dice: random.Random) -> frozenset[str]:
        return frozenset(f"{number:04}" for number in dice.sample(range(10_000), 10))


class Converter:
    """Wiegand behind a converter: digits and an end of line, parity gone."""

    def __init__(self, converter: str, layout: str, bits: int) -> None:
        self.name = f"wiegand_serial {converter}"
        self._hex, self._bits, self._layout = converter == "wie232", bits, layout
        self._settings = msgspec.convert(
            {"port": "/dev/x", "converter": converter, "formats": [layout]}, WiegandSerialSettings
        )
        self.reopened()

    def reopened(self) -> None:
        self._protocol = ConverterProtocol("reader", self._settings)

    def sent(self, dice: random.Random) -> tuple[bytes, str]:
        payload = dice.getrandbits(self._bits)
        line = f"{payload:06X}\r" if self._hex else f"{payload:010}\r\n"
        return line.encode(), self._value(payload)

    def feed(self, data: bytes, now: timedelta) -> list[str]:
        return [fact.value for fact in self._protocol.receive(data, now)]

    def enrolled(self, dice: random.Random) -> frozenset[str]:
        return frozenset(self._value(dice.getrandbits(self._bits)) for _ in range(1000))

    def _value(self, payload: int) -> str:
        return f"{self._layout}:{payload >> 16}:{payload & 0xFFFF}"


class Scanner:
    """A QR code between a prefix and CR: no check beyond the alphabet and the length."""

    def __init__(self, prefix: str) -> None:
        self.name = f"barcode_scanner {prefix or 'without prefix'}"
        self._prefix = prefix
        self._settings = msgspec.convert(
            {"port": "/dev/x", "prefix": prefix, "suffix": "\r"}, BarcodeScannerSettings
        )
        self.reopened()

    def reopened(self) -> None:
        self._protocol = ScannerProtocol("scanner", self._settings)

    def sent(self, dice: random.Random) -> tuple[bytes, str]:
        code = self._code(dice)
        return f"{self._prefix}{code}\r".encode(), code

    def feed(self, data: bytes, now: timedelta) -> list[str]:
        facts = self._protocol.receive(data, now)
        return [fact.value for fact in facts if isinstance(fact, CredentialPresented)]

    def enrolled(self, dice: random.Random) -> frozenset[str]:
        return frozenset(self._code(dice) for _ in range(1000))

    @staticmethod
    def _code(dice: random.Random) -> str:
        return f"{dice.getrandbits(80):020X}"


class Osdp:
    """What `Gate` lets through to libosdp inside a session: CRC, address, sequence, block."""

    name = "osdp"

    def __init__(self) -> None:
        self.reopened()

    def reopened(self) -> None:
        self._gate = Gate(lambda _data: None, lambda _address: True, lambda _address: 1, lambda: 0)

    def sent(self, dice: random.Random) -> tuple[bytes, str]:
        # 5.5, D.1.4: a card in a session: SCS_18, 16 encrypted bytes, 4 of MAC.
        body = dice.randbytes(20)
        frame = sealed(bytes([0x53, 0x80, 0, 0, 0x0D, 2, 0x18, RAW]) + body)
        return frame, frame.hex()

    def feed(self, data: bytes, now: timedelta) -> list[str]:
        del now
        self._gate.write(sealed(bytes([0x53, 0, 0, 0, 0x0D, 2, 0x15, 0x60]) + bytes(4)))
        self._gate.misses.clear()
        self._gate.receive(data)
        frame = self._gate.read(2048)
        return [frame.hex()] if frame and code_of(frame) in (RAW, KEYPAD) else []

    def enrolled(self, dice: random.Random) -> frozenset[str]:
        del dice
        return frozenset()


class Modbus:
    """A reading of eight inputs of an RTU board: unit, function, size, CRC."""

    name = "modbus rtu"
    _asked = 1, Request(Function.READ_DISCRETE_INPUTS, 0, 8)

    def __init__(self) -> None:
        self.reopened()

    def reopened(self) -> None:
        self._data = b""

    def sent(self, dice: random.Random) -> tuple[bytes, str]:
        frame = bytes([1, 2, 1, dice.randrange(256)])
        frame += struct.pack(">H", FramerRTU.compute_CRC(frame))
        return frame, frame.hex()

    def feed(self, data: bytes, now: timedelta) -> list[str]:
        del now
        self._data = (self._data + data)[-2 * PIECE_MAX :]
        frame = answer_in(self._data, self._asked)
        if frame:
            self._data = b""
        return [frame.hex()] if frame else []

    def enrolled(self, dice: random.Random) -> frozenset[str]:
        del dice
        return frozenset()


class Pn532:
    """nfcpy's framing (a start code, two 8-bit sums), then ours of the list of cards.

    The worker asks for a second reading besides where the line has garbled anything in the last
    ten seconds, which is not counted here.
    """

    name = "pn532"

    def __init__(self) -> None:
        self.reopened()

    def reopened(self) -> None:
        self._data = b""
        transport = nfc.clf.transport.TTY.__new__(nfc.clf.transport.TTY)
        transport.tty = SimpleNamespace(
            timeout=0.0, read=self._read, write=len, flushInput=lambda: None
        )
        quiet = SimpleNamespace(log=_ignore, error=_ignore, warning=_ignore, debug=_ignore)
        self._chipset = nfc.clf.pn532.Chipset.__new__(nfc.clf.pn532.Chipset)
        self._chipset.transport, self._chipset.log = transport, quiet

    def _read(self, count: int) -> bytes:
        data, self._data = self._data[:count], self._data[count:]
        return data

    def sent(self, dice: random.Random) -> tuple[bytes, str]:
        # UM0701-02, 6.2.1.1 and 7.3.5: one card with a UID of 4 bytes, of NXP's numbering.
        uid = b"\x04" + dice.randbytes(3)
        data = b"\xd5\x4b\x01\x01\x00\x04\x08\x04" + uid
        frame = b"\x00\x00\xff" + bytes([len(data), 256 - len(data)])
        return frame + data + bytes([-sum(data) & 0xFF, 0]), uid.hex().upper()

    def feed(self, data: bytes, now: timedelta) -> list[str]:
        del now
        # The chip's ACK has come, then this: each read begins where nfcpy's last one ended.
        self._data = b"\x00\x00\xff\x00\xff\x00" + data
        try:
            reply = self._chipset.command(0x4A, b"\x02\x00", 0.001)
            return [uid for uid in map(uid_of, targets_of(bytes(reply))) if uid is not None]
        except (OSError, IndexError, GarbledReplyError, nfc.clf.pn532.Chipset.Error):
            return []

    def enrolled(self, dice: random.Random) -> frozenset[str]:
        return frozenset((b"\x04" + dice.randbytes(3)).hex().upper() for _ in range(1000))


def _ignore(*_said: object) -> None:
    pass


def listeners() -> Iterator[Listener]:
    """Every serial protocol there is."""
    yield Pn532()
    yield Osdp()
    yield Modbus()
    yield Converter("wie232", "H10301", 24)
    yield Converter("s4a", "H10301", 24)
    yield Keypad()
    yield Scanner("]Q1")
    yield Scanner("")


def run(listener: Listener, kind: str, count: int, seed: int) -> dict[str, Any]:
    """Feed a listener `count` bytes of a kind; what came of it."""
    dice = random.Random(f"{listener.name} {kind} {seed}")
    enrolled = listener.enrolled(dice)
    now, fed, told, false, admitted = timedelta(), 0, 0, 0, 0
    started = time.process_time()
    truth: deque[str] = deque(maxlen=RECENT)
    while fed < count:
        if kind == "random":
            block = dice.randbytes(min(BLOCK, count - fed))
            pieces = _pieces(block, dice)
        else:
            message, meant = listener.sent(dice)
            truth.append(meant)
            block = bytes(_hit(message, dice))
            pieces = _pieces(block, dice) if dice.randrange(4) == 0 else iter((block,))
        for piece in pieces:
            values = listener.feed(piece, now)
            now += timedelta(seconds=len(piece) * BYTE_S + dice.choice(PAUSES_S))
            told += len(values)
            wrong = [value for value in values if value not in truth]
            false += len(wrong)
            admitted += sum(value in enrolled for value in wrong)
            if dice.randrange(DIES_ONE_IN) == 0:
                listener.reopened()
        fed += len(block)
    return {
        "protocol": listener.name,
        "line": kind,
        "bytes": fed,
        "told": told,
        "false": false,
        "admitted": admitted,
        "cpu_s": round(time.process_time() - started, 1),
    }


def _pieces(block: bytes, dice: random.Random) -> Iterator[bytes]:
    at = 0
    while at < len(block):
        size = 1 if dice.randrange(8) == 0 else dice.randrange(1, PIECE_MAX + 1)
        yield block[at : at + size]
        at += size


def _hit(message: bytes, dice: random.Random) -> Iterator[int]:
    for byte in message:
        yield dice.randrange(256) if dice.random() < HIT else byte


def main(arguments: list[str] | None = None) -> int:
    """Run every protocol, or those named."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--bytes", type=float, default=1e6, help="random bytes for each protocol")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", action="append", default=[], help="a protocol, by its name")
    parser.add_argument("--ledger", type=Path, help="a file of JSON lines to add to")
    options = parser.parse_args(arguments)
    git = ["git", "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()
    head = {"campaign": "noise", "commit": commit, "seed": options.seed}
    for listener in listeners():
        if options.only and listener.name not in options.only:
            continue
        for kind, count in (("random", options.bytes), ("hit", options.bytes / 10)):
            line = json.dumps({**head, **run(listener, kind, int(count), options.seed)})
            sys.stdout.write(line + "\n")
            sys.stdout.flush()
            if options.ledger is not None:
                with options.ledger.open("a", encoding="utf-8") as ledger:
                    ledger.write(line + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
