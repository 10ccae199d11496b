"""A Wiegand reader or keypad on two lines of a GPIO chip.

    [devices.yard-reader]
    driver = "wiegand_gpio"
    chip = "/dev/gpiochip0"
    d0 = 17                 # the chip's line numbers, not the header's pins
    d1 = 27
    formats = ["H10301", "C1k35s"]      # those of your cards; nothing else is read
    keypad = "8bit"         # "none", "4bit" or "8bit": how the reader sends keys
    bias = "pull_up"        # or "disabled" with resistors of your own, "as_is", "pull_down"
    at_once = false         # take a card of the longest format with its last bit
    inter_digit_timeout_s = 5.0
    lamp = 23               # the reader's LED wire, its buzzer wire: leave out what is not wired
    buzzer = 24
    lamp_active_low = true  # the level on the chip's lines, so with transistors between: false

Each falling edge of D0 is a 0, of D1 a 1. Time is that of the kernel's stamps, so a busy gateway
misreads nothing, and edges that the kernel had to drop (a gap in their numbers) drop their frame.
A frame of an enabled length is whole when twice its longest pause between bits has passed without
another, any other frame after 25 ms. With `at_once` that pause is saved; a longer card of a format
that is not enabled could then be taken for one that is, at a chance of one in four or eight.

Wiegand lines are 5 V: put a level shifter before a Raspberry Pi's 3.3 V pins (docs/hardware.md).
A reader says nothing by itself: it is online once its lines are requested, and one that is cut off
is not noticed. Whoever reaches the wires can replay a card: Wiegand has no secret.
"""

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from typing import Final, NamedTuple

import gpiod
from gpiod.line import Clock as EventClock
from gpiod.line import Direction, Value
from gpiod.line import Edge as LineEdge

from gateway.clock import Clock
from gateway.config.devices import Capability, DeviceSettings, DriverSpec, Means, Trial, refuse
from gateway.domain.facts import DeviceOnline
from gateway.drivers.base import FactSink, Signal
from gateway.drivers.gpio_lines import (
    BIAS,
    EVENT_BUFFER_SIZE,
    BiasName,
    Lines,
    chip_faults,
    held,
    line_faults,
)
from gateway.drivers.pin_entry import inter_digit_timeout_faults
from gateway.drivers.wiegand import (
    Edge,
    EdgeProtocol,
    Frame,
    Keypad,
    WiegandReader,
    format_faults,
)
from gateway.errors import DeviceUnavailable


class Step(NamedTuple):
    """For so many milliseconds the lamp is green or not, and the buzzer sounds or not."""

    ms: int
    green: bool
    sounds: bool


PATTERNS: Final = {
    Signal.GRANTED: (Step(100, True, True), Step(2900, True, False)),
    Signal.DENIED: (Step(100, False, True), Step(100, False, False)) * 3,
    Signal.PIN_WANTED: (Step(500, True, False), Step(500, False, False)) * 10,
    Signal.FAULT: (
        Step(800, False, True),
        *((Step(200, True, False), Step(200, False, False)) * 10),
    ),
    Signal.HELD_OPEN: (Step(500, False, True), Step(200, False, False)) * 2,
}
"""One wire switches most readers' LED from red to green; there is no third colour. A grant under
duress is a grant like any other."""


class WiegandGpioSettings(DeviceSettings, frozen=True, kw_only=True):
    """[devices.NAME] of a reader. Which formats are enabled has no default."""

    chip: str
    d0: int
    d1: int
    formats: tuple[str, ...]
    keypad: Keypad = "none"
    bias: BiasName = "as_is"
    at_once: bool = False
    inter_digit_timeout_s: float = 5.0
    lamp: int | None = None
    buzzer: int | None = None
    lamp_active_low: bool | None = None

    @property
    def shown_by(self) -> tuple[int, ...]:
        """The lines of the lamp and the buzzer, as far as they are wired."""
        return tuple(line for line in (self.lamp, self.buzzer) if line is not None)

    def __post_init__(self) -> None:
        """Refuse what can't work.

        Raises:
            ValueError: msgspec turns it into a fault with its path in the file.
        """
        refuse(self._faults())

    def _faults(self) -> Iterator[str]:
        yield from chip_faults(self.chip)
        yield from line_faults("d1", (self.d0, self.d1))
        shown = self.shown_by
        yield from line_faults("lamp", shown)
        if {self.d0, self.d1} & set(shown):
            yield "`lamp` and `buzzer` must be other lines than d0 and d1"
        if shown and self.lamp_active_low is None:
            yield "`lamp_active_low` is missing: which level lights the lamp?"
        yield from format_faults(self.formats)
        yield from inter_digit_timeout_faults(self.inter_digit_timeout_s)


class _Lamp:
    """The reader's lamp and buzzer: the newest signal counts, and ends at rest."""

    def __init__(self, settings: WiegandGpioSettings, lines: Lines) -> None:
        self._settings = settings
        self._lines = lines
        self._timer: asyncio.TimerHandle | None = None

    def show(self, signal: Signal) -> None:
        """Begin with `signal`. Raises DeviceUnavailable."""
        self._play(PATTERNS[signal])

    def show_nothing(self) -> None:
        """Go dark and silent, if the chip is still there."""
        self._go_on(())

    def _play(self, steps: tuple[Step, ...]) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        now, *rest = steps or (Step(0, False, False),)
        settings = self._settings
        values: dict[int | str, Value] = {}
        for line, on in ((settings.lamp, now.green), (settings.buzzer, now.sounds)):
            if line is not None:
                values[line] = Value.ACTIVE if on else Value.INACTIVE
        try:
            self._lines.request.set_values(values)
        except OSError as error:
            raise self._lines.lose(error) from error
        if steps:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(now.ms / 1000, self._go_on, tuple(rest))

    def _go_on(self, steps: tuple[Step, ...]) -> None:
        with suppress(DeviceUnavailable):  # `lost` says so already
            self._play(steps)


class _Reading:
    """What goes on between a reader and its gateway while the lines are held."""

    def __init__(
        self,
        device_id: str,
        settings: WiegandGpioSettings,
        lines: Lines,
        clock: Clock,
        emit: FactSink,
        lamp: _Lamp | None,
    ) -> None:
        timeout = timedelta(seconds=settings.inter_digit_timeout_s)
        self._d1 = settings.d1
        self._reader = WiegandReader(device_id, settings.formats, settings.keypad, timeout)
        self._edges = EdgeProtocol(self._reader.lengths, at_once=settings.at_once)
        self._lines = lines
        self._clock = clock
        self._emit = emit
        self._lamp = lamp
        self._timer: asyncio.TimerHandle | None = None

    def take(self, events: list[gpiod.EdgeEvent]) -> None:
        """Take edges, in the order of their numbers."""
        for event in events:
            bit = int(event.line_offset == self._d1)
            self._frames(self._edges.edge(Edge(bit, event.timestamp_ns, event.global_seqno)))
        self._wait()

    def expire(self) -> None:
        """Take what silence has ended, on the clock of the kernel's stamps."""
        if self._lines.pending:
            # The loop was held up: what is no silence on the wire must not end a frame.
            self._timer = asyncio.get_running_loop().call_later(0.0, self.expire)
            return
        now = self._clock.monotonic()
        self._frames(self._edges.expire(now // timedelta(microseconds=1) * 1000))
        self._reader.pin.expire(now)
        self._wait()

    def show(self, signal: Signal) -> None:
        """Let the lamp and the buzzer show `signal`. Raises DeviceUnavailable."""
        if signal is Signal.PIN_WANTED:
            # Digits from before the card belong to no PIN; those pressed from now on do.
            self._reader.pin.forget()
        if self._lamp is not None:
            self._lamp.show(signal)

    def stop(self) -> None:
        """Forget everything."""
        if self._timer is not None:
            self._timer.cancel()
        if self._lamp is not None:
            self._lamp.show_nothing()
        self._edges.forget()
        self._reader.pin.forget()

    def _frames(self, frames: list[Frame]) -> None:
        if self._edges.lost:
            self._reader.spoilt(self._edges.lost)
            self._edges.lost = 0
        for frame in frames:
            at = min(timedelta(microseconds=frame.at_ns / 1000), self._clock.monotonic())
            lasted = timedelta(microseconds=(frame.at_ns - frame.began_ns) / 1000)
            for fact in self._reader.frame(frame.bits, at, at - lasted):
                self._emit(fact)
        if self._reader.pin.take_refused():
            # It can't be a PIN, so nobody above hears of it: the person is told from here.
            with suppress(DeviceUnavailable):
                self.show(Signal.DENIED)
        self._reader.tell_refusals(self._clock.monotonic())

    def _wait(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        loop = asyncio.get_running_loop()
        if (due_ns := self._edges.due_ns) is not None:
            now_ns = self._clock.monotonic() // timedelta(microseconds=1) * 1000
            self._timer = loop.call_later(max(0, due_ns - now_ns) / 1e9, self.expire)
        elif self._reader.pin.pending:
            self._timer = loop.call_later(1.0, self.expire)


class WiegandGpio:
    """The two data lines of one reader."""

    def __init__(self, device_id: str, settings: WiegandGpioSettings, clock: Clock) -> None:
        self.device_id = device_id
        self._settings = settings
        self._clock = clock
        self._reading: _Reading | None = None

    async def run(self, emit: FactSink) -> None:
        """See `Driver.run`."""
        settings = self._settings
        falling = gpiod.LineSettings(
            edge_detection=LineEdge.FALLING,
            bias=BIAS[settings.bias],
            event_clock=EventClock.MONOTONIC,
        )
        dark = gpiod.LineSettings(
            direction=Direction.OUTPUT,
            active_low=bool(settings.lamp_active_low),
            output_value=Value.INACTIVE,
        )
        config: dict[tuple[int, ...], gpiod.LineSettings] = {(settings.d0, settings.d1): falling}
        if settings.shown_by:
            config[settings.shown_by] = dark
        async with held(
            self.device_id, settings.chip, config, event_buffer_size=EVENT_BUFFER_SIZE
        ) as lines:
            lamp = _Lamp(settings, lines) if settings.shown_by else None
            reading = _Reading(self.device_id, settings, lines, self._clock, emit, lamp)
            try:
                emit(DeviceOnline(self.device_id, self._clock.monotonic()))
                lines.watch(reading.take)
                self._reading = reading
                raise await asyncio.shield(lines.lost)
            finally:
                self._reading = None
                reading.stop()

    async def indicate(self, signal: Signal) -> None:
        """See `Indicates.indicate`."""
        if self._reading is None:
            raise DeviceUnavailable(f"{self.device_id}: {self._settings.chip} is not open")
        self._reading.show(signal)


DRIVER = DriverSpec(
    name="wiegand_gpio",
    settings=WiegandGpioSettings,
    capabilities=frozenset(
        {Capability.READS_CREDENTIALS, Capability.READS_PINS, Capability.INDICATES}
    ),
    build=WiegandGpio,
    pins=lambda settings: tuple(
        f"{settings.chip} line {line}" for line in (settings.d0, settings.d1, *settings.shown_by)
    ),
    title="Wiegand readers and keypads on two lines of a GPIO chip",
    transport="GPIO (gpiod)",
    tried=(
        Trial(
            Means.VECTORS, "Proxmark3's encoder for the cards, two keypads' manuals for the keys"
        ),
    ),
)
