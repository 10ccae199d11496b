"""What a site remembers besides its records: one small value a key, durable with its event.

Rules read it through `Memory` and answer with changes, so that deciding stays pure. Every moment in
a value is monotonic and of this boot: over a restart of the machine it is taken as far away as it
was when the value was last written, so that no clock step can shorten or lengthen it.
"""

import hashlib
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Literal, NamedTuple, Protocol, TypeVar

import msgspec

from gateway.decoding import decode_with
from gateway.errors import Undecodable


class _Value(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    def shifted(self, by: timedelta) -> "Remembered":
        """The value with its monotonic moments moved by `by`."""
        moved: dict[str, timedelta | None] = {
            name: getattr(self, name) + by
            for name in ("until", "since")
            if getattr(self, name, None) is not None
        }
        if getattr(self, "tap", None) is not None:
            moved["tap"] = None  # another boot's moments identify no tap of this one
        return msgspec.structs.replace(self, **moved)  # type: ignore[return-value]


class PinRow(_Value, frozen=True, tag="pin"):
    """Wrong PINs in a row, at a door or of a holder, and the lockout they led to."""

    failures: int = 0
    lockouts: int = 0
    """Lockouts that count for how long the next one is: twice as long as the one before."""
    until: timedelta | None = None
    """When the last lockout ends; once it has, from when on time counts for it to be forgotten."""
    since: timedelta | None = None
    """From when on time counts for the first failure of a door to be forgotten."""
    tap: timedelta | None = None
    """The last tap counted, at a reader of several doors (`Surroundings.tap`)."""


class Uses(_Value, frozen=True, tag="uses"):
    """How often a credential with `max_uses` has opened something."""

    count: int
    tap: timedelta | None = None
    """As in `PinRow`."""


class Spent(_Value, frozen=True, tag="spent"):
    """How often something signed has been used that is good only so often, and until when it is
    to be remembered: from then on the floor of time keeps it out.
    """

    count: int
    expires: datetime
    tap: timedelta | None = None
    """As in `PinRow`."""


class TagCounter(_Value, frozen=True, tag="tag_counter"):
    """The highest counter that a tag has proved itself with."""

    seen: int
    tap: timedelta | None = None
    """As in `PinRow`."""


UNKNOWN_ZONE = "?"
"""The zone of a holder whose place was lost: every door with hard anti-passback refuses them."""


class Place(_Value, frozen=True, tag="place"):
    """Where a holder was last let in."""

    zone: str
    door: str
    at: datetime
    since: timedelta
    seen: bool = False
    """Whether the door contact saw them, and nobody else, go through."""
    awaited: bool = False
    """Whether they went through isn't known yet."""
    others: tuple["Place", ...] = ()
    """Where else they may be while somebody is awaited, the oldest grant first."""
    tap: timedelta | None = None
    """As in `PinRow`."""
    elsewhere: tuple[str, ...] = ()
    """Zones that the same tap opened and no contact watches: they are in `zone` or in one of these
    (the floors of a lift)."""

    def shifted(self, by: timedelta) -> "Remembered":
        """Nobody is awaited over a restart of the machine: they are taken to have gone through."""
        since = self.since + by
        return msgspec.structs.replace(self, since=since, awaited=False, others=(), tap=None)


class Count(_Value, frozen=True, tag="count"):
    """How many people are in a zone, counted at the doors that limit it."""

    people: int


class FirstIn(_Value, frozen=True, tag="first_in"):
    """When somebody was last let in at a door that unlocks after the first person."""

    at: datetime


class Ordered(_Value, frozen=True, tag="ordered"):
    """A mode that somebody set by hand, a lockdown or an evacuation."""

    mode: Literal["controlled", "unlocked", "blocked", "lockdown", "evacuation"]
    by: str
    why: str
    at: datetime
    until: timedelta | None = None
    """None: until it is released."""

    def shifted(self, by: timedelta) -> "Remembered":
        """What keeps people out goes on; a door unlocked by hand is locked after a reboot."""
        if self.mode == "unlocked":
            return msgspec.structs.replace(self, until=timedelta(0))
        return super().shifted(by)


class Limited(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """What opens something only so often, by the key that its uses are counted under."""

    key: str
    uses: int
    expires: datetime | None = None
    """Of a carried grant: how long its uses must be remembered."""
    tap: timedelta | None = None
    """The tap that it was presented by, at a reader of several doors."""


class FirstOfTwo(_Value, frozen=True, tag="first_of_two"):
    """Who waits at a door for the second person, and how long they are waited for."""

    holder: str
    until: timedelta
    limited: tuple[Limited, ...] = ()
    """What they presented, as far as it opens something only so often."""

    def shifted(self, by: timedelta) -> "Remembered":
        """Nobody waits over a restart of the machine."""
        del by
        return msgspec.structs.replace(self, until=timedelta(0))


class BreakGlassCounter(_Value, frozen=True, tag="break_glass"):
    """The next HOTP counter of one break-glass secret: every lower one is spent."""

    next: int


class BreakGlassWindow(_Value, frozen=True, tag="break_glass_window"):
    """The codes of a role are good until then; afterwards not before they are renewed."""

    until: timedelta


class Alarms(_Value, frozen=True, tag="alarms"):
    """The alarms of a door that nothing has restored yet."""

    raised: tuple[str, ...]


class Usual(_Value, frozen=True, tag="usual"):
    """How often something usually happens: no rule of a door looks at it (detection)."""

    count: float


Remembered = (
    PinRow
    | Uses
    | Spent
    | TagCounter
    | Place
    | Count
    | FirstIn
    | Ordered
    | FirstOfTwo
    | BreakGlassCounter
    | BreakGlassWindow
    | Alarms
    | Usual
)
Changes = Mapping[str, Remembered | None]
"""New values by key; None forgets."""

V = TypeVar("V", bound=_Value)


class Memory(Protocol):
    """What is remembered, to read."""

    def get(self, key: str) -> Remembered | None:
        """The value under `key`, if there is one."""


def recall(memory: Memory, key: str, kind: type[V]) -> V | None:
    """The value under `key`, if it is of this kind."""
    found = memory.get(key)
    return found if isinstance(found, kind) else None


class Stored(msgspec.Struct, frozen=True, gc=False):
    """A value as it lies on disk, with the boot and the moment at which it was written."""

    boot: str
    mono: timedelta
    value: Remembered
    key: str = ""
    """Its key once more: a damaged key leads to nothing, and a lockout would be lost with it."""
    sum: str = ""
    """The beginning of a SHA-256 over the other members, in hex: SQLite has no checksums. Empty in
    what a release without it wrote."""


class Restored(NamedTuple):
    """A value read from disk, with the key that it was stored under."""

    key: str
    value: Remembered


def store(key: str, value: Remembered, boot: str, now: timedelta) -> bytes:
    """Return the bytes of a value."""
    stored = Stored(boot, now, value, key)
    return _encoder.encode(msgspec.structs.replace(stored, sum=_sum(stored)))


def stored_in(raw: bytes) -> tuple[str, timedelta]:
    """Return the key of a value that bears one and is whole, and when it was written.

    Raises:
        Undecodable: it is damaged, or of a release whose rows bear none.
    """
    stored = decode_with(_decoder, raw)
    if not stored.key or stored.sum != _sum(msgspec.structs.replace(stored, sum="")):
        raise Undecodable("its checksum is another's")
    return stored.key, stored.mono


def restore(key: str, raw: bytes, boot: str, now: timedelta) -> Restored:
    """Return the value that `raw` holds, its moments brought to this boot.

    Raises:
        Undecodable: it is damaged.
    """
    stored = decode_with(_decoder, raw)
    if stored.sum and stored.sum != _sum(msgspec.structs.replace(stored, sum="")):
        raise Undecodable("its checksum is another's")
    key = stored.key or key
    if stored.boot == boot:
        return Restored(key, stored.value)
    try:
        # Counted anew from what was left when it was written.
        return Restored(key, stored.value.shifted(now - stored.mono))
    except OverflowError as error:
        raise Undecodable("a moment out of range") from error


def _sum(stored: Stored) -> str:
    return hashlib.sha256(_encoder.encode(stored)).hexdigest()[:16]


_encoder = msgspec.json.Encoder()
_decoder: msgspec.json.Decoder[Stored] = msgspec.json.Decoder(Stored)


class Watched:
    """A memory that remembers what it was asked for: what a decision depended on."""

    def __init__(self, memory: Memory) -> None:
        self._get: Callable[[str], Remembered | None] = memory.get
        self.asked: dict[str, Remembered] = {}

    def get(self, key: str) -> Remembered | None:
        """See `Memory.get`."""
        found = self._get(key)
        if found is not None:
            self.asked[key] = found
        return found
