"""A MIFARE DESFire's id file, read with AES authentication, encrypted and proven by the card.

EV1's secure messaging (AN12757, formerly AN0945) and EV2's (AN12343, 7.1), commands wrapped in
ISO/IEC 7816-4 frames. Four commands where the UID is known, seven where the card hides it behind a
random one.
"""

import hmac
import zlib
from collections.abc import Callable, Generator
from typing import Final, NamedTuple

from . import Conversation, NotThisCard, ProofRefused, Proven, parted
from .aes import BLOCK, ZERO, chained_cmac, cmac, decrypt, diversified, encrypt, truncated

KIND: Final = "desfire"

AUTHENTICATE_AES: Final = 0xAA
AUTHENTICATE_EV2_FIRST: Final = 0x71
ADDITIONAL_FRAME: Final = 0xAF
SELECT_APPLICATION: Final = 0x5A
GET_CARD_UID: Final = 0x51
READ_DATA: Final = 0xBD

OPERATION_OK: Final = 0x9100
MORE_FRAMES: Final = 0x91AF
APPLICATION_NOT_FOUND: Final = 0x91A0
AUTHENTICATION_ERROR: Final = 0x91AE

UID_BYTES: Final = 7
RANDOM_UID: Final = 0x08
"""The first byte of a UID of four bytes that is random (ISO/IEC 14443-3, 6.5.4)."""


class Key(NamedTuple):
    """A key of the application, and its number there."""

    number: int
    value: bytes

    def __repr__(self) -> str:
        """Without the value."""
        return f"Key({self.number})"


class Desfire(NamedTuple):
    """Which application, key and file to read."""

    aid: str
    """The application's number, six hex digits; it goes over the air last byte first."""
    ev2: bool
    key: Key
    file: int
    offset: int
    length: int
    diversification: bytes | None = None
    """AN10922: what follows the UID; None where all cards have the one key."""
    uid_key: Key | None = None
    """Opens the real UID of a card with a random one."""
    random: Callable[[int], bytes] = bytes

    def read(self, uid: bytes) -> Conversation:
        """See `Technology.read`."""
        aid = bytes.fromhex(self.aid)[::-1]
        _, status = parted((yield _wrapped(SELECT_APPLICATION, aid)))
        if status != OPERATION_OK:
            # Other cards say 6E00 or 6D00, a DESFire APPLICATION_NOT_FOUND.
            raise NotThisCard
        key = self.key
        if self.diversification is not None:
            if len(uid) != UID_BYTES:
                uid = yield from self._real_uid()
            key = Key(key.number, diversified(key.value, uid + self.diversification))
        session = yield from self._authenticate(key)
        header = bytes((self.file,)) + _three(self.offset) + _three(self.length)
        answer = yield session.command(READ_DATA, header)
        identity = session.answer(answer, self.length)
        return Proven(KIND, f"{self.aid}:{identity.hex().upper()}")

    def _real_uid(self) -> Generator[bytes, bytes, bytes]:
        if self.uid_key is None:
            raise ProofRefused(KIND, "random_uid")
        session = yield from self._authenticate(self.uid_key)
        answer = yield session.command(GET_CARD_UID, b"")
        return session.answer(answer, UID_BYTES)

    def _authenticate(self, key: Key) -> Generator[bytes, bytes, "Ev1 | Ev2"]:
        code = AUTHENTICATE_EV2_FIRST if self.ev2 else AUTHENTICATE_AES
        # EV2 takes the length of the reader's capabilities too: none.
        number = bytes((key.number, 0)) if self.ev2 else bytes((key.number,))
        sealed_b, status = parted((yield _wrapped(code, number)))
        if status != MORE_FRAMES or len(sealed_b) != BLOCK:
            raise ProofRefused(KIND, "no_such_key")
        rnd_b = decrypt(key.value, sealed_b)
        rnd_a = self.random(BLOCK)
        # EV1 chains through the whole handshake, EV2 begins each message anew.
        iv = ZERO if self.ev2 else sealed_b
        proof = encrypt(key.value, rnd_a + rnd_b[1:] + rnd_b[:1], iv)
        sealed, status = parted((yield _wrapped(ADDITIONAL_FRAME, proof)))
        if status == AUTHENTICATION_ERROR:
            raise ProofRefused(KIND, "wrong_key")
        if status != OPERATION_OK or len(sealed) != (2 * BLOCK if self.ev2 else BLOCK):
            raise ProofRefused(KIND, "malformed")
        opened = decrypt(key.value, sealed, ZERO if self.ev2 else proof[-BLOCK:])
        rotated = opened[4 : 4 + BLOCK] if self.ev2 else opened
        if not hmac.compare_digest(rotated, rnd_a[1:] + rnd_a[:1]):
            raise ProofRefused(KIND, "wrong_key")
        if self.ev2:
            return Ev2(key.value, rnd_a, rnd_b, opened[:4])
        return Ev1(rnd_a, rnd_b)


class Ev1:
    """EV1 secure messaging, full mode: one key, the chain of initial vectors never breaks."""

    def __init__(self, rnd_a: bytes, rnd_b: bytes) -> None:
        self.key = rnd_a[:4] + rnd_b[:4] + rnd_a[12:] + rnd_b[12:]
        self._iv = ZERO

    def command(self, code: int, header: bytes) -> bytes:
        """A command in clear; the chain goes on over its code and header."""
        self._iv = chained_cmac(self.key, self._iv, bytes((code,)) + header)
        return _wrapped(code, header)

    def answer(self, answer: bytes, length: int) -> bytes:
        """The `length` bytes that the card answers. Raises ProofRefused."""
        sealed, status = parted(answer)
        _must_be_ok(status)
        if len(sealed) != -(-(length + 4) // BLOCK) * BLOCK:
            raise ProofRefused(KIND, "malformed")
        opened = decrypt(self.key, sealed, self._iv)
        self._iv = sealed[-BLOCK:]
        data, crc, padding = opened[:length], opened[length : length + 4], opened[length + 4 :]
        if not hmac.compare_digest(crc, crc32(data + b"\x00")) or any(padding):
            raise ProofRefused(KIND, "not_authentic")
        return data


class Ev2:
    """EV2 secure messaging, full mode: a key to encrypt, one to MAC, and a counter of commands."""

    def __init__(self, key: bytes, rnd_a: bytes, rnd_b: bytes, transaction: bytes) -> None:
        mixed = bytes(a ^ b for a, b in zip(rnd_a[2:8], rnd_b[:6], strict=True))
        vector = b"\x00\x01\x00\x80" + rnd_a[:2] + mixed + rnd_b[6:] + rnd_a[8:]
        self.encryption_key = cmac(key, b"\xa5\x5a" + vector)
        self.mac_key = cmac(key, b"\x5a\xa5" + vector)
        self.transaction = transaction
        self.counter = 0

    def command(self, code: int, header: bytes) -> bytes:
        """A command in clear with its MAC."""
        return _wrapped(code, header + self._mac(code, header))

    def answer(self, answer: bytes, length: int) -> bytes:
        """The `length` bytes that the card answers. Raises ProofRefused."""
        self.counter += 1
        sealed, status = parted(answer)
        _must_be_ok(status)
        sealed, mac = sealed[:-8], sealed[-8:]
        if len(sealed) != (length // BLOCK + 1) * BLOCK:
            raise ProofRefused(KIND, "malformed")
        if not hmac.compare_digest(mac, self._mac(0x00, sealed)):
            raise ProofRefused(KIND, "not_authentic")
        label = b"\x5a\xa5" + self.transaction + self.counter.to_bytes(2, "little")
        iv = encrypt(self.encryption_key, label.ljust(BLOCK, b"\x00"))
        opened = decrypt(self.encryption_key, sealed, iv)
        if opened[length:] != b"\x80".ljust(len(opened) - length, b"\x00"):
            raise ProofRefused(KIND, "not_authentic")
        return opened[:length]

    def _mac(self, code: int, data: bytes) -> bytes:
        counted = bytes((code,)) + self.counter.to_bytes(2, "little")
        return truncated(cmac(self.mac_key, counted + self.transaction + data))


def crc32(data: bytes) -> bytes:
    """The CRC32 of ISO/IEC 13239 without its last inversion, low byte first, as DESFire has it."""
    return (zlib.crc32(data) ^ 0xFFFFFFFF).to_bytes(4, "little")


def _must_be_ok(status: int) -> None:
    if status != OPERATION_OK:
        raise ProofRefused(KIND, "no_such_file")


def _wrapped(code: int, data: bytes) -> bytes:
    size = bytes((len(data),)) if data else b""
    return bytes((0x90, code, 0x00, 0x00)) + size + data + b"\x00"


def _three(number: int) -> bytes:
    return number.to_bytes(3, "little")
