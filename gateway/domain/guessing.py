"""Card numbers that are tried one after the other at a reader (docs/security.md).

A reader that met several unknown numbers pauses after each further one. No pause follows a known
number, so that a stream of people with cards passes as ever. Only time makes a reader forget: a
guesser's own card between the guesses gives no more of them.
"""

from datetime import timedelta
from typing import Final

import msgspec

GUESSABLE: Final = frozenset({"uid", "wiegand", "qr"})
"""The kinds that are numbers. Nobody finds a key by trying, and a stranger's phone on the pavement
must not make a reader pause."""
FREE_MAX: Final = 5
"""Unknown credentials without a pause: a pocket of bank cards, a phone that draws its number."""
FORGETS_AFTER: Final = timedelta(seconds=30)
"""A reader forgets one unknown credential in each of these: two a minute never slow anybody."""
PAUSE_MIN: Final = timedelta(seconds=2)
DOUBLES_EVERY: Final = 10
"""So many unknown credentials later the pause is twice as long."""
PAUSE_MAX: Final = timedelta(seconds=4)
"""Whoever comes next has a card, and waits no longer than this."""
COUNT_MAX: Final = 40
"""A reader forgets a campaign of any length within twenty minutes."""


class Guesses(msgspec.Struct, frozen=True):
    """Unknown credentials at one reader, by the monotonic clock."""

    count: int = 0
    since: timedelta = timedelta(0)
    """The time from which the next one is forgotten after `FORGETS_AFTER`."""
    until: timedelta = timedelta.min
    """The end of the pause."""


def is_paused(row: Guesses, now: timedelta) -> bool:
    """Return True while nothing is looked up at the reader."""
    return now < row.until


def missed(row: Guesses, now: timedelta) -> Guesses:
    """Count one more unknown credential, and pause the reader if it is one too many."""
    forgotten = min(row.count, max(0, (now - row.since) // FORGETS_AFTER))
    since = row.since + forgotten * FORGETS_AFTER if forgotten < row.count else now
    count = min(row.count - forgotten + 1, COUNT_MAX)
    if count <= FREE_MAX:
        return Guesses(count, since, row.until)
    pause = PAUSE_MIN * 2 ** ((count - FREE_MAX - 1) // DOUBLES_EVERY)
    return Guesses(count, since, now + min(pause, PAUSE_MAX))
