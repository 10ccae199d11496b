"""The link process: follows the journal in the core, and takes it to the cloud."""

import asyncio
import random
from collections import Counter, deque
from collections.abc import Iterable
from contextlib import suppress
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Literal

import msgspec
import structlog
from paho.mqtt.enums import MQTTProtocolVersion
from paho.mqtt.reasoncodes import ReasonCode

from gateway.cancellation import in_own_task
from gateway.clock import Clock
from gateway.errors import IpcError
from gateway.ipc.client import CoreClient, connect
from gateway.ipc.messages import SEALED_BYTES_MAX, Deliver, DoorStateReport, Outgoing
from gateway.link.acks import Ack, open_ack
from gateway.link.announced import Announced
from gateway.link.backoff import Backoff
from gateway.link.errors import BrokerUnavailable, LinkError, TlsUnusable
from gateway.link.health import LinkHealth
from gateway.link.home_assistant import Announcements
from gateway.link.live import LIVE_BLOCKED_MAX, LiveEvents
from gateway.link.report import SessionReport
from gateway.link.session import Session, open_session
from gateway.link.settings import LinkSettings
from gateway.link.tls import client_context
from gateway.link.topics import Topics
from gateway.link.uplink import (
    BATCH_EVENTS_MAX,
    URGENT_EVENTS_MAX,
    UplinkProtocol,
    Verdict,
)
from gateway.link.words import explained

FETCH_WAIT_S = 20.0
"""How long one question for events waits: an idle gateway asks three times a minute."""

INBOX_MAX = 64
"""Sealed envelopes that wait for the core, which takes one in a millisecond."""
SEALED_ACKS_MAX = 8
"""Acknowledgements are cumulative: of many that wait the newest are enough."""
OUTBOX_MAX = 64
"""The core's messages while there is no session; the oldest gives way."""
IGNORED_TOLD_EVERY = timedelta(minutes=10)
"""How often the log tells of acknowledgements that count for nothing, by what is wrong with them:
anybody on the broker can send them, and a flood must not fill the disk."""

REFUSALS_LOGGED_MAX = 100
"""Refusals of one session in the log: more of them have the same cause."""

TICK_S = 0.25
"""How often a silent cloud or a stuck broker is looked for."""

_log = structlog.get_logger(__name__)
_encode = msgspec.json.Encoder().encode


async def run_link(
    settings: LinkSettings, socket_path: Path, clock: Clock, rng: random.Random
) -> None:
    """Relay between the core that serves `socket_path` and the broker until cancelled.

    Neither the core's death nor the broker's ends it. Cancelled, it says offline and disconnects
    within 2 s.

    Raises:
        LinkError: The ids of site and gateway make no topic.
    """
    await _Link(settings, socket_path, clock, rng).run()


class _Link:
    def __init__(
        self, settings: LinkSettings, socket_path: Path, clock: Clock, rng: random.Random
    ) -> None:
        self._settings = settings
        self._pace = settings.pace
        self._socket_path = socket_path
        self._clock = clock
        self._topics = Topics(settings.site, settings.gateway)
        self._announcements = (
            None
            if settings.home_assistant is None
            else Announcements(
                self._topics,
                settings.home_assistant,
                site=settings.site,
                gateway=settings.gateway,
            )
        )
        self._backoff = Backoff(
            rng,
            first_s=self._pace.backoff_s_first,
            max_s=self._pace.backoff_s_max,
            stable_s=self._pace.stable_s,
        )
        self._uplink = UplinkProtocol(
            rng,
            probe_s_first=self._pace.probe_s_first,
            resend_s_first=self._pace.resend_s_first,
            resend_s_max=self._pace.resend_s_max,
            local=settings.local,
        )
        self._live = LiveEvents(self._topics)
        self._announced = Announced(
            settings.announced, self._topics, site=settings.site, gateway=settings.gateway
        )
        self._report = SessionReport(self._topics.event, clock.monotonic())
        self._version = MQTTProtocolVersion.MQTTv5
        self._outage = _Outage("broker")
        self._core_outage = _Outage("core")
        self._session: Session | None = None
        self._sessions = 0
        self._core_there = False
        self._doors: dict[str, DoorStateReport] = {}
        self._door_ids: frozenset[str] | None = None
        """All doors of the site; None before the core has named them."""
        self._doors_stale: dict[str, None] = {}
        self._refusals: set[tuple[str, str]] = set()
        """Topics and reasons of this session's refusals that are in the log."""
        self._acks = Counter[str]()
        self._acks_ignored = Counter[str]()
        """Since they were last told of."""
        self._acks_ignored_next: dict[str, timedelta] = {}
        self._dropped = Counter[str]()
        self._sealed_acks: deque[Deliver] = deque(maxlen=SEALED_ACKS_MAX)
        self._inbox: asyncio.Queue[Deliver] = asyncio.Queue(INBOX_MAX)
        self._outbox: deque[Outgoing] = deque(maxlen=OUTBOX_MAX)
        self._session_to_tell = asyncio.Event()
        self._fetching: asyncio.Timeout | None = None
        self._may_send = asyncio.Event()
        self._may_send_urgent = asyncio.Event()
        self._ack_to_relay = asyncio.Event()
        self._suspect_ack: Ack | None = None
        self._state_to_tell = asyncio.Event()
        self._health_due = asyncio.Event()

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._core_side())
            group.create_task(self._broker_side())

    # --- The core ---------------------------------------------------------------------------------

    async def _core_side(self) -> None:
        while True:
            try:
                await in_own_task(self._one_core())
            except* IpcError as failed:
                why = failed.exceptions[0]
                self._core_outage.failed(type(why).__name__, str(why))
            finally:
                self._core_is_there(there=False)
            await asyncio.sleep(self._pace.core_retry_s)

    async def _one_core(self) -> None:
        """Serve one life of the core, to its end."""
        async with connect(self._socket_path, role="link") as core:
            await self._learn_journal(core)
            self._core_is_there(there=True)
            async with asyncio.TaskGroup() as group:
                group.create_task(self._send_events(core))
                group.create_task(self._send_urgent(core))
                if self._announcements is not None:
                    group.create_task(self._send_live(core))
                group.create_task(self._relay_acks(core))
                group.create_task(self._follow_doors(core))
                group.create_task(self._tell_health(core))
                group.create_task(self._tell_session(core))
                group.create_task(self._follow_outbox(core))
                group.create_task(self._relay_sealed(core))

    def _core_is_there(self, *, there: bool) -> None:
        if there:
            self._core_outage.over()
        if there != self._core_there:
            self._core_there = there
            self._state_to_tell.set()

    async def _learn_journal(self, core: CoreClient) -> None:
        status = await core.status()
        self._uplink.journal(status.stream, status.acknowledged_seq, status.last_seq)
        self._live.journal(status.stream, status.last_seq)
        self._learn_doors(frozenset(status.doors))
        # The core may have died before it heard of the last acknowledgement.
        self._ack_to_relay.set()
        self._send_anew()

    def _learn_doors(self, doors: frozenset[str]) -> None:
        """Forget the doors that the core has no more: their states are to be cleared."""
        if doors != self._door_ids:
            self._door_ids = doors
            self._doors = {door: state for door, state in self._doors.items() if door in doors}
            self._doors_stale = {door: None for door in self._doors_stale if door in doors}
            self._state_to_tell.set()

    async def _send_events(self, core: CoreClient) -> None:
        while True:
            session = self._session
            wanted = self._uplink.wanted()
            if session is None or wanted is None:
                self._may_send.clear()
                await self._may_send.wait()
                continue
            begun = self._clock.monotonic()
            try:
                async with asyncio.timeout(None) as self._fetching:
                    events = await core.fetch(
                        wanted.after,
                        limit=wanted.limit,
                        bytes_max=session.batch_bytes_max,
                        wait_s=FETCH_WAIT_S,
                    )
            except TimeoutError:  # what is wanted has changed meanwhile
                continue
            finally:
                self._fetching = None
            if events.stream != self._uplink.stream:
                _log.warning("journal_stream_changed", stream=events.stream)
                await self._learn_journal(core)
                continue
            if events.bodies and events.first_seq > wanted.after + 1:
                # Not in a sound journal. Waiting here for ever would lose everything behind it.
                _log.error("journal_gap", after=wanted.after, first=events.first_seq)
                self._uplink.skip_to(events.first_seq - 1)
            batch = self._uplink.took(events, self._clock.monotonic())
            if batch is not None:
                done = partial(self._published, batch.token)
                session.publish(self._topics.event, batch.payload, done=done)
            if len(events.bodies) == BATCH_EVENTS_MAX:
                took = self._clock.monotonic() - begun
                await asyncio.sleep(took.total_seconds() * self._pace.rest)

    async def _send_urgent(self, core: CoreClient) -> None:
        """What must not wait behind a month's backlog goes ahead of it."""
        while True:
            session, after = self._session, self._uplink.urgent_wanted()
            if session is None or after is None:
                self._may_send_urgent.clear()
                await self._may_send_urgent.wait()
                continue
            urgent = await core.fetch_urgent(after, limit=URGENT_EVENTS_MAX, wait_s=FETCH_WAIT_S)
            batch = self._uplink.took_urgent(urgent)
            if batch is not None and (session := self._session) is not None:
                done = partial(self._published, batch.token)
                session.publish(self._topics.event, batch.payload, done=done)

    async def _send_live(self, core: CoreClient) -> None:
        """Events as they happen, once: also while others wait for the cloud."""
        while True:
            events = await core.fetch(self._live.after, limit=BATCH_EVENTS_MAX, wait_s=FETCH_WAIT_S)
            if not self._live.follows(events.stream):
                await self._learn_journal(core)
                continue
            for topic, payload in self._live.take(events, self._clock.monotonic()):
                session = self._session
                if session is not None and session.blocked <= LIVE_BLOCKED_MAX:
                    session.publish(topic, payload, qos=0)

    def _published(self, token: int, reason: ReasonCode) -> None:
        # Refused events stay in the journal, and are sent again: nobody acknowledges them.
        now = self._clock.monotonic()
        if self._uplink.published(token, now, refused=reason.is_failure):
            self._ack_to_relay.set()
        self._may_send.set()
        self._may_send_urgent.set()

    def _send_anew(self) -> None:
        self._may_send.set()
        self._may_send_urgent.set()
        if self._fetching is not None:
            self._fetching.reschedule(asyncio.get_running_loop().time())

    async def _relay_acks(self, core: CoreClient) -> None:
        while True:
            await self._ack_to_relay.wait()
            self._ack_to_relay.clear()
            while self._sealed_acks:
                await self._relay_sealed_ack(core, self._sealed_acks.popleft())
            suspect, self._suspect_ack = self._suspect_ack, None
            if suspect is not None:
                await core.report_ack(suspect.stream, suspect.seq)
            stream, seq = self._uplink.stream, self._uplink.acknowledged
            if stream is not None and seq and not self._settings.sealed:
                reached = await core.acknowledge(stream, seq)
                if reached < seq:
                    _log.error("core_refused_ack", stream=stream, seq=seq, reached=reached)
                await asyncio.sleep(self._pace.ack_s)

    async def _relay_sealed_ack(self, core: CoreClient, sealed: Deliver) -> None:
        """Only the core can tell whether it is the cloud's: its word counts here as well."""
        reached = await core.deliver(sealed)
        if reached.acknowledged and reached.stream == self._uplink.stream:
            now = self._clock.monotonic()
            verdict = self._uplink.acked(Ack(reached.stream, reached.acknowledged), now)
            self._acks[verdict] += 1
            self._may_send.set()
        await asyncio.sleep(self._pace.ack_s)

    async def _relay_sealed(self, core: CoreClient) -> None:
        while True:
            await core.deliver(await self._inbox.get())

    async def _tell_session(self, core: CoreClient) -> None:
        while True:
            self._session_to_tell.clear()
            await core.session_said(self._report.said(self._clock.monotonic()))
            with suppress(TimeoutError):
                async with asyncio.timeout(self._pace.report_s):
                    await self._session_to_tell.wait()

    def _answered(self, topic: str, reason: ReasonCode) -> None:
        if reason.is_failure and self._is_news(topic, str(reason)):
            _log.warning("broker_refused_message", topic=topic, reason=explained(reason))
        if self._report.answered(topic, reason):
            self._session_to_tell.set()

    def _is_news(self, topic: str, reason: str) -> bool:
        """Whether the log has not had it in this session: events are refused every few seconds."""
        news = (topic, reason) not in self._refusals and len(self._refusals) < REFUSALS_LOGGED_MAX
        if news:
            self._refusals.add((topic, reason))
        return news

    async def _follow_outbox(self, core: CoreClient) -> None:
        async for outgoing in core.watch_outbox():
            self._outbox.append(outgoing)
            self._publish_outbox()

    def _publish_outbox(self) -> None:
        while self._outbox and self._session is not None:
            outgoing = self._outbox.popleft()
            self._session.publish(self._topics.of(outgoing.topic), outgoing.payload)

    async def _follow_doors(self, core: CoreClient) -> None:
        async for state in core.watch_doors():
            self._doors[state.door] = state
            self._doors_stale[state.door] = None
            self._state_to_tell.set()

    async def _tell_health(self, core: CoreClient) -> None:
        while True:
            self._health_due.clear()
            status = await core.status()
            if self._session is not None:
                health = {
                    "v": 1,
                    **msgspec.structs.asdict(status),
                    "doors": len(status.doors),
                    "link": LinkHealth(
                        sessions=self._sessions,
                        resends=self._uplink.resends,
                        acks=dict(self._acks),
                        dropped=dict(self._dropped),
                    ),
                }
                self._session.publish(self._topics.health, _encode(health), qos=0)
            with suppress(TimeoutError):
                async with asyncio.timeout(self._pace.health_s):
                    await self._health_due.wait()

    # --- The broker -------------------------------------------------------------------------------

    async def _broker_side(self) -> None:
        other_tried = False
        while True:
            begun = self._clock.monotonic()
            change_version = False
            try:
                await in_own_task(self._one_session())
            except* (BrokerUnavailable, TlsUnusable) as failed:
                why = failed.exceptions[0]
                self._report.failed(str(why), self._clock.monotonic())
                self._session_to_tell.set()
                change_version = isinstance(why, BrokerUnavailable) and why.other_version
                if change_version and not other_tried:
                    _log.debug("mqtt_version_not_understood", mqtt=self._version.name, why=str(why))
                else:
                    kind = why.kind if isinstance(why, BrokerUnavailable) else "tls"
                    self._outage.failed(kind, str(why))
            if change_version:
                self._version = _other(self._version)
            other_tried = change_version and not other_tried
            if other_tried:
                continue
            await asyncio.sleep(self._backoff.failed(self._clock.monotonic() - begun))

    async def _one_session(self) -> None:
        tls = self._settings.tls
        context = None if tls is None else await asyncio.to_thread(client_context, tls, self._clock)
        async with open_session(
            self._settings,
            self._topics,
            version=self._version,
            context=context,
            will=_status(online=False, why="lost"),
            subscriptions=self._subscriptions(),
            on_message=self._take,
            on_answer=self._answered,
        ) as session:
            self._sessions += 1
            self._refusals.clear()
            self._report.begun(self._clock.monotonic())
            self._outage.over(mqtt=self._version.name)
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(session.watch())
                    group.create_task(self._tell_states(session))
                    group.create_task(self._watch_patience())
                    self._session = session
                    self._health_due.set()  # whoever watches need not wait a minute for it
                    self._session_to_tell.set()
                    self._publish_outbox()
                    self._uplink.connected(session.window)
                    self._send_anew()
            except asyncio.CancelledError:
                self._uplink.disconnected()
                await session.say_goodbye(_status(online=False, why="stopped"))
                raise
            finally:
                self._session = None
                self._session_to_tell.set()
                self._uplink.disconnected()

    def _subscriptions(self) -> list[str]:
        return [self._topics.ack, *(self._topics.sealed if self._settings.sealed else ())]

    def _take(self, topic: str, payload: bytes, retained: bool) -> None:
        if topic == self._topics.ack:
            if self._settings.sealed:
                self._sealed_acks.append(Deliver(topic="ack", sealed=payload, retained=retained))
                self._ack_to_relay.set()
            else:
                self._take_ack(payload, retained)
            return
        name = self._topics.sealed.get(topic)
        if name is None or len(payload) > SEALED_BYTES_MAX:
            self._dropped[name or "other"] += 1
            return
        try:
            self._inbox.put_nowait(Deliver(topic=name, sealed=payload, retained=retained))
        except asyncio.QueueFull:
            # Commands and beacons come again, and what is missing of a bundle is asked for.
            self._dropped[name] += 1

    def _take_ack(self, payload: bytes, retained: bool) -> None:
        if retained:
            # It may be of any age, and nothing that counts is ever sent so.
            self._acks["retained"] += 1
            return
        try:
            ack = open_ack(payload)
        except LinkError as malformed:
            self._acks["malformed"] += 1
            self._tell_ignored("malformed", what=str(malformed))
            return
        verdict = self._uplink.acked(ack, self._clock.monotonic())
        self._acks[verdict] += 1
        if verdict is Verdict.TAKEN:
            self._ack_to_relay.set()
            self._may_send.set()
        elif verdict is Verdict.EARLY:
            self._may_send.set()
        elif verdict is not Verdict.OLD:
            self._tell_ignored(verdict.value, stream=ack.stream, seq=ack.seq)
            if verdict is Verdict.AHEAD:
                self._suspect_ack = ack
                self._ack_to_relay.set()

    def _tell_ignored(self, why: str, **last: object) -> None:
        self._acks_ignored[why] += 1
        now = self._clock.monotonic()
        if now < self._acks_ignored_next.get(why, now):
            return
        self._acks_ignored_next[why] = now + IGNORED_TOLD_EVERY
        _log.warning("ack_ignored", why=why, count=self._acks_ignored.pop(why), **last)

    async def _tell_states(self, session: Session) -> None:
        """Status and the states of doors, retained: the latest of each, one at a time."""
        self._doors_stale = dict.fromkeys(self._doors)
        told: bool | None = None
        announced = set[str]()
        known: frozenset[str] | None = None
        while True:
            self._state_to_tell.clear()
            if told is not self._core_there:
                told = self._core_there
                status = _status(online=True, core=told)
                await session.deliver(self._topics.status, status, retain=True)
            if known != self._door_ids and self._door_ids is not None:
                first, known = known is None, self._door_ids
                announced &= known  # one that comes back was cleared meanwhile
                await self._clear_what_is_gone(session, known)
                if first and self._announcements is not None:
                    await _announce(session, self._announcements.of_gateway())
            while self._doors_stale and known == self._door_ids:
                door = next(iter(self._doors_stale))
                del self._doors_stale[door]
                if self._announcements is not None and door not in announced:
                    announced.add(door)
                    await _announce(session, self._announcements.of_door(door))
                if door not in self._doors:
                    continue  # the core has come back without it meanwhile
                state = _encode({"v": 1, **msgspec.structs.asdict(self._doors[door])})
                await session.deliver(self._topics.door_state(door), state, retain=True)
            await self._state_to_tell.wait()

    async def _clear_what_is_gone(self, session: Session, doors: frozenset[str]) -> None:
        """Clear what an earlier configuration has retained and this one doesn't."""
        wanted = [self._topics.door_state(door) for door in doors]
        if self._announcements is not None:
            wanted += [topic for topic, _ in self._announcements.of_gateway()]
            wanted += [topic for door in doors for topic, _ in self._announcements.of_door(door)]
        gone = await asyncio.to_thread(self._announced.begin, wanted)
        for topic in gone:
            answer = await session.deliver(topic, b"", retain=True)
            _log.info("retained_topic_cleared", topic=topic, answer=str(answer))
        if gone:
            await asyncio.to_thread(self._announced.cleared, gone)

    async def _watch_patience(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            now = self._clock.monotonic()
            if self._uplink.stuck(now):
                raise BrokerUnavailable("lost", "the broker takes no more events (no PUBACK)")
            if self._uplink.tick(now):
                _log.info("events_sent_again", after=self._uplink.acknowledged)
                self._send_anew()


class _Outage:
    """Says once that something is away, once for each other reason, and once that it is back."""

    def __init__(self, what: str) -> None:
        self._log = _log.bind(what=what)
        self._kinds: set[str] = set()
        self._attempts = 0

    def failed(self, kind: str, why: str) -> None:
        self._attempts += 1
        if kind in self._kinds:
            self._log.debug("still_away", kind=kind, why=why, attempts=self._attempts)
        else:
            self._kinds.add(kind)
            self._log.warning("away", kind=kind, why=why)

    def over(self, **fields: str) -> None:
        self._log.info("there", attempts=self._attempts, **fields)
        self._kinds.clear()
        self._attempts = 0


async def _announce(session: Session, messages: Iterable[tuple[str, bytes]]) -> None:
    for topic, payload in messages:
        await session.deliver(topic, payload, retain=True)


def _other(version: MQTTProtocolVersion) -> MQTTProtocolVersion:
    """MQTT 5 where the broker has it, else 3.1.1; nothing that is sent differs."""
    if version is MQTTProtocolVersion.MQTTv5:
        return MQTTProtocolVersion.MQTTv311
    return MQTTProtocolVersion.MQTTv5


def _status(
    *,
    online: bool,
    core: bool | None = None,
    why: Literal["lost", "stopped"] | None = None,
) -> bytes:
    told: dict[str, object] = {"v": 1, "online": online}
    if core is not None:
        told["core"] = core
    if why is not None:
        told["why"] = why
    return _encode(told)
