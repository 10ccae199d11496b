"""Keeps what the site must remember: in memory for the rules, on disk with the events."""

from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timedelta

import structlog

from gateway.clock import Clock
from gateway.domain.memory import Changes, Place, Remembered, Spent, restore, store
from gateway.domain.memory_lost import Lost, Moment, lost
from gateway.errors import Undecodable

log = structlog.get_logger()

SPENT_MAX = 20_000
"""Used up and ended, but kept, as the time may be set back: a hundred a day for half a year. To
look through them takes milliseconds a minute."""


class SiteMemory:
    """Implements `gateway.domain.memory.Memory`.

    `stored` gives what lay on disk at the start, or None until the disk could be read; `boot`
    names this boot of the machine.
    """

    def __init__(
        self, stored: Callable[[], Mapping[str, bytes] | None], *, boot: str, clock: Clock
    ) -> None:
        self._stored = stored
        self._boot = boot
        self._clock = clock
        self._values: dict[str, Remembered] = {}
        self._unwritten: dict[str, bytes | None] = {}
        self._running: set[str] = set()
        """Keys of what had time left when it was last written, or may have been counted anew."""
        self._loaded = False
        self._lost: list[Lost] = []

    def get(self, key: str) -> Remembered | None:
        """See `Memory.get`."""
        if not self._loaded:
            self._load()
        return self._values.get(key)

    def items(self, prefix: str) -> Iterator[tuple[str, Remembered]]:
        """What is remembered under keys that begin so, each with the rest of its key."""
        self.get("")
        for key, value in list(self._values.items()):
            if key.startswith(prefix):
                yield key.removeprefix(prefix), value

    def apply(self, changes: Changes) -> None:
        """Remember `changes`; they go to disk with the next event that is recorded."""
        self.get("")
        now = self._clock.monotonic()
        for key, value in changes.items():
            self._running.discard(key)
            if value is None:
                self._values.pop(key, None)
                self._unwritten[key] = None
            else:
                if _ends(value) > now:
                    self._running.add(key)
                self._values[key] = value
                self._unwritten[key] = store(key, value, self._boot, now)

    def take_unwritten(self) -> dict[str, bytes | None]:
        """What is to be written with the event that is about to be appended."""
        taken, self._unwritten = self._unwritten, {}
        return taken

    def take_lost(self) -> list[Lost]:
        """Return what was found damaged since this was last asked, to be recorded."""
        self.get("")
        taken, self._lost = self._lost, []
        return taken

    def give_back(self, taken: dict[str, bytes | None]) -> None:
        """That event was not kept: the next one has to take it along."""
        self._unwritten = {**taken, **self._unwritten}

    def forget_places(self, before: datetime) -> int:
        """Forget where holders were let in so long ago; how many (P22)."""
        old: Changes = {
            f"place/{holder}": None
            for holder, place in self.items("place/")
            if isinstance(place, Place) and place.at < before
        }
        self.apply(old)
        return len(old)

    def forget_spent(self, floor: datetime, sure: datetime) -> int:
        """Forget what was used up and ends before the floor of time and before `sure`, to which
        the floor may be set back; of more than `SPENT_MAX` the first to end need not end before
        that. Returns how many.
        """
        ended = sorted(
            (value.expires, key)
            for key, value in self.items("")
            if isinstance(value, Spent) and value.expires < floor
        )
        surplus = len(ended) - SPENT_MAX
        over: Changes = {
            key: None
            for number, (expires, key) in enumerate(ended)
            if expires < sure or number < surplus
        }
        self.apply(over)
        return len(over)

    def running(self) -> Changes:
        """What has time left, or had when it was last written: written again now and then, so that
        little is counted anew, and nothing that has ended. At the start also since when people are
        where they are and wrong PINs are remembered: what a reboot has counted anew, a restart must
        not count again.
        """
        self.get("")
        return {key: self._values[key] for key in self._running}

    def _load(self) -> None:
        stored = self._stored()
        if stored is None:
            return
        self._loaded = True
        now: timedelta = self._clock.monotonic()
        for key, raw in stored.items():
            if key in self._unwritten:
                continue
            try:
                was, value = restore(key, raw, self._boot, now)
            except Undecodable as error:
                self._replace(key, str(error))
                continue
            if was != key:  # the value names its key, so the damaged one is harmless
                log.error("memory_key_damaged", key=key, was=was)
                self._unwritten[key] = None
                if was in stored or was in self._unwritten:
                    continue
                self._unwritten[was] = raw
            self._values[was] = value
            if getattr(value, "since", None) is not None or _ends(value) > timedelta.min:
                self._running.add(was)

    def _replace(self, key: str, reason: str) -> None:
        """Take the safest meaning of a value that can't be read."""
        found = lost(key, Moment(self._clock.now(), self._clock.monotonic()))
        log.error("memory_damaged", what=found.what, reason=reason, instead=found.instead)
        self._lost.append(found)
        self.apply({key: found.value})


def _ends(value: Remembered) -> timedelta:
    """When its time is over, by the monotonic clock; long ago where it has none."""
    until: timedelta | None = getattr(value, "until", None)
    return timedelta.min if until is None else until


class Overlaid:
    """A memory with changes that nobody has made yet."""

    def __init__(self, below: SiteMemory, changes: Changes) -> None:
        self._below = below
        self._changes = changes

    def get(self, key: str) -> Remembered | None:
        """See `Memory.get`."""
        return self._changes[key] if key in self._changes else self._below.get(key)
