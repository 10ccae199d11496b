"""Files of entitlement records on the command line, bundles too, and the instant asked about."""

import argparse
from collections.abc import Iterator
from datetime import datetime, timedelta
from itertools import chain
from pathlib import Path

from gateway.clock import SystemClock, voucher
from gateway.domain.instants import parse_instant
from gateway.domain.record_faults import ParsedRecords, parse_records
from gateway.errors import GatewayError
from gateway.trust.bundle import DOCUMENT_BYTES_MAX, MAGIC, Changes, manifest_in, unframed
from gateway.trust.root import opened_document
from gateway.trust.rules import BreaksRule


def parsed_records(path: Path, site: str | None = None) -> ParsedRecords:
    """Read the records in a file: JSON Lines, or a bundle with all of them, whoever signed it.

    `site` is the id of the site that they must be of, where the caller knows it.

    Raises:
        RecordsRefused: they have faults.
        GatewayError: it can't be read, or is no whole bundle.
    """
    try:
        with path.open("rb") as file:
            begins = file.read(len(MAGIC))
            rest = chain([begins + file.readline()], file)
            if begins == MAGIC:
                return parse_records(_of_bundle(path, b"".join(rest)), site)
            return parse_records((line.removesuffix(b"\n") for line in rest), site)
    except OSError as error:
        raise GatewayError(f"{path}: can't be read: {error.strerror}") from error


def _of_bundle(path: Path, data: bytes) -> Iterator[bytes]:
    try:
        document, *parts = unframed(data)
        manifest = manifest_in(opened_document(document, DOCUMENT_BYTES_MAX).payload)
        if manifest.kind != "snapshot" or len(parts) != len(manifest.chunks):
            raise GatewayError(
                f"{path}: is a {manifest.kind} with {len(parts)} of {len(manifest.chunks)} chunks:"
                " only a snapshot with all of them has all records"
            )
        changes = Changes(manifest)
        for chunk, part in zip(manifest.chunks, parts, strict=True):
            for change in changes.read(chunk, part):
                yield change.line
    except BreaksRule as error:
        raise GatewayError(f"{path}: {error}") from error


def add_at(parser: argparse.ArgumentParser) -> None:
    """Add `--at INSTANT`."""
    parser.add_argument(
        "--at",
        type=_instant,
        metavar="INSTANT",
        help="as it will be then, such as 2026-03-29T08:00:00Z (default: now)",
    )


def asked_at(options: argparse.Namespace) -> datetime:
    """What `--at` says, or else this machine's time, to the minute."""
    at: datetime | None = options.at
    if at is None:
        now = SystemClock(floor=None, vouched=voucher("host")).now()
        at = now - timedelta(seconds=now.second, microseconds=now.microsecond)
    return at


def _instant(text: str) -> datetime:
    try:
        return parse_instant(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: {error}") from None
