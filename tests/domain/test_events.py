"""The event codes: one list, told in docs/door.md, each brought about by a test."""

import re
from pathlib import Path
from typing import get_args

import pytest

from gateway.domain import events

DOCUMENT = (Path(__file__).parents[2] / "docs" / "door.md").read_text(encoding="utf-8")
CODES = {str(event.__struct_config__.tag) for event in get_args(events.Event)}
ROWS = re.findall(
    r"^\| `(\w+)` \| (.+?) \| (.+?) \|$", DOCUMENT.partition("## Events")[2], re.MULTILINE
)


def test_the_document_tells_every_event_code_once_and_no_other() -> None:
    told = [code for code, _, _ in ROWS]
    assert len(told) == len(set(told))
    assert set(told) == CODES


@pytest.mark.parametrize(("code", "meaning", "topic"), ROWS)
def test_a_code_has_a_meaning_and_an_onvif_topic_or_a_dash(
    code: str, meaning: str, topic: str
) -> None:
    assert len(meaning) > 10, code
    assert topic == "-" or re.match(r"`tns1:\w+(/\w+)+`", topic), code


def test_every_struct_of_an_event_is_in_the_list() -> None:
    structs = {
        value
        for value in vars(events).values()
        if isinstance(value, type)
        and issubclass(value, events._Event)
        and value is not events._Event
    }
    assert structs - {events._Event} == set(get_args(events.Event))


def test_nothing_outranks_duress_and_break_glass() -> None:
    ranks = {event.priority for event in get_args(events.Event)}
    assert events.Duress.priority == events.BreakGlass.priority == max(ranks)
