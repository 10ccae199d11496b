"""TLS to the broker, set up here and nowhere else."""

import ssl
from datetime import timedelta
from pathlib import Path

import structlog
from cryptography import x509
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
)

from gateway.clock import Clock
from gateway.link.errors import TlsUnusable
from gateway.link.settings import TlsSettings
from gateway.statedir import read_secret

EXPIRY_WARNING = timedelta(days=21)
"""How long before its end a client certificate is warned of: three weekly visits."""

KEY_FILE_BYTES_MAX = 64 * 1024
"""Room for a large RSA key with its chain of certificates in the same file."""

_log = structlog.get_logger(__name__)


def client_context(tls: TlsSettings, clock: Clock) -> ssl.SSLContext:
    """TLS 1.2 or later, the broker's certificate and host name verified, our certificate shown.

    Raises:
        TlsUnusable: A file is missing, unreadable, no PEM, expired, or of another pair.
    """
    authorities = _certificates(tls.ca)
    certificate = _certificates(tls.certificate)[0]
    _check_dates(tls.certificate, certificate, clock)
    _check_key(tls, certificate)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_mode = ssl.CERT_REQUIRED
    context.check_hostname = True
    pem = b"".join(authority.public_bytes(Encoding.PEM) for authority in authorities)
    try:
        context.load_verify_locations(cadata=pem.decode("ascii"))
        # An empty password: without one OpenSSL would ask for it on a terminal.
        context.load_cert_chain(tls.certificate, tls.key, password="")
    except (OSError, ssl.SSLError) as failed:
        raise TlsUnusable(f"{tls.certificate}, {tls.key}: can't be used: {failed}") from failed
    return context


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as failed:
        raise TlsUnusable(f"{file}: can't be read: {failed.strerror}") from failed


def _secret(file: Path) -> bytes:
    try:
        return read_secret(file, KEY_FILE_BYTES_MAX)
    except OSError as failed:
        raise TlsUnusable(f"{file}: can't be read: {failed.strerror}") from failed


def _certificates(file: Path) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(_read(file))
    except ValueError as failed:
        raise TlsUnusable(f"{file}: holds no PEM certificate: {failed}") from failed


def _check_dates(file: Path, certificate: x509.Certificate, clock: Clock) -> None:
    """A clock that nobody vouches for must not keep a good certificate from being tried."""
    if not clock.trust().decides_as_trusted:
        return
    now = clock.now()
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if now > end:
        raise TlsUnusable(f"{file}: expired on {end:%Y-%m-%d %H:%M} UTC: install a new one")
    if now < begin:
        raise TlsUnusable(f"{file}: is not valid before {begin:%Y-%m-%d %H:%M} UTC")
    if end - now < EXPIRY_WARNING:
        _log.warning("tls_certificate_expires_soon", file=str(file), at=end.isoformat())


def _check_key(tls: TlsSettings, certificate: x509.Certificate) -> None:
    try:
        key = load_pem_private_key(_secret(tls.key), password=None)
    except (ValueError, TypeError) as failed:
        raise TlsUnusable(
            f"{tls.key}: holds no PEM private key without a password: {failed}"
        ) from failed
    form = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if key.public_key().public_bytes(*form) != certificate.public_key().public_bytes(*form):
        raise TlsUnusable(f"{tls.key}: is not the key of {tls.certificate}")
