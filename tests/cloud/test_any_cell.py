"""Whatever stands in a cell, a folder is built or refused, and never anything else."""

from contextlib import suppress
from datetime import UTC, date, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.cloud.folder import Event, build
from gateway.cloud.sheets import FolderRefused
from gateway.cloud.template import starting_folder, write_folder

AT = datetime(2027, 1, 4, tzinfo=UTC)
FILES = starting_folder("LON", "Europe/London")

hostile = st.one_of(
    st.sampled_from(
        ("", " ", ",", ";", ";;", '"', "a;a", "24/7", "timebound", "-", "../x", "\0", "\n", "\r",
         "9" * 400, "2027-01-04", "2027-13-40", "0001-01-01", "9999-12-31", "9999-12-31 23:59",
         "0001-01-01 00:00", "9999-12-31T23:59:59-14:00", "24:00", "holiday:public", "sun-mon",
         "LON | A | B | C", "settings.csv", "room.ics", "١٢", "\ud800".encode("utf-16", "surrogatepass").decode("latin-1"))  # noqa: E501
    ),
    st.text(max_size=12).filter(lambda text: text.isprintable()),
)  # fmt: skip


@given(st.data())
@settings(max_examples=60)
def test_a_cell_with_anything_in_it_is_built_or_refused(data: st.DataObject) -> None:
    files = dict(FILES)
    for _ in range(data.draw(st.integers(1, 3))):
        name = data.draw(st.sampled_from(sorted(files)))
        rows = [line.split(",") for line in files[name].splitlines()]
        row = data.draw(st.sampled_from(rows))
        row[data.draw(st.integers(0, len(row) - 1))] = data.draw(hostile)
        files[name] = "\n".join(map(",".join, rows))
    with TemporaryDirectory() as folder:
        write_folder(Path(folder), files)
        with suppress(FolderRefused):
            build(Path(folder), AT, _no_events)


def _no_events(path: Path, first: date, until: date) -> list[Event]:
    path.read_bytes()
    return []
