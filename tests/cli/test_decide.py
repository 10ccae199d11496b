"""`decide` and `explain`, to the letter of the conformance cases, and where they can't."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.cli import main
from tests.domain.sites import BASE, CONFORMANCE, SITE_NAMES, JsonObject, lines

Captured = pytest.CaptureFixture[bytes]

GOOD: JsonObject = {
    "door": "front",
    "credentials": [{"kind": "uid", "value": "04A1B2C3"}],
    "at": "2026-06-01T09:00:00Z",
}
GRANT = {
    "outcome": "grant",
    "reason": "group",
    "holder": "ann",
    "via": "LON | STAFF | CLUB | 24x7",
    "duress": False,
}


@pytest.fixture
def records(tmp_path: Path) -> str:
    path = tmp_path / "records.jsonl"
    path.write_text("\n".join(lines(BASE)) + "\n")
    return str(path)


def _requests(tmp_path: Path, *texts: str) -> str:
    path = tmp_path / "requests.jsonl"
    path.write_bytes("".join(text + "\n" for text in texts).encode())
    return str(path)


@pytest.mark.parametrize("name", SITE_NAMES)
def test_decisions_are_the_conformance_cases_to_the_byte(name: str, capfdbinary: Captured) -> None:
    records = str(CONFORMANCE / f"{name}.records.jsonl")
    requests = str(CONFORMANCE / f"{name}.requests.jsonl")

    assert main(["decide", "--records", records, "--requests", requests]) == 0

    printed = capfdbinary.readouterr()
    assert printed.out == (CONFORMANCE / f"{name}.decisions.jsonl").read_bytes()
    assert printed.err == b""


@pytest.mark.parametrize("name", SITE_NAMES)
def test_explanations_are_the_conformance_cases_to_the_byte(
    name: str, tmp_path: Path, capfdbinary: Captured
) -> None:
    records = str(CONFORMANCE / f"{name}.records.jsonl")
    first = (CONFORMANCE / f"{name}.requests.jsonl").read_text().splitlines()[:60]
    requests = _requests(tmp_path, *first)

    assert main(["explain", "--records", records, "--requests", requests]) == 0

    printed = capfdbinary.readouterr()
    assert printed.out == (CONFORMANCE / f"{name}.explanations.jsonl").read_bytes()
    assert printed.err == b""


INVALID = [json.loads(line) for line in (CONFORMANCE / "invalid.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("case", [pytest.param(case, id=case["name"]) for case in INVALID])
def test_every_fault_is_a_line_of_four_columns_and_nothing_is_decided(
    case: dict[str, list[object]], tmp_path: Path, capfdbinary: Captured
) -> None:
    records = tmp_path / "records.jsonl"
    records.write_text("".join(json.dumps(record) + "\n" for record in case["records"]))
    requests = _requests(tmp_path, json.dumps(GOOD))

    assert main(["decide", "--records", str(records), "--requests", requests]) == 2

    printed = capfdbinary.readouterr()
    rows = [line.split("\t") for line in printed.err.decode().splitlines()]
    assert all(len(row) == 4 and row[3] for row in rows)
    assert sorted(row[:3] for row in rows) == sorted(case["faults"], key=str)
    assert printed.out == b""


def test_a_line_that_is_no_record_is_named(tmp_path: Path, capfdbinary: Captured) -> None:
    records = tmp_path / "records.jsonl"
    records.write_text("\n".join([*lines(BASE)[:6], "{", *lines(BASE)[6:]]) + "\n")

    assert main(["decide", "--records", str(records), "--requests", os.devnull]) == 2

    assert capfdbinary.readouterr().err.startswith(b"-\t-\t-\tline 7: ")


@pytest.mark.parametrize("command", ["decide", "explain"])
def test_at_a_malformed_request_it_says_which_and_goes_no_further(
    command: str, records: str, tmp_path: Path, capfdbinary: Captured
) -> None:
    good = json.dumps(GOOD)
    requests = _requests(tmp_path, good, good, json.dumps(GOOD | {"as_of": None}), good)

    assert main([command, "--records", records, "--requests", requests]) == 2

    printed = capfdbinary.readouterr()
    assert len(printed.out.splitlines()) == 2
    assert printed.err.startswith(b"line 3: ")
    assert len(printed.err.splitlines()) == 1


def test_a_blank_request_is_another_form(
    records: str, tmp_path: Path, capfdbinary: Captured
) -> None:
    requests = _requests(tmp_path, "")
    assert main(["decide", "--records", records, "--requests", requests]) == 2
    assert capfdbinary.readouterr().err == b"line 1: blank\n"


def test_no_requests_are_no_decisions(records: str, capfdbinary: Captured) -> None:
    assert main(["decide", "--records", records, "--requests", os.devnull, "--json"]) == 0
    assert capfdbinary.readouterr() == (b"", b"")


@pytest.mark.parametrize("which", ["--records", "--requests"])
def test_a_file_that_is_not_there_is_said_without_a_traceback(
    which: str, records: str, tmp_path: Path, capfdbinary: Captured
) -> None:
    missing = str(tmp_path / "missing.jsonl")
    arguments = {"--records": records, "--requests": os.devnull} | {which: missing}

    assert main(["decide", *(text for pair in arguments.items() for text in pair)]) == 2

    printed = capfdbinary.readouterr()
    assert printed.err.decode() == f"{missing}: No such file or directory\n"
    assert printed.out == b""


def test_both_files_can_not_be_standard_input(capfdbinary: Captured) -> None:
    assert main(["decide", "--records", "-", "--requests", "-"]) == 2
    assert b"standard input" in capfdbinary.readouterr().err


@pytest.mark.parametrize("command", ["decide", "explain"])
def test_help_has_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    assert f"example:\n  door-gateway {command}" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [[], ["dance"], ["decide"], ["decide", "--records", "x"]])
def test_bad_usage_exits_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert "usage: door-gateway" in capsys.readouterr().err


def test_the_general_help_lists_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    out = capsys.readouterr().out
    assert "decide requests on a set of records" in out
    assert "say why requests are denied" in out


def _gateway(*arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "gateway", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


@pytest.mark.process
def test_requests_on_standard_input_are_answered_one_by_one(records: str) -> None:
    with _gateway("decide", "--records", records, "--requests", "-") as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for _ in range(2):
            process.stdin.write(json.dumps(GOOD).encode() + b"\n")
            process.stdin.flush()
            assert json.loads(process.stdout.readline()) == GRANT
        process.stdin.close()
        assert process.wait(10) == 0


@pytest.mark.process
def test_nobody_reading_the_answers_is_no_traceback(records: str) -> None:
    with _gateway("decide", "--records", records, "--requests", "-") as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        process.stdin.write(json.dumps(GOOD).encode() + b"\n")
        process.stdin.close()
        assert process.wait(10) == 2
        assert process.stderr.read() == b""
