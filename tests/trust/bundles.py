"""Bundles for tests: a small site whose records change, signed by the keyring's keys."""

from collections.abc import Mapping
from typing import Any

from gateway.domain.json_text import decode_object
from gateway.trust.bundle import framed
from gateway.trust.making import About, Key, Made, canonical_records, signed
from tests.trust.keyring import NOON_S, YEAR_S, key

DIGEST_KEY = bytes(range(32))
GATEWAY = "gw-1"


def canonical_set(lines: bytes) -> dict[Key, bytes]:
    return canonical_records(decode_object(line).members for line in lines.splitlines())


def about(revision: int, **changed: Any) -> About:
    made = About("LON", (GATEWAY,), revision, NOON_S + revision, NOON_S + YEAR_S, DIGEST_KEY)
    return made._replace(**changed)


def document_of(made: Made, *names: str) -> bytes:
    return signed(made, [key(name) for name in names or ("bundle-1",)])


def file_of(made: Made, *names: str) -> bytes:
    return b"".join(framed([document_of(made, *names), *made.chunks]))


def with_records(was: Mapping[Key, bytes], *lines: bytes) -> dict[Key, bytes]:
    return {**was, **canonical_set(b"\n".join(lines))}
