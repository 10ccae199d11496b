"""No card number, PIN or name leaves the core: known ones are looked for in every output (P16)."""

import asyncio
import base64
import json
import os
import signal
import sqlite3
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from demo.brokers import any_broker
from demo.cloud import Cloud
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

pytestmark = pytest.mark.process

WRONG_PIN = "59162738"
UNREADABLE = "04C0FFEE5EC7Q1"
"""A mistyped card number in a records file that is refused."""


def canaries() -> dict[str, bytes]:
    """Every form in which a secret could leave, by what it is."""
    found: dict[str, bytes] = {}
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
        Cloud("127.0.0.1", broker.port) as cloud,
    ):
        ear.connect("127.0.0.1", broker.port)
        ear.loop_start()
        try:
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
