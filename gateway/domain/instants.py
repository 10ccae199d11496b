"""Instants as the specification writes them, and sums of them that may leave the calendar."""

import re
from datetime import UTC, datetime, timedelta

FOREVER = datetime.max.replace(tzinfo=UTC)
"""Later than every instant: no record or request can say this one, which has microseconds."""

_YEAR_MIN = 1970
_RFC3339 = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}"
    r"T(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\.[0-9]{1,3})?"
    r"(?:Z|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])"
)


def parse_instant(text: str) -> datetime:
    """The instant that `text` names, in UTC.

    Stricter than `datetime.fromisoformat`, as docs/spec/entitlements.md has it: an offset, `T` and
    `Z` upper case, at most three fraction digits, no leap second, UTC years 1970 to 9999.

    Raises:
        ValueError: It is no such instant. The message doesn't repeat it.
    """
    if not _RFC3339.fullmatch(text):
        raise ValueError("not an RFC 3339 instant with an offset")
    try:
        instant = datetime.fromisoformat(text).astimezone(UTC)
    except OverflowError:
        raise ValueError("not an instant of the years 1970 to 9999 in UTC") from None
    except ValueError:
        raise ValueError("not a day of the calendar") from None
    if instant.year < _YEAR_MIN:
        raise ValueError("not an instant of the years 1970 to 9999 in UTC")
    return instant


def format_instant(instant: datetime) -> str:
    """`instant`, which is in UTC, with `Z`, and with milliseconds only where they are not zero."""
    digits = "milliseconds" if instant.microsecond else "seconds"
    return instant.replace(tzinfo=None).isoformat(timespec=digits) + "Z"


def later(instant: datetime, span: timedelta) -> datetime:
    """`instant` + `span`; a sum beyond the calendar is `FOREVER` (docs/spec/entitlements.md)."""
    try:
        return instant + span
    except OverflowError:
        return FOREVER
