"""What a door asks of a credential beyond its being right, and messages that are good once."""

import asyncio
import json
from typing import Any

import pytest

from gateway.domain import events
from gateway.domain.entitlements import RecordSet, ValidRecords
from gateway.domain.record_faults import parse_records
from gateway.domain.replay import Revision, difference
from tests.control.site import SAM, SAM_PIN, Club, club, record_rows
from tests.virtual import run

TAG, CARD, PHONE = "04DE5F1EACC040", "F58840:0123456789", "04" + "5A" * 64
PRESENTED = {"uid": SAM, "sun": TAG, "desfire": CARD, "pkoc": PHONE, "wiegand": "H10301:12:3456",
             "qr": "QR-0123456789"}  # fmt: skip
ORDER = ("low", "medium", "high", "highest")
GIVES = {"uid": 0, "wiegand": 0, "qr": 0, "sun": 1, "desfire": 2, "pkoc": 2}


def kept(doors: dict[str, dict[str, Any]] | None = None) -> ValidRecords:
    more = [
        {"type": "credential", "id": f"c-{kind}", "holder": "sam", "kind": kind, "value": value}
        for kind, value in PRESENTED.items()
        if kind != "uid"
    ]
    return parse_records(json.dumps(row).encode() for row in record_rows(doors, more)).records


def assert_decided_again(c: Club, records: ValidRecords) -> None:
    revision = Revision(records)
    told = [difference(event, revision) for event in c.found(events.AccessDecided)]
    assert told == [None] * len(told)


@pytest.mark.parametrize("asked", ORDER)
@pytest.mark.parametrize("pin", [False, True], ids=["alone", "with a PIN"])
def test_each_kind_opens_where_it_proves_enough_and_says_so_where_not(
    asked: Any, pin: bool
) -> None:
    records = kept({"front": {"second_factor_schedule": "24x7"}} if pin else None)

    async def journey() -> None:
        async with club(RecordSet(records), assurance=asked) as c:
            for counter, (kind, value) in enumerate(PRESENTED.items(), 1):
                told = await c.tap(value, kind=kind, counter=counter if kind == "sun" else None)
                if pin:
                    assert told.reason == "pin_required"
                    told = await c.tap(SAM_PIN)
                enough = GIVES[kind] + pin >= ORDER.index(asked)
                assert told.reason == ("group" if enough else "assurance_too_low"), kind
                assert told.outcome == ("grant" if enough else "deny")
                assert told.turned_from == (None if enough else "group")
            assert await c.says(SAM, side="out") == "egress"
            assert_decided_again(c, records)

    run(journey())


def test_a_zone_asks_at_every_door_into_it_and_at_no_other() -> None:
    async def journey() -> None:
        zones = {"vault": "high", "club": "low"}
        async with club(RecordSet(kept()), assurance="medium", zone_assurance=zones) as c:
            assert await c.says(TAG, kind="sun", counter=1) == "group"
            assert await c.says(TAG, kind="sun", counter=2, door="inner") == "assurance_too_low"
            assert await c.says(CARD, kind="desfire", door="inner") == "group"
            assert await c.says(SAM, kind="uid") == "assurance_too_low"

    run(journey())


def test_a_pin_that_nobody_asked_for_adds_nothing() -> None:
    async def journey() -> None:
        async with club(RecordSet(kept()), assurance="medium") as c:
            assert await c.says(SAM, kind="uid") == "assurance_too_low"
            assert await c.says(SAM_PIN) == "pin_not_accepted"

    run(journey())


def test_a_message_opens_once_at_any_door_and_over_a_restart() -> None:
    records = kept()

    async def journey() -> None:
        async with club(RecordSet(records)) as c:
            assert await c.says(TAG, kind="sun", counter=61) == "group"
            assert await c.says(TAG, kind="sun", counter=61) == "sun_replayed"
            assert await c.says(TAG, kind="sun", counter=60, door="inner") == "sun_replayed"
            assert await c.says(TAG, kind="sun", counter=62, door="inner") == "group"
            assert_decided_again(c, records)
            paper = c.paper
        async with club(RecordSet(records), paper=paper, boot="boot-2") as c:
            assert await c.says(TAG, kind="sun", counter=62) == "sun_replayed"
            assert await c.says(TAG, kind="sun", counter=63) == "group"
            assert await c.says(TAG, kind="sun") == "sun_replayed", "without a counter"

    run(journey())


def test_a_message_is_spent_by_a_denial_but_not_while_its_pin_is_waited_for() -> None:
    records = kept({"inner": {"second_factor_schedule": "24x7"}})

    async def journey() -> None:
        async with club(RecordSet(records)) as c:
            await c.order("blocked", "door", "front", 60)
            assert await c.says(TAG, kind="sun", counter=5) == "door_blocked"
            assert await c.says(TAG, kind="sun", counter=5, door="inner") == "pin_required"
            assert await c.says(SAM_PIN, door="inner") == "sun_replayed"
            assert await c.says(TAG, kind="sun", counter=6, door="inner") == "pin_required"
            assert await c.says(SAM_PIN, door="inner") == "group"
            assert await c.says(TAG, kind="sun", counter=6, door="inner") == "pin_required"
            assert await c.says(SAM_PIN, door="inner") == "sun_replayed"
            assert_decided_again(c, records)

    run(journey())


def test_a_message_opens_nothing_before_its_counter_is_on_disk() -> None:
    async def journey() -> None:
        async with club(RecordSet(kept())) as c:
            c.paper.disk_s = None
            assert await c.says(TAG, kind="sun", counter=1) == "group"
            await asyncio.sleep(2)
            assert not c.fronts["front"].pulses
            assert "isn't on disk" in c.found(events.UnlockFailed)[0].why

    run(journey())
