"""What `decide` and `explain` have in common: records and requests in, an answer a line out."""

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path

from gateway.cli import EXIT_COULD_NOT, EXIT_OK
from gateway.cli.output import visible
from gateway.domain.decision import Request, parse_request
from gateway.domain.entitlements import Entitlements, RecordSet
from gateway.domain.record_faults import parse_records
from gateway.errors import GatewayError, RequestError

_STDIN = "-"

Answer = Callable[[Entitlements, Request], Mapping[str, object]]


class UnreadableFileError(GatewayError):
    """A file that the command line names can't be read."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that `answer_requests` reads."""
    parser.add_argument(
        "--records",
        required=True,
        metavar="FILE",
        help="entitlement records, JSON Lines; - is stdin",
    )
    parser.add_argument(
        "--requests", required=True, metavar="FILE", help="requests, JSON Lines; - is stdin"
    )
    parser.add_argument(
        "--json", action="store_true", help="print JSON, which this command always does"
    )


def answer_requests(options: argparse.Namespace, answer: Answer) -> int:
    """Print the answer to every request, one JSON object a line.

    Returns:
        The exit code: at a request of another form it says so and answers no further.

    Raises:
        RecordsRefused: The records have faults. Nothing has been printed.
        UnreadableFileError: One of the two files can't be read.
    """
    if options.records == _STDIN == options.requests:
        raise UnreadableFileError("records and requests can't both be read from standard input")
    records = RecordSet(parse_records(_lines(options.records)).records)
    out = sys.stdout.buffer
    for number, line in enumerate(_lines(options.requests), 1):
        try:
            request = parse_request(line)
        except RequestError as error:
            out.flush()
            print(visible(f"line {number}: {error}"), file=sys.stderr)
            return EXIT_COULD_NOT
        text = visible(json.dumps(answer(records, request), ensure_ascii=False))
        out.write(text.encode() + b"\n")
        if options.requests == _STDIN:
            out.flush()  # whoever writes the requests may wait for each answer
    out.flush()
    return EXIT_OK


def _lines(name: str) -> Iterator[bytes]:
    """The lines of a file, or of standard input, without their ends."""
    try:
        with nullcontext(sys.stdin.buffer) if name == _STDIN else Path(name).open("rb") as file:
            for line in file:
                yield line.removesuffix(b"\n")
    except OSError as error:
        raise UnreadableFileError(f"{name}: {error.strerror}") from error
