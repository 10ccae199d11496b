"""What to send to the cloud next, decided on values: no socket, no clock, no broker.

The journal is the only outbox. The cloud's acknowledgement is the only position that counts:
PUBACK says that the broker took a batch, not that anybody has it. (At a site that keeps its events
itself nobody acknowledges, and a PUBACK is the acknowledgement.) Whenever that position is in
doubt (a new session, a cloud that fell silent) sending starts again behind it, with one small batch
until the cloud has answered: a broker that lost its sessions drops what comes before the cloud has
subscribed again. The cloud tells duplicates by (stream, seq), so an urgent event may also go ahead
of the backlog, in a message that says so; at its place in the sequence it comes all the same.
"""

import random
from datetime import timedelta
from enum import StrEnum
from typing import NamedTuple

import msgspec

from gateway.ipc.messages import Events, UrgentEvents
from gateway.link.acks import Ack

BATCH_EVENTS_MAX = 100
"""Events of one message."""

PROBE_EVENTS_MAX = 20
"""Events sent in a new session, or to a cloud that has fallen silent, before it acknowledges one:
little enough to send again every few seconds, over a slow line too."""

URGENT_EVENTS_MAX = 20
"""Urgent events of one message ahead of the backlog; the next follows its PUBACK."""

IN_FLIGHT_MAX = 20
"""Batches without a PUBACK: throughput no longer grows beyond it, only what a broker's death has
sent in vain. It is also the receive maximum that brokers grant by default."""

AHEAD_EVENTS_MAX = 10_000
"""Events sent beyond the cloud's acknowledgement: room for slow lines, a bound on what is sent
again."""

PUBACK_WAIT = timedelta(seconds=120)
"""A broker that owes PUBACKs and sends none for as long is given up, though it answers pings."""


class Batch(NamedTuple):
    """One message for the `event` topic; `token` names it to `published`."""

    token: int
    payload: bytes


class _Span(NamedTuple):
    """The events of one batch, by number."""

    first: int
    last: int


class Wanted(NamedTuple):
    """What to read from the journal: at most `limit` events after `after`."""

    after: int
    limit: int


class Verdict(StrEnum):
    """What became of an acknowledgement."""

    TAKEN = "taken"
    OLD = "old"
    FOREIGN = "foreign"
    """Of another stream than the journal's."""
    EARLY = "early"
    """Beyond what this life of the link has sent, of what an earlier one may have: it counts when
    it is said again."""
    AHEAD = "ahead"
    """Beyond what was ever sent: believed, it would delete what the cloud can't have."""


class _Numbered(msgspec.Struct, frozen=True, gc=False):
    seq: int
    event: msgspec.Raw


class _Message(msgspec.Struct, frozen=True, gc=False):
    v: int
    stream: str
    events: list[_Numbered]


class _UrgentMessage(msgspec.Struct, frozen=True, gc=False):
    v: int
    stream: str
    urgent: bool
    events: list[_Numbered]


_encoder = msgspec.json.Encoder()


class UplinkProtocol:
    """The state of the uplink. Times are the `Clock`'s monotonic ones."""

    def __init__(
        self,
        rng: random.Random,
        *,
        probe_s_first: float = 1.0,
        resend_s_first: float = 30.0,
        resend_s_max: float = 300.0,
        local: bool = False,
    ) -> None:
        """`local`: nobody acknowledges, so what the broker takes (PUBACK) counts as arrived."""
        self._rng = rng
        self._local = local
        self._sent: dict[int, _Span] = {}
        """Local: the events of batches without a PUBACK, by token."""
        self._taken: dict[int, int] = {}
        """Local: last event by first event, of batches that the broker has behind a gap."""
        self._patience_probe = timedelta(seconds=probe_s_first)
        self._patience_first = timedelta(seconds=resend_s_first)
        self._patience_max = timedelta(seconds=resend_s_max)
        self._patience = self._patience_first
        self._connected = False
        self._window = IN_FLIGHT_MAX
        self._tokens = 0
        self._in_flight: set[int] = set()
        self._puback_by: timedelta | None = None
        self._ack_by: timedelta | None = None
        self._probing = False
        self._position = 0
        self._highest_sent = 0
        self._last_known = 0
        self._claimed = 0
        self._urgent_position = 0
        self._urgent_token: int | None = None
        self.stream: str | None = None
        """The journal's stream; None before the core has told."""
        self.acknowledged = 0
        """Up to where the cloud has the stream."""
        self.resends = 0
        """How often sending began again because the cloud was silent."""

    def journal(self, stream: str, acknowledged: int, last: int) -> None:
        """What the core says of its journal. Sending goes on behind what is acknowledged."""
        if stream != self.stream:
            self.stream = stream
            self.acknowledged = 0
            self._highest_sent = 0
            self._last_known = 0
            self._claimed = 0
            self._urgent_position = 0
            self._in_flight.clear()
            self._puback_by = None
            self._probe()
        self._last_known = max(self._last_known, last)
        self.acknowledged = max(self.acknowledged, acknowledged)
        self._rewind()

    def connected(self, window: int = IN_FLIGHT_MAX) -> None:
        """A session has begun with a broker that takes `window` batches without a PUBACK."""
        self._connected = True
        self._window = window
        self._in_flight.clear()
        self._puback_by = None
        self._urgent_token = None
        self._urgent_position = 0
        self._probe()
        self._rewind()

    def disconnected(self) -> None:
        """The session is over; what it had in flight counts as lost."""
        self._connected = False
        self._in_flight.clear()
        self._puback_by = None

    def wanted(self) -> Wanted | None:
        """What to read from the journal next; None while nothing may be sent."""
        if not self._connected or self.stream is None or len(self._in_flight) >= self._window:
            return None
        if self._probing:
            room = PROBE_EVENTS_MAX - (self._position - self.acknowledged)
        else:
            # Up to what the cloud says it has there is nothing to wait for: it says so again, and
            # then it counts. Counted from our own mark, a cloud that is further ahead than the
            # room would never be caught up with.
            room = AHEAD_EVENTS_MAX - (self._position - max(self.acknowledged, self._claimed))
        if room <= 0:
            return None
        return Wanted(self._position, min(BATCH_EVENTS_MAX, room))

    def took(self, events: Events, now: timedelta) -> Batch | None:
        """The batch to publish of what was read; None where that is no longer what is wanted."""
        wanted = self.wanted()
        if (
            wanted is None
            or not events.bodies
            or events.stream != self.stream
            or events.first_seq != wanted.after + 1
            or len(events.bodies) > wanted.limit
        ):
            return None
        self._position += len(events.bodies)
        self._highest_sent = max(self._highest_sent, self._position)
        self._tokens += 1
        self._in_flight.add(self._tokens)
        if self._local:
            self._sent[self._tokens] = _Span(wanted.after + 1, self._position)
        self._puback_by = self._puback_by or now + PUBACK_WAIT
        if self._ack_by is None:
            self._wait_for_ack(now)
        numbered = [
            _Numbered(seq, msgspec.Raw(body))
            for seq, body in enumerate(events.bodies, events.first_seq)
        ]
        return Batch(self._tokens, _encoder.encode(_Message(1, events.stream, numbered)))

    def urgent_wanted(self) -> int | None:
        """After which event to look for urgent ones; None while none may be sent."""
        if not self._connected or self.stream is None or self._urgent_token is not None:
            return None
        return max(self._urgent_position, self._position)

    def took_urgent(self, urgent: UrgentEvents) -> Batch | None:
        """The batch to publish ahead of the backlog; None where the sequence is as quick."""
        if self.urgent_wanted() is None or urgent.stream != self.stream or not urgent.events:
            return None
        self._urgent_position = max(self._urgent_position, urgent.events[-1].seq)
        due = self.wanted()
        soon = self._position if due is None else due.after + due.limit
        ahead = [_Numbered(seq, msgspec.Raw(body)) for seq, body in urgent.events if seq > soon]
        if not ahead:
            return None
        self._last_known = max(self._last_known, ahead[-1].seq)
        self._tokens += 1
        self._urgent_token = self._tokens
        message = _UrgentMessage(1, urgent.stream, urgent=True, events=ahead)
        return Batch(self._tokens, _encoder.encode(message))

    def skip_to(self, seq: int) -> None:
        """The journal has nothing between the position and `seq`: go on behind it."""
        if self._local and seq > self._position:
            self._highest_sent = max(self._highest_sent, seq)
            if self._position == self.acknowledged:
                self.acknowledged = seq
            else:
                self._taken[self._position + 1] = seq
        self._position = max(self._position, seq)

    def published(self, token: int, now: timedelta, *, refused: bool = False) -> bool:
        """Take note of a PUBACK: it frees the window.

        It says nothing more where a cloud acknowledges. Returns True where nobody does and
        `acknowledged` has risen by it.
        """
        if token == self._urgent_token:
            self._urgent_token = None
            return False
        self._in_flight.discard(token)
        self._puback_by = now + PUBACK_WAIT if self._in_flight else None
        span = self._sent.pop(token, None)
        if span is None or refused:
            return False
        self._taken[span.first] = max(span.last, self._taken.get(span.first, 0))
        return self._arrived(now)

    def _arrived(self, now: timedelta) -> bool:
        """Local: acknowledge what the broker has without a gap."""
        assert self.stream is not None  # noqa: S101 - batches were sent of it
        before = self.acknowledged
        while (first := self._next_taken()) is not None:
            self.acked(Ack(self.stream, self._taken.pop(first)), now)
        return self.acknowledged > before

    def _next_taken(self) -> int | None:
        due = (first for first in self._taken if first <= self.acknowledged + 1)
        return next(due, None)

    def acked(self, ack: Ack, now: timedelta) -> Verdict:
        """The cloud has acknowledged."""
        if ack.stream != self.stream:
            return Verdict.FOREIGN
        if ack.seq > max(self._last_known, self._highest_sent):
            return Verdict.AHEAD
        if ack.seq > self._highest_sent:
            self._claimed = max(self._claimed, ack.seq)
            # Whoever says so listens: what was sent before a restart of the link can follow fast.
            self._be_patient()
            if self._position > self.acknowledged:
                self._wait_for_ack(now)
            return Verdict.EARLY
        if ack.seq <= self.acknowledged:
            return Verdict.OLD
        self.acknowledged = ack.seq
        self._position = max(self._position, ack.seq)
        self._be_patient()
        if self._position > self.acknowledged:
            self._wait_for_ack(now)
        return Verdict.TAKEN

    def tick(self, now: timedelta) -> bool:
        """Whether the cloud has been silent for too long: then sending has been set back."""
        if not self._connected or self._ack_by is None or now < self._ack_by:
            return False
        if self._in_flight and (self._probing or self._local):
            return False  # the line is slow: what is still on its way need not go twice
        self._patience = min(self._patience * 2, self._patience_max)
        self._probing = True
        self.resends += 1
        self._rewind()
        return True

    def stuck(self, now: timedelta) -> bool:
        """Whether the broker owes PUBACKs for so long that the session is of no use."""
        return self._puback_by is not None and now >= self._puback_by

    def _probe(self) -> None:
        self._patience = self._patience_probe
        self._probing = True
        self._ack_by = None

    def _be_patient(self) -> None:
        self._patience = self._patience_first
        self._probing = False
        self._ack_by = None

    def _rewind(self) -> None:
        self._sent.clear()
        self._taken.clear()
        self._position = self.acknowledged
        self._ack_by = None

    def _wait_for_ack(self, now: timedelta) -> None:
        self._ack_by = now + self._patience * self._rng.uniform(1.0, 1.25)
