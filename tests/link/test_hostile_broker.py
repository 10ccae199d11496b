"""A broker that breaks MQTT in every way: the link counts it as lost, and comes again."""

import asyncio
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
import structlog

from tests.ipc.memory import MemoryCore
from tests.link.rig import core_on, link_settings, linking, until

HERE = b"acs/v1/LON/lon-1/"


def packet(kind: int, flags: int, body: bytes, claimed: bytes | None = None) -> bytes:
    length = (
        bytes([len(body)]) if len(body) < 128 else bytes([len(body) % 128 | 128, len(body) // 128])
    )
    return bytes([kind << 4 | flags]) + (length if claimed is None else claimed) + body


def text(content: bytes) -> bytes:
    return struct.pack(">H", len(content)) + content


GARBAGE = {
    "a topic that is no UTF-8": packet(3, 0, text(b"\xff\xfe") + b"\0"),
    "a topic of ours with a bad end": packet(3, 0, text(HERE + b"ack\xc3") + b"\0"),
    "a topic cut short": packet(3, 0, b"\xff\xff" + HERE),
    "a topic with a wildcard": packet(3, 0, text(b"#") + b"\0{}"),
    "no topic": packet(3, 0, text(b"") + b"\0"),
    "a publish of nothing": packet(3, 0, b""),
    "a quality that is none": packet(3, 6, text(HERE + b"ack") + b"\0\1\0"),
    "no packet id": packet(3, 2, text(HERE + b"ack")),
    "a property that is none": packet(3, 0, text(HERE + b"ack") + b"\x02\xfe\1"),
    "properties beyond the end": packet(3, 0, text(HERE + b"ack") + b"\x7f\x01"),
    "a user property that is no UTF-8": packet(
        3, 0, text(HERE + b"ack") + b"\x07\x26" + text(b"\xff") + text(b"\xfe")
    ),
    "a packet of 256 MB": packet(3, 0, b"x", claimed=b"\xff\xff\xff\x7f"),
    "a length without an end": packet(3, 0, b"x", claimed=b"\xff\xff\xff\xff\xff\xff"),
    "a PUBACK of nothing": packet(4, 0, b""),
    "a PUBACK of one byte": packet(4, 0, b"\1"),
    "a PUBACK with an unknown reason": packet(4, 0, b"\0\1\xee\0"),
    "a SUBACK of nothing": packet(9, 0, b""),
    "a SUBACK with an unknown reason": packet(9, 0, b"\0\1\0\xee"),
    "a second CONNACK": packet(2, 0, b"\0\xee\0"),
    "a DISCONNECT with an unknown reason": packet(14, 0, b"\xee"),
    "an AUTH": packet(15, 0, b"\x18\0"),
    "a CONNECT": packet(1, 0, text(b"MQTT") + b"\5\2\0\5\0" + text(b"")),
    "a SUBSCRIBE": packet(8, 2, b"\0\1\0" + text(b"#") + b"\0"),
    "a packet of kind 0": packet(0, 0, b""),
    "noise": bytes(range(256)) * 4,
}


class HostileBroker:
    """Completes CONNECT and SUBSCRIBE, then sends the next piece of garbage and waits."""

    def __init__(self, garbage: bytes) -> None:
        self.garbage = garbage
        self.sessions = 0
        self.port = 0
        self.serving: set[asyncio.Task[None]] = set()

    def take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(self.serve(reader, writer))
        self.serving.add(task)
        task.add_done_callback(self.serving.discard)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._serve(reader, writer)
        except OSError:
            pass
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connect = await reader.read(4096)
        properties = b"\0" if connect[8:9] == b"\5" else b""
        writer.write(packet(2, 0, b"\0\0" + properties))
        subscribe = await reader.read(4096)
        if not subscribe:
            return
        writer.write(packet(9, 0, subscribe[2:4] + properties + b"\1"))
        await writer.drain()
        self.sessions += 1
        writer.write(self.garbage)
        try:
            async with asyncio.timeout(0.2):
                while await reader.read(4096):
                    pass
        except TimeoutError:
            pass


@asynccontextmanager
async def hostile(garbage: bytes) -> AsyncIterator[HostileBroker]:
    broker = HostileBroker(garbage)
    server = await asyncio.start_server(broker.take, "127.0.0.1", 0)
    broker.port = server.sockets[0].getsockname()[1]
    async with server:
        yield broker
    for _ in range(10):
        await asyncio.sleep(0)  # turns of the loop: what has just connected gets to `take`
    while broker.serving:
        await asyncio.wait(broker.serving)


@pytest.mark.parametrize("garbage", GARBAGE)
async def test_whatever_a_broker_sends_the_link_comes_again(garbage: str, tmp_path: Path) -> None:
    core = MemoryCore()
    core.record(5)
    path = tmp_path / "core.sock"
    with structlog.testing.capture_logs() as logs:
        async with (
            hostile(GARBAGE[garbage]) as broker,
            core_on(path, core),
            linking(link_settings(broker.port), path) as link,
        ):
            await until(lambda: broker.sessions >= 3 or link.done())
            assert not link.done(), link
    assert [log for log in logs if log["event"] == "away"], "it is said why"
    assert not [log for log in logs if "exc_info" in log]
