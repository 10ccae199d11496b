"""A short session with the broker, for commands of the source of truth's side."""

import argparse
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from gateway.errors import GatewayError

_PORT, _PORT_TLS = 1883, 8883
SEND_S_MAX = 60.0
"""For connecting, and for each message."""


def add_broker(parser: argparse.ArgumentParser, *, required: bool = True) -> None:
    """Add the options that name a broker."""
    parser.add_argument("--host", required=required, help="the broker")
    parser.add_argument("--port", type=int, help=f"default: {_PORT_TLS}, or {_PORT} without TLS")
    parser.add_argument("--ca", metavar="FILE", help="with it: TLS, as this authority vouches")
    parser.add_argument("--cert", metavar="FILE")
    parser.add_argument("--cert-key", metavar="FILE")


class BrokerSession:
    """Publishes; what comes on the topics asked for is handed to `heard`, on a thread."""

    def __init__(self, client: mqtt.Client, host: str) -> None:
        self._client = client
        self._host = host

    def publish(self, topic: str, payload: bytes) -> None:
        """Publish with QoS 1, and wait until the broker has it. Raises GatewayError."""
        sent = self._client.publish(topic, payload, qos=1)
        sent.wait_for_publish(SEND_S_MAX)
        if not sent.is_published():
            raise GatewayError(f"{self._host}: the broker takes no more")


@contextmanager
def broker_session(
    options: argparse.Namespace,
    topic: str | None = None,
    heard: Callable[[bytes], None] = lambda _payload: None,
) -> Iterator[BrokerSession]:
    """A session with the broker that the options name, subscribed to `topic`.

    Raises:
        GatewayError: there is none to be had.
    """
    ready = threading.Event()
    client = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv311)
    if topic is None:
        client.on_connect = lambda *_: ready.set()
    else:
        client.on_connect = lambda connected, *_: connected.subscribe(topic, 1)
        client.on_subscribe = lambda *_: ready.set()
    client.on_message = lambda _client, _data, message: heard(bytes(message.payload))
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
        yield BrokerSession(client, options.host)
    finally:
        client.disconnect()
        client.loop_stop()
