"""Bundles and roots as they come over a link that nobody has to trust."""

import asyncio
import random
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import cbor2
import msgspec
import pytest
import structlog

from gateway.cache import Applied
from gateway.cache.outcome import Audited
from gateway.clock import TimeTrust
from gateway.config.site import SiteTable
from gateway.errors import RecordsRefused
from gateway.processes.sync import (
    ANSWER_EVERY,
    DOCUMENTS_AT_ONCE,
    EARLY_BYTES_MAX,
    EARLY_CHUNKS_MAX,
    EARLY_FOR,
    Sync,
    Told,
)
from gateway.statedir import StateDir
from gateway.trust.bundle import CHUNK_BYTES_MAX
from gateway.trust.cose import verify1
from gateway.trust.making import Made, delta, digest_of, repair, snapshot
from gateway.trust.parity import PARITY_CONTEXT
from gateway.trust.root import Roots
from gateway.trust.rules import BreaksRule
from tests import virtual
from tests.cache.conftest import CARD, records
from tests.cache.in_one_process import InOneProcess
from tests.cache.test_bundles import SPOIL, card, holder
from tests.link.rig import until
from tests.trust.bundles import (
    DIGEST_KEY,
    GATEWAY,
    about,
    canonical_set,
    document_of,
    file_of,
    with_records,
)
from tests.trust.keyring import (
    NOON,
    NOON_S,
    ROLE_KEYS,
    document,
    key,
    kid,
    root,
    root_document,
    root_payload,
)

FIRST = canonical_set(records(6))
SECOND = with_records(FIRST, holder("h-1", "suspended"))
MANY = canonical_set(records(5000))


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    path = tmp_path / "credential.key"
    path.write_bytes(bytes(32))
    path.chmod(0o400)
    return path


class SetClock:
    def __init__(self) -> None:
        self.at = NOON
        self.level = TimeTrust.T2
        self.mono = timedelta(hours=1)

    def now(self) -> datetime:
        return self.at

    def monotonic(self) -> timedelta:
        return self.mono

    def trust(self) -> TimeTrust:
        return self.level


class Box:
    """A gateway's half of the wire, with what it said."""

    def __init__(self, state: Path, key_file: Path) -> None:
        self.clock = SetClock()
        self.cache = InOneProcess(state, key_file, "LON", signed=True)
        self.roots = Roots(root(), state / "roots")
        self.said: list[tuple[str, bytes]] = []
        self.applied: list[Applied] = []
        self.cards = b""
        self.refused: list[BreaksRule | RecordsRefused] = []
        self.nonces = (bytes([n]) * 16 for n in range(256))
        self.floor: datetime | None = None
        self.sync = Sync(
            SiteTable(id="LON", gateway=GATEWAY),
            cache=self.cache,
            roots=self.roots,
            clock=self.clock,
            key=key("gateway"),
            state=state,
            floor=lambda: self.floor,
            told=Told(
                lambda topic, payload: self.said.append((topic, payload)),
                self.applied.append,
                self.take_cards,
                self.refused.append,
                lambda: next(self.nonces),
            ),
        )

    async def take_cards(self, lines: bytes) -> None:
        self.cards += lines

    @property
    def rules(self) -> list[str]:
        return [str(each.rule) for each in self.refused if isinstance(each, BreaksRule)]

    @property
    def number(self) -> int | None:
        found = self.cache.held.in_force
        return found and found.number

    def need(self) -> dict[str, Any]:
        """The last question."""
        asked = [payload for topic, payload in self.said if topic == "sync/need"]
        return msgspec.json.decode(asked[-1], type=dict[str, Any])

    def needs(self) -> int:
        """How many questions there were."""
        return [topic for topic, _ in self.said].count("sync/need")

    def parity(self) -> dict[str, Any]:
        """The last report, its signature checked."""
        sealed = [payload for topic, payload in self.said if topic == "parity"][-1]
        keys = {kid("gateway"): key("gateway").public_key()}
        found: dict[str, Any] = cbor2.loads(verify1(sealed, keys, context=PARITY_CONTEXT).payload)
        return found

    async def send(self, made: Made, *names: str) -> None:
        """Everything of a bundle, as the cloud would."""
        said = len(self.said)
        self.sync.document(document_of(made, *names))
        await until(lambda: "sync/need" in [topic for topic, _ in self.said[said:]])
        for chunk in made.chunks:
            await self.sync.chunk(chunk)


@pytest.fixture
def state(tmp_path: Path) -> Iterator[Path]:
    with StateDir(tmp_path / "state") as state:
        yield state.path


@asynccontextmanager
async def running(state: Path, key_file: Path) -> AsyncIterator[Box]:
    box = Box(state, key_file)
    await box.cache.open()
    box.roots.open()
    await box.sync.open()
    box.sync.refresh()
    task = asyncio.create_task(box.sync.run())
    try:
        yield box
        assert not task.done(), task
    finally:
        task.cancel()
        await asyncio.wait({task})


async def test_a_bundle_that_comes_in_pieces_is_put_in_force(state: Path, key_file: Path) -> None:
    async with running(state, key_file) as box:
        assert box.need() == {"v": 1, "revision": None, "digest": None, "chunks": [], "root": 1}
        for _ in range(100):
            box.sync.refresh()
        assert box.needs() == 1
        box.clock.mono += timedelta(seconds=2)
        box.sync.refresh()
        assert box.needs() == 2
        await box.send(snapshot(FIRST, about(1)))
        await until(lambda: box.number == 1)
        assert box.need()["chunks"]
        await box.send(delta(FIRST, SECOND, about(2), 1))
        await until(lambda: len(box.applied) == 2)
        assert [each.revision.split("-")[0] for each in box.applied] == ["1", "2"]
        assert not box.refused
        assert box.cards.count(CARD.encode()) == 1
        assert not list((state / "incoming").iterdir())


async def test_disorder_and_duplicates_do_no_harm_and_a_restart_goes_on(
    state: Path, key_file: Path
) -> None:
    made = snapshot(MANY, about(3))
    assert len(made.chunks) > 1
    async with running(state, key_file) as box:
        box.sync.document(document_of(made))
        await until(lambda: len(box.need()["chunks"]) == len(made.chunks))
        await box.sync.chunk(made.chunks[-1])
        await box.sync.chunk(made.chunks[-1])
        box.sync.document(document_of(made))
        box.sync.document(document_of(snapshot(FIRST, about(2))))  # late: a newer one is under way
        await asyncio.sleep(0)
        assert box.number is None
    async with running(state, key_file) as box:
        assert len(box.need()["chunks"]) == len(made.chunks) - 1
        for chunk in reversed(made.chunks[:-1]):
            await box.sync.chunk(chunk)
        await until(lambda: box.number == 3)
        box.sync.document(document_of(made))  # once more
        box.sync.document(document_of(snapshot(FIRST, about(2))))
        await until(lambda: box.rules == ["rollback"])
        assert box.number == 3


async def test_chunks_that_come_before_their_document_was_looked_at_are_kept(
    state: Path, key_file: Path
) -> None:
    made = snapshot(MANY, about(3))
    async with running(state, key_file) as box:
        await box.sync.chunk(b"somebody else's")
        for chunk in reversed(made.chunks):
            await box.sync.chunk(chunk)
        needs = box.needs()
        box.sync.document(document_of(made))
        await until(lambda: box.number == 3)
        assert box.needs() == needs  # nothing had to be asked for
        # As a publisher sends: the document, and the chunks with no time in between.
        later = snapshot(MANY, about(4))
        box.sync.document(document_of(later))
        for chunk in later.chunks:
            await box.sync.chunk(chunk)
        await until(lambda: box.number == 4)
        assert box.needs() == needs


async def test_early_chunks_are_bounded_in_number_bytes_and_time(
    state: Path, key_file: Path
) -> None:
    async with running(state, key_file) as box:
        early = box.sync._early
        await box.sync.chunk(bytes(CHUNK_BYTES_MAX + 1))
        assert not early
        for number in range(2 * EARLY_CHUNKS_MAX):
            await box.sync.chunk(bytes([number]))
        assert [each for _, each in early] == [
            bytes([number]) for number in range(EARLY_CHUNKS_MAX, 2 * EARLY_CHUNKS_MAX)
        ]
        for _ in range(2 * EARLY_BYTES_MAX // CHUNK_BYTES_MAX):
            await box.sync.chunk(bytes(CHUNK_BYTES_MAX))
        assert sum(len(each) for _, each in early) == EARLY_BYTES_MAX
        box.clock.mono += EARLY_FOR + timedelta(seconds=1)
        await box.sync.chunk(b"new")
        assert [each for _, each in early] == [b"new"]
        assert not list((state / "incoming").glob("*"))


@pytest.mark.parametrize("left", [b"", b"a part"], ids=["nothing", "a part"])
async def test_what_a_power_cut_spoilt_on_its_way_in_is_asked_for_again(
    state: Path, key_file: Path, left: bytes
) -> None:
    made = snapshot(MANY, about(3))
    async with running(state, key_file) as box:
        box.sync.document(document_of(made))
        await until(lambda: len(box.need()["chunks"]) == len(made.chunks))
        await box.sync.chunk(made.chunks[0])
    chunk = next(path for path in (state / "incoming").iterdir() if path.name != "manifest")
    chunk.write_bytes(left)
    async with running(state, key_file) as box:
        for each in made.chunks[1:]:
            await box.sync.chunk(each)
        await until(lambda: not list((state / "incoming").iterdir()))
        assert box.number is None
        box.sync.document(document_of(made))  # as the cloud answers a report that lags behind
        await until(lambda: len(box.need()["chunks"]) == len(made.chunks))
        for each in made.chunks:
            await box.sync.chunk(each)
        await until(lambda: box.number == 3)


async def test_what_is_missing_is_asked_for_again(state: Path, key_file: Path) -> None:
    async with running(state, key_file) as box:
        await box.send(snapshot(FIRST, about(1)))
        await until(lambda: box.number == 1)
        box.sync.document(document_of(delta(SECOND, FIRST, about(3), 2)))
        await until(lambda: box.need()["revision"] == 1)
        digest = digest_of(FIRST, DIGEST_KEY).digest().hex()
        assert box.need() == {"v": 1, "revision": 1, "digest": digest, "chunks": [], "root": 1}
        assert not box.refused
        box.sync.document(document_of(snapshot(MANY, about(4)), "bundle-1", "bundle-2"))
        await until(lambda: box.need()["chunks"])


async def test_that_a_large_change_waits_for_a_second_signature_is_a_problem_until_one_is_taken(
    state: Path, key_file: Path
) -> None:
    async with running(state, key_file) as box:
        await box.send(snapshot(canonical_set(records(100)), about(1)))
        await until(lambda: box.number == 1)
        await box.send(snapshot(FIRST, about(2)))
        await until(lambda: box.rules == ["impact"])
        (problem,) = box.sync.problems()
        assert problem.startswith("new records are refused: ")
        assert "second signature" in problem
        await box.send(snapshot(FIRST, about(2)), "bundle-1", "bundle-2")
        await until(lambda: box.number == 2 and not box.sync.problems())


async def test_a_hostile_link_changes_nothing_but_counts(state: Path, key_file: Path) -> None:
    chance = random.Random(5)
    good = document_of(snapshot(SECOND, about(2)))
    async with running(state, key_file) as box:
        await box.send(snapshot(FIRST, about(1)))
        await until(lambda: box.applied)
        files = {path: path.read_bytes() for path in (state / "current", state / "floor-revision")}
        for _ in range(400):
            box.clock.mono += timedelta(seconds=chance.choice((0, 1)))
            junk = bytearray(good)
            junk[chance.randrange(len(junk))] ^= 1 << chance.randrange(8)
            box.sync.document(bytes(junk[: chance.choice((None, chance.randrange(len(junk))))]))
            await box.sync.chunk(chance.randbytes(chance.randrange(300)))
            await asyncio.sleep(0.001)
        assert len(box.refused) > DOCUMENTS_AT_ONCE
        assert box.number == 1
        assert {path: path.read_bytes() for path in files} == files
        assert set(box.rules) <= {"malformed", "bad_signature", "unknown_key", "too_large"}
        box.clock.mono += timedelta(minutes=1)
        await box.send(snapshot(SECOND, about(2)))
        await until(lambda: box.number == 2)


async def test_a_flood_of_documents_is_not_looked_at(state: Path, key_file: Path) -> None:
    async with running(state, key_file) as box:
        with structlog.testing.capture_logs() as logged:
            for _ in range(1000):
                box.sync.document(b"junk")
            await until(lambda: len(box.refused) == DOCUMENTS_AT_ONCE)
        assert len(logged) == DOCUMENTS_AT_ONCE + 1, "nor does it fill the log"
        box.sync.document(b"junk")
        box.clock.mono += timedelta(seconds=1)
        box.sync.document(b"junk")
        await until(lambda: len(box.refused) == DOCUMENTS_AT_ONCE + 1)


async def test_what_came_in_a_flood_and_was_not_looked_at_is_asked_for_again(
    state: Path, key_file: Path
) -> None:
    async with running(state, key_file) as box:
        for _ in range(1000):
            box.sync.document(b"junk")
        box.sync.document(document_of(snapshot(FIRST, about(1))))
        await until(lambda: len(box.refused) == DOCUMENTS_AT_ONCE)
        asked = box.needs()
        box.clock.mono += timedelta(seconds=2)
        await until(lambda: box.needs() > asked)
        await box.send(snapshot(FIRST, about(1)))
        await until(lambda: box.number == 1)


async def test_a_set_with_faults_is_told_and_the_next_good_one_works(
    state: Path, key_file: Path
) -> None:
    async with running(state, key_file) as box:
        await box.send(snapshot(with_records(FIRST, card("x", "nobody", "0" * 14)), about(1)))
        await until(lambda: box.refused)
        assert isinstance(box.refused[0], RecordsRefused)
        assert box.number is None
        await box.send(snapshot(FIRST, about(2)))
        await until(lambda: box.number == 2)


async def test_an_untrusted_clock_expires_bundles_by_the_floor_of_time(
    state: Path, key_file: Path
) -> None:
    async with running(state, key_file) as box:
        box.clock.level = TimeTrust.T1
        box.clock.at = NOON.replace(year=NOON.year + 20)
        await box.send(snapshot(FIRST, about(1)))
        await until(lambda: box.number == 1)
        box.floor = box.clock.at
        box.sync.document(document_of(snapshot(SECOND, about(2, expires=NOON_S + 9))))
        await until(lambda: box.rules == ["root_expired"])  # and with it everything else


async def test_a_file_is_put_in_force_offline_or_refused_with_its_rule(
    state: Path, key_file: Path
) -> None:
    async with running(state, key_file) as box:
        applied = await box.sync.file(file_of(snapshot(FIRST, about(1))))
        assert applied.counts["holder"] == 6
        good = file_of(snapshot(SECOND, about(2)))
        made = snapshot(SECOND, about(2))
        for rule, bad in {
            "malformed": good[:-1],
            "chunk": file_of(Made(made.payload, [*made.chunks, b"more"])),
            "bad_signature": good.replace(b"LON", b"SOF", 1),
            "unknown_key": file_of(made, "freshness-1"),
        }.items():
            with pytest.raises(BreaksRule) as broken:
                await box.sync.file(bad)
            assert str(broken.value.rule) == rule
        swapped = Made(made.payload, [snapshot(FIRST, about(2)).chunks[0]])
        with pytest.raises(BreaksRule, match="chunk: it is not the chunk"):
            await box.sync.file(file_of(swapped))
        assert len(box.refused) == 5
        await box.sync.file(good)
        assert box.number == 2


# --- Roots ----------------------------------------------------------------------------------------

NEW_BUNDLE_KEYS = {**ROLE_KEYS, "bundle": ("fresh-1", "fresh-2")}


async def test_a_new_root_recovers_from_a_stolen_key(state: Path, key_file: Path) -> None:
    async with running(state, key_file) as box:
        await box.send(snapshot(FIRST, about(2**53 - 1, made=NOON_S)))
        await until(lambda: box.number == 2**53 - 1)
        box.sync.document(root_document(2, roles=NEW_BUNDLE_KEYS))
        await until(lambda: box.need()["root"] == 2)
        assert box.number == 2**53 - 1  # until it comes, what is in force stays
        box.sync.document(document_of(snapshot(SECOND, about(9))))
        await until(lambda: box.rules == ["unknown_key"])
    (state / "floor-revision").unlink()  # even with the floor lost
    async with running(state, key_file) as box:
        assert box.number == 2**53 - 1
        await box.send(snapshot(SECOND, about(8)), "fresh-1")
        await until(lambda: box.number == 8)
    async with running(state, key_file) as box:
        assert (box.number, box.roots.current.version) == (8, 2)
        box.sync.document(document_of(snapshot(FIRST, about(7)), "fresh-1"))
        await until(lambda: box.rules == ["rollback"])


async def test_a_root_that_may_not_succeed_is_told(state: Path, key_file: Path) -> None:
    async with running(state, key_file) as box:
        box.sync.document(document(root_payload(2), "root-1"))
        await until(lambda: box.rules == ["threshold"])
        box.sync.document(root_document(1))  # no fault: it is in force
        box.sync.document(root_document(3))  # nor this: 2 is missing
        box.sync.document(document(b"no map", "root-1"))
        await until(lambda: box.rules == ["threshold", "unknown_key"])
        assert box.roots.current.version == 1
        assert not box.sync.problems()
        box.clock.at = NOON.replace(year=NOON.year + 2)
        assert "has expired" in box.sync.problems()[0]


async def test_what_a_stolen_key_has_begun_goes_with_the_key(state: Path, key_file: Path) -> None:
    """Its revision is the highest there is, and its chunks never come."""
    async with running(state, key_file) as box:
        await box.send(snapshot(FIRST, about(1)))
        await until(lambda: box.number == 1)
        box.sync.document(document_of(snapshot(MANY, about(2**53 - 1, made=NOON_S))))
        await until(lambda: box.need()["chunks"])
        honest = {**ROLE_KEYS, "bundle": ("bundle-8",)}
        box.sync.document(root_document(2, roles=honest))
        await until(lambda: box.need()["root"] == 2)
        await until(lambda: not box.need()["chunks"])
        made = snapshot(SECOND, about(2))
        box.sync.document(document_of(made, "bundle-8"))
        await until(lambda: box.need()["chunks"])
        for chunk in made.chunks:
            await box.sync.chunk(chunk)
        await until(lambda: box.number == 2)


async def test_a_root_older_than_the_floor_lets_nothing_in(state: Path, key_file: Path) -> None:
    async with running(state, key_file) as box:
        box.sync.document(root_document(2))
        await until(lambda: box.need()["root"] == 2)
    (state / "roots" / "2.root").unlink()
    async with running(state, key_file) as box:
        assert "was in force" in box.sync.problems()[0]
        box.sync.document(document_of(snapshot(FIRST, about(1))))
        await until(lambda: box.rules == ["rollback"])
        box.sync.document(root_document(2))
        await until(lambda: box.need()["root"] == 2)
        await box.send(snapshot(FIRST, about(1)))
        await until(lambda: box.number == 1)


# --- Parity ---------------------------------------------------------------------------------------


async def test_a_report_says_what_is_enforced(state: Path, key_file: Path) -> None:
    async with running(state, key_file) as box:
        await until(lambda: any(topic == "parity" for topic, _ in box.said))
        assert (box.parity()["revision"], box.parity()["digest"]) == (None, None)
        await box.send(snapshot(FIRST, about(1)))
        await until(lambda: box.applied)
        await until(lambda: box.parity()["revision"] == 1)
        report = box.parity()
        assert len(report.pop("nonce")) == 16
        assert report == {
            "site": "LON",
            "gateway": GATEWAY,
            "at_ms": NOON_S * 1000,
            "trust": 2,
            "revision": 1,
            "digest": digest_of(FIRST, DIGEST_KEY).digest(),
            "as_of": NOON_S + 1,
            "root": 1,
            "records": box.cache.counts,
            "doors": {"front": 6},
        }


async def test_drift_is_reported_bucket_by_bucket_and_repaired(state: Path, key_file: Path) -> None:
    good = digest_of(FIRST, DIGEST_KEY)
    async with running(state, key_file) as box:
        await box.send(snapshot(FIRST, about(1)))
        await until(lambda: box.applied)
        assert await box.sync.audit()
        rows = sqlite3.connect(state / "cache.db")
        rows.execute(SPOIL)
        rows.commit()
        rows.close()
        assert not await box.sync.audit()
        assert box.parity()["digest"] != good.digest()
        assert "buckets" not in box.parity()
        box.sync.wanted(1, good.digest(), answers=True)
        said = len(box.said)
        box.sync.wanted(1, good.digest(), answers=True)
        assert len(box.said) == said  # or the two would never stop
        box.sync.wanted(1, good.digest(), answers=False)
        assert len(box.said) == said + 1
        for _ in range(100):  # the same beacon, again and again
            box.sync.wanted(1, good.digest(), answers=False)
        assert len(box.said) == said + 1
        box.clock.mono += ANSWER_EVERY
        box.sync.wanted(1, good.digest(), answers=False)
        assert len(box.said) == said + 2
        theirs = box.parity()["buckets"]
        differ = [n for n in range(256) if theirs[32 * n : 32 * n + 32] != good.buckets()[n]]
        await box.send(repair(FIRST, about(1), differ))
        await until(lambda: len(box.applied) == 2)
        assert box.parity()["digest"] == good.digest()
        assert "buckets" not in box.parity()
        assert await box.sync.audit()
        assert box.cache.current is not None
        assert box.cache.current.find("uid", CARD) is not None


def _spoil(state: Path) -> None:
    rows = sqlite3.connect(state / "cache.db")
    rows.execute(SPOIL)
    rows.commit()
    rows.close()


def test_what_somebody_changes_on_the_disk_is_told_within_a_minute(
    state: Path, key_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    audits = 0
    audit = InOneProcess.audit

    async def counted(cache: InOneProcess) -> Audited:
        nonlocal audits
        audits += 1
        return await audit(cache)

    monkeypatch.setattr(InOneProcess, "audit", counted)

    async def journey() -> None:
        async with running(state, key_file) as box:
            await box.send(snapshot(FIRST, about(1)))
            await until(lambda: box.applied)
            await asyncio.sleep(600)
            assert audits <= 1  # what is as it was is not read again and again
            assert box.sync.problems() == []
            await asyncio.to_thread(_spoil, state)
            await asyncio.sleep(60)
            assert box.parity()["digest"] != digest_of(FIRST, DIGEST_KEY).digest()
            assert box.sync.problems() == [
                "records on the disk have drifted: a repair is asked for"
            ]
            spent = audits
            await asyncio.sleep(600)
            assert audits == spent
            (state / "cache.db").write_bytes(b"no database any more")
            await asyncio.sleep(60)
            assert "the next bundle mends them" in box.sync.problems()[-1]
            await box.send(snapshot(SECOND, about(2)))
            await until(lambda: len(box.applied) == 2)
            assert box.sync.problems() == []
            assert await box.sync.audit()
            spent = audits
            await asyncio.sleep(3700)
            assert audits == spent + 1  # hourly, whatever the bytes say

    virtual.run(journey())


@pytest.mark.parametrize("signed_set", [False, True])
def test_a_start_with_untouched_rows_is_no_change_by_somebody_else(
    state: Path, key_file: Path, *, signed_set: bool
) -> None:
    told = "records on the disk were changed by somebody else"

    def count(logs: list[Any]) -> int:
        return [log["event"] for log in logs].count(told)

    async def journey() -> None:
        if signed_set:
            async with running(state, key_file) as box:
                await box.send(snapshot(FIRST, about(1)))
                await until(lambda: box.applied)
        else:
            cache = InOneProcess(state, key_file, "LON", signed=False)
            await cache.open()
            await cache.apply(records(6), NOON)
        with structlog.testing.capture_logs() as logs:
            async with running(state, key_file) as box:
                assert box.cache.current is not None
                assert (box.cache.held.in_force is not None) == signed_set
                await asyncio.sleep(600)
                assert count(logs) == 0
                # Between two looks and at one go, or a look in its midst would see two changes.
                assert not await box.cache.touched()
                _spoil(state)
                await asyncio.sleep(60)
                assert count(logs) == 1
                await asyncio.sleep(600)
                assert count(logs) == 1

    virtual.run(journey())


async def test_only_a_root_with_other_freshness_keys_lets_the_time_be_set(
    state: Path, key_file: Path
) -> None:
    async with running(state, key_file) as box:
        box.sync.document(root_document(2))
        await until(lambda: box.cache.root_floor == 2)
        seen = [box.cache.untimed_root]
        box.sync.document(root_document(3, roles={**ROLE_KEYS, "freshness": ("freshness-2",)}))
        await until(lambda: box.roots.current.version == 3)
        assert [*seen, box.cache.untimed_root] == [None, 3]
    (state / "floor-revision").unlink()
    async with running(state, key_file) as box:  # the chain of roots knows it as well
        assert box.cache.untimed_root == 3
