"""In the guest: kernel, bluetoothd and bleak are real, the radio and who is in it are bumble's."""

import asyncio
import json
import os
import random
import statistics
import subprocess
import sys
import time
import traceback
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

from bumble.controller import Controller
from bumble.core import UUID, AdvertisingData
from bumble.device import Device, Peer
from bumble.gatt import Characteristic, CharacteristicValue, Service
from bumble.hci import Address, LeFeatureMask
from bumble.host import Host
from bumble.link import LocalLink
from bumble.transport import open_transport
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from gateway.clock import SystemClock
from gateway.domain.facts import CredentialPresented, DeviceOffline, DeviceOnline, Fact
from gateway.domain.signal import Signal
from gateway.drivers import ble_lock, ble_reader, ble_scanner, ble_sessions
from gateway.supervise import keep_running
from hwsim.ble_lock import BatteryLock
from hwsim.bluez.bus import PrivateBus
from hwsim.bluez.radio import Peer as Actor
from hwsim.bluez.site import key_named
from hwsim.phones import PKOC_SERVICE, Fob, PkocPhone, Tricks

ADAPTER = "F0:F1:F2:F3:F4:F5"
PHONE = "C1:00:00:00:00:01"
FOB = "C1:00:00:00:00:02"
LOCK = "C1:00:00:00:00:03"
LOCK_KEY = bytes(range(32))
SITE_SERVICE = "2b7c1f64-3c5e-4f0e-8f43-55a0c5a3f0d1"
SITE_ID, DOOR_ID = "7f3a2c52-0c61-4d0b-a52d-1c4b5d1f0a10", "7f3a2c52-0c61-4d0b-a52d-1c4b5d1f0a21"
VERSION = subprocess.check_output(["/usr/sbin/bluetoothd", "-v"], text=True).strip()
TAPS = int(os.environ.get("STAGE_TAPS", "10"))
MODULES = ("algif_skcipher", "algif_hash", "cmac", "ecb", "uhid", "hci_vhci")


def tell(name: str, **what: object) -> None:
    print("RESULT", json.dumps({"stage": name, **what}), flush=True)


def spread(times_s: list[float]) -> dict[str, float]:
    times_ms = sorted(each * 1000 for each in times_s)
    return {
        "count": len(times_ms),
        "min_ms": round(times_ms[0], 1),
        "median_ms": round(statistics.median(times_ms), 1),
        "max_ms": round(times_ms[-1], 1),
    }


class Air(LocalLink):
    """Bumble's radio, which would label all data with the sender's random address, whichever it
    was connected by: the kernel scans and connects with others."""

    def send_acl_data(
        self, sender_controller: Any, destination_address: Any, transport: Any, data: bytes
    ) -> None:
        receiver = self.find_le_controller(destination_address)
        connection = sender_controller.le_connections.get(destination_address)
        if receiver is not None and connection is not None:
            asyncio.get_running_loop().call_soon(
                receiver.on_link_acl_data, connection.self_address, transport, data
            )


class Run:
    """A driver that is kept running."""

    def __init__(self, driver: Any, clock: SystemClock, answer: bool = True) -> None:
        self.driver = driver
        self.facts: list[Fact] = []
        self.at_s: list[float] = []
        self._told = asyncio.Event()
        self._answer = answer
        self.task = asyncio.create_task(
            keep_running(
                driver.device_id,
                lambda: driver.run(self._take),
                clock=clock,
                rng=random.Random(0),
                on_down=lambda why: self._take(DeviceOffline("", why, timedelta())),
            )
        )

    def _take(self, fact: Fact) -> None:
        self.facts.append(fact)
        self.at_s.append(time.monotonic())
        if isinstance(fact, DeviceOffline):
            print("offline:", fact.why, flush=True)
        if isinstance(fact, CredentialPresented) and self._answer:
            asyncio.get_running_loop().create_task(self.driver.indicate(Signal.GRANTED))
        self._told.set()

    async def until(self, kind: type, after: int = 0, within_s: float = 25) -> float:
        async with asyncio.timeout(within_s):
            while True:
                for at, fact in zip(self.at_s[after:], self.facts[after:], strict=True):
                    if isinstance(fact, kind):
                        return at
                self._told.clear()
                await self._told.wait()

    async def stop(self) -> None:
        self.task.cancel()
        await asyncio.wait({self.task})


def as_of_4_0(controller: Controller) -> Controller:
    """Without what a controller of bumble says that it can, and doesn't: it tells a connection by
    the event of one that can't, and Linux waits 4 s for the other before it scans again.
    """
    controller.le_features &= ~(LeFeatureMask.LL_PRIVACY | LeFeatureMask.LE_EXTENDED_ADVERTISING)
    return controller


async def person(link: LocalLink, address: str) -> Device:
    """Bumble's own controller and host, with a radio in the same air."""
    controller = as_of_4_0(
        Controller(f"controller of {address}", link=link, public_address=address)
    )
    controller.random_address = Address(address)
    host = Host()
    host.controller = controller
    device = Device("person", address=Address(address), host=host)
    await device.power_on()
    return device


class PhoneLink:
    """Bumble's GATT client, as `hwsim.phones.Reader`."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.received: asyncio.Queue[bytes | None] = asyncio.Queue()

    async def subscribe(self, service: str, uuid: str) -> None:
        found = self._find(uuid)
        await self.peer.subscribe(found, lambda data: self.received.put_nowait(bytes(data)))

    async def write(self, service: str, uuid: str, data: bytes) -> None:
        await self._find(uuid).write_value(data, with_response=True)

    def _find(self, uuid: str) -> Any:
        return self.peer.get_characteristics_by_uuid(UUID(uuid))[0]


class ServerLink:
    """Bumble's GATT server, as `hwsim.bluez.radio.Link`."""

    def __init__(self, device: Device, connection: Any, characteristics: dict[str, Any]) -> None:
        self._device = device
        self._connection = connection
        self._characteristics = characteristics
        self._tasks: set[asyncio.Task[Any]] = set()

    def notify(self, uuid: str, data: bytes) -> None:
        self._later(
            self._device.notify_subscriber(self._connection, self._characteristics[uuid], data)
        )

    def close(self) -> None:
        self._later(self._connection.disconnect())

    def _later(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def serve(device: Device, actor: Actor) -> None:
    """Let an actor of hwsim be a GATT server on bumble's stack."""
    characteristics: dict[str, Any] = {}
    links: dict[Any, ServerLink] = {}
    properties = {
        "write": Characteristic.Properties.WRITE,
        "notify": Characteristic.Properties.NOTIFY,
    }

    def writer(uuid: str) -> Callable[[Any, bytes], None]:
        return lambda connection, data: actor.written(links[connection], uuid, bytes(data))

    for service, each in actor.services.items():
        for uuid, (flag,) in each.items():
            made = Characteristic(
                uuid,
                properties[flag],
                Characteristic.WRITEABLE if flag == "write" else Characteristic.READABLE,
                CharacteristicValue(write=writer(uuid)) if flag == "write" else b"",
            )
            characteristics[uuid] = made
            if flag == "notify":
                made.on(
                    "subscription",
                    lambda connection, on, _indicate, uuid=uuid: (
                        actor.subscribed(links[connection], uuid) if on else None
                    ),
                )
        device.add_service(Service(service, list(characteristics.values())))

    def connected(connection: Any) -> None:
        links[connection] = ServerLink(device, connection, characteristics)
        actor.connected(links[connection])
        connection.on("disconnection", lambda _reason: actor.disconnected(links.pop(connection)))

    device.on("connection", connected)


async def advertise(device: Device, actor: Actor, interval_ms: float) -> None:
    """Say what the actor says: the UUID in the advertisement, data in the scan response."""
    told = actor.advertisement
    assert told is not None
    uuid = bytes.fromhex(told.uuids[0].replace("-", ""))[::-1]
    flags = (AdvertisingData.FLAGS, b"\x06")
    data = AdvertisingData(
        [flags, (AdvertisingData.COMPLETE_LIST_OF_128_BIT_SERVICE_CLASS_UUIDS, uuid)]
    )
    more = AdvertisingData(
        [
            (AdvertisingData.SERVICE_DATA_128_BIT_UUID, uuid + each)
            for each in told.service_data.values()
        ]
    )
    await device.start_advertising(
        auto_restart=False,
        advertising_data=bytes(data),
        scan_response_data=bytes(more),
        advertising_interval_min=interval_ms,
        advertising_interval_max=interval_ms,
    )


async def peripheral_role(phone: Device, clock: SystemClock) -> None:
    settings = ble_reader.BleReaderSettings(
        adapter=ADAPTER,
        bus=os.environ["STAGE_BUS"],
        site_identifier=SITE_ID,
        reader_identifier=DOOR_ID,
        flows="any",
        site_key="/run/site.pem",
    )
    run = Run(ble_reader.BleReader("street-phones", settings, clock), clock)
    try:
        await run.until(DeviceOnline)
        site_public = key_named("site").public_key()
        for name, public in (("plain", None), ("ecdhe", site_public)):
            actor = PkocPhone(None, PHONE, key=key_named("alice"), site_public=public)  # type: ignore[arg-type]
            from_connect, from_subscribe, said = [], [], []
            for _ in range(TAPS):
                before = len(run.facts)
                began = time.monotonic()
                connection = await phone.connect(Address(ADAPTER, Address.PUBLIC_DEVICE_ADDRESS))
                peer = Peer(connection)
                await peer.request_mtu(512)
                await peer.discover_services()  # all, as phones do
                for service in peer.services:
                    await service.discover_characteristics()
                ready = time.monotonic()
                said.append(await actor.converse(PhoneLink(peer), PKOC_SERVICE, Tricks()))
                fact = await run.until(CredentialPresented, before)
                from_connect.append(fact - began)
                from_subscribe.append(fact - ready)
                await connection.disconnect()
            tell(
                f"peripheral {name}",
                said=sorted(set(said)),
                connect_to_fact=spread(from_connect),
                subscribe_to_fact=spread(from_subscribe),
                key_is_right=all(
                    fact.value == actor.credential
                    for fact in run.facts
                    if isinstance(fact, CredentialPresented)
                ),
                offline=[fact.why for fact in run.facts if isinstance(fact, DeviceOffline)],
            )
    finally:
        await run.stop()


async def central_role(fob_device: Device, clock: SystemClock) -> None:
    settings = ble_scanner.BleScannerSettings(
        adapter=ADAPTER,
        bus=os.environ["STAGE_BUS"],
        service=SITE_SERVICE,
        gateway_identifier=SITE_ID,
        door_identifier=DOOR_ID,
        near_dbm=-100,
    )
    run = Run(ble_scanner.BleScanner("yard-fobs", settings, clock), clock)
    try:
        await run.until(DeviceOnline)
        fob = Fob(FOB, SITE_SERVICE, key=key_named("alice"))
        serve(fob_device, fob)
        steps: dict[str, list[float]] = {"heard": [], "connected": []}
        took = run.driver._take
        first: dict[str, float] = {}

        def watch(message: Any, emit: Any) -> None:
            first.setdefault(type(message).__name__, time.monotonic())
            took(message, emit)

        run.driver._take = watch
        times, said = [], []
        for _ in range(TAPS):
            before = len(run.facts)
            fob.press(bytes.fromhex(DOOR_ID.replace("-", "")))
            first.clear()
            began = time.monotonic()
            await advertise(fob_device, fob, 100)
            times.append(await run.until(CredentialPresented, before) - began)
            steps["heard"].append(first["Heard"] - began)
            steps["connected"].append(first["Connected"] - began)
            async with asyncio.timeout(10):
                said.append(await fob.results.get())
            await fob_device.stop_advertising()
            await asyncio.sleep(0.7)
        tell(
            "central",
            said=sorted(set(said)),
            advertisement_to_heard=spread(steps["heard"]),
            advertisement_to_subscribed=spread(steps["connected"]),
            advertisement_to_fact=spread(times),
            offline=[fact.why for fact in run.facts if isinstance(fact, DeviceOffline)],
        )
    finally:
        await run.stop()


async def lock_role(lock_device: Device, clock: SystemClock) -> None:
    settings = ble_lock.BleLockSettings(
        adapter=ADAPTER, bus=os.environ["STAGE_BUS"], address=LOCK, key="/run/lock.key"
    )
    lock = BatteryLock(LOCK, LOCK_KEY)
    serve(lock_device, lock)
    await advertise(lock_device, lock, 100)
    driver = ble_lock.BleLock("archive-lock", settings, clock)
    began = time.monotonic()
    run = Run(driver, clock)
    try:
        online = await run.until(DeviceOnline) - began
        times = []
        for _ in range(TAPS):
            asked = time.monotonic()
            await driver.pulse(1, timedelta(seconds=10))
            times.append(time.monotonic() - asked)
            assert lock.released
            await driver.rest(1)
            assert not lock.released
        tell("lock", online_s=round(online, 1), pulse_confirmed=spread(times))
    finally:
        await run.stop()


async def restart_role(daemon: list[subprocess.Popen[bytes]], clock: SystemClock) -> None:
    """The real bluetoothd is killed and started again."""
    settings = ble_reader.BleReaderSettings(
        adapter=ADAPTER,
        bus=os.environ["STAGE_BUS"],
        site_identifier=SITE_ID,
        reader_identifier=DOOR_ID,
        flows="any",
    )
    run = Run(ble_reader.BleReader("street-phones", settings, clock), clock)
    try:
        await run.until(DeviceOnline)
        daemon[0].kill()
        daemon[0].wait()
        down = await run.until(DeviceOffline)
        lost = len(run.facts)
        daemon[0] = bluetoothd()
        started = time.monotonic()
        back = await run.until(DeviceOnline, after=lost, within_s=40)
        why = next(fact.why for fact in run.facts if isinstance(fact, DeviceOffline))
        tell("restart", why=why, back_s=round(back - started, 1), noticed=down < started)
    finally:
        await run.stop()


def bluetoothd() -> subprocess.Popen[bytes]:
    return subprocess.Popen(["/usr/sbin/bluetoothd", "-n"], stderr=sys.stderr)


async def main() -> bool:
    bus = PrivateBus(Path("/run/stage"))
    await bus.start()
    os.environ["STAGE_BUS"] = str(bus.socket)
    os.environ["DBUS_SYSTEM_BUS_ADDRESS"] = bus.address
    clock = SystemClock(floor=None, vouched=lambda: True)
    vars(ble_sessions)["ATTEMPTS_MAX"] = 1_000
    # This air has no scan responses, so a press has no number and the next would wait for this.
    vars(ble_scanner)["AGAIN_AFTER"] = timedelta()
    link = Air()
    ok = True
    async with await open_transport("vhci") as vhci:
        as_of_4_0(Controller("gateway", vhci.source, vhci.sink, link, public_address=ADAPTER))
        daemon = [bluetoothd()]
        tell("guest", kernel=os.uname().release, bluez=VERSION, taps=TAPS)
        roles: tuple[tuple[str, Callable[[], Awaitable[None]]], ...] = (
            ("peripheral", lambda: _with(link, PHONE, lambda d: peripheral_role(d, clock))),
            ("central", lambda: _with(link, FOB, lambda d: central_role(d, clock))),
            ("lock", lambda: _with(link, LOCK, lambda d: lock_role(d, clock))),
            ("restart", lambda: restart_role(daemon, clock)),
        )
        for name, role in roles:
            try:
                async with asyncio.timeout(60):
                    await role()
            except Exception:  # noqa: BLE001  # one role that fails is told, the others go on
                traceback.print_exc()
                tell(name, failed=True)
                ok = False
        daemon[0].kill()
    return ok


async def _with(link: LocalLink, address: str, work: Callable[[Device], Awaitable[None]]) -> None:
    device = await person(link, address)
    await work(device)
    await device.power_off()


def _pem(name: str) -> bytes:
    return key_named(name).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


if __name__ == "__main__":
    kernel = ["-d", os.environ["STAGE_MODULES"], "-S", os.environ["STAGE_RELEASE"]]
    subprocess.run(["modprobe", *kernel, "-a", *MODULES], check=True)
    os.umask(0o077)  # a key that others may read is refused
    Path("/run/site.pem").write_bytes(_pem("site"))
    Path("/run/lock.key").write_text(LOCK_KEY.hex())
    done = asyncio.run(main())
    sys.stdout.flush()
    os._exit(0 if done else 1)
