"""Writes down what the locked packages say of themselves: `make lock` runs it, with a network.

Each target's pip is asked for the file that it would take, so a release without a wheel for one of
them stops here.
"""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from packaging.utils import canonicalize_name

from release.locks import (
    BUILD_LOCK,
    LOCKS,
    METADATA,
    TARGETS,
    TOP,
    Target,
    active_pins,
    read_lock,
)


def _asked(target: Target, scratch: Path) -> list[dict[str, Any]]:
    """Ask pip what it would install on a target, from every lock."""
    lines = set()
    for lock in (*LOCKS, BUILD_LOCK):
        active, _ = active_pins(read_lock((TOP / lock).read_text()), next(target.environments()))
        for pin in active.values():
            hashes = " ".join(f"--hash=sha256:{sha256}" for sha256 in sorted(pin.hashes))
            lines.add(f"{pin.name}=={pin.version} {hashes}")
    wanted, report = scratch / "wanted.txt", scratch / "report.json"
    wanted.write_text("\n".join(sorted(lines)))
    interpreter = "cp" + target.python.replace(".", "")
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", "install"),
            *("--dry-run", "--ignore-installed", "--no-deps", "--no-build-isolation"),
            *("--require-hashes", "--target", str(scratch / "nothing"), "--report", str(report)),
            *("--python-version", target.python, "--implementation", "cp"),
            *(word for abi in (interpreter, "abi3", "none") for word in ("--abi", abi)),
            *(word for name in target.platforms() for word in ("--platform", name)),
            *("-r", str(wanted)),
        ],
        check=True,
    )
    installs: list[dict[str, Any]] = json.loads(report.read_text())["install"]
    return installs


def main() -> None:
    """Write `requirements-metadata.json`."""
    known: dict[str, dict[str, Any]] = {}
    for target in TARGETS:
        print(f"metadata for {target}", flush=True)
        with tempfile.TemporaryDirectory() as scratch:
            installs = _asked(target, Path(scratch))
        for install in installs:
            metadata, download = install["metadata"], install["download_info"]
            package = known.setdefault(
                canonicalize_name(metadata["name"]),
                {"requires": set(), "extras": set(), "files": {}},
            )
            package["version"] = metadata["version"]
            package["requires_python"] = metadata.get("requires_python", "")
            package["requires"] |= {
                re.sub(r"\s+", " ", line) for line in metadata.get("requires_dist", [])
            }
            package["extras"] |= {
                canonicalize_name(extra) for extra in metadata.get("provides_extra", [])
            }
            name = download["url"].rpartition("/")[2]
            package["files"][name] = download["archive_info"]["hashes"]["sha256"]
    for package in known.values():
        package["requires"] = sorted(package["requires"])
        package["extras"] = sorted(package["extras"])
    METADATA.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
