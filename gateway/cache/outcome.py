"""What the core and the child process that compiles for it have to agree on."""

from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import msgspec

from gateway.domain.record_faults import LintWarning
from gateway.errors import RecordFault

RECORDS_BYTES_MAX = 64 * 1024 * 1024
"""About 200,000 credentials with their holders. A larger set is refused unread."""


class Refused(msgspec.Struct, frozen=True, tag_field="outcome", tag="refused"):
    """The records have faults."""

    faults: tuple[RecordFault, ...]


class Failed(msgspec.Struct, frozen=True, tag_field="outcome", tag="failed"):
    """The disk, the key or what lies on it can't be used."""

    why: str


class Unchanged(msgspec.Struct, frozen=True, tag_field="outcome", tag="unchanged"):
    """The set is the one in force."""

    warnings: tuple[LintWarning, ...]


class Compiled(msgspec.Struct, frozen=True, tag_field="outcome", tag="compiled"):
    """A table is ready."""

    file: str
    sha256: str
    revision: str
    as_of: datetime
    counts: dict[str, int]
    warnings: tuple[LintWarning, ...]
    source: str
    """What it was made from: `records`, or the name of the file that had them."""
    codes_per_pin: int | None = None
    """Possible codes for each PIN in force; null where there is none."""


Outcome = Refused | Failed | Unchanged | Compiled


class Place(NamedTuple):
    """Where the cache lies in the state directory."""

    directory: Path

    @property
    def source(self) -> Path:
        """The records as rows."""
        return self.directory / "cache.db"

    @property
    def bundles(self) -> Path:
        """The last good sets."""
        return self.directory / "bundles"

    @property
    def pointer(self) -> Path:
        """Which table is in force."""
        return self.directory / "current"

    def table(self, revision: str) -> Path:
        """The table of a revision."""
        return self.directory / f"entitlements-{revision}.mdb"
