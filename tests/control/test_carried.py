"""Carried grants at doors: spent on disk before the lock moves; every other rule still counts."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from gateway.control import memory
from gateway.control.door import CardTapped, InForce
from gateway.domain import events
from gateway.domain.carried_grant import CarriedGrant, Presented
from gateway.domain.memory import Spent
from gateway.domain.record_faults import parse_records
from gateway.domain.replay import Revision, difference
from gateway.domain.signal import Signal
from tests.cli.test_replay import lines
from tests.control.site import DURESS_PIN, SAM, SAM_PIN, Club, club, record_rows, records
from tests.control.test_door import Paper
from tests.virtual import START, VirtualClock, run

HOUR = timedelta(hours=1)
ADA = "DG1:ADA"


def grant(**other: Any) -> CarriedGrant:
    """Ada, who is in no record, may into the club, once."""
    what: dict[str, Any] = {
        "id": "aa" * 8,
        "holder": "ada",
        "medium": "paper",
        "doors": ("front",),
        "issued": START,
        "not_before": START,
        "expires": START + 9 * HOUR,
        "uses": 1,
    }
    return CarriedGrant(**what | other)


def verifying(**texts: Presented) -> Any:
    return lambda text: texts.get(text.removeprefix("DG1:"), "grant_malformed")


def at_the_club(*grants: Presented, rows: Any = None, **how: Any) -> Any:
    """A club whose codes `DG1:0`, `DG1:1` … are these, on records of an hour ago."""
    texts = {str(number): each for number, each in enumerate(grants)}
    return club(rows or records(), verify_grant=verifying(**texts), **how)


async def shows(c: Club, code: int = 0, **how: Any) -> str:
    c.force = InForce(c.force.records, "r1", START - HOUR)
    return await c.says(f"DG1:{code}", kind="qr", **how)


def test_a_single_use_opens_once_over_restarts_and_a_counted_one_so_often() -> None:
    async def journey() -> None:
        paper = Paper()
        counted = grant(id="bb" * 8, uses=3)
        codes = (grant(), counted, grant(id="cc" * 8, uses=0))
        async with at_the_club(*codes, paper=paper) as c:
            assert await shows(c) == "carried"
            assert c.released()
            assert [await shows(c, 1) for _ in range(2)] == ["carried"] * 2
        for boot in ("boot-1", "boot-2"):
            async with at_the_club(*codes, paper=paper, boot=boot) as c:
                assert await shows(c) == "uses_exhausted"
                assert not c.released()
        async with at_the_club(*codes, paper=paper) as c:
            assert [await shows(c, 1) for _ in range(2)] == ["carried", "uses_exhausted"]
            assert [await shows(c, 2) for _ in range(9)] == ["carried"] * 9
            # The floor of time keeps them out from then on.
            assert c.memory.forget_spent(START + 9 * HOUR, START + 10 * HOUR) == 0
            over = START + 9 * HOUR + timedelta(seconds=1)
            # A floor that may be set back does not count.
            assert c.memory.forget_spent(over + 300 * 24 * HOUR, START + 9 * HOUR) == 0
            assert c.memory.forget_spent(over, over) == 2
            assert c.memory.get(f"grant/{'aa' * 8}") is None

    run(journey())


def test_of_too_many_that_have_ended_the_first_to_end_are_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(memory, "SPENT_MAX", 2)
    ends = {f"grant/{n}": Spent(count=1, expires=START + n * HOUR) for n in (3, 1, 4, 2, 9)}

    async def journey() -> None:
        kept = memory.SiteMemory(dict, boot="b", clock=VirtualClock())
        kept.apply(ends)
        assert kept.forget_spent(START + 5 * HOUR, START) == 2
        assert [kept.get(key) is None for key in ends] == [False, True, False, True, False]

    run(journey())


def test_without_its_use_on_disk_nothing_opens() -> None:
    async def journey() -> None:
        paper = Paper()
        async with at_the_club(grant(), grant(id="cc" * 8, uses=0), paper=paper) as c:
            paper.disk_s = 2
            await shows(c)
            await asyncio.sleep(3)
            assert c.fronts["front"].pulses == []
            assert c.fronts["front"].shown[-1] is Signal.FAULT
            assert isinstance(c.memory.get(f"grant/{'aa' * 8}"), Spent)
            paper.full = True
            c.doors["front"].tap(CardTapped("reader", "in", "qr", "DG1:1", c.clock.monotonic()))
            await asyncio.sleep(1)
            assert c.fronts["front"].pulses == []

    run(journey())


@pytest.mark.parametrize(
    ("reason", "other", "how"),
    [
        ("credential_not_yet_valid", {"not_before": START + HOUR}, {}),
        ("credential_expired", {"expires": START}, {}),
        ("no_entitlement", {"doors": ("inner",)}, {}),
        ("carried", {"doors": (), "zones": ("club",)}, {}),
        ("holder_unknown", {"issued": START - HOUR}, {}),
        ("carried", {"holder": "sam", "issued": START - HOUR}, {}),
        ("unknown_door", {}, {"door": "inner"}),
    ],
)
def test_what_a_grant_opens_is_what_it_says(
    reason: str, other: dict[str, Any], how: dict[str, Any]
) -> None:
    rows = [row for row in record_rows() if row["id"] != "inner"]
    if "door" not in how:
        rows = record_rows()

    async def journey() -> None:
        entitlements = Revision(parse_records(lines(rows).encode().splitlines()).records)
        async with at_the_club(grant(**other), rows=entitlements.entitlements) as c:
            assert await shows(c, **how) == reason

    run(journey())


def test_the_doors_own_rules_count_for_carried_grants_too() -> None:
    async def journey() -> None:
        doors = {"front": {"antipassback": "hard"}, "inner": {"second_factor_schedule": "24x7"}}
        both = {"doors": ("front", "inner"), "uses": 0}
        codes = (grant(**both), grant(id="bb" * 8, holder="sam", **both | {"uses": 1}))
        async with at_the_club(*codes, rows=records(doors)) as c:
            assert await shows(c) == "carried"
            await c.walk()
            assert await shows(c) == "antipassback"
            assert await shows(c, door="inner") == "no_pin"
            await c.order("blocked", "door", "front", seconds=60)
            assert await shows(c) == "door_blocked"
            await c.order("lockdown")
            assert await shows(c) == "lockdown"
            # Sam is staff; a challenge spends nothing, and the code is judged again with the PIN.
            assert await shows(c, 1, door="inner") == "pin_required"
            assert await c.says("9999", door="inner") == "wrong_pin"
            assert await shows(c, 1, door="inner") == "pin_required"
            assert await c.says(DURESS_PIN, door="inner") == "carried"
            assert c.released("inner")
            assert c.found(events.Duress)[-1].holder == "sam"
            assert await shows(c, 1, door="inner") == "pin_required"
            assert await c.says(SAM_PIN, door="inner") == "uses_exhausted"

    run(journey())


def test_a_code_proves_little_and_a_key_much() -> None:
    async def journey() -> None:
        phone = grant(id="bb" * 8, medium="device")
        async with at_the_club(grant(), phone, assurance="high") as c:
            assert await shows(c) == "assurance_too_low"
            assert await shows(c, 1) == "carried"
            assert c.found(events.AccessDecided)[-1].kinds == ("carried_key",)

    run(journey())


def test_a_phone_that_proved_its_key_is_judged_with_it_again_when_the_pin_comes() -> None:
    async def journey() -> None:
        phone = grant(id="bb" * 8, medium="device", holder="sam", uses=0)
        rows = records({"front": {"second_factor_schedule": "24x7"}})
        async with at_the_club(phone, rows=rows, assurance="highest") as c:
            assert await c.says("0", kind="carried_key") == "pin_required"
            assert await c.says(SAM_PIN) == "carried"
            # No scanner can say what only a reader that had a key proved may.
            assert await c.says("0", kind="qr") == "unknown_credential"

    run(journey())


def test_what_is_not_believed_opens_nothing_but_the_way_out() -> None:
    async def journey() -> None:
        async with at_the_club("grant_bad_signature") as c:
            assert await shows(c) == "grant_bad_signature"
            assert await shows(c, 7) == "grant_malformed"
            assert await shows(c, side="out") == "egress"
        async with club(records()) as c:  # a site without keys
            assert await shows(c) == "grant_unknown_key"

    run(journey())


def test_a_revoked_grant_is_denied_though_it_is_newer_than_the_records() -> None:
    async def journey() -> None:
        revoked = {"type": "credential", "id": "r", "holder": "sam", "kind": "qr",
                   "value": f"DG1:{'AA' * 8}", "status": "lost"}  # fmt: skip
        async with at_the_club(grant(), rows=records(more=[revoked])) as c:
            assert await shows(c) == "credential_lost"

    run(journey())


def test_a_clock_that_is_not_trusted_opens_nothing_by_a_window() -> None:
    async def journey() -> None:
        async with at_the_club(grant()) as c:
            c.clock.trusted = False
            assert await shows(c) == "clock_untrusted"
        async with at_the_club(grant(), rows=records(untrusted_clock="allow")) as c:
            c.clock.trusted = False
            assert await shows(c) == "carried"

    run(journey())


def test_a_day_of_carried_grants_is_decided_again_from_its_journal() -> None:
    doors = {"front": {"antipassback": "hard"}, "inner": {"second_factor_schedule": "24x7"}}

    async def journey() -> Paper:
        codes: tuple[Presented, ...] = (
            grant(),
            grant(id="bb" * 8, holder="sam", doors=("inner",), uses=2),
            "grant_wrong_audience",
        )
        async with at_the_club(*codes, rows=records(doors)) as c:
            await shows(c)
            await c.walk()
            for code, door in ((0, "front"), (1, "inner"), (2, "front")):
                await shows(c, code, door=door)
                await c.tap(SAM_PIN, door=door)
            await shows(c, 1, door="inner")
            await c.tap("9999", door="inner")
            await c.tap(SAM)
            c.clock.trusted = False
            await shows(c)
            paper: Paper = c.paper
            return paper

    paper = run(journey())
    revision = Revision(parse_records(lines(record_rows(doors)).encode().splitlines()).records)
    decided = [
        events.decode(events.encode(event))
        for event in paper.events
        if isinstance(event, events.AccessDecided)
    ]
    reasons = {event.reason for event in decided if isinstance(event, events.AccessDecided)}
    assert {"carried", "antipassback", "pin_required", "wrong_pin", "clock_untrusted"} <= reasons
    for event in decided:
        assert isinstance(event, events.AccessDecided)
        assert difference(event, revision) is None
