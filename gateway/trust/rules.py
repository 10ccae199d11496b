"""Why something signed is refused: one name a rule, the same in events, results and on the page."""

from enum import StrEnum

from gateway.trust.admission import NotAdmitted


class Rule(StrEnum):
    """The rules of docs/spec/trust.md that an envelope can break, in the order of that page."""

    TOO_LARGE = "too_large"
    MALFORMED = "malformed"
    UNKNOWN_KEY = "unknown_key"
    BAD_SIGNATURE = "bad_signature"
    THRESHOLD = "threshold"
    ROOT_EXPIRED = "root_expired"
    WRONG_SITE = "wrong_site"
    WRONG_GATEWAY = "wrong_gateway"
    EXPIRED = "expired"
    NOT_YET = "not_yet"
    ROLLBACK = "rollback"
    EQUAL = "equal"
    MISSING_BASE = "missing_base"
    CHUNK = "chunk"
    DIGEST = "digest"
    FAULTS = "faults"
    IMPACT = "impact"


class BreaksRule(NotAdmitted):
    """What came breaks `rule`. Nothing of it was used."""

    def __init__(self, rule: Rule, why: str) -> None:
        self.rule = rule
        self.why = why
        super().__init__(f"{rule}: {why}")
