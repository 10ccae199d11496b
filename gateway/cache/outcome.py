"""What the core and the child process that compiles for it have to agree on."""

from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import msgspec

from gateway.domain.impact import Limits
from gateway.domain.impact_window import Recent
from gateway.domain.record_faults import LintWarning
from gateway.errors import RecordFault

RECORDS_BYTES_MAX = 64 * 1024 * 1024
"""About 200,000 credentials with their holders. A larger set is refused unread."""


class Refused(msgspec.Struct, frozen=True, tag_field="outcome", tag="refused"):
    """The records have faults."""

    faults: tuple[RecordFault, ...]


class Broken(msgspec.Struct, frozen=True, tag_field="outcome", tag="broken"):
    """A bundle breaks a rule of docs/spec/trust.md that only its content shows."""

    rule: str
    why: str


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
    number: int | None = None
    """The signed revision, with its digest in hex and the epoch that it is counted in."""
    digest: str = ""
    epoch: int = 0
    doors: dict[str, int] = {}
    """By door: holders who have a way in."""
    codes_per_pin: int | None = None
    """Possible codes for each PIN in force; null where there is none."""
    recent: Recent = ()
    """What bundles by one key alone changed lately, this one with them."""


class Audited(msgspec.Struct, frozen=True, tag_field="outcome", tag="audited"):
    """The digest, worked out anew from what is on the disk."""

    digest: str
    """Hex."""
    buckets: str
    """Hex: the 256 hashes."""
    damaged: int
    """Lines that are not as they were sealed; they are left out."""


Outcome = Refused | Broken | Failed | Unchanged | Compiled | Audited


class BundleOrder(msgspec.Struct, frozen=True):
    """A bundle to apply, whose manifest has been checked."""

    manifest: bytes
    """The payload of its document."""
    signatures: int
    """By different keys of the role `bundle`."""
    limits: Limits
    epoch: int
    as_of: datetime
    at: datetime
    """The one instant of this update."""
    recent: Recent = ()
    """What bundles by one key alone changed lately."""
    table: str = ""
    """What is in force: the file and its SHA-256."""
    table_sha256: str = ""


class Place(NamedTuple):
    """Where the cache lies in the state directory, and of which site its records must be."""

    directory: Path
    site: str

    @property
    def source(self) -> Path:
        """The records as rows."""
        return self.directory / "cache.db"

    @property
    def bundles(self) -> Path:
        """The last good sets."""
        return self.directory / "bundles"

    @property
    def incoming(self) -> Path:
        """The bundle that is coming in, encrypted."""
        return self.directory / "incoming"

    @property
    def floor(self) -> Path:
        """The highest revision ever in force."""
        return self.directory / "floor-revision"

    @property
    def pointer(self) -> Path:
        """Which table is in force."""
        return self.directory / "current"

    def table(self, revision: str) -> Path:
        """The table of a revision."""
        return self.directory / f"entitlements-{revision}.mdb"
