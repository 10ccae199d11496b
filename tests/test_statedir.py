import os
import random
import stat
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from gateway.errors import StateDirInUse, StorageError
from gateway.statedir import StateDir, write_atomically

NOON = datetime(2026, 5, 4, 12, 0, tzinfo=UTC)


def test_the_directories_are_for_their_owner_only(tmp_path: Path) -> None:
    loose = tmp_path / "state"
    loose.mkdir(mode=0o755)
    with StateDir(loose) as state:
        state.raise_floor(NOON)
        assert stat.S_IMODE(loose.stat().st_mode) == 0o700
        assert stat.S_IMODE(state.bundles.stat().st_mode) == 0o700
        assert stat.S_IMODE((loose / "floor").stat().st_mode) == 0o600


@pytest.mark.process
def test_a_second_daemon_is_refused_at_once_and_told_who_has_it(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from gateway.statedir import StateDir\n"
        "with StateDir(Path(sys.argv[1])): print('mine', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == "mine\n"
        with (
            pytest.raises(StateDirInUse, match=f"door-gateway core, pid {owner.pid}$"),
            StateDir(tmp_path),
        ):
            pass
        owner.kill()
    with StateDir(tmp_path):
        assert (tmp_path / "lock").read_text() == f"{os.getpid()}\n"


def test_the_floor_never_falls(tmp_path: Path) -> None:
    with StateDir(tmp_path) as state:
        assert state.floor is None
        state.raise_floor(NOON)
        state.raise_floor(NOON - timedelta(days=1))
        assert state.floor == NOON
    with StateDir(tmp_path) as state:
        assert state.floor == NOON
        state.raise_floor(NOON + timedelta(milliseconds=1))
    with StateDir(tmp_path) as state:
        assert state.floor == NOON + timedelta(milliseconds=1)
        state.set_floor(NOON)  # but where new keys prove that it was carried ahead
    with StateDir(tmp_path) as state:
        assert state.floor == NOON


def test_a_damaged_floor_is_no_floor_and_no_error(tmp_path: Path) -> None:
    with StateDir(tmp_path) as state:
        state.raise_floor(NOON)
    sound = (tmp_path / "floor").read_bytes()
    chance = random.Random(1)
    for number in range(200):
        damaged = bytearray(sound)
        if number % 3 == 0:
            damaged = damaged[: chance.randrange(len(damaged))]
        elif number % 3 == 1:
            damaged[chance.randrange(len(damaged))] ^= 1 << chance.randrange(8)
        else:
            damaged = bytearray(chance.randbytes(chance.randrange(300)))
        (tmp_path / "floor").write_bytes(damaged)
        with StateDir(tmp_path) as state:
            assert state.floor is None
            state.raise_floor(NOON)
            assert state.floor == NOON


def test_what_cant_be_written_leaves_the_old_content(tmp_path: Path) -> None:
    file = tmp_path / "file"
    write_atomically(file, b"old")
    (tmp_path / ".file.new").mkdir()
    with pytest.raises(StorageError, match="can't be written"):
        write_atomically(file, b"new")
    assert file.read_bytes() == b"old"
