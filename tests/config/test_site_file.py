"""A site's file: the example is right, and every kind of mistake is named where it is."""

import copy
import os
import tomllib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config.site import FILE_BYTES_MAX, SiteConfig, _host_names, check, load
from gateway.drivers import REGISTRY
from gateway.errors import ConfigError

EXAMPLE = Path(__file__).parents[2] / "config" / "site.toml"
RAW: dict[str, Any] = tomllib.loads(EXAMPLE.read_text(encoding="utf-8"))


GLASS = {"secrets": ["/run/w"], "doors": ["street"], "window_h": 8, "quorum": 1}


def faults(raw: dict[str, Any]) -> list[tuple[str, str]]:
    try:
        check(raw, REGISTRY, "site.toml")
    except ConfigError as error:
        return [(fault.where, fault.what) for fault in error.faults]
    return []


def changed(path: str, value: Any) -> dict[str, Any]:
    """The example with one member set; `...` takes it away."""
    raw = copy.deepcopy(RAW)
    table: Any = raw
    *tables, last = path.split("/")
    for name in tables:
        table = table[int(name)] if name.isdigit() else table[name]
    if value is ...:
        del table[last]
    else:
        table[last] = value
    return raw


def test_the_documented_example_has_no_fault_and_no_warning() -> None:
    site = load(EXAMPLE, REGISTRY)
    assert isinstance(site, SiteConfig)
    assert not site.warnings
    assert set(site.doors) == {"street", "lounge", "meeting", "suite", "comms"}


@pytest.mark.parametrize(
    ("path", "value", "where", "says"),
    [
        ("version", 2, "version", "this release reads 1"),
        ("version", ..., "version", "is missing"),
        ("sites", {}, "sites", "unknown key"),
        ("site/id", ..., "site.id", "is missing"),
        ("site/id", 7, "site.id", "text"),
        ("site/ID", "x", "site.ID", "unknown key"),
        ("site/gateway", "a\nb", "site.gateway", "printable"),
        ("state/dir", "relative", "state.dir", "absolute path"),
        ("state/socket", "/" + "x" * 120, "state.socket", "100 characters"),
        ("state/credential_key", ..., "state.credential_key", "is missing"),
        ("clock", ..., "clock", "is missing"),
        ("clock/trust", ..., "clock.trust", "is missing"),
        ("clock/trust", "internet", "clock.trust", "internet"),
        ("trust", {}, "trust.root", "is missing"),
        ("trust", {"root": "1.root"}, "trust.root", "absolute path"),
        ("trust", {"root": "/r", "impact": {"all": 1}}, "trust.impact.all", "unknown key"),
        (
            "trust",
            {"root": "/r", "impact": {"taken_percent_max": 0.2}},
            "trust.impact.taken_percent_max",
            "whole number of percent",
        ),
        ("journal", {}, "journal.keep", "is missing"),
        ("journal", {"keep": "cloudy"}, "journal.keep", "cloudy"),
        ("journal", {"keep": "local", "days": 9}, "journal.days", "unknown key"),
        ("mqtt/port", 0, "mqtt.port", "1 to 65535"),
        ("mqtt/port", True, "mqtt.port", "whole number"),
        ("mqtt/tls", ..., "mqtt.tls", "clear text"),
        ("mqtt/tls/ca", ..., "mqtt.tls.ca", "is missing"),
        ("devices", [], "devices", "must be a table"),
        ("devices/relays-a", 1, "devices.relays-a", "must be a table"),
        ("devices/relays-a/driver", ..., "devices.relays-a.driver", "modbus_relay"),
        ("devices/relays-a/driver", "relay", "devices.relays-a.driver", "no driver 'relay'"),
        ("devices/relays-a/timed_pulse", ..., "devices.relays-a.timed_pulse", "is missing"),
        ("devices/relays-a/port", 70000, "devices.relays-a.port", "65535"),
        ("devices/relays-a/color", 1, "devices.relays-a.color", "unknown key"),
        ("devices/relays-b/host", "192.168.70.10", "devices.relays-b", "already the line"),
        ("doors", {}, "doors", "no door"),
        ("doors/street/contact/opposite_input", 9, "doors.street.contact.opposite_input", "1 to 8"),
        ("doors/street/contact/opposite_input", 5, "doors.street.rex.input", "already at"),
        ("doors/street/readers/0/shared", True, "doors.street.readers[0].device", "no other door"),
        ("doors/street/relock", "never", "doors.street.relock", "on_open, at_end; not 'never'"),
        ("doors/street/pre_alarm_s", -1, "doors.street.pre_alarm_s", "0 to 3600"),
        (
            "doors/street/antipassback_forgets_min",
            0,
            "doors.street.antipassback_forgets_min",
            "a week",
        ),
        ("doors/street/assurance", "strong", "doors.street.assurance", "strong"),
        ("doors/lounge/assurance", "medium", "doors.lounge.assurance", "'low' at most"),
        ("doors/street/assurance", "high", "doors.street.assurance", "'medium' at most"),
        ("zones", {"vault": {}}, "zones.vault.assurance", "is missing"),
        ("zones", {"vault": {"assurance": 3}}, "zones.vault.assurance", "text"),
        ("break_glass", {"w": {}}, "break_glass.w.secrets", "is missing"),
        ("break_glass", {"w": GLASS | {"window_h": 9}}, "break_glass.w.window_h", "1 to 8"),
        ("break_glass", {"w": GLASS | {"quorum": 2}}, "break_glass.w.secrets", "a quorum of 2"),
        ("break_glass", {"w": GLASS | {"doors": ["attic"]}}, "break_glass.w.doors[0]", "no door"),
        ("break_glass", {"w": GLASS | {"doors": ["suite"]}}, "break_glass.w.doors[0]", "keypad"),
        ("doors/street/lock", ..., "doors.street.lock", "is missing"),
        ("doors/street/lock", "magnetic", "doors.street.lock", "magnetic"),
        ("doors/street/free_egress", ..., "doors.street.free_egress", "is missing"),
        ("doors/street/free_egress", "gateway", "doors.street.free_egress", "box is dead"),
        ("doors/street/free_egress", "hardwired", "doors.street.lock", "power cut"),
        ("doors/street/free_egress", "hardwired", "doors.street.fire_release", "fire"),
        ("doors/street/fire_release", "gateway", "doors.street.fire_release", "software"),
        ("doors/street/strike/device", "relay", "doors.street.strike.device", "no device"),
        ("doors/street/strike/device", "street-reader", "doors.street.strike.device", "no output"),
        ("doors/street/strike/output", 9, "doors.street.strike.output", "1 to 8"),
        ("doors/street/strike/output", 2, "doors.lounge.strike.output", "already at"),
        ("doors/street/strike/relay_class", ..., "doors.street.strike.relay_class", "is missing"),
        ("doors/street/strike/relay_class", "R3", "doors.street.strike.relay_class", "promises"),
        ("doors/street/strike/relay_class", "R1", "doors.street.strike.accept_host_timed", "R2"),
        ("doors/street/contact/input", 2, "doors.lounge.contact.input", "already at"),
        ("doors/street/contact/closed_when", ..., "doors.street.contact.closed_when", "missing"),
        ("doors/street/rex/pressed_when", "on", "doors.street.rex.pressed_when", "on"),
        ("doors/street/readers", [], "doors.street.readers", "no reader"),
        ("doors/street/readers/0/side", "left", "doors.street.readers[0].side", "left"),
        ("doors/street/readers/0/side", ..., "doors.street.readers[0].side", "is missing"),
        ("doors/street/readers/0/device", "x", "doors.street.readers[0].device", "no device"),
        ("doors/street/readers/0/device", "relays-a", "doors.street.readers[0].device", "reads no"),
        ("doors/street/readers/0/device", "lounge-reader", "doors.lounge.readers[0].device", "at"),
    ],
)
def test_a_mistake_is_named_with_its_path_and_what_to_do(
    path: str, value: Any, where: str, says: str
) -> None:
    found = faults(changed(path, value))
    assert where in [place for place, _ in found], found
    assert any(says in what for place, what in found if place == where), found


def test_mistakes_in_different_places_are_named_together() -> None:
    raw = changed("doors/street/lock", ...)
    raw["devices"]["relays-b"]["driver"] = "relay"
    raw["doors"]["lounge"]["strike"]["output"] = 99
    raw["clock"]["trust"] = "sundial"
    assert {where for where, _ in faults(raw)} == {
        "doors.street.lock",
        "devices.relays-b.driver",
        "doors.lounge.strike.output",
        "clock.trust",
    }


def test_every_fault_of_a_device_is_named_at_its_own_member() -> None:
    raw = changed("devices/relays-a/unit", 300)
    raw["devices"]["relays-a"] |= {"port": 0, "outputs": 9999, "debounce_ms": 0, "watchdgo": True}
    raw["devices"]["street-keypad"] |= {"baud_rate": 9601, "inter_digit_timeout_s": 0.1}
    relays, keypad = "devices.relays-a", "devices.street-keypad"
    assert {where for where, _ in faults(raw)} >= {
        *(f"{relays}.{each}" for each in ("unit", "port", "outputs", "debounce_ms", "watchdgo")),
        *(f"{keypad}.{each}" for each in ("baud_rate", "inter_digit_timeout_s")),
    }


@pytest.mark.parametrize("version", [True, 1.0, "1", 2])
def test_only_the_number_1_is_version_1(version: object) -> None:
    assert [where for where, _ in faults(changed("version", version))] == ["version"]


def test_a_relay_board_by_name_is_a_warning() -> None:
    config = check(changed("devices/relays-a/host", "relays-a.lan"), REGISTRY, "site.toml")
    assert [warning.where for warning in config.warnings] == ["devices.relays-a.host"]


@pytest.mark.timeout(10)
def test_what_is_no_regular_file_is_refused_at_once(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    for path in (fifo, Path("/dev/null"), tmp_path):
        with pytest.raises(ConfigError, match="can't be read: "):
            load(path, REGISTRY)


def test_a_faulty_device_is_not_called_missing_where_a_door_refers_to_it() -> None:
    assert [where for where, _ in faults(changed("devices/relays-a/unit", "one"))] == [
        "devices.relays-a.unit"
    ]


def test_a_host_timed_strike_is_taken_with_its_written_reason() -> None:
    raw = changed("doors/street/strike/relay_class", "R0")
    raw["doors"]["street"]["strike"]["accept_host_timed"] = "inner door, always staffed"
    assert not faults(raw)


def test_a_device_at_no_door_and_a_site_without_a_broker_are_warnings() -> None:
    raw = changed("mqtt", ...)
    raw["doors"]["comms"]["readers"].pop()
    site = check(raw, REGISTRY, "site.toml")
    assert [warning.where for warning in site.warnings] == ["devices.comms-keypad", "mqtt"]


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"\xff", "not UTF-8 at byte 0"),
        (b"site = [", "not TOML"),
        (b"a = " + b"[" * 100_000, "not TOML|nested"),
        (b"x" * (FILE_BYTES_MAX + 1), "larger than"),
        (b"", "is missing"),
    ],
)
def test_a_file_that_cannot_be_read_says_why(tmp_path: Path, data: bytes, says: str) -> None:
    file = tmp_path / "site.toml"
    file.write_bytes(data)
    with pytest.raises(ConfigError, match=says):
        load(file, REGISTRY)


def test_a_file_that_is_not_there_says_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        load(tmp_path / "nowhere.toml", REGISTRY)


paths = [
    f"{prefix}/{key}"
    for prefix, table in (
        [(name, RAW[name]) for name in ("site", "state", "clock", "mqtt")]
        + [(f"devices/{name}", table) for name, table in RAW["devices"].items()]
        + [(f"doors/{name}", table) for name, table in RAW["doors"].items()]
    )
    for key in table
]
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)


@given(st.sampled_from(paths), anything)
def test_no_value_anywhere_breaks_the_check(path: str, value: Any) -> None:
    for where, what in faults(changed(path, value)):
        assert where
        assert what


def test_a_door_relocks_on_opening_only_where_a_contact_says_that_it_is_open() -> None:
    raw = changed("doors/street/relock", "on_open")
    assert not faults(raw)
    del raw["doors"]["street"]["contact"]
    assert [where for where, _ in faults(raw)] == ["doors.street.relock"]


def test_break_glass_roles_are_taken_whole() -> None:
    site = check(changed("break_glass", {"w": GLASS}), REGISTRY, "site.toml")
    assert site.break_glass["w"].doors == ("street",)


def test_one_reader_stands_at_two_doors_only_where_both_say_so() -> None:
    raw = copy.deepcopy(RAW)
    raw["doors"]["lounge"]["readers"] = [{"device": "street-reader", "side": "in", "shared": True}]
    raw["devices"].pop("lounge-reader")
    assert [where for where, _ in faults(raw)] == ["doors.lounge.readers[0].device"]
    raw["doors"]["street"]["readers"][0]["shared"] = True
    assert not faults(raw)


@pytest.mark.parametrize(
    ("mqtt", "trust", "keep", "local"),
    [
        (False, False, None, True),
        (False, False, "cloud", False),
        (False, False, "local", True),
        (False, True, None, False),
        (True, False, None, False),
        (True, False, "local", True),
        (True, True, None, False),
        (True, True, "cloud", False),
    ],
)
def test_who_keeps_the_journal(mqtt: bool, trust: bool, keep: str | None, local: bool) -> None:
    raw = changed("mqtt", RAW["mqtt"] if mqtt else ...)
    raw.pop("trust", None)
    if trust:
        raw["trust"] = {"root": "/etc/door-gateway/1.root"}
    if keep is not None:
        raw["journal"] = {"keep": keep}
    assert check(raw, REGISTRY, "site.toml").keeps_locally is local


def test_a_signed_site_cannot_keep_locally() -> None:
    raw = changed("journal", {"keep": "local"})
    raw["trust"] = {"root": "/etc/door-gateway/1.root"}
    with pytest.raises(ConfigError, match=r"journal\.keep: can't be local with \[trust\]"):
        check(raw, REGISTRY, "site.toml")


@pytest.mark.parametrize(
    ("host", "what"),
    [
        ("192.168.70.300", "is not an IP address"),
        ("192.168.70", "is not an IP address"),
        ("relays.example.org", "is a name"),
    ],
)
def test_a_host_that_is_no_address_is_told_from_a_name(host: str, what: str) -> None:
    table: Any = SimpleNamespace(settings=SimpleNamespace(host=host))
    (fault,) = _host_names({"relays-a": table})
    assert (fault.where, what in fault.what) == ("devices.relays-a.host", True)
