"""The files with the secrets of break-glass roles: which of them the core starts with."""

import base64
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from gateway.config.site import BreakGlassTable, SiteConfig
from gateway.errors import ConfigError
from gateway.processes.core import SECRET_FILE_BYTES_MAX, _roles

SECRET = b"12345678901234567890"


def config_with(file: Path) -> SiteConfig:
    table = BreakGlassTable(secrets=(str(file),), doors=("front",), window_h=8, quorum=1)
    return cast("SiteConfig", SimpleNamespace(break_glass={"warden": table}))


@pytest.mark.parametrize("mode", [0o400, 0o440, 0o600, 0o640])
def test_a_secret_that_only_its_owner_may_change_is_taken(tmp_path: Path, mode: int) -> None:
    file = tmp_path / "warden-1"
    file.write_bytes(base64.b32encode(SECRET).lower() + b"\n")
    file.chmod(mode)
    assert _roles(config_with(file))[0].secrets == (SECRET,)


@pytest.mark.parametrize("mode", [0o644, 0o602, 0o620, 0o601])
def test_a_secret_that_others_may_read_or_change_is_refused(tmp_path: Path, mode: int) -> None:
    file = tmp_path / "warden-1"
    file.write_bytes(base64.b32encode(SECRET))
    file.chmod(mode)
    with pytest.raises(ConfigError) as refused:
        _roles(config_with(file))
    (fault,) = refused.value.faults
    assert fault.where == "break_glass.warden.secrets[0]"
    assert f"{file}: others may read or change it (mode {mode:04o}): chmod 0600 it" in str(fault)


def test_a_file_that_was_not_meant_to_be_a_secret_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "warden-1"
    file.touch(0o600)
    file.write_bytes(b"A" * (SECRET_FILE_BYTES_MAX + 1))
    with pytest.raises(ConfigError, match=f"is longer than {SECRET_FILE_BYTES_MAX} bytes"):
        _roles(config_with(file))
