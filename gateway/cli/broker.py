"""Sessions with the broker, for the source of truth's side and for whoever watches many sites."""

import argparse
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from gateway.errors import GatewayError

_PORT, _PORT_TLS = 1883, 8883
SEND_S_MAX = 60.0
"""For connecting, and for each message."""
_RECONNECT_S = (1, 30)


def add_broker(parser: argparse.ArgumentParser, *, required: bool = True) -> None:
    """Add the options that name a broker, and who we are to it."""
    parser.add_argument("--host", required=required, help="the broker")
    parser.add_argument("--port", type=int, help=f"default: {_PORT_TLS}, or {_PORT} without TLS")
    parser.add_argument("--ca", metavar="FILE", help="with it: TLS, as this authority vouches")
    parser.add_argument("--cert", metavar="FILE")
    parser.add_argument("--cert-key", metavar="FILE")
    parser.add_argument("--user", metavar="NAME")
    parser.add_argument("--password-file", type=Path, metavar="FILE")


class BrokerSession:
    """Publishes; what comes on the topics asked for is handed on, on a thread."""

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
    topics: Sequence[str] = (),
    heard: Callable[[str, bytes], None] = lambda _topic, _payload: None,
) -> Iterator[BrokerSession]:
    """A session with the broker that the options name, subscribed to `topics`.

    `heard` gets each message's topic and payload, on paho's own thread; none that was retained.

    Raises:
        GatewayError: there is none to be had.
    """
    ready = threading.Event()
    client, port = _client(options)
    if not topics:
        client.on_connect = lambda *_: ready.set()
    else:
        client.on_connect = lambda connected, *_: connected.subscribe(
            [(each, 1) for each in topics]
        )
        client.on_subscribe = lambda *_: ready.set()
    client.on_message = lambda _client, _data, message: (
        None if message.retain else heard(message.topic, bytes(message.payload))
    )
    try:
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


@contextmanager
def following(
    options: argparse.Namespace,
    topic: str,
    take: Callable[[str, bytes, bool], None],
    said: Callable[[str], None],
) -> Iterator[mqtt.Client]:
    """Whatever comes on `topic`, for as long as the block runs, connecting again for ever.

    `take` gets topic, payload and whether it was retained; `said` a line whenever the connection
    comes or goes. Both are called on paho's own thread.

    Raises:
        GatewayError: an option names what can't be used.
    """
    client, port = _client(options)
    where = f"{options.host}:{port}"

    def connected(connection: mqtt.Client, _data: Any, _flags: Any, reason: Any, _p: Any) -> None:
        if reason.is_failure:
            said(f"{where} refuses: {reason}")
            return
        connection.subscribe(topic, qos=1)
        said(f"connected to {where}")

    def failed(_client: mqtt.Client, _data: Any) -> None:
        # paho calls this while it handles the error, and passes nothing on.
        error = sys.exc_info()[1]
        reason = getattr(error, "strerror", None) or error or "no answer"
        said(f"can't reach {where}: {reason}")

    client.reconnect_delay_set(*_RECONNECT_S)
    client.on_connect_fail = failed
    client.on_connect = connected
    client.on_disconnect = lambda *about: said(f"{where} is away: {about[3]}")
    client.on_message = lambda _client, _data, message: take(
        message.topic, bytes(message.payload), message.retain
    )
    client.connect_async(options.host, port, keepalive=30)
    client.loop_start()
    try:
        yield client
    finally:
        client.disconnect()
        client.loop_stop()


def _client(options: argparse.Namespace) -> tuple[mqtt.Client, int]:
    client = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv311)
    try:
        for name in ("ca", "cert", "cert_key"):
            if (file := getattr(options, name)) is not None:
                Path(file).open("rb").close()  # ssl's own error doesn't name it
        if options.ca is not None:
            client.tls_set(options.ca, options.cert, options.cert_key)
        if options.user is not None:
            client.username_pw_set(options.user, _password(options.password_file))
    except (OSError, ValueError) as error:
        raise GatewayError(
            f"--ca, --cert, --cert-key or --password-file can't be used: {error}"
        ) from error
    return client, options.port or (_PORT if options.ca is None else _PORT_TLS)


def _password(file: Path | None) -> str | None:
    return None if file is None else file.read_text(encoding="utf-8").rstrip("\n")
