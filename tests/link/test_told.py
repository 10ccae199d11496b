"""The link's reports on real brokers: every cause by which events don't arrive has its words."""

from pathlib import Path

import pytest
from msgspec.structs import replace

from demo.brokers import certificates, mosquitto
from gateway.link.settings import LinkSettings, LoginSettings, TlsSettings
from tests.ipc.memory import MemoryCore, door_state
from tests.link.rig import PREFIX, core_on, link_settings, linking, until


async def told(settings: LinkSettings, path: Path, *words: str) -> str:
    """The reason that the core hears, once it has these words."""
    core = MemoryCore()
    core.record()

    def reason() -> str:
        last = core.sessions[-1] if core.sessions else None
        return (last.reason or "") if last is not None and not last.there else ""

    async with core_on(path, core), linking(settings, path):
        try:
            await until(lambda: all(word in reason() for word in words), 15)
        except TimeoutError:
            raise AssertionError(core.sessions[-3:]) from None
        return reason()


async def test_a_name_without_an_address(tmp_path: Path) -> None:
    settings = link_settings(1883, host="broker.invalid")
    await told(settings, tmp_path / "core.sock", "broker.invalid:1883: no address", "DNS")


async def test_nobody_listening(tmp_path: Path) -> None:
    async with mosquitto(tmp_path) as broker:
        await broker.kill()
        await told(link_settings(broker.port), tmp_path / "core.sock", "nobody listens there")


async def test_a_wrong_password(tmp_path: Path) -> None:
    password = tmp_path / "password"
    password.touch(0o600)
    password.write_text("wrong\n", encoding="ascii")
    async with mosquitto(tmp_path, login=("lon-1", "right")) as broker:
        login = LoginSettings(username="lon-1", password_file=password)
        settings = link_settings(broker.port, login=login)
        await told(settings, tmp_path / "core.sock", "Not authorized", "Check")
        password.chmod(0o644)
        await told(settings, tmp_path / "core.sock", str(password), "others may read", "chmod 0600")
        password.unlink()
        await told(settings, tmp_path / "core.sock", str(password), "can't be read")


async def test_a_broker_that_retains_nothing(tmp_path: Path) -> None:
    async with mosquitto(tmp_path) as broker:
        await broker.kill()
        config = tmp_path / "mosquitto.conf"
        config.write_text(config.read_text() + "retain_available false\n", encoding="ascii")
        await broker.start()
        await told(link_settings(broker.port), tmp_path / "core.sock", "Retain not", "retain_avail")


async def test_keys_and_certificates(tmp_path: Path) -> None:
    path, ours, others = tmp_path / "core.sock", tmp_path / "a", tmp_path / "b"
    ours.mkdir()
    others.mkdir()
    made, foreign = certificates(ours), certificates(others)
    async with mosquitto(tmp_path, tls=made) as broker:
        good = TlsSettings(ca=made.ca, certificate=made.certificate, key=made.key)
        base = link_settings(broker.port)
        open_key = tmp_path / "open.key"
        open_key.write_bytes(made.key.read_bytes())
        open_key.chmod(0o644)
        for tls, words in (
            (replace(good, key=tmp_path / "none.key"), ("none.key", "can't be read")),
            (replace(good, key=foreign.key), ("is not the key of",)),
            (replace(good, key=open_key), ("open.key", "others may read", "chmod 0600")),
            (replace(good, ca=foreign.ca), ("the broker's certificate is not accepted", "ca")),
            (replace(good, certificate=foreign.certificate, key=foreign.key), ("certificate",)),
        ):
            await told(replace(base, tls=tls), path, *words)
        await told(base, path, "answer")  # plain text to a port that speaks TLS


@pytest.mark.parametrize("denied", ["event", "door/street/state"])
async def test_a_topic_that_may_not_be_written_is_named_until_it_may(
    tmp_path: Path, denied: str
) -> None:
    path, core, acl = tmp_path / "core.sock", MemoryCore(), tmp_path / "acl"
    core.doors.report(door_state("street"))
    core.record(3)
    every = ("event", "door/street/state", "status", "health")
    lines = [f"topic write {PREFIX}/{each}" for each in every if each != denied]
    acl.write_text("\n".join([*lines, f"topic read {PREFIX}/ack", ""]), encoding="ascii")
    async with (
        mosquitto(tmp_path, acl=acl) as broker,
        core_on(path, core),
        linking(link_settings(broker.port), path),
    ):
        await until(lambda: core.sessions and core.sessions[-1].refused)
        assert core.sessions[-1].refused == {f"{PREFIX}/{denied}": "Not authorized"}
        assert core.sessions[-1].there
        if denied == "event":
            await until(lambda: core.sessions[-1].events_refused > 1)
        acl.write_text(f"topic readwrite {PREFIX}/#\n", encoding="ascii")
        await broker.stop()
        await broker.start()
        await until(lambda: core.sessions[-1].there and not core.sessions[-1].refused)


async def test_a_broker_with_no_subscriber_says_so(tmp_path: Path) -> None:
    path, core = tmp_path / "core.sock", MemoryCore()
    core.record(3)
    async with (
        mosquitto(tmp_path) as broker,
        core_on(path, core),
        linking(link_settings(broker.port), path),
    ):
        await until(lambda: core.sessions and core.sessions[-1].unheard)


async def test_a_link_reports_again_and_again(tmp_path: Path) -> None:
    path, core = tmp_path / "core.sock", MemoryCore()
    async with mosquitto(tmp_path) as broker:
        settings = link_settings(broker.port)
        settings = replace(settings, pace=replace(settings.pace, report_s=0.05))
        async with core_on(path, core), linking(settings, path):
            await until(lambda: len(core.sessions) > 10)
            assert len({each.since_s for each in core.sessions if each.there}) == 1
