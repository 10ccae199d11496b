"""Whether a phone has just proved the holder key of the grant that it shows (docs/nfc.md)."""

from collections import deque
from datetime import timedelta
from typing import Final

from gateway.domain.carried_grant import PROVEN, proven_value
from gateway.domain.facts import CredentialPresented, CredentialRefused
from gateway.drivers.cards import GrantProof
from gateway.drivers.cards.grant import KIND, holds

NONCE_AGE_MAX: Final = timedelta(seconds=5)
"""docs/promises.md P11."""
NONCES_MAX: Final = 256
"""Remembered as spent: a reader can't have so many conversations within a nonce's life."""


class GrantJudge:
    """For one reader. The nonces are its worker's: each is good once, and for as long as P11 says.

    Of the grant itself nothing is known here but its bytes: the doors verify it, and that the key
    that was proved is the one in it.
    """

    def __init__(self, device_id: str, reader_identifier: bytes) -> None:
        self.device_id = device_id
        self._reader_identifier = reader_identifier
        self._spent: deque[bytes] = deque(maxlen=NONCES_MAX)

    def judge(
        self, proof: GrantProof, began: timedelta, at: timedelta, now: timedelta
    ) -> CredentialPresented | CredentialRefused:
        """What to tell of it; the conversation began at `began`, its last byte came at `at`."""
        if (why := self._why_not(proof, began, now)) is not None:
            return CredentialRefused(self.device_id, KIND, why, at)
        value = proven_value(proof.key, proof.grant)
        return CredentialPresented(self.device_id, PROVEN, value, at, began=began)

    def _why_not(self, proof: GrantProof, began: timedelta, now: timedelta) -> str | None:
        if now - began > NONCE_AGE_MAX:
            return "nonce_too_old"
        if proof.nonce in self._spent:
            return "nonce_spent"
        self._spent.append(proof.nonce)
        return None if holds(proof, self._reader_identifier) else "not_authentic"
