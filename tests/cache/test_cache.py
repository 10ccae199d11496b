import asyncio
import os
import random
import shutil
import stat
import sys
import threading
from collections.abc import Iterator
from datetime import timedelta
from io import BytesIO
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gateway.cache import Cache
from gateway.cache import cache as module
from gateway.domain.entitlements import RecordSet
from gateway.domain.record_faults import parse_records
from gateway.errors import RecordsRefused, StorageError
from gateway.sqlite import kept_aside
from gateway.statedir import StateDir, write_atomically
from tests.cache.conftest import CARD, NAME, NOON, PIN, records

NO_CHILD = ("/bin/false",)


@pytest.fixture
def state(tmp_path: Path) -> Iterator[Path]:
    with StateDir(tmp_path / "state") as state:
        yield state.path


def _files(state: Path) -> list[Path]:
    return [path for path in state.rglob("*") if path.is_file() and path.name != "lock"]


def _change_key(key_file: Path) -> None:
    key_file.chmod(0o600)
    key_file.write_bytes(os.urandom(32))


async def opened(state: Path, key_file: Path, launcher: tuple[str, ...] = ()) -> Cache:
    cache = Cache(state, key_file, "LON", launcher=launcher)
    await cache.open()
    return cache


async def test_before_the_first_set_nothing_is_in_force(state: Path, key_file: Path) -> None:
    cache = await opened(state, key_file, NO_CHILD)
    assert (cache.current, cache.revision, cache.as_of, cache.rebuilt) == (None,) * 4


async def test_the_compiled_table_answers_as_the_records_do(state: Path, key_file: Path) -> None:
    cache = await opened(state, key_file)
    content = records(20)
    applied = await cache.apply(content, NOON)
    assert applied.changed
    assert applied.counts["credential"] == 40
    assert [warning.member for warning in applied.warnings] == ["printed_on_card"] * 20
    expected = RecordSet(parse_records(BytesIO(content)).records)
    table = cache.current
    assert table is not None
    assert table.tables == expected.tables
    assert set(table.hours) == set(expected.hours)
    emptied = msgspec.structs.replace
    for kind, value in [("uid", CARD), ("pin", PIN), *(("uid", f"{n:014X}") for n in range(1, 20))]:
        wanted = expected.find(kind, value)
        assert wanted is not None
        assert table.find(kind, value) == emptied(wanted, value="")
        holding, known = table.holding(wanted.holder), expected.holding(wanted.holder)
        assert holding.holder == emptied(known.holder, name=None)
        assert holding.pins == tuple(emptied(pin, value="") for pin in known.pins)
        assert (holding.bookings, holding.exceptions) == (known.bookings, known.exceptions)
    assert table.find("uid", PIN) is None
    assert table.find("qr", CARD) is None
    with pytest.raises(KeyError):
        table.holding("nobody")


async def test_opening_again_needs_no_child_process(state: Path, key_file: Path) -> None:
    applied = await (await opened(state, key_file)).apply(records(), NOON)
    cache = await opened(state, key_file, NO_CHILD)
    assert cache.current is not None
    assert (cache.revision, cache.as_of, cache.rebuilt) == (applied.revision, NOON, None)
    assert cache.current.find("uid", CARD) is not None


async def test_the_same_set_again_only_renews_its_date(state: Path, key_file: Path) -> None:
    cache = await opened(state, key_file)
    first = await cache.apply(records(), NOON)
    table = cache.current
    shuffled = b"".join(sorted(records().splitlines(keepends=True)))
    again = await cache.apply(shuffled, NOON + timedelta(hours=1))
    assert (again.revision, again.changed) == (first.revision, False)
    assert again.as_of == NOON + timedelta(hours=1)
    assert cache.current is table
    await cache.apply(shuffled, NOON)
    await cache.vouch(NOON + timedelta(hours=2))
    await cache.vouch(NOON)
    assert (await opened(state, key_file)).as_of == NOON + timedelta(hours=2)


async def test_a_set_with_a_fault_changes_nothing(state: Path, key_file: Path) -> None:
    cache = await opened(state, key_file)
    first = await cache.apply(records(), NOON)
    with pytest.raises(RecordsRefused) as raised:
        await cache.apply(records() + b'{"type":"zone","id":"z"}\n', NOON + timedelta(days=1))
    assert [fault[:3] for fault in raised.value.faults] == [("zone", "z", "category")]
    assert (cache.revision, cache.as_of) == (first.revision, NOON)
    assert (await opened(state, key_file, NO_CHILD)).revision == first.revision


async def test_a_set_that_is_too_large_is_refused_unread(
    state: Path, key_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = await opened(state, key_file, NO_CHILD)
    monkeypatch.setattr(module, "RECORDS_BYTES_MAX", 100)
    with pytest.raises(StorageError, match="no more than 100"):
        await cache.apply(records(), NOON)


async def test_only_the_current_and_the_previous_stay(state: Path, key_file: Path) -> None:
    cache = await opened(state, key_file)
    revisions = [(await cache.apply(records(n), NOON)).revision for n in (1, 2, 3, 4)]
    assert {path.name for path in _files(state) if path.suffix == ".mdb"} == {
        f"entitlements-{revision}.mdb" for revision in revisions[-2:]
    }
    assert {path.stem for path in _files(state) if path.suffix == ".jsonl"} == set(revisions[-2:])


async def test_who_still_uses_the_table_before_may_go_on(state: Path, key_file: Path) -> None:
    cache = await opened(state, key_file)
    await cache.apply(records(), NOON)
    before = cache.current
    assert before is not None
    for people in (1, 2, 3):
        await cache.apply(records(people, status="suspended"), NOON)
    assert before.holding("h-0").holder.status == "active"
    assert cache.current is not None
    assert cache.current.holding("h-0").holder.status == "suspended"


async def test_no_card_number_pin_or_name_lies_in_the_state_directory(
    state: Path, key_file: Path
) -> None:
    cache = await opened(state, key_file)
    await cache.apply(records(), NOON)
    await cache.apply(records(4), NOON)
    with pytest.raises(RecordsRefused) as raised:
        await cache.apply(records() * 2, NOON)
    said = str(raised.value).encode()
    canaries = [CARD.encode(), bytes.fromhex(CARD), PIN.encode(), NAME.encode(), b"canary"]
    for path in _files(state):
        content = path.read_bytes() + str(path).encode()
        assert not [canary for canary in canaries if canary.lower() in content.lower()], path
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    assert not [canary for canary in canaries if canary.lower() in said.lower()]
    assert CARD not in repr(cache.current and cache.current.find("uid", CARD))


async def test_another_key_makes_every_credential_unknown(state: Path, key_file: Path) -> None:
    await (await opened(state, key_file)).apply(records(), NOON)
    _change_key(key_file)
    cache = await opened(state, key_file)
    assert (cache.current, cache.revision) == (None, None)
    assert cache.rebuilt is not None
    assert "another credential key" in cache.rebuilt.why
    assert "Put the old credential key back, or import" in str(cache.problem)
    await cache.apply(records(), NOON)
    assert (await opened(state, key_file, NO_CHILD)).rebuilt is None


def damage(path: Path, chance: random.Random) -> None:
    content = bytearray(path.read_bytes())
    match chance.randrange(4):
        case 0:
            content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
        case 1:
            at = chance.randrange(len(content))
            content[at : at + 500] = bytes(len(content[at : at + 500]))
        case 2:
            content = content[: chance.randrange(len(content))]
        case _:
            path.unlink()
            return
    path.write_bytes(content)


async def test_damage_to_any_files_but_one_source_still_leaves_the_set_in_force(
    state: Path, key_file: Path, tmp_path: Path
) -> None:
    cache = await opened(state, key_file)
    await cache.apply(records(5, status="suspended"), NOON - timedelta(days=1))
    applied = await cache.apply(records(5), NOON)
    table, bundle = f"entitlements-{applied.revision}.mdb", f"bundles/{applied.revision}.jsonl"
    chance = random.Random(11)
    for number in range(24):
        copy = tmp_path / f"copy-{number}"
        shutil.copytree(state, copy)
        spared = ("cache.db", bundle)[number % 2]
        hit = [name for name in ("current", table, "cache.db", bundle) if name != spared]
        for name in hit if number % 3 else hit[:1]:
            damage(copy / name, chance)
        again = await opened(copy, key_file)
        assert (again.revision, again.as_of) == (applied.revision, NOON), number
        assert again.current is not None
        assert again.current.holding("h-0").holder.status == "active"


async def test_with_everything_damaged_it_opens_empty_and_takes_the_next_set(
    state: Path, key_file: Path
) -> None:
    await (await opened(state, key_file)).apply(records(), NOON)
    for path in _files(state):
        path.write_bytes(os.urandom(20_000))
    cache = await opened(state, key_file)
    assert cache.current is None
    assert cache.rebuilt is not None
    assert cache.rebuilt.revision is None
    assert (await cache.apply(records(), NOON)).changed
    assert (await opened(state, key_file, NO_CHILD)).current is not None


async def test_only_the_last_damaged_files_are_kept(state: Path, key_file: Path) -> None:
    await (await opened(state, key_file)).apply(records(), NOON)
    for number in range(4):
        for path in _files(state):
            if path.name == "cache.db" or path.suffix == ".mdb":
                path.write_bytes(b"no database at all" * 100)
        cache = await opened(state, key_file)
        assert cache.current is not None, number
    kept = [each.name for each in kept_aside(state / "cache.db")]
    assert kept == ["cache.db.corrupt-3", "cache.db.corrupt-4"]


async def test_a_child_that_takes_too_long_is_killed(
    state: Path, key_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = await opened(state, key_file, (sys.executable, "-c", "import time; time.sleep(60)"))
    monkeypatch.setattr(module, "APPLY_S_MAX", 0.3)
    with pytest.raises(StorageError, match="took more than"):
        await cache.apply(records(), NOON)
    monkeypatch.setattr(module, "APPLY_S_MAX", 60.0)
    applying = asyncio.create_task(cache.apply(records(), NOON))
    await asyncio.sleep(0.2)
    applying.cancel()
    with pytest.raises(asyncio.CancelledError):
        await applying
    assert cache.current is None


async def test_who_gives_up_while_the_pointer_is_written_leaves_disk_and_memory_agreed(
    state: Path, key_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = await opened(state, key_file)
    await cache.apply(records(2), NOON)
    writing, go_on = threading.Event(), threading.Event()

    def slowly(path: Path, content: bytes) -> None:
        writing.set()
        assert go_on.wait(10)
        write_atomically(path, content)

    monkeypatch.setattr(module, "write_atomically", slowly)
    applying = asyncio.create_task(cache.apply(records(5), NOON))
    assert await asyncio.to_thread(writing.wait, 20)
    for _ in range(3):
        applying.cancel()
        await asyncio.sleep(0.02)
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await applying
    assert cache.current is not None
    assert cache.current.counts["holder"] == 5
    assert cache.current.revision == cache.revision
    assert (await opened(state, key_file, NO_CHILD)).revision == cache.revision


_CALLS = {
    "write": 2, "writev": 0, "pwrite64": 12, "fsync": 4, "fdatasync": 4, "ftruncate": 1,
    "rename": 1, "renameat": 1, "unlink": 2,
}  # fmt: skip
"""Every call by which the child changes a file, and how many it makes at the least: the
interpreter's own start makes none of them."""


@pytest.mark.process
@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace to inject SIGKILL")
@pytest.mark.parametrize(("call", "at_least"), _CALLS.items())
async def test_sigkill_at_any_write_of_an_apply_leaves_the_old_set_or_the_new(
    call: str,
    at_least: int,
    state: Path,
    key_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("COVERAGE_PROCESS_CONFIG", raising=False)  # it doubles what strace costs
    old = await (await opened(state, key_file)).apply(records(3), NOON)
    new_records, later = records(4, status="suspended"), NOON + timedelta(hours=1)
    copy = tmp_path / "copy"
    killed = 0
    for at in range(1, 200):
        shutil.copytree(state, copy)
        inject = f"inject={call}:signal=KILL:when={at}"
        strace = ("strace", "-qq", "-o", "/dev/null", "-e", inject)
        try:
            new = await (await opened(copy, key_file, strace)).apply(new_records, later)
        except StorageError:
            killed += 1
        else:
            assert new.changed
            break
        again = await opened(copy, key_file, NO_CHILD)
        assert (again.revision, again.as_of, again.rebuilt) == (old.revision, NOON, None)
        if killed % 4 == 0:
            # The loss of the table on top of it, and the next set.
            (copy / f"entitlements-{old.revision}.mdb").unlink()
            rebuilt = await opened(copy, key_file)
            assert (rebuilt.revision, rebuilt.as_of) == (old.revision, NOON)
            assert (await rebuilt.apply(new_records, later)).changed
        shutil.rmtree(copy)
    assert killed >= at_least


async def test_a_power_cut_at_any_point_of_the_cores_own_change_leaves_the_old_or_the_new(
    state: Path, key_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = await opened(state, key_file)
    old = await cache.apply(records(3), NOON)
    moments = iter(range(100))

    def photograph(*_: object) -> None:
        shutil.copytree(state, tmp_path / f"cut-{next(moments)}")

    real_replace, real_unlink = os.replace, os.unlink

    def replace(*paths: Any, **directories: Any) -> None:
        photograph()
        real_replace(*paths, **directories)
        photograph()

    def unlink(path: Any, **directory: Any) -> None:
        photograph()
        real_unlink(path, **directory)

    monkeypatch.setattr(os, "replace", replace)
    monkeypatch.setattr(os, "unlink", unlink)
    await cache.apply(records(4), NOON)
    new = await cache.apply(records(5), NOON)
    monkeypatch.undo()
    found = [
        (await opened(cut, key_file, NO_CHILD)).revision
        for cut in (tmp_path / f"cut-{number}" for number in range(next(moments)))
    ]
    assert None not in found
    assert (found[0], found[-1]) == (old.revision, new.revision)
    assert len(set(found)) == 3
