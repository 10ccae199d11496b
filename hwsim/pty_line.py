"""A serial line on a pseudo-terminal whose far end can be unplugged and plugged again."""

import asyncio
import os
import termios
import tty
from collections import deque
from collections.abc import Callable
from pathlib import Path

# What the device has sent and the host has not read: beyond it the oldest UARTs drop bytes too.
BACKLOG_BYTES_MAX = 65_536
_READ_BYTES = 65_536

# termios codes of the speeds a host may set, as POSIX and Linux name them.
_BAUD_RATES = {
    getattr(termios, f"B{rate}"): rate
    for rate in (9600, 19200, 38400, 57600, 115200, 230400, 460800, 921600)
}


class PtyLine:
    """One end of a serial line; the host opens `path`, a symlink to the pseudo-terminal.

    The simulator keeps the host's side open as well, so that the host may close and open the port
    as often as it likes without a hang-up.
    """

    def __init__(self, path: Path, received: Callable[[bytes], None]) -> None:
        """Open nothing yet.

        Args:
            path: Where the host finds the port.
            received: Called with whatever the host wrote, as soon as it is there.
        """
        self.path = path
        self._received = received
        self._master = -1
        self._slave = -1
        self._out: deque[tuple[bytes, Callable[[], None] | None]] = deque()
        self._out_bytes = 0

    @property
    def plugged(self) -> bool:
        """Whether the host can find the port."""
        return self._master >= 0

    @property
    def baud_rate(self) -> int | None:
        """The speed the host has set; None for one without a name here."""
        return _BAUD_RATES.get(termios.tcgetattr(self._slave)[5])

    def plug(self) -> None:
        """Make the port appear; nothing if it is there."""
        if self.plugged:
            return
        self._master, self._slave = os.openpty()
        tty.setraw(self._slave)
        os.set_blocking(self._master, False)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # A rename is atomic: a host that waits for the port never sees half a link.
        fresh = self.path.with_name(f".{self.path.name}.new")
        fresh.unlink(missing_ok=True)
        fresh.symlink_to(os.ttyname(self._slave))
        fresh.rename(self.path)
        asyncio.get_running_loop().add_reader(self._master, self._read)

    def unplug(self) -> None:
        """Make the port disappear: a host that has it open gets a hang-up."""
        if not self.plugged:
            return
        self.path.unlink(missing_ok=True)
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._master)
        loop.remove_writer(self._master)
        os.close(self._slave)
        os.close(self._master)
        self._master = self._slave = -1
        self._out.clear()
        self._out_bytes = 0

    def write(self, data: bytes, sent: Callable[[], None] | None = None) -> None:
        """Send bytes at once, or as soon as the host has read what was sent before.

        Args:
            data: The bytes; dropped while unplugged or when the host has read nothing for long.
            sent: Called when the last of them has been written.
        """
        if not self.plugged or self._out_bytes + len(data) > BACKLOG_BYTES_MAX:
            return
        self._out.append((data, sent))
        self._out_bytes += len(data)
        if len(self._out) == 1:
            self._flush()

    def _flush(self) -> None:
        loop = asyncio.get_running_loop()
        while self._out:
            data, sent = self._out[0]
            try:
                written = os.write(self._master, data)
            except BlockingIOError:
                written = 0
            self._out_bytes -= written
            if written < len(data):
                self._out[0] = data[written:], sent
                loop.add_writer(self._master, self._flush)
                return
            self._out.popleft()
            if sent is not None:
                sent()
        loop.remove_writer(self._master)

    def _read(self) -> None:
        try:
            data = os.read(self._master, _READ_BYTES)
        except BlockingIOError:
            return
        self._received(data)
