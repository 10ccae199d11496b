"""No credential leaves through the logs, whatever it is called and wherever it stands."""

import json
import logging

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from gateway import logs

SECRETS = [
    "04A1B2C3D4E5F6",
    "04A1B2C3",
    "04A1B2C3D4E5F6A1B2C3",
    "H10301:12:34567",
    "H10302:-:34567",
    "F00001:A1B2C3D4",
    "04" + "AB" * 64,
    "2468",
    "13579024",
]


@pytest.mark.parametrize("secret", SECRETS)
@pytest.mark.parametrize("text", ["{}", "read {} twice", "({})", "'{}'", "uid={}", "pin:{}"])
def test_a_text_in_the_shape_of_a_credential_is_masked(secret: str, text: str) -> None:
    fields = {"event": text.format(secret), "nested": {"list": [text.format(secret)]}}
    assert secret not in json.dumps(logs.mask(None, "", fields))


@pytest.mark.parametrize("name", ["value", "pin", "uid", "card", "secret", "credential_key"])
def test_a_field_that_could_hold_a_credential_is_masked_whatever_it_holds(name: str) -> None:
    assert logs.mask(None, "", {name: "Q-anything"})[name] == logs.MASK


@given(st.sampled_from(SECRETS), st.text("abc ,;()'\"=\n", max_size=5), st.text("abc ,;\n"))
def test_what_stands_around_a_credential_does_not_hide_it(
    secret: str, before: str, after: str
) -> None:
    if before[-1:].isalnum() or after[:1].isalnum():
        return  # then it is part of a longer word, which is no credential
    assert secret not in str(logs.mask(None, "", {"event": f"{before}{secret}{after}"})["event"])


def test_what_an_engineer_needs_at_night_stays_readable() -> None:
    fields = {
        "event": "offline",
        "device": "relays-a",
        "why": "relays-a: no answer from 192.168.70.10:5020 in 0.5 s",
        "exit_code": 2,
        "seq": 123456,
    }
    assert logs.mask(None, "", dict(fields)) == fields


def test_libraries_are_masked_as_well_and_only_heard_when_something_is_wrong(
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = logging.getLogger().handlers[:], logging.getLogger().level
    try:
        logs.configure(console=False)
        logging.getLogger("nfc").info("sensed 04A1B2C3D4E5F6")
        logging.getLogger("nfc").warning("lost 04A1B2C3D4E5F6")
        structlog.get_logger().info("tapped", why="04A1B2C3D4E5F6")
        lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    finally:
        logging.getLogger().handlers[:], level = before
        logging.getLogger().setLevel(level)
        structlog.reset_defaults()
    assert [(line["event"], line["level"]) for line in lines] == [
        (f"lost {logs.MASK}", "warning"),
        ("tapped", "info"),
    ]
    assert "04A1B2C3D4E5F6" not in json.dumps(lines)
