"""Secure cards and phones through the whole stack: chip, worker, core, disk, strike."""

import asyncio
import os
import signal
import time
import tomllib
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import tomli_w

from gateway.domain import events
from gateway.domain.carried_grant import CarriedGrant
from gateway.trust.grants import Claims, issue, point
from hwsim.bluez.site import key_named
from tests.process.rig import (
    SAM,
    Rig,
    as_lines,
    assert_sound,
    records,
    site_config,
    standing_rig,
    until,
)
from tests.trust.keyring import key, kid, root_document

pytestmark = [pytest.mark.process, pytest.mark.asyncio(loop_scope="module")]

BLUEZ_BACK_S_MAX = 15.0
"""docs/promises.md P19."""
AWAY_S = 0.4
"""A card or phone is a new one once it has been away for a quarter of a second."""
READER, SCANNER, PHONES = "back-reader", "back-scanner", "front-phones"
GATEWAY, DOOR = "00" * 15 + "01", "00" * 15 + "0B"
SUN = {
    "url": "https://tap.example.com/t?e={picc}&c={mac}", "diversification": "4C4F4E",
    "picc_key": "/keys/sun-picc", "mac_key": "/keys/sun-mac",
}  # fmt: skip


def secure_config(directory: Path) -> dict[str, Any]:
    """The rig's site, whose back door takes everything and wants more than a UID."""
    config = site_config(directory)
    config["devices"][READER] |= {
        "credentials": ["desfire", "grant", "sun", "uid"],
        "desfire": {
            "aid": "F58840", "authentication": "ev2", "key": "/keys/desfire", "key_number": 1,
            "file": 1, "id_bytes": 8, "diversification": "F588404C4F4E",
        },
        "grant": {"reader_identifier": GATEWAY + DOOR},
        "sun": SUN,
    }  # fmt: skip
    scanner = {"driver": "barcode_scanner", "port": "/dev/serial/by-path/9", "suffix": "\r"}
    config["devices"][SCANNER] = {**scanner, "sun": SUN}
    config["devices"][PHONES] = {
        "driver": "ble_reader", "adapter": "B8:27:EB:01:02:03", "flows": "any",
        "site_identifier": "7f3a2c52-0c61-4d0b-a52d-1c4b5d1f0a10",
        "reader_identifier": "7f3a2c52-0c61-4d0b-a52d-1c4b5d1f0a11",
    }  # fmt: skip
    config["doors"]["front"]["readers"].append({"device": PHONES, "side": "in"})
    config["doors"]["back"] |= {"assurance": "medium"}
    config["doors"]["back"]["readers"].append({"device": SCANNER, "side": "in"})
    return config


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def rig(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Rig]:
    """The site with a running core."""
    tmp_path = tmp_path_factory.mktemp("cards")
    async with standing_rig(tmp_path, config=secure_config(tmp_path)) as standing:
        found = records()
        values = {"pkoc": await standing.site.phone_key("Sam")}
        for kind in ("desfire", "sun"):
            values[kind] = await standing.site.secure_value(READER, kind, "Sam")
        for kind, value in values.items():
            found.append({"type": "credential", "id": f"{kind}-sam", "holder": "h-sam",
                          "kind": kind, "value": value})  # fmt: skip
        standing.records.write_text(as_lines(found), encoding="utf-8")
        await standing.imported()
        root = tmp_path / "1.root"
        root.write_bytes(root_document(made=now_s() - 60, expires=now_s() + 86_400))
        config = tomllib.loads(standing.config.read_text())
        standing.config.write_text(tomli_w.dumps({**config, "trust": {"root": str(root)}}))
        await standing.core()
        yield standing


def now_s() -> int:
    return time.time_ns() // 10**9


def grant_for(phone: str, number: int, audience: str = "LON/lon-1") -> str:
    """A grant for the back door, for whoever has the key of `phone`: hex digits."""
    issued = datetime.fromtimestamp(now_s() + 1, UTC)  # after the records: they know nobody of it
    grant = CarriedGrant(
        id=f"{number:016x}", holder="v-ada", medium="device", doors=("back",), issued=issued,
        not_before=issued - timedelta(seconds=60), expires=issued + timedelta(hours=1), uses=1,
    )  # fmt: skip
    claims = Claims(grant, (audience,), point(key_named(phone).public_key()))
    return issue(claims, key("grant-1"), kid("grant-1")).hex()


def bent(grant: str) -> str:
    """With another signature."""
    return f"{grant[:-1]}{int(grant[-1], 16) ^ 1:x}"


async def test_without_bluez_cards_go_on_and_phones_are_back_within_15_s(rig: Rig) -> None:
    site = rig.site
    await until("phones", lambda: rig.online(PHONES))
    await rig.release_by("front", site.tap_phone(PHONES, "Sam"))
    before = await rig.last_seq()
    gone = asyncio.ensure_future(site.bluetooth.bluez.restart(away_s=2.0))
    await rig.event(events.DeviceDown, lambda event: event.device == PHONES, after=before)
    await rig.release_by("back", site.present_secure(READER, "desfire", "Sam", 0.15))
    assert not await rig.online(PHONES)
    await gone
    await until("phones are back", lambda: rig.online(PHONES), BLUEZ_BACK_S_MAX)
    await rig.at_rest()
    await rig.release_by("front", site.tap_phone(PHONES, "Sam"))
    await rig.at_rest()


async def test_cards_and_phones_that_prove_themselves_open_and_copies_do_not(rig: Rig) -> None:
    site = rig.site

    async def refused(why: str, kind: str = "grant", **how: Any) -> None:
        await asyncio.sleep(AWAY_S)
        before = await rig.last_seq()
        await site.present_secure(READER, kind, "Ada" if kind == "grant" else "Sam", 0.15, **how)
        told = await rig.event(events.CredentialRefused, after=before)
        assert (told.door, told.kind, told.why) == ("back", kind, why)

    async def denied(reason: str) -> None:
        await asyncio.sleep(AWAY_S)
        before = await rig.last_seq()
        await site.present_secure(READER, "grant", "Eve", 0.15)
        assert (await rig.event(events.AccessDecided, after=before)).reason == reason

    await asyncio.sleep(AWAY_S)
    # A card that can't be copied, its copy, and a copy of the UID of a card that may everywhere.
    await rig.release_by("back", site.present_secure(READER, "desfire", "Sam", 0.15))
    await rig.at_rest("back")
    await refused("wrong_key", "desfire", forged=True)
    told = await rig.stays_shut("back", SAM, await rig.last_seq())
    assert (told.reason, told.holder) == ("assurance_too_low", "h-sam")
    # A phone with a grant, of whose holder no record knows.
    await site.carry_grant("Ada", grant_for("Ada", 1))
    before = await rig.last_seq()
    await rig.release_by("back", site.present_secure(READER, "grant", "Ada", 0.15))
    opened = await rig.event(events.AccessDecided, after=before)
    assert (opened.reason, opened.holder, opened.kinds) == ("carried", "v-ada", ("carried_key",))
    assert opened.read_ms is not None
    await rig.at_rest("back")
    edges = len(rig.released("back"))
    again = grant_for("Ada", 2)
    for trick, why in (("replay", "not_authentic"), ("late", "nonce_too_old"),
                       ("malformed", "malformed"), ("locked", "declined")):  # fmt: skip
        await site.carry_grant("Ada", again, trick=trick)
        await refused(why)
    for elsewhere in (GATEWAY + "FF" * 16, "FF" * 16 + DOOR):
        await site.carry_grant("Ada", again, signs_for=elsewhere)
        await refused("not_authentic")
    await site.carry_grant("Ada", again)
    await refused("not_authentic", forged=True)
    for copied, reason in (
        (again, "grant_key_unproven"),
        (grant_for("Eve", 3, "LON/lon-2"), "grant_wrong_audience"),
        (bent(grant_for("Eve", 4)), "grant_bad_signature"),
        ("80", "grant_malformed"),
    ):
        await site.carry_grant("Eve", copied)
        await denied(reason)
    # A tag's message opens once, whatever happens to the power.
    address = await site.sun_address(READER, "Sam")
    assert len(rig.released("back")) == edges
    await rig.release_by("back", site.scan(SCANNER, address))
    await rig.at_rest("back")
    os.kill(rig.core_pid(), signal.SIGKILL)
    second = await rig.core()
    before = await rig.last_seq()
    await site.scan(SCANNER, address)
    assert (await rig.event(events.AccessDecided, after=before)).reason == "sun_replayed"
    await site.carry_grant("Ada", grant_for("Ada", 1))
    await site.present_secure(READER, "grant", "Ada", 0.15)
    spent = await rig.event(events.AccessDecided, lambda e: e.grant is not None, after=before)
    assert spent.reason == "uses_exhausted"
    assert len(rig.released("back")) == edges + 1
    assert await second.stop() == 0
    assert_sound(rig.stored())
    for file in rig.directory.glob("*.log"):
        assert again not in file.read_text()
