"""Phones and fobs: actors with a radio, a key and a way to walk.

A PKOC phone speaks as the credential app of PSIA's public reference code does
(github.com/psialliance-org/com-psia-pkoc: TLVProvider, CryptoProvider, Ble…FlowTransaction).
"""

import asyncio
import hashlib
from dataclasses import dataclass
from typing import Protocol

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.hazmat.primitives.ciphers.aead import AESCCM

from hwsim.bluez.daemon import Adapter, Bluez
from hwsim.bluez.radio import Advertisement, Link, Peer, Walk

PKOC_SERVICE = "0000fff0-0000-1000-8000-00805f9b34fb"
PKOC_WRITE = "fe278a85-89ae-191f-5dde-841202693835"
PKOC_NOTIFY = "e5b1b3b5-3cca-3f76-cd86-a884cc239692"

STATUS = {
    1: "completed",
    2: "denied",
    3: "granted",
    4: "decryption_error_gcm",
    5: "invalid_security_status",
    6: "signature_invalid",
    7: "decryption_error_ccm",
    8: "unrecognized",
}


def tlv(kind: int, value: bytes) -> bytes:
    """Type, length, value."""
    return bytes([kind, len(value)]) + value


def parse(data: bytes) -> dict[int, bytes]:
    """The fields of a message by type."""
    found = {}
    while data:
        found[data[0]], data = data[2 : 2 + data[1]], data[2 + data[1] :]
    return found


def raw_signature(key: ec.EllipticCurvePrivateKey, message: bytes) -> bytes:
    """An ECDSA signature with SHA-256, as r and s."""
    r, s = utils.decode_dss_signature(key.sign(message, ec.ECDSA(hashes.SHA256())))
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


def uncompressed(key: ec.EllipticCurvePrivateKey) -> bytes:
    """04, x, y of the public key."""
    return key.public_key().public_bytes(
        serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint
    )


class Reader(Protocol):
    """A connection to a reader's GATT server."""

    received: "asyncio.Queue[bytes | None]"
    """Notifications; None: the connection is over."""

    async def subscribe(self, service: str, uuid: str) -> None:
        """Ask for notifications."""

    async def write(self, service: str, uuid: str, data: bytes) -> None:
        """Write a characteristic."""


@dataclass
class Tricks:
    """What a dishonest or broken phone does in place of the right thing."""

    proof: bytes | None = None
    """Send these bytes as the proof: a replay, a malformed one."""
    wait_s: float = 0.0
    """Prove only after so long."""
    sign_for_reader: bytes | None = None
    """Sign another reader's identifier (ECDHE)."""
    stop_after_hello: bool = False
    sign_with: ec.EllipticCurvePrivateKey | None = None
    twice: bool = False
    """Say the proof again, once it was answered."""


class PkocPhone(Peer):
    """A phone with a PKOC credential."""

    def __init__(
        self,
        bluez: Bluez,
        address: str,
        *,
        key: ec.EllipticCurvePrivateKey | None = None,
        site_public: ec.EllipticCurvePublicKey | None = None,
        walk: Walk | None = None,
    ) -> None:
        """Be in somebody's pocket; with `site_public` the phone asks for the ECDHE flow."""
        super().__init__(address, walk)
        self._bluez = bluez
        self.key = key or ec.generate_private_key(ec.SECP256R1())
        self._site_public = site_public
        self.said: list[bytes] = []
        """What it wrote in the last conversation."""
        self.reader = b""
        """The identifier of the reader it spoke to last."""

    @property
    def credential(self) -> str:
        """The public key as records have it."""
        return uncompressed(self.key).hex().upper()

    async def tap(
        self,
        adapter: Adapter,
        service: str = PKOC_SERVICE,
        tricks: Tricks | None = None,
        timeout_s: float = 8.0,
    ) -> str:
        """Connect to a door, prove the key, and hang up.

        Returns:
            What the reader said: a name of `STATUS`, or "hung_up".

        Raises:
            ConnectionError: there is no such door in range.
        """
        link = await self._bluez.connect(self, adapter)
        try:
            async with asyncio.timeout(timeout_s):
                if service not in link.services:
                    raise ConnectionError(f"{adapter.name} has no service {service}")
                return await self.converse(link, service, tricks or Tricks())
        finally:
            link.close()

    async def converse(self, link: Reader, service: str, tricks: Tricks) -> str:
        """Prove the key over any connection; what the reader said, as `tap`."""
        self.said = []
        await link.subscribe(service, PKOC_NOTIFY)
        hello_bytes = await link.received.get()
        if hello_bytes is None:
            return "hung_up"
        hello = parse(hello_bytes)
        self.reader = hello[0x0D]
        if tricks.stop_after_hello:
            await link.received.get()
            return "hung_up"
        await asyncio.sleep(tricks.wait_s)
        key = tricks.sign_with or self.key
        plain = tlv(0x01, uncompressed(self.key))
        rest = tlv(0x09, (1_700_000_000).to_bytes(4, "big")) + tlv(0x0C, hello[0x0C])
        if self._site_public is None:
            proof = plain + tlv(0x03, raw_signature(key, hello[0x02])) + rest
        else:
            ours = ec.generate_private_key(ec.SECP256R1())
            theirs = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), hello[0x02])
            mine = uncompressed(ours)
            transcript = hello[0x0E] + hello[0x0D] + mine[1:33] + hello[0x02][1:]
            await self._write(link, service, tlv(0x07, mine) + tlv(0x0C, hello[0x0C]))
            answer = await link.received.get()
            if answer is None:
                return "hung_up"
            if 0x04 in parse(answer):
                return STATUS[parse(answer)[0x04][0]]
            if not self._is_site(parse(answer)[0x03], transcript):
                return "unrecognized"
            if tricks.sign_for_reader is not None:
                transcript = hello[0x0E] + tricks.sign_for_reader + transcript[32:]
            digest = hashes.Hash(hashes.SHA256())
            digest.update(ours.exchange(ec.ECDH(), theirs))
            clear = plain + tlv(0x03, raw_signature(key, transcript)) + rest
            nonce = bytes([0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1])
            proof = tlv(0x40, AESCCM(digest.finalize(), 16).encrypt(nonce, clear, None))
        await self._write(link, service, tricks.proof or proof)
        if tricks.twice:
            await self._write(link, service, proof)
        answer = await link.received.get()
        return "hung_up" if answer is None else STATUS[parse(answer)[0x04][0]]

    def _is_site(self, signature: bytes, message: bytes) -> bool:
        assert self._site_public is not None
        r, s = (int.from_bytes(part, "big") for part in (signature[:32], signature[32:]))
        try:
            self._site_public.verify(
                utils.encode_dss_signature(r, s), message, ec.ECDSA(hashes.SHA256())
            )
        except InvalidSignature:
            return False
        return True

    async def _write(self, link: Reader, service: str, data: bytes) -> None:
        self.said.append(data)
        await link.write(service, PKOC_WRITE, data)


# --- phones and fobs that wait to be connected to (docs/ble.md) -----------------------------------

CHALLENGE = "6d8d0001-5b1e-4c8e-9a52-3d1f5a6d7c10"
PROOF = "6d8d0002-5b1e-4c8e-9a52-3d1f5a6d7c10"
RESULT = {1: "granted", 2: "denied", 3: "pin_wanted", 4: "fault", 5: "refused"}


class Fob(Peer):
    """A fob with a button, or a phone with an app, that advertises the site's service."""

    def __init__(
        self,
        address: str,
        service: str,
        *,
        key: ec.EllipticCurvePrivateKey | None = None,
        walk: Walk | None = None,
        has_data: bool = True,
        mtu: int = 517,
        interval_s: float = 0.1,
    ) -> None:
        """Lie there, silent; without `has_data` it can't put data into its advertisement."""
        super().__init__(address, walk)
        self.key = key or ec.generate_private_key(ec.SECP256R1())
        self.results: asyncio.Queue[str] = asyncio.Queue()
        """What the gateway answered; "hung_up" where it did without."""
        self.proofs: list[bytes] = []
        self.replay: bytes | None = None
        """Say this in place of the proof."""
        self.intent = True
        """What the proof says; the advertisement always says yes."""
        self.sign_for_door: bytes | None = None
        self.grant = b""
        """A carried grant that it shows with its proof."""
        self.mute = False
        self.answers = 0
        self._service = service
        self._has_data = has_data
        self._mtu = mtu
        self._interval_s = interval_s
        self._press = 0
        self._answered = False
        self._tasks: set[asyncio.Task[None]] = set()
        self.services = {service: {CHALLENGE: ("write",), PROOF: ("notify",)}}

    @property
    def credential(self) -> str:
        """The public key as records have it."""
        return uncompressed(self.key).hex().upper()

    def press(self, door: bytes = bytes(4)) -> None:
        """Ask for a door, by the first 4 bytes of its identifier; none: whichever is near."""
        self._press = self._press % 255 + 1
        data = {self._service: bytes([1, 1, self._press]) + door[:4]} if self._has_data else {}
        self.advertisement = Advertisement((self._service,), data, self._interval_s)

    def connected(self, link: Link) -> None:
        """See `Peer`."""
        del link
        self._answered = False

    def disconnected(self, link: Link) -> None:
        """See `Peer`."""
        del link
        if not self._answered:
            self.results.put_nowait("hung_up")

    def written(self, link: Link, uuid: str, data: bytes) -> None:
        """Answer a challenge, or take the result and fall silent."""
        if uuid != CHALLENGE or data[0] != 1:
            return
        if data[1] == 2:
            self._answered = True
            self.answers += 1
            self.advertisement = None
            self.results.put_nowait(RESULT[data[2]])
            asyncio.get_running_loop().call_soon(link.close)
            return
        if self.mute:
            return
        gateway, door, nonce = data[2:18], data[18:34], data[34:66]
        version = 2 if self.grant else 1
        claimed = bytes([version, 1 if self.intent else 0]) + uncompressed(self.key)
        audience = gateway + (self.sign_for_door or door) + nonce
        tail = b""
        said = b"door-gateway/ble-proof/v1\x00" + audience + claimed
        if self.grant:
            said += hashlib.sha256(self.grant).digest()
            tail = len(self.grant).to_bytes(2, "big") + self.grant
        proof = self.replay or claimed + raw_signature(self.key, said) + tail
        self.proofs.append(proof)
        for at in range(0, len(proof), self._mtu - 3):
            link.notify(PROOF, proof[at : at + self._mtu - 3])
