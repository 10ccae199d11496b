"""One session with the broker, on paho-mqtt, from CONNECT to its end.

Every session has a paho client of its own: what paho keeps to send again dies with the session, so
that nothing grows while the broker is away. Only name lookup, TCP and the TLS handshake block, in a
thread; after that paho's socket is driven by the event loop and all callbacks run there.
"""

import asyncio
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from gateway.ipc.messages import FETCH_BYTES_MAX, SEALED_BYTES_MAX
from gateway.link.errors import BrokerUnavailable
from gateway.link.settings import LinkSettings
from gateway.link.topics import Topics
from gateway.link.uplink import IN_FLIGHT_MAX
from gateway.link.words import explained, refusal, tls_alert
from gateway.statedir import read_secret

if TYPE_CHECKING:
    from paho.mqtt.client import SocketLike

CONNECT_S_MAX = 5.0
"""For TCP and TLS each; name lookup has the resolver's own limit."""

HANDSHAKE_S_MAX = 10.0
"""From CONNECT to the SUBACK that makes acknowledgements come."""

GOODBYE_S_MAX = 1.5
"""For saying offline in good order; the process has 2 s to end."""

QUEUED_MAX = 64
"""Messages that paho may hold: the window of batches, one door's state, status, health."""

INBOUND_BYTES_MAX = 1024 * 1024
"""A packet from the broker announced as larger ends the session before it is read."""

INBOUND_BYTES_WANTED = 64 * 1024
"""The same as MQTT 5 can say it: the broker keeps back what is larger, and the session lives."""

PASSWORD_BYTES_MAX = 1024
"""Longer than any broker's; what is longer was not meant to be one."""

PASSWORD_FILE_BYTES_MAX = 4096
"""Room for the password's line and remarks below it."""

SEALED_BYTES_WANTED = SEALED_BYTES_MAX + 16 * 1024
"""Likewise, where bundles come: the largest of what the core takes, with topic and headers."""

_ENVELOPE_BYTES = 16 * 1024
"""What 100 sequence numbers, the topic and headers add to the bodies of a batch, generously."""

_BESIDE_EVENTS = 3  # urgent events, a retained state and the goodbye may be in flight as well

_REASON_CHARACTERS_MAX = 300

_HOUSEKEEPING_S = 0.5  # paho looks after its keepalive when asked

_T = TypeVar("_T")


class _Client(mqtt.Client):
    """A paho client that bounds what it reads and remembers why its socket failed."""

    failure: OSError | None = None
    context: ssl.SSLContext | None = None

    def _ssl_wrap_socket(self, tcp_sock: socket.socket) -> ssl.SSLSocket:
        # paho's own leaves the socket of a failed handshake open, and has a way around the host
        # name. `context` checks it within the handshake.
        assert self.context is not None  # noqa: S101 - paho calls this only where there is one
        wrapped = self.context.wrap_socket(
            tcp_sock, server_hostname=self.host, do_handshake_on_connect=False
        )
        try:
            wrapped.settimeout(CONNECT_S_MAX)
            wrapped.do_handshake()
        except OSError as failed:
            wrapped.close()
            if isinstance(failed, (ssl.SSLError, TimeoutError)):
                raise
            raise ssl.SSLError(f"the broker ended the handshake: {failed}") from failed
        return wrapped

    def _sock_recv(self, bufsize: int) -> bytes:
        # paho 2.x would collect up to 256 MB of one packet; `bufsize` is what is left of it.
        if bufsize > INBOUND_BYTES_MAX:
            self.failure = ConnectionError(
                f"a packet of {bufsize} bytes was announced: {INBOUND_BYTES_MAX} are allowed"
            )
            raise self.failure
        return self._remembered(lambda: super(_Client, self)._sock_recv(bufsize))

    def _sock_send(self, buf: bytes | bytearray) -> int:
        return self._remembered(lambda: super(_Client, self)._sock_send(buf))

    def _remembered(self, work: Callable[[], _T]) -> _T:
        try:
            return work()
        except BlockingIOError:
            raise
        except OSError as failed:
            self.failure = failed
            raise


class Session:
    """A session with the broker. Made by `open_session`."""

    def __init__(
        self,
        client: _Client,
        topics: Topics,
        subscriptions: Sequence[str],
        on_message: Callable[[str, bytes, bool], None],
        on_answer: Callable[[str, ReasonCode], None],
    ) -> None:
        self._client = client
        self._topics = topics
        self._subscriptions = tuple(subscriptions)
        self._on_message_taken = on_message
        self._on_answer = on_answer
        self._blocked_since: float | None = None
        self._loop = asyncio.get_running_loop()
        self._pubacks: dict[int, Callable[[ReasonCode], None]] = {}
        self._sock: SocketLike | None = None
        self._housekeeping: asyncio.TimerHandle | None = None
        self._subscription: int | None = None
        self._ready: asyncio.Future[None] = self._loop.create_future()
        self._ended: asyncio.Future[BrokerUnavailable] = self._loop.create_future()
        self._answered = False
        self.batch_bytes_max = FETCH_BYTES_MAX
        """The most bytes of event bodies that a message to this broker may have."""
        self.window = IN_FLIGHT_MAX
        """The most batches without a PUBACK that this broker allows."""

    # --- For the link -----------------------------------------------------------------------------

    def publish(
        self,
        topic: str,
        payload: bytes,
        *,
        qos: int = 1,
        retain: bool = False,
        done: Callable[[ReasonCode], None] | None = None,
    ) -> None:
        """Hand a message to the session: never waits. `done` is called at its PUBACK.

        A session that is over takes nothing; what it did not deliver is sent in the next one.
        """
        if self._ended.done():
            return
        info = self._client.publish(topic, payload, qos=qos, retain=retain)
        if info.rc is not MQTTErrorCode.MQTT_ERR_SUCCESS:
            self._end(BrokerUnavailable("lost", f"a message was not taken: {info.rc.name}"))
        elif qos:

            def answered(reason: ReasonCode) -> None:
                self._on_answer(topic, reason)
                if done is not None:
                    done(reason)

            self._pubacks[info.mid] = answered

    @property
    def blocked(self) -> timedelta:
        """How long the connection has taken no bytes; 0 while it takes them."""
        since = self._blocked_since
        return timedelta(seconds=0 if since is None else self._loop.time() - since)

    async def deliver(self, topic: str, payload: bytes, *, retain: bool) -> ReasonCode:
        """Publish with QoS 1 and wait for the PUBACK: the broker's answer."""
        delivered: asyncio.Future[ReasonCode] = self._loop.create_future()

        def done(reason: ReasonCode) -> None:
            if not delivered.done():
                delivered.set_result(reason)

        self.publish(topic, payload, retain=retain, done=done)
        return await delivered

    async def watch(self) -> None:
        """Wait for the end of the session. Raises BrokerUnavailable, with why."""
        raise await asyncio.shield(self._ended)

    # --- Its life ---------------------------------------------------------------------------------

    async def begin(self) -> None:
        """Drive the connected socket until acknowledgements can come. Raises BrokerUnavailable."""
        client = self._client
        client.on_connect = self._on_connect
        client.on_subscribe = self._on_subscribe
        client.on_publish = self._on_publish
        client.on_message = self._on_message
        client.on_disconnect = self._on_disconnect
        client.on_socket_register_write = self._on_register_write
        client.on_socket_unregister_write = self._on_unregister_write
        client.on_socket_close = self._on_socket_close
        sock = client.socket()
        if sock is None:
            raise self._lost("the broker closed the connection at once")
        self._sock = sock
        if isinstance(sock, socket.socket):
            # Else an event waits up to 40 ms for the broker's delayed ACK of the message before it.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._loop.add_reader(sock.fileno(), self._readable)
        if client.want_write():
            self._loop.add_writer(sock.fileno(), self._writable)
        self._keep_house()
        try:
            async with asyncio.timeout(HANDSHAKE_S_MAX):
                either: set[asyncio.Future[Any]] = {self._ready, self._ended}
                await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        except TimeoutError:
            raise BrokerUnavailable(
                "handshake",
                f"the broker didn't complete CONNECT and SUBSCRIBE in {HANDSHAKE_S_MAX:g} s",
                other_version=not self._answered,
            ) from None
        if self._ended.done():
            raise self._ended.result()

    async def say_goodbye(self, payload: bytes) -> None:
        """Replace the retained status and disconnect, so that the will is not needed."""
        if self._ended.done():
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(GOODBYE_S_MAX):
                await self.deliver(self._topics.status, payload, retain=True)
                self._client.disconnect()
                await asyncio.shield(self._ended)

    def close(self) -> None:
        """Let go of the socket. What was not delivered is forgotten here, not in the journal."""
        if self._housekeeping is not None:
            self._housekeeping.cancel()
        self._release()
        sock = self._client.socket()
        if sock is not None:
            sock.close()
        self._pubacks.clear()
        self._ready.cancel()
        self._ended.cancel()

    # --- The socket -------------------------------------------------------------------------------

    def _readable(self) -> None:
        self._guard(self._read)

    def _writable(self) -> None:
        self._guard(self._client.loop_write)

    def _keep_house(self) -> None:
        self._guard(self._client.loop_misc)
        if not self._ended.done():
            self._housekeeping = self._loop.call_later(_HOUSEKEEPING_S, self._keep_house)

    def _read(self) -> None:
        self._client.loop_read()
        # TLS may have decrypted more than was read: the socket won't tell again.
        while isinstance(sock := self._client.socket(), ssl.SSLSocket) and sock.pending():
            self._client.loop_read()

    def _guard(self, work: Callable[[], object]) -> None:
        """End the session where paho can't read what the broker sent.

        paho raises whatever its parser meets, from UnicodeDecodeError to struct.error. None of it
        may end the link: a broker that is not believed would decide how long it lives.
        """
        try:
            work()
        except Exception as error:  # noqa: BLE001 - anything that a hostile broker can cause
            reason = f"the broker's bytes can't be read: {type(error).__name__}: {error}"
            self._end(BrokerUnavailable("protocol", reason[:_REASON_CHARACTERS_MAX]))
        self._check_alive()

    def _check_alive(self) -> None:
        if self._client.socket() is None:
            self._end(self._lost("the connection was closed"))

    def _release(self) -> None:
        if self._sock is not None:
            fd = self._sock.fileno()
            if fd >= 0:
                self._loop.remove_reader(fd)
                self._loop.remove_writer(fd)
            self._sock = None

    def _end(self, why: BrokerUnavailable) -> None:
        if not self._ended.done():
            self._ended.set_result(why)

    def _lost(self, text: str) -> BrokerUnavailable:
        failure = self._client.failure
        if isinstance(failure, ssl.SSLError):
            # With TLS 1.3 the broker's refusal of our certificate arrives after the handshake.
            return BrokerUnavailable("tls", f"the broker ended TLS: {tls_alert(failure)}")
        text = f"{text}: {failure}" if failure else text
        if not self._answered:
            if self._client.context is not None:
                # The reset of the connection may overtake the alert that says so.
                text += " (it may not accept our certificate)"
            return BrokerUnavailable(
                "handshake", f"no answer to CONNECT: {text}", other_version=True
            )
        return BrokerUnavailable("lost", text)

    # --- paho's callbacks, all on the event loop --------------------------------------------------

    def _on_register_write(self, _client: mqtt.Client, _data: Any, sock: "SocketLike") -> None:
        if self._blocked_since is None:
            self._blocked_since = self._loop.time()
        self._loop.add_writer(sock.fileno(), self._writable)

    def _on_unregister_write(self, _client: mqtt.Client, _data: Any, sock: "SocketLike") -> None:
        self._blocked_since = None
        self._loop.remove_writer(sock.fileno())

    def _on_socket_close(self, _client: mqtt.Client, _data: Any, _sock: "SocketLike") -> None:
        self._release()

    def _on_connect(
        self,
        client: mqtt.Client,
        _data: Any,
        _flags: mqtt.ConnectFlags,
        reason: ReasonCode,
        properties: Properties | None,
    ) -> None:
        self._answered = True
        if reason.is_failure:
            self._end(
                BrokerUnavailable(
                    "handshake",
                    refusal(reason),
                    other_version=str(reason) == "Unsupported protocol version",
                )
            )
            return
        receive_max = getattr(properties, "ReceiveMaximum", IN_FLIGHT_MAX)
        self.window = max(1, min(IN_FLIGHT_MAX, receive_max - _BESIDE_EVENTS))
        packet_max = getattr(properties, "MaximumPacketSize", FETCH_BYTES_MAX + _ENVELOPE_BYTES)
        self.batch_bytes_max = max(1, min(FETCH_BYTES_MAX, packet_max - _ENVELOPE_BYTES))
        _, self._subscription = client.subscribe([(topic, 1) for topic in self._subscriptions])

    def _on_subscribe(
        self,
        _client: mqtt.Client,
        _data: Any,
        _mid: int,
        reasons: list[ReasonCode],
        _properties: Properties | None,
    ) -> None:
        refused = [
            f"{topic}: {reason}"
            for topic, reason in zip(self._subscriptions, reasons, strict=False)
            if reason.is_failure
        ]
        if refused:
            why = f"the broker won't let us hear {refused[0]}. Allow it (config/mosquitto.acl)"
            self._end(BrokerUnavailable("handshake", why))
        elif not self._ready.done():
            self._ready.set_result(None)

    def _on_publish(
        self,
        _client: mqtt.Client,
        _data: Any,
        mid: int,
        reason: ReasonCode,
        _properties: Properties | None,
    ) -> None:
        done = self._pubacks.pop(mid, None)
        if done is not None:
            done(reason)

    def _on_message(self, _client: mqtt.Client, _data: Any, message: mqtt.MQTTMessage) -> None:
        if not self._ended.done():
            self._on_message_taken(message.topic, bytes(message.payload), message.retain)

    def _on_disconnect(
        self,
        _client: mqtt.Client,
        _data: Any,
        flags: mqtt.DisconnectFlags,
        reason: ReasonCode,
        _properties: Properties | None,
    ) -> None:
        if flags.is_disconnect_packet_from_server:
            self._end(BrokerUnavailable("lost", f"the broker disconnected us: {explained(reason)}"))
        else:
            self._end(self._lost(f"the connection was lost: {reason}"))


@asynccontextmanager
async def open_session(
    settings: LinkSettings,
    topics: Topics,
    *,
    version: MQTTProtocolVersion,
    context: ssl.SSLContext | None,
    will: bytes,
    subscriptions: Sequence[str],
    on_message: Callable[[str, bytes, bool], None],
    on_answer: Callable[[str, ReasonCode], None],
) -> AsyncIterator[Session]:
    """A session in which messages come in, for as long as the block runs.

    `on_message` gets the topic and payload of each, and whether it was retained; `on_answer` the
    topic of each message of ours with QoS 1 and the broker's answer.

    Raises:
        BrokerUnavailable: There is none to be had.
    """
    client = _new_client(topics, version=version, context=context, will=will)
    if settings.login is not None:
        client.username_pw_set(settings.login.username, _password(settings.login.password_file))
    await _connect(client, settings, version)
    session = Session(client, topics, subscriptions, on_message, on_answer)
    try:
        await session.begin()
        yield session
    finally:
        session.close()


def _new_client(
    topics: Topics,
    *,
    version: MQTTProtocolVersion,
    context: ssl.SSLContext | None,
    will: bytes,
) -> _Client:
    client = _Client(
        CallbackAPIVersion.VERSION2,
        client_id=topics.client_id,
        clean_session=None if version == MQTTProtocolVersion.MQTTv5 else True,
        protocol=version,
        reconnect_on_failure=False,
    )
    client.connect_timeout = CONNECT_S_MAX
    client.max_inflight_messages_set(IN_FLIGHT_MAX)
    client.max_queued_messages_set(QUEUED_MAX)
    client.will_set(topics.status, will, qos=1, retain=True)
    if context is not None:
        client.context = context
        client.tls_set_context(context)
    return client


def _password(file: Path) -> str:
    """The file's first line. Raises BrokerUnavailable: it may be put right at any time."""
    try:
        content = read_secret(file, PASSWORD_FILE_BYTES_MAX)
        password = content.partition(b"\n")[0].rstrip(b"\r").decode()
    except OSError as failed:
        raise BrokerUnavailable("login", f"{file}: can't be read: {failed.strerror}") from failed
    except UnicodeDecodeError:
        raise BrokerUnavailable("login", f"{file}: the password is no UTF-8") from None
    if not 0 < len(password) <= PASSWORD_BYTES_MAX:
        raise BrokerUnavailable(
            "login", f"{file}: the first line must be a password of 1 to {PASSWORD_BYTES_MAX} bytes"
        )
    return password


async def _connect(client: _Client, settings: LinkSettings, version: MQTTProtocolVersion) -> None:
    where = f"{settings.host}:{settings.port}"
    properties = None
    if version == MQTTProtocolVersion.MQTTv5:
        properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        wanted = SEALED_BYTES_WANTED if settings.sealed else INBOUND_BYTES_WANTED
        properties.MaximumPacketSize = wanted
    try:
        await _in_thread(
            lambda: client.connect(
                settings.host, settings.port, settings.keepalive_s, properties=properties
            ),
            lambda: _close_socket(client),
        )
    except socket.gaierror as failed:
        why = f"{where}: no address: {failed.strerror}. Check the name, and this box's DNS"
        raise BrokerUnavailable("dns", why) from failed
    except ssl.SSLError as failed:
        raise BrokerUnavailable("tls", f"{where}: TLS: {tls_alert(failed)}") from failed
    except TimeoutError as failed:
        raise BrokerUnavailable("timeout", f"{where}: no answer in {CONNECT_S_MAX:g} s") from failed
    except ConnectionRefusedError as failed:
        why = f"{where}: nobody listens there. Check host and port, and that the broker runs"
        raise BrokerUnavailable("refused", why) from failed
    except (OSError, ValueError) as failed:
        raise BrokerUnavailable("network", f"{where}: {failed}") from failed


def _close_socket(client: mqtt.Client) -> None:
    sock = client.socket()
    if sock is not None:
        sock.close()


async def _in_thread(work: Callable[[], object], undo: Callable[[], None]) -> None:
    """Run `work` in a thread that nobody has to wait for: a name lookup can't be cancelled.

    The pool of the loop would be joined at the process's end, and hold it up. Where the caller was
    cancelled meanwhile, `undo` runs after `work`.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[None] = loop.create_future()

    def deliver(failed: Exception | None) -> None:
        if future.done():
            undo()
        elif failed is None:
            future.set_result(None)
        else:
            future.set_exception(failed)

    def run() -> None:
        failed: Exception | None = None
        try:
            work()
        except Exception as error:  # noqa: BLE001 - it is raised where it is waited for
            failed = error
        try:
            loop.call_soon_threadsafe(deliver, failed)
        except RuntimeError:  # the loop is closed: the process ends
            undo()

    threading.Thread(target=run, name="mqtt-connect", daemon=True).start()
    await future
