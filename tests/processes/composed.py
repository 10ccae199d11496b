"""The core as its composition root makes it, in this process: real files, real scheduler."""

import asyncio
import functools
import random
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from apscheduler.events import EVENT_JOB_ERROR, EVENT_JOB_EXECUTED, EVENT_JOB_MISSED
from apscheduler.schedulers.asyncio import AsyncIOScheduler

from gateway.clock import SystemClock, monotonic
from gateway.config.site import SiteConfig, load
from gateway.drivers import REGISTRY
from gateway.processes import core as module
from gateway.processes.core import Core
from tests.process.rig import as_lines, records, site_config
from tests.trust.keyring import root_document

FIRED_S_MAX = 20.0


def site_file(
    directory: Path, *, signed: bool = False, more: Mapping[str, Any] | None = None
) -> SiteConfig:
    """The configuration of a small site below `directory`, with a key and, if signed, a root."""
    config = site_config(directory) | dict(more or {})
    if signed:
        (directory / "root.cbor").write_bytes(root_document())
        config["trust"] = {"root": str(directory / "root.cbor"), "freeze_after_min": 15}
    key = directory / "credential.key"
    if not key.exists():
        key.write_bytes(bytes(range(32)))
        key.chmod(0o600)
    file = directory / "site.toml"
    file.write_text(tomli_w.dumps(config))
    return load(file, REGISTRY)


class Shifted:
    """What the core's monotonic clock is ahead of the machine's."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.by = timedelta()
        clock = functools.partial(SystemClock, monotonic=lambda: monotonic() + self.by)
        monkeypatch.setattr(module, "SystemClock", clock)


@asynccontextmanager
async def composed(config: SiteConfig, *, imported: bool = False) -> AsyncIterator[Core]:
    """The core with everything open and its jobs running; its doors stand still."""
    core = Core(config, rng=random.Random(0))
    async with core._opened():
        if imported:
            await core.import_records(as_lines(records()).encode())
        core._record_start()
        core._start_jobs()
        try:
            yield core
        finally:
            core._jobs.stop()


async def fire_all(scheduler: AsyncIOScheduler) -> dict[str, BaseException | None]:
    """Let the scheduler itself run each of its jobs now; how each ended, by name."""
    ended: dict[str, BaseException | None] = {}
    every = asyncio.Event()
    jobs = {job.id for job in scheduler.get_jobs()}

    def hear(event: Any) -> None:
        ended[event.job_id] = getattr(event, "exception", None) or (
            TimeoutError("missed") if event.code == EVENT_JOB_MISSED else None
        )
        if jobs <= ended.keys():
            every.set()

    scheduler.add_listener(hear, EVENT_JOB_EXECUTED | EVENT_JOB_ERROR | EVENT_JOB_MISSED)
    for job in scheduler.get_jobs():
        job.modify(next_run_time=datetime.now(UTC))  # noqa: TID251 - the scheduler goes by it
    async with asyncio.timeout(FIRED_S_MAX):
        await every.wait()
    scheduler.remove_listener(hear)
    return ended
