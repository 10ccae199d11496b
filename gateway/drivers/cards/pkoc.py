"""PKOC over NFC: a card or phone signs with the key whose public half is the credential.

The plain mode is that of PSIA's PKOC NFC Card specification 1.1: select, authenticate. The
validated mode is that of the NFC Transport Profile 2.0.1 (6.2, 8) and the certificate of the Core
specification 2.0.1, 5, as PSIA's own reference implementation (psialliance-org/com-psia-pkoc) has
them. What a certificate says of its dates is not looked at: nobody vouches for the time in this
process, and the records say until when a credential counts.
"""

from collections.abc import Callable, Generator, Mapping
from typing import Final, NamedTuple

from . import SUCCESS, Conversation, NotThisCard, ProofRefused, Proven, parted, whole
from .p256 import POINT_BYTES, SIGNATURE_BYTES, verifies
from .tlv import MalformedTlvError, encoded, objects, values

KIND: Final = "pkoc"

SELECT: Final = bytes.fromhex("00A4040008A00000089800000100")
AUTHENTICATE: Final = bytes.fromhex("80800001")
GET_DATA_INFO: Final = bytes.fromhex("00CA7F6300")
GET_DATA_CERTIFICATE: Final = bytes.fromhex("00CA7F2100")
INTERNAL_AUTHENTICATE: Final = bytes.fromhex("00880000")

PROTOCOL_VERSION: Final = 0x5C
TRANSACTION_IDENTIFIER: Final = 0x4C
READER_IDENTIFIER: Final = 0x4D
PUBLIC_KEY: Final = 0x5A
SIGNATURE: Final = 0x9E

INFO: Final = 0x7F63
SE_V2: Final = b"\x02\x00"
CERTIFICATE: Final = 0x7F21
BODY: Final = 0x7F4E
ISSUER: Final = 0x42
SUBJECT_KEY: Final = 0x7F49
ALGORITHM: Final = 0x06
POINT: Final = 0x86
CERTIFICATE_SIGNATURE: Final = 0x5F37
P256: Final = bytes.fromhex("2A8648CE3D030107")

TRANSACTION_BYTES: Final = 16
CHALLENGE_BYTES: Final = 32


class Pkoc(NamedTuple):
    """Who asks, and whom it believes."""

    reader_identifier: bytes
    """The site's and the reader's, 16 bytes each."""
    issuers: Mapping[str, bytes] = {}
    """Public keys by the certificate's issuer reference. With any, only a certificate of theirs
    is believed, and nothing less after it."""
    random: Callable[[int], bytes] = bytes

    def read(self, uid: bytes) -> Conversation:
        """See `Technology.read`."""
        del uid
        selected, status = parted((yield SELECT))
        if status != SUCCESS:
            raise NotThisCard
        try:
            if self.issuers:
                key = yield from self._validated()
            else:
                key = yield from self._plain(selected)
        except MalformedTlvError:
            raise ProofRefused(KIND, "malformed") from None
        return Proven(KIND, key.hex().upper())

    def _plain(self, selected: bytes) -> Generator[bytes, bytes, bytes]:
        versions = values(selected).get(PROTOCOL_VERSION, b"")
        if len(versions) < 2:
            raise ProofRefused(KIND, "malformed")
        transaction = self.random(TRANSACTION_BYTES)
        data = (
            encoded(PROTOCOL_VERSION, versions[:2])
            + encoded(TRANSACTION_IDENTIFIER, transaction)
            + encoded(READER_IDENTIFIER, self.reader_identifier)
        )
        command = AUTHENTICATE + bytes((len(data),)) + data + b"\x00"
        answer, status = yield from whole(command, KIND)
        if status != SUCCESS:
            raise ProofRefused(KIND, "declined")
        said = values(answer)
        key, signature = said.get(PUBLIC_KEY, b""), said.get(SIGNATURE, b"")
        _must_be_sized(key, signature)
        if not verifies(key, signature, transaction):
            raise ProofRefused(KIND, "not_authentic")
        return key

    def _validated(self) -> Generator[bytes, bytes, bytes]:
        info, status = parted((yield GET_DATA_INFO))
        marker = values(values(info).get(INFO, b"")) if status == SUCCESS else {}
        if marker.get(PROTOCOL_VERSION) != SE_V2:
            raise ProofRefused(KIND, "no_certificate")
        answer, status = yield from whole(GET_DATA_CERTIFICATE, KIND)
        if status != SUCCESS:
            raise ProofRefused(KIND, "no_certificate")
        key = self._certified(answer)
        challenge = self.random(CHALLENGE_BYTES)
        command = INTERNAL_AUTHENTICATE + bytes((CHALLENGE_BYTES,)) + challenge + b"\x00"
        answer, status = yield from whole(command, KIND)
        if status != SUCCESS:
            raise ProofRefused(KIND, "declined")
        signature = values(answer).get(SIGNATURE, b"")
        _must_be_sized(key, signature)
        if not verifies(key, signature, challenge):
            raise ProofRefused(KIND, "not_authentic")
        return key

    def _certified(self, certificate: bytes) -> bytes:
        """The subject's key of a certificate by an issuer that is believed (Core 2.0.1, 5)."""
        inner = values(certificate).get(CERTIFICATE, b"")
        parts = {tag: (value, raw) for tag, value, raw in objects(inner)}
        body, signed = parts.get(BODY, (b"", b""))
        signature, _ = parts.get(CERTIFICATE_SIGNATURE, (b"", b""))
        members = values(body)
        issuer = self.issuers.get(members.get(ISSUER, b"").decode("latin-1"))
        if issuer is None:
            raise ProofRefused(KIND, "unknown_issuer")
        if len(signature) != SIGNATURE_BYTES or not verifies(issuer, signature, signed):
            raise ProofRefused(KIND, "unknown_issuer")
        subject = values(members.get(SUBJECT_KEY, b""))
        if subject.get(ALGORITHM) != P256:
            raise ProofRefused(KIND, "malformed")
        return subject.get(POINT, b"")


def _must_be_sized(key: bytes, signature: bytes) -> None:
    if len(key) != POINT_BYTES or key[0] != 0x04 or len(signature) != SIGNATURE_BYTES:
        raise ProofRefused(KIND, "malformed")
