import asyncio
import json
import random
import ssl
import sys
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
import structlog

from gateway.link.settings import Pace
from hwsim.cloud import EventCloud
from tests.brokers import Broker, Certificates, certificates, mosquitto, nats
from tests.ipc.memory import MemoryCore, door_state
from tests.link.rig import PREFIX, TrustedClock, core_on, link_settings, linking, until


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "core.sock"


def complete(cloud: EventCloud, core: MemoryCore) -> bool:
    """Whether the cloud has everything and the journal knows."""
    return cloud.reached(core.stream) == core.acknowledged == len(core.bodies)


def in_order(cloud: EventCloud, core: MemoryCore) -> bool:
    """Whether what came first came in the journal's order and as it lies there."""
    mine = [(key, value) for key, value in cloud.events.items() if key[0] == core.stream]
    return [key[1] for key, _ in mine] == list(range(1, len(core.bodies) + 1)) and [
        value for _, value in mine
    ] == [json.loads(body) for body in core.bodies]


def ack(stream: str, seq: int) -> bytes:
    return json.dumps({"stream": stream, "seq": seq}).encode()


# --- Events ---------------------------------------------------------------------------------------


async def test_a_thousand_events_made_while_the_broker_is_away_arrive_in_order(
    path: Path, tmp_path: Path
) -> None:
    core = MemoryCore()
    async with (
        mosquitto(tmp_path) as broker,
        EventCloud(broker.host, broker.port) as cloud,
        core_on(path, core),
    ):
        await broker.kill()  # it has forgotten the cloud, and drops what comes before that is back
        async with linking(link_settings(broker.port), path):
            core.record(1_000)
            await broker.start()
            await cloud.until(lambda: complete(cloud, core))
            assert in_order(cloud, core)


async def test_an_event_is_told_as_soon_as_it_is_journalled(path: Path, tmp_path: Path) -> None:
    core = MemoryCore()
    async with (
        mosquitto(tmp_path) as broker,
        EventCloud(broker.host, broker.port) as cloud,
        core_on(path, core),
        linking(link_settings(broker.port), path),
    ):
        for count in range(1, 6):
            core.record()
            await cloud.until(lambda count=count: cloud.reached("s-1") == count, 2)  # type: ignore[misc]
        await cloud.until(lambda: core.acknowledged == 5)
        assert cloud.duplicates == 0


@pytest.mark.parametrize("seed", [1, 2])
async def test_killing_the_broker_at_random_moments_loses_nothing(
    path: Path, tmp_path: Path, seed: int
) -> None:
    rng = random.Random(seed)
    core = MemoryCore()
    async with (
        mosquitto(tmp_path) as broker,
        EventCloud(broker.host, broker.port) as cloud,
        core_on(path, core),
        linking(link_settings(broker.port), path, seed=seed),
    ):
        for _ in range(5):
            goal = cloud.reached("s-1") + rng.randrange(1, 1_500)
            core.record(2_000)
            await cloud.until(lambda goal=goal: cloud.reached("s-1") >= goal)  # type: ignore[misc]
            await broker.kill()
            core.record(100)
            await broker.start()
        await cloud.until(lambda: complete(cloud, core))
        # What is lost with the broker comes again, behind what has come already.
        assert set(cloud.events) == {("s-1", seq) for seq in range(1, len(core.bodies) + 1)}


async def test_an_event_the_cloud_does_not_acknowledge_is_sent_again_though_pubacked(
    path: Path, tmp_path: Path
) -> None:
    core = MemoryCore()
    async with (
        mosquitto(tmp_path) as broker,
        EventCloud(broker.host, broker.port, acknowledges=False) as cloud,
        core_on(path, core),
        linking(link_settings(broker.port), path),
    ):
        core.record(3)
        await cloud.until(lambda: cloud.duplicates >= 6)
        assert core.acknowledged == 0
        cloud.acknowledges = True
        await cloud.until(lambda: complete(cloud, core))
        silent = cloud.duplicates
        with pytest.raises(TimeoutError):
            await cloud.until(lambda: cloud.duplicates > silent, 1.5)


async def test_a_site_that_keeps_its_events_sends_each_once(path: Path, tmp_path: Path) -> None:
    core = MemoryCore()
    core.record(250)
    local = msgspec.structs.replace(link_settings(0), local=True)
    async with (
        mosquitto(tmp_path) as broker,
        EventCloud(broker.host, broker.port, acknowledges=False) as reader,
        core_on(path, core),
    ):
        settings = msgspec.structs.replace(local, port=broker.port)
        async with linking(settings, path):
            await reader.until(lambda: len(reader.events) == 250)
            await until(lambda: core.acknowledged == 250)
            core.record(50)
            await reader.until(lambda: len(reader.events) == 300)
            await until(lambda: core.acknowledged == 300)
        async with linking(settings, path):
            core.record()
            await reader.until(lambda: len(reader.events) == 301)
            await until(lambda: core.acknowledged == 301)
        assert in_order(reader, core)
        assert reader.duplicates == 0


async def test_an_emergency_does_not_wait_behind_a_months_backlog(
    path: Path, tmp_path: Path
) -> None:
    core = MemoryCore()
    core.record(60_000)
    async with (
        mosquitto(tmp_path) as broker,
        EventCloud(broker.host, broker.port) as cloud,
        core_on(path, core),
        linking(link_settings(broker.port), path),
    ):
        await cloud.until(lambda: len(cloud.events) > 1_000)
        seq = core.record_duress()
        reached = cloud.reached("s-1")
        await cloud.until(lambda: ("s-1", seq) in cloud.urgent, 2)
        assert cloud.reached("s-1") < seq, "else there was no backlog to go ahead of"
        assert reached < seq
        assert core.acknowledged < seq


async def test_after_a_restart_the_link_sends_only_what_is_not_acknowledged(
    path: Path, tmp_path: Path
) -> None:
    core = MemoryCore()
    core.record(500)
    core.acknowledged = 400
    async with (
        mosquitto(tmp_path) as broker,
        EventCloud(broker.host, broker.port, begin={"s-1": 400}) as cloud,
    ):
        async with core_on(path, core), linking(link_settings(broker.port), path):
            await cloud.until(lambda: len(cloud.events) == 100)
        assert min(seq for _, seq in cloud.events) == 401


async def test_acknowledgements_that_are_not_right_change_nothing(
    path: Path, tmp_path: Path
) -> None:
    core = MemoryCore()
    with structlog.testing.capture_logs() as logged:
        await _acknowledge_wrongly(path, tmp_path, core)
    # Anybody on the broker can send them: the log tells of each kind, not of each.
    ignored = [each["why"] for each in logged if each["event"] == "ack_ignored"]
    assert sorted(ignored) == ["ahead", "foreign", "malformed"]


async def _acknowledge_wrongly(path: Path, tmp_path: Path, core: MemoryCore) -> None:
    async with (
        mosquitto(tmp_path) as broker,
        EventCloud(broker.host, broker.port, acknowledges=False) as cloud,
    ):
        topic = f"{PREFIX}/ack"
        cloud.publish(topic, ack("s-1", 1), retain=True)
        async with core_on(path, core), linking(link_settings(broker.port), path):
            core.record(3)
            await cloud.until(lambda: cloud.reached("s-1") == 3)
            cloud.publish(topic, b"not json")
            cloud.publish(topic, b"[" * 400)
            cloud.publish(topic, b"x" * 3_000)
            cloud.publish(topic, b"x" * 300_000)
            cloud.publish(topic, ack("another", 3))
            cloud.publish(topic, ack("s-1", 4))
            cloud.publish(topic, ack("s-1", 0))

            def counted() -> bool:
                acks = cloud.health[-1]["link"]["acks"] if cloud.health else {}
                wanted = {"retained": 1, "malformed": 4, "foreign": 1, "ahead": 1}
                return bool(acks == wanted)

            await cloud.until(counted)
            await cloud.until(lambda: core.suspect_acks == [4])
            assert core.acknowledged == 0
            cloud.publish(topic, ack("s-1", 2))
            await cloud.until(lambda: core.acknowledged == 2)


async def test_the_core_may_die_and_come_back(path: Path, tmp_path: Path) -> None:
    core = MemoryCore()
    core.record(10)
    async with (
        mosquitto(tmp_path) as broker,
        EventCloud(broker.host, broker.port) as cloud,
        linking(link_settings(broker.port), path),
    ):
        status = f"{PREFIX}/status"
        async with core_on(path, core):
            await cloud.until(lambda: complete(cloud, core))
        await cloud.until(lambda: cloud.retained[status] == {"v": 1, "online": True, "core": False})
        core.record(10)
        core.acknowledged = 5  # it died before it had the last acknowledgement on disk
        async with core_on(path, core):
            await cloud.until(lambda: complete(cloud, core))
            await cloud.until(lambda: bool(cloud.retained[status]["core"]))
        assert cloud.duplicates == 0


async def test_a_new_stream_of_the_journal_is_followed_while_the_core_lives(
    path: Path, tmp_path: Path
) -> None:
    core = MemoryCore()
    async with (
        mosquitto(tmp_path) as broker,
        EventCloud(broker.host, broker.port) as cloud,
        core_on(path, core),
        linking(link_settings(broker.port), path),
    ):
        core.record(5)
        await cloud.until(lambda: complete(cloud, core))
        core.stream, core.bodies, core.acknowledged = "s-2", [], 0
        core.record(7)
        await cloud.until(lambda: complete(cloud, core))


# --- Status, doors, health ------------------------------------------------------------------------


async def test_status_doors_and_health_are_told(path: Path, tmp_path: Path) -> None:
    core = MemoryCore()
    core.doors.report(door_state("street"))
    core.doors.report(door_state("a/b"))
    async with mosquitto(tmp_path) as broker, EventCloud(broker.host, broker.port) as cloud:
        async with core_on(path, core), linking(link_settings(broker.port), path):
            street = f"{PREFIX}/door/street/state"
            await cloud.until(lambda: cloud.retained.get(street))
            assert cloud.retained[street] == {
                "v": 1,
                "door": "street",
                "mode": "normal",
                "mode_source": "records",
                "locked": True,
                "contact": "closed",
                "trust": 2,
                "at": "2026-03-02T12:00:00Z",
                "alarms": [],
                "readers_online": {"street-reader": True},
            }
            await cloud.until(lambda: cloud.retained.get(f"{PREFIX}/door/a%2Fb/state"))
            core.doors.report(door_state("street", "open"))
            await cloud.until(lambda: cloud.retained[street]["contact"] == "open")
            await cloud.until(lambda: len(cloud.health) > 1)
            health = cloud.health[-1]
            assert (health["v"], health["version"], health["uptime_s"]) == (1, "0.1.0", 12.5)
            silent = health["devices"]["relays-a"]
            assert (silent["online"], silent["why"]) == (False, "silent")
            assert (health["doors"], health["backlog"]) == (2, 0)
            status = cloud.retained[f"{PREFIX}/status"]
            assert status == {"v": 1, "online": True, "core": True}
        await cloud.until(
            lambda: (
                cloud.retained[f"{PREFIX}/status"] == {"v": 1, "online": False, "why": "stopped"}
            )
        )
        async with linking(link_settings(broker.port), path):
            await cloud.until(lambda: bool(cloud.retained[f"{PREFIX}/status"]["online"]))


@pytest.mark.process
async def test_the_last_will_tells_of_a_killed_link_and_sigterm_of_a_stopped_one(
    path: Path, tmp_path: Path
) -> None:
    core = MemoryCore()
    status = f"{PREFIX}/status"
    async with (
        mosquitto(tmp_path) as broker,
        EventCloud(broker.host, broker.port) as cloud,
        core_on(path, core),
    ):
        for end, why in (("kill", "lost"), ("terminate", "stopped")):
            core.record(5)
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "tests.link.link_main", str(path), str(broker.port)
            )
            try:
                await cloud.until(lambda: complete(cloud, core))
                await cloud.until(lambda: cloud.retained.get(status, {}).get("online"))
            finally:
                getattr(process, end)()
            async with asyncio.timeout(2):
                code = await process.wait()
            assert code == (-9 if end == "kill" else 0)
            offline = {"v": 1, "online": False, "why": why}
            await cloud.until(lambda offline=offline: cloud.retained[status] == offline)  # type: ignore[misc]


@pytest.mark.process
async def test_the_link_listens_on_no_port(path: Path, tmp_path: Path) -> None:
    core = MemoryCore()
    async with (
        mosquitto(tmp_path) as broker,
        EventCloud(broker.host, broker.port) as cloud,
        core_on(path, core),
    ):
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.link.link_main", str(path), str(broker.port)
        )
        try:
            await cloud.until(lambda: cloud.retained.get(f"{PREFIX}/status", {}).get("online"))
            assert listening_inodes() & socket_inodes(process.pid) == set()
        finally:
            process.kill()
            await process.wait()


def listening_inodes() -> set[str]:
    found = set()
    for table in ("tcp", "tcp6", "udp", "udp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if table.startswith("udp") or fields[3] == "0A":
                found.add(fields[9])
    return found


def socket_inodes(pid: int) -> set[str]:
    links = (str(entry.readlink()) for entry in Path(f"/proc/{pid}/fd").iterdir())
    return {link[8:-1] for link in links if link.startswith("socket:[")}


# --- Brokers of every kind ------------------------------------------------------------------------


async def test_a_broker_without_mqtt_5_is_served_with_3_1_1(path: Path, tmp_path: Path) -> None:
    core = MemoryCore()
    core.record(250)
    with structlog.testing.capture_logs() as logs:
        async with (
            nats(tmp_path) as broker,
            EventCloud(broker.host, broker.port) as cloud,
            core_on(path, core),
            linking(link_settings(broker.port), path),
        ):
            await cloud.until(lambda: complete(cloud, core))
            assert in_order(cloud, core)
            await cloud.until(lambda: bool(cloud.retained[f"{PREFIX}/status"]["online"]))
    there = [log for log in logs if log["event"] == "there" and log["what"] == "broker"]
    assert [log["mqtt"] for log in there] == ["MQTTv311"]
    assert away(logs) == []


async def test_a_broker_that_returns_with_another_version_is_served(
    path: Path, tmp_path: Path
) -> None:
    core = MemoryCore()
    core.record(10)
    with structlog.testing.capture_logs() as logs:
        async with (
            core_on(path, core),
            mosquitto(tmp_path / "m") as first,
            linking(link_settings(first.port), path),
        ):
            async with EventCloud(first.host, first.port) as cloud:
                await cloud.until(lambda: complete(cloud, core))
            await first.kill()
            core.record(10)
            async with (
                nats(tmp_path / "n", port=first.port) as second,
                EventCloud(second.host, second.port, begin={"s-1": 10}) as cloud,
            ):
                await cloud.until(lambda: complete(cloud, core))
            core.record(10)
            await first.start()
            async with EventCloud(first.host, first.port, begin={"s-1": 20}) as cloud:
                await cloud.until(lambda: complete(cloud, core))
    spoken = [log["mqtt"] for log in logs if log["event"] == "there" and log["what"] == "broker"]
    assert spoken == ["MQTTv5", "MQTTv311", "MQTTv311"]


async def test_a_half_open_connection_is_found_by_keepalive(path: Path, tmp_path: Path) -> None:
    core = MemoryCore()
    with structlog.testing.capture_logs() as logs:
        async with (
            mosquitto(tmp_path) as broker,
            EventCloud(broker.host, broker.port) as cloud,
            core_on(path, core),
            linking(link_settings(broker.port, keepalive_s=1), path),
        ):
            core.record(5)
            await cloud.until(lambda: complete(cloud, core))
            broker.freeze()
            core.record(5)
            await cloud.until(lambda: away(logs), 10)
            broker.thaw()
            await cloud.until(lambda: complete(cloud, core))


async def test_two_links_with_one_identity_back_off_and_lose_nothing(
    path: Path, tmp_path: Path
) -> None:
    core = MemoryCore()
    other_core = MemoryCore("s-other")
    pace = Pace(backoff_s_first=0.2, backoff_s_max=3.0, resend_s_first=1.0, core_retry_s=0.05)
    with structlog.testing.capture_logs() as logs:
        async with (
            mosquitto(tmp_path) as broker,
            EventCloud(broker.host, broker.port) as cloud,
            core_on(path, core),
            core_on(tmp_path / "other.sock", other_core),
            linking(link_settings(broker.port, pace=pace), path, seed=1),
        ):
            async with linking(
                link_settings(broker.port, pace=pace), tmp_path / "other.sock", seed=2
            ):
                core.record(50)
                other_core.record(50)
                await cloud.until(lambda: complete(cloud, core) and complete(cloud, other_core), 20)
                with pytest.raises(TimeoutError):
                    await cloud.until(lambda: False, 5)
            began = [log for log in logs if log["event"] == "there" and log["what"] == "broker"]
            assert 2 < len(began) < 40  # without a backoff it would be thousands


async def test_a_packet_of_absurd_length_ends_the_session_before_it_is_read(path: Path) -> None:
    talks: set[asyncio.Task[None]] = set()

    async def absurd(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        talk = asyncio.current_task()
        assert talk is not None
        talks.add(talk)
        with suppress(ConnectionError):
            await reader.read(1_000)
            writer.write(bytes.fromhex("20 03 00 00 00"))  # CONNACK, MQTT 5
            subscribe = await reader.read(1_000)
            writer.write(bytes.fromhex("90 04") + subscribe[2:4] + bytes.fromhex("00 01"))  # SUBACK
            writer.write(bytes.fromhex("32 ff ff ff 7f"))  # PUBLISH of 268,435,455 bytes
            while await reader.read(1_000):
                pass
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()

    server = await asyncio.start_server(absurd, "127.0.0.1", 0)
    with structlog.testing.capture_logs() as logs:
        async with server:
            port = server.sockets[0].getsockname()[1]
            async with linking(link_settings(port), path):
                await until(lambda: away(logs, "lost"))
            await asyncio.gather(*talks)
    assert "a packet of 268435455 bytes was announced" in away(logs, "lost")[0]["why"]


# --- Failures, each told once ---------------------------------------------------------------------


def away(logs: list[Any], kind: str | None = None) -> list[dict[str, Any]]:
    return [
        log
        for log in logs
        if log["event"] == "away" and log["what"] == "broker" and kind in (None, log["kind"])
    ]


def tried_again(logs: list[Any]) -> int:
    return [(log["event"], log.get("what")) for log in logs].count(("still_away", "broker"))


@pytest.mark.parametrize(
    ("host", "kind"), [("no-such-host.invalid", "dns"), ("127.0.0.1", "refused")]
)
async def test_an_unreachable_broker_is_told_of_once_and_tried_for_ever(
    path: Path, tmp_path: Path, host: str, kind: str
) -> None:
    with structlog.testing.capture_logs() as logs:
        async with linking(link_settings(1, host=host), path):
            await until(lambda: tried_again(logs) >= 5)
    told = away(logs)
    assert [log["kind"] for log in told] == [kind]
    assert told[0]["log_level"] == "warning"


async def test_with_tls_and_its_certificate_the_gateway_gets_in(path: Path, tmp_path: Path) -> None:
    files = certificates(tmp_path / "tls")
    core = MemoryCore()
    core.record(500)
    async with (
        mosquitto(tmp_path, tls=files) as broker,
        EventCloud(broker.host, broker.port, context=cloud_context(files)) as cloud,
        core_on(path, core),
        linking(link_settings(broker.port, tls=files), path),
    ):
        await cloud.until(lambda: complete(cloud, core))
        assert in_order(cloud, core)


def cloud_context(files: Certificates) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(files.ca))
    context.load_cert_chain(files.certificate, files.key)
    return context


def replaced(files: Certificates, **paths: Path) -> Certificates:
    return Certificates(**{**vars(files), **paths})


async def told_of(
    broker: Broker,
    path: Path,
    files: Certificates,
    clock: TrustedClock | None = None,
    kinds: frozenset[str] = frozenset({"tls"}),
) -> str:
    """What the log says of a link that can't get in; it goes on trying, and never in plain."""
    with structlog.testing.capture_logs() as logs:
        async with linking(link_settings(broker.port, tls=files), path, clock=clock):
            await until(lambda: tried_again(logs))
    assert [log for log in logs if log["event"] == "there" and log["what"] == "broker"] == []
    assert {log["kind"] for log in away(logs)} <= kinds
    return str(away(logs)[0]["why"])


async def test_what_is_wrong_with_tls_is_said_with_the_file(path: Path, tmp_path: Path) -> None:
    files = certificates(tmp_path / "tls")
    strange = certificates(tmp_path / "strange")
    expired = certificates(tmp_path / "expired", client_lasts=timedelta(hours=1))
    missing = tmp_path / "missing.pem"
    no_pem = tmp_path / "no.pem"
    no_pem.write_text("-----BEGIN NOTHING-----")
    no_key = tmp_path / "no.key"
    no_key.touch(0o600)
    no_key.write_bytes(files.ca.read_bytes())
    async with mosquitto(tmp_path, tls=files) as broker:
        why = await told_of(broker, path, replaced(files, ca=strange.ca))
        assert (
            "unable to get local issuer certificate" in why
            or "self-signed" in why
            or ("certificate signature failure" in why)
        )
        why = await told_of(
            broker,
            path,
            replaced(files, certificate=strange.certificate, key=strange.key),
            kinds=frozenset({"tls", "handshake"}),
        )
        assert "the broker ended TLS" in why or "may not accept our certificate" in why
        for wrong, said in (
            (replaced(files, certificate=missing), f"{missing}: can't be read: No such file"),
            (replaced(files, ca=no_pem), f"{no_pem}: holds no PEM certificate"),
            (replaced(files, key=strange.key), f"{strange.key}: is not the key of"),
            (replaced(files, key=files.ca), f"{files.ca}: can't be read: others may read"),
            (replaced(files, key=no_key), f"{no_key}: holds no PEM private key"),
            (expired, f"{expired.certificate}: expired on "),
        ):
            assert said in await told_of(broker, path, wrong)
        year = TrustedClock(timedelta(days=-400))
        assert "is not valid before" in await told_of(broker, path, files, year)
        assert "SSL" not in broker.log.read_text() or "CONNECT" not in broker.log.read_text()


async def test_a_broker_without_tls_is_not_spoken_to_in_plain(path: Path, tmp_path: Path) -> None:
    files = certificates(tmp_path / "tls")
    async with mosquitto(tmp_path) as broker:
        assert "TLS" in await told_of(broker, path, files)


async def test_a_certificate_for_another_host_is_refused(path: Path, tmp_path: Path) -> None:
    files = certificates(tmp_path / "tls", broker_name="another.example")
    async with mosquitto(tmp_path, tls=files) as broker:
        assert "mismatch" in await told_of(broker, path, files)


async def test_a_rotated_certificate_is_taken_up_without_a_restart(
    path: Path, tmp_path: Path
) -> None:
    files = certificates(tmp_path / "tls")
    good = files.certificate.read_bytes()
    core = MemoryCore()
    core.record(5)
    expired = certificates(tmp_path / "expired", client_lasts=timedelta(hours=1))
    files.certificate.write_bytes(expired.certificate.read_bytes())
    with structlog.testing.capture_logs() as logs:
        async with (
            mosquitto(tmp_path, tls=files) as broker,
            core_on(path, core),
            linking(link_settings(broker.port, tls=files), path),
        ):
            await until(lambda: away(logs, "tls"))
            files.certificate.write_bytes(good)
            async with EventCloud(broker.host, broker.port, context=cloud_context(files)) as cloud:
                await cloud.until(lambda: complete(cloud, core))
