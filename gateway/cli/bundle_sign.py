"""`door-gateway bundle sign`: make a bundle of records, or add a signature to one."""

import argparse
import secrets
from datetime import timedelta
from pathlib import Path

import msgspec

from gateway.cli import EXIT_OK, Command
from gateway.cli.duration import duration
from gateway.cli.records_file import parsed_records
from gateway.cli.signed_files import add_output, now_s, read_bounded, write_new
from gateway.domain.json_text import decode_object
from gateway.errors import GatewayError
from gateway.trust.bundle import (
    BUNDLE_CONTEXT,
    DOCUMENT_BYTES_MAX,
    MAGIC,
    RAW_BYTES_MAX,
    Base,
    Changes,
    Manifest,
    framed,
    manifest_in,
    unframed,
)
from gateway.trust.cose import sign_document
from gateway.trust.keys import kid_of, read_private_key
from gateway.trust.making import (
    About,
    Key,
    Made,
    amended,
    canonical_records,
    delta,
    records_of,
    signed,
    snapshot,
)
from gateway.trust.root import opened_document

_DESCRIPTION = """\
Make a bundle of a file of records (JSON Lines) and sign it with keys of the role `bundle`; with
--base a delta to the bundle before it: a snapshot, or given one after the other a snapshot and the
deltas since. Of a file that is a bundle already, add another
signature, as the impact guard asks for: by somebody else, who has looked at it.

The digest key is 32 random bytes that stay the same for a site; the file is made if it is not
there. Guard it like the records: with it and a gateway's disk PINs can be tried."""

_EXAMPLE = """\
example:
  door-gateway bundle sign records.jsonl --site LON --gateway gw-1 --revision 42 \\
      --digest-key lon.digest --key bundle-1.pem -o 42.bundle
  door-gateway bundle sign new.jsonl --base 42.bundle --site LON --gateway gw-1 --revision 43 \\
      --digest-key lon.digest --key bundle-1.pem -o 43.bundle
  door-gateway bundle sign 43.bundle --key bundle-2.pem -o 43-twice.bundle"""

_DIGEST_KEY_BYTES = 32


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.description, parser.epilog = _DESCRIPTION, _EXAMPLE
    parser.add_argument("file", type=Path, metavar="FILE", help="records, or a bundle")
    parser.add_argument("--key", type=Path, action="append", required=True, metavar="FILE")
    parser.add_argument("--site", metavar="ID")
    parser.add_argument("--gateway", action="append", default=[], metavar="ID")
    parser.add_argument("--revision", type=int, metavar="N")
    parser.add_argument("--digest-key", type=Path, metavar="FILE")
    parser.add_argument("--lasts", type=duration, default=timedelta(days=30), help="default: 30d")
    parser.add_argument(
        "--base",
        type=Path,
        action="append",
        metavar="FILE",
        help="the bundle before it; if that is a delta, first the snapshot and deltas before that",
    )
    add_output(parser)


def _run(options: argparse.Namespace) -> int:
    data = read_bounded(options.file, RAW_BYTES_MAX)
    made = _signed_again(data, options.key) if data.startswith(MAGIC) else _made(options, data)
    write_new(options.output, made, mode=0o600)
    return EXIT_OK


def _signed_again(data: bytes, keys: list[Path]) -> bytes:
    document, *chunks = unframed(data)
    manifest = manifest_in(opened_document(document, DOCUMENT_BYTES_MAX).payload)
    changes = Changes(manifest)
    for chunk, content in zip(manifest.chunks, chunks, strict=False):
        for _ in changes.read(chunk, content):
            """Nobody signs twice what a gateway refuses by its chunks alone."""
    for file in keys:
        key = read_private_key(file)
        kid = kid_of(key.public_key())
        found = opened_document(document, DOCUMENT_BYTES_MAX)
        beside = [each for each in found.signatures if each.kid != kid]
        document = sign_document(found.payload, key, kid, context=BUNDLE_CONTEXT, beside=beside)
    return b"".join(framed([document, *chunks]))


def _made(options: argparse.Namespace, data: bytes) -> bytes:
    if options.site is None or options.revision is None or options.digest_key is None:
        raise GatewayError("of records: --site, --gateway, --revision and --digest-key are needed")
    if not options.gateway:
        raise GatewayError("no gateway would take it: give --gateway")
    parsed_records(options.file, options.site)  # for its faults
    made = now_s()
    about = About(
        options.site,
        tuple(options.gateway),
        options.revision,
        made,
        made + options.lasts // timedelta(seconds=1),
        _digest_key(options.digest_key),
    )
    records = _canonical(data)
    bundle = snapshot(records, about) if options.base is None else _delta(options, records, about)
    manifest_in(bundle.payload)
    keys = [read_private_key(file) for file in options.key]
    return b"".join(framed([signed(bundle, keys), *bundle.chunks]))


def _delta(options: argparse.Namespace, records: dict[Key, bytes], about: About) -> Made:
    before, was = _base(options.base)
    if before.digest_key != about.digest_key:
        raise GatewayError(f"{options.base[-1]}: was made with another digest key")
    if about.revision <= before.revision:
        raise GatewayError(f"{options.base[-1]}: is revision {before.revision}: give a higher one")
    return delta(was, records, about, before.revision)


def _base(files: list[Path]) -> tuple[Manifest, dict[Key, bytes]]:
    """The last manifest and the records that a snapshot and the deltas upon it lead to."""
    before: Manifest | None = None
    records: dict[Key, bytes] = {}
    for file in files:
        document, *chunks = unframed(read_bounded(file, RAW_BYTES_MAX))
        manifest = manifest_in(opened_document(document, DOCUMENT_BYTES_MAX).payload)
        if len(chunks) != len(manifest.chunks):
            raise GatewayError(f"{file}: has {len(chunks)} of {len(manifest.chunks)} chunks")
        if manifest.kind == "snapshot":
            records = records_of(manifest, chunks)
        elif before is None or manifest.base != Base(before.revision, before.digest):
            raise GatewayError(
                f"{file}: is {_described(manifest)}: give --base for the snapshot that it goes back"
                " to and for every delta since, in their order"
            )
        else:
            records = amended(records, manifest, chunks)
        before = manifest
    assert before is not None  # noqa: S101 - one is given
    return before, records


def _described(manifest: Manifest) -> str:
    base = manifest.base
    upon = "" if isinstance(base, msgspec.UnsetType) else f" upon revision {base.revision}"
    return f"a {manifest.kind}, revision {manifest.revision}{upon}"


def _canonical(data: bytes) -> dict[Key, bytes]:
    return canonical_records(decode_object(line).members for line in data.splitlines())


def _digest_key(path: Path) -> bytes:
    if not path.exists():
        write_new(path, secrets.token_bytes(_DIGEST_KEY_BYTES), mode=0o600)
    key = read_bounded(path, _DIGEST_KEY_BYTES)
    if len(key) != _DIGEST_KEY_BYTES:
        raise GatewayError(f"{path}: a digest key has {_DIGEST_KEY_BYTES} bytes")
    return key


COMMAND = Command(_configure, _run)
