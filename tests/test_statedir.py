import os
import random
import stat
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from gateway.errors import StateDirInUse, StorageError
from gateway.statedir import StateDir, read_secret, write_atomically, write_output

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


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_file_for_the_owner_of_its_directory_is_given_to_nobody_by_a_link(tmp_path: Path) -> None:
    """The directory is another user's, who puts a link where the file, or its draft, will be."""
    theirs, mine = tmp_path / "theirs", tmp_path / "mine"
    theirs.mkdir()
    os.chown(theirs, 12345, 12345)
    mine.write_text("root's own")
    mine.chmod(0o600)
    for name in ("a.window", ".a.window.new"):
        (theirs / name).symlink_to(mine)
    write_atomically(theirs / "a.window", b"new", for_owner=True)
    assert (mine.read_text(), mine.stat().st_uid) == ("root's own", 0)
    written = (theirs / "a.window").lstat()
    assert stat.S_ISREG(written.st_mode)
    assert (written.st_uid, stat.S_IMODE(written.st_mode)) == (12345, 0o600)


def test_a_directory_that_is_a_link_takes_no_file_for_its_owner(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "keys").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StorageError):
        write_atomically(tmp_path / "keys" / "a.window", b"new", for_owner=True)
    assert not list((tmp_path / "elsewhere").iterdir())


def test_bundles_that_are_a_link_change_no_directory_elsewhere(tmp_path: Path) -> None:
    elsewhere, state = tmp_path / "elsewhere", tmp_path / "state"
    elsewhere.mkdir()
    elsewhere.chmod(0o755)
    state.mkdir(mode=0o700)
    (state / "bundles").symlink_to(elsewhere)
    with StateDir(state):
        pass
    assert stat.S_IMODE(elsewhere.stat().st_mode) == 0o755


def test_a_pipe_or_a_device_is_written_to_and_not_replaced(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reading = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    write_output(pipe, b"records")
    assert os.read(reading, 100) == b"records"
    os.close(reading)
    assert stat.S_ISFIFO(pipe.lstat().st_mode)
    write_output(Path(os.devnull), b"records")
    assert Path(os.devnull).is_char_device()
    write_output(tmp_path / "file", b"records")
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("mode", "group", "taken"),
    [
        (0o400, True, True),
        (0o440, True, True),
        (0o640, True, True),
        (0o640, False, False),
        (0o600, False, True),
        (0o620, True, False),
        (0o604, True, False),
        (0o602, True, False),
        (0o601, True, False),
    ],
)
def test_a_secret_is_read_only_where_no_other_may_read_or_change_it(
    tmp_path: Path, mode: int, *, group: bool, taken: bool
) -> None:
    file = tmp_path / "secret"
    file.write_bytes(b"1234")
    file.chmod(mode)
    if taken:
        assert read_secret(file, 4, group=group) == b"1234"
        with pytest.raises(OSError, match="longer than 3 bytes"):
            read_secret(file, 3, group=group)
    else:
        with pytest.raises(OSError, match=f"others may read or change it .mode {mode:04o}"):
            read_secret(file, 4, group=group)


def test_a_secret_in_a_pipe_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "secret", 0o600)
    with pytest.raises(OSError, match="plain file"):
        read_secret(tmp_path / "secret", 4)
