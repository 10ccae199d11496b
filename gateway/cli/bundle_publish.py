"""`door-gateway bundle publish`: send a bundle to its gateways over MQTT, until it is in force."""

import argparse
import time
from collections.abc import Sequence
from datetime import datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from gateway.cli import EXIT_NO, EXIT_OK, Command
from gateway.cli.broker import BrokerSession, add_broker, broker_session
from gateway.cli.duration import duration
from gateway.cli.output import say
from gateway.cli.signed_files import read_bounded
from gateway.clock import SystemClock
from gateway.decoding import decode_json
from gateway.errors import GatewayError, Undecodable
from gateway.link.topics import level
from gateway.trust.bundle import (
    DOCUMENT_BYTES_MAX,
    MAGIC,
    RAW_BYTES_MAX,
    Manifest,
    manifest_in,
    unframed,
)
from gateway.trust.cose import Document, NotSigned
from gateway.trust.parity import Reported, open_report
from gateway.trust.root import key_set_in, opened_document

_DESCRIPTION = """\
Publish a bundle's document and chunks on the topics of every gateway that it names, and send what
a gateway asks for until its signed report says that the revision is in force. Exits 0 when it is in
force at all of them; 1 when one refuses it (with the rule that it breaks, docs/spec/trust.md) or
has not said so within --wait. A gateway that is away then gets it when it asks: run it again.

Give the gateways' keys, as `status` tells them: without them anybody on the broker could say that
the bundle is in force, and the last line says that nobody checked.

A key set (`bundle root`) goes the same way, to the gateways that --gateway names; whether it is in
force is what the next bundle shows."""

_EXAMPLE = """\
example:
  door-gateway bundle publish 42.bundle --gateway-key gw-1=HEX --host broker.example --ca ca.pem \\
      --cert cloud.pem --cert-key cloud.key
  door-gateway bundle publish root-2.cbor --gateway gw-1 --host broker.example --ca ca.pem \\
      --cert cloud.pem --cert-key cloud.key"""

_WAIT_S = 120.0
"""A large snapshot takes a minute to be applied on a slow box."""

_SETTLED_S = 5.0
"""How long after it was sent a gateway that asks for something else has looked at the document."""

_SKEW_S = 5.0
"""How far a gateway's clock may be behind this machine's for its refusal to be taken for ours."""


class _Event(msgspec.Struct, frozen=True):
    """An event, as far as it may say that a bundle was not taken."""

    at: datetime
    code: str
    what: str = ""
    reason: str = ""
    first: str = ""


class _Numbered(msgspec.Struct, frozen=True):
    """An event with its place in the journal."""

    event: _Event


class _Batch(msgspec.Struct, frozen=True):
    """A message with events."""

    events: list[_Numbered] = []


class _Need(msgspec.Struct, frozen=True):
    """What a gateway asks for."""

    revision: int | None = None
    chunks: list[str] = []


class _Bundle(NamedTuple):
    """What is published."""

    manifest: Manifest
    document: bytes
    chunks: list[bytes]


class _Gateway:
    """One gateway's part: what to send it next, decided on what was heard of it."""

    def __init__(
        self,
        name: str,
        prefix: str,
        bundle: _Bundle,
        key: Ed25519PublicKey | None,
        since: datetime,
    ) -> None:
        """`since`: refusals before it were of something else."""
        self.name = name
        self.why: str | None = None
        """The reason why it is not taken."""
        self.in_force = False
        self._prefix = prefix
        self._manifest, self._document, self._chunks = bundle
        self._since = since
        self._by_hash = {sha256(chunk).hexdigest(): chunk for chunk in self._chunks}
        self._key = key
        self._said = "no answer"

    @property
    def topics(self) -> list[str]:
        """Where it says something about bundles."""
        return [f"{self._prefix}/{name}" for name in ("parity", "event", "sync/need")]

    @property
    def is_done(self) -> bool:
        """Nothing more is sent."""
        return self.in_force or self.why is not None

    @property
    def verdict(self) -> str:
        """What became of it, for whoever asked."""
        return self.why or f"not in force yet: {self._said}"

    def all(self) -> list[tuple[str, bytes]]:
        """The document and every chunk, by topic."""
        chunks = [(f"{self._prefix}/sync/chunk", chunk) for chunk in self._chunks]
        return [(f"{self._prefix}/sync/manifest", self._document), *chunks]

    def hear(self, topic: str, payload: bytes, *, settled: bool) -> list[tuple[str, bytes]]:
        """Take a message and give what answers it. `settled`: the document was looked at by now."""
        name = topic.removeprefix(f"{self._prefix}/")
        if name == "parity":
            self._report(payload)
        elif name == "event":
            self._events(payload)
        elif name == "sync/need":
            return self._needed(payload, settled=settled)
        return []

    def _report(self, payload: bytes) -> None:
        try:
            found: Reported = open_report(payload, self._key)
        except NotSigned:
            return  # somebody else's
        wanted = self._manifest
        if (found.site, found.gateway) != (wanted.site, self.name):
            return
        self._said = f"revision {found.revision} is in force"
        self.in_force = (found.revision, found.digest) == (wanted.revision, wanted.digest)

    def _events(self, payload: bytes) -> None:
        try:
            batch = decode_json(payload, _Batch)
        except Undecodable:
            return
        for numbered in batch.events:
            event = numbered.event
            if event.at < self._since:
                continue
            if event.code == "sealed_refused" and event.what == "bundle":
                self.why = f"refused: {event.reason}"
            elif event.code == "entitlements_refused":
                self.why = f"refused: faults: {event.first}"

    def _needed(self, payload: bytes, *, settled: bool) -> list[tuple[str, bytes]]:
        try:
            need = decode_json(payload, _Need)
        except Undecodable:
            return []
        wanted = [self._by_hash[each] for each in need.chunks if each in self._by_hash]
        if wanted:
            return [(f"{self._prefix}/sync/chunk", chunk) for chunk in wanted]
        if need.revision == self._manifest.revision:
            return []
        base = self._manifest.base
        if settled and not isinstance(base, msgspec.UnsetType) and need.revision != base.revision:
            self.why = (
                f"refused: missing_base: it is a delta to revision {base.revision}, and revision"
                f" {need.revision} is in force: publish a snapshot"
            )
        return self.all()


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.description, parser.epilog = _DESCRIPTION, _EXAMPLE
    parser.add_argument("file", type=Path, metavar="FILE", help="a bundle or a key set")
    parser.add_argument("--gateway", action="append", default=[], metavar="ID")
    parser.add_argument(
        "--gateway-key",
        action="append",
        default=[],
        metavar="ID=HEX",
        help="to check a gateway's reports with; the id may be left out where there is one gateway",
    )
    parser.add_argument(
        "--wait", type=duration, default=timedelta(seconds=_WAIT_S), help="default: 120s"
    )
    add_broker(parser)


def _run(options: argparse.Namespace) -> int:
    data = read_bounded(options.file, RAW_BYTES_MAX)
    if not data.startswith(MAGIC):
        return _publish_root(options, data)
    document, *chunks = unframed(data)
    manifest = manifest_in(opened_document(document, DOCUMENT_BYTES_MAX).payload)
    bundle = _Bundle(manifest, document, chunks)
    names = options.gateway or manifest.gateways
    keys = _keys(options.gateway_key, names)
    since = SystemClock(floor=None, vouched=lambda: False).now() - timedelta(seconds=_SKEW_S)
    gateways = [
        _Gateway(name, _prefix(manifest.site, name), bundle, keys.get(name), since)
        for name in names
    ]
    _publish_bundle(options, gateways)
    for each in gateways:
        unchecked = "" if keys.get(each.name) else " (unchecked: no --gateway-key)"
        what = f"{manifest.kind}, revision {manifest.revision}"
        say(f"{each.name}: {what}: {f'in force{unchecked}' if each.in_force else each.verdict}")
    return EXIT_OK if all(each.in_force for each in gateways) else EXIT_NO


def _publish_root(options: argparse.Namespace, document: bytes) -> int:
    payload = opened_document(document, DOCUMENT_BYTES_MAX).payload
    root = key_set_in(Document(payload, ()))
    if not options.gateway:
        raise GatewayError("a key set names no gateway: give --gateway")
    with broker_session(options) as broker:
        for gateway in options.gateway:
            broker.publish(f"{_prefix(root.site, gateway)}/sync/manifest", document)
            say(f"sent to {gateway}: root {root.version}")
    return EXIT_OK


def _publish_bundle(options: argparse.Namespace, gateways: list[_Gateway]) -> None:
    topics = [topic for each in gateways for topic in each.topics]
    with broker_session(options, topics) as broker:
        for each in gateways:
            _send(broker, each.all())
        began = time.monotonic()
        ends = began + options.wait.total_seconds()
        while not all(each.is_done for each in gateways):
            left = ends - time.monotonic()
            heard = broker.hear(left) if left > 0 else None
            if heard is None:
                return
            settled = time.monotonic() - began > _SETTLED_S
            for each in gateways:
                if heard.topic in each.topics and not each.is_done:
                    _send(broker, each.hear(heard.topic, heard.payload, settled=settled))


def _send(broker: BrokerSession, messages: list[tuple[str, bytes]]) -> None:
    for topic, payload in messages:
        broker.publish(topic, payload)


def _prefix(site: str, gateway: str) -> str:
    return f"acs/v1/{level(site)}/{level(gateway)}"


def _keys(given: list[str], gateways: Sequence[str]) -> dict[str, Ed25519PublicKey]:
    found = {}
    for text in given:
        name, _, digits = text.rpartition("=")
        if not name and len(gateways) == 1:
            name = gateways[0]
        if name not in gateways:
            raise GatewayError(f"--gateway-key {text}: give GATEWAY=HEX for one of the gateways")
        try:
            found[name] = Ed25519PublicKey.from_public_bytes(bytes.fromhex(digits))
        except ValueError as error:
            raise GatewayError(
                "--gateway-key: expected 64 hex digits, as `status` tells them"
            ) from error
    return found


COMMAND = Command(_configure, _run)
