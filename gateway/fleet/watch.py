"""Follows a broker for a watcher: every message of every gateway, reconnecting for ever."""

import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import msgspec
from paho.mqtt.client import Client, ConnectFlags, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from gateway.errors import GatewayError

TOPICS = "acs/v1/+/+/#"
RECONNECT_S = (1, 30)


class CantWatch(GatewayError):
    """An option is wrong, or names a file that can't be used."""


class Broker(msgspec.Struct, frozen=True):
    """Where to look, and as whom."""

    url: str
    """`mqtt://HOST:PORT` or `mqtts://HOST:PORT`."""
    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    user: str | None = None
    password_file: Path | None = None


class Watcher:
    """Use as `with Watcher(broker, take, said)`. Both are called in paho's own thread.

    `take` gets topic and payload of each message, `said` a line whenever the connection comes or
    goes.
    """

    def __init__(
        self, broker: Broker, take: Callable[[str, bytes], None], said: Callable[[str], None]
    ) -> None:
        self._take = take
        self._said = said
        self._host, self._port, tls = _parts(broker.url)
        self._client = Client(CallbackAPIVersion.VERSION2)
        self._client.reconnect_delay_set(*RECONNECT_S)
        self._client.on_connect = self._connected
        self._client.on_disconnect = self._disconnected
        self._client.on_message = self._came
        if tls:
            self._client.tls_set_context(_context(broker))
        if broker.user is not None:
            self._client.username_pw_set(broker.user, _password(broker.password_file))

    def __enter__(self) -> Self:
        """Connect, now or whenever the broker is there."""
        self._client.connect_async(self._host, self._port, keepalive=30)
        self._client.loop_start()
        return self

    def __exit__(self, *_: object) -> None:
        """Disconnect and end the thread."""
        self._client.disconnect()
        self._client.loop_stop()

    def _connected(
        self,
        client: Client,
        _data: Any,
        _flags: ConnectFlags,
        reason: ReasonCode,
        _properties: Properties | None,
    ) -> None:
        if reason.is_failure:
            self._said(f"{self._host}:{self._port} refuses: {reason}")
            return
        client.subscribe(TOPICS, qos=0)
        self._said(f"connected to {self._host}:{self._port}")

    def _disconnected(self, *about: Any) -> None:
        self._said(f"{self._host}:{self._port} is away: {about[3]}")

    def _came(self, _client: Client, _data: Any, message: MQTTMessage) -> None:
        self._take(message.topic, bytes(message.payload))


def _parts(url: str) -> tuple[str, int, bool]:
    parts = urlsplit(url)
    try:
        port = parts.port
    except ValueError:
        port = None
    if parts.scheme not in ("mqtt", "mqtts") or not parts.hostname:
        raise CantWatch(f"--broker {url!r}: must be like mqtts://broker.example:8883")
    tls = parts.scheme == "mqtts"
    return parts.hostname, port or (8883 if tls else 1883), tls


def _context(broker: Broker) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=broker.ca)
        if broker.certificate is not None:
            context.load_cert_chain(broker.certificate, broker.key)
    except (OSError, ssl.SSLError) as error:
        raise CantWatch(f"--ca, --certificate, --key: can't be used: {error}") from error
    return context


def _password(file: Path | None) -> str | None:
    if file is None:
        return None
    try:
        return file.read_text(encoding="utf-8").rstrip("\n")
    except OSError as error:
        raise CantWatch(f"--password-file {file}: {error.strerror}") from error
