"""What trust.md, version 1, says, written as bytes from that page alone.

`python -m tests.reference.signed` prints golden/trust.json: what a gateway takes, and what it
refuses for which reason. Keys are derived from their names. Nothing of the product is imported
here, and no CBOR library either.
"""

import hashlib
import hmac
import json
import sys
import zlib
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

NOON = 1_780_315_200  # 2026-06-01T12:00:00Z
DAY = 86_400
SITE, GATEWAY = "LON", "gw-1"
DIGEST_KEY = hashlib.sha256(b"digest key").digest()
ROLES = ("root", "bundle", "freshness", "command", "grant")

# RFC 8949, section 4.2.1.


def head(major: int, number: int) -> bytes:
    if number < 24:
        return bytes([major << 5 | number])
    for code, size in ((24, 1), (25, 2), (26, 4), (27, 8)):
        if number < 1 << 8 * size:
            return bytes([major << 5 | code]) + number.to_bytes(size, "big")
    raise ValueError(number)


def cbor(value: Any) -> bytes:
    match value:
        case None:
            return b"\xf6"
        case bool():
            return b"\xf5" if value else b"\xf4"
        case int():
            return head(0, value) if value >= 0 else head(1, -1 - value)
        case bytes():
            return head(2, len(value)) + value
        case str():
            return head(3, len(value.encode())) + value.encode()
        case list() | tuple():
            return head(4, len(value)) + b"".join(map(cbor, value))
        case dict():
            pairs = sorted((cbor(key), cbor(item)) for key, item in value.items())
            return head(5, len(value)) + b"".join(key + item for key, item in pairs)
    raise TypeError(type(value))


# Signatures.


def private(name: str) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(hashlib.sha256(name.encode()).digest())


def public(name: str) -> bytes:
    return private(name).public_key().public_bytes_raw()


def kid(name: str) -> bytes:
    return hashlib.sha256(cbor({1: 1, -1: 6, -2: public(name)})).digest()[:8]


def sign1(context: str, payload: bytes, name: str, *, detached: bool = False) -> bytes:
    protected = cbor({1: -8, 4: kid(name)})
    signed = cbor(["Signature1", protected, f"door-gateway/{context}/v1".encode(), payload])
    carried = None if detached else payload
    return b"\xd2" + cbor([protected, {}, carried, private(name).sign(signed)])


def message(context: str, payload: Mapping[Any, Any], name: str) -> bytes:
    return sign1(context, cbor(payload), name)


def document(context: str, payload: Mapping[str, Any], *names: str) -> bytes:
    body = cbor(payload)
    signatures = [sign1(context, body, name, detached=True) for name in names]
    return head(4, 2) + cbor(body) + head(4, len(names)) + b"".join(signatures)


# Key set.

KEYS_1 = {
    "root": ["ada", "ben", "cy"],
    "bundle": ["b-1", "b-2"],
    "freshness": ["fresh-1"],
    "command": ["cmd-1"],
    "grant": ["grant-1"],
}
KEYS_2 = KEYS_1 | {"root": ["ben", "cy", "dee"], "bundle": ["b-3", "b-4"]}


def key_set(version: int, roles: Mapping[str, Sequence[str]], **changed: Any) -> dict[str, Any]:
    return {
        "site": SITE,
        "version": version,
        "made": NOON,
        "expires": NOON + 365 * DAY,
        "keys": {kid(name): public(name) for names in roles.values() for name in names},
        "roles": {
            role: {
                "keys": [kid(name) for name in roles[role]],
                "threshold": 2 if role == "root" else 1,
            }
            for role in ROLES
        },
    } | changed


# Records.

ORDER = [
    "site",
    "policy",
    "calendar",
    "zone",
    "schedule",
    "door",
    "group",
    "holder",
    "credential",
    "booking",
    "exception",
]
ESCAPES = {
    '"': '\\"',
    "\\": "\\\\",
    "\b": "\\b",
    "\f": "\\f",
    "\n": "\\n",
    "\r": "\\r",
    "\t": "\\t",
}
Record = Mapping[str, Any]


def text(value: str) -> str:
    def character(one: str) -> str:
        return ESCAPES.get(one) or (f"\\u{ord(one):04x}" if one < " " else one)

    return '"' + "".join(map(character, value)) + '"'


def canonical(value: Any) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
        case str():
            return text(value)
        case list():
            return "[" + ",".join(map(canonical, value)) + "]"
        case dict():
            members = (f"{text(key)}:{canonical(value[key])}" for key in sorted(value))
            return "{" + ",".join(members) + "}"
    raise TypeError(type(value))


def line_of(record: Record) -> bytes:
    """Its canonical bytes; members of no specification are not in these records to begin with."""
    dropped = {key for key, value in record.items() if value is None}
    if record["type"] == "holder":
        dropped.add("name")
    return canonical({key: record[key] for key in record if key not in dropped}).encode()


def place(record: Record) -> tuple[int, str]:
    return ORDER.index(record["type"]), record["id"]


def bucket(record: Record) -> int:
    return hashlib.sha256(f"{record['type']}\x1f{record['id']}".encode()).digest()[0]


def bucket_hashes(records: Iterable[Record]) -> list[bytes]:
    leaves: list[list[bytes]] = [[] for _ in range(256)]
    for record in sorted(records, key=lambda record: (record["type"], record["id"])):
        leaf = hmac.new(DIGEST_KEY, line_of(record), hashlib.sha256).digest()
        leaves[bucket(record)].append(leaf)
    return [hashlib.sha256(b"".join(mine)).digest() for mine in leaves]


def digest(records: Iterable[Record]) -> bytes:
    return hashlib.sha256(b"".join(bucket_hashes(records))).digest()


SET_A: list[Record] = [
    {"type": "site", "id": "LON", "timezone": "Europe/London"},
    {"type": "policy", "id": "policy", "max_age_h": {"restricted": 24, "public": 8760}},
    {
        "type": "calendar",
        "id": "uk",
        "dates": {"2026-12-26": "Boxing", "2026-12-25": 'N\u00f6el "\\\x07\x7f'},
    },
    {"type": "zone", "id": "street", "category": "public", "name": None},
    {"type": "zone", "id": "lounge", "category": "member", "name": "Caf\u00e9 \u2028/\t\u00a0"},
    {
        "type": "schedule",
        "id": "BH",
        "weekly": {"tue": [["08:00", "18:00"]], "mon": [["08:00", "18:00"]]},
        "holidays": [{"intervals": [], "calendar": "uk"}],
    },
    {
        "type": "door",
        "id": "front",
        "from_zone": "street",
        "to_zone": "lounge",
        "egress": True,
        "unlock_s": 5,
    },
    {
        "type": "group",
        "id": "LON | MEMBERS | AMENITIES | BH",
        "zones": ["lounge"],
        "doors": [],
        "schedule": "24x7",
    },
    {
        "type": "holder",
        "id": "\U0001f600",
        "persona": "member",
        "status": "active",
        "name": "Grin",
        "groups": ["LON | MEMBERS | AMENITIES | BH"],
    },
    {
        "type": "holder",
        "id": "\uff5e",
        "persona": "member",
        "status": "active",
        "name": "Tilde",
        "groups": ["LON | MEMBERS | AMENITIES | BH"],
        "valid_until": "2026-12-31T23:00:00+01:00",
    },
    {"type": "credential", "id": "c-1", "holder": "\U0001f600", "kind": "uid", "value": "04A1B2C3"},
    {
        "type": "credential",
        "id": "c-2",
        "holder": "\uff5e",
        "kind": "uid",
        "value": "04A1B2C4",
        "status": "active",
    },
]
GONE = [("credential", "c-2"), ("holder", "\uff5e")]
NEW: list[Record] = [
    {"type": "credential", "id": "c-1", "holder": "\U0001f600", "kind": "uid", "value": "04A1B2C5"},
    {
        "type": "booking",
        "id": "b-1",
        "holders": ["\U0001f600"],
        "zones": ["lounge"],
        "doors": [],
        "start": "2026-06-01T10:00:00Z",
        "end": "2026-06-01T11:00:00.250Z",
    },
]
SET_B: list[Record] = [
    record
    for record in SET_A
    if (record["type"], record["id"]) not in [*GONE, ("credential", "c-1")]
] + NEW

ELSEWHERE: list[Record] = [{**SET_A[0], "id": "PAR"}, *SET_A[1:]]

# Bundles.


def stored(raw: bytes) -> bytes:
    """zlib without compression, so that these bytes are no zlib's but RFC 1950's and 1951's."""
    size = len(raw).to_bytes(2, "little")
    inverse = (len(raw) ^ 0xFFFF).to_bytes(2, "little")
    return b"\x78\x01\x01" + size + inverse + raw + zlib.adler32(raw).to_bytes(4, "big")


def upserts(records: Iterable[Record]) -> list[bytes]:
    return [b"+" + line_of(record) + b"\n" for record in sorted(records, key=place)]


def deletions(keys: Iterable[tuple[str, str]]) -> list[bytes]:
    ordered = sorted(keys, key=lambda key: (ORDER.index(key[0]), key[1]))
    return [b"-" + canonical(list(key)).encode() + b"\n" for key in ordered]


def in_two(lines: list[bytes]) -> list[bytes]:
    half = (len(lines) + 1) // 2
    return [b"".join(part) for part in (lines[:half], lines[half:]) if part]


def bundle(
    kind: str, revision: int, result: list[Record], raw: list[bytes], /, *names: str, **changed: Any
) -> bytes:
    chunks = [stored(part) for part in raw]
    payload = {
        "site": SITE,
        "gateways": [GATEWAY],
        "revision": revision,
        "made": NOON,
        "expires": NOON + 30 * DAY,
        "kind": kind,
        "digest_key": DIGEST_KEY,
        "digest": digest(result),
        "records": len(result),
        "chunks": [
            [hashlib.sha256(chunk).digest(), len(chunk), len(part)]
            for chunk, part in zip(chunks, raw, strict=True)
        ],
    } | changed
    manifest = document("bundle", payload, *names)
    parts = (len(part).to_bytes(4, "big") + part for part in (manifest, *chunks))
    return b"DGBNDL1\n" + b"".join(parts)


def snapshot(revision: int, records: list[Record], /, *names: str, **changed: Any) -> bytes:
    return bundle("snapshot", revision, records, in_two(upserts(records)), *names, **changed)


def delta(revision: int, *names: str, **changed: Any) -> bytes:
    changed = {"base": [7, digest(SET_A)]} | changed
    return bundle(
        "delta", revision, SET_B, in_two(deletions(GONE) + upserts(NEW)), *names, **changed
    )


def repair(revision: int, numbers: list[int], *names: str) -> bytes:
    held = [record for record in SET_A if bucket(record) in numbers]
    return bundle("repair", revision, SET_A, in_two(upserts(held)), *names, buckets=numbers)


REPAIRED = sorted({bucket(SET_A[-1]), bucket(SET_A[-2])})

# Messages.


def beacon(name: str = "fresh-1", **changed: Any) -> bytes:
    payload = {
        "site": SITE,
        "gateway": GATEWAY,
        "revision": 7,
        "digest": digest(SET_A),
        "now_ms": NOON * 1000 + 250,
        "expires": NOON + 3600,
        "nonce": None,
        "root": 1,
    }
    return message("beacon", payload | changed, name)


def ack(name: str = "fresh-1", **changed: Any) -> bytes:
    payload = {"site": SITE, "gateway": GATEWAY, "stream": "0a1b", "seq": 41, "at": NOON}
    return message("ack", payload | changed, name)


def command(act: str, life: int, name: str = "cmd-1", /, **said: Any) -> bytes:
    claims: dict[Any, Any] = {
        3: f"{SITE}/{GATEWAY}",
        6: NOON,
        4: NOON + life,
        7: hashlib.sha256(repr((act, sorted(said.items()))).encode()).digest()[:16],
        "act": act,
        "by": "op-1",
        "why": "a visitor",
    }
    return message(
        "command", claims | {int(k[1:]) if k[1:].isdigit() else k: v for k, v in said.items()}, name
    )


COMMANDS: dict[str, tuple[str, int, dict[str, Any]]] = {
    "unlock": ("unlock", 30, {"door": "front"}),
    "mode, unlocked": ("mode", 30, {"door": "front", "mode": "unlocked", "until": NOON + 600}),
    "mode, blocked": ("mode", 600, {"door": "front", "mode": "blocked", "until": NOON + 600}),
    "mode, controlled": ("mode", 600, {"door": "front", "mode": "controlled", "until": NOON + 600}),
    "lockdown of a door": ("lockdown", 600, {"door": "front"}),
    "lockdown of a zone": ("lockdown", 600, {"zone": "lounge"}),
    "lockdown of the site": ("lockdown", 600, {"site": True}),
    "evacuation": ("evacuation", 30, {"site": True}),
    "release": ("release", 30, {"site": True, "of": "lockdown"}),
    "forgive, a holder": ("forgive", 600, {"holder": "\uff5e"}),
    "forgive, a zone": ("forgive", 600, {"zone": "lounge"}),
    "identify": ("identify", 600, {"door": "front"}),
    "logs": ("logs", 600, {"minutes": 1440}),
    "refresh": ("refresh", 600, {}),
}


def parity(**changed: Any) -> bytes:
    payload = {
        "site": SITE,
        "gateway": GATEWAY,
        "at_ms": NOON * 1000 + 1,
        "trust": 2,
        "revision": 7,
        "digest": digest(SET_A),
        "as_of": NOON,
        "root": 1,
        "records": {"site": 1, "zone": 2, "credential": 2},
        "doors": {"front": 2},
        "nonce": bytes(range(16)),
    }
    return message("parity", payload | changed, "gateway")


def result(**changed: Any) -> bytes:
    payload = {
        "cti": bytes(range(16)),
        "outcome": "done",
        "reason": None,
        "at_ms": NOON * 1000 + 2,
        "took_ms": 4,
        "seq": 41,
    }
    return message("result", payload | changed, "gateway")


def vectors() -> dict[str, Any]:
    root_1 = document("root", key_set(1, KEYS_1), "ada", "ben")
    root_2 = document("root", key_set(2, KEYS_2), "ben", "cy", "ada")
    taken = snapshot(7, SET_A, "b-1")
    twice = {**key_set(2, KEYS_2), "version": 3}
    unlock = command("unlock", 30, door="front")
    return {
        "instant": NOON,
        "site": SITE,
        "gateway": GATEWAY,
        "digest_key": DIGEST_KEY,
        "keys": {
            name: {
                "private": private(name).private_bytes_raw(),
                "public": public(name),
                "kid": kid(name),
            }
            for name in sorted({"gateway", *chain(*KEYS_1.values(), *KEYS_2.values())})
        },
        "records": {
            f"{record['type']} {record['id']}": {
                "given": json.dumps(record),
                "canonical": line_of(record).decode(),
                "bucket": bucket(record),
                "leaf": hmac.new(DIGEST_KEY, line_of(record), hashlib.sha256).digest(),
            }
            for record in SET_A
        },
        "set_a": {
            "lines": b"".join(line_of(record) + b"\n" for record in SET_A).decode(),
            "digest": digest(SET_A),
        },
        "set_b": {
            "lines": b"".join(line_of(record) + b"\n" for record in SET_B).decode(),
            "digest": digest(SET_B),
        },
        "root": {"first": root_1, "second": root_2},
        "root_refused": [
            ["threshold", "the old keys only", document("root", key_set(2, KEYS_2), "ada", "ben")],
            ["threshold", "the new keys only", document("root", key_set(2, KEYS_2), "ben", "dee")],
            [
                "rollback",
                "the same version again, other keys",
                document("root", key_set(1, KEYS_2), "ada", "ben", "cy"),
            ],
            ["equal", "the same again", root_1],
            ["missing_base", "two versions on", document("root", twice, "ada", "ben", "cy")],
            [
                "wrong_site",
                "of another site",
                document("root", key_set(2, KEYS_2, site="PAR"), "ada", "ben", "cy"),
            ],
            [
                "malformed",
                "a kid that is not its key's",
                document(
                    "root",
                    key_set(2, KEYS_2, keys=key_set(2, KEYS_2)["keys"] | {bytes(8): public("eve")}),
                    "ada",
                    "ben",
                    "cy",
                ),
            ],
        ],
        "bundle": {
            "snapshot": taken,
            "delta": delta(8, "b-1"),
            "signed twice": delta(8, "b-1", "b-2"),
            "repair": repair(7, REPAIRED, "b-1"),
            "after the second root": snapshot(1, SET_B, "b-3"),
        },
        "bundle_refused": [
            ["unknown_key", "by a key of another role", snapshot(8, SET_B, "cmd-1")],
            ["wrong_site", "for another site", snapshot(8, SET_B, "b-1", site="PAR")],
            ["wrong_gateway", "for another gateway", snapshot(8, SET_B, "b-1", gateways=["gw-2"])],
            ["expired", "too old", snapshot(8, SET_B, "b-1", made=NOON - DAY, expires=NOON)],
            ["not_yet", "from the future", snapshot(8, SET_B, "b-1", made=NOON + 601)],
            ["malformed", "a further key", snapshot(8, SET_B, "b-1", more=1)],
            ["wrong_site", "with another site's records", snapshot(8, ELSEWHERE, "b-1")],
            [
                "wrong_site",
                "a delta to another site's records",
                bundle(
                    "delta",
                    8,
                    ELSEWHERE,
                    [b"".join(deletions([("site", "LON")]) + upserts(ELSEWHERE[:1]))],
                    "b-1",
                    base=[7, digest(SET_A)],
                ),
            ],
            [
                "faults",
                "a delta to records of no site",
                bundle(
                    "delta",
                    8,
                    SET_A[1:],
                    [b"".join(deletions([("site", "LON")]))],
                    "b-1",
                    base=[7, digest(SET_A)],
                ),
            ],
            ["digest", "another digest", snapshot(8, SET_B, "b-1", digest=digest(SET_A))],
            ["digest", "another number of records", snapshot(8, SET_B, "b-1", records=3)],
            [
                "missing_base",
                "a delta of what is not in force",
                delta(8, "b-1", base=[6, digest(SET_A)]),
            ],
            ["missing_base", "of another digest", delta(8, "b-1", base=[7, digest(SET_B)])],
            ["rollback", "an older revision", snapshot(6, SET_B, "b-1")],
            ["rollback", "the same revision, another set", snapshot(7, SET_B, "b-1")],
            ["equal", "the same again", taken],
            [
                "chunk",
                "a record with white space",
                bundle(
                    "snapshot",
                    8,
                    SET_A,
                    [b"".join(upserts(SET_A)).replace(b'{"category"', b'{ "category"', 1)],
                    "b-1",
                ),
            ],
            [
                "chunk",
                "records out of order",
                bundle("snapshot", 8, SET_A, [b"".join(upserts(SET_A)[::-1])], "b-1"),
            ],
        ],
        "beacon": {
            "in force": beacon(),
            "answers a nonce": beacon(nonce=bytes(range(16))),
            "a newer revision": beacon(revision=8, digest=digest(SET_B)),
        },
        "beacon_refused": [
            ["unknown_key", "by a key of another role", beacon("b-1")],
            ["wrong_site", "for another site", beacon(site="PAR")],
            ["wrong_gateway", "for another gateway", beacon(gateway="gw-2")],
            ["malformed", "for more than a day", beacon(expires=NOON + DAY + 1)],
            ["malformed", "a short nonce", beacon(nonce=bytes(15))],
            ["expired", "over", beacon(now_ms=(NOON - 60) * 1000, expires=NOON)],
            ["not_yet", "from the future", beacon(now_ms=(NOON + 601) * 1000)],
            ["bad_signature", "a changed bit", beacon()[:-1] + bytes([beacon()[-1] ^ 1])],
        ],
        "ack": {"up to 41": ack()},
        "ack_refused": [
            ["wrong_gateway", "for another gateway", ack(gateway="gw-2")],
            ["unknown_key", "by a key of another role", ack("cmd-1")],
        ],
        "parity": {
            "of a set": parity(),
            "where the digests differ": parity(buckets=b"".join(bucket_hashes(SET_A))),
            "before the first bundle": parity(
                revision=None, digest=None, as_of=None, records={}, doors={}
            ),
        },
        "result": {
            "done": result(),
            "refused": result(cti=None, outcome="refused", reason="malformed", seq=None),
            "logs": result(lines=["caf\u00e9", "the newest"]),
        },
        "command": {
            name: command(act, life, **said) for name, (act, life, said) in COMMANDS.items()
        },
        "command_refused": [
            ["malformed", "an unlock of no door", command("unlock", 30)],
            ["malformed", "a further key", command("unlock", 30, door="front", more=1)],
            [
                "malformed",
                "a door and a zone",
                command("lockdown", 60, door="front", zone="lounge"),
            ],
            [
                "unknown_key",
                "by a key of another role",
                command("unlock", 30, "fresh-1", door="front"),
            ],
            ["bad_signature", "a changed bit", unlock[:-1] + bytes([unlock[-1] ^ 1])],
            [
                "bad_signature",
                "signed as a grant",
                message(
                    "grant",
                    {
                        3: "LON/gw-1",
                        6: NOON,
                        4: NOON + 30,
                        7: bytes(16),
                        "act": "refresh",
                        "by": "op-1",
                        "why": "x",
                    },
                    "cmd-1",
                ),
            ],
            [
                "wrong_audience",
                "for another gateway",
                command("unlock", 30, door="front", _3="LON/gw-2"),
            ],
            [
                "wrong_audience",
                "for another site",
                command("unlock", 30, door="front", _3="PAR/gw-1"),
            ],
            ["expired", "over", command("unlock", 0, door="front", _6=NOON - 30)],
            ["not_yet", "from the future", command("unlock", 91, door="front", _6=NOON + 61)],
            ["too_long", "for longer than what opens may", command("unlock", 31, door="front")],
            [
                "too_long",
                "a release of a lockdown, as an opening",
                command("release", 31, site=True, of="lockdown"),
            ],
            ["too_long", "for longer than what locks may", command("lockdown", 601, site=True)],
        ],
    }


def main() -> None:
    json.dump(vectors(), sys.stdout, default=bytes.hex, indent=1)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
