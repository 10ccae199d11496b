"""`door-gateway bundle publish`: send a bundle to its gateways over MQTT."""

import argparse
import threading
from pathlib import Path

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from gateway.cli import EXIT_OK, Command
from gateway.cli.signed_files import read_bounded
from gateway.errors import GatewayError
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

_PORT, _PORT_TLS = 1883, 8883
SEND_S_MAX = 60.0
"""For connecting, and for each message."""


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.description, parser.epilog = _DESCRIPTION, _EXAMPLE
    parser.add_argument("file", type=Path, metavar="BUNDLE")
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", type=int, help=f"default: {_PORT_TLS}, or {_PORT} without TLS")
    parser.add_argument("--ca", metavar="FILE", help="with it: TLS, as this authority vouches")
    parser.add_argument("--cert", metavar="FILE")
    parser.add_argument("--cert-key", metavar="FILE")


def _run(options: argparse.Namespace) -> int:
    document, *chunks = unframed(read_bounded(options.file, RAW_BYTES_MAX))
    manifest = manifest_in(opened_document(document, DOCUMENT_BYTES_MAX).payload)
    ready = threading.Event()
    client = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv311)
    client.on_connect = lambda *_: ready.set()
    try:
        if options.ca is not None:
            client.tls_set(options.ca, options.cert, options.cert_key)
        port = options.port or (_PORT if options.ca is None else _PORT_TLS)
        client.connect(options.host, port)
    except (OSError, ValueError) as error:
        raise GatewayError(f"{options.host}: no session with the broker: {error}") from error
    client.loop_start()
    try:
        if not ready.wait(SEND_S_MAX):
            raise GatewayError(f"{options.host}: the broker does not answer")
        for gateway in manifest.gateways:
            prefix = f"acs/v1/{level(manifest.site)}/{level(gateway)}"
            for name, part in (
                ("sync/manifest", document),
                *(("sync/chunk", chunk) for chunk in chunks),
            ):
                sent = client.publish(f"{prefix}/{name}", part, qos=1)
                sent.wait_for_publish(SEND_S_MAX)
                if not sent.is_published():
                    raise GatewayError(f"{options.host}: the broker takes no more")
            print(f"sent to {gateway}: revision {manifest.revision}, {len(chunks)} chunks")
    finally:
        client.disconnect()
        client.loop_stop()
    return EXIT_OK


COMMAND = Command(_configure, _run)
