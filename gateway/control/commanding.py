"""Carries out signed commands: written down as spent before anything moves, each answered once."""

import asyncio
from collections.abc import Callable, Coroutine
from datetime import timedelta
from typing import Literal, NamedTuple, Protocol

import structlog

from gateway.clock import Clock
from gateway.control.door import Journal, RemoteOutcome
from gateway.control.memory import SiteMemory
from gateway.control.orders import OrderedMode
from gateway.domain import events
from gateway.domain.door_mode import Scope
from gateway.domain.memory import Spent
from gateway.errors import OrderRefused, StorageError
from gateway.trust.commands import (
    MODE_MAX,
    Command,
    CommandRefused,
    MemberText,
    Result,
    Why,
    open_command,
)
from gateway.trust.root import KeySet, Now

log = structlog.get_logger()

BURST = 10
"""Commands at once; then one every `REFILL`. What a person or a fleet tool does by mistake in a
loop must not keep a door's lane from those who stand before it."""
REFILL = timedelta(seconds=2)
COMMIT_WAIT = timedelta(milliseconds=900)
"""As long as a grant waits that spends something (control.door.SPEND_WAIT)."""


class CommandedDoors(Protocol):
    """The site's doors, as a command sees them."""

    @property
    def door_ids(self) -> tuple[str, ...]:
        """The doors that this box controls."""

    async def remote_unlock(
        self, door: str, event: events.RemoteUnlock, until: timedelta
    ) -> RemoteOutcome:
        """Release a door by the right of `event`, which is not recorded yet, before `until`
        (monotonic).
        """

    async def remote_request(
        self, door: str, holder: str, remote: events.Remote, until: timedelta
    ) -> RemoteOutcome:
        """Decide a holder's request from afar as one at the reader; release the door if granted."""

    def identify(self, door: str) -> None:
        """Have the readers of a door blink and beep."""


class CommandedOrders(Protocol):
    """What operators may order by hand, which commands order as well."""

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
        """Set or end a mode. Raises OrderRefused, StorageError."""

    async def forgive(
        self,
        holder: str | None,
        zone: str | None = None,
        role: str | None = None,
        *,
        by: str,
        why: str,
    ) -> int:
        """Forget a holder's place and lockout, or a zone's people; raises as `order`."""


class Office(NamedTuple):
    """What a command may ask of the gateway besides its doors."""

    refresh: Callable[[], None]
    """Ask the source of truth for what is missing."""
    recent_log: Callable[[timedelta], tuple[str, ...]]
    """Lines of the log since then, the newest last, no more than a result holds."""


class Bucket:
    """So many at once, then one more each `REFILL`."""

    def __init__(self, now: timedelta) -> None:
        self._left = float(BURST)
        self._at = now

    def take(self, now: timedelta) -> bool:
        """Whether there is one left; if so it is taken."""
        self._left = min(BURST, self._left + (now - self._at) / REFILL)
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True


class Commands:
    """Judges and carries out commands. Cancelling `run` cancels those under way."""

    def __init__(
        self,
        audience: str,
        *,
        keys: Callable[[], KeySet | None],
        doors: CommandedDoors,
        orders: CommandedOrders,
        office: Office,
        journal: Journal,
        memory: SiteMemory,
        clock: Clock,
        now: Callable[[], Now],
        answer: Callable[[Result], None],
        refused: Callable[[str], None],
    ) -> None:
        """`keys` gives the key set that is believed, if there is one.
        `now` is the instant to judge by: the floor of time where the clock isn't trusted.
        `refused` hears of every command that is not carried out, with the reason.
        """
        self._audience = audience
        self._keys = keys
        self._doors = doors
        self._orders = orders
        self._office = office
        self._journal = journal
        self._memory = memory
        self._clock = clock
        self._now = now
        self._answer = answer
        self._refused = refused
        self._accepted = Bucket(clock.monotonic())
        self._answered = Bucket(clock.monotonic())
        self._under_way: set[asyncio.Task[None]] = set()

    def take(self, message: bytes, *, retained: bool) -> None:
        """Judge a message at once, and carry it out in a task of its own."""
        arrived = self._clock.monotonic()
        now, keys = self._now(), self._keys()
        if keys is None:
            self._refuse(None, "unknown_key", arrived)
            return
        try:
            command = open_command(
                message,
                keys,
                self._audience,
                now,
                is_spent=lambda cti: self._memory.get(spent_key(cti)) is not None,
                retained=retained,
            )
        except CommandRefused as refused:
            self._refuse(refused.command, refused.reason, arrived)
            return
        if not self._accepted.take(arrived):
            self._refuse(command, "rate_limited", arrived)
            return
        if command.needs_clock and not now.trusted:
            self._refuse(command, "clock_untrusted", arrived)
            return
        self._memory.apply({spent_key(command.cti): Spent(count=1, expires=command.expires)})
        self._begin(self._carry_out(command, arrived))

    async def close(self) -> None:
        """Give up what is under way: it stays spent."""
        for task in tuple(self._under_way):
            task.cancel()
        await asyncio.gather(*self._under_way, return_exceptions=True)

    def _begin(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work, name="command")
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    def _refuse(self, command: Command | None, reason: str, arrived: timedelta) -> None:
        self._refused(reason)
        # Whoever floods a gateway with what it refuses gets no flood of answers, nor a full disk.
        if self._answered.take(arrived):
            log.warning("command refused", reason=reason, act=command.act if command else None)
            self._tell(command, arrived, reason=reason)

    async def _carry_out(self, command: Command, arrived: timedelta) -> None:
        log.warning("command", act=command.act, by=command.by)
        if command.as_holder and command.target in self._doors.door_ids:
            # A denial is the door's answer, journaled as at a reader: no command was refused.
            asked = await self._ask(command, command.as_holder)
            reason, seq = asked.failed, asked.seq
            self._tell(command, arrived, reason=reason, seq=seq, member=asked.member)
            return
        try:
            seq, lines = await self._do(command)
        except CommandRefused as refused:
            self._refused(refused.reason)
            self._tell(command, arrived, reason=refused.reason)
        except OrderRefused as refused:
            log.warning("command refused", act=command.act, why=str(refused))
            self._tell(command, arrived, reason="unknown_zone")
        except StorageError as failed:
            log.error("command not recorded", act=command.act, why=str(failed))
            self._tell(command, arrived, reason="not_recorded")
        else:
            self._tell(command, arrived, seq=seq, lines=lines)

    async def _do(self, command: Command) -> tuple[int | None, tuple[str, ...] | None]:
        """Raises CommandRefused, OrderRefused, StorageError."""
        if command.target_kind == "door" and command.target not in self._doors.door_ids:
            raise CommandRefused("unknown_door", command)
        if command.act == "unlock":
            return await self._unlock(command), None
        seconds = self._seconds(command)
        seq = await self._record(command)
        by, why = f"command by {command.by}", command.why
        lines = None
        match command.act:
            case "mode" if command.mode is not None:
                await self._orders.order(
                    "door", command.target, command.mode, seconds=seconds, by=by, why=why
                )
            case "lockdown" | "evacuation":
                mode: OrderedMode = command.act
                await self._orders.order(
                    command.scope, command.target, mode, seconds=None, by=by, why=why
                )
            case "release":
                await self._orders.order(
                    command.scope,
                    command.target,
                    "release",
                    seconds=None,
                    of=command.of,
                    by=by,
                    why=why,
                )
            case "forgive" if command.target_kind == "zone":
                await self._orders.forgive(None, command.target, by=by, why=why)
            case "forgive":
                await self._orders.forgive(command.target, by=by, why=why)
            case "identify":
                self._doors.identify(command.target)
            case "refresh":
                self._office.refresh()
            case _:
                lines = self._office.recent_log(timedelta(minutes=command.minutes or 0))
        return seq, lines

    async def _unlock(self, command: Command) -> int | None:
        event = events.RemoteUnlock(
            at=self._clock.now(),
            trust=int(self._clock.trust()),
            door=command.target,
            by=command.by,
            why=command.why,
            command=command.cti.hex(),
        )
        until = self._clock.monotonic() + (command.expires - self._clock.now())
        outcome = await self._doors.remote_unlock(command.target, event, until)
        if outcome.failed is not None:
            raise CommandRefused(outcome.failed, command)
        return outcome.seq

    async def _ask(self, command: Command, holder: str) -> RemoteOutcome:
        remote = events.Remote(command.by, command.why, command.cti.hex())
        until = self._clock.monotonic() + (command.expires - self._clock.now())
        return await self._doors.remote_request(command.target, holder, remote, until)

    def _seconds(self, command: Command) -> int | None:
        if command.until is None:
            return None
        left = command.until - self._clock.now()
        if left > MODE_MAX:
            raise CommandRefused("too_long", command)
        seconds = round(left.total_seconds())
        if seconds < 1:
            raise CommandRefused("expired", command)
        return seconds

    async def _record(self, command: Command) -> int | None:
        """Have the command on disk as spent. Raises CommandRefused where that doesn't succeed, but
        for what keeps people safe: that may be said twice.
        """
        state = self._memory.take_unwritten()
        of_holder = command.target_kind == "holder"
        event = events.Commanded(
            at=self._clock.now(),
            trust=int(self._clock.trust()),
            act=command.act,
            target="" if of_holder else command.target,
            by=command.by,
            why=command.why,
            command=command.cti.hex(),
            holder=command.target if of_holder else None,
        )
        try:
            ticket = self._journal.append(event, state)
        except StorageError as error:
            self._memory.give_back(state)
            log.error("event not kept", why=str(error))
            seq, on_disk = None, False
        else:
            seq, on_disk = ticket.seq, await ticket.committed_within(COMMIT_WAIT)
        if not on_disk and command.act not in ("lockdown", "evacuation"):
            raise CommandRefused("not_recorded", command)
        return seq

    def _tell(
        self,
        command: Command | None,
        arrived: timedelta,
        *,
        reason: Why | None = None,
        seq: int | None = None,
        lines: tuple[str, ...] | None = None,
        member: events.Told | None = None,
    ) -> None:
        took = self._clock.monotonic() - arrived
        self._answer(
            Result(
                cti=None if command is None else command.cti,
                outcome="done" if reason is None else "refused",
                reason=reason,
                at_ms=round(self._clock.now().timestamp() * 1000),
                took_ms=round(took / timedelta(milliseconds=1)),
                seq=seq,
                lines=lines,
                member=None if member is None else MemberText.of(member),
            )
        )


def spent_key(cti: bytes) -> str:
    """Where a command is remembered that has been taken."""
    return f"command/{cti.hex()}"
