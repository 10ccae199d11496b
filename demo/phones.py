"""Phones, cards that can't be copied, and printed codes; and all that is refused, with its reason.

`make demo ARGS="--site phones"` plays it. Bluetooth needs dbus-daemon: without it, it is left out.
"""

import asyncio
import contextlib
import shutil
import sys
import tomllib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import tomli_w
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from demo.processes import REPOSITORY, process
from gateway.domain import events
from gateway.domain.carried_grant import CarriedGrant, Medium
from gateway.errors import IpcError
from gateway.ipc.client import CoreClient, connect
from gateway.trust.grants import Claims, issue, point, to_text
from gateway.trust.keys import kid_of
from hwsim import observations as seen
from hwsim.bluez.site import key_named
from hwsim.client import Simulator
from hwsim.client import connect as connect_simulator
from hwsim.cloud import Keyring, RecordBook
from hwsim.cloud.records import About, snapshot

GATEWAY = (sys.executable, "-m", "gateway")
SITE = REPOSITORY / "config" / "phones.toml"
BLUETOOTH = ("ble_reader", "ble_scanner")
STREET, YARD, CLUB, SCANNER = "street-phones", "yard-phones", "club-reader", "street-scanner"

START_S_MAX = 30.0
ANSWER_S_MAX = 10.0
"""Walking up included."""
AWAY_S = 0.4
"""Between two people: a card is a new one once it has been away for a quarter of a second, and a
scanner takes only so many codes in a row."""

OLD_CARD = "04A10000000002"
"""Maya's, from before there was anything better; its number is printed on it."""


def records(values: dict[str, str]) -> list[dict[str, Any]]:
    """Maya is a member; `values` has what her secure credentials are called, by kind."""
    maya = {"type": "credential", "holder": "h-maya"}
    return [
        {"type": "site", "id": "LON", "timezone": "Europe/London"},
        {"type": "policy", "id": "policy"},
        {"type": "zone", "id": "outside", "category": "public"},
        {"type": "zone", "id": "inside", "category": "member"},
        *(
            {"type": "door", "id": door, "from_zone": "outside", "to_zone": "inside", "unlock_s": 1}
            for door in ("street", "yard", "club")
        ),
        {"type": "group", "id": "members", "zones": ["inside"], "doors": [], "schedule": "24x7"},
        {"type": "holder", "id": "h-maya", "persona": "member", "status": "active",
         "groups": ["members"]},
        {**maya, "id": "c-uid", "kind": "uid", "value": OLD_CARD},
        *({**maya, "id": f"c-{kind}", "kind": kind, "value": each}
          for kind, each in values.items()),
    ]  # fmt: skip


class Cloud:
    """Whoever signs for this site."""

    def __init__(self, site: str, gateway: str, now: datetime) -> None:
        self._site, self._gateway = site, gateway
        self._made = int(now.timestamp()) - 600
        self._keyring = Keyring(site, self._made)
        self._count = 0

    def root(self) -> bytes:
        """The site's key set."""
        return self._keyring.root()

    def bundle(self, rows: list[dict[str, Any]]) -> bytes:
        """The records as a signed file."""
        book = RecordBook(self._site, Ed25519PrivateKey.generate().private_bytes_raw(), rows)
        keys = self._keyring.keys["bundle"][:1]
        about = About(self._site, [self._gateway], self._made, self._made + 86_400, keys)
        return snapshot(book.publish(), about).file()

    def grant(
        self,
        medium: Medium = "paper",
        door: str = "street",
        phone: str | None = None,
        *,
        age_s: int = 0,
        gateway: str = "",
    ) -> bytes:
        """A visitor's grant, signed: on paper, on a screen, or for the key of a phone."""
        self._count += 1
        issued = datetime.now(UTC).replace(microsecond=0) - timedelta(seconds=age_s)
        lasts = timedelta(seconds=60 if medium == "screen" else 3600)
        grant = CarriedGrant(
            id=f"{self._count:016x}", holder="v-ada", medium=medium, doors=(door,), issued=issued,
            not_before=issued, expires=issued + lasts, uses=1,
        )  # fmt: skip
        key = None if phone is None else point(key_named(phone).public_key())
        claims = Claims(grant, (f"{self._site}/{gateway or self._gateway}",), key)
        (signing,) = self._keyring.keys["grant"]
        return issue(claims, signing, kid_of(signing.public_key()))


@dataclass(frozen=True)
class Step:
    """What somebody does at a door, and what should come of it."""

    door: str
    what: str
    do: Callable[[], Awaitable[object]]
    expect: str
    touched: bool = True
    """Something was held to a reader, and is taken away again."""


class Stage:
    """The running site."""

    def __init__(self, site: Simulator, core: CoreClient, cloud: Cloud) -> None:
        self.site = site
        self.core = core
        self.cloud = cloud
        self.seq = 0
        self.opened: set[str] = set()
        self._edge = asyncio.Event()
        self._surprises: list[str] = []

    async def follow(self) -> None:
        """See which strikes are released."""
        async with self.site.watching() as stream:
            async for what in stream:
                if isinstance(what, seen.Strike):
                    (self.opened.add if what.on else self.opened.discard)(what.door)
                    self._edge.set()

    async def play(self, heading: str, *steps: Step) -> None:
        """Take these steps one after another."""
        print(heading)
        for step in steps:
            await self._take(step)

    async def _take(self, step: Step) -> None:
        await self._until(lambda: step.door not in self.opened)
        self.seq = (await self.core.status()).last_seq
        acting = asyncio.ensure_future(step.do())
        try:
            said, reader_ms = await self._answer(step.door)
            if said.startswith("grant"):
                await self._until(lambda: step.door in self.opened)
                await self.site.push(step.door)
            await acting
        finally:
            acting.cancel()
        wrong = "" if said == step.expect else f"   NOT AS IT SHOULD BE: {step.expect}"
        if step.door in self.opened and not said.startswith("grant"):
            wrong += "   NOT AS IT SHOULD BE: the strike moved"
        print(f"  {step.door:<7} {step.what:<58} {said:<32} {reader_ms:>8}{wrong}")
        if wrong:
            self._surprises.append(step.what)
        if step.touched:
            await asyncio.sleep(AWAY_S)

    async def _answer(self, door: str) -> tuple[str, str]:
        """What the journal says came of it, and how long reading it took where that is known."""
        async with asyncio.timeout(ANSWER_S_MAX):
            while True:
                batch = await self.core.fetch(self.seq, wait_s=1)
                for body in batch.bodies:
                    self.seq += 1
                    match events.decode(body):
                        case events.AccessDecided() as told if told.door == door:
                            ms = "" if told.read_ms is None else f"{told.read_ms:.0f} ms"
                            return f"{told.outcome} {told.reason}", ms
                        case events.CredentialRefused() as told if told.door == door:
                            return f"refused {told.kind} {told.why}", ""
                        case _:
                            pass

    async def _until(self, true: Callable[[], bool]) -> None:
        async with asyncio.timeout(ANSWER_S_MAX):
            while not true():
                self._edge.clear()
                await self._edge.wait()

    def all_well(self) -> bool:
        """Whether everything was as it should be."""
        return not self._surprises

    # --- What people do --------------------------------------------------------------------------

    def ble(self, what: str, expect: str, *, trick: str = "") -> Step:
        """A phone that connects to the street door."""
        return Step(
            "street", what, lambda: self.site.tap_phone(STREET, "Maya", trick), expect, False
        )

    def app(self, what: str, expect: str, *, whose: str = "Maya", **how: Any) -> Step:
        """A phone with the site's app, to which the yard's reader connects."""
        return Step("yard", what, lambda: self.site.press_fob(YARD, whose, **how), expect, False)

    def card(self, kind: str, what: str, expect: str, *, forged: bool = False) -> Step:
        """A card or a phone of Maya's at the club's reader."""
        how: dict[str, Any] = {"forged": forged, "hold": 0.15}
        return Step(
            "club", what, lambda: self.site.present_secure(CLUB, kind, "Maya", **how), expect
        )

    def uid(self, what: str, expect: str) -> Step:
        """The number of Maya's old card."""
        return Step("club", what, lambda: self.site.present(CLUB, OLD_CARD, hold=0.15), expect)

    def phone(
        self, what: str, expect: str, *, whose: str = "Ada", grant: bytes, **how: Any
    ) -> Step:
        """A phone with a grant at the club's reader."""

        async def show() -> None:
            await self.site.carry_grant(whose, grant.hex(), **how)
            await self.site.present_secure(CLUB, "grant", whose, hold=0.15)

        return Step("club", what, show, expect)

    def code(self, what: str, expect: str, code: str) -> Step:
        """A code at the street's scanner."""
        return Step("street", what, lambda: self.site.scan(SCANNER, code), expect)


async def scenes(stage: Stage, *, bluetooth: bool) -> None:
    """Everything, in order."""
    cloud = stage.cloud
    if bluetooth:
        await stage.play(
            "Over Bluetooth",
            stage.app("Maya walks up from five metres with the app", "grant group", start=5.0),
            stage.app("it signs for another door", "refused pkoc signature_invalid",
                      trick="other_door"),
            stage.app("nobody has asked for the door", "refused pkoc no_intent", trick="no_intent"),
            stage.app("Ada's phone with a grant; no record knows her", "grant carried",
                      whose="Ada", grant=cloud.grant("device", "yard", "Ada").hex()),
            stage.app("the grant, copied onto another phone", "deny grant_key_unproven",
                      whose="Eve", grant=cloud.grant("device", "yard", "Ada").hex()),
            stage.ble("Maya's phone connects to the door (PKOC)", "grant group"),
            stage.ble("what it said, recorded and said again", "refused pkoc signature_invalid",
                      trick="replay"),
            stage.ble("a phone that says it is hers", "refused pkoc signature_invalid",
                      trick="forged"),
        )  # fmt: skip
    else:
        print("Bluetooth is left out: it is simulated on a D-Bus, and there is no dbus-daemon here")
    again, other = cloud.grant("device", "club", "Ada"), cloud.grant("device", "club", "Ada")
    gateway, door = "7F3A2C520C614D0BA52D1C4B5D1F0A10", "7F3A2C520C614D0BA52D1C4B5D1F0A31"
    await stage.play(
        "Over NFC, at a door that wants what can't be copied",
        stage.card("desfire", "Maya's card (DESFire)", "grant group"),
        stage.card("desfire", "a card that says it is hers", "refused desfire wrong_key",
                   forged=True),
        stage.uid("the number of her old card, copied", "deny assurance_too_low"),
        stage.card("pkoc", "Maya's phone (PKOC)", "grant group"),
        stage.phone("Ada's phone with a grant; no record knows her", "grant carried",
                    grant=cloud.grant("device", "club", "Ada")),
        stage.phone("its proof, recorded and shown again", "refused grant not_authentic",
                    grant=again, trick="replay"),
        stage.phone("a proof for another door", "refused grant not_authentic",
                    grant=again, signs_for=gateway + "FF" * 16),
        stage.phone("a proof for another gateway", "refused grant not_authentic",
                    grant=again, signs_for="FF" * 16 + door),
        stage.phone("a proof that comes too late", "refused grant nonce_too_old",
                    grant=again, trick="late"),
        stage.phone("a proof of three bytes", "refused grant malformed",
                    grant=again, trick="malformed"),
        stage.phone("a phone that is locked", "refused grant declined",
                    grant=again, trick="locked"),
        stage.phone("the grant, copied onto another phone", "deny grant_key_unproven",
                    grant=other, whose="Eve"),
        stage.phone("a grant for another gateway", "deny grant_wrong_audience",
                    grant=cloud.grant("device", "club", "Ada", gateway="lon-9")),
        stage.phone("a grant for another door", "deny no_entitlement",
                    grant=cloud.grant("device", "street", "Ada")),
    )  # fmt: skip
    printed = to_text(cloud.grant())
    address = await stage.site.sun_address(SCANNER, "Maya")
    await stage.play(
        "At the scanner",
        stage.code("a visitor's printed code", "grant carried", printed),
        stage.code("a photograph of it", "deny uses_exhausted", printed),
        stage.code("a code for another door", "deny no_entitlement",
                   to_text(cloud.grant(door="club"))),
        stage.code("a screen's code, two minutes old", "deny credential_expired",
                   to_text(cloud.grant("screen", age_s=120))),
        stage.code("a code with a letter too few", "deny grant_malformed",
                   to_text(cloud.grant())[:-1]),
        stage.code("what a phone got that read Maya's tag (SUN)", "grant group", address),
        stage.code("the same once more", "deny sun_replayed", address),
        stage.code("the same, made up", "refused sun not_authentic", address[:-4] + "0000"),
    )  # fmt: skip


async def play(run_dir: Path) -> int:
    """Set the stage and play; the exit status."""
    bluetooth = shutil.which("dbus-daemon") is not None
    config, control = run_dir / "site.toml", run_dir / "hw.sock"
    plan: dict[str, Any] = tomllib.loads(SITE.read_text(encoding="utf-8"))
    cloud = Cloud(plan["site"]["id"], plan["site"]["gateway"], datetime.now(UTC))
    (run_dir / "1.root").write_bytes(cloud.root())
    plan["trust"]["root"] = str(run_dir / "1.root")
    if not bluetooth:
        without_bluetooth(plan)
    (run_dir / "plan.toml").write_text(tomli_w.dumps(plan), encoding="utf-8")
    async with contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(
            process(
                *(sys.executable, "-m", "hwsim", str(run_dir / "plan.toml")),
                *("--run-dir", str(run_dir), "--write-config", str(config)),
                *("--control", str(control)),
                log=run_dir / "hardware.log",
            )
        )
        site = await stack.enter_async_context(connect_simulator(control))
        values = {
            "pkoc": await site.secure_value(CLUB, "pkoc", "Maya"),
            "desfire": await site.secure_value(CLUB, "desfire", "Maya"),
            "sun": await site.secure_value(SCANNER, "sun", "Maya"),
        }
        await stack.enter_async_context(
            process(*GATEWAY, "run", "--config", str(config), log=run_dir / "gateway.log")
        )
        core = await stack.enter_async_context(await running_core(run_dir / "core.sock"))
        await core.import_records(cloud.bundle(records(values)))
        stage = Stage(site, core, cloud)
        following = asyncio.create_task(stage.follow())
        try:
            print(f"Three doors, one member, one visitor; logs and state are in {run_dir}")
            await scenes(stage, bluetooth=bluetooth)
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)
    if not stage.all_well():
        return 1
    print("All as it should be.")
    return 0


def without_bluetooth(plan: dict[str, Any]) -> None:
    """Take what speaks Bluetooth out of a site's file, and the doors that have nothing else."""
    devices = plan["devices"]
    for name in [name for name, each in devices.items() if each["driver"] in BLUETOOTH]:
        del devices[name]
    for name, door in list(plan["doors"].items()):
        door["readers"] = [each for each in door["readers"] if each["device"] in devices]
        if not door["readers"]:
            del plan["doors"][name]


async def running_core(socket: Path) -> contextlib.AbstractAsyncContextManager[CoreClient]:
    """A connection to the core, once every device of it answers."""
    async with asyncio.timeout(START_S_MAX):
        while True:
            with contextlib.suppress(IpcError):
                async with connect(socket, role="demo") as core:
                    devices = (await core.status()).devices
                    if devices and all(device.online for device in devices.values()):
                        return connect(socket, role="demo")
            await asyncio.sleep(0.1)
