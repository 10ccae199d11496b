"""What every driver is: the contract between a device and the rest of the gateway."""

from collections.abc import Callable
from datetime import timedelta
from typing import Protocol, runtime_checkable

from gateway.domain.facts import Fact
from gateway.domain.signal import Signal

__all__ = ["Driver", "FactSink", "Indicates", "PulsesOutput", "Signal"]

FactSink = Callable[[Fact], None]
"""Takes a fact at once: never blocks, never raises, called on the event loop only."""


class Driver(Protocol):
    """One device and its line. The constructor opens nothing."""

    device_id: str

    async def run(self, emit: FactSink) -> None:
        """Open the line, emit `DeviceOnline` once the device has answered, then its facts, until
        the line is lost or the task is cancelled; close everything in `finally`.

        Raises:
            DeviceUnavailable, DeviceProtocolError: transient; the supervisor runs it again.
            DeviceMisconfigured: permanent.
        It never returns by itself. `DeviceOffline` is the supervisor's to say.
        """


@runtime_checkable
class PulsesOutput(Protocol):
    """Has outputs that release themselves; there is no way to leave one on."""

    async def pulse(self, output: int, duration: timedelta) -> None:
        """Energise `output` (from 1) for `duration`; returns when the device has confirmed it.

        A pulse during a pulse restarts the time. Raises DeviceError when it is not confirmed.
        """

    async def rest(self, output: int) -> None:
        """Release `output` now; returns when the device has confirmed it. Raises DeviceError."""


@runtime_checkable
class Indicates(Protocol):
    """Has a lamp, a buzzer or a display."""

    async def indicate(self, signal: Signal) -> None:
        """Show `signal`. Raises DeviceError; a failure to show never changes a decision."""
