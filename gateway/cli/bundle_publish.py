"""`door-gateway bundle publish`: send a bundle to its gateways over MQTT."""

import argparse
from pathlib import Path

from gateway.cli import EXIT_OK, Command
from gateway.cli.broker import add_broker, broker_session
from gateway.cli.signed_files import read_bounded
from gateway.link.topics import level
from gateway.trust.bundle import DOCUMENT_BYTES_MAX, RAW_BYTES_MAX, manifest_in, unframed
from gateway.trust.root import opened_document

_DESCRIPTION = """\
Publish a bundle's document and chunks on the topics of every gateway that it names. A gateway that
is away gets it when it asks, from whoever answers then: this command sends once. Whether it is in
force is what the gateway's parity report and its journal say."""

_EXAMPLE = """\
example:
  door-gateway bundle publish 42.bundle --host broker.example --ca ca.pem --cert cloud.pem \\
      --cert-key cloud.key"""


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.description, parser.epilog = _DESCRIPTION, _EXAMPLE
    parser.add_argument("file", type=Path, metavar="BUNDLE")
    add_broker(parser)


def _run(options: argparse.Namespace) -> int:
    document, *chunks = unframed(read_bounded(options.file, RAW_BYTES_MAX))
    manifest = manifest_in(opened_document(document, DOCUMENT_BYTES_MAX).payload)
    with broker_session(options) as broker:
        for gateway in manifest.gateways:
            prefix = f"acs/v1/{level(manifest.site)}/{level(gateway)}"
            broker.publish(f"{prefix}/sync/manifest", document)
            for chunk in chunks:
                broker.publish(f"{prefix}/sync/chunk", chunk)
            print(f"sent to {gateway}: revision {manifest.revision}, {len(chunks)} chunks")
    return EXIT_OK


COMMAND = Command(_configure, _run)
