"""What `journal tail` and its neighbours take, and how an event is put on one line."""

from datetime import UTC, datetime

import pytest

from gateway.cli import main
from gateway.cli.journal import line_of
from gateway.domain import events


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["journal", "tail", "-n", "-1"], "'-1' is no number of lines from 0 to 100000"),
        (["journal", "tail", "-n", "many"], "'many' is no number of lines"),
        (["door", "preview", "front", "--days", "100000"], "'100000' is no number of days from 1"),
        (["door", "preview", "front", "--days", "0"], "'0' is no number of days from 1 to 366"),
    ],
)
def test_a_number_out_of_bounds_is_refused_with_its_bounds(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


def test_a_checkpoint_is_short_on_its_line() -> None:
    at = datetime(2026, 3, 2, 9, tzinfo=UTC)
    event = events.Checkpoint(at=at, trust=2, message="QUJD" * 100)
    line = line_of(256, events.encode(event))
    assert line == "    256 2026-03-02 09:00:00 checkpoint -              checkpoint signed"
