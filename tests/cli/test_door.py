"""`door-gateway door`, against a core that notes what it is told."""

import json
import os
import pwd
from pathlib import Path

import pytest

from gateway.cli import main
from gateway.ipc.messages import OpenOnce
from tests.cli.served import served
from tests.ipc.memory import MemoryCore


def test_a_door_is_opened_once_and_only_that_door_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    core = MemoryCore()
    with served(tmp_path, core) as config:
        arguments = ["door", "open", "street", "--reason", "parcel", "--config", str(config)]
        assert main(arguments) == 0
        assert capsys.readouterr().out == "street: opened once (event 7)\n"
        ((order, by),) = core.orders
        assert order == OpenOnce(door="street", why="parcel")
        assert pwd.getpwuid(os.geteuid()).pw_name in by
        assert main([*arguments, "--json"]) == 0
        assert json.loads(capsys.readouterr().out) == {"m": "opened", "door": "street", "seq": 7}
        assert main([arg.replace("street", "nowhere") for arg in arguments]) == 2
        assert "no door 'nowhere'" in capsys.readouterr().err
