"""Finds the OSDP readers on a line, for whoever installs them: every speed, every address."""

import os
import select
import termios
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any, Final

import msgspec

from gateway.drivers.osdp_worker import (
    BROADCAST,
    CAP,
    CRC_USED,
    ID,
    PDCAP,
    PDID,
    PORT,
    REPLY,
    SOM,
    Deframer,
    code_of,
    open_line,
    sealed,
)
from gateway.errors import DeviceUnavailable

SPEEDS: Final = (9600, 115200, 38400, 19200, 57600, 230400)
"""The usual ones first."""
ADDRESSES: Final = range(BROADCAST)

ANSWER_S: Final = 0.06
"""Most readers answer within 20 ms; SIA OSDP 2.2, 5.7 allows 200 ms."""
ANSWER_S_MAX: Final = 0.2
REPLY_BYTES: Final = 80
"""The longer of the two replies, with some capabilities to spare."""

SECURITY, CONTACTS, OUTPUTS = 9, 1, 2  # annex B: function codes of osdp_PDCAP


class Found(msgspec.Struct, frozen=True):
    """A reader that answered."""

    address: int
    baud_rate: int
    vendor: str
    model: int
    version: int
    serial: str
    firmware: str
    secure: bool
    inputs: int
    outputs: int


def command(address: int, code: int, sequence: int) -> bytes:
    """An osdp_ID or osdp_CAP command (6.2, 6.3) in clear."""
    return sealed(bytes([SOM, address, 0, 0, sequence | CRC_USED, code, 0]))


def reader_of(address: int, baud_rate: int, identity: bytes, capabilities: bytes) -> Found:
    """Take osdp_PDID (7.4) and osdp_PDCAP (7.5) apart, without their codes."""
    has = {
        capabilities[at]: (capabilities[at + 1], capabilities[at + 2])
        for at in range(0, len(capabilities) - 2, 3)
    }
    return Found(
        address=address,
        baud_rate=baud_rate,
        vendor=identity[:3].hex(),
        model=identity[3],
        version=identity[4],
        serial=identity[5:9][::-1].hex(),
        firmware=".".join(map(str, identity[9:12])),
        secure=bool(has.get(SECURITY, (0, 0))[0] & 1),
        inputs=has.get(CONTACTS, (0, 0))[1],
        outputs=has.get(OUTPUTS, (0, 0))[1],
    )


def scan(
    port: str,
    *,
    speeds: Iterable[int] = SPEEDS,
    addresses: Iterable[int] = ADDRESSES,
    thorough: bool = False,
    progress: Callable[[str], None] = lambda _text: None,
) -> Iterator[Found]:
    """Ask at every speed who is there, and yield those who answer. Takes seconds to minutes.

    Args:
        port: The serial port; nobody else may have it open.
        speeds: Baud rates to try.
        addresses: Addresses to try.
        thorough: Wait for as long as a reader may take, and ask at speeds, too, at which nobody
            answers a question to everybody.
        progress: Told what is being tried.

    Raises:
        DeviceUnavailable: the port can't be used.
    """
    if not PORT.fullmatch(port):
        raise DeviceUnavailable(f"{port}: is not the absolute path of a serial port")
    addresses = list(addresses)
    for baud_rate in speeds:
        progress(f"{baud_rate} baud")
        try:
            line = open_line(port, baud_rate)
        except (OSError, ValueError, termios.error) as error:
            raise DeviceUnavailable(f"{port}: can't be opened: {error}") from error
        try:
            yield from _scan(line, baud_rate, addresses, thorough=thorough)
        except OSError as error:
            raise DeviceUnavailable(f"{port}: {error}") from error
        finally:
            with suppress(OSError, termios.error):
                line.close()


def _scan(line: Any, baud_rate: int, addresses: list[int], *, thorough: bool) -> Iterator[Found]:
    wait_s = (ANSWER_S_MAX if thorough else ANSWER_S) + REPLY_BYTES * 10 / baud_rate
    # Several answer at once, and nobody can read it: but something is heard.
    _, heard = _ask(line, command(BROADCAST, ID, 0), ANSWER_S_MAX + REPLY_BYTES * 10 / baud_rate)
    if not heard and not thorough:
        return
    for address in addresses:
        identity, _ = _ask(line, command(address, ID, 0), wait_s)
        if identity is None or code_of(identity) != PDID or len(identity) < 5 + 1 + 12:
            continue
        able, _ = _ask(line, command(address, CAP, 1), ANSWER_S_MAX + REPLY_BYTES * 10 / baud_rate)
        said = able[6:-2] if able is not None and code_of(able) == PDCAP else b""
        yield reader_of(address, baud_rate, identity[6:], said)


def _ask(line: Any, asked: bytes, wait_s: float) -> tuple[bytes | None, bool]:
    """The reply, if one comes, and whether anything came at all."""
    descriptor = line.fileno()
    line.reset_input_buffer()
    os.write(descriptor, b"\xff" + asked)
    deframer, heard = Deframer(), False
    until = time.monotonic() + wait_s
    while (left := until - time.monotonic()) > 0:
        ready, _, _ = select.select([descriptor], [], [], left)
        if not ready:
            break
        data = os.read(descriptor, 4096)
        if not data:
            raise OSError("the port hung up")
        heard = True
        for frame in deframer.receive(data):
            if frame[1] == asked[1] | REPLY:
                return frame, True
    return None, heard
