"""The keys of OSDP readers: one file a reader, kept apart from the config and told to nobody."""

import contextlib
import os
import re
import secrets
import stat
from datetime import timedelta
from pathlib import Path
from typing import Final
from urllib.parse import quote

import msgspec

from gateway.decoding import decode_json
from gateway.errors import StorageError, Undecodable
from gateway.statedir import open_directory, sync_directory, write_atomically

KEY_BYTES: Final = 16
DEFAULT_KEY: Final = bytes(range(0x30, 0x40))
"""SCBK-D (SIA OSDP 2.2, annex D): everybody knows it, so it is nobody's key."""

WINDOW_MAX: Final = timedelta(minutes=10)
"""The longest that a reader is spoken to with the default key (docs/promises.md P10)."""

FILE_BYTES_MAX: Final = 1024
_KEY: Final = re.compile(rb"([0-9a-f]{32})\n?")


class Window(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An installer's leave to use the default key. Monotonic, so no clock step makes it longer."""

    until_s: float


class KeyStore:
    """The files of one directory: NAME.key, NAME.pending until it is known to be the reader's."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def __repr__(self) -> str:
        return f"KeyStore({str(self._directory)!r})"

    def make(self) -> None:
        """Make the directory if it isn't there, for whoever owns the one it is in.

        Raises:
            StorageError: it can't be made.
        """
        try:
            self._directory.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with open_directory(self._directory.parent) as parent:
                _make(parent, self._directory.name)
        except OSError as error:
            raise StorageError(f"{self._directory}: {error.strerror}") from error

    def key(self, device: str) -> bytes | None:
        """The reader's key; None if it never got one.

        Raises:
            StorageError: the file can't be read, is no key, or others may read it.
        """
        return self._read(self._file(device, "key"))

    def pending(self, device: str) -> bytes:
        """A fresh random key, on disk before anybody uses it; the same until `commit`.

        The reader may have taken it at an attempt whose end nobody saw, so it is tried again.

        Raises:
            StorageError: it can't be kept.
        """
        file = self._file(device, "pending")
        key = self._read(file)
        if key is None:
            key = secrets.token_bytes(KEY_BYTES)
            self.make()
            write_atomically(file, key.hex().encode() + b"\n")
        return key

    def commit(self, device: str) -> None:
        """The reader has the pending key: it is its key from now on.

        Raises:
            StorageError: the files can't be changed.
        """
        try:
            self._file(device, "pending").rename(self._file(device, "key"))
            sync_directory(self._directory)
        except OSError as error:
            raise StorageError(f"{error.filename}: {error.strerror}") from error

    # --- The install window -----------------------------------------------------------------------

    def open_window(self, device: str, length: timedelta, now: timedelta) -> None:
        """Let the reader be installed until `length` from `now`, as monotonic time goes.

        Raises:
            ValueError: `length` is not above zero and at most `WINDOW_MAX`.
            StorageError: it can't be written.
        """
        if not timedelta() < length <= WINDOW_MAX:
            raise ValueError(f"a window is open for at most {WINDOW_MAX}")
        self.make()
        window = Window((now + length).total_seconds())
        file = self._file(device, "window")
        # Written by root on an installer's behalf, read and deleted by the core's own user.
        write_atomically(file, msgspec.json.encode(window), for_owner=True)

    def window(self, device: str, now: timedelta) -> timedelta | None:
        """For how long the window is still open; None if it is not."""
        try:
            data = _content(self._file(device, "window"))
        except StorageError:
            return None
        if data is None:
            return None
        try:
            window = decode_json(data, Window)
        except Undecodable:
            return None
        left = timedelta(seconds=window.until_s) - now
        if not timedelta() < left <= WINDOW_MAX:
            return None
        return left

    def close_window(self, device: str) -> bool:
        """Close it; whether there was one, open or over."""
        with contextlib.suppress(OSError):
            self._file(device, "window").unlink()
            return True
        return False

    # --- Files ------------------------------------------------------------------------------------

    def _file(self, device: str, kind: str) -> Path:
        return self._directory / f"{quote(device, safe='')}.{kind}"

    def _read(self, file: Path) -> bytes | None:
        data = _content(file)
        if data is None:
            return None
        found = _KEY.fullmatch(data)
        if found is None:
            raise StorageError(f"{file}: is no key: 32 lower-case hexadecimal digits are")
        key = bytes.fromhex(found[1].decode())
        if key == DEFAULT_KEY:
            raise StorageError(f"{file}: is the default key, which everybody knows")
        return key


def _make(parent: int, name: str) -> None:
    """Make a directory for the owner of the one it is in, unless it is there. Raises OSError."""
    try:
        os.mkdir(name, 0o700, dir_fd=parent)
    except FileExistsError:
        return
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW
    made, owner = os.open(name, flags, dir_fd=parent), os.fstat(parent)
    try:
        with contextlib.suppress(PermissionError):
            os.fchown(made, owner.st_uid, owner.st_gid)
    finally:
        os.close(made)


def _content(file: Path) -> bytes | None:
    """What is in a file that is nobody else's; None if there is no such file."""
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StorageError(f"{file}: can't be read: {error.strerror}") from error
    with os.fdopen(descriptor, "rb") as opened:
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode) or mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise StorageError(f"{file}: others may read it or change it: chmod 0600 it")
        return opened.read(FILE_BYTES_MAX)
