"""A line to the broker that does what lines do: slow, silent, cut."""

import asyncio
from contextlib import suppress
from typing import Self

CHUNK_BYTES = 4096


class ChaosLine:
    """A TCP proxy before `port`. Its members may be set at any time, under open connections too."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._server: asyncio.Server | None = None
        self._pumps: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self.bytes_per_s: float | None = None
        self.delay_s = 0.0
        self.silent = False
        """Half open: connections stay, and nothing gets through in either direction."""
        self.connections = 0

    @property
    def port(self) -> int:
        """Where to connect to."""
        assert self._server is not None
        return int(self._server.sockets[0].getsockname()[1])

    def cut(self) -> None:
        """Break every connection there is."""
        for writer in self._writers:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.add(writer)
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.transport.abort()
            return
        self._writers.add(back)
        for source, sink in ((reader, back), (there, writer)):
            pump = asyncio.create_task(self._pump(source, sink))
            self._pumps.add(pump)
            pump.add_done_callback(self._pumps.discard)

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await source.read(1 if self.bytes_per_s == 1 else CHUNK_BYTES):
                await asyncio.sleep(self.delay_s)
                if self.bytes_per_s is not None:
                    await asyncio.sleep(len(data) / self.bytes_per_s)
                if not self.silent:
                    sink.write(data)
                    await sink.drain()
        sink.transport.abort()
        self._writers.discard(sink)

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for pump in self._pumps:
            pump.cancel()
        self.cut()
        await asyncio.gather(*self._pumps, return_exceptions=True)
