"""One reader for several doors: each door answers for itself, the reader shows the best answer."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta

from gateway.clock import Clock
from gateway.domain.signal import Signal

PATIENCE = timedelta(milliseconds=300)
"""How long a denial waits for another door's grant: they are decided within milliseconds, and may
wait 250 ms for the disk."""


class SharedReader:
    """Stands between the doors and the one reader that they share."""

    def __init__(self, indicate: Callable[[Signal], Awaitable[None]], clock: Clock) -> None:
        self._indicate = indicate
        self._clock = clock
        self._shown: dict[Signal, timedelta] = {}

    async def indicate(self, signal: Signal) -> None:
        """Show a grant, or that a PIN is wanted, at once; less only where no door does better."""
        asked = self._clock.monotonic()
        better = [Signal.GRANTED]
        if signal is Signal.PIN_WANTED:
            # Not a moment later: a keypad forgets what was pressed before it.
            better = [Signal.GRANTED, signal]
        elif signal is not Signal.GRANTED:
            await asyncio.sleep(PATIENCE.total_seconds())
            better = [Signal.GRANTED, Signal.PIN_WANTED, signal]
        if signal is not Signal.GRANTED and any(self._since(each, asked) for each in better):
            return
        self._shown[signal] = self._clock.monotonic()
        await self._indicate(signal)

    def _since(self, signal: Signal, asked: timedelta) -> bool:
        shown = self._shown.get(signal)
        return shown is not None and shown > asked - PATIENCE
