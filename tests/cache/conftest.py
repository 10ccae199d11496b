import json
import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

CARD = "04DE5F1EACC040"
PIN = "73190426"
NAME = "Canary Featherstonehaugh"
NOON = datetime(2026, 5, 4, 12, 0, tzinfo=UTC)


def records(people: int = 3, *, status: str = "active") -> bytes:
    """A small site; person 0 has the card, the PIN and the name that must never be found."""
    everything: list[dict[str, object]] = [
        {"type": "site", "id": "LON", "timezone": "Europe/London"},
        {"type": "policy", "id": "policy"},
        {"type": "zone", "id": "street", "category": "public"},
        {"type": "zone", "id": "lounge", "category": "member"},
        {"type": "door", "id": "front", "from_zone": "street", "to_zone": "lounge"},
        {
            "type": "group",
            "id": "LON | MEMBERS | LOUNGE | 24x7",
            "zones": ["lounge"],
            "doors": [],
            "schedule": "24x7",
        },
    ]
    for n in range(people):
        holder = f"h-{n}"
        everything += [
            {
                "type": "holder",
                "id": holder,
                "persona": "member",
                "status": status,
                "groups": ["LON | MEMBERS | LOUNGE | 24x7"],
                "name": NAME if n == 0 else f"N {n}",
            },
            {
                "type": "credential",
                "id": f"card-{n}",
                "holder": holder,
                "kind": "uid",
                "value": CARD if n == 0 else f"{n:014X}",
                "printed_on_card": CARD,
            },
            {
                "type": "credential",
                "id": f"pin-{n}",
                "holder": holder,
                "kind": "pin",
                "value": PIN if n == 0 else f"{n:06}",
            },
        ]
    everything.append(
        {
            "type": "booking",
            "id": "b-1",
            "holders": ["h-0"],
            "zones": ["lounge"],
            "doors": [],
            "start": "2026-05-04T09:00:00Z",
            "end": "2026-05-04T10:00:00Z",
        }
    )
    return b"".join(json.dumps(record).encode() + b"\n" for record in everything)


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    path = tmp_path / "credential.key"
    path.write_bytes(os.urandom(32))
    path.chmod(0o400)
    return path
