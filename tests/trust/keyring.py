"""Keys and signed things for tests; every key is made from its name, so that runs are alike."""

import hashlib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gateway.trust.cose import Sign1, encode, parse_document, sign1, sign_document
from gateway.trust.keys import kid_of
from gateway.trust.root import ROOT_CONTEXT, KeySet, Now, first_root

NOON_S = 1_777_896_000
NOON = datetime.fromtimestamp(NOON_S, UTC)
NOW = Now(NOON, trusted=True)
YEAR_S = 365 * 86_400


def key(name: str) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(hashlib.sha256(name.encode()).digest())


def kid(name: str) -> bytes:
    return kid_of(key(name).public_key())


def raw(name: str) -> bytes:
    return key(name).public_key().public_bytes_raw()


ROLE_KEYS: Mapping[str, Sequence[str]] = {
    "root": ("root-1", "root-2", "root-3"),
    "bundle": ("bundle-1", "bundle-2"),
    "freshness": ("freshness-1",),
    "command": ("command-1",),
    "grant": ("grant-1",),
}


def root_payload(
    version: int = 1,
    roles: Mapping[str, Sequence[str]] = ROLE_KEYS,
    thresholds: Mapping[str, int] | None = None,
    **changed: Any,
) -> dict[str, Any]:
    thresholds = {"root": 2} if thresholds is None else thresholds
    payload = {
        "site": "LON",
        "version": version,
        "made": NOON_S - 86_400,
        "expires": NOON_S + YEAR_S,
        "keys": {kid(name): raw(name) for names in roles.values() for name in names},
        "roles": {
            role: {"keys": [kid(name) for name in names], "threshold": thresholds.get(role, 1)}
            for role, names in roles.items()
        },
    }
    return payload | changed


def document(payload: object, *names: str, context: bytes = ROOT_CONTEXT) -> bytes:
    """The payload, signed by the keys of these names."""
    body = payload if isinstance(payload, bytes) else encode(payload)
    data = b""
    beside: Sequence[Sign1] = ()
    for name in names:
        data = sign_document(body, key(name), kid(name), context=context, beside=beside)
        beside = parse_document(data, bytes_max=1 << 20).signatures
    return data


def message(payload: object, name: str, context: bytes) -> bytes:
    body = payload if isinstance(payload, bytes) else encode(payload)
    return sign1(body, key(name), kid(name), context=context)


def root_document(version: int = 1, *names: str, **how: Any) -> bytes:
    return document(root_payload(version, **how), *(names or ("root-1", "root-2")))


def root(**how: Any) -> KeySet:
    return first_root(root_document(**how), "LON")
