"""Records of another site are never in force, whichever way they come or have come."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.cache.in_force import records_in_force
from gateway.domain.json_text import decode_object
from gateway.errors import RecordsRefused
from gateway.statedir import StateDir
from gateway.trust.making import delta, snapshot
from tests.cache.conftest import NOON, records
from tests.cache.in_one_process import InOneProcess
from tests.cache.test_bundles import take
from tests.trust.bundles import about, canonical_set

LON, PAR = records(), records().replace(b'"id": "LON"', b'"id": "PAR"')

ALIKE = [
    "PAR",
    "lon",
    "LON ",
    " LON",
    "LO\u041d",
    "L\u00d6N",
    "\uff2cON",
    "LON\u200b",
    "LON\\u0000",
]
"""Other cases, spaces, a Cyrillic letter, a full-width one, and letters that nobody sees."""


@pytest.fixture
def state(tmp_path: Path) -> Iterator[Path]:
    with StateDir(tmp_path / "state") as state:
        yield state.path


async def opened(
    state: Path, key_file: Path, site: str = "LON", *, signed: bool = False
) -> InOneProcess:
    cache = InOneProcess(state, key_file, site, signed=signed)
    await cache.open()
    return cache


def assert_shut(cache: InOneProcess) -> None:
    assert (cache.current, cache.revision, cache.as_of) == (None, None, None)


def site_of(cache: InOneProcess) -> str | None:
    return None if cache.current is None else cache.current.tables.site.id


def of_site(site: str) -> bytes:
    return records().replace(b'"id": "LON"', f'"id": "{site}"'.encode())


@pytest.mark.parametrize("site", ALIKE)
async def test_a_file_of_another_site_is_refused(state: Path, key_file: Path, site: str) -> None:
    cache = await opened(state, key_file)
    with pytest.raises(RecordsRefused) as refused:
        await cache.apply(of_site(site), NOON)
    (fault,) = refused.value.faults
    assert (fault.type, fault.member) == ("site", "id")
    assert fault.what.endswith("they are refused, because this site is 'LON'")
    assert ascii(json.loads(f'"{site}"')) in fault.what
    assert_shut(cache)
    await cache.apply(LON, NOON)
    with pytest.raises(RecordsRefused):
        await cache.apply(of_site(site), NOON)
    assert site_of(cache) == "LON"


@pytest.mark.parametrize(
    "lines",
    [
        LON + b'{"type": "site", "id": "PAR", "timezone": "Europe/Paris"}\n',
        b'{"type": "site", "id": "PAR", "timezone": "Europe/Paris"}\n' + LON,
        b"".join(LON.splitlines(keepends=True)[1:]),
        LON.replace(b'"id": "LON"', b'"id": "PAR", "id": "LON"'),
    ],
    ids=["a second site", "a first site", "no site", "two ids"],
)
async def test_a_file_of_several_sites_or_none_is_refused(
    state: Path, key_file: Path, lines: bytes
) -> None:
    cache = await opened(state, key_file)
    with pytest.raises(RecordsRefused) as refused:
        await cache.apply(lines, NOON)
    assert refused.value.faults[0].type == "site"
    assert_shut(cache)


async def test_what_another_site_left_opens_nothing_and_is_named(
    state: Path, key_file: Path
) -> None:
    left = await opened(state, key_file, "PAR")
    await left.apply(PAR, NOON)
    found = await opened(state, key_file)
    assert_shut(found)
    assert "records of site 'PAR'" in str(found.problem)
    assert "records of site 'PAR'" in str(found.rebuilt)
    with pytest.raises(RecordsRefused, match="this site is 'LON'"):
        records_in_force(state, key_file, "LON")
    await found.apply(LON, NOON)
    assert site_of(found) == "LON"
    assert (await opened(state, key_file)).problem is None
    assert (await opened(state, key_file)).rebuilt is None


async def test_the_right_id_in_the_config_brings_the_records_back(
    state: Path, key_file: Path
) -> None:
    before = await opened(state, key_file)
    await before.apply(LON, NOON)
    assert_shut(await opened(state, key_file, "PAR"))
    again = await opened(state, key_file)
    assert (again.revision, again.rebuilt) == (before.revision, None)


@pytest.mark.parametrize("lost", ["current", "entitlements-*.mdb", "cache.db*"])
async def test_no_rebuild_takes_another_sites_records(
    state: Path, key_file: Path, lost: str
) -> None:
    left = await opened(state, key_file, "PAR")
    await left.apply(PAR, NOON)
    for path in list(state.glob(lost)):  # noqa: ASYNC240 - a test of its own
        path.unlink()
    assert_shut(await opened(state, key_file))


async def test_a_rebuild_takes_the_last_good_set_of_this_site(state: Path, key_file: Path) -> None:
    own = await opened(state, key_file)
    applied = await own.apply(LON, NOON)
    own._place = own._place._replace(site="PAR")  # as an earlier release, which looked at no id
    await own.apply(PAR, NOON)
    found = await opened(state, key_file)
    assert found.revision == applied.revision
    assert site_of(found) == "LON"


@pytest.mark.parametrize("site", ["PAR", "lon", "LO\u041d"])
async def test_a_signed_bundle_with_another_sites_records_is_refused(
    state: Path, key_file: Path, site: str
) -> None:
    cache = await opened(state, key_file, signed=True)
    with pytest.raises(Exception, match="wrong_site"):
        await take(cache, snapshot(canonical_set(of_site(site)), about(1)))
    assert_shut(cache)
    first = canonical_set(LON)
    await take(cache, snapshot(first, about(1)))
    both = ("bundle-1", "bundle-2")
    for made in (
        snapshot(canonical_set(of_site(site)), about(2)),
        delta(first, canonical_set(of_site(site)), about(2), 1),
    ):
        with pytest.raises(Exception, match="wrong_site"):
            await take(cache, made, *both)
    assert site_of(cache) == "LON"


async def test_a_delta_without_the_site_record_is_refused(state: Path, key_file: Path) -> None:
    cache = await opened(state, key_file, signed=True)
    first = canonical_set(LON)
    await take(cache, snapshot(first, about(1)))
    without = {key: each for key, each in first.items() if key[0] != "site"}
    with pytest.raises(RecordsRefused, match="no site record"):
        await take(cache, delta(first, without, about(2), 1), "bundle-1", "bundle-2")
    assert decode_object(first["site", "LON"]).members["id"] == "LON"


async def test_signed_records_that_another_site_left_open_nothing(
    state: Path, key_file: Path
) -> None:
    left = await opened(state, key_file, signed=True)
    first = canonical_set(LON)
    await take(left, snapshot(first, about(1)))
    assert_shut(await opened(state, key_file, "PAR", signed=True))
    assert (await opened(state, key_file, signed=True)).revision == left.revision
