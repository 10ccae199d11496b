"""How signed bundles and roots get in force, whichever way they come, and how that is proven."""

import asyncio
import hashlib
import os
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec
import structlog
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gateway.cache import Applied, Cache
from gateway.clock import Clock
from gateway.config.site import SiteTable
from gateway.domain.impact import LIMITS, Limits
from gateway.errors import RecordsRefused, StorageError
from gateway.trust.bundle import (
    CHUNK_BYTES_MAX,
    DOCUMENT_BYTES_MAX,
    Changes,
    Manifest,
    Revision,
    SignedManifest,
    check_chunk,
    check_manifest,
    unframed,
)
from gateway.trust.parity import Parity
from gateway.trust.root import (
    Now,
    Roots,
    next_root,
    opened_document,
    resets_revision,
    resets_time,
)
from gateway.trust.rules import BreaksRule, Rule

log = structlog.get_logger()

NEED_CHUNKS_MAX = 64
"""Chunks asked for at a time: as many messages as the link holds for the core."""
SAME_QUESTION = timedelta(seconds=2)
"""However often it would be asked, as by many beacons: an answer is on its way."""
ASK_AGAIN = timedelta(seconds=10)
"""How long nothing of what was asked for may come before it is asked for again."""
LOOK_S = 1.0
PARITY_EVERY = timedelta(minutes=1)
ANSWER_EVERY = timedelta(seconds=1)
"""Reports that answer beacons: anybody can send one again, and a nonce is asked for with each."""
AUDIT_EVERY = timedelta(hours=1)
"""How often the digest is worked out anew: it reads every record, beside the doors' work."""
ROWS_LOOKED_AT_EVERY = timedelta(seconds=30)
"""How often it is seen whether a byte of them is another, and if so the digest worked out at once:
drift is told within 60 s (P24)."""
DOCUMENTS_AT_ONCE = 10
DOCUMENT_EVERY = timedelta(seconds=1)
"""Documents that are looked at, then one each second: reading a hostile one takes 20 ms."""
EARLY_CHUNKS_MAX = 64
"""Chunks kept in memory that come before their document has been looked at: as many as are asked
for at a time. The oldest go first."""
EARLY_BYTES_MAX = 8 * 1024 * 1024
EARLY_FOR = timedelta(minutes=1)
"""How long they are kept: documents wait this long where many come at once, or a set is applied."""
DROPPED_TOLD_EVERY = timedelta(seconds=1)
"""How often the log tells of those that are not looked at: a flood must not fill the disk."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Told(NamedTuple):
    """Whom it tells."""

    publish: Callable[[Literal["sync/need", "parity"], bytes], None]
    """A message for `sync/need` or `parity`."""
    applied: Callable[[Applied], None]
    cards: Callable[[bytes], Awaitable[None]] | None
    """The records that came, as JSON Lines, for controllers that keep cards themselves."""
    refused: Callable[[BreaksRule | RecordsRefused], None]
    """What came is not taken. `equal` and `missing_base` are no refusals and not told."""
    nonce: Callable[[], bytes]
    """A fresh one for a report."""


class Sync:
    """`run` it beside the core. What comes is taken in by `document` and `chunk` at once; it is
    applied by `run`, so that nobody who delivers something waits for that.
    """

    def __init__(
        self,
        site: SiteTable,
        *,
        cache: Cache,
        roots: Roots,
        clock: Clock,
        key: Ed25519PrivateKey | None,
        state: Path,
        floor: Callable[[], datetime | None],
        told: Told,
        limits: Limits = LIMITS,
    ) -> None:
        self._site = site
        self._cache = cache
        self._roots = roots
        self._clock = clock
        self._key = key
        self._state = state
        self._floor = floor
        self._told = told
        self._limits = limits
        self._turn = asyncio.Lock()
        self._store = asyncio.Lock()
        self._news = asyncio.Event()
        self._documents: deque[bytes] = deque()
        self._coming: SignedManifest | None = None
        self._missing: set[bytes] = set()
        self._early: deque[tuple[timedelta, bytes]] = deque()
        self._budget = float(DOCUMENTS_AT_ONCE)
        self._budget_at = clock.monotonic()
        self._asked = b""
        self._asked_at = clock.monotonic()
        self._told_buckets = False
        self._drifted: tuple[bytes, bytes] | None = None
        self._unread: str | None = None
        """Why the digest can't be worked out."""
        self._too_large: str | None = None
        """Why the newest bundle waits for a second signature."""
        self._wanted: Revision | None = None
        self._answer_next = clock.monotonic()
        self._greeted_next = clock.monotonic()
        self._greets = False
        """A session has begun that was not greeted yet."""
        self._lost = False
        """A document was not looked at: it may have been the one that is waited for."""
        self._dropped = 0
        self._drop_told_next = clock.monotonic()

    @property
    def in_force(self) -> Revision | None:
        """The signed revision in force; its digest is the disk's, which may have drifted."""
        found = self._cache.held.in_force
        if found is None or self._drifted is None:
            return found
        return Revision(found.number, self._drifted[0])

    async def open(self) -> None:
        """Go on with what was coming in before a restart."""
        # A later installation's root, or a floor that was lost; else it is there already.
        try:
            await self._cache.raise_root(self._roots.current.version, resets=False)
            for version in self._roots.resets:
                await self._cache.raise_root(version, resets=True)
            for version in self._roots.retimes:
                await self._cache.raise_root(version, resets=False, retimes=True)
        except StorageError as error:
            # It holds for this process, and the doors don't wait for a disk.
            log.error("revision_floor_unwritten", reason=str(error))
        document = await asyncio.to_thread(self._cache.incoming.document)
        if document is None:
            return
        try:
            self._begin_again(self._check(document))
        except BreaksRule:
            self._cache.incoming.clear()

    async def run(self) -> None:
        """Apply what is whole, ask for what is missing, report, until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._apply_what_comes(), name="apply")
            group.create_task(self._report_now_and_then(), name="parity")
            group.create_task(self._audit_now_and_then(), name="audit")

    # --- What comes -------------------------------------------------------------------------------

    def document(self, data: bytes) -> None:
        """A root or a manifest, from anybody: taken if it is good, told of if it is not."""
        if self._may_look() and len(self._documents) < DOCUMENTS_AT_ONCE:
            self._documents.append(data)
            self._news.set()
        else:
            self._drop()

    async def chunk(self, data: bytes) -> None:
        """Take a chunk, from anybody: one that is missing is kept on the disk, and any other in
        memory for a minute, because its document may be looked at only then.

        Raises:
            StorageError: it can't be kept.
        """
        if not self._missing:
            self._keep_early(data)
            return
        sha256 = hashlib.sha256(data).digest()
        async with self._store:
            if sha256 not in self._missing:
                self._keep_early(data)
                return
            await asyncio.to_thread(self._cache.incoming.put, sha256, data)
            self._missing.discard(sha256)
        self._asked_at = self._clock.monotonic()
        if not self._missing:
            self._news.set()
        elif len(self._missing) % NEED_CHUNKS_MAX == 0:
            self.refresh()

    async def file(self, data: bytes) -> Applied:
        """A `.bundle` file, from an operator: put in force now, or not at all.

        Raises:
            BreaksRule: it is not taken.
            RecordsRefused: its set has faults.
            StorageError: it can't be kept.
        """
        async with self._turn:
            try:
                document, *chunks = unframed(data)
                signed = await asyncio.to_thread(self._check, document)
                _check_chunks(signed.manifest, chunks)
                async with self._store:
                    await asyncio.to_thread(self._keep, document, signed.manifest, chunks)
                    self._begin_again(signed)
                return await self._apply(document)
            except BreaksRule as broken:
                self._refuse(broken)
                raise
            except RecordsRefused as refused:
                self._told.refused(refused)
                raise

    async def root(self, data: bytes) -> None:
        """The successor of the root in force.

        Raises:
            BreaksRule: it is none.
            StorageError: it can't be kept.
        """
        before = self._roots.current
        after = next_root(before, data)
        # The floor first: were it the other way round, a power cut in between would lose a reset.
        await self._cache.raise_root(
            after.version,
            resets=resets_revision(before, after),
            retimes=resets_time(before, after),
        )
        await asyncio.to_thread(self._roots.take, data)
        log.info("the key set is replaced", version=after.version)
        # What a key that is no longer named has begun must not be waited for: it may never end, and
        # an honest revision below it would be taken for one that comes late.
        coming = await asyncio.to_thread(self._cache.incoming.document)
        if self._coming is None or coming is None:
            return
        try:
            await asyncio.to_thread(self._check, coming)
        except BreaksRule:
            await self._forget_coming()

    def problems(self) -> list[str]:
        """What somebody should look at, a line each."""
        root, floor = self._roots.current, self._cache.root_floor
        found = []
        if root.version < floor:
            found.append(f"root {floor} was in force, {root.version} is here: no bundle is taken")
        elif root.is_expired(self._now()):
            found.append(f"root {root.version} has expired: nothing but its successor is taken")
        if self._drifted is not None:
            found.append("records on the disk have drifted: a repair is asked for")
        if self._unread is not None:
            found.append(
                f"records on the disk can't be read, the next bundle mends them: {self._unread}"
            )
        if self._too_large is not None:
            found.append(f"new records are refused: {self._too_large}")
        return found

    def refresh(self) -> None:
        """Ask the source of truth for what is missing here."""
        need, now = self.need(), self._clock.monotonic()
        if need == self._asked and now - self._asked_at < SAME_QUESTION:
            return
        self._asked, self._asked_at = need, now
        self._told.publish("sync/need", need)

    def wanted(self, revision: int, digest: bytes, *, answers: bool) -> None:
        """What the last beacon wants in force. A report answers it, unless it `answers` one itself:
        then only where there is more to say. One that is said again and again gets no flood of
        reports.
        """
        self._wanted = Revision(revision, digest)
        now = self._clock.monotonic()
        if self._buckets_to_tell() is not None and not self._told_buckets:
            self.report()
        elif not answers and now >= self._answer_next:
            self._answer_next = now + ANSWER_EVERY
            self.report()

    async def _document(self, data: bytes) -> None:
        document = await asyncio.to_thread(opened_document, data, DOCUMENT_BYTES_MAX)
        if _is_root(document.payload):
            await self.root(data)
            self.refresh()
            return
        try:
            signed = await asyncio.to_thread(self._check, data)
        except BreaksRule as broken:
            if broken.rule is Rule.MISSING_BASE:
                self.refresh()
            raise
        if self._coming is not None and not self._goes_before(signed, self._coming):
            return
        async with self._store:
            await asyncio.to_thread(self._keep, data, signed.manifest, [])
            self._begin_again(signed)
            await self._take_early()
        if self._missing:
            self.refresh()

    def _keep_early(self, data: bytes) -> None:
        if len(data) <= CHUNK_BYTES_MAX:
            self._early.append((self._clock.monotonic(), data))
            self._drop_early()

    def _drop_early(self) -> None:
        oldest = self._clock.monotonic() - EARLY_FOR
        while self._early and (
            self._early[0][0] < oldest
            or len(self._early) > EARLY_CHUNKS_MAX
            or sum(len(each) for _, each in self._early) > EARLY_BYTES_MAX
        ):
            self._early.popleft()

    async def _take_early(self) -> None:
        """Keep those of the early chunks that the document which has just come names."""
        self._drop_early()
        for each in list(self._early):
            sha256 = await asyncio.to_thread(_sha256, each[1])
            if sha256 in self._missing:
                await asyncio.to_thread(self._cache.incoming.put, sha256, each[1])
                self._missing.discard(sha256)
                with suppress(ValueError):
                    self._early.remove(each)
        if not self._missing:
            self._news.set()

    @staticmethod
    def _goes_before(comes: SignedManifest, coming: SignedManifest) -> bool:
        """Whether a manifest takes the place of the one whose chunks are awaited."""
        new, old = comes.manifest, coming.manifest
        if new.revision != old.revision:
            return new.revision > old.revision  # an older one comes late
        return new.chunks != old.chunks or len(comes.signers) > len(coming.signers)

    def _check(self, document: bytes) -> SignedManifest:
        root, held = self._roots.current, self._cache.held
        if root.version < self._cache.root_floor:
            raise BreaksRule(
                Rule.ROLLBACK, f"root {root.version}: {self._cache.root_floor} was in force already"
            )
        disk = os.statvfs(self._state)
        return check_manifest(
            document,
            root,
            held,
            gateway=self._site.gateway,
            now=self._now(),
            disk_free=disk.f_bavail * disk.f_frsize,
        )

    def _keep(self, document: bytes, manifest: Manifest, chunks: list[bytes]) -> None:
        incoming = self._cache.incoming
        incoming.begin(document, [chunk.sha256 for chunk in manifest.chunks])
        for chunk, content in zip(manifest.chunks, chunks, strict=False):
            incoming.put(chunk.sha256, content)

    def _begin_again(self, signed: SignedManifest) -> None:
        self._coming = signed
        self._asked = b""
        chunks = [chunk.sha256 for chunk in signed.manifest.chunks]
        self._missing = set(self._cache.incoming.missing(chunks))
        if not self._missing:
            self._news.set()

    def _refuse(self, broken: BreaksRule) -> None:
        if broken.rule in (Rule.EQUAL, Rule.MISSING_BASE):
            log.info("not taken", why=str(broken))
        else:
            log.error("refused", why=str(broken))
            self._told.refused(broken)
            if broken.rule is Rule.IMPACT:
                self._too_large = str(broken)

    def _drop(self) -> None:
        self._lost = True
        self._dropped += 1
        now = self._clock.monotonic()
        if now >= self._drop_told_next:
            self._drop_told_next = now + DROPPED_TOLD_EVERY
            log.warning("too many documents: some are dropped", count=self._dropped)
            self._dropped = 0

    def _may_look(self) -> bool:
        now = self._clock.monotonic()
        self._budget += (now - self._budget_at) / DOCUMENT_EVERY
        self._budget = min(self._budget, float(DOCUMENTS_AT_ONCE))
        self._budget_at = now
        if self._budget < 1:
            return False
        self._budget -= 1
        return True

    def _now(self) -> Now:
        """An untrusted clock may say anything; it is not before the floor of time."""
        if self._clock.trust().decides_as_trusted:
            return Now(self._clock.now(), trusted=True)
        return Now(self._floor() or _EPOCH, trusted=False)

    # --- What is done about it --------------------------------------------------------------------

    async def _apply_what_comes(self) -> None:
        while True:
            if self._lost and self._clock.monotonic() - self._asked_at >= SAME_QUESTION:
                self._lost = False
                self.refresh()
            if self._greets:
                self.connected()
            try:
                async with asyncio.timeout(LOOK_S):
                    await self._news.wait()
            except TimeoutError:
                if self._missing and self._clock.monotonic() - self._asked_at >= ASK_AGAIN:
                    self.refresh()
                continue
            self._news.clear()
            async with self._turn:
                while self._documents:
                    await self._look_at(self._documents.popleft())
                await self._apply_coming()

    async def _look_at(self, data: bytes) -> None:
        try:
            await self._document(data)
        except BreaksRule as broken:
            self._refuse(broken)
        except StorageError as error:
            log.error("what comes in is not kept", why=str(error))

    async def _apply_coming(self) -> None:
        document = await asyncio.to_thread(self._cache.incoming.document)
        if document is None or self._coming is None or self._missing:
            return
        try:
            await self._apply(document)
        except BreaksRule as broken:
            self._refuse(broken)
        except RecordsRefused as refused:
            self._told.refused(refused)
        except StorageError as error:
            log.error("the bundle is not applied", why=str(error))

    async def _apply(self, document: bytes) -> Applied:
        """Put in force what is whole; whatever comes of it, it is not coming in any more."""
        try:
            now = self._now()
            signed = await asyncio.to_thread(self._check, document)
            payload = opened_document(document, DOCUMENT_BYTES_MAX).payload
            applied = await self._cache.apply_bundle(signed, payload, now.at, self._limits)
            if self._told.cards is not None:
                await self._told.cards(await asyncio.to_thread(self._records, signed.manifest))
        finally:
            await self._forget_coming()
        self._drifted = self._unread = self._too_large = None
        self._told.applied(applied)
        self.report()
        return applied

    async def _forget_coming(self) -> None:
        async with self._store:
            self._coming = None
            self._missing.clear()
            await asyncio.to_thread(self._cache.incoming.clear)

    def _records(self, manifest: Manifest) -> bytes:
        incoming, changes = self._cache.incoming, Changes(manifest)
        return b"".join(
            change.line + b"\n"
            for chunk in manifest.chunks
            for change in changes.read(chunk, incoming.chunk(chunk.sha256))
            if change.type == "credential"
        )

    # --- What is said -----------------------------------------------------------------------------

    def need(self) -> bytes:
        """What is missing here, for `sync/need`."""
        enforced = self.in_force
        return msgspec.json.encode(
            {
                "v": 1,
                "revision": enforced and enforced.number,
                "digest": enforced and enforced.digest.hex(),
                "chunks": [each.hex() for each in sorted(self._missing)[:NEED_CHUNKS_MAX]],
                "root": self._roots.current.version,
            }
        )

    def connected(self) -> None:
        """Ask and report at the beginning of a session, at most once in ANSWER_EVERY.

        Sessions that begin faster are greeted once, a little later.
        """
        self._greets = True
        now = self._clock.monotonic()
        if now >= self._greeted_next:
            self._greets = False
            self._greeted_next = now + ANSWER_EVERY
            self.refresh()
            self.report()

    def report(self) -> None:
        """Say what is enforced."""
        if self._key is None:
            return  # as the log says since the start
        self._told.publish("parity", self.parity().sealed(self._key))

    def parity(self) -> Parity:
        """The report as it is now."""
        enforced, as_of = self.in_force, self._cache.as_of
        buckets = self._buckets_to_tell()
        self._told_buckets = buckets is not None
        return Parity(
            site=self._site.id,
            gateway=self._site.gateway,
            at_ms=(self._clock.now() - _EPOCH) // timedelta(milliseconds=1),
            trust=int(self._clock.trust()),
            enforced=enforced,
            as_of=None if as_of is None else (as_of - _EPOCH) // timedelta(seconds=1),
            root=self._roots.current.version,
            records=self._cache.counts,
            doors=self._cache.ways_in,
            nonce=self._told.nonce(),
            buckets=buckets,
        )

    def _buckets_to_tell(self) -> bytes | None:
        """Where the disk has another digest than the source of truth says of this revision."""
        enforced, wanted = self.in_force, self._wanted
        if self._drifted is None or enforced is None or wanted is None:
            return None
        differs = wanted.number == enforced.number and wanted.digest != enforced.digest
        return self._drifted[1] if differs else None

    async def audit(self) -> bool:
        """Work out the digest from what is on the disk; whether it is the one that was signed.

        Raises:
            StorageError: it can't be read.
        """
        held = self._cache.held.in_force
        if held is None:
            return True
        try:
            found = await self._cache.audit()
        except StorageError as error:
            self._unread = str(error)
            raise
        self._unread = None
        if self._cache.held.in_force != held:
            return True  # another set has come in force meanwhile
        if found.digest == held.digest.hex():
            self._drifted = None
            return True
        log.error("records on the disk have drifted", damaged=found.damaged)
        self._drifted = bytes.fromhex(found.digest), bytes.fromhex(found.buckets)
        self.report()
        return False

    async def _report_now_and_then(self) -> None:
        while True:
            self._drop_early()
            self.report()
            await asyncio.sleep(PARITY_EVERY.total_seconds())

    async def _audit_now_and_then(self) -> None:
        while True:
            try:
                await self.audit()
            except StorageError as error:
                log.error("the digest can't be worked out", why=str(error))
            for _ in range(AUDIT_EVERY // ROWS_LOOKED_AT_EVERY):
                await asyncio.sleep(ROWS_LOOKED_AT_EVERY.total_seconds())
                if await self._cache.touched():
                    log.error("records on the disk were changed by somebody else")
                    break


def _sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def _is_root(payload: bytes) -> bool:
    """Whether a document is meant to be a root, by the first key of its map: nobody has looked at
    its signatures, so nothing is decoded.
    """
    return payload[1:6] == b"\x64keys"


def _check_chunks(manifest: Manifest, chunks: list[bytes]) -> None:
    if len(chunks) != len(manifest.chunks):
        raise BreaksRule(Rule.CHUNK, f"{len(chunks)} chunks, not {len(manifest.chunks)}")
    for chunk, content in zip(manifest.chunks, chunks, strict=True):
        check_chunk(chunk, content)
