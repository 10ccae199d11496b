"""`door-gateway bundle publish`: send a bundle to its gateways over MQTT."""

import argparse
from pathlib import Path

from gateway.cli import EXIT_OK, Command
from gateway.cli.broker import add_broker, broker_session
from gateway.cli.output import say
from gateway.cli.signed_files import read_bounded
from gateway.errors import GatewayError
from gateway.link.topics import level
from gateway.trust.bundle import DOCUMENT_BYTES_MAX, MAGIC, RAW_BYTES_MAX, manifest_in, unframed
from gateway.trust.cose import Document
from gateway.trust.root import key_set_in, opened_document

_DESCRIPTION = """\
Publish a bundle's document and chunks on the topics of every gateway that it names. A gateway that
is away gets it when it asks, from whoever answers then: this command sends once. Whether it is in
force is what the gateway's parity report and its journal say.

A key set (`bundle root`) goes the same way, to the gateways that --gateway names."""

_EXAMPLE = """\
example:
  door-gateway bundle publish 42.bundle --host broker.example --ca ca.pem --cert cloud.pem \\
      --cert-key cloud.key
  door-gateway bundle publish root-2.cbor --gateway gw-1 --host broker.example --ca ca.pem \\
      --cert cloud.pem --cert-key cloud.key"""


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.description, parser.epilog = _DESCRIPTION, _EXAMPLE
    parser.add_argument("file", type=Path, metavar="FILE", help="a bundle or a key set")
    parser.add_argument("--gateway", action="append", default=[], metavar="ID")
    add_broker(parser)


def _run(options: argparse.Namespace) -> int:
    data = read_bounded(options.file, RAW_BYTES_MAX)
    document, *chunks = unframed(data) if data.startswith(MAGIC) else [data]
    payload = opened_document(document, DOCUMENT_BYTES_MAX).payload
    if data.startswith(MAGIC):
        manifest = manifest_in(payload)
        site, gateways = manifest.site, options.gateway or manifest.gateways
        what = f"{manifest.kind}, revision {manifest.revision}, {len(chunks)} chunks"
    else:
        root = key_set_in(Document(payload, ()))
        site, gateways, what = root.site, options.gateway, f"root {root.version}"
        if not gateways:
            raise GatewayError("a key set names no gateway: give --gateway")
    with broker_session(options) as broker:
        for gateway in gateways:
            prefix = f"acs/v1/{level(site)}/{level(gateway)}"
            broker.publish(f"{prefix}/sync/manifest", document)
            for chunk in chunks:
                broker.publish(f"{prefix}/sync/chunk", chunk)
            say(f"sent to {gateway}: {what}")
    return EXIT_OK


COMMAND = Command(_configure, _run)
