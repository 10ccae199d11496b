"""A contact that is read now and then: when what was read counts."""

from datetime import timedelta
from typing import Final, Generic, TypeVar

T = TypeVar("T")

READINGS_MIN: Final = 12
"""How many readings in a row must agree before a change counts: chatter that is as often closed as
open looks like a change once in 4096 times."""

UNREST_FACTOR: Final = 4
"""How much longer than the debounce time an input must hold still that has been restless for longer
than that: it chatters, and anything shorter may be chance."""

HOLD_MAX: Final = timedelta(milliseconds=300)
"""A change that has held for so long counts, however few readings that were: what lasts 400 ms is
never missed, on a slow line neither."""


class DebouncedInput(Generic[T]):
    """A contact that is only seen now and then, and what it is held to be."""

    def __init__(self, debounce: timedelta) -> None:
        self._debounce = debounce
        self._raw: T | None = None
        self._readings = 0  # in a row that agree
        self._since = timedelta()  # when the first of them was
        self._restless: timedelta | None = None
        self._glimpsed = -debounce
        self.active: T | None = None

    @property
    def seen(self) -> T | None:
        """What the last reading said."""
        return self._raw

    @property
    def restless_since(self) -> timedelta | None:
        """Since when it has not been at rest in the state that was told last."""
        return self._restless

    @property
    def is_first_sight(self) -> bool:
        """Whether the last reading, alone, was unlike all that were since it came to rest."""
        return self._readings == 1 and self._since == self._restless

    def sample(self, raw: T, now: timedelta) -> bool:
        """Take one reading; return whether `active` changed. The first one always does."""
        if self._raw is None:
            self._raw = self.active = raw
            return True
        if raw != self._raw:
            self._raw, self._since, self._readings = raw, now, 0
            self._restless = now if self._restless is None else self._restless
        self._readings += 1
        if self._restless is None or not self._holds(now):
            return False
        self._restless = None
        changed, self.active = raw != self.active, raw
        return changed

    def glimpsed(self, now: timedelta) -> bool:
        """Whether two readings in a row have just been unlike what was told last; no more often
        than a debounced input could change.
        """
        is_new = self._readings == 2 and self._raw != self.active
        if self._restless is None or not is_new or now - self._glimpsed < self._debounce:
            return False
        self._glimpsed = now
        return True

    def _holds(self, now: timedelta) -> bool:
        held = now - self._since
        chatters = self._restless is not None and self._since - self._restless > self._debounce
        needed = self._debounce * (UNREST_FACTOR if chatters else 1)
        return held >= HOLD_MAX or (held >= needed and self._readings >= READINGS_MIN)
