"""The gateway takes, refuses and says exactly the bytes of golden/trust.json; hwsim's cloud makes
and reads the same.
"""

import json
import zlib
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import cbor2
import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gateway.domain.canonical import bucket_of, canonical, leaf
from gateway.domain.json_text import decode_object
from gateway.errors import RecordsRefused
from gateway.statedir import StateDir
from gateway.trust.beacon import Freshness, Whose, open_ack
from gateway.trust.bundle import Revision, check_manifest, unframed
from gateway.trust.commands import CommandRefused, Result, open_command, seal_command, seal_result
from gateway.trust.keys import kid_of
from gateway.trust.making import (
    About,
    canonical_records,
    delta,
    digest_of,
    repair,
    signed,
    snapshot,
)
from gateway.trust.parity import Parity
from gateway.trust.root import KeySet, Now, first_root, next_root, resets_revision
from gateway.trust.rules import BreaksRule
from hwsim.cloud import records as cloud_records
from hwsim.cloud.keyring import Keyring
from hwsim.cloud.signing import message, opened
from tests.cache.conftest import key_file
from tests.cache.in_one_process import InOneProcess
from tests.reference.signed import KEYS_1, KEYS_2, vectors

GOLDEN = Path(__file__).parent.parent / "golden" / "trust.json"
V: dict[str, Any] = json.loads(GOLDEN.read_text(encoding="utf-8"))

AT = datetime.fromtimestamp(V["instant"], UTC)
NOW = Now(AT, trusted=True)
HERE = Whose(V["site"], V["gateway"])
AUDIENCE = f"{V['site']}/{V['gateway']}"
DIGEST_KEY = bytes.fromhex(V["digest_key"])
DIGEST_A = bytes.fromhex(V["set_a"]["digest"])

__all__ = ["key_file"]


def refused(name: str) -> list[Any]:
    return [pytest.param(*case[::2], id=f"{name}: {case[1]}") for case in V[f"{name}_refused"]]


@cache
def private(name: str) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(bytes.fromhex(V["keys"][name]["private"]))


def keys() -> KeySet:
    return first_root(bytes.fromhex(V["root"]["first"]), V["site"])


def set_of(name: str) -> dict[tuple[str, str], bytes]:
    lines = V[name]["lines"].encode().split(b"\n")[:-1]
    return canonical_records(decode_object(line).members for line in lines)


def test_the_file_is_what_the_reference_makes() -> None:
    made = json.loads(json.dumps(vectors(), default=bytes.hex))
    assert made == V, "python -m tests.reference.signed > tests/golden/trust.json"


# --- Keys and records -----------------------------------------------------------------------------


def test_kids_are_the_keys_own() -> None:
    for name, each in V["keys"].items():
        assert kid_of(private(name).public_key()).hex() == each["kid"]


def test_records_have_one_form_one_leaf_and_one_digest() -> None:
    for each in V["records"].values():
        members = json.loads(each["given"])
        assert canonical(members) == each["canonical"].encode()
        assert cloud_records.canonical(members) == each["canonical"].encode()
        assert bucket_of(members["type"], members["id"]) == each["bucket"]
        assert leaf(DIGEST_KEY, each["canonical"].encode()).hex() == each["leaf"]
    for name in ("set_a", "set_b"):
        found = set_of(name)
        assert digest_of(found, DIGEST_KEY).digest().hex() == V[name]["digest"]
        revision = cloud_records.Revision(7, found, DIGEST_KEY)
        assert revision.digest().hex() == V[name]["digest"]


# --- Key sets -------------------------------------------------------------------------------------


def test_key_sets_follow_each_other() -> None:
    first = keys()
    second = next_root(first, bytes.fromhex(V["root"]["second"]))
    assert (first.version, second.version) == (1, 2)
    assert sorted(kid.hex() for kid in second.roles["bundle"].keys) == sorted(
        V["keys"][name]["kid"] for name in KEYS_2["bundle"]
    )


@pytest.mark.parametrize(("reason", "data"), refused("root"))
def test_no_other_key_set_follows(reason: str, data: str) -> None:
    with pytest.raises(BreaksRule) as broken:
        next_root(keys(), bytes.fromhex(data))
    assert broken.value.rule.value == reason


def test_the_clouds_key_sets_are_the_same_bytes() -> None:
    ring = {role: [private(name) for name in names] for role, names in KEYS_1.items()}
    first = Keyring(V["site"], V["instant"], keys=ring)
    assert first.root().hex() == V["root"]["first"]
    replaced = {role: [private(name) for name in KEYS_2[role]] for role in ("root", "bundle")}
    second = first.successor(V["instant"], **replaced)
    assert second.root(also=first).hex() == V["root"]["second"]


# --- Bundles --------------------------------------------------------------------------------------


class Gate:
    """A gateway that takes bundles."""

    def __init__(self, cache: InOneProcess) -> None:
        self.cache = cache
        self.keys = keys()

    async def take(self, file: str) -> str:
        """What becomes of a bundle: `taken`, or the rule that it breaks."""
        document, *chunks = unframed(bytes.fromhex(file))
        try:
            signed = check_manifest(
                document, self.keys, self.cache.held, gateway=V["gateway"], now=NOW,
                disk_free=1 << 30,
            )  # fmt: skip
            named = [chunk.sha256 for chunk in signed.manifest.chunks]
            self.cache.incoming.begin(document, named)
            for sha256, data in zip(named, chunks, strict=True):
                self.cache.incoming.put(sha256, data)
            await self.cache.apply_bundle(signed, cbor2.loads(document)[0], AT)
        except BreaksRule as broken:
            return broken.rule.value
        except RecordsRefused:
            return "faults"
        return "taken"


@pytest.fixture
async def gate(tmp_path: Path, key_file: Path) -> Any:
    with StateDir(tmp_path / "state") as state:
        cache = InOneProcess(state.path, key_file, "LON", signed=True)
        await cache.open()
        yield Gate(cache)


async def test_snapshot_repair_and_delta_are_taken(gate: Gate) -> None:
    bundles = V["bundle"]
    assert await gate.take(bundles["delta"]) == "missing_base"
    for name, number, of in (
        ("snapshot", 7, "set_a"),
        ("repair", 7, "set_a"),
        ("delta", 8, "set_b"),
    ):
        assert await gate.take(bundles[name]) == "taken"
        assert gate.cache.held.in_force == (number, bytes.fromhex(V[of]["digest"]))
        assert (await gate.cache.audit()).digest == V[of]["digest"]
    assert await gate.take(bundles["signed twice"]) == "equal"
    assert await gate.take(bundles["snapshot"]) == "rollback"


@pytest.mark.parametrize(("reason", "file"), refused("bundle"))
async def test_no_other_bundle_is_taken(gate: Gate, reason: str, file: str) -> None:
    assert await gate.take(V["bundle"]["snapshot"]) == "taken"
    assert await gate.take(file) == reason
    assert gate.cache.held.in_force == (7, DIGEST_A)
    assert (await gate.cache.audit()).digest == V["set_a"]["digest"]


def test_both_makers_say_the_same_of_a_bundle() -> None:
    a, b = set_of("set_a"), set_of("set_b")
    until = V["instant"] + 30 * 86_400
    about = About(V["site"], (V["gateway"],), 7, V["instant"], until, DIGEST_KEY)
    golden = {kind: said_in(unframed(bytes.fromhex(V["bundle"][kind]))) for kind in KINDS}
    buckets = golden["repair"][0]["buckets"]
    made = (
        snapshot(a, about),
        delta(a, b, about._replace(revision=8), 7),
        repair(a, about, buckets),
    )
    for kind, ours in zip(KINDS, made, strict=True):
        assert said_in([signed(ours, [private("b-1")]), *ours.chunks]) == golden[kind]
    was, comes = (cloud_records.Revision(n, of, DIGEST_KEY) for n, of in ((7, a), (8, b)))
    by = cloud_records.About(V["site"], [V["gateway"]], V["instant"], until, [private("b-1")])
    clouds = (
        cloud_records.snapshot(was, by),
        cloud_records.delta(comes, was, by),
        cloud_records.repair(was, buckets, by),
    )
    for kind, theirs in zip(KINDS, clouds, strict=True):
        assert said_in(unframed(theirs.file())) == golden[kind]


KINDS = ("snapshot", "delta", "repair")


def said_in(parts: list[bytes]) -> tuple[dict[str, Any], bytes]:
    """A manifest and the lines. How these are cut and packed is the maker's."""
    manifest: dict[str, Any] = cbor2.loads(cbor2.loads(parts[0])[0])
    del manifest["chunks"]
    return manifest, b"".join(map(zlib.decompress, parts[1:]))


async def test_a_reset_of_revisions_takes_the_new_keys_bundle(gate: Gate) -> None:
    """Each number is below the one before; only a set with other `bundle` keys allows that."""
    assert await gate.take(V["bundle"]["snapshot"]) == "taken"
    after = V["bundle"]["after the second root"]
    assert await gate.take(after) == "unknown_key"
    gate.keys = next_root(gate.keys, bytes.fromhex(V["root"]["second"]))
    assert await gate.take(V["bundle"]["delta"]) == "unknown_key"
    assert await gate.take(after) == "rollback"
    await gate.cache.raise_root(2, resets=resets_revision(keys(), gate.keys))
    assert await gate.take(after) == "taken"
    assert gate.cache.held.in_force == (1, bytes.fromhex(V["set_b"]["digest"]))


# --- Messages to the gateway ----------------------------------------------------------------------


def take_beacon(data: str) -> str:
    freshness = Freshness(HERE, timedelta(minutes=15), timedelta())
    try:
        freshness.take(bytes.fromhex(data), keys(), (7, DIGEST_A), NOW, timedelta())
    except BreaksRule as broken:
        return broken.rule.value
    return "taken"


def take_ack(data: str) -> str:
    try:
        open_ack(bytes.fromhex(data), keys(), HERE)
    except BreaksRule as broken:
        return broken.rule.value
    return "taken"


def take_command(data: str) -> str:
    sealed = bytes.fromhex(data)
    try:
        command = open_command(
            sealed, keys(), AUDIENCE, NOW, is_spent=lambda _: False, retained=False
        )
    except CommandRefused as refused:
        return refused.reason
    assert seal_command(command, private("cmd-1")) == sealed
    return "taken"


TAKES = {"beacon": take_beacon, "ack": take_ack, "command": take_command}


@pytest.mark.parametrize("name", TAKES)
def test_messages_to_the_gateway(name: str) -> None:
    for what, data in V[name].items():
        assert (what, TAKES[name](data)) == (what, "taken")
    for reason, what, data in V[f"{name}_refused"]:
        assert (what, TAKES[name](data)) == (what, reason)


def test_a_beacon_that_answers_a_nonce_tells_the_time() -> None:
    freshness = Freshness(HERE, timedelta(minutes=15), timedelta())
    freshness.sent(bytes(range(16)), timedelta())
    data = bytes.fromhex(V["beacon"]["answers a nonce"])
    heard = freshness.take(data, keys(), (7, DIGEST_A), NOW, timedelta(seconds=3))
    said = AT + timedelta(milliseconds=250)
    assert heard.time == (said, said + timedelta(seconds=3))


@pytest.mark.parametrize(
    ("name", "signer"), [("beacon", "fresh-1"), ("ack", "fresh-1"), ("command", "cmd-1")]
)
def test_the_cloud_signs_the_same_bytes(name: str, signer: str) -> None:
    for data in V[name].values():
        payload = cbor2.loads(cbor2.loads(bytes.fromhex(data)).value[2])
        assert message(payload, private(signer), f"door-gateway/{name}/v1").hex() == data


# --- And from it ----------------------------------------------------------------------------------


def test_parity_reports_are_these() -> None:
    in_force = Revision(7, DIGEST_A)
    counts = {"site": 1, "zone": 2, "credential": 2}
    buckets = b"".join(digest_of(set_of("set_a"), DIGEST_KEY).buckets())
    report = Parity(
        *HERE, V["instant"] * 1000 + 1, 2, in_force, V["instant"], 1, counts, {"front": 2},
        bytes(range(16)), None,
    )  # fmt: skip
    empty = report._replace(enforced=None, as_of=None, records={}, doors={})
    made = [report, report._replace(buckets=buckets), empty]
    assert [each.sealed(private("gateway")).hex() for each in made] == list(V["parity"].values())


def test_results_are_these() -> None:
    done = Result(bytes(range(16)), "done", None, V["instant"] * 1000 + 2, 4, 41)
    malformed = Result(None, "refused", "malformed", V["instant"] * 1000 + 2, 4)
    logs = msgspec.structs.replace(done, lines=("caf\u00e9", "the newest"))
    made = [done, malformed, logs]
    assert [seal_result(each, private("gateway")).hex() for each in made] == list(
        V["result"].values()
    )


@pytest.mark.parametrize("name", ["parity", "result"])
def test_the_cloud_reads_them(name: str) -> None:
    key = private("gateway").public_key()
    for data in V[name].values():
        payload = opened(bytes.fromhex(data), key, f"door-gateway/{name}/v1")
        assert message(payload, private("gateway"), f"door-gateway/{name}/v1").hex() == data
        with pytest.raises(ValueError, match="signature"):
            opened(bytes.fromhex(data), key, "door-gateway/ack/v1")
