"""What the demo prints, and what it leaves for others on the machine to read."""

import os
import stat
import sys
import tomllib
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from demo import __main__ as stage_module
from demo import phones
from demo.__main__ import Stage
from demo.people import people, records
from demo.script import granted
from gateway.config.site import check
from gateway.domain import events
from gateway.domain.record_faults import parse_records
from gateway.drivers import REGISTRY
from hwsim import observations as seen
from tests.domain.sites import lines

AT = datetime(2026, 6, 1, 9, tzinfo=UTC)


class OneTap:
    """A simulator and a core that see one tap: the strike moves only if it was at rest."""

    def __init__(self, answer: events.AccessDecided) -> None:
        self.answer = answer
        self.stage: Stage | None = None

    async def present(self, *_: object, **__: object) -> None:
        assert self.stage is not None
        if "street" not in self.stage.released:
            self.stage.edges += [
                seen.CardSent(1_000_000, "street-reader", self.answer.holder or ""),
                seen.Strike(4_500_000, "street", on=True),
            ]
        self.stage.decided.put_nowait(self.answer)

    async def push(self, _door: str) -> None:
        pass


def stage_with(answer: events.AccessDecided) -> Stage:
    simulator: Any = OneTap(answer)
    nothing: Any = SimpleNamespace()
    simulator.stage = Stage(simulator, nothing, nothing, nothing, ZoneInfo("Etc/GMT"))
    stage: Stage = simulator.stage
    return stage


@pytest.fixture
def answer() -> events.AccessDecided:
    sam = next(person for person in people(AT) if person.name == "Sam")
    members: dict[str, Any] = dict.fromkeys(events.AccessDecided.__struct_fields__, "")
    members |= {"at": AT, "door": "street", "outcome": "grant", "reason": "group"}
    members |= {"holder": sam.id, "kinds": ("uid",), "via": None}
    return events.AccessDecided(**members)


@pytest.mark.parametrize(("already", "says"), [(False, "3.5 ms"), (True, "still open")])
async def test_a_grant_has_its_time_or_says_that_the_door_is_still_open(
    answer: events.AccessDecided, capsys: pytest.CaptureFixture[str], already: bool, says: str
) -> None:
    stage = stage_with(answer)
    if already:
        stage.released.add("street")
    await stage.tap(granted("Sam", "street"))
    assert says in capsys.readouterr().out
    assert stage.tally.latencies_ms == ([] if already else [3.5])


def test_a_device_that_was_away_and_is_back_is_a_line_and_one_that_begins_is_none(
    answer: events.AccessDecided,
) -> None:
    stage = stage_with(answer)

    def event(kind: Any) -> Any:
        members = dict.fromkeys(kind.__struct_fields__, "") | {"at": AT, "device": "street-reader"}
        return kind(**members)

    up, down = event(events.DeviceUp), event(events.DeviceDown)
    told = [stage.told(each) for each in (up, down, up, up)]
    assert told == [None, "street-reader: offline", "street-reader: back", None]


@pytest.fixture
def umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


def test_nothing_in_the_demos_directory_is_for_others(
    umask: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    modes = []

    async def play(*, stay: bool, run_dir: Path) -> int:
        (run_dir / "records.jsonl").write_text("{}\n")
        modes.append(stat.S_IMODE((run_dir / "records.jsonl").stat().st_mode))
        return 0

    monkeypatch.setattr(stage_module, "demo", play)
    other = ("another one", lambda beside: play(stay=False, run_dir=beside))
    monkeypatch.setattr(stage_module, "_SITES", {"other": other})
    monkeypatch.setattr(sys, "argv", ["demo"])
    assert stage_module.main() == 0
    assert modes == [0o600, 0o600]


def test_a_machine_without_a_d_bus_plays_the_phones_that_need_none() -> None:
    plan = tomllib.loads(phones.SITE.read_text(encoding="utf-8"))
    phones.without_bluetooth(plan)
    assert list(plan["doors"]) == ["street", "club"]
    assert plan["doors"]["street"]["readers"] == [{"device": "street-scanner", "side": "in"}]
    assert {each["driver"] for each in plan["devices"].values()} == {
        "modbus_relay", "barcode_scanner", "pn532",
    }  # fmt: skip
    assert set(check(plan, REGISTRY, "site.toml").doors) == {"street", "club"}


def test_the_demos_records_have_no_fault() -> None:
    assert parse_records(lines(records(AT, "Etc/GMT"))).records
