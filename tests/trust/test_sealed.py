"""Every parser of what comes sealed: no bytes make it fail, and none are taken for good."""

import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import cbor2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.trust.beacon import ACK_CONTEXT, BEACON_CONTEXT, Freshness, Whose, open_ack
from gateway.trust.commands import (
    CONTEXT,
    Command,
    CommandRefused,
    open_command,
    seal_command,
)
from gateway.trust.cose import parse1
from gateway.trust.root import Now
from gateway.trust.rules import BreaksRule
from tests.trust.keyring import NOON, NOON_S, NOW, key, message, root

KEYS = root()
HERE = Whose("LON", "gw-1")
SECOND = timedelta(seconds=1)
COMMAND = Command(
    cti=bytes(range(16)),
    audience="LON/gw-1",
    issued=NOON,
    expires=NOON + 20 * SECOND,
    act="unlock",
    by="op-ivy",
    why="she rang",
    target="front",
    target_kind="door",
)
BEACON = {"site": "LON", "gateway": "gw-1", "revision": 7, "digest": bytes(32),
          "now_ms": NOON_S * 1000, "expires": NOON_S + 600, "nonce": None, "root": 1}  # fmt: skip
ACK = {"site": "LON", "gateway": "gw-1", "stream": "s", "seq": 5, "at": NOON_S}


def command_of(data: bytes, retained: bool = False) -> Command | str:
    try:
        return open_command(
            data, KEYS, "LON/gw-1", NOW, is_spent=lambda _cti: False, retained=retained
        )
    except CommandRefused as refused:
        return refused.reason


def beacon_of(data: bytes) -> str:
    freshness = Freshness(HERE, timedelta(minutes=15), timedelta())
    try:
        freshness.take(data, KEYS, (7, bytes(32)), NOW, timedelta())
    except BreaksRule as broken:
        return broken.rule.value
    return "taken"


def ack_of(data: bytes) -> str:
    try:
        open_ack(data, KEYS, HERE)
    except BreaksRule as broken:
        return broken.rule.value
    return "taken"


GOOD: dict[str, tuple[bytes, Callable[[bytes], Any]]] = {
    "cmd": (seal_command(COMMAND, key("command-1")), command_of),
    "beacon": (message(BEACON, "freshness-1", BEACON_CONTEXT), beacon_of),
    "ack": (message(ACK, "freshness-1", ACK_CONTEXT), ack_of),
}


def test_the_good_ones_are_taken() -> None:
    assert command_of(GOOD["cmd"][0]) == COMMAND
    assert beacon_of(GOOD["beacon"][0]) == ack_of(GOOD["ack"][0]) == "taken"


@settings(max_examples=150)
@given(data=st.binary(max_size=400))
def test_arbitrary_bytes_are_malformed(data: bytes) -> None:
    for _, judge in GOOD.values():
        assert judge(data) == judge(b"\xd2" + data) == "malformed"


@pytest.mark.parametrize("kind", GOOD)
def test_a_changed_bit_a_piece_and_a_longer_one_are_refused(kind: str) -> None:
    good, judge = GOOD[kind]
    rng = random.Random(7)
    for bit in range(len(good) * 8):
        changed = bytearray(good)
        changed[bit // 8] ^= 1 << bit % 8
        assert judge(bytes(changed)) in ("malformed", "unknown_key", "bad_signature")
    for length in range(len(good)):
        assert judge(good[:length]) == "malformed"
    assert judge(good + rng.randbytes(1)) == "malformed"
    assert judge(good + bytes(5000)) in ("malformed", "too_large")


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 2**64) | st.floats(allow_nan=False)
    | st.text(max_size=8) | st.binary(max_size=17),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner,
                                                                max_size=2),
    max_leaves=4,
)  # fmt: skip


@settings(max_examples=120)
@given(
    kind=st.sampled_from(("cmd", "beacon", "ack")),
    where=st.integers(0, 20),
    value=_VALUES,
    how=st.sampled_from(("change", "drop", "add")),
)
def test_a_signed_payload_of_another_form_is_malformed(
    kind: str, where: int, value: Any, how: str
) -> None:
    good, judge = GOOD[kind]
    payload: dict[Any, Any] = cbor2.loads(parse1(good).payload)
    name = sorted(payload, key=repr)[where % len(payload)]
    if how == "change" and type(payload[name]) is type(value):
        return  # it may be as good
    if how == "change" and (kind, name) == ("beacon", "nonce") and isinstance(value, bytes):
        return
    if how == "drop":
        del payload[name]
    else:
        payload["else" if how == "add" else name] = value
    context = {"cmd": CONTEXT, "beacon": BEACON_CONTEXT, "ack": ACK_CONTEXT}[kind]
    by = "command-1" if kind == "cmd" else "freshness-1"
    assert judge(message(payload, by, context)) == "malformed"


ODD_COMMANDS: list[dict[Any, Any]] = [
    {"act": "open"},
    {"act": "lockdown"},
    {"act": "lockdown", "door": "front", "zone": "club"},
    {"act": "lockdown", "site": 1},
    {"act": "lockdown", "site": False},
    {"act": "lockdown", "site": True, "of": "lockdown"},
    {"act": "release", "site": True},
    {"act": "release", "site": True, "of": "unlock"},
    {"act": "mode", "door": "front", "mode": "open", "until": NOON_S},
    {"act": "mode", "door": "front", "mode": "blocked"},
    {"act": "mode", "door": "front", "mode": "blocked", "until": True},
    {"act": "forgive", "holder": "h", "zone": "z"},
    {"act": "forgive", "door": "front"},
    {"act": "identify"},
    {"act": "logs", "minutes": 0},
    {"act": "logs", "minutes": True},
    {"act": "logs", "minutes": 1441},
    {"act": "refresh", "door": "front"},
    {"act": "unlock", "door": ""},
    {"act": "unlock", "door": "d" * 129},
    {"act": "unlock", "door": "front", "why": ""},
    {"act": "unlock", "door": "front", 7: bytes(15)},
    {"act": "unlock", "door": "front", 4: NOON_S},
    {"act": "unlock", "door": "front", 4: float(NOON_S + 20)},
    {"act": ["unlock"], "door": "front"},
]


@pytest.mark.parametrize("odd", ODD_COMMANDS, ids=repr)
def test_a_command_has_the_keys_of_its_act_and_no_other(odd: dict[Any, Any]) -> None:
    payload: dict[Any, Any] = cbor2.loads(parse1(GOOD["cmd"][0]).payload)
    del payload["door"]
    assert command_of(message(payload | odd, "command-1", CONTEXT)) == "malformed"


def test_a_command_that_can_not_be_taken_is_not_sealed() -> None:
    with pytest.raises(CommandRefused, match="malformed"):
        seal_command(COMMAND._replace(why=""), key("command-1"))


@pytest.mark.parametrize(
    ("act", "more"),
    [
        ("mode", {"mode": "controlled", "until": NOON + 60 * SECOND, "target": "front",
                  "target_kind": "door"}),
        ("lockdown", {"scope": "site"}),
        ("evacuation", {"scope": "zone", "target": "club", "target_kind": "zone"}),
        ("release", {"scope": "door", "target": "front", "target_kind": "door",
                     "of": "evacuation"}),
        ("forgive", {"target": "h", "target_kind": "holder"}),
        ("forgive", {"target": "z", "target_kind": "zone"}),
        ("identify", {"target": "front", "target_kind": "door"}),
        ("logs", {"minutes": 5}),
        ("refresh", {}),
    ],
)  # fmt: skip
def test_every_act_is_what_it_was_when_it_arrives(act: Any, more: dict[str, Any]) -> None:
    bare = COMMAND._replace(target="", target_kind="")
    command = bare._replace(act=act, **more)
    assert command_of(seal_command(command, key("command-1"))) == command
    opening = act in ("evacuation", "release")
    long = command._replace(expires=NOON + (31 if opening else 601) * SECOND)
    assert command_of(seal_command(long, key("command-1"))) == "too_long"


def test_the_year_2038_is_a_year_like_any_other() -> None:  # F36
    later = 2**31 + 5
    at = Now(datetime.fromtimestamp(later, UTC), trusted=True)
    keys = root(made=later - 10, expires=later + 1000)
    beacon = BEACON | {"now_ms": later * 1000 + 1, "expires": later + 600}
    freshness = Freshness(HERE, timedelta(minutes=15), timedelta())
    sealed = message(beacon, "freshness-1", BEACON_CONTEXT)
    heard = freshness.take(sealed, keys, (7, bytes(32)), at, timedelta())
    assert heard.as_of == at.at + timedelta(milliseconds=1)
    command = COMMAND._replace(issued=at.at, expires=at.at + 20 * SECOND)
    sealed = seal_command(command, key("command-1"))
    taken = open_command(sealed, keys, "LON/gw-1", at, is_spent=lambda _cti: False, retained=False)
    assert taken == command


class Listening:
    """A gateway in session with its broker, and one beacon a call."""

    def __init__(self) -> None:
        self.freshness = Freshness(HERE, timedelta(minutes=15), timedelta())
        self.freshness.session(there=True, now=timedelta())
        self.keys = root()

    def hears(self, minute: float, of: float, nonce: bytes | None = None) -> None:
        """The beacon made in minute `of` comes in `minute`."""
        made = NOON + timedelta(minutes=of)
        beacon = BEACON | {
            "now_ms": int(made.timestamp() * 1000),
            "expires": int(made.timestamp()) + 86_400,
            "nonce": nonce,
        }
        sealed = message(beacon, "freshness-1", BEACON_CONTEXT)
        at = Now(NOON + timedelta(minutes=minute), trusted=True)
        now = timedelta(minutes=minute)
        self.freshness.take(sealed, self.keys, (7, bytes(32)), at, now)

    def missing_from(self, minute: float) -> bool:
        """Nothing of it is asked for before."""
        return self.freshness.turned(timedelta(minutes=minute)) == "missing"


def test_one_beacon_sent_again_and_again_is_no_sign_of_life() -> None:
    listening = Listening()
    for minute in range(15):
        listening.hears(minute, of=0)
        assert not listening.missing_from(minute)
    listening.hears(15, of=0)
    assert listening.missing_from(15)
    listening.hears(16, of=16)
    assert listening.freshness.turned(timedelta(minutes=16)) == "back"


def test_beacons_that_were_kept_back_are_no_sign_of_life() -> None:
    listening = Listening()
    for minute in range(15, 31):
        listening.hears(minute, of=minute - 15)  # all were new once, and all are a quarter old
        assert not listening.missing_from(minute)
    for minute in range(31, 47):
        listening.hears(minute, of=minute - 15.5)
    assert listening.missing_from(47)


def test_an_earlier_beacon_after_a_later_one_is_no_sign_of_life() -> None:
    listening = Listening()
    listening.hears(1, of=1)
    for minute in range(2, 16):
        listening.hears(minute, of=minute / 100)
    assert not listening.missing_from(15.9)
    assert listening.missing_from(16)


def test_a_beacon_that_answers_an_open_nonce_is_a_sign_of_life_once() -> None:
    listening = Listening()
    listening.freshness.sent(b"n" * 16, timedelta(minutes=9))
    listening.hears(10, of=8, nonce=b"n" * 16)
    listening.hears(20, of=8, nonce=b"n" * 16)
    assert not listening.missing_from(24.9)
    assert listening.missing_from(25)


def test_a_broker_that_ends_each_session_hides_nothing() -> None:
    listening = Listening()
    freshness = listening.freshness
    for minute in range(1, 29):  # half a minute each, after a first whole one
        freshness.session(there=False, now=timedelta(minutes=minute))
        freshness.session(there=True, now=timedelta(minutes=minute, seconds=30))
        assert not listening.missing_from(minute + 0.5)
    assert listening.missing_from(29)
    freshness.session(there=False, now=timedelta(minutes=31))
    freshness.session(there=False, now=timedelta(minutes=60))
    freshness.session(there=True, now=timedelta(minutes=61))
    listening.hears(61, of=61)
    assert freshness.turned(timedelta(minutes=61)) == "back"
