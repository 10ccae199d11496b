"""Work that the link's side of the socket may ask for: bounded, so that no door waits for it.

The link talks to the network and may be taken over. Everything that peers with its rights ask for,
over all their connections together, is paid from one budget.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Literal

from gateway.ipc.messages import Status

BYTES_A_SECOND = 16 * 1024 * 1024
"""Read from the link: twenty times what a bundle over a fast line brings."""
BYTES_AT_ONCE = 2 * 1024 * 1024
"""Four chunks of a bundle, as large as the socket takes them."""
REQUEST_BYTES = 8 * 1024
"""What a request counts besides its own bytes: so 2,000 small ones a second, three times as many
as a month's backlog drains with."""
REST = {"journal": 1.0, "deliver": 2.0, "status": 4.0}
"""How long to rest after a piece of work, in times of what it took."""
REST_S_MAX = 0.02
"""A slow disk is no reason to rest: the doors have the loop meanwhile."""
STATUS_S = 0.25
"""How old a status may be: a gateway of many doors takes milliseconds to describe itself."""

Work = Literal["journal", "deliver", "status"]


class LinkBudget:
    """The budget of all peers with LINK rights together."""

    def __init__(self) -> None:
        self._left = float(BYTES_AT_ONCE)
        self._left_at = 0.0
        self._turns = {work: asyncio.Lock() for work in REST}
        self._status: Status | None = None
        self._status_until = 0.0

    def spend(self, size: int, now: float) -> float:
        """Pay for what was read; return for how many seconds nothing more may be read."""
        grown = self._left + (now - self._left_at) * BYTES_A_SECOND
        self._left = min(grown, float(BYTES_AT_ONCE)) - size
        self._left_at = now
        return max(0.0, -self._left / BYTES_A_SECOND)

    @asynccontextmanager
    async def turn(self, work: Work) -> AsyncGenerator[None, None]:
        """Do one piece of work of a kind at a time, with a rest after each."""
        loop = asyncio.get_running_loop()
        async with self._turns[work]:
            begun = loop.time()
            try:
                yield
            finally:
                took = loop.time() - begun
                await asyncio.sleep(min(took * REST[work], REST_S_MAX))

    async def status(self, ask: Callable[[], Awaitable[Status]], now: float) -> Status:
        """Return a status that is no older than STATUS_S."""
        if self._status is None or now >= self._status_until:
            self._status = await ask()
            self._status_until = now + STATUS_S
        return self._status
