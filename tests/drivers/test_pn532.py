"""The PN532's driver, and the worker that runs nfcpy for it."""

import asyncio
import itertools
import logging
import os
import random
import signal
import struct
import subprocess
import sys
import textwrap
import time
import tomllib
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import nfc.clf.pn532
import nfc.clf.transport
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.clock import Clock
from gateway.domain.facts import CredentialPresented, DeviceOnline
from gateway.drivers import pn532
from gateway.drivers.pn532 import (
    LINE_BYTES_MAX,
    Pn532Protocol,
    Pn532Settings,
    UidRefused,
    WorkerEnded,
)
from gateway.drivers.pn532_worker import (
    ABSENT_NS,
    ABSENT_SENSES,
    CardPresence,
    GarbledReplyError,
    Poller,
    Target,
    targets_of,
    uid_of,
)
from gateway.errors import DeviceUnavailable
from hwsim.cards import card
from hwsim.observations import CardSent
from hwsim.pn532 import Chip
from hwsim.site import Site
from tests.drivers.contract import (
    DriverContract,
    Running,
    any_split,
    children,
    eventually,
    running,
)
from tests.timing import allowed

GOLDEN = tomllib.loads((Path(__file__).parents[1] / "golden" / "pn532.toml").read_text())
MS = 1_000_000
UIDS = st.sampled_from((4, 7, 10)).flatmap(lambda n: st.binary(min_size=n, max_size=n))


NOISE = (OSError, IndexError, struct.error, GarbledReplyError, nfc.clf.pn532.Chipset.Error)
"""What nfcpy makes of it."""


class Stopped(Exception):  # no error: the end of a test
    pass


class ChipLine:
    """What pyserial is to nfcpy, with a simulated chip at its end and noise on the way."""

    port = "/dev/ttyUSB0"

    def __init__(self, rng: random.Random, rate: float = 0.0) -> None:
        self.chip = Chip()
        self.rate = rate
        self.timeout = 0.05
        self.now_ns = 0
        self.bytes_count = 0
        self._rng = rng
        self._waiting = bytearray()

    def _noisy(self, data: bytes) -> bytes:
        self.bytes_count += len(data)
        return bytes(
            self._rng.randrange(256) if self._rng.random() < self.rate else byte for byte in data
        )

    def write(self, data: bytes) -> None:
        self.now_ns += MS
        for sent in self.chip.receive(self._noisy(bytes(data))):
            self._waiting += self._noisy(sent.frame)

    def read(self, size: int) -> bytes:
        data = bytes(self._waiting[:size])
        del self._waiting[:size]
        if len(data) < size:
            self.now_ns += int(self.timeout * 1e9)
        return data

    def flushInput(self) -> None:  # noqa: N802  # pyserial's
        self._waiting.clear()


class Transport(nfc.clf.transport.TTY):  # type: ignore[misc]
    """nfcpy's own transport on a line that is already there."""

    def __init__(self, line: Any) -> None:
        self.tty = line


def chipset(line: ChipLine) -> Any:
    quiet = logging.getLogger("nfc.test")
    quiet.disabled = True
    made = nfc.clf.pn532.Chipset(Transport(line), quiet)
    rate, line.rate = line.rate, 0.0
    made.set_parameters(0)
    line.rate = rate
    return made


@pytest.mark.parametrize("golden", GOLDEN["frame"], ids=lambda golden: golden["source"])
def test_golden_frames_are_these_uids(golden: dict[str, Any]) -> None:
    class Played:
        def flushInput(self) -> None:  # noqa: N802
            self.data = bytes.fromhex("0000ff00ff00" + golden["hex"])

        def write(self, data: bytes) -> None:
            assert data == bytes.fromhex("0000ff04fcd44a0200e000")

        def read(self, size: int) -> bytes:
            head, self.data = self.data[:size], self.data[size:]
            return head

    made = nfc.clf.pn532.Chipset(Transport(Played()), logging.getLogger("nfc.test"))
    reply = made.command(0x4A, bytearray((2, 0)), 1.0)
    assert [uid_of(target) for target in targets_of(bytes(reply))] == golden["uids"]


@given(st.lists(st.tuples(st.integers(0, 255), UIDS), max_size=2))
def test_a_reply_says_every_target_that_was_put_into_it(targets: list[tuple[int, bytes]]) -> None:
    reply = bytes([len(targets)]) + b"".join(
        bytes([number, 0x00, 0x44, sel_res, len(nfcid)]) + nfcid
        for number, (sel_res, nfcid) in enumerate(targets, 1)
    )
    assert targets_of(reply) == [Target(sel_res, nfcid) for sel_res, nfcid in targets]
    for length in range(len(reply)):
        with pytest.raises(GarbledReplyError):
            targets_of(reply[:length])
    with pytest.raises(GarbledReplyError):
        targets_of(reply + b"\x00")


@pytest.mark.parametrize("length", sorted(set(range(21)) - {4, 7, 10}))
def test_a_uid_of_another_length_is_none(length: int) -> None:
    assert uid_of(Target(0x08, bytes(length))) is None


def test_a_uid_that_is_not_whole_is_none() -> None:
    assert uid_of(Target(0x04, bytes.fromhex("04A1B2C3"))) is None
    assert uid_of(Target(0x00, bytes.fromhex("8804A1B2"))) is None
    assert uid_of(Target(0x20, bytes.fromhex("08A1B2C3"))) == "08A1B2C3"


def test_a_card_that_stays_is_one_read() -> None:
    presence = CardPresence()
    reads = [presence.sensed(["A"], at * 50 * MS) for at in range(10_000)]
    assert reads == [["A"]] + [[]] * 9_999


def test_an_empty_look_in_mid_read_is_no_new_read() -> None:
    presence = CardPresence()
    looks = [["A"], [], ["A"], [], [], ["A"]]
    reads = [presence.sensed(look, at * 30 * MS) for at, look in enumerate(looks)]
    assert list(itertools.chain(*reads)) == ["A"]


def test_a_card_that_was_away_is_read_anew() -> None:
    presence = CardPresence()
    assert presence.sensed(["A"], 0) == ["A"]
    for at in range(ABSENT_SENSES):
        assert not presence.empty
        assert presence.sensed([], ABSENT_NS + at) == []
    assert presence.empty
    assert presence.sensed(["A"], 2 * ABSENT_NS) == ["A"]


def test_many_quick_empty_looks_do_not_make_a_card_absent() -> None:
    presence = CardPresence()
    presence.sensed(["A"], 0)
    for at in range(100):
        assert presence.sensed([], at * MS) == []
    assert presence.sensed(["A"], 101 * MS) == []


def test_two_cards_are_read_once_each_in_the_order_found() -> None:
    presence = CardPresence()
    assert presence.sensed(["B"], 0) == ["B"]
    assert presence.sensed(["A", "B", "A"], MS) == ["A"]
    assert presence.sensed(["B", "A"], 2 * MS) == []
    assert CardPresence().sensed(["C", "A", "B"], 0) == ["C", "A", "B"]


def test_a_card_that_leaves_does_not_disturb_one_that_stays() -> None:
    presence = CardPresence()
    presence.sensed(["A", "B"], 0)
    for at in range(20):
        assert presence.sensed(["A"], at * 50 * MS) == []
    assert presence.sensed(["A", "B"], 1000 * MS) == ["B"]


def test_on_a_noisy_line_a_uid_counts_when_it_was_read_twice_in_a_row() -> None:
    presence = CardPresence()
    looks = [["A"], ["X"], ["A"], ["A"], ["A"]]
    reads = [presence.sensed(look, at * MS, noisy=True) for at, look in enumerate(looks)]
    assert reads == [[], [], [], ["A"], []]


def polled(line: ChipLine, rounds: int, say: Any, each_round: Any = lambda: None) -> None:
    """Let pollers look `rounds` times; one that gives up is followed by another."""
    left = rounds

    def wait(seconds: float) -> None:
        nonlocal left
        line.now_ns += int(seconds * 1e9)
        left -= 1
        if left <= 0:
            raise Stopped
        each_round()

    while left > 0:
        try:
            Poller(chipset(line), say, lambda: line.now_ns).run(wait)
        except Stopped:
            return
        except NOISE:
            each_round()


def test_the_poller_reads_each_kind_of_card_with_the_real_nfcpy() -> None:
    said: list[str] = []
    line = ChipLine(random.Random(1))
    uids = ["04A1B2C3", "08112233", "04A1B2C3D4E5F6", "0102030405060708090A"]
    cards = itertools.cycle(map(card, uids))
    changes = itertools.cycle([lambda: line.chip.put(next(cards)), line.chip.field.clear])
    rounds = itertools.count(1)

    def change() -> None:
        if next(rounds) % 20 == 0:
            next(changes)()

    polled(line, 200, said.append, change)
    read = [line.split()[1] for line in said if line.startswith("U")]
    assert read[:4] == uids


def test_a_card_that_lay_there_at_the_start_counts_only_after_it_was_away() -> None:
    said: list[str] = []
    line = ChipLine(random.Random(1))
    line.chip.put(card("04A1B2C3"))
    rounds = itertools.count(1)

    def change() -> None:
        match next(rounds):
            case 40:
                line.chip.field.clear()
            case 80:
                line.chip.put(card("04A1B2C3"))

    polled(line, 30, said.append, change)
    assert [line.split()[0] for line in said if line[0] in "OU"] == ["O"]
    polled(line, 60, said.append, change)  # a fresh start, on which the card still lies
    assert [line.split()[0] for line in said if line[0] in "OU"] == ["O", "O", "U"]


@pytest.mark.parametrize("frames", range(6))
def test_a_card_pulled_away_in_mid_read_gives_its_whole_uid_or_none(frames: int) -> None:
    said: list[str] = []
    line = ChipLine(random.Random(2))
    line.chip.put(card("04A1B2C3D4E5F6", frames_left=frames))
    polled(line, 50, said.append)
    assert {each.split()[1] for each in said if each.startswith("U")} <= {"04A1B2C3D4E5F6"}


@pytest.mark.parametrize("rate", [0.001, 0.01, 0.1])
def test_noise_makes_no_false_card(rate: float) -> None:
    rng = random.Random(rate)
    line = ChipLine(rng, rate)
    said: list[str] = []
    shown: set[str] = set()

    def change() -> None:
        if rng.random() < 0.1:
            line.chip.field.clear()
        if not line.chip.field and rng.random() < 0.2:
            uid = rng.randbytes(rng.choice((4, 7, 10))).hex().upper()
            if not uid.startswith("88"):
                shown.add(uid)
                line.chip.put(card(uid))

    polled(line, 8_000, said.append, change)
    read = {each.split()[1] for each in said if each.startswith("U")}
    assert read <= shown
    assert line.bytes_count > 100_000
    assert rate > 0.01 or len(read) > 0.5 * len(shown)


def test_random_bytes_instead_of_a_chip_are_no_card() -> None:
    rng = random.Random(4)
    said: list[str] = []

    class Mad(ChipLine):
        def write(self, data: bytes) -> None:
            self.now_ns += MS
            junk = rng.randbytes(rng.randrange(64))
            self.bytes_count += len(junk)
            self._waiting += (b"\0\0\xff\0\xff\0" if rng.random() < 0.9 else b"") + junk

    line = Mad(rng)
    poller_left = 200_000
    while line.bytes_count < poller_left:
        made = nfc.clf.pn532.Chipset(Transport(line), logging.getLogger("nfc.test"))
        made.log.disabled = True

        def wait(seconds: float) -> None:
            line.now_ns += int(seconds * 1e9)

        with pytest.raises(NOISE):
            Poller(made, said.append, lambda: line.now_ns).run(wait)
    assert not [each for each in said if each[0] in "UR"]


def lines_of(*lines: str) -> bytes:
    return "".join(f"{line}\n" for line in lines).encode()


@given(st.lists(UIDS), st.lists(st.integers(0, 10_000)))
def test_what_the_worker_says_comes_out_the_same_however_it_is_split(
    uids: list[bytes], cuts: list[int]
) -> None:
    protocol = Pn532Protocol("reader")
    said = [f"U {uid.hex().upper()} {number}000" for number, uid in enumerate(uids)]
    data = lines_of("O 5000", *said, "H", "R 5", "E OSError EIO")
    facts = [fact for piece in any_split(data, cuts) for fact in protocol.receive(piece)]
    assert facts == [
        DeviceOnline("reader", timedelta(microseconds=5)),
        *(
            CredentialPresented("reader", "uid", uid.hex().upper(), timedelta(microseconds=number))
            for number, uid in enumerate(uids)
        ),
        UidRefused(5),
        WorkerEnded("OSError EIO"),
    ]


@pytest.mark.parametrize(
    "junk",
    [
        b"U 04A1B2 1\n",
        b"U 04A1B2C3D4 1\n",
        b"U 04a1b2c3 1\n",
        b"U 04A1B2C3\n",
        b"O 2\n",
        b"\n",
        b"hello\n",
        b"\xff\xfe\n",
        b"U 04A1B2C3 1\r\n",
        b"x" * (LINE_BYTES_MAX + 1),
    ],
)
def test_junk_from_the_worker_ends_it_without_showing_what_it_was(junk: bytes) -> None:
    protocol = Pn532Protocol("reader")
    protocol.receive(b"O 1\n")
    with pytest.raises(DeviceUnavailable) as caught:
        protocol.receive(junk)
    assert "04" not in str(caught.value)


def test_a_card_before_the_reader_is_online_is_junk() -> None:
    with pytest.raises(DeviceUnavailable):
        Pn532Protocol("reader").receive(b"U 04A1B2C3 1\n")


@pytest.mark.parametrize(
    "port",
    [
        "ttyUSB0",
        "/dev/tty USB0",
        "/dev/ttyUSB0;reboot",
        "/dev/$(reboot)",
        "/dev/`reboot`",
        "/dev/tty|sh",
        "/dev/tty&",
        "/dev/tty\n",
        "/dev/'",
        "/dev/*",
        "",
        "/",
        "/dev/" + "x" * 200,
    ],
)
def test_a_port_that_means_something_to_a_shell_is_refused(port: str) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"port": port}, Pn532Settings)


def test_a_port_by_path_is_taken() -> None:
    port = "/dev/serial/by-path/pci-0000:00:14.0-usb-0:1.1:1.0-port0"
    assert msgspec.convert({"port": port}, Pn532Settings).port == port


def test_the_driver_does_not_bring_nfcpy_into_the_core() -> None:
    code = "import sys, gateway.drivers; sys.exit('nfc' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)


class TestAPn532(DriverContract):
    device: ClassVar[str] = "street-reader"

    _numbers: ClassVar[Iterator[int]] = itertools.count(0x01020304)

    async def prove(self, site: Site, run: Running) -> None:
        uid = f"{next(self._numbers):08X}"
        await site.present(self.device, uid, hold=allowed(0.15))
        await run.until(lambda _facts: uid in run.values)
        assert run.values.count(uid) == 1

    @pytest.mark.parametrize("iso_dep", [False, True])
    async def test_cards_of_each_size_are_read_once_and_again_when_they_were_away(
        self, site: Site, clock: Clock, iso_dep: bool
    ) -> None:
        uids = ["04A1B2C3", "08A1B2C3", "04A1B2C3D4E5F6", "04A1B2C3D4E5F6A7B8C9"]
        async with running(self.build(site, clock)) as run:
            for uid in uids * 2:
                await site.present(self.device, uid, hold=allowed(0.15), iso_dep=iso_dep)
            await asyncio.sleep(0.05)
            assert run.values == uids * 2

    async def test_a_card_that_stays_is_one_read(self, site: Site, clock: Clock) -> None:
        async with running(self.build(site, clock)) as run:
            await site.present(self.device, "04A1B2C3", hold=1.5)
            assert run.values == ["04A1B2C3"]

    async def test_two_cards_at_once_are_read_once_each(self, site: Site, clock: Clock) -> None:
        async with running(self.build(site, clock)) as run:
            await site.present_two(self.device, "01020304", "04A1B2C3D4E5F6", hold=0.5)
            await asyncio.sleep(0.4)
            sent = [seen.uid for seen in site.seen.of(CardSent)]
            assert run.values == list(dict.fromkeys(sent))
            assert sorted(run.values) == ["01020304", "04A1B2C3D4E5F6"]

    async def test_a_card_is_told_within_moments(self, site: Site, clock: Clock) -> None:
        async with running(self.build(site, clock)) as run:
            for number in range(5):
                before_ns = time.monotonic_ns()
                await site.present(self.device, f"0102030{number}", hold=allowed(0.1))
                await run.until(lambda _facts: len(run.values) > number)  # noqa: B023
                assert run.told_ns[-1] - before_ns < 100 * MS
                sent_at = timedelta(microseconds=site.seen.of(CardSent)[-1].at_ns // 1000)
                assert abs(run.facts[-1].at - sent_at) < timedelta(milliseconds=50)
                await asyncio.sleep(0.35)

    async def test_a_worker_that_hangs_is_killed_and_a_fresh_one_is_online(
        self, site: Site, clock: Clock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(pn532, "SILENCE_S_MAX", 1.0)
        driver = self.build(site, clock)
        before = children()
        async with running(driver) as run:
            (worker,) = children() - before
            os.kill(worker, signal.SIGSTOP)
            with pytest.raises(DeviceUnavailable, match="silent"):
                async with asyncio.timeout(allowed(3.0)):
                    await run.task
            await eventually(lambda: worker not in children())
        async with running(driver) as run:
            await self.prove(site, run)

    async def test_a_chip_that_hangs_is_given_up_and_found_again(
        self, site: Site, clock: Clock
    ) -> None:
        driver = self.build(site, clock)
        async with running(driver) as run:
            await site.hang(self.device)
            with pytest.raises(DeviceUnavailable):
                async with asyncio.timeout(allowed(4.0)):
                    await run.task
        with pytest.raises(DeviceUnavailable):
            await driver.run(lambda _fact: None)
        await site.power_cycle(self.device, off=0.05)
        async with running(driver) as run:
            await self.prove(site, run)

    async def test_a_worker_that_is_killed_makes_the_reader_unavailable_at_once(
        self, site: Site, clock: Clock
    ) -> None:
        driver = self.build(site, clock)
        before = children()
        async with running(driver) as run:
            (worker,) = children() - before
            os.kill(worker, signal.SIGKILL)
            with pytest.raises(DeviceUnavailable, match="ended"):
                async with asyncio.timeout(0.5):
                    await run.task
        async with running(driver) as run:
            await self.prove(site, run)

    async def test_noise_between_two_cards_makes_none(self, site: Site, clock: Clock) -> None:
        async with running(self.build(site, clock)) as run:
            for seed in range(20):
                await site.noise(self.device, 500, seed)
                await asyncio.sleep(0.02)
            assert run.values == []
            assert not run.task.done()

    async def test_ten_percent_noise_makes_no_false_card(self, site: Site, clock: Clock) -> None:
        driver = self.build(site, clock)
        async with running(driver) as run:
            await site.garble(self.device, 0.1, seed=3)
            await site.present(self.device, "04A1B2C3", hold=1.0)
            assert set(run.values) <= {"04A1B2C3"}
            await site.resume(self.device)

    async def test_a_port_that_is_not_there_fails_at_once(self, site: Site, clock: Clock) -> None:
        driver = self.build(site, clock, port="/dev/no-such-reader")
        started = time.monotonic()
        with pytest.raises(DeviceUnavailable, match="not there"):
            await driver.run(lambda _fact: None)
        assert time.monotonic() - started < allowed(0.1)

    async def test_a_port_without_a_chip_is_unavailable(self, site: Site, clock: Clock) -> None:
        port = site.rewritten_config()["devices"]["street-keypad"]["port"]
        with pytest.raises(DeviceUnavailable):
            async with asyncio.timeout(allowed(8.0)):
                await self.build(site, clock, port=port).run(lambda _fact: None)

    async def test_the_worker_dies_with_its_parent(self, site: Site, tmp_path: Path) -> None:
        port = site.rewritten_config()["devices"][self.device]["port"]
        core = tmp_path / "core.py"
        core.write_text(
            textwrap.dedent(
                f"""
                import asyncio
                from gateway.clock import SystemClock
                from gateway.drivers.pn532 import Pn532, Pn532Settings

                clock = SystemClock(floor=None, vouched=lambda: True)
                driver = Pn532("reader", Pn532Settings(port={port!r}), clock)
                asyncio.run(driver.run(lambda fact: print("online", flush=True)))
                """
            )
        )
        process = await asyncio.create_subprocess_exec(
            sys.executable, str(core), stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": "."}
        )
        assert process.stdout is not None
        assert await asyncio.wait_for(process.stdout.readline(), 5.0) == b"online\n"
        (worker,) = children(process.pid)
        process.kill()
        await process.wait()
        await eventually(lambda: not is_alive(worker))


def is_alive(process: int) -> bool:
    # An orphan's remains may wait for a reaper that this machine has not.
    stat = Path(f"/proc/{process}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"
