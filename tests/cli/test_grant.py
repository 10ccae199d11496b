"""A visitor's code: issued, drawn, dimmed, read by another's decoder, and believed at the door."""

import io
import json
import random
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import zxingcpp
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, derive_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from PIL import Image, ImageChops, ImageFilter

from gateway.cli import main
from gateway.cli.grant import QUIET_MODULES, drawn, signed_text
from gateway.domain.carried_grant import CarriedGrant, Medium, proven_value
from gateway.trust.grants import Claims, verify
from gateway.trust.keys import kid_of, write_key
from hwsim.secure_cards import point as uncompressed

KEY = Ed25519PrivateKey.from_private_bytes(bytes(32))
KEYS = {kid_of(KEY.public_key()): KEY.public_key()}
NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)
PHONE = uncompressed(derive_private_key(7, SECP256R1())).hex()
READABLE = 30
"""Percent of full contrast at which every code must still be read."""
CODES = 40
"""Codes of each kind that are read: at little contrast the pattern of modules decides."""
SIDE = 800
"""Of the noise, in pixels: more than the largest picture."""


@cache
def camera_noise() -> Image.Image:
    """A standard deviation of 3 levels around 128."""
    rng = random.Random(1)
    levels = (min(max(round(rng.gauss(128, 3)), 0), 255) for _ in range(SIDE * SIDE))
    return Image.frombytes("L", (SIDE, SIDE), bytes(levels))


@pytest.fixture
def key(tmp_path: Path) -> Path:
    path = tmp_path / "grant.pem"
    write_key(path, KEY)
    return path


def issued(capsys: pytest.CaptureFixture[str], key: Path, *more: str) -> dict[str, Any]:
    arguments = ["grant", "issue", "--key", str(key), "--gateway", "LON/gw-1", "--json"]
    assert main([*arguments, *more]) == 0
    told: dict[str, Any] = json.loads(capsys.readouterr().out)
    return told


def dimmed(picture: Image.Image, percent: int, rng: random.Random) -> Image.Image:
    """As a camera sees a dark screen: little between black and white, and out of focus."""
    grey = picture.convert("L").point([128 + (v - 128) * percent // 100 for v in range(256)])
    blurred = grey.filter(ImageFilter.GaussianBlur(1.5))
    left, top = (rng.randrange(SIDE - side) for side in blurred.size)
    noise = camera_noise().crop((left, top, left + blurred.width, top + blurred.height))
    return ImageChops.add(blurred, noise, offset=-128)


def read(picture: Image.Image) -> str | None:
    found = zxingcpp.read_barcodes(picture)
    return found[0].text if found else None


def test_a_printed_code_is_read_and_believed(
    key: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "ada.png"
    told = issued(
        capsys, key, "--holder", "v-ada", "--door", "front", "--zone", "club", "--lasts", "9h",
        "--uses", "4", "--out", str(out),
    )  # fmt: skip
    with Image.open(out) as picture:
        text = read(dimmed(picture, 2 * READABLE, random.Random(1)))
    assert text is not None
    assert text == told["text"]
    grant = verify(text, KEYS, "LON/gw-1")
    assert isinstance(grant, CarriedGrant)
    assert (grant.holder, grant.doors, grant.zones) == ("v-ada", ("front",), ("club",))
    assert (grant.uses, grant.expires - grant.not_before) == (4, timedelta(hours=9))
    assert main(["grant", "read", text, "--json"]) == 0
    claimed = json.loads(capsys.readouterr().out)
    assert (claimed["id"], claimed["gateways"], claimed["uses"]) == (told["id"], ["LON/gw-1"], 4)
    assert main(["grant", "read", text]) == 0
    assert "not checked" in capsys.readouterr().out
    assert main(["grant", "read", "DG1:NOTHING"]) == 1


def test_a_code_on_a_screen_lasts_a_minute(
    key: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "ada.svg"
    more = ("--holder", "h", "--door", "front", "--screen", "--out", str(out))
    grant = verify(issued(capsys, key, *more)["text"], KEYS, "LON/gw-1")
    assert isinstance(grant, CarriedGrant)
    assert (grant.medium, grant.uses) == ("screen", 1)
    assert grant.expires - grant.issued == timedelta(seconds=60)
    assert out.read_text().startswith("<?xml")


def test_a_phones_grant_is_a_message_for_whoever_has_its_key(
    key: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ("--holder", "v-ada", "--door", "front", "--lasts", "30d", "--phone", PHONE)
    message = issued(capsys, key, *more)["message"]
    proven = proven_value(bytes.fromhex(PHONE), bytes.fromhex(message))
    grant = verify(proven, KEYS, "LON/gw-1")
    assert isinstance(grant, CarriedGrant)
    assert (grant.medium, grant.holder) == ("device", "v-ada")
    arguments = ["grant", "issue", "--key", str(key), "--gateway", "LON/gw-1", *more]
    assert main(arguments) == 0
    assert len(capsys.readouterr().out.strip()) == len(message)


@pytest.mark.parametrize(
    ("more", "why"),
    [
        (("--door", "front"), "--lasts"),
        (("--lasts", "9h"), "opens nothing"),
        (("--door", "front", "--lasts", "9h", "--phone", "04" + "00" * 64), "--phone"),
        (("--door", "front", "--screen", "--phone", PHONE), "neither on a screen"),
        (("--door", "front", "--lasts", "2d", "--uses", "0"), "lasts a day"),
        (("--door", "front", "--lasts", "9h", "--begins", "noon"), "--begins noon"),
        (("--door", "front", "--lasts", "9h", "--out", "ada.gif"), "ada.gif"),
        (("--door", "front", "--lasts", "9h", "--out", "/nowhere/ada.png"), "/nowhere/ada.png"),
    ],
)
def test_what_can_not_be_issued_is_said(
    more: tuple[str, ...], why: str, key: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["grant", "issue", "--key", str(key), "--gateway", "LON/gw-1", "--holder", "h"]
    assert main([*arguments, *more]) == 2
    assert why in capsys.readouterr().err


KINDS: list[tuple[str, Medium, dict[str, Any]]] = [
    ("a screen, one door", "screen", {"doors": ("front",), "uses": 1}),
    ("paper, one door", "paper", {"doors": ("front",), "uses": 4}),
    ("paper, three zones", "paper", {"zones": ("club", "meeting-rooms", "roof"), "uses": 4}),
    ("paper, 16 doors", "paper", {"doors": tuple(f"door-{n:02}" for n in range(16)), "uses": 4}),
]


@pytest.mark.parametrize(("kind", "medium", "what"), KINDS)
def test_every_kind_of_code_is_small_enough_to_be_read_in_the_dark(
    kind: str, medium: Medium, what: dict[str, Any]
) -> None:
    """The table in docs/spec/carried-grants.md."""
    rng = random.Random(1)
    were_read = dict.fromkeys((READABLE, 20, 15, 10), 0)
    shapes = set()
    for n in range(CODES):
        issued_at = NOON + timedelta(minutes=7 * n)
        grant = CarriedGrant(
            id=rng.randbytes(8).hex(), holder=f"v-{rng.randbytes(3).hex()}", medium=medium,
            issued=issued_at, not_before=issued_at, expires=issued_at + timedelta(seconds=60),
            **what,
        )  # fmt: skip
        text = signed_text(Claims(grant, ("LON/gw-1",)), KEY)
        code = drawn(text, medium)
        shapes.add(f"{len(text)} | {code.designator} | {code.symbol_size(border=0)[0]}")
        picture = io.BytesIO()
        code.save(picture, kind="png", scale=4, border=QUIET_MODULES)
        with Image.open(picture) as image:
            for percent in were_read:
                were_read[percent] += read(dimmed(image, percent, rng)) == text
    (shape,) = shapes
    assert were_read[READABLE] == CODES
    print(f"| {kind} | {shape} | {' | '.join(map(str, were_read.values()))} |")
    # Below that the counts are as measured: another build of the decoder may read one more or less.
    page = Path(__file__).parents[2] / "docs" / "spec" / "carried-grants.md"
    assert f"| {kind} | {shape} | {CODES} |" in page.read_text(encoding="utf-8")
