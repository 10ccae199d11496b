"""A state directory as the core leaves it, damaged in every way, and starts of the core upon it.

`python -m tests.processes.rot` flips a bit of every byte of every file, one at a time, and starts
the core upon each: an hour or two. The tests do so for a sample, and read each byte of the small
files by their own readers.
"""

import asyncio
import functools
import random
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
from structlog.testing import capture_logs

from gateway.clock import SystemClock
from gateway.config.site import SiteConfig
from gateway.domain import events
from gateway.domain.decision import PresentedCredential, Request, decide
from gateway.domain.memory import Uses
from gateway.drivers.osdp_keys import KeyStore
from gateway.processes import core as module
from gateway.processes.core import Core
from gateway.trust.making import delta, snapshot
from tests.cache.in_one_process import InOneProcess
from tests.process.rig import MILO, SAM, STRANGER, as_lines, records
from tests.processes.composed import site_file
from tests.trust.bundles import about, canonical_set, file_of
from tests.trust.keyring import NOON, ROLE_KEYS, root_document

DOORS = ("front", "back")


class Seen(NamedTuple):
    """What a start makes of a state directory."""

    opens: frozenset[tuple[str, str]]
    """Door and card that are granted."""
    modes: tuple[str, ...]
    revision: int | None
    """The signed revision in force."""
    spent: bool
    """A credential that was used up still is."""
    said: frozenset[str]
    """Warnings, errors and alarms."""


@contextmanager
def in_one_process() -> Iterator[None]:
    """The core's cache compiles in this process, and it is shortly after the bundles were made."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "Cache", InOneProcess)
        clock = functools.partial(SystemClock, wall=lambda: NOON)
        patch.setattr(module, "SystemClock", clock)
        yield


async def make(directory: Path, *, signed: bool) -> SiteConfig:
    """A site that has lived: records in force, a lockdown at the back, a code used up, floors."""
    config = site_file(directory, signed=signed)
    core = Core(config, rng=random.Random(0))
    async with core._opened():
        core._record_start()
        if signed:
            assert core._sync is not None
            lines = as_lines(records()).encode()
            first = canonical_set(lines)
            second = canonical_set(lines.replace(b'"grace_hours": 72', b'"grace_hours": 71'))
            of = functools.partial(about, gateways=("lon-1",))
            await core._sync.file(file_of(snapshot(first, of(1))))
            await core._sync.file(file_of(delta(first, second, of(2), 1), "bundle-1", "bundle-2"))
            more = {**ROLE_KEYS, "command": ("command-2",)}
            await core._sync.root(root_document(2, roles=more))
            core._cache.incoming.begin(b"a manifest on its way", [bytes(32)])
            core._cache.incoming.put(bytes(32), b"a chunk")
        else:
            await core.import_records(as_lines(records()).encode())
        core._memory.apply({"uses/c-h-sam": Uses(count=1)})
        await core._orders.order("door", "back", "lockdown", by="uid 0", why="drill", seconds=None)
        for _ in range(10):
            core._tell(events.DoorClosed(**core._now(), door="front"))
        core._state.raise_floor(NOON)
        await core._checkpoint()
    keys = KeyStore(directory / "state" / "osdp")
    keys.pending("reader")
    keys.commit("reader")
    keys.pending("reader")
    return config


async def start(config: SiteConfig) -> Seen:
    """Start the core upon the directory; whatever is in it must not keep it from that."""
    core = Core(config, rng=random.Random(0))
    with capture_logs() as logged:
        async with core._opened():
            core._record_start()
            seen = _looked_at(core)
            alarms = {
                entry.event.__struct_config__.tag
                for entry in (await core._journal.read_after(0) if core._journal.stream else ())
                if entry.event.priority >= events.Priority.ALARM
            }
    said = {str(line["event"]) for line in logged if line["log_level"] in ("warning", "error")}
    return seen._replace(said=frozenset({*said, *map(str, alarms)}))


def _looked_at(core: Core) -> Seen:
    force = core._in_force()
    opens = frozenset(
        (door, card)
        for door in DOORS
        for card in (SAM, MILO, STRANGER)
        if decide(
            force.records,
            Request(
                door=door,
                credentials=(PresentedCredential("uid", card),),
                at=core._clock.now(),
                as_of=force.as_of,
            ),
        ).outcome
        == "grant"
    )
    modes = tuple(core._site.doors[door].mode().mode for door in DOORS)
    uses = core._memory.get("uses/c-h-sam")
    held = core._cache.held.in_force
    spent = isinstance(uses, Uses) and uses.count >= 1
    return Seen(opens, modes, held.number if held else None, spent, frozenset())


def fault(seen: Seen, sound: Seen) -> str | None:
    """Return the reason why `seen` opens more than the undamaged directory does, or is silent."""
    if not seen.opens <= sound.opens:
        return f"opens {sorted(seen.opens - sound.opens)}"
    if any(
        was == "lockdown" and now == "controlled"
        for was, now in zip(sound.modes, seen.modes, strict=True)
    ):
        return "the lockdown is forgotten"
    if "unlocked" in seen.modes:
        return "a door stands unlocked"
    if sound.spent and not seen.spent:
        return "what was used up is good again"
    if seen.revision not in (sound.revision, None) and seen.opens:
        return f"revision {seen.revision} is in force again"
    changed = seen[:4] != sound[:4]
    if changed and not seen.said - sound.said:
        return "says nothing of what it lost"
    return None


def files(state: Path) -> list[Path]:
    """Every regular file below the state directory."""
    return sorted(path for path in state.rglob("*") if path.is_file())


async def start_upon(config: SiteConfig, sound: Path, file: str, damage: bytes) -> Seen:
    """Start the core upon a copy of `sound` in which one file has this content."""
    state = Path(config.state.dir)
    shutil.rmtree(state, ignore_errors=True)
    shutil.copytree(sound, state, symlinks=True)
    (state / file).write_bytes(damage)
    return await start(config)


def flipped(content: bytes, offset: int) -> bytes:
    """One bit of the byte at `offset` changed: the top one at every other byte, else any."""
    bit = 7 if offset % 2 else offset // 2 % 7
    return content[:offset] + bytes([content[offset] ^ 1 << bit]) + content[offset + 1 :]


async def sweep(directory: Path, *, signed: bool, most: int | None) -> list[str]:
    """Flip a bit of `most` bytes of each file, spread over it, or of all; the faults."""
    with in_one_process():
        config = await make(directory, signed=signed)
        state, sound = Path(config.state.dir), directory / "sound"
        shutil.move(state, sound)
        shutil.copytree(sound, state)
        whole, found = await start(config), []
        for path in files(sound):
            name, content = str(path.relative_to(sound)), path.read_bytes()
            step = 1 if most is None else max(1, len(content) // most)
            for offset in range(len(content) % step, len(content), step):
                try:
                    seen = await start_upon(config, sound, name, flipped(content, offset))
                    what = fault(seen, whole)
                except Exception as error:  # noqa: BLE001 - the start that must not fail
                    what = f"does not start: {error!r}"
                if what is not None:
                    found.append(f"{name} {offset}: {what}")
        return found


if __name__ == "__main__":
    for signed in (False, True):
        with tempfile.TemporaryDirectory() as made:
            faults = asyncio.run(sweep(Path(made), signed=signed, most=None))
        print(*faults, f"{len(faults)} faults, signed={signed}", sep="\n")
        sys.exit(1) if faults else None
