"""`door-gateway bundle verify`: whether a gateway would take a bundle, and why not."""

import argparse
from collections import Counter
from pathlib import Path

import msgspec

from gateway.cli import EXIT_NO, EXIT_OK, Command
from gateway.cli.common import add_json, print_json
from gateway.cli.output import say
from gateway.cli.records_file import add_at, asked_at
from gateway.cli.signed_files import read_bounded
from gateway.domain.record_faults import parse_records
from gateway.errors import GatewayError, RecordsRefused
from gateway.trust.bundle import (
    DOCUMENT_BYTES_MAX,
    RAW_BYTES_MAX,
    Changes,
    Held,
    Manifest,
    Revision,
    check_manifest,
    manifest_in,
    unframed,
)
from gateway.trust.making import digest_of, records_of
from gateway.trust.root import (
    ROOT_BYTES_MAX,
    KeySet,
    Now,
    first_root,
    key_set_in,
    next_root,
    opened_document,
)
from gateway.trust.rules import BreaksRule, Rule

_DESCRIPTION = """\
Check a bundle as a gateway with this root would that has nothing in force: signatures, site, times,
every chunk, and for a snapshot its digest and its records. Successors of the root are given in
their order. Prints the rule that it breaks (docs/spec/trust.md) and exits 1; else exits 0. Rules
about what is in force already (rollback, missing_base, impact) are the gateway's to see."""

_EXAMPLE = """\
example:
  door-gateway bundle verify --root root.cbor 42.bundle
  door-gateway bundle verify --root root.cbor --root root-2.cbor --gateway gw-1 43.bundle"""


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.description, parser.epilog = _DESCRIPTION, _EXAMPLE
    parser.add_argument("file", type=Path, metavar="BUNDLE")
    parser.add_argument("--root", type=Path, action="append", required=True, metavar="FILE")
    parser.add_argument("--gateway", metavar="ID", help="default: the first that it names")
    add_at(parser)
    add_json(parser)


def _run(options: argparse.Namespace) -> int:
    data = read_bounded(options.file, RAW_BYTES_MAX)
    try:
        manifest = _checked(options, data)
    except (BreaksRule, RecordsRefused) as broken:
        rule = broken.rule if isinstance(broken, BreaksRule) else Rule.FAULTS
        if options.json:
            print_json({"ok": False, "rule": str(rule), "why": str(broken)})
        else:
            say(broken if isinstance(broken, BreaksRule) else f"{rule}: {broken}")
        return EXIT_NO
    if options.json:
        print_json({"ok": True, "revision": manifest.revision, "kind": manifest.kind})
    else:
        say(f"good: {manifest.kind}, revision {manifest.revision} of {manifest.site}")
    return EXIT_OK


def _checked(options: argparse.Namespace, data: bytes) -> Manifest:
    document, *chunks = unframed(data)
    manifest = manifest_in(opened_document(document, DOCUMENT_BYTES_MAX).payload)
    base = manifest.base
    in_force = None if isinstance(base, msgspec.UnsetType) else Revision(base.revision, base.digest)
    if manifest.kind == "repair":
        in_force = Revision(manifest.revision, manifest.digest)
    check_manifest(
        document,
        _root(options.root),
        Held(in_force, None),
        gateway=options.gateway or manifest.gateways[0],
        now=Now(asked_at(options), trusted=True),
        disk_free=RAW_BYTES_MAX,
    )
    if len(chunks) != len(manifest.chunks):
        raise BreaksRule(Rule.CHUNK, f"{len(chunks)} chunks, not {len(manifest.chunks)}")
    if manifest.kind != "snapshot":
        counted(manifest, chunks)
        return manifest
    records = records_of(manifest, chunks)
    digest = digest_of(records, manifest.digest_key).digest()
    if (digest, len(records)) != (manifest.digest, manifest.records):
        raise BreaksRule(Rule.DIGEST, "its records have another digest than it says")
    parse_records(records.values(), manifest.site)
    return manifest


def _root(files: list[Path]) -> KeySet:
    first, *more = (read_bounded(file, ROOT_BYTES_MAX) for file in files)
    try:
        site = key_set_in(opened_document(first, ROOT_BYTES_MAX)).site
        root = first_root(first, site)
        for data in more:
            root = next_root(root, data)
    except BreaksRule as broken:
        raise GatewayError(f"--root: {broken}") from broken
    return root


def counted(manifest: Manifest, chunks: list[bytes]) -> dict[str, int]:
    """How many lines of each type there are; deletions apart."""
    changes = Changes(manifest)
    found: Counter[str] = Counter()
    for chunk, data in zip(manifest.chunks, chunks, strict=False):
        for change in changes.read(chunk, data):
            found[change.type if change.line else f"{change.type} deleted"] += 1
    return dict(found)


COMMAND = Command(_configure, _run)
