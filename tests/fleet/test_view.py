"""The live view, drawn by the real Textual without a terminal."""

import asyncio
import json

import pytest
from textual.widgets import DataTable, Static

from gateway.fleet.inbox import Inbox
from gateway.fleet.model import Fleet
from gateway.fleet.view import FleetView
from tests.fleet.test_model import DOOR, HEALTH, NOW, batch, tell


@pytest.fixture
def view() -> FleetView:
    fleet, inbox = Fleet(), Inbox()
    for number in range(30):
        tell(fleet, "status", {"v": 1, "online": True}, site=f"S{number:02}")
        tell(fleet, "health", HEALTH, site=f"S{number:02}")
        tell(fleet, "door/front/state", DOOR, site=f"S{number:02}")
    tell(fleet, "door/front/state", DOOR | {"alarms": ["forced_open"]}, site="S17")
    tell(fleet, "event", batch((1, "forced_open")), site="S17")
    return FleetView(fleet, inbox, lambda: NOW)


async def test_the_worst_site_is_on_top_with_its_doors_and_the_last_alarms(view: FleetView) -> None:
    async with view.run_test(size=(140, 40)) as pilot:
        table = view.query_one("#sites", DataTable)
        assert table.row_count == 30
        assert [str(cell) for cell in table.get_row_at(0)][:4] == ["alarm", "S17", "gw", "1"]
        await pilot.pause()
        doors, alarms = (
            str(view.query_one(name, Static).content) for name in ("#doors", "#alarms")
        )
        assert "front              ALARM forced open; controlled, locked, closed" in doors
        assert "S17 forced open  front" in alarms
        assert view.sub_title.startswith("30 gateways, 1 to look at")


async def test_what_comes_in_is_drawn_and_the_cursor_stays_with_its_site(view: FleetView) -> None:
    async with view.run_test(size=(140, 40)) as pilot:
        table = view.query_one("#sites", DataTable)
        await pilot.press("down", "down")
        chosen = view._chosen()
        view._inbox.put("acs/v1/S05/gw/status", b'{"v":1,"online":false}', NOW)
        view.show()
        await pilot.pause()
        assert str(table.get_row_at(1)[0]) == "offline"
        assert view._chosen() == chosen
        await asyncio.sleep(0)
        await pilot.press("q")


EVIL = "\x1b]0;PWNED\x07\x1b[2J\x1b]52;c;cm0=\x07\x9b31m\u202eevil\u2066\n\r"
"""OSC (a title, the clipboard), CSI in both spellings, bidirectional controls, ends of lines."""


async def test_nothing_that_a_gateway_says_reaches_the_terminal_as_control(view: FleetView) -> None:
    evil_topic = "acs/v1/LON%1B%5D0;PWNED%07/g%C2%9B2J"
    door = DOOR | {"mode": EVIL, "contact": EVIL, "alarms": [EVIL], "readers_online": {EVIL: False}}
    health = HEALTH | {"version": EVIL, "revision": EVIL, "problems": [EVIL]}
    event = {"code": "forced_open", "at": "2026-03-02T08:59:50Z", "door": EVIL}
    batch = {"stream": EVIL, "events": [{"seq": 1, "event": event}]}
    for what, body in (
        ("status", {"online": True}),
        ("health", health),
        ("door/%1Bc/state", door),
        ("event", batch),
    ):
        view._inbox.put(f"{evil_topic}/{what}", json.dumps(body).encode(), NOW)
    view.connection = f"broker is away: {EVIL}"
    async with view.run_test(size=(200, 50)) as pilot:
        await pilot.pause()
        table = view.query_one("#sites", DataTable)
        assert str(table.get_row_at(0)[1]).startswith("LON\\u001b"), "the alarm is on top"
        shown = [view.sub_title]
        shown += [str(cell) for row in range(2) for cell in table.get_row_at(row)]
        shown += [str(view.query_one(name, Static).content) for name in ("#doors", "#alarms")]
        drawn = [
            segment.text for line in view.screen._compositor.render_strips() for segment in line
        ]
    assert "".join(shown).count("PWNED") > 10
    for line in [*"\n".join(shown).split("\n"), *drawn]:
        assert line.isprintable(), ascii(line)


async def test_a_broker_that_is_away_is_said_in_red_and_a_session_takes_that_away(
    view: FleetView,
) -> None:
    async with view.run_test(size=(140, 40)) as pilot:
        lost = view.query_one("#lost", Static)
        for line, shown in (
            ("can't reach mq:8883: Connection refused", True),
            ("connected to mq:8883", False),
            ("mq:8883 is away: Unspecified error", True),
        ):
            view.connection = line
            view.show()
            await pilot.pause()
            assert lost.display is shown
            if shown:
                assert line in str(lost.content)
