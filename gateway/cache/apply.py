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
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from io import BytesIO
from pathlib import Path
from typing import NamedTuple, TypeVar

import msgspec

from gateway.cache.compiled import (
    FORMAT,
    Amended,
    CompiledEntitlements,
    Meta,
    amend_table,
    write_table,
)
from gateway.cache.incoming import Incoming
from gateway.cache.key import CredentialKey, read_key
from gateway.cache.outcome import (
    RECORDS_BYTES_MAX,
    Audited,
    Broken,
    BundleOrder,
    Compiled,
    Failed,
    Outcome,
    Place,
    Refused,
    Unchanged,
)
from gateway.cache.sealed import (
    Identity,
    Key,
    Line,
    Seal,
    SealedSet,
    Unsealable,
    Unsealed,
    bundles,
    digest_of,
    is_whole,
    make_seal,
    read_bundle,
    seal_line,
    seal_records,
    unseal,
    write_bundle,
    write_delta,
)
from gateway.cache.source import (
    Source,
    Sums,
    holders_in,
    opened,
    put_aside,
    read_source,
    value_of,
    write_source,
)
from gateway.decoding import decode_json
from gateway.domain.canonical import PERSONAL, SetDigest, bucket_of
from gateway.domain.delta import apply_delta
from gateway.domain.entitlements import Holding, ValidRecords, compile_records
from gateway.domain.impact import Impact, Standing, impact, standing
from gateway.domain.impact_window import Recent, reasons, with_change
from gateway.domain.pin_odds import odds_of, pin_lengths, pin_warnings
from gateway.domain.record_faults import parse_records
from gateway.errors import GatewayError, RecordsRefused, StorageError
from gateway.lifeline import end_with, limit_memory, no_core_dump
from gateway.sqlite import DatabaseCorrupt
from gateway.trust.bundle import Changes, Manifest, manifest_in
from gateway.trust.rules import BreaksRule, Rule

_K = TypeVar("_K", str, int)

MEMORY_BYTES_MAX = 832 * 1024 * 1024
"""Of the child. The unit's MemoryMax=1G is for it and the core together: beyond it the kernel would
kill, here it fails with a reason and the doors go on."""

NICENESS = 10
"""Taps go first: the records have been out of date for seconds already. No further back: at 19 a
snapshot took more than a minute beside other work that kept every core busy, and a revocation must
not wait for an idle machine."""


def apply(
    place: Place, key: CredentialKey, records: bytes, as_of: datetime, current: str
) -> Outcome:
    """Read a set of records, keep it sealed and compile it; `current` is the revision in force.

    Raises:
        RecordsRefused: it has faults.
        StorageError: it can't be kept.
    """
    parsed = parse_records(BytesIO(records), place.site)
    sums = _sums(parsed.records, as_of)
    odds = odds_of(sums.pins)
    warnings = (*parsed.warnings, *pin_warnings(odds))
    sealed = seal_records(BytesIO(records), as_of, key)
    if sealed.seal.revision == current:
        return Unchanged(warnings)
    write_bundle(place.bundles, sealed)
    write_source(place.source, sealed, sums)
    meta = _meta(sealed.seal, sums)
    path = place.table(meta.revision)
    checksum = write_table(path, compile_records(parsed.records), key.digest, meta)
    return Compiled(
        path.name,
        checksum,
        meta.revision,
        as_of,
        meta.counts,
        warnings,
        "records",
        digest=sealed.seal.digest,
        doors=sums.doors,
        codes_per_pin=odds,
    )


def rebuild(place: Place, key: CredentialKey, wanted: str) -> Outcome:
    """Compile again from what lies on disk: the revision `wanted`, or else the latest one whole.

    Raises:
        StorageError: nothing there can be used.
    """
    problems: list[str] = []
    for found, source in _candidates(place, key, wanted, problems):
        try:
            unsealed = unseal(found.lines, place.site)
        except (Unsealable, RecordsRefused) as error:
            problems.append(f"{source}: {error}")
            continue
        sums = _sums(unsealed.records, found.seal.as_of)
        if source != place.source.name:
            write_source(place.source, found, sums)
        return _compiled(place, found.seal, sums, unsealed, source)
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
            put_aside(place.source)
        except StorageError as error:
            problems.append(str(error))
    for path in bundles(place.bundles):
        try:
            found.append((read_bundle(path, key), path.name))
        except Unsealable as error:
            problems.append(str(error))
    found.sort(key=lambda each: (each[0].seal.revision == wanted, each[0].seal.as_of), reverse=True)
    return found


def audit(place: Place, key: CredentialKey) -> Audited:
    """The digest of the lines that are whole. Raises StorageError."""
    digest, damaged = SetDigest(), 0
    with opened(place.source) as source:
        for line in source.lines():
            if is_whole(line, key):
                digest.add(line.type, line.id, line.leaf)
            else:
                damaged += 1
    return Audited(digest.digest().hex(), b"".join(digest.buckets()).hex(), damaged)


# --- Bundles --------------------------------------------------------------------------------------


class _Coming(NamedTuple):
    """What a bundle's chunks say."""

    manifest: Manifest
    put: dict[Key, Line]
    fresh: dict[Key, bytes]
    """Of the same: the canonical records."""
    gone: frozenset[Key]


class _Made(NamedTuple):
    """A set that would be, its digest found to be the one signed."""

    unsealed: Unsealed
    sums: Sums


def apply_bundle(place: Place, key: CredentialKey, order: BundleOrder, current: str) -> Outcome:
    """Read a bundle's chunks and make its set; `current` is the revision in force.

    Raises:
        BreaksRule: it breaks a rule that only its content shows.
        RecordsRefused: the set has faults.
        StorageError: it can't be kept.
    """
    coming = _read_chunks(place, key, manifest_in(order.manifest))
    if coming.manifest.kind == "delta" and current:
        with contextlib.suppress(_Whole):
            return _amend(place, key, order, coming, current)
    return _replace(place, key, order, coming, current)


def _read_chunks(place: Place, key: CredentialKey, manifest: Manifest) -> _Coming:
    incoming, changes = Incoming(place.incoming, key), Changes(manifest)
    put: dict[Key, Line] = {}
    fresh: dict[Key, bytes] = {}
    gone = set()
    for chunk in manifest.chunks:
        for change in changes.read(chunk, incoming.chunk(chunk.sha256)):
            named = (change.type, change.id)
            if change.line:
                put[named] = seal_line(change.members, manifest.digest_key, key)
                fresh[named] = change.line
            else:
                gone.add(named)
    return _Coming(manifest, put, fresh, frozenset(gone))


def _replace(
    place: Place, key: CredentialKey, order: BundleOrder, coming: _Coming, current: str
) -> Compiled:
    """Make the whole set, from the one in force where the bundle is not a snapshot."""
    manifest = coming.manifest
    was = _in_force(place, key, current)
    lines = _lines_after(place, key, coming, was)
    ordered = sorted(lines.values())
    _check_digest(manifest, digest_of(ordered), len(ordered))
    unsealed = unseal(ordered, place.site, coming.fresh)
    if manifest.kind == "repair":
        recent = order.recent
    else:
        recent = _check_impact_of_all(place, order, was, unsealed) if current else ()
    seal = _seal(order, manifest, key)
    sums = _sums(unsealed.records, order.at)
    sealed = SealedSet(seal, ordered)
    write_bundle(place.bundles, sealed)
    write_source(place.source, sealed, sums)
    compiled = _compiled(place, seal, sums, unsealed, manifest.kind)
    return msgspec.structs.replace(compiled, recent=recent)


def _in_force(place: Place, key: CredentialKey, current: str) -> SealedSet | None:
    if not current:
        return None
    for found, _ in _candidates(place, key, current, []):
        if found.seal.revision == current:
            return found
    return None


def _lines_after(
    place: Place, key: CredentialKey, coming: _Coming, was: SealedSet | None
) -> dict[Key, Line]:
    manifest = coming.manifest
    if manifest.kind == "snapshot":
        return coming.put
    if manifest.kind == "repair":
        assert isinstance(manifest.buckets, tuple)  # noqa: S101 - `manifest_in` saw to it
        repaired = frozenset(manifest.buckets)
        with opened(place.source) as source:
            kept = {
                line.key: line
                for line in source.lines()
                if bucket_of(*line.key) not in repaired and is_whole(line, key)
            }
        return kept | coming.put
    if was is None:
        raise BreaksRule(Rule.MISSING_BASE, "the records in force can't be read any more")
    lines = {line.key: line for line in was.lines}
    gone, changed = _cascade(lines.values(), coming, key)
    for each in gone:
        lines.pop(each, None)
    return lines | changed | coming.put


def _cascade(
    lines: Iterable[Line], coming: _Coming, key: CredentialKey
) -> tuple[set[Key], dict[Key, Line]]:
    """What the deletions delete and change among these lines (`gateway.domain.delta`)."""
    base = {
        line.key: decode_json(line.body, dict[str, object])
        for line in lines
        if line.type in PERSONAL
    }
    after = apply_delta(base, {}, coming.gone)
    changed = {
        named: seal_line(members, coming.manifest.digest_key, key)
        for named, members in after.items()
        if members is not base[named]
    }
    return (base.keys() - after.keys()) | coming.gone, changed


def _check_digest(manifest: Manifest, digest: bytes, count: int) -> None:
    if (digest, count) != (manifest.digest, manifest.records):
        raise BreaksRule(
            Rule.DIGEST,
            f"it leads to {count} records with the digest {digest.hex()[:12]}, not to"
            f" {manifest.records} with {manifest.digest.hex()[:12]}",
        )


def _check_impact_of_all(
    place: Place, order: BundleOrder, was: SealedSet | None, new: Unsealed
) -> Recent:
    if order.signatures > 1:
        return ()
    if was is None:
        raise BreaksRule(
            Rule.IMPACT,
            "the records in force can't be read to compare with: it needs a second signature",
        )
    return _check_impact(order, _impact(unseal(was.lines, place.site), new, order.at))


def _impact(was: Unsealed, new: Unsealed, at: datetime) -> Impact:
    return impact(was.records, new.records, at, (was.digest, new.digest))


def _check_impact(order: BundleOrder, change: Impact) -> Recent:
    """What is recent with it. Raises BreaksRule."""
    found = reasons(change, order.recent, order.limits)
    if found:
        raise BreaksRule(Rule.IMPACT, f"{'; '.join(found)}: it needs a second signature")
    return with_change(order.recent, change, order.at)


# --- A delta that is about people: only what it touches is read, checked and compiled -------------


class _Whole(Exception):
    """The whole set has to be looked at."""


def _amend(
    place: Place, key: CredentialKey, order: BundleOrder, coming: _Coming, current: str
) -> Compiled:
    """Change the set in force where the bundle says.

    A fault, or an effect on anybody, can only come from a changed record and what it is tied to:
    records of the same holders, of the same credential value, and the site's.

    Raises:
        _Whole: it is about the site, or something on the disk is damaged.
    """
    manifest = coming.manifest
    if any(kind not in PERSONAL for kind, _ in (*coming.put, *coming.gone)):
        raise _Whole
    try:
        with opened(place.source) as source:
            old, sums = source.seal(key)
            if old.revision != current:
                raise _Whole
            near = _Near(source, key, coming)
            source.change(near.gone, near.put.values())
            digest, count = source.digest()
            _check_digest(manifest, digest.digest(), count)
            before = unseal(near.before, place.site)
            after = unseal(near.after(), place.site, coming.fresh)
            _check_nothing_is_missing(place, key, order, near, before.records)
            recent = _check_impact_of_part(order, sums, before, after)
            sums = _carried_on(sums, before.records, after.records, order.at)
            seal = _seal(order, manifest, key)
            kept = write_delta(place.bundles, seal, current, near.gone, near.put.values())
            if not kept:
                write_bundle(place.bundles, SealedSet(seal, list(source.lines())))
            source.put_seal(seal, sums)
            source.commit()
    except (DatabaseCorrupt, Unsealable) as error:
        raise _Whole from error
    meta = _meta(seal, sums)
    path = place.table(meta.revision)
    try:
        checksum = amend_table(
            (place.directory / order.table, order.table_sha256),
            path,
            Amended(near.holders, near.hashes),
            compile_records(after.records),
            after.digest,
            meta,
        )
    except StorageError as error:
        raise _Whole from error
    made = _outcome(path, checksum, seal, sums, after, manifest.kind)
    return msgspec.structs.replace(made, recent=recent)


class _Near:
    """What a delta changes and what that is tied to."""

    def __init__(self, source: Source, key: CredentialKey, coming: _Coming) -> None:
        touched = coming.put.keys() | coming.gone
        was = list(source.named(touched))
        holders = {holder for line in (*was, *coming.put.values()) for holder in _holders(line)}
        if any(kind == "holder" for kind, _ in coming.gone):
            # Who is in a booking with somebody who is deleted: that booking changes for them.
            beside = list(source.of_holders(sorted(holders)))
            holders |= {each for line in beside for each in holders_in(line.type, line.body)}
        theirs = {line.key: line for line in (*was, *source.of_holders(sorted(holders)))}
        cascaded, changed = _cascade(theirs.values(), coming, key)
        self.gone = cascaded
        self.put = changed | coming.put
        self.holders = holders
        moved = [theirs[each] for each in (self.gone | self.put.keys()) & theirs.keys()]
        values = {value_of(line) for line in (*moved, *self.put.values())} - {None}
        self.hashes = {bytes.fromhex(str(value).split(":")[2]) for value in values}
        # Somebody who is in a booking with them, or had the same card before them.
        more = {line.key: line for line in source.with_values(sorted(map(str, values)))}
        others = {
            holder
            for line in (*theirs.values(), *more.values(), *self.put.values())
            for holder in holders_in(line.type, line.body)
        }
        more |= {line.key: line for line in source.named(("holder", each) for each in others)}
        self.before = [*source.site_lines(), *(theirs | more).values()]
        if not all(is_whole(line, key) for line in self.before):
            raise _Whole

    def after(self) -> list[Line]:
        """The same records as they will be."""
        lines = {line.key: line for line in self.before if line.key not in self.gone}
        return list((lines | self.put).values())


def _check_nothing_is_missing(
    place: Place, key: CredentialKey, order: BundleOrder, near: _Near, before: ValidRecords
) -> None:
    """See that the rows told of all that the table in force has of these holders.

    No mac is over how rows are found: one that is lost there would lose somebody's exception.

    Raises:
        _Whole: they didn't, or the table is damaged.
    """
    try:
        table = CompiledEntitlements(place.directory / order.table, order.table_sha256, key)
    except StorageError as error:
        raise _Whole from error
    rows = {holding.holder.id: holding for holding in compile_records(before).holdings}
    if any(_names(rows.get(name)) != _names(_in_table(table, name)) for name in near.holders):
        raise _Whole


def _in_table(table: CompiledEntitlements, holder: str) -> Holding | None:
    try:
        return table.holding(holder)
    except KeyError:
        return None


def _names(holding: Holding | None) -> list[list[str]] | None:
    if holding is None:
        return None
    parts = (holding.pins, holding.bookings, holding.exceptions)
    return [[each.id for each in part] for part in parts]


def _holders(line: Line) -> list[str]:
    return [line.id] if line.type == "holder" else holders_in(line.type, line.body)


def _check_impact_of_part(order: BundleOrder, sums: Sums, was: Unsealed, new: Unsealed) -> Recent:
    if order.signatures > 1:
        return ()
    part = _impact(was, new, order.at)
    whole = part._replace(
        first=False,
        grants_before=sums.grants,
        grants_after=sums.grants + part.grants_after - part.grants_before,
        hours_before=sums.hours,
    )
    return _check_impact(order, whole)


def _carried_on(sums: Sums, was: ValidRecords, new: ValidRecords, at: datetime) -> Sums:
    before, after = _sums(was, at), _sums(new, at)
    return Sums(
        counts=_moved(sums.counts, before.counts, after.counts),
        pins=_moved(sums.pins, before.pins, after.pins),
        grants=sums.grants + after.grants - before.grants,
        hours=sums.hours + after.hours - before.hours,
        doors=_moved(sums.doors, before.doors, after.doors, keep=True),
    )


def _moved(
    sums: Mapping[_K, int], before: Mapping[_K, int], after: Mapping[_K, int], *, keep: bool = False
) -> dict[_K, int]:
    moved = Counter(sums)
    moved.update(after)
    moved.subtract(before)
    return {name: count for name, count in moved.items() if count or keep}


# --- What all of them end with --------------------------------------------------------------------


def _sums(records: ValidRecords, at: datetime) -> Sums:
    tables = records.tables
    counts = {
        "site": 1,
        "policy": 1,
        "calendar": len(tables.calendars),
        "zone": len(tables.zones),
        "schedule": len(tables.schedules),
        "door": len(tables.doors),
        "group": len(tables.groups),
        "holder": len(records.holders),
        "credential": len(records.credentials),
        "booking": len(records.bookings),
        "exception": len(records.exceptions),
    }
    found: Standing = standing(records, at)
    return Sums(
        {name: count for name, count in counts.items() if count},
        pin_lengths(records),
        found.grants,
        found.hours,
        found.doors,
    )


def _seal(order: BundleOrder, manifest: Manifest, key: CredentialKey) -> Seal:
    identity = Identity(manifest.revision, order.epoch, order.as_of, manifest.digest_key)
    return make_seal(manifest.digest.hex(), identity, key)


def _meta(seal: Seal, sums: Sums) -> Meta:
    return Meta(FORMAT, seal.revision, seal.as_of, sums.counts)


def _compiled(place: Place, seal: Seal, sums: Sums, unsealed: Unsealed, source: str) -> Compiled:
    meta = _meta(seal, sums)
    path = place.table(meta.revision)
    checksum = write_table(path, compile_records(unsealed.records), unsealed.digest, meta)
    return _outcome(path, checksum, seal, sums, unsealed, source)


def _outcome(
    path: Path, checksum: str, seal: Seal, sums: Sums, unsealed: Unsealed, source: str
) -> Compiled:
    odds = odds_of(sums.pins)
    return Compiled(
        path.name,
        checksum,
        seal.revision,
        seal.as_of,
        sums.counts,
        (*unsealed.warnings, *pin_warnings(odds)),
        source,
        number=seal.number,
        digest=seal.digest,
        epoch=seal.epoch,
        doors=sums.doors,
        codes_per_pin=odds,
    )


def _live_and_die_quietly(parent: int) -> None:
    """Be nice, end with the core, and leave no credential in a core dump."""
    gc.disable()  # it would only look again and again at what lives until the end
    with contextlib.suppress(PermissionError):  # a wish: a sandbox may forbid it
        os.nice(NICENESS)
    no_core_dump()
    limit_memory(MEMORY_BYTES_MAX)
    end_with(parent, signal.SIGKILL)


def _read_records(descriptor: int) -> bytes:
    with os.fdopen(descriptor, "rb") as file:
        records = file.read(RECORDS_BYTES_MAX + 1)
    if len(records) > RECORDS_BYTES_MAX:
        raise StorageError(f"the records are larger than {RECORDS_BYTES_MAX} bytes")
    return records


def main() -> None:
    """Do what the arguments say and print the outcome."""
    sys.stdout.buffer.write(msgspec.json.encode(run(sys.argv[1:])))


def run(argv: Sequence[str]) -> Outcome:
    """Do what the arguments say."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--state", type=Path, required=True)
    parser.add_argument("--site", required=True, help="the id that the site record must have")
    parser.add_argument("--key", type=Path, required=True)
    parser.add_argument("--key-id", required=True)
    parser.add_argument("--current", default="")
    parser.add_argument("what", choices=("records", "bundle", "rebuild", "audit"))
    parser.add_argument("--input", type=int, help="an inherited descriptor: records or an order")
    parser.add_argument("--as-of", type=datetime.fromisoformat)
    parser.add_argument("--parent", type=int)
    arguments = parser.parse_args(argv)
    if arguments.parent is not None:
        _live_and_die_quietly(arguments.parent)
    return _outcome_of(arguments)


def _outcome_of(arguments: argparse.Namespace) -> Outcome:
    place = Place(arguments.state, arguments.site)
    try:
        key = read_key(arguments.key)
        if key.id != arguments.key_id:
            raise StorageError(f"{arguments.key}: the credential key has just been changed")
        match arguments.what:
            case "records":
                records = _read_records(arguments.input)
                return apply(place, key, records, arguments.as_of, arguments.current)
            case "bundle":
                order = decode_json(_read_records(arguments.input), BundleOrder)
                return apply_bundle(place, key, order, arguments.current)
            case "audit":
                return audit(place, key)
            case _:
                return rebuild(place, key, arguments.current)
    except RecordsRefused as error:
        return Refused(error.faults)
    except BreaksRule as error:
        return Broken(str(error.rule), error.why)
    except MemoryError:
        pass  # first let go of what was made: an answer takes memory, too
    except (GatewayError, OSError) as error:
        return Failed(str(error))
    return Failed(
        "the records take more memory than the gateway has for them: make the set smaller"
    )


if __name__ == "__main__":
    main()
