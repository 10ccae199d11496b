"""What the link says of itself, beside the core's status, in the health message."""

import msgspec


class LinkHealth(msgspec.Struct, frozen=True, kw_only=True):
    """Counted since the link's start."""

    sessions: int
    resends: int
    """How often sending began again because the cloud was silent."""
    acks: dict[str, int]
    """Acknowledgements by what became of them (`gateway.link.uplink.Verdict`)."""
    dropped: dict[str, int]
    """Sealed messages by topic that came faster than the core could take them, or too large."""
