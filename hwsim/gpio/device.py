"""What hangs on a simulated chip's lines: contacts and relays, and Wiegand readers.

The gateway's libgpiod finds the chip through the preloaded shim (see `environment`), so it must be
another process than this one, which its calls would wait for.
"""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hwsim.gpio.chip import Chip
from hwsim.gpio.host import build_shim
from hwsim.observations import CardBitsSent, KeysSent, Lamp, Observations, Output
from hwsim.relay_board import Edge

KEYS = "0123456789*#"
BIT_US = 2000
KEY_GAP_S = 0.03  # a frame is over after 25 ms of silence

_PATH_BYTES_MAX = 107  # sun_path (unix(7))


class SharedChip:
    """One chip for all devices of a site that name it."""

    def __init__(self, path: Path) -> None:
        """Raises ValueError: no socket can have this path."""
        if len(str(path)) > _PATH_BYTES_MAX:
            raise ValueError(f"{path}: too long for the path of a socket; use a shorter directory")
        self.path = path
        self.told: list[Callable[[int, bool, int], None]] = []
        self.chip = Chip(path, self._tell)

    def environment(self, into: Path) -> dict[str, str]:
        """What a gateway needs in its environment to find the chip; the shim goes into `into`.

        Raises:
            OSError, subprocess.CalledProcessError: there is no C compiler, or no linux/gpio.h.
        """
        return {"LD_PRELOAD": str(build_shim(into)), "HWSIM_GPIO_CHIP": str(self.path)}

    def _tell(self, seen: dict[str, Any]) -> None:
        for told in self.told:
            told(seen["line"], seen["high"], seen["at_ns"])


class OnChip:
    """A device on the lines of a chip; they come and go together."""

    def __init__(self, name: str, shared: SharedChip, seen: Observations) -> None:
        self.name = name
        self.shared = shared
        self.seen = seen
        shared.told.append(self.level)

    def level(self, line: int, high: bool, at_ns: int) -> None:
        """The host has set a line."""

    def plug(self) -> None:
        """The chip appears; nothing if it is there."""
        self.shared.chip.plug()

    def unplug(self, after_bytes: int | None = None) -> None:
        """The chip goes away, with whatever is on it."""
        if after_bytes is not None:
            raise ValueError(f"{self.name}: a chip's lines have no bytes")
        self.shared.chip.unplug()

    def hang(self) -> None:
        """Lines can't."""
        raise ValueError(f"{self.name}: a chip's lines don't hang")

    def resume(self) -> None:
        """They never hung."""

    def noise(self, n: int, seed: int) -> None:
        """Nothing sends bytes here."""
        del n, seed
        raise ValueError(f"{self.name}: a chip's lines have no bytes")


class GpioPoints(OnChip):
    """Switches to ground or to plus on some lines, relays on others; both counted from 1."""

    def __init__(
        self, name: str, shared: SharedChip, seen: Observations, table: dict[str, Any]
    ) -> None:
        super().__init__(name, shared, seen)
        self.inputs: list[int] = list(table.get("inputs", []))
        self.outputs: list[int] = list(table.get("outputs", []))
        self._inputs_low = bool(table.get("inputs_active_low"))
        self._outputs_low = bool(table.get("outputs_active_low"))
        self.switched: list[Callable[[Edge], None]] = []
        self._on = [False] * len(self.outputs)
        for number in range(1, len(self.inputs) + 1):
            self.set_input(number, active=False)

    def set_input(self, number: int, *, active: bool) -> None:
        """Close or open a switch."""
        self.shared.chip.drive(self.inputs[number - 1], high=active != self._inputs_low)

    def level(self, line: int, high: bool, at_ns: int) -> None:
        """See `OnChip.level`."""
        if line not in self.outputs:
            return
        place, on = self.outputs.index(line), high != self._outputs_low
        if self._on[place] != on:
            self._on[place] = on
            self.seen.add(Output(at_ns, self.name, place + 1, on))
            for tell in self.switched:
                tell(Edge(at_ns, place + 1, on=on))


class GpioWiegand(OnChip):
    """A Wiegand reader with a keypad, a lamp and a buzzer; what it shows is `Lamp`s by wire."""

    def __init__(
        self, name: str, shared: SharedChip, seen: Observations, table: dict[str, Any]
    ) -> None:
        super().__init__(name, shared, seen)
        self._data = {"0": table["d0"], "1": table["d1"]}
        self._shown = {table.get("lamp"): "green", table.get("buzzer"): "buzzer"}
        self._low = bool(table.get("lamp_active_low"))
        self._key_bits = 4 if table.get("keypad") == "4bit" else 8
        self._sending = asyncio.Lock()

    async def card(self, bits: str) -> int:
        """Send the bits of a card; when the last one went out, in monotonic nanoseconds."""
        at_ns = await self._send(bits)
        self.seen.add(CardBitsSent(at_ns, self.name, len(bits)))
        return at_ns

    async def press(self, keys: str, gap: float) -> int:
        """Press keys; when the last one went out, in monotonic nanoseconds.

        Raises:
            ValueError: there is no such key.
        """
        at_ns = time.monotonic_ns()
        for key in keys:
            code = KEYS.index(key)
            burst = f"{(code ^ 0xF) << 4 | code:08b}"
            at_ns = await self._send(burst[-self._key_bits :])
            await asyncio.sleep(max(gap, KEY_GAP_S))
        self.seen.add(KeysSent(at_ns, self.name, keys))
        return at_ns

    async def _send(self, bits: str) -> int:
        async with self._sending:
            edges = [[self._data[bit], place * BIT_US] for place, bit in enumerate(bits)]
            return await self.shared.chip.pulses(edges)

    def level(self, line: int, high: bool, at_ns: int) -> None:
        """See `OnChip.level`."""
        if (wire := self._shown.get(line)) is not None:
            state = "on" if high != self._low else "off"
            self.seen.add(Lamp(at_ns, self.name, f"{wire} {state}"))
