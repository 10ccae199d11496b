"""F01: the power goes at every point of taking a bundle, the child's and the core's alike."""

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from gateway.cache.source import Source
from gateway.statedir import StateDir
from gateway.trust.bundle import Revision
from gateway.trust.making import Made, delta, digest_of, repair, snapshot
from tests.cache.test_bundles import FIRST, holder, opened, take
from tests.trust.bundles import DIGEST_KEY, about, with_records

CHANGED = with_records(FIRST, holder("h-1", "suspended"))
OLD = Revision(1, digest_of(FIRST, DIGEST_KEY).digest())
NEW = Revision(2, digest_of(CHANGED, DIGEST_KEY).digest())


@pytest.mark.parametrize(
    ("made", "after"),
    [
        (snapshot(CHANGED, about(2)), NEW),
        (delta(FIRST, CHANGED, about(2), 1), NEW),
        (repair(FIRST, about(1), range(256)), OLD),
    ],
    ids=["snapshot", "delta", "repair"],
)
async def test_a_power_cut_anywhere_leaves_the_old_set_or_the_new_and_the_next_can_be_taken(
    made: Made, after: Revision, tmp_path: Path, key_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cuts: list[Path] = []
    with StateDir(tmp_path / "state") as state:
        cache = await opened(state.path, key_file)
        await take(cache, snapshot(FIRST, about(1)))

        def photograph() -> None:
            cuts.append(tmp_path / f"cut-{len(cuts)}")
            shutil.copytree(state.path, cuts[-1])

        real_replace, real_unlink, real_commit = os.replace, os.unlink, Source.commit
        real_fsync = os.fsync

        def replace(*paths: Any, **directories: Any) -> None:
            photograph()
            real_replace(*paths, **directories)
            photograph()

        def unlink(path: Any, **directory: Any) -> None:
            photograph()
            real_unlink(path, **directory)

        def commit(source: Source) -> None:
            photograph()
            real_commit(source)
            photograph()

        def fsync(descriptor: int) -> None:
            real_fsync(descriptor)
            photograph()

        monkeypatch.setattr(os, "replace", replace)
        monkeypatch.setattr(os, "unlink", unlink)
        monkeypatch.setattr(Source, "commit", commit)
        monkeypatch.setattr(os, "fsync", fsync)
        await take(cache, made)
        monkeypatch.undo()
        assert cache.held.in_force == after
    assert len(cuts) > 15
    found = []
    for cut in cuts:
        again = await opened(cut, key_file)
        found.append(again.held.in_force)
        assert again.current is not None
        if again.held.in_force != after:
            await take(again, made)
        await take(again, snapshot(CHANGED, about(3)))
        assert (await again.audit()).damaged == 0
        shutil.rmtree(cut)
    assert set(found) == {OLD, after}
    assert found == sorted(
        found, key=lambda each: each == after
    )  # once the new one is in force it stays so
