"""A link between an in-memory core behind the real socket and whatever broker a test names."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from gateway.clock import TimeTrust, monotonic
from gateway.ipc.server import CoreServer
from gateway.link.run import run_link
from gateway.link.settings import (
    HomeAssistantSettings,
    LinkSettings,
    LoginSettings,
    Pace,
    TlsSettings,
)
from tests.brokers import Certificates
from tests.ipc.memory import MemoryCore
from tests.timing import allowed

PREFIX = "acs/v1/LON/lon-1"

BRISK = Pace(
    backoff_s_first=0.05,
    backoff_s_max=0.3,
    probe_s_first=0.2,
    resend_s_first=0.5,
    resend_s_max=2.0,
    ack_s=0.02,
    health_s=0.2,
    core_retry_s=0.05,
)


class TrustedClock:
    """The machine's clock, vouched for, and `ahead` of it."""

    def __init__(self, ahead: timedelta = timedelta(0)) -> None:
        self._ahead = ahead

    def now(self) -> datetime:
        return datetime.fromtimestamp(0, UTC) + self._ahead + self._since_epoch()

    def monotonic(self) -> timedelta:
        return monotonic()

    def trust(self) -> TimeTrust:
        return TimeTrust.T2

    def _since_epoch(self) -> timedelta:
        return datetime.now(UTC) - datetime.fromtimestamp(0, UTC)  # noqa: TID251 - it is the clock


def link_settings(
    port: int,
    *,
    host: str = "127.0.0.1",
    tls: Certificates | None = None,
    pace: Pace = BRISK,
    keepalive_s: int = 5,
    login: LoginSettings | None = None,
    home_assistant: HomeAssistantSettings | None = None,
) -> LinkSettings:
    files = (
        None if tls is None else TlsSettings(ca=tls.ca, certificate=tls.certificate, key=tls.key)
    )
    return LinkSettings(
        host=host,
        port=port,
        keepalive_s=keepalive_s,
        tls=files,
        site="LON",
        gateway="lon-1",
        login=login,
        home_assistant=home_assistant,
        pace=pace,
    )


@asynccontextmanager
async def core_on(path: Path, core: MemoryCore) -> AsyncIterator[None]:
    """The core's socket."""
    server = CoreServer(path, core)
    task = asyncio.create_task(server.run())
    try:
        async with asyncio.timeout(allowed(5)):
            await server.listening.wait()
        yield
    finally:
        task.cancel()
        await asyncio.wait({task})


@asynccontextmanager
async def linking(
    settings: LinkSettings, path: Path, *, clock: TrustedClock | None = None, seed: int = 1
) -> AsyncIterator["asyncio.Task[None]"]:
    """A running link; it must still run at the end of the block, and end within 2 s."""
    task = asyncio.create_task(
        run_link(settings, path, clock or TrustedClock(), random.Random(seed))
    )
    try:
        yield task
        assert not task.done(), task
    finally:
        task.cancel()
        async with asyncio.timeout(allowed(2)):
            await asyncio.wait({task})


async def until(seen: Callable[[], object], limit_s: float = 20.0) -> None:
    """Wait until it is so. Raises TimeoutError."""
    async with asyncio.timeout(allowed(limit_s)):
        while not seen():  # noqa: ASYNC110 - a log has no event to wait for
            await asyncio.sleep(0.01)
