"""A core whose source of truth signs: a hostile link, and a power cut at the worst moment."""

import asyncio
import os
import signal
import time
import tomllib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from gateway.domain import events
from gateway.domain.carried_grant import CarriedGrant
from gateway.ipc.client import CoreClient, connect
from gateway.ipc.messages import Deliver, Outgoing
from gateway.trust import cose
from gateway.trust.beacon import ACK_CONTEXT
from gateway.trust.commands import RESULT_CONTEXT, Command, seal_command
from gateway.trust.grants import Claims, issue, to_text
from gateway.trust.keys import read_private_key
from tests.process.rig import Rig, assert_sound, figure, site_config, standing_rig, until
from tests.trust.keyring import key, kid, message, root_document

pytestmark = pytest.mark.process

SECOND = timedelta(seconds=1)


def command(number: int, **changed: Any) -> bytes:
    issued = datetime.fromtimestamp(now_s(), UTC)
    what: dict[str, Any] = {
        "cti": number.to_bytes(16, "big"),
        "audience": "LON/lon-1",
        "issued": issued,
        "expires": issued + 30 * SECOND,
        "act": "unlock",
        "by": "op-ivy",
        "why": "she rang",
        "target": "front",
        "target_kind": "door",
    }
    return seal_command(Command(**what | changed), key("command-1"))


class Hostile:
    """Whoever holds the link's end of the socket."""

    def __init__(self, rig: Rig, core: CoreClient) -> None:
        self._rig = rig
        self.core = core
        self.told: asyncio.Queue[Outgoing] = asyncio.Queue()

    async def listens(self) -> None:
        async for outgoing in self.core.watch_outbox():
            if outgoing.topic == "cmd/result":
                self.told.put_nowait(outgoing)

    async def sends(self, sealed: bytes, topic: Any = "cmd", *, retained: bool = False) -> int:
        deliver = Deliver(topic=topic, sealed=sealed, retained=retained)
        return (await self.core.deliver(deliver)).acknowledged

    async def result(self) -> dict[str, Any]:
        async with asyncio.timeout(5):
            outgoing = await self.told.get()
        own = read_private_key(self._rig.state / "gateway.key").public_key()
        keys = {cose.parse1(outgoing.payload).kid: own}
        opened = cose.verify1(outgoing.payload, keys, context=RESULT_CONTEXT)
        found: Any = cose.decode(opened.payload, bytes_max=1 << 16)
        return dict(found)


@asynccontextmanager
async def as_link(rig: Rig) -> AsyncIterator[Hostile]:
    async with connect(rig.socket, role="link") as core:
        link = Hostile(rig, core)
        listening = asyncio.create_task(link.listens())
        try:
            yield link
        finally:
            listening.cancel()
            await asyncio.wait({listening})


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    config = site_config(tmp_path)
    scanner = {"driver": "barcode_scanner", "port": "/dev/serial/by-path/9", "suffix": "\r"}
    config["devices"]["back-scanner"] = scanner
    config["doors"]["back"]["readers"].append({"device": "back-scanner", "side": "in"})
    async with standing_rig(tmp_path, config=config) as standing:
        # What was in force before the site's source of truth began to sign stays in force.
        await standing.imported()
        now = now_s()
        root = tmp_path / "1.root"
        root.write_bytes(root_document(made=now - 60, expires=now + 86_400))
        config = tomllib.loads(standing.config.read_text())
        config["trust"] = {"root": str(root)}
        standing.config.write_text(tomli_w.dumps(config))
        yield standing


async def test_a_signed_unlock_opens_once_whatever_the_link_does_and_wherever_the_power_goes(
    rig: Rig,
) -> None:
    core = await rig.core()
    async with as_link(rig) as link:
        good = command(1)
        edge = await rig.release_by("front", link.sends(good))
        first = await link.result()
        assert (first["outcome"], first["cti"]) == ("done", (1).to_bytes(16, "big"))
        figure(f"signed unlock, arrival to confirmed strike: {first['took_ms']} ms")
        unlock = await rig.event(events.RemoteUnlock)
        assert (unlock.door, unlock.by, unlock.why) == ("front", "op-ivy", "she rang")
        await rig.at_rest("front")
        for sealed, reason in (
            (good, "replayed"),
            (command(2, audience="LON/lon-2"), "wrong_audience"),
            (command(3, target="roof"), "unknown_door"),
            (good[:-1] + bytes([good[-1] ^ 1]), "bad_signature"),
            (os.urandom(100), "malformed"),
        ):
            await link.sends(sealed)
            assert (await link.result())["reason"] == reason
        await link.sends(command(4), retained=True)
        assert (await link.result())["reason"] == "retained"
        # Nothing unsigned lets an event be deleted, and nobody else's signature does.
        status = await link.core.status()
        with pytest.raises(Exception, match="only a signed acknowledgement"):
            await link.core.acknowledge(status.stream, status.last_seq)
        ack = {"site": "LON", "gateway": "lon-1", "stream": status.stream, "seq": 3, "at": 1}
        assert await link.sends(message(ack, "command-1", ACK_CONTEXT), "ack") == 0
        assert await link.sends(message(ack, "freshness-1", ACK_CONTEXT), "ack") == 3
        # The board falls silent, so that the power can go between the disk and the strike (F03).
        before = await rig.last_seq()
        await rig.site.hang("relays-a")
        cut = command(5)
        await link.sends(cut)
        await rig.event(events.RemoteUnlock, after=before)
    os.kill(rig.core_pid(), signal.SIGKILL)
    await core.kill()
    await rig.site.resume("relays-a")
    again = await rig.core()
    await rig.at_rest("front")
    since_ns = time.monotonic_ns()
    async with as_link(rig) as link:
        for sealed in (cut, good):
            await link.sends(sealed)
            assert (await link.result())["reason"] in ("replayed", "expired")
        assert not rig.released("front", since_ns)
        assert edge.door == "front"
    await until("the door is locked", lambda: not rig.is_released("front"))
    assert await again.stop() == 0
    assert_sound(rig.stored())


async def test_a_visitors_code_opens_once_though_nobody_has_heard_of_them(rig: Rig) -> None:
    core = await rig.core()
    status = await rig.status()
    assert status is not None
    assert status.as_of is not None
    as_of = status.as_of
    # Signed after the records were: it knows more of its holder.
    await until("the next second", lambda: now_s() > as_of.timestamp())
    issued = datetime.fromtimestamp(now_s(), UTC)
    grant = CarriedGrant(
        id="00112233445566ff", holder="v-ada", medium="paper", doors=("back",), issued=issued,
        not_before=issued, expires=issued + 3600 * SECOND, uses=1,
    )  # fmt: skip
    signing = key("grant-1")
    text = to_text(issue(Claims(grant, ("LON/lon-1",)), signing, kid("grant-1")))
    await rig.release_by("back", rig.site.scan("back-scanner", text))
    told = await rig.event(events.AccessDecided, lambda e: e.outcome == "grant")
    assert (told.reason, told.holder, told.via, told.grant) == ("carried", "v-ada", grant.id, grant)
    await rig.at_rest("back")
    os.kill(rig.core_pid(), signal.SIGKILL)
    await core.kill()
    again = await rig.core()
    before = await rig.last_seq()
    await rig.site.scan("back-scanner", text)
    denied = await rig.event(events.AccessDecided, after=before)
    assert denied.reason == "uses_exhausted"
    forged = text[:-1] + ("A" if text[-1] != "A" else "B")
    await rig.site.scan("back-scanner", forged)
    refused = await rig.event(events.AccessDecided, lambda e: e.refusal, after=before)
    assert refused.reason in ("grant_malformed", "grant_bad_signature")
    assert not rig.is_released("back")
    assert await again.stop() == 0
    copy = rig.directory / "copy.db"
    copy.write_bytes((rig.state / "journal.db").read_bytes())
    replayed = await rig.cli("replay", str(copy), "--records", str(rig.records))
    assert replayed.status == 0, replayed
    for file in rig.directory.glob("*.log"):
        assert text[4:40] not in file.read_text()


def now_s() -> int:
    return int(time.time())  # noqa: TID251 - the cloud has its own clock
