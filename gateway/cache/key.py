"""The key of the keyed hashes: without it, what lies in the state directory names no card."""

import hmac
import os
from collections.abc import Mapping
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from gateway.errors import StorageError
from gateway.statedir import read_secret

KEY_BYTES_MIN = 32
"""As much as the hash has; every 26-bit card number can be tried in half a minute without one."""
KEY_BYTES_MAX = 4096
"""Whatever is longer was not meant to be a key."""

DIGEST_BYTES = 32
_NONCE_BYTES = 12

CREDENTIAL = "credential.key"
"""The key's name among what a service manager hands over (`LoadCredential=` in the core's unit)."""


class CredentialKey:
    """The secret of this gateway. Never printed, never in the state directory."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret
        self.id = self.mac(b"key id", b"").hex()[:16]
        """Tells whether two keys are the same, and nothing else of them."""

    def __repr__(self) -> str:
        return f"CredentialKey(id={self.id!r})"

    def digest(self, kind: str, value: str) -> bytes:
        """The keyed hash of a credential: HMAC-SHA-256 over its kind and canonical value."""
        return hmac.digest(self._secret, f"credential\n{kind}\n{value}".encode(), "sha256")

    def mac(self, purpose: bytes, content: bytes) -> bytes:
        """What nobody without the key can make for this content."""
        return hmac.digest(self._secret, purpose + b"\n" + content, "sha256")

    def encrypt(self, purpose: bytes, content: bytes) -> bytes:
        """What only `decrypt` with this key and purpose reads: AES-256-GCM, a nonce before it."""
        nonce = os.urandom(_NONCE_BYTES)
        return nonce + self._cipher(purpose).encrypt(nonce, content, None)

    def decrypt(self, purpose: bytes, content: bytes) -> bytes:
        """The content as it was. Raises StorageError: it is damaged, or not of this key."""
        nonce, sealed = content[:_NONCE_BYTES], content[_NONCE_BYTES:]
        try:
            return self._cipher(purpose).decrypt(nonce, sealed, None)
        except (InvalidTag, ValueError) as error:
            raise StorageError("damaged, or encrypted with another credential key") from error

    def _cipher(self, purpose: bytes) -> AESGCM:
        return AESGCM(self.mac(b"encrypt 1", purpose))


def key_file(configured: Path, environment: Mapping[str, str]) -> Path:
    """Where the key is: among the credentials that systemd handed over (systemd.exec(5)), or else
    where the site's file says.
    """
    directory = environment.get("CREDENTIALS_DIRECTORY")
    if directory:
        handed = Path(directory) / CREDENTIAL
        if os.access(handed, os.F_OK):
            return handed
    return configured


def read_key(path: Path) -> CredentialKey:
    """Read the key: the file's bytes as they are.

    Raises:
        StorageError: it isn't there, is empty or too short, or others may read it.
    """
    try:
        secret = read_secret(path, KEY_BYTES_MAX)
    except OSError as error:
        raise StorageError(f"{path}: the credential key can't be read: {error.strerror}") from error
    if len(secret) < KEY_BYTES_MIN:
        raise StorageError(
            f"{path}: the credential key is {len(secret)} bytes long: it must be"
            f" {KEY_BYTES_MIN} to {KEY_BYTES_MAX}, from the system's source of randomness"
        )
    return CredentialKey(secret)
