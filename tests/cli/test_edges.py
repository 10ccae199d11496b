"""Standard streams that are closed or full, and what a command says of itself."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from gateway import __version__
from gateway.cli import main

GATEWAY = f"{sys.executable} -m gateway"
COMMANDS = ["drivers", "drivers --json", "card formats", "--help", "--version", "card --help"]


def shell(command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-c", f"{GATEWAY} {command}"],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("output", "why"), [(">&-", "Bad file descriptor"), ("> /dev/full", "No space left on device")]
)
def test_an_output_that_takes_nothing_is_said_and_exits_2(
    command: str, output: str, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    ended = shell(f"{command} {output}")
    assert (ended.returncode, ended.stderr) == (2, f"standard output: {why}\n")


@pytest.mark.parametrize("command", ["drivers", "--version"])
def test_unbuffered_as_well(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONUNBUFFERED", "1")
    ended = shell(f"{command} > /dev/full")
    assert (ended.returncode, ended.stderr) == (2, "standard output: No space left on device\n")


def test_with_no_standard_error_either_the_exit_status_is_left() -> None:
    ended = shell("drivers >&- 2>&- <&-")
    assert (ended.returncode, ended.stdout, ended.stderr) == (2, "", "")


def test_a_closed_standard_error_takes_no_output_away() -> None:
    assert shell("--version 2>&-").stdout == f"door-gateway {__version__}\n"


def test_requests_from_a_closed_standard_input_are_none(tmp_path: Path) -> None:
    records = Path(__file__).parents[1] / "golden" / "conformance" / "london.records.jsonl"
    ended = shell(f"decide --records {records} --requests - <&-")
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")


def test_it_says_its_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"door-gateway {__version__}\n"


@pytest.mark.parametrize(
    ("command", "actions"),
    [
        ("journal", ("tail", "show", "key", "export", "verify", "erase")),
        ("grant", ("issue", "read")),
        ("bundle root", ("new", "rotate", "sign", "show")),
        ("command", ("unlock", "lockdown", "logs")),
    ],
)
def test_the_help_of_every_action_has_an_example(
    command: str, actions: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    for action in actions:
        with pytest.raises(SystemExit):
            main([*command.split(), action, "--help"])
        assert f"example:\n  door-gateway {command} " in capsys.readouterr().out, action


@pytest.mark.parametrize("command", ["run", "core", "link"])
def test_the_long_lived_processes_say_that_they_print_logs(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main([command, "--help"])
    assert "a JSON object a line" in capsys.readouterr().out


def test_a_site_file_that_is_a_pipe_is_refused_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    os.mkfifo(tmp_path / "site.toml")
    assert main(["config", "check", str(tmp_path / "site.toml")]) == 2
    assert "no regular file" in capsys.readouterr().err


def test_records_and_requests_may_come_from_pipes() -> None:
    conformance = Path(__file__).parents[1] / "golden" / "conformance"
    ended = shell(
        f"decide --records <(cat {conformance}/london.records.jsonl) "
        f"--requests <(head -n 1 {conformance}/london.requests.jsonl)"
    )
    assert ended.returncode == 0
    assert ended.stdout == (conformance / "london.decisions.jsonl").read_text().splitlines(True)[0]
