"""How secure cards are set up in the site's file, and where their keys are: in files of their own.

    credentials = ["desfire", "aliro", "grant", "pkoc", "sun", "uid"]   # tried in this order

    [devices.NAME.desfire]
    aid = "F58840"                  # the application, as a number; also the credential's first part
    authentication = "ev2"          # "ev1": only that; nothing is tried that the card doesn't know
    key = "/run/credentials/door-gateway-core.service/desfire"
    key_number = 1                  # that may read the file
    file = 1                        # a standard data file, communication mode full
    id_bytes = 8                    # what of it is the id
    diversification = "F588404C4F4E"    # AN10922: what follows the UID; without it, one key for all
    uid_key = "/run/credentials/door-gateway-core.service/desfire-uid"  # for cards with a random
    uid_key_number = 2                                                  # UID: opens the real one

    [devices.NAME.pkoc]
    reader_identifier = "…"         # 64 hex digits: the site's 16 bytes, then the reader's
    issuers = { ISSUER0000000001 = "04…" }  # with any, only keys that one of them has certified

    [devices.NAME.aliro]
    reader_identifier = "…"         # 64 hex digits: the group's 16 bytes, then the reader's
    reader_key = "/run/credentials/door-gateway-core.service/aliro"     # the group's private key

    [devices.NAME.grant]
    reader_identifier = "…"         # 64 hex digits: the gateway's 16 bytes, then the door's

    [devices.NAME.sun]
    url = "https://tap.example.com/t?e={picc}&c={mac}"
    picc_key = "/run/credentials/door-gateway-core.service/sun-picc"
    mac_key = "/run/credentials/door-gateway-core.service/sun-mac"
    diversification = "4C4F4E"      # AN10922: what follows the UID in each tag's own key

A key file holds 32 hex digits (`reader_key`: 64), and nobody but its owner may read it: so it is
with a systemd credential.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import msgspec

from gateway.drivers.cards.p256 import public_key
from gateway.drivers.cards.sun import READ_BYTES_MAX, Template
from gateway.errors import DeviceMisconfigured
from gateway.statedir import read_secret

KEY_FILE_BYTES_MAX: Final = 256
UID_BYTES: Final = 7
DIVERSIFICATION_BYTES_MAX: Final = 31 - UID_BYTES
"""AN10922 takes 31 bytes, the UID first."""
URL_CHARACTERS_MAX: Final = 128
"""A short NDEF record, and a code that a scanner hands on, hold no longer one."""

KeyFile = Annotated[
    str, msgspec.Meta(pattern=r"^/[^\x00]*$", description='the absolute path of a key file ("/…")')
]
Hex = Annotated[
    str,
    msgspec.Meta(
        pattern=r"^([0-9A-F]{2})*$", description="an even number of hex digits, in upper case"
    ),
]


class CardTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What stands under a technology's name."""

    def key_files(self) -> dict[str, str]:
        """The files with its keys, by the member that names them."""
        return {
            name: file
            for name in self.__struct_fields__
            if name in KEY_MEMBERS and (file := getattr(self, name)) is not None
        }

    def __post_init__(self) -> None:
        """Refuse what can't work.

        Raises:
            ValueError: msgspec turns it into a fault with its path in the file.
        """
        if told := "\n".join(self.faults()):
            raise ValueError(told)

    def faults(self) -> Iterator[str]:
        """What is wrong, a text each."""
        yield from ()


KEY_MEMBERS: Final = {"key": 16, "uid_key": 16, "picc_key": 16, "mac_key": 16, "reader_key": 32}
"""How many bytes each key has."""


class DesfireTable(CardTable, frozen=True, kw_only=True):
    """[devices.NAME.desfire]. Nothing that decides which card counts has a default."""

    aid: Annotated[
        str, msgspec.Meta(pattern="^[0-9A-F]{6}$", description="six hex digits, in upper case")
    ]
    authentication: Literal["ev1", "ev2"]
    key: KeyFile
    key_number: Annotated[int, msgspec.Meta(ge=0, le=13, description="0 to 13")]
    file: Annotated[int, msgspec.Meta(ge=0, le=31, description="0 to 31")]
    id_bytes: Annotated[int, msgspec.Meta(ge=1, le=32, description="1 to 32")]
    id_offset: Annotated[int, msgspec.Meta(ge=0, le=8191, description="0 to 8191")] = 0
    diversification: Hex | None = None
    uid_key: KeyFile | None = None
    uid_key_number: Annotated[int, msgspec.Meta(ge=0, le=13, description="0 to 13")] | None = None

    def faults(self) -> Iterator[str]:
        """See `CardTable.faults`."""
        yield from _too_long(self.diversification or "")
        if (self.uid_key is None) != (self.uid_key_number is None):
            yield "`uid_key` and `uid_key_number` go together"
        if self.uid_key is not None and self.diversification is None:
            yield "`uid_key` is of no use without `diversification`"


class PkocTable(CardTable, frozen=True, kw_only=True):
    """[devices.NAME.pkoc]."""

    reader_identifier: Annotated[
        str, msgspec.Meta(pattern="^[0-9A-F]{64}$", description="64 hex digits, in upper case")
    ]
    issuers: dict[str, str] = {}

    def faults(self) -> Iterator[str]:
        """See `CardTable.faults`."""
        for name, key in self.issuers.items():
            if len(name) != 16 or not name.isascii():
                yield f"`issuers` {name!r}: a certificate's issuer reference has 16 characters"
            try:
                public_key(bytes.fromhex(key))
            except ValueError:
                yield f"`issuers` {name!r}: is no P-256 public key (130 hex digits, 04 first)"


class AliroTable(CardTable, frozen=True, kw_only=True):
    """[devices.NAME.aliro]."""

    reader_identifier: Annotated[
        str, msgspec.Meta(pattern="^[0-9A-F]{64}$", description="64 hex digits, in upper case")
    ]
    reader_key: KeyFile


class GrantTable(CardTable, frozen=True, kw_only=True):
    """[devices.NAME.grant]."""

    reader_identifier: Annotated[
        str, msgspec.Meta(pattern="^[0-9A-F]{64}$", description="64 hex digits, in upper case")
    ]

    @property
    def identifier(self) -> bytes:
        """What a phone signs for."""
        return bytes.fromhex(self.reader_identifier)


class SunTable(CardTable, frozen=True, kw_only=True):
    """[devices.NAME.sun], at a reader or a scanner."""

    url: str
    picc_key: KeyFile
    mac_key: KeyFile
    diversification: Hex

    def faults(self) -> Iterator[str]:
        """See `CardTable.faults`."""
        yield from _too_long(self.diversification)
        try:
            template = Template(self.url)
        except ValueError as error:
            yield f"`url` {error}"
            return
        if not re.fullmatch(r"https?://[!-~]+", template.head):
            yield "`url` must begin with https:// and a name, in printable ASCII"
        if template.length > min(URL_CHARACTERS_MAX, READ_BYTES_MAX):
            yield f"`url` must have at most {URL_CHARACTERS_MAX} characters, mirrors and all"


def _too_long(diversification: str) -> Iterator[str]:
    if len(diversification) > 2 * DIVERSIFICATION_BYTES_MAX:
        yield f"`diversification` must have at most {DIVERSIFICATION_BYTES_MAX} bytes"


def with_keys(table: CardTable) -> dict[str, Any]:
    """The table's members, each key file's content in its place (hex digits).

    Raises:
        DeviceMisconfigured: a key can't be read or is none.
    """
    told = msgspec.to_builtins(table)
    assert isinstance(told, dict)  # noqa: S101  # a struct is
    for member, file in table.key_files().items():
        told[member] = read_key(file, KEY_MEMBERS[member])
    return told


def read_key(file: str, size: int = 16) -> str:
    """The hex digits of a key of `size` bytes in its file.

    Raises:
        DeviceMisconfigured: it isn't there, is no key, or others may read it.
    """
    try:
        content = read_secret(Path(file), KEY_FILE_BYTES_MAX)
    except OSError as error:
        raise DeviceMisconfigured(f"{file}: the key can't be read: {error.strerror}") from error
    digits = content.strip()
    if not re.fullmatch(b"[0-9A-Fa-f]{%d}" % (2 * size), digits):
        raise DeviceMisconfigured(f"{file}: is no key: {2 * size} hexadecimal digits are")
    return digits.decode().upper()


def missing_keys(name: str, table: CardTable | None) -> Iterator[tuple[str, str]]:
    """The key files of [devices.….NAME] that can't be used here: member and why."""
    for member, file in table.key_files().items() if table is not None else ():
        if not Path(file).exists():
            yield f"{name}.{member}", f"{file}: isn't there: no such card is read without it"
