"""`door-gateway grant`: make a grant that somebody carries, on paper or a phone, and read one."""

import argparse
import io
import secrets
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gateway.cli import EXIT_NO, EXIT_OK, Command
from gateway.cli.common import add_examples, add_json, print_json
from gateway.cli.duration import duration
from gateway.cli.output import say
from gateway.clock import SystemClock
from gateway.domain.carried_grant import CarriedGrant, Medium
from gateway.domain.instants import format_instant, parse_instant
from gateway.errors import GatewayError
from gateway.trust.grants import SCREEN_S_MAX, Claims, issue, point, read_unverified, to_text
from gateway.trust.keys import kid_of, read_private_key

if TYPE_CHECKING:
    import segno

_DESCRIPTION = """\
Make and read grants that somebody carries (docs/spec/carried-grants.md): a visitor's printed code,
a code on a screen, a message for a phone that proves its own key. `issue` signs with a key of the
role `grant`, so it is for the machine that has that key, never for the gateway. `read` says what a
code claims, and checks no signature."""

_EXAMPLE = """\
example:
  door-gateway grant issue --key grant.pem --gateway LON/gw-1 --holder v-ada --door front \\
      --lasts 9h --uses 4 --out ada.png
  door-gateway grant read 'DG1:...'"""

QUIET_MODULES = 4
"""ISO/IEC 18004: the white margin without which scanners don't find a code."""
PIXELS_A_MODULE = 8
GRANT_ID_BYTES = 8
"""Of 8 to 16: nobody can use a guessed one, and a code with fewer modules reads more easily."""


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.description, parser.epilog = _DESCRIPTION, _EXAMPLE
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    issuing = actions.add_parser("issue", help="sign a grant, print it, draw its code")
    issuing.add_argument("--key", type=Path, required=True, metavar="FILE", help="the role's key")
    issuing.add_argument(
        "--gateway", action="append", required=True, metavar="SITE/GATEWAY", help="where it counts"
    )
    issuing.add_argument("--holder", required=True, metavar="ID", help="whose it is")
    issuing.add_argument("--door", action="append", default=[], metavar="ID")
    issuing.add_argument("--zone", action="append", default=[], metavar="ID")
    issuing.add_argument("--begins", metavar="INSTANT", help="default: now")
    issuing.add_argument(
        "--lasts", type=duration, default=None, help="such as 9h; 60 s with --screen"
    )
    issuing.add_argument(
        "--uses", type=int, default=1, help="how often it opens; 0: as often as wanted, for a day"
    )
    issuing.add_argument("--screen", action="store_true", help="for a screen: one use, 60 s")
    issuing.add_argument(
        "--phone", metavar="KEY", help="for whoever has this key: 130 or 66 hex digits (P-256)"
    )
    issuing.add_argument("--out", type=Path, metavar="FILE", help="draw the code: .png or .svg")
    add_json(issuing)
    issuing.set_defaults(act=_issue)
    reading = actions.add_parser("read", help="what a code claims, its signature not checked")
    reading.add_argument("text", metavar="TEXT")
    add_json(reading)
    reading.set_defaults(act=_read)
    add_examples(actions, _EXAMPLE)


def _run(options: argparse.Namespace) -> int:
    act: int = options.act(options)
    return act


def _issue(options: argparse.Namespace) -> int:
    now = SystemClock(floor=None, vouched=lambda: False).now().replace(microsecond=0)
    begins = now if options.begins is None else _instant(options.begins)
    lasts: timedelta | None = options.lasts
    if options.screen and lasts is None:
        lasts = timedelta(seconds=SCREEN_S_MAX)
    if lasts is None:
        raise GatewayError("--lasts: how long is it good for?")
    if options.phone is not None and (options.screen or options.out):
        raise GatewayError("--phone: a phone's grant is neither on a screen nor drawn")
    holder_key = None if options.phone is None else _holder_key(options.phone)
    medium: Medium = "screen" if options.screen else "device" if holder_key else "paper"
    grant = CarriedGrant(
        id=secrets.token_hex(GRANT_ID_BYTES),
        holder=options.holder,
        medium=medium,
        doors=tuple(options.door),
        zones=tuple(options.zone),
        issued=now,
        not_before=begins,
        expires=begins + lasts,
        uses=options.uses,
    )
    key = read_private_key(options.key)
    claims = Claims(grant, tuple(options.gateway), holder_key)
    if holder_key is not None:
        message = issue(claims, key, kid_of(key.public_key())).hex()
        if options.json:
            print_json({"id": grant.id, "message": message})
        else:
            say(message)
        return EXIT_OK
    text = signed_text(claims, key)
    code = drawn(text, medium)
    if options.out is not None:
        _write(options.out, code)
    told = {
        "id": grant.id,
        "text": text,
        "characters": len(text),
        "qr": code.designator,
        "modules": code.symbol_size(border=0)[0],
    }
    if options.json:
        print_json(told)
    else:
        say(text)
        say(f"{grant.id}: {len(text)} characters, QR {told['qr']}, {told['modules']} modules")
    return EXIT_OK


def signed_text(claims: Claims, key: Ed25519PrivateKey) -> str:
    """A code's text. Raises GrantUnfit."""
    return to_text(issue(claims, key, kid_of(key.public_key())))


def drawn(text: str, medium: Medium) -> "segno.QRCode":
    """The QR code of a text. Paper gets soiled; a screen only gets dark, where large modules help
    more than redundancy.
    """
    try:
        import segno  # noqa: PLC0415 - only where codes are made, never on the box
    except ModuleNotFoundError:
        raise GatewayError(
            "codes are drawn by segno: install requirements-cloud.lock (docs/dependencies.md)"
        ) from None
    error = "l" if medium == "screen" else "m"
    return segno.make(text, error=error, mode="alphanumeric", micro=False, boost_error=False)


def _holder_key(digits: str) -> bytes:
    try:
        return point(EllipticCurvePublicKey.from_encoded_point(SECP256R1(), bytes.fromhex(digits)))
    except ValueError:
        raise GatewayError("--phone: is no P-256 public key in hex digits") from None


def _write(path: Path, code: "segno.QRCode") -> None:
    if path.suffix not in (".png", ".svg"):
        raise GatewayError(f"{path}: a code is drawn as .png or .svg")
    picture = io.BytesIO()
    code.save(picture, kind=path.suffix[1:], scale=PIXELS_A_MODULE, border=QUIET_MODULES)
    try:
        path.write_bytes(picture.getvalue())
    except OSError as error:
        raise GatewayError(f"{path}: {error.strerror}") from error


def _read(options: argparse.Namespace) -> int:
    claims = read_unverified(options.text)
    if claims is None:
        say("no carried grant")
        return EXIT_NO
    grant = claims.grant
    told = {
        "id": grant.id,
        "holder": grant.holder,
        "medium": grant.medium,
        "gateways": claims.audiences,
        "doors": grant.doors,
        "zones": grant.zones,
        "uses": grant.uses,
        "issued": format_instant(grant.issued),
        "from": format_instant(grant.not_before),
        "until": format_instant(grant.expires),
    }
    if options.json:
        print_json(told)
    else:
        for name, value in told.items():
            say(f"{name}: {' '.join(value) if isinstance(value, tuple) else value}")
        say("(its signature was not checked)")
    return EXIT_OK


def _instant(text: str) -> datetime:
    try:
        return parse_instant(text).replace(microsecond=0)
    except ValueError as error:
        raise GatewayError(f"--begins {text}: {error}") from None


COMMAND = Command(_configure, _run)
