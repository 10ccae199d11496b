"""Conversations with secure cards: published bytes, an independent peer, and cards that lie."""

import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from desfire import DESFire, DESFireKey
from desfire.devices.base import Device
from desfire.enums import DESFireCommunicationMode, DESFireFileType, DESFireKeyType
from desfire.schemas import FileSettings, KeySettings
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.drivers.cards import Conversation, NotThisCard, ProofRefused, Proven
from gateway.drivers.cards.aes import decrypt, diversified
from gateway.drivers.cards.aliro import Aliro, Transcript, private_key, shared_key
from gateway.drivers.cards.desfire import Desfire, Ev1, Ev2, Key
from gateway.drivers.cards.p256 import verifies
from gateway.drivers.cards.pkoc import Pkoc
from gateway.drivers.cards.sun import Keys, Message, Sun, Template, mac_of, proven
from hwsim.secure_cards import (
    AliroPhone,
    DesfireCard,
    PkocCard,
    SunTag,
    an10922,
    pkoc_certificate,
    point,
)

GOLDEN: dict[str, Any] = tomllib.loads(
    (Path(__file__).parents[1] / "golden" / "cards.toml").read_text()
)
EV1, EV2, FULL = (GOLDEN["desfire"][name] for name in ("ev1", "ev2", "full"))
UID = bytes.fromhex("04782E21801D80")
AID = bytes.fromhex("4088F5")
MASTER, UID_KEY = bytes(range(16)), bytes(range(16, 32))
SYSTEM = bytes.fromhex("F588404C4F4E")
IDENTITY = bytes.fromhex("0123456789ABCDEF")
URL = "https://tap.example.com/t?e={picc}&c={mac}"


def of(text: str) -> bytes:
    return bytes.fromhex(text)


def randomly(seed: int = 1) -> Callable[[int], bytes]:
    return Random(seed).randbytes


def talk(conversation: Conversation, card: Callable[[bytes], bytes]) -> tuple[Proven, int]:
    """Let both talk; what was proven, and in how many commands."""
    command = next(conversation)
    for count in range(1, 100):
        try:
            command = conversation.send(card(command))
        except StopIteration as done:
            return done.value, count
    raise AssertionError("no end")


def refusal(conversation: Conversation, card: Callable[[bytes], bytes]) -> str:
    with pytest.raises(ProofRefused) as refused:
        talk(conversation, card)
    return refused.value.why


class Script:
    """A card that answers what was published, to what was published only."""

    def __init__(self, commands: list[str], answers: list[str]) -> None:
        self._left = [(of(a), of(b)) for a, b in zip(commands, answers, strict=True)]

    def __call__(self, command: bytes) -> bytes:
        expected, answer = self._left.pop(0)
        assert command.hex() == expected.hex()
        return answer


# --- Keys ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("derive", [diversified, an10922], ids=["driver", "simulator"])
def test_a_published_key_is_diversified_as_published(derive: Any) -> None:
    golden = GOLDEN["diversification"]
    assert derive(of(golden["key"]), of(golden["material"])) == of(golden["diversified"])


def test_both_ends_diversify_every_length_alike() -> None:
    for length in range(1, 32):
        assert diversified(MASTER, bytes(range(length))) == an10922(MASTER, bytes(range(length)))
    for length in (0, 32):
        with pytest.raises(ValueError, match="1 to 31"):
            diversified(MASTER, bytes(length))


# --- DESFire, published bytes --------------------------------------------------------------------


def desfire(**changes: Any) -> Desfire:
    made = Desfire(
        aid="F58840", ev2=True, key=Key(2, MASTER), file=1, offset=0, length=8,
        diversification=SYSTEM, uid_key=Key(3, UID_KEY), random=randomly(),
    )  # fmt: skip
    return made._replace(**changes)


@pytest.mark.parametrize("golden", [EV1, *EV2], ids=lambda golden: str(golden["source"]))
def test_a_published_handshake_gives_the_published_session(golden: dict[str, Any]) -> None:
    ev2 = "mac_key" in golden
    key, rnd_a = of(golden["key"]), of(golden["rnd_a"])
    reader = desfire(ev2=ev2, random=lambda _size: rnd_a)
    conversation = reader._authenticate(Key(0, key))
    script = Script(golden["commands"], golden["answers"])
    command = next(conversation)
    command = conversation.send(script(command))
    with pytest.raises(StopIteration) as done:
        conversation.send(script(command))
    session = done.value.value
    if ev2:
        assert session.encryption_key == of(golden["encryption_key"])
        assert session.mac_key == of(golden["mac_key"])
    else:
        assert session.key == of(golden["session_key"])


@pytest.mark.parametrize("golden", [EV1, *EV2], ids=lambda golden: str(golden["source"]))
def test_the_simulated_card_answers_a_published_handshake_as_published(
    golden: dict[str, Any],
) -> None:
    key = of(golden["key"])
    drawn = [
        decrypt(key, of(golden["answers"][0])[:16]),
        decrypt(key, of(golden["answers"][1])[:-2])[:4],
    ]
    card = DesfireCard(UID, AID, {0: key}, {}, 0, random=lambda _size: drawn.pop(0))
    card.selected = True
    for command, answer in zip(golden["commands"], golden["answers"], strict=True):
        assert card.apdu(of(command)).hex() == of(answer).hex()


@pytest.mark.parametrize("golden", FULL, ids=lambda golden: str(golden["source"]))
def test_a_published_command_in_full_mode_is_made_and_answered_as_published(
    golden: dict[str, Any],
) -> None:
    session = Ev2(bytes(16), bytes(16), bytes(16), of(golden["transaction"]))
    session.encryption_key, session.mac_key = of(golden["encryption_key"]), of(golden["mac_key"])
    session.counter = golden["counter"]
    command = session.command(golden["code"], of(golden["header"]))
    assert command.hex() == of(golden["command"]).hex()
    length = 7 if golden["code"] == 0x51 else 48
    plain = session.answer(of(golden["answer"]), length)
    if "plain" in golden:
        assert plain == of(golden["plain"])
    else:
        assert not any(plain[25:])


# --- DESFire, the driver against the card, and a peer against the card ---------------------------


def desfire_card(**changes: Any) -> DesfireCard:
    made = DesfireCard(
        uid=UID, aid=AID, files={1: IDENTITY.ljust(32, b"\x00")}, read_key=2, random=randomly(2),
        keys={2: an10922(MASTER, UID + SYSTEM), 3: UID_KEY},
    )  # fmt: skip
    for name, value in changes.items():
        setattr(made, name, value)
    return made


@pytest.mark.parametrize("ev2", [True, False], ids=["EV2", "EV1"])
def test_an_id_is_read_in_four_commands_or_in_seven_from_behind_a_random_uid(ev2: bool) -> None:
    card = desfire_card(ev1_only=not ev2)
    expected = Proven("desfire", "F58840:0123456789ABCDEF")
    assert talk(desfire(ev2=ev2).read(UID), card.apdu) == (expected, 4)
    assert talk(desfire(ev2=ev2).read(of("08112233")), card.apdu) == (expected, 7)


@pytest.mark.parametrize("ev2", [True, False], ids=["EV2", "EV1"])
@pytest.mark.parametrize("length", [1, 11, 12, 13, 15, 16, 28, 32])
def test_an_id_of_every_length_is_read(ev2: bool, length: int) -> None:
    content = randomly(length)(40)
    card = desfire_card(files={1: content})
    proven, _ = talk(desfire(ev2=ev2, length=length, offset=3).read(UID), card.apdu)
    assert proven.value == f"F58840:{content[3 : 3 + length].hex().upper()}"


@pytest.mark.parametrize("ev2", [True, False], ids=["EV2", "EV1"])
@pytest.mark.parametrize(
    ("reader", "card", "why"),
    [
        ({"key": Key(2, bytes(16))}, {}, "wrong_key"),
        ({"key": Key(7, MASTER)}, {}, "no_such_key"),
        ({"file": 9}, {}, "no_such_file"),
        ({"length": 32, "offset": 8}, {}, "no_such_file"),
        ({"diversification": None}, {}, "wrong_key"),
        ({}, {"keys": {2: MASTER}}, "wrong_key"),
        ({}, {"read_key": 3}, "no_such_file"),
    ],
)
def test_a_card_of_ours_with_another_key_or_file_is_refused(
    ev2: bool, reader: Any, card: Any, why: str
) -> None:
    assert refusal(desfire(ev2=ev2, **reader).read(UID), desfire_card(**card).apdu) == why


def test_a_random_uid_needs_the_key_that_opens_the_real_one() -> None:
    reader = desfire(uid_key=None)
    assert refusal(reader.read(of("08112233")), desfire_card().apdu) == "random_uid"
    undiversified = desfire_card(keys={2: MASTER})
    assert talk(desfire(diversification=None).read(of("08112233")), undiversified.apdu)[1] == 4


def test_a_card_copied_with_its_uid_and_file_but_not_its_key_is_refused() -> None:
    copied = desfire_card(keys={2: bytes(16), 3: bytes(16)})
    for uid in (UID, of("08112233")):
        assert refusal(desfire().read(uid), copied.apdu) == "wrong_key"


def test_an_ev1_is_no_ev2_and_nothing_weaker_is_tried() -> None:
    card = desfire_card(ev1_only=True)
    assert refusal(desfire(ev2=True).read(UID), card.apdu) == "no_such_key"
    assert card.commands == [0x5A, 0x71]


@pytest.mark.parametrize("ev2", [True, False], ids=["EV2", "EV1"])
def test_an_answer_played_back_opens_nothing(ev2: bool) -> None:
    card, heard = desfire_card(), list[bytes]()

    def overheard(command: bytes) -> bytes:
        heard.append(card.apdu(command))
        return heard[-1]

    talk(desfire(ev2=ev2).read(UID), overheard)
    again = iter(heard)
    reader = desfire(ev2=ev2, random=randomly(99))
    assert refusal(reader.read(UID), lambda _command: next(again)) == "wrong_key"


@pytest.mark.parametrize("ev2", [True, False], ids=["EV2", "EV1"])
@settings(max_examples=40)
@given(st.data())
def test_no_change_of_any_answer_gives_another_id(ev2: bool, data: st.DataObject) -> None:
    card = desfire_card()
    which = data.draw(st.integers(0, 3))
    numbers = iter(range(10))

    def changed(command: bytes) -> bytes:
        answer = card.apdu(command)
        if next(numbers) != which:
            return answer
        flips = data.draw(st.binary(min_size=len(answer), max_size=len(answer)))
        answer = bytes(a ^ b for a, b in zip(answer, flips, strict=True))
        return answer[: data.draw(st.integers(0, len(answer)))]

    try:
        proven, _ = talk(desfire(ev2=ev2).read(UID), changed)
    except (ProofRefused, NotThisCard):
        return
    assert proven.value == "F58840:0123456789ABCDEF"


@pytest.mark.parametrize("answer", ["", "90", "6A82", "6E00", "91A0", "6D00"])
def test_other_cards_are_not_this_card(answer: str) -> None:
    for technology in (desfire(), aliro(), pkoc(), sun()):
        with pytest.raises(NotThisCard):
            talk(technology.read(UID), lambda _command: of(answer))


class Wire(Device):  # type: ignore[misc]
    """The peer's line to the simulated card, native commands."""

    def __init__(self, card: DesfireCard) -> None:
        self._card = card

    def transceive(self, bytes: list[int]) -> list[int]:
        return list(self._card.apdu(memoryview(bytearray(bytes)).tobytes()))


def test_the_simulated_card_is_an_ev1_to_an_independent_reader() -> None:
    content = IDENTITY + of("11223344556677FF")
    card = desfire_card(ev1_only=True, files={1: content})
    peer = DESFire(Wire(card))
    peer.select_application(AID.hex())
    for number, key in card.keys.items():
        made = DESFireKey(KeySettings(key_type=DESFireKeyType.DF_KEY_AES), key)
        peer.authenticate(number, made)
        assert bytes(peer.get_real_uid()) == UID
    made = DESFireKey(KeySettings(key_type=DESFireKeyType.DF_KEY_AES), card.keys[2])
    peer.authenticate(2, made)
    kept = FileSettings(
        file_type=DESFireFileType.MDFT_STANDARD_DATA_FILE,
        encryption=DESFireCommunicationMode.ENCRYPTED,
        file_size=len(content),
    )
    assert bytes(peer.read_file_data(1, kept)) == content


# --- PKOC ----------------------------------------------------------------------------------------

SUBJECT, ISSUER, STRANGER = (ec.derive_private_key(secret, ec.SECP256R1()) for secret in (7, 8, 9))
READER = of("5353535353535353535353535353535372727272727272727272727272727272")
ISSUERS = {"ISSUER0000000001": point(ISSUER)}


def pkoc(**changes: Any) -> Pkoc:
    return Pkoc(READER, random=randomly(3))._replace(**changes)


def test_a_key_is_proven_in_two_commands_that_name_the_reader() -> None:
    card = PkocCard(SUBJECT)
    expected = Proven("pkoc", point(SUBJECT).hex().upper())
    assert talk(pkoc().read(UID), card.apdu) == (expected, 2)
    assert card.readers == [READER]
    assert len(expected.value) == 130
    assert expected.value.startswith("04")


def test_the_commands_are_those_of_the_reference_reader() -> None:
    # smithee-solutions/openpkoc, src/obtest-pkoc.c with XTN_IDENT_TEST: site 'S', reader 'r'.
    conversation = pkoc(random=lambda size: b"\x17" * size).read(UID)
    assert next(conversation).hex() == "00a4040008a00000089800000100"
    command = conversation.send(of("5C0201009000"))
    assert command.hex() == (
        "80800001385c0201004c10" + "17" * 16 + "4d20" + "53" * 16 + "72" * 16 + "00"
    )


def test_a_certified_key_is_proven_in_five_commands_and_never_by_less() -> None:
    certificate = pkoc_certificate(point(SUBJECT), ISSUER)
    reader = pkoc(issuers=ISSUERS)
    expected = Proven("pkoc", point(SUBJECT).hex().upper())
    assert talk(reader.read(UID), PkocCard(SUBJECT, certificate).apdu) == (expected, 5)
    forged = pkoc_certificate(point(SUBJECT), STRANGER)
    unknown = pkoc_certificate(point(SUBJECT), ISSUER, "ISSUER0000000002")
    tampered = certificate.replace(b"SUBJECT000000001", b"SUBJECT000000002")
    stolen = pkoc_certificate(point(STRANGER), ISSUER)
    off_curve = pkoc_certificate(b"\x04" + bytes(64), ISSUER)
    for other, why in (
        (b"", "no_certificate"),
        (forged, "unknown_issuer"),
        (unknown, "unknown_issuer"),
        (tampered, "unknown_issuer"),
        (stolen, "not_authentic"),
        (off_curve, "not_authentic"),
        (certificate[:-1], "malformed"),
    ):
        assert refusal(reader.read(UID), PkocCard(SUBJECT, other).apdu) == why


def answered(*answers: str) -> Callable[[bytes], bytes]:
    left: Iterator[str] = iter(answers)
    return lambda _command: of(next(left))


def test_a_signature_for_another_transaction_or_by_another_key_is_refused() -> None:
    heard = list[bytes]()

    def overheard(command: bytes) -> bytes:
        heard.append(card.apdu(command))
        return heard[-1]

    card = PkocCard(SUBJECT)
    talk(pkoc().read(UID), overheard)
    again = iter(heard)
    late = pkoc(random=randomly(4)).read(UID)
    assert refusal(late, lambda _command: next(again)) == "not_authentic"
    swapped = heard[1].replace(point(SUBJECT), point(STRANGER))
    assert refusal(pkoc().read(UID), answered(heard[0].hex(), swapped.hex())) == "not_authentic"


@pytest.mark.parametrize(
    ("answers", "why"),
    [
        (["9000"], "malformed"),
        (["5C01019000"], "malformed"),
        (["5C0201009000", "6F00"], "declined"),
        (["5C0201009000", "9000"], "malformed"),
        (["5C0201009000", "5A419000"], "malformed"),
        (["5C0201009000", "5A4104" + "00" * 64 + "9E40" + "00" * 64 + "9000"], "not_authentic"),
        (["5C0201009000", "5A2103" + "11" * 32 + "9E40" + "00" * 64 + "9000"], "malformed"),
        (["5C0201009000", "5A01005A01009000"], "malformed"),
    ],
)
def test_a_malformed_proof_is_refused_with_its_reason(answers: list[str], why: str) -> None:
    assert refusal(pkoc().read(UID), answered(*answers)) == why


def test_an_answer_without_an_end_is_cut_off() -> None:
    reader = pkoc(issuers=ISSUERS)
    first = [of("5C0201009000"), of("7F63045C0202009000")]
    endless = iter(first)
    assert (
        refusal(reader.read(UID), lambda _command: next(endless, bytes(200) + of("6100")))
        == "malformed"
    )


@given(st.lists(st.binary(max_size=80), min_size=6, max_size=6))
@settings(max_examples=60)
def test_whatever_a_card_answers_only_a_proof_is_one(answers: list[bytes]) -> None:
    for technology in (desfire(), aliro(), pkoc(), pkoc(issuers=ISSUERS), sun()):
        left = iter(answers)
        with pytest.raises((ProofRefused, NotThisCard)):
            talk(technology.read(UID), lambda _command: next(left) + of("9000"))  # noqa: B023


# --- SUN -----------------------------------------------------------------------------------------


def sun(**changes: Any) -> Sun:
    return Sun(Template(URL), Keys(UID_KEY, MASTER, SYSTEM))._replace(**changes)


def sun_tag(**changes: Any) -> SunTag:
    made = SunTag(UID, URL, UID_KEY, an10922(MASTER, UID + SYSTEM), randomly(5))
    for name, value in changes.items():
        setattr(made, name, value)
    return made


def test_the_published_message_opens_to_the_published_uid_and_counter() -> None:
    golden = GOLDEN["sun"]
    opened = decrypt(bytes(16), of(golden["picc"]))
    assert opened[:8] == b"\xc7" + of(golden["uid"])
    assert int.from_bytes(opened[8:11], "little") == golden["counter"]
    for card in (golden | {"picc_key": "00" * 16, "file_key": "00" * 16}, *golden["card"]):
        opened = decrypt(of(card["picc_key"]), of(card["picc"]))
        assert opened[1:8] == of(card["uid"])
        assert int.from_bytes(opened[8:11], "little") == card["counter"]
        assert mac_of(of(card["file_key"]), opened[1:8], opened[8:11]) == of(card["mac"])


def test_the_simulated_tag_makes_the_published_message() -> None:
    golden = GOLDEN["sun"]
    padding = decrypt(bytes(16), of(golden["picc"]))[11:]
    tag = SunTag(of(golden["uid"]), "{picc}/{mac}", bytes(16), bytes(16), lambda _size: padding, 60)
    assert tag.address() == f"{golden['picc']}/{golden['mac']}"


def test_a_tag_is_read_in_two_commands_and_each_reading_counts_one_on() -> None:
    tag = sun_tag()
    for counter in (1, 2, 3):
        expected = Proven("sun", UID.hex().upper(), counter)
        assert talk(sun().read(UID), tag.apdu) == (expected, 2)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"picc_key": bytes(16)}, "wrong_key"),
        ({"mac_key": bytes(16)}, "not_authentic"),
        ({"mac_key": an10922(MASTER, of("04782E21801D81") + SYSTEM)}, "not_authentic"),
    ],
)
def test_a_tag_with_other_keys_is_refused(change: Any, why: str) -> None:
    assert refusal(sun().read(UID), sun_tag(**change).apdu) == why


def test_a_tag_with_another_address_is_somebody_elses() -> None:
    for url in ("https://example.com/{picc}/{mac}", URL.replace("{mac}", "00"), URL + "x"):
        with pytest.raises(NotThisCard):
            talk(sun().read(UID), sun_tag(url=url).apdu)


@pytest.mark.parametrize("url", ["", "https://x/", "{mac}{picc}", "{picc}", "{picc}{picc}{mac}"])
def test_an_address_without_both_mirrors_in_order_is_no_template(url: str) -> None:
    with pytest.raises(ValueError, match="once each"):
        Template(url)


@given(st.binary(min_size=24, max_size=24).filter(any))
@settings(max_examples=50)
def test_no_changed_message_is_believed(flips: bytes) -> None:
    keys = Keys(UID_KEY, MASTER, SYSTEM)
    message = Template(URL).message(sun_tag().address())
    assert message is not None
    changed = bytes(a ^ b for a, b in zip(message.picc + message.mac, flips, strict=True))
    with pytest.raises(ProofRefused):
        proven(Message(changed[:16], changed[16:]), keys)


# --- Aliro ---------------------------------------------------------------------------------------

ALIRO = GOLDEN["aliro"]
GROUP, DEVICE, READER_EPHEMERAL, DEVICE_EPHEMERAL = (
    private_key(of(ALIRO[name]))
    for name in ("reader_key", "device_key", "reader_ephemeral", "device_ephemeral")
)


def aliro(**changed: Any) -> Aliro:
    made = Aliro(
        of(ALIRO["reader_identifier"]), GROUP, lambda _size: of(ALIRO["transaction"]),
        lambda: READER_EPHEMERAL,
    )  # fmt: skip
    return made._replace(**changed)


def phone(**changed: Any) -> AliroPhone:
    made = AliroPhone(DEVICE, point(GROUP), DEVICE_EPHEMERAL)
    for name, value in changed.items():
        setattr(made, name, value)
    return made


def test_the_reference_actuators_transaction_proves_the_devices_key() -> None:
    said = list[bytes]()
    answers = iter(ALIRO["answers"])

    def device(command: bytes) -> bytes:
        said.append(command)
        return of(next(answers))

    expected = Proven("pkoc", point(DEVICE).hex().upper())
    assert talk(aliro().read(UID), device) == (expected, 3)
    select, auth0, auth1 = map(of, ALIRO["commands"])
    assert said[:2] == [select, auth0]
    # The signature in it is another each time; theirs is good as well as ours.
    assert (said[2][:10], said[2][74:]) == (auth1[:10], auth1[74:])
    for command in (auth1, said[2]):
        assert verifies(point(GROUP), command[10:74], of(ALIRO["authenticated"]))


def test_the_reference_actuators_keys_are_derived() -> None:
    transcript = Transcript(
        of(ALIRO["reader_identifier"]), point(GROUP)[1:33], point(READER_EPHEMERAL)[1:33],
        point(DEVICE_EPHEMERAL)[1:33], of(ALIRO["transaction"]), of("A508800200005C020100"),
    )  # fmt: skip
    shared = shared_key(READER_EPHEMERAL, point(DEVICE_EPHEMERAL), transcript.transaction)
    assert shared == of(ALIRO["shared_key"])
    assert transcript.salt() == of(ALIRO["salt"])
    assert transcript.authenticated(of("415D9569")) == of(ALIRO["authenticated"])
    assert transcript.exchange_keys(shared) == tuple(map(of, ALIRO["exchange_keys"]))


def test_the_simulated_phone_answers_the_reference_actuators_reader() -> None:
    device = phone()
    select, auth0, auth1 = (device.apdu(of(command)) for command in ALIRO["commands"])
    assert [select, auth0] == [of(answer) for answer in ALIRO["answers"][:2]]
    # The signatures differ and their last member has two bytes by now: only what is before them.
    key = of(ALIRO["exchange_keys"][1])
    opened = [
        AESGCM(key).decrypt(of("000000000000000100000001"), answer[:-2], None)
        for answer in (auth1, of(ALIRO["answers"][2]))
    ]
    assert opened[0][:69] == opened[1][:69]


@pytest.mark.parametrize(
    ("reader", "device", "why"),
    [
        ({"reader_key": DEVICE}, {}, "declined"),
        ({}, {"signs_with": STRANGER}, "not_authentic"),
        ({}, {"versions": b"\x00\x09"}, "version"),
        ({}, {"versions": b""}, "version"),
    ],
)
def test_a_phone_or_reader_that_is_not_who_it_says_is_refused(
    reader: Any, device: Any, why: str
) -> None:
    assert refusal(aliro(**reader).read(UID), phone(**device).apdu) == why


def test_an_aliro_transaction_played_back_opens_nothing() -> None:
    answers = ALIRO["answers"]
    fresh = aliro(ephemeral=lambda: STRANGER)
    assert refusal(fresh.read(UID), answered(*answers)) == "not_authentic"
    later = aliro(random=bytes)
    assert refusal(later.read(UID), answered(*answers)) == "not_authentic"


@pytest.mark.parametrize(
    "answers",
    [
        ["9000"],
        ["6F029000"],
        [ALIRO["answers"][0], "9000"],
        [ALIRO["answers"][0], "8641" + "04" + "11" * 64 + "9000"],
        [ALIRO["answers"][0], "8621" + "02" + "11" * 32 + "9000"],
    ],
)
def test_a_malformed_aliro_answer_is_refused(answers: list[str]) -> None:
    assert refusal(aliro().read(UID), answered(*answers)) == "malformed"


def test_an_aliro_answer_too_short_to_be_sealed_is_not_authentic() -> None:
    assert (
        refusal(aliro().read(UID), answered(*ALIRO["answers"][:2], "00009000")) == "not_authentic"
    )


def test_nothing_secret_is_in_a_representation() -> None:
    for each in (Key(1, MASTER), Keys(UID_KEY, MASTER, SYSTEM), Proven("sun", "04DE5F1EACC040")):
        assert MASTER.hex() not in repr(each)
        assert str(MASTER) not in repr(each)
        assert "04DE" not in repr(each)
    assert Ev1(bytes(16), bytes(16)).key == bytes(16)
