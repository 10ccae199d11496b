"""The demo's site: who is a member of it, what they bought, and what they carry.

`python -m demo.people > records.jsonl` writes the entitlement records of config/site.toml's doors.
"""

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

MORNING_HOUR = 9
"""The demo plays at nine o'clock in the morning, whatever the time is where you sit: the site is
put into the time zone in which it is nine now."""

OFFICE_HOURS = ["07:00", "20:00"]
NIGHT = ["21:00", "05:00"]


@dataclass(frozen=True)
class Person:
    """Somebody with a card, and perhaps a PIN."""

    id: str
    name: str
    persona: str
    card: str
    groups: tuple[str, ...] = ()
    pin: str | None = None
    status: str = "active"
    more: dict[str, Any] = field(default_factory=dict)
    """Further members of the holder's record."""
    card_more: dict[str, Any] = field(default_factory=dict)
    """Further members of the card's record."""


STAFF = "LON | STAFF | ALL | 24x7"
MEMBERS = "LON | MEMBERS | AMENITIES | BH"
TENANTS = "LON | TENANTS | SUITE A | 24x7"
BOOKERS = "LON | BOOKINGS | BOOKABLE | TIMEBOUND"
DAYPASS = "LON | BOOKINGS | AMENITIES | TIMEBOUND"
CLEANERS = "LON | CONTRACTORS | RESTRICTED | NIGHT"


def people(now: datetime) -> list[Person]:
    """Everybody at the demo's site. `now`: an aware instant."""
    days = timedelta(days=1)
    return [
        Person("h-sam", "Sam", "staff", "04A10000000001", (STAFF,), pin="2468"),
        Person("h-maya", "Maya", "member", "04A10000000002", (MEMBERS,)),
        Person(
            "h-milo", "Milo", "member", "04A10000000003", (MEMBERS,), card_more={"status": "lost"}
        ),
        Person("h-mona", "Mona", "member", "04A10000000004", (MEMBERS,), status="suspended"),
        Person(
            "h-mark",
            "Mark",
            "member",
            "04A10000000005",
            (MEMBERS,),
            more={"delinquent_since": _instant(now - 5 * days)},
        ),
        Person(
            "h-mila",
            "Mila",
            "member",
            "04A10000000006",
            (MEMBERS,),
            more={"valid_until": _instant(now - 2 * days)},
        ),
        Person("h-olga", "Olga", "office", "04A10000000007", (TENANTS,), pin="135790"),
        Person("h-ben", "Ben", "booker", "04A10000000008", (BOOKERS,)),
        Person("h-bea", "Bea", "booker", "04A10000000009", (BOOKERS,)),
        Person("h-dana", "Dana", "daypass", "04A1000000000A", (DAYPASS,)),
        Person("h-carl", "Carl", "contractor", "C0FFEE01", (CLEANERS,)),
        Person("h-vera", "Vera", "visitor", "04A1000000000B000000"),
    ]


UNKNOWN_CARD = "04FFFFFFFFFFFF"


def records(now: datetime, timezone: str) -> list[dict[str, Any]]:
    """The entitlement records of the demo's site (entitlement records, version 1)."""
    hour = timedelta(hours=1)
    week = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
    found: list[dict[str, Any]] = [
        {"type": "site", "id": "LON", "timezone": timezone},
        {"type": "policy", "id": "policy", "grace_hours": 72},
        _zone("outside", "public", "Street"),
        _zone("lobby", "public", "Lobby"),
        _zone("lounge", "member", "Members' lounge"),
        _zone("meeting", "bookable", "Meeting room"),
        _zone("suite", "tenant", "Suite A"),
        _zone("comms", "restricted", "Comms room"),
        {"type": "schedule", "id": "BH", "weekly": {day: [OFFICE_HOURS] for day in week}},
        {"type": "schedule", "id": "NIGHT", "weekly": {day: [NIGHT] for day in week}},
        _door("street", "outside", "lobby", pin_alone=True, unlock_s=3, criticality="high"),
        _door("lounge", "lobby", "lounge", unlock_s=3),
        _door("meeting", "lounge", "meeting", unlock_s=3),
        _door("suite", "lounge", "suite", unlock_s=3, held_open_s=5),
        _door(
            "comms",
            "lounge",
            "comms",
            unlock_s=3,
            second_factor_schedule="24x7",
            criticality="high",
        ),
        _group(STAFF, ["lobby", "lounge", "meeting", "suite", "comms"], "24x7"),
        _group(MEMBERS, ["lobby", "lounge"], "BH"),
        _group(TENANTS, ["lobby", "lounge", "suite"], "24x7"),
        _group(BOOKERS, ["lobby", "lounge", "meeting"], "timebound"),
        _group(DAYPASS, ["lobby", "lounge"], "timebound"),
        _group(CLEANERS, ["lobby", "lounge", "comms"], "NIGHT"),
        _booking("b-ben", "h-ben", ["meeting"], now - hour, now + hour),
        _booking("b-bea", "h-bea", ["meeting"], now + 3 * hour, now + 4 * hour),
        _booking("b-dana", "h-dana", ["lobby", "lounge"], now - hour, now + 8 * hour),
        _exception("e-vera", "h-vera", "allow", ["street"], now - hour, now + hour, "interview"),
        _exception("e-olga", "h-olga", "deny", ["lounge"], now - hour, now + hour, "filming"),
    ]
    for person in people(now):
        found.append(
            {
                "type": "holder",
                "id": person.id,
                "name": person.name,
                "persona": person.persona,
                "status": person.status,
                "groups": list(person.groups),
                **person.more,
            }
        )
        found.append(
            {
                "type": "credential",
                "id": f"c-{person.id}",
                "holder": person.id,
                "kind": "uid",
                "value": person.card,
                **person.card_more,
            }
        )
        if person.pin is not None:
            found.append(
                {
                    "type": "credential",
                    "id": f"p-{person.id}",
                    "holder": person.id,
                    "kind": "pin",
                    "value": person.pin,
                }
            )
    return found


def morning_zone(now: datetime) -> str:
    """The time zone, by its IANA name, in which it is nine o'clock now.

    The names count the other way round: Etc/GMT-5 is five hours ahead of Greenwich.
    """
    ahead = (MORNING_HOUR - now.hour + 12) % 24 - 12
    return f"Etc/GMT{-ahead:+d}" if ahead else "Etc/GMT"


def _instant(at: datetime) -> str:
    return at.strftime("%Y-%m-%dT%H:%M:%SZ")


def _zone(record_id: str, category: str, name: str) -> dict[str, Any]:
    return {"type": "zone", "id": record_id, "category": category, "name": name}


def _door(record_id: str, from_zone: str, to_zone: str, **members: Any) -> dict[str, Any]:
    return {"type": "door", "id": record_id, "from_zone": from_zone, "to_zone": to_zone, **members}


def _group(record_id: str, zones: list[str], schedule: str) -> dict[str, Any]:
    return {"type": "group", "id": record_id, "zones": zones, "doors": [], "schedule": schedule}


def _booking(
    record_id: str, holder: str, zones: list[str], start: datetime, end: datetime
) -> dict[str, Any]:
    return {
        "type": "booking",
        "id": record_id,
        "holders": [holder],
        "zones": zones,
        "doors": [],
        "start": _instant(start),
        "end": _instant(end),
    }


def _exception(
    record_id: str,
    holder: str,
    effect: str,
    doors: list[str],
    start: datetime,
    end: datetime,
    reason: str,
) -> dict[str, Any]:
    return {
        "type": "exception",
        "id": record_id,
        "holder": holder,
        "effect": effect,
        "zones": [],
        "doors": doors,
        "from": _instant(start),
        "until": _instant(end),
        "reason": reason,
        "issued_by": "demo",
    }


def main() -> None:
    now = datetime.now(UTC)
    for record in records(now, morning_zone(now)):
        print(json.dumps(record))


if __name__ == "__main__":
    main()
