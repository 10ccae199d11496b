"""`door-gateway command` through a real broker, to somebody who answers as a gateway does."""

import asyncio
import json
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from demo.brokers import mosquitto
from gateway.cli import main
from gateway.trust.commands import (
    Command,
    CommandRefused,
    Result,
    open_command,
    seal_result,
)
from gateway.trust.keys import write_key
from gateway.trust.root import KeySet, Now, first_root
from hwsim.mqtt import MqttClient
from tests.trust.keyring import key, root_document

OWN = key("the gateway's own")
PREFIX = "acs/v1/LON/gw-1"


def keys() -> KeySet:
    now = int(time.time())  # noqa: TID251 - whoever made the key set had a clock
    return first_root(root_document(made=now - 60, expires=now + 3600), "LON")


def opened(sealed: bytes) -> Command:
    now = Now(datetime.now(UTC), trusted=True)  # noqa: TID251 - the gateway has one
    return open_command(sealed, keys(), "LON/gw-1", now, is_spent=lambda _: False, retained=False)


class Answering:
    """Hears commands on a broker, and answers each with a stranger's result first."""

    def __init__(self, port: int, answer: Callable[[Command], Result]) -> None:
        self.heard: list[Command] = []
        self._answer = answer
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2)
        self._client.on_connect = lambda client, *_: client.subscribe(f"{PREFIX}/cmd", 1)
        self._client.on_message = self._on_message
        self._client.connect("127.0.0.1", port)

    def _on_message(self, client: mqtt.Client, _data: object, message: mqtt.MQTTMessage) -> None:
        command = opened(bytes(message.payload))
        self.heard.append(command)
        result = self._answer(command)
        for payload in (
            b"nothing",
            seal_result(result, key("a stranger")),
            seal_result(result, OWN),
        ):
            client.publish(f"{PREFIX}/cmd/result", payload, 1)

    def __enter__(self) -> Self:
        self._client.loop_start()
        return self

    def __exit__(self, *_: object) -> None:
        self._client.disconnect()
        self._client.loop_stop()


@pytest.fixture
def signing_key(tmp_path: Path) -> Path:
    path = tmp_path / "command.pem"
    write_key(path, key("command-1"))
    return path


def common(signing_key: Path) -> list[str]:
    return ["--key", str(signing_key), "--gateway", "LON/gw-1", "--by", "ivy", "--why", "she rang"]


async def test_a_command_is_sent_and_its_signed_answer_told(
    signing_key: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def answer(command: Command) -> Result:
        lines = ("{}",) if command.act == "logs" else None
        refused = command.act == "mode"
        return Result(
            command.cti, "refused" if refused else "done", "blocked" if refused else None, 1, 7, 3,
            lines,
        )  # fmt: skip

    async with mosquitto(tmp_path) as broker:
        more = [*common(signing_key), "--host", "127.0.0.1", "--port", str(broker.port)]
        checked = ["--gateway-key", OWN.public_key().public_bytes_raw().hex()]

        async def said(*act: str, status: int = 0, extra: list[str] | None = None) -> str:
            arguments = ["command", *act, *more, *(checked if extra is None else extra)]
            assert await asyncio.to_thread(main, arguments) == status
            return capsys.readouterr().out

        with Answering(broker.port, answer) as gateway:
            assert "done, after 7 ms (event 3)" in await said("unlock", "front")
            assert gateway.heard[-1].opens
            told: dict[str, Any] = json.loads(await said("logs", "5", "--json"))
            assert (told["outcome"], told["lines"], told["checked"]) == ("done", ["{}"], True)
            out = await said("mode", "front", "blocked", "--for", "2h", status=1)
            assert "refused: blocked" in out
            out = await said("release", "--zone", "club", "--of", "lockdown", extra=[])
            assert "not checked" in out
            await said("lockdown", "--site")
            await said("forgive", "--holder", "sam")
            heard = [(each.act, each.scope, each.target, each.of) for each in gateway.heard[3:]]
            assert heard == [
                ("release", "zone", "club", "lockdown"),
                ("lockdown", "site", "", None),
                ("forgive", "site", "sam", None),
            ]


def test_a_command_can_be_written_down_to_be_sent_by_other_means(
    signing_key: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "unlock.cbor"
    assert main(["command", "unlock", "front", *common(signing_key), "-o", str(out)]) == 0
    command = opened(out.read_bytes())
    assert (command.target, command.by, command.why) == ("front", "ivy", "she rang")
    assert main(["command", "unlock", "front", *common(signing_key)]) == 2
    assert "--host" in capsys.readouterr().err
    arguments = ["command", "logs", "0", *common(signing_key), "-o", str(tmp_path / "logs.cbor")]
    assert main(arguments) == 2
    assert "out of range" in capsys.readouterr().err
    nobody = [*common(signing_key), "--host", "127.0.0.1", "--port", "1"]
    assert main(["command", "refresh", *nobody]) == 2
    assert main(["command", "refresh", *nobody, "--gateway-key", "xyz"]) == 2
    with pytest.raises(CommandRefused, match="bad_signature"):
        opened(out.read_bytes()[:-1] + bytes([out.read_bytes()[-1] ^ 1]))


async def test_a_wish_is_signed_once_and_one_that_was_retained_never(
    signing_key: Path, tmp_path: Path
) -> None:
    heard: list[Command] = []
    async with mosquitto(tmp_path) as broker:

        def hear(_topic: str, payload: bytes) -> None:
            heard.append(opened(payload))

        client = MqttClient("watcher", hear)
        await client.open(broker.host, broker.port, f"{PREFIX}/cmd")
        client.publish(f"{PREFIX}/door/vault/wish", b"UNLOCK", retain=True)
        relay = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "gateway", "relay-wishes", "--gateway", "LON/gw-1"),
            *("--key", str(signing_key), "--by", "ha", "--host", broker.host),
            *("--port", str(broker.port)),
            stderr=asyncio.subprocess.PIPE,
        )
        assert relay.stderr is not None
        try:
            async with asyncio.timeout(20):
                while b"retained wish" not in await relay.stderr.readline():
                    pass
                client.publish(f"{PREFIX}/door/front/wish", b"LOCK")
                client.publish(f"{PREFIX}/door//wish", b"UNLOCK")
                client.publish(f"{PREFIX}/door/{'x' * 200}/wish", b"UNLOCK")
                client.publish(f"{PREFIX}/door/%1b[2Jred/wish", b"\x1b[2J")
                client.publish(f"{PREFIX}/door/a%2Fb/wish", b"UNLOCK")
                while not heard:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
        finally:
            relay.terminate()
            said = (await relay.communicate())[1].decode()
            client.close()
    assert [(each.act, each.target, each.by) for each in heard] == [("unlock", "a/b", "ha")]
    assert said.count("no door can have this id: dropped") == 2
    assert "\\u001b[2Jred: b'\\x1b[2J' is dropped" in said
    assert "\x1b" not in said


@pytest.mark.parametrize("act", ["lockdown", "evacuation", "release --of lockdown"])
def test_what_is_about_the_whole_site_has_to_be_said(
    act: str, signing_key: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "signed"
    with pytest.raises(SystemExit) as ended:
        main(["command", *act.split(), *common(signing_key), "-o", str(out)])
    assert ended.value.code == 2
    assert "one of the arguments --door --zone --site is required" in capsys.readouterr().err
    assert not out.exists()
