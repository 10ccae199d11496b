"""Every rule by which a bundle is taken, but those that its set shows (tests/cache)."""

import hashlib
import zlib
from collections.abc import Callable
from typing import Any

import cbor2
import pytest

from gateway.domain.canonical import TYPES, SetDigest, bucket_of, canonical, leaf
from gateway.domain.record_forms import FORMS
from gateway.trust.bundle import (
    BUNDLE_CONTEXT,
    DOCUMENT_BYTES_MAX,
    MAGIC,
    Base,
    Changes,
    Chunk,
    Held,
    Manifest,
    Revision,
    SignedManifest,
    check_manifest,
    framed,
    manifest_in,
    pack,
    unframed,
)
from gateway.trust.cose import decode
from gateway.trust.making import Made, delta, digest_of, repair, snapshot
from gateway.trust.root import Now, next_root, opened_document
from gateway.trust.rules import BreaksRule
from tests.cache.conftest import records
from tests.trust.bundles import DIGEST_KEY, GATEWAY, about, canonical_set, document_of
from tests.trust.keyring import NOON, NOON_S, NOW, document, root
from tests.trust.test_root import rule_of

SET = canonical_set(records())
MADE = snapshot(SET, about(7))
DIGEST = digest_of(SET, DIGEST_KEY).digest()
NOTHING = Held(None, None)


def check(data: bytes, held: Held = NOTHING, **how: Any) -> SignedManifest:
    given: dict[str, Any] = {
        "root": root(thresholds={"root": 2, "bundle": how.pop("threshold", 1)}),
        "gateway": GATEWAY,
        "now": NOW,
        "disk_free": 1 << 30,
    }
    given |= how
    return check_manifest(data, given.pop("root"), held, **given)


def payload(**changed: Any) -> dict[str, Any]:
    members: dict[str, Any] = cbor2.loads(MADE.payload)
    members |= changed
    return {name: each for name, each in members.items() if each is not ...}


def sent(*names: str, **changed: Any) -> bytes:
    return document(payload(**changed), *(names or ("bundle-1",)), context=BUNDLE_CONTEXT)


def test_a_good_manifest_passes_and_says_who_signed_it() -> None:
    found = check(document_of(MADE, "bundle-1", "bundle-2", "stranger"))
    assert found.manifest.revision == 7
    assert found.manifest.digest == DIGEST
    assert len(found.signers) == 2


CHUNK = [bytes(32), 100, 100]
YEAR_10000 = 253_402_300_800

BROKEN: list[tuple[str, str, Callable[[], object]]] = [
    ("too_large", "a document over 1 MiB", lambda: check(bytes(1024 * 1024 + 1))),
    ("too_large", "a long chunk", lambda: check(sent(chunks=[[bytes(32), 262_145, 1]]))),
    ("too_large", "a bomb", lambda: check(sent(chunks=[[bytes(32), 9, 4 * 1024 * 1024 + 1]]))),
    (
        "too_large",
        "many bombs",
        lambda: check(sent(chunks=[[bytes([n]) * 32, 9, 1 << 22] for n in range(129)])),
    ),
    ("too_large", "more than the disk has", lambda: check(sent(), disk_free=10)),
    ("malformed", "no CBOR", lambda: check(b"junk")),
    ("malformed", "truncated", lambda: check(sent()[:-1])),
    ("malformed", "more behind it", lambda: check(sent() + b"\x00")),
    ("malformed", "no payload", lambda: check(document(b"", "bundle-1", context=BUNDLE_CONTEXT))),
    ("malformed", "too deep", lambda: check(b"\x81" * 9 + b"\x00")),
    ("malformed", "an unknown key", lambda: check(sent(colour="red"))),
    ("malformed", "a missing key", lambda: check(sent(digest=...))),
    ("malformed", "a revision that is text", lambda: check(sent(revision="7"))),
    ("malformed", "revision 0", lambda: check(sent(revision=0))),
    ("malformed", "a revision over 2^53", lambda: check(sent(revision=2**53))),
    ("malformed", "true for a number", lambda: check(sent(records=True))),
    ("malformed", "no gateway", lambda: check(sent(gateways=[]))),
    ("malformed", "no chunk", lambda: check(sent(chunks=[]))),
    ("malformed", "too many chunks", lambda: check(sent(chunks=[CHUNK] * 4097))),
    ("malformed", "a chunk twice", lambda: check(sent(chunks=[CHUNK, CHUNK]))),
    ("malformed", "a chunk with more to it", lambda: check(sent(chunks=[[*CHUNK, 1]]))),
    ("malformed", "a short hash", lambda: check(sent(chunks=[[bytes(31), 1, 1]]))),
    ("malformed", "a short digest key", lambda: check(sent(digest_key=bytes(16)))),
    ("malformed", "another kind", lambda: check(sent(kind="patch"))),
    ("malformed", "a delta of nothing", lambda: check(sent(kind="delta"))),
    ("malformed", "a snapshot with a base", lambda: check(sent(base=[6, bytes(32)]))),
    ("malformed", "a repair of nothing", lambda: check(sent(kind="repair"))),
    ("malformed", "a repair of no bucket", lambda: check(sent(kind="repair", buckets=[]))),
    ("malformed", "buckets twice", lambda: check(sent(kind="repair", buckets=[1, 1]))),
    ("malformed", "a bucket 256", lambda: check(sent(kind="repair", buckets=[256]))),
    ("malformed", "a snapshot with buckets", lambda: check(sent(buckets=[1]))),
    ("malformed", "it expires first", lambda: check(sent(expires=NOON_S + 7))),
    (
        "malformed",
        "of the year 10000",
        lambda: check(sent(made=YEAR_10000, expires=YEAR_10000 + 1)),
    ),
    ("unknown_key", "a stranger's", lambda: check(sent("stranger"))),
    ("unknown_key", "another role's", lambda: check(sent("freshness-1", "root-1"))),
    (
        "bad_signature",
        "signed for another purpose",
        lambda: check(document(payload(), "bundle-1", context=b"door-gateway/root/v1")),
    ),
    ("threshold", "one signature of two", lambda: check(sent(), threshold=2)),
    (
        "threshold",
        "the same one twice",
        lambda: check(sent("bundle-1", "bundle-1"), threshold=2),
    ),
    ("root_expired", "under an expired root", lambda: check(sent(), root=root(expires=NOON_S))),
    ("wrong_site", "for another site", lambda: check(sent(site="SOF"))),
    ("wrong_gateway", "for other gateways", lambda: check(sent(gateways=["gw-2", "gw-3"]))),
    ("expired", "past its end", lambda: check(sent(made=1, expires=NOON_S))),
    (
        "expired",
        "past its end by the floor of time",
        lambda: check(sent(made=1, expires=NOON_S), now=Now(NOON, trusted=False)),
    ),
    ("not_yet", "from the future", lambda: check(sent(made=NOON_S + 601))),
]


@pytest.mark.parametrize(("rule", "what", "call"), BROKEN, ids=[each[1] for each in BROKEN])
def test_a_bundle_that_breaks_a_rule_is_refused_by_its_name(
    rule: str, what: str, call: Callable[[], object]
) -> None:
    assert rule_of(call) == rule


def test_an_untrusted_clock_does_not_call_a_bundle_too_new() -> None:
    assert check(sent(made=NOON_S + 601), now=Now(NOON, trusted=False))
    assert check(sent(made=NOON_S + 600))


IN_FORCE = Revision(7, DIGEST)
OTHER = bytes(32)


@pytest.mark.parametrize(
    ("rule", "held", "changed"),
    [
        ("rollback", Held(IN_FORCE, IN_FORCE), {"revision": 6}),
        ("rollback", Held(IN_FORCE, IN_FORCE), {"digest": OTHER}),
        ("rollback", Held(Revision(3, OTHER), Revision(8, OTHER)), {}),
        ("rollback", Held(None, Revision(8, OTHER)), {}),
        ("equal", Held(IN_FORCE, IN_FORCE), {}),
        ("equal", Held(IN_FORCE, None), {}),
        ("missing_base", NOTHING, {"kind": "delta", "base": [6, OTHER]}),
        (
            "missing_base",
            Held(Revision(6, DIGEST), Revision(6, DIGEST)),
            {"kind": "delta", "base": [6, OTHER]},
        ),
        ("missing_base", NOTHING, {"kind": "repair", "buckets": [1]}),
        ("missing_base", Held(Revision(6, OTHER), None), {"kind": "repair", "buckets": [1]}),
        (
            "rollback",
            Held(IN_FORCE, IN_FORCE),
            {"kind": "repair", "buckets": [1], "digest": OTHER},
        ),
    ],
)
def test_a_revision_only_rises(rule: str, held: Held, changed: dict[str, Any]) -> None:
    assert rule_of(lambda: check(sent(**changed), held)) == rule


@pytest.mark.parametrize(
    ("held", "changed"),
    [
        (Held(Revision(6, OTHER), Revision(6, OTHER)), {}),
        (Held(Revision(6, OTHER), Revision(6, OTHER)), {"kind": "delta", "base": [6, OTHER]}),
        (Held(IN_FORCE, IN_FORCE), {"kind": "repair", "buckets": [0, 255]}),
        (Held(None, IN_FORCE), {}),  # the cache was lost, the floor was not
        (Held(Revision(2**53 - 1, OTHER), None), {}),  # a root has reset the revision
    ],
)
def test_what_may_come_next_passes(held: Held, changed: dict[str, Any]) -> None:
    assert check(sent(**changed), held)


# --- Canonical records and the digest -------------------------------------------------------------


def test_a_canonical_record_has_one_form() -> None:
    record = {
        "type": "holder",
        "id": "h\u20ac\n",
        "status": "active",
        "name": "Nobody",
        "valid_until": None,
        "persona": "member",
        "groups": ["b", "a"],
        "colour": "red",
    }
    assert (
        canonical(record)
        == (
            '{"groups":["b","a"],"id":"h\u20ac\\n","persona":"member","status":"active","type":"holder"}'
        ).encode()
    )


def test_every_type_has_its_place() -> None:
    assert set(TYPES) == set(FORMS)


def test_the_digest_is_what_the_page_says() -> None:
    buckets = [hashlib.sha256() for _ in range(256)]
    for (kind, name), line in sorted(SET.items()):
        buckets[bucket_of(kind, name)].update(leaf(DIGEST_KEY, line))
    expected = hashlib.sha256(b"".join(each.digest() for each in buckets)).digest()
    assert expected == DIGEST
    nothing = hashlib.sha256(hashlib.sha256().digest() * 256).digest()
    assert SetDigest().digest() == nothing
    assert bucket_of("holder", "h-0") == hashlib.sha256(b"holder\x1fh-0").digest()[0]


# --- Chunks ---------------------------------------------------------------------------------------


def manifest(made: Made) -> Manifest:
    return manifest_in(made.payload)


def read(made: Made) -> dict[tuple[str, str], bytes]:
    changes = Changes(manifest(made))
    return {
        (change.type, change.id): change.line
        for chunk, data in zip(manifest(made).chunks, made.chunks, strict=True)
        for change in changes.read(chunk, data)
    }


def test_chunks_bring_every_record() -> None:
    assert read(MADE) == SET


def test_a_large_set_has_many_chunks_each_within_its_bounds() -> None:
    many = canonical_set(records(5000))
    made = snapshot(many, about(1))
    assert len(made.chunks) > 1
    assert check(document_of(made))
    assert read(made) == many


def test_a_delta_deletes_first_and_says_no_more_than_it_must() -> None:
    after = {key: line for key, line in SET.items() if key[1] not in ("h-1", "card-1", "pin-1")}
    after |= canonical_set(b'{"type":"zone","id":"attic","category":"member"}')
    made = delta(SET, after, about(8), 7)
    assert manifest(made).base == Base(7, DIGEST)
    assert read(made) == {
        ("holder", "h-1"): b"",
        ("credential", "card-1"): b"",
        ("credential", "pin-1"): b"",
        ("zone", "attic"): after["zone", "attic"],
    }


def test_a_repair_has_the_records_of_its_buckets_only() -> None:
    bucket = bucket_of("holder", "h-1")
    made = repair(SET, about(7), [bucket])
    assert ("holder", "h-1") in read(made)
    assert all(bucket_of(*key) == bucket for key in read(made))
    empty = next(n for n in range(256) if all(bucket_of(*key) != n for key in SET))
    assert read(repair(SET, about(7), [empty])) == {}


ZONE = b'+{"category":"member","id":"a","type":"zone"}\n'
DOOR = b'+{"from_zone":"a","id":"d","to_zone":"b","type":"door"}\n'

LINES: dict[str, bytes] = {
    "no sign": ZONE[1:],
    "no end": ZONE[:-1],
    "blank": b"\n",
    "carriage returns": ZONE.replace(b"\n", b"\r\n"),
    "out of order": DOOR + ZONE,
    "twice": ZONE + ZONE,
    "a deletion after": ZONE + b'-["zone","b"]\n',
    "white space": ZONE.replace(b",", b", "),
    "members out of order": b'+{"id":"a","category":"member","type":"zone"}\n',
    "a member twice": b'+{"category":"member","category":"member","id":"a","type":"zone"}\n',
    "null": b'+{"category":"member","id":"a","name":null,"type":"zone"}\n',
    "an unknown member": b'+{"category":"member","colour":"red","id":"a","type":"zone"}\n',
    "an escape that is not needed": b'+{"category":"member","id":"\\u0061","type":"zone"}\n',
    "an unknown type": b'+{"id":"a","type":"lift"}\n',
    "no id": b'+{"category":"member","type":"zone"}\n',
    "no object": b"+[]\n",
    "no JSON": b"+{\n",
    "no UTF-8": b'+{"category":"member","id":"\xff","type":"zone"}\n',
    "a name": b'+{"groups":[],"id":"h","name":"N","persona":"member","status":"active",'
    b'"type":"holder"}\n',
    "a deletion of an unknown type": b'-["lift","a"]\n',
    "a deletion of nothing": b'-["zone",""]\n',
    "a deletion with white space": b'-["zone", "a"]\n',
    "a deletion that is no list": b'-{"zone":"a"}\n',
}


def of_lines(raw: bytes, *, base: object = ..., buckets: object = ...) -> Made:
    data = zlib.compress(raw)
    chunk = [hashlib.sha256(data).digest(), len(data), len(raw)]
    kind = "snapshot" if base is ... else "delta"
    if buckets is not ...:
        kind = "repair"
    body = payload(chunks=[chunk], base=base, buckets=buckets, kind=kind)
    return Made(cbor2.dumps(body, canonical=True), [data])


@pytest.mark.parametrize("what", LINES)
def test_a_line_in_another_form_is_refused(what: str) -> None:
    assert read(of_lines(ZONE, base=[6, OTHER]))
    assert rule_of(lambda: read(of_lines(LINES[what], base=[6, OTHER]))) == "chunk"


def test_only_a_delta_deletes_and_a_repair_stays_in_its_buckets() -> None:
    assert rule_of(lambda: read(of_lines(b'-["zone","a"]\n'))) == "chunk"
    wrong = (bucket_of("zone", "a") + 1) % 256
    assert rule_of(lambda: read(of_lines(ZONE, buckets=[wrong]))) == "chunk"


def test_a_chunk_that_is_not_the_one_named_is_refused() -> None:
    ((chunk, data),) = pack(canonical_set(ZONE[1:]))
    raw = chunk.raw_size

    def unpacks(named: Chunk, data: bytes) -> Callable[[], object]:
        return lambda: list(Changes(manifest(MADE)).read(named, data))

    def named(data: bytes, raw_size: int) -> Chunk:
        return Chunk(hashlib.sha256(data).digest(), len(data), raw_size)

    assert unpacks(chunk, data)()
    for what, refused in {
        "another one": unpacks(chunk, zlib.compress(b"x")),
        "grows past its bound": unpacks(named(data, raw - 1), data),
        "shorter than it says": unpacks(named(data, raw + 1), data),
        "cut": unpacks(named(data[:-1], raw), data[:-1]),
        "more behind it": unpacks(named(data + b"x", raw), data + b"x"),
        "no zlib": unpacks(named(b"x" * 9, 9), b"x" * 9),
    }.items():
        assert rule_of(refused) == "chunk", what


# --- The file -------------------------------------------------------------------------------------


def test_a_file_has_the_same_bytes_in_the_same_order() -> None:
    parts = [document_of(MADE), *MADE.chunks]
    assert unframed(b"".join(framed(parts))) == parts


@pytest.mark.parametrize(
    ("rule", "data"),
    [
        ("malformed", b""),
        ("malformed", MAGIC),
        ("malformed", b"DGBNDL2\n" + bytes(4)),
        ("malformed", MAGIC + b"\x00\x00\x00\x05abcd"),
        ("too_large", MAGIC + b"\x00\x10\x00\x01"),
        ("too_large", MAGIC + bytes(4) + b"\x00\x04\x00\x01"),
        ("too_large", MAGIC + bytes(4) * 4098),
    ],
)
def test_a_file_of_another_form_is_refused(rule: str, data: bytes) -> None:
    assert rule_of(lambda: unframed(data)) == rule


def test_a_rule_is_told_with_why() -> None:
    with pytest.raises(BreaksRule, match="wrong_site: it is for the site 'SOF'"):
        check(sent(site="SOF"))


WIDE = b"\x9a\x00\x0f\x00\x00" + b"\xa0" * 0xF0000
"""A megabyte of empty maps: most of a second for a decoder."""


def test_what_nobody_signed_is_not_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    wide = document(WIDE, "stranger", context=BUNDLE_CONTEXT)
    successor = document(WIDE[:40_000], "bundle-1")

    def decoded(data: bytes, *, bytes_max: int, items_max: int) -> object:
        assert len(data) < 10_000
        return decode(data, bytes_max=bytes_max, items_max=items_max)

    monkeypatch.setattr("gateway.trust.root.decode", decoded)
    assert rule_of(lambda: check(wide)) == "unknown_key"
    assert rule_of(lambda: next_root(root(), successor)) == "unknown_key"
    for start in (b"", b"\x82", b"\x82\x40", b"\x82\x58\x09", b"\x82\x5b" + bytes(8)):
        assert rule_of(lambda start=start: check(start + WIDE)) == "malformed"  # type: ignore[misc]


@pytest.mark.parametrize("size", [0, 23, 24, 255, 256, 65_535, 65_536, 900_000])
def test_a_payload_of_any_length_has_room_for_its_signatures(size: int) -> None:
    names = [f"bundle-{n}" for n in range(16)]
    found = opened_document(document(bytes(size), *names), DOCUMENT_BYTES_MAX)
    assert (len(found.payload), len(found.signatures)) == (size, 16)
