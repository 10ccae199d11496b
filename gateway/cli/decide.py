"""`door-gateway decide`: what the gateway would answer to each request."""

import argparse
from collections.abc import Mapping

import msgspec

from gateway.cli import Command
from gateway.cli.requests import add_arguments, answer_requests
from gateway.domain.decision import Request, decide
from gateway.domain.entitlements import Entitlements

_DESCRIPTION = """\
Decide requests on a set of entitlement records, offline and without side effects, and print one
decision a line, in the order of the requests: a JSON object with the members outcome, reason,
holder, via and duress. Exits 2 where the records have a fault (one line each on standard error:
type, id, member and what is wrong, separated by tabs) or at a request of another form."""

_EXAMPLE = """\
example:
  door-gateway decide --records london.jsonl --requests - <<'END'
  {"door": "front", "credentials": [{"kind": "uid", "value": "04A1B2C3"}],
   "at": "2026-06-01T09:30:00Z"}
  END
(each request on one line)"""


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.description = _DESCRIPTION
    parser.epilog = _EXAMPLE
    add_arguments(parser)


def _run(options: argparse.Namespace) -> int:
    return answer_requests(options, _answer)


def _answer(records: Entitlements, request: Request) -> Mapping[str, object]:
    return msgspec.structs.asdict(decide(records, request))


COMMAND = Command(_configure, _run)
