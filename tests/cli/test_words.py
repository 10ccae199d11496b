"""Lines for people: no Python, no riddle, one reason where something fails."""

import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
import tomli_w

from gateway.cli import main
from gateway.cli.journal import line_of
from gateway.domain import events
from gateway.statedir import StateDir
from tests.process.rig import site_config

AT = datetime(2026, 3, 2, 9, tzinfo=UTC)


@pytest.mark.parametrize(
    ("event", "words"),
    [
        (events.NotEntered(at=AT, trust=2, door="front", side="in", seq=7, holders=("h-sam",)),
         "not entered front          side: in  seq: 7  holders: h-sam"),
        (events.EntitlementsApplied(at=AT, trust=2, revision="r", as_of=AT, counts={"site": 1}),
         "counts: site 1"),
        (events.Entered(at=AT, trust=2, door="front", side="in", sure=True), "sure: yes"),
    ],
)  # fmt: skip
def test_a_line_of_the_journal_is_written_for_people(event: events.Event, words: str) -> None:
    line = line_of(1, events.encode(event))
    assert words in line
    assert not set("[]{}'=") & set(line)


@pytest.mark.parametrize("command", [["status"], ["muster"], ["config", "check"]])
def test_a_site_file_that_is_missing_is_named_with_what_to_do(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = str(tmp_path / "no.toml")
    arguments = [*command, file] if command[0] == "config" else [*command, "--config", file]
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert f"{file}: can't be read: No such file or directory. Name the site's file" in said
    assert ": -:" not in said


def test_one_door_is_a_door_and_a_reason_of_one_character_has_a_character(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = site_config(tmp_path)
    del config["doors"]["back"]
    file = tmp_path / "site.toml"
    file.write_text(tomli_w.dumps(config))
    assert main(["config", "check", str(file)]) == 0
    assert f"{file}: 1 door, 5 devices, no fault" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["door", "open", "front", "--reason", "x", "--config", str(file)])
    assert "has 1 character. Give a reason" in capsys.readouterr().err


def test_a_choice_that_is_always_refused_is_not_offered(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = site_config(tmp_path)
    config["doors"]["front"]["free_egress"] = "electric"
    file = tmp_path / "site.toml"
    file.write_text(tomli_w.dumps(config))
    assert main(["config", "check", str(file)]) == 2
    said = capsys.readouterr().err
    assert "must be one of mechanical, hardwired, not_an_escape_route; not 'electric'" in said


def test_drop_ins_are_all_written_or_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = site_config(tmp_path, broker_port=8883)
    config["mqtt"]["host"] = "nowhere.invalid"
    config["mqtt"] |= {"tls": {"ca": "/ca", "certificate": "/c", "key": "/k"}}
    file = tmp_path / "site.toml"
    file.write_text(tomli_w.dumps(config))
    to = tmp_path / "units"
    assert main(["config", "drop-ins", str(file), "--to", str(to)]) == 2
    assert "can't be resolved" in capsys.readouterr().err
    assert not to.exists()


@pytest.mark.process
def test_a_second_run_ends_with_one_reason_before_its_link_starts(tmp_path: Path) -> None:
    config = site_config(tmp_path, broker_port=1)
    file = tmp_path / "site.toml"
    file.write_text(tomli_w.dumps(config))
    (tmp_path / "credential.key").write_bytes(bytes(range(32)))
    (tmp_path / "credential.key").chmod(0o600)
    with StateDir(tmp_path / "state"):
        second = subprocess.run(
            [sys.executable, "-m", "gateway", "run", "--config", str(file)],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
    assert second.returncode == 2
    lines = [line for line in second.stderr.splitlines() if line.strip()]
    assert "another" in lines[-1] or "in use" in lines[-1] or "pid" in lines[-1], lines
    assert not any(_is_of_link(line) for line in lines), lines


def _is_of_link(line: str) -> bool:
    try:
        return "broker" in json.dumps(json.loads(line))
    except ValueError:
        return "broker" in line or "mqtt" in line
