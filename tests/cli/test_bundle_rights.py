"""`bundle rights`: who may open what, as an auditor asks."""

import json
from pathlib import Path

import pytest

from gateway.cli import main

AT = ["--at", "2026-12-01T00:00:00Z"]


@pytest.fixture
def records(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> str:
    site, out = tmp_path / "site", tmp_path / "records.jsonl"
    main(["bundle", "template", "LON", str(site), "--timezone", "Europe/London"])
    members = site / "members.csv"
    members.write_text(members.read_text().replace("dora,member", "do\u202era,member"))
    cards = site / "credentials.csv"
    cards.write_text(cards.read_text().replace("card-dora,dora", "card-dora,do\u202era"))
    exceptions = site / "exceptions.csv"
    exceptions.write_text(
        exceptions.read_text()
        + "no-comms,carl,deny,comms,,2026-12-01 09:30,2027-01-12 11:00,badge,sam\n"
    )
    assert main(["bundle", "build", str(site), "-o", str(out)]) == 0
    capsys.readouterr()
    return str(out)


def test_each_right_at_a_door_is_a_line(records: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bundle", "rights", records, "--door", "comms", *AT]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "comms: carl (contractor) by booking shift-3001,"
        " from 2027-01-16T10:00:00Z, until 2027-01-16T14:00:00Z",
        "comms: carl (contractor) denied by exception no-comms,"
        " from 2026-12-01T09:30:00Z, until 2027-01-12T11:00:00Z",
        "comms: carl (contractor) by group LON | CONTRACTORS | RESTRICTED | NIGHT,"
        " schedule NIGHT, until 2028-01-01T00:00:00Z",
        "comms: sam (staff) by group LON | STAFF | RESTRICTED | 24x7, schedule 24x7",
    ]


def test_one_holder_as_json(records: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bundle", "rights", records, "--holder", "vera", "--json", *AT]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "rights": [
            {
                "door": "street", "holder": "vera", "persona": "visitor", "status": "active",
                "credentials": 1, "by": "exception", "id": "interview", "schedule": None,
                "start": "2027-01-12T09:30:00Z", "until": "2027-01-12T11:00:00Z",
            }
        ]
    }  # fmt: skip


def test_what_ended_is_left_out_and_grace_ends(
    records: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bundle", "rights", records, *AT]) == 0
    said = capsys.readouterr().out
    assert (
        "lounge: do\\u202era (member) by group LON | MEMBERS | AMENITIES | BH, schedule BH,"
        " until 2027-01-07T00:00:00Z"
    ) in said
    assert "\u202e" not in said
    assert "nils (member, pending)" in said
    assert main(["bundle", "rights", records, "--at", "2029-01-01T00:00:00Z"]) == 0
    later = capsys.readouterr().out
    assert "sam" in later
    assert not any(name in later for name in ("carl", "pia", "vera", "u202e", "room-"))


def test_who_is_unknown_is_no_empty_list(records: str, capsys: pytest.CaptureFixture[str]) -> None:
    for asked in (["--door", "x"], ["--holder", "x"]):
        assert main(["bundle", "rights", records, *asked]) == 2
        assert "has no " in capsys.readouterr().err
