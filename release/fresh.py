"""Runs the README's commands on machines that have nothing yet: `make test-fresh`, per release.

Debian roots are made with debootstrap and have what the README names and no more. Each command is
read from the README. Only how this machine reaches its package indexes is copied into a root. Needs
root and debootstrap; takes about 15 minutes a root on two cores. The last result is `fresh.json`.
"""

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

TOP = Path(__file__).resolve().parents[1]
RESULTS = TOP / "release" / "fresh.json"
SUITES = ("bookworm", "trixie")
STEPS = ("box", "demo", "test")
STEP_S_MAX = 45 * 60
"""A step that waits for something that never comes ends the run."""

USER = "newcomer"
CHECKOUT = f"/home/{USER}/door-gateway"
UNPACKED = "/root/door-gateway"

BUNDLE = "/etc/ssl/certs/ca-certificates.crt"
COPIED = ("/etc/resolv.conf", "/etc/hosts", "/etc/pip.conf", "/etc/xdg/pip", BUNDLE)

OWN_AUTHORITIES = "/usr/local/share/ca-certificates/this-machine.crt"
"""Debian's ca-certificates, installed later, writes the bundle afresh and adds what is here."""

PASSED_ON = re.compile(r"PIP_\w+|SSL_CERT_FILE|REQUESTS_CA_BUNDLE|\w+_(proxy|PROXY)")

DOWNLOAD = re.compile(r"Downloading \S+(?: \S+)? \((?P<size>[\d.]+) (?P<unit>bytes|kB|MB)\)")
UNIT_MB = {"bytes": 1e-6, "kB": 1e-3, "MB": 1.0}
GRANT = re.compile(r"\bgrant\b")
SUMMARY = re.compile(r"^=*\s*(\d+ passed.*?)\s*=*$")

ENTER = """
mount --make-rprivate /
mount -t proc proc "$0/proc"
mount --rbind /dev "$0/dev"
mount --rbind /sys "$0/sys"
exec chroot "$0" "$@"
"""


class StepFailed(Exception):
    """A command of the README ended with an error; its log is named."""


def readme_commands(heading: str) -> list[str]:
    """Read the indented commands below a heading, up to the next heading or the next number."""
    text = (TOP / "README.md").read_text()
    _, _, section = text.partition(f"\n{heading}\n")
    if not section:
        raise ValueError(f"README.md has no line {heading!r}")
    commands = []
    for line in section.splitlines():
        if line.startswith("## ") or re.match(r" {4}# \d", line):
            break
        if line.startswith("    "):
            commands.append(line.strip())
    return commands


def read_results() -> dict[str, Any]:
    """Read the last run's result."""
    results: dict[str, Any] = json.loads(RESULTS.read_text())
    return results


def for_root(commands: Sequence[str]) -> str:
    """Join commands into a script for root: sudo is not there and not needed."""
    return "set -e\n" + "\n".join(re.sub(r"\bsudo ", "", command) for command in commands)


@dataclass
class Output:
    """Figures read from a step's output, as it comes."""

    began: float
    downloaded_mb: float = 0.0
    first_grant_s: float | None = None
    summary: str | None = None
    tail: list[str] = field(default_factory=list)

    def line(self, text: str) -> None:
        """Take one line."""
        self.tail = [*self.tail[-29:], text]
        if download := DOWNLOAD.search(text):
            self.downloaded_mb += float(download["size"]) * UNIT_MB[download["unit"]]
        if self.first_grant_s is None and GRANT.search(text):
            self.first_grant_s = time.monotonic() - self.began
        if summary := SUMMARY.match(text.strip()):
            self.summary = summary[1]


class Root:
    """A Debian root, and the commands that are run in it."""

    def __init__(self, path: Path, logs: Path) -> None:
        self.path = path
        self._logs = logs

    def prepare(self) -> None:
        """Copy in how this machine reaches its indexes, the commit, and make a user."""
        for name, inside_name in [*zip(COPIED, COPIED, strict=True), (BUNDLE, OWN_AUTHORITIES)]:
            source, target = Path(name), self.path / inside_name.lstrip("/")
            if not source.exists():
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, target, dirs_exist_ok=True)
            else:
                shutil.copyfile(source, target)
        settings = subprocess.run(
            ["apt-config", "dump", "Acquire"], check=True, capture_output=True, text=True
        ).stdout
        (self.path / "etc/apt/apt.conf.d/99this-machine").write_text(settings)
        self.run("prepare", f"apt-get update -q && useradd --create-home --shell /bin/sh {USER}")
        for checkout in (CHECKOUT, UNPACKED):
            inside = self.path / checkout.lstrip("/")
            inside.mkdir(parents=True)
            archive = subprocess.run(
                ["git", "archive", "--format=tar", "HEAD"], cwd=TOP, check=True, capture_output=True
            ).stdout
            subprocess.run(["tar", "x", "-C", str(inside)], input=archive, check=True)
        self.run("prepare", f"chown -R {USER}: {CHECKOUT}")

    def run(self, step: str, script: str, *, user: str = "root", cwd: str = "/") -> Output:
        """Run a script in the root, with this machine's settings of pip and nothing else of it."""
        home = "/root" if user == "root" else f"/home/{user}"
        passed_on = [
            f"{key}={value}" for key, value in os.environ.items() if PASSED_ON.fullmatch(key)
        ]
        command = [
            *("unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-ec", ENTER),
            *(str(self.path), "runuser", "-u", user, "--", "env", "--chdir", cwd, "-i"),
            *(f"HOME={home}", f"USER={user}", "LANG=C.UTF-8", "PYTHONUNBUFFERED=1", *passed_on),
            "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            *("timeout", str(STEP_S_MAX), "sh", "-c", script),
        ]
        output = Output(time.monotonic())
        log = self._logs / f"{self.path.name}-{step}.log"
        with (
            log.open("a") as written,
            subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
            ) as process,
        ):
            assert process.stdout is not None
            for line in process.stdout:
                written.write(line)
                output.line(line)
        if process.returncode != 0:
            ended = f"{self.path.name}, {step}: exit {process.returncode}; the log is {log}"
            raise StepFailed(ended + "\n" + "".join(output.tail))
        return output

    def ask(self, script: str) -> str:
        """Return the last line that a script prints."""
        return self.run("ask", script).tail[-1].strip()


def _size_mb(path: Path) -> int:
    counted = subprocess.run(["du", "-sm", str(path)], check=True, capture_output=True, text=True)
    return int(counted.stdout.split()[0])


def _since(began: float) -> int:
    return round(time.monotonic() - began)


def _box(root: Root) -> dict[str, Any]:
    """Step 1 of "On a box"."""
    heading = "    # 1. The program, in an environment of its own"
    began = time.monotonic()
    output = root.run("box", for_root(readme_commands(heading)), cwd=UNPACKED)
    took = _since(began)
    root.run("box", "door-gateway config check --help && ! test -e /opt/door-gateway/bin/hwsim")
    return {
        "seconds": took,
        "downloaded_mb": round(output.downloaded_mb),
        "installed_mb": _size_mb(root.path / "opt/door-gateway"),
    }


def _demo(root: Root) -> dict[str, Any]:
    """Run `make demo` as a user without rights."""
    began = time.monotonic()
    output = root.run("demo", "make demo", user=USER, cwd=CHECKOUT)
    if output.first_grant_s is None:
        raise StepFailed("the demo showed no grant")
    return {
        "seconds": _since(began),
        "seconds_to_first_grant": round(output.first_grant_s),
        "downloaded_mb": round(output.downloaded_mb),
        "installed_mb": _size_mb(root.path / CHECKOUT.lstrip("/") / ".venv"),
    }


def _test(root: Root, arguments: str) -> dict[str, Any]:
    """Run `make test` as root, which installs the tests' Debian packages."""
    began = time.monotonic()
    output = root.run("test", f"make test {arguments}", cwd=CHECKOUT)
    if output.summary is None:
        raise StepFailed("the tests printed no summary")
    return {
        "seconds": _since(began),
        "summary": output.summary,
        "installed_mb": _size_mb(root.path / CHECKOUT.lstrip("/") / ".venv"),
    }


def _suite(root: Root, steps: Sequence[str], arguments: str) -> dict[str, Any]:
    root.prepare()
    result: dict[str, Any] = {"debian": root.ask("cat /etc/debian_version")}
    if "box" in steps:
        result["box"] = _box(root)
        print(f"{root.path.name}: box {result['box']}", flush=True)
    root.run(
        "apt", for_root([line for line in readme_commands("## Two commands") if "apt-get" in line])
    )
    if "demo" in steps:
        result["demo"] = _demo(root)
        print(f"{root.path.name}: demo {result['demo']}", flush=True)
    if "test" in steps:
        result["test"] = _test(root, arguments)
        print(f"{root.path.name}: test {result['test']}", flush=True)
    result["python"] = root.ask("python3 -V").split()[1]
    made = "/opt/door-gateway" if "box" in steps else f"{CHECKOUT}/.venv"
    result["pip"] = root.ask(f"{made}/bin/python -m pip --version").split()[1]
    return result


def main() -> int:
    """Run the steps in each root; exit 1 where one fails."""
    parser = argparse.ArgumentParser(prog="release.fresh", description=__doc__)
    parser.add_argument("--suites", default=",".join(SUITES), help="Debian's names, with commas")
    parser.add_argument("--steps", default=",".join(STEPS), help="of box, demo, test")
    parser.add_argument("--make", default="", metavar="ARGS", help="arguments for `make test`")
    parser.add_argument("--root", type=Path, help="a root that is there, and is used up")
    parser.add_argument("--to", type=Path, default=RESULTS, help="the file of results")
    given = parser.parse_args()
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=TOP,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()
    results: dict[str, Any] = {
        "commit": commit,
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}",
        "suites": {},
    }
    work = Path(tempfile.mkdtemp(prefix="fresh-", dir="/var/tmp"))
    failed = False
    for suite in [given.root.name] if given.root else given.suites.split(","):
        path = given.root or work / suite
        try:
            if not given.root:
                print(f"{suite}: debootstrap", flush=True)
                with (work / f"{suite}-debootstrap.log").open("w") as log:
                    subprocess.run(
                        ["debootstrap", "--variant=minbase", suite, str(path)],
                        check=True,
                        stdout=log,
                        stderr=log,
                    )
            outcome = _suite(Root(path, work), given.steps.split(","), given.make)
        except (StepFailed, subprocess.CalledProcessError) as error:
            print(error, file=sys.stderr, flush=True)
            outcome = {"failed": str(error).splitlines()[0]}
            failed = True
        results["suites"][suite] = outcome
        given.to.write_text(json.dumps(results, indent=1) + "\n")
        if not failed:
            shutil.rmtree(path)
    print(json.dumps(results, indent=1))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
