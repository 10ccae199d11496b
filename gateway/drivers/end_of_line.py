"""Contacts at the end of a line with resistors: what a measured voltage says of contact and wires.

A loop goes from its supply through a pull-up to the input, and from there through the line and its
resistors to 0 V. So each of closed, open, cut and short has voltages of its own; what is none of
them is wrong too, and nothing of it is ever taken for closed or open.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from enum import StrEnum
from itertools import pairwise
from typing import Annotated, Final, NamedTuple

import msgspec

from gateway.config.devices import refuse
from gateway.domain.facts import Fact, InputChanged, InputFaulty, InputGlimpsed
from gateway.drivers.debounced_input import DebouncedInput

RESISTOR_SHARE: Final = 0.05
"""How far each resistor may be off, the pull-up too: common parts, their ageing and heat."""

SUPPLY_SHARE: Final = 0.10
"""How far the loops' supply may be off."""

WIRE_OHMS_MAX: Final = 50
"""There and back: 250 m of 0.2 mm2 with its clamps. Less than this is a short circuit."""

LEAK_OHMS_MIN: Final = 50_000
"""What a damp cable and the board's input let through. More than this is a cut wire."""

NOISE_MV: Final = 20
"""How far a reading may be off by whatever the line picks up, and by the converter's steps."""

AT_REST: Final = timedelta(milliseconds=20)
"""How long a voltage must keep within what noise explains before it can be a press. So what creeps
through a band is none, however fast it is read, as long as a converter with a filter before it has
a time constant of 200 ms at most."""

FAULT_HOLD: Final = timedelta(milliseconds=300)
"""How long a line must be wrong before it is told: longer than any contact bounces."""

RESTORED_HOLD: Final = timedelta(seconds=1)
"""How long it must be right again before it is believed: a loose wire makes contact by chance."""

UNSTEADY_AFTER: Final = timedelta(seconds=2)
"""How long it may be now this, now that, or noisier than `NOISE_MV`, before that is a fault too."""

Millivolts = Annotated[
    int, msgspec.Meta(ge=0, le=60_000, description="a whole number of millivolts, 0 to 60000")
]
SupplyMillivolts = Annotated[
    int,
    msgspec.Meta(ge=1000, le=60_000, description="a whole number of millivolts, 1000 to 60000"),
]
Ohms = Annotated[
    int, msgspec.Meta(ge=100, le=100_000, description="a whole number of ohms, 100 to 100000")
]
InputNumber = Annotated[int, msgspec.Meta(ge=1, le=64, description="an input's number")]
Band = tuple[Millivolts, Millivolts]


class LineState(StrEnum):
    """What a reading, or some of them, say of a loop."""

    CLOSED = "closed"
    OPEN = "open"
    CUT = "cut"
    SHORT = "short"
    RESISTANCE = "resistance"
    """A resistance that the loop never has: a partial short, a bad joint, a wrong resistor."""
    UNSTEADY = "unsteady"
    SUPPLY = "supply"
    """What feeds the loops is gone, or far off."""


SOUND: Final = frozenset({LineState.CLOSED, LineState.OPEN})


class _Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    pass


class LoopSupply(_Table, frozen=True):
    """What feeds the loops of a board, each through a pull-up of its own."""

    mv: SupplyMillivolts
    pull_up_ohms: Ohms | None = None
    """Not needed where each loop's bands are given."""
    input: InputNumber | None = None
    """The input that measures it. Without, the bands leave room for `SUPPLY_SHARE`."""

    @property
    def noise_mv(self) -> float:
        """How far a reading, brought to the nominal supply, may be off."""
        if self.input is None:
            return NOISE_MV
        return 2 * NOISE_MV * self.mv / max(1, self.mv * (1 - SUPPLY_SHARE) - NOISE_MV)


class Loop(_Table, frozen=True):
    """One input's loop: its two resistors, or what it measures, or the voltages themselves."""

    input: InputNumber
    series_ohms: Ohms | None = None
    """In the line, at its far end; alone while the contact is closed."""
    parallel_ohms: Ohms | None = None
    """Across the contact; added while it is open."""
    closed_ohms: Ohms | None = None
    open_ohms: Ohms | None = None
    closed_mv: Band | None = None
    open_mv: Band | None = None
    short_mv: Millivolts | None = None
    """At most."""
    cut_mv: Millivolts | None = None
    """At least."""

    @property
    def resistances(self) -> tuple[int, int] | None:
        """The whole loop's with the contact closed, and open; None where bands are given."""
        if self.series_ohms is not None and self.parallel_ohms is not None:
            return self.series_ohms, self.series_ohms + self.parallel_ohms
        if self.closed_ohms is not None and self.open_ohms is not None:
            return self.closed_ohms, self.open_ohms
        return None

    def __post_init__(self) -> None:
        """Refuse what says too little or too much.

        Raises:
            ValueError: msgspec turns it into a fault with its path in the file.
        """
        ways = (
            (self.series_ohms, self.parallel_ohms),
            (self.closed_ohms, self.open_ohms),
            (self.closed_mv, self.open_mv, self.short_mv, self.cut_mv),
        )
        begun = [way for way in ways if any(each is not None for each in way)]
        if len(begun) != 1 or any(each is None for each in begun[0]):
            told = (
                "must say one of: `series_ohms` and `parallel_ohms`; `closed_ohms` and "
                "`open_ohms`; `closed_mv`, `open_mv`, `short_mv` and `cut_mv`"
            )
            refuse([told])


class _Range(NamedTuple):
    low: float
    high: float

    def has(self, mv: float, slack: float = 0.0) -> bool:
        return self.low - slack <= mv <= self.high + slack


class Bands:
    """The voltages of each state of a loop, at the nominal supply, and how they are held."""

    def __init__(self, ranges: Mapping[LineState, tuple[float, float]], noise_mv: float) -> None:
        self.ranges = {state: _Range(*both) for state, both in ranges.items()}
        self.steady_mv = 2 * noise_mv
        in_order = sorted(self.ranges.items(), key=lambda each: each[1].low)
        self.gaps = [(a, b, self.ranges[b].low - self.ranges[a].high) for a, b in _pairs(in_order)]
        # A state that was reached is left a little later than it is entered: a resistor at the end
        # of its tolerance doesn't make it flicker.
        self._slack_mv = max(0.0, min(noise_mv, *(gap / 4 for *_, gap in self.gaps)))

    def state(self, mv: float, was: LineState | None) -> LineState:
        """What `mv` says after a reading that said `was`."""
        if was in self.ranges and self.ranges[was].has(mv, self._slack_mv):
            return was
        found = (state for state, band in self.ranges.items() if band.has(mv))
        return next(found, LineState.RESISTANCE)


def _pairs(
    in_order: Sequence[tuple[LineState, _Range]],
) -> Iterator[tuple[LineState, LineState]]:
    return pairwise(state for state, _ in in_order)


def bands_of(loop: Loop, supply: LoopSupply) -> Bands:
    """The bands of a loop: as given, or the widest that its resistors, supply and line can have."""
    if loop.closed_mv and loop.open_mv and loop.short_mv is not None and loop.cut_mv is not None:
        given = {
            LineState.SHORT: (-math.inf, loop.short_mv),
            LineState.CLOSED: loop.closed_mv,
            LineState.OPEN: loop.open_mv,
            LineState.CUT: (loop.cut_mv, math.inf),
        }
        return Bands(given, supply.noise_mv)
    closed, opened = loop.resistances or (0, 0)  # the settings have made sure of them
    return Bands(
        {
            LineState.SHORT: (-math.inf, _highest_mv(0, supply)),
            LineState.CLOSED: (_lowest_mv(closed, supply), _highest_mv(closed, supply)),
            LineState.OPEN: (_lowest_mv(opened, supply), _highest_mv(opened, supply)),
            LineState.CUT: (_lowest_mv(math.inf, supply), math.inf),
        },
        supply.noise_mv,
    )


def _lowest_mv(ohms: float, supply: LoopSupply) -> float:
    least = 1 / (1 / (ohms * (1 - RESISTOR_SHARE)) + 1 / LEAK_OHMS_MIN)
    fed = supply.mv * (1 if supply.input else 1 - SUPPLY_SHARE)
    pull_up = (supply.pull_up_ohms or 0) * (1 + RESISTOR_SHARE)
    return fed * least / (least + pull_up) - supply.noise_mv


def _highest_mv(ohms: float, supply: LoopSupply) -> float:
    most = ohms * (1 + RESISTOR_SHARE) + WIRE_OHMS_MAX
    fed = supply.mv * (1 if supply.input else 1 + SUPPLY_SHARE)
    pull_up = (supply.pull_up_ohms or 0) * (1 - RESISTOR_SHARE)
    return fed * most / (most + pull_up) + supply.noise_mv


def loop_faults(
    loops: Sequence[Loop], supply: LoopSupply | None, *, inputs: int, full_scale_mv: int
) -> Iterator[str]:
    """What is impossible about the loops of a board with so many inputs of such a range."""
    if supply is None:
        yield "`loop_supply` is missing: what feeds the loops, and through which resistor"
        return
    if not loops:
        yield "`loops` is missing: which inputs have a loop, and its resistors"
    numbers = [loop.input for loop in loops]
    for twice in sorted({each for each in numbers if numbers.count(each) > 1}):
        yield f"`loops` input {twice} is there twice"
    for number in (*numbers, supply.input or 0):
        if number > inputs:
            yield f"`loops` there is no input {number}: the board has 1 to {inputs}"
    if supply.input in numbers:
        yield f"`loop_supply` input {supply.input} has a loop: it can't measure the supply as well"
    reach = supply.mv * (1 + SUPPLY_SHARE) + NOISE_MV
    if supply.input is not None and reach > full_scale_mv:
        yield (
            f"`loop_supply` {supply.mv} mV is at times {reach:.0f}, more than the board measures "
            f"({full_scale_mv}): feed the loops with less, or take a board with a wider range"
        )
    for loop in loops:
        if loop.resistances is not None and supply.pull_up_ohms is None:
            yield f"`loop_supply` has no `pull_up_ohms`, which the loop of input {loop.input} needs"
        else:
            yield from _band_faults(loop, supply, full_scale_mv)


def _band_faults(loop: Loop, supply: LoopSupply, full_scale_mv: int) -> Iterator[str]:
    bands = bands_of(loop, supply)
    where = f"`loops` input {loop.input}:"
    measured = "" if supply.input or loop.resistances is None else ", or measure the supply (input)"
    cure = f"take other resistors{measured}" if loop.resistances else "keep them further apart"
    for low, high in (each for each in bands.ranges.values() if each.low > each.high):
        yield f"{where} a band from {low:.0f} to {high:.0f} mV is none"
    for first, second, gap in bands.gaps:
        if gap < bands.steady_mv:
            yield (
                f"{where} {first} ({_span(bands.ranges[first])}) and {second} "
                f"({_span(bands.ranges[second])}) can't be told apart: {cure}"
            )
    least = bands.ranges[LineState.CUT].low
    if least > full_scale_mv:
        yield (
            f"{where} a cut wire is {least:.0f} mV and more, which the board can't measure "
            f"({full_scale_mv}): feed the loops with less, or take a board with a wider range"
        )
    order = [first for first, *_ in bands.gaps][:1] + [second for _, second, _ in bands.gaps]
    if order[0] is not LineState.SHORT or order[-1] is not LineState.CUT:
        yield f"{where} short must be the lowest band and cut the highest"


def _span(band: _Range) -> str:
    low, high = (f"{each:.0f}" if math.isfinite(each) else "" for each in band)
    return f"{low} to {high} mV" if low and high else f"{f'over {low}' if low else f'to {high}'} mV"


class LoopInput(DebouncedInput[LineState]):
    """A loop that is only measured now and then, and what it is held to be.

    Only a voltage that has come to rest counts: one on its way from one state to another, as a slow
    converter shows it, passes through others.
    """

    def __init__(self, bands: Bands, debounce: timedelta) -> None:
        super().__init__(debounce)
        self._bands = bands
        self._rests_at_mv: float | None = None
        self._now = timedelta()
        self._disturbed = False

    @property
    def is_first_sight(self) -> bool:
        """Whether it may have come to rest in a new state, and is to be made sure of at once."""
        return self._since == self._restless and self._now - self._since < AT_REST

    def measure(self, mv: float | None, now: timedelta) -> bool:
        """Take one reading, None without a supply; return whether `active` changed."""
        state = LineState.SUPPLY if mv is None else self._bands.state(mv, self._raw)
        self._now = now
        if self._raw is None:  # the first reading is no sooner believed than any other
            self._raw, self._since, self._restless, self._rests_at_mv = state, now, now, mv
        elif state != self._raw:
            self._rests_at_mv = mv
        elif self._moved(mv):
            self._rests_at_mv, self._since, self._readings, self._disturbed = mv, now, 0, True
            self._restless = now if self._restless is None else self._restless
        changed = self.sample(state, now)
        if self._restless is None:
            self._disturbed = False
            return changed
        self._disturbed |= state not in SOUND
        lasts = now - self._restless >= UNSTEADY_AFTER
        if lasts and self._disturbed and not self._is_faulty:
            self.active = LineState.UNSTEADY
            return True
        return False

    def glimpsed(self, now: timedelta) -> bool:
        """Whether it has just come to rest closed or open, unlike what was told last."""
        if self._raw not in SOUND or self._raw == self.active:
            return False
        known = self._glimpsed >= self._since or now - self._glimpsed < self._debounce
        if known or self._readings < 2 or now - self._since < AT_REST:
            return False
        self._glimpsed = now
        return True

    @property
    def _is_faulty(self) -> bool:
        return self.active is not None and self.active not in SOUND

    def _moved(self, mv: float | None) -> bool:
        rest = self._rests_at_mv
        return mv is not None and rest is not None and abs(mv - rest) > self._bands.steady_mv

    def _holds(self, now: timedelta) -> bool:
        held = now - self._since
        if self._raw not in SOUND:
            return held >= FAULT_HOLD
        return held >= RESTORED_HOLD if self._is_faulty else super()._holds(now)


class Loops:
    """The loops of one board: readings of its inputs in, facts out."""

    def __init__(
        self, device_id: str, loops: Sequence[Loop], supply: LoopSupply, debounce: timedelta
    ) -> None:
        self._device_id = device_id
        self._supply = supply
        self.inputs = {
            loop.input: LoopInput(bands_of(loop, supply), debounce)
            for loop in sorted(loops, key=lambda loop: loop.input)
        }

    def measured(self, millivolts: Sequence[float], now: timedelta) -> list[Fact]:
        """Take a reading of the board's inputs, from 1 up; return what changed, or may have."""
        facts: list[Fact] = []
        share = self._share(millivolts)
        for number, loop in self.inputs.items():
            at_nominal = None if share is None else millivolts[number - 1] / share
            if loop.measure(at_nominal, now):
                facts.append(self._fact(number, loop.active, now))
            elif loop.glimpsed(now):
                active = loop.seen is LineState.CLOSED
                facts.append(InputGlimpsed(self._device_id, number, active, now))
        return facts

    def _share(self, millivolts: Sequence[float]) -> float | None:
        """The supply's share of its nominal voltage; None where it is far off."""
        if self._supply.input is None:
            return 1.0
        share = millivolts[self._supply.input - 1] / self._supply.mv
        slack = NOISE_MV / self._supply.mv
        return share if abs(share - 1) <= SUPPLY_SHARE + slack else None

    def _fact(self, number: int, state: LineState | None, now: timedelta) -> Fact:
        if state is not None and state not in SOUND:
            return InputFaulty(self._device_id, number, state.value, now)
        return InputChanged(self._device_id, number, state is LineState.CLOSED, now)
