"""The cloud to be copied: what it makes of what gateways say."""

import json
import time
from datetime import UTC, datetime
from typing import Any

import paho.mqtt.client as mqtt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gateway.trust.bundle import Held, Revision, check_manifest
from gateway.trust.root import Now, first_root
from hwsim.cloud import Cloud, Keyring, RecordBook
from hwsim.cloud.cloud import PARITY, REPORT_APART_S_MAX
from hwsim.cloud.signing import message

BOX = Ed25519PrivateKey.generate()
SITE = {"v": 1, "type": "site", "id": "LON", "timezone": "Europe/London"}


class Saying(Cloud):
    """Never connected: what it would publish is kept."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.said: list[tuple[str, bytes]] = []

    def tell(self, gateway: str, name: str, payload: bytes, *, retain: bool = False) -> None:
        del gateway, retain
        self.said.append((name, payload))

    def names(self) -> list[str]:
        names, self.said = [name for name, _ in self.said], []
        return names

    def hears(self, name: str, payload: bytes) -> None:
        sent = mqtt.MQTTMessage(topic=f"acs/v1/LON/lon-1/{name}".encode())
        sent.payload = payload
        self._on_message(self._client, None, sent)

    def hears_report(self, at_ms: int, **changed: Any) -> None:
        revision = self.book.current
        assert revision is not None
        report = {
            "site": "LON",
            "gateway": "lon-1",
            "at_ms": at_ms,
            "trust": 2,
            "revision": revision.number,
            "nonce": bytes(16),
            "buckets": bytes(32 * 256),
        }
        self.hears("parity", message(report | changed, BOX, PARITY))


@pytest.fixture
def cloud() -> Saying:
    made = Saying("localhost", 1883, Keyring("LON", now_s()), RecordBook("LON", bytes(32), [SITE]))
    made.register("lon-1", BOX.public_key())
    made.sell()
    made.names()
    return made


def now_s() -> int:
    return int(time.time())  # noqa: TID251 - the cloud has its own


def need(**changed: Any) -> bytes:
    whole = {"v": 1, "revision": None, "digest": None, "chunks": [], "root": 1} | changed
    return json.dumps(whole).encode()


def test_a_gateway_that_missed_key_sets_gets_them_one_after_the_other(cloud: Saying) -> None:
    first = cloud.keyring
    second = first.successor(first.made)
    third = second.successor(first.made)
    cloud.rotate(second)
    cloud.rotate(third)
    cloud.said.clear()
    for version, document in ((1, second.root(also=first)), (2, third.root(also=second))):
        cloud.hears("sync/need", need(root=version))
        assert cloud.said == [("sync/manifest", document)]
        cloud.said.clear()
    cloud.hears("sync/need", need(root=3))
    assert cloud.names() == ["sync/manifest"]  # the records
    cloud.answers = False
    cloud.hears("sync/need", need(root=1))
    assert cloud.names() == []


def test_a_gateway_that_was_away_gets_what_two_have_signed_with_both_signatures(
    cloud: Saying,
) -> None:
    first, large, last = cloud.book.current, cloud.sell(signatures=2), cloud.sell()
    assert first is not None
    root = first_root(cloud.keyring.root(), "LON")
    cloud.said.clear()
    for has, gets, signatures in ((first, large, 2), (large, last, 1)):
        cloud.hears("sync/need", need(revision=has.number, digest=has.digest().hex()))
        ((_, document),) = cloud.said
        cloud.said.clear()
        signed = check_manifest(
            document,
            root,
            Held(Revision(has.number, has.digest()), None),
            gateway="lon-1",
            now=Now(datetime.now(UTC), trusted=True),  # noqa: TID251 - as the cloud's
            disk_free=1 << 30,
        )
        assert (signed.manifest.revision, len(signed.signers)) == (gets.number, signatures)


def test_a_report_counts_once_and_in_its_time_only(cloud: Saying) -> None:
    state, now_ms = cloud.gateways["lon-1"], now_s() * 1000
    cloud.hears_report(now_ms)
    assert cloud.names() == ["beacon", "sync/manifest"]  # vouched for, and repaired
    apart = (REPORT_APART_S_MAX + 5) * 1000
    for at_ms in (now_ms, now_ms - 1, now_ms - apart, now_ms + apart):
        cloud.hears_report(at_ms)
        assert cloud.names() == ["beacon"]
    assert [report["at_ms"] for report in state.parity] == [now_ms]
    assert (state.repairs, state.stale) == (1, 4)
    cloud.hears_report(now_ms + 1)
    assert (len(state.parity), state.repairs) == (2, 2)


@pytest.mark.parametrize("changed", [{"trust": 1}, {"site": "PAR"}, {"gateway": "lon-2"}], ids=str)
def test_a_report_without_the_time_or_of_another_is_not_what_is_at_the_doors(
    cloud: Saying, changed: dict[str, Any]
) -> None:
    cloud.hears_report(now_s() * 1000, **changed)
    state = cloud.gateways["lon-1"]
    assert (state.parity, state.repairs) == ([], 0)
    # A gateway that doesn't know the time learns it by its report.
    assert cloud.names() == (["beacon"] if "trust" in changed else [])
