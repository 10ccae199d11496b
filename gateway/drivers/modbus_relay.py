"""A relay board with inputs on Modbus TCP, such as Waveshare's Modbus POE ETH Relay.

    [devices.relays-a]
    driver = "modbus_relay"
    host = "192.168.70.10"
    port = 502
    unit = 1
    outputs = 8
    inputs = 8
    timed_pulse = true      # function 05 at 0x0200 + channel, in 100 ms units (Waveshare and alike)
    watchdog = false        # the board itself drops its outputs when nobody speaks to it
    debounce_ms = 30

Outputs are coils 0 and up, inputs are discrete inputs 0 and up. With `timed_pulse` the board itself
ends each pulse; without, this software does, and a strike on such a board can claim less
(RelayClass). The board must stand on a line of its own: whoever reaches its port can open the door.
A coil that is found energised without a pulse is put to rest and reported.
"""

import asyncio
import heapq
import struct
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from enum import IntEnum
from typing import Final, NamedTuple

from pymodbus.client import AsyncModbusTcpClient
from pymodbus.exceptions import ModbusException
from pymodbus.pdu import ExceptionResponse, ModbusPDU
from pymodbus.pdu.bit_message import ReadCoilsRequest, ReadDiscreteInputsRequest

from gateway.cancellation import end_if_cancelled
from gateway.clock import Clock
from gateway.config.devices import Capability, DeviceSettings, DriverSpec, RelayClass
from gateway.domain.facts import (
    DeviceOnline,
    Fact,
    InputChanged,
    OutputReported,
    UnexpectedOutput,
)
from gateway.drivers.base import FactSink
from gateway.errors import (
    DeviceError,
    DeviceMisconfigured,
    DeviceProtocolError,
    DeviceUnavailable,
)


class Function(IntEnum):
    """Function codes (MODBUS Application Protocol V1.1b3, section 6)."""

    READ_COILS = 0x01
    READ_DISCRETE_INPUTS = 0x02
    WRITE_SINGLE_COIL = 0x05


COIL_ON: Final = 0xFF00  # V1.1b3, 6.5
COIL_OFF: Final = 0x0000

FLASH_ON: Final = 0x0200  # Waveshare's wiki, "Relay Flash ON/OFF": address 0x0200 + channel
FLASH_UNIT: Final = timedelta(milliseconds=100)
FLASH_UNITS_MAX: Final = 0x7FFF

SETTINGS_REFUSED: Final = frozenset({0x01, 0x02, 0x03})
"""Exception codes (V1.1b3, section 7) illegal function, data address and data value: the board has
no such thing, today or tomorrow. The others are about its state."""

POINTS_MAX: Final = 64
"""More outputs or inputs than any such board has: a slip in the config."""

DEBOUNCE_MS_MIN: Final = 20
DEBOUNCE_MS_MAX: Final = 50
"""Contacts bounce for a few milliseconds; more than this and a REX release would not be felt as at
once."""

REQUEST_S_MAX: Final = 0.5
"""On a LAN an answer takes a millisecond. One that takes so long may come when the next request is
out, so the connection is given up with it."""

CALL_S_MAX: Final = 2.0
"""A pulse's three requests with others ahead of them; nobody waits for longer, whatever happens."""

INPUTS_S: Final = 0.020
SETTLING_S: Final = 0.010
"""How often inputs are read; the shorter one while a change is being confirmed."""

OUTPUTS_S: Final = 0.5
"""How often outputs are read back (at least 2 Hz: the relay bus is not trusted)."""

OVERDUE: Final = timedelta(milliseconds=500)
"""An output still energised so long after its pulse should have ended is put to rest."""

HOST_TIMING_MARGIN: Final = timedelta(milliseconds=20)
"""How much earlier a pulse that this software times is ended: the request that may be in flight,
and the release's own way, so that the strike is never energised for longer than granted."""

RELEASE_RETRY_S: Final = 0.05


class ModbusRelaySettings(DeviceSettings, frozen=True, kw_only=True):
    """[devices.NAME] of a relay board. Whether it times pulses itself has no default."""

    host: str
    port: int = 502
    unit: int = 1
    outputs: int
    inputs: int
    timed_pulse: bool
    watchdog: bool = False
    debounce_ms: int = 30

    def __post_init__(self) -> None:
        """Refuse what no such board can have.

        Raises:
            ValueError: msgspec turns it into a fault with its path in the file.
        """
        if not self.host or any(character.isspace() for character in self.host):
            raise ValueError("`host` must be an address or a host name")
        for name, value, low, high in (
            ("port", self.port, 1, 0xFFFF),
            ("unit", self.unit, 1, 0xFF),
            ("outputs", self.outputs, 1, POINTS_MAX),
            ("inputs", self.inputs, 0, POINTS_MAX),
            ("debounce_ms", self.debounce_ms, DEBOUNCE_MS_MIN, DEBOUNCE_MS_MAX),
        ):
            if not low <= value <= high:
                raise ValueError(f"`{name}` must be {low} to {high}")


def relay_class(settings: ModbusRelaySettings) -> RelayClass:
    """The best class that a strike on this board can claim."""
    if settings.timed_pulse:
        return RelayClass.R3 if settings.watchdog else RelayClass.R2
    return RelayClass.R1 if settings.watchdog else RelayClass.R0


class Request(NamedTuple):
    """One question to the board: `value` is the count of a read, the register value of a write."""

    function: Function
    address: int
    value: int


class Reply(NamedTuple):
    """One answer: `bits` of a read; `address` and `value` as a write echoes them."""

    function: int
    address: int = 0
    value: int = 0
    bits: tuple[bool, ...] = ()


class DebouncedInput:
    """A contact's state, once it has held for the debounce time."""

    def __init__(self, debounce: timedelta) -> None:
        self._debounce = debounce
        self._differed = timedelta()  # for how long, in sum; what agrees in between is taken off
        self._at = timedelta()
        self._raw: bool | None = None
        self.active: bool | None = None

    @property
    def settling(self) -> bool:
        """Whether the contact is seen in another state than the reported one."""
        return self._raw is not self.active

    def sample(self, raw: bool, now: timedelta) -> bool:
        """Take one reading; return whether `active` changed. The first one always does."""
        elapsed, self._at = now - self._at, now
        before, self._raw = self._raw, raw
        if before is None:
            self.active = raw
            return True
        if raw == self.active:
            self._differed = max(timedelta(), self._differed - elapsed)
            return False
        if before == raw:
            self._differed += elapsed
        if self._differed < self._debounce:
            return False
        self.active = raw
        self._differed = timedelta()
        return True


class ModbusRelayProtocol:
    """What to ask the board, whether an answer is one, and what it means. Knows no transport."""

    def __init__(self, device_id: str, settings: ModbusRelaySettings) -> None:
        self.device_id = device_id
        self._settings = settings
        debounce = timedelta(milliseconds=settings.debounce_ms)
        self._inputs = [DebouncedInput(debounce) for _ in range(settings.inputs)]
        self._until: list[timedelta | None] = [None] * settings.outputs
        self._reported: list[bool | None] = [None] * settings.outputs
        self._alarmed = [False] * settings.outputs

    @property
    def read_outputs(self) -> Request:
        """Ask for all outputs."""
        return Request(Function.READ_COILS, 0, self._settings.outputs)

    @property
    def read_inputs(self) -> Request:
        """Ask for all inputs."""
        return Request(Function.READ_DISCRETE_INPUTS, 0, self._settings.inputs)

    @property
    def settling(self) -> bool:
        """Whether an input's change is being confirmed, so that the next look should come soon."""
        return any(each.settling for each in self._inputs)

    def check(self, request: Request, reply: Reply) -> None:
        """Refuse an answer that can't be `request`'s.

        Raises:
            DeviceProtocolError: the stream is confused; nothing later on it can be believed.
        """
        if request.function is Function.WRITE_SINGLE_COIL:
            belongs = reply == Reply(request.function, request.address, request.value)
        else:
            # A reading has no address in it: that it is the right size is all there is to check.
            whole_bytes = -(-request.value // 8) * 8
            belongs = reply.function == request.function and len(reply.bits) == whole_bytes
        if not belongs:
            raise DeviceProtocolError(
                f"{self.device_id}: asked {_text(request)}, was answered {_text(reply)}"
            )

    def pulse(self, output: int, duration: timedelta, now: timedelta) -> Request:
        """Ask for `output` to be energised for at most `duration`, from `now` on.

        A board that times it itself does so in whole units: rounded down, but one at least; and
        no longer than its register holds.
        """
        self._check_output(output)
        if not self._settings.timed_pulse:
            self._until[output - 1] = now + min(duration, FLASH_UNITS_MAX * FLASH_UNIT)
            return Request(Function.WRITE_SINGLE_COIL, output - 1, COIL_ON)
        units = min(max(1, duration // FLASH_UNIT), FLASH_UNITS_MAX)
        # It may start as late as the request times out.
        self._until[output - 1] = now + units * FLASH_UNIT + timedelta(seconds=REQUEST_S_MAX)
        return Request(Function.WRITE_SINGLE_COIL, FLASH_ON + output - 1, units)

    def pulse_confirmed(self, output: int, duration: timedelta, now: timedelta) -> None:
        """The board took the pulse: a timed one ends at the latest `duration` from `now`."""
        if self._settings.timed_pulse:
            self._until[output - 1] = now + max(duration, FLASH_UNIT)

    def rest(self, output: int) -> Request:
        """Ask for `output` to be released."""
        self._check_output(output)
        return Request(Function.WRITE_SINGLE_COIL, output - 1, COIL_OFF)

    def rest_confirmed(self, output: int) -> None:
        """The board took the release: `output` has no business to be energised from now on."""
        self._until[output - 1] = None

    def _check_output(self, output: int) -> None:
        if not 1 <= output <= self._settings.outputs:
            raise DeviceMisconfigured(
                f"{self.device_id}: has outputs 1 to {self._settings.outputs}, not {output}"
            )

    def next_release(self) -> timedelta | None:
        """When the next pulse must be ended that this software times; None if there is none."""
        if self._settings.timed_pulse:
            return None
        return min(
            (until - HOST_TIMING_MARGIN for until in self._until if until is not None),
            default=None,
        )

    def host_timed(self) -> list[int]:
        """The outputs with a pulse that this software must end."""
        if self._settings.timed_pulse:
            return []
        return [number for number, until in enumerate(self._until, 1) if until is not None]

    def to_release(self, now: timedelta) -> list[int]:
        """The outputs whose pulse this software must end now."""
        due = now + HOST_TIMING_MARGIN
        return [number for number in self.host_timed() if (self._until[number - 1] or now) <= due]

    def inputs_read(self, bits: Sequence[bool], now: timedelta) -> list[Fact]:
        """Take a reading of all inputs; return what changed. The first returns every input."""
        return [
            InputChanged(self.device_id, number, raw, now)
            for number, (contact, raw) in enumerate(zip(self._inputs, bits, strict=False), 1)
            if contact.sample(raw, now)
        ]

    def outputs_read(self, bits: Sequence[bool], now: timedelta) -> list[Fact]:
        """Take a reading of all outputs; return what changed."""
        facts: list[Fact] = []
        for number, energised in enumerate(bits[: self._settings.outputs], 1):
            if energised != self._reported[number - 1]:
                self._reported[number - 1] = energised
                facts.append(OutputReported(self.device_id, number, energised, now))
            if not energised:
                self._alarmed[number - 1] = False
        return facts

    def unexpected(self, now: timedelta) -> list[int]:
        """The outputs that were energised at the last reading and should not be."""
        return [
            number
            for number, energised in enumerate(self._reported, 1)
            if energised and self._is_overdue(number, now)
        ]

    def forced_off(self, outputs: Sequence[int], now: timedelta) -> list[Fact]:
        """The unexpected `outputs` were told to rest: return an alarm for each, once."""
        new = [number for number in outputs if not self._alarmed[number - 1]]
        for number in new:
            # Until it has been seen at rest: a coil that stays is one alarm, not two a second.
            self._alarmed[number - 1] = self.energised(number)
        return [UnexpectedOutput(self.device_id, number, now) for number in new]

    def energised(self, output: int) -> bool:
        """Whether `output` was energised at the last reading."""
        return bool(self._reported[output - 1])

    def may_have_ended(self, output: int, now: timedelta) -> bool:
        """Whether `output`'s pulse is so short that it may be over by `now`."""
        until = self._until[output - 1]
        return until is None or now >= until - FLASH_UNIT

    def _is_overdue(self, output: int, now: timedelta) -> bool:
        until = self._until[output - 1]
        return until is None or now > until + OVERDUE


def _text(message: Request | Reply) -> str:
    bits = getattr(message, "bits", ())
    tail = f" {len(bits)} bits" if bits else f" {message.address:#06x} {message.value:#06x}"
    return f"function {message.function:#04x}{tail}"


class _WriteSingleCoil(ModbusPDU):
    """Function 05 with the whole register value; pymodbus's own knows only on and off."""

    function_code = Function.WRITE_SINGLE_COIL
    rtu_frame_size = 8

    def __init__(self, dev_id: int = 0, address: int = 0, value: int = 0) -> None:
        super().__init__(dev_id=dev_id, address=address)
        self.value = value

    def encode(self) -> bytes:
        return struct.pack(">HH", self.address, self.value)

    def decode(self, data: bytes) -> None:
        self.address, self.value = struct.unpack(">HH", data)


def pdu_of(request: Request, unit: int) -> ModbusPDU:
    """`request` as pymodbus sends it, on TCP or RTU."""
    match request.function:
        case Function.READ_COILS:
            return ReadCoilsRequest(dev_id=unit, address=request.address, count=request.value)
        case Function.READ_DISCRETE_INPUTS:
            return ReadDiscreteInputsRequest(
                dev_id=unit, address=request.address, count=request.value
            )
        case Function.WRITE_SINGLE_COIL:
            return _WriteSingleCoil(unit, request.address, request.value)


def reply_of(pdu: ModbusPDU) -> Reply:
    """What pymodbus received."""
    if isinstance(pdu, _WriteSingleCoil):
        return Reply(pdu.function_code, pdu.address, pdu.value)
    return Reply(pdu.function_code, bits=tuple(pdu.bits))


class Priority(IntEnum):
    """Whose request goes out next: a release or a pulse waits for the one in flight at most."""

    WRITE = 0
    READ_BACK = 1
    POLL = 2


class _Line:
    """One request at a time over one connection, the most urgent first."""

    def __init__(
        self, protocol: ModbusRelayProtocol, client: AsyncModbusTcpClient, unit: int
    ) -> None:
        self._protocol = protocol
        self._client = client
        self._unit = unit
        self._waiting: list[tuple[Priority, int, Request, asyncio.Future[Reply]]] = []
        self._asked = 0
        self._wake = asyncio.Event()
        self._closed = False

    async def ask(self, request: Request, priority: Priority) -> Reply:
        """Send `request` when it is its turn; return the answer that belongs to it.

        Raises:
            DeviceMisconfigured, DeviceProtocolError: the board refused it.
            DeviceUnavailable: the connection is lost, at the latest after `CALL_S_MAX`.
        """
        if self._closed:
            raise DeviceUnavailable(f"{self._protocol.device_id}: the connection is closed")
        answer: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._asked += 1
        heapq.heappush(self._waiting, (priority, self._asked, request, answer))
        self._wake.set()
        return await answer

    async def serve(self) -> None:
        """Send what is asked until the connection fails; then everybody who waits is told.

        Raises:
            DeviceUnavailable, DeviceProtocolError: nothing more can be believed on this line.
        """
        answer: asyncio.Future[Reply] | None = None
        try:
            while True:
                while not self._waiting:
                    self._wake.clear()
                    await self._wake.wait()
                _, _, request, answer = heapq.heappop(self._waiting)
                if not answer.done():  # its asker may have been cancelled meanwhile
                    await self._exchange(request, answer)
        finally:
            self._closed = True
            failed = [each for _, _, _, each in self._waiting]
            for each in failed if answer is None else [answer, *failed]:
                if not each.done():
                    each.set_exception(
                        DeviceUnavailable(f"{self._protocol.device_id}: the connection is lost")
                    )
            self._waiting.clear()

    async def _exchange(self, request: Request, answer: asyncio.Future[Reply]) -> None:
        sent = pdu_of(request, self._unit)
        try:
            received = await self._client.execute(False, sent)
            end_if_cancelled()
        except ModbusException as error:
            raise DeviceUnavailable(
                f"{self._protocol.device_id}: {_text(request)}: {error}"
            ) from error
        end_if_cancelled()  # pymodbus waits with `wait_for`
        # pymodbus lets an answer without a transaction id pass as anybody's.
        if received.transaction_id != sent.transaction_id or received.dev_id != sent.dev_id:
            raise DeviceProtocolError(
                f"{self._protocol.device_id}: {_text(request)}: an answer to another request"
            )
        if isinstance(received, ExceptionResponse):
            if not answer.done():
                answer.set_exception(self._refusal(request, received))
            return
        reply = reply_of(received)
        self._protocol.check(request, reply)
        if not answer.done():
            answer.set_result(reply)

    def _refusal(self, request: Request, received: ExceptionResponse) -> DeviceError:
        code = received.exception_code
        text = f"{self._protocol.device_id}: {_text(request)}: Modbus exception {code:#04x}"
        if received.function_code & 0x7F != request.function:
            return DeviceProtocolError(text)
        return DeviceMisconfigured(text) if code in SETTINGS_REFUSED else DeviceUnavailable(text)


class _Session:
    """What goes on between a board and its gateway while the connection lasts."""

    def __init__(
        self, protocol: ModbusRelayProtocol, line: _Line, clock: Clock, emit: FactSink
    ) -> None:
        self._protocol = protocol
        self._line = line
        self._clock = clock
        self._emit = emit
        self._pulsed = asyncio.Event()

    async def start(self, settings: ModbusRelaySettings) -> None:
        """Put every output to rest before anybody may open a door; then say what is there."""
        protocol = self._protocol
        for output in range(1, settings.outputs + 1):
            await self._line.ask(protocol.rest(output), Priority.WRITE)
        outputs = await self._line.ask(protocol.read_outputs, Priority.READ_BACK)
        if any(outputs.bits[: settings.outputs]):
            raise DeviceUnavailable(f"{protocol.device_id}: an output doesn't go to rest")
        facts = protocol.outputs_read(outputs.bits, self._clock.monotonic())
        if settings.inputs:
            inputs = await self._line.ask(protocol.read_inputs, Priority.POLL)
            facts += protocol.inputs_read(inputs.bits, self._clock.monotonic())
        self._emit(DeviceOnline(protocol.device_id, self._clock.monotonic()))
        self._tell(facts)

    async def poll(self, settings: ModbusRelaySettings) -> None:
        """Read inputs and outputs for ever."""
        protocol = self._protocol
        outputs_due = self._clock.monotonic()
        while True:
            started = self._clock.monotonic()
            if settings.inputs:
                reply = await self._line.ask(protocol.read_inputs, Priority.POLL)
                self._tell(protocol.inputs_read(reply.bits, self._clock.monotonic()))
            if started >= outputs_due:
                await self._read_outputs(Priority.POLL)
                await self._force_off()
                again_s = RELEASE_RETRY_S if protocol.unexpected(started) else OUTPUTS_S
                outputs_due = started + timedelta(seconds=again_s)
            period_s = SETTLING_S if protocol.settling else INPUTS_S
            spent_s = (self._clock.monotonic() - started).total_seconds()
            await asyncio.sleep(max(0.0, period_s - spent_s))

    async def keep_time(self) -> None:
        """End the pulses that the board doesn't time itself."""
        while True:
            due = self._protocol.next_release()
            now = self._clock.monotonic()
            if due is None or due > now:
                self._pulsed.clear()
                with suppress(TimeoutError):
                    async with asyncio.timeout(
                        None if due is None else (due - now).total_seconds()
                    ):
                        await self._pulsed.wait()
            for output in self._protocol.to_release(self._clock.monotonic()):
                await self._release(output)
                # One that stays on is found by the next reading, and then told so again and again.
                await self._read_outputs(Priority.READ_BACK)

    async def stop(self) -> None:
        """End the pulses that nobody would end any more, if the board still listens."""
        with suppress(TimeoutError, DeviceError):
            async with asyncio.timeout(REQUEST_S_MAX):
                for output in self._protocol.host_timed():
                    await self._release(output)

    async def pulse(self, output: int, duration: timedelta) -> None:
        """See `PulsesOutput.pulse`."""
        protocol = self._protocol
        request = protocol.pulse(output, duration, self._clock.monotonic())
        self._pulsed.set()
        await self._line.ask(request, Priority.WRITE)
        protocol.pulse_confirmed(output, duration, self._clock.monotonic())
        await self._read_outputs(Priority.READ_BACK)
        if not protocol.energised(output) and not protocol.may_have_ended(
            output, self._clock.monotonic()
        ):
            raise DeviceError(
                f"{protocol.device_id}: output {output} took a pulse but reads back at rest"
            )

    async def rest(self, output: int) -> None:
        """See `PulsesOutput.rest`."""
        await self._release(output)
        await self._read_outputs(Priority.READ_BACK)
        if self._protocol.energised(output):
            raise DeviceError(
                f"{self._protocol.device_id}: output {output} was released but stays energised"
            )

    async def _release(self, output: int) -> None:
        await self._line.ask(self._protocol.rest(output), Priority.WRITE)
        self._protocol.rest_confirmed(output)

    async def _read_outputs(self, priority: Priority) -> None:
        reply = await self._line.ask(self._protocol.read_outputs, priority)
        self._tell(self._protocol.outputs_read(reply.bits, self._clock.monotonic()))

    async def _force_off(self) -> None:
        unexpected = self._protocol.unexpected(self._clock.monotonic())
        if not unexpected:
            return
        for output in unexpected:
            await self._release(output)
        await self._read_outputs(Priority.READ_BACK)
        self._tell(self._protocol.forced_off(unexpected, self._clock.monotonic()))

    def _tell(self, facts: Iterable[Fact]) -> None:
        for fact in facts:
            self._emit(fact)


class ModbusRelay:
    """One relay board and its connection."""

    def __init__(self, device_id: str, settings: ModbusRelaySettings, clock: Clock) -> None:
        self.device_id = device_id
        self._settings = settings
        self._clock = clock
        self._session: _Session | None = None

    async def run(self, emit: FactSink) -> None:
        """See `Driver.run`."""
        protocol = ModbusRelayProtocol(self.device_id, self._settings)
        try:
            async with self._connected() as (client, lost), asyncio.TaskGroup() as tasks:
                line = _Line(protocol, client, self._settings.unit)
                tasks.create_task(line.serve())
                tasks.create_task(self._watch(lost))
                session = _Session(protocol, line, self._clock, emit)
                await session.start(self._settings)
                self._session = session
                try:
                    tasks.create_task(session.keep_time())
                    await session.poll(self._settings)
                finally:
                    self._session = None
                    await session.stop()
        except BaseExceptionGroup as group:
            # Whoever failed first is the reason, the others' errors follow from it.
            errors = group.subgroup(DeviceError)
            if errors is None:
                raise
            raise errors.exceptions[0] from None

    @asynccontextmanager
    async def _connected(
        self,
    ) -> AsyncIterator[tuple[AsyncModbusTcpClient, asyncio.Future[None]]]:
        lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def connection_changed(connected: bool) -> None:
            if not connected and not lost.done():
                lost.set_result(None)

        client = AsyncModbusTcpClient(
            self._settings.host,
            port=self._settings.port,
            name=self.device_id,
            timeout=REQUEST_S_MAX,
            retries=0,
            reconnect_delay=0,  # none: the supervisor runs this driver again
            trace_connect=connection_changed,
        )
        client.register(_WriteSingleCoil)
        try:
            is_there = await client.connect()
            end_if_cancelled()
            if not is_there:
                raise DeviceUnavailable(
                    f"{self.device_id}: {_address(self._settings)} can't be reached"
                )
            yield client, lost
        finally:
            transport = client.ctx.transport
            if isinstance(transport, asyncio.WriteTransport):
                transport.abort()  # a polite close would wait for a peer that is gone
            client.close()
            await asyncio.sleep(0)  # the loop closes the socket in its next round

    async def _watch(self, lost: asyncio.Future[None]) -> None:
        await lost
        raise DeviceUnavailable(f"{self.device_id}: {_address(self._settings)} hung up")

    async def pulse(self, output: int, duration: timedelta) -> None:
        """See `PulsesOutput.pulse`."""
        async with self._call() as session:
            await session.pulse(output, duration)

    async def rest(self, output: int) -> None:
        """See `PulsesOutput.rest`."""
        async with self._call() as session:
            await session.rest(output)

    @asynccontextmanager
    async def _call(self) -> AsyncIterator[_Session]:
        if self._session is None:
            raise DeviceUnavailable(f"{self.device_id}: is not connected")
        try:
            async with asyncio.timeout(CALL_S_MAX):
                yield self._session
        except TimeoutError:
            raise DeviceUnavailable(
                f"{self.device_id}: nothing was confirmed within {CALL_S_MAX:g} s"
            ) from None


def _address(settings: ModbusRelaySettings) -> str:
    return f"{settings.host}:{settings.port}"


DRIVER = DriverSpec(
    name="modbus_relay",
    settings=ModbusRelaySettings,
    capabilities=frozenset({Capability.REPORTS_INPUTS, Capability.PULSES_OUTPUTS}),
    build=ModbusRelay,
    relay_class=relay_class,
    outputs=lambda settings: settings.outputs,
    inputs=lambda settings: settings.inputs,
    address=_address,
)
