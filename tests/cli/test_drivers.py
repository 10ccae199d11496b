"""`door-gateway drivers`."""

import json

import pytest

from gateway.cli import main
from gateway.config.devices import Means
from gateway.drivers import REGISTRY


def test_it_lists_every_driver_with_what_it_can_do_and_how_it_was_tried(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["drivers", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["driver"] for row in rows] == sorted(REGISTRY)
    for row in rows:
        assert row["can"] == sorted(REGISTRY[row["driver"]].capabilities)
        assert row["tried"]
        assert {trial["means"] for trial in row["tried"]} <= set(Means)


def test_nothing_is_said_to_be_tried_only_simulated_and_otherwise_too() -> None:
    for spec in REGISTRY.values():
        means = {trial.means for trial in spec.tried}
        assert Means.SIMULATOR not in means or means == {Means.SIMULATOR}


def test_every_driver_says_what_it_drives_and_by_what() -> None:
    for spec in REGISTRY.values():
        assert spec.title
        assert spec.transport


def test_people_get_it_in_lines(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["drivers"]) == 0
    told = capsys.readouterr().out
    assert "  tried  peer: libmodbus" in told
