"""The offline half of a site's trust: keys, key sets, bundles made, signed and verified."""

import asyncio
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from demo.brokers import any_broker
from gateway.cli import main
from gateway.domain.instants import format_instant
from gateway.domain.json_text import decode_object
from gateway.trust.bundle import DOCUMENT_BYTES_MAX, framed, manifest_in, unframed
from gateway.trust.keys import read_private_key
from gateway.trust.making import About, canonical_records, delta, signed, snapshot
from gateway.trust.root import first_root, next_root, opened_document
from tests.cache.conftest import CARD, records
from tests.link.rig import until

KEYS = ("ada", "ben", "cy", "b1", "b2", "f", "c", "g")


@pytest.fixture
def at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    assert main(["bundle", "keys", ".", *KEYS]) == 0
    (tmp_path / "records.jsonl").write_bytes(records())
    return tmp_path


ROLES = [
    *("--role", "root=ada.pub,ben.pub,cy.pub", "--role", "bundle=b1.pub,b2.pub"),
    *("--role", "freshness=f.pub", "--role", "command=c.pub", "--role", "grant=g.pub"),
    *("--threshold", "root=2"),
]
NEW_ROOT = ["bundle", "root", "new", "--site", "LON", "-o", "root.cbor", *ROLES, "--key", "ada.pem"]


def new_root() -> None:
    assert main(NEW_ROOT) == 0
    assert main(["bundle", "root", "sign", "root.cbor", "--key", "ben.pem"]) == 0


def sign(*more: str, of: str = "records.jsonl", out: str = "1.bundle", revision: int = 1) -> int:
    return main(
        [
            *("bundle", "sign", of, "--site", "LON", "--gateway", "gw-1", "--key", "b1.pem"),
            *("--revision", str(revision), "--digest-key", "lon.digest", "-o", out, *more),
        ]
    )


def verify(bundle: str = "1.bundle", *more: str) -> int:
    return main(["bundle", "verify", "--root", "root.cbor", bundle, *more])


def test_a_key_set_is_signed_on_as_many_machines_as_it_takes(
    at: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(NEW_ROOT) == 0
    assert "lacks 1 signatures" in capsys.readouterr().out
    assert main(["bundle", "root", "sign", "root.cbor", "--key", "ada.pem"]) == 0
    assert "lacks 1 signatures" in capsys.readouterr().out  # the same person again
    assert main(["bundle", "root", "sign", "root.cbor", "--key", "cy.pem"]) == 0
    assert "has all signatures" in capsys.readouterr().out
    root = first_root((at / "root.cbor").read_bytes(), "LON")
    assert {role: len(each.keys) for role, each in root.roles.items()} == {
        "root": 3,
        "bundle": 2,
        "freshness": 1,
        "command": 1,
        "grant": 1,
    }
    assert root.expires - root.made == 365 * 86_400


def test_a_key_set_in_which_nobody_could_sign_a_second_time_says_so(
    at: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(NEW_ROOT) == 0
    assert "one bundle key alone" not in capsys.readouterr().out
    other = {"bundle=b1.pub,b2.pub": "bundle=b1.pub", "root.cbor": "alone.cbor"}
    assert main([other.get(word, word) for word in NEW_ROOT]) == 0
    assert "no second signature can be given" in capsys.readouterr().out


def test_a_rotation_needs_both_and_says_what_it_resets(
    at: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new_root()
    assert main(["bundle", "keys", ".", "dee", "b3"]) == 0
    rotate = ["bundle", "root", "rotate", "root.cbor", "-o", "2.cbor", "--key", "ada.pem"]
    rotate += ["--role", "root=ada.pub,dee.pub", "--role", "bundle=b3.pub"]
    assert main(rotate) == 0
    said = capsys.readouterr().out
    assert "all bundle keys are replaced" in said
    assert "set the time back" not in said
    before = ("--before", "root.cbor", "--json")
    for person, lacking in (("dee", 1), ("ben", 0)):
        assert main(["bundle", "root", "sign", "2.cbor", "--key", f"{person}.pem", *before]) == 0
        assert json.loads(capsys.readouterr().out)["signatures_lacking"] == lacking
    show = ["bundle", "root", "show", "3.cbor", "--before", "root.cbor"]
    assert main([*rotate[:4], "-o", "3.cbor", *rotate[6:8], "--role", "freshness=b3.pub"]) == 0
    capsys.readouterr()
    assert main(show) == 0
    said = capsys.readouterr().out
    assert "the next proof of time may set the time back" in said
    assert "all bundle keys" not in said
    assert main([*show, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["resets_revision"], told["resets_time"]) == (False, True)
    first = first_root((at / "root.cbor").read_bytes(), "LON")
    assert next_root(first, (at / "2.cbor").read_bytes()).version == 2


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--role", "king=ada.pub"], "must be ROLE=FILE"),
        (["--role", "root=none.pub"], "can't be read"),
        (["--role", "root=ada.pem"], "no public key"),
        (["--threshold", "root=many"], "must be ROLE=N"),
        (["--threshold", "root=4"], "fewer keys than its threshold"),
        (["--threshold", "command=2"], "fewer keys|one signature"),
    ],
)
def test_a_key_set_that_cannot_be_is_not_made(
    at: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], why: str
) -> None:
    assert main([*NEW_ROOT, *arguments]) == 2
    said = capsys.readouterr().err
    assert any(each in said for each in why.split("|"))
    assert not (at / "root.cbor").exists()


def test_a_key_set_without_a_role_or_a_signature_is_not_made(
    at: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    at_grant = NEW_ROOT.index("grant=g.pub")
    short = NEW_ROOT[: at_grant - 1] + NEW_ROOT[at_grant + 1 :]
    assert main(short) == 2
    assert "no keys for the role" in capsys.readouterr().err
    assert main(NEW_ROOT[:-2]) == 2
    assert "nobody signs it" in capsys.readouterr().err


def test_a_bundle_is_made_verified_and_looked_into(
    at: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new_root()
    assert sign() == 0
    capsys.readouterr()
    assert verify() == 0
    assert capsys.readouterr().out == "good: snapshot, revision 1 of LON\n"
    assert main(["bundle", "inspect", "1.bundle"]) == 0
    said = capsys.readouterr().out
    assert "records: 16" in said
    assert "3 holder" in said
    assert CARD not in said
    assert (at / "1.bundle").stat().st_mode & 0o077 == 0
    assert len((at / "lon.digest").read_bytes()) == 32
    assert sign("--gateway", "\x1b[2J\u202egw\n", out="2.bundle") == 0
    assert main(["bundle", "inspect", "2.bundle"]) == 0  # what a stranger made, on a terminal
    assert "gateways: gw-1, \\u001b[2J\\u202egw\\n\n" in capsys.readouterr().out


def test_a_delta_is_made_of_two_and_another_signature_is_added(
    at: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new_root()
    assert sign() == 0
    (at / "next.jsonl").write_bytes(records(status="suspended"))
    assert sign("--base", "1.bundle", of="next.jsonl", out="2.bundle", revision=2) == 0
    again = ["bundle", "sign", "2.bundle", "--key", "b2.pem", "--key", "b1.pem", "-o", "3.bundle"]
    assert main(again) == 0
    capsys.readouterr()
    assert main(["bundle", "inspect", "3.bundle", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["kind"], told["base"], told["lines"]) == ("delta", 1, {"holder": 3})
    assert len(told["signed_by"]) == 2
    assert verify("3.bundle") == 0
    other = ["--base", "1.bundle", "--digest-key", "other.digest"]
    assert sign(*other, of="next.jsonl", out="4.bundle", revision=4) == 2
    assert "another digest key" in capsys.readouterr().err
    assert sign("--base", "1.bundle", of="next.jsonl", out="4.bundle", revision=1) == 2
    assert "give a higher one" in capsys.readouterr().err


def test_a_delta_is_made_of_a_snapshot_and_the_deltas_since(
    at: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new_root()
    was = records().splitlines(keepends=True)
    (at / "2.jsonl").write_bytes(records(status="suspended"))
    # A holder goes, and takes along what nobody names.
    (at / "3.jsonl").write_bytes(b"".join(line for line in was if b'"h2"' not in line))
    assert sign() == 0
    assert sign("--base", "1.bundle", of="2.jsonl", out="2.bundle", revision=2) == 0
    chain = ["--base", "1.bundle", "--base", "2.bundle"]
    assert sign(*chain, of="3.jsonl", out="3.bundle", revision=3) == 0
    chain += ["--base", "3.bundle"]
    assert sign(*chain, of="records.jsonl", out="4.bundle", revision=4) == 0
    capsys.readouterr()
    for name in ("3.bundle", "4.bundle"):
        assert verify(name) == 0
    document, *_ = unframed((at / "4.bundle").read_bytes())
    manifest = manifest_in(opened_document(document, DOCUMENT_BYTES_MAX).payload)
    first, *_ = unframed((at / "1.bundle").read_bytes())
    assert manifest.digest == manifest_in(opened_document(first, DOCUMENT_BYTES_MAX).payload).digest
    capsys.readouterr()
    for base in (["2.bundle"], ["1.bundle", "3.bundle"], ["1.bundle", "2.bundle", "2.bundle"]):
        given = [word for name in base for word in ("--base", name)]
        assert sign(*given, of="3.jsonl", out="5.bundle", revision=5) == 2
        assert "give --base for the snapshot that it goes back to" in capsys.readouterr().err
    (at / "bare.bundle").write_bytes(b"".join(framed([first])))
    assert sign("--base", "bare.bundle", of="3.jsonl", out="5.bundle", revision=5) == 2
    assert "has 0 of 1 chunks" in capsys.readouterr().err


def test_verify_exits_1_with_the_rule_that_it_breaks(
    at: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new_root()
    assert sign() == 0
    good = (at / "1.bundle").read_bytes()
    document, *_ = unframed(good)
    (at / "cut.bundle").write_bytes(good[:-1])
    (at / "alone.bundle").write_bytes(good[: 8 + 4 + len(document)])
    (at / "bent.bundle").write_bytes(good[:-3] + b"xyz")
    (at / "forged.bundle").write_bytes(good.replace(b"gw-1", b"gw-2"))
    assert sign("--key", "b2.pem", out="other.bundle") == 0
    (at / "faulty.jsonl").write_bytes(records() + b'{"type":"zone","id":"z","category":"x"}\n')
    assert sign(of="faulty.jsonl", out="faulty.bundle") == 2
    capsys.readouterr()
    in_two_months = format_instant(datetime.now(UTC) + timedelta(days=60))  # noqa: TID251 - as it does
    for name, rule, *more in (
        ("cut.bundle", "malformed"),
        ("alone.bundle", "chunk"),
        ("bent.bundle", "chunk"),
        ("forged.bundle", "bad_signature"),
        ("1.bundle", "wrong_gateway", "--gateway", "gw-9"),
        ("1.bundle", "expired", "--at", in_two_months),
        ("1.bundle", "not_yet", "--at", "2020-01-01T00:00:00Z"),
        ("records.jsonl", "malformed"),
    ):
        assert verify(name, *more) == 1, name
        assert capsys.readouterr().out.startswith(f"{rule}: ")
        assert verify(name, *more, "--json") == 1
        assert json.loads(capsys.readouterr().out)["rule"] == rule


def test_another_sites_records_are_neither_signed_nor_verified_nor_looked_through(
    at: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new_root()
    (at / "par.jsonl").write_bytes(records().replace(b'"id": "LON"', b'"id": "PAR"'))
    assert sign(of="par.jsonl") == 2
    assert "site\tPAR\tid\trecords of site 'PAR'" in capsys.readouterr().err
    assert not (at / "1.bundle").exists()
    assert sign("--site", "PAR", of="par.jsonl", out="par.bundle") == 0
    assert sign() == 0
    # What a signer that looks at no id would make: a snapshot, and a delta upon this site's.
    first, par = (
        canonical_records(
            decode_object(line).members for line in (at / name).read_bytes().splitlines()
        )
        for name in ("records.jsonl", "par.jsonl")
    )
    digest_key = (at / "lon.digest").read_bytes()
    made_s = int(datetime.now(UTC).timestamp())  # noqa: TID251 - as it does
    about = About("LON", ("gw-1",), 2, made_s, made_s + 86_400, digest_key)
    key = read_private_key(at / "b1.pem")
    for name, made in (("s", snapshot(par, about)), ("d", delta(first, par, about, 1))):
        (at / f"{name}.bundle").write_bytes(b"".join(framed([signed(made, [key]), *made.chunks])))
        capsys.readouterr()
        assert verify(f"{name}.bundle") == 1
        assert capsys.readouterr().out.startswith("wrong_site: records of site 'PAR'")
        again = ["bundle", "sign", f"{name}.bundle", "--key", "b2.pem", "-o", "twice.bundle"]
        assert main(again) == 2
        assert "wrong_site" in capsys.readouterr().err
    assert main(["bundle", "lint", "s.bundle"]) == 2
    assert "wrong_site" in capsys.readouterr().err


def test_what_is_there_is_not_written_over(at: Path, capsys: pytest.CaptureFixture[str]) -> None:
    new_root()
    assert main(NEW_ROOT) == 2
    assert main(["bundle", "keys", ".", "ada"]) == 2
    assert sign("--gateway", "gw-2") == 0
    assert sign() == 2
    assert capsys.readouterr().err.count("exists") == 3
    assert main(["bundle", "sign", "records.jsonl", "--key", "b1.pem", "-o", "x"]) == 2
    (at / "short.digest").write_bytes(b"short")
    assert sign("--digest-key", "short.digest", out="x") == 2
    assert main(["bundle", "verify", "--root", "1.bundle", "1.bundle"]) == 2
    assert main(["bundle", "verify", "--root", "root.cbor", "none.bundle"]) == 2
    said = capsys.readouterr().err
    for why in ("--digest-key are needed", "has 32 bytes", "--root: malformed", "can't be read"):
        assert why in said


async def test_publish_sends_the_document_and_every_chunk(
    at: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new_root()
    assert sign("--gateway", "gw 2") == 0
    heard: list[tuple[str, bytes]] = []
    client = mqtt.Client(CallbackAPIVersion.VERSION2)
    client.on_message = lambda _client, _data, sent: heard.append((sent.topic, bytes(sent.payload)))
    async with any_broker(at / "broker") as broker:
        client.connect("127.0.0.1", broker.port)
        client.subscribe("acs/v1/LON/+/sync/+", 1)
        client.loop_start()
        send = ["bundle", "publish", "1.bundle", "--host", "127.0.0.1", "--port", str(broker.port)]
        assert await asyncio.to_thread(main, [*send, "--wait", "1s"]) == 1
        assert "gw-1: snapshot, revision 1: not in force yet: no answer" in capsys.readouterr().out
        parts = unframed((at / "1.bundle").read_bytes())
        await until(lambda: len(heard) == 2 * len(parts))
        root = ["bundle", "publish", "root.cbor", *send[3:]]
        assert await asyncio.to_thread(main, root) == 2
        assert await asyncio.to_thread(main, [*root, "--gateway", "gw-9"]) == 0
        key_set = ("acs/v1/LON/gw-9/sync/manifest", (at / "root.cbor").read_bytes())
        await until(lambda: key_set in heard)
        client.disconnect()
        await asyncio.to_thread(client.loop_stop)
    for gateway in ("gw-1", "gw%202"):
        prefix = f"acs/v1/LON/{gateway}/sync"
        sent = [("manifest", parts[0]), *(("chunk", part) for part in parts[1:])]
        assert [each for each in heard if each[0].startswith(prefix)] == [
            (f"{prefix}/{name}", part) for name, part in sent
        ]
    assert await asyncio.to_thread(main, send) == 2
    assert "no session with the broker" in capsys.readouterr().err
    assert main([*send, "--ca", "b1.pub", "--cert", "gone.pem"]) == 2
    assert "gone.pem" in capsys.readouterr().err
