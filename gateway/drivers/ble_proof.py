"""The proof that a phone or fob gives when the gateway connects to it (docs/ble.md): bytes only."""

import secrets
from datetime import timedelta
from hashlib import sha256
from typing import Final

import msgspec

from gateway.drivers.cards.grant import GRANT_BYTES_MAX
from gateway.drivers.cards.p256 import POINT_BYTES, SIGNATURE_BYTES, verifies

CHALLENGE: Final = "6d8d0001-5b1e-4c8e-9a52-3d1f5a6d7c10"
PROOF: Final = "6d8d0002-5b1e-4c8e-9a52-3d1f5a6d7c10"

VERSION: Final = 0x01
CHALLENGE_MESSAGE: Final = 0x01
RESULT_MESSAGE: Final = 0x02
INTENT: Final = 0x01
"""Bit 0 of the flags: its holder has just asked for this door, by a press or a look."""
NONCE_BYTES: Final = 32
NONCE_AGE_MAX: Final = timedelta(seconds=5)
"""docs/promises.md P11."""
CONTEXT: Final = b"door-gateway/ble-proof/v1\x00"
PROOF_BYTES: Final = 2 + POINT_BYTES + SIGNATURE_BYTES
LENGTH_BYTES: Final = 2
"""Of a grant, before it."""

ADVERT_BYTES: Final = 7
ANY_DOOR: Final = bytes(4)


class Advert(msgspec.Struct, frozen=True):
    """What the service data of an advertisement says. None of it is believed, only acted on."""

    intent: bool
    press: int
    """Counts the holder's wishes: one conversation for each."""
    door: bytes
    """The first 4 bytes of the wanted door's identifier, or `ANY_DOOR`."""


def advert(data: bytes) -> Advert | None:
    """Read service data; None: it is none of this version."""
    if len(data) != ADVERT_BYTES or data[0] != VERSION:
        return None
    return Advert(bool(data[1] & INTENT), data[2], data[3:])


class Believed(msgspec.Struct, frozen=True):
    """Whoever is there holds the private key of `key` (an uncompressed point), and means it."""

    key: bytes
    grant: bytes = b""
    """The message of a grant that was shown with it, not verified."""

    def __repr__(self) -> str:
        """Without the key: a credential is never printed."""
        return "Believed()"


class Disbelieved(msgspec.Struct, frozen=True):
    """Nothing of this conversation may be believed."""

    why: str


class Challenge:
    """One conversation: a nonce, and the proof that must fit it. `at` is monotonic time."""

    def __init__(
        self, gateway: bytes, door: bytes, at: timedelta, nonce: bytes | None = None
    ) -> None:
        """Identifiers have 16 bytes each; the nonce is random unless given."""
        self._audience = gateway + door + (nonce or secrets.token_bytes(NONCE_BYTES))
        self._begun = at
        self._said = b""
        self._over = False

    def message(self) -> bytes:
        """What is written to the phone first."""
        return bytes((VERSION, CHALLENGE_MESSAGE)) + self._audience

    def receive(self, data: bytes, at: timedelta) -> Believed | Disbelieved | None:
        """Take what was notified, in any pieces; None: more must follow."""
        if self._over:
            return Disbelieved("nonce_spent")
        self._said += data
        outcome = self._judge(at)
        self._over = outcome is not None
        return outcome

    def _judge(self, at: timedelta) -> Believed | Disbelieved | None:
        if at - self._begun > NONCE_AGE_MAX:
            return Disbelieved("nonce_too_old")
        whole = self._whole()
        if whole is None or len(self._said) > whole:
            return Disbelieved("malformed")
        if len(self._said) < whole:
            return None
        proof, grant = self._said[:PROOF_BYTES], self._said[PROOF_BYTES + LENGTH_BYTES :]
        claimed, signature = proof[:-SIGNATURE_BYTES], proof[-SIGNATURE_BYTES:]
        flags, key = claimed[1], claimed[2:]
        digest = sha256(grant).digest() if grant else b""
        if not verifies(key, signature, CONTEXT + self._audience + claimed + digest):
            return Disbelieved("signature_invalid")
        if not flags & INTENT:
            return Disbelieved("no_intent")
        return Believed(key, grant)

    def _whole(self) -> int | None:
        """How many bytes there will be, as far as can be told; None: it is no proof."""
        match self._said[:1]:
            case b"" | b"\x01":
                return PROOF_BYTES
            case b"\x02":  # followed by a carried grant
                head = PROOF_BYTES + LENGTH_BYTES
                if len(self._said) < head:
                    return head
                size = int.from_bytes(self._said[PROOF_BYTES:head], "big")
                return head + size if 0 < size <= GRANT_BYTES_MAX else None
            case _:
                return None


def result(status: int) -> bytes:
    """The gateway's last message."""
    return bytes((VERSION, RESULT_MESSAGE, status))
