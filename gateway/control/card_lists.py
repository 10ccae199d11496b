"""Keeps the lists of controllers that decide by themselves when the gateway is away.

No card number is stored for it. Which cards to put on a list is known from an import, for as long
as this process lives, and from cards presented since; which to take off is read from the list
itself, whose numbers are looked up in the records in force like any that is presented.
"""

import asyncio
import io
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Final, NamedTuple, TypeVar
from zoneinfo import ZoneInfo

import msgspec
import structlog

from gateway.clock import Clock
from gateway.control.door import InForce
from gateway.decoding import decode_json
from gateway.domain.own_hours import (
    ANY_TIME,
    AT_ANY_HOUR,
    NEVER,
    Hours,
    Numbers,
    Profile,
    Week,
    Weeks,
    may_stay,
    numbered,
    reaches,
)
from gateway.domain.own_list import Allowance, ListedCard, Moment, allowance
from gateway.drivers.base import KeepsCards
from gateway.errors import DeviceError, DeviceRefused

log = structlog.get_logger()

LOOK_S: Final = 1.0
"""How often it is looked whether anything has changed: a revocation is at the doors within 5 s."""

RETRY_S_MAX: Final = 300.0
"""The longest pause after a controller has refused something or not answered: where an answer is
waited for, taps wait too. What has changed is tried at once."""

CLOCK_OFF: Final = timedelta(minutes=15)
"""Farther off than a controller's clock runs in a day: hours on its list were for another clock."""

KNOWN_MAX: Final = 20_000
"""As many cards as a controller has room for; further ones are not put on its list."""

LINES_A_TURN: Final = 100
"""Lines of an import looked at before the doors have their turn on the loop."""

TURN_S: Final = 0.0005
"""How long cards are looked at before the doors have their turn on the loop, of which a tap takes a
good ten."""

T = TypeVar("T")


class Member(NamedTuple):
    """One door of a controller."""

    driver: KeepsCards
    door: str
    online: Callable[[], bool]
    may_list: Callable[[], bool]
    """Whether the door lets anybody in by a card alone at this moment: its mode, its assurance."""


class _State(NamedTuple):
    """What a list depends on, beside its cards."""

    revision: str | None
    day: str
    """And how far ahead of UTC the site's clocks are: the controller's is set when that changes."""
    trusted: bool
    doors: tuple[tuple[int, str], ...]
    known: int
    online: bool


@dataclass
class _Copy:
    """A controller's list as it was read, and written since."""

    day: str
    cards: dict[int, ListedCard]
    profiles: dict[int, Profile] | None = None
    """None as long as none was needed, or they couldn't be read."""
    unread: bool = False
    """Whether they couldn't be read, once."""

    async def take_off(self, driver: KeepsCards, number: int) -> None:
        """Take a card off."""
        await driver.delete_card(number)
        del self.cards[number]

    async def put(self, driver: KeepsCards, number: int, card: ListedCard) -> None:
        """Add or change a card. Without an answer it isn't known what is there, so it is to go."""
        before = self.cards.get(number)
        self.cards[number] = _UNSURE
        try:
            await driver.put_card(number, card)
        except DeviceRefused:
            del self.cards[number]
            if before is not None:
                self.cards[number] = before
            raise
        self.cards[number] = card

    async def put_profiles(
        self, driver: KeepsCards, wanted: Mapping[int, Profile], today: date
    ) -> None:
        """Have the profiles as they are to be, in this order; none after one that is refused."""
        if self.profiles is None:
            return
        for number, profile in wanted.items():
            if not may_stay(self.profiles.get(number), profile, today):
                self.profiles.pop(number, None)
                await driver.put_profile(number, profile)
                self.profiles[number] = profile


class _Told(NamedTuple):
    """What a list is to be."""

    cards: dict[int, ListedCard]
    profiles: dict[int, Profile]
    without: list[str]
    """Hours that found no room among the profiles, by the names of their schedules."""
    faults: list[str]
    """Why no hours can be told at all."""


_UNSURE: Final = ListedCard(date.max, date.min, {})


class _Credential(msgspec.Struct):
    type: str
    kind: str = ""
    value: str = ""


class CardLists:
    """All controllers whose list the gateway writes; `run` works until cancelled."""

    def __init__(
        self, members: Sequence[Member], in_force: Callable[[], InForce], clock: Clock
    ) -> None:
        self._boards: dict[str, list[Member]] = {}
        for member in members:
            self._boards.setdefault(member.driver.controller, []).append(member)
        self._in_force = in_force
        self._clock = clock
        self._known: dict[str, None] = {}
        self._written: dict[str, _State] = {}
        self._copies: dict[str, _Copy] = {}

    @property
    def boards(self) -> int:
        """How many controllers have a list that is written here."""
        return len(self._boards)

    def presented(self, value: str) -> None:
        """A Wiegand card was presented at a reader of one of the controllers."""
        known = self._in_force().records.find("wiegand", value) is not None
        if known and len(self._known) < KNOWN_MAX:
            self._known[value] = None

    async def imported(self, records: bytes) -> None:
        """These records are in force now; they are the only place where card numbers stand."""
        if not self._boards:
            return
        self._known.clear()
        for count, line in enumerate(io.BytesIO(records)):
            if count % LINES_A_TURN == 0:
                await asyncio.sleep(0)
            if b'"wiegand"' in line and len(self._known) < KNOWN_MAX:
                record = decode_json(line, _Credential)
                if (record.type, record.kind) == ("credential", "wiegand"):
                    self._known[record.value] = None

    async def run(self) -> None:
        """Look after the lists for ever, each by itself."""
        async with asyncio.TaskGroup() as group:
            for board, members in self._boards.items():
                group.create_task(self._keep(board, members), name=f"card list {board}")

    async def _keep(self, board: str, members: Sequence[Member]) -> None:
        loop = asyncio.get_running_loop()
        failed: _State | None = None
        wait_s = due = 0.0
        while True:
            await asyncio.sleep(LOOK_S)
            state = self._state(members)
            if not state.online:
                self._forget(board)
                failed = None
            elif state != self._written.get(board) and (state != failed or loop.time() >= due):
                # What is begun and not ended is no list of before either.
                self._written.pop(board, None)
                try:
                    if await self._write(members, state):
                        self._written[board] = state
                    failed = None
                except DeviceError as error:
                    wait_s = min(2 * wait_s, RETRY_S_MAX) if state == failed else LOOK_S
                    failed, due = state, loop.time() + wait_s
                    log.warning("card list not written", controller=board, why=str(error))

    def _forget(self, board: str) -> None:
        self._written.pop(board, None)
        self._copies.pop(board, None)

    def _state(self, members: Sequence[Member]) -> _State:
        force = self._in_force()
        trusted = self._clock.trust().decides_as_trusted
        zone = ZoneInfo(force.records.tables.site.timezone)
        doors = tuple(
            (each.driver.controller_door, each.door) for each in members if each.may_list()
        )
        return _State(
            force.revision,
            f"{self._clock.now().astimezone(zone):%Y-%m-%d%z}",
            trusted,
            doors,
            len(self._known),
            all(each.online() for each in members),
        )

    async def _write(self, members: Sequence[Member], state: _State) -> bool:
        """Bring a list up to date; False if it has to be gone through once more.

        At no step does the list open more than it did before or will after it: the gateway may end
        at any. A controller opens at any hour for a card whose profile is missing (uhppote-cli,
        README, clear-time-profiles), so a profile is written before the cards that refer to it,
        and none is ever taken away.
        """
        driver, force = members[0].driver, self._in_force()
        now, mono = self._clock.now(), self._clock.monotonic()
        clock: Final = "trusted" if state.trusted else "untrusted"
        moment = Moment(now, force.as_of or now, mono, clock)
        zone = ZoneInfo(force.records.tables.site.timezone)
        today = now.astimezone(zone).date()
        copy = self._copies.get(driver.controller)
        if copy is None or copy.day != state.day:
            copy = self._copies[driver.controller] = _Copy(state.day, await driver.cards())
        doors, weeks = dict(state.doors), Weeks(force.records, now)
        allowed: dict[int, Allowance] = {}
        deleted = 0
        refused: list[str] = []
        async for number, value in _in_turns(self._numbers(driver, copy.cards)):
            if self._in_force().revision != state.revision:
                return False
            may = allowance(force.records, value, doors, moment, weeks)
            if may is not None:
                allowed[number] = may
            elif number in copy.cards:
                # What is to go goes first: whoever may no longer pass doesn't wait for who may.
                with _noted(refused):
                    await copy.take_off(driver, number)
                    deleted += 1
        told = await _told(driver, allowed, copy, weeks)
        shown = await driver.clock()
        is_off = shown is None or abs(shown - self._local(zone)) > CLOCK_OFF
        gone = [
            number
            async for number in _in_turns(list(copy.cards))
            if _is_gone(copy.cards[number], told.cards.get(number))
            or (is_off and _has_hours(copy.cards[number]))
        ]
        for number in gone:
            with _noted(refused):
                await copy.take_off(driver, number)
                deleted += 1
        if refused:  # they may go by a profile that is to be another's
            raise DeviceError(_in_short(refused))
        if state.trusted:
            await driver.set_clock(self._local(zone))
        refused += told.faults
        with _noted(refused):
            await copy.put_profiles(driver, told.profiles, today)
        no_hours = bool(refused)
        changed = [
            number
            async for number in _in_turns(told.cards)
            if not _is_good(copy.cards.get(number), told.cards[number], today)
            and not (no_hours and _has_hours(told.cards[number]))
        ]
        changed.sort(key=lambda number: number not in copy.cards)
        for number in changed:
            if self._state(members)._replace(known=state.known) != state:
                return False
            with _noted(refused):
                if state.trusted:
                    await copy.put(driver, number, told.cards[number])
                elif number in copy.cards:
                    # Days are written by a clock that is vouched for, or not at all.
                    await copy.take_off(driver, number)
        if refused:
            raise DeviceError(_in_short(refused))
        log.info(
            "card list written",
            controller=driver.controller,
            put=len(changed) if state.trusted else 0,
            deleted=deleted,
            profiles=len(told.profiles),
        )
        if told.without:
            log.warning(
                "no time profile left: hours are not on the card list",
                controller=driver.controller,
                schedules=told.without,
            )
        # Numbers that were in use until now may do for who had none.
        return not (told.without and (deleted or changed))

    def _local(self, zone: ZoneInfo) -> datetime:
        return self._clock.now().astimezone(zone).replace(tzinfo=None, microsecond=0)

    def _numbers(
        self, driver: KeepsCards, there: Mapping[int, ListedCard]
    ) -> Iterator[tuple[int, str]]:
        """Every card that may have to do with a list, and its value in the records."""
        for number in list(there):
            if (value := driver.card_value(number)) is not None:
                yield number, value
        for value in list(self._known):
            known = driver.card_number(value)
            if known is not None and known not in there:
                yield known, value


async def _told(
    driver: KeepsCards, allowed: Mapping[int, Allowance], copy: _Copy, weeks: Weeks
) -> _Told:
    wanted: Counter[Week] = Counter()
    used: defaultdict[Week, Counter[int]] = defaultdict(Counter)
    timed: set[Hours] = set()
    async for number, may in _in_turns(allowed.items()):
        there = copy.cards.get(number)
        for door, hours in may.doors.items():
            if hours != AT_ANY_HOUR and (choices := weeks.choices(hours)):
                timed.add(hours)
                wanted[choices[0]] += 1
                if there is not None and door in there.doors:
                    used[choices[0]][there.doors[door]] += 1
    faults: list[str] = []
    if timed and copy.profiles is None:
        try:
            copy.profiles = await driver.profiles()
        except DeviceError as error:
            if not copy.unread:
                copy.unread = True
                raise
            # Not by chance: whoever needs no hours doesn't wait for that.
            faults.append(f"{error} (time profiles): cards with hours are not on its list")
            timed.clear()
    order = [week for week, _ in wanted.most_common()] if timed else []
    numbers = numbered(order, used, copy.profiles or {})
    if len(numbers.of) < len(order):
        # One schedule alone does for many mixtures that have it.
        alone = [week for hours in timed for week in weeks.choices(hours)[1:]]
        numbers = numbered(list(dict.fromkeys([*alone, *order])), used, copy.profiles or {})
    when = {hours: _number(weeks.choices(hours), numbers) for hours in timed}
    when[AT_ANY_HOUR] = ANY_TIME
    cards: dict[int, ListedCard] = {}
    async for number, may in _in_turns(allowed.items()):
        doors = {door: when[hours] for door, hours in may.doors.items() if when.get(hours)}
        if doors:
            cards[number] = ListedCard(may.first, may.last, doors)
    without = [hours for hours in timed if weeks.choices(hours)[0] not in numbers.of]
    names = sorted(" + ".join(sorted(hours)) for hours in without)
    return _Told(cards, numbers.profiles, names, faults)


def _number(choices: Sequence[Week], numbers: Numbers) -> int:
    return next((numbers.of[week] for week in choices if week in numbers.of), NEVER)


async def _in_turns(every: Iterable[T]) -> AsyncIterator[T]:
    """These, with a turn for the doors now and then."""
    loop = asyncio.get_running_loop()
    since = loop.time()
    for each in every:
        if loop.time() - since > TURN_S:
            await asyncio.sleep(0)
            since = loop.time()
        yield each


@contextmanager
def _noted(refused: list[str]) -> Iterator[None]:
    """Go on with the next where the controller refuses one."""
    try:
        yield
    except DeviceRefused as error:
        refused.append(str(error))


def _in_short(refused: Sequence[str]) -> str:
    more = f" (and {len(refused) - 1} more)" if len(refused) > 1 else ""
    return f"{refused[0]}{more}"


def _has_hours(card: ListedCard) -> bool:
    return any(number != ANY_TIME for number in card.doors.values())


def _is_gone(there: ListedCard, wanted: ListedCard | None) -> bool:
    """Whether an entry must go before any profile is written: it is nobody's, lasts too long, says
    what can't be said here, or refers to a profile that is to be another's.
    """
    return (
        wanted is None
        or there.last > wanted.last
        or not there.doors
        or any(
            number != ANY_TIME and wanted.doors.get(door) != number
            for door, number in there.doors.items()
        )
    )


def _is_good(there: ListedCard | None, wanted: ListedCard, today: date) -> bool:
    """Whether an entry may stay: no wider than what is wanted, nor much shorter."""
    return (
        there is not None
        and there.doors == wanted.doors
        and there.first <= wanted.first
        and reaches(there.last, wanted.last, today)
    )
