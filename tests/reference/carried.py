"""The decision on a carried grant, transcribed from carried-grants.md, version 1; random grants.

Every step is asked on its own, of every request; then the first that has something to say counts.
"""

import random
from typing import Any

from tests.reference import sites
from tests.reference.decider import HOUR_MS, Asked, Site, answer, read_request

Grant = dict[str, Any]
"""`id` (hex), `holder`, `doors`, `zones`; instants in ms: `issued`, `not_before`, `expires`."""

REFUSALS = (
    "grant_malformed",
    "grant_unknown_key",
    "grant_bad_signature",
    "grant_wrong_audience",
    "grant_key_unproven",
)


class AskedByGrant(Asked):
    """One request whose first credential is a carried grant, or one that wasn't verified."""

    def __init__(self, site: Site, grant: Grant | str, request: dict[str, Any]) -> None:
        super().__init__(site, request)
        self.grant = grant
        self.primary = None
        self.holder = None
        if isinstance(grant, dict):
            self.holder = site.of.get("holder", {}).get(grant["holder"])

    def decide(self) -> dict[str, Any]:
        found: list[tuple[int, str, str, str | None]] = []  # step, outcome, reason, via
        grant, door = self.grant, self.door
        if door is None:
            found.append((1, "deny", "unknown_door", None))
        elif self.side == "out" and door.get("egress", True):
            found.append((2, "grant", "egress", None))
        if isinstance(grant, str):
            found.append((3, "deny", grant, None))
        elif door is not None:
            found += self.steps(grant)
        step, outcome, reason, via = min(found, key=lambda each: each[0])
        unverified = isinstance(grant, str)
        holder = None if step in (1, 3) or isinstance(grant, str) else grant["holder"]
        duress = step != 1 and not unverified and self.duress()
        return answer(outcome, reason, holder, via, duress)

    def steps(self, grant: Grant) -> list[tuple[int, str, str, str | None]]:
        """What each of steps 4 to 13 says; of one step only the first."""
        said: list[tuple[int, str, str, str | None]] = []

        def deny(step: int, reason: str, via: str | None = None) -> None:
            if not any(each[0] == step for each in said):
                said.append((step, "deny", reason, via))

        newer = grant["issued"] > self.as_of
        record = self.site.meant("qr", "DG1:" + grant["id"].upper())
        for reason in [] if record is None else self.step_4(record):
            deny(4, reason)
        if self.at < grant["not_before"]:
            deny(4, "credential_not_yet_valid")
        if not self.at < grant["expires"]:
            deny(4, "credential_expired")
        if not newer and self.holder is None:
            deny(5, "holder_unknown")
        if not newer and self.holder is not None:
            for reason in self.step_5():
                deny(5, reason)
            for reason in self.step_6():
                deny(6, reason)
            for reason, via in self.step_9():
                deny(9, reason, via)
        exempt = self.site.policy.get("lockdown_exempt_personas", ["staff"])
        if self.lockdown and not (self.holder and self.holder["persona"] in exempt):
            deny(7, "lockdown")
        hours = self.site.policy.get("max_age_h", {}).get(self.category())
        ageless = self.site.policy.get("max_age_exempt_personas", [])
        is_exempt = self.holder is not None and self.holder["persona"] in ageless
        if hours is not None and not is_exempt and self.at >= self.as_of + hours * HOUR_MS:
            deny(8, "entitlements_stale")
        assert self.door is not None
        if not (self.door["id"] in grant["doors"] or self.zone in grant["zones"]):
            deny(10, "no_entitlement")
        if self.strict:
            deny(11, "clock_untrusted")
        schedule = self.door.get("second_factor_schedule")
        if schedule is not None and self.site.schedule_open(schedule, self.at):
            pins = [pin["value"] for pin in self.holders_pins()]
            if not pins:
                deny(12, "no_pin")
            elif len(self.credentials) == 1:
                said.append((12, "challenge", "pin_required", grant["id"]))
            elif self.credentials[1]["value"] not in pins:
                deny(12, "wrong_pin")
        return [*said, (13, "grant", "carried", grant["id"])]


def decide_carried(site: Site, grant: Grant | str, request: dict[str, Any]) -> dict[str, Any]:
    """The decision on one request."""
    return AskedByGrant(site, grant, read_request(request)).decide()


def questions(
    seed: int, count: int
) -> tuple[list[dict[str, Any]], list[tuple[Grant | str, dict[str, Any]]]]:
    """The records of a random site, and requests by random grants near its edges."""
    records, requests = sites.site(seed, count)
    rng = random.Random(seed)
    of: dict[str, list[str]] = {}
    for record in records:
        of.setdefault(record["type"], []).append(record["id"])
    holders = of.get("holder", [])
    found: list[tuple[Grant | str, dict[str, Any]]] = []
    ids = [rng.randbytes(rng.choice((8, 16))).hex() for _ in range(6)]
    if holders:
        revoked = [
            {"type": "credential", "id": f"revoked {name}", "holder": rng.choice(holders),
             "kind": "qr", "value": f"DG1:{name.upper()}",
             "status": rng.choice(("active", "suspended", "lost", "stolen", "returned"))}
            for name in ids[:1]
        ]  # fmt: skip
        records = [*records, *revoked]
    for request in requests:
        read = read_request(request)
        at, as_of = read["at"], read["as_of"]

        def near(moment: int) -> int:
            whole_s = moment // 1000 + rng.choice((-90_000, -3600, -1, 0, 1, 3600, 90_000))
            return min(max(whole_s, 0), 253_402_300_799) * 1000

        first = {"kind": "carried", "value": ""}
        asked = {**request, "credentials": [first, *request["credentials"][1:]]}
        pins = [r for r in records if r["type"] == "credential" and r["kind"] == "pin"]
        holder = rng.choice([*holders, "nobody"])
        own = [pin for pin in pins if pin["holder"] == holder] or pins
        if own and rng.random() < 0.4:
            pin = {"kind": "pin", "value": rng.choice(own)["value"]}
            asked["credentials"] = [first, pin]
        if rng.random() < 0.05:
            found.append((rng.choice(REFUSALS), asked))
            continue
        here = rng.random() < 0.8
        doors = {request["door"]} if here else set()
        zones = set(rng.sample(of["zone"], min(len(of["zone"]), rng.choice((0, 0, 1, 2)))))
        not_before = near(at) if rng.random() < 0.3 else min(near(at), at // 1000 * 1000)
        expires = near(at) if rng.random() < 0.3 else min(at // 1000 + 1, 253_402_300_799) * 1000
        grant = {
            "id": rng.choice(ids),
            "holder": holder,
            "doors": sorted(doors | set(rng.sample(of.get("door", [""]), 1))),
            "zones": sorted(zones),
            "issued": near(as_of),
            "not_before": not_before,
            "expires": expires,
        }
        found.append((grant, asked))
    return records, found
