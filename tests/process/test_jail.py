"""Core and link behind the system call filters of their units."""

import os
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from demo.brokers import any_broker
from hwsim.cloud import EventCloud
from tests.process import jail
from tests.process.rig import (
    GATEWAY,
    REPOSITORY,
    SAM,
    STRANGER,
    Daemon,
    Rig,
    spawn,
    standing_rig,
    until,
)

UNITS = REPOSITORY / "systemd"
CORE, LINK = UNITS / "door-gateway-core.service", UNITS / "door-gateway-link.service"
LINK_UID = 65533

# What would be imported later is imported as root: a developer's Python may lie where nobody else
# may read.
_LINK_OF_ANOTHER = """
import concurrent.futures.thread, encodings.idna, os, sys
from pathlib import Path
import gateway.cli.link, gateway.processes.link
from gateway.cli import main
from tests.process import jail

unit, uid, gid, config = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
os.setgroups([]); os.setresgid(gid, gid, gid); os.setresuid(uid, uid, uid)
jail.confine(unit.read_text())
sys.exit(main(["link", "--config", config]))
"""

WHY_NOT = jail.why_unavailable()
pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(WHY_NOT is not None, reason=WHY_NOT or "there is a jail"),
]


async def behind(unit: Path, rig: Rig, part: str) -> Daemon:
    """`door-gateway PART` behind a unit's filter."""
    log = rig.directory / f"{part}-in-jail.log"
    command = (sys.executable, jail.__file__, str(unit), *GATEWAY, part)
    process = await spawn(*command, "--config", str(rig.config), log=log)
    daemon = Daemon(process, log)
    rig._daemons.append(daemon)
    return daemon


def stricter(directory: Path) -> Path:
    """The core's unit where nothing is let off: neither to be nice nor to set a limit."""
    unit = directory / "stricter.service"
    text = CORE.read_text()
    assert "\nSystemCallFilter=setpriority\n" in text
    text = text.replace("\nSystemCallFilter=setpriority\n", "\nSystemCallFilter=~prlimit64\n")
    unit.write_text(text)
    return unit


@pytest.fixture
async def bare(tmp_path: Path) -> AsyncIterator[Rig]:
    """A site without records, and nothing running."""
    async with standing_rig(tmp_path) as rig:
        yield rig


def asked(unit: Path, program: str) -> str:
    """What a Python program prints behind a unit's filter."""
    done = subprocess.run(
        [sys.executable, jail.__file__, str(unit), sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=False,
        cwd=REPOSITORY,
    )
    return done.stdout + done.stderr


def test_the_jail_denies_what_the_unit_denies() -> None:
    calls = jail.allowed(CORE.read_text())
    assert {"openat", "prlimit64", "setpriority", "sendmsg"} <= calls
    assert not calls & {"adjtimex", "sched_setaffinity", "setuid", "chown", "mount", "ptrace"}
    assert "Operation not permitted" in asked(CORE, "import os; os.sched_setaffinity(0, {0})")
    assert "Operation not permitted" in asked(LINK, "import os; os.nice(1)")


@pytest.mark.parametrize("filtered", ["as shipped", "stricter"])
async def test_records_are_imported_and_rebuilt_behind_the_filter_of_the_core(
    bare: Rig, filtered: str, tmp_path: Path
) -> None:
    unit = CORE if filtered == "as shipped" else stricter(tmp_path)
    core = await behind(unit, bare, "core")
    await bare.ready(core)
    await bare.imported()
    await bare.opens("front")
    status = await bare.status()
    assert status is not None
    await bare.at_rest()
    assert await core.stop() == 0
    (bare.state / "current").write_bytes(b"damaged")
    core = await behind(unit, bare, "core")
    await bare.ready(core)
    again = await bare.status()
    assert again is not None
    assert again.revision == status.revision
    await bare.opens("back", SAM)
    assert await core.stop() == 0
    assert "Traceback" not in core.log.read_text()
    assert "compiled again" in core.log.read_text()


def test_the_child_that_compiles_goes_after_the_doors() -> None:
    program = (
        "import os, signal; from gateway.cache import apply;"
        "apply._live_and_die_quietly(os.getppid()); print(os.getpriority(os.PRIO_PROCESS, 0))"
    )
    assert asked(CORE, program).strip() == "10"
    assert asked(LINK, program).strip() == "0"


@pytest.fixture
def common() -> Iterator[Path]:
    """A directory that others may enter; pytest's own are root's alone."""
    with tempfile.TemporaryDirectory(prefix="door-gateway-") as made:
        directory = Path(made)
        directory.chmod(0o755)
        yield directory


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
async def test_a_link_of_another_user_reports_behind_the_filter(common: Path) -> None:
    async with (
        any_broker(common / "broker") as broker,
        standing_rig(common, broker_port=broker.port) as rig,
        EventCloud("127.0.0.1", broker.port) as cloud,
    ):
        rig.config.chmod(0o644)
        core = await behind(CORE, rig, "core")
        await rig.ready(core)
        await rig.imported()
        await rig.tap("back-reader", STRANGER)
        log = rig.directory / "link-in-jail.log"
        process = await spawn(
            *(sys.executable, "-c", _LINK_OF_ANOTHER, str(LINK), str(LINK_UID), str(os.getegid())),
            str(rig.config),
            log=log,
            measured=False,
        )
        link = Daemon(process, log)
        rig._daemons.append(link)
        stream, last = (await rig.journal())[0].stream, await rig.last_seq()
        assert last
        await until(
            "what happened is told",
            lambda: cloud.reached(stream) >= last or not link.alive,
        )
        assert link.alive, link.log.read_text()
        assert await link.stop() == 0
        assert await core.stop() == 0
        assert "Traceback" not in link.log.read_text()


def test_the_kernel_is_no_answer_behind_the_filter_and_a_mark_is(tmp_path: Path) -> None:
    mark = tmp_path / "synchronized"
    program = (
        "from pathlib import Path; from gateway.clock import TimeDaemon, kernel_says_synchronised;"
        f"print(kernel_says_synchronised(), TimeDaemon(marks=[Path({str(mark)!r})])())"
    )
    for unit in (CORE, LINK):
        mark.unlink(missing_ok=True)
        assert asked(unit, program) == "None False\n"
        mark.touch()
        assert asked(unit, program) == "None True\n"


async def test_the_core_uses_the_key_that_systemd_hands_over(bare: Rig) -> None:
    handed = bare.directory / "credentials"
    handed.mkdir(mode=0o700)
    key = handed / "credential.key"
    bare.key.rename(key)
    key.chmod(0o440)  # so it looks where systemd lets the service in by an ACL
    core = await bare.core(env={"CREDENTIALS_DIRECTORY": str(handed)})
    await bare.imported()
    await bare.opens("front")
    assert await core.stop() == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
async def test_nothing_is_imported_into_the_state_of_another_user(bare: Rig) -> None:
    await bare.imported()
    before = {path: path.stat().st_mtime_ns for path in bare.state.rglob("*")}
    command = ("import", str(bare.records), "--config", str(bare.config))
    for owner, name in ((LINK_UID, f"'#{LINK_UID}'"), (1, "daemon")):
        os.chown(bare.state, owner, -1)
        refused = await bare.cli(*command)
        assert refused.status == 2
        assert f"sudo -u {name} door-gateway import" in refused.err
        assert {path: path.stat().st_mtime_ns for path in bare.state.rglob("*")} == before
    os.chown(bare.state, os.geteuid(), -1)
    assert (await bare.cli(*command, "--json")).json["ok"]


async def test_the_trust_in_the_clock_is_logged_once(bare: Rig) -> None:
    config = bare.config.read_text()
    assert 'trust = "host"' in config
    bare.config.write_text(config.replace('trust = "host"', 'trust = "kernel"'))
    core = await behind(CORE, bare, "core")
    await bare.ready(core)
    await bare.imported()
    for _ in range(3):
        await bare.tap("front-reader", STRANGER)
    assert await core.stop() == 0
    # Which of the two depends on the machine that the test runs on.
    said = core.log.read_text()
    assert said.count("the clock is trusted") + said.count("the clock is not trusted") == 1
