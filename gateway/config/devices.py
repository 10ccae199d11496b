"""What the config must know of a driver to check a site: its settings and what it can do."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from enum import StrEnum
from typing import Any, Final

import msgspec


class DeviceSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What stands under [devices.NAME] beside `driver`. Each driver extends it."""


def refuse(faults: Iterable[str]) -> None:
    """What the `__post_init__` of settings ends with: every fault is told, not only the first.

    Args:
        faults: A text each, "`member` what is wrong with it"; none: the settings are possible.

    Raises:
        ValueError: there is one; a line each.
    """
    if told := "\n".join(faults):
        raise ValueError(told)


class Capability(StrEnum):
    """What a device can do for a door."""

    READS_CREDENTIALS = "reads_credentials"
    READS_PINS = "reads_pins"
    REPORTS_INPUTS = "reports_inputs"
    PULSES_OUTPUTS = "pulses_outputs"
    INDICATES = "indicates"


class RelayClass(StrEnum):
    """Who times a strike's pulse, and what becomes of it when we die (docs/promises.md)."""

    R0 = "R0"  # plain coil or GPIO: timed by this software
    R1 = "R1"  # timed by this software; the board has a communication watchdog
    R2 = "R2"  # timed on the device, read back
    R3 = "R3"  # timed on the device, drops on loss of communication, read back


class Means(StrEnum):
    """By what a driver was tried, the most telling first."""

    HARDWARE = "real hardware"
    CAPTURE = "capture"
    VECTORS = "specification vectors"
    PEER = "peer"
    SIMULATOR = "simulator only"


class Trial(msgspec.Struct, frozen=True):
    """One way in which a driver was tried."""

    means: Means
    what: str
    """Which hardware, whose capture or document, what peer."""


SIMULATED: Final = Trial(Means.SIMULATOR, "hwsim, written from the manual")


class DriverSpec(msgspec.Struct, frozen=True):
    """A driver as the config sees it; the last line of each driver file is its `DRIVER`."""

    name: str
    settings: type[DeviceSettings]
    capabilities: frozenset[Capability]
    build: Callable[..., Any]
    """(device_id: str, settings, clock: Clock) -> gateway.drivers.base.Driver; opens nothing."""
    relay_class: Callable[[Any], RelayClass] | None = None
    """The best class that a strike on this device can claim, from its settings."""
    outputs: Callable[[Any], int] = lambda _settings: 0
    """How many outputs there are, numbered from 1."""
    inputs: Callable[[Any], int] = lambda _settings: 0
    """How many inputs there are, numbered from 1."""
    supervised: Callable[[Any], AbstractSet[int] | None] = lambda _settings: None
    """The inputs that are read through end-of-line resistors, on a device that has no others; None:
    it has plain inputs."""
    address: Callable[[Any], str | None] = lambda _settings: None
    """The line that the device owns: "/dev/ttyUSB0", "10.0.0.5:502"."""
    station: Callable[[Any], int | str | None] = lambda _settings: None
    """Its number on a line that devices of this driver share; None: the line is its alone."""
    alike: Callable[[Any], Mapping[str, object]] = lambda _settings: {}
    """The settings of the line itself, which all that share it must have alike."""
    strain: Callable[[Sequence[Any]], str | None] = lambda _settings: None
    """What a line can't hold with devices of these settings on it; None where it holds all."""
    pins: Callable[[Any], tuple[str, ...]] = lambda _settings: ()
    """The lines of a chip that the device owns: "/dev/gpiochip0 line 5"."""
    proves: Callable[[Any], Iterable[str]] = lambda _settings: ()
    """The kinds of credentials it presents, by its settings, that reach more than `low`
    (gateway/domain/assurance.py)."""
    missing: Callable[[Any], Iterable[tuple[str, str]]] = lambda _settings: ()
    """What its settings name and this machine has not: the member's path and why it matters."""
    title: str = ""
    """What it drives, for an installer who looks for a name."""
    transport: str = ""
    """What the device is connected by."""
    tried: tuple[Trial, ...] = (SIMULATED,)
    """How it was tried, beside the simulator's tests that every driver has."""
