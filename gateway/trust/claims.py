"""What the gateway signs of its own journal: checkpoints, and the seal of an export."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gateway.statedir import sync_directory
from gateway.trust.cose import NotSigned, PublicKey, decode, encode, sign1, verify1
from gateway.trust.keys import kid_of, read_private_key, write_key

CHECKPOINT: Final = b"door-gateway/checkpoint/v1"
EXPORT: Final = b"door-gateway/export/v1"
"""The contexts. The seal of an export says besides that it is whole up to its last event."""

CLAIM_BYTES_MAX = 1024
"""A claim has about 150 bytes, with ids as long as they may be 700."""

GATEWAY_KEY = "gateway.key"
"""Its name in the state directory and among what a service manager hands over."""


_HASH_BYTES = 32


class Claim(NamedTuple):
    """At `at_ms`, event `seq` of `stream` had the hash `chain`, and `after` had `anchor`."""

    site: str
    gateway: str
    stream: str
    after: int
    """What is claimed begins behind this event: 0 or the last that had been deleted here."""
    anchor: bytes
    seq: int
    chain: bytes
    at_ms: int
    """Since 1970, UTC."""
    trust: int
    """The `TimeTrust` of `at_ms`."""


def sign_claim(claim: Claim, key: Ed25519PrivateKey, context: bytes) -> bytes:
    """The claim as a COSE_Sign1."""
    payload = encode(claim._asdict())
    return sign1(payload, key, kid_of(key.public_key()), context=context)


def open_claim(message: bytes, keys: Mapping[bytes, PublicKey], context: bytes) -> Claim:
    """The claim of a message. Raises NotSigned."""
    payload = verify1(message, keys, context=context, bytes_max=CLAIM_BYTES_MAX).payload
    match decode(payload, bytes_max=CLAIM_BYTES_MAX):
        case {
            "site": str() as site,
            "gateway": str() as gateway,
            "stream": str() as stream,
            "after": int() as after,
            "anchor": bytes() as anchor,
            "seq": int() as seq,
            "chain": bytes() as chain,
            "at_ms": int() as at_ms,
            "trust": int() as trust,
            **more,
        } if not more and len(anchor) == len(chain) == _HASH_BYTES:
            return Claim(site, gateway, stream, after, anchor, seq, chain, at_ms, trust)
        case _:
            raise NotSigned("signed, but no claim about a journal")


def gateway_key(state: Path, environment: Mapping[str, str]) -> Ed25519PrivateKey:
    """The gateway's own key: among the credentials that systemd handed over (systemd.exec(5)), or
    else in the state directory, made there at the first start.

    Raises:
        StorageError: it can't be read or written, or others may read it.
    """
    directory = environment.get("CREDENTIALS_DIRECTORY")
    if directory and os.access(handed := Path(directory) / GATEWAY_KEY, os.F_OK):
        return read_private_key(handed)
    path = state / GATEWAY_KEY
    if not path.exists():
        making = path.with_name(f".{path.name}.new")
        making.unlink(missing_ok=True)
        write_key(making, Ed25519PrivateKey.generate())
        making.rename(path)
        sync_directory(state)
    return read_private_key(path)
