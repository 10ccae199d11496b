"""What is retained on the broker and no longer there is cleared, whatever was killed between."""

import json
from collections.abc import Iterable
from pathlib import Path

import pytest
from msgspec.structs import replace

from demo.brokers import mosquitto
from gateway.link.announced import TRIES_MAX, Announced
from gateway.link.home_assistant import Announcements
from gateway.link.settings import HomeAssistantSettings, LinkSettings
from gateway.link.topics import Topics
from hwsim.mqtt import MqttClient
from tests.ipc.memory import MemoryCore, door_state
from tests.link.rig import PREFIX, core_on, link_settings, linking, until

TOPICS = Topics("LON", "lon-1")
ASKED = HomeAssistantSettings(discovery_prefix="homeassistant", locks=False)


def wanted_of(doors: Iterable[str], asked: HomeAssistantSettings | None) -> set[str]:
    found = {f"{PREFIX}/status", *(TOPICS.door_state(door) for door in doors)}
    if asked is not None:
        made = Announcements(TOPICS, asked, site="LON", gateway="lon-1")
        found |= {topic for topic, _ in made.of_gateway()}
        found |= {topic for door in doors for topic, _ in made.of_door(door)}
    return found


async def retained(host: str, port: int) -> set[str]:
    """The topics that the broker keeps a message of."""
    found: set[str] = set()
    end: list[str] = []

    def hear(topic: str, payload: bytes) -> None:
        if topic == "end":
            end.append(topic)
        elif payload:
            found.add(topic)

    client = MqttClient("looker", hear)
    await client.open(host, port, "#")
    client.publish("end", b"1")  # behind all that is retained
    await until(lambda: end)
    client.close()
    return found


async def ran(settings: LinkSettings, path: Path, doors: Iterable[str], host: str) -> set[str]:
    """Run core and link with these doors until the broker has all; what it keeps then."""
    core = MemoryCore()
    for door in doors:
        core.doors.report(door_state(door))
    wanted = wanted_of(doors, settings.home_assistant)
    found: set[str] = set()
    async with core_on(path, core), linking(settings, path):

        async def looked() -> bool:
            found.clear()
            found.update(await retained(host, settings.port))
            return found == wanted

        for _ in range(100):
            if await looked():
                break
    return found


@pytest.mark.parametrize(
    ("doors", "asked"),
    [
        (("street", "lounge"), ASKED),  # a door removed
        (("street", "lounge", "suite 2"), ASKED),  # renamed
        (("street", "lounge", "suite"), None),  # [mqtt.home_assistant] removed
        (("street", "lounge", "suite"), replace(ASKED, discovery_prefix="ha")),
        (("street", "lounge", "suite"), replace(ASKED, locks=True)),
        (("a/b #1+",), replace(ASKED, discovery_prefix="x/y", locks=True)),  # all of it
        (("street", "lounge", "suite"), ASKED),  # nothing
    ],
)
async def test_the_broker_keeps_exactly_what_the_site_has_now(
    tmp_path: Path, doors: tuple[str, ...], asked: HomeAssistantSettings | None
) -> None:
    path = tmp_path / "core.sock"
    async with mosquitto(tmp_path) as broker:
        first = replace(
            link_settings(broker.port, home_assistant=ASKED), announced=tmp_path / "announced.json"
        )
        before = ("street", "lounge", "suite")
        assert await ran(first, path, before, broker.host) == wanted_of(before, ASKED)
        then = replace(first, home_assistant=asked)
        assert await ran(then, path, doors, broker.host) == wanted_of(doors, asked)


async def test_a_core_that_comes_back_with_fewer_doors_is_enough(tmp_path: Path) -> None:
    path = tmp_path / "core.sock"
    async with mosquitto(tmp_path) as broker:
        settings = link_settings(broker.port, home_assistant=ASKED)
        async with linking(settings, path):
            for doors in (("street", "suite"), ("street",), ("street", "suite")):
                core = MemoryCore()
                for door in doors:
                    core.doors.report(door_state(door))
                async with core_on(path, core):
                    wanted = wanted_of(doors, ASKED)
                    for _ in range(200):
                        if (found := await retained(broker.host, broker.port)) == wanted:
                            break
                    assert found == wanted


async def test_what_another_gateway_and_others_retain_stays(tmp_path: Path) -> None:
    path, file = tmp_path / "core.sock", tmp_path / "announced.json"
    others = {"acs/v1/LON/lon-2/door/street/state", "homeassistant/light/x/config", "x"}
    async with mosquitto(tmp_path) as broker:
        client = MqttClient("others", lambda *_: None)
        await client.open(broker.host, broker.port)
        done: list[int] = []
        for topic in others:
            client.publish(topic, b"{}", retain=True, done=lambda: done.append(1))
        await until(lambda: len(done) == 3)
        client.close()
        # A damaged or forged list names them all the same.
        names = [
            *others,
            f"{PREFIX}/door/gone/state",
            f"{PREFIX}/status",
            f"{PREFIX}/door/a/b/state",
        ]
        kept = {"v": 1, "site": "LON", "gateway": "lon-1", "topics": names}
        file.write_text(json.dumps(kept), encoding="utf-8")
        settings = replace(link_settings(broker.port), announced=file)
        core = MemoryCore()
        core.doors.report(door_state("street"))
        async with core_on(path, core), linking(settings, path):
            await until(lambda: "gone" not in file.read_text(encoding="utf-8"))
            assert others <= await retained(broker.host, broker.port)


# --- The list -------------------------------------------------------------------------------------


def announced(file: Path, site: str = "LON") -> Announced:
    return Announced(file, TOPICS, site=site, gateway="lon-1")


A, B, C = (TOPICS.door_state(door) for door in "abc")


def test_what_is_about_to_be_retained_is_on_disk_before_it_is(tmp_path: Path) -> None:
    file = tmp_path / "announced.json"
    assert announced(file).begin([A, B]) == []
    # Killed here, before or after anything was published: the next start knows both.
    assert announced(file).begin([A]) == [B]
    # Killed before the broker has taken it: again.
    again = announced(file)
    assert again.begin([A]) == [B]
    again.cleared([B])
    assert announced(file).begin([A]) == []


def test_clearing_that_ends_the_session_is_given_up_in_the_end(tmp_path: Path) -> None:
    file = tmp_path / "announced.json"
    announced(file).begin([A, B])
    for _ in range(TRIES_MAX):
        assert announced(file).begin([A]) == [B]
    assert announced(file).begin([A]) == []
    assert announced(file).begin([A]) == []
    assert announced(file).begin([C]) == [A]  # what goes later is tried again


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"\xff\xfe", b'{"v":1}', b"null", bytes(5_000_000)]
)
def test_a_damaged_list_is_a_new_one(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "announced.json"
    file.write_bytes(content)
    assert announced(file).begin([A]) == []
    assert announced(file).begin([]) == [A]


def test_every_changed_byte_clears_nothing_that_is_wanted_or_anothers(tmp_path: Path) -> None:
    file = tmp_path / "announced.json"
    announced(file).begin([A, B])
    good = file.read_bytes()
    for at in range(len(good)):
        for bit in (1, 32):
            changed = bytearray(good)
            changed[at] ^= bit
            file.write_bytes(changed)
            gone = announced(file).begin([A])
            assert A not in gone
            assert all(TOPICS.is_door_state(topic) for topic in gone)


def test_the_list_of_another_gateway_clears_nothing(tmp_path: Path) -> None:
    file = tmp_path / "announced.json"
    announced(file).begin([A, B])
    assert announced(file, site="PAR").begin([A]) == []


def test_a_disk_that_takes_nothing_stops_nothing(tmp_path: Path) -> None:
    kept = announced(tmp_path / "missing" / "announced.json")
    assert kept.begin([A, B]) == []
    assert kept.begin([A]) == [B]
    kept.cleared([B])
    assert kept.begin([A]) == []
