"""PKOC over BLE, the reader's side of one conversation: bytes in, what to send or believe out.

As PSIA's public reference code speaks it, version 3 of the protocol
(github.com/psialliance-org/com-psia-pkoc: `BleNormalFlowTransaction`, `BleEcdheFlowTransaction`,
`CryptoProvider`; the specification itself is PSIA's). The reader's ephemeral key is the nonce: made
for one conversation, good for 5 s, spent by the first proof.
"""

from collections.abc import Callable
from datetime import timedelta
from enum import IntEnum
from typing import Final

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.ciphers.aead import AESCCM
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from gateway.drivers.cards.p256 import POINT_BYTES, SIGNATURE_BYTES, verifies

SERVICE: Final = "0000fff0-0000-1000-8000-00805f9b34fb"
TO_READER: Final = "fe278a85-89ae-191f-5dde-841202693835"
TO_PHONE: Final = "e5b1b3b5-3cca-3f76-cd86-a884cc239692"

# Types of fields (BLE_PacketType).
PUBLIC_KEY: Final = 0x01
READER_EPHEMERAL_KEY: Final = 0x02  # compressed
SIGNATURE: Final = 0x03
RESPONSE: Final = 0x04
PHONE_EPHEMERAL_KEY: Final = 0x07  # uncompressed
LAST_UPDATE_TIME: Final = 0x09
PROTOCOL_VERSION: Final = 0x0C
READER_IDENTIFIER: Final = 0x0D
SITE_IDENTIFIER: Final = 0x0E
ENCRYPTED: Final = 0x40

VERSION: Final = bytes.fromhex("0300000001")
"""Protocol 3, no vendor's version, AES-CCM and no other cipher (ProtocolVersionPacket)."""
CCM_TAG_BYTES: Final = 16
CCM_NONCE: Final = bytes(7) + b"\x01" + (1).to_bytes(4, "big")
"""getCcmIv: a fixed 8 bytes and a counter, which begins at 1; a conversation encrypts once."""

NONCE_AGE_MAX: Final = timedelta(seconds=5)
"""docs/promises.md P11."""
WRITES_MAX: Final = 4
"""A phone says all in one write, in two with ECDHE; more is none."""


class Answer(IntEnum):
    """What the phone is told (ReaderUnlockStatus)."""

    COMPLETED = 1
    DENIED = 2
    GRANTED = 3
    INVALID_SECURITY = 5
    SIGNATURE_INVALID = 6
    DECRYPTION_FAILED = 7


class Send(msgspec.Struct, frozen=True):
    """Notify the phone."""

    data: bytes


class Proven(msgspec.Struct, frozen=True):
    """The phone holds the private key of `key`, an uncompressed point."""

    key: bytes

    def __repr__(self) -> str:
        """Without the key: a credential is never printed."""
        return "Proven()"


class Refused(msgspec.Struct, frozen=True):
    """The conversation is over; nothing of it may be believed."""

    why: str
    answer: Answer


def field(kind: int, value: bytes) -> bytes:
    """One field: its type, its length in one byte whatever it is (TLVProvider), its value."""
    return bytes((kind, len(value))) + value


def fields(data: bytes) -> list[tuple[int, bytes]]:
    """Take fields apart, in order.

    Raises:
        ValueError: the last one is cut off.
    """
    found = []
    at = 0
    while at < len(data):
        if at + 2 > len(data) or at + 2 + data[at + 1] > len(data):
            raise ValueError(f"a field at byte {at} is cut off")
        end = at + 2 + data[at + 1]
        found.append((data[at], data[at + 2 : end]))
        at = end
    return found


def answered(answer: Answer) -> bytes:
    """The reader's last message."""
    return field(RESPONSE, bytes((answer,)))


class PkocConversation:
    """One phone at one door, from its subscription on. `at` is monotonic time."""

    def __init__(
        self,
        site: bytes,
        reader: bytes,
        at: timedelta,
        *,
        site_key: ec.EllipticCurvePrivateKey | None,
        plain: bool,
        new_key: Callable[[], ec.EllipticCurvePrivateKey] = lambda: ec.generate_private_key(
            ec.SECP256R1()
        ),
    ) -> None:
        """Make the nonce.

        Args:
            site: The site's identifier, 16 bytes.
            reader: The door's reader identifier, 16 bytes.
            at: Now.
            site_key: Signs for the reader in the ECDHE flow; None: there is no such flow.
            plain: Whether the plain flow is accepted.
            new_key: Makes the ephemeral key.
        """
        self._site = site
        self._reader = reader
        self._begun = at
        self._site_key = site_key
        self._plain = plain
        self._key = new_key()
        self._writes = 0
        self._over = False
        self._secret: bytes | None = None
        self._phone_x = b""
        self._said: dict[int, bytes] = {}

    def hello(self) -> bytes:
        """What the phone is told first."""
        return b"".join(
            (
                field(PROTOCOL_VERSION, VERSION),
                field(READER_EPHEMERAL_KEY, self._compressed()),
                field(READER_IDENTIFIER, self._reader),
                field(SITE_IDENTIFIER, self._site),
            )
        )

    def receive(self, data: bytes, at: timedelta) -> Send | Proven | Refused | None:
        """Take what the phone wrote; None: more must follow."""
        outcome = self._receive(data, at)
        self._over = self._over or isinstance(outcome, Proven | Refused)
        return outcome

    def _receive(self, data: bytes, at: timedelta) -> Send | Proven | Refused | None:
        self._writes += 1
        if self._over:
            return Refused("nonce_spent", Answer.INVALID_SECURITY)
        if at - self._begun > NONCE_AGE_MAX:
            return Refused("nonce_too_old", Answer.INVALID_SECURITY)
        if self._writes > WRITES_MAX:
            return Refused("too_many_writes", Answer.INVALID_SECURITY)
        try:
            said = fields(data)
        except ValueError:
            return Refused("malformed", Answer.INVALID_SECURITY)
        for kind, value in said:
            if kind in self._said:
                return Refused("malformed", Answer.INVALID_SECURITY)
            self._said[kind] = value
        if self._secret is None and PHONE_EPHEMERAL_KEY in self._said:
            return self._agree(self._said[PHONE_EPHEMERAL_KEY])
        if self._secret is not None:
            return self._decrypt(self._secret) if ENCRYPTED in self._said else None
        if PUBLIC_KEY in self._said and SIGNATURE in self._said:
            if not self._plain:
                return Refused("plain_not_accepted", Answer.INVALID_SECURITY)
            return self._judge(self._said, self._compressed())
        return None

    def _agree(self, phone: bytes) -> Send | Refused:
        if self._site_key is None:
            return Refused("no_site_key", Answer.INVALID_SECURITY)
        try:
            public = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), phone)
        except ValueError:
            return Refused("malformed", Answer.INVALID_SECURITY)
        digest = hashes.Hash(hashes.SHA256())
        digest.update(self._key.exchange(ec.ECDH(), public))
        self._secret = digest.finalize()
        self._phone_x = phone[1:33]
        signed = self._site_key.sign(self._transcript(), ec.ECDSA(hashes.SHA256()))
        r, s = decode_dss_signature(signed)
        return Send(field(SIGNATURE, r.to_bytes(32, "big") + s.to_bytes(32, "big")))

    def _decrypt(self, secret: bytes) -> Proven | Refused:
        if PUBLIC_KEY in self._said or SIGNATURE in self._said:
            return Refused("in_clear", Answer.INVALID_SECURITY)
        cipher = AESCCM(secret, tag_length=CCM_TAG_BYTES)
        try:
            clear = cipher.decrypt(CCM_NONCE, self._said[ENCRYPTED], None)
        except InvalidTag:
            return Refused("not_decrypted", Answer.DECRYPTION_FAILED)
        try:
            said = dict(fields(clear))
        except ValueError:
            return Refused("malformed", Answer.INVALID_SECURITY)
        return self._judge(said, self._transcript())

    def _judge(self, said: dict[int, bytes], signed: bytes) -> Proven | Refused:
        key, signature = said.get(PUBLIC_KEY, b""), said.get(SIGNATURE, b"")
        if len(key) != POINT_BYTES or len(signature) != SIGNATURE_BYTES:
            return Refused("malformed", Answer.INVALID_SECURITY)
        if not verifies(key, signature, signed):
            return Refused("signature_invalid", Answer.SIGNATURE_INVALID)
        return Proven(key)

    def _compressed(self) -> bytes:
        return self._key.public_key().public_bytes(Encoding.X962, PublicFormat.CompressedPoint)

    def _transcript(self) -> bytes:
        return self._site + self._reader + self._phone_x + self._compressed()[1:]
