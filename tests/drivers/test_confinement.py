"""What a worker that has locked itself in can still do, and what it can't any more."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.drivers import confinement

WHY_NOT = confinement.why_unavailable()
needs_seccomp = pytest.mark.skipif(WHY_NOT is not None, reason=WHY_NOT or "it can")

WORKER = """
import importlib.util, json, os, pty, socket, subprocess, sys, threading
spec = importlib.util.spec_from_file_location("confinement", sys.argv[1])
confinement = importlib.util.module_from_spec(spec)
spec.loader.exec_module(confinement)
here, port = pty.openpty()
waits = threading.Event()
early = []
def before():  # a thread that runs already is locked in too
    waits.wait()
    early.append(attempt(lambda: open(sys.argv[3])))
def attempt(what):
    try: what()
    except OSError as refused: return refused.errno
    return 0
older = threading.Thread(target=before)
older.start()
here_socket = socket.socket(socket.AF_UNIX)
why = confinement.lock_in(frozenset(sys.argv[4:]))
waits.set(); older.join()
late = []
thread = threading.Thread(target=lambda: late.append(1))
thread.start(); thread.join()
os.write(port, b"tap"); heard = os.read(here, 3).decode()
os.urandom(8)
print(json.dumps({
    "why": why, "thread": late, "port": heard, "older": early[0],
    "refused": {
        "socket": attempt(lambda: socket.socket(socket.AF_UNIX)),
        "connect": attempt(lambda: here_socket.connect(sys.argv[2])),
        "read": attempt(lambda: open(sys.argv[3])),
        "write": attempt(lambda: open(sys.argv[3], "w")),
        "unlink": attempt(lambda: os.unlink(sys.argv[3])),
        "exec": attempt(lambda: os.execv("/bin/true", ["true"])),
        "fork": attempt(os.fork),
        "spawn": attempt(lambda: subprocess.run(["/bin/true"])),
        "kill": attempt(lambda: os.kill(os.getppid(), 0)),
        "setuid": attempt(lambda: os.setuid(os.getuid())),
        "memfd": attempt(lambda: os.memfd_create("x")),
        "pidfd": attempt(lambda: os.pidfd_open(os.getppid())),
    },
}))
"""


def locked_in(directory: Path, *kept: str) -> dict[str, object]:
    key = directory / "credential.key"
    key.write_text("secret")
    script = directory / "worker.py"
    script.write_text(WORKER)
    place = Path(confinement.__file__)
    done = subprocess.run(
        [sys.executable, "-I", str(script), str(place), str(directory / "core.sock"), str(key)]
        + [*kept],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert key.read_text() == "secret"
    answer: dict[str, object] = json.loads(done.stdout)
    return answer


@needs_seccomp
def test_a_worker_keeps_its_port_and_threads_and_gets_nothing_else(tmp_path: Path) -> None:
    said = locked_in(tmp_path)
    assert said["why"] is None
    assert (said["thread"], said["port"], said["older"]) == ([1], "tap", 1)
    refused = said["refused"]
    assert isinstance(refused, dict)
    assert set(refused.values()) == {1}, refused


@needs_seccomp
def test_a_worker_keeps_the_calls_that_it_names(tmp_path: Path) -> None:
    refused = locked_in(tmp_path, "socket", "connect")["refused"]
    assert isinstance(refused, dict)
    assert refused.pop("socket") == 0
    assert refused.pop("connect") == 2, "there is no such socket, and it was looked for"
    assert set(refused.values()) == {1}, refused


def test_a_machine_without_a_list_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    named = os.uname()
    other = os.uname_result((named.sysname, named.nodename, named.release, "", "riscv64"))
    monkeypatch.setattr(os, "uname", lambda: other)
    assert "riscv64" in str(confinement.why_unavailable())
    assert "riscv64" in str(confinement.lock_in())


@pytest.mark.parametrize("machine", confinement.MACHINES)
def test_no_call_is_listed_under_two_names(machine: str) -> None:
    calls = confinement.MACHINES[machine].calls
    assert len(set(calls.values())) == len(calls)
    needed = {"socket", "connect", "openat", "execve", "execveat", "ptrace", "kill", "bpf"}
    assert needed <= calls.keys()
