"""The documented example on simulated hardware, by the words of the README."""

import json
import os
import signal
import stat
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
SAM = "04A10000000001"

pytestmark = pytest.mark.process


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Path]:
    """A run directory whose simulator and gateway are up."""
    run_dir = tmp_path / "s"
    config = run_dir / "site.toml"
    simulator = start(
        *("hwsim", "config/site.toml", "--run-dir", str(run_dir)),
        *("--write-config", str(config), "--control", str(run_dir / "hw.sock")),
    )
    daemon = None
    try:
        until((run_dir / "hw.sock").exists)
        daemon = start("gateway", "run", "--config", str(config))
        until((run_dir / "core.sock").exists)
        yield run_dir
    finally:
        for process in (daemon, simulator):
            if process is not None:
                process.send_signal(signal.SIGTERM)
                assert process.wait(15) == 0


def start(module: str, *arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", module, *arguments], cwd=REPOSITORY, stdout=subprocess.DEVNULL
    )


def run(module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", module, *arguments]
    return subprocess.run(
        command, cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=20
    )


def until(seen: Callable[[], object], limit_s: float = 20.0) -> None:
    end = time.monotonic() + limit_s
    while not seen():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.05)  # noqa: TID251 - other processes are waited for


def test_what_hwsim_writes_is_a_site_that_runs(site: Path) -> None:
    at = ("--config", str(site / "site.toml"))
    records = site / "records.jsonl"
    records.write_text(run("demo.people").stdout)

    imported = run("gateway", "import", str(records), *at)
    assert imported.returncode == 0, imported.stderr
    until(lambda: run("gateway", "status", *at).returncode == 0)
    assert run("demo.tap", str(site / "hw.sock"), "street-reader", SAM).returncode == 0

    def granted() -> bool:
        tail = run("gateway", "journal", "tail", "--json", *at).stdout.splitlines()
        events = [json.loads(line)["event"] for line in tail]
        return any(e.get("outcome") == "grant" and e["door"] == "street" for e in events)

    until(granted)


def test_all_that_it_keeps_is_below_the_run_directory(site: Path) -> None:
    written = tomllib.loads((site / "site.toml").read_text())
    key = Path(written["state"]["credential_key"])
    assert all(Path(each).is_relative_to(site) for each in written["state"].values())
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert len(key.read_bytes()) == 32
    assert written["clock"] == {"trust": "host"}
    assert "mqtt" not in written
    assert os.access(site / "core.sock", os.W_OK)


def test_one_door_of_each_kind_lets_in_who_may() -> None:
    # In a directory of its own choice: pytest's are too long for the path of a chip's socket.
    told = subprocess.run(
        [sys.executable, "-m", "demo", "--site", "every-kind"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
        timeout=150,
    )
    assert told.returncode == 0, told.stdout + told.stderr
    assert told.stdout.count("strike after") == 7
    assert told.stdout.count("access, unlocked") == 7


def test_phones_cards_and_codes_open_and_what_is_false_is_refused_with_its_reason() -> None:
    told = subprocess.run(
        [sys.executable, "-m", "demo", "--site", "phones"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
        timeout=150,
    )
    assert told.returncode == 0, told.stdout + told.stderr
    assert told.stdout.count(" grant group ") == 5
    assert told.stdout.count(" grant carried ") == 3
