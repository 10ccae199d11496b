"""Those in radio range: where they are, how strongly they are heard, what they advertise and serve.

Signal strength follows the log-distance path loss model, with a normally distributed shadowing of
4 dB, as measured indoors at 2.4 GHz (ITU-R P.1238, table 2 and 3: an exponent of 2 to 3).
"""

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

RSSI_AT_1_M = -59.0
EXPONENT = 2.2
SHADOWING_DB = 4.0
HEARD_DBM_MIN = -95.0
WALKING_M_PER_S = 1.4


def rssi(distance_m: float, rng: random.Random) -> int | None:
    """How strongly something so far away is heard this time, in dBm; None: not at all."""
    loss = 10 * EXPONENT * math.log10(max(distance_m, 0.1))
    heard = RSSI_AT_1_M - loss + rng.gauss(0, SHADOWING_DB)
    return round(heard) if heard >= HEARD_DBM_MIN else None


@dataclass(frozen=True)
class Walk:
    """A path on the floor, walked at an even pace from `started_s`; then one stands at its end."""

    points: Sequence[tuple[float, float]]
    started_s: float = 0.0
    speed: float = WALKING_M_PER_S

    def at(self, now_s: float) -> tuple[float, float]:
        """Where one is, in metres."""
        left = max(0.0, now_s - self.started_s) * self.speed
        here = self.points[0]
        for there in self.points[1:]:
            leg = math.dist(here, there)
            if left < leg:
                share = left / leg
                return here[0] + (there[0] - here[0]) * share, here[1] + (
                    there[1] - here[1]
                ) * share
            left -= leg
            here = there
        return here


@dataclass(frozen=True)
class Advertisement:
    """What a device says of itself, again and again (Core specification, volume 3, part C, 11)."""

    uuids: tuple[str, ...]
    service_data: Mapping[str, bytes] = field(default_factory=dict)
    interval_s: float = 0.1


class Link(Protocol):
    """A connection in which the other end is the GATT server."""

    def notify(self, uuid: str, data: bytes) -> None:
        """Notify a characteristic's value; dropped where nobody has subscribed."""

    def close(self) -> None:
        """Hang up."""


class Peer:
    """Anything with a radio that is not ours. Subclasses say what happens in a connection."""

    def __init__(self, address: str, walk: Walk | None = None) -> None:
        """Be at a place, silent; `address` is "AA:BB:CC:DD:EE:FF"."""
        self.address = address
        self.walk = walk or Walk(((1.0, 0.0),))
        self.advertisement: Advertisement | None = None
        self.services: Mapping[str, Mapping[str, tuple[str, ...]]] = {}
        """Of a GATT server: by service the characteristics, each with its flags."""
        self.connectable = True

    def connected(self, link: Link) -> None:
        """Somebody connected."""

    def disconnected(self, link: Link) -> None:
        """The connection is over, whoever ended it."""

    def subscribed(self, link: Link, uuid: str) -> None:
        """Notifications of a characteristic were asked for."""

    def written(self, link: Link, uuid: str, data: bytes) -> None:
        """A characteristic was written."""
