"""Starts: with a broken file, a bad key, damaged state or a strike that somebody left energised."""

import random
import shutil
import time
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
import pytest_asyncio
import tomli_w

from gateway.domain import events
from gateway.domain.guessing import FREE_MAX
from gateway.statedir import StateDir
from hwsim import observations as seen
from hwsim.relay_board import RelayBoard
from tests.process.rig import (
    SAM_PIN,
    Rig,
    as_lines,
    assert_sound,
    figure,
    records,
    site_config,
    standing_rig,
    until,
)
from tests.timing import allowed

pytestmark = [pytest.mark.process, pytest.mark.asyncio(loop_scope="module")]

COULD_NOT = 2
START_S_MAX = 10.0
"""docs/promises.md P19, with whatever lies in the state directory."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def used(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Rig]:
    """A rig whose gateway has worked for a while and has been stopped; `pristine` is its state."""
    async with standing_rig(tmp_path_factory.mktemp("start")) as rig:
        await rig.imported()
        core = await rig.core()
        for number in range(2 * FREE_MAX):
            # Strangers' cards, as many as make no reader pause: wrong PINs would lock the keypad.
            before = await rig.last_seq()
            reader = ("front-reader", "back-reader")[number % 2]
            await rig.tap(reader, f"{0x04D00000 + number:08X}")
            await rig.event(events.AccessDecided, after=before)
        await rig.opens("front")
        await rig.at_rest()
        assert await core.stop() == 0
        shutil.copytree(rig.state, rig.directory / "pristine")
        yield rig


@pytest_asyncio.fixture(loop_scope="module")
async def state(used: Rig) -> AsyncIterator[Path]:
    """The state directory as the gateway left it; what runs on it ends with the test."""
    shutil.rmtree(used.state)
    shutil.copytree(used.directory / "pristine", used.state)
    yield used.state
    await used.stop_all()


# --- What can't be started with ------------------------------------------------------------------


async def refusals(rig: Rig, config: Path, parts: tuple[str, ...]) -> list[str]:
    """What each part says on standard error, having ended with status 2 and no traceback."""
    said = []
    for part in parts:
        begun = time.monotonic()
        ended = await rig.cli(part, "--config", str(config))
        assert ended.status == COULD_NOT, (part, ended)
        assert "Traceback" not in ended.err, (part, ended.err)
        assert time.monotonic() - begun < allowed(5.0)
        said.append(ended.err)
    return said


async def test_a_broken_config_names_every_fault_and_nothing_starts(
    used: Rig, tmp_path: Path
) -> None:
    config = site_config(tmp_path)
    config["doors"]["front"]["strike"]["output"] = 9
    config["doors"]["front"]["free_egress"] = "gateway"
    config["doors"]["back"]["readers"][0]["device"] = "nobody"
    config["devices"]["front-keypad"]["baud_rate"] = 9601
    config["devices"]["front-reader"]["speed"] = 1
    del config["clock"]
    file = tmp_path / "site.toml"
    file.write_text(tomli_w.dumps(config))
    checked = await used.cli("config", "check", str(file))
    assert checked.status == COULD_NOT
    for said in (checked.err, *await refusals(used, file, ("core", "link", "run", "status"))):
        for fault in (
            "doors.front.strike.output",
            "doors.front.free_egress",
            "doors.back.readers[0].device",
            "devices.front-keypad.baud_rate",
            "devices.front-reader.speed",
            "clock: is missing",
        ):
            assert fault in said


async def test_a_credential_key_that_is_no_secret_is_refused(used: Rig, state: Path) -> None:
    good = used.key.read_bytes()
    try:
        for content, mode, word in (
            (None, 0o600, "No such file"),
            (good[:31], 0o600, "31 bytes"),
            (b"", 0o600, "0 bytes"),
            (good, 0o644, "others may read"),
        ):
            if content is None:
                used.key.unlink()
            else:
                used.key.write_bytes(content)
                used.key.chmod(mode)
            for said in await refusals(used, used.config, ("core", "run")):
                assert "credential.key" in said
                assert word in said
    finally:
        used.key.write_bytes(good)
        used.key.chmod(0o600)


async def test_places_that_cant_be_used_are_named_without_a_traceback(
    used: Rig, state: Path, tmp_path: Path
) -> None:
    text = used.config.read_text()
    (tmp_path / "file").write_text("")
    for name, was, instead in (
        ("socket", used.socket, tmp_path / "file"),
        ("socket", used.socket, tmp_path / "file" / "core.sock"),
        ("dir", used.state, tmp_path / "file"),
        ("dir", used.state, tmp_path / "file" / "state"),
    ):
        config = tmp_path / "site.toml"
        config.write_text(text.replace(f'{name} = "{was}"', f'{name} = "{instead}"'))
        assert str(instead) in config.read_text()
        for said in await refusals(used, config, ("core", "run")):
            assert str(tmp_path / "file") in said


# --- What must be started with -------------------------------------------------------------------


DAMAGE_BYTES = 12 * 1024
"""Three pages: less could fall into a page's unused part, where it changes nothing."""


def spoil(file: Path, how: str) -> None:
    """Damage a file as a worn card does."""
    content = bytearray(file.read_bytes())
    if how == "random bytes":
        dice = random.Random(len(content))
        start = len(content) // 2
        junk = dice.randbytes(min(DAMAGE_BYTES, len(content) - start))
        content[start : start + len(junk)] = junk
    elif how == "random beginning":
        content[:100] = random.Random(1).randbytes(100)
    elif how == "truncated":
        del content[len(content) // 2 :]
    elif how == "emptied":
        content.clear()
    else:
        file.unlink()
        return
    file.write_bytes(bytes(content))


def table(state: Path) -> Path:
    (found,) = state.glob("entitlements-*.mdb")
    return found


def cache_and_table(how: str) -> Callable[[Path], None]:
    def do(state: Path) -> None:
        spoil(table(state), how)
        spoil(state / "cache.db", how)

    return do


async def started(rig: Rig) -> float:
    """Start a core; seconds until the front door's keypad and relay answer."""
    begun = time.monotonic()
    core = await rig.start("core")
    await rig.ready(core, "relays-a", "front-keypad")
    took_s = time.monotonic() - begun
    assert took_s <= allowed(START_S_MAX)
    return took_s


async def decides_rightly(rig: Rig) -> None:
    """Sam gets in, somebody else doesn't."""
    await rig.at_rest("front")
    before = await rig.last_seq()
    await rig.enter("99999999")
    denied = await rig.event(events.AccessDecided, after=before)
    assert (denied.outcome, denied.reason) == ("deny", "unknown_credential")
    assert not rig.is_released("front")
    await rig.release_by("front", rig.enter(SAM_PIN))


async def denies_all(rig: Rig) -> None:
    await rig.at_rest("front")
    before = await rig.last_seq()
    await rig.enter(SAM_PIN)
    denied = await rig.event(events.AccessDecided, after=before)
    assert denied.outcome == "deny"
    assert not rig.is_released("front")


HOWS = ("random bytes", "truncated", "emptied", "removed")


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("what", ["table", "pointer", "table and rows"])
async def test_damaged_entitlements_are_made_again_and_it_says_so(
    used: Rig, state: Path, what: str, how: str
) -> None:
    if what == "table":
        spoil(table(state), how)
    elif what == "pointer":
        spoil(state / "current", how)
    else:
        cache_and_table(how)(state)
    figure(f"{what} {how}: started in {await started(used):.2f} s")
    rebuilt = await used.event(events.CacheRebuilt)
    assert rebuilt.revision is not None
    await decides_rightly(used)


@pytest.mark.parametrize("how", HOWS)
async def test_damaged_rows_behind_a_sound_table_change_nothing(
    used: Rig, state: Path, how: str
) -> None:
    spoil(state / "cache.db", how)
    await started(used)
    await decides_rightly(used)
    await used.imported()
    await decides_rightly(used)


@pytest.mark.parametrize("how", ["random bytes", "emptied"])
async def test_where_nothing_is_left_of_the_entitlements_nobody_gets_in(
    used: Rig, state: Path, how: str
) -> None:
    for file in (table(state), state / "cache.db", *(state / "bundles").iterdir()):
        spoil(file, how)
    await started(used)
    lost = await used.event(events.CacheRebuilt)
    assert lost.revision is None
    await denies_all(used)
    await used.imported()
    await decides_rightly(used)


async def test_with_another_credential_key_nobody_gets_in(used: Rig, state: Path) -> None:
    good = used.key.read_bytes()
    try:
        used.key.write_bytes(random.Random(8).randbytes(32))
        await started(used)
        assert (await used.event(events.CacheRebuilt)).revision is None
        await denies_all(used)
    finally:
        used.key.write_bytes(good)


@pytest.mark.parametrize("how", ["random bytes", "random beginning", "truncated", "emptied"])
async def test_a_damaged_journal_is_set_aside_and_the_doors_work(
    used: Rig, state: Path, how: str
) -> None:
    (before,) = {entry.stream for entry in used.stored()}
    spoil(state / "journal.db", how)
    figure(f"journal {how}: started in {await started(used):.2f} s")
    await decides_rightly(used)
    restarted = await used.event(events.JournalRestarted)
    assert (state / restarted.kept_as).exists()
    await used.stop_all()
    stored = used.stored()
    assert_sound(stored)
    # A number used twice in one stream would make the cloud drop an event as a duplicate.
    assert {entry.stream for entry in stored} != {before}


@pytest.mark.parametrize("name", ["floor", "lock"])
async def test_a_damaged_small_file_keeps_nobody_out(used: Rig, state: Path, name: str) -> None:
    (state / name).write_bytes(random.Random(3).randbytes(4096))
    await started(used)
    await decides_rightly(used)


# --- The strikes ---------------------------------------------------------------------------------


async def test_a_strike_found_energised_is_put_to_rest_before_any_reader_is_live(
    used: Rig, state: Path
) -> None:
    await used.at_rest()
    board = used.site.devices["relays-a"]
    assert isinstance(board, RelayBoard)
    board.board.request(bytes.fromhex("050000ff00"), time.monotonic_ns())  # write coil 0: on
    board.settle()
    assert used.is_released("front")
    begun_ns = time.monotonic_ns()
    core = await used.start("core")
    await until("at rest", lambda: not used.is_released("front"))
    off = used.seen.of(seen.Strike)[-1]
    await used.ready(core)
    opened = [
        each.at_ns
        for each in used.seen.of(seen.HostOpened)
        if each.device in {"front-reader", "front-keypad", "back-reader"} and each.at_ns > begun_ns
    ]
    figure(f"start to rest: {(off.at_ns - begun_ns) / 1e9:.2f} s")
    assert off.at_ns < min(opened)
    assert (off.at_ns - begun_ns) / 1e9 <= allowed(2.0)


async def test_the_exit_button_works_before_anybody_has_brought_records(
    used: Rig, state: Path
) -> None:
    shutil.rmtree(state)
    core = await used.core()
    await used.at_rest("back")
    edge = await used.release_by("back", used.site.rex("back", 0.15))
    pressed = [each.at_ns for each in used.seen.of(seen.Rex) if each.pressed]
    took_ms = (edge.at_ns - pressed[-1]) / 1e6
    figure(f"REX to strike without records: {took_ms:.0f} ms")
    assert took_ms <= allowed(100.0)
    await denies_all(used)
    assert await core.stop() == 0


async def test_status_and_import_say_what_nobody_would_notice_before_a_member_does(
    used: Rig, state: Path, tmp_path: Path
) -> None:
    shutil.rmtree(state)
    core = await used.core()
    config = ("--config", str(used.config))
    await used.ready(core)
    bare = await used.cli("status", *config, "--json")
    assert bare.status == 1
    assert any("no entitlements" in problem for problem in bare.json["problems"])

    without_back = tmp_path / "without_back.jsonl"
    kept = [record for record in records() if (record["type"], record["id"]) != ("door", "back")]
    without_back.write_text(as_lines(kept))
    imported = await used.cli("import", str(without_back), *config, "--json")
    assert imported.status == 0, imported
    assert any("door back: is in no record" in warning for warning in imported.json["warnings"])
    told = await used.cli("status", *config)
    assert told.status == 1
    assert "PROBLEM       door back: is in no record" in told.out

    assert (await used.cli("import", str(used.records), *config)).status == 0
    assert (await used.cli("status", *config, "--json")).json["problems"] == []
    assert await core.stop() == 0


async def test_records_of_another_site_let_nobody_in(
    used: Rig, state: Path, tmp_path: Path
) -> None:
    config = ("--config", str(used.config))
    elsewhere = tmp_path / "elsewhere.jsonl"
    elsewhere.write_text(as_lines([{**records()[0], "id": "PAR"}, *records()[1:]]))
    assert records()[0]["type"] == "site"
    stopped = await used.cli("import", str(elsewhere), *config)
    assert (stopped.status, stopped.out) == (2, "")
    assert "site\tPAR\tid\trecords of site 'PAR'" in stopped.err
    core = await used.core()
    await used.ready(core)
    running = await used.cli("import", str(elsewhere), *config, "--json")
    assert (running.status, running.json["ok"]) == (2, False)
    await decides_rightly(used)
    assert await core.stop() == 0

    right = used.config.read_text()
    used.config.write_text(right.replace('id = "LON"', 'id = "PAR"'))
    try:
        core = await used.core()
        await used.ready(core)
        told = await used.cli("status", *config)
        assert told.status == 1
        assert "PROBLEM       records of site 'LON': they are refused" in told.out
        await denies_all(used)
        assert await core.stop() == 0
    finally:
        used.config.write_text(right)
    await started(used)
    await decides_rightly(used)


async def test_a_clock_that_is_years_ahead_does_not_become_the_floor(
    used: Rig, state: Path
) -> None:
    # As if the floor had been kept two years ago, and the clock had leapt since then.
    floor = datetime(2024, 1, 1, tzinfo=UTC)
    (state / "floor").unlink(missing_ok=True)
    with StateDir(state) as owned:
        owned.raise_floor(floor)
    core = await used.core()
    await used.ready(core)
    assert await core.stop() == 0
    with StateDir(state) as owned:
        assert owned.floor == floor
    assert "implausibly far ahead" in core.log.read_text()
