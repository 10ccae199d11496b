"""One holder's rights in two sets of records, and the difference between them."""

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta
from functools import cache
from itertools import pairwise
from typing import NamedTuple

from gateway.domain.coverage import Coverage, Slots, Way
from gateway.domain.decision import window
from gateway.domain.entitlements import ValidRecords
from gateway.domain.instants import FOREVER, later
from gateway.domain.records import (
    TIMEBOUND,
    AccessException,
    Booking,
    Credential,
    Holder,
    SiteTables,
)
from gateway.domain.schedule import OpeningHours

RENEWAL = timedelta(days=400)
"""How far ahead a membership may be made to last without having been given anything: a year, which
is renewed a month early. Beyond it longer is more."""

DATES_MAX = 1000
"""Dates of calendars beyond the coming week at which hours are compared, the next ones first."""

_DATE_BEGINS, _DATE_ENDS = timedelta(hours=-14), timedelta(hours=36)
"""A date in any time zone of the world, by UTC's midnight of that date."""

Digest = Callable[[str, str], Hashable]
"""What stands for a credential's kind and value, in both sets alike."""

Span = tuple[datetime, datetime]
Spans = tuple[Span, ...]
"""Spans of time in order, none of which touches another."""


class Rights(NamedTuple):
    """What a holder has a grant for."""

    ways: Mapping[Way, int]
    """And in which slots of the coming week by a schedule."""
    groups: tuple[str, ...] = ()
    allowed: Mapping[Way, Spans] = {}
    """When bookings and exceptions open them."""
    denied: Mapping[Way, Spans] = {}
    """When exceptions close them."""


class Means(NamedTuple):
    """One credential that is in use or will be, as far as it matters by what and when."""

    valid: Span
    max_uses: int | None
    duress: bool


class Bearer(NamedTuple):
    """What of a holder holds for all doors."""

    valid: Span
    exempt: tuple[bool, ...]
    """Their persona is exempt from a lockdown, and from the greatest age of records."""
    extended_unlock: bool
    means: Mapping[Hashable, Means]


class Difference(NamedTuple):
    """What becomes different for one holder."""

    before: int
    after: int
    narrowed: int
    widened: int
    hours_before: float
    hours_taken: float
    hours_given: float
    restricted: bool
    """A restricted zone becomes open to the holder, or to a further card of theirs, or doors under
    lockdown do."""
    ways_taken: tuple[Way, ...]
    ways_given: tuple[Way, ...]

    @property
    def taken(self) -> int:
        """How many grants are taken away, cut short or opened by fewer credentials."""
        return len(self.ways_taken)

    @property
    def given(self) -> int:
        """How many grants are new, last longer or are opened by more credentials."""
        return len(self.ways_given)


class Side:
    """One of the two sets, and what of it lasts beyond `at`."""

    def __init__(
        self,
        records: ValidRecords,
        hours: Mapping[str, OpeningHours],
        slots: Slots,
        at: datetime,
        digest: Digest = lambda _, value: value,
    ) -> None:
        self.coverage = Coverage(records.tables, hours, slots)
        self.by_groups = cache(self._by_groups)
        self._hours = hours
        self._records = records
        self._at = at
        self.policy = records.tables.policy
        self._digest = digest
        self._credentials: defaultdict[str, list[Credential]] = defaultdict(list)
        for each in records.credentials.values():
            if self._is_live(each):
                self._credentials[each.holder].append(each)
        self._bookings: defaultdict[str, list[Booking]] = defaultdict(list)
        for booking in records.bookings.values():
            if booking.status == "confirmed" and at < window(booking, self.policy)[1]:
                for holder_id in booking.holders:
                    self._bookings[holder_id].append(booking)
        self._exceptions: defaultdict[str, list[AccessException]] = defaultdict(list)
        for exception in records.exceptions.values():
            if at < exception.until:
                self._exceptions[exception.holder].append(exception)

    def is_ordinary(self, holder_id: str) -> bool:
        """Return True where nothing but groups says where the holder may pass."""
        return holder_id not in self._bookings and holder_id not in self._exceptions

    def groups(self, holder_id: str) -> tuple[str, ...]:
        """The holder's groups; none where nothing that they carry would open a door any more."""
        holder = self._records.holders.get(holder_id)
        return holder.groups if holder is not None and self._may_pass(holder) else ()

    def bearer(self, holder_id: str) -> Bearer | None:
        """The holder, if they may pass anywhere."""
        holder = self._records.holders.get(holder_id)
        if holder is None or not self._may_pass(holder):
            return None
        policy = self.policy
        personas = (policy.lockdown_exempt_personas, policy.max_age_exempt_personas)
        return Bearer(
            (max(self._at, holder.valid_from or self._at), self._end(holder)),
            tuple(holder.persona in each for each in personas),
            holder.extended_unlock,
            {
                self.value_of(each): Means(
                    (max(self._at, each.valid_from or self._at), each.valid_until or FOREVER),
                    each.max_uses,
                    each.duress,
                )
                for each in self._credentials[holder_id]
            },
        )

    def holder(self, holder_id: str) -> Holder | None:
        """The holder's record."""
        return self._records.holders.get(holder_id)

    def carried(self, holder_id: str) -> Sequence[Credential]:
        """The holder's credentials that are in use or will be."""
        return self._credentials.get(holder_id, ())

    def value_of(self, credential: Credential) -> Hashable:
        """What stands for a credential's kind and value."""
        return credential.kind, self._digest(credential.kind, credential.value)

    def live(self, credential_id: str) -> Credential | None:
        """The credential, if it is in use or will be."""
        found = self._records.credentials.get(credential_id)
        return found if found is not None and self._is_live(found) else None

    def rights(self, holder_id: str) -> Rights:
        """All that the holder has a grant for."""
        holder = self._records.holders.get(holder_id)
        if holder is None or not self._may_pass(holder):
            return Rights({})
        ways = self.by_groups(holder.groups)
        if self.is_ordinary(holder_id):
            return Rights(ways, holder.groups)
        return self._with_others(holder, dict(ways))

    def on_dates(self, groups: Iterable[str], runs: Iterable[Span]) -> Mapping[Way, Spans]:
        """When groups open their ways by a schedule within these spans."""
        tables = self._records.tables
        found: defaultdict[Way, list[Span]] = defaultdict(list)
        for group_id in groups:
            group = tables.groups[group_id]
            if group.schedule != TIMEBOUND:
                spans = list(_open_in(self._hours[group.schedule], runs))
                for way in self.coverage.covered(group):
                    found[way] += spans
        return _joined_each(found)

    def _with_others(self, holder: Holder, found: dict[Way, int]) -> Rights:
        coverage = self.coverage
        timebound = coverage.timebound(holder.groups)
        allowed: defaultdict[Way, list[Span]] = defaultdict(list)
        denied: defaultdict[Way, list[Span]] = defaultdict(list)
        for booking in self._bookings.get(holder.id, ()):
            starts, ends = window(booking, self.policy)
            for way in coverage.opened_by(booking, timebound):
                allowed[way].append((max(starts, self._at), ends))
        for exception in self._exceptions.get(holder.id, ()):
            spans = allowed if exception.effect == "allow" else denied
            for way in coverage.covered(exception):
                spans[way].append((max(exception.from_, self._at), exception.until))
        for way in allowed:
            found.setdefault(way, 0)
        for way, closed in denied.items():
            if any(starts == self._at for starts, _ in closed):
                found.pop(way, None)
        return Rights(found, holder.groups, _joined_each(allowed), _joined_each(denied))

    def _by_groups(self, groups: tuple[str, ...]) -> Mapping[Way, int]:
        tables = self._records.tables
        ever = (group for group in groups if _ever_opens(tables, tables.groups[group].schedule))
        return self.coverage.standing(tuple(ever))

    def _is_live(self, credential: Credential) -> bool:
        ends = credential.valid_until
        return credential.status == "active" and (ends is None or self._at < ends)

    def _may_pass(self, holder: Holder) -> bool:
        return (
            holder.status == "active"
            and holder.id in self._credentials
            and self._at < self._end(holder)
        )

    def _end(self, holder: Holder) -> datetime:
        overdue = holder.delinquent_since
        graced = FOREVER if overdue is None else later(overdue, self.policy.grace)
        return min(graced, holder.valid_until or FOREVER)


class Compared:
    """Two sets, holder by holder."""

    def __init__(self, before: Side, after: Side, slots: Slots, runs: tuple[Span, ...]) -> None:
        self._before, self._after = before, after
        self._same_policy = before.policy == after.policy
        self._hours = cache(slots.hours_in)
        self._always = slots.all
        self._runs = runs
        self._renewed_until = slots.starts[0] + RENEWAL
        self._restricted = frozenset(
            zone.id
            for side in (before, after)
            for zone in side.coverage.tables.zones.values()
            if zone.category == "restricted"
        )
        self._by_groups = cache(self._of_groups)
        self._dates_before = cache(lambda groups: before.on_dates(groups, runs))
        self._dates_after = cache(lambda groups: after.on_dates(groups, runs))

    def holder(self, holder_id: str) -> Difference:
        """What becomes different for a holder."""
        before, after = self._before, self._after
        if before.is_ordinary(holder_id) and after.is_ordinary(holder_id):
            found = self._by_groups(before.groups(holder_id), after.groups(holder_id))
        else:
            found = self._difference(before.rights(holder_id), after.rights(holder_id))
        if self._is_alike(holder_id):
            return found  # as nearly all are: quicker than to work out all of both
        was, new = before.bearer(holder_id), after.bearer(holder_id)
        if new is None or was == new:
            return found
        if was is None:
            opened = found.restricted or (any(new.exempt) and found.after > 0)
            return found._replace(restricted=opened)
        return self._for_all_doors(holder_id, found, was, new)

    def new_value(self, credential_id: str) -> bool:
        """Return True where a credential into a restricted zone is another card than it was."""
        was, new = self._before.live(credential_id), self._after.live(credential_id)
        if was is None or new is None:
            return False
        if was.holder == new.holder and self._before.value_of(was) == self._after.value_of(new):
            return False
        return bool(self._into(self._after.rights(new.holder).ways))

    def _is_alike(self, holder_id: str) -> bool:
        before, after = self._before, self._after
        mine, theirs = before.carried(holder_id), after.carried(holder_id)
        return (
            self._same_policy
            and before.holder(holder_id) == after.holder(holder_id)
            and len(mine) == len(theirs)
            and all(
                one.valid_from == two.valid_from
                and one.valid_until == two.valid_until
                and one.max_uses == two.max_uses
                and one.duress == two.duress
                and before.value_of(one) == after.value_of(two)
                for one, two in zip(mine, theirs, strict=True)
            )
        )

    def _for_all_doors(
        self, holder_id: str, found: Difference, was: Bearer, new: Bearer
    ) -> Difference:
        stay = set(self._before.rights(holder_id).ways) & set(self._after.rights(holder_id).ways)
        if _is_less(was, new):
            found = found._replace(ways_taken=tuple({*found.ways_taken, *stay}))
        if _is_less(new, was, self._renewed_until):
            opened = self._into(stay) or (stay and _is_any(new.exempt, was.exempt))
            found = found._replace(
                ways_given=tuple({*found.ways_given, *stay}),
                restricted=found.restricted or bool(opened),
            )
        return found

    def _of_groups(self, old: tuple[str, ...], new: tuple[str, ...]) -> Difference:
        before, after = self._before.by_groups(old), self._after.by_groups(new)
        return self._difference(Rights(before, old), Rights(after, new))

    def _difference(self, old: Rights, new: Rights) -> Difference:
        stay = old.ways.keys() & new.ways.keys()
        changed = [(old.ways[way], new.ways[way]) for way in stay if old.ways[way] != new.ways[way]]
        lost = [one & ~other for one, other in changed]
        won = [other & ~one for one, other in changed]
        gone = old.ways.keys() - new.ways.keys()
        come = new.ways.keys() - old.ways.keys()
        less, more = set(), set()
        for way in stay:
            for one, other in self._spans(way, old, new):
                if not _is_within(one, other):
                    less.add(way)
                if not _is_within(other, one):
                    more.add(way)
        hours = self._hours
        return Difference(
            before=len(old.ways),
            after=len(new.ways),
            narrowed=sum(map(bool, lost)),
            widened=sum(map(bool, won)),
            hours_before=sum(map(hours, old.ways.values())),
            hours_taken=sum(map(hours, (*(old.ways[way] for way in gone), *lost))),
            hours_given=sum(map(hours, (*(new.ways[way] for way in come), *won))),
            restricted=bool((self._into(new.ways) - self._into(old.ways)) | self._into(more)),
            ways_taken=(*gone, *less),
            ways_given=(*come, *more),
        )

    def _into(self, ways: Iterable[Way]) -> set[str]:
        return {way.entered for way in ways} & self._restricted

    def _spans(self, way: Way, old: Rights, new: Rights) -> Iterator[tuple[Spans, Spans]]:
        """Pairs of spans in which a way that stays is open, by what tells of more than a week."""
        if old.groups != new.groups and self._runs:
            yield (
                self._dates_before(old.groups).get(way, ()),
                self._dates_after(new.groups).get(way, ()),
            )
        if not (old.ways[way] == new.ways[way] == self._always):
            yield old.allowed.get(way, ()), new.allowed.get(way, ())
        yield new.denied.get(way, ()), old.denied.get(way, ())


def dates_beyond(tables: Iterable[SiteTables], ahead: datetime) -> tuple[Span, ...]:
    """The dates of calendars that are not over at `ahead`, in UTC, neighbours as one span."""
    days = {
        day for each in tables for calendar in each.calendars.values() for day in calendar.dates
    }
    begins = (ahead - _DATE_ENDS).date()
    soonest = sorted(day for day in days if begins <= day)[:DATES_MAX]
    midnights = (datetime.combine(day, time(), UTC) for day in soonest if day < date.max)
    return _joined(
        (max(ahead, each + _DATE_BEGINS), later(each, _DATE_ENDS))
        for each in midnights
        if ahead < later(each, _DATE_ENDS)
    )


def _open_in(hours: OpeningHours, spans: Iterable[Span]) -> Iterator[Span]:
    for starts, ends in spans:
        for one, other in pairwise((starts, *hours.edges(starts, ends), ends)):
            if hours.is_open(one):
                yield one, other


def _is_less(than: Bearer, is_: Bearer, renewed_until: datetime | None = None) -> bool:
    """Return True where `is_` may something less than `than`.

    An end that is earlier counts where `than` ends after `renewed_until`.
    """
    return (
        _is_shorter(than.valid, is_.valid, renewed_until)
        or _is_any(than.exempt, is_.exempt)
        or (than.extended_unlock and not is_.extended_unlock)
        or any(
            _is_weaker(each, is_.means.get(key), renewed_until) for key, each in than.means.items()
        )
    )


def _is_weaker(than: Means, is_: Means | None, renewed_until: datetime | None) -> bool:
    if is_ is None:
        return True
    uses, before = is_.max_uses, than.max_uses
    return (
        _is_shorter(than.valid, is_.valid, renewed_until)
        or than.duress != is_.duress
        or (uses is not None and (before is None or uses < before))
    )


def _is_shorter(than: Span, is_: Span, renewed_until: datetime | None) -> bool:
    ends_earlier = is_[1] < than[1] and (renewed_until is None or renewed_until < than[1])
    return than[0] < is_[0] or ends_earlier


def _is_any(these: tuple[bool, ...], beyond: tuple[bool, ...]) -> bool:
    return any(one and not other for one, other in zip(these, beyond, strict=True))


def _ever_opens(tables: SiteTables, schedule_id: str) -> bool:
    schedule = tables.schedules.get(schedule_id)
    return (
        schedule is None  # built in
        or any(schedule.weekly)
        or any(holiday.intervals for holiday in schedule.holidays)
    )


def _joined_each(spans: Mapping[Way, Iterable[Span]]) -> dict[Way, Spans]:
    return {way: _joined(each) for way, each in spans.items()}


def _joined(spans: Iterable[Span]) -> Spans:
    found: list[Span] = []
    for starts, ends in sorted(spans):
        if found and starts <= found[-1][1]:
            found[-1] = (found[-1][0], max(ends, found[-1][1]))
        else:
            found.append((starts, ends))
    return tuple(found)


def _is_within(these: Spans, those: Spans) -> bool:
    """Return True where each of these lies in one of those; both are in order."""
    rest = iter(those)
    there = next(rest, None)
    for starts, ends in these:
        while there is not None and there[1] < ends:
            there = next(rest, None)
        if there is None or starts < there[0]:
            return False
    return True
