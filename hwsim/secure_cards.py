"""Cards and phones that prove who they are, as their makers' public documents describe them.

Each class answers one command APDU after another; `hwsim.cards.Card` brings it to a reader.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import (
    decode_dss_signature,
    encode_dss_signature,
)
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.cmac import CMAC
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.kdf.x963kdf import X963KDF

from hwsim.cards import Card

# ISO/IEC 7816-4, 5.1.3.
SW_OK = bytes.fromhex("9000")
SW_NOT_FOUND = bytes.fromhex("6A82")
SW_NO_DATA = bytes.fromhex("6A88")
SW_WRONG_LENGTH = bytes.fromhex("6700")
SW_CLA_NOT_SUPPORTED = bytes.fromhex("6E00")
SW_INS_NOT_SUPPORTED = bytes.fromhex("6D00")

# A MIFARE DESFire's status bytes.
_OK, _MORE = 0x00, 0xAF
_ILLEGAL_COMMAND, _NO_SUCH_KEY, _LENGTH_ERROR = 0x1C, 0x40, 0x7E
_PERMISSION_DENIED, _NO_APPLICATION, _AUTHENTICATION_ERROR, _NO_FILE = 0x9D, 0xA0, 0xAE, 0xF0


def aes_cbc(key: bytes, iv: bytes, data: bytes, *, opened: bool = False) -> bytes:
    """AES-CBC over whole blocks, sealing or opening."""
    cipher = Cipher(algorithms.AES(key), modes.CBC(iv))
    made = cipher.decryptor() if opened else cipher.encryptor()
    return made.update(data) + made.finalize()


def aes_cmac(key: bytes, data: bytes) -> bytes:
    """SP 800-38B."""
    mac = CMAC(algorithms.AES(key))
    mac.update(data)
    return mac.finalize()


def _mac_subkeys(key: bytes) -> tuple[bytes, bytes]:
    """K1 and K2 of SP 800-38B, 6.1."""
    found = []
    value = int.from_bytes(aes_cbc(key, bytes(16), bytes(16)), "big")
    for _ in range(2):
        value <<= 1
        if value >> 128:
            value = (value & (1 << 128) - 1) ^ 0x87
        found.append(value.to_bytes(16, "big"))
    return found[0], found[1]


def _chain_mac(key: bytes, iv: bytes, data: bytes) -> bytes:
    """EV1's CMAC: it starts from the last cryptogram of the session instead of zeros."""
    whole, padded = _mac_subkeys(key)
    if data and len(data) % 16 == 0:
        subkey = whole
    else:
        data, subkey = data + b"\x80" + bytes(-(len(data) + 1) % 16), padded
    tail = bytes(left ^ right for left, right in zip(data[-16:], subkey, strict=True))
    return aes_cbc(key, iv, data[:-16] + tail)[-16:]


def jam_crc(data: bytes) -> bytes:
    """CRC-32 with the polynomial of ISO/IEC 13239, preset to ones, not inverted at the end."""
    crc = 0xFFFFFFFF
    for octet in data:
        crc ^= octet
        for _ in range(8):
            crc = crc >> 1 ^ (0xEDB88320 if crc & 1 else 0)
    return struct.pack("<I", crc)


def an10922(key: bytes, material: bytes) -> bytes:
    """The AES-128 key of one card (AN10922, 2.2): CMAC over 32 bytes, always."""
    message = b"\x01" + material
    if len(message) == 32:
        return aes_cmac(key, message)
    _, padded = _mac_subkeys(key)
    message = (message + b"\x80").ljust(32, b"\x00")
    tail = bytes(left ^ right for left, right in zip(message[16:], padded, strict=True))
    return aes_cbc(key, bytes(16), message[:16] + tail)[16:]


@dataclass
class _Channel:
    """What a DESFire remembers of one authentication."""

    key_number: int
    ev2: bool
    rnd_b: bytes
    key: bytes
    sealed_b: bytes
    done: bool = False
    session_key: bytes = b""
    mac_key: bytes = b""
    iv: bytes = bytes(16)
    transaction: bytes = b""
    commands: int = 0


@dataclass
class DesfireCard:
    """One application with its AES keys and standard data files read in full mode.

    Attributes:
        uid: The real UID.
        aid: As it goes over the air: last byte first.
        keys: Of the application, by number.
        files: Contents by number; every one needs `read_key`.
        ev1_only: An EV1: knows neither AuthenticateEV2First nor its secure messaging.
        random: Where its challenges come from.
    """

    uid: bytes
    aid: bytes
    keys: dict[int, bytes]
    files: dict[int, bytes]
    read_key: int
    random: Callable[[int], bytes]
    ev1_only: bool = False
    selected: bool = False
    commands: list[int] = field(default_factory=list)
    _channel: _Channel | None = None

    def apdu(self, command: bytes) -> bytes:
        """Answer a command, native or wrapped in ISO/IEC 7816-4."""
        if command[:1] == b"\x90":
            if len(command) < 5 or command[2:4] != b"\x00\x00":
                return SW_WRONG_LENGTH
            data = command[5:-1] if len(command) > 5 else b""
            if len(command) > 5 and command[4] != len(data):
                return b"\x91" + bytes([_LENGTH_ERROR])
            status, answer = self._native(command[1], data)
            return answer + bytes([0x91, status])
        if command[:2] == b"\x00\xa4":
            return SW_NOT_FOUND
        if command[:1] in {b"\x00", b"\x80"}:
            return SW_CLA_NOT_SUPPORTED
        status, answer = self._native(command[0], command[1:])
        return bytes([status]) + answer

    def _native(self, code: int, data: bytes) -> tuple[int, bytes]:
        self.commands.append(code)
        if code == 0x5A:
            self._channel = None
            self.selected = data == self.aid
            return (_OK, b"") if self.selected else (_NO_APPLICATION, b"")
        if not self.selected:
            return _ILLEGAL_COMMAND, b""
        if code in {0xAA, 0x71} and not (code == 0x71 and self.ev1_only):
            return self._challenge(data, ev2=code == 0x71)
        if code == 0xAF and self._channel is not None and not self._channel.done:
            return self._response(self._channel, data)
        if self._channel is None or not self._channel.done:
            self._channel = None
            denied = code in {0x51, 0xBD}
            return (_AUTHENTICATION_ERROR if denied else _ILLEGAL_COMMAND), b""
        if code == 0x51:
            return self._secured(self._channel, code, data, b"", self.uid)
        if code == 0xBD:
            return self._read(self._channel, data)
        return _ILLEGAL_COMMAND, b""

    def _challenge(self, data: bytes, *, ev2: bool) -> tuple[int, bytes]:
        # EV2 sends the number and the length of its capabilities, then those.
        if len(data) != 1 and not (ev2 and len(data) >= 2 and data[1] == len(data) - 2):
            return _LENGTH_ERROR, b""
        key = self.keys.get(data[0])
        if key is None:
            return _NO_SUCH_KEY, b""
        rnd_b = self.random(16)
        sealed = aes_cbc(key, bytes(16), rnd_b)
        self._channel = _Channel(data[0], ev2, rnd_b, key, sealed)
        return _MORE, sealed

    def _response(self, channel: _Channel, data: bytes) -> tuple[int, bytes]:
        self._channel = None
        if len(data) != 32:
            return _LENGTH_ERROR, b""
        first_iv = bytes(16) if channel.ev2 else channel.sealed_b
        opened = aes_cbc(channel.key, first_iv, data, opened=True)
        rnd_a, rotated_b = opened[:16], opened[16:]
        rnd_b = channel.rnd_b
        if rotated_b != rnd_b[1:] + rnd_b[:1]:
            return _AUTHENTICATION_ERROR, b""
        rotated_a = rnd_a[1:] + rnd_a[:1]
        channel.done = True
        self._channel = channel
        if not channel.ev2:
            channel.session_key = rnd_a[0:4] + rnd_b[0:4] + rnd_a[12:16] + rnd_b[12:16]
            return _OK, aes_cbc(channel.key, data[-16:], rotated_a)
        channel.transaction = self.random(4)
        sv = bytearray(32)
        sv[2:6] = bytes.fromhex("00010080")
        sv[6:8] = rnd_a[0:2]
        sv[8:14] = bytes(left ^ right for left, right in zip(rnd_a[2:8], rnd_b[:6], strict=True))
        sv[14:24] = rnd_b[6:16]
        sv[24:32] = rnd_a[8:16]
        sv[0:2] = b"\xa5\x5a"
        channel.session_key = aes_cmac(channel.key, bytes(sv))
        sv[0:2] = b"\x5a\xa5"
        channel.mac_key = aes_cmac(channel.key, bytes(sv))
        # The capabilities of both, none.
        said = channel.transaction + rotated_a + bytes(6) + bytes(6)
        return _OK, aes_cbc(channel.key, bytes(16), said)

    def _read(self, channel: _Channel, data: bytes) -> tuple[int, bytes]:
        header, mac = (data[:7], data[7:]) if channel.ev2 else (data, b"")
        if len(header) != 7:
            return _LENGTH_ERROR, b""
        content = self.files.get(header[0])
        if content is None:
            return _NO_FILE, b""
        if channel.key_number != self.read_key:
            return _PERMISSION_DENIED, b""
        offset = int.from_bytes(header[1:4], "little")
        length = int.from_bytes(header[4:7], "little") or len(content) - offset
        if offset + length > len(content):
            return 0xBE, b""
        return self._secured(channel, 0xBD, header, mac, content[offset : offset + length])

    def _secured(
        self, channel: _Channel, code: int, header: bytes, mac: bytes, plain: bytes
    ) -> tuple[int, bytes]:
        """Check a command and answer `plain`, in full mode."""
        if channel.ev2:
            if code == 0x51:
                header, mac = b"", header
            counter = struct.pack("<H", channel.commands)
            expected = aes_cmac(
                channel.mac_key, bytes([code]) + counter + channel.transaction + header
            )
            if mac != expected[1::2]:
                self._channel = None
                return 0x1E, b""  # INTEGRITY_ERROR
            channel.commands += 1
            counter = struct.pack("<H", channel.commands)
            iv = aes_cbc(
                channel.session_key,
                bytes(16),
                b"\x5a\xa5" + channel.transaction + counter + bytes(8),
            )
            padded = plain + b"\x80"
            sealed = aes_cbc(channel.session_key, iv, padded + bytes(-len(padded) % 16))
            answer_mac = aes_cmac(
                channel.mac_key, bytes([_OK]) + counter + channel.transaction + sealed
            )
            return _OK, sealed + answer_mac[1::2]
        channel.iv = _chain_mac(channel.session_key, channel.iv, bytes([code]) + header)
        padded = plain + jam_crc(plain + bytes([_OK]))
        sealed = aes_cbc(channel.session_key, channel.iv, padded + bytes(-len(padded) % 16))
        channel.iv = sealed[-16:]
        return _OK, sealed

    def power_up(self) -> None:
        """The field came back: nothing is selected."""
        self.selected = False
        self._channel = None


def _tlv(tag: int, value: bytes) -> bytes:
    head = bytes([tag]) if tag < 0x100 else struct.pack(">H", tag)
    if len(value) < 0x80:
        return head + bytes([len(value)]) + value
    if len(value) < 0x100:
        return head + bytes([0x81, len(value)]) + value
    return head + b"\x82" + struct.pack(">H", len(value)) + value


def raw_signature(key: ec.EllipticCurvePrivateKey, message: bytes) -> bytes:
    """ECDSA with SHA-256, r and s of 32 bytes each."""
    r, s = decode_dss_signature(key.sign(message, ec.ECDSA(hashes.SHA256())))
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


def point(key: ec.EllipticCurvePrivateKey) -> bytes:
    """The public key, uncompressed."""
    numbers = key.public_key().public_numbers()
    return b"\x04" + numbers.x.to_bytes(32, "big") + numbers.y.to_bytes(32, "big")


@dataclass
class PkocCard:
    """A card or a phone with PSIA's PKOC applet.

    Attributes:
        key: Its own.
        certificate: With one it has the SE V2 profile too (NFC Transport Profile 2.0.1).
        signs_with: A stranger's key: it claims to be somebody else.
        readers: The reader identifiers that asked it, as it was told them.
    """

    key: ec.EllipticCurvePrivateKey
    certificate: bytes = b""
    signs_with: ec.EllipticCurvePrivateKey | None = None
    readers: list[bytes] = field(default_factory=list)
    selected: bool = False
    _rest: bytes = b""

    def apdu(self, command: bytes) -> bytes:
        """Answer a command."""
        if command[:4] == bytes.fromhex("00A40400"):
            self.selected = command[5:13] == bytes.fromhex("A000000898000001")
            return _tlv(0x5C, b"\x01\x00") + SW_OK if self.selected else SW_NOT_FOUND
        if not self.selected:
            return SW_INS_NOT_SUPPORTED
        if command[:4] == bytes.fromhex("80800001"):
            return self._authenticate(command[5 : 5 + command[4]])
        if command[:4] == bytes.fromhex("00CA7F63") and self.certificate:
            return _tlv(0x7F63, _tlv(0x5C, b"\x02\x00")) + SW_OK
        if command[:4] == bytes.fromhex("00CA7F21") and self.certificate:
            self._rest = self.certificate
            return self._next()
        if command[:4] == bytes.fromhex("00C00000") and self._rest:
            return self._next()
        if command[:4] == bytes.fromhex("00880000") and self.certificate:
            return _tlv(0x9E, raw_signature(self.key, command[5 : 5 + command[4]])) + SW_OK
        return SW_NO_DATA if command[:2] == b"\x00\xca" else SW_INS_NOT_SUPPORTED

    def _authenticate(self, data: bytes) -> bytes:
        found = _simple_tlvs(data)
        if found.get(0x5C) != b"\x01\x00" or len(found.get(0x4C, b"")) != 16:
            return bytes.fromhex("6A80")
        self.readers.append(found.get(0x4D, b""))
        signature = raw_signature(self.signs_with or self.key, found[0x4C])
        return _tlv(0x5A, point(self.key)) + _tlv(0x9E, signature) + SW_OK

    def _next(self) -> bytes:
        chunk, self._rest = self._rest[:200], self._rest[200:]
        return chunk + (bytes([0x61, min(len(self._rest), 0xFF)]) if self._rest else SW_OK)

    def power_up(self) -> None:
        """The field came back: nothing is selected."""
        self.selected = False


def pkoc_certificate(
    subject: bytes, issuer: ec.EllipticCurvePrivateKey, reference: str = "ISSUER0000000001"
) -> bytes:
    """A card verifiable certificate of profile 0 (PKOC Core 2.0.1, 5)."""
    body = _tlv(
        0x7F4E,
        _tlv(0x5F29, b"\x00")
        + _tlv(0x42, reference.encode())
        + _tlv(0x7F49, _tlv(0x06, bytes.fromhex("2A8648CE3D030107")) + _tlv(0x86, subject))
        + _tlv(0x5F20, b"SUBJECT000000001")
        + _tlv(0x5F25, bytes.fromhex("020600070009"))
        + _tlv(0x5F24, bytes.fromhex("030000070009")),
    )
    return _tlv(0x7F21, body + _tlv(0x5F37, raw_signature(issuer, body)))


@dataclass
class AliroPhone:
    """A phone with an Aliro credential, expedited standard phase.

    Attributes:
        key: Its own.
        reader_group: The public key of the readers that it answers, uncompressed.
        ephemeral: Its key for one transaction.
        signs_with: A stranger's key: it claims to be somebody else.
    """

    key: ec.EllipticCurvePrivateKey
    reader_group: bytes
    ephemeral: ec.EllipticCurvePrivateKey
    signs_with: ec.EllipticCurvePrivateKey | None = None
    versions: bytes = b"\x01\x00"
    selected: bool = False
    _auth0: dict[int, bytes] = field(default_factory=dict)

    def apdu(self, command: bytes) -> bytes:
        """Answer a command."""
        if command[:4] == bytes.fromhex("00A40400"):
            self.selected = command[5:14] == bytes.fromhex("A000000909ACCE5501")
            self._auth0 = {}
            return self._fci() + SW_OK if self.selected else SW_NOT_FOUND
        data = command[5 : 5 + command[4]] if len(command) > 4 else b""
        if self.selected and command[:4] == bytes.fromhex("80800000"):
            self._auth0 = _simple_tlvs(data)
            return _tlv(0x86, point(self.ephemeral)) + SW_OK
        if self._auth0 and command[:4] == bytes.fromhex("80810000"):
            return self._auth1(_simple_tlvs(data))
        return SW_INS_NOT_SUPPORTED

    def _proprietary(self) -> bytes:
        return _tlv(0xA5, _tlv(0x80, b"\x00\x00") + _tlv(0x5C, self.versions))

    def _fci(self) -> bytes:
        return _tlv(0x6F, _tlv(0x84, bytes.fromhex("A000000909ACCE5501")) + self._proprietary())

    def _to_sign(self, usage: str) -> bytes:
        told = self._auth0
        mine = point(self.ephemeral)[1:33]
        return b"".join(
            _tlv(tag, value)
            for tag, value in (
                (0x4D, told[0x4D]),
                (0x86, mine),
                (0x87, told[0x87][1:33]),
                (0x4C, told[0x4C]),
                (0x93, bytes.fromhex(usage)),
            )
        )

    def _auth1(self, told: dict[int, bytes]) -> bytes:
        reader = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), self.reader_group)
        raw = told.get(0x9E, bytes(64))
        r, s = int.from_bytes(raw[:32], "big"), int.from_bytes(raw[32:], "big")
        try:
            signature = encode_dss_signature(r, s)
            reader.verify(signature, self._to_sign("415D9569"), ec.ECDSA(hashes.SHA256()))
        except InvalidSignature:
            return bytes.fromhex("6982")
        theirs = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), self._auth0[0x87])
        secret = self.ephemeral.exchange(ec.ECDH(), theirs)
        shared = X963KDF(hashes.SHA256(), 32, self._auth0[0x4C]).derive(secret)
        salt = (
            self.reader_group[1:33]
            + b"Volatile****"
            + self._auth0[0x4D]
            + b"\x5e"
            + _tlv(0x5C, self._auth0[0x5C])
            + self._auth0[0x87][1:33]
            + self._auth0[0x4C]
            + self._auth0[0x41]
            + self._auth0[0x42]
            + self._proprietary()
        )
        mine = point(self.ephemeral)[1:33]
        keys = HKDF(hashes.SHA256(), 160, salt, mine).derive(shared)
        proof = raw_signature(self.signs_with or self.key, self._to_sign("4E887B4C"))
        plain = _tlv(0x5A, point(self.key)) + _tlv(0x9E, proof) + _tlv(0x5E, b"\x00\x00")
        nonce = bytes.fromhex("0000000000000001") + bytes.fromhex("00000001")
        return AESGCM(keys[32:64]).encrypt(nonce, plain, None) + SW_OK

    def power_up(self) -> None:
        """The field came back: nothing is selected."""
        self.selected = False
        self._auth0 = {}


@dataclass
class GrantPhone:
    """A phone with a grant that it carries, as docs/nfc.md has it.

    Attributes:
        key: Its own.
        grant: The signed message.
        signs_with: A stranger's key: it claims to be somebody else.
        signs_for: Another gateway's and door's identifiers.
        replays: What it answers to `prove`, in place of a proof.
        locked: It wants its holder's consent.
        late: It is never ready with its proof, and says so.
        proofs: What it has answered to `prove`.
    """

    key: ec.EllipticCurvePrivateKey
    grant: bytes
    signs_with: ec.EllipticCurvePrivateKey | None = None
    signs_for: bytes = b""
    replays: bytes = b""
    locked: bool = False
    late: bool = False
    proofs: list[bytes] = field(default_factory=list)
    selected: bool = False

    def apdu(self, command: bytes) -> bytes:
        """Answer a command."""
        if command[:4] == bytes.fromhex("00A40400"):
            self.selected = command[5:15] == bytes.fromhex("F0446F6F724772616E74")
            head = b"\x01" + struct.pack(">H", len(self.grant))
            return head + self.grant[:237] + SW_OK if self.selected else SW_NOT_FOUND
        if self.selected and command[:2] == bytes.fromhex("00B0"):
            offset = int.from_bytes(command[2:4], "big")
            return self.grant[offset : offset + 240] + SW_OK
        if self.selected and command[:5] == bytes.fromhex("8010000040"):
            return self._prove(command[5:37], command[37:69])
        return SW_INS_NOT_SUPPORTED

    def _prove(self, reader: bytes, nonce: bytes) -> bytes:
        if self.locked:
            return bytes.fromhex("6985")
        if self.late:
            return b""
        digest = hashes.Hash(hashes.SHA256())
        digest.update(self.grant)
        said = (self.signs_for or reader) + nonce + digest.finalize() + point(self.key)
        context = b"door-gateway/nfc-grant/v1\x00"
        signature = raw_signature(self.signs_with or self.key, context + said)
        proof = self.replays or point(self.key) + signature
        self.proofs.append(proof)
        return proof + SW_OK

    def power_up(self) -> None:
        """The field came back: nothing is selected."""
        self.selected = False


def _simple_tlvs(data: bytes) -> dict[int, bytes]:
    found = {}
    while data:
        found[data[0]] = data[2 : 2 + data[1]]
        data = data[2 + data[1] :]
    return found


@dataclass
class SunTag:
    """An NTAG 424 DNA whose file holds a URL with mirrors (AN12196).

    Attributes:
        uid: Seven bytes.
        url: With `{picc}` and `{mac}` where the tag puts its own.
        picc_key: SDMMetaReadKey.
        mac_key: The tag's own SDMFileReadKey.
        counter: How often it was read.
    """

    uid: bytes
    url: str
    picc_key: bytes
    mac_key: bytes
    random: Callable[[int], bytes]
    counter: int = 0
    selected: bool = False

    def address(self) -> str:
        """The URL at the next reading, which counts one on."""
        self.counter += 1
        count = self.counter.to_bytes(3, "little")
        picc = aes_cbc(self.picc_key, bytes(16), b"\xc7" + self.uid + count + self.random(5))
        vector = bytes.fromhex("3CC300010080") + self.uid + count
        mac = aes_cmac(aes_cmac(self.mac_key, vector), b"")[1::2]
        return self.url.replace("{picc}", picc.hex().upper()).replace("{mac}", mac.hex().upper())

    def apdu(self, command: bytes) -> bytes:
        """Answer a command."""
        if command[:4] == bytes.fromhex("00A40400"):
            self.selected = command[5:-1] == bytes.fromhex("D2760000850101")
            return SW_OK if self.selected else SW_NOT_FOUND
        if command[:2] == b"\x00\xb0" and self.selected and command[2] == 0x84:
            url = self.address().removeprefix("https://")
            payload = b"\x04" + url.encode()
            record = b"\xd1\x01" + bytes([len(payload)]) + b"U" + payload
            file = (struct.pack(">H", len(record)) + record).ljust(256, b"\x00")
            return file[command[3] : command[3] + (command[4] or 256)] + SW_OK
        return SW_CLA_NOT_SUPPORTED if command[:1] == b"\x90" else SW_INS_NOT_SUPPORTED

    def power_up(self) -> None:
        """The field came back: nothing is selected."""
        self.selected = False


def secure_card(
    uid: str,
    *applications: "AliroPhone | DesfireCard | GrantPhone | PkocCard | SunTag",
    frames_left: int | None = None,
    random_uid: Callable[[int], bytes] | None = None,
) -> Card:
    """An ISO/IEC 14443-4 card that has these applications.

    Args:
        uid: Hexadecimal, as the anticollision finds it.
        applications: The first that knows a command answers it.
        frames_left: Pull it away after so many frames of data; None: never.
        random_uid: It shows another random UID each time it gets power.
    """
    octets = bytes.fromhex(uid)

    def apdu(command: bytes) -> bytes:
        answer = SW_INS_NOT_SUPPORTED
        for application in applications:
            answer = application.apdu(command)
            if answer[-2:] not in {SW_NOT_FOUND, SW_INS_NOT_SUPPORTED, SW_CLA_NOT_SUPPORTED}:
                break
        return answer

    def power_up() -> None:
        for application in applications:
            application.power_up()
        if random_uid is not None:
            made.uid = b"\x08" + random_uid(3)

    made = Card(
        uid=octets,
        atqa=0x0344 if len(octets) == 7 else 0x0304,
        sak=0x20,
        apdu=apdu,
        frames_left=frames_left,
        powered=power_up,
    )
    return made
