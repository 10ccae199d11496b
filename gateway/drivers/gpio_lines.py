"""Lines of a GPIO chip that a driver holds: requested, watched and released in one place."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final, Literal

import gpiod
from gpiod.line import Bias

from gateway.errors import DeviceMisconfigured, DeviceUnavailable

EVENT_BUFFER_SIZE: Final = 512
"""Kernel's default is 16 events a line, less than one Wiegand frame."""

EVENTS_A_TURN: Final = 64
"""Edges taken before others have their turn on the loop: a line that flickers is one of many."""

LINE_MAX: Final = 511

BiasName = Literal["as_is", "disabled", "pull_up", "pull_down"]
BIAS: Final[Mapping[str, Bias]] = {
    "as_is": Bias.AS_IS,
    "disabled": Bias.DISABLED,
    "pull_up": Bias.PULL_UP,
    "pull_down": Bias.PULL_DOWN,
}


def chip_faults(chip: str) -> Iterator[str]:
    """What is wrong with a chip's path, as `refuse` takes it."""
    if not chip.startswith("/") or "\x00" in chip or len(chip) > 100:
        yield '`chip` must be the absolute path of a GPIO chip ("/dev/gpiochip0")'


def line_faults(name: str, lines: tuple[int, ...]) -> Iterator[str]:
    """What is wrong with line numbers: such as no chip has, or the same twice."""
    if any(not 0 <= line <= LINE_MAX for line in lines):
        yield f"`{name}` must be line numbers from 0 to {LINE_MAX}"
    if len(set(lines)) < len(lines):
        yield f"`{name}` names a line twice"


@asynccontextmanager
async def held(
    device_id: str, chip: str, config: dict[Any, Any], **options: Any
) -> AsyncIterator["Lines"]:
    """The requested lines, for the length of the block.

    Raises:
        DeviceUnavailable: the chip is not there, or a line is in use.
        DeviceMisconfigured: the chip has no such line.
    """
    try:
        request = gpiod.request_lines(chip, config=config, consumer="door-gateway", **options)
    except ValueError as error:
        raise DeviceMisconfigured(f"{device_id}: {chip}: {error}") from error
    except OSError as error:
        raise DeviceUnavailable(f"{device_id}: {chip} can't be used: {error}") from error
    lines = Lines(device_id, chip, request)
    try:
        yield lines
    finally:
        lines.stop()
        request.release()


class Lines:
    """Requested lines whose edges come off the loop's own descriptor."""

    def __init__(self, device_id: str, chip: str, request: gpiod.LineRequest) -> None:
        self._device_id = device_id
        self._chip = chip
        self.request = request
        self._watching = False
        self.lost: asyncio.Future[DeviceUnavailable] = asyncio.get_running_loop().create_future()

    def watch(self, take: Callable[[list[gpiod.EdgeEvent]], None]) -> None:
        """Hand every edge up from now on."""

        def ready() -> None:
            try:
                events = self.request.read_edge_events(EVENTS_A_TURN)
            except OSError as error:
                self.lose(error)
                return
            take(events)

        asyncio.get_running_loop().add_reader(self.request.fd, ready)
        self._watching = True

    @property
    def pending(self) -> bool:
        """Whether edges wait in the kernel."""
        return self._watching and self.request.wait_edge_events(0.0)

    def stop(self) -> None:
        """Watch no more."""
        if self._watching:
            self._watching = False
            asyncio.get_running_loop().remove_reader(self.request.fd)

    def lose(self, error: OSError) -> DeviceUnavailable:
        """The chip is gone: say so to whoever waits for `lost`."""
        self.stop()
        why = DeviceUnavailable(f"{self._device_id}: {self._chip} is gone: {error}")
        if not self.lost.done():
            self.lost.set_result(why)
        return why
