"""How many may talk to a BLE door, and how often they may fail (docs/promises.md P11)."""

from collections import OrderedDict
from datetime import timedelta
from typing import Final

FAILURES_MAX: Final = 3
"""Refused proofs of one address; then it isn't listened to for `SHUT_OUT`. An address is easily
changed, which is why there is a limit for all as well."""
SHUT_OUT: Final = timedelta(seconds=60)
ADDRESSES_MAX: Final = 256
"""Addresses remembered; the oldest goes first."""
ATTEMPTS_MAX: Final = 30
"""Conversations at one door in a row, of everybody."""
ATTEMPT_EVERY: Final = timedelta(seconds=1)
"""One more is allowed each second: people need longer, and a flood costs little."""


class Attempts:
    """Counts conversations and refused proofs. Times are monotonic."""

    def __init__(self) -> None:
        self._failures: OrderedDict[str, tuple[int, timedelta]] = OrderedDict()
        self._left = ATTEMPTS_MAX
        self._since: timedelta | None = None

    def admits(self, peer: str, at: timedelta) -> bool:
        """Whether `peer` may begin a conversation now; counts it if so."""
        count, last = self._failures.get(peer, (0, at))
        if at - last >= SHUT_OUT:
            self._failures.pop(peer, None)
        elif count >= FAILURES_MAX:
            return False
        self._refill(at)
        if self._left == 0:
            return False
        self._left -= 1
        return True

    def failed(self, peer: str, at: timedelta) -> None:
        """A proof of `peer` was refused."""
        count, _ = self._failures.pop(peer, (0, at))
        self._failures[peer] = (count + 1, at)
        if len(self._failures) > ADDRESSES_MAX:
            self._failures.popitem(last=False)

    def succeeded(self, peer: str) -> None:
        """A proof of `peer` held."""
        self._failures.pop(peer, None)

    def _refill(self, at: timedelta) -> None:
        if self._since is None:
            self._since = at
        more = (at - self._since) // ATTEMPT_EVERY
        if more:
            self._left = min(ATTEMPTS_MAX, self._left + more)
            self._since += more * ATTEMPT_EVERY
