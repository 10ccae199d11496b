"""What the core wants published, until the link takes it."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator

import structlog

from gateway.ipc.messages import Outgoing

WAITING_MAX = 64
"""Results, reports and questions while the link is away. The oldest gives way: reports and
questions come again, and nobody waits any more for so old a result."""

_log = structlog.get_logger(__name__)


class Outbox:
    """One queue, first in first out."""

    def __init__(self) -> None:
        self._waiting: deque[Outgoing] = deque()
        self._news = asyncio.Event()

    def put(self, message: Outgoing) -> None:
        """Have a message published; never waits."""
        if len(self._waiting) >= WAITING_MAX:
            _log.warning("outbox_full", dropped=self._waiting.popleft().topic)
        self._waiting.append(message)
        self._news.set()

    async def watch(self) -> AsyncGenerator[Outgoing, None]:
        """The messages, each taken once."""
        while True:
            while self._waiting:
                yield self._waiting.popleft()
            self._news.clear()
            await self._news.wait()
