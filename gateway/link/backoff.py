"""How long to wait before the next attempt."""

import random
from datetime import timedelta


class Backoff:
    """Capped exponential backoff with full jitter: gateways that failed together return apart."""

    def __init__(
        self, rng: random.Random, *, first_s: float, max_s: float, stable_s: float
    ) -> None:
        self._rng = rng
        self._first_s = first_s
        self._max_s = max_s
        self._stable = timedelta(seconds=stable_s)
        self._ceiling_s = first_s

    def failed(self, lasted: timedelta = timedelta(0)) -> float:
        """Seconds to wait now, after an attempt or a session that lasted for `lasted`."""
        if lasted >= self._stable:
            self._ceiling_s = self._first_s
        wait_s = self._rng.uniform(0.0, self._ceiling_s)
        self._ceiling_s = min(self._ceiling_s * 2, self._max_s)
        return wait_s
