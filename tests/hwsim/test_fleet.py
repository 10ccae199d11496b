"""Simulated gateways at a real broker: nothing lost, and nothing doubled that isn't recognised."""

import asyncio
import json
import random
from pathlib import Path

import pytest

from demo.brokers import any_broker
from hwsim import fleet
from hwsim.fleet import Fleet

pytestmark = pytest.mark.process


async def test_a_fleet_whose_cables_are_pulled_loses_nothing(tmp_path: Path) -> None:
    async with any_broker(tmp_path) as broker:
        gateways = Fleet([(broker.host, broker.port)], 8, rng=random.Random(1))

        async def pull() -> None:
            for gateway in gateways.gateways * 2:
                await asyncio.sleep(0.1)
                gateway.pull_the_cable()

        async with asyncio.TaskGroup() as group:
            group.create_task(pull())
            report = await gateways.run(seconds=2.0, events_per_s=200, settle_s=30)
    assert report.made > 300
    assert (report.lost, report.acknowledged) == (0, report.made)
    assert report.arrived == report.made, "each counted once, however often it came"
    assert report.sessions > 8


async def test_a_gateway_nobody_answers_keeps_its_events(tmp_path: Path) -> None:
    async with any_broker(tmp_path) as broker:
        quiet = Fleet([(broker.host, broker.port)], 2, rng=random.Random(1), cloud=False)
        report = await quiet.run(seconds=0.3, events_per_s=50, settle_s=0.3)
    assert report.made > 5
    assert report.acknowledged == 0


async def test_the_command_counts_and_says_so_with_its_exit_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with any_broker(tmp_path) as broker:
        options = ["--broker", f"mqtt://{broker.host}:{broker.port}", "--gateways", "3"]
        rest = ["--seconds", "0.5", "--events-per-s", "40"]
        status = await asyncio.to_thread(fleet.main, [*options, *rest])
    told = json.loads(capsys.readouterr().out)
    assert (status, told["lost"], told["gateways"]) == (0, 0, 3)
    with pytest.raises(SystemExit):
        fleet.main(["--broker", "localhost"])


def test_the_simulated_cloud_leaves_a_real_gateways_events_alone() -> None:
    collector = fleet.Collector([("localhost", 1)])
    message = {"stream": "lon-1-a", "events": [{"seq": 1, "event": {"code": "access"}}]}
    collector._take("acs/v1/LON/lon-1/event", json.dumps(message).encode())
    assert (collector.arrived, collector.whole("lon-1-a"), collector._due) == (0, 0, {})
