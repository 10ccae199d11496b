"""Commands of the source of truth: once, in time, recorded before anything moves, and answered."""

import asyncio
import json
from datetime import timedelta
from typing import Any

import pytest
import structlog

from gateway.control.commanding import BURST, REFILL
from gateway.control.muster import muster
from gateway.domain import events
from gateway.domain.memory import Spent
from gateway.domain.record_faults import parse_records
from gateway.domain.replay import Revision, difference
from gateway.domain.signal import Signal
from gateway.trust.commands import CommandRefused, seal_command
from tests.control.site import SAM, SAM_PIN, record_rows, records
from tests.control.test_door import Paper
from tests.processes.signed import Signing, key, signing
from tests.timing import allowed
from tests.virtual import START, run

SECOND = timedelta(seconds=1)


def test_a_remote_unlock_is_a_grant_with_who_and_why_and_is_answered() -> None:
    async def journey() -> None:
        async with signing() as s:
            command = s.command()
            result = await s.orders(again=seal_command(command, key("command-1")))
            assert (result.outcome, result.reason, result.cti) == ("done", None, command.cti)
            assert 0 < result.took_ms < allowed(100)
            assert s.club.released()
            (event,) = s.club.found(events.RemoteUnlock)
            assert (event.by, event.why, event.command) == ("op-ivy", "she rang", command.cti.hex())
            assert s.club.paper.events[(result.seq or 0) - 1] == event
            (unlocked,) = s.club.found(events.Unlocked)
            assert (unlocked.cause, unlocked.seq) == ("command", result.seq)
            await s.club.walk()
            assert s.club.found(events.DoorOpened)[-1].cause == "command"
            assert not s.club.found(events.ForcedOpen)

    run(journey())


def test_a_command_acts_once_over_restarts_and_until_its_end() -> None:
    async def journey() -> None:
        paper = Paper()
        async with signing(paper=paper) as s:
            sealed = seal_command(s.command(), key("command-1"))
            assert (await s.orders(again=sealed)).outcome == "done"
            assert (await s.orders(again=sealed)).reason == "replayed"
        for boot in ("boot-1", "boot-2"):
            async with signing(paper=paper, boot=boot) as s:
                assert (await s.orders(again=sealed)).reason == "replayed"
                assert s.club.fronts["front"].pulses == []
        async with signing(paper=paper) as s:
            await asyncio.sleep(20)
            assert (await s.orders(again=sealed)).reason == "expired"
            # Forgotten only once the floor of time keeps it out.
            assert s.club.memory.forget_spent(s.now() - 5 * SECOND, s.now()) == 0
            assert s.club.memory.forget_spent(s.now() + SECOND, s.now() + SECOND) == 1

    run(journey())


def test_a_crash_between_writing_down_and_the_pulse_leaves_it_spent() -> None:
    """F03: the event is on disk, the strike's board has not been told yet, and the power goes."""

    async def journey() -> None:
        paper = Paper()
        async with signing(paper=paper) as s:
            sealed = seal_command(s.command(), key("command-1"))
            paper.disk_s = 0.4
            await s.sends(sealed)
            assert s.club.fronts["front"].pulses == []
        assert "remote_unlock" in paper.codes()
        paper.disk_s = 0
        async with signing(paper=paper, boot="after the cut") as s:
            assert (await s.orders(again=sealed)).reason == "replayed"
            assert s.club.fronts["front"].pulses == []

    run(journey())


@pytest.mark.parametrize(
    ("reason", "how"),
    [
        ("wrong_audience", {"audience": "LON/gw-2"}),
        ("wrong_audience", {"audience": "PAR/gw-1"}),
        ("too_long", {"life": 31}),
        ("unknown_door", {"target": "roof"}),
        ("expired", {"late_s": 21}),
        ("not_yet", {"late_s": -61}),
        ("retained", {"retained": True}),
        ("unknown_key", {"by_key": "command-2"}),
        ("unknown_key", {"by_key": "grant-1"}),
        ("bad_signature", {"flip": -1}),
        ("malformed", {"flip": 0}),
    ],
)
def test_what_is_not_to_be_believed_moves_nothing_and_says_why(
    reason: str, how: dict[str, Any]
) -> None:
    async def journey() -> None:
        async with signing() as s:
            how.setdefault("issued", s.now().replace(microsecond=0) - how.pop("late_s", 0) * SECOND)
            retained, flip = how.pop("retained", False), how.pop("flip", None)
            sealed = bytearray(seal_command_unchecked(s, how.pop("by_key", "command-1"), **how))
            if flip is not None:
                sealed[flip] ^= 1
            await s.sends(bytes(sealed), retained=retained)
            (result,) = s.results()
            assert (result.outcome, result.reason, result.seq) == ("refused", reason, None)
            assert s.club.fronts["front"].pulses == []
            (event,) = s.club.found(events.SealedRefused)
            assert (event.what, event.reason, event.count) == ("cmd", reason, 1)
            assert not s.club.found(events.RemoteUnlock)

    run(journey())


def seal_command_unchecked(s: Signing, by_key: str, **how: Any) -> bytes:
    return seal_command(s.command(**how), key(by_key))


def test_an_expired_root_commands_nothing() -> None:
    async def journey() -> None:
        async with signing() as s:
            s.host_off = timedelta(days=366)
            command = s.command(issued=s.now().replace(microsecond=0) + s.host_off)
            sealed = seal_command(command, key("command-1"))
            assert (await s.orders(again=sealed)).reason == "root_expired"

    run(journey())


def test_what_waited_beyond_its_end_opens_nothing() -> None:
    async def journey() -> None:
        async with signing() as s:
            s.club.paper.disk_s = 0.8
            await s.sends(seal_command(s.command(life=1), key("command-1")))
            async with s.club.doors["front"]._strike:  # somebody else's pulse is slow
                await asyncio.sleep(1.5)
            await asyncio.sleep(0.1)
            (result,) = s.results()
            assert (result.outcome, result.reason) == ("refused", "expired")
            assert s.club.fronts["front"].pulses == []

    run(journey())


def test_after_a_later_root_was_lost_nothing_is_believed() -> None:
    async def journey() -> None:
        async with signing() as s:
            s.root_floor = 2
            await s.sends(seal_command(s.command(), key("command-1")))
            assert s.results()[-1].reason == "unknown_key"
            await s.sends(s.beacon(), "beacon")
            await s.sends(s.ack(), "ack")
            assert (s.vouched, s.acknowledged) == ([], [])
            assert {each.what for each in s.club.found(events.SealedRefused)} == {
                "cmd",
                "beacon",
                "ack",
            }

    run(journey())


def test_a_flood_is_slowed_down_and_so_are_its_answers() -> None:
    async def journey() -> None:
        async with signing() as s:
            for number in range(30):
                cti = number.to_bytes(16, "big")
                await s.sends(seal_command(s.command(cti=cti), key("command-1")))
            reasons = [result.reason for result in s.results()]
            # As many as are allowed at once open, and as many refusals are answered.
            assert reasons.count(None) == BURST
            assert reasons.count("rate_limited") == BURST
            assert len(s.club.fronts["front"].pulses) == BURST
            assert len(s.club.found(events.SealedRefused)) == 1
            await asyncio.sleep(REFILL.total_seconds())
            assert (await s.orders()).outcome == "done"
            # Somebody at the door never noticed.
            assert await s.club.says(SAM) == "group"

    run(journey())


def test_forged_ones_use_up_nothing_that_honest_ones_need() -> None:
    async def journey() -> None:
        async with signing() as s:
            with structlog.testing.capture_logs() as logged:
                for number in range(200):
                    await s.sends(number.to_bytes(64, "big"))
            assert len(logged) <= BURST + 4, "a flood must not fill the disk by the log"
            assert len(s.results()) <= BURST + 3
            assert len(s.club.found(events.SealedRefused)) == 1
            await s.sends(seal_command(s.command(), key("command-1")))
            assert s.club.released()
            assert s.club.memory.get("command/") is None

    run(journey())


def test_what_opens_needs_a_clock_and_what_closes_does_not() -> None:
    async def journey() -> None:
        async with signing() as s:
            s.club.clock.trusted = False
            opening: tuple[tuple[Any, dict[str, Any]], ...] = (
                ("unlock", {}),
                ("evacuation", {}),
                ("release", {"of": "lockdown"}),
            )
            for act, how in opening:
                assert (await s.orders(act, **how)).reason == "clock_untrusted"
            assert (await s.orders("lockdown", life=600)).outcome == "done"
            assert s.club.mode() == "lockdown"

    run(journey())


def test_a_door_says_no_in_its_own_words() -> None:
    doors: dict[str, dict[str, Any]] = {
        "inner": {"two_person": True, "interlock": "a"},
        "front": {"interlock": "a"},
    }

    async def journey() -> None:
        async with signing(rows=records(doors)) as s:
            inner: dict[str, Any] = {"target": "inner"}
            assert (await s.orders(**inner)).reason == "second_person_required"
            assert (await s.orders()).outcome == "done"
            assert (await s.orders(**inner)).reason == "interlock"
            await s.club.order("blocked", "door", "front", seconds=3)
            assert (await s.orders()).reason == "blocked"
            await asyncio.sleep(4)
            await s.club.order("lockdown")
            assert (await s.orders()).reason == "lockdown"
            await s.club.order("release")
            s.club.fronts["front"].offline = "no answer"
            result = await s.orders()
            assert (result.outcome, result.reason) == ("refused", "offline")
            assert s.club.found(events.UnlockFailed)[-1].cause == "command"

    run(journey())


def test_without_its_record_on_disk_nothing_opens() -> None:
    async def journey() -> None:
        async with signing() as s:
            s.club.paper.disk_s = 2
            await s.sends(seal_command(s.command(), key("command-1")))
            await asyncio.sleep(3)
            assert s.results()[-1].reason == "not_recorded"
            assert s.club.fronts["front"].pulses == []
            s.club.paper.full = True
            assert (await s.orders("identify", target="front", target_kind="door")).reason == (
                "not_recorded"
            )
            # What keeps people safe is done all the same, and said that it isn't recorded.
            assert (await s.orders("lockdown")).reason == "not_recorded"
            assert s.club.mode() == "lockdown"

    run(journey())


def test_modes_lockdown_and_release_are_ordered_from_afar() -> None:
    async def journey() -> None:
        async with signing() as s:
            until = s.now().replace(microsecond=0) + 600 * SECOND
            front: dict[str, Any] = {
                "target": "front",
                "target_kind": "door",
                "mode": "unlocked",
            }
            assert (await s.orders("mode", until=until, **front)).outcome == "done"
            assert s.club.mode() == "unlocked"
            assert s.club.found(events.Ordered)[-1].by == "command by op-ivy"
            assert s.club.found(events.Commanded)[-1].act == "mode"
            await asyncio.sleep(610)
            assert s.club.mode() == "controlled"
            for wrong, reason in ((-1, "expired"), (25 * 3600, "too_long")):
                ends = s.now().replace(microsecond=0) + wrong * SECOND
                assert (await s.orders("mode", until=ends, **front)).reason == reason
            assert (await s.orders("lockdown", life=600)).outcome == "done"
            where: dict[str, Any] = {"scope": "zone", "target": "club", "target_kind": "zone"}
            assert (await s.orders("evacuation", **where)).outcome == "done"
            assert s.club.mode() == "evacuation"
            assert (await s.orders("release", of="evacuation", **where)).outcome == "done"
            assert s.club.mode() == "lockdown"
            assert (await s.orders("release", of="lockdown")).outcome == "done"
            assert s.club.mode() == "controlled"
            nowhere: dict[str, Any] = {**where, "target": "nowhere"}
            assert (await s.orders("lockdown", **nowhere)).reason == "unknown_zone"

    run(journey())


def test_forgiving_identifying_refreshing_and_reading_the_log() -> None:
    async def journey() -> None:
        async with signing(rows=records({"front": {"antipassback": "hard"}})) as s:
            await s.club.tap(SAM)
            await s.club.walk()
            assert await s.club.says(SAM) == "antipassback"
            sam: dict[str, Any] = {"target": "sam", "target_kind": "holder"}
            assert (await s.orders("forgive", life=600, **sam)).outcome == "done"
            assert await s.club.says(SAM) == "group"
            zone: dict[str, Any] = {"target": "club", "target_kind": "zone"}
            assert (await s.orders("forgive", **zone)).outcome == "done"
            assert len(s.club.found(events.Forgiven)) == 2
            shown = s.club.fronts["front"].shown
            shown.clear()
            await s.orders("identify", target="front", target_kind="door")
            await asyncio.sleep(5)
            assert shown.count(Signal.HELD_OPEN) == 6  # on both sides
            assert (await s.orders("refresh")).outcome == "done"
            assert s.asked == 1
            result = await s.orders("logs", minutes=5)
            assert (result.outcome, result.reason) == ("done", None)
            assert result.lines is not None

    run(journey())


def test_what_was_spent_is_in_the_transaction_of_the_event() -> None:
    async def journey() -> None:
        async with signing() as s:
            command = s.command()
            await s.orders(again=seal_command(command, key("command-1")))
            found = s.club.memory.get(f"command/{command.cti.hex()}")
            assert found == Spent(count=1, expires=command.expires)
            assert f"command/{command.cti.hex()}" in s.club.paper.state

    run(journey())


# --- A holder who asks from afar ------------------------------------------------------------------


def asks(s: Signing, holder: str = "sam", **how: Any) -> bytes:
    return seal_command(s.command(as_holder=holder, **how), key("command-1"))


def decided(s: Signing) -> events.AccessDecided:
    event: events.AccessDecided = s.club.found(events.AccessDecided)[-1]
    return event


def replays(s: Signing, **of: Any) -> bool:
    rows = parse_records(json.dumps(row).encode() for row in record_rows(**of))
    return difference(decided(s), Revision(rows.records)) is None


def test_a_holder_who_asks_from_afar_is_let_in_by_their_own_right_and_is_then_inside() -> None:
    async def journey() -> None:
        async with signing() as s:
            result = await s.orders(again=asks(s))
            assert (result.outcome, result.reason, result.member) == ("done", None, None)
            assert s.club.released()
            event = decided(s)
            assert (event.holder, event.reason, event.via) == ("sam", "group", "g")
            assert (event.kinds, event.device, event.credential) == (("remote",), "", None)
            assert event.remote is not None
            assert (event.remote.by, event.remote.why) == ("op-ivy", "she rang")
            assert s.club.paper.events[(result.seq or 0) - 1] == event
            assert not s.club.found(events.RemoteUnlock)
            await s.club.walk()
            (entered,) = s.club.found(events.Entered)
            assert (entered.holders, entered.sure) == (("sam",), True)
            assert [p.holder for zone in muster(s.club.memory) for p in zone.people] == ["sam"]
            assert replays(s)

    run(journey())


@pytest.mark.parametrize(
    ("reason", "doors", "who", "text"),
    [
        ("holder_unknown", {}, "nobody", "member_unknown"),
        ("membership_suspended", {}, "lee", "membership_suspended"),
        ("no_entitlement", {}, "tom", "no_entitlement"),
        (
            "second_factor_required",
            {"front": {"second_factor_schedule": "day"}},
            "sam",
            "needs_reader",
        ),
        ("second_person_required", {"front": {"two_person": True}}, "sam", "needs_reader"),
    ],
)
def test_a_holder_without_the_right_is_denied_with_the_reason_and_a_text(
    reason: str, doors: dict[str, Any], who: str, text: str
) -> None:
    async def journey() -> None:
        more: list[dict[str, Any]] = [
            {"type": "schedule", "id": "day", "timezone": "Europe/London",
             "weekly": {"mon": [["00:00", "24:00"]]}},
            {"type": "holder", "id": "lee", "persona": "member", "status": "suspended",
             "groups": ["g"]},
            {"type": "holder", "id": "tom", "persona": "member", "status": "active",
             "groups": []},
        ]  # fmt: skip
        async with signing(rows=records(doors, more)) as s:
            for _ in range(2):  # asking twice makes no two people
                result = await s.orders(again=asks(s, who))
                assert (result.outcome, result.reason) == ("refused", reason)
                assert result.member is not None
                assert result.member.key == text
                assert s.club.paper.events[(result.seq or 0) - 1] == decided(s)
                assert (decided(s).outcome, decided(s).holder) == ("deny", who)
                await asyncio.sleep(1)
            assert s.club.fronts["front"].pulses == []
            assert s.club.fronts["front"].shown == []
            assert not s.club.found(events.SealedRefused), "a denial is no attack"
            assert replays(s, doors=doors, more=more)

    run(journey())


def test_a_schedule_that_opens_later_is_told_with_its_time() -> None:
    async def journey() -> None:
        more: list[dict[str, Any]] = [
            {"type": "schedule", "id": "late", "timezone": "Europe/London",
             "weekly": {"mon": [["12:00", "24:00"]]}},
            {"type": "group", "id": "h", "zones": ["club"], "doors": [], "schedule": "late"},
            {"type": "holder", "id": "tom", "persona": "member", "status": "active",
             "groups": ["h"]},
        ]  # fmt: skip
        async with signing(rows=records(None, more)) as s:
            result = await s.orders(again=asks(s, "tom"))
            assert result.reason == "outside_schedule"
            assert result.member is not None
            noon = int(START.replace(hour=12).timestamp())
            assert (result.member.key, result.member.at) == ("opens", noon)

    run(journey())


def test_every_rule_of_a_reader_holds_from_afar() -> None:
    async def journey() -> None:
        async with signing(rows=records({"front": {"antipassback": "hard"}})) as s:
            await s.orders(again=asks(s))
            await s.club.walk()
            assert (await s.orders(again=asks(s))).reason == "antipassback"
            await s.club.order("lockdown")
            assert (await s.orders(again=asks(s, "maya"))).reason == "lockdown"
            await s.club.order("release")
            await s.club.order("blocked", "door", "front", 60)
            assert (await s.orders(again=asks(s, "maya"))).reason == "door_blocked"
        async with signing(assurance="medium") as s:
            assert (await s.orders(again=asks(s))).reason == "assurance_too_low"

    run(journey())


def test_a_request_from_afar_is_spent_and_ends_like_any_command() -> None:
    async def journey() -> None:
        paper = Paper()
        async with signing(paper=paper) as s:
            sealed = asks(s)
            assert (await s.orders(again=sealed)).outcome == "done"
            assert (await s.orders(again=sealed)).reason == "replayed"
            denied = asks(s, "nobody")
            await s.orders(again=denied)
        async with signing(paper=paper, boot="boot-2") as s:
            assert (await s.orders(again=sealed)).reason == "replayed"
            assert (await s.orders(again=denied)).reason == "replayed"
            assert (await s.orders(again=asks(s, target="roof"))).reason == "unknown_door"
            s.club.paper.disk_s = None
            await s.sends(asks(s))
            await asyncio.sleep(3)
            assert s.results()[-1].reason == "not_recorded"
            assert s.club.fronts["front"].pulses == []
        async with signing() as s:
            s.club.paper.disk_s = 0.8
            await s.sends(asks(s, life=1))
            async with s.club.doors["front"]._strike:
                await asyncio.sleep(1.5)
            await asyncio.sleep(0.1)
            assert s.results()[-1].reason == "expired"
            assert s.club.fronts["front"].pulses == []

    run(journey())


def test_a_request_from_afar_ends_nothing_that_somebody_at_the_reader_has_begun() -> None:
    async def journey() -> None:
        doors = {"front": {"second_factor_schedule": "day"}}
        more: list[dict[str, Any]] = [
            {"type": "schedule", "id": "day", "timezone": "Europe/London",
             "weekly": {"mon": [["00:00", "24:00"]]}},
        ]  # fmt: skip
        async with signing(rows=records(doors, more)) as s:
            assert await s.club.says(SAM) == "pin_required"
            assert (await s.orders(again=asks(s, "maya"))).reason == "second_factor_required"
            assert await s.club.says(SAM_PIN) == "group"

    run(journey())


def test_no_reader_can_say_that_a_holder_asks_from_afar() -> None:
    async def journey() -> None:
        async with signing() as s:
            assert await s.club.says("sam", kind="remote") == "unknown_credential"

    run(journey())


def test_the_holder_is_no_claim_of_any_other_act() -> None:
    async def journey() -> None:
        async with signing() as s:
            for act in ("identify", "mode"):
                how: dict[str, Any] = {"target": "front", "target_kind": "door"}
                if act == "mode":
                    how |= {"mode": "blocked", "until": s.now().replace(microsecond=0) + SECOND}
                with pytest.raises(CommandRefused, match="malformed"):
                    asks(s, act=act, **how)

    run(journey())
