"""A relay board with timed pulses on Modbus TCP, as Waveshare's Modbus POE ETH Relay and alike.

`Board` is pure: a request and the time go in, a response comes out, and outputs switch by the
board's own timer. `RelayBoard` puts it on TCP. Sources: MODBUS Application Protocol Specification
V1.1b3 ("MAP"), MODBUS Messaging on TCP/IP Implementation Guide V1.0b ("MTG"), and the command
tables of the Waveshare wiki, "Modbus POE ETH Relay" and, for measured inputs, "Modbus RTU Analog
Input 8CH".
"""

import asyncio
import random
import time
from collections.abc import Callable
from dataclasses import dataclass

from hwsim.loops import Loop, SupplyTap
from hwsim.observations import HostClosed, HostOpened, Observations, Output

# MAP 7: exception codes.
ILLEGAL_FUNCTION = 0x01
ILLEGAL_DATA_ADDRESS = 0x02
ILLEGAL_DATA_VALUE = 0x03

# Waveshare wiki: addresses of function 05.
_ALL_OUTPUTS = 0x00FF
_FLASH_ON = 0x0200
_FLASH_OFF = 0x0400
_FLASH_UNIT_NS = 100_000_000
_FLASH_VALUE_MAX = 0x7FFF
_ON, _OFF, _FLIP = 0xFF00, 0x0000, 0x5500
# Waveshare wiki: holding registers.
_DEVICE_ADDRESS = 0x4000
_VERSION = 0x8000
_VERSION_VALUE = 200  # V2.00
_INPUT_MODES = 0x1000  # Analog Input 8CH: 0 is volts, in mV

# MAP 6.1, 6.2 and 6.11: the most bits in one request.
_READ_BITS_MAX = 2000
_WRITE_BITS_MAX = 0x07B0
# MTG 3.1.3: the header, and the largest length field (unit identifier and 253 bytes of PDU).
_HEADER_BYTES = 7
_LENGTH_MAX = 254
# MTG 4.4.1.2: unit identifiers of a device that is addressed by its IP address.
_ANY_UNIT = {0x00, 0xFF}
# MTG 4.2 asks for a limit; boards of this class take a handful.
CONNECTIONS_MAX = 8


class ModbusExceptionError(Exception):
    """The request is answered by an exception response with this code (MAP 7)."""

    def __init__(self, code: int) -> None:
        super().__init__(f"exception {code:02X}")
        self.code = code


@dataclass(frozen=True, slots=True)
class Edge:
    """A relay's contact switched. Outputs are numbered from 1; the time is the board's own."""

    at_ns: int
    output: int
    on: bool


def _word(data: bytes | bytearray, at: int) -> int:
    return int.from_bytes(data[at : at + 2], "big")


def _packed(bits: list[bool]) -> bytes:
    """MAP 6.1: the first bit is the least significant one of the first byte."""
    number = sum(1 << place for place, bit in enumerate(bits) if bit)
    return number.to_bytes((len(bits) + 7) // 8, "little")


class Board:
    """The board's processor, outputs, inputs and timers. All times are monotonic nanoseconds."""

    def __init__(
        self, outputs: int = 8, inputs: int = 8, unit: int = 1, watchdog_s: float | None = None
    ) -> None:
        """A board at rest.

        Args:
            outputs: How many relays it has.
            inputs: How many digital inputs.
            unit: Its Modbus address.
            watchdog_s: Drop all outputs when no request came for so long; None: it has no such
                watchdog.
        """
        self.unit = unit
        self.inputs = [False] * inputs
        self.measured: list[Loop | SupplyTap | None] = []
        """What hangs at each input of a board that measures them; nothing on one that doesn't."""
        self.full_scale_volts = 10.0
        self.input_modes = [0] * inputs
        self.coils = [False] * outputs
        self._contacts = [False] * outputs
        self._welded: set[int] = set()
        self._stuck: set[int] = set()
        self._until: dict[int, tuple[int, bool]] = {}
        self._watchdog_ns = None if watchdog_s is None else round(watchdog_s * 1e9)
        self._heard_ns = 0
        self._edges: list[Edge] = []

    def take_edges(self) -> list[Edge]:
        """The edges since the last call, in order of time."""
        edges, self._edges = self._edges, []
        return edges

    def power_cycle(self, now_ns: int) -> None:
        """Power fails: coils, timers and relays drop to rest."""
        self.advance(now_ns)
        self._drop_outputs(now_ns)

    def weld(self, output: int, now_ns: int) -> None:
        """Weld the contact of an output, counted from 1, closed; the coil does not know."""
        self.advance(now_ns)
        self._welded.add(self._channel(output))
        self._move(self._channel(output), now_ns)

    def unweld(self, output: int, now_ns: int) -> None:
        """Repair the contact of an output, counted from 1."""
        self.advance(now_ns)
        self._welded.discard(self._channel(output))
        self._move(self._channel(output), now_ns)

    def stick(self, output: int) -> None:
        """Let the driver of an output, counted from 1, fail shorted: its coil never goes to rest
        again, and reads back so.
        """
        self._stuck.add(self._channel(output))

    def unstick(self, output: int) -> None:
        """Repair it; the coil is at rest when it is told so the next time."""
        self._stuck.discard(self._channel(output))

    def _channel(self, output: int) -> int:
        if not 1 <= output <= len(self.coils):
            raise ValueError(f"the board has outputs 1 to {len(self.coils)}, not {output}")
        return output - 1

    # --- time -------------------------------------------------------------------------------

    @property
    def next_ns(self) -> int | None:
        """When `advance` has something to do next."""
        due = [at_ns for at_ns, _ in self._until.values()]
        if self._watchdog_ns is not None and any(self.coils):
            due.append(self._heard_ns + self._watchdog_ns)
        return min(due, default=None)

    def advance(self, now_ns: int) -> None:
        """Let time pass up to now: outputs switch at the instant at which they were due."""
        while (due_ns := self.next_ns) is not None and due_ns <= now_ns:
            timed = [channel for channel, (at_ns, _) in self._until.items() if at_ns == due_ns]
            if not timed:
                self._drop_outputs(due_ns)  # the communication watchdog ran out
                continue
            for channel in timed:
                _, on = self._until.pop(channel)
                self._switch(channel, on=on, at_ns=due_ns)

    def _drop_outputs(self, at_ns: int) -> None:
        self._until.clear()
        for channel in range(len(self.coils)):
            self._switch(channel, on=False, at_ns=at_ns)

    def _switch(self, channel: int, *, on: bool, at_ns: int) -> None:
        self.coils[channel] = on or (channel in self._stuck and self.coils[channel])
        self._move(channel, at_ns)

    def _move(self, channel: int, at_ns: int) -> None:
        on = self.coils[channel] or channel in self._welded
        if self._contacts[channel] != on:
            self._contacts[channel] = on
            self._edges.append(Edge(at_ns, channel + 1, on))

    # --- requests ---------------------------------------------------------------------------

    def answers_to(self, unit: int) -> bool:
        """Whether a request with this unit identifier is for this board."""
        return unit == self.unit or unit in _ANY_UNIT

    def request(self, pdu: bytes, now_ns: int) -> bytes:
        """Carry out one request PDU and return the response PDU (MAP 4.1)."""
        self.advance(now_ns)
        self._heard_ns = now_ns
        try:
            return pdu[:1] + self._function(pdu[0], pdu[1:], now_ns)
        except ModbusExceptionError as refused:
            return bytes([pdu[0] | 0x80, refused.code])

    def _function(self, code: int, data: bytes, now_ns: int) -> bytes:
        match code:
            case 0x01:
                return self._read_bits(self.coils, data)
            case 0x02:
                return self._read_bits(self.inputs, data)
            case 0x03:
                return self._read_registers(data)
            case 0x04 if self.measured:
                return self._read_measured(data)
            case 0x05:
                return self._write_coil(data, now_ns)
            case 0x06:
                return self._write_register(data)
            case 0x0F:
                return self._write_coils(data, now_ns)
            case 0x10:
                return self._write_registers(data)
        raise ModbusExceptionError(ILLEGAL_FUNCTION)

    def _read_bits(self, bits: list[bool], data: bytes) -> bytes:
        """MAP 6.1 and 6.2."""
        self._expect(len(data) == 4 and 1 <= _word(data, 2) <= _READ_BITS_MAX)
        start, count = _word(data, 0), _word(data, 2)
        self._expect(start + count <= len(bits), ILLEGAL_DATA_ADDRESS)
        packed = _packed(bits[start : start + count])
        return bytes([len(packed)]) + packed

    def _read_registers(self, data: bytes) -> bytes:
        """MAP 6.3."""
        self._expect(len(data) == 4 and 1 <= _word(data, 2) <= 125)
        held = {_DEVICE_ADDRESS: self.unit, _VERSION: _VERSION_VALUE}
        if self.measured:
            held |= {_INPUT_MODES + channel: mode for channel, mode in enumerate(self.input_modes)}
        asked = range(_word(data, 0), _word(data, 0) + _word(data, 2))
        self._expect(all(each in held for each in asked), ILLEGAL_DATA_ADDRESS)
        return self._words([held[each] for each in asked])

    def _read_measured(self, data: bytes) -> bytes:
        """MAP 6.4; Waveshare wiki: 3x0000 and on, in millivolts."""
        self._expect(len(data) == 4 and 1 <= _word(data, 2) <= 125)
        start, count = _word(data, 0), _word(data, 2)
        self._expect(start + count <= len(self.measured), ILLEGAL_DATA_ADDRESS)
        return self._words([self._millivolts(each) for each in range(start, start + count)])

    def _millivolts(self, channel: int) -> int:
        wired = self.measured[channel]
        volts = 0.0 if wired is None else wired.volts
        return round(min(max(volts, 0.0), self.full_scale_volts) * 1000)

    @staticmethod
    def _words(words: list[int]) -> bytes:
        return bytes([2 * len(words)]) + b"".join(word.to_bytes(2, "big") for word in words)

    def _write_coil(self, data: bytes, now_ns: int) -> bytes:
        """MAP 6.5, with Waveshare's further values and addresses; the response is the request."""
        self._expect(len(data) == 4)
        address, value = _word(data, 0), _word(data, 2)
        if address & 0xFF00 in {_FLASH_ON, _FLASH_OFF}:
            on = address & 0xFF00 == _FLASH_ON
            self._flash(address & 0xFF, value, now_ns, on=on)
        else:
            self._expect(value in {_ON, _OFF, _FLIP})
            known = address < len(self.coils) or address == _ALL_OUTPUTS
            self._expect(known, ILLEGAL_DATA_ADDRESS)
            for channel in range(len(self.coils)) if address == _ALL_OUTPUTS else [address]:
                self._until.pop(channel, None)
                on = value == _ON or (value == _FLIP and not self.coils[channel])
                self._switch(channel, on=on, at_ns=now_ns)
        return data

    def _flash(self, channel: int, value: int, now_ns: int, *, on: bool) -> None:
        """Waveshare wiki, flash: switch now and back after value times 100 ms.

        A flash during a flash starts the time anew.
        """
        self._expect(1 <= value <= _FLASH_VALUE_MAX)
        self._expect(channel < len(self.coils), ILLEGAL_DATA_ADDRESS)
        self._until[channel] = now_ns + value * _FLASH_UNIT_NS, not on
        self._switch(channel, on=on, at_ns=now_ns)

    def _write_register(self, data: bytes) -> bytes:
        """MAP 6.6; the only one is the device address."""
        self._expect(len(data) == 4)
        self._expect(_word(data, 0) == _DEVICE_ADDRESS, ILLEGAL_DATA_ADDRESS)
        self._expect(1 <= _word(data, 2) <= 0xFF)
        self.unit = _word(data, 2)
        return data

    def _write_coils(self, data: bytes, now_ns: int) -> bytes:
        """MAP 6.11."""
        self._expect(len(data) >= 6)
        start, count, size = _word(data, 0), _word(data, 2), data[4]
        self._expect(1 <= count <= _WRITE_BITS_MAX)
        self._expect(size == (count + 7) // 8 == len(data) - 5)
        self._expect(start + count <= len(self.coils), ILLEGAL_DATA_ADDRESS)
        for place in range(count):
            self._until.pop(start + place, None)
            on = bool(data[5 + place // 8] >> place % 8 & 1)
            self._switch(start + place, on=on, at_ns=now_ns)
        return data[:4]

    def _write_registers(self, data: bytes) -> bytes:
        """MAP 6.12; the only register is the device address."""
        self._expect(len(data) >= 7 and 1 <= _word(data, 2) <= 123)
        self._expect(data[4] == 2 * _word(data, 2) == len(data) - 5)
        self._expect(_word(data, 2) == 1, ILLEGAL_DATA_ADDRESS)
        self._write_register(data[:2] + data[5:])
        return data[:4]

    @staticmethod
    def _expect(right: bool, code: int = ILLEGAL_DATA_VALUE) -> None:
        if not right:
            raise ModbusExceptionError(code)


@dataclass(slots=True, kw_only=True)
class Faults:
    """How the board's replies go wrong; the default is not at all.

    Attributes:
        delay_s: Every reply comes so much later.
        twice: Every reply comes twice.
        wrong_transaction: The reply carries another transaction identifier.
        wrong_unit: The reply carries another unit identifier.
        foreign: The reply is the one to somebody else's write of another output.
        cut_after: So many bytes of a reply go out, then the connection breaks.
        silent: There is no reply at all, though the request is carried out.
        times: For so many replies only; None: until changed.
    """

    delay_s: float = 0.0
    twice: bool = False
    wrong_transaction: bool = False
    wrong_unit: bool = False
    foreign: bool = False
    cut_after: int | None = None
    silent: bool = False
    times: int | None = None


class RelayBoard:
    """A `Board` on TCP, with its own timer."""

    def __init__(
        self,
        name: str,
        board: Board,
        seen: Observations,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        now_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        """Listen nowhere yet.

        Args:
            name: The device's name in the site.
            board: The board itself.
            seen: Gets `Output`, `HostOpened` and `HostClosed`.
            host: Address to listen on.
            port: Port to listen on; 0 takes a free one and keeps it.
            now_ns: The board's clock; it must run as the event loop's does.
        """
        self.name = name
        self.board = board
        self.seen = seen
        self.host = host
        self.port = port
        self.faults = Faults()
        self.switched: list[Callable[[Edge], None]] = []
        self._now_ns = now_ns
        self._hung = False
        self._server: asyncio.Server | None = None
        self._connections: set[_Connection] = set()
        self._timer: asyncio.TimerHandle | None = None

    async def plug(self) -> None:
        """Start to listen; nothing if it does."""
        if self._server is None:
            loop = asyncio.get_running_loop()
            self._server = await loop.create_server(
                lambda: _Connection(self), self.host, self.port, reuse_address=True
            )
            self.port = self._server.sockets[0].getsockname()[1]

    async def unplug(self) -> None:
        """Refuse connections and break the ones there are; outputs and timers go on."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for connection in tuple(self._connections):
            connection.abort()

    async def close(self) -> None:
        """Unplug, and stop the timer."""
        await self.unplug()
        if self._timer is not None:
            self._timer.cancel()

    async def power_cycle(self, off_s: float) -> None:
        """Power fails for some seconds: outputs drop, connections break, faults are gone."""
        await self.unplug()
        self.board.power_cycle(self._now_ns())
        self.settle()
        await asyncio.sleep(off_s)
        self.faults = Faults()
        self._hung = False
        await self.plug()

    def hang(self) -> None:
        """Accept connections and requests, carry nothing out and never answer."""
        self._hung = True

    def resume(self) -> None:
        """Answer again, and rightly."""
        self._hung = False
        self.faults = Faults()

    def noise(self, n: int, seed: int) -> None:
        """Send n random bytes to every client."""
        for connection in self._connections:
            connection.write(random.Random(seed).randbytes(n))

    def set_input(self, number: int, *, active: bool) -> None:
        """Energise an input, counted from 1, or not; close the contact of a loop, or open it."""
        if self.board.measured:
            self.loop(number).closed = active
        else:
            self.board.inputs[number - 1] = active

    def loop(self, number: int) -> Loop:
        """The loop at an input, counted from 1."""
        wired = dict(enumerate(self.board.measured, 1)).get(number)
        if isinstance(wired, Loop):
            return wired
        raise ValueError(f"{self.name}: no loop at input {number}")

    def weld(self, output: int) -> None:
        """Weld an output's contact closed."""
        self.board.weld(output, self._now_ns())
        self.settle()

    def unweld(self, output: int) -> None:
        """Repair an output's contact."""
        self.board.unweld(output, self._now_ns())
        self.settle()

    def settle(self) -> None:
        """Bring the board up to now, report its edges and arm the timer for the next one."""
        now_ns = self._now_ns()
        self.board.advance(now_ns)
        for edge in self.board.take_edges():
            self.seen.add(Output(edge.at_ns, self.name, edge.output, edge.on))
            for switched in self.switched:
                switched(edge)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if (due_ns := self.board.next_ns) is not None:
            wait_s = max(0, due_ns - now_ns) / 1e9
            self._timer = asyncio.get_running_loop().call_later(wait_s, self.settle)

    # --- what the connections need ------------------------------------------------------------

    def joined(self, connection: "_Connection") -> bool:
        """Take in a new connection; False if there are too many."""
        if len(self._connections) >= CONNECTIONS_MAX:
            return False
        self._connections.add(connection)
        self.seen.add(HostOpened(self._now_ns(), self.name))
        return True

    def left(self, connection: "_Connection") -> None:
        """Forget a connection."""
        if connection in self._connections:
            self._connections.discard(connection)
            self.seen.add(HostClosed(self._now_ns(), self.name))

    def handle(self, transaction: int, unit: int, pdu: bytes, connection: "_Connection") -> None:
        """Carry out one request and answer it, through whatever fault is set."""
        if self._hung or not self.board.answers_to(unit):
            return
        reply = self.board.request(pdu, self._now_ns())
        faults = self.faults
        if faults.times is not None:
            faults.times -= 1
            if faults.times <= 0:
                self.faults = Faults()
        if not faults.silent:
            if faults.foreign:
                reply = bytes([0x05, 0x00, pdu[2] ^ 1 if len(pdu) > 2 else 1, 0xFF, 0x00])
            if faults.wrong_transaction:
                transaction ^= 0x4000  # a far one: clients may take 0 for any of theirs
            unit ^= int(faults.wrong_unit)
            size = (len(reply) + 1).to_bytes(2, "big")
            adu = transaction.to_bytes(2, "big") + b"\x00\x00" + size + bytes([unit]) + reply
            connection.reply(adu * (2 if faults.twice else 1), faults)
        self.settle()


class _Connection(asyncio.Protocol):
    """One client of the board: the stream of MBAP headers and PDUs (MTG 3.1.3)."""

    def __init__(self, board: RelayBoard) -> None:
        self._board = board
        self._buffer = bytearray()
        self._transport: asyncio.Transport | None = None
        self._late: list[asyncio.TimerHandle] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        if not self._board.joined(self):
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        for timer in self._late:
            timer.cancel()
        self._transport = None
        self._board.left(self)

    def abort(self) -> None:
        """Break the connection."""
        if self._transport is not None:
            self._transport.abort()

    def write(self, data: bytes) -> None:
        """Send bytes, if the client is still there."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def reply(self, adu: bytes, faults: Faults) -> None:
        """Send a reply, late or cut as the faults say."""
        self._late = [timer for timer in self._late if not timer.cancelled()]
        if faults.cut_after is not None:
            self.write(adu[: faults.cut_after])
            if self._transport is not None:
                self._transport.close()
        elif faults.delay_s:
            loop = asyncio.get_running_loop()
            self._late.append(loop.call_later(faults.delay_s, self.write, adu))
        else:
            self.write(adu)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while len(self._buffer) >= _HEADER_BYTES:
            header = self._buffer[:_HEADER_BYTES]
            protocol, length = _word(header, 2), _word(header, 4)
            if protocol != 0 or not 2 <= length <= _LENGTH_MAX:
                # MTG 4.4.2.1: no Modbus; where the next request would begin nobody knows.
                self.abort()
                return
            if len(self._buffer) < 6 + length:
                return
            pdu = bytes(self._buffer[_HEADER_BYTES : 6 + length])
            del self._buffer[: 6 + length]
            self._board.handle(_word(header, 0), header[6], pdu, self)
