"""Holds the product against the reference over random sites: `python -m tests.reference.compare`.

    python -m tests.reference.compare --seeds 0:1000 --requests 1000

A failing seed is printed and replays with `--seeds N:N+1`.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, cast

import msgspec

from gateway.domain.carried_grant import CarriedGrant, Refusal, decide_carried
from gateway.domain.decision import PresentedCredential, decide, parse_request, taken_at
from gateway.domain.entitlements import RecordSet
from gateway.domain.explanation import explain, opens_soon_at, remote_opens_at
from gateway.domain.record_faults import parse_records
from gateway.domain.remote_request import REMOTE, decide_remote
from gateway.errors import RecordsRefused, RequestError
from tests.reference import carried, decider, faults, remote, sites

Difference = tuple[str, Any, Any, Any]
"""What was compared, the case, the reference's answer, the product's."""


def decisions(seed: int, requests: int, explained: int) -> Iterator[Difference]:
    """Every request of a random site whose decision or explanation differs."""
    records, asked = sites.site(seed, requests)
    reference = decider.Site(records)
    entitlements = RecordSet(parse_records(map(_line, records)).records)
    for number, request in enumerate(asked):
        parsed = parse_request(_line(request))
        wanted = decider.decide(reference, request)
        got = msgspec.structs.asdict(decide(entitlements, parsed))
        if wanted != got:
            yield f"seed {seed} decision {number}", request, wanted, got
        if number < explained:
            said = msgspec.structs.asdict(explain(entitlements, parsed))
            said["reasons"] = list(said["reasons"])
            if (soon := opens_soon_at(entitlements, parsed)) != said["opens_at"]:
                yield f"seed {seed} opens soon {number}", request, said["opens_at"], soon
            said["opens_at"] = _instant(said["opens_at"])
            if (wanted := decider.explain(reference, request)) != said:
                yield f"seed {seed} explanation {number}", request, wanted, said


def carried_decisions(seed: int, requests: int) -> Iterator[Difference]:
    """Every request by a random carried grant whose decision differs."""
    records, asked = carried.questions(seed, requests)
    reference = decider.Site(records)
    entitlements = RecordSet(parse_records(map(_line, records)).records)
    for number, (grant, request) in enumerate(asked):
        wanted = carried.decide_carried(reference, grant, request)
        presented = cast("Refusal", grant) if isinstance(grant, str) else _grant(grant)
        decision = decide_carried(entitlements, presented, parse_request(_line(request)))
        got = msgspec.structs.asdict(decision)
        if wanted != got:
            yield f"seed {seed} carried {number}", (grant, request), wanted, got


def remote_decisions(seed: int, requests: int) -> Iterator[Difference]:
    """Every request from afar, by each of a site's holders in turn, whose decision differs."""
    records, asked = sites.site(seed, requests)
    reference = decider.Site(records)
    entitlements = RecordSet(parse_records(map(_line, records)).records)
    holders = ["nobody", *(each["id"] for each in records if each["type"] == "holder")]
    for number, asking in enumerate(asked):
        request = {**asking, "side": "in"}
        holder = holders[number % len(holders)]
        wanted = remote.decide_remote(reference, holder, request)
        parsed = parse_request(_line(request))
        afar = msgspec.structs.replace(parsed, credentials=(PresentedCredential(REMOTE, holder),))
        got = msgspec.structs.asdict(decide_remote(entitlements, afar))
        if wanted != got:
            yield f"seed {seed} remote {number}", (holder, request), wanted, got
        opens_at = remote_opens_at(entitlements, afar)
        if opens_at is not None:
            then = {**request, "at": _instant(opens_at)}
            if afar.as_of is not None:  # the age of the records stays as it is
                moved = opens_at - taken_at(afar)
                last = datetime.max.replace(tzinfo=UTC)
                then["as_of"] = _instant(last if last - moved < afar.as_of else afar.as_of + moved)
            if remote.decide_remote(reference, holder, then)["outcome"] == "deny":
                yield f"seed {seed} remote opens_at {number}", (holder, then), "no denial", "denied"


def refusals(seed: int) -> Iterator[Difference]:
    """The faults of a set broken at random, where they differ."""
    lines, what, settled = sites.mutations(seed)
    if not settled or "\\ud800" in json.dumps(lines):
        # A lone surrogate makes a line that is no JSON text here, and any text there.
        return
    wanted = {(kind, _shown(name), member) for kind, name, member in faults.faults(lines)}
    try:
        parse_records(map(_line, lines))
        got = set()
    except RecordsRefused as refused:
        got = {(fault.type, fault.id, fault.member) for fault in refused.faults}
    if wanted != got:
        yield f"seed {seed} faults", what, sorted(wanted), sorted(got)


def forms(seed: int) -> Iterator[Difference]:
    """Requests of odd forms that one takes and the other doesn't."""
    _, odd = sites.odd_requests(seed)
    for request in odd:
        if _takes(decider.read_request, request, decider.AnotherForm) != _takes(
            lambda request: parse_request(_line(request)), request, RequestError
        ):
            yield f"seed {seed} form", request, "", ""


def _grant(grant: carried.Grant) -> CarriedGrant:
    return CarriedGrant(
        id=grant["id"],
        holder=grant["holder"],
        medium="paper",
        doors=tuple(grant["doors"]),
        zones=tuple(grant["zones"]),
        issued=datetime.fromtimestamp(grant["issued"] // 1000, UTC),
        not_before=datetime.fromtimestamp(grant["not_before"] // 1000, UTC),
        expires=datetime.fromtimestamp(grant["expires"] // 1000, UTC),
    )


def _takes(read: Any, request: Any, refusal: type[Exception]) -> bool:
    try:
        read(request)
    except refusal:
        return False
    return True


def _line(value: Any) -> bytes:
    return json.dumps(value).encode()


def _shown(name: str) -> str:
    # What would break a line of the listing is written as an escape there.
    return name.replace("\u2028", "\\u2028")


def _instant(at: datetime | None) -> str | None:
    if at is None:
        return None
    ms = at.microsecond // 1000
    return at.strftime("%Y-%m-%dT%H:%M:%S") + (f".{ms:03d}" if ms else "") + "Z"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--seeds", default="0:100", help="FROM:TO")
    parser.add_argument("--requests", type=int, default=1000, help="a site")
    parser.add_argument("--explained", type=int, default=10, help="a site")
    options = parser.parse_args()
    first, last = map(int, options.seeds.split(":"))
    started, differences = time.monotonic(), 0
    for seed in range(first, last):
        for what, case, wanted, got in (
            *decisions(seed, options.requests, options.explained),
            *carried_decisions(seed, options.requests),
            *refusals(seed),
            *forms(seed),
        ):
            differences += 1
            print(f"{what}: {case}\n  reference {wanted}\n  product   {got}")
    count = last - first
    print(
        f"{count} sites, {count * options.requests} decisions, {count * options.explained} "
        f"explanations, {count * options.requests} by carried grants, "
        f"{count} broken sets: {differences} differences, "
        f"{time.monotonic() - started:.0f} s"
    )
    return 1 if differences else 0


if __name__ == "__main__":
    sys.exit(main())
