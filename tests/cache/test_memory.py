"""What is too large to be compiled fails with a reason, and what was in force stays."""

import re
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.cache import Cache
from gateway.cache.apply import MEMORY_BYTES_MAX
from gateway.errors import StorageError
from gateway.statedir import StateDir
from gateway.trust.bundle import RAW_BYTES_MAX
from tests.cache.conftest import NOON, records

UNIT = Path(__file__).parents[2] / "systemd" / "door-gateway-core.service"
MEMORY_A_RAW_BYTE = 31


@pytest.fixture
def state(tmp_path: Path) -> Iterator[Path]:
    with StateDir(tmp_path / "state") as state:
        yield state.path


@pytest.mark.timeout(600)  # the children of a busy machine get little of it
async def test_a_set_that_takes_too_much_memory_is_refused_and_the_old_one_stays(
    state: Path, key_file: Path
) -> None:
    cache = Cache(state, key_file, "LON", launcher=("prlimit", "--data=110000000"))
    await cache.open()
    few = await cache.apply(records(20), NOON)
    with pytest.raises(StorageError, match="take more memory than the gateway has"):
        await cache.apply(records(30_000), NOON)
    assert cache.revision == few.revision
    await cache.apply(records(21), NOON)


def test_the_limit_holds_for_the_process_that_sets_it() -> None:
    code = (
        "from gateway.lifeline import limit_memory\n"
        "limit_memory(100 << 20)\n"
        "try: bytearray(200 << 20)\n"
        "except MemoryError: print('refused')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "refused\n"
    assert resource.getrlimit(resource.RLIMIT_DATA)[0] == resource.RLIM_INFINITY


def test_what_a_bundle_may_bring_fits_the_units_memory() -> None:
    unit = UNIT.read_text()
    assert "OOMPolicy=continue\n" in unit
    found = re.search(r"^MemoryMax=(\d+)G$", unit, re.MULTILINE)
    assert found is not None
    assert (int(found[1]) << 30) - (128 << 20) >= MEMORY_BYTES_MAX
    assert RAW_BYTES_MAX * MEMORY_A_RAW_BYTE <= MEMORY_BYTES_MAX * 1.05
