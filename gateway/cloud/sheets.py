"""CSV files that people keep, read strictly: every fault with its file, line and column."""

import csv
import io
import re
from collections.abc import Collection, Iterator, Mapping
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import NamedTuple
from zoneinfo import ZoneInfo

from gateway.domain.instants import format_instant, parse_instant
from gateway.domain.visible import visible
from gateway.errors import GatewayError

FILE_BYTES_MAX = 64 * 1024 * 1024
"""A million rows of credentials. What is larger isn't read."""

FAULTS_MAX = 200
"""A column of the wrong form is wrong in every row: so many are enough to see it."""

SHOWN_CHARACTERS_MAX = 40
"""Of a cell that is wrong."""

SECRET_FILES = ("credentials.csv",)
"""A cell that slipped into the wrong column there may be a PIN: none is repeated."""

_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_FROM, _BEYOND = "1970", "9999"
"""The first year of records, and the one in which the day after may be none any more."""
_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_LOCAL = re.compile(r"([0-9]{4}-[0-9]{2}-[0-9]{2})[ T]([0-9]{2}:[0-9]{2})")


class Place(NamedTuple):
    """Where something stands. A `line` of 0 is the file as a whole; so is an empty `column`."""

    file: str
    line: int = 0
    column: str = ""


class FolderFault(NamedTuple):
    """One thing wrong in a folder, where, and what to do."""

    place: Place
    what: str

    def __str__(self) -> str:
        file, line, column = self.place
        where = f", line {line}" if line else ""
        return f"{file}{where}{f', {column}' if column else ''}: {self.what}"


class FolderRefused(GatewayError):
    """A folder can't be built: `faults` names every one, up to `FAULTS_MAX`."""

    def __init__(self, faults: Collection[FolderFault]) -> None:
        self.faults = tuple(faults)
        shown = [str(fault) for fault in self.faults[:FAULTS_MAX]]
        if len(self.faults) > FAULTS_MAX:
            shown.append(f"and {len(self.faults) - FAULTS_MAX} more")
        super().__init__("\n".join(shown))


class Sheet(NamedTuple):
    """What a file must look like."""

    file: str
    must: tuple[str, ...]
    """Columns that are there, with something in every row."""
    may: tuple[str, ...] = ()
    """Columns that may be left out, and cells that may be empty."""
    needed: bool = True
    """The file must be there."""


class Row:
    """One line of a file. What it gives is None where the cell is empty or isn't right."""

    def __init__(
        self, file: str, line: int, cells: Mapping[str, str], faults: list[FolderFault]
    ) -> None:
        self._file = file
        self._line = line
        self._cells = cells
        self._faults = faults

    def place(self, column: str = "") -> Place:
        """Where a cell stands."""
        return Place(self._file, self._line, column)

    def wrong(self, column: str, what: str) -> None:
        """Note a fault of a cell."""
        self._faults.append(FolderFault(self.place(column), what))

    def there(self, column: str) -> str:
        """Say what stands there, for whoever looks for it; nothing where it may be a secret."""
        if self._file in SECRET_FILES:
            return ""
        text = self._cells.get(column, "")
        cut = "…" if len(text) > SHOWN_CHARACTERS_MAX else ""
        return f"; there is '{visible(text[:SHOWN_CHARACTERS_MAX])}{cut}'"

    def text(self, column: str) -> str | None:
        """What stands there."""
        return self._cells.get(column) or None

    def word(self, column: str, known: Mapping[str, str]) -> str | None:
        """What one of the `known` words, in any case, stands for."""
        text = self.text(column)
        if text is None:
            return None
        found = known.get(text.casefold())
        if found is None:
            self.wrong(column, f"is none of {', '.join(dict.fromkeys(known))}{self.there(column)}")
        return found

    def flag(self, column: str) -> bool | None:
        """`yes` or `no`."""
        found = self.word(column, {"yes": "yes", "no": "no"})
        return None if found is None else found == "yes"

    def number(self, column: str) -> int | None:
        """A whole number."""
        text = self.text(column)
        if text is None:
            return None
        if not re.fullmatch(r"[0-9]{1,9}", text):
            self.wrong(column, f"is no whole number{self.there(column)}")
            return None
        return int(text)

    def names(self, column: str) -> list[str]:
        """Ids with `;` between them, each once."""
        text = self.text(column)
        if text is None:
            return []
        found = [each.strip() for each in text.split(";")]
        if "" in found:
            self.wrong(column, "has nothing between two semicolons, or after the last: remove it")
        twice = sorted({each for each in found if found.count(each) > 1})
        if twice:
            self.wrong(column, f"names {', '.join(twice)} twice")
        return found

    def day(self, column: str) -> date | None:
        """A date, YYYY-MM-DD."""
        text = self.text(column)
        if text is None:
            return None
        try:
            if _DAY.fullmatch(text) and _FROM <= text < _BEYOND:
                return date.fromisoformat(text)
        except ValueError:
            pass
        self.wrong(
            column,
            "is no date such as 2026-03-29 (year, month, day); for no end leave it empty"
            f"{self.there(column)}",
        )
        return None

    def instant(self, column: str, zone: ZoneInfo) -> str | None:
        """An instant: with an offset, or by the site's wall clock where that says which."""
        text = self.text(column)
        if text is None:
            return None
        local = _LOCAL.fullmatch(text)
        try:
            if local is None:
                return format_instant(parse_instant(text))
            return self._by_wall_clock(column, f"{local[1]}T{local[2]}", zone)
        except (ValueError, OverflowError):
            self.wrong(
                column,
                "is no instant such as 2026-03-29 09:30 or 2026-03-29T09:30:00+01:00"
                f"{self.there(column)}",
            )
            return None

    def _by_wall_clock(self, column: str, text: str, zone: ZoneInfo) -> str | None:
        wall = datetime.fromisoformat(text)
        first, second = (wall.replace(tzinfo=zone, fold=fold) for fold in (0, 1))
        if first.astimezone(UTC) == second.astimezone(UTC):
            return format_instant(first.astimezone(UTC))
        if first.astimezone(UTC).astimezone(zone).replace(tzinfo=None) != wall:
            self.wrong(column, "doesn't exist: the clock goes forward over it that night")
            return None
        offsets = " or ".join(f"{each.isoformat()}" for each in (first, second))
        self.wrong(column, f"happens twice, as the clock goes back that night: write {offsets}")
        return None


def start_of(day: date, zone: ZoneInfo) -> str:
    """The first instant of a day by the site's wall clock."""
    midnight = datetime(day.year, day.month, day.day, tzinfo=zone)
    return format_instant(midnight.astimezone(UTC))


def day_after(day: date) -> date:
    """The next day."""
    return day + timedelta(days=1)


def read_sheet(folder: Path, sheet: Sheet, faults: list[FolderFault]) -> Iterator[Row]:
    """The rows of a file, in order; what is wrong with it as a file goes to `faults`."""
    text = _text(folder / sheet.file, sheet, faults)
    if text is None:
        return
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = [cell.strip() for cell in next(reader, [])]
        if not _check_header(header, sheet, faults):
            return
        for cells in reader:
            if any(cell.strip() for cell in cells):
                row = _row(sheet, reader.line_num, header, cells, faults)
                if row is not None:
                    yield row
    except csv.Error as error:
        faults.append(FolderFault(Place(sheet.file, reader.line_num), f"is no CSV: {error}"))


def _text(path: Path, sheet: Sheet, faults: list[FolderFault]) -> str | None:
    def wrong(what: str) -> None:
        faults.append(FolderFault(Place(sheet.file), what))

    try:
        with path.open("rb") as file:
            data = file.read(FILE_BYTES_MAX + 1)
    except FileNotFoundError:
        if sheet.needed:
            wrong("is missing: `door-gateway bundle template` writes one to begin with")
        return None
    except OSError as error:
        wrong(f"can't be read: {error.strerror}")
        return None
    if len(data) > FILE_BYTES_MAX:
        wrong(f"is larger than {FILE_BYTES_MAX} bytes")
        return None
    try:
        return data.decode("utf-8-sig")  # spreadsheets put a mark in front
    except UnicodeDecodeError:
        wrong("is not UTF-8: save it as `CSV UTF-8`")
        return None


def _check_header(header: list[str], sheet: Sheet, faults: list[FolderFault]) -> bool:
    known = (*sheet.must, *sheet.may)
    wrong = [
        (name, f"unknown column; known here are: {', '.join(known)}")
        for name in dict.fromkeys(header)
        if name not in known
    ]
    wrong += [(name, "column given twice") for name in known if header.count(name) > 1]
    wrong += [(name, "column missing") for name in sheet.must if name not in header]
    if len(header) == 1 and ";" in header[0]:
        wrong = [("", "is separated by semicolons: save it with commas")]
    faults += [
        FolderFault(Place(sheet.file, 1, _UNPRINTABLE.sub("?", name)), what) for name, what in wrong
    ]
    return not wrong


def _row(
    sheet: Sheet, line: int, header: list[str], cells: list[str], faults: list[FolderFault]
) -> Row | None:
    def wrong(column: str, what: str) -> None:
        faults.append(FolderFault(Place(sheet.file, line, column), what))

    if len(cells) != len(header):
        wrong("", f"has {len(cells)} cells, the header {len(header)}: quote cells that have commas")
        return None
    found = {name: cell.strip() for name, cell in zip(header, cells, strict=True)}
    before = len(faults)
    for name, cell in found.items():
        if _UNPRINTABLE.search(cell):
            wrong(name, "has a character that can't be printed")
        elif not cell and name in sheet.must:
            wrong(name, "is empty")
    return Row(sheet.file, line, found, faults) if len(faults) == before else None
