"""What shares a line, and what a line can hold, is checked before anything is wired."""

import tomllib
from pathlib import Path
from typing import Any

import pytest

from gateway.config.site import check
from gateway.drivers import REGISTRY
from gateway.errors import ConfigError

CONFIG = Path(__file__).parents[2] / "config"
PORT = "/dev/serial/by-path/usb-1"
READER = {"driver": "osdp", "port": PORT, "baud_rate": 115200, "formats": ["H10301"]}
BOARD = {"driver": "modbus_relay", "transport": "rtu", "port": PORT, "baud_rate": 115200}
RELAY = {**BOARD, "outputs": 8, "inputs": 8, "timed_pulse": True}
MEASURED = {
    **BOARD,
    "profile": "waveshare_rtu_analog_8ch_b",
    "loop_supply": {"mv": 5000, "pull_up_ohms": 2200, "input": 8},
    "loops": [{"input": 1, "series_ohms": 1000, "parallel_ohms": 1000}],
}
UHPPOTE = {"driver": "uhppote", "host": "10.0.0.1", "serial": 7, "fallback": "closed"}
WIEGAND = {"driver": "wiegand_gpio", "chip": "/dev/gpiochip0", "d0": 1, "formats": ["H10301"]}
PINS = {"driver": "gpio", "chip": "/dev/gpiochip0", "inputs_active_low": True}


def site(**devices: dict[str, Any]) -> dict[str, Any]:
    raw = tomllib.loads((CONFIG / "site.toml").read_text(encoding="utf-8"))
    raw["devices"] = {**raw["devices"], **devices}
    return raw


@pytest.mark.parametrize(
    ("first", "second", "says"),
    [
        ({**READER, "address": 0}, {**RELAY, "unit": 1}, "modbus_relay and osdp can't share"),
        ({**READER, "address": 0}, {"driver": "pn532", "port": PORT}, "pn532 and osdp can't"),
        ({**READER, "address": 0}, {**READER, "address": 0}, "with the same number (0)"),
        (
            {**READER, "address": 0},
            {**READER, "address": 1, "baud_rate": 9600},
            "9600 here and 115200 at 'first'",
        ),
        ({**RELAY, "unit": 1}, {**RELAY, "unit": 2, "parity": "even"}, "even here and none at"),
        ({"driver": "pn532", "port": PORT}, {"driver": "pn532", "port": PORT}, "already the line"),
        ({**UHPPOTE, "door": 1}, {**UHPPOTE, "door": 1}, "the same number (door 1, reader in)"),
        (
            {**UHPPOTE, "door": 1},
            {**UHPPOTE, "door": 2, "fallback": "own_list"},
            "own_list here and closed at 'first'",
        ),
        ({**WIEGAND, "d1": 2}, {**PINS, "inputs": [9, 2]}, "line 2 is already used by 'first'"),
        ({**WIEGAND, "d1": 2}, {**WIEGAND, "d1": 3}, "line 1 is already used by 'first'"),
    ],
)
def test_what_cannot_share_a_line_is_refused(
    first: dict[str, Any], second: dict[str, Any], says: str
) -> None:
    check(site(first=first), REGISTRY, "site.toml")
    with pytest.raises(ConfigError) as refused:
        check(site(first=first, second=second), REGISTRY, "site.toml")
    assert says in str(refused.value)


@pytest.mark.parametrize(
    ("device", "number", "baud_rate", "strained"),
    [
        (READER, "address", 9600, [False, False, False, True]),
        (READER, "address", 115200, [False] * 8),
        (RELAY, "unit", 9600, [True]),
        ({**RELAY, "outputs": 1}, "unit", 9600, [False, True]),
        ({**RELAY, "outputs": 1, "parity": "even"}, "unit", 9600, [True]),
        (RELAY, "unit", 19200, [False, False, True]),
        (MEASURED, "unit", 9600, [True]),
        (MEASURED, "unit", 19200, [False, False, True]),
        (RELAY, "unit", 115200, [False] * 4),
        ({**RELAY, "inputs": 0}, "unit", 9600, [False] * 4),
    ],
)
def test_a_line_too_slow_for_what_hangs_on_it_is_a_warning(
    device: dict[str, Any], number: str, baud_rate: int, strained: list[bool]
) -> None:
    for count, expected in enumerate(strained, 1):
        named = {
            f"d{each}": {**device, number: each, "baud_rate": baud_rate}
            for each in range(1, count + 1)
        }
        warnings = check(site(**named), REGISTRY, "site.toml").warnings
        slow = [each for each in warnings if f"at {baud_rate} baud" in each.what]
        assert bool(slow) == expected, count


def test_the_warning_says_by_how_much_and_what_to_do() -> None:
    board = {**RELAY, "unit": 1, "baud_rate": 9600}
    told = [each.what for each in check(site(d1=board), REGISTRY, "site.toml").warnings]
    assert (
        "1 boards at 9600 baud: an exit button on them is answered after up to 96 ms (121 when "
        "another door on the line is released just then), not 100. Set all to 115200 baud, or "
        "give the boards with buttons a line of their own"
    ) in told


def test_the_examples_have_no_fault_and_no_line_that_is_too_slow() -> None:
    for file in CONFIG.glob("*.toml"):
        raw = tomllib.loads(file.read_text(encoding="utf-8"))
        found = check(raw, REGISTRY, file.name)
        assert not [each for each in found.warnings if "baud" in each.what], file
