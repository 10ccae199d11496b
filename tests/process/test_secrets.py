"""No card number, PIN or name leaves the core: known ones are looked for in every output (P16)."""

import asyncio
import base64
import json
import os
import random
import signal
import sqlite3
import tomllib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import paho.mqtt.client as mqtt
import pytest
import tomli_w
from paho.mqtt.enums import CallbackAPIVersion

from demo.brokers import any_broker
from gateway.domain import events
from hwsim.cloud import EventCloud
from hwsim.secure_cards import DesfireCard, an10922, secure_card
from tests.process.rig import (
    MILO,
    NAMES,
    SAM,
    SAM_PIN,
    STRANGER,
    Rig,
    as_lines,
    descendants,
    records,
    standing_rig,
    until,
)
from tests.timing import allowed

pytestmark = pytest.mark.process

WRONG_PIN = "59162738"
UNREADABLE = "04C0FFEE5EC7Q1"
"""A mistyped card number in a records file that is refused."""


CARD_KEYS = {
    name: bytes.fromhex(digits)
    for name, digits in (
        ("key", "C0FFEE11223344556677889900AABBCC"),
        ("uid_key", "DECADE11223344556677889900AABBCC"),
    )
}
REAL_UID, IDENTITY = bytes.fromhex("04B1A2C3D4E5F7"), bytes.fromhex("5EC2E7C0DE5EC2E7")
"""Of a DESFire card behind a random UID."""


def canaries() -> dict[str, bytes]:
    """Every form in which a secret could leave, by what it is."""
    found: dict[str, bytes] = {}
    for name, raw in (*CARD_KEYS.items(), ("UID", REAL_UID), ("id", IDENTITY)):
        digits = (raw.hex(), raw.hex().upper(), base64.b64encode(raw)[:9].decode())
        found |= {f"DESFire {name}, {form}": form.encode() for form in digits}
        found[f"DESFire {name} as it is"] = raw
    for card in (SAM, MILO, STRANGER):
        raw = bytes.fromhex(card)
        forms = (
            card.encode(),
            card.lower().encode(),
            raw,
            raw[::-1],
            raw.hex(":").encode(),
            raw.hex(" ").upper().encode(),
            str(int(card, 16)).encode(),
            base64.b64encode(raw)[:9],
        )
        found |= {f"card {card}, form {number}": form for number, form in enumerate(forms)}
    for pin in (SAM_PIN, WRONG_PIN):
        found[f"PIN {pin}"] = pin.encode()
        found[f"PIN {pin} in base64"] = base64.b64encode(pin.encode())[:10]
    found[f"mistyped {UNREADABLE}"] = UNREADABLE.encode()
    for name in NAMES:
        for part in name.split():
            found[f"name {part}"] = part.encode()
    return found


def sightings(where: str, content: bytes) -> list[str]:
    return [f"{what} in {where}" for what, form in canaries().items() if form in content]


def processes(pids: list[int]) -> Iterator[tuple[str, bytes]]:
    """The arguments and environments that `ps` shows."""
    for pid in pids:
        for name in ("cmdline", "environ"):
            with suppress(OSError):
                yield f"{name} of {pid}", Path(f"/proc/{pid}/{name}").read_bytes()


def assert_scan_finds(tmp_path: Path) -> None:
    """The scan itself sees a secret in each place it looks at."""
    file = tmp_path / "seeded"
    for form in canaries().values():
        file.write_bytes(b"..." + form + b"...")
        assert sightings("a file", file.read_bytes())


async def test_no_secret_is_in_any_output_file_or_message(tmp_path: Path) -> None:
    assert_scan_finds(tmp_path)
    payloads: list[bytes] = []

    def overhear(_client: mqtt.Client, _data: object, message: mqtt.MQTTMessage) -> None:
        payloads.append(message.topic.encode() + b" " + message.payload)

    ear = mqtt.Client(CallbackAPIVersion.VERSION2, client_id="ear")
    ear.on_message = overhear
    ear.on_connect = lambda client, *_: client.subscribe("#")
    found: list[str] = []
    async with (
        any_broker(tmp_path / "broker") as broker,
        standing_rig(tmp_path, broker_port=broker.port) as rig,
        EventCloud("127.0.0.1", broker.port) as cloud,
    ):
        ear.connect("127.0.0.1", broker.port)
        ear.loop_start()
        try:
            add_secure_cards(rig)
            run = await rig.start("run", more=("--log-level", "debug"))
            await rig.ready(run)

            async def watch_processes() -> None:
                while True:
                    for where, content in processes([run.pid, *descendants(run.pid)]):
                        found.extend(sightings(where, content))
                    await asyncio.sleep(0.02)

            watching = asyncio.ensure_future(watch_processes())
            said = await a_busy_session(rig)
            stream = (await rig.journal())[0].stream
            last = await rig.last_seq()
            await cloud.until(lambda: cloud.reached(stream) >= last)
            for where, output in said.items():
                found += sightings(where, output)
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
            # While it runs the write-ahead log is there as well.
            found += [hit for file in files(rig) for hit in sightings(file.name, file.read_bytes())]
            assert await run.stop() == 0
        finally:
            ear.disconnect()
            ear.loop_stop()
        await until("something was overheard", lambda: payloads)
        for payload in payloads:
            found += sightings("MQTT", payload)
        assert b"online" in run.log.read_bytes()
        everything = [*files(rig), run.log, broker.log]
        found += [hit for file in everything for hit in sightings(file.name, file.read_bytes())]
        assert_hashes_are_keyed(rig)
    assert sorted(set(found)) == []


def add_secure_cards(rig: Rig) -> None:
    """The back reader takes DESFire cards too; their keys are in files outside the state."""
    config = tomllib.loads(rig.config.read_text())
    table = {
        "aid": "F58840", "authentication": "ev2", "key_number": 1, "file": 1, "id_bytes": 8,
        "diversification": "4C", "uid_key_number": 2,
    }  # fmt: skip
    for name, key in CARD_KEYS.items():
        file = rig.directory / f"card-{name}"
        file.write_text(key.hex())
        file.chmod(0o400)
        table[name] = str(file)
    more = {"credentials": ["desfire", "uid"], "desfire": table}
    config["devices"]["back-reader"] |= more
    rig.config.write_text(tomli_w.dumps(config))


async def present_secure_cards(rig: Rig) -> None:
    """One with the right keys, one without, and one that leaves in mid-read."""
    keys = {1: an10922(CARD_KEYS["key"], REAL_UID + b"L"), 2: CARD_KEYS["uid_key"]}
    for held, frames in ((keys, None), ({1: bytes(16), 2: bytes(16)}, None), (keys, 4)):
        made = DesfireCard(
            REAL_UID, bytes.fromhex("4088F5"), held, {1: IDENTITY}, 1, random.Random(1).randbytes
        )
        shown = secure_card("08112233", made, frames_left=frames)
        await rig.site.present_cards("back-reader", [shown], allowed(0.3))
        await asyncio.sleep(0.4)
    await rig.event(events.AccessDecided, lambda event: event.kinds == ("desfire",))
    await rig.event(events.CredentialRefused, lambda event: event.why == "wrong_key")


def files(rig: Rig) -> list[Path]:
    return [path for path in rig.state.rglob("*") if path.is_file()]


async def a_busy_session(rig: Rig) -> dict[str, bytes]:
    """Imports, taps of every kind, faults; what the commands printed."""
    config = ("--config", str(rig.config))
    said: dict[str, bytes] = {}

    async def command(name: str, *arguments: str) -> None:
        ended = await rig.cli(*arguments, *config)
        said[name] = (ended.out + ended.err).encode()

    await command("import", "import", str(rig.records))
    await rig.opens("front")
    for card in (MILO, STRANGER):
        await rig.tap("back-reader", card)
    await present_secure_cards(rig)
    await rig.at_rest()
    await rig.release_by("front", rig.enter(SAM_PIN))
    await rig.enter(WRONG_PIN)
    # The same secrets again in a file with faults of many kinds.
    broken = records()
    broken += [record for record in records() if record["type"] == "credential"]
    broken.append({**broken[-1], "id": "c-twice", "value": SAM_PIN})
    broken.append({**broken[-1], "id": "c-mistyped", "kind": "uid", "value": UNREADABLE})
    broken.append({"type": "holder", "id": "h-odd", "name": [NAMES[1]], "status": SAM_PIN})
    faulty = rig.directory / "faulty.jsonl"
    faulty.write_text(as_lines(broken) + json.dumps({"type": "credential"})[:-1] + SAM + "\n")
    await command("refused import", "import", str(faulty), "--json")
    # A reader that talks nonsense, a core that dies, and one that finds its files damaged.
    await rig.site.garble("back-reader", 0.2, 1)
    for _ in range(3):
        await rig.tap("back-reader", SAM)
    await rig.site.resume("back-reader")
    os.kill(rig.core_pid(), signal.SIGKILL)
    await rig.ready()
    await rig.tap_until_open("back", 10.0)
    await command("status", "status", "--json")
    await command("journal", "journal", "tail", "-n", "1000", "--json")
    await command("journal in words", "journal", "tail", "-n", "1000")
    return said


def assert_hashes_are_keyed(rig: Rig) -> None:
    """The rows do hold something for each credential, and it is not a hash anybody could try."""
    connection = sqlite3.connect(rig.state / "cache.db")
    try:
        lines = [
            json.loads(row[0])
            for row in connection.execute("SELECT line FROM record WHERE type = 'credential'")
        ]
    finally:
        connection.close()
    assert len(lines) == 3
    assert all(line["value"].startswith("hmac:") for line in lines)
