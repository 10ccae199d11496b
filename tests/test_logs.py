"""No credential leaves through the logs, whatever it is called and wherever it stands."""

import json
import logging
import subprocess
import sys
from collections.abc import Callable
from typing import Any

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


@pytest.mark.parametrize("secret", SECRETS)
@pytest.mark.parametrize("change", [str.lower, str.upper, str.swapcase, str.title])
def test_hexadecimal_is_masked_in_any_case(secret: str, change: Callable[[str], str]) -> None:
    assert change(secret) not in str(logs.mask(None, "", {"event": f"read {change(secret)}"}))


def nested(leaf: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.recursive(
        leaf,
        lambda inner: (
            st.lists(inner, min_size=1, max_size=3)
            | st.tuples(inner, inner)
            | st.dictionaries(st.sampled_from(["why", "device", "seen"]), inner, min_size=1)
            | st.sampled_from(SECRETS).flatmap(lambda key: inner.map(lambda each: {key: each}))
        ),
        max_leaves=6,
    )


@given(nested(st.sampled_from([*SECRETS, *(each.lower() for each in SECRETS), "offline", 7])))
def test_no_depth_of_containers_hides_a_credential_and_none_becomes_text(value: Any) -> None:
    masked = dict(logs.mask(None, "", {"event": "x", "found": value}))
    text = json.dumps(masked, ensure_ascii=False)
    assert not any(secret in text or secret.lower() in text for secret in SECRETS)
    assert type(masked["found"]) is type(value)


def test_a_field_that_could_hold_a_credential_is_masked_in_a_container_too() -> None:
    value = [{"pin": 12, "device": "relays-a", "why": ["cut", 3]}]
    masked = logs.mask(None, "", {"found": value})["found"]
    assert masked == [{"pin": logs.MASK, "device": "relays-a", "why": ["cut", 3]}]


def test_bytes_and_objects_are_masked_as_their_text_would_be() -> None:
    fields = {
        "frame": bytes.fromhex("04A1B2C3D4E5F6"),
        "text": b"04A1B2C3D4E5F6",
        "error": ValueError("04A1B2C3D4E5F6"),
        "seen": {"04A1B2C3D4E5F6"},
    }
    masked = json.dumps(dict(logs.mask(None, "", fields)))
    assert "04A1B2C3D4E5F6" not in masked
    assert "xa1" not in masked


def test_a_circle_ends() -> None:
    circle: list[Any] = ["04A1B2C3"]
    circle.append(circle)
    assert "04A1B2C3" not in str(logs.mask(None, "", {"found": circle}))


def test_line_numbers_of_a_traceback_stay_and_credentials_in_it_do_not() -> None:
    trace = (
        'Traceback (most recent call last):\n  File "/x/modbus_relay.py", line 1017, in run\n'
        "ValueError: card 04a1b2c3d4e5f6, line 2468"
    )
    masked = str(logs.mask(None, "", {"exception": trace})["exception"])
    assert "line 1017, in run" in masked
    assert "04a1b2c3d4e5f6" not in masked
    assert "2468" not in masked


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
        "owner": "in use by door-gateway core, pid 31337",
        "uid": 1000,
        "counts": {"holder": 2000, "door": 5},
        "ports": ["/dev/ttyUSB0", 502],
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


@pytest.mark.parametrize(
    "text",
    [
        "[Errno 111] Connect call failed ('127.0.0.1', 18899)",
        "[Errno 111] Connect call failed ('::1', 18899, 0, 0)",
        "localhost:18899: nobody listens there",
        "broker.example.org:8883: refused",
        "mqtts://broker:8883 is away",
        "[::1]:1883: refused",
        "port 8883",
        "[Errno 10061] refused",
        "no answer in 1500 ms",
        "in force since 2026-12-01",
    ],
)
def test_addresses_errors_and_figures_stay_readable(text: str) -> None:
    assert logs.mask(None, "", {"why": text}) == {"why": text}


@pytest.mark.parametrize(
    "text", ["('04A1B2C3', 2468)", "('front', 2468)", "keypad:2468", "('', 2468)"]
)
def test_what_only_looks_like_a_port_is_masked(text: str) -> None:
    assert "2468" not in str(logs.mask(None, "", {"why": text}))


@pytest.mark.parametrize(
    "text",
    ["04A1B2C3.x:80", "x 04A1B2C3D4E5F6::1:80", "('04A1B2C3D4E5F6.lan', 80)", "x://04A1B2C3:80"],
)
def test_a_card_number_in_a_hosts_place_is_masked(text: str) -> None:
    masked = str(logs.mask(None, "", {"why": text}))
    assert "04A1B2C3" not in masked
    assert "80" in masked


@pytest.mark.parametrize("char", ["\x1b", "\x9b", "\u202e", "\u2066", "\u200f", "\U000e0041"])
def test_nothing_in_a_json_line_is_obeyed_by_a_terminal(char: str) -> None:
    text = f"a{char}b zoë 東京"
    line = logs._json_line(None, "info", {"event": text})
    assert char not in line
    assert "zoë 東京" in line
    assert json.loads(line)["event"] == text


def test_lines_for_the_system_journal_carry_their_priority() -> None:
    script = (
        "import logging, os, structlog\n"
        "from gateway import logs\n"
        "found = os.fstat(2)\n"
        "os.environ['JOURNAL_STREAM'] = f'{found.st_dev}:{found.st_ino}'\n"
        "logs.configure()\n"
        "structlog.get_logger().info('one')\n"
        "structlog.get_logger().error('two')\n"
        "logging.getLogger('nfc').warning('three')\n"
        "logging.getLogger('pymodbus.logging').error('Repeating....')\n"
        "os.environ['JOURNAL_STREAM'] = '1:1'\n"
        "logs.configure()\n"
        "logging.getLogger('nfc').warning('four')\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    lines = ran.stderr.splitlines()
    assert [line.partition("{")[0] for line in lines] == ["<6>", "<3>", "<4>", ""]
    assert "Repeating" not in ran.stderr
