"""A client of a broker on the running event loop, hundreds of which fit into one process."""

import asyncio
import socket
from collections.abc import Callable
from typing import Any

from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion

CONNECT_S_MAX = 10.0


class BrokerLost(ConnectionError):
    """The broker can't be reached, or the session has ended."""


class MqttClient:
    """MQTT 3.1.1, which every broker speaks. `open` connects; `ended` is done once it is lost."""

    def __init__(
        self,
        client_id: str,
        on_message: Callable[[str, bytes], None],
        *,
        clean: bool = True,
        will: tuple[str, bytes] | None = None,
    ) -> None:
        self._client = Client(
            CallbackAPIVersion.VERSION2,
            client_id=client_id,
            clean_session=clean,
            protocol=MQTTProtocolVersion.MQTTv311,
            reconnect_on_failure=False,
        )
        if will is not None:
            self._client.will_set(*will, qos=1, retain=True)
        self._client.max_inflight_messages_set(20)
        self._client.on_connect = self._on_connect
        self._client.on_subscribe = self._on_subscribe
        self._client.on_publish = self._on_publish
        self._client.on_message = self._on_message
        self._client.on_disconnect = self._on_disconnect
        self._client.on_socket_register_write = self._on_want_write
        self._client.on_socket_unregister_write = self._on_no_write
        self._heard = on_message
        self._topics: list[str] = []
        self._loop = asyncio.get_running_loop()
        self._ready: asyncio.Future[None] = self._loop.create_future()
        self.ended: asyncio.Future[None] = self._loop.create_future()
        self._pubacks: dict[int, Callable[[], None]] = {}
        self._fd = -1
        self._house: asyncio.TimerHandle | None = None

    async def open(self, host: str, port: int, *topics: str, keepalive_s: int = 30) -> None:
        """Connect and subscribe to `topics`. Raises BrokerLost."""
        self._topics = list(topics)
        try:
            async with asyncio.timeout(CONNECT_S_MAX):
                # To this machine or its network by address: no name has to be looked up.
                self._client.connect(host, port, keepalive_s)
                sock = self._client.socket()
                if not isinstance(sock, socket.socket):
                    raise BrokerLost("closed at once")
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._fd = sock.fileno()
                self._loop.add_reader(self._fd, self._step, self._client.loop_read)
                self._keep_house()
                await asyncio.wait({self._ready, self.ended}, return_when=asyncio.FIRST_COMPLETED)
        except (OSError, ValueError, TimeoutError) as error:
            self.close()
            raise BrokerLost(str(error)) from error
        if self.ended.done():
            raise BrokerLost("refused, or closed before it was subscribed")

    def publish(
        self,
        topic: str,
        payload: bytes,
        *,
        qos: int = 1,
        retain: bool = False,
        done: Callable[[], None] | None = None,
    ) -> None:
        """Hand a message over; `done` is called at its PUBACK. A lost session takes nothing."""
        if self.ended.done():
            return
        info = self._client.publish(topic, payload, qos=qos, retain=retain)
        if info.rc is not MQTTErrorCode.MQTT_ERR_SUCCESS:
            self._end()
        elif done is not None:
            self._pubacks[info.mid] = done

    def close(self) -> None:
        """Leave, in good order if the broker is still there."""
        if not self.ended.done():
            self._client.disconnect()
        self._end()

    def drop(self) -> None:
        """Lose the connection without a word, as when a cable is pulled."""
        sock = self._client.socket()
        self._end()
        if sock is not None:
            sock.close()

    def _end(self) -> None:
        if self._house is not None:
            self._house.cancel()
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            self._loop.remove_writer(self._fd)
            self._fd = -1
        self._pubacks.clear()
        for future in (self._ready, self.ended):
            if not future.done():
                future.set_result(None)

    def _step(self, work: Callable[[], object]) -> None:
        work()
        if self._client.socket() is None:
            self._end()

    def _keep_house(self) -> None:
        self._step(self._client.loop_misc)
        if not self.ended.done():
            self._house = self._loop.call_later(1.0, self._keep_house)

    def _on_connect(self, client: Client, _d: Any, _f: Any, reason: Any, _p: Any) -> None:
        if reason.is_failure:
            self._end()
        elif self._topics:
            client.subscribe([(topic, 1) for topic in self._topics])
        elif not self._ready.done():
            self._ready.set_result(None)

    def _on_subscribe(self, _c: Client, _d: Any, _m: int, reasons: list[Any], _p: Any) -> None:
        if any(reason.is_failure for reason in reasons):
            self._end()
        elif not self._ready.done():
            self._ready.set_result(None)

    def _on_publish(self, _c: Client, _d: Any, mid: int, _r: Any, _p: Any) -> None:
        if done := self._pubacks.pop(mid, None):
            done()

    def _on_message(self, _c: Client, _d: Any, message: MQTTMessage) -> None:
        self._heard(message.topic, bytes(message.payload))

    def _on_disconnect(self, *_about: Any) -> None:
        self._end()

    def _on_want_write(self, _c: Client, _d: Any, sock: Any) -> None:
        if not self.ended.done():
            self._loop.add_writer(sock.fileno(), self._step, self._client.loop_write)

    def _on_no_write(self, _c: Client, _d: Any, sock: Any) -> None:
        if sock.fileno() >= 0:
            self._loop.remove_writer(sock.fileno())
