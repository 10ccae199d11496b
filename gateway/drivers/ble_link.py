"""How a BLE driver has its worker process: started, listened to, spoken to, killed when it hangs.

The worker (`ble_worker.py`) only carries bytes between BlueZ and us; what they mean, and every key,
stays here. So a D-Bus library that hangs, or a radio's parser that is taken over, opens nothing.
"""

import asyncio
import re
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec

from gateway.config.devices import DeviceSettings
from gateway.drivers.worker_process import WorkerLines, read_worker, worker_process
from gateway.errors import DeviceUnavailable

WORKER: Final = Path(__file__).with_name("ble_worker.py")

START_S_MAX: Final = 10.0
"""Until the worker says that BlueZ has taken what it asked for; importing alone is a second on a
Raspberry Pi, and an adapter that was off takes another to come up."""
SILENCE_S_MAX: Final = 3.0
"""The worker says something every 0.4 s; silent for so long it hangs and is killed."""
LINE_BYTES_MAX: Final = 2048
"""An attribute has 512 bytes at most (Core specification, volume 3, part F, 3.2.9)."""
UNSENT_BYTES_MAX: Final = 65_536
"""A worker that takes no orders any more is not waited for: further ones are dropped, and its
silence ends it."""

Address = Annotated[
    str,
    msgspec.Meta(
        pattern=r"^([0-9A-F]{2}:){5}[0-9A-F]{2}$",
        description='a Bluetooth address in capitals ("B8:27:EB:01:02:03")',
    ),
]
Uuid = Annotated[
    str,
    msgspec.Meta(
        pattern=r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$",
        description='a UUID in small letters ("01234567-89ab-cdef-0123-456789abcdef")',
    ),
]


class BleSettings(DeviceSettings, frozen=True, kw_only=True):
    """What every BLE device's [devices.NAME] has."""

    adapter: Address
    """The adapter's own address: `hci0` may be `hci1` after it was plugged in again."""
    bus: Annotated[
        str, msgspec.Meta(pattern=r"^/[^\x00,;=]{1,100}$", description="an absolute path")
    ] = "/run/dbus/system_bus_socket"
    """The socket of the D-Bus on which BlueZ is."""


class Gatt(msgspec.Struct, frozen=True):
    """One service: what is written to its server, and what that notifies."""

    service: str
    to_server: str
    to_client: str


class Online(msgspec.Struct, frozen=True):
    """BlueZ has the adapter up and has taken what it was asked for."""

    at: timedelta


class Alive(msgspec.Struct, frozen=True):
    """Nothing new; said every 0.4 s."""


class Heard(msgspec.Struct, frozen=True):
    """An advertisement of the service."""

    peer: str
    rssi: int
    data: bytes
    at: timedelta


class Connected(msgspec.Struct, frozen=True):
    """The other end can be spoken to: it has subscribed to us, or we to it."""

    peer: str
    at: timedelta


class Received(msgspec.Struct, frozen=True):
    """The other end wrote or notified something."""

    peer: str
    data: bytes
    at: timedelta


class Gone(msgspec.Struct, frozen=True):
    """The connection is over, or could not be made."""

    peer: str
    why: str


class Ended(msgspec.Struct, frozen=True):
    """The worker's last words."""

    why: str


Said = Online | Alive | Heard | Connected | Received | Gone | Ended

_MESSAGE: Final = re.compile(
    rb"O (?P<online>[0-9]{1,19})"
    rb"|(?P<alive>H)"
    rb"|A (?P<heard>[0-9A-F]{12}) (?P<rssi>-?[0-9]{1,3})"
    rb" (?P<told>([0-9a-f]{2}){0,64}) (?P<heard_ns>[0-9]{1,19})"
    rb"|S (?P<connected>[0-9A-F]{12}) (?P<connected_ns>[0-9]{1,19})"
    rb"|R (?P<from>[0-9A-F]{12}) (?P<data>([0-9a-f]{2}){0,512}) (?P<from_ns>[0-9]{1,19})"
    rb"|G (?P<gone>[0-9A-F]{12}) (?P<gone_why>[ -~]{0,200})"
    rb"|E (?P<ended>[ -~]{1,300})"
)


class BleLines:
    """The worker's bytes in, what it says out."""

    def __init__(self, device_id: str) -> None:
        self._lines = WorkerLines(device_id, LINE_BYTES_MAX)

    def receive(self, data: bytes) -> list[Said]:
        """Take what the worker wrote; return what its complete lines say.

        Raises:
            DeviceUnavailable: it wrote something else.
        """
        return [self._read(line) for line in self._lines.receive(data)]

    def _read(self, line: bytes) -> Said:
        message = _MESSAGE.fullmatch(line)
        if message is None:
            raise self._lines.junk(line)
        if message["alive"]:
            return Alive()
        if message["online"]:
            return Online(_monotonic(message["online"]))
        if message["heard"]:
            told, at = bytes.fromhex(message["told"].decode()), _monotonic(message["heard_ns"])
            return Heard(message["heard"].decode(), int(message["rssi"]), told, at)
        if message["connected"]:
            return Connected(message["connected"].decode(), _monotonic(message["connected_ns"]))
        if message["from"]:
            data, at = bytes.fromhex(message["data"].decode()), _monotonic(message["from_ns"])
            return Received(message["from"].decode(), data, at)
        if message["gone"]:
            return Gone(message["gone"].decode(), message["gone_why"].decode())
        return Ended(message["ended"].decode())


def _monotonic(nanoseconds: bytes) -> timedelta:
    return timedelta(microseconds=int(nanoseconds) // 1000)


class BleLink:
    """One worker process and its two pipes."""

    def __init__(
        self,
        device_id: str,
        settings: BleSettings,
        role: Literal["peripheral", "central"],
        gatt: Gatt,
        *,
        only: str = "",
    ) -> None:
        """Start nothing; `only` is the one address that a central listens to, all if empty."""
        self._device_id = device_id
        self._arguments = (
            role,
            settings.bus,
            settings.adapter,
            *(gatt.service, gatt.to_server, gatt.to_client),
            only or "-",
        )
        self._orders: asyncio.StreamWriter | None = None

    async def run(self, take: Callable[[Said], None]) -> None:
        """Have a worker and hand on what it says, until it ends.

        Raises:
            DeviceUnavailable: it ended, fell silent or wrote what means nothing; the text says why.
        """
        lines = BleLines(self._device_id)
        async with worker_process(WORKER, *self._arguments) as worker:
            self._orders = worker.stdin
            limit_s = START_S_MAX
            try:
                while True:
                    data = await read_worker(worker, self._device_id, limit_s)
                    if not data:
                        raise DeviceUnavailable(f"{self._device_id}: its worker ended")
                    for message in lines.receive(data):
                        if isinstance(message, Ended):
                            raise DeviceUnavailable(f"{self._device_id}: {message.why}")
                        limit_s = SILENCE_S_MAX
                        take(message)
            finally:
                self._orders = None

    def connect(self, peer: str) -> None:
        """Have a peer connected (central only); `Connected` or `Gone` follows."""
        self._order(f"C {peer}\n")

    def send(self, peer: str, data: bytes) -> None:
        """Write or notify `data`; a peer that is gone gets nothing."""
        self._order(f"W {peer} {data.hex()}\n")

    def hang_up(self, peer: str) -> None:
        """End a connection; `Gone` follows where there was one."""
        self._order(f"X {peer}\n")

    def _order(self, line: str) -> None:
        if self._orders is None or self._orders.is_closing():
            return
        if self._orders.transport.get_write_buffer_size() <= UNSENT_BYTES_MAX:
            self._orders.write(line.encode())
