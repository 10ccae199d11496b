"""How good a guess at a PIN is: possible codes for each PIN in force (docs/promises.md P9)."""

from collections import Counter
from collections.abc import Iterator, Mapping

from gateway.domain.entitlements import ValidRecords
from gateway.domain.record_faults import LintWarning

WARNING_BELOW = 1_000
ALARM_BELOW = 100


def pin_lengths(records: ValidRecords) -> dict[int, int]:
    """How many active PINs there are of each length."""
    return Counter(
        len(credential.value)
        for credential in records.credentials.values()
        if credential.kind == "pin" and credential.status == "active"
    )


def odds_of(lengths: Mapping[int, int]) -> int | None:
    """How many codes there are for each active PIN, of the length that is easiest to guess."""
    return min((10**length // count for length, count in lengths.items()), default=None)


def codes_per_pin(records: ValidRecords) -> int | None:
    """`odds_of` the PINs of a set."""
    return odds_of(pin_lengths(records))


def pin_warnings(odds: int | None) -> Iterator[LintWarning]:
    """What whoever puts the records in force should know."""
    if odds is not None and odds < WARNING_BELOW:
        how = "is likely to open a door" if odds < ALARM_BELOW else "is worth a try"
        yield LintWarning(
            "credential",
            "-",
            "value",
            f"only {odds} possible codes for each PIN in force: a guess {how}; use longer PINs",
        )
