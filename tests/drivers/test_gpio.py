"""Drivers on GPIO lines: their settings, and a run of on_gpio_chip.py with the shim loaded."""

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gateway.config.devices import RelayClass
from gateway.config.site import check
from gateway.drivers import REGISTRY, gpio, wiegand_gpio
from hwsim.gpio.host import build_shim
from tests.drivers.contract import CONFIG

needs_compiler = pytest.mark.skipif(
    shutil.which("cc") is None or not Path("/usr/include/linux/gpio.h").exists(),
    reason="needs a C compiler and the kernel's headers (Debian's gcc and linux-libc-dev)",
)


@needs_compiler
@pytest.mark.process
def test_the_drivers_work_through_the_real_gpiod(tmp_path: Path) -> None:
    shim = build_shim(tmp_path)
    told = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-s", "-p", "no:cacheprovider", "--no-cov"]
        + ["--basetemp", str(tmp_path / "t"), str(Path(__file__).with_name("on_gpio_chip.py"))],
        env={**os.environ, "LD_PRELOAD": str(shim)},
        capture_output=True,
        text=True,
        check=False,
        timeout=170,
    )
    print(told.stdout)
    assert told.returncode == 0, told.stdout + told.stderr


def test_the_example_is_without_fault() -> None:
    config = check(tomllib.loads(CONFIG.with_name("gpio.toml").read_text()), REGISTRY, "gpio.toml")
    assert config.doors["yard"].strike.relay_class is RelayClass.R0


@pytest.mark.parametrize(
    "wrong",
    [
        {"chip": "gpiochip0"},
        {"d0": 27},
        {"d1": -1},
        {"d1": 512},
        {"formats": []},
        {"formats": ["H99999"]},
        {"keypad": "6bit"},
        {"bias": "up"},
        {"inter_digit_timeout_s": 99},
        {"lamp": 23},
        {"lamp": 23, "buzzer": 23, "lamp_active_low": True},
        {"buzzer": 27, "lamp_active_low": True},
    ],
)
def test_impossible_settings_of_a_reader_are_refused(wrong: dict[str, Any]) -> None:
    table = {"chip": "/dev/gpiochip0", "d0": 17, "d1": 27, "formats": ["H10301"]}
    msgspec.convert(table, wiegand_gpio.WiegandGpioSettings)
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({**table, **wrong}, wiegand_gpio.WiegandGpioSettings)


@pytest.mark.parametrize(
    "wrong",
    [
        {"chip": ""},
        {"inputs": [5, 5]},
        {"inputs": [600]},
        {"outputs": [5]},
        {"inputs": [], "outputs": []},
        {"inputs_active_low": None},
        {"outputs_active_low": None},
        {"debounce_ms": 0},
        {"debounce_ms": 51},
    ],
)
def test_impossible_settings_of_lines_are_refused(wrong: dict[str, Any]) -> None:
    table = {
        "chip": "/dev/gpiochip0",
        "inputs": [5, 6],
        "inputs_active_low": True,
        "outputs": [22],
        "outputs_active_low": False,
    }
    msgspec.convert(table, gpio.GpioSettings)
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({**table, **wrong}, gpio.GpioSettings)
