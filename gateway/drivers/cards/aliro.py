"""Aliro over NFC, the reader's side of the expedited standard phase: both prove their keys.

The specification (Connectivity Standards Alliance, Aliro 1.0) was not to be had; what is here is
what the byte vectors of its public reference actuator hold (aliro-access-control/aliro-actuator,
tests/access_protocol), read with kormax/aliro's notes. Their words are used. The fast phase and the
step-up are not built: no vector of theirs is public, and the two sources differ on the key that the
fast phase needs.
"""

from collections.abc import Callable
from typing import Final, NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.ec import (
    ECDH,
    ECDSA,
    SECP256R1,
    EllipticCurvePrivateKey,
    derive_private_key,
    generate_private_key,
)
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.kdf.x963kdf import X963KDF

from . import SUCCESS, Conversation, NotThisCard, ProofRefused, Proven, parted, whole
from .p256 import POINT_BYTES, SIGNATURE_BYTES, point_of, public_key, verifies
from .tlv import MalformedTlvError, encoded, objects, values

KIND: Final = "aliro"
CREDENTIAL: Final = "pkoc"
"""What is proven is a P-256 key, and that is how records name it."""

SELECT: Final = bytes.fromhex("00A4040009A000000909ACCE550100")
AUTH0: Final = bytes.fromhex("80800000")
AUTH1: Final = bytes.fromhex("80810000")

FCI: Final = 0x6F
PROPRIETARY: Final = 0xA5
VERSIONS: Final = 0x5C
COMMAND_PARAMETERS: Final = 0x41
TRANSACTION_CODE: Final = 0x42
TRANSACTION_IDENTIFIER: Final = 0x4C
READER_IDENTIFIER: Final = 0x4D
CREDENTIAL_PUBLIC_KEY: Final = 0x5A
CREDENTIAL_EPHEMERAL: Final = 0x86
READER_EPHEMERAL: Final = 0x87
USAGE: Final = 0x93
SIGNATURE: Final = 0x9E

VERSION: Final = b"\x01\x00"
STANDARD: Final = b"\x00"
TRANSACTION: Final = b"\x01"
WANT_PUBLIC_KEY: Final = b"\x01"
READER_USAGE: Final = bytes.fromhex("415D9569")
DEVICE_USAGE: Final = bytes.fromhex("4E887B4C")
NFC: Final = b"\x5e"
DEVICE_FIRST_IV: Final = bytes.fromhex("000000000000000100000001")
KEYS_BYTES: Final = 160
"""Two keys of the exchange, one each for step-up, BLE and UWB ranging."""


class Transcript(NamedTuple):
    """What both sides have said, as the keys and signatures take it."""

    reader_identifier: bytes
    reader_x: bytes
    """Of the reader's own public key; the ephemeral ones follow."""
    reader_ephemeral_x: bytes
    device_ephemeral_x: bytes
    transaction: bytes
    proprietary: bytes
    """The whole of tag A5 of what SELECT answered."""

    def authenticated(self, usage: bytes) -> bytes:
        """What the reader or the device signs."""
        return (
            encoded(READER_IDENTIFIER, self.reader_identifier)
            + encoded(CREDENTIAL_EPHEMERAL, self.device_ephemeral_x)
            + encoded(READER_EPHEMERAL, self.reader_ephemeral_x)
            + encoded(TRANSACTION_IDENTIFIER, self.transaction)
            + encoded(USAGE, usage)
        )

    def salt(self) -> bytes:
        """What the volatile keys are bound to."""
        return (
            self.reader_x
            + b"Volatile****"
            + self.reader_identifier
            + NFC
            + encoded(VERSIONS, VERSION)
            + self.reader_ephemeral_x
            + self.transaction
            + STANDARD
            + TRANSACTION
            + self.proprietary
        )

    def exchange_keys(self, shared: bytes) -> tuple[bytes, bytes]:
        """The reader's and the device's, from the secret that both worked out."""
        kdf = HKDF(SHA256(), KEYS_BYTES, self.salt(), self.device_ephemeral_x)
        keys = kdf.derive(shared)
        return keys[:32], keys[32:64]


def shared_key(ours: EllipticCurvePrivateKey, theirs: bytes, transaction: bytes) -> bytes:
    """The secret of both ephemeral keys. Raises ValueError where `theirs` is no point."""
    secret = ours.exchange(ECDH(), public_key(theirs))
    return X963KDF(SHA256(), 32, transaction).derive(secret)


class Aliro(NamedTuple):
    """The reader: its identifier (group, then its own) and its group's private key."""

    reader_identifier: bytes
    reader_key: EllipticCurvePrivateKey
    random: Callable[[int], bytes] = bytes
    ephemeral: Callable[[], EllipticCurvePrivateKey] = lambda: generate_private_key(SECP256R1())

    def read(self, uid: bytes) -> Conversation:
        """See `Technology.read`."""
        del uid
        selected, status = parted((yield SELECT))
        if status != SUCCESS:
            raise NotThisCard
        try:
            proprietary = _proprietary(selected)
            ephemeral, transaction = self.ephemeral(), self.random(16)
            ours = point_of(ephemeral)
            answer, status = yield from whole(self._auth0(ours, transaction), KIND)
            _must_agree(status)
            theirs = values(answer).get(CREDENTIAL_EPHEMERAL, b"")
            if len(theirs) != POINT_BYTES:
                raise ProofRefused(KIND, "malformed")
            transcript = Transcript(
                self.reader_identifier,
                point_of(self.reader_key)[1:33],
                ours[1:33],
                theirs[1:33],
                transaction,
                proprietary,
            )
            _, device_key = transcript.exchange_keys(shared_key(ephemeral, theirs, transaction))
            answer, status = yield from whole(self._auth1(transcript), KIND)
            _must_agree(status)
            return Proven(CREDENTIAL, _proven_key(answer, device_key, transcript).hex().upper())
        except (MalformedTlvError, ValueError):
            raise ProofRefused(KIND, "malformed") from None

    def _auth0(self, ephemeral: bytes, transaction: bytes) -> bytes:
        data = (
            encoded(COMMAND_PARAMETERS, STANDARD)
            + encoded(TRANSACTION_CODE, TRANSACTION)
            + encoded(VERSIONS, VERSION)
            + encoded(READER_EPHEMERAL, ephemeral)
            + encoded(TRANSACTION_IDENTIFIER, transaction)
            + encoded(READER_IDENTIFIER, self.reader_identifier)
        )
        return AUTH0 + bytes((len(data),)) + data + b"\x00"

    def _auth1(self, transcript: Transcript) -> bytes:
        signed = self.reader_key.sign(transcript.authenticated(READER_USAGE), ECDSA(SHA256()))
        r, s = decode_dss_signature(signed)
        signature = r.to_bytes(32, "big") + s.to_bytes(32, "big")
        data = encoded(COMMAND_PARAMETERS, WANT_PUBLIC_KEY) + encoded(SIGNATURE, signature)
        return AUTH1 + bytes((len(data),)) + data + b"\x00"


def private_key(scalar: bytes) -> EllipticCurvePrivateKey:
    """The key of a private number. Raises ValueError where there is none."""
    return derive_private_key(int.from_bytes(scalar, "big"), SECP256R1())


def _proprietary(selected: bytes) -> bytes:
    for tag, value, raw in objects(values(selected).get(FCI, b"")):
        if tag == PROPRIETARY:
            versions = values(value).get(VERSIONS, b"")
            if VERSION not in (versions[at : at + 2] for at in range(0, len(versions), 2)):
                raise ProofRefused(KIND, "version")
            return raw
    raise MalformedTlvError


def _must_agree(status: int) -> None:
    if status != SUCCESS:
        raise ProofRefused(KIND, "declined")


def _proven_key(answer: bytes, device_key: bytes, transcript: Transcript) -> bytes:
    try:
        opened = AESGCM(device_key).decrypt(DEVICE_FIRST_IV, answer, None)
    except InvalidTag:
        raise ProofRefused(KIND, "not_authentic") from None
    said = values(opened)
    key, signature = said.get(CREDENTIAL_PUBLIC_KEY, b""), said.get(SIGNATURE, b"")
    if len(key) != POINT_BYTES or len(signature) != SIGNATURE_BYTES:
        raise ProofRefused(KIND, "malformed")
    if not verifies(key, signature, transcript.authenticated(DEVICE_USAGE)):
        raise ProofRefused(KIND, "not_authentic")
    return key
