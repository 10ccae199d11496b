"""The least that the same machine could do: bare clients on the same wires and the same disk."""

import asyncio
import contextlib
import os
import select
import socket
import sqlite3
import termios
import time
import tty
from collections.abc import Iterator
from pathlib import Path

from bench.stage import Stage, sample_event
from gateway.clock import SystemClock
from gateway.domain import events
from hwsim import observations as seen

# PN532 frames (UM0701-02): GetFirmwareVersion, SAMConfiguration, InListPassiveTarget without end.
_WAKE = bytes(10) + bytes.fromhex("0000ff02fed4022a00")
_SAM = bytes.fromhex("0000ff05fbd4140100001700")
_SEARCH = bytes.fromhex("0000ff04fcd44a0100e100")
_ACK_BYTES = 6
_UID = "04{:012X}"


class BareReader:
    """A PN532 read with nothing but blocking reads."""

    def __init__(self, port: Path) -> None:
        self._line = os.open(port, os.O_RDWR | os.O_NOCTTY)
        tty.setraw(self._line)
        attributes = termios.tcgetattr(self._line)
        attributes[4] = attributes[5] = termios.B115200
        termios.tcsetattr(self._line, termios.TCSANOW, attributes)
        for command in (_WAKE, _SAM):
            os.write(self._line, command)
            self._read(_ACK_BYTES)
            self._frame()

    def round_trip_us(self) -> float:
        """GetFirmwareVersion to the last byte of its reply."""
        begun = time.monotonic_ns()
        os.write(self._line, _WAKE[10:])
        self._read(_ACK_BYTES)
        self._frame()
        return (time.monotonic_ns() - begun) / 1000

    def search(self) -> None:
        os.write(self._line, _SEARCH)
        self._read(_ACK_BYTES)

    def found(self) -> int:
        """When the last byte of the card's UID was read, in monotonic nanoseconds."""
        self._frame()
        return time.monotonic_ns()

    def close(self) -> None:
        os.close(self._line)

    def _frame(self) -> bytes:
        head = self._read(5)
        return head + self._read(head[3] + 2)

    def _read(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            if not select.select([self._line], [], [], 5)[0]:
                raise TimeoutError("the simulated reader is silent")
            data += os.read(self._line, count - len(data))
        return data


class BareBoard:
    """A relay board spoken to with nothing but a blocking socket."""

    def __init__(self, host: str, port: int) -> None:
        self._socket = socket.create_connection((host, port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._output = 0

    def flash(self) -> tuple[int, int, int]:
        """Energise the next output for 100 ms: its number, and when it was sent and confirmed."""
        self._output = self._output % 8 + 1
        request = bytes((0, 1, 0, 0, 0, 6, 1, 5, 2, self._output - 1, 0, 1))
        begun = time.monotonic_ns()
        self._socket.sendall(request)
        self._socket.recv(64)
        return self._output, begun, time.monotonic_ns()

    def close(self) -> None:
        self._socket.close()


class BareJournal:
    """One row in an SQLite file, durable, on this very thread."""

    def __init__(self, directory: Path) -> None:
        self._database = sqlite3.connect(directory / "floor.db", check_same_thread=False)
        for pragma in ("locking_mode=EXCLUSIVE", "journal_mode=WAL", "synchronous=FULL"):
            self._database.execute(f"PRAGMA {pragma}").fetchall()
        self._database.execute(
            "CREATE TABLE IF NOT EXISTS event (seq INTEGER PRIMARY KEY, body BLOB) STRICT"
        )
        self._database.commit()
        self._body = events.encode(sample_event(SystemClock(floor=None, vouched=lambda: True), 1))

    def commit_us(self) -> float:
        begun = time.monotonic_ns()
        self._database.execute("INSERT INTO event (body) VALUES (?)", (self._body,))
        self._database.commit()
        return (time.monotonic_ns() - begun) / 1000

    def close(self) -> None:
        self._database.close()


@contextlib.contextmanager
def bare_journal(directory: Path) -> Iterator[BareJournal]:
    journal = BareJournal(directory)
    try:
        yield journal
    finally:
        journal.close()


async def wire_floors(stage: Stage, count: int) -> dict[str, list[float]]:
    """Each part of a tap's way by itself, and all of it in one bare thread; in milliseconds."""
    board = (await stage.simulator.devices())["spare-relays"]
    bare_board = BareBoard("127.0.0.1", board["port"])
    reader = await asyncio.to_thread(BareReader, stage.directory / "dev" / "spare-reader")
    found: dict[str, list[float]] = {"pn532 round trip": []}
    with bare_journal(stage.directory) as journal:
        try:
            for _ in range(count):
                found["pn532 round trip"].append(reader.round_trip_us() / 1000)
                await asyncio.sleep(0.005)
            found["commit"] = [await _spaced(journal) for _ in range(count)]
            found |= await _relay(stage, bare_board, count)
            found["card to host"] = []
            found["all in one thread"] = []
            for number in range(count):
                sent, read, edge = await _tap(stage, reader, bare_board, journal, number)
                found["card to host"].append((read - sent) / 1e6)
                found["all in one thread"].append((edge - sent) / 1e6)
        finally:
            reader.close()
            bare_board.close()
    return found


async def _spaced(journal: BareJournal) -> float:
    await asyncio.sleep(0.02)  # as far apart as taps are: a disk that rests answers later
    return await asyncio.to_thread(journal.commit_us) / 1000


async def _relay(stage: Stage, board: BareBoard, count: int) -> dict[str, list[float]]:
    there: list[float] = []
    back: list[float] = []
    for _ in range(count):
        start = len(stage.seen)
        output, begun, confirmed = await asyncio.to_thread(board.flash)
        edge = await _edge(stage, start, output)
        there.append((edge - begun) / 1e6)
        back.append((confirmed - begun) / 1e6)
        await asyncio.sleep(0.02)
    return {"relay write to edge": there, "relay round trip": back}


async def _edge(stage: Stage, start: int, output: int) -> int:
    def ours(what: seen.Seen) -> bool:
        return (
            isinstance(what, seen.Output)
            and what.device == "spare-relays"
            and what.output == output
            and what.on
        )

    return int((await stage.until_seen(start, ours)).at_ns)


async def _tap(
    stage: Stage, reader: BareReader, board: BareBoard, journal: BareJournal, number: int
) -> tuple[int, int, int]:
    """When the card's bytes left, were read, and the output switched."""
    await asyncio.to_thread(reader.search)
    start = len(stage.seen)

    def answer() -> tuple[int, int]:
        read = reader.found()
        journal.commit_us()
        return read, board.flash()[0]

    answered = asyncio.create_task(asyncio.to_thread(answer))
    await asyncio.sleep(0.02)
    await stage.simulator.present("spare-reader", _UID.format(number), hold=0.01)
    read, output = await answered
    sent = await stage.until_seen(
        start, lambda what: isinstance(what, seen.CardSent) and what.reader == "spare-reader"
    )
    return sent.at_ns, read, await _edge(stage, start, output)
