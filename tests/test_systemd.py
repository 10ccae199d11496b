"""The units as systemd itself sees them: sandbox scores (P18) and no complaint."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

UNITS = Path(__file__).parents[1] / "systemd"
CORE, LINK = "door-gateway-core.service", "door-gateway-link.service"
CLOCK = "door-gateway-clock.service"
METRICS = "door-gateway-metrics.service"

_NOT_INSTALLED = re.compile(
    r"/usr/bin/(door-gateway|chronyc) is not executable|Unit chrony.service not found"
)
"""Of what the units start and follow, what a developer's machine needn't have."""

pytestmark = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze isn't installed"
)


def analyse(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["systemd-analyze", "--no-pager", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": "/usr/bin:/bin", "LC_ALL": "C", "SYSTEMD_COLORS": "0"},
    )


def exposure(unit: str, directory: Path, *drop_ins: str) -> float:
    """The exposure that systemd computes of a unit with drop-ins, 0 to 10."""
    shutil.copy(UNITS / unit, directory)
    for name in drop_ins:
        beside = directory / f"{unit}.d"
        beside.mkdir(exist_ok=True)
        shutil.copy(UNITS / name, beside)
    done = analyse("security", "--offline=true", str(directory / unit))
    found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", done.stdout)
    assert found is not None, done
    sys.stdout.write(f"{unit} {' '.join(drop_ins)}: {found[1]}\n")
    return float(found[1])


def test_the_core_is_sandboxed_to_0_5(tmp_path: Path) -> None:
    assert exposure(CORE, tmp_path) <= 0.5


def test_the_link_is_sandboxed_to_1_0(tmp_path: Path) -> None:
    assert exposure(LINK, tmp_path) <= 1.0


def test_the_figures_are_written_in_a_sandbox(tmp_path: Path) -> None:
    assert exposure(METRICS, tmp_path) <= 1.0


def test_the_mark_of_chrony_is_made_in_a_sandbox(tmp_path: Path) -> None:
    assert exposure(CLOCK, tmp_path) <= 1.0


def test_the_drop_ins_are_applied_and_their_price_is_known(tmp_path: Path) -> None:
    alone = exposure(CORE, tmp_path)
    with_boards = exposure(CORE, tmp_path, "relay-lan.conf")
    # Relay boards on a LAN cost the core its private network; nothing else may be given up.
    assert alone < with_boards <= 1.5
    assert exposure(LINK, tmp_path, "broker.conf") <= 1.1


@pytest.mark.parametrize("unit", [CORE, LINK, CLOCK])
def test_systemd_has_nothing_to_complain_of(unit: str, tmp_path: Path) -> None:
    for name in (CORE, LINK, CLOCK):
        shutil.copy(UNITS / name, tmp_path)
    done = analyse("verify", "--man=no", str(tmp_path / unit))
    complaints = [
        line
        for line in (done.stdout + done.stderr).splitlines()
        if "door-gateway" in line and not _NOT_INSTALLED.search(line)
    ]
    assert complaints == []


def test_every_serial_line_and_gpio_chip_is_allowed_and_belongs_to_the_cores_group() -> None:
    unit = (UNITS / CORE).read_text(encoding="utf-8")
    rules = (UNITS / "60-door-gateway.rules").read_text(encoding="utf-8")
    allowed = set(re.findall(r"^DeviceAllow=char-(\w+)\*? rw$", unit, re.MULTILINE))
    assert allowed >= {"ttyUSB", "ttyACM", "ttyAMA", "ttyS", "gpiochip"}
    given = {
        kernel.removesuffix("[0-9]*")
        for line in rules.splitlines()
        if not line.startswith("#")
        for kernel in re.findall(r'KERNEL=="([^"]+)"', line)[0].split("|")
    }
    assert given == allowed
    group = re.search(r"^Group=(\S+)$", unit, re.MULTILINE)
    assert group is not None
    # PrivateUsers=yes maps the unit's own group only: another (dialout, gpio) would be nobody's.
    assert set(re.findall(r'GROUP="([^"]+)", MODE="0660"', rules)) == {group[1]}
    # What is a module must be there before the unit starts, or its class is not allowed.
    for module in ("usbserial", "cdc_acm"):
        assert f"modprobe@{module}.service" in unit
