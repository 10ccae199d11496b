"""What comes sealed from the source of truth: judged here, by keys that only the core believes."""

import secrets
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import structlog
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gateway import logs
from gateway.cache import Cache
from gateway.clock import SystemClock
from gateway.config.site import SiteConfig, TrustTable
from gateway.control.commanding import Commands, Office
from gateway.control.memory import SiteMemory
from gateway.control.orders import Orders
from gateway.control.site import SiteController
from gateway.domain import events
from gateway.domain.carried_grant import Presented
from gateway.errors import ConfigError, Fault, StorageError
from gateway.ipc.messages import Deliver, Outgoing
from gateway.ipc.outbox import Outbox
from gateway.journal import Journal
from gateway.trust.beacon import NONCE_BYTES, Beacon, Freshness, Whose, open_ack
from gateway.trust.commands import Result, seal_result
from gateway.trust.grants import verify
from gateway.trust.root import ROOT_BYTES_MAX, KeySet, Now, Roots, first_root
from gateway.trust.rules import BreaksRule, Rule

log = structlog.get_logger()

REFUSED_EVERY = timedelta(minutes=10)
"""How often what is refused is told of, by what and why: a flood must not fill the journal."""
CLOCK_OFF_MIN = timedelta(seconds=2)
"""A clock that is so far off, or by so much otherwise than was last told, is told of."""
RESULT_LINES_BYTES_MAX = 48 * 1024
"""Of a log in one result."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Parts(NamedTuple):
    """What it works on."""

    config: SiteConfig
    clock: SystemClock
    journal: Journal
    cache: Cache
    memory: SiteMemory
    site: SiteController
    orders: Orders
    record: Callable[[events.Event], None]
    report_ack: Callable[[str, int], Awaitable[int]]
    """Told of an acknowledgement beyond the last event."""
    set_floor: Callable[[datetime], Awaitable[None]]
    """Keeps a floor of time that may be lower than before. Raises StorageError."""


class Downlink:
    """At a site with [trust]. `in_force` gives the signed revision in force and its digest;
    `wanted` hears of each beacon that is taken, whatever its instant: one far ahead must not be the
    last word.
    """

    def __init__(
        self,
        parts: Parts,
        roots: Roots,
        key: Ed25519PrivateKey | None,
        outbox: Outbox,
        *,
        in_force: Callable[[], tuple[int, bytes] | None],
        refresh: Callable[[], None],
        wanted: Callable[[Beacon], None],
    ) -> None:
        config, trust = parts.config, parts.config.trust
        assert trust is not None  # noqa: S101 - who makes one has looked
        self._parts = parts
        self._roots = roots
        self._key = key
        self._outbox = outbox
        self._in_force = in_force
        self._refresh = refresh
        self._wanted = wanted
        whose = Whose(config.site.id, config.site.gateway)
        self._whose = whose
        self._freeze_after = timedelta(minutes=trust.freeze_after_min)
        self.freshness = Freshness(whose, self._freeze_after, parts.clock.monotonic())
        self._refused = Counter[tuple[str, str]]()
        self._refused_next: dict[tuple[str, str], timedelta] = {}
        self._told_off = timedelta()
        self._commands = Commands(
            audience(config),
            keys=self._keys,
            doors=parts.site,
            orders=parts.orders,
            office=Office(refresh, recent_log),
            journal=parts.journal,
            memory=parts.memory,
            clock=parts.clock,
            now=self._now,
            answer=self._answer,
            refused=lambda reason: self.refuse("cmd", reason),
        )

    async def take(self, deliver: Deliver) -> None:
        """Judge an acknowledgement, a beacon or a command; what is thought of it is told by events
        and results.
        """
        try:
            if deliver.topic == "cmd":
                self._commands.take(deliver.sealed, retained=deliver.retained)
            elif deliver.retained:
                # It may be of any age, and nothing that counts is ever sent so.
                self.refuse(deliver.topic, "retained")
            elif deliver.topic == "ack":
                await self._acknowledged(deliver.sealed)
            elif deliver.topic == "beacon":
                await self._beacon(deliver.sealed)
        except BreaksRule as broken:
            self.refuse(deliver.topic, broken.rule.value)
        except StorageError as error:
            log.error("not kept", what=deliver.topic, why=str(error))

    def nonce(self) -> bytes:
        """A fresh one for a report: a beacon that answers it in time vouches for the time."""
        nonce = secrets.token_bytes(NONCE_BYTES)
        self.freshness.sent(nonce, self._parts.clock.monotonic())
        return nonce

    def session(self, *, there: bool) -> None:
        """Whether there is a session with the broker."""
        self.freshness.session(there=there, now=self._parts.clock.monotonic())

    def look(self) -> None:
        """See whether beacons are missing; asked now and then."""
        turned = self.freshness.turned(self._parts.clock.monotonic())
        if turned == "missing":
            minutes = self._freeze_after // timedelta(minutes=1)
            log.error("no beacon comes, though the broker is there", minutes=minutes)
            self._parts.record(events.BeaconsMissing(**self._stamp(), minutes=minutes))
        elif turned == "back":
            log.info("beacons come again")
            self._parts.record(events.BeaconsBack(**self._stamp()))

    def problems(self) -> list[str]:
        """What somebody should look at, a line each."""
        if not self.freshness.missing:
            return []
        minutes = self._freeze_after // timedelta(minutes=1)
        return [f"beacons: none for {minutes} minutes or more, though the broker is there"]

    async def close(self) -> None:
        """Give up what is under way."""
        await self._commands.close()

    async def _acknowledged(self, sealed: bytes) -> None:
        ack = open_ack(sealed, self._must_believe(), self._whose)
        journal = self._parts.journal
        if ack.stream == journal.stream and ack.seq > journal.last_committed:
            await self._parts.report_ack(ack.stream, ack.seq)
        else:
            await journal.acknowledge(ack.stream, ack.seq)

    async def _beacon(self, sealed: bytes) -> None:
        mono = self._parts.clock.monotonic()
        keys, in_force = self._must_believe(), self._in_force()
        heard = self.freshness.take(sealed, keys, in_force, self._now(), mono)
        sets_right = heard.time is not None and self._may_set_right(keys, heard.time[0])
        if heard.time is not None:
            if sets_right:
                self._parts.clock.set_right(heard.time[0])
            self._vouch(*heard.time)
        self.look()
        try:
            if heard.time is not None and sets_right:
                # In this order: until all is on disk the next one may do it again.
                await self._parts.set_floor(heard.time[0])
                await self._parts.cache.retimed(heard.time[1])
                log.warning("new keys have set the time", floor=heard.time[0].isoformat())
            if heard.as_of is not None:
                await self._parts.cache.vouch(heard.as_of)
        finally:  # a disk that takes nothing is no reason to ask and to report nothing
            if heard.asks or heard.beacon.root > keys.version:
                self._refresh()
            self._wanted(heard.beacon)

    def _may_set_right(self, keys: KeySet, earliest: datetime) -> bool:
        """Whether this is the first proof of time since all keys for it were replaced. A root is
        remembered before it is in force: until then its predecessor's keys still speak.
        """
        root = self._parts.cache.untimed_root
        return root is not None and keys.version >= root and earliest >= made(keys)

    def sure(self) -> datetime:
        """It is later than this, whatever a stolen `freshness` key said."""
        return made(self._roots.current)

    def _keys(self) -> KeySet | None:
        return believed(self._roots, self._parts.cache)

    def _must_believe(self) -> KeySet:
        keys = self._keys()
        if keys is None:
            raise BreaksRule(Rule.UNKNOWN_KEY, "a later key set than this was in force already")
        return keys

    def _now(self) -> Now:
        """The instant to judge by: with an untrusted clock it can't be before the floor."""
        clock = self._parts.clock
        if clock.trust().decides_as_trusted:
            return Now(clock.now(), trusted=True)
        return Now(clock.floor or _EPOCH, trusted=False)

    def _vouch(self, earliest: datetime, latest: datetime) -> None:
        off = self._parts.clock.vouch(earliest, latest)
        told = self._told_off
        if abs(off - told) < CLOCK_OFF_MIN or (abs(off) < CLOCK_OFF_MIN and not told):
            return
        self._told_off = timedelta() if abs(off) < CLOCK_OFF_MIN else off
        ahead_ms = round(self._told_off / timedelta(milliseconds=1))
        log.error("the machine's clock is off: the beacon's time is taken", ahead_ms=ahead_ms)
        self._parts.record(events.ClockOff(**self._stamp(), ahead_ms=ahead_ms))

    def refuse(self, what: str, reason: str) -> None:
        """Count what is refused, and tell of it once in a while."""
        kind, now = (what, reason), self._parts.clock.monotonic()
        self._refused[kind] += 1
        if now < self._refused_next.get(kind, now):
            return
        self._refused_next[kind] = now + REFUSED_EVERY
        count = self._refused.pop(kind)
        log.warning("refused", what=what, reason=reason, count=count)
        self._parts.record(
            events.SealedRefused(**self._stamp(), what=what, reason=reason, count=count)
        )

    def _answer(self, result: Result) -> None:
        if self._key is None:
            log.error("no key of its own: a result is not signed, and not sent")
            return
        payload = seal_result(result, self._key)
        self._outbox.put(Outgoing(topic="cmd/result", payload=payload))

    def _stamp(self) -> dict[str, Any]:
        return {"at": self._parts.clock.now(), "trust": int(self._parts.clock.trust())}


def made(keys: KeySet) -> datetime:
    """The instant of a key set, before which it can't be."""
    return _EPOCH + timedelta(seconds=keys.made)


def audience(config: SiteConfig) -> str:
    """How grants and commands name this gateway."""
    return f"{config.site.id}/{config.site.gateway}"


def believed(roots: Roots, cache: Cache) -> KeySet | None:
    """The key set in force; None where a later one was already and is lost: what it no longer
    named must not be believed again.
    """
    return roots.current if roots.current.version >= cache.root_floor else None


def grant_verifier(
    config: SiteConfig, roots: Roots | None, cache: Cache
) -> Callable[[str], Presented]:
    """How doors verify the text of a carried grant."""
    if roots is None:
        return lambda _text: "grant_unknown_key"
    here = audience(config)

    def verified(text: str) -> Presented:
        keys = believed(roots, cache)
        if keys is None:
            return "grant_unknown_key"
        until = _EPOCH + timedelta(seconds=min(keys.expires, _LAST_SECOND))
        return verify(text, keys.keys_of("grant"), here, believed_until=until)

    return verified


_LAST_SECOND = 253_402_300_799


def opened_roots(trust: TrustTable, site: str, directory: Path) -> Roots:
    """The key set in force, followed from the installation's root.

    Raises:
        ConfigError: the root document can't be read, or is no root of this site.
        StorageError: the directory of its successors can't be made.
    """
    roots = Roots(installed_root(trust, site), directory)
    ended = roots.open()
    if ended is not None:
        log.error("the chain of roots ends early", why=ended, version=roots.current.version)
    return roots


def installed_root(trust: TrustTable, site: str) -> KeySet:
    """The key set that came with the installation. Raises ConfigError."""
    try:
        with Path(trust.root).open("rb") as file:
            return first_root(file.read(ROOT_BYTES_MAX + 1), site)
    except OSError as error:
        why = f"{trust.root}: {error.strerror}"
        raise ConfigError("site.toml", [Fault("trust.root", why)]) from error
    except BreaksRule as broken:
        raise ConfigError("site.toml", [Fault("trust.root", f"{trust.root}: {broken}")]) from broken


def recent_log(span: timedelta) -> tuple[str, ...]:
    """Lines of this process's log, the newest last, no more than a result holds."""
    lines, room = [], RESULT_LINES_BYTES_MAX
    for line in reversed(logs.recent(span)):
        room -= len(line.encode())
        if room < 0:
            break
        lines.append(line)
    return tuple(reversed(lines))
