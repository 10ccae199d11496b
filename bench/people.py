"""Synthetic entitlement records of any size, and requests about them."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

DOORS = 40
GROUPS = 30
SCHEDULES = 10
WEEK = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


def instant(at: datetime) -> str:
    return at.strftime("%Y-%m-%dT%H:%M:%SZ")


def card(number: int) -> str:
    """The UID of holder number `number`."""
    return f"04{number:012X}"


def pin(number: int) -> str:
    return f"{number:08}"


def site_records(**door: Any) -> Iterator[dict[str, Any]]:
    """Everything that isn't about one person; `door`: further members of each door."""
    yield {"type": "site", "id": "LON", "timezone": "Europe/London"}
    yield {"type": "policy", "id": "policy"}
    yield {"type": "zone", "id": "street", "category": "public"}
    for number in range(DOORS):
        zone = f"z{number}"
        yield {"type": "zone", "id": zone, "category": "member"}
        yield {"type": "door", "id": f"d{number}", "from_zone": "street", "to_zone": zone, **door}
    for schedule in range(SCHEDULES):
        hours = [[f"{6 + schedule % 4:02}:00", "12:30"], ["13:00", f"{18 + schedule % 5:02}:00"]]
        yield {"type": "schedule", "id": f"s{schedule}", "weekly": dict.fromkeys(WEEK[:5], hours)}
    for group in range(GROUPS):
        yield {
            "type": "group",
            "id": f"g{group:02}",
            "zones": [],
            "doors": [f"d{(group * 7 + step * 3) % DOORS}" for step in range(8)],
            "schedule": "24x7" if group % 5 == 0 else f"s{group % SCHEDULES}",
        }


def person_records(holders: int, *, first: int = 0) -> Iterator[dict[str, Any]]:
    """Each holder has a card and a second credential, and is in one to three groups.

    Of a hundred, three are suspended, two have an end date in the past, and two lost their card.
    """
    past = instant(datetime.now(UTC) - timedelta(days=30))
    for number in range(first, first + holders):
        holder: dict[str, Any] = {
            "type": "holder",
            "id": f"h{number}",
            "name": f"Holder {number}",
            "persona": "member",
            "status": "suspended" if number % 100 < 3 else "active",
            "groups": sorted(
                {f"g{(number * 11 + step * 13) % GROUPS:02}" for step in range(1 + number % 3)}
            ),
        }
        if number % 100 in (3, 4):
            holder["valid_until"] = past
        yield holder
        yield {
            "type": "credential",
            "id": f"c{number}",
            "holder": f"h{number}",
            "kind": "uid",
            "value": card(number),
            "status": "lost" if number % 100 in (5, 6) else "active",
        }
        yield {
            "type": "credential",
            "id": f"p{number}",
            "holder": f"h{number}",
            "kind": "pin" if number % 10 == 0 else "wiegand",
            "value": pin(number) if number % 10 == 0 else f"H10306:{number >> 16}:{number & 65535}",
        }


def as_lines(records: Iterator[dict[str, Any]]) -> bytes:
    return "".join(f"{json.dumps(record)}\n" for record in records).encode()
