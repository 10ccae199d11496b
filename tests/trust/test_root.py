"""The key set, rule by rule: those of The Update Framework's root role (specification 1.0, 5.3)."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicNumbers
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
)

from gateway.errors import StorageError
from gateway.trust.cose import encode, parse_document, sign1, signers
from gateway.trust.keys import kid_of, read_private_key, thumbprint, write_key
from gateway.trust.root import (
    ROOT_BYTES_MAX,
    ROOT_CONTEXT,
    Now,
    Roots,
    first_root,
    next_root,
    resets_revision,
)
from gateway.trust.rules import BreaksRule
from tests.trust.keyring import (
    NOON,
    NOON_S,
    NOW,
    ROLE_KEYS,
    document,
    key,
    kid,
    message,
    root,
    root_document,
    root_payload,
)

NEW_ROOTS = {**ROLE_KEYS, "root": ("new-1", "new-2")}


def rule_of(call: Callable[[], object]) -> str:
    with pytest.raises(BreaksRule) as broken:
        call()
    return str(broken.value.rule)


def test_a_thumbprint_is_that_of_the_rfcs_example() -> None:
    # RFC 9679, section 6
    x = "65eda5a12577c2bae829437fe338701a10aaa375e1bb5b5de108de439c08551d"
    y = "1e52ed75701163f7f9e40ddf9f341b3dc9ba860af7e0ca7ca7e9eecd0084d19c"
    key = EllipticCurvePublicNumbers(int(x, 16), int(y, 16), SECP256R1()).public_key()
    expected = "496bd8afadf307e5b08c64b0421bf9dc01528a344a43bda88fadd1669da253ec"
    assert thumbprint(key).hex() == expected
    assert kid_of(key).hex() == expected[:16]


# --- The first root -------------------------------------------------------------------------------


def test_the_first_root_says_who_may_sign_what() -> None:
    found = root()
    assert (found.site, found.version) == ("LON", 1)
    assert found.keys_of("command").keys() == {kid("command-1")}
    assert not found.is_expired(NOW)
    assert found.is_expired(Now(NOON.replace(year=NOON.year + 2), trusted=True))


def _role(name: str, keys: list[bytes], threshold: int) -> dict[str, Any]:
    roles: dict[str, Any] = root_payload()["roles"]
    return {"roles": roles | {name: {"keys": keys, "threshold": threshold}}}


def _without(name: str) -> dict[str, Any]:
    payload = root_payload()
    del payload[name]
    return payload


MALFORMED: dict[str, Any] = {
    "an unknown key": root_payload(colour="red"),
    "a missing key": _without("made"),
    "a role too many": root_payload(roles={**ROLE_KEYS, "console": ("x",)}),
    "a role too few": root_payload(roles={"root": ("root-1", "root-2"), "bundle": ("b",)}),
    "an unknown key in a role": root_payload() | {"roles": {"root": {"keys": [], "who": 1}}},
    "a threshold of none": root_payload() | _role("bundle", [kid("bundle-1")], 0),
    "a threshold above its keys": root_payload() | _role("bundle", [kid("bundle-1")], 2),
    "a key twice, for a threshold": root_payload() | _role("bundle", [kid("bundle-1")] * 2, 2),
    "a role's key that is not there": root_payload() | _role("bundle", [b"12345678"], 1),
    "no key at all": root_payload() | _role("bundle", [], 1),
    "two signatures where a message has one": root_payload()
    | _role("command", [kid("bundle-1"), kid("bundle-2")], 2),
    "a kid of another key": root_payload(keys={kid("root-1"): bytes(32)}),
    "a short key": root_payload(keys={kid("root-1"): bytes(31)}),
    "a version of none": root_payload(0),
    "a version too high": root_payload(2**32),
    "a version that is text": root_payload() | {"version": "1"},
    "a time that is no whole number": root_payload(made=1.5),
    "made after it expires": root_payload(made=NOON_S, expires=NOON_S),
    "no site": root_payload(site=""),
    "no map": [1, 2],
    "no CBOR": b"\xff",
    "CBOR in a longer form": b"\xb8\x00",
}


@pytest.mark.parametrize("what", MALFORMED)
def test_a_malformed_root_is_refused(what: str) -> None:
    data = document(MALFORMED[what], "root-1", "root-2")
    assert rule_of(lambda: first_root(data, "LON")) == "malformed"


@pytest.mark.parametrize(
    ("rule", "data"),
    [
        ("too_large", bytes(ROOT_BYTES_MAX + 1)),
        ("malformed", b""),
        ("malformed", encode([b"x", []])),
        ("malformed", encode([b"x", [b"y"]])),
        ("malformed", encode([b"x"])),
        ("malformed", message(root_payload(), "root-1", ROOT_CONTEXT)),
        ("malformed", document(root_payload(), "root-1", "root-2") + b"\x00"),
        ("threshold", document(root_payload(), "root-1")),
        ("threshold", document(root_payload(), "root-1", "root-1")),
        ("threshold", document(root_payload(), "root-1", "bundle-1")),
        ("unknown_key", document(root_payload(), "stranger")),
        ("bad_signature", document(root_payload(), "root-1", "root-2", context=b"other")),
        ("wrong_site", document(root_payload(site="SOF"), "root-1", "root-2")),
    ],
)
def test_a_root_that_breaks_a_rule_is_refused(rule: str, data: bytes) -> None:
    assert rule_of(lambda: first_root(data, "LON")) == rule


def test_a_strangers_signature_spoils_nothing_and_a_false_one_everything() -> None:
    good = document(root_payload(), "stranger", "root-1", "root-2", "root-2")
    assert first_root(good, "LON").version == 1
    signed = parse_document(good, bytes_max=ROOT_BYTES_MAX)
    assert signers(signed, root().keys_of("root"), context=ROOT_CONTEXT) == {
        kid("root-1"),
        kid("root-2"),
    }
    cut = good.rfind(b"\x58\x40") + 10
    false = good[:cut] + bytes([good[cut] ^ 1]) + good[cut + 1 :]
    assert rule_of(lambda: first_root(false, "LON")) == "bad_signature"


# --- Its successors -------------------------------------------------------------------------------


def test_a_successor_is_signed_by_the_old_root_and_by_its_own() -> None:
    both = document(root_payload(2, NEW_ROOTS), "root-1", "root-2", "new-1", "new-2")
    assert next_root(root(), both).version == 2


@pytest.mark.parametrize(
    ("rule", "data"),
    [
        ("threshold", document(root_payload(2, NEW_ROOTS), "root-1", "new-1", "new-2")),
        ("threshold", document(root_payload(2, NEW_ROOTS), "root-1", "root-2", "new-1")),
        ("unknown_key", document(root_payload(2, NEW_ROOTS), "new-1", "new-2")),
        ("unknown_key", document(root_payload(2, NEW_ROOTS), "root-1", "root-2")),
        ("unknown_key", document(root_payload(2), "bundle-1", "bundle-2")),
        ("missing_base", root_document(3)),
        ("rollback", root_document(1, expires=NOON_S + 7)),
        ("equal", root_document(1)),
        ("wrong_site", root_document(2, site="SOF")),
        ("malformed", b"junk"),
        ("too_large", bytes(ROOT_BYTES_MAX + 1)),
    ],
)
def test_what_may_not_succeed_is_refused(rule: str, data: bytes) -> None:
    assert rule_of(lambda: next_root(root(), data)) == rule


def test_an_older_root_is_refused_though_it_is_well_signed() -> None:
    second = next_root(root(), root_document(2))
    assert rule_of(lambda: next_root(second, root_document(1))) == "rollback"


def test_an_expired_root_is_a_step_to_its_successor() -> None:
    expired = next_root(root(), root_document(2, expires=NOON_S - 1))
    assert expired.is_expired(NOW)
    assert not next_root(expired, root_document(3)).is_expired(NOW)


def test_only_a_whole_new_set_of_bundle_keys_resets_the_revision() -> None:
    def becomes(*names: str) -> bool:
        successor = root_document(2, roles={**ROLE_KEYS, "bundle": names})
        return resets_revision(root(), next_root(root(), successor))

    assert becomes("fresh-1", "fresh-2")
    assert not becomes("fresh-1", "bundle-2")
    assert not becomes("bundle-1")
    assert not becomes(*ROLE_KEYS["bundle"], "one more")


# --- Messages of the other roles ------------------------------------------------------------------


def test_a_message_is_opened_for_its_role_and_its_purpose_only() -> None:
    context = b"door-gateway/beacon/v1"
    sent = message({"a": 1}, "freshness-1", context)
    keys = root()
    assert keys.opened(sent, "freshness", context) == encode({"a": 1})
    assert rule_of(lambda: keys.opened(sent, "freshness", b"other")) == "bad_signature"
    assert rule_of(lambda: keys.opened(sent, "command", context)) == "unknown_key"
    assert rule_of(lambda: keys.opened(sent + b"\x00", "freshness", context)) == "malformed"
    assert rule_of(lambda: keys.opened(bytes(70_000), "freshness", context)) == "too_large"
    typed = sign1(b"", key("freshness-1"), kid("freshness-1"), context=context, content_type="a/b")
    assert rule_of(lambda: keys.opened(typed, "freshness", context)) == "malformed"
    impostor = sign1(b"", key("x"), kid("freshness-1"), context=context)
    assert rule_of(lambda: keys.opened(impostor, "freshness", context)) == "bad_signature"


def test_what_the_new_root_no_longer_names_is_no_longer_believed() -> None:
    context = b"door-gateway/beacon/v1"
    sent = message({}, "freshness-1", context)
    after = next_root(root(), root_document(2, roles={**ROLE_KEYS, "freshness": ("other",)}))
    assert rule_of(lambda: after.opened(sent, "freshness", context)) == "unknown_key"


# --- On disk --------------------------------------------------------------------------------------


def test_the_chain_of_roots_is_followed_again_at_every_start(tmp_path: Path) -> None:
    roots = Roots(root(), tmp_path / "roots")
    assert roots.open() is None
    roots.take(root_document(2))
    roots.take(root_document(3))
    again = Roots(root(), tmp_path / "roots")
    assert again.open() is None
    assert again.current.version == 3
    later = Roots(first_root(root_document(2), "LON"), tmp_path / "roots")
    assert later.open() is None
    assert later.current.version == 3


def test_a_root_that_somebody_put_there_is_not_believed(tmp_path: Path) -> None:
    roots = Roots(root(), tmp_path / "roots")
    roots.open()
    (tmp_path / "roots" / "2.root").write_bytes(document(root_payload(2, NEW_ROOTS), "new-1"))
    again = Roots(root(), tmp_path / "roots")
    assert "unknown_key" in str(again.open())
    assert again.current.version == 1
    assert again.take(root_document(2)).version == 2


def test_a_root_that_cannot_be_kept_is_not_in_force(tmp_path: Path) -> None:
    roots = Roots(root(), tmp_path / "missing" / "roots")
    with pytest.raises(StorageError):
        roots.open()
    with pytest.raises(StorageError):
        roots.take(root_document(2))
    assert roots.current.version == 1


def test_a_key_file_is_its_owners_alone(tmp_path: Path) -> None:
    path = tmp_path / "root-1.pem"
    write_key(path, key("root-1"))
    assert path.stat().st_mode & 0o777 == 0o600
    assert read_private_key(path).private_bytes_raw() == key("root-1").private_bytes_raw()
    with pytest.raises(StorageError, match="exists"):
        write_key(path, key("root-1"))
    path.chmod(0o640)
    with pytest.raises(StorageError, match="others may read"):
        read_private_key(path)


def test_what_is_no_key_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    with pytest.raises(StorageError, match="can't be read"):
        read_private_key(path)
    path.touch(0o600)
    with pytest.raises(StorageError, match="no private key"):
        read_private_key(path)
    locked = Ed25519PrivateKey.generate().private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"password")
    )
    path.write_bytes(locked)
    with pytest.raises(StorageError, match="without a password"):
        read_private_key(path)
