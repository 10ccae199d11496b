"""The seam where signatures will be checked. Until then only the operator at the box is believed.

A plain records file bears no signature, so it is as good as whoever hands it in: it is admitted
from a local operator, whose right to do so the socket has checked by the peer's credentials, and
from nowhere else. Signed bundles will be admitted from any source, on their own strength.
"""

from datetime import UTC, datetime
from enum import Enum
from typing import NamedTuple

from gateway.errors import GatewayError

ENVELOPE_BYTES_MAX = 64 * 1024 * 1024
"""As much as the cache takes. Whatever is larger is refused before anything in it is read."""


class NotAdmitted(GatewayError):
    """The envelope is not believed. Nothing of it was used."""


class Source(Enum):
    """How an envelope came here."""

    LOCAL_FILE = "local file"
    """From a file, by an operator on this machine who may change entitlements."""
    CLOUD = "cloud"
    """Carried by `link`, which is not trusted itself."""


class AdmittedRecords(NamedTuple):
    """Records that may be applied: only `admit` makes them."""

    records: bytes
    """JSON Lines, not parsed yet."""
    as_of: datetime
    """The moment up to which their source vouches for them, UTC."""
    source: Source


def admit(envelope: bytes, source: Source, as_of: datetime) -> AdmittedRecords:
    """Decide whether an envelope is believed, before anything in it is parsed.

    `as_of` is what the operator says: the moment at which the file was made.

    Raises:
        NotAdmitted: it is empty or too large, or bears no signature and isn't from a local file.
    """
    if source is not Source.LOCAL_FILE:
        raise NotAdmitted(
            f"records from the {source.value} must be signed, and this release knows no signed"
            " bundles: apply them as a local file"
        )
    if not envelope:
        raise NotAdmitted("the records file is empty")
    if len(envelope) > ENVELOPE_BYTES_MAX:
        raise NotAdmitted(
            f"the records file has {len(envelope)} bytes: no more than {ENVELOPE_BYTES_MAX} are"
            " read"
        )
    if as_of.tzinfo is None:
        raise NotAdmitted("as_of has no offset: it would mean another moment elsewhere")
    return AdmittedRecords(envelope, as_of.astimezone(UTC), source)
