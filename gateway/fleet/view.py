"""The live view of many sites, in a terminal."""

from collections.abc import Callable
from datetime import datetime
from typing import ClassVar

from rich.text import Text
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal
from textual.widgets import DataTable, Footer, Header, Static

from gateway.domain.visible import visible
from gateway.fleet.inbox import Inbox
from gateway.fleet.model import CONNECTED, Fleet, Gateway

REFRESH_S = 1.0
ROWS_MAX = 500
"""The worst of them: whoever has more sites looks for one with `--site`."""

_TEXT_CHARACTERS_MAX = 200
"""Of any text that others wrote: a line of a wide screen."""

_STYLES = {
    "alarm": "bold white on red",
    "offline": "bold red",
    "silent": "red",
    "problem": "yellow",
    "waiting": "dim",
    "well": "green",
}
_COLUMNS = (
    "", "site", "gateway", "doors", "revision", "parity", "backlog", "lag", "p50", "p99", "clock",
    "since",
)  # fmt: skip


class FleetView(App[None]):
    """A row a gateway, the worst first; below it the chosen one's doors and the last alarms."""

    TITLE = "door-gateway fleet"
    ENABLE_COMMAND_PALETTE = False
    CSS = """
    #lost { height: auto; padding: 0 1; background: $error; color: $text; text-style: bold; }
    #sites { height: 1fr; }
    #below { height: 14; border-top: solid $accent; }
    #doors { width: 1fr; padding: 0 1; }
    #alarms { width: 1fr; padding: 0 1; border-left: solid $accent; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [Binding("q", "quit", "Quit")]

    def __init__(self, fleet: Fleet, inbox: Inbox, now: Callable[[], datetime]) -> None:
        """`inbox` is where another thread puts messages; they are looked at when it is drawn."""
        super().__init__()
        self._fleet = fleet
        self._inbox = inbox
        self._now = now
        self._lost = Static(id="lost")
        self.connection = "not connected yet"
        """What the broker's side last said: in the header, and in red while nothing comes."""

    def compose(self) -> ComposeResult:
        """See `App.compose`."""
        yield Header(show_clock=False)
        yield self._lost
        yield DataTable[Text](id="sites", cursor_type="row", zebra_stripes=True)
        with Horizontal(id="below"):
            yield Static(id="doors")
            yield Static(id="alarms")
        yield Footer()

    def on_mount(self) -> None:
        """Begin to look every second."""
        self._table.add_columns(*_COLUMNS)
        self.set_interval(REFRESH_S, self.show)
        self.show()

    def on_data_table_row_highlighted(self) -> None:
        """Show the doors of the row under the cursor."""
        self._show_doors()

    @property
    def _table(self) -> DataTable[Text]:
        return self.query_one("#sites", DataTable)

    def show(self) -> None:
        """Draw what is known now."""
        for message in self._inbox.take():
            self._fleet.take(*message)
        now, table = self._now(), self._table
        chosen = self._chosen()
        rows = self._fleet.sorted(now)
        verdicts = [each.verdict(now) for each in rows]
        bad = sum(verdict != "well" for verdict in verdicts)
        self.sub_title = f"{len(rows)} gateways, {bad} to look at · {_shown(self.connection)}"
        self._lost.display = not self.connection.startswith(CONNECTED)
        self._lost.update(Text(f"{_shown(self.connection)}. What stands below is old."))
        table.clear()
        for each, verdict in zip(rows[:ROWS_MAX], verdicts, strict=False):
            table.add_row(*_row(each, verdict), key=f"{each.site}\0{each.gateway}")
        if chosen is not None:
            keys = [(each.site, each.gateway) for each in rows[:ROWS_MAX]]
            if chosen in keys:
                table.move_cursor(row=keys.index(chosen))
        self._show_doors()
        alarms = [
            f"{alarm.at:%H:%M:%S} {_shown(alarm.site)} {_words(alarm.code)}  {_shown(alarm.about)}"
            for alarm in list(self._fleet.recent)[:-13:-1]
        ]
        self.query_one("#alarms", Static).update(Text("\n".join(["last alarms", *alarms])))

    def _chosen(self) -> tuple[str, str] | None:
        table = self._table
        if not table.is_valid_row_index(table.cursor_row):
            return None
        key = table.coordinate_to_cell_key(table.cursor_coordinate).row_key.value or ""
        site, _, gateway = key.partition("\0")
        return site, gateway

    def _show_doors(self) -> None:
        chosen = self._chosen()
        known = self._fleet.gateways.get(chosen) if chosen else None
        lines = [] if known is None else _doors(known)
        self.query_one("#doors", Static).update(Text("\n".join(lines)))


def _row(each: Gateway, verdict: str) -> list[Text]:
    ms = ["-" if value is None else f"{value:.0f} ms" for value in (each.p50_ms, each.p99_ms)]
    return [
        Text(verdict, style=_STYLES[verdict]),
        Text(_shown(each.site)),
        Text(_shown(each.gateway)),
        Text(str(len(each.doors))),
        Text(_shown(each.revision or "-", 12)),
        Text(each.parity or "-", style="red" if each.parity == "differs" else ""),
        Text("-" if each.backlog is None else f"{each.backlog:,}"),
        Text("-" if each.lag_s is None else f"{each.lag_s:.0f} s"),
        *(Text(value) for value in ms),
        Text("-" if each.trust is None else f"T{each.trust}"),
        Text("-" if each.since is None else f"{each.since:%d %b %H:%M}"),
    ]


def _doors(known: Gateway) -> list[str]:
    version = _shown(known.version or "")
    lines = [f"{_shown(known.site)} {_shown(known.gateway)}  {version}"]
    for name, door in sorted(known.doors.items()):
        lock = {True: "locked", False: "released", None: "lock unknown"}[door.locked]
        alarm = f"ALARM {', '.join(map(_words, door.alarms))}; " if door.alarms else ""
        away = [_shown(name) for name, there in door.readers_online.items() if not there]
        lines.append(
            f"  {_shown(name):<18} {alarm}{_shown(door.mode)}, {lock}, {_shown(door.contact)}"
            + (f"  readers away: {', '.join(away)}" if away else "")
        )
    return [*lines, *(f"  PROBLEM {_shown(problem)}" for problem in known.problems)]


def _words(code: str) -> str:
    return _shown(code).replace("_", " ")


def _shown(text: str, characters_max: int = _TEXT_CHARACTERS_MAX) -> str:
    """Return what a gateway or a broker said as it may go to the terminal."""
    return visible(text[:characters_max])
