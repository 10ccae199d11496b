"""A check that a lock is complete: pip, which resolves nothing, then installs a working set.

`requirements-metadata.json` has what the locked packages say of themselves; `make lock` writes it.
So the check needs no network.
"""

import json
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.tags import Tag, compatible_tags, cpython_tags
from packaging.utils import canonicalize_name, parse_wheel_filename

TOP = Path(__file__).resolve().parents[1]
METADATA = TOP / "requirements-metadata.json"
PROJECT = "door-gateway"

PYTHONS = ("3.11", "3.12", "3.13", "3.14")
ARCHITECTURES = ("x86_64", "aarch64")
GLIBC_MINOR = 36
"""Debian 12 has glibc 2.36, the oldest that is promised."""

NO_WHEEL = frozenset({"pydes"})
"""Packages that come as source only: docs/dependencies.md says why they are there."""

LOCKS: Mapping[str, tuple[str, ...]] = {
    "requirements.lock": (),
    "requirements-cloud.lock": ("cloud", "fleet"),
    "requirements-demo.lock": ("demo",),
    "requirements-dev.lock": ("test",),
}
"""The locks of the package itself, with the extras that each has."""

BUILD_LOCK = "requirements-build.lock"


class Pin(NamedTuple):
    """One line of a lock."""

    name: str
    version: str
    marker: Marker | None
    hashes: frozenset[str]


@dataclass(frozen=True)
class Package:
    """The metadata of one locked release. `requires` joins what its files say."""

    version: str
    requires_python: str
    requires: tuple[str, ...]
    extras: frozenset[str]
    files: Mapping[str, str]
    """SHA-256 by file name."""


@dataclass(frozen=True)
class Target:
    """A kind of machine that the lock is for."""

    python: str
    architecture: str

    def __str__(self) -> str:
        """Name the target as people do."""
        return f"Python {self.python} on {self.architecture}"

    def platforms(self) -> list[str]:
        """Return the wheel platforms that it takes, best first."""
        oldest = 5 if self.architecture == "x86_64" else 17
        newest_first = range(GLIBC_MINOR, oldest - 1, -1)
        names = [f"manylinux_2_{minor}_{self.architecture}" for minor in newest_first]
        names.append(f"manylinux2014_{self.architecture}")
        if self.architecture == "x86_64":
            names += ["manylinux2010_x86_64", "manylinux1_x86_64"]
        return [*names, f"linux_{self.architecture}"]

    def tags(self) -> frozenset[Tag]:
        """Return the tags of the wheels that it takes."""
        major, minor = self.python.split(".")
        version, platforms = (int(major), int(minor)), self.platforms()
        interpreter = f"cp{major}{minor}"
        return frozenset(
            [
                *cpython_tags(version, [interpreter], platforms),
                *compatible_tags(version, interpreter, platforms),
            ]
        )

    def environments(self) -> Iterator[dict[str, str]]:
        """Yield the marker values of its first and of a late patch release."""
        for patch in ("0", "99"):
            yield {
                "implementation_name": "cpython",
                "implementation_version": f"{self.python}.{patch}",
                "os_name": "posix",
                "platform_machine": self.architecture,
                "platform_python_implementation": "CPython",
                "platform_release": "6.1.0",
                "platform_system": "Linux",
                "platform_version": "",
                "python_full_version": f"{self.python}.{patch}",
                "python_version": self.python,
                "sys_platform": "linux",
            }


TARGETS = tuple(
    Target(python, architecture) for python in PYTHONS for architecture in ARCHITECTURES
)


def read_lock(text: str) -> list[Pin]:
    """Read a lock with hashes, as uv and pip-compile write it."""
    pins = []
    joined = re.sub(r"\\\n", " ", text)
    for line in joined.splitlines():
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        wanted, *hashes = line.split("--hash=")
        requirement = Requirement(wanted.strip())
        (specifier,) = requirement.specifier
        if specifier.operator != "==":
            raise ValueError(f"{requirement} is not pinned: expected name==version")
        pins.append(
            Pin(
                canonicalize_name(requirement.name),
                specifier.version,
                requirement.marker,
                frozenset(value.strip().removeprefix("sha256:") for value in hashes),
            )
        )
    return pins


def read_metadata(text: str) -> dict[str, Package]:
    """Read `requirements-metadata.json`."""
    return {
        name: Package(
            version=fields["version"],
            requires_python=fields["requires_python"],
            requires=tuple(fields["requires"]),
            extras=frozenset(fields["extras"]),
            files=fields["files"],
        )
        for name, fields in json.loads(text).items()
    }


def project() -> dict[str, Any]:
    """Read `pyproject.toml`."""
    return tomllib.loads((TOP / "pyproject.toml").read_text())


def roots(extras: Sequence[str], *, build: bool = False) -> list[Requirement]:
    """List what the package asks for with these extras, and with `build` what builds it."""
    table = project()
    wanted = [Requirement(line) for line in table["project"]["dependencies"]]
    pending = list(extras)
    while pending:
        for line in table["project"]["optional-dependencies"][pending.pop()]:
            requirement = Requirement(line)
            if canonicalize_name(requirement.name) == PROJECT:
                pending += requirement.extras
            else:
                wanted.append(requirement)
    return wanted + (build_roots() if build else [])


def build_roots() -> list[Requirement]:
    """List what builds the package, and packages that come as source."""
    lines = (TOP / "requirements-build.in").read_text().splitlines()
    stated = [line for line in lines if line and not line.startswith("#")]
    return [Requirement(line) for line in [*stated, *project()["build-system"]["requires"]]]


@dataclass
class _Walk:
    """One environment's way from the roots through the requirements of each package."""

    active: Mapping[str, Pin]
    known: Mapping[str, Package]
    environment: Mapping[str, str]
    faults: list[str] = field(default_factory=list)
    seen: set[tuple[str, str]] = field(default_factory=set)

    def need(self, requirement: Requirement, by: str) -> None:
        """Follow one requirement, whose marker holds."""
        name = canonicalize_name(requirement.name)
        pin, package = self.active.get(name), self.known.get(name)
        if requirement.url is not None:
            self.faults.append(f"{by} needs {requirement}: an address can't be locked")
        elif pin is None or package is None:
            self.faults.append(f"{by} needs {requirement}: not in the lock")
        elif not requirement.specifier.contains(pin.version, prereleases=True):
            self.faults.append(f"{by} needs {requirement}: the lock has {pin.version}")
        else:
            for extra in ("", *sorted(map(canonicalize_name, requirement.extras))):
                if extra and extra not in package.extras:
                    self.faults.append(f"{by} needs {requirement}: no extra of that name")
                self._follow(name, extra, package)

    def _follow(self, name: str, extra: str, package: Package) -> None:
        if (name, extra) in self.seen:
            return
        self.seen.add((name, extra))
        values = {**self.environment, "extra": extra}
        for line in package.requires:
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate(values):
                self.need(requirement, f"{name}[{extra}]" if extra else name)


def active_pins(
    pins: Sequence[Pin], environment: Mapping[str, str]
) -> tuple[dict[str, Pin], list[str]]:
    """Return the pins that pip takes in an environment, by name, and names with more than one."""
    active: dict[str, Pin] = {}
    twice = []
    for pin in pins:
        if pin.marker is None or pin.marker.evaluate(dict(environment)):
            if pin.name in active:
                twice.append(pin.name)
            active[pin.name] = pin
    return active, twice


def _file_faults(pin: Pin, package: Package, target: Target, tags: frozenset[Tag]) -> list[str]:
    if not SpecifierSet(package.requires_python).contains(f"{target.python}.0"):
        return [f"{pin.name} {pin.version} is for Python {package.requires_python}"]
    locked = [name for name, sha256 in package.files.items() if sha256 in pin.hashes]
    wheels = [name for name in locked if name.endswith(".whl")]
    if any(parse_wheel_filename(name)[3] & tags for name in wheels):
        return []
    if pin.name in NO_WHEEL and len(locked) > len(wheels):
        return []
    return [f"{pin.name} {pin.version} has no wheel whose hash is in the lock"]


def lock_faults(
    pins: Sequence[Pin],
    known: Mapping[str, Package],
    wanted: Sequence[Requirement],
    target: Target,
) -> list[str]:
    """Return what a target misses after `pip install --no-deps` of these pins; none: complete.

    A pin that nothing asks for is a fault as well: it was forgotten when its user left.
    """
    faults: list[str] = []
    tags = target.tags()
    for environment in target.environments():
        active, twice = active_pins(pins, environment)
        faults += [f"{name} has two pins" for name in twice]
        walk = _Walk(active, known, environment, faults)
        for requirement in wanted:
            if requirement.marker is None or requirement.marker.evaluate(dict(environment)):
                walk.need(requirement, PROJECT)
        for name, pin in active.items():
            package = known.get(name)
            if package is None or package.version != pin.version:
                faults.append(f"{name} {pin.version} has no metadata: run `make lock`")
                continue
            faults += _file_faults(pin, package, target, tags)
            if (name, "") not in walk.seen:
                faults.append(f"{name} {pin.version}: nothing needs it")
    return sorted(set(faults))
