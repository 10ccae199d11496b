"""Beacons and acknowledgements: the present time, the age of the records, and a freeze revealed."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from gateway.clock import TimeTrust
from gateway.domain import events
from gateway.errors import StorageError
from tests.processes.signed import Signing, keys, signing
from tests.trust.keyring import ROLE_KEYS
from tests.virtual import START, run

SECOND = timedelta(seconds=1)
YEAR = timedelta(days=365)
AHEAD = timedelta(days=300)


def seen(s: Signing) -> list[str]:
    """Reasons for which something was refused."""
    return [event.reason for event in s.club.found(events.SealedRefused)]


def test_a_beacon_vouches_for_the_records_and_its_instant_only_rises() -> None:
    async def journey() -> None:
        async with signing() as s:
            first = s.beacon()
            await s.sends(first, "beacon")
            await asyncio.sleep(60)
            await s.sends(s.beacon(), "beacon")
            await s.sends(first, "beacon")  # a replay: true then, and no news now
            assert s.vouched[0] - START < SECOND
            assert 60 * SECOND < s.vouched[1] - s.vouched[0] < 61 * SECOND
            assert s.asked == 0

    run(journey())


def test_after_one_far_ahead_the_next_still_says_what_is_wanted() -> None:
    """By a stolen key, at a gateway whose clock can't tell."""

    async def journey() -> None:
        async with signing() as s:
            s.club.clock.trusted = False
            ahead = START + AHEAD
            now_ms, expires = int(ahead.timestamp() * 1000), int(ahead.timestamp()) + 60
            await s.sends(s.beacon(now_ms=now_ms, expires=expires, revision=8), "beacon")
            await s.sends(s.beacon(digest=bytes(32)), "beacon")
            await s.sends(s.beacon(revision=6), "beacon")  # refused: it says nothing
            assert (s.wanted, s.asked) == ([8, 7], 2)

    run(journey())


def test_a_disk_that_takes_nothing_does_not_keep_a_beacon_from_being_answered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def full(_as_of: Any) -> None:
        raise StorageError("no space left on device")

    async def journey() -> None:
        async with signing() as s:
            monkeypatch.setattr(s, "vouch", full)
            await s.sends(s.beacon(root=2), "beacon")
            assert (s.wanted, s.asked) == ([7], 1)

    run(journey())


@pytest.mark.parametrize(
    "changed", [{"revision": 8}, {"digest": bytes(32)}, {"revision": 9, "digest": bytes(32)}]
)
def test_one_that_wants_something_else_in_force_asks_for_it_and_vouches_for_nothing(
    changed: dict[str, Any],
) -> None:
    async def journey() -> None:
        async with signing() as s:
            await s.sends(s.beacon(**changed), "beacon")
            assert (s.asked, s.vouched) == (1, [])
            s.in_force = None
            await s.sends(s.beacon(), "beacon")
            assert (s.asked, s.vouched) == (2, [])

    run(journey())


def test_one_that_knows_of_a_newer_root_asks_for_it() -> None:
    async def journey() -> None:
        async with signing() as s:
            await s.sends(s.beacon(root=2), "beacon")
            assert (s.asked, len(s.vouched)) == (1, 1)

    run(journey())


@pytest.mark.parametrize(
    ("reason", "changed"),
    [
        ("rollback", {"revision": 6}),
        ("wrong_site", {"site": "PAR"}),
        ("wrong_gateway", {"gateway": "gw-2"}),
        ("expired", {"expires": int(START.timestamp())}),
        ("not_yet", {"now_ms": int(START.timestamp() * 1000) + 601_000}),
        ("malformed", {"expires": int(START.timestamp()) + 86_401}),
        ("malformed", {"nonce": bytes(15)}),
        ("malformed", {"revision": 0}),
        ("malformed", {"more": 1}),
    ],
)
def test_a_beacon_that_breaks_a_rule_is_refused_by_its_name(
    reason: str, changed: dict[str, Any]
) -> None:
    async def journey() -> None:
        async with signing() as s:
            await s.sends(s.beacon(**changed), "beacon")
            assert seen(s) == [reason]
            assert (s.vouched, s.asked) == ([], 0)

    run(journey())


LAST_MS = 253_402_300_799_999  # the last of the year 9999


@pytest.mark.parametrize("answers", [False, True])
@pytest.mark.parametrize(
    ("reason", "now_ms"),
    [
        ("root_expired", int((START + YEAR).timestamp() * 1000)),
        ("root_expired", LAST_MS - 366 * 86_400_000),
        ("malformed", LAST_MS - 1000),
    ],
)
def test_a_stolen_key_carries_no_time_beyond_the_roots_end(
    reason: str, now_ms: int, answers: bool
) -> None:
    """With an untrusted clock nothing else says how far ahead a beacon is."""

    async def journey() -> None:
        async with signing() as s:
            s.club.clock.trusted = False
            nonce = s.downlink.nonce() if answers else None
            await asyncio.sleep(2)
            expires = min(now_ms // 1000 + 60, LAST_MS // 1000)
            await s.sends(s.beacon(now_ms=now_ms, expires=expires, nonce=nonce), "beacon")
            assert seen(s) == [reason]
            assert (s.vouched, s.clock.trust()) == ([], TimeTrust.T0)

    run(journey())


def test_no_retained_beacon_and_no_ack_by_another_role_counts() -> None:
    async def journey() -> None:
        async with signing() as s:
            await s.sends(s.beacon(), "beacon", retained=True)
            await s.sends(s.ack(), "beacon")
            await s.sends(s.beacon(), "ack")
            await s.sends(bytes(2000), "ack")
            await s.sends(s.ack(gateway="gw-2"), "ack")
            await s.sends(s.ack(seq=0), "ack")
            assert seen(s) == [
                "retained",
                "bad_signature",
                "bad_signature",
                "too_large",
                "wrong_gateway",
                "malformed",
            ]
            assert (s.vouched, s.acknowledged) == ([], [])
            await s.sends(s.ack(), "ack")
            assert s.acknowledged == [("s-1", 5)]
            await s.sends(s.ack(seq=6), "ack")
            assert (s.acknowledged, s.ahead) == ([("s-1", 5)], [6]), "of what there never was"

    run(journey())


@pytest.mark.parametrize(
    "off", [10 * YEAR, -YEAR, -START.timestamp() * SECOND, timedelta(hours=-3), timedelta(hours=3)]
)
def test_an_answered_nonce_puts_a_wrong_clock_right(off: timedelta) -> None:
    """F32, F33, F34 and F37: ten years ahead, one behind, at 1970, spoofed by hours."""

    async def journey() -> None:
        async with signing(host_off=off) as s:
            s.club.clock.trusted = False
            assert s.clock.trust() is TimeTrust.T0
            nonce = s.downlink.nonce()
            await asyncio.sleep(1)
            await s.sends(s.beacon(nonce=nonce), "beacon")
            assert s.clock.trust() is TimeTrust.T2
            assert abs(s.clock.now() - s.now()) <= 2 * SECOND
            (told,) = s.club.found(events.ClockOff)
            assert abs(timedelta(milliseconds=told.ahead_ms) - off) <= 2 * SECOND
            # Told once, whatever a step or the next beacons bring, until it is right again.
            for _ in range(3):
                await asyncio.sleep(60)
                await s.sends(s.beacon(nonce=s.downlink.nonce()), "beacon")
            assert len(s.club.found(events.ClockOff)) == 1
            s.host_off = timedelta()
            await s.sends(s.beacon(nonce=s.downlink.nonce()), "beacon")
            assert [each.ahead_ms for each in s.club.found(events.ClockOff)][1:] == [0]

    run(journey())


def test_only_a_nonce_of_ours_that_is_answered_at_once_and_once_proves_the_time() -> None:
    async def journey() -> None:
        async with signing(host_off=-YEAR) as s:
            s.club.clock.trusted = False
            s.in_force = None
            nonce = s.downlink.nonce()
            await s.sends(s.beacon(nonce=bytes(16)), "beacon")
            assert not s.clock.authenticated
            late = s.beacon(nonce=nonce)
            await asyncio.sleep(10.5)
            await s.sends(late, "beacon")
            assert not s.clock.authenticated
            nonce = s.downlink.nonce()
            answer = s.beacon(nonce=nonce)
            await s.sends(answer, "beacon")
            first = s.clock.now()
            await asyncio.sleep(5)
            await s.sends(answer, "beacon")  # held back and said again: used up
            assert s.clock.now() - first >= 4.9 * SECOND
            expired = s.beacon(nonce=s.downlink.nonce(), expires=int(s.now().timestamp()) - 1)
            await s.sends(expired, "beacon")
            assert seen(s) == ["expired"]

    run(journey())


def test_after_a_stolen_key_carried_the_time_ahead_new_keys_set_it_right_once() -> None:
    async def journey() -> None:
        async with signing() as s:
            s.club.clock.trusted = False

            async def answers(by: str, off: timedelta = timedelta()) -> None:
                at = s.now() + off
                seconds, nonce = int(at.timestamp()), s.downlink.nonce()
                await s.sends(
                    s.beacon(by, nonce=nonce, now_ms=seconds * 1000, expires=seconds + 60),
                    "beacon",
                )
                await asyncio.sleep(2)

            def ahead() -> timedelta:
                return s.clock.now() - s.now()

            await answers("freshness-1", AHEAD)
            s.clock.raise_floor(s.clock.now())
            await answers("freshness-1")
            assert (ahead() > AHEAD - 10 * SECOND, s.clock.trust()) == (True, TimeTrust.T1)
            # The successor is remembered, and not in force yet: the old keys get no second chance.
            s.untimed_root = 2
            await answers("freshness-1")
            assert (ahead() > AHEAD - 10 * SECOND, s.floors) == (True, [])
            roles = {**ROLE_KEYS, "freshness": ("freshness-2",)}
            s.roots.current = keys(version=2, roles=roles)
            await answers("freshness-1")
            assert seen(s) == ["unknown_key"]
            await answers("freshness-2", -timedelta(days=2))  # before the root was made
            assert (ahead() > AHEAD - 10 * SECOND, s.floors) == (True, [])
            await answers("freshness-2")
            assert (abs(ahead()) < 3 * SECOND, s.clock.trust()) == (True, TimeTrust.T2)
            assert (len(s.floors), len(s.retimings)) == (1, 1)
            assert abs(s.floors[0] - s.now()) < 4 * SECOND
            assert s.downlink.sure() == START - timedelta(days=1), "what is spent is kept to here"
            await answers("freshness-2", -timedelta(hours=1))
            assert (s.clock.now() >= s.floors[0], len(s.floors)) == (True, 1), "it was once"

    run(journey())


def test_what_could_not_be_kept_may_set_the_time_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async def full(_to: Any) -> None:
        raise StorageError("no space left on device")

    async def journey() -> None:
        async with signing() as s:
            s.untimed_root = 1
            with monkeypatch.context() as disk:
                disk.setattr(s.downlink, "_parts", s.downlink._parts._replace(set_floor=full))
                await s.sends(s.beacon(nonce=s.downlink.nonce()), "beacon")
            assert (s.retimings, s.wanted) == ([], [7])
            await s.sends(s.beacon(nonce=s.downlink.nonce()), "beacon")
            assert (len(s.retimings), len(s.floors)) == (1, 1)

    run(journey())


def test_a_freeze_is_told_once_and_only_while_the_broker_is_there() -> None:
    async def journey() -> None:
        async with signing() as s:

            async def passes(minutes: float) -> tuple[int, int]:
                for _ in range(int(minutes * 2)):
                    await asyncio.sleep(30)
                    s.downlink.look()
                missing, back = events.BeaconsMissing, events.BeaconsBack
                return len(s.club.found(missing)), len(s.club.found(back))

            assert await passes(60) == (0, 0)  # no session: nothing could have come
            s.downlink.session(there=True)
            assert await passes(14) == (0, 0)
            assert await passes(2) == (1, 0)
            assert await passes(600) == (1, 0)
            await s.sends(s.beacon(revision=6), "beacon")  # one that is refused is none
            assert await passes(1) == (1, 0)
            await s.sends(s.beacon(), "beacon")
            assert await passes(1) == (1, 1)
            s.downlink.session(there=False)
            assert await passes(60) == (1, 1)
            s.downlink.session(there=True)
            assert await passes(14.5) == (1, 1)
            assert await passes(1) == (2, 1)

    run(journey())


def test_nothing_is_taken_under_a_root_that_has_expired_but_acknowledgements() -> None:
    async def journey() -> None:
        async with signing(host_off=366 * timedelta(days=1)) as s:
            await s.sends(s.beacon(), "beacon")
            assert seen(s) == ["root_expired"]
            await s.sends(s.ack(), "ack")
            assert s.acknowledged == [("s-1", 5)]

    run(journey())
