"""Whatever is in any file of the state directory, the core starts and opens nothing more."""

import os
import shutil
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from pathlib import Path

import pytest
import pytest_asyncio

from gateway.cache.floor import read_floor
from gateway.cache.incoming import Incoming
from gateway.cache.key import CredentialKey, read_key
from gateway.cache.sealed import read_bundle
from gateway.config.site import SiteConfig
from gateway.domain import events
from gateway.drivers.osdp_keys import KeyStore
from gateway.errors import StorageError
from gateway.journal.journal import _read_mark
from gateway.statedir import StateDir
from gateway.trust.claims import gateway_key
from gateway.trust.root import Roots, first_root
from tests.processes.rot import Seen, fault, files, in_one_process, make, start, sweep
from tests.trust.keyring import root_document

SAMPLED = 5
"""Bytes of each file of which a bit is flipped here; `python -m tests.processes.rot` takes all."""


@pytest.mark.parametrize("signed", [False, True], ids=["unsigned", "signed"])
async def test_a_flipped_bit_anywhere_is_survived_and_told(signed: bool, tmp_path: Path) -> None:
    assert await sweep(tmp_path, signed=signed, most=SAMPLED) == []


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def halved(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def zeros(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def huge(path: Path) -> None:
    os.truncate(path, 3 * 1024**3)  # sparse


def gone(path: Path) -> None:
    path.unlink()


def directory(path: Path) -> None:
    path.unlink()
    path.mkdir()
    (path / "more").write_text("x")


def loop(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


def endless(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def unreadable(path: Path) -> None:
    path.chmod(0)


def another_owner(path: Path) -> None:
    if os.geteuid() == 0:
        os.chown(path, 12345, 12345)
    path.chmod(0o666)


WAYS = (
    emptied,
    halved,
    zeros,
    huge,
    gone,
    directory,
    loop,
    endless,
    pipe,
    unreadable,
    another_owner,
)


class Lived:
    """A signed site that has lived, and what its sound directory makes of a start."""

    def __init__(self, config: SiteConfig, sound: Path, whole: Seen) -> None:
        self.config, self.sound, self.whole = config, sound, whole


@pytest_asyncio.fixture
async def lived(tmp_path: Path) -> AsyncIterator[Lived]:
    with in_one_process():
        config = await make(tmp_path, signed=True)
        state, sound = Path(config.state.dir), tmp_path / "sound"
        shutil.copytree(state, sound)
        yield Lived(config, sound, await start(config))


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
async def test_a_start_finds_anything_in_place_of_a_file(
    lived: Lived, way: Callable[[Path], None]
) -> None:
    state = Path(lived.config.state.dir)
    found = []
    for path in files(lived.sound):
        name = path.relative_to(lived.sound)
        shutil.rmtree(state)
        shutil.copytree(lived.sound, state)
        way(state / name)
        try:
            seen = await start(lived.config)
            what = fault(seen, lived.whole)
            if name.name == "journal.db" and "journal_restarted" in seen.said:
                what = None  # nothing is left of what was remembered, and that is said
        except Exception as error:  # noqa: BLE001 - the start that must not fail
            what = f"does not start: {error!r}"
        if what is not None:
            found.append(f"{name}: {what}")
    assert found == []


async def test_a_count_that_cant_be_read_is_told_by_an_event_and_spent(lived: Lived) -> None:
    journal = Path(lived.config.state.dir) / "journal.db"
    with closing(sqlite3.connect(journal)) as database, database:
        (value,) = database.execute("SELECT value FROM state WHERE key = 'uses/c-h-sam'").fetchone()
        damaged = value[:-1] + bytes([value[-1] ^ 0x80])
        database.execute("UPDATE state SET value = ? WHERE key = 'uses/c-h-sam'", (damaged,))
    seen = await start(lived.config)
    assert str(events.MemoryDamaged.__struct_config__.tag) in seen.said
    assert seen.spent


def readers(sound: Path, key: CredentialKey) -> dict[str, Callable[[], object]]:
    """Each small file's own reader: the value that it takes, or the refusal that it knows."""
    bundle = max((sound / "bundles").iterdir())
    osdp, incoming = KeyStore(sound / "osdp"), Incoming(sound / "incoming", key)

    def floor_of_time() -> object:
        with StateDir(sound) as state:
            return state.floor

    def roots() -> object:
        found = Roots(first_root(root_document(), "LON"), sound / "roots")
        return found.open() or found.current

    return {
        "floor": floor_of_time,
        "floor-revision": lambda: read_floor(sound / "floor-revision", key),
        "gateway.key": lambda: gateway_key(sound, {}).public_key().public_bytes_raw(),
        "journal.db.mark": lambda: _read_mark(sound / "journal.db.mark"),
        "lock": floor_of_time,
        "osdp/reader.key": lambda: osdp.key("reader"),
        "osdp/reader.pending": lambda: osdp.pending("reader"),
        "incoming/manifest": incoming.document,
        f"incoming/{bytes(32).hex()}": lambda: incoming.chunk(bytes(32)),
        "roots/2.root": roots,
        f"bundles/{bundle.name}": lambda: read_bundle(bundle, key).seal,
    }


async def test_each_byte_of_the_small_files_is_read_as_it_was_or_refused(lived: Lived) -> None:
    """But of what bears neither a MAC nor a checksum: there another value may be read."""
    key = read_key(Path(lived.config.state.credential_key))
    unsure = {"gateway.key", "journal.db.mark", "osdp/reader.key", "osdp/reader.pending", "lock"}
    for name, read in readers(lived.sound, key).items():
        path = lived.sound / name
        content, was = path.read_bytes(), read()
        for offset in range(len(content)):
            for bit in (7, offset % 7) if len(content) < 1000 else (7,):
                changed = bytes([content[offset] ^ 1 << bit])
                path.write_bytes(content[:offset] + changed + content[offset + 1 :])
                try:
                    found = read()
                except StorageError:
                    continue
                known = found is None or isinstance(found, str) or found == was
                assert known or name in unsure, (name, offset, bit, found)
        path.write_bytes(content)
