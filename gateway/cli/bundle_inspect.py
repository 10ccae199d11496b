"""`door-gateway bundle inspect`: what is in a bundle."""

import argparse
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec

from gateway.cli import EXIT_OK, Command
from gateway.cli.bundle_verify import counted
from gateway.cli.common import add_json, print_json
from gateway.cli.output import say
from gateway.cli.signed_files import read_bounded
from gateway.domain.instants import format_instant
from gateway.trust.bundle import DOCUMENT_BYTES_MAX, RAW_BYTES_MAX, manifest_in, unframed
from gateway.trust.root import opened_document

_DESCRIPTION = """\
Say what a bundle claims to be and what it has. Its signatures are named, and NOT checked; no record
is printed: `bundle diff` compares two."""

_EXAMPLE = """\
example:
  door-gateway bundle inspect 42.bundle"""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.description, parser.epilog = _DESCRIPTION, _EXAMPLE
    parser.add_argument("file", type=Path, metavar="BUNDLE")
    add_json(parser)


def _run(options: argparse.Namespace) -> int:
    document, *chunks = unframed(read_bounded(options.file, RAW_BYTES_MAX))
    opened = opened_document(document, DOCUMENT_BYTES_MAX)
    manifest = manifest_in(opened.payload)
    base = manifest.base
    told = {
        "site": manifest.site,
        "gateways": manifest.gateways,
        "kind": manifest.kind,
        "revision": manifest.revision,
        "base": None if isinstance(base, msgspec.UnsetType) else base.revision,
        "made": _instant(manifest.made),
        "expires": _instant(manifest.expires),
        "digest": manifest.digest.hex(),
        "records": manifest.records,
        "chunks": len(manifest.chunks),
        "chunks_here": len(chunks),
        "bytes": sum(chunk.size for chunk in manifest.chunks),
        "raw_bytes": manifest.raw_size,
        "signed_by": [each.kid.hex() for each in opened.signatures],
        "lines": counted(manifest, chunks),
    }
    if options.json:
        print_json(told)
        return EXIT_OK
    for name, value in told.items():
        shown = ", ".join(map(str, value)) if isinstance(value, list | tuple) else value
        if isinstance(value, dict):
            shown = ", ".join(f"{count} {what}" for what, count in value.items())
        say(f"{name.replace('_', ' ')}: {'-' if shown is None else shown}")
    return EXIT_OK


def _instant(seconds: int) -> str:
    try:
        return format_instant(_EPOCH + timedelta(seconds=seconds))
    except OverflowError:
        return f"{seconds} s after 1970"


COMMAND = Command(_configure, _run)
