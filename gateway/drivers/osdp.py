"""A reader on an OSDP 2.2 line (RS-485): cards, keypad, lamp and buzzer, inputs and outputs.

    [devices.street-reader]
    driver = "osdp"
    port = "/dev/serial/by-path/pci-0000:00:14.0-usb-0:1.4:1.0-port0"
    address = 0
    baud_rate = 9600
    formats = ["H10301"]            # which cards count, and as what: the first that fits; "uid" too
    inputs = 2                      # contact, request to exit: as many as you wire
    outputs = 1
    keys = "/var/lib/door-gateway/osdp-keys"

Several readers may name one port, each with its own address; they have one speed. Each reader has
a random key of its own, which `door-gateway osdp install NAME` gives it within ten minutes of an
installer's being there; without one it is not spoken to. Nothing that comes outside the encrypted
channel counts, and a reader whose channel is lost is offline.

libosdp runs a line's protocol in a process of its own (`osdp_worker.py`), which is killed when it
falls silent. An output is timed by the reader itself. A reader hangs on the unsafe side of its
door: whoever opens its case reaches its outputs, so a strike on one is for doors inside.
"""

import asyncio
import contextlib
import itertools
import os
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar, Final, Protocol, cast

import msgspec
import structlog

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
from gateway.decoding import decode_with
from gateway.domain.card_format import BITS_MAX, FORMATS, RAW_BITS_MIN, decode, raw_value
from gateway.domain.facts import (
    CredentialPresented,
    DeviceOnline,
    Fact,
    InputChanged,
    InstallWindowClosed,
    InstallWindowOpened,
    OutputReported,
    PowerChanged,
    TamperChanged,
    UnexpectedOutput,
)
from gateway.drivers.base import FactSink, Signal
from gateway.drivers.osdp_keys import KeyStore
from gateway.drivers.osdp_worker import PORT, TIMER_COUNT_MAX
from gateway.drivers.pin_entry import PinEntry, inter_digit_timeout_faults
from gateway.drivers.worker_process import WorkerLines, worker_process
from gateway.errors import (
    DeviceError,
    DeviceMisconfigured,
    DeviceUnavailable,
    StorageError,
    Undecodable,
)

log = structlog.get_logger()

WORKER: Final = Path(__file__).with_name("osdp_worker.py")

ADDRESS_MAX: Final = 126  # 5.5; 127 is everybody
POINTS_MAX: Final = 16
"""More inputs or outputs than any reader has: a slip in the config."""

GATHER_S: Final = 0.02
"""Readers of one line are started at the same moment: the line's process is started once."""
START_S_MAX: Final = 4.0
"""Eight exchanges at 9600 baud take half a second; readers that must be waited for share a line."""
SILENCE_S_MAX: Final = 2.0
"""The line's process says something every 0.4 s; silent for so long it hangs and is killed."""
LINE_BYTES_MAX: Final = 4096
CALL_S_MAX: Final = 2.0

UPKEEP_S: Final = 0.5
"""How often outputs are read back (2 Hz) and an installer's window is looked for."""
OVERDUE: Final = timedelta(milliseconds=700)
"""An output still energised so long after its pulse should have ended is put to rest."""

TIMER_UNIT: Final = timedelta(milliseconds=100)  # 6.10
PULSE_MAX: Final = TIMER_COUNT_MAX * TIMER_UNIT
"""What one command can ask for; a longer pulse is asked for again before half of it is over."""

OFF: Final = 0x01  # 6.10, table 16: permanently off, timer aborted
TIMED_ON: Final = 0x05  # on for a time, then as before

# 6.11, tables 18 to 20: the temporary state of LED 0, times in 100 ms.
BLACK, RED, GREEN, AMBER = 0, 1, 2, 3
SET_TEMPORARY: Final = 2
DEFAULT_TONE: Final = 2  # 6.12


class Pattern(msgspec.Struct, frozen=True):
    """What the lamp and the buzzer do for a signal; times in 100 ms."""

    on_color: int
    off_color: int
    on: int
    off: int
    lasts: int
    beep: int = 0
    gap: int = 0
    beeps: int = 0


PATTERNS: Final = {
    Signal.GRANTED: Pattern(GREEN, GREEN, 1, 0, 30, beep=1, gap=1, beeps=1),
    Signal.DENIED: Pattern(RED, RED, 1, 0, 20, beep=1, gap=1, beeps=3),
    Signal.PIN_WANTED: Pattern(AMBER, BLACK, 5, 5, 100),
    Signal.FAULT: Pattern(RED, BLACK, 2, 2, 50, beep=8, gap=1, beeps=1),
    Signal.HELD_OPEN: Pattern(AMBER, AMBER, 1, 0, 15, beep=5, gap=2, beeps=2),
}
"""A grant under duress is a grant like any other: there is no pattern to tell it by."""

UID: Final = "uid"
UID_BITS: Final = frozenset({32, 56, 80})
"""A reader set to UID mode sends the card's UID as it is: 4, 7 or 10 bytes (ISO/IEC 14443-3)."""


class OsdpSettings(DeviceSettings, frozen=True, kw_only=True):
    """[devices.NAME] of an OSDP reader."""

    BAUD_RATES: ClassVar = frozenset({9600, 19200, 38400, 57600, 115200, 230400})
    FORMATS: ClassVar = frozenset({UID, *FORMATS})

    port: str
    address: int
    formats: tuple[str, ...]
    baud_rate: int = 9600
    inputs: int = 0
    outputs: int = 0
    keys: str = "/var/lib/door-gateway/osdp-keys"
    inter_digit_timeout_s: float = 5.0

    def __post_init__(self) -> None:
        """Refuse what no such reader can be set to.

        Raises:
            ValueError: msgspec turns it into a fault with its path in the file.
        """
        refuse(self._faults())

    def _faults(self) -> Iterator[str]:
        if not PORT.fullmatch(self.port):
            yield "`port` must be the absolute path of a serial port"
        if not 0 <= self.address <= ADDRESS_MAX:
            yield f"`address` must be 0 to {ADDRESS_MAX}"
        if self.baud_rate not in self.BAUD_RATES:
            yield f"`baud_rate` must be one of {sorted(self.BAUD_RATES)}"
        for each in self.formats:
            if each not in self.FORMATS:
                yield (
                    f"`formats` has {each!r}; there are {UID!r} and what "
                    "`door-gateway card formats` lists"
                )
        for name, value in (("inputs", self.inputs), ("outputs", self.outputs)):
            if not 0 <= value <= POINTS_MAX:
                yield f"`{name}` must be 0 to {POINTS_MAX}"
        if not self.keys.startswith("/"):
            yield "`keys` must be the absolute path of a directory"
        yield from inter_digit_timeout_faults(self.inter_digit_timeout_s)


# --- What the line's process says -----------------------------------------------------------------


class _Said(msgspec.Struct, frozen=True, tag_field="say", forbid_unknown_fields=True):
    pass


class Ready(_Said, frozen=True, tag="ready"):
    """The line is open."""


class Alive(_Said, frozen=True, tag="alive"):
    """Still there."""


class Ended(_Said, frozen=True, tag="ended"):
    """Its last words."""

    why: str


class Done(_Said, frozen=True, tag="done"):
    """The reader has answered a command, or refused it."""

    id: int
    ok: bool


class _OfReader(_Said, frozen=True):
    address: int


class Up(_OfReader, frozen=True, tag="up"):
    """The reader is online, in a secure channel with its own key; what it has."""

    ns: int
    inputs: int
    outputs: int
    leds: int
    buzzers: int
    vendor: int
    model: int
    serial: int


class Down(_OfReader, frozen=True, tag="down"):
    """The reader is not, or no longer, online."""

    why: str


class Card(_OfReader, frozen=True, tag="card"):
    """A card's bits, a string of 0 and 1."""

    ns: int
    bits: str

    def __repr__(self) -> str:
        """Without the bits: a credential is never printed."""
        return f"Card(address={self.address}, bits_count={len(self.bits)})"


class Formatted(_OfReader, frozen=True, tag="formatted"):
    """A card came in characters (osdp_FMT), which libosdp throws away."""

    ns: int


class Keys(_OfReader, frozen=True, tag="keys"):
    """Keys of the keypad, in hexadecimal."""

    ns: int
    keys: str

    def __repr__(self) -> str:
        """Without the keys: they are somebody's PIN."""
        return f"Keys(address={self.address})"


class Local(_OfReader, frozen=True, tag="local"):
    """The reader's case is open (1) or not; its supply has failed (1) or not (7.6)."""

    ns: int
    states: tuple[int, ...]


class Inputs(_OfReader, frozen=True, tag="inputs"):
    """Every input: active (1) or not (7.7)."""

    ns: int
    states: tuple[int, ...]


class Outputs(_OfReader, frozen=True, tag="outputs"):
    """Every output: energised (1) or at rest (7.8)."""

    ns: int
    states: tuple[int, ...]


class Remote(_OfReader, frozen=True, tag="remote"):
    """A reader head that is connected to the reader: there (0), gone (1) or opened (2) (7.9)."""

    ns: int
    states: tuple[int, ...]


_Message = (
    Ready
    | Alive
    | Ended
    | Done
    | Up
    | Down
    | Card
    | Formatted
    | Keys
    | Local
    | Inputs
    | Outputs
    | Remote
)
_DECODER: Final = msgspec.json.Decoder(_Message)


class WorkerProtocol:
    """The bytes of a line's process in, what they say out."""

    def __init__(self, port: str) -> None:
        self._lines = WorkerLines(port, LINE_BYTES_MAX)

    def receive(self, data: bytes) -> Iterator[_Message]:
        """Take what it wrote; yield what its complete lines say.

        Raises:
            DeviceUnavailable: it wrote something else.
        """
        for line in self._lines.receive(data):
            try:
                message = decode_with(_DECODER, line)
            except Undecodable:
                raise self._lines.junk(line) from None
            yield message


# --- One reader, sans I/O -------------------------------------------------------------------------


class CardRefused(msgspec.Struct, frozen=True):
    """Too few or too many bits for a card."""

    bits_count: int


class CardUnread(msgspec.Struct, frozen=True):
    """A card whose data libosdp throws away."""


class EntryRefused(msgspec.Struct, frozen=True):
    """What was entered can't be a PIN."""


Refusal = CardRefused | CardUnread | EntryRefused
"""Nobody above hears of it, so the person is told from here."""


class OsdpProtocol:
    """What a reader's line says in, facts out."""

    def __init__(self, device_id: str, settings: OsdpSettings) -> None:
        self.device_id = device_id
        self._settings = settings
        timeout = timedelta(seconds=settings.inter_digit_timeout_s)
        self.entry = PinEntry(device_id, timeout)
        self._inputs: dict[int, bool] = {}
        self.energised: dict[int, bool] = {}
        self._tamper: bool | None = None
        self._power_failed: bool | None = None
        self._pulsed_until: dict[int, timedelta] = {}
        self._renew_at: dict[int, timedelta] = {}

    def receive(self, message: _Message) -> list[Fact | Refusal]:
        """Return the facts in a message; states that are known already are none.

        Raises:
            DeviceUnavailable: it means nothing.
        """
        try:
            return self._facts(message)
        except (ValueError, OverflowError):
            # Not the bytes themselves: part of them may be a credential.
            kind = type(message).__name__.lower()
            raise DeviceUnavailable(
                f"{self.device_id}: its line's process told of a {kind} that means nothing"
            ) from None

    def _facts(self, message: _Message) -> list[Fact | Refusal]:
        match message:
            case Card(bits=bits) if bits.strip("01"):
                raise ValueError("bits are 0 and 1")
            case Card(ns=ns, bits=bits):
                return [self._card(bits, _at(ns))]
            case Formatted():
                return [CardUnread()]
            case Keys(ns=ns, keys=keys):
                # 7.12: digits in ASCII, 0x7F for `*` and 0x0D for `#`.
                typed = bytes.fromhex(keys).replace(b"\x7f", b"*").replace(b"\x0d", b"#")
                pins = self.entry.receive(typed, _at(ns))
                return [*pins, *([EntryRefused()] if self.entry.take_refused() else [])]
            case Inputs(ns=ns, states=states):
                return [*self._changed_inputs(states, _at(ns))]
            case Outputs(ns=ns, states=states):
                return [*self._outputs_read(states, _at(ns))]
            case Local(ns=ns, states=(tamper, power)):
                return [*self._local(tamper == 1, power == 1, _at(ns))]
        return []

    def _card(self, bits: str, at: timedelta) -> Fact | CardRefused:
        for name in self._settings.formats if bits else ():
            if name == UID:
                if len(bits) in UID_BITS:
                    value = f"{int(bits, 2):0{len(bits) // 4}X}"
                    return CredentialPresented(self.device_id, "uid", value, at)
            elif cards := decode(bits, (FORMATS[name],)):
                return CredentialPresented(self.device_id, "wiegand", cards[0].value, at)
        if RAW_BITS_MIN <= len(bits) <= BITS_MAX:
            # Denied like any unknown card: the person gets an answer, the installer the length.
            return CredentialPresented(self.device_id, "wiegand", raw_value(bits), at)
        return CardRefused(len(bits))

    def _changed_inputs(self, states: tuple[int, ...], at: timedelta) -> Iterator[Fact]:
        for number, state in enumerate(states[: self._settings.inputs], 1):
            active = state == 1
            if self._inputs.get(number) != active:
                self._inputs[number] = active
                yield InputChanged(self.device_id, number, active, at)

    def _outputs_read(self, states: tuple[int, ...], at: timedelta) -> Iterator[Fact]:
        for number, state in enumerate(states[: self._settings.outputs], 1):
            energised = state == 1
            if self.energised.get(number) != energised:
                self.energised[number] = energised
                yield OutputReported(self.device_id, number, energised, at)

    def _local(self, tamper: bool, power_failed: bool, at: timedelta) -> Iterator[Fact]:
        if self._tamper != tamper:
            self._tamper = tamper
            yield TamperChanged(self.device_id, tamper, at)
        if self._power_failed != power_failed:
            self._power_failed = power_failed
            yield PowerChanged(self.device_id, power_failed, at)

    # --- Outputs ----------------------------------------------------------------------------------

    def check_output(self, output: int) -> None:
        """Raise DeviceMisconfigured unless the reader has this output."""
        if not 1 <= output <= self._settings.outputs:
            raise DeviceMisconfigured(
                f"{self.device_id}: has outputs 1 to {self._settings.outputs}, not {output}"
            )

    def pulse(self, output: int, duration: timedelta, now: timedelta) -> dict[str, int]:
        """What to tell the reader so that its output is on until `duration` from `now`.

        Raises:
            DeviceMisconfigured: there is no such output, or no time to be on.
        """
        self.check_output(output)
        if duration < TIMER_UNIT:
            raise DeviceMisconfigured(f"{self.device_id}: a pulse lasts at least {TIMER_UNIT}")
        self._pulsed_until[output] = now + duration
        return self._timed(output, now)

    def _timed(self, output: int, now: timedelta) -> dict[str, int]:
        left = self._pulsed_until[output] - now
        count = min(left // TIMER_UNIT, TIMER_COUNT_MAX)
        if left > PULSE_MAX:
            self._renew_at[output] = now + PULSE_MAX / 2
        else:
            self._renew_at.pop(output, None)
        return {"output_no": output - 1, "control_code": TIMED_ON, "timer_count": int(count)}

    def renewals(self, now: timedelta) -> list[dict[str, int]]:
        """What to tell the reader now so that pulses longer than its timer go on."""
        due = [output for output, at in self._renew_at.items() if now >= at]
        return [self._timed(output, now) for output in due]

    def rest(self, output: int) -> dict[str, int]:
        """What to tell the reader so that its output is off. Raises DeviceMisconfigured."""
        self.check_output(output)
        self._pulsed_until.pop(output, None)
        self._renew_at.pop(output, None)
        return {"output_no": output - 1, "control_code": OFF, "timer_count": 0}

    def unexpected(self, now: timedelta) -> list[int]:
        """The outputs that are energised though nobody has pulsed them, or not for so long."""
        return [
            output
            for output, energised in self.energised.items()
            if energised and now - self._pulsed_until.get(output, timedelta()) > OVERDUE
        ]


def _at(nanoseconds: int) -> timedelta:
    return timedelta(microseconds=nanoseconds // 1000)


# --- One line, and the process that drives it -----------------------------------------------------


class _Member(Protocol):
    """A reader that is attached to a line."""

    address: int
    key: bytes
    install_s: float | None
    """For how many seconds the default key may be used to set `key`; None: not at all."""

    def take(self, message: _Message) -> None:
        """Hear what the line says of this reader. Raises DeviceUnavailable for nonsense."""

    def lose(self, why: str) -> None:
        """The line is gone, or the reader on it."""


class _Line:
    """A serial port and its process, for as long as a reader is attached to it."""

    _open: ClassVar[dict[str, "_Line"]] = {}

    def __init__(self, port: str, baud_rate: int) -> None:
        self._port = port
        self._baud_rate = baud_rate
        self._members: dict[int, _Member] = {}
        self._known: dict[int, tuple[bytes, bool]] = {}
        self._changed = asyncio.Event()
        self._worker: asyncio.subprocess.Process | None = None
        self._numbers = itertools.count(1)
        self._calls: dict[int, asyncio.Future[bool]] = {}
        self._task: asyncio.Task[None] | None = None

    @classmethod
    @asynccontextmanager
    async def attached(cls, port: str, baud_rate: int, member: _Member) -> AsyncIterator["_Line"]:
        """The line of `port`, with `member` on it for the length of the block."""
        line = cls._open.get(port)
        if line is None:
            line = cls._open[port] = cls(port, baud_rate)
        if line._baud_rate != baud_rate:
            raise DeviceMisconfigured(
                f"{port}: its readers must have one speed: {line._baud_rate} or {baud_rate} baud"
            )
        if member.address in line._members:
            raise DeviceMisconfigured(f"{port}: two readers have address {member.address}")
        line._members[member.address] = member
        try:
            line._attach(member)
            yield line
        finally:
            del line._members[member.address]
            await line._detach(member)

    def _attach(self, member: _Member) -> None:
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._serve(), name=f"line {self._port}")
        if self._known.get(member.address) == (member.key, member.install_s is not None):
            self.order({"do": "enable", "address": member.address})
        else:
            self._changed.set()

    async def _detach(self, member: _Member) -> None:
        if self._members:
            self.order({"do": "disable", "address": member.address})
            return
        # One that comes now gets a line of its own, and tries again if the port is not free yet.
        del self._open[self._port]
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))

    async def _serve(self) -> None:
        why = "is served no longer"
        try:
            await self._serve_members()
        except Exception as error:
            why = f"failed: {type(error).__name__}"
            log.exception("line_failed", port=self._port)
        finally:
            # Whatever ended it, no reader is left that counts as online and that nobody reads.
            self._known = {}
            self._lose(why)

    def _lose(self, why: str) -> None:
        for number in tuple(self._calls):
            self._finish(number, ok=False)
        for each in tuple(self._members.values()):
            each.lose(f"{self._port} {why}")

    async def _serve_members(self) -> None:
        while True:
            await asyncio.sleep(GATHER_S)
            self._changed.clear()
            members = list(self._members.values())
            self._known = {each.address: (each.key, each.install_s is not None) for each in members}
            why = await self._run(members)
            self._known = {}
            if why is None:
                continue  # another reader has come: the process starts again, with its key
            self._lose(why)
            await self._changed.wait()

    async def _run(self, members: list[_Member]) -> str | None:
        """Why the process ended; None if it must start again for another set of readers."""
        if not os.path.exists(self._port):  # noqa: ASYNC240, PTH110  # no I/O to wait for in /dev
            return "is not there"
        async with worker_process(WORKER) as worker:
            self._worker = worker
            listening = asyncio.create_task(self._listen(worker, members))
            changed = asyncio.create_task(self._changed.wait())
            try:
                await asyncio.wait((listening, changed), return_when=asyncio.FIRST_COMPLETED)
                return listening.result() if listening.done() else None
            finally:
                self._worker = None
                for task in (listening, changed):
                    task.cancel()
                await asyncio.wait((listening, changed))

    async def _listen(self, worker: asyncio.subprocess.Process, members: list[_Member]) -> str:
        setup = {
            "port": self._port,
            "baud_rate": self._baud_rate,
            "readers": [
                {"address": each.address, "key": each.key.hex(), "install_s": each.install_s}
                for each in members
            ],
        }
        self.order(setup)
        protocol = WorkerProtocol(self._port)
        lines = cast("asyncio.StreamReader", worker.stdout)
        try:
            while True:
                async with asyncio.timeout(SILENCE_S_MAX):
                    data = await lines.read(65_536)
                if not data:
                    return "its process ended"
                for message in protocol.receive(data):
                    match message:
                        case Ended(why=why):
                            return f"failed: {why}"
                        case Done(id=number, ok=ok):
                            self._finish(number, ok=ok)
                        case Ready() | Alive():
                            pass
                        case _:
                            member = self._members.get(message.address)
                            if member is not None:
                                member.take(message)
        except TimeoutError:
            return f"its process is silent since {SILENCE_S_MAX:g} s"
        except DeviceUnavailable as error:
            return str(error)

    # --- Commands ---------------------------------------------------------------------------------

    def order(self, command: dict[str, object]) -> None:
        """Write to the process; what it can't take is answered by its end."""
        if self._worker is not None and self._worker.stdin is not None:
            self._worker.stdin.write(msgspec.json.encode(command) + b"\n")

    async def ask(self, address: int, what: str, fields: dict[str, object]) -> bool:
        """Submit a command; whether the reader carried it out."""
        number = next(self._numbers)
        call = self._calls[number] = asyncio.get_running_loop().create_future()
        try:
            self.order(
                {"do": "submit", "id": number, "address": address, "what": what, "fields": fields}
            )
            async with asyncio.timeout(CALL_S_MAX):
                await call
            return bool(call.result())
        except TimeoutError:
            return False
        finally:
            del self._calls[number]

    def _finish(self, number: int, *, ok: bool) -> None:
        call = self._calls.get(number)
        if call is not None and not call.done():
            call.set_result(ok)


# --- The driver -----------------------------------------------------------------------------------


class _Session:
    """A reader's time on its line; a `_Member` of it."""

    def __init__(
        self, protocol: OsdpProtocol, address: int, key: bytes, *, install_s: float | None = None
    ) -> None:
        self.address = address
        self.key = key
        self.install_s = install_s
        self._protocol = protocol
        self._emit: FactSink | None = None
        self.refused = asyncio.Event()
        """Something was refused that the person before the reader waits for an answer to."""
        self._early: list[Fact] = []
        self.last_why = ""
        loop = asyncio.get_running_loop()
        self.up: asyncio.Future[Up] = loop.create_future()
        self.lost: asyncio.Future[str] = loop.create_future()

    def take(self, message: _Message) -> None:
        """See `_Member.take`."""
        match message:
            case Up():
                if not self.up.done():
                    self.up.set_result(message)
            case Down(why=why):
                self.last_why = f"address {self.address} {why}"
                if self.install_s is None:  # else there the line tries again by itself
                    self.lose(self.last_why)
            case Card() | Formatted() | Keys() if self._emit is None:
                pass  # before it was online: nobody was there to decide
            case _:
                self._tell(message)

    def lose(self, why: str) -> None:
        """See `_Member.lose`."""
        if not self.lost.done():
            self.lost.set_result(why)

    def begin(self, emit: FactSink, online: DeviceOnline) -> None:
        """From now on facts go to `emit`: first that it is online, then the states known so far."""
        self._emit = emit
        emit(online)
        early, self._early = self._early, []
        for fact in early:
            emit(fact)

    def _tell(self, message: _Message) -> None:
        device = self._protocol.device_id
        for said in self._protocol.receive(message):
            match said:
                case CardRefused(bits_count=count):
                    log.warning("card_of_no_length", device=device, bits=count)
                    self.refused.set()
                case CardUnread():
                    log.warning("card_formatted_set_the_reader_to_raw", device=device)
                    self.refused.set()
                case EntryRefused():
                    self.refused.set()
                case fact:
                    if self._emit is None:
                        self._early.append(fact)
                    else:
                        self._emit(fact)


class Osdp:
    """One reader on a line that it may share."""

    def __init__(self, device_id: str, settings: OsdpSettings, clock: Clock) -> None:
        self.device_id = device_id
        self._settings = settings
        self._clock = clock
        self._store = KeyStore(Path(settings.keys))
        self._protocol = OsdpProtocol(device_id, settings)
        self._online: tuple[_Line, Up] | None = None
        self._tells_local = True
        self._started = False
        self._window_told = False

    async def run(self, emit: FactSink) -> None:
        """See `Driver.run`."""
        settings = self._settings
        key = await self._key(emit)
        self._protocol = OsdpProtocol(self.device_id, settings)
        session = _Session(self._protocol, settings.address, key)
        async with _Line.attached(settings.port, settings.baud_rate, session) as line:
            denying: asyncio.Task[None] | None = None
            try:
                up = await self._wait_for(session, timedelta(seconds=START_S_MAX))
                self._check(up)
                await self._to_rest(line)
                if self._tells_local and not await self._status(line, "local"):
                    # It refuses, which libosdp takes for its end: not asked again.
                    self._tells_local = False
                    log.warning("reader_tells_no_tamper", device=self.device_id)
                    raise self._unavailable("doesn't say whether its case is open")
                if settings.inputs and not await self._status(line, "inputs"):
                    raise self._unavailable("doesn't tell its inputs")
                if session.lost.done():
                    raise self._unavailable(session.lost.result())
                session.begin(emit, DeviceOnline(self.device_id, self._clock.monotonic()))
                self._online = line, up
                denying = asyncio.create_task(self._deny(session))
                while not session.lost.done():
                    await asyncio.wait({session.lost}, timeout=UPKEEP_S)
                    if not session.lost.done():
                        await self._look_after(line, emit)
                raise self._unavailable(session.lost.result())
            except DeviceUnavailable:
                # What failed first may be only what follows from it.
                if session.lost.done():
                    raise self._unavailable(session.lost.result()) from None
                raise
            finally:
                if denying is not None:
                    denying.cancel()
                    await asyncio.wait({denying})
                self._online = None
                self._protocol.entry.forget()

    async def _deny(self, session: _Session) -> None:
        while True:
            await session.refused.wait()
            session.refused.clear()
            with contextlib.suppress(DeviceError):  # its loss is told by itself
                await self.indicate(Signal.DENIED)

    async def _wait_for(self, session: _Session, limit: timedelta) -> Up:
        either: set[asyncio.Future[Any]] = {session.up, session.lost}
        await asyncio.wait(
            either, timeout=limit.total_seconds(), return_when=asyncio.FIRST_COMPLETED
        )
        if session.lost.done():
            raise self._unavailable(session.lost.result())
        if not session.up.done():
            raise self._unavailable(session.last_why or "doesn't come online")
        return session.up.result()

    def _unavailable(self, why: str) -> DeviceUnavailable:
        return DeviceUnavailable(f"{self.device_id}: {why}")

    def _check(self, up: Up) -> None:
        for name, wired, there in (
            ("inputs", self._settings.inputs, up.inputs),
            ("outputs", self._settings.outputs, up.outputs),
        ):
            if wired > there:
                raise DeviceMisconfigured(
                    f"{self.device_id}: the reader says it has {there} {name}, not {wired}"
                )

    # --- Keys -------------------------------------------------------------------------------------

    async def _key(self, emit: FactSink) -> bytes:
        try:
            self._store.make()
            if not self._started:
                # Left over from before a restart or a power cut: monotonic time may be another's,
                # and the installer has gone home.
                if self._store.close_window(self.device_id):
                    self._tell_closed(emit, key_set=False)
                self._started = True
            left = self._store.window(self.device_id, self._clock.monotonic())
            if left is not None:
                await self._install(left, emit)
            elif self._window_told:
                self._tell_closed(emit, key_set=False)
            key = self._store.key(self.device_id)
        except StorageError as error:
            raise DeviceMisconfigured(f"{self.device_id}: {error}") from error
        if key is None:
            raise DeviceMisconfigured(
                f"{self.device_id}: has no key yet: door-gateway osdp install {self.device_id}"
            )
        return key

    def _tell_closed(self, emit: FactSink, *, key_set: bool) -> None:
        self._window_told = False
        emit(InstallWindowClosed(self.device_id, key_set, self._clock.monotonic()))

    async def _install(self, left: timedelta, emit: FactSink) -> None:
        """Give the reader a key of its own while the window is open.

        Raises:
            DeviceUnavailable: the reader didn't take it in time.
            StorageError: the key can't be kept; then it isn't sent either.
        """
        settings = self._settings
        key = self._store.pending(self.device_id)
        if not self._window_told:
            self._window_told = True
            emit(InstallWindowOpened(self.device_id, left, self._clock.monotonic()))
        session = _Session(self._protocol, settings.address, key, install_s=left.total_seconds())
        try:
            async with _Line.attached(settings.port, settings.baud_rate, session):
                await self._wait_for(session, left)
            self._store.commit(self.device_id)
            self._store.close_window(self.device_id)
            self._tell_closed(emit, key_set=True)
        finally:
            if self._store.window(self.device_id, self._clock.monotonic()) is None:
                self._store.close_window(self.device_id)
                if self._window_told:
                    self._tell_closed(emit, key_set=False)

    # --- Outputs ----------------------------------------------------------------------------------

    async def _to_rest(self, line: _Line) -> None:
        """Put every output to rest before anybody may open a door."""
        if not self._settings.outputs:
            return
        for output in range(1, self._settings.outputs + 1):
            await self._control(line, self._protocol.rest(output))
        await self._read_outputs(line)
        if any(self._protocol.energised.values()):
            raise self._unavailable("an output doesn't go to rest")

    async def _status(self, line: _Line, report: str) -> bool:
        return await line.ask(self._settings.address, "status", {"report": report})

    async def _control(self, line: _Line, fields: dict[str, int]) -> None:
        if not await line.ask(self._settings.address, "output", {**fields}):
            raise self._unavailable(f"output {fields['output_no'] + 1} was not confirmed")

    async def _read_outputs(self, line: _Line) -> None:
        if not await self._status(line, "outputs"):
            raise self._unavailable("its outputs can't be read back")

    async def _look_after(self, line: _Line, emit: FactSink) -> None:
        protocol, now = self._protocol, self._clock.monotonic()
        protocol.entry.expire(now)
        if self._store.window(self.device_id, now) is not None:
            raise self._unavailable("an installer gives it a new key")
        if not self._settings.outputs:
            return
        for fields in protocol.renewals(now):
            await self._control(line, fields)
        await self._read_outputs(line)
        for output in protocol.unexpected(self._clock.monotonic()):
            await self._control(line, protocol.rest(output))
            await self._read_outputs(line)
            if not protocol.energised[output]:
                emit(UnexpectedOutput(self.device_id, output, self._clock.monotonic()))

    async def pulse(self, output: int, duration: timedelta) -> None:
        """See `PulsesOutput.pulse`."""
        line, _ = self._opened()
        protocol, started = self._protocol, self._clock.monotonic()
        await self._control(line, protocol.pulse(output, duration, started))
        await self._read_outputs(line)
        spent = self._clock.monotonic() - started
        if not protocol.energised.get(output) and spent < duration - TIMER_UNIT:
            raise DeviceError(
                f"{self.device_id}: output {output} took a pulse but reads back at rest"
            )

    async def rest(self, output: int) -> None:
        """See `PulsesOutput.rest`."""
        line, _ = self._opened()
        await self._control(line, self._protocol.rest(output))
        await self._read_outputs(line)
        if self._protocol.energised.get(output):
            raise DeviceError(f"{self.device_id}: output {output} was released but stays energised")

    # --- Lamp and buzzer --------------------------------------------------------------------------

    async def indicate(self, signal: Signal) -> None:
        """See `Indicates.indicate`."""
        line, up = self._opened()
        if signal is Signal.PIN_WANTED:
            # Digits from before the card belong to no PIN; those pressed from now on do.
            self._protocol.entry.forget()
        asked = [
            line.ask(self._settings.address, what, fields)
            for what, there, fields in (
                ("led", up.leds, _led(PATTERNS[signal])),
                ("buzzer", up.buzzers and PATTERNS[signal].beeps, _buzzer(PATTERNS[signal])),
            )
            if there
        ]
        if not all(await asyncio.gather(*asked)):
            raise self._unavailable("didn't show a signal")

    def _opened(self) -> tuple[_Line, Up]:
        if self._online is None:
            raise self._unavailable("is not online")
        return self._online


def _led(pattern: Pattern) -> dict[str, object]:
    return {
        "reader": 0,
        "led_number": 0,
        "temporary": True,
        "control_code": SET_TEMPORARY,
        "on_color": pattern.on_color,
        "off_color": pattern.off_color,
        "on_count": pattern.on,
        "off_count": pattern.off,
        "timer_count": pattern.lasts,
    }


def _buzzer(pattern: Pattern) -> dict[str, object]:
    return {
        "reader": 0,
        "control_code": DEFAULT_TONE,
        "on_count": pattern.beep,
        "off_count": pattern.gap,
        "rep_count": pattern.beeps,
    }


EXCHANGE_BYTES: Final = 29
CARD_BYTES: Final = 45
"""A poll and its answer in a secure channel, with nothing to tell (5.5, D.1.4) and with a card."""
POLL_S: Final = 0.0505
"""libosdp asks a reader again so long after its last answer (OSDP_PD_POLL_TIMEOUT_MS)."""
REST_S: Final = 0.02
"""The rest of a tap: decision, commit, strike."""
TAP_S_MAX: Final = 0.15
"""From the card to the strike (docs/promises.md P3)."""


def strain(readers: Sequence[OsdpSettings]) -> str | None:
    """Whether a line is too slow for so many readers, each of which must be asked in turn."""
    byte_s = 10 / readers[0].baud_rate
    turn_s = max(POLL_S, (len(readers) - 1) * EXCHANGE_BYTES * byte_s)
    worst_s = turn_s + CARD_BYTES * byte_s + REST_S
    if worst_s <= TAP_S_MAX:
        return None
    return (
        f"{len(readers)} readers at {readers[0].baud_rate} baud: a card is answered after up to "
        f"{worst_s * 1000:.0f} ms, not {TAP_S_MAX * 1000:.0f}. Set all to a higher speed with "
        "their maker's tool, or give some a line of their own"
    )


DRIVER = DriverSpec(
    name="osdp",
    settings=OsdpSettings,
    capabilities=frozenset(
        {
            Capability.READS_CREDENTIALS,
            Capability.READS_PINS,
            Capability.REPORTS_INPUTS,
            Capability.PULSES_OUTPUTS,
            Capability.INDICATES,
        }
    ),
    build=Osdp,
    relay_class=lambda _settings: RelayClass.R2,
    outputs=lambda settings: settings.outputs,
    inputs=lambda settings: settings.inputs,
    address=lambda settings: settings.port,
    station=lambda settings: settings.address,
    alike=lambda settings: {"baud_rate": settings.baud_rate},
    strain=strain,
    title="OSDP 2.2 readers and keypads, with their inputs and outputs, through libosdp",
    transport="RS-485 on a serial port",
    tried=(
        Trial(Means.VECTORS, "frames and secure channel values of OSDP's Annex E"),
        Trial(Means.PEER, "libosdp 3.2.9's peripheral as a reader"),
    ),
)
