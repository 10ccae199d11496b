"""Signed files on the command line: read within bounds, never written over."""

import argparse
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

from gateway.clock import SystemClock
from gateway.errors import GatewayError

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def add_output(parser: argparse.ArgumentParser) -> None:
    """Add `-o FILE`."""
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FILE")


def now_s() -> int:
    """The machine's time, in seconds since 1970."""
    return (SystemClock(floor=None, vouched=lambda: False).now() - _EPOCH) // timedelta(seconds=1)


def read_bounded(path: Path, bytes_max: int) -> bytes:
    """A file's content. Raises GatewayError: it can't be read, or is larger."""
    try:
        with path.open("rb") as file:
            data = file.read(bytes_max + 1)
    except OSError as error:
        raise GatewayError(f"{path}: can't be read: {error.strerror}") from error
    if len(data) > bytes_max:
        raise GatewayError(f"{path}: is larger than {bytes_max} bytes")
    return data


def write_new(path: Path, content: bytes, *, mode: int = 0o644) -> None:
    """Write a file that is not there yet. Raises GatewayError."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
    except OSError as error:
        raise GatewayError(f"{path}: can't be written: {error.strerror}") from error
