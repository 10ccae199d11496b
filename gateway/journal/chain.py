"""The hash chain: each event's hash covers the one before, so no event can be altered unseen.

What an event says of a person is covered by a commitment to it, SHA-256 over a random salt and that
part. Erased, the commitment stays and the chain verifies as before; without the salt nobody can try
out whose it was.
"""

import hashlib

CHAIN_BYTES = 32
SALT_BYTES = 16

CHECKPOINT_EVERY = 256
"""After each event whose number this divides the next one is a signed checkpoint."""


def genesis(stream: str) -> bytes:
    """What the first event of a stream is chained to."""
    return hashlib.sha256(b"door-gateway journal 2\n" + stream.encode()).digest()


def commitment_to(salt: bytes, personal: bytes) -> bytes:
    """What stands in the chain for the personal part of an event."""
    return hashlib.sha256(b"door-gateway personal 1\n" + salt + personal).digest()


def link(previous: bytes, seq: int, body: bytes, commitment: bytes = b"") -> bytes:
    """The hash of event `seq`.

    SHA-256(previous hash || seq as 8 bytes, big-endian || length of the commitment in one byte, 0
    or 32 || commitment || body), where `body` is the event without its personal part.
    """
    place = previous + seq.to_bytes(8, "big") + len(commitment).to_bytes(1, "big")
    return hashlib.sha256(place + commitment + body).digest()
