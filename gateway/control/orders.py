"""What operators order by hand: modes, lockdown, evacuation, forgiveness; with who and why."""

from collections.abc import Callable
from datetime import timedelta
from typing import Literal, Protocol

import structlog

from gateway.clock import Clock
from gateway.control.door import InForce, Journal, Ticket, unseen_key
from gateway.control.memory import SiteMemory
from gateway.domain import events
from gateway.domain.antipassback import place_key
from gateway.domain.break_glass import window_key
from gateway.domain.door_mode import Scope, evacuation_key, hand_key, lockdown_key
from gateway.domain.entitlements import holding_of
from gateway.domain.memory import Changes, Ordered, Place, Remembered
from gateway.domain.occupancy import count_key
from gateway.domain.pin_lockout import holder_key
from gateway.errors import OrderRefused, StorageError

log = structlog.get_logger()

COMMIT_WAIT = timedelta(seconds=5)
"""How long whoever orders something waits to hear that it is on disk."""

OrderedMode = Literal["controlled", "unlocked", "blocked", "lockdown", "evacuation", "release"]
_AT_ONCE = frozenset({"lockdown", "evacuation"})


class Doors(Protocol):
    """The site's doors, as an order sees them."""

    @property
    def door_ids(self) -> tuple[str, ...]:
        """The doors that this box controls."""

    def look_at_modes(self) -> None:
        """Act on modes that have changed."""


class Orders:
    """Carries orders out. Everything is in one commit with its event."""

    def __init__(
        self,
        doors: Doors,
        *,
        journal: Journal,
        memory: SiteMemory,
        in_force: Callable[[], InForce],
        clock: Clock,
    ) -> None:
        self._doors = doors
        self._journal = journal
        self._memory = memory
        self._in_force = in_force
        self._clock = clock

    async def order(
        self,
        scope: Scope,
        name: str,
        mode: OrderedMode,
        *,
        by: str,
        why: str,
        seconds: int | None,
        of: Literal["lockdown", "evacuation"] | None = None,
    ) -> None:
        """Set or end a mode; `release` ends what was ordered for its scope, or only `of` it.

        Raises:
            OrderRefused: there is no such door or zone, or its time is missing.
            StorageError: it can't be recorded; lockdown and evacuation are in force all the same.
        """
        self._check(scope, name, mode, seconds)
        changes = self._changes(scope, name, mode, by=by, why=why, seconds=seconds, of=of)
        event = events.Ordered(
            at=self._clock.now(),
            trust=int(self._clock.trust()),
            scope=scope,
            id=name,
            mode=mode,
            by=by,
            why=why,
            seconds=seconds,
        )
        log.warning("ordered", scope=scope, id=name, mode=mode, by=by)
        await self._do(changes, event, at_once=mode in _AT_ONCE)

    async def forgive(
        self,
        holder: str | None,
        zone: str | None = None,
        role: str | None = None,
        *,
        by: str,
        why: str,
    ) -> int:
        """Forget a holder's place and PIN lockout, the people of a zone, or that a break-glass
        role's hours are over; how many values.

        Raises:
            OrderRefused: not exactly one is named, or it is in no record and nothing is remembered
                of it.
            StorageError: it can't be recorded; nothing is forgotten.
        """
        if sum(each is not None for each in (holder, zone, role)) != 1:
            raise OrderRefused("name a holder, a zone or a break-glass role")
        keys = []
        if holder is not None:
            keys = [place_key(holder), holder_key(holder)]
        if zone is not None:
            keys = [count_key(zone), unseen_key(zone)]
            keys += [
                place_key(who)
                for who, place in self._memory.items("place/")
                if isinstance(place, Place) and place.zone == zone
            ]
        if role is not None:
            keys = [window_key(role)]
        changes: dict[str, Remembered | None] = {
            key: None for key in keys if self._memory.get(key) is not None
        }
        if not changes:
            # What has left the records may still be remembered.
            self._check_known(holder, zone)
        event = events.Forgiven(
            at=self._clock.now(),
            trust=int(self._clock.trust()),
            holder=holder,
            zone=zone,
            role=role,
            by=by,
            why=why,
        )
        await self._do(changes, event, at_once=False)
        return len(changes)

    def _check(self, scope: Scope, name: str, mode: OrderedMode, seconds: int | None) -> None:
        if scope == "door" and name not in self._doors.door_ids:
            raise OrderRefused(f"no door {name!r}; there are: {', '.join(self._doors.door_ids)}")
        if scope == "zone":
            self._check_zone(name)
        if scope == "site" and name:
            raise OrderRefused(f"the whole site has no id, not {name!r}")
        by_hand = mode in ("controlled", "unlocked", "blocked")
        if by_hand and scope != "door":
            raise OrderRefused(f"{mode} is for one door")
        if by_hand and seconds is None:
            raise OrderRefused(f"how long is it to be {mode}? A mode set by hand expires")
        if not by_hand and seconds is not None:
            raise OrderRefused(f"{mode} has no end of its own: it is ended by release")

    def _check_zone(self, zone: str) -> None:
        zones = self._in_force().records.tables.zones
        if zone not in zones:
            raise OrderRefused(f"no zone {zone!r}; there are: {', '.join(sorted(zones))}")

    def _check_known(self, holder: str | None, zone: str | None) -> None:
        if zone is not None:
            self._check_zone(zone)
        if holder is not None and holding_of(self._in_force().records, holder) is None:
            raise OrderRefused(f"no holder {holder!r} in the records in force")

    def _changes(
        self,
        scope: Scope,
        name: str,
        mode: OrderedMode,
        *,
        by: str,
        why: str,
        seconds: int | None,
        of: Literal["lockdown", "evacuation"] | None,
    ) -> Changes:
        if mode == "release":
            keys = []
            if of != "evacuation":
                keys.append(lockdown_key(scope, name))
            if of != "lockdown":
                keys.append(evacuation_key(scope, name))
            if of is None and scope == "door":
                keys.append(hand_key(name))
            return {key: None for key in keys if self._memory.get(key) is not None}
        until = None
        if seconds is not None:
            until = self._clock.monotonic() + timedelta(seconds=seconds)
        ordered = Ordered(mode=mode, by=by, why=why, at=self._clock.now(), until=until)
        if mode == "lockdown":
            return {lockdown_key(scope, name): ordered}
        if mode == "evacuation":
            return {evacuation_key(scope, name): ordered}
        return {hand_key(name): ordered}

    async def _do(self, changes: Changes, event: events.Event, *, at_once: bool) -> None:
        before = {key: self._memory.get(key) for key in changes}
        self._memory.apply(changes)
        ticket = self._append(event)
        if at_once:
            # Nobody's safety waits for a disk.
            self._doors.look_at_modes()
        if ticket is None:
            if not at_once:
                self._memory.apply(before)
            state = "it is in force, but not recorded" if at_once else "nothing was changed"
            raise StorageError(f"the journal takes no more events: {state}")
        on_disk = await ticket.committed_within(COMMIT_WAIT)
        self._doors.look_at_modes()
        if not on_disk:
            raise StorageError("it is in force, but not on disk yet: a power cut would undo it")

    def _append(self, event: events.Event) -> Ticket | None:
        state = self._memory.take_unwritten()
        try:
            return self._journal.append(event, state)
        except StorageError as error:
            self._memory.give_back(state)
            log.error("event not kept", why=str(error))
            return None
