"""Lint of exceptions: what is granted or denied for a while, by somebody, for a reason.

Source: the door-access model, "Temporary exceptions": with an expiry, and double-checked each.
"""

from collections.abc import Iterator
from datetime import timedelta

from gateway.domain.coverage import Way
from gateway.domain.lint.finding import Finding, LintedSite, finding
from gateway.domain.records import AccessException

ALLOWED_MAX = timedelta(days=14)
"""What lasts longer is no exception: it belongs in a group or a booking."""


def exception_past(site: LintedSite) -> Iterator[Finding]:
    """Rule `exception_past`."""
    past = [each.id for each in site.records.exceptions.values() if each.until <= site.at]
    if past:
        yield finding(
            "exception_past",
            "notice",
            "is over",
            past,
            why="what does nothing any more hides what does",
            todo="delete it; the journal keeps what it let happen",
        )


def exception_long(site: LintedSite) -> Iterator[Finding]:
    """Rule `exception_long`: lets in for longer than `ALLOWED_MAX`."""
    for each in _current(site):
        if each.effect == "allow" and each.until - each.from_ > ALLOWED_MAX:
            days = (each.until - each.from_) // timedelta(days=1)
            yield finding(
                "exception_long",
                "warning",
                f"lets {each.holder!r} in for {days} days; more than {ALLOWED_MAX.days} is no"
                " exception",
                [each.id],
                why="nobody will remember why it is there when it matters",
                todo="end it sooner, or sell what is needed and put the holder in its group",
            )


def exception_needless(site: LintedSite) -> Iterator[Finding]:
    """Rule `exception_needless`: changes nothing for its holder."""
    for each in _current(site):
        holder = site.holders.get(each.holder)
        if holder is None:
            continue
        granted = site.coverage.standing(holder.groups)
        ways = site.coverage.covered(each)
        if each.effect == "allow":
            then = _slots(site, each)
            needless = all(granted.get(way, 0) & then == then for way in ways)
            what = "lets in where the holder's groups do so anyway"
        else:
            needless = not _may_open(site, each).intersection(ways)
            what = "keeps out where nothing lets the holder in"
        if needless:
            yield finding(
                "exception_needless",
                "notice",
                f"{what} ({each.holder})",
                [each.id],
                why="the more exceptions there are, the less each is looked at",
                todo="delete it",
            )


def _current(site: LintedSite) -> Iterator[AccessException]:
    return (each for each in site.records.exceptions.values() if site.at < each.until)


def _slots(site: LintedSite, exception: AccessException) -> int:
    """The slots that the exception's span touches; after the time looked at, none."""
    slots = site.coverage.slots
    if exception.from_ >= slots.until:
        return 0
    first = slots.index_of(max(exception.from_, site.at))
    last = slots.index_of(min(exception.until, slots.until) - timedelta(milliseconds=1))
    return (1 << last + 1) - (1 << first)


def _may_open(site: LintedSite, denied: AccessException) -> set[Way]:
    """All that groups, bookings and other exceptions may ever open for the holder."""
    coverage = site.coverage
    groups = site.holders[denied.holder].groups
    timebound = coverage.timebound(groups)
    found = {way for way, mask in coverage.standing(groups).items() if mask}
    for booking in site.bookings.get(denied.holder, ()):
        found |= coverage.opened_by(booking, timebound)
    for other in site.exceptions[denied.holder]:
        if other.effect == "allow":
            found.update(coverage.covered(other))
    # Bookings yet to be made would open these.
    return found | timebound
