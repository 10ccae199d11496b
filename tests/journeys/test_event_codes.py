"""Every event code there is, each brought about at simulated hardware with a real core."""

import ast
import asyncio
import base64
import json
import os
import pwd
import tomllib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, get_args

import pytest
import pytest_asyncio
import tomli_w
from cryptography.hazmat.primitives.asymmetric import ec
from pymodbus.client import AsyncModbusTcpClient

from gateway.domain import events
from gateway.domain.break_glass import code
from gateway.ipc.client import connect
from hwsim.relay_board import RelayBoard
from hwsim.secure_cards import PkocCard, point, secure_card
from tests.process.rig import (
    MILO,
    REPOSITORY,
    SAM,
    SAM_PIN,
    Rig,
    as_lines,
    records,
    standing_rig,
    until,
)
from tests.timing import allowed

pytestmark = [pytest.mark.process, pytest.mark.asyncio(loop_scope="module")]

CODES = {str(event.__struct_config__.tag): event for event in get_args(events.Event)}

_TAMPER = (
    "tests/control/test_tamper.py::"
    "test_case_supply_and_install_window_are_events_and_a_tampered_door_says_so"
)
_COMMANDS = "tests/processes/test_commands.py::test_"
_BEACONS = "tests/processes/test_beacons.py::test_"

ELSEWHERE = {
    "daily_summary": "tests/control/test_daily.py::test_a_day_is_counted_once_it_is_over",
    "admitted_by_controller": (
        "tests/control/test_card_lists.py::"
        "test_the_list_has_who_may_at_any_hour_and_nobody_under_lockdown"
    ),
    "other_doors": (
        "tests/control/test_lift.py::"
        "test_a_ride_opens_every_floor_sold_and_is_no_denial_of_the_others"
    ),
    "checkpoint": "tests/cli/test_journal_proof.py::test_exported_verified_and_erased",
    "finding_cleared": (
        "tests/control/test_watch.py::"
        "test_what_was_heard_is_found_a_second_later_and_over_after_calm"
    ),
    "journal_gap": (
        "tests/process/test_disk.py::"
        "test_where_the_journal_can_not_even_be_read_exit_works_and_taps_are_a_counted_gap"
    ),
    "memory_damaged": (
        "tests/processes/test_any_file.py::"
        "test_a_count_that_cant_be_read_is_told_by_an_event_and_spent"
    ),
    "late_commit": (
        "tests/process/test_disk.py::"
        "test_a_core_that_starts_on_a_read_only_disk_serves_the_doors_and_writes_it_down_later"
    ),
    "remote_unlock": f"{_COMMANDS}a_remote_unlock_is_a_grant_with_who_and_why_and_is_answered",
    "commanded": f"{_COMMANDS}modes_lockdown_and_release_are_ordered_from_afar",
    "sealed_refused": f"{_COMMANDS}a_flood_is_slowed_down_and_so_are_its_answers",
    "beacons_missing": f"{_BEACONS}a_freeze_is_told_once_and_only_while_the_broker_is_there",
    "beacons_back": f"{_BEACONS}a_freeze_is_told_once_and_only_while_the_broker_is_there",
    "clock_off": f"{_BEACONS}an_answered_nonce_puts_a_wrong_clock_right",
    "tamper": _TAMPER,
    "tamper_restored": _TAMPER,
    "power_failed": _TAMPER,
    "power_restored": _TAMPER,
    "install_window_opened": _TAMPER,
    "install_window_closed": _TAMPER,
}
"""What needs a disk that fails or another reader: the test that brings it about and looks for it.

A code that is in no journey here and not in this table fails the test of this table.
"""

WARDEN = b"a warden's own secret"
PHONE, STRANGE_PHONE = (ec.derive_private_key(n, ec.SECP256R1()) for n in (7, 8))
DURESS, ANN = "71935508", "04C0FFEE5EC7E3"


def journey_records() -> list[dict[str, Any]]:
    found = []
    for record in records():
        more: dict[str, Any] = {}
        if (record["type"], record["id"]) == ("door", "back"):
            more = {"held_open_s": 5, "antipassback": "soft"}
        if record["type"] == "policy":
            more = {"pin_lockout_s": 10}
        found.append({**record, **more})
    return [
        *found,
        {"type": "credential", "id": "p-d", "holder": "h-sam", "kind": "pin", "value": DURESS,
         "duress": True},
        {"type": "credential", "id": "c-phone", "holder": "h-sam", "kind": "pkoc",
         "value": point(PHONE).hex().upper()},
        {"type": "credential", "id": "c-ann", "holder": "h-sam", "kind": "uid", "value": ANN},
    ]  # fmt: skip


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def rig(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Rig]:
    async with standing_rig(tmp_path_factory.mktemp("codes")) as rig:
        config = tomllib.loads(rig.config.read_text())
        config["doors"]["back"]["relock"] = "on_open"
        config["doors"]["back"]["pre_alarm_s"] = 2
        config["doors"]["front"]["contact"]["opposite_input"] = 3
        config["devices"]["back-reader"] |= {
            "credentials": ["pkoc", "uid"],
            "pkoc": {"reader_identifier": "00" * 32},
        }
        secret = rig.directory / "warden-1"
        secret.touch(0o600)
        secret.write_bytes(base64.b32encode(WARDEN))
        config["break_glass"] = {
            "warden": {"secrets": [str(secret)], "doors": ["front"], "window_h": 8, "quorum": 1}
        }
        rig.config.write_text(tomli_w.dumps(config))
        rig.site.doors["front"].wire_contact(board_of(rig), 3, closed_is_active=False)
        rig.records.write_text(as_lines(journey_records()))
        await rig.imported()
        await rig.core()
        yield rig


def board_of(rig: Rig, name: str = "relays-a") -> RelayBoard:
    board = rig.site.devices[name]
    assert isinstance(board, RelayBoard)
    return board


async def order(rig: Rig, *arguments: str) -> None:
    done = await rig.cli(*arguments, "--reason", "drill", "--config", str(rig.config), "--json")
    assert done.status == 0, done


async def imports(rig: Rig, rows: list[dict[str, Any]], tmp: Path) -> None:
    file = tmp / "more.jsonl"
    file.write_text(as_lines(rows))
    await rig.cli("import", str(file), "--config", str(rig.config))


async def goes_in(rig: Rig, door: str = "back", card: str = SAM) -> None:
    await rig.at_rest(door)
    await rig.opens(door, card)
    assert await rig.site.push(door)


async def test_a_day_at_the_doors(rig: Rig) -> None:
    await rig.event(events.GatewayStarted)
    await rig.event(events.DeviceUp, lambda e: e.device == "back-reader")
    await goes_in(rig)
    granted = await rig.event(events.AccessDecided)
    assert (granted.outcome, granted.holder) == ("grant", "h-sam")
    assert (await rig.event(events.Unlocked)).cause == "grant"
    assert (await rig.event(events.DoorOpened)).cause == "grant"
    assert (await rig.event(events.Entered)).sure
    await rig.event(events.DoorClosed)
    before = await rig.last_seq()
    await goes_in(rig, card=ANN)
    assert (await rig.event(events.Passback, after=before)).zone == "lounge"
    # On opening, the strike has gone to rest well before its second was over.
    edges = [each for each in rig.seen.of(type(rig.released("back")[0])) if each.door == "back"]
    assert all(not each.on for each in edges[1::2])
    await rig.opens("front")
    await rig.event(events.NotEntered, lambda e: e.door == "front")
    await rig.site.rex("back", 0.45)
    await rig.event(events.RexPressed)
    await rig.site.force("front")
    await rig.event(events.ForcedOpen)
    await rig.event(events.AlarmRestored)


async def test_a_holder_is_erased_from_the_journal(rig: Rig) -> None:
    done = await rig.cli(
        *("journal", "erase", "--holder", "h-nobody", "--reason", "request 7"),
        *("--config", str(rig.config), "--json"),
    )
    assert done.status == 1, "there was nothing to erase"
    assert (await rig.event(events.HolderErased)).events == 0


async def test_an_acknowledgement_of_what_was_never_sent_is_told_once(rig: Rig) -> None:
    async with connect(rig.socket, role="link") as core:
        status = await core.status()
        for _ in range(3):
            await core.report_ack(status.stream, 10**9)
        told = await rig.event(events.AckRefused)
        assert (told.seq, told.count) == (10**9, 1)
        urgent = await core.fetch_urgent(status.last_seq)
        assert [events.decode(body) for _, body in urgent.events] == [told]
        waiting = asyncio.create_task(core.fetch_urgent(await rig.last_seq(), wait_s=10))
        await rig.site.force("front")
        codes = [type(events.decode(body)) for _, body in (await waiting).events]
        assert codes == [events.ForcedOpen]
        await rig.event(events.AlarmRestored)


async def test_a_phone_opens_by_its_key_and_not_with_another_signature(rig: Rig) -> None:
    async def hold(phone: PkocCard) -> None:
        await rig.site.present_cards("back-reader", [secure_card("08112233", phone)], allowed(0.3))

    await rig.at_rest("back")
    before = await rig.last_seq()
    await rig.release_by("back", hold(PkocCard(PHONE)))
    assert (await rig.event(events.AccessDecided, after=before)).kinds == ("pkoc",)
    await rig.at_rest("back")
    await hold(PkocCard(PHONE, signs_with=STRANGE_PHONE))
    refused = await rig.event(events.CredentialRefused)
    assert (refused.door, refused.kind, refused.why) == ("back", "pkoc", "not_authentic")
    assert not rig.is_released("back")


async def test_a_door_that_is_propped_open_warns_then_alarms(rig: Rig) -> None:
    await rig.at_rest("back")
    await rig.site.prop("back")
    await rig.opens("back")
    await rig.site.push("back")
    warning = await rig.event(events.HeldOpenWarning, limit_s=8)
    held = await rig.event(events.HeldOpen, limit_s=8)
    assert 1.0 < (held.at - warning.at).total_seconds() < 3.0
    await rig.site.close("back")
    await rig.event(events.AlarmRestored, lambda e: e.alarm == "held_open")


async def test_a_break_glass_code_opens_once(rig: Rig) -> None:
    await rig.at_rest("front")
    await rig.release_by("front", rig.enter(code(WARDEN, 0)))
    assert (await rig.event(events.BreakGlass)).outcome == "opened"
    await rig.at_rest("front")
    await rig.entered(code(WARDEN, 0))
    await rig.event(events.AccessDecided, lambda e: e.reason == "unknown_credential")
    assert not rig.is_released("front")


async def test_duress_opens_and_wrong_pins_lock_pins_out(rig: Rig) -> None:
    await rig.at_rest("front")
    await rig.release_by("front", rig.enter(DURESS))
    assert (await rig.event(events.Duress)).outcome == "grant"
    for _ in range(5):
        await rig.entered("0000")
    assert (await rig.event(events.PinLockout)).seconds == 10
    assert (await rig.event(events.FindingRaised)).what == "unknown_cards"
    await rig.entered(SAM_PIN)
    await rig.event(events.AccessDecided, lambda e: e.reason == "pin_locked_out")


async def test_chatter_is_no_opening_and_a_press_of_400_ms_is_never_missed(rig: Rig) -> None:
    before = await rig.last_seq()
    await rig.site.chatter("back", "contact", edges=60, gap=0.002)
    for _ in range(5):
        await rig.site.rex("back", 0.4)
        await asyncio.sleep(0.4)  # a pause is sampled like a press

    async def presses() -> bool:
        told = [entry.event for entry in await rig.journal(before)]
        assert not [event for event in told if isinstance(event, events.ForcedOpen)]
        return sum(isinstance(event, events.RexPressed) for event in told) == 5

    await until("five presses", presses, 5)


async def test_a_strike_that_does_not_go_to_rest_as_the_leaf_opens_is_told(rig: Rig) -> None:
    await rig.at_rest("back")
    board = board_of(rig, "relays-b").board
    board.stick(2)
    await rig.opens("back")
    assert await rig.site.push("back")
    failed = await rig.event(events.RelockFailed)
    assert failed.door == "back"
    assert "stays energised" in failed.why
    board.unstick(2)
    await rig.at_rest("back")


async def test_a_cut_wire_of_a_supervised_contact_is_a_fault_and_no_open_door(rig: Rig) -> None:
    before = await rig.last_seq()
    board_of(rig).set_input(3, active=True)
    assert (await rig.event(events.InputFault)).point == "contact"
    status = await rig.status()
    assert status is not None
    assert status.doors["front"].contact == "unknown"
    board_of(rig).set_input(3, active=False)
    await rig.event(events.InputRestored)
    assert not [e for e in await rig.journal(before) if isinstance(e.event, events.ForcedOpen)]


async def test_operators_set_modes_and_the_board_follows(rig: Rig) -> None:
    await order(rig, "door", "mode", "front", "unlocked", "--for", "1h")
    await until("held open", lambda: rig.is_released("front"))
    changed = await rig.event(events.ModeChanged)
    assert (changed.mode, changed.source) == ("unlocked", "hand")
    assert pwd.getpwuid(os.geteuid()).pw_name in (changed.by or "").partition(", claims")[0]
    await asyncio.sleep(7)
    assert rig.is_released("front"), "beyond one pulse"
    await order(rig, "door", "lockdown", "--site")
    await until("locked", lambda: not rig.is_released("front"), 2)
    await rig.stays_shut("back", MILO, await rig.last_seq())
    await order(rig, "door", "release", "--site")
    await order(rig, "door", "release", "--door", "front")
    await order(rig, "forgive", "h-sam")
    await rig.event(events.Ordered)
    await rig.event(events.Forgiven)
    muster = await rig.cli("muster", "--json", "--config", str(rig.config))
    assert muster.status == 0
    preview = await rig.cli("door", "preview", "front", "--config", str(rig.config))
    assert preview.out.startswith("front: controlled now")
    nowhere = await rig.cli(
        "door", "lockdown", "--door", "attic", "--reason", "drill", "--config", str(rig.config)
    )
    assert nowhere.status == 2
    assert "there are: front, back" in nowhere.err


async def test_what_goes_wrong_at_a_board_is_told(rig: Rig, tmp_path: Path) -> None:
    await rig.at_rest()
    table = rig.site.rewritten_config()["devices"]["relays-b"]
    client = AsyncModbusTcpClient(table["host"], port=table["port"], timeout=1, retries=0)
    await client.connect()
    await client.write_coil(1, True, device_id=1)
    await rig.event(events.OutputForcedOff)
    client.close()
    await rig.site.unplug("relays-b")
    await rig.event(events.DeviceDown, lambda e: e.device == "relays-b")
    await rig.tap("back-reader", SAM)
    await rig.event(events.UnlockFailed, lambda e: e.door == "back")
    await rig.site.plug("relays-b")
    await rig.ready()
    del tmp_path


def looked_for(file: str, name: str = "") -> set[str]:
    """The names of events that a file's tests, or one of them, look for."""
    tree = ast.parse((REPOSITORY / file).read_text(encoding="utf-8"))
    tests = [node for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    if name:
        tests = [test for test in tests if test.name == name]
        assert len(tests) == 1, f"{file} has no {name}"
    found = (node for test in tests for node in ast.walk(test) if isinstance(node, ast.Attribute))
    return {node.attr for node in found}


async def test_every_event_code_has_a_test_that_brings_it_about_and_looks_for_it() -> None:
    here = looked_for(str(Path(__file__).relative_to(REPOSITORY)))
    for tag, event in CODES.items():
        file, _, name = ELSEWHERE.get(tag, "").partition("::")
        assert event.__name__ in (looked_for(file, name) if file else here), tag


async def test_records_that_are_refused_or_easy_to_guess_are_told(rig: Rig, tmp_path: Path) -> None:
    await imports(rig, [{"type": "zone", "id": "x", "category": "none"}], tmp_path)
    await rig.event(events.EntitlementsRefused)
    for count, kind in ((20, events.PinOddsLow), (150, events.PinOddsCritical)):
        pins = [
            {"type": "credential", "id": f"p-{n}", "holder": "h-sam", "kind": "pin",
             "value": f"{n:04}"}
            for n in range(count)
        ]  # fmt: skip
        await imports(rig, [*journey_records(), *pins], tmp_path)
        await rig.event(kind)
    await rig.event(events.EntitlementsApplied)


async def test_a_flood_at_a_keypad_is_bounded_and_told(rig: Rig) -> None:
    await rig.site.press("front-keypad", "1234#" * 200, gap=0)
    assert (await rig.event(events.InputIgnored, limit_s=10)).count > 0


async def test_the_recorded_day_is_decided_again_alike(rig: Rig, tmp_path: Path) -> None:
    """Whatever of it the journal still has, with the records that were in force."""
    await rig.imported()
    before = await rig.last_seq()
    await goes_in(rig)
    tail = [
        {"seq": entry.seq, "event": json.loads(events.encode(entry.event))}
        for entry in await rig.journal(before)
    ]
    file = tmp_path / "tail.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in tail))
    replayed = await rig.cli("replay", str(file), "--records", str(rig.records), "--json")
    assert replayed.status == 0, replayed
    assert replayed.json["taps"] >= 1
    ended = tmp_path / "ended.jsonl"
    ended.write_text(
        as_lines(
            {**record, "status": "ended"} if record["type"] == "holder" else record
            for record in journey_records()
        )
    )
    compared = await rig.cli("whatif", "--records", str(ended), "--config", str(rig.config))
    assert compared.status == 1, compared
    assert "h-sam loses back from " in compared.out
    assert "back: h-sam was grant group, would be deny membership_ended" in compared.out


async def test_damaged_files_are_told_at_the_next_start(rig: Rig) -> None:
    await order(rig, "door", "lockdown", "--zone", "lounge")
    for daemon in rig._daemons:
        if daemon.alive:
            await daemon.stop()
    for table in rig.state.glob("entitlements-*.mdb"):
        table.write_bytes(b"\0" * 4096)
    await rig.core()
    await rig.event(events.CacheRebuilt, limit_s=15)
    status = await rig.status()
    assert status is not None
    assert status.doors["back"].mode == "lockdown", "it stands over a restart"
    stopped = [e for e in await rig.journal() if isinstance(e.event, events.GatewayStopped)]
    assert stopped
    for daemon in rig._daemons:
        if daemon.alive:
            await daemon.kill()
    content = bytearray((rig.state / "journal.db").read_bytes())
    content[4096:8192] = bytes(4096)
    (rig.state / "journal.db").write_bytes(content)
    (rig.state / "journal.db-wal").unlink(missing_ok=True)
    await rig.core()
    await rig.event(events.JournalRestarted)
    for daemon in rig._daemons:
        if daemon.alive:
            await daemon.stop()
