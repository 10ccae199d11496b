"""AES-128 as NXP's cards use it, and the keys of one card from the key of all."""

from typing import Final

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CBC
from cryptography.hazmat.primitives.cmac import CMAC

BLOCK: Final = 16
ZERO: Final = bytes(BLOCK)


def encrypt(key: bytes, data: bytes, iv: bytes = ZERO) -> bytes:
    """AES-128-CBC; `data` is whole blocks."""
    encryptor = Cipher(AES(key), CBC(iv)).encryptor()
    return encryptor.update(data) + encryptor.finalize()


def decrypt(key: bytes, data: bytes, iv: bytes = ZERO) -> bytes:
    """AES-128-CBC; `data` is whole blocks."""
    decryptor = Cipher(AES(key), CBC(iv)).decryptor()
    return decryptor.update(data) + decryptor.finalize()


def cmac(key: bytes, data: bytes) -> bytes:
    """NIST SP 800-38B."""
    made = CMAC(AES(key))
    made.update(data)
    return made.finalize()


def truncated(mac: bytes) -> bytes:
    """The eight bytes of a MAC that go over the air (AN12343, 7.1.4): every second one."""
    return mac[1::2]


def diversified(key: bytes, material: bytes) -> bytes:
    """The card's own key (AN10922, 2.2): `material` is its UID and what names the application.

    Raises:
        ValueError: `material` has not 1 to 31 bytes.
    """
    if not 1 <= len(material) <= 31:
        raise ValueError("AN10922 takes 1 to 31 bytes")
    if len(material) >= BLOCK:
        return cmac(key, b"\x01" + material)
    return _one_block_padded(key, b"\x01" + material)


def _one_block_padded(key: bytes, message: bytes) -> bytes:
    # AN10922 always works on 32 bytes: a message of at most one block gets a second one of zeros,
    # and the padding's subkey with it.
    padded = (message + b"\x80").ljust(2 * BLOCK, b"\x00")
    return encrypt(key, padded[:BLOCK] + _with_padding_key(key, padded[BLOCK:]))[BLOCK:]


def chained_cmac(key: bytes, iv: bytes, message: bytes) -> bytes:
    """CMAC of less than a block, begun with `iv` instead of zeros."""
    return encrypt(key, _with_padding_key(key, (message + b"\x80").ljust(BLOCK, b"\x00")), iv)


def _with_padding_key(key: bytes, block: bytes) -> bytes:
    subkey = _doubled(_doubled(encrypt(key, ZERO)))
    return bytes(a ^ b for a, b in zip(block, subkey, strict=True))


def _doubled(block: bytes) -> bytes:
    # Multiplication by x in GF(2^128), SP 800-38B, 6.1.
    number = int.from_bytes(block, "big") << 1
    if number >> 128:
        number ^= (1 << 128) | 0x87
    return number.to_bytes(BLOCK, "big")
