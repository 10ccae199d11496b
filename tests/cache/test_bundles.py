"""Signed bundles put in force: whole or not at all, and never below what was."""

import json
import shutil
import sqlite3
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import cbor2
import lmdb
import pytest

from gateway.cache import Applied, Cache
from gateway.cache.floor import Floor, read_floor
from gateway.cache.incoming import Incoming
from gateway.cache.key import read_key
from gateway.cache.sealed import CHAIN_MAX
from gateway.domain.canonical import bucket_of
from gateway.domain.entitlements import RecordSet
from gateway.domain.record_faults import parse_records
from gateway.errors import RecordsRefused, StorageError
from gateway.statedir import StateDir
from gateway.trust.bundle import check_manifest
from gateway.trust.cose import encode
from gateway.trust.making import Key, Made, delta, digest_of, repair, snapshot
from gateway.trust.rules import BreaksRule
from tests.cache.conftest import CARD, NAME, NOON, PIN, records
from tests.cache.in_one_process import NO_CHILD, InOneProcess
from tests.trust.bundles import DIGEST_KEY, GATEWAY, about, canonical_set, document_of, with_records
from tests.trust.keyring import NOON_S, NOW, root

FIRST = canonical_set(records(6))


@pytest.fixture
def state(tmp_path: Path) -> Iterator[Path]:
    with StateDir(tmp_path / "state") as state:
        yield state.path


async def opened(state: Path, key_file: Path, *launcher: str) -> Cache:
    cache = InOneProcess(state, key_file, "LON", signed=True, launcher=launcher)
    await cache.open()
    return cache


async def take(cache: Cache, made: Made, *names: str, at: datetime = NOON) -> Applied:
    """As the core takes a bundle that came whole."""
    document = document_of(made, *names)
    signed = check_manifest(
        document, root(), cache.held, gateway=GATEWAY, now=NOW, disk_free=1 << 30
    )
    chunks = [chunk.sha256 for chunk in signed.manifest.chunks]
    cache.incoming.begin(document, chunks)
    for sha256, data in zip(chunks, made.chunks, strict=True):
        cache.incoming.put(sha256, data)
    return await cache.apply_bundle(signed, made.payload, at)


def files(state: Path) -> list[Path]:
    return [path for path in state.rglob("*") if path.is_file()]


def line(record_type: str, name: str, **members: object) -> bytes:
    return json.dumps({"type": record_type, "id": name, **members}).encode()


def holder(name: str, status: str = "active") -> bytes:
    groups = ["LON | MEMBERS | LOUNGE | 24x7"]
    return line("holder", name, persona="member", status=status, groups=groups)


def card(name: str, of: str, value: str, status: str = "active", kind: str = "uid") -> bytes:
    return line("credential", name, holder=of, kind=kind, value=value, status=status)


def booking(name: str, *holders: str) -> bytes:
    start, end = "2026-05-04T11:00:00Z", "2026-05-04T13:00:00Z"
    zones: list[str] = ["lounge"]
    return line("booking", name, holders=list(holders), zones=zones, doors=[], start=start, end=end)


def without(was: Mapping[Key, bytes], *gone: Key) -> dict[Key, bytes]:
    return {key: each for key, each in was.items() if key not in gone}


def contents(state: Path, revision: str) -> dict[bytes, bytes]:
    """Every entry of a compiled table but what it says of itself."""
    path = state / f"entitlements-{revision}.mdb"
    with lmdb.open(str(path), subdir=False, readonly=True, lock=False) as table, table.begin() as t:
        return {bytes(key): bytes(value) for key, value in t.cursor() if key != b"m"}


async def test_a_signed_snapshot_is_put_in_force_by_its_number(state: Path, key_file: Path) -> None:
    cache = await opened(state, key_file)
    digest = digest_of(FIRST, DIGEST_KEY).digest()
    applied = await take(cache, snapshot(FIRST, about(41)))
    assert applied.revision == f"41-{digest.hex()[:12]}"
    assert cache.held.in_force == cache.held.highest == (41, digest)
    assert cache.counts["holder"] == 6
    assert cache.ways_in == {"front": 6}
    assert cache.current is not None
    found = cache.current.find("uid", CARD)
    assert found is not None
    assert found.holder == "h-0"
    again = await opened(state, key_file, NO_CHILD)
    assert (again.held, again.revision) == (cache.held, applied.revision)
    assert (await cache.audit()).digest == digest.hex()


async def test_nothing_secret_of_a_bundle_lies_on_the_disk(state: Path, key_file: Path) -> None:
    cache = await opened(state, key_file)
    await take(cache, snapshot(FIRST, about(1)))
    changed = with_records(FIRST, card("extra", "h-1", "04AAAAAAAAAAAA"))
    await take(cache, delta(FIRST, changed, about(2), 1))
    assert (state / "incoming").is_dir()
    canaries = [CARD.encode(), bytes.fromhex(CARD), PIN.encode(), NAME.encode(), b"04AAAAAAAAAAAA"]
    canaries += [DIGEST_KEY, DIGEST_KEY.hex().encode()]
    for path in files(state):
        content = path.read_bytes().lower()
        assert not [each for each in canaries if each.lower() in content], path


# Each changes the set before it; what is tied to what is the point.
STEPS: dict[str, dict[Key, bytes]] = {}
_now = dict(FIRST)


def _step(name: str, changed: dict[Key, bytes]) -> None:
    global _now  # noqa: PLW0603 - a chain of sets
    STEPS[name] = _now = changed


_step("a holder is suspended", with_records(_now, holder("h-1", "suspended")))
_step("a new holder with a card", with_records(_now, holder("h-9"), card("c-9", "h-9", "0" * 14)))
_step("a booking for two", with_records(_now, booking("b-2", "h-2", "h-3")))
_step("a card is lost", with_records(_now, card("card-2", "h-2", f"{2:014X}", "returned")))
_step("it is given to another", with_records(_now, card("card-2b", "h-4", f"{2:014X}")))
_step("and back", with_records(_now, card("card-2b", "h-4", f"{2:014X}", "returned")))
_step("a PIN is changed", with_records(_now, card("pin-3", "h-3", "8888", kind="pin")))
_step("a PIN goes", without(_now, ("credential", "pin-4")))
_step(
    "a holder is deleted, out of a booking too",
    with_records(
        without(_now, ("holder", "h-2"), *(("credential", f"{n}-2") for n in ("card", "pin"))),
        booking("b-2", "h-3"),
    ),
)
_step("a booking ends up with nobody", with_records(_now, booking("b-2")))
_step("a booking goes", without(_now, ("booking", "b-2")))
_step("a zone comes", with_records(_now, line("zone", "attic", category="member")))
_step("nothing but the revision", dict(_now))


async def test_deltas_lead_to_the_table_that_a_snapshot_leads_to(
    state: Path, key_file: Path, tmp_path: Path
) -> None:
    cache = await opened(state, key_file)
    await take(cache, snapshot(FIRST, about(1)))
    with StateDir(tmp_path / "other") as other:
        second = await opened(other.path, key_file)
        (other.path / "floor-revision").unlink(missing_ok=True)
        was = FIRST
        for number, (name, now) in enumerate(STEPS.items(), 2):
            by_delta = await take(cache, delta(was, now, about(number), number - 1), *TWO)
            whole = await take(second, snapshot(now, about(number)), *TWO)
            assert by_delta.revision == whole.revision, name
            assert by_delta.counts == whole.counts, name
            assert cache.ways_in == second.ways_in, name
            assert by_delta.codes_per_pin == whole.codes_per_pin, name
            assert contents(state, whole.revision) == contents(other.path, whole.revision), name
            assert (await cache.audit()).damaged == 0
            was = now
    expected = RecordSet(parse_records(was.values()).records)
    assert cache.current is not None
    assert cache.current.tables == expected.tables
    assert cache.current.holding("h-3").bookings == ()


TWO = ("bundle-1", "bundle-2")


async def test_what_deltas_made_can_be_built_again_from_what_is_kept(
    state: Path, key_file: Path
) -> None:
    cache = await opened(state, key_file)
    await take(cache, snapshot(FIRST, about(1)))
    was = FIRST
    for number in range(2, CHAIN_MAX + 6):
        now = with_records(was, holder("h-1", ("active", "suspended")[number % 2]))
        await take(cache, delta(was, now, about(number), number - 1))
        was = now
    kept = {path.name for path in (state / "bundles").iterdir()}
    assert len([name for name in kept if name.endswith(".jsonl")]) <= 2
    assert len(kept) <= CHAIN_MAX + 2
    (state / "cache.db").unlink()
    (state / f"entitlements-{cache.revision}.mdb").unlink()
    again = await opened(state, key_file)
    assert again.held == cache.held
    assert again.current is not None
    assert again.current.holding("h-1").holder.status == ("active", "suspended")[number % 2]
    await take(again, delta(was, FIRST, about(number + 1), number))


@pytest.mark.parametrize(
    ("rule", "made"),
    [
        ("digest", snapshot(FIRST, about(2))._replace(payload=b"")),
        ("digest", None),
    ],
)
async def test_a_set_with_another_digest_is_refused(
    state: Path, key_file: Path, rule: str, made: Made | None
) -> None:
    cache = await opened(state, key_file)
    await take(cache, snapshot(FIRST, about(1)))
    before = cache.held
    changed = with_records(FIRST, holder("h-1", "suspended"))
    wrong = with_records(FIRST, holder("h-1", "ended"))
    if made is None:
        said, sent = delta(FIRST, wrong, about(2), 1), delta(FIRST, changed, about(2), 1)
    else:
        said, sent = snapshot(wrong, about(2)), snapshot(changed, about(2))
    lie = _with_chunks_of(said, sent)
    assert await refused(cache, lie) == rule
    assert cache.held == before
    assert (await opened(state, key_file, NO_CHILD)).held == before
    await take(cache, delta(FIRST, changed, about(2), 1))  # the next good one still works


def _with_chunks_of(said: Made, sent: Made) -> Made:
    members: dict[str, Any] = cbor2.loads(said.payload)
    members["chunks"] = cbor2.loads(sent.payload)["chunks"]
    return Made(encode(members), sent.chunks)


async def refused(cache: Cache, made: Made, *names: str) -> str:
    with pytest.raises(BreaksRule) as broken:
        await take(cache, made, *names)
    return str(broken.value.rule)


FAULTY = {
    "a credential of nobody": with_records(FIRST, card("x", "nobody", "0" * 14)),
    "a value in use": with_records(FIRST, card("x", "h-3", CARD)),
    "a value in use by one who is not touched": with_records(
        FIRST, holder("h-8"), card("x", "h-8", f"{4:014X}")
    ),
    "a value in no form": with_records(FIRST, card("x", "h-3", "12")),
    "a group that is not there": with_records(
        FIRST, line("holder", "h-1", persona="member", status="active", groups=["none"])
    ),
    "a booking in a zone that is not there": with_records(
        FIRST,
        line(
            "booking",
            "b-9",
            holders=["h-1"],
            zones=["moon"],
            doors=[],
            start="2026-05-04T11:00:00Z",
            end="2026-05-04T13:00:00Z",
        ),
    ),
    "a zone that is needed goes": without(FIRST, ("zone", "lounge")),
}


@pytest.mark.parametrize("what", FAULTY)
async def test_a_delta_whose_set_has_a_fault_is_refused(
    state: Path, key_file: Path, what: str
) -> None:
    cache = await opened(state, key_file)
    await take(cache, snapshot(FIRST, about(1)))
    before = cache.held
    with pytest.raises(RecordsRefused) as by_delta:
        await take(cache, delta(FIRST, FAULTY[what], about(2), 1))
    with pytest.raises(RecordsRefused) as whole:
        await take(cache, snapshot(FAULTY[what], about(2)))
    assert [fault[:3] for fault in by_delta.value.faults] == [
        fault[:3] for fault in whole.value.faults
    ]
    assert cache.held == before


MANY = canonical_set(records(80))


@pytest.mark.parametrize(
    ("what", "changed"),
    [
        ("emptied", {k: v for k, v in MANY.items() if k[0] not in ("holder", "credential")}),
        ("takes", with_records(MANY, *(holder(f"h-{n}", "ended") for n in range(60)))),
    ],
)
async def test_what_changes_too_much_needs_a_second_signature(
    state: Path, key_file: Path, what: str, changed: dict[Key, bytes]
) -> None:
    if what == "emptied":
        changed = without(changed, ("booking", "b-1"))
    cache = await opened(state, key_file)
    await take(cache, snapshot(MANY, about(1)))
    for made in (delta(MANY, changed, about(2), 1), snapshot(changed, about(2))):
        assert await refused(cache, made) == "impact"
        assert await refused(cache, made, "bundle-1", "bundle-1") == "impact"
    assert cache.held.in_force == (1, digest_of(MANY, DIGEST_KEY).digest())
    await take(cache, delta(MANY, changed, about(2), 1), *TWO)


async def test_many_small_deltas_are_weighed_against_the_whole_set(
    state: Path, key_file: Path
) -> None:
    cache = await opened(state, key_file)
    await take(cache, snapshot(MANY, about(1)))
    some = with_records(MANY, *(holder(f"h-{n}", "ended") for n in range(10)))
    await take(cache, delta(MANY, some, about(2), 1))
    assert cache.ways_in == {"front": 70}
    most = with_records(some, *(holder(f"h-{n}", "ended") for n in range(10, 70)))
    assert await refused(cache, delta(some, most, about(3), 2)) == "impact"


@pytest.mark.parametrize("begins_anew", ["two signatures", "other keys", "the day after"])
async def test_a_thief_who_takes_a_little_each_time_is_stopped_over_restarts(
    state: Path, key_file: Path, begins_anew: str
) -> None:
    fewer = [
        with_records(MANY, *(holder(f"h-{n}", "ended") for n in range(count)))
        for count in range(0, 80, 4)
    ]
    cache = await opened(state, key_file)
    await take(cache, snapshot(MANY, about(1)))
    await take(cache, delta(fewer[0], fewer[1], about(2), 1))
    await take(cache, snapshot(fewer[2], about(3)))
    cache = await opened(state, key_file)
    await take(cache, delta(fewer[2], fewer[3], about(4), 3))
    await take(cache, repair(fewer[3], about(4), [bucket_of("holder", "h-1")]))
    (state / f"entitlements-{cache.revision}.mdb").write_bytes(b"damaged")
    cache = await opened(state, key_file)
    assert cache.rebuilt is not None
    await take(cache, delta(fewer[3], fewer[4], about(5), 4))
    made = delta(fewer[4], fewer[5], about(6), 5)
    assert await refused(cache, made) == "impact"
    assert await refused(cache, snapshot(fewer[5], about(6))) == "impact"

    if begins_anew == "two signatures":
        await take(cache, made, *TWO)
    elif begins_anew == "other keys":
        await cache.raise_root(2, resets=True)
        await take(cache, made)
    else:
        await take(cache, made, at=NOON + timedelta(hours=25))
    last = delta(fewer[5], fewer[6], about(7), 6)
    await take(cache, last, at=NOON + timedelta(hours=26))


# --- The floor ------------------------------------------------------------------------------------


async def test_an_older_set_that_somebody_put_back_is_not_in_force(
    state: Path, key_file: Path, tmp_path: Path
) -> None:
    cache = await opened(state, key_file)
    await take(cache, snapshot(FIRST, about(1)))
    shutil.copytree(state, tmp_path / "old")
    changed = with_records(FIRST, holder("h-0", "ended"))
    await take(cache, snapshot(changed, about(2)))
    shutil.copy(state / "floor-revision", tmp_path / "old" / "floor-revision")
    again = await opened(tmp_path / "old", key_file)
    assert (again.current, again.revision) == (None, None)
    assert again.rebuilt is not None
    assert "below" in again.rebuilt.why
    assert again.held.highest == cache.held.highest
    assert await refused(again, snapshot(FIRST, about(1))) == "rollback"
    await take(again, snapshot(changed, about(2)))


@pytest.mark.parametrize("lost", ["deleted", "damaged", "another key's"])
async def test_a_lost_floor_is_the_pointers(state: Path, key_file: Path, lost: str) -> None:
    cache = await opened(state, key_file)
    await take(cache, snapshot(FIRST, about(5)))
    floor = state / "floor-revision"
    if lost == "deleted":
        floor.unlink()
    else:
        floor.write_bytes(floor.read_bytes().replace(b'"revision":5', b'"revision":1'))
    again = await opened(state, key_file, NO_CHILD)
    assert again.floor_lost
    assert await refused(again, snapshot(FIRST, about(4))) == "rollback"
    kept = read_floor(floor, read_key(key_file))
    assert kept is not None
    assert kept.revision == 5
    assert not (await opened(state, key_file, NO_CHILD)).floor_lost


async def test_a_lost_pointer_and_cache_leave_the_floor(state: Path, key_file: Path) -> None:
    cache = await opened(state, key_file)
    await take(cache, snapshot(FIRST, about(5)))
    for path in files(state):
        if path.name != "floor-revision":
            path.unlink()
    again = await opened(state, key_file)
    assert again.current is None
    assert await refused(again, snapshot(FIRST, about(4))) == "rollback"
    await take(again, snapshot(FIRST, about(5)))


async def test_a_set_that_nobody_signed_is_not_in_force_once_a_signed_one_was(
    state: Path, key_file: Path
) -> None:
    cache = await opened(state, key_file)
    await cache.apply(records(6), NOON)
    assert (await opened(state, key_file, NO_CHILD)).revision == cache.revision
    await take(cache, snapshot(FIRST, about(1)), *TWO)
    floor = (state / "floor-revision").read_bytes()
    unsigned = Cache(state, key_file, "LON")
    await unsigned.open()
    await unsigned.apply(records(5), NOON)
    (state / "floor-revision").write_bytes(floor)
    assert (await opened(state, key_file)).revision in (None, cache.revision)


async def test_after_a_stolen_key_raised_the_revision_a_root_resets_it(
    state: Path, key_file: Path
) -> None:
    cache = await opened(state, key_file)
    await take(cache, snapshot(FIRST, about(2**53 - 1, made=NOON_S)))
    await cache.raise_root(2, resets=False)
    assert await refused(cache, snapshot(FIRST, about(7))) == "rollback"
    await cache.raise_root(3, resets=True)
    cache = await opened(state, key_file, NO_CHILD)
    assert cache.root_floor == 3
    assert cache.revision is not None  # until it comes, what is in force stays
    cache = await opened(state, key_file)
    await take(cache, snapshot(FIRST, about(7)))
    assert await refused(cache, snapshot(FIRST, about(6))) == "rollback"  # once
    again = await opened(state, key_file, NO_CHILD)
    assert again.held.highest == again.held.in_force == cache.held.in_force
    await again.raise_root(3, resets=True)
    assert again.held.highest is not None


async def test_new_keys_set_the_age_of_the_records_right_once(state: Path, key_file: Path) -> None:
    cache = await opened(state, key_file)
    await take(cache, snapshot(FIRST, about(1)))
    await cache.vouch(NOON + timedelta(days=300))
    await cache.raise_root(2, resets=False)
    assert cache.untimed_root is None
    await cache.raise_root(3, resets=False, retimes=True)
    cache = await opened(state, key_file, NO_CHILD)
    assert cache.untimed_root == 3
    assert cache.as_of == NOON + timedelta(days=300)
    await cache.retimed(NOON)
    cache = await opened(state, key_file, NO_CHILD)
    await cache.raise_root(3, resets=False, retimes=True)  # as every start does
    assert (cache.untimed_root, cache.as_of, cache.root_floor) == (None, NOON, 3)
    await cache.retimed(NOON + timedelta(days=1))
    assert cache.as_of == NOON, "it is no beacon that vouches"


def test_a_floor_never_falls() -> None:
    floor = Floor().taken(0, 5, "aa")
    assert floor.taken(0, 4, "bb") == floor == floor.rooted(1, resets=False)
    waiting = floor.rooted(2, resets=True)
    assert waiting.taken(0, 9, "cc") == waiting
    assert waiting.allows(0, 5)
    assert not waiting.allows(0, 4)
    assert waiting.allows(2, 1)
    taken = waiting.taken(2, 1, "dd")
    assert (taken.revision, taken.waiting) == (1, False)
    assert not taken.allows(0, 5)


# --- Parity ---------------------------------------------------------------------------------------


SPOIL = """
    UPDATE record SET line = CAST(replace(line, 'active', 'ending') AS BLOB) WHERE id = 'h-1'
"""


async def test_drift_is_found_in_its_bucket_and_repaired(state: Path, key_file: Path) -> None:
    cache = await opened(state, key_file)
    await take(cache, snapshot(FIRST, about(1)))
    assert cache.held.in_force is not None
    with sqlite3.connect(state / "cache.db") as rows:
        rows.execute(SPOIL)
        rows.execute("DELETE FROM record WHERE id = 'card-2'")
    rows.close()
    found = await cache.audit()
    assert found.damaged == 1
    good = digest_of(FIRST, DIGEST_KEY).buckets()
    hashes = [found.buckets[64 * n : 64 * n + 64] for n in range(256)]
    differ = [n for n in range(256) if good[n].hex() != hashes[n]]
    assert differ == sorted({bucket_of("holder", "h-1"), bucket_of("credential", "card-2")})
    assert await refused(cache, repair(FIRST, about(1), differ[:1])) == "digest"
    await take(cache, repair(FIRST, about(1), differ))
    mended = await cache.audit()
    assert (mended.damaged, mended.digest) == (0, cache.held.in_force.digest.hex())
    assert (await opened(state, key_file, NO_CHILD)).held == cache.held


async def test_a_delta_over_damage_is_made_from_the_set_that_is_kept(
    state: Path, key_file: Path
) -> None:
    cache = await opened(state, key_file)
    await take(cache, snapshot(FIRST, about(1)))
    with sqlite3.connect(state / "cache.db") as rows:
        rows.execute(SPOIL)
    rows.close()
    now = with_records(FIRST, card("x", "h-1", "0" * 14))
    await take(cache, delta(FIRST, now, about(2), 1))
    assert (await cache.audit()).damaged == 0
    assert cache.current is not None
    assert cache.current.holding("h-1").holder.status == "active"
    (state / f"entitlements-{cache.revision}.mdb").write_bytes(b"junk")
    later = with_records(now, card("y", "h-1", "1" * 14))
    await take(cache, delta(now, later, about(3), 2))
    assert cache.current.find("uid", "0" * 14) is not None


async def test_a_row_that_finds_a_denial_is_lost_and_the_denial_is_not(
    state: Path, key_file: Path
) -> None:
    denial = line(
        "exception",
        "e-1",
        holder="h-1",
        effect="deny",
        zones=["lounge"],
        doors=[],
        until="2026-06-01T00:00:00Z",
        reason="r",
        issued_by="i",
        **{"from": "2026-05-01T00:00:00Z"},
    )
    first = with_records(FIRST, denial)
    cache = await opened(state, key_file)
    await take(cache, snapshot(first, about(1)))
    with sqlite3.connect(state / "cache.db") as rows:
        rows.execute("DELETE FROM part WHERE id = 'e-1'")
    rows.close()
    now = with_records(first, card("x", "h-1", "0" * 14))
    await take(cache, delta(first, now, about(2), 1))
    assert cache.current is not None
    assert [each.id for each in cache.current.holding("h-1").exceptions] == ["e-1"]


# --- What is coming in ----------------------------------------------------------------------------


def test_chunks_are_kept_until_another_bundle_comes(tmp_path: Path, key_file: Path) -> None:
    incoming = Incoming(tmp_path / "incoming", read_key(key_file))
    assert incoming.document() is None
    one, two, three = (bytes([n]) * 32 for n in range(3))
    incoming.begin(b"first", [one, two])
    incoming.put(one, b"chunk")
    again = Incoming(tmp_path / "incoming", read_key(key_file))
    assert (again.document(), again.chunk(one)) == (b"first", b"chunk")
    assert again.missing([one, two]) == [two]
    with pytest.raises(StorageError):
        again.chunk(two)
    again.begin(b"second", [one, three])
    assert again.missing([one, three]) == [three]
    again.begin(b"third", [three])
    assert again.missing([one]) == [one]
    (tmp_path / "incoming" / "manifest").write_bytes(b"damaged")
    assert again.document() is None
    again.clear()
    assert not list((tmp_path / "incoming").iterdir())
