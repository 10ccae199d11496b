"""The counter of an NTAG 424 DNA: each message opens once, and no later one makes way for it."""

from gateway.domain.after_decision import Case
from gateway.domain.memory import Changes, TagCounter, recall
from gateway.domain.records import Credential

REPLAYED = "sun_replayed"


def counter_key(credential: str) -> str:
    """Where the highest counter seen of a tag is remembered."""
    return f"sun/{credential}"


def why_not(case: Case) -> str | None:
    """The message is not newer than the newest that was seen of this tag."""
    tag = _tag(case)
    return REPLAYED if tag is not None and not _is_newer(case, tag) else None


def after(case: Case) -> Changes:
    """The message was seen, whatever it led to; one that waits for its PIN is not over yet."""
    tag, counter = _tag(case), case.around.counter
    waits = case.decision.outcome == "challenge"
    if tag is None or counter is None or waits or not _is_newer(case, tag):
        return {}
    return {counter_key(tag.id): TagCounter(seen=counter, tap=case.around.tap)}


def _tag(case: Case) -> Credential | None:
    first = case.request.credentials[0]
    return case.records.find("sun", first.value) if first.kind == "sun" else None


def _is_newer(case: Case, tag: Credential) -> bool:
    last = recall(case.memory, counter_key(tag.id), TagCounter)
    counter = case.around.counter
    if counter is None or last is None or counter > last.seen:
        return counter is not None
    # The reader's other doors are asked about the same message.
    return counter == last.seen and last.tap is not None and last.tap == case.around.tap
