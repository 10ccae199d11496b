"""Sessions with the broker, for the source of truth's side and for whoever watches many sites."""

import argparse
import contextlib
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion

from gateway.errors import GatewayError

_PORT, _PORT_TLS = 1883, 8883
SEND_S_MAX = 60.0
"""For connecting, and for each message."""
_RECONNECT_S = (1, 30)

INBOUND_BYTES_MAX = 2 * 1024 * 1024
"""A packet announced as larger ends the session before it is read: no message of ours is half."""

HEARD_MAX = 1000
"""Messages heard and not looked at yet; further ones are dropped."""

_REASON_CHARACTERS_MAX = 300
_LOOK_S = 0.2


def add_broker(parser: argparse.ArgumentParser, *, required: bool = True) -> None:
    """Add the options that name a broker, and who we are to it."""
    parser.add_argument("--host", required=required, help="the broker")
    parser.add_argument("--port", type=int, help=f"default: {_PORT_TLS}, or {_PORT} without TLS")
    parser.add_argument("--ca", metavar="FILE", help="with it: TLS, as this authority vouches")
    parser.add_argument("--cert", metavar="FILE")
    parser.add_argument("--cert-key", metavar="FILE")
    parser.add_argument("--user", metavar="NAME")
    parser.add_argument("--password-file", type=Path, metavar="FILE")


class Heard(NamedTuple):
    """A message from the broker."""

    topic: str
    payload: bytes


class _Client(mqtt.Client):
    """A paho client whose thread outlives whatever a broker sends.

    paho raises what its parser meets, from UnicodeDecodeError to struct.error. In its own thread
    that would end the thread and tell nobody: here it ends the connection, with the reason.
    """

    failure: str | None = None
    """The reason why what came last could not be read."""

    def reconnect(self) -> MQTTErrorCode:
        try:
            return super().reconnect()
        except (ValueError, OverflowError) as error:  # a name or a port that nothing can have
            raise OSError(str(error)) from error

    def _loop(self, timeout: float = 1.0) -> MQTTErrorCode:
        try:
            return super()._loop(timeout)
        except Exception as error:  # noqa: BLE001 - anything that a hostile broker can cause
            self._fail(f"{type(error).__name__}: {error}")
            return self._loop_rc_handle(MQTTErrorCode.MQTT_ERR_CONN_LOST)

    def _sock_recv(self, bufsize: int) -> bytes:
        # paho would collect up to 256 MB of one packet; `bufsize` is what is left of it.
        if bufsize > INBOUND_BYTES_MAX:
            self._fail(f"a packet of {bufsize} bytes: {INBOUND_BYTES_MAX} are allowed")
            raise ConnectionError(self.failure)
        return super()._sock_recv(bufsize)

    def _fail(self, why: str) -> None:
        self.failure = f"its bytes can't be read: {why}"[:_REASON_CHARACTERS_MAX]


class BrokerSession:
    """Publishes, and gives what came on the topics asked for."""

    def __init__(self, client: _Client, host: str) -> None:
        self._client = client
        self._host = host
        self._heard: queue.Queue[Heard | None] = queue.Queue(HEARD_MAX)
        self._why: str | None = None
        self._lost = threading.Event()

    def publish(self, topic: str, payload: bytes) -> None:
        """Publish with QoS 1, and wait until the broker has it. Raises GatewayError."""
        sent = self._client.publish(topic, payload, qos=1)
        ends = time.monotonic() + SEND_S_MAX
        try:
            while not sent.is_published() and self._why is None and time.monotonic() < ends:
                sent.wait_for_publish(_LOOK_S)
        except (ValueError, RuntimeError) as error:
            self._lost.wait(_LOOK_S)  # paho says here that it is away before it says why
            self.check()
            raise GatewayError(f"{self._host}: a message was not sent: {error}") from error
        if not sent.is_published():
            self.check()
            raise GatewayError(f"{self._host}: the broker takes no more")

    def hear(self, wait_s: float) -> Heard | None:
        """Wait for the next message. Returns None where there is none in `wait_s`.

        Raises:
            GatewayError: the session was lost.
        """
        try:
            found = self._heard.get(timeout=wait_s if self._why is None else 0)
        except queue.Empty:
            found = None
        if found is None:
            self.check()
        return found

    def check(self) -> None:
        """Raise GatewayError, with why, where the session was lost."""
        if self._why is not None:
            raise GatewayError(f"{self._host}: the session with the broker was lost: {self._why}")

    def take(self, message: mqtt.MQTTMessage) -> None:
        """Keep a message until somebody asks for it. Called on paho's thread, as is `lose`."""
        if not message.retain:
            with contextlib.suppress(queue.Full):
                self._heard.put_nowait(Heard(message.topic, bytes(message.payload)))

    def lose(self, why: str) -> None:
        """Wake whoever waits, with the reason."""
        self._why = self._why or why
        self._lost.set()
        with contextlib.suppress(queue.Full):
            self._heard.put_nowait(None)


@contextmanager
def broker_session(
    options: argparse.Namespace, topics: Sequence[str] = ()
) -> Iterator[BrokerSession]:
    """A session with the broker that the options name, subscribed to `topics`.

    A connection that is lost is made again. A broker that refuses us, or sends what nobody can
    read, ends the session: the next call raises GatewayError. Retained messages are not heard.

    Raises:
        GatewayError: there is none to be had.
    """
    ready = threading.Event()
    client, port = _client(options)
    session = BrokerSession(client, options.host)

    def lose(why: str) -> None:
        session.lose(why)
        ready.set()

    def connected(connection: mqtt.Client, _data: Any, _flags: Any, reason: Any, _p: Any) -> None:
        if reason.is_failure:
            lose(f"it refuses us: {reason}")
        elif topics:
            connection.subscribe([(each, 1) for each in topics])
        else:
            ready.set()

    client.on_connect = connected
    client.on_subscribe = lambda *_: ready.set()
    client.on_disconnect = lambda *_: lose(client.failure) if client.failure else None
    client.on_message = lambda _client, _data, message: session.take(message)
    try:
        client.connect(options.host, port)
    except (OSError, ValueError) as error:
        raise GatewayError(f"{options.host}: no session with the broker: {error}") from error
    client.loop_start()
    try:
        if not ready.wait(SEND_S_MAX):
            raise GatewayError(f"{options.host}: the broker does not answer")
        session.check()
        yield session
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
        client.failure = None
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
    client.on_disconnect = lambda *about: said(f"{where} is away: {client.failure or about[3]}")
    client.on_message = lambda _client, _data, message: take(
        message.topic, bytes(message.payload), message.retain
    )
    try:
        client.connect_async(options.host, port, keepalive=30)
    except ValueError as error:
        raise GatewayError(f"{where}: no broker can be there: {error}") from error
    client.loop_start()
    try:
        yield client
    finally:
        client.disconnect()
        client.loop_stop()


def _client(options: argparse.Namespace) -> tuple[_Client, int]:
    client = _Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv311)
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
