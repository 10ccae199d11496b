"""The live view, drawn by the real Textual without a terminal."""

import asyncio
from collections import deque

import pytest
from textual.widgets import DataTable, Static

from gateway.fleet.model import Fleet
from gateway.fleet.view import FleetView, Message
from tests.fleet.test_model import DOOR, HEALTH, NOW, batch, tell


@pytest.fixture
def view() -> FleetView:
    fleet, inbox = Fleet(), deque[Message]()
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
        view._inbox.append(("acs/v1/S05/gw/status", b'{"v":1,"online":false}', NOW))
        view.show()
        await pilot.pause()
        assert str(table.get_row_at(1)[0]) == "offline"
        assert view._chosen() == chosen
        await asyncio.sleep(0)
        await pilot.press("q")
