"""What every driver is: the contract between a device and the rest of the gateway."""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Protocol, runtime_checkable

from gateway.domain.facts import Fact
from gateway.domain.own_hours import Profile
from gateway.domain.own_list import ListedCard
from gateway.domain.signal import Signal

__all__ = ["Driver", "FactSink", "Indicates", "KeepsCards", "PulsesOutput", "Signal"]

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


class KeepsCards(Protocol):
    """A door of a controller that has a list of cards of its own, which the gateway writes.

    What is not answered raises DeviceError.
    """

    @property
    def controller(self) -> str:
        """The same for all doors of one controller, which has one list."""

    @property
    def controller_door(self) -> int:
        """The number of this door there."""

    async def clock(self) -> datetime | None:
        """What its clock shows, None if that is no time. Raises DeviceError."""

    async def set_clock(self, local: datetime) -> None:
        """Set the controller's clock, by which days begin and end. Raises DeviceError."""

    async def cards(self) -> dict[int, ListedCard]:
        """The list as it is, by number. Raises DeviceError."""

    async def profiles(self) -> dict[int, Profile]:
        """Its time profiles, by number. Raises DeviceError."""

    async def put_profile(self, number: int, profile: Profile) -> None:
        """Add or change a profile. Raises DeviceRefused where it doesn't read back the same."""

    async def put_card(self, number: int, card: ListedCard) -> None:
        """Add or change a card. Raises DeviceRefused where it isn't taken."""

    async def delete_card(self, number: int) -> None:
        """Take a card off the list. Raises DeviceRefused where it stays there."""

    def card_value(self, number: int) -> str | None:
        """The canonical `wiegand` value of a number on the list."""

    def card_number(self, value: str) -> int | None:
        """The number on the list of a canonical `wiegand` value; None where it can't have one."""


@runtime_checkable
class Indicates(Protocol):
    """Has a lamp, a buzzer or a display."""

    async def indicate(self, signal: Signal) -> None:
        """Show `signal`. Raises DeviceError; a failure to show never changes a decision."""
