"""Which technologies a reader tries, in order, from what its driver told its worker."""

import importlib
import pkgutil
from collections.abc import Callable, Generator, Iterable, Mapping
from typing import Any

import cryptography.hazmat.backends
import cryptography.hazmat.primitives

from . import GrantProof, NotThisCard, ProofRefused, Technology
from .aliro import Aliro, private_key
from .desfire import Desfire, Key
from .grant import Grant
from .pkoc import Pkoc
from .sun import Keys, Sun, Template


def preload() -> None:
    """Load what `cryptography` would load at the first card: a worker that is locked in can't."""
    for package in (cryptography.hazmat.backends, cryptography.hazmat.primitives):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            importlib.import_module(module.name)


def technologies(told: Mapping[str, Any], random: Callable[[int], bytes]) -> list[Technology]:
    """The technologies in the order of `credentials`; what each is told stands under its name.

    Bytes are hex digits. `gateway/drivers/card_settings.py` makes this of a site's file.
    """
    makers = {
        "aliro": _aliro,
        "desfire": _desfire,
        "grant": _grant,
        "pkoc": _pkoc,
        "sun": _sun,
    }
    return [makers[name](told[name], random) for name in told["credentials"] if name in makers]


def read(tried: Iterable[Technology], uid: bytes) -> Generator[bytes, bytes, str | None]:
    """Talk to a card: how what came of it is said to the driver, or None where nothing fits.

    A card that has an application and didn't prove itself is asked for nothing weaker.
    """
    for technology in tried:
        try:
            proven = yield from technology.read(uid)
        except NotThisCard:
            continue
        except ProofRefused as refused:
            return f"X {refused.kind} {refused.why}"
        if isinstance(proven, GrantProof):
            return f"G {' '.join(part.hex() for part in proven)}"
        counter = "-" if proven.counter is None else proven.counter
        return f"P {proven.kind} {proven.value} {counter}"
    return None


def _aliro(told: Mapping[str, Any], random: Callable[[int], bytes]) -> Technology:
    key = private_key(_bytes(told["reader_key"]))
    return Aliro(_bytes(told["reader_identifier"]), key, random)


def _desfire(told: Mapping[str, Any], random: Callable[[int], bytes]) -> Technology:
    extra, uid_key = told["diversification"], told["uid_key"]
    return Desfire(
        aid=told["aid"],
        ev2=told["ev2"],
        key=Key(told["key_number"], _bytes(told["key"])),
        file=told["file"],
        offset=told["id_offset"],
        length=told["id_bytes"],
        diversification=None if extra is None else _bytes(extra),
        uid_key=None if uid_key is None else Key(told["uid_key_number"], _bytes(uid_key)),
        random=random,
    )


def _grant(told: Mapping[str, Any], random: Callable[[int], bytes]) -> Technology:
    return Grant(_bytes(told["reader_identifier"]), random)


def _pkoc(told: Mapping[str, Any], random: Callable[[int], bytes]) -> Technology:
    issuers = {name: _bytes(key) for name, key in told["issuers"].items()}
    return Pkoc(_bytes(told["reader_identifier"]), issuers, random)


def _sun(told: Mapping[str, Any], random: Callable[[int], bytes]) -> Technology:
    del random  # the tag's counter makes each message new
    keys = Keys(*(_bytes(told[name]) for name in ("picc_key", "mac_key", "diversification")))
    return Sun(Template(told["url"]), keys)


def _bytes(digits: str) -> bytes:
    return bytes.fromhex(digits)
