"""The hash chain: each event's hash covers the one before, so no event can be altered unseen."""

import hashlib

CHAIN_BYTES = 32


def genesis(stream: str) -> bytes:
    """What the first event of a stream is chained to."""
    return hashlib.sha256(b"door-gateway journal 1\n" + stream.encode()).digest()


def link(previous: bytes, seq: int, body: bytes) -> bytes:
    """The hash of event `seq`: SHA-256(previous hash || seq as 8 bytes, big-endian || body)."""
    return hashlib.sha256(previous + seq.to_bytes(8, "big") + body).digest()
