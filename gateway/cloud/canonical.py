"""Records as text, so that the same records are the same bytes (docs/spec/trust.md)."""

import json
from collections.abc import Iterable, Mapping

_ORDER = {
    record_type: place
    for place, record_type in enumerate(
        (
            "site",
            "policy",
            "calendar",
            "zone",
            "schedule",
            "door",
            "group",
            "holder",
            "credential",
            "booking",
            "exception",
        )
    )
}


def canonical_lines(records: Iterable[Mapping[str, object]]) -> list[str]:
    """A line a record, in the order of a bundle; members that are None are left out."""
    ordered = sorted(records, key=lambda record: (_ORDER[str(record["type"])], str(record["id"])))
    return [
        json.dumps(
            {name: value for name, value in record.items() if value is not None},
            ensure_ascii=False,
            separators=(",", ":"),
            sort_keys=True,
        )
        for record in ordered
    ]
