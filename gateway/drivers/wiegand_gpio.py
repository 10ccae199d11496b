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
from datetime import timedelta

import gpiod
from gpiod.line import Clock as EventClock
from gpiod.line import Edge as LineEdge

from gateway.clock import Clock
from gateway.config.devices import Capability, DeviceSettings, DriverSpec, Means, Trial, refuse
from gateway.domain.facts import DeviceOnline
from gateway.drivers.base import FactSink
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
from gateway.drivers.wiegand import Edge, EdgeProtocol, Keypad, WiegandReader, format_faults


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

    def __post_init__(self) -> None:
        """Refuse what can't work.

        Raises:
            ValueError: msgspec turns it into a fault with its path in the file.
        """
        refuse(
            (
                *chip_faults(self.chip),
                *line_faults("d1", (self.d0, self.d1)),
                *format_faults(self.formats),
                *inter_digit_timeout_faults(self.inter_digit_timeout_s),
            )
        )


class _Reading:
    """What goes on between a reader and its gateway while the lines are held."""

    def __init__(
        self,
        device_id: str,
        settings: WiegandGpioSettings,
        lines: Lines,
        clock: Clock,
        emit: FactSink,
    ) -> None:
        timeout = timedelta(seconds=settings.inter_digit_timeout_s)
        self._d1 = settings.d1
        self._reader = WiegandReader(device_id, settings.formats, settings.keypad, timeout)
        self._edges = EdgeProtocol(self._reader.lengths, at_once=settings.at_once)
        self._lines = lines
        self._clock = clock
        self._emit = emit
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

    def stop(self) -> None:
        """Forget everything."""
        if self._timer is not None:
            self._timer.cancel()
        self._edges.forget()
        self._reader.pin.forget()

    def _frames(self, frames: list[tuple[str, int]]) -> None:
        if self._edges.lost:
            self._reader.spoilt(self._edges.lost)
            self._edges.lost = 0
        for bits, at_ns in frames:
            at = timedelta(microseconds=at_ns / 1000)
            for fact in self._reader.frame(bits, min(at, self._clock.monotonic())):
                self._emit(fact)
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

    async def run(self, emit: FactSink) -> None:
        """See `Driver.run`."""
        settings = self._settings
        falling = gpiod.LineSettings(
            edge_detection=LineEdge.FALLING,
            bias=BIAS[settings.bias],
            event_clock=EventClock.MONOTONIC,
        )
        async with held(
            self.device_id,
            settings.chip,
            {(settings.d0, settings.d1): falling},
            event_buffer_size=EVENT_BUFFER_SIZE,
        ) as lines:
            reading = _Reading(self.device_id, settings, lines, self._clock, emit)
            try:
                emit(DeviceOnline(self.device_id, self._clock.monotonic()))
                lines.watch(reading.take)
                raise await asyncio.shield(lines.lost)
            finally:
                reading.stop()


DRIVER = DriverSpec(
    name="wiegand_gpio",
    settings=WiegandGpioSettings,
    capabilities=frozenset({Capability.READS_CREDENTIALS, Capability.READS_PINS}),
    build=WiegandGpio,
    address=lambda settings: f"{settings.chip} line {settings.d0}",
    title="Wiegand readers and keypads on two lines of a GPIO chip",
    transport="GPIO (gpiod)",
    tried=(
        Trial(
            Means.VECTORS, "Proxmark3's encoder for the cards, two keypads' manuals for the keys"
        ),
    ),
)
