"""Replay and what-if: a day at two doors, decided again from its journal."""

import asyncio
import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from gateway.cache import Cache
from gateway.cache.in_force import records_in_force
from gateway.cli import main
from gateway.domain import events
from gateway.domain.record_faults import parse_records
from gateway.domain.replay import Revision, difference
from gateway.domain.whatif import changes
from gateway.errors import StorageError
from gateway.journal import Journal
from gateway.journal.verify import Header, event_line, header_line, seal_line
from gateway.statedir import StateDir
from tests.control.site import (
    DURESS_PIN,
    MAYA,
    MAYA_PIN,
    ONCE,
    SAM,
    SAM_PIN,
    club,
    record_rows,
    records,
)
from tests.control.test_door import Paper
from tests.journal.conftest import StillClock
from tests.virtual import run

DOORS: dict[str, dict[str, Any]] = {
    "front": {"pin_alone": True, "antipassback": "hard", "max_occupancy": 2},
    "inner": {"two_person": True, "interlock": "lock", "second_factor_schedule": "24x7"},
}


ANN = "04CC0001"
MORE: list[dict[str, Any]] = [
    {"type": "holder", "id": "ann", "persona": "member", "status": "active", "groups": ["g"]},
    {"type": "credential", "id": "c-ann", "holder": "ann", "kind": "uid", "value": ANN},
]


def lines(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def a_day() -> Paper:
    """One of everything that a rule can do."""

    async def journey() -> Paper:
        async with club(records(DOORS, MORE)) as c:
            for tap in (SAM, SAM, MAYA, ONCE, "04FFFFFF", SAM_PIN, DURESS_PIN):
                await c.tap(tap)
                await c.walk()
            await c.tap(ANN)
            await asyncio.sleep(10)
            for card, pin in ((SAM, SAM_PIN), (MAYA, "0000"), (MAYA, MAYA_PIN)):
                await c.tap(card, door="inner")
                await c.tap(pin, door="inner")
            for pin in ("0000",) * 6 + (SAM_PIN, DURESS_PIN):
                await c.tap(pin)
            await c.order("lockdown")
            await c.tap(MAYA)
            await c.tap(MAYA, side="out")
            await c.order("release")
            await c.order("blocked", "door", "front", 60)
            await c.tap(MAYA)
            c.clock.trusted = False
            c.clock.shift = timedelta(days=-365)
            await c.tap(MAYA)
            return c.paper

    return run(journey())


@pytest.fixture(scope="module")
def day() -> Paper:
    return a_day()


@pytest.fixture
def journal(day: Paper, tmp_path: Path) -> Path:
    path = tmp_path / "tail.jsonl"
    path.write_text(
        "".join(
            json.dumps({"stream": "s", "seq": seq, "event": json.loads(events.encode(event))})
            + "\n"
            for seq, event in enumerate(day.events, 1)
        )
    )
    return path


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    path = tmp_path / "records.jsonl"
    path.write_text(lines(record_rows(DOORS, MORE)))
    return path


def taps(day: Paper) -> list[events.AccessDecided]:
    return [event for event in day.events if isinstance(event, events.AccessDecided)]


def test_the_day_had_one_of_everything(day: Paper) -> None:
    assert {
        "group", "antipassback", "max_occupancy", "unknown_credential", "pin_locked_out",
        "lockdown", "egress", "door_blocked", "pin_required", "second_person_required",
    } <= {event.reason for event in taps(day)}  # fmt: skip


def test_every_recorded_tap_is_decided_again_alike(
    journal: Path, kept: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["replay", str(journal), "--records", str(kept)]) == 0
    assert re.search(r"\d\d taps decided again, 0 differences", capsys.readouterr().out)


async def test_replay_reads_a_copy_of_the_journal_itself(
    day: Paper, kept: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with Journal(tmp_path / "journal.db", StillClock()) as journal:
        for event in day.events:
            journal.append(event)
    assert main(["replay", str(tmp_path / "journal.db"), "--records", f"r1={kept}", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["taps"] == len(taps(day))


async def test_a_tap_of_somebody_erased_is_counted_and_no_difference(
    day: Paper, kept: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    holder = next(event.holder for event in taps(day) if event.holder)
    theirs = sum(event.holder == holder for event in taps(day))
    async with Journal(tmp_path / "journal.db", StillClock()) as journal:
        for event in day.events:
            ticket = journal.append(event)
        await ticket.committed
        await journal.acknowledge(journal.stream, ticket.seq)
        await journal.erase(holder)
    options = ["--records", f"r1={kept}", "--json"]
    assert main(["replay", str(tmp_path / "journal.db"), *options]) == 0
    told = json.loads(capsys.readouterr().out)
    # A tap of somebody else depended on where they were, too.
    assert told["erased"] >= theirs > 0
    assert told["taps"] + told["erased"] == len(taps(day))


def test_other_records_differ_and_an_unnamed_revision_is_no_proof(
    journal: Path, tmp_path: Path, kept: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other.jsonl"
    other.write_text(lines([row for row in record_rows(DOORS, MORE) if row["id"] != "c-sam"]))
    assert main(["replay", str(journal), "--records", str(other)]) == 1
    assert "decided again deny unknown_credential" in capsys.readouterr().out
    assert main(["replay", str(journal), "--records", f"r9={kept}", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["unknown_revision"] > 0


@pytest.mark.parametrize(
    ("reason", "key"),
    [
        ("antipassback", "place/sam"),
        ("max_occupancy", "count/club"),
        ("pin_locked_out", "pin/door/front"),
    ],
)
def test_a_tap_depends_on_what_its_event_says_it_depended_on(
    day: Paper, reason: str, key: str
) -> None:
    revision = Revision(parse_records(lines(record_rows(DOORS, MORE)).splitlines()).records)
    turned = next(event for event in taps(day) if event.reason == reason)
    assert difference(turned, revision) is None
    body = json.loads(events.encode(turned))
    del body["context"]["memory"][key]
    altered = events.decode(json.dumps(body).encode())
    assert isinstance(altered, events.AccessDecided)
    assert difference(altered, revision) is not None


def test_whatif_lists_taps_that_would_change_and_who_gains_and_loses_what(
    journal: Path, kept: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new = tmp_path / "new.jsonl"
    rows = record_rows(DOORS, MORE)
    ended = [
        {**row, "status": "suspended"} if (row["type"], row["id"]) == ("holder", "maya") else row
        for row in rows
    ]
    new.write_text(lines(ended))
    arguments = ["whatif", "--journal", str(journal), "--since", "7d"]
    assert main([*arguments, "--records", str(new), "--was", str(kept)]) == 1
    told = capsys.readouterr().out
    assert "maya was grant group, would be deny membership_suspended" in told
    assert "maya loses front from 2026-03-02" in told
    assert "sam" not in told
    assert main([*arguments, "--records", str(kept), "--was", str(kept), "--json"]) in (0, 1)
    assert json.loads(capsys.readouterr().out)["holders"] == []
    assert main([*arguments, "--records", str(kept)]) in (0, 1)
    assert "holders are not compared: name with --was" in capsys.readouterr().out


def test_whatif_of_a_journal_without_events_says_so(
    kept: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nothing = tmp_path / "tail.jsonl"
    nothing.touch()
    assert main(["whatif", "--journal", str(nothing), "--records", str(kept)]) == 2
    assert "holds no events" in capsys.readouterr().err


async def applied(state: Path, key: Path, lines: bytes) -> str:
    cache = Cache(state, key, "LON")
    await cache.open()
    return (await cache.apply(lines, datetime(2026, 3, 2, tzinfo=UTC))).revision


def test_whatif_reads_the_records_in_force_and_changes_no_file(kept: Path, tmp_path: Path) -> None:
    state, key = tmp_path / "state", tmp_path / "key"
    key.write_bytes(bytes(range(32)))
    key.chmod(0o600)
    with StateDir(state):
        with pytest.raises(StorageError):
            records_in_force(state, key, "LON")
        revision = asyncio.run(applied(state, key, kept.read_bytes()))
        files = {path: path.read_bytes() for path in state.rglob("*") if path.is_file()}
        found = records_in_force(state, key, "LON")
        assert {path: path.read_bytes() for path in state.rglob("*") if path.is_file()} == files
    assert found.revision == revision
    given = parse_records(kept.read_bytes().splitlines()).records
    at = datetime(2026, 3, 2, 9, tzinfo=UTC)
    assert list(changes(given, found.records, at, at + timedelta(days=7))) == []
    other = tmp_path / "other"
    other.write_bytes(bytes(32))
    other.chmod(0o600)
    with pytest.raises(StorageError, match="another credential key"):
        records_in_force(state, other, "LON")


def test_a_gain_is_told_with_its_very_span() -> None:
    rows = record_rows({})
    was = parse_records(lines(rows).splitlines()).records
    start = datetime(2026, 3, 3, 8, tzinfo=UTC)
    rows += [
        {"type": "holder", "id": "vera", "persona": "visitor", "status": "active", "groups": []},
        {"type": "credential", "id": "c-v", "holder": "vera", "kind": "uid", "value": "04BB0001"},
        {"type": "exception", "id": "e", "holder": "vera", "effect": "allow", "zones": [],
         "doors": ["front"], "from": "2026-03-03T08:00:00Z", "until": "2026-03-03T09:30:00Z",
         "reason": "interview", "issued_by": "desk"},
    ]  # fmt: skip
    new = parse_records(lines(rows).splitlines()).records
    found = list(changes(was, new, start - timedelta(days=1), start + timedelta(days=6)))
    assert found == [("vera", "front", True, start, start + timedelta(minutes=90))]


async def _running_copy(day: Paper, tmp_path: Path, wal: bool, mark: bool) -> Path:
    """Copy a journal while it is open: without its WAL the last events are missing."""
    copy = tmp_path / "copy" / "journal.db"
    copy.parent.mkdir()
    async with Journal(tmp_path / "journal.db", StillClock()) as journal:
        for event in day.events[:-1]:
            ticket = journal.append(event)
        await ticket.committed
    async with Journal(tmp_path / "journal.db", StillClock()) as journal:
        await journal.append(taps(day)[-1]).committed
        await journal.keep_mark()
        for ending, wanted in (("", True), ("-wal", wal), (".mark", mark)):
            if wanted:
                data = (tmp_path / f"journal.db{ending}").read_bytes()
                copy.with_name(f"journal.db{ending}").write_bytes(data)
    return copy


@pytest.mark.parametrize("mark", [True, False])
@pytest.mark.parametrize("wal", [True, False])
async def test_a_copy_without_its_wal_is_never_taken_for_the_whole_journal(
    day: Paper,
    kept: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    wal: bool,
    mark: bool,
) -> None:
    copy = await _running_copy(day, tmp_path, wal, mark)
    status = main(["replay", str(copy), "--records", f"r1={kept}"])
    said = capsys.readouterr()
    if wal:
        assert said.err == "" or "journal.db-wal" not in said.err
    elif mark:
        assert status == 2
        assert "journal.db-wal is missing. Copy both files, or use" in said.err
    else:
        assert "has no journal.db-wal beside it, and ends at event" in said.err
        assert "door-gateway journal export" in said.err


async def test_replay_reads_what_journal_export_wrote(
    day: Paper, kept: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "export.jsonl"
    async with Journal(tmp_path / "journal.db", StillClock()) as journal:
        for event in day.events:
            ticket = journal.append(event)
        await ticket.committed
        header = Header(2, "LON", "lon-1", journal.stream, 0, "00")
        written = [header_line(header)]
        while rows := await journal.proof_after(len(written) - 1):
            written += [event_line(*row) for row in rows]
    file.write_bytes(b"".join([*written, seal_line(b"seal")]))
    assert main(["replay", str(file), "--records", f"r1={kept}", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["taps"], told["differences"], told["warning"]) == (len(taps(day)), [], None)
