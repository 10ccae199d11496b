"""Contactless cards of type A as a reader sees them: ISO/IEC 14443-3 and -4, type 2 tags."""

import enum
from collections.abc import Callable
from dataclasses import dataclass, field

# ISO/IEC 14443-3, 6.4.3.1: the cascade tag that says that the UID goes on in the next level.
CASCADE_TAG = 0x88

# NXP NTAG213/215/216 data sheet, 10.1 GET_VERSION, the answer of an NTAG213.
NTAG213_VERSION = bytes.fromhex("0004040201000F03")
NTAG213_PAGES = 45
# A type 2 tag answers a refusal with these four bits (NTAG213/215/216 data sheet, 9.3).
NAK_INVALID_ARGUMENT = b"\x00"
ACK = b"\x0a"

# ISO/IEC 14443-4, 5.2: TL, T0 (TA, TB and TC follow, frames of 64 bytes), TA, TB, TC, one
# historical byte. It is what a DESFire answers.
ATS = bytes.fromhex("067577810280")
# ISO/IEC 7816-4, 5.1.3: instruction code not supported.
SW_INS_NOT_SUPPORTED = bytes.fromhex("6D00")


class State(enum.Enum):
    """ISO/IEC 14443-3, 6.3: the states of a card; READY lasts only within one anticollision."""

    IDLE = "idle"
    ACTIVE = "active"
    # Selected after a wake-up from HALT: goes back there, and no REQA wakes it.
    ACTIVE_STAR = "active*"
    HALT = "halt"
    # ISO/IEC 14443-4: activated by RATS; deaf to REQA and WUPA.
    PROTOCOL = "protocol"


@dataclass(slots=True, kw_only=True)
class Card:
    """One card.

    Attributes:
        uid: 4, 7 or 10 bytes.
        atqa: As ISO/IEC 14443-3 numbers it, b16 to b1; bits 7 and 8 tell the size of the UID.
        sak: Select acknowledge of the last cascade level; bit 6 set is ISO/IEC 14443-4.
        memory: A type 2 tag's pages of four bytes each.
        apdu: What an ISO/IEC 14443-4 card answers to a command APDU; nothing: it
            asks for more time.
        powered: What it does when it gets power.
        frames_left: The card is pulled away after so many frames of data; None: never.
        told: Whether the host has been given the UID since the card came into the field.
    """

    uid: bytes
    atqa: int
    sak: int
    memory: bytearray = field(default_factory=bytearray)
    apdu: Callable[[bytes], bytes] = lambda _: SW_INS_NOT_SUPPORTED
    powered: Callable[[], None] = lambda: None
    frames_left: int | None = None
    state: State = State.IDLE
    told: bool = False
    _block_number: int = 1
    _answer: bytes = b""

    def power_up(self) -> None:
        """The field came (back): whatever the card knew of the session is gone."""
        self.state = State.IDLE
        self._block_number = 1
        self._answer = b""
        self.powered()

    @property
    def is_type_2(self) -> bool:
        """Whether the SAK says type 2 tag (NFC Forum Digital: b6 and b7 are 0), not a Classic."""
        return self.sak == 0x00

    @property
    def is_iso_dep(self) -> bool:
        """Whether the SAK says ISO/IEC 14443-4."""
        return bool(self.sak & 0x20)

    @property
    def next_block_number(self) -> int:
        """The block number that a reader in step uses next (ISO/IEC 14443-4, 7.5.4)."""
        return self._block_number ^ 1

    def cascade(self) -> bytes:
        """The UID with its cascade tags, as it goes over the air level by level."""
        if len(self.uid) == 4:
            return self.uid
        if len(self.uid) == 7:
            return bytes([CASCADE_TAG]) + self.uid
        return bytes([CASCADE_TAG]) + self.uid[:3] + bytes([CASCADE_TAG]) + self.uid[3:]

    def request(self, *, wake_up: bool) -> bool:
        """Hear a REQA or WUPA; tell whether the card answers it with its ATQA."""
        if self.state is State.IDLE:
            return True
        if self.state is State.HALT:
            return wake_up
        # An active card that hears a command out of place answers nothing and falls back.
        if self.state is State.ACTIVE:
            self.state = State.IDLE
        elif self.state is State.ACTIVE_STAR:
            self.state = State.HALT
        return False

    def select(self) -> None:
        """Win an anticollision."""
        self.state = State.ACTIVE_STAR if self.state is State.HALT else State.ACTIVE

    def halt(self) -> None:
        """Hear HLTA, or S(DESELECT) in protocol state."""
        if self.state in {State.ACTIVE, State.ACTIVE_STAR, State.PROTOCOL}:
            self.state = State.HALT

    def exchange(self, frame: bytes) -> bytes | None:
        """Answer one frame, both without CRC; None is silence. An answer of one byte is 4 bits."""
        if self.state in {State.IDLE, State.HALT}:
            return None
        if frame[:2] == b"\x50\x00":
            self.halt()
            return None
        if self.state is State.PROTOCOL:
            return self._iso_dep(frame)
        if self.is_iso_dep and frame[:1] == b"\xe0":  # RATS, ISO/IEC 14443-4, 5.1
            self.state = State.PROTOCOL
            return ATS
        if self.is_type_2:
            return self._type_2(frame)
        return None

    def _type_2(self, frame: bytes) -> bytes:
        """NTAG213/215/216 data sheet, chapter 10."""
        match frame[:1], len(frame):
            case b"\x60", 1:  # GET_VERSION
                return NTAG213_VERSION
            case b"\x30", 2 if frame[1] * 4 < len(self.memory):  # READ, rolls over at the end
                start = frame[1] * 4
                return bytes((self.memory + self.memory)[start : start + 16])
            case b"\x3a", 3 if frame[1] <= frame[2] and frame[2] * 4 < len(self.memory):
                return bytes(self.memory[frame[1] * 4 : (frame[2] + 1) * 4])  # FAST_READ
            case b"\xa2", 6 if frame[1] >= 4 and frame[1] * 4 < len(self.memory):  # WRITE
                self.memory[frame[1] * 4 : frame[1] * 4 + 4] = frame[2:]
                return ACK
        # After a NAK the tag waits in IDLE, or in HALT if it came from there, as after any error.
        self.state = State.HALT if self.state is State.ACTIVE_STAR else State.IDLE
        return NAK_INVALID_ARGUMENT

    def _iso_dep(self, block: bytes) -> bytes | None:
        """ISO/IEC 14443-4, 7.5: the card's side of the block protocol, without chaining."""
        pcb = block[0] if block else 0
        if pcb & 0xE2 == 0x02:  # I-block
            self._block_number ^= 1
            self._answer = bytes([0x02 | self._block_number]) + self.apdu(block[1:])
            return self._answer
        if pcb & 0xF6 == 0xB2:  # R(NAK): rule 11 repeats, rule 12 answers R(ACK)
            if pcb & 1 == self._block_number and self._answer:
                return self._answer
            return bytes([0xA2 | self._block_number])
        if pcb & 0xF7 == 0xC2:  # S(DESELECT)
            self.halt()
            return bytes([pcb])
        return None


def card(uid: str, *, iso_dep: bool = False, frames_left: int | None = None) -> Card:
    """A card of the usual kind for the size of its UID.

    4 bytes: a MIFARE Classic 1K; 7 bytes: an NTAG213, with its UID in pages 0 and 1;
    10 bytes: a plain memory card of that size.

    Args:
        uid: Hexadecimal, 4, 7 or 10 bytes.
        iso_dep: Make it an ISO/IEC 14443-4 card instead.
        frames_left: Pull it away after so many frames of data; None: never.

    Raises:
        ValueError: the UID has another length or is no hexadecimal.
    """
    octets = bytes.fromhex(uid)
    # ISO/IEC 14443-3, 6.4.2: b7 and b8 are the size of the UID, one of b1 to b5 the anticollision.
    sizes = {4: 0x0004, 7: 0x0044, 10: 0x0084}
    if len(octets) not in sizes:
        raise ValueError(f"a UID of {len(octets)} bytes: type A has 4, 7 or 10")
    made = Card(uid=octets, atqa=sizes[len(octets)], sak=0x00, frames_left=frames_left)
    if iso_dep:
        made.sak = 0x20
        made.atqa |= 0x0300
    elif len(octets) == 4:
        made.sak = 0x08
    else:
        made.memory = bytearray(NTAG213_PAGES * 4)
        if len(octets) == 7:
            # NTAG213/215/216 data sheet, 8.5.1: UID and its two check bytes; then the NDEF
            # capability container and an empty message.
            check_0 = CASCADE_TAG ^ octets[0] ^ octets[1] ^ octets[2]
            check_1 = octets[3] ^ octets[4] ^ octets[5] ^ octets[6]
            head = octets[:3] + bytes([check_0]) + octets[3:] + bytes([check_1, 0x48, 0, 0])
            made.memory[: len(head)] = head
            made.memory[12:20] = bytes.fromhex("E1101200 0300FE00")
    return made
