"""A battery lock on Bluetooth Low Energy, as docs/ble.md, "Locks" has it."""

import asyncio
import hashlib
import hmac
import secrets
import time
from collections.abc import Callable

from hwsim.bluez.radio import Advertisement, Link, Peer, Walk
from hwsim.relay_board import Edge

SERVICE = "6d8d0010-5b1e-4c8e-9a52-3d1f5a6d7c10"
COMMAND = "6d8d0011-5b1e-4c8e-9a52-3d1f5a6d7c10"
REPORT = "6d8d0012-5b1e-4c8e-9a52-3d1f5a6d7c10"
CONTEXT = b"door-gateway/ble-lock/v1\x00"
RELEASE, REST, READ = 1, 2, 3
DONE, SPENT, NOT_ALLOWED, JAMMED = 0, 1, 2, 3
LONGEST_MS = 60_000


class BatteryLock(Peer):
    """One lock; what it does itself, it does by its own clock."""

    def __init__(self, address: str, key: bytes, *, walk: Walk | None = None) -> None:
        """Be mounted on a door, locked, with a fresh battery."""
        super().__init__(address, walk)
        self._key = key
        self.counter = 0
        """The highest that it took; outlives power."""
        self.battery = 90
        self.jammed = False
        self.tampered = False
        self.deaf = False
        self.switched: list[Callable[[Edge], None]] = []
        self.commands: list[bytes] = []
        self.refused: list[str] = []
        self.advertisement = Advertisement((SERVICE,), interval_s=0.02)
        self.services = {SERVICE: {COMMAND: ("write",), REPORT: ("notify",)}}
        self._until_s = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._link: Link | None = None
        self._nonce = b""
        self._reports = 0

    @property
    def released(self) -> bool:
        """Whether it can be opened."""
        return time.monotonic() < self._until_s

    def connected(self, link: Link) -> None:
        """See `Peer`."""
        self._link, self._nonce, self._reports = link, secrets.token_bytes(16), 0

    def disconnected(self, link: Link) -> None:
        """See `Peer`: a release goes on to its end."""
        if link is self._link:
            self._link = None

    def subscribed(self, link: Link, uuid: str) -> None:
        """See `Peer`: say who is there."""
        if uuid == REPORT:
            body = bytes([1, 1]) + self._nonce + self.counter.to_bytes(4, "big")
            link.notify(REPORT, body + self._tag(b"h" + body))

    def written(self, link: Link, uuid: str, data: bytes) -> None:
        """See `Peer`: a command."""
        if uuid != COMMAND or self.deaf:
            return
        self.commands.append(data)
        body, tag = data[:-16], data[-16:]
        if (
            len(data) != 35
            or body[:2] != b"\x01\x02"
            or tag != self._tag(b"c" + self._nonce + body)
        ):
            self.refused.append("tag")
            asyncio.get_running_loop().call_soon(link.close)
            return
        operation, counter = body[2], int.from_bytes(body[3:7], "big")
        result = self._obey(operation, counter, int.from_bytes(body[7:11], "big"))
        if result:
            self.refused.append(f"result {result}")
        answer = bytes([1, 3, operation]) + counter.to_bytes(4, "big") + bytes([result])
        answer += self._state()
        link.notify(REPORT, answer + self._tag(b"a" + tag + answer))

    def _obey(self, operation: int, counter: int, lasts_ms: int) -> int:
        if counter <= self.counter:
            return SPENT
        self.counter = counter
        if operation == RELEASE and not 0 < lasts_ms <= LONGEST_MS:
            return NOT_ALLOWED
        if operation in (RELEASE, REST) and self.jammed:
            return JAMMED
        if operation == RELEASE:
            self._release(lasts_ms / 1000)
        elif operation == REST:
            self._end()
        return DONE

    def _release(self, seconds: float) -> None:
        was = self.released
        self._until_s = time.monotonic() + seconds
        self._cancel()
        self._timer = asyncio.get_running_loop().call_later(seconds, self._over)
        if not was:
            self._switch(on=True)

    def _over(self) -> None:
        self._until_s = 0.0
        self._switch(on=False)
        self.report()

    def _end(self) -> None:
        if self.released:
            self._cancel()
            self._until_s = 0.0
            self._switch(on=False)

    def _cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _switch(self, *, on: bool) -> None:
        for tell in tuple(self.switched):
            tell(Edge(time.monotonic_ns(), 1, on))

    def report(self) -> None:
        """Tell whoever is connected how it is."""
        if self._link is not None:
            self._reports += 1
            body = bytes([1, 4]) + self._reports.to_bytes(4, "big") + self._state()
            self._link.notify(REPORT, body + self._tag(b"r" + self._nonce + body))

    def close(self) -> None:
        """Stop its timer."""
        self._cancel()

    def _state(self) -> bytes:
        flags = self.released | self.jammed << 1 | self.tampered << 2
        left_ms = max(0, round((self._until_s - time.monotonic()) * 1000))
        return bytes([flags, self.battery]) + left_ms.to_bytes(4, "big")

    def _tag(self, data: bytes) -> bytes:
        return hmac.new(self._key, CONTEXT + data, hashlib.sha256).digest()[:16]
