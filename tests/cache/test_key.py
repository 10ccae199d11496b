import os
from pathlib import Path

import pytest

from gateway.cache import CredentialKey, read_key
from gateway.cache.key import key_file
from gateway.errors import StorageError


def key_of(path: Path, content: bytes, mode: int = 0o400) -> Path:
    path.write_bytes(content)
    path.chmod(mode)
    return path


def test_the_same_credential_has_the_same_hash_under_one_key_only() -> None:
    one, other = CredentialKey(b"1" * 32), CredentialKey(b"2" * 32)
    assert one.digest("uid", "04DE5F1E") == CredentialKey(b"1" * 32).digest("uid", "04DE5F1E")
    assert one.digest("uid", "04DE5F1E") != other.digest("uid", "04DE5F1E")
    assert one.digest("pin", "12345678") != one.digest("qr", "12345678")
    assert one.id != other.id
    assert "1111" not in repr(one)


@pytest.mark.parametrize("length", [0, 1, 31])
def test_a_key_of_the_wrong_length_is_refused(tmp_path: Path, length: int) -> None:
    with pytest.raises(StorageError, match=f"is {length} bytes long"):
        read_key(key_of(tmp_path / "key", os.urandom(length)))


def test_a_file_that_was_not_meant_to_be_a_key_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="longer than 4096 bytes"):
        read_key(key_of(tmp_path / "key", os.urandom(4097)))


@pytest.mark.parametrize("mode", [0o444, 0o404, 0o602, 0o660])
def test_a_key_that_others_may_read_or_change_is_refused(tmp_path: Path, mode: int) -> None:
    with pytest.raises(StorageError, match="others may read or change"):
        read_key(key_of(tmp_path / "key", os.urandom(32), mode))


def test_a_missing_key_is_named(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="nowhere: the credential key can't be read"):
        read_key(tmp_path / "nowhere")
    with pytest.raises(StorageError, match="credential key"):
        read_key(tmp_path)


def test_the_key_that_systemd_hands_over_goes_before_the_configured_one(tmp_path: Path) -> None:
    configured, handed = tmp_path / "configured", tmp_path / "handed"
    environment = {"CREDENTIALS_DIRECTORY": str(handed)}
    assert key_file(configured, {}) == configured
    assert key_file(configured, environment) == configured
    handed.mkdir()
    assert key_file(configured, environment) == configured
    (handed / "credential.key").touch()
    assert key_file(configured, environment) == handed / "credential.key"
    assert key_file(configured, {"CREDENTIALS_DIRECTORY": ""}) == configured
