"""Secure cards at a PN532: the real nfcpy, simulated chip and cards, and the worker's process."""

import asyncio
import random
import re
from collections.abc import Callable, Generator
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from gateway.cli import main
from gateway.clock import Clock
from gateway.config.site import check
from gateway.domain.facts import CredentialPresented, CredentialRefused
from gateway.drivers import REGISTRY
from gateway.drivers.card_settings import read_key
from gateway.drivers.cards import reading
from gateway.drivers.pn532 import Pn532, Pn532Protocol, Pn532Settings
from gateway.drivers.pn532_worker import GarbledReplyError, Poller, Target, targets_of
from gateway.errors import ConfigError, DeviceMisconfigured
from hwsim.cards import SW_INS_NOT_SUPPORTED, Card, card
from hwsim.secure_cards import (
    AliroPhone,
    DesfireCard,
    PkocCard,
    SunTag,
    an10922,
    pkoc_certificate,
    point,
    secure_card,
)
from hwsim.site import Site, SiteError, running_site
from tests.drivers.contract import running
from tests.drivers.test_pn532 import ChipLine, Stopped, chipset
from tests.timing import allowed

UID, REAL_UID = "04782E21801D80", bytes.fromhex("04782E21801D80")
MASTER, UID_KEY, PICC_KEY, MAC_KEY = (bytes([number]) * 16 for number in (1, 2, 3, 4))
SYSTEM = bytes.fromhex("F588404C4F4E")
SUBJECT, ISSUER = (ec.derive_private_key(secret, ec.SECP256R1()) for secret in (7, 8))
READER = "53" * 16 + "72" * 16
URL = "https://tap.example.com/t?e={picc}&c={mac}"
IDENTITY = "F58840:0123456789ABCDEF"
PKOC_VALUE = point(SUBJECT).hex().upper()

DESFIRE: dict[str, Any] = {
    "aid": "F58840", "authentication": "ev2", "key_number": 1, "file": 1, "id_bytes": 8,
    "diversification": SYSTEM.hex().upper(), "uid_key_number": 2,
    "key": "/keys/desfire", "uid_key": "/keys/uid",
}  # fmt: skip
PKOC: dict[str, Any] = {"reader_identifier": READER}
SUN: dict[str, Any] = {
    "url": URL, "diversification": "", "picc_key": "/keys/picc", "mac_key": "/keys/mac",
}  # fmt: skip
ALIRO: dict[str, Any] = {"reader_identifier": READER, "reader_key": "/keys/group"}
ALL: dict[str, Any] = {
    "credentials": ["desfire", "aliro", "pkoc", "sun", "uid"],
    "desfire": DESFIRE, "aliro": ALIRO, "pkoc": PKOC, "sun": SUN,
}  # fmt: skip
GROUP_KEY = bytes([5]) * 32
GROUP = ec.derive_private_key(int.from_bytes(GROUP_KEY, "big"), ec.SECP256R1())
KEYS = {
    "desfire": MASTER, "uid": UID_KEY, "picc": PICC_KEY, "mac": MAC_KEY, "group": GROUP_KEY,
}  # fmt: skip


def settings(**changed: Any) -> Pn532Settings:
    return msgspec.convert({"port": "/dev/ttyUSB0", **ALL, **changed}, Pn532Settings)


def with_files(directory: Path, **changed: Any) -> dict[str, Any]:
    """The settings as a site's file has them, their keys in files."""
    for name, key in KEYS.items():
        file = directory / name
        file.write_text(key.hex() + "\n")
        file.chmod(0o400)

    def moved(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: moved(each) for name, each in value.items()}
        return str(directory / value[6:]) if str(value).startswith("/keys/") else value

    return {name: moved(value) for name, value in {**ALL, **changed}.items()}


def desfire(seed: int = 1, **changed: Any) -> DesfireCard:
    made = DesfireCard(
        uid=REAL_UID, aid=bytes.fromhex("4088F5"), read_key=1, random=random.Random(seed).randbytes,
        keys={1: an10922(MASTER, REAL_UID + SYSTEM), 2: UID_KEY},
        files={1: bytes.fromhex("0123456789ABCDEF")},
    )  # fmt: skip
    for name, value in changed.items():
        setattr(made, name, value)
    return made


def sun_tag() -> SunTag:
    return SunTag(REAL_UID, URL, PICC_KEY, an10922(MAC_KEY, REAL_UID), random.Random(3).randbytes)


def told(**changed: Any) -> dict[str, Any]:
    """What the driver tells its worker, with the keys in place of their files."""
    keys = {f"/keys/{name}": key.hex() for name, key in KEYS.items()}

    def opened(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: opened(each) for name, each in value.items()}
        return keys.get(value, value) if isinstance(value, str) else value

    tables = {name: opened(value) for name, value in {**ALL, **changed}.items()}
    tables["desfire"] |= {"ev2": tables["desfire"]["authentication"] == "ev2", "id_offset": 0}
    tables["pkoc"] = {"issuers": {}, **tables["pkoc"]}
    return tables


def reader(**changed: Any) -> Callable[[bytes], Generator[bytes, bytes, str | None]]:
    tried = reading.technologies(told(**changed), random.Random(9).randbytes)
    return lambda uid: reading.read(tried, uid)


Step = Callable[[ChipLine], object]


def polled(*steps: Step, each: int = 20, takes_uids: bool = True, **changed: Any) -> list[str]:
    """What a reader says while `steps` are taken, `each` looks apart; without times."""
    line, said = ChipLine(random.Random(1)), list[str]()
    left = list(steps)
    count = 0

    def wait(seconds: float) -> None:
        nonlocal count
        line.now_ns += int(seconds * 1e9)
        count += 1
        if count % each == 0:
            if not left:
                raise Stopped
            left.pop(0)(line)

    poller = Poller(
        chipset(line), said.append, lambda: line.now_ns, read=reader(**changed),
        takes_uids=takes_uids,
    )  # fmt: skip
    with pytest.raises(Stopped):
        poller.run(wait)
    return [untimed(line) for line in said if line[0] in "UPXR"]


def untimed(line: str) -> str:
    return line.rsplit(" ", 2 if line[0] == "P" else 1)[0]


def put(*cards: Card) -> Step:
    return lambda line: [line.chip.put(each) for each in cards]


def clear(line: ChipLine) -> None:
    line.chip.field.clear()


# --- The reader ----------------------------------------------------------------------------------


def test_each_technology_is_read_through_the_chip_and_once_while_it_stays() -> None:
    tag = secure_card(UID, sun_tag())
    said = polled(
        put(secure_card(UID, desfire())), clear, put(secure_card("08112233", PkocCard(SUBJECT))),
        clear, put(tag), clear, put(tag), clear, put(card("04A1B2C3")), clear,
        put(card("04A1B2C3D4E5F6", iso_dep=True)), clear,
    )  # fmt: skip
    assert said == [
        f"P desfire {IDENTITY} -",
        f"P pkoc {PKOC_VALUE} -",
        f"P sun {UID} 1",
        f"P sun {UID} 2",
        "U 04A1B2C3",
        "U 04A1B2C3D4E5F6",
    ]


def test_a_card_with_another_random_uid_at_each_look_is_one_read() -> None:
    hidden = secure_card("08000000", desfire(), random_uid=random.Random(4).randbytes)
    phone = secure_card("08000000", PkocCard(SUBJECT), random_uid=random.Random(5).randbytes)
    said = polled(put(hidden), lambda _line: None, clear, put(phone), lambda _line: None)
    assert said == [f"P desfire {IDENTITY} -", f"P pkoc {PKOC_VALUE} -"]


def test_two_cards_at_once_are_both_read() -> None:
    said = polled(
        put(secure_card(UID, desfire()), secure_card("04AABBCCDDEEFF", PkocCard(SUBJECT)))
    )
    assert sorted(said) == [f"P desfire {IDENTITY} -", f"P pkoc {PKOC_VALUE} -"]


@pytest.mark.parametrize("frames", range(7))
def test_a_card_pulled_away_in_mid_conversation_proves_nothing_and_is_read_when_it_is_back(
    frames: int,
) -> None:
    # A frame for RATS, four for the conversation.
    gone = secure_card(UID, desfire(), frames_left=frames)
    back = secure_card(UID, desfire())
    said = polled(put(gone), clear, put(back))
    assert said[-1] == f"P desfire {IDENTITY} -"
    assert set(said) == {said[-1]}
    assert len(said) == (2 if frames >= 5 else 1)


def test_what_does_not_prove_itself_is_refused_once_and_its_uid_is_not_taken() -> None:
    liar = Card(uid=REAL_UID, atqa=0x0344, sak=0x20, apdu=liar_apdu)
    said = polled(put(secure_card(UID, desfire(keys={1: MASTER}))), clear, put(liar), clear)
    assert said == ["X desfire wrong_key", "X aliro malformed"]


def liar_apdu(command: bytes) -> bytes:
    if command[:2] == b"\x00\xa4":
        return bytes.fromhex("5C0201009000")
    return bytes.fromhex("6F00") if command[:1] == b"\x80" else SW_INS_NOT_SUPPORTED


def test_a_reader_that_takes_no_uids_takes_no_copy_of_one() -> None:
    said = polled(put(card(UID)), clear, put(card(UID, iso_dep=True)), clear,
                  put(secure_card(UID, desfire())), takes_uids=False)  # fmt: skip
    assert said == ["X uid not_taken", "X uid not_taken", f"P desfire {IDENTITY} -"]


def test_technologies_are_tried_in_the_order_of_the_settings() -> None:
    both = secure_card(UID, desfire(), PkocCard(SUBJECT))
    assert polled(put(both))[0].startswith("P desfire")
    both = secure_card(UID, desfire(), PkocCard(SUBJECT))
    assert polled(put(both), credentials=["pkoc", "desfire"])[0].startswith("P pkoc")


def test_a_certified_key_comes_through_in_pieces() -> None:
    certificate = pkoc_certificate(point(SUBJECT), ISSUER)
    issuers = {"ISSUER0000000001": point(ISSUER).hex()}
    said = polled(
        put(secure_card(UID, PkocCard(SUBJECT, certificate))), clear,
        put(secure_card(UID, PkocCard(SUBJECT))), pkoc={**PKOC, "issuers": issuers},
    )  # fmt: skip
    assert said == [f"P pkoc {PKOC_VALUE} -", "X pkoc no_certificate"]


@pytest.mark.parametrize("rate", [0.001, 0.01])
def test_noise_on_the_line_makes_no_other_card(rate: float) -> None:
    line, said = ChipLine(random.Random(2), rate), list[str]()
    looks = 0

    def wait(seconds: float) -> None:
        nonlocal looks
        line.now_ns += int(seconds * 1e9)
        looks += 1
        if looks % 30 == 0:
            line.chip.field.clear()
        elif looks % 30 == 15:
            line.chip.put(secure_card(UID, desfire(looks)))
        if looks > 600:
            raise Stopped

    while looks <= 600:
        try:
            Poller(chipset(line), said.append, lambda: line.now_ns, read=reader()).run(wait)
        except Stopped:
            break
        except (OSError, IndexError, GarbledReplyError):
            continue
    proofs = {untimed(each) for each in said if each[0] in "PU"}
    assert proofs <= {f"P desfire {IDENTITY} -"}


def test_a_target_with_an_answer_to_select_is_taken_apart() -> None:
    plain = "01 0344 20 07 04782E21801D80".replace(" ", "")
    ats = "067577810280"
    second = "02 0004 08 04 01020304".replace(" ", "")
    reply = bytes.fromhex("02" + plain + ats + second)
    expected = [Target(0x20, REAL_UID), Target(0x08, bytes.fromhex("01020304"))]
    assert targets_of(reply, with_ats=True) == expected
    for bad in ("01" + plain, "01" + plain + "00", "01" + plain + "0775778102"):
        with pytest.raises(GarbledReplyError):
            targets_of(bytes.fromhex(bad), with_ats=True)


# --- The driver ----------------------------------------------------------------------------------


def test_what_the_worker_says_of_cards_becomes_facts() -> None:
    protocol = Pn532Protocol("reader")
    protocol.receive(b"O 1\n")
    said = f"P sun {UID} 61 1000 2000\nP pkoc {PKOC_VALUE} - 1000 3000\nX desfire wrong_key 4000\n"
    sun, pkoc, refused = protocol.receive(said.encode())
    assert isinstance(sun, CredentialPresented)
    assert (sun.kind, sun.value, sun.counter) == ("sun", UID, 61)
    assert (sun.began, sun.at) == (timedelta(microseconds=1), timedelta(microseconds=2))
    assert isinstance(pkoc, CredentialPresented)
    assert (pkoc.kind, pkoc.value, pkoc.counter) == ("pkoc", PKOC_VALUE, None)
    assert isinstance(refused, CredentialRefused)
    assert (refused.kind, refused.why) == ("desfire", "wrong_key")


async def test_the_worker_reads_cards_with_keys_from_files(
    site: Site, clock: Clock, tmp_path: Path
) -> None:
    port = site.rewritten_config()["devices"]["street-reader"]["port"]
    made = msgspec.convert({"port": port, **with_files(tmp_path)}, Pn532Settings)
    async with running(Pn532("street-reader", made, clock)) as run:
        wallet = AliroPhone(SUBJECT, point(GROUP), ec.derive_private_key(9, ec.SECP256R1()))
        for each in (desfire(), PkocCard(SUBJECT), sun_tag(), wallet):
            await site.present_cards("street-reader", [secure_card(UID, each)], 0.1)
            await asyncio.sleep(0.3)
        await site.present_cards(
            "street-reader", [secure_card(UID, desfire(keys={1: MASTER}))], 0.1
        )
        await run.until(lambda facts: isinstance(facts[-1], CredentialRefused))
    assert run.values == [IDENTITY, PKOC_VALUE, UID, PKOC_VALUE]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"credentials": []}, "at least one"),
        ({"credentials": ["pkoc", "pkoc"]}, "once"),
        ({"credentials": ["uid", "pkoc"]}, '"uid" last'),
        ({"credentials": ["nfc"]}, "nfc"),
        ({"credentials": ["pkoc", "sun"]}, "`desfire` must be set up if"),
        ({"desfire": None}, "`desfire` must be set up if"),
        ({"desfire": DESFIRE | {"aid": "f58840"}}, "aid"),
        ({"desfire": DESFIRE | {"authentication": "des"}}, "des"),
        ({"desfire": DESFIRE | {"uid_key_number": None}}, "go together"),
        ({"desfire": DESFIRE | {"diversification": None}}, "of no use"),
        ({"desfire": DESFIRE | {"diversification": "00" * 25}}, "at most 24 bytes"),
        ({"desfire": DESFIRE | {"key": "secret"}}, "key"),
        ({"desfire": DESFIRE | {"id_bytes": 33}}, "id_bytes"),
        ({"pkoc": {"reader_identifier": "00"}}, "reader_identifier"),
        ({"pkoc": PKOC | {"issuers": {"short": point(ISSUER).hex()}}}, "16 characters"),
        ({"pkoc": PKOC | {"issuers": {"I" * 16: "04" + "00" * 64}}}, "no P-256"),
        ({"sun": SUN | {"url": "https://tap.example.com/"}}, "once each"),
        ({"sun": SUN | {"url": "ftp://tap.example.com/{picc}{mac}"}}, "must begin"),
        ({"sun": SUN | {"url": URL + "x" * 60}}, "at most 128"),
    ],
)
def test_impossible_settings_are_named(change: dict[str, Any], says: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=re.escape(says)):
        settings(**change)


@pytest.mark.parametrize(
    ("content", "mode", "says"),
    [
        ("", 0o400, "is no key"),
        ("00" * 15, 0o400, "is no key"),
        ("00" * 17, 0o400, "is no key"),
        ("zz" * 16, 0o400, "is no key"),
        ("00" * 16, 0o444, "others may read"),
        ("00" * 16, 0o420, "others may read"),
    ],
)
def test_a_key_that_is_none_or_others_may_read_is_refused(
    content: str, mode: int, says: str, tmp_path: Path
) -> None:
    file = tmp_path / "key"
    file.write_text(content)
    file.chmod(mode)
    with pytest.raises(DeviceMisconfigured, match=says) as refused:
        read_key(str(file))
    assert not content or content not in str(refused.value)


async def test_a_reader_whose_key_is_missing_says_which(tmp_path: Path, clock: Clock) -> None:
    table = with_files(tmp_path)
    (tmp_path / "mac").unlink()
    made = msgspec.convert({"port": "/dev/null", **table}, Pn532Settings)
    with pytest.raises(DeviceMisconfigured, match=f"{tmp_path}/mac: the key can't be read"):
        await Pn532("reader", made, clock).run(lambda _fact: None)
    assert [member for member, _ in Pn532Settings.missing(made)] == ["sun.mac_key"]


def test_faults_in_a_technologys_table_are_named_with_their_path() -> None:
    with pytest.raises(ConfigError) as error:
        check(
            {"devices": {"r": {"driver": "pn532", "port": "/dev/x", **ALL, "desfire": {"aid": 1}}}},
            REGISTRY, "site.toml",
        )  # fmt: skip
    where = {fault.where for fault in error.value.faults}
    assert {"devices.r.desfire.aid", "devices.r.desfire.key"} <= where


def test_the_example_is_right_and_the_check_names_the_keys_that_are_not_here(
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = Path(__file__).parents[2] / "config" / "secure.toml"
    assert main(["config", "check", str(file)]) == 0
    said = capsys.readouterr().err
    for member in ("suite-reader.desfire.uid_key", "lobby-scanner.sun.mac_key"):
        assert f"warning: devices.{member}: /run/credentials/" in said
    assert said.count("isn't there") == 6


async def test_the_example_reads_the_cards_that_the_simulator_makes_for_it(
    tmp_path: Path, clock: Clock
) -> None:
    file = Path(__file__).parents[2] / "config" / "secure.toml"
    name = "suite-reader"
    async with running_site(file, tmp_path) as site:
        table = site.rewritten_config()["devices"][name]
        made = msgspec.convert({k: v for k, v in table.items() if k != "driver"}, Pn532Settings)
        async with running(Pn532(name, made, clock)) as run:
            for kind in ("desfire", "pkoc", "sun"):
                await site.present_secure(name, kind, "Sam", allowed(0.3))
                await run.until(lambda facts: isinstance(facts[-1], CredentialPresented))
                assert run.values[-1] == await site.secure_value(name, kind, "Sam")
                await asyncio.sleep(0.3)
                await site.present_secure(name, kind, "Sam", allowed(0.3), forged=True)
                await run.until(lambda facts: isinstance(facts[-1], CredentialRefused))
                await asyncio.sleep(0.3)
        assert len(run.values) == 3
        with pytest.raises(SiteError, match=r"no \[devices.suite-reader.aliro\]"):
            await site.present_secure(name, "aliro", "Sam")
