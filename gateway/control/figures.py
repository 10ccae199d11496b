"""What the site counts and how quick its doors are, from the events as they are recorded."""

import math
from collections import Counter, deque
from collections.abc import Mapping

from gateway.domain import events
from gateway.ipc.messages import DoorFigures, Latency

TAPS_KEPT = 500
"""Of a door: what a quantile is taken of. A busy door has them within hours, a quiet one in days,
and figures of a week ago are better than none."""


class Figures:
    """Told of each event by `heard`; keeps no holder and no credential."""

    def __init__(self) -> None:
        self._codes: Counter[str] = Counter()
        self._doors: dict[str, _Door] = {}

    def heard(self, event: events.Event) -> None:
        """An event was recorded."""
        self._codes[str(event.__struct_config__.tag)] += 1
        match event:
            case events.AccessDecided():
                door = self._door(event.door)
                door.outcomes[event.outcome] += 1
                if event.outcome == "deny":
                    door.denials[event.reason] += 1
                door.took("decide", event.decide_ms)
                if event.read_ms is not None:
                    door.took("read", event.read_ms)
            case events.Unlocked(cause="grant"):
                door = self._door(event.door)
                door.took("record", event.record_ms)
                door.took("release", event.confirm_ms)
            case events.DoorOpened(cause="grant", after_ms=int(after)):
                self._door(event.door).took("open", after)

    @property
    def codes(self) -> Mapping[str, int]:
        """Events by code since the start."""
        return self._codes

    def doors(self) -> dict[str, DoorFigures]:
        """Every door at which something was presented since the start."""
        return {name: door.report() for name, door in self._doors.items()}

    def _door(self, name: str) -> "_Door":
        return self._doors.setdefault(name, _Door())


class _Door:
    def __init__(self) -> None:
        self.outcomes: Counter[str] = Counter()
        self.denials: Counter[str] = Counter()
        self._stages: dict[str, deque[float]] = {}

    def took(self, stage: str, ms: float) -> None:
        self._stages.setdefault(stage, deque(maxlen=TAPS_KEPT)).append(ms)

    def report(self) -> DoorFigures:
        return DoorFigures(
            outcomes=dict(self.outcomes),
            denials=dict(self.denials),
            latency_ms={name: _latency(taps) for name, taps in self._stages.items()},
        )


def _latency(taps: deque[float]) -> Latency:
    ordered = sorted(taps)
    return Latency(
        taps=len(ordered), p50=_quantile(ordered, 0.5), p99=_quantile(ordered, 0.99),
        worst=ordered[-1],
    )  # fmt: skip


def _quantile(ordered: list[float], share: float) -> float:
    """The smallest value that `share` of them don't exceed (nearest rank)."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]
