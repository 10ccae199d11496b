"""What `door-gateway status` says of a door."""

from datetime import UTC, datetime

import pytest

from gateway.cli.status import described
from gateway.ipc.messages import DoorStateReport


@pytest.mark.parametrize(
    ("mode", "said"),
    [("controlled", "locked, closed"), ("lockdown", "locked, closed  lockdown")],
)
def test_a_door_is_told_with_its_mode_where_that_is_not_the_usual_one(mode: str, said: str) -> None:
    at = datetime(2026, 1, 1, tzinfo=UTC)
    door = DoorStateReport(door="front", mode=mode, locked=True, contact="closed", trust=2, at=at)
    assert described(door) == said
