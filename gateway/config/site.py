"""What an installer writes down about a site, and the checks that need no device."""

import ipaddress
import os
import re
import stat
import tomllib
from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import msgspec

from gateway.config.devices import Capability, DeviceSettings, DriverSpec, RelayClass
from gateway.config.tables import convert_table, join
from gateway.domain import assurance
from gateway.domain.after_decision import Assurance
from gateway.domain.impact import LIMITS, Limits
from gateway.domain.impact_window import HOLDERS_MAX
from gateway.errors import ConfigError, Fault

FILE_BYTES_MAX = 1 << 20
"""A site's file is a few KiB; a megabyte is somebody's mistake and is not parsed."""

S = TypeVar("S", bound=msgspec.Struct)
Name = Annotated[
    str,
    msgspec.Meta(
        pattern=r"^[^\x00-\x1f\x7f]{1,128}$", description="text of 1 to 128 printable characters"
    ),
]
AbsolutePath = Annotated[
    str, msgspec.Meta(pattern=r"^/[^\x00]*$", description='an absolute path ("/…")')
]
SocketPath = Annotated[
    str,
    # The kernel's sun_path has 108 bytes (unix(7)).
    msgspec.Meta(
        pattern=r"^/[^\x00]{1,99}$", description="an absolute path of at most 100 characters"
    ),
]
Reason = Annotated[
    str, msgspec.Meta(min_length=8, description="a reason in words (8 characters or more)")
]
Seconds = Annotated[
    int, msgspec.Meta(ge=0, le=3600, description="a whole number of seconds, 0 to 3600")
]
Minutes = Annotated[
    int, msgspec.Meta(ge=1, le=10080, description="a whole number of minutes, 1 to 10080 (a week)")
]
Number = Annotated[int, msgspec.Meta(ge=1, le=65535, description="a whole number, 1 to 65535")]


class _Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    pass


class SiteTable(_Table, frozen=True):
    """[site]: who this box is to central operations."""

    id: Name
    gateway: Name


class StateTable(_Table, frozen=True):
    """[state]: where things are kept on this box."""

    dir: AbsolutePath
    socket: SocketPath
    credential_key: AbsolutePath


class JournalTable(_Table, frozen=True):
    """[journal]: the keeper of the events."""

    keep: Literal["cloud", "local"]
    """`cloud`: nothing is deleted before the cloud's acknowledgement. `local`: there is no cloud,
    so retention and erasure work by the box alone."""


class ClockTable(_Table, frozen=True):
    """[clock]: who vouches for wall time. No default: it decides whether schedules open doors."""

    trust: Literal["kernel", "host"]


Percent = Annotated[
    int, msgspec.Meta(ge=0, le=10_000, description="a whole number of percent, 0 to 10000")
]
Count = Annotated[int, msgspec.Meta(ge=0, le=1_000_000, description="a whole number, 0 to 1000000")]


class ImpactTable(_Table, frozen=True):
    """[trust.impact]: from where on a bundle needs a second signature."""

    taken_percent_max: Percent = round(LIMITS.taken_share_max * 100)
    given_percent_max: Percent = round(LIMITS.given_share_max * 100)
    grants_min: Count = LIMITS.grants_min
    """A share of fewer changed grants doesn't count."""
    restricted_holders_max: Annotated[
        int, msgspec.Meta(ge=0, le=HOLDERS_MAX, description=f"a whole number, 0 to {HOLDERS_MAX}")
    ] = LIMITS.restricted_holders_max
    window_h: Annotated[
        int, msgspec.Meta(ge=1, le=168, description="a whole number of hours, 1 to 168")
    ] = LIMITS.window // timedelta(hours=1)
    """Within which bundles by one key alone count together."""

    @property
    def limits(self) -> Limits:
        """As the guard takes them."""
        return Limits(
            self.taken_percent_max / 100,
            self.given_percent_max / 100,
            self.grants_min,
            self.restricted_holders_max,
            timedelta(hours=self.window_h),
        )


class TrustTable(_Table, frozen=True):
    """[trust]: the source of truth signs what it sends."""

    root: AbsolutePath
    """The first root document of the key set, believed because it is there."""
    freeze_after_min: Minutes = 15
    """How long no beacon may come while the broker is there, before somebody may be holding them
    back."""
    impact: ImpactTable = ImpactTable()


class TlsTable(_Table, frozen=True):
    """[mqtt.tls]: files in PEM."""

    ca: AbsolutePath
    certificate: AbsolutePath
    key: AbsolutePath


class LoginTable(_Table, frozen=True):
    """[mqtt.login]: the password stands in a file of its own, never here."""

    username: Name
    password_file: AbsolutePath


class HomeAssistantTable(_Table, frozen=True):
    """[mqtt.home_assistant]: doors appear in a Home Assistant on the same broker."""

    discovery_prefix: Annotated[
        str, msgspec.Meta(pattern=r"^[^+#/\x00]{1,64}$", description="one level of a topic")
    ] = "homeassistant"
    locks: bool = False
    """Doors appear as locks that can be told to unlock, rather than as sensors: for a site where
    somebody turns such wishes into signed commands."""


class MqttTable(_Table, frozen=True):
    """[mqtt]: the broker. Without [mqtt.tls] only a broker on this machine is accepted."""

    host: Name
    port: Number
    keepalive_s: Annotated[
        int, msgspec.Meta(ge=5, le=600, description="a whole number of seconds, 5 to 600")
    ] = 30
    tls: TlsTable | None = None
    login: LoginTable | None = None
    home_assistant: HomeAssistantTable | None = None


class DeviceTable(msgspec.Struct, frozen=True):
    """[devices.NAME]: the driver, and its own settings already checked."""

    driver: DriverSpec
    settings: DeviceSettings


class Strike(_Table, frozen=True):
    """The output that releases the door, and who times its pulse."""

    device: str
    output: Number
    relay_class: RelayClass
    accept_host_timed: Reason | None = None
    """Why it is right here that this software times the pulse; journaled at every start."""


class Contact(_Table, frozen=True):
    """The switch that tells an open door from a closed one."""

    device: str
    input: Number
    closed_when: Literal["active", "inactive"]
    unreleased_opening: Literal["forced", "egress"] = "forced"
    """What an opening that nothing released means: with a mechanical handle and no REX switch in
    it, people who leave can't be told from people who force the door."""
    opposite_input: Number | None = None
    """Supervised: the other side of a changeover contact, on the same device. A cut or shorted
    wire leaves both inputs alike, which is a fault and no state of the door."""


class Rex(_Table, frozen=True):
    """The request-to-exit button or sensor."""

    device: str
    input: Number
    pressed_when: Literal["active", "inactive"]
    opposite_input: Number | None = None
    """Supervised, as a contact can be. Either input may ask for the release."""


class TamperSwitch(_Table, frozen=True):
    """A switch that tells when a case at the door is opened: a junction box, a lock's housing."""

    device: str
    input: Number
    closed_when: Literal["active", "inactive"]


class Reader(_Table, frozen=True):
    """A device at which credentials are presented, and the side of the door it is on."""

    device: str
    side: Literal["in", "out"]
    shared: bool = False
    """True at each of several doors that have this one reader: every door decides for itself and
    each that grants opens; the reader shows a grant where any of them grants."""


class DoorTable(_Table, frozen=True):
    """[doors.ID]: how the door with that id in the records is wired."""

    lock: Literal["fail_secure", "fail_safe"]
    free_egress: Literal["mechanical", "hardwired", "not_an_escape_route", "gateway"]
    fire_release: Literal["hardwired", "not_needed", "gateway"]
    strike: Strike
    readers: tuple[Reader, ...]
    contact: Contact | None = None
    rex: Rex | None = None
    tamper: TamperSwitch | None = None
    relock: Literal["on_open", "at_end"] = "at_end"
    """When the strike locks again. By default at its time's end, which needs no contact: it says
    how long a door may be opened, never by whom."""
    pre_alarm_s: Seconds = 10
    """How long before `held_open_s` is over the readers' buzzers begin; at most half of it."""
    assurance: Assurance = "low"
    """The least that a credential must prove here (docs/door.md); by default whatever is in the
    records counts, as they say who may pass and by what."""
    antipassback_forgets_min: Minutes | None = None
    """Timed anti-passback: how long a holder counts as inside; without it, until they leave."""


class ZoneTable(_Table, frozen=True):
    """[zones.ID]: what holds at every door into the zone with that id in the records."""

    assurance: Assurance


class BreakGlassTable(_Table, frozen=True):
    """[break_glass.ROLE]: single-use codes for an emergency. Nothing here has a default."""

    secrets: tuple[AbsolutePath, ...]
    """Files (systemd credentials) with one person's secret each, in base32; never the secret."""
    doors: tuple[Name, ...]
    window_h: Annotated[int, msgspec.Meta(ge=1, le=8, description="whole hours, 1 to 8")]
    """How long the role's codes are good from the first that is used, until they are renewed."""
    quorum: Annotated[int, msgspec.Meta(ge=1, le=2, description="1 or 2")]
    """How many people's codes it takes."""


class SiteConfig(msgspec.Struct, frozen=True):
    """A whole site, checked. `warnings` are worth an installer's look and stop nothing."""

    site: SiteTable
    state: StateTable
    clock: ClockTable
    mqtt: MqttTable | None
    devices: Mapping[str, DeviceTable]
    doors: Mapping[str, DoorTable]
    warnings: tuple[Fault, ...] = ()
    break_glass: Mapping[str, BreakGlassTable] = {}
    zones: Mapping[str, ZoneTable] = {}
    trust: TrustTable | None = None
    journal: JournalTable | None = None

    @property
    def keeps_locally(self) -> bool:
        """Return True where no cloud keeps the events: as [journal] says, else without [mqtt]."""
        if self.trust is not None:
            return False
        return self.mqtt is None if self.journal is None else self.journal.keep == "local"


def load(path: Path, drivers: Mapping[str, DriverSpec]) -> SiteConfig:
    """Read and check a site's file.

    Raises:
        ConfigError: naming every fault with its path in the file.
    """
    file = str(path)
    try:
        with os.fdopen(_opened(path), "rb") as stream:
            if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
                raise ConfigError(file, [Fault("-", "can't be read: it is no regular file")])
            data = stream.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise ConfigError(file, [Fault("-", _unreadable(error))]) from error
    if len(data) > FILE_BYTES_MAX:
        raise ConfigError(file, [Fault("-", f"is larger than {FILE_BYTES_MAX} bytes")])
    try:
        raw = tomllib.loads(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise ConfigError(file, [Fault("-", f"is not UTF-8 at byte {error.start}")]) from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(file, [Fault("-", f"is not TOML: {error}")]) from error
    except RecursionError as error:
        raise ConfigError(file, [Fault("-", "is nested too deeply")]) from error
    return check(raw, drivers, file)


def _unreadable(error: OSError) -> str:
    what = f"can't be read: {error.strerror}"
    if isinstance(error, PermissionError):
        return f"{what}. Run the command with sudo, or as a user who may read the file"
    if isinstance(error, FileNotFoundError):
        return f"{what}. Name the site's file with --config FILE"
    return what


def _opened(path: Path) -> int:
    # A FIFO that nobody writes to must get an answer, not make the reader wait for ever.
    return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)


def check(raw: dict[str, object], drivers: Mapping[str, DriverSpec], file: str) -> SiteConfig:
    """Check a decoded site file; see `load`."""
    faults: list[Fault] = []
    known = (
        "version",
        "site",
        "state",
        "clock",
        "mqtt",
        "devices",
        "doors",
        "break_glass",
        "zones",
        "trust",
        "journal",
    )
    faults += [
        Fault(join("", name), f"unknown key; known here are: {', '.join(known)}")
        for name in raw
        if name not in known
    ]
    faults += [
        Fault(name, "is missing") for name in known if name not in _OPTIONAL and name not in raw
    ]
    version = raw.get("version", 1)
    if type(version) is not int or version != 1:  # true and 1.0 are equal to 1
        faults.append(Fault("version", f"is {version!r}; this release reads 1"))
    site = _section(raw, "site", SiteTable, faults)
    state = _section(raw, "state", StateTable, faults)
    clock = _section(raw, "clock", ClockTable, faults)
    mqtt = _section(raw, "mqtt", MqttTable, faults)
    trust = _section(raw, "trust", TrustTable, faults)
    journal = _section(raw, "journal", JournalTable, faults)
    if journal is not None and journal.keep == "local" and "trust" in raw:
        faults.append(
            Fault(
                "journal.keep",
                "can't be local with [trust]: only the cloud's signed acknowledgement lets events "
                "be deleted. Leave [journal] out, or [trust]",
            )
        )
    devices = _devices(_entries(raw, "devices", faults), drivers, faults)
    doors = {
        door_id: door
        for door_id, table in _entries(raw, "doors", faults).items()
        if (door := convert_table(table, DoorTable, join("doors", door_id), faults)) is not None
    }
    sound = {name: device for name, device in devices.items() if device is not None}
    faults += _addresses(sound)
    for door_id, door in doors.items():
        faults += _life_safety(join("doors", door_id), door)
        faults += _wiring(join("doors", door_id), door, devices)
    faults += _shared_points(doors)
    break_glass = {
        role: table
        for role, each in _entries(raw, "break_glass", faults).items()
        if (table := convert_table(each, BreakGlassTable, join("break_glass", role), faults))
    }
    for role, table in break_glass.items():
        faults += _break_glass(join("break_glass", role), table, raw, doors, devices)
    zones = {
        zone: zone_table
        for zone, each in _entries(raw, "zones", faults).items()
        if (zone_table := convert_table(each, ZoneTable, join("zones", zone), faults))
    }
    if raw.get("doors") == {}:
        faults.append(Fault("doors", "names no door: there is nothing to control"))
    if mqtt is not None and mqtt.tls is None and mqtt.host not in _THIS_MACHINE:
        faults.append(
            Fault(
                "mqtt.tls",
                f"is missing: events would travel to {mqtt.host} in clear text. "
                "Give ca, certificate and key, or use a broker on this machine",
            )
        )
    if faults or site is None or state is None or clock is None:
        raise ConfigError(file, faults)
    warnings = [*_unused(sound, doors), *_host_names(sound), *_strained(sound)]
    if mqtt is None:
        warnings.append(Fault("mqtt", "is missing: events stay on this box"))
    return SiteConfig(
        site=site,
        state=state,
        clock=clock,
        mqtt=mqtt,
        devices=sound,
        doors=doors,
        warnings=tuple(warnings),
        break_glass=break_glass,
        zones=zones,
        trust=trust,
        journal=journal,
    )


_OPTIONAL = ("mqtt", "break_glass", "zones", "trust", "journal")
_THIS_MACHINE = ("localhost", "127.0.0.1", "::1")


def _section(
    raw: Mapping[str, object], name: str, struct: type[S], faults: list[Fault]
) -> S | None:
    return convert_table(raw[name], struct, name, faults) if name in raw else None


def _entries(raw: Mapping[str, object], name: str, faults: list[Fault]) -> Mapping[str, object]:
    entries = raw.get(name, {})
    if not isinstance(entries, dict):
        faults.append(Fault(name, "must be a table"))
        return {}
    faults += [
        Fault(join(name, entry), "a name has 1 to 128 printable characters")
        for entry in entries
        if not _NAME.fullmatch(entry)
    ]
    return entries


_NAME = re.compile(r"[^\x00-\x1f\x7f]{1,128}")


def _devices(
    tables: Mapping[str, object], drivers: Mapping[str, DriverSpec], faults: list[Fault]
) -> dict[str, DeviceTable | None]:
    """The devices by name; None stands for one whose own table has faults, named already."""
    devices: dict[str, DeviceTable | None] = {}
    for name, table in tables.items():
        where = join("devices", name)
        devices[name] = None
        if not isinstance(table, dict):
            faults.append(Fault(where, "must be a table"))
            continue
        driver = table.get("driver")
        if not isinstance(driver, str) or driver not in drivers:
            what = "is missing" if driver is None else f"no driver {driver!r}"
            there_are = ", ".join(sorted(drivers))
            faults.append(Fault(f"{where}.driver", f"{what}; there are: {there_are}"))
            continue
        spec = drivers[driver]
        rest = {key: value for key, value in table.items() if key != "driver"}
        settings = convert_table(rest, spec.settings, where, faults)
        if settings is not None:
            devices[name] = DeviceTable(driver=spec, settings=settings)
    return devices


def _break_glass(
    where: str,
    table: BreakGlassTable,
    raw: Mapping[str, object],
    doors: Mapping[str, DoorTable],
    devices: Mapping[str, DeviceTable | None],
) -> Iterator[Fault]:
    there = raw.get("doors")
    for index, name in enumerate(table.doors):
        at = f"{where}.doors[{index}]"
        if not isinstance(there, dict) or name not in there:
            yield Fault(at, f"no door {name!r}")
            continue
        readers = doors[name].readers if name in doors else ()
        found = [devices.get(reader.device) for reader in readers]
        if name in doors and not any(
            each is None or Capability.READS_PINS in each.driver.capabilities for each in found
        ):
            yield Fault(at, f"door {name!r} has no keypad to enter a code at")
    if len(set(table.secrets)) < max(table.quorum, 1):
        yield Fault(
            f"{where}.secrets", f"a quorum of {table.quorum} needs as many people's secrets"
        )
    if len(set(table.secrets)) != len(table.secrets):
        yield Fault(f"{where}.secrets", "names a file twice: each person has a secret of their own")


def _addresses(devices: Mapping[str, DeviceTable]) -> Iterator[Fault]:
    owners: dict[str, list[str]] = {}
    for name, device in devices.items():
        spec = device.driver
        address, station = spec.address(device.settings), spec.station(device.settings)
        if address is None:
            continue
        for owner in owners.setdefault(address, []):
            other = devices[owner]
            if other.driver.name != spec.name:
                yield Fault(
                    join("devices", name),
                    f"{address} is already the line of device {owner!r}: {spec.name} and "
                    f"{other.driver.name} can't share a line. Give each a port of its own",
                )
            elif station is None:
                yield Fault(
                    join("devices", name), f"{address} is already the line of device {owner!r}"
                )
            elif other.driver.station(other.settings) == station:
                yield Fault(
                    join("devices", name),
                    f"{address} is already the line of device {owner!r}, with the same number "
                    f"({station})",
                )
            else:
                yield from _unlike(name, device, owner, other)
        owners[address].append(name)
    pins: dict[str, str] = {}
    for name, device in devices.items():
        for pin in device.driver.pins(device.settings):
            if pin in pins:
                yield Fault(join("devices", name), f"{pin} is already used by {pins[pin]!r}")
            pins.setdefault(pin, name)


def _unlike(name: str, device: DeviceTable, owner: str, other: DeviceTable) -> Iterator[Fault]:
    theirs = other.driver.alike(other.settings)
    for key, value in device.driver.alike(device.settings).items():
        if value != theirs[key]:
            yield Fault(
                join(join("devices", name), key),
                f"{value} here and {theirs[key]} at {owner!r}: they share a line, "
                "which has one setting",
            )


def _strained(devices: Mapping[str, DeviceTable]) -> Iterator[Fault]:
    lines: dict[str, list[str]] = {}
    for name, device in devices.items():
        if (address := device.driver.address(device.settings)) is not None:
            lines.setdefault(address, []).append(name)
    for names in lines.values():
        strain = devices[names[0]].driver.strain([devices[name].settings for name in names])
        if strain is not None:
            yield Fault(join("devices", names[0]), strain)


def _life_safety(where: str, door: DoorTable) -> Iterator[Fault]:
    if door.free_egress == "gateway":
        yield Fault(
            f"{where}.free_egress",
            "people must be able to leave when this box is dead. Fit a handle or crash bar "
            '("mechanical") or an exit button that cuts the lock\'s power itself ("hardwired")',
        )
    if door.fire_release == "gateway":
        yield Fault(
            f"{where}.fire_release",
            "a fire release must not depend on software. Wire the fire panel's relay into the "
            'lock\'s power ("hardwired")',
        )
    if door.fire_release == "not_needed" and door.free_egress == "hardwired":
        yield Fault(
            f"{where}.fire_release",
            "an electrically held door on an escape route needs a fire release: wire the fire "
            "panel's relay into the lock's power (\"hardwired\")",
        )
    if door.free_egress == "hardwired" and door.lock == "fail_secure":
        yield Fault(
            f"{where}.lock",
            "an exit button that cuts the power opens only a fail_safe lock: this door would keep "
            "people in during a power cut. Fit a fail_safe lock or mechanical egress",
        )


def _wiring(
    where: str, door: DoorTable, devices: Mapping[str, DeviceTable | None]
) -> Iterator[Fault]:
    strike = door.strike
    yield from _point(f"{where}.strike", strike.device, "output", strike.output, devices)
    device = devices.get(strike.device)
    if device is not None and device.driver.relay_class is not None:
        best = device.driver.relay_class(device.settings)
        if strike.relay_class > best:
            yield Fault(
                f"{where}.strike.relay_class",
                f"{strike.relay_class} promises more than device {strike.device!r} does with its "
                f"settings: {best}",
            )
    if strike.relay_class in _HOST_TIMED and strike.accept_host_timed is None:
        yield Fault(
            f"{where}.strike.accept_host_timed",
            f"is missing: a strike of class {strike.relay_class} is timed by this software, and "
            "killed in mid-pulse it could leave the lock released. Use a board with timed pulses "
            "(R2), or write here why it is acceptable at this door",
        )
    if door.contact is not None:
        contact = door.contact
        yield from _point(f"{where}.contact", contact.device, "input", contact.input, devices)
        yield from _opposite(f"{where}.contact", contact, devices)
    if door.rex is not None:
        yield from _point(f"{where}.rex", door.rex.device, "input", door.rex.input, devices)
        yield from _opposite(f"{where}.rex", door.rex, devices)
    if door.tamper is not None:
        yield from _point(
            f"{where}.tamper", door.tamper.device, "input", door.tamper.input, devices
        )
    if door.relock == "on_open" and door.contact is None:
        yield Fault(
            f"{where}.relock",
            '"on_open" needs a contact that says when the door is open: wire one, or use "at_end"',
        )
    yield from _assurance(where, door, devices)
    if not door.readers:
        yield Fault(f"{where}.readers", "names no reader: nobody could ever be let in here")
    for index, reader in enumerate(door.readers):
        at = f"{where}.readers[{index}].device"
        if reader.device not in devices:
            yield Fault(at, f"no device {reader.device!r}")
            continue
        read_by = devices[reader.device]
        if read_by is not None and not read_by.driver.capabilities & _READS:
            yield Fault(at, f"{reader.device!r} ({read_by.driver.name}) reads no credentials")


def _assurance(
    where: str, door: DoorTable, devices: Mapping[str, DeviceTable | None]
) -> Iterator[Fault]:
    found = [devices.get(reader.device) for reader in door.readers if reader.side == "in"]
    readers = [each for each in found if each is not None]
    if len(readers) < len(found) or not readers:
        return  # named already
    kinds = [kind for each in readers for kind in each.driver.proves(each.settings)]
    pins = any(Capability.READS_PINS in each.driver.capabilities for each in readers)
    best = assurance.reached(kinds, with_pin=pins)
    if assurance.least(best, door.assurance) != best:
        yield Fault(
            f"{where}.assurance",
            f"{door.assurance!r} is more than anything that its readers take: {best!r} at most. "
            "Nobody could ever be let in here",
        )


_HOST_TIMED = (RelayClass.R0, RelayClass.R1)
_READS = frozenset({Capability.READS_CREDENTIALS, Capability.READS_PINS})


def _point(
    where: str,
    name: str,
    kind: Literal["output", "input"],
    number: int,
    devices: Mapping[str, DeviceTable | None],
) -> Iterator[Fault]:
    if name not in devices:
        yield Fault(f"{where}.device", f"no device {name!r}")
        return
    device = devices[name]
    if device is None:
        return
    spec = device.driver
    count = (spec.outputs if kind == "output" else spec.inputs)(device.settings)
    if count == 0:
        yield Fault(f"{where}.device", f"{name!r} ({spec.name}) has no {kind}s")
    elif number > count:
        yield Fault(f"{where}.{kind}", f"{name!r} has {kind}s 1 to {count}, not {number}")
    elif kind == "input" and number not in (spec.supervised(device.settings) or {number}):
        yield Fault(f"{where}.{kind}", f"input {number} of {name!r} has no loop: see its `loops`")


def _opposite(
    where: str, point: Contact | Rex, devices: Mapping[str, DeviceTable | None]
) -> Iterator[Fault]:
    device = devices.get(point.device)
    if point.opposite_input is None or device is None:
        return
    if device.driver.supervised(device.settings) is not None:
        what = f"{point.device!r} sees cut and shorted wires by end-of-line resistors: leave it out"
        yield Fault(f"{where}.opposite_input", what)
        return
    count = device.driver.inputs(device.settings)
    if point.opposite_input > count:
        what = f"{point.device!r} has inputs 1 to {count}, not {point.opposite_input}"
        yield Fault(f"{where}.opposite_input", what)


def _shared_points(doors: Mapping[str, DoorTable]) -> Iterator[Fault]:
    owner: dict[tuple[str, str, int], str] = {}
    shared: dict[str, list[str]] = {}
    for door_id, door in doors.items():
        where = join("doors", door_id)
        points = [(f"{where}.strike.output", (door.strike.device, "output", door.strike.output))]
        for name, point in (("contact", door.contact), ("rex", door.rex)):
            if point is None:
                continue
            points.append((f"{where}.{name}.input", (point.device, "input", point.input)))
            if point.opposite_input is not None:
                path = f"{where}.{name}.opposite_input"
                points.append((path, (point.device, "input", point.opposite_input)))
        if door.tamper is not None:
            path = f"{where}.tamper.input"
            points.append((path, (door.tamper.device, "input", door.tamper.input)))
        for index, reader in enumerate(door.readers):
            path = f"{where}.readers[{index}].device"
            if reader.shared:
                shared.setdefault(reader.device, []).append(path)
            else:
                points.append((path, (reader.device, "reader", 0)))
        for path, at in points:
            if at in owner:
                what = at[0] if at[1] == "reader" else f"{at[1]} {at[2]} of {at[0]}"
                hint = (
                    "; a reader of several doors is `shared` at each" if at[1] == "reader" else ""
                )
                yield Fault(path, f"{what} is already at {owner[at]}{hint}")
            owner.setdefault(at, path)
    for device, paths in shared.items():
        if (device, "reader", 0) in owner:
            yield Fault(paths[0], f"{device} is not `shared` at {owner[device, 'reader', 0]}")
        elif len({path.rpartition(".readers")[0] for path in paths}) == 1:
            yield Fault(paths[0], f"{device} is `shared`, but at no other door")


def _unused(devices: Mapping[str, DeviceTable], doors: Mapping[str, DoorTable]) -> Iterator[Fault]:
    used = {
        name
        for door in doors.values()
        for name in (
            door.strike.device,
            *(point.device for point in (door.contact, door.rex, door.tamper) if point is not None),
            *(reader.device for reader in door.readers),
        )
    }
    for name in devices:
        if name not in used:
            yield Fault(join("devices", name), "is at no door")


def _host_names(devices: Mapping[str, DeviceTable]) -> Iterator[Fault]:
    for name, device in devices.items():
        host = getattr(device.settings, "host", None)
        if host is None:
            continue
        try:
            ipaddress.ip_address(host)
        except ValueError:
            yield Fault(
                join(join("devices", name), "host"),
                f"{host!r} is not an IP address"
                if not host.strip("0123456789.")
                else f"{host!r} is a name, and the core can't look names up under systemd. "
                "Give the IP address",
            )
