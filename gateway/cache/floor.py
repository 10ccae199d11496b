"""The floor of revision: the highest signed set and root ever in force, which never falls."""

import hmac
from pathlib import Path

import msgspec
import structlog

from gateway.cache.key import CredentialKey
from gateway.decoding import decode_json
from gateway.statedir import open_plain, write_atomically

FLOOR_BYTES_MAX = 1024
"""Two short lines; whatever is longer isn't one."""

_log = structlog.get_logger(__name__)


class Floor(msgspec.Struct, frozen=True):
    """Compared by `epoch` first: the root that last replaced all keys of the role `bundle` began
    one, in which revisions are counted anew.
    """

    root: int = 1
    epoch: int = 0
    revision: int = 0
    digest: str = ""
    """Hex; of `revision`."""
    waiting: bool = False
    """The epoch has no bundle yet: `revision` is the last one of the epoch before, still good."""
    retimed: int = 0
    """The root that last replaced all keys of the role `freshness`."""
    untimed: bool = False
    """No beacon under `retimed` has proved the time yet: the first that does may set it back."""

    def allows(self, epoch: int, revision: int) -> bool:
        """Whether a set may be in force at a start."""
        if self.waiting and epoch < self.epoch:
            return revision >= self.revision
        return (epoch, revision) >= (self.epoch, 0 if self.waiting else self.revision)

    def taken(self, epoch: int, revision: int, digest: str) -> "Floor":
        """The floor once this set is in force: as it was, or higher."""
        if not self.waiting and (epoch, revision) <= (self.epoch, self.revision):
            return self
        if self.waiting and epoch < self.epoch:
            return self
        return msgspec.structs.replace(
            self, epoch=epoch, revision=revision, digest=digest, waiting=False
        )

    def rooted(self, version: int, *, resets: bool, retimes: bool = False) -> "Floor":
        """The floor once this root is in force."""
        floor = msgspec.structs.replace(self, root=max(self.root, version))
        if resets and version > self.epoch:
            floor = msgspec.structs.replace(floor, epoch=version, waiting=True)
        if retimes and version > self.retimed:
            floor = msgspec.structs.replace(floor, retimed=version, untimed=True)
        return floor


def read_floor(path: Path, key: CredentialKey) -> Floor | None:
    """What the file says; None where it is lost or not this gateway's: the pointer then counts."""
    try:
        with open_plain(path) as file:
            line, mac = file.read(FLOOR_BYTES_MAX).splitlines()
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        _log.error("revision_floor_unreadable", file=str(path), reason=str(error))
        return None
    if not hmac.compare_digest(mac, _mac(key, line)):
        _log.error("revision_floor_damaged", file=str(path))
        return None
    return decode_json(line, Floor)


def write_floor(path: Path, floor: Floor, key: CredentialKey) -> None:
    """Keep it, durably. Raises StorageError."""
    line = msgspec.json.encode(floor)
    write_atomically(path, line + b"\n" + _mac(key, line) + b"\n")


def _mac(key: CredentialKey, line: bytes) -> bytes:
    return key.mac(b"floor 1", line).hex().encode()
