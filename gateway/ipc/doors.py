"""The last state of every door, for any number of watchers, none of whom can hold up a door."""

import asyncio
from collections.abc import AsyncGenerator

from gateway.ipc.messages import DoorStateReport


class DoorStates:
    """Keeps the latest report of each door. A slow watcher skips states, it never queues them."""

    def __init__(self) -> None:
        self._latest: dict[str, DoorStateReport] = {}
        self._watchers: dict[asyncio.Event, dict[str, None]] = {}

    def report(self, state: DoorStateReport) -> None:
        """Take a door's new state. Never blocks."""
        if self._latest.get(state.door) == state:
            return
        self._latest[state.door] = state
        for woken, stale in self._watchers.items():
            stale[state.door] = None
            woken.set()

    def latest(self) -> dict[str, DoorStateReport]:
        """The state of every door that reported one, by door."""
        return dict(self._latest)

    async def watch(self) -> AsyncGenerator[DoorStateReport, None]:
        """Every door's state now, then each change, for ever."""
        woken = asyncio.Event()
        stale = dict.fromkeys(self._latest)
        self._watchers[woken] = stale
        try:
            while True:
                while stale:
                    door = next(iter(stale))
                    del stale[door]
                    yield self._latest[door]
                woken.clear()
                await woken.wait()
        finally:
            del self._watchers[woken]
