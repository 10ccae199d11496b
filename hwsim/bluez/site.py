"""The Bluetooth of a simulated site: one bus, one BlueZ, and what each BLE device of it is."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec

from hwsim.ble_lock import BatteryLock
from hwsim.bluez.bus import PrivateBus
from hwsim.bluez.daemon import Adapter, Bluez
from hwsim.observations import Observations, Output
from hwsim.relay_board import Edge

P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


def key_named(name: str) -> ec.EllipticCurvePrivateKey:
    """The private key of somebody or something in a simulated site: the same for the same name."""
    secret = int.from_bytes(hashlib.sha256(name.encode()).digest(), "big") % (P256_ORDER - 1) + 1
    return ec.derive_private_key(secret, ec.SECP256R1())


def address_named(name: str) -> str:
    """A static random address (Core specification, volume 6, part B, 1.3.2.1) for a name."""
    digest = bytearray(hashlib.sha256(name.encode()).digest()[:6])
    digest[0] |= 0xC0
    return ":".join(f"{each:02X}" for each in digest)


class Bluetooth:
    """The bus and BlueZ that all BLE devices of a site share."""

    def __init__(self, run_dir: Path) -> None:
        """Start nothing."""
        self.bus = PrivateBus(run_dir)
        self.bluez = Bluez(self.bus)
        self._started = False
        self._taken: set[str] = set()

    async def start(self) -> None:
        """Start the bus and BlueZ, once."""
        if not self._started:
            self._started = True
            await self.bus.start()
            await self.bluez.start()

    async def stop(self) -> None:
        """Stop both."""
        if self._started:
            self._started = False
            await self.bluez.end()
            await self.bus.kill()

    def adapter(self, address: str) -> Adapter | None:
        """The adapter with an address, if it is plugged in."""
        return next(
            (each for each in self.bluez.adapters.values() if each.address == address), None
        )

    def plug(self, address: str) -> None:
        """Plug an adapter in; it gets a name that it did not have before, as after a replug."""
        if self.adapter(address) is None:
            name = next(name for n in range(1000) if (name := f"hci{n}") not in self._taken)
            self._taken.add(name)
            self.bluez.add_adapter(name, address)

    def unplug(self, address: str) -> None:
        """Pull an adapter out."""
        if adapter := self.adapter(address):
            self.bluez.remove_adapter(adapter.name)


class BleDevice:
    """A BLE device of a site's file: its adapter, as far as plugging goes."""

    def __init__(self, name: str, bluetooth: Bluetooth, table: dict[str, Any]) -> None:
        self.name = name
        self.bluetooth = bluetooth
        self.table = table
        self.switched: list[Callable[[Edge], None]] = []

    @property
    def adapter(self) -> Adapter:
        """The adapter; raises LookupError while it is unplugged."""
        found = self.bluetooth.adapter(self.table["adapter"])
        if found is None:
            raise LookupError(f"{self.name}: its adapter is unplugged")
        return found

    async def plug(self) -> None:
        """Plug the adapter in."""
        await self.bluetooth.start()
        self.bluetooth.plug(self.table["adapter"])

    async def unplug(self) -> None:
        """Pull the adapter out."""
        self.bluetooth.unplug(self.table["adapter"])


class LockDevice(BleDevice):
    """A battery lock of a site's file. Unplugged, its battery is out; its adapter stays."""

    def __init__(
        self,
        name: str,
        bluetooth: Bluetooth,
        table: dict[str, Any],
        run_dir: Path,
        seen: Observations,
    ) -> None:
        super().__init__(name, bluetooth, table)
        self.key = hashlib.sha256(f"key of {name}".encode()).digest()
        self.key_file = run_dir.absolute() / f"{name}.key"
        self.lock = BatteryLock(table["address"], self.key)
        self.lock.switched.append(
            lambda edge: seen.add(Output(edge.at_ns, name, edge.output, edge.on))
        )
        self.switched = self.lock.switched

    def set_input(self, number: int, *, active: bool) -> None:
        """It has none: a door's wiring never gets here."""
        raise LookupError(f"{self.name} has no input {number} to be {active}")

    async def plug(self) -> None:
        """Put the battery in."""
        await super().plug()
        self.key_file.touch(mode=0o600)
        self.key_file.write_text(self.key.hex())
        self.bluetooth.bluez.join(self.lock)

    async def unplug(self) -> None:
        """Take the battery out."""
        self.bluetooth.bluez.leave(self.lock)
        self.lock.close()
