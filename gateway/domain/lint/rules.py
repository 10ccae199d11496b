"""Every rule of lint, and the one way to run them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime

from gateway.domain.entitlements import ValidRecords
from gateway.domain.lint.credentials import (
    credential_shared,
    many_of_a_kind,
    no_pin,
    pins_too_dense,
)
from gateway.domain.lint.doors import (
    door_without_group,
    restricted_unlocked,
    zone_without_gatekeeper,
)
from gateway.domain.lint.exceptions import exception_long, exception_needless, exception_past
from gateway.domain.lint.finding import Finding, LintedSite, Severity
from gateway.domain.lint.groups import (
    group_name,
    group_name_persona,
    group_name_schedule,
    one_off_group,
    same_groups,
    unknown_member,
    unused_group,
)
from gateway.domain.lint.personas import (
    booking_beyond_persona,
    more_than_minimum,
    several_suites,
)
from gateway.domain.lint.reachability import reachability
from gateway.domain.record_faults import LintWarning

RULES: tuple[Callable[[LintedSite], Iterator[Finding]], ...] = (
    reachability,
    pins_too_dense,
    zone_without_gatekeeper,
    door_without_group,
    restricted_unlocked,
    more_than_minimum,
    booking_beyond_persona,
    several_suites,
    no_pin,
    credential_shared,
    many_of_a_kind,
    group_name,
    group_name_schedule,
    group_name_persona,
    one_off_group,
    unused_group,
    same_groups,
    exception_long,
    exception_needless,
    exception_past,
    unknown_member,
)

_GRAVEST_FIRST: Mapping[Severity, int] = {"alarm": 0, "warning": 1, "notice": 2}


def lint(
    records: ValidRecords, at: datetime, warnings: Sequence[LintWarning] = ()
) -> list[Finding]:
    """What is worth looking at in `records` at `at`, the gravest first.

    `warnings`: those of `parse_records` on the same records.
    """
    site = LintedSite(records, at, warnings=warnings)
    found = [each for rule in RULES for each in rule(site)]
    return sorted(found, key=lambda each: _GRAVEST_FIRST[each.severity])
