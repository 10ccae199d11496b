import json
import random
from datetime import timedelta

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.ipc.messages import Events, NumberedBody, UrgentEvents
from gateway.link.acks import ACK_BYTES_MAX, Ack, open_ack
from gateway.link.backoff import Backoff
from gateway.link.errors import LinkError
from gateway.link.topics import Topics, level
from gateway.link.uplink import (
    AHEAD_EVENTS_MAX,
    BATCH_EVENTS_MAX,
    IN_FLIGHT_MAX,
    PROBE_EVENTS_MAX,
    PUBACK_WAIT,
    Batch,
    UplinkProtocol,
    Verdict,
    Wanted,
)

NOW = timedelta(hours=5)


def uplink(
    acknowledged: int = 0, *, connected: bool = True, answered: bool = True
) -> UplinkProtocol:
    """`answered`: the cloud has acknowledged something in this session."""
    made = UplinkProtocol(random.Random(1))
    made.journal("s", acknowledged, acknowledged + answered)
    if connected:
        made.connected()
    if answered:
        assert made.acked(Ack("s", acknowledged + 1), NOW) is Verdict.EARLY
    return made


def read(wanted: Wanted | None, last: int, stream: str = "s") -> Events:
    """What a journal with events up to `last` gives."""
    assert wanted is not None
    seqs = range(wanted.after + 1, min(last, wanted.after + wanted.limit) + 1)
    return Events(
        stream=stream, first_seq=wanted.after + 1, bodies=[b'{"n":%d}' % seq for seq in seqs]
    )


def send(link: UplinkProtocol, last: int, now: timedelta = NOW) -> Batch | None:
    wanted = link.wanted()
    return None if wanted is None else link.took(read(wanted, last), now)


def seqs(batch: Batch | None) -> list[int]:
    assert batch is not None
    return [numbered["seq"] for numbered in json.loads(batch.payload)["events"]]


def send_all(link: UplinkProtocol, last: int, now: timedelta = NOW) -> list[int]:
    """Everything that may be sent while the broker takes each batch at once."""
    sent: list[int] = []
    while (batch := send(link, last, now)) is not None:
        sent += seqs(batch)
        link.published(batch.token, now)
    return sent


def test_nothing_is_wanted_before_the_core_and_the_broker_are_there() -> None:
    link = UplinkProtocol(random.Random(1))
    assert link.wanted() is None
    link.connected()
    assert link.wanted() is None
    link.journal("s", 7, 7)
    assert link.wanted() == (7, PROBE_EVENTS_MAX)
    link.disconnected()
    assert link.wanted() is None


def test_a_batch_carries_the_bodies_as_they_lie_in_the_journal() -> None:
    batch = send(uplink(4), 6)
    assert batch is not None
    assert batch.payload == (
        b'{"v":1,"stream":"s","events":[{"seq":5,"event":{"n":5}},{"seq":6,"event":{"n":6}}]}'
    )


def test_no_more_batches_are_in_flight_than_the_window_has() -> None:
    link = uplink()
    batches = [send(link, 10**6) for _ in range(IN_FLIGHT_MAX)]
    assert link.wanted() is None
    assert batches[3] is not None
    link.published(batches[3].token, NOW)
    assert link.wanted() == (IN_FLIGHT_MAX * BATCH_EVENTS_MAX, BATCH_EVENTS_MAX)


def test_no_more_is_sent_ahead_of_the_cloud_than_the_limit() -> None:
    link = uplink()  # the cloud has said that it has the first
    assert send_all(link, 10**6) == list(range(1, AHEAD_EVENTS_MAX + 2))
    assert link.acked(Ack("s", 50), NOW) is Verdict.TAKEN
    assert send_all(link, 10**6) == list(range(AHEAD_EVENTS_MAX + 2, AHEAD_EVENTS_MAX + 51))


def test_a_new_session_begins_behind_what_the_cloud_acknowledged() -> None:
    link = uplink()
    send_all(link, 300)
    link.acked(Ack("s", 120), NOW)
    link.disconnected()
    link.connected()
    assert send_all(link, 300) == list(range(121, 141))
    link.acked(Ack("s", 140), NOW)
    assert send_all(link, 300) == list(range(141, 301))


def test_a_new_session_sends_one_small_batch_until_the_cloud_has_answered() -> None:
    link = uplink(answered=False)
    waits = []
    now = NOW
    for _ in range(4):
        assert send_all(link, 10**6, now) == list(range(1, PROBE_EVENTS_MAX + 1))
        begun = now
        while not link.tick(now):
            now += timedelta(seconds=0.25)
        waits.append((now - begun).total_seconds())
    for wait, least in zip(waits, (1, 2, 4, 8), strict=True):
        assert least <= wait <= least * 1.25 + 0.25
    send_all(link, 10**6, now)
    assert link.acked(Ack("s", PROBE_EVENTS_MAX), now) is Verdict.TAKEN
    assert len(send_all(link, 10**6, now)) == AHEAD_EVENTS_MAX


def test_what_is_still_on_its_way_over_a_slow_line_is_not_sent_twice() -> None:
    link = uplink(answered=False)
    batch = send(link, 5)
    assert batch is not None
    assert not link.tick(NOW + timedelta(minutes=1))
    link.published(batch.token, NOW + timedelta(minutes=1))
    assert link.tick(NOW + timedelta(minutes=1))


@pytest.mark.parametrize("ahead", [1, AHEAD_EVENTS_MAX, 3 * AHEAD_EVENTS_MAX])
def test_a_cloud_that_is_further_ahead_than_may_be_sent_at_once_is_caught_up_with(
    ahead: int,
) -> None:
    """The core keeps an acknowledgement once a second: a link that died takes some with it."""
    link, last = uplink(answered=False), 4 * AHEAD_EVENTS_MAX
    link.journal("s", 0, last)
    verdicts: list[Verdict] = []
    while link.acknowledged < ahead and len(verdicts) < 1_000:
        batch = send(link, last)
        assert batch is not None, "it waits for an acknowledgement that it has"
        link.published(batch.token, NOW)
        verdicts.append(link.acked(Ack("s", ahead), NOW))
    assert verdicts[-1] is Verdict.TAKEN
    assert set(verdicts[:-1]) <= {Verdict.EARLY}


def test_a_cloud_that_is_ahead_of_a_restarted_link_is_caught_up_with() -> None:
    link = UplinkProtocol(random.Random(1))
    link.journal("s", 400, 9_000)
    link.connected()
    assert send_all(link, 9_000) == list(range(401, 421))
    assert link.acked(Ack("s", 5_000), NOW) is Verdict.EARLY
    assert link.acknowledged == 400
    assert send_all(link, 9_000)[-1] == 9_000
    assert link.acked(Ack("s", 5_000), NOW) is Verdict.TAKEN
    assert link.acked(Ack("s", 9_001), NOW) is Verdict.AHEAD


def urgent(*seqs: int, stream: str = "s") -> UrgentEvents:
    return UrgentEvents(stream=stream, events=[NumberedBody(seq, b"{}") for seq in seqs])


def test_an_urgent_event_goes_ahead_of_the_backlog_and_comes_again_at_its_place() -> None:
    link = uplink()
    send(link, 10**6)
    assert link.urgent_wanted() == BATCH_EVENTS_MAX
    batch = link.took_urgent(urgent(9_000, 9_500))
    assert batch is not None
    assert batch.payload == (
        b'{"v":1,"stream":"s","urgent":true,'
        b'"events":[{"seq":9000,"event":{}},{"seq":9500,"event":{}}]}'
    )
    assert link.urgent_wanted() is None, "one urgent message at a time"
    link.published(batch.token, NOW)
    assert link.urgent_wanted() == 9_500
    assert 9_000 in send_all(link, 10**6)


def test_an_urgent_event_that_the_next_batch_carries_is_not_sent_twice() -> None:
    link = uplink(10)
    assert link.took_urgent(urgent(11)) is None
    assert link.urgent_wanted() == 11


def test_that_an_urgent_event_was_sent_says_nothing_of_those_before_it() -> None:
    link = uplink()
    send(link, 10**6)
    link.took_urgent(urgent(9_000))
    assert link.acked(Ack("s", 9_000), NOW) is Verdict.EARLY
    assert link.acknowledged == 0


def test_urgent_events_of_another_stream_or_without_a_session_are_not_sent() -> None:
    link = uplink()
    assert link.took_urgent(urgent(9_000, stream="t")) is None
    link.disconnected()
    assert link.urgent_wanted() is None
    assert link.took_urgent(urgent(9_000)) is None
    link.connected()
    assert link.took_urgent(urgent(9_000)) is not None


def test_puback_is_not_delivery() -> None:
    link = uplink()
    send_all(link, 5)
    assert link.acknowledged == 0
    assert not link.tick(NOW + timedelta(seconds=29))
    assert link.tick(NOW + timedelta(seconds=38))
    assert send_all(link, 5) == [1, 2, 3, 4, 5]


def test_an_acknowledged_event_is_not_sent_again() -> None:
    link = uplink()
    send_all(link, 5)
    link.acked(Ack("s", 5), NOW)
    assert not link.tick(NOW + timedelta(hours=1))
    assert send_all(link, 5) == []


def test_a_silent_cloud_is_asked_ever_less_and_with_one_batch_only() -> None:
    link = uplink()
    send_all(link, 10**6)
    now = NOW
    waits = []
    for _ in range(6):
        begun = now
        while not link.tick(now):
            now += timedelta(seconds=1)
        waits.append((now - begun).total_seconds())
        assert send_all(link, 10**6, now) == list(range(1, PROBE_EVENTS_MAX + 1))
    for wait, least in zip(waits, (30, 60, 120, 240, 300, 300), strict=True):
        assert least <= wait <= least * 1.25 + 1
    assert link.acked(Ack("s", 20), now) is Verdict.TAKEN
    assert len(send_all(link, 10**6, now)) == AHEAD_EVENTS_MAX


def test_progress_restores_patience() -> None:
    link = uplink()
    send_all(link, 10)
    link.acked(Ack("s", 5), NOW + timedelta(seconds=29))
    assert not link.tick(NOW + timedelta(seconds=55))
    assert link.tick(NOW + timedelta(seconds=68))


def test_a_late_acknowledgement_of_everything_spares_sending_it_again() -> None:
    link = uplink()
    send_all(link, 1_000)
    assert link.tick(NOW + timedelta(seconds=60))
    assert link.acked(Ack("s", 1_000), NOW + timedelta(seconds=61)) is Verdict.TAKEN
    assert send_all(link, 1_000) == []


def test_an_acknowledgement_that_cannot_be_right_changes_nothing() -> None:
    link = uplink(2)
    send_all(link, 5)
    assert link.acked(Ack("other", 4), NOW) is Verdict.FOREIGN
    assert link.acked(Ack("s", 6), NOW) is Verdict.AHEAD
    assert link.acked(Ack("s", 2), NOW) is Verdict.OLD
    assert link.acknowledged == 2


def test_what_was_read_before_a_step_back_is_not_sent() -> None:
    link = uplink()
    stale = read(link.wanted(), 100)
    link.took(stale, NOW)
    late = read(link.wanted(), 150)
    link.disconnected()
    assert link.took(late, NOW) is None
    link.connected()
    assert link.took(late, NOW) is None
    assert link.took(read(link.wanted(), 150, stream="new"), NOW) is None
    assert link.wanted() == (0, PROBE_EVENTS_MAX)


def test_a_new_journal_begins_at_its_own_position() -> None:
    link = uplink()
    send_all(link, 50)
    link.acked(Ack("s", 50), NOW)
    link.journal("t", 3, 3)
    assert link.acked(Ack("s", 50), NOW) is Verdict.FOREIGN
    assert link.wanted() == (3, PROBE_EVENTS_MAX)


def test_a_core_that_forgot_an_acknowledgement_does_not_make_events_go_again() -> None:
    link = uplink()
    send_all(link, 50)
    link.acked(Ack("s", 50), NOW)
    link.journal("s", 10, 10)
    assert link.wanted() == (50, BATCH_EVENTS_MAX)


def test_a_broker_that_owes_pubacks_for_long_is_given_up() -> None:
    link = uplink()
    first, second = send(link, 200), send(link, 200)
    assert first is not None
    assert second is not None
    assert not link.stuck(NOW + PUBACK_WAIT - timedelta(seconds=1))
    link.published(first.token, NOW + timedelta(seconds=100))
    assert not link.stuck(NOW + PUBACK_WAIT)
    assert link.stuck(NOW + PUBACK_WAIT + timedelta(seconds=100))
    link.published(second.token, NOW)
    assert not link.stuck(NOW + timedelta(days=1))


def test_a_gap_in_the_journal_does_not_stop_what_is_behind_it() -> None:
    link = uplink()
    link.skip_to(40)
    assert seqs(send(link, 50)) == list(range(41, 51))


STEPS = st.lists(
    st.sampled_from(
        ["record", "send", "send", "puback", "lose", "ack", "silence", "drop", "core", "bad_ack"]
    ),
    max_size=200,
)


@settings(max_examples=200)
@given(STEPS, st.randoms(use_true_random=False))
def test_over_any_history_the_cloud_gets_every_event_once_faults_stop(
    steps: list[str], rng: random.Random
) -> None:
    link = uplink(connected=False)
    last, core_acknowledged = 0, 0
    flying: list[Batch] = []
    cloud: set[int] = set()
    now = NOW

    def reached() -> int:
        seq = 0
        while seq + 1 in cloud:
            seq += 1
        return seq

    for step in steps:
        now += timedelta(seconds=1)
        if step == "record":
            last += rng.randrange(1, 300)
        elif step == "send" and (batch := send(link, last, now)):
            assert len(flying) < IN_FLIGHT_MAX
            flying.append(batch)
        elif step == "puback" and flying:
            batch = flying.pop(0)
            link.published(batch.token, now)
            if rng.random() < 0.7:  # else the broker forgets what it took
                cloud.update(seqs(batch))
        elif step in {"lose", "drop"}:
            link.disconnected()
            flying.clear()
            link.connected()
        elif step == "ack" and reached():
            link.acked(Ack("s", reached()), now)
        elif step == "bad_ack":
            link.acked(Ack("s", last + 1_000_000), now)
            link.acked(Ack("elsewhere", 1), now)
        elif step == "silence":
            now += timedelta(seconds=400)
            link.tick(now)
        elif step == "core":
            link.journal("s", core_acknowledged, core_acknowledged)
        assert link.acknowledged <= reached()
        core_acknowledged = max(core_acknowledged, link.acknowledged - rng.randrange(5))
        core_acknowledged = max(core_acknowledged, 0)

    link.connected()
    for _ in range(10_000):
        if reached() == last:
            break
        now += timedelta(seconds=400)
        link.tick(now)
        cloud.update(send_all(link, last, now))
        if reached():
            link.acked(Ack("s", reached()), now)
    assert cloud == set(range(1, last + 1))


# --- Acknowledgements -----------------------------------------------------------------------------


def test_an_acknowledgement_is_opened() -> None:
    assert open_ack(b'{"stream": "s", "seq": 7}') == Ack("s", 7)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"null",
        b"{}",
        b'{"stream": "s"}',
        b'{"stream": "s", "seq": 0}',
        b'{"stream": "s", "seq": -1}',
        b'{"stream": "s", "seq": 1.5}',
        b'{"stream": "s", "seq": "1"}',
        b'{"stream": "s", "seq": true}',
        b'{"stream": "s", "seq": 9223372036854775808}',
        b'{"stream": "", "seq": 1}',
        b'{"stream": "' + b"s" * 65 + b'", "seq": 1}',
        b'{"stream": "s", "seq": 1, "more": 1}',
        b'{"stream": "\xff", "seq": 1}',
        b'[["s", 1]]',
        b"[" * ACK_BYTES_MAX,
        b'{"stream": "s", "seq": 1}' + b" " * ACK_BYTES_MAX,
    ],
)
def test_anything_else_is_not_an_acknowledgement(payload: bytes) -> None:
    with pytest.raises(LinkError):
        open_ack(payload)


@given(st.binary(max_size=600))
def test_no_bytes_do_more_than_be_refused(payload: bytes) -> None:
    try:
        open_ack(payload)
    except LinkError:
        return
    assert set(msgspec.json.decode(payload)) == {"stream", "seq"}


# --- Topics and backoff ---------------------------------------------------------------------------


@given(st.text(min_size=1, max_size=16), st.text(min_size=1, max_size=16))
def test_no_id_leaves_its_level_of_the_topic(one: str, other: str) -> None:
    try:
        encoded = level(one), level(other)
    except UnicodeEncodeError:
        return
    for text in encoded:
        assert not set(text) & set("/+#\0 $")
        assert text.isascii()
    assert (one == other) == (encoded[0] == encoded[1])


def test_topics_are_those_of_the_first_version() -> None:
    topics = Topics("LON", "lon 1/é#")
    assert topics.event == "acs/v1/LON/lon%201%2F%C3%A9%23/event"
    assert topics.door_state("a+b") == "acs/v1/LON/lon%201%2F%C3%A9%23/door/a%2Bb/state"


@pytest.mark.parametrize("identifier", ["", "x" * 193])
def test_an_id_that_makes_no_topic_is_refused(identifier: str) -> None:
    with pytest.raises(LinkError):
        level(identifier)


def test_backoff_grows_to_its_cap_with_jitter_and_ends_after_a_stable_session() -> None:
    backoff = Backoff(random.Random(3), first_s=1, max_s=25, stable_s=30)
    waits = [backoff.failed() for _ in range(200)]
    for wait, ceiling in zip(waits, (1, 2, 4, 8, 16, 25), strict=False):
        assert 0 <= wait <= ceiling
    assert 20 < max(waits) <= 25
    assert len(set(waits)) > 190
    # A session that is taken over again and again does not reset it.
    assert max(backoff.failed(timedelta(seconds=5)) for _ in range(50)) > 10
    assert backoff.failed(timedelta(seconds=31)) <= 1


# --- A site that keeps its events itself: the broker's word counts --------------------------------


def local_uplink() -> UplinkProtocol:
    made = UplinkProtocol(random.Random(1), local=True)
    made.journal("s", 0, 0)
    made.connected()
    return made


def batch_of(link: UplinkProtocol, last: int) -> Batch:
    batch = send(link, last)
    assert batch is not None
    return batch


def test_a_local_site_sends_every_event_once() -> None:
    link, sent = local_uplink(), list[int]()
    while link.acknowledged < 450:
        batch = batch_of(link, 450)
        sent += seqs(batch)
        assert link.published(batch.token, NOW)
        assert link.acknowledged == sent[-1]
    assert sent == list(range(1, 451))
    assert not link.tick(NOW + timedelta(hours=1))
    link.disconnected()
    link.connected()
    assert link.wanted() == Wanted(450, PROBE_EVENTS_MAX)


@given(order=st.permutations(range(6)), refused=st.none() | st.integers(0, 5))
def test_a_local_site_counts_what_the_broker_has_without_a_gap(
    order: list[int], refused: int | None
) -> None:
    link = local_uplink()
    first = batch_of(link, 1)
    link.published(first.token, NOW)
    batches = [batch_of(link, last) for last in range(2, 8)]
    done = set[int]()
    for number in order:
        link.published(batches[number].token, NOW, refused=number == refused)
        done |= {number} - {refused}
        through = next(number for number in range(7) if number not in done)
        assert link.acknowledged == through + 1
    if refused is not None:
        assert link.tick(NOW + timedelta(hours=1)), "it is sent again"
        assert seqs(send(link, 7)) == list(range(refused + 2, 8))


def test_a_local_site_waits_for_a_slow_broker_and_sends_nothing_twice() -> None:
    link = local_uplink()
    link.published(batch_of(link, 1).token, NOW)
    slow = batch_of(link, 2)
    assert not link.tick(NOW + timedelta(seconds=100))
    assert link.stuck(NOW + PUBACK_WAIT)
    link.disconnected()
    link.connected()
    assert seqs(send(link, 2)) == [2], "nobody knows whether the broker has it"
    assert not link.published(slow.token, NOW), "of the session before"


def test_a_local_site_gets_round_what_retention_has_deleted() -> None:
    link = local_uplink()
    link.skip_to(40)
    assert link.acknowledged == 40
    ahead = batch_of(link, 45)
    link.skip_to(50)
    assert link.published(ahead.token, NOW)
    assert link.acknowledged == 50
    assert link.wanted() == Wanted(50, BATCH_EVENTS_MAX)
