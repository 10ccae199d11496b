"""A journal exported from a core, verified by somebody with the public key, and erased in part."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import get_args

import msgspec
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from gateway.cli import main
from gateway.config.site import SiteTable
from gateway.domain import events
from gateway.domain.detection import Detector
from gateway.errors import StorageError
from gateway.ipc.messages import Erased, Events, ExportHead, Proof, Sealed, Status
from gateway.journal import Journal
from gateway.processes.evidence import Evidence
from gateway.trust.keys import read_private_key
from tests.ipc.memory import MemoryCore
from tests.journal.conftest import EPOCH, StillClock, closed
from tests.link.rig import core_on

SITE = SiteTable(id="LON", gateway="lon-1")


class EvidenceCore(MemoryCore):
    """A core with a journal on disk and nothing else."""

    def __init__(self, directory: Path) -> None:
        super().__init__()
        clock = StillClock()
        self.evidence = Evidence(SITE, directory, {}, lambda: self.journal, clock)
        self.journal = Journal(directory / "journal.db", clock, self.evidence.sign)

    async def export_head(self) -> ExportHead:
        return await self.evidence.export_head()

    async def proof_after(self, after: int, limit: int) -> Proof:
        return await self.evidence.proof_after(after, limit)

    async def seal(self, after: int, seq: int) -> Sealed:
        return await self.evidence.seal(after, seq)

    async def erase(self, holder: str, by: str, why: str) -> Erased:
        return await self.evidence.erase(holder, by, why)

    async def events_after(self, after: int, limit: int) -> Events:
        raw = await self.journal.raw_after(after, limit)
        bodies = [each.body for each in raw]
        return Events(stream=self.journal.stream, first_seq=after + 1, bodies=bodies)

    async def status(self) -> Status:
        return msgspec.structs.replace(
            await super().status(),
            public_key=self.evidence.public_key,
            last_seq=self.journal.last_committed,
        )


def access(holder: str, number: int) -> events.AccessDecided:
    return events.AccessDecided(
        at=EPOCH, trust=2, door="street", side="in", device="r", kinds=("uid",), outcome="grant",
        reason="group", holder=holder, via=f"g-{number}",
    )  # fmt: skip


@asynccontextmanager
async def a_core(tmp_path: Path) -> AsyncIterator[EvidenceCore]:
    example = Path(__file__).parents[2] / "config" / "site.toml"
    text = example.read_text(encoding="utf-8")
    socket = tmp_path / "core.sock"
    text = text.replace("/run/door-gateway/core.sock", str(socket))
    assert str(socket) in text
    (tmp_path / "site.toml").write_text(text, encoding="utf-8")
    core = EvidenceCore(tmp_path)
    async with core.journal, core_on(socket, core):
        yield core


async def cli(*arguments: str) -> int:
    return await asyncio.to_thread(main, list(arguments))


async def test_exported_verified_and_erased(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = ("--config", str(tmp_path / "site.toml"))
    key, file = tmp_path / "key.pem", tmp_path / "out.jsonl"
    async with a_core(tmp_path) as core:
        for number in range(200):
            core.journal.append(closed(number))
            core.journal.append(access("h-anna" if number % 10 == 0 else "h-ann", number))
        await core.journal.wait_for_new(400)
        checkpoint = (await core.journal.read_after(256, 1))[0].event
        assert isinstance(checkpoint, events.Checkpoint)
        assert await cli("journal", "key", *config) == 0
        key.write_text(capsys.readouterr().out)
        assert await cli("journal", "export", str(file), *config) == 0
        assert "401 events" in capsys.readouterr().out
        verify = ("journal", "verify", str(file), "--key", str(key))
        assert await cli(*verify) == 0
        assert "sound: events 1 to 401" in capsys.readouterr().out

        # The cloud kept what it was sent; somebody cuts the file and has no key to seal it.
        cloud = tmp_path / "cloud.jsonl"
        stream = core.journal.stream
        told = [
            json.dumps({"stream": stream, "seq": raw.seq, "event": json.loads(raw.body)})
            for raw in await core.journal.raw_after(0)
        ]
        cloud.write_text("\n".join(told))
        assert await cli(*verify, "--checkpoints", str(cloud), "--json") == 0
        said = json.loads(capsys.readouterr().out)
        assert (said["checkpoints"], said["kept_elsewhere"]) == (1, 1)
        nothing = tmp_path / "nothing.jsonl"
        nothing.write_text(told[0])
        assert await cli(*verify, "--checkpoints", str(nothing)) == 2
        assert "held against nothing" in capsys.readouterr().err
        lines = file.read_bytes().splitlines(keepends=True)
        file.write_bytes(b"".join(lines[:200]))
        assert await cli(*verify, "--checkpoints", str(cloud)) == 1
        assert capsys.readouterr().out.startswith("event 200: cut: ")
        assert await cli(*verify, "--json") == 1
        assert json.loads(capsys.readouterr().out)["how"] == "cut"
        file.unlink()

        assert await cli("journal", "export", str(file), "--holder", "h-anna", *config) == 0
        assert len(file.read_bytes().splitlines()) == 20
        file.unlink()

        await core.journal.acknowledge(stream, 300)
        await core.journal.purge(EPOCH)
        erase = ("journal", "erase", "--holder", "h-anna", "--reason", "request 7", *config)
        assert await cli(*erase) == 1
        said = capsys.readouterr().out
        assert "erased in 15 events" in said
        assert "not erased in 5 events: the cloud has not acknowledged them. Erase again" in said
        assert await cli(*erase, "--json") == 1
        assert json.loads(capsys.readouterr().out)["events"] == 0
        await core.journal.wait_for_new(402)
        assert await cli("journal", "export", str(file), *config) == 0
        assert await cli(*verify) == 0
        assert "15 of them with erased parts" in capsys.readouterr().out
        assert file.read_bytes().count(b"h-anna") == 5
        assert file.read_bytes().count(b'"h-ann"') == 180
        last = (await core.journal.read_after(401))[0].event
        assert isinstance(last, events.HolderErased)
        assert (last.events, last.why) == (15, "request 7")
        assert await cli("journal", "tail", "-n", "1000", *config) == 0
        await core.journal.acknowledge(stream, 403)
        assert await cli(*erase) == 0
        assert "erased in 5 events" in capsys.readouterr().out
        assert await cli(*erase) == 1
        assert "nothing erased: no event here names h-anna" in capsys.readouterr().out
    assert b"h-anna" not in on_disk(tmp_path), "nor in a page or log that is free"


FORCED = [
    events.Duress(at=EPOCH, trust=2, door="street", outcome="grant", holder="h-anna"),
    events.Passback(at=EPOCH, trust=2, door="street", zone="lounge", holder="h-anna"),
    *Detector({}, lambda _one, _other: False)._raise(
        access("h-anna", 1), ("impossible_travel", "h-anna"), timedelta(), "one holder …", 1
    ),
]


async def test_what_was_erased_is_found_in_no_kind_of_event_and_all_are_still_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = ("--config", str(tmp_path / "site.toml"))
    async with a_core(tmp_path) as core:
        for event in FORCED:
            core.journal.append(event)
        last = await core.journal.wait_for_new(len(FORCED) - 1)
        await core.journal.acknowledge(core.journal.stream, last)
        erase = ("journal", "erase", "--holder", "h-anna", "--reason", "request 7", *config)
        assert await cli(*erase) == 0
        assert f"erased in {len(FORCED)} events" in capsys.readouterr().out
        for shown in (("tail",), ("tail", "--alarms"), *(("show", str(n)) for n in range(1, 4))):
            assert await cli("journal", *shown, *config) == 0
            told = capsys.readouterr().out
            assert told
            assert "h-anna" not in told


def test_every_event_can_be_read_without_its_personal_members() -> None:
    for kind in get_args(events.Event):
        for field in msgspec.structs.fields(kind):
            assert field.name not in events.PERSONAL or not field.required, (kind, field.name)


def on_disk(directory: Path) -> bytes:
    return b"".join(each.read_bytes() for each in directory.glob("journal.db*"))


async def test_after_a_purge_the_export_begins_at_its_anchor(tmp_path: Path) -> None:
    config = ("--config", str(tmp_path / "site.toml"))
    key, file = tmp_path / "key.pem", tmp_path / "out.jsonl"
    async with a_core(tmp_path) as core:
        for number in range(50):
            core.journal.append(closed(number))
        await core.journal.wait_for_new(49)
        await core.journal.acknowledge(core.journal.stream, 50)
        assert await core.journal.purge(closed(20).at) == 20
        assert await cli("journal", "export", str(file), *config) == 0
        head = json.loads(file.read_bytes().splitlines()[0])
        assert head["after"] == 20
        with pytest.raises(StorageError, match="not here any more"):
            await core.seal(0, 50)
    key.write_bytes(public_pem(tmp_path))
    assert await cli("journal", "verify", str(file), "--key", str(key)) == 0


def public_pem(state: Path) -> bytes:
    key = read_private_key(state / "gateway.key").public_key()
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


async def test_what_cannot_be_used_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = ("--config", str(tmp_path / "site.toml"))
    file = tmp_path / "there"
    file.write_bytes(b"kept")
    no_pem = tmp_path / "no.pem"
    no_pem.write_text("-----")
    async with a_core(tmp_path) as core:
        core.journal.append(closed(1))
        assert await cli("journal", "export", str(file), *config) == 2
        assert file.read_bytes() == b"kept"
        for key in (tmp_path / "missing", no_pem):
            assert await cli("journal", "verify", str(file), "--key", str(key)) == 2
        assert "no public key in PEM" in capsys.readouterr().err
        core.evidence._key = None
        assert await cli("journal", "key", *config) == 2
        assert await cli("journal", "export", str(tmp_path / "new"), *config) == 2
        assert not (tmp_path / "new").exists()
        assert core.evidence.sign(await core.journal.anchor()) is None


def test_without_a_place_for_its_key_the_gateway_decides_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "gateway.key").mkdir()

    def journal() -> Journal:
        raise AssertionError

    assert Evidence(SITE, tmp_path, {}, journal, StillClock()).public_key is None


def test_a_key_that_systemd_hands_over_comes_first(tmp_path: Path) -> None:
    def journal() -> Journal:
        raise AssertionError

    handed = tmp_path / "credentials"
    handed.mkdir()
    first = Evidence(SITE, handed, {}, journal, StillClock()).public_key
    environment = {"CREDENTIALS_DIRECTORY": str(handed)}
    assert Evidence(SITE, tmp_path, environment, journal, StillClock()).public_key == first
    assert not (tmp_path / "gateway.key").exists()


RECORDS = """\
{"type":"site","id":"SOF","timezone":"Europe/Sofia"}
{"type":"policy","id":"policy"}
{"type":"zone","id":"lounge","category":"member"}
{"type":"zone","id":"street","category":"public"}
{"type":"door","id":"street","from_zone":"street","to_zone":"lounge"}
{"type":"group","id":"g","zones":["lounge"],"doors":[],"schedule":"timebound"}
{"type":"holder","id":"h-day","persona":"daypass","status":"active","groups":["g"]}
{"type":"credential","id":"c-day","holder":"h-day","kind":"uid","value":"04C0FFEE"}
{"type":"booking","id":"b","holders":["h-day"],"zones":["lounge"],"doors":[],\
"start":"2026-05-04T09:27:00Z","end":"2026-05-04T17:00:00Z"}
"""


async def test_events_are_shown_filtered_and_a_decision_in_the_members_words(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = ("--config", str(tmp_path / "site.toml"))
    records = tmp_path / "records.jsonl"
    records.write_text(RECORDS, encoding="utf-8")
    early = events.AccessDecided(
        at=EPOCH, trust=2, door="street", side="in", device="r", kinds=("uid",), outcome="deny",
        reason="booking_not_started", holder="h-day", credential="c-day",
    )  # fmt: skip
    async with a_core(tmp_path) as core:
        for number in range(5):
            core.journal.append(closed(number))
        core.journal.append(early)
        core.journal.append(events.ForcedOpen(at=EPOCH, trust=2, door="street"))
        await core.journal.append(closed(9)).committed

        async def tail(*more: str) -> list[str]:
            assert await cli("journal", "tail", *more, *config) == 0
            return capsys.readouterr().out.splitlines()

        assert len(await tail()) == 8
        forced, closing = await tail("-n", "2")
        assert " forced open " in forced
        assert " closed " in closing
        assert len(await tail("--code", "closed", "-n", "3")) == 3
        assert len(await tail("--holder", "h-day")) == 1
        assert len(await tail("--door", "street", "--outcome", "deny")) == 1
        (alarm,) = await tail("--alarms", "--json")
        assert json.loads(alarm)["event"]["code"] == "forced_open"

        assert await cli("journal", "show", "6", *config) == 0
        assert capsys.readouterr().out.endswith("Your booking has not started yet.\n")
        show = ("journal", "show", "6", "--records", str(records), *config)
        assert await cli(*show) == 0
        said = capsys.readouterr().out
        assert said.endswith("Your day pass starts at 12:12; you are 12 minutes early.\n")
        assert await cli(*show, "--language", "de") == 0
        said = capsys.readouterr().out
        assert said.endswith("Ihr Tagespass beginnt um 12:12; Sie sind 12 Minuten zu früh.\n")
        assert await cli("journal", "show", "7", *config) == 0
        assert await cli("journal", "show", "99", *config) == 2
        assert "event 99 is not here" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (("show", "9" * 30), "no event's number"),
        (("show", "0"), "no event's number"),
        (("tail", "--code", "acess"), "did you mean access?"),
        (("erase", "--holder", "h", "--reason", "r"), "has 1 character. Give a reason"),
    ],
)
def test_what_can_not_be_meant_is_refused_before_the_core_is_asked(
    wrong: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["journal", *wrong])
    assert ended.value.code == 2
    assert said in capsys.readouterr().err
