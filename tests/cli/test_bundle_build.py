"""`bundle template` and `bundle build`: a site without any cloud begins here."""

import json
from pathlib import Path

import pytest

from gateway.cli import main


def test_a_new_location_is_begun_built_and_lints_clean(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    site, out = str(tmp_path / "site"), tmp_path / "records.jsonl"
    assert main(["bundle", "template", "NYC-2", site, "--timezone", "America/New_York"]) == 0
    assert main(["bundle", "build", site, "-o", str(out)]) == 0
    assert "records.jsonl: 57 records" in capsys.readouterr().out
    assert out.stat().st_mode & 0o777 == 0o600
    assert main(["bundle", "lint", str(out), "--at", "2027-01-04T00:00:00Z"]) == 0
    assert capsys.readouterr().out == "nothing found\n"
    assert main(["bundle", "build", site]) == 0
    assert capsys.readouterr().out == out.read_text()
    assert json.loads(out.read_text().splitlines()[0])["timezone"] == "America/New_York"


def test_a_folder_that_has_something_in_it_is_left_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    begin = ["bundle", "template", "LON", "--timezone", "UTC"]
    assert main([*begin, str(tmp_path), "--json"]) == 0
    assert "doors.csv" in json.loads(capsys.readouterr().out)["files"]
    assert main([*begin, str(tmp_path)]) == 2
    assert "is not empty" in capsys.readouterr().err
    assert main([*begin, str(tmp_path / "zones.csv")]) == 2
    assert "can't be written" in capsys.readouterr().err


@pytest.mark.parametrize("zone", ["London", "", "Europe", "../etc", "\x1b[2J"])
def test_a_time_zone_that_is_none_begins_no_folder(
    zone: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bundle", "template", "LON", str(tmp_path / "x"), "--timezone", zone]) == 2
    assert "is no IANA time zone: give one such as Europe/London" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()
    with pytest.raises(SystemExit):
        main(["bundle", "template", "LON", str(tmp_path / "x")])
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("file", "was", "now", "told"),
    [
        ("settings.csv", "timezone,UTC", "timezone,London",
         "settings.csv, line 3, value: is no IANA time zone, such as Europe/London;"
         " there is 'London'"),
        ("members.csv", "staff,active", "stuff,active", "; there is 'stuff'"),
        ("members.csv", "staff,active", "staff,activ", "; there is 'activ'"),
        ("members.csv", "staff,active", "\u202estaff,active", "; there is '\\u202estaff'"),
        ("settings.csv", "grace_hours,72", f"grace_hours,{'7' * 90}", f"'{'7' * 40}…'"),
        ("holidays.csv", "2026-12-25", "25.12.2026", "; there is '25.12.2026'"),
        ("bookings.csv", "2027-01-12 14:00", "noon", "; there is 'noon'"),
    ],
)  # fmt: skip
def test_a_fault_says_what_stands_there(
    file: str, was: str, now: str, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["bundle", "template", "LON", str(tmp_path), "--timezone", "UTC"])
    sheet = tmp_path / file
    text = sheet.read_text()
    assert was in text
    sheet.write_text(text.replace(was, now, 1))
    assert main(["bundle", "build", str(tmp_path)]) == 2
    assert told in capsys.readouterr().err


def test_no_fault_repeats_a_cell_that_may_be_a_pin(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["bundle", "template", "LON", str(tmp_path), "--timezone", "UTC"])
    sheet = tmp_path / "credentials.csv"
    sheet.write_text(sheet.read_text().replace("pin,824613,", "824613,pin,"))
    assert main(["bundle", "build", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert "kind: is none of uid" in said
    assert "824613" not in said


def test_a_fault_leaves_what_was_there_and_exits_two(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    site, out = tmp_path / "site", tmp_path / "records.jsonl"
    main(["bundle", "template", "LON", str(site), "--timezone", "Europe/London"])
    out.write_text("as it was\n")
    zones = site / "zones.csv"
    zones.write_text(zones.read_text().replace("lounge,member", "lounge,members"))
    capsys.readouterr()
    assert main(["bundle", "build", str(site), "-o", str(out), "--json"]) == 2
    told = capsys.readouterr()
    assert told.err.startswith("zones.csv, line 4, category: is none of ")
    (fault,) = json.loads(told.out)["faults"]
    assert (fault["file"], fault["line"], fault["column"]) == ("zones.csv", 4, "category")
    assert out.read_text() == "as it was\n"


def test_json_tells_of_doors_left_out_and_needs_a_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    site = tmp_path / "site"
    main(["bundle", "template", "LON", str(site), "--timezone", "Europe/London"])
    doors = site / "doors.csv"
    rows = doors.read_text().splitlines(keepends=True)
    doors.write_text("".join((*rows, rows[-1].replace("comms,", "cage,", 1).replace(
        "door-gateway", "padlock"))))  # fmt: skip
    capsys.readouterr()
    out = str(tmp_path / "records.jsonl")
    assert main(["bundle", "build", str(site), "-o", out, "--json"]) == 0
    told = capsys.readouterr()
    assert json.loads(told.out) == {"ok": True, "records": 57, "left_out": ["cage"]}
    assert told.err == "door cage is of another enforcement system: left out\n"
    assert main(["bundle", "build", str(site), "--json"]) == 2
    assert main(["bundle", "build", str(site), "-o", str(tmp_path / "no" / "where")]) == 2
    assert "can't be written" in capsys.readouterr().err
