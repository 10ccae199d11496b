"""The entitlements in force, and the only way by which they change."""

import asyncio
import hashlib
import hmac
import os
import sys
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar

import msgspec
import structlog

from gateway.cache.compiled import CompiledEntitlements
from gateway.cache.floor import Floor, read_floor, write_floor
from gateway.cache.incoming import Incoming
from gateway.cache.key import CredentialKey, read_key
from gateway.cache.outcome import (
    RECORDS_BYTES_MAX,
    Audited,
    Broken,
    BundleOrder,
    Compiled,
    Failed,
    Outcome,
    Place,
    Refused,
    Unchanged,
)
from gateway.cache.sealed import remove_old_bundles
from gateway.decoding import decode_json, decode_with
from gateway.domain.impact import LIMITS, Limits
from gateway.domain.impact_window import Recent, still_recent
from gateway.domain.record_faults import LintWarning, other_site
from gateway.errors import RecordsRefused, StorageError, Undecodable
from gateway.statedir import open_plain, write_atomically
from gateway.trust.bundle import Held, Revision, SignedManifest
from gateway.trust.rules import BreaksRule, Rule

APPLY_S_MAX = 300.0
"""How long the child may take: many times what the largest set takes on the slowest board."""

POINTER_BYTES_MAX = 256 * 1024
"""The pointer is two lines, with an id and a number for each door; whatever is longer isn't one."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_OUTCOMES: msgspec.json.Decoder[Outcome] = msgspec.json.Decoder(Outcome)

_T = TypeVar("_T")

_log = structlog.get_logger(__name__)


class Applied(NamedTuple):
    """A set of records is in force."""

    revision: str
    as_of: datetime
    counts: dict[str, int]
    """Records by type."""
    changed: bool
    """False where the set was in force already, and only `as_of` was renewed."""
    warnings: tuple[LintWarning, ...]
    codes_per_pin: int | None = None
    """Possible codes for each PIN in force, where this set has just come in force."""


class Rebuilt(NamedTuple):
    """At open the table had to be compiled again; `revision` is None where nothing was left."""

    revision: str | None
    why: str


class _Pointer(msgspec.Struct, frozen=True):
    """Which table is in force, and until when its set is known to be current."""

    file: str
    sha256: str
    revision: str
    as_of: datetime
    counts: dict[str, int]
    key: str
    previous: str = ""
    """The revision before."""
    number: int | None = None
    """The signed revision; None for a set that nobody signed."""
    digest: str = ""
    epoch: int = 0
    doors: dict[str, int] = {}
    recent: Recent = ()
    """What bundles by one key alone changed lately: it comes in force with the set, so that no
    crash forgets it."""

    @property
    def signed(self) -> Revision | None:
        """Which signed set it is."""
        if self.number is None:
            return None
        return Revision(self.number, bytes.fromhex(self.digest))


class Cache:
    """Use after `StateDir` is taken: `await open()` once, then `current` at every decision.

    The pointer file is the one point of change: until it is replaced the old set is in force, and
    from then on the new one, whatever happens around it. It bears a mac by the credential key.
    """

    def __init__(
        self,
        directory: Path,
        key_file: Path,
        site: str,
        *,
        signed: bool = False,
        launcher: Sequence[str] = (),
    ) -> None:
        """`site`: the gateway's site id. Records of another site are never in force here.

        `signed`: the site has `[trust]`, so nothing below the floor of revision is in force.

        `launcher` goes before the child's command, as `strace` does in tests.
        """
        self._place = Place(directory, site)
        self._signed = signed
        self._floor = Floor()
        self._key_file = key_file
        self._launcher = tuple(launcher)
        self._key: CredentialKey | None = None
        self._pointer: _Pointer | None = None
        self._change = asyncio.Lock()
        self._rows: bytes | None = None
        """What the file of the rows was when it was last written or audited."""
        self._rows_known = False
        """True once the file was looked at; its fingerprint may be None then, too."""
        self.current: CompiledEntitlements | None = None
        """What is in force; None before the first set."""
        self.rebuilt: Rebuilt | None = None
        """Set by `open` where the cache was damaged."""
        self.floor_lost = False
        """Set by `open` where the floor of revision was not there, though a signed set was."""
        self._other_site: str | None = None
        """The site whose records lie here, until some of this gateway's own are in force."""

    @property
    def held(self) -> Held:
        """What decides which bundle may come next."""
        in_force = self._pointer.signed if self._pointer else None
        floor = self._floor
        if floor.waiting or not floor.revision:
            return Held(in_force, None)
        return Held(in_force, Revision(floor.revision, bytes.fromhex(floor.digest)))

    @property
    def root_floor(self) -> int:
        """The highest version of a root ever in force."""
        return self._floor.root

    @property
    def counts(self) -> dict[str, int]:
        """Records in force, by type."""
        return self._pointer.counts if self._pointer else {}

    @property
    def ways_in(self) -> dict[str, int]:
        """By door: holders who had a way in at some time, when the set came in force."""
        return self._pointer.doors if self._pointer else {}

    @property
    def incoming(self) -> Incoming:
        """Where a bundle is kept until it is whole."""
        return Incoming(self._place.incoming, self._opened_key())

    @property
    def revision(self) -> str | None:
        """The name of the set in force."""
        return self._pointer.revision if self._pointer else None

    @property
    def problem(self) -> str | None:
        """The reason why nothing is in force; None where something is."""
        if self.current is not None:
            return None
        if self._other_site is not None:
            return other_site(self._other_site, self._place.site)
        if self.rebuilt is not None:
            return (
                f"no entitlements: the records on this disk can't be used ({self.rebuilt.why}). "
                "Put the old credential key back, or import the records again"
            )
        return "no entitlements"

    @property
    def as_of(self) -> datetime | None:
        """The moment up to which the source of truth vouches for the set in force."""
        return self._pointer.as_of if self._pointer else None

    async def open(self) -> CompiledEntitlements | None:
        """Map what is in force; compile it again where that is damaged.

        Raises:
            StorageError: the credential key can't be used. Damage is no error: `rebuilt` says what
                was done about it, and None is returned where no records are left, so that every
                credential is unknown until a set is applied.
        """
        self._key = await asyncio.to_thread(read_key, self._key_file)
        floor = await asyncio.to_thread(read_floor, self._place.floor, self._key)
        self._floor = floor or Floor()
        try:
            pointer = await asyncio.to_thread(self._read_pointer)
            if pointer is not None:
                self._check_floor(pointer.epoch, pointer.number)
                self._pointer = pointer
                self.current = await asyncio.to_thread(self._map, pointer)
        except StorageError as error:
            await self._rebuild(str(error))
        else:
            if pointer is None and self._left_something():
                await self._rebuild(f"{self._place.pointer.name}: is missing")
        if self._signed and self._pointer is not None and self._pointer.number is not None:
            self.floor_lost = floor is None
            await self._raise_floor(self._pointer)
        return self.current

    def _check_floor(self, epoch: int, number: int | None) -> None:
        if self._signed and not self._floor.allows(epoch, number or 0):
            raise StorageError(
                f"revision {number} is below {self._floor.revision}, which was in force already"
            )

    async def apply(self, records: bytes, as_of: datetime) -> Applied:
        """Check a set of records and put it in force, entirely or not at all.

        Raises:
            RecordsRefused: it has faults; what was in force stays.
            StorageError: it is too large, or it can't be kept; what was in force stays.
        """
        if len(records) > RECORDS_BYTES_MAX:
            raise StorageError(
                f"the records are {len(records)} bytes: no more than {RECORDS_BYTES_MAX} are taken"
            )
        as_of = as_of.astimezone(UTC)
        async with self._change:
            with _handed(records) as descriptor:
                outcome = await self._child("records", descriptor, ("--as-of", as_of.isoformat()))
            assert not isinstance(outcome, Audited)  # noqa: S101 - records were asked for
            if isinstance(outcome, Unchanged):
                assert self._pointer is not None  # noqa: S101 - it named the revision
                await self._vouch(as_of)
                pointer, warnings, changed = self._pointer, outcome.warnings, False
                odds = None
            else:
                pointer = await _to_the_end(self._put_in_force(outcome, outcome.as_of))
                warnings, changed, odds = outcome.warnings, True, outcome.codes_per_pin
        return Applied(pointer.revision, pointer.as_of, pointer.counts, changed, warnings, odds)

    async def apply_bundle(
        self, signed: SignedManifest, payload: bytes, at: datetime, limits: Limits = LIMITS
    ) -> Applied:
        """Put a bundle in force whose chunks are all in `incoming`, entirely or not at all.

        Args:
            signed: Its manifest, which `check_manifest` has passed against `held`.
            payload: The manifest as it was signed.
            at: The one instant of this update.
            limits: From where on the impact guard asks for a second signature.

        Raises:
            BreaksRule: its content breaks a rule; what was in force stays, as below.
            RecordsRefused: the set has faults.
            StorageError: it can't be kept.
        """
        made = _EPOCH + timedelta(seconds=signed.manifest.made)
        async with self._change:
            pointer, epoch = self._pointer, self._floor.epoch
            recent: Recent = ()
            if pointer is not None and pointer.epoch == epoch and pointer.number is not None:
                made = max(made, pointer.as_of)
                recent = still_recent(pointer.recent, at, limits)
            order = BundleOrder(
                manifest=payload,
                signatures=len(signed.signers),
                limits=limits,
                epoch=epoch,
                as_of=made,
                at=at,
                recent=recent,
                table=pointer.file if pointer else "",
                table_sha256=pointer.sha256 if pointer else "",
            )
            with _handed(msgspec.json.encode(order)) as descriptor:
                outcome = await self._child("bundle", descriptor)
            assert isinstance(outcome, Compiled)  # noqa: S101 - `check_manifest` knows an equal one
            pointer = await _to_the_end(self._put_in_force(outcome, outcome.as_of))
        return Applied(
            pointer.revision,
            pointer.as_of,
            pointer.counts,
            changed=True,
            warnings=outcome.warnings,
            codes_per_pin=outcome.codes_per_pin,
        )

    async def raise_root(self, version: int, *, resets: bool, retimes: bool = False) -> None:
        """Remember durably that this root is in force (`Floor.rooted`). Raises StorageError."""
        async with self._change:
            floor = self._floor.rooted(version, resets=resets, retimes=retimes)
            if floor != self._floor:
                await _to_the_end(self._write_floor(floor))

    @property
    def untimed_root(self) -> int | None:
        """The root whose first beacon that proves the time may set it back (`Floor.untimed`)."""
        return self._floor.retimed if self._floor.untimed else None

    async def retimed(self, now: datetime) -> None:
        """It has: nothing is vouched for beyond `now`. Raises StorageError: it may again."""
        async with self._change:
            pointer, now = self._pointer, now.astimezone(UTC)
            if pointer is not None and pointer.as_of > now:
                lower = msgspec.structs.replace(pointer, as_of=now)
                await _to_the_end(self._write_pointer(lower))
            floor = msgspec.structs.replace(self._floor, untimed=False)
            await _to_the_end(self._write_floor(floor))

    async def audit(self) -> Audited:
        """Work out the digest anew from what is on the disk. Raises StorageError."""
        async with self._change:
            try:
                outcome = await self._child("audit")
            finally:
                await self._look_at_rows()
        assert isinstance(outcome, Audited)  # noqa: S101 - it was asked for
        return outcome

    async def touched(self) -> bool:
        """Whether a byte of the rows is another than when they were last written here, audited or
        looked at; False where that never was: what is found then is what later looks go by.
        Takes 0.15 s for 100,000 credentials, in which the interpreter is free.
        """
        async with self._change:
            known, before = self._rows_known, self._rows
            await self._look_at_rows()
        return known and self._rows != before

    async def _look_at_rows(self) -> None:
        self._rows = await asyncio.to_thread(_fingerprint, self._place.source)
        self._rows_known = True

    async def vouch(self, as_of: datetime) -> None:
        """Renew, durably, the moment up to which the set in force is known to be current.

        It never falls; without a set nothing happens.

        Raises:
            StorageError: it can't be written; the old moment holds.
        """
        async with self._change:
            await self._vouch(as_of.astimezone(UTC))

    async def _vouch(self, as_of: datetime) -> None:
        pointer = self._pointer
        if pointer is None or as_of <= pointer.as_of:
            return
        await _to_the_end(self._write_pointer(msgspec.structs.replace(pointer, as_of=as_of)))

    # --- The table in force -----------------------------------------------------------------------

    async def _put_in_force(self, made: Compiled, as_of: datetime) -> _Pointer:
        before = self._pointer.revision if self._pointer else ""
        previous = self._pointer.previous if self._pointer and before == made.revision else before
        pointer = _Pointer(
            made.file,
            made.sha256,
            made.revision,
            as_of,
            made.counts,
            self._opened_key().id,
            previous,
            made.number,
            made.digest,
            made.epoch,
            made.doors,
            made.recent,
        )
        self._check_floor(pointer.epoch, pointer.number)
        table = await asyncio.to_thread(self._map, pointer)
        await self._write_pointer(pointer)
        self.current, self._other_site = table, None
        await self._raise_floor(pointer)
        await asyncio.to_thread(self._tidy, pointer)
        await self._look_at_rows()
        return pointer

    async def _raise_floor(self, pointer: _Pointer) -> None:
        if pointer.number is None:
            return
        floor = self._floor.taken(pointer.epoch, pointer.number, pointer.digest)
        if floor == self._floor and not self.floor_lost:
            return
        try:
            await self._write_floor(floor)
        except StorageError as error:
            # The pointer has it: at the next start the higher of the two counts.
            _log.error("the floor of revision is not kept", why=str(error))

    async def _write_floor(self, floor: Floor) -> None:
        self._floor = floor
        await asyncio.to_thread(write_floor, self._place.floor, floor, self._opened_key())

    async def _write_pointer(self, pointer: _Pointer) -> None:
        line = msgspec.json.encode(pointer)
        mac = self._opened_key().mac(b"pointer 1", line).hex().encode()
        content = line + b"\n" + mac + b"\n"
        await asyncio.to_thread(write_atomically, self._place.pointer, content)
        self._pointer = pointer

    def _read_pointer(self) -> _Pointer | None:
        path = self._place.pointer
        try:
            with open_plain(path) as file:
                content = file.read(POINTER_BYTES_MAX)
            line, mac = content.splitlines()
            key = self._opened_key()
            if not hmac.compare_digest(mac, key.mac(b"pointer 1", line).hex().encode()):
                raise StorageError(f"{path.name}: damaged, or made with another credential key")
            return decode_json(line, _Pointer)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StorageError(f"{path.name}: can't be read: {error.strerror}") from error
        except (ValueError, Undecodable) as error:
            raise StorageError(f"{path.name}: damaged") from error

    def _map(self, pointer: _Pointer) -> CompiledEntitlements:
        path = self._place.directory / pointer.file
        table = CompiledEntitlements(path, pointer.sha256, self._opened_key())
        site = table.tables.site.id
        if site != self._place.site:
            self._other_site = site
            raise StorageError(f"{pointer.file}: {other_site(site, self._place.site)}")
        return table

    def _left_something(self) -> bool:
        return self._place.source.exists() or any(self._place.bundles.glob("*.jsonl"))

    def _tidy(self, pointer: _Pointer) -> None:
        """Leave the current and the previous of everything, and no half-made file."""
        keep = frozenset({pointer.revision, pointer.previous})
        tables = {self._place.table(revision) for revision in keep}
        try:
            for path in self._place.directory.glob("entitlements-*.mdb"):
                if path not in tables:
                    path.unlink()
            for path in self._place.directory.glob(".entitlements-*.new*"):
                path.unlink()
            remove_old_bundles(self._place.bundles, keep)
        except OSError as error:
            _log.warning("old entitlements could not be removed", why=error.strerror)

    # --- The child --------------------------------------------------------------------------------

    async def _rebuild(self, why: str) -> None:
        try:
            made = await self._child("rebuild")
            assert isinstance(made, Compiled)  # noqa: S101 - nothing can be refused or unchanged
            as_of = made.as_of
            if self._pointer is not None and self._pointer.revision == made.revision:
                as_of = max(as_of, self._pointer.as_of)
                made = msgspec.structs.replace(made, recent=self._pointer.recent)
            pointer = await _to_the_end(self._put_in_force(made, as_of))
        except StorageError as error:
            self._pointer = None
            self.rebuilt = Rebuilt(None, f"{why}; {error}")
            _log.error("the entitlements are lost", why=why, rebuilding=str(error))
        else:
            self.rebuilt = Rebuilt(pointer.revision, why)
            _log.error("the entitlements were compiled again", why=why, source=made.source)

    async def _child(
        self,
        what: Literal["records", "bundle", "rebuild", "audit"],
        descriptor: int | None = None,
        more: tuple[str, ...] = (),
    ) -> Compiled | Unchanged | Audited:
        """Run the child. Raises RecordsRefused, BreaksRule and StorageError."""
        command = [
            *self._launcher,
            sys.executable,
            "-m",
            "gateway.cache.apply",
            "--state",
            str(self._place.directory),
            "--key",
            str(self._key_file),
            "--site",
            self._place.site,
            "--key-id",
            self._opened_key().id,
            "--current",
            self.revision or "",
            what,
            *more,
        ]
        if not self._launcher:
            command += ["--parent", str(os.getpid())]
        if descriptor is None:
            return await self._run(command, ())
        return await self._run([*command, "--input", str(descriptor)], (descriptor,))

    async def _run(
        self, command: list[str], descriptors: tuple[int, ...]
    ) -> Compiled | Unchanged | Audited:
        answer, status = await self._answer(command, descriptors)
        try:
            outcome = decode_with(_OUTCOMES, answer)
        except Undecodable:
            raise StorageError(
                f"the process that compiles the records ended with {status}"
            ) from None
        if isinstance(outcome, Refused):
            raise RecordsRefused(outcome.faults)
        if isinstance(outcome, Broken):
            raise BreaksRule(Rule(outcome.rule), outcome.why)
        if isinstance(outcome, Failed):
            raise StorageError(outcome.why)
        return outcome

    async def _answer(
        self, command: list[str], descriptors: tuple[int, ...]
    ) -> tuple[bytes, int | None]:
        """What the child said and how it ended. Raises StorageError."""
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            pass_fds=descriptors,
        )
        try:
            async with asyncio.timeout(APPLY_S_MAX):
                answer, _ = await process.communicate()
        except TimeoutError:
            raise StorageError(
                f"compiling the records took more than {APPLY_S_MAX:.0f} s"
            ) from None
        finally:
            if process.returncode is None:
                process.kill()
                await asyncio.shield(process.wait())
        return answer, process.returncode

    def _opened_key(self) -> CredentialKey:
        if self._key is None:
            raise StorageError("the cache is not open")
        return self._key


def _fingerprint(path: Path) -> bytes | None:
    """Of a database file and what SQLite has not merged into it yet; None where it can't be read.

    BLAKE2: without instructions of its own, as on a Raspberry Pi 4, twice as fast as SHA-256.
    """
    parts = [path, path.with_name(f"{path.name}-wal")]
    try:
        found = []
        for each in parts:
            if each.exists():
                with open_plain(each) as file:
                    found.append(hashlib.file_digest(file, "blake2b").digest())
        return b"".join(found)
    except OSError:
        return None


@contextmanager
def _handed(content: bytes) -> Iterator[int]:
    """A descriptor for the child to read from. In memory only: it may hold card numbers."""
    descriptor = os.memfd_create("input")
    try:
        with os.fdopen(os.dup(descriptor), "wb") as file:
            file.write(content)
        os.lseek(descriptor, 0, os.SEEK_SET)
        yield descriptor
    finally:
        os.close(descriptor)


async def _to_the_end(change: Coroutine[None, None, _T]) -> _T:
    """Finish a change even if its caller is cancelled meanwhile, and raise that afterwards.

    What is in memory must be what the disk says, and a thread's write can't be called back.
    """
    task = asyncio.ensure_future(change)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        if failure := task.exception():
            _log.error("the change failed", why=str(failure))
        raise cancelled
    return task.result()
