"""Supervised loops at a board's measured inputs: a supply, resistors, a contact and broken wires.

From Ohm's law alone. The loop goes from the supply through a pull-up to the input, through the line
and a resistor to the contact, which has a second one across it, and back to 0 V.
"""

import random
from dataclasses import dataclass, field
from math import inf


def beside(*ohms: float) -> float:
    """Resistors in parallel."""
    if 0 in ohms:
        return 0.0
    conductance = sum(1 / each for each in ohms)
    return 1 / conductance if conductance else inf


@dataclass(kw_only=True)
class Feed:
    """What feeds the loops of a board, in volts, and the pull-up of each."""

    volts: float
    pull_up_ohms: float
    noise_volts: float = 0.0
    """How far each reading is off at most, either way."""
    dice: random.Random = field(default_factory=lambda: random.Random(0))

    def noise(self) -> float:
        """What the line picks up during one reading."""
        return self.dice.uniform(-self.noise_volts, self.noise_volts)


@dataclass(kw_only=True)
class Loop:
    """One loop. `at_end` is what hangs at the line's far end, in ohms, closed and open."""

    feed: Feed
    at_end: tuple[float, float]
    closed: bool = False
    wire_ohms: float = 0.0
    leak_ohms: float = inf
    """From wire to wire: a damp cable, and the board's own input."""
    pull_up_share: float = 1.0
    """This loop's pull-up as a part of what it should be."""

    @property
    def ohms(self) -> float:
        """What the board's terminals see."""
        return beside(self.wire_ohms + self.at_end[0 if self.closed else 1], self.leak_ohms)

    @property
    def volts(self) -> float:
        """What the input measures now."""
        ohms, pull_up = self.ohms, self.feed.pull_up_ohms * self.pull_up_share
        share = 1.0 if ohms == inf else ohms / (ohms + pull_up)
        return self.feed.volts * share + self.feed.noise()

    def cut(self) -> None:
        """Cut a wire."""
        self.wire_ohms, self.leak_ohms = inf, inf

    def short(self, ohms: float = 0.0) -> None:
        """Join the wires, well or badly."""
        self.leak_ohms = ohms

    def repair(self) -> None:
        """As new."""
        self.wire_ohms, self.leak_ohms = 0.0, inf


@dataclass(kw_only=True)
class SupplyTap:
    """An input that measures the loops' supply itself."""

    feed: Feed

    @property
    def volts(self) -> float:
        """What it measures now."""
        return self.feed.volts + self.feed.noise()
