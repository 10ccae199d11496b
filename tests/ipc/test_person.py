"""The person who gives an order, as it is journaled."""

import os
import pwd
from pathlib import Path

import pytest

from gateway.ipc.person import NAME_CHARS_MAX, USERS_BYTES_MAX, Person, is_name, person_of
from gateway.ipc.rights import Peer

USERS = """\
root:x:0:0:root:/root:/bin/bash
maya:x:1000:1000:Maya,,,:/home/maya:/bin/bash
broken
evil"name:x:1001:1001::/:/bin/sh
other:x:1000:1000::/:/bin/sh
"""
UID = os.geteuid()
NAME = pwd.getpwuid(UID).pw_name


def kernel(tmp_path: Path, login: bytes | None, users: str = USERS) -> tuple[Path, Path]:
    """Make a /proc with process 42 of this user, and a file of users."""
    process = tmp_path / "42"
    process.mkdir()
    if login is not None:
        (process / "loginuid").write_bytes(login)
    file = tmp_path / "passwd"
    file.write_text(users.replace(":0:0:", f":{UID}:0:") if UID else users, encoding="utf-8")
    return tmp_path, file


@pytest.mark.parametrize(
    ("login", "by"),
    [
        (b"1000", "maya (as root)"),
        (b"1000\n", "maya (as root)"),
        (str(UID).encode(), "root"),
        (b"1001", "uid 1001 (as root)"),
        (b"77777", "uid 77777 (as root)"),
        (b"4294967295", "root"),
        (b"65534", "root"),
        (b"", "root"),
        (b"-1", "root"),
        (b"\xff\xfe", "root"),
        (None, "root"),
    ],
)
def test_the_login_comes_from_the_kernel(tmp_path: Path, login: bytes | None, by: str) -> None:
    proc, users = kernel(tmp_path, login)
    assert str(person_of(Peer(UID, 0, 42), proc=proc, users=users)) == by


def test_a_process_that_is_hidden_or_has_the_number_of_another_tells_nothing(
    tmp_path: Path,
) -> None:
    proc, users = kernel(tmp_path, b"1000")
    assert person_of(Peer(UID, 0, 43), proc=proc, users=users).login is None
    assert person_of(Peer(UID + 1, 0, 42), proc=proc, users=users).login is None
    assert person_of(Peer(UID, 0, 0), proc=proc, users=users).login is None


def test_without_a_file_of_users_the_number_stands(tmp_path: Path) -> None:
    proc, _ = kernel(tmp_path, b"1000")
    nowhere = tmp_path / "nowhere"
    assert str(person_of(Peer(UID, 0, 42), proc=proc, users=nowhere)) == f"uid 1000 (as uid {UID})"


def test_a_huge_file_of_users_is_read_in_part(tmp_path: Path) -> None:
    proc, users = kernel(tmp_path, b"1000", "x" * USERS_BYTES_MAX + "\n" + USERS)
    assert person_of(Peer(UID, 0, 42), proc=proc, users=users).login == "uid 1000"


def test_what_is_only_said_is_kept_apart_from_what_is_known() -> None:
    assert str(Person("root", "maya", "anna", "Bea")) == 'maya (as root), claims to be "Bea"'
    assert str(Person("root", None, "maya")) == 'root (login by its own word: "maya")'
    assert str(Person("root", None, "root", "Bea")) == 'root, claims to be "Bea"'
    assert str(Person("root")) == "root"


def test_the_longest_person_fits_an_event() -> None:
    longest = "n" * NAME_CHARS_MAX
    assert is_name(longest)
    assert not is_name(longest + "n")
    assert len(str(Person(longest, longest + "x", longest, longest))) < 4 * NAME_CHARS_MAX + 32
