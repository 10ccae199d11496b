"""An NXP PN532 NFC reader on a serial line, through nfcpy: secure cards, phones and UIDs.

    [devices.street-reader]
    driver = "pn532"
    port = "/dev/serial/by-path/pci-0000:00:14.0-usb-0:1.1:1.0-port0"
    credentials = ["desfire", "grant", "sun"]    # tried in this order; by default ["uid"] alone

Each technology has a table of its own (`card_settings.py`). A card that has a technology's
application and does not prove itself is refused, and nothing weaker is tried. "uid" can only be
last: it takes any card that has none of the others. A UID is no secret and can be copied onto
another card: a zone that matters asks for more (`assurance`). A random UID (phones, some cards;
4 bytes, the first 08) is passed on as it is read.

nfcpy blocks and a reader can hang, so each reader has a process of its own (`pn532_worker.py`),
which is killed when it falls silent. It alone has the keys of the cards, from its standard input.
"""

import asyncio
import json
import os
import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, Final, Literal, cast

import msgspec
import structlog

from gateway.clock import Clock
from gateway.config.devices import Capability, DeviceSettings, DriverSpec, Means, Trial, refuse
from gateway.domain.carried_grant import PROVEN
from gateway.domain.facts import CredentialPresented, CredentialRefused, DeviceOnline, Fact
from gateway.drivers.base import FactSink
from gateway.drivers.card_settings import (
    AliroTable,
    DesfireTable,
    GrantTable,
    PkocTable,
    SunTable,
    missing_keys,
    with_keys,
)
from gateway.drivers.cards import GrantProof
from gateway.drivers.grant_judge import GrantJudge
from gateway.drivers.worker_process import WorkerLines, read_worker, worker_process
from gateway.errors import DeviceUnavailable

log = structlog.get_logger()

WORKER: Final = Path(__file__).with_name("pn532_worker.py")

START_S_MAX: Final = 8.0
"""Until the worker says that the chip answers: nfcpy alone waits 1.5 s for the first byte of a USB
adapter on a Raspberry Pi, and again after the line's speed was set back."""

SILENCE_S_MAX: Final = 3.0
"""The worker says something every 0.5 s; silent for so long it hangs and is killed."""

LINE_BYTES_MAX: Final = 2560
"""The longest line a worker may say: a grant of 1,024 bytes in hex digits, and its proof."""

_PORT: Final = re.compile(r"(/[A-Za-z0-9._:+@-]{1,128}){1,16}")
_MESSAGE: Final = re.compile(
    rb"(?P<online>O (?P<online_ns>[0-9]{1,19}))"
    rb"|U (?P<uid>[0-9A-F]{8}|[0-9A-F]{14}|[0-9A-F]{20}) (?P<uid_ns>[0-9]{1,19})"
    rb"|P (?P<kind>[a-z]{1,16}) (?P<value>[0-9A-F:]{1,160}) (?P<counter>-|[0-9]{1,8})"
    rb" (?P<found_ns>[0-9]{1,19}) (?P<proven_ns>[0-9]{1,19})"
    rb"|G (?P<nonce>[0-9a-f]{64}) (?P<key>[0-9a-f]{130}) (?P<signature>[0-9a-f]{128})"
    rb" (?P<grant>([0-9a-f]{2}){1,1024}) (?P<begun_ns>[0-9]{1,19}) (?P<shown_ns>[0-9]{1,19})"
    rb"|X (?P<unproven>[a-z]{1,16}) (?P<why>[a-z_]{1,32}) (?P<unproven_ns>[0-9]{1,19})"
    rb"|R (?P<refused>[0-9]{1,3})"
    rb"|(?P<heartbeat>H)"
    rb"|E (?P<ended>[A-Za-z0-9_. ]{1,100})"
)


class Pn532Settings(DeviceSettings, frozen=True, kw_only=True):
    """[devices.NAME] of a PN532."""

    port: str
    credentials: tuple[Literal["desfire", "aliro", "grant", "pkoc", "sun", "uid"], ...] = ("uid",)
    desfire: DesfireTable | None = None
    aliro: AliroTable | None = None
    grant: GrantTable | None = None
    pkoc: PkocTable | None = None
    sun: SunTable | None = None

    def __post_init__(self) -> None:
        """Refuse what can't work, and a name that nfcpy, which hands it to a shell, can't be
        trusted with.

        Raises:
            ValueError: msgspec turns it into a fault with its path in the file.
        """
        refuse(self._faults())

    def _faults(self) -> Iterator[str]:
        if not _PORT.fullmatch(self.port):
            yield "`port` must be the absolute path of a serial port"
        if not self.credentials or len(set(self.credentials)) != len(self.credentials):
            yield "`credentials` must name each technology once, and at least one"
        if "uid" in self.credentials[:-1]:
            yield '`credentials` must have "uid" last: any card has one'
        for name in SECURE:
            if (name in self.credentials) != (getattr(self, name) is not None):
                yield f"`{name}` must be set up if it is among the `credentials`, and only then"

    def told(self) -> dict[str, Any]:
        """What the worker is told, keys and all.

        Raises:
            DeviceMisconfigured: a key can't be used.
        """
        tables = {name: table for name in SECURE if (table := getattr(self, name)) is not None}
        told = {name: with_keys(table) for name, table in tables.items()}
        if self.desfire is not None:
            told["desfire"]["ev2"] = self.desfire.authentication == "ev2"
        return {"credentials": self.credentials, **told}

    def missing(self) -> Iterator[tuple[str, str]]:
        """See `DriverSpec.missing`."""
        for name in SECURE:
            yield from missing_keys(name, getattr(self, name))


SECURE: Final = ("desfire", "aliro", "grant", "pkoc", "sun")


class UidRefused(msgspec.Struct, frozen=True):
    """A card whose UID is not whole or of no known length; the UID itself is not passed on."""

    bytes_count: int


class GrantShown(msgspec.Struct, frozen=True):
    """A phone showed a grant and a proof, of which nothing is believed yet."""

    proof: GrantProof
    began: timedelta
    at: timedelta


class WorkerEnded(msgspec.Struct, frozen=True):
    """The worker's last words."""

    why: str


Said = Fact | UidRefused | GrantShown | WorkerEnded


class Pn532Protocol:
    """The worker's bytes in, facts out."""

    def __init__(self, device_id: str) -> None:
        self.device_id = device_id
        self.online = False
        self._lines = WorkerLines(device_id, LINE_BYTES_MAX)

    def receive(self, data: bytes) -> list[Said]:
        """Take what the worker wrote; return what its complete lines say.

        Raises:
            DeviceUnavailable: it wrote something else.
        """
        said = (self._read(line) for line in self._lines.receive(data))
        return [message for message in said if message is not None]

    def _read(self, line: bytes) -> Said | None:
        message = _MESSAGE.fullmatch(line)
        if message is None:
            raise self._lines.junk(line)
        if message["ended"]:
            return WorkerEnded(message["ended"].decode())
        if message["online"] and not self.online:
            self.online = True
            return DeviceOnline(self.device_id, _monotonic(message["online_ns"]))
        if (not self.online and not message["heartbeat"]) or message["online"]:
            raise self._lines.junk(line)
        if message["uid"]:
            at = _monotonic(message["uid_ns"])
            return CredentialPresented(self.device_id, "uid", message["uid"].decode(), at)
        if message["kind"]:
            kind, value = message["kind"].decode(), message["value"].decode()
            counter = None if message["counter"] == b"-" else int(message["counter"])
            at, began = _monotonic(message["proven_ns"]), _monotonic(message["found_ns"])
            return CredentialPresented(self.device_id, kind, value, at, counter, began)
        if message["nonce"]:
            parts = (message[name] for name in ("nonce", "key", "signature", "grant"))
            proof = GrantProof(*(bytes.fromhex(part.decode()) for part in parts))
            return GrantShown(
                proof, _monotonic(message["begun_ns"]), _monotonic(message["shown_ns"])
            )
        if message["unproven"]:
            kind, why = message["unproven"].decode(), message["why"].decode()
            return CredentialRefused(self.device_id, kind, why, _monotonic(message["unproven_ns"]))
        if message["refused"]:
            return UidRefused(int(message["refused"]))
        return None


def _monotonic(nanoseconds: bytes) -> timedelta:
    return timedelta(microseconds=int(nanoseconds) // 1000)


class Pn532:
    """One reader and the process that drives it."""

    def __init__(self, device_id: str, settings: Pn532Settings, clock: Clock) -> None:
        self.device_id = device_id
        self._clock = clock
        self._port = settings.port
        self._settings = settings
        table = settings.grant
        self._grants = None if table is None else GrantJudge(device_id, table.identifier)

    async def run(self, emit: FactSink) -> None:
        """See `Driver.run`."""
        if not os.path.exists(self._port):  # noqa: ASYNC240, PTH110  # no I/O to wait for in /dev
            raise DeviceUnavailable(f"{self.device_id}: {self._port} is not there")
        protocol = Pn532Protocol(self.device_id)
        told = json.dumps(self._settings.told(), separators=(",", ":")).encode()
        async with worker_process(WORKER, self._port) as worker:
            cast("asyncio.StreamWriter", worker.stdin).write(told + b"\n")
            while True:
                limit_s = SILENCE_S_MAX if protocol.online else START_S_MAX
                data = await read_worker(worker, f"{self.device_id}: {self._port}", limit_s)
                if not data:
                    raise DeviceUnavailable(f"{self.device_id}: its worker on {self._port} ended")
                for message in protocol.receive(data):
                    self._take(message, emit)

    def _take(self, message: Said, emit: FactSink) -> None:
        match message:
            case UidRefused(bytes_count=count):
                log.warning("uid_refused", device=self.device_id, uid_bytes=count)
            case WorkerEnded(why=why):
                raise DeviceUnavailable(f"{self.device_id}: {self._port} failed: {why}")
            case GrantShown(proof=proof, began=began, at=at):
                if self._grants is not None:
                    emit(self._grants.judge(proof, began, at, self._clock.monotonic()))
            case fact:
                emit(fact)


_PROVES: Final = {"aliro": "pkoc", "grant": PROVEN}
"""What a technology proves, where it is called otherwise."""


DRIVER = DriverSpec(
    name="pn532",
    settings=Pn532Settings,
    capabilities=frozenset({Capability.READS_CREDENTIALS}),
    build=Pn532,
    address=lambda settings: settings.port,
    proves=lambda settings: {_PROVES.get(each, each) for each in settings.credentials},
    missing=Pn532Settings.missing,
    title="NFC readers with NXP's PN532: DESFire, Aliro, PKOC, carried grants, NTAG 424 DNA, UIDs",
    transport="serial (HSU), USB serial",
    tried=(
        Trial(Means.CAPTURE, "answers to three cards, from the LPC1343 code base's PN532 example"),
        Trial(Means.VECTORS, "frames of NXP UM0701-02"),
        Trial(Means.VECTORS, "DESFire and NTAG 424 DNA: NXP AN0945, AN10922, AN12196, AN12343"),
        Trial(Means.VECTORS, "Aliro: the public reference actuator's"),
        Trial(Means.PEER, "python-desfire, of the simulated EV1 card"),
    ),
)
