"""`bundle lint` and `bundle diff`: what they print, and how they exit."""

import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gateway.cli import main
from gateway.trust.bundle import framed
from gateway.trust.making import About, Made, canonical_records, delta, signed, snapshot
from tests.domain.lint.test_rules import (
    CLEAN,
    MEMBERS,
    STAFF,
    TENANTS,
    card,
    door,
    exception,
    person,
)
from tests.domain.sites import JsonObject, lines

AT = ["--at", "2026-06-01T09:00:00Z"]


@pytest.fixture
def write(tmp_path: Path) -> Any:
    def write(name: str, *changes: JsonObject, without: str = "") -> str:
        records = {(record["type"], record["id"]): dict(record) for record in CLEAN}
        for change in changes:
            records.setdefault((change["type"], change["id"]), {}).update(change)
        kept = [record for record in records.values() if record["id"] != without]
        path = tmp_path / f"{name}.jsonl"
        path.write_text("\n".join(lines(kept)) + "\n")
        return str(path)

    return write


@pytest.mark.parametrize(
    ("changes", "code", "told"),
    [
        ((), 0, "nothing found"),
        ((exception(holder="sam"),), 0, "notice: exception_needless: x: "),
        ((person("ann", "member", MEMBERS, STAFF),), 1, "warning: more_than_minimum: ann: "),
        (tuple(card(n, "ann", "pin", f"{n:04}") for n in range(120)), 3, "alarm: pins_too_dense"),
    ],
)
def test_lint_exits_by_the_gravest_finding(
    write: Any, capsys: pytest.CaptureFixture[str], changes: Any, code: int, told: str
) -> None:
    assert main(["bundle", "lint", write("site", *changes), *AT]) == code
    printed = capsys.readouterr().out
    assert printed.startswith(told)
    assert ("    do:  " in printed) == bool(changes)


def test_lint_in_json_has_every_member_of_a_finding(
    write: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    crowd = [person(f"h{number:03}", "visitor", MEMBERS) for number in range(30)]
    path = write("site", *crowd)
    assert main(["bundle", "lint", path, *AT, "--json"]) == 1
    found = json.loads(capsys.readouterr().out)["findings"]
    assert found[0].keys() == {"rule", "severity", "what", "who", "count", "why", "todo"}
    assert main(["bundle", "lint", path]) == 1  # now, whenever that is
    assert "and 10 more: " in capsys.readouterr().out


def test_what_a_stranger_wrote_does_nothing_to_a_terminal(
    write: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "eve\x1b[2J\x9b1m\u202e\nnothing changes"
    there = write("site", person(name, "member", MEMBERS, STAFF), card(1, name, "uid", "04AABBCC"))
    bad = write("bad", person(name, "member", "nobody"))
    shown = r"eve\u001b[2J\u009b1m\u202e\nnothing changes"
    for command, code in (
        (["lint", there], 1),
        (["lint", there, "--json"], 1),
        (["diff", write("old"), there], 1),
        (["diff", write("old"), there, "--json"], 1),
        (["lint", bad], 2),
    ):
        assert main(["bundle", *command, *AT]) == code
        said = "".join(capsys.readouterr())
        assert shown in said.replace(r"\x1b", r"\u001b").replace(r"\x9b", r"\u009b")
        assert all(each.isprintable() or each in "\t\n" for each in said)
        assert "\nnothing changes" not in said


def test_records_with_faults_or_none_at_all_exit_two(
    write: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["bundle", "lint", write("bad", without="street")]) == 2
    assert "from_zone\tno zone 'street'" in capsys.readouterr().err
    assert main(["bundle", "lint", str(tmp_path / "none.jsonl")]) == 2
    assert "none.jsonl: can't be read" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["bundle", "lint", "x", "--at", "tomorrow"])


def test_diff_of_the_same_records_says_that_nothing_changes(
    write: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bundle", "diff", write("a"), write("b"), *AT]) == 0
    assert capsys.readouterr().out == "nothing changes\n"


def test_diff_names_records_members_and_whose_doors_open_or_close(
    write: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    old = write("old", card(1, "tia", "uid", "04000001"))
    new = write(
        "new",
        person("ann", "member", MEMBERS, name="Ann Other"),
        person("tia", "office", TENANTS, valid_until="2026-06-03T09:00:00Z"),
        card(1, "tia", "uid", "04000001"),
        card(2, "cas", "uid", "04000002"),
        without="p-ann",
    )
    assert main(["bundle", "diff", old, new, *AT]) == 1
    out = capsys.readouterr().out
    assert "changed holder ann: name\n" in out
    assert "changed holder tia: valid_until\n" in out
    assert "removed credential p-ann\n" in out
    assert "tia loses suite-door from 2026-06-03 09:00 to 2026-06-08 09:00 UTC\n" in out
    assert "cas gains store-door from 2026-06-01 20:00 to 2026-06-02 04:00 UTC and 6 times" in out
    assert "Ann Other" not in out
    assert "sam" not in out


@pytest.mark.parametrize(
    "change",
    [
        {"type": "policy", "id": "policy", "grace_hours": 1},
        {"type": "zone", "id": "club", "name": "Club"},
        {"type": "door", "id": "front", "second_factor_schedule": "24x7"},
    ],
)
def test_diff_of_what_is_everybodys_looks_at_everybody(
    write: Any, capsys: pytest.CaptureFixture[str], change: JsonObject
) -> None:
    late = person("ann", "member", MEMBERS, delinquent_since="2026-06-01T08:00:00Z")
    assert main(["bundle", "diff", write("a", late), write("b", late, change), *AT, "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    (only,) = told["records"]
    assert (only["type"], only["id"]) == (change["type"], change["id"])
    lost = {each["holder"] for each in told["doors"] if not each["gains"]}
    assert lost == ({"ann"} if change["type"] == "policy" else set())


def test_diff_says_where_a_second_signature_would_be_asked_for(
    write: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    old, new = write("a"), write("b", door("store-door", unlock_schedule="BH"))
    assert main(["bundle", "diff", old, new, *AT]) == 1
    assert "needs a second signature: changes the site: door store-door" in capsys.readouterr().out


def test_diff_follows_schedules_groups_bookings_and_exceptions_to_their_people(
    write: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    old = write("a", card(3, "ben", "uid", "04000003"), card(4, "vic", "uid", "04000004"))
    new = write(
        "b",
        card(3, "ben", "uid", "04000003"),
        card(4, "vic", "uid", "04000004"),
        {"type": "schedule", "id": "BH", "weekly": {"mon": [["08:00", "12:00"]]}},
        {"type": "booking", "id": "b", "end": "2026-06-02T15:00:00Z"},
        {"type": "exception", "id": "e", "until": "2026-06-02T16:00:00Z"},
    )
    assert main(["bundle", "diff", old, new, *AT]) == 1
    out = capsys.readouterr().out
    assert "ann loses club-door from 2026-06-01 11:00" in out
    assert "ben gains room-door from 2026-06-02 13:05 to 2026-06-02 15:05" in out
    assert "vic gains front from 2026-06-02 14:00 to 2026-06-02 16:00" in out


def test_a_bundle_is_read_like_its_records_and_a_delta_or_a_part_is_refused(
    write: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old, new = write("old"), write("new", card(7, "tia", "uid", "04000007"))
    before, after = (
        canonical_records(json.loads(line) for line in Path(path).read_text().splitlines())
        for path in (old, new)
    )
    about = About("LON", ("lon-1",), 7, 1_800_000_000, 1_800_086_400, b"k" * 32)
    key = Ed25519PrivateKey.generate()

    def bundle(name: str, made: Made, *, chunks: int = 1) -> str:
        path = tmp_path / name
        path.write_bytes(b"".join(framed([signed(made, [key]), *made.chunks[:chunks]])))
        return str(path)

    whole = bundle("whole.bundle", snapshot(after, about))
    assert main(["bundle", "diff", new, whole, *AT]) == 0
    assert main(["bundle", "diff", old, whole, *AT]) == 1
    assert "added credential n7" in capsys.readouterr().out
    assert main(["bundle", "lint", whole, *AT]) == 0
    for path, told in (
        (bundle("delta.bundle", delta(before, after, about, 6)), "is a delta with 1 of 1 chunks"),
        (bundle("part.bundle", snapshot(after, about), chunks=0), "is a snapshot with 0 of 1"),
    ):
        assert main(["bundle", "lint", path, *AT]) == 2
        assert told in capsys.readouterr().err
    (tmp_path / "cut.bundle").write_bytes(Path(whole).read_bytes()[:-1])
    assert main(["bundle", "lint", str(tmp_path / "cut.bundle"), *AT]) == 2
    assert "cut.bundle: malformed: " in capsys.readouterr().err
