import asyncio
import shutil
import tempfile
from datetime import timedelta
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from gateway.domain import events
from gateway.journal import Journal, Ticket
from tests.journal.conftest import EPOCH, StillClock, closed


class JournalAgainstAList(RuleBasedStateMachine):
    """The journal over any history of appends, acknowledgements, purges, closings and cuts."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.root = Path(tempfile.mkdtemp())
        self.life = 0
        self.directory = self.root / "0"
        self.directory.mkdir()
        self.model: list[events.Event] = []
        self.tickets: list[Ticket] = []
        self.acknowledged = 0
        self.purged = 0
        self.journal = self.open()
        self.stream = self.journal.stream

    def run(self, awaitable: Any) -> Any:
        async def bounded() -> Any:
            async with asyncio.timeout(20):
                return await awaitable

        return self.runner.run(bounded())

    def open(self) -> Journal:
        journal = Journal(self.directory / "journal.db", StillClock())
        self.leave = self.runner.get_loop().create_future()
        entered = self.runner.get_loop().create_future()

        async def live() -> None:
            async with journal:
                entered.set_result(None)
                await self.leave

        self.living = self.runner.get_loop().create_task(live())

        async def wait() -> None:
            await asyncio.wait((entered, self.living), return_when=asyncio.FIRST_COMPLETED)
            if self.living.done():
                self.living.result()

        self.run(wait())
        return journal

    def close(self) -> None:
        self.leave.set_result(None)

        async def wait() -> None:
            await self.living

        self.run(wait())

    @rule(counts=st.lists(st.integers(1, 40), min_size=1, max_size=4), days=st.integers(0, 5))
    def append(self, counts: list[int], days: int) -> None:
        async def appending() -> None:
            for count in counts:
                for _ in range(count):
                    event = closed(len(self.model) + 1, at=EPOCH + timedelta(days=days))
                    self.model.append(event)
                    ticket = self.journal.append(event)
                    assert ticket.seq == len(self.model)
                    self.tickets.append(ticket)
                await asyncio.sleep(0)

        self.run(appending())

    @rule()
    def settle(self) -> None:
        async def settling() -> None:
            for ticket in self.tickets:
                assert await ticket.committed_within(timedelta(seconds=10))

        self.run(settling())
        assert self.journal.last_committed == len(self.model)
        self.tickets.clear()

    @rule(seq=st.integers(0, 400), ours=st.booleans())
    def acknowledge(self, seq: int, ours: bool) -> None:
        before = self.journal.last_committed
        counts = self.run(self.journal.acknowledge(self.stream if ours else "f" * 16, seq))
        # More may be committed while the acknowledgement waits for its turn.
        assert counts in ({False} if not ours else {True, seq <= before})
        if counts:
            assert seq <= self.journal.last_committed
            self.acknowledged = max(self.acknowledged, seq)
        assert self.journal.acknowledged == self.acknowledged

    @rule(days=st.integers(-1, 6))
    def purge(self, days: int) -> None:
        before = EPOCH + timedelta(days=days)
        old = [n for n in range(1, self.acknowledged + 1) if self.model[n - 1].at < before]
        expected = max(self.purged, max(old, default=0))
        assert self.run(self.journal.purge(before)) == expected - self.purged
        self.purged = expected

    @rule()
    def reopen(self) -> None:
        self.close()
        self.tickets.clear()
        self.journal = self.open()
        assert self.journal.last_committed == len(self.model)

    @rule()
    def cut_the_power(self) -> None:
        known = self.journal.last_committed
        self.life += 1
        target = self.root / str(self.life)
        target.mkdir()
        # The log first, as it was; then the file: nothing is checkpointed in so short a life.
        for suffix in ("-wal", ""):
            source = self.directory / f"journal.db{suffix}"
            if source.exists():
                shutil.copy(source, target / source.name)
        self.close()
        shutil.rmtree(self.directory)
        self.directory = target
        self.journal = self.open()
        assert known <= self.journal.last_committed <= len(self.model)
        del self.model[self.journal.last_committed :]
        self.tickets.clear()

    @invariant()
    def the_stream_is_one(self) -> None:
        assert self.journal.stream == self.stream
        assert self.journal.acknowledged == self.acknowledged
        assert self.journal.healthy

    @precondition(lambda self: not self.tickets)
    @invariant()
    def what_is_read_is_what_was_appended(self) -> None:
        async def reading() -> list[events.JournalledEvent]:
            found: list[events.JournalledEvent] = []
            while batch := await self.journal.read_after(found[-1].seq if found else 0, 37):
                found += batch
            return found

        found = self.run(reading())
        assert [entry.seq for entry in found] == list(range(self.purged + 1, len(self.model) + 1))
        assert [entry.event for entry in found] == self.model[self.purged :]
        assert self.journal.backlog == (len(self.model) - self.acknowledged, 0)

    def teardown(self) -> None:
        self.close()
        self.runner.close()
        shutil.rmtree(self.root)


JournalAgainstAList.TestCase.settings = settings(
    max_examples=30,
    stateful_step_count=25,
    suppress_health_check=[HealthCheck.too_slow],
)
TestJournalAgainstAList = JournalAgainstAList.TestCase
