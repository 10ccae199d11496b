"""Files of entitlement records on the command line, and the instant that a question is about."""

import argparse
from datetime import datetime, timedelta
from pathlib import Path

from gateway.clock import SystemClock, voucher
from gateway.domain.instants import parse_instant
from gateway.domain.record_faults import ParsedRecords, parse_records
from gateway.errors import GatewayError


def parsed_records(path: Path) -> ParsedRecords:
    """The records in a file. Raises RecordsRefused, GatewayError."""
    try:
        with path.open("rb") as file:
            return parse_records(line.removesuffix(b"\n") for line in file)
    except OSError as error:
        raise GatewayError(f"{path}: can't be read: {error.strerror}") from error


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
