"""A phone with a grant that it carries: the grant, and its holder key's signature (docs/nfc.md).

The conversation only gathers both, since neither the keys of the site nor the decoder of grants are
in the reader's worker. `holds` is for whoever judges them.
"""

from collections.abc import Callable
from hashlib import sha256
from typing import Final, NamedTuple

from . import SUCCESS, GrantConversation, GrantProof, NotThisCard, ProofRefused, parted
from .p256 import POINT_BYTES, SIGNATURE_BYTES, verifies

KIND: Final = "grant"

SELECT: Final = bytes.fromhex("00A404000AF0446F6F724772616E7400")
READ: Final = bytes.fromhex("00B0")
PROVE: Final = bytes.fromhex("8010000040")

VERSION: Final = b"\x01"
HEAD_BYTES: Final = 3
"""The version and the grant's length, before its first bytes."""
NONCE_BYTES: Final = 32
GRANT_BYTES_MAX: Final = 1024
"""docs/spec/carried-grants.md, "Form"."""
CONTEXT: Final = b"door-gateway/nfc-grant/v1\x00"


class Grant(NamedTuple):
    """Who asks."""

    reader_identifier: bytes
    """The gateway's and the door's, 16 bytes each."""
    random: Callable[[int], bytes] = bytes

    def read(self, uid: bytes) -> GrantConversation:
        """See `Technology.read`."""
        del uid
        selected, status = parted((yield SELECT))
        if status != SUCCESS:
            raise NotThisCard
        if selected[:1] != VERSION:
            raise ProofRefused(KIND, "version")
        size, message = int.from_bytes(selected[1:HEAD_BYTES], "big"), selected[HEAD_BYTES:]
        if len(selected) < HEAD_BYTES or size > GRANT_BYTES_MAX:
            raise ProofRefused(KIND, "malformed")
        while len(message) < size:
            piece, status = parted((yield READ + len(message).to_bytes(2, "big") + b"\x00"))
            if status != SUCCESS or not piece:
                raise ProofRefused(KIND, "malformed")
            message += piece
        if not message or len(message) > size:
            raise ProofRefused(KIND, "malformed")
        nonce = self.random(NONCE_BYTES)
        try:
            proof, status = parted((yield PROVE + self.reader_identifier + nonce + b"\x00"))
        except TimeoutError:
            raise ProofRefused(KIND, "nonce_too_old") from None
        if status != SUCCESS:
            raise ProofRefused(KIND, "declined")
        if len(proof) != POINT_BYTES + SIGNATURE_BYTES:
            raise ProofRefused(KIND, "malformed")
        return GrantProof(nonce, proof[:POINT_BYTES], proof[POINT_BYTES:], message)


def holds(proof: GrantProof, reader_identifier: bytes) -> bool:
    """Whether the key signed this grant, for this reader and this nonce."""
    digest = sha256(proof.grant).digest()
    signed = CONTEXT + reader_identifier + proof.nonce + digest + proof.key
    return verifies(proof.key, proof.signature, signed)
