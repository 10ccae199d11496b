"""A bundle on its way in: its document and chunks, kept encrypted until it is whole.

They hold card numbers and the digest key, so nothing of them lies on the disk in the clear. Nothing
here is synced: taps wait for the same disk, and what a power cut spoils can't be decrypted and is
asked for again.
"""

import contextlib
from pathlib import Path

from gateway.cache.key import CredentialKey
from gateway.errors import StorageError
from gateway.statedir import open_plain, write_atomically

_DOCUMENT = "manifest"
_SEALED_BYTES_MAX = 2 * 1024 * 1024
"""The largest document with what encrypting adds; whatever is longer is none of ours."""


class Incoming:
    """One unfinished bundle at a time: a new document takes the place of the one before."""

    def __init__(self, directory: Path, key: CredentialKey) -> None:
        self._directory = directory
        self._key = key

    def document(self) -> bytes | None:
        """The document that is waiting for chunks; None where there is none that can be read."""
        with contextlib.suppress(StorageError):
            return self._read(self._directory / _DOCUMENT, b"document")
        return None

    def begin(self, document: bytes, chunks: list[bytes]) -> None:
        """Keep a document; of the chunks that are here only those that it names stay.

        Raises:
            StorageError: it can't be written.
        """
        wanted = {chunk.hex() for chunk in chunks}
        try:
            self._directory.mkdir(mode=0o700, exist_ok=True)
            for path in self._directory.iterdir():
                if path.name not in wanted:
                    path.unlink()
        except OSError as error:
            raise StorageError(f"{self._directory}: {error.strerror}") from error
        write_atomically(
            self._directory / _DOCUMENT, self._key.encrypt(b"document", document), synced=False
        )

    def put(self, sha256: bytes, data: bytes) -> None:
        """Keep a chunk whose hash was checked. Raises StorageError."""
        write_atomically(
            self._directory / sha256.hex(), self._key.encrypt(sha256, data), synced=False
        )

    def chunk(self, sha256: bytes) -> bytes:
        """A chunk. Raises StorageError: it is not here, or damaged."""
        return self._read(self._directory / sha256.hex(), sha256)

    def missing(self, chunks: list[bytes]) -> list[bytes]:
        """Which of these are not here."""
        return [each for each in chunks if not (self._directory / each.hex()).exists()]

    def clear(self) -> None:
        """Forget everything: it is in force, or refused. What can't be deleted does no harm."""
        with contextlib.suppress(OSError):
            for path in self._directory.iterdir():
                path.unlink()

    def _read(self, path: Path, purpose: bytes) -> bytes:
        try:
            with open_plain(path) as file:
                sealed = file.read(_SEALED_BYTES_MAX)
        except OSError as error:
            raise StorageError(f"{path.name}: can't be read: {error.strerror}") from error
        return self._key.decrypt(purpose, sealed)
