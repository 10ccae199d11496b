"""What a delta makes of a set of records, before the outcome is validated like any other set."""

from collections.abc import Collection, Mapping

Key = tuple[str, str]
"""Type and id."""
JsonRecord = Mapping[str, object]


def apply_delta(
    base: Mapping[Key, JsonRecord], upserts: Mapping[Key, JsonRecord], deletions: Collection[Key]
) -> dict[Key, JsonRecord]:
    """The set that `base` becomes. Nothing that is passed in is changed.

    Deletions come first: an upsert of what is deleted stays. Deleting a holder deletes its
    credentials and exceptions with it and takes its id out of every `holders`
    (docs/spec/entitlements.md); deleting what isn't there does nothing.
    """
    deleted = set(deletions)
    holders = {record_id for record_type, record_id in deleted if record_type == "holder"}
    result = {key: record for key, record in base.items() if key not in deleted}
    if holders:
        for key, record in list(result.items()):
            if key[0] in ("credential", "exception"):
                if record["holder"] in holders:
                    del result[key]
            elif key[0] == "booking":
                named = record["holders"]
                if isinstance(named, list) and not holders.isdisjoint(named):
                    left = [each for each in named if each not in holders]
                    result[key] = {**record, "holders": left}
    return result | dict(upserts)
