"""The key set of a site: found at the start, and what doors believe by it."""

from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import pytest

from gateway import logs
from gateway.cache import Cache
from gateway.config.site import SiteConfig, TrustTable
from gateway.domain.carried_grant import CarriedGrant
from gateway.errors import ConfigError
from gateway.processes.downlink import grant_verifier, opened_roots, recent_log
from gateway.trust.grants import Claims, issue, to_text
from gateway.trust.root import Roots
from tests.processes.signed import keys
from tests.trust.keyring import key, kid, root_document
from tests.virtual import START


@dataclass
class _Named:
    id: str
    gateway: str


@dataclass
class _Config:
    site: _Named


@dataclass
class _Floor:
    root_floor: int


HERE = cast("SiteConfig", _Config(_Named("LON", "gw-1")))
HOUR = timedelta(hours=1)


def text(**other: Any) -> str:
    grant = CarriedGrant(
        id="0011223344556677", holder="h", medium="paper", doors=("front",),
        **{"issued": START, "not_before": START, "expires": START + HOUR} | other,
    )  # fmt: skip
    return to_text(issue(Claims(grant, ("LON/gw-1",)), key("grant-1"), kid("grant-1")))


def test_doors_believe_the_keys_of_the_root_in_force_and_what_was_signed_in_its_time() -> None:
    roots = Roots(keys(), Path("/nowhere"))
    floor = _Floor(1)
    verified = grant_verifier(HERE, roots, cast("Cache", floor))
    assert isinstance(verified(text()), CarriedGrant)
    year = timedelta(days=366)
    late = {"issued": START + year, "not_before": START + year, "expires": START + year + HOUR}
    assert verified(text(**late)) == "grant_unknown_key"
    others: dict[str, Any] = {"root": ("root-1",), "bundle": ("bundle-1",), "grant": ("grant-2",),
                              "freshness": ("freshness-1",), "command": ("command-1",)}  # fmt: skip
    roots.current = keys(roles=others, thresholds={})
    assert verified(text()) == "grant_unknown_key"
    roots.current = keys()
    floor.root_floor = 2
    assert verified(text()) == "grant_unknown_key"
    assert grant_verifier(HERE, None, cast("Cache", floor))(text()) == "grant_unknown_key"


def test_a_root_that_is_missing_damaged_or_another_sites_stops_the_start(tmp_path: Path) -> None:
    file = tmp_path / "1.root"
    trust = TrustTable(root=str(file))
    with pytest.raises(ConfigError, match="No such file"):
        opened_roots(trust, "LON", tmp_path / "roots")
    file.write_bytes(b"\x00")
    with pytest.raises(ConfigError, match="malformed"):
        opened_roots(trust, "LON", tmp_path / "roots")
    file.write_bytes(root_document())
    with pytest.raises(ConfigError, match="wrong_site"):
        opened_roots(trust, "PAR", tmp_path / "roots")
    assert opened_roots(trust, "LON", tmp_path / "roots").current.version == 1


def test_a_log_that_is_asked_for_holds_no_more_than_a_result_may() -> None:
    for number in range(logs.RECENT_LINES_MAX + 5):
        logs.keep(None, "info", {"event": f"line {number} " + "x" * 2_000, "_record": object()})
    lines = recent_log(HOUR)
    assert 20 < len(lines) < 60
    assert "line 1004 " in lines[-1]
    assert sum(map(len, lines)) <= 48 * 1024
    assert recent_log(timedelta(0)) == () or len(recent_log(timedelta(0))) <= 1
