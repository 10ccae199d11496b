"""Each lock has all that its packages ask for: a pip that resolves nothing installs a whole set."""

import dataclasses
import json
import re

import pytest
from packaging.requirements import Requirement

from release import locks
from release.locks import BUILD_LOCK, LOCKS, PYTHONS, TARGETS, TOP, Package, Pin, Target

KNOWN = locks.read_metadata(locks.METADATA.read_text())
PINS = {name: locks.read_lock((TOP / name).read_text()) for name in (*LOCKS, BUILD_LOCK)}
ARM = Target("3.13", "aarch64")


def wanted(lock: str) -> list[Requirement]:
    if lock == BUILD_LOCK:
        return locks.build_roots()
    return locks.roots(LOCKS[lock], build=lock == "requirements-dev.lock")


def faults(
    pins: list[Pin],
    target: Target = ARM,
    *,
    lock: str = "requirements-dev.lock",
    **changed: Package,
) -> list[str]:
    return locks.lock_faults(pins, KNOWN | changed, wanted(lock), target)


def without(lock: str, name: str) -> list[Pin]:
    left = [pin for pin in PINS[lock] if pin.name != name]
    assert len(left) < len(PINS[lock])
    return left


@pytest.mark.parametrize("target", TARGETS, ids=str)
@pytest.mark.parametrize("lock", PINS)
def test_a_lock_is_complete(lock: str, target: Target) -> None:
    assert faults(PINS[lock], target, lock=lock) == []


@pytest.mark.parametrize("lock", LOCKS)
def test_no_pin_can_be_taken_from_a_lock(lock: str) -> None:
    """Every pin is needed, on the oldest Python at least."""
    target = Target(PYTHONS[0], "x86_64")
    for pin in PINS[lock]:
        left = [other for other in PINS[lock] if other.name != pin.name]
        missed = locks.lock_faults(left, KNOWN, wanted(lock), target)
        assert any(fault.endswith("not in the lock") for fault in missed), pin.name


def test_what_only_an_extra_of_a_package_needs_is_missed() -> None:
    assert faults(without("requirements-dev.lock", "linkify-it-py")) == [
        'markdown-it-py[linkify] needs linkify-it-py<3,>=1; extra == "linkify": not in the lock'
    ]


def test_what_only_one_python_needs_is_missed_there() -> None:
    left = without("requirements.lock", "typing-extensions")
    assert faults(left, Target("3.11", "aarch64"), lock="requirements.lock")
    assert not faults(left, Target("3.12", "aarch64"), lock="requirements.lock")


def test_a_pin_that_a_requirement_forbids_is_a_fault() -> None:
    newer = [
        pin._replace(version="4.0") if pin.name == "apscheduler" else pin
        for pin in PINS["requirements.lock"]
    ]
    found = faults(newer, lock="requirements.lock")
    assert "door-gateway needs apscheduler<4,>=3.11: the lock has 4.0" in found
    assert "apscheduler 4.0 has no metadata: run `make lock`" in found


def test_an_extra_that_a_release_has_not_is_a_fault() -> None:
    bare = dataclasses.replace(KNOWN["coverage"], extras=frozenset())
    assert any(
        "no extra of that name" in fault
        for fault in faults(PINS["requirements-dev.lock"], coverage=bare)
    )


def test_a_release_without_a_wheel_for_a_machine_is_a_fault() -> None:
    files = {name: sha for name, sha in KNOWN["lmdb"].files.items() if "aarch64" not in name}
    poorer = dataclasses.replace(KNOWN["lmdb"], files=files)
    pins = PINS["requirements.lock"]
    assert faults(pins, lock="requirements.lock", lmdb=poorer) == [
        f"lmdb {poorer.version} has no wheel whose hash is in the lock"
    ]
    assert faults(pins, Target("3.13", "x86_64"), lock="requirements.lock", lmdb=poorer) == []


def test_a_wheel_for_a_newer_system_than_debian_12_does_not_count() -> None:
    files = {
        re.sub(r"manylinux\w+", "manylinux_2_39_aarch64", name): sha
        for name, sha in KNOWN["lmdb"].files.items()
    }
    assert faults(
        PINS["requirements.lock"],
        lock="requirements.lock",
        lmdb=dataclasses.replace(KNOWN["lmdb"], files=files),
    )


def test_a_wheel_whose_hash_is_not_in_the_lock_does_not_count() -> None:
    pins = [
        pin._replace(hashes=frozenset()) if pin.name == "msgspec" else pin
        for pin in PINS["requirements.lock"]
    ]
    assert faults(pins, lock="requirements.lock") == [
        f"msgspec {KNOWN['msgspec'].version} has no wheel whose hash is in the lock"
    ]


def test_a_release_for_other_pythons_is_a_fault() -> None:
    later = dataclasses.replace(KNOWN["cbor2"], requires_python=">=3.14")
    assert faults(PINS["requirements.lock"], lock="requirements.lock", cbor2=later) == [
        f"cbor2 {later.version} is for Python >=3.14"
    ]


def test_a_pin_that_nothing_needs_is_a_fault() -> None:
    assert faults(PINS["requirements-dev.lock"], lock="requirements.lock")[0].endswith(
        "nothing needs it"
    )


def test_the_locks_agree_on_every_version() -> None:
    """So one environment is the demo's first and the tests' later."""
    dev = {pin.name: (pin.version, pin.hashes) for pin in PINS["requirements-dev.lock"]}
    for name, pins in PINS.items():
        for pin in pins:
            assert dev[pin.name] == (pin.version, pin.hashes), f"{name}: {pin.name}"


def test_the_metadata_knows_nothing_else() -> None:
    assert set(KNOWN) == {pin.name for pins in PINS.values() for pin in pins}


def test_only_what_the_docs_name_comes_as_source() -> None:
    source = {
        name
        for name, package in KNOWN.items()
        if not all(file.endswith(".whl") for file in package.files)
    }
    assert source == locks.NO_WHEEL
    assert "setuptools" in {pin.name for pin in PINS[BUILD_LOCK]}
    documented = (TOP / "docs" / "dependencies.md").read_text()
    assert all(name in documented for name in source)


def test_the_runtime_has_at_most_25_packages() -> None:
    """Promise P23."""
    for target in TARGETS:
        for environment in target.environments():
            assert len(locks.active_pins(PINS["requirements.lock"], environment)[0]) <= 25


def test_every_place_names_the_same_pythons() -> None:
    oldest, newest = PYTHONS[0], PYTHONS[-1]
    table = locks.project()["project"]
    assert table["requires-python"] == f">={oldest},<3.{int(newest.split('.')[1]) + 1}"
    prefix = "Programming Language :: Python :: "
    assert (
        tuple(line.removeprefix(prefix) for line in table["classifiers"] if line.startswith(prefix))
        == PYTHONS
    )
    for file in ("README.md", "CONTRIBUTING.md", "docs/dependencies.md", "Makefile"):
        assert f"Python {oldest} to {newest}" in (TOP / file).read_text(), file
    assert " ".join(PYTHONS) in (TOP / "tests" / "all_pythons.sh").read_text()


def test_the_metadata_is_written_as_make_lock_writes_it() -> None:
    text = locks.METADATA.read_text()
    assert text == json.dumps(json.loads(text), indent=1, sort_keys=True) + "\n"
