"""Many gateways from their messages alone: what is shown is what was last said, the worst first."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from gateway.fleet.model import ALARMS_KEPT, PAYLOAD_BYTES_MAX, SILENT_AFTER, Fleet
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


def signed(revision: int, digest: bytes) -> bytes:
    body = cose.encode({"revision": revision, "digest": digest})
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
    ],
)
def test_what_is_wrong_is_said_in_a_word(what: str, body: dict[str, Any], verdict: str) -> None:
    fleet = well()
    tell(fleet, what, body)
    assert fleet.sorted(NOW)[0].verdict(NOW) == verdict


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
    [((7, b"a"), "same"), ((6, b"x"), "behind"), ((7, b"b"), "differs"), ((8, b"a"), "differs")],
)
def test_parity_is_what_was_wanted_against_what_is_enforced(
    enforced: tuple[int, bytes], parity: str
) -> None:
    fleet = well()
    tell(fleet, "beacon", signed(7, b"a"))
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
    for seq in range(1, ALARMS_KEPT + 100):
        tell(fleet, "event", batch((seq, "tamper"), urgent=True))
    assert len(fleet.recent) == ALARMS_KEPT
    assert len(fleet._positions["LON", "gw"].ahead) == ALARMS_KEPT
