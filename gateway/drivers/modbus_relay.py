"""A relay board with inputs on Modbus: TCP, RTU on RS-485, or RTU through a serial server.

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

    [devices.relays-b]
    driver = "modbus_relay"
    transport = "rtu"       # or "rtu_over_tcp" with host and port; "tcp" is the default
    port = "/dev/serial/by-path/pci-0000:00:14.0-usb-0:1.6:1.0-port0"
    baud_rate = 115200
    parity = "none"
    unit = 2                # several boards may name one port, each with its own unit
    profile = "waveshare_rtu_relay_d"   # a board of PROFILES: then no outputs, inputs, timed_pulse

    [devices.inputs-c]      # inputs with end-of-line resistors (docs/door.md)
    driver = "modbus_relay"
    transport = "rtu"
    port = "/dev/serial/by-path/pci-0000:00:14.0-usb-0:1.6:1.0-port0"
    baud_rate = 115200
    unit = 3
    profile = "waveshare_rtu_analog_8ch_b"  # or outputs, inputs, timed_pulse and `analogue`
    loop_supply = { mv = 5000, pull_up_ohms = 1500, input = 8 }
    loops = [
        { input = 1, series_ohms = 1000, parallel_ohms = 1000 },
        { input = 2, series_ohms = 2200, parallel_ohms = 4700 },
    ]

Outputs are coils and inputs are discrete inputs, from 0 up; a board may have inputs only. Those of
an analogue board are registers: the voltages of supervised loops, whose contact is active while it
is closed. With `timed_pulse` the board itself ends each pulse; without, this software does, and a
strike on such a board can claim less (RelayClass). The board must stand on a line of its own:
whoever reaches its port or its pair of wires can open the door. A coil that is found energised
without a pulse is put to rest and reported.

Boards on one RTU line share it: one request is in flight at a time, the most urgent first, whoever
asks. A board that doesn't answer costs the others one time-out each time it is tried again.
"""

import asyncio
import heapq
import struct
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from enum import IntEnum
from typing import Annotated, Any, Final, Literal, NamedTuple
from weakref import WeakKeyDictionary

import msgspec
from pymodbus import FramerType
from pymodbus.client import AsyncModbusSerialClient, AsyncModbusTcpClient
from pymodbus.exceptions import ModbusException
from pymodbus.framer import FramerRTU
from pymodbus.pdu import ExceptionResponse, ModbusPDU
from pymodbus.pdu.bit_message import ReadCoilsRequest, ReadDiscreteInputsRequest
from pymodbus.pdu.register_message import ReadHoldingRegistersRequest, ReadInputRegistersRequest

from gateway.cancellation import end_if_cancelled
from gateway.clock import Clock
from gateway.config.devices import (
    Capability,
    DeviceSettings,
    DriverSpec,
    Means,
    RelayClass,
    Trial,
    refuse,
)
from gateway.domain.facts import (
    DeviceOnline,
    Fact,
    InputChanged,
    InputGlimpsed,
    OutputReported,
    UnexpectedOutput,
)
from gateway.drivers.base import FactSink
from gateway.drivers.debounced_input import DebouncedInput
from gateway.drivers.end_of_line import AT_REST, Loop, Loops, LoopSupply, loop_faults
from gateway.drivers.serial_line import BAUD_RATES, port_faults
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
    READ_HOLDING_REGISTERS = 0x03
    READ_INPUT_REGISTERS = 0x04
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
"""How often inputs are read while nothing happens."""

SETTLING_S_MAX: Final = 0.002
CHATTER_S_MAX: Final = 0.008
"""The longest pause between two readings while a change is being confirmed. Each is another part of
it, so that no chatter keeps step with them. The longer one is for a contact that doesn't come to
rest: it must not take the processor from the doors."""

CHATTER: Final = timedelta(milliseconds=500)
"""For how long an input may be restless before it is read at the slower pace."""

_GOLDEN: Final = 0.6180339887498949  # its multiples, less their whole parts, never fall into step

OUTPUTS_S: Final = 0.5
"""How often outputs are read back (at least 2 Hz: the relay bus is not trusted)."""

OVERDUE: Final = timedelta(milliseconds=500)
"""An output still energised so long after its pulse should have ended is put to rest."""

HOST_TIMING_MARGIN: Final = timedelta(milliseconds=20)
"""How much earlier a pulse that this software times is ended: the request that may be in flight,
and the release's own way, so that the strike is never energised for longer than granted."""

RELEASE_RETRY_S: Final = 0.05

READ_BACK_LATE: Final = timedelta(milliseconds=100)
"""For how long a second look at an input may put off the reading of the outputs."""

WAY_S_MAX: Final = 0.010
"""How long a line is left to whoever has just been told of an input and may want to release a
strike: as long as a reading takes, which it would have to wait for otherwise, and never longer."""


BITS_PER_CHARACTER: Final = 11
"""A start bit, 8 data bits, parity or a second stop bit, a stop bit (MODBUS over Serial Line V1.02,
2.5.1); a line without parity that is set to one stop bit, as boards are delivered, has one less."""

SILENT_CHARACTERS: Final = 3.5
SILENT_S_MIN: Final = 0.00175
"""What two frames must lie apart (V1.02, 2.5.1.1); the minimum is that of 19200 baud and above."""

TURNAROUND_S_MAX: Final = 0.25
"""How long an answer may be on its way: boards take a few milliseconds, a busy gateway more."""

READ_CHARACTERS: Final = 8
"""The request of a reading or of a write of one coil (V1.1b3, 6.1 to 6.5, with address, CRC)."""

REGISTERS: Final = 0x10000
"""As many as there are (V1.1b3, 4.4)."""

ANALOGUE_INPUTS_MAX: Final = 16
"""More than any such board has."""

FRAME_CHARACTERS_MAX: Final = 8 + 5 + 2 * ANALOGUE_INPUTS_MAX
"""A request and its answer, of any that this driver sends."""


class AnalogueInputs(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where a board's measured inputs are, and in which unit."""

    function: Literal[3, 4]
    register: Annotated[int, msgspec.Meta(ge=0, le=0xFFFF, description="0 to 65535")]
    """That of input 1; the others follow it, one each, without a sign."""
    step_uv: Annotated[int, msgspec.Meta(ge=1, le=1_000_000, description="1 to 1000000")]
    """What one step of a register is, in microvolts."""
    full_scale_mv: Annotated[int, msgspec.Meta(ge=1000, le=60_000, description="1000 to 60000")]
    mode_register: (
        Annotated[int, msgspec.Meta(ge=0, le=0xFFFF, description="0 to 65535")] | None
    ) = None
    """The holding register that says what input 1 is set to measure; the others follow it."""
    mode: int = 0
    """What it must hold for these voltages."""


class BoardProfile(msgspec.Struct, frozen=True, kw_only=True):
    """What a kind of board is: its points and who ends its pulses."""

    title: str = ""
    outputs: int
    inputs: int
    timed_pulse: bool
    watchdog: bool = False
    analogue: AnalogueInputs | None = None
    source: str = ""


_WAVESHARE: Final = "waveshare.com/wiki, "


def _waveshare_volts(full_scale_mv: int) -> AnalogueInputs:
    """Function 04 at 0x0000 in mV, while 0x1000 and on hold 0 (Waveshare's wiki)."""
    return AnalogueInputs(
        function=4,
        register=0x0000,
        step_uv=1000,
        full_scale_mv=full_scale_mv,
        mode_register=0x1000,
        mode=0x0000,
    )


PROFILES: Final[Mapping[str, BoardProfile]] = {
    "waveshare_rtu_relay": BoardProfile(
        title="Waveshare Modbus RTU Relay, 8 relays",
        outputs=8,
        inputs=0,
        timed_pulse=True,
        source=_WAVESHARE + "Modbus RTU Relay (protocol V2)",
    ),
    "waveshare_rtu_relay_d": BoardProfile(
        title="Waveshare Modbus RTU Relay (D), 8 relays and 8 inputs",
        outputs=8,
        inputs=8,
        timed_pulse=True,
        source=_WAVESHARE + "Modbus RTU Relay (D)",
    ),
    "waveshare_poe_eth_relay": BoardProfile(
        title="Waveshare Modbus POE ETH Relay, 8 relays",
        outputs=8,
        inputs=0,
        timed_pulse=True,
        source=_WAVESHARE + "Modbus POE ETH Relay",
    ),
    "waveshare_rtu_io_8ch": BoardProfile(
        title="Waveshare Modbus RTU IO 8CH, 8 transistor outputs and 8 inputs",
        outputs=8,
        inputs=8,
        timed_pulse=False,
        source=_WAVESHARE + "Modbus RTU IO 8CH",
    ),
    "moxa_e1214": BoardProfile(
        title="Moxa ioLogik E1214, 6 relays and 6 inputs",
        outputs=6,
        inputs=6,
        timed_pulse=False,
        source="ioLogik E1200 Series User's Manual, E1214 Modbus Mapping",
    ),
    "waveshare_rtu_analog_8ch": BoardProfile(
        title="Waveshare Modbus RTU Analog Input 8CH, 8 inputs of 0 to 5 V",
        outputs=0,
        inputs=8,
        timed_pulse=False,
        analogue=_waveshare_volts(5000),
        source=_WAVESHARE + "Modbus RTU Analog Input 8CH (3x0000 and 4x1000)",
    ),
    "waveshare_rtu_analog_8ch_b": BoardProfile(
        title="Waveshare Modbus RTU Analog Input 8CH (B), 8 inputs of 0 to 10 V",
        outputs=0,
        inputs=8,
        timed_pulse=False,
        analogue=_waveshare_volts(10_000),
        source=_WAVESHARE + "Modbus RTU Analog Input 8CH (B) (3x0000 and 4x1000)",
    ),
}
"""Boards by name, as their manuals say; any other is described by its own settings."""


class ModbusRelaySettings(DeviceSettings, frozen=True, kw_only=True):
    """[devices.NAME] of a relay board. Whether it times pulses itself has no default."""

    transport: Literal["tcp", "rtu", "rtu_over_tcp"] = "tcp"
    host: str | None = None
    port: int | str = 502
    baud_rate: int | None = None
    parity: Literal["none", "even", "odd"] | None = None
    stop_bits: Literal[1, 2] | None = None
    unit: int = 1
    profile: str | None = None
    outputs: int | None = None
    inputs: int | None = None
    timed_pulse: bool | None = None
    watchdog: bool = False
    debounce_ms: int = 30
    analogue: AnalogueInputs | None = None
    loop_supply: LoopSupply | None = None
    loops: tuple[Loop, ...] = ()

    @property
    def board(self) -> BoardProfile:
        """What the board is, by its profile or by the settings here."""
        if self.profile is not None:
            known = PROFILES[self.profile]
            return msgspec.structs.replace(known, watchdog=known.watchdog or self.watchdog)
        return BoardProfile(
            outputs=self.outputs or 0,
            inputs=self.inputs or 0,
            timed_pulse=bool(self.timed_pulse),
            watchdog=self.watchdog,
            analogue=self.analogue,
        )

    @property
    def registers(self) -> int:
        """How many registers hold the measured inputs that are in use, from the first one."""
        supply = self.loop_supply.input if self.loop_supply is not None else None
        return max(supply or 0, *(loop.input for loop in self.loops))

    @property
    def shared(self) -> bool:
        """Whether several boards may be on this line."""
        return self.transport != "tcp"

    @property
    def speed(self) -> int:
        """Bits a second; most boards are delivered with 9600, no parity, 1 stop bit."""
        return 9600 if self.baud_rate is None else self.baud_rate

    @property
    def character_s(self) -> float:
        """How long a character takes on the line. A serial server's own settings aren't known."""
        bits = BITS_PER_CHARACTER
        if self.transport == "rtu" and (self.parity or "none") == "none" and self.stop_bits != 2:
            bits -= 1
        return bits / self.speed

    @property
    def answer_s_max(self) -> float:
        """How long an answer may take."""
        if not self.shared:
            return REQUEST_S_MAX
        return TURNAROUND_S_MAX + FRAME_CHARACTERS_MAX * self.character_s

    @property
    def silent_s(self) -> float:
        """How long the line must have been silent before a request."""
        return max(SILENT_S_MIN, SILENT_CHARACTERS * self.character_s)

    def reading_s(self, points: int, bits_each: int = 1) -> float:
        """How long a reading of so many inputs or outputs takes on the line, with the board's pause
        before its answer and ours before the request.
        """
        answered = 5 + -(-points * bits_each // 8)
        return (READ_CHARACTERS + answered) * self.character_s + 2 * self.silent_s

    @property
    def write_s(self) -> float:
        """How long a write and its echo take on the line, with the same pauses."""
        return 2 * READ_CHARACTERS * self.character_s + 2 * self.silent_s

    @property
    def look_s(self) -> float:
        """How long a reading of all inputs takes on the line."""
        if self.board.analogue is not None:
            return self.reading_s(self.registers, 16)
        return self.reading_s(self.board.inputs)

    def __post_init__(self) -> None:
        """Refuse what no such board can have.

        Raises:
            ValueError: msgspec turns it into a fault with its path in the file.
        """
        board = list(self._board_faults())
        refuse((*self._line_faults(), *(board or self._loop_faults())))

    def _line_faults(self) -> Iterator[str]:
        if not 1 <= self.unit <= (247 if self.shared else 0xFF):
            yield f"`unit` must be 1 to {247 if self.shared else 0xFF}"
        if self.transport == "rtu":
            if self.host is not None:
                yield "`host` is for `tcp` and `rtu_over_tcp`, not for a serial port"
            yield from port_faults(str(self.port), self.speed)
            return
        if self.host is None:
            yield "`host` is missing: the board's address"
        elif not self.host or any(character.isspace() for character in self.host):
            yield "`host` must be an address or a host name"
        if not isinstance(self.port, int) or not 1 <= self.port <= 0xFFFF:
            yield "`port` must be 1 to 65535"
        # A serial server's own line is set in it; the speed here says how long an answer may take.
        if self.baud_rate is not None and not (self.shared and self.baud_rate in BAUD_RATES):
            yield f"`baud_rate` is for RTU, and one of {sorted(BAUD_RATES)}"
        for name, given in (("parity", self.parity), ("stop_bits", self.stop_bits)):
            if given is not None:
                yield f"`{name}` is for a serial port"

    def _loop_faults(self) -> Iterator[str]:
        if (analogue := self.board.analogue) is not None:
            yield from loop_faults(
                self.loops,
                self.loop_supply,
                inputs=self.board.inputs,
                full_scale_mv=analogue.full_scale_mv,
            )
            return
        for name, given in (("loops", self.loops), ("loop_supply", self.loop_supply)):
            if given:
                yield f"`{name}` is for a board that measures its inputs (`analogue`, or a profile)"

    def _board_faults(self) -> Iterator[str]:
        own = {"outputs": self.outputs, "inputs": self.inputs, "timed_pulse": self.timed_pulse}
        if self.profile is not None and self.profile not in PROFILES:
            yield f"`profile` must be one of {', '.join(PROFILES)}"
        for name, value in own.items():
            if self.profile is None and value is None:
                yield f"`{name}` is missing: say what the board is, or its `profile`"
        for name, given in (*own.items(), ("analogue", self.analogue)):
            if self.profile is not None and given is not None:
                yield f"`{name}` is what the profile says already: leave it out"
        if self.analogue is not None and not 1 <= (self.inputs or 0) <= ANALOGUE_INPUTS_MAX:
            yield f"`inputs` must be 1 to {ANALOGUE_INPUTS_MAX} where they are measured"
        elif self.analogue is not None:
            last = max(self.analogue.register, self.analogue.mode_register or 0)
            if last + (self.inputs or 0) > REGISTERS:
                beyond = f"go past {REGISTERS - 1}"
                yield f"`analogue` {self.inputs} inputs from register {last} on {beyond}"
        for name, count, low in (
            ("outputs", self.outputs, 1 if self.inputs == 0 else 0),
            ("inputs", self.inputs, 0),
        ):
            if self.profile is None and count is not None and not low <= count <= POINTS_MAX:
                yield f"`{name}` must be {low} to {POINTS_MAX}"
        if not DEBOUNCE_MS_MIN <= self.debounce_ms <= DEBOUNCE_MS_MAX:
            yield f"`debounce_ms` must be {DEBOUNCE_MS_MIN} to {DEBOUNCE_MS_MAX}"


def relay_class(settings: ModbusRelaySettings) -> RelayClass:
    """The best class that a strike on this board can claim."""
    if settings.board.timed_pulse:
        return RelayClass.R3 if settings.board.watchdog else RelayClass.R2
    return RelayClass.R1 if settings.board.watchdog else RelayClass.R0


class Request(NamedTuple):
    """One question to the board: `value` is the count of a read, the register value of a write."""

    function: Function
    address: int
    value: int


class Reply(NamedTuple):
    """One answer: `bits` or `words` of a read; `address` and `value` as a write echoes them."""

    function: int
    address: int = 0
    value: int = 0
    bits: tuple[bool, ...] = ()
    words: tuple[int, ...] = ()


class ModbusRelayProtocol:
    """What to ask the board, whether an answer is one, and what it means. Knows no transport."""

    def __init__(self, device_id: str, settings: ModbusRelaySettings) -> None:
        self.device_id = device_id
        self._board = settings.board
        debounce = timedelta(milliseconds=settings.debounce_ms)
        self._analogue = settings.board.analogue
        self._registers = 0
        self._contacts: list[DebouncedInput[bool]] = []
        self._loops: Loops | None = None
        if self._analogue is None or settings.loop_supply is None:
            self._contacts = [DebouncedInput(debounce) for _ in range(settings.board.inputs)]
        else:
            self._registers = settings.registers
            self._loops = Loops(device_id, settings.loops, settings.loop_supply, debounce)
        self._until: list[timedelta | None] = [None] * settings.board.outputs
        self._reported: list[bool | None] = [None] * settings.board.outputs
        self._alarmed = [False] * settings.board.outputs
        self._looks = 0

    @property
    def read_outputs(self) -> Request:
        """Ask for all outputs."""
        return Request(Function.READ_COILS, 0, self._board.outputs)

    @property
    def read_inputs(self) -> Request:
        """Ask for all inputs."""
        if self._analogue is not None:
            function = Function(self._analogue.function)
            return Request(function, self._analogue.register, self._registers)
        return Request(Function.READ_DISCRETE_INPUTS, 0, self._board.inputs)

    @property
    def read_modes(self) -> Request | None:
        """Ask what the inputs are set to measure; None where that can't be told."""
        if self._analogue is None or self._analogue.mode_register is None:
            return None
        return Request(
            Function.READ_HOLDING_REGISTERS, self._analogue.mode_register, self._registers
        )

    def check_modes(self, modes: Sequence[int]) -> None:
        """Refuse a board whose inputs measure something else than the profile says.

        Raises:
            DeviceMisconfigured: naming the input and the register to set.
        """
        if self._analogue is None or self._analogue.mode_register is None:
            return
        for number, mode in enumerate(modes, 1):
            if mode != self._analogue.mode:
                register = self._analogue.mode_register + number - 1
                raise DeviceMisconfigured(
                    f"{self.device_id}: input {number} measures something else (mode {mode}): "
                    f"write {self._analogue.mode} to register {register:#06x}, and set its jumper"
                )

    @property
    def _inputs(self) -> Iterable[DebouncedInput[Any]]:
        return self._contacts if self._loops is None else self._loops.inputs.values()

    @property
    def wants_second_look(self) -> bool:
        """Whether an input may just have been pressed: nothing is as urgent as to make sure."""
        return any(each.is_first_sight for each in self._inputs)

    def pause_s(self, spent_s: float, now: timedelta) -> float:
        """How long to wait after a reading of the inputs that took `spent_s`."""
        if self.wants_second_look:
            return 0.0
        since = min(
            (each.restless_since for each in self._inputs if each.restless_since is not None),
            default=None,
        )
        if since is None:
            return max(0.0, INPUTS_S - spent_s)
        self._looks += 1
        longest_s = SETTLING_S_MAX if now - since < CHATTER else CHATTER_S_MAX
        return longest_s * (self._looks * _GOLDEN % 1)

    def check(self, request: Request, reply: Reply) -> None:
        """Refuse an answer that can't be `request`'s.

        Raises:
            DeviceProtocolError: the stream is confused; nothing later on it can be believed.
        """
        if request.function is Function.WRITE_SINGLE_COIL:
            belongs = reply == Reply(request.function, request.address, request.value)
        else:
            # A reading has no address in it: that it is the right size is all there is to check.
            size = _bytes_of(request) * 8
            belongs = reply.function == request.function and size == (
                len(reply.bits) + 16 * len(reply.words)
            )
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
        if not self._board.timed_pulse:
            self._until[output - 1] = now + min(duration, FLASH_UNITS_MAX * FLASH_UNIT)
            return Request(Function.WRITE_SINGLE_COIL, output - 1, COIL_ON)
        units = min(max(1, duration // FLASH_UNIT), FLASH_UNITS_MAX)
        # It may start as late as the request times out.
        self._until[output - 1] = now + units * FLASH_UNIT + timedelta(seconds=REQUEST_S_MAX)
        return Request(Function.WRITE_SINGLE_COIL, FLASH_ON + output - 1, units)

    def pulse_confirmed(self, output: int, duration: timedelta, now: timedelta) -> None:
        """The board took the pulse: a timed one ends at the latest `duration` from `now`."""
        if self._board.timed_pulse:
            self._until[output - 1] = now + max(duration, FLASH_UNIT)

    def rest(self, output: int) -> Request:
        """Ask for `output` to be released."""
        self._check_output(output)
        return Request(Function.WRITE_SINGLE_COIL, output - 1, COIL_OFF)

    def rest_confirmed(self, output: int) -> None:
        """The board took the release: `output` has no business to be energised from now on."""
        self._until[output - 1] = None

    def _check_output(self, output: int) -> None:
        if not 1 <= output <= self._board.outputs:
            raise DeviceMisconfigured(
                f"{self.device_id}: has outputs 1 to {self._board.outputs}, not {output}"
            )

    def next_release(self) -> timedelta | None:
        """When the next pulse must be ended that this software times; None if there is none."""
        if self._board.timed_pulse:
            return None
        return min(
            (until - HOST_TIMING_MARGIN for until in self._until if until is not None),
            default=None,
        )

    def host_timed(self) -> list[int]:
        """The outputs with a pulse that this software must end."""
        if self._board.timed_pulse:
            return []
        return [number for number, until in enumerate(self._until, 1) if until is not None]

    def to_release(self, now: timedelta) -> list[int]:
        """The outputs whose pulse this software must end now."""
        due = now + HOST_TIMING_MARGIN
        return [number for number in self.host_timed() if (self._until[number - 1] or now) <= due]

    def inputs_told(self, reply: Reply, now: timedelta) -> list[Fact]:
        """Take the answer to `read_inputs`; return what changed, or may have."""
        if self._loops is None or self._analogue is None:
            return self.inputs_read(reply.bits, now)
        step_mv = self._analogue.step_uv / 1000
        return self._loops.measured([word * step_mv for word in reply.words], now)

    def inputs_read(self, bits: Sequence[bool], now: timedelta) -> list[Fact]:
        """Take a reading of all inputs; return what changed, or may have. The first returns every
        input.
        """
        facts: list[Fact] = []
        for number, (contact, raw) in enumerate(zip(self._contacts, bits, strict=False), 1):
            if contact.sample(raw, now):
                facts.append(InputChanged(self.device_id, number, raw, now))
            elif contact.glimpsed(now):
                facts.append(InputGlimpsed(self.device_id, number, raw, now))
        return facts

    def outputs_read(self, bits: Sequence[bool], now: timedelta) -> list[Fact]:
        """Take a reading of all outputs; return what changed."""
        facts: list[Fact] = []
        for number, energised in enumerate(bits[: self._board.outputs], 1):
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


def _bytes_of(request: Request) -> int:
    """How many bytes a reading's answer holds (V1.1b3, 6.1 to 6.4)."""
    if request.function in {Function.READ_HOLDING_REGISTERS, Function.READ_INPUT_REGISTERS}:
        return 2 * request.value
    return -(-request.value // 8)


def _text(message: Request | Reply) -> str:
    bits = len(getattr(message, "bits", ())) + 16 * len(getattr(message, "words", ()))
    tail = f" {bits} bits" if bits else f" {message.address:#06x} {message.value:#06x}"
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
        case Function.READ_HOLDING_REGISTERS:
            return ReadHoldingRegistersRequest(
                dev_id=unit, address=request.address, count=request.value
            )
        case Function.READ_INPUT_REGISTERS:
            return ReadInputRegistersRequest(
                dev_id=unit, address=request.address, count=request.value
            )
        case Function.WRITE_SINGLE_COIL:
            return _WriteSingleCoil(unit, request.address, request.value)


def reply_of(pdu: ModbusPDU) -> Reply:
    """What pymodbus received."""
    if isinstance(pdu, _WriteSingleCoil):
        return Reply(pdu.function_code, pdu.address, pdu.value)
    return Reply(pdu.function_code, bits=tuple(pdu.bits), words=tuple(pdu.registers))


def answer_in(data: bytes, sent: tuple[int, Request]) -> bytes:
    """The RTU frame in `data` that can answer a request to a unit; nothing if there is none yet.

    On RTU an answer names no request, and a late one, one that comes twice or another master's
    looks like any. So nothing is taken but the frame that this very request must have: its unit
    and function, a write's echo or a reading of the right size, or an exception, and its CRC.
    """
    unit, request = sent
    head = bytes([unit, request.function])
    if request.function is Function.WRITE_SINGLE_COIL:
        wanted = head + struct.pack(">HH", request.address, request.value)
        size = len(wanted) + 2
    else:
        count = _bytes_of(request)
        wanted = head + bytes([count])
        size = len(wanted) + count + 2
    refused = bytes([unit, request.function | 0x80])
    for start, length in ((wanted, size), (refused, 5)):
        at = data.find(start)
        while at >= 0:
            frame = data[at : at + length]
            if len(frame) == length and FramerRTU.compute_CRC(frame[:-2]) == int.from_bytes(
                frame[-2:], "big"
            ):
                return frame
            at = data.find(start, at + 1)
    return b""


class Priority(IntEnum):
    """Whose request goes out next: a release or a pulse waits for the one in flight at most.

    Readings go out in the order in which they are asked for, so that neither pulses nor other
    boards keep inputs waiting for more than one of each.
    """

    WRITE = 0
    SECOND_LOOK = 1
    READ = 2


class _Asked(NamedTuple):
    """A request that waits for its turn; the most urgent sorts first, then the oldest."""

    priority: Priority
    number: int
    board: "_Board"
    request: Request
    answer: asyncio.Future[Reply]


class _Bus:
    """One connection: one request at a time over it, the most urgent first, whichever board asks.

    It is opened with its first board and closed with its last one.
    """

    def __init__(self, settings: ModbusRelaySettings) -> None:
        self._settings = settings
        self._waiting: list[_Asked] = []
        self._asked = 0
        self._wake = asyncio.Event()
        self._opening = asyncio.Lock()
        self._client: AsyncModbusTcpClient | AsyncModbusSerialClient | None = None
        self._serving: asyncio.Task[None] | None = None
        self._sent: tuple[int, Request] | None = None
        self._heard = 0.0
        self._late: dict[int, float] = {}
        self._writes_only_until = 0.0
        self.boards = 0
        self.ended: asyncio.Future[DeviceError] = asyncio.get_running_loop().create_future()
        """Why nothing more can be asked here."""

    def same_line(self, settings: ModbusRelaySettings) -> bool:
        """Whether a board with these settings can be on this line."""
        ours, theirs = (
            (each.transport, each.speed, each.parity or "none", each.stop_bits or 1)
            for each in (self._settings, settings)
        )
        return ours == theirs

    async def open(self, device_id: str) -> None:
        """Connect, unless it is connected.

        Raises:
            DeviceUnavailable: it can't be reached.
        """
        async with self._opening:
            if self._client is not None:
                return
            client = self._built(device_id)
            client.register(_WriteSingleCoil)
            reached = False
            try:
                connected = await _connected(client)
                end_if_cancelled()
                reached = connected and not self.ended.done()
            finally:
                if not reached:
                    await _hang_up(client)
            if not reached:
                raise DeviceUnavailable(f"{device_id}: {_address(self._settings)} can't be reached")
            self._client = client
            self._serving = asyncio.create_task(self._serve(client))

    async def close(self) -> None:
        """Hang up; whoever still waits is told."""
        if self._serving is not None:
            self._serving.cancel()
            await asyncio.wait({self._serving})

    def _built(self, device_id: str) -> AsyncModbusTcpClient | AsyncModbusSerialClient:
        settings = self._settings

        def connection_changed(connected: bool) -> None:
            if not connected:
                self._end(DeviceUnavailable(f"{device_id}: {_address(settings)} hung up"))

        def heard(sending: bool, data: bytes) -> bytes:
            if sending or not settings.shared:
                return data
            self._heard = asyncio.get_running_loop().time()
            return answer_in(data, self._sent) if self._sent is not None else b""

        # No retries and no reconnection: the supervisor runs the driver again.
        if settings.transport == "rtu":
            return AsyncModbusSerialClient(
                str(settings.port),
                name=device_id,
                baudrate=settings.speed,
                parity=(settings.parity or "none")[0].upper(),
                stopbits=settings.stop_bits or 1,
                timeout=settings.answer_s_max,
                retries=0,
                reconnect_delay=0,
                trace_connect=connection_changed,
                trace_packet=heard,
            )
        return AsyncModbusTcpClient(
            settings.host or "",
            port=int(settings.port),
            framer=FramerType.RTU if settings.shared else FramerType.SOCKET,
            name=device_id,
            timeout=settings.answer_s_max,
            retries=0,
            reconnect_delay=0,
            trace_connect=connection_changed,
            trace_packet=heard,
        )

    def _end(self, why: DeviceError) -> None:
        if not self.ended.done():
            self.ended.set_result(why)
        if self._serving is not None:
            self._serving.cancel()

    async def ask(self, board: "_Board", request: Request, priority: Priority) -> Reply:
        """Send `request` when it is its turn; return the answer that belongs to it.

        Raises:
            DeviceMisconfigured, DeviceProtocolError: the board refused it.
            DeviceUnavailable: there is no answer, or no line; at the latest after `CALL_S_MAX`.
        """
        if self.ended.done():
            raise DeviceUnavailable(f"{board.protocol.device_id}: the connection is closed")
        answer: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._asked += 1
        heapq.heappush(self._waiting, _Asked(priority, self._asked, board, request, answer))
        self._wake.set()
        return await answer

    def make_way(self) -> None:
        """Leave the line to writes for a moment; see `WAY_S_MAX`."""
        if self._settings.shared:
            way_s = min(WAY_S_MAX, self._settings.reading_s(1))
            self._writes_only_until = asyncio.get_running_loop().time() + way_s

    async def _next(self) -> _Asked:
        """The most urgent request, as soon as one may go out."""
        loop = asyncio.get_running_loop()
        if self._settings.shared:
            # Whoever just had an answer has the line's silence to ask for something more urgent.
            silent_s = self._settings.silent_s
            await asyncio.sleep(min(self._heard + silent_s - loop.time(), silent_s))
        while True:
            way_s = self._writes_only_until - loop.time()
            if self._waiting and (way_s <= 0 or self._waiting[0].priority is Priority.WRITE):
                self._writes_only_until = 0.0
                return heapq.heappop(self._waiting)
            self._wake.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(way_s if self._waiting else None):
                    await self._wake.wait()

    async def _serve(self, client: AsyncModbusTcpClient | AsyncModbusSerialClient) -> None:
        """Send what is asked until the connection fails; then everybody who waits is told."""
        asked: _Asked | None = None
        try:
            while not self.ended.done():
                asked = None
                asked = await self._next()
                if not asked.answer.done():  # its asker may have been cancelled meanwhile
                    await self._exchange(client, asked)
        finally:
            self._end(DeviceUnavailable("the connection is closed"))
            for each in [*self._waiting, *([] if asked is None else [asked])]:
                if not each.answer.done():
                    each.answer.set_exception(
                        DeviceUnavailable(
                            f"{each.board.protocol.device_id}: the connection is lost"
                        )
                    )
            self._waiting.clear()
            await _hang_up(client)

    async def _exchange(
        self, client: AsyncModbusTcpClient | AsyncModbusSerialClient, asked: _Asked
    ) -> None:
        try:
            reply = await self._answered(client, asked)
        except (DeviceUnavailable, DeviceProtocolError) as error:
            # On TCP nothing later can be believed. On RTU it is this board's trouble only, whose
            # answer may still come: it is not asked before that has had its time.
            if not asked.answer.done():
                asked.answer.set_exception(error)
            if not self._settings.shared:
                self._end(error)
            else:
                until = asyncio.get_running_loop().time() + self._settings.answer_s_max
                self._late[asked.board.unit] = until
                asked.board.end(error)
                # What else it was to be asked must not cost the others a time-out each.
                for each in self._waiting:
                    if each.board is asked.board and not each.answer.done():
                        each.answer.set_exception(error)
        except DeviceMisconfigured as error:
            if not asked.answer.done():
                asked.answer.set_exception(error)
        else:
            if not asked.answer.done():
                asked.answer.set_result(reply)

    async def _answered(
        self, client: AsyncModbusTcpClient | AsyncModbusSerialClient, asked: _Asked
    ) -> Reply:
        _, _, board, request, _ = asked
        if self._settings.shared:
            await self._silence(board.unit)
        sent = pdu_of(request, board.unit)
        who = f"{board.protocol.device_id}: {_text(request)}"
        self._sent = board.unit, request
        try:
            received = await client.execute(False, sent)
        except ModbusException as error:
            # The library's words are about itself, not about the board.
            why = (
                f"no answer from unit {board.unit} in {self._settings.answer_s_max:g} s: "
                "is it powered and wired?"
                if client.connected
                else f"{_address(self._settings)}: the connection is lost"
            )
            raise DeviceUnavailable(f"{who}: {why}") from error
        finally:
            self._sent = None
            end_if_cancelled()
        # pymodbus lets an answer without a transaction id pass as anybody's.
        if received.transaction_id != sent.transaction_id or received.dev_id != sent.dev_id:
            raise DeviceProtocolError(f"{who}: an answer to another request")
        if isinstance(received, ExceptionResponse):
            raise _refusal(who, request, received)
        reply = reply_of(received)
        board.protocol.check(request, reply)
        return reply

    async def _silence(self, unit: int) -> None:
        """Wait until the line has been silent and no late answer of `unit` is to be expected.

        What comes meanwhile is nobody's: an answer that comes twice, another master's.
        """
        loop = asyncio.get_running_loop()
        late = self._late.pop(unit, 0.0) - loop.time()
        if late > 0:
            await asyncio.sleep(late)
        given_up = loop.time() + CALL_S_MAX
        while (rest := self._heard + self._settings.silent_s - loop.time()) > 0:
            if loop.time() > given_up:
                raise DeviceUnavailable(f"{_address(self._settings)}: the line is never silent")
            await asyncio.sleep(rest)


class _Board:
    """A board on a bus, until it can't be believed any more."""

    def __init__(self, bus: _Bus, protocol: ModbusRelayProtocol, unit: int) -> None:
        self.protocol = protocol
        self.unit = unit
        self._bus = bus
        self._ended: asyncio.Future[DeviceError] = asyncio.get_running_loop().create_future()

    async def ask(self, request: Request, priority: Priority) -> Reply:
        """See `_Bus.ask`."""
        return await self._bus.ask(self, request, priority)

    def make_way(self) -> None:
        """See `_Bus.make_way`."""
        self._bus.make_way()

    def end(self, why: DeviceError) -> None:
        """Give this board up: what it was last told is not known to have been done."""
        if not self._ended.done():
            self._ended.set_result(why)

    async def watch(self) -> None:
        """Wait for the end of the board or of its line. Raises why."""
        either = {self._ended, self._bus.ended}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        raise (self._ended if self._ended.done() else self._bus.ended).result()


def _refusal(who: str, request: Request, received: ExceptionResponse) -> DeviceError:
    code = received.exception_code
    text = f"{who}: Modbus exception {code:#04x}"
    if received.function_code & 0x7F != request.function:
        return DeviceProtocolError(text)
    return DeviceMisconfigured(text) if code in SETTINGS_REFUSED else DeviceUnavailable(text)


async def _connected(client: AsyncModbusTcpClient | AsyncModbusSerialClient) -> bool:
    if isinstance(client, AsyncModbusTcpClient):
        return bool(await client.connect())
    # A serial port is open at once, but cancelled before it says so pymodbus would forget it.
    connecting = asyncio.ensure_future(client.connect())
    try:
        return bool(await asyncio.shield(connecting))
    except asyncio.CancelledError:
        await asyncio.wait({connecting})
        await _hang_up(client)
        raise


async def _hang_up(client: AsyncModbusTcpClient | AsyncModbusSerialClient) -> None:
    transport = client.ctx.transport
    if isinstance(transport, asyncio.WriteTransport):
        transport.abort()  # a polite close would wait for a peer that is gone
    client.close()
    await asyncio.sleep(0)  # the loop closes the socket in its next round


# The RTU lines in use. Boards are drivers of their own, that come and go one by one and don't know
# each other, so what they share is found here: by the loop that runs them, then by its address.
_BUSES: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, _Bus]] = WeakKeyDictionary()


@asynccontextmanager
async def _joined(device_id: str, settings: ModbusRelaySettings) -> AsyncIterator[_Bus]:
    """The open bus of `settings`, for the length of the block."""
    buses = _BUSES.setdefault(asyncio.get_running_loop(), {}) if settings.shared else {}
    address = _address(settings)
    bus = buses.get(address)
    if bus is None or bus.ended.done():
        bus = buses[address] = _Bus(settings)
    if not bus.same_line(settings):
        raise DeviceMisconfigured(
            f"{device_id}: {address} is in use with another speed, parity or number of stop bits"
        )
    bus.boards += 1
    try:
        await bus.open(device_id)
        yield bus
    finally:
        bus.boards -= 1
        if not bus.boards:
            if buses.get(address) is bus:
                del buses[address]
            await bus.close()


class _Session:
    """What goes on between a board and its gateway while the connection lasts."""

    def __init__(
        self, protocol: ModbusRelayProtocol, line: _Board, clock: Clock, emit: FactSink
    ) -> None:
        self._protocol = protocol
        self._line = line
        self._clock = clock
        self._emit = emit
        self._pulsed = asyncio.Event()
        self._outputs_due = clock.monotonic()

    async def start(self, board: BoardProfile) -> None:
        """Put every output to rest before anybody may open a door; then say what is there."""
        protocol = self._protocol
        for output in range(1, board.outputs + 1):
            await self._line.ask(protocol.rest(output), Priority.WRITE)
        facts: list[Fact] = []
        if board.outputs:
            outputs = await self._line.ask(protocol.read_outputs, Priority.READ)
            if any(outputs.bits[: board.outputs]):
                raise DeviceUnavailable(f"{protocol.device_id}: an output doesn't go to rest")
            facts += protocol.outputs_read(outputs.bits, self._clock.monotonic())
        if (read_modes := protocol.read_modes) is not None:
            protocol.check_modes((await self._line.ask(read_modes, Priority.READ)).words)
        if board.inputs:
            inputs = await self._line.ask(protocol.read_inputs, Priority.READ)
            facts += protocol.inputs_told(inputs, self._clock.monotonic())
        self._emit(DeviceOnline(protocol.device_id, self._clock.monotonic()))
        self._tell(facts)

    async def poll(self, board: BoardProfile) -> None:
        """Read inputs and outputs for ever."""
        protocol = self._protocol
        while True:
            started = self._clock.monotonic()
            if board.inputs:
                again = protocol.wants_second_look
                urgency = Priority.SECOND_LOOK if again else Priority.READ
                reply = await self._line.ask(protocol.read_inputs, urgency)
                facts = protocol.inputs_told(reply, self._clock.monotonic())
                if any(isinstance(fact, InputGlimpsed) for fact in facts):
                    self._line.make_way()
                self._tell(facts)
            due = self._outputs_due + READ_BACK_LATE * protocol.wants_second_look
            if board.outputs and started >= due:
                await self._read_outputs()
                await self._force_off()
            now = self._clock.monotonic()
            await asyncio.sleep(protocol.pause_s((now - started).total_seconds(), now))

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
                await self._read_outputs()

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
        await self._read_outputs()
        if not protocol.energised(output) and not protocol.may_have_ended(
            output, self._clock.monotonic()
        ):
            raise DeviceError(
                f"{protocol.device_id}: output {output} took a pulse but reads back at rest"
            )

    async def rest(self, output: int) -> None:
        """See `PulsesOutput.rest`."""
        await self._release(output)
        await self._read_outputs()
        if self._protocol.energised(output):
            raise DeviceError(
                f"{self._protocol.device_id}: output {output} was released but stays energised"
            )

    async def _release(self, output: int) -> None:
        await self._line.ask(self._protocol.rest(output), Priority.WRITE)
        self._protocol.rest_confirmed(output)

    async def _read_outputs(self) -> None:
        asked = self._clock.monotonic()
        reply = await self._line.ask(self._protocol.read_outputs, Priority.READ)
        self._tell(self._protocol.outputs_read(reply.bits, self._clock.monotonic()))
        again_s = RELEASE_RETRY_S if self._protocol.unexpected(asked) else OUTPUTS_S
        self._outputs_due = asked + timedelta(seconds=again_s)

    async def _force_off(self) -> None:
        unexpected = self._protocol.unexpected(self._clock.monotonic())
        if not unexpected:
            return
        for output in unexpected:
            await self._release(output)
        await self._read_outputs()
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
        settings = self._settings
        protocol = ModbusRelayProtocol(self.device_id, settings)
        try:
            async with _joined(self.device_id, settings) as bus, asyncio.TaskGroup() as tasks:
                board = _Board(bus, protocol, settings.unit)
                tasks.create_task(board.watch())
                session = _Session(protocol, board, self._clock, emit)
                await session.start(settings.board)
                self._session = session
                try:
                    tasks.create_task(session.keep_time())
                    await session.poll(settings.board)
                finally:
                    self._session = None
                    await session.stop()
        except BaseExceptionGroup as group:
            # Whoever failed first is the reason, the others' errors follow from it.
            errors = group.subgroup(DeviceError)
            if errors is None:
                raise
            raise errors.exceptions[0] from None

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


REX_S_MAX: Final = 0.1
"""From the exit button to the strike (docs/promises.md P20)."""

HOST_S: Final = 0.005
REQUEST_S: Final = 0.001
"""What of that this software takes on a busy machine: once, and for each request (its timers)."""


def strain(boards: Sequence[ModbusRelaySettings]) -> str | None:
    """Whether an exit button is felt in time on a line that these boards share."""
    line = boards[0]
    looks = [each.look_s for each in boards if each.board.inputs]
    # A voltage must have come to rest, which takes more looks than one where they are quick.
    sure = [
        each.look_s if each.board.analogue is None else max(each.look_s, AT_REST.total_seconds())
        for each in boards
        if each.board.inputs
    ]
    if not line.shared or not looks:
        return None
    read_backs = [each.reading_s(each.board.outputs) for each in boards if each.board.outputs]
    # Pressed just after a look: until the next one all boards are read, inputs and outputs; then a
    # second look; then its answer and the strike's command, which together are as long as a look.
    worst_s = max(sum(looks), INPUTS_S) + sum(read_backs) + max(sure) + max(looks)
    worst_s += HOST_S + (len(looks) + len(read_backs) + 2) * REQUEST_S
    # Another door's release is more urgent than a look: one of them, in so short a time.
    others = sum(each.board.outputs for each in boards) > 1
    beside_s = worst_s + (line.write_s + REQUEST_S if others else 0)
    if beside_s <= REX_S_MAX:
        return None
    most = f"{worst_s * 1000:.0f} ms"
    if others:
        most += f" ({beside_s * 1000:.0f} when another door on the line is released just then)"
    return (
        f"{len(boards)} boards at {line.speed} baud: an exit button on them is answered after "
        f"up to {most}, not {REX_S_MAX * 1000:.0f}. Set all to 115200 baud, or give the boards "
        "with buttons a line of their own"
    )


def _address(settings: ModbusRelaySettings) -> str:
    return str(settings.port) if settings.transport == "rtu" else f"{settings.host}:{settings.port}"


DRIVER = DriverSpec(
    name="modbus_relay",
    settings=ModbusRelaySettings,
    capabilities=frozenset({Capability.REPORTS_INPUTS, Capability.PULSES_OUTPUTS}),
    build=ModbusRelay,
    relay_class=relay_class,
    outputs=lambda settings: settings.board.outputs,
    inputs=lambda settings: settings.board.inputs,
    supervised=lambda settings: (
        None if settings.board.analogue is None else {loop.input for loop in settings.loops}
    ),
    address=_address,
    station=lambda settings: settings.unit,
    alike=lambda settings: {
        "transport": settings.transport,
        "baud_rate": settings.speed,
        "parity": settings.parity or "none",
        "stop_bits": settings.stop_bits or 1,
    },
    strain=strain,
    title="relay and input boards on Modbus, plain or with end-of-line resistors: "
    + ", ".join(PROFILES)
    + " and any other",
    transport="Modbus TCP, RTU on RS-485, RTU over TCP",
    tried=(
        Trial(Means.VECTORS, "frames of Waveshare's wiki and of V1.1b3"),
        Trial(Means.PEER, "libmodbus 3.1.6 as a board, on RTU and TCP"),
    ),
)
