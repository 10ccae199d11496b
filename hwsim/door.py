"""The physics of one door: lock, leaf, closer, contact and the people at it.

`Door` is pure: what happens and when goes in, and what the contact and the button did comes out.
"""

import enum
import heapq
from dataclasses import dataclass


def _ns(seconds: float) -> int:
    return round(seconds * 1e9)


@dataclass(frozen=True, slots=True, kw_only=True)
class DoorTimes:
    """How long things take at a door, in seconds.

    Attributes:
        opening_s: From the push to the open leaf.
        passing_s: How long somebody holds it to walk through.
        closing_s: What the closer needs.
        bounce_s: When a reed contact toggles after its first edge: an even number of times.
    """

    opening_s: float = 0.3
    passing_s: float = 0.5
    closing_s: float = 0.7
    bounce_s: tuple[float, ...] = (0.0012, 0.0025)


class Leaf(enum.Enum):
    """Where the leaf is."""

    CLOSED = "closed"
    OPENING = "opening"
    OPEN = "open"
    CLOSING = "closing"


@dataclass(frozen=True, slots=True)
class Moved:
    """Something at the door moved.

    Attributes:
        at_ns: When.
        what: `contact` (the value is closed), `rex` (pressed) or `leaf` (where it is now).
        value: The new state.
    """

    at_ns: int
    what: str
    value: bool | Leaf


class Door:
    """One door. All times are monotonic nanoseconds and never run backwards."""

    def __init__(self, *, fail_safe: bool = False, times: DoorTimes | None = None) -> None:
        """A closed door, locked, under power.

        Args:
            fail_safe: The lock opens without power; otherwise it stays locked.
            times: How long things take.
        """
        self.leaf = Leaf.CLOSED
        self.closed = True
        self.rex_pressed = False
        self.propped = False
        self._fail_safe = fail_safe
        self._times = times or DoorTimes()
        self._energised = False
        self._powered = True
        self._pushed_until_ns = -1
        self._leaf_due_ns: int | None = None
        self._contact_due: list[tuple[int, bool]] = []
        self._jammed: bool | None = None
        self._moved: list[Moved] = []

    @property
    def released(self) -> bool:
        """Whether the lock lets the leaf go.

        The relay releases either kind: by its NO contact in a fail-secure strike's supply, by its
        NC contact in a fail-safe lock's.
        """
        return self._energised if self._powered else self._fail_safe

    def take_moved(self) -> list[Moved]:
        """What moved since the last call, in order of time."""
        moved, self._moved = self._moved, []
        return moved

    @property
    def next_ns(self) -> int | None:
        """When `advance` has something to do next."""
        due = [at_ns for at_ns, _ in self._contact_due]
        if self._leaf_due_ns is not None:
            due.append(self._leaf_due_ns)
        return min(due, default=None)

    def advance(self, now_ns: int) -> None:
        """Let time pass up to now."""
        while (due_ns := self.next_ns) is not None and due_ns <= now_ns:
            if self._contact_due and self._contact_due[0][0] == due_ns:
                _, closed = heapq.heappop(self._contact_due)
                self._set_contact(due_ns, closed=closed)
            else:
                self._travel(due_ns)

    # --- what acts on the door ----------------------------------------------------------------

    def energise(self, now_ns: int, *, on: bool) -> None:
        """The strike's relay switched."""
        self.advance(now_ns)
        self._energised = on
        self._yield(now_ns)

    def power(self, now_ns: int, *, on: bool) -> None:
        """The lock's supply failed or came back."""
        self.advance(now_ns)
        self._powered = on
        self._yield(now_ns)

    def push(self, now_ns: int, patience_s: float = 0.0) -> None:
        """Somebody pushes, and goes on pushing for some time while the door is locked."""
        self.advance(now_ns)
        self._pushed_until_ns = now_ns + _ns(patience_s)
        self._yield(now_ns)

    def force(self, now_ns: int) -> None:
        """Somebody opens the door whatever the lock says."""
        self.advance(now_ns)
        self._open(now_ns)

    def prop(self, now_ns: int) -> None:
        """From now on the leaf stays open once it is."""
        self.advance(now_ns)
        self.propped = True
        if self.leaf is Leaf.CLOSING:
            self._open(now_ns)

    def close(self, now_ns: int) -> None:
        """Take the wedge away and let the closer work."""
        self.advance(now_ns)
        self.propped = False
        if self.leaf is Leaf.OPEN:
            self._go(now_ns, Leaf.CLOSING, self._times.closing_s)

    def press_rex(self, now_ns: int, *, pressed: bool) -> None:
        """Press or let go of the request-to-exit button."""
        self.advance(now_ns)
        if self.rex_pressed != pressed:
            self.rex_pressed = pressed
            self._moved.append(Moved(now_ns, "rex", pressed))

    def jam_contact(self, now_ns: int, closed: bool | None) -> None:
        """Weld the contact closed or tear it open; None repairs it."""
        self.advance(now_ns)
        self._jammed = closed
        self._contact_due.clear()
        self._set_contact(now_ns, closed=self.leaf is Leaf.CLOSED)

    # --- inside -------------------------------------------------------------------------------

    def _yield(self, now_ns: int) -> None:
        pushed = now_ns <= self._pushed_until_ns
        if pushed and (self.released or self.leaf is not Leaf.CLOSED):
            self._pushed_until_ns = -1
            self._open(now_ns)

    def _open(self, now_ns: int) -> None:
        if self.leaf is Leaf.OPEN:  # hold it for one more person
            self._leaf_due_ns = now_ns + _ns(self._times.passing_s)
        elif self.leaf is not Leaf.OPENING:
            if self.leaf is Leaf.CLOSED:
                self._schedule_contact(now_ns, closed=False)
            self._go(now_ns, Leaf.OPENING, self._times.opening_s)

    def _travel(self, at_ns: int) -> None:
        if self.leaf is Leaf.OPENING:
            self._go(at_ns, Leaf.OPEN, self._times.passing_s)
        elif self.leaf is Leaf.OPEN and self.propped:
            self._leaf_due_ns = None
        elif self.leaf is Leaf.OPEN:
            self._go(at_ns, Leaf.CLOSING, self._times.closing_s)
        else:
            self._go(at_ns, Leaf.CLOSED, None)
            self._schedule_contact(at_ns, closed=True)

    def _go(self, at_ns: int, leaf: Leaf, for_s: float | None) -> None:
        self.leaf = leaf
        self._leaf_due_ns = None if for_s is None else at_ns + _ns(for_s)
        self._moved.append(Moved(at_ns, "leaf", leaf))

    def _schedule_contact(self, at_ns: int, *, closed: bool) -> None:
        self._contact_due.clear()
        self._set_contact(at_ns, closed=closed)
        for place, after_s in enumerate(self._times.bounce_s):
            heapq.heappush(self._contact_due, (at_ns + _ns(after_s), closed == bool(place % 2)))

    def _set_contact(self, at_ns: int, *, closed: bool) -> None:
        if self._jammed is not None:
            closed = self._jammed
        if self.closed != closed:
            self.closed = closed
            self._moved.append(Moved(at_ns, "contact", closed))
