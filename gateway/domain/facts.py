"""What devices report. A driver turns bytes into these and knows nothing of doors.

`at` is always the monotonic time (`Clock.monotonic`) at which the last byte of it came.
"""

from datetime import timedelta

import msgspec


class CredentialPresented(msgspec.Struct, frozen=True, gc=False):
    """Somebody presented a credential, its `kind` and `value` as in docs/spec/entitlements.md."""

    device: str
    kind: str
    value: str
    at: timedelta
    counter: int | None = None
    """What it proved itself with, where each proof counts one on (`sun`): good for one opening."""
    began: timedelta | None = None
    """When its first sign came, where the device knows."""

    def __repr__(self) -> str:
        """Without the value: a credential is never printed."""
        return f"CredentialPresented(device={self.device!r}, kind={self.kind!r}, at={self.at})"


class CredentialRefused(msgspec.Struct, frozen=True, gc=False):
    """Something was presented and did not prove itself; who it might be is not known."""

    device: str
    kind: str
    why: str
    at: timedelta


class AdmittedElsewhere(msgspec.Struct, frozen=True, gc=False):
    """A controller has let somebody in by its own list, now or while this software was away."""

    device: str
    kind: str
    value: str
    at: timedelta

    def __repr__(self) -> str:
        """Without the value: a credential is never printed."""
        return f"AdmittedElsewhere(device={self.device!r}, kind={self.kind!r}, at={self.at})"


class InputChanged(msgspec.Struct, frozen=True, gc=False):
    """An input of a device (numbered from 1) became active or inactive, or was first seen so."""

    device: str
    input: int
    active: bool
    at: timedelta


class InputGlimpsed(msgspec.Struct, frozen=True, gc=False):
    """An input was seen twice in a row in another state than was told: it may be bouncing, pressed
    or disturbed. If it stays so, `InputChanged` follows. Only for what must not wait for that.
    """

    device: str
    input: int
    active: bool
    at: timedelta


class InputFaulty(msgspec.Struct, frozen=True, gc=False):
    """The wires of an input are broken: what it says is unknown until the next `InputChanged`."""

    device: str
    input: int
    what: str
    """`cut`, `short`, `resistance`, `unsteady` or `supply` (docs/door.md)."""
    at: timedelta


class OutputReported(msgspec.Struct, frozen=True, gc=False):
    """A device's read-back of an output (numbered from 1): it is energised or at rest."""

    device: str
    output: int
    energised: bool
    at: timedelta


class UnexpectedOutput(msgspec.Struct, frozen=True, gc=False):
    """An output was found energised that nobody had pulsed; the driver has put it to rest."""

    device: str
    output: int
    at: timedelta


class TamperChanged(msgspec.Struct, frozen=True, gc=False):
    """A device's case was opened or closed again, or was first seen so."""

    device: str
    active: bool
    at: timedelta


class PowerChanged(msgspec.Struct, frozen=True, gc=False):
    """A device's supply failed or came back, as it says itself, or was first seen so."""

    device: str
    failed: bool
    at: timedelta


class BatteryReported(msgspec.Struct, frozen=True, gc=False):
    """How full a device's battery is, as it says itself, in percent."""

    device: str
    percent: int
    at: timedelta


class InstallWindowOpened(msgspec.Struct, frozen=True, gc=False):
    """A reader may be given a key with the default key, for so long. May precede `DeviceOnline`."""

    device: str
    lasts: timedelta
    at: timedelta


class InstallWindowClosed(msgspec.Struct, frozen=True, gc=False):
    """It may no longer. `key_set`: it has a new key of its own. May precede `DeviceOnline`."""

    device: str
    key_set: bool
    at: timedelta


class DeviceOnline(msgspec.Struct, frozen=True, gc=False):
    """The device answers. Emitted once a `run`, before any other fact of it."""

    device: str
    at: timedelta


class DeviceOffline(msgspec.Struct, frozen=True, gc=False):
    """The device is lost; what it last reported is unknown from now on."""

    device: str
    why: str
    at: timedelta


Fact = (
    CredentialPresented
    | CredentialRefused
    | AdmittedElsewhere
    | InputChanged
    | InputGlimpsed
    | InputFaulty
    | OutputReported
    | UnexpectedOutput
    | TamperChanged
    | PowerChanged
    | BatteryReported
    | InstallWindowOpened
    | InstallWindowClosed
    | DeviceOnline
    | DeviceOffline
)
