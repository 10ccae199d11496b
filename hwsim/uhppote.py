"""A UHPPOTE UT0311-L04 controller for four doors, on UDP: messages of 64 bytes in and out.

Written from the messages that uhppoted/uhppote-core documents in its tests and README, not from its
code; what time profiles open is as uhppoted/uhppote-simulator observed it on a controller.
`Controller` is pure; `UhppoteDoor` is one door of one, whose socket its doors share.
"""

import asyncio
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, ClassVar

from hwsim.observations import CardSent, Observations, Output
from hwsim.relay_board import Edge

MESSAGE_BYTES = 64
SOM = 0x17
DOORS = 4
REMOTE_NS = 30_000_000_000
"""README, SetPCControl: without a message for so long the controller decides by its own list."""

NORMALLY_OPEN, NORMALLY_CLOSED, CONTROLLED = 1, 2, 3
SWIPE, DOOR = 1, 2
# entities/reasons.go of uhppote-simulator; 23 and 24 are in the maker's SDK's list of reasons.
PASS, REMOTE, NO_PRIVILEGE, WRONG_TIME, NO_PASS, BUTTON, OPENED, CLOSED, REMOTE_OPEN = (
    0x01,
    0x05,
    0x06,
    0x0F,
    0x12,
    0x14,
    0x17,
    0x18,
    0x2C,
)


@dataclass(frozen=True, slots=True)
class Event:
    """One entry of the controller's event log."""

    index: int
    kind: int
    granted: bool
    door: int
    direction: int
    card: int
    reason: int


@dataclass(frozen=True, slots=True)
class ListedCard:
    """A card on the controller's own list: from a day to a day, and 0, 1 or a profile a door."""

    first: bytes
    last: bytes
    doors: bytes
    first_card: int = 0


@dataclass(frozen=True, slots=True)
class Profile:
    """A time profile as set-time-profile sends it, in BCD: days are 8 digits, minutes 4."""

    first: bytes
    last: bytes
    weekdays: bytes
    segments: tuple[tuple[bytes, bytes], ...]
    linked: int

    @classmethod
    def read(cls, data: bytes) -> "Profile":
        """From the 28 bytes that follow a profile's number in a message."""
        minutes = [data[at : at + 2] for at in range(15, 27, 2)]
        segments = tuple(zip(minutes[::2], minutes[1::2], strict=True))
        return cls(data[:4], data[4:8], data[8:15], segments, data[27])

    def written(self) -> bytes:
        """As those 28 bytes."""
        minutes = b"".join(start + end for start, end in self.segments)
        return self.first + self.last + self.weekdays + minutes + bytes([self.linked])

    def opens(self, at: datetime, *, end_opens: bool) -> bool:
        """Whether it opens by itself at a moment of the controller's clock."""
        minute = bytes.fromhex(f"{at:%H%M}")
        return (
            self.first <= bytes.fromhex(f"{at:%Y%m%d}") <= self.last
            and self.weekdays[at.weekday()] == 1
            and any(
                start <= minute < end or (end_opens and minute == end >= start)
                for start, end in self.segments
            )
        )


FIRST_PROFILE, LAST_PROFILE = 2, 254
MAGIC = bytes.fromhex("55aaaa55")

ANY_TIME = ListedCard(bytes.fromhex("20000101"), bytes.fromhex("20991231"), bytes([1] * DOORS))


@dataclass(slots=True)
class DoorState:
    """One door as the controller knows it."""

    mode: int = CONTROLLED
    delay_s: int = 5
    open: bool = False
    button: bool = False
    until_ns: int = 0

    def energised(self, now_ns: int) -> bool:
        """Whether its relay releases the lock."""
        if self.mode == NORMALLY_OPEN:
            return True
        return self.mode == CONTROLLED and now_ns < self.until_ns


@dataclass(slots=True)
class Controller:
    """One board.

    Attributes:
        serial: Its serial number.
        cards: Its own list, by number.
        profiles: Its time profiles, by number.
        end_opens: Whether the last minute of a profile's segment opens: nobody has said; in
            uhppote-simulator it does.
        room: How many cards its list holds.
        unknown: Codes of messages that its firmware doesn't know, and doesn't answer.
        event_index: Up to where somebody has said that they have its events.
    """

    serial: int
    cards: dict[int, ListedCard] = field(default_factory=dict)
    profiles: dict[int, Profile] = field(default_factory=dict)
    end_opens: bool = True
    doors: list[DoorState] = field(default_factory=lambda: [DoorState() for _ in range(DOORS)])
    events: list[Event] = field(default_factory=list)
    listener: tuple[str, int] | None = None
    room: int = 20_000
    unknown: frozenset[int] = frozenset()
    event_index: int = 0
    remote: bool = False
    special_events: bool = False
    _sequence: int = 0
    _places: list[int] = field(default_factory=list)
    _placed: set[int] = field(default_factory=set)
    _heard_ns: int = -REMOTE_NS
    _clock: tuple[datetime, int] = (datetime(2026, 1, 1, 12), 0)  # noqa: DTZ001 - it has no zone

    def request(self, message: bytes, now_ns: int) -> bytes | None:
        """Answer one message; None for what is not for this board."""
        serial = int.from_bytes(message[4:8], "little")
        if len(message) != MESSAGE_BYTES or message[0] != SOM or serial not in (0, self.serial):
            return None
        self._heard_ns = now_ns
        handler = self._HANDLERS.get(message[1])
        if handler is None or message[1] in self.unknown or (serial == 0 and message[1] != 0x94):
            return None
        return handler(self, message, now_ns)

    def clock(self, now_ns: int) -> datetime:
        """What its clock shows: it runs on from what it was last set to, and has no zone."""
        shown, at_ns = self._clock
        return shown + timedelta(microseconds=(now_ns - at_ns) // 1000)

    def _reply(self, code: int, data: bytes = b"") -> bytes:
        head = bytes([SOM, code, 0, 0]) + self.serial.to_bytes(4, "little")
        return (head + data).ljust(MESSAGE_BYTES, b"\0")

    def status(self, now_ns: int) -> bytes:
        """The state, with the last event: an answer to 0x20, and what a listener is sent."""
        made = bytearray(self._reply(0x20))
        if self.events:
            last = self.events[-1]
            made[8:12] = last.index.to_bytes(4, "little")
            made[12:16] = bytes([last.kind, last.granted, last.door, last.direction])
            made[16:20] = last.card.to_bytes(4, "little")
            made[20:27] = bytes.fromhex("20260101120000")
            made[27] = last.reason
        made[28:32] = bytes(door.open for door in self.doors)
        made[32:36] = bytes(door.button for door in self.doors)
        clock = self.clock(now_ns)
        made[37:40] = bytes.fromhex(f"{clock:%H%M%S}")
        made[40:44] = self._sequence.to_bytes(4, "little")
        made[49] = sum(door.energised(now_ns) << at for at, door in enumerate(self.doors))
        made[51:54] = bytes.fromhex(f"{clock:%y%m%d}")
        self._sequence += 1
        return bytes(made)

    def _get_event(self, message: bytes, _now_ns: int) -> bytes:
        index = int.from_bytes(message[8:12], "little")
        found = next((event for event in self.events if event.index == index), None)
        if found is None:
            return self._reply(0xB0)
        data = index.to_bytes(4, "little")
        data += bytes([found.kind, found.granted, found.door, found.direction])
        data += found.card.to_bytes(4, "little") + bytes.fromhex("20260101120000")
        return self._reply(0xB0, data + bytes([found.reason]))

    def _open(self, message: bytes, now_ns: int) -> bytes:
        number = message[8]
        done = 1 <= number <= DOORS and self.doors[number - 1].mode == CONTROLLED
        if done:
            self._release(number, now_ns)
        return self._reply(0x40, bytes([done]))

    def _release(self, number: int, now_ns: int) -> None:
        door = self.doors[number - 1]
        door.until_ns = now_ns + door.delay_s * 1_000_000_000

    def _set_door(self, message: bytes, now_ns: int) -> bytes:
        number, mode, delay = message[8:11]
        if not 1 <= number <= DOORS or mode not in (NORMALLY_OPEN, NORMALLY_CLOSED, CONTROLLED):
            return self._reply(0x80)
        door = self.doors[number - 1]
        if mode != CONTROLLED:
            door.until_ns = now_ns
        door.mode, door.delay_s = mode, delay
        return self._reply(0x80, message[8:11])

    def _set_listener(self, message: bytes, _now_ns: int) -> bytes:
        port = int.from_bytes(message[12:14], "little")
        self.listener = (".".join(map(str, message[8:12])), port) if port else None
        return self._reply(0x90, b"\x01")

    def _special(self, message: bytes, _now_ns: int) -> bytes:
        self.special_events = message[8] == 1
        return self._reply(0x8E, b"\x01")

    def _set_remote(self, message: bytes, _now_ns: int) -> bytes:
        good = message[8:12] == MAGIC
        if good:
            self.remote = message[12] == 1
        return self._reply(0xA0, bytes([good]))

    def _get_cards(self, _message: bytes, _now_ns: int) -> bytes:
        for number in self.cards:
            self._place(number)
        return self._reply(0x58, len(self.cards).to_bytes(4, "little"))

    def _card_at(self, message: bytes, _now_ns: int) -> bytes:
        index = int.from_bytes(message[8:12], "little")
        if not 1 <= index <= len(self._places):
            return self._reply(0x5C)
        number = self._places[index - 1]
        if number not in self.cards:
            return self._reply(0x5C, b"\xff" * 4)
        card = self.cards[number]
        data = card.first + card.last + card.doors + bytes([0, 0, 0, card.first_card])
        return self._reply(0x5C, number.to_bytes(4, "little") + data)

    def _card(self, message: bytes, _now_ns: int) -> bytes:
        card = self.cards.get(int.from_bytes(message[8:12], "little"))
        if card is None:
            return self._reply(0x5A)
        return self._reply(0x5A, message[8:12] + card.first + card.last + card.doors)

    def _place(self, number: int) -> None:
        # Cards stay at their place; one that was taken off leaves 0xffffffff there.
        if number not in self._placed:
            self._placed.add(number)
            self._places.append(number)

    def _put_card(self, message: bytes, _now_ns: int) -> bytes:
        number = int.from_bytes(message[8:12], "little")
        if number not in self.cards and len(self.cards) >= self.room:
            return self._reply(0x50)
        self._place(number)
        self.cards[number] = ListedCard(message[12:16], message[16:20], message[20:24])
        return self._reply(0x50, b"\x01")

    def _delete_card(self, message: bytes, _now_ns: int) -> bytes:
        number = int.from_bytes(message[8:12], "little")
        return self._reply(0x52, bytes([self.cards.pop(number, None) is not None]))

    def _set_profile(self, message: bytes, _now_ns: int) -> bytes:
        good = FIRST_PROFILE <= message[8] <= LAST_PROFILE
        if good:
            self.profiles[message[8]] = Profile.read(message[9:37])
        return self._reply(0x88, bytes([good]))

    def _get_profile(self, message: bytes, _now_ns: int) -> bytes:
        found = self.profiles.get(message[8])
        return self._reply(0x98, b"" if found is None else message[8:9] + found.written())

    def _clear_profiles(self, message: bytes, _now_ns: int) -> bytes:
        good = message[8:12] == MAGIC
        if good:
            self.profiles.clear()
        return self._reply(0x8A, bytes([good]))

    def _get_time(self, _message: bytes, now_ns: int) -> bytes:
        return self._reply(0x32, bytes.fromhex(f"{self.clock(now_ns):%Y%m%d%H%M%S}"))

    def _set_time(self, message: bytes, now_ns: int) -> bytes:
        self._clock = datetime.strptime(message[8:15].hex(), "%Y%m%d%H%M%S"), now_ns  # noqa: DTZ007
        return self._reply(0x30, message[8:15])

    def _get_index(self, _message: bytes, _now_ns: int) -> bytes:
        return self._reply(0xB4, self.event_index.to_bytes(4, "little"))

    def _set_index(self, message: bytes, _now_ns: int) -> bytes:
        good = message[12:16] == MAGIC
        if good:
            self.event_index = int.from_bytes(message[8:12], "little")
        return self._reply(0xB2, bytes([good]))

    def _identity(self, _message: bytes, _now_ns: int) -> bytes:
        data = bytes.fromhex("7f000001ff00000000000000001122334455089220180816")
        return self._reply(0x94, data)

    _HANDLERS: ClassVar[dict[int, Callable[[Any, bytes, int], bytes]]] = {
        0x20: lambda self, _message, now_ns: self.status(now_ns),
        0x30: _set_time,
        0x32: _get_time,
        0x40: _open,
        0x50: _put_card,
        0x52: _delete_card,
        0x58: _get_cards,
        0x5A: _card,
        0x5C: _card_at,
        0x80: _set_door,
        0x88: _set_profile,
        0x8A: _clear_profiles,
        0x8E: _special,
        0x90: _set_listener,
        0x94: _identity,
        0x98: _get_profile,
        0xA0: _set_remote,
        0xB0: _get_event,
        0xB2: _set_index,
        0xB4: _get_index,
    }

    # --- what happens at the doors --------------------------------------------------------------

    def _log(self, kind: int, door: int, reason: int, **more: Any) -> None:
        index = self.events[-1].index + 1 if self.events else 1
        fields = {"granted": False, "direction": 1, "card": 0, **more}
        self.events.append(Event(index=index, kind=kind, door=door, reason=reason, **fields))

    def swipe(self, door: int, card: int, direction: int, now_ns: int) -> None:
        """Present a card at one of a door's two readers (direction 1 in, 2 out)."""
        if self.remote and now_ns - self._heard_ns < REMOTE_NS:
            self._log(SWIPE, door, REMOTE, card=card, direction=direction)
            return
        reason = self.judged(door, card, self.clock(now_ns))
        if reason == PASS:
            self._release(door, now_ns)
            self._log(DOOR, door, PASS, card=card, direction=direction, granted=True)
        else:
            self._log(SWIPE, door, reason, card=card, direction=direction)

    def judged(self, door: int, card: int, at: datetime) -> int:
        """What its own list says of a card at a moment of its clock: `PASS`, or why not."""
        listed = self.cards.get(card)
        if listed is None or not listed.first <= bytes.fromhex(f"{at:%Y%m%d}") <= listed.last:
            return NO_PASS
        number = listed.doors[door - 1]
        if number == 0 or number > LAST_PROFILE:
            return NO_PRIVILEGE
        return PASS if number < FIRST_PROFILE or self._in_profile(number, at) else WRONG_TIME

    def _in_profile(self, number: int, at: datetime) -> bool:
        """Whether a profile or one that it is linked to opens. One that isn't there always does."""
        seen: set[int] = set()
        while FIRST_PROFILE <= number <= LAST_PROFILE and number not in seen:
            seen.add(number)
            profile = self.profiles.get(number)
            if profile is None or profile.opens(at, end_opens=self.end_opens):
                return True
            number = profile.linked
        return False

    def push_button(self, door: int, *, pressed: bool, now_ns: int) -> bool:
        """Press or let go of a door's exit button; whether that is an event."""
        state = self.doors[door - 1]
        if state.button == pressed:
            return False
        state.button = pressed
        if pressed:
            self._release(door, now_ns)
            self._log(DOOR, door, BUTTON, granted=True)
        return pressed

    def move(self, door: int, *, opened: bool) -> bool:
        """Open or close a door; whether that is an event."""
        state = self.doors[door - 1]
        if state.open == opened:
            return False
        state.open = opened
        if self.special_events:
            self._log(DOOR, door, OPENED if opened else CLOSED, granted=True)
        return self.special_events


class _Socket(asyncio.DatagramProtocol):
    def __init__(self, board: "UhppoteBoard") -> None:
        self._board = board

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self._board.received(data, addr)


class UhppoteBoard:
    """A controller on a UDP socket."""

    def __init__(self, controller: Controller, host: str, port: int) -> None:
        self.controller = controller
        self.host, self.port = host, port
        self.hung = False
        self.late_s: dict[int, list[float]] = {}
        """How late the next answers to requests of a code are; infinite for one that is lost, and
        below zero where the request itself is."""
        self.changed: list[Callable[[int], None]] = []
        self._transport: asyncio.DatagramTransport | None = None
        self._timer: asyncio.TimerHandle | None = None

    async def plug(self) -> None:
        """Join the network; nothing if it is there."""
        self.hung = False
        if self._transport is None:
            loop = asyncio.get_running_loop()
            made, _ = await loop.create_datagram_endpoint(
                lambda: _Socket(self), local_addr=(self.host, self.port)
            )
            self._transport = made
            self.port = made.get_extra_info("sockname")[1]

    async def unplug(self) -> None:
        """Leave the network; doors and events stay."""
        if self._timer is not None:
            self._timer.cancel()
        if self._transport is not None:
            self._transport.close()
            self._transport = None
            await asyncio.sleep(0)

    def received(self, data: bytes, addr: Any) -> None:
        """Answer a message."""
        if self.hung or self._transport is None:
            return
        late = self.late_s.get(data[1])
        late_s = late.pop(0) if late else 0.0
        if late_s < 0:
            return
        reply = self.controller.request(data, time.monotonic_ns())
        if reply is not None:
            self._answer(reply, addr, late_s)
        self.settle()

    def _answer(self, reply: bytes, addr: Any, late_s: float = 0.0) -> None:
        if late_s == math.inf or self._transport is None:
            return
        if late_s:
            asyncio.get_running_loop().call_later(late_s, self._answer, reply, addr)
        else:
            self._transport.sendto(reply, addr)

    def notify(self) -> int:
        """Send the last event to the listener; when, in monotonic nanoseconds."""
        now_ns = time.monotonic_ns()
        if self._transport is not None and self.controller.listener and not self.hung:
            self._transport.sendto(self.controller.status(now_ns), self.controller.listener)
        self.settle()
        return now_ns

    def settle(self) -> None:
        """Report relays that switched, and come back when the next one does."""
        now_ns = time.monotonic_ns()
        for tell in self.changed:
            tell(now_ns)
        due = [door.until_ns for door in self.controller.doors if door.until_ns > now_ns]
        if self._timer is not None:
            self._timer.cancel()
        if due:
            wait_s = (min(due) - now_ns) / 1e9 + 0.0005
            self._timer = asyncio.get_running_loop().call_later(wait_s, self.settle)


class UhppoteDoor:
    """One door of a board: input 1 is its contact (active: open), input 2 its exit button."""

    def __init__(
        self, name: str, board: UhppoteBoard, door: int, direction: int, seen: Observations
    ) -> None:
        self.name = name
        self.board = board
        self.door = door
        self.direction = direction
        self.switched: list[Callable[[Edge], None]] = []
        self._seen = seen
        self._was = False
        board.changed.append(self._look)

    def _look(self, now_ns: int) -> None:
        now = self.board.controller.doors[self.door - 1].energised(now_ns)
        if now != self._was and self.direction == 1:
            self._was = now
            self._seen.add(Output(now_ns, self.name, 1, now))
            for tell in self.switched:
                tell(Edge(now_ns, 1, on=now))

    def swipe(self, card: int) -> int:
        """Present a card; when, in monotonic nanoseconds."""
        self.board.controller.swipe(self.door, card, self.direction, time.monotonic_ns())
        at_ns = self.board.notify()
        self._seen.add(CardSent(at_ns, self.name, str(card)))
        return at_ns

    def set_input(self, number: int, *, active: bool) -> None:
        """Switch the contact (1) or the button (2)."""
        controller, now_ns = self.board.controller, time.monotonic_ns()
        if number == 1:
            told = controller.move(self.door, opened=active)
        else:
            told = controller.push_button(self.door, pressed=active, now_ns=now_ns)
        if told:
            self.board.notify()
