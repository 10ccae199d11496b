"""The key set: which keys a site believes, for what, and how one set is replaced by the next.

The rules are those of The Update Framework's root role (specification 1.0, section 5.3).
"""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Annotated, Final, NamedTuple, TypeVar

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from gateway.errors import StorageError
from gateway.statedir import open_plain, sync_directory, write_atomically
from gateway.trust.cbor import ITEMS_MAX
from gateway.trust.cose import (
    MESSAGE_BYTES_MAX,
    SIGNATURES_MAX,
    BadSignature,
    Document,
    NotSigned,
    PublicKey,
    UnknownKey,
    decode,
    parse_document,
    signers,
    verify1,
)
from gateway.trust.keys import ROLES, Role, kid_of
from gateway.trust.rules import BreaksRule, Rule

ROOT_CONTEXT: Final = b"door-gateway/root/v1"

ROOT_BYTES_MAX = 64 * 1024
"""Five roles of 16 keys and 16 signatures take a tenth of it."""

VERSION_MAX = 2**32 - 1

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

Id = Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
Instant = Annotated[int, msgspec.Meta(ge=0, le=253_402_300_799)]
"""Seconds since 1970, to the end of the year 9999: no `datetime` is later."""
Hash = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]

_P = TypeVar("_P", bound=msgspec.Struct)


class Now(NamedTuple):
    """The one instant that a whole update is checked against."""

    at: datetime
    """With an untrusted clock: before which it can't be, which is the floor of time."""
    trusted: bool

    @property
    def seconds(self) -> int:
        """Since 1970."""
        return (self.at - _EPOCH) // timedelta(seconds=1)


class RoleKeys(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Whose signatures a role takes, and how many of them."""

    keys: Annotated[tuple[bytes, ...], msgspec.Meta(min_length=1, max_length=SIGNATURES_MAX)]
    threshold: Annotated[int, msgspec.Meta(ge=1, le=SIGNATURES_MAX)]


class KeySet(msgspec.Struct, frozen=True, forbid_unknown_fields=True, dict=True):
    """The payload of a root document (docs/spec/trust.md, "Key set")."""

    site: Id
    version: Annotated[int, msgspec.Meta(ge=1, le=VERSION_MAX)]
    made: Instant
    expires: Instant
    keys: dict[bytes, Hash]
    roles: dict[Role, RoleKeys]

    @cached_property
    def public(self) -> dict[bytes, PublicKey]:
        """Every key by its kid."""
        return {kid: Ed25519PublicKey.from_public_bytes(raw) for kid, raw in self.keys.items()}

    def keys_of(self, role: Role) -> dict[bytes, PublicKey]:
        """The keys of a role, by kid."""
        return {kid: self.public[kid] for kid in self.roles[role].keys}

    def is_expired(self, now: Now) -> bool:
        """Whether only a successor is taken any more."""
        return now.seconds >= self.expires

    def opened(self, message: bytes, role: Role, context: bytes) -> bytes:
        """The payload of a message by this role.

        Raises:
            BreaksRule: it isn't one: `too_large`, `malformed`, `unknown_key` or `bad_signature`.
        """
        if len(message) > MESSAGE_BYTES_MAX:
            raise BreaksRule(Rule.TOO_LARGE, f"a message of {len(message)} bytes")
        try:
            found = verify1(message, self.keys_of(role), context=context)
        except UnknownKey as error:
            raise BreaksRule(Rule.UNKNOWN_KEY, str(error)) from error
        except BadSignature as error:
            raise BreaksRule(Rule.BAD_SIGNATURE, str(error)) from error
        except NotSigned as error:
            raise BreaksRule(Rule.MALFORMED, str(error)) from error
        if found.content_type is not None:
            raise BreaksRule(Rule.MALFORMED, "its header has more than alg and kid")
        return found.payload

    def check_threshold(self, document: Document, role: Role, context: bytes) -> frozenset[bytes]:
        """Which keys of the role signed a document; enough of them did.

        Raises:
            BreaksRule: `unknown_key`, `bad_signature` or `threshold`.
        """
        try:
            found = signers(document, self.keys_of(role), context=context)
        except BadSignature as error:
            raise BreaksRule(Rule.BAD_SIGNATURE, str(error)) from error
        needed = self.roles[role].threshold
        if not found:
            raise BreaksRule(Rule.UNKNOWN_KEY, f"signed by no key of the role {role!r}")
        if len(found) < needed:
            raise BreaksRule(
                Rule.THRESHOLD, f"{len(found)} of the {needed} signatures of the role {role!r}"
            )
        return found


def opened_document(data: bytes, bytes_max: int) -> Document:
    """A document taken apart, not checked. Raises BreaksRule."""
    if len(data) > bytes_max:
        raise BreaksRule(Rule.TOO_LARGE, f"{len(data)} bytes: no more than {bytes_max} are read")
    try:
        return parse_document(data, bytes_max=bytes_max)
    except NotSigned as error:
        raise BreaksRule(Rule.MALFORMED, str(error)) from error


def payload_as(
    payload: bytes,
    form: type[_P],
    bytes_max: int = MESSAGE_BYTES_MAX,
    items_max: int = ITEMS_MAX,
) -> _P:
    """A payload in its form: no key unknown, missing or of another type. Raises BreaksRule."""
    try:
        value = decode(payload, bytes_max=bytes_max, items_max=items_max)
        if not isinstance(value, Mapping):
            raise BreaksRule(Rule.MALFORMED, "the payload is no map")
        return msgspec.convert(value, form)
    except (NotSigned, msgspec.ValidationError) as error:
        raise BreaksRule(Rule.MALFORMED, str(error)) from error


def key_set_in(document: Document) -> KeySet:
    """The key set of a root document, its form checked and its signatures NOT.

    Raises:
        BreaksRule: `malformed`.
    """
    found = payload_as(document.payload, KeySet, ROOT_BYTES_MAX)
    if found.roles.keys() != set(ROLES):
        raise BreaksRule(Rule.MALFORMED, f"the roles must be {', '.join(ROLES)}")
    if found.made >= found.expires:
        raise BreaksRule(Rule.MALFORMED, "it expires before it was made")
    for kid, key in found.public.items():
        if kid != kid_of(key):
            raise BreaksRule(Rule.MALFORMED, f"kid {kid.hex()} is not its key's own")
    for name, role in found.roles.items():
        if len(set(role.keys)) != len(role.keys) or not found.keys.keys() >= set(role.keys):
            raise BreaksRule(Rule.MALFORMED, f"role {name!r}: its keys must be in `keys`, once")
        if role.threshold > len(role.keys):
            raise BreaksRule(Rule.MALFORMED, f"role {name!r}: fewer keys than its threshold")
        if role.threshold > 1 and name not in _DOCUMENT_ROLES:
            raise BreaksRule(Rule.MALFORMED, f"role {name!r}: a message has one signature")
    return found


_DOCUMENT_ROLES = ("root", "bundle")
"""What the others sign has room for one signature."""


def first_root(data: bytes, site: str) -> KeySet:
    """The key set that comes with the installation: believed because it is there.

    Its own signatures are checked all the same, so that a damaged file is no key set.

    Raises:
        BreaksRule: it can't be one, or is another site's.
    """
    document = opened_document(data, ROOT_BYTES_MAX)
    found = key_set_in(document)
    found.check_threshold(document, "root", ROOT_CONTEXT)
    if found.site != site:
        raise BreaksRule(Rule.WRONG_SITE, f"the root is for the site {found.site!r}")
    return found


def next_root(current: KeySet, data: bytes) -> KeySet:
    """The key set that may replace the current one.

    Whether it is expired does not matter here: under an expired root nothing is taken but its
    successor, and a gateway that was away for years must find its way through all of them.

    Raises:
        BreaksRule: it may not: it skips a version (`missing_base`), is the current one (`equal`)
            or an older one (`rollback`), another site's, or lacks signatures by either root.
    """
    document = opened_document(data, ROOT_BYTES_MAX)
    current.check_threshold(document, "root", ROOT_CONTEXT)
    found = key_set_in(document)
    found.check_threshold(document, "root", ROOT_CONTEXT)
    if found.site != current.site:
        raise BreaksRule(Rule.WRONG_SITE, f"the root is for the site {found.site!r}")
    if found.version > current.version + 1:
        raise BreaksRule(
            Rule.MISSING_BASE,
            f"root {found.version} comes after {found.version - 1}, which is not"
            f" here: {current.version} is in force",
        )
    if found == current:
        raise BreaksRule(Rule.EQUAL, f"root {found.version} is in force")
    if found.version <= current.version:
        raise BreaksRule(Rule.ROLLBACK, f"root {current.version} is in force, not {found.version}")
    return found


def resets_revision(before: KeySet, after: KeySet) -> bool:
    """Whether `after` is the recovery from a stolen `bundle` key that raised the revision.

    None of the former keys may be left: what one of them signed long ago would be the next bundle.
    """
    return _replaces_all("bundle", before, after)


def resets_time(before: KeySet, after: KeySet) -> bool:
    """Whether `after` is the recovery from a stolen `freshness` key that carried the time ahead.

    None of the former keys may be left: it would carry it ahead again.
    """
    return _replaces_all("freshness", before, after)


def _replaces_all(role: Role, before: KeySet, after: KeySet) -> bool:
    return set(before.roles[role].keys).isdisjoint(after.roles[role].keys)


class Roots:
    """The key set in force. Its successors are kept as they came, and believed at every start for
    the same reason as on the first day: the chain of signatures from the installation's root.
    """

    def __init__(self, first: KeySet, directory: Path) -> None:
        self._directory = directory
        self.current = first
        self.resets: list[int] = []
        """Versions, of those followed by `open`, that began to count revisions anew."""
        self.retimes: list[int] = []
        """Versions, of those, after which the time could be set back."""

    def open(self) -> str | None:
        """Follow the chain from the first root to the last that is kept.

        Returns:
            What is wrong with the file at which it had to end, if it had to: what was in force
            before stays, and the successor can come again.

        Raises:
            StorageError: the directory can't be made.
        """
        path = self._directory
        try:
            path.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise StorageError(f"{path}: can't be made: {error.strerror}") from error
        while (path := self._file(self.current.version + 1)).exists():
            try:
                with open_plain(path) as file:
                    data = file.read(ROOT_BYTES_MAX + 1)
                before, self.current = self.current, next_root(self.current, data)
                if resets_revision(before, self.current):
                    self.resets.append(self.current.version)
                if resets_time(before, self.current):
                    self.retimes.append(self.current.version)
            except OSError as error:
                return f"{path}: can't be read: {error.strerror}"
            except BreaksRule as broken:
                return f"{path}: {broken}"
        return None

    def take(self, data: bytes) -> KeySet:
        """Put the successor in force, durably; what it no longer names is no longer believed.

        Takes as long as an fsync.

        Raises:
            BreaksRule: it may not succeed (`next_root`).
            StorageError: it can't be kept; the old one stays in force.
        """
        successor = next_root(self.current, data)
        write_atomically(self._file(successor.version), data)
        try:
            sync_directory(self._directory.parent)
        except OSError as error:
            raise StorageError(f"{self._directory}: {error.strerror}") from error
        self.current = successor
        return successor

    def _file(self, version: int) -> Path:
        return self._directory / f"{version}.root"
