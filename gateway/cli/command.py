"""`door-gateway command`: sign a command, send it over the broker, and hear what became of it."""

import argparse
import secrets
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from gateway.cli import EXIT_NO, EXIT_OK, Command
from gateway.cli.broker import add_broker, broker_session
from gateway.cli.common import add_examples, add_json, print_json
from gateway.cli.duration import duration
from gateway.cli.output import say
from gateway.cli.signed_files import write_new
from gateway.clock import SystemClock
from gateway.domain.events import Told
from gateway.domain.member_text import worded
from gateway.errors import GatewayError
from gateway.link.topics import level
from gateway.trust import commands
from gateway.trust.commands import MemberText, Result, open_result, seal_command
from gateway.trust.cose import NotSigned
from gateway.trust.keys import read_private_key

_DESCRIPTION = """\
What a site's source of truth orders from afar (docs/spec/trust.md, Commands). Needs the key of the
role `command`, so it is for the machine that has it, never for the gateway. With --host the command
is sent and its answer awaited; else it is written to FILE, and lasts 30 seconds where it opens
something. Exits 0 when it is done, 1 when it is refused, 2 when nobody answers."""

_EXAMPLE = """\
example:
  door-gateway command unlock front --key command.pem --gateway LON/gw-1 --by ivy \\
      --why "parcel, she rang" --host broker.example --ca ca.pem --cert op.pem --cert-key op.key
  door-gateway command mode front blocked --for 2h ...
  door-gateway command release --zone club --of lockdown ..."""

ANSWER_S_MAX = 15.0
"""The gateway answers in some milliseconds, or after the 3 s that a board may take."""


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.description, parser.epilog = _DESCRIPTION, _EXAMPLE
    acts = parser.add_subparsers(title="acts", metavar="ACT", dest="act", required=True)
    for name, what in (
        ("unlock", "release a door once"),
        ("mode", "set a door's mode for a time"),
        ("lockdown", "let in only whom the policy exempts"),
        ("evacuation", "hold doors open"),
        ("release", "end a lockdown or an evacuation"),
        ("forgive", "forget a holder's place and PIN lockout, or a zone's people"),
        ("identify", "have a door's readers blink and beep"),
        ("logs", "the core's log of the last minutes"),
        ("refresh", "have the gateway ask for what it lacks"),
    ):
        act = acts.add_parser(name, help=what)
        if name in ("unlock", "mode", "identify"):
            act.add_argument("door", metavar="DOOR")
        if name == "unlock":
            act.add_argument(
                "--as-holder",
                dest="as_holder",
                metavar="ID",
                help="decide as at the door's reader for this holder, with every rule; without it"
                " the door opens by the operator's word",
            )
        if name == "mode":
            act.add_argument("mode", choices=("controlled", "unlocked", "blocked"))
            act.add_argument("--for", dest="span", type=duration, required=True)
        if name in ("lockdown", "evacuation", "release"):
            scope = act.add_mutually_exclusive_group(required=True)
            scope.add_argument("--door", metavar="ID")
            scope.add_argument("--zone", metavar="ID")
            scope.add_argument("--site", action="store_true", help="the whole site")
        if name == "release":
            act.add_argument("--of", choices=("lockdown", "evacuation"), required=True)
        if name == "forgive":
            whom = act.add_mutually_exclusive_group(required=True)
            whom.add_argument("--holder", metavar="ID")
            whom.add_argument("--zone", metavar="ID")
        if name == "logs":
            act.add_argument("minutes", type=int, metavar="MINUTES")
        act.add_argument("--key", type=Path, required=True, metavar="FILE")
        act.add_argument("--gateway", required=True, metavar="SITE/GATEWAY")
        act.add_argument("--by", required=True, metavar="ID", help="who orders it")
        act.add_argument("--why", required=True, metavar="TEXT", help="journaled as it is")
        act.add_argument("--gateway-key", metavar="HEX", help="to check the answer with")
        act.add_argument("-o", "--output", type=Path, metavar="FILE", help="instead of --host")
        add_broker(act, required=False)
        add_json(act)
    add_examples(acts, _EXAMPLE)


def _run(options: argparse.Namespace) -> int:
    if (options.host is None) == (options.output is None):
        raise GatewayError("give --host, to send it, or -o FILE, to have it written")
    command = _command(options)
    try:
        sealed = seal_command(command, read_private_key(options.key))
    except commands.CommandRefused as refused:
        raise GatewayError("a text is empty or too long, or a number out of range") from refused
    if options.output is not None:
        write_new(options.output, sealed)
        return EXIT_OK
    result = _sent(options, command, sealed)
    told = {
        "outcome": result.outcome,
        "reason": result.reason,
        "took_ms": result.took_ms,
        "seq": result.seq,
        "checked": options.gateway_key is not None,
        "lines": result.lines,
        "member": result.member,
    }
    if options.json:
        print_json(told)
    else:
        why = "" if result.reason is None else f": {result.reason}"
        say(f"{result.outcome}{why}, after {result.took_ms} ms (event {result.seq or '-'})")
        if result.member is not None:
            say(_worded(result.member))
        for line in result.lines or ():
            say(line)
        if options.gateway_key is None:
            say("(its signature was not checked: no --gateway-key)")
    return EXIT_OK if result.outcome == "done" else EXIT_NO


def _worded(member: MemberText) -> str:
    at = None if member.at is None else datetime.fromtimestamp(member.at, UTC)
    text = worded(Told(member.key, at, member.early_min))
    return text if at is None else f"{text} (UTC)"


def _sent(options: argparse.Namespace, command: commands.Command, sealed: bytes) -> Result:
    site, _, gateway = options.gateway.partition("/")
    prefix = f"acs/v1/{level(site)}/{level(gateway)}"
    key = None
    if options.gateway_key is not None:
        try:
            key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(options.gateway_key))
        except ValueError as error:
            raise GatewayError("--gateway-key: 64 hex digits, as `status` tells them") from error
    with broker_session(options, [f"{prefix}/cmd/result"]) as broker:
        broker.publish(f"{prefix}/cmd", sealed)
        ends = time.monotonic() + ANSWER_S_MAX
        while (left := ends - time.monotonic()) > 0 and (heard := broker.hear(left)) is not None:
            try:
                result = open_result(heard.payload, key)
            except NotSigned:
                continue  # somebody else's
            if result.cti == command.cti:
                return result
    late = ": it acts on it no more" if command.opens else ""
    raise GatewayError(f"{options.gateway}: no answer in {ANSWER_S_MAX:g} s{late}")


def _command(options: argparse.Namespace) -> commands.Command:
    now = SystemClock(floor=None, vouched=lambda: False).now().replace(microsecond=0)
    what: dict[str, Any] = {}
    for kind in ("door", "zone", "holder"):
        name = getattr(options, kind, None)
        if name is not None:
            what = {"target": name, "target_kind": kind}
            if options.act in ("lockdown", "evacuation", "release"):
                what["scope"] = kind
    if options.act == "mode":
        what |= {"mode": options.mode, "until": now + options.span}
    for name in ("of", "minutes", "as_holder"):
        if getattr(options, name, None) is not None:
            what[name] = getattr(options, name)
    command = commands.Command(
        cti=secrets.token_bytes(commands.CTI_BYTES),
        audience=options.gateway,
        issued=now,
        expires=now + timedelta(seconds=1),
        act=options.act,
        by=options.by,
        why=options.why,
        **what,
    )
    return command._replace(expires=now + min(command.life_max, commands.OPENING_LIFE))


COMMAND = Command(_configure, _run)
