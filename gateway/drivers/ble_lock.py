"""A battery lock that is told to open over Bluetooth Low Energy, and times its own release.

    [devices.archive-lock]
    driver = "ble_lock"
    adapter = "B8:27:EB:01:02:03"
    address = "D0:12:34:56:78:9A"
    key = "/run/credentials/door-gateway-core.service/archive-lock.key"

Every command carries a counter that the lock takes once, and a tag under a key that this lock and
this gateway have alone; what the lock says is tagged too (docs/ble.md, "Locks"). The connection is
kept: it is what makes a release quick and a lost lock known.
"""

import asyncio
import hashlib
import hmac
import secrets
import struct
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from enum import IntEnum
from pathlib import Path
from typing import Annotated, Final

import msgspec
import structlog

from gateway.clock import Clock
from gateway.config.devices import Capability, DriverSpec, Means, RelayClass, Trial
from gateway.domain.facts import (
    BatteryReported,
    DeviceOnline,
    Fact,
    OutputReported,
    PowerChanged,
    TamperChanged,
)
from gateway.drivers.base import FactSink
from gateway.drivers.ble_link import (
    Address,
    BleLink,
    BleSettings,
    Connected,
    Gatt,
    Gone,
    Heard,
    Online,
    Received,
    Said,
)
from gateway.errors import DeviceMisconfigured, DeviceUnavailable
from gateway.statedir import read_secret

log = structlog.get_logger()

SERVICE: Final = "6d8d0010-5b1e-4c8e-9a52-3d1f5a6d7c10"
COMMAND: Final = "6d8d0011-5b1e-4c8e-9a52-3d1f5a6d7c10"
REPORT: Final = "6d8d0012-5b1e-4c8e-9a52-3d1f5a6d7c10"

VERSION: Final = 0x01
CONTEXT: Final = b"door-gateway/ble-lock/v1\x00"
KEY_BYTES: Final = 32
KEY_FILE_BYTES_MAX: Final = 256
"""Its 64 digits and generous white space; whatever is longer is something else."""
NONCE_BYTES: Final = 16
OUR_NONCE_BYTES: Final = 8
TAG_BYTES: Final = 16
COUNTER_MAX: Final = 0xFFFF_FFFF

RELEASED, JAMMED, TAMPERED = 0x01, 0x02, 0x04
BATTERY_LOW: Final = 15
"""Percent, at which the supply counts as failed: weeks are left, and somebody must come."""
PULSE_MAX: Final = timedelta(seconds=60)
"""The longest a lock releases for one command; a longer pulse is no battery lock's."""

HEARD_S_MAX: Final = 10.0
"""From the start, and after each loss: a lock that advertises once a second is heard far sooner."""
HELLO_S_MAX: Final = 3.0
CALL_S_MAX: Final = 2.0
"""A write, and the answer in the lock's next connection events; longer is no answer."""
READ_EVERY_S: Final = 60.0
"""How often the lock is asked for its state: a link that BlueZ believes in may be none any more."""


class Message(IntEnum):
    """The second byte of every message."""

    HELLO = 0x01
    COMMAND = 0x02
    ANSWER = 0x03
    REPORT = 0x04


class Operation(IntEnum):
    """What a command asks for."""

    RELEASE = 0x01
    REST = 0x02
    READ = 0x03


RESULTS: Final = {0: "done", 1: "counter is spent", 2: "not allowed", 3: "jammed"}


class State(msgspec.Struct, frozen=True):
    """What a lock says of itself."""

    flags: int
    battery: int
    left: timedelta
    """Until it locks; zero at rest."""


class Answered(msgspec.Struct, frozen=True):
    """The lock's word on one command of ours."""

    counter: int
    result: int
    state: State


class Reported(msgspec.Struct, frozen=True):
    """The lock says by itself that something changed."""

    state: State


class Greeted(msgspec.Struct, frozen=True):
    """The lock began a session; that it is the lock itself only an answer shows."""


class BleLockProtocol:
    """One session with a lock: bytes in, what it said out; commands out."""

    def __init__(self, device_id: str, key: bytes) -> None:
        self._device_id = device_id
        self._key = key
        self._session: bytes | None = None
        self._counter = 0
        self._reports = 0
        self._sent: dict[int, tuple[int, bytes]] = {}
        """By counter: the operation and the command's tag, until it is answered."""

    def command(self, operation: Operation, lasts: timedelta = timedelta()) -> tuple[int, bytes]:
        """A command's counter and bytes; good once, in this session alone.

        Raises:
            DeviceUnavailable: there is no session.
        """
        if self._session is None or self._counter >= COUNTER_MAX:
            raise DeviceUnavailable(f"{self._device_id}: the lock has begun no session")
        self._counter += 1
        milliseconds = lasts // timedelta(milliseconds=1)
        body = struct.pack(
            ">BBBII", VERSION, Message.COMMAND, operation, self._counter, milliseconds
        )
        body += secrets.token_bytes(OUR_NONCE_BYTES)
        tag = self._tag(b"c", self._session + body)
        self._sent[self._counter] = (operation, tag)
        return self._counter, body + tag

    def receive(self, data: bytes) -> Greeted | Answered | Reported:
        """Take one message of the lock.

        Raises:
            DeviceUnavailable: it isn't one, or not the lock's, or not meant for now.
        """
        body, tag = data[:-TAG_BYTES], data[-TAG_BYTES:]
        if len(body) < 2 or body[0] != VERSION:
            raise self._strange(data)
        match body[1], len(body):
            case Message.HELLO, 22 if self._session is None:
                self._check(tag, b"h", body)
                self._session = body[2:18]
                self._counter = int.from_bytes(body[18:22], "big")
                return Greeted()
            case Message.ANSWER, 14:
                _, _, operation, counter, result, flags, battery, left = struct.unpack(
                    ">BBBIBBBI", body
                )
                asked = self._sent.pop(counter, None)
                if asked is None or asked[0] != operation:
                    raise self._strange(data)
                self._check(tag, b"a", asked[1] + body)
                return Answered(counter, result, _state(flags, battery, left))
            case Message.REPORT, 12 if self._session is not None:
                _, _, number, flags, battery, left = struct.unpack(">BBIBBI", body)
                self._check(tag, b"r", self._session + body)
                if number <= self._reports:
                    raise self._strange(data)
                self._reports = number
                return Reported(_state(flags, battery, left))
        raise self._strange(data)

    def _check(self, tag: bytes, direction: bytes, body: bytes) -> None:
        if not hmac.compare_digest(tag, self._tag(direction, body)):
            raise DeviceUnavailable(f"{self._device_id}: a message is not the lock's: wrong key?")

    def _tag(self, direction: bytes, body: bytes) -> bytes:
        return hmac.digest(self._key, CONTEXT + direction + body, hashlib.sha256)[:TAG_BYTES]

    def _strange(self, data: bytes) -> DeviceUnavailable:
        return DeviceUnavailable(
            f"{self._device_id}: {len(data)} bytes that no lock says now: {data[:3].hex()}…"
        )


def _state(flags: int, battery: int, left: int) -> State:
    return State(flags, min(battery, 100), timedelta(milliseconds=left))


class BleLockSettings(BleSettings, frozen=True, kw_only=True):
    """[devices.NAME] of a BLE lock."""

    address: Address
    key: Annotated[str, msgspec.Meta(pattern=r"^/[^\x00]*$", description="an absolute path")]
    """A file with the lock's key, 64 hex digits: a systemd credential, never the key itself."""


class BleLock:
    """One lock. Its only output is 1."""

    def __init__(self, device_id: str, settings: BleLockSettings, clock: Clock) -> None:
        self.device_id = device_id
        self._settings = settings
        self._clock = clock
        self._lock = settings.address.replace(":", "")
        gatt = Gatt(SERVICE, COMMAND, REPORT)
        self._link = BleLink(device_id, settings, "central", gatt, only=self._lock)
        self._protocol: BleLockProtocol | None = None
        self._online = False
        self._state: State | None = None
        self._answers: dict[int, asyncio.Future[Answered]] = {}

    async def run(self, emit: FactSink) -> None:
        """See `Driver.run`."""
        key = self._load_key()
        self._protocol, self._online, self._state = None, False, None
        alarm = _Alarm(f"{self.device_id}: the lock is not heard", HEARD_S_MAX)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(
                    self._link.run(lambda said: self._take(said, key, emit, alarm, group))
                )
                group.create_task(alarm.wait())
                group.create_task(self._ask_now_and_then(alarm))
        except BaseExceptionGroup as failed:
            raise failed.exceptions[0] from None
        finally:
            self._protocol, self._online = None, False
            for answer in self._answers.values():
                answer.cancel()
            self._answers.clear()

    async def pulse(self, output: int, duration: timedelta) -> None:
        """See `PulsesOutput.pulse`: the lock ends it."""
        del output  # the config check knows that there is one
        if duration > PULSE_MAX:
            raise DeviceUnavailable(f"{self.device_id}: {duration} is longer than {PULSE_MAX}")
        state = await self._call(Operation.RELEASE, duration)
        if not state.flags & RELEASED:
            raise DeviceUnavailable(f"{self.device_id}: the lock says that it is not released")

    async def rest(self, output: int) -> None:
        """See `PulsesOutput.rest`."""
        del output
        state = await self._call(Operation.REST)
        if state.flags & RELEASED:
            raise DeviceUnavailable(f"{self.device_id}: the lock says that it is still released")

    async def _call(self, operation: Operation, lasts: timedelta = timedelta()) -> State:
        if self._protocol is None:
            raise DeviceUnavailable(f"{self.device_id}: the lock is not connected")
        counter, command = self._protocol.command(operation, lasts)
        answer = self._answers[counter] = asyncio.get_running_loop().create_future()
        self._link.send(self._lock, command)
        try:
            async with asyncio.timeout(CALL_S_MAX):
                answered: Answered = await answer
        except TimeoutError:
            raise DeviceUnavailable(
                f"{self.device_id}: no answer to {operation.name.lower()} in {CALL_S_MAX:g} s"
            ) from None
        finally:
            self._answers.pop(counter, None)
        if answered.result != 0:
            why = RESULTS.get(answered.result, f"result {answered.result}")
            raise DeviceUnavailable(f"{self.device_id}: {operation.name.lower()}: {why}")
        return answered.state

    async def _ask_now_and_then(self, alarm: "_Alarm") -> None:
        while True:
            await asyncio.sleep(READ_EVERY_S)
            if self._online:
                await self._call(Operation.READ)
                alarm.off()

    def _take(
        self, said: Said, key: bytes, emit: FactSink, alarm: "_Alarm", group: asyncio.TaskGroup
    ) -> None:
        match said:
            case Online():
                alarm.set(f"{self.device_id}: the lock is not heard", HEARD_S_MAX)
            case Heard() if self._protocol is None:
                self._protocol = BleLockProtocol(self.device_id, key)
                alarm.set(f"{self.device_id}: the lock can't be connected", HEARD_S_MAX)
                self._link.connect(self._lock)
            case Connected():
                alarm.set(f"{self.device_id}: the lock says nothing", HELLO_S_MAX)
            case Received(data=data, at=at) if self._protocol is not None:
                self._hear(self._protocol.receive(data), at, emit, alarm, group)
            case Gone(why=why):
                raise DeviceUnavailable(f"{self.device_id}: the lock is gone: {why}")
            case _:
                pass

    def _hear(
        self,
        said: Greeted | Answered | Reported,
        at: timedelta,
        emit: FactSink,
        alarm: "_Alarm",
        group: asyncio.TaskGroup,
    ) -> None:
        match said:
            case Greeted():
                group.create_task(self._prove())
            case Answered(state=state):
                if not self._online:
                    self._online = True
                    alarm.off()
                    emit(DeviceOnline(self.device_id, at))
                self._tell(state, at, emit)
                answer = self._answers.get(said.counter)
                if answer is not None and not answer.done():
                    answer.set_result(said)
            case Reported(state=state) if self._online:
                self._tell(state, at, emit)
            case Reported():
                pass

    async def _prove(self) -> None:
        """Have the lock answer something that nobody can have recorded."""
        await self._call(Operation.READ)

    def _tell(self, state: State, at: timedelta, emit: FactSink) -> None:
        was, self._state = self._state, state
        for fact in _changes(self.device_id, was, state, at):
            emit(fact)
        if state.flags & JAMMED and (was is None or not was.flags & JAMMED):
            log.warning("lock jammed", device=self.device_id)

    def _load_key(self) -> bytes:
        file = self._settings.key
        key = b""
        try:
            text = read_secret(Path(file), KEY_FILE_BYTES_MAX).decode("ascii").strip()
            with suppress(ValueError):
                key = bytes.fromhex(text)
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else "is not ASCII"
            raise DeviceMisconfigured(f"{self.device_id}: {file}: {why}") from None
        if len(key) != KEY_BYTES:
            raise DeviceMisconfigured(
                f"{self.device_id}: {file}: is not {2 * KEY_BYTES} hex digits"
            )
        return key


def _changes(device: str, was: State | None, state: State, at: timedelta) -> list[Fact]:
    def changed(of: Callable[[State], object]) -> bool:
        return was is None or of(was) != of(state)

    facts: list[Fact] = []
    if changed(lambda each: each.flags & RELEASED):
        facts.append(OutputReported(device, 1, bool(state.flags & RELEASED), at))
    if changed(lambda each: each.flags & TAMPERED):
        facts.append(TamperChanged(device, bool(state.flags & TAMPERED), at))
    if changed(lambda each: each.battery):
        facts.append(BatteryReported(device, state.battery, at))
    if changed(lambda each: each.battery < BATTERY_LOW):
        facts.append(PowerChanged(device, state.battery < BATTERY_LOW, at))
    return facts


class _Alarm:
    """Raises `DeviceUnavailable` unless it is put off in time."""

    def __init__(self, why: str, seconds: float) -> None:
        self._moved = asyncio.Event()
        self._why = why
        self._seconds: float | None = seconds

    def set(self, why: str, seconds: float) -> None:
        """Ring after so many seconds from now, in place of what was set."""
        self._why, self._seconds = why, seconds
        self._moved.set()

    def off(self) -> None:
        """Don't ring."""
        self._seconds = None
        self._moved.set()

    async def wait(self) -> None:
        """Wait until it rings."""
        while True:
            self._moved.clear()
            try:
                async with asyncio.timeout(self._seconds):
                    await self._moved.wait()
            except TimeoutError:
                raise DeviceUnavailable(self._why) from None


DRIVER = DriverSpec(
    name="ble_lock",
    settings=BleLockSettings,
    capabilities=frozenset({Capability.PULSES_OUTPUTS}),
    build=BleLock,
    relay_class=lambda _settings: RelayClass.R2,
    outputs=lambda _settings: 1,
    address=lambda settings: f"BLE lock {settings.address}",
    title="battery locks with the protocol of docs/ble.md",
    transport="BLE (BlueZ)",
    tried=(Trial(Means.PEER, "bumble's stack on a stock kernel and bluetoothd 5.66, in QEMU"),),
)
