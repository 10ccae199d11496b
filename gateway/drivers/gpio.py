"""Contacts, exit buttons, tamper switches and strikes on lines of a GPIO chip.

    [devices.io]
    driver = "gpio"
    chip = "/dev/gpiochip0"
    inputs = [5, 6, 13]         # input 1 is the chip's line 5, and so on
    inputs_active_low = true    # a switch to ground closes: active
    bias = "pull_up"
    debounce_ms = 30
    outputs = [22]
    outputs_active_low = false  # true for relay modules that a low level energises

A strike here is of class R0: nothing but this software ends its pulse. What a line does when this
process dies is the chip's and the kernel's business, so drive the relay through a transistor whose
base is pulled to rest, and prefer a board with timed pulses (modbus_relay). Debouncing is the
kernel's; edges come by interrupt, so a button is felt at once and nothing is polled. The lines are
read back twice a second, which also notices a chip that is gone.
"""

import asyncio
from collections.abc import Iterator
from datetime import timedelta
from typing import Any, Final

import gpiod
from gpiod.line import Clock as EventClock
from gpiod.line import Direction, Edge, Value

from gateway.clock import Clock
from gateway.config.devices import Capability, DeviceSettings, DriverSpec, RelayClass, refuse
from gateway.domain.facts import DeviceOnline, Fact, InputChanged, OutputReported
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
from gateway.errors import DeviceError, DeviceMisconfigured, DeviceUnavailable

DEBOUNCE_MS_MIN: Final = 1
DEBOUNCE_MS_MAX: Final = 50
"""Contacts bounce for a few milliseconds; more, and a REX release would not be felt as at once."""

READ_BACK_S: Final = 0.5
"""At least twice a second, as every output is read back."""

PULSE_MAX: Final = timedelta(hours=1)

HOST_TIMING_MARGIN: Final = timedelta(milliseconds=20)
"""How much earlier a pulse is ended, so that the loop's delay makes none longer than granted."""


class GpioSettings(DeviceSettings, frozen=True, kw_only=True):
    """[devices.NAME] of some lines. Which level is active has no default."""

    chip: str
    inputs: tuple[int, ...] = ()
    inputs_active_low: bool | None = None
    bias: BiasName = "as_is"
    debounce_ms: int = 30
    outputs: tuple[int, ...] = ()
    outputs_active_low: bool | None = None

    def __post_init__(self) -> None:
        """Refuse what can't work.

        Raises:
            ValueError: msgspec turns it into a fault with its path in the file.
        """
        refuse(self._faults())

    def _faults(self) -> Iterator[str]:
        yield from chip_faults(self.chip)
        yield from line_faults("inputs", self.inputs)
        yield from line_faults("outputs", self.outputs)
        if not self.inputs and not self.outputs:
            yield "`inputs` and outputs are both empty: there is nothing to do"
        if set(self.inputs) & set(self.outputs):
            yield "`outputs` names a line that is an input"
        if self.inputs and self.inputs_active_low is None:
            yield "`inputs_active_low` is missing: which level is active?"
        if self.outputs and self.outputs_active_low is None:
            yield "`outputs_active_low` is missing: which level energises?"
        if not DEBOUNCE_MS_MIN <= self.debounce_ms <= DEBOUNCE_MS_MAX:
            yield f"`debounce_ms` must be {DEBOUNCE_MS_MIN} to {DEBOUNCE_MS_MAX}"


class _Session:
    """What goes on while the lines are held."""

    def __init__(
        self, device_id: str, settings: GpioSettings, lines: Lines, clock: Clock, emit: FactSink
    ) -> None:
        self._device_id = device_id
        self._inputs = settings.inputs
        self._outputs = settings.outputs
        self._lines = lines
        self._clock = clock
        self._emit = emit
        self._active: dict[int, bool] = {}
        self._energised: dict[int, bool] = {}
        self._number: int | None = None
        self._releases: dict[int, asyncio.TimerHandle] = {}

    def start(self) -> None:
        """Say what is there."""
        now = self._clock.monotonic()
        facts = self._look(now)
        self._emit(DeviceOnline(self._device_id, now))
        for fact in facts:
            self._emit(fact)
        self._lines.watch(self._take)  # without inputs too: it tells when the chip is gone

    async def read_back(self) -> None:
        """Read all lines for ever."""
        while True:
            await asyncio.sleep(READ_BACK_S)
            for fact in self._look(self._clock.monotonic()):
                self._emit(fact)

    def stop(self) -> None:
        """Release every output, if the chip is still there."""
        for timer in self._releases.values():
            timer.cancel()
        for output in tuple(self._releases):
            self._release(output)

    def pulse(self, output: int, duration: timedelta) -> None:
        """See `PulsesOutput.pulse`."""
        self._set(output, energised=True)
        if (before := self._releases.pop(output, None)) is not None:
            before.cancel()
        wanted = min(duration, PULSE_MAX)
        seconds = max(wanted / 2, wanted - HOST_TIMING_MARGIN).total_seconds()
        loop = asyncio.get_running_loop()
        self._releases[output] = loop.call_later(seconds, self._release, output)
        self._confirm(output, energised=True)

    def rest(self, output: int) -> None:
        """See `PulsesOutput.rest`."""
        if (timer := self._releases.pop(output, None)) is not None:
            timer.cancel()
        self._set(output, energised=False)
        self._confirm(output, energised=False)

    def _release(self, output: int) -> None:
        self._releases.pop(output, None)
        try:
            self._set(output, energised=False)
        except DeviceUnavailable:
            return  # `lost` says so already
        for fact in self._outputs_read(self._clock.monotonic()):
            self._emit(fact)

    def _line(self, output: int) -> int:
        if not 1 <= output <= len(self._outputs):
            raise DeviceMisconfigured(
                f"{self._device_id}: has outputs 1 to {len(self._outputs)}, not {output}"
            )
        return self._outputs[output - 1]

    def _set(self, output: int, *, energised: bool) -> None:
        value = Value.ACTIVE if energised else Value.INACTIVE
        line = self._line(output)
        try:
            self._lines.request.set_value(line, value)
        except OSError as error:
            raise self._lines.lose(error) from error

    def _confirm(self, output: int, *, energised: bool) -> None:
        for fact in self._outputs_read(self._clock.monotonic()):
            self._emit(fact)
        if self._energised[output] != energised:
            raise DeviceError(f"{self._device_id}: output {output} doesn't read back as it was set")

    def _take(self, events: list[gpiod.EdgeEvent]) -> None:
        now = self._clock.monotonic()
        for event in events:
            missing = self._number is not None and event.global_seqno != self._number + 1
            self._number = event.global_seqno
            active = event.event_type is gpiod.EdgeEvent.Type.RISING_EDGE
            at = min(timedelta(microseconds=event.timestamp_ns / 1000), now)
            self._told(self._inputs.index(event.line_offset) + 1, active, at)
            if missing:
                for fact in self._look(now):
                    self._emit(fact)

    def _told(self, number: int, active: bool, at: timedelta) -> None:
        if self._active.get(number) != active:
            self._active[number] = active
            self._emit(InputChanged(self._device_id, number, active, at))

    def _look(self, now: timedelta) -> list[Fact]:
        if self._lines.pending:
            return self._outputs_read(now)  # edges will tell, in their order
        facts: list[Fact] = []
        for number, active in enumerate(self._values(self._inputs), 1):
            if self._active.get(number) != active:
                self._active[number] = active
                facts.append(InputChanged(self._device_id, number, active, now))
        return facts + self._outputs_read(now)

    def _outputs_read(self, now: timedelta) -> list[Fact]:
        facts: list[Fact] = []
        for number, energised in enumerate(self._values(self._outputs), 1):
            if self._energised.get(number) != energised:
                self._energised[number] = energised
                facts.append(OutputReported(self._device_id, number, energised, now))
        return facts

    def _values(self, lines: tuple[int, ...]) -> list[bool]:
        if not lines:
            return []
        try:
            return [value is Value.ACTIVE for value in self._lines.request.get_values(lines)]
        except OSError as error:
            raise self._lines.lose(error) from error


class Gpio:
    """Some lines of one chip."""

    def __init__(self, device_id: str, settings: GpioSettings, clock: Clock) -> None:
        self.device_id = device_id
        self._settings = settings
        self._clock = clock
        self._session: _Session | None = None

    async def run(self, emit: FactSink) -> None:
        """See `Driver.run`."""
        settings = self._settings
        config = {}
        if settings.inputs:
            config[settings.inputs] = gpiod.LineSettings(
                direction=Direction.INPUT,
                edge_detection=Edge.BOTH,
                bias=BIAS[settings.bias],
                active_low=bool(settings.inputs_active_low),
                debounce_period=timedelta(milliseconds=settings.debounce_ms),
                event_clock=EventClock.MONOTONIC,
            )
        if settings.outputs:
            config[settings.outputs] = gpiod.LineSettings(
                direction=Direction.OUTPUT,
                active_low=bool(settings.outputs_active_low),
                output_value=Value.INACTIVE,
            )
        async with held(
            self.device_id, settings.chip, config, event_buffer_size=EVENT_BUFFER_SIZE
        ) as lines:
            session = _Session(self.device_id, settings, lines, self._clock, emit)
            session.start()
            self._session = session
            reading = asyncio.create_task(session.read_back())
            try:
                either: set[asyncio.Future[Any]] = {reading, lines.lost}
                await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
                if lines.lost.done():
                    raise lines.lost.result()
                reading.result()
            finally:
                self._session = None
                session.stop()
                reading.cancel()
                await asyncio.wait({reading})

    async def pulse(self, output: int, duration: timedelta) -> None:
        """See `PulsesOutput.pulse`."""
        self._open().pulse(output, duration)

    async def rest(self, output: int) -> None:
        """See `PulsesOutput.rest`."""
        self._open().rest(output)

    def _open(self) -> _Session:
        if self._session is None:
            raise DeviceUnavailable(f"{self.device_id}: {self._settings.chip} is not open")
        return self._session


DRIVER = DriverSpec(
    name="gpio",
    settings=GpioSettings,
    capabilities=frozenset({Capability.REPORTS_INPUTS, Capability.PULSES_OUTPUTS}),
    build=Gpio,
    relay_class=lambda _settings: RelayClass.R0,
    outputs=lambda settings: len(settings.outputs),
    inputs=lambda settings: len(settings.inputs),
    pins=lambda settings: tuple(
        f"{settings.chip} line {line}" for line in (*settings.inputs, *settings.outputs)
    ),
    title="contacts, exit buttons, tamper switches and strikes on a GPIO chip's lines",
    transport="GPIO (gpiod)",
)
