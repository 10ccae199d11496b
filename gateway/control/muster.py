"""People by zone, as far as entries and exits show."""

from gateway.control.door import unseen_key
from gateway.control.memory import SiteMemory
from gateway.domain.memory import Count, Place, recall
from gateway.domain.occupancy import count_key
from gateway.ipc.messages import Whereabouts, ZoneMuster, ZonesMuster


def muster(memory: SiteMemory) -> list[ZoneMuster]:
    """Every zone in which somebody is, or was counted; the zones and people in order."""
    people: dict[str, list[Whereabouts]] = {}
    for holder, place in sorted(memory.items("place/")):
        if isinstance(place, Place) and not place.elsewhere:
            there = Whereabouts(holder=holder, door=place.door, at=place.at, seen=place.seen)
            people.setdefault(place.zone, []).append(there)
    zones = set(people)
    for prefix in ("count/", "unseen/"):
        zones.update(zone for zone, _ in memory.items(prefix))
    return [_zone(memory, zone, people.get(zone, [])) for zone in sorted(zones)]


def between(memory: SiteMemory) -> list[ZonesMuster]:
    """Those of whom only several zones are known: one tap opened the way to all of them."""
    people: dict[tuple[str, ...], list[Whereabouts]] = {}
    for holder, place in sorted(memory.items("place/")):
        if isinstance(place, Place) and place.elsewhere:
            there = Whereabouts(holder=holder, door=place.door, at=place.at, seen=False)
            people.setdefault(tuple(sorted((place.zone, *place.elsewhere))), []).append(there)
    return [ZonesMuster(zones=list(zones), people=people[zones]) for zones in sorted(people)]


def _zone(memory: SiteMemory, zone: str, people: list[Whereabouts]) -> ZoneMuster:
    unseen = recall(memory, unseen_key(zone), Count)
    counted = recall(memory, count_key(zone), Count)
    return ZoneMuster(
        zone=zone,
        people=people,
        left_unseen=0 if unseen is None else unseen.people,
        counted=None if counted is None else counted.people,
    )
