"""An OSDP 2.2 peripheral, a reader on RS-485, as in SIA OSDP 2.2 / IEC 60839-11-5.

`Peripheral` is pure: `receive` takes what the control panel wrote and returns the one reply.
`OsdpReader` puts it on a pseudo-terminal; several share a line. Sections cited are SIA OSDP 2.2's.
"""

import asyncio
import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from functools import partial
from pathlib import Path

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from hwsim.observations import CardSent, KeysSent, Lamp, Observations, Output
from hwsim.relay_board import Edge
from hwsim.serial_device import SerialDevice

SOM = 0x53  # 5.6: start of message
MARK = 0xFF  # 5.4: may precede a frame
BROADCAST = 0x7F
REPLY_FLAG = 0x80  # in the address of every reply
FRAME_BYTES_MAX = 1440  # 5.6
SEQUENCE, CRC_USED, SECURITY_BLOCK = 0x03, 0x04, 0x08  # the control byte, 5.9

DEFAULT_KEY = bytes(range(0x30, 0x40))  # annex D: SCBK-D, known to everybody

SILENCE_S = (
    8.0  # 5.7: a peripheral that hears nothing for so long is offline and forgets its session
)
TIMER_UNIT_NS = 100_000_000


class Command(IntEnum):
    """Codes of commands (annex A)."""

    POLL = 0x60
    ID = 0x61
    CAP = 0x62
    LSTAT = 0x64
    ISTAT = 0x65
    OSTAT = 0x66
    RSTAT = 0x67
    OUT = 0x68
    LED = 0x69
    BUZ = 0x6A
    TEXT = 0x6B
    COMSET = 0x6E
    KEYSET = 0x75
    CHLNG = 0x76
    SCRYPT = 0x77
    ACURXSIZE = 0x7B


class Reply(IntEnum):
    """Codes of replies (annex B)."""

    ACK = 0x40
    NAK = 0x41
    PDID = 0x45
    PDCAP = 0x46
    LSTATR = 0x48
    ISTATR = 0x49
    OSTATR = 0x4A
    RSTATR = 0x4B
    RAW = 0x50
    FMT = 0x51
    KEYPAD = 0x53
    COM = 0x54
    CCRYPT = 0x76
    RMAC_I = 0x78
    BUSY = 0x79


class Nak(IntEnum):
    """Reasons of osdp_NAK (7.3)."""

    CHECK = 0x01
    LENGTH = 0x02
    UNKNOWN = 0x03
    SEQUENCE = 0x04
    SECURITY_UNSUPPORTED = 0x05
    SECURITY_NEEDED = 0x06


def crc16(data: bytes) -> int:
    """Annex C: polynomial 0x1021, initial value 0x1D0F."""
    crc = 0x1D0F
    for octet in data:
        crc ^= octet << 8
        for _ in range(8):
            crc = (crc << 1) ^ 0x1021 if crc & 0x8000 else crc << 1
        crc &= 0xFFFF
    return crc


def checksum(data: bytes) -> int:
    """5.10: the two's complement of the sum of all bytes."""
    return -sum(data) & 0xFF


def sealed(frame: bytes) -> bytes:
    """A frame with its length filled in and its CRC or checksum at the end."""
    extra = 2 if frame[4] & CRC_USED else 1
    whole = frame[:2] + (len(frame) + extra).to_bytes(2, "little") + frame[4:]
    return whole + (crc16(whole).to_bytes(2, "little") if extra == 2 else bytes([checksum(whole)]))


def check_holds(frame: bytes) -> bool:
    """Whether a whole frame's CRC or checksum is right."""
    if frame[4] & CRC_USED:
        return crc16(frame[:-2]) == int.from_bytes(frame[-2:], "little")
    return sum(frame) & 0xFF == 0


class Deframer:
    """Finds whole frames in a stream; what is none is skipped."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def clear(self) -> None:
        """Forget an unfinished frame."""
        self._buffer.clear()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield each frame from its SOM on; its check is not looked at."""
        self._buffer += data
        while True:
            start = self._buffer.find(SOM)
            if start < 0:
                self._buffer.clear()
                return
            del self._buffer[:start]
            if len(self._buffer) < 5:
                return
            size = int.from_bytes(self._buffer[2:4], "little")
            if not 7 <= size <= FRAME_BYTES_MAX:
                del self._buffer[:1]
                continue
            if len(self._buffer) < size:
                return
            yield bytes(self._buffer[:size])
            del self._buffer[:size]


def _aes(key: bytes, block: bytes) -> bytes:
    encryptor = Cipher(algorithms.AES128(key), modes.ECB()).encryptor()  # noqa: S305  # annex D
    return encryptor.update(block) + encryptor.finalize()


def _xor(first: bytes, second: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(first, second, strict=True))


def _padded(data: bytes) -> bytes:
    padded = data + b"\x80"
    return padded + bytes(-len(padded) % 16)


class SecureSession:
    """The keys and MACs of one secure channel (annex D), as both ends derive them."""

    def __init__(self, scbk: bytes, rnd_a: bytes, rnd_b: bytes) -> None:
        def derived(first: int, second: int) -> bytes:
            return _aes(scbk, bytes([first, second]) + rnd_a[:6] + bytes(8))

        self.s_enc = derived(0x01, 0x82)
        self.s_mac1 = derived(0x01, 0x01)
        self.s_mac2 = derived(0x01, 0x02)
        self.client_cryptogram = _aes(self.s_enc, rnd_a + rnd_b)
        self.server_cryptogram = _aes(self.s_enc, rnd_b + rnd_a)
        self.initial_r_mac = _aes(self.s_mac2, _aes(self.s_mac1, self.server_cryptogram))
        self.r_mac = self.initial_r_mac
        self.c_mac = bytes(16)
        self.active = False

    def mac(self, message: bytes, chained: bytes) -> bytes:
        """D.1.4: the MAC of a message, chained to the other side's last one."""
        padded = message if message and len(message) % 16 == 0 else _padded(message)
        value = chained
        for at in range(0, len(padded), 16):
            last = at + 16 == len(padded)
            value = _aes(self.s_mac2 if last else self.s_mac1, _xor(padded[at : at + 16], value))
        return value

    def encrypt(self, data: bytes, chained: bytes) -> bytes:
        """D.1.5: CBC, its first block mixed with the complement of the last MAC received."""
        cipher = Cipher(algorithms.AES128(self.s_enc), modes.CBC(bytes(b ^ 0xFF for b in chained)))
        encryptor = cipher.encryptor()
        return encryptor.update(_padded(data)) + encryptor.finalize()

    def decrypt(self, data: bytes, chained: bytes) -> bytes | None:
        """The inverse of `encrypt`; None if the padding is none."""
        if not data or len(data) % 16:
            return None
        cipher = Cipher(algorithms.AES128(self.s_enc), modes.CBC(bytes(b ^ 0xFF for b in chained)))
        decryptor = cipher.decryptor()
        plain = decryptor.update(data) + decryptor.finalize()
        unpadded = plain.rstrip(b"\x00")
        return unpadded[:-1] if unpadded.endswith(b"\x80") else None


class Timed:
    """One output of a reader: OSDP 6.10's permanent state, and a timed one above it."""

    def __init__(self) -> None:
        self.permanent = False
        self._temporary = False
        self.until_ns: int | None = None

    def on(self, now_ns: int) -> bool:
        """Whether it is energised at that instant."""
        if self.until_ns is not None and now_ns < self.until_ns:
            return self._temporary
        return self.permanent

    def control(self, code: int, timer: int, now_ns: int) -> bool:
        """Carry out one record of osdp_OUT (table 16); false for a code that there is not."""
        match code:
            case 0x00:
                pass
            case 0x01 | 0x02:
                self.permanent, self.until_ns = code == 0x02, None
            case 0x03 | 0x04:
                self.permanent = code == 0x04
            case 0x05 | 0x06:
                self._temporary = code == 0x05
                # A time of zero is for ever (6.10).
                if timer:
                    self.until_ns = now_ns + timer * TIMER_UNIT_NS
                else:
                    self.permanent, self.until_ns = self._temporary, None
            case _:
                return False
        return True


@dataclass(slots=True)
class Faults:
    """What a bad or hostile peripheral does.

    Attributes:
        plaintext: Refuses every secure channel but answers commands in clear, cards and all.
        card_in_clear: Answers everything, the very first request too, with this card in clear.
        unsigned_card: In a session, sends this card in a frame of the handshake's type: no MAC.
        replay: Sends the session's last card again, as it was, with only its CRC made right.
        wrong_mac: Spoils the MAC of every reply.
        busy: Answers so many commands with osdp_BUSY first.
        foreign_address: Answers as somebody else.
        refuses: Commands that it doesn't know.
    """

    plaintext: bool = False
    card_in_clear: bytes = b""
    unsigned_card: bytes = b""
    replay: bool = False
    wrong_mac: bool = False
    busy: int = 0
    foreign_address: bool = False
    refuses: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Told:
    """Something that the panel made the reader show or do."""

    what: str  # "led", "buzzer" or "output"
    data: bytes


@dataclass(frozen=True, slots=True)
class Event:
    """What the next poll will be answered with; `sent` is called when it has gone out."""

    code: Reply
    data: bytes
    sent: Callable[[int], None] | None = None


@dataclass(slots=True)
class Abilities:
    """What osdp_PDCAP says (7.5): how many of each, 0 where there is none."""

    inputs: int = 2
    outputs: int = 2
    leds: int = 1
    buzzers: int = 1
    secure: bool = True
    crc: bool = True

    def data(self) -> bytes:
        """The records: function code, compliance, number."""
        records = [
            (1, 2 if self.inputs else 0, self.inputs),
            (2, 2 if self.outputs else 0, self.outputs),
            (3, 1, 0),  # card data as raw bits
            (4, 4 if self.leds else 0, self.leds),
            (5, 2 if self.buzzers else 0, self.buzzers),
            (8, int(self.crc), 0),
            (9, int(self.secure), int(self.secure)),
            (10, 0x00, 0x01),  # receives 256 bytes
            (13, 0, 1),
            (16, 2, 0),  # OSDP 2.2
        ]
        return b"".join(bytes(record) for record in records)


@dataclass(slots=True)
class Peripheral:
    """One reader on the bus.

    Attributes:
        address: 0 to 126.
        key: Its secure channel base key; None as it leaves the factory.
        install_mode: Whether it opens a channel with the default key too.
        identity: Vendor code (3 bytes), model, version, serial number (4), firmware (3), as sent.
    """

    address: int
    key: bytes | None = None
    install_mode: bool = False
    abilities: Abilities = field(default_factory=Abilities)
    identity: bytes = bytes.fromhex("5cc0fe010178563412010203")
    random: Callable[[int], bytes] = os.urandom
    faults: Faults = field(default_factory=Faults)
    told: list[Told] = field(default_factory=list)
    keys_set: int = 0
    _events: deque[Event] = field(default_factory=deque)
    _session: SecureSession | None = None
    _default: bool = False
    _sequence: int | None = None
    _last_command: bytes = b""
    _last_reply: bytes = b""
    _rnd_a: bytes = b""
    _tamper: bool = False
    _power_failed: bool = False
    _heard_ns: int = 0
    _card_frame: bytes = b""
    inputs: list[bool] = field(default_factory=list)
    outputs: list[Timed] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.inputs = [False] * self.abilities.inputs
        self.outputs = [Timed() for _ in range(self.abilities.outputs)]

    def power_on(self) -> None:
        """Start anew: keys stay, the session, what was queued and the outputs don't."""
        self._events.clear()
        self._session, self._sequence = None, None
        self._last_command = self._last_reply = b""
        self.outputs = [Timed() for _ in range(self.abilities.outputs)]

    @property
    def secure(self) -> bool:
        """Whether a secure channel is open."""
        return self._session is not None and self._session.active

    # --- what happens at the reader -------------------------------------------------------------

    def card(self, bits: str, sent: Callable[[int], None] | None = None) -> None:
        """Read a card of raw bits, a string of 0 and 1 (osdp_RAW, 7.10), told at the next poll."""
        data = int(bits.ljust(-(-len(bits) // 8) * 8, "0"), 2).to_bytes(-(-len(bits) // 8), "big")
        self._tell(Event(Reply.RAW, bytes([0, 0]) + len(bits).to_bytes(2, "little") + data, sent))

    def formatted_card(self, characters: str) -> None:
        """Read a card and tell it in characters (osdp_FMT, 7.11: reader, direction, length)."""
        data = characters.encode("ascii")
        self._tell(Event(Reply.FMT, bytes([0, 0, len(data)]) + data))

    def keys(self, digits: str, sent: Callable[[int], None] | None = None) -> None:
        """Press keys: 0 to 9, * and # (osdp_KEYPAD, 7.12: * is 0x7F and # is 0x0D)."""
        data = digits.encode("ascii").replace(b"*", b"\x7f").replace(b"#", b"\x0d")
        self._tell(Event(Reply.KEYPAD, bytes([0, len(data)]) + data, sent))

    def set_input(self, number: int, *, active: bool) -> None:
        """Switch an input, counted from 1."""
        if self.inputs[number - 1] != active:
            self.inputs[number - 1] = active
            self._tell(Event(Reply.ISTATR, bytes(self.inputs)))

    def tamper(self, *, active: bool) -> None:
        """Open or close the reader's case."""
        self._tamper = active
        self._tell(Event(Reply.LSTATR, self._local()))

    def power_failure(self, *, failed: bool) -> None:
        """The reader's supply goes out of its limits, or back."""
        self._power_failed = failed
        self._tell(Event(Reply.LSTATR, self._local()))

    def _tell(self, event: Event) -> None:
        if len(self._events) < 64:  # what no panel fetches is lost in a real one too
            self._events.append(event)

    def _local(self) -> bytes:
        return bytes([self._tamper, self._power_failed])

    # --- the panel's side -----------------------------------------------------------------------

    def receive(self, frame: bytes, now_ns: int) -> tuple[bytes, Callable[[int], None] | None]:
        """Answer one whole frame; an empty reply is silence. The callable is the event's `sent`."""
        address = frame[1]
        if address & REPLY_FLAG or address not in (self.address, BROADCAST):
            return b"", None
        if now_ns - self._heard_ns > SILENCE_S * 1e9:
            self._session = None
        self._heard_ns = now_ns
        if not check_holds(frame):
            return b"", None  # 5.10: not for anybody; the panel's time-out finds it
        sequence = frame[4] & SEQUENCE
        if sequence == 0:
            self._session, self._sequence = None, None
        elif sequence == self._sequence:
            # 5.9: the panel has not understood the last reply: the very same again.
            return self._last_reply, None
        elif self._sequence is None or sequence != self._sequence % 3 + 1:
            return self._plain(frame, Reply.NAK, bytes([Nak.SEQUENCE])), None
        if self.faults.busy:
            self.faults.busy -= 1
            busy = bytes([SOM, self.address | REPLY_FLAG, 0, 0, frame[4] & CRC_USED, Reply.BUSY])
            return sealed(busy), None
        self._sequence = sequence
        reply, sent = self._answer(frame, now_ns)
        self._last_reply = reply
        return reply, sent

    def _answer(self, frame: bytes, now_ns: int) -> tuple[bytes, Callable[[int], None] | None]:
        end = len(frame) - (2 if frame[4] & CRC_USED else 1)
        body, block = frame[5:end], b""
        if frame[4] & SECURITY_BLOCK:
            block, body = body[: body[0]], body[body[0] :]
        faults = self.faults
        if faults.card_in_clear and not self.secure:
            return self._plain(frame, Reply.RAW, _raw(faults.card_in_clear)), None
        if block and block[1] in (0x11, 0x13):
            return self._handshake(frame, block, body), None
        session = self._session
        if session is None or not session.active:
            if block or (self.abilities.secure and not faults.plaintext and not _in_clear(body[0])):
                return self._plain(frame, Reply.NAK, bytes([Nak.SECURITY_NEEDED])), None
            code, data, sent = self._carry_out(body[0], body[1:], now_ns)
            return self._plain(frame, code, data), sent
        if not block or block[1] not in (0x15, 0x17):
            self._session = None
            return self._plain(frame, Reply.NAK, bytes([Nak.SECURITY_NEEDED])), None
        mac = session.mac(frame[: end - 4], session.r_mac)
        data_in: bytes | None = body[1:-4]
        if block[1] == 0x17:
            data_in = session.decrypt(body[1:-4], session.r_mac)
        if frame[end - 4 : end] != mac[:4] or data_in is None:
            self._session = None
            return self._plain(frame, Reply.NAK, bytes([Nak.SECURITY_NEEDED])), None
        session.c_mac = mac
        code, data, sent = self._carry_out(body[0], data_in, now_ns)
        return self._secured(frame, session, code, data), sent

    def _handshake(self, frame: bytes, block: bytes, body: bytes) -> bytes:
        # D.1.3: 0 asks for the default key. One that is not being installed answers with its own.
        default = len(block) > 2 and block[2] == 0 and self.install_mode
        key = DEFAULT_KEY if default else self.key
        if not self.abilities.secure or self.faults.plaintext:
            return self._plain(frame, Reply.NAK, bytes([Nak.SECURITY_UNSUPPORTED]))
        if key is None:
            return self._plain(frame, Reply.NAK, bytes([Nak.SECURITY_NEEDED]))
        if body[0] == Command.CHLNG and len(body) == 9:
            rnd_b = self.random(8)
            self._session = SecureSession(key, body[1:9], rnd_b)
            self._default = default
            data = self._uid() + rnd_b + self._session.client_cryptogram
            return self._block(frame, bytes([3, 0x12, not default]), Reply.CCRYPT, data)
        session = self._session
        if body[0] != Command.SCRYPT or session is None or len(body) != 17:
            return self._plain(frame, Reply.NAK, bytes([Nak.SECURITY_NEEDED]))
        if body[1:17] != session.server_cryptogram:
            self._session = None
            return self._block(frame, bytes([3, 0x14, 0xFF]), Reply.RMAC_I, bytes(16))
        session.active = True
        return self._block(frame, bytes([3, 0x14, 0x01]), Reply.RMAC_I, session.initial_r_mac)

    def _uid(self) -> bytes:
        # D.1.3: vendor code, model, version, serial number.
        return self.identity[:9][:8]

    def _carry_out(
        self, code: int, data: bytes, now_ns: int
    ) -> tuple[Reply, bytes, Callable[[int], None] | None]:
        if code in self.faults.refuses:
            return Reply.NAK, bytes([Nak.UNKNOWN]), None
        match code:
            case Command.POLL:
                if self._events:
                    event = self._events.popleft()
                    return event.code, event.data, event.sent
                return Reply.ACK, b"", None
            case Command.ID:
                return Reply.PDID, self.identity, None
            case Command.CAP:
                return Reply.PDCAP, self.abilities.data(), None
            case Command.LSTAT:
                return Reply.LSTATR, self._local(), None
            case Command.ISTAT if self.inputs:
                return Reply.ISTATR, bytes(self.inputs), None
            case Command.OSTAT if self.outputs:
                return Reply.OSTATR, self._outputs(now_ns), None
            case Command.RSTAT:
                return Reply.RSTATR, b"\x00", None
            case Command.OUT if self.outputs and data and len(data) % 4 == 0:
                return self._control(data, now_ns)
            case Command.LED if self.abilities.leds and data and len(data) % 14 == 0:
                self.told += [Told("led", data[at : at + 14]) for at in range(0, len(data), 14)]
                return Reply.ACK, b"", None
            case Command.BUZ if self.abilities.buzzers and len(data) == 5:
                self.told.append(Told("buzzer", data))
                return Reply.ACK, b"", None
            case Command.ACURXSIZE:
                return Reply.ACK, b"", None
            case Command.KEYSET:
                return self._set_key(data)
            case Command.OUT | Command.LED | Command.BUZ:
                known = {
                    Command.OUT: bool(self.outputs),
                    Command.LED: bool(self.abilities.leds),
                    Command.BUZ: bool(self.abilities.buzzers),
                }[Command(code)]
                return Reply.NAK, bytes([Nak.LENGTH if known else Nak.UNKNOWN]), None
        return Reply.NAK, bytes([Nak.UNKNOWN]), None

    def _control(
        self, data: bytes, now_ns: int
    ) -> tuple[Reply, bytes, Callable[[int], None] | None]:
        for at in range(0, len(data), 4):
            number, code, timer = (
                data[at],
                data[at + 1],
                int.from_bytes(data[at + 2 : at + 4], "little"),
            )
            if number >= len(self.outputs) or not self.outputs[number].control(code, timer, now_ns):
                return Reply.NAK, bytes([Nak.UNKNOWN]), None
            self.told.append(Told("output", data[at : at + 4]))
        return Reply.OSTATR, self._outputs(now_ns), None

    def _outputs(self, now_ns: int) -> bytes:
        return bytes(output.on(now_ns) for output in self.outputs)

    def _set_key(self, data: bytes) -> tuple[Reply, bytes, Callable[[int], None] | None]:
        # 6.16: only inside a secure channel; key type 1 is the SCBK.
        if not self.secure:
            return Reply.NAK, bytes([Nak.SECURITY_NEEDED]), None
        if len(data) != 18 or data[:2] != bytes([1, 16]):
            return Reply.NAK, bytes([Nak.LENGTH]), None
        self.key, self.install_mode = data[2:], False
        self.keys_set += 1
        return Reply.ACK, b"", None

    # --- frames out -----------------------------------------------------------------------------

    def _head(self, frame: bytes, block: bytes) -> bytes:
        # 5.5: who is spoken to as everybody answers as everybody.
        address = (BROADCAST if frame[1] == BROADCAST else self.address) | REPLY_FLAG
        if self.faults.foreign_address:
            address = (self.address + 1) % BROADCAST | REPLY_FLAG
        control = frame[4] & (SEQUENCE | CRC_USED) | (SECURITY_BLOCK if block else 0)
        return bytes([SOM, address, 0, 0, control]) + block

    def _plain(self, frame: bytes, code: int, data: bytes) -> bytes:
        return sealed(self._head(frame, b"") + bytes([code]) + data)

    def _block(self, frame: bytes, block: bytes, code: int, data: bytes) -> bytes:
        return sealed(self._head(frame, block) + bytes([code]) + data)

    def _secured(self, frame: bytes, session: SecureSession, code: int, data: bytes) -> bytes:
        faults = self.faults
        if faults.unsigned_card and code == Reply.ACK:
            return self._block(frame, bytes([2, 0x12]), Reply.RAW, _raw(faults.unsigned_card))
        if faults.replay and self._card_frame and code == Reply.ACK:
            old = self._card_frame
            control = old[4] & ~SEQUENCE | frame[4] & SEQUENCE
            return sealed(old[:4] + bytes([control]) + old[5 : -2 if old[4] & CRC_USED else -1])
        head = self._head(frame, bytes([2, 0x18 if data else 0x16]))
        whole = head + bytes([code]) + (session.encrypt(data, session.c_mac) if data else b"")
        extra = 2 if frame[4] & CRC_USED else 1
        whole = whole[:2] + (len(whole) + 4 + extra).to_bytes(2, "little") + whole[4:]
        session.r_mac = session.mac(whole, session.c_mac)
        mac = bytes(4) if faults.wrong_mac else session.r_mac[:4]
        reply = sealed(whole + mac)
        if code == Reply.RAW:
            self._card_frame = reply
        return reply


def _raw(card: bytes) -> bytes:
    return bytes([0, 0]) + (len(card) * 8).to_bytes(2, "little") + card


def _in_clear(code: int) -> bool:
    # D.1.2: what a peripheral with a key answers outside a session.
    return code in (Command.POLL, Command.ID, Command.CAP)


SIGNALS = {
    # on and off colour (table 20: 1 red, 2 green, 3 amber): what a person takes it for
    (2, 2): "granted",
    (1, 1): "denied",
    (3, 0): "pin_wanted",
    (1, 0): "fault",
    (3, 3): "held_open",
}


class OsdpReader(SerialDevice):
    """One reader on a serial line; readers that `join` it share its line.

    Attributes:
        pace: Whether bytes take the time that they take at the line's speed.
        baud_rate: The speed that it is set to; it understands no other. None understands any.
    """

    def __init__(
        self,
        name: str,
        path: Path,
        seen: Observations,
        peripheral: Peripheral,
        *,
        baud_rate: int | None = None,
        pace: bool = False,
        owner: "OsdpReader | None" = None,
    ) -> None:
        """Open nothing yet; `owner` is the reader whose line this one shares."""
        super().__init__(name, path, seen)
        self.peripheral = peripheral
        self.baud_rate = baud_rate
        self.pace = pace
        self.switched: list[Callable[[Edge], None]] = []
        self._deframer = Deframer()
        self._shown = 0
        self._was: list[bool] = []
        self._timer: asyncio.TimerHandle | None = None
        self.readers: list[OsdpReader] = [self] if owner is None else owner.readers
        if owner is not None:
            self.readers.append(self)
            self.line = owner.line

    def power_on(self) -> None:
        """Start anew."""
        self._deframer.clear()
        self.peripheral.power_on()
        self._settle()

    def plug(self) -> None:
        """Plug the line in: the port appears, and every reader on it starts."""
        if not self.line.plugged:
            for reader in self.readers:
                reader.resume()
                reader.power_on()
            self.line.plug()

    def unplug(self, after_bytes: int | None = None) -> None:
        """Pull the line's plug; as `SerialDevice.unplug`."""
        super().unplug(after_bytes)
        if after_bytes is None:
            for reader in self.readers:
                reader.stop_timer()

    def set_input(self, number: int, *, active: bool) -> None:
        """Switch an input, counted from 1."""
        self.peripheral.set_input(number, active=active)

    def reboot(self) -> None:
        """Lose power for a moment, on a line that stays."""
        self.power_on()

    def card(self, bits: str) -> int:
        """Hold a card of raw bits to the reader; when, in monotonic nanoseconds."""
        at_ns = time.monotonic_ns()
        self.peripheral.card(bits, partial(self._sent_card, bits))
        return at_ns

    def press(self, key: str, told: str = "") -> None:
        """Press one key; report `told` as sent when it has gone out."""
        self.peripheral.keys(key, partial(self._sent_keys, told) if told else None)

    def unasked(self) -> bytes:
        """A card that nobody polled for."""
        head = bytes([SOM, self.peripheral.address | REPLY_FLAG, 0, 0, CRC_USED, Reply.RAW])
        return sealed(head + _raw(b"\xde\xad\xbe\xef"))

    def receive(self, data: bytes) -> None:
        """Answer what the panel wrote, each reader of the line for itself."""
        for reader in self.readers:
            reader.take(data)

    def _received(self, data: bytes) -> None:
        self.receive(self._garbled(data))

    def take(self, data: bytes) -> None:
        """This reader's own share of what came over the line."""
        if self.hung or (self.baud_rate is not None and self.line.baud_rate != self.baud_rate):
            self._deframer.clear()
            return
        for frame in self._deframer.feed(data):
            if self.pace:
                # It has the command when its last bit is there, and the panel the reply likewise.
                wire_s = len(frame) * self._byte_s()
                asyncio.get_running_loop().call_later(wire_s, self._answer, frame)
            else:
                self._answer(frame)

    def _byte_s(self) -> float:
        return 10 / (self.line.baud_rate or 9600)

    def _answer(self, frame: bytes) -> None:
        if not self.line.plugged:
            return
        reply, sent = self.peripheral.receive(frame, time.monotonic_ns())
        self._settle()
        self._show()
        if reply and self.pace:
            wire_s = len(reply) * self._byte_s()
            asyncio.get_running_loop().call_later(wire_s, self.send, reply, sent)
        elif reply:
            self.send(reply, sent)

    def _show(self) -> None:
        for told in self.peripheral.told[self._shown :]:
            if told.what == "led" and told.data[2] == 2:
                # Reader, LED; temporary: code, times, colours, timer; then the permanent ones.
                colours = told.data[5], told.data[6]
                self.seen.add(
                    Lamp(time.monotonic_ns(), self.name, SIGNALS.get(colours, str(colours)))
                )
        self._shown = len(self.peripheral.told)

    def _settle(self) -> None:
        """Report the outputs that switched, and come back when the next one does."""
        now_ns = time.monotonic_ns()
        outputs = self.peripheral.outputs
        now = [output.on(now_ns) for output in outputs]
        for number, (was, on) in enumerate(zip(self._was or [False] * len(now), now, strict=True)):
            if was != on:
                self.seen.add(Output(now_ns, self.name, number + 1, on))
                for tell in self.switched:
                    tell(Edge(now_ns, number + 1, on=on))
        self._was = now
        self.stop_timer()
        due = [o.until_ns for o in outputs if o.until_ns is not None and o.until_ns > now_ns]
        if due:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later((min(due) - now_ns) / 1e9 + 0.0005, self._settle)

    def stop_timer(self) -> None:
        """Forget the outputs' timer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _sent_card(self, bits: str, at_ns: int) -> None:
        self.seen.add(CardSent(at_ns, self.name, bits))

    def _sent_keys(self, keys: str, at_ns: int) -> None:
        self.seen.add(KeysSent(at_ns, self.name, keys))
