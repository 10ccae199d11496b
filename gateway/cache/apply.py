"""The child process that reads, keeps and compiles a set of records.

Run as `python -m gateway.cache.apply`. It runs apart because doing this in a thread took a tap's
p99 from 0.5 to 36 ms. It answers with one JSON object on standard output, tagged `outcome`, and
touches nothing that is in force: what the core maps changes only when the core itself replaces its
pointer.
"""

import argparse
import contextlib
import gc
import os
import signal
import sys
from datetime import datetime
from io import BytesIO
from pathlib import Path

import msgspec

from gateway.cache.compiled import FORMAT, Meta, write_table
from gateway.cache.key import CredentialKey, read_key
from gateway.cache.outcome import (
    RECORDS_BYTES_MAX,
    Compiled,
    Failed,
    Outcome,
    Place,
    Refused,
    Unchanged,
)
from gateway.cache.sealed import (
    SealedSet,
    Unsealable,
    bundles,
    read_bundle,
    seal_records,
    unseal,
    write_bundle,
)
from gateway.cache.source import read_source, write_source
from gateway.domain.entitlements import compile_records
from gateway.domain.pin_odds import codes_per_pin, pin_warnings
from gateway.domain.record_faults import parse_records
from gateway.errors import GatewayError, RecordsRefused, StorageError
from gateway.lifeline import end_with, no_core_dump
from gateway.sqlite import DatabaseCorrupt, set_aside

NICENESS = 10
"""Taps go first: the records have been out of date for seconds already."""


def apply(
    place: Place, key: CredentialKey, records: bytes, as_of: datetime, current: str
) -> Outcome:
    """Read a set of records, keep it sealed and compile it; `current` is the revision in force.

    Raises:
        RecordsRefused: it has faults.
        StorageError: it can't be kept.
    """
    parsed = parse_records(BytesIO(records))
    odds = codes_per_pin(parsed.records)
    warnings = (*parsed.warnings, *pin_warnings(odds))
    sealed = seal_records(BytesIO(records), as_of, key)
    if sealed.seal.revision == current:
        return Unchanged(warnings)
    write_bundle(place.bundles, sealed)
    write_source(place.source, sealed)
    meta = _meta(sealed)
    path = place.table(meta.revision)
    checksum = write_table(path, compile_records(parsed.records), key.digest, meta)
    return Compiled(
        path.name, checksum, meta.revision, as_of, meta.counts, warnings, "records", odds
    )


def rebuild(place: Place, key: CredentialKey, wanted: str) -> Outcome:
    """Compile again from what lies on disk: the revision `wanted`, or else the latest one whole.

    Raises:
        StorageError: nothing there can be used.
    """
    problems: list[str] = []
    for found, source in _candidates(place, key, wanted, problems):
        try:
            unsealed = unseal(found)
        except Unsealable as error:
            problems.append(f"{source}: {error}")
            continue
        if source != place.source.name:
            write_source(place.source, found)
        meta = _meta(found)
        path = place.table(meta.revision)
        checksum = write_table(path, compile_records(unsealed.records), unsealed.digest, meta)
        return Compiled(path.name, checksum, meta.revision, meta.as_of, meta.counts, (), source)
    raise StorageError("; ".join(problems) or "no records were ever applied")


def _candidates(
    place: Place, key: CredentialKey, wanted: str, problems: list[str]
) -> list[tuple[SealedSet, str]]:
    """The sets on disk that are whole: the one that was in force first, then the latest."""
    found: list[tuple[SealedSet, str]] = []
    if place.source.exists():
        try:
            found.append((read_source(place.source, key), place.source.name))
        except DatabaseCorrupt as error:
            problems.append(str(error))
            set_aside(place.source)
        except StorageError as error:
            problems.append(str(error))
    for path in bundles(place.bundles):
        try:
            found.append((read_bundle(path, key), path.name))
        except Unsealable as error:
            problems.append(str(error))
    found.sort(key=lambda each: (each[0].seal.revision == wanted, each[0].seal.as_of), reverse=True)
    return found


def _meta(sealed: SealedSet) -> Meta:
    counts: dict[str, int] = {}
    for line in sealed.lines:
        counts[line.type] = counts.get(line.type, 0) + 1
    return Meta(FORMAT, sealed.seal.revision, sealed.seal.as_of, counts)


def _live_and_die_quietly(parent: int) -> None:
    """Be nice, end with the core, and leave no credential in a core dump."""
    gc.disable()  # it would only look again and again at what lives until the end
    with contextlib.suppress(PermissionError):  # a wish: a sandbox may forbid it
        os.nice(NICENESS)
    no_core_dump()
    end_with(parent, signal.SIGKILL)


def _read_records(descriptor: int) -> bytes:
    with os.fdopen(descriptor, "rb") as file:
        records = file.read(RECORDS_BYTES_MAX + 1)
    if len(records) > RECORDS_BYTES_MAX:
        raise StorageError(f"the records are larger than {RECORDS_BYTES_MAX} bytes")
    return records


def main() -> None:
    """Do what the arguments say and print the outcome."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--state", type=Path, required=True)
    parser.add_argument("--key", type=Path, required=True)
    parser.add_argument("--key-id", required=True)
    parser.add_argument("--current", default="")
    parser.add_argument("--records", type=int, help="an inherited descriptor; without it: rebuild")
    parser.add_argument("--as-of", type=datetime.fromisoformat)
    parser.add_argument("--parent", type=int)
    arguments = parser.parse_args()
    if arguments.parent is not None:
        _live_and_die_quietly(arguments.parent)
    place = Place(arguments.state)
    outcome: Outcome
    try:
        key = read_key(arguments.key)
        if key.id != arguments.key_id:
            raise StorageError(f"{arguments.key}: the credential key has just been changed")
        if arguments.records is None:
            outcome = rebuild(place, key, arguments.current)
        else:
            records = _read_records(arguments.records)
            outcome = apply(place, key, records, arguments.as_of, arguments.current)
    except RecordsRefused as error:
        outcome = Refused(error.faults)
    except (GatewayError, OSError) as error:
        outcome = Failed(str(error))
    sys.stdout.buffer.write(msgspec.json.encode(outcome))


if __name__ == "__main__":
    main()
