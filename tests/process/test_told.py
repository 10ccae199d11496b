"""An installer and central operations are told, by the real commands, why nothing arrives."""

import json
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from demo.brokers import mosquitto
from hwsim.cloud import EventCloud
from hwsim.mqtt import MqttClient
from tests.process.rig import Rig, standing_rig, until

pytestmark = pytest.mark.process


async def status(rig: Rig) -> tuple[int, list[str]]:
    done = await rig.cli("status", "--config", str(rig.config), "--json")
    return done.status, done.json["problems"]


async def tells(rig: Rig, words: str, limit_s: float) -> None:
    """Wait until `status` has a problem with these words, and exits 1."""

    async def told() -> bool:
        code, problems = await status(rig)
        return code == 1 and any(words in line for line in problems)

    await until(words, told, limit_s)


@pytest.mark.timeout(300)
async def test_status_health_and_metrics_say_why_nothing_arrives(tmp_path: Path) -> None:
    healths: list[dict[str, Any]] = []
    acl = tmp_path / "acl"
    acl.write_text("topic readwrite acs/#\n", encoding="ascii")
    (tmp_path / "broker").mkdir()
    async with (
        mosquitto(tmp_path / "broker", acl=acl) as broker,
        standing_rig(tmp_path, broker_port=broker.port) as rig,
    ):
        await rig.imported()
        core = await rig.core()
        await rig.start("link")

        async def well() -> bool:
            return await status(rig) == (0, [])

        async with EventCloud("127.0.0.1", broker.port):
            await until("all is well", well, 20)
            said = await rig.cli("status", "--config", str(rig.config))
            assert f"  broker        127.0.0.1:{broker.port}: connected since 20" in said.out
            assert "last acknowledged 20" in said.out
        client = MqttClient("watcher", lambda _topic, body: healths.append(json.loads(body)))
        await client.open("127.0.0.1", broker.port, "acs/v1/+/+/health")
        await rig.entered("1234567")
        await tells(rig, "events: the cloud acknowledges none", 90)
        await until("health says it", lambda: healths and healths[-1]["problems"], 70)
        assert healths[-1]["broker"]["waiting_since"]
        client.close()
        acl.write_text(
            "topic readwrite acs/v1/LON/lon-1/status\ntopic read acs/#\n", encoding="ascii"
        )
        await broker.stop()
        await tells(rig, "nobody listens there", 30)
        figures = await rig.cli("metrics", "--config", str(rig.config))
        assert "door_gateway_broker_connected 0" in figures.out.splitlines()
        await broker.start()
        await tells(rig, "/event: Not authorized", 40)
        figures = await rig.cli("metrics", "--config", str(rig.config))
        assert "door_gateway_broker_connected 1" in figures.out.splitlines()
        (age,) = (line for line in figures.out.splitlines() if "oldest_waiting_seconds " in line
                  and not line.startswith("#"))  # fmt: skip
        assert float(age.split()[1]) > 60
        assert core.alive


async def test_a_site_without_a_broker_needs_no_link_and_says_so(tmp_path: Path) -> None:
    async with standing_rig(tmp_path) as rig:
        done = await rig.cli("link", "--config", str(rig.config))
        assert done.status == 3
        assert "site.toml has no [mqtt]" in done.err
    unit = (Path(__file__).parents[2] / "systemd" / "door-gateway-link.service").read_text()
    for setting in ("RestartPreventExitStatus=3", "SuccessExitStatus=3"):
        assert setting in unit.splitlines()


async def test_a_door_taken_out_of_the_sites_file_is_gone_from_the_broker(tmp_path: Path) -> None:
    kept: dict[str, bytes] = {}
    (tmp_path / "broker").mkdir()
    async with (
        mosquitto(tmp_path / "broker") as broker,
        standing_rig(tmp_path, broker_port=broker.port) as rig,
    ):
        client = MqttClient("looker", kept.__setitem__)
        await client.open("127.0.0.1", broker.port, "acs/v1/+/+/door/+/state")
        run = await rig.start("run")
        back = "acs/v1/LON/lon-1/door/back/state"
        await until("both doors", lambda: len(kept) == 2)
        await run.stop()
        config = rig.site.rewritten_config()
        del config["doors"]["back"]
        rig.config.write_text(tomli_w.dumps(config), encoding="utf-8")
        await rig.start("run")
        await until("the door is cleared", lambda: kept[back] == b"")
        client.close()
