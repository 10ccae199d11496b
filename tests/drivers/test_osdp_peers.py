"""Peers that others wrote: libosdp's peripheral for our driver, PyPI's `osdp` for our simulator."""

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import tty
import venv
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from gateway.clock import Clock
from gateway.domain.card_format import encode
from gateway.domain.facts import CredentialPresented
from gateway.drivers.base import Signal
from gateway.drivers.osdp import Osdp, OsdpSettings
from gateway.drivers.osdp_keys import KeyStore
from gateway.errors import DeviceUnavailable
from hwsim.osdp import OsdpReader
from hwsim.site import running_site
from tests.drivers.contract import Running, running

HERE = Path(__file__).parent
KEY = bytes.fromhex("8f1d4c2b6e0a937558cd21f0b4a6e713")
OTHER = HERE.parents[1] / ".venv-osdp-panel"
"""Made at the first run; `make clean` removes it."""


class Peer:
    """A peer's process: what it says, and what happens at it."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    def tell(self, **fields: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(fields).encode() + b"\n")

    async def said(self, **wanted: object) -> dict[str, Any]:
        """The next thing that it says in which these are."""
        assert self._process.stdout is not None
        async with asyncio.timeout(10.0):
            while True:
                line = await self._process.stdout.readline()
                assert line, "the peer ended"
                told: dict[str, Any] = json.loads(line)
                if wanted.items() <= told.items():
                    return told


@asynccontextmanager
async def peer(python: str, script: str, *arguments: str, **options: Any) -> AsyncIterator[Peer]:
    process = await asyncio.create_subprocess_exec(
        python,
        str(HERE / script),
        *arguments,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        **options,
    )
    try:
        yield Peer(process)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        assert process.stdin is not None
        process.stdin.close()


@asynccontextmanager
async def libosdp_reader(*, key: bytes | None, install: bool = False) -> AsyncIterator[Any]:
    """libosdp's peripheral at address 9; yields it and the port it is on."""
    master, slave = os.openpty()
    tty.setraw(slave)
    try:
        arguments = (sys.executable, "libosdp_reader.py", str(master), "9")
        async with peer(*arguments, pass_fds=[master]) as reader:
            reader.tell(key=key.hex() if key else "", install=install)
            yield reader, os.ttyname(slave)
    finally:
        os.close(master)
        os.close(slave)


def driver(port: str, clock: Clock, keys: Path) -> Osdp:
    settings = {
        "port": port,
        "address": 9,
        "baud_rate": 115200,
        "formats": ["H10301"],
        "inputs": 0,
        "outputs": 0,
        "keys": str(keys),
    }
    return Osdp("reader", msgspec.convert(settings, OsdpSettings), clock)


def give_key(keys: Path, key: bytes) -> None:
    keys.mkdir(mode=0o700, exist_ok=True)
    file = keys / "reader.key"
    file.write_text(key.hex())
    file.chmod(0o600)


async def test_libosdps_peripheral_is_read_and_shows_what_it_is_told(
    clock: Clock, tmp_path: Path
) -> None:
    give_key(tmp_path / "keys", KEY)
    async with libosdp_reader(key=KEY) as (reader, port):
        made = driver(port, clock, tmp_path / "keys")
        async with running(made) as run:
            reader.tell(card=encode("H10301", 12, 34567))
            await run.until(lambda _facts: run.values == ["H10301:12:34567"])
            reader.tell(keys="2468\x0d")
            await run.until(lambda _facts: run.values[1:] == ["2468"])
            await made.indicate(Signal.GRANTED)
            await reader.said(on_color=2, timer_count=30)


async def test_libosdps_peripheral_with_another_key_is_refused(
    clock: Clock, tmp_path: Path
) -> None:
    give_key(tmp_path / "keys", KEY)
    async with libosdp_reader(key=bytes(range(16))) as (reader, port):
        run = Running(driver(port, clock, tmp_path / "keys"))
        reader.tell(card=encode("H10301", 12, 34567))
        with pytest.raises(DeviceUnavailable):
            await run.task
        assert run.facts == []


async def test_libosdps_peripheral_in_install_mode_takes_a_key_in_the_window_only(
    clock: Clock, tmp_path: Path
) -> None:
    give_key(tmp_path / "keys", KEY)
    store = KeyStore(tmp_path / "keys")
    async with libosdp_reader(key=None, install=True) as (reader, port):
        made = driver(port, clock, tmp_path / "keys")
        with pytest.raises(DeviceUnavailable):
            await made.run(lambda _fact: None)
        store.open_window("reader", timedelta(seconds=30), clock.monotonic())
        async with running(made) as run:
            reader.tell(card=encode("H10301", 12, 34567))
            await run.until(
                lambda facts: any(isinstance(fact, CredentialPresented) for fact in facts)
            )
        key = store.key("reader")
        assert key is not None
        assert key != KEY
        await reader.said(data=key.hex())


@pytest.fixture(scope="session")
def osdp_python() -> str:
    """The Python of an environment that has PyPI's `osdp`."""
    python = OTHER / "bin" / "python"
    if not (OTHER / "ready").exists():
        try:
            venv.create(OTHER, with_pip=True, clear=True)
            lock = HERE / "peers" / "requirements.lock"
            pip = "-m pip install -q --no-deps --require-hashes --only-binary=:all: -r"
            subprocess.run(
                [str(python), *pip.split(), str(lock)],
                check=True,
                timeout=150,
                capture_output=True,
            )
        except (OSError, subprocess.SubprocessError) as error:
            pytest.skip(f"PyPI's osdp 1.6 can't be had for an environment of its own: {error}")
        (OTHER / "ready").touch()
    return str(python)


async def test_pypis_panel_reads_our_simulator(osdp_python: str, tmp_path: Path) -> None:
    master_key = bytes(range(16, 32))
    config = {"devices": {"reader": {"driver": "osdp", "port": "/dev/x", "address": 9}}}
    async with running_site(config, tmp_path, any_baud=True) as site:
        reader = site.devices["reader"]
        assert isinstance(reader, OsdpReader)
        # Its panel derives a reader's key from a master key and the reader's cUID (annex D.3).
        uid = reader.peripheral.identity[:8]
        ecb = Cipher(algorithms.AES128(master_key), modes.ECB()).encryptor()
        reader.peripheral.key = ecb.update(uid + bytes(b ^ 0xFF for b in uid))
        reader.peripheral.install_mode = False
        port = str(site.rewritten_config()["devices"]["reader"]["port"])
        arguments = (osdp_python, "osdp_panel.py", port, "9", master_key.hex())
        async with peer(*arguments) as panel:
            await panel.said(vendor=reader.peripheral.identity[:3].hex())
            await panel.said(tamper=False)
            assert reader.peripheral.secure
            bits = encode("H10301", 12, 34567)
            await site.card("reader", bits)
            await panel.said(card=bits)
            await site.press("reader", "4", gap=0)
            await panel.said(keys=b"4".hex())
