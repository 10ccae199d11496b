"""The way of events to the cloud as the core sees it: the link, its session, acknowledgements."""

from contextlib import suppress
from datetime import datetime, timedelta

import msgspec

from gateway.clock import Clock
from gateway.decoding import decode_json
from gateway.errors import StorageError, Undecodable
from gateway.ipc.messages import BrokerStatus, SessionSaid
from gateway.journal import Journal

LINK_SILENT_AFTER = timedelta(seconds=45)
"""The link reports every 15 s: after three missed reports it is taken for dead. A start of the
link on a small box fits in as well."""

LOST_TOLD_AFTER = timedelta(seconds=10)
"""A session that is lost is back in a second or two as a rule: nobody has to look at that."""

UNACKNOWLEDGED_AFTER = timedelta(seconds=60)
"""The cloud acknowledges within a second or two, after a lost message within 37 s. With the minute
until the next health message central operations know within 2 minutes (P28)."""

LOST_OFTEN = 3
"""Sessions lost in five minutes that are no restart of a broker any more."""


class _At(msgspec.Struct):
    at: datetime


class Delivery:
    """Told of the link's reports and of acknowledgements; gives the status and its problems."""

    def __init__(
        self, address: str | None, journal: Journal, clock: Clock, keeper: str = "cloud"
    ) -> None:
        """`address` is the broker's host and port; None: the site has none, and expects none.

        `keeper` is who acknowledges events: "cloud", or "broker" where the box keeps them itself.
        """
        self._address = address
        self._keeper = keeper
        self._journal = journal
        self._clock = clock
        now = clock.monotonic()
        self._said: SessionSaid | None = None
        self._heard = now
        self._acknowledged = journal.acknowledged
        self._acknowledged_at: timedelta | None = None
        self._moved = now
        """When the cloud last acknowledged something, or had nothing to acknowledge."""

    def heard(self, said: SessionSaid) -> bool:
        """Take in the link's report; returns whether it tells of a new session."""
        before, self._said = self._said, said
        self._heard = self._clock.monotonic()
        self.look()
        return said.there and (before is None or not before.there or before.since_s != said.since_s)

    def look(self) -> None:
        """See whether the cloud has acknowledged something: cheap, after all that may have."""
        now, reached = self._clock.monotonic(), self._journal.acknowledged
        if reached != self._acknowledged:
            self._acknowledged, self._acknowledged_at, self._moved = reached, now, now
        elif reached >= self._journal.last_committed:
            self._moved = now

    async def status(self) -> BrokerStatus | None:
        """How it stands at this moment; None at a site without a broker."""
        if self._address is None:
            return None
        self.look()
        said, links = self._said, self._links()
        since = None if said is None or not links else self._wall(timedelta(seconds=said.since_s))
        there = said is not None and said.there
        return BrokerStatus(
            address=self._address,
            link=links,
            connected_since=since if there else None,
            away_since=None if there else since,
            reason=said.reason if said is not None and links else None,
            refused=dict(said.refused) if said is not None and links else {},
            events_refused=0 if said is None else said.events_refused,
            acknowledged_at=None
            if self._acknowledged_at is None
            else self._wall(self._acknowledged_at),
            waiting_since=await self._oldest(),
        )

    def problems(self, broker: BrokerStatus | None) -> list[str]:
        """What somebody should look at, a line each, in what `status` gave."""
        if broker is None:
            return []
        now, said = self._clock.monotonic(), self._said
        if not broker.link:
            if now - self._heard <= LINK_SILENT_AFTER:
                return []  # it is about to start
            since = f"{self._wall(self._heard):%Y-%m-%d %H:%M} UTC"
            return [f"link: no report since {since}: see `systemctl status door-gateway-link`"]
        assert said is not None  # noqa: S101 - it has reported
        where, since_s = f"broker {broker.address}", timedelta(seconds=said.since_s)
        if not said.there:
            if said.reason is None or (said.lost and now - since_s <= LOST_TOLD_AFTER):
                return []
            return [
                f"{where}: no session since {broker.away_since:%Y-%m-%d %H:%M} UTC: {said.reason}"
            ]
        found = [
            f"{where}: refuses {topic}: {reason}. Allow it (config/mosquitto.acl)"
            for topic, reason in sorted(said.refused.items())
        ]
        if said.lost >= LOST_OFTEN:
            found.append(
                f"{where}: {said.lost} sessions lost in 5 minutes, the last: {said.reason}"
            )
        if (
            broker.waiting_since is not None
            and now - max(self._moved, since_s) > UNACKNOWLEDGED_AFTER
            and not any(topic.endswith("/event") for topic in said.refused)
        ):
            nobody = ": nobody is subscribed to them at the broker" if said.unheard else ""
            found.append(
                f"events: the {self._keeper} acknowledges none, the oldest waits since"
                f" {broker.waiting_since:%Y-%m-%d %H:%M} UTC{nobody}"
            )
        return found

    def _links(self) -> bool:
        return self._said is not None and self._clock.monotonic() - self._heard <= LINK_SILENT_AFTER

    def _wall(self, at: timedelta) -> datetime:
        return self._clock.now() - (self._clock.monotonic() - at)

    async def _oldest(self) -> datetime | None:
        if self._journal.acknowledged >= self._journal.last_committed:
            return None
        # A journal that can't be read is a problem of its own: the status has to come all the same.
        with suppress(StorageError, Undecodable):
            for event in await self._journal.raw_after(self._journal.acknowledged, 1):
                return decode_json(event.body, _At).at
        return None
