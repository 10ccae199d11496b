"""What central operations should look at: each thing once, and once that it is over.

A detector is told every event and, each minute, how the site stands; it answers with
`FindingRaised` and `FindingCleared`. Nothing of it decides who may pass. Windows and waits are
monotonic; only the hours in which a site is usually busy are those of its wall clock.
"""

import math
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any, NamedTuple, TypeVar

from gateway.domain import events
from gateway.domain.memory import Changes, Memory, Usual, recall

K = TypeVar("K")
V = TypeVar("V")

LOOK_EVERY = timedelta(minutes=1)
"""How often `look` is meant to be called."""
WINDOW = timedelta(minutes=10)
"""What is counted is counted over this long."""
WEEK_WINDOWS = timedelta(days=7) / WINDOW
SUBJECTS_MAX = 2_000
"""Doors, holders and readers that are counted at a time: the one longest unseen is forgotten."""
TIMES_MAX = 512
"""Moments remembered of one subject: far beyond any limit, so that more change nothing."""
CALM = timedelta(minutes=10)
"""How long something must have been well before it counts as over: a line that comes and goes
is one finding, not twenty."""

OFFLINE_AFTER = timedelta(minutes=1)
"""A device that is started again is away for seconds; that is an event and no finding."""
FLAPS_IN_AN_HOUR = 3
PROPPED_AFTER = timedelta(minutes=5)
"""Beyond the alarm for a door held open: nobody came."""
CLOCK_LOST_AFTER = timedelta(minutes=5)
UNKNOWN_CARDS = 5
"""Unknown credentials at one door within `WINDOW`."""
TOO_FAST = timedelta(seconds=2)
"""Nobody taps at two doors that share no zone within this time."""
DISK_FREE_MIN = 0.10
LIFE_USED_MAX = 0.80
"""Of the life that the storage itself reports."""
CERTIFICATE_DAYS = (30, 7, 1)
QUIET = timedelta(hours=2)
QUIET_EXPECTED = 10.0
"""Entries usual in `QUIET` from which on none at all is odd: by chance once in e^10 such times."""
HOURS_LEARNED = 0.3
"""How much of an hour's usual figure the last week's counts for."""

_FLOORS = {"door": 10, "holder": 5, "site": 20}
"""Denials in `WINDOW` that are no spike wherever there are usually none."""


class DoorNow(NamedTuple):
    """How a door stands."""

    works: bool
    """Its strike's device and at least one of its readers answer."""
    held_open: bool
    devices: frozenset[str] = frozenset()
    """What it needs to let somebody in: its strike's device and its readers."""


class SiteNow(NamedTuple):
    """How the site stands; None where it can't be known."""

    devices: Mapping[str, bool]
    """Whether each answers."""
    doors: Mapping[str, DoorNow]
    clock_trusted: bool
    disk_free: float | None = None
    """Share of the disk with the state directory, 0 to 1."""
    storage_life_used: float | None = None
    """Share of its life that the storage says is used up, 0 to 1."""
    certificates: Mapping[str, timedelta] = {}
    """How long each is good for yet, with a trusted clock."""


class Detector:
    """Told what happens by `take` and how things are by `look`; both answer with events.

    `neighbours` says whether two doors share a zone, so that one may be passed right after the
    other. What is usual is kept in the site's memory (`usual`), so that it outlives a restart.
    """

    def __init__(self, memory: Memory, neighbours: Callable[[str, str], bool]) -> None:
        self._memory = memory
        self._neighbours = neighbours
        self._denied: OrderedDict[tuple[str, str], deque[timedelta]] = OrderedDict()
        self._unknown: OrderedDict[str, deque[timedelta]] = OrderedDict()
        self._downs: OrderedDict[str, deque[timedelta]] = OrderedDict()
        self._last: OrderedDict[str, tuple[str, timedelta, str]] = OrderedDict()
        """Of each holder: the door and moment of the last grant, and the reader."""
        self._entries: deque[timedelta] = deque(maxlen=TIMES_MAX)
        self._needs: Mapping[str, frozenset[str]] = {}
        self._bad_since: dict[tuple[str, str], timedelta] = {}
        self._well_since: dict[tuple[str, str], timedelta] = {}
        self._raised: dict[tuple[str, str], str] = {}
        self._windows_end: timedelta | None = None
        self._began: timedelta | None = None
        self._hour: int | None = None
        self._hour_is_whole = False
        self._in_hour = 0
        self._hours: deque[tuple[int, int]] = deque()
        self._learned: dict[str, Usual] = {}

    @property
    def standing(self) -> Mapping[tuple[str, str], str]:
        """What is raised and not over: what and whom it is about, with its line."""
        return self._raised

    def learned(self) -> Changes:
        """What is usual now, where that has changed since the last call: to be remembered."""
        changed, self._learned = self._learned, {}
        return changed

    # --- What happens -----------------------------------------------------------------------------

    def take(self, event: events.Event, now: timedelta) -> Iterator[events.Event]:
        """An event was recorded at the monotonic moment `now`."""
        match event:
            case events.AccessDecided():
                yield from self._access(event, now)
            case events.DeviceUp():
                self._was_up(event.device)
            case events.DeviceDown():
                downs = _noted(self._downs, event.device, now, timedelta(hours=1))
                if len(downs) >= FLAPS_IN_AN_HOUR:
                    yield from self._raise(
                        event, ("bus_failing", event.device), now,
                        f"{event.device} was lost {len(downs)} times within an hour: look at its"
                        " wires, its supply and its bus", len(downs),
                    )  # fmt: skip
            case _:
                return

    def _was_up(self, device: str) -> None:
        """It was well between two looks that both found it away: neither was a minute of it."""
        self._bad_since.pop(("device_offline", device), None)
        for door, needs in self._needs.items():
            if device in needs:
                self._bad_since.pop(("door_offline", door), None)

    def _access(self, event: events.AccessDecided, now: timedelta) -> Iterator[events.Event]:
        if event.outcome == "grant":
            if self._is_same_tap(event, now):
                return
            self._entries.append(now)
            self._in_hour += 1
            yield from self._travelled(event, now)
        elif event.outcome == "deny":
            subjects = [("site", ""), ("door", event.door)]
            if event.holder is not None:
                subjects.append(("holder", event.holder))
            for kind, name in subjects:
                yield from self._spike(event, kind, name, now)
            if event.reason == "unknown_credential":
                times = _noted(self._unknown, event.door, now, WINDOW)
                if len(times) >= UNKNOWN_CARDS:
                    yield from self._raise(
                        event, ("unknown_cards", event.door), now,
                        f"{len(times)} unknown credentials at {event.door} within 10 minutes:"
                        " somebody tries cards, or records are missing", len(times),
                    )  # fmt: skip

    def _is_same_tap(self, event: events.AccessDecided, now: timedelta) -> bool:
        """Whether a reader of several doors has granted this tap at another door already."""
        before = None if event.holder is None else self._last.get(event.holder)
        if before is None:
            return False
        door, at, device = before
        return device == event.device and door != event.door and now - at <= TOO_FAST

    def _spike(
        self, event: events.AccessDecided, kind: str, name: str, now: timedelta
    ) -> Iterator[events.Event]:
        times = _noted(self._denied, (kind, name), now, WINDOW)
        usual = self._usual(f"denied/{kind}/{name}")
        # Five standard deviations of a count that is usual (Poisson), above a floor.
        if len(times) < _FLOORS[kind] + usual + 5 * math.sqrt(usual):
            return
        of = {"site": "at the site", "door": f"at {name}", "holder": "of one holder"}[kind]
        yield from self._raise(
            event, (f"denied_spike_{kind}", name), now,
            f"{len(times)} denials {of} within 10 minutes; usual are {usual:.1f}",
            len(times), usual,
        )  # fmt: skip

    def _travelled(self, event: events.AccessDecided, now: timedelta) -> Iterator[events.Event]:
        if event.holder is None or event.reason == "egress":
            return
        before = self._last.pop(event.holder, None)
        self._last[event.holder] = (event.door, now, event.device)
        _shorten(self._last)
        if before is None or before[0] == event.door or now - before[1] > TOO_FAST:
            return
        if not self._neighbours(before[0], event.door):
            yield from self._raise(
                event, ("impossible_travel", event.holder), now,
                f"one holder was let in at {before[0]} and {event.door} within"
                f" {(now - before[1]).total_seconds():.1f} s: a credential may be copied", 1,
            )  # fmt: skip

    # --- How it stands ----------------------------------------------------------------------------

    def look(
        self, site: SiteNow, at: datetime, local: datetime, trust: int, now: timedelta
    ) -> Iterator[events.Event]:
        """How the site stands at the monotonic moment `now`; `local` is `at` by its wall clock."""
        when = _When(at, trust)
        if self._began is None:
            self._began = now
        self._needs = {name: door.devices for name, door in site.doors.items()}
        for kind, subject, bad, after, text in self._conditions(site, local, now):
            yield from self._stand(when, (kind, subject), now, text, bad=bad, after=after)
        yield from self._expiries(site, when, now)
        yield from self._over(when, now)
        self._learn(local, now)

    def _conditions(
        self, site: SiteNow, local: datetime, now: timedelta
    ) -> Iterator[tuple[str, str, bool, timedelta, str]]:
        for name, answers in site.devices.items():
            yield (
                "device_offline", name, not answers, OFFLINE_AFTER, f"{name} does not answer",
            )  # fmt: skip
        for name, door in site.doors.items():
            yield (
                "door_offline", name, not door.works, OFFLINE_AFTER,
                f"door {name} can let nobody in: its relay or all its readers are lost",
            )  # fmt: skip
            yield (
                "door_propped", name, door.held_open, PROPPED_AFTER,
                f"door {name} still stands open and nobody came: send somebody",
            )  # fmt: skip
        yield (
            "clock_lost", "", not site.clock_trusted, CLOCK_LOST_AFTER,
            "nobody vouches for the clock: schedules and bookings may not count",
        )  # fmt: skip
        if site.disk_free is not None:
            yield (
                "disk_filling", "", site.disk_free < DISK_FREE_MIN, timedelta(),
                f"{site.disk_free:.0%} of the disk is free: find what fills it",
            )  # fmt: skip
        if site.storage_life_used is not None:
            yield (
                "storage_wear", "", site.storage_life_used >= LIFE_USED_MAX, timedelta(),
                f"{site.storage_life_used:.0%} of the storage's life is used: replace it",
            )  # fmt: skip
        yield "site_quiet", "", self._quiet(local, now), timedelta(), (
            "nobody was let in for two hours in which somebody usually is"
        )  # fmt: skip

    def _quiet(self, local: datetime, now: timedelta) -> bool:
        watched_from = self._entries[-1] if self._entries else self._began
        if watched_from is None or now - watched_from < QUIET:
            return False
        hours = range(1, int(QUIET / timedelta(hours=1)) + 1)
        expected = sum(
            self._usual(f"hour/{_hour_of_week(local - timedelta(hours=back))}") for back in hours
        )
        return expected >= QUIET_EXPECTED

    def _expiries(self, site: SiteNow, when: "_When", now: timedelta) -> Iterator[events.Event]:
        for name, left in site.certificates.items():
            days = left / timedelta(days=1)
            for step in CERTIFICATE_DAYS:
                key = (f"certificate_{step}d", name)
                if days <= step:
                    text = f"the certificate {name} ends in {max(0, math.floor(days))} days"
                    yield from self._raise(when, key, now, text, max(0, math.floor(days)))
                elif key in self._raised:
                    yield self._cleared(when, key)

    def _stand(
        self, when: "_When", key: tuple[str, str], now: timedelta, text: str, *,
        bad: bool, after: timedelta,
    ) -> Iterator[events.Event]:  # fmt: skip
        """Raise what has been bad for long enough, clear what has been well for long enough."""
        if bad:
            self._well_since.pop(key, None)
            if now - self._bad_since.setdefault(key, now) >= after:
                yield from self._raise(when, key, now, text, 1)
            return
        self._bad_since.pop(key, None)
        if key in self._raised and now - self._well_since.setdefault(key, now) >= CALM:
            yield self._cleared(when, key)

    def _over(self, when: "_When", now: timedelta) -> Iterator[events.Event]:
        """Clear what was counted, once nothing of its kind has come for `CALM`."""
        for key in list(self._raised):
            if key[0] in _COUNTED and now - self._well_since[key] >= CALM:
                yield self._cleared(when, key)

    def _raise(
        self, when: "_When | events.AccessDecided | events.DeviceDown", key: tuple[str, str],
        now: timedelta, text: str, count: int, usual: float = 0.0,
    ) -> Iterator[events.Event]:  # fmt: skip
        if key[0] in _COUNTED:
            self._well_since[key] = now
        if key in self._raised:
            return
        if len(self._raised) >= SUBJECTS_MAX:
            return  # operations have enough to look at
        self._raised[key] = text
        yield events.FindingRaised(
            at=when.at, trust=when.trust, what=key[0], text=text, count=count,
            usual=round(usual, 1), **_about(key),
        )  # fmt: skip

    def _cleared(self, when: "_When", key: tuple[str, str]) -> events.Event:
        del self._raised[key]
        self._well_since.pop(key, None)
        return events.FindingCleared(at=when.at, trust=when.trust, what=key[0], **_about(key))

    # --- What is usual ----------------------------------------------------------------------------

    def _usual(self, name: str) -> float:
        key = f"usual/{name}"
        found = self._learned.get(key) or recall(self._memory, key, Usual)
        return 0.0 if found is None else found.count

    def _set_usual(self, name: str, count: float) -> None:
        self._learned[f"usual/{name}"] = Usual(count=round(count, 3))

    def _learn(self, local: datetime, now: timedelta) -> None:
        if self._windows_end is None or now >= self._windows_end:
            if self._windows_end is not None:
                for (kind, name), times in self._denied.items():
                    if kind != "holder":  # of holders nothing is kept
                        usual = self._usual(f"denied/{kind}/{name}")
                        recent = sum(1 for each in times if now - each < WINDOW)
                        self._set_usual(
                            f"denied/{kind}/{name}", usual + (recent - usual) / WEEK_WINDOWS
                        )
            self._windows_end = now + WINDOW
        hour = _hour_of_week(local)
        if hour != self._hour:
            if self._hour is not None and self._hour_is_whole:
                self._hours.append((self._hour, self._in_hour))
            if len(self._hours) > QUIET / timedelta(hours=1):
                # Not sooner: an hour must not be measured against itself.
                past, entries = self._hours.popleft()
                usual = self._usual(f"hour/{past}")
                self._set_usual(f"hour/{past}", usual + (entries - usual) * HOURS_LEARNED)
            # The hour in which the watch began was seen in part only.
            self._hour_is_whole = self._hour is not None
            self._hour, self._in_hour = hour, 0


class _When(NamedTuple):
    at: datetime
    trust: int


_COUNTED = frozenset(
    {"bus_failing", "unknown_cards", "impossible_travel",
     "denied_spike_site", "denied_spike_door", "denied_spike_holder"}
)  # fmt: skip
"""Findings that come from events; the others stand as long as a condition does."""


_OF_HOLDERS = frozenset({"impossible_travel", "denied_spike_holder"})


def _about(key: tuple[str, str]) -> dict[str, Any]:
    """Whom or what it is about, as its event says it: a holder where erasing finds it."""
    what, subject = key
    return {"subject": "", "holder": subject} if what in _OF_HOLDERS else {"subject": subject}


def _hour_of_week(local: datetime) -> int:
    return local.weekday() * 24 + local.hour


def _noted(
    counted: OrderedDict[K, deque[timedelta]], key: K, now: timedelta, window: timedelta
) -> deque[timedelta]:
    """The moments of a subject within the window, `now` among them."""
    times = counted.pop(key, None) or deque(maxlen=TIMES_MAX)
    counted[key] = times
    times.append(now)
    while times and now - times[0] > window:
        times.popleft()
    _shorten(counted)
    return times


def _shorten(counted: OrderedDict[K, V]) -> None:
    while len(counted) > SUBJECTS_MAX:
        counted.popitem(last=False)
