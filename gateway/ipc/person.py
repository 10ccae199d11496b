"""The person behind an order: their login by the kernel's word, and the name they give."""

import os
import pwd
from pathlib import Path
from typing import NamedTuple

from gateway.ipc.rights import Peer

NAME_CHARS_MAX = 64
"""Longer than any name of a user on Linux, which has 32; it stands in every order's event."""

USERS_BYTES_MAX = 1024 * 1024
"""/etc/passwd beyond it isn't read further: about 15,000 users."""

_NO_LOGIN = (2**32 - 1, 65534)
"""No login since the machine's start (a service, cron), or a user that this namespace hides."""

_PROC = Path("/proc")
_USERS = Path("/etc/passwd")


class Person(NamedTuple):
    """Who gives an order, by the kernel's word and by their own."""

    user: str
    """The name of the user that the process runs as."""
    login: str | None = None
    """Who logged in, by the kernel's word; None where the kernel doesn't tell."""
    login_told: str | None = None
    """Who logged in, by the word of the process."""
    claimed: str | None = None
    """The name that the person gave (`--by`)."""

    def __str__(self) -> str:
        if self.login is not None:
            known = self.login if self.login == self.user else f"{self.login} (as {self.user})"
        elif self.login_told not in (None, self.user):
            known = f'{self.user} (login by its own word: "{self.login_told}")'
        else:
            known = self.user
        return known if self.claimed is None else f'{known}, claims to be "{self.claimed}"'


def is_name(text: str) -> bool:
    """Return True for a name that can be journaled: short, printable, without quotation marks.

    The marks part what is known from what is only claimed.
    """
    return len(text.strip()) > 0 and len(text) <= NAME_CHARS_MAX and _is_plain(text)


def _is_plain(text: str) -> bool:
    return text.isprintable() and '"' not in text


def person_of(peer: Peer, *, proc: Path = _PROC, users: Path = _USERS) -> Person:
    """Return who a peer is, as far as this process may see.

    Names come from the file of local users alone: a name service on the network could make the
    doors wait.
    """
    login = _login_of(peer, proc)
    known = _names({peer.uid} | ({login} if login is not None else set()), users)
    return Person(known[peer.uid], None if login is None else known[login])


def own_login() -> str | None:
    """Return the name of whoever logged in to start this process; None where nobody is known."""
    uid = _read_login(_PROC / "self" / "loginuid")
    try:
        name = pwd.getpwuid(uid).pw_name if uid is not None else os.environ.get("SUDO_USER", "")
    except KeyError:
        name = f"uid {uid}"
    return name if is_name(name) else None


def _login_of(peer: Peer, proc: Path) -> int | None:
    process = proc / str(peer.pid)
    try:
        if peer.pid <= 0 or process.stat().st_uid != peer.uid:
            return None  # hidden, or another process that has the number by now
    except OSError:
        return None
    return _read_login(process / "loginuid")


def _read_login(file: Path) -> int | None:
    try:
        with file.open("rb") as opened:
            text = opened.read(16).strip()
    except OSError:
        return None
    if not text.isdigit() or int(text) in _NO_LOGIN:
        return None
    return int(text)


def _names(uids: set[int], users: Path) -> dict[int, str]:
    found = {uid: f"uid {uid}" for uid in uids}
    missing = set(uids)
    try:
        with users.open("rb") as opened:
            data = opened.read(USERS_BYTES_MAX)
    except OSError:
        return found
    for line in data.decode("utf-8", "replace").splitlines():
        name, *rest = line.split(":")
        uid = rest[1] if len(rest) > 1 else ""
        number = int(uid) if uid.isascii() and uid.isdigit() and len(uid) <= 10 else -1
        if number in missing and is_name(name):
            missing.discard(number)
            found[number] = name
    return found
