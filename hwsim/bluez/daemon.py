"""An emulated bluetoothd: `org.bluez` with its adapters, in both roles, and all it can suffer.

Written from the manual pages of BlueZ 5.8x (doc/org.bluez.*.rst). It keeps what those say about
lifetimes: a device that only advertised is forgotten after a while, a client's discovery, services
and advertisements go with its bus connection, connections that a client made do not.
"""

import asyncio
import math
import os
import random
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from dbus_fast import Message, MessageFlag, MessageType, Variant
from dbus_fast.aio import MessageBus

from hwsim.bluez.bus import PrivateBus
from hwsim.bluez.radio import HEARD_DBM_MIN, Peer, rssi

BLUEZ = "org.bluez"
ADAPTER = "org.bluez.Adapter1"
DEVICE = "org.bluez.Device1"
SERVICE = "org.bluez.GattService1"
CHARACTERISTIC = "org.bluez.GattCharacteristic1"
GATT_MANAGER = "org.bluez.GattManager1"
ADVERTISING_MANAGER = "org.bluez.LEAdvertisingManager1"
ADVERTISEMENT = "org.bluez.LEAdvertisement1"
OBJECTS = "org.freedesktop.DBus.ObjectManager"
PROPERTIES = "org.freedesktop.DBus.Properties"
DBUS = "org.freedesktop.DBus"

TEMPORARY_S = 30.0
"""main.conf, TemporaryTimeout: how long a device that only advertised is remembered."""
MTU = 517
ADVERTISING_INSTANCES = 5
CALL_S_MAX = 5.0

Properties = dict[str, Variant]


@dataclass(frozen=True)
class Timing:
    """How long the air takes, in seconds; nothing by default."""

    connect_s: float = 0.0
    discover_s: float = 0.0
    att_s: float = 0.0
    """One exchange of the attribute protocol: about one connection interval."""


class BluezError(Exception):
    """What a call is answered with: an error of `org.bluez.Error`."""

    def __init__(self, name: str, text: str = "") -> None:
        super().__init__(text or name)
        self.name = f"org.bluez.Error.{name}"


@dataclass
class Application:
    """A registered GATT application: its client's characteristics, by service and UUID."""

    client: str
    path: str
    characteristics: dict[tuple[str, str], tuple[str, dict[str, Any]]]


@dataclass
class Adapter:
    """One controller."""

    name: str
    address: str
    place: tuple[float, float] = (0.0, 0.0)
    powered: bool = True
    blocked: bool = False
    discovering: dict[str, dict[str, Any]] = field(default_factory=dict)
    applications: list[Application] = field(default_factory=list)
    advertisements: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)

    @property
    def path(self) -> str:
        """Its object."""
        return f"/org/bluez/{self.name}"

    def device(self, address: str) -> str:
        """The object of a remote device."""
        return f"{self.path}/dev_{address.replace(':', '_')}"


class OutLink:
    """A connection that a client of BlueZ made to a peer's GATT server."""

    def __init__(self, daemon: "Bluez", adapter: Adapter, peer: Peer) -> None:
        self.daemon = daemon
        self.adapter = adapter
        self.peer = peer
        self.notifying: set[str] = set()

    @property
    def path(self) -> str:
        """The peer's object."""
        return self.adapter.device(self.peer.address)

    def notify(self, uuid: str, data: bytes) -> None:
        """See `Link`."""
        path = self.daemon.characteristic(self.path, uuid)
        if path in self.notifying:
            self.daemon.changed(path, CHARACTERISTIC, {"Value": Variant("ay", data)})

    def close(self) -> None:
        """See `Link`."""
        self.daemon.drop(self)


class InLink:
    """A phone's connection to the GATT server that BlueZ' clients registered."""

    def __init__(self, daemon: "Bluez", adapter: Adapter, address: str, mtu: int) -> None:
        self._daemon = daemon
        self.adapter = adapter
        self.address = address
        self.mtu = mtu
        self.open = True
        self.received: asyncio.Queue[bytes | None] = asyncio.Queue()
        """Notifications; None: the connection is over."""
        self._descriptors: list[int] = []

    @property
    def path(self) -> str:
        """The phone's object."""
        return self.adapter.device(self.address)

    @property
    def services(self) -> set[str]:
        """What a discovery would find."""
        return {key[0] for app in self.adapter.applications for key in app.characteristics}

    async def subscribe(self, service: str, uuid: str) -> None:
        """Write the characteristic's client configuration: notifications, please."""
        app, path, properties = self._find(service, uuid)
        await asyncio.sleep(self._daemon.timing.att_s)
        if "NotifyAcquired" not in properties:
            raise NotImplementedError("only servers with AcquireNotify are emulated")
        reply = await self._daemon.call(
            app.client, path, CHARACTERISTIC, "AcquireNotify", "a{sv}", [self._options()]
        )
        descriptor = os.dup(reply.unix_fds[reply.body[0]])
        for each in reply.unix_fds:
            os.close(each)
        self._descriptors.append(descriptor)
        asyncio.get_running_loop().add_reader(descriptor, self._readable, descriptor)

    async def write(self, service: str, uuid: str, data: bytes) -> None:
        """Write a characteristic."""
        app, path, _ = self._find(service, uuid)
        await asyncio.sleep(self._daemon.timing.att_s)
        options = {**self._options(), "type": Variant("s", "request")}
        await self._daemon.call(
            app.client, path, CHARACTERISTIC, "WriteValue", "aya{sv}", [data, options]
        )

    async def read(self, service: str, uuid: str) -> bytes:
        """Read a characteristic."""
        app, path, _ = self._find(service, uuid)
        reply = await self._daemon.call(
            app.client, path, CHARACTERISTIC, "ReadValue", "a{sv}", [self._options()]
        )
        return bytes(reply.body[0])

    def close(self) -> None:
        """Hang up."""
        if self.open:
            self.open = False
            for descriptor in self._descriptors:
                asyncio.get_running_loop().remove_reader(descriptor)
                os.close(descriptor)
            self._descriptors.clear()
            self.received.put_nowait(None)
            self._daemon.left(self)

    def _find(self, service: str, uuid: str) -> tuple[Application, str, dict[str, Any]]:
        if self.open:
            for app in self.adapter.applications:
                if found := app.characteristics.get((service, uuid)):
                    return app, *found
        raise ConnectionError(f"{self.address}: no {uuid} in {service}")

    def _options(self) -> Properties:
        return {
            "device": Variant("o", self.path),
            "mtu": Variant("q", self.mtu),
            "link": Variant("s", "LE"),
        }

    def _readable(self, descriptor: int) -> None:
        try:
            data = os.read(descriptor, 1024)
        except OSError:
            data = b""
        if data:
            # A notification carries three bytes less than the MTU; the rest is cut off.
            self.received.put_nowait(data[: self.mtu - 3])
        else:
            asyncio.get_running_loop().remove_reader(descriptor)
            os.close(descriptor)
            self._descriptors.remove(descriptor)


class Bluez:
    """bluetoothd, its adapters and everybody in their range."""

    def __init__(
        self, bus: PrivateBus, *, timing: Timing | None = None, rng: random.Random | None = None
    ) -> None:
        """Own nothing yet; adapters may be added before `start`."""
        self.private_bus = bus
        self.timing = timing or Timing()
        self.adapters: dict[str, Adapter] = {}
        self.in_links: set[InLink] = set()
        self.out_links: set[OutLink] = set()
        self.deaf = False
        """Scans are said to run and find nothing, until one is begun anew: issue 807 of BlueZ."""
        self.hung = False
        self.connects = 0
        self._rng = rng or random.Random(0)
        self._bus: MessageBus | None = None
        self._objects: dict[str, dict[str, Properties]] = {}
        self._seen_s: dict[str, float] = {}
        self._peers: dict[Peer, asyncio.Task[None]] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._filters: dict[str, dict[str, Any]] = {}

    # --- life and faults ----------------------------------------------------------------------

    async def start(self) -> None:
        """Appear on the bus."""
        bus = MessageBus(bus_address=self.private_bus.address, negotiate_unix_fd=True)
        self._bus = await bus.connect()
        self._bus.add_message_handler(self._handle)
        rule = f"type='signal',sender='{DBUS}',member='NameOwnerChanged'"
        await self.call(DBUS, "/org/freedesktop/DBus", DBUS, "AddMatch", "s", [rule])
        self._objects = {}
        for adapter in self.adapters.values():
            self._show(adapter)
        await self._bus.request_name(BLUEZ)

    async def stop(self) -> None:
        """Vanish from the bus; everybody's connection is over."""
        for in_link in tuple(self.in_links):
            in_link.close()
        for out_link in tuple(self.out_links):
            self.drop(out_link)
        for adapter in self.adapters.values():
            adapter.discovering.clear()
            adapter.applications.clear()
            adapter.advertisements.clear()
        for task in tuple(self._tasks):
            task.cancel()
        if self._bus is not None:
            bus: Any = self._bus
            self._bus = None
            bus.disconnect()
            with suppress(Exception):  # whatever the bus died of
                await bus.wait_for_disconnect()
        self.hung = False

    async def end(self) -> None:
        """Stop, and take everybody out of the air."""
        for peer in tuple(self._peers):
            self.leave(peer)
        await self.stop()

    async def restart(self, away_s: float = 0.05) -> None:
        """Start bluetoothd anew, as its service manager would."""
        await self.stop()
        await asyncio.sleep(away_s)
        await self.start()

    def add_adapter(
        self, name: str, address: str, place: tuple[float, float] = (0.0, 0.0)
    ) -> Adapter:
        """Plug in a controller."""
        adapter = self.adapters[name] = Adapter(name, address, place)
        if self._bus is not None:
            self._show(adapter)
            self._signal("/", OBJECTS, "InterfacesAdded", "oa{sa{sv}}", self._added(adapter.path))
        return adapter

    def remove_adapter(self, name: str) -> None:
        """Unplug a controller."""
        adapter = self.adapters.pop(name)
        for in_link in [link for link in self.in_links if link.adapter is adapter]:
            in_link.close()
        for out_link in [link for link in self.out_links if link.adapter is adapter]:
            self.drop(out_link)
        for path in [path for path in self._objects if path.startswith(f"{adapter.path}/")]:
            self._forget(path)
        self._forget(adapter.path)

    def power(self, name: str, *, on: bool, blocked: bool = False) -> None:
        """Switch a controller on or off, or let rfkill block it."""
        adapter = self.adapters[name]
        adapter.powered, adapter.blocked = on and not blocked, blocked
        if not adapter.powered:
            adapter.discovering.clear()
            adapter.advertisements.clear()
            for in_link in [link for link in self.in_links if link.adapter is adapter]:
                in_link.close()
            for out_link in [link for link in self.out_links if link.adapter is adapter]:
                self.drop(out_link)
        state = "off-blocked" if blocked else "on" if on else "off"
        self.changed(
            adapter.path,
            ADAPTER,
            {"Powered": Variant("b", adapter.powered), "PowerState": Variant("s", state)},
        )

    # --- the air ------------------------------------------------------------------------------

    def join(self, peer: Peer) -> None:
        """Let a peer be in the air: it advertises as it says."""
        self._peers[peer] = asyncio.get_running_loop().create_task(self._advertise(peer))

    def leave(self, peer: Peer) -> None:
        """Take a peer out of the air."""
        if task := self._peers.pop(peer, None):
            task.cancel()
        for link in [link for link in self.out_links if link.peer is peer]:
            self.drop(link)

    async def connect(self, peer: Peer, adapter: Adapter, mtu: int = MTU) -> InLink:
        """A peer connects to an adapter that advertises.

        Raises:
            ConnectionError: the adapter does not advertise, or the peer is out of its range.
        """
        await asyncio.sleep(self.timing.connect_s)
        if not adapter.powered or not adapter.advertisements:
            raise ConnectionError(f"{adapter.name} does not advertise")
        if self._distance_rssi(peer, adapter) is None:
            raise ConnectionError(f"{adapter.name} is out of range")
        link = InLink(self, adapter, peer.address, mtu)
        self.in_links.add(link)
        self.connects += 1
        self._add_device(adapter, peer.address, {"Connected": Variant("b", True)})
        await asyncio.sleep(self.timing.discover_s)
        return link

    def heard(self, adapter: Adapter) -> set[str]:
        """The service UUIDs that an adapter advertises."""
        return {
            uuid
            for properties in adapter.advertisements.values()
            for uuid in properties.get("ServiceUUIDs", ())
        }

    def _distance_rssi(self, peer: Peer, adapter: Adapter) -> int | None:
        return rssi(math.dist(peer.walk.at(time.monotonic()), adapter.place), self._rng)

    async def _advertise(self, peer: Peer) -> None:
        while True:
            told = peer.advertisement
            await asyncio.sleep(told.interval_s if told else 0.02)
            if told is None or peer.advertisement is not told:
                continue
            if any(link.peer is peer for link in self.out_links):
                continue
            for adapter in tuple(self.adapters.values()):
                self._hear(peer, adapter)

    def _hear(self, peer: Peer, adapter: Adapter) -> None:
        told = peer.advertisement
        if self._bus is None or self.hung or told is None:
            return
        if not adapter.powered or not adapter.discovering or self.deaf:
            return
        strength = self._distance_rssi(peer, adapter)
        if strength is None:
            return
        wanted = [set(each.get("UUIDs", ())) for each in adapter.discovering.values()]
        if not any(not uuids or uuids & set(told.uuids) for uuids in wanted):
            return
        self._add_device(
            adapter,
            peer.address,
            {
                "RSSI": Variant("n", max(strength, round(HEARD_DBM_MIN))),
                "UUIDs": Variant("as", list(told.uuids)),
                "ServiceData": Variant(
                    "a{sv}", {uuid: Variant("ay", data) for uuid, data in told.service_data.items()}
                ),
            },
        )
        self._forget_the_silent()

    def _forget_the_silent(self) -> None:
        now_s = time.monotonic()
        for path, seen_s in tuple(self._seen_s.items()):
            connected = self._objects[path][DEVICE]["Connected"].value
            if now_s - seen_s > TEMPORARY_S and not connected:
                self._forget(path)

    # --- objects and signals ------------------------------------------------------------------

    def _show(self, adapter: Adapter) -> None:
        self._objects[adapter.path] = {
            ADAPTER: {
                "Address": Variant("s", adapter.address),
                "AddressType": Variant("s", "public"),
                "Name": Variant("s", "door"),
                "Alias": Variant("s", "door"),
                "Powered": Variant("b", adapter.powered),
                "PowerState": Variant("s", "off-blocked" if adapter.blocked else "on"),
                "Discovering": Variant("b", bool(adapter.discovering)),
                "Roles": Variant("as", ["central", "peripheral", "central-peripheral"]),
                "UUIDs": Variant("as", []),
            },
            GATT_MANAGER: {},
            ADVERTISING_MANAGER: {
                "ActiveInstances": Variant("y", len(adapter.advertisements)),
                "SupportedInstances": Variant("y", ADVERTISING_INSTANCES),
            },
        }

    def _add_device(self, adapter: Adapter, address: str, properties: Properties) -> None:
        path = adapter.device(address)
        self._seen_s[path] = time.monotonic()
        if path in self._objects:
            self.changed(path, DEVICE, properties)
            return
        self._objects[path] = {
            DEVICE: {
                "Address": Variant("s", address),
                "AddressType": Variant("s", "random"),
                "Alias": Variant("s", address.replace(":", "-")),
                "Adapter": Variant("o", adapter.path),
                "Paired": Variant("b", False),
                "Bonded": Variant("b", False),
                "Trusted": Variant("b", False),
                "Blocked": Variant("b", False),
                "LegacyPairing": Variant("b", False),
                "Connected": Variant("b", False),
                "ServicesResolved": Variant("b", False),
                "UUIDs": Variant("as", []),
                **properties,
            }
        }
        self._signal("/", OBJECTS, "InterfacesAdded", "oa{sa{sv}}", self._added(path))

    def _added(self, path: str) -> list[Any]:
        return [path, self._objects[path]]

    def _forget(self, path: str) -> None:
        for below in [each for each in self._objects if each.startswith(f"{path}/")]:
            interfaces = list(self._objects.pop(below))
            self._signal("/", OBJECTS, "InterfacesRemoved", "oas", [below, interfaces])
        self._seen_s.pop(path, None)
        if interfaces := list(self._objects.pop(path, {})):
            self._signal("/", OBJECTS, "InterfacesRemoved", "oas", [path, interfaces])

    def changed(self, path: str, interface: str, properties: Properties) -> None:
        """Set properties and tell those that are new."""
        known = self._objects.get(path, {}).get(interface)
        if known is None:
            return
        # A notification is one every time, whatever its value.
        fresh = {
            name: value
            for name, value in properties.items()
            if name == "Value" or name not in known or known[name].value != value.value
        }
        known.update(fresh)
        if fresh:
            self._signal(path, PROPERTIES, "PropertiesChanged", "sa{sv}as", [interface, fresh, []])

    def _signal(
        self, path: str, interface: str, member: str, signature: str, body: list[Any]
    ) -> None:
        if self._bus is not None and self._bus.connected:
            self._bus.send(
                Message(
                    message_type=MessageType.SIGNAL,
                    path=path,
                    interface=interface,
                    member=member,
                    signature=signature,
                    body=body,
                )
            )

    async def call(
        self, client: str, path: str, interface: str, member: str, signature: str, body: list[Any]
    ) -> Message:
        """Call a client's method.

        Raises:
            ConnectionError: it answered with an error, or is gone.
        """
        if self._bus is None:
            raise ConnectionError("bluetoothd is not there")
        async with asyncio.timeout(CALL_S_MAX):
            reply = await self._bus.call(
                Message(
                    destination=client,
                    path=path,
                    interface=interface,
                    member=member,
                    signature=signature,
                    body=body,
                )
            )
        if reply.message_type is MessageType.ERROR:
            why = reply.body[0] if reply.body else reply.error_name
            raise ConnectionError(f"{member}: {why}")
        return reply

    # --- calls from clients -------------------------------------------------------------------

    def _handle(self, message: Message) -> Message | bool | None:
        if message.message_type is MessageType.SIGNAL:
            if message.member == "NameOwnerChanged" and not message.body[2]:
                self._client_left(message.body[0])
            return None
        if message.message_type is not MessageType.METHOD_CALL:
            return None
        if self.hung:
            return True
        answer = {
            (OBJECTS, "GetManagedObjects"): self._managed,
            (PROPERTIES, "Get"): self._get,
            (PROPERTIES, "GetAll"): self._get_all,
            (PROPERTIES, "Set"): self._set,
            (ADAPTER, "SetDiscoveryFilter"): self._set_filter,
            (ADAPTER, "StartDiscovery"): self._start_discovery,
            (ADAPTER, "StopDiscovery"): self._stop_discovery,
            (ADAPTER, "RemoveDevice"): self._remove_device,
            (DEVICE, "Connect"): self._connect_device,
            (DEVICE, "Disconnect"): self._disconnect_device,
            (CHARACTERISTIC, "WriteValue"): self._write_value,
            (CHARACTERISTIC, "StartNotify"): self._start_notify,
            (CHARACTERISTIC, "StopNotify"): self._stop_notify,
            (GATT_MANAGER, "RegisterApplication"): self._register_application,
            (GATT_MANAGER, "UnregisterApplication"): self._unregister_application,
            (ADVERTISING_MANAGER, "RegisterAdvertisement"): self._register_advertisement,
            (ADVERTISING_MANAGER, "UnregisterAdvertisement"): self._unregister_advertisement,
        }.get((message.interface or "", message.member or ""))
        if answer is None:
            return None
        self._later(self._answer(message, answer))
        return True

    def _later(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer(
        self, message: Message, answer: Callable[[Message], Coroutine[Any, Any, Message]]
    ) -> None:
        try:
            if message.path not in ("/", *self._objects):
                reply = Message.new_error(
                    message, "org.freedesktop.DBus.Error.UnknownObject", f"no {message.path}"
                )
            else:
                reply = await answer(message)
        except BluezError as error:
            reply = Message.new_error(message, error.name, str(error))
        if self._bus is not None and not message.flags & MessageFlag.NO_REPLY_EXPECTED:
            self._bus.send(reply)

    def _client_left(self, client: str) -> None:
        self._filters.pop(client, None)
        for adapter in self.adapters.values():
            adapter.discovering.pop(client, None)
            adapter.applications = [app for app in adapter.applications if app.client != client]
            for key in [key for key in adapter.advertisements if key[0] == client]:
                del adapter.advertisements[key]

    async def _managed(self, message: Message) -> Message:
        return Message.new_method_return(message, "a{oa{sa{sv}}}", [self._objects])

    async def _get(self, message: Message) -> Message:
        interface, name = message.body
        try:
            value = self._objects[message.path or ""][interface][name]
        except KeyError:
            raise BluezError("InvalidArguments", f"no {interface}.{name}") from None
        return Message.new_method_return(message, "v", [value])

    async def _get_all(self, message: Message) -> Message:
        known = self._objects.get(message.path or "", {}).get(message.body[0], {})
        return Message.new_method_return(message, "a{sv}", [known])

    async def _set(self, message: Message) -> Message:
        interface, name, value = message.body
        adapter = self._adapter(message)
        if (interface, name) != (ADAPTER, "Powered"):
            raise BluezError("NotSupported")
        if adapter.blocked:
            raise BluezError("Failed", "Blocked through rfkill")
        self.power(adapter.name, on=value.value)
        return Message.new_method_return(message)

    def _adapter(self, message: Message) -> Adapter:
        name = (message.path or "").split("/")[3]
        return self.adapters[name]

    def _ready(self, message: Message) -> Adapter:
        adapter = self._adapter(message)
        if not adapter.powered:
            raise BluezError("NotReady", "Resource Not Ready")
        return adapter

    async def _set_filter(self, message: Message) -> Message:
        adapter = self._ready(message)
        filters = {name: value.value for name, value in message.body[0].items()}
        client = message.sender or ""
        if client in adapter.discovering:
            adapter.discovering[client] = filters
        self._filters[client] = filters
        return Message.new_method_return(message)

    async def _start_discovery(self, message: Message) -> Message:
        adapter = self._ready(message)
        client = message.sender or ""
        if client in adapter.discovering:
            raise BluezError("InProgress", "Operation already in progress")
        self.deaf = False
        adapter.discovering[client] = self._filters.get(client, {})
        self.changed(adapter.path, ADAPTER, {"Discovering": Variant("b", True)})
        return Message.new_method_return(message)

    async def _stop_discovery(self, message: Message) -> Message:
        adapter = self._ready(message)
        if adapter.discovering.pop(message.sender or "", None) is None:
            raise BluezError("Failed", "No discovery started")
        if not adapter.discovering:
            self.changed(
                adapter.path,
                ADAPTER,
                {"Discovering": Variant("b", False)},
            )
        return Message.new_method_return(message)

    async def _remove_device(self, message: Message) -> Message:
        path = message.body[0]
        if path not in self._objects:
            raise BluezError("DoesNotExist", "Does Not Exist")
        for in_link in [link for link in self.in_links if link.path == path]:
            in_link.close()
        for out_link in [link for link in self.out_links if link.path == path]:
            self.drop(out_link)
        self._forget(path)
        return Message.new_method_return(message)

    # --- the central role ---------------------------------------------------------------------

    async def _connect_device(self, message: Message) -> Message:
        adapter = self._ready(message)
        path = message.path or ""
        peer = next((each for each in self._peers if adapter.device(each.address) == path), None)
        await asyncio.sleep(self.timing.connect_s)
        if (
            peer is None
            or not peer.connectable
            or peer.advertisement is None
            or self._distance_rssi(peer, adapter) is None
            or path not in self._objects
        ):
            raise BluezError("Failed", "le-connection-abort-by-remote")
        link = OutLink(self, adapter, peer)
        self.out_links.add(link)
        self.connects += 1
        self.changed(path, DEVICE, {"Connected": Variant("b", True)})
        self._later(self._discover(link))
        return Message.new_method_return(message)

    async def _discover(self, link: OutLink) -> None:
        await asyncio.sleep(self.timing.discover_s)
        if link not in self.out_links:
            return
        handle = 0x10
        for service, characteristics in link.peer.services.items():
            path = f"{link.path}/service{handle:04x}"
            self._objects[path] = {
                SERVICE: {
                    "UUID": Variant("s", service),
                    "Device": Variant("o", link.path),
                    "Primary": Variant("b", True),
                    "Includes": Variant("ao", []),
                }
            }
            self._signal("/", OBJECTS, "InterfacesAdded", "oa{sa{sv}}", self._added(path))
            for uuid, flags in characteristics.items():
                handle += 2
                below = f"{path}/char{handle:04x}"
                self._objects[below] = {
                    CHARACTERISTIC: {
                        "UUID": Variant("s", uuid),
                        "Service": Variant("o", path),
                        "Value": Variant("ay", b""),
                        "Notifying": Variant("b", False),
                        "Flags": Variant("as", list(flags)),
                        "MTU": Variant("q", MTU),
                    }
                }
                self._signal("/", OBJECTS, "InterfacesAdded", "oa{sa{sv}}", self._added(below))
            handle += 0x10
        self.changed(link.path, DEVICE, {"ServicesResolved": Variant("b", True)})
        link.peer.connected(link)

    def drop(self, link: OutLink) -> None:
        """End a connection that a client made, whoever wants it."""
        if link not in self.out_links:
            return
        self.out_links.discard(link)
        off = Variant("b", False)
        for path in [path for path in self._objects if path.startswith(f"{link.path}/")]:
            interfaces = list(self._objects.pop(path))
            self._signal("/", OBJECTS, "InterfacesRemoved", "oas", [path, interfaces])
        self.changed(link.path, DEVICE, {"ServicesResolved": off, "Connected": off})
        link.peer.disconnected(link)

    async def _disconnect_device(self, message: Message) -> Message:
        for out_link in [link for link in self.out_links if link.path == message.path]:
            self.drop(out_link)
        for in_link in [link for link in self.in_links if link.path == message.path]:
            in_link.close()
        return Message.new_method_return(message)

    def characteristic(self, device: str, uuid: str) -> str | None:
        """The object of a connected peer's characteristic."""
        return next(
            (
                path
                for path, interfaces in self._objects.items()
                if path.startswith(f"{device}/")
                and CHARACTERISTIC in interfaces
                and interfaces[CHARACTERISTIC]["UUID"].value == uuid
            ),
            None,
        )

    def _link_of(self, message: Message) -> tuple[OutLink, str]:
        path = message.path or ""
        for link in self.out_links:
            if path.startswith(f"{link.path}/"):
                return link, self._objects[path][CHARACTERISTIC]["UUID"].value
        raise BluezError("NotConnected", "Not Connected")

    async def _write_value(self, message: Message) -> Message:
        await asyncio.sleep(self.timing.att_s)
        link, uuid = self._link_of(message)
        link.peer.written(link, uuid, bytes(message.body[0]))
        return Message.new_method_return(message)

    async def _start_notify(self, message: Message) -> Message:
        await asyncio.sleep(self.timing.att_s)
        link, uuid = self._link_of(message)
        link.notifying.add(message.path or "")
        self._later(self._subscribed(link, uuid))
        return Message.new_method_return(message)

    @staticmethod
    async def _subscribed(link: OutLink, uuid: str) -> None:
        link.peer.subscribed(link, uuid)

    async def _stop_notify(self, message: Message) -> Message:
        link, _ = self._link_of(message)
        link.notifying.discard(message.path or "")
        return Message.new_method_return(message)

    # --- the peripheral role ------------------------------------------------------------------

    async def _register_application(self, message: Message) -> Message:
        adapter, client, path = self._adapter(message), message.sender or "", message.body[0]
        if any((app.client, app.path) == (client, path) for app in adapter.applications):
            raise BluezError("AlreadyExists", "Already Exists")
        reply = await self.call(client, path, OBJECTS, "GetManagedObjects", "", [])
        objects = {
            each: {name: {k: v.value for k, v in props.items()} for name, props in ifaces.items()}
            for each, ifaces in reply.body[0].items()
        }
        found = {}
        for each, interfaces in objects.items():
            if properties := interfaces.get(CHARACTERISTIC):
                service = objects[properties["Service"]][SERVICE]["UUID"].lower()
                found[service, properties["UUID"].lower()] = (each, properties)
        if not found:
            raise BluezError("InvalidArguments", "No object received")
        adapter.applications.append(Application(client, path, found))
        return Message.new_method_return(message)

    async def _unregister_application(self, message: Message) -> Message:
        adapter, client, path = self._adapter(message), message.sender or "", message.body[0]
        kept = [app for app in adapter.applications if (app.client, app.path) != (client, path)]
        if len(kept) == len(adapter.applications):
            raise BluezError("DoesNotExist", "Does Not Exist")
        adapter.applications = kept
        return Message.new_method_return(message)

    async def _register_advertisement(self, message: Message) -> Message:
        adapter, client, path = self._ready(message), message.sender or "", message.body[0]
        if (client, path) in adapter.advertisements:
            raise BluezError("AlreadyExists", "Already Exists")
        if len(adapter.advertisements) >= ADVERTISING_INSTANCES:
            raise BluezError("NotPermitted", "Maximum advertisements reached")
        reply = await self.call(client, path, PROPERTIES, "GetAll", "s", [ADVERTISEMENT])
        properties = {name: value.value for name, value in reply.body[0].items()}
        uuids = [uuid.lower() for uuid in properties.get("ServiceUUIDs", ())]
        # Flags, then a field for the 16-bit and one for the 128-bit UUIDs (Core specification
        # supplement, part A, 1.1).
        short = [uuid for uuid in uuids if uuid.endswith("-0000-1000-8000-00805f9b34fb")]
        size = 3 + (2 + 2 * len(short) if short else 0)
        size += 2 + 16 * (len(uuids) - len(short)) if len(uuids) > len(short) else 0
        if size > 31:
            raise BluezError("InvalidLength", "Advertising data too long")
        adapter.advertisements[client, path] = {**properties, "ServiceUUIDs": uuids}
        return Message.new_method_return(message)

    async def _unregister_advertisement(self, message: Message) -> Message:
        adapter = self._adapter(message)
        if adapter.advertisements.pop((message.sender or "", message.body[0]), None) is None:
            raise BluezError("DoesNotExist", "Does Not Exist")
        return Message.new_method_return(message)

    def left(self, link: InLink) -> None:
        """A phone hung up."""
        self.in_links.discard(link)
        self.changed(link.path, DEVICE, {"Connected": Variant("b", False)})
