"""Durations as people write them: 90s, 30m, 2h, 7d."""

import argparse
import re
from datetime import timedelta

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def duration(text: str) -> timedelta:
    """The duration that `text` names. Raises argparse.ArgumentTypeError."""
    found = re.fullmatch(r"([1-9]\d{0,5})([smhd])", text)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no duration such as 90s, 30m, 2h or 7d")
    return timedelta(**{_UNITS[found[2]]: int(found[1])})
