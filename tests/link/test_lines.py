"""Bad lines between the link and its broker: faults F20 to F22 of docs/promises.md's catalogue."""

import asyncio
import random
from pathlib import Path

import pytest
import structlog

from gateway.link import session
from gateway.link.settings import LoginSettings
from hwsim.cloud import EventCloud
from tests.brokers import mosquitto
from tests.ipc.memory import MemoryCore
from tests.link.chaos import ChaosLine
from tests.link.rig import core_on, link_settings, linking, until
from tests.link.test_brokers import away, complete, in_order


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "core.sock"


async def test_a_byte_a_second_makes_no_session_and_loses_nothing(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "HANDSHAKE_S_MAX", 0.3)
    core = MemoryCore()
    core.record(300)
    with structlog.testing.capture_logs() as logs:
        async with (
            mosquitto(tmp_path) as broker,
            ChaosLine(broker.port) as line,
            EventCloud(broker.host, broker.port) as cloud,
            core_on(path, core),
        ):
            line.bytes_per_s, line.delay_s = 1, 30.0
            async with linking(link_settings(line.port), path):
                await until(lambda: line.connections >= 4)
                told = away(logs)
                assert [log["kind"] for log in told] == ["handshake"]
                assert cloud.events == {}
                line.bytes_per_s, line.delay_s = None, 0.0
                await cloud.until(lambda: complete(cloud, core))
                assert in_order(cloud, core)


async def test_a_slow_line_carries_every_event_about_once(path: Path, tmp_path: Path) -> None:
    core = MemoryCore()
    core.record(600)
    async with (
        mosquitto(tmp_path) as broker,
        ChaosLine(broker.port) as line,
        EventCloud(broker.host, broker.port) as cloud,
        core_on(path, core),
    ):
        line.bytes_per_s, line.delay_s = 40_000, 0.1
        async with linking(link_settings(line.port, keepalive_s=60), path):
            await cloud.until(lambda: complete(cloud, core))
            assert in_order(cloud, core)
            assert cloud.duplicates <= 40, "the first batch may go again: the line is slower"


async def test_a_half_open_line_is_given_up_and_nothing_is_lost(path: Path, tmp_path: Path) -> None:
    core = MemoryCore()
    core.record(50)
    with structlog.testing.capture_logs() as logs:
        async with (
            mosquitto(tmp_path) as broker,
            ChaosLine(broker.port) as line,
            EventCloud(broker.host, broker.port) as cloud,
            core_on(path, core),
            linking(link_settings(line.port, keepalive_s=1), path),
        ):
            await cloud.until(lambda: complete(cloud, core))
            line.silent = True
            core.record(50)
            await until(lambda: away(logs))
            line.silent = False
            await cloud.until(lambda: complete(cloud, core))
            assert in_order(cloud, core)


async def test_a_flapping_line_loses_nothing(path: Path, tmp_path: Path) -> None:
    dice = random.Random(5)
    core = MemoryCore()
    async with (
        mosquitto(tmp_path) as broker,
        ChaosLine(broker.port) as line,
        EventCloud(broker.host, broker.port) as cloud,
        core_on(path, core),
        linking(link_settings(line.port), path),
    ):
        for _ in range(12):
            core.record(300)
            connections = line.connections
            await asyncio.sleep(dice.uniform(0.0, 0.15))
            line.cut()
            await until(lambda connections=connections: line.connections > connections)  # type: ignore[misc]
        await cloud.until(lambda: complete(cloud, core))
        assert set(cloud.events) == {("s-1", seq) for seq in range(1, len(core.bodies) + 1)}
        assert len(core.bodies) == 3_600


async def test_a_broker_that_wants_a_password_gets_the_one_in_the_file(
    path: Path, tmp_path: Path
) -> None:
    secret = tmp_path / "password"
    core = MemoryCore()
    core.record(5)
    with structlog.testing.capture_logs() as logs:
        async with mosquitto(tmp_path, login=("lon-1", "correct horse")) as broker:
            settings = link_settings(
                broker.port, login=LoginSettings(username="lon-1", password_file=secret)
            )
            async with core_on(path, core), linking(settings, path):
                await until(lambda: away(logs, "login"))
                secret.touch(0o600)
                secret.write_text("wrong\n")
                await until(lambda: away(logs, "handshake"))
                secret.write_text("correct horse\n")
                await until(lambda: [log for log in logs if log.get("mqtt")])
    assert f"{secret}: can't be read: No such file" in away(logs, "login")[0]["why"]
    assert "correct horse" not in str(logs)
    assert "wrong" not in str(logs)


@pytest.mark.parametrize("content", [b"", b"\n", b"\xff", b"x" * 2_000])
async def test_a_password_that_is_none_is_refused(tmp_path: Path, content: bytes) -> None:
    secret = tmp_path / "password"
    secret.touch(0o600)
    secret.write_bytes(content)
    with structlog.testing.capture_logs() as logs:
        settings = link_settings(1, login=LoginSettings(username="lon-1", password_file=secret))
        async with linking(settings, tmp_path / "core.sock"):
            await until(lambda: away(logs, "login"))
    assert str(secret) in away(logs, "login")[0]["why"]
