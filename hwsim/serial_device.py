"""What every simulated device on a serial line can suffer: unplugged, hung, noisy, garbled."""

import asyncio
import random
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path

from hwsim.observations import HostClosed, HostOpened, Observations
from hwsim.pty_line import PtyLine

# How long the bytes before a cut stay readable: closing a pseudo-terminal throws unread ones away.
CUT_DELAY_S = 0.005

# A flood comes in bursts of this rhythm.
FLOOD_TICK_S = 0.001


class SerialDevice(ABC):
    """A device on a `PtyLine`; its own behaviour is `receive`, and `send` is its way out."""

    def __init__(self, name: str, path: Path, seen: Observations) -> None:
        self.name = name
        self.seen = seen
        self.line = PtyLine(path, self._received, self._host_at_port)
        self.hung = False
        self._garble_rate = 0.0
        self._garble_with = random.Random(0)
        self._cut_after: int | None = None
        self._cut: asyncio.TimerHandle | None = None

    @abstractmethod
    def receive(self, data: bytes) -> None:
        """Act on what the host wrote."""

    @abstractmethod
    def power_on(self) -> None:
        """Start anew: power came back with the port."""

    def plug(self) -> None:
        """Plug the device in: its port appears."""
        if not self.line.plugged:
            self.resume()
            self.power_on()
            self.line.plug()

    def unplug(self, after_bytes: int | None = None) -> None:
        """Pull the plug.

        Args:
            after_bytes: Only once the device has sent so many more bytes; None: now.
        """
        if after_bytes is not None:
            self._cut_after = after_bytes
            return
        if self._cut is not None:
            self._cut.cancel()
            self._cut = None
        self._cut_after = None
        self.line.unplug()

    def hang(self) -> None:
        """Stop answering, until `resume` or a loss of power: what the host writes is lost."""
        self.hung = True

    def resume(self) -> None:
        """Answer again, and garble nothing any more."""
        self.hung = False
        self._garble_rate = 0.0

    def noise(self, n: int, seed: int) -> None:
        """Send n random bytes."""
        self.line.write(random.Random(seed).randbytes(n))

    def garble(self, rate: float, seed: int) -> None:
        """From now on hit each byte of both directions with this probability."""
        self._garble_rate = rate
        self._garble_with = random.Random(seed)

    async def flood(self, per_second: float, seconds: float, what: bytes | None = None) -> None:
        """Send `what`, or else whole frames that nobody asked for, as fast as told."""
        loop = asyncio.get_running_loop()
        started, sent = loop.time(), 0
        while sent < per_second * seconds:
            due = min(loop.time() - started, seconds) * per_second
            while sent < due:
                self.send(self.unasked() if what is None else what)
                sent += 1
            await asyncio.sleep(FLOOD_TICK_S)

    @abstractmethod
    def unasked(self) -> bytes:
        """A whole, valid frame that the host did not ask for."""

    def send(self, data: bytes, sent: Callable[[int], None] | None = None) -> None:
        """Write to the host at once, through whatever fault is set; as `PtyLine.write`."""
        if self.hung:
            return
        if self._cut_after is not None:
            cut, self._cut_after = data[: self._cut_after], self._cut_after - len(data)
            if self._cut_after <= 0:
                self._cut_after = 0
                self.line.write(cut)
                if self._cut is None:
                    loop = asyncio.get_running_loop()
                    self._cut = loop.call_later(CUT_DELAY_S, self.unplug)
                return
        self.line.write(self._garbled(data), sent)

    def _received(self, data: bytes) -> None:
        if not self.hung:
            self.receive(self._garbled(data))

    def _garbled(self, data: bytes) -> bytes:
        if not self._garble_rate:
            return data
        dice = self._garble_with
        return bytes(
            octet ^ dice.randrange(1, 256) if dice.random() < self._garble_rate else octet
            for octet in data
        )

    def _host_at_port(self, opened: bool) -> None:
        kind = HostOpened if opened else HostClosed
        self.seen.add(kind(time.monotonic_ns(), self.name))
