"""A door of a UHPPOTE controller (UT0311-L01, -L02, -L04) over UDP: an installed base, taken over.

    [devices.yard-board]
    driver = "uhppote"
    host = "192.168.70.20"
    serial = 423187757
    door = 1
    reader = "in"               # a second device with reader = "out" is the door's other reader
    fallback = "closed"         # or "own_list": what the board does when nobody speaks to it

Each door of a board is a device, and so is a second reader of it; they share the board's socket.
Input 1 is the door contact (active: open), input 2 the exit button (active: pressed), which the
board itself answers by opening. Output 1 is the strike; the board times it, in whole seconds.

The gateway decides: the board is put under remote control, in which it opens for no card by itself.
30 s after the last message it decides by its own list again. With `fallback = "closed"` a board
whose list is not empty is refused, so that a silent gateway opens nothing more; with "own_list" the
cards in it open its doors then. With "card_list" the gateway writes the list and its time profiles:
the cards that its records let in, at no other hours (`gateway/domain/own_list.py`), and no other
card.

The protocol has neither a password nor a checksum: whoever reaches the board opens its doors. It
must stand on a network of its own. The messages are those of the package uhppoted; its sockets are
not used, since they take an answer from anybody and listen to everybody.
"""

import asyncio
import ipaddress
import math
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import date, datetime, time, timedelta
from functools import partial
from typing import Any, ClassVar, Final, Literal, TypeVar

import msgspec
import structlog
from uhppoted import decode, encode, structs

from gateway.clock import Clock
from gateway.config.devices import (
    Capability,
    DeviceSettings,
    DriverSpec,
    Means,
    RelayClass,
    Trial,
)
from gateway.domain.card_format import FORMATS, bare_value
from gateway.domain.facts import (
    AdmittedElsewhere,
    CredentialPresented,
    DeviceOnline,
    Fact,
    InputChanged,
    OutputReported,
    UnexpectedOutput,
)
from gateway.domain.own_hours import FIRST, LAST, NEVER, SEGMENTS, Profile, Span
from gateway.domain.own_list import ListedCard
from gateway.drivers.base import FactSink
from gateway.errors import (
    DeviceError,
    DeviceMisconfigured,
    DeviceProtocolError,
    DeviceRefused,
    DeviceUnavailable,
)

log = structlog.get_logger()

MESSAGE_BYTES: Final = 64
STATUS: Final = 0x20
"""The code of an answer to get-status, and of an event that the board sends by itself."""

DOORS: Final = 4
NORMALLY_CLOSED, CONTROLLED = 2, 3  # set-door-control
DELAY_S_MAX: Final = 255
IN, OUT = 1, 2  # an event's direction

REQUEST_S_MAX: Final = 0.25
TRIES: Final = 3
"""UDP loses packets; every request here may be repeated, and a pulse that was asked for twice
within 0.5 s only restarts its time."""
CALL_S_MAX: Final = 2.0

POLL_S: Final = 0.25
"""How often the state is read: outputs at 4 Hz, and inputs whose events were lost."""
FRESH: Final = timedelta(seconds=2)
"""An event that was missed and is fetched later counts as a card only if the last contact was so
recent that the card can't be older: nobody's door opens minutes after they left."""
LIST_MAX: Final = 20_000
"""How many cards the list has room for (the maker's figure)."""
LIST_INDEX_MAX: Final = 2 * LIST_MAX
"""Cards that were taken off leave gaps in the numbering."""
DELETED: Final = 0xFFFF_FFFF
"""Such a gap (uhppote-core, GetCardByIndex)."""
WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")

PASSED: Final = 1
"""The reason of an event: the board's own list let the card in (uhppote-simulator, reasons)."""
ABSENT_MAX: Final = 1000
"""How many events of a time without this software are looked through at the most."""

MISSED_MAX: Final = 8
"""More events than this between two contacts are not fetched one by one."""
STATUSES_AT_ONCE: Final = 40
STATUSES_PER_S: Final = 5.0
"""Statuses that a board sends by itself: four doors at which somebody passes every few seconds.
Beyond that only the newest counts, and the events between are asked for.
"""
OVERDUE: Final = timedelta(seconds=1)

FORMAT: Final = "H10301"
"""The board shows a 26-bit card as one decimal number: facility code, then five digits."""
NUMBER_UNIT: Final = 100_000

R = TypeVar("R")


class UhppoteSettings(DeviceSettings, frozen=True, kw_only=True):
    """[devices.NAME] of a door, or of a second reader of it."""

    host: str
    serial: int
    door: int
    fallback: Literal["closed", "own_list", "card_list"]
    reader: Literal["in", "out"] = "in"
    port: int = 60_000

    def __post_init__(self) -> None:
        """Refuse what no such board can have.

        Raises:
            ValueError: msgspec turns it into a fault with its path in the file.
        """
        try:
            ipaddress.IPv4Address(self.host)
        except ValueError:
            raise ValueError("`host` must be an IPv4 address") from None
        for name, value, low, high in (
            ("serial", self.serial, 1, 0xFFFF_FFFF),
            ("door", self.door, 1, DOORS),
            ("port", self.port, 1, 0xFFFF),
        ):
            if not low <= value <= high:
                raise ValueError(f"`{name}` must be {low} to {high}")


class Swipe(msgspec.Struct, frozen=True):
    """A card at one of a board's readers. `granted`: the board has opened by itself."""

    index: int
    door: int
    direction: int
    card: int
    granted: bool
    passed: bool = False
    """By the board's own list."""

    def __repr__(self) -> str:
        """Without the card: a credential is never printed."""
        return f"Swipe(index={self.index}, door={self.door}, granted={self.granted})"


def card_value(card: int) -> str | None:
    """The canonical `wiegand` value of a number that a board shows; None if it can't be one."""
    facility, number = divmod(card, NUMBER_UNIT)
    layout = FORMATS[FORMAT]
    if facility > (layout.facility_max or 0) or number > layout.number_max:
        return None
    return bare_value(FORMAT, facility, number)


def card_number(value: str) -> int | None:
    """The number that a board shows for a canonical `wiegand` value; None if it can't have one."""
    name, facility, number = value.split(":")
    if name != FORMAT:
        return None
    return int(facility) * NUMBER_UNIT + int(number)


class BoardProtocol:
    """A board's packets in: which events are new, and the state of its doors."""

    def __init__(self, serial: int) -> None:
        self._serial = serial
        self._index: int | None = None
        self._heard = timedelta()
        self.status: structs.GetStatusResponse | None = None

    def is_ours(self, packet: bytes, code: int) -> bool:
        """Whether a packet is this board's, and an answer to a request of this code."""
        return (
            len(packet) == MESSAGE_BYTES
            and packet[0] in (0x17, 0x19)  # 0x19: events of firmware 6.62
            and packet[1] == code
            and int.from_bytes(packet[4:8], "little") == self._serial
        )

    def status_received(self, packet: bytes, now: timedelta) -> tuple[Swipe | None, range]:
        """Take a status; return its event, if it is a new swipe, and which others were missed.

        Raises:
            DeviceProtocolError: it can't be read.
        """
        try:
            status = decode.get_status_response(b"\x17" + packet[1:])
        except ValueError:
            # Nothing of the packet, nor of the decoder's words on it: a card's number may be there.
            raise DeviceProtocolError(
                f"board {self._serial}: a status of {len(packet)} bytes can't be read"
            ) from None
        self.status = status
        index, last = int(status.event_index), self._index
        fresh = now - self._heard <= FRESH
        self._index, self._heard = index, now
        if last is None or index <= last or not fresh:
            # What happened before there was anybody to decide, or a log that was cleared.
            return None, range(0)
        missed = range(max(last + 1, index - MISSED_MAX), index)
        return _swipe(index, status), missed


def _swipe(index: int, event: Any) -> Swipe | None:
    card = int(event.event_card or 0)  # None as long as there is no event
    if not card:
        return None
    granted = bool(event.event_access_granted)
    passed = granted and int(event.event_reason) == PASSED
    return Swipe(index, int(event.event_door), int(event.event_direction), card, granted, passed)


def missed_swipe(packet: bytes) -> Swipe | None:
    """The swipe in an answer to get-event, if it is one. Raises ValueError if it is no answer."""
    event = decode.get_event_response(packet)
    if not event.card:
        return None
    passed = event.access_granted and event.reason == PASSED
    return Swipe(event.index, event.door, event.direction, event.card, event.access_granted, passed)


class DoorProtocol:
    """One door: statuses and swipes in, facts out."""

    def __init__(self, device_id: str, settings: UhppoteSettings) -> None:
        self.device_id = device_id
        self._settings = settings
        self._inputs: dict[int, bool] = {}
        self.energised: bool | None = None
        self._expected_until = timedelta()
        self.delay_s = 0
        """For how long the board opens when it is told to, or its button is pressed; 0: not known,
        as long as it hasn't answered.
        """

    def swiped(self, swipe: Swipe, at: timedelta) -> CredentialPresented | AdmittedElsewhere | None:
        """The fact of a card at this door's reader, which may be let in already; else None."""
        direction = IN if self._settings.reader == "in" else OUT
        if swipe.door != self._settings.door or swipe.direction != direction:
            return None
        if swipe.granted:
            # Its own list let somebody in while this software was away.
            self._expected_until = at + timedelta(seconds=DELAY_S_MAX)
            return self.admitted(swipe, at)
        value = card_value(swipe.card)
        if value is None:
            log.warning("card_of_no_enabled_format", device=self.device_id)
            return None
        return CredentialPresented(self.device_id, "wiegand", value, at)

    def admitted(self, swipe: Swipe, at: timedelta) -> AdmittedElsewhere | None:
        """The fact of a card that the board's own list let in at this door's reader, else None."""
        direction = IN if self._settings.reader == "in" else OUT
        value = card_value(swipe.card) if swipe.passed else None
        if value is None or swipe.door != self._settings.door or swipe.direction != direction:
            return None
        return AdmittedElsewhere(self.device_id, "wiegand", value, at)

    def status(self, status: structs.GetStatusResponse, at: timedelta) -> list[Fact]:
        """What has changed at this door."""
        number = self._settings.door
        facts: list[Fact] = []
        opened = bool(getattr(status, f"door_{number}_open"))
        pressed = bool(getattr(status, f"door_{number}_button"))
        for which, active in ((1, opened), (2, pressed)):
            if self._inputs.get(which) != active:
                self._inputs[which] = active
                facts.append(InputChanged(self.device_id, which, active, at))
        if pressed:
            self._expected_until = max(
                self._expected_until,
                at + timedelta(seconds=self.delay_s or DELAY_S_MAX) + OVERDUE,
            )
        energised = bool(status.relays >> (number - 1) & 1)
        if self.energised != energised:
            self.energised = energised
            facts.append(OutputReported(self.device_id, 1, energised, at))
        return facts

    def pulse(self, duration: timedelta, now: timedelta) -> int:
        """The whole seconds that the board is to be told: never longer than `duration`.

        Raises:
            DeviceMisconfigured: less than a second, or more than the board can count.
        """
        seconds = duration // timedelta(seconds=1)
        if not 1 <= seconds <= DELAY_S_MAX:
            raise DeviceMisconfigured(
                f"{self.device_id}: the board times pulses of 1 to {DELAY_S_MAX} s, not {duration}"
            )
        self._expected_until = max(self._expected_until, now + duration + OVERDUE)
        return seconds

    def rested(self) -> None:
        """Nobody expects the strike to be energised any more."""
        self._expected_until = timedelta()

    def unexpected(self, now: timedelta) -> bool:
        """Whether the strike is energised though nobody has pulsed it, or not for so long."""
        return bool(self.energised) and now > self._expected_until


class _Socket(asyncio.DatagramProtocol):
    """Connected to the board: the kernel lets nobody else's packets in."""

    def __init__(self, receive: Callable[[bytes], None]) -> None:
        self._receive = receive

    def datagram_received(self, data: bytes, addr: object) -> None:
        del addr
        self._receive(data)

    def error_received(self, exc: Exception) -> None:
        """The next request says so by its silence."""


Listener = Callable[[Swipe | None, timedelta], None]


class Allowance:
    """A limit on how often something is done: some at once, then so many a second."""

    def __init__(self, at_once: int, per_s: float) -> None:
        self._at_once = at_once
        self._per_s = per_s
        self._left = float(at_once)
        self._at_s = -math.inf

    def take(self, now_s: float) -> float:
        """Use one, at the monotonic second `now_s`: in how many seconds it may be done."""
        self._left = min(self._at_once, self._left + (now_s - self._at_s) * self._per_s) - 1
        self._at_s = now_s
        return max(0.0, -self._left / self._per_s)


class _Board:
    """A board's socket, for as long as one of its doors uses it."""

    _open: ClassVar[dict[tuple[str, int], "_Board"]] = {}

    def __init__(self, settings: UhppoteSettings, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock
        self._name = f"board {settings.serial}"
        self.protocol = BoardProtocol(settings.serial)
        self.listeners: list[Listener] = []
        self._transport: asyncio.DatagramTransport | None = None
        self._asking = asyncio.Lock()
        self._waiting: tuple[int, asyncio.Future[bytes]] | None = None
        self._late: dict[int, float] = {}
        """Requests, by code, that may still be answered once more, and until when."""
        self._task: asyncio.Task[None] | None = None
        self._users = 0
        loop = asyncio.get_running_loop()
        self.ready: asyncio.Future[None] = loop.create_future()
        self.lost: asyncio.Future[DeviceError] = loop.create_future()
        self._statuses = Allowance(STATUSES_AT_ONCE, STATUSES_PER_S)
        self._newest: bytes | None = None
        """A status that came when too many had: looked at as soon as one may be."""
        self._to_fetch: deque[int] = deque(maxlen=MISSED_MAX)
        self._fetching: asyncio.Task[None] | None = None
        self.absent: list[Swipe] = []
        """Whom the board let in while nobody here listened; each door takes its own."""

    @classmethod
    @asynccontextmanager
    async def shared(cls, settings: UhppoteSettings, clock: Clock) -> AsyncIterator["_Board"]:
        """The board at an address, for the length of the block."""
        key = settings.host, settings.port
        board = cls._open.get(key)
        if board is None or board.lost.done():
            board = cls._open[key] = cls(settings, clock)
        if board._settings.serial != settings.serial:
            raise DeviceMisconfigured(
                f"{settings.host}: is board {board._settings.serial}, or board {settings.serial}?"
            )
        if board._settings.fallback != settings.fallback:
            raise DeviceMisconfigured(f"{settings.host}: its doors must have one `fallback`")
        board._users += 1
        if board._task is None:
            board._task = asyncio.create_task(board._run(), name=board._name)
        try:
            yield board
        finally:
            board._users -= 1
            if not board._users:
                if cls._open.get(key) is board:
                    del cls._open[key]
                board._task.cancel()
                await asyncio.wait((board._task,))

    async def _run(self) -> None:
        why: DeviceError = DeviceUnavailable(f"{self._name}: ended")
        try:
            await self._serve()
        except DeviceError as error:
            why = error
        except OSError as error:
            host = self._settings.host
            why = DeviceUnavailable(f"{self._name}: {host} can't be reached: {error}")
        finally:
            if self._fetching is not None:
                self._fetching.cancel()
            if self._transport is not None:
                self._transport.abort()
                await asyncio.sleep(0)  # the loop closes the socket in its next round
            if not self.lost.done():
                self.lost.set_result(why)

    async def _serve(self) -> None:
        settings, serial = self._settings, self._settings.serial
        made, _ = await asyncio.get_running_loop().create_datagram_endpoint(
            lambda: _Socket(self._received), remote_addr=(settings.host, settings.port)
        )
        self._transport = made
        await self.poll()
        if settings.fallback == "closed":
            cards = await self.ask(encode.get_cards_request(serial), decode.get_cards_response)
            if cards.cards:
                raise DeviceMisconfigured(
                    f"{self._name}: its own list has {cards.cards} cards, which open its doors "
                    'when the gateway is silent: empty it, or set fallback = "own_list"'
                )
        host, port = made.get_extra_info("sockname")
        local = ipaddress.IPv4Address(host)
        requests = (
            (encode.set_pc_control_request(serial, True), decode.set_pc_control_response),
            (encode.set_listener_request(serial, local, port, 0), decode.set_listener_response),
            (
                encode.record_special_events_request(serial, True),
                decode.record_special_events_response,
            ),
        )
        for request, reader in requests:
            await self.ask(request, reader)
        last = await self._look_back()
        self.ready.set_result(None)
        while True:
            await asyncio.sleep(POLL_S)
            await self.poll()
            now = 0 if self.protocol.status is None else int(self.protocol.status.event_index)
            if now != last:
                # The board remembers up to where it was heard; what comes twice is told twice.
                request = encode.set_event_index_request(serial, now)
                await self.ask(request, decode.set_event_index_response)
                last = now

    async def _look_back(self) -> int:
        """Fetch what happened since the board was last heard; up to where that is known."""
        serial = self._settings.serial
        heard = await self.ask(
            encode.get_event_index_request(serial), decode.get_event_index_response
        )
        last = 0 if self.protocol.status is None else int(self.protocol.status.event_index)
        # A board that was never heard is taken over now: what was before is not ours to tell.
        begin = max(int(heard.event_index), last - ABSENT_MAX) if heard.event_index else last
        for index in range(begin + 1, last + 1):
            swipe = await self.ask(encode.get_event_request(serial, index), missed_swipe)
            if swipe is not None and swipe.passed:
                self.absent.append(swipe)
        return int(heard.event_index)

    async def poll(self) -> None:
        """Read the state; whoever listens hears of it."""
        await self.ask(encode.get_status_request(self._settings.serial), bytes)

    async def ask(self, request: bytes, reader: Callable[[bytes], R]) -> R:
        """The board's answer to a request.

        Raises:
            DeviceUnavailable: there is none.
            DeviceProtocolError: it can't be read.
        """
        async with self._asking:
            answer = await self._exchange(bytes(request))
        try:
            return reader(answer)
        except ValueError:
            raise DeviceProtocolError(
                f"{self._name}: an answer of {len(answer)} bytes to function 0x{request[1]:02x} "
                "can't be read"
            ) from None

    async def _exchange(self, request: bytes) -> bytes:
        loop, code = asyncio.get_running_loop(), request[1]
        if (late_s := self._late.pop(code, 0.0) - loop.time()) > 0:
            # An answer doesn't say to which request of its kind it belongs.
            await asyncio.sleep(late_s)
        for _ in range(TRIES):
            if self._transport is None or self._transport.is_closing():
                break
            answer: asyncio.Future[bytes] = loop.create_future()
            self._waiting = code, answer
            self._transport.sendto(request)
            try:
                await asyncio.wait((answer,), timeout=REQUEST_S_MAX)
                if answer.done():
                    return answer.result()
            finally:
                self._waiting = None
                if code in self._late or not answer.done():
                    self._late[code] = loop.time() + REQUEST_S_MAX
        raise DeviceUnavailable(f"{self._name}: {self._settings.host} doesn't answer")

    def _received(self, packet: bytes) -> None:
        code = packet[1] if len(packet) == MESSAGE_BYTES else -1
        if not self.protocol.is_ours(packet, code):
            return
        if self._waiting is not None and self._waiting[0] == code and not self._waiting[1].done():
            if code == STATUS:
                self._status_received(packet)  # there are as many as were asked for
            self._waiting[1].set_result(packet)
        elif code == STATUS:
            self._status_told(packet)

    def _status_told(self, packet: bytes) -> None:
        """Look at a status that nobody asked for. Of a flood only the newest is looked at, so often
        that it holds up no other board's doors and fills no journal.
        """
        late = self._newest is not None
        self._newest = packet
        if late:
            return
        wait_s = self._statuses.take(asyncio.get_running_loop().time())
        if not wait_s:
            self._look_at_newest()
            return
        log.warning("statuses_dropped", board=self._settings.serial)
        asyncio.get_running_loop().call_later(wait_s, self._look_at_newest)

    def _look_at_newest(self) -> None:
        packet, self._newest = self._newest, None
        if packet is not None and not self.lost.done():
            self._status_received(packet)

    def _status_received(self, packet: bytes) -> None:
        now = self._clock.monotonic()
        try:
            swipe, missed = self.protocol.status_received(packet, now)
        except DeviceProtocolError as error:
            log.warning("unreadable_status", why=str(error))
            return
        for listener in tuple(self.listeners):
            listener(swipe, now)
        if missed and self.ready.done():
            # Whatever a flood adds while some are fetched, the last few are fetched next.
            self._to_fetch.extend(missed)
            if self._fetching is None or self._fetching.done():
                self._fetching = asyncio.create_task(self._fetch(now), name=f"{self._name} missed")

    async def _fetch(self, at: timedelta) -> None:
        try:
            while self._to_fetch:
                index = self._to_fetch.popleft()
                request = encode.get_event_request(self._settings.serial, index)
                swipe = await self.ask(request, missed_swipe)
                for listener in tuple(self.listeners):
                    listener(swipe, at)
        except DeviceError as error:
            log.warning("missed_events_lost", why=str(error))


class Uhppote:
    """One door of a board, or one of its readers."""

    def __init__(self, device_id: str, settings: UhppoteSettings, clock: Clock) -> None:
        self.device_id = device_id
        self._settings = settings
        self._clock = clock
        self._protocol = DoorProtocol(device_id, settings)
        self._board: _Board | None = None
        self._setting = asyncio.Lock()
        """Held while the door's mode or time is set, and until the pulse that it is for is told."""
        self._half_closed = False
        """Whether the board was told to close, and may not know that it is under control again."""

    async def run(self, emit: FactSink) -> None:
        """See `Driver.run`."""
        self._protocol = protocol = DoorProtocol(self.device_id, self._settings)
        async with _Board.shared(self._settings, self._clock) as board:

            def heard(swipe: Swipe | None, at: timedelta) -> None:
                card = protocol.swiped(swipe, at) if swipe is not None else None
                if card is not None:
                    emit(card)
                if board.protocol.status is not None:
                    for fact in protocol.status(board.protocol.status, at):
                        emit(fact)

            try:
                await self._first(board.ready, board)
                if self._settings.reader == "in":
                    await self._to_rest(board)
                emit(DeviceOnline(self.device_id, self._clock.monotonic()))
                board.listeners.append(heard)
                for swipe in board.absent:
                    if fact := protocol.admitted(swipe, self._clock.monotonic()):
                        emit(fact)
                self._board = board
                await board.poll()
                while True:
                    await asyncio.wait((board.lost,), timeout=POLL_S)
                    if board.lost.done():
                        raise self._lost(board)
                    if protocol.unexpected(self._clock.monotonic()):
                        await self._force_off(board, emit)
                    if self._half_closed and not self._setting.locked():
                        # Neither grants nor its exit button open a door that is closed for good.
                        await self._to_rest(board)
            finally:
                self._board = None
                if heard in board.listeners:
                    board.listeners.remove(heard)

    async def _first(self, ready: asyncio.Future[None], board: _Board) -> None:
        either: set[asyncio.Future[Any]] = {ready, board.lost}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if board.lost.done():
            raise self._lost(board)

    def _lost(self, board: _Board) -> DeviceError:
        why = board.lost.result()
        return type(why)(f"{self.device_id}: {why}")

    # --- The board's own list ---------------------------------------------------------------------

    @property
    def keeps_cards(self) -> bool:
        """Whether the gateway writes the board's list, through this device: a door's first."""
        return self._settings.fallback == "card_list" and self._settings.reader == "in"

    @property
    def controller(self) -> str:
        """See `KeepsCards.controller`."""
        return str(self._settings.serial)

    @property
    def controller_door(self) -> int:
        """See `KeepsCards.controller_door`."""
        return self._settings.door

    async def clock(self) -> datetime | None:
        """See `KeepsCards.clock`."""
        return await self._ask(encode.get_time_request(self._settings.serial), _shown)

    async def set_clock(self, local: datetime) -> None:
        """See `KeepsCards.set_clock`."""
        request = encode.set_time_request(self._settings.serial, local)
        await self._ask(request, decode.set_time_response)

    async def cards(self) -> dict[int, ListedCard]:
        """See `KeepsCards.cards`."""
        serial = self._settings.serial
        count = await self._ask(encode.get_cards_request(serial), decode.get_cards_response)
        found: dict[int, ListedCard] = {}
        for index in range(1, LIST_INDEX_MAX + 1):
            if len(found) >= count.cards:
                return found
            request = encode.get_card_by_index_request(serial, index)
            card = await self._ask(request, decode.get_card_by_index_response)
            if card.card_number not in (0, DELETED):
                found[card.card_number] = _listed(card)
        raise DeviceProtocolError(f"{self.device_id}: its list of {count.cards} cards has no end")

    async def profiles(self) -> dict[int, Profile]:
        """See `KeepsCards.profiles`."""
        found = {number: await self._profile(number) for number in range(FIRST, LAST + 1)}
        return {number: profile for number, profile in found.items() if profile is not None}

    async def put_profile(self, number: int, profile: Profile) -> None:
        """See `KeepsCards.put_profile`. There is no taking one away: cards that still refer to it
        would open at any hour (uhppote-cli, README, clear-time-profiles).
        """
        request = profile_request(self._settings.serial, number, profile)
        said = await self._ask(request, decode.set_time_profile_response)
        if not said.stored or await self._profile(number) != profile:
            raise DeviceRefused(f"{self.device_id}: the board didn't take time profile {number}")

    async def _profile(self, number: int) -> Profile | None:
        request = encode.get_time_profile_request(self._settings.serial, number)
        return await self._ask(request, partial(read_profile, number))

    async def put_card(self, number: int, card: ListedCard) -> None:
        """See `KeepsCards.put_card`."""
        doors = [card.doors.get(door, NEVER) for door in range(1, DOORS + 1)]
        request = encode.put_card_request(
            self._settings.serial, number, card.first, card.last, *doors, 0
        )
        said = await self._ask(request, decode.put_card_response)
        if not said.stored:
            raise DeviceRefused(f"{self.device_id}: the board didn't take a card")

    async def delete_card(self, number: int) -> None:
        """See `KeepsCards.delete_card`."""
        request = encode.delete_card_request(self._settings.serial, number)
        said = await self._ask(request, decode.delete_card_response)
        if said.deleted:
            return
        # It is refused as well where it isn't there: the answer to the first try may be lost.
        request = encode.get_card_request(self._settings.serial, number)
        there = await self._ask(request, decode.get_card_response)
        if there.card_number == number:
            raise DeviceRefused(f"{self.device_id}: the board didn't take a card off its list")

    def card_value(self, number: int) -> str | None:
        """See `KeepsCards.card_value`."""
        return card_value(number)

    def card_number(self, value: str) -> int | None:
        """See `KeepsCards.card_number`."""
        return card_number(value)

    async def _ask(self, request: bytes, reader: Callable[[bytes], R]) -> R:
        return await self._open().ask(request, reader)

    def _open(self) -> _Board:
        if self._board is None:
            raise DeviceUnavailable(f"{self.device_id}: is not online")
        return self._board

    # --- The strike -------------------------------------------------------------------------------

    async def _control(self, board: _Board, mode: int, delay_s: int) -> None:
        settings = self._settings
        request = encode.set_door_control_request(settings.serial, settings.door, mode, delay_s)
        self._protocol.delay_s = 0
        self._half_closed |= mode != CONTROLLED
        said = await board.ask(request, decode.set_door_control_response)
        if (said.door, said.mode, said.delay) != (settings.door, mode, delay_s):
            raise DeviceError(f"{self.device_id}: the board didn't take mode {mode}")
        self._protocol.delay_s = delay_s
        self._half_closed &= mode != CONTROLLED

    async def _to_rest(self, board: _Board) -> None:
        """End whatever holds the strike: closed for good, then under control again."""
        async with self._setting:
            delay_s = self._protocol.delay_s or 1
            await self._control(board, NORMALLY_CLOSED, delay_s)
            await self._control(board, CONTROLLED, delay_s)
            self._protocol.rested()

    async def _force_off(self, board: _Board, emit: FactSink) -> None:
        await self._to_rest(board)
        await board.poll()
        if self._protocol.energised is False:
            emit(UnexpectedOutput(self.device_id, 1, self._clock.monotonic()))

    async def pulse(self, output: int, duration: timedelta) -> None:
        """See `PulsesOutput.pulse`."""
        async with self._call(output) as board, self._setting:
            seconds = self._protocol.pulse(duration, self._clock.monotonic())
            if seconds != self._protocol.delay_s or self._half_closed:
                await self._control(board, CONTROLLED, seconds)
            settings = self._settings
            request = encode.open_door_request(settings.serial, settings.door)
            said = await board.ask(request, decode.open_door_response)
            if not said.opened:
                raise DeviceError(f"{self.device_id}: the board refused to open")
            await board.poll()
            if not self._protocol.energised:
                raise DeviceError(f"{self.device_id}: took a pulse but reads back at rest")

    async def rest(self, output: int) -> None:
        """See `PulsesOutput.rest`."""
        async with self._call(output) as board:
            await self._to_rest(board)
            await board.poll()
            if self._protocol.energised:
                raise DeviceError(f"{self.device_id}: was released but stays energised")

    @asynccontextmanager
    async def _call(self, output: int) -> AsyncIterator[_Board]:
        if output != 1 or self._settings.reader != "in":
            raise DeviceMisconfigured(f"{self.device_id}: has no output {output}")
        board = self._open()
        try:
            async with asyncio.timeout(CALL_S_MAX):
                yield board
        except TimeoutError:
            raise DeviceUnavailable(
                f"{self.device_id}: nothing was confirmed within {CALL_S_MAX:g} s"
            ) from None


def _listed(card: structs.GetCardByIndexResponse) -> ListedCard:
    doors = {1: card.door_1, 2: card.door_2, 3: card.door_3, 4: card.door_4}
    first, last = card.start_date or date.max, card.end_date or date.min
    plain = not card.pin and not any(card.firstcard.values()) and max(doors.values()) <= LAST
    opened = {number: when for number, when in doors.items() if when != NEVER}
    return ListedCard(first, last, opened if plain else {})


def profile_request(serial: int, number: int, profile: Profile) -> bytes:
    """What sets a time profile.

    Whether the last minute of a segment still opens is not known, so it is sent as the last that
    may. A segment that isn't needed repeats the first: 00:00 to 00:00, as one that isn't set is
    sent elsewhere, opens at midnight in uhppote-simulator.
    """
    segments = (*profile.segments, *[profile.segments[0]] * SEGMENTS)[:SEGMENTS]
    minutes = [_wall(minute) for start, end in segments for minute in (start, end - 1)]
    weekdays = [weekday in profile.weekdays for weekday in range(len(WEEKDAYS))]
    made = encode.set_time_profile_request(
        serial, number, profile.first, profile.last, *weekdays, *minutes, profile.linked
    )
    return bytes(made)


def read_profile(number: int, packet: bytes) -> Profile | None:
    """The answer to get-time-profile, None where there is no such profile.

    Raises:
        ValueError: it is no such answer, or one to another number: answers may come late.
    """
    said = decode.get_time_profile_response(packet)
    if not said.profile_id:
        return None
    if said.profile_id != number:
        raise ValueError(f"is time profile {said.profile_id}, not {number}")
    segments: list[Span] = []
    for at in range(1, SEGMENTS + 1):
        start, end = getattr(said, f"segment_{at}_start"), getattr(said, f"segment_{at}_end")
        span = _minute(start), _minute(end) + 1
        if span not in segments:
            segments.append(span)
    return Profile(
        said.start_date or date.max,
        said.end_date or date.min,
        frozenset(at for at, name in enumerate(WEEKDAYS) if getattr(said, name)),
        tuple(segments),
        said.linked_profile_id,
    )


def _shown(packet: bytes) -> datetime | None:
    try:
        shown: datetime = decode.get_time_response(packet).datetime
    except ValueError:
        return None  # a clock that has lost its battery
    return shown


def _wall(minute: int) -> time:
    return time(minute // 60, minute % 60)


def _minute(wall: time | None) -> int:
    return -1 if wall is None else wall.hour * 60 + wall.minute


DRIVER = DriverSpec(
    name="uhppote",
    settings=UhppoteSettings,
    capabilities=frozenset(
        {Capability.READS_CREDENTIALS, Capability.REPORTS_INPUTS, Capability.PULSES_OUTPUTS}
    ),
    build=Uhppote,
    relay_class=lambda _settings: RelayClass.R2,
    outputs=lambda settings: 1 if settings.reader == "in" else 0,
    inputs=lambda settings: 2 if settings.reader == "in" else 0,
    address=lambda settings: f"board {settings.serial}",
    station=lambda settings: f"door {settings.door}, reader {settings.reader}",
    alike=lambda settings: {
        "host": settings.host,
        "port": settings.port,
        "fallback": settings.fallback,
    },
    title="doors of UHPPOTE controllers (UT0311-L01, -L02, -L04)",
    transport="UDP",
    tried=(Trial(Means.CAPTURE, "answers of board 423187757, from the tests of uhppote-core"),),
)
