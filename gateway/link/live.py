"""Events as they happen, each once, for consumers that act on them at once (Home Assistant).

The topic `event` is for the cloud: what it doesn't acknowledge comes again, hours later too, and a
consumer that can't tell duplicates would switch the light on for a person of yesterday. What is
published here is never retained, never sent again, and never old (docs/decisions/0038).
"""

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import msgspec

from gateway.decoding import decode_with
from gateway.errors import Undecodable
from gateway.ipc.messages import Events
from gateway.link.topics import Topics

LIVE_AGE_MAX = timedelta(seconds=5)
"""The oldest event that counts as happening now: a stalled link or broker skips what is older."""

LIVE_BLOCKED_MAX = timedelta(seconds=2)
"""A connection that takes no bytes for as long gets no live events: they would arrive late."""

EVENT_TYPES = ("granted", "denied", "forced_open", "held_open", "rex")
"""All that is said of a door. No holder: whoever reads it is not the cloud."""

_OUTCOMES = {"grant": "granted", "deny": "denied"}


class _Event(msgspec.Struct):
    code: str
    at: datetime
    door: str | None = None
    outcome: str | None = None
    reason: str | None = None


_decoder = msgspec.json.Decoder(_Event)
_encode = msgspec.json.Encoder().encode


class LiveEvents:
    """A position in the journal that only moves forward, and what to publish of its events."""

    def __init__(self, topics: Topics) -> None:
        self._topics = topics
        self._stream: str | None = None
        self.after = 0
        """The last event that was looked at."""

    def journal(self, stream: str, last_seq: int) -> None:
        """Follow this stream: a new one from its end, the same one from where it was left."""
        if stream != self._stream:
            self._stream, self.after = stream, last_seq

    def follows(self, stream: str) -> bool:
        """Whether the position is one in this stream."""
        return stream == self._stream

    def take(self, events: Events, now: timedelta) -> Iterator[tuple[str, bytes]]:
        """Topic and payload for each event that happens now; `now` is the monotonic time."""
        if events.at is None or not self.follows(events.stream):
            return
        on_the_way = now - timedelta(seconds=events.at_mono_s)
        self.after = max(self.after, events.first_seq - 1)
        for body in events.bodies:
            self.after += 1
            try:
                event = decode_with(_decoder, body)
            except Undecodable:
                continue  # not of a door
            if events.at - event.at + on_the_way > LIVE_AGE_MAX or not event.door:
                continue
            if (said := _said(event)) is not None:
                yield self._topics.door_event(event.door), _encode(said)


def _said(event: _Event) -> dict[str, Any] | None:
    if event.code == "access":
        kind = _OUTCOMES.get(event.outcome or "")
        if kind is None:
            return None
        return {"v": 1, "event_type": kind, "reason": event.reason, "at": event.at}
    if event.code in EVENT_TYPES:
        return {"v": 1, "event_type": event.code, "at": event.at}
    return None
