"""What an installer does with OSDP readers: finding them, and giving one its key."""

import asyncio
import json
import random
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest
import tomli_w

from gateway.cli import main
from gateway.clock import Clock
from gateway.domain.facts import DeviceOnline, Fact
from gateway.drivers.osdp import Osdp, OsdpSettings
from gateway.drivers.osdp_keys import KeyStore
from gateway.drivers.osdp_scan import Found, scan
from gateway.errors import DeviceUnavailable
from gateway.supervise import keep_running
from hwsim.osdp import OsdpReader
from hwsim.site import Site, running_site
from tests.drivers.contract import eventually


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    """Two new readers on one line at 38,400 baud."""
    common = {
        "driver": "osdp",
        "port": "/dev/serial/by-path/usb-1",
        "baud_rate": 38400,
        "formats": ["H10301"],
        "keys": str(tmp_path / "keys"),
    }
    config = {
        "devices": {
            "first": {**common, "address": 3, "inputs": 2, "outputs": 1},
            "second": {**common, "address": 101},
        }
    }
    async with running_site(config, tmp_path) as running_one:
        yield running_one


def port_of(site: Site) -> str:
    return str(site.rewritten_config()["devices"]["first"]["port"])


async def test_a_scan_finds_every_reader_its_speed_and_what_it_has(site: Site) -> None:
    found = await asyncio.to_thread(
        lambda: list(scan(port_of(site), speeds=(9600, 38400), addresses=(0, 3, 4, 101)))
    )
    assert found == [
        Found(
            address=3,
            baud_rate=38400,
            vendor="5cc0fe",
            model=1,
            version=1,
            serial="12345678",
            firmware="1.2.3",
            secure=True,
            inputs=2,
            outputs=1,
        ),
        msgspec.structs.replace(found[0], address=101, inputs=0, outputs=0),
    ]


async def test_a_scan_of_a_silent_line_finds_nobody(site: Site) -> None:
    for name in ("first", "second"):
        await site.hang(name)
    found = await asyncio.to_thread(lambda: list(scan(port_of(site), speeds=(38400,))))
    assert found == []


async def test_a_scan_of_a_port_that_is_not_there_says_so() -> None:
    with pytest.raises(DeviceUnavailable, match="no-such-port"):
        list(scan("/dev/no-such-port"))
    with pytest.raises(DeviceUnavailable, match="absolute path"):
        list(scan("ttyUSB0"))


async def test_scan_on_the_command_line_is_json_for_machines(
    site: Site, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.cli.osdp.ADDRESSES", range(2, 5))
    arguments = ["osdp", "scan", port_of(site), "--speed", "38400", "--json"]
    assert await asyncio.to_thread(main, arguments) == 0
    (reader,) = json.loads(capsys.readouterr().out)
    assert (reader["address"], reader["baud_rate"], reader["secure"]) == (3, 38400, True)
    assert await asyncio.to_thread(main, arguments[:-3] + ["--speed", "9600"]) == 1


def site_file(site: Site, tmp_path: Path) -> Path:
    table = site.rewritten_config()["devices"]["first"]
    relays = {"driver": "modbus_relay", "host": "127.0.0.1", "outputs": 1, "inputs": 1}
    door = {
        "lock": "fail_secure",
        "free_egress": "mechanical",
        "fire_release": "not_needed",
        "strike": {"device": "relays", "output": 1, "relay_class": "R2"},
        "readers": [{"device": "first", "side": "in"}],
    }
    config = {
        "version": 1,
        "site": {"id": "LON", "gateway": "lon-1"},
        "state": {
            "dir": str(tmp_path / "state"),
            "socket": str(tmp_path / "socket"),
            "credential_key": str(tmp_path / "credential.key"),
        },
        "clock": {"trust": "host"},
        "devices": {"first": table, "relays": {**relays, "timed_pulse": True}},
        "doors": {"front": door},
    }
    file = tmp_path / "site.toml"
    file.write_text(tomli_w.dumps(config))
    return file


async def test_install_gives_a_new_reader_its_key_while_the_core_runs(
    site: Site, clock: Clock, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = site.rewritten_config()["devices"]["first"]
    del table["driver"]
    driver = Osdp("first", msgspec.convert(table, OsdpSettings), clock)
    facts: list[Fact] = []
    down: list[str] = []
    core = asyncio.create_task(
        keep_running(
            "first",
            lambda: driver.run(facts.append),
            clock=clock,
            rng=random.Random(1),
            on_down=down.append,
        )
    )
    try:
        await eventually(lambda: down)
        assert "has no key yet: door-gateway osdp install first" in down[0]
        file = str(site_file(site, tmp_path))
        arguments = ["osdp", "install", "first", "--config", file, "--minutes", "1"]
        assert await asyncio.to_thread(main, arguments) == 0
        await eventually(lambda: any(isinstance(fact, DeviceOnline) for fact in facts), 8.0)
    finally:
        core.cancel()
        await asyncio.wait((core,))
    reader = site.devices["first"]
    assert isinstance(reader, OsdpReader)
    key = KeyStore(tmp_path / "keys").key("first")
    assert key is not None
    assert reader.peripheral.key == key
    said = "".join(capsys.readouterr()) + "".join(down)
    assert key.hex() not in said


async def test_install_without_a_core_leaves_no_window_open(
    site: Site, clock: Clock, tmp_path: Path
) -> None:
    file = str(site_file(site, tmp_path))
    store = KeyStore(tmp_path / "keys")
    arguments = ["osdp", "install", "first", "--config", file]
    waiting = asyncio.create_task(asyncio.to_thread(main, arguments))
    await eventually(lambda: store.window("first", clock.monotonic()))
    left = store.window("first", clock.monotonic())
    assert left is not None
    assert timedelta(minutes=9) < left <= timedelta(minutes=10)
    store.close_window("first")
    assert await waiting == 1


async def test_install_of_what_is_no_osdp_reader_is_refused(site: Site, tmp_path: Path) -> None:
    file = str(site_file(site, tmp_path))
    for name in ("relays", "nobody"):
        assert await asyncio.to_thread(main, ["osdp", "install", name, "--config", file]) == 2
