"""The chip as a process: `python -m hwsim.gpio.chip SOCKET` (with shim.c preloaded in its host).

Source: Linux uapi, include/uapi/linux/gpio.h, version 2 (its structs and what an ioctl answers),
and Documentation/userspace-api/gpio: edges are those of the logical value, stamped with
CLOCK_MONOTONIC and numbered; a debounced line tells a change when it has held for its period; an
edge that the host is too slow for is lost, its number with it.

It takes one JSON object a line on standard input and answers each with one; see `Chip.do`. What the
host does to its outputs is told unasked: {"seen": "level", "line": 22, "high": true, "at_ns": 1}.
"""

import asyncio
import json
import socket
import struct
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

LINES = 54

# _IOC_NR of the requests (gpio.h, "v2 ioctls").
_GET_CHIPINFO, _GET_LINEINFO, _GET_LINE = 0x01, 0x05, 0x07
_SET_CONFIG, _GET_VALUES, _SET_VALUES = 0x0D, 0x0E, 0x0F

_USED, _ACTIVE_LOW, _INPUT, _OUTPUT = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_RISING, _FALLING, _PULL_UP = 1 << 4, 1 << 5, 1 << 8
_ATTR_FLAGS, _ATTR_VALUES, _ATTR_DEBOUNCE = 1, 2, 3
_ID_RISING, _ID_FALLING = 1, 2

_CHIPINFO = struct.Struct("32s32sI")
_LINEINFO = struct.Struct("32s32sIIQ176s")
_CONFIG = struct.Struct("QI20s")
_CONFIG_ATTRIBUTE = struct.Struct("II8sQ")
_REQUEST_HEAD = struct.Struct("64I32s")
_REQUEST_TAIL = struct.Struct("II20si")
_VALUES = struct.Struct("QQ")
_EVENT = struct.Struct("QIIII24s")
_CONFIG_BYTES = _CONFIG.size + 10 * _CONFIG_ATTRIBUTE.size

_EINVAL, _EBUSY = 22, 16


@dataclass
class Line:
    """A line of a request."""

    offset: int
    flags: int
    debounce_us: int = 0
    number: int = 0
    reported: bool = False
    timer: asyncio.TimerHandle | None = None


@dataclass
class Request:
    """Lines that the host holds."""

    lines: dict[int, Line]
    order: list[int]
    events: socket.socket
    control: socket.socket
    number: int = 0
    closed: bool = field(default=False)


class RefusedError(Exception):
    """The ioctl fails with this errno."""

    def __init__(self, errno: int) -> None:
        super().__init__(errno)
        self.errno = errno


class Chip:
    """Levels, who holds which line, and what they are told."""

    def __init__(self, path: Path, tell: Callable[[dict[str, Any]], None]) -> None:
        self._path = path
        self._tell = tell
        self._levels: dict[int, bool] = {}
        self._requests: list[Request] = []
        self._hosts: list[socket.socket] = []
        self._listener: socket.socket | None = None
        self._lose = 0

    # --- what the tests do --------------------------------------------------------------------

    async def do(self, asked: dict[str, Any]) -> Any:
        """Carry out one command.

        plug, unplug: the chip appears and disappears. level: drive a line. pulses: `edges` is a
        list of [line, microseconds from now], each a short low pulse; answered when the last has
        gone, with its time. lose: the next so many events. levels: what the lines are.
        """
        match asked["do"]:
            case "plug":
                self.plug()
            case "unplug":
                self.unplug()
            case "level":
                self.drive(asked["line"], asked["high"])
            case "pulses":
                return await self.pulses(asked["edges"])
            case "lose":
                self._lose = asked["count"]
            case "levels":
                return {str(line): high for line, high in self._levels.items()}
            case _:
                raise ValueError(f"no command {asked['do']!r}")
        return None

    def plug(self) -> None:
        """Listen for hosts."""
        if self._listener is None:
            self._path.unlink(missing_ok=True)
            self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            self._listener.bind(str(self._path))
            self._listener.listen()
            self._listener.setblocking(False)
            asyncio.get_running_loop().add_reader(self._listener, self._joined)

    def unplug(self) -> None:
        """Go away from all hosts."""
        if self._listener is not None:
            self._path.unlink(missing_ok=True)
            asyncio.get_running_loop().remove_reader(self._listener)
            self._listener.close()
            self._listener = None
        for host in tuple(self._hosts):
            self._left(host)
        for request in tuple(self._requests):
            self._release(request)

    def drive(self, line: int, high: bool, at_ns: int | None = None) -> None:
        """Let the world outside change a line's level."""
        if self._levels.get(line) == high:
            return
        self._levels[line] = high
        at_ns = time.monotonic_ns() if at_ns is None else at_ns
        for request in self._requests:
            if line in request.lines:
                self._changed(request, request.lines[line], at_ns)

    async def pulses(self, edges: list[list[int]]) -> int:
        """Pull lines low for a moment, each so many microseconds from now; when the last was."""
        start_ns = time.monotonic_ns() + 1_000_000
        at_ns = start_ns
        for line, after_us in edges:
            at_ns = start_ns + after_us * 1000
            if (wait_s := (at_ns - time.monotonic_ns()) / 1e9) > 0:
                await asyncio.sleep(wait_s)
            self.drive(line, high=False, at_ns=at_ns)
            self.drive(line, high=True, at_ns=at_ns + 50_000)
        return at_ns

    # --- what the host does -------------------------------------------------------------------

    def _joined(self) -> None:
        assert self._listener is not None
        host, _ = self._listener.accept()
        self._hosts.append(host)
        asyncio.get_running_loop().add_reader(host, self._asked, host, None)

    def _left(self, host: socket.socket) -> None:
        asyncio.get_running_loop().remove_reader(host)
        host.close()
        if host in self._hosts:
            self._hosts.remove(host)

    def _asked(self, host: socket.socket, request: Request | None) -> None:
        try:
            asked = host.recv(4096)
        except ConnectionError:
            asked = b""
        if not asked:
            if request is None:
                self._left(host)
            else:
                self._release(request)
            return
        (number,) = struct.unpack_from("Q", asked)
        passed: list[socket.socket] = []
        try:
            answer = struct.pack("i", 0) + self._ioctl(number & 0xFF, asked[8:], request, passed)
        except RefusedError as refused:
            answer = struct.pack("i", refused.errno)
        socket.send_fds(host, [answer], [each.fileno() for each in passed])
        for each in passed:
            each.close()

    def _ioctl(
        self, number: int, data: bytes, request: Request | None, passed: list[socket.socket]
    ) -> bytes:
        if request is None:
            match number:
                case n if n == _GET_CHIPINFO:
                    return _CHIPINFO.pack(b"gpiochip0", b"hwsim", LINES)
                case n if n == _GET_LINEINFO:
                    return self._lineinfo(data)
                case n if n == _GET_LINE:
                    return self._request(data, passed)
        else:
            match number:
                case n if n == _GET_VALUES:
                    return self._get(request, data)
                case n if n == _SET_VALUES:
                    return self._set(request, data)
        raise RefusedError(_EINVAL)

    def _lineinfo(self, data: bytes) -> bytes:
        _, _, offset, *_ = _LINEINFO.unpack_from(data)
        if offset >= LINES:
            raise RefusedError(_EINVAL)
        held = [each.lines[offset] for each in self._requests if offset in each.lines]
        flags = held[0].flags | _USED if held else _INPUT
        consumer = b"door-gateway" if held else b""
        return _LINEINFO.pack(b"", consumer, offset, 0, flags, b"")

    def _request(self, data: bytes, passed: list[socket.socket]) -> bytes:
        head = _REQUEST_HEAD.unpack_from(data)
        tail_at = _REQUEST_HEAD.size + _CONFIG_BYTES
        count, size, padding, _ = _REQUEST_TAIL.unpack_from(data, tail_at)
        offsets = list(head[:count])
        held = {line for request in self._requests for line in request.lines}
        if not offsets or any(offset >= LINES for offset in offsets):
            raise RefusedError(_EINVAL)
        if held & set(offsets):
            raise RefusedError(_EBUSY)
        lines, values = self._configured(offsets, data[_REQUEST_HEAD.size : tail_at])
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        control, their_control = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        request = Request({line.offset: line for line in lines}, offsets, ours, control)
        self._requests.append(request)
        loop = asyncio.get_running_loop()
        loop.add_reader(control, self._asked, control, request)
        loop.add_reader(ours, self._release, request)
        for line in lines:
            if line.flags & _OUTPUT:
                self._put(line, active=values.get(line.offset, False))
            else:
                self._levels.setdefault(line.offset, bool(line.flags & _PULL_UP))
                line.reported = self._value(line)
        passed += [theirs, their_control]
        return data[:tail_at] + _REQUEST_TAIL.pack(count, size, padding, -1)

    @staticmethod
    def _configured(offsets: list[int], config: bytes) -> tuple[list[Line], dict[int, bool]]:
        flags, count, _ = _CONFIG.unpack_from(config)
        lines = [Line(offset, flags) for offset in offsets]
        values: dict[int, bool] = {}
        for place in range(count):
            at = _CONFIG.size + place * _CONFIG_ATTRIBUTE.size
            kind, _, raw, mask = _CONFIG_ATTRIBUTE.unpack_from(config, at)
            value = int.from_bytes(raw, sys.byteorder)
            for index, line in enumerate(lines):
                if mask >> index & 1:
                    if kind == _ATTR_FLAGS:
                        line.flags = value
                    elif kind == _ATTR_DEBOUNCE:
                        line.debounce_us = value & 0xFFFFFFFF
                    elif kind == _ATTR_VALUES:
                        values[line.offset] = bool(value >> index & 1)
        return lines, values

    def _get(self, request: Request, data: bytes) -> bytes:
        _, mask = _VALUES.unpack_from(data)
        bits = 0
        for index, offset in enumerate(request.order):
            line = request.lines[offset]
            value = line.reported if line.debounce_us else self._value(line)
            bits |= int(value) << index
        return _VALUES.pack(bits & mask, mask)

    def _set(self, request: Request, data: bytes) -> bytes:
        bits, mask = _VALUES.unpack_from(data)
        for index, offset in enumerate(request.order):
            if mask >> index & 1:
                self._put(request.lines[offset], active=bool(bits >> index & 1))
        return data

    def _put(self, line: Line, *, active: bool) -> None:
        high = active != bool(line.flags & _ACTIVE_LOW)
        if self._levels.get(line.offset, False) != high:
            self._levels[line.offset] = high
            at_ns = time.monotonic_ns()
            self._tell({"seen": "level", "line": line.offset, "high": high, "at_ns": at_ns})

    def _value(self, line: Line) -> bool:
        return self._levels.get(line.offset, False) != bool(line.flags & _ACTIVE_LOW)

    # --- edges --------------------------------------------------------------------------------

    def _changed(self, request: Request, line: Line, at_ns: int) -> None:
        if not line.debounce_us:
            self._edge(request, line, at_ns)
            return
        if line.timer is not None:
            line.timer.cancel()
        loop = asyncio.get_running_loop()
        line.timer = loop.call_later(line.debounce_us / 1e6, self._edge, request, line, None)

    def _edge(self, request: Request, line: Line, at_ns: int | None) -> None:
        value = self._value(line)
        if value == line.reported or request.closed:
            return
        line.reported = value
        if not line.flags & (_RISING if value else _FALLING):
            return
        request.number += 1
        line.number += 1
        if self._lose:
            self._lose -= 1
            return
        kind = _ID_RISING if value else _ID_FALLING
        stamp_ns = time.monotonic_ns() if at_ns is None else at_ns
        event = _EVENT.pack(stamp_ns, kind, line.offset, request.number, line.number, b"")
        try:
            request.events.send(event)
        except BlockingIOError:
            return  # the host is too slow: lost, and seen by the gap in the numbers
        except ConnectionError:
            self._release(request)

    def _release(self, request: Request) -> None:
        if request.closed:
            return
        request.closed = True
        self._requests.remove(request)
        loop = asyncio.get_running_loop()
        for each in (request.events, request.control):
            loop.remove_reader(each)
            each.close()
        for line in request.lines.values():
            if line.timer is not None:
                line.timer.cancel()


async def _main(path: Path) -> None:
    def tell(fields: dict[str, Any]) -> None:
        sys.stdout.write(json.dumps(fields) + "\n")
        sys.stdout.flush()

    loop = asyncio.get_running_loop()
    commands = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
    chip = Chip(path, tell)
    chip.plug()
    tell({"seen": "ready"})
    while line := await commands.readline():
        try:
            tell({"ok": True, "result": await chip.do(json.loads(line))})
        except (ValueError, KeyError) as error:
            tell({"ok": False, "error": str(error)})
    chip.unplug()


if __name__ == "__main__":
    asyncio.run(_main(Path(sys.argv[1])))
