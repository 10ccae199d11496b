"""Many gateways from their messages alone: what is shown is what was last said, the worst first."""

import json
import re
import time
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any

import cbor2
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from gateway.fleet.inbox import BYTES_MAX, OF_ONE_BYTES_MAX, OF_ONE_MAX, Inbox
from gateway.fleet.model import (
    ALARMS_KEPT,
    ALARMS_OF_ONE_KEPT,
    DOORS_MAX,
    EVENTS_MAX,
    PAYLOAD_BYTES_MAX,
    SILENT_AFTER,
    Fleet,
)
from gateway.trust import cose

NOW = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)
HEALTH: dict[str, Any] = {
    "v": 1, "version": "1.0", "revision": "7", "as_of": "2026-03-02T08:59:00Z",
    "at": "2026-03-02T09:00:00Z", "trust": 2, "backlog": 3, "problems": [],
    "devices": {"reader": {"online": False}},
    "figures": {
        "front": {"latency_ms": {"release": {"taps": 9, "p50": 4.0, "p99": 90.0, "worst": 99.0}}},
        "back": {"latency_ms": {"release": {"taps": 9, "p50": 5.0, "p99": 20.0, "worst": 20.0}}},
    },
}  # fmt: skip
DOOR: dict[str, Any] = {
    "v": 1, "door": "front", "mode": "controlled", "locked": True, "contact": "closed",
    "trust": 2, "at": "2026-03-02T08:00:00Z", "alarms": [],
}  # fmt: skip


def tell(fleet: Fleet, what: str, body: Any, *, site: str = "LON", at: datetime = NOW) -> None:
    payload = body if isinstance(body, bytes) else json.dumps(body).encode()
    fleet.take(f"acs/v1/{site}/gw/{what}", payload, at)


def batch(*events: tuple[int, str], urgent: bool = False, stream: str = "s") -> dict[str, Any]:
    told = [
        {"seq": seq, "event": {"code": code, "at": "2026-03-02T08:59:50Z", "door": "front"}}
        for seq, code in events
    ]
    return {"v": 1, "stream": stream, "events": told} | ({"urgent": True} if urgent else {})


def signed(revision: object, digest: object) -> bytes:
    body = cbor2.dumps({"revision": revision, "digest": digest}, canonical=True)
    return cose.sign1(body, Ed25519PrivateKey.generate(), kid=b"k", context=b"test")


def well() -> Fleet:
    fleet = Fleet()
    tell(fleet, "status", {"v": 1, "online": True, "core": True})
    tell(fleet, "health", HEALTH)
    tell(fleet, "door/front/state", DOOR)
    return fleet


def test_a_gateway_is_what_its_messages_say() -> None:
    fleet = well()
    (known,) = fleet.sorted(NOW)
    assert (known.site, known.gateway, known.version, known.backlog) == ("LON", "gw", "1.0", 3)
    assert (known.p50_ms, known.p99_ms) == (5.0, 90.0)
    assert known.devices_away == ["reader"]
    assert known.doors["front"].locked is True
    assert known.verdict(NOW) == "well"


@pytest.mark.parametrize(
    ("what", "body", "verdict"),
    [
        ("status", {"v": 1, "online": False, "why": "lost"}, "offline"),
        ("status", {"v": 1, "online": True, "core": False}, "problem"),
        ("health", HEALTH | {"problems": ["the journal does not write"]}, "problem"),
        ("door/front/state", DOOR | {"alarms": ["forced_open"]}, "alarm"),
        ("door/front/state", DOOR | {"readers_online": {"a": True, "b": False}}, "problem"),
    ],
)
def test_what_is_wrong_is_said_in_a_word(what: str, body: dict[str, Any], verdict: str) -> None:
    fleet = well()
    tell(fleet, what, body)
    assert fleet.sorted(NOW)[0].verdict(NOW) == verdict


def test_a_gateway_is_well_only_once_its_health_has_come() -> None:
    fleet = Fleet()
    tell(fleet, "status", {"v": 1, "online": True})
    tell(fleet, "door/front/state", DOOR)
    assert fleet.sorted(NOW)[0].verdict(NOW) == "waiting"
    tell(fleet, "health", HEALTH)
    assert fleet.sorted(NOW)[0].verdict(NOW) == "well"


def test_since_is_when_the_verdict_changed() -> None:
    fleet, later = well(), NOW + timedelta(minutes=1)
    assert fleet.sorted(NOW)[0].since == NOW
    assert fleet.sorted(later)[0].since == NOW
    tell(fleet, "status", {"v": 1, "online": False, "why": "lost"}, at=later)
    assert fleet.sorted(later)[0].since == later


def test_a_door_that_is_cleared_on_the_broker_is_gone() -> None:
    fleet = well()
    fleet.take("acs/v1/LON/gw/door/front/state", b"", NOW)
    assert fleet.sorted(NOW)[0].doors == {}
    assert fleet.malformed == 0


def test_others_are_left_out_where_a_site_or_gateway_is_asked_for() -> None:
    for only, names in (
        (("LON", None), 2),
        ((None, "gw-2"), 2),
        (("LON", "gw-2"), 1),
        ((None, None), 4),
    ):
        fleet = Fleet(*only)
        for site in ("LON", "SOF"):
            for gateway in ("gw-1", "gw-2"):
                fleet.take(f"acs/v1/{site}/{gateway}/status", b'{"v":1,"online":true}', NOW)
        assert len(fleet.gateways) == names


def test_a_gateway_that_says_nothing_for_minutes_is_silent_and_the_worst_come_first() -> None:
    fleet = well()
    later = NOW + SILENT_AFTER + timedelta(seconds=1)
    tell(fleet, "health", HEALTH, site="SOF", at=later)
    tell(fleet, "door/front/state", DOOR | {"alarms": ["tamper"]}, site="NYC", at=later)
    tell(fleet, "health", HEALTH, site="NYC", at=later)
    found = [(each.site, each.verdict(later)) for each in fleet.sorted(later)]
    assert found == [("NYC", "alarm"), ("LON", "silent"), ("SOF", "well")]


def test_alarms_come_once_however_often_and_in_whatever_order_they_are_sent() -> None:
    fleet = well()
    tell(fleet, "event", batch((9, "duress"), urgent=True))
    tell(fleet, "event", batch((9, "duress"), urgent=True))
    tell(fleet, "event", batch((1, "access"), (2, "forced_open")))
    tell(fleet, "event", batch((1, "access"), (2, "forced_open"), (3, "held_open")))
    tell(fleet, "event", batch(*((seq, "access") for seq in range(4, 9)), (9, "duress")))
    assert [(alarm.seq, alarm.code) for alarm in fleet.recent] == [
        (9, "duress"), (2, "forced_open"), (3, "held_open"),
    ]  # fmt: skip
    assert fleet.sorted(NOW)[0].lag_s == 10.0
    tell(fleet, "event", batch((1, "tamper"), stream="another"))
    assert fleet.recent[-1].code == "tamper", "a new stream begins at 1 again"


@pytest.mark.parametrize(
    ("enforced", "parity"),
    [
        ((7, b"a" * 32), "same"),
        ((6, b"x" * 32), "behind"),
        ((7, b"b" * 32), "differs"),
        ((8, b"a" * 32), "differs"),
        ((None, None), "behind"),
    ],
)
def test_parity_is_what_was_wanted_against_what_is_enforced(
    enforced: tuple[int | None, bytes | None], parity: str
) -> None:
    fleet = well()
    tell(fleet, "beacon", signed(7, b"a" * 32))
    assert fleet.sorted(NOW)[0].parity is None
    tell(fleet, "parity", signed(*enforced))
    assert fleet.sorted(NOW)[0].parity == parity


def test_ids_are_told_as_they_are() -> None:
    fleet = Fleet()
    tell(fleet, "door/a%2Fb/state", DOOR | {"door": "a/b"}, site="S%C3%B6f")
    (known,) = fleet.sorted(NOW)
    assert (known.site, list(known.doors)) == ("Söf", ["a/b"])


@given(
    st.sampled_from(["status", "health", "event", "parity", "door/front/state", "door", "x"]),
    st.one_of(st.binary(max_size=80), st.builds(lambda x: json.dumps(x).encode(), st.none()
              | st.lists(st.integers()) | st.dictionaries(st.text(max_size=5), st.integers()))),
)  # fmt: skip
def test_nonsense_changes_nothing_and_stops_nothing(what: str, payload: bytes) -> None:
    fleet = well()
    before = fleet.sorted(NOW)[0]
    shown = (before.revision, before.doors, before.parity, before.online)
    fleet.take(f"acs/v1/LON/gw/{what}", payload, NOW)
    after = fleet.sorted(NOW)[0]
    assert (after.revision, after.doors, after.parity, after.online) == shown
    assert not fleet.recent


def test_what_is_too_large_or_not_ours_is_left_alone() -> None:
    fleet = Fleet()
    fleet.take("acs/v1/LON/gw/health", b" " * (PAYLOAD_BYTES_MAX + 1), NOW)
    assert fleet.malformed == 1
    fleet.take("acs/v1/SOF/gw/cmd", b"", NOW)
    fleet.take("other/topic", b"", NOW)
    assert list(fleet.gateways) == []


def test_a_storm_of_alarms_keeps_the_last() -> None:
    fleet = well()
    tell(fleet, "event", batch((1, "duress")), site="SOF")
    for seq in range(1, ALARMS_KEPT + 100):
        tell(fleet, "event", batch((seq, "tamper"), urgent=True))
    assert [alarm.site for alarm in fleet.recent] == ["SOF"] + ["LON"] * ALARMS_OF_ONE_KEPT
    assert fleet.recent[-1].seq == ALARMS_KEPT + 99
    for number in range(10):
        for seq in range(1, ALARMS_OF_ONE_KEPT + 10):
            tell(fleet, "event", batch((seq, "tamper")), site=f"S{number}")
    assert len(fleet.recent) == ALARMS_KEPT
    assert {alarm.site for alarm in fleet.recent} == {f"S{number}" for number in range(5, 10)}
    assert len(fleet._positions["LON", "gw"].ahead) == ALARMS_KEPT


@pytest.mark.parametrize(
    ("revision", "digest"),
    [
        (1, 2**62),
        (1, 2**64 - 1),
        (1, 3 * 10**9),
        (1, b"a"),
        (1, b"a" * 33),
        (1, "a" * 32),
        (1, [0] * 32),
        (1, True),
        (-1, b"a" * 32),
        (2**53, b"a" * 32),
        (True, b"a" * 32),
        ("7", b"a" * 32),
        (float("inf"), b"a" * 32),
        (float("nan"), b"a" * 32),
        (7.0, b"a" * 32),
        (Decimal("1E+20000000"), b"a" * 32),
        (Fraction(1, 3), b"a" * 32),
        (2**5000, b"a" * 32),
        (re.compile("(a|b)*"), b"a" * 32),
        ([[[[[[[[[[]]]]]]]]]], b"a" * 32),
    ],
)
@pytest.mark.parametrize("kind", ["parity", "beacon"])
def test_a_report_of_another_form_is_counted_at_once(
    kind: str, revision: object, digest: object
) -> None:
    fleet = well()
    begun = time.process_time()
    tell(fleet, kind, signed(revision, digest))
    assert time.process_time() - begun < 0.5
    assert fleet.malformed == 1
    assert fleet.sorted(NOW)[0].parity is None


DEEP = b"[" * 200_000
FLOODS: dict[str, tuple[str, bytes]] = {
    "deep": ("health", DEEP),
    "deep in an unknown member": ("health", b'{"x":' + DEEP),
    "deep in an event": ("event", b'{"stream":"s","events":[{"seq":1,"event":{"x":' + DEEP),
    "a name that is no UTF-8": ("health", json.dumps(HEALTH).encode().replace(b"1.0", b"\xc3(")),
    "a number of a million digits": ("event", b'{"stream":"s","events":[{"seq":' + b"9" * 10**6),
    "a latency without an end": (
        "health",
        json.dumps(HEALTH).encode().replace(b"90.0", b"1e308"),
    ),
    "a time without a zone": ("door/a/state", json.dumps(DOOR | {"at": "2026-01-01T00:00:00"})
                              .encode()),
    "a long text": ("health", json.dumps(HEALTH | {"version": "x" * 1_000}).encode()),
    "more events than a message has": ("event", json.dumps(
        batch(*((seq, "tamper") for seq in range(1, EVENTS_MAX + 2)), urgent=True)).encode()),
    "too many problems": ("health", json.dumps(HEALTH | {"problems": ["x"] * 10_000}).encode()),
}  # fmt: skip


@pytest.mark.parametrize("flood", FLOODS)
def test_a_hostile_message_is_counted_at_once(flood: str) -> None:
    what, payload = FLOODS[flood]
    fleet = well()
    begun = time.process_time()
    tell(fleet, what, payload)
    assert time.process_time() - begun < 0.5
    assert fleet.malformed == 1
    assert not fleet.recent


def test_doors_and_names_are_bounded() -> None:
    fleet = Fleet()
    for number in range(DOORS_MAX + 5):
        tell(fleet, f"door/d{number}/state", DOOR)
    tell(fleet, "door/d1/state", DOOR | {"mode": "blocked"})
    (known,) = fleet.sorted(NOW)
    assert (len(known.doors), fleet.beyond) == (DOORS_MAX, 5)
    assert known.doors["d1"].mode == "blocked"
    tell(fleet, "status", {"online": True}, site="x" * 300)
    assert (fleet.malformed, len(fleet.gateways)) == (1, 1)


def test_a_loud_gateway_pushes_out_its_own_messages_only() -> None:
    inbox = Inbox()
    inbox.put("acs/v1/LON/quiet/status", b"first", NOW)
    for number in range(OF_ONE_MAX + 10):
        inbox.put(f"acs/v1/LON/loud/door/{number}/state", b"x", NOW)
    for _ in range(20):
        inbox.put("acs/v1/SOF/loud/event", bytes(OF_ONE_BYTES_MAX // 4), NOW)
    inbox.put("acs/v1/SOF/huge/event", bytes(OF_ONE_BYTES_MAX + 1), NOW)
    taken = inbox.take()
    assert taken[0][:2] == ("acs/v1/LON/quiet/status", b"first")
    loud = [topic for topic, _, _ in taken if topic.startswith("acs/v1/LON/loud")]
    assert len(loud) == OF_ONE_MAX
    assert loud[-1].endswith(f"/{OF_ONE_MAX + 9}/state")
    assert sum(topic.startswith("acs/v1/SOF") for topic, _, _ in taken) == 3
    assert inbox.dropped == 10 + 17 + 1
    assert inbox.take() == []


def test_many_loud_gateways_have_a_bound_together() -> None:
    inbox = Inbox()
    for number in range(2 * BYTES_MAX // OF_ONE_BYTES_MAX):
        inbox.put(f"acs/v1/LON/{number}/event", bytes(OF_ONE_BYTES_MAX - 2_000), NOW)
    assert sum(len(payload) for _, payload, _ in inbox.take()) <= BYTES_MAX
    inbox.put("acs/v1/LON/0/event", b"", NOW)
    assert len(inbox.take()) == 1


def test_an_event_from_before_all_time_is_shown() -> None:
    fleet = well()
    events = batch((1, "tamper"))
    events["events"][0]["event"]["at"] = "0001-01-01T00:00:00+23:59"
    tell(fleet, "event", events)
    assert f"{fleet.recent[0].at:%H:%M}" == "00:00"
    assert fleet.sorted(NOW)[0].verdict(NOW) == "well"
