"""The NXP PN532 on its high speed UART, as in UM0701-02 (PN532 user manual): bytes in, frames out.

`Chip` is pure: `Chip.receive` takes what the host wrote and returns what the chip sends.
`Pn532Reader` puts it on a pseudo-terminal. Sections cited are those of UM0701-02.
"""

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar

from hwsim.cards import Card, State
from hwsim.observations import CardSent, Observations
from hwsim.serial_device import SerialDevice

# 6.2.1.3 and 6.2.1.4; 6.2.1.5 for the error frame.
ACK = bytes.fromhex("0000FF00FF00")
NACK = bytes.fromhex("0000FFFF0000")
ERROR_FRAME = bytes.fromhex("0000FF01FF7F8100")
HOST_TO_CHIP = 0xD4
CHIP_TO_HOST = 0xD5
# 6.2.1.2: TFI and packet data of an extended frame; nothing longer is ever valid.
FRAME_DATA_BYTES_MAX = 265

# 7.2.2: IC, version, revision, support of ISO/IEC 14443 A and B and ISO 18092.
FIRMWARE_VERSION = bytes.fromhex("32010607")
# 7.2.8: the code of SetSerialBaudRate is the index.
BAUD_RATES = (9600, 19200, 38400, 57600, 115200, 230400, 460800, 921600, 1288000)
BAUD_RATE_AT_RESET = 115200

# 7.3.1: number of data bytes of each RFConfiguration item.
_RF_ITEM_BYTES = {0x01: 1, 0x02: 3, 0x04: 1, 0x05: 3, 0x0A: 11, 0x0B: 8, 0x0C: 3, 0x0D: 9}
# 7.2.9: SetParameters, bit 4, fAutomaticRATS; both automatisms are on after reset.
_AUTOMATIC_RATS = 0x10
_PARAMETERS_AT_RESET = 0x14
# 7.3.1, item 5: 0xFF tries for ever.
_TRY_FOR_EVER = 0xFF

# 7.1: status bytes.
OK = 0x00
TIME_OUT = 0x01
CRC_ERROR = 0x02
INVALID_PARAMETER = 0x10
NOT_ACCEPTABLE = 0x27

# Registers of the contactless interface unit (PN532/C1 data sheet, 8.6.23) that act here.
_TX_MODE, _RX_MODE, _TX_CONTROL = 0x6302, 0x6303, 0x6304
_FIFO_DATA, _FIFO_LEVEL = 0x6339, 0x633A
_CRC_ENABLED = 0x80
_TX_ON = 0x03
# ISO/IEC 14443-3, 6.4.1: REQA stays in the FIFO when no card answered it.
_REQA = 0x26


@dataclass(frozen=True, slots=True)
class Sent:
    """One frame from the chip, and the cards whose UIDs it carries."""

    frame: bytes
    cards: tuple[Card, ...] = ()


class SyntaxFaultError(Exception):
    """The command is unknown or has impossible parameters: the chip answers an error frame."""


def frame(data: bytes) -> bytes:
    """Put TFI and packet data into a normal or, above 255 bytes, an extended information frame."""
    if len(data) <= 0xFF:
        head = bytes([len(data), -len(data) & 0xFF])
    else:
        size = len(data).to_bytes(2, "big")
        head = b"\xff\xff" + size + bytes([-sum(size) & 0xFF])
    return b"\x00\x00\xff" + head + data + bytes([-sum(data) & 0xFF, 0x00])


def crc_a(data: bytes) -> bytes:
    """CRC_A of ISO/IEC 14443-3, annex B, low byte first."""
    crc = 0x6363
    for octet in data:
        low = (octet ^ crc) & 0xFF
        low = (low ^ (low << 4)) & 0xFF
        crc = (crc >> 8) ^ (low << 8) ^ (low << 3) ^ (low >> 4)
    return (crc & 0xFFFF).to_bytes(2, "little")


class Deframer:
    """Finds the frames in what the host writes; bytes that are no frame are skipped."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def clear(self) -> None:
        """Forget an unfinished frame."""
        self._buffer.clear()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield ACK, NACK, or TFI and packet data of each information frame with right checksums.

        A frame with a wrong checksum is dropped without an answer (6.2.2): the host's time-out
        finds it.
        """
        self._buffer += data
        while True:
            start = self._buffer.find(b"\x00\xff")
            if start < 0:
                del self._buffer[: max(0, len(self._buffer) - 1)]
                return
            del self._buffer[:start]
            size, found = self._first()
            if size == 0:
                return
            del self._buffer[:size]
            if found:
                yield found

    def _first(self) -> tuple[int, bytes]:
        """How many bytes to take off (0: not complete yet), and what they said (empty: nothing)."""
        buffer = self._buffer
        if len(buffer) < 4:
            return 0, b""
        if buffer[2:4] == b"\x00\xff":
            return 4, ACK
        if buffer[2:4] == b"\xff\x00":
            return 4, NACK
        if buffer[2:4] == b"\xff\xff":
            if len(buffer) < 7:
                return 0, b""
            head, size, checked = 7, buffer[4] << 8 | buffer[5], sum(buffer[4:7])
        else:
            head, size, checked = 4, buffer[2], sum(buffer[2:4])
        if checked & 0xFF or not 1 <= size <= FRAME_DATA_BYTES_MAX:
            return 2, b""  # skip the start code only: the next frame may begin inside
        if len(buffer) < head + size + 1:
            return 0, b""
        if sum(buffer[head : head + size + 1]) & 0xFF:
            return 2, b""
        return head + size + 1, bytes(buffer[head : head + size])


class Chip:
    """One PN532 with its field."""

    def __init__(self) -> None:
        self.field: list[Card] = []
        self._deframer = Deframer()
        self.power_on()

    def power_on(self) -> None:
        """Power comes (back): everything as after a reset."""
        self.baud_rate = BAUD_RATE_AT_RESET
        self.next_baud_rate: int | None = None
        self._deframer.clear()
        self._asleep = False
        self._last_reply = b""
        self._parameters = _PARAMETERS_AT_RESET
        self._retries_passive = _TRY_FOR_EVER
        self._registers: dict[int, int] = {}
        self._fifo: deque[int] = deque()
        self._targets: dict[int, Card] = {}
        self._pending: tuple[int, bytes] | None = None
        self._switch_field(on=False)

    # --- the host's side --------------------------------------------------------------------

    def receive(self, data: bytes, baud_rate: int | None = None) -> list[Sent]:
        """Take bytes from the host and return the frames to send, in order.

        Args:
            data: What came over the line.
            baud_rate: The speed the host has set; None if it is not to be looked at. Bytes at
                another speed than the chip's are lost. The chip keeps its speed until the next
                SetSerialBaudRate or loss of power, whoever has the port open (7.2.8).
        """
        if baud_rate is not None and baud_rate != self.baud_rate:
            if baud_rate != self.next_baud_rate:
                self._deframer.clear()
                return []
            # The host went ahead: its ACK was flushed or is among these very bytes.
            self._take_next_baud_rate()
        if self._asleep and data:
            # 7.2.11: the first byte on the line wakes the chip and is lost.
            self._asleep = False
            self._deframer.clear()
            data = data[1:]
        sent: list[Sent] = []
        for found in self._deframer.feed(data):
            sent += self._handle(found)
        return sent

    def _handle(self, found: bytes) -> list[Sent]:
        if found == ACK:
            self._pending = None  # 6.2.1.3: an ACK from the host aborts the command under way
            self._take_next_baud_rate()
            return []
        if found == NACK:
            return [Sent(self._last_reply)] if self._last_reply else []
        if found[0] != HOST_TO_CHIP:
            return []
        self._pending = None  # a new command aborts the one under way as well
        if len(found) < 2:
            return [Sent(ACK), self._reply_with(ERROR_FRAME)]
        return [Sent(ACK), *self._run(found[1], found[2:])]

    def _run(self, code: int, parameters: bytes) -> list[Sent]:
        try:
            result = self._COMMANDS.get(code, Chip._unknown)(self, parameters)
        except SyntaxFaultError:
            return [self._reply_with(ERROR_FRAME)]
        if result is None:
            self._pending = (code, parameters)
            return []
        listed = tuple(self._targets.values()) if code in {0x4A, 0x60} else ()
        return [self._reply_with(frame(bytes([CHIP_TO_HOST, code + 1]) + result), listed)]

    def _reply_with(self, reply: bytes, cards: tuple[Card, ...] = ()) -> Sent:
        self._last_reply = reply
        return Sent(reply, cards)

    def _take_next_baud_rate(self) -> None:
        if self.next_baud_rate is not None:
            self.baud_rate = self.next_baud_rate
            self.next_baud_rate = None

    # --- the field --------------------------------------------------------------------------

    def put(self, card: Card) -> list[Sent]:
        """Bring a card into the field; a search without end may find it at once."""
        card.power_up()
        self.field.append(card)
        if self._pending is None:
            return []
        code, parameters = self._pending
        self._pending = None
        return self._run(code, parameters)

    def take(self, card: Card) -> None:
        """Take a card out of the field; one that is not there any more is no error."""
        if card in self.field:
            self.field.remove(card)

    def _switch_field(self, *, on: bool) -> None:
        if not on:
            for card in self.field:
                card.power_up()
            self._targets.clear()
        control = self._registers.get(_TX_CONTROL, 0x80) & ~_TX_ON
        self._registers[_TX_CONTROL] = control | (_TX_ON if on else 0)

    def _air(self, card: Card, data: bytes) -> bytes | None:
        """One frame to a selected card and its answer; None is silence."""
        if card not in self.field:
            return None
        if card.frames_left == 0:
            self.take(card)
            return None
        if card.frames_left is not None:
            card.frames_left -= 1
        return card.exchange(data)

    def _poll(self, *, wake_up: bool, only: bytes = b"") -> Card | None:
        """REQA or WUPA, anticollision and select (ISO/IEC 14443-3, 6.4): at most one card."""
        answered = [card for card in self.field if card.request(wake_up=wake_up)]
        matching = [card for card in answered if not only or card.cascade() == only]
        if not matching:
            return None
        # 6.4.3 of ISO/IEC 14443-3: bits go lowest first, and at a collision the reader goes on
        # with the cards that sent a 1.
        won = max(matching, key=lambda card: [int(f"{o:08b}"[::-1], 2) for o in card.cascade()])
        won.select()
        return won

    # --- 7.2, miscellaneous commands --------------------------------------------------------

    def _diagnose(self, parameters: bytes) -> bytes:
        """7.2.1."""
        match parameters[:1]:
            case b"\x00":  # communication line: all of it comes back
                return parameters
            case b"\x01" | b"\x02":  # ROM, RAM
                return b"\x00"
            case b"\x04":  # polling for a FeliCa target: number of fails
                return b"\x80"
            case b"\x05":  # echo back: there is no answer, the chip is a mirror until reset
                return b""
            case b"\x06":  # attention request: is the ISO/IEC 14443-4 card still there?
                here = any(card in self.field for card in self._targets.values())
                return bytes([OK if here else TIME_OUT])
            case b"\x07":  # self antenna test
                return b"\x00"
        raise SyntaxFaultError

    def _get_firmware_version(self, _: bytes) -> bytes:
        """7.2.2."""
        return FIRMWARE_VERSION

    def _get_general_status(self, _: bytes) -> bytes:
        """7.2.3: last error, field of others, targets, each with speeds and type, SAM status."""
        listed = b"".join(bytes([number, 0, 0, 0x10]) for number in self._targets)
        return bytes([OK, 0, len(self._targets)]) + listed + b"\x00"

    def _read_register(self, parameters: bytes) -> bytes:
        """7.2.4."""
        if not parameters or len(parameters) % 2:
            raise SyntaxFaultError
        return bytes(
            self._read(int.from_bytes(parameters[at : at + 2], "big"))
            for at in range(0, len(parameters), 2)
        )

    def _read(self, address: int) -> int:
        if address == _FIFO_DATA:
            return self._fifo.popleft() if self._fifo else 0
        if address == _FIFO_LEVEL:
            return len(self._fifo)
        return self._registers.get(address, 0)

    def _write_register(self, parameters: bytes) -> bytes:
        """7.2.5."""
        if not parameters or len(parameters) % 3:
            raise SyntaxFaultError
        for at in range(0, len(parameters), 3):
            address, value = int.from_bytes(parameters[at : at + 2], "big"), parameters[at + 2]
            if address == _FIFO_LEVEL and value & 0x80:
                self._fifo.clear()
            elif address != _FIFO_DATA:
                self._registers[address] = value
        return b""

    def _read_gpio(self, _: bytes) -> bytes:
        """7.2.6: P3, P7 and the interface selection pins, which say HSU."""
        return bytes.fromhex("3F0600")

    def _write_gpio(self, parameters: bytes) -> bytes:
        """7.2.7."""
        return self._nothing(parameters, 2)

    def _set_serial_baud_rate(self, parameters: bytes) -> bytes:
        """7.2.8: the new speed holds from the host's ACK of the response on."""
        if len(parameters) != 1 or parameters[0] >= len(BAUD_RATES):
            raise SyntaxFaultError
        self.next_baud_rate = BAUD_RATES[parameters[0]]
        return b""

    def _set_parameters(self, parameters: bytes) -> bytes:
        """7.2.9."""
        self._nothing(parameters, 1)
        self._parameters = parameters[0]
        return b""

    def _sam_configuration(self, parameters: bytes) -> bytes:
        """7.2.10: mode 1 to 4, and optionally time-out and use of the IRQ pin."""
        if not 1 <= len(parameters) <= 3 or not 1 <= parameters[0] <= 4:
            raise SyntaxFaultError
        return b""

    def _power_down(self, parameters: bytes) -> bytes:
        """7.2.11: answers, then sleeps until the line wakes it; the field is off."""
        if not 1 <= len(parameters) <= 2:
            raise SyntaxFaultError
        self._switch_field(on=False)
        self._asleep = True
        return bytes([OK])

    def _nothing(self, parameters: bytes, size: int) -> bytes:
        if len(parameters) != size:
            raise SyntaxFaultError
        return b""

    # --- 7.3, RF communication and initiator commands ---------------------------------------

    def _rf_configuration(self, parameters: bytes) -> bytes:
        """7.3.1."""
        if not parameters or _RF_ITEM_BYTES.get(parameters[0]) != len(parameters) - 1:
            raise SyntaxFaultError
        if parameters[0] == 0x01:
            self._switch_field(on=bool(parameters[1] & 0x01))
        elif parameters[0] == 0x05:
            self._retries_passive = parameters[3]
        return b""

    def _in_list_passive_target(self, parameters: bytes) -> bytes | None:
        """7.3.5; None while a search without end has found nothing yet."""
        if len(parameters) < 2 or not 1 <= parameters[0] <= 2 or parameters[1] > 0x04:
            raise SyntaxFaultError
        most, kind, only = parameters[0], parameters[1], parameters[2:]
        self._switch_field(on=True)
        self._targets.clear()
        if kind != 0x00:  # only cards of type A at 106 kbit/s exist here
            return self._nothing_found()
        if len(only) not in {0, 4, 8, 12}:
            raise SyntaxFaultError
        self._registers[_TX_MODE] = self._registers[_RX_MODE] = _CRC_ENABLED
        listed = b""
        for number in range(1, most + 1):
            card = self._search(only)
            if card is None:
                break
            self._targets[number] = card
            listed += bytes([number]) + self._describe(card)
            if number < most and card.state is not State.PROTOCOL:
                card.halt()  # so that the next request finds the other one
        if not self._targets:
            return self._nothing_found()
        if len(self._targets) == 1:
            self._wake(self._targets[1])  # it was halted to look for another one in vain
        self._fifo.clear()
        return bytes([len(self._targets)]) + listed

    def _nothing_found(self) -> bytes | None:
        self._fifo = deque([_REQA])
        return None if self._retries_passive == _TRY_FOR_EVER else b"\x00"

    def _search(self, only: bytes) -> Card | None:
        """As many requests as the configured retries allow; two show all that time can change."""
        for _ in range(min(self._retries_passive, 1) + 1):
            card = self._poll(wake_up=False, only=only)
            if card is not None:
                return card
        return None

    def _describe(self, card: Card) -> bytes:
        """7.3.5, target data at 106 kbit/s type A: SENS_RES, SEL_RES, UID, and ATS if asked for."""
        data = card.atqa.to_bytes(2, "big") + bytes([card.sak, len(card.uid)]) + card.uid
        if card.is_iso_dep and self._parameters & _AUTOMATIC_RATS:
            data += self._air(card, b"\xe0\x50") or b""
        return data

    def _in_data_exchange(self, parameters: bytes) -> bytes | None:
        """7.3.8; the chip keeps the CRC to itself and runs ISO/IEC 14443-4 where it sent RATS.

        None while the card asks for more and more time (ISO/IEC 14443-4, 7.3).
        """
        if not parameters:
            raise SyntaxFaultError
        card = self._targets.get(parameters[0] & 0x3F)
        if card is None:
            return bytes([NOT_ACCEPTABLE])
        if not self._wake(card):
            return bytes([TIME_OUT])
        data = parameters[1:]
        if card.state is State.PROTOCOL:
            answer = self._air(card, bytes([0x02 | card.next_block_number]) + data)
            answer = answer[1:] if answer is not None else None
            if answer == b"":
                return None
        else:
            answer = self._air(card, data)
            if answer is not None and len(answer) == 1 and answer != b"\x0a":
                # The manual does not name a status for a NAK: it fails as a frame without CRC.
                return bytes([CRC_ERROR])
            if answer == b"\x0a":
                answer = b""
        return bytes([TIME_OUT]) if answer is None else bytes([OK]) + answer

    def _in_communicate_thru(self, parameters: bytes) -> bytes:
        """7.3.9: raw bytes to whichever card is selected, CRC as the CIU registers say."""
        for card in self._targets.values():
            if card.state not in {State.HALT, State.IDLE}:
                break
        else:
            return bytes([TIME_OUT])
        if not self._registers[_TX_MODE] & _CRC_ENABLED:
            if crc_a(parameters[:-2]) != parameters[-2:]:
                return bytes([TIME_OUT])  # a card keeps silent on a wrong CRC
            parameters = parameters[:-2]
        answer = self._air(card, parameters)
        if answer is None:
            return bytes([TIME_OUT])
        checked = bool(self._registers[_RX_MODE] & _CRC_ENABLED)
        if len(answer) == 1 and card.is_type_2:  # four bits carry no CRC
            return bytes([CRC_ERROR]) if checked else bytes([OK]) + answer
        return bytes([OK]) + answer + (b"" if checked else crc_a(answer))

    def _in_deselect(self, parameters: bytes) -> bytes:
        """7.3.10: the card is halted but stays known."""
        return self._let_go(parameters, forget=False)

    def _in_release(self, parameters: bytes) -> bytes:
        """7.3.11: the card is halted and forgotten.

        A halted card hears no REQA (ISO/IEC 14443-3, 6.3.5): it is found again only after the
        field was off, or it was taken away.
        """
        return self._let_go(parameters, forget=True)

    def _let_go(self, parameters: bytes, *, forget: bool) -> bytes:
        self._nothing(parameters, 1)
        if parameters[0] and parameters[0] not in self._targets:
            return bytes([NOT_ACCEPTABLE])
        for number in [parameters[0]] if parameters[0] else list(self._targets):
            self._targets[number].halt()
            if forget:
                del self._targets[number]
        return bytes([OK])

    def _in_select(self, parameters: bytes) -> bytes:
        """7.3.12."""
        self._nothing(parameters, 1)
        card = self._targets.get(parameters[0])
        if card is None:
            return bytes([NOT_ACCEPTABLE])
        return bytes([OK if self._wake(card) else TIME_OUT])

    def _wake(self, card: Card) -> bool:
        """Make a known card the selected one: halt the other, wake this one by its UID."""
        if card not in self.field:
            return False
        if card.state not in {State.HALT, State.IDLE}:
            return True
        for other in self._targets.values():
            if other is not card:
                other.halt()
        return self._poll(wake_up=True, only=card.cascade()) is not None

    def _in_atr(self, _: bytes) -> bytes:
        """7.3.3, 7.3.4 and 7.3.6: there is no NFC-DEP peer in this field."""
        return bytes([TIME_OUT])

    def _in_auto_poll(self, parameters: bytes) -> bytes:
        """7.3.13: one search for type A cards, whatever the number of polls."""
        if len(parameters) < 3:
            raise SyntaxFaultError
        self._switch_field(on=True)
        self._targets.clear()
        card = self._search(b"") if {0x00, 0x10, 0x20} & set(parameters[2:]) else None
        if card is None:
            return b"\x00"
        self._targets[1] = card
        data = b"\x01" + self._describe(card)
        return bytes([1, 0x20 if card.is_iso_dep else 0x10, len(data)]) + data

    # --- 7.3.14 to 7.3.21, target commands --------------------------------------------------

    def _as_target(self, _: bytes) -> bytes:
        """A door's reader is never a card: no initiator will come, so the chip says so at once."""
        return bytes([NOT_ACCEPTABLE])

    def _unknown(self, _: bytes) -> bytes:
        """6.2.1.5: the firmware knows no such command."""
        raise SyntaxFaultError

    _COMMANDS: ClassVar[dict[int, Callable[["Chip", bytes], bytes | None]]] = {
        0x00: _diagnose,
        0x02: _get_firmware_version,
        0x04: _get_general_status,
        0x06: _read_register,
        0x08: _write_register,
        0x0C: _read_gpio,
        0x0E: _write_gpio,
        0x10: _set_serial_baud_rate,
        0x12: _set_parameters,
        0x14: _sam_configuration,
        0x16: _power_down,
        0x32: _rf_configuration,
        0x40: _in_data_exchange,
        0x42: _in_communicate_thru,
        0x44: _in_deselect,
        0x46: _in_atr,
        0x4A: _in_list_passive_target,
        0x50: _in_atr,
        0x52: _in_release,
        0x54: _in_select,
        0x56: _in_atr,
        0x60: _in_auto_poll,
        0x86: _as_target,
        0x88: _as_target,
        0x8C: _as_target,
        0x8E: _as_target,
        0x90: _as_target,
    }


class Pn532Reader(SerialDevice):
    """A PN532 board on a serial line."""

    def __init__(
        self, name: str, path: Path, seen: Observations, *, any_baud: bool = False
    ) -> None:
        """Open nothing yet.

        Args:
            name: The device's name in the site.
            path: Where the host finds its port.
            seen: Gets `CardSent`.
            any_baud: Understand the host at whatever speed it has set.
        """
        super().__init__(name, path, seen)
        self.chip = Chip()
        self._any_baud = any_baud

    def put(self, card: Card) -> None:
        """Bring a card into the field."""
        card.told = False
        self._send(self.chip.put(card))

    def take(self, card: Card) -> None:
        """Take a card out of the field."""
        self.chip.take(card)

    def power_on(self) -> None:
        """The port is the power supply too: the chip starts anew when it is plugged in."""
        self.chip.power_on()
        for card in self.chip.field:
            card.told = False

    def unasked(self) -> bytes:
        """The answer to a search that nobody started."""
        return frame(bytes([CHIP_TO_HOST, 0x4B, 0x00]))

    def receive(self, data: bytes) -> None:
        """Hand the chip what the host wrote."""
        self._send(self.chip.receive(data, None if self._any_baud else self.line.baud_rate))

    def _send(self, frames: list[Sent]) -> None:
        for sent in frames:
            self.send(sent.frame, partial(self._told, sent.cards) if sent.cards else None)

    def _told(self, cards: tuple[Card, ...], at_ns: int) -> None:
        for card in cards:
            if not card.told:
                card.told = True
                uid = card.uid.hex().upper()
                self.seen.add(CardSent(at_ns, self.name, uid))
