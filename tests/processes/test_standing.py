"""The box's own figures: what is read anew for each status, and what is not."""

import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from cryptography import x509

from demo.brokers import certificates
from gateway.processes.standing import Standing


def test_a_certificate_is_parsed_once_for_each_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = certificates(tmp_path)
    parsed = 0
    parse: Callable[[bytes], list[x509.Certificate]] = x509.load_pem_x509_certificates

    def counted(content: bytes) -> list[x509.Certificate]:
        nonlocal parsed
        parsed += 1
        return parse(content)

    monkeypatch.setattr(x509, "load_pem_x509_certificates", counted)
    config = SimpleNamespace(
        state=SimpleNamespace(dir=tmp_path),
        mqtt=SimpleNamespace(
            tls=SimpleNamespace(certificate=str(made.certificate), ca=str(made.ca))
        ),
    )
    standing = Standing(cast("Any", config), cast("Any", None), cast("Any", None), tmp_path)
    first = standing.box().certificates
    for _ in range(10):
        assert standing.box().certificates == first
    assert parsed == 2
    authority = parse(made.ca.read_bytes())[0].not_valid_after_utc
    assert first[made.ca.name] == authority
    # Of the same length and time, but another file: as `install` or `mv` leaves it.
    at, content = made.certificate.stat(), made.certificate.read_bytes()
    renewed = tmp_path / "renewed"
    renewed.write_bytes(made.ca.read_bytes()[: len(content)].ljust(len(content)))
    os.utime(renewed, ns=(at.st_atime_ns, at.st_mtime_ns))
    renewed.replace(made.certificate)
    standing.box()
    assert parsed > 2
    made.certificate.unlink()
    assert made.certificate.name not in standing.box().certificates
