"""Lint of credentials: PINs that can be guessed, and cards that go from hand to hand."""

from collections import Counter, defaultdict
from collections.abc import Iterator

from gateway.domain.lint.finding import Finding, LintedSite, finding
from gateway.domain.pin_odds import ALARM_BELOW, WARNING_BELOW, codes_per_pin
from gateway.domain.records import Credential, CredentialKind

OF_A_KIND_MAX = 3
"""A card, a spare and a fob. Whoever has more of a kind lends them."""


def pins_too_dense(site: LintedSite) -> Iterator[Finding]:
    """Rule `pins_too_dense`: a guess at a PIN is worth a try (docs/promises.md P9)."""
    odds = codes_per_pin(site.records)
    if odds is None or odds >= WARNING_BELOW:
        return
    lengths = Counter(len(each.value) for each in _active(site) if each.kind == "pin")
    worst = min(lengths, key=lambda length: 10**length // lengths[length])
    yield finding(
        "pins_too_dense",
        "alarm" if odds < ALARM_BELOW else "warning",
        f"only {odds} possible codes for each PIN of {worst} digits in force",
        [each.holder for each in _active(site) if each.kind == "pin" and len(each.value) == worst],
        why="a guess at a keypad finds somebody's PIN before it is locked out for good",
        todo="assign longer PINs, and end those that nobody needs",
    )


def no_pin(site: LintedSite) -> Iterator[Finding]:
    """Rule `no_pin`: a door asks for a PIN as well, from somebody who has none."""
    coverage = site.coverage
    asking = {
        door.id: coverage.open[door.second_factor_schedule]
        for door in site.tables.doors.values()
        if door.second_factor_schedule is not None
    }
    if not asking:
        return
    having = {each.holder for each in _active(site) if each.kind == "pin"}
    without: defaultdict[str, list[str]] = defaultdict(list)
    for groups, holders in site.by_groups.items():
        lacking = [holder for holder in holders if holder not in having]
        doors = {
            way.door
            for way, mask in coverage.standing(groups).items()
            if mask & asking.get(way.door, 0)
        }
        for door in doors:
            without[door] += lacking
    for door, holders in sorted(without.items()):
        if holders:
            yield finding(
                "no_pin",
                "warning",
                f"may pass door {door!r}, which asks for a PIN as well, and have none",
                holders,
                why="they are denied `no_pin` at a door that they were given",
                todo="assign each a PIN, or take the door out of their group",
            )


def credential_shared(site: LintedSite) -> Iterator[Finding]:
    """Rule `credential_shared`: one card, as two readers read it, is of several holders.

    One kind and value can't be: that is a fault of the records. But the UID of an NTAG 424 is both
    a `uid` and a `sun`, and one Wiegand card may be enrolled in two formats.
    """
    seen: defaultdict[str, list[Credential]] = defaultdict(list)
    for each in site.records.credentials.values():
        if each.status != "returned":
            if each.kind in ("uid", "sun"):
                seen[each.value].append(each)
            elif each.kind == "wiegand":
                seen[each.value.partition(":")[2]].append(each)
    for cards in seen.values():
        if len(cards) > 1 and len({each.holder for each in cards}) > 1:
            names = ", ".join(sorted({each.holder for each in cards}))
            yield finding(
                "credential_shared",
                "warning",
                f"what looks like one card is enrolled for several holders: {names}",
                [each.id for each in cards],
                why="who came in can't be told, and ending one of them leaves the card working",
                todo="find out who has it, and set the others to `returned`",
            )


def many_of_a_kind(site: LintedSite) -> Iterator[Finding]:
    """Rule `many_of_a_kind`: one holder has so many active that others must be using them."""
    counts: Counter[tuple[str, CredentialKind]] = Counter(
        (each.holder, each.kind) for each in _active(site) if each.max_uses is None
    )
    many: defaultdict[CredentialKind, list[str]] = defaultdict(list)
    for (holder, kind), count in counts.items():
        if count > OF_A_KIND_MAX:
            many[kind].append(holder)
    for kind, holders in sorted(many.items()):
        yield finding(
            "many_of_a_kind",
            "warning",
            f"more than {OF_A_KIND_MAX} active credentials of kind {kind} each",
            holders,
            why="spare cards are lent: who came in can't be told",
            todo="enrol each person as a holder of their own; return what isn't used",
        )


def _active(site: LintedSite) -> Iterator[Credential]:
    return (
        each
        for each in site.records.credentials.values()
        if each.status == "active" and (each.valid_until is None or site.at < each.valid_until)
    )
