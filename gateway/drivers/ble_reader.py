"""A door that phones connect to over Bluetooth Low Energy with PKOC: the gateway is the peripheral.

    [devices.street-ble]
    driver = "ble_reader"
    adapter = "B8:27:EB:01:02:03"
    site_identifier = "7f3a2c52-0c61-4d0b-a52d-1c4b5d1f0a10"
    reader_identifier = "7f3a2c52-0c61-4d0b-a52d-1c4b5d1f0a11"
    flows = "ecdhe"
    site_key = "/run/credentials/door-gateway-core.service/pkoc-site.pem"

Beside the plain flow there is ECDHE: the phone checks the site's signature, its own key travels
encrypted, and what it signs names the site and this reader. `flows = "any"` takes both.

Several doors on one adapter: each is a device of its own with `shared_adapter = true`. BlueZ can't
say which door's advertisement a phone answered, so a shared door is no service FFF0 but has its
reader identifier as its service's UUID: a phone that knows the door finds it and no other, and one
that only knows FFF0 finds none. For phones of any make, give each door an adapter (docs/ble.md).
"""

from collections import deque
from datetime import timedelta
from pathlib import Path
from typing import Final, Literal

import msgspec
import structlog
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from gateway.clock import Clock
from gateway.config.devices import Capability, DriverSpec, Means, Trial, refuse
from gateway.config.site import AbsolutePath
from gateway.domain.facts import CredentialPresented, CredentialRefused, DeviceOnline
from gateway.domain.signal import Signal
from gateway.drivers.base import FactSink
from gateway.drivers.ble_link import (
    BleLink,
    BleSettings,
    Connected,
    Gatt,
    Gone,
    Online,
    Received,
    Said,
    Uuid,
)
from gateway.drivers.ble_pkoc import (
    NONCE_AGE_MAX,
    SERVICE,
    TO_PHONE,
    TO_READER,
    Answer,
    PkocConversation,
    Proven,
    Refused,
    Send,
    answered,
)
from gateway.drivers.ble_sessions import Attempts
from gateway.errors import DeviceMisconfigured
from gateway.statedir import read_secret

log = structlog.get_logger()

KEY_FILE_BYTES_MAX: Final = 4096
"""A P-256 key in PEM has about 240; whatever is longer is something else."""
CONVERSATIONS_MAX: Final = 4
"""Phones at one door at once; the next is hung up on and may come again."""
ANSWER_WAIT_MAX: Final = timedelta(seconds=3)
"""How long a proven phone stays for the door's answer: twice P3's worst case."""
FAREWELL: Final = timedelta(seconds=1)
"""The phone hangs up by itself once it was answered; after this we do."""

_ANSWERS: Final = {
    Signal.GRANTED: Answer.GRANTED,
    Signal.DENIED: Answer.DENIED,
    Signal.FAULT: Answer.DENIED,
    Signal.PIN_WANTED: Answer.COMPLETED,
}


class BleReaderSettings(BleSettings, frozen=True, kw_only=True):
    """[devices.NAME] of a BLE reader."""

    site_identifier: Uuid
    reader_identifier: Uuid
    flows: Literal["ecdhe", "any"]
    """No default: the plain flow shows the key to who listens, and what is signed names no door."""
    site_key: AbsolutePath | None = None
    """A P-256 private key in PEM; phones have its public key."""
    shared_adapter: bool = False

    def __post_init__(self) -> None:
        """Refuse what can't work.

        Raises:
            ValueError: msgspec turns it into a fault with its path in the file.
        """
        if self.flows == "ecdhe" and self.site_key is None:
            refuse(["`site_key` is missing: in the ECDHE flow the reader signs with it"])

    @property
    def gatt(self) -> Gatt:
        """The service that phones look for."""
        return Gatt(self.reader_identifier if self.shared_adapter else SERVICE, TO_READER, TO_PHONE)


class _Phone(msgspec.Struct):
    """A phone that is there."""

    conversation: PkocConversation
    began: timedelta
    until: timedelta
    """When it is hung up on."""
    answered: bool = False


class BleReader:
    """One door's GATT server. Which phone is answered: the one that has waited longest."""

    def __init__(self, device_id: str, settings: BleReaderSettings, clock: Clock) -> None:
        self.device_id = device_id
        self._settings = settings
        self._clock = clock
        self._link = BleLink(device_id, settings, "peripheral", settings.gatt)
        self._attempts = Attempts()
        self._full = False
        self._phones: dict[str, _Phone] = {}
        self._waiting: deque[tuple[str, timedelta]] = deque()
        """Who was presented or refused and since when: the door answers in this order."""
        self._site = _bytes_of(settings.site_identifier)
        self._reader = _bytes_of(settings.reader_identifier)
        self._site_key: ec.EllipticCurvePrivateKey | None = None

    async def run(self, emit: FactSink) -> None:
        """See `Driver.run`."""
        self._site_key = self._load_key()
        self._phones.clear()
        self._waiting.clear()
        await self._link.run(lambda said: self._take(said, emit))

    async def indicate(self, signal: Signal) -> None:
        """See `Indicates.indicate`: the phone's own screen is this reader's lamp."""
        answer = _ANSWERS.get(signal)
        if answer is not None and self._waiting:
            peer, _ = self._waiting.popleft()
            self._answer(peer, answer)

    def _load_key(self) -> ec.EllipticCurvePrivateKey | None:
        if self._settings.site_key is None:
            return None
        file = self._settings.site_key
        try:
            key = load_pem_private_key(read_secret(Path(file), KEY_FILE_BYTES_MAX), None)
        except (OSError, ValueError, TypeError) as error:
            # Not the error's own words where it read the file: they may quote it.
            why = error.strerror if isinstance(error, OSError) else "is no private key in PEM"
            raise DeviceMisconfigured(f"{self.device_id}: {file}: {why}") from None
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name != "secp256r1":
            raise DeviceMisconfigured(f"{self.device_id}: {file}: is no P-256 key")
        return key

    def _take(self, said: Said, emit: FactSink) -> None:
        match said:
            case Online(at=at):
                emit(DeviceOnline(self.device_id, at))
            case Connected(peer=peer, at=at):
                self._greet(peer, at)
            case Received(peer=peer, data=data, at=at):
                self._hear(peer, data, at, emit)
            case Gone(peer=peer):
                self._phones.pop(peer, None)
            case _:
                pass
        self._expire()

    def _greet(self, peer: str, at: timedelta) -> None:
        if len(self._phones) >= CONVERSATIONS_MAX or not self._attempts.admits(peer, at):
            if not self._full:
                log.warning("phones not listened to: too many", device=self.device_id)
            self._full = True
            self._link.hang_up(peer)
            return
        self._full = False
        conversation = PkocConversation(
            self._site,
            self._reader,
            at,
            site_key=self._site_key,
            plain=self._settings.flows == "any",
        )
        self._phones[peer] = _Phone(conversation, at, at + NONCE_AGE_MAX)
        self._link.send(peer, conversation.hello())

    def _hear(self, peer: str, data: bytes, at: timedelta, emit: FactSink) -> None:
        phone = self._phones.get(peer)
        if phone is None:
            return
        match phone.conversation.receive(data, at):
            case Send(data=reply):
                self._link.send(peer, reply)
            case Proven(key=key):
                self._attempts.succeeded(peer)
                phone.until = at + ANSWER_WAIT_MAX
                self._waiting.append((peer, at))
                value = key.hex().upper()
                emit(CredentialPresented(self.device_id, "pkoc", value, at, began=phone.began))
            case Refused(why=why, answer=answer):
                self._waiting.append((peer, at))
                emit(CredentialRefused(self.device_id, "pkoc", why, at))
                self._attempts.failed(peer, at)
                self._answer(peer, answer)
            case None:
                pass

    def _answer(self, peer: str, answer: Answer) -> None:
        phone = self._phones.get(peer)
        if phone is not None and not phone.answered:
            self._link.send(peer, answered(answer))
            phone.answered = True
            phone.until = self._clock.monotonic() + FAREWELL

    def _expire(self) -> None:
        # The worker's heartbeat brings us here several times a second.
        now = self._clock.monotonic()
        for peer in [peer for peer, phone in self._phones.items() if now > phone.until]:
            del self._phones[peer]
            self._link.hang_up(peer)
        while self._waiting and now - self._waiting[0][1] > ANSWER_WAIT_MAX:
            self._waiting.popleft()


def _bytes_of(uuid: str) -> bytes:
    return bytes.fromhex(uuid.replace("-", ""))


DRIVER = DriverSpec(
    name="ble_reader",
    settings=BleReaderSettings,
    capabilities=frozenset({Capability.READS_CREDENTIALS, Capability.INDICATES}),
    proves=lambda _settings: ("pkoc",),
    build=BleReader,
    title="phones with PKOC over BLE, which connect to the door",
    transport="BLE (BlueZ)",
    address=lambda settings: f"PKOC at adapter {settings.adapter}",
    station=lambda settings: settings.reader_identifier if settings.shared_adapter else "FFF0",
    alike=lambda settings: {"shared_adapter": settings.shared_adapter},
    tried=(Trial(Means.PEER, "bumble's phone on a stock kernel and bluetoothd 5.66, in QEMU"),),
)
