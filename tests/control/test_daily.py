from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from gateway.clock import TimeTrust
from gateway.control import daily as module
from gateway.control.daily import DailySummaries
from gateway.control.door import InForce
from gateway.domain import events
from gateway.domain.entitlements import NO_RECORDS, RecordSet
from gateway.domain.record_faults import parse_records
from gateway.journal import Journal
from tests.journal.conftest import StillClock

RECORDS = [
    b'{"type":"site","id":"SOF","timezone":"Europe/Sofia"}',
    b'{"type":"policy","id":"policy"}',
    b'{"type":"zone","id":"lounge","category":"member"}',
    b'{"type":"zone","id":"street","category":"public"}',
    b'{"type":"door","id":"front","from_zone":"street","to_zone":"lounge"}',
]
FORCE = InForce(RecordSet(parse_records(RECORDS).records), "r-1", None)
MIDNIGHT = datetime(2026, 6, 1, 21, 0, tzinfo=UTC)
"""Of 2 June in Sofia."""


class Noon(StillClock):
    trusted = TimeTrust.T2

    def now(self) -> datetime:
        return MIDNIGHT + timedelta(hours=12)

    def trust(self) -> TimeTrust:
        return self.trusted


def entered(hours: float, side: str = "in", *holders: str) -> events.Entered:
    moment = MIDNIGHT + timedelta(hours=hours)
    return events.Entered(at=moment, trust=2, door="front", side=side, sure=True, holders=holders)


def denied(hours: float, reason: str) -> events.AccessDecided:
    return events.AccessDecided(
        at=MIDNIGHT + timedelta(hours=hours), trust=2, door="front", side="in", device="r",
        kinds=("uid",), outcome="deny", reason=reason, holder="h-maya",
    )  # fmt: skip


def held(hours: float) -> events.HeldOpen:
    return events.HeldOpen(at=MIDNIGHT + timedelta(hours=hours), trust=2, door="front")


def restored(hours: float) -> events.AlarmRestored:
    moment = MIDNIGHT + timedelta(hours=hours)
    return events.AlarmRestored(at=moment, trust=2, door="front", alarm="held_open")


HISTORY: list[events.Event] = [
    *(denied(-48 + n / 100, "wrong_pin") for n in range(100)),
    entered(-25),
    restored(-23.5),
    entered(-13, "in", "h-maya", "h-ann"),
    entered(-12.5, "in", "h-maya"),
    denied(-12, "payment_overdue"),
    denied(-11, "payment_overdue"),
    denied(-10, "wrong_pin"),
    entered(-9, "out", "h-maya"),
    held(-5),
    restored(-4),
    held(-0.25),
    entered(1),
]


@pytest.mark.parametrize("restarted", [False, True])
async def test_a_day_is_counted_once_it_is_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, restarted: bool
) -> None:
    monkeypatch.setattr(module, "STEP_REST_S", 0)
    monkeypatch.setattr(module, "STEP_EVENTS", 7)
    async with Journal(tmp_path / "journal.db", Noon()) as journal:
        for event in HISTORY:
            ticket = journal.append(event)
        await ticket.committed

        def record(event: events.Event) -> None:
            journal.append(event)

        daily = DailySummaries(journal, lambda: FORCE, Noon(), record)
        await daily.look()
        await journal.wait_for_new(len(HISTORY))
        if restarted:
            daily = DailySummaries(journal, lambda: FORCE, Noon(), record)
        await daily.look()
        (entry,) = await journal.read_after(len(HISTORY))
    summary = entry.event
    assert isinstance(summary, events.DailySummary)
    assert summary.day == "2026-06-01"
    assert summary.entries == {"lounge": {"11": 3}, "street": {"15": 1}}
    assert summary.denials == {"payment_overdue": 2, "wrong_pin": 1}
    assert summary.propped_min == {"front": 30 + 60 + 15}
    assert b"h-maya" not in events.encode(summary)


async def test_nothing_is_counted_by_a_clock_that_nobody_vouches_for(tmp_path: Path) -> None:
    clock = Noon()
    clock.trusted = TimeTrust.T1
    async with Journal(tmp_path / "journal.db", clock) as journal:
        await DailySummaries(journal, lambda: FORCE, clock, print).look()
        nothing = InForce(NO_RECORDS, None, None)
        await DailySummaries(journal, lambda: nothing, Noon(), print).look()
        assert journal.last_committed == 0


async def test_a_journal_that_can_not_be_read_has_no_summary(tmp_path: Path) -> None:
    async with Journal(tmp_path / "journal.db", Noon()) as journal:
        journal.append(entered(-3))
        await journal.wait_for_new(0)
    told: list[events.Event] = []
    await DailySummaries(journal, lambda: FORCE, Noon(), told.append).look()
    assert told == []
