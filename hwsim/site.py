"""A whole simulated site, built from the gateway's own site.toml: devices, doors and people."""

import asyncio
import ipaddress
import os
import re
import secrets
import subprocess
import time
import tomllib
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from copy import deepcopy
from pathlib import Path
from types import MappingProxyType
from typing import Any

import tomli_w

from hwsim.ascii_keypad import AsciiKeypad
from hwsim.barcode_scanner import BarcodeScanner
from hwsim.bluez.radio import Walk
from hwsim.bluez.site import BleDevice, Bluetooth, LockDevice, address_named, key_named
from hwsim.cards import Card, card
from hwsim.door import Door, DoorTimes, Leaf
from hwsim.gpio.device import GpioPoints, GpioWiegand, OnChip, SharedChip
from hwsim.loops import Feed, Loop, SupplyTap
from hwsim.observations import Contact, Observations, Rex, Strike
from hwsim.osdp import Abilities, OsdpReader, Peripheral
from hwsim.phones import PKOC_SERVICE, Fob, PkocPhone, Tricks
from hwsim.pn532 import Pn532Reader
from hwsim.relay_board import Board, Edge, Faults, RelayBoard
from hwsim.rtu_line import RtuLine, RtuRelayBoard, SerialRtuLine, TcpRtuLine
from hwsim.serial_device import SerialDevice
from hwsim.uhppote import Controller, UhppoteBoard, UhppoteDoor
from hwsim.wallet import Wallet
from hwsim.wiegand_converter import WiegandConverter

# Device names become file names below the run directory.
_DEVICE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")

# Boards by the names that a site.toml may give instead of their size: outputs and inputs.
_SIZES = {
    "waveshare_rtu_relay": (8, 0),
    "waveshare_poe_eth_relay": (8, 0),
    "moxa_e1214": (6, 6),
    "waveshare_rtu_analog_8ch": (0, 8),
    "waveshare_rtu_analog_8ch_b": (0, 8),
}
# What those measure at most, in volts.
_FULL_SCALES = {"waveshare_rtu_analog_8ch": 5.0, "waveshare_rtu_analog_8ch_b": 10.0}

_THIS_MACHINE = frozenset({"localhost", "127.0.0.1", "::1"})
_SOCKET_PATH_MAX = 100  # of 108 bytes (unix(7)); the gateway asks for so much room

Device = SerialDevice | RelayBoard | UhppoteDoor | BleDevice | OnChip
Points = RelayBoard | OsdpReader | UhppoteDoor | GpioPoints | LockDevice


class SiteError(Exception):
    """The config or a request does not fit this site; the message says what and where."""


class DoorRig:
    """A door wired to its relay board: runs `Door` in real time and reports what moved."""

    def __init__(
        self, name: str, door: Door, seen: Observations, now_ns: Callable[[], int]
    ) -> None:
        self._now_ns = now_ns
        self.name = name
        self.door = door
        self._seen = seen
        self._contact: list[tuple[Points, int, bool]] = []
        self._rex: list[tuple[Points, int, bool]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._leaf_moved = asyncio.Event()

    def wire_strike(self, board: Points, output: int) -> None:
        """Let an output, counted from 1, work the strike."""

        def switched(edge: Edge) -> None:
            if edge.output == output:
                self._seen.add(Strike(edge.at_ns, self.name, edge.on))
                self.door.energise(self._now_ns(), on=edge.on)
                self.settle()

        board.switched.append(switched)

    def wire_contact(self, board: Points, number: int, *, closed_is_active: bool) -> None:
        """Let the contact work an input, counted from 1."""
        self._contact.append((board, number, closed_is_active))
        board.set_input(number, active=self.door.closed == closed_is_active)

    def wire_rex(self, board: Points, number: int, *, pressed_is_active: bool) -> None:
        """Let the request-to-exit button work an input, counted from 1."""
        self._rex.append((board, number, pressed_is_active))
        board.set_input(number, active=self.door.rex_pressed == pressed_is_active)

    def settle(self) -> None:
        """Bring the door up to now, pass on what moved and arm the timer for the next move."""
        now_ns = self._now_ns()
        self.door.advance(now_ns)
        for moved in self.door.take_moved():
            if moved.what == "leaf":
                self._leaf_moved.set()
                self._leaf_moved = asyncio.Event()
            elif moved.what == "contact":
                self._show(self._contact, active=bool(moved.value))
                self._seen.add(Contact(moved.at_ns, self.name, bool(moved.value)))
            else:
                self._show(self._rex, active=bool(moved.value))
                self._seen.add(Rex(moved.at_ns, self.name, bool(moved.value)))
        self.close()
        if (due_ns := self.door.next_ns) is not None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(max(0, due_ns - now_ns) / 1e9, self.settle)

    def close(self) -> None:
        """Stop the timer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    async def until_leaf(self, *places: Leaf) -> None:
        """Wait until the leaf is at one of these places."""
        while self.door.leaf not in places:
            await self._leaf_moved.wait()

    @staticmethod
    def _show(wires: list[tuple[Points, int, bool]], *, active: bool) -> None:
        for board, number, when in wires:
            board.set_input(number, active=active == when)


class Site:
    """The simulated hardware of one site, and what people do with it.

    Attributes:
        seen: Everything that was observed.
        devices: The devices by their names in the config.
        doors: The doors by their names in the config.
    """

    def __init__(
        self,
        config: dict[str, Any],
        run_dir: Path,
        *,
        door_times: DoorTimes | None = None,
        any_baud: bool = False,
        watchdogs: Mapping[str, float] = MappingProxyType({}),
        now_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        """Build the site; nothing is opened before `start`.

        Args:
            config: The parsed site.toml.
            run_dir: Ports that the config does not place below it appear as `run_dir/dev/NAME`.
            door_times: How long things take at every door.
            any_baud: Readers understand the host at any speed, as no real PN532 does.
            watchdogs: Relay boards that drop their outputs after so many seconds without a request.
            now_ns: The clock of relay boards, doors and people; it runs as the event loop's does.

        Raises:
            SiteError: the config names a driver, device or terminal that does not exist here.
        """
        self.seen = Observations()
        self.devices: dict[str, Device] = {}
        self.doors: dict[str, DoorRig] = {}
        self._uhppote_boards: dict[int, UhppoteBoard] = {}
        self._osdp_lines: dict[str, OsdpReader] = {}
        self._rtu_lines: dict[str, RtuLine] = {}
        self.bluetooth = Bluetooth(run_dir)
        self._fobs: dict[tuple[str, str], Fob] = {}
        """By scanner and whose: each press counts one on."""
        self._proofs: dict[str, bytes] = {}
        """What a phone said last over BLE, by its name."""
        self._wallet = Wallet(run_dir / "card-keys", secrets.token_bytes)
        self._chip: tuple[str, SharedChip] | None = None
        self._config = config
        self._run_dir = run_dir
        self._any_baud = any_baud
        self._watchdogs = watchdogs
        self._now_ns = now_ns
        for name, table in config.get("devices", {}).items():
            if not _DEVICE_NAME.fullmatch(name):
                raise SiteError(f"devices.{name}: not a name for a file")
            try:
                self.devices[name] = self._build(name, table)
            except KeyError as error:
                raise SiteError(f"devices.{name}.{error.args[0]}: is missing") from None
        for name, table in config.get("doors", {}).items():
            door = Door(fail_safe=table.get("lock") == "fail_safe", times=door_times)
            self.doors[name] = DoorRig(name, door, self.seen, now_ns)
            try:
                self._wire(self.doors[name], table)
            except KeyError as error:
                raise SiteError(f"doors.{name}: {error.args[0]}: is missing") from None

    @classmethod
    def from_file(cls, path: Path, run_dir: Path, **options: Any) -> "Site":
        """A site from a site.toml; options as in the constructor."""
        return cls(tomllib.loads(path.read_text()), run_dir, **options)

    def _build(self, name: str, table: dict[str, Any]) -> Device:
        match table.get("driver"):
            case "pn532":
                path = self._port_path(name, table)
                return Pn532Reader(name, path, self.seen, any_baud=self._any_baud)
            case "ascii_keypad":
                return AsciiKeypad(name, self._port_path(name, table), self.seen)
            case "wiegand_serial":
                return WiegandConverter(
                    name,
                    self._port_path(name, table),
                    self.seen,
                    kind=table["converter"],
                    key_bits=8 if table.get("keypad") == "8bit" else 4,
                )
            case "osdp":
                return self._osdp(name, table)
            case "uhppote":
                return self._uhppote(name, table)
            case "gpio":
                return GpioPoints(name, self._shared_chip(name, table), self.seen, table)
            case "wiegand_gpio":
                return GpioWiegand(name, self._shared_chip(name, table), self.seen, table)
            case "barcode_scanner":
                path = self._port_path(name, table)
                prefix, suffix = table.get("prefix", "").encode(), table["suffix"].encode()
                return BarcodeScanner(name, path, self.seen, prefix=prefix, suffix=suffix)
            case "ble_reader" | "ble_scanner":
                return BleDevice(name, self.bluetooth, table)
            case "ble_lock":
                return LockDevice(name, self.bluetooth, table, self._run_dir, self.seen)
            case "modbus_relay":
                board = Board(
                    outputs=table.get("outputs", _SIZES.get(table.get("profile", ""), (8, 8))[0]),
                    inputs=table.get("inputs", _SIZES.get(table.get("profile", ""), (8, 8))[1]),
                    unit=table.get("unit", 1),
                    watchdog_s=self._watchdogs.get(name),
                )
                _wire_loops(board, table)
                if table.get("transport", "tcp") != "tcp":
                    line = self._rtu_line(name, table)
                    return RtuRelayBoard(name, board, self.seen, line, now_ns=self._now_ns)
                host, port = self._address(table)
                return RelayBoard(name, board, self.seen, host=host, port=port, now_ns=self._now_ns)
        raise SiteError(f"devices.{name}: no simulation of driver {table.get('driver')!r}")

    def _uhppote(self, name: str, table: dict[str, Any]) -> UhppoteDoor:
        """A door; the first that names a serial number brings the board."""
        serial = table["serial"]
        if serial not in self._uhppote_boards:
            self._uhppote_boards[serial] = UhppoteBoard(Controller(serial), *self._address(table))
        board = self._uhppote_boards[serial]
        direction = 2 if table.get("reader") == "out" else 1
        return UhppoteDoor(name, board, table.get("door", 1), direction, self.seen)

    def _osdp(self, name: str, table: dict[str, Any]) -> OsdpReader:
        """A reader; the first that names a port brings the line for all that name it."""
        abilities = Abilities(inputs=table.get("inputs", 0), outputs=table.get("outputs", 0))
        peripheral = Peripheral(table.get("address", 0), install_mode=True, abilities=abilities)
        owner = self._osdp_lines.get(table.get("port", ""))
        baud_rate = None if self._any_baud else table.get("baud_rate", 9600)
        path = self._port_path(name, table)
        reader = OsdpReader(name, path, self.seen, peripheral, baud_rate=baud_rate, owner=owner)
        self._osdp_lines.setdefault(table.get("port", ""), reader)
        return reader

    def _rtu_line(self, name: str, table: dict[str, Any]) -> RtuLine:
        """The line of a board; the first that names it brings it for all that name it."""
        key = f"{table.get('host', '')}:{table.get('port', '')}"
        if key not in self._rtu_lines:
            if table["transport"] == "rtu":
                path = self._port_path(name, table)
                self._rtu_lines[key] = SerialRtuLine(name, path, self.seen)
            else:
                host, port = self._address(table)
                self._rtu_lines[key] = TcpRtuLine(name, self.seen, host=host, port=port)
        return self._rtu_lines[key]

    def _shared_chip(self, name: str, table: dict[str, Any]) -> SharedChip:
        """The chip; the first device that names it brings it, and there is one."""
        asked = table.get("chip", "")
        if self._chip is None:
            try:
                self._chip = asked, SharedChip(self._run_dir.absolute() / "gpiochip0")
            except ValueError as error:
                raise SiteError(f"devices.{name}: {error}") from None
        if self._chip[0] != asked:
            raise SiteError(f"devices.{name}.chip: only one chip is simulated: {self._chip[0]}")
        return self._chip[1]

    def gateway_environment(self) -> dict[str, str]:
        """What the gateway must have in its environment to find this site's devices.

        Raises:
            SiteError: there are devices on a chip, and the shim for them can't be compiled.
        """
        if self._chip is None:
            return {}
        try:
            return self._chip[1].environment(self._run_dir.absolute())
        except (OSError, subprocess.CalledProcessError) as error:
            raise SiteError(
                "a simulated GPIO chip needs a C compiler and the kernel's headers (Debian: gcc "
                f"and linux-libc-dev): {error}"
            ) from None

    def _port_path(self, name: str, table: dict[str, Any]) -> Path:
        asked = Path(table.get("port", ""))
        if asked.is_absolute() and asked.is_relative_to(self._run_dir.absolute()):
            return asked
        return self._run_dir.absolute() / "dev" / name

    @staticmethod
    def _address(table: dict[str, Any]) -> tuple[str, int]:
        host, port = str(table.get("host", "")), int(table.get("port", 0))
        try:
            ours = ipaddress.ip_address(host).is_loopback
        except ValueError:
            ours = False
        return (host, port) if ours else ("127.0.0.1", 0)

    def _wire(self, rig: DoorRig, table: dict[str, Any]) -> None:
        where = f"doors.{rig.name}"
        if strike := table.get("strike"):
            board = self._points(f"{where}.strike", strike["device"])
            self._terminal(f"{where}.strike.output", strike["output"], _outputs(board))
            rig.wire_strike(board, strike["output"])
        if contact := table.get("contact"):
            board = self._points(f"{where}.contact", contact["device"])
            self._terminal(f"{where}.contact.input", contact["input"], _inputs(board))
            active = contact.get("closed_when", "active") == "active"
            rig.wire_contact(board, contact["input"], closed_is_active=active)
            if other := contact.get("opposite_input"):
                self._terminal(f"{where}.contact.opposite_input", other, _inputs(board))
                rig.wire_contact(board, other, closed_is_active=not active)
        if rex := table.get("rex"):
            board = self._points(f"{where}.rex", rex["device"])
            self._terminal(f"{where}.rex.input", rex["input"], _inputs(board))
            active = rex.get("pressed_when", "active") == "active"
            rig.wire_rex(board, rex["input"], pressed_is_active=active)
            if other := rex.get("opposite_input"):
                self._terminal(f"{where}.rex.opposite_input", other, _inputs(board))
                rig.wire_rex(board, other, pressed_is_active=not active)
        if tamper := table.get("tamper"):
            board = self._points(f"{where}.tamper", tamper["device"])
            self._terminal(f"{where}.tamper.input", tamper["input"], _inputs(board))
            board.set_input(tamper["input"], active=tamper.get("closed_when") == "active")

    @staticmethod
    def _terminal(where: str, number: int, there: int) -> None:
        if not 1 <= number <= there:
            raise SiteError(f"{where}: the board has 1 to {there}, not {number}")

    # --- life ---------------------------------------------------------------------------------

    async def start(self) -> None:
        """Plug everything in: ports appear, relay boards listen."""
        for name in self.devices:
            await self.plug(name)

    async def stop(self) -> None:
        """Unplug everything and stop all timers."""
        await self.bluetooth.stop()
        for device in self.devices.values():
            if isinstance(device, RelayBoard):
                await device.close()
            elif isinstance(device, BleDevice):
                await device.unplug()
            elif isinstance(device, UhppoteDoor):
                await device.board.unplug()
            else:
                device.unplug()
        for rig in self.doors.values():
            rig.close()

    def rewritten_config(self) -> dict[str, Any]:
        """The config with every device's port, or host and port, pointing to the simulated one."""
        config = deepcopy(self._config)
        for name, device in self.devices.items():
            table = config["devices"][name] = self._wallet.key_files(config["devices"][name])
            if isinstance(device, RelayBoard):
                at = device.line if isinstance(device, RtuRelayBoard) else device
                if isinstance(at, SerialRtuLine):
                    table["port"] = str(at.pty.path)
                elif isinstance(at, TcpRtuLine | RelayBoard):
                    table["host"], table["port"] = at.host, at.port
            elif isinstance(device, UhppoteDoor):
                table["host"], table["port"] = device.board.host, device.board.port
            elif isinstance(device, BleDevice):
                table["bus"] = str(self.bluetooth.bus.socket)
                if isinstance(device, LockDevice):
                    table["key"] = str(device.key_file)
            elif isinstance(device, OnChip):
                table["chip"] = str(device.shared.path)
            else:
                table["port"] = str(device.line.path)
        return config

    def runnable_config(self) -> dict[str, Any]:
        """The rewritten config of a site that runs on this machine, with all it keeps in `run_dir`.

        Time is the host's. A broker elsewhere is left out, for it would not be this site's, and so
        are break-glass codes, whose secrets are files of the site's own box.

        Raises:
            SiteError: the path of the gateway's socket would be longer than a socket's may be.
        """
        config = self.rewritten_config()
        here = self._run_dir.absolute()
        config["state"] = {
            "dir": str(here / "state"),
            "socket": str(here / "core.sock"),
            "credential_key": str(here / "credential.key"),
        }
        if len(config["state"]["socket"]) > _SOCKET_PATH_MAX:
            raise SiteError(f"{here}: too long for the path of a socket; give a shorter --run-dir")
        config["clock"] = {"trust": "host"}
        if config.get("mqtt", {}).get("host") not in _THIS_MACHINE:
            config.pop("mqtt", None)
        config.pop("break_glass", None)
        for table in config.get("devices", {}).values():
            if table.get("driver") == "osdp":
                table["keys"] = str(here / "osdp-keys")
        return config

    def write_config(self, path: Path) -> None:
        """Write `runnable_config` to `path`, and beside the state the key that it names.

        A key that is there already stays: without it, nothing of before could be read. OSDP
        readers are there as if installed, each with a key of its own.
        """
        config = self.runnable_config()
        with suppress(FileExistsError):
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            with os.fdopen(os.open(config["state"]["credential_key"], flags, 0o600), "wb") as key:
                key.write(secrets.token_bytes(32))
        self._install_readers(config)
        path.write_text(tomli_w.dumps(config), encoding="utf-8")

    def _install_readers(self, config: dict[str, Any]) -> None:
        """Give each OSDP reader a key that the gateway has too, as if it had been installed."""
        for name, table in config.get("devices", {}).items():
            if table.get("driver") != "osdp":
                continue
            file = Path(table["keys"]) / f"{name}.key"
            file.parent.mkdir(mode=0o700, exist_ok=True)
            if not file.exists():
                file.touch(mode=0o600)
                file.write_text(secrets.token_hex(16) + "\n", encoding="ascii")
            peripheral = self._osdp_reader(name).peripheral
            peripheral.key = bytes.fromhex(file.read_text(encoding="ascii"))
            peripheral.install_mode = False

    # --- cards and keys -----------------------------------------------------------------------

    async def present(
        self,
        reader: str,
        uid: str,
        hold: float | None = 0.4,
        *,
        iso_dep: bool = False,
        frames_left: int | None = None,
    ) -> int:
        """Hold a card to a reader and take it away again.

        Args:
            reader: The reader.
            uid: The card's UID, hexadecimal, of 4, 7 or 10 bytes.
            hold: For how many seconds; None leaves it there until `remove`.
            iso_dep: The card speaks ISO/IEC 14443-4.
            frames_left: Pull it away in mid-read, after so many frames of data.

        Returns:
            When the card came into the field, in monotonic nanoseconds.
        """
        return await self.present_cards(
            reader, [card(uid, iso_dep=iso_dep, frames_left=frames_left)], hold
        )

    async def present_two(
        self, reader: str, first: str, second: str, hold: float | None = 0.4
    ) -> int:
        """Hold two cards to a reader at once; as `present`."""
        return await self.present_cards(reader, [card(first), card(second)], hold)

    async def present_cards(self, reader: str, cards: list[Card], hold: float | None = 0.4) -> int:
        """Hold any cards to a reader; as `present`."""
        device = self._reader(reader)
        at_ns = self._now_ns()
        for each in cards:
            device.put(each)
        if hold is not None:
            try:
                await asyncio.sleep(hold)
            finally:
                for each in cards:
                    device.take(each)
        return at_ns

    async def present_secure(
        self,
        reader: str,
        kind: str,
        whose: str,
        hold: float | None = 0.4,
        *,
        forged: bool = False,
    ) -> int:
        """Hold somebody's secure card or phone to a reader; as `present`.

        Args:
            reader: The reader, whose tables say how the card is set up.
            kind: `desfire`, `aliro`, `grant`, `pkoc` or `sun`.
            whose: The same name has the same card.
            hold: For how many seconds; None leaves it there until `remove`.
            forged: One that says it is theirs and has other keys.
        """
        shown = self._wallet.card(self._tables(reader, kind), kind, whose, forged=forged)
        return await self.present_cards(reader, [shown], hold)

    async def carry_grant(
        self, whose: str, grant: str, *, trick: str = "", signs_for: str = ""
    ) -> None:
        """Put a grant into somebody's phone, which `present_secure` shows as kind `grant`.

        Args:
            whose: The same name has the same key, `phone_key`.
            grant: The signed message, hex digits.
            trick: `replay` answers with its last proof, whatever it is asked; `malformed`, `late`
                and `locked` do what they say.
            signs_for: It signs for this gateway's and door's identifiers (hex digits) instead.

        Raises:
            SiteError: there is no such trick.
        """
        if trick not in {"", "replay", "malformed", "late", "locked"}:
            raise SiteError(f"no trick {trick!r}")
        self._wallet.carry(whose, bytes.fromhex(grant), trick, bytes.fromhex(signs_for))

    async def secure_value(self, reader: str, kind: str, whose: str) -> str:
        """What the records call that card: a credential's value."""
        return self._wallet.value(self._tables(reader, kind), kind, whose)

    async def sun_address(self, reader: str, whose: str) -> str:
        """What a phone gets that reads somebody's SUN tag: a URL, another one each time."""
        return self._wallet.address(self._tables(reader, "sun"), whose)

    def _tables(self, reader: str, kind: str) -> dict[str, Any]:
        self._device(reader)
        tables: dict[str, Any] = self._config["devices"][reader]
        if kind not in tables:
            raise SiteError(f"{reader} has no [devices.{reader}.{kind}]")
        return tables

    async def remove(self, reader: str, uid: str | None = None) -> None:
        """Take a card away from a reader, or all of them."""
        device = self._reader(reader)
        for each in tuple(device.chip.field):
            if uid is None or each.uid == bytes.fromhex(uid):
                device.take(each)

    async def press(self, keypad: str, keys: str, gap: float = 0.05) -> int:
        """Press keys one after the other.

        Args:
            keypad: The keypad.
            keys: From 0 to 9, * and #.
            gap: Seconds from one key to the next.

        Returns:
            When the last key was pressed, in monotonic nanoseconds.
        """
        device = self._device(keypad)
        if isinstance(device, GpioWiegand):
            return await device.press(keys, gap)
        if not isinstance(device, AsciiKeypad | OsdpReader | WiegandConverter):
            raise SiteError(f"{keypad} is not a keypad")
        at_ns = self._now_ns()
        for place, key in enumerate(keys):
            if place and gap:
                await asyncio.sleep(gap)
            at_ns = self._now_ns()
            device.press(key, told=keys if place == len(keys) - 1 else "")
        return at_ns

    # --- OSDP readers -------------------------------------------------------------------------

    async def card(self, reader: str, bits: str) -> int:
        """Hold a card of bits, 0 and 1, to an OSDP or Wiegand reader; when, in monotonic ns."""
        device = self._device(reader)
        if isinstance(device, WiegandConverter):
            at_ns = self._now_ns()
            device.card(bits)
            return at_ns
        if isinstance(device, GpioWiegand):
            return await device.card(bits)
        return self._osdp_reader(reader).card(bits)

    async def swipe(self, door: str, card: int) -> int:
        """Present a card to a UHPPOTE door's reader; when, in monotonic nanoseconds."""
        device = self._device(door)
        if not isinstance(device, UhppoteDoor):
            raise SiteError(f"{door} is not a UHPPOTE door")
        return device.swipe(card)

    async def tamper(self, reader: str, active: bool = True) -> None:
        """Open or close the case of an OSDP reader."""
        self._osdp_reader(reader).peripheral.tamper(active=active)

    async def power_failure(self, reader: str, failed: bool = True) -> None:
        """The supply of an OSDP reader fails, which it goes on without, or comes back."""
        self._osdp_reader(reader).peripheral.power_failure(failed=failed)

    async def osdp_key(self, reader: str, key: str) -> None:
        """Give an OSDP reader a key, in hexadecimal; an empty one puts it into install mode."""
        peripheral = self._osdp_reader(reader).peripheral
        peripheral.key, peripheral.install_mode = bytes.fromhex(key) or None, not key

    async def reboot(self, reader: str) -> None:
        """An OSDP reader loses power for a moment, on a line that stays."""
        self._osdp_reader(reader).reboot()

    async def scan(self, scanner: str, code: str) -> int:
        """Hold a code before a scanner.

        Args:
            scanner: The scanner.
            code: What is in it; characters beyond ASCII go out in UTF-8.

        Returns:
            When, in monotonic nanoseconds.
        """
        device = self._device(scanner)
        if not isinstance(device, BarcodeScanner):
            raise SiteError(f"{scanner} is not a scanner")
        at_ns = self._now_ns()
        device.scan(code.encode())
        return at_ns

    # --- phones -------------------------------------------------------------------------------

    async def tap_phone(self, reader: str, phone: str, trick: str = "") -> str:
        """Connect a phone with PKOC to a BLE reader; what the reader told it.

        Args:
            reader: The reader.
            phone: Whose: the same name has the same key, `phone_key`.
            trick: `replay` says what it said last, `forged` has another key than it says.

        Raises:
            SiteError: there is no such trick.
        """
        tricks = {
            "": Tricks(),
            "replay": Tricks(proof=self._proofs.get(phone)),
            "forged": Tricks(sign_with=key_named(f"not {phone}")),
        }
        if trick not in tricks:
            raise SiteError(f"no trick {trick!r}")
        device = self._ble(reader)
        shared = device.table.get("shared_adapter")
        service = device.table["reader_identifier"] if shared else PKOC_SERVICE
        peer = PkocPhone(self.bluetooth.bluez, address_named(phone), key=key_named(phone))
        told = await peer.tap(device.adapter, service, tricks[trick])
        self._proofs[phone] = peer.said[-1]
        return told

    async def press_fob(
        self,
        scanner: str,
        fob: str,
        distance: float = 0.5,
        start: float | None = None,
        trick: str = "",
        grant: str = "",
    ) -> str:
        """Press a fob's button, or a phone app's, near a door; what the gateway answered.

        Args:
            scanner: The door's BLE scanner.
            fob: Whose: the same name has the same key, `phone_key`.
            distance: How many metres from the door's radio.
            start: Pressed so many metres away, and then carried to the door at a walking pace.
            trick: `other_door` signs for another one, `no_intent` says that nobody meant it, and
                `malformed` says nonsense.
            grant: A carried grant that it shows as well, hex digits.

        Raises:
            SiteError: there is no such trick.
        """
        if trick not in {"", "other_door", "no_intent", "malformed"}:
            raise SiteError(f"no trick {trick!r}")
        device = self._ble(scanner)
        bluez = self.bluetooth.bluez
        x, y = device.adapter.place
        path = tuple((x + away, y) for away in (start, distance) if away is not None)
        service = device.table["service"]
        peer = self._fobs.setdefault(
            (scanner, fob), Fob(address_named(fob), service, key=key_named(fob))
        )
        peer.walk = Walk(path, started_s=time.monotonic())
        peer.grant = bytes.fromhex(grant)
        peer.intent = trick != "no_intent"
        peer.sign_for_door = bytes(16) if trick == "other_door" else None
        peer.replay = bytes(3) if trick == "malformed" else None
        peer.press(bytes.fromhex(device.table["door_identifier"].replace("-", "")))
        bluez.join(peer)
        try:
            return await peer.results.get()
        finally:
            bluez.leave(peer)

    async def phone_key(self, phone: str) -> str:
        """A phone's public key, as a `pkoc` credential has it."""
        return PkocPhone(
            self.bluetooth.bluez, address_named(phone), key=key_named(phone)
        ).credential

    # --- people at a door ---------------------------------------------------------------------

    async def push(self, door: str, patience: float = 1.0) -> bool:
        """Push a door and, if it opens, walk through and let it close.

        Args:
            door: The door.
            patience: Go on pushing for so many seconds while it is locked.

        Returns:
            Whether it opened.
        """
        rig = self._rig(door)
        rig.door.push(self._now_ns(), patience)
        rig.settle()
        try:
            async with asyncio.timeout(patience):
                await rig.until_leaf(Leaf.OPENING, Leaf.OPEN)
        except TimeoutError:
            return False
        await rig.until_leaf(Leaf.OPEN)
        if not rig.door.propped:
            await rig.until_leaf(Leaf.CLOSED)
        return True

    async def leave(self, door: str) -> None:
        """Go out by the mechanical handle, whose switch is the request to exit."""
        rig = self._rig(door)
        rig.door.press_rex(self._now_ns(), pressed=True)
        rig.door.force(self._now_ns())
        rig.settle()
        await rig.until_leaf(Leaf.OPEN)
        rig.door.press_rex(self._now_ns(), pressed=False)
        rig.settle()
        if not rig.door.propped:
            await rig.until_leaf(Leaf.CLOSED)

    async def rex(self, door: str, hold: float = 0.3) -> int:
        """Press the request-to-exit button for some seconds; when, in monotonic nanoseconds."""
        rig = self._rig(door)
        at_ns = self._now_ns()
        rig.door.press_rex(at_ns, pressed=True)
        rig.settle()
        try:
            await asyncio.sleep(hold)
        finally:
            rig.door.press_rex(self._now_ns(), pressed=False)
            rig.settle()
        return at_ns

    async def force(self, door: str) -> None:
        """Break a door open; it closes by itself."""
        rig = self._rig(door)
        rig.door.force(self._now_ns())
        rig.settle()

    async def prop(self, door: str) -> None:
        """Put a wedge under a door: once open it stays open."""
        rig = self._rig(door)
        rig.door.prop(self._now_ns())
        rig.settle()

    async def close(self, door: str) -> None:
        """Take the wedge away and let a door close."""
        rig = self._rig(door)
        rig.door.close(self._now_ns())
        rig.settle()

    async def power_lock(self, door: str, on: bool) -> None:
        """Fail or restore the lock's own supply."""
        rig = self._rig(door)
        rig.door.power(self._now_ns(), on=on)
        rig.settle()

    async def jam_contact(self, door: str, closed: bool | None) -> None:
        """Weld a door's contact closed (true), tear it open (false) or repair it (null)."""
        rig = self._rig(door)
        rig.door.jam_contact(self._now_ns(), closed)
        rig.settle()

    async def chatter(self, door: str, what: str, edges: int = 100, gap: float = 0.002) -> None:
        """Let a door's contact or rex chatter, then leave it as it was."""
        rig = self._rig(door)
        if what not in {"contact", "rex"}:
            raise SiteError(f"contact or rex can chatter, not {what!r}")
        was = rig.door.closed if what == "contact" else rig.door.rex_pressed
        for place in range(edges):
            value = was == bool(place % 2)
            if what == "contact":
                rig.door.jam_contact(self._now_ns(), value)
            else:
                rig.door.press_rex(self._now_ns(), pressed=value)
            rig.settle()
            await asyncio.sleep(gap)
        if what == "contact":
            rig.door.jam_contact(self._now_ns(), None)
        else:
            rig.door.press_rex(self._now_ns(), pressed=was)
        rig.settle()

    # --- faults -------------------------------------------------------------------------------

    async def unplug(self, device: str, after_bytes: int | None = None) -> None:
        """Unplug a device.

        A serial port disappears and an open one hangs up; with `after_bytes` only once the device
        has sent so many more. A relay board's connections break and new ones are refused; its
        outputs and timers go on.
        """
        found = self._device(device)
        if isinstance(found, RelayBoard):
            if after_bytes is not None:
                raise SiteError(f"{device}: use fault with cut_after")
            await found.unplug()
        elif isinstance(found, UhppoteDoor):
            await found.board.unplug()
        elif isinstance(found, BleDevice):
            await found.unplug()
        else:
            found.unplug(after_bytes)

    async def plug(self, device: str) -> None:
        """Plug a device in again, at the same port; one on a serial line starts anew."""
        found = self._device(device)
        if isinstance(found, RelayBoard):
            await found.plug()
        elif isinstance(found, UhppoteDoor):
            await found.board.plug()
        elif isinstance(found, BleDevice):
            await found.plug()
        else:
            found.plug()

    async def hang(self, device: str) -> None:
        """A device takes what it gets, does nothing and never answers."""
        found = self._device(device)
        if isinstance(found, UhppoteDoor):
            found.board.hung = True
        elif isinstance(found, BleDevice):
            self.bluetooth.bluez.hung = True
        else:
            found.hang()

    async def resume(self, device: str) -> None:
        """End `hang`, `fault` and `garble`."""
        found = self._device(device)
        if isinstance(found, UhppoteDoor):
            found.board.hung = False
        elif isinstance(found, BleDevice):
            self.bluetooth.bluez.hung = False
        else:
            found.resume()

    async def noise(self, device: str, n: int, seed: int = 0) -> None:
        """A device sends n random bytes."""
        found = self._device(device)
        if isinstance(found, UhppoteDoor | BleDevice):
            raise SiteError(f"{device}: only a serial line has noise")
        found.noise(n, seed)

    async def garble(self, device: str, rate: float, seed: int = 0) -> None:
        """Hit each byte on a serial line, either way, with this probability; until `resume`."""
        found = self._device(device)
        line = found.line if isinstance(found, RtuRelayBoard) else self._serial(device)
        line.garble(rate, seed)

    async def flood(
        self, device: str, per_second: float, seconds: float = 1.0, what: str = ""
    ) -> None:
        """A device on a serial line sends whole frames or keys that nobody asked for, or `what`."""
        await self._serial(device).flood(per_second, seconds, what.encode() or None)

    async def fault(self, device: str, **faults: Any) -> None:
        """Let a relay board's replies go wrong: the attributes of `Faults`; none of them: rightly.

        Raises:
            SiteError: there is no such fault.
        """
        try:
            self._board("fault", device).faults = Faults(**faults)
        except TypeError as error:
            raise SiteError(f"{device}: {error}") from None

    async def power_cycle(self, device: str, off: float = 1.0) -> None:
        """Cut a device's power for some seconds."""
        found = self._device(device)
        if isinstance(found, RelayBoard):
            await found.power_cycle(off)
        elif isinstance(found, UhppoteDoor):
            await found.board.unplug()
            await asyncio.sleep(off)
            await found.board.plug()
        elif isinstance(found, BleDevice):
            await found.unplug()
            await asyncio.sleep(off)
            await found.plug()
        else:
            found.unplug()
            await asyncio.sleep(off)
            found.plug()

    async def cut_wire(self, device: str, input: int) -> None:  # noqa: A002  # the config's word
        """Cut a wire of the loop at an input."""
        self._board("cut_wire", device).loop(input).cut()

    async def short_wires(
        self,
        device: str,
        input: int,  # noqa: A002
        ohms: float = 0.0,
    ) -> None:
        """Join the wires of the loop at an input, well or, with some ohms left, badly."""
        self._board("short_wires", device).loop(input).short(ohms)

    async def repair_wires(self, device: str, input: int) -> None:  # noqa: A002
        """Mend the wires of the loop at an input."""
        self._board("repair_wires", device).loop(input).repair()

    async def weld(self, device: str, output: int) -> None:
        """Weld an output's contact closed; its coil does not know."""
        self._board("weld", device).weld(output)

    async def unweld(self, device: str, output: int) -> None:
        """Repair an output's contact."""
        self._board("unweld", device).unweld(output)

    # --- looking things up --------------------------------------------------------------------

    def _device(self, name: str) -> Device:
        if name not in self.devices:
            raise SiteError(f"no device {name!r}, only {', '.join(self.devices)}")
        return self.devices[name]

    def _serial(self, name: str) -> SerialDevice:
        device = self._device(name)
        if isinstance(device, RelayBoard | UhppoteDoor | BleDevice | OnChip):
            raise SiteError(f"{name} is not on a serial line")
        return device

    def _ble(self, name: str) -> BleDevice:
        device = self._device(name)
        if not isinstance(device, BleDevice):
            raise SiteError(f"{name} has no Bluetooth")
        return device

    def _reader(self, name: str) -> Pn532Reader:
        device = self._device(name)
        if not isinstance(device, Pn532Reader):
            raise SiteError(f"{name} is not a card reader")
        return device

    def _board(self, where: str, name: str) -> RelayBoard:
        device = self._device(name)
        if not isinstance(device, RelayBoard):
            raise SiteError(f"{where}: {name} is not a relay board")
        return device

    def _points(self, where: str, name: str) -> Points:
        device = self._device(name)
        if not isinstance(device, Points):
            raise SiteError(f"{where}: {name} is not a relay board")
        return device

    def _osdp_reader(self, name: str) -> OsdpReader:
        device = self._device(name)
        if not isinstance(device, OsdpReader):
            raise SiteError(f"{name} is not an OSDP reader")
        return device

    def _rig(self, name: str) -> DoorRig:
        if name not in self.doors:
            raise SiteError(f"no door {name!r}, only {', '.join(self.doors)}")
        return self.doors[name]


def _wire_loops(board: Board, table: dict[str, Any]) -> None:
    """Hang the loops of a device's table at a board that measures its inputs."""
    if "loops" not in table:
        return
    given = table["loop_supply"]
    feed = Feed(volts=given["mv"] / 1000, pull_up_ohms=given.get("pull_up_ohms", 1500))
    board.measured = [None] * len(board.inputs)
    board.full_scale_volts = _FULL_SCALES.get(table.get("profile", ""), 10.0)
    if "input" in given:
        board.measured[given["input"] - 1] = SupplyTap(feed=feed)
    for each in table["loops"]:
        series, across = each.get("series_ohms"), each.get("parallel_ohms")
        ends = (
            (each["closed_ohms"], each["open_ohms"])
            if series is None
            else (series, series + across)
        )
        board.measured[each["input"] - 1] = Loop(feed=feed, at_end=ends)


def _outputs(points: Points) -> int:
    if isinstance(points, UhppoteDoor | LockDevice):
        return 1
    if isinstance(points, GpioPoints):
        return len(points.outputs)
    if isinstance(points, OsdpReader):
        return len(points.peripheral.outputs)
    return len(points.board.coils)


def _inputs(points: Points) -> int:
    if isinstance(points, UhppoteDoor):
        return 2
    if isinstance(points, LockDevice):
        return 0
    if isinstance(points, GpioPoints):
        return len(points.inputs)
    if isinstance(points, OsdpReader):
        return len(points.peripheral.inputs)
    return len(points.board.inputs)


@asynccontextmanager
async def running_site(
    config: Path | dict[str, Any], run_dir: Path, **options: Any
) -> AsyncIterator[Site]:
    """A started site for the length of the block.

    Args:
        config: A site.toml, or what is in one.
        run_dir: As for `Site`.
        options: As for `Site`.
    """
    made = (
        Site.from_file(config, run_dir, **options)
        if isinstance(config, Path)
        else Site(config, run_dir, **options)
    )
    try:
        await made.start()
        yield made
    finally:
        await made.stop()
