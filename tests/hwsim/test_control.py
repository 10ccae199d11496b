"""The control socket and its client, in this process and with a simulator of its own."""

import asyncio
import json
import signal
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from hwsim import observations
from hwsim.__main__ import _alone, main
from hwsim.client import Simulator, SimulatorError, connect
from hwsim.control import COMMANDS, control_socket
from hwsim.observations import Contact, KeysSent, Rex, Seen
from hwsim.site import Site


def names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


async def test_the_client_acts_and_watches(site: Site, tmp_path: Path) -> None:
    path = tmp_path / "control"
    async with control_socket(site, path), connect(path) as sim, sim.watching() as stream:
        await sim.press("keypad", "1#", gap=0)
        await sim.force("front")
        watched: list[Seen] = [await anext(stream) for _ in range(3)]
        assert [type(seen) for seen in watched] == [KeysSent, Contact, Contact]
        assert await sim.seen() == watched == site.seen.all
        assert not await sim.push("front", patience=0.0)
        assert set(await sim.devices()) == {"relays", "reader", "keypad"}


async def test_the_client_knows_every_command(site: Site, tmp_path: Path) -> None:
    assert [do for do in COMMANDS if not callable(getattr(Simulator, do, None))] == []
    path = tmp_path / "control"
    async with control_socket(site, path), connect(path) as sim:
        assert await sim.present("reader", "DEADBEEF", hold=None) > 0
        await sim.remove("reader")
        assert await sim.present_two("reader", "01AAAAAA", "02AAAAAA", hold=0.01) > 0
        await sim.prop("front")
        await sim.leave("front")
        await sim.close("front")
        await sim.jam_contact("front", closed=True)
        await sim.jam_contact("front", closed=None)
        await sim.chatter("front", "rex", edges=2)
        await sim.power_lock("back", on=False)
        for device in ("reader", "relays"):
            await sim.unplug(device)
            await sim.plug(device)
            await sim.hang(device)
            await sim.resume(device)
            await sim.noise(device, 10)
            await sim.power_cycle(device, off=0.0)
        await sim.garble("reader", 0.1)
        await sim.flood("reader", 100, 0.01)
        await sim.fault("relays", twice=True)
        await sim.weld("relays", 2)
        await sim.unweld("relays", 2)


async def test_two_people_act_at_once(site: Site, tmp_path: Path) -> None:
    path = tmp_path / "control"
    async with control_socket(site, path), connect(path) as sim:
        async with asyncio.TaskGroup() as group:
            group.create_task(sim.rex("front", hold=0.2))
            group.create_task(sim.press("keypad", "1"))
        assert [type(seen) for seen in await sim.seen()] == [Rex, KeysSent, Rex]


@pytest.mark.parametrize(
    ("do", "arguments", "message"),
    [
        ("present", {"reader": "reader", "uid": "00"}, "1 bytes"),
        ("present", {"uid": "DEADBEEF"}, "reader"),
        ("present", {"reader": "nobody", "uid": "DEADBEEF"}, "no device 'nobody'"),
        ("stop", {}, "unknown command"),
        ("__init__", {}, "unknown command"),
    ],
)
async def test_what_cannot_be_done_is_refused_with_a_reason(
    site: Site, tmp_path: Path, do: str, arguments: dict[str, Any], message: str
) -> None:
    path = tmp_path / "control"
    async with control_socket(site, path), connect(path) as sim:
        with pytest.raises(SimulatorError, match=message):
            await sim.ask(do, **arguments)


@pytest.mark.parametrize("line", [b"nonsense\n", b"[]\n", b"{}\n", b"x" * 70_000 + b"\n"])
async def test_a_line_that_is_no_request_gets_an_error(
    site: Site, tmp_path: Path, line: bytes
) -> None:
    path = tmp_path / "control"
    async with control_socket(site, path):
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(line)
        assert json.loads(await reader.readline())["ok"] is False
        writer.close()


async def test_there_is_no_simulator_to_connect_to(tmp_path: Path) -> None:
    with pytest.raises(TimeoutError):
        async with connect(tmp_path / "control", wait_s=0.1):
            pass


async def test_a_watcher_that_reads_nothing_is_cut_off(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(observations, "WATCHER_BACKLOG_MAX", 10)
    path = tmp_path / "control"
    async with control_socket(site, path), connect(path) as sim, sim.watching() as stream:
        for _ in range(11):
            site.seen.add(Rex(0, "front", pressed=True))
        assert len([seen async for seen in stream]) <= 10


@pytest.mark.parametrize(
    ("text", "message"),
    [("nonsense", "Expected"), ("[devices.x]\ndriver = 'telepathy'", "no simulation of driver")],
)
def test_a_site_that_cannot_be_simulated_is_an_error_of_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, message: str
) -> None:
    config = tmp_path / "site.toml"
    config.write_text(text)
    assert main([str(config)]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.process
async def test_the_command_line_runs_a_site_until_it_is_told_to_stop(tmp_path: Path) -> None:
    config, control = tmp_path / "site.toml", tmp_path / "control"
    arguments = ["config/site.toml", "--run-dir", str(tmp_path / "run"), "--json"]
    arguments += ["--write-config", str(config), "--control", str(control)]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "hwsim", *arguments, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        ready = json.loads(await process.stdout.readline())
        assert ready["seen"] == "ready"
        written = tomllib.loads(config.read_text())["devices"]
        assert written["street-keypad"]["port"] == str(tmp_path / "run" / "dev" / "street-keypad")
        assert "street-keypad" in names(tmp_path / "run" / "dev")
        async with connect(control) as sim:
            await sim.press("street-keypad", "7")
        assert json.loads(await process.stdout.readline())["keys"] == "7"
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), 5) == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert names(tmp_path / "run" / "dev") == set()
    assert "control" not in names(tmp_path)


def test_a_second_simulator_leaves_the_first_ones_directory_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    port = tmp_path / "street-reader"
    port.touch()
    with _alone(tmp_path):
        site = Path(__file__).parents[2] / "config" / "site.toml"
        assert main([str(site), "--run-dir", str(tmp_path)]) == 2
        assert "another simulator runs there" in capsys.readouterr().err
        assert names(tmp_path) == {"street-reader"}


async def test_a_tap_at_no_simulator_says_where_none_answers(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "demo.tap", str(tmp_path / "none"), "street-reader", "04A1"),
        stderr=asyncio.subprocess.PIPE,
    )
    _, said = await process.communicate()
    assert process.returncode == 2
    assert said.decode() == f"{tmp_path}/none: no simulator answers there. Start one first\n"
