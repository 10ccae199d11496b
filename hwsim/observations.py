"""What was seen at the simulated hardware, with the monotonic instant at which it happened."""

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Self, TypeVar

# A night of chattering contacts must not eat the machine: the older half goes when it is reached.
OBSERVATIONS_MAX = 1_000_000
# A watcher that reads nothing is cut off here, so that it costs neither memory nor the others.
WATCHER_BACKLOG_MAX = 10_000


@dataclass(frozen=True, slots=True)
class Seen:
    """One observation.

    Attributes:
        at_ns: CLOCK_MONOTONIC, in nanoseconds.
    """

    kind: ClassVar[str] = ""

    at_ns: int

    def to_dict(self) -> dict[str, Any]:
        """The JSON shape: the fields, and `seen` with the kind."""
        return {"seen": self.kind, **dataclasses.asdict(self)}

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Self:
        """The inverse of `to_dict`, for this very class."""
        return cls(**{key: value for key, value in fields.items() if key != "seen"})

    def __str__(self) -> str:
        told = " ".join(
            f"{field.name}={getattr(self, field.name)}"
            for field in dataclasses.fields(self)
            if field.name != "at_ns"
        )
        return f"{self.at_ns / 1e9:.6f} {self.kind} {told}"


@dataclass(frozen=True, slots=True)
class CardSent(Seen):
    """The last byte of the first reply that carries the card's UID went out to the host."""

    kind: ClassVar[str] = "card_sent"
    reader: str
    uid: str


@dataclass(frozen=True, slots=True)
class KeysSent(Seen):
    """The last of these keys went out to the host."""

    kind: ClassVar[str] = "keys_sent"
    keypad: str
    keys: str


@dataclass(frozen=True, slots=True)
class CodeSent(Seen):
    """The last byte of a code went out to the host; what was in it is not kept."""

    kind: ClassVar[str] = "code_sent"
    scanner: str
    size: int


@dataclass(frozen=True, slots=True)
class CardBitsSent(Seen):
    """The last bit of a card, or what a converter makes of it, went out; not which bits."""

    kind: ClassVar[str] = "card_bits_sent"
    reader: str
    size: int


@dataclass(frozen=True, slots=True)
class Lamp(Seen):
    """A device showed a signal: granted, denied, pin_wanted or fault."""

    kind: ClassVar[str] = "lamp"
    device: str
    signal: str


@dataclass(frozen=True, slots=True)
class Output(Seen):
    """An output of a relay board switched. Outputs are numbered from 1."""

    kind: ClassVar[str] = "output"
    device: str
    output: int
    on: bool


@dataclass(frozen=True, slots=True)
class Strike(Seen):
    """The relay of a door's strike switched; on is released."""

    kind: ClassVar[str] = "strike"
    door: str
    on: bool


@dataclass(frozen=True, slots=True)
class Contact(Seen):
    """A door's contact switched, bounces included."""

    kind: ClassVar[str] = "contact"
    door: str
    closed: bool


@dataclass(frozen=True, slots=True)
class Rex(Seen):
    """A door's request-to-exit switched."""

    kind: ClassVar[str] = "rex"
    door: str
    pressed: bool


@dataclass(frozen=True, slots=True)
class HostOpened(Seen):
    """The host opened the device's port or connected to it."""

    kind: ClassVar[str] = "host_opened"
    device: str


@dataclass(frozen=True, slots=True)
class HostClosed(Seen):
    """The host closed the device's port or disconnected from it."""

    kind: ClassVar[str] = "host_closed"
    device: str


KINDS: dict[str, type[Seen]] = {
    kind.kind: kind
    for kind in (
        CardSent,
        KeysSent,
        CodeSent,
        CardBitsSent,
        Lamp,
        Output,
        Strike,
        Contact,
        Rex,
        HostOpened,
        HostClosed,
    )
}


def from_dict(fields: dict[str, Any]) -> Seen:
    """An observation from its JSON shape.

    Raises:
        KeyError: the kind is unknown.
    """
    return KINDS[fields["seen"]].from_dict(fields)


S = TypeVar("S", bound=Seen)


class WatcherTooSlowError(Exception):
    """A watcher left `WATCHER_BACKLOG_MAX` observations unread and was cut off."""


class Observations:
    """The append-only record of a site, and those who watch it.

    The order is that of reports. A board's timer switches at the instant that was due, and is
    reported when the event loop gets there, so `at_ns` may step back by that little.
    """

    def __init__(self) -> None:
        self.all: list[Seen] = []
        self._subscribers: list[Callable[[Seen], None]] = []

    def add(self, seen: Seen) -> None:
        """Record one observation and tell every subscriber, in the order of subscription."""
        if len(self.all) >= OBSERVATIONS_MAX:
            del self.all[: OBSERVATIONS_MAX // 2]
        self.all.append(seen)
        for subscriber in tuple(self._subscribers):
            subscriber(seen)

    @contextmanager
    def subscribed(self, subscriber: Callable[[Seen], None]) -> Iterator[None]:
        """Call the subscriber with every observation from now on."""
        self._subscribers.append(subscriber)
        try:
            yield
        finally:
            self._subscribers.remove(subscriber)

    def of(self, kind: type[S]) -> list[S]:
        """All observations of one kind, oldest first."""
        return [seen for seen in self.all if isinstance(seen, kind)]

    @contextmanager
    def watching(self) -> Iterator[AsyncIterator[Seen]]:
        """A stream of every observation from now on; iterating raises `WatcherTooSlowError`."""
        queue: asyncio.Queue[Seen] = asyncio.Queue(WATCHER_BACKLOG_MAX)
        overflowed = False

        def keep(seen: Seen) -> None:
            nonlocal overflowed
            try:
                queue.put_nowait(seen)
            except asyncio.QueueFull:
                overflowed = True

        async def stream() -> AsyncIterator[Seen]:
            while not overflowed:
                yield await queue.get()
            raise WatcherTooSlowError(f"{WATCHER_BACKLOG_MAX} observations unread")

        with self.subscribed(keep):
            yield stream()

    async def wait_for(
        self, kind: type[S], matches: Callable[[S], bool] = lambda _: True, timeout: float = 5.0
    ) -> S:
        """The next observation of a kind that matches.

        Raises:
            TimeoutError: none came within `timeout` seconds.
        """
        found: asyncio.Future[S] = asyncio.get_running_loop().create_future()

        def look(seen: Seen) -> None:
            if not found.done() and isinstance(seen, kind) and matches(seen):
                found.set_result(seen)

        with self.subscribed(look):
            async with asyncio.timeout(timeout):
                return await found
