"""The process in which bleak and dbus-fast talk to BlueZ for one BLE device of the gateway.

    python -I ble_worker.py ROLE BUS ADAPTER SERVICE TO_SERVER TO_CLIENT ONLY PARENT_PID

ROLE is `peripheral` (a GATT server that advertises SERVICE; peers write TO_SERVER and are notified
through TO_CLIENT) or `central` (scans for SERVICE; ONLY is the one address that matters, or `-`).
It is run as a file, imports nothing of this package, knows no key and understands nothing of what
it carries. It ends with its parent, or at the first error it can't sit out; then it is started
again. A line a message, bytes in hex, NS is CLOCK_MONOTONIC, PEER an address without colons:

    O NS                  BlueZ has taken everything        C PEER        connect (central)
    H                     still here                        W PEER HEX    write or notify
    A PEER RSSI HEX NS    an advertisement, SERVICE's data  X PEER        hang up
    S PEER NS             the peer can be spoken to
    R PEER HEX NS         the peer said something
    G PEER WHY            the peer is gone
    E WHY                 the last line

Objects, methods and errors are those of BlueZ's doc/org.bluez.*.rst.
"""

import asyncio
import ctypes
import importlib.util
import logging
import os
import re
import signal
import socket
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from dbus_fast import Message, MessageType, Variant
from dbus_fast.aio import MessageBus

BLUEZ: Final = "org.bluez"
ADAPTER: Final = "org.bluez.Adapter1"
DEVICE: Final = "org.bluez.Device1"
GATT_SERVICE: Final = "org.bluez.GattService1"
GATT_CHARACTERISTIC: Final = "org.bluez.GattCharacteristic1"
GATT_MANAGER: Final = "org.bluez.GattManager1"
ADVERTISING_MANAGER: Final = "org.bluez.LEAdvertisingManager1"
ADVERTISEMENT: Final = "org.bluez.LEAdvertisement1"
OBJECTS: Final = "org.freedesktop.DBus.ObjectManager"
PROPERTIES: Final = "org.freedesktop.DBus.Properties"
DBUS: Final = "org.freedesktop.DBus"

APP: Final = "/gateway"
SERVICE_PATH: Final = "/gateway/service0"
TO_SERVER_PATH: Final = "/gateway/service0/char0"
TO_CLIENT_PATH: Final = "/gateway/service0/char1"
ADVERT_PATH: Final = "/gateway/advertisement0"

HEARTBEAT_S: Final = 0.4
PING_EVERY_S: Final = 3.0
"""How often BlueZ is asked whether it still answers."""
CALL_S_MAX: Final = 4.0
CONNECT_S_MAX: Final = 5.0
"""What walks past must not keep the next one waiting."""
QUIET_S_MAX: Final = 8.0
"""Without one advertisement for so long the scan is started anew: after some faults of bluetoothd
and of controllers it finds nothing any more and says no word. Where nobody advertises, this costs a
few milliseconds each time."""
PEERS_MAX: Final = 8
"""Connections at once; a controller has room for about as many."""
ADVERTISING_MS: Final = (100, 150)
"""How often it advertises: found within a scan window of a phone, and 1 % of the air's time."""
MTU_MIN: Final = 23
PR_SET_PDEATHSIG: Final = 1  # prctl(2)

PEER: Final = re.compile(r"[0-9A-F]{12}")


class WorkerError(Exception):
    """What the worker ends with; the text is said."""


def say(line: str) -> None:
    """Tell the gateway a line."""
    os.write(1, f"{line}\n".encode())


def peer_of(path: str) -> str:
    """A peer's name, from its object's path (org.bluez.Device: .../dev_XX_XX_XX_XX_XX_XX)."""
    return path.rpartition("/dev_")[2].replace("_", "")


def printable(text: object) -> str:
    """A reason in one line of ASCII."""
    return re.sub(r"[^ -~]+", " ", str(text))[:200]


class Bluez:
    """One connection to the bus, the adapter, and all that must end this process."""

    def __init__(self, address: str, service: str, only: str) -> None:
        self._address = address
        self._service = service
        self._only = only
        self.bus: Any
        self.adapter = ""
        """Its object's path."""
        self.lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def open(self) -> None:
        """Find the adapter by its address and have it powered.

        Raises:
            WorkerError: there is no bus, no BlueZ or no such adapter, or it is blocked.
        """
        bus = MessageBus(bus_address=os.environ["DBUS_SYSTEM_BUS_ADDRESS"], negotiate_unix_fd=True)
        try:
            self.bus = await bus.connect()
        except (OSError, EOFError) as error:
            raise WorkerError(f"no D-Bus: {printable(error)}") from None
        self.bus.add_message_handler(self._watch)
        for rule in (
            f"type='signal',sender='{DBUS}',member='NameOwnerChanged',arg0='{BLUEZ}'",
            f"type='signal',sender='{BLUEZ}',member='InterfacesRemoved'",
            f"type='signal',sender='{BLUEZ}',member='PropertiesChanged',arg0='{ADAPTER}'",
        ):
            await self.call(
                "AddMatch",
                path="/org/freedesktop/DBus",
                to=DBUS,
                on=DBUS,
                signature="s",
                body=[rule],
            )
        objects = (await self.call("GetManagedObjects", path="/", on=OBJECTS)).body[0]
        adapters = {
            interfaces[ADAPTER]["Address"].value: path
            for path, interfaces in objects.items()
            if ADAPTER in interfaces
        }
        if self._address not in adapters:
            there = ", ".join(sorted(adapters)) or "none"
            raise WorkerError(f"adapter {self._address} is not there; there are: {there}")
        self.adapter = adapters[self._address]
        if not objects[self.adapter][ADAPTER]["Powered"].value:
            try:
                await self.call(
                    "Set",
                    path=self.adapter,
                    on=PROPERTIES,
                    signature="ssv",
                    body=[ADAPTER, "Powered", Variant("b", True)],
                )
            except WorkerError as error:
                raise WorkerError(
                    f"adapter {self._address} is off and can't be switched on ({error}): if rfkill "
                    "blocks it, `rfkill unblock bluetooth`"
                ) from None
        await self._hang_up_leftovers(objects)

    async def _hang_up_leftovers(self, objects: dict[str, Any]) -> None:
        # BlueZ keeps the connections of a process that was killed, and a peer that is still
        # connected to nobody advertises no more.
        for path, interfaces in objects.items():
            properties = interfaces.get(DEVICE)
            if properties is None or not path.startswith(f"{self.adapter}/"):
                continue
            if not properties["Connected"].value:
                continue
            alone = self._only != "-"
            if self._only == peer_of(path) if alone else self._service in properties["UUIDs"].value:
                with suppress(WorkerError):
                    await self.call("Disconnect", path=path, on=DEVICE)

    async def call(
        self,
        member: str,
        *,
        path: str,
        on: str,
        to: str = BLUEZ,
        signature: str = "",
        body: list[Any] | None = None,
    ) -> Message:
        """Call a method.

        Raises:
            WorkerError: it answered with an error, or not at all.
        """
        try:
            async with asyncio.timeout(CALL_S_MAX):
                reply: Message = await self.bus.call(
                    Message(
                        destination=to,
                        path=path,
                        interface=on,
                        member=member,
                        signature=signature,
                        body=body or [],
                    )
                )
        except TimeoutError:
            raise WorkerError(f"{member}: no answer within {CALL_S_MAX:g} s") from None
        except (OSError, EOFError) as error:
            raise WorkerError(f"the D-Bus is gone: {printable(error)}") from None
        if reply.message_type is MessageType.ERROR:
            raise WorkerError(f"{member}: {reply.error_name}")
        return reply

    def _watch(self, message: Message) -> None:
        if message.message_type is not MessageType.SIGNAL or self.lost.done():
            return
        if message.member == "NameOwnerChanged" and message.body[0] == BLUEZ:
            self.lost.set_result("bluetoothd was restarted or is gone")
        elif message.path == self.adapter and message.member == "PropertiesChanged":
            changed = message.body[1]
            if "Powered" in changed and not changed["Powered"].value:
                self.lost.set_result(f"adapter {self._address} was switched off or blocked")
        elif message.member == "InterfacesRemoved" and message.body[0] == self.adapter:
            self.lost.set_result(f"adapter {self._address} is gone")

    async def until_lost(self) -> None:
        """Ask BlueZ again and again whether it is there.

        Raises:
            WorkerError: it is not, or the adapter, or the bus.
        """
        # Once: to cancel it would break the library's own future.
        closed = asyncio.ensure_future(self.bus.wait_for_disconnect())
        while True:
            done, _ = await asyncio.wait(
                {closed, self.lost}, timeout=PING_EVERY_S, return_when=asyncio.FIRST_COMPLETED
            )
            if self.lost in done:
                raise WorkerError(self.lost.result())
            if closed in done:
                raise WorkerError("the D-Bus is gone")
            await self.call("Ping", path="/", on="org.freedesktop.DBus.Peer")


class Peripheral:
    """A GATT server with one service, and its advertisement.

    Each peer that subscribes gets a socket of its own (AcquireNotify), so that two phones at once
    don't hear each other's answers; BlueZ has done that since 5.69, before it has one for all.
    """

    def __init__(self, bluez: Bluez, service: str, to_server: str, to_client: str) -> None:
        self._bluez = bluez
        self._peers: dict[str, socket.socket] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._objects = {
            SERVICE_PATH: {
                GATT_SERVICE: {
                    "UUID": Variant("s", service),
                    "Primary": Variant("b", True),
                }
            },
            TO_SERVER_PATH: {
                GATT_CHARACTERISTIC: {
                    "UUID": Variant("s", to_server),
                    "Service": Variant("o", SERVICE_PATH),
                    "Flags": Variant("as", ["write", "write-without-response"]),
                }
            },
            TO_CLIENT_PATH: {
                GATT_CHARACTERISTIC: {
                    "UUID": Variant("s", to_client),
                    "Service": Variant("o", SERVICE_PATH),
                    "Flags": Variant("as", ["read", "notify"]),
                    "NotifyAcquired": Variant("b", False),
                }
            },
        }
        self._advertisement = {
            "Type": Variant("s", "peripheral"),
            "ServiceUUIDs": Variant("as", [service]),
            "MinInterval": Variant("u", ADVERTISING_MS[0]),
            "MaxInterval": Variant("u", ADVERTISING_MS[1]),
        }

    async def start(self) -> None:
        """Register the service and advertise it."""
        self._bluez.bus.add_message_handler(self._handle)
        for manager, member, path in (
            (GATT_MANAGER, "RegisterApplication", APP),
            (ADVERTISING_MANAGER, "RegisterAdvertisement", ADVERT_PATH),
        ):
            await self._bluez.call(
                member, path=self._bluez.adapter, on=manager, signature="oa{sv}", body=[path, {}]
            )

    async def run(self) -> None:
        """Nothing: BlueZ calls."""

    def order(self, what: str, peer: str, data: bytes) -> None:
        """Carry out an order of the gateway."""
        line = self._peers.get(peer)
        if what == "W" and line is not None:
            try:
                line.send(data)
            except OSError as error:
                self._gone(peer, printable(error))
        elif what == "X":
            self._gone(peer, "hung up")
            self._later(self._remove(peer))

    async def _remove(self, peer: str) -> None:
        # Not Disconnect: for a device that is not trusted that "will disable incoming connections
        # until Connect method is called again" (org.bluez.Device).
        device = f"{self._bluez.adapter}/dev_{':'.join(re.findall('..', peer)).replace(':', '_')}"
        with suppress(WorkerError):
            await self._bluez.call(
                "RemoveDevice",
                path=self._bluez.adapter,
                on=ADAPTER,
                signature="o",
                body=[device],
            )

    def _later(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _handle(self, message: Message) -> Message | bool | None:
        if message.message_type is not MessageType.METHOD_CALL:
            return None
        match message.path, message.interface, message.member:
            case (path, "org.freedesktop.DBus.ObjectManager", "GetManagedObjects") if path == APP:
                return Message.new_method_return(message, "a{oa{sa{sv}}}", [self._objects])
            case (path, "org.freedesktop.DBus.Properties", "GetAll"):
                known = self._objects.get(path or "", {}).get(message.body[0], {})
                if path == ADVERT_PATH:
                    known = self._advertisement
                return Message.new_method_return(message, "a{sv}", [known])
            case (path, "org.bluez.LEAdvertisement1", "Release") if path == ADVERT_PATH:
                if not self._bluez.lost.done():
                    self._bluez.lost.set_result("BlueZ advertises no longer")
                return Message.new_method_return(message)
            case (path, "org.bluez.GattCharacteristic1", "AcquireNotify") if path == TO_CLIENT_PATH:
                return self._acquire(message)
            case (path, "org.bluez.GattCharacteristic1", "WriteValue") if path == TO_SERVER_PATH:
                value, options = message.body
                if "device" in options:
                    peer = peer_of(options["device"].value)
                    say(f"R {peer} {bytes(value)[:512].hex()} {time.monotonic_ns()}")
                return Message.new_method_return(message)
            case (path, "org.bluez.GattCharacteristic1", "ReadValue") if path == TO_CLIENT_PATH:
                return Message.new_method_return(message, "ay", [b""])
        return None

    def _acquire(self, message: Message) -> Message | bool:
        options = message.body[0]
        peer = peer_of(options["device"].value) if "device" in options else ""
        if not PEER.fullmatch(peer) or len(self._peers) >= PEERS_MAX:
            return Message.new_error(message, "org.bluez.Error.NotPermitted", "no room")
        self._gone(peer, "subscribed again")
        mtu = options["mtu"].value if "mtu" in options else MTU_MIN
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        self._peers[peer] = ours
        asyncio.get_running_loop().add_reader(ours, self._hung_up, peer)
        self._later(self._give(message, theirs, mtu, peer))
        return True

    async def _give(self, message: Message, theirs: socket.socket, mtu: int, peer: str) -> None:
        reply = Message.new_method_return(message, "hq", [0, mtu], unix_fds=[theirs.fileno()])
        try:
            await self._bluez.bus.send(reply)
        finally:
            theirs.close()
        say(f"S {peer} {time.monotonic_ns()}")

    def _hung_up(self, peer: str) -> None:
        self._gone(peer, "left")

    def _gone(self, peer: str, why: str) -> None:
        line = self._peers.pop(peer, None)
        if line is not None:
            asyncio.get_running_loop().remove_reader(line)
            line.close()
            say(f"G {peer} {why}")


class Central:
    """Scans for the service with bleak, and connects to whom the gateway says."""

    def __init__(
        self, bluez: Bluez, service: str, to_server: str, to_client: str, only: str
    ) -> None:
        self._bluez = bluez
        self._service = service
        self._to_server = to_server
        self._to_client = to_client
        self._only = only
        self._heard_s = time.monotonic()
        self._devices: dict[str, Any] = {}
        self._clients: dict[str, Any] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._writes: dict[str, asyncio.Queue[bytes]] = {}
        self._scanner: Any = None

    async def start(self) -> None:
        """Scan."""
        from bleak import BleakScanner  # noqa: PLC0415  # half of the start, for this role alone

        self._scanner = BleakScanner(
            self._heard,
            service_uuids=[self._service],
            bluez={
                "adapter": self._bluez.adapter.rpartition("/")[2],
                "filters": {"DuplicateData": True},
            },
        )
        await self._bleak(self._scanner.start())

    async def run(self) -> None:
        """Start the scan anew whenever it has been quiet for too long."""
        while True:
            await asyncio.sleep(QUIET_S_MAX / 4)
            if time.monotonic() - self._heard_s > QUIET_S_MAX and not self._clients:
                self._heard_s = time.monotonic()
                await self._bleak(self._scanner.stop())
                await self._bleak(self._scanner.start())

    @staticmethod
    async def _bleak(work: Awaitable[None]) -> None:
        from bleak.exc import BleakError  # noqa: PLC0415

        try:
            async with asyncio.timeout(CALL_S_MAX):
                await work
        except (BleakError, OSError, EOFError) as error:  # a bus that is gone raises the last two
            raise WorkerError(f"scan: {printable(error)}") from None

    def _heard(self, device: Any, told: Any) -> None:
        self._heard_s = time.monotonic()
        peer = device.address.replace(":", "").upper()
        if self._only not in ("-", peer) or peer in self._clients:
            return
        if len(self._devices) >= 256:
            self._devices.pop(next(iter(self._devices)))
        self._devices[peer] = device
        data = told.service_data.get(self._service, b"")[:64]
        say(f"A {peer} {max(-127, min(told.rssi, 20))} {data.hex()} {time.monotonic_ns()}")

    def order(self, what: str, peer: str, data: bytes) -> None:
        """Carry out an order of the gateway."""
        if what == "C" and peer not in self._tasks:
            if len(self._tasks) >= PEERS_MAX or peer not in self._devices:
                say(f"G {peer} can't be connected now")
                return
            task = asyncio.get_running_loop().create_task(self._converse(peer))
            self._tasks[peer] = task
            task.add_done_callback(lambda _: self._tasks.pop(peer, None))
        elif what == "W" and peer in self._writes:
            with suppress(asyncio.QueueFull):
                self._writes[peer].put_nowait(data)
        elif what == "X" and peer in self._tasks:
            self._tasks[peer].cancel()

    async def _converse(self, peer: str) -> None:
        from bleak import BleakClient  # noqa: PLC0415

        gone = asyncio.Event()
        client = BleakClient(
            self._devices[peer],
            lambda _: gone.set(),
            services=[self._service],
            timeout=CONNECT_S_MAX,
        )
        self._clients[peer] = client
        writes = self._writes[peer] = asyncio.Queue(16)
        why = "left"
        try:
            async with asyncio.timeout(CONNECT_S_MAX):
                await client.connect()
                await client.start_notify(
                    self._to_client,
                    lambda _, data: say(f"R {peer} {bytes(data).hex()} {time.monotonic_ns()}"),
                )
            say(f"S {peer} {time.monotonic_ns()}")
            left = asyncio.ensure_future(gone.wait())
            try:
                while not gone.is_set():
                    next_write = asyncio.ensure_future(writes.get())
                    await asyncio.wait({left, next_write}, return_when=asyncio.FIRST_COMPLETED)
                    if next_write.done():
                        await client.write_gatt_char(
                            self._to_server, next_write.result(), response=True
                        )
                    else:
                        next_write.cancel()
            finally:
                left.cancel()
        except asyncio.CancelledError:
            why = "hung up"
        except Exception as error:  # noqa: BLE001  # bleak raises what D-Bus and sockets raise
            why = printable(error) or type(error).__name__
        finally:
            self._clients.pop(peer, None)
            self._writes.pop(peer, None)
            self._heard_s = time.monotonic()
            with suppress(Exception):
                async with asyncio.timeout(CALL_S_MAX):
                    await client.disconnect()
            say(f"G {peer} {why}")


async def work(role: str, adapter: str, service: str, gatt: tuple[str, str], only: str) -> None:
    """Do what the role says until something is lost.

    Raises:
        WorkerError: what it was.
    """
    bluez = Bluez(adapter, service, only)
    await bluez.open()
    at_work: Peripheral | Central = (
        Peripheral(bluez, service, *gatt)
        if role == "peripheral"
        else Central(bluez, service, *gatt, only)
    )
    await at_work.start()
    if role == "central":  # after that no module can be read any more
        import bleak.backends.bluezdbus.client  # noqa: PLC0415
        import bleak.backends.bluezdbus.scanner  # noqa: F401, PLC0415
    # bleak opens a connection of its own to the bus for each lock; a phone gets a pair of sockets.
    _lock_in(frozenset({"socket", "connect"} if role == "central" else {"socketpair"}))
    say(f"O {time.monotonic_ns()}")

    async def beat() -> None:
        while True:
            say("H")
            await asyncio.sleep(HEARTBEAT_S)

    try:
        async with asyncio.TaskGroup() as group:
            for each in (bluez.until_lost(), at_work.run(), beat(), orders(at_work.order)):
                group.create_task(each)
    except BaseExceptionGroup as failed:
        raise failed.exceptions[0] from None


def _lock_in(kept: frozenset[str]) -> None:
    """Give up what an open port doesn't need, by `confinement.py` beside this file."""
    place = Path(__file__).with_name("confinement.py")
    spec = importlib.util.spec_from_file_location("confinement", place)
    assert spec is not None and spec.loader is not None  # noqa: S101, PT018  # it is a file
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    loaded.lock_in(kept)  # where it can't, the core has logged why


async def orders(carry_out: Callable[[str, str, bytes], None]) -> None:
    """Read orders from standard input; its end is this process's."""
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(0, "rb", 0)
    )
    while line := await reader.readline():
        what, peer, *data = line.decode().split()
        carry_out(what, peer, bytes.fromhex(data[0]) if data else b"")
    os._exit(0)


def main() -> None:
    """Run until killed. Never returns."""
    _, role, bus, adapter, service, to_server, to_client, only, parent = sys.argv
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(parent):
        os._exit(2)
    os.environ["DBUS_SYSTEM_BUS_ADDRESS"] = f"unix:path={bus}"
    logging.disable()  # bleak logs what is written
    try:
        asyncio.run(work(role, adapter, service, (to_server, to_client), only))
    except BrokenPipeError:
        pass
    except BaseException as error:  # noqa: BLE001  # whatever it is, it is this process's end
        told = error if isinstance(error, WorkerError) else f"{type(error).__name__} {error}"
        with suppress(OSError):
            say(f"E {printable(told)}")
    finally:
        os._exit(1)


if __name__ == "__main__":
    main()
