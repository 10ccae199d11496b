"""A door that looks for phones and fobs over Bluetooth Low Energy: the gateway is the central.

    [devices.yard-fobs]
    driver = "ble_scanner"
    adapter = "B8:27:EB:01:02:03"
    service = "2b7c1f64-3c5e-4f0e-8f43-55a0c5a3f0d1"
    gateway_identifier = "7f3a2c52-0c61-4d0b-a52d-1c4b5d1f0a10"
    door_identifier = "7f3a2c52-0c61-4d0b-a52d-1c4b5d1f0a21"
    near_dbm = -65

Whoever advertises the site's service, wants this door and is near is connected to, challenged and
asked to prove a key, over this gateway, this door and a nonce (docs/ble.md). How near a signal
seems is only a hint: walls and pockets cost as much as metres do, and who relays makes it up.
"""

from collections import OrderedDict, deque
from datetime import timedelta
from statistics import median
from typing import Annotated, Final

import msgspec

from gateway.clock import Clock
from gateway.config.devices import Capability, DriverSpec, Means, Trial
from gateway.domain.carried_grant import PROVEN, proven_value
from gateway.domain.facts import CredentialPresented, CredentialRefused, DeviceOnline
from gateway.domain.signal import Signal
from gateway.drivers.base import FactSink
from gateway.drivers.ble_link import (
    BleLink,
    BleSettings,
    Connected,
    Gatt,
    Gone,
    Heard,
    Online,
    Received,
    Said,
    Uuid,
)
from gateway.drivers.ble_proof import (
    ANY_DOOR,
    CHALLENGE,
    NONCE_AGE_MAX,
    PROOF,
    Believed,
    Challenge,
    Disbelieved,
    advert,
    result,
)
from gateway.drivers.ble_sessions import Attempts

CONVERSATIONS_MAX: Final = 3
"""At one door at once; a controller has room for about 8, and other doors may use it too."""
CONNECT_MAX: Final = timedelta(seconds=6)
"""The worker gives up sooner; this is for a worker that forgot."""
ANSWER_WAIT_MAX: Final = timedelta(seconds=3)
FAREWELL: Final = timedelta(milliseconds=500)
"""From the result to hanging up: it must be on the air first."""
AGAIN_AFTER: Final = timedelta(seconds=5)
"""Who says no press count is not connected to again sooner."""
SAMPLES: Final = 5
SAMPLES_MIN: Final = 2
"""How many of the last advertisements the median is of: one alone may be an echo."""
SAMPLE_AGE_MAX: Final = timedelta(seconds=2)
PEERS_MAX: Final = 256
"""Addresses remembered; the one not heard for longest goes first."""

_RESULTS: Final = {Signal.GRANTED: 1, Signal.DENIED: 2, Signal.PIN_WANTED: 3, Signal.FAULT: 4}
_REFUSED: Final = 5


class BleScannerSettings(BleSettings, frozen=True, kw_only=True):
    """[devices.NAME] of a BLE scanner."""

    service: Uuid
    """The site's own: what its phones and fobs advertise."""
    gateway_identifier: Uuid
    door_identifier: Uuid
    near_dbm: Annotated[
        int, msgspec.Meta(ge=-100, le=-30, description="a whole number of dBm, -100 to -30")
    ] = -70
    any_door: bool = False
    """Whether who names no door means this one: only where no other scanner hears them."""


class Nearness:
    """How strongly somebody is heard, as the median of the last advertisements."""

    def __init__(self) -> None:
        self._heard: deque[tuple[timedelta, int]] = deque(maxlen=SAMPLES)

    def heard(self, rssi: int, at: timedelta) -> int | None:
        """Take one; the median, or None where too few are fresh."""
        self._heard.append((at, rssi))
        fresh = [each for when, each in self._heard if at - when <= SAMPLE_AGE_MAX]
        return round(median(fresh)) if len(fresh) >= SAMPLES_MIN else None


class _Peer(msgspec.Struct):
    """Somebody who advertises."""

    nearness: Nearness
    press: int | None = None
    """The last wish that was answered."""
    again: timedelta = timedelta()
    """Without a press count: not before."""


class _Visit(msgspec.Struct):
    """Somebody who is connected, or about to be."""

    began: timedelta
    until: timedelta
    challenge: Challenge | None = None
    answered: bool = False


class BleScanner:
    """One door's ear. Which visitor is answered: the one that has waited longest."""

    def __init__(self, device_id: str, settings: BleScannerSettings, clock: Clock) -> None:
        self.device_id = device_id
        self._settings = settings
        self._clock = clock
        gatt = Gatt(settings.service, CHALLENGE, PROOF)
        self._link = BleLink(device_id, settings, "central", gatt)
        self._attempts = Attempts()
        self._peers: OrderedDict[str, _Peer] = OrderedDict()
        self._visits: dict[str, _Visit] = {}
        self._waiting: deque[tuple[str, timedelta]] = deque()
        """Who was presented or refused and since when: the door answers in this order."""
        self._gateway = bytes.fromhex(settings.gateway_identifier.replace("-", ""))
        self._door = bytes.fromhex(settings.door_identifier.replace("-", ""))

    async def run(self, emit: FactSink) -> None:
        """See `Driver.run`."""
        self._peers.clear()
        self._visits.clear()
        self._waiting.clear()
        await self._link.run(lambda said: self._take(said, emit))

    async def indicate(self, signal: Signal) -> None:
        """See `Indicates.indicate`: the phone's own screen, or the fob's lamp."""
        status = _RESULTS.get(signal)
        if status is not None and self._waiting:
            peer, _ = self._waiting.popleft()
            self._answer(peer, status)

    def _take(self, said: Said, emit: FactSink) -> None:
        match said:
            case Online(at=at):
                emit(DeviceOnline(self.device_id, at))
            case Heard(peer=peer, rssi=rssi, data=data, at=at):
                self._hear(peer, rssi, data, at)
            case Connected(peer=peer, at=at):
                if visit := self._visits.get(peer):
                    visit.until = at + NONCE_AGE_MAX
                    visit.challenge = Challenge(self._gateway, self._door, at)
                    self._link.send(peer, visit.challenge.message())
            case Received(peer=peer, data=data, at=at):
                self._receive(peer, data, at, emit)
            case Gone(peer=peer):
                self._visits.pop(peer, None)
            case _:
                pass
        self._expire()

    def _hear(self, name: str, rssi: int, data: bytes, at: timedelta) -> None:
        peer = self._peers.setdefault(name, _Peer(Nearness()))
        self._peers.move_to_end(name)
        if len(self._peers) > PEERS_MAX:
            self._peers.popitem(last=False)
        strength = peer.nearness.heard(rssi, at)
        if strength is None or strength < self._settings.near_dbm or name in self._visits:
            return
        told = advert(data)
        if told is None:
            # A phone whose system lets it advertise no data: it says in its proof what it wants.
            if at < peer.again:
                return
        elif not told.intent or told.press == peer.press or not self._is_ours(told.door):
            return
        if len(self._visits) >= CONVERSATIONS_MAX or not self._attempts.admits(name, at):
            return  # it goes on advertising
        peer.press = told.press if told else None
        peer.again = at + AGAIN_AFTER
        self._visits[name] = _Visit(at, at + CONNECT_MAX)
        self._link.connect(name)

    def _is_ours(self, door: bytes) -> bool:
        return door == self._door[:4] or (door == ANY_DOOR and self._settings.any_door)

    def _receive(self, peer: str, data: bytes, at: timedelta, emit: FactSink) -> None:
        visit = self._visits.get(peer)
        if visit is None or visit.challenge is None:
            return
        match visit.challenge.receive(data, at):
            case Believed(key=key, grant=grant):
                self._attempts.succeeded(peer)
                visit.until = at + ANSWER_WAIT_MAX
                self._waiting.append((peer, at))
                kind, value = (
                    (PROVEN, proven_value(key, grant)) if grant else ("pkoc", key.hex().upper())
                )
                emit(CredentialPresented(self.device_id, kind, value, at, began=visit.began))
            case Disbelieved(why=why):
                self._waiting.append((peer, at))
                emit(CredentialRefused(self.device_id, "pkoc", why, at))
                self._attempts.failed(peer, at)
                self._answer(peer, _REFUSED)
            case None:
                pass

    def _answer(self, peer: str, status: int) -> None:
        visit = self._visits.get(peer)
        if visit is not None and not visit.answered:
            self._link.send(peer, result(status))
            visit.answered = True
            visit.until = self._clock.monotonic() + FAREWELL

    def _expire(self) -> None:
        # The worker's heartbeat brings us here several times a second.
        now = self._clock.monotonic()
        for peer in [peer for peer, visit in self._visits.items() if now > visit.until]:
            del self._visits[peer]
            self._link.hang_up(peer)
        while self._waiting and now - self._waiting[0][1] > ANSWER_WAIT_MAX:
            self._waiting.popleft()


DRIVER = DriverSpec(
    name="ble_scanner",
    settings=BleScannerSettings,
    capabilities=frozenset({Capability.READS_CREDENTIALS, Capability.INDICATES}),
    proves=lambda _settings: ("pkoc", PROVEN),
    build=BleScanner,
    title="phones and fobs that advertise over BLE, which the gateway connects to",
    transport="BLE (BlueZ)",
    tried=(Trial(Means.PEER, "bumble's stack on a stock kernel and bluetoothd 5.66, in QEMU"),),
)
