from datetime import UTC, datetime, timedelta

from gateway.clock import TimeTrust
from gateway.domain import events

EPOCH = datetime(2026, 5, 4, 9, 0, tzinfo=UTC)


class StillClock:
    """A clock that stands where it was put."""

    def now(self) -> datetime:
        return EPOCH

    def monotonic(self) -> timedelta:
        return timedelta(0)

    def trust(self) -> TimeTrust:
        return TimeTrust.T2


def closed(number: int, *, at: datetime | None = None, trust: int = 2) -> events.DoorClosed:
    when = EPOCH + timedelta(seconds=number) if at is None else at
    return events.DoorClosed(at=when, trust=trust, door=f"door-{number}")
