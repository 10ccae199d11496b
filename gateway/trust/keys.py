"""Keys: their names, their files, and who may sign what."""

import hashlib
import os
from pathlib import Path
from typing import Literal, get_args

from cryptography.exceptions import InternalError, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from gateway.errors import StorageError
from gateway.statedir import read_secret
from gateway.trust.cose import PublicKey, encode

Role = Literal["root", "bundle", "freshness", "command", "grant"]
ROLES: tuple[Role, ...] = get_args(Role)

KID_BYTES = 8
KEY_FILE_BYTES_MAX = 4096
"""A PKCS #8 file of an Ed25519 key has about 120; whatever is longer is something else."""

# RFC 9052, section 7, and RFC 9053, section 7: labels and values of a COSE_Key.
_KTY, _CRV, _X, _Y = 1, -1, -2, -3
_OKP, _EC2, _P256, _ED25519 = 1, 2, 1, 6
_COORDINATE_BYTES = 32


def thumbprint(key: PublicKey) -> bytes:
    """The SHA-256 thumbprint of a key (RFC 9679, section 4)."""
    members: dict[int, object]
    if isinstance(key, Ed25519PublicKey):
        members = {_KTY: _OKP, _CRV: _ED25519, _X: key.public_bytes_raw()}
    else:
        numbers = key.public_numbers()
        x, y = (n.to_bytes(_COORDINATE_BYTES, "big") for n in (numbers.x, numbers.y))
        members = {_KTY: _EC2, _CRV: _P256, _X: x, _Y: y}
    return hashlib.sha256(encode(members)).digest()


def kid_of(key: PublicKey) -> bytes:
    """By which a message names its key: the beginning of the key's thumbprint."""
    return thumbprint(key)[:KID_BYTES]


def public_key(raw: bytes) -> Ed25519PublicKey:
    """The key with these 32 bytes."""
    return Ed25519PublicKey.from_public_bytes(raw)


def write_key(path: Path, key: Ed25519PrivateKey) -> None:
    """Write a private key as PKCS #8 in PEM, for its owner only; never over another file.

    Raises:
        StorageError: the file is there already, or can't be written.
    """
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(pem)
            file.flush()
            os.fsync(descriptor)
    except OSError as error:
        raise StorageError(f"{path}: the key can't be written: {error.strerror}") from error


def read_private_key(path: Path) -> Ed25519PrivateKey:
    """Read a private key.

    Raises:
        StorageError: it isn't there, is no Ed25519 key in PKCS #8, or others may read it.
    """
    try:
        pem = read_secret(path, KEY_FILE_BYTES_MAX, group=False)
    except OSError as error:
        raise StorageError(f"{path}: the key can't be read: {error.strerror}") from error
    try:
        key = load_pem_private_key(pem, None)
    except (ValueError, TypeError, UnsupportedAlgorithm, InternalError) as error:
        raise StorageError(f"{path}: no private key in PEM without a password") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise StorageError(f"{path}: no Ed25519 key")
    return key


def write_public_key(path: Path, key: Ed25519PublicKey) -> None:
    """Write a public key in PEM. Raises StorageError."""
    try:
        path.write_bytes(key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    except OSError as error:
        raise StorageError(f"{path}: the key can't be written: {error.strerror}") from error


def read_public_key(path: Path) -> Ed25519PublicKey:
    """Read a public key. Raises StorageError: it isn't there, or is no Ed25519 key in PEM."""
    try:
        with path.open("rb") as file:
            key = load_pem_public_key(file.read(KEY_FILE_BYTES_MAX))
    except OSError as error:
        raise StorageError(f"{path}: the key can't be read: {error.strerror}") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise StorageError(f"{path}: no public key in PEM") from error
    if not isinstance(key, Ed25519PublicKey):
        raise StorageError(f"{path}: no Ed25519 key")
    return key
