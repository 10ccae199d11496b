"""What the source of truth says between bundles, as `freshness`: beacons, acknowledgements."""

from collections import OrderedDict
from datetime import UTC, datetime, timedelta
from typing import Annotated, Final, Literal, NamedTuple

import msgspec

from gateway.trust.root import Hash, Id, Instant, KeySet, Now, payload_as
from gateway.trust.rules import BreaksRule, Rule

BEACON_CONTEXT: Final = b"door-gateway/beacon/v1"
ACK_CONTEXT: Final = b"door-gateway/ack/v1"

MESSAGE_BYTES_MAX = 1024
"""A beacon has about 300 bytes; ids as long as they may be add 500."""

LIFE_MAX = timedelta(hours=24)
NONCE_BYTES = 16
NONCE_GOOD_FOR = timedelta(seconds=10)
"""A beacon that answers later proves no present time: it may have been held back on purpose."""
NONCES_MAX = 32
"""One a report: those of the last 10 s, at up to three a second."""
AHEAD_MAX = timedelta(minutes=10)
"""A beacon without a nonce of ours may be so far ahead of a trusted clock."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

Nonce = Annotated[bytes, msgspec.Meta(min_length=NONCE_BYTES, max_length=NONCE_BYTES)]
Milliseconds = Annotated[int, msgspec.Meta(ge=0, lt=253_370_764_800_000)]
"""Since 1970, before the year 9999: what is added to it is still a `datetime`."""


class Beacon(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The payload of a beacon."""

    site: Id
    gateway: Id
    revision: Annotated[int, msgspec.Meta(ge=1, lt=2**53)]
    digest: Hash
    now_ms: Milliseconds
    expires: Instant
    nonce: Nonce | None
    root: Annotated[int, msgspec.Meta(ge=1, lt=2**32)]

    @property
    def now(self) -> datetime:
        """The source of truth's own time."""
        return _EPOCH + timedelta(milliseconds=self.now_ms)


class Ack(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The source of truth has every event of `stream` up to `seq`."""

    site: Id
    gateway: Id
    stream: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
    seq: Annotated[int, msgspec.Meta(ge=1, le=2**63 - 1)]
    at: Instant


class Whose(NamedTuple):
    """Which gateway reads it."""

    site: str
    gateway: str


def open_ack(message: bytes, keys: KeySet, whose: Whose) -> Ack:
    """The acknowledgement in a message, for this gateway. Raises BreaksRule.

    One that was signed under a root that has expired since says nothing wrong: the events were
    delivered, so it counts.
    """
    ack = payload_as(_opened(message, keys, ACK_CONTEXT), Ack, MESSAGE_BYTES_MAX)
    _check_whose(ack.site, ack.gateway, whose)
    return ack


class Heard(NamedTuple):
    """What a beacon came to."""

    beacon: Beacon
    as_of: datetime | None
    """Until when what is in force is now vouched for; None where it isn't what is wanted."""
    time: tuple[datetime, datetime] | None
    """It is now between these two; None where it proves no present time."""
    asks: bool
    """Something else is wanted in force than is: ask for it."""


class Freshness:
    """What a gateway knows of its beacons. Times are the `Clock`'s monotonic ones."""

    def __init__(self, whose: Whose, freeze_after: timedelta, now: timedelta) -> None:
        self._whose = whose
        self._freeze_after = freeze_after
        self._nonces: OrderedDict[bytes, timedelta] = OrderedDict()
        self._heard_at = now
        self._newest_ms = -1
        """The `now_ms` of the newest beacon that counted: the same one again is no sign of life."""
        self._session_since: timedelta | None = None
        self._session_ended = now
        self._waited = timedelta(0)
        """How long earlier sessions lasted since a beacon was last heard."""
        self._missing = False

    def sent(self, nonce: bytes, now: timedelta) -> None:
        """This nonce goes out in a report."""
        self._nonces[nonce] = now
        while len(self._nonces) > NONCES_MAX:
            self._nonces.popitem(last=False)

    def take(
        self,
        message: bytes,
        keys: KeySet,
        in_force: tuple[int, bytes] | None,
        at: Now,
        now: timedelta,
    ) -> Heard:
        """Judge a beacon; a nonce that it answers is used up.

        `in_force` is the revision and digest of what is in force. Raises BreaksRule.
        """
        beacon = payload_as(_opened(message, keys, BEACON_CONTEXT), Beacon, MESSAGE_BYTES_MAX)
        time, answers = self._answered(beacon, now), beacon.nonce in self._nonces
        if time is not None:
            at = Now(beacon.now, trusted=True)  # whatever our own clock says
        # By its own word as well: no clock of ours may be there to say how far ahead it is.
        if keys.is_expired(at) or keys.is_expired(Now(beacon.now, trusted=False)):
            raise BreaksRule(Rule.ROOT_EXPIRED, "the root in force has expired")
        _check_whose(beacon.site, beacon.gateway, self._whose)
        if beacon.expires * 1000 > beacon.now_ms + LIFE_MAX / timedelta(milliseconds=1):
            raise BreaksRule(Rule.MALFORMED, "it would be good for more than 24 h")
        if at.seconds >= beacon.expires:
            raise BreaksRule(Rule.EXPIRED, "it has expired")
        if at.trusted and beacon.now > at.at + AHEAD_MAX:
            raise BreaksRule(Rule.NOT_YET, f"it is of {beacon.now.isoformat()}")
        if in_force is not None and beacon.revision < in_force[0]:
            raise BreaksRule(
                Rule.ROLLBACK, f"revision {beacon.revision}: {in_force[0]} is in force"
            )
        if beacon.nonce is not None:
            self._nonces.pop(beacon.nonce, None)
        if answers or self._is_news(beacon, at):
            self._newest_ms = beacon.now_ms
            self._heard_at, self._waited = now, timedelta(0)
        same = in_force == (beacon.revision, beacon.digest)
        return Heard(beacon, beacon.now if same else None, time, asks=not same)

    def session(self, *, there: bool, now: timedelta) -> None:
        """Note that a session with the broker begins or ends, by the link's word.

        Time without a session doesn't count. Sessions with short gaps between them add up: a
        broker that ends one every minute holds beacons back as well.
        """
        if there == (self._session_since is not None):
            return
        if there:
            if now - self._session_ended >= self._freeze_after:
                self._waited = timedelta(0)
            self._session_since = now
        else:
            self._waited += self._in_session(now)
            self._session_since, self._session_ended = None, now

    @property
    def missing(self) -> bool:
        """Whether beacons were missing when `turned` was last asked."""
        return self._missing

    def turned(self, now: timedelta) -> Literal["missing", "back"] | None:
        """Whether beacons have begun to be missing, or come again, since this was last asked."""
        if self._missing:
            if self._heard_at >= now - self._freeze_after:
                self._missing = False
                return "back"
        elif self._waited + self._in_session(now) >= self._freeze_after:
            self._missing = True
            return "missing"
        return None

    def _in_session(self, now: timedelta) -> timedelta:
        """Return how long this session has lasted without a beacon; zero where there is none."""
        since = self._session_since
        return timedelta(0) if since is None else now - max(since, self._heard_at)

    def _is_news(self, beacon: Beacon, at: Now) -> bool:
        """Return True if a beacon shows that the source of truth was there not long ago.

        One that was sent before doesn't, nor one that was kept back and comes now.
        """
        is_old = at.trusted and at.at - beacon.now > self._freeze_after
        return beacon.now_ms > self._newest_ms and not is_old

    def _answered(self, beacon: Beacon, now: timedelta) -> tuple[datetime, datetime] | None:
        if beacon.nonce is None or beacon.nonce not in self._nonces:
            return None
        took = now - self._nonces[beacon.nonce]
        return None if took > NONCE_GOOD_FOR else (beacon.now, beacon.now + took)


def _opened(message: bytes, keys: KeySet, context: bytes) -> bytes:
    if len(message) > MESSAGE_BYTES_MAX:
        raise BreaksRule(Rule.TOO_LARGE, f"a message of {len(message)} bytes")
    return keys.opened(message, "freshness", context)


def _check_whose(site: str, gateway: str, whose: Whose) -> None:
    if site != whose.site:
        raise BreaksRule(Rule.WRONG_SITE, f"it is for the site {site!r}")
    if gateway != whose.gateway:
        raise BreaksRule(Rule.WRONG_GATEWAY, f"it is for the gateway {gateway!r}")
