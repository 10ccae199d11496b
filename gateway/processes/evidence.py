"""What proves what happened: the gateway's key, its signatures on the journal, exports, erasure."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import structlog
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gateway.clock import Clock
from gateway.config.site import SiteTable
from gateway.domain import events
from gateway.errors import StorageError
from gateway.ipc.messages import FETCH_BYTES_MAX, Erased, ExportHead, Proof, ProofRow, Sealed
from gateway.journal import Head, Journal
from gateway.sqlite import kept_aside
from gateway.trust.claims import CHECKPOINT, EXPORT, Claim, gateway_key, sign_claim

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
log = structlog.get_logger()


class Evidence:
    """`journal` is asked for when it is needed: it needs `sign` itself."""

    def __init__(
        self,
        site: SiteTable,
        state: Path,
        environment: Mapping[str, str],
        journal: Callable[[], Journal],
        clock: Clock,
    ) -> None:
        self._site = site
        self._journal_of = journal
        self._clock = clock
        self._key: Ed25519PrivateKey | None = None
        try:
            self._key = gateway_key(state, environment)
        except StorageError as error:
            # Doors don't wait for it; checkpoints begin at the next start that finds a disk.
            log.error("no key of its own: the journal is not signed", why=str(error))

    @property
    def key(self) -> Ed25519PrivateKey | None:
        """The gateway's own key."""
        return self._key

    @property
    def public_key(self) -> str | None:
        """Its 32 bytes in hex."""
        return None if self._key is None else self._key.public_key().public_bytes_raw().hex()

    def sign(self, head: Head) -> bytes | None:
        """A checkpoint; None without a key."""
        if self._key is None:
            return None
        claim = self._claim(Head(head.stream, 0, bytes(32)), head)
        return sign_claim(claim, self._key, CHECKPOINT)

    async def export_head(self) -> ExportHead:
        """See `CoreApi.export_head`."""
        anchor = await self._journal_of().anchor()
        return ExportHead(
            site=self._site.id,
            gateway=self._site.gateway,
            stream=anchor.stream,
            after=anchor.seq,
            anchor=anchor.chain,
            last=self._journal_of().last_committed,
        )

    async def proof_after(self, after: int, limit: int) -> Proof:
        """See `CoreApi.proof_after`."""
        room = FETCH_BYTES_MAX
        rows: list[ProofRow] = []
        for row in await self._journal_of().proof_after(after, limit):
            room -= len(row.public) + len(row.personal or b"")
            if room < 0 and rows:
                break
            rows.append(ProofRow(*row))
        return Proof(rows=rows)

    async def seal(self, after: int, seq: int) -> Sealed:
        """See `CoreApi.seal`."""
        journal = self._journal_of()
        anchor = await journal.anchor()
        rows = await journal.proof_after(seq - 1, 1)
        if self._key is None:
            raise StorageError("the gateway has no key of its own: see its log")
        if anchor.seq != after or not rows or rows[0].seq != seq:
            raise StorageError(f"events after {after} up to {seq} are not here any more: try again")
        claim = self._claim(anchor, Head(anchor.stream, seq, rows[0].chain))
        return Sealed(message=sign_claim(claim, self._key, EXPORT))

    async def erase(self, holder: str, by: str, why: str) -> Erased:
        """See `CoreApi.erase`."""
        journal = self._journal_of()
        gone, kept = await journal.erase(holder)
        # Who it was must not stand here again.
        journal.append(events.HolderErased(**self._now(), by=by, why=why, events=gone))
        return Erased(
            events=gone, kept=kept, set_aside=[kept.name for kept in kept_aside(journal.path)]
        )

    def _claim(self, anchor: Head, head: Head) -> Claim:
        now = self._clock.now()
        return Claim(
            site=self._site.id,
            gateway=self._site.gateway,
            stream=head.stream,
            after=anchor.seq,
            anchor=anchor.chain,
            seq=head.seq,
            chain=head.chain,
            at_ms=(now - _EPOCH) // timedelta(milliseconds=1),
            trust=int(self._clock.trust()),
        )

    def _now(self) -> dict[str, Any]:
        return {"at": self._clock.now(), "trust": int(self._clock.trust())}
