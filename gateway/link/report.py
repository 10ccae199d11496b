"""The link's report to the core on its session with the broker, kept as values."""

from collections import deque
from datetime import timedelta

from paho.mqtt.reasoncodes import ReasonCode

from gateway.ipc.messages import REASON_CHARS_MAX, REFUSED_TOPICS_MAX, SessionSaid

REPORT_EVERY_S = 15.0
"""The core takes the link for dead after three of these (`gateway.processes.delivery`)."""

LOSSES_COUNTED_FOR = timedelta(minutes=5)
"""A session lost three times within it is not a restarted broker any more."""

_LOSSES_MAX = 100
_NOBODY_SUBSCRIBED = "No matching subscribers"  # MQTT 5, 3.4.2.1: reason code 0x10 of a PUBACK


class SessionReport:
    """Told of every change by the link; `said` is the report. Times are monotonic."""

    def __init__(self, event_topic: str, now: timedelta) -> None:
        self._event_topic = event_topic
        self._since = now
        self._there = False
        self._reason: str | None = None
        self._losses: deque[timedelta] = deque(maxlen=_LOSSES_MAX)
        self._refused: dict[str, str] = {}
        self._events_refused = 0
        self._unheard = False

    def begun(self, now: timedelta) -> None:
        """Note that a session has begun: what the broker refused before may be allowed now."""
        self._there, self._since = True, now
        self._refused.clear()
        self._unheard = False

    def failed(self, reason: str, now: timedelta) -> None:
        """Note that there is no session, and why."""
        if self._there:
            self._there, self._since = False, now
            self._losses.append(now)
        self._reason = reason[:REASON_CHARS_MAX]

    def answered(self, topic: str, reason: ReasonCode) -> bool:
        """Note the broker's answer to a message; returns whether the report differs now."""
        before = (len(self._refused), self._unheard)
        if topic == self._event_topic:
            self._unheard = str(reason) == _NOBODY_SUBSCRIBED
            self._events_refused += reason.is_failure
        if not reason.is_failure:
            self._refused.pop(topic, None)
        elif topic in self._refused or len(self._refused) < REFUSED_TOPICS_MAX:
            self._refused[topic] = str(reason)[:REASON_CHARS_MAX]
        return before != (len(self._refused), self._unheard)

    def said(self, now: timedelta) -> SessionSaid:
        """The report at this moment."""
        return SessionSaid(
            there=self._there,
            since_s=self._since.total_seconds(),
            reason=self._reason,
            lost=sum(now - lost <= LOSSES_COUNTED_FOR for lost in self._losses),
            refused=dict(self._refused),
            events_refused=self._events_refused,
            unheard=self._unheard,
        )
