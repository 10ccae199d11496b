"""`door-gateway bundle root`: the key set of a site, made, signed and replaced."""

import argparse
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import get_args

from gateway.cli import EXIT_OK, Command
from gateway.cli.common import add_examples, add_json, print_json
from gateway.cli.duration import duration
from gateway.cli.output import say
from gateway.cli.signed_files import add_output, now_s, read_bounded, write_new
from gateway.errors import GatewayError
from gateway.trust.cose import Document, encode, sign_document, signers
from gateway.trust.keys import ROLES, Role, kid_of, public_key, read_private_key, read_public_key
from gateway.trust.root import (
    ROOT_BYTES_MAX,
    ROOT_CONTEXT,
    KeySet,
    key_set_in,
    opened_document,
    resets_revision,
    resets_time,
)

_DESCRIPTION = """\
Make the key set of a site (docs/spec/trust.md, "Key set"): `new` the first one, `rotate` the
successor of the one in FILE, in which roles that are not named keep their keys. Neither needs all
root keys on one machine: `sign` adds a signature, and says which are still lacking. `show` says
what stands in one."""

_EXAMPLE = """\
example:
  door-gateway bundle root new --site LON -o root.cbor --threshold root=2 \\
      --role root=ada.pub,ben.pub,cy.pub --role bundle=b1.pub,b2.pub --role freshness=f.pub \\
      --role command=c.pub --role grant=g.pub --key ada.pem
  door-gateway bundle root sign root.cbor --key ben.pem
  door-gateway bundle root rotate root.cbor -o root-2.cbor --role bundle=b3.pub --key ada.pem"""

_LASTS = timedelta(days=365)


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.description, parser.epilog = _DESCRIPTION, _EXAMPLE
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    new = actions.add_parser("new", help="the first key set of a site")
    new.add_argument("--site", required=True, metavar="ID")
    new.set_defaults(act=_new)
    rotate = actions.add_parser("rotate", help="the successor of a key set")
    rotate.add_argument("file", type=Path, metavar="FILE", help="the root document in force")
    rotate.set_defaults(act=_rotate)
    for each in (new, rotate):
        each.add_argument(
            "--role", action="append", default=[], metavar="ROLE=FILE,…", help="public keys"
        )
        each.add_argument("--threshold", action="append", default=[], metavar="ROLE=N")
        each.add_argument("--lasts", type=duration, default=_LASTS, help="default: 365d")
        each.add_argument("--key", action="append", type=Path, default=[], help="sign with this")
        add_output(each)
        add_json(each)
    sign = actions.add_parser("sign", help="add a signature to a key set")
    sign.add_argument("file", type=Path, metavar="FILE")
    sign.add_argument("--key", action="append", type=Path, required=True)
    sign.add_argument("--before", type=Path, metavar="FILE", help="the root that it succeeds")
    add_json(sign)
    sign.set_defaults(act=_sign)
    show = actions.add_parser("show", help="what stands in a key set")
    show.add_argument("file", type=Path, metavar="FILE")
    show.add_argument("--before", type=Path, metavar="FILE", help="the root that it succeeds")
    add_json(show)
    show.set_defaults(act=_show)
    add_examples(actions, _EXAMPLE)


def _run(options: argparse.Namespace) -> int:
    act: int = options.act(options)
    return act


def _new(options: argparse.Namespace) -> int:
    roles = _roles(options, {})
    return _make(options, options.site, 1, roles, None)


def _rotate(options: argparse.Namespace) -> int:
    before = key_set_in(_document(options.file))
    kept = {role: [before.keys[kid] for kid in each.keys] for role, each in before.roles.items()}
    roles = _roles(options, kept)
    return _make(options, before.site, before.version + 1, roles, before)


def _roles(
    options: argparse.Namespace, kept: Mapping[Role, list[bytes]]
) -> dict[Role, list[bytes]]:
    roles = dict(kept)
    for given in options.role:
        role, _, files = given.partition("=")
        if role not in get_args(Role) or not files:
            raise GatewayError(f"--role {given}: must be ROLE=FILE,…; roles: {', '.join(ROLES)}")
        roles[role] = [read_public_key(Path(file)).public_bytes_raw() for file in files.split(",")]
    missing = [role for role in ROLES if role not in roles]
    if missing:
        raise GatewayError(f"no keys for the role {', '.join(missing)}: give --role")
    return roles


def _make(
    options: argparse.Namespace,
    site: str,
    version: int,
    roles: Mapping[Role, list[bytes]],
    before: KeySet | None,
) -> int:
    thresholds = {role: each.threshold for role, each in before.roles.items()} if before else {}
    for given in options.threshold:
        role, _, count = given.partition("=")
        if role not in get_args(Role) or not count.isdecimal():
            raise GatewayError(f"--threshold {given}: must be ROLE=N")
        thresholds[role] = int(count)
    made = now_s()
    by_kid = {kid_of(public_key(raw)): raw for keys in roles.values() for raw in keys}
    payload = encode(
        {
            "site": site,
            "version": version,
            "made": made,
            "expires": made + options.lasts // timedelta(seconds=1),
            "keys": by_kid,
            "roles": {
                role: {
                    "keys": [kid_of(public_key(raw)) for raw in keys],
                    "threshold": thresholds.get(role, 1),
                }
                for role, keys in roles.items()
            },
        }
    )
    key_set_in(Document(payload, ()))
    if not options.key:
        raise GatewayError("nobody signs it: give at least one --key")
    document = _signed(Document(payload, ()), options.key)
    write_new(options.output, document)
    return _tell(options, opened_document(document, ROOT_BYTES_MAX), before)


def _sign(options: argparse.Namespace) -> int:
    document = _signed(_document(options.file), options.key)
    options.file.write_bytes(document)
    return _show(options)


def _show(options: argparse.Namespace) -> int:
    before = None if options.before is None else key_set_in(_document(options.before))
    return _tell(options, _document(options.file), before)


def _tell(options: argparse.Namespace, document: Document, before: KeySet | None) -> int:
    found = key_set_in(document)
    lacking = _lacking(document, found)
    if before is not None:
        lacking = max(lacking, _lacking(document, before))
    resets = before is not None and resets_revision(before, found)
    retimes = before is not None and resets_time(before, found)
    if options.json:
        print_json(
            {
                "site": found.site,
                "version": found.version,
                "made": found.made,
                "expires": found.expires,
                "roles": {
                    role: {"keys": [kid.hex() for kid in each.keys], "threshold": each.threshold}
                    for role, each in found.roles.items()
                },
                "signatures_lacking": lacking,
                "resets_revision": resets,
                "resets_time": retimes,
            }
        )
        return EXIT_OK
    say(f"root {found.version} of {found.site}")
    for role, each in found.roles.items():
        say(f"  {role}: {each.threshold} of {', '.join(kid.hex() for kid in each.keys)}")
    if len(found.roles["bundle"].keys) == 1:
        say(
            "one bundle key alone: no second signature can be given to a bundle that changes much,"
            " and it is refused until a `rotate` names another key"
        )
    if resets:
        say("all bundle keys are replaced: the next bundle may have any revision")
    if retimes:
        say("all freshness keys are replaced: the next proof of time may set the time back")
    say(f"lacks {lacking} signatures" if lacking else "has all signatures")
    return EXIT_OK


def _lacking(document: Document, root: KeySet) -> int:
    found = signers(document, root.keys_of("root"), context=ROOT_CONTEXT)
    return max(0, root.roles["root"].threshold - len(found))


def _signed(document: Document, files: list[Path]) -> bytes:
    data = b""
    for file in files:
        key = read_private_key(file)
        kid = kid_of(key.public_key())
        beside = [each for each in document.signatures if each.kid != kid]
        data = sign_document(document.payload, key, kid, context=ROOT_CONTEXT, beside=beside)
        document = opened_document(data, ROOT_BYTES_MAX)
    return data


def _document(path: Path) -> Document:
    return opened_document(read_bounded(path, ROOT_BYTES_MAX), ROOT_BYTES_MAX)


COMMAND = Command(_configure, _run)
