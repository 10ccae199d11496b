"""Keeps the lists of controllers that decide by themselves when the gateway is away.

No card number is stored for it. Which cards to put on a list is known from an import, for as long
as this process lives, and from cards presented since; which to take off is read from the list
itself, whose numbers are looked up in the records in force like any that is presented.
"""

import asyncio
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Final, NamedTuple
from zoneinfo import ZoneInfo

import msgspec
import structlog

from gateway.clock import Clock
from gateway.control.door import InForce
from gateway.domain.own_list import ListedCard, Moment, listed
from gateway.drivers.base import KeepsCards
from gateway.errors import DeviceError

log = structlog.get_logger()

LOOK_S: Final = 1.0
"""How often it is looked whether anything has changed: a revocation is at the doors within 5 s."""

KNOWN_MAX: Final = 20_000
"""As many cards as a controller has room for; further ones are not put on its list."""

LINES_A_TURN: Final = 100
"""Lines of an import looked at before the doors have their turn on the loop."""


REWRITTEN: Final = timedelta(days=7)
"""A card's last day moves on every day; the controller's memory wears out and is spared that."""


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
    trusted: bool
    doors: tuple[tuple[int, str], ...]
    known: int
    online: bool


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
        self._known: set[str] = set()
        self._written: dict[str, _State] = {}

    @property
    def boards(self) -> int:
        """How many controllers have a list that is written here."""
        return len(self._boards)

    def presented(self, value: str) -> None:
        """A Wiegand card was presented at a reader of one of the controllers."""
        known = self._in_force().records.find("wiegand", value) is not None
        if known and len(self._known) < KNOWN_MAX:
            self._known.add(value)

    async def imported(self, records: bytes) -> None:
        """These records are in force now; they are the only place where card numbers stand."""
        if not self._boards:
            return
        self._known.clear()
        for count, line in enumerate(io.BytesIO(records)):
            if count % LINES_A_TURN == 0:
                await asyncio.sleep(0)
            if b'"wiegand"' in line and len(self._known) < KNOWN_MAX:
                record = msgspec.json.decode(line, type=_Credential)
                if (record.type, record.kind) == ("credential", "wiegand"):
                    self._known.add(record.value)

    async def run(self) -> None:
        """Look after the lists for ever."""
        while self._boards:
            await asyncio.sleep(LOOK_S)
            for board, members in self._boards.items():
                state = self._state(members)
                if not state.online:
                    self._written.pop(board, None)
                elif state != self._written.get(board):
                    try:
                        await self._write(members, state)
                        self._written[board] = state
                    except DeviceError as error:
                        log.warning("card list not written", controller=board, why=str(error))

    def _state(self, members: Sequence[Member]) -> _State:
        force = self._in_force()
        trusted = self._clock.trust().decides_as_trusted
        zone = ZoneInfo(force.records.tables.site.timezone)
        doors = tuple(
            (each.driver.controller_door, each.door) for each in members if each.may_list()
        )
        return _State(
            force.revision,
            self._clock.now().astimezone(zone).date().isoformat(),
            trusted,
            doors,
            len(self._known),
            all(each.online() for each in members),
        )

    async def _write(self, members: Sequence[Member], state: _State) -> None:
        driver, force = members[0].driver, self._in_force()
        now, mono = self._clock.now(), self._clock.monotonic()
        clock: Final = "trusted" if state.trusted else "untrusted"
        moment = Moment(now, force.as_of or now, mono, clock)
        if state.trusted:
            zone = ZoneInfo(force.records.tables.site.timezone)
            await driver.set_clock(now.astimezone(zone).replace(tzinfo=None, microsecond=0))
        there = await driver.cards()
        wanted = dict(self._wanted(driver, there, dict(state.doors), moment))
        # What is to go goes first: whoever may no longer pass must not wait for who may.
        gone = [number for number in there if number not in wanted]
        for number in gone:
            await driver.delete_card(number)
        put = 0
        for number, card in wanted.items():
            if number in there and _is_good(there[number], card):
                continue
            if state.trusted:
                await driver.put_card(number, card)
                put += 1
            elif number in there:
                # Days are written by a clock that is vouched for, or not at all.
                await driver.delete_card(number)
        log.info("card list written", controller=driver.controller, put=put, deleted=len(gone))

    def _wanted(
        self,
        driver: KeepsCards,
        there: Mapping[int, ListedCard],
        doors: Mapping[int, str],
        moment: Moment,
    ) -> Iterator[tuple[int, ListedCard]]:
        values = {driver.card_value(number) for number in there}
        for value in sorted(self._known.union(each for each in values if each is not None)):
            number = driver.card_number(value)
            if number is None:
                continue
            card = listed(self._in_force().records, value, doors, moment)
            if card is not None:
                yield number, card


def _is_good(there: ListedCard, wanted: ListedCard) -> bool:
    """Whether an entry may stay: no wider than what is wanted, nor much shorter."""
    return (
        there.doors == wanted.doors
        and there.first <= wanted.first
        and timedelta() <= wanted.last - there.last < REWRITTEN
    )
