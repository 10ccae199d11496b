"""An NTAG 424 DNA's message: a URL with its UID and a counter, encrypted, and a MAC (NXP AN12196).

The message is the same whether the tag is read by NFC (two commands) or a phone that read it shows
it to a scanner. Its counter says which is newer; that each is taken once is for the door to see to.
"""

import hmac
import re
from collections.abc import Generator
from typing import Final, NamedTuple

from . import SUCCESS, Conversation, NotThisCard, ProofRefused, Proven, parted
from .aes import cmac, decrypt, diversified, truncated

KIND: Final = "sun"

SELECT_NDEF: Final = bytes.fromhex("00A4040007D276000085010100")
READ_NDEF_FILE: Final = bytes.fromhex("00B08400")
"""ISOReadBinary of the file whose short identifier is 04: no command to select it first."""

TAG_WITH_UID_AND_COUNTER: Final = 0xC7
"""PICCDataTag (AN12196, 3.3): UID and SDMReadCtr are there, the UID has seven bytes."""
SV2: Final = bytes.fromhex("3CC300010080")

NDEF_HEAD_BYTES: Final = 2 + 4 + 1
"""NLEN; a short record's header, type length, payload length and type U; the abbreviation."""
ABBREVIATIONS: Final = ("", "http://www.", "https://www.", "http://", "https://")
"""NFC Forum, URI Record Type Definition, table 3, as far as web addresses go."""
READ_BYTES_MAX: Final = 256

PICC: Final = "{picc}"
MAC: Final = "{mac}"


class Message(NamedTuple):
    """What a tag says of itself, not believed yet."""

    picc: bytes
    mac: bytes


class Keys(NamedTuple):
    """What a message is opened and checked with."""

    picc: bytes
    """SDMMetaReadKey: one for all tags, since it is needed before the UID is known."""
    mac: bytes
    """What each tag's SDMFileReadKey is derived from."""
    diversification: bytes
    """AN10922: what follows the UID in that."""

    def __repr__(self) -> str:
        """Without the keys."""
        return "Keys()"


class Template:
    """The URL that a site's tags are set up with, `{picc}` and `{mac}` standing in it."""

    def __init__(self, url: str) -> None:
        """Raises ValueError: they don't stand in it once each, in this order."""
        head, found, rest = url.partition(PICC)
        middle, found_too, tail = rest.partition(MAC)
        if not found or not found_too or PICC in middle + tail or MAC in head + tail:
            raise ValueError("must have {picc} and then {mac} in it, once each")
        self.length = len(url) - len(PICC) - len(MAC) + 32 + 16
        self.head = head
        self._pattern = re.compile(
            f"{re.escape(head)}([0-9A-Fa-f]{{32}}){re.escape(middle)}([0-9A-Fa-f]{{16}})"
            f"{re.escape(tail)}"
        )

    def message(self, url: str) -> Message | None:
        """The message in `url`; None where it has another form."""
        found = self._pattern.fullmatch(url)
        return None if found is None else Message(*map(bytes.fromhex, found.groups()))


def proven(message: Message, keys: Keys) -> Proven:
    """Open and check a message (AN12196, 3.4.2 and 3.4.4, no file data under the MAC).

    Raises:
        ProofRefused: another key made it, or nobody.
    """
    opened = decrypt(keys.picc, message.picc)
    if opened[0] != TAG_WITH_UID_AND_COUNTER:
        raise ProofRefused(KIND, "wrong_key")
    uid, counter = opened[1:8], opened[8:11]
    file_key = diversified(keys.mac, uid + keys.diversification)
    if not hmac.compare_digest(message.mac, mac_of(file_key, uid, counter)):
        raise ProofRefused(KIND, "not_authentic")
    return Proven(KIND, uid.hex().upper(), int.from_bytes(counter, "little"))


def mac_of(file_key: bytes, uid: bytes, counter: bytes) -> bytes:
    """The MAC of a message with nothing under it but the session key's own input."""
    return truncated(cmac(cmac(file_key, SV2 + uid + counter), b""))


class Sun(NamedTuple):
    """Which URL a tag must hold, and the keys."""

    template: Template
    keys: Keys

    def read(self, uid: bytes) -> Conversation:
        """See `Technology.read`."""
        del uid
        _, status = parted((yield SELECT_NDEF))
        if status != SUCCESS:
            raise NotThisCard
        file = yield from self._file()
        message = self.template.message(_url(file))
        if message is None:
            # Any tag can hold any address: one that isn't ours is no failed proof.
            raise NotThisCard
        return proven(message, self.keys)

    def _file(self) -> Generator[bytes, bytes, bytes]:
        # The longest form; the abbreviation leaves some bytes more to read than there are.
        wanted = min(READ_BYTES_MAX, NDEF_HEAD_BYTES + self.template.length)
        data, status = parted((yield READ_NDEF_FILE + bytes((wanted & 0xFF,))))
        if status != SUCCESS:
            raise NotThisCard
        return data


def _url(file: bytes) -> str:
    """The address in an NDEF file with one short URI record; "" where there is none."""
    size = int.from_bytes(file[:2], "big")
    record = file[2 : 2 + size]
    # MB, ME and SR set, TNF 1 (well-known), a type of one byte: U.
    if len(record) < 5 or record[:2] != b"\xd1\x01" or record[3:4] != b"U":
        return ""
    payload = record[4 : 4 + record[2]]
    if not payload or payload[0] >= len(ABBREVIATIONS):
        return ""
    return ABBREVIATIONS[payload[0]] + payload[1:].decode("latin-1")
