"""A core without doors that the real command line talks to, over the real socket."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import tomli_w

from gateway.ipc.server import CoreServer
from tests.ipc.memory import MemoryCore
from tests.process.rig import site_config


@contextmanager
def served(directory: Path, core: MemoryCore) -> Iterator[Path]:
    """The site's file, while `core` answers at its socket."""
    config = site_config(directory)
    file = directory / "site.toml"
    file.write_text(tomli_w.dumps(config))
    ready, loops = threading.Event(), list[asyncio.AbstractEventLoop]()

    async def serve() -> None:
        server = CoreServer(Path(config["state"]["socket"]), core)
        running = asyncio.create_task(server.run())
        await server.listening.wait()
        loops.append(asyncio.get_running_loop())
        stop.append(running)
        ready.set()
        await asyncio.wait((running,))

    stop: list[asyncio.Task[None]] = []
    thread = threading.Thread(target=lambda: asyncio.run(serve()), name="core")
    thread.start()
    try:
        assert ready.wait(10)
        yield file
    finally:
        loops[0].call_soon_threadsafe(stop[0].cancel)
        thread.join(10)
        assert not thread.is_alive()
