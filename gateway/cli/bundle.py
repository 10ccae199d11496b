"""`door-gateway bundle`: what a site's source of truth does with entitlements, one module each."""

import argparse
from importlib import import_module
from typing import NamedTuple

from gateway.cli import Command

_DESCRIPTION = """\
The cloud's side, small: from a folder of CSV files to the records that a gateway takes, and whether
they are what was meant. docs/cloud.md walks through it."""

_EXAMPLE = """\
example:
  door-gateway bundle template LON site/ --timezone Europe/London
  door-gateway bundle build site/ -o records.jsonl
  door-gateway bundle lint records.jsonl
  door-gateway bundle diff in-force.jsonl records.jsonl
  door-gateway bundle sign records.jsonl --site LON --gateway gw-1 --revision 1 \\
      --digest-key lon.digest --key bundle-1.pem -o 1.bundle
  door-gateway bundle verify --root root.cbor 1.bundle"""


class _Action(NamedTuple):
    name: str
    module: str
    summary: str


_ACTIONS = (
    _Action("template", "gateway.cli.bundle_template", "begin a folder for a new location"),
    _Action("build", "gateway.cli.bundle_build", "make records of a folder of CSV files"),
    _Action("lint", "gateway.cli.bundle_lint", "what in some records is worth a look"),
    _Action("diff", "gateway.cli.bundle_diff", "what other records change for people"),
    _Action("rights", "gateway.cli.bundle_rights", "who may open what, by which right"),
    _Action("keys", "gateway.cli.bundle_keys", "make signing keys"),
    _Action("root", "gateway.cli.bundle_root", "make, sign and replace a site's key set"),
    _Action("sign", "gateway.cli.bundle_sign", "make a signed bundle of records"),
    _Action("verify", "gateway.cli.bundle_verify", "whether a gateway would take a bundle"),
    _Action("inspect", "gateway.cli.bundle_inspect", "what is in a bundle"),
    _Action("publish", "gateway.cli.bundle_publish", "send a bundle to its gateways over MQTT"),
)


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.description, parser.epilog = _DESCRIPTION, _EXAMPLE
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    for action in _ACTIONS:
        command: Command = import_module(action.module).COMMAND
        subparser = actions.add_parser(
            action.name,
            help=action.summary,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.configure(subparser)
        subparser.set_defaults(run_action=command.run)


def _run(options: argparse.Namespace) -> int:
    code: int = options.run_action(options)
    return code


COMMAND = Command(_configure, _run)
