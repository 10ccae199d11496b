"""What a secure card costs: commands, bytes, the floor of air and line, and our part of it.

The simulated cards answer at once and the line is a pseudo-terminal, so what is measured is the
gateway's own work: the worker's cryptography, nfcpy, the processes between. The floors are worked
out from the bytes that were really exchanged.
"""

import asyncio
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import msgspec
from cryptography.hazmat.primitives.asymmetric import ec

from bench.results import Figure, Result, Spread, figure, spread
from gateway.clock import SystemClock
from gateway.domain.facts import CredentialPresented, DeviceOnline, Fact
from gateway.drivers.pn532 import Pn532, Pn532Settings
from hwsim.cards import Card, card
from hwsim.secure_cards import (
    AliroPhone,
    DesfireCard,
    GrantPhone,
    PkocCard,
    SunTag,
    an10922,
    pkoc_certificate,
    point,
    secure_card,
)
from hwsim.site import Site, running_site

CONFIG = Path(__file__).parents[1] / "config" / "site.toml"
READER = "street-reader"
TAPS, QUICK_TAPS = 40, 10
HOLD_S, AWAY_S = 0.08, 0.45

BIT_US = 1e6 / 106_000
FRAME_US = 2 * BIT_US + 1172 / 13.56
"""Start and end of a frame and the least wait before the answer (ISO/IEC 14443-3, 6.2.1)."""
ACTIVATION_US = 5 * FRAME_US + (2 + 3 + 9 + 9 + 2 + 8) * 9 * BIT_US
"""Request, two cascade levels and RATS, with their answers."""
BLOCK_BYTES = 1 + 2
"""A block's PCB and CRC (ISO/IEC 14443-4, 7.1)."""
LINE_BYTES = 2 * 10 + 6
"""InDataExchange, the chip's ACK and its reply around the data (UM0701-02, 6.2.1)."""
BAUD_RATES = (115_200, 921_600)

KEY, UID = bytes(range(16)), bytes.fromhex("04782E21801D80")
AID, SYSTEM = bytes.fromhex("4088F5"), b"LON"
SUBJECT, ISSUER = (ec.derive_private_key(secret, ec.SECP256R1()) for secret in (7, 8))
GROUP_KEY = KEY + KEY
GRANT_BYTES = 195
"""A grant for one door, as tests/drivers/test_grant_phone.py makes it."""
URL = "https://tap.example.com/t?e={picc}&c={mac}"


class Exchanged(NamedTuple):
    """One command and its answer, in bytes."""

    command: int
    answer: int


def desfire() -> Card:
    keys = {1: an10922(KEY, UID + SYSTEM), 2: KEY}
    made = DesfireCard(UID, AID, keys, {1: bytes(8)}, 1, random.Random(1).randbytes)
    return secure_card(UID.hex(), made)


def hidden_desfire() -> Card:
    made = desfire()
    made.uid = bytes.fromhex("08112233")
    return made


def pkoc() -> Card:
    return secure_card("08112233", PkocCard(SUBJECT))


def certified() -> Card:
    return secure_card("08112233", PkocCard(SUBJECT, pkoc_certificate(point(SUBJECT), ISSUER)))


def aliro() -> Card:
    group = ec.derive_private_key(int.from_bytes(GROUP_KEY, "big"), ec.SECP256R1())
    return secure_card("08112233", AliroPhone(SUBJECT, point(group), ISSUER))


def grant() -> Card:
    return secure_card("08112233", GrantPhone(SUBJECT, bytes(GRANT_BYTES)))


def sun() -> Card:
    return secure_card(
        UID.hex(), SunTag(UID, URL, KEY, an10922(KEY, UID + SYSTEM), random.Random(1).randbytes)
    )


DESFIRE = {
    "aid": "F58840", "authentication": "ev2", "key_number": 1, "file": 1, "id_bytes": 8,
    "key": "KEY", "uid_key": "KEY", "uid_key_number": 2, "diversification": SYSTEM.hex().upper(),
}  # fmt: skip
PKOC = {"reader_identifier": "00" * 32}
ALIRO = PKOC | {"reader_key": "GROUP_KEY"}
ISSUERS = {"issuers": {"ISSUER0000000001": point(ISSUER).hex()}}
SUN = {"url": URL, "picc_key": "KEY", "mac_key": "KEY", "diversification": SYSTEM.hex().upper()}

KEY_FILES = {"KEY": KEY, "GROUP_KEY": GROUP_KEY}

KINDS: dict[str, tuple[dict[str, Any], Callable[[], Card]]] = {
    "uid": ({}, lambda: card(UID.hex())),
    "sun": ({"credentials": ["sun"], "sun": SUN}, sun),
    "pkoc": ({"credentials": ["pkoc"], "pkoc": PKOC}, pkoc),
    "carried grant": ({"credentials": ["grant"], "grant": PKOC}, grant),
    "aliro": ({"credentials": ["aliro"], "aliro": ALIRO}, aliro),
    "pkoc, certified": ({"credentials": ["pkoc"], "pkoc": PKOC | ISSUERS}, certified),
    "desfire EV2": ({"credentials": ["desfire"], "desfire": DESFIRE}, desfire),
    "desfire EV1": (
        {"credentials": ["desfire"], "desfire": DESFIRE | {"authentication": "ev1"}},
        desfire,
    ),
    "desfire EV2, random UID": ({"credentials": ["desfire"], "desfire": DESFIRE}, hidden_desfire),
}


async def measure(*, quick: bool, full: bool) -> Result:
    """The whole measurement."""
    del full  # it has no larger size
    spreads: list[Spread] = []
    figures: list[Figure] = []
    with TemporaryDirectory() as name:
        directory = Path(name)
        for file, key in KEY_FILES.items():
            (directory / file).write_text(key.hex())
            (directory / file).chmod(0o400)
        async with running_site(CONFIG, directory / "site") as site:
            for kind, (settings, made) in KINDS.items():
                placed = {
                    each: {
                        m: str(directory / v) if str(v) in KEY_FILES else v
                        for m, v in value.items()
                    }
                    if isinstance(value, dict)
                    else value
                    for each, value in settings.items()
                }
                found = await _kind(site, placed, made, QUICK_TAPS if quick else TAPS)
                exchanged = found.exchanged
                spreads.append(spread(f"{kind}: found to last byte", "ms", found.talked))
                spreads.append(spread(f"{kind}: last byte to fact", "ms", found.told))
                figures.append(figure(f"{kind}: commands", len(exchanged), "commands"))
                figures.append(figure(f"{kind}: floor of the air", _air_ms(exchanged), "ms"))
                figures += [
                    figure(f"{kind}: floor of the line at {baud}", _line_ms(exchanged, baud), "ms")
                    for baud in BAUD_RATES
                ]
    return Result(
        "cards",
        "A card's conversation with the worker, and from its last byte to the fact in the core.",
        spreads,
        figures,
        [
            (
                "Floors: ISO/IEC 14443 at 106 kbit/s with the shortest waits, activation included; "
                "the chip's serial line with its frames. What a real card computes comes on top."
            ),
            "Measured on a pseudo-terminal: no air, no line, cards that answer at once.",
        ],
    )


class Found(NamedTuple):
    """What the taps of one kind took."""

    talked: list[float]
    told: list[float]
    exchanged: list[Exchanged]


async def _kind(site: Site, settings: dict[str, Any], made: Callable[[], Card], taps: int) -> Found:
    port = site.rewritten_config()["devices"][READER]["port"]
    reader = msgspec.convert({"port": port, **settings}, Pn532Settings)
    found = Found([], [], [])
    online = asyncio.Event()

    def take(fact: Fact) -> None:
        now_ms = time.monotonic_ns() / 1e6
        if isinstance(fact, DeviceOnline):
            online.set()
        if isinstance(fact, CredentialPresented):
            at_ms = fact.at.total_seconds() * 1e3
            began_ms = at_ms if fact.began is None else fact.began.total_seconds() * 1e3
            found.talked.append(at_ms - began_ms)
            found.told.append(now_ms - at_ms)

    driver = Pn532(READER, reader, SystemClock(floor=None, vouched=lambda: True))
    running = asyncio.create_task(driver.run(take))
    try:
        async with asyncio.timeout(10):
            await online.wait()
        for _ in range(taps):
            shown = made()
            with _counted(shown, found.exchanged):
                await site.present_cards(READER, [shown], HOLD_S)
            await asyncio.sleep(AWAY_S)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    assert len(found.told) == taps, f"{len(found.told)} of {taps} taps were read"
    return found._replace(exchanged=found.exchanged[: len(found.exchanged) // taps])


@contextmanager
def _counted(shown: Card, into: list[Exchanged]) -> Iterator[None]:
    answer_to = shown.apdu

    def counted(command: bytes) -> bytes:
        answer = answer_to(command)
        into.append(Exchanged(len(command), len(answer)))
        return answer

    shown.apdu = counted
    yield


def _air_ms(exchanged: list[Exchanged]) -> float:
    count = sum(sum(each) + 2 * BLOCK_BYTES for each in exchanged)
    return (ACTIVATION_US + count * 9 * BIT_US + 2 * len(exchanged) * FRAME_US) / 1000


def _line_ms(exchanged: list[Exchanged], baud_rate: int) -> float:
    # The card's own listing is 30 bytes.
    count = 30 + sum(sum(each) + LINE_BYTES for each in exchanged)
    return count * 10 * 1000 / baud_rate
