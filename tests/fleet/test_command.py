"""`door-gateway fleet --json`, as a script has it."""

import asyncio
from pathlib import Path

import pytest

from demo.brokers import any_broker
from gateway.cli import main


async def test_to_hear_of_no_gateway_is_not_to_hear_that_all_are_well(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with any_broker(tmp_path / "broker") as broker:
        port = str(broker.port)
        look = ["fleet", "--json", "--seconds", "0.5", "--host", "127.0.0.1", "--port", port]
        assert await asyncio.to_thread(main, look) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert "no gateway was heard in 0.5 s" in said.err


async def test_a_broker_that_can_not_be_reached_is_named_with_the_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with any_broker(tmp_path / "broker") as broker:
        port = str(broker.port)
    look = ["fleet", "--json", "--seconds", "0.5", "--host", "127.0.0.1", "--port", port]
    assert await asyncio.to_thread(main, look) == 2
    assert f"can't reach 127.0.0.1:{port}: Connection refused" in capsys.readouterr().err
