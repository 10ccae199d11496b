"""The commands' sessions with a broker that can't be believed."""

import argparse
import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from gateway.cli import main
from gateway.cli.broker import INBOUND_BYTES_MAX, add_broker, broker_session, following
from gateway.errors import GatewayError
from tests.link.test_hostile_broker import GARBAGE, HostileBroker, hostile, packet

NOT_UTF_8 = "a topic that is no UTF-8"
REFUSAL = packet(2, 0, b"\0\5")  # not authorized


def options(port: int) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_broker(parser)
    return parser.parse_args(["--host", "127.0.0.1", "--port", str(port)])


@asynccontextmanager
async def refusing() -> AsyncIterator[int]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(4096)
        writer.write(REFUSAL)
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def test_whatever_a_broker_sends_who_follows_it_comes_again() -> None:
    said: dict[str, list[str]] = {name: [] for name in GARBAGE}
    brokers: dict[str, HostileBroker] = {}
    async with AsyncExitStack() as stack:
        for name, garbage in GARBAGE.items():
            brokers[name] = await stack.enter_async_context(hostile(garbage))
            stack.enter_context(
                following(options(brokers[name].port), "#", lambda *_: None, said[name].append)
            )
        async with asyncio.timeout(30):
            while any(broker.sessions < 2 for broker in brokers.values()):  # noqa: ASYNC110
                await asyncio.sleep(0.05)
    for name, lines in said.items():
        assert any("is away: " in line for line in lines), name
    assert any("away: its bytes can't be read: UnicodeDecodeError" in each
               for each in said[NOT_UTF_8])  # fmt: skip
    assert any(f"{INBOUND_BYTES_MAX} are allowed" in each for each in said["a packet of 256 MB"])


async def test_whoever_waits_for_an_answer_hears_at_once_that_the_session_is_lost(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key = tmp_path / "command.pem"
    key.write_bytes(
        Ed25519PrivateKey.generate().private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
        )
    )
    key.chmod(0o400)
    async with hostile(GARBAGE[NOT_UTF_8]) as broker, asyncio.timeout(10):
        order = ["command", "unlock", "front", "--gateway", "LON/gw-1", "--by", "ivy", "--why", "w"]
        where = ["--key", str(key), "--host", "127.0.0.1", "--port", str(broker.port)]
        assert await asyncio.to_thread(main, [*order, *where]) == 2
    why = "127.0.0.1: the session with the broker was lost: its bytes can't be read: Unicode"
    assert capsys.readouterr().err.startswith(why)


@pytest.mark.parametrize("topics", [(), ("acs/#",)])
async def test_a_broker_that_refuses_us_is_told_at_once(topics: tuple[str, ...]) -> None:
    def session(port: int) -> None:
        with broker_session(options(port), topics):
            pytest.fail("no session")

    async with refusing() as port, asyncio.timeout(10):
        with pytest.raises(GatewayError, match="it refuses us: Not authorized"):
            await asyncio.to_thread(session, port)


@pytest.mark.parametrize("port", [0, 65_536, 99_999_999_999])
def test_a_port_that_nothing_can_have_is_no_traceback(
    port: int, capsys: pytest.CaptureFixture[str]
) -> None:
    look = ["fleet", "--json", "--seconds", "0.3", "--host", "127.0.0.1", "--port", str(port)]
    assert main(look) == 2
    assert "127.0.0.1" in capsys.readouterr().err
