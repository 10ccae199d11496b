"""Every way to install something: pinned by hash, resolved by nobody, built with what is pinned."""

import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from release import fresh
from release.locks import TOP

TEXT = {".md", ".py", ".sh", ".toml", ".yml", ".yaml", ".service", ""}
SKIPPED = {"build", "dist", "var", "tests/release", "release", "Makefile"}
"""What tools leave; the checks themselves; the Makefile has a test of its own."""

PIP = re.compile(r"\bpip[\"']?,? (?:[^`\n]*?)[\"']?install\b[^`\n]*")
HAND_MADE = {
    # How somebody sets up one test's own peer, which no command of ours does.
    "pip install homeassistant==2024.3.3 paho-mqtt==1.6.1 msgspec",
}


def joined_lines(text: str) -> str:
    return re.sub(r"\\\n\s*", " ", text)


def tracked() -> list[Path]:
    """The repository's text files, without what tools leave in a checkout."""
    files = []
    for path in sorted(TOP.rglob("*")):
        name = path.relative_to(TOP).as_posix()
        hidden = any(part.startswith(".") and part != ".ci" for part in path.relative_to(TOP).parts)
        skipped = any(name == part or name.startswith(f"{part}/") for part in SKIPPED)
        if path.is_file() and path.suffix in TEXT and not hidden and not skipped:
            files.append(path)
    return files


def pip_lines() -> list[tuple[str, str]]:
    return [
        (path.relative_to(TOP).as_posix(), match[0])
        for path in tracked()
        for match in PIP.finditer(joined_lines(path.read_text(errors="ignore")))
        if not any(line in match[0] for line in HAND_MADE)
    ]


def unpinned(line: str) -> list[str]:
    """Return the options that a line of pip lacks."""
    lacks = [] if "--no-deps" in line else ["--no-deps"]
    own = re.search(r"(?:install|--no-build-isolation|--editable|-e)\s+\.(?:\s|$)", line)
    if not own and "--require-hashes" not in line:
        lacks.append("--require-hashes")
    builds = "requirements-build.lock" not in line and "--only-binary=:all:" not in line
    if builds and "--no-build-isolation" not in line:
        lacks.append("--no-build-isolation")
    return lacks


def test_every_line_of_pip_is_pinned() -> None:
    lines = pip_lines()
    assert {file for file, _ in lines} >= {
        "README.md",
        "docs/dependencies.md",
        "tests/kernel/run.sh",
    }
    assert {(file, line): unpinned(line) for file, line in lines if unpinned(line)} == {}


def test_the_makefile_installs_by_one_command() -> None:
    text = joined_lines((TOP / "Makefile").read_text())
    (command,) = re.findall(r"^INSTALL := (.*)$", text, re.MULTILINE)
    assert "--no-deps" in command
    assert "--no-build-isolation" in command
    used = re.findall(r"^\t\$\(INSTALL\) (.*)$", text, re.MULTILINE)
    assert [line for line in used if "--require-hashes" not in line] == ["--editable ."]
    assert len(used) == 4


@pytest.mark.parametrize(
    "line",
    [
        "pip install door-gateway",
        "pip install --require-hashes -r requirements.lock",
        "pip install --no-deps --no-build-isolation -r requirements.lock",
        "pip install --no-deps --require-hashes -r requirements.lock",
        "pip install --no-deps .",
    ],
)
def test_a_line_that_lets_pip_choose_is_seen(line: str) -> None:
    assert PIP.search(line)
    assert unpinned(line)


def test_the_readme_installs_what_builds_first_and_checks_the_box_last() -> None:
    lines = fresh.readme_commands("    # 1. The program, in an environment of its own")
    pips = [line for line in lines if "/pip" in line]
    assert [re.findall(r"requirements[\w-]*\.lock|\.$|check", line)[0] for line in pips] == [
        *("requirements-build.lock", "requirements.lock", ".", "check"),
    ]


def test_the_readme_names_what_a_bare_debian_lacks() -> None:
    (line,) = [line for line in fresh.readme_commands("## Two commands") if "apt-get" in line]
    assert {"make", "gcc", "libc6-dev", "python3", "python3-venv"} <= set(line.split())


def test_the_last_run_in_bare_roots_passed() -> None:
    """`make test-fresh` is run before each release, and its result is kept."""
    kept = fresh.read_results()
    assert kept["suites"]
    assert set(kept["suites"]) <= set(fresh.SUITES)
    for outcome in kept["suites"].values():
        assert {"box", "demo"} <= set(outcome)
        assert "failed" not in outcome.get("test", {}).get("summary", "")


def test_the_readme_has_the_measured_size_of_the_demo() -> None:
    readme = (TOP / "README.md").read_text()
    for outcome in fresh.read_results()["suites"].values():
        (stated,) = re.findall(r"(\d+) MB on the disk", readme)
        assert abs(int(stated) - outcome["demo"]["installed_mb"]) <= 5


def test_the_wheel_of_the_box_has_the_gateway_and_no_simulator(tmp_path: Path) -> None:
    for name in ("gateway", "hwsim"):
        shutil.copytree(TOP / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(TOP / name, tmp_path / name)
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check"),
            *("--no-deps", "--no-build-isolation", "--wheel-dir", str(tmp_path / "made"), "."),
        ],
        cwd=tmp_path,
        check=True,
        timeout=120,
    )
    (wheel,) = (tmp_path / "made").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    tops = {name.partition("/")[0] for name in names if ".dist-info/" not in name}
    assert tops == {"gateway"}
    assert any(name.endswith(".sql") for name in names)
    source = {path.relative_to(TOP).as_posix() for path in (TOP / "gateway").rglob("*.py")}
    assert {name for name in names if name.endswith(".py")} == source
