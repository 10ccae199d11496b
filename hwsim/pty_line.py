"""A serial line on a pseudo-terminal whose far end can be unplugged and plugged again."""

import asyncio
import ctypes
import os
import struct
import termios
import time
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


# inotify(7): what of a pseudo-terminal's opens and closes it tells.
_IN_CLOSE, _IN_OPEN = 0x08 | 0x10, 0x20
_INOTIFY_EVENT = struct.Struct("iIII")


def _watch_opens(path: str) -> int:
    """A descriptor that tells when the file is opened and closed; -1 if the system has none left.

    The standard library has no inotify. Who opens the port is worth knowing but nothing depends on
    it, so a system without spare inotify instances is no failure.
    """
    libc = ctypes.CDLL(None)
    descriptor: int = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    if descriptor >= 0:
        libc.inotify_add_watch(descriptor, os.fsencode(path), _IN_OPEN | _IN_CLOSE)
    return descriptor


class PtyLine:
    """One end of a serial line; the host opens `path`, a symlink to the pseudo-terminal.

    The simulator keeps the host's side open as well, so that the host may close and open the port
    as often as it likes without a hang-up.
    """

    def __init__(
        self,
        path: Path,
        received: Callable[[bytes], None],
        host_at_port: Callable[[bool], None] = lambda _: None,
    ) -> None:
        """Open nothing yet.

        Args:
            path: Where the host finds the port.
            received: Called with whatever the host wrote, as soon as it is there.
            host_at_port: Called with true when somebody opens the port, with false when closed.
        """
        self.path = path
        self._received = received
        self._host_at_port = host_at_port
        self._watch = -1
        self._master = -1
        self._slave = -1
        self._out: deque[tuple[bytes, Callable[[int], None] | None]] = deque()
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
        loop = asyncio.get_running_loop()
        loop.add_reader(self._master, self._read)
        self._watch = _watch_opens(os.ttyname(self._slave))
        if self._watch >= 0:
            loop.add_reader(self._watch, self._read_watch)

    def unplug(self) -> None:
        """Make the port disappear: a host that has it open gets a hang-up."""
        if not self.plugged:
            return
        self.path.unlink(missing_ok=True)
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._master)
        loop.remove_writer(self._master)
        if self._watch >= 0:
            loop.remove_reader(self._watch)
            os.close(self._watch)
            self._watch = -1
        os.close(self._slave)
        os.close(self._master)
        self._master = self._slave = -1
        self._out.clear()
        self._out_bytes = 0

    def write(self, data: bytes, sent: Callable[[int], None] | None = None) -> None:
        """Send bytes at once, or as soon as the host has read what was sent before.

        Args:
            data: The bytes; dropped while unplugged or when the host has read nothing for long.
            sent: Called when the last of them has been written, with the monotonic nanoseconds
                just before: whatever the host does about them it does later.
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
            at_ns = time.monotonic_ns()
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
                sent(at_ns)
        loop.remove_writer(self._master)

    def _read(self) -> None:
        try:
            data = os.read(self._master, _READ_BYTES)
        except BlockingIOError:
            return
        self._received(data)

    def _read_watch(self) -> None:
        events = os.read(self._watch, 4096)
        at = 0
        while at < len(events):
            _, mask, _, name_bytes = _INOTIFY_EVENT.unpack_from(events, at)
            at += _INOTIFY_EVENT.size + name_bytes
            if mask & (_IN_OPEN | _IN_CLOSE):
                self._host_at_port(bool(mask & _IN_OPEN))
