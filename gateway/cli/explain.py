"""`door-gateway explain`: why each request is denied, and what would have to change."""

import argparse
from collections.abc import Mapping

import msgspec

from gateway.cli import Command
from gateway.cli.requests import add_arguments, answer_requests
from gateway.domain.decision import Request
from gateway.domain.entitlements import Entitlements
from gateway.domain.explanation import explain
from gateway.domain.instants import format_instant

_DESCRIPTION = """\
Explain decisions on a set of entitlement records, offline and without side effects, one JSON
object a line, in the order of the requests: the decision's members, every reason why the request
fails (reasons), and the first instant in the next 336 hours at which the same request would not be
denied (opens_at, or null). Exits 2 where the records have a fault (one line each on standard
error: type, id, member and what is wrong, separated by tabs) or at a request of another form."""

_EXAMPLE = """\
example:
  door-gateway explain --records london.jsonl --requests taps.jsonl"""


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.description = _DESCRIPTION
    parser.epilog = _EXAMPLE
    add_arguments(parser)


def _run(options: argparse.Namespace) -> int:
    return answer_requests(options, _answer)


def _answer(records: Entitlements, request: Request) -> Mapping[str, object]:
    members = msgspec.structs.asdict(explain(records, request))
    opens_at = members["opens_at"]
    members["opens_at"] = None if opens_at is None else format_instant(opens_at)
    return members


COMMAND = Command(_configure, _run)
