"""The state directory: one daemon owns it, and what it must never forget lies in it."""

import contextlib
import errno
import fcntl
import hashlib
import os
import stat
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from io import BufferedReader
from pathlib import Path
from types import TracebackType
from typing import Self

import structlog

from gateway.errors import StateDirInUse, StorageError

FLOOR_BYTES_MAX = 128
"""The floor file is one short line; whatever is longer isn't one."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_log = structlog.get_logger(__name__)


def write_atomically(
    path: Path,
    content: bytes,
    *,
    mode: int = 0o600,
    synced: bool = True,
    for_owner: bool = False,
) -> None:
    """Replace a file so that a power cut leaves the old content or the new.

    Whoever else may write in the directory can't have another file written, given away or
    replaced by this: its names are those in one directory, and no link is followed.

    Args:
        path: The file.
        content: What will be in it.
        mode: Who may read it.
        synced: False for what can be had again and shows by itself whether it is whole: a power
            cut may leave nothing of it, or a part.
        for_owner: True to give the file to the owner of its directory, which is not a link then.

    Raises:
        StorageError: it can't be written; the old content is still there.
    """
    try:
        with open_directory(path.parent, follow=not for_owner) as directory:
            _replace(directory, path.name, content, mode, synced=synced, for_owner=for_owner)
    except OSError as error:
        raise StorageError(f"{path}: can't be written: {error.strerror}") from error


def write_output(path: Path, content: bytes, *, mode: int = 0o600) -> None:
    """Write what a command was told to write: a device or a pipe is written to, a file replaced.

    Raises:
        StorageError: it can't be written.
    """
    try:
        kind = path.stat().st_mode
    except OSError:
        kind = stat.S_IFREG  # there is none yet, or none that can be seen
    if stat.S_ISREG(kind):
        write_atomically(path, content, mode=mode)
        return
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOCTTY)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
    except OSError as error:
        raise StorageError(f"{path}: can't be written: {error.strerror}") from error


def _replace(
    directory: int, name: str, content: bytes, mode: int, *, synced: bool, for_owner: bool
) -> None:
    temporary = f".{name}.new"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(temporary, dir_fd=directory)  # left over from a power cut
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
    with os.fdopen(os.open(temporary, flags, mode, dir_fd=directory), "wb") as file:
        file.write(content)
        file.flush()
        if for_owner:
            owner = os.fstat(directory)
            with contextlib.suppress(PermissionError):
                os.fchown(file.fileno(), owner.st_uid, owner.st_gid)
        if synced:
            os.fsync(file.fileno())
    os.replace(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
    if synced:
        os.fsync(directory)


@contextlib.contextmanager
def open_directory(path: Path, *, follow: bool = True) -> Iterator[int]:
    """Open a directory for calls that take one; where not `follow`, a link is an error of theirs.

    Raises:
        OSError: it can't be opened.
    """
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    descriptor = os.open(path, flags if follow else flags | os.O_NOFOLLOW)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def open_plain(path: Path) -> BufferedReader:
    """Open a file to read, if it is a plain one: a pipe would block, a device has no end.

    Raises:
        OSError: it can't be opened, or is anything else than a file.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "is not a plain file", str(path))
    return os.fdopen(descriptor, "rb")


def read_secret(path: Path, bytes_max: int, *, group: bool = True) -> bytes:
    """Read a file that holds a secret, if nobody but those it is meant for could.

    systemd hands credentials over in files of mode 0400 or 0440.

    Args:
        path: The file.
        bytes_max: A longer file is refused: it was not meant to be this secret.
        group: False where its group must not read it either.

    Raises:
        OSError: it can't be opened, is not a plain file, is too long, or others may read or
            change it. Its `strerror` says which, and never quotes the file.
    """
    refused = stat.S_IRWXO | (stat.S_IWGRP if group else stat.S_IRWXG)
    with open_plain(path) as file:
        mode = os.fstat(file.fileno()).st_mode
        if mode & refused:
            why = f"others may read or change it (mode {stat.S_IMODE(mode):04o}): chmod 0600 it"
            raise OSError(errno.EPERM, why, str(path))
        content = file.read(bytes_max + 1)
    if len(content) > bytes_max:
        raise OSError(errno.EFBIG, f"is longer than {bytes_max} bytes", str(path))
    return content


def sync_directory(directory: Path) -> None:
    """Make what was created, renamed and deleted in a directory last. Raises OSError."""
    with open_directory(directory) as descriptor:
        os.fsync(descriptor)


class StateDir:
    """Use as `with StateDir(path) as state`: it is this process's alone until the end.

    `journal`, `cache` and `bundles` say where things lie.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.journal = path / "journal.db"
        self.cache = path / "cache.db"
        self.bundles = path / "bundles"
        self._floor_file = path / "floor"
        self._floor: datetime | None = None
        self._locks: list[int] = []

    def __enter__(self) -> Self:
        """Make the layout if need be, and take the directory.

        A disk that can be read only, or is full, is no error: the doors need no file of it.

        Raises:
            StateDirInUse: another process has it, named by its pid.
            StorageError: there is no such directory, and it can't be made.
        """
        for directory in (self.path, self.bundles):
            try:
                directory.mkdir(mode=0o700, parents=True, exist_ok=True)
                with open_directory(directory, follow=directory == self.path) as descriptor:
                    if os.fstat(descriptor).st_mode & 0o077:
                        os.fchmod(descriptor, 0o700)
            except OSError as error:
                if not self.path.is_dir():
                    raise StorageError(f"{error.filename}: {error.strerror}") from error
                _log.error(
                    "the state directory can't be written", file=str(directory), why=str(error)
                )
        self._take()
        self._floor = self._read_floor()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Let the directory go."""
        while self._locks:
            os.close(self._locks.pop())

    def _take(self) -> None:
        """Lock the directory, which needs no room on it, and the file that older releases lock."""
        file = self.path / "lock"
        flags = os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            self._locks.append(os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | flags))
        except OSError as error:
            raise StorageError(f"{self.path}: can't be opened: {error.strerror}") from error
        for how in (os.O_RDWR | os.O_CREAT, os.O_RDONLY):
            try:
                self._locks.append(os.open(file, how | flags, 0o600))
                break
            except OSError as error:
                _log.warning("the lock can't be opened", file=str(file), why=error.strerror)
        try:
            for lock in self._locks:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self.__exit__(None, None, None)
            raise StateDirInUse(
                f"{self.path} is in use by door-gateway core, pid {_owner(file) or 'unknown'}"
            ) from error
        # The pid is for the message only; a full disk must not stand in the way of a start.
        with contextlib.suppress(OSError):
            os.ftruncate(self._locks[-1], 0)
            os.pwrite(self._locks[-1], f"{os.getpid()}\n".encode(), 0)

    # --- The high-water mark of time --------------------------------------------------------------

    @property
    def floor(self) -> datetime | None:
        """No moment before this one can be now; None if that was never known, or is lost."""
        return self._floor

    def raise_floor(self, to: datetime) -> None:
        """Keep a higher mark, in whole milliseconds; a lower one changes nothing.

        Takes as long as an fsync: call it in a thread.

        Raises:
            StorageError: it couldn't be written. It holds for this process all the same.
        """
        if self._floor is None or to > self._floor:
            self.set_floor(to)

    def set_floor(self, to: datetime) -> None:
        """As `raise_floor`, but to a lower one as well: where the time was carried ahead by a
        stolen key.
        """
        self._floor = to
        write_atomically(self._floor_file, _floor_line((to - _EPOCH) // timedelta(milliseconds=1)))

    def _read_floor(self) -> datetime | None:
        try:
            with open_plain(self._floor_file) as file:
                line = file.read(FLOOR_BYTES_MAX + 1)
        except FileNotFoundError:
            return None
        except OSError as error:
            _log.warning("the floor of time can't be read", why=error.strerror)
            return None
        try:
            ms = int(line.split(maxsplit=1)[0])
            if line == _floor_line(ms):
                return _EPOCH + timedelta(milliseconds=ms)
        except (ValueError, IndexError, OverflowError):
            pass
        _log.warning("the floor of time is damaged: it starts anew", file=str(self._floor_file))
        return None


def _owner(lock: Path) -> str:
    with contextlib.suppress(OSError), open_plain(lock) as file:
        return file.read(32).strip().decode("ascii", "replace")
    return ""


def _floor_line(ms: int) -> bytes:
    return f"{ms} {hashlib.sha256(b'floor %d' % ms).hexdigest()}\n".encode()
