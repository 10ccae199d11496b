"""Secure cards and phones of people with names, made for the readers of a site's file."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec

from hwsim.bluez.site import key_named
from hwsim.cards import Card
from hwsim.secure_cards import (
    AliroPhone,
    DesfireCard,
    GrantPhone,
    PkocCard,
    SunTag,
    an10922,
    point,
    secure_card,
)

# The members of a device's tables that name a key's file, and how many bytes the key has.
KEY_BYTES = {"key": 16, "uid_key": 16, "picc_key": 16, "mac_key": 16, "reader_key": 32}
TECHNOLOGIES = ("desfire", "aliro", "grant", "pkoc", "sun")


def _named(what: str, size: int) -> bytes:
    return hashlib.sha256(what.encode()).digest()[:size]


class Wallet:
    """The cards for one site: the same name at the same reader has the same card."""

    def __init__(self, directory: Path, random_bytes: Callable[[int], bytes]) -> None:
        self._directory = directory
        self._random = random_bytes
        self._tags: dict[tuple[str, str], SunTag] = {}
        self._grants: dict[str, GrantPhone] = {}

    def key_files(self, tables: dict[str, Any]) -> dict[str, Any]:
        """A device's tables with key files that are there, each with a key of its path's name."""
        moved = dict(tables)
        for name in TECHNOLOGIES:
            if isinstance(tables.get(name), dict):
                moved[name] = {
                    member: str(self._file(str(value), KEY_BYTES[member]))
                    if member in KEY_BYTES
                    else value
                    for member, value in tables[name].items()
                }
        return moved

    def _file(self, path: str, size: int) -> Path:
        self._directory.mkdir(parents=True, exist_ok=True)
        file = self._directory / Path(path).name
        if not file.exists():
            file.write_text(_named(path, size).hex())
            file.chmod(0o400)
        return file

    def card(self, tables: dict[str, Any], kind: str, whose: str, *, forged: bool) -> Card:
        """The card of `kind` that `whose` has for a reader; `forged`: with other keys.

        Raises:
            KeyError: the reader is not set up for that kind, or they carry no grant.
        """
        table = tables[kind]
        uid = b"\x04" + _named(whose, 6)
        if kind == "desfire":
            keys = {table["key_number"]: self._own(table, "key", uid, forged=forged)}
            if "uid_key" in table:
                keys[table["uid_key_number"]] = self._key(table["uid_key"], 16, forged=forged)
            offset = table.get("id_offset", 0)
            made = DesfireCard(
                uid, bytes.fromhex(table["aid"])[::-1], keys,
                {table["file"]: bytes(offset) + _named(whose, table["id_bytes"])},
                table["key_number"], self._random, ev1_only=table["authentication"] == "ev1",
            )  # fmt: skip
            return secure_card(uid.hex(), made)
        signer = key_named(f"not {whose}") if forged else None
        if kind == "grant":
            phone = self._grants[whose]
            phone.signs_with = signer
            return secure_card("08000000", phone)
        if kind == "pkoc":
            return secure_card("08000000", PkocCard(key_named(whose), signs_with=signer))
        if kind == "aliro":
            secret = int.from_bytes(self._key(table["reader_key"], 32, forged=False), "big")
            group = point(ec.derive_private_key(secret, ec.SECP256R1()))
            ephemeral = key_named(self._random(16).hex())
            wallet = AliroPhone(key_named(whose), group, ephemeral, signs_with=signer)
            return secure_card("08000000", wallet)
        tag = self._tag(table, whose)
        if forged:
            tag = SunTag(uid, tag.url, tag.picc_key, bytes(16), self._random)
        return secure_card(uid.hex(), tag)

    def address(self, tables: dict[str, Any], whose: str) -> str:
        """What a phone gets that reads the tag that `whose` has. Raises KeyError: as `card`."""
        return self._tag(tables["sun"], whose).address()

    def _tag(self, table: dict[str, Any], whose: str) -> SunTag:
        uid = b"\x04" + _named(whose, 6)
        return self._tags.setdefault(
            (table["url"], whose),
            SunTag(
                uid, table["url"], self._key(table["picc_key"], 16, forged=False),
                self._own(table, "mac_key", uid, forged=False), self._random,
            ),
        )  # fmt: skip

    def carry(self, whose: str, grant: bytes, trick: str, signs_for: bytes) -> None:
        """Put a grant into a phone, and say how honest it is: see `GrantPhone`."""
        before = self._grants.get(whose)
        made = GrantPhone(key_named(whose), grant, signs_for=signs_for)
        if trick == "replay" and before is not None and before.proofs:
            made.replays = before.proofs[-1]
        made.late, made.locked = trick == "late", trick == "locked"
        if trick == "malformed":
            made.replays = bytes(3)
        self._grants[whose] = made

    def value(self, tables: dict[str, Any], kind: str, whose: str) -> str:
        """What the records call that card."""
        if kind in {"pkoc", "aliro", "grant"}:
            return point(key_named(whose)).hex().upper()
        if kind == "sun":
            return (b"\x04" + _named(whose, 6)).hex().upper()
        table = tables[kind]
        return f"{table['aid']}:{_named(whose, table['id_bytes']).hex().upper()}"

    def _key(self, path: str, size: int, *, forged: bool) -> bytes:
        return bytes(size) if forged else bytes.fromhex(self._file(path, size).read_text())

    def _own(self, table: dict[str, Any], member: str, uid: bytes, *, forged: bool) -> bytes:
        key = self._key(table[member], 16, forged=forged)
        extra = table.get("diversification")
        return key if extra is None else an10922(key, uid + bytes.fromhex(extra))
