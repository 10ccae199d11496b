"""`door-gateway bundle keys`: make signing keys, where they will be used."""

import argparse
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gateway.cli import EXIT_OK, Command
from gateway.cli.common import add_json, print_json
from gateway.trust.keys import kid_of, write_key, write_public_key

_DESCRIPTION = """\
Make an Ed25519 key for each NAME: DIR/NAME.pem (PKCS #8, mode 0600), which never leaves that
machine, and DIR/NAME.pub, which whoever makes the key set gets. A file that is there is not
written over. Make root keys on machines that have no network, one a person."""

_EXAMPLE = """\
example:
  door-gateway bundle keys keys/ root-ada bundle-1"""


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.description, parser.epilog = _DESCRIPTION, _EXAMPLE
    parser.add_argument("directory", type=Path, metavar="DIR")
    parser.add_argument("names", nargs="+", metavar="NAME")
    add_json(parser)


def _run(options: argparse.Namespace) -> int:
    made = {}
    for name in options.names:
        key = Ed25519PrivateKey.generate()
        write_key(options.directory / f"{name}.pem", key)
        write_public_key(options.directory / f"{name}.pub", key.public_key())
        made[name] = kid_of(key.public_key()).hex()
    if options.json:
        print_json(made)
        return EXIT_OK
    for name, kid in made.items():
        print(f"{kid}  {options.directory / name}.pem")
    return EXIT_OK


COMMAND = Command(_configure, _run)
