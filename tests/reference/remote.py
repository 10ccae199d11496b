"""The decision on a request from afar, transcribed from decision.md, version 1."""

from typing import Any

from tests.reference.decider import Asked, Site, answer, read_request


class AskedFromAfar(Asked):
    """One request that a holder makes without presenting anything."""

    def __init__(self, site: Site, holder: str, request: dict[str, Any]) -> None:
        super().__init__(site, request)
        self.name = holder
        self.holder = site.of.get("holder", {}).get(holder)

    def decide(self) -> dict[str, Any]:
        if self.door is None:
            return answer("deny", "unknown_door", None, None, False)
        if self.holder is None:
            return answer("deny", "holder_unknown", self.name, None, False)
        for reason in self.step_5() + self.step_6() + self.step_7() + self.step_8():
            return answer("deny", reason, self.name, None, False)
        for reason, via in self.step_9():
            return answer("deny", reason, self.name, via, False)
        grant = self.step_10(self.strict)
        if grant is None:
            reason, lacking = self.step_10_or_11()
            return answer("deny", reason, self.name, lacking, False)
        if self.second_factor():
            return answer("deny", "second_factor_required", self.name, None, False)
        return answer("grant", grant[0], self.name, grant[1], False)


def decide_remote(site: Site, holder: str, request: dict[str, Any]) -> dict[str, Any]:
    """The decision on one request by `holder`, whatever the request's own credentials are."""
    return AskedFromAfar(site, holder, read_request(request)).decide()
