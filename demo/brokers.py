"""Real brokers on this machine, each with a life of its own: started, killed, started again."""

import asyncio
import datetime as dt
import hashlib
import ipaddress
import os
import shutil
import signal
import socket
import sys
from base64 import b64encode
from collections.abc import AsyncIterator, Sequence
from contextlib import (
    AbstractAsyncContextManager,
    AsyncExitStack,
    asynccontextmanager,
    suppress,
)
from dataclasses import dataclass, replace
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

START_S_MAX = 15.0


class Broker:
    """A broker process. It listens on the same port in each of its lives."""

    def __init__(self, command: Sequence[str], port: int, log: Path) -> None:
        self.name = Path(command[0]).name
        self.host = "127.0.0.1"
        self.port = port
        self.log = log
        self._command = tuple(command)
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int:
        """The process, while it lives."""
        if self._process is None:
            raise RuntimeError("the broker isn't running")
        return self._process.pid

    async def start(self) -> None:
        """Start it, and wait until it takes connections."""
        with self.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *self._command, stdout=log, stderr=log, stdin=asyncio.subprocess.DEVNULL
            )
        async with asyncio.timeout(START_S_MAX):
            while not await self._listens():
                if self._process.returncode is not None:
                    raise RuntimeError(f"{self._command[0]} ended:\n{self.log.read_text()}")
                await asyncio.sleep(0.02)

    async def kill(self) -> None:
        """SIGKILL: nothing is said to anybody."""
        await self._stop(signal.SIGKILL)

    async def stop(self) -> None:
        """SIGTERM: it ends its connections in good order."""
        await self._stop(signal.SIGTERM)

    def freeze(self) -> None:
        """SIGSTOP: connections stay open, nobody answers."""
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT."""
        os.kill(self.pid, signal.SIGCONT)

    async def _stop(self, how: signal.Signals) -> None:
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGCONT)
                self._process.send_signal(how)
            await self._process.wait()
            self._process = None

    async def _listens(self) -> bool:
        try:
            _, writer = await asyncio.open_connection(self.host, self.port)
        except OSError:
            return False
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()
        return True


@dataclass(frozen=True)
class Certificates:
    """A private authority and what it signed for a broker on this machine and for a client."""

    ca: Path
    broker_certificate: Path
    broker_key: Path
    certificate: Path
    key: Path
    ca_key: Path


def _mosquitto_program() -> str | None:
    return shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin")


@asynccontextmanager
async def mosquitto(
    directory: Path,
    *,
    tls: Certificates | None = None,
    port: int | None = None,
    login: tuple[str, str] | None = None,
    acl: Path | None = None,
) -> AsyncIterator[Broker]:
    """mosquitto; stopped in good order it keeps sessions and what waits for them, not when killed.

    With `tls` only clients with a certificate get in, with `login` only that name and password.
    """
    program = _mosquitto_program()
    if program is None:
        raise RuntimeError("mosquitto isn't installed: apt install mosquitto")
    port = port or _free_port()
    lines = [
        f"listener {port} 127.0.0.1",
        "persistence true",
        f"persistence_location {directory}/",
        "set_tcp_nodelay true",
        "log_type error",
        "log_type warning",
        "max_queued_messages 100000",
        f"allow_anonymous {str(login is None).lower()}",
    ]
    if login is not None:
        name, password = login
        # As mosquitto_passwd(1) writes it: $7$, rounds, salt, PBKDF2 with SHA-512.
        salt = os.urandom(12)
        key = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, 101)
        hashed = "$".join(("", "7", "101", *(b64encode(part).decode() for part in (salt, key))))
        passwords = _written(directory / "passwords", f"{name}:{hashed}\n")
        lines.append(f"password_file {passwords}")
    if tls is not None:
        lines += [
            f"cafile {tls.ca}",
            f"certfile {tls.broker_certificate}",
            f"keyfile {tls.broker_key}",
            "require_certificate true",
            "use_identity_as_username true",
        ]
    if acl is not None:
        lines.append(f"acl_file {acl}")
    if os.geteuid() == 0:
        lines.append("user root")  # else it gives up the right to read its own key
    config = _written(directory / "mosquitto.conf", "\n".join(lines) + "\n")
    broker = Broker([program, "-c", str(config)], port, directory / "mosquitto.log")
    async with _running(broker):
        yield broker


@asynccontextmanager
async def nats(directory: Path, *, port: int | None = None) -> AsyncIterator[Broker]:
    """nats-server with its MQTT listener, which speaks 3.1.1 only."""
    port = port or _free_port()
    config = _written(
        directory / "nats.conf",
        f'server_name: demo\nlisten: "127.0.0.1:{_free_port()}"\n'
        f'jetstream {{ store_dir: "{directory / "jetstream"}" }}\n'
        f'mqtt {{ listen: "127.0.0.1:{port}" }}\n',
    )
    broker = Broker([_nats_program(), "-c", str(config)], port, directory / "nats.log")
    async with _running(broker):
        yield broker


@asynccontextmanager
async def nats_cluster(directory: Path, nodes: int = 3) -> AsyncIterator[list[Broker]]:
    """A JetStream cluster of nats-server: sessions and messages are on every one of three nodes."""
    routes = [_free_port() for _ in range(nodes)]
    brokers = []
    for number, route in enumerate(routes):
        port = _free_port()
        others = ", ".join(f'"nats://127.0.0.1:{other}"' for other in routes if other != route)
        config = _written(
            directory / f"node-{number}" / "nats.conf",
            f'server_name: node-{number}\nlisten: "127.0.0.1:{_free_port()}"\n'
            f'jetstream {{ store_dir: "{directory / f"node-{number}" / "jetstream"}" }}\n'
            f'cluster {{ name: demo, listen: "127.0.0.1:{route}", routes: [{others}] }}\n'
            f'mqtt {{ listen: "127.0.0.1:{port}", stream_replicas: {nodes} }}\n',
        )
        log = directory / f"node-{number}" / "nats.log"
        brokers.append(Broker([_nats_program(), "-c", str(config)], port, log))
    async with AsyncExitStack() as stack:
        for broker in brokers:
            stack.push_async_callback(broker.kill)
        async with asyncio.TaskGroup() as group:
            for broker in brokers:
                group.create_task(broker.start())
        yield brokers


def _nats_program() -> str:
    beside = Path(sys.executable).parent
    program = shutil.which("nats-server", path=f"{beside}:{os.environ.get('PATH', '')}")
    if program is None:
        raise RuntimeError("nats-server isn't installed: `make demo` and `make test` install it")
    return program


def any_broker(directory: Path) -> AbstractAsyncContextManager[Broker]:
    """Mosquitto where it is installed, else the nats-server that comes from PyPI."""
    return mosquitto(directory) if _mosquitto_program() else nats(directory)


@asynccontextmanager
async def _running(broker: Broker) -> AsyncIterator[None]:
    try:
        await broker.start()
        yield
    finally:
        await broker.kill()


def another_client(made: Certificates, name: str) -> Certificates:
    """The same authority, with a certificate for another client."""
    directory = made.ca.parent
    authority = x509.load_pem_x509_certificate(made.ca.read_bytes())
    authority_key = serialization.load_pem_private_key(made.ca_key.read_bytes(), None)
    assert isinstance(authority_key, ec.EllipticCurvePrivateKey)
    key = ec.generate_private_key(ec.SECP256R1())
    begin, end = authority.not_valid_before_utc, authority.not_valid_after_utc
    certificate = _sign(name, key, authority, authority_key, begin=begin, end=end)
    other = replace(made, certificate=directory / f"{name}.pem", key=directory / f"{name}.key")
    other.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    _write_key(other.key, key)
    return other


def certificates(
    directory: Path,
    *,
    client: str = "lon-1",
    begins: dt.timedelta = dt.timedelta(days=-1),
    lasts: dt.timedelta = dt.timedelta(days=365),
    client_lasts: dt.timedelta | None = None,
    broker_name: str = "localhost",
) -> Certificates:
    """A new authority with a broker's and a client's certificate, as PEM files in `directory`.

    Times count from now; `client_lasts` may end the client's before today. The broker's is for
    `broker_name`, and for 127.0.0.1 where that is localhost.
    """
    directory.mkdir(parents=True, exist_ok=True)
    begin = dt.datetime.now(dt.UTC) + begins
    authority_key = ec.generate_private_key(ec.SECP256R1())
    authority = _sign(
        "demo authority", authority_key, None, authority_key, begin=begin, end=begin + lasts
    )
    broker_key = ec.generate_private_key(ec.SECP256R1())
    broker = _sign(
        broker_name, broker_key, authority, authority_key, begin=begin, end=begin + lasts
    )
    client_key = ec.generate_private_key(ec.SECP256R1())
    client_end = begin + (lasts if client_lasts is None else client_lasts)
    own = _sign(client, client_key, authority, authority_key, begin=begin, end=client_end)
    made = Certificates(
        ca=directory / "ca.pem",
        broker_certificate=directory / "broker.pem",
        broker_key=directory / "broker.key",
        certificate=directory / "gateway.pem",
        key=directory / "gateway.key",
        ca_key=directory / "ca.key",
    )
    for file, certificate in (
        (made.ca, authority),
        (made.broker_certificate, broker),
        (made.certificate, own),
    ):
        file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    for file, key in (
        (made.broker_key, broker_key),
        (made.key, client_key),
        (made.ca_key, authority_key),
    ):
        _write_key(file, key)
    return made


def _write_key(file: Path, key: ec.EllipticCurvePrivateKey) -> None:
    file.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    file.chmod(0o600)


def _written(file: Path, text: str) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


def _sign(
    name: str,
    key: ec.EllipticCurvePrivateKey,
    issuer: x509.Certificate | None,
    issuer_key: ec.EllipticCurvePrivateKey,
    *,
    begin: dt.datetime,
    end: dt.datetime,
) -> x509.Certificate:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject if issuer is None else issuer.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(end)
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
        # From Python 3.13 on, default contexts insist on what RFC 5280 demands of an authority.
        .add_extension(_usage(authority=issuer is None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()),
            critical=False,
        )
        .add_extension(
            x509.SubjectAlternativeName(_names(name)),
            critical=False,
        )
    )
    return builder.sign(issuer_key, hashes.SHA256())


def _usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        key_cert_sign=authority,
        crl_sign=authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _names(name: str) -> list[x509.GeneralName]:
    names: list[x509.GeneralName] = [x509.DNSName(name.replace(" ", "-"))]
    if name == "localhost":
        names.append(x509.IPAddress(ipaddress.IPv4Address("127.0.0.1")))
    return names


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
