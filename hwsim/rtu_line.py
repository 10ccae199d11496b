"""Relay boards on one RS-485 line: Modbus RTU on a serial port, or bare over TCP.

Sources: MODBUS over Serial Line Specification and Implementation Guide V1.02 ("MSL"), 2.2 (one
master, slaves answer only when asked), 2.5.1 (RTU framing and CRC, 6.2.2 for its sum); the boards
are those of `hwsim.relay_board`. Over TCP the same frames travel through a serial server in its
transparent mode, as Waveshare's RS485 TO ETH.
"""

import asyncio
import random
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from pathlib import Path

from hwsim.observations import HostClosed, HostOpened, Observations
from hwsim.pty_line import PtyLine
from hwsim.relay_board import Board, Faults, RelayBoard

# MSL 2.5.1.1: a frame ends with 3.5 characters of silence; a pseudo-terminal has no bit times, so
# what is no whole frame is thrown away after this.
SILENCE_S = 0.005
BITS_PER_CHARACTER = 10  # 8 data bits, no parity, 1 stop bit, as these boards are delivered
SILENT_CHARACTERS = 3.5
FRAMES_KEPT = 1000


def crc(data: bytes) -> bytes:
    """The two check bytes of a frame, low byte first (MSL 6.2.2)."""
    register = 0xFFFF
    for octet in data:
        register ^= octet
        for _ in range(8):
            register = register >> 1 ^ (0xA001 if register & 1 else 0)
    return register.to_bytes(2, "little")


def request_size(frame: bytes | bytearray) -> int | None:
    """How long the request that begins so is; None if that can't be told (MAP 6)."""
    if len(frame) < 7:
        return None
    match frame[1]:
        case 0x01 | 0x02 | 0x03 | 0x04 | 0x05 | 0x06:
            return 8
        case 0x0F | 0x10:
            return 9 + frame[6]
    return None


class RtuLine(ABC):
    """A line and the boards on it."""

    def __init__(self, name: str, seen: Observations) -> None:
        self.name = name
        self.seen = seen
        self.boards: list[RtuRelayBoard] = []
        self.baud_rate: int | None = None
        """Let frames take as long as they do at this speed; None: no time."""
        self.asked: deque[bytes] = deque(maxlen=FRAMES_KEPT)
        """The whole requests of late, whomever they were for."""
        self._buffer = bytearray()
        self._silence: asyncio.TimerHandle | None = None
        self._late: set[asyncio.TimerHandle] = set()
        self._garble_rate = 0.0
        self._garble_with = random.Random(0)

    @abstractmethod
    async def plug(self) -> None:
        """Make the line appear; nothing if it is there."""

    @abstractmethod
    async def unplug(self) -> None:
        """Take the whole line away: the adapter or serial server at the host's end."""

    @abstractmethod
    def write(self, data: bytes) -> None:
        """Send bytes to the host, if it is there."""

    def garble(self, rate: float, seed: int) -> None:
        """From now on hit each byte of both directions with this probability."""
        self._garble_rate = rate
        self._garble_with = random.Random(seed)

    def send(self, data: bytes, after_s: float = 0.0) -> None:
        """Send bytes to the host, later if told so, through whatever fault is set."""
        data = self._garbled(data)
        if not after_s:
            self.write(data)
            return

        def now() -> None:
            self._late.discard(timer)
            self.write(data)

        timer = asyncio.get_running_loop().call_later(after_s, now)
        self._late.add(timer)

    def received(self, data: bytes) -> None:
        """Take what the host wrote."""
        self._buffer += self._garbled(data)
        if self._silence is not None:
            self._silence.cancel()
        while (size := request_size(self._buffer)) is not None and len(self._buffer) >= size:
            frame = bytes(self._buffer[:size])
            if crc(frame[:-2]) != frame[-2:]:
                break
            del self._buffer[:size]
            self.asked.append(frame)
            for board in tuple(self.boards):
                board.asked(frame)
        self._silence = asyncio.get_running_loop().call_later(SILENCE_S, self._buffer.clear)

    def wire_s(self, characters: float) -> float:
        """How long so many characters take on the wire."""
        return characters * BITS_PER_CHARACTER / self.baud_rate if self.baud_rate else 0.0

    def stop(self) -> None:
        """Stop the timers and forget what was half said."""
        for timer in (*self._late, self._silence):
            if timer is not None:
                timer.cancel()
        self._late.clear()
        self._silence = None
        self._buffer.clear()

    def told(self, opened: bool) -> None:
        """The host opened or closed the line."""
        kind = HostOpened if opened else HostClosed
        for board in self.boards:
            self.seen.add(kind(time.monotonic_ns(), board.name))

    def _garbled(self, data: bytes) -> bytes:
        if not self._garble_rate:
            return data
        dice = self._garble_with
        return bytes(
            octet ^ dice.randrange(1, 256) if dice.random() < self._garble_rate else octet
            for octet in data
        )


class SerialRtuLine(RtuLine):
    """A line on a serial adapter."""

    def __init__(self, name: str, path: Path, seen: Observations) -> None:
        """Open nothing yet."""
        super().__init__(name, seen)
        self.pty = PtyLine(path, self.received, self.told)

    async def plug(self) -> None:
        """See `RtuLine.plug`."""
        self.pty.plug()

    async def unplug(self) -> None:
        """See `RtuLine.unplug`."""
        self.stop()
        self.pty.unplug()

    def write(self, data: bytes) -> None:
        """See `RtuLine.write`."""
        self.pty.write(data)


class TcpRtuLine(RtuLine):
    """A line behind a serial server, which has one client at a time."""

    def __init__(self, name: str, seen: Observations, *, host: str, port: int) -> None:
        """Listen nowhere yet; port 0 takes a free one and keeps it."""
        super().__init__(name, seen)
        self.host = host
        self.port = port
        self._server: asyncio.Server | None = None
        self._client: asyncio.Transport | None = None

    async def plug(self) -> None:
        """See `RtuLine.plug`."""
        if self._server is None:
            loop = asyncio.get_running_loop()
            self._server = await loop.create_server(
                lambda: _Client(self), self.host, self.port, reuse_address=True
            )
            self.port = self._server.sockets[0].getsockname()[1]

    async def unplug(self) -> None:
        """See `RtuLine.unplug`."""
        self.stop()
        if self._server is not None:
            self._server.close()
            self._server = None
        if self._client is not None:
            self._client.abort()

    def write(self, data: bytes) -> None:
        """See `RtuLine.write`."""
        if self._client is not None:
            self._client.write(data)

    def joined(self, client: asyncio.Transport) -> None:
        """A client connected; a second one is turned away."""
        if self._client is not None:
            client.abort()
            return
        self._client = client
        self.told(opened=True)

    def left(self, client: asyncio.Transport | None) -> None:
        """A client is gone."""
        if client is not None and client is self._client:
            self._client = None
            self.told(opened=False)


class _Client(asyncio.Protocol):
    def __init__(self, line: TcpRtuLine) -> None:
        self._line = line
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._line.joined(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self._line.left(self._transport)

    def data_received(self, data: bytes) -> None:
        self._line.received(data)


class RtuRelayBoard(RelayBoard):
    """A board on an RTU line. Unplugging the last one of a line takes the line away."""

    def __init__(
        self,
        name: str,
        board: Board,
        seen: Observations,
        line: RtuLine,
        *,
        now_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        """Not on the line yet."""
        super().__init__(name, board, seen, now_ns=now_ns)
        self.line = line

    async def plug(self) -> None:
        """Connect the board to the line."""
        if self not in self.line.boards:
            self.line.boards.append(self)
        await self.line.plug()

    async def unplug(self) -> None:
        """Take the board off the line; outputs and timers go on."""
        if self in self.line.boards:
            self.line.boards.remove(self)
        if not self.line.boards:
            await self.line.unplug()

    def resume(self) -> None:
        """Answer again, and rightly, on a clean line."""
        super().resume()
        self.line.garble(0.0, 0)

    def noise(self, n: int, seed: int) -> None:
        """Send n random bytes to the host."""
        self.line.write(random.Random(seed).randbytes(n))

    def asked(self, frame: bytes) -> None:
        """Carry out a request, if it is this board's, and answer it through whatever fault is set.

        MSL 2.2: address 0 is a broadcast, which is carried out and not answered.
        """
        unit, pdu = frame[0], frame[1:-2]
        if self._hung or unit not in {0, self.board.unit}:
            return
        reply = self.board.request(pdu, self._now_ns())
        faults = self.faults
        if faults.times is not None:
            faults.times -= 1
            if faults.times <= 0:
                self.faults = Faults()
        if unit and not faults.silent:
            if faults.foreign:
                reply = bytes([0x05, 0x00, pdu[2] ^ 1, 0xFF, 0x00])
            answer = bytes([unit ^ int(faults.wrong_unit)]) + reply
            answer += crc(answer)
            took_s = self.line.wire_s(len(frame) + SILENT_CHARACTERS + len(answer))
            sent = answer[: faults.cut_after]
            self.line.send(sent, took_s + faults.delay_s)
            if faults.twice:
                again_s = self.line.wire_s(SILENT_CHARACTERS + len(answer)) or 0.002
                self.line.send(sent, took_s + faults.delay_s + again_s)
        self.settle()
