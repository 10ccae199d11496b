"""Where on the broker this gateway speaks and listens (MQTT, version 1)."""

import re
from typing import Literal, get_args
from urllib.parse import quote

from gateway.link.errors import LinkError

LEVEL_BYTES_MAX = 192
"""The longest level of a topic: an id of 64 characters even where each is percent-encoded."""


_LEVEL = re.compile(rf"[A-Za-z0-9_.~%-]{{1,{LEVEL_BYTES_MAX}}}")

SealedTopic = Literal["beacon", "cmd", "sync/manifest", "sync/chunk"]
SEALED: tuple[SealedTopic, ...] = get_args(SealedTopic)
"""What only the core can judge, and the link carries to it unread; `ack` as well, at a site whose
source of truth signs."""


class Topics:
    """The topics of one gateway. Ids are percent-encoded: none can leave its level."""

    def __init__(self, site: str, gateway: str) -> None:
        prefix = f"acs/v1/{level(site)}/{level(gateway)}"
        self.client_id = f"acs:{level(site)}:{level(gateway)}"
        self.event = f"{prefix}/event"
        self.status = f"{prefix}/status"
        self.health = f"{prefix}/health"
        self.ack = f"{prefix}/ack"
        self.sealed = {f"{prefix}/{name}": name for name in SEALED}
        self._prefix = prefix
        self._doors = f"{prefix}/door"

    def of(self, name: str) -> str:
        """Where the core's own messages of this name go."""
        return f"{self._prefix}/{name}"

    def door_state(self, door: str) -> str:
        """Where the door's last state is retained. Raises LinkError."""
        return f"{self._doors}/{level(door)}/state"

    def is_door_state(self, topic: str) -> bool:
        """Whether it is the state of a door of this gateway, whichever door."""
        prefix, suffix = f"{self._doors}/", "/state"
        door = topic.removeprefix(prefix).removesuffix(suffix)
        return topic == f"{prefix}{door}{suffix}" and _LEVEL.fullmatch(door) is not None

    def door_event(self, door: str) -> str:
        """Where events of the door are published as they happen. Raises LinkError."""
        return f"{self._doors}/{level(door)}/event"

    def wish(self, door: str) -> str:
        """Where others may say what they want of the door; the gateway doesn't listen there."""
        return f"{self._doors}/{level(door)}/wish"


def level(identifier: str) -> str:
    """One level of a topic: letters, digits and `_.-~` as they are, other bytes percent-encoded.

    Raises:
        LinkError: The id is empty or too long.
    """
    encoded = quote(identifier, safe="")
    if not 0 < len(encoded) <= LEVEL_BYTES_MAX:
        raise LinkError(
            f"the id {identifier[:LEVEL_BYTES_MAX]!r} makes no topic: 1 to {LEVEL_BYTES_MAX} bytes"
        )
    return encoded
